package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/health"
	"github.com/tenantkeep/tenantkeep/internal/job"
	"github.com/tenantkeep/tenantkeep/internal/metrics"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	web "github.com/tenantkeep/tenantkeep/internal/server"
	"github.com/tenantkeep/tenantkeep/internal/storage"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

func newServeCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Stay, run the schedule, and answer whether all is well",
		Long: `Stay, make the backups that are due, as "tenantkeep schedule" does, and answer over
HTTP whether all is well:

  /healthz  the process is alive
  /readyz   database and repository can be reached
  /health   the checks of "tenantkeep health" as JSON; 503 while one is critical
  /metrics  for Prometheus

It listens on this machine only, unless --listen says otherwise: there is no
password, and the answers hold the names of tenants, though nothing of their data.

What was missed while it did not run is caught up. Several may serve one database:
one of them leads and runs the schedule, and when it is gone another takes over.

SIGHUP has it read its settings again; where the new ones make no sense it says so
and keeps the ones before. SIGTERM stops it: a backup that is at work is interrupted,
leaves nothing behind, and is made again by the next one that leads.

Exit codes: 0 stopped by a signal, 1 failed, 2 wrong usage.`,
		Example: `  tenantkeep serve
  tenantkeep serve --listen :9754
  curl -s http://127.0.0.1:9754/health`,
		GroupID: groupProtect,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.settings(cmd)
			if err != nil {
				return err
			}
			return runServe(cmd.Context(), a, cmd, cfg)
		},
	}
	flags := append([]string{
		"listen", "stop-timeout", "metrics-file",
		"database-url", "schema", "exclude-schema", "table-data", "exclude-table-data", "baseline-dir", "registry-tables", "max-chain",
		"wal-summaries", "compression", "retention-days", "jobs", "pg-dump", "lock-timeout",
	}, scheduleFlags...)
	flags = slices.Concat(flags, mediaFlags, retentionSettings, healthSettings, notifyFlags)
	config.AddFlags(cmd.Flags(), flags...)
	return cmd
}

// daemon is a process that stays.
type daemon struct {
	*app
	cmd     *cobra.Command
	log     *slog.Logger
	checker *web.Checker
	keeper  *web.Keeper
	lasting health.Lasting // of what the checker has told

	mu       sync.Mutex
	cfg      *config.Config
	reloaded time.Time
	refused  error // why the newest settings are not in use
}

func runServe(ctx context.Context, a *app, cmd *cobra.Command, cfg *config.Config) error {
	d := &daemon{app: a, cmd: cmd, cfg: cfg, reloaded: a.now(), log: a.serverLog()}
	if err := d.usable(cfg); err != nil {
		return err
	}
	listener, err := web.Listen(ctx, cfg.Listen)
	if err != nil {
		return err
	}
	d.checker = web.NewChecker(web.CheckerOptions{Examine: d.examine, Told: d.told, Log: d.log, Now: a.now})
	d.keeper = web.NewKeeper(web.KeeperOptions{TryLead: d.tryLead, Due: d.due, Run: d.run, Log: d.log, Now: a.now})
	registry := prometheus.NewRegistry()
	registry.MustRegister(metrics.NewCollector(buildVersion().Version, d.checker.Last), metrics.NewProcessCollector(d.status),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	s := web.New(web.Options{
		Probes: []web.Probe{{Name: "database", Look: d.probeDatabase}, {Name: "repository", Look: d.probeRepository}},
		Checks: d.checker.Report, Metrics: registry, Log: d.log, Now: a.now,
	})
	if !web.IsLoopback(listener) {
		a.ui().Warnf("%s can be reached from other machines, without a password: the names of tenants are for everybody to see who can; --listen 127.0.0.1:9754 is for this machine only", listener.Addr())
	}
	d.log.Info("serving", "address", listener.Addr().String(), "repository", cfg.Repository)
	return d.serve(ctx, s, func() error { return s.Serve(listener) })
}

// serverLog is the log of a process that stays: it tells what it does, unless the
// user wants to hear less, or more.
func (a *app) serverLog() *slog.Logger {
	level := slog.LevelInfo
	if a.quiet || a.verbosity != ui.Normal {
		level = a.ui().LogLevel()
	}
	return a.ui().Logger(level)
}

// serve works until ctx is over, or the server fails.
func (d *daemon) serve(ctx context.Context, s *web.Server, answer func() error) error {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(answer)
	group.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-hup:
				d.reload()
			}
		}
	})
	group.Go(func() error { d.checker.Run(ctx); return nil })
	group.Go(func() error {
		kept := make(chan struct{})
		go func() {
			defer close(kept)
			d.keeper.Keep(ctx)
		}()
		<-ctx.Done()
		s.Stopping()
		return d.stop(s, kept)
	})
	return group.Wait()
}

