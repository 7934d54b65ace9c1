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
	dirty map[string]bool // directories, as system paths, whose entries are not durable yet
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
	return &Store{dir: abs, beat: lockBeat, stale: lockStale, dirty: make(map[string]bool)}, nil
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
	if info, err := root.Stat(dir); err == nil && info.IsDir() {
		return nil
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
	entries, err := readDir(root, dir)
	if err != nil {
		return fmt.Errorf("list %s: %w", s.path(dir), err)
	}
	type item struct {
		key   string
		entry fs.DirEntry
	}
	items := make([]item, 0, len(entries))
	for _, e := range entries {
		key := path.Join(dir, e.Name())
		if storage.ValidKey(key) != nil {
			continue
		}
		if e.IsDir() {
			// The slash puts the keys below where they belong in the byte order.
			key += "/"
		}
		if strings.HasPrefix(key, prefix) || e.IsDir() && strings.HasPrefix(prefix, key) {
			items = append(items, item{key, e})
		}
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
		var info fs.FileInfo
		if item.entry.Type().IsRegular() {
			info, err = item.entry.Info() // costs half
		} else {
			info, err = root.Stat(key) // follows a link as Open does
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted meanwhile, or a link to nothing
		}
		if err != nil && item.entry.Type()&fs.ModeSymlink != 0 && s.leadsToFile(key) {
			continue // out of the repository, where it is not opened either
		}
		if err != nil {
			return fmt.Errorf("list %s: %w", s.path(dir), err)
		}
		if info.IsDir() {
			// Passing over it would show a repository without its backups.
			return fmt.Errorf("list %s: it is a link to a directory, which is not followed", s.path(key))
		}
		if !info.Mode().IsRegular() {
			continue
		}
		if err := yield(storage.Info{Key: key, Size: info.Size(), Modified: info.ModTime()}); err != nil {
			return err
		}
	}
	return nil
}

// leadsToFile reports whether a link leads to a file or to nothing, wherever that
// is. The original system may have left absolute ones.
func (s *Store) leadsToFile(key string) bool {
	info, err := os.Stat(s.path(key))
	return err == nil && !info.IsDir() || errors.Is(err, fs.ErrNotExist)
}

// readDir returns the entries of a directory, none where it does not exist.
func readDir(root *os.Root, dir string) ([]fs.DirEntry, error) {
	f, err := root.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.ReadDir(-1)
}

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
	entries, err := readDir(root, dir)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", s.path(dir), err)
	}
	var removed []storage.Info
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		key := path.Join(dir, e.Name())
		if e.IsDir() {
			if strings.HasPrefix(e.Name(), ".") || e.Name() == "lost+found" {
				continue
			}
			below, err := s.clean(ctx, root, key, before)
			removed = append(removed, below...)
			if err != nil {
				return removed, err
			}
			continue
		}
		if !strings.HasPrefix(e.Name(), tempPrefix) {
			continue
		}
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
