package plainsql

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

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

// connect opens a session as tenantkeep has them.
func connect(t testing.TB, db *pgtest.Database) *pgx.Conn {
	t.Helper()
	server, err := pg.Parse(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := server.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.Close(conn) })
	return conn
}

// execSQL runs SQL on a connection.
func execSQL(t testing.TB, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.PgConn().Exec(t.Context(), sql).ReadAll(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// runScript runs a script in a transaction of a connection and commits.
func runScript(t testing.TB, conn *pgx.Conn, script []byte, opts Options) Result {
	t.Helper()
	execSQL(t, conn, "BEGIN")
	reader, err := Open(bytes.NewReader(script), ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	result, err := Run(t.Context(), conn, reader.Reader, opts)
	if err != nil {
		var hint interface{ Hint() string }
		if errors.As(err, &hint) {
			t.Log(hint.Hint())
		}
		t.Fatal(err)
	}
	execSQL(t, conn, "COMMIT")
	return result
}

// TestDumps runs what pg_dump writes of a database with everything in it.
func TestDumps(t *testing.T) {
	t.Parallel()
	source := pgtest.New(t)
	pgtest.Zoo(t, source, pgtest.ZooOptions{})
	want := pgtest.Fingerprint(t, source, pgtest.Compare{})
	for name, args := range map[string][]string{
		"column inserts": {"--column-inserts", "--rows-per-insert=7", "--quote-all-identifiers"},
		"clean if":       {"--clean", "--if-exists", "--disable-triggers", "--disable-dollar-quoting"},
		"create":         {"--create", "--clean"},
		"compressed":     {"--verbose", "--gzip"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			zipped := slices.Contains(args, "--gzip")
			if zipped {
				args = slices.Replace(slices.Clone(args), len(args)-1, len(args), "--compress=6")
			}
			script := dump(t, source, args...)
			if zipped != bytes.HasPrefix(script, []byte{0x1f, 0x8b}) {
				t.Fatal("the dump is not compressed as it should be")
			}
			target := pgtest.New(t)
			conn := connect(t, target)
			var bytes, rows int64
			result := runScript(t, conn, script, Options{
				AllowOutside: true, Database: source.Name,
				Progress: func(b, r int64) { bytes, rows = bytes+b, rows+r },
			})
			for _, note := range result.Notes {
				t.Log(note)
			}
			if name == "column inserts" {
				// -0 becomes 0 in what pg_dump writes, and whoever runs it.
				target.Exec(t, "UPDATE zoo_types.kinds SET f4 = '-0' WHERE id = 3 AND f4 = 0")
			}
			pgtest.RequireState(t, want, target, pgtest.Compare{})
			if rows != result.Rows || rows == 0 || !zipped && bytes != int64(len(script)) {
				t.Errorf("progress of %d bytes and %d rows for %d and %d", bytes, rows, len(script), result.Rows)
			}
		})
	}
}

// TestCases runs scripts that people made, which name tables without a schema.
func TestCases(t *testing.T) {
	t.Parallel()
	for name, rows := range map[string]int64{"chinook": 15607, "northwind": 3362, "pagila": 46273} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			script, err := os.ReadFile(filepath.Join("..", "pgtest", "testdata", "cases", name+".sql.gz"))
			if err != nil {
				t.Fatal(err)
			}
			source, target := pgtest.New(t), pgtest.New(t)
			psql := exec.CommandContext(t.Context(), "sh", "-c", `zcat "$1" | "$2" -X -q -v ON_ERROR_STOP=1 -o /dev/null`,
				"sh", filepath.Join("..", "pgtest", "testdata", "cases", name+".sql.gz"), source.Cluster().Programs.Path("psql"))
			psql.Env = source.Env()
			if out, err := psql.CombinedOutput(); err != nil {
				t.Fatalf("psql: %v\n%s", err, out)
			}
			conn := connect(t, target)
			execSQL(t, conn, "SET search_path = public")
			result := runScript(t, conn, script, Options{Schema: "public"})
			for _, note := range result.Notes {
				t.Log(note)
			}
			if result.Rows != rows {
				t.Errorf("%d rows, want %d: %+v", result.Rows, rows, result.Tables)
			}
			pgtest.RequireEqual(t, source, target, pgtest.Compare{})
			if path := conn.PgConn().ParameterStatus("standard_conforming_strings"); path != "on" {
				t.Errorf("standard_conforming_strings = %s", path)
			}
		})
	}
}

