package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tenantkeep/tenantkeep/internal/audit"
	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/media"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/restore"
	"github.com/tenantkeep/tenantkeep/internal/retention"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// CleanupOptions are the flags of the command cleanup that are no settings.
type CleanupOptions struct {
	Only          string // onlyRepository or onlyDatabase; empty: both
	KeepReplaced  days
	KeepRollback  days
	KeepLogs      days
	AllowDoubtful bool
	RemoveOrphans bool
	DryRun        bool
	Yes           bool
	Format        format

	brief bool // say in a line what was removed, and no more
}

// cleanupDefaults are the options that nobody gave.
func cleanupDefaults() CleanupOptions {
	return CleanupOptions{KeepReplaced: days(24 * time.Hour), KeepRollback: days(30 * 24 * time.Hour), KeepLogs: days(90 * 24 * time.Hour)}
}

// The parts of a cleanup.
const (
	onlyRepository = "repository"
	onlyDatabase   = "database"
)

// orphanAge is how old a file must be that no manifest names before it is
// removed.
const orphanAge = 24 * time.Hour

// AddFlags adds the flags.
func (o *CleanupOptions) AddFlags(flags *pflag.FlagSet) {
	*o = cleanupDefaults()
	flags.StringVar(&o.Only, "only", "", "clean up only this `PART`: repository or database")
	flags.Var(&o.KeepReplaced, "keep-replaced", "how long to keep schemas that restores replaced, or staged and could not swap in, in the database")
	flags.Var(&o.KeepRollback, "keep-rollback", "how long to keep their backups, the rollback points in the repository")
	flags.Var(&o.KeepLogs, "keep-logs", "how long to keep log files that were rotated")
	flags.BoolVar(&o.AllowDoubtful, "allow-doubtful", false, "remove old backups though the newest one is partial or suspiciously empty")
	flags.BoolVar(&o.RemoveOrphans, "remove-orphans", false, "remove files, too, that no manifest names and no cleanup was removing, once they are older than a day")
	flags.BoolVar(&o.DryRun, "dry-run", false, "say what would be removed and why, and remove nothing")
	flags.BoolVar(&o.Yes, "yes", false, "do not ask")
	o.Format.addFlag(flags, formatTable, formatJSON)
}

func newCleanupCommand(a *app) *cobra.Command {
	var opts CleanupOptions
	cmd := &cobra.Command{
		Use:     "cleanup",
		Aliases: []string{"cleanup_backups"},
		Short:   "Remove old backups, and what restores left",
		Long: `Remove what is no longer needed, and say for each backup why it stays or goes.

In the repository: backups that the retention policy does not keep, rollback
points whose time has passed or whose restore replaced nothing, what a cleanup
left that was interrupted, rotated log files.
A backup stays that is the newest of a day, week or month that counts for any of
its schemas, that a kept one needs, that is pinned, that is the last full one of
a schema, or that is younger than an hour. While the newest backup is partial or
suspiciously empty, or a manifest cannot be read, no backup goes. A file that no
manifest names may be all that is left of a backup whose manifest was lost: it is
shown, "tenantkeep repair" may rebuild the manifest, and it goes only with
--remove-orphans.

In the database: schemas that restores replaced longer ago than --keep-replaced,
restored ones that waited as long for a swap, and what restores left that died. A
schema on which an object outside of it depends stays, and is named. Where no
database is configured or can be reached, only the repository is cleaned up.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 some of it could not be done or
backups are held back, 130 interrupted.`,
		Example: `  tenantkeep cleanup --dry-run
  tenantkeep cleanup --retention-policy conservative --yes
  tenantkeep cleanup --retention-policy custom --daily-retention 14 --weekly-retention 8
  tenantkeep cleanup --only database --keep-replaced 3d`,
		GroupID: groupProtect,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := notEmpty(cmd, "only"); err != nil {
				return err
			}
			switch opts.Only {
			case "", onlyRepository, onlyDatabase:
			default:
				return usagef("--only: %q is neither repository nor database", opts.Only)
			}
			cfg, err := a.settings(cmd)
			if err != nil {
				return err
			}
			began := a.now()
			err = runCleanup(cmd.Context(), a, cfg, opts)
			if !opts.DryRun {
				a.tellCleanup(cmd.Context(), cmd, cfg, began, err, false)
			}
			return err
		},
	}
	opts.AddFlags(cmd.Flags())
	config.AddFlags(cmd.Flags(), append(retentionSettings, "database-url", "media-root", "media-pattern", "media-folder", "log-dir")...)
	config.AddFlags(cmd.Flags(), notifyFlags...)
	return cmd
}

