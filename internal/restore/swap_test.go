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

// A prepared transaction, which has no session, is named like one.
func TestPreparedTransactionHolds(t *testing.T) {
	t.Parallel()
	db := pgtest.NewIn(t, pgtest.StartCluster(t, map[string]string{"max_prepared_transactions": "5"}))
	shop(t, db, "a")
	b := save(t, db)
	db.Exec(t, "BEGIN; DELETE FROM a.orders WHERE id = 1; PREPARE TRANSACTION 'order ''1'' goes'")
	result, _, err := b.into(t, t.Context(), db, only("a"), replace, quickly)
	var swap *restore.SwapError
	if !errors.As(err, &swap) || len(swap.Holders) != 1 {
		t.Fatalf("restore: %v", err)
	}
	h := swap.Holders[0]
	if h.PID != 0 || h.Prepared != "order '1' goes" || h.User == "" || h.Table != "a.orders" || time.Since(h.Transaction) > time.Hour {
		t.Errorf("holder %+v", h)
	}
	if text := swap.Error() + swap.Hint(); !strings.Contains(text, `prepared transaction "order '1' goes" of `) || !strings.Contains(text, "ROLLBACK PREPARED 'order ''1'' goes'") {
		t.Errorf("told: %s", text)
	}
	staged(t, result)
	db.Exec(t, "COMMIT PREPARED 'order ''1'' goes'")
	result, _, err = b.into(t, t.Context(), db, only("a"), replace, resume)
	must(t, result, err)
}

// While somebody is asked others may use the database, and an answer counts only
// for what was asked.
func TestQuestionHoldsNoLock(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "a", "b")
	b := save(t, db)
	db.Exec(t, "DELETE FROM a.orders")
	ask := func(meanwhile func()) func(*restore.Options) {
		return func(o *restore.Options) {
			o.Asks = true
			o.Confirm = func(*restore.Plan) error { meanwhile(); return nil }
		}
	}
	result, n, err := b.into(t, t.Context(), db, only("a"), replace, ask(func() {
		other, _, err := b.into(t, t.Context(), db, only("b"), replace)
		must(t, other, err)
	}))
	must(t, result, err)
	if n.rows != result.Rows || result.Rows != 800 {
		t.Errorf("%d rows were told, %d are in the result", n.rows, result.Rows)
	}
	_, _, err = b.into(t, t.Context(), db, only("a"), replace, ask(func() {
		other, _, err := b.into(t, t.Context(), db, only("a"), replace)
		must(t, other, err)
	}))
	if !errors.Is(err, restore.ErrChangedMeanwhile) {
		t.Errorf("a was replaced while somebody was asked about it: %v", err)
	}
	holder := db.Conn(t)
	var locked *pg.LockedError
	_, _, err = b.into(t, t.Context(), db, only("a"), replace, ask(func() {
		if err := pg.Lock(t.Context(), holder, "test"); err != nil {
			t.Error(err)
		}
	}))
	if !errors.As(err, &locked) {
		t.Errorf("the database was in use after the answer: %v", err)
	}
}
