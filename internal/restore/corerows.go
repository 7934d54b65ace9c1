package restore

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// rowSwap exchanges the rows of the tables of a schema, and the values of its
// sequences, with those of another schema that has tables of the same names.
// Rows that both have stay where they are. Afterwards the other schema is the
// one that was replaced, so that the same exchange takes it back.
//
// Others go on reading, and see the old rows until the commit. Who writes, or
// adds rows that refer to these tables, waits.
type rowSwap struct {
	public   uint32 // the schema whose tables stay
	other    string // the schema that has the rows
	replaced string // what it is called afterwards
	label    label
	keys     []step // foreign keys to be made once the rows are there
	// leave are live schemas whose rows are replaced in the same transaction,
	// and take are the schemas that replace them.
	leave, take []string

	// again says that nobody has looked at the definitions: the rows come from a
	// replaced core, and foreign keys may have been added since.
	again bool

	tables []rowTable
}

// rowTable is a table whose rows are exchanged.
type rowTable struct {
	oid       uint32
	name      string
	columns   string // as in SQL
	parent    bool   // a partitioned table, in which each row finds its partition
	triggers  []string
	back      []string // puts the triggers back
	different int64    // rows on either side
}

// errMigrated says that rows do not fit into core.
var errMigrated = errors.New("the definitions of core have changed meanwhile")

// from is where the rows of the live table are.
func (t *rowTable) from() string {
	if t.parent {
		return pg.Identifier(manifest.CoreSchema, t.name)
	}
	return "ONLY " + pg.Identifier(manifest.CoreSchema, t.name)
}

// changed are the tables that got other rows.
func (c *rowSwap) changed() []string {
	var names []string
	for _, t := range c.tables {
		if t.different > 0 {
			names = append(names, pg.Identifier(manifest.CoreSchema, t.name))
		}
	}
	return names
}

// list names the columns where a list of them is expected.
func (t *rowTable) list() string {
	if t.columns == "" {
		return ""
	}
	return " (" + t.columns + ")"
}

// read finds the tables, those of the other schema and no others. A column that
// only one of them has is an error: its values would be lost.
func (c *rowSwap) read(ctx context.Context, q pg.Querier) error {
	columnsOf := func(table string) string {
		return `coalesce((SELECT string_agg(pg_catalog.format('%I %s', a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attname)
			FROM pg_catalog.pg_attribute a WHERE a.attrelid = ` + table + `.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''), '')`
	}
	rows, err := q.Query(ctx, `
		SELECT o.relname::text, `+columnsOf("l")+`, `+columnsOf("o")+`, l.oid, l.relkind = 'p', coalesce((
				SELECT string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
				WHERE a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped), ''),
			ARRAY(SELECT pg_catalog.format('ALTER TABLE ONLY %I.%I DISABLE TRIGGER %I', n.nspname, l.relname, g.tgname)
				FROM pg_catalog.pg_trigger g WHERE g.tgrelid = l.oid AND g.tgenabled IN ('A', 'R') AND NOT g.tgisinternal ORDER BY g.tgname),
			ARRAY(SELECT pg_catalog.format('ALTER TABLE ONLY %I.%I ENABLE %s TRIGGER %I', n.nspname, l.relname, CASE g.tgenabled WHEN 'A' THEN 'ALWAYS' ELSE 'REPLICA' END, g.tgname)
				FROM pg_catalog.pg_trigger g WHERE g.tgrelid = l.oid AND g.tgenabled IN ('A', 'R') AND NOT g.tgisinternal ORDER BY g.tgname)
		FROM pg_catalog.pg_class o JOIN pg_catalog.pg_namespace s ON s.oid = o.relnamespace
		LEFT JOIN pg_catalog.pg_class l ON l.relnamespace = $1 AND l.relname = o.relname AND l.relkind IN ('r', 'p')
		LEFT JOIN pg_catalog.pg_namespace n ON n.oid = l.relnamespace
		WHERE s.nspname = $2 AND o.relkind = 'r' ORDER BY l.oid NULLS FIRST, o.oid`, c.public, c.other)
	if err != nil {
		return fmt.Errorf("list the tables of core: %w", err)
	}
	c.tables = nil
	var oid *uint32
	var parent *bool
	var now, then string
	var t rowTable
	_, err = pgx.ForEachRow(rows, []any{&t.name, &now, &then, &oid, &parent, &t.columns, &t.triggers, &t.back}, func() error {
		switch {
		case oid == nil:
			return fmt.Errorf("table %s is not in core any more, or is no table: %w", pg.Identifier(t.name), errMigrated)
		case now != then:
			return fmt.Errorf("table %s has the columns (%s), the rows are of (%s): %w", pg.Identifier(t.name), now, then, errMigrated)
		}
		one := t
		one.oid, one.parent = *oid, *parent
		c.tables = append(c.tables, one)
		return nil
	})
	if err != nil {
		return fmt.Errorf("list the tables of core: %w", err)
	}
	return nil
}

