package restore

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize/english"
	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// Filling is the mark of somebody who fills an empty database from a backup,
// before an application starts on it: a schema without contents, whose comment
// says what was in the database before. It is made before the first object of the
// restore and goes when everything is there. Whoever finds it knows that what is
// in the database is not whole, and what of it the restore has made.
//
// Marks of single schemas, see mark, do not tell that: a restore that was killed
// between two tenants leaves one of them without any.
type Filling struct {
	fillingLabel

	oid     uint32
	name    string // of the schema
	trusted bool   // it was made by this role, the owner of the database or a superuser
	idle    time.Duration
}

// fillingLabel is what the comment says.
type fillingLabel struct {
	State state `json:"state"`
	// Source is what the database is filled from, and Host who does it.
	Source string    `json:"source"`
	Host   string    `json:"host"`
	Begun  time.Time `json:"begun"`
	Alive  time.Time `json:"alive"` // its last sign of life, by the server's clock
	// Makes are the schemas that the restore makes or fills.
	Makes  []string `json:"makes"`
	Before before   `json:"before"`
}

// before is what was in the database when it was found to be empty.
type before struct {
	Schemas    []uint32 `json:"schemas"`
	Extensions []uint32 `json:"extensions"`
	Objects    []string `json:"objects"`  // of the schemas, as objectKey has them
	Database   []string `json:"database"` // objects that belong to no schema: kind and OID
	Comment    string   `json:"comment"`  // of schema public
}

// stateStartup is the state of a Filling.
const stateStartup state = "startup"

// objectKey is an object in SQL, d being its row in pg_depend.
const objectKey = `d.classid::text || '/' || d.objid::text`

// stale is how old the last sign of life of a dead filling may be so that what it
// left is cleared without a person: containers start again within minutes, and
// after a day somebody may have begun to use what is there.
const stale = 24 * time.Hour

// Contents is what a database holds, as far as it decides whether it is filled.
type Contents struct {
	// Tables are the names of some tables, in SQL: of any schema, but none of an
	// extension. None: the database is empty.
	Tables []string
	// Others describes some of the other objects in the schemas of users, such as
	// views and functions.
	Others []string
	// Filling is the mark of a restore that is at work or has died. Nil: there is
	// none.
	Filling *Filling
}

// Empty reports whether there are neither tables nor a mark.
func (c Contents) Empty() bool { return len(c.Tables) == 0 && c.Filling == nil }

// InUse reports whether there are tables, and nothing says that they are not whole.
func (c Contents) InUse() bool { return len(c.Tables) > 0 && c.Filling == nil }

// ReadContents looks at a database at one moment.
func ReadContents(ctx context.Context, conn *pgx.Conn) (c Contents, err error) {
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		c, err = readContents(ctx, tx)
		return err
	})
	return c, err
}

// userSchema is true of a schema n that is of a user, not of the system or of an
// extension.
const userSchema = `n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND NOT EXISTS (
	SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog.pg_namespace'::regclass AND e.objid = n.oid AND e.deptype = 'e')`

// notOfExtension is true of an object d, as pg_depend has it, that belongs to no
// extension.
const notOfExtension = `NOT EXISTS (
	SELECT FROM pg_catalog.pg_depend e WHERE e.classid = d.classid AND e.objid = d.objid AND e.objsubid = 0 AND e.deptype = 'e')`

func readContents(ctx context.Context, tx pgx.Tx) (c Contents, err error) {
	c.Tables, err = readTexts(ctx, tx, `
		SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind IN ('r', 'p', 'f') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND NOT EXISTS (
			SELECT FROM pg_catalog.pg_depend e
			WHERE e.classid = 'pg_catalog.pg_class'::regclass AND e.objid = c.oid AND e.objsubid = 0 AND e.deptype = 'e')
		LIMIT 4`)
	if err == nil && len(c.Tables) == 0 {
		c.Others, err = readTexts(ctx, tx, `
			SELECT pg_catalog.pg_describe_object(d.classid, d.objid, 0) FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_namespace n ON n.oid = d.refobjid
			WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.classid NOT IN (`+besideSchema+`)
			AND `+userSchema+` AND `+notOfExtension+` ORDER BY 1 LIMIT 4`)
	}
	if err == nil {
		c.Filling, err = readFilling(ctx, tx)
	}
	if err != nil {
		return c, fmt.Errorf("look whether the database is empty: %w", err)
	}
	return c, nil
}

