package media

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Folder is a directory that is being saved. Nothing outside of it is read,
// wherever its links lead.
type Folder struct {
	root *os.Root
	// Skip says what does not belong to the folder, by name. Nil: everything does.
	Skip func(name string) bool
	// look is told what is in a folder before Skip is asked about it. Nil: nobody needs
	// to know.
	look  func(ctx context.Context, names []string) error
	users map[int]string
	group map[int]string
}

var _ Tree = (*Folder)(nil)

// OpenFolder opens the directory with that path below root.
func OpenFolder(root *os.Root, name string) (*Folder, error) {
	sub, err := descend(root, name, false)
	if err != nil {
		return nil, err
	}
	return &Folder{root: sub, users: map[int]string{}, group: map[int]string{}}, nil
}

// descend opens the directory with that path below root, or makes it. No element of
// the path may be a link, which would lead into what belongs to somebody else.
func descend(root *os.Root, name string, create bool) (_ *os.Root, err error) {
	at, err := root.OpenRoot(Top)
	if err != nil || name == Top {
		return at, err
	}
	for element := range strings.SplitSeq(name, "/") {
		if create {
			if err := at.Mkdir(element, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return nil, errors.Join(err, at.Close())
			}
		}
		next, err := openElement(at, element)
		if err := errors.Join(err, at.Close()); err != nil {
			return nil, err
		}
		at = next
	}
	return at, nil
}

// openElement opens a directory that is directly in another one.
func openElement(at *os.Root, name string) (*os.Root, error) {
	info, err := at.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is %s, no folder", path.Join(at.Name(), name), describe(info.Mode()))
	}
	next, err := at.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	opened, err := next.Stat(Top)
	if err == nil && !os.SameFile(info, opened) {
		err = fmt.Errorf("%s was replaced while it was opened", path.Join(at.Name(), name))
	}
	if err != nil {
		return nil, errors.Join(err, next.Close())
	}
	return next, nil
}

// Close closes the directory.
func (f *Folder) Close() error { return f.root.Close() }

// List lists the directory.
func (f *Folder) List(ctx context.Context, yield func(Entry, error) error) error {
	return f.list(ctx, Top, yield)
}

func (f *Folder) list(ctx context.Context, name string, yield func(Entry, error) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	info, err := f.root.Lstat(name)
	if err != nil {
		return yield(Entry{Name: name}, err)
	}
	e, err := f.entry(name, info)
	if err != nil {
		return yield(Entry{Name: name}, err)
	}
	if e.Kind != KindFolder {
		return yield(e, nil)
	}
	names, err := f.names(name, info)
	if err != nil {
		return yield(Entry{Name: name}, err)
	}
	if err := yield(e, nil); err != nil {
		return err
	}
	if name != Top {
		for i, below := range names {
			names[i] = name + "/" + below
		}
	}
	if f.look != nil {
		if err := f.look(ctx, names); err != nil {
			return err
		}
	}
	for _, below := range names {
		if f.Skip != nil && f.Skip(below) {
			continue
		}
		if err := f.list(ctx, below, yield); err != nil {
			return err
		}
	}
	return nil
}

