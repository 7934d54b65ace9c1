package restore_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/restore"
)

// cutter stands between a restore and the server and does something when the
// n-th message has gone to the server. It counts what the server acts upon.
type cutter struct {
	listener net.Listener
	target   string

	mu    sync.Mutex
	count int
	at    int    // 0: never
	then  func() // before the answer can come back
	conns []net.Conn
	dead  bool
}

func newCutter(t testing.TB, db *pgtest.Database) (*cutter, *pg.Server) {
	t.Helper()
	dir, err := os.MkdirTemp("", "cut") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cluster := db.Cluster()
	c := &cutter{target: filepath.Join(cluster.SocketDir(), fmt.Sprintf(".s.PGSQL.%d", cluster.Port()))}
	if c.listener, err = net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.listener.Close(); c.cut() })
	go c.serve()
	u, err := url.Parse(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	query := u.Query()
	query.Set("host", dir)
	query.Set("port", "5432")
	u.RawQuery = query.Encode()
	s, err := pg.Parse(u.String())
	if err != nil {
		t.Fatal(err)
	}
	return c, s
}

// arm lets connections through again.
func (c *cutter) arm(at int, then func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count, c.at, c.then, c.dead, c.conns = 0, at, then, false, nil
}

// cut breaks all connections at once, as the end of the process would, and lets
// no new one through.
func (c *cutter) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = true
	for _, conn := range c.conns {
		_ = conn.Close()
	}
}

func (c *cutter) serve() {
	for {
		client, err := c.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("unix", c.target)
		c.mu.Lock()
		if err != nil || c.dead {
			_ = client.Close()
			if err == nil {
				_ = server.Close()
			}
			c.mu.Unlock()
			continue
		}
		c.conns = append(c.conns, client, server)
		c.mu.Unlock()
		go func() { _, _ = io.Copy(client, server); _ = client.Close() }()
		go func() { c.forward(client, server); _ = server.Close() }()
	}
}

// forward passes messages on, of which the first has no type.
func (c *cutter) forward(client, server net.Conn) {
	for kind := byte(0); ; {
		head := make([]byte, 5)
		if kind == 0 {
			head = head[1:]
		}
		if _, err := io.ReadFull(client, head); err != nil {
			return
		}
		if kind != 0 {
			kind = head[0]
		}
		body := make([]byte, binary.BigEndian.Uint32(head[len(head)-4:])-4)
		if _, err := io.ReadFull(client, body); err != nil {
			return
		}
		if _, err := server.Write(append(head, body...)); err != nil {
			return
		}
		if kind == 'Q' || kind == 'S' || kind == 'c' {
			c.mu.Lock()
			c.count++
			hit := c.count == c.at
			c.mu.Unlock()
			if hit {
				c.then()
			}
		}
		if kind == 0 {
			kind = 1
		}
	}
}

// tenantState is what schema a holds, in short, without what a name of a schema
// around it could change.
func tenantState(t testing.TB, db *pgtest.Database) string {
	t.Helper()
	return strings.Join(db.Query(t, `
		SELECT 'comment ' || coalesce(obj_description('a'::regnamespace), '')
		UNION ALL SELECT c.relkind::text || ' ' || c.relname || ' ' || coalesce(c.relacl::text, '') FROM pg_class c WHERE c.relnamespace = 'a'::regnamespace
		UNION ALL SELECT pg_get_constraintdef(k.oid) || k.convalidated FROM pg_constraint k WHERE k.connamespace = 'a'::regnamespace
		UNION ALL SELECT 'customers ' || md5(string_agg(c::text, ',' ORDER BY c.id)) FROM a.customers c
		UNION ALL SELECT 'orders ' || md5(string_agg(o::text, ',' ORDER BY o.id)) FROM a.orders o
		UNION ALL SELECT 'names ' || count(*) FROM a.names
		UNION ALL SELECT 'sequence ' || last_value || is_called FROM a.customers_id_seq
		UNION ALL SELECT 'key of b ' || pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'visits_customer_fkey' AND connamespace = 'b'::regnamespace
		UNION ALL SELECT 'view of b ' || pg_get_viewdef('b.of_a'::regclass)
		ORDER BY 1`), "\n")
}

func withoutSequence(state string) string {
	return strings.Join(slices.DeleteFunc(strings.Split(state, "\n"), func(line string) bool { return strings.HasPrefix(line, "sequence ") }), "\n")
}

