package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/repo"
)

// takenOf lets a backup of a stage be of a database.
func takenOf(name string) func(*manifest.Manifest) {
	return func(m *manifest.Manifest) { m.Database = &manifest.Database{Name: name} }
}

// What another database had is never chosen unasked.
func TestChooseByDatabase(t *testing.T) {
	t.Parallel()
	s := newStage(t, "2026-11-23 12:00:00")
	s.backup(t, "", "2026-11-19 00:00:00", []string{"public", "old"}, func(m *manifest.Manifest) { m.Format, m.ID = 0, "" })
	s.backup(t, "", "2026-11-20 00:00:00", []string{"public", "acme"}, takenOf("shop"))
	s.backup(t, "", "2026-11-21 00:00:00", []string{"public", "globex"}, takenOf("other\x1b"))
	for _, tt := range []struct {
		name, database string
		want           wanted
		id, error      string
	}{
		{"its own", "shop", wanted{Latest: true}, "20261120_000000", ""},
		{"its own, of a time", "shop", wanted{At: "2026-11-22"}, "20261120_000000", ""},
		{"of before there were names", "shop", wanted{At: "2026-11-19 12:00"}, "20241119", ""},
		{"a tenant of another", "shop", wanted{Latest: true, Schemas: []string{"globex"}}, "", `no backup of database shop in`},
		{"by name", "shop", wanted{Manifest: "20261121_000000"}, "20261121_000000", ""},
		{"of none", "new", wanted{Latest: true}, "", `several databases, and none of them is new; with the newest backup of each: "other\x1b" (20261121_000000), shop (20261120_000000)`},
		{"of none, of a time", "new", wanted{At: "2026-11-20 12:00"}, "", "several databases"},
		{"into none", "", wanted{Latest: true}, "", "nothing says of which"},
	} {
		places := s.places(t)
		places[0].Database = tt.database
		_, b, err := s.findBackup(t.Context(), places, tt.want)
		switch {
		case tt.error != "" && (err == nil || !strings.Contains(err.Error(), tt.error)):
			t.Errorf("%s: %s, error %v, want %q", tt.name, b.ID, err, tt.error)
		case tt.error == "" && err != nil:
			t.Errorf("%s: %v", tt.name, err)
		case tt.error == "" && tt.id == "20241119":
			if b.Manifest.Format != 0 {
				t.Errorf("%s: %s, want the one of the original system", tt.name, b.ID)
			}
		case tt.error == "" && b.ID != tt.id:
			t.Errorf("%s: %s, want %s", tt.name, b.ID, tt.id)
		}
	}

	lone := newStage(t, "2026-11-23 12:00:00")
	id := lone.backup(t, "", "2026-11-20 00:00:00", []string{"public", "acme"}, takenOf("shop"))
	places := lone.places(t)
	places[0].Database = "new"
	if _, b, err := lone.findBackup(t.Context(), places, wanted{Latest: true}); err != nil || b.ID != id {
		t.Errorf("the only database: %s, %v", b.ID, err)
	}
}

// The picker offers no points of other databases, but those of what a restore
// replaced in this one.
func TestPointsFrom(t *testing.T) {
	t.Parallel()
	s := newStage(t, "2026-11-23 12:00:00")
	s.backup(t, "", "2026-11-20 00:00:00", []string{"acme"}, takenOf("shop"))
	s.backup(t, "", "2026-11-21 00:00:00", []string{"acme", "globex"}, takenOf("other"))
	s.backup(t, rollbackName, "2026-11-22 00:00:00", []string{"acme"}, takenOf("shop"))
	s.backup(t, rollbackName, "2026-11-22 01:00:00", []string{"acme"}, takenOf("other"))
	places := s.places(t)
	places[0].Database = "shop"
	points, _, err := restorePoints(t.Context(), places, nil, s.now())
	if err != nil {
		t.Fatal(err)
	}
	if points, err = s.pointsFrom(places[0], points); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range points {
		got = append(got, p.Schema+" "+p.Manifest)
	}
	if diff := cmp.Diff([]string{"acme rollback/20261122_000000", "acme 20261120_000000"}, got); diff != "" {
		t.Error(diff)
	}
	mention(t, s.stderr.String(), "Backups of database other are not offered")
	places[0].Database = "new"
	if _, err := s.pointsFrom(places[0], points); err != nil {
		t.Errorf("the points of one database: %v", err)
	}
}

