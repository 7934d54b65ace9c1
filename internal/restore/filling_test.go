package restore

import (
	"errors"
	"strings"
	"testing"

	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

func parseServer(t *testing.T, db *pgtest.Database) *pg.Server {
	t.Helper()
	server, err := pg.Parse(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	return server
}

// Whatever was made since the mark goes, of every kind; whatever was there stays.
func TestFillingIsCleared(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	server := parseServer(t, db)
	db.Exec(t, `
		CREATE SCHEMA mine; CREATE TYPE mine.mood AS ENUM ('good'); CREATE FUNCTION mine.f() RETURNS int LANGUAGE sql AS 'SELECT 1';
		CREATE VIEW mine.v AS SELECT 'good'::mine.mood AS now; CREATE SEQUENCE mine.s; COMMENT ON SCHEMA public IS 'ours';
		CREATE SCHEMA zoo_ext; CREATE EXTENSION ltree SCHEMA zoo_ext; CREATE LANGUAGE mine HANDLER plpgsql_call_handler; CREATE PUBLICATION mine;
		CREATE FOREIGN DATA WRAPPER mine; CREATE SERVER mine FOREIGN DATA WRAPPER mine; SELECT lo_from_bytea(4711, 'x'); CREATE CAST (mine.mood AS int) WITH INOUT`)
	compare := pgtest.Compare{NoPrivileges: true} // default privileges, and grants on public, stay
	before := pgtest.Fingerprint(t, db, compare)
	conn, err := server.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close(conn)
	c, err := ReadContents(t.Context(), conn)
	if err != nil || !c.Empty() || len(c.Others) != 4 {
		t.Fatalf("contents %+v, %v", c, err)
	}
	if _, err := BeginFilling(t.Context(), conn, "zoo", "here", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := BeginFilling(t.Context(), conn, "zoo", "there", nil); err == nil {
		t.Error("a database with a mark got another one")
	}
	db.Exec(t, "DROP SCHEMA zoo_ext CASCADE") // the zoo makes it anew
	pgtest.Zoo(t, db, pgtest.ZooOptions{})
	c, err = ReadContents(t.Context(), conn)
	if err != nil || c.Filling == nil || c.InUse() || c.Empty() {
		t.Fatalf("contents %+v, %v", c, err)
	}
	refused := func(want string) {
		t.Helper()
		var filling *FillingError
		if err := c.Filling.Clear(t.Context(), server, func([]string) {}); !errors.As(err, &filling) || !strings.Contains(err.Error(), want) || filling.Hint() == "" {
			t.Errorf("error %v, want %s", err, want)
		}
	}
	refused("is none of those that it was to make from zoo")
	c.Filling.Makes = db.Query(t, "SELECT nspname FROM pg_namespace")
	refused("were changed or deleted")
	db.Exec(t, "SELECT pg_stat_reset()")
	var names []string
	if err := c.Filling.Clear(t.Context(), server, func(list []string) { names = list }); err != nil {
		t.Fatal(err)
	}
	if len(names) < 10 {
		t.Errorf("it said that it clears %q", names)
	}
	db.Exec(t, "CREATE SCHEMA zoo_ext; CREATE EXTENSION ltree SCHEMA zoo_ext")
	pgtest.RequireState(t, before, db, compare)
	refused("its mark is gone")
}