// cleanup is one run of the command.
type cleanup struct {
	*app
	cfg    *config.Config
	opts   CleanupOptions
	now    time.Time
	policy retention.Options

	places []place    // nil: the repository is left alone
	saved  place      // the rollback points
	target *pg.Server // nil: the database is left alone
	// unreached is why the database, though configured, could not be looked into.
	unreached error

	media *media.Root // where the tenants' files are; nil: it is not known

	backups []repo.Backup
	plan    *retention.Plan
	points  []repo.Backup // rollback points
	fates   []retention.Decision
	rule    retention.PointOptions
	orphans [2][]repo.Orphan // of each place
	strays  []repo.Backup
	logs    []logFile
	schemas []restore.Dropped
	kept    []restore.Replaced // in the database
	// pending are media folders that have not followed their schemas yet.
	pending []restore.LeftFolder
	// unfinished are schemas that stay, though a restore into them has not ended.
	unfinished []restore.Unfinished

	removed map[string]bool // names of items
	files   int64           // removed from the repository, with log files
	freed   int64           // their bytes
}

func runCleanup(ctx context.Context, a *app, cfg *config.Config, opts CleanupOptions) error {
	c := &cleanup{app: a, cfg: cfg, opts: opts, now: a.now(), removed: map[string]bool{}}
	var err error
	if c.policy, err = retentionOptions(cfg, c.now); err != nil {
		return err
	}
	c.policy.AllowDoubtful = opts.AllowDoubtful
	if err := c.open(ctx); err != nil {
		return err
	}
	if err := c.look(ctx); err != nil {
		return err
	}
	if opts.DryRun {
		return errors.Join(c.show(), c.verdict(nil))
	}
	if !opts.Format.is(formatJSON) && !opts.brief {
		if err := c.show(); err != nil {
			return err
		}
	}
	if err := c.confirm(ctx); err != nil {
		return err
	}
	if err := c.noteRemoving(ctx); err != nil {
		return err
	}
	err = c.work(ctx)
	a.noteAudit(func(r *audit.Record) { r.Removed = namesOf(c.items(), func(i cleanedJSON) bool { return i.Dropped }) })
	switch {
	case !opts.Format.is(formatJSON):
		c.tellDone()
	case !opts.brief:
		if err := c.show(); err != nil {
			return err
		}
	}
	return c.verdict(err)
}

// confirm asks about what is going to be done.
func (c *cleanup) confirm(ctx context.Context) error {
	goes := c.going()
	question := "Remove " + summaryOf(goes) + "?"
	switch {
	case len(goes)+len(c.pending) == 0:
		return nil
	case len(goes) == 0:
		question = "Put " + ui.Plural(int64(len(c.pending)), "media folder") + " in place?"
	}
	return c.ui().Confirm(ctx, question, c.opts.Yes)
}

// noteRemoving notes in the audit trail what is about to be removed.
func (c *cleanup) noteRemoving(ctx context.Context) error {
	names := namesOf(c.items(), func(i cleanedJSON) bool { return !i.Keep })
	if c.audit == nil || len(names) == 0 {
		return nil
	}
	if err := c.audit.Removing(ctx, names); err != nil && !isFull(err) {
		return noTrail(err)
	}
	return nil
}

// namesOf are the names of some of the items.
func namesOf(items []cleanedJSON, which func(cleanedJSON) bool) []string {
	var names []string
	for _, i := range items {
		if which(i) {
			names = append(names, i.Name)
		}
	}
	return names
}

