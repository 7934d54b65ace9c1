package restore_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/restore"
)

// later is what was made since the backup of tenant a and does not fit it, by
// the statements that make it, and what is said of it.
var later = []struct{ name, sql, problem, remedy string }{
	{
		"view of a column", `ALTER TABLE a.orders ADD "the Total" numeric; CREATE VIEW b.report AS SELECT id, "the Total" FROM a.orders`,
		`view b.report needs column a.orders."the Total", which this backup does not have`, "DROP VIEW b.report",
	},
	{
		"view of a table", `CREATE TABLE a.later (id int); CREATE VIEW b.report AS SELECT count(*) FROM a.later`,
		`view b.report needs table a.later, which`, "DROP VIEW b.report",
	},
	{
		"view of a type", `DROP VIEW a.names; ALTER TABLE a.customers ALTER name TYPE varchar(30); CREATE VIEW b.report AS SELECT name FROM a.customers`,
		`view b.report does not fit this backup: ERROR: cannot change data type of view column "name"`, "DROP VIEW b.report",
	},
	{
		"foreign key to a table", `CREATE TABLE a.later (id int PRIMARY KEY); CREATE TABLE b.child (p int CONSTRAINT k REFERENCES a.later)`,
		`foreign key k on b.child needs table a.later, which`, "ALTER TABLE b.child DROP CONSTRAINT",
	},
	{
		"foreign key to a column that was not unique", `ALTER TABLE a.orders ADD CONSTRAINT u UNIQUE (id, customer_id); CREATE TABLE b.child (i bigint, c bigint, CONSTRAINT k FOREIGN KEY (i, c) REFERENCES a.orders (id, customer_id))`,
		`foreign key k on b.child does not fit this backup: ERROR: there is no unique constraint matching given keys`, "ALTER TABLE b.child DROP CONSTRAINT",
	},
	{
		"function", `CREATE FUNCTION a.later() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE FUNCTION b.calls() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT a.later(); END`,
		`function b.calls() needs function a.later(), which`, "DROP ROUTINE b.calls()",
	},
	{
		"default", `CREATE SEQUENCE a.later; CREATE TABLE b.child (id bigint DEFAULT nextval('a.later'))`,
		`default b.child.id needs sequence a.later, which`, "ALTER COLUMN id DROP DEFAULT",
	},
	{
		"policy", `ALTER TABLE a.customers ADD later int; CREATE TABLE b.child (id int); CREATE POLICY p ON b.child USING (id IN (SELECT later FROM a.customers))`,
		`policy p on b.child needs column a.customers.later, which`, "DROP POLICY p ON b.child",
	},
	{
		"publication", `CREATE TABLE a.later (id int); CREATE PUBLICATION rehearsed FOR TABLE a.later`,
		`publication "rehearsed" needs table a.later, which`, `ALTER PUBLICATION "rehearsed" DROP TABLE`,
	},
	{
		"trigger", `CREATE FUNCTION a.later() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'; CREATE TABLE b.child (id int); CREATE TRIGGER g BEFORE INSERT ON b.child FOR EACH ROW EXECUTE FUNCTION a.later()`,
		`trigger g on b.child needs function a.later(), which`, "DROP TRIGGER g ON b.child",
	},
	{
		"check of a domain", `CREATE FUNCTION a.later(int) RETURNS boolean IMMUTABLE LANGUAGE sql AS 'SELECT true'; CREATE DOMAIN b.d AS int CONSTRAINT c CHECK (a.later(VALUE))`,
		`check constraint c on b.d needs function a.later(integer), which`, "ALTER DOMAIN b.d DROP CONSTRAINT",
	},
}

// What refers to a tenant from another and does not fit the backup is found
// before anything is touched, by a dry run too.
func TestMisfits(t *testing.T) {
	t.Parallel()
	for _, c := range later {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			shop(t, db, "a", "b")
			b := save(t, db)
			db.Exec(t, c.sql)
			before := pgtest.Fingerprint(t, db, pgtest.Compare{})
			for _, dry := range []bool{true, false} {
				_, n, err := b.into(t, t.Context(), db, only("a"), replace, func(o *restore.Options) { o.DryRun = dry })
				mustFind(t, err, c.problem, c.remedy)
				if n.rows > 0 {
					t.Errorf("%d rows were loaded", n.rows)
				}
			}
			pgtest.RequireState(t, before, db, pgtest.Compare{})
		})
	}
}

// What fits in another form is made to point at the restored tenant: keys of
// another type, views whose columns stay.
func TestOtherTypesFit(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "a", "b")
	b := save(t, db)
	db.Exec(t, `DROP VIEW a.names; ALTER TABLE a.orders DROP CONSTRAINT orders_customer_id_fkey; ALTER TABLE a.customers ALTER id TYPE int;
		CREATE TABLE b.child (p int REFERENCES a.customers (id)); CREATE VIEW b.report AS SELECT count(name) AS n FROM a.customers WHERE id > 3;
		CREATE TABLE b.part (p bigint, CONSTRAINT k FOREIGN KEY (p) REFERENCES a.customers (id)) PARTITION BY LIST (p)`)
	result, _, err := b.into(t, t.Context(), db, only("a"), replace)
	must(t, result, err)
	if got := db.Query(t, "SELECT n FROM b.report"); got[0] != "497" {
		t.Errorf("the view counts %s", got)
	}
}

