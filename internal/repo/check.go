package repo

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"runtime"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// hashPrefix begins the hashes in a manifest.
const hashPrefix = "sha256:"

// pieceSize is how many bytes of a file are read at once to be hashed.
const pieceSize = 1 << 20

// Checker compares data files with what their manifests say. It hashes as many
// pieces at once as it was made for, be they of one file or of many: its methods
// may be called from several goroutines.
//
// The manifest has the hash of a file's index, and that those of the frames. The
// frames lie one behind the other from the first byte to the index, or the index is
// refused, so that together they prove as much as a hash of the whole file.
type Checker struct{ slots *semaphore.Weighted }

// NewChecker makes a checker that hashes so many pieces at once.
func NewChecker(pieces int) *Checker { return &Checker{semaphore.NewWeighted(int64(pieces))} }

// Index compares an opened data file with the entry of its manifest as far as it
// must be before its index can be believed. That is index and trailer where the
// entry has their hash: then Own is to follow. Else it is the whole file, and of one
// without any hash the size. What is wrong with it is a *DataError. progress, which
// may be nil, is told the bytes of each piece that was read.
func (c *Checker) Index(ctx context.Context, o storage.Object, m *manifest.Manifest, s manifest.Schema, progress func(n int64)) error {
	want, err := s.Digest(m.Format)
	if err != nil {
		return fmt.Errorf("schema %q: %w", s.Schema, err)
	}
	wrong, index, err := ofEntry(m, s)
	if err != nil {
		return err
	}
	if err := c.slots.Acquire(ctx, 1); err != nil {
		return context.Cause(ctx)
	}
	defer c.slots.Release(1)
	if index == "" || o.Size() != s.Size {
		return checkHash(ctx, o, s.Size, want, wrong, progress)
	}
	_, from, _, err := datafile.ReadTrailer(o, s.Size)
	if err != nil { // the whole file tells what became of it
		wrong.Err = err
		return cmp.Or(checkHash(ctx, o, s.Size, want, wrong, progress), error(&wrong))
	}
	got, at, err := hashRange(ctx, o, from, s.Size, progress)
	if err != nil {
		return unread(ctx, wrong, at, s.Size, err)
	}
	if got != index {
		wrong.Err, wrong.Got, wrong.Want = ErrHash, "sha256 of its index "+got, index
		return &wrong
	}
	return nil
}

// Own compares the frames in a data file itself with its index, which Index has
// found to be right. Where the entry has no hash of the index there is nothing left
// to do. What is wrong is a *DataError, progress as for Index.
func (c *Checker) Own(ctx context.Context, f *datafile.File, m *manifest.Manifest, s manifest.Schema, progress func(n int64)) error {
	wrong, index, err := ofEntry(m, s)
	if err != nil || index == "" {
		return err
	}
	return c.frames(ctx, f, func(frame datafile.Frame) (DataError, bool) { return wrong, frame.File == 0 }, progress)
}

// Referred compares the frames in files of earlier backups with the index of the
// file that refers to them, and has been told where they are. What is wrong is a
// *DataError.
func (c *Checker) Referred(ctx context.Context, f *datafile.File) error {
	return c.frames(ctx, f, func(frame datafile.Frame) (DataError, bool) {
		if frame.File == 0 {
			return DataError{}, false
		}
		return DataError{Key: f.Index.Header.Files[frame.File-1].Key}, true
	}, nil)
}

