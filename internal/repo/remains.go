package repo

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// Orphans returns the data files and media archives that no manifest names. A
// backup that is running has such files: whoever removes orphans holds the lock
// exclusively and leaves young ones alone. While a manifest cannot be read
// nobody knows what it names, which is an error.
func (r *Repo) Orphans(ctx context.Context) ([]storage.Info, error) {
	// The files come first: those of a backup that ends meanwhile are then
	// named by its manifest.
	var files []storage.Info
	if err := r.listFiles(ctx, func(i storage.Info) { files = append(files, i) }); err != nil {
		return nil, fmt.Errorf("find orphans: %w", err)
	}
	backups, err := r.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("find orphans: %w", err)
	}
	named, err := namedBy(backups)
	if err != nil {
		return nil, fmt.Errorf("find orphans: %w", err)
	}
	var orphans []storage.Info
	for _, f := range files {
		if !isNamed(named, f.Key) {
			orphans = append(orphans, f)
		}
	}
	return orphans, nil
}

// listFiles lists the data files and media archives.
func (r *Repo) listFiles(ctx context.Context, yield func(storage.Info)) error {
	for _, prefix := range []string{dataPrefix, mediaPrefix} {
		err := r.storage.List(ctx, prefix, func(i storage.Info) error {
			yield(i)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// namedBy returns the keys of all files that backups name: their own, and those
// of earlier backups. One whose manifest cannot be read is an error that matches
// errUnreadable.
func namedBy(backups []Backup) (map[string]bool, error) {
	named := make(map[string]bool)
	for _, b := range backups {
		if b.Err != nil {
			return nil, fmt.Errorf("%w: %s: %w", errUnreadable, b.Key, b.Err)
		}
		for _, s := range b.Manifest.Schemas {
			if s.Filepath != "" {
				key, err := s.Key(b.Manifest.Format)
				if err != nil {
					return nil, fmt.Errorf("%w: %s: %w", errUnreadable, b.Key, err)
				}
				named[key] = true
			}
			if s.MediaBackup != "" {
				key, err := s.MediaKey(b.Manifest.Format)
				if err != nil {
					return nil, fmt.Errorf("%w: %s: %w", errUnreadable, b.Key, err)
				}
				named[key] = true
			}
			for _, key := range s.References {
				named[key] = true
			}
			if s.Media != nil {
				for _, key := range s.Media.References {
					named[key] = true
				}
			}
		}
		for _, f := range b.Manifest.Failures {
			named[f.File] = true
		}
		for _, key := range b.Manifest.Unreadable {
			named[key] = true
		}
	}
	return named, nil
}

// isNamed looks for the folders around a file too: the original system may
// have saved media as a folder.
func isNamed(named map[string]bool, key string) bool {
	for ; key != "."; key = path.Dir(key) {
		if named[key] {
			return true
		}
	}
	return false
}

// RemoveRemains removes what runs that were killed left: temporary files, data
// files that they had finished, and marks. While a manifest cannot be read, the
// data files and their marks stay. It returns what it removed. It needs the repository for itself; while
// others use it nothing is removed and the error is a *LockedError, with which
// a backup goes on, since a later run removes the remains.
func (r *Repo) RemoveRemains(ctx context.Context) (removed []storage.Info, err error) {
	ctx, unlock, err := r.lock(ctx, Exclusive, "removal of remains", 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()

	if c, ok := storage.As[storage.Cleaner](r.storage); ok {
		removed, err = c.CleanTemporary(ctx, 0)
		if err != nil {
			return removed, err
		}
	}
	var marks []storage.Info
	err = r.storage.List(ctx, runPrefix, func(i storage.Info) error {
		marks = append(marks, i)
		return nil
	})
	if err != nil {
		return removed, fmt.Errorf("find marks of dead runs: %w", err)
	}
	files, known, err := r.remainsOf(ctx, marks)
	if err != nil {
		return removed, err
	}
	if !known {
		return removed, r.storage.Sync(ctx)
	}
	// The marks go last: without them nobody would know the files for remains.
	for _, i := range append(files, marks...) {
		if err := r.storage.Delete(ctx, i.Key); err != nil {
			return removed, err
		}
		removed = append(removed, i)
	}
	return removed, r.storage.Sync(ctx)
}

// remainsOf returns the files that the runs of these marks wrote and that no
// backup needs. known is false where that cannot be told, because a manifest
// cannot be read.
func (r *Repo) remainsOf(ctx context.Context, marks []storage.Info) (files []storage.Info, known bool, err error) {
	if len(marks) == 0 {
		return nil, true, nil
	}
	orphans, err := r.Orphans(ctx)
	if errors.Is(err, errUnreadable) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	dead := make(map[string]bool)
	for _, i := range marks {
		dead[strings.TrimSuffix(path.Base(i.Key), jsonSuffix)] = true
	}
	for _, i := range orphans {
		if dead[runOf(i.Key)] {
			files = append(files, i)
		}
	}
	return files, true, nil
}

// errUnreadable says that a manifest cannot be read.
var errUnreadable = errors.New("a manifest cannot be read")