func TestFindLeftOut(t *testing.T) {
	t.Parallel()
	s := newStage(t, "2026-11-23 12:00:00")
	with := func(leftOut []string, failed ...string) func(*manifest.Manifest) {
		return func(m *manifest.Manifest) {
			m.Database, m.LeftOut = &manifest.Database{Name: "shop"}, leftOut
			for _, name := range failed {
				m.Failures = append(m.Failures, manifest.Failure{Schema: name, Tenant: name, Error: "broken"})
			}
		}
	}
	s.backup(t, "", "2026-11-19 00:00:00", []string{"public", "acme", "archive", "bolt", "gone"}, with([]string{}))
	s.backup(t, "", "2026-11-19 06:00:00", []string{"foreign"}, takenOf("other"))
	s.backup(t, "", "2026-11-20 00:00:00", []string{"public", "acme"}, with([]string{"archive"}, "bolt"))
	s.backup(t, "", "2026-11-21 00:00:00", []string{"acme", "cafe"}, with([]string{"public", "archive", "bolt"}))
	s.backup(t, "", "2026-11-22 00:00:00", []string{"acme"}, takenOf("shop")) // of an earlier version: what it left out is not known
	all, err := s.places(t)[0].Repo.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		chosen, until string
		want          []string
	}{
		{"20261120_000000", "", []string{"acme 20261122_000000 older", "archive 20261119_000000", "bolt 20261119_000000", "cafe 20261121_000000"}},
		{"20261120_000000", "2026-11-20 00:00:00", []string{"archive 20261119_000000", "bolt 20261119_000000"}},
		{"20261119_000000", "2026-11-19 00:00:00", nil},
		{"20261119_000000", "2026-11-20 12:00:00", []string{"acme 20261120_000000 older", "public 20261120_000000 older"}},
		{"20261122_000000", "", []string{"archive 20261119_000000", "bolt 20261119_000000", "cafe 20261121_000000", "public 20261120_000000"}},
	} {
		until := time.Time{}
		if tt.until != "" {
			until = stageTime(t, tt.until)
		}
		chosen := all[slices.IndexFunc(all, func(b repo.Backup) bool { return b.ID == tt.chosen })]
		var got []string
		for _, l := range findLeftOut(all, chosen, until) {
			line := l.Schema + " " + l.Backup
			if l.Older {
				line += " older"
			}
			got = append(got, line)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s until %q: %s", tt.chosen, tt.until, diff)
		}
	}
}

