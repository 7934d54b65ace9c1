package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/audit"
	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/job"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/notify"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/schedule"
)

// calendar is a database whose schedule runs at times of the test's choice.
type calendar struct {
	t    *testing.T
	dir  string
	db   *pgtest.Database
	role string   // that the schedule connects as, quoted
	args []string // of every call
	now  time.Time

	env            map[string]string
	stdout, stderr string // of the last call
	awaited        *awaited
}

func newCalendar(t *testing.T) *calendar {
	t.Helper()
	return newCalendarOf(t, pgtest.New(t), t.TempDir())
}

func newCalendarOf(t *testing.T, db *pgtest.Database, dir string) *calendar {
	t.Helper()
	c := &calendar{t: t, dir: dir, db: db, now: time.Date(2026, 11, 20, 0, 0, 5, 0, time.UTC)}
	role := "reader_" + c.db.Name
	c.role = pgx.Identifier{role}.Sanitize()
	c.args = []string{
		"--database-url", strings.Replace(c.db.URL(), "user=postgres", "user="+role, 1), "--repository", filepath.Join(c.dir, "backups"), "--log-dir", filepath.Join(c.dir, "logs"), "--baseline-dir", filepath.Join(c.dir, "baselines"),
	}
	c.db.Exec(t, `CREATE TABLE public.plans AS SELECT 1 AS id;
		CREATE SCHEMA acme; CREATE TABLE acme.t AS SELECT n FROM generate_series(1, 100) n;
		CREATE SCHEMA bolt; CREATE TABLE bolt.t AS SELECT n FROM generate_series(1, 100) n;
		CREATE ROLE `+c.role+` LOGIN`)
	c.grant("public", "acme", "bolt")
	t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), c.db.URL())
		if err == nil {
			defer conn.Close(context.Background())
			_, err = conn.PgConn().Exec(context.Background(), "DROP OWNED BY "+c.role+"; DROP ROLE "+c.role).ReadAll()
		}
		if err != nil {
			t.Error(err)
		}
	})
	return c
}

// grant lets the role read schemas.
func (c *calendar) grant(schemas ...string) {
	c.t.Helper()
	for _, schema := range schemas {
		c.db.Exec(c.t, "GRANT USAGE ON SCHEMA "+schema+" TO "+c.role+"; GRANT SELECT ON ALL TABLES IN SCHEMA "+schema+" TO "+c.role)
	}
}

// at runs the schedule and expects an exit code.
func (c *calendar) at(day string, code int, args ...string) {
	c.t.Helper()
	now, err := time.Parse("2006-01-02 15:04", day)
	if err != nil {
		c.t.Fatal(err)
	}
	c.now = now.Add(5 * time.Second)
	if got := c.run(append([]string{"schedule"}, args...)...); got != code {
		c.t.Fatalf("%s: exit code %d, want %d\n%s", day, got, code, c.stderr)
	}
}

func (c *calendar) run(args ...string) int {
	c.t.Helper()
	var stdout, stderr bytes.Buffer
	a := &app{
		stdin: strings.NewReader(""), stdout: &stdout, stderr: &stderr, now: func() time.Time { return c.now },
		lookupEnv: func(name string) (string, bool) { text, ok := c.env[name]; return text, ok },
	}
	if c.awaited != nil {
		c.awaited.Writer = &stderr
		a.stderr = c.awaited
	}
	root := newRootCommand(a)
	root.SetArgs(append(args, c.args...))
	code := a.exit(c.t.Context(), root.ExecuteContext(c.t.Context()))
	c.stdout, c.stderr = stdout.String(), stderr.String()
	return code
}

// awaited is a stream on which something is waited for.
type awaited struct {
	io.Writer
	text  string
	found chan struct{}
}

func (w *awaited) Write(p []byte) (int, error) {
	if strings.Contains(string(p), w.text) {
		close(w.found)
	}
	return w.Writer.Write(p)
}

// newest is the newest backup.
func (c *calendar) newest() *manifest.Manifest {
	c.t.Helper()
	list := c.manifests()
	if len(list) == 0 {
		c.t.Fatal("there is no backup")
	}
	return list[len(list)-1]
}

