package pg_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

// The schemas of these tests: their names need quotes, and look like others.
const (
	live     = `Live "1".x`
	staged   = `Live "1".x__staging`
	replaced = `Live "1".x__replaced`
)

// tenantSQL makes one of two schemas of the same shape. $S is its name, $V what
// tells its rows and functions from the other's.
const tenantSQL = `
	CREATE SCHEMA $S;
	CREATE TYPE $S.mood AS ENUM ('sad', 'happy');
	CREATE DOMAIN $S."Short" AS text CHECK (length(VALUE) < 50);
	CREATE TABLE $S."Parent.T" (id int, part int, name text, PRIMARY KEY (id, part), UNIQUE (id));
	INSERT INTO $S."Parent.T" SELECT n, n % 2, '$V ' || n FROM generate_series(1, 10) n;
	CREATE TABLE $S.parts (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
	CREATE TABLE $S.parts_1 PARTITION OF $S.parts FOR VALUES FROM (1) TO (100);
	INSERT INTO $S.parts VALUES (1, '$V');
	CREATE SEQUENCE $S.seq;
	CREATE VIEW $S.inner_view AS SELECT id, name FROM $S."Parent.T";
	CREATE FUNCTION $S.which() RETURNS text LANGUAGE sql IMMUTABLE AS $$ SELECT '$V'$$;
	CREATE FUNCTION $S.which(int) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$ SELECT $1 > 0$$;
	CREATE FUNCTION $S.on_row() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.note := '$V'; RETURN NEW; END$$;
	CREATE FUNCTION $S.on_event() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
	CREATE FUNCTION $S.pick(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1';
	CREATE FUNCTION $S.equal(int, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1::text = $2';
	CREATE OPERATOR $S.=== (LEFTARG = int, RIGHTARG = text, FUNCTION = $S.equal);
	CREATE TABLE $S.base (id int);
	CREATE TABLE $S.by_list (k int) PARTITION BY LIST (k);`

func tenant(schema, value string) string {
	return strings.NewReplacer("$S", pg.Identifier(schema), "$V", value).Replace(tenantSQL)
}

