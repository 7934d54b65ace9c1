package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/ui"
	"github.com/tenantkeep/tenantkeep/internal/ui/terminaltest"
)

// picked is what a picker on a terminal comes to.
type picked struct {
	choice choice
	err    error
}

// startPicker runs the picker of a repository on a terminal.
func startPicker(t *testing.T, ctx context.Context, repository, database string, names ...string) (*terminaltest.Terminal, <-chan picked) {
	t.Helper()
	terminal := terminaltest.New(t)
	a := &app{
		stdin: terminal.TTY, stdout: terminal.TTY, stderr: terminal.TTY, now: time.Now, verbosity: ui.Normal,
		lookupEnv: func(string) (string, bool) { return "", false },
	}
	server, err := pg.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	var places []place
	for _, dir := range []string{repository, repository + "/" + rollbackName} {
		p, err := a.openPlace(dir, time.UTC)
		if err != nil {
			t.Fatal(err)
		}
		places = append(places, p)
	}
	done := make(chan picked, 1)
	go func() {
		live := &liveDatabase{server: server}
		defer live.close()
		c, err := a.pick(ctx, newRestoreCommand(a), places, live, names)
		done <- picked{c, err}
	}()
	return terminal, done
}

const oddSchema = "it's\x1b[2J odd"

func TestPick(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `
		CREATE SCHEMA acme; CREATE TABLE acme.orders (id int PRIMARY KEY); INSERT INTO acme.orders SELECT generate_series(1, 1000);
		CREATE TABLE acme.people (id int); INSERT INTO acme.people VALUES (1), (2), (3);
		CREATE SCHEMA gone; CREATE TABLE gone.t (id int); INSERT INTO gone.t VALUES (1);
		CREATE SCHEMA "`+oddSchema+`"; CREATE TABLE "`+oddSchema+`"."a ""t" (id int)`)
	dir := t.TempDir()
	runIn(t, 0, "backup", "--repository="+dir, "--database-url="+db.URL())
	runIn(t, 0, "backup", "--repository="+dir+"/"+rollbackName, "--database-url="+db.URL(), "--schema=acme")
	db.Exec(t, `DELETE FROM acme.orders WHERE id > 960; DROP SCHEMA gone CASCADE; CREATE SCHEMA newcomer; CREATE SCHEMA acme_copy`)

	const down, left, enter, esc = terminaltest.Down, terminaltest.Left, terminaltest.Enter, terminaltest.Esc
	day := time.Now().UTC().Format("20060102")
	type want struct {
		schema   string
		rollback bool
		mode     restoreMode
		as       string
		tables   []string
		err      error
	}
	for _, tt := range []struct {
		name string
		// what to wait for and then to type, in turns
		talk []string
		want want
		only []string
	}{
		{name: "one tenant", only: []string{"acme"}, talk: []string{
			"Now it holds 963 rows", enter,
			"What is to be done", enter,
			"--schema acme --yes|Go on", enter,
		}, want: want{schema: "acme", mode: modeLive}},
		{name: "live", talk: []string{
			"2 schemas of the database have no restore point", "acme" + enter,
			"Now it holds 963 rows", enter,
			"What is to be done", enter,
			"--schema acme --yes|Go on", enter,
		}, want: want{schema: "acme", mode: modeLive}},
		{name: "a rollback point", talk: []string{
			"Which tenant", "acme" + enter,
			"-40", terminaltest.Up + enter,
			"What is to be done", enter,
			"--manifest rollback/|Go on", enter,
		}, want: want{schema: "acme", mode: modeLive, rollback: true}},
		{name: "a tenant that is gone", talk: []string{
			"not there", "gon" + enter,
			"It is not in the database now", enter,
			"bring gone back, which is not there now", enter,
			"Into schema gone|Go on", enter,
		}, want: want{schema: "gone", mode: modeLive}},
		{name: "beside", talk: []string{
			"Which tenant", "acme" + enter,
			"Which restore point", enter,
			"What is to be done", down + enter,
			"acme_" + day, terminaltest.CtrlU + "acme_copy" + enter,
			"a schema acme_copy exists already", terminaltest.CtrlU + "pg_x" + enter,
			"belongs to PostgreSQL", terminaltest.CtrlU + "it's new" + enter,
			`--as 'it'\''s new'|Go on`, enter,
		}, want: want{schema: "acme", mode: modeBeside, as: "it's new"}},
		{name: "tables", talk: []string{
			"Which tenant", "acme" + enter,
			"Which restore point", enter,
			"What is to be done", down + down + enter,
			"Which tables of acme?", down + " " + enter,
			"--table people|Go on", enter,
		}, want: want{schema: "acme", mode: modeTables, tables: []string{"people"}}},
		{name: "odd names", talk: []string{
			"Which tenant", "it's" + enter,
			"Which restore point", enter,
			"What is to be done", down + down + enter,
			"Which tables of", " " + enter,
			`--schema $'it\'s\033[2J odd' --table 'a "t'|Go on`, enter,
		}, want: want{schema: oddSchema, mode: modeTables, tables: []string{`a "t`}}},
		{name: "there and back", talk: []string{
			"Which tenant", "gon" + enter,
			"Which restore point", left,
			"Which tenant", "acme" + enter,
			"Which restore point", enter,
			"What is to be done", down + enter,
			"Under which name", terminaltest.ShiftTab,
			"What is to be done", down + enter,
			"Which tables", " " + enter,
			"Go on", left,
			"Which tables", left,
			"What is to be done", terminaltest.Up + terminaltest.Up + enter,
			"Go on", left,
			"What is to be done", enter,
			"Go on", down + enter,
			"Which tenant", enter,
			"Which restore point", enter,
			"What is to be done", enter,
			"Go on", enter,
		}, want: want{schema: "acme", mode: modeLive}},
		{name: "left at once", talk: []string{"Which tenant", esc}, want: want{err: ui.ErrLeft}},
		{name: "left in the end", talk: []string{
			"Which tenant", "acme" + enter,
			"Which restore point", enter,
			"What is to be done", enter,
			"Go on", terminaltest.CtrlC,
		}, want: want{err: ui.ErrLeft}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			terminal, done := startPicker(t, t.Context(), dir, db.URL(), tt.only...)
			for i := 0; i < len(tt.talk); i += 2 {
				terminal.Expect(strings.Split(tt.talk[i], "|")...)
				terminal.Type(tt.talk[i+1])
			}
			result := <-done
			c := result.choice
			got := want{c.Schema, c.Point.Rollback, c.Mode, c.As, c.Tables, tt.want.err}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(want{}), cmp.Comparer(errors.Is)); diff != "" || !errors.Is(result.err, tt.want.err) {
				t.Errorf("%v\n%s", result.err, diff)
			}
			if raw := terminal.Raw(); strings.Contains(raw, "\x1b[2J odd") {
				t.Errorf("a name writes to the terminal: %q", raw)
			}
			if result.err == nil && (c.Point.place.Repo == nil || c.Point.backup.Manifest == nil || c.Point.entry.Schema != c.Schema) {
				t.Errorf("the choice leads nowhere: %+v", c)
			}
		})
	}
}

