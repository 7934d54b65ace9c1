package pg

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// Batch is several statements in one message to the server, with what they
// return handed out as it comes: no round trip for each of them, which for
// many small tables takes longer than their rows.
type Batch struct {
	// SQL is the statements, separated by semicolons. They run in one
	// transaction: the open one, or an implicit one.
	SQL string
	// CopyRow gets each row of the n-th COPY … TO STDOUT among the
	// statements: a line of text with its newline, valid during the call.
	CopyRow func(n int, row []byte) error
	// CopyDone is called when the n-th COPY has ended well.
	CopyDone func(n int) error
	// Row gets each row of the n-th other statement that returns rows, as
	// text; a null is nil. The values are valid during the call.
	Row func(n int, values [][]byte) error
}

// Run executes the batch. After an error of the server the session goes on;
// after one of a callback, or when the context ends, the connection is closed,
// since what it still sends belongs to nobody.
func (b Batch) Run(ctx context.Context, conn *pgx.Conn) error {
	pc := conn.PgConn()
	if pc.IsClosed() {
		return net.ErrClosed
	}
	stop := context.AfterFunc(ctx, func() {
		// Unblocks the read below. The session ends with its connection, and
		// the server rolls back.
		_ = pc.Conn().SetDeadline(time.Unix(1, 0))
	})
	err, broken := b.run(pc.Frontend())
	if !stop() {
		broken = true
		err = errors.Join(context.Cause(ctx), err)
	}
	if broken {
		_ = pc.Conn().Close()
		_ = closeNow(conn)
	}
	return err
}

func (b Batch) run(f *pgproto3.Frontend) (err error, broken bool) {
	f.SendQuery(&pgproto3.Query{String: b.SQL})
	if err := f.Flush(); err != nil {
		return err, true
	}
	copies, results := -1, -1
	var failure error
	for {
		msg, err := f.Receive()
		if err != nil {
			return errors.Join(failure, err), true
		}
		switch m := msg.(type) {
		case *pgproto3.CopyOutResponse:
			copies++
		case *pgproto3.CopyData:
			if err := b.CopyRow(copies, m.Data); err != nil {
				return err, true
			}
		case *pgproto3.CopyDone:
			if b.CopyDone != nil {
				if err := b.CopyDone(copies); err != nil {
					return err, true
				}
			}
		case *pgproto3.RowDescription:
			results++
		case *pgproto3.DataRow:
			if b.Row == nil {
				continue
			}
			if err := b.Row(results, m.Values); err != nil {
				return err, true
			}
		case *pgproto3.ErrorResponse:
			failure = pgconn.ErrorResponseToPgError(m)
			if m.Severity == "FATAL" || m.SeverityUnlocalized == "FATAL" {
				return failure, true
			}
		case *pgproto3.CopyInResponse:
			return fmt.Errorf("the server asks for rows where none are to be sent"), true
		case *pgproto3.ReadyForQuery:
			return failure, false
		}
	}
}
