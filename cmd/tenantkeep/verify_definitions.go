package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tenantkeep/tenantkeep/internal/backup"
	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// definitionsSummary is the last line of verify --definitions in JSON.
type definitionsSummary struct {
	Kind        string               `json:"kind"`
	OK          bool                 `json:"ok"`
	Compared    int                  `json:"compared"` // schemas
	Changed     int                  `json:"changed"`  // since their newest backup, so that there is nothing to compare
	Unsaved     int                  `json:"unsaved"`  // in no backup
	Differences []definitionDiffJSON `json:"differences"`
	Failures    []manifest.Failure   `json:"failures"`
}

// definitionDiffJSON is a schema whose stored definitions are not those of now.
type definitionDiffJSON struct {
	Backup    string `json:"backup"`
	Schema    string `json:"schema"`
	Tenant    string `json:"tenant"`
	Statement string `json:"statement"`
	Stored    string `json:"stored"`
	Fresh     string `json:"fresh"`
}

// verifyDefinitions compares definitions in the newest backups with what pg_dump
// writes now.
func verifyDefinitions(ctx context.Context, a *app, cmd *cobra.Command, cfg *config.Config, opts VerifyOptions) error {
	target, err := server(cfg)
	if err != nil {
		return err
	}
	places, err := a.openPlaces(cfg)
	if err != nil {
		return err
	}
	ctx, unlock, err := a.shareRepository(ctx, places[0].Repo, "verify")
	if err != nil {
		return err
	}
	defer unlock() //nolint:errcheck // it ends with the process at the latest
	r, err := backup.CheckDefinitions(ctx, backup.Options{
		Server: target, Repo: places[0].Repo, Schemas: opts.Schemas, Type: manifest.Full, Jobs: cfg.Jobs,
		PgDump: cfg.PgDump, LockTimeout: cfg.LockTimeout, Version: buildVersion().Version,
		Progress: a.progress(opts.Format), Log: a.logger(cmd, cfg),
	})
	if err != nil {
		return err
	}
	if err := a.showDefinitions(r, opts); err != nil {
		return err
	}
	switch {
	case len(r.Differences) > 0:
		return &hintedError{
			err:  fmt.Errorf("the definitions of %s in backups are not those of the database", ui.Plural(int64(len(r.Differences)), "schema")),
			hint: "take a full backup with --no-reuse-ddl now, and report this: it is a fault of tenantkeep",
		}
	case len(r.Failures) > 0:
		return errors.New("not all definitions could be compared")
	}
	return nil
}

func (a *app) showDefinitions(r *backup.DefinitionsReport, opts VerifyOptions) error {
	s := definitionsSummary{
		Kind: "summary", OK: len(r.Differences) == 0 && len(r.Failures) == 0, Compared: r.Compared, Changed: r.Changed, Unsaved: r.Unsaved,
		Differences: []definitionDiffJSON{}, Failures: append([]manifest.Failure{}, r.Failures...),
	}
	table := ui.NewTable(ui.Column{Title: "backup"}, ui.Column{Title: "tenant"}, ui.Column{Title: "problem", Text: true})
	for _, d := range r.Differences {
		s.Differences = append(s.Differences, definitionDiffJSON{d.Backup, d.Schema, d.Tenant, d.Statement, d.Stored, d.Fresh})
		table.Add(d.Backup, d.Tenant, d.Error())
	}
	for _, f := range r.Failures {
		table.Add("", f.Tenant, f.Error)
	}
	if opts.Format.is(formatJSON) {
		return a.ui().JSONLine(s)
	}
	a.ui().Printf("The definitions of %s in their newest backups were compared with what pg_dump writes now.", ui.Plural(int64(r.Compared), "schema"))
	if r.Changed > 0 {
		a.ui().Printf("%s changed since, so that there was nothing to compare.", ui.Plural(int64(r.Changed), "schema"))
	}
	if r.Unsaved > 0 {
		a.ui().Printf("No backup holds %s.", ui.Plural(int64(r.Unsaved), "schema"))
	}
	if s.OK {
		return nil
	}
	return a.ui().Table(table)
}
