package restore_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/restore"
)

// asNew makes a new tenant.
func asNew(name string) func(*restore.Options) {
	return func(o *restore.Options) { o.As, o.New = name, true }
}

// inPlaceOf gives a tenant of another name the contents of the backup.
func inPlaceOf(name string) func(*restore.Options) {
	return func(o *restore.Options) { o.As, o.Over, o.Replace = name, true, true }
}

// requireAs requires that a schema, under the name of its source, is what that was.
func requireAs(t *testing.T, db *pgtest.Database, source, name string, state pgtest.State) {
	t.Helper()
	db.Exec(t, fmt.Sprintf(`ALTER SCHEMA %[1]s RENAME TO "kept meanwhile"; ALTER SCHEMA %[2]s RENAME TO %[1]s`, ident(source), ident(name)))
	pgtest.RequireState(t, state, db, pgtest.Compare{Schemas: []string{source}})
	db.Exec(t, fmt.Sprintf(`ALTER SCHEMA %[1]s RENAME TO %[2]s; ALTER SCHEMA "kept meanwhile" RENAME TO %[1]s`, ident(source), ident(name)))
}

// Ten new tenants at once, of a template that is in use itself, while another one
// of the same name fails.
func TestNewTenantsAtOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "demo", "other")
	db.Exec(t, `CREATE TABLE public.tenants (schema_name text PRIMARY KEY, customers bigint);
		CREATE ROLE restore_visitor; GRANT USAGE ON SCHEMA demo TO restore_visitor; GRANT SELECT ON demo.customers TO restore_visitor`)
	b := save(t, db, "demo")
	before := pgtest.Fingerprint(t, db, pgtest.Compare{Schemas: []string{"demo"}})
	names := make([]string, 10)
	for i := range names {
		names[i] = fmt.Sprintf(`new "%d`, i)
	}
	var all sync.WaitGroup
	for _, name := range append(slices.Clone(names), names[0]) {
		all.Go(func() {
			_, _, err := b.into(t, t.Context(), db, only("demo"), asNew(name), func(o *restore.Options) {
				o.Jobs = 1
				o.Appear = func(ctx context.Context, conn *pgx.Conn) error {
					_, err := conn.Exec(ctx, "INSERT INTO public.tenants SELECT $1, count(*) FROM "+ident(name)+".customers", name)
					return err
				}
			})
			if err != nil && name != names[0] {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	all.Wait()
	if got := db.Query(t, "SELECT schema_name FROM public.tenants WHERE customers = 500 ORDER BY 1"); !slices.Equal(got, names) {
		t.Errorf("registered: %q", got)
	}
	for _, name := range names[:3] {
		requireAs(t, db, "demo", name, before)
	}
	for _, name := range names {
		got := db.Query(t, fmt.Sprintf(`SELECT concat_ws(' ', nextval('%[1]s.customers_id_seq'), (SELECT count(*) FROM %[1]s.names),
			(SELECT count(*) FROM %[1]s.orders), has_schema_privilege('restore_visitor', $1, 'USAGE'))`, ident(name)), name)
		if got[0] != "501 500 300 t" {
			t.Errorf("%s: %q", name, got)
		}
	}
	pgtest.RequireState(t, before, db, pgtest.Compare{Schemas: []string{"demo"}})
	if list := schemas(t, db); strings.Contains(list, "staging") || strings.Contains(list, "hidden") {
		t.Errorf("schemas: %s", list)
	}
}

// A new tenant of every kind of object is what its template is.
func TestNewTenantZoo(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.Zoo(t, db, pgtest.ZooOptions{})
	b := save(t, db)
	richest := db.Query(t, `SELECT n.nspname FROM pg_depend d JOIN pg_namespace n ON d.refclassid = 'pg_namespace'::regclass AND d.refobjid = n.oid
		WHERE n.nspname = ANY($1) GROUP BY 1 ORDER BY count(*) DESC LIMIT 1`, pgtest.ZooTenants(t, db))
	for _, name := range richest {
		before := pgtest.Fingerprint(t, db, pgtest.Compare{Schemas: []string{name}})
		result, _, err := b.into(t, t.Context(), db, only(name), asNew("new one"))
		must(t, result, err)
		if err == nil {
			requireAs(t, db, name, "new one", before)
			db.Exec(t, `DROP SCHEMA "new one" CASCADE`)
		}
	}
}

// What fails at the last moment leaves neither a tenant nor its registration.
func TestNewTenantThatCannotBeRegistered(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "demo")
	db.Exec(t, "CREATE TABLE public.tenants (schema_name text PRIMARY KEY)")
	b := save(t, db, "demo")
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	refused := errors.New("there is no such plan")
	_, _, err := b.into(t, t.Context(), db, only("demo"), asNew("customer_c"), func(o *restore.Options) {
		o.Appear = func(ctx context.Context, conn *pgx.Conn) error {
			if _, err := conn.Exec(ctx, "INSERT INTO public.tenants SELECT nspname FROM pg_namespace WHERE nspname = 'customer_c'"); err != nil {
				return err
			}
			return refused
		}
	})
	if !errors.Is(err, refused) {
		t.Errorf("error %v", err)
	}
	pgtest.RequireState(t, before, db, pgtest.Compare{})

	// Something is in the way for a moment: it is tried again.
	tries := 0
	result, _, err := b.into(t, t.Context(), db, only("demo"), asNew("customer_c"), func(o *restore.Options) {
		o.Appear = func(ctx context.Context, conn *pgx.Conn) error {
			if _, err := conn.Exec(ctx, "INSERT INTO public.tenants SELECT nspname FROM pg_namespace WHERE nspname = 'customer_c'"); err != nil {
				return err
			}
			if tries++; tries == 1 {
				_, err := conn.Exec(ctx, "DO $$ BEGIN RAISE SQLSTATE '55P03'; END $$")
				return err
			}
			return nil
		}
	})
	must(t, result, err)
	if got := db.Query(t, "SELECT schema_name FROM public.tenants"); tries != 2 || !slices.Equal(got, []string{"customer_c"}) {
		t.Errorf("%d tries, registered %q", tries, got)
	}
}

// A tenant that would lack something does not appear.
func TestIncompleteNewTenant(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "demo")
	b := save(t, db, "demo")
	db.Exec(t, "ALTER TABLE demo.customers DROP CONSTRAINT customers_country_fkey; DELETE FROM public.countries WHERE code = 'ch'")
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	_, _, err := b.into(t, t.Context(), db, only("demo"), asNew("customer_c"))
	var incomplete *restore.IncompleteError
	if !errors.As(err, &incomplete) || !strings.Contains(err.Error(), `schema "customer_c" was not made, because it would lack fk constraint`) {
		t.Errorf("error %v", err)
	}
	pgtest.RequireState(t, before, db, pgtest.Compare{})
	_, _, err = b.into(t, t.Context(), db, only("demo"), asNew("customer_c"), func(o *restore.Options) { o.Incomplete = true })
	var partial *restore.PartialError
	if !errors.As(err, &partial) {
		t.Errorf("with --allow-incomplete: %v", err)
	}
	if got := db.Query(t, "SELECT count(*) FROM customer_c.customers"); got[0] != "500" {
		t.Errorf("%s rows", got)
	}
}

func TestNewTenantNames(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "demo", "other")
	b := save(t, db, "demo")
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	for _, name := range []string{"public", "pg_x", "information_schema", strings.Repeat("ä", 32), `"quoted"`, "a\nb", "a\x00b", "a\xff", "a__staging_20261123_000000"} {
		var unsupported *restore.UnsupportedError
		if _, _, err := b.into(t, t.Context(), db, only("demo"), asNew(name)); !errors.As(err, &unsupported) {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"demo", "other"} {
		_, _, err := b.into(t, t.Context(), db, only("demo"), asNew(name))
		mustFind(t, err, fmt.Sprintf("schema %q exists already", name), "--as")
	}
	pgtest.RequireState(t, before, db, pgtest.Compare{})
	db.Exec(t, "DROP SCHEMA demo CASCADE")
	for _, name := range []string{"demo", `o'brien "x"; --`, strings.Repeat("ä", 31)} {
		result, _, err := b.into(t, t.Context(), db, only("demo"), asNew(name))
		must(t, result, err)
		if got := db.Query(t, "SELECT count(*) FROM "+ident(name)+".customers"); got[0] != "500" {
			t.Errorf("%s: %s rows", name, got)
		}
	}
}

// A tenant is reset to a template of another name, with all that points at it,
// and can be brought back.
func TestResetToTemplate(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "demo", "acme")
	db.Exec(t, `
		CREATE FUNCTION demo.of_text() RETURNS bigint LANGUAGE sql AS 'SELECT count(*) FROM demo.customers';
		DELETE FROM demo.orders WHERE id > 10; DELETE FROM demo.customers WHERE id > 20;
		CREATE SCHEMA reports; CREATE VIEW reports.of_acme AS SELECT count(*) AS customers FROM acme.customers;
		CREATE TABLE reports.visits (customer bigint REFERENCES acme.customers (id)); INSERT INTO reports.visits VALUES (3)`)
	b := save(t, db, "demo")
	template := pgtest.Fingerprint(t, db, pgtest.Compare{Schemas: []string{"demo"}})
	acme := pgtest.Fingerprint(t, db, pgtest.Compare{Schemas: []string{"acme", "reports"}})
	result, _, err := b.into(t, t.Context(), db, only("demo"), inPlaceOf("acme"), func(o *restore.Options) { o.Preview = true })
	must(t, result, err)
	got := result.Tenants[0]
	if got.As != "acme" || !strings.HasPrefix(got.Replaced, "acme__replaced_") || len(got.Notes) != 1 || !strings.HasPrefix(got.Notes[0], "function acme.of_text() names schema demo") {
		t.Errorf("result: %+v", got)
	}
	if rows := db.Query(t, "SELECT customers FROM reports.of_acme"); rows[0] != "20" {
		t.Errorf("the view shows %s", rows)
	}
	db.Exec(t, "COMMENT ON SCHEMA acme IS 'a tenant'; ALTER TABLE reports.visits DROP CONSTRAINT visits_customer_fkey")
	requireAs(t, db, "demo", "acme", template)
	db.Exec(t, "ALTER TABLE reports.visits ADD FOREIGN KEY (customer) REFERENCES acme.customers (id)")
	_, err = restore.Rollback(t.Context(), restore.RollbackOptions{Server: server(t, db), Schemas: []string{"acme"}, Progress: &notes{t: t}})
	if err != nil {
		t.Fatal(err)
	}
	dropOwn(t, db)
	pgtest.RequireState(t, acme, db, pgtest.Compare{Schemas: []string{"acme", "reports"}})
	pgtest.RequireState(t, template, db, pgtest.Compare{Schemas: []string{"demo"}})

	// Rows elsewhere whose parents the template does not have.
	db.Exec(t, "INSERT INTO reports.visits VALUES (400)")
	_, _, err = b.into(t, t.Context(), db, only("demo"), inPlaceOf("acme"))
	var orphans *restore.OrphansError
	if !errors.As(err, &orphans) {
		t.Errorf("error %v", err)
	}
	_, _, err = b.into(t, t.Context(), db, only("demo"), inPlaceOf("nobody"))
	mustFind(t, err, `schema "nobody" does not exist`, "--as")
}

