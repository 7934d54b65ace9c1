package verify

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sync/errgroup"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/media"
	"github.com/tenantkeep/tenantkeep/internal/repo"
)

// media verifies the media archives.
func (r *run) media(ctx context.Context) error {
	archives, size := r.archives()
	r.report.Archives, r.report.MediaBytes = len(archives), size
	if len(archives) == 0 {
		return nil
	}
	r.Progress.Start("verify media", len(archives), size)
	defer r.Progress.Finish()
	known := map[string]bool{}
	for _, f := range archives {
		known[f.key] = true
	}
	judge := func(f *file, errs []error) {
		for _, h := range f.holders {
			r.found(f.key, h, errs)
		}
		r.done(f, errs)
	}
	var mu sync.Mutex
	damaged := map[string]bool{}
	var refer []*file // that are whole themselves
	err := r.each(ctx, archives, func(ctx context.Context, f *file) {
		errs := r.archive(ctx, f, known)
		mu.Lock()
		defer mu.Unlock()
		damaged[f.key] = len(errs) > 0
		if m := f.holders[0].entry.Media; len(errs) == 0 && m != nil && len(m.References) > 0 {
			refer = append(refer, f)
		} else if ctx.Err() == nil {
			judge(f, errs)
		}
	})
	if err != nil {
		return err
	}
	// What is damaged in an archive concerns those that refer to just that in it.
	return r.each(ctx, refer, func(ctx context.Context, f *file) {
		var errs []error
		if slices.ContainsFunc(f.holders[0].entry.Media.References, func(key string) bool { return damaged[key] }) {
			errs = r.referred(ctx, f, damaged)
		}
		if ctx.Err() == nil {
			judge(f, errs)
		}
	})
}

// each does something with all archives, several at once.
func (r *run) each(ctx context.Context, archives []*file, do func(context.Context, *file)) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(r.Jobs)
	for _, f := range archives {
		group.Go(func() error {
			do(ctx, f)
			return context.Cause(ctx)
		})
	}
	return group.Wait()
}

// referred reads those files of an archive again that are in damaged ones.
func (r *run) referred(ctx context.Context, f *file, damaged map[string]bool) []error {
	h := f.holders[0]
	archive, err := media.OpenStored(ctx, r.Repo, h.backup.Manifest, h.entry)
	if err != nil {
		return []error{err}
	}
	defer archive.Close() //nolint:errcheck // it was only read
	_, errs := r.members(ctx, archive, func(key string) bool { return damaged[key] })
	return errs
}

// archives lists the media archives, the largest first, and their size.
func (r *run) archives() (list []*file, size int64) {
	byKey := map[string]*file{}
	for order, b := range r.Backups {
		if b.Err != nil {
			continue
		}
		for _, e := range b.Manifest.Schemas {
			if e.MediaBackup == "" || len(r.Schemas) > 0 && !slices.Contains(r.Schemas, e.Schema) && !slices.Contains(r.Schemas, e.Tenant) {
				continue
			}
			h := holder{b, order, e}
			key, err := e.MediaKey(b.Manifest.Format)
			if err != nil {
				r.found(e.MediaBackup, h, []error{err})
				continue
			}
			f := byKey[key]
			if f == nil {
				f = &file{key: key}
				byKey[key] = f
				list = append(list, f)
				size += f.mediaSize(h)
			}
			f.holders = append(f.holders, h)
		}
	}
	slices.SortStableFunc(list, func(a, b *file) int { return cmp.Compare(b.mediaSize(b.holders[0]), a.mediaSize(a.holders[0])) })
	return list, size
}

// decompress reads an archive of the original system to its end. A folder in its
// place holds files as they are.
func (r *run) decompress(ctx context.Context, m *manifest.Manifest, e manifest.Schema) error {
	object, err := r.Repo.OpenMedia(ctx, m, e)
	if errors.Is(err, repo.ErrMissing) {
		return nil
	}
	if err != nil {
		return err
	}
	defer object.Close() //nolint:errcheck // it was only read
	in := io.NewSectionReader(object, 0, object.Size())
	head := make([]byte, 2)
	if _, err := in.ReadAt(head, 0); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read: %w", err)
	}
	if datafile.Detect(head) != datafile.Gzip {
		return nil
	}
	d, err := gzip.NewReader(&cancelled{ctx, in})
	if err == nil {
		_, err = io.Copy(io.Discard, d)
	}
	if err != nil {
		return fmt.Errorf("it cannot be decompressed: %w", err)
	}
	return nil
}

