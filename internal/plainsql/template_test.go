package plainsql

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

// Whatever a value holds, it stays a value.
func TestTemplateValues(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE TABLE public.kept (n int, b boolean, t text, a int[])`)
	conn := db.Conn(t)
	evil := `'; DROP TABLE public.kept; -- $1 :n "`
	template, err := ParseTemplate(`
		-- :not_this, and /* :nor */ this
		CREATE TABLE public.:"table" (":x" text DEFAULT ':y' || E'\':z' || $$:w$$);
		INSERT INTO public.kept VALUES (:n, :b, :'evil' || ':evil', (ARRAY[1, 2, :n])[2:3]); ;
		UPDATE public.kept SET t = t || :evil::text || ':n'::text WHERE n=:n`)
	if err != nil {
		t.Fatal(err)
	}
	if got := template.Parameters(); !slices.Equal(got, []string{"b", "evil", "n", "table"}) {
		t.Errorf("parameters %q", got)
	}
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := template.Run(t.Context(), conn.PgConn(), map[string]string{"n": "7", "b": "yes", "evil": evil, "table": `a"b; --`}); err != nil {
		t.Fatal(err)
	}
	if err := tx.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := db.Query(t, `SELECT t FROM public.kept WHERE n = 7 AND b AND a = '{2,7}'`)
	if !slices.Equal(got, []string{evil + ":evil" + evil + ":n"}) {
		t.Errorf("got %q", got)
	}
	if got := db.Query(t, `INSERT INTO public."a""b; --" DEFAULT VALUES RETURNING ":x"`); !slices.Equal(got, []string{":y':z:w"}) {
		t.Errorf("the default is %q", got)
	}
}

func TestTemplateErrors(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                                  "line 1: there is no statement",
		" -- nothing\n;":                    "line 1: there is no statement",
		"SELECT 1;\nselect 'x":              "line 2: a string, name or comment has no end",
		"SELECT 1;\n\n/* x */ commit":       "line 3: COMMIT cannot be used",
		"rollback":                          "line 1: ROLLBACK cannot be used",
		"COPY t FROM stdin":                 "line 1: COPY cannot be used",
		"SELECT $1":                         "line 1: $1 is no parameter here",
		"SELECT 1;\n\\! rm":                 "line 2: a backslash begins a command of psql",
		"SELECT 1;\x00 SELECT :n":           "line 1: there are zero bytes in it",
		"SELECT 1; PREPARE TRANSACTION 'x'": "line 1: PREPARE cannot be used",
	} {
		var e *TemplateError
		if _, err := ParseTemplate(text); !errors.As(err, &e) || err.Error() != want || e.Hint() == "" {
			t.Errorf("%q: %v", text, err)
		}
	}
	db := pgtest.New(t)
	conn := db.Conn(t)
	template, err := ParseTemplate("SELECT 1;\nSELECT 1 / (:n::int)")
	if err != nil {
		t.Fatal(err)
	}
	err = pgx.BeginFunc(t.Context(), conn, func(pgx.Tx) error {
		return template.Run(t.Context(), conn.PgConn(), map[string]string{"n": "0"})
	})
	var e *StatementError
	if !errors.As(err, &e) || e.Line != 2 || !strings.Contains(err.Error(), "division by zero") {
		t.Errorf("error %v", err)
	}
}
