package backup_test

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantkeep/tenantkeep/internal/backup"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

// restaurant fills a database with a tenant that is to become a template.
func restaurant(t *testing.T) *pgtest.Database {
	t.Helper()
	db := pgtest.New(t)
	db.Exec(t, `
		CREATE SCHEMA demo;
		CREATE TABLE demo.menu (id serial PRIMARY KEY, name text);
		INSERT INTO demo.menu (name) SELECT 'dish ' || n FROM generate_series(1, 20) n;
		CREATE TABLE demo."Settings.x" (key text); INSERT INTO demo."Settings.x" VALUES ('lang');
		CREATE TABLE demo.customers (id serial PRIMARY KEY, name text);
		INSERT INTO demo.customers (name) SELECT 'guest ' || n FROM generate_series(1, 5) n;
		CREATE TABLE demo.orders (id int GENERATED ALWAYS AS IDENTITY (START 100), customer int REFERENCES demo.customers, dish int REFERENCES demo.menu);
		INSERT INTO demo.orders (customer, dish) VALUES (1, 1), (2, 3);
		CREATE TABLE demo.visits (at int, n int) PARTITION BY RANGE (at);
		CREATE TABLE demo.visits_1 PARTITION OF demo.visits FOR VALUES FROM (0) TO (10); INSERT INTO demo.visits VALUES (1, 1);
		CREATE TABLE demo.nothing (x int);
		CREATE TYPE demo.mood AS ENUM ('a', 'b');
		CREATE TABLE demo.moods (m demo.mood) PARTITION BY HASH (m);
		CREATE TABLE demo.moods_0 PARTITION OF demo.moods FOR VALUES WITH (MODULUS 1, REMAINDER 0); INSERT INTO demo.moods VALUES ('a')`)
	return db
}

// template makes a world that takes a template of the tenant.
func template(t *testing.T, rules backup.RowRules) *world {
	t.Helper()
	w := setup(t, restaurant(t))
	w.opts.Type, w.opts.Schemas, w.opts.Tenant, w.opts.Rows = manifest.Baseline, []string{"demo"}, "restaurant", &rules
	return w
}

// rowsOf are the numbers of rows by table of the only data file of a backup.
func rowsOf(t *testing.T, w *world, m *manifest.Manifest) (rows map[string]int64, sequences map[string]string) {
	t.Helper()
	f, err := w.opts.Repo.OpenFile(t.Context(), m, m.Schemas[0])
	must(t, err)
	defer f.Close()
	must(t, f.ReadStatements())
	rows, sequences = map[string]int64{}, map[string]string{}
	for _, table := range f.Index.Tables {
		rows[table.Name] = table.Rows
	}
	for _, s := range f.Index.Statements {
		if s.Kind == "SEQUENCE SET" {
			text, err := f.ReadFrame(s.Frame, nil)
			must(t, err)
			sequences[s.Tag] = string(text[s.Offset : s.Offset+s.Length])
		}
	}
	return rows, sequences
}

func TestTemplateRows(t *testing.T) {
	t.Parallel()
	w := template(t, backup.RowRules{
		Keep: []string{"*"}, Empty: []string{"customer?", "demo.ord*", "visits", "demo.moods"}, Complete: true, Strict: []string{"visits", "demo.ord*"},
	})
	m := w.run(t)
	if e := m.Schemas[0]; m.BackupType != manifest.Baseline || e.Tenant != "restaurant" || e.Schema != "demo" || e.Type != manifest.Baseline || e.Rows != 21 {
		t.Errorf("manifest: %+v", m)
	}
	rows, sequences := rowsOf(t, w, m)
	want := map[string]int64{"menu": 20, "Settings.x": 1, "customers": 0, "orders": 0, "visits_1": 0, "nothing": 0, "moods": 0}
	if diff := cmp.Diff(want, rows); diff != "" {
		t.Error(diff)
	}
	wantSequences := map[string]string{
		"menu_id_seq":      `SELECT pg_catalog.setval('"demo"."menu_id_seq"', 20, true);` + "\n",
		"customers_id_seq": `SELECT pg_catalog.setval('"demo"."customers_id_seq"', 1, false);` + "\n",
		"orders_id_seq":    `SELECT pg_catalog.setval('"demo"."orders_id_seq"', 100, false);` + "\n",
	}
	if diff := cmp.Diff(wantSequences, sequences); diff != "" {
		t.Error(diff)
	}

	// A baseline is nothing to build on.
	w.opts.Type, w.opts.Schemas, w.opts.Tenant, w.opts.Rows = manifest.Incremental, []string{"demo"}, "restaurant", nil
	if m := w.run(t); m.BackupType != manifest.Full || len(m.Schemas[0].References) > 0 || m.Schemas[0].Rows != 31-1 {
		t.Errorf("built on a baseline: %+v", m)
	}
}

func TestTemplateIsRefused(t *testing.T) {
	t.Parallel()
	unlisted := func(rows map[string]int64) func(error) string {
		return func(err error) string {
			var e *backup.UnlistedError
			if !errors.As(err, &e) {
				return "no UnlistedError"
			}
			return cmp.Diff(rows, e.Rows)
		}
	}
	for name, tt := range map[string]struct {
		rules backup.RowRules
		check func(error) string
	}{
		"nothing is listed": {
			backup.RowRules{Complete: true},
			unlisted(map[string]int64{"menu": 20, "Settings.x": 1, "customers": 5, "orders": 2, "visits_1": 1, "moods_0": 1}),
		},
		"names are exact": {
			backup.RowRules{Keep: []string{"Menu", "settings.x", "visits*"}, Empty: []string{"orders", "?ustomers", "mood*"}, Complete: true},
			unlisted(map[string]int64{"menu": 20, "Settings.x": 1}),
		},
		"orders without customers": {
			backup.RowRules{Empty: []string{"customers"}},
			func(err error) string {
				var e *backup.DanglingError
				if !errors.As(err, &e) {
					return "no DanglingError"
				}
				return cmp.Diff(map[string]int64{"foreign key orders_customer_fkey of orders, to customers": 2}, e.Rows)
			},
		},
		"a slip of the pen": {
			backup.RowRules{Keep: []string{"*"}, Empty: []string{"customer"}, Strict: []string{"customer"}},
			func(err error) string {
				var e *backup.PatternError
				if !errors.As(err, &e) || e.Pattern != "customer" {
					return "no PatternError"
				}
				return ""
			},
		},
		"a partition that cannot be told apart": {
			backup.RowRules{Empty: []string{"moods_0"}},
			func(err error) string {
				var e *backup.PartitionError
				if !errors.As(err, &e) || e.Partition != "moods_0" || e.Table != "moods" {
					return "no PartitionError"
				}
				return ""
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := template(t, tt.rules)
			err := w.runFailing(t, t.Context())
			if diff := tt.check(err); diff != "" {
				t.Errorf("%v: %s", err, diff)
			}
		})
	}
}
