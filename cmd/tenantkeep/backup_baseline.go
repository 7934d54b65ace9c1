package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tenantkeep/tenantkeep/internal/backup"
	"github.com/tenantkeep/tenantkeep/internal/baseline"
	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/registry"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// checkBaseline refuses what makes no sense for a baseline, or only for one.
func (o *BackupOptions) checkBaseline(cmd *cobra.Command, cfg *config.Config) error {
	if err := notEmpty(cmd, "template"); err != nil {
		return err
	}
	if cfg.BackupType != string(manifest.Baseline) {
		for _, flag := range []string{"template", "all-rows", "table-data", "exclude-table-data"} {
			if cmd.Flags().Changed(flag) {
				return &usageError{
					err:  fmt.Errorf("--%s is for baselines: every other backup takes all rows", flag),
					hint: "give --backup-type baseline with it",
				}
			}
		}
		return nil
	}
	if o.Tenant != "" {
		return usagef("--tenant does not go with a baseline: a template has its name from --template")
	}
	if cmd.Flags().Changed("exclude-schema") {
		return usagef("--exclude-schema does not go with a baseline, which holds one schema")
	}
	if o.Template == "" {
		return o.checkCoreBaseline(cfg)
	}
	if _, err := baseline.Key(o.Template); err != nil {
		return asUsage(fmt.Errorf("--template: %w", err))
	}
	switch {
	case len(cfg.Schemas) != 1:
		return usagef("--template makes a template of one tenant: name it with --schema")
	case cfg.Schemas[0] == manifest.CoreSchema:
		return &usageError{err: errors.New("core cannot be a template for tenants"), hint: "leave --template away for the baseline of core"}
	}
	return nil
}

func (o *BackupOptions) checkCoreBaseline(cfg *config.Config) error {
	if o.AllRows {
		return usagef("--all-rows is for templates: the baseline of core has all rows but those of --exclude-table-data")
	}
	for _, schema := range cfg.Schemas {
		if schema != manifest.CoreSchema {
			return &usageError{
				err:  fmt.Errorf("%s: the baseline without a name is that of core, not of %q", name(cfg, "schema"), schema),
				hint: "give --template NAME with it, to make the tenant a template for new ones",
			}
		}
	}
	return nil
}

// baseline turns the options of a backup into those of a baseline.
func (o *BackupOptions) baseline(cfg *config.Config, to *backup.Options) {
	to.ExcludeSchemas, to.Registry = nil, registry.Choice{} // the rows that register its tenant are nobody else's
	to.Rows = &backup.RowRules{Keep: cfg.TableData, Empty: cfg.ExcludeTableData, Complete: o.Template != "" && !o.AllRows}
	if o.Template == "" {
		to.Schemas = []string{manifest.CoreSchema}
	} else {
		to.Tenant = o.Template
	}
	// The settings file lists tables of core and of all templates; who gives a
	// flag means this one.
	for key, patterns := range map[string][]string{"table-data": cfg.TableData, "exclude-table-data": cfg.ExcludeTableData} {
		if cfg.Source(key).Kind == config.FromFlag {
			to.Rows.Strict = append(to.Rows.Strict, patterns...)
		}
	}
}

// writeBaseline writes what was backed up as a baseline into its directory, and
// returns the path of the file.
func (a *app) writeBaseline(ctx context.Context, repository *repo.Repo, cfg *config.Config, template string, m *manifest.Manifest) (written string, err error) {
	file, err := repository.OpenFile(ctx, m, m.Schemas[0])
	if err == nil {
		defer file.Close() //nolint:errcheck // it was only read
		a.tellRows(file.Index)
		if e := m.Schemas[0]; e.MediaBackup != "" {
			file.Index.Header.Media = e.Media.Hash
		}
		written, err = baseline.Write(cfg.BaselineDir, template, func(w io.Writer) error {
			_, err := datafile.Join(file.File, &interruptible{ctx, w}, datafile.Compression{Algorithm: datafile.None})
			return err
		}, filesOf(ctx, repository, m))
	}
	if err != nil {
		return "", &hintedError{err: err, hint: fmt.Sprintf("the baseline is whole as backup %s: tenantkeep restore --baseline --manifest %s uses it", m.ID, m.ID)}
	}
	return written, nil
}

// tellRows says whose rows are in a baseline, for somebody to see at a glance that
// there are none of customers.
func (a *app) tellRows(x *datafile.Index) {
	const enough = 12
	var texts []string
	others := 0
	for _, t := range x.Tables {
		switch {
		case t.Rows == 0:
		case len(texts) == enough:
			others++
		default:
			texts = append(texts, fmt.Sprintf("%s %s", ui.Safe(t.Name), ui.Count(t.Rows)))
		}
	}
	switch {
	case len(texts) == 0:
		a.ui().Printf("No table of it has rows.")
	case others > 0:
		a.ui().Printf("Rows of %s and %s are in it.", strings.Join(texts, ", "), ui.Plural(int64(others), "other table"))
	default:
		a.ui().Printf("Rows in it: %s.", strings.Join(texts, ", "))
	}
}

// filesOf is the media archive of a baseline as it is stored in the repository;
// nil: there is none.
func filesOf(ctx context.Context, repository *repo.Repo, m *manifest.Manifest) *baseline.Archive {
	e := m.Schemas[0]
	if e.MediaBackup == "" || e.Media == nil {
		return nil
	}
	_, ext, _ := strings.Cut(path.Base(e.MediaBackup), ".tar")
	return &baseline.Archive{Name: m.ID + ".tar" + ext, Write: func(w io.Writer) error {
		object, err := repository.OpenMedia(ctx, m, e)
		if err != nil {
			return err
		}
		_, err = io.Copy(&interruptible{ctx, w}, io.NewSectionReader(object, 0, object.Size()))
		return errors.Join(err, object.Close())
	}}
}