// pointers point into the schema $S in all ways that can be re-pointed.
const pointers = `
	CREATE SCHEMA "Other.S";
	GRANT USAGE ON SCHEMA "Other.S" TO PUBLIC;
	CREATE TABLE "Other.S"."Child" (id int, a int, b int, part int, note text,
		CONSTRAINT "to.Parent" FOREIGN KEY (a, part) REFERENCES $S."Parent.T" (id, part) ON UPDATE CASCADE ON DELETE SET NULL DEFERRABLE INITIALLY DEFERRED,
		CONSTRAINT not_valid FOREIGN KEY (b) REFERENCES $S."Parent.T" (id) MATCH FULL,
		CONSTRAINT "Check it" CHECK ($S.which(id)));
	ALTER TABLE "Other.S"."Child" DROP CONSTRAINT not_valid, ADD CONSTRAINT not_valid FOREIGN KEY (b) REFERENCES $S."Parent.T" (id) NOT VALID;
	COMMENT ON CONSTRAINT "to.Parent" ON "Other.S"."Child" IS E'it''s a \\ comment';
	COMMENT ON CONSTRAINT "Check it" ON "Other.S"."Child" IS 'checked';
	INSERT INTO "Other.S"."Child" (id, a, part) VALUES (1, 1, 1), (2, 2, 0), (3, NULL, 7), (4, NULL, NULL);
	SET CONSTRAINTS ALL IMMEDIATE;
	CREATE TABLE "Other.S".heir () INHERITS ("Other.S"."Child");

	CREATE TABLE "Other.S".parted (id int, p int REFERENCES $S.parts (id), note text) PARTITION BY LIST (id);
	CREATE TABLE "Other.S".parted_1 PARTITION OF "Other.S".parted FOR VALUES IN (1);
	CREATE TABLE "Other.S".parted_2 PARTITION OF "Other.S".parted FOR VALUES IN (2);
	INSERT INTO "Other.S".parted VALUES (1, 1), (2, NULL);

	CREATE VIEW "Other.S"."View 1" WITH (security_barrier = true, check_option = local) AS SELECT id AS "I d", part, name FROM $S."Parent.T" WHERE id > 2;
	COMMENT ON VIEW "Other.S"."View 1" IS 'a view';
	COMMENT ON COLUMN "Other.S"."View 1".name IS 'a column';
	GRANT SELECT, INSERT ON "Other.S"."View 1" TO PUBLIC;
	ALTER VIEW "Other.S"."View 1" ALTER COLUMN name SET DEFAULT 'from ' || $S.which();
	CREATE VIEW "Other.S".over_it AS SELECT v."I d", t.name FROM "Other.S"."View 1" v JOIN $S.inner_view t ON t.id = v."I d";
	CREATE VIEW "Other.S".over_over AS SELECT * FROM "Other.S".over_it;
	CREATE VIEW "Other.S".grouped AS SELECT id, part, name, count(*) FROM $S."Parent.T" GROUP BY id, part;
	CREATE RECURSIVE VIEW "Other.S".climb (n) AS SELECT 1 UNION ALL SELECT n + 1 FROM climb WHERE n < (SELECT max(id) FROM $S."Parent.T");
	CREATE VIEW "Other.S".operated AS SELECT id FROM $S."Parent.T" WHERE id OPERATOR($S.===) '3';
	CREATE RULE "Rule 1" AS ON INSERT TO "Other.S".over_over DO INSTEAD INSERT INTO $S."Parent.T" VALUES (NEW."I d", 0, NEW.name);
	COMMENT ON RULE "Rule 1" ON "Other.S".over_over IS 'a rule';
	CREATE TABLE "Other.S".ruled (id int);
	CREATE RULE also AS ON INSERT TO "Other.S".ruled DO ALSO UPDATE $S."Parent.T" SET name = 'ruled' WHERE id = NEW.id;
	ALTER TABLE "Other.S".ruled ENABLE ALWAYS RULE also;

	CREATE FUNCTION "Other.S".plain(x text DEFAULT $S.which()) RETURNS text LANGUAGE plpgsql STABLE SET search_path = '' AS 'BEGIN RETURN x; END';
	GRANT EXECUTE ON FUNCTION "Other.S".plain TO PUBLIC;

	CREATE DOMAIN "Other.S"."Dom" AS text DEFAULT $S.which() CONSTRAINT ok CHECK ($S.which(length(VALUE)));
	COMMENT ON CONSTRAINT ok ON DOMAIN "Other.S"."Dom" IS 'of a domain';
	CREATE TABLE "Other.S".defaults (id bigint DEFAULT nextval('$Q.seq'), "Which" text DEFAULT $S.which() || '!', d "Other.S"."Dom");
	CREATE TABLE "Other.S".defaults_2 () INHERITS ("Other.S".defaults);
	ALTER TABLE "Other.S".defaults_2 ALTER COLUMN "Which" SET DEFAULT 'else';

	CREATE TRIGGER "Trig 1" BEFORE INSERT ON "Other.S"."Child" FOR EACH ROW WHEN ($S.which(NEW.id)) EXECUTE FUNCTION $S.on_row('x', 'it''s');
	COMMENT ON TRIGGER "Trig 1" ON "Other.S"."Child" IS 'a trigger';
	CREATE TRIGGER off BEFORE UPDATE OF id ON "Other.S"."Child" FOR EACH ROW EXECUTE FUNCTION $S.on_row();
	ALTER TABLE "Other.S"."Child" DISABLE TRIGGER off;
	CREATE CONSTRAINT TRIGGER later AFTER INSERT ON "Other.S"."Child" FROM $S."Parent.T" DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION $S.on_row();
	ALTER TABLE "Other.S"."Child" ENABLE ALWAYS TRIGGER later;
	CREATE TRIGGER each BEFORE INSERT ON "Other.S".parted FOR EACH ROW EXECUTE FUNCTION $S.on_row();
	ALTER TABLE "Other.S".parted_2 ENABLE REPLICA TRIGGER each;

	CREATE TABLE "Other.S".guarded (id int);
	CREATE POLICY "Pol 1" ON "Other.S".guarded AS RESTRICTIVE FOR UPDATE TO PUBLIC USING ($S.which(id)) WITH CHECK (id IN (SELECT id FROM $S."Parent.T"));
	CREATE POLICY reading ON "Other.S".guarded FOR SELECT USING ($S.which() = 'x');

	CREATE PUBLICATION "Pub 1" FOR TABLE ONLY $S."Parent.T", "Other.S".guarded;`

