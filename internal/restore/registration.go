package restore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/registry"
)

// registration is the rows that register the tenant of a unit, where this restore
// is to see to them: not where they come back with the tables that they are in,
// nor for another name.
func (r *run) registration(u *unit) []manifest.RegistryTable {
	if u.file == nil || u.core || r.Registry == registry.Skip || r.As != "" || len(r.Tables) > 0 {
		return nil
	}
	saved := u.file.Index.Header.Registration
	restored := func(t manifest.RegistryTable) bool {
		return slices.ContainsFunc(r.units, func(o *unit) bool {
			return slices.Contains(o.schemas, t.Schema) || o.core && t.Schema == manifest.CoreSchema
		})
	}
	if slices.ContainsFunc(saved, restored) {
		return nil
	}
	return saved
}

const withoutRegistration = "restore the tenant without the rows that register it: --registry skip"

// registrations finds out what becomes of the rows that register the tenants, by
// putting them back in a transaction that is taken back.
func (p *checker) registrations(ctx context.Context) error {
	for _, u := range p.readable() {
		if p.As != "" && p.Registry != registry.Skip && len(p.Tables) == 0 {
			if err := p.registeredAs(ctx, u); err != nil {
				return err
			}
		}
		saved := p.registration(u)
		if len(saved) == 0 || p.info.ReadOnly {
			continue
		}
		note := func(text string) { p.Progress.Note(slog.LevelWarn, "", text) }
		err := untilFree(ctx, p.main, saved[0].Schema, p.SwapTimeout, note, func() (err error) {
			u.registered, err = p.tryRegistration(ctx, u, saved)
			return err
		})
		switch {
		case err == nil:
			p.plannedSchema(u).Registration = u.registered
		case ctx.Err() != nil || pg.Lost(err):
			return err
		default:
			p.find(Finding{Tenant: u.entry.Tenant, Problem: err.Error(), Remedy: withoutRegistration, Err: err})
		}
	}
	return nil
}

func (p *checker) tryRegistration(ctx context.Context, u *unit, saved []manifest.RegistryTable) (report *registry.Report, err error) {
	tx, err := p.main.Begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("compare the registration of the tenant: %w", err)
	}
	defer func() { err = errors.Join(err, tx.Rollback(context.WithoutCancel(ctx))) }()
	return registry.Put(ctx, tx, saved, u.entry.Schema, p.Registry, true)
}

// registeredAs notes that the application does not know a schema under its new
// name.
func (p *checker) registeredAs(ctx context.Context, u *unit) error {
	saved := u.file.Index.Header.Registration
	if u.core || registry.Rows(saved) == 0 {
		return nil
	}
	known, err := registry.Registered(ctx, p.main, saved, p.As)
	if err != nil || known {
		return err
	}
	u.note(fmt.Sprintf("no row of %s registers %q: the rows that register %q are not copied for another name", saved[0].Schema+"."+saved[0].Name, p.As, u.entry.Schema))
	return nil
}

// putRegistration puts the rows back that register the tenant of a unit, in the
// transaction in which it appears.
func (r *run) putRegistration(ctx context.Context, tx pgx.Tx, u *unit) error {
	saved := r.registration(u)
	if len(saved) == 0 {
		return nil
	}
	report, err := registry.Put(ctx, tx, saved, u.entry.Schema, r.Registry, false)
	if err != nil {
		return err
	}
	u.registered = report
	return nil
}

// finishRegistered lets a tenant appear together with the rows that register it.
func (r *run) finishRegistered(ctx context.Context, u *unit, appear string) error {
	note := func(text string) { r.Progress.Note(slog.LevelWarn, "", text) }
	return untilFree(ctx, r.main, u.entry.Schema, r.SwapTimeout, note, func() error {
		return pgx.BeginFunc(ctx, r.main, func(tx pgx.Tx) error {
			if err := r.putRegistration(ctx, tx, u); err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, appear); err != nil {
				return fmt.Errorf("finish: %w", err)
			}
			return nil
		})
	})
}
