package pgdump_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgdump"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// programVariable names the environment variable that picks a pg_dump, to test
// one that is newer than the server.
const programVariable = "TENANTKEEP_TEST_PG_DUMP"

func program(t testing.TB, db *pgtest.Database) string {
	t.Helper()
	version := db.Query(t, "SHOW server_version_num")[0]
	var num int
	if _, err := fmt.Sscan(version, &num); err != nil {
		t.Fatal(err)
	}
	found, err := pgdump.Find(t.Context(), os.Getenv(programVariable), num)
	if err != nil {
		t.Fatal(err)
	}
	return found.Path
}

func server(t testing.TB, url string) *pg.Server {
	t.Helper()
	s, err := pg.Parse(url)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func run(t testing.TB, db *pgtest.Database, opts pgdump.Options) *pgdump.Archive {
	t.Helper()
	archive, err := tryRun(t, db, opts)
	if err != nil {
		t.Fatal(err)
	}
	return archive
}

func tryRun(t testing.TB, db *pgtest.Database, opts pgdump.Options) (*pgdump.Archive, error) {
	t.Helper()
	opts.Program = program(t, db)
	if opts.Connect == nil {
		opts.Connect = server(t, db.URL()).Hijacked
	}
	return pgdump.Run(t.Context(), opts)
}

// execute runs the statements of all scripts against an empty database. Each
// script keeps its order; where one needs something of another it waits.
func execute(t testing.TB, db *pgtest.Database, scripts ...[]pgdump.Statement) {
	t.Helper()
	conn := db.Conn(t)
	if _, err := conn.Exec(t.Context(), pgdump.Header("UTF8")); err != nil {
		t.Fatalf("header: %v", err)
	}
	for _, section := range []pgdump.Section{pgdump.PreData, pgdump.PostData} {
		var waiting [][]pgdump.Statement
		for _, script := range scripts {
			part := slices.DeleteFunc(slices.Clone(script), func(s pgdump.Statement) bool { return s.Section != section })
			if len(part) > 0 {
				waiting = append(waiting, part)
			}
		}
		for len(waiting) > 0 {
			progress := false
			var firstErr error
			for i := range waiting {
				for len(waiting[i]) > 0 {
					statement := waiting[i][0]
					if _, err := conn.Exec(t.Context(), statement.SQL); err != nil {
						if firstErr == nil {
							firstErr = fmt.Errorf("%s %s: %w\n%s", statement.Kind, statement.Tag, err, statement.SQL)
						}
						break
					}
					waiting[i] = waiting[i][1:]
					progress = true
				}
			}
			waiting = slices.DeleteFunc(waiting, func(s []pgdump.Statement) bool { return len(s) == 0 })
			if !progress {
				t.Fatal(firstErr)
			}
		}
	}
	for _, setting := range []string{"default_tablespace", "search_path"} {
		var value string
		if err := conn.QueryRow(t.Context(), "SELECT current_setting($1)", setting).Scan(&value); err != nil || strings.Trim(value, `"`) != "" {
			t.Errorf("%s is %q after the script, %v", setting, value, err)
		}
	}
}

func all(a *pgdump.Archive) [][]pgdump.Statement {
	bySchema, database := a.Split()
	scripts := [][]pgdump.Statement{database}
	for _, name := range slices.Sorted(maps.Keys(bySchema)) {
		scripts = append(scripts, bySchema[name])
	}
	return scripts
}

// largeObjects are all that a script of definitions can bring back of them.
const largeObjects = `SELECT concat_ws(' ', oid, lomowner::regrole, lomacl::text, obj_description(oid, 'pg_largeobject'))
	FROM pg_largeobject_metadata ORDER BY oid`

// TestZoo takes every kind of object apart and puts it together again.
func TestZoo(t *testing.T) {
	t.Parallel()
	source, target := pgtest.New(t), pgtest.New(t)
	pgtest.Zoo(t, source, pgtest.ZooOptions{BigValue: 3})
	role := pgx.Identifier{`quoted; LARGE OBJECT 1 "role" of ` + source.Name}.Sanitize()
	source.Exec(t, "CREATE ROLE "+role)
	atEnd(t, source, "DROP OWNED BY "+role+"; DROP ROLE "+role)
	source.Exec(t, `DO $$ BEGIN FOR i IN 1..50 LOOP
		PERFORM lo_create(770000 + i);
		EXECUTE format('GRANT SELECT ON LARGE OBJECT %1$s TO PUBLIC; GRANT UPDATE ON LARGE OBJECT %1$s TO `+role+` WITH GRANT OPTION', 770000 + i);
	END LOOP; END $$`)

	archive := run(t, source, pgdump.Options{LargeObjects: true, Encoding: "UTF8"})
	atEnd(t, target, "DROP OWNED BY "+role)
	execute(t, target, all(archive)...)

	want := pgtest.Fingerprint(t, source, pgtest.Compare{}).Definitions
	got := pgtest.Fingerprint(t, target, pgtest.Compare{}).Definitions
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("definitions differ (- source, + target):\n%s", diff)
	}
	if diff := cmp.Diff(source.Query(t, largeObjects), target.Query(t, largeObjects)); diff != "" {
		t.Errorf("large objects differ (- source, + target):\n%s", diff)
	}

	bySchema, database := archive.Split()
	for _, schema := range source.Query(t, `SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'public')`) {
		statements := bySchema[schema]
		if len(statements) == 0 || statements[0].Kind != "SCHEMA" || statements[0].Tag != schema {
			t.Errorf("script of schema %q does not begin with its creation", schema)
		}
	}
	for _, statement := range database {
		switch statement.Kind {
		case "TABLE", "FUNCTION", "INDEX", "SCHEMA":
			t.Errorf("%s %s is among the database's own objects", statement.Kind, statement.Tag)
		}
	}
}

