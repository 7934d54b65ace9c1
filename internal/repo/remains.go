package repo

import (
	"context"
	"errors"
	"fmt"
	"path"

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
	for _, prefix := range []string{dataPrefix, mediaPrefix} {
		err := r.storage.List(ctx, prefix, func(i storage.Info) error {
			files = append(files, i)
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("find orphans: %w", err)
		}
	}
	backups, err := r.List(ctx)
	if err != nil {
		return nil, fmt.Errorf("find orphans: %w", err)
	}
	named := make(map[string]bool)
	for _, b := range backups {
		if b.Err != nil {
			return nil, fmt.Errorf("find orphans: manifest %s cannot be read: %w", b.Key, b.Err)
		}
		for _, s := range b.Manifest.Schemas {
			if s.Filepath != "" {
				key, err := s.Key(b.Manifest.Format)
				if err != nil {
					return nil, fmt.Errorf("find orphans: %s: %w", b.Key, err)
				}
				named[key] = true
			}
			if s.MediaBackup != "" {
				key, err := s.MediaKey(b.Manifest.Format)
				if err != nil {
					return nil, fmt.Errorf("find orphans: %s: %w", b.Key, err)
				}
				named[key] = true
			}
			for _, key := range s.References {
				named[key] = true
			}
		}
	}
	var orphans []storage.Info
	for _, f := range files {
		if !isNamed(named, f.Key) {
			orphans = append(orphans, f)
		}
	}
	return orphans, nil
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

// RemoveRemains removes what runs that were killed left: temporary files and
// marks. It returns what it removed. It needs the repository for itself; while
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
	for _, i := range marks {
		if err := r.storage.Delete(ctx, i.Key); err != nil {
			return removed, err
		}
		removed = append(removed, i)
	}
	return removed, r.storage.Sync(ctx)
}
