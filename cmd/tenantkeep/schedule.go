package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tenantkeep/tenantkeep/internal/backup"
	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/job"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/schedule"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// ScheduleOptions are the flags of the command schedule that are no settings.
type ScheduleOptions struct {
	DryRun bool
	Wait   bool
	Yes    bool
	Format format
}

// AddFlags adds the flags.
func (o *ScheduleOptions) AddFlags(flags *pflag.FlagSet) {
	flags.BoolVar(&o.DryRun, "dry-run", false, "say what is due and why, and do nothing")
	flags.BoolVar(&o.Wait, "wait", false, "wait for another run in the same database to end, for as long as it takes")
	flags.BoolVar(&o.Yes, "yes", false, "ask nothing; a scheduled run never does")
	o.Format.addFlag(flags, formatTable, formatJSON)
}

// scheduleFlags are the settings that say when what is due.
var scheduleFlags = []string{"schedule-full", "schedule-incremental", "schedule-baseline", "schedule-tenant", "schedule-type", "schedule-cleanup"}

func newScheduleCommand(a *app) *cobra.Command {
	var opts ScheduleOptions
	cmd := &cobra.Command{
		Use:   "schedule",
		Short: "Make the backups that are due, then remove old ones",
		Long: `Decide which backups are due, make them, and remove what the retention policy
does not keep. It is meant for cron or a timer, and may run as often as you like:
where nothing is due it does nothing.

By default the baseline of core is renewed on the first of a month, full backups
are due on Sundays and incremental ones every day, at midnight in --time-zone. Each
can be a cron expression or off, also for single tenants (--schedule-tenant).

What counts is which backups exist. What was missed is caught up, what failed is
tried again, for the tenants that failed, and a tenant that no backup holds gets a
full one at once. A schema that needs more than --max-chain files of earlier
backups is taken in full. All that is due is one backup, of one moment.

The baseline of core is renewed once a first one was made by hand, or
--schedule-baseline was given, and only where --table-data and
--exclude-table-data name every table of core that has rows: those of customers
must not get into it.

Two runs in one database never overlap. The second says who is at work since when
and fails, or waits (--wait). Old backups are removed only after all that was due
succeeded; --schedule-cleanup=false keeps them.

Exit codes: 0 done, or nothing was due; 1 nothing saved; 2 wrong usage; 3 some of
it failed and the rest is safe; 130 interrupted.`,
		Example: `  tenantkeep schedule --dry-run
  tenantkeep schedule --wait
  tenantkeep schedule --schedule-full '0 3 * * 6' --time-zone Europe/Berlin
  tenantkeep schedule --schedule-tenant 'vip_* incremental 0 * * * *' --schedule-tenant 'demo_* off'`,
		GroupID: groupProtect,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.settings(cmd)
			if err != nil {
				return err
			}
			if opts.DryRun {
				return planSchedule(cmd.Context(), a, cmd, cfg, opts)
			}
			return runSchedule(cmd.Context(), a, cmd, cfg, opts)
		},
	}
	opts.AddFlags(cmd.Flags())
	flags := append([]string{
		"database-url", "schema", "exclude-schema", "table-data", "exclude-table-data", "baseline-dir", "registry-tables", "max-chain",
		"wal-summaries", "compression", "retention-days", "jobs", "pg-dump", "lock-timeout",
	}, scheduleFlags...)
	flags = slices.Concat(flags, mediaFlags, retentionSettings, notifyFlags)
	config.AddFlags(cmd.Flags(), flags...)
	return cmd
}

// scheduleSettings are what the settings say about when what is due.
func scheduleSettings(cfg *config.Config) (s schedule.Settings, err error) {
	for _, when := range []struct {
		key, text string
		to        *schedule.When
	}{
		{"schedule-full", cfg.ScheduleFull, &s.Full},
		{"schedule-incremental", cfg.ScheduleIncremental, &s.Incremental},
		{"schedule-baseline", cfg.ScheduleBaseline, &s.Baseline},
	} {
		if *when.to, err = schedule.ParseWhen(when.text); err != nil {
			return s, asUsage(fmt.Errorf("%s: %w", name(cfg, when.key), err))
		}
	}
	for _, text := range cfg.ScheduleTenants {
		r, err := schedule.ParseRule(text)
		if err != nil {
			return s, asUsage(fmt.Errorf("%s: %w", name(cfg, "schedule-tenant"), err))
		}
		s.Rules = append(s.Rules, r)
	}
	s.Type, s.Zone, s.MaxChain, s.Media = manifest.Type(cfg.ScheduleType), cfg.TimeZone, cfg.MaxChain, cfg.IncludeMedia
	s.BaselineAsked = cfg.Given("schedule-baseline")
	if len(cfg.TableData)+len(cfg.ExcludeTableData) == 0 {
		s.NoBaseline = "nothing says whose rows belong to it: name the tables of core with table-data and exclude-table-data"
	}
	return s, nil
}

