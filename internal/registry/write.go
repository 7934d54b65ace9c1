package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// write is what is done to one row.
type write struct {
	table    *target
	row      string
	set      [][2]string // of an update: columns, and their values in SQL
	where    string      // of an update
	values   []*string   // of an insert, by column of the backup; nil: it is an update
	optional bool        // where it cannot be done it is reported, and that is all
}

// statement does one or more writes.
type statement struct {
	writes []*write
	err    error // of the last attempt
	parked bool  // its row was given other values for the time being
}

// sql is the statement. Rows of one table are put back at once, since they may
// refer to one another.
func (s *statement) sql() string {
	t := s.writes[0].table
	if w := s.writes[0]; w.values == nil {
		var set []string
		for _, c := range w.set {
			set = append(set, pg.Identifier(c[0])+" = "+c[1])
		}
		return fmt.Sprintf("UPDATE %s SET %s WHERE %s", t.sql(), strings.Join(set, ", "), w.where)
	}
	var columns, rows []string
	for _, i := range t.shared {
		columns = append(columns, pg.Identifier(t.Columns[i].Name))
	}
	for _, w := range s.writes {
		var list []string
		for _, i := range t.shared {
			list = append(list, literal(w.values[i]))
		}
		rows = append(rows, "("+strings.Join(list, ", ")+")")
	}
	return fmt.Sprintf("INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE VALUES %s", t.sql(), strings.Join(columns, ", "), strings.Join(rows, ", "))
}

// failure is the error of the last attempt, with the rows.
func (s *statement) failure() error {
	row := s.writes[0].row
	if n := len(s.writes) - 1; n > 0 {
		row += fmt.Sprintf(" and %d more", n)
	}
	return &PutError{Table: s.writes[0].table.title(), Row: row, Err: s.err}
}

// statements are those of the writes that must be done, or of the optional ones,
// which are done one by one.
func (p *putting) statements(optional bool) (list []*statement) {
	inserts := map[*target]*statement{}
	for i := range p.writes {
		w := &p.writes[i]
		if w.optional != optional {
			continue
		}
		if s := inserts[w.table]; s != nil && w.values != nil {
			s.writes = append(s.writes, w)
			continue
		}
		s := &statement{writes: []*write{w}}
		list = append(list, s)
		if w.values != nil && !optional {
			inserts[w.table] = s
		}
	}
	return list
}

// do does the writes. Those that must be done come first, with all constraints
// that can wait; the others must fit into what is there then.
func (p *putting) do(ctx context.Context, tx pgx.Tx) error {
	if _, err := tx.Exec(ctx, "SET LOCAL search_path TO DEFAULT; SET CONSTRAINTS ALL DEFERRED"); err != nil {
		return fmt.Errorf("put the registration back: %w", err)
	}
	left, err := p.attempt(ctx, tx, p.statements(false))
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return left[0].failure()
	}
	if _, err := tx.Exec(ctx, "SET CONSTRAINTS ALL IMMEDIATE"); err != nil {
		e := &PutError{Err: err}
		if failure, ok := errors.AsType[*pgconn.PgError](err); ok {
			e.Table = title(failure.SchemaName, failure.TableName)
		}
		return e
	}
	if left, err = p.attempt(ctx, tx, p.statements(true)); err != nil {
		return err
	}
	for _, s := range left {
		p.note("%v", s.failure())
	}
	if _, err := tx.Exec(ctx, "SET LOCAL search_path = ''"); err != nil {
		return fmt.Errorf("put the registration back: %w", err)
	}
	return nil
}

// attempt tries statements, and those again that fail once others are done: rows
// may refer to rows of tables that come later, or take over a value that another
// one gives up. It returns those that cannot be done.
func (p *putting) attempt(ctx context.Context, tx pgx.Tx, pending []*statement) (left []*statement, err error) {
	for done := true; len(pending) > 0; pending = left {
		if !done {
			if done, err = p.park(ctx, tx, pending); err != nil || !done {
				return pending, err
			}
		}
		done, left = false, nil
		for _, s := range pending {
			if err := p.try(ctx, tx, s); err != nil {
				return nil, err
			}
			if s.err != nil {
				left = append(left, s)
				continue
			}
			done = true
			for _, w := range s.writes {
				p.count(w)
			}
		}
	}
	return pending, nil
}