// pointers15 are those that need version 15.
const pointers15 = `
	CREATE FUNCTION "Other.S".parsed(n int) RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT name FROM $S."Parent.T" WHERE id = n; END;
	COMMENT ON FUNCTION "Other.S".parsed IS 'a function';
	CREATE PROCEDURE "Other.S".parsed_too() LANGUAGE sql BEGIN ATOMIC UPDATE $S."Parent.T" SET name = 'procedure' WHERE id = 9; SELECT 1; END;
	CREATE VIEW "Other.S".calls WITH (security_invoker = on) AS SELECT "Other.S".parsed(2), name FROM $S."Parent.T" WHERE id = 2;
	CREATE PUBLICATION filtered FOR TABLE $S."Parent.T" (part, id, name) WHERE (id > 5), $S.parts_1 WITH (publish = 'insert');
	CREATE PUBLICATION whole FOR TABLES IN SCHEMA $S;`

func pointersTo(schema, sql string) string {
	return strings.NewReplacer("$S", pg.Identifier(schema), "$Q", strings.ReplaceAll(pg.Identifier(schema), "'", "''")).Replace(sql)
}

// definitions is what the objects that point say of themselves.
func definitions(t testing.TB, db *pgtest.Database) string {
	t.Helper()
	return strings.Join(db.Query(t, definitionsSQL), "\n")
}

const definitionsSQL = `
	SELECT concat_ws(' | ', c.relname, c.relkind, c.relacl, c.reloptions, pg_get_userbyid(c.relowner), obj_description(c.oid, 'pg_class'), v.def)
	FROM pg_class c LEFT JOIN LATERAL (SELECT pg_get_viewdef(c.oid) AS def) v ON c.relkind = 'v'
	WHERE relnamespace = '"Other.S"'::regnamespace
	UNION ALL SELECT concat_ws(' | ', conrelid::regclass, contypid::regtype, conname, pg_get_constraintdef(oid), convalidated, obj_description(oid, 'pg_constraint'))
	FROM pg_constraint WHERE connamespace = '"Other.S"'::regnamespace AND contype <> 'n'
	UNION ALL SELECT concat_ws(' | ', adrelid::regclass, adnum, pg_get_expr(adbin, adrelid)) FROM pg_attrdef
	UNION ALL SELECT concat_ws(' | ', typname, typdefault) FROM pg_type WHERE typname = 'Dom'
	UNION ALL SELECT concat_ws(' | ', tgrelid::regclass, pg_get_triggerdef(oid), tgenabled, obj_description(oid, 'pg_trigger'))
	FROM pg_trigger WHERE tgname !~ '^RI_'
	UNION ALL SELECT concat_ws(' | ', pg_get_ruledef(oid), ev_enabled, obj_description(oid, 'pg_rewrite')) FROM pg_rewrite WHERE rulename <> '_RETURN'
	UNION ALL SELECT concat_ws(' | ', pg_get_functiondef(oid), proacl, obj_description(oid, 'pg_proc')) FROM pg_proc WHERE pronamespace = '"Other.S"'::regnamespace
	UNION ALL SELECT concat_ws(' | ', policyname, permissive, roles, cmd, qual, with_check) FROM pg_policies
	UNION ALL SELECT concat_ws(' | ', to_jsonb(p) - 'oid') FROM pg_publication_tables p
	UNION ALL SELECT concat_ws(' | ', objoid::regclass, objsubid, description) FROM pg_description WHERE classoid = 'pg_class'::regclass AND objsubid > 0 AND objoid >= 16384
	ORDER BY 1`

func oidOf(t testing.TB, conn *pgx.Conn, schema string) (oid uint32) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), `SELECT oid FROM pg_namespace WHERE nspname = $1`, schema).Scan(&oid); err != nil {
		t.Fatal(err)
	}
	return oid
}

