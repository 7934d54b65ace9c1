// Package local keeps a repository in a directory.
//
// An object is a file of mode 0600. It is written under a temporary name
// beside its place, synced, and linked to its name, which never replaces
// another file. All access goes through os.Root, so that neither a key nor a
// symbolic link leads out of the directory.
package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/storage"
)

const (
	dirMode  fs.FileMode = 0o700
	fileMode fs.FileMode = 0o600

	// tempPrefix begins the names of files that are being written. No key has
	// an element that begins with a dot.
	tempPrefix = ".tmp-"
)

// Store is a repository in a directory.
type Store struct {
	dir   string        // absolute
	beat  time.Duration // see lockBeat
	stale time.Duration // see lockStale
	place string        // see where; empty: it is found out

	mu    sync.Mutex
	dirty map[string]bool     // directories, as system paths, whose entries are not durable yet
	ahead map[string]sighting // files of holders whose time lies in the future
}

var (
	_ storage.Storage = (*Store)(nil)
	_ storage.Cleaner = (*Store)(nil)
	_ storage.Locker  = (*Store)(nil)
)

// New returns the store in dir. The directory is made by the first write; a
// relative one stays where it is when the working directory changes.
func New(dir string) (*Store, error) {
	if dir == "" {
		return nil, errors.New("the repository has no directory")
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("find directory %s: %w", dir, err)
	}
	return &Store{dir: abs, beat: lockBeat, stale: lockStale, dirty: make(map[string]bool), ahead: make(map[string]sighting)}, nil
}

// Location is the directory as an absolute path.
func (s *Store) Location() string { return s.dir }

// open opens the directory. It is opened for each operation, so that a
// repository that is mounted anew under a running daemon is found.
func (s *Store) open() (*os.Root, error) {
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return nil, fmt.Errorf("open repository: %w", err)
	}
	return root, nil
}

// openForWriting is open after making the directory where it is missing.
func (s *Store) openForWriting() (*os.Root, error) {
	var missing []string
	for d := s.dir; ; d = filepath.Dir(d) {
		if _, err := os.Stat(d); err == nil || !errors.Is(err, fs.ErrNotExist) || d == filepath.Dir(d) {
			break
		}
		missing = append(missing, d)
	}
	if len(missing) > 0 {
		if err := os.MkdirAll(s.dir, dirMode); err != nil {
			return nil, fmt.Errorf("make repository: %w", err)
		}
		for _, d := range missing {
			s.touch(filepath.Dir(d))
		}
	}
	return s.open()
}

// makeDir makes a directory inside the repository and its parents.
func (s *Store) makeDir(root *os.Root, dir string) error {
	if dir == "." {
		return nil
	}
	if info, err := root.Lstat(dir); err == nil && info.IsDir() {
		return nil
	} else if err == nil {
		return &folderError{s.path(dir), info.Mode()}
	}
	if err := s.makeDir(root, path.Dir(dir)); err != nil {
		return err
	}
	err := root.Mkdir(dir, dirMode)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make directory in %s: %w", s.dir, err)
	}
	s.touch(s.path(path.Dir(dir)))
	return nil
}

// touch notes that the entries of a directory changed.
func (s *Store) touch(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirty[dir] = true
}

// path is a key as a system path, for messages and for syncing directories.
func (s *Store) path(key string) string { return filepath.Join(s.dir, filepath.FromSlash(key)) }

// Create begins a new file, and makes the directories that it lies in.
func (s *Store) Create(ctx context.Context, key string) (storage.Writer, error) {
	if err := check(ctx, key); err != nil {
		return nil, err
	}
	root, err := s.openForWriting()
	if err != nil {
		return nil, err
	}
	w, err := s.create(ctx, root, key)
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return w, nil
}

func (s *Store) create(ctx context.Context, root *os.Root, key string) (*writer, error) {
	if _, err := root.Lstat(key); err == nil {
		return nil, existsError(s.path(key))
	}
	if err := s.makeDir(root, path.Dir(key)); err != nil {
		return nil, err
	}
	temp := tempName(key)
	f, err := root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", s.path(key), err)
	}
	return newWriter(ctx, s, root, f, key, temp), nil
}

