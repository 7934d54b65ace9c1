package restore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/restore"
)

// dump is a script of pg_dump.
func dump(t testing.TB, db *pgtest.Database, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), db.Cluster().Programs.Path("pg_dump"), args...)
	cmd.Env = db.Env()
	var script, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &script, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("run pg_dump: %v\n%s", err, &stderr)
	}
	return script.Bytes()
}

// packed compresses a script as the end of its name says.
func packed(t testing.TB, name string, script []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	switch filepath.Ext(name) {
	case ".gz":
		w := gzip.NewWriter(&out)
		_, err := w.Write(script)
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
	case ".zst":
		w, err := zstd.NewWriter(&out)
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Write(script)
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
	default:
		return script
	}
	return out.Bytes()
}

// runScript restores from a script in the place of a live schema.
func runScript(t testing.TB, db *pgtest.Database, name string, script []byte, change ...func(*restore.Options, *restore.Script)) (*restore.Result, *notes, error) {
	t.Helper()
	n := &notes{t: t}
	data := packed(t, name, script)
	o := restore.Options{Server: server(t, db), Replace: true, Progress: n}
	s := restore.Script{Source: bytes.NewReader(data), Size: int64(len(data)), Name: name, Time: time.Now()}
	for _, f := range change {
		f(&o, &s)
	}
	result, err := restore.RunScript(t.Context(), o, s)
	return result, n, err
}

func schemaIs(name string) func(*restore.Options, *restore.Script) {
	return func(o *restore.Options, _ *restore.Script) { o.Schemas = []string{name} }
}

func allowOutside(_ *restore.Options, s *restore.Script) { s.AllowOutside = true }

// dropReplaced drops what a restore has replaced.
func dropReplaced(t testing.TB, db *pgtest.Database, result *restore.Result) {
	t.Helper()
	if len(result.Tenants) == 0 || result.Tenants[0].Replaced == "" {
		t.Fatal("nothing was replaced")
	}
	db.Exec(t, "DROP SCHEMA "+ident(result.Tenants[0].Replaced)+" CASCADE")
}

// Real databases go back to what a file of pg_dump says.
func TestScriptLive(t *testing.T) {
	t.Parallel()
	for i, test := range []struct {
		name string
		args []string
	}{
		{"chinook.sql", nil},
		{"northwind.sql.gz", nil},
		{"pagila.sql.zst", nil},
		{"chinook.sql", []string{"--inserts", "--rows-per-insert=50"}},
		{"northwind.sql", []string{"--clean", "--if-exists"}},
		{"northwind.sql", []string{"--clean", "--column-inserts"}},
		{"pagila.sql", []string{"--no-owner", "--no-privileges", "--quote-all-identifiers"}},
	} {
		t.Run(fmt.Sprint(i, test.name), func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			var compare pgtest.Compare
			if slices.Contains(test.args, "--no-owner") {
				compare = pgtest.Compare{NoOwner: true, NoPrivileges: true}
			}
			which, _, _ := strings.Cut(test.name, ".")
			pgtest.Case(t, db, which, "Customer A")
			db.Exec(t, `COMMENT ON SCHEMA "Customer A" IS 'the first'`)
			script := dump(t, db, append(test.args, "--schema", `"Customer A"`)...)
			before := pgtest.Fingerprint(t, db, compare)
			tables := db.Query(t, `SELECT oid::regclass FROM pg_class WHERE relnamespace = '"Customer A"'::regnamespace AND relkind = 'r' ORDER BY oid DESC LIMIT 2`)
			db.Exec(t, "TRUNCATE "+strings.Join(tables, ", ")+" CASCADE", "ALTER TABLE "+tables[0]+" ADD later int")
			changed := pgtest.Fingerprint(t, db, compare)

			result, _, err := runScript(t, db, test.name, script)
			if err != nil {
				t.Fatal(err)
			}
			if !result.Plan.Script.Exact || result.Plan.Script.Origin.Program != "pg_dump" || result.Rows == 0 || result.Tables == 0 {
				t.Errorf("result %+v\nscript %+v", result, result.Plan.Script)
			}
			for _, n := range result.Tenants[0].Notes {
				t.Log(n)
			}
			back, err := restore.Rollback(t.Context(), restore.RollbackOptions{Server: server(t, db), Schemas: []string{"Customer A"}})
			if err != nil {
				t.Fatal(err)
			}
			hidden := ident(back.Schemas[0].Replaced)
			db.Exec(t, "ALTER SCHEMA "+hidden+" RENAME TO aside")
			comment := db.Query(t, "SELECT obj_description('aside'::regnamespace, 'pg_namespace')")[0]
			db.Exec(t, `ALTER SCHEMA "Customer A" RENAME TO before; ALTER SCHEMA aside RENAME TO "Customer A"`)
			if !strings.Contains(comment, "the first") {
				t.Errorf("comment %s", comment)
			}
			db.Exec(t, `DROP SCHEMA before CASCADE; COMMENT ON SCHEMA "Customer A" IS 'the first'`)
			pgtest.RequireState(t, before, db, compare)
			if changed.Diff(before) == "" {
				t.Error("nothing was changed before")
			}
			if unanalyzed := db.Query(t, `SELECT relname FROM pg_class WHERE relnamespace = '"Customer A"'::regnamespace AND relkind = 'r' AND reltuples < 0`); len(unanalyzed) > 0 {
				t.Errorf("no statistics: %s", unanalyzed)
			}
		})
	}
}