// What is made while a tenant is restored is found before the rollback point is,
// and the tenant goes live when it is gone.
func TestMisfitsOfTheLastMoment(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "a", "b")
	b := save(t, db)
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	points := 0
	point := func(o *restore.Options) {
		o.Point = func(context.Context, []string) (string, error) { points++; return "", nil }
	}
	_, _, err := b.into(t, t.Context(), db, only("a"), replace, point, func(o *restore.Options) {
		o.Confirm = func(*restore.Plan) error {
			db.Exec(t, `ALTER TABLE a.orders ADD total int; CREATE VIEW b.report AS SELECT total FROM a.orders`)
			return nil
		}
	})
	var misfit *restore.MisfitError
	if !errors.As(err, &misfit) || len(misfit.Findings) != 1 || !strings.Contains(err.Error(), "view b.report needs column a.orders.total") || points != 0 {
		t.Fatalf("restore: %v, %d rollback points", err, points)
	}
	db.Exec(t, "DROP VIEW b.report")
	result, _, err := b.into(t, t.Context(), db, only("a"), replace, point, func(o *restore.Options) { o.Resume = true })
	must(t, result, err)
	dropOwn(t, db)
	pgtest.RequireState(t, before, db, pgtest.Compare{})
}

// Two tenants that refer to each other are tried together.
func TestRehearsalOfPeers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "a", "b", "c")
	db.Exec(t, `ALTER TABLE a.orders ADD visitor bigint REFERENCES b.customers (id); CREATE VIEW b.of_a AS SELECT id FROM a.orders; CREATE VIEW a.of_b AS SELECT id FROM b.of_a`)
	b := save(t, db)
	db.Exec(t, `ALTER TABLE b.customers ADD later int; CREATE VIEW c.report AS SELECT later FROM b.customers; CREATE VIEW c.fits AS SELECT * FROM a.of_b`)
	_, _, err := b.into(t, t.Context(), db, only("a", "b"), replace, func(o *restore.Options) { o.DryRun = true })
	mustFind(t, err, "view c.report needs column b.customers.later", "DROP VIEW c.report")
	db.Exec(t, "DROP VIEW c.report")
	result, _, err := b.into(t, t.Context(), db, only("a", "b"), replace)
	must(t, result, err)
}

// Owners, grants, policies and comments that the live tenant has and the backup
// has not, or the other way round, are told, before and after.
func TestAccessChanges(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "a")
	db.Exec(t, `CREATE ROLE access_one; CREATE ROLE "Access two";
		CREATE FUNCTION a.f(a.orders) RETURNS int LANGUAGE sql AS 'SELECT 1'; GRANT EXECUTE ON FUNCTION a.f TO access_one;
		GRANT SELECT ON a.customers TO access_one; COMMENT ON TABLE a.orders IS 'then'`)
	b := save(t, db)
	db.Exec(t, `REVOKE SELECT ON a.customers FROM access_one; GRANT UPDATE ON a.customers TO "Access two" WITH GRANT OPTION;
		GRANT SELECT (id) ON a.orders TO access_one; ALTER TABLE a.orders OWNER TO "Access two"; COMMENT ON TABLE a.orders IS 'it''s now';
		CREATE POLICY p ON a.orders FOR SELECT TO access_one USING (EXISTS (SELECT FROM a.customers)); ALTER TABLE a.orders ENABLE ROW LEVEL SECURITY;
		ALTER DEFAULT PRIVILEGES IN SCHEMA a GRANT SELECT ON TABLES TO access_one; GRANT USAGE ON SCHEMA a TO access_one;
		CREATE TABLE a.later (id int); GRANT SELECT ON a.later TO access_one`)
	user := db.Query(t, "SELECT current_user")[0]
	want := []restore.AccessChange{
		{Object: "column orders.id", Lost: []string{"SELECT for access_one"}},
		{Object: "schema", Lost: []string{"SELECT for access_one on new tables of " + user, "USAGE for access_one"}},
		{Object: "table customers", Lost: []string{`UPDATE for "Access two" with grant option`}, Gained: []string{"SELECT for access_one"}},
		{
			Object: "table orders",
			Lost: []string{
				"comment 'it''s now'", `owner "Access two"`,
				"policy p FOR SELECT TO access_one USING ((EXISTS ( SELECT\n   FROM customers)))", "row-level security",
			},
			Gained: []string{"comment 'then'", "owner " + user},
		},
	}
	check := func(what string, got []restore.AccessChange) {
		t.Helper()
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", what, diff)
		}
	}
	result, _, err := b.into(t, t.Context(), db, only("a"), replace, func(o *restore.Options) { o.DryRun = true })
	must(t, result, err)
	check("plan", result.Plan.Schemas[0].Access)
	result, _, err = b.into(t, t.Context(), db, only("a"), replace)
	must(t, result, err)
	check("result", result.Tenants[0].Access)
	if result.Plan.Schemas[0].Access != nil {
		t.Errorf("nobody asked, and definitions were tried")
	}
	result, _, err = b.into(t, t.Context(), db, only("a"), replace, func(o *restore.Options) { o.NoOwner, o.Preview = true, true })
	must(t, result, err)
	if len(result.Plan.Schemas[0].Access) != 0 {
		t.Errorf("the same backup once more: %+v", result.Plan.Schemas[0].Access)
	}
	db.Exec(t, `DROP SCHEMA a CASCADE`)
	dropOwn(t, db)
	db.Exec(t, `DROP OWNED BY access_one, "Access two"; DROP ROLE access_one, "Access two"`)
}
