package restore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/tenantkeep/tenantkeep/internal/copybin"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// copyIn is one COPY … FROM STDIN.
type copyIn struct {
	sql    string
	data   io.Reader
	binary *copybin.Rows // the rows instead of data, for COPY in binary format; nil: as text
	rows   int64         // how many the server must count
	name   string
}

const (
	copyChunk  = 64 << 10
	copyHeader = 5 // of a CopyData message: its type and its length
)

// runCopies runs several COPY statements in one message, between the statements
// of before and after: one transaction, and no round trip for each table. Everything is sent before anything is read,
// which is fine because the server answers little until the end.
//
// After an error of the server the session goes on; otherwise the connection is
// closed.
func runCopies(ctx context.Context, conn *pgx.Conn, before string, copies []copyIn, after string) error {
	pc := conn.PgConn()
	if pc.IsClosed() {
		return net.ErrClosed
	}
	stop := context.AfterFunc(ctx, func() { _ = pc.Conn().SetDeadline(time.Unix(1, 0)) })
	err, broken := sendCopies(pc.Frontend(), before, copies, after)
	if !stop() {
		broken = true
		err = errors.Join(context.Cause(ctx), err)
	}
	if broken {
		_ = pc.Conn().Close()
		pg.Close(conn)
	}
	return err
}

func sendCopies(f *pgproto3.Frontend, before string, copies []copyIn, after string) (err error, broken bool) {
	var sql strings.Builder
	sql.WriteString(before)
	for _, c := range copies {
		sql.WriteString(c.sql + ";\n")
	}
	sql.WriteString(after)
	f.SendQuery(&pgproto3.Query{String: sql.String()})
	var readErr, writeErr error
	chunk := make([]byte, copyHeader+copyChunk)
	for _, c := range copies {
		if c.binary != nil {
			chunk, readErr, writeErr = sendBinary(f, chunk, c.binary)
		} else {
			readErr, writeErr = sendRows(f, chunk[:copyHeader+copyChunk], c.data)
		}
		if readErr != nil || writeErr != nil {
			break
		}
	}
	if readErr != nil {
		f.Send(&pgproto3.CopyFail{Message: "the rows cannot be read"})
	}
	if writeErr == nil {
		writeErr = f.Flush()
	}
	// After a failed write the server's last words, if there are any, say more.
	err, broken = receiveCopies(f, copies)
	switch {
	case readErr != nil:
		return readErr, broken || writeErr != nil
	case writeErr != nil && pg.Code(err) == "":
		return errors.Join(writeErr, err), true
	}
	return err, broken || writeErr != nil
}

// sendRows sends rows as CopyData messages and CopyDone behind them.
func sendRows(f *pgproto3.Frontend, chunk []byte, data io.Reader) (readErr, writeErr error) {
	for {
		n, err := io.ReadFull(data, chunk[copyHeader:])
		if n > 0 {
			if err := sendChunk(f, chunk[:copyHeader+n]); err != nil {
				return nil, err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF) && n < copyChunk && !isDamage(err):
			f.Send(&pgproto3.CopyDone{})
			return nil, nil
		case err != nil:
			return err, nil
		}
	}
}

// sendBinary is sendRows for rows in binary format. It returns the chunk, which
// grows with the longest row.
func sendBinary(f *pgproto3.Frontend, chunk []byte, rows *copybin.Rows) (grown []byte, readErr, writeErr error) {
	for {
		chunk, readErr = rows.Append(chunk[:copyHeader], copyHeader+copyChunk)
		switch {
		case errors.Is(readErr, io.EOF):
			f.Send(&pgproto3.CopyDone{})
			return chunk, nil, nil
		case readErr != nil:
			return chunk, readErr, nil
		}
		if writeErr = sendChunk(f, chunk); writeErr != nil {
			return chunk, nil, writeErr
		}
	}
}

// sendChunk sends a CopyData message, which has room for its header in front.
func sendChunk(f *pgproto3.Frontend, chunk []byte) error {
	if len(chunk)-copyHeader < copyChunk/4 { // gathered: a write for each small table costs more than a copy
		f.Send(&pgproto3.CopyData{Data: chunk[copyHeader:]})
		return nil
	}
	chunk[0] = 'd'
	binary.BigEndian.PutUint32(chunk[1:], uint32(len(chunk)-1))
	return f.SendUnbufferedEncodedCopyData(chunk)
}

// isDamage reports whether an unexpected end is that of a frame, which wraps
// io.ErrUnexpectedEOF, and not just the last, short chunk.
func isDamage(err error) bool { return err != io.ErrUnexpectedEOF } //nolint:errorlint // io.ReadFull returns it bare

func receiveCopies(f *pgproto3.Frontend, copies []copyIn) (err error, broken bool) {
	done := 0
	var failure error
	for {
		msg, err := f.Receive()
		if err != nil {
			return errors.Join(failure, err), true
		}
		switch m := msg.(type) {
		case *pgproto3.CommandComplete:
			count, ok := strings.CutPrefix(string(m.CommandTag), "COPY ")
			if !ok {
				continue // before or after
			}
			if done >= len(copies) {
				return errors.New("the server answers to a COPY that was not sent"), true
			}
			c := copies[done]
			done++
			if n, err := strconv.ParseInt(count, 10, 64); failure == nil && (err != nil || n != c.rows) {
				failure = fmt.Errorf("table %s took %s rows of %d", c.name, count, c.rows)
			}
		case *pgproto3.ErrorResponse:
			failure = pgconn.ErrorResponseToPgError(m)
			if done < len(copies) {
				failure = fmt.Errorf("table %s: %w", copies[done].name, failure)
			}
			if m.Severity == "FATAL" || m.SeverityUnlocalized == "FATAL" {
				return failure, true
			}
		case *pgproto3.ReadyForQuery:
			if failure == nil && done < len(copies) {
				failure = errors.New("the server did not answer to every COPY")
			}
			return failure, false
		}
	}
}
