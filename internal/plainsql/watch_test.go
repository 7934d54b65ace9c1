package plainsql

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgcluster"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

const watched = `
	CREATE TABLE public.core (id int PRIMARY KEY, note text);
	CREATE TABLE public.quiet (id int);
	CREATE VIEW public.seen AS SELECT 1 AS one;
	CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
	CREATE SEQUENCE public.numbers;
	CREATE TYPE public.mood AS ENUM ('good');
	INSERT INTO public.core VALUES (1), (2), (3);
	CREATE SCHEMA b;
	CREATE TABLE b.t (id int PRIMARY KEY, v text DEFAULT 'x', CONSTRAINT c CHECK (id > 0));
	CREATE INDEX i ON b.t (v);
	INSERT INTO b.t VALUES (1, repeat('x', 10000));
	CREATE SCHEMA a;
	CREATE TABLE a.t (id int PRIMARY KEY, core int REFERENCES public.core);
	SELECT pg_catalog.lo_create(4711)`

func TestOutside(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, watched, "CREATE PUBLICATION p; CREATE ROLE plainsql_watched")
	defer db.Exec(t, "DROP OWNED BY plainsql_watched; DROP ROLE plainsql_watched")
	conn, other := connect(t, db), connect(t, db)
	for _, test := range []struct {
		name, sql string
		want      []string
	}{
		{"nothing", "SELECT 1", nil},
		{"inside", `CREATE TABLE a.n (id serial PRIMARY KEY, v public.mood, core int REFERENCES public.core, big text);
			INSERT INTO a.n (v) VALUES ('good'); CREATE VIEW a.v AS SELECT * FROM a.n JOIN public.core USING (id); COMMENT ON COLUMN a.n.v IS 'x';
			CREATE FUNCTION a.f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT public.f(); END; DROP TABLE a.t CASCADE; SELECT setval('a.n_id_seq', 9);
			CREATE RULE r AS ON INSERT TO a.n DO ALSO (SELECT 1; SELECT 2); ALTER TABLE a.n ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON a.n USING (true);
			ALTER SCHEMA a OWNER TO plainsql_watched; CREATE TYPE a.span AS RANGE (subtype = int); GRANT SELECT ON a.n TO PUBLIC`, nil},
		{"inside in steps", `SAVEPOINT s; CREATE TABLE a.n (id int); SAVEPOINT s2; INSERT INTO a.n VALUES (1); RELEASE s2; ROLLBACK TO s; CREATE TABLE a.n (id int REFERENCES public.core)`, nil},
		{"temporary", "CREATE TEMP TABLE x (id serial, v text); INSERT INTO x VALUES (1); CREATE TEMP VIEW y AS SELECT 1; CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'; DROP TABLE x", nil},
		{"aside is not touched", "", nil},
		{"rows", "INSERT INTO public.core VALUES (4), (5); UPDATE public.core SET note = 'x' WHERE id < 3; DELETE FROM b.t", []string{"table b.t (1 rows deleted)", "table public.core (2 rows inserted, 2 rows updated)"}},
		{"rows in a step", "SAVEPOINT s; INSERT INTO public.quiet VALUES (4); RELEASE s", []string{"table public.quiet (1 rows inserted)"}},
		{"rows by a trigger", `CREATE FUNCTION a.tr() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.quiet VALUES (1); RETURN NEW; END $$;
			CREATE TRIGGER tr AFTER INSERT ON a.t FOR EACH ROW EXECUTE FUNCTION a.tr(); INSERT INTO a.t VALUES (7)`, []string{"table public.quiet (1 rows inserted)"}},
		{"truncated", "TRUNCATE public.quiet", []string{"table public.quiet (altered)"}},
		{"sequence", "SELECT setval('public.numbers', 9)", []string{"sequence public.numbers (sequence)"}},
		{"large object", "SELECT lo_put(4711, 0, 'x')", []string{"large objects (large object)"}},
		{"large object made", "SELECT lo_create(4712)", []string{"large object 4712 (created)"}},
		{"large object gone", "SELECT lo_unlink(4711)", []string{"large object 4711 (dropped)"}},
		{"created", "CREATE TABLE public.n (id int PRIMARY KEY); CREATE SCHEMA n; CREATE FUNCTION b.g() RETURNS int LANGUAGE sql AS 'SELECT 1'", []string{
			"table public.n (created)", "index public.n_pkey (created)", "function b.g() (created)", "schema n (created)",
			"table constraint n_pkey on public.n (created)",
		}},
		{"created in a step", "SAVEPOINT s; SAVEPOINT r; CREATE VIEW public.n AS SELECT 1; RELEASE r; RELEASE s", []string{
			"view public.n (created)", `rule "_RETURN" on public.n (created)`,
		}},
		{"made and gone", "CREATE TABLE public.n (id int); DROP TABLE public.n", nil},
		{"altered", "ALTER TABLE b.t SET (fillfactor = 70)", []string{"table b.t (altered)"}},
		{"column", "ALTER TABLE b.t ADD w int", []string{"table b.t (altered)"}},
		{"column gone", "ALTER TABLE b.t DROP v", []string{"table b.t (altered)", "index b.i (dropped)"}},
		{"rewritten", "ALTER TABLE b.t ALTER v TYPE varchar USING v || 'x'", []string{"table b.t (altered)", "index b.i (created)", "index b.t_pkey (altered)", "default value for b.t.v (created)", "index b.i (dropped)"}},
		{"function", "CREATE OR REPLACE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 2'", []string{"function public.f() (altered)"}},
		{"view", "CREATE OR REPLACE VIEW public.seen AS SELECT 2 AS one", []string{`rule "_RETURN" on public.seen (altered)`}},
		{"enum", "ALTER TYPE public.mood ADD VALUE 'bad'", []string{"type public.mood (altered)"}},
		{"trigger", "CREATE TRIGGER tr BEFORE UPDATE ON public.core FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()", []string{"trigger tr on public.core (created)"}},
		{"grant", "GRANT SELECT ON public.quiet TO plainsql_watched", []string{"table public.quiet (altered)"}},
		{"comment", "COMMENT ON COLUMN public.quiet.id IS 'x'", []string{"table public.quiet (altered)"}},
		{"child", "CREATE TABLE a.child () INHERITS (public.quiet)", []string{"table public.quiet (altered)"}},
		{"publication", "ALTER PUBLICATION p ADD TABLE public.core", []string{"publication relation public.core in publication p (created)"}},
		{"publication of its own table", "ALTER PUBLICATION p ADD TABLE a.t", nil},
		{"publication set", "ALTER PUBLICATION p SET (publish = 'insert')", []string{"publication p (altered)"}},
		{"extension", "CREATE EXTENSION pg_trgm SCHEMA a", []string{"extension pg_trgm (created)"}},
		{"default rights", "ALTER DEFAULT PRIVILEGES FOR ROLE plainsql_watched GRANT SELECT ON TABLES TO PUBLIC", []string{"default acl for role plainsql_watched on tables (created)"}},
		{"role", "ALTER ROLE plainsql_watched CREATEDB; ALTER ROLE plainsql_watched SET work_mem = '1MB'; GRANT pg_monitor TO plainsql_watched", []string{
			"role plainsql_watched (altered)", "membership in role pg_monitor (altered)", "settings of all databases for role plainsql_watched (altered)",
		}},
		{"dropped", "DROP TABLE b.t; DROP FUNCTION public.f(); DROP TYPE public.mood", []string{
			"table b.t (dropped)", "function public.f() (dropped)", "type public.mood (dropped)",
			"index b.i (dropped)", "index b.t_pkey (dropped)", "table constraint c on b.t (dropped)", "table constraint t_pkey on b.t (dropped)",
		}},
		{"dropped by cascade", "DROP TABLE a.t; DROP SCHEMA b CASCADE", []string{
			"schema b (dropped)", "table b.t (dropped)",
			"index b.i (dropped)", "index b.t_pkey (dropped)", "table constraint c on b.t (dropped)", "table constraint t_pkey on b.t (dropped)",
		}},
		{"constraint gone", "ALTER TABLE b.t DROP CONSTRAINT c", []string{"table b.t (altered)", "table constraint c on b.t (dropped)"}},
		{"schema moved", "ALTER SCHEMA b RENAME TO bb", []string{"schema bb (altered)"}},
		{"the schema replaced", "DROP SCHEMA a CASCADE; CREATE SCHEMA a; CREATE TABLE a.t (id int)", []string{
			"schema a (dropped)", "table a.t (dropped)", "index a.t_pkey (dropped)",
			"table constraint t_core_fkey on a.t (dropped)", "table constraint t_pkey on a.t (dropped)",
		}},
	} {
		execSQL(t, conn, "BEGIN")
		watch, err := NewWatch(t.Context(), conn, other)
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		execSQL(t, conn, test.sql)
		if got := outside(t, watch, "a"); !cmp.Equal(set(test.want), got) {
			t.Errorf("%s:\n%s", test.name, cmp.Diff(set(test.want), got))
		}
		execSQL(t, conn, "ROLLBACK")
	}
}

