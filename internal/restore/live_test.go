package restore_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/restore"
)

func replace(o *restore.Options) { o.Replace = true }

// A tenant in use goes back to its backup, with all that points at it, and
// nothing else changes.
func TestLiveSwap(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "a", "b")
	db.Exec(t, `
		CREATE VIEW b.of_a AS SELECT count(*) AS customers FROM a.customers;
		CREATE TABLE b.visits (customer bigint REFERENCES a.customers (id));
		INSERT INTO b.visits VALUES (1), (2);
		ALTER PUBLICATION shop_publication ADD TABLE a.orders`)
	b := save(t, db)
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	db.Exec(t, `
		COMMENT ON SCHEMA a IS 'changed';
		DELETE FROM a.orders; UPDATE a.customers SET name = 'overwritten';
		ALTER TABLE a.customers ADD COLUMN extra int;
		DROP INDEX a.by_name; CREATE TABLE a.later (id int)`)

	result, _, err := b.into(t, t.Context(), db, only("a"), replace)
	must(t, result, err)
	got := result.Tenants[0]
	if got.Replaced == "" || got.Blocked <= 0 {
		t.Errorf("result: %+v", got)
	}
	if n := db.Query(t, "SELECT count(*) FROM "+got.Replaced+".customers WHERE name = 'overwritten'"); n[0] != "500" {
		t.Errorf("the replaced schema has %s of its rows", n)
	}
	db.Exec(t, "DROP SCHEMA "+got.Replaced+" CASCADE")
	pgtest.RequireState(t, before, db, pgtest.Compare{})
	if list := schemas(t, db); strings.Contains(list, "staging") {
		t.Errorf("schemas: %s", list)
	}
}

// The indexes of a big table are built side by side, in place.
func TestLiveSwapOfBigTable(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `
		CREATE SCHEMA "Big one";
		CREATE FUNCTION "Big one".key(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT lower($1)';
		CREATE TABLE "Big one".parent (id int PRIMARY KEY); INSERT INTO "Big one".parent SELECT generate_series(1, 10);
		CREATE TABLE "Big one".big (id int GENERATED ALWAYS AS IDENTITY, code int NOT NULL, parent int, v text, during int4range,
			CONSTRAINT "the key" PRIMARY KEY (id) INCLUDE (code), CONSTRAINT codes UNIQUE (code) DEFERRABLE INITIALLY DEFERRED,
			CONSTRAINT apart EXCLUDE USING gist (during WITH &&),
			CONSTRAINT of_parent FOREIGN KEY (parent) REFERENCES "Big one".parent (id),
			CONSTRAINT later FOREIGN KEY (parent) REFERENCES "Big one".parent (id) NOT VALID);
		INSERT INTO "Big one".big (code, parent, v, during) SELECT n, n % 10 + 1, repeat(n::text, 300), int4range(n, n + 1) FROM generate_series(1, 8000) n;
		CREATE INDEX by_key ON "Big one".big ("Big one".key(left(v, 20))) WHERE code > 5;
		CREATE UNIQUE INDEX fill ON "Big one".big (code DESC) WITH (fillfactor = 70);
		CREATE INDEX wide ON "Big one".big (parent, code);
		ALTER TABLE "Big one".big CLUSTER ON wide;
		ALTER TABLE "Big one".big REPLICA IDENTITY USING INDEX fill;
		COMMENT ON INDEX "Big one".by_key IS 'an index'; COMMENT ON CONSTRAINT codes ON "Big one".big IS 'a constraint'`)
	b := save(t, db)
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	db.Exec(t, `DELETE FROM "Big one".big WHERE id > 5`)
	result, _, err := b.into(t, t.Context(), db, only("Big one"), replace)
	must(t, result, err)
	db.Exec(t, "DROP SCHEMA "+ident(result.Tenants[0].Replaced)+" CASCADE")
	pgtest.RequireState(t, before, db, pgtest.Compare{})
}

