package pg

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// The key of the advisory lock that keeps two runs of tenantkeep out of one
// database. Advisory locks belong to a database, so that the key needs no name
// in it.
const (
	lockClass  = 0x746e6b70 // "tnkp"
	lockObject = 1
)

// lockWait is how long Lock waits for a session whose client has just ended,
// or was killed: the server takes a moment to notice.
const lockWait = time.Second

// Lock takes the lock of the database for the session of conn, waiting for a
// second at most, and names the session after the purpose, such as "restore", for others to
// see. The lock ends with the session at the latest. Where another session has
// it the error is a *LockedError.
func Lock(ctx context.Context, conn *pgx.Conn, purpose string) error {
	_, err := conn.PgConn().Exec(ctx, "SET application_name = "+Literal("tenantkeep "+purpose)).ReadAll()
	if err != nil {
		return fmt.Errorf("name the session: %w", err)
	}
	for deadline := time.Now().Add(lockWait); ; {
		var granted bool
		err = conn.QueryRow(ctx, `SELECT pg_catalog.pg_try_advisory_lock($1::int4, $2::int4)`, lockClass, lockObject).Scan(&granted)
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
	err = conn.QueryRow(ctx, `
		SELECT l.pid, coalesce(a.application_name, ''), coalesce(a.backend_start, now())
		FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
		WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
		AND l.classid = $1::int8::oid AND l.objid = $2::int8::oid
		AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())`, int64(lockClass), int64(lockObject)).
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
