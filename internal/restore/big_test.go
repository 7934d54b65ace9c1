package restore_test

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/restore"
)

// big makes tables that are big enough to be loaded and indexed one by one: one
// whose rows have a binary format, one of which a single row has not, one with a
// type that is not known, and an index that reads another table than its own.
func big(t testing.TB, db *pgtest.Database) {
	t.Helper()
	db.Exec(t, `
		CREATE SCHEMA big;
		CREATE TYPE big.mood AS ENUM ('glad', 'it''s');
		CREATE FUNCTION big.name_of(int) RETURNS text IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT ''name '' || id FROM big.odd WHERE id = $1 % 10 + 1); END';
		CREATE TABLE big.known (id int PRIMARY KEY, at timestamptz, mood big.mood, amount numeric(12,3), address inet, doc jsonb, note text, doubled int GENERATED ALWAYS AS (id * 2) STORED);
		INSERT INTO big.known SELECT n, '2024-02-28'::timestamptz + n * interval '1.3 days', CASE WHEN n % 2 = 0 THEN 'glad' ELSE 'it''s' END::big.mood, n / 7.0, '10.0.0.0'::inet + n,
			jsonb_build_object('n', n, 't', E'a\tb\\c'), CASE WHEN n % 9 > 0 THEN repeat(E'x\n\\N\t', 180) END FROM generate_series(1, 11000) n;
		CREATE INDEX ON big.known (at); CREATE INDEX ON big.known (mood, id);
		CREATE TABLE big.odd (id int PRIMARY KEY, at timestamptz, known int REFERENCES big.known (id), note text);
		INSERT INTO big.odd SELECT n, CASE WHEN n = 9000 THEN 'infinity' ELSE '2024-02-28'::timestamptz END, n, repeat('y', 1000) FROM generate_series(1, 10000) n;
		CREATE INDEX known_name ON big.known (big.name_of(id));
		CREATE TABLE big.strange (id int, span interval[], note text);
		INSERT INTO big.strange SELECT n, ARRAY[n * interval '1 hour'], repeat('z', 1000) FROM generate_series(1, 9000) n;
		CREATE UNIQUE INDEX ON big.strange (id);
		CREATE TABLE big.little (id int); INSERT INTO big.little SELECT generate_series(1, 100)`)
}

func TestBigTables(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	big(t, db)
	b := save(t, db)
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	requireIndex := func() {
		t.Helper()
		const query = "SELECT count(*) FROM big.known WHERE big.name_of(id) = 'name 3'"
		if plan := strings.Join(db.Query(t, "EXPLAIN "+query), "\n"); !strings.Contains(plan, "known_name") {
			t.Errorf("the index is not used:\n%s", plan)
		}
		if got := db.Query(t, query); got[0] != "1100" {
			t.Errorf("the index that reads another table finds %s rows", got[0])
		}
	}
	requireStatistics := func() {
		t.Helper()
		got := db.Query(t, "SELECT DISTINCT tablename FROM pg_catalog.pg_stats WHERE schemaname = 'big' AND tablename <> 'known_name' ORDER BY 1")
		if want := []string{"known", "little", "odd", "strange"}; !slices.Equal(got, want) {
			t.Errorf("tables with statistics: %q, want %q", got, want)
		}
	}

	db.Exec(t, "DROP SCHEMA big CASCADE")
	// One session takes the largest table, whose index reads another, first.
	result, _, err := b.into(t, t.Context(), db, only("big"), func(o *restore.Options) { o.Jobs = 1 })
	must(t, result, err)
	pgtest.RequireState(t, before, db, pgtest.Compare{})
	requireIndex()
	requireStatistics()

	db.Exec(t, "DELETE FROM big.odd; UPDATE big.known SET note = 'lost'")
	result, _, err = b.into(t, t.Context(), db, only("big"), replace)
	must(t, result, err)
	db.Exec(t, "DROP SCHEMA "+ident(result.Tenants[0].Replaced)+" CASCADE")
	pgtest.RequireState(t, before, db, pgtest.Compare{})
	requireIndex()
	requireStatistics()
}

