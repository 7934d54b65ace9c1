package media

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path"
	"strconv"
	"syscall"
	"time"
)

// PutOptions say how to put a folder back.
type PutOptions struct {
	// LeaveOutLinks leaves links out that lead out of the folder. Without it they
	// are refused.
	LeaveOutLinks bool
	Progress      Progress
}

// Put is what was put back.
type Put struct {
	Counts
	Warnings Problems
}

// LinkError is a link that leads out of its folder, which is not put back.
type LinkError struct{ Name, Link string }

// Error names it and where it leads.
func (e *LinkError) Error() string {
	return fmt.Sprintf("link %q leads out of the folder, to %q", e.Name, e.Link)
}

// Check reads the index of the archive and refuses what Put would refuse, and
// contents that are not there. It returns how many bytes the files have without
// holes.
func (a *Archive) Check(ctx context.Context, o PutOptions) (size int64, err error) {
	err = a.Entries(ctx, func(e Entry) error {
		if e.LeadsOut() && !o.LeaveOutLinks {
			return &LinkError{e.Name, e.Link}
		}
		if e.Kind != KindFile {
			return nil
		}
		size += e.Stored()
		from := a
		if e.Archive > 0 && e.Archive <= len(a.earlier) {
			from = a.earlier[e.Archive-1]
		}
		if !from.holds(e.At, e.Stored()) {
			return fmt.Errorf("index: the contents of %q are not in the archive", e.Name)
		}
		return nil
	})
	return size, err
}

// holds reports whether the decompressed archive is so long.
func (a *Archive) holds(at, length int64) bool {
	end := int64(0)
	if n := len(a.Frames); n > 0 {
		end = a.starts[n-1] + a.Frames[n-1][2]
	}
	return at <= end && length <= end-at
}

// Put makes the directory with that path below root, which must not exist, and
// fills it from the archive. Contents are compared with their hashes, and all of
// it is made durable. After an error what was made is still there, for the caller
// to remove. Nothing outside of the directory is written, whatever the archive
// holds.
func (a *Archive) Put(ctx context.Context, root *os.Root, name string, o PutOptions) (*Put, error) {
	return a.put(ctx, root, name, o, nil)
}

// put is Put that hands the new directory to begin, where that is not nil, before
// anything is in it.
func (a *Archive) put(ctx context.Context, root *os.Root, name string, o PutOptions, begin func(*os.File) error) (_ *Put, err error) {
	if err := root.Mkdir(name, 0o700); err != nil {
		return nil, err
	}
	to, err := root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	if begin != nil {
		dir, err := to.Open(Top)
		if err != nil {
			return nil, err
		}
		if err := begin(dir); err != nil {
			return nil, err
		}
	}
	p := &putter{PutOptions: o, archive: a, root: to, users: map[string]int{}, groups: map[string]int{}, owner: os.Geteuid() == 0}
	if err := a.Entries(ctx, func(e Entry) error { return p.entry(ctx, e) }); err != nil {
		return nil, err
	}
	for len(p.folders) > 0 {
		if err := p.close(); err != nil {
			return nil, err
		}
	}
	dir, err := to.Open(Top)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(syncAll(dir), dir.Close()); err != nil {
		return nil, fmt.Errorf("make %s durable: %w", path.Join(root.Name(), name), err)
	}
	return &p.put, nil
}

// putter fills one directory.
type putter struct {
	PutOptions
	archive *Archive
	root    *os.Root
	put     Put
	folders []Entry // that the entry is in: they get their modes and times when they are full
	users   map[string]int
	groups  map[string]int
	owner   bool // files may be given to others
	foreign bool // some were not
}

// entry puts one entry back. Archive.Entries has seen to it that the folder that
// it is in was made as a folder, so that no link is on the way to it.
func (p *putter) entry(ctx context.Context, e Entry) error {
	for len(p.folders) > 0 && p.folders[len(p.folders)-1].Name != parent(e.Name) {
		if err := p.close(); err != nil {
			return err
		}
	}
	var err error
	switch e.Kind {
	case KindFolder:
		if e.Name != Top {
			err = p.root.Mkdir(e.Name, 0o700)
		}
		p.folders = append(p.folders, e)
		p.put.Folders++
	case KindLink:
		if e.LeadsOut() {
			if !p.LeaveOutLinks {
				return &LinkError{e.Name, e.Link}
			}
			p.put.Warnings.add(e.Name, fmt.Sprintf("is left out: it leads out of the folder, to %q", e.Link))
			return nil
		}
		err = p.link(&e)
		p.put.Links++
	case KindHard:
		err = p.root.Link(e.Link, e.Name)
		p.put.Files++
	default:
		err = p.file(ctx, &e)
		p.put.Files++
		p.put.Bytes += e.Size
		p.put.Stored += e.Stored()
	}
	if err != nil {
		return fmt.Errorf("put %q back: %w", e.Name, err)
	}
	return nil
}

