package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tenantkeep/tenantkeep/internal/backup"
	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/job"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/registry"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// BackupOptions are the flags of the command backup that are no settings.
type BackupOptions struct {
	Tenant     string
	Parent     string
	Template   string
	AllRows    bool
	NoReuseDDL bool
	MediaGone  []string
	DryRun     bool
	Yes        bool
	Format     format
}

// AddFlags adds the flags.
func (o *BackupOptions) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.Tenant, "tenant", "", "`NAME` of the tenant, for names of files and lists; needs one --schema")
	flags.StringVar(&o.Parent, "parent", "", "build an incremental backup on the backup `ID`, instead of the newest of each schema")
	flags.StringVar(&o.Template, "template", "", "write the tenant of --schema as a template of this `NAME`; needs --backup-type baseline")
	flags.BoolVar(&o.AllRows, "all-rows", false, "let all rows of --schema belong to the template, but for those of --exclude-table-data")
	flags.BoolVar(&o.NoReuseDDL, "no-reuse-ddl", false, "let pg_dump write all definitions anew, those too that did not change")
	flags.StringArrayVar(&o.MediaGone, "media-gone", nil, "the files of this `SCHEMA` are gone for good: back it up without them; can be repeated")
	flags.BoolVar(&o.DryRun, "dry-run", false, "show what would be backed up, and do nothing")
	flags.BoolVar(&o.Yes, "yes", false, "ask nothing; a backup never does")
	o.Format.addFlag(flags, formatTable, formatJSON)
}

func newBackupCommand(a *app) *cobra.Command {
	var opts BackupOptions
	cmd := &cobra.Command{
		Use:     "backup",
		Aliases: []string{"backup_tenant"},
		Short:   "Back up core and all tenants at one moment",
		Long: `Back up core (the public schema and what belongs to the whole database) and all
tenants at one moment, each into a data file of its own.

Tenants are all schemas but those of the system and of extensions. Tables are
locked one tenant at a time, only against being dropped or altered, so the
application works on. A tenant whose tables are changed at that very moment is
taken again. The backup exists once its manifest is written, as the last thing;
an interrupted run leaves nothing behind that could be mistaken for one.

The rows that register a tenant in shared tables are saved with it: those of
django-tenants are found by themselves, others are named with --registry-table.

An incremental backup stores what changed since the newest backup of each schema,
and refers to the files of earlier ones for the rest. It is a complete restore
point all the same. A schema that has no earlier backup is taken in full.

A baseline is core as it is, or a tenant as a template for new ones. It is written
as a plain SQL script into the directory of baselines, and as a backup of its own.
restore --baseline goes back to it, or makes new tenants of it.

With --include-media the files of each tenant are saved with its schema, from its
folder in --media-root; what is in none of the tenants' folders goes with core.
An incremental backup stores the files that changed. A tenant that had files and
has none is reported by each backup (exit code 3) until --media-gone says that they
are gone for good.

Exit codes: 0 all saved, 1 nothing saved, 2 wrong usage, 3 some tenants failed
and the others are safe, 130 interrupted.`,
		Example: `  tenantkeep backup
  tenantkeep backup --backup-type incremental
  tenantkeep backup --schema customer_a --schema customer_b
  tenantkeep backup --exclude-schema staging --compression zstd:9
  tenantkeep backup --include-media --media-root /srv/app/media
  tenantkeep backup --backup-type baseline --exclude-table-data django_session
  tenantkeep backup --backup-type baseline --template restaurant --schema demo_restaurant --table-data 'menu*' --exclude-table-data 'order*'`,
		GroupID: groupProtect,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.settings(cmd)
			if err != nil {
				return err
			}
			return runBackup(cmd.Context(), a, cmd, cfg, opts)
		},
	}
	opts.AddFlags(cmd.Flags())
	config.AddFlags(cmd.Flags(), append(mediaFlags, "database-url", "schema", "exclude-schema", "backup-type", "table-data", "exclude-table-data", "baseline-dir",
		"registry-tables", "max-chain", "wal-summaries", "compression", "retention-days", "jobs", "pg-dump", "lock-timeout", "hook-timeout")...)
	config.AddFlags(cmd.Flags(), notifyFlags...)
	return cmd
}

