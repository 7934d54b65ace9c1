package pg_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgcluster"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

// rangeBlocks is small, so that small tables have several ranges.
const rangeBlocks = 4

var changesOptions = pg.ChangesOptions{Range: rangeBlocks, Wait: 20 * time.Second, Checkpoint: true}

// summarizing starts a cluster that summarizes its log, and skips the test on
// servers that cannot.
func summarizing(t *testing.T) *pgcluster.Cluster {
	t.Helper()
	if major := pgtest.Cluster(t).Programs.Major; major < 17 {
		t.Skipf("PostgreSQL %d has no summaries of the write-ahead log, which begin with 17", major)
	}
	return pgtest.StartCluster(t, map[string]string{
		"summarize_wal": "on", "max_prepared_transactions": "10", "allow_in_place_tablespaces": "on",
		"autovacuum": "off", "wal_writer_delay": "10s", "checkpoint_timeout": "1h",
	})
}

// backedUp is what a backup knows and keeps: its mark, its snapshot, where the
// tables are, and their rows by range of blocks.
type backedUp struct {
	mark  pg.Mark
	xids  string
	heaps map[string]*pg.Heap
	rows  map[string]map[int64]string
}

// take does what a backup does, in its order. inBetween runs while the snapshot
// is held.
func take(t *testing.T, db *pgtest.Database, inBetween func()) *backedUp {
	t.Helper()
	ctx := t.Context()
	other, conn := connect(t, db), connect(t, db)
	defer pg.Close(other)
	defer pg.Close(conn)
	mark, reason, err := pg.TakeMark(ctx, other)
	if err != nil || mark == nil {
		t.Fatalf("no mark: %s, %v", reason, err)
	}
	tx, snapshot, err := pg.ExportSnapshot(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	if mark.Seal, err = pg.MakeSeal(ctx, other); err != nil {
		t.Fatal(err)
	}
	if inBetween != nil {
		inBetween()
	}
	b := &backedUp{mark: kept(t, *mark), xids: snapshot.XIDs, heaps: map[string]*pg.Heap{}, rows: map[string]map[int64]string{}}
	names, err := collect[string](ctx, tx, `SELECT c.oid::text || ' ' || c.relname FROM pg_class c WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace`)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		id, name, _ := strings.Cut(name, " ")
		oid, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			t.Fatal(err)
		}
		heaps, err := pg.ReadHeaps(ctx, tx, []uint32{uint32(oid)})
		if err != nil {
			t.Fatal(err)
		}
		if h, ok := heaps[uint32(oid)]; ok {
			h := pg.Heap(manifest.Heap(h))
			b.heaps[name] = &h
		}
		lines, err := collect[string](ctx, tx, fmt.Sprintf(`
			SELECT block || ' ' || md5(string_agg(line, E'\n' ORDER BY line))
			FROM (SELECT (ctid::text::point)[0]::int8 / %d AS block, t::text AS line FROM ONLY public.%s t) AS rows GROUP BY block`, rangeBlocks, name))
		if err != nil {
			t.Fatal(err)
		}
		b.rows[name] = map[int64]string{}
		for _, line := range lines {
			n, digest, _ := strings.Cut(line, " ")
			block, err := strconv.ParseInt(n, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			b.rows[name][block] = digest
		}
	}
	if err := tx.Rollback(ctx); err != nil {
		t.Fatal(err)
	}
	return b
}

// kept is a mark that has been in a manifest.
func kept(t *testing.T, m pg.Mark) pg.Mark {
	t.Helper()
	text, err := json.Marshal(manifest.Mark(m))
	if err != nil {
		t.Fatal(err)
	}
	var back manifest.Mark
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	return pg.Mark(back)
}

func collect[T any](ctx context.Context, q pg.Querier, sql string, args ...any) ([]T, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[T])
}

func (b *backedUp) since(older ...*backedUp) pg.Since {
	s := pg.Since{Snapshot: b.xids, Mark: &b.mark}
	for _, o := range older {
		s.Older = append(s.Older, o.mark)
	}
	return s
}

// next takes a backup and asks what has changed since another one.
func next(t *testing.T, db *pgtest.Database, since pg.Since) (*backedUp, *pg.ChangedBlocks, string) {
	t.Helper()
	var changed *pg.ChangedBlocks
	var reason string
	b := take(t, db, func() {
		conn := connect(t, db)
		defer pg.Close(conn)
		var err error
		changed, reason, err = pg.ReadChangedBlocks(t.Context(), conn, since, changesOptions)
		if err != nil {
			t.Fatal(err)
		}
	})
	return b, changed, reason
}

// requireSound fails if a range is called unchanged that has other rows.
func requireSound(t *testing.T, before, now *backedUp, changed *pg.ChangedBlocks) {
	t.Helper()
	if missed := missed(before, now, changed); len(missed) > 0 {
		t.Fatalf("changed, but said to be unchanged: %s", strings.Join(missed, ", "))
	}
}

