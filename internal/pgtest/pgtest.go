// Package pgtest gives tests a real PostgreSQL: one cluster for each test
// binary, started when the first test asks for it, and a fresh database for
// each test. It is for tests only.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantkeep/tenantkeep/internal/pgcluster"
)

// BinDirVariable names the environment variable that picks the server's
// directory of programs, to test against another version of PostgreSQL.
const BinDirVariable = "TENANTKEEP_TEST_PG_BIN"

// dropTimeout bounds the clean-up after a test, whose context is over by then.
const dropTimeout = 30 * time.Second

var (
	shared = sync.OnceValues(func() (*pgcluster.Cluster, error) {
		return start(context.Background(), nil)
	})
	started   atomic.Bool
	databases atomic.Int64
)

// Main is to be called by TestMain: it runs the tests, ends the shared cluster and
// removes the program that was built for them. A test binary that dies without getting here leaves nothing behind
// either, because the cluster ends and removes itself with the process.
func Main(m *testing.M) {
	m.Run() // its result becomes the exit code when TestMain returns
	if dir := programFolder.Load(); dir != nil {
		if err := os.RemoveAll(*dir); err != nil {
			fmt.Fprintf(os.Stderr, "pgtest: remove the program: %v\n", err)
		}
	}
	if !started.Load() {
		return
	}
	if cluster, err := shared(); err == nil {
		if err := cluster.Close(); err != nil {
			fmt.Fprintf(os.Stderr, "pgtest: close cluster: %v\n", err)
		}
	}
}

func start(ctx context.Context, settings map[string]string) (*pgcluster.Cluster, error) {
	opts := pgcluster.Options{Unsafe: true, TCP: true, Settings: settings}
	if dir := os.Getenv(BinDirVariable); dir != "" {
		programs, err := pgcluster.Inspect(dir)
		if err != nil {
			return nil, fmt.Errorf("use %s: %w", BinDirVariable, err)
		}
		opts.Programs = programs
	}
	return pgcluster.Start(ctx, opts)
}

// Cluster is the cluster that the tests of this binary share. Settings that
// matter to backup are the defaults: max_connections = 100 and
// max_locks_per_transaction = 64. Besides the socket it listens on TCP, where
// roles need a password. A test does not stop it: see StartCluster.
func Cluster(t testing.TB) *pgcluster.Cluster {
	t.Helper()
	started.Store(true)
	cluster, err := shared()
	fatalIf(t, "start shared cluster", err)
	return cluster
}

// StartCluster starts a cluster for this test alone, with settings of its own
// over the defaults, to be stopped, killed and restarted as the test likes.
func StartCluster(t testing.TB, settings map[string]string) *pgcluster.Cluster {
	t.Helper()
	cluster, err := start(t.Context(), settings)
	fatalIf(t, "start private cluster", err)
	t.Cleanup(func() {
		if err := cluster.Close(); err != nil {
			t.Errorf("close private cluster: %v", err)
		}
	})
	return cluster
}

// Database is a fresh database that is dropped when its test ends.
type Database struct {
	// Name is unique in the cluster.
	Name string

	cluster *pgcluster.Cluster
}

// New makes an empty database in the shared cluster.
func New(t testing.TB) *Database {
	t.Helper()
	return NewIn(t, Cluster(t))
}

// NewIn makes an empty database in the given cluster.
func NewIn(t testing.TB, cluster *pgcluster.Cluster) *Database {
	t.Helper()
	db := &Database{Name: databaseName(t.Name()), cluster: cluster}
	fatalIf(t, "make test database", cluster.CreateDatabase(t.Context(), db.Name))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), dropTimeout)
		defer cancel()
		// A cluster that the test has stopped takes its databases along.
		if err := cluster.DropDatabase(ctx, db.Name); err != nil && !unreachable(err) {
			t.Errorf("drop test database: %v", err)
		}
	})
	return db
}

var notInNames = regexp.MustCompile(`[^a-z0-9]+`)

// databaseName makes a unique name that shows whose database it is.
func databaseName(test string) string {
	name := fmt.Sprintf("t%d_%s", databases.Add(1), notInNames.ReplaceAllString(strings.ToLower(test), "_"))
	return name[:min(len(name), 60)]
}

func unreachable(err error) bool {
	var connectErr *pgconn.ConnectError
	return errors.As(err, &connectErr)
}

// URL is the connection string for the superuser.
func (db *Database) URL() string { return db.cluster.URL(db.Name) }

// Env leads libpq's programs to the database, on top of the environment of
// this process.
func (db *Database) Env() []string { return append(os.Environ(), db.cluster.Env(db.Name)...) }

// Cluster is the cluster that holds the database.
func (db *Database) Cluster() *pgcluster.Cluster { return db.cluster }

// Conn opens a connection that the test's end closes. Its search_path is empty,
// so that a name without a schema fails as it would in production.
func (db *Database) Conn(t testing.TB) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), db.URL())
	fatalIf(t, "connect to test database", err)
	t.Cleanup(func() { _ = conn.Close(context.Background()) }) // the test may have broken it
	_, err = conn.Exec(t.Context(), "SELECT pg_catalog.set_config('search_path', '', false)")
	fatalIf(t, "empty search_path", err)
	return conn
}

// Exec runs scripts of one or more SQL statements each, one after another in
// one session, whose search_path is empty at first. A script of more than one
// statement is one transaction.
func (db *Database) Exec(t testing.TB, scripts ...string) {
	t.Helper()
	conn := db.Conn(t)
	defer conn.Close(context.Background())
	for _, script := range scripts {
		if _, err := conn.Exec(t.Context(), script); err != nil {
			t.Fatalf("run SQL: %v\n%s", err, excerpt(script))
		}
	}
}

// Query returns the first column of all rows as text, NULL as "<null>".
func (db *Database) Query(t testing.TB, sql string, args ...any) []string {
	t.Helper()
	conn := db.Conn(t)
	defer conn.Close(context.Background())
	// The simple protocol gives every type as text.
	args = append([]any{pgx.QueryExecModeSimpleProtocol}, args...)
	rows, err := conn.Query(t.Context(), sql, args...)
	fatalIf(t, "query test database", err)
	values, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (string, error) {
		raw := row.RawValues()[0]
		if raw == nil {
			return "<null>", nil
		}
		return string(raw), nil
	})
	if err != nil {
		t.Fatalf("query test database: %v\n%s", err, excerpt(sql))
	}
	return values
}

func excerpt(script string) string {
	const enough = 2000
	if len(script) > enough {
		return script[:enough] + " …"
	}
	return script
}

func fatalIf(t testing.TB, what string, err error) {
	t.Helper()
	if err == nil {
		return
	}
	var missing *pgcluster.MissingError
	if errors.As(err, &missing) {
		t.Fatalf("%s: %v\n%s", what, err, missing.Hint())
	}
	t.Fatalf("%s: %v", what, err)
}
