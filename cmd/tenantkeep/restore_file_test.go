package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"

	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

// A file of pg_dump, named as the original system names it, goes live, and back.
func TestRestoreFile(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.Case(t, db, "chinook", "customer_a")
	dir := t.TempDir()
	repository, into := "--repository="+dir, "--database-url="+db.URL()
	cmd := exec.CommandContext(t.Context(), db.Cluster().Programs.Path("pg_dump"), "--schema=customer_a")
	cmd.Env = db.Env()
	script, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	write := func(name string, text []byte) string {
		t.Helper()
		path := filepath.Join(dir, "data", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	if _, err := w.Write(script); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	write("customer_a_20241215_143022.sql.gz", zipped.Bytes())
	const file = "--backup-file=data/customer_a_20241215_143022.sql.gz" // within the repository
	evil := write("evil.sql", append(bytes.Clone(script), "\\! touch hacked\n"...))
	drop := write("drop.sql", append(bytes.Clone(script), "DROP TABLE public.x;\n"...))
	bare := write("bare.sql", []byte("CREATE TABLE t (id int);\nINSERT INTO t VALUES (1);\n"))

	before := pgtest.Fingerprint(t, db, pgtest.Compare{Schemas: []string{"customer_a"}})
	db.Exec(t, "DELETE FROM customer_a.playlist_track")
	changed := pgtest.Fingerprint(t, db, pgtest.Compare{Schemas: []string{"customer_a"}})

	for _, wrong := range [][]string{
		{"--allow-outside"},
		{file, "--latest"},
		{file, "--all"},
		{file, "--table", "t"},
		{file, "--schema", "a", "--schema", "b"},
		{file, "--resume", "--as", "x"},
		{"--backup-file", "nowhere.sql"},
		{"--backup-file", dir},
		{"--backup-file", bare},
		{file},
	} {
		runIn(t, 2, append([]string{"restore", repository, into}, wrong...)...)
	}
	for path, says := range map[string][]string{
		evil: {`\!`, "can run programs", "find out where the script comes from"},
		drop: {"DROP TABLE public.x", "about the schema public", "--allow-outside", "nothing was changed"},
	} {
		_, stderr := runIn(t, 1, "restore", repository, into, "--backup-file", path, "--yes")
		mention(t, stderr, says...)
	}
	_, stderr := runIn(t, 1, "restore", repository, into, file, "--schema", "other", "--yes")
	mention(t, stderr, `for schema customer_a, not for "other"`, "--schema customer_a")

	stdout, stderr := runIn(t, 0, "restore", repository, into, file, "--dry-run")
	mention(t, stdout+stderr, "a script of pg_dump", "COPY", "CREATE TABLE", "customer_a will be replaced", "customer_a_20241215_143022.sql.gz")
	var plan planJSON
	stdout, _ = runIn(t, 1, "restore", repository, into, "--backup-file", drop, "--dry-run", "--format", "json")
	lastLine(t, stdout, &plan)
	if plan.Script == nil || plan.Script.Program != "pg_dump" || plan.Script.RefusedCount != 1 || plan.Script.Refused[0].Line == 0 || len(plan.Script.Tables) == 0 || plan.Schemas[0].Live == nil {
		t.Errorf("plan %+v", plan)
	}
	pgtest.RequireState(t, changed, db, pgtest.Compare{Schemas: []string{"customer_a"}})

	stdout, _ = runIn(t, 0, "restore", repository, into, file, "--yes", "--format", "json")
	var summary restoreSummary
	lastLine(t, stdout, &summary)
	if s := summary.Schemas[0]; !s.OK || s.Replaced == "" || !strings.HasPrefix(s.Rollback, "rollback/") || summary.Rows == 0 {
		t.Errorf("summary %+v", summary)
	}
	pgtest.RequireState(t, before, db, pgtest.Compare{Schemas: []string{"customer_a"}})
	runIn(t, 0, "rollback", "customer_a", "--yes", repository, into)
	pgtest.RequireState(t, changed, db, pgtest.Compare{Schemas: []string{"customer_a"}})

	// Standard input, under another name.
	var out, errs bytes.Buffer
	if code := run(t.Context(), []string{"restore", "--backup-file", "-", "--as", "copy of a", repository, into}, bytes.NewReader(script), &out, &errs); code != 0 {
		t.Fatalf("exit code %d\n%s", code, errs.String())
	}
	mention(t, errs.String(), "Restored 1 schema", "Every table was counted and has the rows that standard input stored")
	runIn(t, 0, "restore", repository, into, "--backup-file", bare, "--schema", "fresh")
	if got := db.Query(t, `SELECT count(*) || ' ' || (SELECT count(*) FROM fresh.t) FROM "copy of a".playlist_track`); got[0] != "8715 1" {
		t.Errorf("rows of the copies: %s", got)
	}
}