// backTo rolls tenant a back, as often as it was restored, and drops what that
// leaves.
func backTo(t testing.TB, db *pgtest.Database, state string) {
	t.Helper()
	for withoutSequence(tenantState(t, db)) != withoutSequence(state) {
		back, err := restore.Rollback(t.Context(), restore.RollbackOptions{Server: server(t, db), Schemas: []string{"a"}})
		if err != nil {
			t.Fatal(err)
		}
		db.Exec(t, "DROP SCHEMA "+ident(back.Schemas[0].Replaced)+" CASCADE")
	}
	dropOwn(t, db)
}

// visited makes a tenant a that b points into.
func visited(t testing.TB, db *pgtest.Database) {
	t.Helper()
	shop(t, db, "a", "b")
	db.Exec(t, `
		CREATE VIEW b.of_a AS SELECT count(*) AS customers FROM a.customers;
		CREATE TABLE b.visits (customer bigint REFERENCES a.customers (id));
		INSERT INTO b.visits VALUES (1), (2)`)
}

const damage = "DELETE FROM a.orders WHERE id > 7; UPDATE a.customers SET name = 'overwritten'; COMMENT ON SCHEMA a IS 'changed'; ALTER TABLE a.orders ADD COLUMN more int"

// settled waits until the server has ended the sessions of a dead restore.
func settled(t testing.TB, db *pgtest.Database) {
	t.Helper()
	conn := db.Conn(t)
	defer conn.Close(context.Background())
	for n := 1; n > 0; {
		if err := conn.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
			AND application_name LIKE 'tenantkeep%'`).Scan(&n); err != nil {
			t.Fatal(err)
		}
	}
}

func dropOwn(t testing.TB, db *pgtest.Database) {
	t.Helper()
	list, err := restore.DropOwn(t.Context(), restore.DropOptions{Server: server(t, db), Before: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatalf("drop: %v", err)
	}
	for _, d := range list {
		if len(d.Dependents) > 0 {
			t.Errorf("%s was not dropped: %s", d.Name, d.Dependents)
		}
	}
}

// The restoring process dies after each message that it sends: the tenant is
// whole, old or new, and what is left is known and can be removed.
func TestLiveKilledAtEveryMessage(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	visited(t, db)
	b := save(t, db)
	saved := tenantState(t, db)
	db.Exec(t, damage)
	old := tenantState(t, db)
	c, through := newCutter(t, db)
	run := func(at int) error {
		c.arm(at, c.cut)
		_, _, err := b.into(t, t.Context(), db, only("a"), replace, func(o *restore.Options) { o.Server, o.Jobs, o.Progress = through, 1, nil })
		settled(t, db)
		return err
	}
	became := map[string]int{}
	last := 0
	for at := 1; ; at++ {
		err := run(at)
		got := tenantState(t, db)
		switch got {
		case old:
			became["old"]++
		case saved:
			became["new"]++
		default:
			t.Fatalf("after message %d the tenant is neither old nor new:\n%s", at, got)
		}
		if err != nil && at%10 == 0 { // the next restore removes what this one left
			result, _, err := b.into(t, t.Context(), db, only("a"), replace)
			must(t, result, err)
			if list := schemas(t, db); strings.Contains(list, "__staging") {
				t.Fatalf("after message %d and another restore: %s", at, list)
			}
			got = saved
		}
		if got == saved {
			backTo(t, db, old)
		} else {
			dropOwn(t, db)
		}
		if list := schemas(t, db); list != "a b public" {
			t.Fatalf("after message %d: %s", at, list)
		}
		if err == nil {
			last = at
			break
		}
	}
	t.Logf("%d messages: %v", last, became)
	if became["old"] < 20 || became["new"] == 0 {
		t.Errorf("the tenant became %v", became)
	}
}

// The server dies in the middle, and comes back.
func TestLiveServerKilled(t *testing.T) {
	t.Parallel()
	cluster := pgtest.StartCluster(t, map[string]string{"synchronous_commit": "on"})
	db := pgtest.NewIn(t, cluster)
	visited(t, db)
	b := save(t, db)
	saved := tenantState(t, db)
	c, through := newCutter(t, db)
	run := func(at int, then func()) error {
		c.arm(at, then)
		_, _, err := b.into(t, t.Context(), db, only("a"), replace, func(o *restore.Options) { o.Server, o.Jobs, o.Progress = through, 1, nil })
		return err
	}
	db.Exec(t, damage)
	old := tenantState(t, db)
	if err := run(0, nil); err != nil {
		t.Fatal(err)
	}
	total := c.count
	for _, at := range []int{total / 2, total - 3, total - 1} {
		backTo(t, db, old)
		err := run(at, func() { _ = cluster.Kill(); c.cut() })
		if err == nil {
			t.Errorf("the server was killed after message %d of %d, and no error", at, total)
		}
		if err := cluster.Restart(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		// A crash makes a sequence skip some numbers.
		if got := withoutSequence(tenantState(t, db)); got != withoutSequence(old) && got != withoutSequence(saved) {
			t.Fatalf("killed after message %d of %d the tenant is neither old nor new:\n%s", at, total, got)
		}
		result, _, err := b.into(t, t.Context(), db, only("a"), replace)
		must(t, result, err)
		if got := tenantState(t, db); got != saved {
			t.Errorf("restored after message %d of %d:\n%s", at, total, got)
		}
		if list := schemas(t, db); strings.Contains(list, "__staging") {
			t.Errorf("schemas %s", list)
		}
	}
}

func quickly(o *restore.Options) { o.SwapTimeout = 300 * time.Millisecond }

func resume(o *restore.Options) { o.Resume = true }

func staged(t testing.TB, result *restore.Result) string {
	t.Helper()
	if len(result.Tenants) != 1 || result.Tenants[0].Staged == "" {
		t.Fatalf("nothing waits for its swap: %+v", result.Tenants)
	}
	return result.Tenants[0].Staged
}

// Whoever holds the tenant keeps it, and is named; the staging waits.
func TestSwapGivesUp(t *testing.T) {
	t.Parallel()
	for name, hold := range map[string]string{
		"long transaction": "SELECT count(*) FROM a.names",
		"alter table":      "ALTER TABLE a.orders ADD COLUMN held int",
		"new table":        "LOCK TABLE a.customers IN ROW SHARE MODE; CREATE TABLE a.made_meanwhile (id int)",
		"old snapshot":     "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM public.countries",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			visited(t, db)
			b := save(t, db)
			saved := tenantState(t, db)
			db.Exec(t, damage)
			before := pgtest.Fingerprint(t, db, pgtest.Compare{Schemas: []string{"a", "b", "public"}})
			holder := db.Conn(t)
			for _, sql := range []string{"SET application_name = 'the holder'", "BEGIN"} {
				if _, err := holder.Exec(t.Context(), sql); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := holder.PgConn().Exec(t.Context(), hold).ReadAll(); err != nil {
				t.Fatal(err)
			}
			result, _, err := b.into(t, t.Context(), db, only("a"), replace, quickly)
			var swapErr *restore.SwapError
			if !errors.As(err, &swapErr) {
				t.Fatalf("restore: %v", err)
			}
			if !slices.ContainsFunc(swapErr.Holders, func(h restore.Holder) bool {
				return h.PID == int(holder.PgConn().PID()) && h.Application == "the holder" && !h.Transaction.IsZero() && !h.Query.IsZero() && (h.Table == "") == (name == "old snapshot")
			}) {
				t.Errorf("holders %+v", swapErr.Holders)
			}
			first := staged(t, result)

			// Cancelled while it waits.
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			n := &noteHook{notes: notes{t: t}, text: "are in use", then: cancel}
			_, _, err = b.into(t, ctx, db, only("a"), replace, func(o *restore.Options) { o.Progress = n })
			if !errors.Is(err, context.Canceled) {
				t.Errorf("cancelled: %v", err)
			}
			list := schemas(t, db)
			// It needs locks on tables of core to be dropped.
			if slices.Contains(strings.Fields(list), first) != (name == "old snapshot") {
				t.Errorf("after a new restore, the first one had left %s: %s", first, list)
			}
			if _, err := holder.Exec(t.Context(), "ROLLBACK"); err != nil {
				t.Fatal(err)
			}
			pgtest.RequireState(t, before, db, pgtest.Compare{Schemas: []string{"a", "b", "public"}})

			result, told, err := b.into(t, t.Context(), db, only("a"), replace, resume)
			must(t, result, err)
			if told.rows != 0 {
				t.Errorf("%d rows were loaded again", told.rows)
			}
			if got := tenantState(t, db); got != saved {
				t.Errorf("resumed:\n%s", got)
			}
			dropOwn(t, db)
			_, _, err = b.into(t, t.Context(), db, only("a"), replace, resume)
			mustFind(t, err, "no staging", "without --resume")
		})
	}
}

// noteHook does something when a note with a text comes.
type noteHook struct {
	notes
	text string
	then func()
}

func (n *noteHook) Note(level slog.Level, tenant, message string) {
	n.notes.Note(level, tenant, message)
	if strings.Contains(message, n.text) {
		n.then()
	}
}

// What a restore cannot make, or finds changed, does not go live.
func TestLiveChecks(t *testing.T) {
	t.Parallel()
	setup := func(t *testing.T) (*pgtest.Database, saved, pgtest.State) {
		t.Helper()
		db := pgtest.New(t)
		visited(t, db)
		b := save(t, db)
		return db, b, pgtest.Fingerprint(t, db, pgtest.Compare{})
	}
	t.Run("damaged after the check", func(t *testing.T) {
		t.Parallel()
		db, b, before := setup(t)
		i := slices.IndexFunc(b.manifest.Schemas, func(e manifest.Schema) bool { return e.Schema == "a" })
		path := filepath.Join(b.dir, filepath.FromSlash(b.manifest.Schemas[i].Filepath))
		_, _, err := b.into(t, t.Context(), db, only("a"), replace, func(o *restore.Options) {
			o.Confirm = func(*restore.Plan) error {
				text, err := os.ReadFile(path)
				if err != nil {
					return err
				}
				for i := len(text) / 3; i < len(text)/3+64; i++ {
					text[i] ^= 0x55
				}
				return os.WriteFile(path, text, 0o600)
			}
		})
		if err == nil {
			t.Error("no error")
		}
		pgtest.RequireState(t, before, db, pgtest.Compare{})
	})
	t.Run("changed by a trigger", func(t *testing.T) {
		t.Parallel()
		db, b, _ := setup(t)
		db.Exec(t, `
			CREATE FUNCTION public.thief() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
				IF to_regclass('a.customers') IS NOT NULL THEN UPDATE a.customers SET name = 'stolen' WHERE id = 77; END IF;
			END $$;
			CREATE EVENT TRIGGER thief ON ddl_command_end WHEN TAG IN ('CREATE INDEX') EXECUTE FUNCTION public.thief()`)
		before := pgtest.Fingerprint(t, db, pgtest.Compare{})
		_, _, err := b.into(t, t.Context(), db, only("a"), replace)
		if err == nil || !strings.Contains(err.Error(), "with other contents") {
			t.Errorf("restore: %v", err)
		}
		pgtest.RequireState(t, before, db, pgtest.Compare{})
	})
	t.Run("staging changed before it is resumed", func(t *testing.T) {
		t.Parallel()
		db, b, _ := setup(t)
		state := tenantState(t, db)
		result, _, err := b.into(t, t.Context(), db, only("a"), replace, func(o *restore.Options) {
			o.Point = func(context.Context, []string) (string, error) { return "", errors.New("no room") }
		})
		if err == nil || !strings.Contains(err.Error(), "no room") {
			t.Errorf("restore: %v", err)
		}
		db.Exec(t, "UPDATE "+staged(t, result)+".orders SET customer_id = 5 WHERE id = 7")
		_, _, err = b.into(t, t.Context(), db, only("a"), replace, resume)
		if err == nil || !strings.Contains(err.Error(), "with other contents") {
			t.Errorf("resume: %v", err)
		}
		if got := tenantState(t, db); got != state {
			t.Errorf("live:\n%s", got)
		}
		dropOwn(t, db)
		if list := schemas(t, db); list != "a b public" {
			t.Errorf("schemas %s", list)
		}
	})
	t.Run("core rows are gone", func(t *testing.T) {
		t.Parallel()
		db, b, _ := setup(t)
		saved := tenantState(t, db)
		db.Exec(t, "UPDATE a.customers SET country = 'de'; UPDATE b.customers SET country = 'de'; DELETE FROM public.countries WHERE code = 'ch'")
		state := tenantState(t, db)
		var incomplete *restore.IncompleteError
		result, _, err := b.into(t, t.Context(), db, only("a"), replace)
		if !errors.As(err, &incomplete) || incomplete.Staged != staged(t, result) {
			t.Errorf("restore: %v", err)
		}
		if _, _, err = b.into(t, t.Context(), db, only("a"), replace, resume); !errors.As(err, &incomplete) {
			t.Errorf("resumed without mending: %v", err)
		}
		if got := tenantState(t, db); got != state {
			t.Errorf("live:\n%s", got)
		}
		db.Exec(t, "INSERT INTO public.countries VALUES ('ch', 'Schweiz')")
		result, _, err = b.into(t, t.Context(), db, only("a"), replace, resume)
		must(t, result, err)
		if got := tenantState(t, db); got != saved {
			t.Errorf("mended:\n%s", got)
		}
		db.Exec(t, "UPDATE a.customers SET country = 'de'; DROP SCHEMA "+ident(result.Tenants[0].Replaced)+" CASCADE; DELETE FROM public.countries WHERE code = 'ch'")
		result, _, err = b.into(t, t.Context(), db, only("a"), replace, func(o *restore.Options) { o.Incomplete = true })
		var partial *restore.PartialError
		if !errors.As(err, &partial) || len(result.Tenants[0].Problems) != 1 || result.Tenants[0].Replaced == "" {
			t.Errorf("incomplete: %v, %+v", err, result.Tenants)
		}
		if problem := result.Tenants[0].Problems[0]; strings.Contains(problem.SQL, "__staging") {
			t.Errorf("the statement names a schema that is gone: %s", problem.SQL)
		}
		if got := db.Query(t, "SELECT count(*) FROM a.customers WHERE country = 'ch'"); got[0] != "500" {
			t.Errorf("%s customers", got)
		}
	})
}

// Rows of others that would lose their parents keep a tenant from being
// replaced, unless they come back with it.
func TestTenantsThatReferToOneAnother(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	visited(t, db)
	db.Exec(t, "ALTER TABLE a.orders ADD visitor bigint REFERENCES b.customers (id); UPDATE a.orders SET visitor = id")
	b := save(t, db)
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	db.Exec(t, "INSERT INTO a.customers (name) VALUES ('later'); INSERT INTO b.visits VALUES (501)")
	changed := pgtest.Fingerprint(t, db, pgtest.Compare{Schemas: []string{"a", "b"}})
	var orphans *restore.OrphansError
	_, _, err := b.into(t, t.Context(), db, only("a"), replace)
	if !errors.As(err, &orphans) || len(orphans.Rows) != 1 {
		t.Errorf("alone: %v", err)
	}
	pgtest.RequireState(t, changed, db, pgtest.Compare{Schemas: []string{"a", "b"}})

	// Stagings that refer to one another are left, and removed by the next one.
	_, _, err = b.into(t, t.Context(), db, only("a", "b"), replace, func(o *restore.Options) {
		o.Point = func(context.Context, []string) (string, error) { return "", errors.New("no room") }
	})
	if list := schemas(t, db); err == nil || strings.Count(list, "__staging") != 2 {
		t.Errorf("staged: %v, %s", err, list)
	}
	both, _, err := b.into(t, t.Context(), db, only("a", "b"), replace)
	must(t, both, err)
	if list := schemas(t, db); strings.Contains(list, "__staging") {
		t.Errorf("schemas: %s", list)
	}
	// a goes back to its old rows, which then refer to the live b, not to the
	// one that was replaced together with it.
	_, err = restore.Rollback(t.Context(), restore.RollbackOptions{Server: server(t, db), Schemas: []string{"a"}})
	if err != nil {
		t.Fatalf("rollback of one: %v", err)
	}
	if got := db.Query(t, "SELECT confrelid::regclass FROM pg_constraint WHERE conname = 'orders_visitor_fkey' AND connamespace = 'a'::regnamespace"); got[0] != "b.customers" {
		t.Errorf("the key of a refers to %s", got)
	}
	if got := db.Query(t, "SELECT confrelid::regclass FROM pg_constraint WHERE conname = 'visits_customer_fkey' AND connamespace = 'b'::regnamespace"); got[0] != "a.customers" {
		t.Errorf("the key of b refers to %s", got)
	}
	if back, err := restore.Rollback(t.Context(), restore.RollbackOptions{Server: server(t, db), Schemas: []string{"a"}}); err != nil {
		t.Fatalf("and forth: %+v, %v", back, err)
	}
	dropOwn(t, db)
	pgtest.RequireState(t, before, db, pgtest.Compare{})
}

func TestLiveOddNames(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	names := []string{
		`Kunde "A".b'c`, "Case", "case", strings.Repeat("long", 15) + "abc", "emoji 😀 " + strings.Repeat("😀", 10), "a__replaced_20260101_000000x", "a\nb", `back\slash`, "x__hidden_20260101_000000",
	}
	shop(t, db, names...)
	b := save(t, db)
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	for _, name := range names {
		db.Exec(t, "UPDATE "+pg.Identifier(name)+".customers SET name = 'overwritten'")
	}
	result, _, err := b.into(t, t.Context(), db, only(names...), replace)
	must(t, result, err)
	for _, name := range names {
		if got := db.Query(t, "SELECT count(*) FROM "+pg.Identifier(name)+".customers WHERE name = 'overwritten'"); got[0] != "0" {
			t.Errorf("%q has %s of the overwritten rows", name, got)
		}
		if _, err := restore.Rollback(t.Context(), restore.RollbackOptions{Server: server(t, db), Schemas: []string{name}}); err != nil {
			t.Errorf("rollback of %q: %v", name, err)
		}
		if got := db.Query(t, "SELECT count(*) FROM "+pg.Identifier(name)+".customers WHERE name = 'overwritten'"); got[0] != "500" {
			t.Errorf("%q has %s of the overwritten rows back", name, got)
		}
		if _, err := restore.Rollback(t.Context(), restore.RollbackOptions{Server: server(t, db), Schemas: []string{name}}); err != nil {
			t.Errorf("rollback of the rollback of %q: %v", name, err)
		}
	}
	dropOwn(t, db)
	pgtest.RequireState(t, before, db, pgtest.Compare{})
}