func readTexts(ctx context.Context, q pg.Querier, sql string, args ...any) ([]string, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

func readFilling(ctx context.Context, q pg.Querier) (*Filling, error) {
	rows, err := q.Query(ctx, `
		SELECT n.oid, n.nspname::text, pg_catalog.obj_description(n.oid, 'pg_namespace'), clock_timestamp(),
			(SELECT r.rolsuper OR r.rolname = current_user OR r.oid = d.datdba
				FROM pg_catalog.pg_roles r, pg_catalog.pg_database d WHERE r.oid = n.nspowner AND d.datname = current_database())
		FROM pg_catalog.pg_namespace n
		WHERE n.nspname ~ '__startup_' AND pg_catalog.starts_with(pg_catalog.obj_description(n.oid, 'pg_namespace'), $1) ORDER BY n.oid`, pg.LabelPrefix)
	if err != nil {
		return nil, err
	}
	var found *Filling
	var one Filling
	var comment string
	var now time.Time
	_, err = pgx.ForEachRow(rows, []any{&one.oid, &one.name, &comment, &now, &one.trusted}, func() error {
		label := fillingLabel{}
		text := strings.TrimPrefix(comment, strings.TrimSuffix(pg.LabelPrefix, "{"))
		if err := json.Unmarshal([]byte(text), &label); err != nil || label.State != stateStartup || !pg.IsOwn(one.name) || found != nil {
			return nil
		}
		f := one
		f.fillingLabel, f.idle = label, now.Sub(label.Alive)
		found = &f
		return nil
	})
	return found, err
}

// BeginFilling marks a database that is empty, before a restore makes these
// schemas in it. conn must hold the lock of startups; it is what Beat and Finish
// are called with.
func BeginFilling(ctx context.Context, conn *pgx.Conn, source, host string, makes []string) (*Filling, error) {
	f := &Filling{trusted: true}
	err := pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, func(tx pgx.Tx) error {
		there, err := readContents(ctx, tx)
		if err != nil {
			return err
		}
		if !there.Empty() {
			return filledMeanwhile(there)
		}
		f.fillingLabel = fillingLabel{State: stateStartup, Source: source, Host: host, Makes: makes}
		if f.Before, err = readBefore(ctx, tx); err != nil {
			return fmt.Errorf("note what is in the empty database: %w", err)
		}
		if err := tx.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&f.Begun); err != nil {
			return err
		}
		f.Alive = f.Begun
		if f.name, err = freeName(ctx, tx, "tenantkeep", "startup", f.Begun); err != nil {
			return err
		}
		_, err = tx.Conn().PgConn().Exec(ctx, "SET LOCAL synchronous_commit = on; CREATE SCHEMA "+pg.Identifier(f.name)+";\n"+f.comment()).ReadAll()
		if err != nil {
			return err
		}
		return tx.QueryRow(ctx, `SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1`, f.name).Scan(&f.oid)
	})
	if err != nil {
		return nil, fmt.Errorf("mark the database as being filled: %w", err)
	}
	// A table that somebody made at the same moment would be taken for one of the
	// restore. Nothing was restored yet.
	there, err := ReadContents(ctx, conn)
	if err == nil && len(there.Tables) > 0 {
		err = filledMeanwhile(there)
	}
	if err != nil {
		return nil, errors.Join(err, f.Finish(context.WithoutCancel(ctx), conn))
	}
	return f, nil
}

func filledMeanwhile(c Contents) error {
	return &FillingError{
		Err:    fmt.Errorf("the database was empty and is not any more: it has %s", some(c.Tables)),
		Advice: "somebody else works on it: nothing was restored",
	}
}

func (f *Filling) comment() string {
	text, err := json.Marshal(f.fillingLabel)
	if err != nil {
		panic(err) // strings, numbers and times
	}
	return commentSQL(f.name, strings.TrimSuffix(pg.LabelPrefix, "{")+string(text))
}