// frames compares those frames with the index that where finds the file of.
func (c *Checker) frames(ctx context.Context, f *datafile.File, where func(datafile.Frame) (DataError, bool), progress func(n int64)) error {
	group, groupCtx := errgroup.WithContext(ctx)
	for i, frame := range f.Index.Frames {
		wrong, ok := where(frame)
		if !ok {
			continue
		}
		if c.slots.Acquire(groupCtx, 1) != nil {
			break // group or ctx says why
		}
		group.Go(func() error {
			defer c.slots.Release(1)
			err := f.CheckFrame(i)
			switch {
			case errors.Is(err, datafile.ErrChanged):
				wrong.Err = fmt.Errorf("%w: %w", ErrHash, err)
			case errors.Is(err, io.ErrUnexpectedEOF):
				wrong.Err = fmt.Errorf("%w: %w", ErrSize, err)
			case err != nil:
				wrong.Err = err
			default:
				if progress != nil {
					progress(frame.Length)
				}
				return nil
			}
			return &wrong
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// ofEntry is what errors say of the data file of an entry, and the hash of its
// index; empty: the entry has none.
func ofEntry(m *manifest.Manifest, s manifest.Schema) (wrong DataError, index string, err error) {
	key, err := s.Key(m.Format)
	if err == nil {
		index, err = s.IndexDigest(m.Format)
	}
	if err != nil {
		return wrong, "", fmt.Errorf("schema %q: %w", s.Schema, err)
	}
	return DataError{Schema: s.Schema, Tenant: s.Tenant, Key: key}, index, nil
}

// CheckData opens the data file of an entry, reads all of it, compares it with the
// entry, and closes it. What is wrong with it is a *DataError. Of the earlier files
// that it refers to it reads nothing. progress as for Checker.Index.
func (r *Repo) CheckData(ctx context.Context, m *manifest.Manifest, s manifest.Schema, progress func(n int64)) error {
	o, err := r.OpenData(ctx, m, s)
	if err != nil {
		return err
	}
	return errors.Join(NewChecker(runtime.NumCPU()).data(ctx, o, m, s, progress), o.Close())
}

func (c *Checker) data(ctx context.Context, o storage.Object, m *manifest.Manifest, s manifest.Schema, progress func(n int64)) error {
	if err := c.Index(ctx, o, m, s, progress); err != nil {
		return err
	}
	wrong, index, err := ofEntry(m, s)
	if err != nil || index == "" {
		return err
	}
	f, err := datafile.Open(o, s.Size)
	if err != nil {
		wrong.Err = err
		return &wrong
	}
	return c.Own(ctx, f, m, s, progress)
}

// checkHash reads an opened file from its beginning to its end and compares it with
// its size and, unless that is empty, its hash.
func checkHash(ctx context.Context, o storage.Object, size int64, want string, wrong DataError, progress func(n int64)) error {
	if o.Size() != size {
		wrong.Err, wrong.Got, wrong.Want = ErrSize, fmt.Sprintf("%d bytes", o.Size()), fmt.Sprint(size)
		return &wrong
	}
	got, at, err := hashRange(ctx, o, 0, size, progress)
	if err != nil {
		return unread(ctx, wrong, at, size, err)
	}
	if want != "" && got != want {
		wrong.Err, wrong.Got, wrong.Want = ErrHash, "sha256 "+got, want
		return &wrong
	}
	return nil
}

// unread says why a file of that size could not be read on from byte at.
func unread(ctx context.Context, wrong DataError, at, size int64, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, io.EOF):
		wrong.Err, wrong.Got, wrong.Want = ErrSize, fmt.Sprintf("%d bytes", at), fmt.Sprint(size)
	default:
		wrong.Err = fmt.Errorf("read at byte %d: %w", at, err)
	}
	return &wrong
}

// hashRange reads a part of a file, and returns its SHA-256 and the place that it
// got to. A file that ends before is io.EOF.
func hashRange(ctx context.Context, r io.ReaderAt, from, to int64, progress func(n int64)) (digest string, at int64, err error) {
	h := sha256.New()
	piece := make([]byte, min(to-from, pieceSize))
	for at = from; at < to; {
		if err := context.Cause(ctx); err != nil {
			return "", at, err
		}
		piece = piece[:min(int64(len(piece)), to-at)]
		n, err := r.ReadAt(piece, at)
		h.Write(piece[:n])
		at += int64(n)
		if progress != nil {
			progress(int64(n))
		}
		if n < len(piece) {
			return "", at, err
		}
	}
	return hex.EncodeToString(h.Sum(nil)), at, nil
}