// A database that does not answer keeps nobody from seeing what there is.
func TestPickWithoutDatabase(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, "CREATE SCHEMA acme; CREATE TABLE acme.t (id int)")
	dir := t.TempDir()
	runIn(t, 0, "backup", "--repository="+dir, "--database-url="+db.URL())
	terminal, done := startPicker(t, t.Context(), dir, "postgres://nobody@127.0.0.1:1/none")
	terminal.Expect("warning: the database cannot be asked", "The database did not answer")
	terminal.Type("acme", terminaltest.Enter)
	terminal.Expect("Which restore point")
	terminal.Type(terminaltest.Enter)
	terminal.Expect("What is to be done")
	terminal.Type(terminaltest.Enter)
	terminal.Expect("Go on")
	terminal.Type(terminaltest.Enter)
	if result := <-done; result.err != nil || result.choice.Schema != "acme" {
		t.Errorf("%+v", result)
	}
}

func TestPickEndsWithASignal(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, "CREATE SCHEMA acme; CREATE TABLE acme.t (id int)")
	dir := t.TempDir()
	runIn(t, 0, "backup", "--repository="+dir, "--database-url="+db.URL())
	ctx, cancel := context.WithCancel(t.Context())
	terminal, done := startPicker(t, ctx, dir, db.URL())
	terminal.Expect("Which tenant")
	cancel()
	if result := <-done; !errors.Is(result.err, context.Canceled) {
		t.Error(result.err)
	}
}

