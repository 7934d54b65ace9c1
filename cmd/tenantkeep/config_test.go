package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantkeep/tenantkeep/internal/config"
)

// documented is a row of the table of settings: key, flag, variable and default.
type documented struct{ key, flag, env, value string }

// wantedRows are the rows that the documentation must have.
func wantedRows() map[documented]bool {
	rows := map[documented]bool{}
	for _, s := range config.Settings() {
		d := documented{key: s.Key, env: s.Env, value: s.Default}
		if s.Flag != "" {
			d.flag = "--" + s.Flag
			if !s.Switch {
				d.flag += " " + s.Kind
			}
		}
		if s.Default == strconv.Itoa(runtime.GOMAXPROCS(0)) && s.Key == "jobs" {
			d.value = "" // of the machine
		}
		rows[d] = true
		if s.Secret {
			rows[documented{key: s.Key + "-file", env: s.Env + "_FILE"}] = true
		}
		for _, t := range s.Toggles {
			rows[documented{flag: "--" + t.Flag, env: t.Env}] = true
		}
	}
	return rows
}

var inCode = regexp.MustCompile("^`([^`]*)`$")

// The table of settings is that of the code: each with its flag, its variable and
// its default, and no other.
func TestSettingsAreDocumented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "command-line.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "\n| key in the file | flag | variable | default | meaning |\n|---|---|---|---|---|\n")
	table, _, _ = strings.Cut(table, "\n\n")
	got := map[documented]bool{}
	for line := range strings.Lines(table) {
		cells := strings.SplitN(strings.TrimPrefix(strings.TrimSpace(line), "|"), "|", 5)
		if len(cells) < 5 {
			t.Fatalf("a row of %d cells: %s", len(cells), line)
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		// A default that is no code is a sentence about what happens without.
		d := documented{}
		for i, to := range []*string{&d.key, &d.flag, &d.env, &d.value} {
			if m := inCode.FindStringSubmatch(cells[i]); m != nil {
				*to = m[1]
			} else if i < 3 && cells[i] != "" {
				t.Errorf("%q is no code: %s", cells[i], line)
			}
		}
		if got[d] {
			t.Errorf("stands twice: %s", line)
		}
		got[d] = true
	}
	if diff := cmp.Diff(wantedRows(), got); diff != "" {
		t.Errorf("docs/command-line.md (+) is not what the settings are (-):\n%s", diff)
	}
}

// Each setting can be given as a flag of some command, but for secrets.
func TestSettingsHaveFlags(t *testing.T) {
	t.Parallel()
	root := newRootCommand(&app{})
	show, _, err := root.Find([]string{"config", "show"})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range config.Settings() {
		taken := false
		for _, cmd := range root.Commands() {
			if f := cmd.Flags().Lookup(s.Flag); f != nil || root.PersistentFlags().Lookup(s.Flag) != nil {
				taken = true
			}
		}
		if s.Flag != "" && !taken {
			t.Errorf("no command takes --%s", s.Flag)
		}
		if s.Flag != "" && show.Flags().Lookup(s.Flag) == nil && root.PersistentFlags().Lookup(s.Flag) == nil {
			t.Errorf("config show does not take --%s", s.Flag)
		}
	}
}

