package plainsql

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// Options of Run.
type Options struct {
	// Schema is the one that the script is for. Statements whose words say that
	// they are about others are refused. Empty: any schema.
	Schema string
	// AllowOutside lets pass what the words say is outside of Schema: other
	// schemas, extensions, publications and so on. Roles, tablespaces and the
	// settings of the server stay out of reach.
	AllowOutside bool
	// Database is the name that \connect may have; empty: that of the
	// connection.
	Database string
	// MissingRoles goes on, with a note, where a statement names an owner or
	// the receiver of a grant that the server does not have.
	MissingRoles bool
	// Progress, if not nil, is told how many more bytes of the decompressed
	// script were run, and how many more rows stored. It is not called by two
	// goroutines at once, and not after Run has returned.
	Progress func(bytes, rows int64)
}

// Result is what a script did.
type Result struct {
	Statements int   // that were run, COPY included
	Rows       int64 // that COPY and INSERT stored
	Tables     []TableRows
	Notes      []Note
}

// TableRows is how many rows COPY and INSERT stored in a table. A table has the
// name by which the script calls it: without a schema where that is left to
// search_path.
type TableRows struct {
	Schema, Table string
	Rows          int64
}

// Note is something that was left out, or went wrong without harm.
type Note struct {
	Line  int // of the first time
	SQL   string
	Text  string
	Times int
}

// String is the note for people.
func (n Note) String() string {
	text := fmt.Sprintf("line %d: %s: %s", n.Line, n.SQL, n.Text)
	if n.Times > 1 {
		text += fmt.Sprintf(" (and %d more)", n.Times-1)
	}
	return text
}

// A message of statements that is this long costs no round trips that count.
const (
	messageStatements = 200
	messageBytes      = 256 << 10
)

// Run executes a script on a connection, in the transaction that its caller
// began there and commits or rolls back. The script cannot end that transaction
// itself. Statements go to the server one by one, in the extended protocol,
// which takes no two statements for one: however a script is written, the
// server runs what was judged.
//
// The settings of the session are as before when Run returns without an error;
// after one they are when the transaction is rolled back. Settings with a dot in
// their name stay as the script left them, and cursors open. The connection may
// lie open or closed after an error, and the Reader must not be used again.
//
// Errors are those of Reader.Next, a *RefusedError, a *StatementError, or
// about the connection and the context.
func Run(ctx context.Context, conn *pgx.Conn, script *Reader, opts Options) (Result, error) {
	if conn.PgConn().TxStatus() != 'T' {
		return Result{}, errors.New("run script: the connection is in no transaction")
	}
	r := &runner{conn: conn, script: script, opts: opts, tables: map[[2]string]int64{}, notes: map[string]int{}, told: script.Offset()}
	defer r.finish()
	if err := r.prepare(ctx); err != nil {
		return Result{}, fmt.Errorf("run script: %w", err)
	}
	if err := r.all(ctx); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return r.summary(), fmt.Errorf("run script: %w", err)
	}
	if err := r.restoreSettings(ctx); err != nil {
		return r.summary(), fmt.Errorf("run script: %w", err)
	}
	return r.summary(), nil
}

type runner struct {
	conn   *pgx.Conn
	script *Reader
	opts   Options
	rules  rules

	settings map[string]string // of the session before the script
	user     string            // of the session before the script
	role     string            // the same, "none" without SET ROLE

	pending []*Item // statements of the next message
	size    int     // their bytes

	result Result
	tables map[[2]string]int64
	notes  map[string]int // place in result.Notes

	mu   sync.Mutex // for progress, which COPY's goroutine reports
	told int64      // how many bytes Progress knows of
	over bool       // Progress must not be called any more
}

func (r *runner) finish() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
}

func (r *runner) progress(rows int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	offset := r.script.Offset()
	if r.opts.Progress != nil && !r.over && (offset > r.told || rows > 0) {
		r.opts.Progress(offset-r.told, rows)
		r.told = offset
	}
}

func (r *runner) summary() Result {
	for table, rows := range r.tables {
		r.result.Tables = append(r.result.Tables, TableRows{table[0], table[1], rows})
	}
	slices.SortFunc(r.result.Tables, func(a, b TableRows) int {
		return cmp.Or(strings.Compare(a.Schema, b.Schema), strings.Compare(a.Table, b.Table))
	})
	return r.result
}

