package pgdump

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Sizes of one pattern of names. A single argument may not be longer than
// 128 KiB, and the server has to compile each pattern as one expression.
const (
	patternNames = 50
	patternBytes = 30 << 10
)

const (
	// messageLimit bounds what is kept of pg_dump's messages.
	messageLimit = 1 << 20
	// killDelay is how long pg_dump has to cancel its query and end when it is
	// asked to.
	killDelay = 5 * time.Second
)

// Options of one run of pg_dump.
type Options struct {
	Program string // path of pg_dump
	// Connect opens the session on which pg_dump works, which ends with the
	// run. pg_dump itself learns neither where the server is nor a password.
	Connect  func(context.Context) (*pgconn.HijackedConn, error)
	Snapshot string   // an exported snapshot; empty: pg_dump takes its own
	Answers  *Answers // of runs with the same snapshot, Encoding and role, shared by them; nil: each asks for itself
	// Schemas are the exact names of the schemas to dump, without the
	// database's own objects; empty for everything. One that the snapshot does
	// not have is an error.
	Schemas []string
	// ExcludeSchemas are the exact names of schemas to leave out of a dump that
	// has the database's own objects.
	ExcludeSchemas []string
	// Extensions are the exact names of the extensions to dump together with
	// Schemas. Without Schemas all are in.
	Extensions []string
	// LargeObjects adds the existence, owners, grants, comments and labels of
	// all large objects, not their contents.
	LargeObjects bool
	Encoding     string        // of names and definitions, as PostgreSQL names it; empty: the database's. Schemas and the like must be in it.
	LockWait     time.Duration // how long to wait for the lock on a table that a view mentions; 0: for ever
}

// Run runs pg_dump and returns the table of contents of what it wrote. It locks
// no tables but those that views, rules, policies and SQL functions mention:
// what changed since the snapshot, or while pg_dump ran, is for the caller to
// find. A failure of pg_dump is an *Error; one of Connect is as that gave it;
// after a cancellation of ctx the error is ctx's.
func Run(ctx context.Context, opts Options) (_ *Archive, err error) {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	relay, err := opts.session(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, relay.close()) }()

	var messages limitedBuffer
	cmd := exec.CommandContext(ctx, opts.Program, opts.arguments()...)
	cmd.Env = environment(os.Environ(), relay.env())
	cmd.Stderr = &messages
	cmd.WaitDelay = killDelay
	ownGroup(cmd)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("run pg_dump: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("run pg_dump: %w", err)
	}

	archive, readErr := ReadArchive(stdout)
	switch {
	case readErr != nil:
		// An end of the output has its reason in pg_dump's messages; other
		// damage has none, and the rest is of no use.
		if !errors.Is(readErr, io.ErrUnexpectedEOF) {
			stop(readErr)
		}
	case opts.LargeObjects:
		// What follows is the contents of large objects.
		stop(errContents)
	default:
		_, readErr = io.Copy(io.Discard, stdout)
	}
	waitErr := cmd.Wait()

	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, errContents) {
		if readErr != nil && errors.Is(cause, readErr) {
			return nil, readErr
		}
		return nil, fmt.Errorf("run pg_dump: %w", cause)
	}
	found := parseMessages(messages.String(), filepath.Base(opts.Program))
	if waitErr != nil && context.Cause(ctx) == nil {
		return nil, newError(found, waitErr)
	}
	if readErr != nil {
		return nil, readErr
	}
	for _, warning := range found.warnings() {
		// So it says when it is stopped at the contents of large objects.
		if warning != "terminated by user" {
			archive.Warnings = append(archive.Warnings, warning)
		}
	}
	return archive, opts.check(archive)
}

// errContents ends pg_dump when the part of its output that matters is there.
var errContents = errors.New("the table of contents is complete")

func (o Options) arguments() []string {
	args := []string{"--format=custom", "--compress=0", "--no-password", "--no-subscriptions"}
	if o.LargeObjects {
		// With --schema-only pg_dump leaves large objects out, even with
		// --large-objects: it takes their definitions for data.
		args = append(args, "--section=pre-data", "--section=data", "--section=post-data", "--blobs", "--exclude-table-data=*.*")
	} else {
		args = append(args, "--schema-only")
	}
	if o.Snapshot != "" {
		args = append(args, "--snapshot="+o.Snapshot)
	}
	if o.Encoding != "" {
		args = append(args, "--encoding="+o.Encoding)
	}
	for _, pattern := range patterns(o.Schemas) {
		args = append(args, "--schema="+pattern)
	}
	for _, pattern := range patterns(o.ExcludeSchemas) {
		args = append(args, "--exclude-schema="+pattern)
	}
	if len(o.Schemas) > 0 {
		for _, pattern := range patterns(o.Extensions) {
			args = append(args, "--extension="+pattern)
		}
	}
	return args
}

// patterns writes exact names as few patterns of psql's language: what is
// quoted is literal, and | separates alternatives.
func patterns(names []string) []string {
	var all []string
	var pattern strings.Builder
	count := 0
	for _, name := range names {
		quoted := quoteIdent(name)
		if count == patternNames || count > 0 && pattern.Len()+1+len(quoted) > patternBytes {
			all = append(all, pattern.String())
			pattern.Reset()
			count = 0
		}
		if count > 0 {
			pattern.WriteByte('|')
		}
		pattern.WriteString(quoted)
		count++
	}
	if count > 0 {
		all = append(all, pattern.String())
	}
	return all
}

// check makes sure that what was asked for by name is there: pg_dump is content
// when one name of a pattern matches.
func (o Options) check(archive *Archive) error {
	dumped := make(map[string]bool)
	for i := range archive.Entries {
		if e := &archive.Entries[i]; e.Kind == kindSchema {
			dumped[e.Tag] = true
		}
	}
	var missing []string
	for _, name := range o.Schemas {
		if !dumped[name] && name != publicSchema {
			missing = append(missing, name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	quoted := make([]string, len(missing))
	for i, name := range missing {
		quoted[i] = strconv.Quote(name)
	}
	return &Error{
		Reason:  Vanished,
		Message: "not in the database: schema " + strings.Join(quoted, ", "),
		Schemas: missing,
	}
}

// environment is that of the process with the connection in the place of all
// that libpq would take from it, and with messages in English, by which they
// are told apart.
func environment(process, connection []string) []string {
	env := make([]string, 0, len(process)+len(connection)+3)
	for _, variable := range process {
		if !strings.HasPrefix(variable, "PG") {
			env = append(env, variable)
		}
	}
	env = append(env, connection...)
	return append(env, "LC_ALL=C", "LC_MESSAGES=C", "LANGUAGE=")
}

// limitedBuffer keeps the beginning of what is written to it.
type limitedBuffer struct {
	bytes.Buffer
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	b.Buffer.Write(p[:min(len(p), messageLimit-b.Len())])
	return len(p), nil
}
