package pgtest_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

// mutant is a small database with something of each kind to spoil.
const mutant = `
	DO $do$
	BEGIN
		CREATE ROLE oracle_one;
	EXCEPTION WHEN duplicate_object OR unique_violation THEN
		NULL;
	END
	$do$;
	CREATE SCHEMA s;
	CREATE TYPE s.e AS ENUM ('a', 'b');
	CREATE DOMAIN s.d AS integer CHECK (VALUE > 0);
	CREATE TYPE s.c AS (a integer, b text);
	CREATE FUNCTION s.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
	CREATE TABLE s.t (id serial PRIMARY KEY, a text, b text DEFAULT 'x', n numeric, f float8, ar integer[], e s.e, CONSTRAINT ck CHECK (id > 0));
	INSERT INTO s.t (a, n, f, ar) VALUES ('one', 1.0, 0, '{1}'), ('', 2, 'NaN', '{}'), (NULL, 3, 1, NULL), ('twice', NULL, NULL, NULL);
	CREATE TABLE s.twins (a integer);
	INSERT INTO s.twins VALUES (1), (1), (2);
	CREATE TABLE s.bare ();
	INSERT INTO s.bare DEFAULT VALUES;
	CREATE INDEX i ON s.t (a);
	CREATE TRIGGER tr BEFORE INSERT ON s.t FOR EACH ROW EXECUTE FUNCTION s.f();
	CREATE VIEW s.v AS SELECT id FROM s.t;
	CREATE MATERIALIZED VIEW s.m AS SELECT id FROM s.t;
	CREATE SEQUENCE s.q;
	CREATE POLICY p ON s.t USING (true);
	CREATE RULE r AS ON DELETE TO s.twins DO ALSO NOTHING;
	CREATE STATISTICS s.st ON a, b FROM s.t;
	CREATE TABLE s.part (k integer) PARTITION BY LIST (k);
	CREATE TABLE s.part_1 PARTITION OF s.part FOR VALUES IN (1, 2);
	CREATE TABLE s.hashed (e s.e) PARTITION BY HASH (e);
	CREATE TABLE s.hashed_0 PARTITION OF s.hashed FOR VALUES WITH (MODULUS 1, REMAINDER 0);
	INSERT INTO s.part VALUES (1);
	INSERT INTO s.hashed VALUES ('a');
	CREATE PUBLICATION pub FOR TABLE s.t;
	CREATE EXTENSION cube SCHEMA public VERSION '1.4';
	SELECT pg_catalog.lo_from_bytea(777, 'content')`