// Every kind of object survives the way through a staging schema.
func TestLiveSwapZoo(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.Zoo(t, db, pgtest.ZooOptions{})
	b := save(t, db)
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	for _, name := range pgtest.ZooTenants(t, db) {
		result, _, err := b.into(t, t.Context(), db, only(name), replace)
		must(t, result, err)
		if err != nil {
			continue
		}
		db.Exec(t, "DROP SCHEMA "+ident(result.Tenants[0].Replaced)+" CASCADE")
	}
	pgtest.RequireState(t, before, db, pgtest.Compare{})
}

func TestRestoreUnderAnotherName(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "a")
	db.Exec(t, `
		CREATE FUNCTION a.of_text() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM a.customers';
		CREATE FUNCTION a.of_oid() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM a.customers; END;
		CREATE FUNCTION a.with_path() RETURNS int LANGUAGE plpgsql SET search_path = a, public AS 'BEGIN RETURN 1; END';
		CREATE VIEW a.strings AS SELECT 'a.customers'::text AS t, 'aa' AS other, 'of a' AS third`,
		`CREATE TABLE a.a (a text DEFAULT 'a'); INSERT INTO a.a DEFAULT VALUES; CREATE TABLE a.a_log (id serial, a text)`)
	b := save(t, db)
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	db.Exec(t, "INSERT INTO a.a VALUES ('later')")
	as := func(name string) func(*restore.Options) { return func(o *restore.Options) { o.As = name } }
	result, _, err := b.into(t, t.Context(), db, only("a"), as("Copy of a"))
	must(t, result, err)
	for query, want := range map[string]string{
		`SELECT a FROM "Copy of a".a`:                              "a",
		`SELECT count(*) FROM "Copy of a".names`:                   "500",
		`SELECT count(*) FROM a.a`:                                 "2",
		`SELECT pg_get_serial_sequence('"Copy of a".a_log', 'id')`: `"Copy of a".a_log_id_seq`,
	} {
		if got := db.Query(t, query); !slices.Equal(got, []string{want}) {
			t.Errorf("%s: %s, want %s", query, got, want)
		}
	}
	var told []string
	for _, n := range result.Tenants[0].Notes {
		told = append(told, strings.SplitN(n, " names schema", 2)[0])
	}
	want := []string{`function "Copy of a".of_text()`, `function "Copy of a".with_path()`, `view "Copy of a".strings`, `column "Copy of a".a.a`}
	if !slices.Equal(told, want) {
		t.Errorf("what names the old schema: %q, want %q", told, want)
	}
	_, _, err = b.into(t, t.Context(), db, only("a"), as("Copy of a"))
	mustFind(t, err, `schema "Copy of a" exists already`, "--as")
	db.Exec(t, `DELETE FROM a.a WHERE a = 'later'; DROP SCHEMA "Copy of a" CASCADE`)
	pgtest.RequireState(t, before, db, pgtest.Compare{})
}

func TestSingleTables(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "a")
	db.Exec(t, `CREATE ROLE restore_reader; GRANT SELECT ON ALL TABLES IN SCHEMA a TO restore_reader;
		COMMENT ON TABLE a.customers IS 'not asked for'; COMMENT ON VIEW a.names IS 'neither'; CREATE TABLE a."line
DROP" (id int)`)
	b := save(t, db)
	db.Exec(t, "DELETE FROM a.orders WHERE id <= 40")
	result, _, err := b.into(t, t.Context(), db, only("a"), func(o *restore.Options) { o.As, o.Tables = "look", []string{"orders"} })
	must(t, result, err)
	if got := db.Query(t, "SELECT count(*) FROM look.orders o WHERE NOT EXISTS (SELECT FROM a.orders l WHERE l.id = o.id)"); got[0] != "40" {
		t.Errorf("%s rows come back", got)
	}
	if got := db.Query(t, "SELECT relname FROM pg_class WHERE relnamespace = 'look'::regnamespace AND relkind IN ('r', 'v') ORDER BY 1"); !slices.Equal(got, []string{"orders"}) {
		t.Errorf("relations %s", got)
	}
	if result.Tables != 1 || result.Rows != 300 {
		t.Errorf("%d tables, %d rows", result.Tables, result.Rows)
	}
	// Two within one second, without a name.
	now := time.Now()
	given := map[string]bool{}
	for range 2 {
		result, _, err := b.into(t, t.Context(), db, only("a"), func(o *restore.Options) { o.Tables, o.Now = []string{"orders"}, func() time.Time { return now } })
		must(t, result, err)
		given[result.Tenants[0].As] = true
		if got := db.Query(t, "SELECT count(*) FROM "+ident(result.Tenants[0].As)+".orders"); got[0] != "300" {
			t.Errorf("%s rows in %s", got, result.Tenants[0].As)
		}
	}
	if len(given) != 2 {
		t.Errorf("names given: %v", given)
	}
}

