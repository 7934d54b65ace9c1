package restore_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/tenantkeep/tenantkeep/internal/backup"
	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/registry"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/restore"
	"github.com/tenantkeep/tenantkeep/internal/storage/local"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// notes is a Progress that keeps what it is told.
type notes struct {
	t    testing.TB
	mu   sync.Mutex
	all  []string
	rows int64
	on   func(message string) // nil, or called with each note
}

func (n *notes) Start(string, int, int64) {}
func (n *notes) Add(_, rows int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rows += rows
}
func (n *notes) TenantDone(string, error) {}
func (n *notes) Finish()                  {}
func (n *notes) Note(level slog.Level, tenant, message string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.all = append(n.all, message)
	n.t.Logf("%s %s %s", level, tenant, message)
	if n.on != nil {
		n.on(message)
	}
}

func (n *notes) has(text string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Contains(strings.Join(n.all, "\n"), text)
}

func server(t testing.TB, db *pgtest.Database) *pg.Server {
	t.Helper()
	s, err := pg.Parse(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// saved is a backup in a repository of its own.
type saved struct {
	dir      string
	repo     *repo.Repo
	manifest *manifest.Manifest
}

func save(t testing.TB, db *pgtest.Database, schemas ...string) saved {
	t.Helper()
	dir := t.TempDir()
	store, err := local.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	b := saved{dir: dir, repo: repo.Open(store, repo.Options{})}
	result, err := backup.Run(t.Context(), backup.Options{
		Server: server(t, db), Repo: b.repo, Schemas: schemas, Type: manifest.Full, Jobs: 2, Version: "test",
		Compression: datafile.Compression{Algorithm: datafile.Zstd}, Progress: &notes{t: t}, Log: slog.New(slog.DiscardHandler),
		Registry: registry.Choice{Auto: true},
	})
	if err != nil {
		t.Fatalf("backup: %v", err)
	}
	b.manifest = result.Manifest
	return b
}

// into restores the backup into a database.
func (b saved) into(t testing.TB, ctx context.Context, db *pgtest.Database, change ...func(*restore.Options)) (*restore.Result, *notes, error) {
	t.Helper()
	n := &notes{t: t}
	o := restore.Options{Server: server(t, db), Repo: b.repo, Manifest: b.manifest, Jobs: 2, Progress: n}
	for _, f := range change {
		f(&o)
	}
	result, err := restore.Run(ctx, o)
	return result, n, err
}

func only(schemas ...string) func(*restore.Options) {
	return func(o *restore.Options) { o.Schemas = schemas }
}

// must fails the test unless the restore was whole.
func must(t testing.TB, result *restore.Result, err error) *restore.Result {
	t.Helper()
	if result != nil {
		for _, r := range result.Tenants {
			for _, p := range r.Problems {
				t.Errorf("%s: %s %s: %v\n%s", r.Tenant, p.Kind, p.Object, p.Err, p.SQL)
			}
		}
	}
	if err != nil {
		t.Errorf("restore: %v", err)
	}
	return result
}

// marks lists the schemas whose comment is a mark.
func marks(t testing.TB, db *pgtest.Database) []string {
	t.Helper()
	return db.Query(t, `SELECT nspname FROM pg_namespace WHERE obj_description(oid, 'pg_namespace') LIKE 'tenantkeep: restore of %' ORDER BY 1`)
}

func schemas(t testing.TB, db *pgtest.Database) string {
	t.Helper()
	return strings.Join(db.Query(t, `SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' ORDER BY 1`), " ")
}

func TestZoo(t *testing.T) {
	t.Parallel()
	source, target := pgtest.New(t), pgtest.New(t)
	pgtest.Zoo(t, source, pgtest.ZooOptions{})
	b := save(t, source)
	result, n, err := b.into(t, t.Context(), target)
	must(t, result, err)
	if n.rows != result.Rows || result.Rows == 0 {
		t.Errorf("%d rows were told, %d are in the result", n.rows, result.Rows)
	}
	pgtest.RequireEqual(t, source, target, pgtest.Compare{})
	if m := marks(t, target); len(m) > 0 {
		t.Errorf("marks are left on %v", m)
	}
}

// Each tenant of the zoo is lost and comes back, where the restoring role has
// default privileges of its own.
func TestZooTenants(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.Zoo(t, db, pgtest.ZooOptions{LoaderDefaults: true})
	tenants := pgtest.ZooTenants(t, db)
	b := save(t, db)
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	for _, name := range tenants {
		db.Exec(t, "DROP SCHEMA "+pg.Identifier(name)+" CASCADE")
	}
	result, _, err := b.into(t, t.Context(), db, only(tenants...))
	must(t, result, err)
	pgtest.RequireState(t, before, db, pgtest.Compare{})
}
