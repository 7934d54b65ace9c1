package backup_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tenantkeep/tenantkeep/internal/backup"
	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

// incremental takes an incremental backup of which everything must be saved.
func (w *world) incremental(t *testing.T) *manifest.Manifest {
	t.Helper()
	w.opts.Type = manifest.Incremental
	defer func() { w.opts.Type = manifest.Full }()
	return w.run(t)
}

// big makes a tenant with a table of several segments and a small one.
func big(t *testing.T, db *pgtest.Database, name string) {
	t.Helper()
	db.Exec(t, fmt.Sprintf(`CREATE SCHEMA %[1]s;
		CREATE TABLE %[1]s.big (id int PRIMARY KEY, v text) WITH (fillfactor = 10);
		INSERT INTO %[1]s.big SELECT n, repeat('x', 100) || n FROM generate_series(1, 40000) n;
		CREATE TABLE %[1]s.small (id int GENERATED ALWAYS AS IDENTITY, v text);
		INSERT INTO %[1]s.small (v) VALUES ('a'), ('b');
		CREATE TABLE %[1]s.other (id int); INSERT INTO %[1]s.other VALUES (1), (2), (3)`, name))
}

// TestIncremental changes one thing after another, and loads each backup.
func TestIncremental(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	for _, name := range []string{"a", "b", "c"} {
		big(t, w.db, name)
	}
	first := w.run(t)
	unchanged := func(m *manifest.Manifest, of *manifest.Manifest, schemas ...string) {
		t.Helper()
		for _, s := range schemas {
			was, is := entry(t, of, s), entry(t, m, s)
			if was.Filepath != is.Filepath || was.Hash != is.Hash || was.IndexHash != is.IndexHash || is.IndexHash == "" || was.Timestamp != is.Timestamp || !slices.Equal(was.References, is.References) {
				t.Errorf("%s: nothing changed, but the entry is %+v, it was %+v", s, is, was)
			}
		}
	}

	second := w.incremental(t)
	if second.Parent != first.ID || second.BackupType != manifest.Incremental {
		t.Errorf("it is a %s backup with the parent %q, want %s", second.BackupType, second.Parent, first.ID)
	}
	unchanged(second, first, "public", "a", "b", "c")

	w.db.Exec(t, `UPDATE a.big SET v = 'changed' WHERE id = 20000; INSERT INTO b.small (v) VALUES ('c');
		ALTER TABLE c.small ADD COLUMN w int DEFAULT 5; CREATE SCHEMA d; CREATE TABLE d.t (id int); INSERT INTO d.t VALUES (7)`)
	third := w.incremental(t)
	unchanged(third, first, "public")
	for schema, want := range map[string]manifest.Type{"a": manifest.Incremental, "b": manifest.Incremental, "c": manifest.Incremental, "d": manifest.Full} {
		if got := entry(t, third, schema); got.Type != want || got.Timestamp != third.ID {
			t.Errorf("%s: type %s of %s, want %s", schema, got.Type, got.Timestamp, want)
		}
	}
	// Of a, one segment and the one that the new version of the row went to.
	if got := stored(w.open(t, third, "a")); len(got["big"]) > 2 || len(got["big"]) == 0 || len(got["small"]) > 0 || len(got["other"]) > 0 {
		t.Errorf("a: stored anew are %v", got)
	}
	if got := stored(w.open(t, third, "b")); len(got["small"]) != 1 || len(got["big"]) > 0 || len(got["other"]) > 0 {
		t.Errorf("b: stored anew are %v", got)
	}
	w.requireSame(t, third, "a", "b", "c", "d")

	// Definitions alone, a sequence alone, and a dropped tenant.
	w.db.Exec(t, `COMMENT ON TABLE a.small IS 'new'; SELECT nextval('b.small_id_seq'); DROP SCHEMA c CASCADE`)
	fourth := w.incremental(t)
	for _, schema := range []string{"a", "b"} {
		if got := stored(w.open(t, fourth, schema)); len(got) > 0 {
			t.Errorf("%s: stored anew are %v, though no row changed", schema, got)
		}
		if got := len(entry(t, fourth, schema).References); got != 2 {
			t.Errorf("%s refers to %d files, want those of the first and the third backup", schema, got)
		}
	}
	unchanged(fourth, third, "d")
	if slices.ContainsFunc(fourth.Schemas, func(s manifest.Schema) bool { return s.Schema == "c" }) {
		t.Error("the dropped tenant is in the backup")
	}
	w.requireSame(t, fourth, "a", "b", "d")

	// Back to what it was: the segments of the first backup are referred to.
	w.opts.Parent = first.ID
	w.db.Exec(t, `DELETE FROM b.small WHERE v = 'c'`)
	fifth := w.incremental(t)
	if got := stored(w.open(t, fifth, "b")); fifth.Parent != first.ID || len(got) > 0 {
		t.Errorf("built on %s; stored anew are %v", fifth.Parent, got)
	}
	w.requireSame(t, fifth, "a", "b", "d")
}