// prepare reads what the rules need to know.
func (r *runner) prepare(ctx context.Context) error {
	settings, err := readSettings(ctx, r.conn)
	if err != nil {
		return err
	}
	r.settings = settings
	r.rules = rules{
		schema: r.opts.Schema, allowOutside: r.opts.AllowOutside, missingRoles: r.opts.MissingRoles,
		settings: map[string]bool{}, extensions: map[string]bool{}, languages: map[string]bool{},
	}
	rows, err := readPairs(ctx, r.conn, `
		SELECT 's', name FROM pg_catalog.pg_settings
		UNION ALL SELECT 'e', extname FROM pg_catalog.pg_extension
		UNION ALL SELECT 'l', lanname FROM pg_catalog.pg_language
		UNION ALL SELECT 'u', session_user
		UNION ALL SELECT 'r', pg_catalog.current_setting('role')`)
	if err != nil {
		return fmt.Errorf("read what the server has: %w", err)
	}
	for _, row := range rows {
		switch name := row[1]; row[0] {
		case "s":
			r.rules.settings[strings.ToLower(name)] = true
		case "e":
			r.rules.extensions[name] = true
		case "l":
			r.rules.languages[name] = true
		case "u":
			r.user = name
		case "r":
			r.role = name
			r.rules.fixedRole = name != "none"
		}
	}
	return r.follow()
}

// readSettings reads those settings that a session can change back.
func readSettings(ctx context.Context, conn *pgx.Conn) (map[string]string, error) {
	rows, err := readPairs(ctx, conn, `
		SELECT name, setting FROM pg_catalog.pg_settings
		WHERE context IN ('user', 'superuser') AND setting IS NOT NULL
		AND name NOT IN ('transaction_isolation', 'transaction_read_only', 'transaction_deferrable', 'seed')`)
	if err != nil {
		return nil, fmt.Errorf("read settings: %w", err)
	}
	settings := map[string]string{}
	for _, row := range rows {
		settings[row[0]] = row[1]
	}
	return settings, nil
}

// readPairs reads two columns as text. It works under all settings, as pgx's
// own queries do not.
func readPairs(ctx context.Context, conn *pgx.Conn, sql string) ([][2]string, error) {
	results, err := conn.PgConn().Exec(ctx, sql).ReadAll()
	if err != nil {
		return nil, err
	}
	var pairs [][2]string
	for _, row := range results[0].Rows {
		pairs = append(pairs, [2]string{string(row[0]), string(row[1])})
	}
	return pairs, nil
}

// restoreSettings makes the settings what they were before the script.
func (r *runner) restoreSettings(ctx context.Context) error {
	// In these two the others are read and written. A change of the session's
	// user, which only a superuser can have made, ends SET ROLE.
	err := r.exec(ctx, fmt.Sprintf("SET client_encoding = '%s'; SET standard_conforming_strings = %s",
		r.settings["client_encoding"], r.settings["standard_conforming_strings"]))
	if err == nil {
		err = r.exec(ctx, fmt.Sprintf("SELECT pg_catalog.set_config('session_authorization', %[1]s, false) WHERE session_user <> %[1]s;"+
			" SELECT pg_catalog.set_config('role', %[2]s, false)", pg.Literal(r.user), pg.Literal(r.role)))
	}
	if err != nil {
		return fmt.Errorf("put settings back: %w", err)
	}
	now, err := readSettings(ctx, r.conn)
	if err != nil {
		return err
	}
	var sql strings.Builder
	for name, value := range r.settings {
		if after, ok := now[name]; ok && after != value {
			fmt.Fprintf(&sql, "SELECT pg_catalog.set_config(%s, %s, false);\n", pg.Literal(name), pg.Literal(value))
		}
	}
	if err := r.exec(ctx, sql.String()); err != nil {
		return fmt.Errorf("put settings back: %w", err)
	}
	return nil
}