func TestPickNeedsTerminalAndBackups(t *testing.T) {
	t.Parallel()
	s := newStage(t, "2026-11-23 12:00:00")
	_, err := s.pick(t.Context(), &cobra.Command{}, s.places(t), nil, nil)
	var usage *usageError
	if !errors.As(err, &usage) || !strings.Contains(usage.Hint(), "--list-available") {
		t.Error(err)
	}
	_, done := startPicker(t, t.Context(), t.TempDir(), "postgres://nobody@127.0.0.1:1/none")
	if result := <-done; result.err == nil || !strings.Contains(result.err.Error(), "no backup to restore from") {
		t.Error(result.err)
	}
}

func TestProposedName(t *testing.T) {
	t.Parallel()
	taken := time.Date(2026, 11, 23, 1, 2, 3, 0, time.UTC)
	for schema, want := range map[string]string{
		"acme":                   "acme_20261123_3",
		"globex":                 "globex_20261123",
		oddSchema:                "restored_20261123",
		strings.Repeat("東", 21):  strings.Repeat("東", 18) + "_20261123",
		strings.Repeat("x", 63):  strings.Repeat("x", 54) + "_20261123",
		strings.Repeat("x", 100): strings.Repeat("x", 54) + "_20261123",
	} {
		p := &picker{schemas: map[string]pg.LiveSize{"acme_20261123": {}, "acme_20261123_2": {}}}
		p.choice = choice{Schema: schema, Point: restorePoint{Taken: taken}}
		if got := p.proposal(); got != want || p.checkName(got) != nil {
			t.Errorf("of %s: %s, %v", schema, got, p.checkName(got))
		}
	}
	p := &picker{choice: choice{Schema: "acme"}}
	for _, name := range []string{"", strings.Repeat("x", 64), "pg_new", "information_schema", "acme", "a\xff", "a\x00", "acme__staging_20261123_010203"} {
		if p.checkName(name) == nil {
			t.Errorf("%q is taken for a good name", name)
		}
	}
}

// A shell reads from the command line what was meant.
func TestCommandLine(t *testing.T) {
	t.Parallel()
	shell, err := exec.LookPath("bash")
	if err != nil {
		t.Skip(err)
	}
	odd := []string{
		"plain", "", "it's", `a"b`, "$HOME", "`id`", "a b", "*", "-x", "=ls", "~", "a\nb", "\x1b[2J", "東京", "a\u202eb", "!x", "#x", `back\slash`, "a;b",
		"\xff", "tab\t1", "e\u0301", "\u00851", `\n`, "'", "%20",
	}
	c := choice{Schema: "it's\x1b", Mode: modeTables, Tables: odd, Point: restorePoint{Manifest: "rollback/20261123_010203"}}
	a := &app{}
	root := newRootCommand(a)
	cmd, _, err := root.Find([]string{"restore"})
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.ParseFlags([]string{"--repository", "/srv/my backups", "--quiet", "--schema", "ignored", "--jobs=3"}); err != nil {
		t.Fatal(err)
	}
	line := commandLine(cmd, c)
	if strings.ContainsAny(line, "\x1b\n\t\u202e") || !utf8.ValidString(line) {
		t.Errorf("the line writes to the terminal: %q", line)
	}
	script := exec.CommandContext(t.Context(), shell, "-c", "tenantkeep() { printf '%s\\0' \"$@\"; }; "+line)
	script.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := script.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, line)
	}
	want := []string{"restore", "--jobs=3", "--quiet", "--repository=/srv/my backups", "--manifest", "rollback/20261123_010203", "--schema", "it's\x1b"}
	for _, table := range odd {
		want = append(want, "--table", table)
	}
	var got []string
	for arg := range bytes.SplitSeq(bytes.TrimSuffix(out, []byte{0}), []byte{0}) {
		got = append(got, string(arg))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s\n%s", line, diff)
	}
	c = choice{Schema: "acme", Mode: modeLive, Point: restorePoint{Manifest: "x"}}
	if line := commandLine(&cobra.Command{}, c); line != "tenantkeep restore --manifest x --schema acme --yes" {
		t.Error(line)
	}
}
