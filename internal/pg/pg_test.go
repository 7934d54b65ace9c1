package pg_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestParse(t *testing.T) {
	for _, name := range []string{"PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGPASSWORD", "PGSERVICE", "PGSERVICEFILE", "PGSSLMODE", "PGOPTIONS"} {
		t.Setenv(name, "")
		if err := os.Unsetenv(name); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PGPASSFILE", filepath.Join(t.TempDir(), "none"))
	service := filepath.Join(t.TempDir(), "pg_service.conf")
	if err := os.WriteFile(service, []byte("[prod]\nhost=db.example.org\nport=6543\nuser=keeper\ndbname=shop\nsslmode=require\npassword=hush\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PGSERVICEFILE", service)
	for url, says := range map[string]string{
		"postgres://me:secret@db.example.org:6000/host%3Dx%20dbname%3Dy?sslmode=disable":           `database "host=x dbname=y" on db.example.org:6000 as "me"`,
		"postgresql+psycopg://me@[::1]/d?sslmode=disable":                                          `database "d" on [::1]:5432 as "me"`,
		"postgis:///d?host=/var/run/x&user=u&sslmode=disable":                                      `database "d" on /var/run/x as "u"`,
		"postgres://me@h/?sslmode=disable":                                                         `database "me" on h:5432 as "me"`,
		"postgres:///?service=prod":                                                                `database "shop" on db.example.org:6543 as "keeper"`,
		"postgres://a@h/d?options=-c%20work_mem%3D8MB&gssencmode=disable&keepalives=1&sslcrldir=x": `database "d" on h:5432 as "a"`,
	} {
		s, err := pg.Parse(url)
		if err != nil {
			t.Errorf("%s: %v", url, err)
			continue
		}
		if s.String() != says {
			t.Errorf("%s is %s, want %s", url, s, says)
		}
		if other := s.WithDatabase("a=b"); other.Database() != "a=b" || s.String() != says {
			t.Errorf("with another database: %s, and %s", other, s)
		}
	}
	for _, url := range []string{"mysql://me:secret@h/d", "postgres://me:sec#ret@h:port/d", "postgres://me:secret@h:99999999/d", "postgres://me:sec%zzret@h/d", "host=h password=secret", "postgres://me:secret@h/d?service=none"} {
		if s, err := pg.Parse(url); err == nil {
			t.Errorf("%s is %s", url, s)
		} else if strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "ret@") {
			t.Errorf("the password is in: %v", err)
		}
	}
}

// A server that takes connections and never answers, or not to the end, is given up.
func TestConnectLimit(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]time.Duration{"postgres://u@h/d": 30 * time.Second, "postgres://u@h/d?connect_timeout=90": 90 * time.Second} {
		if s, err := pg.Parse(url); err != nil || s.ConnectLimit() != want {
			t.Errorf("%s: %v, %v", url, s.ConnectLimit(), err)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	ready := []byte{'R', 0, 0, 0, 8, 0, 0, 0, 0, 'K', 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 1, 'Z', 0, 0, 0, 5, 'I'}
	for _, answer := range [][]byte{nil, ready} {
		go func() {
			conn, err := listener.Accept()
			if err == nil {
				_, _ = conn.Write(answer)
				_, _ = io.Copy(io.Discard, conn) // until the client gives up
			}
		}()
		s, err := pg.Parse("postgres://u@" + listener.Addr().String() + "/d?sslmode=disable")
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.LimitConnect(100 * time.Millisecond).Connect(t.Context())
		if failed, ok := errors.AsType[*pg.ConnectError](err); !ok || failed.State() != pg.Unreachable || !strings.Contains(failed.Hint(), "did not answer in time") {
			t.Errorf("after %q: %v", answer, err)
		}
	}
}

// TestSettingsAndPassword gives settings that only libpq knows, one for the
// server, and the password later.
func TestSettingsAndPassword(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	u, err := url.Parse(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	u.User = url.User(u.User.Username())
	query := u.Query()
	for key, value := range map[string]string{"options": "-c work_mem=8MB", "gssencmode": "disable", "keepalives": "1", "sslcertmode": "allow"} {
		query.Set(key, value)
	}
	u.RawQuery = strings.ReplaceAll(query.Encode(), "+", "%20")
	s, err := pg.Parse(u.String())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := s.WithPassword(password).Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer pg.Close(conn)
	var value string
	if err := conn.QueryRow(t.Context(), "SHOW work_mem").Scan(&value); err != nil || value != "8MB" {
		t.Errorf("work_mem is %q, %v", value, err)
	}
}

func TestParseVersion(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{
		"15.20 (Debian 15.20-0+deb12u1)": 150020, "17.4": 170004, "19beta1": 190000, "18devel": 180000, "16": 160000, "": 0,
	} {
		if got := pg.ParseVersion(text); got != want {
			t.Errorf("%q is %d, want %d", text, got, want)
		}
	}
}

func connect(t *testing.T, db *pgtest.Database) *pgx.Conn {
	t.Helper()
	s, err := pg.Parse(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := s.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { pg.Close(conn) })
	return conn
}

// TestSession has settings of the database that would change what values look
// like, or what is seen.
func TestSession(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	name := pg.Identifier(db.Name)
	for _, set := range []string{"datestyle = 'German'", "timezone = 'Asia/Tokyo'", "extra_float_digits = 0", "bytea_output = 'escape'", "row_security = on", "statement_timeout = 1", "search_path = 'pg_temp'"} {
		db.Exec(t, "ALTER DATABASE "+name+" SET "+set)
	}
	conn := connect(t, db)
	var got string
	err := conn.QueryRow(t.Context(), `SELECT concat_ws(' ', '2026-01-02 03:04:05+00'::timestamptz::text, (0.1::float8 + 0.2::float8)::text, '\x00ff'::bytea::text,
		current_setting('row_security'), current_setting('statement_timeout'), current_setting('search_path'))`).Scan(&got)
	if want := `2026-01-02 03:04:05+00 0.30000000000000004 \x00ff off 0 ""`; err != nil || got != want {
		t.Errorf("%s, %v, want %s", got, err, want)
	}
}

func TestLiteralsAndIdentifiers(t *testing.T) {
	t.Parallel()
	conn := connect(t, pgtest.New(t))
	for _, s := range []string{"", "plain", "it's", `back\slash`, `\'; DROP TABLE x; --`, "new\nline", "é🎉", `"quoted"`, "$$"} {
		results, err := conn.PgConn().Exec(t.Context(), "SELECT "+pg.Literal(s)+", 1 AS "+pg.Identifier(s+"x")).ReadAll()
		if err != nil {
			t.Errorf("%q: %v", s, err)
			continue
		}
		if got, name := string(results[0].Rows[0][0]), results[0].FieldDescriptions[1].Name; got != s || name != s+"x" {
			t.Errorf("%q became %q and %q", s, got, name)
		}
	}
}

func TestBatch(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE TABLE public.one AS SELECT n FROM generate_series(1, 3) n; CREATE TABLE public.none (a int)`)
	conn := connect(t, db)
	var told []string
	tell := pg.Batch{
		SQL: `COPY public.one TO STDOUT; SELECT 'a', NULL; COPY public.none TO STDOUT; SET application_name = 'x'; SELECT 'b' FROM generate_series(1, 2); COPY public.one (n) TO STDOUT`,
		CopyRow: func(n int, row []byte) error {
			told = append(told, "copy "+string('0'+rune(n))+" "+string(row))
			return nil
		},
		CopyDone: func(n int) error {
			told = append(told, "done "+string('0'+rune(n)))
			return nil
		},
		Row: func(n int, values [][]byte) error {
			null := ""
			if len(values) == 2 && values[1] == nil {
				null = " null"
			}
			told = append(told, "row "+string('0'+rune(n))+" "+string(values[0])+null)
			return nil
		},
	}
	if err := tell.Run(t.Context(), conn); err != nil {
		t.Fatal(err)
	}
	want := []string{"copy 0 1\n", "copy 0 2\n", "copy 0 3\n", "done 0", "row 0 a null", "done 1", "row 1 b", "row 1 b", "copy 2 1\n", "copy 2 2\n", "copy 2 3\n", "done 2"}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Error(diff)
	}

	// After an error of the server the session goes on.
	ignore := pg.Batch{CopyRow: func(int, []byte) error { return nil }}
	ignore.SQL = `COPY public.one TO STDOUT; COPY public.missing TO STDOUT`
	if err := ignore.Run(t.Context(), conn); !pg.Missing(err) || conn.IsClosed() {
		t.Errorf("a missing table: %v, closed %t", err, conn.IsClosed())
	}
	ignore.SQL = `COPY (SELECT 1 / (3 - n) FROM public.one) TO STDOUT`
	if err := ignore.Run(t.Context(), conn); pg.Code(err) != "22012" || conn.IsClosed() {
		t.Errorf("an error in the middle: %v, closed %t", err, conn.IsClosed())
	}
	var one int
	if err := conn.QueryRow(t.Context(), "SELECT 1").Scan(&one); err != nil {
		t.Error(err)
	}
	ignore.SQL = `COPY public.one FROM STDIN`
	if err := ignore.Run(t.Context(), conn); err == nil || !conn.IsClosed() {
		t.Errorf("the server asks for rows: %v, closed %t", err, conn.IsClosed())
	}

	// After one of a callback it does not.
	conn = connect(t, db)
	stop := errors.New("stop")
	err := pg.Batch{SQL: "COPY public.one TO STDOUT", CopyRow: func(int, []byte) error { return stop }}.Run(t.Context(), conn)
	if !errors.Is(err, stop) || !conn.IsClosed() {
		t.Errorf("an error of a callback: %v, closed %t", err, conn.IsClosed())
	}
	if err := tell.Run(t.Context(), conn); !pg.Lost(err) {
		t.Errorf("on a closed connection: %v", err)
	}

	// A cancellation ends a statement that would not end.
	conn = connect(t, db)
	ctx, cancel := context.WithCancel(t.Context())
	// The server sends no less than a buffer full.
	const endless = "COPY (SELECT repeat('x', 8000) FROM public.one) TO STDOUT; SELECT pg_sleep(600)"
	ignore = pg.Batch{SQL: endless, CopyRow: func(int, []byte) error { cancel(); return nil }}
	if err := ignore.Run(ctx, conn); !errors.Is(err, context.Canceled) || !conn.IsClosed() {
		t.Errorf("cancelled: %v, closed %t", err, conn.IsClosed())
	}

	// A session that is ended is lost.
	conn = connect(t, db)
	pid := conn.PgConn().PID()
	ignore = pg.Batch{SQL: endless, CopyRow: func(int, []byte) error {
		db.Query(t, "SELECT pg_terminate_backend($1)", int64(pid))
		return nil
	}}
	if err := ignore.Run(t.Context(), conn); !pg.Lost(err) || !conn.IsClosed() {
		t.Errorf("terminated: %v, closed %t", err, conn.IsClosed())
	}
}

func TestLock(t *testing.T) {
	t.Parallel()
	db, other := pgtest.New(t), pgtest.New(t)
	first, second, elsewhere := connect(t, db), connect(t, db), connect(t, other)
	if err := pg.Lock(t.Context(), first, "restore"); err != nil {
		t.Fatal(err)
	}
	if err := pg.Lock(t.Context(), elsewhere, "backup"); err != nil {
		t.Errorf("another database: %v", err)
	}
	err := pg.Lock(t.Context(), second, "backup")
	var locked *pg.LockedError
	if !errors.As(err, &locked) || locked.PID != int(first.PgConn().PID()) || locked.Application != "tenantkeep restore" || locked.Database != db.Name {
		t.Errorf("locked: %+v, %v", locked, err)
	}
	pg.Close(first) // the server may take a moment
	if err := pg.Lock(t.Context(), second, "backup"); err != nil {
		t.Errorf("after the first is gone: %v", err)
	}
}

// New tenants of different names go together, and with a backup, but not with
// anybody who replaces schemas.
func TestLockNew(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	ctx := t.Context()
	backup, one, two, three, restore := connect(t, db), connect(t, db), connect(t, db), connect(t, db), connect(t, db)
	for _, err := range []error{
		pg.Lock(ctx, backup, "backup"), pg.LockNew(ctx, one, "new tenant", "one"), pg.LockNew(ctx, two, "new tenant", "two"),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	var locked *pg.LockedError
	if err := pg.LockNew(ctx, three, "new tenant", "one"); !errors.As(err, &locked) || locked.PID != int(one.PgConn().PID()) {
		t.Errorf("the same name: %v", err)
	}
	if err := pg.LockSchemas(ctx, restore, "restore"); !errors.As(err, &locked) || locked.Application != "tenantkeep backup" {
		t.Errorf("beside a backup: %v", err)
	}
	pg.Close(backup)
	granted := make(chan error, 1)
	go func() { granted <- pg.LockSchemas(ctx, restore, "restore") }()
	pg.Close(one)
	select {
	case err := <-granted:
		t.Errorf("granted beside a new tenant: %v", err)
	default:
	}
	pg.Close(two)
	if err := <-granted; err != nil {
		t.Errorf("after the new tenants: %v", err)
	}
}

// TestChangedDefinitions makes a change after the snapshot and looks whose it
// is.
func TestChangedDefinitions(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA a; CREATE SCHEMA b; CREATE TABLE a.t (x int); CREATE TABLE b.t (x int); CREATE VIEW a.v AS SELECT x FROM a.t;
		CREATE FUNCTION a.f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'`)
	ctx := t.Context()
	fresh, held := connect(t, db), connect(t, db)
	tx, snapshot, err := pg.ExportSnapshot(ctx, held)
	if err != nil {
		t.Fatal(err)
	}
	schemas, err := pg.ListSchemas(ctx, tx)
	if err != nil {
		t.Fatal(err)
	}
	changed := func() []string {
		t.Helper()
		found, err := pg.ChangedDefinitions(ctx, tx, fresh, snapshot)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		if _, ok := found[pg.NoSchema]; ok {
			names = append(names, "database")
		}
		for _, s := range schemas {
			if _, ok := found[s.OID]; ok {
				names = append(names, s.Name)
			}
		}
		return names
	}
	for _, sql := range []string{"SELECT 1", "INSERT INTO a.t VALUES (1)", "ANALYZE a.t", "CREATE TEMP TABLE x (a int)", "CREATE SCHEMA c; CREATE TABLE c.t (a int)"} {
		db.Exec(t, sql)
		if got := changed(); len(got) > 0 {
			t.Errorf("%s: %q changed", sql, got)
		}
	}
	for _, sql := range []string{
		"CREATE INDEX ON a.t (x)", "CREATE OR REPLACE VIEW a.v AS SELECT x + 1 AS x FROM a.t", "ALTER TABLE a.t ADD CHECK (x > 0)",
		"CREATE TRIGGER g BEFORE INSERT ON a.t FOR EACH ROW EXECUTE FUNCTION a.f()", "ALTER FUNCTION a.f() IMMUTABLE", "ALTER TABLE a.t ALTER x SET DEFAULT 7",
		"CREATE POLICY p ON a.t", "CREATE TYPE a.e AS ENUM ('x')", "ALTER TYPE a.e RENAME VALUE 'x' TO 'y'", "CREATE STATISTICS a.s ON x, (x + 1) FROM a.t", "ALTER SCHEMA a RENAME TO aa", "DROP SCHEMA aa CASCADE",
	} {
		pg.Close(held)
		held = connect(t, db)
		if tx, snapshot, err = pg.ExportSnapshot(ctx, held); err != nil {
			t.Fatal(err)
		}
		db.Exec(t, sql)
		if got := changed(); !slices.Equal(got, []string{"a"}) {
			t.Errorf("%s: %q changed", sql, got)
		}
	}
	db.Exec(t, "CREATE PUBLICATION p FOR ALL TABLES")
	if got := changed(); !slices.Contains(got, "database") {
		t.Errorf("a publication: %q changed", got)
	}
}
