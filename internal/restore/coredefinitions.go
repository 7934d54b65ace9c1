package restore

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// definition is what PostgreSQL says of one object of a schema.
type definition struct {
	Object string // kind and name, without the schema
	Text   string
	// Access is who owns it, who may use it, and its comment.
	Access string
}

// comparedKinds are the kinds of objects that describe tells, by the query that
// reads them. $1 is the schema. Names of other objects are written out with
// their schemas, for which the search_path has to be empty.
var comparedKinds = []string{
	// Tables, views, sequences, composite types.
	`SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'type' WHEN 'f' THEN 'foreign table' ELSE 'table' END
			|| ' ' || pg_catalog.quote_ident(c.relname),
		pg_catalog.jsonb_build_array(c.relkind, c.relpersistence, c.reloptions, c.relrowsecurity, c.relforcerowsecurity, c.relreplident, c.reltablespace,
			(SELECT amname FROM pg_catalog.pg_am WHERE oid = c.relam), c.reloftype::regtype,
			CASE WHEN c.relkind = 'p' THEN pg_catalog.pg_get_partkeydef(c.oid) END,
			CASE WHEN c.relispartition THEN pg_catalog.pg_get_expr(c.relpartbound, c.oid) END,
			(SELECT array_agg(i.inhparent::regclass::text ORDER BY i.inhseqno) FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid),
			CASE WHEN c.relkind IN ('v', 'm') THEN pg_catalog.pg_get_viewdef(c.oid) END,
			(SELECT pg_catalog.jsonb_build_array(s.srvname, f.ftoptions) FROM pg_catalog.pg_foreign_table f JOIN pg_catalog.pg_foreign_server s ON s.oid = f.ftserver WHERE f.ftrelid = c.oid),
			(SELECT pg_catalog.jsonb_build_array(q.seqtypid::regtype, q.seqstart, q.seqincrement, q.seqmax, q.seqmin, q.seqcache, q.seqcycle) FROM pg_catalog.pg_sequence q WHERE q.seqrelid = c.oid),
			(SELECT pg_catalog.jsonb_build_array(d.refobjid::regclass, a.attname, d.deptype) FROM pg_catalog.pg_depend d
				JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
				WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0 AND c.relkind = 'S'
				AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.deptype IN ('a', 'i')))::text,
		` + accessOf(`c.relowner`, `c.relacl`, `CASE c.relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END`, `pg_catalog.obj_description(c.oid, 'pg_class')`) + `
	FROM pg_catalog.pg_class c WHERE c.relnamespace = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S', 'c') AND ` + notMember("pg_class", "c"),
	`SELECT 'column ' || pg_catalog.quote_ident(c.relname) || '.' || pg_catalog.quote_ident(a.attname),
		pg_catalog.jsonb_build_array(pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attcollation::regcollation, a.attidentity, a.attgenerated,
			a.attstorage, pg_catalog.to_jsonb(a) -> 'attcompression', a.attstattarget,
			-- Some minor versions keep an option of their own among these.
			(SELECT array_agg(o ORDER BY o) FROM unnest(a.attoptions) o WHERE o !~ '^pg_attver='), a.attfdwoptions, a.attislocal,
			(SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid) FROM pg_catalog.pg_attrdef d WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum))::text,
		pg_catalog.jsonb_build_array(a.attacl, pg_catalog.col_description(a.attrelid, a.attnum))::text
	FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
	WHERE c.relnamespace = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c') AND ` + notMember("pg_class", "c"),
	`SELECT 'constraint ' || pg_catalog.quote_ident(k.conname) || coalesce(' on ' || pg_catalog.quote_ident(c.relname), ' on domain ' || pg_catalog.quote_ident(t.typname)),
		pg_catalog.pg_get_constraintdef(k.oid), coalesce(pg_catalog.obj_description(k.oid, 'pg_constraint'), '')
	FROM pg_catalog.pg_constraint k
	LEFT JOIN pg_catalog.pg_class c ON c.oid = k.conrelid LEFT JOIN pg_catalog.pg_type t ON t.oid = k.contypid
	WHERE k.connamespace = $1 AND k.conparentid = 0 AND k.contype <> 't'
	AND CASE WHEN k.contypid <> 0 THEN ` + notMember("pg_type", "t") + ` ELSE ` + notMember("pg_class", "c") + ` END`,
	`SELECT 'index ' || pg_catalog.quote_ident(x.relname),
		pg_catalog.pg_get_indexdef(x.oid) || CASE WHEN i.indisclustered THEN ' clustered' ELSE '' END || CASE WHEN i.indisreplident THEN ' replica identity' ELSE '' END
			|| CASE WHEN NOT i.indisvalid AND x.relkind = 'i' THEN ' invalid' ELSE '' END || ' in ' || x.reltablespace, coalesce(pg_catalog.obj_description(x.oid, 'pg_class'), '')
	FROM pg_catalog.pg_class c JOIN pg_catalog.pg_index i ON i.indrelid = c.oid JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
	WHERE c.relnamespace = $1 AND c.relkind IN ('r', 'p', 'm') AND ` + notMember("pg_class", "c"),
	`SELECT 'trigger ' || pg_catalog.quote_ident(g.tgname) || ' on ' || pg_catalog.quote_ident(c.relname),
		pg_catalog.pg_get_triggerdef(g.oid) || ' ' || g.tgenabled::text, coalesce(pg_catalog.obj_description(g.oid, 'pg_trigger'), '')
	FROM pg_catalog.pg_class c JOIN pg_catalog.pg_trigger g ON g.tgrelid = c.oid
	WHERE c.relnamespace = $1 AND NOT g.tgisinternal AND g.tgparentid = 0 AND ` + notMember("pg_class", "c"),
	`SELECT 'rule ' || pg_catalog.quote_ident(w.rulename) || ' on ' || pg_catalog.quote_ident(c.relname),
		pg_catalog.pg_get_ruledef(w.oid) || ' ' || w.ev_enabled::text, coalesce(pg_catalog.obj_description(w.oid, 'pg_rewrite'), '')
	FROM pg_catalog.pg_class c JOIN pg_catalog.pg_rewrite w ON w.ev_class = c.oid
	WHERE c.relnamespace = $1 AND w.rulename <> '_RETURN' AND ` + notMember("pg_class", "c"),
	`SELECT 'policy ' || pg_catalog.quote_ident(p.polname) || ' on ' || pg_catalog.quote_ident(c.relname),
		pg_catalog.jsonb_build_array(p.polcmd, p.polpermissive, (SELECT array_agg(r ORDER BY r) FROM unnest(p.polroles::regrole[]::text[]) r),
			pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid))::text,
		coalesce(pg_catalog.obj_description(p.oid, 'pg_policy'), '')
	FROM pg_catalog.pg_class c JOIN pg_catalog.pg_policy p ON p.polrelid = c.oid
	WHERE c.relnamespace = $1 AND ` + notMember("pg_class", "c"),
	`SELECT CASE p.prokind WHEN 'a' THEN 'aggregate ' WHEN 'p' THEN 'procedure ' ELSE 'function ' END
			|| pg_catalog.quote_ident(p.proname) || '(' || pg_catalog.pg_get_function_identity_arguments(p.oid) || ')',
		CASE WHEN p.prokind <> 'a' THEN pg_catalog.pg_get_functiondef(p.oid) ELSE (
			SELECT (pg_catalog.to_jsonb(g) - 'aggfnoid' - 'aggtranstype' - 'aggmtranstype' - 'aggsortop'
				|| pg_catalog.jsonb_build_object('t', g.aggtranstype::regtype, 'm', g.aggmtranstype::regtype, 's', g.aggsortop::regoperator, 'p', p.proparallel, 'r', p.prorettype::regtype))::text
			FROM pg_catalog.pg_aggregate g WHERE g.aggfnoid = p.oid) END,
		` + accessOf(`p.proowner`, `p.proacl`, `'f'`, `pg_catalog.obj_description(p.oid, 'pg_proc')`) + `
	FROM pg_catalog.pg_proc p WHERE p.pronamespace = $1 AND ` + notMember("pg_proc", "p"),
	`SELECT CASE t.typtype WHEN 'd' THEN 'domain ' ELSE 'type ' END || pg_catalog.quote_ident(t.typname),
		pg_catalog.jsonb_build_array(t.typtype, t.typlen, t.typbyval, t.typcategory, t.typispreferred, t.typisdefined, t.typdelim, t.typalign, t.typstorage, t.typnotnull,
			t.typinput, t.typoutput, t.typreceive, t.typsend, t.typmodin, t.typmodout, t.typanalyze, t.typelem::regtype,
			pg_catalog.format_type(nullif(t.typbasetype, 0), t.typtypmod), t.typcollation::regcollation, t.typdefault,
			(SELECT array_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid),
			(SELECT pg_catalog.jsonb_build_array(r.rngsubtype::regtype, r.rngcollation::regcollation, o.opcname, r.rngcanonical, r.rngsubdiff)
				FROM pg_catalog.pg_range r JOIN pg_catalog.pg_opclass o ON o.oid = r.rngsubopc WHERE r.rngtypid = t.oid))::text,
		` + accessOf(`t.typowner`, `t.typacl`, `'T'`, `pg_catalog.obj_description(t.oid, 'pg_type')`) + `
	FROM pg_catalog.pg_type t WHERE t.typnamespace = $1 AND t.typtype <> 'c' AND ` + notMember("pg_type", "t") + `
	AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend i WHERE i.classid = 'pg_catalog.pg_type'::regclass AND i.objid = t.oid AND i.deptype = 'i')`,
	`SELECT 'operator ' || o.oprname || ' (' || o.oprleft::regtype || ', ' || o.oprright::regtype || ')',
		pg_catalog.jsonb_build_array(o.oprcode, o.oprresult::regtype, o.oprcom::regoperator, o.oprnegate::regoperator, o.oprrest, o.oprjoin, o.oprcanmerge, o.oprcanhash)::text,
		coalesce(pg_catalog.obj_description(o.oid, 'pg_operator'), '')
	FROM pg_catalog.pg_operator o WHERE o.oprnamespace = $1 AND ` + notMember("pg_operator", "o"),
	`SELECT 'operator class ' || pg_catalog.quote_ident(o.opcname) || ' using ' || m.amname,
		pg_catalog.jsonb_build_array(o.opcintype::regtype, o.opcdefault, o.opckeytype::regtype, f.opfname)::text, coalesce(pg_catalog.obj_description(o.oid, 'pg_opclass'), '')
	FROM pg_catalog.pg_opclass o JOIN pg_catalog.pg_am m ON m.oid = o.opcmethod JOIN pg_catalog.pg_opfamily f ON f.oid = o.opcfamily
	WHERE o.opcnamespace = $1 AND ` + notMember("pg_opclass", "o"),
	`SELECT 'operator family ' || pg_catalog.quote_ident(f.opfname) || ' using ' || m.amname,
		pg_catalog.jsonb_build_array(
			(SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(a.amopstrategy, a.amoppurpose, a.amopopr::regoperator) ORDER BY a.amoppurpose, a.amopstrategy, a.amopopr::regoperator::text)
				FROM pg_catalog.pg_amop a WHERE a.amopfamily = f.oid),
			(SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(a.amprocnum, a.amproc::regprocedure) ORDER BY a.amprocnum, a.amproc::regprocedure::text)
				FROM pg_catalog.pg_amproc a WHERE a.amprocfamily = f.oid))::text, coalesce(pg_catalog.obj_description(f.oid, 'pg_opfamily'), '')
	FROM pg_catalog.pg_opfamily f JOIN pg_catalog.pg_am m ON m.oid = f.opfmethod WHERE f.opfnamespace = $1 AND ` + notMember("pg_opfamily", "f"),
	`SELECT 'collation ' || pg_catalog.quote_ident(o.collname), (pg_catalog.to_jsonb(o) - 'oid' - 'collnamespace' - 'collowner' - 'collversion')::text,
		coalesce(pg_catalog.obj_description(o.oid, 'pg_collation'), '')
	FROM pg_catalog.pg_collation o WHERE o.collnamespace = $1 AND ` + notMember("pg_collation", "o"),
	`SELECT 'conversion ' || pg_catalog.quote_ident(o.conname), (pg_catalog.to_jsonb(o) - 'oid' - 'connamespace' - 'conowner')::text,
		coalesce(pg_catalog.obj_description(o.oid, 'pg_conversion'), '')
	FROM pg_catalog.pg_conversion o WHERE o.connamespace = $1 AND ` + notMember("pg_conversion", "o"),
	`SELECT 'text search configuration ' || pg_catalog.quote_ident(o.cfgname), pg_catalog.jsonb_build_array(
			(SELECT p.prsname FROM pg_catalog.pg_ts_parser p WHERE p.oid = o.cfgparser),
			(SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(m.maptokentype, m.mapseqno, m.mapdict::regdictionary) ORDER BY m.maptokentype, m.mapseqno)
				FROM pg_catalog.pg_ts_config_map m WHERE m.mapcfg = o.oid))::text, coalesce(pg_catalog.obj_description(o.oid, 'pg_ts_config'), '')
	FROM pg_catalog.pg_ts_config o WHERE o.cfgnamespace = $1 AND ` + notMember("pg_ts_config", "o"),
	`SELECT 'text search dictionary ' || pg_catalog.quote_ident(o.dictname), pg_catalog.jsonb_build_array(o.dictinitoption, t.tmplname)::text,
		coalesce(pg_catalog.obj_description(o.oid, 'pg_ts_dict'), '')
	FROM pg_catalog.pg_ts_dict o JOIN pg_catalog.pg_ts_template t ON t.oid = o.dicttemplate WHERE o.dictnamespace = $1 AND ` + notMember("pg_ts_dict", "o"),
	`SELECT 'text search parser ' || pg_catalog.quote_ident(o.prsname), (pg_catalog.to_jsonb(o) - 'oid' - 'prsnamespace')::text, ''
	FROM pg_catalog.pg_ts_parser o WHERE o.prsnamespace = $1 AND ` + notMember("pg_ts_parser", "o"),
	`SELECT 'text search template ' || pg_catalog.quote_ident(o.tmplname), (pg_catalog.to_jsonb(o) - 'oid' - 'tmplnamespace')::text, ''
	FROM pg_catalog.pg_ts_template o WHERE o.tmplnamespace = $1 AND ` + notMember("pg_ts_template", "o"),
	`SELECT 'statistics ' || pg_catalog.quote_ident(o.stxname), pg_catalog.pg_get_statisticsobjdef(o.oid) || ' ' || coalesce(pg_catalog.to_jsonb(o) ->> 'stxstattarget', ''),
		coalesce(pg_catalog.obj_description(o.oid, 'pg_statistic_ext'), '')
	FROM pg_catalog.pg_statistic_ext o WHERE o.stxnamespace = $1 AND ` + notMember("pg_statistic_ext", "o"),
}

