package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

// A tenant is put back live, looked at beside, and swapped back and forth.
func TestRestoreLive(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `
		CREATE SCHEMA acme; CREATE TABLE acme.orders (id int PRIMARY KEY, note text); INSERT INTO acme.orders SELECT n, 'order ' || n FROM generate_series(1, 1000) n;
		CREATE SCHEMA globex; CREATE TABLE globex.of_acme (id int REFERENCES acme.orders (id)); INSERT INTO globex.of_acme VALUES (1)`)
	repository, into := "--repository="+t.TempDir(), "--database-url="+db.URL()
	runIn(t, 0, "backup", repository, into)
	count := func(table string) string { return db.Query(t, "SELECT count(*) FROM "+table)[0] }
	db.Exec(t, "DELETE FROM acme.orders WHERE id > 10")

	stdout, stderr := runIn(t, 0, "restore", "--latest", "--schema", "acme", "--dry-run", repository, into)
	mention(t, stdout+stderr, "acme will be replaced", "foreign key of_acme_id_fkey on globex.of_acme", "about 10")
	_, stderr = runIn(t, 2, "restore", "--latest", "--schema", "acme", repository, into)
	mention(t, stderr, "no terminal", "--yes")
	_, stderr = runIn(t, 2, "restore", "--latest", repository, into, "--yes")
	mention(t, stderr, "would replace", "--schema", "--all")
	if count("acme.orders") != "10" {
		t.Fatal("a restore that was not confirmed did something")
	}

	stdout, _ = runIn(t, 0, "restore", "--latest", "--schema", "acme", "--table", "orders", repository, into)
	statements := strings.Split(stdout, ";\n")
	for _, sql := range statements {
		if strings.Contains(sql, "INSERT") {
			db.Exec(t, sql)
		}
	}
	if count("acme.orders") != "1000" {
		t.Errorf("the SQL that is shown puts back %s rows:\n%s", count("acme.orders"), stdout)
	}
	db.Exec(t, stdout[strings.LastIndex(stdout, "DROP SCHEMA"):])
	_, stderr = runIn(t, 2, "restore", "--latest", "--schema", "acme", "--as", "", "--yes", repository, into)
	mention(t, stderr, "--as is empty")
	db.Exec(t, "DELETE FROM acme.orders WHERE id > 10")

	_, stderr = runIn(t, 0, "restore", "--latest", "--schema", "acme", "--as", "acme_then", repository, into)
	mention(t, stderr, "Restored 1 schema")
	if count("acme_then.orders") != "1000" || count("acme.orders") != "10" {
		t.Errorf("%s rows beside, %s live", count("acme_then.orders"), count("acme.orders"))
	}

	stdout, _ = runIn(t, 0, "restore", "--latest", "--schema", "acme", "--yes", repository, into, "--format", "json")
	var summary restoreSummary
	lastLine(t, stdout, &summary)
	if s := summary.Schemas[0]; !s.OK || s.Replaced == "" || !strings.HasPrefix(s.Rollback, "rollback/") || count("acme.orders") != "1000" {
		t.Errorf("summary %+v", summary)
	}
	var points []pointJSON
	stdout, _ = runIn(t, 0, "rollback", "--list", repository, into, "--format", "json")
	if err := json.Unmarshal([]byte(stdout), &points); err != nil || len(points) != 2 {
		t.Fatalf("points %+v, %v", points, err)
	}
	_, stderr = runIn(t, 2, "rollback", "acme", repository, into)
	mention(t, stderr, "--yes")
	_, stderr = runIn(t, 0, "rollback", "acme", "--yes", repository, into)
	mention(t, stderr, "again what it was", "tenantkeep rollback acme")
	if count("acme.orders") != "10" {
		t.Errorf("after the rollback %s rows", count("acme.orders"))
	}
	_, stderr = runIn(t, 1, "rollback", "nobody", "--yes", repository, into)
	mention(t, stderr, "no replaced schema", "--list")
	_, stderr = runIn(t, 2, "rollback", repository, into)
	mention(t, stderr, "which tenant")

	stdout, _ = runIn(t, 0, "doctor", repository, into)
	mention(t, stdout, "acme__replaced_", "was acme until it was replaced", "may read all tables", "1 backup")
	stdout, _ = runIn(t, 1, "doctor", "--repository=/proc/none", into)
	mention(t, stdout, "problem  repository")
	_, stderr = runIn(t, 0, "cleanup", repository, into)
	mention(t, stderr, "nothing to remove")
	stdout, stderr = runIn(t, 0, "cleanup_backups", "--keep-replaced", "0s", "--dry-run", repository, into)
	mention(t, stdout, "acme__replaced_", "was acme until it was replaced", "goes")
	mention(t, stderr, "Would remove 1 schema.")
	runIn(t, 0, "cleanup", "--keep-replaced", "0s", "--yes", repository, into)
	if got := db.Query(t, "SELECT nspname FROM pg_namespace WHERE nspname LIKE '%\\_\\_%'"); len(got) != 0 {
		t.Errorf("left: %s", got)
	}
	db.Exec(t, "DELETE FROM globex.of_acme; DELETE FROM acme.orders")
	_, stderr = runIn(t, 1, "rollback", "acme", "--yes", repository, into)
	mention(t, stderr, "no replaced schema", "--to rollback/ID")
	other := pgtest.New(t)
	other.Exec(t, "CREATE SCHEMA acme")
	_, stderr = runIn(t, 2, "rollback", "acme", "--to", summary.Schemas[0].Rollback, "--yes", repository, "--database-url="+other.URL())
	mention(t, stderr, "of another database")
	runIn(t, 0, "rollback", "acme", "--to", summary.Schemas[0].Rollback, "--yes", repository, into)
	if count("acme.orders") != "10" {
		t.Errorf("from the backup of the rollback point: %s rows", count("acme.orders"))
	}
}
