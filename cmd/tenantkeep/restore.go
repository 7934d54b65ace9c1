package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tenantkeep/tenantkeep/internal/audit"
	"github.com/tenantkeep/tenantkeep/internal/backup"
	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/media"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgdump"
	"github.com/tenantkeep/tenantkeep/internal/registry"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/restore"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// RestoreOptions are the flags of the command restore that are no settings.
type RestoreOptions struct {
	Manifest       string // id, file name or path
	BackupFile     string // a plain SQL script, instead of a backup
	AllowOutside   bool   // the script may reach outside of its schema
	Baseline       bool
	Template       string   // the baseline of this name, instead of that of core
	Set            []string // NAME=VALUE, for the statements that register a new tenant
	Latest         bool
	At             string   // a time
	Schemas        []string // by name of the schema or the tenant; empty: everything
	All            bool     // everything, although schemas in use are replaced
	As             string   // under another name
	Tables         []string // only these, for somebody to look at
	CreateRollback bool
	Resume         bool
	Incomplete     bool
	LeaveOutLinks  bool
	ExistingMedia  string // keep or replace; empty: see restore.Existing
	SwapTimeout    time.Duration
	NoOwner        bool
	NoPrivileges   bool
	DryRun         bool
	ListAvailable  bool
	Yes            bool
	Format         format

	undoes bool // it is a rollback
	part   bool // Schemas are what a restore of everything takes from one of several backups
	// fill is of a startup, which fills an empty database: it is called in the place
	// of a question, before the first object is made, and nothing is replaced.
	fill func(context.Context, *restore.Plan) error
}

// AddFlags adds the flags.
func (o *RestoreOptions) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.Manifest, "manifest", "", "the backup to restore: its id, or the `PATH` of its manifest")
	flags.StringVar(&o.BackupFile, "backup-file", "", "a plain SQL `FILE` instead of a backup: .sql, .sql.gz or .sql.zst, of pg_dump or the original system; - is standard input")
	flags.BoolVar(&o.AllowOutside, "allow-outside", false, "let the script of --backup-file reach outside of its schema")
	flags.BoolVar(&o.Baseline, "baseline", false, "a baseline instead of a backup: core goes back to it, or with --template a tenant, or a new one is made")
	flags.StringVar(&o.Template, "template", "", "the template of this `NAME`, for --baseline: --as makes a new tenant of it, --schema resets one")
	flags.StringArrayVar(&o.Set, "set", nil, "`NAME=VALUE` of a parameter of --new-tenant-sql; repeat it for more")
	flags.BoolVar(&o.Latest, "latest", false, "the newest backup that holds what is to be restored")
	flags.StringVar(&o.At, "at", "", "the newest backup taken at this `TIME` or before: \"2026-11-23 14:30\" (UTC), \"yesterday 14:00\", \"2h ago\"")
	flags.StringArrayVar(&o.Schemas, "schema", nil, "only this schema or tenant `NAME`; repeat it for more")
	flags.BoolVar(&o.All, "all", false, "everything that the backup holds, although schemas that are in use are replaced")
	flags.StringVar(&o.As, "as", "", "restore the schema under this `NAME`, beside the live one")
	flags.StringArrayVar(&o.Tables, "table", nil, "only this `TABLE`, into a schema of its own, to look at and copy from; repeat it for more")
	flags.BoolVar(&o.CreateRollback, "create-rollback", true, "back a live schema up into the repository's folder rollback before it is replaced")
	flags.BoolVar(&o.Resume, "resume", false, "swap in what an earlier restore has staged and could not swap in")
	flags.BoolVar(&o.Incomplete, "allow-incomplete", false, "replace a live schema although objects or files of the restored one could not be made")
	flags.BoolVar(&o.LeaveOutLinks, "leave-out-links", false, "put media back without the links that lead out of their folder")
	flags.StringVar(&o.ExistingMedia, "existing-media", "", "what becomes of media folders with files where a schema has a free place, or the backup is of another database: `keep|replace`")
	flags.DurationVar(&o.SwapTimeout, "swap-timeout", time.Minute, "how long to try to get the locks for a swap")
	flags.BoolVar(&o.NoOwner, "no-owner", false, "leave objects to the role that restores them")
	flags.BoolVar(&o.NoPrivileges, "no-privileges", false, "leave grants out")
	flags.BoolVar(&o.DryRun, "dry-run", false, "check everything and show the plan, and change nothing")
	flags.BoolVar(&o.ListAvailable, "list-available", false, "list what can be restored, and do nothing")
	flags.BoolVar(&o.Yes, "yes", false, "ask nothing; a restore into a free place never does")
	o.Format.addFlag(flags, formatTable, formatJSON)
}

