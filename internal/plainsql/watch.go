package plainsql

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// Change is what a transaction did to something.
type Change string

// The changes.
const (
	Created   Change = "created"
	Altered   Change = "altered"
	Dropped   Change = "dropped"
	RowsMade  Change = "rows"         // inserted, updated or deleted
	Sequenced Change = "sequence"     // nextval or setval, which no rollback undoes
	LargeData Change = "large object" // contents of large objects
)

// Touched is something outside of a schema that a transaction touched.
type Touched struct {
	Change Change
	// Object describes it, such as "table public.client".
	Object string
	// Inserted, Updated and Deleted count the rows of a RowsMade. All are 0
	// where the server counts no rows (track_counts is off).
	Inserted, Updated, Deleted int64
}

// String is the finding in words.
func (t Touched) String() string {
	if t.Change != RowsMade {
		return t.Object + " (" + string(t.Change) + ")"
	}
	var counts []string
	for _, c := range []struct {
		n    int64
		what string
	}{{t.Inserted, "inserted"}, {t.Updated, "updated"}, {t.Deleted, "deleted"}} {
		if c.n > 0 {
			counts = append(counts, fmt.Sprintf("%d rows %s", c.n, c.what))
		}
	}
	if len(counts) == 0 {
		counts = append(counts, "rows changed")
	}
	return t.Object + " (" + strings.Join(counts, ", ") + ")"
}

// Watch finds what a transaction did outside of one schema. It looks at the
// rows of the catalogs that the transaction has written, at the locks that it
// holds, which tell what it dropped and into which tables and sequences it
// wrote, and at the counters of rows.
//
// It does not find: comments and security labels that were removed, rows
// written by an extension into another database or server (dblink), and what
// functions in C do outside of the database.
type Watch struct {
	tx, other pg.Querier
	catalogs  []catalog

	// What was so before.
	written map[place]bool
	gone    map[address]bool
	locked  map[uint32]bool
	counts  map[uint32]counts
}

// place is where a row of a catalog stands.
type place struct{ catalog, ctid string }

type counts struct{ inserted, updated, deleted int64 }

// NewWatch begins to watch the transaction of tx, whose isolation level must be
// READ COMMITTED, lest the work of others count as its own. What it did before, such as
// renaming a schema, is not reported later. other is another connection to the
// database, in no transaction, which sees it without the work of tx; it belongs
// to the watch while one of its methods runs.
func NewWatch(ctx context.Context, tx, other pg.Querier) (*Watch, error) {
	w := &Watch{tx: tx, other: other, written: map[place]bool{}, gone: map[address]bool{}, locked: map[uint32]bool{}}
	if err := w.begin(ctx); err != nil {
		return nil, fmt.Errorf("watch the transaction: %w", err)
	}
	return w, nil
}

func (w *Watch) begin(ctx context.Context) error {
	var version int
	var began, all bool
	err := w.tx.QueryRow(ctx, `
		SELECT pg_catalog.current_setting('server_version_num')::int, pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL,
			bool_and(pg_catalog.has_table_privilege(t.name, 'SELECT'))
		FROM (VALUES ('pg_catalog.pg_authid'), ('pg_catalog.pg_subscription'), ('pg_catalog.pg_user_mapping')) t (name)`).Scan(&version, &began, &all)
	if err != nil {
		return err
	}
	for _, c := range catalogs {
		if c.since <= version && (all || !c.guarded) {
			w.catalogs = append(w.catalogs, c)
		}
	}
	if began { // else it wrote nothing
		rows, err := w.own(ctx, 0)
		if err != nil {
			return err
		}
		for _, row := range rows {
			w.written[place{row.catalog, row.ctid}] = true
		}
		gone, err := w.goneObjects(ctx)
		if err != nil {
			return err
		}
		for _, a := range gone {
			w.gone[a] = true
		}
	}
	locks, err := w.writeLocks(ctx)
	if err != nil {
		return err
	}
	for _, oid := range locks {
		w.locked[oid] = true
	}
	w.counts, err = w.readCounts(ctx)
	return err
}

// Outside names everything outside of the schema that the transaction touched
// since NewWatch. Temporary objects do not count. A foreign key of the schema to
// a table elsewhere does not touch that table.
func (w *Watch) Outside(ctx context.Context, schema string) ([]Touched, error) {
	var target uint32
	err := w.tx.QueryRow(ctx, `SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1`, schema).Scan(&target)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("look outside of schema %s: %w", schema, err)
	}
	var all []Touched
	for _, look := range []func(context.Context, uint32) ([]Touched, error){w.changed, w.dropped, w.rows, w.shared} {
		found, err := look(ctx, target)
		if err != nil {
			return nil, fmt.Errorf("look outside of schema %s: %w", schema, err)
		}
		for _, t := range found {
			if !slices.ContainsFunc(all, func(other Touched) bool { return other.Object == t.Object && t.Change == Altered }) {
				all = append(all, t)
			}
		}
	}
	return all, nil
}

