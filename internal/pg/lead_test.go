package pg_test

import (
	"testing"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

// One process leads, until its connection is gone.
func TestLead(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	server, err := pg.Parse(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	lead := func() *pg.Lead {
		t.Helper()
		l, err := server.TryLead(t.Context(), "/backups")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	first := lead()
	if first == nil || first.Check(t.Context()) != nil {
		t.Fatal("nobody leads")
	}
	if second := lead(); second != nil {
		t.Fatal("two lead")
	}
	if n := db.Query(t, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tenantkeep serve' AND datname = current_database()"); n[0] != "1" {
		t.Errorf("%s sessions of serve are left", n[0])
	}
	other, err := server.TryLead(t.Context(), "/elsewhere")
	if err != nil || other == nil {
		t.Fatalf("nobody leads for backups elsewhere: %v", err)
	}
	other.Close()
	// The server ends the session, as a failover does.
	db.Query(t, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tenantkeep serve' AND datname = current_database()")
	// The server takes a moment to end a session.
	takeOver := func() *pg.Lead {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
			if l := lead(); l != nil {
				return l
			}
		}
		t.Fatal("nobody takes over")
		return nil
	}
	second := takeOver()
	if err := first.Check(t.Context()); err == nil {
		t.Error("the first still leads")
	}
	first.Close()
	second.Close()
	takeOver().Close()
}

func TestLockHolders(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	if holders, err := pg.LockHolders(t.Context(), conn); err != nil || len(holders) > 0 {
		t.Fatalf("%+v, %v", holders, err)
	}
	holder := db.Conn(t)
	if err := pg.LockSchemas(t.Context(), holder, "restore"); err != nil {
		t.Fatal(err)
	}
	holders, err := pg.LockHolders(t.Context(), conn)
	if err != nil || len(holders) != 1 {
		t.Fatalf("%+v, %v", holders, err)
	}
	h := holders[0]
	if h.PID != int(holder.PgConn().PID()) || h.Application != "tenantkeep restore" || time.Since(h.Since).Abs() > time.Minute || h.Idle > time.Minute {
		t.Errorf("%+v", h)
	}
}