func (r *runner) exec(ctx context.Context, sql string) error {
	_, err := r.conn.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

// unsafeEncodings have characters with bytes that look like ASCII.
var unsafeEncodings = []string{"SJIS", "BIG5", "GBK", "UHC", "GB18030", "JOHAB", "SHIFT_JIS_2004"}

// follow tells the reader how the server reads the next statement.
func (r *runner) follow() error {
	pc := r.conn.PgConn()
	r.script.StandardStrings(pc.ParameterStatus("standard_conforming_strings") != "off")
	encoding := pc.ParameterStatus("client_encoding")
	if slices.Contains(unsafeEncodings, strings.ToUpper(encoding)) {
		return &NotSQLError{Line: r.script.line, What: "the encoding " + encoding, Remedy: "make the dump with pg_dump --encoding=UTF8, or convert the file to UTF-8 and its SET client_encoding with it"}
	}
	return nil
}

func (r *runner) all(ctx context.Context) error {
	for {
		item, err := r.script.Next()
		if errors.Is(err, io.EOF) {
			if err := r.flush(ctx, nil); err != nil {
				return err
			}
			r.progress(0)
			return nil
		}
		if err != nil {
			return err
		}
		switch item.Kind {
		case Connect:
			err = r.connect(item)
		case Copy, Statement:
			err = r.step(ctx, item)
		}
		if err != nil {
			return err
		}
	}
}

// connect accepts the database that is connected anyway.
func (r *runner) connect(item *Item) error {
	want := cmp.Or(r.opts.Database, r.conn.Config().Database)
	if item.Database == want {
		return nil
	}
	return &RefusedError{
		Line: item.Line, SQL: `\connect ` + strconv.Quote(item.Database), Reason: "the script is run in the database " + strconv.Quote(want),
		Remedy: "make the dump without --create, or remove the line",
	}
}

// step judges a statement and lets it be run.
func (r *runner) step(ctx context.Context, item *Item) error {
	v := r.rules.judge(item.SQL)
	switch v.action {
	case refuse:
		return &RefusedError{Line: item.Line, SQL: beginning(item.SQL), Reason: v.reason, Outside: v.outside}
	case skip:
		if !v.quiet {
			r.note(item, v.reason)
		}
		return nil
	}
	if item.Kind == Copy {
		return r.copy(ctx, item)
	}
	if v.note != "" {
		r.note(item, v.note)
	}
	if v.action == run && !v.setting {
		if r.size+len(item.SQL) > messageBytes || len(r.pending) >= messageStatements {
			if err := r.flush(ctx, nil); err != nil {
				return err
			}
		}
		r.pending = append(r.pending, item)
		r.size += len(item.SQL)
		return nil
	}
	if err := r.flush(ctx, nil); err != nil {
		return err
	}
	if v.action == try {
		if err := r.try(ctx, item, v); err != nil {
			return err
		}
	} else {
		r.pending = append(r.pending, item)
		if err := r.flush(ctx, nil); err != nil {
			return err
		}
	}
	return r.follow()
}

// The savepoint of a statement that may fail.
var (
	savepoint = &Item{SQL: "SAVEPOINT tenantkeep_plainsql"}
	release   = &Item{SQL: "RELEASE SAVEPOINT tenantkeep_plainsql"}
)

// try runs a statement and goes on after an error that the verdict forgives.
func (r *runner) try(ctx context.Context, item *Item, v verdict) error {
	r.pending = append(r.pending, savepoint, item, release)
	err := r.flush(ctx, nil)
	code := pg.Code(err)
	if err == nil || !slices.Contains(v.forgive, code) && (!v.forgiveRole || !missingRole(err)) {
		return err
	}
	if err := r.exec(ctx, "ROLLBACK TO SAVEPOINT tenantkeep_plainsql; "+release.SQL); err != nil {
		return err
	}
	r.note(item, v.reason)
	return nil
}

// missingRole reports whether a statement failed because of a role that does
// not exist. The message may be in any language, the routine is not.
func missingRole(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == "42704" &&
		(strings.HasPrefix(pgErr.Routine, "get_role") || strings.HasPrefix(pgErr.Message, `role "`))
}

// note keeps what was left out, once for each reason.
func (r *runner) note(item *Item, text string) {
	if i, ok := r.notes[text]; ok {
		r.result.Notes[i].Times++
		return
	}
	r.notes[text] = len(r.result.Notes)
	r.result.Notes = append(r.result.Notes, Note{item.Line, beginning(item.SQL), text, 1})
}

// flush runs what is pending in one message. The COPY behind it, if there is
// one, is only parsed, which shows that it is one statement.
func (r *runner) flush(ctx context.Context, copying *Item) error {
	items := r.pending
	r.pending, r.size = nil, 0
	if len(items) == 0 && copying == nil {
		return nil
	}
	p := r.conn.PgConn().StartPipeline(ctx)
	for _, item := range items {
		p.SendQueryParams(item.SQL, nil, nil, nil, nil)
	}
	if copying != nil {
		p.SendPrepare("", copying.SQL, nil)
		items = append(items, copying)
	}
	err := p.Sync()
	for i := 0; i < len(items) && err == nil; i++ {
		if err = r.receive(p, items[i]); err != nil {
			err = failed(items[i], err, 0)
		}
	}
	// What is left is the answer to the statements behind a failed one.
	closeErr := p.Close()
	if err == nil && closeErr != nil {
		return closeErr
	}
	r.progress(0)
	return err
}

func (r *runner) receive(p *pgconn.Pipeline, item *Item) error {
	results, err := p.GetResults()
	if err != nil {
		return err
	}
	reader, ok := results.(*pgconn.ResultReader)
	if !ok {
		return nil // the COPY that was parsed
	}
	tag, err := reader.Close()
	if err != nil {
		return err
	}
	if item == savepoint || item == release {
		return nil
	}
	r.result.Statements++
	if tag.Insert() {
		r.stored(insertTable(item.SQL), tag.RowsAffected())
	}
	return nil
}

// insertTable is the name behind INSERT INTO; empty where WITH stands before.
func insertTable(sql string) []string {
	const enough = 1 << 10
	w := wordsOf(sql[:min(len(sql), enough)])
	if !w.skip("insert", "into") {
		return nil
	}
	return w.object()
}

// stored counts rows.
func (r *runner) stored(table []string, rows int64) {
	r.result.Rows += rows
	if n := len(table); n > 0 {
		key := [2]string{"", table[n-1]}
		if n > 1 {
			key[0] = table[n-2]
		}
		r.tables[key] += rows
	}
	r.progress(rows)
}

// copy streams the rows of a COPY.
func (r *runner) copy(ctx context.Context, item *Item) error {
	if err := r.flush(ctx, item); err != nil {
		return err
	}
	statement, _ := parseCopy(item.SQL) // judged before
	source := &copyRows{runner: r, rows: item.Rows.(*rows)}
	tag, err := r.conn.PgConn().CopyFrom(ctx, source, item.SQL)
	if readErr := source.failure(); err != nil && readErr != nil && context.Cause(ctx) == nil {
		return readErr // of which the server only repeats the words
	}
	if err != nil {
		return failed(item, err, source.rows.line)
	}
	r.result.Statements++
	r.stored(statement.table, tag.RowsAffected())
	return nil
}

// copyRows reports progress. When the connection is lost, its last Read may
// still be under way after CopyFrom has returned.
type copyRows struct {
	runner *runner
	rows   *rows
	err    error // guarded by runner.mu
}

func (c *copyRows) Read(p []byte) (int, error) {
	n, err := c.rows.Read(p)
	if err == nil {
		c.runner.progress(0)
	} else if !errors.Is(err, io.EOF) {
		c.runner.mu.Lock()
		c.err = err
		c.runner.mu.Unlock()
	}
	return n, err
}

func (c *copyRows) failure() error {
	c.runner.mu.Lock()
	defer c.runner.mu.Unlock()
	return c.err
}

// copyLine is the line of the rows in the context of an error of COPY.
var copyLine = regexp.MustCompile(`^COPY .*?, line (\d+)`)

// failed tells where a statement failed. rows is the line where the rows of a
// COPY begin.
func failed(item *Item, err error, rows int) error {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return err
	}
	line := item.Line
	if m := copyLine.FindStringSubmatch(pgErr.Where); m != nil && rows > 0 {
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = rows + n - 1
		}
	} else if pgErr.Position > 0 {
		// Counted in characters, which may be bytes as well: lines at most as
		// many as there are.
		position := 0
		for i := range item.SQL {
			if position++; position >= int(pgErr.Position) {
				line += strings.Count(item.SQL[:i], "\n")
				break
			}
		}
	}
	return &StatementError{Line: line, SQL: beginning(item.SQL), Err: err}
}

