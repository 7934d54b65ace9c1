package media

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/filelock"
)

// Move is how one folder takes the place of another. It is noted down with the
// replaced schema before anything is renamed, so that a move that was interrupted
// can be completed. Paths are below the root.
type Move struct {
	Folder   string `json:"folder"`             // of the tenant
	Incoming string `json:"incoming,omitempty"` // what takes its place; empty: nothing does
	Replaced string `json:"replaced,omitempty"` // what the present one is called then
	// In and Out identify the incoming folder and the present one; 0: there is none.
	In  uint64 `json:"in,omitempty"`
	Out uint64 `json:"out,omitempty"`
}

// ownTime is the time in the names of folders that restores make.
const ownTime = "20060102_150405"

// check refuses a move, which was read from somewhere, that is none of a tenant's
// folder.
func (m *Move) check() error {
	if err := checkFolder(m.Folder); err != nil {
		return fmt.Errorf("media folder %q: %w", m.Folder, err)
	}
	for _, name := range []string{m.Incoming, m.Replaced} {
		if name != "" && (parent(name) != parent(m.Folder) || !strings.HasPrefix(name, m.Folder+"__") || !IsOwn(name)) {
			return fmt.Errorf("media folder %q is not one that a restore of %q has made", name, m.Folder)
		}
	}
	return nil
}

// number identifies a folder; 0: there is none.
func number(root *os.Root, name string) (uint64, error) {
	if name == "" {
		return 0, nil
	}
	info, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.IsDir() {
		return 0, fmt.Errorf("%s is %s, no folder", path.Join(root.Name(), name), describe(info.Mode()))
	}
	return uint64(st.Ino), nil
}

// freeName is a path beside a folder that nothing has.
func freeName(root *os.Root, folder, kind string, at time.Time) (string, error) {
	for n := 1; ; n++ {
		name := folder + "__" + kind + "_" + at.UTC().Format(ownTime)
		if n > 1 {
			name += fmt.Sprintf("_%d", n)
		}
		if _, err := root.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			return name, nil
		} else if err != nil {
			return "", err
		}
	}
}

// Staging is a folder that was put beside the one whose place it is to take.
type Staging struct {
	Move
	Put
	root *Root
	lock *os.File // tells others that somebody is at work on it; nil: cannot be locked
}

