package restore

import (
	"context"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
)

// mayFreeze reports whether tables may be loaded frozen, which locks them for as
// long as it takes. Nothing else looks at them meanwhile, unless a function does
// that rows of another table are checked or computed with.
func (r *run) mayFreeze(ctx context.Context) (bool, error) {
	var schemas []string
	big := false
	for _, u := range r.alive() {
		schemas = append(schemas, u.madeSchemas()...)
		big = big || u.bytes() >= bigTable
	}
	if !big {
		return false, nil
	}
	s := r.sessions[0]
	if err := s.revive(ctx); err != nil {
		return false, err
	}
	var calls bool
	err := s.conn.QueryRow(ctx, `
		WITH made AS (
			SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = ANY($1)
		), expression AS (
			SELECT 'pg_catalog.pg_constraint'::regclass AS class, oid AS object FROM pg_catalog.pg_constraint
			WHERE contype = 'c' AND (contypid <> 0 OR connamespace IN (SELECT oid FROM made))
			UNION ALL
			SELECT 'pg_catalog.pg_attrdef'::regclass, f.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attrdef f ON f.adrelid = c.oid
			JOIN pg_catalog.pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum
			WHERE a.attgenerated <> '' AND c.relnamespace IN (SELECT oid FROM made)
			UNION ALL
			SELECT 'pg_catalog.pg_class'::regclass, oid FROM pg_catalog.pg_class WHERE relkind = 'p' AND relnamespace IN (SELECT oid FROM made)
		)
		SELECT EXISTS (SELECT FROM expression e
			JOIN pg_catalog.pg_depend d ON d.classid = e.class AND d.objid = e.object
			LEFT JOIN pg_catalog.pg_operator o ON d.refclassid = 'pg_catalog.pg_operator'::regclass AND o.oid = d.refobjid
			JOIN pg_catalog.pg_proc p ON p.oid = CASE WHEN d.refclassid = 'pg_catalog.pg_proc'::regclass THEN d.refobjid ELSE o.oprcode END
			JOIN pg_catalog.pg_language l ON l.oid = p.prolang
			WHERE l.lanname NOT IN ('internal', 'c'))`, schemas).Scan(&calls)
	if err != nil {
		return false, fmt.Errorf("look for functions that rows are checked with: %w", err)
	}
	return !calls, nil
}

// findFrozen finds the tables of a unit that are loaded frozen, and their frames:
// by one session, in the transaction that empties the table, as PostgreSQL asks
// for COPY FREEZE. Nobody has to look up any more then whether the transaction
// was committed that wrote the rows, and to note it in every page: neither the
// building of indexes and the comparison, nor VACUUM later.
func (l *loading) findFrozen(ctx context.Context) (map[*manifest.Table][]int, error) {
	u := l.unit
	if u.inUse != nil || u.objects != nil { // some of its tables are in use
		return nil, nil
	}
	frames := map[*manifest.Table][]int{}
	for i := range u.file.Index.Tables {
		t := &u.file.Index.Tables[i]
		if t.Bytes >= bigTable && l.forOne(t) && t.Condition == "" && !u.isTextual(t) {
			frames[t] = nil
		}
	}
	for i, places := range l.places {
		t := places[0].table
		_, wanted := frames[t]
		mixed := slices.ContainsFunc(places, func(p place) bool { return p.table != t })
		if wanted && !mixed && u.file.Index.Frames[i].Size <= wholeFrame {
			frames[t] = append(frames[t], i)
			continue
		}
		for _, p := range places {
			delete(frames, p.table)
		}
	}
	for _, list := range frames {
		slices.Sort(list)
	}
	return frames, l.keepPlain(ctx, frames)
}

// forOne reports whether one session should load a table. With more than its
// share of all rows, the others would wait for it longer than frozen rows save;
// a little more is made up for by indexes, which the others build meanwhile.
func (l *loading) forOne(t *manifest.Table) bool {
	jobs := int64(l.run.Jobs)
	return jobs*jobs*t.Bytes <= (jobs+1)*l.total
}