func set(list []string) map[string]bool {
	all := map[string]bool{}
	for _, s := range list {
		all[s] = true
	}
	return all
}

func outside(t *testing.T, watch *Watch, schema string) map[string]bool {
	t.Helper()
	touched, err := watch.Outside(t.Context(), schema)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, what := range touched {
		all[what.String()] = true
	}
	return all
}

// TestOutsideBeginsLate watches a transaction that did things before.
func TestOutsideBeginsLate(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, watched)
	conn, other := connect(t, db), connect(t, db)
	execSQL(t, conn, `BEGIN; ALTER SCHEMA a RENAME TO aside; INSERT INTO public.quiet VALUES (1); DROP FUNCTION public.f(); ALTER TABLE b.t ADD w int;
		CREATE TABLE public.before (id int); CREATE SCHEMA a`)
	watch, err := NewWatch(t.Context(), conn, other)
	if err != nil {
		t.Fatal(err)
	}
	execSQL(t, conn, "CREATE TABLE a.t (id int)")
	if got := outside(t, watch, "a"); len(got) > 0 {
		t.Errorf("got %v", got)
	}
	// Others change things meanwhile.
	db.Exec(t, "CREATE TABLE public.others (id int); INSERT INTO public.core VALUES (9); DROP VIEW public.seen; CREATE ROLE plainsql_late; DROP ROLE plainsql_late")
	if got := outside(t, watch, "a"); len(got) > 0 {
		t.Errorf("got %v", got)
	}
	execSQL(t, conn, "SAVEPOINT s; INSERT INTO public.quiet VALUES (1); ALTER TABLE public.before ADD x int; DROP TABLE aside.t; RELEASE s")
	// What is gone has the name by which others still know it.
	want := set([]string{
		"table public.quiet (1 rows inserted)", "table public.before (created)", "table a.t (dropped)",
		"index a.t_pkey (dropped)", "table constraint t_pkey on a.t (dropped)", "table constraint t_core_fkey on a.t (dropped)",
	})
	got := outside(t, watch, "a")
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	execSQL(t, conn, "ROLLBACK")
}

