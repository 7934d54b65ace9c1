package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/baseline"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/plainsql"
	"github.com/tenantkeep/tenantkeep/internal/restore"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// source is something to fill an empty database from.
type source struct {
	setting string // its key
	what    string
	restore func(context.Context, RestoreOptions) error
}

// sources are those that the settings name, in the order of priority.
func (s *startup) sources() (list []source) {
	start := s.cfg.Startup
	backup := func(ctx context.Context, opts RestoreOptions) error {
		return runRestore(ctx, s.app, s.cmd, s.cfg, opts)
	}
	if start.BackupFile != "" {
		list = append(list, source{"restore-backup-file", "file " + start.BackupFile, s.restoreFile})
	}
	if start.BackupManifest != "" {
		list = append(list, source{"restore-backup-manifest", "backup " + start.BackupManifest, func(ctx context.Context, opts RestoreOptions) error {
			opts.Manifest = start.BackupManifest
			return backup(ctx, opts)
		}})
	}
	if start.LatestBackup {
		list = append(list, source{"restore-latest-backup", "the newest backup in " + s.cfg.Repository, func(ctx context.Context, opts RestoreOptions) error {
			opts.Latest = true
			return backup(ctx, opts)
		}})
	}
	if start.LoadBaseline {
		list = append(list, source{"load-baseline", "the baseline in " + s.cfg.BaselineDir, s.restoreBaseline})
	}
	return list
}

// fill restores the first source that can be restored, and reports whether one
// was.
func (s *startup) fill(ctx context.Context) (restored bool, err error) {
	sources := s.sources()
	var failed []string
	for i, from := range sources {
		label := name(s.cfg, from.setting)
		s.ui().Printf("The database is empty: filling it from %s (%s)", ui.Safe(from.what), label)
		err := s.patiently(ctx, func() error { return s.fillFrom(ctx, from) })
		if err == nil {
			return true, nil
		}
		if missing, ok := errors.AsType[*baseline.MissingError](err); ok {
			s.tellNoBaseline(missing)
			continue
		}
		if s.endsAll(ctx, err) {
			return false, err
		}
		text := fmt.Sprintf("%s: %v", label, err)
		failed = append(failed, text)
		next := "nothing else is left to restore from"
		switch {
		case i+1 < len(sources) && s.cfg.Startup.Fallback:
			next = "falling back to " + sources[i+1].what
		case i+1 < len(sources):
			next = "no fallback is wanted (restore-fallback)"
		}
		told := fmt.Sprintf("RESTORE FAILED. %s%s\nThe database is empty; %s.", text, nextLine(hintOf(err)), next)
		if !s.cfg.Startup.Fallback || i+1 == len(sources) || sources[i+1].setting != "load-baseline" {
			s.ui().Warnf("%s", told)
		} else {
			s.ui().Error(&hintedError{err: errors.New(told), hint: "the baseline has no rows of tenants: stop here if an older backup is whole, which RESTORE_BACKUP_MANIFEST takes " +
				"(tenantkeep restore --list-available shows them), empty the database and start again; RESTORE_FALLBACK=false never falls back"})
		}
		if !s.cfg.Startup.Fallback {
			break
		}
	}
	switch {
	case len(failed) == 0:
		s.ui().Printf("Nothing was restored: the database stays empty.")
		return false, nil
	case s.cfg.Startup.StartEmpty:
		s.ui().Warnf("nothing could be restored, and the application starts on an empty database (%s)", name(s.cfg, "start-empty"))
		return false, nil
	}
	return false, &hintedError{
		err: fmt.Errorf("the database is empty, and nothing could be restored that was asked for:\n%s", strings.Join(failed, "\n")),
		hint: "the application was not started, so that nobody takes the empty database for the real one. Mend the cause; or, if it is to begin empty, " +
			"take the setting away, or set STARTUP_START_EMPTY=true",
	}
}

// nextLine is a text on a line of its own, to go on with another one.
func nextLine(text string) string {
	if text == "" {
		return ""
	}
	return "\n" + text
}

