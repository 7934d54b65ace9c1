package pgtest

import (
	"context"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
)

// Compare says what of two databases must be equal. The zero value is
// everything.
type Compare struct {
	// Schemas limits the comparison to these; the objects of the database and
	// the large objects are left out then.
	Schemas []string
	// NoOwner and NoPrivileges leave out who owns what and who may do what.
	NoOwner      bool
	NoPrivileges bool
}

// State is what a database holds, in a form that can be compared after the
// database itself is gone. It knows nothing of the code under test: definitions
// are those that pg_dump prints, rows are digested by the server.
//
// Not in it, because no dump of a database has them: settings, comment and
// grants of the database itself, roles, planner statistics, and the physical
// order of rows and of columns.
type State struct {
	// Definitions are the entries of pg_dump --schema-only, sorted: their order
	// depends on the identifiers of objects, which a restore does not keep.
	Definitions []string
	// Content describes by name what pg_dump does not show or not exactly: the
	// rows of each table, the value of each sequence, the large objects.
	Content map[string]string

	tables map[string]table // behind the entries of Content that are rows
}

// Fingerprint takes the state of a database. It reads table after table, so
// that nobody may write meanwhile, and its pg_dump locks every table of the
// schemas at once.
func Fingerprint(t testing.TB, db *Database, opts Compare) State {
	t.Helper()
	o := newOracle(t, db, opts)
	defer o.close()
	state := State{Definitions: definitions(t, db, opts), Content: map[string]string{}, tables: o.tables()}
	o.relations(state.Content)
	o.rows(state.Content, state.tables)
	o.sequences(state.Content)
	if len(opts.Schemas) == 0 {
		o.extensions(state.Content)
		o.largeObjects(state.Content)
	}
	return state
}

// RequireEqual fails the test, showing the first differences, unless both
// databases hold the same.
func RequireEqual(t testing.TB, source, target *Database, opts Compare) {
	t.Helper()
	want, got := Fingerprint(t, source, opts), Fingerprint(t, target, opts)
	diff := want.Diff(got)
	if diff == "" {
		return
	}
	t.Fatalf("%s and %s differ (- %[1]s, + %[2]s):\n%s%s", source.Name, target.Name, diff, rowDiffs(t, source, target, opts, want, got))
}

// RequireState fails the test, showing the first differences, unless the
// database holds what it held when want was taken with the same options.
func RequireState(t testing.TB, want State, db *Database, opts Compare) {
	t.Helper()
	if diff := want.Diff(Fingerprint(t, db, opts)); diff != "" {
		t.Fatalf("%s differs (- before, + now):\n%s", db.Name, diff)
	}
}

// maxShown is how many differences of each kind are worth reading.
const maxShown = 8

// Diff shows the first differences; it is empty if there are none.
func (s State) Diff(other State) string {
	var out strings.Builder
	diffDefinitions(&out, s.Definitions, other.Definitions)

	shown := 0
	for _, name := range slices.Sorted(maps.Keys(merged(s.Content, other.Content))) {
		want, inWant := s.Content[name]
		got, inGot := other.Content[name]
		if inWant == inGot && want == got {
			continue
		}
		if shown++; shown > maxShown {
			continue
		}
		if inWant {
			fmt.Fprintf(&out, "- %s: %s\n", name, want)
		}
		if inGot {
			fmt.Fprintf(&out, "+ %s: %s\n", name, got)
		}
	}
	if shown > maxShown {
		fmt.Fprintf(&out, "and %d more differences of content\n", shown-maxShown)
	}
	return out.String()
}

func merged(a, b map[string]string) map[string]string {
	all := maps.Clone(a)
	maps.Copy(all, b)
	return all
}

// diffDefinitions pairs the entries that have the same heading, so that a
// change in a long definition shows as a few lines.
func diffDefinitions(out *strings.Builder, want, got []string) {
	removed, added := without(want, got), without(got, want)
	shown := 0
	show := func(text string) {
		if shown++; shown <= maxShown {
			out.WriteString(excerpt(text) + "\n")
		}
	}
	for _, old := range removed {
		heading, _, _ := strings.Cut(old, "\n")
		i := slices.IndexFunc(added, func(s string) bool { return strings.HasPrefix(s, heading+"\n") })
		if i < 0 {
			show("- " + strings.ReplaceAll(old, "\n", "\n- "))
			continue
		}
		show(heading + "\n" + cmp.Diff(strings.Split(old, "\n"), strings.Split(added[i], "\n")))
		added = slices.Delete(added, i, i+1)
	}
	for _, entry := range added {
		show("+ " + strings.ReplaceAll(entry, "\n", "\n+ "))
	}
	if shown > maxShown {
		fmt.Fprintf(out, "and %d more differences of definitions\n", shown-maxShown)
	}
}

