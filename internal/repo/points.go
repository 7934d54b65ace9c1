package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// Confirm notes of a rollback point that what it was made for has happened: the
// live schemas were replaced. A point of which nothing says so is that of a
// restore that failed, or died, and is nothing to go back to. Confirming it again
// is fine.
func (r *Repo) Confirm(ctx context.Context, id string) error {
	content, err := json.Marshal(struct {
		Swapped time.Time `json:"swapped"`
	}{r.now().UTC().Truncate(time.Second)})
	if err == nil {
		err = r.put(ctx, swapKey(id), append(content, '\n'))
	}
	if err == nil || errors.Is(err, fs.ErrExist) {
		err = r.storage.Sync(ctx)
	}
	if err != nil {
		return fmt.Errorf("confirm rollback point %s: %w", id, err)
	}
	return nil
}

// Confirmed returns the ids that Confirm was called with.
func (r *Repo) Confirmed(ctx context.Context) (map[string]bool, error) {
	ids := map[string]bool{}
	err := r.storage.List(ctx, swapPrefix, func(i storage.Info) error {
		ids[strings.TrimSuffix(path.Base(i.Key), jsonSuffix)] = true
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list confirmed rollback points: %w", err)
	}
	return ids, nil
}

// Remove removes a backup: its manifest, and only when that is gone for good the
// data files that it names and no other backup does. The caller holds the lock
// exclusively, or knows that nobody reads the backup.
func (r *Repo) Remove(ctx context.Context, b Backup) error {
	if b.Manifest == nil {
		return fmt.Errorf("remove backup %s: %w", b.ID, errUnreadable)
	}
	var keys []string
	for _, s := range b.Manifest.Schemas {
		if s.Filepath == "" {
			continue
		}
		key, err := s.Key(b.Manifest.Format)
		if err != nil {
			return fmt.Errorf("remove backup %s: %w", b.ID, err)
		}
		keys = append(keys, key)
	}
	err := r.storage.Delete(ctx, b.Key)
	if err == nil {
		err = r.storage.Sync(ctx)
	}
	if err != nil {
		return fmt.Errorf("remove backup %s: %w", b.ID, err)
	}
	orphans, err := r.Orphans(ctx)
	if err != nil {
		return fmt.Errorf("remove backup %s: %w", b.ID, err)
	}
	for _, key := range append(keys, swapKey(b.ID)) {
		if key != swapKey(b.ID) && !slices.ContainsFunc(orphans, func(i storage.Info) bool { return i.Key == key }) {
			continue
		}
		if err := r.storage.Delete(ctx, key); err != nil {
			return fmt.Errorf("remove backup %s: %w", b.ID, err)
		}
	}
	return r.storage.Sync(ctx)
}
