package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// Mode says what a restore does with the registration of a tenant.
type Mode string

// The modes. The empty one is Keep.
const (
	Keep      Mode = "keep"      // rows that are missing are put back; others stay as they are
	Overwrite Mode = "overwrite" // rows that differ are overwritten too; none is deleted
	Skip      Mode = "skip"      // nothing is looked at
)

// Report is how the registration in a backup compares with that in the database,
// and what of it was put back.
type Report struct {
	Inserted, Updated int          // rows
	Differences       []Difference // that are left
	Notes             []string     // what else a person should know
}

// Changed reports whether rows were changed.
func (r *Report) Changed() bool { return r.Inserted+r.Updated > 0 }

// Difference is a column, or a whole row, that the backup and the database do
// not have alike.
type Difference struct {
	Table string // with its schema
	Row   string // its key, such as id=7
	Only  Side   // not empty: the whole row is only there
	// Column and its values; nil is NULL.
	Column       string
	Backup, Live *string
}

// Side is where a row is.
type Side string

// The sides.
const (
	InBackup   Side = "backup"
	InDatabase Side = "database"
)

// String says what differs.
func (d Difference) String() string {
	switch d.Only {
	case InBackup:
		return fmt.Sprintf("%s %s is only in the backup", d.Table, d.Row)
	case InDatabase:
		return fmt.Sprintf("%s %s is only in the database", d.Table, d.Row)
	}
	return fmt.Sprintf("%s %s: %s is %s, in the backup %s", d.Table, d.Row, d.Column, shown(d.Live), shown(d.Backup))
}

func shown(value *string) string {
	const longest = 60
	if value == nil {
		return "NULL"
	}
	if runes := []rune(*value); len(runes) > longest {
		return strconv.Quote(string(runes[:longest]) + "…")
	}
	return strconv.Quote(*value)
}

// PutError is a row that cannot be put back, or cannot be overwritten.
type PutError struct {
	Table, Row string
	Err        error
}

// Error says which, and what the server says about it.
func (e *PutError) Error() string {
	text := e.Err.Error()
	if failure, ok := errors.AsType[*pgconn.PgError](e.Err); ok {
		text = failure.Message
		if failure.Detail != "" {
			text += " (" + strings.TrimSuffix(failure.Detail, ".") + ")"
		}
	}
	return fmt.Sprintf("%s, which registers the tenant, cannot be put back: %s", strings.TrimSpace("row "+e.Row+" of "+e.Table), text)
}

// Hint says what to do.
func (e *PutError) Hint() string {
	return "mend it there, or restore the tenant without the rows that register it: --registry skip"
}

// Unwrap is the cause.
func (e *PutError) Unwrap() error { return e.Err }

// Put puts the registration of a tenant back in a transaction, as far as the mode
// says, and reports how it compares. An error leaves the transaction to be rolled
// back. A rehearsal changes nothing that a rollback would not take back.
//
// Triggers fire and constraints are checked, deferred ones too, as for any other
// session, and under the search_path that these have.
func Put(ctx context.Context, tx pgx.Tx, saved []manifest.RegistryTable, schema string, mode Mode, rehearsal bool) (*Report, error) {
	p := &putting{schema: schema, mode: mode, saved: saved}
	if err := p.compare(ctx, tx); err != nil {
		return nil, err
	}
	if len(p.writes) == 0 {
		return &p.report, nil
	}
	if err := p.do(ctx, tx); err != nil {
		return nil, err
	}
	// Once more: triggers may have changed what was put back.
	after := &putting{schema: schema, saved: saved, onlyCompare: true}
	if err := after.compare(ctx, tx); err != nil {
		return nil, err
	}
	p.report.Differences = after.report.Differences
	if rehearsal {
		return &p.report, nil
	}
	return &p.report, p.advanceSequences(ctx, tx)
}

// putting compares the registration of one tenant.
type putting struct {
	schema string
	mode   Mode
	saved  []manifest.RegistryTable
	tables []*target
	writes []write
	done   []*write
	report Report

	onlyCompare bool
}

