// Package job makes one whole run: the hooks before, the backups, retention, the
// hooks after, and word of how it ended. The commands, the schedule and the server
// make their runs with it, so that all of them happen in the same order and end in
// the same way.
package job

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/backup"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/schedule"
)

// Step is one backup of a run.
type Step struct {
	Backup backup.Options
	// Save writes what was backed up to another place as well, as baselines are, and
	// returns where that is. Nil: it is nowhere else.
	Save func(context.Context, *manifest.Manifest) (string, error)

	// dropped lets schemas go that were dropped since it was decided to save them.
	dropped bool
}

// Parts are what a run does besides its backups. Each may be nil.
type Parts struct {
	// Before comes before anything is done. After an error nothing is.
	Before func(context.Context, []Step) error
	// Retain removes what is too old. It is left out unless all of core and tenants
	// that was to be saved is saved.
	Retain func(context.Context) error
	// After comes in the end, however the run ended, where Before came. What goes
	// wrong in it changes nothing: the backups are what they are.
	After func(context.Context, *Outcome)
	// Tell tells others how the run ended, whatever came of it. It must not take long.
	Tell func(context.Context, *Outcome)

	Done func(*Backup)    // hears of each backup at once
	Now  func() time.Time // nil: time.Now
}

// Kind is how a run ended.
type Kind string

// The ends of a run.
const (
	Succeeded   Kind = "succeeded"
	Partial     Kind = "partial" // something is saved, and something failed
	Failed      Kind = "failed"
	Interrupted Kind = "interrupted"
)

// Outcome is what came of a run.
type Outcome struct {
	Began, Ended time.Time
	Scope        []string // the schemas that were asked for; empty: all
	Backups      []Backup // that were tried, in their order
	Retained     bool     // retention was done, to its end
	Err          error    // all that went wrong
	Kind         Kind
	Plan         *schedule.Plan // that a scheduled run carried out; nil: there is none

	began bool      // Before was called
	lock  *pgx.Conn // holds the lock of the database during the backups; nil: each takes it for itself
}

// First is what came of the first backup; where none was tried, of the run.
func (o *Outcome) First() Backup {
	if len(o.Backups) == 0 {
		return Backup{Err: o.Err}
	}
	return o.Backups[0]
}

// Backup is what came of one step.
type Backup struct {
	Type   manifest.Type  // that was asked for
	Result *backup.Result // nil: it failed as a whole
	Saved  string         // the other place
	Err    error          // of the backup, or of its other place
}

// Run makes a run. The error is that of the outcome, which is there in any case.
func Run(ctx context.Context, steps []Step, p Parts) (*Outcome, error) {
	if p.Now == nil {
		p.Now = time.Now
	}
	o := &Outcome{}
	return o, o.make(ctx, steps, p)
}

// make makes a run.
func (o *Outcome) make(ctx context.Context, steps []Step, p Parts) error {
	o.Began = p.Now()
	o.Err = o.run(ctx, steps, p)
	return o.finish(ctx, p)
}

func (o *Outcome) run(ctx context.Context, steps []Step, p Parts) error {
	o.began = true
	if p.Before != nil {
		if err := p.Before(ctx, steps); err != nil {
			return err
		}
	}
	var errs []error
	saved, failed := false, false
	for _, s := range steps {
		b := s.runUnder(ctx, o.lock)
		o.Backups = append(o.Backups, b)
		if p.Done != nil {
			p.Done(&o.Backups[len(o.Backups)-1])
		}
		errs = append(errs, b.Err)
		if ctx.Err() != nil {
			break
		}
		saved = saved || b.Err == nil
		// Of a baseline that cannot be made no tenant is worse off, while old backups
		// that are never removed fill the disk.
		failed = failed || b.Err != nil && b.Type != manifest.Baseline
	}
	if p.Retain != nil && saved && !failed && ctx.Err() == nil {
		err := p.Retain(ctx)
		o.Retained = err == nil
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// runUnder makes one backup, as long as the lock is held.
func (s *Step) runUnder(ctx context.Context, lock *pgx.Conn) Backup {
	if lock == nil {
		return s.run(ctx)
	}
	watched, stop := pg.Watch(ctx, lock)
	b := s.run(watched)
	stop()
	if b.Result == nil { // else the backup was complete before
		b.Err = pg.LockLost(watched, b.Err)
	}
	return b
}

// run makes one backup.
func (s *Step) run(ctx context.Context) Backup {
	b := Backup{Type: s.Backup.Type}
	b.Result, b.Err = backup.Run(ctx, s.Backup)
	if gone, ok := errors.AsType[*backup.NoSchemaError](b.Err); ok && s.dropped {
		left := slices.DeleteFunc(slices.Clone(s.Backup.Schemas), func(name string) bool { return slices.Contains(gone.Names, name) })
		if len(left) == 0 {
			return Backup{Type: b.Type}
		}
		s.Backup.Schemas = left
		b.Result, b.Err = backup.Run(ctx, s.Backup)
	}
	if b.Err == nil && s.Save != nil && b.Result.Manifest != nil {
		b.Saved, b.Err = s.Save(ctx, b.Result.Manifest)
	}
	return b
}

// finish says how the run ended, to itself and to others.
func (o *Outcome) finish(ctx context.Context, p Parts) error {
	o.Ended = p.Now()
	o.Kind = o.kind(ctx)
	// Both get the context also after a signal ended it: they say what they do then.
	if p.After != nil && o.began {
		p.After(ctx, o)
	}
	if p.Tell != nil {
		p.Tell(ctx, o)
	}
	return o.Err
}

func (o *Outcome) kind(ctx context.Context) Kind {
	saved := false
	for _, b := range o.Backups {
		saved = saved || b.Result != nil
	}
	switch {
	case o.Err == nil:
		return Succeeded
	case ctx.Err() != nil:
		return Interrupted
	case saved:
		return Partial
	default:
		return Failed
	}
}