func (o *RestoreOptions) wanted(cfg *config.Config) wanted {
	return wanted{
		Manifest: o.Manifest, Latest: o.Latest, At: o.At, Schemas: o.Schemas,
		Media: cfg.IncludeMedia && cfg.Source("include-media").Kind == config.FromFlag && len(o.Tables) == 0,
	}
}

// check refuses what makes no sense together.
func (o *RestoreOptions) check() error {
	if m := restore.Existing(o.ExistingMedia); m != "" && m != restore.ExistingKept && m != restore.ExistingReplaced {
		return usagef("--existing-media: %q is neither keep nor replace", o.ExistingMedia)
	}
	if o.Baseline || o.Template != "" || len(o.Set) > 0 {
		return o.checkBaseline()
	}
	if o.BackupFile != "" || o.AllowOutside {
		return o.checkFile()
	}
	switch {
	case len(o.Schemas) > 0 && o.All:
		return usagef("--all and --schema contradict each other")
	case (o.As != "" || len(o.Tables) > 0 || o.Resume) && len(o.Schemas) != 1:
		return usagef("--as, --table and --resume are for one tenant: name it with --schema")
	case o.Resume && (o.As != "" || len(o.Tables) > 0):
		return usagef("--resume goes on with a restore that replaces a live schema, without --as and --table")
	case o.SwapTimeout <= 0:
		return usagef("--swap-timeout must be more than nothing")
	}
	return nil
}

// asks reports whether nothing says what to restore, or of which backup, so that
// the user is asked.
func (o *RestoreOptions) asks() bool {
	some := len(o.Schemas) > 1 || o.As != "" || len(o.Tables) > 0 || o.Resume || o.All
	return o.BackupFile == "" && o.Manifest == "" && !o.Latest && o.At == "" && !some
}