// target is one table of it.
type target struct {
	*manifest.RegistryTable
	found  *found   // nil: it cannot be used
	key    []string // columns of the primary key, where the database has them all
	shared []int    // places of those columns that the database has too
	rows   []row    // of the tenant, in the database
	// keys lead from values of the backup to those of the database, by column.
	keys map[string]map[string]string
	// optional says that some of the rows are put back beside others, if they can be.
	optional bool
}

func (t *target) title() string { return title(t.Schema, t.Name) }

// sql is the name of the table in SQL.
func (t *target) sql() string { return pg.Identifier(t.Schema, t.Name) }

var ordinary = regexp.MustCompile(`^[a-z0-9_$]+$`)

// title is a name for people, with quotes where it takes them.
func title(names ...string) string {
	parts := make([]string, len(names))
	for i, name := range names {
		if parts[i] = name; !ordinary.MatchString(name) {
			parts[i] = pg.Identifier(name)
		}
	}
	return strings.Join(parts, ".")
}

func (p *putting) note(format string, args ...any) {
	p.report.Notes = append(p.report.Notes, fmt.Sprintf(format, args...))
}

func (p *putting) compare(ctx context.Context, q pg.Querier) error {
	var schemas, names []string
	for _, t := range p.saved {
		schemas, names = append(schemas, t.Schema), append(names, t.Name)
	}
	list, err := describe(ctx, q, schemas, names)
	if err != nil {
		return err
	}
	for i := range p.saved {
		t := &target{RegistryTable: &p.saved[i], found: list[i], keys: map[string]map[string]string{}}
		if why := p.unusable(t); why != "" {
			t.found = nil
			if n := len(t.Rows); n > 0 {
				p.note("%s: %s; the backup has %d of its rows there", t.title(), why, n)
			}
		}
		p.tables = append(p.tables, t)
		if t.found == nil {
			continue
		}
		if err := p.compareTable(ctx, q, t); err != nil {
			return err
		}
	}
	return nil
}

// unusable says why a table of the database cannot be compared with that of the
// backup.
func (p *putting) unusable(t *target) string {
	switch {
	case t.found == nil:
		return "there is no such table"
	case t.found.kind != "r" && t.found.kind != "p":
		return "it is no table any more"
	case !t.found.readable:
		return "this role may not read it"
	case t.found.filtered:
		return "row-level security hides rows of it from this role"
	case t.found.column(t.Column) == nil:
		return fmt.Sprintf("it has no column %q any more", t.Column)
	case t.Refers != nil && p.parent(t) == nil:
		return "the table that it refers to cannot be used"
	}
	return ""
}

// parent is the table that a dependent one refers to; nil: it cannot be used.
func (p *putting) parent(t *target) *target {
	for _, o := range p.tables {
		if o.found != nil && o.Schema == t.Refers.Schema && o.Name == t.Refers.Name && o.found.column(t.Refers.Column) != nil {
			return o
		}
	}
	return nil
}

// compareTable pairs the rows of the backup with those of the database, and
// decides what is written.
func (p *putting) compareTable(ctx context.Context, q pg.Querier, t *target) error {
	var dropped []string
	for i, c := range t.Columns {
		switch now := t.found.column(c.Name); {
		case now == nil:
			dropped = append(dropped, c.Name)
		case !now.generated:
			t.shared = append(t.shared, i)
		}
	}
	if !slices.ContainsFunc(t.Key, func(name string) bool { return slices.Contains(dropped, name) }) {
		t.key = t.Key
	}
	if err := p.readTarget(ctx, q, t); err != nil {
		return err
	}
	rows := p.translated(t)
	pairs := t.pairs(rows)
	left := make([]bool, len(t.rows)) // of the database, with no twin in the backup
	for i := range left {
		left[i] = !slices.Contains(pairs, i)
	}
	for i, values := range rows {
		switch at := pairs[i]; {
		case at >= 0:
			p.compareRow(t, t.Rows[i], values, t.rows[at].values)
			continue
		case p.insertable(t, values):
			put, err := p.insert(ctx, q, t, t.Rows[i], values)
			if err != nil {
				return err
			}
			if put {
				if len(dropped) > 0 {
					p.note("%s: the table has no column %s any more, so its values of row %s are not put back", t.title(), strings.Join(dropped, ", "), t.rowName(values))
				}
				continue
			}
		}
		p.report.Differences = append(p.report.Differences, Difference{Table: t.title(), Row: t.rowName(values), Only: InBackup})
	}
	for i, is := range left {
		if is {
			p.report.Differences = append(p.report.Differences, Difference{Table: t.title(), Row: t.rowName(t.rows[i].values), Only: InDatabase})
		}
	}
	return nil
}

