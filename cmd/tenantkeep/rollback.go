package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/restore"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// RollbackOptions are the flags of the command rollback that are no settings.
type RollbackOptions struct {
	To          string // name of a replaced schema, or rollback/ID
	List        bool
	SwapTimeout time.Duration
	Yes         bool
	Format      format
}

// AddFlags adds the flags.
func (o *RollbackOptions) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.To, "to", "", "not the last replaced schema but this `POINT`: a name or an id that --list shows")
	flags.BoolVar(&o.List, "list", false, "list the points that a tenant can go back to, and do nothing")
	flags.DurationVar(&o.SwapTimeout, "swap-timeout", time.Minute, "how long to try to get the locks for a swap")
	flags.BoolVar(&o.Yes, "yes", false, "do not ask")
	o.Format.addFlag(flags, formatTable, formatJSON)
}

func newRollbackCommand(a *app) *cobra.Command {
	var opts RollbackOptions
	cmd := &cobra.Command{
		Use:   "rollback [TENANT…]",
		Short: "Undo the last restore of a tenant, or of several",
		Long: `Undo the last restore of a tenant: the schema that it replaced is still in the
database and takes its place back, in one short transaction. What is live until
then is kept in its stead, so that another rollback undoes this one. Several
tenants go back together or not at all; core (public) may be among them.

A replaced schema stays until tenantkeep cleanup drops it. After that its backup
in the repository's folder rollback is left, which --to rollback/ID restores like
any other backup, live.

Where the restore replaced the tenant's media folder too, that goes back with the
schema; --include-media=false leaves it as it is.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.`,
		Example: `  tenantkeep rollback customer_a
  tenantkeep rollback core customer_a customer_b
  tenantkeep rollback --list
  tenantkeep rollback customer_a --to rollback/20261123_101500`,
		GroupID: groupProtect,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 && !opts.List {
				return &usageError{err: errors.New("which tenant is to go back?"), hint: "tenantkeep rollback TENANT; --list shows which can"}
			}
			if err := notEmpty(cmd, "to"); err != nil {
				return err
			}
			if opts.SwapTimeout <= 0 {
				return usagef("--swap-timeout must be more than nothing")
			}
			cfg, err := a.settings(cmd)
			if err != nil {
				return err
			}
			if opts.List {
				return a.listPoints(cmd.Context(), cfg, args, opts)
			}
			return a.withRestoreHooks(cmd, cfg, func() error { return runRollback(cmd.Context(), a, cmd, cfg, args, opts) })
		},
	}
	opts.AddFlags(cmd.Flags())
	config.AddFlags(cmd.Flags(), append(mediaFlags, "database-url", "registry", "registry-tables", "jobs", "pg-dump", "hook-timeout")...)
	return cmd
}

// rollbackSummary is what a rollback did, in JSON: what a restore says, and of
// the first schema once more by itself. Fields are only ever added.
type rollbackSummary struct {
	restoreSummary

	Schema   string    `json:"schema"`
	Back     string    `json:"back"` // what the schema was called that is live again, or rollback/ID
	Since    time.Time `json:"replaced_at"`
	Replaced string    `json:"replaced"` // what the schema is called now that was live until then; empty: there was none
	Blocked  float64   `json:"blocked_seconds"`
}

// rollbackOf adds to a summary what is said of its first schema.
func rollbackOf(s restoreSummary) rollbackSummary {
	r := rollbackSummary{restoreSummary: s}
	if len(s.Schemas) > 0 {
		first := s.Schemas[0]
		r.Schema, r.Back, r.Since, r.Replaced, r.Blocked = first.As, first.Back, first.Since, first.Replaced, first.Blocked
	}
	return r
}