// without returns the elements of a that b has not, each as often as a has more
// of it.
func without(a, b []string) []string {
	have := map[string]int{}
	for _, s := range b {
		have[s]++
	}
	var rest []string
	for _, s := range a {
		if have[s]--; have[s] < 0 {
			rest = append(rest, s)
		}
	}
	return rest
}

var (
	entryHeading = regexp.MustCompile(`(?m)^--\n-- (?:Data for )?Name: .*\n--\n\n`)
	// pg_dump prints these where they change from one entry to the next, which
	// depends on the order; relations has what they say.
	storageSetting = regexp.MustCompile(`(?m)^SET default_(?:tablespace|table_access_method) = .*;\n+`)
	// Set by servers of the minor releases of November 2026 on every column.
	attributeVersion = regexp.MustCompile(`(?m)^ALTER TABLE (?:ONLY )?.* SET \(pg_attver=\d+\);\n`)
)

// definitions is what pg_dump says, without what differs from run to run.
func definitions(t testing.TB, db *Database, opts Compare) []string {
	t.Helper()
	args := []string{"--schema-only"}
	for _, schema := range opts.Schemas {
		args = append(args, "--schema", pattern(schema))
	}
	if opts.NoOwner {
		args = append(args, "--no-owner")
	}
	if opts.NoPrivileges {
		args = append(args, "--no-privileges")
	}
	return splitDump(string(db.pgDump(t, args...)), opts)
}

func splitDump(dump string, opts Compare) []string {
	dump, _, _ = cutLast(dump, "--\n-- PostgreSQL database dump complete\n--\n")
	starts := entryHeading.FindAllStringIndex(dump, -1)
	var entries []string
	// What comes before the first entry are settings of the session, versions
	// and \restrict: nothing of the database but its encoding.
	for i, start := range starts {
		end := len(dump)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		entry := dump[start[0]:end]
		if opts.NoOwner {
			entry = withoutOwner(entry)
		}
		entry = storageSetting.ReplaceAllString(entry, "")
		entry = attributeVersion.ReplaceAllString(entry, "")
		entries = append(entries, strings.TrimSpace(strings.TrimPrefix(entry, "--\n")))
	}
	slices.Sort(entries)
	return entries
}

// withoutOwner cuts the owner from an entry's heading, where pg_dump writes it
// even with --no-owner as "-" or, in some versions, the name.
func withoutOwner(entry string) string {
	heading, rest, _ := strings.Cut(strings.TrimPrefix(entry, "--\n"), "\n")
	if i := strings.LastIndex(heading, "; Owner: "); i >= 0 {
		heading = heading[:i]
	}
	return heading + "\n" + rest
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

// oracle reads one database with settings under which equal values have equal
// texts.
type oracle struct {
	t    testing.TB
	conn *pgx.Conn
	opts Compare
}

func newOracle(t testing.TB, db *Database, opts Compare) *oracle {
	t.Helper()
	conn := db.Conn(t)
	// Simple protocol: the queries are as long as tables have columns, and none
	// is run twice.
	_, err := conn.Exec(t.Context(), `SET search_path = ''; SET row_security = off; SET DateStyle = 'ISO, YMD'; SET IntervalStyle = postgres;
		SET TimeZone = 'UTC'; SET extra_float_digits = 3; SET bytea_output = hex; SET lc_monetary = 'C'; SET xmlbinary = base64;
		SET statement_timeout = 0; SET jit = off`)
	fatalIf(t, "prepare comparison", err)
	return &oracle{t: t, conn: conn, opts: opts}
}

// close frees the connection at once: a test may take many states.
func (o *oracle) close() {
	if err := o.conn.Close(context.Background()); err != nil {
		o.t.Errorf("end comparison: %v", err)
	}
}

// pairs runs a query of two text columns.
func (o *oracle) pairs(sql string, args ...any) [][2]string {
	o.t.Helper()
	rows, err := o.conn.Query(o.t.Context(), sql, append([]any{pgx.QueryExecModeSimpleProtocol}, args...)...)
	if err == nil {
		var pairs [][2]string
		pairs, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) ([2]string, error) {
			raw := row.RawValues()
			return [2]string{string(raw[0]), string(raw[1])}, nil
		})
		if err == nil {
			return pairs
		}
	}
	o.t.Fatalf("query %s: %v\n%s", o.conn.Config().Database, err, excerpt(sql))
	return nil
}