// tellNoBaseline says that there is no baseline. It is no failure: a new system
// has none before its first migration.
func (s *startup) tellNoBaseline(e *baseline.MissingError) {
	if s.cfg.Given("load-baseline") {
		s.ui().Warnf("%s: %v. %s", name(s.cfg, "load-baseline"), e, e.Hint())
		return
	}
	s.ui().Printf("There is no baseline to begin with: %s is missing.", ui.Safe(e.Path))
}

// endsAll reports whether an error is not of the source: another source would do
// no better, and would be the wrong one once the server is well again.
func (s *startup) endsAll(ctx context.Context, err error) bool {
	if ctx.Err() != nil || s.conn.IsClosed() {
		return true
	}
	if _, ok := errors.AsType[*restore.FillingError](err); ok {
		return true
	}
	if _, ok := errors.AsType[*pg.ConnectError](err); ok || isBusy(err) {
		return true
	}
	code := pg.Code(err)
	if code == pg.DiskFull || strings.HasPrefix(code, "57P") || strings.HasPrefix(code, "08") {
		return true
	}
	return s.conn.Ping(ctx) != nil
}

// fillFrom restores one source. After an error the database is as empty as
// before, or the error is one that endsAll.
func (s *startup) fillFrom(ctx context.Context, from source) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	start := s.cfg.Startup
	opts := RestoreOptions{
		Yes: true, ExistingMedia: string(restore.ExistingKept), NoOwner: start.NoOwner, NoPrivileges: start.NoPrivileges, SwapTimeout: time.Minute,
		fill: func(ctx context.Context, p *restore.Plan) error { return s.begin(ctx, from, p, cancel) },
	}
	err := s.withRestoreHooks(s.cmd, s.cfg, func() error { return from.restore(ctx, opts) })
	if partial, ok := errors.AsType[*restore.PartialError](err); ok && len(partial.Failed) == 0 {
		s.ui().Warnf("%v\n%s", partial, partial.Hint())
		s.ui().Warnf("all rows are there: the database counts as restored, although objects are missing")
		err = nil
	}
	if s.beat != nil {
		err = errors.Join(err, s.beat.stop())
		s.beat = nil
	}
	filling := s.filling
	s.filling = nil
	if filling == nil { // nothing was touched
		return err
	}
	undo, stop := context.WithTimeout(context.WithoutCancel(ctx), clearTimeout)
	defer stop()
	if err == nil {
		return s.finish(undo, filling)
	}
	if s.conn.Ping(undo) != nil {
		// Without the lock another container may be at work already.
		return fmt.Errorf("%w\nwhat was restored is removed by the next start", err)
	}
	if errClear := s.patiently(undo, func() error { return filling.Clear(undo, s.target, s.tellCleared) }); errClear != nil {
		return &restore.FillingError{
			Err:    fmt.Errorf("%w\nwhat was restored could not be removed: %w", err, errClear),
			Advice: "nothing else is restored into the same database; the next start tries to remove it again" + nextLine(hintOf(errClear)),
		}
	}
	return err
}

// clearTimeout bounds the removal of what a failed restore has made. What is left
// then is removed by the next start.
const clearTimeout = 10 * time.Minute

func (s *startup) finish(ctx context.Context, filling *restore.Filling) error {
	if err := filling.Finish(ctx, s.conn); err != nil {
		return &restore.FillingError{Err: err, Advice: "everything was restored, but the next start cannot know that and restores it again"}
	}
	return nil
}

// begin marks the database once a restore has checked everything, before it makes
// the first object. Where the source is restored from several backups the mark is that
// of all of them. cancel ends the restore.
func (s *startup) begin(ctx context.Context, from source, p *restore.Plan, cancel context.CancelCauseFunc) error {
	for _, one := range p.Schemas {
		if one.Live != nil {
			return &restore.FillingError{
				Err:    fmt.Errorf("schema %s exists: an empty database is filled, and nothing is replaced", ui.Safe(one.As)),
				Advice: "somebody else works on the database: nothing was restored",
			}
		}
	}
	if s.filling != nil {
		beat := s.beat
		s.beat = nil
		if err := beat.stop(); err != nil { // it works on the same connection
			return err
		}
		if err := s.filling.Extend(ctx, s.conn, p.Makes); err != nil {
			return err
		}
		s.beat = startHeartbeat(s.conn, s.filling, cancel)
		return nil
	}
	filling, err := restore.BeginFilling(ctx, s.conn, from.what, s.host, p.Makes)
	if err != nil {
		return err
	}
	s.filling = filling
	s.beat = startHeartbeat(s.conn, filling, cancel)
	return nil
}

