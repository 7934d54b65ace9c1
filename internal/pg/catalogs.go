package pg

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// CatalogDigests tell whether catalog rows from which pg_dump writes
// definitions are those of an earlier moment. They are made from which rows
// there are and which transactions wrote them: quickly read, but worth something
// only where the server has the same history, see MakeSeal. Where that cannot be
// told, a Fingerprinter looks at what the rows hold.
type CatalogDigests struct {
	// Core is that of core: of the schemas that were given as core's, of those
	// that extensions brought, of what users added to pg_catalog, and of all
	// objects without a schema.
	// What any schema may name elsewhere is in it, except for other tenants.
	Core string
	// LargeObjects is that of large objects, which belong to core's script and
	// are named by nobody.
	LargeObjects string
	// Schemas are those of the others, by OID.
	Schemas map[uint32]string
}

// catalogDigestVersion begins what digests are made from: it changes with the
// queries, so that those of different releases never compare as equal.
const catalogDigestVersion = "3"

// minCatalogDigests is the first version of the server on which the fate of old
// transactions can be asked for by their 64-bit ids.
const minCatalogDigests = 130000

// CanDigestCatalogs reports whether a server of this version can.
func CanDigestCatalogs(versionNum int) bool { return versionNum >= minCatalogDigests }

const (
	// noSchema is the schema of what is in none.
	noSchema = "0::oid"
	// firstUser is the first OID that the server gives to what users make.
	firstUser = "16384"
)

// catalogPart is a set of catalog rows, c.
type catalogPart struct {
	from   string   // what follows FROM
	schema string   // whose they are; 0 is core's
	table  string   // the OID of the relation that they belong to, if it is one; empty: none
	id     string   // of a row: an int8
	more   []string // what is in other catalogs, by its name as of now
	rarely string   // a column that is taken in as text where it is not null
	// direct is the condition for rows of relations ($1) that finds them faster, where
	// no table is partitioned; empty: by the table.
	direct string
	whole  string // catalog of which the columns are hashed, since others change without meaning
}

// userMappings is a view, whose rows have no transaction.
const userMappings = "pg_catalog.pg_user_mappings"