func newRestoreCommand(a *app) *cobra.Command {
	var opts RestoreOptions
	cmd := &cobra.Command{
		Use:     "restore",
		Aliases: []string{"restore_tenant"},
		Short:   "Put tenants back, live, or a whole backup into an empty database",
		Long: `Put tenants back: beside the running application into the place of the live
schema, under another name, or into a database that lacks them. Or everything
into an empty database: core first, with its extensions, then all tenants.

Before anything is touched, files are checked against their hashes, and the
server for all that the backup needs: version, encoding, roles, extensions, and
what in other schemas points at the tenant. Then rows are loaded and indexes
built in parallel, and every table is read again and compared with the backup.

A schema that is in use is replaced only then: the restored one is made beside
it and takes its name in one short transaction. The application works on; until
the last moment with the old rows. The replaced schema stays in the database,
and tenantkeep rollback swaps it back. What fails, or is interrupted, leaves the
live schema as it was.

--baseline goes back to what backup --backup-type baseline has written: core, or
with --template and --schema one tenant. With --template and --as it makes a new
tenant, and registers it by the statements of --new-tenant-sql in the transaction
in which it appears. Many new tenants can be made at once.

With --include-media the files of the tenants are put back too: beside the folder
in --media-root, whose place they take by a rename right after the schema. What
they replace is kept, and rollback brings it back together with the schema. Where
there are files of a tenant that the database does not have, or the backup is of
another database, the restore refuses: --existing-media says what becomes of them.

Rows that register a tenant in shared tables are put back in that transaction
where they are missing, and reported where they differ from the backup.

Without --latest, --at and --manifest on a terminal, restore asks what to do.

Exit codes: 0 all restored, 1 nothing restored, 2 wrong usage, 3 some tenants
failed, lack objects or files, or are in no backup, 130 interrupted.`,
		Example: `  tenantkeep restore
  tenantkeep restore --latest --schema customer_a
  tenantkeep restore --at "yesterday 14:00" --schema customer_a --as customer_a_yesterday
  tenantkeep restore --latest --schema customer_a --table orders --table order_lines
  tenantkeep restore --manifest 20261123_000001 --schema customer_a --dry-run
  tenantkeep restore --backup-file customer_a.sql.gz
  tenantkeep restore --baseline
  tenantkeep restore --baseline --template restaurant --as customer_c --set domain=c.example.com
  DATABASE_URL=postgres://…/empty tenantkeep restore --latest --no-owner --no-privileges`,
		GroupID: groupProtect,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.settings(cmd)
			if err != nil {
				return err
			}
			if opts.ListAvailable {
				places, err := a.openPlaces(cfg)
				if err != nil {
					return err
				}
				return a.listAvailable(cmd.Context(), places, opts.Schemas, opts.Format)
			}
			if err := errors.Join(notEmpty(cmd, "manifest", "at", "as", "backup-file", "template"), opts.check()); err != nil {
				return err
			}
			return a.withRestoreHooks(cmd, cfg, func() error {
				if opts.Baseline {
					return runRestoreBaseline(cmd.Context(), a, cmd, cfg, opts)
				}
				if opts.BackupFile != "" {
					return runRestoreFile(cmd.Context(), a, cmd, cfg, opts)
				}
				return runRestore(cmd.Context(), a, cmd, cfg, opts)
			})
		},
	}
	opts.AddFlags(cmd.Flags())
	config.AddFlags(cmd.Flags(), append(mediaFlags, "database-url", "registry", "registry-tables", "jobs", "pg-dump", "time-zone", "baseline-dir", "new-tenant-sql", "hook-timeout")...)
	return cmd
}

func runRestore(ctx context.Context, a *app, cmd *cobra.Command, cfg *config.Config, opts RestoreOptions) error {
	target, err := server(cfg)
	if err != nil {
		return err
	}
	places, err := a.openPlaces(cfg)
	if err != nil {
		return err
	}
	places[0].Database = target.Database()
	if opts.asks() && a.ui().CanAsk() {
		if err := a.askWhat(ctx, cmd, places, target, &opts); err != nil {
			return err
		}
	}
	if opts.Resume && opts.Manifest == "" && !opts.Latest && opts.At == "" {
		id, err := restore.StagedBackup(ctx, target, opts.Schemas[0])
		if err != nil {
			return err
		}
		if strings.Contains(id, " sha256:") {
			return usagef("what waits to take the place of %s is from a script: give it with --backup-file", ui.Safe(opts.Schemas[0]))
		}
		if id == "" {
			return &hintedError{err: fmt.Errorf("nothing waits to take the place of %s", ui.Safe(opts.Schemas[0])), hint: "restore without --resume"}
		}
		opts.Manifest = id
	}
	from, backup, err := a.findBackup(ctx, places, opts.wanted(cfg))
	if err != nil {
		return err
	}
	ctx, unlock, err := a.shareRepository(ctx, from.Repo, "restore")
	if err != nil {
		return err
	}
	defer unlock() //nolint:errcheck // it ends with the process at the latest
	// A cleanup that had the lock until now may have removed it.
	if backup, err = from.Repo.Load(ctx, backup.Key); err != nil {
		return err
	}
	if m := backup.Manifest; !m.Rebuilt.IsZero() && len(opts.Schemas) == 0 {
		a.ui().Warnf("the manifest of backup %s was rebuilt from data files: it may lack schemas that the backup held", ui.Safe(backup.ID))
	}
	a.noteAudit(func(r *audit.Record) { r.Backup, r.Schemas = from.name(backup.ID), opts.Schemas })
	a.ui().Printf("Backup %s, taken %s", ui.Safe(backup.ID), ui.Age(backup.Time(), a.now()))
	if name := databaseName(backup.Manifest); name != "" && name != target.Database() {
		a.ui().Warnf("backup %s is of database %s: it is restored into %s", ui.Safe(backup.ID), ui.Safe(name), ui.Safe(target.Database()))
	}
	all, err := a.everything(ctx, from, backup, opts.wanted(cfg))
	if err != nil {
		return err
	}
	if opts.fill != nil && !cfg.Startup.Incomplete {
		if err := refuseLeftOut(all); err != nil {
			return err
		}
	}
	if len(all.parts) == 1 {
		err = a.restoreBackup(ctx, cmd, cfg, opts, target, places, from, backup)
	} else {
		err = a.restoreParts(ctx, cmd, cfg, opts, target, places, from, all.parts)
	}
	if err != nil {
		return err
	}
	if all.missing > 0 && opts.fill == nil && opts.Manifest == "" && !opts.DryRun {
		return &partialError{errLeftOut(backup.ID, all.missing)}
	}
	return nil
}