func listReferences(t testing.TB, conn *pgx.Conn, schema string) []pg.Reference {
	t.Helper()
	list, err := pg.ListReferences(t.Context(), conn, oidOf(t, conn, schema))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// show is a list of references without their statements.
func show(list []pg.Reference) string {
	var b strings.Builder
	for _, r := range list {
		fmt.Fprintf(&b, "%s %s %s -> %s", r.Kind, r.Schema, r.Object, strings.Join(r.Into, ", "))
		if r.Remedy != "" {
			fmt.Fprintf(&b, ": %s", r.Remedy)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// exchange is the transaction of the swap.
func exchange(ctx context.Context, conn *pgx.Conn, list []pg.Reference) error {
	var off, back []string
	for _, r := range list {
		off, back = append(off, r.TakeOff...), append(back, r.PutBack...)
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		statements := slices.Concat(pg.LocksOf(list), []string{
			`LOCK TABLE ` + pg.Identifier(live, "Parent.T") + `, ` + pg.Identifier(live, "parts") + ` IN ACCESS EXCLUSIVE MODE`,
		}, off, []string{
			"ALTER SCHEMA " + pg.Identifier(live) + " RENAME TO " + pg.Identifier(replaced),
			"ALTER SCHEMA " + pg.Identifier(staged) + " RENAME TO " + pg.Identifier(live),
		}, back)
		for _, sql := range statements {
			if _, err := tx.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
				return fmt.Errorf("%w\n%s", err, sql)
			}
		}
		return nil
	})
}

// TestRepoint exchanges a schema that everything points into, and looks where
// it points then.
func TestRepoint(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	db.Exec(t, tenant(live, "old"), tenant(staged, "new"), pointersTo(live, pointers))
	recent := pg.VersionNum(conn) >= 150000
	if recent {
		db.Exec(t, pointersTo(live, pointers15))
	}
	before := definitions(t, db)
	list := listReferences(t, conn, live)
	kinds := map[string]int{}
	for _, r := range list {
		kinds[r.Kind]++
		if r.Remedy != "" {
			t.Errorf("cannot be re-pointed: %s", show([]pg.Reference{r}))
		}
		if sql := r.Orphans(staged); sql != "" {
			if got := db.Query(t, sql); got[0] != "0" {
				t.Errorf("%s rows would be without a parent: %s", got[0], sql)
			}
		}
	}
	want := map[string]int{
		pg.ForeignKeyReference: 3, pg.ViewReference: 5, pg.RuleReference: 2, pg.FunctionReference: 1, pg.DefaultReference: 5,
		pg.TriggerReference: 4, pg.CheckReference: 2, pg.PolicyReference: 2, pg.PublicationReference: 1,
	}
	if recent {
		want[pg.ViewReference]++
		want[pg.FunctionReference] += 2
		want[pg.PublicationReference] += 3
	}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("references (-want +got):\n%s\n%s", diff, show(list))
	}
	if err := exchange(t.Context(), conn, list); err != nil {
		t.Fatal(err)
	}
	if left := listReferences(t, conn, replaced); len(left) > 0 {
		t.Errorf("still at the replaced schema:\n%s", show(left))
	}
	if diff := cmp.Diff(show(list), show(listReferences(t, conn, live))); diff != "" {
		t.Errorf("references into the new schema (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(before, definitions(t, db)); diff != "" {
		t.Errorf("definitions (-before +after):\n%s", diff)
	}
	for _, c := range []struct{ sql, want string }{
		{`SELECT name FROM "Other.S".over_over WHERE "I d" = 4`, "new 4"},
		{`SELECT count(*) FROM "Other.S".climb`, "10"},
		{`SELECT id FROM "Other.S".operated`, "3"},
		{`SELECT "Other.S".plain()`, "new"},
		{`INSERT INTO "Other.S".defaults DEFAULT VALUES RETURNING concat_ws(' ', id, "Which", d)`, "1 new! new"},
		{`INSERT INTO "Other.S".defaults_2 DEFAULT VALUES RETURNING concat_ws(' ', id, "Which", d)`, "2 else new"},
		{`INSERT INTO "Other.S"."Child" (id, a, part) VALUES (20, 10, 0) RETURNING note`, "new"},
		{`INSERT INTO "Other.S".parted VALUES (1, 1) RETURNING note`, "new"},
		{`WITH i AS (INSERT INTO "Other.S"."View 1" ("I d", part) VALUES (30, 0)) SELECT 'done'`, "done"},
		{`UPDATE ` + pg.Identifier(live, "Parent.T") + ` SET id = 100 WHERE id = 10 RETURNING name`, "new 10"},
		{`SELECT a FROM "Other.S"."Child" WHERE id = 20`, "100"},
		{`SELECT name FROM ` + pg.Identifier(replaced, "Parent.T") + ` WHERE id = 4`, "old 4"},
	} {
		if got := db.Query(t, c.sql); !slices.Equal(got, []string{c.want}) {
			t.Errorf("%s gave %q, want %q", c.sql, got, c.want)
		}
	}
}

// refused point into $S in ways that cannot be re-pointed. Each statement makes
// one reference: the kind, the object, and what the remedy has to say.
var refused = []struct{ sql, kind, object, remedy string }{
	{`CREATE MATERIALIZED VIEW "Other.S".mat AS SELECT * FROM $S."Parent.T"`, pg.MatviewReference, `"Other.S".mat`, `DROP MATERIALIZED VIEW "Other.S".mat`},
	{`CREATE TABLE "Other.S".a (id int, "Mood" $S.mood)`, pg.ColumnReference, `"Other.S".a."Mood"`, `ALTER TYPE "Live ""1"".x".mood SET SCHEMA`},
	{`CREATE TABLE "Other.S".b (m $S.mood[])`, pg.ColumnReference, `"Other.S".b.m`, `ALTER TYPE "Live ""1"".x".mood SET SCHEMA`},
	{`CREATE TABLE "Other.S".c (m $S."Short")`, pg.ColumnReference, `"Other.S".c.m`, `ALTER TYPE "Live ""1"".x"."Short" SET SCHEMA`},
	{`CREATE TABLE "Other.S".d (m $S."Parent.T")`, pg.ColumnReference, `"Other.S".d.m`, "a type outside of schema"},
	{`CREATE TYPE "Other.S".pair AS (m $S.mood)`, pg.ColumnReference, `"Other.S".pair.m`, "ALTER TYPE"},
	{`CREATE DOMAIN "Other.S".dom AS $S.mood`, "type", `"Other.S".dom`, `ALTER TYPE "Other.S".dom SET SCHEMA "Live ""1"".x"`},
	{`CREATE TYPE "Other.S".range AS RANGE (subtype = $S.mood)`, "type", `"Other.S".range`, "SET SCHEMA"},
	{`CREATE FUNCTION "Other.S".args($S."Parent.T") RETURNS int LANGUAGE sql AS 'SELECT 1'`, pg.SignatureReference, `"Other.S".args("Live ""1"".x"."Parent.T")`, `ALTER ROUTINE "Other.S".args("Live ""1"".x"."Parent.T") SET SCHEMA "Live ""1"".x"`},
	{`CREATE FUNCTION "Other.S".result() RETURNS TABLE (m $S.mood) LANGUAGE sql AS 'SELECT NULL::$Q.mood'`, pg.SignatureReference, `"Other.S".result()`, "ALTER ROUTINE"},
	{`CREATE AGGREGATE "Other.S".agg(int) (SFUNC = $S.pick, STYPE = int)`, "aggregate", `"Other.S".agg(integer)`, "drop it"},
	{`CREATE TABLE "Other.S".e (id int, g boolean GENERATED ALWAYS AS ($S.which(id)) STORED)`, pg.GeneratedReference, `"Other.S".e.g`, `ALTER TABLE "Other.S".e ALTER COLUMN g DROP EXPRESSION`},
	{`CREATE TABLE "Other.S".f (id int); CREATE INDEX "Index 1" ON "Other.S".f ($S.which(id))`, pg.IndexReference, `"Other.S"."Index 1"`, `DROP INDEX "Other.S"."Index 1" before the restore; afterwards CREATE INDEX`},
	{`CREATE TABLE "Other.S".g () INHERITS ($S.base)`, pg.InheritanceReference, `"Other.S".g`, `ALTER TABLE "Other.S".g NO INHERIT "Live ""1"".x".base`},
	{`CREATE TABLE "Other.S".h PARTITION OF $S.by_list FOR VALUES IN (1)`, pg.PartitionReference, `"Other.S".h`, `ALTER TABLE "Live ""1"".x".by_list DETACH PARTITION "Other.S".h before the restore; afterwards ALTER TABLE "Live ""1"".x".by_list ATTACH PARTITION "Other.S".h FOR VALUES IN (1)`},
	{`CREATE TABLE "Other.S".i (k int) PARTITION BY LIST (k); CREATE TABLE $S.of_i PARTITION OF "Other.S".i DEFAULT`, pg.PartitionReference, `"Other.S".i`, `ALTER TABLE "Other.S".i DETACH PARTITION "Live ""1"".x".of_i`},
	{`CREATE TABLE "Other.S".j (); CREATE TABLE $S.of_j () INHERITS ("Other.S".j)`, pg.InheritanceReference, `"Other.S".j`, "NO INHERIT"},
	{`CREATE TABLE "Other.S".k OF $S.comp`, pg.TypedTableReference, `"Other.S".k`, `ALTER TABLE "Other.S".k NOT OF`},
	{`CREATE TABLE "Other.S".l (k int) PARTITION BY LIST ($S.which(k))`, "table", `"Other.S".l`, "drop it"},
	{`CREATE EVENT TRIGGER "Event 1" ON ddl_command_end WHEN TAG IN ('CREATE CAST') EXECUTE FUNCTION $S.on_event()`, "event trigger", `"Event 1"`, "drop it"},
	{`CREATE CAST ("Other.S".own AS $S.mood) WITH INOUT`, pg.CastReference, `("Other.S".own AS "Live ""1"".x".mood)`, "DROP CAST"},
	{`CREATE STATISTICS "Other.S".stats ON id, part FROM $S."Parent.T"`, "statistics object", `"Other.S".stats`, `DROP STATISTICS "Other.S".stats`},
	{`CREATE OPERATOR "Other.S".=== (LEFTARG = int, RIGHTARG = text, FUNCTION = $S.equal)`, "operator", `"Other.S".===(integer,pg_catalog.text)`, "drop it"},
	{`CREATE EXTENSION citext SCHEMA $S`, pg.ExtensionReference, `citext`, "ALTER EXTENSION citext SET SCHEMA public"},
	{`CREATE VIEW "Other.S".moods AS SELECT m FROM $S.moody`, pg.ColumnReference, `"Other.S".moods.m`, "a type outside of schema"},
}

func TestRefusedReferences(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	s := pg.Identifier(live)
	db.Exec(t, tenant(live, "old"), `CREATE SCHEMA "Other.S"; CREATE TYPE "Other.S".own AS ENUM ('sad');
		CREATE TYPE `+s+`.comp AS (id int); CREATE TABLE `+s+`.moody (m `+s+`.mood);
		-- What comes back with the schema, or is nobody's.
		CREATE CAST (`+s+`.mood AS "Other.S".own) WITH INOUT; ALTER DEFAULT PRIVILEGES IN SCHEMA `+s+` GRANT SELECT ON TABLES TO PUBLIC;
		CREATE TABLE "Other.S".elsewhere (id int); CREATE PUBLICATION all_of_it FOR ALL TABLES`)
	if got := show(listReferences(t, conn, live)); got != "" {
		t.Errorf("references of nobody:\n%s", got)
	}
	// Other sessions' temporary objects are gone with them.
	if _, err := conn.Exec(t.Context(), `CREATE TEMP VIEW passing AS SELECT * FROM `+s+`."Parent.T"`); err != nil {
		t.Fatal(err)
	}
	for _, c := range refused {
		db.Exec(t, pointersTo(live, c.sql))
	}
	list := listReferences(t, conn, live)
	for _, c := range refused {
		at := slices.IndexFunc(list, func(r pg.Reference) bool { return r.Kind == c.kind && r.Object == c.object })
		if at < 0 {
			t.Errorf("%s %s is missing", c.kind, c.object)
			continue
		}
		r := list[at]
		if !strings.Contains(r.Remedy, c.remedy) || len(r.Lock)+len(r.TakeOff)+len(r.PutBack) > 0 || len(r.Into) == 0 {
			t.Errorf("%+v\nwant a remedy with %s", r, c.remedy)
		}
		list = slices.Delete(list, at, at+1)
	}
	for _, r := range list {
		if r.Kind != pg.ViewReference { // of the view with the column that is refused
			t.Errorf("more than was made: %s", show([]pg.Reference{r}))
		}
	}
}

// A role that may not change an object is told so before the swap.
func TestReferencesOfOthers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, tenant(live, "old"), `CREATE SCHEMA "Other.S"; CREATE VIEW "Other.S".v AS SELECT id FROM `+pg.Identifier(live, "Parent.T"))
	conn := db.Conn(t)
	if _, err := conn.Exec(t.Context(), `SET ROLE pg_monitor`); err != nil {
		t.Fatal(err)
	}
	list := listReferences(t, conn, live)
	if len(list) != 1 || len(list[0].PutBack) > 0 || !strings.Contains(list[0].Remedy, `GRANT "postgres" TO "pg_monitor"`) {
		t.Errorf("references %+v", list)
	}
	if _, err := conn.Exec(t.Context(), `SET search_path = public`); err != nil {
		t.Fatal(err)
	}
	if _, err := pg.ListReferences(t.Context(), conn, oidOf(t, conn, live)); err == nil || !strings.Contains(err.Error(), "search_path") {
		t.Errorf("with a search_path: %v", err)
	}
}