// Every kind of object survives the way through a script.
func TestScriptZoo(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.Zoo(t, db, pgtest.ZooOptions{})
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	for _, name := range pgtest.ZooTenants(t, db) {
		script := dump(t, db, "--schema", ident(name))
		result, _, err := runScript(t, db, "zoo.sql", script, schemaIs(name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, n := range result.Tenants[0].Notes {
			// What pg_dump leaves out is not lost without a word.
			if _, sql, ok := strings.Cut(n, "if it is needed: "); ok {
				db.Exec(t, sql)
			} else {
				t.Errorf("%s: %s", name, n)
			}
		}
		dropReplaced(t, db, result)
	}
	pgtest.RequireState(t, before, db, pgtest.Compare{})
}

// The data file of a full backup is a script, too.
func TestScriptOfTenantkeep(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "a", "b")
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	b := save(t, db)
	db.Exec(t, "DELETE FROM a.orders; UPDATE a.customers SET name = 'overwritten'")
	files, err := filepath.Glob(filepath.Join(b.dir, "data", "a_full_*.sql.zst"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	script, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	result, _, err := runScript(t, db, "a.sql", script)
	if err != nil {
		t.Fatal(err)
	}
	if p := result.Plan.Script; p.Origin.Program != "tenantkeep" || !p.Exact {
		t.Errorf("script %+v", p)
	}
	dropReplaced(t, db, result)
	pgtest.RequireState(t, before, db, pgtest.Compare{})
	if _, _, err := runScript(t, db, "a.sql", script[:len(script)/2]); err == nil {
		t.Error("half a file was restored")
	}
	pgtest.RequireState(t, before, db, pgtest.Compare{})
}

// What others must not see or feel of it.
func TestScriptUnderLoad(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "a", "b")
	script := dump(t, db, "--schema", "a")
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	done := map[string]*int{"a": new(int), "b": new(int)}
	for schema, n := range done {
		conn := db.Conn(t)
		if _, err := conn.Exec(t.Context(), "SET search_path = "+schema); err != nil {
			t.Fatal(err)
		}
		work.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				var rows int
				if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM customers").Scan(&rows); err != nil || rows < 500 {
					t.Errorf("read %s: %d rows, %v", schema, rows, err)
					return
				}
				if _, err := conn.Exec(t.Context(), "UPDATE customers SET name = $1 WHERE id = 1", fmt.Sprint("written ", i)); err != nil {
					t.Errorf("write %s: %v", schema, err)
					return
				}
				*n++
			}
		})
	}
	for range 3 {
		result, _, err := runScript(t, db, "a.sql", script)
		if err != nil {
			t.Error(err)
			break
		}
		// What was written until the swap is in the replaced schema, all of it.
		name := db.Query(t, "SELECT count(*) FROM "+result.Tenants[0].Replaced+".customers WHERE id = 1")
		if name[0] != "1" {
			t.Errorf("the replaced schema has %s first customers", name)
		}
	}
	cancel()
	work.Wait()
	for schema, n := range done {
		if *n == 0 {
			t.Errorf("nothing was done in %s", schema)
		}
	}
}

