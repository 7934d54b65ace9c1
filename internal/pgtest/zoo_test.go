package pgtest_test

import (
	"bytes"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

// dump is what pg_dump writes.
func dump(t *testing.T, db *pgtest.Database, args ...string) *bytes.Buffer {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), db.Cluster().Programs.Path("pg_dump"), args...)
	cmd.Env = db.Env()
	var script, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &script, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("run pg_dump: %v\n%s", err, &stderr)
	}
	return &script
}

// load is the restore that everybody trusts.
func load(t *testing.T, db *pgtest.Database, script *bytes.Buffer) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), db.Cluster().Programs.Path("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1")
	cmd.Env, cmd.Stdin = db.Env(), script
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("run psql: %v\n%s", err, out[max(0, len(out)-2000):])
	}
}

// TestZooSurvivesPgDump shows that the zoo can be restored at all, and that the
// oracle does not complain about a good restore.
func TestZooSurvivesPgDump(t *testing.T) {
	t.Parallel()
	tests := map[string]pgtest.ZooOptions{
		"default":         {},
		"loader defaults": {LoaderDefaults: true, BigValue: 3},
	}
	for name, opts := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source, target := pgtest.New(t), pgtest.New(t)
			pgtest.Zoo(t, source, opts)
			load(t, target, dump(t, source))
			pgtest.RequireEqual(t, source, target, pgtest.Compare{})
		})
	}
}

// TestZooTenantsStandAlone drops and restores one tenant after the other, as a
// restore into a database that lacks just that schema does.
func TestZooTenantsStandAlone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.Zoo(t, db, pgtest.ZooOptions{})
	all := pgtest.Compare{Schemas: db.Query(t, `SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'`)}
	before := pgtest.Fingerprint(t, db, all)

	for _, tenant := range pgtest.ZooTenants(t, db) {
		// Of the small ones that differ in their names only, a few will do.
		if !strings.HasPrefix(tenant, "zoo_") && !slices.Contains([]string{"Acme", "*", `with "quotes"`, "new\nline", "x_63_" + strings.Repeat("x", 58)}, tenant) {
			continue
		}
		saved := dump(t, db, "--schema", `"`+strings.ReplaceAll(tenant, `"`, `""`)+`"`)
		db.Exec(t, "SET client_min_messages = error; DROP SCHEMA "+pgx.Identifier{tenant}.Sanitize()+" CASCADE")
		load(t, db, saved)
	}
	pgtest.RequireState(t, before, db, all)
}

func TestSecurityLabels(t *testing.T) {
	t.Parallel()
	source, target := pgtest.New(t), pgtest.New(t)
	pgtest.Zoo(t, source, pgtest.ZooOptions{})
	code := pgtest.Compare{Schemas: []string{"zoo_code"}}
	plain := pgtest.Fingerprint(t, source, code)
	pgtest.SecurityLabels(t, source, target)
	if diff := plain.Diff(pgtest.Fingerprint(t, source, code)); !strings.Contains(diff, "SECURITY LABEL FOR zoo") {
		t.Errorf("labels are not seen:\n%s", diff)
	}
	load(t, target, dump(t, source))
	pgtest.RequireEqual(t, source, target, pgtest.Compare{})
}

func TestCases(t *testing.T) {
	t.Parallel()
	source, target := pgtest.New(t), pgtest.New(t)
	for name, rows := range map[string]string{"chinook": "15607", "northwind": "3362", "pagila": "46273"} {
		schema := name + " Inc."
		pgtest.Case(t, source, name, schema)
		got := source.Query(t, `SELECT sum((xpath('//n/text()', query_to_xml(format('SELECT count(*) AS n FROM ONLY %I.%I', n.nspname, c.relname), false, true, '')))[1]::text::bigint)
			FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relkind = 'r'`, schema)
		if got[0] != rows {
			t.Errorf("%s has %s rows, want %s", name, got[0], rows)
		}
	}
	load(t, target, dump(t, source))
	pgtest.RequireEqual(t, source, target, pgtest.Compare{})
}