func missed(before, now *backedUp, changed *pg.ChangedBlocks) (missed []string) {
	for name, rows := range now.rows {
		was := before.rows[name]
		all := maps.Clone(rows)
		maps.Copy(all, was)
		for n := range all {
			if rows[n] == was[n] {
				continue
			}
			first := n * rangeBlocks
			if changed.Unchanged(before.heaps[name], now.heaps[name], first, first+rangeBlocks) {
				missed = append(missed, fmt.Sprintf("%s from block %d", name, first))
			}
			for open := range n + 1 {
				if changed.Unchanged(before.heaps[name], now.heaps[name], open*rangeBlocks, 0) {
					missed = append(missed, fmt.Sprintf("%s from block %d on", name, open*rangeBlocks))
				}
			}
		}
	}
	return missed
}

// whole reports whether a table is said to be unchanged.
func whole(before, now *backedUp, changed *pg.ChangedBlocks, name string) bool {
	return changed.Unchanged(before.heaps[name], now.heaps[name], 0, 0)
}

// settle leaves nothing to be written by those who only read, such as hints that
// a transaction has committed, and begins a new summary.
func settle(t *testing.T, db *pgtest.Database) {
	t.Helper()
	db.Exec(t, "CHECKPOINT", "VACUUM", "CHECKPOINT") // before the commit is on disk there are no hints
}

const someTables = `
	DROP SCHEMA IF EXISTS public CASCADE;
	CREATE SCHEMA public;
	CREATE TYPE public.mood AS ENUM ('sad', 'glad');
	CREATE DOMAIN public.feeling AS public.mood;
	CREATE TYPE public.pair AS (a int, b text);
	CREATE TYPE public.span AS RANGE (subtype = int8);
	CREATE TABLE public.t (id int PRIMARY KEY, note text, big text, m public.mood[] DEFAULT '{sad}', p public.pair DEFAULT (1, 'x'));
	ALTER TABLE public.t ALTER big SET STORAGE EXTERNAL;
	INSERT INTO public.t SELECT i, repeat('note ' || i, 30), repeat('b', 3000) FROM generate_series(1, 300) i;
	CREATE TABLE public.still (id int, s public.span, note text);
	INSERT INTO public.still SELECT i, '[1,5)', repeat('s', 100) FROM generate_series(1, 300) i;
	CREATE TABLE public.felt (f public.feeling);
	INSERT INTO public.felt VALUES ('glad');`

// TestChanges has one server for tests that must not run at once, because a
// transaction that is open anywhere on the server concerns them all.
func TestChanges(t *testing.T) {
	t.Parallel()
	cluster := summarizing(t)
	for name, test := range map[string]func(*testing.T, *pgcluster.Cluster){
		"blocks": testChangedBlocks, "ranges": testChangedRanges, "open transactions": testOpenTransactions,
		"any role": testChangesForAnyRole, "database made again": testDatabaseMadeAgain, "under load": testChangesUnderLoad,
	} {
		t.Run(name, func(t *testing.T) { test(t, cluster) })
	}
}

