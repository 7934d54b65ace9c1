package media

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
)

const (
	// smallFile is up to how many bytes a file is read before anything of it is
	// written, so that it can be read again when it changed meanwhile.
	smallFile = 256 << 10
	// readAttempts is how often a file is read that keeps changing.
	readAttempts = 3
	// settled is how long ago a file must have been written to for its times to
	// tell that it was not since: file systems count in ticks of up to two seconds.
	settled = 3 * time.Second
	// rereadEnough is how many bytes that turn out to be the same are worth an
	// archive that says so, so that the next backup need not read them again.
	rereadEnough = 64 << 20
	// indexInMemory is how much of an index is held in memory.
	indexInMemory = 8 << 20
	// mostWaiting is how much of an archive waits in memory until it is known that
	// there will be one.
	mostWaiting = 8 << 20
)

// SaveOptions say how to save a folder.
type SaveOptions struct {
	Compression            datafile.Compression
	Schema, Tenant, Backup string // for the table
	// Parent is an earlier archive of the folder. Files that did not change since
	// are not stored. Nil: all are.
	Parent *Parent
	// MaxReferences is how many earlier archives the new one may need at most; 0:
	// any number.
	MaxReferences int
	Progress      Progress
	Now           func() time.Time // nil: time.Now
}

// Parent is an earlier archive and what it is called.
type Parent struct {
	*Archive
	Self Reference
}

// Saved is what Save did.
type Saved struct {
	Table
	// Unchanged says that everything is as the parent has it. Nothing was written.
	Unchanged bool
	Failures  Problems // what could not be saved
	Warnings  Problems // what was saved, but is worth knowing
}

// saver writes one archive.
type saver struct {
	SaveOptions
	Saved
	tree    Tree
	out     *output
	twins   *twins
	retired map[int]bool   // references of the parent that are given up
	numbers map[int]int    // of the parent's references, here
	first   map[string]int // names of files with several names, by what is the same
	names   []Entry        // of these, see first
	reread  int64          // bytes that were read and turned out to be the same
	changed bool           // something is not as the parent has it
	buffer  []byte
}

// Save writes the archive of a folder. create makes the file that it is written
// to; where nothing changed since the parent it is not called, or the file is not
// to be kept. What cannot be read of the folder is in the
// result; the error says that no archive could be made.
func Save(ctx context.Context, tree Tree, create func() (io.Writer, error), o SaveOptions) (_ *Saved, err error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &saver{SaveOptions: o, tree: tree, numbers: map[int]int{}, first: map[string]int{}, buffer: make([]byte, smallFile)}
	s.Table = Table{Format: Format, Schema: o.Schema, Tenant: o.Tenant, Backup: o.Backup, Started: o.Now().UTC()}
	if s.out, err = newOutput(create, o.Compression, func() bool { return s.changed }); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.out.close()) }()
	if o.Parent != nil {
		if s.retired, err = o.Parent.retire(ctx, o.MaxReferences); err != nil {
			return nil, err
		}
		s.twins = newTwins(ctx, o.Parent.Archive)
		defer s.twins.stop()
	}
	if err := tree.List(ctx, func(e Entry, err error) error { return s.entry(ctx, e, err) }); err != nil {
		return nil, err
	}
	gone, err := s.twins.rest()
	if err != nil {
		return nil, err
	}
	if o.Parent != nil && !s.changed && !gone && s.reread < rereadEnough && s.Failures.Count == 0 {
		s.Unchanged = true
		return &s.Saved, nil
	}
	return &s.Saved, s.out.finish(&s.Table)
}