// rich makes a tenant of what is easily lost, owned by a role.
func rich(t testing.TB, db *pgtest.Database, owner string) {
	t.Helper()
	db.Exec(t, strings.ReplaceAll(`
		CREATE TABLE public.plans (id int PRIMARY KEY); INSERT INTO public.plans VALUES (1);
		CREATE SCHEMA a;
		CREATE TABLE a.log (line text);
		CREATE FUNCTION a.logged() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN INSERT INTO a.log VALUES (TG_OP); RETURN NEW; END $f$;
		CREATE TABLE a.egg (id int PRIMARY KEY, hen int NOT NULL, twice int GENERATED ALWAYS AS (id * 2) STORED, plan int REFERENCES public.plans (id));
		CREATE TABLE a.hen (id int PRIMARY KEY, egg int NOT NULL REFERENCES a.egg (id) DEFERRABLE INITIALLY DEFERRED);
		ALTER TABLE a.egg ADD CONSTRAINT egg_hen FOREIGN KEY (hen) REFERENCES a.hen (id) DEFERRABLE INITIALLY DEFERRED;
		CREATE TABLE a.numbered (id int GENERATED ALWAYS AS IDENTITY (START 10 INCREMENT 5), old serial, v int);
		INSERT INTO a.numbered (v) SELECT n FROM generate_series(1, 20) n;
		ALTER TABLE a.numbered ADD CONSTRAINT small CHECK (v < 10) NOT VALID;
		ALTER TABLE a.numbered ADD CONSTRAINT of_egg FOREIGN KEY (v) REFERENCES a.hen (id) NOT VALID;
		CREATE TRIGGER logs AFTER INSERT ON a.egg FOR EACH ROW EXECUTE FUNCTION a.logged();
		CREATE TRIGGER sleeps AFTER INSERT ON a.hen FOR EACH ROW EXECUTE FUNCTION a.logged();
		ALTER TABLE a.hen DISABLE TRIGGER sleeps;
		CREATE TRIGGER always AFTER INSERT ON a.numbered FOR EACH ROW EXECUTE FUNCTION a.logged();
		ALTER TABLE a.numbered ENABLE ALWAYS TRIGGER always;
		CREATE TABLE a.hidden (id int, who name); INSERT INTO a.hidden SELECT n, 'live_reader' FROM generate_series(1, 30) n;
		CREATE POLICY mine ON a.hidden USING (who = current_user);
		ALTER TABLE a.hidden ENABLE ROW LEVEL SECURITY; ALTER TABLE a.hidden FORCE ROW LEVEL SECURITY;
		CREATE MATERIALIZED VIEW a.counted AS SELECT count(*) AS n FROM a.egg;
		CREATE VIEW a.seen WITH (security_barrier) AS SELECT id FROM a.hidden;
		CREATE STATISTICS a.related (dependencies) ON id, twice FROM a.egg;
		GRANT USAGE ON SCHEMA a TO live_reader; GRANT SELECT ON a.hidden, a.egg TO live_reader WITH GRANT OPTION;
		ALTER DEFAULT PRIVILEGES FOR ROLE $$ IN SCHEMA a GRANT SELECT ON TABLES TO live_reader`, "$$", owner), `
		INSERT INTO a.egg (id, hen, plan) SELECT n, 101 - n, 1 FROM generate_series(1, 100) n; INSERT INTO a.hen SELECT n, n FROM generate_series(1, 100) n;
		REFRESH MATERIALIZED VIEW a.counted`)
}

