package backup

import (
	"context"
	"errors"
	"fmt"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/registry"
)

// readRegistrations reads the rows that register the tenants of a group, on the
// coordinator's session, which gives its locks on their tables back at once. What
// keeps it from reading them is kept with the tenants.
func (d *round) readRegistrations(ctx context.Context, group []*tenant) error {
	if len(d.registry) == 0 {
		return nil
	}
	var names []string
	for _, t := range group {
		if !t.core {
			names = append(names, t.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	found, err := d.tryRegistrations(ctx, names)
	for attempt := 1; pg.Code(err) == pg.LockNotAvailable && attempt < lockAttempts; attempt++ {
		d.Progress.Note(slogWarn, "", "another session holds a lock on the tables that register tenants: trying again")
		found, err = d.tryRegistrations(ctx, names)
	}
	switch {
	case err == nil:
	case ctx.Err() != nil || pg.Lost(err):
		return err
	case errors.Is(err, registry.ErrRewritten) || pg.Missing(err):
		err = &changedError{err.Error()}
	default:
		err = fmt.Errorf("%w (--registry-table none does without)", err)
	}
	for _, t := range group {
		if !t.core {
			t.registration, t.unregistered = found[t.Name], err
		}
	}
	return nil
}

func (d *round) tryRegistrations(ctx context.Context, names []string) (found map[string][]manifest.RegistryTable, err error) {
	tx, err := d.tx.Begin(ctx) // a savepoint
	if err != nil {
		return nil, fmt.Errorf("read registrations: %w", err)
	}
	defer func() { err = errors.Join(err, tx.Rollback(context.WithoutCancel(ctx))) }()
	if _, err := tx.Exec(ctx, fmt.Sprintf("SET LOCAL lock_timeout = %d", d.LockTimeout.Milliseconds())); err != nil {
		return nil, fmt.Errorf("read registrations: %w", err)
	}
	return registry.Read(ctx, tx, d.registry, names)
}