func (o *oracle) add(content map[string]string, sql string, args ...any) {
	o.t.Helper()
	for _, pair := range o.pairs(sql, args...) {
		content[pair[0]] = pair[1]
	}
}

// inScope is a condition on pg_namespace n.
func (o *oracle) inScope() string {
	if len(o.opts.Schemas) == 0 {
		return "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
	}
	var quoted []string
	for _, schema := range o.opts.Schemas {
		quoted = append(quoted, literal(schema))
	}
	return "n.nspname IN (" + strings.Join(quoted, ", ") + ")"
}

func literal(s string) string {
	return "E'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s) + "'"
}

// relations notes of each relation what a dump without rows does not say.
func (o *oracle) relations(content map[string]string) {
	o.t.Helper()
	o.add(content, `
		SELECT 'relation ' || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname),
			pg_catalog.format('kind %s, persistence %s, access method %s, tablespace %s, populated %s, index valid %s, ready %s',
				c.relkind, c.relpersistence, a.amname, s.spcname, c.relispopulated, i.indisvalid, i.indisready)
		FROM pg_catalog.pg_class c
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_catalog.pg_am a ON a.oid = c.relam
		LEFT JOIN pg_catalog.pg_tablespace s ON s.oid = c.reltablespace
		LEFT JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid
		WHERE `+o.inScope())
}

// table is a unit whose rows are compared.
type table struct {
	from    string   // what stands after FROM
	columns []string // quoted; by name, because a restore may change their order
}

// row is the text of a whole row, NULL and the empty string apart. Casts that
// a database defines on its own row types do not come near it.
func (tb table) row() string {
	return "pg_catalog.textin(pg_catalog.record_out(ROW(" + strings.Join(tb.columns, ", ") + ")))"
}

// tables are all tables that hold rows themselves: plain ones, partitions and
// populated materialized views. Where rows are spread by the hash of an enum,
// which depends on an OID, the partitions are taken together.
func (o *oracle) tables() map[string]table {
	o.t.Helper()
	tables := map[string]table{}
	pairs := o.pairs(`
		WITH RECURSIVE by_oid AS (
			SELECT p.partrelid AS oid
			FROM pg_catalog.pg_partitioned_table p
			JOIN pg_catalog.pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = ANY (p.partattrs::pg_catalog.int2[])
			JOIN pg_catalog.pg_type ty ON ty.oid = a.atttypid
			LEFT JOIN pg_catalog.pg_type inner_ty ON inner_ty.oid IN (ty.typbasetype, ty.typelem)
			WHERE p.partstrat = 'h' AND 'e' IN (ty.typtype, inner_ty.typtype)
		), below AS (
			SELECT i.inhrelid AS oid FROM pg_catalog.pg_inherits i JOIN by_oid ON by_oid.oid = i.inhparent
			UNION SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN below ON below.oid = i.inhparent
		)
		SELECT CASE WHEN c.relkind = 'p' THEN '' ELSE 'ONLY ' END || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname),
			coalesce(pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), E'\x01' ORDER BY a.attname COLLATE "C"), '')
		FROM pg_catalog.pg_class c
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		WHERE (c.relkind = 'r' OR c.relkind = 'm' AND c.relispopulated OR c.relkind = 'p' AND c.oid IN (SELECT oid FROM by_oid))
			AND c.oid NOT IN (SELECT oid FROM below) AND ` + o.inScope() + `
		GROUP BY n.nspname, c.relname, c.relkind`)
	for _, pair := range pairs {
		tb := table{from: pair[0]}
		if pair[1] != "" {
			tb.columns = strings.Split(pair[1], "\x01")
		}
		tables["rows of "+strings.TrimPrefix(pair[0], "ONLY ")] = tb
	}
	return tables
}

// batch is how many tables one query reads: few enough for the locks of a
// server with default settings, enough that a thousand tables are quick.
const batch = 40

// rows notes count and digest of each table's rows. The digest is the sum of
// both halves of each row's MD5, so that it does not depend on the order and
// does depend on how often a row occurs.
func (o *oracle) rows(content map[string]string, tables map[string]table) {
	o.t.Helper()
	for names := range slices.Chunk(slices.Sorted(maps.Keys(tables)), batch) {
		var queries []string
		for _, name := range names {
			queries = append(queries, `SELECT `+literal(name)+`, pg_catalog.format('%s, digest %s/%s', pg_catalog.count(*),
				coalesce(pg_catalog.sum(('x' || pg_catalog.left(h, 16))::pg_catalog.bit(64)::pg_catalog.int8), 0),
				coalesce(pg_catalog.sum(('x' || pg_catalog.right(h, 16))::pg_catalog.bit(64)::pg_catalog.int8), 0))
				FROM (SELECT pg_catalog.md5(`+tables[name].row()+`) AS h FROM `+tables[name].from+`) AS digests`)
		}
		o.add(content, strings.Join(queries, "\nUNION ALL "))
	}
}

