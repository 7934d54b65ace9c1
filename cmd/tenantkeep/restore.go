package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/restore"
	"github.com/tenantkeep/tenantkeep/internal/storage/local"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// RestoreOptions are the flags of the command restore that are no settings.
type RestoreOptions struct {
	Manifest      string // id, file name or path
	Latest        bool
	Schemas       []string // by name of the schema or the tenant; empty: everything
	NoOwner       bool
	NoPrivileges  bool
	DryRun        bool
	ListAvailable bool
	Yes           bool
	Format        format
}

// AddFlags adds the flags.
func (o *RestoreOptions) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.Manifest, "manifest", "", "the backup to restore: its id, or the `PATH` of its manifest")
	flags.BoolVar(&o.Latest, "latest", false, "the newest backup that holds what is to be restored")
	flags.StringArrayVar(&o.Schemas, "schema", nil, "only this schema or tenant `NAME`; repeat it for more")
	flags.BoolVar(&o.NoOwner, "no-owner", false, "leave objects to the role that restores them")
	flags.BoolVar(&o.NoPrivileges, "no-privileges", false, "leave grants out")
	flags.BoolVar(&o.DryRun, "dry-run", false, "check everything and show the plan, and change nothing")
	flags.BoolVar(&o.ListAvailable, "list-available", false, "list the backups, and do nothing")
	flags.BoolVar(&o.Yes, "yes", false, "ask nothing; a restore into a free place never does")
	o.Format.addFlag(flags, formatTable, formatJSON)
}

// check refuses what makes no sense together.
func (o *RestoreOptions) check() error {
	switch {
	case o.ListAvailable:
		return nil
	case o.Manifest != "" && o.Latest:
		return usagef("--manifest and --latest are two different backups: give one of them")
	case o.Manifest == "" && !o.Latest:
		return &usageError{
			err:  errors.New("nothing says which backup to restore"),
			hint: "give --latest, or --manifest with the id of a backup; --list-available lists them",
		}
	}
	return nil
}

func newRestoreCommand(a *app) *cobra.Command {
	var opts RestoreOptions
	cmd := &cobra.Command{
		Use:     "restore",
		Aliases: []string{"restore_tenant"},
		Short:   "Bring tenants back, or a whole backup into an empty database",
		Long: `Bring tenants back into a database that lacks them, or everything into an empty
database: core first, with its extensions, then all tenants.

Before anything is touched, files are checked against their hashes, and the
server for all that the backup needs: version, encoding, roles, extensions. Then
rows are loaded and indexes built in parallel, and every table is read again and
compared with the backup before the command says that it is done. A schema that
exists already is never replaced. What fails, or is interrupted, is removed
again.

Exit codes: 0 all restored, 1 nothing restored, 2 wrong usage, 3 some tenants
failed or lack objects, 130 interrupted.`,
		Example: `  tenantkeep restore --latest --schema customer_a
  tenantkeep restore --manifest 20261123_000001 --dry-run
  DATABASE_URL=postgres://…/empty tenantkeep restore --latest --no-owner --no-privileges`,
		GroupID: groupProtect,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := opts.check(); err != nil {
				return err
			}
			cfg, err := a.settings(cmd)
			if err != nil {
				return err
			}
			if opts.ListAvailable {
				return runList(cmd.Context(), a, cfg, ListOptions{Format: opts.Format, Schemas: opts.Schemas})
			}
			return runRestore(cmd.Context(), a, cmd, cfg, opts)
		},
	}
	opts.AddFlags(cmd.Flags())
	config.AddFlags(cmd.Flags(), "database-url", "jobs")
	return cmd
}

func runRestore(ctx context.Context, a *app, cmd *cobra.Command, cfg *config.Config, opts RestoreOptions) error {
	target, err := server(cfg)
	if err != nil {
		return err
	}
	repository, backup, err := a.chooseBackup(ctx, cfg, opts)
	if err != nil {
		return err
	}
	ctx, unlock, err := a.shareRepository(ctx, repository, "restore")
	if err != nil {
		return err
	}
	defer unlock() //nolint:errcheck // it ends with the process at the latest
	a.ui().Printf("Backup %s, taken %s", ui.Safe(backup.ID), ui.Age(backup.Time(), a.now()))
	result, err := restore.Run(ctx, restore.Options{
		Server: target, Repo: repository, Manifest: backup.Manifest, Schemas: opts.Schemas, Jobs: cfg.Jobs,
		NoOwner: opts.NoOwner, NoPrivileges: opts.NoPrivileges, DryRun: opts.DryRun,
		Progress: a.progress(opts.Format), Log: a.logger(cmd, cfg), Now: a.now,
	})
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
	return err
}

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