// stored are the segments of tables that lie in a file itself.
func stored(f *datafile.File) map[string][]manifest.Segment {
	own := map[string][]manifest.Segment{}
	for _, table := range f.Index.Tables {
		for _, g := range table.Segments {
			if f.Index.Frames[g.Pieces[0].Frame].File == 0 {
				own[table.Name] = append(own[table.Name], g)
			}
		}
	}
	return own
}

// TestIncrementalScript gives an incremental file to psql, which must not take
// it for a whole one.
func TestIncrementalScript(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.opts.Compression = datafile.Compression{Algorithm: datafile.None}
	big(t, w.db, "a")
	w.run(t)
	w.db.Exec(t, `INSERT INTO a.other VALUES (4)`)
	m := w.incremental(t)
	target := pgtest.New(t)
	cmd := exec.CommandContext(t.Context(), target.Cluster().Programs.Path("psql"), "-X", "-q", "-f", w.path(t, m, "a"))
	cmd.Env = append(os.Environ(), target.Env()...)
	out, err := cmd.CombinedOutput()
	if err == nil {
		t.Errorf("psql took it: %s", out)
	}
	requireContains(t, string(out), "tenantkeep export")
	if got := target.Query(t, `SELECT count(*)::text FROM pg_namespace WHERE nspname = 'a'`); got[0] != "0" {
		t.Error("psql made the schema")
	}
}

// TestIncrementalZoo builds on a backup of everything that there is.
func TestIncrementalZoo(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.Zoo(t, db, pgtest.ZooOptions{})
	w := setup(t, db)
	first := w.run(t)
	second := w.incremental(t)
	for _, s := range first.Schemas {
		if got := entry(t, second, s.Schema); got.Filepath != s.Filepath {
			t.Errorf("%s was stored again, as %s", s.Schema, got.Filename)
		}
	}
	db.Exec(t, `SELECT lo_put(oid, 0, 'changed') FROM pg_largeobject_metadata ORDER BY oid LIMIT 1`)
	w.opts.Compression = datafile.Compression{Algorithm: datafile.Gzip, Level: 1}
	third := w.incremental(t)
	for _, s := range first.Schemas {
		if got := entry(t, third, s.Schema); (got.Filepath != s.Filepath) != s.IsCore() {
			t.Errorf("%s is in %s", s.Schema, got.Filename)
		}
	}
	core := w.open(t, third, manifest.CoreSchema)
	all := definitions(t, core)
	if !slices.ContainsFunc(all, func(s string) bool {
		return strings.Contains(s, "LARGE OBJECT DATA") && strings.Contains(s, `\x6368616e676564`)
	}) {
		t.Errorf("the changed large object is not in %q", all)
	}
}

// TestReusedDefinitions takes full backups whose definitions did not change.
func TestReusedDefinitions(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.Zoo(t, db, pgtest.ZooOptions{})
	w := setup(t, db)
	first := w.run(t)
	// A pg_dump that cannot be run shows that it is not.
	program := w.opts.PgDump
	broken := filepath.Join(t.TempDir(), "pg_dump")
	must(t, os.WriteFile(broken, []byte("#!/bin/sh\ncase $* in *--version*) exec "+program+" --version;; esac\necho broken >&2\nexit 1\n"), 0o700))
	w.opts.PgDump = broken
	for _, c := range []datafile.Algorithm{datafile.Zstd, datafile.None} {
		w.opts.Compression = datafile.Compression{Algorithm: c}
		m := w.run(t)
		for _, s := range m.Schemas {
			was, is := w.open(t, first, s.Schema), w.open(t, m, s.Schema)
			if s.Type != manifest.Full || s.Timestamp != m.ID || len(s.References) > 0 {
				t.Errorf("%s: %+v is no full backup", s.Schema, s)
			}
			if got, want := definitions(t, is), definitions(t, was); !slices.Equal(got, want) {
				t.Errorf("%s has other definitions than before:\n%q\n%q", s.Schema, got, want)
			}
		}
	}
	w.opts.NoReuseDDL = true
	if _, err := backup.Run(t.Context(), w.opts); err == nil {
		t.Error("with --no-reuse-ddl it did not run pg_dump")
	}
	w.opts.NoReuseDDL = false
	db.Exec(t, `CREATE TABLE zoo_empty.added (id int)`)
	_, err := backup.Run(t.Context(), w.opts)
	var partial *backup.PartialError
	if !errors.As(err, &partial) || len(partial.Failures) != 1 || partial.Failures[0].Schema != "zoo_empty" {
		t.Errorf("got %v, want that just the changed schema failed", err)
	}
}