// mediaSize is what a manifest says of the size of an archive; 0: nothing.
func (f *file) mediaSize(h holder) int64 {
	if h.entry.Media == nil {
		return 0
	}
	return h.entry.Media.Size
}

// archive checks one archive and returns what is wrong with it. known are those
// that are checked themselves.
func (r *run) archive(ctx context.Context, f *file, known map[string]bool) (errs []error) {
	h := f.holders[0]
	m, e := h.backup.Manifest, h.entry
	if e.Media == nil { // of the original system: nothing says what is in it
		if err := r.Repo.CheckMedia(ctx, m, e); err != nil {
			return []error{err}
		}
		if err := r.decompress(ctx, m, e); err != nil {
			return []error{err}
		}
		return nil
	}
	for _, other := range f.holders[1:] {
		if o := other.entry.Media; o == nil || o.Size != e.Media.Size || o.Hash != e.Media.Hash {
			errs = append(errs, fmt.Errorf("backups %s and %s have other sizes or hashes of it", h.backup.ID, other.backup.ID))
		}
	}
	object, err := r.Repo.OpenMedia(ctx, m, e)
	if err != nil {
		return append(errs, err)
	}
	err = repo.CheckMediaHash(ctx, object, m, e, func(n int64) { r.Progress.Add(n, 0) })
	if err := errors.Join(err, object.Close()); err != nil {
		errs = append(errs, err)
	}
	archive, err := media.OpenStored(ctx, r.Repo, m, e)
	if err != nil {
		return append(errs, err)
	}
	defer archive.Close() //nolint:errcheck // it was only read
	refers := make([]string, 0, len(archive.References))
	for _, ref := range archive.References {
		refers = append(refers, ref.Key)
	}
	if !slices.Equal(refers, e.Media.References) {
		errs = append(errs, fmt.Errorf("it refers to the archives %q, the manifest says %q", refers, e.Media.References))
	}
	if archive.Files != e.Media.Files || archive.Bytes != e.Media.Bytes {
		errs = append(errs, fmt.Errorf("it lists %d files of %d bytes, the manifest says %d of %d", archive.Files, archive.Bytes, e.Media.Files, e.Media.Bytes))
	}
	read, wrong := r.members(ctx, archive, func(key string) bool { return !known[key] })
	r.mu.Lock()
	defer r.mu.Unlock()
	r.report.MediaFiles += read
	return append(errs, wrong...)
}

// members reads the contents of the files that an archive lists and that are in
// those archives which reads names; the archive itself has no name.
func (r *run) members(ctx context.Context, archive *media.Stored, reads func(key string) bool) (read int64, errs []error) {
	if _, err := archive.Check(ctx, media.PutOptions{LeaveOutLinks: true}); err != nil {
		return 0, []error{err}
	}
	err := archive.Entries(ctx, func(e media.Entry) error {
		key := ""
		if e.Archive > 0 {
			key = archive.References[e.Archive-1].Key
		}
		if e.Kind != media.KindFile || !reads(key) {
			return nil
		}
		digest := sha256.New()
		err := archive.Read(ctx, &e, digest)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if got := hex.EncodeToString(digest.Sum(nil)); err == nil && got != e.Hash {
			err = fmt.Errorf("it has the SHA-256 %s, the index says %s", got, e.Hash)
		}
		if err != nil {
			if key != "" {
				err = fmt.Errorf("in %s: %w", key, err)
			}
			errs = append(errs, fmt.Errorf("file %q: %w", e.Name, err))
			if len(errs) > maxProblems {
				return io.EOF
			}
		}
		read++
		return nil
	})
	if err != nil && !errors.Is(err, io.EOF) {
		errs = append(errs, err)
	}
	return read, errs
}