// retire chooses the references that the next archive shall not have any more:
// those of which less than half is still in use, and of the others the ones that
// hold least, if there are too many. What is in use of them is stored again, so
// that they can go.
func (p *Parent) retire(ctx context.Context, most int) (map[int]bool, error) {
	live := make([]int64, len(p.References)+1)
	err := p.Entries(ctx, func(e Entry) error {
		if e.Kind == KindFile {
			live[e.Archive] += e.Stored()
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	retired := map[int]bool{}
	var kept []int
	for n := range live {
		ref := p.reference(n)
		if live[n]*2 < ref.Stored {
			retired[n] = true
		} else if live[n] > 0 {
			kept = append(kept, n)
		}
	}
	slices.SortFunc(kept, func(a, b int) int { return cmp.Compare(live[a], live[b]) })
	for ; most > 0 && len(kept) > most; kept = kept[1:] {
		retired[kept[0]] = true
	}
	return retired, nil
}

// reference is the n-th of the parent, itself the 0th.
func (p *Parent) reference(n int) Reference {
	if n == 0 {
		return p.Self
	}
	return p.References[n-1]
}

// entry saves one entry.
func (s *saver) entry(ctx context.Context, e Entry, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		return s.failed(e.Name, err)
	}
	twin, err := s.twins.find(e.Name)
	if err != nil {
		return err
	}
	switch e.Kind {
	case KindFolder, KindLink:
		if e.LeadsOut() {
			s.Warnings.add(e.Name, fmt.Sprintf("is a link that leads out of the folder, to %q: a restore refuses it, or leaves it out", e.Link))
		}
		if err := s.member(&e, twin); err != nil {
			return err
		}
	case KindFile:
		ok, err := s.file(ctx, &e, twin)
		if err != nil || !ok {
			return err
		}
	default:
		s.changed = s.changed || twin != nil
		s.Warnings.add(e.Name, "is "+e.What+", which is not saved")
		return nil
	}
	s.count(&e)
	return s.out.list(&e)
}

// member writes what has no contents of its own. Each archive has all of it: nobody
// would know which earlier one must stay for the sake of a link.
func (s *saver) member(e, twin *Entry) error {
	if twin == nil || !twin.like(e) || twin.Size != e.Size {
		s.changed = true
	}
	return s.out.member(e)
}

func (s *saver) count(e *Entry) {
	switch e.Kind {
	case KindFolder:
		s.Folders++
	case KindLink:
		s.Links++
	default:
		s.Files++
		s.Bytes += e.Size
	}
}

// failed notes what cannot be saved. A folder that cannot be read at all ends it.
func (s *saver) failed(name string, err error) error {
	switch {
	case name == Top:
		return err
	case errors.Is(err, fs.ErrNotExist):
		s.changed = true
		s.Warnings.add(name, "vanished while it was being read")
	case errors.Is(err, fs.ErrPermission):
		s.Failures.add(name, "may not be read")
	default:
		s.Failures.add(name, "cannot be read: "+cause(err).Error())
	}
	return nil
}

// cause is an error without the name of the file.
func cause(err error) error {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err
	}
	return err
}

// like reports whether an entry looks as it did, whatever it holds.
func (e *Entry) like(o *Entry) bool {
	same := e.Kind == o.Kind && e.Mode == o.Mode && e.UID == o.UID && e.GID == o.GID && e.User == o.User && e.Group == o.Group &&
		e.Link == o.Link && len(e.Attributes) == len(o.Attributes) && e.Time.Equal(o.Time)
	for key, v := range e.Attributes {
		if w, ok := o.Attributes[key]; !ok || v != w {
			return false
		}
	}
	return same
}

// file saves a file, unless it is known already; false: it could not be saved.
func (s *saver) file(ctx context.Context, e, twin *Entry) (bool, error) {
	if n, known := s.first[e.Same]; known && e.Same != "" && s.names[n].Version == e.Version {
		first := s.names[n]
		e.Kind, e.Link = KindHard, first.Name
		return true, s.member(e, twin)
	}
	if twin != nil && (twin.Kind != KindFile || s.retired[twin.Archive]) {
		twin = nil
	}
	if twin != nil && twin.Size == e.Size && twin.Version == e.Version && !twin.Unsure && e.Version != "" {
		if !twin.like(e) {
			s.changed = true
		}
		s.refer(e, twin)
		s.Progress.add(e.Size)
	} else if ok, err := s.read(ctx, e, twin); err != nil || !ok {
		return false, err
	}
	if e.Same != "" {
		s.first[e.Same] = len(s.names)
		s.names = append(s.names, Entry{Name: e.Name, Version: e.Version})
	}
	return true, nil
}

// refer takes the contents of an entry from where the parent has them.
func (s *saver) refer(e, twin *Entry) {
	e.Hash, e.Extents, e.At = twin.Hash, twin.Extents, twin.At
	n, known := s.numbers[twin.Archive]
	if !known {
		s.References = append(s.References, s.Parent.reference(twin.Archive))
		n = len(s.References)
		s.numbers[twin.Archive] = n
	}
	e.Archive = n
}

// read reads a file, again where it changed meanwhile, and stores it unless the
// parent has the same contents; false: it could not be read.
func (s *saver) read(ctx context.Context, e, twin *Entry) (bool, error) {
	for attempt := 1; ; attempt++ {
		whole, err := s.readOnce(ctx, e, twin)
		switch {
		case ctx.Err() != nil:
			return false, context.Cause(ctx)
		case IsWriting(err):
			return false, err
		case errors.Is(err, errReplaced) && attempt < readAttempts:
		case err != nil:
			return false, s.failed(e.Name, err)
		case whole:
			return true, nil
		case attempt == readAttempts:
			e.Unsure = true
			s.Warnings.add(e.Name, fmt.Sprintf("changed each of the %d times that it was read: it is saved as it was found the last time", readAttempts))
			return true, nil
		}
	}
}

// readOnce reads a file as it is now. It reports whether the file was the same
// at the end as at the beginning.
func (s *saver) readOnce(ctx context.Context, e, twin *Entry) (whole bool, err error) {
	f, err := s.tree.Open(ctx, e.Name)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	now, err := f.Stat()
	if err != nil {
		return false, err
	}
	if now.Kind != KindFile {
		return false, fmt.Errorf("it was replaced by %s", now.What)
	}
	now.Name, now.Same = e.Name, e.Same
	*e = now
	if e.Extents, err = f.Extents(e.Size); err != nil {
		return false, err
	}
	e.Unsure = s.Now().Sub(e.Time) < settled || e.Version == ""
	after := func() (bool, error) {
		later, err := f.Stat()
		if errors.Is(err, errReplaced) {
			return false, nil
		}
		return err == nil && later.Size == e.Size && later.Version == e.Version && later.Time.Equal(e.Time), err
	}
	extents := e.Extents
	if extents == nil {
		extents = []Extent{{0, e.Size}}
	}
	if e.Stored() <= smallFile {
		return s.readSmall(f, e, twin, extents, after)
	}
	if twin != nil && twin.Size == e.Size && slices.Equal(twin.Extents, e.Extents) {
		c := copied{to: io.Discard}
		if err := s.copy(ctx, f, extents, &c); err != nil {
			return false, err
		}
		if ok, err := after(); err != nil {
			return false, err
		} else if ok && !c.short && c.digest() == twin.Hash {
			s.same(e, twin)
			return true, nil
		}
	}
	s.changed = true
	if err := s.out.member(e); err != nil {
		return false, err
	}
	e.At = s.out.at
	c := copied{to: s.out, progress: s.Progress}
	err = s.copy(ctx, f, extents, &c)
	// What was begun is filled up: tar goes by the header of the member.
	if errOut := s.out.zeros(e.Stored() - c.n + padding(e.Stored())); err == nil || errOut != nil {
		err = errOut
	}
	if err != nil {
		return false, err
	}
	s.Stored += e.Stored()
	e.Hash = c.digest()
	if c.short {
		return false, nil
	}
	return after()
}

// readSmall is readOnce for a file that fits the buffer.
func (s *saver) readSmall(f Content, e, twin *Entry, extents []Extent, after func() (bool, error)) (bool, error) {
	content := s.buffer[:0]
	for _, x := range extents {
		piece := s.buffer[len(content) : int64(len(content))+x.Length]
		n, err := f.ReadAt(piece, x.Offset)
		if n < len(piece) && err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		clear(piece[n:])
		content = s.buffer[:len(content)+len(piece)]
	}
	ok, err := after()
	if err != nil {
		return false, err
	}
	sum := sha256.Sum256(content)
	e.Hash = hex.EncodeToString(sum[:])
	if ok && twin != nil && twin.Hash == e.Hash && twin.Size == e.Size && slices.Equal(twin.Extents, e.Extents) {
		s.same(e, twin)
		return true, nil
	}
	s.changed = true
	if err := s.out.member(e); err != nil {
		return false, err
	}
	e.At = s.out.at
	if _, err := s.out.Write(content); err != nil {
		return false, err
	}
	s.Stored += int64(len(content))
	s.Progress.add(int64(len(content)))
	return ok, s.out.zeros(padding(int64(len(content))))
}

// same takes over what the parent has of a file that was read and holds the same.
func (s *saver) same(e, twin *Entry) {
	if !twin.like(e) {
		s.changed = true
	}
	s.refer(e, twin)
	s.reread += e.Stored()
	s.Progress.add(e.Stored())
}

// copied is what was read of a file.
type copied struct {
	to       io.Writer
	progress Progress
	hash     hash.Hash
	n        int64 // bytes that were written
	short    bool  // the file ended before its time: the rest are zeros
}

func (c *copied) digest() string { return hex.EncodeToString(c.hash.Sum(nil)) }

// copy reads the extents of a file.
func (s *saver) copy(ctx context.Context, f Content, extents []Extent, c *copied) error {
	c.hash = sha256.New()
	for _, x := range extents {
		for at := x.Offset; at < x.Offset+x.Length; {
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			piece := s.buffer[:min(int64(len(s.buffer)), x.Offset+x.Length-at)]
			n, err := f.ReadAt(piece, at)
			if n < len(piece) {
				if !errors.Is(err, io.EOF) {
					return err
				}
				clear(piece[n:])
				c.short = true
			}
			c.hash.Write(piece)
			if _, err := c.to.Write(piece); err != nil {
				return err
			}
			c.progress.add(int64(len(piece)))
			c.n += int64(len(piece))
			at += int64(len(piece))
		}
	}
	return nil
}