// TestOracleSeesEveryChange spoils one thing after the other. Each state is
// compared with the one before, in both directions.
func TestOracleSeesEveryChange(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, mutant)

	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	pgtest.RequireState(t, before, db, pgtest.Compare{})
	for _, change := range []string{
		`UPDATE s.t SET a = 'One' WHERE a = 'one'`,
		`UPDATE s.t SET a = NULL WHERE a = ''`,
		`UPDATE s.t SET n = 1.00 WHERE n = 1.0`,
		`UPDATE s.t SET f = '-0' WHERE f = 0`,
		`UPDATE s.t SET ar = '[0:0]={1}' WHERE ar = '{1}'`,
		`UPDATE s.t SET a = b, b = a WHERE id = 1`,
		`UPDATE s.twins SET a = 2 WHERE ctid = '(0,1)'`,
		`INSERT INTO s.t SELECT 100, 'twice'`,
		`DELETE FROM s.t WHERE id = 100`,
		`TRUNCATE s.bare`,
		`UPDATE s.part SET k = 2`,
		`UPDATE s.hashed SET e = 'b'`,
		`SELECT pg_catalog.nextval('s.q')`,
		`SELECT pg_catalog.nextval('s.q')`,
		`SELECT pg_catalog.setval('s.t_id_seq', 4, false)`,
		`INSERT INTO s.t VALUES (50); REFRESH MATERIALIZED VIEW s.m`,
		`REFRESH MATERIALIZED VIEW s.m WITH NO DATA`,
		`GRANT SELECT ON s.t TO oracle_one`,
		`GRANT UPDATE (a) ON s.t TO oracle_one`,
		`REVOKE SELECT ON s.t FROM oracle_one`,
		`REVOKE EXECUTE ON FUNCTION s.f() FROM PUBLIC`,
		`ALTER DEFAULT PRIVILEGES IN SCHEMA s GRANT SELECT ON TABLES TO oracle_one`,
		`ALTER TABLE s.twins OWNER TO oracle_one`,
		`ALTER SCHEMA s OWNER TO oracle_one`,
		`COMMENT ON TABLE s.t IS 'a'`,
		`COMMENT ON COLUMN s.t.a IS 'a'`,
		`COMMENT ON INDEX s.i IS E'a\n'`,
		`COMMENT ON INDEX s.i IS 'a'`,
		`DROP INDEX s.i`,
		`ALTER TABLE s.t ALTER b DROP DEFAULT`,
		`ALTER TABLE s.t ALTER b SET NOT NULL; ALTER TABLE s.t ALTER b DROP NOT NULL; ALTER TABLE s.t ALTER a SET STATISTICS 7`,
		`ALTER TABLE s.t ALTER a SET STORAGE EXTERNAL`,
		`ALTER TABLE s.t ALTER a SET COMPRESSION pglz`,
		`ALTER TABLE s.t SET (fillfactor = 50)`,
		`ALTER TABLE s.t REPLICA IDENTITY FULL`,
		`ALTER TABLE s.t CLUSTER ON t_pkey`,
		`ALTER TABLE s.t DISABLE TRIGGER tr`,
		`ALTER TABLE s.t ENABLE ALWAYS TRIGGER tr`,
		`DROP TRIGGER tr ON s.t`,
		`ALTER TABLE s.t ENABLE ROW LEVEL SECURITY`,
		`ALTER TABLE s.t FORCE ROW LEVEL SECURITY`,
		`ALTER POLICY p ON s.t USING (false)`,
		`ALTER TABLE s.twins DISABLE RULE r`,
		`DROP STATISTICS s.st`,
		`ALTER TABLE s.t DROP CONSTRAINT ck`,
		`ALTER TABLE s.t ADD CONSTRAINT ck CHECK (id > 0) NOT VALID`,
		`ALTER TABLE s.t VALIDATE CONSTRAINT ck`,
		`ALTER TYPE s.e ADD VALUE 'c' BEFORE 'b'`,
		`ALTER DOMAIN s.d SET DEFAULT 1`,
		`ALTER TYPE s.c ADD ATTRIBUTE z integer`,
		`CREATE OR REPLACE VIEW s.v AS SELECT id FROM s.t WHERE id > 1`,
		`ALTER VIEW s.v SET (security_barrier)`,
		`CREATE OR REPLACE FUNCTION s.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN  RETURN NEW; END'`,
		`ALTER FUNCTION s.f() SET search_path = s`,
		`ALTER SEQUENCE s.q INCREMENT 2`,
		`ALTER SEQUENCE s.q OWNED BY s.t.id`,
		`ALTER TABLE s.twins SET UNLOGGED`,
		`ALTER TABLE s.part DETACH PARTITION s.part_1`,
		`ALTER PUBLICATION pub ADD TABLE s.part`,
		`CREATE SCHEMA nothing`,
		`CREATE CAST (s.c AS s.e) WITH INOUT`,
		`ALTER EXTENSION cube UPDATE TO '1.5'`,
		`ALTER EXTENSION cube SET SCHEMA nothing`,
		`SELECT pg_catalog.lo_put(777, 0, 'C')`,
		`GRANT SELECT ON LARGE OBJECT 777 TO oracle_one`,
		`COMMENT ON LARGE OBJECT 777 IS 'c'`,
		`ALTER LARGE OBJECT 777 OWNER TO oracle_one`,
		`SELECT pg_catalog.lo_unlink(777)`,
		`CREATE ACCESS METHOD am TYPE TABLE HANDLER heap_tableam_handler`,
		`DROP TABLE s.bare; CREATE TABLE s.bare () USING am`,
		`DROP TABLE s.bare`,
		`ALTER TABLE s.t RENAME a TO aa`,
	} {
		db.Exec(t, change)
		now := pgtest.Fingerprint(t, db, pgtest.Compare{})
		if before.Diff(now) == "" || now.Diff(before) == "" {
			t.Errorf("no difference seen after: %s", change)
		}
		before = now
	}
}

func TestCompareLeavesOut(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		opts   pgtest.Compare
		change string
	}{
		"other schemas": {pgtest.Compare{Schemas: []string{"s"}}, `CREATE TABLE public.other (a integer); SELECT pg_catalog.lo_unlink(777)`},
		"owner":         {pgtest.Compare{NoOwner: true}, `ALTER TABLE s.t OWNER TO oracle_one; ALTER LARGE OBJECT 777 OWNER TO oracle_one`},
		"privileges":    {pgtest.Compare{NoPrivileges: true}, `GRANT ALL ON s.t TO oracle_one; GRANT SELECT ON LARGE OBJECT 777 TO PUBLIC`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			db.Exec(t, mutant)
			before, all := pgtest.Fingerprint(t, db, test.opts), pgtest.Fingerprint(t, db, pgtest.Compare{})
			db.Exec(t, test.change)
			pgtest.RequireState(t, before, db, test.opts)
			if all.Diff(pgtest.Fingerprint(t, db, pgtest.Compare{})) == "" {
				t.Error("the change is not seen at all")
			}
		})
	}
}

// recorder keeps what a test would say when it fails.
type recorder struct {
	testing.TB
	message string
}

func (r *recorder) Fatalf(format string, args ...any) {
	r.message = fmt.Sprintf(format, args...)
	panic(r)
}

func TestRequireEqualShowsTheRows(t *testing.T) {
	t.Parallel()
	one, two := pgtest.New(t), pgtest.New(t)
	one.Exec(t, mutant)
	two.Exec(t, mutant)
	pgtest.RequireEqual(t, one, two, pgtest.Compare{})
	two.Exec(t, `UPDATE s.t SET a = 'changed' WHERE a = 'one'; COMMENT ON VIEW s.v IS 'new'`)

	r := &recorder{TB: t}
	func() {
		defer func() {
			if recover() != r {
				t.Fatal("RequireEqual has not failed the test")
			}
		}()
		pgtest.RequireEqual(r, one, two, pgtest.Compare{})
	}()
	for _, want := range []string{"- rows of s.t: (one,", "+ rows of s.t: (changed,", "+ COMMENT ON VIEW s.v IS 'new'"} {
		if !strings.Contains(r.message, want) {
			t.Errorf("message lacks %q:\n%s", want, r.message)
		}
	}
}
