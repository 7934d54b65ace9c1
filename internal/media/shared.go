package media

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/filelock"
)

// sharedName is the form of the names of folders beside the notes into which an
// archive of core is put before what is missing is taken out of it.
var sharedName = regexp.MustCompile(`^[0-9]{8}_[0-9]{6}_[0-9a-f]{16}\.shared$`)

// Added is what became of the files of an archive of core.
type Added struct {
	Put
	Files int64 // that were missing and are there now
	Kept  int64 // that are not: something is in their place, or their folder is a tenant's now
}

// AddShared puts those files of an archive of core into the directory that are
// missing there. What is there stays as it is, and so do the folders of tenants.
// Each folder or file that is missing comes by one rename: what an interruption
// leaves is completed by another call.
func (r *Root) AddShared(ctx context.Context, a *Archive, tenants []Tenant, at time.Time, o PutOptions) (_ *Added, err error) {
	root, err := r.open()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	notes, err := openNotes(root, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, notes.Close()) }()
	name := fmt.Sprintf("%s_%s.shared", at.UTC().Format(ownTime), randomHex())
	var lock *os.File
	defer func() {
		err = errors.Join(err, removeAll(notes, name))
		if lock != nil {
			err = errors.Join(err, filelock.Release(lock))
		}
		_ = root.Remove(notesFolder) // where nothing else is in it
	}()
	put, err := a.put(ctx, notes, name, o, func(dir *os.File) error {
		lock = dir
		err := filelock.Try(dir, filelock.Shared)
		if filelock.IsUnsupported(err) {
			err = nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	staged, err := openElement(notes, name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, staged.Close()) }()
	all, err := countFiles(staged, Top)
	if err != nil {
		return nil, err
	}
	for folder := range r.owners(tenants) {
		if err := removeAll(staged, folder); err != nil {
			return nil, err
		}
	}
	before, err := countFiles(staged, Top)
	if err != nil {
		return nil, err
	}
	if err := addMissing(ctx, staged, root); err != nil {
		return nil, fmt.Errorf("put shared files into %s: %w", r.dir, err)
	}
	after, err := countFiles(staged, Top)
	return &Added{Put: *put, Files: before - after, Kept: all - (before - after)}, err
}

// addMissing renames what is in one folder and missing in another.
func addMissing(ctx context.Context, from, to *os.Root) error {
	source, err := from.Open(Top)
	if err != nil {
		return err
	}
	defer source.Close() //nolint:errcheck // it was only read
	target, err := to.Open(Top)
	if err != nil {
		return err
	}
	defer target.Close() //nolint:errcheck // it is synced
	entries, err := source.ReadDir(-1)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		err := addOne(source, target, from, to, e.Name())
		if errors.Is(err, fs.ErrPermission) && e.IsDir() {
			err = unlocked(from, e.Name(), func() error { return addOne(source, target, from, to, e.Name()) })
		}
		if errors.Is(err, fs.ErrExist) && e.IsDir() {
			err = addBelow(ctx, from, to, e.Name())
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return syncFolder(to, Top)
}

// addOne renames one entry, unless something has its name there.
func addOne(source, target *os.File, from, to *os.Root, name string) error {
	err := renameNew(source, target, name)
	if !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	if _, err := to.Lstat(name); err == nil {
		return fs.ErrExist
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Rename(path.Join(from.Name(), name), path.Join(to.Name(), name))
}

// unlocked renames a folder that not even its owner may change, which no system lets
// go into another folder, and gives it back its mode.
func unlocked(from *os.Root, name string, rename func() error) (err error) {
	info, err := from.Lstat(name)
	if err != nil {
		return err
	}
	if err := from.Chmod(name, info.Mode()|0o700); err != nil {
		return err
	}
	dir, err := openElement(from, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Chmod(Top, info.Mode()), dir.Close()) }()
	return rename()
}

// addBelow is addMissing for what is in folders of one name.
func addBelow(ctx context.Context, from, to *os.Root, name string) error {
	if info, err := to.Lstat(name); err != nil || !info.IsDir() {
		return err // something else is in its place, and stays
	}
	if err := from.Chmod(name, 0o700); err != nil { // only what is in it goes on
		return err
	}
	source, err := openElement(from, name)
	if err != nil {
		return err
	}
	defer source.Close() //nolint:errcheck // nothing is written through it
	target, err := openElement(to, name)
	if err != nil {
		return err
	}
	defer target.Close() //nolint:errcheck // nothing is written through it
	return addMissing(ctx, source, target)
}

// countFiles counts the files in a folder.
func countFiles(root *os.Root, name string) (n int64, err error) {
	err = fs.WalkDir(root.FS(), name, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			n++
		}
		return err
	})
	return n, err
}

// SharedFiles reports whether there are files that belong to none of the tenants.
func (r *Root) SharedFiles(tenants []Tenant) (found bool, err error) {
	root, err := r.open()
	if err != nil {
		return false, err
	}
	defer root.Close() //nolint:errcheck // it was only read
	skip := map[string]bool{}
	if err := r.skipMoves(root, skip); err != nil {
		return false, err
	}
	for folder := range r.owners(tenants) {
		skip[folder] = true
	}
	return holdsFiles(root, Top, func(name string) bool { return skip[name] })
}

// skipMoves adds the folders of restores, and of tenants that are about to appear.
func (r *Root) skipMoves(root *os.Root, skip map[string]bool) error {
	skip[notesFolder] = true
	moves, err := r.allMoves(root)
	if err != nil {
		return err
	}
	for _, m := range moves {
		if m.Placed.IsZero() { // there at any moment
			skip[m.Folder], skip[m.Incoming], skip[m.Replaced] = true, true, true
			continue
		}
		left, err := m.Left()
		if err != nil {
			return err
		}
		skip[left.Staging], skip[left.Replaced] = true, true
	}
	return nil
}

// RemoveShared removes what calls of AddShared that died have left beside the notes.
func (r *Root) RemoveShared() error {
	root, err := r.open()
	if err != nil {
		return err
	}
	defer root.Close() //nolint:errcheck // nothing is written through it
	notes, err := openNotes(root, false)
	if err != nil || notes == nil {
		return err
	}
	defer notes.Close() //nolint:errcheck // nothing is written through it
	entries, err := fs.ReadDir(notes.FS(), Top)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !sharedName.MatchString(e.Name()) {
			continue
		}
		dir, err := notes.Open(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if err := filelock.Try(dir, filelock.Exclusive); errors.Is(err, filelock.ErrLocked) {
			_ = dir.Close()
			continue
		}
		if err := errors.Join(removeAll(notes, e.Name()), filelock.Release(dir)); err != nil {
			return fmt.Errorf("remove folder %s: %w", path.Join(r.dir, notesFolder, e.Name()), err)
		}
	}
	_ = root.Remove(notesFolder) // where nothing else is in it
	return nil
}
