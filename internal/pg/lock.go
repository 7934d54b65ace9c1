package pg

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// The keys of the advisory locks that keep runs of tenantkeep out of each other's
// way. Advisory locks belong to a database, so that a key needs no name in it.
const (
	lockClass   = 0x746e6b70 // "tnkp"
	lockObject  = 1          // one backup, restore or the like at a time
	lockSchemas = 2          // making tenants, which many do at once, or changing those that there are
	nameClass   = 0x746e6b6e // "tnkn": with the hash of a name, one new tenant of that name at a time
	startClass  = 0x746e6b73 // "tnks": with lockObject, one container at a time that fills an empty database
	maskClass   = 0x746e6b6d // "tnkm": with the hash of a name, one session at a time that uses it for another schema
)

const (
	// lockWait is how long Lock waits for a session whose client has just ended,
	// or was killed: the server takes a moment to notice.
	lockWait = time.Second
	// schemasWait is how long those who make tenants and those who change them wait
	// for each other: a new tenant is made in seconds.
	schemasWait = 30 * time.Second
)

// Lock takes the lock of the database for the session of conn, waiting for a
// second at most, and names the session after the purpose, such as "restore", for others to
// see. The lock ends with the session at the latest. Where another session has
// it the error is a *LockedError.
func Lock(ctx context.Context, conn *pgx.Conn, purpose string) error {
	if err := nameSession(ctx, conn, purpose); err != nil {
		return err
	}
	if _, err := conn.PgConn().Exec(ctx, keepAlive).ReadAll(); err != nil {
		return fmt.Errorf("set up session: %w", err)
	}
	return take(ctx, conn, "pg_try_advisory_lock", lockClass, lockObject, lockWait)
}

// Watch cancels the context that it returns once the connection is lost that holds a
// lock: whoever works on might do so beside somebody else who has it now. conn must
// not be used before stop has returned.
func Watch(ctx context.Context, conn *pgx.Conn) (watched context.Context, stop func()) {
	watched, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		for watched.Err() == nil {
			if _, err := conn.WaitForNotification(watched); err != nil && watched.Err() == nil {
				cancel(&LockLostError{err})
			}
		}
	})
	return watched, func() {
		cancel(nil)
		watching.Wait()
	}
}

// LockLostError says that the connection was lost that held a lock of the database.
type LockLostError struct{ Err error }

func (e *LockLostError) Error() string {
	return fmt.Sprintf("the connection that holds the lock of the database was lost: %v", e.Err)
}

func (e *LockLostError) Unwrap() error { return e.Err }

// LockLost is an error of work under a context of Watch, or that the lock was lost
// where that is why the work ended.
func LockLost(watched context.Context, err error) error {
	if lost, ok := errors.AsType[*LockLostError](context.Cause(watched)); ok && err != nil {
		return lost
	}
	return err
}

// LockSchemas is Lock for who replaces, renames or removes schemas: nobody makes
// a new tenant meanwhile. It waits half a minute for those who do.
func LockSchemas(ctx context.Context, conn *pgx.Conn, purpose string) error {
	if err := Lock(ctx, conn, purpose); err != nil {
		return err
	}
	return take(ctx, conn, "pg_try_advisory_lock", lockClass, lockSchemas, schemasWait)
}

// LockNew is for who makes a new schema, of this name, and touches no other: many
// may do that at once, also beside a backup, but not beside LockSchemas, for which
// it waits half a minute. It is otherwise as Lock.
func LockNew(ctx context.Context, conn *pgx.Conn, purpose, schema string) error {
	if err := nameSession(ctx, conn, purpose); err != nil {
		return err
	}
	if err := take(ctx, conn, "pg_try_advisory_lock", nameClass, hashName(schema), lockWait); err != nil {
		return err
	}
	return take(ctx, conn, "pg_try_advisory_lock_shared", lockClass, lockSchemas, schemasWait)
}

// LockStartup is the lock of those who fill an empty database before an
// application starts; what it is taken for, such as restores, takes locks of its
// own. It waits for limit at most. tell is called with each holder that is waited
// for, once.
func LockStartup(ctx context.Context, conn *pgx.Conn, purpose string, limit time.Duration, tell func(*LockedError)) error {
	if err := nameSession(ctx, conn, purpose); err != nil {
		return err
	}
	told := 0
	for deadline := time.Now().Add(limit); ; {
		err := take(ctx, conn, "pg_try_advisory_lock", startClass, lockObject, min(lockWait, max(0, time.Until(deadline))))
		locked, ok := errors.AsType[*LockedError](err)
		if !ok || time.Now().After(deadline) {
			return err
		}
		if locked.PID != 0 && locked.PID != told {
			tell(locked)
			told = locked.PID
		}
	}
}

