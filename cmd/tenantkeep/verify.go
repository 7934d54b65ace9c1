package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tenantkeep/tenantkeep/internal/audit"
	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/ui"
	"github.com/tenantkeep/tenantkeep/internal/verify"
)

// VerifyOptions are the flags of the command verify that are no settings.
type VerifyOptions struct {
	Manifest string // id, file name or path; empty: all
	Latest   bool
	Schemas  []string // by name of the schema or the tenant; empty: all
	// Definitions compares those of the newest backups with the database, instead
	// of reading files.
	Definitions bool
	Format      format
}

// AddFlags adds the flags.
func (o *VerifyOptions) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.Manifest, "manifest", "", "only this backup: its id, or the `PATH` of its manifest")
	flags.BoolVar(&o.Latest, "latest", false, "only the newest backup")
	flags.StringArrayVar(&o.Schemas, "schema", nil, "only the files of this schema or tenant `NAME`; repeat it for more")
	flags.BoolVar(&o.Definitions, "definitions", false, "compare the definitions in the newest backups with what pg_dump writes now, instead of reading files")
	o.Format.addFlag(flags, formatTable, formatJSON)
}

func newVerifyCommand(a *app) *cobra.Command {
	var opts VerifyOptions
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "Read backups and check that they are as they were written",
		Long: `Read the files of all backups and check that they are as they were written: that
they are there, have their size and hash, that their index can be read and every
frame decompresses, and that all rows are there, with the checksums of their
tables. Of media archives every file is read and compared with its hash. Dumps of
the original system are read to their end, where pg_dump says that it wrote all of
them, and compared with the hash of their manifest.

Tenants that others refer to are named: a restore of one concerns the others.
The chain of the audit trail is checked too, unless only some backups are.

With --definitions, the definitions that a backup would take over from an earlier
one are compared with what pg_dump writes now. That needs the database.

Exit codes: 0 all is well, 1 something is wrong, 2 wrong usage, 130 interrupted.`,
		Example: `  tenantkeep verify
  tenantkeep verify --latest
  tenantkeep verify --definitions
  tenantkeep verify --manifest 20261123_000001 --format json`,
		GroupID: groupInspect,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.Manifest != "" && opts.Latest {
				return usagef("--manifest and --latest are two different backups: give one of them")
			}
			cfg, err := a.settings(cmd)
			if err != nil {
				return err
			}
			if opts.Definitions {
				if opts.Manifest != "" || opts.Latest {
					return usagef("--definitions compares the newest backup of each schema: give it without --manifest and --latest")
				}
				return verifyDefinitions(cmd.Context(), a, cmd, cfg, opts)
			}
			return runVerify(cmd.Context(), a, cfg, opts)
		},
	}
	opts.AddFlags(cmd.Flags())
	config.AddFlags(cmd.Flags(), "jobs", "database-url", "pg-dump", "lock-timeout", "time-zone")
	cmd.Flags().Lookup("jobs").Usage = "how many files, or parts of one, are read at once, `N`"
	return cmd
}

// verifyError says that backups are not as they were written.
type verifyError struct{ report *verify.Report }

func (e *verifyError) Error() string {
	return fmt.Sprintf("%s found in %s", ui.Plural(int64(len(e.report.Problems)), "problem"), ui.Plural(int64(e.report.Backups), "backup"))
}

// Hint says what to do.
func (*verifyError) Hint() string {
	return "take a new full backup now, and look for the cause: a failing disk, or something that writes into the repository. " +
		"tenantkeep repair rebuilds manifests that are lost"
}

func runVerify(ctx context.Context, a *app, cfg *config.Config, opts VerifyOptions) error {
	places, err := a.openPlaces(cfg)
	if err != nil {
		return err
	}
	repository, backups, err := a.chosenBackups(ctx, places, opts)
	if err != nil {
		return err
	}
	if len(backups) > 0 { // a repository that does not exist is not made by looking at it
		var unlock repo.Unlock
		ctx, unlock, err = a.shareRepository(ctx, repository, "verify")
		if err != nil {
			return err
		}
		defer unlock() //nolint:errcheck // it ends with the process at the latest
		// A cleanup that had the lock until now may have removed some of them.
		if opts.Manifest != "" {
			backups[0], err = repository.Load(ctx, backups[0].Key)
		} else {
			_, backups, err = a.chosenBackups(ctx, places, opts)
		}
		if err != nil {
			return err
		}
	}
	if err := knownSchemas(backups, opts.Schemas); err != nil {
		return err
	}
	report, err := verify.Run(ctx, verify.Options{
		Repo: repository, Backups: backups, Schemas: opts.Schemas, Jobs: cfg.Jobs, Progress: a.progress(opts.Format),
	})
	if err != nil {
		return err
	}
	var trail *audit.Report
	var errs []error
	if opts.Manifest == "" && len(opts.Schemas) == 0 {
		if trail, err = a.checkAudit(cfg); err != nil {
			errs = append(errs, err)
		}
	}
	if err := a.showReport(report, trail, opts); err != nil {
		return err
	}
	if len(report.Problems) > 0 {
		errs = append(errs, &verifyError{report})
	}
	switch {
	case opts.Manifest != "" || len(opts.Schemas) > 0:
	case trail != nil && trail.Problem != nil:
		errs = append(errs, &auditError{trail})
	case err == nil:
		a.tellGaps(trail, cfg.LogDir, backups)
	}
	return errors.Join(errs...)
}

