package job

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/backup"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/schedule"
)

// Schedule is what a scheduled run needs to know.
type Schedule struct {
	Server   *pg.Server
	Repo     *repo.Repo
	Settings schedule.Settings

	Schemas        []string // only these, by exact name; empty: core and all tenants
	ExcludeSchemas []string // not these

	// Lacking looks which files are there, and returns what tells whether the n-th entry
	// of a manifest lacks some. Nil: nobody looks.
	Lacking func(context.Context) (func(m *manifest.Manifest, n int) bool, error)

	// Wait waits for another run of tenantkeep in the same database to end; without
	// it there is a *pg.LockedError. Waiting, if not nil, hears for whom, once.
	Wait    bool
	Waiting func(*pg.LockedError)

	// Begin hears of a run that has something to do, before it does it.
	Begin func(context.Context, *schedule.Plan) error
	// Step makes the options of a backup that is due. They are completed here.
	Step func(schedule.Step) (Step, error)
}

// Plan decides what is due now and does nothing about it.
func (s *Schedule) Plan(ctx context.Context, now time.Time) (*schedule.Plan, error) {
	conn, err := s.Server.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer pg.Close(conn)
	return s.decide(ctx, conn, now)
}

// Run decides what is due and makes it, as one run. Both happen under the lock of
// the database: of two runs that begin at once the second finds nothing left to do.
// The outcome is nil where nothing was due, or others kept it from beginning.
func (s *Schedule) Run(ctx context.Context, p Parts) (*schedule.Plan, *Outcome, error) {
	if p.Now == nil {
		p.Now = time.Now
	}
	began := p.Now()
	plan, o, err := s.run(ctx, p)
	if _, locked := errors.AsType[*pg.LockedError](err); o != nil || err == nil || locked {
		return plan, o, err
	}
	o = &Outcome{Began: began, Scope: s.Schemas, Err: err}
	return plan, o, o.finish(ctx, p)
}

func (s *Schedule) run(ctx context.Context, p Parts) (*schedule.Plan, *Outcome, error) {
	conn, err := s.Server.Connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	release := func() { pg.Close(conn); conn = nil }
	defer release()
	if err := s.lock(ctx, conn); err != nil {
		return nil, nil, err
	}
	plan, err := s.decide(ctx, conn, p.Now())
	if err != nil || !plan.Work() {
		return plan, nil, err
	}
	if s.Begin != nil {
		if err := s.Begin(ctx, plan); err != nil {
			return plan, nil, err
		}
	}
	var steps []Step
	for _, due := range plan.Steps() {
		step, err := s.Step(due)
		if err != nil {
			return plan, nil, err
		}
		step.Backup.Type, step.Backup.Full, step.Backup.Locked = due.Type, due.Full, true
		step.dropped = true
		if due.Schemas != nil {
			step.Backup.Schemas, step.Backup.ExcludeSchemas = due.Schemas, nil
		}
		steps = append(steps, step)
	}
	if retain := p.Retain; retain != nil {
		// It takes the lock itself, for as long as it needs it.
		p.Retain = func(ctx context.Context) error { release(); return retain(ctx) }
	}
	o := &Outcome{Scope: s.Schemas, Plan: plan, lock: conn}
	return plan, o, o.make(ctx, steps, p)
}

// lock takes the lock of the database.
func (s *Schedule) lock(ctx context.Context, conn *pgx.Conn) error {
	told := false
	for {
		err := pg.Lock(ctx, conn, "schedule")
		locked, is := errors.AsType[*pg.LockedError](err)
		if !is || !s.Wait {
			return err
		}
		if !told && s.Waiting != nil {
			s.Waiting(locked)
			told = true
		}
	}
}

// decide finds out what there is, and what is due of it.
func (s *Schedule) decide(ctx context.Context, conn *pgx.Conn, now time.Time) (*schedule.Plan, error) {
	info, err := pg.ReadInfo(ctx, conn)
	if err != nil {
		return nil, err
	}
	names, err := backup.ListSchemas(ctx, conn)
	if err != nil {
		return nil, err
	}
	if names, err = s.scope(info.Name, names); err != nil {
		return nil, err
	}
	backups, err := s.Repo.Catalog(ctx)
	if err != nil {
		return nil, fmt.Errorf("list backups: %w", err)
	}
	facts := schedule.Facts{
		Now: now, Schemas: names,
		Database: manifest.Database{Name: info.Name, Encoding: info.Encoding, SystemIdentifier: info.SystemIdentifier},
	}
	for _, b := range backups {
		if b.Err == nil && !b.Bare {
			facts.Backups = append(facts.Backups, b.Manifest)
		}
	}
	if s.Lacking != nil {
		if facts.Lacks, err = s.Lacking(ctx); err != nil {
			return nil, err
		}
	}
	return schedule.Decide(facts, s.Settings), nil
}

// scope is which of the schemas of a database are backed up.
func (s *Schedule) scope(database string, names []string) ([]string, error) {
	var missing []string
	for _, name := range s.Schemas {
		if !slices.Contains(names, name) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return nil, &backup.NoSchemaError{Database: database, Names: missing, Known: names}
	}
	left := slices.DeleteFunc(slices.Clone(names), func(name string) bool {
		return len(s.Schemas) > 0 && !slices.Contains(s.Schemas, name) || slices.Contains(s.ExcludeSchemas, name)
	})
	if len(left) == 0 && len(names) > 0 {
		return nil, errors.New("every schema is excluded: there is nothing to back up")
	}
	return left, nil
}