// locks keep others from writing to any table of core. Who checks a foreign key
// takes a lock on its parent that these exclude too: when they are granted there
// are no rows elsewhere that refer to core and are not committed.
func (c *rowSwap) locks(ctx context.Context, q pg.Querier) ([]lock, error) {
	rows, err := q.Query(ctx, `
		SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE n.oid = $1 AND c.relkind IN ('r', 'p') AND `+notMember("pg_class", "c")+` ORDER BY c.oid`, c.public)
	if err != nil {
		return nil, fmt.Errorf("list the tables of core: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list the tables of core: %w", err)
	}
	list, err := sequenceLocks(ctx, q, c.public)
	for _, name := range names {
		list = append(list, lock{relation: name, sql: "LOCK TABLE ONLY " + name + " IN EXCLUSIVE MODE"})
	}
	return list, err
}

// sequenceLocks keep others from moving the sequences of core on. They come
// before its tables: who writes a row of a tenant takes a number first, and
// looks for the row's parent afterwards.
func sequenceLocks(ctx context.Context, q pg.Querier, public uint32) ([]lock, error) {
	rows, err := q.Query(ctx, `
		SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.format('ALTER SEQUENCE %I.%I OWNER TO %I', n.nspname, c.relname, pg_catalog.pg_get_userbyid(c.relowner))
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE n.oid = $1 AND c.relkind = 'S' AND `+notMember("pg_class", "c")+` ORDER BY c.oid`, public)
	if err != nil {
		return nil, fmt.Errorf("list the sequences of core: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (l lock, err error) { return l, row.Scan(&l.relation, &l.sql) })
	if err != nil {
		return nil, fmt.Errorf("list the sequences of core: %w", err)
	}
	return list, nil
}

// exchange is the whole of it, in a transaction that has the locks.
func (c *rowSwap) exchange(ctx context.Context, tx pgx.Tx) error {
	if err := c.read(ctx, tx); err != nil {
		return err
	}
	orphans, err := c.orphans(ctx, tx)
	if err != nil {
		return err
	}
	if len(orphans) > 0 {
		return &OrphansError{Schema: manifest.CoreSchema, Rows: orphans}
	}
	exec := func(sql string) error {
		_, err := tx.Conn().PgConn().Exec(ctx, sql).ReadAll()
		return err
	}
	err = exec(replicaSQL + "CREATE TEMPORARY TABLE tenantkeep_difference (n int, relation oid, live tid, other tid) ON COMMIT DROP;\n")
	if err != nil {
		return fmt.Errorf("exchange rows of core: %w", err)
	}
	for i := range c.tables {
		if err := c.compare(ctx, tx, i); err != nil {
			return fmt.Errorf("compare rows of %s: %w", pg.Identifier(manifest.CoreSchema, c.tables[i].name), err)
		}
	}
	for i := range c.tables {
		if c.tables[i].different == 0 {
			continue
		}
		if err := c.exchangeTable(ctx, tx, i); err != nil {
			return fmt.Errorf("exchange rows of %s: %w", pg.Identifier(manifest.CoreSchema, c.tables[i].name), err)
		}
	}
	if err := exec("DROP TABLE pg_temp.tenantkeep_difference;\nSET LOCAL session_replication_role = origin;\n"); err != nil {
		return fmt.Errorf("exchange rows of core: %w", err)
	}
	if err := c.exchangeSequences(ctx, tx); err != nil {
		return err
	}
	for _, st := range c.keys {
		sql := st.sql
		if m := st.unit.mask; m != nil && !st.inPlace {
			sql = m.peers.on() + sql + m.peers.off(nil)
		}
		if err := exec(sql); err != nil {
			return fmt.Errorf("foreign key %s of tenant %s: %w", st.object(), st.unit.entry.Tenant, err)
		}
	}
	if err := c.parentless(ctx, tx); err != nil {
		return err
	}
	if err := c.parentlessTaken(ctx, tx); err != nil {
		return err
	}
	return exec(rename(c.other, c.replaced) + commentSQL(c.replaced, c.label.String()))
}

// compare finds the rows that only one side has. A row is what PostgreSQL writes
// for it; the same one may be there several times.
func (c *rowSwap) compare(ctx context.Context, tx pgx.Tx, n int) error {
	t := &c.tables[n]
	side := func(from string) string {
		return `SELECT relation, id, digest, row_number() OVER (PARTITION BY digest) AS n FROM (
			SELECT tableoid AS relation, ctid AS id, pg_catalog.sha256(pg_catalog.convert_to(ROW(` + t.columns + `)::text, pg_catalog.getdatabaseencoding())) AS digest
			FROM ` + from + `) r`
	}
	tag, err := tx.Exec(ctx, `
		INSERT INTO pg_temp.tenantkeep_difference
		SELECT `+fmt.Sprint(n)+`, l.relation, l.id, o.id FROM (`+side(t.from())+`) l
		FULL JOIN (`+side("ONLY "+pg.Identifier(c.other, t.name))+`) o ON o.digest = l.digest AND o.n = l.n
		WHERE l.id IS NULL OR o.id IS NULL`)
	t.different = tag.RowsAffected()
	return err
}

func (c *rowSwap) exchangeTable(ctx context.Context, tx pgx.Tx, n int) error {
	t := &c.tables[n]
	other := pg.Identifier(c.other, t.name)
	var leave, come int64
	err := tx.QueryRow(ctx, `SELECT count(live), count(other) FROM pg_temp.tenantkeep_difference WHERE n = $1`, n).Scan(&leave, &come)
	if err != nil {
		return err
	}
	live := fmt.Sprintf("(tableoid, ctid) IN (SELECT relation, live FROM pg_temp.tenantkeep_difference WHERE n = %d AND live IS NOT NULL)", n)
	coming := fmt.Sprintf("ctid IN (SELECT other FROM pg_temp.tenantkeep_difference WHERE n = %d AND other IS NOT NULL)", n)
	type statement struct {
		sql  string
		rows int64 // that it must affect; -1: any
	}
	var list []statement
	for _, sql := range t.triggers {
		list = append(list, statement{sql, -1})
	}
	list = append(list,
		statement{"CREATE TEMPORARY TABLE tenantkeep_rows ON COMMIT DROP AS SELECT " + t.columns + " FROM " + t.from() + " WHERE " + live, leave},
		statement{"DELETE FROM " + t.from() + " WHERE " + live, leave},
		statement{"INSERT INTO " + pg.Identifier(manifest.CoreSchema, t.name) + t.list() + " OVERRIDING SYSTEM VALUE SELECT " + t.columns + " FROM ONLY " + other + " WHERE " + coming, come},
		statement{"DELETE FROM ONLY " + other + " WHERE " + coming, come},
		statement{"INSERT INTO " + other + t.list() + " SELECT " + t.columns + " FROM pg_temp.tenantkeep_rows", leave},
		statement{"DROP TABLE pg_temp.tenantkeep_rows", -1},
	)
	for _, sql := range t.back {
		list = append(list, statement{sql, -1})
	}
	for _, s := range list {
		tag, err := tx.Exec(ctx, s.sql)
		if err != nil {
			return err
		}
		if s.rows >= 0 && tag.RowsAffected() != s.rows {
			return fmt.Errorf("%d rows were written of %d: something in the database changes them", tag.RowsAffected(), s.rows)
		}
	}
	return nil
}

// exchangeSequences exchanges the values of those sequences that differ. Setting
// a value cannot be taken back, but a sequence that begins anew gets a new file,
// which a rollback removes together with the value.
func (c *rowSwap) exchangeSequences(ctx context.Context, tx pgx.Tx) error {
	rows, err := tx.Query(ctx, `
		SELECT o.relname::text FROM pg_catalog.pg_class o JOIN pg_catalog.pg_namespace s ON s.oid = o.relnamespace
		JOIN pg_catalog.pg_class l ON l.relnamespace = $1 AND l.relname = o.relname AND l.relkind = 'S'
		WHERE s.nspname = $2 AND o.relkind = 'S' ORDER BY l.oid`, c.public, c.other)
	if err != nil {
		return fmt.Errorf("list the sequences of core: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("list the sequences of core: %w", err)
	}
	type value struct {
		last   int64
		called bool
	}
	for _, name := range names {
		sequences := [2]string{pg.Identifier(manifest.CoreSchema, name), pg.Identifier(c.other, name)}
		read := func() (v [2]value, err error) {
			for i, q := range sequences {
				if err := tx.QueryRow(ctx, "SELECT last_value, is_called FROM "+q).Scan(&v[i].last, &v[i].called); err != nil {
					return v, err
				}
			}
			return v, nil
		}
		v, err := read()
		if err == nil && v[0] == v[1] {
			continue
		}
		if err != nil {
			return fmt.Errorf("read sequence %s: %w", name, err)
		}
		_, err = tx.Conn().PgConn().Exec(ctx, fmt.Sprintf(
			"ALTER SEQUENCE %s RESTART;\nALTER SEQUENCE %s RESTART;\nSELECT pg_catalog.setval(%s, %d, %t);\nSELECT pg_catalog.setval(%s, %d, %t);\n",
			sequences[0], sequences[1], pg.Literal(sequences[0]), v[1].last, v[1].called, pg.Literal(sequences[1]), v[0].last, v[0].called)).ReadAll()
		if err != nil {
			return fmt.Errorf("set sequence %s: %w", name, err)
		}
	}
	return nil
}

// key is a foreign key between core and another schema.
type key struct {
	object         string // who is told of
	child          string // as in FROM
	schema         string // of the end that is not in core
	parent         uint32
	parentFrom     string   // as in FROM
	valid          bool     // PostgreSQL holds it to be fulfilled
	columns, refer []string // quoted
	operators      []string
}

// The foreign keys that matter: those of tables that keep their rows and refer to
// core, those of core that refer to others, and those within core.
const (
	keysInto   = "f.relnamespace = $1 AND (t.relnamespace <> $1 OR t.relkind = 'r' AND NOT t.oid = ANY($2))"
	keysOut    = "t.relnamespace = $1 AND f.relnamespace <> $1"
	keysWithin = "t.relnamespace = $1 AND f.relnamespace = $1"
)

// foreignKeys lists one of these sets.
func (c *rowSwap) foreignKeys(ctx context.Context, q pg.Querier, which string) ([]key, error) {
	schema := "tn.nspname"
	if which == keysOut {
		schema = "fn.nspname"
	}
	exchanged := make([]uint32, len(c.tables))
	for i, t := range c.tables {
		exchanged[i] = t.oid
	}
	rows, err := q.Query(ctx, `
		SELECT pg_catalog.format('%s: foreign key %I of table %I.%I', tn.nspname, k.conname, tn.nspname, t.relname),
			CASE WHEN t.relkind = 'p' THEN '' ELSE 'ONLY ' END || pg_catalog.format('%I.%I', tn.nspname, t.relname), `+schema+`::text, k.confrelid,
			CASE WHEN f.relkind = 'p' THEN '' ELSE 'ONLY ' END || pg_catalog.format('%I.%I', fn.nspname, f.relname), k.convalidated,
			(SELECT array_agg(pg_catalog.quote_ident(a.attname) ORDER BY c.i) FROM unnest(k.conkey) WITH ORDINALITY c (n, i) JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = c.n),
			(SELECT array_agg(pg_catalog.quote_ident(a.attname) ORDER BY c.i) FROM unnest(k.confkey) WITH ORDINALITY c (n, i) JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = c.n),
			(SELECT array_agg(pg_catalog.format('OPERATOR(%I.%s)', s.nspname, o.oprname) ORDER BY c.i) FROM unnest(k.conpfeqop) WITH ORDINALITY c (n, i)
				JOIN pg_catalog.pg_operator o ON o.oid = c.n JOIN pg_catalog.pg_namespace s ON s.oid = o.oprnamespace)
		FROM pg_catalog.pg_constraint k
		JOIN pg_catalog.pg_class t ON t.oid = k.conrelid JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
		JOIN pg_catalog.pg_class f ON f.oid = k.confrelid JOIN pg_catalog.pg_namespace fn ON fn.oid = f.relnamespace
		WHERE k.contype = 'f' AND k.conparentid = 0 AND `+which+` AND $2::oid[] IS NOT NULL
		ORDER BY tn.nspname COLLATE "C", t.relname COLLATE "C", k.conname COLLATE "C"`, c.public, exchanged)
	if err != nil {
		return nil, fmt.Errorf("list foreign keys: %w", err)
	}
	var list []key
	var k key
	_, err = pgx.ForEachRow(rows, []any{&k.object, &k.child, &k.schema, &k.parent, &k.parentFrom, &k.valid, &k.columns, &k.refer, &k.operators}, func() error {
		one := k
		k.columns, k.refer, k.operators = nil, nil, nil // scanned into anew
		if !slices.Contains(c.leave, k.schema) && (!pg.IsOwn(k.schema) || slices.Contains(c.take, k.schema)) {
			list = append(list, one)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list foreign keys: %w", err)
	}
	return list, nil
}

// countAtOnce is for how many tables rows are counted before their locks are
// given back.
const countAtOnce = 50

// orphans counts the rows of other schemas that would lose their parents, by
// foreign key. Most restores take no key away that anybody could refer to, and
// then no table of a tenant is looked at.
func (c *rowSwap) orphans(ctx context.Context, tx pgx.Tx) (map[string]int64, error) {
	keys, err := c.foreignKeys(ctx, tx, keysInto)
	if err != nil {
		return nil, err
	}
	type group struct {
		table string // of the keys that go
		list  []key
	}
	groups := map[string]*group{}
	var order []*group
	for _, k := range keys {
		id := fmt.Sprint(k.parent, k.refer)
		if groups[id] == nil {
			groups[id] = &group{}
			order = append(order, groups[id])
		}
		groups[id].list = append(groups[id].list, k)
	}
	found := map[string]int64{}
	for i, g := range order {
		first := g.list[0]
		names := strings.Join(first.refer, ", ")
		now, then, err := c.sources(ctx, tx, first.parent, names)
		if err != nil {
			return nil, err
		}
		g.table = fmt.Sprintf("tenantkeep_gone_%d", i)
		tag, err := tx.Exec(ctx, fmt.Sprintf("CREATE TEMPORARY TABLE %s ON COMMIT DROP AS SELECT %s FROM (%s) l EXCEPT SELECT %s FROM (%s) o",
			g.table, names, now, names, then))
		if err != nil {
			return nil, fmt.Errorf("look for rows that go: %w", err)
		}
		if tag.RowsAffected() > 0 {
			for chunk := range slices.Chunk(g.list, countAtOnce) {
				if err := countChildren(ctx, tx, g.table, chunk, found); err != nil {
					return nil, err
				}
			}
		}
		if _, err := tx.Exec(ctx, "DROP TABLE pg_temp."+g.table); err != nil {
			return nil, fmt.Errorf("look for rows that go: %w", err)
		}
	}
	return found, nil
}

func countChildren(ctx context.Context, tx pgx.Tx, gone string, list []key, found map[string]int64) error {
	if _, err := tx.Exec(ctx, "SAVEPOINT counting"); err != nil {
		return fmt.Errorf("count rows without a parent: %w", err)
	}
	for _, k := range list {
		var match []string
		for i := range k.columns {
			match = append(match, fmt.Sprintf("p.%s %s c.%s", k.refer[i], k.operators[i], k.columns[i]))
		}
		var n int64
		err := tx.QueryRow(ctx, fmt.Sprintf("SELECT count(*) FROM %s c WHERE EXISTS (SELECT FROM pg_temp.%s p WHERE %s)", k.child, gone, strings.Join(match, " AND "))).Scan(&n)
		if err != nil {
			return fmt.Errorf("count rows without a parent: %s: %w", k.object, err)
		}
		if n > 0 {
			found[k.object] = n
		}
	}
	if _, err := tx.Exec(ctx, "ROLLBACK TO SAVEPOINT counting"); err != nil {
		return fmt.Errorf("count rows without a parent: %w", err)
	}
	return nil
}

// sources are queries for the keys that a table of core has, and for those that
// it is going to have. Of a partitioned table these are those of its partitions,
// some of which may be in other schemas.
func (c *rowSwap) sources(ctx context.Context, q pg.Querier, table uint32, columns string) (now, then string, err error) {
	rows, err := q.Query(ctx, `
		SELECT c.oid, n.nspname::text, c.relname::text FROM (
			SELECT $1::oid AS oid UNION SELECT relid FROM pg_catalog.pg_partition_tree($1::oid::regclass)) t
		JOIN pg_catalog.pg_class c ON c.oid = t.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace ORDER BY c.oid`, table)
	if err != nil {
		return "", "", fmt.Errorf("list partitions: %w", err)
	}
	var live, coming []string
	var oid uint32
	var schema, name string
	whole := "" // the copy of a partitioned table has all of its rows
	_, err = pgx.ForEachRow(rows, []any{&oid, &schema, &name}, func() error {
		own := "SELECT " + columns + " FROM ONLY " + pg.Identifier(schema, name)
		live = append(live, own)
		i := slices.IndexFunc(c.tables, func(t rowTable) bool { return t.oid == oid })
		if i >= 0 {
			own = "SELECT " + columns + " FROM ONLY " + pg.Identifier(c.other, name)
		}
		if i >= 0 && c.tables[i].parent {
			whole = own
		}
		coming = append(coming, own)
		return nil
	})
	if err != nil {
		return "", "", fmt.Errorf("list partitions: %w", err)
	}
	if whole != "" {
		coming = []string{whole}
	}
	return strings.Join(live, " UNION ALL "), strings.Join(coming, " UNION ALL "), nil
}

// parentless refuses rows of core that refer to rows which are not there, of
// other schemas or, where that is not known, of core itself.
func (c *rowSwap) parentless(ctx context.Context, tx pgx.Tx) error {
	keys, err := c.foreignKeys(ctx, tx, keysOut)
	if err == nil && c.again {
		var within []key
		within, err = c.foreignKeys(ctx, tx, keysWithin)
		keys = slices.Concat(keys, within)
	}
	if err != nil {
		return err
	}
	keys = slices.DeleteFunc(keys, func(k key) bool { return !k.valid })
	found, err := countParentless(ctx, tx, keys)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return &ParentlessError{Rows: found}
	}
	return nil
}

// parentlessTaken refuses rows of replaced schemas that go back together with
// core and would not find their parents in it: nobody has looked after them while
// they were kept.
func (c *rowSwap) parentlessTaken(ctx context.Context, tx pgx.Tx) error {
	if !c.again || len(c.take) == 0 {
		return nil
	}
	keys, err := c.foreignKeys(ctx, tx, keysInto)
	if err != nil {
		return err
	}
	keys = slices.DeleteFunc(keys, func(k key) bool { return !k.valid || !slices.Contains(c.take, k.schema) })
	found, err := countParentless(ctx, tx, keys)
	if err == nil && len(found) > 0 {
		err = &ParentlessError{Rows: found}
	}
	return err
}

// countParentless counts the rows for which foreign keys do not find a parent.
func countParentless(ctx context.Context, q pg.Querier, keys []key) (map[string]int64, error) {
	found := map[string]int64{}
	for _, k := range keys {
		var match, filled []string
		for i := range k.columns {
			match = append(match, fmt.Sprintf("p.%s %s c.%s", k.refer[i], k.operators[i], k.columns[i]))
			filled = append(filled, "c."+k.columns[i]+" IS NOT NULL")
		}
		var n int64
		err := q.QueryRow(ctx, fmt.Sprintf("SELECT count(*) FROM %s c WHERE %s AND NOT EXISTS (SELECT FROM %s p WHERE %s)",
			k.child, strings.Join(filled, " AND "), k.parentFrom, strings.Join(match, " AND "))).Scan(&n)
		if err != nil {
			return nil, fmt.Errorf("count rows without a parent: %s: %w", k.object, err)
		}
		if n > 0 {
			found[k.object] = n
		}
	}
	return found, nil
}

// ParentlessError says that rows of core would refer to rows that are not
// there.
type ParentlessError struct {
	Rows map[string]int64 // by the foreign key
}

// Error lists them.
func (e *ParentlessError) Error() string {
	return "core was not replaced: rows would refer to rows that are not there" + listCounts(e.Rows)
}

// listCounts writes a line for each, in their order.
func listCounts(rows map[string]int64) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		fmt.Fprintf(&b, "\n  %s: %d rows", name, rows[name])
	}
	return b.String()
}

// Hint says what to do.
func (e *ParentlessError) Hint() string { return "restore those schemas from the same backup together" }

// coreOrphans looks, without a lock, for rows elsewhere that the exchange would
// leave without a parent: better now than after the rollback point. with are the
// tenants that are swapped together with core.
func (r *run) coreOrphans(ctx context.Context, with []*unit) error {
	c := r.core.inUse.swap(with)
	tx, err := r.main.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return fmt.Errorf("look for rows without a parent: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if err := c.read(ctx, tx); err != nil {
		return err
	}
	found, err := c.orphans(ctx, tx)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return &OrphansError{Schema: manifest.CoreSchema, Rows: found}
	}
	return nil
}

// swap is the exchange of the rows, together with those tenants.
func (c *coreInUse) swap(with []*unit) *rowSwap {
	s := &rowSwap{public: c.public, other: c.staging, keys: c.keys}
	for _, u := range with {
		if u.swaps() {
			s.leave = append(s.leave, u.live.name)
			s.take = append(s.take, u.mask.staging)
		}
	}
	return s
}

// parentsInCore checks that the rows of a replaced schema still have their
// parents in core, if core got other rows since then: foreign keys between the
// two are in force only while the schema is live.
func parentsInCore(ctx context.Context, conn *pgx.Conn, back Replaced, all []Replaced) error {
	since := slices.ContainsFunc(all, func(r Replaced) bool { return r.Schema == manifest.CoreSchema && !r.At.Before(back.At) })
	if !since {
		return nil
	}
	c := rowSwap{take: []string{back.Name}}
	if err := conn.QueryRow(ctx, `SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1`, manifest.CoreSchema).Scan(&c.public); err != nil {
		return fmt.Errorf("look for schema public: %w", err)
	}
	keys, err := c.foreignKeys(ctx, conn, keysInto)
	if err != nil {
		return err
	}
	keys = slices.DeleteFunc(keys, func(k key) bool { return k.schema != back.Name })
	found, err := countParentless(ctx, conn, keys)
	if err != nil {
		return err
	}
	if len(found) > 0 {
		return &OrphanedError{Name: back.Name, Schema: back.Schema, Rows: found}
	}
	return nil
}

// OrphanedError says that rows of a replaced schema lost their parents when core
// got other rows.
type OrphanedError struct {
	Name, Schema string
	Rows         map[string]int64 // by the foreign key
}

// Error lists them.
func (e *OrphanedError) Error() string {
	return fmt.Sprintf("schema %q was not swapped back: core was restored since then, and rows of %q refer to rows that it has not any more", e.Schema, e.Name) + listCounts(e.Rows)
}

// Hint says what to do.
func (e *OrphanedError) Hint() string {
	return "roll back core (public) first, or delete these rows in the replaced schema"
}
