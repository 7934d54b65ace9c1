package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// Expect notes of a rollback point that what it was made for is about to be tried.
// A point of which this is noted, and not that it has happened, is that of a restore
// that failed, or died. One of which neither is noted may have lost its notes.
func (r *Repo) Expect(ctx context.Context, id string) error {
	err := r.note(ctx, pendingKey(id), struct {
		Began time.Time `json:"began"`
	}{r.now().UTC().Truncate(time.Second)})
	if err != nil {
		return fmt.Errorf("note that rollback point %s is in use: %w", id, err)
	}
	return nil
}

// Confirm notes of a rollback point that what it was made for has happened: the
// live schemas were replaced. A point of which nothing says so is nothing to go back
// to. Confirming it again is fine.
func (r *Repo) Confirm(ctx context.Context, id string) error {
	err := r.note(ctx, swapKey(id), struct {
		Swapped time.Time `json:"swapped"`
	}{r.now().UTC().Truncate(time.Second)})
	if err == nil {
		err = r.storage.Delete(ctx, pendingKey(id))
	}
	if err != nil {
		return fmt.Errorf("confirm rollback point %s: %w", id, err)
	}
	return nil
}

// note writes a small object durably, unless it is there.
func (r *Repo) note(ctx context.Context, key string, v any) error {
	content, err := json.Marshal(v)
	if err == nil {
		err = r.put(ctx, key, append(content, '\n'))
	}
	if err == nil || errors.Is(err, fs.ErrExist) {
		err = r.storage.Sync(ctx)
	}
	return err
}

// Confirmed returns the ids that Confirm was called with.
func (r *Repo) Confirmed(ctx context.Context) (map[string]bool, error) {
	return r.pointNotes(ctx, swapKey)
}

// Expected returns the ids that Expect was called with, and not Confirm.
func (r *Repo) Expected(ctx context.Context) (map[string]bool, error) {
	return r.pointNotes(ctx, pendingKey)
}

// pointNotes returns the ids of the points that have a note of one kind.
func (r *Repo) pointNotes(ctx context.Context, keyOf func(id string) string) (map[string]bool, error) {
	ids := map[string]bool{}
	err := r.storage.List(ctx, swapPrefix, func(i storage.Info) error {
		if id := pointOf(i.Key); i.Key == keyOf(id) {
			ids[id] = true
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list notes of rollback points: %w", err)
	}
	return ids, nil
}

// pointOf is the id of the rollback point that a note is of.
func pointOf(key string) string {
	if id, pending := strings.CutSuffix(path.Base(key), pendingSuffix); pending {
		return id
	}
	return idOf(key)
}
