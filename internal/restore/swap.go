package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/media"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// The server looks for deadlocks when a session has waited for its
// deadlock_timeout, a second by default. A swap gives up after half of that at
// most, all locks together, so that where it and another session wait for each
// other it is always the swap that gives way. Usually its guard has seen it
// long before.
const (
	swapLockWait = 500 * time.Millisecond
	swapCrossed  = 20 * time.Millisecond // pause after giving way
	swapPauseMin = 100 * time.Millisecond
	swapPauseMax = 2 * time.Second
)

// exchange is one schema that takes the place of another.
type exchange struct {
	live     live
	incoming string  // takes the name of the live one
	comment  string  // the statement that gives it its own comment, by its new name
	replaced string  // what the live one is called then
	label    label   // of the replaced one
	loaded   arrival // of the rows of the incoming one
	// turned are statements that make what refers from the incoming schema to
	// others that were replaced refer to the live ones.
	turned []string
	// rows is not nil for core, which stays and gets other rows.
	rows *rowSwap
	// register puts the rows back that register the incoming tenant. Nil: nothing.
	register func(context.Context, pgx.Tx) error
	// move brings the files of the incoming tenant. Nil: they stay.
	move *media.Move
	// objects says that it is core, whose objects are exchanged one by one.
	objects bool
}

// arrival is when the rows of a schema were there. Zero: long ago.
type arrival struct {
	at      time.Time // by the server's clock: transactions that began later see them
	horizon string    // a transaction id: snapshots with no older one in progress see them; empty: not known
}

// readArrival is for rows that were committed a moment ago.
func readArrival(ctx context.Context, q pg.Querier) (a arrival, err error) {
	err = q.QueryRow(ctx, `SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text, pg_catalog.clock_timestamp()`).Scan(&a.horizon, &a.at)
	if err != nil {
		return a, fmt.Errorf("read the server's clock: %w", err)
	}
	return a, nil
}

// SwapError says that the locks for a swap were not to be had. Nothing was
// changed.
type SwapError struct {
	Schema  string
	Waited  time.Duration
	Holders []Holder
	Err     error // of the last attempt
}

// Holder is a session that has a lock on a table of the live schema, or an old
// snapshot, or a prepared transaction with such a lock.
type Holder struct {
	PID         int    // 0: a prepared transaction
	Prepared    string // its global identifier
	Application string
	User        string
	State       string    // as pg_stat_activity has it
	Table       string    // empty: it has no lock, but a snapshot from before the rows were restored
	Transaction time.Time // when it began; zero: unknown
	Query       time.Time // when its present or last statement began
}

// Error names the holders.
func (e *SwapError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "schema %q could not be swapped: its tables were in use for %s", e.Schema, e.Waited.Round(time.Millisecond))
	for _, h := range e.Holders {
		holds := h.Table
		if holds == "" {
			holds = "a snapshot from before the restore, through which the restored tables would be empty"
		}
		if h.PID == 0 {
			fmt.Fprintf(&b, "\n  prepared transaction %q of %s holds %s; it was prepared %s", h.Prepared, h.User, holds, h.Transaction.UTC().Format("2006-01-02 15:04:05 UTC"))
			continue
		}
		fmt.Fprintf(&b, "\n  server process %d (%q, user %s, %s) holds %s", h.PID, h.Application, h.User, h.State, holds)
		if !h.Transaction.IsZero() {
			fmt.Fprintf(&b, "; its transaction began %s", h.Transaction.UTC().Format("2006-01-02 15:04:05 UTC"))
		}
		if !h.Query.IsZero() {
			fmt.Fprintf(&b, ", its last statement %s", h.Query.UTC().Format("15:04:05"))
		}
	}
	if len(e.Holders) == 0 {
		fmt.Fprintf(&b, " (%v)", e.Err)
	}
	return b.String()
}

// Unwrap returns the server's error.
func (e *SwapError) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *SwapError) Hint() string {
	if len(e.Holders) == 0 {
		return "try again"
	}
	if h := e.Holders[0]; h.PID == 0 {
		return fmt.Sprintf("whoever prepared it has to end it: COMMIT PREPARED %[1]s or ROLLBACK PREPARED %[1]s, in this database as %[2]s", pg.Literal(h.Prepared), h.User)
	}
	return fmt.Sprintf("wait until these sessions are done, or end one with: SELECT pg_terminate_backend(%d)", e.Holders[0].PID)
}