// TestSameTextAsPgDump compares with what pg_dump itself prints, entry by
// entry.
func TestSameTextAsPgDump(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.Zoo(t, db, pgtest.ZooOptions{BigValue: 3})
	var got []string
	for _, script := range all(run(t, db, pgdump.Options{})) {
		for _, statement := range script {
			if statement.Kind == "OWNER" && len(got) > 0 && statement.Tag != "public" {
				got[len(got)-1] += statement.SQL
				continue
			}
			got = append(got, statement.SQL)
		}
	}
	cmd := exec.CommandContext(t.Context(), program(t, db), "--schema-only", "--no-subscriptions")
	cmd.Env = db.Env()
	plain, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	text := regexp.MustCompile(`(?s)\n--\n-- PostgreSQL database dump complete.*`).ReplaceAllString(string(plain), "")
	want := regexp.MustCompile(`(?m)^--\n-- Name: .*\n--\n`).Split(text, -1)[1:]
	settings := regexp.MustCompile(`(?m)^(SET default_tablespace|SET default_table_access_method) = .*\n`)
	// pg_dump quotes only where it must, and up to version 15 calls everything
	// with columns a table.
	owner := regexp.MustCompile(`(?m)^ALTER (VIEW|MATERIALIZED VIEW|SEQUENCE) `)
	normal := func(entries []string) []string {
		var out []string
		for _, entry := range entries {
			entry = settings.ReplaceAllString(entry, "")
			entry = owner.ReplaceAllString(strings.ReplaceAll(entry, `"`, ""), "ALTER TABLE ")
			// Blank lines within definitions are kept apart from those between.
			entry = strings.ReplaceAll(strings.TrimSpace(entry), ";\n\n\nALTER ", ";\nALTER ")
			if entry != "" {
				out = append(out, entry)
			}
		}
		slices.Sort(out)
		return out
	}
	if diff := cmp.Diff(normal(want), normal(got)); diff != "" {
		t.Errorf("- pg_dump, + ours:\n%s", diff)
	}
}

