package restore_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/restore"
)

// What is swapped back where nothing is live refers to what is live, as after a
// swap.
func TestRollbackWithoutLiveSchema(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "a", "b")
	db.Exec(t, "ALTER TABLE a.orders ADD visitor bigint REFERENCES b.customers (id)")
	b := save(t, db)
	result, _, err := b.into(t, t.Context(), db, only("a", "b"), replace)
	must(t, result, err)
	db.Exec(t, "DROP SCHEMA a CASCADE")
	o := restore.RollbackOptions{Server: server(t, db), Schemas: []string{"a"}, SwapTimeout: 500 * time.Millisecond}

	holder := db.Conn(t)
	if _, err := holder.Exec(t.Context(), "BEGIN; LOCK TABLE b.customers IN ROW EXCLUSIVE MODE"); err != nil {
		t.Fatal(err)
	}
	_, err = restore.Rollback(t.Context(), o)
	mustHold(t, err, int(holder.PgConn().PID()))
	if _, err := holder.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}

	if back, err := restore.Rollback(t.Context(), o); err != nil || back.Schemas[0].Replaced != "" {
		t.Fatalf("rollback: %+v, %v", back, err)
	}
	if got := db.Query(t, "SELECT confrelid::regclass FROM pg_constraint WHERE conname = 'orders_visitor_fkey' AND connamespace = 'a'::regnamespace"); !slices.Equal(got, []string{"b.customers"}) {
		t.Errorf("the key of a refers to %s", got)
	}
	dropOwn(t, db) // nothing depends on it
}

// A rollback does not wait without end for somebody who alters a table behind a
// view of the schema, and names him.
func TestRollbackBehindAlterTable(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "a")
	b := save(t, db)
	db.Exec(t, "CREATE SCHEMA reports; CREATE TABLE reports.notes (id int); CREATE VIEW reports.v AS SELECT o.id FROM a.orders o JOIN reports.notes n ON n.id = o.id")
	result, _, err := b.into(t, t.Context(), db, only("a"), replace)
	must(t, result, err)
	holder := db.Conn(t)
	if _, err := holder.Exec(t.Context(), "BEGIN; ALTER TABLE reports.notes ADD held int"); err != nil {
		t.Fatal(err)
	}
	o := restore.RollbackOptions{Server: server(t, db), Schemas: []string{"a"}, SwapTimeout: 500 * time.Millisecond}
	_, err = restore.Rollback(t.Context(), o)
	mustHold(t, err, int(holder.PgConn().PID()))
	script := dump(t, db, "--schema", "a", "--no-owner")
	_, _, err = runScript(t, db, "a.sql", script, func(o *restore.Options, _ *restore.Script) { o.SwapTimeout = 500 * time.Millisecond })
	mustHold(t, err, int(holder.PgConn().PID()))
	if _, err := holder.Exec(t.Context(), "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	if _, err := restore.Rollback(t.Context(), o); err != nil {
		t.Errorf("rollback: %v", err)
	}
}

// mustHold fails the test unless a swap was given up because of a session.
func mustHold(t testing.TB, err error, pid int) {
	t.Helper()
	var swap *restore.SwapError
	if !errors.As(err, &swap) || !slices.ContainsFunc(swap.Holders, func(h restore.Holder) bool { return h.PID == pid }) {
		t.Errorf("server process %d is not named: %v", pid, err)
	}
}

// Tenants whose names begin alike, as far as there is room for them, are
// replaced in one run.
func TestNamesThatBeginAlike(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	names := []string{strings.Repeat("n", 60) + "1", strings.Repeat("n", 60) + "2", strings.Repeat("é", 30) + "1", strings.Repeat("é", 30) + "2"}
	shop(t, db, names...)
	b := save(t, db)
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	now := time.Now()
	result, _, err := b.into(t, t.Context(), db, only(names...), replace, func(o *restore.Options) { o.Now = func() time.Time { return now } })
	must(t, result, err)
	given := map[string]bool{}
	for _, r := range result.Tenants {
		given[r.Replaced] = true
		if !pg.IsOwn(r.Replaced) || len(r.Replaced) > 63 {
			t.Errorf("%q was replaced as %q", r.Schema, r.Replaced)
		}
	}
	if len(given) != len(names) {
		t.Errorf("names given: %v", given)
	}
	dropOwn(t, db)
	pgtest.RequireState(t, before, db, pgtest.Compare{})
}