// catalogParts are all rows that pg_dump reads.
func catalogParts(versionNum int) []catalogPart {
	const (
		user     = "pg_catalog.pg_get_userbyid"
		relation = " JOIN pg_catalog.pg_class r ON r.oid = c."
		ofClass  = "r.relnamespace"
	)
	named := func(catalog, prefix string, more ...string) catalogPart {
		p := catalogPart{from: "pg_catalog." + catalog + " c", schema: "c." + prefix + "namespace", id: "c.oid::int8"}
		for _, m := range more {
			if m == "owner" {
				m = user + "(c." + prefix + "owner)"
			}
			p.more = append(p.more, m)
		}
		return p
	}
	none := func(catalog string, more ...string) catalogPart {
		return catalogPart{from: "pg_catalog." + catalog + " c", schema: noSchema, id: "c.oid::int8", more: more}
	}
	// Of relations of the system pg_dump writes nothing but who may use them.
	of := func(catalog, column, id string, more ...string) catalogPart {
		return catalogPart{
			from:   "pg_catalog." + catalog + " c" + relation + column + " WHERE c." + column + " >= " + firstUser,
			schema: ofClass, table: "c." + column, id: id, more: more,
		}
	}
	// What comments and the like are on: of the schema that it is in.
	about := func(catalog, id string, more ...string) catalogPart {
		return catalogPart{
			from: "pg_catalog." + catalog + ` c WHERE c.objoid >= ` + firstUser + ` OR c.classoid = 'pg_catalog.pg_namespace'::regclass`,
			schema: `coalesce(CASE c.classoid
				WHEN 'pg_catalog.pg_class'::regclass THEN (SELECT o.relnamespace FROM pg_catalog.pg_class o WHERE o.oid = c.objoid)
				WHEN 'pg_catalog.pg_type'::regclass THEN (SELECT o.typnamespace FROM pg_catalog.pg_type o WHERE o.oid = c.objoid)
				WHEN 'pg_catalog.pg_proc'::regclass THEN (SELECT o.pronamespace FROM pg_catalog.pg_proc o WHERE o.oid = c.objoid)
				WHEN 'pg_catalog.pg_constraint'::regclass THEN (SELECT o.connamespace FROM pg_catalog.pg_constraint o WHERE o.oid = c.objoid)
				WHEN 'pg_catalog.pg_trigger'::regclass THEN (SELECT r.relnamespace FROM pg_catalog.pg_trigger o JOIN pg_catalog.pg_class r ON r.oid = o.tgrelid WHERE o.oid = c.objoid)
				WHEN 'pg_catalog.pg_policy'::regclass THEN (SELECT r.relnamespace FROM pg_catalog.pg_policy o JOIN pg_catalog.pg_class r ON r.oid = o.polrelid WHERE o.oid = c.objoid)
				WHEN 'pg_catalog.pg_rewrite'::regclass THEN (SELECT r.relnamespace FROM pg_catalog.pg_rewrite o JOIN pg_catalog.pg_class r ON r.oid = o.ev_class WHERE o.oid = c.objoid)
				WHEN 'pg_catalog.pg_namespace'::regclass THEN c.objoid
				WHEN 'pg_catalog.pg_statistic_ext'::regclass THEN (SELECT o.stxnamespace FROM pg_catalog.pg_statistic_ext o WHERE o.oid = c.objoid)
				END, 0::oid)`, // of others, core's
			id: id, more: append([]string{"c.classoid"}, more...),
		}
	}
	list := []catalogPart{
		{from: "pg_catalog.pg_namespace c WHERE c.nspname !~ '^pg_(toast|temp_)'", schema: "c.oid", id: "c.oid::int8", more: []string{user + "(c.nspowner)", "c.nspacl::text"}},
		// TRUNCATE and REINDEX write other files down, VACUUM and ANALYZE figures.
		{
			from:   `pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_class t ON t.oid = c.reltoastrelid AND t.reloptions IS NOT NULL WHERE c.oid >= ` + firstUser + ` AND c.relkind NOT IN ('t', 'i', 'I')`,
			schema: "c.relnamespace", table: "c.oid", id: "c.oid::int8", whole: "pg_class", more: []string{tablespaceName("c.reltablespace"), "t.reloptions"},
		},
		{
			from: `pg_catalog.pg_class c WHERE c.oid >= ` + firstUser + ` AND c.relkind IN ('i', 'I')`, schema: "c.relnamespace", table: "c.oid", id: "c.oid::int8",
			more: []string{"-", "c.relname", "c.relam", "c.reloptions", "c.relispartition", tablespaceName("c.reltablespace")},
		},
		// The columns of sequences are always the same, those of indexes have
		// nothing of their own but these. Names of roles change without the row.
		{
			from: "pg_catalog.pg_attribute c" + relation + `attrelid WHERE c.attrelid >= ` + firstUser + ` AND c.attnum > 0 AND (r.relkind NOT IN ('t', 'i', 'I', 'S')
				OR c.attacl IS NOT NULL OR r.relkind <> 't' AND (c.attoptions IS NOT NULL OR coalesce(c.attstattarget, -1) >= 0))`,
			schema: ofClass, table: "c.attrelid", id: "(c.attrelid::int8 << 16) + c.attnum", rarely: "c.attacl",
		},
		{
			from: "pg_catalog.pg_class c WHERE c.oid < " + firstUser + " AND c.relacl IS NOT NULL", schema: "c.relnamespace", id: "c.oid::int8",
			more: []string{"-", "c.relacl::text"},
		},
		{
			from:   "pg_catalog.pg_attribute c" + relation + "attrelid WHERE c.attrelid < " + firstUser + " AND c.attacl IS NOT NULL",
			schema: ofClass, id: "(c.attrelid::int8 << 16) + c.attnum", more: []string{"-", "c.attacl::text"},
		},
		named("pg_type", "typ", "owner", "c.typacl::text"),
		named("pg_proc", "pro", "owner", "c.proacl::text"),
		of("pg_constraint", "conrelid", "c.oid::int8"),
		{from: "pg_catalog.pg_constraint c WHERE c.contypid > 0", schema: "c.connamespace", id: "c.oid::int8"},
		named("pg_operator", "opr", "owner"),
		named("pg_opclass", "opc", "owner"),
		named("pg_opfamily", "opf", "owner"),
		named("pg_collation", "coll", "owner"),
		named("pg_conversion", "con", "owner"),
		named("pg_statistic_ext", "stx", "owner"),
		named("pg_ts_config", "cfg", "owner"),
		named("pg_ts_dict", "dict", "owner"),
		named("pg_ts_parser", "prs"),
		named("pg_ts_template", "tmpl"),
		{from: "pg_catalog.pg_default_acl c", schema: "c.defaclnamespace", id: "c.oid::int8", more: []string{user + "(c.defaclrole)", "c.defaclacl::text"}},
		of("pg_attrdef", "adrelid", "c.oid::int8"),
		of("pg_index", "indexrelid", "c.indexrelid::int8"),
		of("pg_inherits", "inhrelid", "(c.inhrelid::int8 << 31) + c.inhparent::int8"),
		of("pg_rewrite", "ev_class", "c.oid::int8"),
		of("pg_sequence", "seqrelid", "c.seqrelid::int8"),
		of("pg_partitioned_table", "partrelid", "c.partrelid::int8"),
		of("pg_foreign_table", "ftrelid", "c.ftrelid::int8"),
		of("pg_publication_rel", "prrelid", "c.oid::int8"),
		of("pg_policy", "polrelid", "c.oid::int8", "(SELECT array_agg(pg_catalog.pg_get_userbyid(p.role)::text) FROM unnest(c.polroles) p (role))"),
		// Those of foreign keys come and go on the tables that others refer to, core's
		// in great numbers. Of partitions pg_dump compares them with their parent's.
		{
			from: "pg_catalog.pg_trigger c" + relation + "tgrelid WHERE c.tgrelid >= " + firstUser +
				" AND (NOT c.tgisinternal OR c.tgparentid <> 0 OR c.tgrelid IN (SELECT partrelid FROM pg_catalog.pg_partitioned_table))", schema: ofClass, table: "c.tgrelid", id: "c.oid::int8",
			// A trigger of a user depends on its table, one of a foreign key on that.
			direct: `c.oid = ANY(ARRAY(SELECT d.objid FROM pg_catalog.pg_depend d WHERE d.refclassid = 'pg_catalog.pg_class'::regclass
				AND d.refobjid = ANY($1::oid[]) AND d.refobjsubid = 0 AND d.classid = 'pg_catalog.pg_trigger'::regclass))`,
		},
		{from: "pg_catalog.pg_enum c JOIN pg_catalog.pg_type t ON t.oid = c.enumtypid", schema: "t.typnamespace", id: "c.oid::int8"},
		{from: "pg_catalog.pg_range c JOIN pg_catalog.pg_type t ON t.oid = c.rngtypid", schema: "t.typnamespace", id: "c.rngtypid::int8"},
		{from: "pg_catalog.pg_aggregate c JOIN pg_catalog.pg_proc p ON p.oid = c.aggfnoid", schema: "p.pronamespace", id: "c.aggfnoid::oid::int8"},
		{from: "pg_catalog.pg_amop c JOIN pg_catalog.pg_opfamily f ON f.oid = c.amopfamily", schema: "f.opfnamespace", id: "c.oid::int8"},
		{from: "pg_catalog.pg_amproc c JOIN pg_catalog.pg_opfamily f ON f.oid = c.amprocfamily", schema: "f.opfnamespace", id: "c.oid::int8"},
		{
			from: "pg_catalog.pg_ts_config_map c JOIN pg_catalog.pg_ts_config f ON f.oid = c.mapcfg", schema: "f.cfgnamespace",
			id: "(c.mapcfg::int8 << 16) + c.maptokentype * 100 + c.mapseqno",
		},
		about("pg_description", "(c.objoid::int8 << 16) + c.objsubid"),
		about("pg_seclabel", "(c.objoid::int8 << 16) + c.objsubid", "c.provider"),
		about("pg_init_privs", "(c.objoid::int8 << 16) + c.objsubid", "c.initprivs::text"),
		// Members of extensions, and what depends on one.
		{
			from: "pg_catalog.pg_depend c WHERE c.refclassid = 'pg_catalog.pg_extension'::regclass AND c.deptype IN ('e', 'x')", schema: noSchema,
			id: "(c.objid::int8 << 31) + c.refobjid::int8", more: []string{"c.classid", "c.deptype"},
		},
		none("pg_extension"),
		none("pg_cast"),
		none("pg_transform"),
		none("pg_am"),
		none("pg_language", user+"(c.lanowner)", "c.lanacl::text"),
		none("pg_foreign_data_wrapper", user+"(c.fdwowner)", "c.fdwacl::text"),
		none("pg_foreign_server", user+"(c.srvowner)", "c.srvacl::text"),
		{
			from: userMappings + " c", schema: noSchema, id: "c.umid::int8",
			more: []string{"-", "c.srvname", "c.usename", "c.umoptions"},
		},
		none("pg_event_trigger", user+"(c.evtowner)"),
		none("pg_publication", user+"(c.pubowner)"),
	}
	if versionNum < minCatalogState {
		i := slices.IndexFunc(list, func(p catalogPart) bool { return strings.HasPrefix(p.from, "pg_catalog.pg_index ") })
		list[i].more = []string{"c.indisvalid", "c.indisready"}
	}
	if versionNum >= 150000 {
		list = append(list,
			catalogPart{from: "pg_catalog.pg_publication_namespace c", schema: "c.pnnspid", id: "c.oid::int8"})
	}
	return list
}