func TestLiveKeepsEverything(t *testing.T) {
	t.Parallel()
	setup := pgtest.New(t)
	setup.Exec(t, "CREATE ROLE live_owner LOGIN; CREATE ROLE live_reader LOGIN")
	for _, owner := range []string{"postgres", "live_owner"} {
		db := pgtest.New(t)
		superuser := owner == "postgres"
		if superuser {
			owner = db.Query(t, "SELECT current_user")[0]
		} else {
			db.Exec(t, "ALTER DATABASE "+pg.Identifier(db.Name)+" OWNER TO live_owner; GRANT ALL ON SCHEMA public TO live_owner")
		}
		rich(t, db, pg.Identifier(owner))
		if superuser {
			db.Exec(t, "CREATE PUBLICATION live_filtered FOR TABLE a.egg (id, hen) WHERE (id > 5), a.hen; ALTER TABLE a.hen OWNER TO live_reader")
		} else {
			db.Exec(t, `DO $$ DECLARE r record; BEGIN
				FOR r IN SELECT c.oid::regclass AS name FROM pg_class c WHERE c.relnamespace = 'a'::regnamespace AND c.relkind IN ('r', 'v', 'm') LOOP
					EXECUTE 'ALTER TABLE ' || r.name || ' OWNER TO live_owner'; END LOOP; END $$;
				ALTER FUNCTION a.logged() OWNER TO live_owner; ALTER SCHEMA a OWNER TO live_owner; ALTER TABLE public.plans OWNER TO live_owner; ALTER STATISTICS a.related OWNER TO live_owner`)
		}
		b := save(t, db)
		before := pgtest.Fingerprint(t, db, pgtest.Compare{})
		db.Exec(t, "SELECT nextval('a.numbered_old_seq'); DELETE FROM a.hidden; TRUNCATE a.egg, a.hen, a.numbered")
		change := []func(*restore.Options){only("a"), replace}
		if !superuser {
			change = append(change, as(t, db, owner))
		}
		result, _, err := b.into(t, t.Context(), db, change...)
		must(t, result, err)
		if err != nil {
			continue
		}
		if got := db.Query(t, "SELECT count(DISTINCT starelid) >= 4 FROM pg_statistic JOIN pg_class c ON c.oid = starelid WHERE c.relnamespace = 'a'::regnamespace"); got[0] != "t" {
			t.Errorf("as %s: no statistics", owner)
		}
		db.Exec(t, "DROP SCHEMA "+ident(result.Tenants[0].Replaced)+" CASCADE")
		pgtest.RequireState(t, before, db, pgtest.Compare{})
		if got := db.Query(t, "INSERT INTO a.numbered (v) VALUES (1) RETURNING id || ' ' || old"); got[0] != "110 21" {
			t.Errorf("as %s: the next numbers are %s", owner, got)
		}
	}
}

