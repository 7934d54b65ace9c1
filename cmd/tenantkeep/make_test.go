package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// argumentsOf is a program that shows its arguments, each in brackets.
const argumentsOf = "#!/bin/sh\nfor a; do printf '[%s]' \"$a\"; done\necho\n"

// An application's Makefile includes the targets, and make runs in its folder.
func TestMakeTargets(t *testing.T) {
	t.Parallel()
	targets, err := filepath.Abs(filepath.Join("..", "..", "deploy", "make", "backup.mk"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	program := filepath.Join(dir, "show")
	if err := os.WriteFile(program, []byte(argumentsOf), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "Makefile"), ".PHONY: test\ntest:\n\techo this is the application\ninclude "+targets+"\n")
	build := func(args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "make", append([]string{"-s", "TENANTKEEP=" + program}, args...)...)
		cmd.Dir = dir
		cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
		out, err := cmd.CombinedOutput()
		return strings.TrimSuffix(string(out), "\n"), err
	}
	for _, tt := range []struct{ args, want string }{
		{"", "this is the application"},
		{"backup", "[backup]"},
		{"backup SCHEMA=acme DRY_RUN=1", "[backup][--schema][acme][--dry-run]"},
		{"backup DRY_RUN=0 YES=no", "[backup]"},
		{"backup-full", "[backup][--backup-type][full]"},
		{"backup-full BACKUP_MEDIA_ROOT=/m", "[backup][--backup-type][full][--include-media]"},
		{"backup-incremental", "[backup][--backup-type][incremental]"},
		{"backup-schema SCHEMA=acme", "[backup][--schema][acme]"},
		{"backup-schedule DRY_RUN=1", "[schedule][--dry-run]"},
		{"dev-baseline FLAGS=--jobs=2", "[backup][--backup-type][baseline][--jobs=2]"},
		{"restore", "[restore]"},
		{"restore SCHEMA=acme YES=1", "[restore][--schema][acme][--yes]"},
		{"restore-baseline YES=1 DRY_RUN=yes", "[restore][--baseline][--dry-run][--yes]"},
		{"list-backups SCHEMA=acme", "[list][--include-baselines][--schema][acme]"},
		{"clean-backups YES=1", "[cleanup][--yes]"},
		{"backup-health", "[health]"},
	} {
		if got, err := build(strings.Fields(tt.args)...); err != nil || got != tt.want {
			t.Errorf("make %s: %s, %v, want %s", tt.args, got, err, tt.want)
		}
	}
	for _, name := range []string{`O'Hara "x"`, "a;touch hacked", "$(touch hacked)", "$(shell touch hacked)", "`touch hacked`", "a b"} {
		if got, err := build("backup-schema", "SCHEMA="+name); err != nil || got != "[backup][--schema]["+name+"]" {
			t.Errorf("%s: %s, %v", name, got, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "hacked")); err == nil {
		t.Error("the name of a schema was executed")
	}
	if got, err := build("backup-schema"); err == nil || !strings.Contains(got, "make backup-schema SCHEMA=customer_a") {
		t.Errorf("without a schema: %s, %v", got, err)
	}
}

// Every name of a target, and every flag that it gives, is one of tenantkeep's.
func TestMakeTargetsFit(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "make", "backup.mk"))
	if err != nil {
		t.Fatal(err)
	}
	variables := map[string]string{"$(tenantkeep-schema)": "--schema", "$(tenantkeep-dry)": "--dry-run", "$(tenantkeep-yes)": "--yes", "$(tenantkeep-media)": "--include-media"}
	root := newRootCommand(&app{})
	found := 0
	for line := range strings.Lines(string(text)) {
		call, ok := strings.CutPrefix(line, "\t$(TENANTKEEP) ")
		if !ok {
			continue
		}
		words := strings.Fields(call)
		found++
		cmd, _, err := root.Find(words[:1])
		if err != nil {
			t.Errorf("%s: %v", words[0], err)
			continue
		}
		for _, w := range words[1:] {
			if v, ok := variables[w]; ok {
				w = v
			}
			if name, ok := strings.CutPrefix(w, "--"); ok && cmd.Flags().Lookup(name) == nil {
				t.Errorf("%s has no flag --%s", words[0], name)
			}
		}
	}
	if found < 10 {
		t.Errorf("%d calls of tenantkeep", found)
	}
}