// readBefore notes what is in a database that has no tables.
func readBefore(ctx context.Context, q pg.Querier) (b before, err error) {
	err = q.QueryRow(ctx, `
		SELECT ARRAY(SELECT n.oid FROM pg_catalog.pg_namespace n WHERE `+userSchema+` ORDER BY 1),
			ARRAY(SELECT oid FROM pg_catalog.pg_extension ORDER BY 1),
			ARRAY(SELECT DISTINCT `+objectKey+` FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_namespace n ON n.oid = d.refobjid
				WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.classid NOT IN (`+besideSchema+`)
				AND `+userSchema+` AND `+notOfExtension+` ORDER BY 1),
			coalesce((SELECT pg_catalog.obj_description(oid, 'pg_namespace') FROM pg_catalog.pg_namespace WHERE nspname = 'public'), '')`).
		Scan(&b.Schemas, &b.Extensions, &b.Objects, &b.Comment)
	if err != nil {
		return b, err
	}
	objects, err := listDatabaseObjects(ctx, q, nil)
	for _, o := range objects {
		b.Database = append(b.Database, o.key())
	}
	return b, err
}

// Beat gives a sign of life.
func (f *Filling) Beat(ctx context.Context, conn *pgx.Conn) error {
	if err := conn.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&f.Alive); err != nil {
		return fmt.Errorf("renew the mark of the database: %w", err)
	}
	if _, err := conn.PgConn().Exec(ctx, f.comment()).ReadAll(); err != nil {
		return fmt.Errorf("renew the mark of the database: %w", err)
	}
	return nil
}

// Extend notes further schemas that are made or filled, before the first object of
// them is made. It must not be called during a Beat.
func (f *Filling) Extend(ctx context.Context, conn *pgx.Conn, makes []string) error {
	f.Makes = append(f.Makes, makes...)
	return f.Beat(ctx, conn)
}

// Finish removes the mark: what is in the database is whole.
func (f *Filling) Finish(ctx context.Context, conn *pgx.Conn) error {
	// Without CASCADE: the schema is empty, or somebody else uses it.
	_, err := conn.PgConn().Exec(ctx, "SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = 10000; DROP SCHEMA "+pg.Identifier(f.name)).ReadAll()
	if err != nil {
		return fmt.Errorf("remove the mark of the database, schema %q: %w", f.name, err)
	}
	return nil
}

// FillingError says that what is in a database is not cleared, or not filled.
type FillingError struct {
	Err    error
	Advice string // what to do
}

// Error says why.
func (e *FillingError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *FillingError) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *FillingError) Hint() string { return e.Advice }

// refusal is an error with what to do about a mark.
func (f *Filling) refusal(format string, args ...any) error {
	return &FillingError{
		Err: fmt.Errorf("what a startup that died has left is not cleared, since "+format, args...),
		Advice: fmt.Sprintf("look at the database: if nothing in it is needed, drop and create it; if it is to be used as it is, remove the mark with DROP SCHEMA %s",
			pg.Identifier(f.name)),
	}
}

// Clear removes from the database what was made since the mark, and then the
// mark: the database is as empty as it was before, but that grants on schema public
// and default privileges stay. It refuses where anything says
// that somebody else has used it since. tell is told what goes. A database that
// another restore or backup works on is a *pg.LockedError.
func (f *Filling) Clear(ctx context.Context, server *pg.Server, tell func(schemas []string)) error {
	conn, err := server.Connect(ctx)
	if err != nil {
		return err
	}
	defer pg.Close(conn)
	if err := pg.LockSchemas(ctx, conn, "startup"); err != nil {
		return err
	}
	if err := endOrphans(ctx, conn); err != nil {
		return err
	}
	made, err := f.made(ctx, conn)
	if err != nil {
		return err
	}
	if err := f.mayClear(ctx, conn, made); err != nil {
		return err
	}
	var names []string
	for _, s := range made {
		if s.name != f.name {
			names = append(names, s.name)
		}
	}
	tell(names)
	r := newRun(Options{})
	r.units = []*unit{{schemas: names}}
	s := &session{run: r, conn: conn}
	if err := s.set(ctx); err != nil {
		return err
	}
	if err := f.drop(ctx, s, made); err != nil {
		return fmt.Errorf("clear the database: %w", err)
	}
	there, err := ReadContents(ctx, conn)
	if err != nil {
		return err
	}
	if len(there.Tables) > 0 {
		return f.refusal("the database still has %s", some(there.Tables))
	}
	return f.Finish(ctx, conn)
}