// definitions are the statements of a file with their SQL, in their order.
func definitions(t *testing.T, f *datafile.File) (all []string) {
	t.Helper()
	must(t, f.ReadStatements())
	for _, s := range f.Index.Statements {
		text, err := f.ReadFrame(s.Frame, nil)
		must(t, err)
		all = append(all, fmt.Sprintf("%s %s %s %s %s: %s", s.Kind, s.Tag, s.Schema, s.Table, s.Role, text[s.Offset:s.Offset+s.Length]))
	}
	return all
}

// TestParents chooses what a backup is built on.
func TestParents(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	big(t, w.db, "a")
	big(t, w.db, "b")

	m := w.incremental(t)
	if m.BackupType != manifest.Full || m.Parent != "" {
		t.Errorf("without an earlier backup it is %s, with the parent %q", m.BackupType, m.Parent)
	}
	requireContains(t, w.told(), "no earlier backup to build on")

	// The newest file is gone: the one before it is built on.
	w.db.Exec(t, `INSERT INTO a.other VALUES (10)`)
	second := w.incremental(t)
	must(t, os.Remove(w.path(t, second, "a")))
	third := w.incremental(t)
	if got := entry(t, third, "a"); got.Type != manifest.Incremental || slices.Contains(got.References, entry(t, second, "a").Filepath) {
		t.Errorf("a is %+v", got)
	}
	requireContains(t, w.told(), "a: nothing can be built on backup "+second.ID)
	w.requireSame(t, third, "a", "b")

	// Its index is broken: it is taken in full.
	path := w.path(t, third, "a")
	b, err := os.ReadFile(path)
	must(t, err)
	b[len(b)-200] ^= 1
	must(t, os.WriteFile(path, b, 0o600))
	w.db.Exec(t, `INSERT INTO a.other VALUES (11)`)
	fourth := w.incremental(t)
	if got := entry(t, fourth, "a"); got.Type != manifest.Full || len(got.References) > 0 {
		t.Errorf("a is %+v", got)
	}
	w.requireSame(t, fourth, "a", "b")

	// Another database's backup is no parent.
	other := setup(t, nil)
	other.opts.Repo = w.opts.Repo
	big(t, other.db, "a")
	if got := other.incremental(t); got.BackupType != manifest.Full {
		t.Errorf("a backup of another database was built on: %+v", got.Schemas)
	}
	other.opts.Type, other.opts.Parent = manifest.Incremental, fourth.ID
	_, err = backup.Run(t.Context(), other.opts)
	var wrong *backup.ParentError
	if !errors.As(err, &wrong) || !strings.Contains(hint(err), "--parent") {
		t.Errorf("got %v, hint %q", err, hint(err))
	}
}

// TestChainsEnd requires that chains of incrementals do not grow without limit.
func TestChainsEnd(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.opts.MaxChain = 2
	big(t, w.db, "a")
	w.run(t)
	for i, want := range []struct {
		typ  manifest.Type
		refs int
	}{{manifest.Incremental, 1}, {manifest.Incremental, 2}, {manifest.Full, 0}, {manifest.Incremental, 1}} {
		// Each adds a table, which its file is then needed for.
		w.db.Exec(t, fmt.Sprintf(`CREATE TABLE a.t%[1]d (id int); INSERT INTO a.t%[1]d VALUES (%[1]d)`, i))
		m := w.incremental(t)
		if got := entry(t, m, "a"); got.Type != want.typ || len(got.References) != want.refs {
			t.Errorf("backup %d is %s with %d references, want %s with %d", i, got.Type, len(got.References), want.typ, want.refs)
		}
	}
	requireContains(t, w.told(), "a: taken in full: it needs 3 files of earlier backups")

	// More than half of the rows are others now.
	w.opts.MaxChain = 0
	w.db.Exec(t, `UPDATE a.big SET v = 'new' || id WHERE id > 15000`)
	m := w.incremental(t)
	if got := entry(t, m, "a"); got.Type != manifest.Incremental {
		t.Errorf("it is %s, want incremental once more", got.Type)
	}
	w.db.Exec(t, `INSERT INTO a.other VALUES (20)`)
	m = w.incremental(t)
	if got := entry(t, m, "a"); got.Type != manifest.Full {
		t.Errorf("it is %s with %v, want full", got.Type, got.References)
	}
	requireContains(t, w.told(), "less than half of the file")
	w.requireSame(t, m, "a")
}

