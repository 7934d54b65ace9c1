package media

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"sort"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
)

// Format is the version of the index that this package writes.
const Format = 1

// frameSize is how many bytes of an archive are compressed together. It bounds
// memory, and is what is decompressed to read a small file.
const frameSize = 1 << 20

// maxTable bounds what is read of the table of an archive: it has a few bytes for
// each MiB.
const maxTable = 1 << 30

// Table is what an archive says of itself.
type Table struct {
	Format  int       `json:"format"`
	Schema  string    `json:"schema,omitempty"`
	Tenant  string    `json:"tenant,omitempty"`
	Backup  string    `json:"backup,omitempty"` // id
	Started time.Time `json:"started"`          // of reading the folder
	Counts
	// References are the earlier archives that hold contents of entries.
	References []Reference `json:"references,omitempty"`
	// Frames are those of the tar file; Index those of the index behind it. The
	// three numbers are the offset in the archive, the length, and the length
	// decompressed.
	Frames [][3]int64 `json:"frames"`
	Index  [][3]int64 `json:"index"`
}

// Counts say how much a folder holds.
type Counts struct {
	Files   int64 `json:"files"`   // the names of files, hard links among them
	Folders int64 `json:"folders"` // itself among them
	Links   int64 `json:"links"`   // symbolic
	Bytes   int64 `json:"bytes"`   // of files, holes among them
	Stored  int64 `json:"stored"`  // of these, in the archive itself; before compression, without holes
}

// Reference is an earlier archive.
type Reference struct {
	Key  string `json:"key"`
	Size int64  `json:"size"`
	Hash string `json:"hash"` // of all of it
	// Stored is how many bytes of contents that archive holds.
	Stored int64 `json:"stored"`
}

// Archive is one that is open for reading. It belongs to one goroutine.
type Archive struct {
	Table
	r         io.ReaderAt
	algorithm datafile.Algorithm
	starts    []int64 // of the frames of the tar file, decompressed
	earlier   []*Archive

	frame  int // that is in plain; -1: none
	plain  []byte
	packed []byte
}

// Open opens an archive of size bytes. It reads nothing but its table.
func Open(r io.ReaderAt, size int64) (*Archive, error) {
	algorithm, offset, length, err := datafile.ReadTrailer(r, size)
	if err != nil {
		return nil, err
	}
	if length > maxTable {
		return nil, errors.New("the table of the archive is too long")
	}
	a := &Archive{r: r, algorithm: algorithm, frame: -1}
	packed := make([]byte, length)
	if _, err := r.ReadAt(packed, offset); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read table: %w", err)
	}
	d, err := datafile.Decompress(algorithm, bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("read table: %w", err)
	}
	defer d.Close() //nolint:errcheck // nothing was written
	if err := json.NewDecoder(io.LimitReader(d, 8*maxTable)).Decode(&a.Table); err != nil {
		return nil, fmt.Errorf("read table: %w", err)
	}
	if a.Format != Format {
		return nil, fmt.Errorf("the archive has format %d, which this version does not know", a.Format)
	}
	at, start := int64(0), int64(0)
	for _, list := range [][][3]int64{a.Frames, a.Index} {
		for _, f := range list {
			if f[0] != at || f[1] <= 0 || f[1] > offset-at || f[2] <= 0 || f[2] > 16*frameSize {
				return nil, errors.New("the table of the archive names frames that are not there")
			}
			at += f[1]
		}
	}
	for _, f := range a.Frames {
		a.starts = append(a.starts, start)
		start += f[2]
	}
	if at != offset {
		return nil, errors.New("the table of the archive does not name all frames")
	}
	return a, nil
}

// Refer tells where the earlier archives are, in the order of References. Before,
// only contents of this one can be read.
func (a *Archive) Refer(earlier []*Archive) error {
	if len(earlier) != len(a.References) {
		return fmt.Errorf("the archive refers to %d earlier ones, not %d", len(a.References), len(earlier))
	}
	a.earlier = earlier
	return nil
}

