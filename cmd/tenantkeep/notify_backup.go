package main

import (
	"cmp"
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/tenantkeep/tenantkeep/internal/backup"
	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/job"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/notify"
	"github.com/tenantkeep/tenantkeep/internal/repo"
)

// announced is a backup of whose end people are told. Nil: of which nobody is.
type announced struct {
	*app
	run     notify.Run
	running *notify.Running
	repo    *repo.Repo
	stays   bool // the process makes the run again when it is started anew
}

// announce tells that a backup begins, where the setting notify asks for it.
// Nothing of it can fail the backup.
func (a *app) announce(ctx context.Context, cmd *cobra.Command, cfg *config.Config, o backup.Options, scheduled bool) *announced {
	channels := a.channels(cfg, scheduled)
	if len(channels) == 0 {
		return nil
	}
	store, err := openStorage(cfg)
	if err != nil {
		return nil // it was opened a moment ago
	}
	run := a.newRun(cfg, notify.Backup, o.Server)
	run.Type, run.Scope = string(o.Type), o.Schemas
	n := &announced{app: a, repo: o.Repo, run: run, stays: cmd.Name() == "serve"}
	n.running = a.newOutbox(cmd, cfg, store, channels).Begin(ctx, run)
	return n
}

// end tells how the run ended: by its first backup, and by what else went wrong. It
// takes no longer than the setting notify-timeout.
func (n *announced) end(ctx context.Context, done *job.Outcome) {
	if n == nil {
		return
	}
	// Each deployment stops a process that stays: what that makes again is no failure,
	// and where it does not, health and heartbeats tell.
	if n.stays && done.Kind == job.Interrupted {
		n.running.End(ctx, nil)
		return
	}
	first := done.First()
	o := notify.Outcome{Ended: n.now(), Failures: failuresOf(first.Result, first.Err)}
	if first.Result != nil {
		o.Manifest = first.Result.Manifest
	}
	if done.Plan != nil {
		o.Settled = settled(done)
	}
	var partial *backup.PartialError
	if first.Err != nil && !errors.As(first.Err, &partial) {
		o.Err, o.Hint = wholeError(ctx, first.Err), hintOf(first.Err)
	}
	for _, b := range done.Backups[min(1, len(done.Backups)):] {
		if b.Err != nil {
			o.Others = append(o.Others, notify.Problem{Tenant: string(b.Type) + " of core", Error: wholeError(ctx, b.Err).Error()})
			o.Hint = cmp.Or(o.Hint, hintOf(b.Err))
		}
	}
	o.Before = before(context.WithoutCancel(ctx), n.repo, n.run.Database, o.Manifest)
	n.running.End(ctx, n.run.Backup(o))
}

// settled says of which schemas a scheduled run knows that all is well with them
// although it did nothing about them: nothing of them is due, or they are gone.
func settled(done *job.Outcome) func(schema string) bool {
	well := map[string]bool{notify.Elsewhere: true} // where it failed again that is told again
	for _, d := range done.Plan.Decisions {
		well[d.Schema] = d.Due == "" && !d.Files
	}
	return func(schema string) bool {
		if is, known := well[schema]; known {
			return is
		}
		return len(done.Scope) == 0
	}
}

// wholeError is why a run failed as a whole, without the single tenants, which
// the message lists by themselves.
func wholeError(ctx context.Context, err error) error {
	var failed *backup.FailedError
	switch {
	case ctx.Err() != nil:
		return errors.New("it was interrupted by a signal")
	case errors.As(err, &failed):
		return errors.New("no schema could be saved")
	default:
		return err
	}
}

// hintOf is what an error says about what to do next.
func hintOf(err error) string {
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) {
		return hinted.Hint()
	}
	return ""
}

// failuresOf are the single schemas that a backup could not save.
func failuresOf(r *backup.Result, err error) []manifest.Failure {
	var failed *backup.FailedError
	switch {
	case r != nil && r.Manifest != nil:
		return r.Manifest.Failures
	case errors.As(err, &failed):
		return failed.Failures
	default:
		return nil
	}
}

// beforeWithin is among how many backups the one before is looked for: others of
// the repository may be of other databases, or of other schemas.
const beforeWithin = 20

// before is the newest backup of a database that can be compared with the
// present one, which may be nil; nil: there is none, or none that can be read.
func before(ctx context.Context, r *repo.Repo, database string, now *manifest.Manifest) (found *manifest.Manifest) {
	looked := 0
	err := r.Newest(ctx, func(b repo.Backup) bool {
		looked++
		m := b.Manifest
		switch {
		case m == nil || m.Database == nil || m.Database.Name != database:
		case now == nil:
			found = m
		case m.ID == now.ID || now.Database != nil && m.Database.SystemIdentifier != now.Database.SystemIdentifier:
		default:
			if c := notify.Compare(now, m, false); c != nil && c.Schemas > 0 {
				found = m
			}
		}
		return found == nil && looked < beforeWithin
	})
	if err != nil {
		return nil // without a comparison the message is as true
	}
	return found
}