// sql is the query for a part: for each schema, how many rows and the sum of
// their hashes. some limits it to schemas ($1), or relations ($1) in them.
func (p catalogPart) sql(f *Fingerprinter, some, partitions bool) string {
	more := p.more
	hash := "pg_catalog.hashtextextended(c.xmin::text, " + p.id + ")"
	if len(more) > 0 || p.whole != "" {
		row := []string{p.id}
		switch {
		case p.whole != "":
			row = append(row, f.row(p.whole, "c")...)
		case more[0] == "-": // what is listed is all there is to it
			more = more[1:]
		default:
			row = append(row, "c.xmin::text")
		}
		hash = f.quickHash(append(row, more...)...)
	}
	if p.rarely != "" {
		hash = "CASE WHEN " + p.rarely + " IS NULL THEN " + hash + " ELSE " + f.quickHash(p.id, "c.xmin::text", p.rarely+"::text") + " END"
	}
	from, where, limited := strings.Cut(p.from, " WHERE ")
	where = "(" + where + ")"
	ofSome := cmp.Or(p.table, p.schema) + " = ANY($1::oid[])"
	if p.direct != "" && !partitions {
		ofSome = p.direct
	}
	switch {
	case some && limited:
		where += " AND " + ofSome
	case some:
		where = ofSome
	case !limited:
		where = "true"
	}
	return "SELECT " + p.schema + ", count(*), sum(" + hash + ")::text FROM " + from + " WHERE " + where + " GROUP BY 1"
}