// TestBesideLive puts one tenant after another beside the one that is moved out
// of its way, and finds nothing touched outside.
func TestBesideLive(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.Zoo(t, db, pgtest.ZooOptions{})
	conn, other := connect(t, db), connect(t, db)
	for _, tenant := range pgtest.ZooTenants(t, db) {
		if !strings.HasPrefix(tenant, "zoo_") && !slices.Contains([]string{"Acme", "*", `with "quotes"`, "new\nline"}, tenant) {
			continue
		}
		opts := pgtest.Compare{Schemas: []string{tenant}}
		want := pgtest.Fingerprint(t, db, opts)
		for _, args := range [][]string{{"--clean"}, {}} {
			script := dump(t, db, append(args, "--schema", `"`+strings.ReplaceAll(tenant, `"`, `""`)+`"`)...)
			execSQL(t, conn, "BEGIN; ALTER SCHEMA "+pg.Identifier(tenant)+" RENAME TO aside")
			watch, err := NewWatch(t.Context(), conn, other)
			if err != nil {
				t.Fatal(err)
			}
			reader := NewReader(bytes.NewReader(script), ReaderOptions{})
			result, err := Run(t.Context(), conn, reader, Options{Schema: tenant})
			if err != nil {
				t.Fatalf("%s: %v", tenant, err)
			}
			touched, err := watch.Outside(t.Context(), tenant)
			if err != nil {
				t.Fatal(err)
			}
			for _, what := range touched {
				t.Errorf("%s: touched %s", tenant, what)
			}
			execSQL(t, conn, "DROP SCHEMA aside CASCADE; COMMIT")
			for _, note := range result.Notes {
				t.Log(tenant, note)
			}
		}
		pgtest.RequireState(t, want, db, opts)
	}
}

func TestSessionAuthorization(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, "CREATE ROLE plainsql_owner; GRANT CREATE ON DATABASE "+db.Name+` TO plainsql_owner; CREATE SCHEMA a AUTHORIZATION plainsql_owner;
		SET ROLE plainsql_owner; CREATE TABLE a.t (v int)`)
	script := dump(t, db, "--schema=a", "--use-set-session-authorization")
	db.Exec(t, "DROP SCHEMA a CASCADE")
	conn := connect(t, db)
	runScript(t, conn, script, Options{Schema: "a"})
	if got := db.Query(t, "SELECT tableowner FROM pg_tables WHERE schemaname = 'a'"); !cmp.Equal(got, []string{"plainsql_owner"}) {
		t.Errorf("owner %q", got)
	}
	var user string
	if err := conn.QueryRow(t.Context(), "SELECT current_user").Scan(&user); err != nil || user == "plainsql_owner" {
		t.Errorf("the session belongs to %s, %v", user, err)
	}
	execSQL(t, conn, "BEGIN; SET LOCAL ROLE plainsql_owner; DROP SCHEMA a CASCADE")
	_, err := Run(t.Context(), conn, NewReader(bytes.NewReader(script), ReaderOptions{}), Options{Schema: "a"})
	var refused *RefusedError
	if !errors.As(err, &refused) {
		t.Errorf("the role was changed: %v", err)
	}
	execSQL(t, conn, "ROLLBACK")
	db.Exec(t, "DROP OWNED BY plainsql_owner; DROP ROLE plainsql_owner")
}

func TestRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, "CREATE SCHEMA a; CREATE TABLE a.t (v text); CREATE SCHEMA b; CREATE TABLE b.t (v text)")
	conn := connect(t, db)
	for _, test := range []struct {
		script  string
		line    int
		outside bool // AllowOutside lets it pass the rules
	}{
		{"\n\n/* x /* y */ */ cOpY --\n a.t /**/ FROM\n pRoGrAm 'touch /tmp/x';", 3, false},
		{"COPY a.t FROM '/etc/passwd';", 1, false},
		{"COPY a.t TO PROGRAM 'cat';", 1, false},
		{"COPY (SELECT 1) TO STDOUT;", 1, false},
		{"COPY a.t FROM stdin (FORMAT binary);\n\\.\n", 1, false},
		{"COPY BINARY a.t FROM stdin;\n\\.\n", 1, false},
		{"ROLLBACK;", 1, false},
		{"SAVEPOINT x;", 1, false},
		{"RELEASE x;", 1, false},
		{"PREPARE TRANSACTION 'x';", 1, false},
		{"COMMIT PREPARED 'x';", 1, false},
		{"CREATE ROLE x;", 1, false},
		{"CREATE USER x;", 1, false},
		{"DROP TABLESPACE x;", 1, false},
		{"ALTER SYSTEM SET x = 1;", 1, false},
		{"LOAD 'x';", 1, false},
		{"LISTEN x;", 1, false},
		{"DISCARD ALL;", 1, false},
		{"CREATE INDEX CONCURRENTLY ON a.t (v);", 1, false},
		{"CREATE UNIQUE INDEX CONCURRENTLY ON a.t (v);", 1, false},
		{"GRANT pg_monitor TO CURRENT_USER;", 1, true},
		{"DROP SCHEMA b CASCADE;", 1, true},
		{"DROP SCHEMA a, b;", 1, true},
		{"CREATE SCHEMA c;", 1, true},
		{"ALTER SCHEMA a RENAME TO c;", 1, false},
		{"CREATE EXTENSION pg_trgm;", 1, true},
		{"CREATE OR REPLACE TRUSTED PROCEDURAL LANGUAGE plfoo;", 1, true},
		{"CREATE EVENT TRIGGER x ON ddl_command_end EXECUTE FUNCTION f();", 1, true},
		{"CREATE PUBLICATION x FOR ALL TABLES;", 1, true},
		{"ALTER TABLE ONLY b.t ADD w int;", 1, true},
		{"DROP TABLE IF EXISTS b.t;", 1, true},
		{"TRUNCATE TABLE ONLY b.t;", 1, true},
		{"INSERT INTO b.t VALUES (1);", 1, true},
		{"DELETE FROM b.t;", 1, true},
		{"COPY b.t FROM stdin;\n\\.\n", 1, true},
		{"CREATE CAST (integer AS text) WITH INOUT;", 1, true},
		{"CREATE CAST (a.t AS b.t) WITH INOUT;", 1, true},
		{"ALTER PUBLICATION p ADD TABLE ONLY a.t, b.t;", 1, true},
		{"ALTER PUBLICATION p ADD TABLES IN SCHEMA b;", 1, true},
		{"ALTER PUBLICATION p DROP TABLE a.t;", 1, true},
		{"ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC;", 1, true},
		{"ALTER DEFAULT PRIVILEGES IN SCHEMA b GRANT SELECT ON TABLES TO PUBLIC;", 1, true},
		{"GRANT USAGE ON SCHEMA b TO PUBLIC;", 1, true},
		{"GRANT SELECT ON ALL TABLES IN SCHEMA b TO PUBLIC;", 1, true},
		{"REASSIGN OWNED BY x TO y;", 1, true},
		{"SELECT pg_catalog.lo_create('0');", 1, true},
		{"SELECT lo_import('/etc/passwd');", 1, false},
		{"EXPORT DATA;", 1, false},
		{"\\connect elsewhere\n", 1, false},
	} {
		for _, allow := range []bool{false, true} {
			execSQL(t, conn, "BEGIN")
			_, err := Run(t.Context(), conn, NewReader(strings.NewReader(test.script), ReaderOptions{}), Options{Schema: "a", AllowOutside: allow})
			var refused *RefusedError
			if is := errors.As(err, &refused); is == (allow && test.outside) {
				t.Errorf("%q, allow %t: %v", test.script, allow, err)
			} else if is && (refused.Line != test.line || refused.Outside != test.outside || refused.Hint() == "") {
				t.Errorf("%q: %+v", test.script, refused)
			}
			execSQL(t, conn, "ROLLBACK")
		}
	}
}