// MaskTurn is a statement that waits, for a minute at most, until no other session
// is in a transaction in which a schema has the name of another, and keeps others
// from it until the transaction ends. timeout is the session's lock_timeout.
func MaskTurn(schema string, timeout time.Duration) string {
	return fmt.Sprintf("SET LOCAL lock_timeout = 60000;\nDO 'BEGIN PERFORM pg_catalog.pg_advisory_xact_lock(%d, %d); END';\nSET LOCAL lock_timeout = %d;\n",
		maskClass, hashName(schema), timeout.Milliseconds())
}

// hashName is a key for a name. Two names with one key only wait for each other.
func hashName(name string) int32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name)) // a hash takes everything
	return int32(h.Sum32())
}

func nameSession(ctx context.Context, conn *pgx.Conn, purpose string) error {
	if _, err := conn.PgConn().Exec(ctx, "SET application_name = "+Literal("tenantkeep "+purpose)).ReadAll(); err != nil {
		return fmt.Errorf("name the session: %w", err)
	}
	return nil
}

// take takes an advisory lock by one of the functions that try to, for so long.
func take(ctx context.Context, conn *pgx.Conn, function string, class, object int32, wait time.Duration) error {
	for deadline := time.Now().Add(wait); ; {
		var granted bool
		err := conn.QueryRow(ctx, `SELECT pg_catalog.`+function+`($1::int4, $2::int4)`, class, object).Scan(&granted)
		if err != nil {
			return fmt.Errorf("lock the database: %w", err)
		}
		if granted {
			return nil
		}
		if time.Now().After(deadline) {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("lock the database: %w", context.Cause(ctx))
		case <-time.After(lockWait / 20):
		}
	}
	locked := &LockedError{Database: conn.Config().Database}
	err := conn.QueryRow(ctx, `
		SELECT l.pid, coalesce(a.application_name, ''), coalesce(a.backend_start, now())
		FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
		WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
		AND l.classid = $1::int8::oid AND l.objid = $2::int8::oid
		AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
		ORDER BY a.backend_start LIMIT 1`, int64(uint32(class)), int64(uint32(object))).
		Scan(&locked.PID, &locked.Application, &locked.Since)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) { // gone meanwhile: the caller may try again
		return fmt.Errorf("find who holds the lock of the database: %w", err)
	}
	return locked
}

// LockedError says that another run of tenantkeep works on the database.
type LockedError struct {
	Database    string
	PID         int       // of the server process that holds the lock; 0: it is gone by now
	Application string    // what that session calls itself
	Since       time.Time // when it connected
}

// Error names the holder.
func (e *LockedError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("database %q was in use by another run of tenantkeep", e.Database)
	}
	return fmt.Sprintf("database %q is in use by another run of tenantkeep: %q, server process %d, connected since %s",
		e.Database, e.Application, e.PID, e.Since.UTC().Format("2006-01-02 15:04:05 UTC"))
}

// Hint says what to do.
func (e *LockedError) Hint() string {
	if e.PID == 0 {
		return "try again"
	}
	return fmt.Sprintf("wait until it is done; if its client is dead, end it with: SELECT pg_terminate_backend(%d)", e.PID)
}

// LockHolder is a session that holds a lock of the database.
type LockHolder struct {
	PID         int
	Application string // what it calls itself
	Since       time.Time
	Idle        time.Duration // for how long it has asked nothing of the server
}

// LockHolders returns who holds the lock of the database, or is about to replace
// or make schemas of it.
func LockHolders(ctx context.Context, q Querier) ([]LockHolder, error) {
	rows, err := q.Query(ctx, `
		SELECT DISTINCT l.pid, coalesce(a.application_name, ''), coalesce(a.backend_start, now()),
			CASE WHEN a.state = 'active' THEN 0 ELSE coalesce(extract(epoch FROM clock_timestamp() - a.state_change), 0)::int8 END
		FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
		WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2 AND l.classid = $1::int8::oid
		AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
		ORDER BY 3`, int64(lockClass))
	if err != nil {
		return nil, fmt.Errorf("find who holds the lock of the database: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (h LockHolder, err error) {
		var idle int64
		err = row.Scan(&h.PID, &h.Application, &h.Since, &idle)
		h.Idle = time.Duration(idle) * time.Second
		return h, err
	})
	if err != nil {
		return nil, fmt.Errorf("find who holds the lock of the database: %w", err)
	}
	return list, nil
}