// readTarget reads the rows that the tenant has in a table, with the columns of
// the backup; one that the database has not is NULL.
func (p *putting) readTarget(ctx context.Context, q pg.Querier, t *target) error {
	keys := []string{p.schema}
	if t.Refers != nil {
		parent := p.parent(t)
		keys = nil
		at := parent.place(t.Refers.Column)
		for _, r := range parent.rows {
			if at >= 0 && r.values[at] != nil {
				keys = append(keys, *r.values[at])
			}
		}
	}
	now := *t.RegistryTable
	now.Columns, now.Key = nil, t.key
	for _, i := range t.shared {
		now.Columns = append(now.Columns, t.Columns[i])
	}
	list, err := readRows(ctx, q, &now, t.found.column(t.Column).Type, keys)
	if err != nil {
		return fmt.Errorf("read the registration of the tenant: %w", err)
	}
	for _, r := range list {
		if r.by == nil || !slices.Contains(keys, *r.by) {
			continue // equal for the server, but not the same
		}
		values := make([]*string, len(t.Columns))
		for n, i := range t.shared {
			values[i] = r.values[n]
		}
		t.rows = append(t.rows, row{by: r.by, values: values})
	}
	return nil
}

// place is that of a column in the rows of the backup; -1: it is not among them.
func (t *target) place(column string) int {
	return slices.IndexFunc(t.Columns, func(c manifest.RegistryColumn) bool { return c.Name == column })
}

// translated are the rows of the backup, referring to what the database has in
// place of what they refer to in the backup.
func (p *putting) translated(t *target) [][]*string {
	if t.Refers == nil {
		return t.Rows
	}
	keys := p.parent(t).keys[t.Refers.Column]
	at := t.place(t.Column)
	rows := make([][]*string, len(t.Rows))
	for i, values := range t.Rows {
		rows[i] = slices.Clone(values)
		if v := values[at]; v != nil {
			if now, ok := keys[*v]; ok {
				rows[i][at] = &now
			}
		}
	}
	return rows
}

// pairs finds for each row of the backup its twin in the database: that with the
// same key, else one that is the same but for its key, else, of a root table, the
// only one that is left. -1: it has none.
func (t *target) pairs(rows [][]*string) []int {
	pairs := make([]int, len(rows))
	for i := range pairs {
		pairs[i] = -1
	}
	match := func(same func(a, b []*string) bool) {
		for i, values := range rows {
			if pairs[i] >= 0 {
				continue
			}
			for at, r := range t.rows {
				if !slices.Contains(pairs, at) && same(values, r.values) {
					pairs[i] = at
					break
				}
			}
		}
	}
	if len(t.key) > 0 {
		match(func(a, b []*string) bool {
			return t.sameIn(a, b, func(name string) bool { return slices.Contains(t.key, name) })
		})
	}
	telling := func(name string) bool { return !slices.Contains(t.key, name) }
	if len(t.key) == 0 || slices.ContainsFunc(t.shared, func(i int) bool { return t.Columns[i].Name != t.Column && telling(t.Columns[i].Name) }) {
		match(func(a, b []*string) bool { return t.sameIn(a, b, telling) })
	}
	if t.Refers == nil && len(rows) == 1 && len(t.rows) == 1 {
		pairs[0] = 0
	}
	return pairs
}

// sameIn compares rows in those columns that both sides have and want takes.
func (t *target) sameIn(a, b []*string, want func(string) bool) bool {
	for _, i := range t.shared {
		if want(t.Columns[i].Name) && !same(a[i], b[i]) {
			return false
		}
	}
	return true
}

func same(a, b *string) bool { return a == nil && b == nil || a != nil && b != nil && *a == *b }

// insertable reports whether a row is to be put back. What it refers to must be
// there, and it must not be a second one of what only one row of the tenant is.
func (p *putting) insertable(t *target, values []*string) bool {
	if p.onlyCompare || p.mode != Overwrite && t.isSecond(values) {
		return false
	}
	if t.Refers == nil {
		return true
	}
	at := values[t.place(t.Column)]
	if at == nil {
		return false
	}
	for _, now := range p.parent(t).keys[t.Refers.Column] {
		if now == *at {
			return true
		}
	}
	return false
}

