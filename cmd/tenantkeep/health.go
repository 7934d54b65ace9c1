package main

import (
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/health"
	"github.com/tenantkeep/tenantkeep/internal/metrics"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// HealthOptions are the flags of the command health that are no settings.
type HealthOptions struct {
	Full    bool
	Tenants bool
	Format  format
}

// AddFlags adds the flags.
func (o *HealthOptions) AddFlags(flags *pflag.FlagSet) {
	flags.BoolVar(&o.Full, "full", false, "read all files and compare them with their hashes, not only some in turn")
	flags.BoolVar(&o.Tenants, "tenants", false, "show every schema with its newest backup, too")
	o.Format.addFlag(flags, formatTable, formatJSON, formatNagios)
}

// formatNagios is a line for Nagios and whatever runs its plugins.
const formatNagios = "nagios"

// healthSettings are the settings that say what is good enough.
var healthSettings = []string{"max-age", "tenant-max-age", "max-drill-age", "min-disk-days", "health-sample"}

func newHealthCommand(a *app) *cobra.Command {
	var opts HealthOptions
	cmd := &cobra.Command{
		Use:   "health",
		Short: "Tell whether the backups are as they should be",
		Long: `Tell whether the backups are as they should be: whether every schema of the
database has a fresh one, whether the last run saved all, whether something makes
backups at all, for how long the disk is enough, whether files are there and as
they were written, whether retention is done, when a backup was last restored,
whether a tenant has suddenly lost its rows or a table, and what dead runs and
restores have left. With notifiers configured, others are told when a check turns
bad, and when all are good again.

Each check reads some of the files, in turn, and compares them with their hashes,
so that all are read in time; --full reads all. Without the database, which is
critical, the rest is judged by the repository alone. Nothing is changed, but for
the note of which files come next, in the directory of the logs.

Exit codes: 0 ok, 1 warning, 2 critical, or the checks could not be made, 130
interrupted.`,
		Example: `  tenantkeep health
  tenantkeep health --tenants
  tenantkeep health --format nagios
  tenantkeep health --max-age 36h --tenant-max-age 'demo_*=7d'
  tenantkeep health --metrics-file /var/lib/node_exporter/tenantkeep.prom --quiet`,
		GroupID: groupInspect,
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := a.runHealth(cmd, opts)
			if err == nil || errors.As(err, new(*healthError)) {
				return err
			}
			if opts.Format.is(formatNagios) {
				fmt.Fprintln(a.stdout, nagiosLine(health.Critical, err.Error()))
			}
			return &healthError{state: health.Critical, err: err}
		},
	}
	opts.AddFlags(cmd.Flags())
	config.AddFlags(cmd.Flags(), slices.Concat(healthSettings, retentionSettings, notifyFlags)...)
	config.AddFlags(cmd.Flags(), "metrics-file", "database-url", "schema", "exclude-schema", "media-root", "media-pattern", "media-folder", "jobs")
	cmd.Flags().Lookup("jobs").Usage = "how many files are read at once with --full, `N`"
	cmd.Flags().Lookup("schema").Usage = "judge only this schema; repeat it for more (env BACKUP_TENANT_SCHEMA)"
	cmd.Flags().Lookup("exclude-schema").Usage = "do not judge this schema; repeat it for more (env BACKUP_EXCLUDE_SCHEMA)"
	return cmd
}

// healthError ends the command with the exit code of a state.
type healthError struct {
	state health.State
	err   error // why the checks could not be made, or told of; nil: they were
}

func (e *healthError) Error() string {
	if e.err != nil {
		return e.err.Error()
	}
	return "health is " + e.state.String()
}

// Unwrap returns why the checks could not be made.
func (e *healthError) Unwrap() error { return e.err }

// Hint is what that says to do next.
func (e *healthError) Hint() string { return hintOf(e.err) }

func (a *app) runHealth(cmd *cobra.Command, opts HealthOptions) error {
	cfg, err := a.settings(cmd)
	if err != nil {
		return err
	}
	// As for a list of many backups.
	defer debug.SetGCPercent(debug.SetGCPercent(listGCPercent))
	o := examineOptions{full: opts.Full}
	if opts.Format.is(formatTable) {
		o.reading = a.ui().TextProgress()
	}
	report, err := a.examine(cmd.Context(), cmd, cfg, o)
	if err != nil {
		return err
	}
	if err := a.showHealth(report, opts); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	a.tellHealth(cmd.Context(), cmd, cfg, report)
	if cfg.MetricsFile != "" {
		if err := metrics.WriteFile(cfg.MetricsFile, buildVersion().Version, report); err != nil {
			return &healthError{state: health.Critical, err: err}
		}
	}
	if report.State == health.OK {
		return nil
	}
	return &healthError{state: report.State}
}

