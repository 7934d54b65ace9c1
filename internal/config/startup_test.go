package config

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestStartupSettings(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, world{
		env: map[string]string{
			"RESTORE_BACKUP_FILE": "/app/backups/data/x.sql", "RESTORE_LATEST_BACKUP": "True", "LOAD_BASELINE": "off",
			"MIGRATE_COMMAND": `python manage.py "migrate schemas" --note 'a "b"'`, "STARTUP_WAIT": "90",
		},
		file: "restore-backup-manifest: 20261123_120000\nstartup-peer-wait: 0\nstart-empty: yes\n",
	})
	want := Startup{
		BackupFile: "/app/backups/data/x.sql", BackupManifest: "20261123_120000", LatestBackup: true, Fallback: true, StartEmpty: true,
		MigrateCommand: []string{"python", "manage.py", "migrate schemas", "--note", `a "b"`}, Wait: 90 * time.Second,
	}
	if diff := cmp.Diff(want, c.Startup); diff != "" {
		t.Error(diff)
	}
	if c := mustLoad(t, world{}); !c.Startup.LoadBaseline || c.Given("load-baseline") || c.Startup.PeerWait != 2*time.Hour {
		t.Errorf("defaults %+v", c.Startup)
	}
}

// What a shell would do is refused, not done and not passed on.
func TestCommandsAreNotForAShell(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		`rake db:migrate`:                 {"rake", "db:migrate"},
		`a '' "b c" d\ e "\$x" '*' \*.py`: {"a", "", "b c", "d e", "$x", "*", "*.py"},
		"sh -c 'a && b | c > $D'":         {"sh", "-c", "a && b | c > $D"},
		"a # nothing":                     {"a"},
		"a\n  --b={c,d} x~":               {"a", "--b={c,d}", "x~"},
	} {
		got, err := parseCommand(text)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v\n%s", text, err, diff)
		}
	}
	for _, text := range []string{
		"a && b", "a; b", "a | b", "a > b", "a &", "a $X", `a "$X"`, "a `b`", "a $(b)", "(a)", `a "b`, "a *.py", "~/a", "a x?", "D=1 a", "''", "# a",
	} {
		if got, err := parseCommand(text); err == nil || !strings.Contains(err.Error(), "sh -c") {
			t.Errorf("%s: %q, %v", text, got, err)
		}
	}
	for text, want := range map[string]time.Duration{"0": 0, "0s": 0, "5": 5 * time.Second, "2h": 2 * time.Hour} {
		if got, err := parseWait(text); got != want || err != nil {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"-1s", "200h", "soon", "-5"} {
		if got, err := parseWait(text); err == nil {
			t.Errorf("%s: %v", text, got)
		}
	}
}