// isSecond reports whether a row alone of its tenant in the backup has a mark, such
// as is_primary, that another row has in the database: with both the application
// might not know which one is meant.
func (t *target) isSecond(values []*string) bool {
	for _, i := range t.shared {
		marked := func(values []*string) bool { return values[i] != nil && *values[i] == "t" }
		if t.Columns[i].Type != "boolean" || !marked(values) || !slices.ContainsFunc(t.rows, func(r row) bool { return marked(r.values) }) {
			continue
		}
		n := 0
		for _, r := range t.Rows {
			if marked(r) {
				n++
			}
		}
		if n == 1 {
			return true
		}
	}
	return false
}

// rowName names a row by its key.
func (t *target) rowName(values []*string) string {
	names := t.key
	if len(names) == 0 {
		names = []string{t.Column}
	}
	parts := make([]string, len(names))
	for i, name := range names {
		parts[i] = name + "="
		if at := t.place(name); at >= 0 && values[at] != nil {
			parts[i] += title(*values[at])
		}
	}
	return strings.Join(parts, ",")
}

// leads notes what rows of dependent tables refer to in the database that refer to
// this row in the backup.
func (t *target) leads(saved, now []*string) {
	for i, c := range t.Columns {
		if saved[i] == nil || now[i] == nil {
			continue
		}
		if t.keys[c.Name] == nil {
			t.keys[c.Name] = map[string]string{}
		}
		t.keys[c.Name][*saved[i]] = *now[i]
	}
}

// compareRow compares a row of the backup with its twin, and overwrites what
// differs if the mode says so: all but the key, by which others know the row.
func (p *putting) compareRow(t *target, saved, values, live []*string) {
	after := slices.Clone(live)
	var set [][2]string
	for _, i := range t.shared {
		c := t.Columns[i]
		if same(values[i], live[i]) {
			continue
		}
		isKey := slices.Contains(t.key, c.Name)
		if isKey && t.Refers != nil {
			continue // made anew, and the same in all else
		}
		if p.mode == Overwrite && !isKey && len(t.key) > 0 && !t.found.column(c.Name).always {
			set = append(set, [2]string{c.Name, literal(values[i])})
			after[i] = values[i]
			continue
		}
		p.report.Differences = append(p.report.Differences, Difference{Table: t.title(), Row: t.rowName(live), Column: c.Name, Backup: values[i], Live: live[i]})
	}
	t.leads(saved, after)
	if len(set) == 0 {
		return
	}
	var where []string
	for _, name := range t.key {
		where = append(where, pg.Identifier(name)+" = "+literal(live[t.place(name)]))
	}
	p.writes = append(p.writes, write{table: t, row: t.rowName(live), set: set, where: strings.Join(where, " AND ")})
}

// insert puts a row back, unless it is optional and cannot be. A key that another
// tenant has by now is an error.
func (p *putting) insert(ctx context.Context, q pg.Querier, t *target, saved, values []*string) (bool, error) {
	optional := p.mode != Overwrite && (len(t.rows) > 0 || t.Refers != nil && p.parent(t).optional)
	if t.Refers == nil && len(t.key) > 0 {
		err := p.free(ctx, q, t, values)
		if taken, ok := errors.AsType[*PutError](err); ok && optional {
			p.note("%v", taken)
			return false, nil
		}
		if err != nil {
			return false, err
		}
	}
	t.leads(saved, values)
	t.optional = t.optional || optional
	p.writes = append(p.writes, write{table: t, row: t.rowName(values), values: values, optional: optional})
	return true, nil
}

// free makes sure that no other tenant has the key of a row.
func (p *putting) free(ctx context.Context, q pg.Querier, t *target, values []*string) error {
	var where []string
	for _, name := range t.key {
		at := t.place(name)
		if at < 0 || values[at] == nil {
			return nil
		}
		where = append(where, "t."+pg.Identifier(name)+" = "+literal(values[at]))
	}
	var owner *string
	err := q.QueryRow(ctx, fmt.Sprintf("SELECT %s FROM %s t WHERE %s", asText(t.Column), t.sql(), strings.Join(where, " AND "))).Scan(&owner)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("look for the key %s of %s: %w", t.rowName(values), t.title(), err)
	}
	return &PutError{Table: t.title(), Row: t.rowName(values), Err: fmt.Errorf("this key belongs to %s by now", shown(owner))}
}

