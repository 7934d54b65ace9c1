package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/tenantkeep/tenantkeep/internal/audit"
	"github.com/tenantkeep/tenantkeep/internal/baseline"
	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/plainsql"
	"github.com/tenantkeep/tenantkeep/internal/registry"
	"github.com/tenantkeep/tenantkeep/internal/restore"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// checkBaseline refuses what makes no sense with a baseline.
func (o *RestoreOptions) checkBaseline() error {
	switch {
	case !o.Baseline && o.Template != "":
		return usagef("--template is for --baseline: give both")
	case !o.Baseline, len(o.Set) > 0 && o.As == "":
		return usagef("--set is for a new tenant: give --baseline, --template and --as with it")
	case o.BackupFile != "" || o.AllowOutside || o.Latest || o.At != "":
		return usagef("--baseline is instead of a backup: leave out --backup-file, --latest and --at; --manifest names a baseline in the repository")
	case len(o.Tables) > 0 || o.All:
		return usagef("--baseline restores one schema wholly: leave out --table and --all")
	case len(o.Schemas) > 1:
		return usagef("--baseline restores one schema: give one --schema")
	case o.SwapTimeout <= 0:
		return usagef("--swap-timeout must be more than nothing")
	}
	if o.Template == "" {
		return o.checkCoreBaseline()
	}
	if _, err := baseline.Key(o.Template); err != nil {
		return asUsage(fmt.Errorf("--template: %w", err))
	}
	switch {
	case o.As == "" && len(o.Schemas) == 0:
		return &usageError{err: errors.New("nothing says what to make of the template"), hint: "--as NAME makes a new tenant of it, --schema NAME resets the tenant of that name to it"}
	case o.As != "" && len(o.Schemas) > 0:
		return usagef("--as makes a new tenant and --schema resets one that there is: give one of them")
	case o.As != "" && o.Resume:
		return usagef("--resume goes on with a restore that replaces a live schema: give --schema, not --as")
	}
	target := o.As
	if target == "" {
		target = o.Schemas[0]
	}
	if err := restore.CheckName(target); err != nil {
		return asUsage(err)
	}
	return nil
}

func (o *RestoreOptions) checkCoreBaseline() error {
	if o.As != "" || o.Resume {
		return usagef("--as and --resume are for tenants: name a template with --template")
	}
	if len(o.Schemas) == 1 && o.Schemas[0] != manifest.CoreSchema && o.Schemas[0] != manifest.CoreTenant {
		return usagef("the baseline without a name is that of core: name a template for %s with --template", ui.Safe(o.Schemas[0]))
	}
	return nil
}

// runRestoreBaseline restores a baseline: core, a tenant, or a new one.
func runRestoreBaseline(ctx context.Context, a *app, cmd *cobra.Command, cfg *config.Config, opts RestoreOptions) error {
	register, err := opts.registration(cfg)
	if err != nil {
		return err
	}
	target, err := server(cfg)
	if err != nil {
		return err
	}
	places, err := a.openPlaces(cfg)
	if err != nil {
		return err
	}
	ctx, from, m, unlock, err := a.openBaseline(ctx, cfg, places, opts)
	if err != nil {
		return err
	}
	defer unlock()
	files, rowsOnly, err := opts.media(cfg, m)
	if err != nil {
		return err
	}
	entry := &m.Schemas[0]
	asked := opts
	switch {
	case opts.As != "":
		entry.Tenant = opts.As
	case opts.Template != "":
		entry.Tenant = opts.Schemas[0]
	default:
		asked.Schemas = []string{manifest.CoreSchema}
	}
	a.noteAudit(func(r *audit.Record) { r.Backup, r.Schemas = m.ID, []string{entry.Tenant} })
	a.ui().Printf("Baseline %s, taken %s", ui.Safe(m.ID), ui.Age(m.Timestamp.Time, a.now()))
	o := restore.Options{
		Server: target, Repo: from.Repo, Manifest: m, Jobs: cfg.Jobs, Media: files, RowsOnly: rowsOnly, LeaveOutLinks: opts.LeaveOutLinks,
		Existing: restore.Existing(opts.ExistingMedia),
		NoOwner:  opts.NoOwner, NoPrivileges: opts.NoPrivileges, DryRun: opts.DryRun, Preview: !opts.Yes && a.ui().CanAsk(),
		Registry: registry.Skip, // a template is not its tenant
		As:       opts.As, New: opts.As != "", Appear: register, Resume: opts.Resume, Incomplete: opts.Incomplete, SwapTimeout: opts.SwapTimeout,
		Progress: a.progress(opts.Format), Log: a.logger(cmd, cfg), Now: a.now,
		Confirm: func(p *restore.Plan) error { return a.confirmRestore(ctx, p, asked) },
		Asks:    !opts.Yes && a.ui().CanAsk(),
	}
	if !o.New {
		o.Replace = opts.fill == nil
		if opts.Template != "" {
			o.As, o.Over = opts.Schemas[0], true
		}
		if opts.CreateRollback {
			a.saveRollbackPoints(cmd, cfg, places[1], target, &o)
		}
	}
	err = a.restoreAndShow(ctx, o, opts)
	if err == nil && o.New && !opts.DryRun {
		a.ui().Printf("Tenant %s is there.", ui.Safe(opts.As))
	}
	return err
}