func oddNames() []string {
	names := []string{
		"Acme", "acme", "ACME", `quo"te`, `""`, "dot.ted", "..", "dol$lar", "$1", "pi|pe", `"|"`, "st*r", "*", "que?tion", "new\nline",
		"tab\t", "😀 emoji", "pröblem", "per%cent", `back\slash`, `\`, " ", "select", "a b", "-n", "(paren)", "[a]", "{1}", "^a$", "x'y", "x=y", ";",
		strings.Repeat("x", 63), strings.Repeat("é", 31), "a/b", "a,b", `a"."b`,
	}
	for i := range 80 {
		names = append(names, fmt.Sprintf("tenant_%03d", i))
	}
	return names
}

// TestExactNames checks that a name selects the schema of that name and nothing
// else, alone and among many.
func TestExactNames(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	names := oddNames()
	var script strings.Builder
	for _, name := range names {
		quoted := pgx.Identifier{name}.Sanitize()
		fmt.Fprintf(&script, "CREATE SCHEMA %s; CREATE TABLE %[1]s.%[1]s (%[1]s int PRIMARY KEY); COMMENT ON SCHEMA %[1]s IS 'x'; GRANT USAGE ON SCHEMA %[1]s TO PUBLIC;\n", quoted)
	}
	db.Exec(t, script.String())

	check := func(opts pgdump.Options, want []string) {
		t.Helper()
		bySchema, _ := run(t, db, opts).Split()
		got := slices.Sorted(maps.Keys(bySchema))
		slices.Sort(want)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("schemas (- asked, + dumped):\n%s", diff)
		}
		for schema, statements := range bySchema {
			kinds := make(map[string]int)
			for _, s := range statements {
				kinds[s.Kind]++
				if s.Kind == "CONSTRAINT" && s.Table != schema {
					t.Errorf("constraint of table %q said to be of %q", schema, s.Table)
				}
			}
			want := map[string]int{"SCHEMA": 1, "OWNER": 2, "COMMENT": 1, "TABLE": 1, "CONSTRAINT": 1, "ACL": 1}
			if diff := cmp.Diff(want, kinds); diff != "" {
				t.Errorf("statements of %q: %s", schema, diff)
			}
		}
	}
	check(pgdump.Options{Schemas: names}, slices.Clone(names))
	check(pgdump.Options{ExcludeSchemas: names[5:]}, slices.Clone(names[:5]))
	for _, name := range names[:37] {
		check(pgdump.Options{Schemas: []string{name}}, []string{name})
	}
}

// TestDatabaseNameIsNoConnectionString uses a name that would lead elsewhere as
// an argument.
func TestDatabaseNameIsNoConnectionString(t *testing.T) {
	cluster := pgtest.Cluster(t)
	const name = "host=nowhere dbname=x"
	if err := cluster.CreateDatabase(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cluster.DropDatabase(context.Background(), name); err != nil {
			t.Error(err)
		}
	})
	opts := pgdump.Options{Program: program(t, pgtest.New(t)), Connect: server(t, cluster.URL(name)).Hijacked}
	t.Setenv("PGSERVICE", "no_such_service")
	t.Setenv("PGHOST", "host.invalid")
	archive, err := pgdump.Run(t.Context(), opts)
	t.Setenv("PGSERVICE", "")
	if err != nil {
		t.Fatal(err)
	}
	if archive.DatabaseName != name {
		t.Errorf("dumped %q instead of %q", archive.DatabaseName, name)
	}
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, "CREATE SCHEMA before")
	conn := db.Conn(t)
	tx, err := conn.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		t.Fatal(err)
	}
	var snapshot string
	if err := tx.QueryRow(t.Context(), "SELECT pg_export_snapshot()").Scan(&snapshot); err != nil {
		t.Fatal(err)
	}
	db.Exec(t, "CREATE SCHEMA after")
	bySchema, _ := run(t, db, pgdump.Options{Snapshot: snapshot}).Split()
	if len(bySchema["before"]) == 0 || len(bySchema["after"]) != 0 {
		t.Errorf("snapshot shows %v", slices.Sorted(maps.Keys(bySchema)))
	}

	_, err = tryRun(t, db, pgdump.Options{Snapshot: snapshot, Schemas: []string{"before", "after", "public"}})
	wantReason(t, err, pgdump.Vanished)
	var failure *pgdump.Error
	if errors.As(err, &failure) && !slices.Equal(failure.Schemas, []string{"after"}) {
		t.Errorf("missing schemas %q", failure.Schemas)
	}
	_, err = tryRun(t, db, pgdump.Options{Snapshot: snapshot, Schemas: []string{"after"}})
	wantReason(t, err, pgdump.Vanished)
	if err := tx.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = tryRun(t, db, pgdump.Options{Snapshot: snapshot})
	wantReason(t, err, pgdump.SnapshotGone)
}

// atEnd runs a script when the test is over and its context gone.
func atEnd(t testing.TB, db *pgtest.Database, script string) {
	t.Helper()
	t.Cleanup(func() {
		ctx := context.Background()
		conn, err := pgx.Connect(ctx, db.URL())
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close(ctx)
		if _, err := conn.Exec(ctx, script); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
}

func wantReason(t testing.TB, err error, want pgdump.Reason) {
	t.Helper()
	var failure *pgdump.Error
	if !errors.As(err, &failure) {
		t.Fatalf("got error %v, want one of pg_dump: %s", err, want)
	}
	if failure.Reason != want {
		t.Errorf("reason is %q, want %q: %v", failure.Reason, want, err)
	}
	if failure.Message == "" {
		t.Error("no message")
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA s; CREATE TABLE s.held (id int); CREATE VIEW s.v AS SELECT id FROM s.held`)

	t.Run("no server", func(t *testing.T) {
		_, err := tryRun(t, db, pgdump.Options{Connect: server(t, "postgres://me@127.0.0.1:1/none").Hijacked})
		var refused *pg.ConnectError
		if !errors.As(err, &refused) {
			t.Errorf("got error %v", err)
		}
	})
	t.Run("no program", func(t *testing.T) {
		_, err := pgdump.Run(t.Context(), pgdump.Options{Program: "/nonexistent/pg_dump", Connect: server(t, db.URL()).Hijacked})
		if !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got error %v", err)
		}
	})
	t.Run("program never connects", func(t *testing.T) {
		_, err := pgdump.Run(t.Context(), pgdump.Options{Program: "/bin/false", Connect: server(t, db.URL()).Hijacked})
		if err == nil {
			t.Error("no error")
		}
	})

	// hold keeps the table locked until the subtest ends.
	hold := func(t *testing.T) *pgx.Conn {
		conn := db.Conn(t)
		if _, err := conn.Exec(t.Context(), "BEGIN; LOCK TABLE s.held IN ACCESS EXCLUSIVE MODE"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close(context.Background()) })
		return conn
	}
	const waiting = `SELECT pid FROM pg_stat_activity WHERE application_name = 'tenantkeep' AND datname = current_database() AND wait_event_type = 'Lock'`
	background := func(t *testing.T, ctx context.Context) <-chan error {
		result := make(chan error, 1)
		opts := pgdump.Options{Program: program(t, db), Connect: server(t, db.URL()).Hijacked}
		go func() {
			_, err := pgdump.Run(ctx, opts)
			result <- err
		}()
		for len(db.Query(t, waiting)) == 0 {
			select {
			case err := <-result:
				t.Fatalf("pg_dump ended without waiting: %v", err)
			case <-time.After(10 * time.Millisecond):
			}
		}
		return result
	}
	t.Run("lock timeout", func(t *testing.T) {
		hold(t)
		_, err := tryRun(t, db, pgdump.Options{LockWait: 50 * time.Millisecond})
		wantReason(t, err, pgdump.LockTimeout)
	})
	t.Run("lock of a table that is only dumped", func(t *testing.T) {
		db.Exec(t, "CREATE SCHEMA other; CREATE TABLE other.t ()")
		conn := db.Conn(t)
		if _, err := conn.Exec(t.Context(), "BEGIN; LOCK TABLE other.t IN ACCESS EXCLUSIVE MODE"); err != nil {
			t.Fatal(err)
		}
		run(t, db, pgdump.Options{})
	})
	t.Run("connection lost", func(t *testing.T) {
		hold(t)
		result := background(t, t.Context())
		db.Query(t, "SELECT pg_terminate_backend(pid) FROM ("+waiting+") AS w")
		wantReason(t, <-result, pgdump.ConnectionLost)
	})
	t.Run("cancelled", func(t *testing.T) {
		hold(t)
		ctx, cancel := context.WithCancel(t.Context())
		result := background(t, ctx)
		cancel()
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Errorf("got error %v", err)
		}
		deadline := time.Now().Add(10 * time.Second)
		for len(db.Query(t, waiting)) > 0 {
			if time.Now().After(deadline) {
				t.Fatal("the query of a cancelled pg_dump still runs")
			}
		}
	})
	t.Run("dropped while waiting", func(t *testing.T) {
		conn := hold(t)
		if _, err := conn.Exec(t.Context(), "DROP TABLE s.held CASCADE"); err != nil {
			t.Fatal(err)
		}
		result := background(t, t.Context())
		if _, err := conn.Exec(t.Context(), "COMMIT"); err != nil {
			t.Fatal(err)
		}
		wantReason(t, <-result, pgdump.Vanished)
	})
}

