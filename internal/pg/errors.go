package pg

import (
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Error codes of PostgreSQL that callers branch on.
const (
	LockNotAvailable = "55P03"
	OutOfMemory      = "53200" // also: the lock table is full
	DiskFull         = "53100"
	QueryCanceled    = "57014"
	Deadlock         = "40P01"
	Privilege        = "42501"

	TooManyConnections = "53300"
	Internal           = "XX000" // also: something that was given by OID is gone
)

// Code is the SQLSTATE of an error, "" where it is none of PostgreSQL's.
func Code(err error) string {
	var e *pgconn.PgError
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// Missing reports whether a statement failed because something that it names
// does not exist (yet).
func Missing(err error) bool {
	switch Code(err) {
	case "42P01", "42703", "42704", "42883", "3F000", "42P02", "3D000":
		return true
	}
	return false
}

// Lost reports whether the connection is gone: the server stopped, the
// session was terminated, or the network broke.
func Lost(err error) bool {
	code := Code(err)
	if strings.HasPrefix(code, "08") || strings.HasPrefix(code, "57P") {
		return true
	}
	var op *net.OpError
	// The last is what a second user of a connection gets that was lost under the first.
	return errors.As(err, &op) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, pgconn.ErrConnClosed)
}

// Identifier quotes a name, with its schema if one is given, for SQL.
func Identifier(parts ...string) string {
	if slices.ContainsFunc(parts, func(p string) bool { return strings.ContainsAny(p, "\"\x00") }) {
		return pgx.Identifier(parts).Sanitize()
	}
	return `"` + strings.Join(parts, `"."`) + `"` // the same, for nearly all names, with less work
}

// Literal quotes a text for SQL. It is for statements that take no
// parameters; standard_conforming_strings is on in every session of ours.
func Literal(s string) string {
	quoted := "'" + strings.ReplaceAll(s, "'", "''") + "'"
	if !strings.Contains(s, `\`) {
		return quoted
	}
	return " E" + strings.ReplaceAll(quoted, `\`, `\\`)
}
