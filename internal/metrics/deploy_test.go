package metrics

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"
)

const grafana = "../../deploy/grafana"

var usedMetric = regexp.MustCompile(`\btenantkeep_[a-z_]+`)

// checkNames makes sure that expressions use no metric that there is not.
func checkNames(t *testing.T, where string, exprs []string) {
	t.Helper()
	known := map[string]bool{}
	for _, m := range append(all(), ofProcess()...) {
		known[m.name] = true
	}
	for _, expr := range exprs {
		used := usedMetric.FindAllString(expr, -1)
		if len(used) == 0 {
			t.Errorf("%s: %q uses no metric", where, expr)
		}
		for _, name := range used {
			if !known[name] {
				t.Errorf("%s: there is no metric %s", where, name)
			}
		}
	}
}

// promtool runs Prometheus' own checks, where they are installed, or in the cache of
// scripts/install-test-tools.sh.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	program, err := exec.LookPath("promtool")
	if err != nil {
		cache, cacheErr := os.UserCacheDir()
		if cacheErr != nil {
			t.Skip(cacheErr)
		}
		program, err = exec.LookPath(filepath.Join(cache, "tenantkeep/test-tools/usr/bin/promtool"))
	}
	if err != nil {
		t.Skip("promtool is not installed: scripts/install-test-tools.sh")
	}
	if out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %v: %v\n%s", args, err, out)
	}
}

// The alert rules use metrics that there are, are explained, and fire when they
// should and not before.
func TestAlerts(t *testing.T) {
	t.Parallel()
	path := filepath.Join(grafana, "alerts.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr string
				Labels      map[string]string
				Annotations map[string]string
			}
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil || len(file.Groups) != 1 {
		t.Fatalf("%+v, %v", file, err)
	}
	var exprs []string
	for _, r := range file.Groups[0].Rules {
		exprs = append(exprs, r.Expr)
		if !strings.Contains(string(page), "| `"+r.Alert+"` |") {
			t.Errorf("docs/metrics.md lacks %s", r.Alert)
		}
		if r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s says too little", r.Alert)
		}
	}
	if n := strings.Count(string(page), "| `Tenantkeep"); n != len(exprs) {
		t.Errorf("docs/metrics.md explains %d alerts, and there are %d", n, len(exprs))
	}
	checkNames(t, "alerts.yaml", exprs)
	promtool(t, "check", "rules", path)
	promtool(t, "test", "rules", filepath.Join(grafana, "alerts_test.yaml"))
}

// The queries of the dashboard use metrics that there are, and can be read.
func TestDashboard(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(grafana, "dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil || len(dashboard.Panels) < 10 {
		t.Fatalf("%d panels, %v", len(dashboard.Panels), err)
	}
	type rule struct {
		Record string `yaml:"record"`
		Expr   string `yaml:"expr"`
	}
	var exprs []string
	var rules []rule
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			exprs = append(exprs, target.Expr)
			rules = append(rules, rule{"x", strings.ReplaceAll(target.Expr, "$job", ".+")})
		}
	}
	checkNames(t, "dashboard.json", exprs)
	file, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	promtool(t, "check", "rules", "--lint=none", path)
}