// Stage puts an archive beside the folder of a tenant.
func (r *Root) Stage(ctx context.Context, t Tenant, a *Archive, at time.Time, o PutOptions) (_ *Staging, err error) {
	folder, err := r.Folder(t)
	if err != nil {
		return nil, err
	}
	root, err := r.open()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if above := parent(folder); above != Top {
		if err := root.MkdirAll(above, 0o755); err != nil {
			return nil, err
		}
	}
	if err := rehearse(root, folder, at); err != nil {
		return nil, err
	}
	s := &Staging{Move: Move{Folder: folder}, root: r}
	if s.Incoming, err = freeName(root, folder, "staging", at); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Discard())
		}
	}()
	put, err := a.put(ctx, root, s.Incoming, o, func(dir *os.File) error {
		s.lock = dir
		err := filelock.Try(dir, filelock.Shared)
		if filelock.IsUnsupported(err) {
			err = nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	s.Put = *put
	s.In, err = number(root, s.Incoming)
	return s, err
}

// rehearse finds out whether a folder can be renamed, which one that is a mount
// point cannot, without doing it: no folder takes the place of one that is not
// empty.
func rehearse(root *os.Root, folder string, at time.Time) (err error) {
	out, err := number(root, folder)
	if err != nil || out == 0 {
		return err
	}
	probe, err := freeName(root, folder, "staging", at)
	if err != nil {
		return err
	}
	if err := root.MkdirAll(probe+"/probe", 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.RemoveAll(probe)) }()
	err = root.Rename(folder, probe)
	switch {
	case errors.Is(err, syscall.ENOTEMPTY), errors.Is(err, syscall.EEXIST), errors.Is(err, fs.ErrExist):
		return nil
	case err == nil: // which no file system should do
		return errors.Join(errors.New("the file system renames folders over others that are not empty"), root.Rename(probe, folder))
	}
	return fmt.Errorf("folder %s cannot be renamed: %w", path.Join(root.Name(), folder), cause(err))
}

// Aim completes the move with what is in the place of the folder now.
func (r *Root) Aim(m Move, at time.Time) (Move, error) {
	root, err := r.open()
	if err != nil {
		return m, err
	}
	defer root.Close()
	if m.Out, err = number(root, m.Folder); err != nil {
		return m, err
	}
	if m.In, err = number(root, m.Incoming); err != nil {
		return m, err
	}
	if m.Incoming != "" && m.In == 0 {
		return m, fmt.Errorf("folder %s is not there any more", path.Join(r.dir, m.Incoming))
	}
	m.Replaced, err = freeName(root, m.Folder, "replaced", at)
	return m, err
}

// Place does what is left to be done of a move; it may be called again.
func (r *Root) Place(m Move) error {
	if err := m.check(); err != nil {
		return err
	}
	root, err := r.open()
	if err != nil {
		return err
	}
	defer root.Close()
	in, err := number(root, m.Incoming)
	if err != nil {
		return err
	}
	there, err := number(root, m.Folder)
	if err != nil {
		return err
	}
	switch {
	case m.In != 0 && in == m.In && there != 0:
		err = swapFolders(root, m)
	case m.In != 0 && in == m.In:
		err = root.Rename(m.Incoming, m.Folder)
	case m.In != 0 && m.Out != 0 && in == m.Out && there == m.In: // exchanged, and then interrupted
		err = root.Rename(m.Incoming, m.Replaced)
	case m.Incoming == "" && m.Out != 0 && there == m.Out:
		err = root.Rename(m.Folder, m.Replaced)
	}
	if err != nil {
		return fmt.Errorf("rename folder %s: %w", path.Join(r.dir, m.Folder), cause(err))
	}
	return syncFolder(root, parent(m.Folder))
}

// swapFolders gives the incoming folder the place of the present one, at once
// where the system can do it.
func swapFolders(root *os.Root, m Move) error {
	dir, err := root.Open(parent(m.Folder))
	if err != nil {
		return err
	}
	defer dir.Close() //nolint:errcheck // it was only read
	err = exchange(dir, path.Base(m.Folder), path.Base(m.Incoming))
	if errors.Is(err, errors.ErrUnsupported) {
		if err := root.Rename(m.Folder, m.Replaced); err != nil {
			return err
		}
		return root.Rename(m.Incoming, m.Folder)
	}
	if err != nil {
		return err
	}
	return root.Rename(m.Incoming, m.Replaced)
}

// Revert undoes a move that was completed.
func (r *Root) Revert(m Move) error {
	root, err := r.open()
	if err != nil {
		return err
	}
	defer root.Close()
	there, err := number(root, m.Folder)
	if err != nil || there != m.In {
		return err
	}
	if err := root.Rename(m.Folder, m.Incoming); err != nil {
		return err
	}
	if m.Out != 0 {
		err = root.Rename(m.Replaced, m.Folder)
	}
	return errors.Join(err, syncFolder(root, parent(m.Folder)))
}

func syncFolder(root *os.Root, name string) error {
	dir, err := root.Open(name)
	if err != nil {
		return err
	}
	err = dir.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return errors.Join(err, dir.Close())
}

// Release lets go of a staging that has taken its place, or waits for it.
func (s *Staging) Release() error {
	if s.lock == nil {
		return nil
	}
	err := filelock.Release(s.lock)
	s.lock = nil
	return err
}

// Discard removes a staging.
func (s *Staging) Discard() error {
	return errors.Join(s.root.Remove(s.Incoming), s.Release())
}

// Remove removes a folder that a restore made or replaced.
func (r *Root) Remove(name string) error {
	if !IsOwn(name) {
		return fmt.Errorf("folder %q is not one that a restore has made", name)
	}
	root, err := r.open()
	if err != nil {
		return err
	}
	defer root.Close()
	err = root.RemoveAll(name)
	if errors.Is(err, fs.ErrPermission) { // folders that not even their owner may change
		if err = unlock(root, name); err == nil {
			err = root.RemoveAll(name)
		}
	}
	if err != nil {
		return fmt.Errorf("remove folder %s: %w", path.Join(r.dir, name), err)
	}
	return nil
}

// unlock lets the owner change a folder and all that are in it.
func unlock(root *os.Root, name string) error {
	if err := root.Chmod(name, 0o700); err != nil {
		return err
	}
	names, err := foldersIn(root, name)
	for _, below := range names {
		err = errors.Join(err, unlock(root, name+"/"+below))
	}
	return err
}

// Exists reports whether a tenant has a folder.
func (r *Root) Exists(t Tenant) (bool, error) {
	folder, err := r.Folder(t)
	if err != nil {
		return false, err
	}
	root, err := r.open()
	if err != nil {
		return false, err
	}
	defer root.Close()
	n, err := number(root, folder)
	return n != 0, err
}

// Free is how many bytes may be written below the root. Where it is not known
// the error matches errors.ErrUnsupported.
func (r *Root) Free() (int64, error) {
	root, err := r.open()
	if err != nil {
		return 0, err
	}
	defer root.Close()
	dir, err := root.Open(Top)
	if err != nil {
		return 0, err
	}
	defer dir.Close() //nolint:errcheck // it was only read
	return free(dir)
}

// Left is a folder that a restore made or replaced.
type Left struct {
	Name   string    // below the root
	Kind   string    // staging or replaced
	At     time.Time // when it was made, or replaced
	AtWork bool      // somebody is putting files into it at this moment
}

// Left lists the folders that restores made or replaced.
func (r *Root) Left() (list []Left, err error) {
	root, err := r.open()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	places := map[string]bool{}
	for _, folder := range r.folders {
		places[parent(folder)] = true
	}
	if err := r.parents(root, places, Top, r.pattern[:len(r.pattern)-1]); err != nil {
		return nil, err
	}
	for place := range places {
		names, err := foldersIn(root, place)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if !IsOwn(name) {
				continue
			}
			l := Left{Name: path.Join(place, name), Kind: ownName.FindStringSubmatch(name)[1]}
			stamp := ownName.FindString(name)[len("__"+l.Kind+"_"):]
			if l.At, err = time.Parse(ownTime, stamp[:len(ownTime)]); err != nil {
				continue
			}
			if l.AtWork, err = atWork(root, l.Name); err != nil {
				return nil, err
			}
			list = append(list, l)
		}
	}
	slices.SortFunc(list, func(a, b Left) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// parents finds the folders in which those of tenants are.
func (r *Root) parents(root *os.Root, places map[string]bool, place string, elements []string) error {
	if len(elements) == 0 {
		places[place] = true
		return nil
	}
	if !strings.Contains(elements[0], "{") {
		below := path.Join(place, elements[0])
		if n, err := number(root, below); err != nil || n == 0 {
			return err
		}
		return r.parents(root, places, below, elements[1:])
	}
	names, err := foldersIn(root, place)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := r.parents(root, places, path.Join(place, name), elements[1:]); err != nil {
			return err
		}
	}
	return nil
}

// foldersIn are the names of the folders in another.
func foldersIn(root *os.Root, place string) ([]string, error) {
	dir, err := root.Open(place)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	entries, err := dir.ReadDir(-1)
	if err := errors.Join(err, dir.Close()); err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// atWork reports whether somebody holds the lock of a folder.
func atWork(root *os.Root, name string) (bool, error) {
	dir, err := root.Open(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	err = filelock.Try(dir, filelock.Exclusive)
	if errors.Is(err, filelock.ErrLocked) {
		return true, dir.Close()
	}
	return false, filelock.Release(dir)
}