// manifests are all backups, the oldest first.
func (c *calendar) manifests() (list []*manifest.Manifest) {
	c.t.Helper()
	files, err := filepath.Glob(filepath.Join(c.dir, "backups", "manifests", "*.json"))
	if err != nil {
		c.t.Fatal(err)
	}
	slices.Sort(files)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			c.t.Fatal(err)
		}
		m := new(manifest.Manifest)
		if err := json.Unmarshal(text, m); err != nil {
			c.t.Fatal(err)
		}
		list = append(list, m)
	}
	return list
}

// types are the schemas of a backup with the types that they have in it.
func types(m *manifest.Manifest) string {
	var parts []string
	for _, e := range m.Schemas {
		typ := string(e.Type)
		if e.Timestamp != m.ID {
			typ = "unchanged"
		}
		parts = append(parts, e.Schema+" "+typ)
	}
	return string(m.BackupType) + ": " + strings.Join(parts, ", ")
}

func (c *calendar) expect(what, want string) {
	c.t.Helper()
	if !strings.Contains(what, want) {
		c.t.Fatalf("no %q in:\n%s", want, what)
	}
}

func TestScheduleOverTime(t *testing.T) {
	t.Parallel()
	c := newCalendar(t)
	c.at("2026-11-20 00:00", 0, "--dry-run")
	c.expect(c.stdout, "no backup has it yet")
	if _, err := os.Stat(filepath.Join(c.dir, "logs")); err == nil {
		t.Error("a dry run wrote into the directory of logs")
	}
	c.at("2026-11-20 00:00", 0)
	c.expect(types(c.newest()), "full: public full, acme full, bolt full")
	c.expect(c.stdout, "/manifests/backup_manifest_20261120_000005.json")

	c.at("2026-11-20 12:00", 0)
	c.expect(c.stderr, "Nothing is due before 2026-11-21 00:00 UTC.")
	if n := len(c.manifests()); n != 1 {
		t.Fatalf("%d backups", n)
	}

	c.db.Exec(t, "INSERT INTO bolt.t VALUES (0); CREATE SCHEMA cafe; CREATE TABLE cafe.t (a int)")
	c.grant("cafe")
	c.at("2026-11-21 00:00", 0)
	c.expect(c.stderr, "Due is a backup of all schemas (incremental, of 1 schema in full).")
	c.expect(c.stderr, "cafe: no backup has it yet.")
	c.expect(types(c.newest()), "incremental: public unchanged, acme unchanged, bolt incremental, cafe full")

	// Of the full backup one schema fails. The others have theirs; it is tried again
	// until it works, also when the time of another backup has come meanwhile.
	c.db.Exec(t, "REVOKE SELECT ON bolt.t FROM "+c.role)
	c.at("2026-11-22 00:00", 3)
	c.expect(types(c.newest()), "full: public full, acme full, cafe full")
	c.expect(c.stderr, "bolt")
	c.at("2026-11-22 06:00", 1)
	c.expect(c.stderr, "Due is a backup of 1 schema (full).")
	c.expect(c.stderr, "bolt: full backup due since 2026-11-22 00:00 UTC, but the one of 2026-11-22 00:00 UTC could not save it")
	c.grant("bolt")
	c.at("2026-11-23 00:00", 0)
	c.expect(c.stderr, "Due is a backup of all schemas (incremental, of 1 schema in full).")
	c.expect(types(c.newest()), "incremental: public unchanged, acme unchanged, bolt full, cafe unchanged")
	c.at("2026-11-23 00:20", 0, "--format", "json")
	c.expect(c.stdout, `"kind":"plan"`)
	c.expect(c.stdout, `"backups":[]`)

	// A Sunday on which the machine was off.
	c.at("2026-11-30 07:00", 0)
	c.expect(types(c.newest()), "full: public full, acme full, bolt full, cafe full")

	// Backups whose files are gone are none, as for health.
	for _, pattern := range []string{"acme_*", "bolt_*_" + c.newest().ID + "*"} {
		files, err := filepath.Glob(filepath.Join(c.dir, "backups", "data", pattern))
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		for _, file := range files {
			do(t, os.Remove(file))
		}
	}
	lost := c.newest().ID
	c.at("2026-11-30 08:00", 0)
	c.expect(c.stderr, "acme: no backup has it: files of "+lost+" are missing.")
	c.expect(c.stderr, "bolt: full backup due since 2026-11-29 00:00 UTC, but files of "+lost+" are missing.")
	c.expect(types(c.newest()), "full: acme full, bolt full")
	c.at("2026-11-30 08:01", 0)
	c.expect(c.stderr, "Nothing is due before")

	// Each run that did something is in the audit trail, with its backup.
	report, err := audit.Check(filepath.Join(c.dir, "logs", audit.Name))
	if err != nil || report.Problem != nil || len(report.Unended) > 0 || report.Records < 10 {
		t.Errorf("audit trail: %+v, %v", report, err)
	}
	for _, m := range c.manifests() {
		if !report.Backups[m.ID] {
			t.Errorf("backup %s is not in the audit trail", m.ID)
		}
	}
}