func TestConfigShow(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "settings.yaml")
	write(t, file, "database-url: postgres://u:s3cret@db/shop\njobs: 3\nschedule-full: off\nschedule-tenant:\n  - 'vip_* full 0 3 1,15 * *'\n")
	stdout, stderr := runIn(t, 0, "config", "show", "--config", file, "--max-chain", "7", "--format", "json")
	var list []settingJSON
	if err := json.Unmarshal([]byte(stdout), &list); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(stdout+stderr, "s3cret") {
		t.Error("a secret is shown")
	}
	found := map[string]settingJSON{}
	for _, s := range list {
		found[s.Key] = s
	}
	for key, want := range map[string]settingJSON{
		"database-url":    {Value: "postgres://u:xxxxx@db/shop", Source: sourceJSON{"file", "database-url", file, 1}},
		"jobs":            {Value: "3", Source: sourceJSON{"file", "jobs", file, 2}},
		"schedule-full":   {Value: "off", Source: sourceJSON{"file", "schedule-full", file, 3}},
		"schedule-tenant": {Value: "vip_* full 0 3 1,15 * *", Source: sourceJSON{"file", "schedule-tenant", file, 4}},
		"max-chain":       {Value: "7", Source: sourceJSON{Kind: "flag", Name: "--max-chain"}},
		"compression":     {Value: "zstd", Source: sourceJSON{Kind: "default"}},
	} {
		if got := found[key]; got.Value != want.Value || got.Source != want.Source || got.Given != (want.Source.Kind != "default") {
			t.Errorf("%s is %+v, want %+v", key, got, want)
		}
	}
	stdout, _ = runIn(t, 0, "config", "show", "--config", file)
	mention(t, stdout, "jobs ", "3 ", file+":2: jobs")
}

func TestConfigValidate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	good := filepath.Join(dir, "good.yaml")
	write(t, good, "repository: /srv/backups\nretention-policy: conservative\nschedule-incremental: '0 */6 * * *'\n")
	_, stderr := runIn(t, 0, "config", "validate", good)
	mention(t, stderr, "good.yaml is in order: 3 settings.")
	write(t, good, "before-backup: 'rm -rf'\nafter-backup: 'true'\n")
	_, stderr = runIn(t, 0, "config", "validate", good)
	mention(t, stderr, "warning: "+good+":1: before-backup: find the command: ", "in order: 2 settings.")
	bad := filepath.Join(dir, "bad.yaml")
	for text, want := range map[string]string{
		"repositry: x\n":                                      "error: " + bad + ":1: repositry: unknown setting\nhint: did you mean repository?",
		"jobs: 0\ncompression: rar\n":                         "error: " + bad + `:2: compression: "rar" is not one of zstd, gzip and none`,
		"schedule-full: weekly\n":                             "error: " + bad + `:1: schedule-full: "weekly" is not a time: it has 1 fields, not 5` + "\nhint: minute, hour",
		"schedule-tenant: ['vip_* hourly']\n":                 "error: " + bad + `:1: schedule-tenant: "vip_* hourly" is not a pattern`,
		"schedule-full: 0 0 31 2 *\n":                         "no day of the calendar is like that",
		"retention-policy: custom\n":                          "error: " + bad + ":1: retention-policy: the policy custom has no numbers",
		"include-media: true\n":                               "include-media: nothing says where the files are",
		"registry-tables: [x]\n":                              bad + ":1: registry-tables",
		"repository: s3://x\n":                                "cannot be used",
		"notification-email: a@b.example\nsmtp-server: foo\n": "error: " + bad + `:2: smtp-server: "foo" is not the host of a mail server, a colon and a port`,
		"slack-webhook: ftp://x/secret\n":                     "error: " + bad + ":1: slack-webhook: does not begin with https:// or http://",
		"webhook-url: 'https://'\n":                           "error: " + bad + ":1: webhook-url: names no host",
		`notification-email: "a@b\r\nBcc: x@y"`:               `is not an e-mail address`,
		"smtp-server: foo\n":                                  `smtp-server: "foo" is not the host`,
		"just words":                                          "key: value",
		"jobs: 1\njobs: 2":                                    "stands twice; first in line 1",
		"database-password-file: /none/at/all\n":              "/none/at/all: no such file",
	} {
		write(t, bad, text)
		_, stderr := runIn(t, 2, "config", "validate", bad)
		if !strings.Contains(stderr, want) {
			t.Errorf("%q: no %q in\n%s", text, want, stderr)
		}
	}
	_, stderr = runIn(t, 2, "config", "validate", filepath.Join(dir, "none.yaml"))
	mention(t, stderr, "none.yaml: no such file or directory", "hint: ")
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