func runRollback(ctx context.Context, a *app, cmd *cobra.Command, cfg *config.Config, schemas []string, opts RollbackOptions) error {
	target, err := server(cfg)
	if err != nil {
		return err
	}
	places, err := a.openPlaces(cfg)
	if err != nil {
		return err
	}
	if id, isBackup := strings.CutPrefix(opts.To, rollbackName+"/"); isBackup {
		return a.restorePoint(ctx, cmd, cfg, target, places[1], schemas, id, opts)
	}
	if cfg.Source("registry").Kind == config.FromFlag {
		return usagef("--registry goes with --to rollback/ID: a schema that is swapped back leaves the rows that register it as they are")
	}
	if opts.To != "" && len(schemas) > 1 {
		return usagef("--to names the replaced schema of one tenant: give one, or rollback/ID")
	}
	files, err := knownMedia(cfg)
	if err != nil {
		return err
	}
	began := a.now()
	result, err := restore.Rollback(ctx, restore.RollbackOptions{
		Media: files, RowsOnly: cfg.Given("include-media") && cfg.Source("include-media").Kind == config.FromFlag && !cfg.IncludeMedia,
		Server: target, Schemas: schemas, Replaced: opts.To, SwapTimeout: opts.SwapTimeout, Progress: a.progress(opts.Format), Now: a.now,
		Asks: !opts.Yes && a.ui().CanAsk(),
		Confirm: func(list []restore.Replaced) error {
			var lines, names []string
			for _, r := range list {
				names = append(names, r.Schema)
				lines = append(lines, fmt.Sprintf("Schema %s of %s goes back to %s, which was live until %s.", ui.Safe(r.Schema), target,
					ui.Safe(r.Name), r.At.UTC().Format("2006-01-02 15:04:05 UTC")))
			}
			if err := a.ui().Confirm(ctx, strings.Join(lines, "\n")+" Go on?", opts.Yes); err != nil {
				return err
			}
			a.hooks.note("SCHEMAS", strings.Join(names, "\n"))
			return a.hooks.begin(ctx)
		},
	})
	if gone, ok := errors.AsType[*restore.NoReplacedError](err); ok {
		return &hintedError{err: gone, hint: "tenantkeep rollback --list shows what there is to go back to; the backup of a replaced schema is restored by --to rollback/ID"}
	}
	if err != nil {
		return err
	}
	s := restoreSummary{Kind: "summary", Target: target.String(), Restored: len(result.Schemas), Seconds: a.now().Sub(began).Seconds(), Schemas: []restoredSchema{}}
	for _, r := range result.Schemas {
		tenant := r.Back.Schema
		if tenant == manifest.CoreSchema {
			tenant = manifest.CoreTenant
		}
		s.Tables += r.Back.Tables
		notes := []string{}
		if r.Back.Registered {
			notes = append(notes, registrationStays(r.Back))
		}
		s.Schemas = append(s.Schemas, restoredSchema{
			Schema: r.Back.Schema, Tenant: tenant, As: r.Back.Schema, OK: true, Tables: r.Back.Tables, Seconds: s.Seconds,
			Back: r.Back.Name, Since: r.Back.At.UTC(), Replaced: r.Replaced, Blocked: result.Blocked,
			Access: []accessChange{}, Notes: notes, Problems: []restoredProblem{},
		})
	}
	if opts.Format.is(formatJSON) {
		return a.ui().JSONLine(rollbackOf(s))
	}
	for _, r := range s.Schemas {
		for _, n := range r.Notes {
			a.ui().Warnf("tenant %s: %s", ui.Safe(r.Tenant), n)
		}
		a.ui().Printf("Schema %s is again what it was until %s.", ui.Safe(r.As), r.Since.Format("2006-01-02 15:04:05 UTC"))
		if r.Replaced != "" {
			a.ui().Printf("What was live until now is kept as %s; tenantkeep rollback %s brings it back.", ui.Safe(r.Replaced), shellWord(r.As))
		}
	}
	return nil
}

// registrationStays says how to bring back what a rollback leaves alone.
func registrationStays(r restore.Replaced) string {
	text := "the rows that register it were changed by the restore, and stay as they are now"
	if r.Point != "" {
		text += fmt.Sprintf("; as they were before it they are in the rollback point: tenantkeep rollback %s --to %s/%s --registry overwrite", shellWord(r.Schema), rollbackName, r.Point)
	}
	return text
}

// restorePoint restores the backup of a replaced schema, which must be of the
// same database: several may share a repository, and have tenants of one name.
func (a *app) restorePoint(ctx context.Context, cmd *cobra.Command, cfg *config.Config, target *pg.Server, points place, schemas []string, id string, opts RollbackOptions) error {
	b, err := points.Repo.Load(ctx, id)
	if err != nil {
		return err
	}
	same, err := ofDatabase(ctx, target)
	if err != nil {
		return err
	}
	if !same(b.Manifest) {
		return &usageError{
			err:  fmt.Errorf("rollback point %s is of another database than %s", ui.Safe(id), target),
			hint: "if that is what you want: tenantkeep restore --manifest " + shellWord(rollbackName+"/"+id),
		}
	}
	kept, err := restore.ListReplaced(ctx, target)
	if err != nil {
		return err
	}
	inForce, err := points.inForce(ctx, kept)
	if err != nil {
		return err
	}
	if !inForce(b) {
		return &hintedError{
			err:  fmt.Errorf("rollback point %s was saved by a restore that replaced nothing, so that there is nothing to go back to", ui.Safe(id)),
			hint: "if what it holds is wanted all the same: tenantkeep restore --manifest " + shellWord(rollbackName+"/"+id),
		}
	}
	return runRestore(ctx, a, cmd, cfg, RestoreOptions{
		Manifest: rollbackName + "/" + id, Schemas: schemas, CreateRollback: true, SwapTimeout: opts.SwapTimeout, Yes: opts.Yes, Format: opts.Format,
		undoes: true,
	})
}