// Of two runs that begin at once the second says who is at work, or waits.
func TestScheduleOnceAtATime(t *testing.T) {
	t.Parallel()
	c := newCalendar(t)
	server, err := pg.Parse(c.db.URL())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := server.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close(conn)
	if err := pg.Lock(t.Context(), conn, "restore"); err != nil {
		t.Fatal(err)
	}
	c.at("2026-11-20 00:00", 1)
	c.expect(c.stderr, `is in use by another run of tenantkeep: "tenantkeep restore", server process `)
	c.expect(c.stderr, ", connected since 20")
	c.expect(c.stderr, "hint: --wait waits for it; if its client is dead, end it with: SELECT pg_terminate_backend(")
	if n := len(c.manifests()); n != 0 {
		t.Fatalf("%d backups", n)
	}

	c.awaited = &awaited{text: "Waiting: database", found: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.at("2026-11-20 00:00", 0, "--wait")
	}()
	<-c.awaited.found
	pg.Close(conn)
	<-done
	c.expect(types(c.newest()), "full: public full, acme full, bolt full")

	// Who loses the lock in the middle of a backup makes none: another may be at work.
	c.awaited = nil
	blocker := c.db.Conn(t)
	if _, err := blocker.Exec(t.Context(), "BEGIN; LOCK TABLE acme.t"); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"schedule", "backup"} {
		c.now = c.now.Add(48 * time.Hour)
		ended := make(chan int)
		go func() { ended <- c.run(command, "--lock-timeout", "1m") }()
		until(t, c.db, "the backup waits for the table", "EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'tenantkeep' AND wait_event_type = 'Lock')")
		c.db.Exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'tenantkeep "+command+"'")
		if code := <-ended; code != exitFailed {
			t.Errorf("%s: exit code %d", command, code)
		}
		c.expect(c.stderr, "error: the connection that holds the lock of the database was lost")
		if n := len(c.manifests()); n != 1 {
			t.Errorf("%s: %d backups", command, n)
		}
	}
}

// listener is a webhook that keeps what it is told.
func (c *calendar) listen() (events func() []notify.Event) {
	var mu sync.Mutex
	var got []notify.Event
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var e notify.Event
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			c.t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		got = append(got, e)
	}))
	c.t.Cleanup(hook.Close)
	c.env["BACKUP_WEBHOOK_URL"] = hook.URL
	return func() []notify.Event {
		mu.Lock()
		defer mu.Unlock()
		list := got
		got = nil
		return list
	}
}