// Two databases share a repository, and daily backups leave a tenant out: each
// database gets its own tenants back, and nobody takes a part for all of it.
func TestRestoreAllOfOneDatabase(t *testing.T) {
	t.Parallel()
	shop, other, target := pgtest.New(t), pgtest.New(t), pgtest.New(t)
	shop.Exec(t, `CREATE TABLE public.t (id int); CREATE SCHEMA acme; CREATE TABLE acme.t (id int); CREATE SCHEMA archive_x; CREATE TABLE archive_x.t AS SELECT 1 AS id`)
	other.Exec(t, `CREATE TABLE public.o (id int); CREATE SCHEMA foreign_t; CREATE TABLE foreign_t.t (id int)`)
	dir := t.TempDir()
	repository := "--repository=" + dir + "/backups"
	from, into := "--database-url="+shop.URL(), "--database-url="+target.URL()
	runIn(t, 0, "backup", repository, from)
	full := lastBackup(t, dir)
	runIn(t, 0, "backup", repository, from, "--exclude-schema=archive_x")
	daily := lastBackup(t, dir)

	// Who names a backup gets what is in it.
	_, stderr := runIn(t, 1, "startup", "--manifest", daily, "--load-baseline", repository, into)
	mention(t, stderr, "schema archive_x is not in it", "restore --manifest "+full+" --schema archive_x brings it back", "RESTORE_INCOMPLETE", "nothing was restored")
	if got := tables(t, target); got != "" {
		t.Errorf("tables %s after a startup that refused", got)
	}
	_, stderr = runIn(t, 0, "restore", "--latest", "--dry-run", repository, into)
	parts := []string{"takes it from 2 backups", "not of one moment", "backup " + daily + ", taken", ": public, acme\n", "backup " + full + ", taken", ": archive_x\n"}
	mention(t, stderr, parts...)
	_, stderr = runIn(t, 0, "restore", "--latest", repository, into)
	mention(t, stderr, append(parts, "of database "+shop.Name)...)
	pgtest.RequireEqual(t, shop, target, pgtest.Compare{})

	// A tenant that is saved more often than the others, and a new one.
	shop.Exec(t, "INSERT INTO acme.t VALUES (7); CREATE SCHEMA fresh; CREATE TABLE fresh.t AS SELECT 2 AS id")
	runIn(t, 0, "backup", repository, from, "--schema=acme", "--backup-type=incremental")
	vip := lastBackup(t, dir)
	runIn(t, 0, "backup", repository, from, "--schema=fresh")
	fresh := pgtest.New(t)
	toFresh := "--database-url=" + fresh.URL()
	_, stderr = runIn(t, 0, "startup", "--latest", "--load-baseline", repository, toFresh)
	mention(t, stderr, "takes it from 4 backups", "Restoring public from backup "+daily)
	pgtest.RequireEqual(t, shop, fresh, pgtest.Compare{})
	// The newest one without its file is passed over, and one that none has refused.
	do(t, os.Remove(filepath.Join(dir, "backups", "data", "acme_incremental_"+vip+".sql.zst")))
	old := pgtest.New(t)
	_, stderr = runIn(t, 1, "startup", "--latest", "--load-baseline", repository, "--database-url="+old.URL())
	mention(t, stderr, "is passed over for schema acme", "RESTORE_INCOMPLETE")
	_, stderr = runIn(t, 3, "restore", "--latest", repository, "--database-url="+old.URL())
	mention(t, stderr, "takes it from 3 backups", "schema acme is in it as it was before")
	if got := tables(t, old); got != "acme.t 0, archive_x.t 1, fresh.t 1, public.t 0" {
		t.Errorf("tables %s", got)
	}

	runIn(t, 0, "backup", repository, "--database-url="+other.URL())
	_, stderr = runIn(t, 2, "restore", "--latest", "--schema=foreign_t", repository, from)
	mention(t, stderr, "no backup of database "+shop.Name, "--manifest "+lastBackup(t, dir))
	empty := pgtest.New(t)
	_, stderr = runIn(t, 1, "startup", "--latest", "--load-baseline=false", repository, "--database-url="+empty.URL())
	mention(t, stderr, "holds backups of several databases", shop.Name, other.Name)

	runIn(t, 0, "backup", repository, from, "--schema=acme")
	_, stderr = runIn(t, 1, "startup", "--manifest", lastBackup(t, dir), repository, "--database-url="+empty.URL())
	mention(t, stderr, "does not hold core", "RESTORE_INCOMPLETE")
	runIn(t, 0, "startup", "--manifest", daily, "--incomplete", repository, "--database-url="+empty.URL())
	if got := empty.Query(t, "SELECT nspname FROM pg_namespace WHERE nspname IN ('acme', 'archive_x', 'foreign_t')"); !slices.Equal(got, []string{"acme"}) {
		t.Errorf("the database holds %q", got)
	}
}

// Nobody writes to a named pipe of the settings: it is refused, not waited for.
func TestRestorePipe(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "backups", "data", "pipe.sql")
	do(t, os.MkdirAll(filepath.Dir(path), 0o700))
	do(t, syscall.Mkfifo(path, 0o600))
	for _, name := range []string{path, "data/pipe.sql"} {
		_, stderr := runIn(t, 2, "restore", "--backup-file", name, "--repository="+dir+"/backups", "--database-url=postgres:///none")
		mention(t, stderr, name+" is no file")
	}
}