// The server has no room for the restored rows.
func TestLiveDiskFull(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	visited(t, db)
	b := save(t, db)
	before := pgtest.Fingerprint(t, db, pgtest.Compare{})
	full := false
	result, _, err := b.into(t, t.Context(), db, only("a"), replace, func(o *restore.Options) {
		o.Progress = &startHook{notes: notes{t: t}, stage: "load", then: func() { full = fillFiles(t, db) }}
	})
	var disk *restore.DiskFullError
	if !full || !errors.As(err, &disk) {
		t.Errorf("restore: %v, %+v", err, result.Tenants)
	}
	pgtest.RequireState(t, before, db, pgtest.Compare{})
}

// startHook does something when a stage begins.
type startHook struct {
	notes
	stage string
	then  func()
}

func (s *startHook) Start(stage string, tenants int, bytes int64) {
	s.notes.Start(stage, tenants, bytes)
	if stage == s.stage {
		s.then()
	}
}

// fillFiles lets the files of the staging's tables, which are empty, be a device
// that is always full.
func fillFiles(t testing.TB, db *pgtest.Database) bool {
	t.Helper()
	paths := db.Query(t, `SELECT pg_relation_filepath(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname LIKE 'a\_\_staging%' AND c.relkind = 'r'`)
	for _, path := range paths {
		path = filepath.Join(db.Cluster().DataDir(), path)
		if err := errors.Join(os.Remove(path), os.Symlink("/dev/full", path)); err != nil {
			t.Error(err)
		}
	}
	return len(paths) > 0
}