// ofDatabase returns a function that tells whether a backup is of a database.
func ofDatabase(ctx context.Context, target *pg.Server) (func(*manifest.Manifest) bool, error) {
	conn, err := target.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer pg.Close(conn)
	info, err := pg.ReadInfo(ctx, conn)
	if err != nil {
		return nil, err
	}
	return isOf(info), nil
}

// isOf returns a function that tells whether a backup is of a database.
func isOf(info *pg.Info) func(*manifest.Manifest) bool {
	return func(m *manifest.Manifest) bool {
		d := m.Database
		return d != nil && d.Name == info.Name && (d.SystemIdentifier == info.SystemIdentifier || d.SystemIdentifier == "" || info.SystemIdentifier == "")
	}
}

// pointJSON is one thing that a tenant can go back to, in JSON. Fields are only
// ever added.
type pointJSON struct {
	Schema string    `json:"schema"`
	Point  string    `json:"point"` // what --to takes
	Kind   string    `json:"kind"`  // "schema" in the database, or "backup" in the repository
	Until  time.Time `json:"until"` // when it was replaced, or saved
	Tables int64     `json:"tables"`
	Bytes  int64     `json:"bytes"`            // on the server's disk, or stored
	Backup string    `json:"backup,omitempty"` // that took its place
}

// listPoints lists replaced schemas and backups of such, the newest first.
func (a *app) listPoints(ctx context.Context, cfg *config.Config, only []string, opts RollbackOptions) error {
	target, err := server(cfg)
	if err != nil {
		return err
	}
	places, err := a.openPlaces(cfg)
	if err != nil {
		return err
	}
	kept, err := restore.ListReplaced(ctx, target)
	if err != nil {
		return err
	}
	points := replacedPoints(kept)
	same, err := ofDatabase(ctx, target)
	if err != nil {
		return err
	}
	backups, err := places[1].Repo.List(ctx)
	if err != nil {
		return err
	}
	inForce, err := places[1].inForce(ctx, kept)
	if err != nil {
		return err
	}
	for _, b := range backups {
		if b.Err != nil {
			a.ui().Warnf("rollback point %s cannot be read: %v", ui.Safe(b.ID), b.Err)
			continue
		}
		if !same(b.Manifest) || !inForce(b) {
			continue
		}
		for _, s := range b.Manifest.Schemas {
			points = append(points, pointJSON{
				Schema: s.Schema, Point: rollbackName + "/" + b.ID, Kind: "backup", Until: takenAt(b.Manifest, s), Tables: s.Tables, Bytes: s.Size,
			})
		}
	}
	points = slices.DeleteFunc(points, func(p pointJSON) bool {
		return len(only) > 0 && !slices.Contains(only, p.Schema) && (p.Schema != manifest.CoreSchema || !slices.Contains(only, manifest.CoreTenant))
	})
	slices.SortStableFunc(points, func(x, y pointJSON) int { return y.Until.Compare(x.Until) })
	if opts.Format.is(formatJSON) {
		return a.ui().JSONLine(append([]pointJSON{}, points...))
	}
	if len(points) == 0 {
		a.ui().Printf("There is nothing to go back to.")
		return nil
	}
	table := ui.NewTable(ui.Column{Title: "schema"}, ui.Column{Title: "point"}, ui.Column{Title: "as of (UTC)"}, ui.Column{Title: "age"},
		ui.Column{Title: "tables", Right: true}, ui.Column{Title: "size", Right: true})
	for _, p := range points {
		table.Add(p.Schema, p.Point, p.Until.Format(stampLayout), ui.Age(p.Until, a.now()), ui.Count(p.Tables), ui.Bytes(p.Bytes))
	}
	return a.ui().Table(table)
}

func replacedPoints(list []restore.Replaced) []pointJSON {
	var points []pointJSON
	for _, r := range list {
		points = append(points, pointJSON{Schema: r.Schema, Point: r.Name, Kind: "schema", Until: r.At.UTC(), Tables: r.Tables, Bytes: r.Bytes, Backup: r.Backup})
	}
	return points
}