// stop waits for what was interrupted, for so long, and ends the answers.
func (d *daemon) stop(s *web.Server, kept <-chan struct{}) error {
	limit := d.settings().StopTimeout
	d.log.Info("stopping", "limit", limit.String())
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var err error
	select {
	case <-kept:
	case <-ctx.Done():
		err = &hintedError{
			err:  fmt.Errorf("what was at work did not end within %s", limit),
			hint: "nothing is lost: the next run removes what this one leaves; --stop-timeout gives it more time",
		}
	}
	closing, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(err, s.Close(closing))
}

// settings are those in use.
func (d *daemon) settings() *config.Config {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.cfg
}

// usable makes sure that everything can be made of settings that a run needs.
func (d *daemon) usable(cfg *config.Config) error {
	if _, _, err := d.scheduled(d.cmd, cfg, d.progress(format{})); err != nil {
		return err
	}
	_, err := knownMedia(cfg)
	return err
}

// again reads the settings again, and makes sure that they can be used.
func (d *daemon) again(before *config.Config) (*config.Config, error) {
	cfg, err := config.Load(config.Sources{Flags: d.cmd.Flags(), LookupEnv: d.lookupEnv, File: d.configFile})
	if err != nil {
		return nil, err
	}
	if err := notCut(before, cfg); err != nil {
		return nil, err
	}
	// Backups in two repositories by one process are two halves of one schedule.
	if absolute(cfg.Repository) != absolute(before.Repository) {
		d.ui().Warnf("--repository stays %s until the process is started anew", ui.Safe(before.Repository))
	}
	cfg.Repository = before.Repository
	if err := d.sameDatabase(before, cfg); err != nil {
		return nil, err
	}
	return cfg, d.usable(cfg)
}

// deciding are the settings without which a process that goes on by the defaults
// would back up something else, or delete what it was to keep.
var deciding = slices.Concat([]string{"database-url", "repository", "retention-days", "schedule-cleanup"}, retentionSettings)

// notCut refuses a settings file that has lost what decides which backups are made
// where, and which are deleted: a disk that is full and an editor that has only begun
// to write leave such files, and then a missing line is nobody's wish.
func notCut(before, now *config.Config) error {
	const anew = "put it back, or start the process anew to do without it"
	had, has := before.FromFile(), now.FromFile()
	switch {
	case before.File != "" && now.File == "":
		return &hintedError{err: fmt.Errorf("the settings file %s is gone, and without it all would be as by default", ui.Safe(before.File)), hint: anew}
	case len(had) > 0 && len(has) == 0:
		return &hintedError{err: fmt.Errorf("the settings file %s is empty, and without it all would be as by default", ui.Safe(now.File)), hint: anew}
	}
	for _, key := range had {
		if slices.Contains(deciding, key) && !now.Given(key) {
			return &hintedError{err: fmt.Errorf("the settings file %s had %s and has it no more: it may not be whole", ui.Safe(now.File), key), hint: anew}
		}
	}
	return nil
}

// sameDatabase lets the process stay with its database: the repository, the lead and
// what is due are of that one. A new user, password or way to it is taken.
func (d *daemon) sameDatabase(before, now *config.Config) error {
	was, err := server(before)
	if err != nil {
		return err
	}
	is, err := server(now)
	if err != nil {
		return err
	}
	if was.Address() != is.Address() || was.Database() != is.Database() {
		d.ui().Warnf("--database-url stays that of %s until the process is started anew", ui.SafeText(was.String()))
		now.DatabaseURL, now.DatabasePassword = before.DatabaseURL, before.DatabasePassword
	}
	return nil
}