// TestLockTable dumps more tables than the lock table holds, which pg_dump alone
// cannot, and as many views of them.
func TestLockTable(t *testing.T) {
	t.Parallel()
	cluster := pgtest.StartCluster(t, map[string]string{"max_locks_per_transaction": "10", "max_connections": "10"})
	db := pgtest.NewIn(t, cluster)
	// From version 18 on there is room for more.
	for n := range 24 {
		db.Exec(t, fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..100 LOOP EXECUTE format('CREATE TABLE public.t%[1]d_%%s (); CREATE VIEW public.v%[1]d_%%s AS SELECT FROM public.t%[1]d_%%s', i, i, i); END LOOP; END $$`, n))
	}
	bySchema, _ := run(t, db, pgdump.Options{}).Split()
	if n := len(bySchema["public"]); n < 9600 {
		t.Errorf("%d statements", n)
	}
	// Policies are printed all at once.
	for n := range 24 {
		db.Exec(t, fmt.Sprintf(`DO $$ BEGIN FOR i IN 1..100 LOOP EXECUTE format('CREATE POLICY p ON public.t%[1]d_%%s USING (EXISTS (SELECT FROM public.v%[1]d_%%s))', i, i); END LOOP; END $$`, n))
	}
	_, err := tryRun(t, db, pgdump.Options{})
	wantReason(t, err, pgdump.LockTableFull)
}

// TestAnswers runs pg_dump several times, some at once, on one snapshot: what
// one run asked for the others need not ask again, and all give the same.
func TestAnswers(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.Zoo(t, db, pgtest.ZooOptions{BigValue: 3})
	want := run(t, db, pgdump.Options{})
	conn := db.Conn(t)
	tx, err := conn.BeginTx(t.Context(), pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		t.Fatal(err)
	}
	opts := pgdump.Options{Program: program(t, db), Connect: server(t, db.URL()).Hijacked, Answers: &pgdump.Answers{}}
	if err := tx.QueryRow(t.Context(), "SELECT pg_export_snapshot()").Scan(&opts.Snapshot); err != nil {
		t.Fatal(err)
	}
	// The snapshot does not see it: only the newest state could tell of it.
	db.Exec(t, "CREATE SCHEMA later; CREATE TABLE later.t (id serial)")
	archives := make(chan *pgdump.Archive)
	for range 3 {
		go func() {
			archive, err := pgdump.Run(t.Context(), opts)
			if err != nil {
				t.Error(err)
			}
			archives <- archive
		}()
	}
	for range 3 {
		if got := <-archives; got != nil {
			if diff := cmp.Diff(want.Entries, got.Entries); diff != "" {
				t.Errorf("- alone, + with answers of others:\n%s", diff)
			}
		}
	}
}

// TestTLS lets pg_dump work on a session that is encrypted.
func TestTLS(t *testing.T) {
	t.Parallel()
	cert, key := certificate(t)
	cluster := pgtest.StartCluster(t, map[string]string{"ssl": "on", "ssl_cert_file": cert, "ssl_key_file": key})
	db := pgtest.NewIn(t, cluster)
	db.Exec(t, `CREATE SCHEMA s; CREATE TABLE s.t (id serial); CREATE VIEW s.v AS SELECT id FROM s.t;
		CREATE ROLE encrypted LOGIN SUPERUSER PASSWORD 'x'`)
	u, err := url.Parse(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	u.Host, u.User = cluster.Address(), url.UserPassword("encrypted", "x")
	u.RawQuery = "sslmode=require"
	connect := server(t, u.String()).Hijacked
	var encrypted bool
	opts := pgdump.Options{Schemas: []string{"s"}, Connect: func(ctx context.Context) (*pgconn.HijackedConn, error) {
		conn, err := connect(ctx)
		if err == nil {
			_, encrypted = conn.Conn.(*tls.Conn)
		}
		return conn, err
	}}
	bySchema, _ := run(t, db, opts).Split()
	if len(bySchema["s"]) == 0 || !encrypted {
		t.Errorf("encrypted %t, %d statements", encrypted, len(bySchema["s"]))
	}
}

// certificate makes one for a server that runs as whoever owns the files.
func certificate(t *testing.T) (certFile, keyFile string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "tenantkeep-tls-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	certFile, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "EC PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if os.Getuid() == 0 { // the server refuses root, and a key that is not its own
		postgres, err := user.Lookup("postgres")
		if err != nil {
			t.Skip(err)
		}
		uid, errUID := strconv.Atoi(postgres.Uid)
		gid, errGID := strconv.Atoi(postgres.Gid)
		for _, path := range []string{dir, certFile, keyFile} {
			if err := errors.Join(errUID, errGID, os.Chown(path, uid, gid)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return certFile, keyFile
}

// TestPublic checks that the schema that every database begins with is never
// created, however it was chosen, and keeps what was changed.
func TestPublic(t *testing.T) {
	t.Parallel()
	source := pgtest.New(t)
	role := "owner_" + source.Name
	source.Exec(t, fmt.Sprintf(`CREATE ROLE %s; ALTER SCHEMA public OWNER TO %[1]s; GRANT CREATE ON SCHEMA public TO PUBLIC; COMMENT ON SCHEMA public IS 'ours'`, role))
	atEnd(t, source, "DROP OWNED BY "+role+" CASCADE; DROP ROLE "+role)
	for name, opts := range map[string]pgdump.Options{"all": {}, "chosen": {Schemas: []string{"public"}}} {
		bySchema, database := run(t, source, opts).Split()
		var kinds []string
		for _, s := range bySchema["public"] {
			kinds = append(kinds, s.Kind)
		}
		if diff := cmp.Diff([]string{"OWNER", "COMMENT", "ACL"}, kinds); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		target := pgtest.New(t)
		execute(t, target, database, bySchema["public"])
		of := `SELECT concat_ws(' ', nspowner::regrole, nspacl::text, obj_description(oid, 'pg_namespace')) FROM pg_namespace WHERE nspname = 'public'`
		if diff := cmp.Diff(source.Query(t, of), target.Query(t, of)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		target.Exec(t, "DROP OWNED BY "+role+" CASCADE")
	}
	untouched := pgtest.New(t)
	untouched.Exec(t, "GRANT CREATE ON SCHEMA public TO PUBLIC; ")
	for name, opts := range map[string]pgdump.Options{"all": {}, "chosen": {Schemas: []string{"public"}}} {
		bySchema, _ := run(t, untouched, opts).Split()
		for _, s := range bySchema["public"] {
			if s.Kind != "ACL" && s.Kind != "COMMENT" {
				t.Errorf("%s: %s %s", name, s.Kind, s.SQL)
			}
		}
	}
}

// TestExtensions checks that an extension goes with its schema when that is
// dumped, and with the database otherwise.
func TestExtensions(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA tenant; CREATE EXTENSION hstore SCHEMA tenant; CREATE EXTENSION citext SCHEMA public; COMMENT ON EXTENSION hstore IS 'mine'`)
	place := func(opts pgdump.Options) map[string]string {
		places := make(map[string]string)
		bySchema, database := run(t, db, opts).Split()
		bySchema["(database)"] = database
		for schema, statements := range bySchema {
			for _, s := range statements {
				if s.Kind == "EXTENSION" || s.Kind == "COMMENT" {
					places[s.Kind+" "+s.Tag] = schema
				}
			}
		}
		delete(places, "COMMENT SCHEMA public")
		return places
	}
	tests := []struct {
		opts pgdump.Options
		want map[string]string
	}{
		{pgdump.Options{}, map[string]string{
			"EXTENSION hstore": "tenant", "COMMENT EXTENSION hstore": "tenant",
			"EXTENSION citext": "(database)", "COMMENT EXTENSION citext": "(database)",
		}},
		{pgdump.Options{Schemas: []string{"tenant"}}, map[string]string{}},
		{pgdump.Options{Schemas: []string{"tenant"}, Extensions: []string{"hstore"}}, map[string]string{
			"EXTENSION hstore": "tenant", "COMMENT EXTENSION hstore": "tenant",
		}},
		{pgdump.Options{ExcludeSchemas: []string{"tenant"}}, map[string]string{
			"EXTENSION hstore": "(database)", "COMMENT EXTENSION hstore": "(database)",
			"EXTENSION citext": "(database)", "COMMENT EXTENSION citext": "(database)",
		}},
	}
	for _, test := range tests {
		if diff := cmp.Diff(test.want, place(test.opts)); diff != "" {
			t.Errorf("%+v: %s", test.opts, diff)
		}
	}
}

func TestTablesOfStatements(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA s; CREATE SCHEMA o; SET search_path = s;
		CREATE TABLE a (id int PRIMARY KEY, x int, n numeric DEFAULT random());
		CREATE TABLE "a b" (id int CONSTRAINT c PRIMARY KEY, a int CONSTRAINT "self" REFERENCES "a b", o a);
		ALTER TABLE "a b" ADD CONSTRAINT "to a" FOREIGN KEY (a) REFERENCES a;
		ALTER TABLE a ADD CONSTRAINT "b c" FOREIGN KEY (x) REFERENCES "a b";
		ALTER TABLE a ADD CONSTRAINT later CHECK (x > 0) NOT VALID;
		CREATE INDEX by_row ON "a b" ((o IS NULL));
		CREATE INDEX by_other_row ON a ((('(1,2,)'::"a b").id));
		CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
		CREATE TRIGGER t AFTER INSERT ON "a b" EXECUTE FUNCTION f();
		CREATE RULE "b r" AS ON DELETE TO a DO INSTEAD DELETE FROM "a b";
		ALTER TABLE a ENABLE ROW LEVEL SECURITY;
		CREATE POLICY "b p" ON a USING (EXISTS (SELECT FROM "a b"));
		CREATE STATISTICS st ON id, x FROM a;
		COMMENT ON INDEX by_row IS 'x'; COMMENT ON COLUMN a.x IS 'x'; GRANT SELECT (x) ON a TO PUBLIC; GRANT INSERT ON a TO PUBLIC;
		CREATE TABLE p (i int PRIMARY KEY) PARTITION BY LIST (i); CREATE INDEX p_i ON p (i);
		CREATE TABLE o.p1 PARTITION OF p FOR VALUES IN (1);
		CREATE SEQUENCE own OWNED BY a.id;
		CREATE VIEW v AS SELECT * FROM a; CREATE TRIGGER vt INSTEAD OF INSERT ON v FOR EACH ROW EXECUTE FUNCTION f();
		ALTER TABLE a ALTER x SET DEFAULT nextval('own');`)
	bySchema, _ := run(t, db, pgdump.Options{}).Split()
	got := make(map[string]string)
	for _, schema := range []string{"s", "o"} {
		for _, s := range bySchema[schema] {
			if s.Table != "" {
				got[s.Kind+" "+s.Tag] = s.Table
			}
		}
	}
	want := map[string]string{
		"CONSTRAINT a a_pkey": "a", "CONSTRAINT a b c": "a b", "FK CONSTRAINT a b self": "a b", "FK CONSTRAINT a b to a": "a b",
		"FK CONSTRAINT a b c": "a", "CHECK CONSTRAINT a later": "a", "INDEX by_row": "a b", "INDEX by_other_row": "a",
		"TRIGGER a b t": "a b", "RULE a b r": "a", "POLICY a b p": "a", "ROW SECURITY a": "a", "STATISTICS st": "a", "OWNER st": "a",
		"COMMENT INDEX by_row": "a b", "COMMENT COLUMN a.x": "a", "ACL COLUMN a.x": "a", "ACL TABLE a": "a",
		"CONSTRAINT p p_pkey": "p", "INDEX p_i": "p", "CONSTRAINT p1 p1_pkey": "p1", "INDEX p1_i_idx": "p1",
		"TABLE ATTACH p1": "p1", "INDEX ATTACH p1_pkey": "p1", "INDEX ATTACH p1_i_idx": "p1",
		"TRIGGER v vt": "v", "DEFAULT a x": "a",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("- want, + got:\n%s", diff)
	}
}

// TestStorage checks what is not in the definitions: tablespace and access
// method.
func TestStorage(t *testing.T) {
	t.Parallel()
	cluster := pgtest.StartCluster(t, map[string]string{"allow_in_place_tablespaces": "on"})
	source, target := pgtest.NewIn(t, cluster), pgtest.NewIn(t, cluster)
	conn := source.Conn(t)
	if _, err := conn.Exec(t.Context(), `CREATE TABLESPACE "Fast ""disk" LOCATION ''`); err != nil {
		t.Fatal(err)
	}
	source.Exec(t, `CREATE ACCESS METHOD "Heap 2" TYPE TABLE HANDLER heap_tableam_handler;
		CREATE SCHEMA s;
		CREATE TABLE s.t (id int PRIMARY KEY USING INDEX TABLESPACE "Fast ""disk") USING "Heap 2" TABLESPACE "Fast ""disk";
		CREATE INDEX i ON s.t (id) TABLESPACE "Fast ""disk"; CREATE INDEX j ON s.t (id);
		CREATE TABLE s.u (id int PRIMARY KEY);
		CREATE MATERIALIZED VIEW s.m USING "Heap 2" AS SELECT 1 AS one WITH NO DATA;
		CREATE TABLE s.p (id int) PARTITION BY HASH (id) TABLESPACE "Fast ""disk";`)
	execute(t, target, all(run(t, source, pgdump.Options{}))...)
	pgtest.RequireEqual(t, source, target, pgtest.Compare{})
}

// TestAttributeVersions gives columns the option that servers of some minor
// releases keep.
func TestAttributeVersions(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA s; CREATE TABLE s."t; ""x" ("c (d" int, plain int, text text DEFAULT 'ALTER TABLE ONLY s.t ALTER COLUMN c SET (pg_attver=1);');
		ALTER TABLE s."t; ""x" ALTER plain SET (n_distinct = 5);`)
	if n := db.Query(t, "SELECT count(*) FROM pg_attribute WHERE 'pg_attver' = ANY(SELECT split_part(o, '=', 1) FROM unnest(attoptions) o)"); n[0] != "0" {
		t.Skip("the server has the option itself, and so its pg_dump leaves it out")
	}
	without := run(t, db, pgdump.Options{})
	if len(without.Warnings) > 0 {
		t.Errorf("warnings %q", without.Warnings)
	}
	db.Exec(t, `SET allow_system_table_mods = on;
		UPDATE pg_attribute SET attoptions = array_append(attoptions, 'pg_attver=7') WHERE attrelid = 's."t; ""x"'::regclass AND attnum > 0`)
	with := run(t, db, pgdump.Options{})
	if len(with.Warnings) != 1 || !strings.Contains(with.Warnings[0], "pg_attver") {
		t.Errorf("warnings %q", with.Warnings)
	}
	if diff := cmp.Diff(without.Entries, with.Entries); diff != "" {
		t.Errorf("- without the option, + with it:\n%s", diff)
	}
}