// open finds out which parts there are.
func (c *cleanup) open(ctx context.Context) error {
	places, err := c.openPlaces(c.cfg)
	if err != nil {
		return err
	}
	c.saved = places[1]
	if c.media, err = knownMedia(c.cfg); err != nil {
		return err
	}
	if c.opts.Only != onlyDatabase {
		c.places = places
	}
	if c.opts.Only == onlyRepository {
		return nil
	}
	target, err := server(c.cfg)
	if err != nil {
		return err
	}
	conn, err := target.Connect(ctx)
	if err == nil {
		c.target = target
		pg.Close(conn)
		return nil
	}
	if c.opts.Only == onlyDatabase || ctx.Err() != nil {
		return err
	}
	if c.databaseNamed() {
		c.unreached = err
		c.ui().Warnf("only the repository is cleaned up, since the database cannot be reached: %v", err)
		return nil
	}
	c.ui().Printf("No database is configured: only the repository is cleaned up.")
	return nil
}

// databaseNamed reports whether somebody said which database is meant.
func (c *cleanup) databaseNamed() bool {
	if c.cfg.Given("database-url") {
		return true
	}
	for _, name := range []string{"PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGSERVICE", "PGUSER"} {
		if text, ok := c.lookupEnv(name); ok && text != "" {
			return true
		}
	}
	return false
}

// verdict is the error of the whole run: of its work, and of what was held back.
func (c *cleanup) verdict(err error) error {
	if err != nil && len(c.removed) == 0 {
		return err
	}
	if c.unreached != nil {
		err = errors.Join(err, fmt.Errorf("the database was not cleaned up: %w", c.unreached))
	}
	for _, d := range c.schemas {
		if len(d.Dependents) > 0 {
			err = errors.Join(err, fmt.Errorf("schema %s could not be dropped, because something depends on it", ui.Safe(d.Name)))
		}
	}
	for _, d := range c.schemas {
		if d.Waits != "" {
			err = errors.Join(err, fmt.Errorf("schema %s stays: %s", ui.Safe(d.Name), ui.Safe(d.Waits)))
		}
	}
	if c.plan != nil {
		back := slices.ContainsFunc(c.plan.Decisions, held)
		for _, h := range c.plan.Holds {
			if back || h.Absolute {
				err = errors.Join(err, holdError(h))
			}
		}
	}
	err = errors.Join(err, c.lostManifests())
	if i := slices.IndexFunc(c.fates, held); i >= 0 {
		err = errors.Join(err, fmt.Errorf("rollback point %s %s", ui.Safe(c.fates[i].ID), c.fates[i].Why()))
	}
	if err == nil {
		return nil
	}
	return &partialError{err}
}

// lostManifests is an error where files are left of backups without a manifest.
func (c *cleanup) lostManifests() error {
	files, backups := int64(0), map[string]bool{}
	for i, orphans := range c.orphans {
		for _, o := range orphans {
			if o.Backup != "" && !c.goes(o) {
				files++
				backups[place{Rollback: i == 1}.name(o.Backup)] = true
			}
		}
	}
	if files == 0 {
		return nil
	}
	return &hintedError{
		err: fmt.Errorf("no manifest names %s of %s, the newest is %s: manifests may have been lost",
			ui.Plural(files, "file"), ui.Plural(int64(len(backups)), "backup"), ui.Safe(slices.Max(slices.Collect(maps.Keys(backups))))),
		hint: "tenantkeep repair --dry-run says what can be rebuilt; if the files are of no use, cleanup --remove-orphans removes them",
	}
}

func held(d retention.Decision) bool { return d.Has(retention.Held) }

// holdError says why backups are held back, and what to do.
func holdError(h retention.Hold) error {
	what := "no backup is removed"
	if h.Database != "" {
		what = "no backup of database " + ui.Safe(h.Database)
		if h.System != "" {
			what += " of server " + ui.Safe(h.System)
		}
		what += " is removed"
	}
	hint := "make a backup that succeeds; --allow-doubtful removes old backups all the same"
	switch {
	case h.Run != "":
		hint = "if it is at work, wait for it; if it was killed, " + hint
	case h.Absolute:
		hint = "find out what is wrong with it; if it is of no use, move its file out of the folder manifests"
	}
	return &hintedError{err: fmt.Errorf("%s: %s", what, h.Why), hint: hint}
}