// restoreParts restores everything from several backups, core first. A part of which
// all rows are there keeps none of the others back; nor, unless an application is to
// start on what is there, does one that failed.
func (a *app) restoreParts(ctx context.Context, cmd *cobra.Command, cfg *config.Config, opts RestoreOptions, target *pg.Server, places []place, from place, parts []part) error {
	a.tellParts(a.logger(cmd, cfg), parts)
	var errs []error
	done := 0
	opts.part = true
	for i, p := range parts {
		a.ui().Printf("Restoring %s from backup %s", p.names(), ui.Safe(p.backup.ID))
		a.noteAudit(func(r *audit.Record) { r.Backups = append(r.Backups, p.backup.ID) })
		opts.Schemas = p.schemas
		err := a.restoreBackup(ctx, cmd, cfg, opts, target, places, from, p.backup)
		partial, is := errors.AsType[*restore.PartialError](err)
		rows := err == nil || is && len(partial.Failed) == 0
		if rows || is {
			done++
		}
		if _, refused := errors.AsType[*restore.PreflightError](err); refused && opts.DryRun && i > 0 {
			a.ui().Warnf("backup %s cannot be checked to the end before what comes first is there: %v", ui.Safe(p.backup.ID), err)
			continue
		}
		errs = append(errs, err)
		switch {
		case rows:
			continue
		case ctx.Err() != nil, opts.fill == nil && done == 0:
			return errors.Join(errs...)
		case opts.fill != nil:
			// Another source would have less, and nobody would notice.
			return &restore.FillingError{
				Err:    fmt.Errorf("restore %s from backup %s: %w", p.names(), ui.Safe(p.backup.ID), err),
				Advice: "a part of the database is not taken for all of it. " + hintOf(err),
			}
		}
	}
	err := errors.Join(errs...)
	if err != nil && opts.fill == nil {
		return &partialError{err}
	}
	return err
}