// scheduled is the schedule that the settings ask for, and the options of its
// backups.
func (a *app) scheduled(cmd *cobra.Command, cfg *config.Config, progress ui.Progress) (*job.Schedule, backup.Options, error) {
	settings, err := scheduleSettings(cfg)
	if err != nil {
		return nil, backup.Options{}, err
	}
	if _, err := retentionPolicy(cfg); err != nil { // not once the backup is made
		return nil, backup.Options{}, err
	}
	o, err := a.backupOptions(cmd, cfg, progress)
	if err != nil {
		return nil, o, err
	}
	return &job.Schedule{
		Server: o.Server, Repo: o.Repo, Settings: settings, Schemas: cfg.Schemas, ExcludeSchemas: cfg.ExcludeSchemas,
		Lacking: func(ctx context.Context) (func(*manifest.Manifest, int) bool, error) {
			store, err := openStorage(cfg)
			if err != nil {
				return nil, err
			}
			files := &fileCheck{}
			files.sizes, _, err = fileSizes(ctx, store)
			return files.lacks, err
		},
		Waiting: func(e *pg.LockedError) { a.ui().Printf("Waiting: %s", ui.SafeText(e.Error())) },
		Begin: func(_ context.Context, p *schedule.Plan) error {
			return a.beginAudit(cmd, cfg)
		},
		Step: func(due schedule.Step) (job.Step, error) {
			step := job.Step{Backup: o}
			if due.Type == manifest.Baseline {
				(&BackupOptions{}).baseline(cfg, &step.Backup)
				// Nobody looks at what is in it: a table that nobody thought of is an error.
				step.Backup.Rows.Complete, step.Backup.Rows.Strict = true, nil
				step.Save = func(ctx context.Context, m *manifest.Manifest) (string, error) {
					return a.writeBaseline(ctx, o.Repo, cfg, "", m)
				}
			}
			return step, nil
		},
	}, o, nil
}

func planSchedule(ctx context.Context, a *app, cmd *cobra.Command, cfg *config.Config, opts ScheduleOptions) error {
	s, _, err := a.scheduled(cmd, cfg, a.progress(opts.Format))
	if err != nil {
		return err
	}
	now := a.now()
	plan, err := s.Plan(ctx, now)
	if err != nil {
		return err
	}
	return a.showSchedule(plan, cfg, now, opts.Format)
}

// runSchedule makes one scheduled run.
func runSchedule(ctx context.Context, a *app, cmd *cobra.Command, cfg *config.Config, opts ScheduleOptions) error {
	s, o, err := a.scheduled(cmd, cfg, a.progress(opts.Format))
	if err != nil {
		return err
	}
	s.Wait = opts.Wait
	begin := s.Begin
	s.Begin = func(ctx context.Context, p *schedule.Plan) error {
		if err := a.tellDue(p, cfg, opts.Format); err != nil {
			return err
		}
		return begin(ctx, p)
	}
	p, shown := a.parts(cmd, cfg, o, opts.Format, true)
	p.Retain = a.scheduledCleanup(cmd, cfg, opts.Format)
	plan, done, err := s.Run(ctx, p)
	if locked, ok := errors.AsType[*pg.LockedError](err); ok && locked.PID > 0 {
		return &hintedError{err: err, hint: fmt.Sprintf("--wait waits for it; if its client is dead, end it with: SELECT pg_terminate_backend(%d)", locked.PID)}
	}
	if done == nil {
		if err == nil {
			err = a.tellIdle(plan, cfg, opts.Format)
			a.flushNotifications(ctx, cmd, cfg)
		}
		return err
	}
	return errors.Join(ended(done, err), *shown)
}

// scheduledCleanup removes what is too old, after backups that the schedule made;
// nil: it does not.
func (a *app) scheduledCleanup(cmd *cobra.Command, cfg *config.Config, form format) func(context.Context) error {
	if !cfg.ScheduleCleanup {
		return nil
	}
	return func(ctx context.Context) error {
		clean := cleanupDefaults()
		clean.Yes, clean.brief, clean.Format = true, true, form
		began := a.now()
		err := runCleanup(ctx, a, cfg, clean)
		a.tellCleanup(ctx, cmd, cfg, began, err, true)
		return err
	}
}

// zoned writes a time for people, by the clock of the schedule.
func zoned(t time.Time, cfg *config.Config) string {
	return t.In(cfg.TimeZone).Format("2006-01-02 15:04 MST")
}
