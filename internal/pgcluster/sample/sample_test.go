package sample_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/pgcluster/sample"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func config(t *testing.T, db *pgtest.Database) *pgx.ConnConfig {
	t.Helper()
	config, err := pgx.ParseConfig(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// content is a checksum of the rows of each table of the tenants.
const content = `
	SELECT c.oid::regclass || ' ' || (xpath('/row/s/text()', query_to_xml(
		format('SELECT count(*) || '':'' || sum(hashtextextended(x::text, 0)::numeric) AS s FROM %s x', c.oid::regclass), true, true, '')))[1]::text
	FROM pg_class c WHERE c.relnamespace::regnamespace::text LIKE 'tenant%' AND c.relkind = 'r' ORDER BY c.oid::regclass::text COLLATE "C"`

func TestManyIsDeterministicAndWhole(t *testing.T) {
	t.Parallel()
	var contents [2][]string
	for i := range contents {
		db := pgtest.New(t)
		if err := sample.Core(t.Context(), db.Conn(t)); err != nil {
			t.Fatal(err)
		}
		opts := sample.ManyOptions{Tenants: 4, ActiveEvery: 3, ActiveFactor: 5}
		if err := sample.Many(t.Context(), config(t, db), opts); err != nil {
			t.Fatal(err)
		}
		contents[i] = db.Query(t, content)
		if i == 1 {
			continue
		}
		counts := db.Query(t, `SELECT relkind::text || ' ' || count(*) FROM pg_class
			WHERE relnamespace = 'tenant_0001'::regnamespace GROUP BY relkind ORDER BY 1`)
		if diff := cmp.Diff([]string{"S 29", "i 97", "r 30", "v 1"}, counts); diff != "" {
			t.Errorf("objects of a tenant (-want +got):\n%s", diff)
		}
		if got := db.Query(t, "SELECT count(*) FROM tenant_0003.customer"); got[0] != "150" {
			t.Errorf("active tenant has %s customers, want 150", got[0])
		}
		if got := db.Query(t, "INSERT INTO tenant_0002.customer_note (customer_id, author, body) VALUES (1, 'a', 'b') RETURNING id"); got[0] != "21" {
			t.Errorf("next id is %s, want 21", got[0])
		}
		db.Exec(t, "DELETE FROM tenant_0002.customer_note WHERE id = 21; UPDATE tenant_0001.invoice SET remark = 'x' WHERE false")
		contents[i] = db.Query(t, content)

		changed, err := sample.Churn(t.Context(), config(t, db), 4)
		if err != nil || changed != 9 {
			t.Errorf("Churn = %d, %v; want 9 tables", changed, err)
		}
		after := db.Query(t, content)
		different := 0
		for j := range after {
			if after[j] != contents[i][j] {
				different++
			}
		}
		if different != 9 {
			t.Errorf("Churn changed %d tables, want 9", different)
		}
	}
	if len(contents[0]) != 4*sample.TablesPerTenant {
		t.Errorf("%d tables, want %d", len(contents[0]), 4*sample.TablesPerTenant)
	}
	if diff := cmp.Diff(contents[0], contents[1]); diff != "" {
		t.Errorf("two runs differ:\n%s", diff)
	}
}

func TestFewTablesAndOddNames(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	if err := sample.Core(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	name := `tenant O'Hara "x"`
	if err := sample.Tenant(t.Context(), conn, name, sample.Size{Tables: 3, Factor: 0.1}); err != nil {
		t.Fatal(err)
	}
	tables := db.Query(t, "SELECT relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE nspname = $1 AND relkind = 'r' ORDER BY 1", name)
	if diff := cmp.Diff([]string{"customer", "invoice", "payment"}, tables); diff != "" {
		t.Error(diff)
	}
}

func TestBigHasLongRows(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	if err := sample.Core(t.Context(), db.Conn(t)); err != nil {
		t.Fatal(err)
	}
	if err := sample.Big(t.Context(), config(t, db), 0.002); err != nil {
		t.Fatal(err)
	}
	got := db.Query(t, "SELECT count(*) > 2000 AND avg(length(description)) > 900 FROM "+sample.BigTenant+".activity_log")
	if got[0] != "t" {
		t.Error("activity_log of the big tenant is not long")
	}
}