func runBackup(ctx context.Context, a *app, cmd *cobra.Command, cfg *config.Config, opts BackupOptions) error {
	if err := opts.checkBaseline(cmd, cfg); err != nil {
		return err
	}
	if opts.Parent != "" && cfg.BackupType != string(manifest.Incremental) {
		return usagef("--parent is what an incremental backup builds on: give --backup-type incremental with it")
	}
	if opts.Tenant != "" && len(cfg.Schemas) != 1 {
		return usagef("--tenant names one tenant: give exactly one --schema with it")
	}
	if len(opts.MediaGone) > 0 && !cfg.IncludeMedia {
		return usagef("--media-gone is about files of tenants: give --include-media with it")
	}
	o, err := a.backupOptions(cmd, cfg, a.progress(opts.Format))
	if err != nil {
		return err
	}
	o.Type, o.Tenant, o.Parent = manifest.Type(cfg.BackupType), opts.Tenant, opts.Parent
	o.NoReuseDDL, o.MediaGone, o.DryRun = opts.NoReuseDDL, opts.MediaGone, opts.DryRun
	step := job.Step{Backup: o}
	if o.Type == manifest.Baseline {
		opts.baseline(cfg, &step.Backup)
		step.Save = func(ctx context.Context, m *manifest.Manifest) (string, error) {
			return a.writeBaseline(ctx, o.Repo, cfg, opts.Template, m)
		}
	}
	if opts.DryRun {
		done, err := job.Run(ctx, []job.Step{step}, job.Parts{Now: a.now})
		if err != nil {
			return err
		}
		return a.showBackup(done.Backups[0], o, opts.Format)
	}
	parts, shown := a.parts(cmd, cfg, o, opts.Format, false)
	done, err := job.Run(ctx, []job.Step{step}, parts)
	return errors.Join(ended(done, err), *shown)
}

// registryTables are the tables with the rows that register tenants.
func registryTables(cfg *config.Config) (registry.Choice, error) {
	c, err := registry.ParseChoice(cfg.RegistryTables)
	if err != nil {
		return c, &usageError{
			err:  fmt.Errorf("%s: %w", name(cfg, "registry-tables"), err),
			hint: "customers_client.schema_name for a column with the names of schemas, customers_domain.tenant_id=customers_client.id for one that refers to it",
		}
	}
	return c, nil
}

// retentionOf says what the days of a backup made now mean. The flag is about
// this one backup. The variable and the file are about all backups, so that the
// policy, which thins them out, still has its say once the days are over.
func retentionOf(cfg *config.Config) manifest.Retention {
	switch cfg.Source("retention-days").Kind {
	case config.FromFlag:
		return manifest.RetainExactly
	case config.FromEnv, config.FromFile:
		return manifest.RetainAtLeast
	default:
		return ""
	}
}

// showBackup says what was done, or what would be.
func (a *app) showBackup(b job.Backup, o backup.Options, form format) error {
	r, location := b.Result, o.Repo.Location()
	switch {
	case r == nil:
		return nil
	case r.Manifest == nil:
		return a.showPlanned(r, o.Server, form)
	}
	s := summarize(r, location)
	s.Baseline = b.Saved
	if form.is(formatJSON) {
		return a.ui().JSONLine(s)
	}
	if s.Tenants == 0 && len(s.Failures) == 0 && s.Core && s.Type != string(manifest.Baseline) {
		a.ui().Printf("The database has no tenants: only core was there to be saved.")
	}
	a.ui().Printf("Saved %s: %s, %s.", savedWhat(s), ui.Plural(s.Tables, "table"), ui.Plural(s.Rows, "row"))
	if s.Type == string(manifest.Incremental) {
		a.ui().Printf("%s of rows, of which %s is new in %s; %s did not change since %s.", ui.Bytes(s.Bytes), ui.Bytes(s.Stored),
			ui.Duration(r.Elapsed), ui.Plural(s.Unchanged, "schema"), s.Parent)
	} else {
		a.ui().Printf("%s of rows became %s in %s.", ui.Bytes(s.Bytes), ui.Bytes(s.Stored), ui.Duration(r.Elapsed))
	}
	if f := s.Media; f != nil {
		a.ui().Printf("Media: %s of %s, of which %s is new, in %s.", ui.Plural(f.Files, "file"), ui.Bytes(f.Bytes), ui.Bytes(f.Stored), ui.Plural(f.Archives, "archive"))
	}
	a.ui().Printf("Backup %s in %s", s.ID, ui.Safe(location))
	if b.Saved != "" {
		a.ui().Printf("Baseline %s", ui.Safe(b.Saved))
	}
	_, err := fmt.Fprintln(a.stdout, s.ManifestPath)
	return err
}

