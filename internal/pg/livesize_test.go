package pg_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

func TestLiveSizes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `
		CREATE SCHEMA acme; CREATE SCHEMA nothing;
		CREATE TABLE acme."o'dd ""t" (id int PRIMARY KEY, note text);
		INSERT INTO acme."o'dd ""t" SELECT g, repeat('x', 100) FROM generate_series(1, 1000) g;
		CREATE TABLE acme.parted (id int) PARTITION BY RANGE (id);
		CREATE TABLE acme.part_1 PARTITION OF acme.parted FOR VALUES FROM (0) TO (100);
		INSERT INTO acme.parted SELECT generate_series(1, 50);
		CREATE VIEW acme.v AS SELECT 1 AS one`, "ANALYZE", `DELETE FROM acme."o'dd ""t" WHERE id > 900`)
	conn := connect(t, db)
	sizes, err := pg.LiveSizes(t.Context(), conn)
	if err != nil {
		t.Fatal(err)
	}
	// The server is late with its statistics, so that no more can be said.
	if len(sizes) != 3 || sizes[0].Schema != "acme" || sizes[0].Tables != 2 || sizes[0].Rows < 900 || sizes[0].Bytes < 100_000 {
		t.Errorf("%+v", sizes)
	}
	if diff := cmp.Diff(pg.LiveSize{Schema: "nothing"}, sizes[1]); diff != "" {
		t.Error(diff)
	}
	tables, err := pg.LiveTables(t.Context(), conn, "acme")
	if err != nil {
		t.Fatal(err)
	}
	exact, err := pg.CountLive(t.Context(), conn, "acme", tables)
	if err != nil || !exact {
		t.Fatalf("counted: %t, %v", exact, err)
	}
	got := map[string]int64{}
	for _, table := range tables {
		got[table.Name] = table.Rows
	}
	if diff := cmp.Diff(map[string]int64{`o'dd "t`: 900, "part_1": 50}, got); diff != "" {
		t.Error(diff)
	}

	// What is locked is not waited for.
	other := connect(t, db)
	if _, err := other.Exec(t.Context(), "BEGIN; LOCK TABLE acme.part_1"); err != nil {
		t.Fatal(err)
	}
	tables[0].Rows = -1
	if exact, err := pg.CountLive(t.Context(), conn, "acme", tables); exact || err != nil || tables[0].Rows != -1 {
		t.Errorf("with a lock: counted %t, %v, %+v", exact, err, tables)
	}
	// What is large is not counted.
	tables[0].Bytes = 1 << 40
	if exact, err := pg.CountLive(t.Context(), conn, "acme", tables); exact || err != nil {
		t.Errorf("large: counted %t, %v", exact, err)
	}
}