// One run has its hooks and one event, also where it makes several backups, or
// cannot even find out what is due. Retention follows where core and tenants are safe.
func TestScheduleTells(t *testing.T) {
	t.Parallel()
	c := newCalendar(t)
	hooked := filepath.Join(c.dir, "hooked")
	settings := filepath.Join(c.dir, "tenantkeep.yaml")
	write(t, settings, "notify-on: success\ntable-data: [plans]\nschedule-baseline: '0 0 1 * *'\nretention-policy: custom\ndaily-retention: 1\nweekly-retention: 0\nmonthly-retention: 0\n"+
		"after-backup: [sh, -c, 'echo $TENANTKEEP_HOOK_RESULT $TENANTKEEP_HOOK_TYPE $TENANTKEEP_HOOK_FAILED_SCHEMAS >>"+hooked+"']\n")
	c.env = map[string]string{"TENANTKEEP_CONFIG": settings}
	events := c.listen()
	told := func(want ...string) []notify.Event {
		t.Helper()
		list := events()
		var got []string
		for _, e := range list {
			got = append(got, string(e.Job)+" "+string(e.Kind))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%s\n%s", diff, c.stderr)
		}
		return list
	}

	c.at("2026-11-20 00:00", 0)
	e := told("cleanup succeeded", "backup succeeded")[1]
	if e.Type != "full" || e.Rows != 201 || len(e.Scope) != 0 {
		t.Errorf("event %+v", e)
	}
	c.at("2026-11-20 10:00", 0)
	told()

	// A table of core that nobody thought of: the tenants are safe, and retention
	// goes on, but there is no new baseline.
	c.db.Exec(t, "CREATE TABLE public.customers AS SELECT 1 AS id")
	c.grant("public")
	c.at("2026-12-01 00:00", 3)
	e = told("cleanup succeeded", "backup partial")[1]
	if e.Backup == "" || len(e.Problems) != 1 || e.Problems[0].Tenant != "baseline of core" || !strings.Contains(e.Problems[0].Error, "customers: 1 row") {
		t.Errorf("event %+v", e)
	}
	c.expect(c.stderr, "Removed 1 backup")

	// The server is down: twice is told twice, and the recovery once.
	reached := c.args[1]
	c.args[1] = "postgres://nobody@127.0.0.1:1/shop?connect_timeout=1"
	c.at("2026-12-02 00:00", 1)
	c.args[1] = reached
	if e := told("backup failed")[0]; !strings.Contains(e.Error, "connect") || e.Backup != "" {
		t.Errorf("event %+v", e)
	}
	c.db.Exec(t, "DROP TABLE public.customers; REVOKE SELECT ON acme.t FROM "+c.role)
	c.at("2026-12-02 01:00", 3)
	if e := told("backup partial")[0]; len(e.Problems) != 1 || e.Problems[0].Tenant != "acme" {
		t.Errorf("event %+v", e)
	}
	c.grant("acme")
	c.at("2026-12-02 02:00", 0)
	told("cleanup succeeded", "backup recovered")
	c.args = append(c.args, "--schema", "acme", "--exclude-schema", "acme")
	c.at("2026-12-02 03:00", 1)
	c.expect(c.stderr, "every schema is excluded: there is nothing to back up")
	told("backup failed")

	text, err := os.ReadFile(hooked)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff("ok full\npartial full\npartial incremental acme\nok incremental\n", string(text)); diff != "" {
		t.Error(diff)
	}
}

// What a run for some schemas knows of others, and of the baseline.
func TestSettled(t *testing.T) {
	t.Parallel()
	plan := &schedule.Plan{Decisions: []schedule.Decision{{Schema: "acme"}, {Schema: "bolt", Due: manifest.Full}}}
	some, all := settled(&job.Outcome{Plan: plan, Scope: []string{"acme", "bolt"}}), settled(&job.Outcome{Plan: plan})
	for _, tt := range []struct {
		schema    string
		some, all bool
	}{{"acme", true, true}, {"bolt", false, false}, {"gone", false, true}, {notify.WholeRun, false, true}, {notify.Elsewhere, true, true}} {
		if some(tt.schema) != tt.some || all(tt.schema) != tt.all {
			t.Errorf("%q: %v and %v", tt.schema, some(tt.schema), all(tt.schema))
		}
	}
}

// A tenant that is dropped right after it was decided to save it keeps nobody from
// being saved.
func TestScheduleDropped(t *testing.T) {
	t.Parallel()
	c := newCalendar(t)
	c.at("2026-11-20 00:00", 0)
	c.db.Exec(t, "CREATE SCHEMA cafe; CREATE TABLE cafe.t (a int); CREATE SCHEMA dune; CREATE TABLE dune.t (a int)")
	c.grant("cafe", "dune")

	a := &app{stdin: strings.NewReader(""), stdout: io.Discard, stderr: io.Discard, now: func() time.Time { return c.now }, lookupEnv: func(string) (string, bool) { return "", false }}
	cmd, _, err := newRootCommand(a).Find([]string{"schedule"})
	if err == nil {
		err = cmd.ParseFlags(c.args)
	}
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(config.Sources{Flags: cmd.Flags()})
	if err != nil {
		t.Fatal(err)
	}
	s, _, err := a.scheduled(cmd, cfg, a.progress(format{}))
	if err != nil {
		t.Fatal(err)
	}
	s.Begin = func(context.Context, *schedule.Plan) error {
		c.db.Exec(t, "DROP SCHEMA cafe CASCADE")
		return nil
	}
	plan, done, err := s.Run(t.Context(), job.Parts{Now: a.now})
	if err != nil || done.Kind != job.Succeeded {
		t.Fatalf("%v, %+v", err, done)
	}
	if steps := plan.Steps(); len(steps) != 1 || len(steps[0].Schemas) != 2 {
		t.Errorf("planned %+v", steps)
	}
	c.expect(types(c.newest()), "full: dune full")
}