// swap exchanges schemas in one transaction, trying again until the locks are
// to be had or the time is over. It returns for how long others were kept out.
func swap(ctx context.Context, server *pg.Server, conn *pgx.Conn, list []*exchange, timeout time.Duration, note func(string)) (blocked time.Duration, err error) {
	g, err := newGuard(ctx, server, conn)
	if err != nil {
		return 0, err
	}
	defer g.close()
	began := time.Now()
	err = untilFree(ctx, conn, list[0].live.name, timeout, note, func() (err error) {
		for _, x := range list {
			if x.rows != nil {
				continue
			}
			if x.turned, err = repointed(ctx, conn, x.incoming, list); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	wait := swapPauseMin
	for {
		blocked, err = trySwap(ctx, conn, g, list)
		if err == nil || ctx.Err() != nil || !inTheWay(err) && pg.Code(err) != pg.QueryCanceled && !errors.Is(err, errChanged) && !errors.Is(err, errSnapshot) {
			return blocked, err
		}
		if !g.crossed {
			if err := g.displaceVacuum(ctx, list); err != nil {
				return 0, err
			}
		}
		pause := wait
		if g.crossed {
			pause = swapCrossed
		}
		if time.Since(began)+pause > timeout {
			break
		}
		if !g.crossed {
			if wait == swapPauseMin {
				note(fmt.Sprintf("tables of %q are in use: trying again for %s", list[0].live.name, timeout.Round(time.Second)))
			}
			wait = min(2*wait, swapPauseMax)
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(pause):
		}
	}
	e := &SwapError{Schema: list[0].live.name, Waited: time.Since(began), Err: err}
	for _, x := range list {
		holders, err := lockHolders(ctx, conn, x.live.oid)
		if err != nil {
			return 0, errors.Join(e, err)
		}
		old, err := oldSnapshots(ctx, conn, x.loaded)
		if err != nil {
			return 0, errors.Join(e, err)
		}
		e.Holders = append(append(e.Holders, holders...), old...)
	}
	if len(e.Holders) == 0 { // it was a table elsewhere, that refers to them
		if e.Holders, err = exclusiveHolders(ctx, conn); err != nil {
			return 0, errors.Join(e, err)
		}
	}
	return 0, e
}

// defaultSwapTimeout is how long to try to get locks where nothing is said.
const defaultSwapTimeout = time.Minute

// untilFree calls f, on a connection with a lock_timeout, again and again while
// others are in its way, until the time is over: then its error is a SwapError.
// f is for what reads definitions and sizes, for which whoever alters a table is
// in the way, and leaves no transaction behind.
func untilFree(ctx context.Context, conn *pgx.Conn, schema string, timeout time.Duration, note func(string), f func() error) error {
	began := time.Now()
	for pause := swapPauseMin; ; pause = min(2*pause, swapPauseMax) {
		err := f()
		if err == nil || ctx.Err() != nil || !inTheWay(err) {
			return err
		}
		if time.Since(began)+pause > timeout {
			e := &SwapError{Schema: schema, Waited: time.Since(began), Err: err}
			if e.Holders, err = exclusiveHolders(ctx, conn); err != nil {
				return errors.Join(e, err)
			}
			return e
		}
		if pause == swapPauseMin {
			note(fmt.Sprintf("somebody alters tables of %q, or what refers to them: trying again for %s", schema, timeout.Round(time.Second)))
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
	}
}

// setLockTimeout makes statements of a connection wait for others for a moment
// only: definitions of views, and sizes, are read under locks on the tables.
func setLockTimeout(ctx context.Context, conn *pgx.Conn, timeout time.Duration) error {
	if _, err := conn.Exec(ctx, fmt.Sprintf("SET lock_timeout = %d", timeout.Milliseconds())); err != nil {
		return fmt.Errorf("set lock_timeout: %w", err)
	}
	return nil
}

// rename gives the incoming schema the name of the live one, where there is no
// live one: nobody uses it, and there is nothing to wait for but what it refers
// to.
func (x *exchange) rename(ctx context.Context, conn *pgx.Conn, timeout time.Duration, note func(string)) error {
	all, err := listLabelled(ctx, conn)
	if err != nil {
		return err
	}
	var referred []string // or might be: schemas that were replaced
	for _, l := range all {
		referred = append(referred, l.Schema)
	}
	err = untilFree(ctx, conn, x.live.name, timeout, note, func() error {
		turned, err := repointed(ctx, conn, x.incoming, []*exchange{x})
		if err != nil {
			return err
		}
		var sql strings.Builder // one message, and so one transaction
		fmt.Fprintf(&sql, "SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = %d;\n", lockTimeout.Milliseconds())
		for _, statement := range turned {
			sql.WriteString(statement + ";\n")
		}
		sql.WriteString(rename(x.incoming, x.live.name) + x.comment)
		_, err = conn.PgConn().Exec(ctx, sql.String()).ReadAll()
		return err
	})
	if e, ok := errors.AsType[*SwapError](err); ok && len(e.Holders) == 0 {
		// A foreign key is made again under a lock that keeps writers out.
		var holdersErr error
		e.Holders, holdersErr = findHolders(ctx, conn, `l.mode <> 'AccessShareLock' AND c.relnamespace IN (
			SELECT n.oid FROM pg_catalog.pg_namespace n WHERE n.nspname = ANY($1))`, referred)
		return errors.Join(e, holdersErr)
	}
	if err != nil {
		return fmt.Errorf("rename schema %q: %w", x.incoming, err)
	}
	return nil
}

// errSnapshot says that a transaction has a snapshot that does not see the
// restored rows.
var errSnapshot = errors.New("a transaction has an older snapshot than the restored rows")

// errChanged says that the live schema is not any more as it was a moment ago.
var errChanged = errors.New("the live schema is being changed")

func trySwap(ctx context.Context, conn *pgx.Conn, g *guard, list []*exchange) (blocked time.Duration, err error) {
	g.crossed = false
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return 0, fmt.Errorf("begin the swap: %w", err)
	}
	defer func() {
		if err != nil {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
			defer cancel()
			_ = tx.Rollback(ctx) // err says more
		}
	}()
	exec := func(sql string) error {
		_, err := conn.PgConn().Exec(ctx, sql).ReadAll()
		return err
	}
	for _, x := range list {
		old, err := oldSnapshots(ctx, tx, x.loaded)
		if err != nil {
			return 0, err
		}
		if len(old) > 0 {
			return 0, errSnapshot
		}
	}
	for _, x := range list {
		if x.register == nil {
			continue
		}
		if err := x.register(ctx, tx); err != nil {
			return 0, err
		}
	}
	var wanted []lock
	references := make([][]pg.Reference, len(list))
	for i, x := range list {
		if x.rows != nil {
			if x.live.tables, err = x.rows.locks(ctx, tx); err != nil {
				return 0, err
			}
			continue
		}
		var denied []string
		if x.live.tables, denied, err = x.lockable(ctx, tx); err != nil {
			return 0, err
		}
		if len(denied) > 0 {
			return 0, fmt.Errorf("this role may not lock %s, which it does not own", some(denied))
		}
		if references[i], err = foreignReferences(ctx, tx, x.live.oid, list); err != nil {
			return 0, err
		}
		for _, sql := range pg.LocksOf(references[i]) {
			if !slices.ContainsFunc(wanted, func(l lock) bool { return l.sql == sql }) {
				wanted = append(wanted, lock{sql: sql})
			}
		}
	}
	for _, x := range list {
		wanted = append(wanted, x.live.tables...)
	}
	began := time.Now()
	if err := g.lock(ctx, wanted); err != nil {
		return 0, fmt.Errorf("lock the tables: %w", err)
	}
	var sql, after strings.Builder
	for i, x := range list {
		if x.rows != nil {
			present, err := x.rows.locks(ctx, tx)
			if err != nil {
				return 0, err
			}
			if !slices.Equal(present, x.live.tables) {
				return 0, errChanged
			}
			if err := x.rows.exchange(ctx, tx); err != nil {
				return 0, err
			}
			continue
		}
		for _, statement := range x.turned {
			sql.WriteString(statement + ";\n")
		}
		// What came meanwhile is not locked.
		present, _, err := x.lockable(ctx, tx)
		if err != nil {
			return 0, err
		}
		again, err := foreignReferences(ctx, tx, x.live.oid, list)
		if err != nil {
			return 0, err
		}
		if !slices.Equal(present, x.live.tables) || !reflect.DeepEqual(again, references[i]) {
			return 0, errChanged
		}
		var name string
		err = tx.QueryRow(ctx, `SELECT nspname, pg_catalog.obj_description(oid, 'pg_namespace') FROM pg_catalog.pg_namespace WHERE oid = $1`, x.live.oid).
			Scan(&name, &x.label.Comment)
		if err != nil || name != x.live.name {
			return 0, fmt.Errorf("schema %q was dropped or renamed meanwhile: %w", x.live.name, errors.Join(err, errGone))
		}
		for _, ref := range again {
			for _, statement := range ref.TakeOff {
				sql.WriteString(statement + ";\n")
			}
			for _, statement := range ref.PutBack {
				after.WriteString(statement + ";\n")
			}
		}
	}
	schemas := slices.DeleteFunc(slices.Clone(list), func(x *exchange) bool { return x.rows != nil })
	for _, x := range schemas {
		if x.objects {
			exchange, err := x.exchangeSQL(ctx, tx)
			if err != nil {
				return 0, err
			}
			sql.WriteString(exchange)
			continue
		}
		sql.WriteString(rename(x.live.name, x.replaced))
		sql.WriteString(commentSQL(x.replaced, x.label.String()))
	}
	for _, x := range schemas {
		if x.objects {
			continue
		}
		sql.WriteString(rename(x.incoming, x.live.name))
		sql.WriteString(x.comment)
	}
	sql.WriteString(after.String())
	if err := exec(sql.String()); err != nil {
		return 0, fmt.Errorf("swap the schemas: %w", err)
	}
	if err := tx.Commit(context.WithoutCancel(ctx)); err != nil {
		if pg.Lost(err) {
			return 0, fmt.Errorf("commit the swap, which may have been done (the replaced schema would be %q): %w", list[0].replaced, err)
		}
		return 0, fmt.Errorf("commit the swap: %w", err)
	}
	return time.Since(began), nil
}

// errGone is not tried again: another schema may have the name by now.
var errGone = errors.New("it is not the schema any more that was looked at")

// foreignReferences are those into a schema that a swap has to take care of. One
// that cannot be taken care of is an error.
func foreignReferences(ctx context.Context, q pg.Querier, schema uint32, list []*exchange) ([]pg.Reference, error) {
	all, err := pg.ListReferences(ctx, q, schema)
	if err != nil {
		return nil, err
	}
	var kept []pg.Reference
	for _, ref := range all {
		switch {
		case pg.IsOwn(ref.Schema), isOfCore(ref) && slices.ContainsFunc(list, func(x *exchange) bool { return x.objects }), slices.ContainsFunc(list, func(x *exchange) bool { return x.rows == nil && x.live.name == ref.Schema }):
		case ref.Remedy != "":
			return nil, fmt.Errorf("%s %s points into the live schema and cannot be made to point at another: %s", ref.Kind, ref.Object, ref.Remedy)
		default:
			kept = append(kept, ref)
		}
	}
	return kept, nil
}

// maxHolders is how many sessions are worth naming.
const maxHolders = 5

// lockHolders are the sessions that use tables of a schema, the oldest
// transaction first.
func lockHolders(ctx context.Context, q pg.Querier, schema uint32) ([]Holder, error) {
	return findHolders(ctx, q, "c.relnamespace = $1", schema)
}

// exclusiveHolders are the sessions that keep others even from reading a table,
// the oldest transaction first.
func exclusiveHolders(ctx context.Context, q pg.Querier) ([]Holder, error) {
	return findHolders(ctx, q, "l.mode = $1", "AccessExclusiveLock")
}

// findHolders finds the sessions that have locks for which a condition is true.
func findHolders(ctx context.Context, q pg.Querier, condition string, arg any) ([]Holder, error) {
	rows, err := q.Query(ctx, `
		SELECT DISTINCT ON (coalesce(a.xact_start, p.prepared, 'infinity'), l.pid, p.gid) coalesce(l.pid, 0), coalesce(p.gid, ''), coalesce(a.application_name, ''),
			coalesce(a.usename, p.owner, ''), coalesce(a.state, ''), l.relation::regclass::text, coalesce(a.xact_start, p.prepared), a.query_start
		FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation
		LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
		LEFT JOIN LATERAL (
			SELECT x.* FROM pg_catalog.pg_locks own JOIN pg_catalog.pg_prepared_xacts x ON x.transaction = own.transactionid
			WHERE own.pid IS NULL AND own.locktype = 'transactionid' AND own.virtualtransaction = l.virtualtransaction) p ON l.pid IS NULL
		WHERE l.granted AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
		AND `+condition+` AND l.pid IS DISTINCT FROM pg_catalog.pg_backend_pid()
		ORDER BY coalesce(a.xact_start, p.prepared, 'infinity'), l.pid, p.gid, c.relkind <> 'r', l.relation LIMIT $2`, arg, maxHolders)
	if err != nil {
		return nil, fmt.Errorf("find who uses the tables: %w", err)
	}
	return collectHolders(rows)
}

func collectHolders(rows pgx.Rows) ([]Holder, error) {
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (h Holder, err error) {
		var transaction, query *time.Time
		err = row.Scan(&h.PID, &h.Prepared, &h.Application, &h.User, &h.State, &h.Table, &transaction, &query)
		if transaction != nil {
			h.Transaction = *transaction
		}
		if query != nil {
			h.Query = *query
		}
		return h, err
	})
	if err != nil {
		return nil, fmt.Errorf("find who uses the tables: %w", err)
	}
	return list, nil
}

// oldSnapshots are the sessions that have a snapshot from before the restored
// rows were there: transactions that are REPEATABLE READ or SERIALIZABLE, and
// statements that run since then. They would find the restored tables by their
// name, and see them empty: a statement has the tables that it names itself, but
// not yet those that a function of it is going to name. A snapshot that is not
// older than the horizon is none of these. VACUUM and the like, which read no
// other tables, and sessions of other databases do not count. A role that is no
// member of pg_read_all_stats sees sessions of its own only.
func oldSnapshots(ctx context.Context, q pg.Querier, loaded arrival) ([]Holder, error) {
	if loaded.at.IsZero() {
		return nil, nil
	}
	rows, err := q.Query(ctx, `
		SELECT pid, '', coalesce(application_name, ''), coalesce(usename, ''), coalesce(state, ''), '', xact_start, query_start
		FROM pg_catalog.pg_stat_activity a
		WHERE datname = current_database() AND pid <> pg_catalog.pg_backend_pid() AND application_name !~ '^tenantkeep'
		AND coalesce(backend_type, '') NOT IN ('autovacuum worker', 'parallel worker') -- whose leader is listed
		AND backend_xmin IS NOT NULL AND xact_start < $1
		-- Ids are compared within half of their range.
		AND ($3 = '' OR pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::numeric - nullif($3, '')::numeric > 2000000000
			OR pg_catalog.age(backend_xmin) > pg_catalog.age(nullif($3, '')::xid8::xid))
		AND NOT (xact_start >= query_start AND EXISTS (
			SELECT FROM pg_catalog.pg_stat_progress_vacuum p WHERE p.pid = a.pid
			UNION ALL SELECT FROM pg_catalog.pg_stat_progress_analyze p WHERE p.pid = a.pid
			UNION ALL SELECT FROM pg_catalog.pg_stat_progress_create_index p WHERE p.pid = a.pid))
		ORDER BY xact_start, pid LIMIT $2`, loaded.at, maxHolders, loaded.horizon)
	if err != nil {
		return nil, fmt.Errorf("look for old snapshots: %w", err)
	}
	return collectHolders(rows)
}

// repointed finds what refers from an incoming schema to replaced ones, and the
// statements that make it refer to the live ones. That is so where a schema is
// swapped back that refers to another, and the other was replaced since then.
// Where there is no live one, they go on referring to the replaced one, which may
// be swapped back as well.
func repointed(ctx context.Context, conn *pgx.Conn, incoming string, list []*exchange) (statements []string, err error) {
	all, err := listLabelled(ctx, conn)
	if err != nil {
		return nil, err
	}
	for _, l := range all {
		if slices.ContainsFunc(list, func(x *exchange) bool { return x.incoming == l.name }) {
			continue
		}
		found, err := repointedFrom(ctx, conn, l, incoming)
		if err != nil {
			return nil, err
		}
		statements = append(statements, found...)
	}
	return statements, nil
}

// repointedFrom is repointed for one replaced schema. It lets PostgreSQL write the
// statements while that has the name of the live one, and takes it back.
func repointedFrom(ctx context.Context, conn *pgx.Conn, replaced labelled, incoming string) (statements []string, err error) {
	list, err := pg.ListReferences(ctx, conn, replaced.oid)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(list, func(ref pg.Reference) bool { return ref.Schema == incoming }) {
		return nil, nil
	}
	there, err := schemaExists(ctx, conn, replaced.Schema)
	if err != nil || !there {
		return nil, err
	}
	sql := "BEGIN;\n" + rename(replaced.Schema, ownName(replaced.Schema, "hidden", replaced.At, 1)) + rename(replaced.name, replaced.Schema)
	if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
		return nil, errors.Join(fmt.Errorf("look at references to %q: %w", replaced.name, err), back(ctx, conn))
	}
	list, err = pg.ListReferences(ctx, conn, replaced.oid)
	if err := errors.Join(err, back(ctx, conn)); err != nil {
		return nil, err
	}
	for _, ref := range list {
		if ref.Schema != incoming {
			continue
		}
		if ref.Remedy != "" {
			return nil, fmt.Errorf("%s %s refers to schema %q, which was replaced, and cannot be made to refer to the live one: %s",
				ref.Kind, ref.Object, replaced.Schema, ref.Remedy)
		}
		statements = append(append(statements, ref.TakeOff...), ref.PutBack...)
	}
	return statements, nil
}

func back(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.PgConn().Exec(ctx, "ROLLBACK").ReadAll()
	return err
}

// swapAll swaps the staged schemas in, those that refer to one another together.
// With core they were swapped before.
func (r *run) swapAll(ctx context.Context) error {
	if r.coreIsInUse() {
		return nil
	}
	return r.swapTenants(ctx)
}

func (r *run) swapTenants(ctx context.Context) error {
	done := map[*peers]bool{}
	for _, u := range r.alive() {
		if !u.swaps() || done[u.mask.peers] {
			continue
		}
		done[u.mask.peers] = true
		units := slices.DeleteFunc(r.alive(), func(o *unit) bool { return !o.swaps() || o.mask.peers != u.mask.peers })
		if err := r.swapUnits(ctx, units); err != nil {
			if ctx.Err() != nil || pg.Lost(err) {
				return err
			}
			for _, u := range units {
				u.fail(err)
			}
		}
	}
	return nil
}

// IncompleteError says that a restored schema lacks objects and therefore did
// not take the place of the live one.
type IncompleteError struct {
	Schema, Staged string
	New            bool // it was to be a new tenant
	Problems       []Problem
}

// Error names the first object.
func (e *IncompleteError) Error() string {
	p := e.Problems[0]
	more := ""
	if n := len(e.Problems) - 1; n > 0 {
		more = fmt.Sprintf(" and %d more objects", n)
	}
	if e.New {
		return fmt.Sprintf("schema %q was not made, because it would lack %s %s%s: %v", e.Schema, strings.ToLower(p.Kind), p.Object, more, p.Err)
	}
	return fmt.Sprintf("schema %q was not replaced, because the restored one lacks %s %s%s: %v", e.Schema, strings.ToLower(p.Kind), p.Object, more, p.Err)
}

// Hint says what to do.
func (e *IncompleteError) Hint() string {
	if e.Staged == "" {
		return "mend the cause and restore again; or let it lack them, with --allow-incomplete"
	}
	return fmt.Sprintf("mend it in schema %s, where the restored tenant waits, and swap it in with --resume; or swap it in as it is with --resume --allow-incomplete", pg.Identifier(e.Staged))
}

func (r *run) swapUnits(ctx context.Context, units []*unit) error {
	s := &session{run: r, conn: r.main}
	if err := s.set(ctx); err != nil {
		return err
	}
	// From here on the staging survives whatever happens: it is whole.
	now, err := readArrival(ctx, r.main)
	if err != nil {
		return err
	}
	var staged strings.Builder
	var names []string
	for _, u := range units {
		if u.resumed {
			if err := r.lacking(ctx, u); err != nil {
				return err
			}
		} else {
			u.loaded = now
		}
		moved, err := r.aim(u)
		if err != nil {
			return err
		}
		l := label{State: stateStaged, Schema: u.target, Backup: cmp.Or(u.mask.origin, r.Manifest.ID), At: r.Now(), Loaded: &u.loaded.at, Horizon: u.loaded.horizon, Comment: u.comment, Media: moved}
		for _, p := range u.problems {
			l.Lacks = append(l.Lacks, p.statement)
		}
		if u.objects == nil { // core is not resumed
			staged.WriteString(commentSQL(u.mask.staging, l.String()))
		}
		names = append(names, u.target)
	}
	if err := s.exec(ctx, "SET synchronous_commit = on;"+staged.String()); err != nil {
		return fmt.Errorf("mark as staged: %w", err)
	}
	for _, u := range units {
		if u.objects == nil {
			u.staged = u.mask.staging
		}
	}
	for _, u := range units {
		if len(u.problems) > 0 && !r.Incomplete {
			return &IncompleteError{Schema: u.target, Staged: u.staged, Problems: u.problems}
		}
		if err := r.judge(ctx, u); err != nil {
			return err
		}
	}
	point, err := r.savePoint(ctx, names)
	if err != nil {
		return err
	}
	list, err := r.exchanges(ctx, units, point)
	var blocked time.Duration
	if err == nil {
		blocked, err = swap(ctx, r.Server, r.main, list, r.SwapTimeout, func(text string) { r.Progress.Note(slog.LevelWarn, "", text) })
	}
	r.settle(ctx, point, err)
	if err != nil {
		return err
	}
	for i, u := range units {
		u.staged, u.replaced, u.point, u.blocked, u.finished = "", list[i].replaced, point, blocked, true
		r.placeMedia(u)
		for i := range u.problems { // statements that name the staging by its own name
			p := &u.problems[i]
			p.SQL = strings.ReplaceAll(p.SQL, "ALTER TABLE "+pg.Identifier(u.mask.staging)+".", "ALTER TABLE "+pg.Identifier(u.target)+".")
		}
	}
	for _, u := range units {
		if u.objects != nil {
			if err := r.createMissing(ctx, u, u.objects.missing); err != nil {
				u.note(err.Error())
			}
		}
		if err := r.memberships(ctx, u); err != nil {
			u.note(err.Error())
		}
	}
	return nil
}

// exchanges are those of units whose live schemas were saved as a point.
func (r *run) exchanges(ctx context.Context, units []*unit, point string) (list []*exchange, err error) {
	for _, u := range units {
		at := r.Now()
		replaced, err := freeName(ctx, r.main, u.target, "replaced", at)
		if err != nil {
			return nil, err
		}
		moved, err := r.aim(u)
		if err != nil {
			return nil, err
		}
		x := &exchange{
			live: *u.live, incoming: u.mask.staging, comment: u.ownComment(u.target, ""), replaced: replaced, loaded: u.loaded, objects: u.objects != nil,
			label: label{State: stateReplaced, Schema: u.target, Backup: r.Manifest.ID, Point: point, At: at, Media: moved},
		}
		x.register = func(ctx context.Context, tx pgx.Tx) error {
			err := r.putRegistration(ctx, tx, u)
			x.label.Registered = err == nil && u.registered != nil && u.registered.Changed()
			return err
		}
		list = append(list, x)
	}
	return list, nil
}

// settle tells what became of the restore for which a rollback point was saved.
// After a commit whose answer was lost the label of the replaced schema tells.
func (r *run) settle(ctx context.Context, point string, err error) {
	if point == "" || r.Swapped == nil || err != nil && pg.Lost(err) {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	if err := r.Swapped(ctx, point, err == nil); err != nil {
		r.Progress.Note(slog.LevelWarn, "", err.Error())
	}
}

// savePoint backs up live schemas before they are replaced, unless nobody wants
// that, and returns the id.
func (r *run) savePoint(ctx context.Context, schemas []string) (id string, err error) {
	if r.Point == nil {
		return "", nil
	}
	r.Progress.Note(slog.LevelInfo, "", fmt.Sprintf("Saving %s as a rollback point", some(schemas)))
	if id, err = r.Point(ctx, schemas); err != nil {
		return "", fmt.Errorf("save the rollback point: %w", err)
	}
	return id, nil
}

// lacking tries again what could not be made of a staging when it was restored.
// What exists by now was mended by hand.
func (r *run) lacking(ctx context.Context, u *unit) error {
	if len(u.lacks) == 0 {
		return nil
	}
	steps, err := u.steps(ctx, func(i int, _ datafile.Statement) bool { return slices.Contains(u.lacks, i) })
	if err != nil {
		return err
	}
	s := r.sessions[0]
	if err := s.revive(ctx); err != nil {
		return err
	}
	if err := s.use(ctx, u); err != nil {
		return err
	}
	for _, st := range steps {
		failed, err := s.execAll(ctx, []step{st})
		if err != nil {
			return err
		}
		if len(failed) > 0 && isDuplicate(failed[0].err) && st.Kind == kindForeignKey && !strings.HasSuffix(strings.TrimRight(st.sql, "; \n"), " NOT VALID") {
			st = u.validation(st)
			if failed, err = s.execAll(ctx, []step{st}); err != nil {
				return err
			}
		}
		for _, f := range failed {
			if !isDuplicate(f.err) {
				u.problem(Problem{Kind: f.Kind, Object: f.object(), Err: f.err, Remedy: remedy(f.Kind, f.err), SQL: f.sql, statement: f.index})
			}
		}
	}
	return nil
}

// isDuplicate reports whether a statement failed because what it makes exists.
func isDuplicate(err error) bool {
	switch pg.Code(err) {
	case "42710", "42P07", "42723", "42701", "42P16": // the last: a second primary key
		return true
	}
	return false
}

// OrphansError says that rows of another schema would lose their parents.
type OrphansError struct {
	Schema string
	Rows   map[string]int64 // by the foreign key
}

// Error lists them.
func (e *OrphansError) Error() string {
	return fmt.Sprintf("schema %q was not replaced: rows of other schemas refer to rows that are not in the backup", e.Schema) + listCounts(e.Rows)
}

// Hint says what to do.
func (e *OrphansError) Hint() string {
	return "restore those schemas from the same backup together, or delete these rows first"
}

// judge looks whether a unit can take the place of the live schema, before
// anything is done about it: not after a rollback point was made.
func (r *run) judge(ctx context.Context, u *unit) error {
	var list []pg.Reference
	note := func(text string) { r.Progress.Note(slog.LevelWarn, "", text) }
	err := untilFree(ctx, r.main, u.target, r.SwapTimeout, note, func() (err error) {
		list, err = pg.ListReferences(ctx, r.main, u.live.oid)
		return err
	})
	if err != nil {
		return err
	}
	if err := r.fits(ctx, u, slices.Clone(list)); err != nil {
		return err
	}
	if err := r.orphans(ctx, u, list); err != nil {
		return err
	}
	return r.compareAccess(ctx, u)
}

// compareAccess notes how owners and grants of the live schema differ.
func (r *run) compareAccess(ctx context.Context, u *unit) error {
	var staging uint32
	if err := r.main.QueryRow(ctx, `SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1`, u.mask.staging).Scan(&staging); err != nil {
		return fmt.Errorf("look for schema %q: %w", u.mask.staging, err)
	}
	was, err := readAccess(ctx, r.main, u.live.oid)
	if err != nil {
		return err
	}
	is, err := readAccess(ctx, r.main, staging)
	if err != nil {
		return err
	}
	if u.objects != nil { // schema public itself stays
		delete(was, "schema")
	}
	u.access = was.changes(is, r.NoOwner, r.NoPrivileges)
	return nil
}

// orphans looks for rows elsewhere that would be left without a parent.
func (r *run) orphans(ctx context.Context, u *unit, list []pg.Reference) error {
	found := map[string]int64{}
	for _, ref := range list {
		sql := ref.Orphans(u.mask.staging)
		if sql == "" || pg.IsOwn(ref.Schema) || r.together(u, ref.Schema) || r.coreIsInUse() && ref.Schema == manifest.CoreSchema {
			continue // rows of core that come are checked when they are there
		}
		var n int64
		if err := r.main.QueryRow(ctx, sql).Scan(&n); err != nil {
			return fmt.Errorf("count rows of %s without a parent: %w", ref.Object, err)
		}
		if n > 0 {
			found[ref.Object] = n
		}
	}
	if len(found) > 0 {
		return &OrphansError{Schema: u.target, Rows: found}
	}
	return nil
}

// memberships names the publications that had tables of the schema when it was
// backed up and have not now. Those of the live schema went over in the swap:
// which these are is a matter of the database, not of the tenant.
func (r *run) memberships(ctx context.Context, u *unit) error {
	if u.file == nil || u.target != u.mask.name { // a script, which sees to it itself, or a template of another tenant
		return nil
	}
	steps, err := u.steps(ctx, func(_ int, st datafile.Statement) bool { return isMembership(st) })
	if err != nil || len(steps) == 0 {
		return err
	}
	var oid uint32
	if err := r.main.QueryRow(ctx, `SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1`, u.target).Scan(&oid); err != nil {
		return fmt.Errorf("look for schema %q: %w", u.target, err)
	}
	now, err := pg.ReadMembership(ctx, r.main, []uint32{oid}, r.info.ServerVersionNum)
	if err != nil {
		return err
	}
	for _, st := range steps {
		if !slices.Contains(now[oid], st.sql) {
			u.note("in the backup it was in a publication that has it no more; if it should: " + strings.TrimSpace(st.sql))
		}
	}
	return nil
}