// TestOutsideForOrdinaryRoles watches as a role that reads no guarded catalogs.
func TestOutsideForOrdinaryRoles(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, "CREATE ROLE plainsql_plain; GRANT CREATE ON DATABASE "+db.Name+" TO plainsql_plain; GRANT CREATE ON SCHEMA public TO plainsql_plain")
	conn, other := connect(t, db), connect(t, db)
	for _, c := range []*pgx.Conn{conn, other} {
		execSQL(t, c, "SET ROLE plainsql_plain")
	}
	execSQL(t, conn, "BEGIN")
	watch, err := NewWatch(t.Context(), conn, other)
	if err != nil {
		t.Fatal(err)
	}
	execSQL(t, conn, "CREATE SCHEMA a; CREATE TABLE a.t (id int); CREATE DOMAIN public.d AS int")
	if diff := cmp.Diff(set([]string{"type public.d (created)"}), outside(t, watch, "a")); diff != "" {
		t.Error(diff)
	}
	execSQL(t, conn, "ROLLBACK")
	for _, c := range []*pgx.Conn{conn, other} {
		pg.Close(c)
	}
	db.Exec(t, "DROP OWNED BY plainsql_plain; DROP ROLE plainsql_plain")
}

// TestOutsideWithoutCounts finds rows where the server counts none.
func TestOutsideWithoutCounts(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, watched)
	conn, other := connect(t, db), connect(t, db)
	execSQL(t, conn, "SET track_counts = off; BEGIN")
	watch, err := NewWatch(t.Context(), conn, other)
	if err != nil {
		t.Fatal(err)
	}
	execSQL(t, conn, "INSERT INTO public.quiet VALUES (1); INSERT INTO a.t VALUES (1, 1)")
	if diff := cmp.Diff(set([]string{"table public.quiet (rows changed)"}), outside(t, watch, "a")); diff != "" {
		t.Error(diff)
	}
}

