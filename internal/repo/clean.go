package repo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// Cleaning removes backups and orphans from a repository that it has for itself.
type Cleaning struct {
	repo    *Repo
	backups []Backup // all that are there; removed ones are taken out
	strays  []Backup
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
	c := &Cleaning{repo: r}
	if c.backups, c.strays, err = r.read(ctx); err != nil {
		return err
	}
	if err := work(ctx, c); err != nil {
		return err
	}
	return c.settle(ctx)
}

// Backups are all backups that are there, the newest first.
func (c *Cleaning) Backups() []Backup { return slices.Clone(c.backups) }

// Same reports whether two descriptions are of one backup, whose manifest has not
// been exchanged in between.
func (b Backup) Same(o Backup) bool {
	return b.Key == o.Key && b.ID == o.ID && b.size == o.size && b.modified.Equal(o.modified)
}

// Remove removes backups, which must be there as they are described: first their
// manifests, and only once these are gone for good the files that no other manifest
// names, and what is noted of them as rollback points. Before that it notes
// down what it is about to remove, so that the files are known for what they are
// if it is killed; whatever the point, whole backups are left. While a manifest
// cannot be read nothing is removed. It returns what it removed, also with an
// error.
func (c *Cleaning) Remove(ctx context.Context, chosen []Backup) (removed []storage.Info, err error) {
	if len(chosen) == 0 {
		return nil, nil
	}
	left, files, err := c.split(ctx, chosen)
	if err != nil {
		return nil, fmt.Errorf("remove backups: %w", err)
	}
	note, err := c.repo.noteRemoval(ctx, chosen, files)
	if err != nil {
		return nil, fmt.Errorf("remove backups: %w", err)
	}
	for _, b := range chosen {
		if b.Bare { // there is no manifest
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
	if err == nil {
		err = c.repo.storage.Delete(ctx, note)
	}
	return append(removed, more...), err
}

// split finds the backups that are left without the chosen ones, and the files
// that are theirs alone.
func (c *Cleaning) split(ctx context.Context, chosen []Backup) (left []Backup, files []storage.Info, err error) {
	ids := make(map[string]int)
	for _, b := range c.backups {
		ids[b.ID]++
	}
	going := make(map[string]bool)
	for _, b := range chosen {
		if !slices.ContainsFunc(c.backups, b.Same) {
			return nil, nil, fmt.Errorf("backup %s is not there any more as it was", b.ID)
		}
		if ids[b.ID] > 1 {
			return nil, nil, fmt.Errorf("%d backups have the id %s", ids[b.ID], b.ID)
		}
		going[b.ID] = true
	}
	left = slices.DeleteFunc(slices.Clone(c.backups), func(b Backup) bool { return going[b.ID] })
	unneeded, err := namedBy(chosen)
	if err != nil {
		return nil, nil, err
	}
	needed, err := namedBy(left, c.strays)
	if err != nil {
		return nil, nil, err
	}
	err = c.repo.listFiles(ctx, func(i storage.Info) {
		if isNamed(unneeded, i.Key) && !isNamed(needed, i.Key) && i.Problem == "" {
			files = append(files, i)
		}
	})
	if err != nil {
		return nil, nil, err
	}
	err = c.repo.storage.List(ctx, swapPrefix, func(i storage.Info) error {
		if going[pointOf(i.Key)] {
			files = append(files, i)
		}
		return nil
	})
	return left, files, err
}

// info describes the manifest.
func (b Backup) info() storage.Info {
	return storage.Info{Key: b.Key, Size: b.size, Modified: b.modified}
}

// check makes sure that the manifests are those that are known. On a shared
// directory whose locks do not work, another machine may have written one.
func (c *Cleaning) check(ctx context.Context) error {
	known := make(map[string]bool, len(c.backups))
	for _, b := range slices.Concat(c.backups, c.strays) {
		known[b.Key] = true
	}
	backups, strays, err := c.repo.names(ctx)
	if err != nil {
		return err
	}
	for _, b := range append(backups, strays...) {
		if !known[b.Key] {
			return fmt.Errorf("remove files of backups: %s appeared while this had the repository for itself: its locks do not work", b.Key)
		}
	}
	return nil
}

// RemoveOrphans removes orphans that OldOrphans still finds as they are described.
func (c *Cleaning) RemoveOrphans(ctx context.Context, chosen []Orphan, age time.Duration) ([]storage.Info, error) {
	orphans, err := c.repo.oldOrphans(ctx, age, c.backups, c.strays)
	if err != nil {
		return nil, err
	}
	var files []storage.Info
	for _, o := range orphans {
		if o.Problem == "" && slices.Contains(chosen, o) {
			files = append(files, o.Info)
		}
	}
	if len(files) == 0 {
		return nil, nil
	}
	if err := c.check(ctx); err != nil {
		return nil, err
	}
	return c.repo.delete(ctx, files)
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

// delete deletes files durably and returns those that are gone.
func (r *Repo) delete(ctx context.Context, files []storage.Info) ([]storage.Info, error) {
	for n, i := range files {
		if err := r.storage.Delete(ctx, i.Key); err != nil {
			return files[:n], err
		}
	}
	return files, r.storage.Sync(ctx)
}

// Orphan is a file that no manifest names.
type Orphan struct {
	storage.Info
	// Removal says that a cleanup, which was interrupted, has removed its backup
	// on purpose. Of any other orphan nobody knows whether its manifest was lost.
	Removal bool
	// Backup is the id of the backup that it says to belong to; empty: it says
	// nothing that can be read.
	Backup string
}

// OldOrphans returns the data files and media archives that no manifest names,
// that the original system cannot have written, that were last written to at least age ago, and whose run is not at work any
// more or has left no mark: those with a mark are for the next backup to remove.
// The backups must be all that there are.
func (r *Repo) OldOrphans(ctx context.Context, backups []Backup, age time.Duration) ([]Orphan, error) {
	strays, err := r.Strays(ctx)
	if err != nil {
		return nil, fmt.Errorf("find orphans: %w", err)
	}
	return r.oldOrphans(ctx, age, backups, strays)
}

func (r *Repo) oldOrphans(ctx context.Context, age time.Duration, lists ...[]Backup) ([]Orphan, error) {
	named, err := namedBy(lists...)
	if err != nil {
		return nil, fmt.Errorf("find orphans: %w", err)
	}
	marks, err := r.marks(ctx)
	if err != nil {
		return nil, err
	}
	running := make(map[string]bool)
	for _, i := range marks {
		running[idOf(i.Key)] = true
	}
	removals, err := r.removals(ctx)
	if err != nil {
		return nil, err
	}
	before := r.now().Add(-age)
	var orphans []Orphan
	err = r.listFiles(ctx, func(i storage.Info) {
		if !isNamed(named, i.Key) && !i.Modified.After(before) && !running[runOf(i.Key)] {
			orphans = append(orphans, Orphan{Info: i, Removal: slices.ContainsFunc(removals, func(n removal) bool { return n.names(i.Key) })})
		}
	})
	if err != nil {
		return nil, fmt.Errorf("find orphans: %w", err)
	}
	orphans = slices.DeleteFunc(orphans, func(o Orphan) bool { return !o.Removal && o.Problem == "" && r.isForeign(ctx, o.Info) })
	for i := range orphans {
		o := &orphans[i]
		if o.Removal || o.Problem != "" {
			continue
		}
		if index, err := r.dataIndex(ctx, o.Key); err == nil {
			o.Backup = index.Header.Backup
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return orphans, nil
}

// Interrupted returns the runs that have begun after the newest of the backups
// and have not ended. To whoever has the repository for himself they are dead.
func (r *Repo) Interrupted(ctx context.Context, backups []Backup) ([]string, error) {
	var newest time.Time
	for _, b := range backups {
		if t, ok := IDTime(b.ID); ok && t.After(newest) && !t.After(r.now()) {
			newest = t
		}
	}
	marks, err := r.marks(ctx)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, i := range marks {
		if t, ok := IDTime(idOf(i.Key)); ok && t.After(newest) {
			ids = append(ids, idOf(i.Key))
		}
	}
	return ids, nil
}

// marks lists the marks of runs.
func (r *Repo) marks(ctx context.Context) ([]storage.Info, error) {
	var marks []storage.Info
	err := r.storage.List(ctx, runPrefix, func(i storage.Info) error {
		if i.Key == runKey(idOf(i.Key)) {
			marks = append(marks, i)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find marks of runs: %w", err)
	}
	return marks, nil
}