// Powers names what the role of the connection could do beyond its database by
// SQL that is built at run time, in words for people; empty if nothing is known.
func Powers(ctx context.Context, q pg.Querier) ([]string, error) {
	rows, err := q.Query(ctx, `
		SELECT power FROM pg_catalog.pg_roles r, LATERAL (VALUES
			(1, r.rolsuper, 'is a superuser, and runs programs on the server''s machine'),
			(2, NOT r.rolsuper AND pg_catalog.pg_has_role(r.oid, 'pg_execute_server_program', 'MEMBER'), 'runs programs on the server''s machine (pg_execute_server_program)'),
			(3, NOT r.rolsuper AND pg_catalog.pg_has_role(r.oid, 'pg_write_server_files', 'MEMBER'), 'writes files on the server''s machine (pg_write_server_files)'),
			(4, NOT r.rolsuper AND pg_catalog.pg_has_role(r.oid, 'pg_read_server_files', 'MEMBER'), 'reads files of the server''s machine (pg_read_server_files)'),
			(5, NOT r.rolsuper AND r.rolcreaterole, 'makes and changes roles (CREATEROLE)'),
			(6, NOT r.rolsuper AND r.rolreplication, 'reads all databases by replication (REPLICATION)')
		) v (place, has, power)
		WHERE r.rolname = session_user AND v.has ORDER BY v.place`)
	if err != nil {
		return nil, fmt.Errorf("read the rights of the role: %w", err)
	}
	powers, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read the rights of the role: %w", err)
	}
	return powers, nil
}