// reload reads the settings again. Where they make no sense those before stay.
func (d *daemon) reload() {
	before := d.settings()
	cfg, err := d.again(before)
	d.mu.Lock()
	if d.refused = err; err == nil {
		d.cfg, d.reloaded = cfg, d.now()
	}
	d.mu.Unlock()
	if err != nil {
		d.ui().Error(fmt.Errorf("the new settings make no sense, and those before stay in use: %w", err))
	} else {
		for _, w := range cfg.Warnings {
			d.ui().Warnf("%s", w)
		}
		if cfg.Listen != before.Listen {
			d.ui().Warnf("--listen stays %s until the process is started anew", before.Listen)
		}
		d.log.Info("the settings were read again")
		d.keeper.Again()
	}
	d.checker.Again()
}

// examine makes the checks.
func (d *daemon) examine(ctx context.Context, read bool) (*health.Report, error) {
	d.mu.Lock()
	cfg, refused := d.cfg, d.refused
	d.mu.Unlock()
	return d.app.examine(ctx, d.cmd, cfg, examineOptions{unread: !read, serving: true, refused: refused})
}

// told takes in what the checks found.
func (d *daemon) told(ctx context.Context, r *health.Report) {
	cfg := d.settings()
	// A new tenant is backed up within a minute: that it is not yet is no news.
	if l := d.lasting.Add(r); l != nil {
		d.tellHealth(ctx, d.cmd, cfg, l)
	}
	if path := cfg.MetricsFile; path != "" {
		if err := metrics.WriteFile(path, buildVersion().Version, r); err != nil {
			d.log.Error("the metrics could not be written", "error", err)
		}
	}
}

// status is what the process tells of itself.
func (d *daemon) status() metrics.Process {
	k := d.keeper.Status()
	d.mu.Lock()
	defer d.mu.Unlock()
	return metrics.Process{Leading: k.Leading, Running: k.Running, Failures: k.Failures, Runs: k.Runs, Reloaded: d.reloaded, Refused: d.refused != nil}
}

func (d *daemon) tryLead(ctx context.Context) (web.Lead, bool, error) {
	cfg := d.settings()
	target, err := server(cfg)
	if err != nil {
		return nil, false, err
	}
	lead, err := target.TryLead(ctx, absolute(cfg.Repository))
	if err != nil || lead == nil {
		return nil, false, err
	}
	return lead, true, nil
}

// due looks whether anything is.
func (d *daemon) due(ctx context.Context) (bool, time.Time, error) {
	s, _, err := d.scheduled(d.cmd, d.settings(), d.progress(format{}))
	if err != nil {
		return false, time.Time{}, err
	}
	plan, err := s.Plan(ctx, d.now())
	if err != nil {
		return false, time.Time{}, err
	}
	return plan.Work(), plan.Next, nil
}

// run makes one scheduled run, as the command schedule does.
func (d *daemon) run(ctx context.Context) error {
	done, err := d.makeDue(ctx, d.settings())
	d.endAudit(ctx, err)
	d.checker.Again()
	if locked, ok := errors.AsType[*pg.LockedError](err); ok && done == nil {
		return fmt.Errorf("%w: %w", web.ErrBusy, locked)
	}
	return err
}

func (d *daemon) makeDue(ctx context.Context, cfg *config.Config) (*job.Outcome, error) {
	s, o, err := d.scheduled(d.cmd, cfg, d.progress(format{}))
	if err != nil {
		return nil, err
	}
	p, shown := d.parts(d.cmd, cfg, o, format{}, true)
	p.Retain = d.scheduledCleanup(d.cmd, cfg, format{})
	_, done, err := s.Run(ctx, p)
	if done == nil {
		return nil, err
	}
	return done, errors.Join(ended(done, err), *shown)
}

// probeDatabase looks whether the database answers.
func (d *daemon) probeDatabase(ctx context.Context) error {
	target, err := server(d.settings())
	if err != nil {
		return err
	}
	conn, err := target.Connect(ctx)
	if err != nil {
		return err
	}
	defer pg.Close(conn)
	return conn.Ping(ctx)
}

// probeRepository looks whether the repository can be listed.
func (d *daemon) probeRepository(ctx context.Context) error {
	store, err := openStorage(d.settings())
	if err != nil {
		return err
	}
	enough := errors.New("there is something")
	err = store.List(ctx, "manifests/", func(storage.Info) error { return enough })
	if errors.Is(err, enough) {
		return nil
	}
	return err
}