// TestOneStatement shows that the server takes no text for two statements.
func TestOneStatement(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, "CREATE SCHEMA a; CREATE TABLE a.t (v text)")
	conn := connect(t, db)
	execSQL(t, conn, "BEGIN")
	r := &runner{conn: conn, script: NewReader(strings.NewReader(""), ReaderOptions{})}
	for _, kind := range []ItemKind{Statement, Copy} {
		item := &Item{Kind: kind, SQL: "COPY a.t FROM stdin; INSERT INTO a.t VALUES ('two')", Rows: &rows{r: r.script}}
		var err error
		if kind == Copy {
			err = r.copy(t.Context(), item)
		} else {
			r.pending = append(r.pending, item)
			err = r.flush(t.Context(), nil)
		}
		if pg.Code(err) != "42601" {
			t.Errorf("kind %d: %v", kind, err)
		}
		execSQL(t, conn, "ROLLBACK; BEGIN")
	}
}

func TestSkipped(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := connect(t, db)
	execSQL(t, conn, "SET lock_timeout = '7s'; SET search_path = 'public'")
	before, err := readSettings(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	result := runScript(t, conn, []byte(`
SET statement_timeout = 0;
SET lock_timeout = 0;
SET transaction_timeout = 0;
SET row_security = on;
SELECT pg_catalog.set_config('row_security', 'on', false);
SET default_with_oids = false;
SET no_such_setting = 1;
SET default_tablespace = 'nowhere';
SET SESSION AUTHORIZATION DEFAULT;
SET DateStyle = 'German';
SET work_mem TO '77MB';
SET TIME ZONE 'Europe/Berlin';
SET standard_conforming_strings = off;
SET session_replication_role = replica;
SELECT pg_catalog.set_config('search_path', '', false);
DROP DATABASE x;
CREATE DATABASE x;
ALTER DATABASE x OWNER TO postgres;
\connect `+db.Name+`
BEGIN ISOLATION LEVEL SERIALIZABLE;
DROP SCHEMA IF EXISTS a CASCADE;
DROP TABLE a.t;
ALTER TABLE IF EXISTS ONLY a.t DROP CONSTRAINT c;
ALTER TABLE a.t ALTER COLUMN v DROP DEFAULT;
CREATE SCHEMA a;
CREATE SCHEMA a;
CREATE SCHEMA public;
COMMENT ON SCHEMA public IS 'x';
CREATE EXTENSION IF NOT EXISTS plpgsql WITH SCHEMA pg_catalog;
CREATE OR REPLACE PROCEDURAL LANGUAGE plpgsql;
COMMENT ON EXTENSION plpgsql IS 'x';
CREATE TABLE a.t (v text) WITH (oids = false);
ALTER TABLE a.t OWNER TO no_such_role;
ALTER SCHEMA a OWNER TO no_such_role;
GRANT SELECT ON a.t TO no_such_role;
INSERT INTO a.t VALUES ('\'\n;'), ('b');
COPY "a"."t" FROM stdin;
c
\.
VACUUM a.t;
DO $$ BEGIN PERFORM set_config('extra_float_digits', '1', false); END $$;
COMMIT;
`), Options{Schema: "a", MissingRoles: true})
	if result.Rows != 3 {
		t.Errorf("%d rows", result.Rows)
	}
	if diff := cmp.Diff([]TableRows{{"a", "t", 3}}, result.Tables); diff != "" {
		t.Error(diff)
	}
	var notes []string
	for _, note := range result.Notes {
		notes = append(notes, note.String())
	}
	t.Log(strings.Join(notes, "\n"))
	if want := 15; len(notes) != want {
		t.Errorf("%d notes, want %d", len(notes), want)
	}
	if got := db.Query(t, "SELECT v FROM a.t"); !cmp.Equal(got, []string{"'\n;", "b", "c"}) {
		t.Errorf("got %q", got)
	}
	after, err := readSettings(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(after, func(name, _ string) bool { return strings.HasPrefix(name, "plpgsql.") }) // loaded by DO
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("settings outlive the script:\n%s", diff)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, "CREATE SCHEMA a; CREATE TABLE a.t (v int CHECK (v > 0))")
	conn := connect(t, db)
	for _, test := range []struct{ script, want string }{
		{"SELECT 1;\n\nSELECT\n  nonsense;", `run script: line 4: SELECT nonsense: ERROR: column "nonsense" does not exist (SQLSTATE 42703)`},
		{"COPY a.t FROM stdin;\n1\nx\n\\.\n", `run script: line 3: COPY a.t FROM stdin: ERROR: invalid input syntax for type integer: "x" (SQLSTATE 22P02); COPY t, line 2, column v: "x"`},
		{
			"COPY a.t FROM stdin;\n1\n-1\n\\.\n",
			`run script: line 3: COPY a.t FROM stdin: ERROR: new row for relation "t" violates check constraint "t_v_check" (SQLSTATE 23514); Failing row contains (-1).; COPY t, line 2: "-1"`,
		},
		{"COPY a.t FROM stdin;\n1\n", `run script: the script is cut: line 2: the rows that begin here have no line \. behind them`},
		{"ALTER TABLE a.t ADD CHECK (nothing > 1), DROP CONSTRAINT nothing;", `run script: line 1: ALTER TABLE a.t ADD CHECK (nothing > 1), DROP CONSTRAINT nothing: ERROR: constraint "nothing" of relation "t" does not exist (SQLSTATE 42704)`},
		{"SET client_encoding = 'SJIS';", "run script: line 1: the script has the encoding SJIS"},
		{"SELECT 1;\n\\! true\n", `run script: line 2: \! is a command for psql, not SQL, and is not run`},
	} {
		execSQL(t, conn, "BEGIN")
		_, err := Run(t.Context(), conn, NewReader(strings.NewReader(test.script), ReaderOptions{}), Options{Schema: "a"})
		if err == nil || err.Error() != test.want {
			t.Errorf("%q:\n got %v\nwant %s", test.script, err, test.want)
		}
		execSQL(t, conn, "ROLLBACK")
	}
	if _, err := Run(t.Context(), conn, NewReader(strings.NewReader(""), ReaderOptions{}), Options{}); err == nil {
		t.Error("ran without a transaction")
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, "CREATE SCHEMA a; CREATE TABLE a.t (v int)")
	for _, script := range []string{"SELECT pg_catalog.pg_sleep(60);", "COPY a.t FROM stdin;\n" + strings.Repeat("1\n", 1<<20)} {
		conn := connect(t, db)
		execSQL(t, conn, "BEGIN")
		ctx, cancel := context.WithCancel(t.Context())
		source := &slowly{script: strings.NewReader(script), then: cancel}
		began := time.Now()
		_, err := Run(ctx, conn, NewReader(source, ReaderOptions{}), Options{})
		if !errors.Is(err, context.Canceled) || time.Since(began) > 20*time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
	}
}

// slowly is a source that cancels when it comes to its end, and goes on.
type slowly struct {
	script *strings.Reader
	then   func()
}

func (s *slowly) Read(p []byte) (int, error) {
	if s.script.Len() < 1<<20 {
		s.then()
	}
	return s.script.Read(p)
}

// FuzzJudge looks for statements that the rules cannot take.
func FuzzJudge(f *testing.F) {
	for _, seed := range []string{"CREATE SCHEMA a", "GRANT a ON b.c TO d", "SET \"a\" = 1", "COPY a (b) FROM stdin (FORMAT csv)", "ALTER TABLE ONLY a DROP b", "SELECT set_config('a'", "U&\"x\" 'a'\n'b'", "COMMENT ON", "DROP SCHEMA a, b"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		for _, r := range []rules{{}, {schema: "a"}, {schema: "a", allowOutside: true, missingRoles: true}} {
			if v := r.judge(sql); (v.action == refuse || v.action == skip || v.action == try) && v.reason == "" {
				t.Errorf("no reason: %+v", v)
			}
		}
	})
}

func TestPowers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	powers, err := Powers(t.Context(), connect(t, db))
	if err != nil || len(powers) != 1 || !strings.Contains(powers[0], "superuser") {
		t.Errorf("%v %v", powers, err)
	}
}
