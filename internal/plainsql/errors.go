package plainsql

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// CutError is a script that is not whole.
type CutError struct {
	Line int // 0: not known
	What string
}

func (e *CutError) Error() string {
	if e.Line == 0 {
		return "the script is cut: " + e.What
	}
	return fmt.Sprintf("the script is cut: line %d: %s", e.Line, e.What)
}

// Hint says what to do.
func (e *CutError) Hint() string {
	return "was the dump or its transfer interrupted, or the disk full? use another copy of the file"
}

// CommandError is a command for psql.
type CommandError struct {
	Line    int
	Command string // with its backslash
}

func (e *CommandError) Error() string {
	if e.Command == `\.` {
		return fmt.Sprintf(`line %d: \. ends rows, but there is no COPY … FROM stdin before it`, e.Line)
	}
	return fmt.Sprintf("line %d: %s is a command for psql, not SQL, and is not run", e.Line, e.Command)
}

// Hint gives the reason.
func (e *CommandError) Hint() string {
	switch strings.TrimRight(e.Command, "+") {
	case `\.`:
		return "the script was edited or damaged"
	case `\!`, `\o`, `\out`, `\w`, `\write`, `\g`, `\gx`, `\copy`, `\setenv`, `\e`, `\edit`, `\s`, `\i`, `\include`, `\ir`, `\include_relative`, `\lo_import`, `\lo_export`, `\cd`, `\`:
		return "it can run programs or read and write files on this machine, and pg_dump does not write it: find out where the script comes from"
	case `\c`, `\connect`:
		return "tenantkeep connects by itself: give the database as --database-url"
	default:
		return "commands of psql can run programs on this machine, so that none are run but \\restrict, \\unrestrict and \\connect of the same database: remove the line if it is harmless"
	}
}

// NotSQLError is something that no script in SQL has in it.
type NotSQLError struct {
	Line   int // 0: the file as a whole
	What   string
	Remedy string
}

func (e *NotSQLError) Error() string {
	if e.Line == 0 {
		return "the file is no SQL script: it is " + e.What
	}
	return fmt.Sprintf("line %d: the script has %s", e.Line, e.What)
}

// Hint says what to do.
func (e *NotSQLError) Hint() string {
	if e.Remedy != "" {
		return e.Remedy
	}
	return "the file is damaged, or no SQL script in an encoding that contains ASCII"
}

// TooLongError is a statement without an end in sight.
type TooLongError struct {
	Line int
	Max  int // in bytes
}

func (e *TooLongError) Error() string {
	return fmt.Sprintf("line %d: the statement that begins here is longer than %d MB", e.Line, e.Max>>20)
}

// Hint says what to look for.
func (e *TooLongError) Hint() string { return "look for a quote that is not closed" }

// RefusedError is a statement that is not run.
type RefusedError struct {
	Line   int
	SQL    string // its beginning
	Reason string
	// Outside says that AllowOutside would let it pass.
	Outside bool
	// Remedy is what to do, where it is not the usual.
	Remedy string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("line %d: %s: %s", e.Line, e.SQL, e.Reason)
}

// Hint says what to do.
func (e *RefusedError) Hint() string {
	if e.Remedy != "" {
		return e.Remedy
	}
	if e.Outside {
		return "allow it with --allow-outside if that is wanted, or make a dump of the one schema: pg_dump --schema"
	}
	return "run the statement by hand, if it is wanted, and remove it from the script"
}

// StatementError is a statement that the server refused.
type StatementError struct {
	Line int
	SQL  string // its beginning
	Err  error
}

func (e *StatementError) Error() string {
	text := fmt.Sprintf("line %d: %s: %v", e.Line, e.SQL, e.Err)
	var pgErr *pgconn.PgError
	if !errors.As(e.Err, &pgErr) {
		return text
	}
	if pgErr.Detail != "" {
		text += "; " + oneLine(pgErr.Detail)
	}
	if pgErr.Where != "" {
		text += "; " + oneLine(pgErr.Where)
	}
	return text
}

func (e *StatementError) Unwrap() error { return e.Err }

// Hint says what to do where that is known.
func (e *StatementError) Hint() string {
	var pgErr *pgconn.PgError
	if !errors.As(e.Err, &pgErr) {
		return ""
	}
	switch {
	case missingRole(e.Err):
		return "create the role on this server, or make the dump with --no-owner --no-privileges"
	case pgErr.Code == pg.OutOfMemory:
		return "the whole script is one transaction and needs a lock for each table: raise max_locks_per_transaction"
	case pgErr.Code == "42601" && strings.HasSuffix(pgErr.Message, `at or near ":"`):
		return "variables of psql (:name) are not replaced: write the values into the script"
	case pgErr.Code == "42P07" || pgErr.Code == "42P06" || pgErr.Code == "42710" || pgErr.Code == "42723":
		return "the script does not run into an empty place, or creates the same thing twice"
	}
	return pgErr.Hint
}

// beginning is what a message shows of a statement: one line of it.
func beginning(sql string) string {
	const enough = 120
	cut := len(sql) > 8*enough
	if cut {
		sql = sql[:8*enough]
	}
	line := oneLine(strings.ToValidUTF8(sql, "?"))
	if runes := []rune(line); len(runes) > enough {
		return string(runes[:enough]) + " …"
	}
	if cut {
		return line + " …"
	}
	return line
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
