package restore_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/restore"
)

// A statement that runs since before the rows were loaded, and finds the tables
// by a function only after the swap, would see them empty: it is waited for.
func TestStatementOlderThanTheRows(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "a")
	db.Exec(t, `
		CREATE FUNCTION public.count_of(schema text) RETURNS bigint STABLE LANGUAGE plpgsql AS $$
		DECLARE n bigint;
		BEGIN
			PERFORM pg_advisory_xact_lock(77);
			EXECUTE format('SELECT count(*) FROM %I.customers', schema) INTO n;
			RETURN n;
		END $$`)
	b := save(t, db)
	db.Exec(t, "DELETE FROM a.orders; DELETE FROM a.customers WHERE id > 7")
	gate, report, other := db.Conn(t), db.Conn(t), db.Conn(t)
	if _, err := gate.Exec(t.Context(), "SELECT pg_advisory_lock(77)"); err != nil {
		t.Fatal(err)
	}
	// Whoever has a transaction open and reads by statements with snapshots of
	// their own is not waited for.
	for _, sql := range []string{"BEGIN", "SELECT count(*) FROM public.countries"} {
		if _, err := other.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	counted := make(chan int64, 1)
	go func() {
		var n int64 = -1
		_ = report.QueryRow(t.Context(), "SELECT public.count_of('a')").Scan(&n)
		counted <- n
	}()
	for waiting := ""; waiting != "1"; {
		waiting = db.Query(t, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = 77")[0]
	}
	result, _, err := b.into(t, t.Context(), db, only("a"), replace, quickly)
	var swap *restore.SwapError
	if !errors.As(err, &swap) || len(swap.Holders) != 1 || swap.Holders[0].PID != int(report.PgConn().PID()) || swap.Holders[0].Table != "" {
		t.Fatalf("restore: %v", err)
	}
	staged(t, result)
	if _, err := gate.Exec(t.Context(), "SELECT pg_advisory_unlock(77)"); err != nil {
		t.Fatal(err)
	}
	if n := <-counted; n != 7 {
		t.Errorf("the statement counted %d customers", n)
	}
	result, _, err = b.into(t, t.Context(), db, only("a"), replace, resume)
	must(t, result, err)
	if got := db.Query(t, "SELECT count(*) FROM a.customers"); !slices.Equal(got, []string{"500"}) {
		t.Errorf("%s customers", got)
	}
}