// Entries calls yield for all entries, in the order of Compare. What is no entry
// of an archive of ours, or stands where it cannot, is an error.
func (a *Archive) Entries(ctx context.Context, yield func(Entry) error) error {
	var folders []string // that the entry before is in, itself among them
	files := nameSet{seed: maphash.MakeSeed(), names: map[uint64]struct{}{}}
	var last string
	var packed, plain []byte
	for n, f := range a.Index {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		var err error
		if packed, plain, err = a.unpack(f, packed, plain); err != nil {
			return fmt.Errorf("index frame %d: %w", n, err)
		}
		lines := bufio.NewReader(bytes.NewReader(plain))
		for {
			line, err := lines.ReadBytes('\n')
			if errors.Is(err, io.EOF) && len(line) == 0 {
				break
			}
			if err != nil {
				return fmt.Errorf("index frame %d: %w", n, err)
			}
			e, err := parseEntry(line)
			if err != nil {
				return fmt.Errorf("index: %w", err)
			}
			if last == "" && e.Name != Top || last != "" && Compare(last, e.Name) >= 0 {
				return fmt.Errorf("index: entry %q does not stand where it belongs", e.Name)
			}
			for len(folders) > 0 && folders[len(folders)-1] != parent(e.Name) {
				folders = folders[:len(folders)-1]
			}
			if len(folders) == 0 && e.Name != Top {
				return fmt.Errorf("index: entry %q is in no folder", e.Name)
			}
			switch e.Kind {
			case KindFolder:
				folders = append(folders, e.Name)
			case KindFile:
				files.add(e.Name)
			case KindHard:
				// Another name of a symbolic link would lead elsewhere than the link.
				if !files.has(e.Link) {
					return fmt.Errorf("index: entry %q is to be another name of %q, which is no file", e.Name, e.Link)
				}
			}
			if e.Archive > len(a.References) {
				return fmt.Errorf("index: entry %q is in archive %d, which is not named", e.Name, e.Archive)
			}
			last = e.Name
			if err := yield(e); err != nil {
				return err
			}
		}
	}
	if last == "" {
		return errors.New("the index of the archive is empty")
	}
	return nil
}

// nameSet is a set of names of which only hashes are held, with a seed that nobody
// can foresee.
type nameSet struct {
	seed  maphash.Seed
	names map[uint64]struct{}
}

func (s *nameSet) add(name string) { s.names[maphash.String(s.seed, name)] = struct{}{} }

func (s *nameSet) has(name string) bool {
	_, ok := s.names[maphash.String(s.seed, name)]
	return ok
}

func (a *Archive) unpack(f [3]int64, packed, plain []byte) ([]byte, []byte, error) {
	if int64(cap(packed)) < f[1] {
		packed = make([]byte, f[1])
	}
	packed = packed[:f[1]]
	if n, err := a.r.ReadAt(packed, f[0]); n < len(packed) {
		return packed, plain, fmt.Errorf("read: %w", err)
	}
	plain, err := datafile.Unpack(a.algorithm, packed, f[2], plain)
	return packed, plain, err
}

// Read writes the contents of a file to w, without holes.
func (a *Archive) Read(ctx context.Context, e *Entry, w io.Writer) error {
	from := a
	if e.Archive > 0 {
		if e.Archive > len(a.earlier) {
			return fmt.Errorf("archive %s is not open", a.References[e.Archive-1].Key)
		}
		from = a.earlier[e.Archive-1]
	}
	at, left := e.At, e.Stored()
	for left > 0 {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		n := sort.Search(len(from.starts), func(i int) bool { return from.starts[i] > at }) - 1
		if n < 0 {
			return errors.New("its contents are not in the archive")
		}
		if from.frame != n {
			from.frame = -1
			var err error
			if from.packed, from.plain, err = from.unpack(from.Frames[n], from.packed, from.plain); err != nil {
				return fmt.Errorf("frame %d: %w", n, err)
			}
			from.frame = n
		}
		begin := at - from.starts[n]
		if begin >= int64(len(from.plain)) {
			return errors.New("its contents are not in the archive")
		}
		piece := from.plain[begin:min(begin+left, int64(len(from.plain)))]
		if _, err := w.Write(piece); err != nil {
			return err
		}
		at, left = at+int64(len(piece)), left-int64(len(piece))
	}
	return nil
}
