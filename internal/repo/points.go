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
