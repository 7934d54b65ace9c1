package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// guardPause is how often a guard looks. It is about how long others wait for
// nothing where a swap has to give way to them.
const guardPause = 10 * time.Millisecond

// guard watches over the locks of a swap from a session of its own. Whoever
// takes several locks in another order than those that are in the middle of a
// transaction ends in a deadlock with them. There are always some on a busy
// tenant, and nothing tells beforehand in which order an application uses its
// tables. So where the swap and others wait for one another, the guard makes the
// swap give way at once, and remembers the order in which the others take their
// locks for the next try. That order makes the swap wait where their
// transactions begin, and let them finish.
type guard struct {
	conn    *pgx.Conn // of the swap
	watcher *pgx.Conn
	wait    time.Duration // for all locks together
	learned []turn
	crossed bool // the last try gave way
}

// turn says that others lock a relation before another.
type turn struct{ first, then string }

// maxTurns is how many are remembered, the last ones.
const maxTurns = 500

func newGuard(ctx context.Context, server *pg.Server, conn *pgx.Conn) (*guard, error) {
	g := &guard{conn: conn, wait: swapLockWait}
	var deadlock int64
	err := conn.QueryRow(ctx, `SELECT setting::int8 FROM pg_catalog.pg_settings WHERE name = 'deadlock_timeout'`).Scan(&deadlock)
	if err != nil {
		return nil, fmt.Errorf("read deadlock_timeout: %w", err)
	}
	g.wait = max(min(g.wait, time.Duration(deadlock)*time.Millisecond/2), time.Millisecond)
	if g.watcher, err = server.Connect(ctx); err != nil {
		return nil, err
	}
	return g, nil
}

func (g *guard) close() { pg.Close(g.watcher) }

// lock takes locks, within the transaction of the swap.
func (g *guard) lock(ctx context.Context, list []lock) error {
	exec := func(sql string) error {
		_, err := g.conn.PgConn().Exec(ctx, sql).ReadAll()
		return err
	}
	var sql strings.Builder
	for _, l := range g.arrange(list) {
		sql.WriteString(l.sql + ";\n")
	}
	// statement_timeout is for the whole message, lock_timeout for each lock.
	err := exec(fmt.Sprintf("SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = %d; SET LOCAL statement_timeout = %[1]d", g.wait.Milliseconds()))
	if err != nil {
		return err
	}
	stop := g.watch(ctx)
	if sql.Len() > 0 {
		err = exec(sql.String())
	}
	watchErr := stop()
	if err != nil {
		return err
	}
	if watchErr != nil {
		return watchErr
	}
	return exec("SET LOCAL statement_timeout = 0")
}

// arrange puts locks into the order that was learned.
func (g *guard) arrange(list []lock) []lock {
	list = slices.Clone(list)
	find := func(relation string) int {
		return slices.IndexFunc(list, func(l lock) bool {
			return l.relation == relation || l.relation == "" && strings.Contains(l.sql, " "+relation+" ")
		})
	}
	for _, t := range g.learned {
		first, then := find(t.first), find(t.then)
		if then >= 0 && first > then {
			moved := list[first]
			list = slices.Insert(slices.Delete(list, first, first+1), then, moved)
		}
	}
	return list
}

// watch looks on until stop is called.
func (g *guard) watch(ctx context.Context) (stop func() error) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() {
		for {
			select {
			case <-ctx.Done():
				ended <- nil
				return
			case <-time.After(guardPause):
			}
			// Not with ctx: a query that is cut off would cost the connection.
			look, done := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			err := g.look(look)
			done()
			if err != nil || g.crossed {
				ended <- err
				return
			}
		}
	}()
	return func() error {
		cancel()
		return <-ended
	}
}

// look learns from those that wait for the swap, and cancels it where it waits
// for them too.
func (g *guard) look(ctx context.Context) error {
	// pg_cancel_backend comes last and only where the locks cross, in the same
	// statement: the locks may be had a moment later.
	rows, err := g.watcher.Query(ctx, `
		WITH RECURSIVE before (pid) AS (
			SELECT unnest(pg_catalog.pg_blocking_pids($1))
			UNION SELECT unnest(pg_catalog.pg_blocking_pids(b.pid)) FROM before b WHERE b.pid <> $1
		), crossed AS MATERIALIZED (
			SELECT pg_catalog.pg_cancel_backend($1) FROM before WHERE pid = $1
		), locked AS MATERIALIZED (
			SELECT pid, relation, granted FROM pg_catalog.pg_locks
			WHERE locktype = 'relation' AND pid <> $1 AND relation >= 16384
			AND database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
		), waiting AS MATERIALIZED (
			SELECT pid, relation FROM locked WHERE NOT granted AND $1 = ANY(pg_catalog.pg_blocking_pids(pid))
		)
		SELECT DISTINCT h.relation::regclass::text, w.relation::regclass::text, EXISTS (SELECT FROM crossed)
		FROM (SELECT EXISTS (SELECT FROM crossed)) c LEFT JOIN waiting w ON true LEFT JOIN locked h ON h.pid = w.pid AND h.granted AND h.relation <> w.relation`,
		int32(g.conn.PgConn().PID()))
	if err != nil {
		return fmt.Errorf("watch the locks: %w", err)
	}
	var first, then *string
	_, err = pgx.ForEachRow(rows, []any{&first, &then, &g.crossed}, func() error {
		if first != nil && then != nil {
			g.learn(turn{*first, *then})
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("watch the locks: %w", err)
	}
	return nil
}

func (g *guard) learn(t turn) {
	if i := slices.Index(g.learned, t); i >= 0 {
		g.learned = slices.Delete(g.learned, i, i+1)
	}
	g.learned = append(g.learned, t)
	if len(g.learned) > maxTurns {
		g.learned = slices.Delete(g.learned, 0, len(g.learned)-maxTurns)
	}
}

// displaceVacuum ends autovacuum on tables that a swap waits for: it can take
// hours, and gives way to whoever has waited for deadlock_timeout, for which no
// swap waits. The lock for which this waits keeps nobody from reading and
// writing. VACUUM against wraparound does not give way.
func (g *guard) displaceVacuum(ctx context.Context, list []*exchange) error {
	schemas := make([]uint32, len(list))
	for i, x := range list {
		schemas[i] = x.live.oid
	}
	rows, err := g.conn.Query(ctx, `
		SELECT DISTINCT pg_catalog.format('%I.%I', n.nspname, c.relname)
		FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
		WHERE l.granted AND l.mode = 'ShareUpdateExclusiveLock' AND c.relnamespace = ANY($1) AND c.relkind = 'r'
		AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
		AND coalesce(a.backend_type, '') IN ('', 'autovacuum worker')`, schemas)
	if err != nil {
		return fmt.Errorf("look for autovacuum: %w", err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("look for autovacuum: %w", err)
	}
	for _, table := range tables {
		// One message, and so one transaction.
		_, err := g.conn.PgConn().Exec(ctx, fmt.Sprintf("SET LOCAL lock_timeout = %d; LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE",
			(4*g.wait).Milliseconds(), table)).ReadAll()
		if err != nil && (ctx.Err() != nil || pg.Lost(err)) {
			return fmt.Errorf("wait for autovacuum: %w", err)
		}
	}
	return nil
}
