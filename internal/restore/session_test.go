package restore

import (
	"testing"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

// Autovacuum, which comes to a big table while it is restored, gives way.
func TestAutovacuumGivesWayToRestore(t *testing.T) {
	t.Parallel()
	cluster := pgtest.StartCluster(t, map[string]string{
		"autovacuum": "on", "autovacuum_naptime": "1s", "autovacuum_vacuum_cost_delay": "100ms", "autovacuum_vacuum_cost_limit": "1", "deadlock_timeout": "300ms",
	})
	db := pgtest.NewIn(t, cluster)
	db.Exec(t, `CREATE SCHEMA a; CREATE TABLE a."O'rders %I" (id int) WITH (autovacuum_vacuum_threshold = 0)`,
		`INSERT INTO a."O'rders %I" SELECT generate_series(1, 50000)`, `DELETE FROM a."O'rders %I" WHERE id % 2 = 0`)
	const vacuuming = `SELECT pid FROM pg_stat_progress_vacuum WHERE relid = 'a."O''rders %I"'::regclass`
	for len(db.Query(t, vacuuming)) == 0 {
		if t.Context().Err() != nil {
			return
		}
	}
	server, err := pg.Parse(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	r := newRun(Options{Server: server})
	r.units = []*unit{{schemas: []string{"a"}, entry: manifest.Schema{Schema: "a"}}}
	s, err := r.newSession(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close(s.conn)
	s.tries = 2
	if err := s.exec(t.Context(), `ALTER TABLE a."O'rders %I" ADD PRIMARY KEY (id)`); err != nil {
		t.Error(err)
	}
}
