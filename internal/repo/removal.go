package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// removal is the note of what a cleanup is about to remove. It is there before the
// first manifest goes, and until all of it is gone: a file that it names, and no
// manifest any more, was meant to go. A file that neither names may be all that is
// left of a backup whose manifest was lost.
type removal struct {
	Began   time.Time `json:"began"`
	Backups []string  `json:"backups"` // ids
	Files   []string  `json:"files"`   // keys, in order

	key string // of the note
}

func (n removal) names(key string) bool {
	_, found := slices.BinarySearch(n.Files, key)
	return found
}

// noteRemoval writes the note durably and returns its key.
func (r *Repo) noteRemoval(ctx context.Context, backups []Backup, files []storage.Info) (string, error) {
	n := removal{Began: r.now().UTC().Truncate(time.Second), Backups: []string{}, Files: []string{}}
	for _, b := range backups {
		n.Backups = append(n.Backups, b.ID)
	}
	for _, i := range files {
		n.Files = append(n.Files, i.Key)
	}
	slices.Sort(n.Files)
	content, err := json.MarshalIndent(n, "", "  ")
	if err != nil {
		return "", err
	}
	for i := 1; ; i++ {
		key := fmt.Sprintf("%s%s_%d%s", removalPrefix, n.Began.Format(idLayout), i, jsonSuffix)
		err := r.put(ctx, key, append(content, '\n'))
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err == nil {
			err = r.storage.Sync(ctx)
		}
		return key, err
	}
}

// removals reads the notes of cleanups that are at work or were interrupted. One
// that cannot be read names nothing.
func (r *Repo) removals(ctx context.Context) ([]removal, error) {
	var notes []removal
	err := r.storage.List(ctx, removalPrefix, func(i storage.Info) error {
		if strings.HasSuffix(i.Key, jsonSuffix) && i.Problem == "" {
			notes = append(notes, removal{key: i.Key})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find notes of removals: %w", err)
	}
	for i := range notes {
		n := &notes[i]
		content, err := r.content(ctx, n.key)
		if err == nil {
			err = json.Unmarshal(content, n)
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if err != nil || !slices.IsSorted(n.Files) {
			n.Files = nil
		}
	}
	return notes, nil
}

// settle ends removals that were interrupted: it removes what was noted of a
// rollback point that is gone, and a note once nothing of what it names is left to remove.
func (c *Cleaning) settle(ctx context.Context) error {
	notes, err := c.repo.removals(ctx)
	if err != nil || len(notes) == 0 {
		return err
	}
	named, err := namedBy(c.backups, c.strays)
	if err != nil {
		return nil //nolint:nilerr // nobody knows what is left to remove: the notes stay
	}
	there := make(map[string]bool)
	if err := c.repo.listFiles(ctx, func(i storage.Info) { there[i.Key] = true }); err != nil {
		return err
	}
	for _, n := range notes {
		open := n.Files == nil // it cannot be read, and is left to people
		for _, key := range n.Files {
			id := pointOf(key)
			switch {
			case there[key] && !isNamed(named, key):
				open = true
			case strings.HasPrefix(key, swapPrefix) && !slices.ContainsFunc(c.backups, func(b Backup) bool { return b.ID == id }):
				if err := c.repo.storage.Delete(ctx, key); err != nil {
					return err
				}
			}
		}
		if open {
			continue
		}
		if err := c.repo.storage.Sync(ctx); err != nil {
			return err
		}
		if err := c.repo.storage.Delete(ctx, n.key); err != nil {
			return err
		}
	}
	return c.repo.storage.Sync(ctx)
}
