package plainsql

import (
	"cmp"
	"fmt"
	"strings"
)

// catalog is one of PostgreSQL's catalogs, seen as descriptions of objects.
type catalog struct {
	name string
	// class, object and column are SQL for the address of the object that a row
	// is about; empty: the catalog itself, the row's OID, 0.
	class, object, column string
	// home is SQL for the OID of the object's schema, 0 where it has none, NULL
	// where that is to be found out by the address.
	home string
	// follows is SQL that is true for objects that come, change and go with
	// others, which are reported; with is the same for those that only go so.
	follows, with string

	since int // the first server_version_num that has it
	// guarded catalogs are hidden from ordinary roles.
	guarded bool
}

func ofRelation(column string) string {
	return "(SELECT r.relnamespace FROM pg_catalog.pg_class r WHERE r.oid = c." + column + ")"
}

func of(catalog, namespace, column string) string {
	return "(SELECT r." + namespace + " FROM pg_catalog." + catalog + " r WHERE r.oid = c." + column + ")"
}

const (
	relationClass = "'pg_catalog.pg_class'::regclass"
	typeClass     = "'pg_catalog.pg_type'::regclass"
	familyClass   = "'pg_catalog.pg_opfamily'::regclass"
	nowhere       = "0::oid"
)

// catalogs are all whose rows a transaction writes when it changes objects. Not
// among them: pg_depend and its like, which follow the others, and statistics.
var catalogs = []catalog{
	{name: "pg_namespace", home: "c.oid"},
	{name: "pg_class", home: "c.relnamespace"},
	{name: "pg_proc", home: "c.pronamespace"},
	// The types of tables' rows, and those of arrays.
	{name: "pg_type", home: "c.typnamespace", follows: `EXISTS (SELECT FROM pg_catalog.pg_class r WHERE r.oid = c.typrelid AND r.relkind <> 'c')
		OR EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.typarray = c.oid)`},
	{name: "pg_constraint", home: "c.connamespace"},
	{name: "pg_operator", home: "c.oprnamespace"},
	{name: "pg_opclass", home: "c.opcnamespace"},
	{name: "pg_opfamily", home: "c.opfnamespace"},
	{name: "pg_collation", home: "c.collnamespace"},
	{name: "pg_conversion", home: "c.connamespace"},
	{name: "pg_statistic_ext", home: "c.stxnamespace"},
	{name: "pg_ts_parser", home: "c.prsnamespace"},
	{name: "pg_ts_dict", home: "c.dictnamespace"},
	{name: "pg_ts_template", home: "c.tmplnamespace"},
	{name: "pg_ts_config", home: "c.cfgnamespace"},
	{name: "pg_default_acl", home: "c.defaclnamespace"},

	{name: "pg_attrdef", home: ofRelation("adrelid"), with: "true"},
	{name: "pg_rewrite", home: ofRelation("ev_class"), with: "c.rulename = '_RETURN'"},
	{name: "pg_policy", home: ofRelation("polrelid")},
	{name: "pg_publication_rel", home: ofRelation("prrelid")},
	{name: "pg_publication_namespace", home: "c.pnnspid", since: 150000},
	// The triggers of a foreign key belong to the schema of the constraint, on
	// both of its tables.
	{name: "pg_trigger", home: "CASE WHEN c.tgisinternal AND c.tgconstraint <> 0 THEN " +
		of("pg_constraint", "connamespace", "tgconstraint") + " ELSE " + ofRelation("tgrelid") + " END", with: "c.tgisinternal"},

	{name: "pg_attribute", class: relationClass, object: "c.attrelid", column: "c.attnum", home: ofRelation("attrelid")},
	{name: "pg_index", class: relationClass, object: "c.indexrelid", home: ofRelation("indexrelid")},
	{name: "pg_inherits", class: relationClass, object: "c.inhparent", home: ofRelation("inhparent")},
	{name: "pg_partitioned_table", class: relationClass, object: "c.partrelid", home: ofRelation("partrelid")},
	{name: "pg_sequence", class: relationClass, object: "c.seqrelid", home: ofRelation("seqrelid")},
	{name: "pg_foreign_table", class: relationClass, object: "c.ftrelid", home: ofRelation("ftrelid")},
	{name: "pg_enum", class: typeClass, object: "c.enumtypid", home: of("pg_type", "typnamespace", "enumtypid")},
	{name: "pg_range", class: typeClass, object: "c.rngtypid", home: of("pg_type", "typnamespace", "rngtypid")},
	{name: "pg_aggregate", class: "'pg_catalog.pg_proc'::regclass", object: "c.aggfnoid::oid", home: of("pg_proc", "pronamespace", "aggfnoid")},
	{name: "pg_amop", class: familyClass, object: "c.amopfamily", home: of("pg_opfamily", "opfnamespace", "amopfamily")},
	{name: "pg_amproc", class: familyClass, object: "c.amprocfamily", home: of("pg_opfamily", "opfnamespace", "amprocfamily")},
	{name: "pg_ts_config_map", class: "'pg_catalog.pg_ts_config'::regclass", object: "c.mapcfg", home: of("pg_ts_config", "cfgnamespace", "mapcfg")},
	{name: "pg_description", class: "c.classoid", object: "c.objoid", column: "c.objsubid", home: "NULL"},
	{name: "pg_seclabel", class: "c.classoid", object: "c.objoid", column: "c.objsubid", home: "NULL"},

	{name: "pg_extension", home: nowhere},
	{name: "pg_publication", home: nowhere},
	{name: "pg_event_trigger", home: nowhere},
	// A cast belongs to the schema of its types, of which one may be built in.
	// Every range type brings a cast to its multirange.
	{name: "pg_cast", home: "(SELECT CASE WHEN a.typnamespace IN (b.typnamespace, 11) THEN b.typnamespace WHEN b.typnamespace = 11 THEN a.typnamespace ELSE 0 END" +
		" FROM pg_catalog.pg_type a, pg_catalog.pg_type b WHERE a.oid = c.castsource AND b.oid = c.casttarget)"},
	{name: "pg_language", home: nowhere},
	{name: "pg_foreign_data_wrapper", home: nowhere},
	{name: "pg_foreign_server", home: nowhere},
	{name: "pg_am", home: nowhere},
	{name: "pg_transform", home: nowhere},
	{name: "pg_largeobject_metadata", class: "'pg_catalog.pg_largeobject'::regclass", home: nowhere},
	{name: "pg_database", home: nowhere},
	{name: "pg_tablespace", home: nowhere},
	{name: "pg_parameter_acl", home: nowhere, since: 150000},
	{name: "pg_shdescription", class: "c.classoid", object: "c.objoid", home: nowhere},
	{name: "pg_shseclabel", class: "c.classoid", object: "c.objoid", home: nowhere},
	{name: "pg_authid", home: nowhere, guarded: true},
	{name: "pg_subscription", home: nowhere, guarded: true},
	{name: "pg_user_mapping", home: nowhere, guarded: true},
}

