package pg

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// fingerprintAlgorithm begins every fingerprint. It changes with whatever is
// hashed, so that fingerprints of different releases never compare as equal.
const fingerprintAlgorithm = "tk1"

// A Fingerprinter takes fingerprints of definitions: of all that the server
// holds from which pg_dump --schema-only writes a schema's script. Where two
// are equal, one pg_dump writes the same script, whatever happened to the rows
// in between.
//
// The fingerprints hold the content of catalog rows and not their xmin, which a
// cluster that was set back may use again. Covered are
//   - all columns of the rows that belong to the schema, as far as they are not
//     about storage or statistics (see fingerprintSkipped): a column that a
//     later server has is covered by itself;
//   - roles and tablespaces by name, since the script names them so;
//   - what the schema's objects use elsewhere, with all that in turn is used
//     there, as pg_depend has it: its names, the columns of tables and composite
//     types, versions of extensions, but not the bodies of functions;
//   - what the server looks at when it decides how to print: functions,
//     operators, casts and operator classes that somebody added to pg_catalog
//     or to types of the system;
//   - the version of the server, but not that of pg_dump.
//
// Each catalog row becomes a hash of 64 bits, the rows of a catalog their sum,
// which needs no order, and the sums one SHA-256. A changed row leaves the sum
// as it was with a chance of 1 in 2^64: rows change by accident, not to deceive.
// Hashing the row's own hash once more makes it impossible that two rows that
// exchange their values add up to the same.
//
// The statements read under the session's snapshot, except that PostgreSQL
// turns roles into names as they are at that moment.
type Fingerprinter struct {
	q       Querier
	version int // server_version_num
	columns map[string][]catalogColumn
	many    int // relations: see manyRelations
}

type catalogColumn struct{ name, kind string }

// fingerprintSkipped are the columns that pg_dump has no use for and that
// change without a change of definitions, and some that repeat what another
// column or catalog says. The OIDs of indexes are among them, since REINDEX
// CONCURRENTLY changes them: names, unique in the schema, stand for indexes.
var fingerprintSkipped = map[string][]string{
	"pg_class": {
		"relfilenode", "relpages", "reltuples", "relallvisible", "relallfrozen", "relfrozenxid", "relminmxid", "relrewrite",
		"reltoastrelid", "relhasindex", "relhasrules", "relhastriggers", "relhassubclass", "reltablespace",
	},
	"pg_attribute":  {"attcacheoff", "attlen", "attbyval", "attalign", "atthasmissing", "attmissingval", "attoptions"},
	"pg_constraint": {"conindid"},
	"pg_index":      {"indexrelid", "indcheckxmin"},
	"pg_trigger":    {"tgconstrindid"},
	"pg_type":       {"typarray"},
	"pg_extension":  {"extconfig", "extcondition"}, // which rows to copy, not definitions
	// The progress of replication.
	"pg_subscription": {"subskiplsn"},
	"pg_policy":       {"polroles"},
	"pg_default_acl":  {"defaclrole"},
}