// accessOf is who owns an object, who may use it, and its comment. Default
// privileges that were never written down are the same as those that were.
func accessOf(owner, acl, kind, comment string) string {
	return `pg_catalog.jsonb_build_array(` + owner + `::regrole, (
		SELECT array_agg(pg_catalog.format('%s %s %s', x.grantee, x.privilege_type, x.is_grantable) ORDER BY x.grantee, x.privilege_type)
		FROM pg_catalog.aclexplode(coalesce(` + acl + `, pg_catalog.acldefault(` + kind + `, ` + owner + `))) x), ` + comment + `)::text`
}

// notMember is true of a row of a catalog that belongs to no extension.
func notMember(catalog, alias string) string { return `NOT EXISTS (` + memberOf(catalog, alias) + `)` }

// describe reads the definitions of everything in a schema that belongs to no
// extension, by object.
func describe(ctx context.Context, q pg.Querier, schema uint32) (map[string]definition, error) {
	all := map[string]definition{}
	for _, sql := range comparedKinds {
		rows, err := q.Query(ctx, sql, schema)
		if err != nil {
			return nil, fmt.Errorf("read definitions of a schema: %w", err)
		}
		list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[definition])
		if err != nil {
			return nil, fmt.Errorf("read definitions of a schema: %w", err)
		}
		for _, d := range list {
			all[d.Object] = d
		}
	}
	return all, nil
}