// showHealth writes the report in the form that was asked for.
func (a *app) showHealth(r *health.Report, opts HealthOptions) error {
	switch {
	case opts.Format.is(formatJSON):
		return a.ui().JSON(r)
	case opts.Format.is(formatNagios):
		_, err := io.WriteString(a.stdout, nagios(r)+"\n")
		return err
	}
	if err := a.ui().Table(checkTable(r)); err != nil {
		return err
	}
	if opts.Tenants {
		return a.ui().Table(tenantTable(r, a.now()))
	}
	return nil
}

// shownFindings is how many findings of a check the table has.
const shownFindings = 10

// checkTable has a row for each check, and below it the other findings and what to
// do.
func checkTable(r *health.Report) *ui.Table {
	table := ui.NewTable(ui.Column{Title: "state", Tone: toneOfState}, ui.Column{Title: "check"}, ui.Column{Title: "what", Text: true})
	for _, c := range r.Checks {
		table.Add(c.State.String(), c.Name, c.Text())
		for _, f := range c.Findings[min(1, len(c.Findings)):min(shownFindings, len(c.Findings))] {
			table.Add("", "", f.Text())
		}
		if n := c.Count - shownFindings; n > 0 {
			table.Add("", "", fmt.Sprintf("%d more: --format json lists them", n))
		}
		if c.Remedy != "" {
			table.Add("", "", "> "+c.Remedy)
		}
	}
	return table
}

// tenantTable has a row for each schema.
func tenantTable(r *health.Report, now time.Time) *ui.Table {
	table := ui.NewTable(ui.Column{Title: "state", Tone: toneOfState}, ui.Column{Title: "schema"}, ui.Column{Title: "tenant"}, ui.Column{Title: "newest backup"},
		ui.Column{Title: "age"}, ui.Column{Title: "rows", Right: true}, ui.Column{Title: "stored", Right: true})
	for _, t := range r.Tenants {
		if t.Age == nil {
			table.Add(t.State.String(), t.Schema, t.Tenant, "-", "-", "-", "-")
			continue
		}
		table.Add(t.State.String(), t.Schema, t.Tenant, t.Backup, ui.Age(t.Success, now), ui.Count(t.Rows), ui.Bytes(t.Stored))
	}
	return table
}

func toneOfState(cell string) ui.Tone {
	switch cell {
	case health.OK.String():
		return ui.Good
	case health.Warning.String():
		return ui.Warning
	case health.Critical.String():
		return ui.Bad
	default:
		return ui.Plain
	}
}

// nagios writes the report as the output of a Nagios plugin: one line, with
// performance data behind the bar.
func nagios(r *health.Report) string {
	var texts []string
	for _, c := range r.Bad() {
		texts = append(texts, c.Name+": "+c.Text())
	}
	if len(texts) == 0 {
		c, _ := r.Check(health.CheckFreshness)
		texts = append(texts, c.Text())
	}
	return nagiosLine(r.State, strings.Join(texts, "; ")) + " |" + performance(r)
}

// nagiosLine is the part for people. What would end it, or begin the performance
// data, is taken out.
func nagiosLine(s health.State, text string) string {
	text = strings.Join(strings.Fields(strings.ReplaceAll(text, "|", "/")), " ")
	quoted := strconv.Quote(text)
	text = strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
	return "TENANTKEEP " + strings.ToUpper(s.String()) + " - " + text
}

// performance is what Nagios draws curves of: name=value[unit];warning;critical;least.
func performance(r *health.Report) string {
	var oldest, good int64
	for _, t := range r.Tenants {
		if t.Age != nil {
			oldest = max(oldest, *t.Age)
		}
		if t.State == health.OK {
			good++
		}
	}
	text := fmt.Sprintf(" schemas=%d;;;0 fresh=%d;;;0 oldest=%ds;;;0", len(r.Tenants), good, oldest)
	if d := r.Disk; d != nil {
		text += fmt.Sprintf(" used=%dB;;;0 free=%dB;;;0", d.Used, d.Free)
		if d.DaysLeft != nil {
			text += fmt.Sprintf(" days_left=%.1f;;;0", *d.DaysLeft)
		}
	}
	for _, run := range r.Runs {
		if run.Seconds != nil {
			text += fmt.Sprintf(" %s_seconds=%.1fs;;;0 %s_stored=%dB;;;0", run.Type, *run.Seconds, run.Type, run.Stored)
		}
	}
	return text
}