// tempName returns a new temporary name beside key. It is cut so that it is
// not too long where key itself is not.
func tempName(key string) string {
	const keep = 120
	dir, name := path.Split(key)
	if len(name) > keep {
		name = strings.ToValidUTF8(name[:keep], "")
	}
	return dir + tempPrefix + name + "-" + rand.Text()
}

func existsError(name string) error {
	return &fs.PathError{Op: "create", Path: name, Err: fs.ErrExist}
}

func check(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return storage.ValidKey(key)
}

// Open opens a file. What is neither a file nor a link to one inside the
// repository is refused.
func (s *Store) Open(ctx context.Context, key string) (storage.Object, error) {
	if err := check(ctx, key); err != nil {
		return nil, err
	}
	root, err := s.open()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	// Without O_NONBLOCK, opening a FIFO waits for a writer that never comes.
	f, err := root.OpenFile(key, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s in %s: %w", key, s.dir, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("open %s in %s: it is not a file", key, s.dir)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &object{File: f, size: info.Size()}, nil
}

type object struct {
	*os.File
	size int64
}

func (o *object) Size() int64 { return o.size }

// List lists the files of the repository. Names that no key can have are
// skipped: temporary files, and what the system or its users keep there.
func (s *Store) List(ctx context.Context, prefix string, yield func(storage.Info) error) error {
	root, err := s.open()
	if errors.Is(err, fs.ErrNotExist) {
		return ctx.Err()
	}
	if err != nil {
		return err
	}
	defer root.Close()
	return s.list(ctx, root, ".", prefix, yield)
}

func (s *Store) list(ctx context.Context, root *os.Root, dir, prefix string, yield func(storage.Info) error) error {
	type item struct {
		key string
		typ fs.FileMode
	}
	var items []item
	err := readDir(root, dir, func(e fs.DirEntry) error {
		key := path.Join(dir, e.Name())
		if storage.ValidKey(key) != nil {
			return nil
		}
		if e.IsDir() {
			// The slash puts the keys below where they belong in the byte order.
			key += "/"
		}
		switch {
		case strings.HasPrefix(key, prefix), e.IsDir() && strings.HasPrefix(prefix, key):
			items = append(items, item{key, e.Type()})
		case !e.IsDir() && strings.HasPrefix(prefix, key+"/"):
			return &folderError{s.path(key), e.Type()}
		}
		return nil
	})
	var folder *folderError
	switch {
	case errors.As(err, &folder):
		return err
	case err != nil:
		return fmt.Errorf("list %s: %w", s.path(dir), err)
	}
	slices.SortFunc(items, func(a, b item) int { return strings.Compare(a.key, b.key) })
	for _, item := range items {
		key := item.key
		if err := ctx.Err(); err != nil {
			return err
		}
		if sub, ok := strings.CutSuffix(key, "/"); ok {
			if err := s.list(ctx, root, sub, prefix, yield); err != nil {
				return err
			}
			continue
		}
		info, problem, err := s.stat(root, key, item.typ)
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted meanwhile
		}
		if err != nil {
			return fmt.Errorf("list %s: %w", s.path(dir), err)
		}
		if err := yield(storage.Info{Key: key, Size: info.Size(), Modified: info.ModTime(), Problem: problem}); err != nil {
			return err
		}
	}
	return nil
}

// stat describes what an entry of a directory leads to, as Open would find it, and
// says why Open would not. A link to a directory is an error: to pass over it
// would show a repository without its backups.
func (s *Store) stat(root *os.Root, key string, typ fs.FileMode) (info fs.FileInfo, problem string, err error) {
	if typ.IsRegular() {
		info, err = os.Lstat(s.path(key)) // costs half of what root takes
		return info, "", err
	}
	info, err = root.Stat(key)
	if err == nil && info.Mode().IsRegular() {
		return info, "", nil
	}
	link, errLink := root.Lstat(key)
	if errLink != nil {
		return nil, "", errLink
	}
	if link.Mode()&fs.ModeSymlink == 0 {
		return link, "it is not a file", err
	}
	target, errTarget := os.Stat(s.path(key)) // wherever that is
	switch {
	case errTarget == nil && target.IsDir():
		return nil, "", &folderError{s.path(key), fs.ModeSymlink}
	case err == nil:
		return link, "it is a link to what is not a file", nil
	case errTarget == nil:
		return link, "it is a link that leads out of the repository", nil
	default:
		return link, "it is a link that leads nowhere", nil
	}
}