// chosenBackups returns the backups that are to be verified, and the repository
// that they are in.
func (a *app) chosenBackups(ctx context.Context, places []place, opts VerifyOptions) (*repo.Repo, []repo.Backup, error) {
	if opts.Manifest != "" {
		from, one, err := a.namedBackupIn(ctx, places, opts.Manifest)
		if err != nil {
			return nil, nil, err
		}
		return from.Repo, []repo.Backup{one}, nil
	}
	repository := places[0].Repo
	backups, err := repository.List(ctx)
	if err != nil {
		return nil, nil, err
	}
	if opts.Latest && len(backups) > 0 {
		backups = backups[:1]
	}
	return repository, backups, nil
}

// knownSchemas refuses names that no backup has: a check of nothing would say
// that all is well.
func knownSchemas(backups []repo.Backup, names []string) error {
	for _, name := range names {
		known := slices.ContainsFunc(backups, func(b repo.Backup) bool {
			return b.Manifest != nil && slices.ContainsFunc(b.Manifest.Schemas, func(e manifest.Schema) bool { return e.Schema == name || e.Tenant == name })
		})
		if !known {
			return usagef("--schema: no backup that is to be verified holds %s", ui.Safe(name))
		}
	}
	return nil
}

// showReport writes the report, and that of the audit trail, which is nil where
// none was checked.
func (a *app) showReport(r *verify.Report, trail *audit.Report, opts VerifyOptions) error {
	if opts.Format.is(formatJSON) {
		r.OK = r.OK && (trail == nil || trail.Problem == nil)
		return a.ui().JSONLine(struct {
			Kind string `json:"kind"`
			*verify.Report
			Audit *audit.Report `json:"audit,omitempty"`
		}{"summary", r, trail})
	}
	defer a.tellAudit(trail)
	for _, l := range r.Leaks {
		a.ui().Warnf("leak: definitions of %s refer to tenant %s: a restore of it concerns them too", leakNames(l.NeededBy), ui.Safe(l.Tenant))
	}
	if len(r.Problems) > 0 {
		table := ui.NewTable(ui.Column{Title: "backup"}, ui.Column{Title: "tenant"}, ui.Column{Title: "file"}, ui.Column{Title: "problem", Text: true})
		for _, p := range r.Problems {
			table.Add(p.Backup, p.Tenant, p.File, p.Error)
		}
		return a.ui().Table(table)
	}
	switch {
	case r.Backups == 0:
		a.ui().Printf("No backups to verify.")
	default:
		a.ui().Printf("All is well: %s, %s, %s stored, %s in %s.", ui.Plural(int64(r.Backups), "backup"), ui.Plural(int64(r.Files), "file"),
			ui.Bytes(r.Bytes), ui.Plural(r.Rows, "row"), ui.Plural(r.Tables, "table"))
		if r.Archives > 0 {
			a.ui().Printf("Media: %s, %s, %s stored.", ui.Plural(int64(r.Archives), "archive"), ui.Plural(r.MediaFiles, "file"), ui.Bytes(r.MediaBytes))
		}
		if r.Legacy > 0 {
			a.ui().Printf("%s of the original system: read to the end, with no checksums to compare the rows with.", ui.Plural(int64(r.Legacy), "file"))
		}
		if r.Unhashed > 0 {
			a.ui().Warnf("%s of these without a hash, because no manifest names one: what changed in them unnoticed cannot be told", ui.Plural(int64(r.Unhashed), "file"))
		}
	}
	return nil
}

// leakNames are the first tenants of a leak: of a schema that all share there
// are as many as tenants.
func leakNames(names []string) string {
	const enough = 5
	shown := make([]string, 0, enough)
	for _, name := range names[:min(len(names), enough)] {
		shown = append(shown, ui.Safe(name))
	}
	if more := len(names) - enough; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(shown, ", "), more)
	}
	return strings.Join(shown, ", ")
}