func (c catalog) address() string {
	class, object, column := c.class, c.object, c.column
	if class == "" {
		class = "'pg_catalog." + c.name + "'::regclass"
	}
	if object == "" {
		object = "c.oid"
	}
	if column == "" {
		column = "0"
	}
	return class + "::oid, " + object + ", " + column + "::int4"
}

// Schemas of temporary objects and of what hangs on tables elsewhere.
const apart = `'^pg_(toast|temp)'`

// ownRows is the query for the rows of the catalogs that the transaction wrote.
// A row in the range of ids from the transaction's own on is one of its own if
// that id is still in progress: the rows of other such transactions are not
// visible. $1 is an id above that range, $2 the OID of a schema to leave out.
func ownRows(list []catalog) string {
	var sql strings.Builder
	sql.WriteString(`WITH me AS MATERIALIZED (
		SELECT id, pg_catalog.age(id::text::xid8::xid) AS mine, pg_catalog.age($1::text::xid8::xid) AS bound
		FROM (SELECT pg_catalog.pg_current_xact_id()::text::int8 AS id) i
	), own (catalog, ctid, class, object, col, home) AS MATERIALIZED (`)
	for i, c := range list {
		if i > 0 {
			sql.WriteString(" UNION ALL ")
		}
		fmt.Fprintf(&sql, `
		SELECT '%s', c.ctid::text, %s, %s FROM me, pg_catalog.%[1]s c
		WHERE NOT (%[4]s) AND CASE WHEN pg_catalog.age(c.xmin) <= me.mine AND pg_catalog.age(c.xmin) > me.bound
			THEN pg_catalog.pg_xact_status((me.id + me.mine - pg_catalog.age(c.xmin))::text::xid8) = 'in progress' END`,
			c.name, c.address(), c.home, cmp.Or(c.follows, "false"))
	}
	sql.WriteString(`)
	SELECT o.catalog, o.ctid, o.class, o.object, o.col, o.home FROM own o
	LEFT JOIN pg_catalog.pg_namespace n ON n.oid = o.home
	WHERE (o.home IS NULL OR o.home = 0 OR o.home <> $2::oid) AND (n.nspname IS NULL OR n.nspname !~ ` + apart + `)`)
	return sql.String()
}