// Rows that would lose their parents are counted beforehand, and stop the swap.
func TestOrphans(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	db.Exec(t, tenant(live, "old"), tenant(staged, "new"), pointersTo(live, pointers),
		`DELETE FROM `+pg.Identifier(staged, "Parent.T")+` WHERE id < 3; DELETE FROM `+pg.Identifier(staged, "parts"))
	list := listReferences(t, conn, live)
	got := map[string]string{}
	for _, r := range list {
		if sql := r.Orphans(staged); sql != "" {
			got[r.Object] = db.Query(t, sql)[0]
		}
	}
	want := map[string]string{`"to.Parent" on "Other.S"."Child"`: "2", `parted_p_fkey on "Other.S".parted`: "1"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("orphans (-want +got):\n%s", diff)
	}
	before := definitions(t, db)
	if err := exchange(t.Context(), conn, list); pg.Code(err) != "23503" {
		t.Errorf("the exchange gave %v", err)
	}
	if diff := cmp.Diff(before, definitions(t, db)); diff != "" {
		t.Errorf("after an exchange that failed (-before +after):\n%s", diff)
	}
}

// Others that use the objects meanwhile wait, and nothing else: no deadlock, and
// no statement that fails.
func TestRepointUnderLoad(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	db.Exec(t, tenant(live, "old"), tenant(staged, "new"), pointersTo(live, pointers))
	ctx, stop := context.WithCancel(t.Context())
	group, ctx := errgroup.WithContext(ctx)
	var done atomic.Int64
	for _, sql := range []string{
		`SELECT count(*) FROM "Other.S".over_over`,
		`SELECT count(*) FROM "Other.S".over_it`,
		`SELECT count(*) FROM "Other.S".climb`,
		`INSERT INTO "Other.S"."Child" (id, a, part) VALUES (20, 10, 0)`,
		`INSERT INTO "Other.S".parted VALUES (1, 1), (2, NULL)`,
		`UPDATE ` + pg.Identifier(live, "Parent.T") + ` SET name = name || '' WHERE id < 5`,
	} {
		worker := db.Conn(t)
		group.Go(func() error {
			for ctx.Err() == nil {
				if _, err := worker.Exec(context.WithoutCancel(ctx), sql); err != nil {
					return fmt.Errorf("%w\n%s", err, sql)
				}
				done.Add(1)
			}
			return nil
		})
	}
	for range 10 {
		list := listReferences(t, conn, live)
		if err := exchange(t.Context(), conn, list); err != nil {
			t.Error(err)
			break
		}
		db.Exec(t, `ALTER SCHEMA `+pg.Identifier(replaced)+` RENAME TO `+pg.Identifier(staged))
		for seen := done.Load(); done.Load() < seen+50 && ctx.Err() == nil; {
			time.Sleep(time.Millisecond)
		}
	}
	stop()
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
}

// TestNeeds reads what the schemas of the zoo need of each other.
func TestNeeds(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.Zoo(t, db, pgtest.ZooOptions{})
	conn := db.Conn(t)
	needs, err := pg.ReadNeeds(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{"": needs[pg.NoSchema].Schemas}
	for _, s := range db.Query(t, `SELECT nspname FROM pg_namespace WHERE nspname ~ '^(zoo|public|Acme$)'`) {
		if n := needs[oidOf(t, conn, s)]; n != nil && len(n.Schemas) > 0 {
			got[s] = n.Schemas
		}
	}
	want := map[string][]string{
		"":            {"public"}, // functions of event triggers
		"public":      {"zoo_links"},
		"Acme":        {"public"},
		"zoo_keys":    {"public"},
		"zoo_links":   {"public", "zoo_links_b"},
		"zoo_links_b": {"public", "zoo_links"},
		"zoo_parts":   {"zoo_tables"},
		"zoo_tables":  {"zoo_parts"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("needs (-want +got):\n%s", diff)
	}
}
