package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/restore"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

func newStartupCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "startup [-- COMMAND [ARGUMENT]...]",
		Short: "Fill an empty database as a container starts, then run the application",
		Long: `Wait for the database and, only if it has no tables, fill it: from the file of
RESTORE_BACKUP_FILE, else the backup of RESTORE_BACKUP_MANIFEST, else with
RESTORE_LATEST_BACKUP the newest one, else from the baseline of core, unless
LOAD_BASELINE is off. Where one fails the database is emptied again, and the next
one is tried. A manifest means core and all tenants of the backup. One that leaves
out schemas which other backups have is refused, unless with --incomplete. The
newest backup is completed with the newest ones of the tenants that it leaves out or
that were saved later by themselves.

Where nothing was restored, MIGRATE_COMMAND is run. Then the process is replaced
by the command after --, which gets its signals, and whose exit code is that of
the container. Where a restore was asked for and nothing could be restored, the
command does not start, unless with --start-empty.

A database with tables is never touched. Of several containers that start at once
one fills the database and the others wait. A container that was killed on the
way is noticed by the next one, which removes what it had made, and nothing else.

Exit codes, as long as the command does not run: 0 done, and there is no command;
1 failed; 2 wrong usage; 126 or 127 the command cannot be run or found; 130
interrupted.`,
		Example: `  tenantkeep startup -- gunicorn app.wsgi
  RESTORE_LATEST_BACKUP=true MIGRATE_COMMAND="python manage.py migrate_schemas" tenantkeep startup -- gunicorn app.wsgi
  tenantkeep startup --manifest 20261123_015930 --load-baseline=false`,
		GroupID: groupProtect,
		Args:    commandAfterDashes,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := a.settings(cmd)
			if err != nil {
				return err
			}
			return runStartup(cmd.Context(), a, cmd, cfg, args)
		},
	}
	config.AddFlags(cmd.Flags(), "database-url", "restore-backup-file", "restore-backup-manifest", "restore-latest-backup", "load-baseline",
		"restore-fallback", "restore-incomplete", "start-empty", "migrate-command", "startup-wait", "startup-peer-wait", "restore-no-owner", "restore-no-privileges",
		"baseline-dir", "jobs", "time-zone")
	config.AddFlags(cmd.Flags(), mediaFlags...)
	return cmd
}

// commandAfterDashes refuses words that do not stand after --.
func commandAfterDashes(cmd *cobra.Command, args []string) error {
	if before := cmd.ArgsLenAtDash(); len(args) > 0 && before != 0 {
		return &usageError{
			err:  fmt.Errorf("%s takes a command after --, and %s stands before it", cmd.CommandPath(), ui.Safe(args[0])),
			hint: fmt.Sprintf("write %s -- %s", cmd.CommandPath(), strings.Join(args, " ")),
		}
	}
	return nil
}

// runStartup fills the database where it is empty, and becomes the command.
func runStartup(ctx context.Context, a *app, cmd *cobra.Command, cfg *config.Config, command []string) error {
	s := &startup{app: a, cmd: cmd, cfg: cfg}
	path, err := findProgram(command)
	if err != nil {
		return err
	}
	if _, err := findProgram(cfg.Startup.MigrateCommand); err != nil {
		return fmt.Errorf("%s: %w", name(cfg, "migrate-command"), err)
	}
	if s.target, err = server(cfg); err != nil {
		return err
	}
	if s.host, err = os.Hostname(); err != nil {
		s.host = "unknown host"
	}
	if err := s.run(ctx); err != nil {
		return err
	}
	if path == "" {
		return nil
	}
	a.endAudit(ctx, nil)
	err = syscall.Exec(path, command, os.Environ())
	return &commandError{err: fmt.Errorf("run %s: %w", ui.Safe(path), err)}
}

// commandError is a command that cannot be run, or found.
type commandError struct {
	err     error
	missing bool
}

func (e *commandError) Error() string { return e.err.Error() }

func (e *commandError) Unwrap() error { return e.err }

// findProgram finds the program of a command, as a shell does; none where there
// is no command. What cannot be run is known before anything is restored.
func findProgram(command []string) (string, error) {
	if len(command) == 0 {
		return "", nil
	}
	path, err := exec.LookPath(command[0])
	if err != nil {
		return "", &commandError{err: fmt.Errorf("find the command: %w", err), missing: errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist)}
	}
	return path, nil
}

// startup is one start of a container.
type startup struct {
	*app
	cmd    *cobra.Command
	cfg    *config.Config
	target *pg.Server
	host   string

	conn    *pgx.Conn        // the only one that the marks of the database are written with; it holds the lock
	filling *restore.Filling // what is being restored; nil: nothing yet
	beat    *heartbeat       // of filling
}