// restoreBackup restores from the backup that was chosen.
func (a *app) restoreBackup(ctx context.Context, cmd *cobra.Command, cfg *config.Config, opts RestoreOptions, target *pg.Server, places []place, from place, backup repo.Backup) error {
	if backup.Manifest.Format == 0 {
		return a.restoreOriginal(ctx, cmd, cfg, opts, target, places, from, backup)
	}
	files, rowsOnly, err := opts.media(cfg, backup.Manifest)
	if err != nil {
		return err
	}
	o := restore.Options{
		Media: files, RowsOnly: rowsOnly, LeaveOutLinks: opts.LeaveOutLinks, Existing: restore.Existing(opts.ExistingMedia),
		Server: target, Repo: from.Repo, Manifest: backup.Manifest, Schemas: opts.Schemas, Jobs: cfg.Jobs,
		NoOwner: opts.NoOwner, NoPrivileges: opts.NoPrivileges, DryRun: opts.DryRun, Preview: !opts.Yes && a.ui().CanAsk(),
		Replace: opts.fill == nil, As: opts.As, Tables: opts.Tables, Resume: opts.Resume, Incomplete: opts.Incomplete, SwapTimeout: opts.SwapTimeout,
		Registry: registry.Mode(cfg.Registry),
		Progress: a.progress(opts.Format), Log: a.logger(cmd, cfg), Now: a.now,
		Confirm: func(p *restore.Plan) error { return a.confirmRestore(ctx, p, opts) },
		Asks:    !opts.Yes && a.ui().CanAsk(),
	}
	if opts.CreateRollback {
		a.saveRollbackPoints(cmd, cfg, places[1], target, &o)
	}
	return a.restoreAndShow(ctx, o, opts)
}

// restoreAndShow restores and says what was done, or what would be.
func (a *app) restoreAndShow(ctx context.Context, o restore.Options, opts RestoreOptions) error {
	result, err := restore.Run(ctx, o)
	if result.Plan != nil && opts.DryRun {
		if err := a.showPlan(result.Plan, opts); err != nil {
			return err
		}
	}
	if len(result.Tenants) > 0 {
		if err := a.showRestore(result, opts); err != nil {
			return err
		}
	}
	if _, ok := errors.AsType[*restore.PartialError](err); ok {
		return &partialError{err}
	}
	if _, ok := errors.AsType[*restore.UnknownSchemaError](err); ok {
		return asUsage(err)
	}
	if _, ok := errors.AsType[*restore.UnknownTableError](err); ok {
		return asUsage(err)
	}
	return err
}

// media returns where the files are, nil where that is not known, and whether they
// stay as they are.
func (o *RestoreOptions) media(cfg *config.Config, m *manifest.Manifest) (root *media.Root, rowsOnly bool, err error) {
	asked := cfg.Source("include-media").Kind == config.FromFlag
	switch {
	case len(o.Tables) > 0 && asked && cfg.IncludeMedia:
		return nil, false, usagef("--table restores rows of single tables: there are no files of a table")
	case len(o.Tables) > 0:
		rowsOnly = true
	case asked && cfg.IncludeMedia && !m.IncludeMedia:
		return nil, false, &usageError{err: fmt.Errorf("--include-media: backup %s was taken without media", ui.Safe(m.ID)), hint: "tenantkeep list --format json shows which backups have media_files"}
	case o.undoes && !asked && m.IncludeMedia: // what was saved with its files goes back with them
	case cfg.IncludeMedia:
		root, err = mediaRoot(cfg)
		return root, false, err
	default:
		rowsOnly = true
	}
	root, err = knownMedia(cfg)
	return root, rowsOnly, err
}

// askWhat lets the user choose on the terminal.
func (a *app) askWhat(ctx context.Context, cmd *cobra.Command, places []place, target *pg.Server, opts *RestoreOptions) error {
	live := &liveDatabase{server: target}
	defer live.close()
	c, err := a.pick(ctx, cmd, places, live, opts.Schemas)
	if err != nil {
		return err
	}
	opts.Manifest, opts.Schemas, opts.As, opts.Tables = c.Point.Manifest, []string{c.Schema}, c.As, c.Tables
	return opts.check()
}

// confirmRestore shows what is going to be replaced, asks, and then runs the hook
// that comes before.
func (a *app) confirmRestore(ctx context.Context, p *restore.Plan, opts RestoreOptions) error {
	if opts.fill == nil {
		if err := a.askRestore(ctx, p, opts); err != nil {
			return err
		}
	}
	a.hooks.noteRestore(p, opts.part)
	err := a.hooks.begin(ctx)
	switch {
	case opts.fill == nil:
		return err
	case err != nil: // which it is with every source
		return &restore.FillingError{Err: err, Advice: hintOf(err)}
	}
	return opts.fill(ctx, p)
}

