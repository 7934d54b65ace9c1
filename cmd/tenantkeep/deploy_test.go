package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// systemd itself reads the units, and judges how far they are closed.
func TestSystemdUnits(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("there is no systemd-analyze: systemd's own check of the units is left out")
	}
	units, err := filepath.Glob(filepath.Join("..", "..", "deploy", "systemd", "*"))
	if err != nil || len(units) < 5 {
		t.Fatalf("%d units, %v", len(units), err)
	}
	dir := t.TempDir()
	var services, all []string
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		// Programs must be there, which tenantkeep is not on this machine.
		to := filepath.Join(dir, filepath.Base(unit))
		write(t, to, strings.ReplaceAll(string(text), "/usr/local/bin/tenantkeep", "/bin/true"))
		all = append(all, to)
		if strings.HasSuffix(unit, ".service") {
			services = append(services, to)
		}
		if timer, ok := strings.CutSuffix(to, ".timer"); ok {
			if _, err := os.Stat(strings.Replace(unit, ".timer", ".service", 1)); err != nil {
				t.Errorf("%s has no service: %v", timer, err)
			}
		}
	}
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", append([]string{"verify", "--man=no"}, all...)...).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "tenantkeep-") { // units of the machine are others' affair
			t.Errorf("%s", line)
		}
	}
	if err != nil && t.Failed() {
		t.Errorf("systemd-analyze: %v", err)
	}
	exposure := regexp.MustCompile(`exposure level for [^:]*: ([0-9])\.`)
	for _, service := range services {
		out, err := exec.CommandContext(t.Context(), "systemd-analyze", "security", "--offline=yes", "--no-pager", service).CombinedOutput()
		if strings.Contains(string(out), "unrecognized option") || strings.Contains(string(out), "Unknown operation") {
			t.Skip("this systemd-analyze is too old to judge units")
		}
		if found := exposure.FindStringSubmatch(string(out)); found == nil || found[1] > "1" {
			t.Errorf("%s: %v, %v", filepath.Base(service), found, err)
		}
	}
}

// The settings in the manifests are ones that tenantkeep takes.
func TestKubernetesSettings(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "kubernetes", "config.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(string(text), "tenantkeep.yaml: |\n")
	settings, _, end := strings.Cut(rest, "\n---")
	if !found || !end {
		t.Fatal("there are no settings in config.yaml")
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "password"), "secret\n")
	file := filepath.Join(dir, "tenantkeep.yaml")
	write(t, file, strings.ReplaceAll(strings.ReplaceAll(settings, "    ", ""), "/etc/tenantkeep/secret", dir))
	runIn(t, 0, "config", "validate", file)
}