// chooseBackup finds the backup that the flags name.
func (a *app) chooseBackup(ctx context.Context, cfg *config.Config, opts RestoreOptions) (*repo.Repo, repo.Backup, error) {
	repository, _, err := a.openRepository(cfg)
	if err != nil {
		return nil, repo.Backup{}, err
	}
	if opts.Manifest != "" {
		return a.namedBackup(ctx, repository, opts.Manifest)
	}
	holds := func(m *manifest.Manifest, name string) bool {
		return slices.ContainsFunc(m.Schemas, func(e manifest.Schema) bool { return e.Schema == name || e.Tenant == name })
	}
	newer := 0 // backups that lack something that is asked for
	backup, broken, err := repository.Latest(ctx, func(m *manifest.Manifest) bool {
		if m.Format == 0 || m.BackupType == manifest.Baseline || len(m.Schemas) == 0 {
			return false
		}
		for _, name := range opts.Schemas {
			if !holds(m, name) {
				newer++
				return false
			}
		}
		return true
	})
	if err == nil && newer > 0 {
		a.ui().Warnf("passing over %s newer than %s, without %s", ui.Plural(int64(newer), "backup"), backup.ID, ui.Safe(strings.Join(opts.Schemas, ", ")))
	}
	for _, b := range broken {
		a.ui().Warnf("backup %s is passed over: its manifest cannot be read: %v", b.ID, b.Err)
	}
	if errors.Is(err, repo.ErrNoBackup) && len(opts.Schemas) > 0 {
		return repository, backup, &usageError{
			err:  fmt.Errorf("no backup in %s holds %s", repository.Location(), strings.Join(opts.Schemas, " and ")),
			hint: "tenantkeep list --format json shows what each backup holds",
		}
	}
	if errors.Is(err, repo.ErrNoBackup) && len(broken) == 0 {
		err = &hintedError{
			err:  fmt.Errorf("there is no backup in %s", repository.Location()),
			hint: "--repository says where backups are; tenantkeep backup takes one",
		}
	}
	return repository, backup, err
}

// namedBackup loads the backup of an id, or of the path of a manifest, which
// may lie in another repository.
func (a *app) namedBackup(ctx context.Context, repository *repo.Repo, named string) (*repo.Repo, repo.Backup, error) {
	dir, file := filepath.Split(filepath.Clean(named))
	if info, err := os.Stat(named); dir != "" && err == nil && info.Mode().IsRegular() {
		dir = filepath.Clean(dir)
		if filepath.Base(dir) != "manifests" {
			return nil, repo.Backup{}, &usageError{
				err:  fmt.Errorf("--manifest: %s does not lie in a folder manifests", ui.Safe(named)),
				hint: "a manifest belongs to its repository: give its path there, REPOSITORY/manifests/FILE, or the id of the backup",
			}
		}
		store, err := local.New(filepath.Dir(dir))
		if err != nil {
			return nil, repo.Backup{}, fmt.Errorf("open repository: %w", err)
		}
		repository, named = repo.Open(store, repo.Options{Now: a.now}), file
	}
	backup, err := repository.Load(ctx, named)
	if errors.Is(err, repo.ErrNoBackup) {
		err = &hintedError{err: err, hint: "tenantkeep list shows the backups, with their ids"}
	}
	return repository, backup, err
}

// planJSON is a dry run in JSON. Fields are only ever added.
type planJSON struct {
	Kind           string    `json:"kind"`
	Backup         string    `json:"backup"`
	Taken          time.Time `json:"taken"`
	Source         string    `json:"source"` // the database that was saved
	SourceVersion  string    `json:"source_version"`
	SourceEncoding string    `json:"source_encoding"`
	Target         string    `json:"target"`
	TargetVersion  string    `json:"target_version"`
	TargetEncoding string    `json:"target_encoding"`
	Schemas        []planned `json:"schemas"`
	Remains        []string  `json:"remains"` // schemas that a dead restore left, to be removed first
	Warnings       []string  `json:"warnings"`
}

type planned struct {
	Schema string `json:"schema"`
	Tenant string `json:"tenant"`
	Tables int64  `json:"tables"`
	Rows   int64  `json:"rows"`
	Bytes  int64  `json:"bytes"`
	Stored int64  `json:"stored"`
	Target string `json:"target"` // what is in its place
}

