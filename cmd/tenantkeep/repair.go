package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tenantkeep/tenantkeep/internal/audit"
	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/media"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/storage"
	"github.com/tenantkeep/tenantkeep/internal/ui"
	"github.com/tenantkeep/tenantkeep/internal/verify"
)

// RepairOptions are the flags of the command repair that are no settings.
type RepairOptions struct {
	DryRun bool
	Yes    bool
	Format format
}

// AddFlags adds the flags.
func (o *RepairOptions) AddFlags(flags *pflag.FlagSet) {
	flags.BoolVar(&o.DryRun, "dry-run", false, "say what would be rebuilt and what is lost, and change nothing")
	flags.BoolVar(&o.Yes, "yes", false, "do not ask")
	o.Format.addFlag(flags, formatTable, formatJSON)
}

func newRepairCommand(a *app) *cobra.Command {
	var opts RepairOptions
	cmd := &cobra.Command{
		Use:   "repair",
		Short: "Rebuild lost manifests from data files",
		Long: `Rebuild the manifests of backups that were lost or cannot be read, from the data
files, each of which says what it is. Every data file that the manifest of its own
backup does not name is read to its end first, and one that is damaged stays out
of the new manifest. Of a manifest that can be read and is not as it was written
stays what the files prove.

Rollback points are repaired too. Then it tells what cannot be restored any more,
tenant by tenant. It looks whether files are there; what is in those that
manifests name is for "tenantkeep verify" to check.

Nothing is deleted, and the manifest of a run that is as it was written is never
touched. Any other is kept beside the new one, as NAME.broken.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 something cannot be restored any
more, 130 interrupted.`,
		Example: `  tenantkeep repair --dry-run
  tenantkeep repair --yes`,
		GroupID: groupProtect,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := a.settings(cmd)
			if err != nil {
				return err
			}
			return runRepair(cmd.Context(), a, cfg, opts)
		},
	}
	opts.AddFlags(cmd.Flags())
	config.AddFlags(cmd.Flags(), "jobs")
	cmd.Flags().Lookup("jobs").Usage = "how many files, or parts of one, are read at once, `N`"
	return cmd
}

// repairSummary is what a repair did and found, in JSON. Fields are only ever
// added.
type repairSummary struct {
	Kind    string        `json:"kind"`
	DryRun  bool          `json:"dry_run"`
	Rebuilt []rebuiltJSON `json:"rebuilt"` // or what would be
	Lost    []lostJSON    `json:"lost"`
	Unused  []unusedJSON  `json:"unused"`
	Tenants []tenantJSON  `json:"tenants"` // of which something is lost
}

type rebuiltJSON struct {
	Backup   string             `json:"backup"`
	Manifest string             `json:"manifest"` // in the repository
	Type     string             `json:"type"`
	Schemas  int                `json:"schemas"`
	Failures []manifest.Failure `json:"failures"` // schemas whose files are damaged
	Broken   string             `json:"broken,omitempty"`
	Note     string             `json:"note,omitempty"`
}

type lostJSON struct {
	Backup  string `json:"backup,omitempty"`
	Schema  string `json:"schema,omitempty"`
	Tenant  string `json:"tenant,omitempty"`
	File    string `json:"file"`
	Problem string `json:"problem"`
}

type unusedJSON struct {
	File     string    `json:"file"`
	Bytes    int64     `json:"bytes"`
	Modified time.Time `json:"modified"`
	Reason   string    `json:"reason"`
}

type tenantJSON struct {
	Schema   string `json:"schema"`
	Tenant   string `json:"tenant"`
	Rollback bool   `json:"rollback"`
	Points   int    `json:"restore_points"` // that are left
	Newest   string `json:"newest,omitempty"`
}

// add adds what a place needs.
func (s *repairSummary) add(p place, plan *repo.RepairPlan) {
	file := func(key string) string { return p.name(key) }
	for _, l := range plan.Lost {
		id := l.Backup
		if id != "" {
			id = p.name(id)
		}
		s.Lost = append(s.Lost, lostJSON{id, l.Schema, l.Tenant, file(l.File), l.Problem})
	}
	for _, u := range plan.Unused {
		s.Unused = append(s.Unused, unusedJSON{file(u.Key), u.Size, u.Modified.UTC(), u.Reason})
	}
	for _, t := range plan.Tenants {
		newest := t.Newest
		if newest != "" {
			newest = p.name(newest)
		}
		s.Tenants = append(s.Tenants, tenantJSON{t.Schema, t.Tenant, p.Rollback, t.Points, newest})
	}
}

func (s *repairSummary) rebuilt(p place, list []repo.Rebuild) {
	for _, re := range list {
		m := re.Manifest
		s.Rebuilt = append(s.Rebuilt, rebuiltJSON{
			p.name(re.ID), p.name(re.Key), string(m.BackupType), len(m.Schemas), append([]manifest.Failure{}, m.Failures...), re.Broken, re.Note,
		})
	}
}