// keepPlain keeps of the tables those that PostgreSQL lets be frozen, and that
// have nothing which would notice that they are emptied.
func (l *loading) keepPlain(ctx context.Context, frames map[*manifest.Table][]int) error {
	if len(frames) == 0 {
		return nil
	}
	s := l.run.sessions[0]
	if err := s.revive(ctx); err != nil {
		return err
	}
	var schemas, names []string
	for t := range frames {
		schemas, names = append(schemas, l.unit.place(l.unit.tableSchema(t))), append(names, t.Name)
	}
	rows, err := s.conn.Query(ctx, `
		SELECT n.nspname::text, c.relname::text
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_am m ON m.oid = c.relam
		WHERE c.relkind = 'r' AND m.amname = 'heap' AND NOT c.relhastriggers AND pg_catalog.pg_relation_size(c.oid) = 0
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid) -- relhasindex stays after readBack
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE c.oid IN (i.inhrelid, i.inhparent))
		AND (n.nspname, c.relname) IN (SELECT s, t FROM unnest($1::text[], $2::text[]) x (s, t))
		AND (n.nspname, c.relname) NOT IN (SELECT schemaname, tablename FROM pg_catalog.pg_publication_tables)`, schemas, names)
	if err != nil {
		return fmt.Errorf("look for tables to be frozen: %w", err)
	}
	plain := map[tableKey]bool{}
	var key tableKey
	_, err = pgx.ForEachRow(rows, []any{&key.schema, &key.name}, func() error {
		plain[key] = true
		return nil
	})
	if err != nil {
		return fmt.Errorf("look for tables to be frozen: %w", err)
	}
	for t := range frames {
		if !plain[tableKey{l.unit.place(l.unit.tableSchema(t)), t.Name}] {
			delete(frames, t)
		}
	}
	return nil
}

// table is the task for a table that is loaded frozen. Where it turns out that it
// cannot be, the tasks for its frames follow.
func (l *loading) table(t *manifest.Table, frames []int) task {
	u := l.unit
	read := func(ctx context.Context, part int, buffer []byte) ([]byte, error) {
		return l.readFrame(ctx, frames[part], buffer)
	}
	run := func(ctx context.Context, s *session) ([]task, error) {
		f := &freezing{loading: l, table: t, frames: frames}
		frozen, err := f.load(ctx, s)
		if err != nil {
			return nil, fmt.Errorf("load rows: %w", err)
		}
		if frozen {
			return l.loaded(frames...), nil
		}
		var tasks []task
		for _, i := range frames {
			tasks = append(tasks, l.frame(i))
		}
		return tasks, nil
	}
	return task{unit: u, size: t.Bytes, table: t, most: 1, read: read, parts: len(frames), run: run}
}

// freezing is the load of one table.
type freezing struct {
	*loading
	table  *manifest.Table
	frames []int
}

// load loads the table. A table that it reports as not frozen is as it was: the
// server does not let it be emptied, or takes no frozen rows, or rows are there
// that are not of this restore.
func (f *freezing) load(ctx context.Context, s *session) (frozen bool, err error) {
	for {
		binary := f.unit.format(f.table) != nil
		empty, err := f.empty(ctx, s)
		if err == nil && empty {
			err = f.copy(ctx, s)
		}
		s.leave(ctx)
		switch {
		case err == nil:
			return empty, nil
		case !s.refused(ctx, err):
			return false, err
		case !empty || !binary:
			return false, nil
		}
		// As text the rows go in as they are, or the server says what is wrong
		// with them.
		f.unit.asText(f.table)
		if err := s.take(ctx, 0); err != nil {
			return false, err
		}
	}
}

// empty begins the transaction and empties the table, unless it has rows.
func (f *freezing) empty(ctx context.Context, s *session) (bool, error) {
	name := f.unit.qualified(f.table)
	results, err := s.conn.PgConn().Exec(ctx, "BEGIN ISOLATION LEVEL READ COMMITTED; LOCK TABLE ONLY "+name+"; SELECT FROM ONLY "+name+" LIMIT 1").ReadAll()
	if err != nil || len(results[len(results)-1].Rows) > 0 {
		return false, err
	}
	_, err = s.conn.PgConn().Exec(ctx, "TRUNCATE ONLY "+name).ReadAll()
	return err == nil, err
}

// copy copies the rows of all frames, of which the session has read the first,
// and commits.
func (f *freezing) copy(ctx context.Context, s *session) (err error) {
	var size, rows int64
	defer func() {
		if err != nil {
			f.run.Progress.Add(-size, -rows)
		}
	}()
	for part, frame := range f.frames {
		if part > 0 {
			if err := s.take(ctx, part); err != nil {
				return err
			}
		}
		for chunk := range slices.Chunk(f.places[frame], messageStatements) {
			if f.unit.failed() {
				return nil // without a commit
			}
			m := f.unit.message(chunk, s.buffer, "FREEZE")
			if err := runCopies(ctx, s.conn, "", m.copies, ""); err != nil {
				return err
			}
			f.run.Progress.Add(m.size, m.rows)
			size, rows = size+m.size, rows+m.rows
		}
	}
	_, err = s.conn.PgConn().Exec(ctx, "COMMIT").ReadAll()
	return err
}
