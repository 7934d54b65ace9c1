package pg_test

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgcluster"
	"github.com/tenantkeep/tenantkeep/internal/pgdump"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

// fingerprinted takes the fingerprints of all schemas, and core's as "core".
func fingerprinted(t *testing.T, server *pg.Server) map[string]string {
	t.Helper()
	ctx := t.Context()
	conn, err := server.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close(conn)
	tx, _, err := pg.ExportSnapshot(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	f, err := pg.NewFingerprinter(ctx, tx)
	if err != nil {
		t.Fatal(err)
	}
	schemas, err := pg.ListSchemas(ctx, tx)
	if err != nil {
		t.Fatal(err)
	}
	var core, tenants []uint32
	for _, s := range schemas {
		if s.Name == "public" || s.OnlyExtensions {
			core = append(core, s.OID)
		} else {
			tenants = append(tenants, s.OID)
		}
	}
	byOID, err := f.Schemas(ctx, tenants)
	if err != nil {
		t.Fatal(err)
	}
	taken := map[string]string{}
	for _, s := range schemas {
		if fingerprint, ok := byOID[s.OID]; ok {
			taken[s.Name] = fingerprint
		}
	}
	if len(taken) != len(tenants) {
		t.Fatalf("%d fingerprints of %d schemas", len(taken), len(tenants))
	}
	if taken["core"], err = f.Core(ctx, core); err != nil {
		t.Fatal(err)
	}
	var changed bool
	err = tx.QueryRow(ctx, `SELECT bool_or(source = 'session' AND name IN ('work_mem', 'seq_page_cost', 'random_page_cost') AND setting <> reset_val) FROM pg_settings`).Scan(&changed)
	if err != nil || changed {
		t.Fatalf("settings are left behind (%v)", err)
	}
	return taken
}

// digested reads the digests that tell of each schema, with those of core and of
// what else it names.
func digested(t *testing.T, server *pg.Server) map[string]string {
	t.Helper()
	ctx := t.Context()
	conn, err := server.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close(conn)
	schemas, err := pg.ListSchemas(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	needs, err := pg.ReadNeeds(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	var core []uint32
	byName := map[string]uint32{}
	for _, s := range schemas {
		byName[s.Name] = s.OID
		if s.Name == "public" || s.OnlyExtensions {
			core = append(core, s.OID)
		}
	}
	d, err := pg.ReadCatalogDigests(ctx, []pg.Querier{conn}, pg.VersionNum(conn), core, nil)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	others := func(oids ...uint32) (digests string) {
		for _, oid := range oids {
			if n := needs[oid]; n != nil {
				for _, other := range n.Schemas {
					digests += d.Schemas[byName[other]] + other
				}
			}
		}
		return digests
	}
	for _, s := range schemas {
		if !slices.Contains(core, s.OID) {
			all[s.Name] = d.Core + d.Schemas[s.OID] + others(s.OID)
		}
	}
	all["core"] = d.Core + d.LargeObjects + others(append(core, pg.NoSchema)...)
	few, err := pg.ReadCatalogDigests(ctx, []pg.Querier{conn}, pg.VersionNum(conn), core, []uint32{byName["app"]})
	if err != nil {
		t.Fatal(err)
	}
	if few.Core != d.Core || few.Schemas[byName["app"]] != d.Schemas[byName["app"]] {
		t.Error("read alone, the digests of app are others")
	}
	return all
}

// moment is a snapshot with the state of the catalogs in it.
type moment struct{ xids, sum string }

// unchanged reports whether the state of the catalogs is still that of a moment,
// and returns that of now.
func (m moment) unchanged(t *testing.T, server *pg.Server) (bool, moment) {
	t.Helper()
	ctx := t.Context()
	conn, err := server.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close(conn)
	tx, snapshot, err := pg.ExportSnapshot(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	state, err := pg.ReadCatalogState(ctx, tx, pg.VersionNum(conn))
	if err != nil {
		t.Fatal(err)
	}
	same, err := state.SameSince(ctx, tx, m.xids, m.sum)
	if err != nil {
		t.Fatal(err)
	}
	now := moment{xids: snapshot.XIDs}
	if state != nil {
		now.sum = state.Sum
	}
	return same, now
}

// differing lists the keys at which two maps differ.
func differing[V any](a, b map[string]V, equal func(V, V) bool) []string {
	var names []string
	all := maps.Clone(a)
	maps.Copy(all, b)
	for name := range all {
		x, inA := a[name]
		y, inB := b[name]
		if inA != inB || !equal(x, y) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func same(a, b string) bool { return a == b }

// scripts is what pg_dump writes, by schema, and for core as "core": without the
// order, which depends on identifiers of objects, and without what is not core's
// though pg_dump writes it with the database's objects.
func scripts(t *testing.T, db *pgtest.Database, server *pg.Server, core []string) map[string][]string {
	t.Helper()
	program := os.Getenv("TENANTKEEP_TEST_PG_DUMP")
	if program == "" {
		program = db.Cluster().Programs.Path("pg_dump")
	}
	archive, err := pgdump.Run(t.Context(), pgdump.Options{Program: program, Connect: server.Hijacked, LargeObjects: true})
	if err != nil {
		t.Fatal(err)
	}
	texts := map[string][]string{}
	for s := range archive.Statements() {
		name := s.Schema
		switch {
		case s.Kind == "CAST" || strings.HasPrefix(s.Tag, "CAST ") || strings.HasPrefix(s.Kind, "PUBLICATION TABLE"):
			continue
		case name == "" || slices.Contains(core, name):
			name = "core"
		}
		texts[name] = append(texts[name], fmt.Sprint(s.Section, " ", s.Tablespace, " ", s.AccessMethod, "\n", s.SQL))
	}
	for _, list := range texts {
		slices.Sort(list)
	}
	return texts
}

// change is one change of definitions and the schemas whose fingerprints change
// by it, separated by blanks.
type change struct {
	sql, changes string
	since        int // major version
}

// TestFingerprintsSeeEveryChange changes one thing after another, of each kind
// that PostgreSQL has. The judge besides the table is pg_dump: where it writes
// something else, the fingerprint must be another.
func TestFingerprintsSeeEveryChange(t *testing.T) {
	t.Parallel()
	// A transaction of autovacuum would make what is written beside it look young.
	cluster := pgtest.StartCluster(t, map[string]string{"allow_in_place_tablespaces": "on", "autovacuum": "off"})
	db := pgtest.NewIn(t, cluster)
	pgtest.Zoo(t, db, pgtest.ZooOptions{BigValue: 1})
	db.Exec(t, fingerprintSetup)
	server, err := pg.Parse(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	core := []string{"public", "only_extensions"}
	const judged = 40 // changes between two runs of pg_dump, which take most of the time
	eachDump := os.Getenv("TENANTKEEP_TEST_EACH_DUMP") != ""

	fingerprints, texts, digests := fingerprinted(t, server), scripts(t, db, server, core), digested(t, server)
	var at moment
	_, at = at.unchanged(t, server)
	for _, sql := range []string{`INSERT INTO bystander.t VALUES (1000)`, `DELETE FROM bystander.t WHERE id = 1000`, `VACUUM ANALYZE bystander.t`, `CREATE TEMP TABLE passing (id int); DROP TABLE passing`} {
		db.Exec(t, sql)
	}
	if same, _ := at.unchanged(t, server); same != (cluster.Programs.Major >= 14) {
		t.Errorf("after changes of rows the catalogs are the same: %t", same)
	}
	seen := map[string]bool{} // to have changed since pg_dump ran
	for i, c := range changesOfDefinitions {
		if cluster.Programs.Major < c.since {
			continue
		}
		db.Exec(t, c.sql)
		before := fingerprints
		fingerprints = fingerprinted(t, server)
		digestsBefore := digests
		digests = digested(t, server)
		var unnoticed bool
		if unnoticed, at = at.unchanged(t, server); unnoticed && len(differing(digestsBefore, digests, same)) > 0 {
			t.Errorf("%s\nleaves the state of the catalogs as it was", c.sql)
		}
		for _, name := range strings.Fields(c.changes) {
			// Subscriptions are in no backup: pg_dump is told to leave them out.
			if digestsBefore[name] == digests[name] && !strings.Contains(c.sql, "SUBSCRIPTION") {
				t.Errorf("%s\nleaves the digest of %s as it was", c.sql, name)
			}
		}
		changed := differing(before, fingerprints, same)
		want := strings.Fields(c.changes)
		slices.Sort(want)
		if !slices.Equal(want, changed) {
			t.Errorf("%s\nchanges the fingerprints of %q, want %q", c.sql, changed, want)
		}
		for _, name := range changed {
			seen[name] = true
		}
		if !eachDump && i%judged != judged-1 && i != len(changesOfDefinitions)-1 {
			continue
		}
		textsBefore := texts
		texts = scripts(t, db, server, core)
		for _, name := range differing(textsBefore, texts, slices.Equal) {
			if !seen[name] {
				t.Errorf("%s\nor one before: pg_dump writes something else for %s, but the fingerprint is the same:\n%s", c.sql, name, cmp.Diff(textsBefore[name], texts[name]))
			}
		}
		clear(seen)
	}
}

const fingerprintSetup = `
CREATE SCHEMA only_extensions;
CREATE EXTENSION isn SCHEMA only_extensions;
CREATE ROLE fp_one; CREATE ROLE fp_two;
CREATE SCHEMA lib; -- what others use
CREATE TYPE lib.inner_part AS (a integer, b integer);
CREATE TYPE lib.outer_part AS (i lib.inner_part, n integer);
CREATE TYPE lib.colour AS ENUM ('red', 'green');
CREATE DOMAIN lib.small AS integer;
CREATE DOMAIN lib.smaller AS lib.small;
CREATE TABLE lib.ref (id integer PRIMARY KEY, code text UNIQUE, other text);
CREATE TABLE lib.parent (id integer, t text DEFAULT 'x');
CREATE TABLE lib.parts (k integer, t text) PARTITION BY LIST (k);
CREATE INDEX parts_t ON lib.parts (t);
CREATE VIEW lib.seen AS SELECT id, other FROM lib.ref;
CREATE SEQUENCE lib.numbers;
CREATE FUNCTION lib.twice(x integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT 2 * x';
CREATE FUNCTION lib.fires() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE FUNCTION lib.rows_of() RETURNS SETOF lib.outer_part LANGUAGE sql AS 'SELECT NULL::lib.inner_part, 1';
CREATE FUNCTION lib.eq(integer, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT true';
CREATE OPERATOR lib.=== (LEFTARG = integer, RIGHTARG = text, FUNCTION = lib.eq);
CREATE COLLATION lib.plain FROM "C";
CREATE TEXT SEARCH DICTIONARY lib.dict (TEMPLATE = simple);
CREATE TEXT SEARCH CONFIGURATION lib.config (COPY = simple);
CREATE TABLE lib.tabled (id integer, c lib.colour);
CREATE SCHEMA app; -- the one that uses it
CREATE TABLE app.t (
	id integer PRIMARY KEY DEFAULT nextval('lib.numbers'), r integer REFERENCES lib.ref (id), c lib.colour, cs lib.colour[], s lib.smaller,
	p lib.outer_part, t text COLLATE lib.plain, CHECK (id OPERATOR(lib.===) 'x'));
CREATE TABLE app.child (extra integer) INHERITS (lib.parent);
CREATE TABLE app.part PARTITION OF lib.parts FOR VALUES IN (1);
CREATE INDEX by_twice ON app.t (lib.twice(id));
CREATE INDEX by_words ON app.t USING gin (to_tsvector('lib.config'::regconfig, t));
CREATE TRIGGER fires BEFORE INSERT ON app.t FOR EACH ROW EXECUTE FUNCTION lib.fires();
CREATE VIEW app.v AS SELECT s.id, (t.p).i, ((t.p).i).b FROM lib.seen s JOIN app.t ON t.id = s.id;
CREATE VIEW app.f AS SELECT * FROM lib.rows_of() WITH ORDINALITY;
CREATE FUNCTION app.calls() RETURNS integer LANGUAGE sql BEGIN ATOMIC SELECT lib.twice(1); END;
CREATE TEXT SEARCH CONFIGURATION app.config (PARSER = "default");
ALTER TEXT SEARCH CONFIGURATION app.config ADD MAPPING FOR word WITH lib.dict;
CREATE TABLE app.typed OF lib.outer_part;
CREATE STATISTICS app.of_other ON id, c FROM lib.tabled;
CREATE SCHEMA bystander;
CREATE TABLE bystander.t (id integer PRIMARY KEY);
`

// ordinaryWork changes rows and storage, but no definition. Each is a
// transaction of its own.
var ordinaryWork = []string{
	`INSERT INTO app.t (id, c) VALUES (1, 'red'), (2, NULL)`,
	`UPDATE app.t SET c = 'green'`,
	`DELETE FROM app.t WHERE id = 1`,
	`SELECT nextval('lib.numbers'), setval('zoo_types.seq_plain', 70)`,
	`TRUNCATE zoo_keys.bookings RESTART IDENTITY`,
	`SELECT lo_put(4200001, 5, 'x')`,
	`CREATE TEMPORARY TABLE t (c lib.colour, r integer); CREATE TEMPORARY VIEW v AS SELECT * FROM app.t`,
	`REFRESH MATERIALIZED VIEW zoo_code.m_base`,
	`REFRESH MATERIALIZED VIEW CONCURRENTLY zoo_code.m_base`,
	`ANALYZE`,
	`VACUUM (FREEZE)`,
	`VACUUM FULL`,
	`CLUSTER`,
	`REINDEX SCHEMA CONCURRENTLY zoo_keys`,
	`REINDEX SCHEMA CONCURRENTLY lib`,
	`REINDEX SCHEMA CONCURRENTLY zoo_tables`,
	`REINDEX TABLE CONCURRENTLY app.t`,
	`CREATE ROLE fp_else`,
	`CREATE SCHEMA passing CREATE TABLE t (id integer)`,
	`DROP SCHEMA passing CASCADE`,
}

// TestFingerprintsStay works with the rows, reorganises the storage, restarts
// the server and reads in another way.
func TestFingerprintsStay(t *testing.T) {
	t.Parallel()
	cluster := pgtest.StartCluster(t, nil)
	db := pgtest.NewIn(t, cluster)
	pgtest.Zoo(t, db, pgtest.ZooOptions{BigValue: 1})
	db.Exec(t, fingerprintSetup)
	server, err := pg.Parse(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	before := fingerprinted(t, server)
	stay := func(after string) {
		t.Helper()
		now := fingerprinted(t, server)
		delete(now, "passing")
		if changed := differing(before, now, same); len(changed) > 0 {
			t.Errorf("%s: other fingerprints for %q", after, changed)
			before = now
		}
	}
	for _, sql := range ordinaryWork {
		db.Exec(t, "SET client_min_messages = error", sql)
		stay(sql)
	}
	if err := cluster.Stop(pgcluster.Immediate); err != nil {
		t.Fatal(err)
	}
	if err := cluster.Restart(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	stay("crash of the server")
}

// TestFingerprintsOfFewAndMany takes the same fingerprints schema by schema and
// all at once, by which the statements are others.
func TestFingerprintsOfFewAndMany(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.Zoo(t, db, pgtest.ZooOptions{BigValue: 1})
	conn := db.Conn(t)
	schemas, err := pg.ListSchemas(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	f, err := pg.NewFingerprinter(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	var oids []uint32
	alone := map[uint32]string{}
	for _, s := range schemas {
		one, err := f.Schemas(t.Context(), []uint32{s.OID})
		if err != nil || one[s.OID] == "" {
			t.Fatal(s.Name, err)
		}
		alone[s.OID] = one[s.OID]
		oids = append(oids, s.OID)
	}
	pg.SetManyRelations(f, 0)
	all, err := f.Schemas(t.Context(), append(oids, 1))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range schemas {
		if all[s.OID] != alone[s.OID] {
			t.Errorf("%s: %s alone, %s with all", s.Name, alone[s.OID], all[s.OID])
		}
	}
	if len(all) != len(schemas) {
		t.Errorf("%d fingerprints of %d schemas", len(all), len(schemas))
	}
}

func TestFingerprintsOfSecurityLabels(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.Zoo(t, db, pgtest.ZooOptions{BigValue: 1})
	server, err := pg.Parse(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	before := fingerprinted(t, server)
	pgtest.SecurityLabels(t, db)
	if changed := differing(before, fingerprinted(t, server), same); !slices.Equal(changed, []string{"core", "zoo_code", "zoo_types"}) {
		t.Errorf("labels change the fingerprints of %q", changed)
	}
}

// Without partitions the triggers of some schemas are found in another way, which
// comes to the same.
func TestDigestsWithoutPartitions(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `
		CREATE FUNCTION public.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		CREATE TABLE public.shared (id int PRIMARY KEY, words tsvector, note text);
		CREATE TRIGGER plain AFTER UPDATE OF note ON public.shared FOR EACH ROW EXECUTE FUNCTION public.f();
		CREATE TRIGGER builtin BEFORE INSERT ON public.shared FOR EACH ROW EXECUTE FUNCTION tsvector_update_trigger('words', 'pg_catalog.simple', 'note');
		CREATE CONSTRAINT TRIGGER "RI_ConstraintTrigger_a_1" AFTER DELETE ON public.shared DEFERRABLE FOR EACH ROW EXECUTE FUNCTION public.f();
		CREATE SCHEMA app; CREATE TABLE app.own (id int REFERENCES public.shared);
		CREATE TRIGGER mine AFTER INSERT ON app.own FOR EACH ROW EXECUTE FUNCTION public.f();
		CREATE VIEW app.v AS SELECT id FROM app.own; CREATE TRIGGER instead INSTEAD OF INSERT ON app.v FOR EACH ROW EXECUTE FUNCTION public.f();
		CREATE SCHEMA other; CREATE TABLE other.own (id int REFERENCES public.shared)`)
	conn := db.Conn(t)
	read := func(schemas ...uint32) (core, app string) {
		t.Helper()
		var oids []uint32
		if err := conn.QueryRow(t.Context(), "SELECT ARRAY['public'::regnamespace::oid, 'app'::regnamespace::oid]").Scan(&oids); err != nil {
			t.Fatal(err)
		}
		if len(schemas) > 0 {
			schemas = oids[1:]
		}
		d, err := pg.ReadCatalogDigests(t.Context(), []pg.Querier{conn}, pg.VersionNum(conn), oids[:1], schemas)
		if err != nil {
			t.Fatal(err)
		}
		return d.Core, d.Schemas[oids[1]]
	}
	core, app := read()
	for _, change := range []string{
		"", "ALTER TABLE public.shared DISABLE TRIGGER plain", "ALTER TABLE public.shared ENABLE REPLICA TRIGGER builtin",
		`ALTER TABLE public.shared DISABLE TRIGGER "RI_ConstraintTrigger_a_1"`, "ALTER TABLE app.own DISABLE TRIGGER mine", "DROP TRIGGER instead ON app.v",
	} {
		db.Exec(t, change)
		allCore, allApp := read()
		if change != "" && allCore == core && allApp == app {
			t.Errorf("%s: the digests are what they were", change)
		}
		core, app = allCore, allApp
		if fewCore, fewApp := read(1); fewCore != core || fewApp != app {
			t.Errorf("%q: read alone, the digests of core and app are others", change)
		}
	}
}