func runRepair(ctx context.Context, a *app, cfg *config.Config, opts RepairOptions) error {
	places, err := a.openPlaces(cfg)
	if err != nil {
		return err
	}
	s := &repairSummary{Kind: "summary", DryRun: opts.DryRun, Rebuilt: []rebuiltJSON{}, Lost: []lostJSON{}, Unused: []unusedJSON{}, Tenants: []tenantJSON{}}
	plans := make([]*repo.RepairPlan, len(places))
	planned := 0
	for i, p := range places {
		if plans[i], err = a.planRepair(ctx, p, cfg, opts); err != nil {
			return err
		}
		s.add(p, plans[i])
		planned += len(plans[i].Rebuild)
		for _, re := range plans[i].Rebuild {
			a.tellRebuild(p, re, opts.DryRun)
		}
	}
	if planned > 0 && !opts.DryRun {
		if err := a.ui().Confirm(ctx, fmt.Sprintf("Write %s?", ui.Plural(int64(planned), "manifest")), opts.Yes); err != nil {
			return err
		}
	}
	var errs []error
	for i, p := range places {
		done := plans[i].Rebuild
		if !opts.DryRun && plans[i].Work() {
			if done, err = p.Repo.Repair(ctx, plans[i]); err != nil {
				errs = append(errs, err)
			}
			for _, re := range done {
				a.noteAudit(func(r *audit.Record) { r.Rebuilt = append(r.Rebuilt, p.name(re.ID)) })
			}
		}
		s.rebuilt(p, done)
	}
	if err := a.showRepair(s, opts); err != nil {
		return err
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if n := len(s.Lost); n > 0 {
		return &partialError{fmt.Errorf("%s cannot be restored any more, or not be understood", ui.Plural(int64(n), "part"))}
	}
	return nil
}

// planRepair looks at one place. A repository that does not exist is not made
// by looking at it.
func (a *app) planRepair(ctx context.Context, p place, cfg *config.Config, opts RepairOptions) (*repo.RepairPlan, error) {
	stop := errors.New("there is something")
	err := p.Store.List(ctx, "", func(storage.Info) error { return stop })
	if !errors.Is(err, stop) {
		return &repo.RepairPlan{}, err
	}
	ctx, unlock, err := a.shareRepository(ctx, p.Repo, "repair")
	if err != nil {
		return nil, err
	}
	defer unlock() //nolint:errcheck // it ends with the process at the latest
	return p.Repo.PlanRepair(ctx, repo.RepairOptions{Media: archiveInfo, Check: func(ctx context.Context, files []repo.Backup) (map[string]error, error) {
		report, err := verify.Run(ctx, verify.Options{Repo: p.Repo, Backups: files, Jobs: cfg.Jobs, Progress: a.progress(opts.Format)})
		if err != nil {
			return nil, err
		}
		wrong := map[string]error{}
		for _, found := range report.Problems {
			if wrong[found.Backup] == nil {
				wrong[found.Backup] = errors.New(found.Error)
			}
		}
		return wrong, nil
	}})
}

// tellRebuild says what is rebuilt, or would be.
func (a *app) tellRebuild(p place, re repo.Rebuild, dry bool) {
	verb := "Rebuilding"
	if dry {
		verb = "Would rebuild"
	}
	reason := "it is missing"
	if re.Broken != "" {
		reason = re.Broken
	}
	m := re.Manifest
	text := fmt.Sprintf("%s the manifest of backup %s (%s, taken %s, %s): %s", verb, p.name(re.ID), m.BackupType, ui.Age(m.Timestamp.Time, a.now()),
		ui.Plural(int64(len(m.Schemas)), "schema"), ui.Safe(reason))
	if n := len(m.Failures); n > 0 {
		text += "; without " + ui.Plural(int64(n), "schema") + " whose files are damaged"
	}
	if re.Note != "" {
		text += "; " + re.Note
	}
	a.ui().Printf("%s", text)
}

// showRepair writes what is lost.
func (a *app) showRepair(s *repairSummary, opts RepairOptions) error {
	if opts.Format.is(formatJSON) {
		return a.ui().JSONLine(s)
	}
	for _, u := range s.Unused {
		a.ui().Printf("Left alone: %s (%s, %s): %s", ui.Safe(u.File), ui.Bytes(u.Bytes), ui.Age(u.Modified, a.now()), ui.Safe(u.Reason))
	}
	if len(s.Lost) > 0 {
		table := ui.NewTable(ui.Column{Title: "tenant"}, ui.Column{Title: "backup"}, ui.Column{Title: "file"}, ui.Column{Title: "problem", Text: true})
		for _, l := range s.Lost {
			table.Add(orDash(l.Tenant), orDash(l.Backup), l.File, l.Problem)
		}
		if err := a.ui().Table(table); err != nil {
			return err
		}
	}
	for _, t := range s.Tenants {
		if t.Points > 0 {
			a.ui().Printf("Tenant %s can be restored from %s, the newest is %s.", ui.Safe(t.Tenant), ui.Plural(int64(t.Points), "backup"), t.Newest)
		} else {
			a.ui().Warnf("nothing is left of which tenant %s could be restored", ui.Safe(t.Tenant))
		}
	}
	switch n := int64(len(s.Rebuilt)); {
	case n > 0 && opts.DryRun:
	case n > 0:
		a.ui().Printf("Rebuilt %s. A schema of which no file was left is in none of them, and nobody knows of it: take a new full backup now.", ui.Plural(n, "manifest"))
	case len(s.Lost) == 0:
		a.ui().Printf("There is nothing to repair.")
	}
	return nil
}

// orDash is a text, or a dash where there is none.
func orDash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// archiveInfo reads what a media archive says of itself.
func archiveInfo(object storage.Object) (repo.ArchiveInfo, error) {
	archive, err := media.Open(object, object.Size())
	if err != nil {
		return repo.ArchiveInfo{}, err
	}
	info := repo.ArchiveInfo{
		Schema: archive.Schema, Tenant: archive.Tenant,
		Media: manifest.Media{Backup: archive.Backup, Files: archive.Files, Bytes: archive.Bytes},
	}
	for _, ref := range archive.References {
		info.References = append(info.References, ref.Key)
	}
	return info, nil
}