// TestOutsideRound watches transactions whose ids are about to go round, and
// have done so: frozen rows seem to have ids of the future then.
func TestOutsideRound(t *testing.T) {
	t.Parallel()
	const next = 1<<32 - 6
	cluster := pgtest.StartCluster(t, map[string]string{"autovacuum": "off"})
	db := pgtest.NewIn(t, cluster)
	for _, name := range []string{db.Name, "template1", "postgres"} {
		conn, err := pgx.Connect(t.Context(), cluster.URL(name))
		if err != nil {
			t.Fatal(err)
		}
		execSQL(t, conn, "VACUUM FREEZE")
		pg.Close(conn)
	}
	if err := cluster.Stop(pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	// The status of the transactions around the next one: 32 pages to a file,
	// each of them for 4 transactions a byte.
	const page = 8 << 10
	segment := filepath.Join(cluster.DataDir(), "pg_xact", fmt.Sprintf("%04X", next/(page*4*32)))
	if err := os.WriteFile(segment, make([]byte, 32*page), 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(cluster.DataDir())
	if err != nil {
		t.Fatal(err)
	}
	reset := exec.CommandContext(t.Context(), cluster.Programs.Path("pg_resetwal"), "-x", fmt.Sprint(next), "-u", fmt.Sprint(next-200), "-D", cluster.DataDir())
	if owner := info.Sys().(*syscall.Stat_t); os.Geteuid() == 0 { // the programs refuse root
		reset.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
		if err := os.Chown(segment, int(owner.Uid), int(owner.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := reset.CombinedOutput(); err != nil {
		t.Fatalf("pg_resetwal: %v\n%s", err, out)
	}
	if err := cluster.Restart(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, watched)
	conn, other := connect(t, db), connect(t, db)
	for range 4 {
		execSQL(t, conn, "BEGIN")
		watch, err := NewWatch(t.Context(), conn, other)
		if err != nil {
			t.Fatal(err)
		}
		execSQL(t, conn, `CREATE TABLE a.n (id int REFERENCES public.core); SAVEPOINT s; ALTER TABLE b.t ADD w int; RELEASE s;
			SAVEPOINT s; CREATE SEQUENCE public.n; RELEASE s; SAVEPOINT s; CREATE VIEW a.w AS SELECT 1; RELEASE s`)
		if diff := cmp.Diff(set([]string{"table b.t (altered)", "sequence public.n (created)"}), outside(t, watch, "a")); diff != "" {
			t.Error(diff)
		}
		execSQL(t, conn, "ROLLBACK")
	}
}