func TestScriptUnderAnotherName(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "a")
	script := dump(t, db, "--schema", "a")
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	as := func(o *restore.Options, _ *restore.Script) { o.As = "Other a" }
	result, _, err := runScript(t, db, "a.sql", script, as)
	if err != nil {
		t.Fatal(err)
	}
	if got := result.Tenants[0]; got.As != "Other a" || got.Replaced != "" || got.Rows == 0 {
		t.Errorf("result %+v", got)
	}
	if got := db.Query(t, `SELECT count(*) FROM "Other a".customers`); got[0] != "500" {
		t.Errorf("%s customers", got)
	}
	_, _, err = runScript(t, db, "a.sql", script, as)
	mustFind(t, err, `schema "Other a" exists already`, "--as")
	db.Exec(t, `DROP SCHEMA "Other a" CASCADE`)
	for _, name := range []string{"a", strings.Repeat("x", 64), "pg_new", "information_schema", "public", "a__staging_20260101_000000"} {
		var unsupported *restore.UnsupportedError
		if _, _, err := runScript(t, db, "a.sql", script, func(o *restore.Options, _ *restore.Script) { o.As = name }); !errors.As(err, &unsupported) {
			t.Errorf("as %q: %v", name, err)
		}
	}
	pgtest.RequireState(t, before, db, pgtest.Compare{})

	// Into a place that is free.
	db.Exec(t, "DROP SCHEMA a CASCADE")
	if _, _, err = runScript(t, db, "a.sql", script); err != nil {
		t.Fatal(err)
	}
	pgtest.RequireState(t, before, db, pgtest.Compare{})
	if got := schemas(t, db); strings.Contains(got, "staging") {
		t.Errorf("schemas %s", got)
	}
}

