package pg

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// leadClass is, with the hash of the place of the backups, the key of the advisory lock
// of the process that runs the schedule of a database.
const leadClass = 0x746e6b6c // "tnkl"

// keepAlive lets the server notice within half a minute that a client is gone whose
// machine was switched off: until then it would hold its locks. On a socket of the
// same machine, where this is not needed, the settings have no effect.
const keepAlive = "SET tcp_keepalives_idle = 10; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"

// leadPatience is how long the server may take to answer its leader.
const leadPatience = 10 * time.Second

// Lead is that this process leads: of several that serve one database and keep its
// backups in one place, one.
type Lead struct{ conn *pgx.Conn }

// TryLead takes the lead for backups in a place, by a connection of its own, unless
// another process has it: then it is nil.
func (s *Server) TryLead(ctx context.Context, place string) (_ *Lead, err error) {
	ctx, cancel := context.WithTimeout(ctx, leadPatience)
	defer cancel()
	conn, err := s.Connect(ctx)
	if err != nil {
		return nil, err
	}
	led := false
	defer func() {
		if !led {
			Close(conn)
		}
	}()
	if err := nameSession(ctx, conn, "serve"); err != nil {
		return nil, err
	}
	if _, err := conn.PgConn().Exec(ctx, keepAlive).ReadAll(); err != nil {
		return nil, fmt.Errorf("set up session: %w", err)
	}
	if err := conn.QueryRow(ctx, "SELECT pg_catalog.pg_try_advisory_lock($1::int4, $2::int4)", leadClass, hashName(place)).Scan(&led); err != nil {
		return nil, fmt.Errorf("take the lead: %w", err)
	}
	if !led {
		return nil, nil
	}
	return &Lead{conn}, nil
}

// Check makes sure that the lead was not lost: it is that of the connection.
func (l *Lead) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leadPatience)
	defer cancel()
	if err := l.conn.Ping(ctx); err != nil {
		return fmt.Errorf("the lead was lost: %w", err)
	}
	return nil
}

// Close gives the lead up.
func (l *Lead) Close() { Close(l.conn) }