// TestLargeObjectContentsAreNotRead dumps the existence of a large object, and
// neither its contents nor rows.
func TestLargeObjectContentsAreNotRead(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `SELECT lo_from_bytea(4711, repeat('large', 1000000)::bytea); CREATE TABLE public.t (id serial); INSERT INTO public.t DEFAULT VALUES;
		CREATE MATERIALIZED VIEW public.m AS SELECT * FROM public.t`)
	_, database := run(t, db, pgdump.Options{LargeObjects: true}).Split()
	var got []string
	for _, s := range database {
		got = append(got, s.SQL)
	}
	want := []string{"SELECT pg_catalog.lo_create('4711');\n", `ALTER LARGE OBJECT 4711 OWNER TO "` + db.Query(t, "SELECT current_user")[0] + "\";\n"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestLargeObjectGrants grants a right that was granted with the option to pass it
// on: the name of who does it must stay.
func TestLargeObjectGrants(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE ROLE "large One"; CREATE ROLE large_two; SELECT lo_create(4811), lo_create(4812);
		GRANT SELECT ON LARGE OBJECT 4811, 4812 TO "large One" WITH GRANT OPTION; SET ROLE "large One"; GRANT SELECT ON LARGE OBJECT 4811, 4812 TO large_two`)
	_, database := run(t, db, pgdump.Options{LargeObjects: true}).Split()
	var again strings.Builder
	for _, s := range database {
		if s.Kind == "ACL" {
			again.WriteString(s.SQL)
		}
	}
	before := db.Query(t, "SELECT lomacl FROM pg_largeobject_metadata ORDER BY oid")
	db.Exec(t, `REVOKE ALL ON LARGE OBJECT 4811, 4812 FROM "large One" CASCADE`, again.String())
	if diff := cmp.Diff(before, db.Query(t, "SELECT lomacl FROM pg_largeobject_metadata ORDER BY oid")); diff != "" {
		t.Errorf("- before, + by the grants of the dump:\n%s\n%s", diff, again.String())
	}
	db.Exec(t, `SELECT lo_unlink(4811), lo_unlink(4812); DROP ROLE "large One", large_two`)
}

// TestCircularKeysAreNoWarning leaves out what concerns data only.
func TestCircularKeysAreNoWarning(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE TABLE public.t (id int PRIMARY KEY, up int REFERENCES public.t)`)
	for _, opts := range []pgdump.Options{{}, {LargeObjects: true}} {
		if warnings := run(t, db, opts).Warnings; len(warnings) > 0 {
			t.Errorf("warnings %q", warnings)
		}
	}
}