// park gives a row some other value where another one must have its own first, as
// where two have exchanged them. It reports whether it found such a row.
func (p *putting) park(ctx context.Context, tx pgx.Tx, pending []*statement) (bool, error) {
	for _, s := range pending {
		const uniqueViolation = "23505"
		failure, ok := errors.AsType[*pgconn.PgError](s.err)
		if w := s.writes[0]; !ok || failure.Code != uniqueViolation || w.values != nil || s.parked {
			continue
		}
		s.parked = true
		elsewhere, err := s.elsewhere(ctx, tx)
		if err != nil {
			return false, err
		}
		if elsewhere == nil {
			continue
		}
		parking := &statement{writes: []*write{elsewhere}}
		if err := p.try(ctx, tx, parking); err != nil || parking.err == nil {
			return err == nil, err
		}
	}
	return false, nil
}

// elsewhere is an update of the same row that sets its columns of unique indexes to
// values that no row has; nil: there are none.
func (s *statement) elsewhere(ctx context.Context, tx pgx.Tx) (*write, error) {
	w := s.writes[0]
	var columns []string
	for _, c := range w.set {
		columns = append(columns, c[0])
	}
	rows, err := tx.Query(ctx, `
		SELECT DISTINCT a.attname::text, CASE WHEN NOT a.attnotnull THEN 'NULL' WHEN t.typcategory = 'S' THEN quote_literal(left(md5(random()::text), 12))
			ELSE format('(SELECT min(%1$I) - 1 FROM %2$s)', a.attname, a.attrelid::regclass) END
		FROM pg_catalog.pg_index x JOIN pg_catalog.pg_attribute a ON a.attrelid = x.indrelid AND a.attnum = ANY(x.indkey)
		JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
		WHERE x.indrelid = $1 AND x.indisunique AND a.attname = ANY($2) AND (NOT a.attnotnull OR t.typcategory IN ('S', 'N'))`, w.table.found.oid, columns)
	if err != nil {
		return nil, fmt.Errorf("look at the indexes of %s: %w", w.table.title(), err)
	}
	set, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (c [2]string, err error) { return c, r.Scan(&c[0], &c[1]) })
	if err != nil || len(set) == 0 {
		return nil, err
	}
	return &write{table: w.table, row: w.row, set: set, where: w.where}, nil
}

func (p *putting) count(w *write) {
	p.done = append(p.done, w)
	switch {
	case w.values == nil:
		p.report.Updated++
	default:
		p.report.Inserted++
	}
	if w.optional {
		p.note("%s: row %s was missing and is put back beside the others", w.table.title(), w.row)
	}
}

var (
	errKeptOut = errors.New("a trigger or a rule of the table kept it out")
	errOrphan  = errors.New("what it refers to is not put back")
)

// try runs a statement. That the server refuses its rows is in the statement.
func (p *putting) try(ctx context.Context, tx pgx.Tx, s *statement) error {
	if w := s.writes[0]; w.optional && p.isOrphan(w) {
		s.err = errOrphan
		return nil
	}
	s.err = pgx.BeginFunc(ctx, tx, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, s.sql())
		if err == nil && tag.RowsAffected() != int64(len(s.writes)) {
			err = errKeptOut
		}
		return err
	})
	if s.err == nil || errors.Is(s.err, errKeptOut) {
		return nil
	}
	const integrity, raised = "23", "P0"
	if failure, ok := errors.AsType[*pgconn.PgError](s.err); ok && (strings.HasPrefix(failure.Code, integrity) || strings.HasPrefix(failure.Code, raised)) {
		return nil
	}
	return s.failure()
}

// isOrphan reports whether a row refers to one that is to be put back and was not
// yet.
func (p *putting) isOrphan(w *write) bool {
	if w.table.Refers == nil || w.values == nil {
		return false
	}
	parent, key := p.parent(w.table), w.values[w.table.place(w.table.Column)]
	return slices.ContainsFunc(p.writes, func(o write) bool {
		return o.table == parent && o.values != nil && same(o.values[parent.place(w.table.Refers.Column)], key) &&
			!slices.ContainsFunc(p.done, func(d *write) bool { return d.table == o.table && d.row == o.row })
	})
}
