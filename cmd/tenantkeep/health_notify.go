package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/health"
	"github.com/tenantkeep/tenantkeep/internal/notify"
	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// notifiers finds out which of them do not work.
func (x *examiner) notifiers(ctx context.Context, store storage.Storage) {
	channels, faults := channelsOf(x.cfg)
	for _, f := range faults {
		x.facts.NotifierFailures = append(x.facts.NotifierFailures, health.NotifierFailure{Notifier: f.Channel, Error: f.Err.Error()})
	}
	status, err := x.newOutbox(x.cmd, x.cfg, store, channels).Status(ctx)
	if err != nil {
		x.unknown(health.CheckNotifications, err)
		return
	}
	for _, s := range status {
		if s.Waiting == 0 && s.Error == "" {
			continue
		}
		f := health.NotifierFailure{Notifier: s.Channel, Since: s.Since, Count: s.Waiting, Error: s.Error}
		if f.Since.IsZero() {
			f.Since = s.Failed
		}
		x.facts.NotifierFailures = append(x.facts.NotifierFailures, f)
	}
}

// tellHealth tells others of checks that have turned bad, or are good again. What
// they know already they are not told: whoever makes the checks, and how often.
func (a *app) tellHealth(ctx context.Context, cmd *cobra.Command, cfg *config.Config, r *health.Report) {
	channels := a.channels(cfg, true)
	if len(channels) == 0 {
		return
	}
	store, err := openStorage(cfg)
	if err != nil {
		return // the report says so
	}
	target, err := server(cfg)
	if err != nil {
		target = nil
	}
	run := a.newRun(cfg, notify.Health, target)
	a.newOutbox(cmd, cfg, store, channels).Tell(ctx, healthEvent(run, r, a.now()))
}

// healthEvent is a report as an event. Each check is one thing, whatever it found:
// a night without backups is no reason for a message about every tenant.
func healthEvent(run notify.Run, r *health.Report, now time.Time) *notify.Event {
	e := run.Event(notify.Worsened, now)
	for _, c := range r.Bad() {
		e.Checks = append(e.Checks, notify.Check{Name: c.Name, State: c.State.String(), Text: c.Text(), Remedy: c.Remedy})
	}
	return e
}