// orphanTimeout is how long to wait for the server to end sessions.
const orphanTimeout = 30 * time.Second

// endOrphans ends the sessions of restores that died: a server notices that a
// client is gone only when it has done what that had asked for last, which may be
// to make one more table. conn holds the lock of the database, so that none of
// them is of a restore that lives.
func endOrphans(ctx context.Context, conn *pgx.Conn) error {
	for deadline := time.Now().Add(orphanTimeout); ; {
		var left int
		err := conn.QueryRow(ctx, `
			SELECT count(*) FILTER (WHERE pg_catalog.pg_terminate_backend(pid) IS NOT NULL) FROM pg_catalog.pg_stat_activity
			WHERE datname = current_database() AND usename = current_user AND application_name = '`+restoreSession+`' AND pid <> pg_catalog.pg_backend_pid()`).Scan(&left)
		if err != nil {
			return fmt.Errorf("end the sessions of a restore that died: %w", err)
		}
		if left == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return &FillingError{
				Err:    fmt.Errorf("%s of a restore that died does not end", english.Plural(left, "session", "")),
				Advice: "wait until the server has ended it: SELECT * FROM pg_stat_activity WHERE application_name = '" + restoreSession + "'",
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// madeSchema is a schema in a database with a mark.
type madeSchema struct {
	oid     uint32
	name    string
	old     bool   // it was there before
	comment string // a label, where it is tenantkeep's own
}

// own reports whether restores make such schemas on their way.
func (m madeSchema) own() bool {
	l, ok := parseLabel(m.comment)
	return ok && pg.IsOwn(m.name) && (l.State == stateStaging || l.State == stateStaged)
}

// made lists the schemas of users with what was made since the mark in them.
func (f *Filling) made(ctx context.Context, q pg.Querier) ([]madeSchema, error) {
	rows, err := q.Query(ctx, `
		SELECT n.oid, n.nspname::text, n.oid = ANY($1), coalesce(pg_catalog.obj_description(n.oid, 'pg_namespace'), '')
		FROM pg_catalog.pg_namespace n WHERE `+userSchema+` AND (n.oid <> ALL($1) OR EXISTS (
			SELECT FROM pg_catalog.pg_depend d
			WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = n.oid AND d.classid NOT IN (`+besideSchema+`)
			AND `+objectKey+` <> ALL($2) AND `+notOfExtension+`))
		ORDER BY n.nspname COLLATE "C"`, oids(f.Before.Schemas), texts(f.Before.Objects))
	if err != nil {
		return nil, fmt.Errorf("list what was made: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (s madeSchema, err error) {
		return s, row.Scan(&s.oid, &s.name, &s.old, &s.comment)
	})
	if err != nil {
		return nil, fmt.Errorf("list what was made: %w", err)
	}
	return list, nil
}

// oids and texts make lists that SQL does not take for NULL.
func oids(list []uint32) []uint32 { return append([]uint32{}, list...) }

func texts(list []string) []string { return append([]string{}, list...) }

// mayClear looks for signs that somebody else has used the database since.
func (f *Filling) mayClear(ctx context.Context, q pg.Querier, made []madeSchema) error {
	if !f.trusted {
		return f.refusal("its mark, schema %q, belongs neither to this role nor to the owner of the database: another role may have made it", f.name)
	}
	if f.idle > stale {
		return f.refusal("its last sign of life is from %s", f.Alive.UTC().Format("2006-01-02 15:04:05 UTC"))
	}
	var comment string
	err := q.QueryRow(ctx, `SELECT coalesce((SELECT pg_catalog.obj_description(oid, 'pg_namespace') FROM pg_catalog.pg_namespace WHERE oid = $1 AND nspname = $2), '')`,
		f.oid, f.name).Scan(&comment)
	if err != nil {
		return fmt.Errorf("look for the mark of the database: %w", err)
	}
	if !strings.HasPrefix(comment, pg.LabelPrefix) {
		return f.refusal("its mark is gone meanwhile")
	}
	var names []string
	for _, s := range made {
		if s.oid != f.oid && !s.own() && !slices.Contains(f.Makes, s.name) {
			return f.refusal("schema %q is none of those that it was to make from %s", s.name, f.Source)
		}
		names = append(names, s.name)
	}
	// A restore writes rows once: whoever changes them or takes them away works
	// with them.
	changed, err := readTexts(ctx, q, `
		SELECT pg_catalog.format('%I.%I', schemaname, relname) FROM pg_catalog.pg_stat_all_tables
		WHERE schemaname = ANY($1) AND n_tup_upd + n_tup_del > 0 ORDER BY 1 LIMIT 4`, names)
	if err != nil {
		return fmt.Errorf("look whether rows were changed: %w", err)
	}
	if len(changed) > 0 {
		return f.refusal("rows of %s were changed or deleted, which a restore does not", some(changed))
	}
	return nil
}

// drop removes what was made.
func (f *Filling) drop(ctx context.Context, s *session, made []madeSchema) error {
	if err := f.dropDatabaseObjects(ctx, s, firstToDrop); err != nil {
		return err
	}
	// Tenants lean on core, which therefore goes last.
	slices.SortStableFunc(made, func(a, b madeSchema) int {
		rank := func(m madeSchema) int {
			if m.old || m.name == manifest.CoreSchema {
				return 1
			}
			return 0
		}
		return cmp.Compare(rank(a), rank(b))
	})
	for _, m := range made {
		if m.oid == f.oid {
			continue
		}
		// In steps, so that no step needs more locks than the server has.
		for _, kinds := range [][]string{{"v", "m"}, {"r", "p", "f"}} {
			if err := s.dropRelations(ctx, m.oid, kinds, f.Before.Objects); err != nil {
				return err
			}
		}
		if !m.old {
			if err := s.exec(ctx, "DROP SCHEMA "+pg.Identifier(m.name)+" CASCADE"); err != nil {
				return err
			}
			continue
		}
		if err := s.dropContents(ctx, m.oid, f.Before.Objects); err != nil {
			return err
		}
	}
	extensions, err := readTexts(ctx, s.conn, `SELECT extname::text FROM pg_catalog.pg_extension WHERE oid <> ALL($1) ORDER BY oid DESC`, oids(f.Before.Extensions))
	if err != nil {
		return err
	}
	for _, name := range extensions {
		if err := s.exec(ctx, "DROP EXTENSION IF EXISTS "+pg.Identifier(name)+" CASCADE"); err != nil {
			return fmt.Errorf("drop extension %q: %w", name, err)
		}
	}
	if err := f.dropDatabaseObjects(ctx, s, lastToDrop); err != nil {
		return err
	}
	return f.resetComment(ctx, s)
}

// resetComment gives schema public the comment that it had, in the place of the
// mark of a restore.
func (f *Filling) resetComment(ctx context.Context, s *session) error {
	var comment string
	err := s.conn.QueryRow(ctx, `SELECT coalesce(pg_catalog.obj_description(oid, 'pg_namespace'), '') FROM pg_catalog.pg_namespace WHERE nspname = 'public'`).Scan(&comment)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && comment == f.Before.Comment {
		return nil
	}
	if err != nil {
		return err
	}
	return s.exec(ctx, commentSQL(manifest.CoreSchema, f.Before.Comment))
}

// dropDatabaseObjects drops those objects that belong to no schema and were not
// there before.
func (f *Filling) dropDatabaseObjects(ctx context.Context, s *session, kinds []string) error {
	list, err := listDatabaseObjects(ctx, s.conn, nil)
	if err != nil {
		return err
	}
	for _, kind := range kinds {
		for _, o := range list {
			if o.Kind != kind || slices.Contains(f.Before.Database, o.key()) {
				continue
			}
			if err := s.exec(ctx, o.drop()); err != nil && !pg.Missing(err) {
				return fmt.Errorf("drop %s: %w", o.description(), err)
			}
		}
	}
	return nil
}
