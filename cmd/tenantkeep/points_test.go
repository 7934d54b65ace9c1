package main

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tenantkeep/tenantkeep/internal/backup"
	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/storage/local"
)

// Only what a restore did replace is there to go back to.
func TestRollbackPoints(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `
		CREATE SCHEMA acme; CREATE TABLE acme.orders (id int PRIMARY KEY); INSERT INTO acme.orders SELECT generate_series(1, 1000);
		CREATE SCHEMA globex; CREATE TABLE globex.orders (id int PRIMARY KEY); INSERT INTO globex.orders VALUES (1)`)
	dir := t.TempDir()
	repository, into := "--repository="+dir, "--database-url="+db.URL()
	count := func(table string) string { return db.Query(t, "SELECT count(*) FROM "+table)[0] }
	listed := func() (points []pointJSON) {
		t.Helper()
		stdout, _ := runIn(t, 0, "rollback", "--list", repository, into, "--format", "json")
		if err := json.Unmarshal([]byte(stdout), &points); err != nil {
			t.Fatal(err)
		}
		return points
	}
	runIn(t, 0, "backup", repository, into)
	store, err := local.New(filepath.Join(dir, rollbackName))
	if err != nil {
		t.Fatal(err)
	}
	in := repo.Open(store, repo.Options{})

	// The swap fails.
	holder := db.Conn(t)
	if _, err := holder.PgConn().Exec(t.Context(), "BEGIN; SELECT FROM acme.orders").ReadAll(); err != nil {
		t.Fatal(err)
	}
	_, stderr := runIn(t, 1, "restore", "--latest", "--schema", "acme", "--yes", "--swap-timeout", "300ms", repository, into)
	mention(t, stderr, "could not be swapped", "--resume")
	if _, err := holder.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if list, err := in.List(t.Context()); err != nil || len(list) != 0 || len(listed()) != 0 {
		t.Errorf("after a swap that failed: %v, %v, %v", list, err, listed())
	}

	// The restore is killed before its swap, and another one behind it.
	target, err := pg.Parse(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	point := func() string {
		result, err := backup.Run(t.Context(), backup.Options{
			Server: target, Repo: in, Schemas: []string{"acme"}, Type: manifest.Full, Jobs: 1, RollbackPoint: true,
			Compression: datafile.Compression{Algorithm: datafile.Zstd}, Progress: noProgress{}, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := in.Expect(t.Context(), result.Manifest.ID); err != nil {
			t.Fatal(err)
		}
		return result.Manifest.ID
	}
	before := point()
	db.Exec(t, "DELETE FROM acme.orders WHERE id > 10")
	stdout, _ := runIn(t, 0, "restore", "--latest", "--schema", "acme", "--yes", "--create-rollback=false", repository, into, "--format", "json")
	var summary restoreSummary
	lastLine(t, stdout, &summary)
	behind := point()
	db.Exec(t, "COMMENT ON SCHEMA "+summary.Schemas[0].Replaced+" IS "+
		pg.Literal(strings.Replace(db.Query(t, "SELECT obj_description('"+summary.Schemas[0].Replaced+"'::regnamespace)")[0], `"at"`, `"point":"`+behind+`","at"`, 1)))
	if got := listed(); len(got) != 2 || got[0].Point != "rollback/"+behind {
		t.Errorf("points %+v", got)
	}
	_, stderr = runIn(t, 1, "rollback", "acme", "--to", "rollback/"+before, "--yes", repository, into)
	mention(t, stderr, "replaced nothing", "restore --manifest rollback/"+before)
	stdout, _ = runIn(t, 0, "restore", "--list-available", repository, into)
	if strings.Contains(stdout, before) {
		t.Errorf("available: %s", stdout)
	}
	if _, err := in.Pin(t.Context(), repo.Pin{Backup: before, Reason: "evidence"}); err != nil {
		t.Fatal(err)
	}
	// What only the replaced schema tells of is kept when that goes.
	_, stderr = runIn(t, 0, "cleanup", "--only=database", "--keep-replaced", "0s", "--yes", repository, into)
	mention(t, stderr, "Removed 1 schema.")
	stdout, stderr = runIn(t, 0, "cleanup", "--yes", repository, into)
	match(t, stdout, "rollback/"+before+" .* stays +pinned: evidence")
	mention(t, stderr, "nothing to remove")
	if _, err := in.Unpin(t.Context(), before); err != nil {
		t.Fatal(err)
	}
	stdout, _ = runIn(t, 0, "cleanup", "--only=repository", "--yes", repository, into)
	match(t, stdout, "rollback/"+before+" .* stays ", "rollback/"+behind+" .* stays ")
	stdout, stderr = runIn(t, 0, "cleanup", "--dry-run", repository, into)
	match(t, stdout, "rollback/"+before+" .* goes +the restore that saved it replaced nothing", "rollback/"+behind+" .* stays +younger than 30 days")
	mention(t, stderr, "Would remove 1 rollback point.")

	// A restore that is at work is waited for: its own point may be this one.
	if _, err := holder.Exec(t.Context(), "SELECT pg_advisory_lock(1953393520, 1)"); err != nil {
		t.Fatal(err)
	}
	_, stderr = runIn(t, 1, "cleanup", "--yes", repository, into)
	mention(t, stderr, "rollback point rollback/"+before+" stays after all", "clean up database")
	if _, err := holder.Exec(t.Context(), "SELECT pg_advisory_unlock(1953393520, 1)"); err != nil {
		t.Fatal(err)
	}

	stdout, _ = runIn(t, 0, "cleanup", "--yes", "--format=json", repository, into)
	var items []cleanedJSON
	if err := json.Unmarshal([]byte(stdout), &items); err != nil {
		t.Fatal(err)
	}
	if i := slices.IndexFunc(items, func(i cleanedJSON) bool { return i.Name == "rollback/"+before }); i < 0 || items[i].Kind != "rollback" ||
		items[i].Keep || !items[i].Dropped || !slices.Equal(items[i].Rules, []string{"dead"}) || items[i].Bytes == 0 {
		t.Errorf("cleaned up: %+v", items)
	}
	list, err := in.List(t.Context())
	if err != nil || len(list) != 1 || list[0].ID != behind {
		t.Fatalf("after cleanup: %v, %v", list, err)
	}
	if err := in.CheckData(t.Context(), list[0].Manifest, list[0].Manifest.Schemas[0], nil); err != nil {
		t.Error(err)
	}
	if orphans, err := in.Orphans(t.Context()); err != nil || len(orphans) != 0 {
		t.Errorf("orphans %v, %v", orphans, err)
	}
	if got := listed(); len(got) != 1 || got[0].Point != "rollback/"+behind {
		t.Errorf("after cleanup: %+v", got)
	}

	// Two tenants go back together, the summary has one shape.
	db.Exec(t, "DELETE FROM acme.orders WHERE id > 20; DELETE FROM globex.orders")
	runIn(t, 0, "restore", "--latest", "--schema", "acme", "--schema", "globex", "--yes", repository, into)
	var back rollbackSummary
	stdout, _ = runIn(t, 0, "rollback", "acme", "globex", "--yes", repository, into, "--format", "json")
	lastLine(t, stdout, &back)
	if count("acme.orders") != "20" || count("globex.orders") != "0" || back.Restored != 2 || len(back.restoreSummary.Schemas) != 2 || back.Schema != "acme" || back.Back == "" ||
		back.Replaced == "" || back.restoreSummary.Schemas[1].Back == "" || back.restoreSummary.Schemas[1].Replaced == "" {
		t.Errorf("rolled back: %+v", back)
	}
	_, stderr = runIn(t, 1, "rollback", "acme", "nobody", "--yes", repository, into)
	mention(t, stderr, `no replaced schema of "nobody"`)
	_, stderr = runIn(t, 2, "rollback", "acme", "globex", "--to", "acme__replaced_x", "--yes", repository, into)
	mention(t, stderr, "--to")
	back = rollbackSummary{}
	stdout, _ = runIn(t, 0, "rollback", "acme", "--to", "rollback/"+behind, "--yes", repository, into, "--format", "json")
	lastLine(t, stdout, &back)
	if s := back.restoreSummary.Schemas[0]; back.Schema != "acme" || back.Back != "rollback/"+behind || back.Since.IsZero() || back.Replaced != s.Replaced || s.Rows != 1000 {
		t.Errorf("from its backup: %+v", back)
	}

	// What confirmed the points is lost: that is no reason to remove them.
	all, err := in.List(t.Context())
	if err != nil || len(all) < 2 {
		t.Fatalf("points %v, %v", all, err)
	}
	if err := os.RemoveAll(filepath.Join(dir, rollbackName, "swaps")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		runIn(t, 0, "cleanup", "--yes", "--keep-replaced=0s", repository, into)
	}
	if left, err := in.List(t.Context()); err != nil || len(left) != len(all) {
		t.Errorf("%d points are left of %d, %v", len(left), len(all), err)
	}
}

// noProgress is told of a backup and says nothing.
type noProgress struct{ notesOnly }

func (noProgress) Note(slog.Level, string, string) {}