// Scripts without CREATE SCHEMA get their schema made.
func TestScriptWithoutSchema(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE TABLE public.users (id int); INSERT INTO public.users VALUES (7);
		CREATE SCHEMA a; CREATE TABLE a.users (id int PRIMARY KEY, name text); INSERT INTO a.users VALUES (1, 'live')`)
	before := pgtest.Fingerprint(t, db, pgtest.Compare{Schemas: []string{"public"}})
	for _, test := range []struct {
		name, script, want string
	}{
		{"names alone", "DROP TABLE IF EXISTS users CASCADE;\nCREATE TABLE users (id int PRIMARY KEY, name text);\nINSERT INTO users VALUES (1, 'new'), (2, 'x');", "new 2"},
		{"search_path", "SET search_path = a, pg_catalog;\nCREATE TABLE users (id int PRIMARY KEY, name text);\nCOPY users (id, name) FROM stdin;\n1\tcopied\n\\.\n", "copied 1"},
		{"pg_dump --table", string(dump(t, db, "--table", "a.users")), "live 1"},
		{"changes its rows", "CREATE TABLE users (id int, name text); INSERT INTO users SELECT i, 'n' FROM generate_series(1, 10) i; DELETE FROM users WHERE id > 1", "n 1"},
	} {
		result, _, err := runScript(t, db, "a.sql", []byte(test.script+";\n"), schemaIs("a"))
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		dropReplaced(t, db, result)
		if got := db.Query(t, "SELECT min(name) || ' ' || count(*) FROM a.users"); got[0] != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
	pgtest.RequireState(t, before, db, pgtest.Compare{Schemas: []string{"public"}})
}

// Whatever a script tries, everything stays as it was.
func TestScriptRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "a", "b")
	db.Exec(t, `CREATE TABLE public.core (id int PRIMARY KEY, note text); INSERT INTO public.core VALUES (1), (2); CREATE SEQUENCE public.numbers;
		CREATE TABLE b.visits (customer bigint REFERENCES a.customers (id)); INSERT INTO b.visits VALUES (1), (2)`)
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	whole := string(dump(t, db, "--schema", "a"))
	table := "CREATE TABLE a.t (id int);\nINSERT INTO a.t VALUES (1);\n"
	for _, test := range []struct {
		name, script string
		want         []string
	}{
		{"shell", whole + "\\! touch /tmp/hacked\n", []string{`\!`, "can run programs"}},
		{"output", "\\o |sh\n" + whole, []string{`line 1: \o`}},
		{"program", whole + "COPY a.customers FROM PROGRAM 'id';", []string{"COPY from a program", "line "}},
		{"server file", whole + "COPY a.customers FROM '/etc/passwd';", []string{"a file of the server"}},
		{"other table dropped", whole + "DROP TABLE public.core;", []string{"about the schema public, not a", "--allow-outside"}},
		{"other table by its name", whole + "SET search_path = public; DROP TABLE core;", []string{"table public.core (dropped)", "--allow-outside"}},
		{"rows hidden in DO", whole + "DO $$ BEGIN UPDATE public.core SET note = 'x'; END $$;", []string{"table public.core (2 rows updated)"}},
		{"rows in dynamic SQL", whole + "DO $$ BEGIN EXECUTE 'DELETE FROM pub'||'lic.core'; END $$;", []string{"table public.core (2 rows deleted)"}},
		{"rows at the commit", whole + `CREATE FUNCTION a.evil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.core VALUES (3); RETURN NEW; END $$;
			CREATE CONSTRAINT TRIGGER evil AFTER INSERT ON a.customers DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION a.evil();
			INSERT INTO a.customers SELECT * FROM (SELECT (jsonb_populate_record(c, '{"id": 100000}')).* FROM a.customers c LIMIT 1) x;`, []string{"table public.core (1 rows inserted)"}},
		{"rows of a cursor", whole + `CREATE FUNCTION a.evil() RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.core VALUES (3); RETURN 1; END $$;
			DECLARE c CURSOR WITH HOLD FOR SELECT a.evil();`, nil},
		{"a type that runs a function", whole + `CREATE FUNCTION a.evil(pg_catalog.text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.core VALUES (3) ON CONFLICT DO NOTHING; RETURN true; END $$;
			CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (a.evil(VALUE)); CREATE DOMAIN pg_temp.regclass AS pg_catalog.regclass CHECK (a.evil('x'));`, nil},
		{"live by dynamic SQL", whole + "DO $$ DECLARE s text; BEGIN SELECT nspname INTO s FROM pg_namespace WHERE nspname LIKE 'a\\_\\_hidden%'; EXECUTE format('DELETE FROM %I.orders', s); END $$;", []string{"rows deleted"}},
		{"other schema", whole + "CREATE SCHEMA c;", []string{"about the schema c, not a"}},
		{"object of another schema", whole + "DO $$ BEGIN CREATE TABLE b.n (id int); END $$;", []string{"table b.n (created)"}},
		{"role", whole + "CREATE ROLE mighty SUPERUSER;", []string{"CREATE ROLE concerns all databases"}},
		{"role in DO", whole + "DO $$ BEGIN CREATE ROLE plain_script_role; END $$;", []string{"plain_script_role"}},
		{"commit", whole + "DO $$ BEGIN COMMIT; END $$;", []string{"invalid transaction termination"}},
		{"rollback", whole + "ROLLBACK;", []string{"no part of it can be rolled back"}},
		{"cut", whole[:len(whole)*2/3], []string{"the script is cut"}},
		{"cut before the end", strings.Replace(whole, "-- PostgreSQL database dump complete", "", 1), []string{"database dump complete", "is missing"}},
		{"no tables", "CREATE SCHEMA a;\nSET search_path = a;", []string{"no tables"}},
		{"no rows", "CREATE TABLE a.customers (id int);", []string{"no rows in the place of about", "--allow-incomplete"}},
		{"orphans", table + "CREATE TABLE a.customers (id bigint PRIMARY KEY); INSERT INTO a.customers VALUES (1);", []string{"rows of other schemas refer to rows"}},
		{"trigger that loses rows", `CREATE TABLE a.t (id int); CREATE FUNCTION a.lose() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';` +
			"\n" + `CREATE TRIGGER lose BEFORE INSERT ON a.t FOR EACH ROW EXECUTE FUNCTION a.lose();` + "\nCOPY a.t FROM stdin;\n1\n2\n\\.\n", []string{"no rows although the script has some"}},
		{"wrong column", table + "INSERT INTO a.t (nothing) VALUES (1);", []string{"line 3", `"nothing"`}},
		{"wrong row", table + "COPY a.t FROM stdin;\n1\nx\n\\.\n", []string{"line 5"}},
		{"unknown function", table + "ALTER TABLE a.t ADD u uuid DEFAULT made_up_uuid();", []string{"made_up_uuid", `SET search_path = "a", public`}},
		{"unknown role", table + "ALTER TABLE a.t OWNER TO nobody_knows;", []string{"line 3", `"nobody_knows"`, "--no-owner"}},
		{"another schema", string(dump(t, db, "--schema", "b")), []string{`for schema b, not for "a"`, "--schema b", "--as a"}},
		{"two schemas", string(dump(t, db, "--schema", "a", "--schema", "b")), []string{"about the schema b, not a"}},
		{"archive", "PGDMP\x01\x0e", []string{"custom format", "pg_restore -f"}},
		{"other database", "\\connect template1\n" + whole, []string{"is run in the database"}},
		{"empty file", "", []string{"no tables"}},
	} {
		result, _, err := runScript(t, db, "a.sql", []byte(test.script), schemaIs("a"))
		switch {
		case test.want == nil && err == nil:
			// It could do no harm.
			dropReplaced(t, db, result)
			db.Exec(t, "DROP FUNCTION a.evil")
		case err == nil:
			t.Errorf("%s: no error", test.name)
		default:
			text := err.Error()
			var hinted interface{ Hint() string }
			if errors.As(err, &hinted) {
				text += "\n" + hinted.Hint()
			}
			for _, want := range test.want {
				if !strings.Contains(text, want) {
					t.Errorf("%s: %q is not in: %s", test.name, want, text)
				}
			}
		}
		for _, left := range db.Query(t, "SELECT nspname FROM pg_namespace WHERE nspname ~ '__(staging|hidden)_'") {
			if test.name != "orphans" {
				t.Errorf("%s: left %s", test.name, left)
			}
		}
		if test.name == "orphans" {
			if _, err := restore.DropOwn(t.Context(), restore.DropOptions{Server: server(t, db), Before: time.Now().Add(time.Hour)}); err != nil {
				t.Error(err)
			}
		}
	}
	pgtest.RequireState(t, before, db, pgtest.Compare{})

	two := dump(t, db, "--schema", "a", "--schema", "b")
	_, _, err := runScript(t, db, "two.sql", two)
	var which *restore.ScriptSchemaError
	if !errors.As(err, &which) || !slices.Equal(which.Uses, []string{"a", "b"}) {
		t.Errorf("two schemas: %v", err)
	}
	result, _, err := runScript(t, db, "a.sql", []byte(whole+"UPDATE public.core SET note = 'allowed' WHERE id = 1;"), schemaIs("a"), allowOutside)
	if err != nil || !slices.ContainsFunc(result.Tenants[0].Notes, func(n string) bool { return strings.Contains(n, "public.core (1 rows updated)") }) {
		t.Errorf("allowed: %v, %+v", err, result)
	}
}