func ident(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func TestRollback(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "a")
	b := save(t, db)
	saved := pgtest.Fingerprint(t, db, pgtest.Compare{})
	db.Exec(t, "DELETE FROM a.orders; COMMENT ON SCHEMA a IS 'as of today'")
	result, _, err := b.into(t, t.Context(), db, only("a"), replace)
	must(t, result, err)
	list, err := restore.ListReplaced(t.Context(), server(t, db))
	if err != nil || len(list) != 1 || list[0].Schema != "a" || list[0].Tables != 2 || list[0].Backup != b.manifest.ID || list[0].Name != result.Tenants[0].Replaced {
		t.Fatalf("replaced: %+v, %v", list, err)
	}
	o := restore.RollbackOptions{Server: server(t, db), Schemas: []string{"a"}}
	back, err := restore.Rollback(t.Context(), o)
	if err != nil || back.Schemas[0].Replaced == "" {
		t.Fatalf("rollback: %+v, %v", back, err)
	}
	hide := func(name string) { db.Exec(t, "DROP SCHEMA "+ident(name)+" CASCADE") }
	again, err := restore.Rollback(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	hide(again.Schemas[0].Replaced) // that of today
	pgtest.RequireState(t, saved, db, pgtest.Compare{})
	if _, err := restore.Rollback(t.Context(), o); err == nil {
		t.Error("there is nothing to go back to, and no error")
	}
	result, _, err = b.into(t, t.Context(), db, only("a"), replace)
	must(t, result, err)
	db.Exec(t, "DROP SCHEMA a CASCADE")
	if back, err = restore.Rollback(t.Context(), o); err != nil || back.Schemas[0].Replaced != "" {
		t.Fatalf("rollback without a live schema: %+v, %v", back, err)
	}
	pgtest.RequireState(t, saved, db, pgtest.Compare{})
}

// Somebody works in a schema whose comment says that its restore is not done: it
// is kept like any other that is replaced.
func TestMarkedSchemaIsKept(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "a")
	b := save(t, db)
	db.Exec(t, `COMMENT ON SCHEMA a IS 'tenantkeep: restore of 20260101_000000 not finished'; INSERT INTO a.orders VALUES (1000, 1)`)
	result, _, err := b.into(t, t.Context(), db, only("a"), replace)
	must(t, result, err)
	if got := db.Query(t, "SELECT count(*) FROM "+ident(result.Tenants[0].Replaced)+".orders"); got[0] != "301" {
		t.Errorf("the replaced schema has %s orders", got)
	}
	_, _, err = b.into(t, t.Context(), db, only("a"), func(o *restore.Options) { o.Replace, o.As = true, "a_then" })
	must(t, nil, err)
	db.Exec(t, `COMMENT ON SCHEMA a_then IS 'tenantkeep: restore of 20260101_000000 not finished'`)
	_, _, err = b.into(t, t.Context(), db, only("a"), func(o *restore.Options) { o.Replace, o.As = true, "a_then" })
	mustFind(t, err, `schema "a_then" exists already`, "--as")
}