// close gives the innermost folder its owner, mode and time, now that nothing is
// put into it any more.
func (p *putter) close() error {
	e := p.folders[len(p.folders)-1]
	p.folders = p.folders[:len(p.folders)-1]
	dir, err := p.root.Open(e.Name)
	if err != nil {
		return err
	}
	if err := errors.Join(p.dress(dir, &e), dir.Close()); err != nil {
		return fmt.Errorf("put %q back: %w", e.Name, err)
	}
	return p.root.Chtimes(e.Name, e.Time, e.Time)
}

// dress gives an open file its owner, attributes and mode.
func (p *putter) dress(file *os.File, e *Entry) error {
	mode := fileMode(e.Mode)
	if p.owner {
		if err := file.Chown(p.ids(e)); err != nil {
			return err
		}
	} else if e.UID != os.Geteuid() || e.GID != os.Getegid() {
		mode &^= fs.ModeSetuid | fs.ModeSetgid // which would run it as somebody else
		if !p.foreign {
			p.foreign = true
			p.put.Warnings.add(e.Name, "and perhaps others belong to the user who restores them now: only root may give files to their owners")
		}
	}
	for name, v := range e.Attributes {
		switch err := setAttribute(file, name, v); {
		case err == nil:
		case errors.Is(err, errors.ErrUnsupported), errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EINVAL):
			p.put.Warnings.add(e.Name, fmt.Sprintf("has lost its attribute %s: %v", name, err))
		default:
			return fmt.Errorf("set attribute %s: %w", name, err)
		}
	}
	return file.Chmod(mode) // after the owner, whose change takes bits away
}

// ids are the owner and the group of an entry on this machine: by name, as tar
// does it, and by number where there is no such name.
func (p *putter) ids(e *Entry) (uid, gid int) {
	uid = known(p.users, e.User, e.UID, func(name string) (string, error) {
		u, err := user.Lookup(name)
		if err != nil {
			return "", err
		}
		return u.Uid, nil
	})
	gid = known(p.groups, e.Group, e.GID, func(name string) (string, error) {
		g, err := user.LookupGroup(name)
		if err != nil {
			return "", err
		}
		return g.Gid, nil
	})
	return uid, gid
}

func known(ids map[string]int, name string, number int, lookup func(string) (string, error)) int {
	if name == "" {
		return number
	}
	id, ok := ids[name]
	if !ok {
		id = -1
		if text, err := lookup(name); err == nil {
			if n, err := strconv.Atoi(text); err == nil {
				id = n
			}
		}
		ids[name] = id
	}
	if id < 0 {
		return number
	}
	return id
}

func (p *putter) link(e *Entry) error {
	if err := p.root.Symlink(e.Link, e.Name); err != nil {
		return err
	}
	if p.owner {
		uid, gid := p.ids(e)
		if err := p.root.Lchown(e.Name, uid, gid); err != nil {
			return err
		}
	}
	dir, err := p.root.Open(parent(e.Name))
	if err != nil {
		return err
	}
	return errors.Join(setLinkTime(dir, path.Base(e.Name), e.Time.Unix(), e.Time.Nanosecond()), dir.Close())
}

func (p *putter) file(ctx context.Context, e *Entry) (err error) {
	file, err := p.root.OpenFile(e.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, file.Close())
		if err == nil {
			err = p.root.Chtimes(e.Name, time.Time{}, e.Time)
		}
	}()
	w := &filler{file: file, extents: e.Extents, progress: p.Progress}
	if e.Extents == nil {
		w.extents = []Extent{{0, e.Size}}
	}
	h := sha256.New()
	if err := p.archive.Read(ctx, e, io.MultiWriter(w, h)); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != e.Hash {
		return fmt.Errorf("its contents in the archive have the SHA-256 %s, the index says %s", got, e.Hash)
	}
	if e.Extents != nil {
		if err := file.Truncate(e.Size); err != nil {
			return err
		}
	}
	return p.dress(file, e)
}

// filler writes extents to their places.
type filler struct {
	file     *os.File
	extents  []Extent
	done     int64 // of the first
	progress Progress
}

// Write writes the next bytes.
func (f *filler) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		for len(f.extents) > 0 && f.done == f.extents[0].Length {
			f.extents, f.done = f.extents[1:], 0
		}
		if len(f.extents) == 0 {
			return n, errors.New("the archive holds more of it than its extents")
		}
		x := f.extents[0]
		piece := b[:min(int64(len(b)), x.Length-f.done)]
		if _, err := f.file.WriteAt(piece, x.Offset+f.done); err != nil {
			return n, err
		}
		f.done += int64(len(piece))
		f.progress.add(int64(len(piece)))
		n += len(piece)
		b = b[len(piece):]
	}
	return n, nil
}