// Core goes into an empty public only.
func TestScriptOfCore(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.Case(t, db, "chinook", "tenant")
	db.Exec(t, "CREATE TABLE public.clients (id int PRIMARY KEY, name text); INSERT INTO public.clients VALUES (1, 'x')")
	script := dump(t, db, "--schema", "public")
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	_, _, err := runScript(t, db, "core_public_full_20241215_143022.sql.gz", script)
	mustFind(t, err, "is not empty", "empty database")
	db.Exec(t, "DROP TABLE public.clients")
	evil := append(slices.Clone(script), "DO $$ BEGIN DELETE FROM tenant.track; END $$;"...)
	if _, _, err = runScript(t, db, "core.sql", evil); err == nil || !strings.Contains(err.Error(), "rows deleted") && !strings.Contains(err.Error(), "does not exist") && !strings.Contains(err.Error(), "violates") {
		t.Errorf("core that reaches into a tenant: %v", err)
	}
	result, _, err := runScript(t, db, "core_public_full_20241215_143022.sql.gz", script)
	if err != nil || result.Rows != 1 {
		t.Fatal(result, err)
	}
	pgtest.RequireState(t, before, db, pgtest.Compare{})
}

// The place of a tenant that is in use is tried again later with what is staged.
func TestScriptResume(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "a")
	db.Exec(t, "COMMENT ON SCHEMA a IS 'own'")
	script := dump(t, db, "--schema", "a")
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	db.Exec(t, "DELETE FROM a.orders")
	holder := db.Conn(t)
	if _, err := holder.Exec(t.Context(), "BEGIN; LOCK TABLE a.orders IN ROW EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	short := func(o *restore.Options, _ *restore.Script) { o.SwapTimeout = 100 * time.Millisecond }
	result, _, err := runScript(t, db, "a.sql", script, short)
	var swap *restore.SwapError
	if !errors.As(err, &swap) || result.Tenants[0].Staged == "" {
		t.Fatalf("swap: %v, %+v", err, result)
	}
	if _, err := holder.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	resumed := func(o *restore.Options, _ *restore.Script) { o.Resume = true }
	_, _, err = runScript(t, db, "a.sql", append(slices.Clone(script), "-- another\n"...), resumed)
	mustFind(t, err, "no staging", "without --resume")
	result, _, err = runScript(t, db, "a.sql", script, resumed)
	if err != nil {
		t.Fatal(err)
	}
	list, err := restore.ListReplaced(t.Context(), server(t, db))
	if err != nil || len(list) != 1 || list[0].Backup != "a.sql" {
		t.Errorf("replaced: %+v, %v", list, err)
	}
	dropReplaced(t, db, result)
	pgtest.RequireState(t, before, db, pgtest.Compare{})
}

