package verify

import (
	"context"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"maps"
	"runtime"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// SampleOptions say what of the files to read.
type SampleOptions struct {
	Repo    *repo.Repo
	Backups []repo.Backup
	Sizes   map[string]int64 // of the files that are there, by key
	Limit   int64            // bytes to read, about; less than 0: all files are read
	From    Rotation         // how far the runs before have got
	Now     time.Time
	Jobs    int // files that are read at once where all are; 0: the number of cores
	// Progress is told of what is read where all files are; nil: nobody waits.
	Progress Progress
}

// Sampled is what was found in the files.
type Sampled struct {
	Rotation Rotation        // for the next run
	Good     map[string]bool // files that were read to their end and are as they were written
	Problems []Problem       // all that is known, also of earlier runs
	Files    int             // that manifests name
	Bytes    int64           // of these
	Read     int64           // bytes
	Done     float64         // of the round, from 0 to 1
}

// sampler is one run.
type sampler struct {
	SampleOptions
	mu  sync.Mutex
	out Sampled
}

// named is a file as a manifest names it.
type named struct {
	key   string
	size  int64
	media bool
	holder
}

// Sample reads the next files, in the order of their names, and compares them with
// the hashes in the manifests. It goes on where the run before has ended, in the
// middle of a file too, so that every file is read in time however large it is, and
// after the last one begins anew. Files that are missing or have another size are
// not its business.
func Sample(ctx context.Context, o SampleOptions) (*Sampled, error) {
	if o.Jobs <= 0 {
		o.Jobs = runtime.NumCPU()
	}
	s := &sampler{SampleOptions: o, out: Sampled{Rotation: o.From, Good: map[string]bool{}}}
	s.out.Rotation.Bad = maps.Clone(o.From.Bad)
	if s.out.Rotation.Bad == nil {
		s.out.Rotation.Bad = map[string]string{}
	}
	if s.out.Rotation.Began.IsZero() {
		s.out.Rotation.Began = o.Now
	}
	files := s.names()
	for key := range s.out.Rotation.Bad {
		if _, found := findFile(files, key); !found {
			delete(s.out.Rotation.Bad, key) // nothing needs it any more
		}
	}
	err := s.readBad(ctx, files)
	if err == nil {
		if o.Limit < 0 {
			err = s.all(ctx, files)
		} else {
			err = s.next(ctx, files)
		}
	}
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		if what, bad := s.out.Rotation.Bad[f.key]; bad {
			s.out.Problems = append(s.out.Problems, Problem{Backup: f.backup.ID, Schema: f.entry.Schema, Tenant: f.entry.Tenant, File: f.key, Error: what})
		}
	}
	return &s.out, nil
}

// names lists the files that manifests name with a hash and that are there, by
// name, each with the newest backup that names it.
func (s *sampler) names() []named {
	seen := make(map[string]bool, len(s.Sizes))
	var files []named
	var last []string // data files of the backup before: most are named again
	for order, b := range s.Backups {
		if b.Manifest == nil {
			continue
		}
		for n := range b.Manifest.Schemas {
			e := &b.Manifest.Schemas[n]
			if e.Media == nil && n < len(last) && last[n] == e.Filepath {
				continue
			}
			for len(last) <= n {
				last = append(last, "")
			}
			last[n] = e.Filepath
			h := holder{b, order, *e}
			if key, err := e.Key(b.Manifest.Format); err == nil && e.Filepath != "" && e.Hash != "" {
				s.name(&files, seen, named{key, e.Size, false, h})
			}
			if key, err := e.MediaKey(b.Manifest.Format); err == nil && e.Media != nil && e.Media.Hash != "" {
				s.name(&files, seen, named{key, e.Media.Size, true, h})
			}
		}
	}
	slices.SortFunc(files, func(a, b named) int { return strings.Compare(a.key, b.key) })
	s.out.Files = len(files)
	return files
}

func (s *sampler) name(files *[]named, seen map[string]bool, f named) {
	if size, there := s.Sizes[f.key]; seen[f.key] || !there || size != f.size {
		return
	}
	seen[f.key] = true
	*files = append(*files, f)
	s.out.Bytes += f.size
}

func findFile(files []named, key string) (int, bool) {
	return sort.Find(len(files), func(i int) int { return strings.Compare(key, files[i].key) })
}

// readBad reads those again that were bad before: they may have been mended. Larger
// ones wait for their turn.
func (s *sampler) readBad(ctx context.Context, files []named) error {
	if s.Limit < 0 {
		return nil
	}
	for key := range maps.Clone(s.out.Rotation.Bad) {
		i, _ := findFile(files, key)
		if files[i].size > s.Limit {
			continue
		}
		if err := s.whole(ctx, files[i]); err != nil {
			return err
		}
	}
	return nil
}