// run makes the database ready for the application.
func (s *startup) run(ctx context.Context) error {
	var err error
	s.conn, err = s.target.Wait(ctx, s.cfg.Startup.Wait, s.tellWaiting)
	if err != nil {
		return err
	}
	defer func() { pg.Close(s.conn) }()
	first, err := restore.ReadContents(ctx, s.conn)
	if err != nil {
		return err
	}
	inUse := first.InUse()
	if inUse {
		s.ui().Printf("The database has tables, such as %s: nothing is restored.", ui.Safe(first.Tables[0]))
		if len(s.cfg.Startup.MigrateCommand) == 0 {
			return nil
		}
	}
	if err := s.lock(ctx); err != nil {
		return err
	}
	now, err := restore.ReadContents(ctx, s.conn)
	switch {
	case err != nil:
		return err
	case now.InUse() && !inUse:
		s.ui().Printf("Another container has filled the database meanwhile.")
		return nil
	case now.InUse():
		return s.migrate(ctx)
	case now.Filling != nil:
		if err := s.recover(ctx, now.Filling); err != nil {
			return err
		}
	case len(now.Others) > 0:
		s.ui().Printf("The database has no tables, but %s: that stays as it is.", strings.Join(now.Others, ", "))
	}
	restored, err := s.fill(ctx)
	if err != nil || restored {
		return err
	}
	return s.migrate(ctx)
}

// tellWaiting says why the database cannot be used yet.
func (s *startup) tellWaiting(e *pg.ConnectError) {
	limit := ui.Duration(s.cfg.Startup.Wait)
	switch e.State() {
	case pg.Refusing, pg.UnknownDatabase:
		s.ui().Warnf("the server is up and refuses: %v. %s. It is tried again, for %s at most: the database may not be set up yet", e, e.Hint(), limit)
	default:
		s.ui().Printf("Waiting for the database, for %s at most: %v", limit, e)
	}
}

// lock keeps other containers from the database until this one is done.
func (s *startup) lock(ctx context.Context) error {
	wait := s.cfg.Startup.PeerWait
	err := pg.LockStartup(ctx, s.conn, "startup on "+s.host, wait, func(e *pg.LockedError) {
		s.ui().Printf("Waiting for another container, for %s at most: %v", ui.Duration(wait), e)
	})
	if _, ok := errors.AsType[*pg.LockedError](err); ok {
		return fmt.Errorf("waited %s for another container: %w", ui.Duration(wait), err)
	}
	return err
}

// recover removes what a container that died has left.
func (s *startup) recover(ctx context.Context, left *restore.Filling) error {
	s.ui().Warnf("a container (%s) began to fill the database from %s at %s and died", left.Host, left.Source, left.Begun.UTC().Format("2006-01-02 15:04:05 UTC"))
	return s.patiently(ctx, func() error { return left.Clear(ctx, s.target, s.tellCleared) })
}

func (s *startup) tellCleared(schemas []string) {
	if len(schemas) == 0 {
		return
	}
	var names []string
	for i, name := range schemas {
		if i == 5 {
			names = append(names, fmt.Sprintf("and %d more", len(schemas)-i))
			break
		}
		names = append(names, ui.Safe(name))
	}
	s.ui().Warnf("removing what was restored of schema %s: the database is empty again then", strings.Join(names, ", "))
}

// patiently tries again as long as another run of tenantkeep works on the database,
// such as a backup, or on the repository, such as a cleanup.
func (s *startup) patiently(ctx context.Context, try func() error) error {
	told := ""
	for deadline := s.now().Add(s.cfg.Startup.PeerWait); ; {
		err := try()
		if !isBusy(err) || s.now().After(deadline) {
			return err
		}
		if text := err.Error(); text != told {
			s.ui().Printf("Waiting, for %s at most: %s", ui.Duration(s.cfg.Startup.PeerWait), text)
			told = text
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Second):
		}
	}
}

// isBusy reports whether somebody else works on the database or the repository.
func isBusy(err error) bool {
	_, database := errors.AsType[*pg.LockedError](err)
	_, repository := errors.AsType[*repo.LockedError](err)
	return database || repository
}

// migrate runs the command that makes the tables.
func (s *startup) migrate(ctx context.Context) error {
	words := s.cfg.Startup.MigrateCommand
	if len(words) == 0 {
		return nil
	}
	s.ui().Printf("Running %s: %s", name(s.cfg, "migrate-command"), ui.Safe(strings.Join(words, " ")))
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = s.stdout, s.stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it ends by itself, as the command would
	if err := cmd.Run(); err != nil {
		return &hintedError{
			err:  fmt.Errorf("%s: %s: %w", name(s.cfg, "migrate-command"), ui.Safe(words[0]), cmp.Or(context.Cause(ctx), err)),
			hint: "the application was not started; what the command had already done is still there",
		}
	}
	return nil
}