// names are what is in a directory, in order.
func (f *Folder) names(name string, info fs.FileInfo) (names []string, err error) {
	dir, err := f.open(name, info)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	if names, err = dir.Readdirnames(-1); err != nil {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

// open opens what Lstat has described.
func (f *Folder) open(name string, info fs.FileInfo) (*os.File, error) {
	// Without O_NONBLOCK, opening a FIFO waits for a writer that never comes.
	file, err := f.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	now, err := file.Stat()
	if err == nil && !os.SameFile(now, info) {
		err = errReplaced
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// errReplaced says that a name belongs to another file by now.
var errReplaced = errors.New("it was replaced by another while it was read")

// entry describes what is there.
func (f *Folder) entry(name string, info fs.FileInfo) (e Entry, err error) {
	e = Entry{Name: name, Mode: unixMode(info.Mode()), Time: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		e.UID, e.GID = int(st.Uid), int(st.Gid)
		e.User, e.Group = f.nameOf(f.users, e.UID, lookupUser), f.nameOf(f.group, e.GID, lookupGroup)
		if info.Mode().IsRegular() {
			e.Version = version(st)
			if st.Nlink > 1 {
				e.Same = fmt.Sprintf("%d:%d", st.Dev, st.Ino)
			}
		}
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		e.Kind = KindFolder
	case mode.IsRegular():
		e.Kind, e.Size = KindFile, info.Size()
	case mode&fs.ModeSymlink != 0:
		e.Kind = KindLink
		if e.Link, err = f.root.Readlink(name); err != nil {
			return e, err
		}
		return e, nil
	default:
		e.What = describe(mode)
		return e, nil
	}
	if e.Attributes, err = f.attributes(name, info); errors.Is(err, fs.ErrPermission) {
		err = nil // reading the contents says more
	}
	return e, err
}

func (f *Folder) attributes(name string, info fs.FileInfo) (map[string]string, error) {
	if !hasAttributes {
		return nil, nil
	}
	file, err := f.open(name, info)
	if err != nil {
		return nil, err
	}
	list, err := attributes(file)
	return list, errors.Join(err, file.Close())
}

// Open opens a file.
func (f *Folder) Open(_ context.Context, name string) (Content, error) {
	info, err := f.root.Lstat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("it was replaced by %s", describe(info.Mode()))
	}
	file, err := f.open(name, info)
	if err != nil {
		return nil, err
	}
	return &content{File: file, folder: f, name: name}, nil
}

// content is a file of a directory that is open.
type content struct {
	*os.File
	folder *Folder
	name   string
}

// Stat describes the file as it is now. One whose name another file has by now is
// errReplaced.
func (c *content) Stat() (Entry, error) {
	named, err := c.folder.root.Lstat(c.name)
	if err != nil {
		return Entry{}, err
	}
	info, err := c.File.Stat()
	if err != nil {
		return Entry{}, err
	}
	if !os.SameFile(named, info) {
		return Entry{}, errReplaced
	}
	return c.folder.entry(c.name, info)
}

// Extents are the parts that are no holes.
func (c *content) Extents(size int64) ([]Extent, error) {
	list, err := extents(c.File, size)
	if err != nil || len(list) == 1 && list[0] == (Extent{0, size}) {
		return nil, err
	}
	return list, nil
}

func (f *Folder) nameOf(known map[int]string, id int, lookup func(string) (string, error)) string {
	name, ok := known[id]
	if !ok {
		name, _ = lookup(strconv.Itoa(id)) // one without a name is known by its number
		known[id] = name
	}
	return name
}

func lookupUser(id string) (string, error) {
	u, err := user.LookupId(id)
	if err != nil {
		return "", err
	}
	return u.Username, nil
}

func lookupGroup(id string) (string, error) {
	g, err := user.LookupGroupId(id)
	if err != nil {
		return "", err
	}
	return g.Name, nil
}

// unixMode is a mode as chmod takes it.
func unixMode(m fs.FileMode) uint32 {
	mode := uint32(m.Perm())
	for _, bit := range modeBits {
		if m&bit.mode != 0 {
			mode |= bit.unix
		}
	}
	return mode
}

// fileMode is the reverse of unixMode.
func fileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	for _, bit := range modeBits {
		if mode&bit.unix != 0 {
			m |= bit.mode
		}
	}
	return m
}

var modeBits = []struct {
	mode fs.FileMode
	unix uint32
}{{fs.ModeSetuid, 0o4000}, {fs.ModeSetgid, 0o2000}, {fs.ModeSticky, 0o1000}}

// describe names what a file is.
func describe(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a folder"
	case m.IsRegular():
		return "a file"
	case m&fs.ModeSymlink != 0:
		return "a link"
	case m&fs.ModeSocket != 0:
		return "a socket"
	case m&fs.ModeNamedPipe != 0:
		return "a named pipe"
	case m&fs.ModeDevice != 0:
		return "a device"
	default:
		return "something unknown"
	}
}