// all reads every file; the round begins anew.
func (s *sampler) all(ctx context.Context, files []named) error {
	if s.Progress != nil && len(files) > 0 {
		s.Progress.Start("verify", len(files), s.out.Bytes)
		defer s.Progress.Finish()
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(s.Jobs)
	for _, f := range files {
		group.Go(func() error {
			err := s.whole(ctx, f)
			s.tell(f)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	s.out.Done = 1
	s.endRound()
	return nil
}

// tell says that a file was read.
func (s *sampler) tell(f named) {
	if s.Progress == nil {
		return
	}
	s.mu.Lock()
	what, bad := s.out.Rotation.Bad[f.key]
	s.mu.Unlock()
	var err error
	if bad {
		err = errors.New(f.key + ": " + what)
	}
	s.Progress.TenantDone(f.entry.Tenant, err)
}

func (s *sampler) endRound() {
	r := &s.out.Rotation
	r.Next, r.Offset, r.Hash, r.Want = "", 0, nil, ""
	r.Began, r.Ended = s.Now, s.Now
}

// next reads on from where the run before has ended.
func (s *sampler) next(ctx context.Context, files []named) error {
	r := &s.out.Rotation
	start, _ := findFile(files, r.Next)
	left := s.Limit
	i := start
	for ; i < len(files) && left > 0; i++ {
		f := files[i]
		if f.key != r.Next {
			r.Next, r.Offset, r.Hash, r.Want = f.key, 0, nil, ""
		}
		read, done, err := s.read(ctx, f, left)
		left -= read
		if err != nil {
			return err
		}
		if !done {
			break
		}
	}
	switch {
	case i >= len(files):
		s.out.Done = 1
		s.endRound()
	case files[i].key != r.Next:
		r.Next, r.Offset, r.Hash, r.Want = files[i].key, 0, nil, ""
		fallthrough
	default:
		var before int64
		for _, f := range files[:i] {
			before += f.size
		}
		s.out.Done = float64(before+r.Offset) / float64(max(1, s.out.Bytes))
	}
	return nil
}

// whole reads a file from its beginning to its end.
func (s *sampler) whole(ctx context.Context, f named) error {
	h := sha256.New()
	n, err := s.hash(ctx, f, h, 0, f.size)
	return s.judge(ctx, f, h, n, err)
}

// judge notes whether a file that was read is as it was written.
func (s *sampler) judge(ctx context.Context, f named, h hash.Hash, n int64, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out.Read += n
	want, errWant := f.digest()
	got := hex.EncodeToString(h.Sum(nil))
	wrong, known := errors.AsType[*repo.DataError](err)
	switch {
	case known && errors.Is(err, repo.ErrMissing): // it was removed meanwhile
		delete(s.out.Rotation.Bad, f.key)
	case known:
		s.out.Rotation.Bad[f.key] = wrong.What()
	case err != nil:
		s.out.Rotation.Bad[f.key] = err.Error()
	case errWant == nil && want != "" && got != want:
		s.out.Rotation.Bad[f.key] = fmt.Sprintf("%v (sha256 %s, the manifest says %s)", repo.ErrHash, got, want)
	default:
		delete(s.out.Rotation.Bad, f.key)
		s.out.Good[f.key] = true
	}
	return nil
}

func (f named) digest() (string, error) {
	if f.media {
		return f.entry.Media.Digest(f.backup.Manifest.Format)
	}
	return f.entry.Digest(f.backup.Manifest.Format)
}

// read reads a file on, at most so many bytes of it, and reports how many it was and
// whether the file is done.
func (s *sampler) read(ctx context.Context, f named, limit int64) (read int64, done bool, err error) {
	r := &s.out.Rotation
	want, err := f.digest()
	h := sha256.New()
	if err != nil || r.Want != want || r.Offset > f.size || !resume(h, r.Hash) {
		r.Offset = 0
		h = sha256.New()
	}
	n := min(limit, f.size-r.Offset)
	read, err = s.hash(ctx, f, h, r.Offset, n)
	if err != nil || r.Offset+read >= f.size {
		return read, true, s.judge(ctx, f, h, read, err)
	}
	s.out.Read += read
	r.Offset += read
	r.Want = want
	r.Hash, err = h.(encoding.BinaryMarshaler).MarshalBinary()
	return read, false, err
}

// resume continues a hash; false: there is nothing to continue.
func resume(h hash.Hash, state []byte) bool {
	return len(state) > 0 && h.(encoding.BinaryUnmarshaler).UnmarshalBinary(state) == nil
}

// samplePiece is how much is read at once.
const samplePiece = 1 << 20

// hash adds length bytes of a file, from offset on, to a hash.
func (s *sampler) hash(ctx context.Context, f named, h hash.Hash, offset, length int64) (read int64, err error) {
	object, err := s.open(ctx, f)
	if err != nil {
		return 0, err
	}
	defer object.Close() //nolint:errcheck // it was only read
	piece := make([]byte, min(length, samplePiece))
	for read < length {
		if err := ctx.Err(); err != nil {
			return read, err
		}
		want := min(int64(len(piece)), length-read)
		n, err := object.ReadAt(piece[:want], offset+read)
		h.Write(piece[:n])
		read += int64(n)
		if s.Progress != nil {
			s.Progress.Add(int64(n), 0)
		}
		if int64(n) < want {
			return read, fmt.Errorf("read at byte %d: %w", offset+read, err)
		}
	}
	return read, nil
}

func (s *sampler) open(ctx context.Context, f named) (storage.Object, error) {
	m := f.backup.Manifest
	if f.media {
		return s.Repo.OpenMedia(ctx, m, f.entry)
	}
	return s.Repo.OpenData(ctx, m, f.entry)
}