// folderError says that something else is where a folder should be.
type folderError struct {
	path string
	mode fs.FileMode
}

func (e *folderError) Error() string {
	if e.mode&fs.ModeSymlink != 0 {
		return e.path + " is a link, which is not followed: what is behind it would not be found"
	}
	return e.path + " is not a folder: what should be in it would not be found"
}

// Hint says what to do.
func (e *folderError) Hint() string {
	if e.mode&fs.ModeSymlink != 0 {
		return "put the folder itself back into its place; to keep it on another disk, mount that there, or move the whole repository and name its new path"
	}
	return "move the file away, and put the folder back into its place"
}

// readDir hands the entries of a directory out, none where it does not exist, in
// no order. A repository may have a million: they are never all in memory.
func readDir(root *os.Root, dir string, yield func(fs.DirEntry) error) error {
	f, err := root.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		entries, err := f.ReadDir(entryBatch)
		for _, e := range entries {
			if err := yield(e); err != nil {
				return err
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// entryBatch is how many entries of a directory are read at once.
const entryBatch = 1024

// Delete removes a file.
func (s *Store) Delete(ctx context.Context, key string) error {
	if err := check(ctx, key); err != nil {
		return err
	}
	root, err := s.open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	info, err := root.Lstat(key)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil && info.IsDir():
		return nil // no object has this key
	case err == nil:
		err = root.Remove(key)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete %s in %s: %w", key, s.dir, err)
	}
	s.touch(s.path(path.Dir(key)))
	return nil
}

// Sync syncs the directories in which names were added or removed.
func (s *Store) Sync(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	dirty := s.dirty
	s.dirty = make(map[string]bool)
	s.mu.Unlock()

	var errs []error
	for dir := range dirty {
		if err := syncDir(dir); err != nil {
			s.touch(dir)
			errs = append(errs, fmt.Errorf("sync directory: %w", err))
		}
	}
	return errors.Join(errs...)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // removed since, with all that was in it
	}
	if err != nil {
		return err
	}
	err = f.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil // SMB and some FUSE systems cannot sync directories
	}
	return errors.Join(err, f.Close())
}

// CleanTemporary removes temporary files.
func (s *Store) CleanTemporary(ctx context.Context, age time.Duration) ([]storage.Info, error) {
	root, err := s.open()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return s.clean(ctx, root, ".", time.Now().Add(-age))
}

func (s *Store) clean(ctx context.Context, root *os.Root, dir string, before time.Time) ([]storage.Info, error) {
	var dirs, temporary []fs.DirEntry
	err := readDir(root, dir, func(e fs.DirEntry) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		switch name := e.Name(); {
		case e.IsDir() && !strings.HasPrefix(name, ".") && name != "lost+found":
			dirs = append(dirs, e)
		case !e.IsDir() && strings.HasPrefix(name, tempPrefix):
			temporary = append(temporary, e)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", s.path(dir), err)
	}
	var removed []storage.Info
	for _, e := range dirs {
		below, err := s.clean(ctx, root, path.Join(dir, e.Name()), before)
		removed = append(removed, below...)
		if err != nil {
			return removed, err
		}
	}
	for _, e := range temporary {
		key := path.Join(dir, e.Name())
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) || err == nil && info.ModTime().After(before) {
			continue
		}
		if err == nil {
			err = root.Remove(key)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, fmt.Errorf("remove temporary file %s: %w", s.path(key), err)
		}
		s.touch(s.path(dir))
		removed = append(removed, storage.Info{Key: key, Size: info.Size(), Modified: info.ModTime()})
	}
	return removed, nil
}