// homesOf is the query for the schemas of objects: their classes are $1, their
// OIDs $2. The last column is true for those that are not to be reported.
func homesOf(list []catalog) string {
	var sql strings.Builder
	sql.WriteString(`WITH o AS MATERIALIZED (SELECT DISTINCT class, id FROM unnest($1::oid[], $2::oid[]) u (class, id)), home (class, id, home, follows) AS (`)
	first := true
	for _, c := range list {
		if c.class != "" || c.object != "" || c.guarded {
			continue
		}
		if !first {
			sql.WriteString(" UNION ALL ")
		}
		first = false
		fmt.Fprintf(&sql, `
		SELECT o.class, o.id, %s, %s FROM o JOIN pg_catalog.%s c ON o.class = 'pg_catalog.%[3]s'::regclass AND c.oid = o.id`,
			c.home, cmp.Or(c.follows, c.with, "false"), c.name)
	}
	sql.WriteString(`)
	SELECT h.class, h.id, coalesce(h.home, 0), h.follows OR coalesce(n.nspname ~ ` + apart + `, false)
	FROM home h LEFT JOIN pg_catalog.pg_namespace n ON n.oid = h.home`)
	return sql.String()
}

// sharedState describes what ordinary roles see only through views, and what
// leaves no trace when it is removed: an object, \x01, and what it is like.
const sharedState = `
	SELECT 'role ' || pg_catalog.quote_ident(rolname) || E'\x01' || to_jsonb(r)::text FROM pg_catalog.pg_roles r
	UNION ALL SELECT 'membership in role ' || pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(roleid)) || E'\x01' || to_jsonb(m)::text
		FROM pg_catalog.pg_auth_members m
	UNION ALL SELECT 'settings of ' || CASE setdatabase WHEN 0 THEN 'all databases' ELSE 'a database' END ||
		CASE setrole WHEN 0 THEN '' ELSE ' for role ' || pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(setrole)) END || E'\x01' || to_jsonb(s)::text
		FROM pg_catalog.pg_db_role_setting s
	UNION ALL SELECT 'user mapping on server ' || pg_catalog.quote_ident(srvname) || E'\x01' || to_jsonb(u)::text FROM pg_catalog.pg_user_mappings u
	UNION ALL SELECT 'subscription ' || pg_catalog.quote_ident(subname) || E'\x01' || subowner || ' ' || subenabled || ' ' || subpublications::text
		FROM pg_catalog.pg_subscription`
