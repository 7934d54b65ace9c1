package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tenantkeep/tenantkeep/internal/audit"
	"github.com/tenantkeep/tenantkeep/internal/backup"
	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/job"
	"github.com/tenantkeep/tenantkeep/internal/media"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// backupOptions are what the settings say about any backup.
func (a *app) backupOptions(cmd *cobra.Command, cfg *config.Config, progress ui.Progress) (o backup.Options, err error) {
	target, err := server(cfg)
	if err != nil {
		return o, err
	}
	tables, err := registryTables(cfg)
	if err != nil {
		return o, err
	}
	repository, _, err := a.openRepository(cfg)
	if err != nil {
		return o, err
	}
	files, err := mediaSource(cfg)
	if err != nil {
		return o, err
	}
	return backup.Options{
		Server: target, Repo: repository, Media: files, Registry: tables,
		Schemas: cfg.Schemas, ExcludeSchemas: cfg.ExcludeSchemas, MaxChain: cfg.MaxChain, Summaries: backup.Summaries(cfg.WALSummaries),
		Compression:   datafile.Compression{Algorithm: datafile.Algorithm(cfg.Compression.Method), Level: cfg.Compression.Level},
		RetentionDays: cfg.RetentionDays, Retention: retentionOf(cfg), Jobs: cfg.Jobs, PgDump: cfg.PgDump, LockTimeout: cfg.LockTimeout,
		Version: buildVersion().Version, Progress: progress, Log: a.logger(cmd, cfg),
	}, nil
}

// parts are what a run of backups with these options does besides them: hooks,
// notifications, the results on stdout, and the audit trail. shown is why these
// could not be written.
func (a *app) parts(cmd *cobra.Command, cfg *config.Config, o backup.Options, form format, scheduled bool) (p job.Parts, shown *error) {
	shown = new(error)
	hooks := a.newHooks(cmd, cfg, "before-backup", "after-backup")
	var told *announced
	announced := false
	return job.Parts{
		Now: a.now,
		Before: func(ctx context.Context, steps []job.Step) error {
			first := steps[0].Backup
			told, announced = a.announce(ctx, cmd, cfg, first, scheduled), true
			hooks.note("TYPE", string(first.Type))
			hooks.note("SCHEMAS", strings.Join(first.Schemas, "\n"))
			if err := hooks.begin(ctx); err != nil {
				return err
			}
			return a.warnPending(ctx, cfg, first.Server)
		},
		Done: func(b *job.Backup) {
			a.noteBackup(b)
			*shown = errors.Join(*shown, a.showBackup(*b, o, form))
		},
		After: func(ctx context.Context, done *job.Outcome) {
			first := done.First()
			hooks.noteBackup(first.Result, first.Err)
			hooks.end(ctx, ended(done, done.Err))
		},
		Tell: func(ctx context.Context, done *job.Outcome) {
			if !announced { // nobody could find out what is due
				told = a.announce(ctx, cmd, cfg, o, scheduled)
			}
			told.end(ctx, done)
		},
	}, shown
}

// warnPending tells of tenants whose files are not those of their rows.
func (a *app) warnPending(ctx context.Context, cfg *config.Config, target *pg.Server) error {
	files, err := mediaRoot(cfg)
	if err != nil {
		return err
	}
	list, err := pendingMedia(ctx, target, files)
	if unreadable, ok := errors.AsType[*media.RootError](err); ok { // which concerns what is beside the tenants' folders
		a.ui().Warnf("%v: %s", unreadable, unreadable.Hint())
		return nil
	}
	for _, l := range list {
		a.ui().Warnf("the files of schema %s wait in %s for their place, since a restore was interrupted: those from before are saved; tenantkeep cleanup puts them in place", ui.Safe(l.Tenant), ui.Safe(l.Name))
	}
	return err
}

// noteBackup tells the audit trail of a backup that was made.
func (a *app) noteBackup(b *job.Backup) {
	if b.Result == nil || b.Result.Manifest == nil {
		return
	}
	a.noteAudit(func(r *audit.Record) {
		if id := b.Result.Manifest.ID; r.Backup == "" {
			r.Backup = id
		} else {
			r.Backups = append(r.Backups, id)
		}
	})
}

// ended is the error of a run, for its exit code.
func ended(o *job.Outcome, err error) error {
	if o.Kind == job.Partial {
		return &partialError{err}
	}
	return err
}
