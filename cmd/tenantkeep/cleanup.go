package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/restore"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// CleanupOptions are the flags of the command cleanup that are no settings.
type CleanupOptions struct {
	KeepReplaced time.Duration
	DryRun       bool
	Yes          bool
	Format       format
}

// AddFlags adds the flags.
func (o *CleanupOptions) AddFlags(flags *pflag.FlagSet) {
	flags.DurationVar(&o.KeepReplaced, "keep-replaced", 24*time.Hour, "how long to keep schemas that restores replaced, or staged and could not swap in")
	flags.BoolVar(&o.DryRun, "dry-run", false, "say what would be dropped and why, and drop nothing")
	flags.BoolVar(&o.Yes, "yes", false, "do not ask")
	o.Format.addFlag(flags, formatTable, formatJSON)
}

func newCleanupCommand(a *app) *cobra.Command {
	var opts CleanupOptions
	cmd := &cobra.Command{
		Use:     "cleanup",
		Aliases: []string{"cleanup_backups"},
		Short:   "Drop schemas that restores replaced or left",
		Long: `Drop schemas that restores left in the database: those whose place was taken
longer ago than --keep-replaced, restored ones that waited as long for a swap, and
what restores left that died. Tables are dropped in steps that fit the server's
lock table. A schema on which an object outside of it depends stays, and is named.

Rollback points of restores that failed or died before they replaced anything are
removed from the repository. Other backups in it are not touched.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 some schemas could not be dropped,
130 interrupted.`,
		Example: `  tenantkeep cleanup --dry-run
  tenantkeep cleanup --keep-replaced 72h --yes`,
		GroupID: groupProtect,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if opts.KeepReplaced < 0 {
				return usagef("--keep-replaced must not be less than nothing")
			}
			cfg, err := a.settings(cmd)
			if err != nil {
				return err
			}
			return runCleanup(cmd.Context(), a, cfg, opts)
		},
	}
	opts.AddFlags(cmd.Flags())
	config.AddFlags(cmd.Flags(), "database-url")
	return cmd
}

// droppedJSON is one schema of a cleanup, or one rollback point, in JSON. Fields are only ever added.
type droppedJSON struct {
	Name    string    `json:"name"`
	Schema  string    `json:"schema"` // whose place it had, or was to take
	At      time.Time `json:"at"`
	Bytes   int64     `json:"bytes_on_disk"`
	Reason  string    `json:"reason"`
	Dropped bool      `json:"dropped"`
	Needed  []string  `json:"needed_by"` // what depends on it, so that it stays
}

func runCleanup(ctx context.Context, a *app, cfg *config.Config, opts CleanupOptions) error {
	target, err := server(cfg)
	if err != nil {
		return err
	}
	now := a.now()
	points, err := a.openPoints(ctx, cfg, target)
	if err != nil {
		return err
	}
	list, err := restore.DropOwn(ctx, restore.DropOptions{
		Server: target, Before: now.Add(-opts.KeepReplaced), DryRun: opts.DryRun, Asks: !opts.Yes && a.ui().CanAsk(),
		Kept: func(ctx context.Context, kept []restore.Replaced) error { return points.judge(ctx, kept, !opts.DryRun) },
		Confirm: func(list []restore.Dropped) error {
			for _, d := range list {
				a.ui().Printf("%s: %s (%s)", ui.Safe(d.Name), reasonOf(d, now), ui.Bytes(d.Bytes))
			}
			return a.ui().Confirm(ctx, fmt.Sprintf("Drop %s in %s?", ui.Plural(int64(len(list)), "schema"), target), opts.Yes)
		},
	})
	if err != nil {
		return err
	}
	if len(points.dead) > 0 && !opts.DryRun {
		for _, b := range points.dead {
			a.ui().Printf("%s/%s: %s", rollbackName, ui.Safe(b.ID), deadReason)
		}
		if err := a.ui().Confirm(ctx, fmt.Sprintf("Remove %s from %s?", ui.Plural(int64(len(points.dead)), "rollback point"), points.place.Repo.Location()), opts.Yes); err != nil {
			return err
		}
		if err := points.remove(ctx); err != nil {
			return err
		}
	}
	rows := []droppedJSON{}
	kept := 0
	var freed int64
	for _, d := range list {
		one := droppedJSON{
			Name: d.Name, Schema: d.Schema, At: d.At.UTC(), Bytes: d.Bytes, Reason: reasonOf(d, now),
			Dropped: !opts.DryRun && len(d.Dependents) == 0, Needed: append([]string{}, d.Dependents...),
		}
		if len(d.Dependents) > 0 {
			kept++
		} else {
			freed += d.Bytes
		}
		rows = append(rows, one)
	}
	for _, b := range points.dead {
		one := droppedJSON{Name: rollbackName + "/" + b.ID, Schema: namesIn(b.Manifest), At: b.Time().UTC(), Reason: deadReason, Dropped: !opts.DryRun, Needed: []string{}}
		for _, s := range b.Manifest.Schemas {
			one.Bytes += s.Size
		}
		freed += one.Bytes
		rows = append(rows, one)
	}
	if opts.Format.is(formatJSON) {
		if err := a.ui().JSONLine(rows); err != nil {
			return err
		}
	} else {
		a.tellCleanup(rows, freed, opts)
	}
	if kept > 0 {
		return &partialError{fmt.Errorf("%s could not be dropped, because something depends on them", ui.Plural(int64(kept), "schema"))}
	}
	return nil
}

func reasonOf(d restore.Dropped, now time.Time) string {
	switch d.Kind {
	case restore.KindReplaced:
		return fmt.Sprintf("was %s until it was replaced %s", ui.Safe(d.Schema), ui.Age(d.At, now))
	case restore.KindStaged:
		return fmt.Sprintf("a restore of %s loaded it %s and could not swap it in", ui.Safe(d.Schema), ui.Age(d.At, now))
	default:
		return fmt.Sprintf("a restore of %s left it %s when it died", ui.Safe(d.Schema), ui.Age(d.At, now))
	}
}

func (a *app) tellCleanup(rows []droppedJSON, freed int64, opts CleanupOptions) {
	if len(rows) == 0 {
		a.ui().Printf("There is no schema to drop, and no rollback point to remove.")
		return
	}
	for _, r := range rows {
		switch {
		case len(r.Needed) > 0:
			a.ui().Warnf("schema %s stays, because these depend on it: %s", ui.Safe(r.Name), ui.Safe(strings.Join(r.Needed, ", ")))
		case opts.DryRun:
			a.ui().Printf("Would drop %s: %s (%s)", ui.Safe(r.Name), r.Reason, ui.Bytes(r.Bytes))
		}
	}
	if !opts.DryRun {
		a.ui().Printf("That freed %s.", ui.Bytes(freed))
	}
}