func (o *oracle) sequences(content map[string]string) {
	o.t.Helper()
	names := o.pairs(`SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname), ''
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'S' AND ` + o.inScope())
	for some := range slices.Chunk(names, batch) {
		var queries []string
		for _, name := range some {
			queries = append(queries, `SELECT `+literal("sequence "+name[0])+`, pg_catalog.format('last value %s, called %s', last_value, is_called) FROM `+name[0])
		}
		o.add(content, strings.Join(queries, "\nUNION ALL "))
	}
}

// extensions notes their versions, which CREATE EXTENSION in a dump leaves to
// the server.
func (o *oracle) extensions(content map[string]string) {
	o.t.Helper()
	o.add(content, `SELECT 'extension ' || e.extname, pg_catalog.format('version %s, schema %I', e.extversion, n.nspname)
		FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace`)
}

func (o *oracle) largeObjects(content map[string]string) {
	o.t.Helper()
	owner, grants := "pg_catalog.pg_get_userbyid(l.lomowner)::pg_catalog.text", `(
		SELECT pg_catalog.string_agg(pg_catalog.format('%s=%s%s by %s', pg_catalog.pg_get_userbyid(x.grantee), x.privilege_type,
			CASE WHEN x.is_grantable THEN '*' END, pg_catalog.pg_get_userbyid(x.grantor)), ', ' ORDER BY x.grantee, x.privilege_type, x.grantor)
		FROM pg_catalog.aclexplode(coalesce(l.lomacl, pg_catalog.acldefault('L', l.lomowner))) AS x)`
	if o.opts.NoOwner {
		owner = "''"
	}
	if o.opts.NoPrivileges || o.opts.NoOwner {
		grants = "''" // an owner's own rights name the owner
	}
	o.add(content, `SELECT 'large object ' || l.oid, pg_catalog.format('owner %s, grants %s, comment %L, labels %s, %s bytes, md5 %s',
			`+owner+`, `+grants+`, pg_catalog.obj_description(l.oid, 'pg_largeobject'),
			(SELECT pg_catalog.string_agg(s.provider || '=' || s.label, ', ') FROM pg_catalog.pg_seclabel s
				WHERE s.objoid = l.oid AND s.classoid = 'pg_catalog.pg_largeobject'::pg_catalog.regclass),
			pg_catalog.length(pg_catalog.lo_get(l.oid)), pg_catalog.md5(pg_catalog.lo_get(l.oid)))
		FROM pg_catalog.pg_largeobject_metadata l`)
}

// rowDiffs shows rows that only one of two databases has.
func rowDiffs(t testing.TB, source, target *Database, opts Compare, want, got State) string {
	t.Helper()
	var out strings.Builder
	shown := 0
	for _, name := range slices.Sorted(maps.Keys(want.tables)) {
		if _, both := got.tables[name]; !both || want.Content[name] == got.Content[name] {
			continue
		}
		if shown++; shown > maxShown {
			break
		}
		a, b := someRows(t, source, want.tables[name]), someRows(t, target, got.tables[name])
		for sign, rows := range map[string][]string{"-": without(a, b), "+": without(b, a)} {
			for _, row := range rows[:min(len(rows), maxShown)] {
				fmt.Fprintf(&out, "%s %s: %s\n", sign, name, row)
			}
		}
	}
	return out.String()
}

// someRows are the beginnings of up to 10,000 rows in the order of their
// digests, which is the same in both databases.
func someRows(t testing.TB, db *Database, tb table) []string {
	t.Helper()
	o := newOracle(t, db, Compare{})
	defer o.close()
	var rows []string
	for _, pair := range o.pairs(`SELECT h, pg_catalog.left(r, 300) FROM (SELECT pg_catalog.md5(r) AS h, r FROM (SELECT ` + tb.row() + ` AS r FROM ` + tb.from + `) AS texts) AS digests
		ORDER BY h COLLATE "C" LIMIT 10000`) {
		rows = append(rows, pair[1]+" (md5 "+pair[0]+")")
	}
	return rows
}
