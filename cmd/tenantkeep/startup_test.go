package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

// fillWorld is what containers of the tests have: backups of a database with core
// and two tenants, a baseline, and scripts.
type fillWorld struct {
	source *pgtest.Database
	dir    string // working directory
}

func newFillWorld(t *testing.T) *fillWorld {
	t.Helper()
	w := &fillWorld{source: pgtest.New(t), dir: t.TempDir()}
	w.source.Exec(t, `
		CREATE TABLE public.client (id int PRIMARY KEY, name text); INSERT INTO public.client VALUES (1, 'acme'), (2, 'globex');
		CREATE SCHEMA acme; CREATE TABLE acme.orders (id int PRIMARY KEY, client int REFERENCES public.client (id));
		INSERT INTO acme.orders SELECT n, 1 FROM generate_series(1, 1000) n; CREATE INDEX ON acme.orders (client);
		CREATE SCHEMA globex; CREATE TABLE globex.orders (id int PRIMARY KEY, client int REFERENCES public.client (id)); INSERT INTO globex.orders VALUES (7, 2);
		CREATE PUBLICATION changes FOR TABLE acme.orders; SELECT lo_create(4711)`)
	repository, from := "--repository="+w.path("backups"), "--database-url="+w.source.URL()
	runIn(t, 0, "backup", repository, from)
	runIn(t, 0, "backup", "--backup-type", "baseline", repository, from, "--baseline-dir="+w.path("baselineData"))
	// Of which acme is in another backup than the rest.
	runIn(t, 0, "backup", "--repository="+w.path("parts"), from)
	runIn(t, 0, "backup", "--repository="+w.path("parts"), from, "--schema=acme", "--backup-type=incremental")
	w.dump(t, "all.sql")
	w.dump(t, "globex.sql", "--schema=globex")
	w.dump(t, "core.sql", "--schema=public")
	w.write(t, "broken.sql", w.read(t, "core.sql")+"SELECT no_such_function();\n")
	return w
}

func (w *fillWorld) path(elements ...string) string {
	return filepath.Join(append([]string{w.dir}, elements...)...)
}

func (w *fillWorld) dump(t *testing.T, name string, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "pg_dump", append(args, "--file="+w.path(name))...)
	cmd.Env = w.source.Env()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("pg_dump: %v\n%s", err, out)
	}
}