// changes are how the definitions of the live core differ from those of the
// backup.
type changes struct {
	missing []string // in the database
	extra   []string // not in the backup
	differ  []string
	access  []string // only owner, grants or comment differ
}

func compareDefinitions(live, saved map[string]definition) (c changes) {
	for _, name := range slices.Sorted(maps.Keys(saved)) {
		now, is := live[name]
		switch was := saved[name]; {
		case !is:
			c.missing = append(c.missing, name)
		case now.Text != was.Text:
			c.differ = append(c.differ, name)
		case now.Access != was.Access:
			c.access = append(c.access, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(live)) {
		if _, was := saved[name]; !was {
			c.extra = append(c.extra, name)
		}
	}
	return c
}

// none reports whether rows of the one fit into the other.
func (c changes) none() bool { return len(c.missing)+len(c.extra)+len(c.differ) == 0 }

// String lists the objects, but for the columns of tables that are named
// themselves.
func (c changes) String() string {
	var parts []string
	for _, group := range []struct {
		what string
		list []string
	}{{"missing in the database", c.missing}, {"not in the backup", c.extra}, {"changed", c.differ}} {
		list := slices.DeleteFunc(slices.Clone(group.list), func(name string) bool {
			table, ok := strings.CutPrefix(name, "column ")
			return ok && slices.ContainsFunc(group.list, func(other string) bool {
				_, relation, named := strings.Cut(other, " ")
				return named && !strings.HasPrefix(other, "column ") && strings.HasPrefix(table, relation+".")
			})
		})
		if len(list) > 0 {
			parts = append(parts, group.what+": "+strings.Join(list, ", "))
		}
	}
	return strings.Join(parts, "; ")
}

// Kinds of statements of core that make nothing in schema public.
var besidePublic = []string{
	kindSchema, kindExtension, kindEventTrigger, "PUBLICATION", "PROCEDURAL LANGUAGE", "ACCESS METHOD", "CAST", "TRANSFORM",
	"FOREIGN DATA WRAPPER", "SERVER", "USER MAPPING", kindDefaultACL, "BLOB", "BLOB METADATA", "BLOBS", kindLargeObjectData,
}

// onBesidePublic begin the tags of comments, labels and grants of such objects.
var onBesidePublic = []string{
	"SCHEMA ", "EXTENSION ", "EVENT TRIGGER ", "PUBLICATION ", "LANGUAGE ", "ACCESS METHOD ", "CAST ", "TRANSFORM ",
	"FOREIGN DATA WRAPPER ", "FOREIGN SERVER ", "SERVER ", "LARGE OBJECT ", "LARGE OBJECTS ",
}

// besides tells for each statement of a core file whether it is about an object
// of the database, not of schema public.
func besides(x *datafile.Index) []bool {
	list := make([]bool, len(x.Statements))
	object := false // that of the statement before which has one
	for i, s := range x.Statements {
		switch s.Kind {
		case kindOwner:
		case kindComment, kindSecurityLabel, kindACL:
			list[i] = slices.ContainsFunc(onBesidePublic, func(p string) bool { return strings.HasPrefix(s.Tag, p) })
			continue
		default:
			object = slices.Contains(besidePublic, s.Kind) || isMembership(s)
		}
		list[i] = object
	}
	return list
}

// tryDefinitions makes the definitions of a core file in a schema that is called
// public for the moment, compares them with those of the live one, and takes all
// of it back. The live tables are not locked: it is the schema that gets out of
// the way, and the extensions that are in it move over.
func (p *checker) tryDefinitions(ctx context.Context, u *unit, public uint32) (c changes, extensions []moving, failed []failure, err error) {
	beside := besides(u.file.Index)
	steps, err := u.steps(ctx, func(i int, s datafile.Statement) bool {
		kind := u.file.Index.Frames[s.Frame].Kind
		return (kind == datafile.PreDataFrame || kind == datafile.PostDataFrame) && !beside[i] && s.Kind != "REFRESH" &&
			u.schemaOf(s) == manifest.CoreSchema && !p.skipped(u, s)
	})
	if err != nil {
		return c, nil, nil, err
	}
	s := &session{run: p.run, conn: p.main}
	if err := s.use(ctx, u); err != nil {
		return c, nil, nil, err
	}
	hidden, err := freeName(ctx, p.main, manifest.CoreSchema, "hidden", p.Now())
	if err != nil {
		return c, nil, nil, err
	}
	for try := 1; ; try++ {
		c, extensions, failed, err = s.tryOnce(ctx, public, hidden, steps)
		if err == nil || !inTheWay(err) || try == lockTries || ctx.Err() != nil {
			return c, extensions, failed, err
		}
	}
}

func (s *session) tryOnce(ctx context.Context, public uint32, hidden string, steps []step) (c changes, extensions []moving, failed []failure, err error) {
	tx, err := s.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted})
	if err != nil {
		return c, nil, nil, fmt.Errorf("try the definitions: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	exec := func(sql string) error {
		_, err := s.conn.PgConn().Exec(ctx, sql).ReadAll()
		return err
	}
	live, err := describe(ctx, tx, public)
	if err != nil {
		return c, nil, nil, err
	}
	rows, err := tx.Query(ctx, `SELECT extname::text, NOT extrelocatable FROM pg_catalog.pg_extension WHERE extnamespace = $1 ORDER BY oid`, public)
	if err != nil {
		return c, nil, nil, fmt.Errorf("list extensions: %w", err)
	}
	extensions, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (m moving, err error) { return m, row.Scan(&m.name, &m.fixed) })
	if err != nil {
		return c, nil, nil, fmt.Errorf("list extensions: %w", err)
	}
	// A type has one default class, wherever it is.
	rows, err = tx.Query(ctx, `SELECT c.oid::text FROM pg_catalog.pg_opclass c WHERE c.opcnamespace = $1 AND c.opcdefault AND `+notMember("pg_opclass", "c"), public)
	if err != nil {
		return c, nil, nil, fmt.Errorf("list operator classes: %w", err)
	}
	classes, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return c, nil, nil, fmt.Errorf("list operator classes: %w", err)
	}
	err = exec(replicaSQL + rename(manifest.CoreSchema, hidden) + "CREATE SCHEMA " + pg.Identifier(manifest.CoreSchema) + ";\n")
	if err != nil {
		return c, nil, nil, fmt.Errorf("try the definitions: %w", err)
	}
	attempt := func(sql string) (done bool, err error) {
		err = exec("SAVEPOINT one;\n" + sql)
		if err == nil || s.broken(ctx, err) || inTheWay(err) {
			return err == nil, err
		}
		return false, exec("ROLLBACK TO one")
	}
	for _, oid := range classes {
		if _, err := attempt("UPDATE pg_catalog.pg_opclass SET opcdefault = false WHERE oid = " + oid); err != nil {
			return c, nil, nil, err
		}
	}
	all := extensions
	extensions = nil
	for _, m := range all {
		// One that cannot move is missed only by what uses it, which then fails.
		done, err := attempt(m.to(manifest.CoreSchema))
		if err != nil {
			return c, nil, nil, err
		}
		if done {
			extensions = append(extensions, m)
		}
	}
	if failed, err = s.attempt(ctx, steps); err != nil {
		return c, nil, nil, err
	}
	var made uint32
	if err := tx.QueryRow(ctx, `SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1`, manifest.CoreSchema).Scan(&made); err != nil {
		return c, nil, nil, fmt.Errorf("look for schema public: %w", err)
	}
	saved, err := describe(ctx, tx, made)
	if err != nil {
		return c, nil, nil, err
	}
	return compareDefinitions(live, saved), extensions, failed, nil
}