// backupSummary is the last line of a backup in JSON.
type backupSummary struct {
	Kind         string             `json:"kind"`
	ID           string             `json:"id"`
	Type         string             `json:"type"`
	Parent       string             `json:"parent,omitempty"`
	ManifestPath string             `json:"manifest"`
	Baseline     string             `json:"baseline,omitempty"` // path of the file in the directory of baselines
	Core         bool               `json:"core"`
	Tenants      int64              `json:"tenants"`
	Tables       int64              `json:"tables"`
	Rows         int64              `json:"rows"`
	Bytes        int64              `json:"bytes"`
	Stored       int64              `json:"stored"`    // by this run
	Unchanged    int64              `json:"unchanged"` // schemas of which nothing had to be stored
	Seconds      float64            `json:"seconds"`
	Failures     []manifest.Failure `json:"failures"`
	// Media is what was saved of the tenants' files. Null: these were not asked for.
	Media *mediaSummary `json:"media,omitempty"`
}

// mediaSummary says what was saved of files. Fields are only ever added.
type mediaSummary struct {
	Files     int64              `json:"files"`
	Bytes     int64              `json:"bytes"`     // of these files
	Stored    int64              `json:"stored"`    // by this run
	Archives  int64              `json:"archives"`  // that this run wrote
	Unchanged int64              `json:"unchanged"` // tenants whose files are all in earlier archives
	Failures  []manifest.Failure `json:"failures"`  // schemas of which some could not be saved
}

func summarizeMedia(m *manifest.Manifest) *mediaSummary {
	if !m.IncludeMedia {
		return nil
	}
	s := &mediaSummary{Failures: []manifest.Failure{}}
	for _, e := range m.Schemas {
		if e.Media == nil {
			continue
		}
		s.Files += e.Media.Files
		s.Bytes += e.Media.Bytes
		if e.Media.Failed > 0 {
			s.Failures = append(s.Failures, manifest.Failure{Schema: e.Schema, Tenant: e.Tenant, Error: fmt.Sprintf("%s could not be saved, the first is %s", ui.Plural(e.Media.Failed, "file"), e.Media.Failures[0])})
		}
		switch {
		case e.MediaBackup == "":
		case e.Media.Backup == m.ID:
			s.Archives++
			s.Stored += e.Media.Size
		default:
			s.Unchanged++
		}
	}
	return s
}

func summarize(r *backup.Result, location string) backupSummary {
	m := r.Manifest
	s := backupSummary{
		Kind: "summary", ID: m.ID, Type: string(m.BackupType), Parent: m.Parent, ManifestPath: location + "/manifests/backup_manifest_" + m.ID + ".json",
		Seconds: r.Elapsed.Seconds(), Failures: m.Failures, Media: summarizeMedia(m),
	}
	if s.Failures == nil {
		s.Failures = []manifest.Failure{}
	}
	for _, e := range m.Schemas {
		if e.IsCore() {
			s.Core = true
		} else {
			s.Tenants++
		}
		s.Tables += e.Tables
		s.Rows += e.Rows
		s.Bytes += e.Bytes
		if e.Timestamp == m.ID {
			s.Stored += e.Size
		} else {
			s.Unchanged++
		}
	}
	return s
}

func savedWhat(s backupSummary) string {
	switch {
	case s.Core && s.Tenants == 0:
		return "core"
	case s.Type == string(manifest.Baseline):
		return "1 tenant as a template"
	case s.Core:
		return "core and " + ui.Plural(s.Tenants, "tenant")
	default:
		return ui.Plural(s.Tenants, "tenant")
	}
}

func (a *app) showPlanned(r *backup.Result, target *pg.Server, form format) error {
	type planned struct {
		Schema string `json:"schema"`
		Owner  string `json:"owner"`
		Tables int    `json:"tables"`
		Bytes  int64  `json:"estimated_bytes"`
		Media  string `json:"media_folder,omitempty"`
	}
	list := make([]planned, 0, len(r.Planned))
	columns := []ui.Column{{Title: "SCHEMA"}, {Title: "OWNER"}, {Title: "TABLES", Right: true}, {Title: "ABOUT", Right: true}}
	if r.Folders != nil {
		columns = append(columns, ui.Column{Title: "MEDIA", Text: true})
	}
	table := ui.NewTable(columns...)
	for _, s := range r.Planned {
		list = append(list, planned{s.Name, s.Owner, s.Tables, s.Bytes, r.Folders[s.Name]})
		cells := []string{s.Name, s.Owner, ui.Count(int64(s.Tables)), ui.Bytes(s.Bytes)}
		if r.Folders != nil {
			cells = append(cells, r.Folders[s.Name])
		}
		table.Add(cells...)
	}
	if form.is(formatJSON) {
		return a.ui().JSON(list)
	}
	a.ui().Printf("Would back up %s of %s:", ui.Plural(int64(len(list)), "schema"), target)
	return a.ui().Table(table)
}