// literal is a value for a column, whatever its type.
func literal(value *string) string {
	if value == nil {
		return "NULL"
	}
	return pg.Literal(*value)
}

// advanceSequences lets sequences go on behind the keys that were put back. It
// never lets one go back.
func (p *putting) advanceSequences(ctx context.Context, tx pgx.Tx) error {
	type owned struct {
		Column, Sequence string
		Allowed          bool
	}
	sequences := map[*target][]owned{}
	for _, w := range p.done {
		if w.values == nil {
			continue
		}
		list, read := sequences[w.table]
		if !read {
			rows, err := tx.Query(ctx, `
				SELECT a.attname::text, q.seqrelid::regclass::text, pg_catalog.has_sequence_privilege(q.seqrelid, 'UPDATE') AND pg_catalog.has_sequence_privilege(q.seqrelid, 'SELECT')
				FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_sequence q ON q.seqrelid = pg_catalog.pg_get_serial_sequence($1, a.attname)::regclass
				WHERE a.attrelid = $2 AND a.attnum > 0 AND NOT a.attisdropped`, w.table.sql(), w.table.found.oid)
			if err != nil {
				return fmt.Errorf("look for the sequences of %s: %w", w.table.title(), err)
			}
			if list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[owned]); err != nil {
				return fmt.Errorf("look for the sequences of %s: %w", w.table.title(), err)
			}
			sequences[w.table] = list
		}
		for _, s := range list {
			at := w.table.place(s.Column)
			if at < 0 || w.values[at] == nil {
				continue
			}
			v, err := strconv.ParseInt(*w.values[at], 10, 64)
			if err != nil {
				continue // no number, so none of the sequence
			}
			if !s.Allowed {
				p.note("%s: this role may not advance sequence %s, which may give %s=%d again", w.table.title(), s.Sequence, s.Column, v)
				continue
			}
			// In one statement: others may draw from it meanwhile.
			_, err = tx.Exec(ctx, fmt.Sprintf(`SELECT pg_catalog.setval(q.seqrelid, %[2]d) FROM %[1]s s, pg_catalog.pg_sequence q
				WHERE q.seqrelid = %[3]s::regclass AND %[2]d BETWEEN q.seqmin AND q.seqmax
				AND (CASE WHEN q.seqincrement > 0 THEN %[2]d > s.last_value ELSE %[2]d < s.last_value END OR %[2]d = s.last_value AND NOT s.is_called)`,
				s.Sequence, v, pg.Literal(s.Sequence)))
			if err != nil {
				return fmt.Errorf("advance sequence %s: %w", s.Sequence, err)
			}
		}
	}
	return nil
}

// Registered reports whether the application knows a schema: by a row in a root
// table of a registration. False as well where none of these tables is there.
func Registered(ctx context.Context, q pg.Querier, saved []manifest.RegistryTable, schema string) (bool, error) {
	roots := slices.DeleteFunc(slices.Clone(saved), func(t manifest.RegistryTable) bool { return t.Refers != nil })
	for i := range roots {
		roots[i].Rows = nil
	}
	p := &putting{schema: schema, mode: Keep, saved: roots}
	if err := p.compare(ctx, q); err != nil {
		return false, err
	}
	return slices.ContainsFunc(p.tables, func(t *target) bool { return len(t.rows) > 0 }), nil
}

// Rows is how many rows a registration has.
func Rows(saved []manifest.RegistryTable) (n int) {
	for _, t := range saved {
		n += len(t.Rows)
	}
	return n
}

// ParseMode reads a mode.
func ParseMode(text string) (Mode, error) {
	m := Mode(strings.ToLower(strings.TrimSpace(cmp.Or(text, string(Keep)))))
	switch m {
	case Keep, Overwrite, Skip:
		return m, nil
	}
	return "", fmt.Errorf("%q is not one of keep, overwrite and skip", text)
}
