// Package metrics turns a report of package health into metrics of Prometheus: for
// the server that is asked for them, and for a file that another program collects.
// docs/metrics.md explains every one.
package metrics

import (
	"fmt"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tenantkeep/tenantkeep/internal/health"
)

// metric is one metric: its name, what it tells, and its labels.
type metric struct {
	name, help string
	labels     []string
	desc       *prometheus.Desc
}

// The metrics, in one place. A time is in seconds since 1970, a state is 0 for ok, 1
// for a warning and 2 for critical.
var (
	schemaLabels = []string{"schema", "tenant"}

	build     = define("build_info", "Always 1; the label tells the version of tenantkeep.", "version")
	state     = define("health_state", "Worst state of all checks: 0 ok, 1 warning, 2 critical.")
	checked   = define("health_timestamp_seconds", "When the checks were made.")
	check     = define("check_state", "State of a check: 0 ok, 1 warning, 2 critical.", "check")
	findings  = define("check_findings", "How many things a check found.", "check")
	success   = define("schema_last_success_timestamp_seconds", "Moment that the newest backup of the schema shows; 0: there is none.", schemaLabels...)
	failure   = define("schema_last_failure_timestamp_seconds", "Newest run that could not save the schema; 0: none is known.", schemaLabels...)
	age       = define("schema_backup_age_seconds", "Age of the newest backup of the schema when the checks were made.", schemaLabels...)
	maxAge    = define("schema_backup_max_age_seconds", "Age that is still good.", schemaLabels...)
	schema    = define("schema_state", "State of the schema's backups: 0 ok, 1 warning, 2 critical.", schemaLabels...)
	rows      = define("schema_rows", "Rows in the newest backup of the schema.", schemaLabels...)
	text      = define("schema_bytes", "Bytes of these rows before compression.", schemaLabels...)
	stored    = define("schema_stored_bytes", "Bytes of the data file and the media archive of the schema's newest backup.", schemaLabels...)
	runTime   = define("backup_timestamp_seconds", "Moment of the newest backup of a type.", "type")
	runLength = define("backup_duration_seconds", "How long the newest backup of a type took.", "type")
	runStored = define("backup_stored_bytes", "Bytes that the newest backup of a type has written.", "type")
	runRows   = define("backup_rows", "Rows in the newest backup of a type.", "type")
	runCount  = define("backup_schemas", "Schemas in the newest backup of a type.", "type")
	partial   = define("backup_partial", "1 if the newest backup of a type lacks schemas or files, else 0.", "type")
	used      = define("repository_used_bytes", "Bytes of the files of all backups.")
	free      = define("repository_free_bytes", "Bytes that can still be written to the repository.")
	room      = define("repository_size_bytes", "Bytes of the file system that the repository is on.")
	growth    = define("repository_growth_bytes_per_day", "By how much the backups grow in a day, retention reckoned in.")
	fullIn    = define("repository_full_in_seconds", "For how long the space of the repository is enough.")
	nextRun   = define("next_run_timestamp_seconds", "When the schedule makes the next backup.")
)

// all lists the metrics for the documentation's test and for Describe.
func all() []*metric {
	return []*metric{
		build, state, checked, check, findings, success, failure, age, maxAge, schema, rows, text, stored,
		runTime, runLength, runStored, runRows, runCount, partial, used, free, room, growth, fullIn, nextRun,
	}
}

func define(name, help string, labels ...string) *metric {
	name = prometheus.BuildFQName("tenantkeep", "", name)
	return &metric{name: name, help: help, labels: labels, desc: prometheus.NewDesc(name, help, labels, nil)}
}

// Collector gives the metrics of a report.
type Collector struct {
	version string
	report  func() *health.Report
}

var _ prometheus.Collector = (*Collector)(nil)

// NewCollector returns a collector that asks for a report each time; nil is that
// there is none. version is that of the program.
func NewCollector(version string, report func() *health.Report) *Collector {
	return &Collector{version: version, report: report}
}

// WriteFile writes the metrics of a report into a file, whole or not at all. Others
// can read it.
func WriteFile(path, version string, r *health.Report) error {
	registry := prometheus.NewRegistry()
	if err := registry.Register(NewCollector(version, func() *health.Report { return r })); err != nil {
		return fmt.Errorf("write metrics: %w", err)
	}
	if err := prometheus.WriteToTextfile(path, registry); err != nil {
		return fmt.Errorf("write metrics: %w", err)
	}
	return nil
}

// Describe tells which metrics there are.
func (c *Collector) Describe(descs chan<- *prometheus.Desc) {
	for _, m := range all() {
		descs <- m.desc
	}
}

// Collect gives the metrics.
func (c *Collector) Collect(out chan<- prometheus.Metric) {
	s := sender(out)
	s.send(build, 1, c.version)
	r := c.report()
	if r == nil {
		return
	}
	s.send(state, float64(r.State))
	s.send(checked, seconds(r.Time))
	for _, c := range r.Checks {
		s.send(check, float64(c.State), c.Name)
		s.send(findings, float64(c.Count), c.Name)
	}
	for _, t := range r.Tenants {
		s.tenant(t)
	}
	for _, run := range r.Runs {
		s.run(run)
	}
	if d := r.Disk; d != nil {
		s.send(used, float64(d.Used))
		s.send(free, float64(d.Free))
		s.send(room, float64(d.Total))
		s.maybe(growth, d.Growth)
		if d.DaysLeft != nil {
			s.send(fullIn, *d.DaysLeft*(24*time.Hour).Seconds())
		}
	}
	if !r.NextRun.IsZero() {
		s.send(nextRun, seconds(r.NextRun))
	}
}

// sender sends metrics.
type sender chan<- prometheus.Metric

func (s sender) send(m *metric, value float64, labels ...string) {
	for i, l := range labels {
		labels[i] = valid(l)
	}
	s <- prometheus.MustNewConstMetric(m.desc, prometheus.GaugeValue, value, labels...)
}

func (s sender) maybe(m *metric, value *float64, labels ...string) {
	if value != nil {
		s.send(m, *value, labels...)
	}
}

func (s sender) tenant(t health.Tenant) {
	send := func(m *metric, value float64) { s.send(m, value, t.Schema, t.Tenant) }
	send(schema, float64(t.State))
	send(success, seconds(t.Success))
	send(failure, seconds(t.Failure))
	if t.Target != nil {
		send(maxAge, float64(*t.Target))
	}
	if t.Age == nil {
		return
	}
	send(age, float64(*t.Age))
	send(rows, float64(t.Rows))
	send(text, float64(t.Bytes))
	send(stored, float64(t.Stored))
}

func (s sender) run(r health.Run) {
	send := func(m *metric, value float64) { s.send(m, value, r.Type) }
	send(runTime, seconds(r.Time))
	send(runStored, float64(r.Stored))
	send(runRows, float64(r.Rows))
	send(runCount, float64(r.Schemas))
	send(partial, number(r.Partial))
	s.maybe(runLength, r.Seconds, r.Type)
}

// seconds is a time as Prometheus has it; 0: there is none.
func seconds(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

// valid makes any name of a schema fit for a label, each in its own way.
func valid(name string) string {
	if utf8.ValidString(name) {
		return name
	}
	return strconv.Quote(name)
}