// address is how PostgreSQL identifies an object.
type address struct {
	class, object uint32
	column        int32
}

type ownRow struct {
	catalog, ctid string
	address
	home *uint32 // the schema; 0: none, nil: to be found out
}

// own lists the rows of the catalogs that the transaction or one of its
// subtransactions wrote, but not those of the schema with the OID target.
func (w *Watch) own(ctx context.Context, target uint32) ([]ownRow, error) {
	// An id from the other session is above all that this one has had so far.
	// Without a bound, rows that are older than the last wraparound would look
	// as if they were of the future.
	var bound string
	if err := w.other.QueryRow(ctx, `SELECT pg_catalog.pg_current_xact_id()::text`).Scan(&bound); err != nil {
		return nil, err
	}
	rows, err := w.tx.Query(ctx, ownRows(w.catalogs), bound, target)
	if err != nil {
		return nil, err
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (o ownRow, err error) {
		return o, row.Scan(&o.catalog, &o.ctid, &o.class, &o.object, &o.column, &o.home)
	})
	if err != nil {
		return nil, err
	}
	return w.unseen(ctx, list)
}

// unseen leaves out rows that the other session sees too: a frozen row keeps the
// id of the transaction that wrote it, which may be that of this one after the
// ids have gone round once.
func (w *Watch) unseen(ctx context.Context, list []ownRow) ([]ownRow, error) {
	places := map[string][]string{}
	for _, row := range list {
		places[row.catalog] = append(places[row.catalog], row.ctid)
	}
	seen := map[place]bool{}
	for catalog, ctids := range places {
		rows, err := w.other.Query(ctx, `SELECT ctid::text FROM pg_catalog.`+catalog+` WHERE ctid = ANY($1::text[]::tid[])`, ctids)
		if err != nil {
			return nil, err
		}
		var ctid string
		_, err = pgx.ForEachRow(rows, []any{&ctid}, func() error {
			seen[place{catalog, ctid}] = true
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(list, func(row ownRow) bool { return seen[place{row.catalog, row.ctid}] }), nil
}

// changed finds what was created and altered.
func (w *Watch) changed(ctx context.Context, target uint32) ([]Touched, error) {
	rows, err := w.own(ctx, target)
	if err != nil {
		return nil, err
	}
	var found []address
	var unsure []uint32    // relations of which only the row in pg_class is new
	var attached []address // what comments and labels are on
	for _, row := range rows {
		switch {
		case w.written[place{row.catalog, row.ctid}]:
		case row.catalog == "pg_class":
			unsure = append(unsure, row.object)
		case row.home == nil:
			attached = append(attached, row.address)
		default:
			found = append(found, row.address)
		}
	}
	homes, err := w.homes(ctx, w.tx, attached)
	if err != nil {
		return nil, err
	}
	for _, a := range attached {
		if !homes[address{class: a.class, object: a.object}].inside(target) {
			found = append(found, a)
		}
	}
	differing, err := w.differing(ctx, unsure)
	if err != nil {
		return nil, err
	}
	found = append(found, differing...)
	// A table that was changed in many ways is named once.
	slices.SortFunc(found, func(a, b address) int {
		return slices.Compare([]int64{int64(a.class), int64(a.object), int64(a.column)}, []int64{int64(b.class), int64(b.object), int64(b.column)})
	})
	found = slices.CompactFunc(found, func(a, b address) bool { return a.class == b.class && a.object == b.object })
	for i := range found {
		found[i].column = 0
	}
	before, err := describe(ctx, w.other, found)
	if err != nil {
		return nil, err
	}
	now, err := describe(ctx, w.tx, found)
	if err != nil {
		return nil, err
	}
	var touched []Touched
	for i := range found {
		switch {
		case now[i] != "" && before[i] != "":
			touched = append(touched, Touched{Change: Altered, Object: now[i]})
		case now[i] != "":
			touched = append(touched, Touched{Change: Created, Object: now[i]})
		}
	}
	return touched, nil
}

// differing returns those relations whose row in pg_class says something else
// than before. A foreign key that points at a table marks it as one with
// triggers, and statistics change without anybody's doing.
func (w *Watch) differing(ctx context.Context, relations []uint32) ([]address, error) {
	if len(relations) == 0 {
		return nil, nil
	}
	read := func(q pg.Querier) (map[uint32]string, error) {
		rows, err := q.Query(ctx, `
			SELECT oid, (to_jsonb(c) - ARRAY['relhastriggers', 'relhasindex', 'relpages', 'reltuples', 'relallvisible', 'relallfrozen', 'relfrozenxid', 'relminmxid'])::text
			FROM pg_catalog.pg_class c WHERE oid = ANY($1)`, relations)
		if err != nil {
			return nil, err
		}
		said := map[uint32]string{}
		var oid uint32
		var text string
		_, err = pgx.ForEachRow(rows, []any{&oid, &text}, func() error {
			said[oid] = text
			return nil
		})
		return said, err
	}
	before, err := read(w.other)
	if err != nil {
		return nil, err
	}
	now, err := read(w.tx)
	if err != nil {
		return nil, err
	}
	var found []address
	for oid, text := range now {
		if before[oid] != text {
			found = append(found, address{class: classOfRelations, object: oid})
		}
	}
	return found, nil
}

// classOfRelations is the OID of pg_class, the same in every database.
const classOfRelations = 1259

// describe describes objects for people; those that are not there are empty.
func describe(ctx context.Context, q pg.Querier, objects []address) ([]string, error) {
	if len(objects) == 0 {
		return nil, nil
	}
	var classes, ids []uint32
	var columns []int32
	for _, o := range objects {
		classes, ids, columns = append(classes, o.class), append(ids, o.object), append(columns, o.column)
	}
	// The name of a relation in full, whatever the search_path.
	rows, err := q.Query(ctx, `
		SELECT coalesce((SELECT type || ' ' || identity FROM pg_catalog.pg_identify_object(o.class, o.id, o.col)),
			pg_catalog.pg_describe_object(o.class, o.id, o.col), '')
		FROM unnest($1::oid[], $2::oid[], $3::int4[]) WITH ORDINALITY o (class, id, col, place) ORDER BY place`, classes, ids, columns)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// dropped finds what the transaction removed: it holds an exclusive lock on it,
// and only the other session still sees it.
func (w *Watch) dropped(ctx context.Context, target uint32) ([]Touched, error) {
	var gone []address
	all, err := w.goneObjects(ctx)
	if err != nil {
		return nil, err
	}
	for _, a := range all {
		if !w.gone[a] {
			gone = append(gone, a)
		}
	}
	if len(gone) == 0 {
		return nil, nil
	}
	before, err := describe(ctx, w.other, gone)
	if err != nil {
		return nil, err
	}
	homes, err := w.homes(ctx, w.other, gone)
	if err != nil {
		return nil, err
	}
	var touched []Touched
	for i, text := range before {
		if text != "" && !homes[gone[i]].inside(target) {
			touched = append(touched, Touched{Change: Dropped, Object: text})
		}
	}
	return touched, nil
}

// goneObjects lists what the transaction has locked as DROP does and does not
// see any more. Some of it the transaction has made itself.
func (w *Watch) goneObjects(ctx context.Context) ([]address, error) {
	rows, err := w.tx.Query(ctx, `
		SELECT DISTINCT CASE locktype WHEN 'relation' THEN $1::oid ELSE classid END, CASE locktype WHEN 'relation' THEN relation ELSE objid END
		FROM pg_catalog.pg_locks
		WHERE pid = pg_catalog.pg_backend_pid() AND mode = 'AccessExclusiveLock' AND locktype IN ('relation', 'object') AND granted
		AND database IN (0, (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()))`, classOfRelations)
	if err != nil {
		return nil, err
	}
	locked, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (a address, err error) {
		return a, row.Scan(&a.class, &a.object)
	})
	if err != nil {
		return nil, err
	}
	now, err := describe(ctx, w.tx, locked)
	if err != nil {
		return nil, err
	}
	var gone []address
	for i, a := range locked {
		if now[i] == "" {
			gone = append(gone, a)
		}
	}
	return gone, nil
}

// home is where an object belongs. The zero value is the database.
type home struct {
	schema uint32
	apart  bool // temporary, or part of something that is reported instead
}

func (h home) inside(target uint32) bool { return h.apart || target != 0 && h.schema == target }

// homes finds where objects belong, as a session sees them. Those of no schema
// are left out.
func (w *Watch) homes(ctx context.Context, q pg.Querier, objects []address) (map[address]home, error) {
	if len(objects) == 0 {
		return nil, nil
	}
	var classes, ids []uint32
	for _, o := range objects {
		classes, ids = append(classes, o.class), append(ids, o.object)
	}
	rows, err := q.Query(ctx, homesOf(w.catalogs), classes, ids)
	if err != nil {
		return nil, err
	}
	homes := map[address]home{}
	var a address
	var h home
	_, err = pgx.ForEachRow(rows, []any{&a.class, &a.object, &h.schema, &h.apart}, func() error {
		homes[a] = h
		return nil
	})
	return homes, err
}

// writeLocks lists the relations that the transaction opened for writing.
func (w *Watch) writeLocks(ctx context.Context) ([]uint32, error) {
	rows, err := w.tx.Query(ctx, `
		SELECT DISTINCT relation FROM pg_catalog.pg_locks
		WHERE pid = pg_catalog.pg_backend_pid() AND mode = 'RowExclusiveLock' AND locktype = 'relation' AND granted`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[uint32])
}

func (w *Watch) readCounts(ctx context.Context) (map[uint32]counts, error) {
	rows, err := w.tx.Query(ctx, `
		SELECT relid, n_tup_ins, n_tup_upd, n_tup_del FROM pg_catalog.pg_stat_xact_user_tables
		WHERE n_tup_ins + n_tup_upd + n_tup_del > 0`)
	if err != nil {
		return nil, err
	}
	all := map[uint32]counts{}
	var oid uint32
	var c counts
	_, err = pgx.ForEachRow(rows, []any{&oid, &c.inserted, &c.updated, &c.deleted}, func() error {
		all[oid] = c
		return nil
	})
	return all, err
}

// rows finds rows, sequences and large objects that were written.
func (w *Watch) rows(ctx context.Context, target uint32) ([]Touched, error) {
	after, err := w.readCounts(ctx)
	if err != nil {
		return nil, err
	}
	locks, err := w.writeLocks(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := w.tx.Query(ctx, `
		SELECT c.oid, c.relkind::text, c.relname = 'pg_largeobject' AND c.relnamespace = 'pg_catalog'::regnamespace,
			pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.current_setting('track_counts')::bool
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.oid = ANY($1) AND c.relnamespace <> $2 AND c.relkind IN ('r', 'p', 'm', 'f', 'S')
		AND (n.nspname !~ '^pg_(toast|temp|catalog)' AND n.nspname <> 'information_schema' OR c.relname = 'pg_largeobject')
		ORDER BY 4`, locks, target)
	if err != nil {
		return nil, err
	}
	var touched []Touched
	var oid uint32
	var kind, name string
	var large, counting bool
	_, err = pgx.ForEachRow(rows, []any{&oid, &kind, &large, &name, &counting}, func() error {
		c := after[oid]
		was := w.counts[oid]
		c.inserted, c.updated, c.deleted = c.inserted-was.inserted, c.updated-was.updated, c.deleted-was.deleted
		switch {
		case large && !w.locked[oid]:
			touched = append(touched, Touched{Change: LargeData, Object: "large objects"})
		case large:
		case kind == "S" && !w.locked[oid]:
			touched = append(touched, Touched{Change: Sequenced, Object: "sequence " + name})
		case c != (counts{}), !w.locked[oid] && (!counting && kind != "S" || kind == "f"):
			touched = append(touched, Touched{RowsMade, "table " + name, c.inserted, c.updated, c.deleted})
		}
		return nil
	})
	return touched, err
}

// shared finds changes in what roles without special rights may see only
// through views. Their contents are small, so that they are compared; what
// another session changes meanwhile is seen by a second look at them.
func (w *Watch) shared(ctx context.Context, _ uint32) ([]Touched, error) {
	read := func(q pg.Querier) (map[string]bool, error) {
		rows, err := q.Query(ctx, sharedState)
		if err != nil {
			return nil, err
		}
		lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
		set := map[string]bool{}
		for _, line := range lines {
			set[line] = true
		}
		return set, err
	}
	before, err := read(w.other)
	if err != nil {
		return nil, err
	}
	now, err := read(w.tx)
	if err != nil {
		return nil, err
	}
	after, err := read(w.other)
	if err != nil {
		return nil, err
	}
	objects := map[string]bool{}
	differs := func(line string) {
		object, _, _ := strings.Cut(line, "\x01")
		objects[object] = true
	}
	for line := range now {
		if !before[line] && !after[line] {
			differs(line)
		}
	}
	for line := range before {
		if after[line] && !now[line] {
			differs(line)
		}
	}
	var touched []Touched
	for object := range objects {
		touched = append(touched, Touched{Change: Altered, Object: object})
	}
	slices.SortFunc(touched, func(a, b Touched) int { return strings.Compare(a.Object, b.Object) })
	return touched, nil
}