// testChangedBlocks changes a table in every way that there is. Each subtest
// finds the same tables.
func testChangedBlocks(t *testing.T, cluster *pgcluster.Cluster) {
	db := pgtest.NewIn(t, cluster)
	for _, test := range []struct {
		name    string
		sql     []string
		changed string // tables, without which nothing may be called changed
		before  string
	}{
		{name: "nothing"},
		{name: "insert", sql: []string{"INSERT INTO public.t VALUES (0, 'new')"}, changed: "t"},
		{name: "update", sql: []string{"UPDATE public.t SET note = 'other' WHERE id = 150"}, changed: "t"},
		{name: "delete", sql: []string{"DELETE FROM public.t WHERE id = 150"}, changed: "t"},
		{name: "update of a value stored apart", sql: []string{"UPDATE public.t SET big = repeat('c', 3000) WHERE id = 150"}, changed: "t"},
		{name: "commit without waiting for the disk", sql: []string{"CHECKPOINT", "SET synchronous_commit = off; UPDATE public.t SET note = 'async' WHERE id = 300"}, changed: "t"},
		{name: "rolled back", sql: []string{"BEGIN; UPDATE public.t SET note = 'never'; ROLLBACK"}, changed: "t"},
		{name: "only locked", sql: []string{"BEGIN; SELECT FROM public.t WHERE id = 1 FOR SHARE; SAVEPOINT a; UPDATE public.t SET note = 'x' WHERE id = 2; COMMIT"}, changed: "t"},
		{name: "vacuum", before: "DELETE FROM public.t WHERE id % 2 = 0", sql: []string{"VACUUM (FREEZE) public.t"}, changed: "t"},
		{name: "end cut off", sql: []string{"DELETE FROM public.t WHERE id > 150", "VACUUM public.t"}, changed: "t"},
		{name: "end cut off and grown again", sql: []string{
			"DELETE FROM public.t WHERE id > 150", "VACUUM public.t", "CHECKPOINT", "INSERT INTO public.t SELECT i, 'other ' || i FROM generate_series(151, 300) i",
		}, changed: "t"},
		{name: "truncate", sql: []string{"TRUNCATE public.t"}, changed: "t"},
		{name: "truncate and the same rows", sql: []string{
			"CREATE TEMP TABLE c AS TABLE public.t; BEGIN; TRUNCATE public.t; INSERT INTO public.t TABLE c; COMMIT",
		}, changed: "t"},
		{name: "vacuum full", sql: []string{"VACUUM FULL public.t"}, changed: "t"},
		{name: "cluster", sql: []string{"CLUSTER public.t USING t_pkey"}, changed: "t"},
		{name: "rewritten", sql: []string{"ALTER TABLE public.t ALTER id TYPE int8"}, changed: "t"},
		{name: "unlogged and back", sql: []string{"ALTER TABLE public.t SET UNLOGGED", "UPDATE public.t SET note = 'unlogged'", "ALTER TABLE public.t SET LOGGED"}, changed: "t"},
		{name: "unlogged", sql: []string{"ALTER TABLE public.t SET UNLOGGED"}, changed: "t"},
		{name: "other tablespace", sql: []string{"CREATE TABLESPACE other LOCATION ''", "ALTER TABLE public.t SET TABLESPACE other"}, changed: "t"},
		{name: "dropped and made again", sql: []string{"DROP TABLE public.t", "CREATE TABLE public.t (id int PRIMARY KEY, note text)"}, changed: "t"},
		{name: "files exchanged", sql: []string{
			"CREATE TABLE public.u (LIKE public.t)", "INSERT INTO public.u (id) VALUES (7)", "ALTER TABLE public.t RENAME TO o; ALTER TABLE public.u RENAME TO t",
		}, changed: "o t"}, // o is a name that the earlier backup does not have
		{name: "column with a default that no row has", sql: []string{"ALTER TABLE public.t ADD note2 text DEFAULT 'fast'"}, changed: "t"},
		{name: "column dropped", sql: []string{"ALTER TABLE public.t DROP note"}, changed: "t"},
		{name: "type exchanged for one stored alike", sql: []string{"ALTER TABLE public.t ALTER note TYPE varchar"}, changed: "t"},
		{name: "label renamed", sql: []string{"ALTER TYPE public.mood RENAME VALUE 'sad' TO 'blue'"}, changed: "felt t"},
		{name: "label renamed and back", sql: []string{"ALTER TYPE public.mood RENAME VALUE 'sad' TO 'blue'", "ALTER TYPE public.mood RENAME VALUE 'blue' TO 'sad'"}, changed: "felt t"},
		{name: "attribute added to a composite type", sql: []string{"ALTER TYPE public.pair ADD ATTRIBUTE c int"}, changed: "t"},
		{name: "index", sql: []string{"CREATE INDEX ON public.t (note)", "REINDEX TABLE public.t"}},
		{name: "statistics", sql: []string{"ANALYZE public.t"}},
		{name: "grant", sql: []string{"GRANT SELECT ON public.t TO PUBLIC", "COMMENT ON TABLE public.t IS 'x'"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			db.Exec(t, someTables)
			settle(t, db)
			db.Exec(t, test.before, "CHECKPOINT")
			before := take(t, db, nil)
			db.Exec(t, test.sql...)
			now, changed, reason := next(t, db, before.since())
			if changed == nil {
				t.Fatalf("everything is to be read: %s", reason)
			}
			requireSound(t, before, now, changed)
			for name := range now.rows {
				want := !slices.Contains(strings.Fields(test.changed), name)
				if got := whole(before, now, changed, name); got != want {
					t.Errorf("%s unchanged: %t, want %t", name, got, want)
				}
			}
		})
	}
}

