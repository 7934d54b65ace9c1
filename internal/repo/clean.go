package repo

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// Cleaning removes backups and orphans from a repository that it has for itself.
type Cleaning struct {
	repo    *Repo
	backups []Backup // all that are there; removed ones are taken out
}

// Clean calls work while nobody else uses the repository. The context that work
// gets is cancelled when the lock is lost. While others use the repository the
// error is a *LockedError.
func (r *Repo) Clean(ctx context.Context, work func(context.Context, *Cleaning) error) (err error) {
	ctx, unlock, err := r.Lock(ctx, Exclusive, "cleanup")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	backups, err := r.List(ctx)
	if err != nil {
		return err
	}
	return work(ctx, &Cleaning{repo: r, backups: backups})
}

// Backups are all backups that are there, the newest first.
func (c *Cleaning) Backups() []Backup { return slices.Clone(c.backups) }

// Remove removes backups: first their manifests, and only once these are gone for
// good the files that no other manifest names, and what confirms that a rollback
// point is in force. Killed at any point it leaves whole backups, and at the worst
// files for which there is no manifest. While a manifest cannot be read nothing is
// removed. It returns what it removed, also with an error.
func (c *Cleaning) Remove(ctx context.Context, ids []string) (removed []storage.Info, err error) {
	if len(ids) == 0 {
		return nil, nil
	}
	gone, left, files, err := c.repo.split(ctx, c.backups, ids)
	if err != nil {
		return nil, fmt.Errorf("remove backups: %w", err)
	}
	for _, b := range gone {
		if b.Bare { // there is none
			continue
		}
		if err := c.repo.storage.Delete(ctx, b.Key); err != nil {
			return removed, err
		}
		removed = append(removed, b.info())
	}
	c.backups = left
	if err := c.repo.storage.Sync(ctx); err != nil {
		return removed, fmt.Errorf("remove backups: %w", err)
	}
	if err := c.check(ctx); err != nil {
		return removed, err
	}
	more, err := c.repo.delete(ctx, files)
	return append(removed, more...), err
}

// split tells the backups with these ids from the others, and finds the files
// that are theirs alone.
func (r *Repo) split(ctx context.Context, backups []Backup, ids []string) (gone, left []Backup, files []storage.Info, err error) {
	chosen := setOf(ids)
	for _, b := range backups {
		if chosen[b.ID] {
			gone = append(gone, b)
		} else {
			left = append(left, b)
		}
	}
	unneeded, err := namedBy(gone)
	if err != nil {
		return nil, nil, nil, err
	}
	needed, err := namedBy(left)
	if err != nil {
		return nil, nil, nil, err
	}
	err = r.listFiles(ctx, func(i storage.Info) {
		if isNamed(unneeded, i.Key) && !isNamed(needed, i.Key) {
			files = append(files, i)
		}
	})
	if err != nil {
		return nil, nil, nil, err
	}
	err = r.storage.List(ctx, swapPrefix, func(i storage.Info) error {
		if chosen[idOf(i.Key)] {
			files = append(files, i)
		}
		return nil
	})
	return gone, left, files, err
}

// info describes the manifest.
func (b Backup) info() storage.Info {
	return storage.Info{Key: b.Key, Size: b.size, Modified: b.modified}
}

// check makes sure that the manifests are those that are known. On a shared
// directory whose locks do not work, another machine may have written one.
func (c *Cleaning) check(ctx context.Context) error {
	known := make(map[string]bool, len(c.backups))
	for _, b := range c.backups {
		known[b.Key] = true
	}
	backups, err := c.repo.names(ctx)
	if err != nil {
		return err
	}
	for _, b := range backups {
		if !known[b.Key] {
			return fmt.Errorf("remove files of backups: %s appeared while this had the repository for itself: its locks do not work", b.Key)
		}
	}
	return nil
}

// RemoveOrphans removes orphans that OldOrphans still finds.
func (c *Cleaning) RemoveOrphans(ctx context.Context, keys []string, age time.Duration) ([]storage.Info, error) {
	orphans, err := c.repo.OldOrphans(ctx, c.backups, age)
	if err != nil {
		return nil, err
	}
	chosen := setOf(keys)
	orphans = slices.DeleteFunc(orphans, func(i storage.Info) bool { return !chosen[i.Key] })
	if len(orphans) == 0 {
		return nil, nil
	}
	if err := c.check(ctx); err != nil {
		return nil, err
	}
	return c.repo.delete(ctx, orphans)
}

// RemoveTemporary removes what writers left that were killed at least age ago.
func (c *Cleaning) RemoveTemporary(ctx context.Context, age time.Duration) ([]storage.Info, error) {
	cleaner, ok := storage.As[storage.Cleaner](c.repo.storage)
	if !ok {
		return nil, nil
	}
	removed, err := cleaner.CleanTemporary(ctx, age)
	return removed, errors.Join(err, c.repo.storage.Sync(ctx))
}

func setOf(words []string) map[string]bool {
	set := make(map[string]bool, len(words))
	for _, w := range words {
		set[w] = true
	}
	return set
}

// delete deletes files durably and returns those that are gone.
func (r *Repo) delete(ctx context.Context, files []storage.Info) ([]storage.Info, error) {
	for n, i := range files {
		if err := r.storage.Delete(ctx, i.Key); err != nil {
			return files[:n], err
		}
	}
	return files, r.storage.Sync(ctx)
}

// OldOrphans returns the data files and media archives that none of the backups
// names, that the original system cannot have written, that were last written to at least age ago, and whose run is not at work
// any more or has left no mark: those with a mark are for the next backup to
// remove. The backups must be all that there are.
func (r *Repo) OldOrphans(ctx context.Context, backups []Backup, age time.Duration) ([]storage.Info, error) {
	named, err := namedBy(backups)
	if err != nil {
		return nil, fmt.Errorf("find orphans: %w", err)
	}
	runs, err := r.marks(ctx)
	if err != nil {
		return nil, err
	}
	before := r.now().Add(-age)
	var orphans []storage.Info
	err = r.listFiles(ctx, func(i storage.Info) {
		if !isNamed(named, i.Key) && !i.Modified.After(before) && !slices.Contains(runs, runOf(i.Key)) {
			orphans = append(orphans, i)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("find orphans: %w", err)
	}
	return slices.DeleteFunc(orphans, func(i storage.Info) bool { return r.isForeign(ctx, i) }), ctx.Err()
}

// Interrupted returns the runs that have begun after the newest of the backups
// and have not ended. To whoever has the repository for himself they are dead.
func (r *Repo) Interrupted(ctx context.Context, backups []Backup) ([]string, error) {
	var newest time.Time
	for _, b := range backups {
		if t, ok := idTime(b.ID); ok && t.After(newest) && !t.After(r.now()) {
			newest = t
		}
	}
	marks, err := r.marks(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(marks, func(id string) bool {
		t, ok := idTime(id)
		return !ok || !t.After(newest)
	}), nil
}

// marks returns the ids of the runs that have a mark.
func (r *Repo) marks(ctx context.Context) ([]string, error) {
	var ids []string
	err := r.storage.List(ctx, runPrefix, func(i storage.Info) error {
		ids = append(ids, strings.TrimSuffix(path.Base(i.Key), jsonSuffix))
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find marks of runs: %w", err)
	}
	return ids, nil
}