// beatEvery is how often a container that fills a database gives a sign of life.
const beatEvery = 10 * time.Second

// heartbeat shows others that a container is alive, and the container itself that
// it has the lock.
type heartbeat struct {
	done chan struct{}
	wait sync.WaitGroup
	err  error
}

// startHeartbeat gives signs of life until stop. Where one cannot be given cancel
// is called: somebody else may have the lock then.
func startHeartbeat(conn *pgx.Conn, filling *restore.Filling, cancel context.CancelCauseFunc) *heartbeat {
	h := &heartbeat{done: make(chan struct{})}
	h.wait.Go(func() {
		ticks := time.NewTicker(beatEvery)
		defer ticks.Stop()
		for {
			select {
			case <-h.done:
				return
			case <-ticks.C:
			}
			// To cancel a statement would end the connection, and with it the lock.
			ctx, stop := context.WithTimeout(context.Background(), 3*beatEvery)
			h.err = filling.Beat(ctx, conn)
			stop()
			if h.err != nil {
				h.err = fmt.Errorf("the connection that keeps other containers away was lost: %w", h.err)
				cancel(h.err)
				return
			}
		}
	})
	return h
}

// stop ends the signs of life. The connection may be used again then.
func (h *heartbeat) stop() error {
	close(h.done)
	h.wait.Wait()
	return h.err
}

// restoreFile restores a plain SQL script: of one schema, or of a whole database,
// which only an empty one takes.
func (s *startup) restoreFile(ctx context.Context, opts RestoreOptions) error {
	return s.restoreScript(ctx, opts, s.cfg.Startup.BackupFile)
}

func (s *startup) restoreScript(ctx context.Context, opts RestoreOptions, path string) error {
	opts.BackupFile = path
	err := runRestoreFile(ctx, s.app, s.cmd, s.cfg, opts)
	if s.filling != nil { // it had begun
		return err
	}
	several, is := errors.AsType[*restore.ScriptSchemaError](err)
	switch {
	case is && len(several.Uses) > 1:
		opts.Schemas = several.Uses[:1]
		if slices.Contains(several.Uses, manifest.CoreSchema) {
			opts.Schemas = []string{manifest.CoreSchema}
		}
	case is && len(several.Uses) == 0:
		opts.Schemas = []string{manifest.CoreSchema}
	case !onlyOutside(err):
		return err
	}
	s.ui().Printf("The script is not one of a single schema: it is restored as that of a whole database.")
	opts.AllowOutside = true
	return runRestoreFile(ctx, s.app, s.cmd, s.cfg, opts)
}

// onlyOutside reports whether a script was refused for nothing but that it reaches
// outside of one schema.
func onlyOutside(err error) bool {
	refused, ok := errors.AsType[*restore.ScriptRefusedError](err)
	return ok && refused.Count == len(refused.Refused) && !slices.ContainsFunc(refused.Refused, func(r *plainsql.RefusedError) bool { return !r.Outside })
}

// restoreBaseline restores the baseline of core. One that tenantkeep did not write
// is that of the original system, a script.
func (s *startup) restoreBaseline(ctx context.Context, opts RestoreOptions) error {
	opts.Baseline = true
	err := runRestoreBaseline(ctx, s.app, s.cmd, s.cfg, opts)
	if damaged, ok := errors.AsType[*baseline.DamagedError](err); ok && damaged.Foreign && !damaged.Media && s.filling == nil {
		s.ui().Printf("%v: it is restored as a plain SQL script.", damaged)
		opts.Baseline = false
		key, err := baseline.Key("")
		if err != nil {
			return err
		}
		return s.restoreScript(ctx, opts, filepath.Join(s.cfg.BaselineDir, key))
	}
	return err
}