// Whoever replaces schemas waits for those who make tenants, who do not wait for
// a backup.
func TestNewTenantLocks(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "demo")
	b := save(t, db, "demo")
	backup := db.Conn(t)
	if err := pg.Lock(t.Context(), backup, "backup"); err != nil {
		t.Fatal(err)
	}
	result, _, err := b.into(t, t.Context(), db, only("demo"), asNew("customer_c"))
	must(t, result, err)
	pg.Close(backup)

	// A staging of somebody who makes a tenant now is not remains.
	busy := db.Conn(t)
	if err := pg.LockNew(t.Context(), busy, "new tenant", "busy"); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, `CREATE SCHEMA busy__staging_20260101_000000; COMMENT ON SCHEMA busy__staging_20260101_000000 IS 'tenantkeep: {"state":"staging","schema":"busy","backup":"1","at":"2026-01-01T00:00:00Z"}'`)
	result, _, err = b.into(t, t.Context(), db, only("demo"), asNew("customer_d"))
	must(t, result, err)
	var locked *pg.LockedError
	if _, _, err := b.into(t, t.Context(), db, only("demo"), asNew("busy")); !errors.As(err, &locked) || locked.Application != "tenantkeep new tenant" {
		t.Errorf("the same name: %v", err)
	}
	if list := schemas(t, db); !strings.Contains(list, "busy__staging") {
		t.Errorf("schemas: %s", list)
	}
	done := make(chan error, 1)
	go func() {
		_, _, err := b.into(t, t.Context(), db, only("demo"), replace)
		done <- err
	}()
	for len(db.Query(t, "SELECT 1 FROM pg_stat_activity WHERE application_name = 'tenantkeep restore' AND datname = current_database()")) == 0 {
	}
	pg.Close(busy)
	if err := <-done; err != nil {
		t.Errorf("a restore that waited: %v", err)
	}
	if list := schemas(t, db); strings.Contains(list, "busy__staging") {
		t.Errorf("remains are left: %s", list)
	}
}