// askRestore shows what is going to be replaced, and asks. A restore into a free
// place replaces nothing.
func (a *app) askRestore(ctx context.Context, p *restore.Plan, opts RestoreOptions) error {
	var replaced []restore.Planned
	for _, s := range p.Schemas {
		if s.Live != nil {
			replaced = append(replaced, s)
		}
	}
	if len(replaced) == 0 {
		return a.confirmRemains(ctx, p, opts)
	}
	if (len(opts.Schemas) == 0 || opts.part) && !opts.All {
		return &usageError{
			err:  fmt.Errorf("this would replace live schemas: %s, beginning with %s", ui.Plural(int64(len(replaced)), "schema"), ui.Safe(replaced[0].As)),
			hint: "name what is to be restored with --schema, or give --all",
		}
	}
	if opts.Yes {
		return nil
	}
	if err := a.showPlan(p, opts); err != nil {
		return err
	}
	if len(replaced) == 1 {
		name := replaced[0].As
		return a.ui().ConfirmName(ctx, fmt.Sprintf("Schema %s of %s will be replaced.", ui.Safe(name), p.Server), name, false)
	}
	return a.ui().ConfirmName(ctx, fmt.Sprintf("%s of %s will be replaced.", ui.Plural(int64(len(replaced)), "schema"), p.Server), p.Target.Name, false)
}

// confirmRemains asks before schemas are dropped that carry the mark of a restore
// that died, but the name of a tenant: somebody may use them all the same.
func (a *app) confirmRemains(ctx context.Context, p *restore.Plan, opts RestoreOptions) error {
	var names []string
	for _, name := range p.Remains {
		if !pg.IsOwn(name) {
			names = append(names, ui.Safe(name))
		}
	}
	if len(names) == 0 {
		return nil
	}
	return a.ui().Confirm(ctx, fmt.Sprintf("A restore that died left schema %s. It is dropped and restored anew; what was written to it since is lost. Go on?",
		strings.Join(names, ", ")), opts.Yes)
}

// notEmpty refuses flags that are given without a value, as by an unset variable
// of a script: they would silently mean something else.
func notEmpty(cmd *cobra.Command, names ...string) error {
	for _, name := range names {
		if f := cmd.Flags().Lookup(name); f != nil && f.Changed && f.Value.String() == "" {
			return usagef("--%s is empty", name)
		}
	}
	return nil
}

// saveRollbackPoints lets a restore save what it is going to replace.
func (a *app) saveRollbackPoints(cmd *cobra.Command, cfg *config.Config, to place, target *pg.Server, o *restore.Options) {
	files := o.Media
	if o.RowsOnly {
		files = nil
	}
	o.Point = a.rollbackPoint(cmd, cfg, to, target, files, o.Progress)
	o.Swapped = settlePoint(to, o.Repo == to.Repo)
	o.PointReady = func(ctx context.Context, info *pg.Info) error {
		const without = "(--create-rollback=false does without)"
		if _, err := pgdump.Find(ctx, cfg.PgDump, info.ServerVersionNum); err != nil {
			return fmt.Errorf("the rollback point needs pg_dump %s: %w", without, err)
		}
		if err := checkRegistryTables(ctx, cfg, target); err != nil {
			return fmt.Errorf("the rollback point cannot hold what registers the tenant %s: %w", without, err)
		}
		if files != nil {
			if err := files.Ready(ctx); err != nil {
				return fmt.Errorf("the rollback point cannot hold the files that are there %s: %w", without, err)
			}
		}
		if o.DryRun { // which writes nothing
			return nil
		}
		if err := probe(ctx, to.Store); err != nil {
			return fmt.Errorf("the rollback point cannot be written %s: %w", without, err)
		}
		return nil
	}
}

