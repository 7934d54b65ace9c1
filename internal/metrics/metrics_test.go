package metrics

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tenantkeep/tenantkeep/internal/health"
)

// report is one with all that metrics tell of.
func report() *health.Report {
	at := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	hour, day, growth, left, took := int64(3600), int64(86400), 1e6, 10.5, 12.5
	return &health.Report{
		Time: at, State: health.Critical, NextRun: at.Add(time.Hour),
		Checks: []health.Check{{Name: "freshness", State: health.Critical, Count: 1}, {Name: "disk"}},
		Tenants: []health.Tenant{
			{Schema: "public", Tenant: "core", Success: at.Add(-time.Hour), Failure: at.Add(-2 * time.Hour), Age: &hour, Target: &day, Rows: 7, Bytes: 70, Stored: 20},
			{Schema: "a\"b\n\xff", Tenant: "x", State: health.Critical, Target: &day},
		},
		Runs: []health.Run{{Type: "full", Time: at.Add(-time.Hour), Partial: true, Seconds: &took, Schemas: 1, Rows: 7, Stored: 20}},
		Disk: &health.DiskReport{Used: 20, Free: 30, Total: 100, Growth: &growth, DaysLeft: &left},
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	c := NewCollector("1.2.3", report)
	process := NewProcessCollector(func() Process { return Process{Refused: true, Runs: map[string]int64{"failed": 2}} })
	if problems, err := testutil.CollectAndLint(process); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	const refused = `
# HELP tenantkeep_server_config_reload_successful 1 if the newest settings are in use, 0 if they make no sense and the ones before are.
# TYPE tenantkeep_server_config_reload_successful gauge
tenantkeep_server_config_reload_successful 0
# HELP tenantkeep_server_runs_total Scheduled runs of this process by their result.
# TYPE tenantkeep_server_runs_total counter
tenantkeep_server_runs_total{result="failed"} 2
`
	if err := testutil.CollectAndCompare(process, strings.NewReader(refused), "tenantkeep_server_config_reload_successful", "tenantkeep_server_runs_total"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.CollectAndLint(c); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	const want = `
# HELP tenantkeep_check_state State of a check: 0 ok, 1 warning, 2 critical.
# TYPE tenantkeep_check_state gauge
tenantkeep_check_state{check="disk"} 0
tenantkeep_check_state{check="freshness"} 2
# HELP tenantkeep_schema_last_success_timestamp_seconds Moment that the newest backup of the schema shows; 0: there is none.
# TYPE tenantkeep_schema_last_success_timestamp_seconds gauge
tenantkeep_schema_last_success_timestamp_seconds{schema="\"a\\\"b\\n\\xff\"",tenant="x"} 0
tenantkeep_schema_last_success_timestamp_seconds{schema="public",tenant="core"} 1.7954316e+09
# HELP tenantkeep_backup_duration_seconds How long the newest backup of a type took.
# TYPE tenantkeep_backup_duration_seconds gauge
tenantkeep_backup_duration_seconds{type="full"} 12.5
# HELP tenantkeep_repository_full_in_seconds For how long the space of the repository is enough.
# TYPE tenantkeep_repository_full_in_seconds gauge
tenantkeep_repository_full_in_seconds 907200
`
	err := testutil.CollectAndCompare(c, strings.NewReader(want), "tenantkeep_check_state", "tenantkeep_schema_last_success_timestamp_seconds",
		"tenantkeep_backup_duration_seconds", "tenantkeep_repository_full_in_seconds")
	if err != nil {
		t.Error(err)
	}
	if n := testutil.CollectAndCount(NewCollector("x", func() *health.Report { return nil })); n != 1 {
		t.Errorf("%d metrics of no report", n)
	}
}

// Every metric is sent where its facts are known, and explained in the documents
// with its labels; the documents explain no other.
func TestAllAreDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewCollector("x", report), NewProcessCollector(func() Process {
		return Process{Leading: true, Runs: map[string]int64{"failed": 1}, Reloaded: time.Now()}
	}))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sent := map[string]bool{}
	for _, f := range families {
		sent[f.GetName()] = true
	}
	for _, m := range append(all(), ofProcess()...) {
		row := "| `" + m.name + "` | " + strings.Join(m.labels, ", ") + " |"
		if !strings.Contains(string(page), row) {
			t.Errorf("docs/metrics.md lacks %s", row)
		}
		if !sent[m.name] {
			t.Errorf("%s was not sent", m.name)
		}
	}
	if n := strings.Count(string(page), "| `tenantkeep_"); n != len(all())+len(ofProcess()) {
		t.Errorf("docs/metrics.md explains %d metrics, and there are %d", n, len(all())+len(ofProcess()))
	}
}

func TestWriteFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "tenantkeep.prom")
	for _, version := range []string{"1", "2"} {
		if err := WriteFile(path, version, report()); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), "\ntenantkeep_build_info{version=\"2\"} 1\n") {
		t.Errorf("%s, %v", text, err)
	}
	if files, err := os.ReadDir(dir); err != nil || len(files) != 1 {
		t.Errorf("left %v, %v", files, err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := WriteFile(filepath.Join(dir, "none", "x.prom"), "1", report()); err == nil || !strings.HasPrefix(err.Error(), "write metrics: ") {
		t.Errorf("error %v", err)
	}
}