// Somebody who may create schemas makes one that looks like what a tenant of
// another owner goes back to.
func TestForgedLabel(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "a")
	db.Exec(t, `
		CREATE ROLE restore_forger; GRANT CREATE ON DATABASE `+ident(db.Name)+` TO restore_forger; SET ROLE restore_forger;
		CREATE SCHEMA z__replaced_20991231_000000; CREATE TABLE z__replaced_20991231_000000.forged (id int);
		COMMENT ON SCHEMA z__replaced_20991231_000000 IS 'tenantkeep: {"state":"replaced","schema":"a","at":"2099-12-31T00:00:00Z"}';
		RESET ROLE;
		CREATE SCHEMA keep__replaced_20200101_000000;
		COMMENT ON SCHEMA keep__replaced_20200101_000000 IS 'tenantkeep: {"state":"archived","schema":"a","at":"2020-01-01T00:00:00Z"}'`)
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	var none *restore.NoReplacedError
	if _, err := restore.Rollback(t.Context(), restore.RollbackOptions{Server: server(t, db), Schemas: []string{"a"}}); !errors.As(err, &none) {
		t.Errorf("rollback gave %v", err)
	}
	list, err := restore.DropOwn(t.Context(), restore.DropOptions{Server: server(t, db), Before: time.Now().AddDate(100, 0, 0)})
	if err != nil || len(list) != 0 {
		t.Errorf("dropped %+v, %v", list, err)
	}
	pgtest.RequireState(t, before, db, pgtest.Compare{})
	db.Exec(t, "DROP OWNED BY restore_forger; DROP ROLE restore_forger")
}

// Core and tenants that were restored together go back together, by the name of
// core too, and rows that would not find their parents keep all of them.
func TestRollbackTogether(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	suite(t, db, "a", "b")
	b := save(t, db)
	db.Exec(t, `INSERT INTO public.clients (id, name) VALUES (900, 'later'); INSERT INTO a.orders (client) VALUES (900); DELETE FROM b.orders; REFRESH MATERIALIZED VIEW public.totals`)
	today := pgtest.Fingerprint(t, db, pgtest.Compare{Schemas: []string{"a", "b", "public"}})
	result, _, err := b.into(t, t.Context(), db, replace)
	must(t, result, err)
	_, n, err := b.into(t, t.Context(), db, only("public"), replace, func(o *restore.Options) { o.DryRun = true })
	if err != nil || !n.has(result.Tenants[1].Replaced+`" (`) || !n.has("tenantkeep cleanup drops them") {
		t.Errorf("what refers to core and was replaced is not named: %v, %q", err, n.all)
	}
	o := restore.RollbackOptions{Server: server(t, db), Schemas: []string{"a", "b"}}
	var orphaned *restore.OrphanedError
	if _, err := restore.Rollback(t.Context(), o); !errors.As(err, &orphaned) {
		t.Errorf("rollback of the tenants without core: %v", err)
	}
	o.Schemas = []string{"core", "a", "b", "a"}
	o.Asks = true
	o.Confirm = func(list []restore.Replaced) error {
		if len(list) != 3 || list[2].Schema != "public" {
			t.Errorf("asked about %+v", list)
		}
		_, err := restore.Rollback(t.Context(), restore.RollbackOptions{Server: o.Server, Schemas: []string{"b"}}) // somebody else
		return err
	}
	if _, err := restore.Rollback(t.Context(), o); !errors.Is(err, restore.ErrChangedMeanwhile) {
		t.Errorf("what was asked about changed: %v", err)
	}
	if _, err := restore.Rollback(t.Context(), restore.RollbackOptions{Server: o.Server, Schemas: []string{"b"}}); err != nil {
		t.Fatal(err)
	}
	o.Asks, o.Confirm = false, nil
	back, err := restore.Rollback(t.Context(), o)
	if err != nil || len(back.Schemas) != 3 || back.Schemas[0].Replaced == "" {
		t.Fatalf("rollback: %+v, %v", back, err)
	}
	if got := db.Query(t, "SELECT count(*) FROM a.orders o JOIN public.clients c ON c.id = o.client WHERE c.id = 900"); got[0] != "1" {
		t.Errorf("%s rows of today", got)
	}
	pgtest.RequireState(t, today, db, pgtest.Compare{Schemas: []string{"a", "b", "public"}})
}