// NewFingerprinter prepares for taking fingerprints through q, whose session
// has to have an empty search_path and whose transaction a snapshot that stays.
func NewFingerprinter(ctx context.Context, q Querier) (*Fingerprinter, error) {
	f := &Fingerprinter{q: q, columns: map[string][]catalogColumn{}, many: manyRelations}
	rows, err := q.Query(ctx, `
		SELECT current_setting('server_version_num')::int, c.relname::text,
			array_agg(a.attname::text ORDER BY a.attnum), array_agg(t.typname::text ORDER BY a.attnum)
		FROM pg_catalog.pg_class c
		JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
		JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
		WHERE c.relname = ANY($1) AND c.relnamespace = 'pg_catalog'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped
		GROUP BY c.relname`, fingerprintCatalogs)
	if err != nil {
		return nil, fmt.Errorf("read the catalogs' columns: %w", err)
	}
	var catalog string
	var names, kinds []string
	_, err = pgx.ForEachRow(rows, []any{&f.version, &catalog, &names, &kinds}, func() error {
		for i := range names {
			f.columns[catalog] = append(f.columns[catalog], catalogColumn{names[i], kinds[i]})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the catalogs' columns: %w", err)
	}
	return f, nil
}

// fingerprintCatalogs are the catalogs of which whole rows are hashed, some in
// later versions only.
var fingerprintCatalogs = []string{
	"pg_aggregate", "pg_am", "pg_amop", "pg_amproc", "pg_attrdef", "pg_attribute", "pg_cast", "pg_class", "pg_collation",
	"pg_constraint", "pg_conversion", "pg_default_acl", "pg_description", "pg_enum", "pg_event_trigger", "pg_extension",
	"pg_foreign_data_wrapper", "pg_foreign_server", "pg_foreign_table", "pg_index", "pg_inherits", "pg_init_privs", "pg_language",
	"pg_largeobject_metadata", "pg_namespace", "pg_opclass", "pg_operator", "pg_opfamily", "pg_partitioned_table",
	"pg_policy", "pg_proc", "pg_publication", "pg_publication_namespace", "pg_publication_rel", "pg_range", "pg_rewrite",
	"pg_seclabel", "pg_sequence", "pg_statistic_ext", "pg_subscription", "pg_transform", "pg_trigger", "pg_ts_config",
	"pg_ts_config_map", "pg_ts_dict", "pg_ts_parser", "pg_ts_template", "pg_type", "pg_user_mappings",
}

// hashable are the types that record_hash takes as they are; a cast to another
// that it takes, or to text, stands for the rest.
var hashable = map[string]string{
	"bool": "", "char": "", "name": "", "int2": "", "int4": "", "int8": "", "float4": "", "oid": "", "text": "", "bytea": "", "oidvector": "",
	"_text": "", "_oid": "", "_int2": "", "_char": "",
	"regproc": "::oid", "int2vector": "::int2[]",
}

// row lists the columns of a catalog under an alias as they enter the hash.
func (f *Fingerprinter) row(catalog, alias string) []string {
	var list []string
	for _, c := range f.columns[catalog] {
		column := alias + "." + c.name
		cast, ok := hashable[c.kind]
		switch {
		case slices.Contains(fingerprintSkipped[catalog], c.name):
			continue
		case c.kind == "oid" && strings.HasSuffix(c.name, "owner"):
			column = "pg_catalog.pg_get_userbyid(" + column + ")"
		case catalog == "pg_index" && c.kind == "pg_node_tree":
			// REINDEX CONCURRENTLY forgets at which place of a statement it was. A
			// blank within a name has a backslash before it.
			column = "pg_catalog.regexp_replace(" + column + "::text, ' :location -?[0-9]+', '', 'g')"
		case !ok:
			column += "::text" // names of roles in it are those of now
		default:
			column += cast
		}
		list = append(list, column)
	}
	return list
}

// hash is the expression for the hash of a row of these columns.
func (f *Fingerprinter) hash(columns ...string) string {
	row := "ROW(" + strings.Join(columns, ", ") + ")"
	if f.version < 140000 {
		return "pg_catalog.hashtextextended(" + row + "::text, 0)"
	}
	return "pg_catalog.hashtextextended(pg_catalog.hash_record_extended(" + row + ", 0)::text, 0)"
}

// digests is a query of many parts, each of which digests some rows by schema.
type digests struct {
	f     *Fingerprinter
	parts []string
}

// add adds a part: rows from a FROM clause and what follows it, in which schema
// is theirs.
func (d *digests) add(name, schema, from string, columns ...string) {
	d.addHash(name, schema, from, d.f.hash(columns...))
}

func (d *digests) addHash(name, schema, from, hash string) {
	d.parts = append(d.parts, fmt.Sprintf("SELECT '%s'::text, %s, count(*), sum(%s)::text FROM %s GROUP BY 2", name, schema, hash, from))
}

// catalog adds all columns of the rows c of a catalog, if the server has it,
// and other expressions.
func (d *digests) catalog(name, schema, from string, more ...string) {
	if columns := d.f.row(name, "c"); columns != nil {
		d.add(name, schema, from, append(columns, more...)...)
	}
}

// class is the OID of a catalog, in SQL.
func class(name string) string { return "'pg_catalog." + name + "'::pg_catalog.regclass" }

// namespaceName is the name of the schema of which an expression is the OID.
func namespaceName(oid string) string {
	return "(SELECT n.nspname FROM pg_catalog.pg_namespace n WHERE n.oid = " + oid + ")"
}

// columnOptions leave out what servers from the November 2026 minors on keep
// there for themselves.
const columnOptions = `CASE WHEN c.attoptions IS NULL OR cardinality(c.attoptions) = 1 AND pg_catalog.starts_with(c.attoptions[1], 'pg_attver=') THEN NULL
	ELSE (SELECT array_agg(o.option) FROM unnest(c.attoptions) o (option) WHERE NOT pg_catalog.starts_with(o.option, 'pg_attver=')) END`

func tablespaceName(oid string) string {
	return "CASE WHEN " + oid + " <> 0 THEN (SELECT s.spcname FROM pg_catalog.pg_tablespace s WHERE s.oid = " + oid + ") END"
}

// owned are the objects of some schemas, by catalog, as far as they have a
// dependency on the schema itself.
type owned struct {
	schemas            []uint32
	relations, in      []uint32 // tables, views, sequences, composite types; their schemas
	classes            []uint32 // of the other objects
	objects, objectsIn []uint32
	has                map[string]bool // catalogs that any of them is in, and those of sparse with any row
}

func (f *Fingerprinter) owned(ctx context.Context, schemas []uint32) (*owned, error) {
	o := &owned{schemas: schemas, has: map[string]bool{}}
	var some strings.Builder
	for _, catalog := range sparse {
		if f.columns[catalog] != nil {
			fmt.Fprintf(&some, "\nUNION ALL SELECT '%[1]s', 0, 0, '{}' WHERE EXISTS (SELECT FROM pg_catalog.%[1]s)", catalog)
		}
	}
	rows, err := f.q.Query(ctx, `
		SELECT k.relname::text, d.classid, d.refobjid, d.objects
		FROM (
			SELECT classid, refobjid, array_agg(objid) AS objects FROM pg_catalog.pg_depend
			WHERE refclassid = 'pg_catalog.pg_namespace'::regclass AND refobjid = ANY($1)
			GROUP BY 1, 2
			UNION ALL
			SELECT 'pg_catalog.pg_class'::regclass, t.typnamespace, array_agg(t.typrelid)
			FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_type t ON t.oid = d.objid
			WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = ANY($1)
			AND d.classid = 'pg_catalog.pg_type'::regclass AND t.typtype = 'c'
			GROUP BY 2) d
		JOIN pg_catalog.pg_class k ON k.oid = d.classid`+some.String(), schemas)
	if err != nil {
		return nil, err
	}
	var catalog string
	var classid, schema uint32
	var oids []uint32
	_, err = pgx.ForEachRow(rows, []any{&catalog, &classid, &schema, &oids}, func() error {
		o.has[catalog] = true
		for _, oid := range oids {
			if catalog == "pg_class" {
				o.relations, o.in = append(o.relations, oid), append(o.in, schema)
				continue
			}
			o.classes, o.objects, o.objectsIn = append(o.classes, classid), append(o.objects, oid), append(o.objectsIn, schema)
		}
		return nil
	})
	return o, err
}

func (o *owned) args() []any {
	return []any{o.schemas, o.relations, o.in, o.classes, o.objects, o.objectsIn}
}

// ownedSQL makes tables of the arrays. That their length is known to the planner
// lets it choose well between a few schemas and all of the database.
const ownedSQL = `
	chosen AS MATERIALIZED (SELECT schema FROM unnest($1::oid[]) AS s (schema)),
	rel AS MATERIALIZED (
		SELECT r.oid, r.schema, c.relkind FROM unnest($2::oid[], $3::oid[]) AS r (oid, schema)
		JOIN pg_catalog.pg_class c ON c.oid = r.oid),
	ix AS MATERIALIZED (
		SELECT x.indexrelid AS oid, r.schema, i.relname FROM rel r
		JOIN pg_catalog.pg_index x ON x.indrelid = r.oid JOIN pg_catalog.pg_class i ON i.oid = x.indexrelid),
	object AS MATERIALIZED (SELECT * FROM unnest($4::oid[], $5::oid[], $6::oid[]) AS o (classid, oid, schema))`

// ofRelation are the catalogs with rows of a relation, by the column that has
// its OID.
var ofRelation = [][2]string{
	{"pg_attrdef", "adrelid"},
	{"pg_sequence", "seqrelid"},
	{"pg_rewrite", "ev_class"},
	{"pg_partitioned_table", "partrelid"},
	{"pg_foreign_table", "ftrelid"},
	{"pg_constraint", "conrelid"},
}

// sparse are catalogs that often are empty, so that nothing need be looked for
// in them.
var sparse = []string{"pg_inherits", "pg_partitioned_table", "pg_foreign_table", "pg_policy", "pg_publication_rel", "pg_seclabel"}

// namespaced are the catalogs of objects with a schema, other than relations.
var namespaced = []string{
	"pg_type", "pg_proc", "pg_operator", "pg_opclass", "pg_opfamily", "pg_collation", "pg_conversion",
	"pg_ts_config", "pg_ts_dict", "pg_ts_parser", "pg_ts_template", "pg_statistic_ext",
}

// ofObject are the catalogs that say more of such an object, by whose it is
// and the column that has its OID.
var ofObject = [][3]string{
	{"pg_enum", "pg_type", "enumtypid"},
	{"pg_range", "pg_type", "rngtypid"},
	{"pg_constraint", "pg_type", "contypid"},
	{"pg_aggregate", "pg_proc", "aggfnoid"},
	{"pg_ts_config_map", "pg_ts_config", "mapcfg"},
}

// castsOf are the casts that users made, up to the operator and the schemas of
// which they are wanted.
const castsOf = `pg_catalog.pg_cast c
	JOIN pg_catalog.pg_type s ON s.oid = c.castsource JOIN pg_catalog.pg_type t ON t.oid = c.casttarget
	LEFT JOIN pg_catalog.pg_description t2 ON t2.objoid = c.oid AND t2.classoid = 'pg_catalog.pg_cast'::regclass
	LEFT JOIN pg_catalog.pg_depend t3 ON t3.classid = 'pg_catalog.pg_cast'::regclass AND t3.objid = c.oid AND t3.deptype IN ('e', 'i')
	WHERE c.oid >= 16384 AND ` + castSchema + ` `

// parts are the rows that belong to the schemas. Which rows pg_dump reads of a
// catalog is said by its functions get..., in pg_dump.c.
func (f *Fingerprinter) parts(o *owned) *digests {
	d := &digests{f: f}
	d.catalog("pg_namespace", "s.schema", `chosen s JOIN pg_catalog.pg_namespace c ON c.oid = s.schema`)
	d.catalog("pg_default_acl", "s.schema", `chosen s JOIN pg_catalog.pg_default_acl c ON c.defaclnamespace = s.schema`, "pg_catalog.pg_get_userbyid(c.defaclrole)")
	d.catalog("pg_extension", "s.schema", `chosen s JOIN pg_catalog.pg_extension c ON c.extnamespace = s.schema`)
	d.catalog("pg_publication_namespace", "s.schema", `chosen s JOIN pg_catalog.pg_publication_namespace c ON c.pnnspid = s.schema JOIN pg_catalog.pg_publication p ON p.oid = c.pnpubid`, "p.pubname")
	d.add("comment of schema", "s.schema", `chosen s JOIN pg_catalog.pg_description c ON c.objoid = s.schema AND c.classoid = `+class("pg_namespace"), f.row("pg_description", "c")...)
	if o.has["pg_seclabel"] {
		d.add("label of schema", "s.schema", `chosen s JOIN pg_catalog.pg_seclabel c ON c.objoid = s.schema AND c.classoid = `+class("pg_namespace"), f.row("pg_seclabel", "c")...)
	}
	d.add("privileges of schema", "s.schema", `chosen s JOIN pg_catalog.pg_init_privs c ON c.objoid = s.schema AND c.classoid = `+class("pg_namespace"), f.row("pg_init_privs", "c")...)
	d.add("extension of schema", "s.schema", `chosen s JOIN pg_catalog.pg_depend c ON c.refclassid = `+class("pg_extension")+` AND c.objid = s.schema AND c.classid = `+class("pg_namespace"), "c.objid", "c.refobjid", "c.deptype")
	// Casts come with the schema of one of their types: see ListCasts.
	d.catalog("pg_cast", castSchema, castsOf+` = ANY($1)`, "t2.description", "t3.deptype", "t3.refobjid")
	if o.has["pg_class"] {
		f.relationParts(d, o)
	}
	for _, catalog := range namespaced {
		if o.has[catalog] {
			d.catalog(catalog, "o.schema", `object o JOIN pg_catalog.`+catalog+` c ON c.oid = o.oid WHERE o.classid = `+class(catalog))
		}
	}
	for _, c := range ofObject {
		if o.has[c[1]] {
			d.catalog(c[0], "o.schema", `object o JOIN pg_catalog.`+c[0]+` c ON c.`+c[2]+` = o.oid WHERE o.classid = `+class(c[1]))
		}
	}
	if o.has["pg_type"] {
		// They decide whether an index says which one it uses.
		d.catalog("pg_opclass", "o.schema", `object o JOIN pg_catalog.pg_opclass c ON c.opcintype = o.oid WHERE c.opcdefault AND o.classid = `+class("pg_type"))
		d.add("comment of constraint", "o.schema", `object o JOIN pg_catalog.pg_constraint k ON k.contypid = o.oid
			JOIN pg_catalog.pg_description c ON c.objoid = k.oid AND c.classoid = `+class("pg_constraint")+` WHERE o.classid = `+class("pg_type"), f.row("pg_description", "c")...)
	}
	if o.has["pg_opclass"] || o.has["pg_opfamily"] {
		for _, member := range []string{"pg_amop", "pg_amproc"} {
			// Both a family and a class may be what one depends on.
			d.catalog(member, "o.schema", `object o JOIN pg_catalog.pg_depend d ON d.refclassid = o.classid AND d.refobjid = o.oid AND d.classid = `+class(member)+`
				JOIN pg_catalog.`+member+` c ON c.oid = d.objid`, "d.refclassid", "d.refobjid", "d.deptype")
		}
	}
	if len(o.objects) > 0 {
		f.about(d, o, "object", "object", "o.classid")
	}
	return d
}

// about adds what there is to any kind of object: comments, labels, membership
// of extensions and the privileges that it had from its extension.
func (f *Fingerprinter) about(d *digests, o *owned, name, table, classid string) {
	d.add("comment of "+name, "o.schema", table+` o JOIN pg_catalog.pg_description c ON c.objoid = o.oid AND c.classoid = `+classid, f.row("pg_description", "c")...)
	if o.has["pg_seclabel"] {
		d.add("label of "+name, "o.schema", table+` o JOIN pg_catalog.pg_seclabel c ON c.objoid = o.oid AND c.classoid = `+classid, f.row("pg_seclabel", "c")...)
	}
	d.add("privileges of "+name, "o.schema", table+` o JOIN pg_catalog.pg_init_privs c ON c.objoid = o.oid AND c.classoid = `+classid, f.row("pg_init_privs", "c")...)
	d.add("extension of "+name, "o.schema", table+` o JOIN pg_catalog.pg_depend c ON c.objid = o.oid AND c.classid = `+classid+` WHERE c.refclassid = `+class("pg_extension"),
		"c.classid", "c.objid", "c.refobjid", "c.deptype")
}

// relationParts are tables, views, sequences and composite types, with all that
// hangs on them.
func (f *Fingerprinter) relationParts(d *digests, o *owned) {
	d.catalog("pg_class", "r.schema", `rel r JOIN pg_catalog.pg_class c ON c.oid = r.oid
		LEFT JOIN pg_catalog.pg_class t ON t.oid = c.reltoastrelid AND t.reloptions IS NOT NULL`,
		tablespaceName("c.reltablespace"), "t.reloptions")
	// The columns of sequences are always the same, those of indexes have nothing
	// of their own but these.
	d.addHash("pg_attribute", "r.schema", `(SELECT oid, schema, relkind = 'S' AS same, NULL::name AS index FROM rel UNION ALL SELECT oid, schema, true, relname FROM ix) r
		JOIN pg_catalog.pg_attribute c ON c.attrelid = r.oid
		WHERE c.attnum > 0 AND NOT r.same OR c.attacl IS NOT NULL
		OR r.index IS NOT NULL AND c.attnum > 0 AND (coalesce(c.attstattarget, -1) >= 0 OR c.attoptions IS NOT NULL AND `+columnOptions+` IS NOT NULL)`,
		"CASE WHEN r.index IS NULL THEN "+f.hash(append(f.row("pg_attribute", "c"), columnOptions)...)+
			" ELSE "+f.hash("r.index", "c.attnum", "c.attstattarget", columnOptions)+" END")
	for _, c := range ofRelation {
		if slices.Contains(sparse, c[0]) && !o.has[c[0]] {
			continue
		}
		d.catalog(c[0], "r.schema", `rel r JOIN pg_catalog.`+c[0]+` c ON c.`+c[1]+` = r.oid`)
	}
	// What pg_dump leaves out of the indexes, invalid ones, comes and goes with
	// CREATE INDEX CONCURRENTLY.
	d.catalog("pg_index", "r.schema", `rel r JOIN pg_catalog.pg_index c ON c.indrelid = r.oid AND (c.indisvalid OR r.relkind = 'p') AND c.indisready
		JOIN pg_catalog.pg_class i ON i.oid = c.indexrelid`,
		"i.relname", "i.relkind", "i.relam", "i.reloptions", "i.relispartition", tablespaceName("i.reltablespace"))
	d.add("comment of index", "r.schema", `ix r JOIN pg_catalog.pg_description c ON c.objoid = r.oid AND c.classoid = `+class("pg_class"), "r.relname", "c.description")
	d.add("extension of index", "r.schema", `ix r JOIN pg_catalog.pg_depend c ON c.objid = r.oid AND c.classid = `+class("pg_class")+` WHERE c.refclassid = `+class("pg_extension"),
		"r.relname", "c.refobjid", "c.deptype")

	trigger := `NOT c.tgisinternal`
	parent := "0"
	if f.version >= 130000 {
		// Those of partitions are printed where their state is another.
		parent = `CASE WHEN c.tgparentid <> 0 THEN (SELECT p.tgenabled FROM pg_catalog.pg_trigger p WHERE p.oid = c.tgparentid) END`
		trigger += ` OR c.tgparentid <> 0 AND c.tgenabled <> ` + parent
	} else {
		trigger += ` OR c.tgconstraint = 0`
	}
	d.catalog("pg_trigger", "r.schema", `rel r JOIN pg_catalog.pg_trigger c ON c.tgrelid = r.oid WHERE `+trigger, parent)
	if o.has["pg_policy"] {
		d.catalog("pg_policy", "r.schema", `rel r JOIN pg_catalog.pg_policy c ON c.polrelid = r.oid`,
			"(SELECT array_agg(pg_catalog.pg_get_userbyid(p.role)::text) FROM unnest(c.polroles) p (role))")
	}
	for _, c := range [][2]string{{"pg_constraint", "conrelid"}, {"pg_trigger", "tgrelid"}, {"pg_policy", "polrelid"}, {"pg_rewrite", "ev_class"}} {
		if c[0] == "pg_policy" && !o.has[c[0]] {
			continue
		}
		d.add("comment of "+c[0], "r.schema", `rel r JOIN pg_catalog.`+c[0]+` k ON k.`+c[1]+` = r.oid
			JOIN pg_catalog.pg_description c ON c.objoid = k.oid AND c.classoid = `+class(c[0]), f.row("pg_description", "c")...)
	}
	d.add("extension of trigger", "r.schema", `rel r JOIN pg_catalog.pg_trigger k ON k.tgrelid = r.oid
		JOIN pg_catalog.pg_depend c ON c.objid = k.oid AND c.classid = `+class("pg_trigger")+` AND c.refclassid = `+class("pg_extension"),
		"c.objid", "c.refobjid", "c.deptype")
	d.add("owner of sequence", "r.schema", `rel r JOIN pg_catalog.pg_depend c ON c.classid = `+class("pg_class")+` AND c.objid = r.oid
		WHERE r.relkind = 'S' AND c.refclassid = `+class("pg_class")+` AND c.deptype IN ('a', 'i')`, "c.objid", "c.refobjid", "c.refobjsubid", "c.deptype")
	if o.has["pg_publication_rel"] {
		d.catalog("pg_publication_rel", "r.schema", `rel r JOIN pg_catalog.pg_publication_rel c ON c.prrelid = r.oid JOIN pg_catalog.pg_publication p ON p.oid = c.prpubid`, "p.pubname")
	}
	f.about(d, o, "relation", "rel", class("pg_class"))

	if o.has["pg_inherits"] {
		f.parentParts(d)
	}
	// Of a table elsewhere a foreign key names no more than this.
	d.add("foreign keys", "r.schema", `(
			SELECT DISTINCT r.schema, c.confrelid, c.confkey FROM rel r JOIN pg_catalog.pg_constraint c ON c.conrelid = r.oid AND c.contype = 'f') r
		JOIN pg_catalog.pg_class p ON p.oid = r.confrelid AND p.relnamespace <> r.schema`,
		"p.oid", "p.relname", "p.relkind", namespaceName("p.relnamespace"), "r.confkey",
		`ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = p.oid AND a.attnum = ANY(r.confkey) ORDER BY a.attnum)`)
}

// parentParts are what tables and indexes have from parents. pg_dump compares
// the columns of a table with those of its parent, wherever that is.
func (f *Fingerprinter) parentParts(d *digests) {
	detached := "false"
	if f.version >= 140000 {
		detached = "h.inhdetachpending"
	}
	d.add("parents", "r.schema", `rel r JOIN pg_catalog.pg_inherits h ON h.inhrelid = r.oid JOIN pg_catalog.pg_class p ON p.oid = h.inhparent`,
		"h.inhrelid", "h.inhparent", "h.inhseqno", detached, "p.relname", namespaceName("p.relnamespace"))
	d.add("parents of indexes", "r.schema", `ix r JOIN pg_catalog.pg_inherits h ON h.inhrelid = r.oid JOIN pg_catalog.pg_class p ON p.oid = h.inhparent`,
		"r.relname", "p.relname", namespaceName("p.relnamespace"))
	outer := `rel r JOIN pg_catalog.pg_inherits h ON h.inhrelid = r.oid JOIN pg_catalog.pg_class p ON p.oid = h.inhparent AND p.relnamespace <> r.schema `
	d.add("columns of parents", "r.schema", outer+`JOIN pg_catalog.pg_attribute c ON c.attrelid = p.oid WHERE c.attnum > 0`, f.row("pg_attribute", "c")...)
	d.add("defaults of parents", "r.schema", outer+`JOIN pg_catalog.pg_attrdef c ON c.adrelid = p.oid`, f.row("pg_attrdef", "c")...)
	d.add("constraints of parents", "r.schema", outer+`JOIN pg_catalog.pg_constraint c ON c.conrelid = p.oid WHERE c.contype IN ('c', 'n')`, f.row("pg_constraint", "c")...)
}

// everywhere adds what has to do with every schema. Its schema is 0.
func (f *Fingerprinter) everywhere(d *digests) {
	d.add("server", "0::oid", `(SELECT) c`, "current_setting('server_version_num')", "pg_catalog.pg_get_userbyid(10)")
	d.add("functions of pg_catalog", "0::oid", `pg_catalog.pg_proc c WHERE c.oid >= 16384 AND c.pronamespace = 'pg_catalog'::regnamespace`,
		"c.oid", "c.proname", "c.proargtypes", "c.proallargtypes", "c.proargmodes", "c.provariadic", "c.pronargdefaults", "c.prokind", "c.prorettype")
	d.add("operators of pg_catalog", "0::oid", `pg_catalog.pg_operator c WHERE c.oid >= 16384 AND c.oprnamespace = 'pg_catalog'::regnamespace`,
		"c.oid", "c.oprname", "c.oprleft", "c.oprright")
	d.add("casts of pg_catalog", "0::oid", `pg_catalog.pg_cast c WHERE c.oid >= 16384 AND c.castsource < 16384 AND c.casttarget < 16384`,
		"c.castsource", "c.casttarget", "c.castcontext", "c.castmethod")
	d.add("operator classes of pg_catalog", "0::oid", `pg_catalog.pg_opclass c WHERE c.oid >= 16384 AND c.opcintype < 16384 AND c.opcdefault`,
		"c.oid", "c.opcmethod", "c.opcintype")
}

// homeOf is ownerOf with what comes back with a schema though it is in none.
const homeOf = `
	CASE d.classid
		WHEN 'pg_catalog.pg_cast'::regclass THEN (
			SELECT ` + castSchema + ` FROM pg_catalog.pg_cast c
			JOIN pg_catalog.pg_type s ON s.oid = c.castsource JOIN pg_catalog.pg_type t ON t.oid = c.casttarget
			WHERE c.oid = d.objid)
		WHEN 'pg_catalog.pg_publication_rel'::regclass THEN (SELECT c.relnamespace FROM pg_catalog.pg_publication_rel p JOIN pg_catalog.pg_class c ON c.oid = p.prrelid WHERE p.oid = d.objid)
		WHEN 'pg_catalog.pg_extension'::regclass THEN (SELECT x.extnamespace FROM pg_catalog.pg_extension x WHERE x.oid = d.objid)
		ELSE ` + ownerOf + ` END`

// telling is true of the dependencies d that may lead out of a schema. The
// automatic and internal ones hold a thing together, mostly: parents, the tables
// of constraint triggers and other exceptions are looked up elsewhere. What is
// known of foreign keys is in a part of its own, as they name so little.
const telling = `d.refclassid <> 0
	AND (d.deptype NOT IN ('a', 'i') OR d.classid IN ('pg_catalog.pg_amop'::regclass, 'pg_catalog.pg_amproc'::regclass,
		'pg_catalog.pg_opclass'::regclass, 'pg_catalog.pg_statistic_ext'::regclass))
	AND NOT (d.classid = 'pg_catalog.pg_constraint'::regclass AND d.refclassid = 'pg_catalog.pg_class'::regclass
		AND EXISTS (SELECT FROM pg_catalog.pg_constraint k WHERE k.oid = d.objid AND k.contype = 'f'))`

// edgesOfObjects finds the dependencies object by object, through indexes.
const edgesOfObjects = `
	own AS MATERIALIZED (
		SELECT 'pg_catalog.pg_class'::regclass::oid AS classid, oid, schema FROM rel
		UNION ALL SELECT * FROM object
		UNION ALL SELECT 'pg_catalog.pg_class'::regclass, oid, schema FROM ix
		UNION ALL SELECT 'pg_catalog.pg_attrdef'::regclass, c.oid, r.schema FROM rel r JOIN pg_catalog.pg_attrdef c ON c.adrelid = r.oid
		UNION ALL SELECT 'pg_catalog.pg_constraint'::regclass, c.oid, r.schema FROM rel r JOIN pg_catalog.pg_constraint c ON c.conrelid = r.oid
		UNION ALL SELECT 'pg_catalog.pg_constraint'::regclass, c.oid, o.schema FROM object o JOIN pg_catalog.pg_constraint c ON c.contypid = o.oid
			WHERE o.classid = 'pg_catalog.pg_type'::regclass
		UNION ALL SELECT 'pg_catalog.pg_rewrite'::regclass, c.oid, r.schema FROM rel r JOIN pg_catalog.pg_rewrite c ON c.ev_class = r.oid
		UNION ALL SELECT 'pg_catalog.pg_trigger'::regclass, c.oid, r.schema FROM rel r JOIN pg_catalog.pg_trigger c ON c.tgrelid = r.oid WHERE NOT c.tgisinternal
		UNION ALL SELECT 'pg_catalog.pg_policy'::regclass, c.oid, r.schema FROM rel r JOIN pg_catalog.pg_policy c ON c.polrelid = r.oid
		UNION ALL SELECT 'pg_catalog.pg_publication_rel'::regclass, c.oid, r.schema FROM rel r JOIN pg_catalog.pg_publication_rel c ON c.prrelid = r.oid
		UNION ALL SELECT 'pg_catalog.pg_amop'::regclass, c.oid, o.schema FROM object o JOIN pg_catalog.pg_amop c ON c.amopfamily = o.oid
			WHERE o.classid = 'pg_catalog.pg_opfamily'::regclass
		UNION ALL SELECT 'pg_catalog.pg_amproc'::regclass, c.oid, o.schema FROM object o JOIN pg_catalog.pg_amproc c ON c.amprocfamily = o.oid
			WHERE o.classid = 'pg_catalog.pg_opfamily'::regclass
		UNION ALL SELECT 'pg_catalog.pg_cast'::regclass, c.oid, ` + castSchema + `
			FROM pg_catalog.pg_cast c JOIN pg_catalog.pg_type s ON s.oid = c.castsource JOIN pg_catalog.pg_type t ON t.oid = c.casttarget
			WHERE c.oid >= 16384 AND ` + castSchema + ` = ANY($1)
	),
	edge AS MATERIALIZED (
		SELECT DISTINCT o.schema, d.refclassid, d.refobjid
		FROM own o JOIN pg_catalog.pg_depend d ON d.classid = o.classid AND d.objid = o.oid
		WHERE ` + telling

// edgesOfAll finds the same in one pass over all dependencies. Those of tables
// on their own schema, and those of internal triggers, are left out early.
const edgesOfAll = `
	edge AS MATERIALIZED (
		SELECT DISTINCT ` + homeOf + ` AS schema, d.refclassid, d.refobjid FROM pg_catalog.pg_depend d
		WHERE ` + telling + `
		AND (d.refclassid <> 'pg_catalog.pg_namespace'::regclass OR d.classid <> 'pg_catalog.pg_class'::regclass
			OR d.objid IN (SELECT x.indexrelid FROM pg_catalog.pg_index x))
		AND (d.classid <> 'pg_catalog.pg_trigger'::regclass
			OR NOT (SELECT g.tgisinternal FROM pg_catalog.pg_trigger g WHERE g.oid = d.objid))`

// edgesOfDatabase are the dependencies of objects that are in no schema.
const edgesOfDatabase = `
		UNION ALL
		SELECT DISTINCT 0::oid, d.refclassid, d.refobjid FROM pg_catalog.pg_depend d
		WHERE d.refclassid <> 0 AND (d.classid IN (
			'pg_catalog.pg_event_trigger'::regclass, 'pg_catalog.pg_language'::regclass, 'pg_catalog.pg_foreign_data_wrapper'::regclass,
			'pg_catalog.pg_foreign_server'::regclass, 'pg_catalog.pg_transform'::regclass, 'pg_catalog.pg_am'::regclass, 'pg_catalog.pg_publication'::regclass)
			OR d.classid = 'pg_catalog.pg_cast'::regclass AND (` + homeOf + `) = 'pg_catalog'::regnamespace)`

// manyRelations is from where on one pass over all dependencies is cheaper: it
// takes about as long as it takes to look up those of so many relations.
const manyRelations = 5000

// outsideSQL digests what the objects of each schema use elsewhere, $1 to $6
// being those of owned. Each step of reach goes from an object to those without
// which it would not be what it is.
func (f *Fingerprinter) outsideSQL(edges string) string {
	var shapes []string
	shape := func(catalog string, columns ...string) {
		shapes = append(shapes, `SELECT t.classid, t.objid, `+f.hash(columns...)+` AS digest
			FROM thing t JOIN pg_catalog.`+catalog+` c ON c.oid = t.objid WHERE t.classid = `+class(catalog))
	}
	shape("pg_class", "CASE WHEN c.relkind NOT IN ('i', 'I') THEN c.oid END", "c.relname", namespaceName("c.relnamespace"), "c.relkind",
		`CASE WHEN c.relkind NOT IN ('i', 'I', 'S') THEN (
			SELECT sum(`+f.hash("a.attnum", "a.attname", "a.atttypid", "a.atttypmod", "a.attcollation", "a.attisdropped")+`)::text
			FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0) END`)
	shape("pg_type", "c.oid", "c.typname", namespaceName("c.typnamespace"), "c.typtype", "c.typrelid", "c.typelem", "c.typbasetype", "c.typtypmod", "c.typndims", "c.typcollation",
		`(SELECT sum(`+f.hash("o.oid", "o.opcmethod")+`)::text FROM pg_catalog.pg_opclass o WHERE o.opcintype = c.oid AND o.opcdefault)`)
	shape("pg_proc", "c.oid", "c.proname", namespaceName("c.pronamespace"), "c.prokind", "c.prorettype", "c.proretset", "c.provariadic",
		"c.proargtypes", "c.proallargtypes", "c.proargmodes", "c.proargnames")
	shape("pg_operator", "c.oid", "c.oprname", namespaceName("c.oprnamespace"), "c.oprleft", "c.oprright")
	shape("pg_opclass", "c.oid", "c.opcname", namespaceName("c.opcnamespace"), "c.opcmethod", "c.opcintype", "c.opcdefault", "c.opcfamily")
	shape("pg_opfamily", "c.oid", "c.opfname", namespaceName("c.opfnamespace"), "c.opfmethod")
	shape("pg_collation", "c.oid", "c.collname", namespaceName("c.collnamespace"))
	shape("pg_ts_config", "c.oid", "c.cfgname", namespaceName("c.cfgnamespace"))
	shape("pg_ts_dict", "c.oid", "c.dictname", namespaceName("c.dictnamespace"))
	shape("pg_ts_parser", "c.oid", "c.prsname", namespaceName("c.prsnamespace"))
	shape("pg_ts_template", "c.oid", "c.tmplname", namespaceName("c.tmplnamespace"))
	shape("pg_constraint", "c.oid", "c.conname", "c.conrelid", "c.contypid", "c.contype")
	shape("pg_trigger", "c.oid", "c.tgname", "c.tgrelid", "c.tgenabled")
	shape("pg_namespace", "c.oid", "c.nspname")
	shape("pg_extension", "c.oid", "c.extname", "c.extversion", namespaceName("c.extnamespace"))
	shape("pg_language", "c.oid", "c.lanname")
	shape("pg_am", "c.oid", "c.amname")
	shape("pg_foreign_data_wrapper", "c.oid", "c.fdwname")
	shape("pg_foreign_server", "c.oid", "c.srvname")
	return `WITH RECURSIVE ` + ownedSQL + `, ` + edges + `),
	mention AS (
		SELECT * FROM edge
		UNION SELECT o.schema, 'pg_catalog.pg_operator'::regclass, other.oid
		FROM object o JOIN pg_catalog.pg_operator c ON c.oid = o.oid CROSS JOIN unnest(ARRAY[c.oprcom, c.oprnegate]::oid[]) other (oid)
		WHERE o.classid = 'pg_catalog.pg_operator'::regclass AND other.oid <> 0
		UNION SELECT r.schema, 'pg_catalog.pg_class'::regclass, c.tgconstrrelid
		FROM rel r JOIN pg_catalog.pg_trigger c ON c.tgrelid = r.oid WHERE NOT c.tgisinternal AND c.tgconstrrelid <> 0
	),
	outside AS MATERIALIZED (
		SELECT d.schema, d.classid, d.objid FROM (SELECT schema, refclassid, refobjid FROM mention) AS d (schema, classid, objid)
		WHERE d.schema = ANY($1) AND (` + homeOf + `) <> d.schema
	),
	reach AS (
		SELECT DISTINCT classid AS rootclass, objid AS root, classid, objid FROM outside
		UNION
		SELECT r.rootclass, r.root, s.classid, s.objid FROM reach r CROSS JOIN LATERAL (
			SELECT d.refclassid, d.refobjid FROM pg_catalog.pg_depend d WHERE d.classid = r.classid AND d.objid = r.objid AND d.refclassid <> 0
			UNION ALL
			SELECT 'pg_catalog.pg_class'::regclass, t.typrelid FROM pg_catalog.pg_type t
			WHERE r.classid = 'pg_catalog.pg_type'::regclass AND t.oid = r.objid AND t.typrelid <> 0
			UNION ALL -- what a view reads
			SELECT 'pg_catalog.pg_rewrite'::regclass, w.oid FROM pg_catalog.pg_rewrite w
			WHERE r.classid = 'pg_catalog.pg_class'::regclass AND w.ev_class = r.objid AND w.rulename = '_RETURN'
		) s (classid, objid)
	),
	thing AS MATERIALIZED (SELECT DISTINCT classid, objid FROM reach),
	shape AS MATERIALIZED (` + strings.Join(shapes, "\n\t\tUNION ALL ") + `)
	SELECT 'outside', o.schema, count(*), sum(coalesce(s.digest, ` + f.hash("o.classid", "o.objid") + `))::text
	FROM (SELECT DISTINCT o.schema, r.classid, r.objid FROM outside o JOIN reach r ON r.rootclass = o.classid AND r.root = o.objid) o
	LEFT JOIN shape s USING (classid, objid)
	GROUP BY o.schema`
}

// sums collects the digests of a query, as lines by schema.
func (f *Fingerprinter) sums(ctx context.Context, into map[uint32][]string, sql string, args []any) error {
	rows, err := f.q.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	var name, sum string
	var schema uint32
	var count int64
	_, err = pgx.ForEachRow(rows, []any{&name, &schema, &count, &sum}, func() error {
		into[schema] = append(into[schema], fmt.Sprintf("%s %d %s\n", name, count, sum))
		return nil
	})
	return err
}

// Schemas takes the fingerprints of schemas, by OID. One that does not exist has
// none. What comes back with a tenant is part of its fingerprint, as it is of a
// backup: casts of its types, membership in publications, extensions in the
// schema.
//
// It costs some six round trips, however many schemas there are. Memory grows
// with the number of relations that are asked for at once, some 30 bytes for
// each on both sides, besides 32 MB or two for sorting and hashing on the server.
func (f *Fingerprinter) Schemas(ctx context.Context, schemas []uint32) (map[uint32]string, error) {
	lines, err := f.lines(ctx, schemas, false)
	if err != nil {
		return nil, fmt.Errorf("take fingerprints of schemas: %w", err)
	}
	fingerprints := make(map[uint32]string, len(schemas))
	for _, schema := range schemas {
		if len(lines[schema]) > 0 {
			fingerprints[schema] = fingerprint(lines[schema], lines[0])
		}
	}
	return fingerprints, nil
}

// Core takes the fingerprint of core: of the given schemas, which are public and
// those that only hold extensions, of schemas that belong to an extension, and of
// the database's own objects, as far as pg_dump without --create writes them.
func (f *Fingerprinter) Core(ctx context.Context, schemas []uint32) (string, error) {
	rows, err := f.q.Query(ctx, `
		SELECT oid FROM unnest($1::oid[]) s (oid)
		UNION SELECT objid FROM pg_catalog.pg_depend WHERE classid = 'pg_catalog.pg_namespace'::regclass AND deptype = 'e'
		UNION SELECT 0`, schemas)
	if err == nil {
		schemas, err = pgx.CollectRows(rows, pgx.RowTo[uint32])
	}
	var lines map[uint32][]string
	if err == nil {
		lines, err = f.lines(ctx, schemas, true)
	}
	if err != nil {
		return "", fmt.Errorf("take fingerprint of core: %w", err)
	}
	var all []string
	for schema, list := range lines {
		for _, line := range list {
			all = append(all, fmt.Sprintf("%d %s", schema, line))
		}
	}
	return fingerprint(all), nil
}

// lines are the digests of schemas, by OID. Those that count for all are at 0.
func (f *Fingerprinter) lines(ctx context.Context, schemas []uint32, core bool) (_ map[uint32][]string, err error) {
	restore, err := f.tune(ctx)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err == nil {
			err = restore()
		}
	}()
	o, err := f.owned(ctx, schemas)
	if err != nil {
		return nil, err
	}
	d := f.parts(o)
	f.everywhere(d)
	edges := edgesOfObjects
	switch {
	case core:
		if err := f.database(ctx, d); err != nil {
			return nil, err
		}
		edges += edgesOfDatabase
	case len(o.relations) >= f.many:
		edges = edgesOfAll
	}
	lines := map[uint32][]string{}
	err = f.sums(ctx, lines, d.sql(), o.args())
	if err == nil {
		err = f.sums(ctx, lines, f.outsideSQL(edges), o.args())
	}
	return lines, err
}

// tune tells the planner, for the rest of the transaction or until the returned
// function is called, that catalogs are in memory: with the costs of disks it
// reads all of a catalog for the sake of a few hundred tables.
func (f *Fingerprinter) tune(ctx context.Context) (restore func() error, err error) {
	var old [3]string
	err = f.q.QueryRow(ctx, `SELECT current_setting('seq_page_cost'), current_setting('random_page_cost'), current_setting('work_mem')`).
		Scan(&old[0], &old[1], &old[2])
	set := func(values [3]string) error {
		var done bool
		return f.q.QueryRow(ctx, `
			SELECT (pg_catalog.set_config('seq_page_cost', $1, true), pg_catalog.set_config('random_page_cost', $2, true),
				pg_catalog.set_config('work_mem', $3, true)) IS NOT NULL`, values[0], values[1], values[2]).Scan(&done)
	}
	if err == nil {
		err = set([3]string{"0.02", "0.02", "32MB"})
	}
	if err != nil {
		return nil, fmt.Errorf("set the planner's costs: %w", err)
	}
	return func() error { return set(old) }, nil
}

// ofDatabase are the catalogs of objects that are in no schema and belong to
// core, but for casts.
var ofDatabase = []string{
	"pg_event_trigger", "pg_language", "pg_foreign_data_wrapper", "pg_foreign_server", "pg_transform", "pg_am", "pg_publication",
}

// database adds the rows of the database's own objects, as schema 0.
func (f *Fingerprinter) database(ctx context.Context, d *digests) error {
	var superuser bool
	if err := f.q.QueryRow(ctx, `SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user`).Scan(&superuser); err != nil {
		return fmt.Errorf("read the role's rights: %w", err)
	}
	classes := []string{class("pg_largeobject")}
	for _, catalog := range ofDatabase {
		classes = append(classes, class(catalog))
		d.catalog(catalog, "0::oid", "pg_catalog."+catalog+" c")
	}
	d.catalog("pg_largeobject_metadata", "0::oid", "pg_catalog.pg_largeobject_metadata c")
	d.catalog("pg_user_mappings", "0::oid", "pg_catalog.pg_user_mappings c") // shows what the role may see, as it does to pg_dump
	if superuser {                                                           // pg_dump leaves them out for others
		classes = append(classes, class("pg_subscription"))
		d.catalog("pg_subscription", "0::oid", `pg_catalog.pg_subscription c
			WHERE c.subdbid = (SELECT b.oid FROM pg_catalog.pg_database b WHERE b.datname = current_database())`)
	}
	d.catalog("pg_extension", "0::oid", `pg_catalog.pg_extension c WHERE c.extnamespace = 'pg_catalog'::regnamespace`)
	d.catalog("pg_cast", "0::oid", castsOf+` IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)`, "t2.description", "t3.deptype", "t3.refobjid")

	list := "(" + strings.Join(classes, ", ") + ")"
	own := ` OR c.%[1]s = ` + class("pg_extension") + ` AND c.%[2]s IN (SELECT x.oid FROM pg_catalog.pg_extension x WHERE x.extnamespace = 'pg_catalog'::regnamespace)`
	d.catalog("pg_description", "0::oid", `pg_catalog.pg_description c WHERE c.classoid IN `+list+fmt.Sprintf(own, "classoid", "objoid"))
	d.catalog("pg_seclabel", "0::oid", `pg_catalog.pg_seclabel c WHERE c.classoid IN `+list+fmt.Sprintf(own, "classoid", "objoid"))
	d.catalog("pg_init_privs", "0::oid", `pg_catalog.pg_init_privs c WHERE c.classoid IN `+list+` OR c.objoid < 16384`)
	d.add("extension of database", "0::oid", `pg_catalog.pg_depend c WHERE c.refclassid = `+class("pg_extension")+` AND c.classid IN `+list,
		"c.classid", "c.objid", "c.refobjid", "c.deptype")

	// Of the system's own objects pg_dump writes privileges that were changed.
	d.add("privileges of pg_catalog", "0::oid", `pg_catalog.pg_namespace c WHERE c.nspname = 'pg_catalog'`, "c.nspacl::text")
	d.add("privileges of functions", "0::oid", `pg_catalog.pg_proc c WHERE c.pronamespace = 'pg_catalog'::regnamespace AND c.proacl IS NOT NULL`, "c.oid", "c.proname", "c.proacl::text")
	d.add("privileges of types", "0::oid", `pg_catalog.pg_type c WHERE c.typnamespace = 'pg_catalog'::regnamespace AND c.typacl IS NOT NULL`, "c.oid", "c.typname", "c.typacl::text")
	d.add("privileges of relations", "0::oid", `pg_catalog.pg_class c WHERE c.relnamespace = 'pg_catalog'::regnamespace AND c.relacl IS NOT NULL`, "c.oid", "c.relname", "c.relacl::text")
	d.add("privileges of columns", "0::oid", `pg_catalog.pg_attribute c WHERE c.attrelid < 16384 AND c.attacl IS NOT NULL`, "c.attrelid", "c.attname", "c.attacl::text")
	return nil
}

func (d *digests) sql() string {
	return "WITH " + ownedSQL + "\n" + strings.Join(d.parts, "\nUNION ALL ")
}

// fingerprint hashes lines in an order of their own.
func fingerprint(lines ...[]string) string {
	h := sha256.New()
	for _, l := range slices.Sorted(slices.Values(slices.Concat(lines...))) {
		_, _ = io.WriteString(h, l) // a hash takes everything
	}
	return fingerprintAlgorithm + ":" + hex.EncodeToString(h.Sum(nil)[:16])
}