// testChangedRanges changes single blocks of a table and makes it longer.
func testChangedRanges(t *testing.T, cluster *pgcluster.Cluster) {
	db := pgtest.NewIn(t, cluster)
	db.Exec(t, `CREATE TABLE public.t (id int, filler text DEFAULT repeat('x', 1500)) WITH (fillfactor = 60);
		INSERT INTO public.t SELECT generate_series(0, 119)`)
	settle(t, db)
	before := take(t, db, nil)
	db.Exec(t, `UPDATE public.t SET filler = upper(filler) WHERE ctid = '(5,1)'`, "CHECKPOINT",
		`UPDATE public.t SET filler = upper(filler) WHERE ctid = '(21,1)'`, `INSERT INTO public.t SELECT generate_series(1000, 1020)`)
	now, changed, reason := next(t, db, before.since())
	if changed == nil {
		t.Fatal(reason)
	}
	requireSound(t, before, now, changed)
	blocks := db.Query(t, `SELECT pg_relation_size('public.t') / 8192`)[0]
	end, err := strconv.ParseInt(blocks, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	var got []int64
	for first := int64(0); first < end; first += rangeBlocks {
		if !changed.Unchanged(before.heaps["t"], now.heaps["t"], first, first+rangeBlocks) {
			got = append(got, first)
		}
	}
	if want := []int64{4, 20, 40, 44}; !slices.Equal(got, want) {
		t.Errorf("ranges from %d of %d blocks are changed, want %d", got, end, want)
	}
	if !changed.Unchanged(before.heaps["t"], now.heaps["t"], 24, 40) || changed.Unchanged(before.heaps["t"], now.heaps["t"], 24, 0) {
		t.Error("blocks 24 to 40 are the same, those from 24 on are not")
	}
	var none *pg.ChangedBlocks
	if none.Unchanged(before.heaps["t"], now.heaps["t"], 24, 40) || changed.Unchanged(nil, nil, 24, 40) {
		t.Error("without knowledge something is unchanged")
	}
}

// testOpenTransactions has a transaction that writes before a backup and commits
// after it. No block of its rows is in the log after the backup.
func testOpenTransactions(t *testing.T, cluster *pgcluster.Cluster) {
	db := pgtest.NewIn(t, cluster)
	const insert = "INSERT INTO public.t (id, note) VALUES (0, 'unseen')"
	many := strings.Repeat("SAVEPOINT s; UPDATE public.t SET note = note || '.' WHERE id = 7; RELEASE s;", 100)
	for _, test := range []struct{ name, write, end string }{
		{"insert", "BEGIN;" + insert, "COMMIT"},
		{"delete", "BEGIN; DELETE FROM public.t WHERE id = 5", "COMMIT"},
		{"update of locked rows", "BEGIN; SELECT FROM public.t FOR SHARE; UPDATE public.t SET note = '' WHERE id = 5", "COMMIT"},
		{"subtransaction", "BEGIN; SELECT pg_current_xact_id(); SAVEPOINT a;" + insert + "; SAVEPOINT b; UPDATE public.t SET note = 'b' WHERE id = 1; RELEASE a", "COMMIT"},
		{"more subtransactions than a snapshot lists", "BEGIN;" + many, "COMMIT"},
		{"prepared", "BEGIN;" + insert + "; PREPARE TRANSACTION 'p'", "COMMIT PREPARED 'p'"},
		{"prepared after the mark", "BEGIN;" + insert, "PREPARE TRANSACTION 'p'; COMMIT PREPARED 'p'"},
	} {
		t.Run(test.name, func(t *testing.T) {
			db.Exec(t, someTables)
			settle(t, db)
			older := take(t, db, nil)
			session := connect(t, db)
			run := func(sql string) {
				t.Helper()
				for statement := range strings.SplitSeq(sql, ";") {
					if _, err := session.Exec(t.Context(), statement); err != nil {
						t.Fatal(err)
					}
				}
			}
			run(test.write)
			db.Exec(t, "CHECKPOINT") // the next summary begins after what was written
			before := take(t, db, nil)
			run(test.end)
			// The trap is one: from the moment of the snapshot on, which is where the
			// xmin, or the xmax, of the snapshot as next id leads to, nothing is logged.
			naive := *before
			naive.mark.XID, _, _ = strings.Cut(before.xids, ":")
			now, changed, reason := next(t, db, naive.since())
			if changed == nil {
				t.Fatal(reason)
			}
			if len(missed(before, now, changed)) == 0 {
				t.Error("nothing is missed from the snapshot on: the test shows nothing")
			}
			if _, changed, reason := next(t, db, before.since()); changed != nil || !strings.Contains(reason, "older than all marks") {
				t.Fatalf("changes are told from the backup's own mark on: %q", reason)
			}
			if now, changed, reason = next(t, db, before.since(before, older)); changed == nil {
				t.Fatal(reason)
			}
			requireSound(t, before, now, changed)
			if whole(before, now, changed, "t") || !whole(before, now, changed, "still") {
				t.Errorf("unchanged: t %t, still %t", whole(before, now, changed, "t"), whole(before, now, changed, "still"))
			}
		})
	}
}

// TestMissingSummaries takes summaries away, damages them, and stops those who
// write them.
func TestMissingSummaries(t *testing.T) {
	t.Parallel()
	cluster := summarizing(t)
	db := pgtest.NewIn(t, cluster)
	db.Exec(t, someTables)
	dir := filepath.Join(cluster.DataDir(), "pg_wal", "summaries")
	between := func(from, to *backedUp) string {
		t.Helper()
		names := db.Query(t, `SELECT format('%s%s%s.summary', lpad(to_hex(tli), 8, '0'), hex(start_lsn), hex(end_lsn))
			FROM pg_available_wal_summaries(),
			LATERAL (SELECT 1) x WHERE start_lsn > $1::pg_lsn AND end_lsn < $2::pg_lsn`, from.mark.LSN, to.mark.LSN)
		if len(names) == 0 {
			t.Fatal("no summary lies between two backups")
		}
		return filepath.Join(dir, strings.ToUpper(strings.TrimSuffix(names[0], ".summary"))+".summary")
	}
	db.Exec(t, `CREATE FUNCTION pg_catalog.hex(pg_lsn) RETURNS text LANGUAGE sql AS $$
		SELECT string_agg(lpad(part, 8, '0'), '') FROM string_to_table($1::text, '/') part $$`)
	ask := func(since pg.Since, opts pg.ChangesOptions) (*pg.ChangedBlocks, string) {
		t.Helper()
		changed, reason, err := pg.ReadChangedBlocks(t.Context(), connect(t, db), since, opts)
		if err != nil {
			t.Fatal(err)
		}
		return changed, reason
	}
	refuse := func(since pg.Since, opts pg.ChangesOptions, why string) {
		t.Helper()
		if changed, reason := ask(since, opts); changed != nil || !strings.Contains(reason, why) {
			t.Errorf("the reason is %q, want %q", reason, why)
		}
	}
	write := "UPDATE public.t SET note = note || '!'"
	step := func() *backedUp {
		t.Helper()
		db.Exec(t, "CHECKPOINT", write, "CHECKPOINT", write, "CHECKPOINT")
		b := take(t, db, nil)
		if changed, reason := ask(b.since(), changesOptions); changed == nil {
			t.Fatal(reason)
		}
		return b
	}
	first := step()
	second := step()
	file := between(first, second)
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/2] ^= 1
	if err := os.WriteFile(file, content, info.Mode()); err != nil {
		t.Fatal(err)
	}
	refuse(first.since(), changesOptions, "read summaries")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	refuse(first.since(), changesOptions, "there is no summary")
	if changed, reason := ask(second.since(), changesOptions); changed == nil {
		t.Errorf("summaries after the gap are enough: %s", reason)
	}

	// The summarizer is behind, and nobody asks for a checkpoint.
	third := step()
	pid, err := strconv.Atoi(db.Query(t, "SELECT summarizer_pid FROM pg_get_wal_summarizer_state()")[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	goOn := sync.OnceValue(func() error { return syscall.Kill(pid, syscall.SIGCONT) })
	defer goOn()
	db.Exec(t, write)
	short := changesOptions
	short.Wait = 100 * time.Millisecond
	refuse(third.since(), short, "in time")
	if err := goOn(); err != nil {
		t.Fatal(err)
	}
	if changed, reason := ask(third.since(), changesOptions); changed == nil {
		t.Error(reason)
	}
	short.Checkpoint = false
	db.Exec(t, write)
	refuse(third.since(), short, "in time")

	// Switched off for as long as it takes until the log is gone.
	fourth := step()
	db.Exec(t, "ALTER SYSTEM SET summarize_wal = off", "SELECT pg_reload_conf()")
	await(t, db, "SELECT summarizer_pid IS NULL FROM pg_get_wal_summarizer_state()")
	refuse(fourth.since(), changesOptions, "summarize_wal is off")
	if mark, reason, err := pg.TakeMark(t.Context(), connect(t, db)); mark != nil || err != nil || !strings.Contains(reason, "summarize_wal is off") {
		t.Errorf("a mark without summaries: %v, %q, %v", mark, reason, err)
	}
	oldest := db.Query(t, "SELECT pg_walfile_name($1::pg_lsn)", fourth.mark.LSN)[0]
	for range 3 {
		db.Exec(t, write, "SELECT pg_switch_wal()", "CHECKPOINT")
	}
	if _, err := os.Stat(filepath.Join(cluster.DataDir(), "pg_wal", oldest)); err == nil {
		t.Fatalf("the log %s is still there", oldest)
	}
	db.Exec(t, "ALTER SYSTEM SET summarize_wal = on", "SELECT pg_reload_conf()")
	await(t, db, "SELECT summarizer_pid IS NOT NULL FROM pg_get_wal_summarizer_state()")
	refuse(fourth.since(), changesOptions, "there is no summary")
	step()

	// A summary of a log that this server has not written yet.
	name := filepath.Base(between(third, fourth))
	run(t, "cp", "-a", filepath.Join(dir, name), filepath.Join(dir, name[:24]+"0000000900000000.summary"))
	if mark, reason, err := pg.TakeMark(t.Context(), connect(t, db)); mark != nil || err != nil || !strings.Contains(reason, "9/0") {
		t.Errorf("a mark: %v, %q, %v", mark, reason, err)
	}
}

// await waits until a query gives true.
func await(t *testing.T, db *pgtest.Database, sql string) {
	t.Helper()
	conn := db.Conn(t)
	for {
		var done bool
		if err := conn.QueryRow(t.Context(), sql).Scan(&done); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		if done {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// testChangesForAnyRole reads changes as a role without rights: it cannot make
// the server summarize, but it can wait for it.
func testChangesForAnyRole(t *testing.T, cluster *pgcluster.Cluster) {
	db := pgtest.NewIn(t, cluster)
	db.Exec(t, someTables, "CREATE ROLE low LOGIN")
	s, err := pg.Parse(strings.Replace(db.URL(), "user=postgres", "user=low", 1))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := s.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close(conn)
	mark, reason, err := pg.TakeMark(t.Context(), conn)
	if mark == nil {
		t.Fatal(reason, err)
	}
	xids := db.Query(t, "SELECT pg_current_snapshot()")[0]
	if mark.Seal, err = pg.MakeSeal(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	since, opts := pg.Since{Snapshot: xids, Mark: mark}, changesOptions
	opts.Wait = 50 * time.Millisecond
	changed, reason, err := pg.ReadChangedBlocks(t.Context(), conn, since, opts)
	if changed != nil || err != nil || !strings.Contains(reason, "GRANT pg_checkpoint") {
		t.Errorf("the reason is %q (%v)", reason, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		db.Exec(t, "CHECKPOINT")
	}()
	opts.Wait, opts.Checkpoint = 20*time.Second, false
	if changed, reason, err = pg.ReadChangedBlocks(t.Context(), conn, since, opts); changed == nil {
		// The checkpoint may have been before the position was read.
		db.Exec(t, "CHECKPOINT")
		t.Error(reason, err)
	}
	<-done
	db.Exec(t, "GRANT pg_checkpoint TO low", "UPDATE public.t SET note = ''")
	if changed, reason, err = pg.ReadChangedBlocks(t.Context(), conn, since, changesOptions); changed == nil {
		t.Error(reason, err)
	}
	if _, err := conn.Exec(t.Context(), "BEGIN"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := pg.TakeMark(t.Context(), conn); err == nil {
		t.Error("a mark is taken in a transaction, whose id may be older")
	}
	if _, err := pg.MakeSeal(t.Context(), conn); err == nil {
		t.Error("a mark is sealed in a transaction, which has one end only")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := pg.ReadChangedBlocks(ctx, connect(t, db), since, changesOptions); err == nil {
		t.Error("a run that is to end reads everything instead")
	}
}

// TestOtherHistory puts the server back, crashes it, and sends it into another
// future: whatever it says of itself, it is not the server that was backed up.
func TestOtherHistory(t *testing.T) {
	t.Parallel()
	cluster := summarizing(t)
	db := pgtest.NewIn(t, cluster)
	db.Exec(t, someTables)
	started := func() time.Time {
		t.Helper()
		var at time.Time
		if err := db.Conn(t).QueryRow(t.Context(), "SELECT pg_postmaster_start_time()").Scan(&at); err != nil {
			t.Fatal(err)
		}
		return at
	}
	// refused asks twice: as it is, and as if the server had never stopped.
	refused := func(before *backedUp, plainly, otherwise string) {
		t.Helper()
		_, changed, reason := next(t, db, before.since())
		if changed != nil || !strings.Contains(reason, plainly) {
			t.Errorf("the reason is %q, want %q", reason, plainly)
		}
		forged := *before
		forged.mark.Started = started()
		now, changed, reason := next(t, db, forged.since())
		if changed != nil {
			t.Errorf("changes are told; missed: %v", missed(before, now, changed))
		} else if !strings.Contains(reason, otherwise) {
			t.Errorf("the other reason is %q, want %q", reason, otherwise)
		}
		if before.mark.Timeline != now.mark.Timeline {
			return
		}
		fresh := take(t, db, nil)
		fresh.mark.XID = strconv.FormatUint(math.MaxUint64, 10)
		older := fresh.since(&forged)
		older.Snapshot = forged.mark.XID + "::"
		if _, changed, _ := next(t, db, older); changed != nil {
			t.Error("a mark of another history is used")
		}
	}
	restart := func(settings map[string]string) {
		t.Helper()
		if err := cluster.Restart(t.Context(), settings); err != nil {
			t.Fatal(err)
		}
	}

	t.Run("restart", func(t *testing.T) {
		before := take(t, db, nil)
		restart(nil)
		if _, changed, reason := next(t, db, before.since()); changed != nil || !strings.Contains(reason, "started anew") {
			t.Errorf("the reason is %q", reason)
		}
		// The server did not lose anything, so that the seal holds.
		before.mark.Started = started()
		now, changed, reason := next(t, db, before.since())
		if changed == nil {
			t.Fatal(reason)
		}
		requireSound(t, before, now, changed)
	})

	t.Run("killed", func(t *testing.T) {
		before := take(t, db, nil)
		if err := cluster.Kill(); err != nil {
			t.Fatal(err)
		}
		restart(nil)
		if _, changed, reason := next(t, db, before.since()); changed != nil || !strings.Contains(reason, "started anew") {
			t.Errorf("the reason is %q", reason)
		}
	})

	t.Run("session killed", func(t *testing.T) {
		// The server recovers by itself then, without a new time of its start, and
		// loses what was not yet on disk. The backup has seen it.
		var before *backedUp
		for lost := false; !lost; { // unless the server was just writing anyway
			db.Exec(t, "UPDATE public.t SET note = 'kept' WHERE id = 3", "CHECKPOINT")
			db.Exec(t, "SET synchronous_commit = off; UPDATE public.t SET note = 'lost' WHERE id = 3")
			before = take(t, db, nil)
			at := started()
			crash(t, db)
			if !started().Equal(at) {
				t.Fatal("the server was started anew")
			}
			lost = db.Query(t, "SELECT note FROM public.t WHERE id = 3")[0] == "kept"
		}
		for range 100 { // as many transactions as the backup's seal has, and more
			db.Exec(t, "UPDATE public.felt SET f = 'sad'")
		}
		refused(before, "does not know the transactions", "does not know the transactions")
	})

	t.Run("put back", func(t *testing.T) {
		saved := cluster.DataDir() + ".saved"
		if err := cluster.Stop(pgcluster.Fast); err != nil {
			t.Fatal(err)
		}
		run(t, "cp", "-a", cluster.DataDir(), saved)
		restart(nil)
		for range 5 {
			db.Exec(t, "UPDATE public.t SET note = 'in the first future'")
		}
		before := take(t, db, nil)
		if err := cluster.Stop(pgcluster.Fast); err != nil {
			t.Fatal(err)
		}
		run(t, "rm", "-r", cluster.DataDir())
		run(t, "mv", saved, cluster.DataDir())
		restart(nil)
		refused(before, "started anew", "is at")
		for range 100 {
			db.Exec(t, "UPDATE public.felt SET f = 'glad'")
		}
		for range 10 {
			db.Exec(t, "UPDATE public.t SET note = 'in the second future'")
		}
		refused(before, "started anew", "does not know the transactions")
	})

	t.Run("wal_level minimal", func(t *testing.T) {
		before := take(t, db, nil)
		restart(map[string]string{"wal_level": "minimal", "max_wal_senders": "0", "summarize_wal": "off"})
		db.Exec(t, "BEGIN; CREATE TABLE public.copied (a int); INSERT INTO public.copied SELECT generate_series(1, 10000); COMMIT")
		restart(map[string]string{"wal_level": "replica", "summarize_wal": "on"})
		refused(before, "started anew", "there is no summary")
	})

	t.Run("log reset", func(t *testing.T) {
		before := take(t, db, nil)
		if err := cluster.Stop(pgcluster.Fast); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(cluster.DataDir())
		if err != nil {
			t.Fatal(err)
		}
		reset := exec.CommandContext(t.Context(), cluster.Programs.Path("pg_resetwal"), "-D", cluster.DataDir())
		reset.Dir = cluster.Dir()
		if owner, ok := info.Sys().(*syscall.Stat_t); ok && os.Getuid() == 0 {
			reset.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
		}
		if out, err := reset.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		restart(nil)
		refused(before, "started anew", "there is no summary")
	})

	t.Run("promoted", func(t *testing.T) {
		before := take(t, db, nil)
		if err := cluster.Stop(pgcluster.Fast); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(cluster.DataDir(), "standby.signal"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		run(t, "chown", "--reference="+cluster.DataDir(), filepath.Join(cluster.DataDir(), "standby.signal"))
		restart(nil)
		if mark, reason, err := pg.TakeMark(t.Context(), connect(t, db)); mark != nil || err != nil || !strings.Contains(reason, "standby") {
			t.Errorf("a standby gives a mark: %v, %q, %v", mark, reason, err)
		}
		db.Exec(t, "SELECT pg_promote()")
		refused(before, "timeline", "timeline")
	})
}

// crash kills a session, and waits until the server has recovered.
func crash(t *testing.T, db *pgtest.Database) {
	t.Helper()
	victim, witness := db.Conn(t), db.Conn(t)
	if err := syscall.Kill(int(victim.PgConn().PID()), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for witness.Ping(t.Context()) == nil {
		continue // until the server has noticed, and ended all others
	}
	for {
		conn, err := pgx.Connect(t.Context(), db.URL())
		if err == nil {
			_ = conn.Close(t.Context())
			return
		}
		if t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
}

// testDatabaseMadeAgain drops a database and makes one with its OID from another,
// by copying files: the log does not say a word about their blocks.
func testDatabaseMadeAgain(t *testing.T, cluster *pgcluster.Cluster) {
	db, copied, admin := pgtest.NewIn(t, cluster), pgtest.NewIn(t, cluster), pgtest.NewIn(t, cluster)
	db.Exec(t, someTables)
	name, other := pg.Identifier(db.Name), pg.Identifier(copied.Name)
	admin.Exec(t, "DROP DATABASE "+other, "CREATE DATABASE "+other+" TEMPLATE "+name)
	oid := admin.Query(t, "SELECT oid FROM pg_database WHERE datname = $1", db.Name)[0]
	copied.Exec(t, "UPDATE public.t SET note = 'of the copy'", "CHECKPOINT")
	before := take(t, db, nil)
	admin.Exec(t, "DROP DATABASE "+name, "CREATE DATABASE "+name+" OID = "+oid+" TEMPLATE "+other+" STRATEGY file_copy")
	now, changed, reason := next(t, db, before.since())
	if changed == nil {
		t.Fatal(reason)
	}
	if *before.heaps["t"] != *now.heaps["t"] {
		t.Errorf("the files are told apart by name (%v and %v): the test shows nothing", before.heaps["t"], now.heaps["t"])
	}
	requireSound(t, before, now, changed)
	if whole(before, now, changed, "still") {
		t.Error("a table of the new database is unchanged")
	}
}

// TestReadHeaps leaves out tables whose rows may look different without a write.
func TestReadHeaps(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	if major := db.Cluster().Programs.Major; major < 17 {
		t.Skipf("PostgreSQL %d has no summaries of the write-ahead log, which begin with 17", major)
	}
	db.Exec(t, `
		CREATE TYPE public.mytext; -- like citext
		CREATE FUNCTION public.mytextin(cstring) RETURNS public.mytext LANGUAGE internal STRICT IMMUTABLE AS 'textin';
		CREATE FUNCTION public.mytextout(public.mytext) RETURNS cstring LANGUAGE internal STRICT IMMUTABLE AS 'textout';
		CREATE TYPE public.mytext (INPUT = public.mytextin, OUTPUT = public.mytextout, LIKE = text);
		CREATE TYPE public.myoid;
		CREATE FUNCTION public.myoidin(cstring) RETURNS public.myoid LANGUAGE internal STRICT IMMUTABLE AS 'regclassin';
		CREATE FUNCTION public.myoidout(public.myoid) RETURNS cstring LANGUAGE internal STRICT IMMUTABLE AS 'regclassout';
		CREATE TYPE public.myoid (INPUT = public.myoidin, OUTPUT = public.myoidout, LIKE = oid);
		CREATE DOMAIN public.price AS money;
		CREATE TYPE public.item AS (name text, price public.price);
		CREATE SCHEMA plain; CREATE SCHEMA doubtful;
		CREATE TABLE plain.nothing ();
		CREATE TABLE plain.all_of_it (a int, b bigint[], c text, d varchar(10), e numeric, f timestamptz, g jsonb, h uuid, i inet, j interval, k bytea, l public.mytext,
			m int4range, n nummultirange, o date, p boolean, q tsvector, r point, s xml, t real, u json, v time, w bit(3), x "char", y name, z char(3));
		CREATE TABLE plain.dropped (a int, b money); ALTER TABLE plain.dropped DROP b;
		CREATE TABLE doubtful.a (x regclass);
		CREATE TABLE doubtful.b (x regrole[]);
		CREATE TABLE doubtful.c (x public.item[]);
		CREATE TABLE doubtful.d (x aclitem);
		CREATE TABLE doubtful.e (x public.myoid);
		CREATE UNLOGGED TABLE doubtful.f (x int);
		CREATE TABLE doubtful.g (x int) PARTITION BY LIST (x)`)
	conn := connect(t, db)
	oids, err := collect[uint32](t.Context(), conn, `SELECT c.oid FROM pg_class c WHERE relnamespace IN ('plain'::regnamespace, 'doubtful'::regnamespace)`)
	if err != nil {
		t.Fatal(err)
	}
	heaps, err := pg.ReadHeaps(t.Context(), conn, oids)
	if err != nil {
		t.Fatal(err)
	}
	names := db.Query(t, "SELECT oid::regclass FROM pg_class WHERE oid = ANY($1::oid[]) ORDER BY 1", slices.Collect(maps.Keys(heaps)))
	if want := []string{"plain.nothing", "plain.all_of_it", "plain.dropped"}; !slices.Equal(names, want) {
		t.Errorf("known are %q, want %q", names, want)
	}
}

// testChangesUnderLoad takes backups while sessions write in all ways at once,
// and looks at every pair of them.
func testChangesUnderLoad(t *testing.T, cluster *pgcluster.Cluster) {
	db := pgtest.NewIn(t, cluster)
	const tables, backups, writers = 6, 6, 4
	for n := range tables {
		db.Exec(t, fmt.Sprintf(`CREATE TABLE public.t%d (id int, note text DEFAULT repeat('x', 200)); INSERT INTO public.t%[1]d SELECT generate_series(1, 2000)`, n))
	}
	settle(t, db)
	ctx, stop := context.WithCancel(t.Context())
	var writing sync.WaitGroup
	for n := range writers {
		conn := db.Conn(t)
		random := rand.New(rand.NewPCG(uint64(n), 1))
		writing.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				table := fmt.Sprintf("public.t%d", random.IntN(tables-1))
				change := []string{
					fmt.Sprintf("UPDATE %s SET note = note || '%d' WHERE id = %d", table, i, random.IntN(2000)),
					fmt.Sprintf("DELETE FROM %s WHERE id BETWEEN %d AND 2000", table, 1900+random.IntN(100)),
					fmt.Sprintf("INSERT INTO %s SELECT generate_series(1900, 1900 + %d)", table, random.IntN(100)),
					fmt.Sprintf("SELECT FROM %s WHERE id < %d FOR SHARE", table, random.IntN(10)),
				}
				var script string
				switch gid := fmt.Sprintf("'w%d_%d'", n, i); random.IntN(6) {
				case 0:
					script = "BEGIN;" + change[0] + "; PREPARE TRANSACTION " + gid + "; SELECT pg_sleep(0.01); COMMIT PREPARED " + gid
				case 1:
					script = "BEGIN;" + change[random.IntN(4)] + "; SAVEPOINT a;" + change[random.IntN(4)] + "; ROLLBACK TO a; SAVEPOINT b;" + change[random.IntN(4)] + "; SELECT pg_sleep(0.02); COMMIT"
				case 2:
					script = "VACUUM " + table
				case 3:
					script = "SET synchronous_commit = off; BEGIN;" + change[random.IntN(4)] + "; COMMIT"
				default:
					script = change[random.IntN(4)]
				}
				for statement := range strings.SplitSeq(script, ";") {
					if _, err := conn.Exec(t.Context(), statement); err != nil {
						if pg.Code(err) != pg.Deadlock {
							t.Errorf("%s: %v", statement, err)
						}
						_, _ = conn.Exec(t.Context(), "ROLLBACK") // what is left of a deadlock
						break
					}
				}
			}
		})
	}
	defer writing.Wait()
	defer stop()
	var taken []*backedUp
	told := 0
	for range backups {
		var changes []*pg.ChangedBlocks
		now := take(t, db, func() {
			conn := connect(t, db)
			defer pg.Close(conn)
			for _, before := range taken {
				changed, reason, err := pg.ReadChangedBlocks(ctx, conn, before.since(taken...), changesOptions)
				if err != nil {
					t.Fatal(err)
				}
				if changed == nil {
					t.Logf("read everything: %s", reason)
				}
				changes = append(changes, changed)
			}
		})
		for i, before := range taken {
			requireSound(t, before, now, changes[i])
			if changes[i] == nil {
				continue
			}
			told++
			if last := fmt.Sprintf("t%d", tables-1); !whole(before, now, changes[i], last) {
				t.Errorf("%s, into which nobody writes, has changed", last)
			}
		}
		taken = append(taken, now)
	}
	if told < backups {
		t.Errorf("changes were told for %d pairs of backups only", told)
	}
}
