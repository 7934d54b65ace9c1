package pgdump

import (
	"errors"
	"os/exec"
	"regexp"
	"strings"
)

// Reason is why pg_dump failed, as far as it changes what to do next.
type Reason string

// The reasons. Messages of the server that are not in English are Unknown.
const (
	Unknown          Reason = "unknown"
	LockTableFull    Reason = "lock table full"   // fewer schemas at once, or a larger table
	LockTimeout      Reason = "lock timeout"      // somebody holds a table that a view mentions: try again
	Vanished         Reason = "object vanished"   // dropped or changed since the snapshot: take a newer one
	SnapshotGone     Reason = "snapshot gone"     // the session that exported it is over
	PermissionDenied Reason = "permission denied" // the role may not read what it should
	ConnectionLost   Reason = "connection lost"   // it ended in the middle
)

// Error is a failure of pg_dump.
type Error struct {
	Reason  Reason
	Message string   // pg_dump's own, without its name before each line
	Schemas []string // those that are not in the database, if that is the failure

	err error // how the process ended
}

func (e *Error) Error() string { return "pg_dump: " + e.Message }

func (e *Error) Unwrap() error { return e.err }

// Hint says what to do next, or is empty.
func (e *Error) Hint() string {
	switch e.Reason {
	case LockTableFull:
		return "the server's lock table is full: raise max_locks_per_transaction, or end other sessions that hold many locks"
	case LockTimeout:
		return "another session holds a lock on a table (a running ALTER TABLE or VACUUM FULL?): try again when it is done"
	case Vanished, SnapshotGone:
		return "definitions changed while they were read: try again"
	case PermissionDenied:
		return "the role needs USAGE on the schemas and SELECT on all of their tables and sequences; pg_read_all_data has both"
	case ConnectionLost, Unknown:
	}
	return ""
}

// reasons are tried in order against the message, the more particular first.
var reasons = []struct {
	reason  Reason
	pattern *regexp.Regexp
}{
	{LockTableFull, regexp.MustCompile(`out of shared memory|max_locks_per_transaction`)},
	{LockTimeout, regexp.MustCompile(`canceling statement due to (lock|statement) timeout`)},
	{SnapshotGone, regexp.MustCompile(`could not import the requested snapshot|invalid snapshot identifier|snapshot "[^"]*" does not exist`)},
	{ConnectionLost, regexp.MustCompile(`(?m)^connection to (server|database) |server closed the connection|terminating connection|connection has been lost|no connection to the server|SSL connection has been closed|SSL SYSCALL error|SSL error|could not receive data from server|could not send data to server|the database system is (shutting down|in recovery mode)`)},
	{PermissionDenied, regexp.MustCompile(`permission denied|must be (owner|superuser)|row-level security policy`)},
	{Vanished, regexp.MustCompile(`cache lookup failed|could not open relation|appears to be empty|returned no data|no matching (schemas|extensions) were found|with OID \d+ (does not exist|not found)|could not find function definition|unrecognized table OID|returned 0 rows|wrong number of rows returned|(relation|schema|type|function|collation|operator|constraint|index) .* does not exist|failed sanity check|could not find tuple|tuple concurrently (updated|deleted)`)},
}

func newError(found messages, err error) *Error {
	text := found.failure()
	if text == "" {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			text = "ended without a message: " + exit.String()
		} else {
			text = err.Error()
		}
	}
	e := &Error{Reason: Unknown, Message: text, err: err}
	for _, r := range reasons {
		if r.pattern.MatchString(text) {
			e.Reason = r.reason
			break
		}
	}
	return e
}

// messages are what pg_dump wrote to its standard error.
type messages []message

type message struct {
	level string // "error", "warning", "detail", "hint"; empty for what has none
	text  string
}

var levelPattern = regexp.MustCompile(`^(error|warning|detail|hint): `)

// parseMessages cuts the text where a line begins with the program's name;
// messages of the server have more than one line.
func parseMessages(text, program string) messages {
	var found messages
	prefixes := []string{program + ": ", strings.TrimSuffix(program, ".exe") + ": ", "pg_dump: "}
	for line := range strings.Lines(text) {
		started := false
		for _, prefix := range prefixes {
			rest, ok := strings.CutPrefix(line, prefix)
			if !ok {
				continue
			}
			level := ""
			if match := levelPattern.FindStringSubmatch(rest); match != nil {
				level, rest = match[1], rest[len(match[0]):]
			}
			found = append(found, message{level: level, text: rest})
			started = true
			break
		}
		switch {
		case started:
		case len(found) == 0:
			found = append(found, message{text: line})
		default:
			found[len(found)-1].text += line
		}
	}
	for i := range found {
		found[i].text = strings.TrimSpace(found[i].text)
	}
	return found
}

// failure is the error with its details, or everything where none is marked as
// one: what the loader of the program says has no level.
func (m messages) failure() string {
	var parts []string
	inError := false
	for _, one := range m {
		switch one.level {
		case "error":
			inError = true
		case "warning":
			inError = false
		}
		if inError {
			parts = append(parts, one.text)
		}
	}
	if len(parts) == 0 {
		for _, one := range m {
			parts = append(parts, one.text)
		}
	}
	return strings.Join(parts, "\n")
}

// warnings are pg_dump's, each with its details. Circular foreign keys are a
// concern of data alone: in a script of definitions they are added at the end.
func (m messages) warnings() []string {
	var warnings []string
	keep := false
	for _, one := range m {
		switch {
		case one.level != "detail" && one.level != "hint":
			keep = !strings.HasPrefix(one.text, "there are circular foreign-key constraints")
			if keep {
				warnings = append(warnings, one.text)
			}
		case keep && len(warnings) > 0:
			warnings[len(warnings)-1] += " " + one.text
		}
	}
	return warnings
}