// showPlan shows source and target side by side.
func (a *app) showPlan(p *restore.Plan, opts RestoreOptions) error {
	doc := planJSON{
		Kind: "plan", Backup: p.Backup, Taken: p.Taken.UTC(),
		Source: p.Source.Name, SourceVersion: p.Source.ServerVersion, SourceEncoding: p.Source.Encoding,
		Target: p.Server, TargetVersion: p.Target.ServerVersion, TargetEncoding: p.Target.Encoding,
		Schemas: []planned{}, Remains: append([]string{}, p.Remains...), Warnings: append([]string{}, p.Warnings...),
	}
	table := ui.NewTable(ui.Column{Title: "schema"}, ui.Column{Title: "tables", Right: true}, ui.Column{Title: "rows", Right: true},
		ui.Column{Title: "text", Right: true}, ui.Column{Title: "stored", Right: true}, ui.Column{Title: "in its place now"})
	for _, s := range p.Schemas {
		doc.Schemas = append(doc.Schemas, planned(s))
		table.Add(s.Schema, ui.Count(s.Tables), ui.Count(s.Rows), ui.Bytes(s.Bytes), ui.Bytes(s.Stored), s.Target)
	}
	if opts.Format.is(formatJSON) {
		return a.ui().JSONLine(doc)
	}
	a.ui().Printf("From: database %s, PostgreSQL %s, %s", ui.Safe(p.Source.Name), ui.Safe(p.Source.ServerVersion), p.Taken.UTC().Format("2006-01-02 15:04:05 UTC"))
	a.ui().Printf("Into: %s, PostgreSQL %s", p.Server, ui.Safe(p.Target.ServerVersion))
	return a.ui().Table(table)
}

// restoreSummary is the last line of a restore in JSON. Fields are only ever
// added.
type restoreSummary struct {
	Kind     string           `json:"kind"`
	Backup   string           `json:"backup"`
	Target   string           `json:"target"`
	Restored int              `json:"restored"` // schemas, those that lack objects among them
	Failed   int              `json:"failed"`
	Tables   int64            `json:"tables"`
	Rows     int64            `json:"rows"`
	Bytes    int64            `json:"bytes"`
	Seconds  float64          `json:"seconds"`
	Schemas  []restoredSchema `json:"schemas"`
}

type restoredSchema struct {
	Schema   string            `json:"schema"`
	Tenant   string            `json:"tenant"`
	OK       bool              `json:"ok"`
	Error    string            `json:"error,omitempty"`
	Tables   int64             `json:"tables"`
	Rows     int64             `json:"rows"`
	Bytes    int64             `json:"bytes"`
	Seconds  float64           `json:"seconds"`
	Notes    []string          `json:"notes"`
	Problems []restoredProblem `json:"problems"` // objects that could not be made
}

type restoredProblem struct {
	Kind   string `json:"kind"`
	Object string `json:"object"`
	Error  string `json:"error"`
	Remedy string `json:"remedy,omitempty"`
	SQL    string `json:"sql"`
}

// showRestore says what was done.
func (a *app) showRestore(r *restore.Result, opts RestoreOptions) error {
	s := restoreSummary{
		Kind: "summary", Backup: r.Plan.Backup, Target: r.Plan.Server, Tables: r.Tables, Rows: r.Rows, Bytes: r.Bytes, Seconds: r.Seconds,
		Schemas: []restoredSchema{},
	}
	for _, t := range r.Tenants {
		one := restoredSchema{
			Schema: t.Schema, Tenant: t.Tenant, OK: t.Err == nil && len(t.Problems) == 0, Tables: t.Tables, Rows: t.Rows, Bytes: t.Bytes,
			Seconds: t.Seconds, Notes: append([]string{}, t.Notes...), Problems: []restoredProblem{},
		}
		if t.Err != nil {
			one.Error = t.Err.Error()
			s.Failed++
		} else {
			s.Restored++
		}
		for _, p := range t.Problems {
			one.Problems = append(one.Problems, restoredProblem{p.Kind, p.Object, p.Err.Error(), p.Remedy, p.SQL})
		}
		s.Schemas = append(s.Schemas, one)
	}
	if opts.Format.is(formatJSON) {
		return a.ui().JSONLine(s)
	}
	a.tellProblems(s)
	if s.Restored > 0 {
		a.ui().Printf("Restored %s: %s, %s, %s of text in %s.", ui.Plural(int64(s.Restored), "schema"), ui.Plural(s.Tables, "table"),
			ui.Plural(s.Rows, "row"), ui.Bytes(s.Bytes), ui.Duration(time.Duration(s.Seconds*float64(time.Second))))
		a.ui().Printf("Every table was read again and has the rows and the checksum of backup %s.", ui.Safe(s.Backup))
	}
	return nil
}

// tellProblems names what is missing, with what to do about it.
func (a *app) tellProblems(s restoreSummary) {
	for _, t := range s.Schemas {
		for _, n := range t.Notes {
			a.ui().Warnf("tenant %s: %s", ui.Safe(t.Tenant), n)
		}
		for _, p := range t.Problems {
			text := fmt.Sprintf("tenant %s: %s %s could not be made: %s", ui.Safe(t.Tenant), strings.ToLower(p.Kind), p.Object, p.Error)
			if p.Remedy != "" {
				text += "\n" + p.Remedy
			}
			a.ui().Warnf("%s\n%s", text, strings.TrimSpace(p.SQL))
		}
	}
}