// ReadCatalogDigests reads the digests of schemas and of core, which consists of
// the given schemas and what is in none. No schemas means all. The sessions, of
// one snapshot, share the work.
func ReadCatalogDigests(ctx context.Context, sessions []Querier, versionNum int, core, schemas []uint32) (*CatalogDigests, error) {
	d, err := readCatalogDigests(ctx, sessions, versionNum, core, schemas)
	if err != nil {
		return nil, fmt.Errorf("read digests of catalogs: %w", err)
	}
	return d, nil
}

func readCatalogDigests(ctx context.Context, sessions []Querier, versionNum int, core, schemas []uint32) (*CatalogDigests, error) {
	q := sessions[0]
	f, err := NewFingerprinter(ctx, q)
	if err != nil {
		return nil, err
	}
	// User objects may stand in a schema that an extension brought.
	rows, err := q.Query(ctx, `
		SELECT objid FROM pg_catalog.pg_depend
		WHERE refclassid = 'pg_catalog.pg_extension'::regclass AND classid = 'pg_catalog.pg_namespace'::regclass AND deptype = 'e'`)
	if err != nil {
		return nil, err
	}
	ofExtensions, err := pgx.CollectRows(rows, pgx.RowTo[uint32])
	if err != nil {
		return nil, err
	}
	core = slices.Concat(core, systemSchemas, ofExtensions, []uint32{NoSchema})
	some := schemas != nil
	var relations []uint32
	var partitions bool
	if some {
		schemas = slices.Concat(schemas, core)
		if relations, err = relationsOf(ctx, q, schemas); err != nil {
			return nil, err
		}
		if err = q.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_catalog.pg_partitioned_table)`).Scan(&partitions); err != nil {
			return nil, err
		}
	}

	parts := catalogParts(versionNum)
	sums := make([][]catalogSum, len(parts))
	var next atomic.Int64
	g, groupCtx := errgroup.WithContext(ctx)
	for _, q := range sessions {
		g.Go(func() error {
			for i := int(next.Add(1)) - 1; i < len(parts); i = int(next.Add(1)) - 1 {
				p := parts[i]
				some := some && p.schema != noSchema
				var args []any
				switch {
				case some && p.table != "":
					args = []any{relations}
				case some:
					args = []any{schemas}
				}
				rows, err := q.Query(groupCtx, p.sql(f, some, partitions), args...)
				if err != nil {
					return err
				}
				if sums[i], err = pgx.CollectRows(rows, pgx.RowToStructByPos[catalogSum]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}

	isCore := map[uint32]bool{}
	for _, oid := range core {
		isCore[oid] = true
	}
	lines := map[uint32][]string{}
	for i, list := range sums {
		for _, s := range list {
			if isCore[s.Schema] {
				lines[NoSchema] = append(lines[NoSchema], fmt.Sprintf("%d %d %d %s\n", i, s.Schema, s.Rows, s.Sum))
			} else {
				lines[s.Schema] = append(lines[s.Schema], fmt.Sprintf("%d %d %s\n", i, s.Rows, s.Sum))
			}
		}
	}
	d := &CatalogDigests{Core: catalogDigest(versionNum, lines[NoSchema]), Schemas: map[uint32]string{}}
	for schema, of := range lines {
		if schema != NoSchema {
			d.Schemas[schema] = catalogDigest(versionNum, of)
		}
	}
	var count int64
	var sum *string
	err = q.QueryRow(ctx, `SELECT count(*), sum(`+f.quickHash("c.oid::int8", "c.xmin::text", "pg_catalog.pg_get_userbyid(c.lomowner)", "c.lomacl::text")+
		`)::text FROM pg_catalog.pg_largeobject_metadata c`).Scan(&count, &sum)
	if err != nil {
		return nil, err
	}
	if sum != nil {
		d.LargeObjects = catalogDigest(versionNum, []string{fmt.Sprint(count, *sum)})
	}
	return d, nil
}

// catalogSum is what a part has of one schema.
type catalogSum struct {
	Schema uint32
	Rows   int64
	Sum    string
}

// CatalogState tells in little time that no digest has changed since an earlier
// moment of the same history: where no row is as young as that moment, and there
// are as many as there were, they are the same ones.
type CatalogState struct {
	// Sum is the same for two moments only if the catalogs had as many rows, and
	// roles and tablespaces, whose names digests hold, were called the same.
	Sum string
	// age is how many transactions ago the youngest row was written.
	age int64
}

// minCatalogState is the first version that makes an index valid by writing its
// row anew, instead of over what it was.
const minCatalogState = 140000

// ReadCatalogState reads the state of the catalogs that digests are made of; nil
// where the server is too old.
func ReadCatalogState(ctx context.Context, tx Querier, versionNum int) (*CatalogState, error) {
	if versionNum < minCatalogState {
		return nil, nil
	}
	tables := []string{"pg_catalog.pg_largeobject_metadata"}
	counts := []string{"SELECT 'lo' AS name, count(*) AS rows, min(age(c.xmin)) AS age FROM pg_catalog.pg_largeobject_metadata c"}
	for _, p := range catalogParts(versionNum) {
		table, _, _ := strings.Cut(p.from, " ")
		if table == userMappings || slices.Contains(tables, table) {
			continue
		}
		from := table + " c"
		if table == "pg_catalog.pg_namespace" { // not those that temporary tables make
			from = p.from
		}
		tables = append(tables, table)
		counts = append(counts, "SELECT '"+table+"', count(*), min(age(c.xmin)) FROM "+from)
	}
	s := &CatalogState{}
	var found string
	err := tx.QueryRow(ctx, `
		WITH catalog AS MATERIALIZED (`+strings.Join(counts, " UNION ALL ")+`)
		SELECT (SELECT min(age) FROM catalog), pg_catalog.concat_ws(E'\n',
			(SELECT string_agg(name || ' ' || rows, ' ' ORDER BY name) FROM catalog),
			(SELECT pg_catalog.md5(string_agg(oid || ' ' || pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(oid)), ' ' ORDER BY oid)) FROM pg_catalog.pg_roles),
			(SELECT pg_catalog.md5(string_agg(oid || ' ' || pg_catalog.quote_ident(spcname), ' ' ORDER BY oid)) FROM pg_catalog.pg_tablespace),
			(SELECT pg_catalog.md5(string_agg(c::text, ' ' ORDER BY umid)) FROM `+userMappings+` c))`).Scan(&s.age, &found)
	if err != nil {
		return nil, fmt.Errorf("count rows of catalogs: %w", err)
	}
	s.Sum = catalogDigest(versionNum, []string{found})
	return s, nil
}

// SameSince reports whether the catalogs are what they were at an earlier
// snapshot, given as the text of pg_current_snapshot, which had this sum. It is
// to be asked on the transaction that read the state, and means something only
// where the server has the history of that snapshot, see CheckSeal.
func (s *CatalogState) SameSince(ctx context.Context, tx Querier, snapshot, sum string) (bool, error) {
	if s == nil || sum == "" || s.Sum != sum {
		return false, nil
	}
	xmin, _, _ := strings.Cut(snapshot, ":")
	var age int64
	if err := tx.QueryRow(ctx, `SELECT age($1::text::xid)`, xid32(xmin)).Scan(&age); err != nil {
		return false, fmt.Errorf("compare ages of catalogs: %w", err)
	}
	return s.age > age && age >= 0, nil
}

// relationsOf lists what users have in schemas of pg_class. It has no index by
// schema: relations are found through their dependencies on it, their indexes
// through them, and composite types through their types.
func relationsOf(ctx context.Context, q Querier, schemas []uint32) ([]uint32, error) {
	rows, err := q.Query(ctx, `
		WITH own AS (
			SELECT d.objid FROM pg_catalog.pg_depend d
			WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = ANY($1))
		SELECT objid FROM own
		UNION ALL SELECT i.indexrelid FROM pg_catalog.pg_index i JOIN own ON own.objid = i.indrelid
		UNION ALL SELECT t.typrelid FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_type t ON t.oid = d.objid
			WHERE d.classid = 'pg_catalog.pg_type'::regclass AND d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = ANY($1)
			AND t.typrelid >= `+firstUser, schemas)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[uint32])
}

// systemSchemas is pg_catalog, in which there may be what users added. What they
// add to information_schema pg_dump leaves out.
var systemSchemas = []uint32{11}

func catalogDigest(versionNum int, lines []string) string {
	slices.Sort(lines)
	h := sha256.New()
	fmt.Fprintf(h, "%s %d\n", catalogDigestVersion, versionNum)
	for _, line := range lines {
		h.Write([]byte(line))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// quickHash is the hash of a row of these columns, not as strong as that of a
// fingerprint.
func (f *Fingerprinter) quickHash(columns ...string) string {
	row := "ROW(" + strings.Join(columns, ", ") + ")"
	if f.version < 140000 {
		return "pg_catalog.hashtextextended(" + row + "::text, 0)"
	}
	// Of a record's hash every column is a summand: without hashing it again, two
	// rows that exchange values would add up to the same.
	return "pg_catalog.hashtextextended(pg_catalog.hash_record_extended(" + row + ", 0)::text, 0)"
}