// Rows of big tables that change under the restore are found, where the server
// sums them up and where it does not.
func TestComparisonOfBigTables(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	big(t, db)
	db.Exec(t, `
		CREATE ROLE big_restorer LOGIN; GRANT CREATE ON DATABASE `+pg.Identifier(db.Name)+` TO big_restorer;
		CREATE FUNCTION public.thief() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
			IF to_regclass('big.odd') IS NOT NULL THEN UPDATE big.odd SET note = '\N' WHERE note IS NULL; END IF;
			IF to_regclass('big.strange') IS NOT NULL THEN UPDATE big.strange SET span = '[0:0]={3:00:00}' WHERE id = 3; END IF;
		END $$;
		CREATE EVENT TRIGGER thief ON ddl_command_end WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION public.thief();
		ALTER EVENT TRIGGER thief DISABLE;
		UPDATE big.odd SET note = NULL WHERE id = 5`)
	b := save(t, db)
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	for _, c := range []struct {
		name, before string
		digested     bool
		change       func(*restore.Options)
	}{
		{"digested by the server", "", true, func(o *restore.Options) { o.Jobs = 1 }},
		{"an output function may not be called", "REVOKE EXECUTE ON FUNCTION pg_catalog.array_out(anyarray), pg_catalog.textout(text), pg_catalog.timestamptz_out(timestamptz) FROM PUBLIC", false, as(t, db, "big_restorer")},
	} {
		t.Log(c.name)
		var log strings.Builder
		change := []func(*restore.Options){only("big"), c.change, func(o *restore.Options) {
			o.NoOwner, o.NoPrivileges = true, true
			o.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
		}}
		db.Exec(t, "DROP SCHEMA big CASCADE; ALTER EVENT TRIGGER thief ENABLE; "+c.before)
		_, _, err := b.into(t, t.Context(), db, change...)
		for _, want := range []string{`table "big"."odd" has the 10000 rows of the backup, but with other contents`, `table "big"."strange" has the 9000 rows of the backup, but with other contents`} {
			if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "known") {
				t.Errorf("%s: %v, want %q", c.name, err, want)
			}
		}
		if got := schemas(t, db); got != "public" {
			t.Errorf("%s: schemas %s", c.name, got)
		}
		db.Exec(t, "ALTER EVENT TRIGGER thief DISABLE")
		log.Reset()
		result, _, err := b.into(t, t.Context(), db, change...)
		must(t, result, err)
		if digested, read := strings.Count(log.String(), "that of what was sent"), strings.Count(log.String(), "A table is read"); (digested == 3) != c.digested || digested+read != 3 {
			t.Errorf("%s: %d tables were compared by their digest and %d read", c.name, digested, read)
		}
		if c.before == "" {
			pgtest.RequireState(t, before, db, pgtest.Compare{})
		}
	}
}

// A type may have an output function that crashes at a null, for which COPY does
// not call it.
func TestTypeWithLooseOutput(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `
		CREATE SCHEMA loose;
		CREATE TYPE loose.word;
		CREATE FUNCTION loose.word_in(cstring) RETURNS loose.word LANGUAGE internal IMMUTABLE STRICT AS 'textin';
		CREATE FUNCTION loose.word_out(loose.word) RETURNS cstring LANGUAGE internal IMMUTABLE AS 'textout';
		CREATE TYPE loose.word (INPUT = loose.word_in, OUTPUT = loose.word_out, LIKE = text);
		CREATE TABLE loose.words (id int, word loose.word);
		INSERT INTO loose.words SELECT n, CASE WHEN n % 9 > 0 THEN repeat('w', 1000) END::text::loose.word FROM generate_series(1, 10000) n`)
	b := save(t, db)
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	db.Exec(t, "DROP SCHEMA loose CASCADE")
	result, _, err := b.into(t, t.Context(), db, only("loose"))
	must(t, result, err)
	pgtest.RequireState(t, before, db, pgtest.Compare{})
}

// A foreign key that the rows of the backup do not keep is reported, and is
// there for all rows to come.
func TestForeignKeyOfBigTableThatDoesNotHold(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	big(t, db)
	db.Exec(t, "SET session_replication_role = replica; DELETE FROM big.known WHERE id = 77; RESET session_replication_role")
	b := save(t, db)
	db.Exec(t, "DROP SCHEMA big CASCADE")
	result, _, err := b.into(t, t.Context(), db, only("big"))
	if err == nil || result == nil || len(result.Tenants) != 1 || len(result.Tenants[0].Problems) != 1 {
		t.Fatalf("result %+v, error %v", result, err)
	}
	p := result.Tenants[0].Problems[0]
	if p.Kind != "FK CONSTRAINT" || !strings.Contains(p.Object, "odd_known_fkey") || !strings.Contains(p.SQL, "VALIDATE CONSTRAINT") {
		t.Errorf("problem %+v", p)
	}
	if got := db.Query(t, "SELECT convalidated FROM pg_constraint WHERE conname = 'odd_known_fkey'"); len(got) != 1 || got[0] != "f" {
		t.Errorf("the foreign key: %v", got)
	}
	if got := db.Query(t, "SELECT count(*) FROM big.odd"); got[0] != "10000" {
		t.Errorf("%v rows", got)
	}
}