// What an application sees that remembers something of the old tenant.
func TestWhatAnApplicationSees(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	shop(t, db, "a")
	b := save(t, db)
	db.Exec(t, "ALTER TABLE a.customers ADD COLUMN later int; INSERT INTO a.customers (name) VALUES ('later')")
	conn := db.Conn(t)
	ctx := t.Context()
	must := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	code := func(sql, want string) {
		t.Helper()
		_, err := conn.PgConn().Exec(ctx, sql).ReadAll()
		var e *pgconn.PgError
		if got := ""; errors.As(err, &e) && e.Code != want || e == nil && want != got {
			t.Errorf("%s: %v, want %s", sql, err, want)
		}
	}
	must("SET search_path = a, public")
	must("PREPARE same AS SELECT count(*) FROM orders")
	must("PREPARE other AS SELECT * FROM customers")
	must("CREATE TEMP TABLE mine AS SELECT max(id) AS id FROM customers")
	must("BEGIN; DECLARE held CURSOR WITH HOLD FOR SELECT id FROM customers; COMMIT")
	result, _, err := b.into(t, ctx, db, only("a"), replace)
	if err != nil {
		t.Fatal(err)
	}
	code("EXECUTE same", "")
	code("EXECUTE other", "0A000") // cached plan must not change result type
	code("FETCH held", "")
	code("INSERT INTO orders SELECT 1000, id FROM mine", "23503") // a row of the old tenant only
	code("SELECT later FROM customers", "42703")
	// Core cannot lose rows that a replaced tenant refers to.
	db.Exec(t, "DELETE FROM a.orders; DELETE FROM a.customers")
	code("DELETE FROM countries WHERE code = 'ch'", "23503")
	db.Exec(t, "DROP SCHEMA "+ident(result.Tenants[0].Replaced)+" CASCADE")
	code("DELETE FROM countries WHERE code = 'ch'", "")
}

// Autovacuum gives way to a swap.
func TestLiveAutovacuum(t *testing.T) {
	t.Parallel()
	cluster := pgtest.StartCluster(t, map[string]string{
		"autovacuum": "on", "autovacuum_naptime": "1s", "autovacuum_vacuum_cost_delay": "100ms", "autovacuum_vacuum_cost_limit": "1", "deadlock_timeout": "200ms",
	})
	db := pgtest.NewIn(t, cluster)
	shop(t, db, "a")
	b := save(t, db)
	db.Exec(t, "ALTER TABLE a.orders SET (autovacuum_vacuum_threshold = 0); INSERT INTO a.orders SELECT n, 1 FROM generate_series(1000, 50000) AS n",
		"DELETE FROM a.orders WHERE id % 2 = 0")
	for len(db.Query(t, "SELECT pid FROM pg_stat_progress_vacuum WHERE relid = 'a.orders'::regclass")) == 0 {
		if t.Context().Err() != nil {
			return
		}
	}
	result, n, err := b.into(t, t.Context(), db, only("a"), replace, func(o *restore.Options) { o.SwapTimeout = 5 * time.Second })
	must(t, result, err)
	if !n.has("are in use") {
		t.Error("nothing was in the way")
	}
}
