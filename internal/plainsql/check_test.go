package plainsql

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

func check(t testing.TB, db *pgtest.Database, script string, opts Options) (*Summary, error) {
	t.Helper()
	reader, err := Open(strings.NewReader(script), ReaderOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	return Check(t.Context(), connect(t, db), reader.Reader, opts)
}

// What Check says of a dump is what Run does with it.
func TestCheckDump(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.Case(t, db, "pagila", "a")
	db.Exec(t, "CREATE TABLE public.core (id int PRIMARY KEY); CREATE TABLE a.of_core (id int REFERENCES public.core)")
	script := dump(t, db, "--schema", "a")
	summary, err := check(t, db, string(script), Options{})
	if err != nil {
		t.Fatal(err)
	}
	db.Exec(t, "ALTER SCHEMA a RENAME TO live")
	result := runScript(t, connect(t, db), script, Options{Schema: "a"})
	var filled []TableRows
	for _, table := range result.Tables {
		filled = append(filled, TableRows{table.Schema, table.Table, table.Rows})
	}
	if diff := cmp.Diff(filled, summary.Tables); diff != "" {
		t.Errorf("tables (- run, + check):\n%s", diff)
	}
	if summary.Rows != result.Rows || summary.Bytes != int64(len(script)) || !summary.Exact || summary.RefusedCount != 0 {
		t.Errorf("summary %+v", summary)
	}
	version := db.Query(t, "SELECT current_setting('server_version')")[0]
	version, _, _ = strings.Cut(version, " ")
	if o := summary.Origin; o.Program != "pg_dump" || o.Server != version || o.Version == "" {
		t.Errorf("origin %+v", o)
	}
	if diff := cmp.Diff([][]string{{"a"}, {"a"}, {"public.core"}}, [][]string{summary.Makes, summary.Uses, summary.Refers}); diff != "" {
		t.Error(diff)
	}
	if n := summary.Count("CREATE TABLE"); n != int64(len(db.Query(t, "SELECT 1 FROM pg_class WHERE relnamespace = 'a'::regnamespace AND relkind IN ('r', 'p')"))) {
		t.Errorf("%d tables", n)
	}
}

func TestCheckKinds(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for _, test := range []struct {
		name, script string
		exact        bool
		uses         []string
		refused      int
	}{
		{"rows", "CREATE TABLE a.t (id int); INSERT INTO a.t VALUES (1);", true, []string{"a"}, 0},
		{"setval", "SELECT pg_catalog.setval('a.s', 1); SELECT set_config('search_path', '', false);", true, nil, 0},
		{"query", "SELECT f();", false, nil, 0},
		{"update", "UPDATE a.t SET id = 2;", false, nil, 0},
		{"do", "DO $$ BEGIN END $$;", false, nil, 0},
		{"conflict", "INSERT INTO a.t VALUES (1) ON CONFLICT DO NOTHING;", false, []string{"a"}, 0},
		{"trigger behind", "INSERT INTO a.t VALUES (1); CREATE TRIGGER x AFTER INSERT ON a.t EXECUTE FUNCTION f();", true, []string{"a"}, 0},
		{"trigger before", "CREATE TRIGGER x AFTER INSERT ON a.t EXECUTE FUNCTION f(); INSERT INTO a.t VALUES (1);", false, []string{"a"}, 0},
		{"renamed", "ALTER TABLE a.t RENAME TO u;", false, nil, 0},
		{"temporary", "CREATE TEMP TABLE t (id int);", false, nil, 0},
		{"two schemas", "CREATE TABLE a.t (id int); CREATE VIEW b.v AS SELECT 1;", true, []string{"a", "b"}, 0},
		{"public is mentioned", "CREATE SCHEMA public; CREATE SCHEMA a; COMMENT ON SCHEMA public IS 'x';", true, []string{"a"}, 0},
		{"refused", "CREATE TABLE a.t (id int); DROP TABLE b.t; CREATE ROLE r; COPY a.t FROM PROGRAM 'id'; LISTEN x;", true, []string{"a"}, 4},
		{"other database", "\\connect nowhere\n", true, nil, 1},
		{"backslashes", "SET standard_conforming_strings = off; INSERT INTO a.t VALUES ('\\''); INSERT INTO a.t VALUES ('x');", true, []string{"a"}, 0},
	} {
		summary, err := check(t, db, test.script, Options{})
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if summary.Exact != test.exact || summary.RefusedCount != test.refused || !cmp.Equal(summary.Uses, test.uses) {
			t.Errorf("%s: %+v", test.name, summary)
		}
	}
	var command *CommandError
	if _, err := check(t, db, "SELECT 1;\n\\! id\n", Options{}); !errors.As(err, &command) || command.Line != 2 {
		t.Errorf("a command: %v", err)
	}
	var cut *CutError
	if summary, err := check(t, db, "COPY a.t FROM stdin;\n1\n", Options{}); !errors.As(err, &cut) || summary == nil {
		t.Errorf("rows without an end: %v", err)
	}
	many := strings.Repeat("LISTEN x;\n", 3*maxRefused)
	if summary, err := check(t, db, many, Options{Schema: "a"}); err != nil || len(summary.Refused) != maxRefused || summary.RefusedCount != 3*maxRefused {
		t.Errorf("many: %v, %+v", err, summary)
	}
	var told int64
	long := bytes.Repeat([]byte("SELECT 1;\n"), 1000)
	if _, err := check(t, db, string(long), Options{Progress: func(n, _ int64) { told += n }}); err != nil || told != int64(len(long)) {
		t.Errorf("progress: %d of %d bytes, %v", told, len(long), err)
	}
}