func (w *fillWorld) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(w.path(name)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.path(name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (w *fillWorld) read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(w.path(name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// manifest is the id of the full backup.
func (w *fillWorld) manifest(t *testing.T) string {
	t.Helper()
	list, err := filepath.Glob(w.path("backups", "manifests", "*.json"))
	if err != nil || len(list) != 2 {
		t.Fatal(list, err)
	}
	return list[0]
}

// halfManifest writes a backup of the original system of which the second script
// cannot be restored, and returns the path of its manifest.
func (w *fillWorld) halfManifest(t *testing.T) string {
	t.Helper()
	var entries []string
	for _, e := range []struct{ schema, tenant, text string }{
		{"public", "core", w.read(t, "core.sql")},
		{"globex", "globex", strings.Replace(w.read(t, "globex.sql"), "\n7\t2\n", "\n7\t99\n", 1)}, // its foreign key does not hold
	} {
		file := e.tenant + "_full_20241215_143022.sql"
		w.write(t, "old/data/"+file, e.text)
		entries = append(entries, fmt.Sprintf(`{"schema": %q, "tenant": %q, "filename": %q, "filepath": %q, "size": %d, "hash": "sha256:%x", "timestamp": "20241215_143022", "type": "full"}`,
			e.schema, e.tenant, file, "/app/backups/data/"+file, len(e.text), sha256.Sum256([]byte(e.text))))
	}
	w.write(t, "old/manifests/backup_manifest_20241215_143022.json", fmt.Sprintf(
		`{"timestamp": "2024-12-15T14:30:22.123456", "backup_type": "full", "retention_days": 30, "compressed": false, "include_media": false, "schemas": [%s]}`, strings.Join(entries, ",")))
	return w.path("old", "manifests", "backup_manifest_20241215_143022.json")
}

// container is a process of startup.
type container struct {
	*exec.Cmd
	stdout, stderr lockedBuffer
}

// lockedBuffer can be read while a process writes to it.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// start starts a container on a database. env are NAME=VALUE, up to the word "--"
// or the first flag; the rest is the command line.
func (w *fillWorld) start(t *testing.T, url string, words ...string) *container {
	t.Helper()
	i := slices.IndexFunc(words, func(word string) bool { return strings.HasPrefix(word, "-") })
	if i < 0 {
		i = len(words)
	}
	c := &container{Cmd: exec.CommandContext(t.Context(), "tenantkeep", append([]string{"startup"}, words[i:]...)...)}
	c.Dir = w.dir
	c.Env = append(append(os.Environ(), "DATABASE_URL="+url, "BACKUP_LOG_DIR="+w.path("logs")), words[:i]...)
	c.Stdout, c.Stderr = &c.stdout, &c.stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	return c
}

// end waits for the container and returns its exit code.
func (c *container) end(t *testing.T) int {
	t.Helper()
	err := c.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return c.ProcessState.ExitCode()
}

// run runs a container to its end.
func (w *fillWorld) run(t *testing.T, want int, db *pgtest.Database, words ...string) (stdout, stderr string) {
	t.Helper()
	c := w.start(t, db.URL(), words...)
	if code := c.end(t); code != want {
		t.Fatalf("%q: exit code %d, want %d\n%s", words, code, want, c.stderr.String())
	}
	return c.stdout.String(), c.stderr.String()
}

// tables are all tables of users with their numbers of rows.
func tables(t *testing.T, db *pgtest.Database) string {
	t.Helper()
	return strings.Join(db.Query(t, `
		SELECT n.nspname || '.' || c.relname || ' ' || (xpath('/row/c/text()', query_to_xml(format('SELECT count(*) AS c FROM %I.%I', n.nspname, c.relname), false, true, '')))[1]
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind IN ('r', 'p', 'f') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' ORDER BY 1`), ", ")
}

// leftovers are schemas, publications and large objects beside tables.
func leftovers(t *testing.T, db *pgtest.Database) string {
	t.Helper()
	return strings.Join(db.Query(t, `
		SELECT nspname::text FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'public', 'gate')
		UNION ALL SELECT pubname::text FROM pg_publication UNION ALL SELECT oid::text FROM pg_largeobject_metadata
		UNION ALL SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname = 'public' AND obj_description(oid, 'pg_namespace') <> 'standard public schema' ORDER BY 1`), ", ")
}

const (
	everything   = "acme.orders 1000, globex.orders 1, public.client 2"
	onlyCore     = "public.client 2"
	onlyMigrated = "public.migrated 0"
)

func TestStartup(t *testing.T) {
	t.Parallel()
	w := newFillWorld(t)
	t.Run("sources", w.testSources)
	t.Run("leaves tables alone", w.testLeavesTablesAlone)
	t.Run("becomes the command", w.testBecomesTheCommand)
	t.Run("killed", w.testKilled)
	t.Run("killed twice", w.testKilledTwice)
	t.Run("interrupted", w.testInterrupted)
	t.Run("refuses to clear", w.testRefusesToClear)
	t.Run("replicas", w.testReplicas)
	t.Run("waits", w.testWaits)
}

// Every source, every order, every failure.
func (w *fillWorld) testSources(t *testing.T) {
	t.Parallel()
	manifest, half := w.manifest(t), w.halfManifest(t)
	w.write(t, "torn/baseline.sql", w.read(t, "baselineData/baseline.sql")[:900])
	w.write(t, "foreign/baseline.sql", w.read(t, "core.sql"))
	const (
		migrate = "MIGRATE_COMMAND=psql -qc 'CREATE TABLE public.migrated ()'"
		none    = "BASELINE_DIR=none"
	)
	latest := []string{"RESTORE_LATEST_BACKUP=true"}
	for name, tt := range map[string]struct {
		words []string
		code  int
		want  string // tables
		says  []string
	}{
		"baseline by default":            {[]string{migrate}, 0, onlyCore, []string{"from the baseline in ./baselineData (load-baseline)"}},
		"latest before baseline":         {latest, 0, everything, []string{"the newest backup in ./backups (RESTORE_LATEST_BACKUP)"}},
		"manifest before latest":         {append(latest, "RESTORE_BACKUP_MANIFEST="+manifest, "BACKUP_REPOSITORY=none"), 0, everything, []string{"(RESTORE_BACKUP_MANIFEST)"}},
		"file before manifest":           {append(latest, "RESTORE_BACKUP_MANIFEST="+manifest, "RESTORE_BACKUP_FILE=core.sql"), 0, onlyCore, []string{"file core.sql (RESTORE_BACKUP_FILE)"}},
		"flags before the environment":   {[]string{"RESTORE_BACKUP_FILE=core.sql", "--backup-file", "all.sql"}, 0, everything, []string{"file all.sql (--backup-file)", "whole database"}},
		"a tenant's file":                {[]string{"RESTORE_BACKUP_FILE=core.sql", "--load-baseline=false"}, 0, onlyCore, nil},
		"no baseline":                    {[]string{none, migrate}, 0, onlyMigrated, []string{"There is no baseline to begin with", "Running MIGRATE_COMMAND: psql"}},
		"no baseline where one is asked": {[]string{none, "LOAD_BASELINE=true"}, 0, "", []string{"warning: LOAD_BASELINE: there is no baseline of core"}},
		"baseline off":                   {[]string{"LOAD_BASELINE=false", migrate}, 0, onlyMigrated, []string{"Nothing was restored"}},
		"baseline of the original":       {[]string{"BASELINE_DIR=foreign"}, 0, onlyCore, []string{"was not written by tenantkeep", "plain SQL script"}},
		"baseline torn":                  {[]string{"BASELINE_DIR=torn", migrate}, 1, "", []string{"RESTORE FAILED. load-baseline", "cut short"}},
		"file fails, manifest":           {append(latest, "RESTORE_BACKUP_FILE=broken.sql", "RESTORE_BACKUP_MANIFEST="+manifest), 0, everything, []string{"RESTORE FAILED. RESTORE_BACKUP_FILE", "no_such_function", "falling back to backup"}},
		"manifest fails, latest":         {append(latest, "RESTORE_BACKUP_MANIFEST=/app/backups/manifests/gone.json"), 0, everything, []string{"RESTORE FAILED. RESTORE_BACKUP_MANIFEST", "falling back to the newest backup"}},
		"latest fails, baseline":         {append(latest, "BACKUP_REPOSITORY=none", migrate), 0, onlyCore, []string{"RESTORE FAILED. RESTORE_LATEST_BACKUP: there is no backup in", "falling back to the baseline"}},
		"half a manifest, baseline":      {[]string{"RESTORE_BACKUP_MANIFEST=" + half, migrate}, 0, onlyCore, []string{"tenant globex", "removing what was restored of schema public", "falling back"}},
		"half a manifest, no baseline":   {[]string{"RESTORE_BACKUP_MANIFEST=" + half, none, migrate}, 1, "", []string{"removing what was restored", "error: the database is empty", "STARTUP_START_EMPTY"}},
		"no fallback":                    {append(latest, "RESTORE_BACKUP_FILE=broken.sql", "RESTORE_FALLBACK=false", migrate), 1, "", []string{"no fallback is wanted"}},
		"all fail":                       {append(latest, "RESTORE_BACKUP_FILE=gone.sql", "RESTORE_BACKUP_MANIFEST=gone", "BACKUP_REPOSITORY=none", none, migrate), 1, "", []string{"RESTORE_BACKUP_FILE: ", "RESTORE_BACKUP_MANIFEST: ", "RESTORE_LATEST_BACKUP: "}},
		"all fail, but it may begin":     {[]string{"RESTORE_BACKUP_FILE=gone.sql", none, migrate, "STARTUP_START_EMPTY=yes"}, 0, onlyMigrated, []string{"starts on an empty database (STARTUP_START_EMPTY)"}},
		"a hook that refuses":            {append(latest, "BACKUP_HOOK_BEFORE_RESTORE=false", migrate), 1, "", []string{"nothing was done, because a program that is to run before it failed"}},
		"migration fails":                {[]string{none, "MIGRATE_COMMAND=sh -c 'exit 3'"}, 1, "", []string{"error: MIGRATE_COMMAND: sh: exit status 3"}},
		"migration is no program":        {[]string{none, "MIGRATE_COMMAND=gone x"}, 127, "", []string{"MIGRATE_COMMAND: find the command"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			words := append(slices.Clone(db.Env()[len(os.Environ()):]), tt.words...)
			words = append(words, "--", "echo", "started")
			stdout, stderr := w.run(t, tt.code, db, words...)
			mention(t, stderr, tt.says...)
			if got := tables(t, db); got != tt.want {
				t.Errorf("tables %q, want %q\n%s", got, tt.want, stderr)
			}
			if want := map[bool]string{true: "started\n"}[tt.code == 0]; stdout != want {
				t.Errorf("stdout %q, want %q", stdout, want)
			}
			if tt.want == everything {
				pgtest.RequireEqual(t, w.source, db, pgtest.Compare{})
			} else if got := leftovers(t, db); strings.Contains(got, "acme") || strings.Contains(got, "globex") || strings.Contains(got, "tenantkeep") {
				t.Errorf("left: %s", got)
			}
		})
	}
}

// A database with tables is never touched, whatever is asked for.
func (w *fillWorld) testLeavesTablesAlone(t *testing.T) {
	t.Parallel()
	for name, sql := range map[string]string{
		"a table in public":        "CREATE TABLE public.client (id int); INSERT INTO public.client VALUES (5)",
		"a table of a tenant":      "CREATE SCHEMA acme; CREATE TABLE acme.t (id int) PARTITION BY LIST (id)",
		"a foreign table":          "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE public.f (id int) SERVER s",
		"a schema of tenantkeep's": "CREATE SCHEMA acme__replaced_20261123_120000; CREATE TABLE acme__replaced_20261123_120000.t ()",
		"no tables, but a view":    "CREATE VIEW public.v AS SELECT 1 AS one; CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			db.Exec(t, sql)
			before := pgtest.Fingerprint(t, db, pgtest.Compare{})
			code, says := 0, "nothing is restored"
			if strings.HasPrefix(name, "no tables") {
				code, says = 1, "has no tables, but function"
			}
			_, stderr := w.run(t, code, db, "RESTORE_LATEST_BACKUP=true", "RESTORE_BACKUP_FILE=core.sql", "RESTORE_BACKUP_MANIFEST="+w.manifest(t), "--", "true")
			mention(t, stderr, says)
			pgtest.RequireState(t, before, db, pgtest.Compare{})
		})
	}
}

// The command takes the place of the process: its exit code, its signals.
func (w *fillWorld) testBecomesTheCommand(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	c := exec.CommandContext(t.Context(), "tenantkeep", "startup", "--", "sh", "-c", `trap 'echo got it; exit 9' TERM; echo $$ "$1" "$2"; while :; do sleep 0.02; done`, "name", "two words", "")
	c.Dir, c.Env = w.dir, append(os.Environ(), "DATABASE_URL="+db.URL())
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	lines.Scan()
	if want := fmt.Sprintf("%d two words ", c.Process.Pid); lines.Text() != want {
		t.Errorf("the command says %q, want %q", lines.Text(), want)
	}
	// The server's side of a connection ends a moment after the program has been replaced.
	left := func() string {
		return db.Query(t, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'tenantkeep%'")[0]
	}
	for deadline := time.Now().Add(10 * time.Second); left() != "0"; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s connections are left to the command", left())
		}
	}
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	lines.Scan()
	_ = c.Wait()
	if lines.Text() != "got it" || c.ProcessState.ExitCode() != 9 {
		t.Errorf("%q, exit code %d", lines.Text(), c.ProcessState.ExitCode())
	}
	for _, tt := range []struct {
		code  int
		words []string
		says  string
	}{
		{0, nil, "has tables"},
		{2, []string{"-q", "echo"}, "write tenantkeep startup -- echo"},
		{126, []string{"--", "/etc/passwd"}, "permission denied"},
		{127, []string{"--", "no-such-program"}, "not found"},
		{2, []string{"MIGRATE_COMMAND=a && b", "--", "true"}, "sh -c"},
		{2, []string{"LOAD_BASELINE=perhaps", "--", "true"}, "LOAD_BASELINE"},
		{1, []string{"MIGRATE_COMMAND=false", "--", "echo"}, "the application was not started"},
	} {
		stdout, stderr := w.run(t, tt.code, db, tt.words...)
		mention(t, stderr, tt.says)
		if stdout != "" {
			t.Errorf("%q: stdout %q", tt.words, stdout)
		}
	}
	// A run that becomes another program has its end in the audit trail.
	mention(t, w.read(t, "logs/audit.jsonl"), `,"result":"ok","code":0`)
}

// gate makes sessions stop at a kind of statement: as long as the returned function
// has not been called, all that run it wait.
func gate(t *testing.T, db *pgtest.Database, event, tag string) (open func()) {
	t.Helper()
	db.Exec(t, `
		CREATE SCHEMA IF NOT EXISTS gate;
		CREATE OR REPLACE FUNCTION gate.wait() RETURNS event_trigger LANGUAGE plpgsql AS
			'BEGIN PERFORM pg_catalog.set_config(''lock_timeout'', ''0'', true), pg_catalog.pg_advisory_xact_lock_shared(77, pg_catalog.hashtext(tg_tag)); END'`,
		fmt.Sprintf("CREATE EVENT TRIGGER %q ON %s WHEN TAG IN ('%s') EXECUTE FUNCTION gate.wait()", "gate "+tag, event, tag))
	conn := db.Conn(t)
	if _, err := conn.Exec(t.Context(), "SELECT pg_advisory_lock(77, hashtext($1))", tag); err != nil {
		t.Fatal(err)
	}
	return func() {
		if _, err := conn.Exec(t.Context(), "SELECT pg_advisory_unlock_all()"); err != nil {
			t.Fatal(err)
		}
	}
}

// until waits for a condition of the database.
func until(t *testing.T, db *pgtest.Database, what, condition string) {
	t.Helper()
	conn := db.Conn(t)
	for deadline := time.Now().Add(30 * time.Second); ; {
		var is bool
		if err := conn.QueryRow(t.Context(), "SELECT "+condition).Scan(&is); err != nil {
			t.Fatal(err)
		}
		if is {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in half a minute", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// endSessions ends what a dead container has left on the server.
func endSessions(t *testing.T, db *pgtest.Database) {
	t.Helper()
	db.Exec(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'tenantkeep%'")
	until(t, db, "it is gone", `NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'tenantkeep%')`)
}

const atGate = `EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND classid = 77 AND NOT granted AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))`

// A container that is killed at any step leaves a database that the next one
// knows and fills from the beginning.
func (w *fillWorld) testKilled(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		step, event, tag string
		says             string // of the next one; empty: there is nothing to be removed
		source           string
	}{
		{"before its mark", "ddl_command_start", "CREATE SCHEMA", "", "RESTORE_LATEST_BACKUP=true"},
		{"between mark and first table", "ddl_command_start", "CREATE TABLE", "died", "RESTORE_LATEST_BACKUP=true"},
		{"after a table", "ddl_command_end", "CREATE TABLE", "died", "RESTORE_LATEST_BACKUP=true"},
		{"when rows are there", "ddl_command_start", "CREATE INDEX", "removing what was restored of schema acme, globex, public", "RESTORE_LATEST_BACKUP=true"},
		{"when all is there but the mark", "ddl_command_start", "DROP SCHEMA", "removing what was restored of schema acme, globex, public", "RESTORE_LATEST_BACKUP=true"},
		{"in the second of two backups", "ddl_command_start", "CREATE INDEX", "removing what was restored of schema acme, globex, public", "RESTORE_LATEST_BACKUP=true BACKUP_REPOSITORY=parts"},
		{"in a script", "ddl_command_start", "CREATE INDEX", "died", "RESTORE_BACKUP_FILE=all.sql"},
	} {
		t.Run(tt.step, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			open := gate(t, db, tt.event, tt.tag)
			words := strings.Fields(tt.source)
			first := w.start(t, db.URL(), words...)
			until(t, db, tt.step, atGate)
			if err := first.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			first.end(t)
			if tt.tag == "DROP SCHEMA" {
				endSessions(t, db)
			}
			// Else what the dead one has asked for last is still at work.
			second := w.start(t, db.URL(), append(words, "--", "echo", "started")...)
			if tt.says != "" {
				until(t, db, "the next one looks", `EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'tenantkeep startup%')`)
			}
			open()
			if code := second.end(t); code != 0 || second.stdout.String() != "started\n" {
				t.Fatalf("exit code %d\n%s", code, second.stderr.String())
			}
			mention(t, second.stderr.String(), tt.says)
			pgtest.RequireEqual(t, w.source, db, pgtest.Compare{Schemas: []string{"public", "acme", "globex"}})
			if got := leftovers(t, db); got != "4711, acme, changes, globex" {
				t.Errorf("beside the tables: %s", got)
			}
			_, stderr := w.run(t, 0, db, append(words, "--", "true")...)
			mention(t, stderr, "nothing is restored")
		})
	}
}

// A container that is killed while it clears what another one has left.
func (w *fillWorld) testKilledTwice(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	open := gate(t, db, "ddl_command_start", "CREATE INDEX")
	openDrop := gate(t, db, "ddl_command_start", "DROP TABLE")
	for range 2 {
		c := w.start(t, db.URL(), "RESTORE_LATEST_BACKUP=true")
		until(t, db, "it works", atGate)
		if err := c.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		c.end(t)
		open()
		until(t, db, "it is gone", `NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'tenantkeep%' AND wait_event_type <> 'Lock')`)
	}
	openDrop()
	_, stderr := w.run(t, 0, db, "RESTORE_LATEST_BACKUP=true")
	mention(t, stderr, "died")
	pgtest.RequireEqual(t, w.source, db, pgtest.Compare{Schemas: []string{"public", "acme", "globex"}})
}

// SIGTERM in the middle leaves the database empty.
func (w *fillWorld) testInterrupted(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	open := gate(t, db, "ddl_command_start", "CREATE INDEX")
	c := w.start(t, db.URL(), "RESTORE_LATEST_BACKUP=true", "--", "echo", "started")
	until(t, db, "it works", atGate)
	if err := c.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	open()
	if code := c.end(t); code != exitInterrupted || c.stdout.String() != "" {
		t.Errorf("exit code %d, stdout %q\n%s", code, c.stdout.String(), c.stderr.String())
	}
	if got := tables(t, db) + leftovers(t, db); got != "" {
		t.Errorf("left: %s\n%s", got, c.stderr.String())
	}
}

// What the next container does not clear: anything that somebody may have used.
func (w *fillWorld) testRefusesToClear(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct{ sql, says string }{
		"rows were changed":     {"UPDATE public.client SET name = 'x' WHERE id = 1", "rows of public.client were changed"},
		"rows were deleted":     {"DELETE FROM acme.orders WHERE id = 1", "rows of acme.orders were changed or deleted"},
		"another schema":        {"CREATE SCHEMA mine; CREATE TABLE mine.t ()", `schema "mine" is none of those`},
		"a mark that is old":    {"", "its last sign of life is from 2020"},
		"a mark of another one": {"DO $$ BEGIN EXECUTE format('ALTER SCHEMA %I OWNER TO pg_monitor', (SELECT nspname FROM pg_namespace WHERE nspname ~ '__startup_')); END $$", "another role may have made it"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			open := gate(t, db, "ddl_command_start", "DROP SCHEMA")
			c := w.start(t, db.URL(), "RESTORE_LATEST_BACKUP=true")
			until(t, db, "all is restored", atGate)
			if err := c.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			c.end(t)
			endSessions(t, db)
			open()
			sql := tt.sql
			if sql == "" {
				mark := db.Query(t, "SELECT nspname FROM pg_namespace WHERE nspname ~ '__startup_'")[0]
				label := db.Query(t, "SELECT obj_description(oid, 'pg_namespace') FROM pg_namespace WHERE nspname ~ '__startup_'")[0]
				var fields map[string]any
				if err := json.Unmarshal([]byte(strings.TrimPrefix(label, "tenantkeep: ")), &fields); err != nil {
					t.Fatal(err)
				}
				fields["alive"] = "2020-01-01T00:00:00Z"
				text, err := json.Marshal(fields)
				if err != nil {
					t.Fatal(err)
				}
				sql = fmt.Sprintf("COMMENT ON SCHEMA %s IS 'tenantkeep: %s'", mark, text)
			}
			db.Exec(t, sql)
			before := tables(t, db)
			until(t, db, "the statistics are there", `NOT `+fmt.Sprint(strings.HasPrefix(name, "rows"))+` OR EXISTS (SELECT FROM pg_stat_all_tables WHERE schemaname IN ('public', 'acme') AND n_tup_upd + n_tup_del > 0)`)
			stdout, stderr := w.run(t, 1, db, "RESTORE_LATEST_BACKUP=true", "--", "echo", "started")
			mention(t, stderr, "is not cleared", tt.says, "DROP SCHEMA")
			if got := tables(t, db); got != before || stdout != "" {
				t.Errorf("tables %s, were %s; stdout %q", got, before, stdout)
			}
			_, stderr = runIn(t, 1, "backup", "--database-url="+db.URL(), "--repository="+t.TempDir())
			mention(t, stderr, "a part of a restore that has not ended", "DROP SCHEMA")
			stdout, _ = runIn(t, 1, "doctor", "--database-url="+db.URL(), "--repository="+t.TempDir())
			mention(t, stdout, "is only a part of the newest backup in ./backups")
			// The way out that the hint names.
			db.Exec(t, "DO $$ BEGIN EXECUTE format('DROP SCHEMA %I', (SELECT nspname FROM pg_namespace WHERE nspname ~ '__startup_')); END $$")
			w.run(t, 0, db, "RESTORE_LATEST_BACKUP=true")
		})
	}
}

// Of containers that start at once one restores, and none migrates.
func (w *fillWorld) testReplicas(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	open := gate(t, db, "ddl_command_start", "CREATE INDEX")
	first := w.start(t, db.URL(), "RESTORE_LATEST_BACKUP=true", "MIGRATE_COMMAND=false", "--", "echo", "started")
	until(t, db, "the first works", atGate)
	all := []*container{first}
	for range 2 {
		all = append(all, w.start(t, db.URL(), "RESTORE_LATEST_BACKUP=true", "MIGRATE_COMMAND=false", "--", "echo", "started"))
	}
	_, stderr := w.run(t, 1, db, "RESTORE_LATEST_BACKUP=true", "--peer-wait", "100ms", "--", "echo", "started")
	mention(t, stderr, "waited 0.1s for another container", `"tenantkeep startup on `)
	until(t, db, "the others wait", `(SELECT count(*) = 3 FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'tenantkeep startup%')`)
	open()
	for i, c := range all {
		if code := c.end(t); code != 0 || c.stdout.String() != "started\n" {
			t.Errorf("container %d: exit code %d, stdout %q\n%s", i, code, c.stdout.String(), c.stderr.String())
		}
		want := "Another container has filled the database meanwhile"
		if c == first {
			want = "Restored 3 schemas"
		}
		mention(t, c.stderr.String(), want)
	}
	pgtest.RequireEqual(t, w.source, db, pgtest.Compare{Schemas: []string{"public", "acme", "globex"}})
}

// A server that is not up, one that refuses, and a database that comes later.
func (w *fillWorld) testWaits(t *testing.T) {
	t.Parallel()
	c := w.start(t, "postgres://nobody@127.0.0.1:9/x", "--wait", "300ms", "--", "echo")
	if code := c.end(t); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	mention(t, c.stderr.String(), "Waiting for the database, for 0.3s at most", "error: waited 300ms for the database", "is the server running")

	db := pgtest.New(t)
	late := db.Name + "_late"
	c = w.start(t, db.Cluster().URL(late), "LOAD_BASELINE=false", "--", "echo", "started")
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(c.stderr.String(), "refuses") && time.Now().Before(deadline); {
		time.Sleep(2 * time.Millisecond)
	}
	mention(t, c.stderr.String(), "the server is up and refuses", "does not exist", "check the name of the database", "may not be set up yet")
	if err := db.Cluster().CreateDatabase(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Cluster().DropDatabase(context.Background(), late); err != nil {
			t.Error(err)
		}
	})
	if code := c.end(t); code != 0 || c.stdout.String() != "started\n" {
		t.Errorf("exit code %d\n%s", code, c.stderr.String())
	}
}