// A restore that is interrupted, or whose session is ended, leaves nothing.
func TestScriptInterrupted(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "a")
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	script := append(dump(t, db, "--schema", "a"), "SELECT pg_sleep(30);\n"...)
	asleep := func() {
		for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			if n := db.Query(t, "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'"); n[0] == "1" {
				return
			}
		}
		t.Error("the script does not run")
	}
	for _, end := range []func(cancel func()){
		func(cancel func()) { cancel() },
		func(func()) {
			db.Query(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'")
		},
		func(func()) { // the one that holds the lock of the database
			db.Query(t, "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())")
		},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := restore.RunScript(ctx, restore.Options{Server: server(t, db), Replace: true, Progress: &notes{t: t}},
				restore.Script{Source: bytes.NewReader(script), Size: int64(len(script)), Name: "a.sql"})
			ended <- err
		}()
		asleep()
		end(cancel)
		if err := <-ended; err == nil {
			t.Error("no error")
		}
		cancel()
		pgtest.RequireState(t, before, db, pgtest.Compare{})
	}
}

// dying is a Progress under which a restore ends without any clean-up, as if it
// were killed, when a stage begins.
type dying struct {
	restore.Progress
	stage string
}

func (d dying) Start(stage string, _ int, _ int64) {
	if stage == d.stage {
		runtime.Goexit()
	}
}