// openBaseline finds the baseline that is asked for: in its directory, or with
// --manifest in the repository, which stays locked until unlock.
func (a *app) openBaseline(ctx context.Context, cfg *config.Config, places []place, opts RestoreOptions) (locked context.Context, from place, m *manifest.Manifest, unlock func(), err error) {
	unlock = func() {}
	if opts.Manifest == "" {
		if from, err = a.openPlace(cfg.BaselineDir, cfg.TimeZone); err == nil {
			m, err = baseline.Open(ctx, from.Store, opts.Template, cfg.IncludeMedia)
		}
		return ctx, from, m, unlock, err
	}
	from, b, err := a.namedBackupIn(ctx, places, opts.Manifest)
	if err != nil {
		return ctx, from, nil, unlock, err
	}
	locked, done, err := a.shareRepository(ctx, from.Repo, "restore")
	if err != nil {
		return ctx, from, nil, unlock, err
	}
	unlock = func() { _ = done() } // it ends with the process at the latest
	if b, err = from.Repo.Load(locked, b.Key); err != nil {
		return locked, from, nil, unlock, err
	}
	m = b.Manifest
	if m.BackupType != manifest.Baseline || len(m.Schemas) != 1 || m.Schemas[0].IsCore() != (opts.Template == "") {
		err = &usageError{
			err:  fmt.Errorf("backup %s is no baseline of what is to be restored", ui.Safe(b.ID)),
			hint: "tenantkeep list --include-baselines shows the baselines; --template is for those of tenants; other backups are restored without --baseline",
		}
	}
	return locked, from, m, unlock, err
}

// registration returns the function that registers a new tenant; nil: there is
// nothing to do.
func (o *RestoreOptions) registration(cfg *config.Config) (func(ctx context.Context, conn *pgx.Conn) error, error) {
	if o.As == "" {
		return nil, nil
	}
	if cfg.NewTenantSQL == "" {
		if len(o.Set) > 0 {
			return nil, usagef("--set gives values to statements of --new-tenant-sql, and there are none")
		}
		return nil, nil
	}
	where := name(cfg, "new-tenant-sql")
	text := cfg.NewTenantSQL
	if path, is := strings.CutPrefix(text, "@"); is {
		read, err := os.ReadFile(path)
		if err != nil {
			return nil, &usageError{err: fmt.Errorf("%s: %w", where, err)}
		}
		text, where = string(read), path
	}
	template, err := plainsql.ParseTemplate(text)
	if err != nil {
		return nil, asUsage(fmt.Errorf("%s: %w", where, err))
	}
	values, err := o.values(template.Parameters())
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context, conn *pgx.Conn) error {
		// The new tenant's tables go first, so that a statement may name them
		// without its schema.
		path := pgx.Identifier{o.As}.Sanitize() + ", public"
		if _, err := conn.PgConn().Exec(ctx, "SET LOCAL search_path = "+path).ReadAll(); err != nil {
			return fmt.Errorf("register tenant %s: %w", o.As, err)
		}
		if err := template.Run(ctx, conn.PgConn(), values); err != nil {
			return &hintedError{err: fmt.Errorf("register tenant %s: %s: %w", o.As, where, err), hint: "nothing was made: mend the statements of new-tenant-sql, or the values of --set, and try again"}
		}
		return nil
	}, nil
}

// values are those of the parameters of a template.
func (o *RestoreOptions) values(parameters []string) (map[string]string, error) {
	values := map[string]string{"schema": o.As, "template": o.Template}
	given := map[string]bool{}
	for _, text := range o.Set {
		key, value, ok := strings.Cut(text, "=")
		switch {
		case !ok || key == "":
			return nil, usagef("--set %s: write NAME=VALUE", ui.Safe(text))
		case key == "schema" || key == "template":
			return nil, usagef("--set %s: its value is that of --as and --template", key)
		case given[key]:
			return nil, usagef("--set %s is given twice", ui.Safe(key))
		case strings.ContainsRune(value, 0):
			return nil, usagef("--set %s: PostgreSQL cannot store a zero byte", ui.Safe(key))
		case !slices.Contains(parameters, key):
			return nil, &usageError{
				err:  fmt.Errorf("--set %s: the statements of new-tenant-sql have no parameter of that name", ui.Safe(key)),
				hint: "they have " + strings.Join(parameters, ", "),
			}
		}
		given[key] = true
		values[key] = value
	}
	var missing []string
	for _, p := range parameters {
		if _, ok := values[p]; !ok {
			missing = append(missing, p)
		}
	}
	if len(missing) > 0 {
		return nil, &usageError{
			err:  fmt.Errorf("the statements of new-tenant-sql need values for %s", strings.Join(missing, ", ")),
			hint: fmt.Sprintf("give --set %s=…; there are %s", missing[0], strings.Join(slices.Sorted(maps.Keys(values)), ", ")),
		}
	}
	return values, nil
}