// checkRegistryTables makes sure that the tables with the rows that register
// tenants are there where they were named.
func checkRegistryTables(ctx context.Context, cfg *config.Config, target *pg.Server) error {
	tables, err := registryTables(cfg)
	if err != nil || len(tables.Tables) == 0 {
		return err
	}
	conn, err := target.Connect(ctx)
	if err != nil {
		return err
	}
	defer pg.Close(conn)
	_, _, err = tables.Find(ctx, conn)
	return err
}

// rollbackPoint returns the function that saves live schemas before they are
// replaced, into the rollback folder of the repository.
func (a *app) rollbackPoint(cmd *cobra.Command, cfg *config.Config, to place, target *pg.Server, root *media.Root, progress restore.Progress) func(context.Context, []string) (string, error) {
	return func(ctx context.Context, schemas []string) (string, error) {
		tables, err := registryTables(cfg)
		if err != nil {
			return "", err
		}
		var files media.Source
		if root != nil {
			files = root
		}
		result, err := backup.Run(ctx, backup.Options{
			Server: target, Repo: to.Repo, Schemas: schemas, Type: manifest.Full, Locked: true, RollbackPoint: true, Media: files, Registry: tables,
			Compression: datafile.Compression{Algorithm: datafile.Algorithm(cfg.Compression.Method), Level: cfg.Compression.Level},
			Jobs:        cfg.Jobs, PgDump: cfg.PgDump, LockTimeout: cfg.LockTimeout, Version: buildVersion().Version,
			Progress: notesOnly{progress}, Log: a.logger(cmd, cfg),
		})
		if partial, ok := errors.AsType[*backup.PartialError](err); ok && len(partial.Failures) == 0 {
			// The folder itself is kept, whole, until cleanup removes it.
			progress.Note(slog.LevelWarn, "", fmt.Sprintf("the rollback point: %v", err))
			err = nil
		}
		if err != nil {
			return "", err
		}
		// Only by this a cleanup knows that the restore died, if it does.
		return result.Manifest.ID, to.Repo.Expect(ctx, result.Manifest.ID)
	}
}

// settlePoint returns the function that confirms a rollback point when what it
// saved was replaced, and removes it otherwise. While others use the rollback
// points, or the restore itself reads one, it is left for the next cleanup.
func settlePoint(in place, read bool) func(ctx context.Context, id string, swapped bool) error {
	return func(ctx context.Context, id string, swapped bool) error {
		if swapped {
			return in.Repo.Confirm(ctx, id)
		}
		if read {
			return nil
		}
		err := in.Repo.Clean(ctx, func(ctx context.Context, clean *repo.Cleaning) error {
			own := slices.DeleteFunc(clean.Backups(), func(b repo.Backup) bool { return b.ID != id })
			_, err := clean.Remove(ctx, own)
			return err
		})
		if _, locked := errors.AsType[*repo.LockedError](err); locked {
			return nil
		}
		return err
	}
}

// notesOnly passes notes on and keeps progress, which is that of another run,
// to itself.
type notesOnly struct{ restore.Progress }

func (notesOnly) Start(string, int, int64) {}
func (notesOnly) Add(int64, int64)         {}
func (notesOnly) TenantDone(string, error) {}
func (notesOnly) Finish()                  {}

// shareRepository keeps cleanup out of a repository that is read. One that
// cannot be locked, such as on a disk that is mounted read-only, is read all the
// same.
func (a *app) shareRepository(ctx context.Context, repository *repo.Repo, purpose string) (context.Context, repo.Unlock, error) {
	locked, unlock, err := repository.Lock(ctx, repo.Shared, purpose)
	if err == nil {
		return locked, unlock, nil
	}
	if _, ok := errors.AsType[*repo.LockedError](err); ok || ctx.Err() != nil {
		return nil, nil, err
	}
	a.ui().Warnf("the repository cannot be locked, so see to it that nothing is cleaned up meanwhile: %v", err)
	return ctx, func() error { return nil }, nil
}