// The remains of a restore that was killed behind its transaction are removed by
// the next one.
func TestScriptKilled(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "a")
	script := dump(t, db, "--schema", "a")
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	for stage, left := range map[string]int{"verify": 0, "load": 0, "compare": 1} {
		var died sync.WaitGroup
		died.Go(func() {
			_, _ = restore.RunScript(t.Context(), restore.Options{Server: server(t, db), Replace: true, Progress: dying{&notes{t: t}, stage}},
				restore.Script{Source: bytes.NewReader(script), Size: int64(len(script)), Name: "a.sql"})
			t.Errorf("%s: it did not die", stage)
		})
		died.Wait()
		if got := db.Query(t, "SELECT nspname FROM pg_namespace WHERE nspname LIKE '%\\_\\_staging%'"); len(got) != left {
			t.Errorf("%s: %d schemas are left: %s", stage, len(got), got)
		}
		result, _, err := runScript(t, db, "a.sql", script)
		if err != nil {
			t.Fatal(err)
		}
		dropReplaced(t, db, result)
		pgtest.RequireState(t, before, db, pgtest.Compare{})
	}
}

// What names roles that are missing is left out where that is wanted.
func TestScriptWithoutRoles(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	script := "CREATE SCHEMA a;\nCREATE TABLE a.t (id int);\nALTER TABLE a.t OWNER TO nobody_knows;\nGRANT SELECT ON a.t TO nobody_knows;\nINSERT INTO a.t VALUES (1);\n"
	result, _, err := runScript(t, db, "a.sql", []byte(script), func(o *restore.Options, _ *restore.Script) { o.NoOwner = true })
	if err != nil {
		t.Fatal(err)
	}
	if notes := result.Tenants[0].Notes; len(notes) != 1 || !strings.Contains(notes[0], "a role is missing") || !strings.Contains(notes[0], "and 1 more") {
		t.Errorf("notes %q", notes)
	}
}

// A role without special rights restores what it owns.
func TestScriptByAnOrdinaryRole(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	role := "script_" + db.Name
	db.Exec(t, `CREATE TABLE public.core (id int PRIMARY KEY); INSERT INTO public.core VALUES (1)`,
		"CREATE ROLE "+role+" LOGIN; GRANT CREATE ON DATABASE "+db.Name+" TO "+role+"; GRANT SELECT, INSERT, REFERENCES ON public.core TO "+role,
		"SET ROLE "+role+`; CREATE SCHEMA a; CREATE TABLE a.t (id int REFERENCES public.core); INSERT INTO a.t VALUES (1);
			ALTER TABLE a.t ENABLE ROW LEVEL SECURITY; ALTER TABLE a.t FORCE ROW LEVEL SECURITY; CREATE POLICY p ON a.t USING (false)`)
	defer db.Exec(t, "DROP OWNED BY "+role+" CASCADE; DROP ROLE "+role)
	script := dump(t, db, "--schema", "a")
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	as := func(o *restore.Options, _ *restore.Script) {
		url, err := url.Parse(db.URL())
		if err != nil {
			t.Fatal(err)
		}
		url.User = nil
		query := url.Query()
		query.Set("user", role)
		url.RawQuery = query.Encode()
		if o.Server, err = pg.Parse(url.String()); err != nil {
			t.Fatal(err)
		}
	}
	result, _, err := runScript(t, db, "a.sql", script, as)
	if err != nil {
		t.Fatal(err)
	}
	if notes := result.Tenants[0].Notes; len(notes) != 1 || !strings.Contains(notes[0], "were not counted") {
		t.Errorf("notes %q", notes)
	}
	dropReplaced(t, db, result)
	pgtest.RequireState(t, before, db, pgtest.Compare{})
	_, _, err = runScript(t, db, "a.sql", append(script, "INSERT INTO public.core VALUES (2);\n"...), as)
	var refused *restore.ScriptRefusedError
	if !errors.As(err, &refused) {
		t.Errorf("a statement about core: %v", err)
	}
	_, _, err = runScript(t, db, "a.sql", append(script, "DO $$ BEGIN INSERT INTO public.core VALUES (2); END $$;\n"...), as)
	var outside *restore.OutsideError
	if !errors.As(err, &outside) {
		t.Errorf("a row of core: %v", err)
	}
	pgtest.RequireState(t, before, db, pgtest.Compare{})
}

