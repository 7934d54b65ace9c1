package restore_test

import (
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/restore"
)

// halves makes a tenant of a small table and two big ones, saved in segments,
// one of which has a value in its last frame that must go as text.
func halves(t testing.TB, db *pgtest.Database) {
	t.Helper()
	db.Exec(t, `
		CREATE SCHEMA "h%s";
		CREATE TABLE "h%s".small (id int);
		INSERT INTO "h%s".small SELECT generate_series(1, 10);
		CREATE TABLE "h%s"."odd ""one" (id int PRIMARY KEY, at timestamptz, note text) WITH (fillfactor = 40);
		INSERT INTO "h%s"."odd ""one" SELECT n, CASE WHEN n = 8990 THEN 'infinity' ELSE '2024-02-28'::timestamptz END, repeat('y', 1000) FROM generate_series(1, 9000) n;
		CREATE TABLE "h%s".strange (id int PRIMARY KEY, span interval[], note text) WITH (fillfactor = 40);
		INSERT INTO "h%s".strange SELECT n, ARRAY[n * interval '1 hour'], repeat('z', 990) FROM generate_series(1, 9000) n`)
}

// early counts the rows of tables as a transaction sees them that began before
// they were restored: frozen rows are there for it, too.
func early(t testing.TB, conn *pgx.Conn, tables ...string) []int {
	t.Helper()
	var counts []int
	for _, table := range tables {
		var n int
		if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM "h%s".`+table).Scan(&n); err != nil {
			t.Fatal(err)
		}
		counts = append(counts, n)
	}
	if _, err := conn.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	return counts
}

// before begins a transaction whose snapshot it takes.
func before(t testing.TB, db *pgtest.Database) *pgx.Conn {
	t.Helper()
	conn := db.Conn(t)
	for _, sql := range []string{"BEGIN ISOLATION LEVEL REPEATABLE READ", "SELECT 1"} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	return conn
}

// A big table that one session loads has frozen rows, in whatever format they
// go to the server.
func TestFrozenTables(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	halves(t, db)
	db.Exec(t, "CREATE ROLE restore_no_truncate LOGIN; GRANT CREATE ON DATABASE "+pg.Identifier(db.Name)+" TO restore_no_truncate")
	b := save(t, db)
	saved := pgtest.Fingerprint(t, db, pgtest.Compare{})
	for _, c := range []struct {
		name   string
		before string // statements
		want   []int  // rows that are frozen
		change func(*restore.Options)
	}{
		{name: "two sessions", want: []int{9000, 9000, 0}},
		{name: "too much for one of four sessions", want: []int{0, 0, 0}, change: func(o *restore.Options) { o.Jobs = 4 }},
		{
			name: "no right to empty tables", want: []int{0, 0, 0}, change: as(t, db, "restore_no_truncate"),
			before: "ALTER DEFAULT PRIVILEGES FOR ROLE restore_no_truncate REVOKE TRUNCATE ON TABLES FROM restore_no_truncate",
		},
		{
			name: "somebody may count the tables", want: []int{0, 0, 0},
			before: `CREATE FUNCTION public.is_good(int) RETURNS bool LANGUAGE plpgsql AS 'BEGIN RETURN true; END'; CREATE DOMAIN public.good AS int CHECK (public.is_good(VALUE))`,
		},
		{name: "published", before: "CREATE PUBLICATION everything FOR ALL TABLES", want: []int{0, 0, 0}},
	} {
		t.Log(c.name)
		db.Exec(t, `DROP SCHEMA "h%s" CASCADE; `+c.before)
		old := before(t, db)
		change := []func(*restore.Options){only("h%s")}
		if c.change != nil {
			change = append(change, c.change, func(o *restore.Options) { o.NoOwner, o.NoPrivileges = true, true })
		}
		result, n, err := b.into(t, t.Context(), db, change...)
		must(t, result, err)
		if got := early(t, old, `"odd ""one"`, "strange", "small"); !slices.Equal(got, c.want) {
			t.Errorf("%s: a transaction that began before sees %v rows, want %v", c.name, got, c.want)
		}
		if n.rows != 18010 {
			t.Errorf("%s: %d rows in the progress", c.name, n.rows)
		}
		if c.before == "" {
			pgtest.RequireState(t, saved, db, pgtest.Compare{})
		}
	}
}

// So has one that is put beside a live schema, though indexes were made on it, and
// taken back, to see how they are made there.
func TestFrozenTablesBesideLive(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	if db.Query(t, "SELECT current_setting('server_version_num')::int < 140000")[0] == "t" {
		t.Skip("COPY FREEZE leaves no trace in the visibility map before PostgreSQL 14")
	}
	halves(t, db)
	b := save(t, db)
	saved := pgtest.Fingerprint(t, db, pgtest.Compare{})
	db.Exec(t, `UPDATE "h%s"."odd ""one" SET note = 'lost'`)
	result, _, err := b.into(t, t.Context(), db, only("h%s"), replace)
	must(t, result, err)
	got := db.Query(t, `SELECT relname FROM pg_class WHERE relnamespace = '"h%s"'::regnamespace AND relkind = 'r' AND relallvisible = relpages AND relpages > 100 ORDER BY 1`)
	if want := []string{`odd "one`, "strange"}; !slices.Equal(got, want) {
		t.Errorf("all rows are frozen in %q, want %q", got, want)
	}
	db.Exec(t, "DROP SCHEMA "+ident(result.Tenants[0].Replaced)+" CASCADE")
	pgtest.RequireState(t, saved, db, pgtest.Compare{})
}

// rowsHook does something once so many rows were loaded.
type rowsHook struct {
	notes
	loaded atomic.Int64
	at     int64
	once   sync.Once
	then   func()
	called bool
}

func (h *rowsHook) Add(_, rows int64) {
	if h.loaded.Add(rows) >= h.at {
		h.once.Do(func() {
			h.called = true
			h.then()
		})
	}
}

// A table that is being loaded is lost with its session; rows that somebody has
// put into one that is next stay.
func TestFrozenTableIsDisturbed(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	halves(t, db)
	b := save(t, db)
	saved := pgtest.Fingerprint(t, db, pgtest.Compare{})
	db.Exec(t, `DROP SCHEMA "h%s" CASCADE`)
	run := func(at int64, then func()) error {
		t.Helper()
		h := &rowsHook{notes: notes{t: t}, at: at, then: then}
		_, _, err := b.into(t, t.Context(), db, only("h%s"), func(o *restore.Options) { o.Jobs, o.Progress = 1, h })
		if !h.called {
			t.Fatalf("%d rows were loaded: %v", h.loaded.Load(), err)
		}
		return err
	}
	// The greatest table comes first.
	err := run(4000, func() {
		ended := db.Query(t, `SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
			WHERE d.datname = current_database() AND l.relation = '"h%s"."odd ""one"'::regclass AND l.mode = 'AccessExclusiveLock'`)
		if !slices.Equal(ended, []string{"t"}) {
			t.Errorf("sessions that load the table: %v", ended)
		}
	})
	if err == nil {
		t.Error("the restore did not notice that its session was ended")
	}
	if got := schemas(t, db); got != "public" {
		t.Errorf("schemas %s", got)
	}
	err = run(4000, func() { db.Exec(t, `INSERT INTO "h%s".strange VALUES (-1)`) })
	if err == nil || !strings.Contains(err.Error(), "9001 rows") {
		t.Errorf("rows of somebody else: %v", err)
	}
	if err := run(1, func() {}); err != nil {
		t.Error(err)
	}
	pgtest.RequireState(t, saved, db, pgtest.Compare{})
}