// TestUnchangedBlocks requires that with summaries of the log nothing is read but
// what somebody wrote to.
func TestUnchangedBlocks(t *testing.T) {
	t.Parallel()
	if major := pgtest.Cluster(t).Programs.Major; major < 17 {
		t.Skipf("PostgreSQL %d has no summaries of the write-ahead log, which begin with 17", major)
	}
	cluster := pgtest.StartCluster(t, map[string]string{"summarize_wal": "on", "autovacuum": "off", "checkpoint_timeout": "1h"})
	w := setup(t, pgtest.NewIn(t, cluster))
	for _, name := range []string{"a", "b"} {
		big(t, w.db, name)
	}
	w.db.Exec(t, `CREATE TABLE a.empty (id int); CREATE TABLE a.holes (id int, v text) WITH (fillfactor = 10);
		INSERT INTO a.holes SELECT n, repeat('y', 100) FROM generate_series(1, 40000) n;
		DELETE FROM a.holes WHERE id BETWEEN 10000 AND 30000;
		CREATE UNLOGGED TABLE b.unlogged (id int); INSERT INTO b.unlogged VALUES (1)`)
	// Hints and the like are in the log too, and summaries have no finer step
	// than a checkpoint.
	w.db.Exec(t, `VACUUM FREEZE`)
	w.db.Exec(t, `CHECKPOINT`)
	read := func() int {
		t.Helper()
		n, err := strconv.Atoi(w.db.Query(t, `SELECT sum(seq_tup_read)::text FROM pg_stat_user_tables WHERE schemaname IN ('a', 'b')`)[0])
		must(t, err)
		return n
	}
	first := w.run(t)
	if first.Snapshot.Mark == nil {
		t.Fatal("the backup has no mark")
	}

	before := read()
	second := w.incremental(t)
	if n := read() - before; n > 1 { // the unlogged one
		t.Errorf("%d rows were read, though nobody wrote\n%s", n, w.told())
	}
	for _, s := range first.Schemas {
		if got := entry(t, second, s.Schema); got.Filepath != s.Filepath {
			t.Errorf("%s was stored again as %s", s.Schema, got.Filename)
		}
	}

	w.db.Exec(t, `UPDATE a.big SET v = 'changed' WHERE id = 20000; INSERT INTO a.empty VALUES (1); DELETE FROM a.holes WHERE id = 40000; INSERT INTO b.unlogged VALUES (2)`)
	before = read()
	third := w.incremental(t)
	// Two segments of big at most, one of holes, each read twice at most.
	if n := read() - before; n > 45_000 {
		t.Errorf("%d rows were read for four that changed\n%s", n, w.told())
	}
	w.requireSame(t, third, "a", "b")

	w.opts.Summaries = backup.SummariesOff
	w.opts.Parent = first.ID
	fourth := w.incremental(t)
	for _, s := range fourth.Schemas {
		if got := entry(t, third, s.Schema); got.Content != s.Content || got.Rows != s.Rows || got.Bytes != s.Bytes {
			t.Errorf("%s: what was not read is not what is there: %+v, %+v", s.Schema, got, s)
		}
	}

	// A table that is rewritten, and one that is cut off.
	w.opts.Summaries, w.opts.Parent = "", ""
	w.db.Exec(t, `DELETE FROM a.big WHERE id > 30000; ALTER TABLE b.big ADD COLUMN w int DEFAULT 3`)
	w.db.Exec(t, `VACUUM a.big`)
	w.db.Exec(t, `VACUUM FULL a.holes`)
	w.requireSame(t, w.incremental(t), "a", "b")
}

// TestNoTransactionIDs backs up a server that gives out no transaction ids, as
// one does on the brink of their wraparound: definitions are known by content.
func TestNoTransactionIDs(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	big(t, w.db, "a")
	role := "reader_" + strings.ToLower(t.Name())
	w.db.Exec(t, fmt.Sprintf(`CREATE ROLE %[1]s LOGIN; GRANT pg_read_all_data TO %[1]s;
		REVOKE EXECUTE ON FUNCTION pg_catalog.pg_current_xact_id() FROM PUBLIC`, role))
	w.opts.Server = parse(t, strings.Replace(w.db.URL(), "user=postgres", "user="+role, 1))
	first := w.run(t)
	if first.Snapshot.Seal != "" || !strings.HasPrefix(entry(t, first, "a").Definitions, "tk1:") {
		t.Errorf("the seal is %q, the definitions are known by %q", first.Snapshot.Seal, entry(t, first, "a").Definitions)
	}
	w.db.Exec(t, `INSERT INTO a.other VALUES (4)`)
	second := w.incremental(t)
	if got := entry(t, second, "a"); got.Definitions != entry(t, first, "a").Definitions || got.Type != manifest.Incremental {
		t.Errorf("a is %+v", got)
	}
	w.requireSame(t, second, "a")
}