// The lock of a table of core is not waited for, and nothing of the restore is
// left half done.
func TestScriptWaitsForCore(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE TABLE public.core (id int PRIMARY KEY); INSERT INTO public.core VALUES (1);
		CREATE SCHEMA a; CREATE TABLE a.t (id int REFERENCES public.core); INSERT INTO a.t VALUES (1)`)
	script := dump(t, db, "--schema", "a")
	holder := db.Conn(t)
	if _, err := holder.Exec(t.Context(), "BEGIN; INSERT INTO public.core VALUES (2)"); err != nil {
		t.Fatal(err)
	}
	release := sync.OnceFunc(func() {
		if _, err := holder.Exec(t.Context(), "COMMIT"); err != nil {
			t.Error(err)
		}
	})
	result, n, err := runScript(t, db, "a.sql", script, func(o *restore.Options, _ *restore.Script) {
		o.Progress.(*notes).on = func(message string) {
			if strings.Contains(message, "begins again") {
				release()
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if !n.has("begins again") || !n.has("refer to public.core") || result.Rows != 1 {
		t.Errorf("result %+v", result)
	}
}

// Publications of the live tables stay theirs, and one of all tables is a reason
// to refuse.
func TestScriptPublished(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "a")
	db.Exec(t, "CREATE PUBLICATION extra; ALTER PUBLICATION extra ADD TABLE a.customers; CREATE PUBLICATION other")
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	script := append(dump(t, db, "--schema", "a"), "ALTER PUBLICATION extra ADD TABLE ONLY a.customers;\nALTER PUBLICATION other ADD TABLE ONLY a.orders;\n"...)
	result, _, err := runScript(t, db, "a.sql", script)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(result.Tenants[0].Notes, func(n string) bool { return strings.Contains(n, "ALTER PUBLICATION \"other\"") }) {
		t.Errorf("notes %q", result.Tenants[0].Notes)
	}
	dropReplaced(t, db, result)
	pgtest.RequireState(t, before, db, pgtest.Compare{})
}

// Subscribers to all tables would get the script's rows under the live name.
func TestScriptPublishedWholly(t *testing.T) {
	t.Parallel()
	db := pgtest.NewIn(t, pgtest.StartCluster(t, map[string]string{"wal_level": "logical"}))
	db.Exec(t, "CREATE SCHEMA a; CREATE TABLE a.t (id int); INSERT INTO a.t VALUES (1); CREATE PUBLICATION everything FOR ALL TABLES")
	script := dump(t, db, "--schema", "a")
	_, _, err := runScript(t, db, "a.sql", script)
	mustFind(t, err, `publication "everything" is for all tables`, "--allow-outside")
	if _, _, err = runScript(t, db, "a.sql", script, allowOutside); err != nil {
		t.Error(err)
	}
}

func TestScriptDryRun(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "a")
	script := append(dump(t, db, "--schema", "a"), "DROP TABLE public.x;\nCREATE ROLE r;\n"...)
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	result, _, err := runScript(t, db, "a.sql.gz", script, func(o *restore.Options, _ *restore.Script) { o.DryRun = true })
	var refused *restore.ScriptRefusedError
	if !errors.As(err, &refused) || refused.Count != 2 {
		t.Errorf("refused: %v", err)
	}
	s := result.Plan.Script
	if s == nil || s.Rows != 800 || result.Plan.Schemas[0].Live == nil || result.Plan.Schemas[0].Tables != 2 || !slices.Equal(s.Makes, []string{"a"}) ||
		s.Origin.Program != "pg_dump" || !strings.HasPrefix(s.Origin.Version, "1") || s.RefusedCount != 2 {
		t.Errorf("plan %+v\nscript %+v", result.Plan, s)
	}
	pgtest.RequireState(t, before, db, pgtest.Compare{})
}
