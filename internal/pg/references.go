package pg

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// The kinds of references that are re-pointed by statements.
const (
	ForeignKeyReference  = "foreign key"
	ViewReference        = "view"
	RuleReference        = "rule"
	FunctionReference    = "function" // with a body in standard SQL, or defaults of arguments
	DefaultReference     = "default"  // of a column or a domain
	TriggerReference     = "trigger"
	CheckReference       = "check constraint"
	PolicyReference      = "policy"
	PublicationReference = "publication"
)

// The kinds that cannot be re-pointed. What is none of them is named by
// PostgreSQL's own word for the object.
const (
	MatviewReference     = "materialized view"
	ColumnReference      = "column" // of a type, domain or collation of the schema
	TypedTableReference  = "typed table"
	GeneratedReference   = "generated column"
	SignatureReference   = "function signature" // arguments or result
	IndexReference       = "index"
	InheritanceReference = "inheritance"
	PartitionReference   = "partition"
	CastReference        = "cast"
	ExtensionReference   = "extension"
)

// Reference is an object outside of a schema that points into it by OID. It
// would keep pointing at the old schema where another one takes its name.
//
// What can be re-pointed has statements, to be run in the transaction that
// exchanges the schemas: Lock before anything else is locked (see LocksOf),
// TakeOff while the old schema still has its name, and PutBack when the new one
// has it. What cannot has a Remedy instead.
type Reference struct {
	Kind    string
	Schema  string // of the object; empty where it is in none
	Object  string // the object, quoted as in SQL
	Into    []string
	Owner   string   // whose rights the statements need; empty where it does not matter
	Lock    []string // takes the locks of TakeOff and PutBack
	TakeOff []string
	PutBack []string
	// Remedy is a sentence that says what to do by hand. It is empty where the
	// statements do it all.
	Remedy string
	// Needs are what it uses of the schema: another schema can take its place
	// only if it has them too.
	Needs []Need
	// Drop is the statement that takes it away for good.
	Drop string

	// trial does the same as PutBack to a copy, in the schema that scratch stands
	// for. Empty: nothing is known that would not touch the object itself.
	trial []string

	orphans [2]string // the query before and after the schema's name
}

// Need is something of a schema that an object elsewhere uses.
type Need struct {
	Kind   string // as PostgreSQL names it
	Name   string // with its schema, quoted as in SQL
	Column string // of a table or view, quoted; empty: the whole of it
}

// String names it, as "column a.orders.total".
func (n Need) String() string {
	if n.Column == "" {
		return n.Kind + " " + n.Name
	}
	return "column " + n.Name + "." + n.Column
}

// Orphans returns a query that counts the rows for which a foreign key would
// not find its parent if the given schema were in the place of the one that it
// points into. It is empty for other references, and for keys that PostgreSQL
// does not hold to be valid for all rows.
func (r *Reference) Orphans(schema string) string {
	if r.orphans[0] == "" {
		return ""
	}
	return r.orphans[0] + Identifier(schema) + r.orphans[1]
}

// LocksOf returns the statements of all references that lock, each once, to be
// run before the tables of the schema are locked. Others lock in the same order:
// whoever uses a view locks it first, then the views and tables that it reads,
// and who writes a table with a foreign key locks that before its parent.
// Another order would end in deadlocks. There is none that is right for every
// statement (one may join two views as it likes): a lock_timeout below the
// server's deadlock_timeout lets the one who exchanges give way, not the other.
func LocksOf(list []Reference) []string {
	var views, tables []string
	for _, r := range list {
		for _, sql := range r.Lock {
			to := &tables
			if strings.HasPrefix(sql, lockView) {
				to = &views
			}
			if !slices.Contains(*to, sql) {
				*to = append(*to, sql)
			}
		}
	}
	return append(views, tables...)
}

// references collects what points into one schema.
type references struct {
	q       Querier
	schema  uint32
	name    string
	user    string
	version int // server_version_num
	list    []Reference
}

// dependent is an object outside of the schema that depends on some inside.
type dependent struct {
	class    string // catalog
	oid      uint32
	column   int32
	schema   string
	kind     string // as PostgreSQL names it
	identity string
	extended bool // belongs to an extension
	into     []target
}

// target is an object inside of the schema.
type target struct {
	class    string
	oid      uint32
	kind     string
	name     string
	columns  []string // the only ones that are used; empty: no one in particular
	identity string   // kind and name
}

// ListReferences lists what outside of a schema points into it, by OID. What
// points at members of an extension that is installed in the schema is not
// listed, but the extension is, nor are temporary objects of other sessions.
//
// The texts of definitions name the schemas of all objects, for which the
// session's search_path has to be empty.
func ListReferences(ctx context.Context, q Querier, schema uint32) ([]Reference, error) {
	r := &references{q: q, schema: schema}
	var path []string
	err := q.QueryRow(ctx, `
		SELECT nspname, current_user::text, current_setting('server_version_num')::int,
			array_remove(pg_catalog.current_schemas(false), 'pg_catalog')::text[]
		FROM pg_catalog.pg_namespace WHERE oid = $1`, schema).Scan(&r.name, &r.user, &r.version, &path)
	if err == nil && len(path) > 0 {
		err = fmt.Errorf("the search_path of the session is not empty: %s", strings.Join(path, ", "))
	}
	if err == nil {
		err = r.read(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("list references into a schema: %w", err)
	}
	return r.list, nil
}

// read lists everything, class by class. What no class knows is refused: an
// object that is passed over would work on the replaced schema unseen.
func (r *references) read(ctx context.Context) error {
	classes, err := r.dependents(ctx)
	if err != nil {
		return err
	}
	for _, class := range []struct {
		name string
		read func(context.Context, map[uint32]*dependent) error
	}{
		{"pg_rewrite", r.rules},
		{"pg_constraint", r.constraints},
		{"pg_proc", r.functions},
		{"pg_attrdef", r.defaults},
		{"pg_trigger", r.triggers},
		{"pg_policy", r.policies},
		{"pg_type", r.types},
	} {
		objects := map[uint32]*dependent{}
		for _, d := range classes[class.name] {
			if d.extended {
				r.refuse(d, d.kind, "")
				continue
			}
			objects[d.oid] = d
		}
		delete(classes, class.name)
		if len(objects) == 0 {
			continue
		}
		if err := class.read(ctx, objects); err != nil {
			return err
		}
	}
	if len(classes["pg_publication_rel"])+len(classes["pg_publication_namespace"]) > 0 {
		if err := r.publications(ctx); err != nil {
			return err
		}
	}
	delete(classes, "pg_publication_rel")
	delete(classes, "pg_publication_namespace")
	if err := r.relations(ctx, classes["pg_class"]); err != nil {
		return err
	}
	delete(classes, "pg_class")
	if err := r.casts(ctx, classes["pg_cast"]); err != nil {
		return err
	}
	delete(classes, "pg_cast")
	for _, class := range slices.Sorted(maps.Keys(classes)) {
		for _, d := range classes[class] {
			r.other(d)
		}
	}
	return r.parents(ctx)
}

// dependents finds the objects, by their catalog.
func (r *references) dependents(ctx context.Context) (map[string][]*dependent, error) {
	rows, err := r.q.Query(ctx, `
		WITH RECURSIVE `+insideOf+`,
		outside AS (
			SELECT d.classid, d.objid, d.objsubid, i.classid AS refclassid, i.objid AS refobjid, `+ownerOf+` AS schema,
				array_agg(DISTINCT d.refobjsubid) AS columns
			FROM (
				SELECT * FROM inside UNION ALL SELECT 'pg_catalog.pg_namespace'::regclass, unnest($1)
			) i JOIN pg_catalog.pg_depend d ON d.refclassid = i.classid AND d.refobjid = i.objid
			WHERE d.deptype <> 'e' AND NOT (`+ofForeignKey+`) AND i.classid <> 'pg_catalog.pg_extension'::regclass
			AND NOT EXISTS (
				SELECT FROM pg_catalog.pg_depend e
				WHERE e.classid = i.classid AND e.objid = i.objid AND e.objsubid = 0 AND e.deptype = 'e')
			GROUP BY 1, 2, 3, 4, 5, 6
		)
		SELECT k.relname::text, o.objid, o.objsubid, coalesce(n.nspname::text, ''), object.type, object.identity, EXISTS (
				SELECT FROM pg_catalog.pg_depend e
				WHERE e.classid = o.classid AND e.objid = o.objid AND e.objsubid = 0 AND e.deptype = 'e'),
			l.relname::text, o.refobjid, target.type, target.identity, coalesce((
				SELECT array_agg(pg_catalog.quote_ident(a.attname) ORDER BY a.attnum) FROM pg_catalog.pg_attribute a
				WHERE o.refclassid = 'pg_catalog.pg_class'::regclass AND a.attrelid = o.refobjid AND a.attnum > 0 AND a.attnum = ANY(o.columns)), '{}')
		FROM outside o
		JOIN pg_catalog.pg_class k ON k.oid = o.classid
		JOIN pg_catalog.pg_class l ON l.oid = o.refclassid
		LEFT JOIN pg_catalog.pg_namespace n ON n.oid = o.schema
		CROSS JOIN LATERAL pg_catalog.pg_identify_object(o.classid, o.objid, o.objsubid) object
		CROSS JOIN LATERAL pg_catalog.pg_identify_object(o.refclassid, o.refobjid, 0) target
		WHERE NOT (o.schema = ANY($1)) AND coalesce(n.nspname, '') !~ '^pg_(toast|temp)'
		AND (o.classid NOT IN ('pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_type'::regclass) OR NOT EXISTS (
			-- What was made together with a type follows it.
			SELECT FROM pg_catalog.pg_depend t
			WHERE t.classid = o.classid AND t.objid = o.objid AND t.deptype = 'i'))
		ORDER BY k.relname, n.nspname COLLATE "C", object.identity COLLATE "C", o.objid, o.objsubid, target.type, target.identity COLLATE "C"`,
		[]uint32{r.schema})
	if err != nil {
		return nil, err
	}
	classes := map[string][]*dependent{}
	var d dependent
	var into target
	_, err = pgx.ForEachRow(rows, []any{
		&d.class, &d.oid, &d.column, &d.schema, &d.kind, &d.identity, &d.extended,
		&into.class, &into.oid, &into.kind, &into.name, &into.columns,
	}, func() error {
		into.identity = into.kind + " " + into.name
		list := classes[d.class]
		if n := len(list); n == 0 || list[n-1].oid != d.oid || list[n-1].column != d.column {
			object := d
			list = append(list, &object)
			classes[d.class] = list
		}
		last := list[len(list)-1]
		last.into = append(last.into, into)
		return nil
	})
	return classes, err
}

// reference begins the reference of a dependent. Into leaves out the indexes
// and constraints by which tables are meant.
func (d *dependent) reference(kind string) Reference {
	ref := Reference{Kind: kind, Schema: d.schema, Object: d.identity}
	for _, whole := range []bool{false, true} {
		for _, t := range d.into {
			by := t.class == "pg_constraint" || strings.HasPrefix(t.identity, "index ")
			if !by || whole {
				ref.Into = append(ref.Into, t.identity)
			}
		}
		if len(ref.Into) > 0 {
			break
		}
	}
	for _, t := range d.into {
		if t.class == "pg_constraint" || t.class == "pg_namespace" || t.kind == "index" {
			continue // found out by a trial
		}
		if len(t.columns) == 0 {
			ref.Needs = append(ref.Needs, Need{Kind: t.kind, Name: strings.TrimSuffix(t.name, "[]")})
		}
		for _, column := range t.columns {
			ref.Needs = append(ref.Needs, Need{Kind: t.kind, Name: t.name, Column: column})
		}
	}
	return ref
}

// has reports whether it points at something of a catalog.
func (d *dependent) has(class string) bool {
	return slices.ContainsFunc(d.into, func(t target) bool { return t.class == class })
}

// refuse adds what cannot be re-pointed. Without a remedy there is the one that
// fits anything.
func (r *references) refuse(d *dependent, kind, remedy string) {
	ref := d.reference(kind)
	if remedy == "" && d.extended {
		remedy = "it belongs to an extension: move the extension and what it uses out of schema " + Identifier(r.name)
	}
	if remedy == "" {
		remedy = fmt.Sprintf("drop it before the restore, and make it again afterwards (pg_dump has its definition), or let it use nothing in schema %s", Identifier(r.name))
	}
	ref.Remedy = remedy
	r.list = append(r.list, ref)
}

// owner is who owns an object, and whether this role may act for him.
type owner struct {
	name string
	may  bool
}

// repoint adds what statements re-point, if the role may run them.
func (r *references) repoint(ref Reference, by owner) {
	ref.Owner = by.name
	if !by.may {
		ref.Lock, ref.TakeOff, ref.PutBack, ref.trial, ref.orphans = nil, nil, nil, nil, [2]string{}
		ref.Remedy = fmt.Sprintf("role %s may not change it: GRANT %s TO %s, or restore as a superuser",
			Identifier(r.user), Identifier(by.name), Identifier(r.user))
	}
	r.list = append(r.list, ref)
}

// relation is what the statements need to know about a table or view.
type relation struct {
	name string // quoted
	kind string // relkind
	by   owner
	bare string // the name without the schema, quoted
}

// relationColumns reads a relation from pg_class c and pg_namespace n.
const relationColumns = `pg_catalog.format('%I.%I', n.nspname, c.relname), c.relkind::text,
	pg_catalog.pg_get_userbyid(c.relowner)::text, pg_catalog.pg_has_role(c.relowner, 'USAGE'), pg_catalog.quote_ident(c.relname)`

func (t *relation) fields() []any { return []any{&t.name, &t.kind, &t.by.name, &t.by.may, &t.bare} }

// scratch stands for the schema of a trial. No name has this character.
const scratch = "\x00"

// copy makes a table with the columns of a relation, and its name, for a trial.
func (t *relation) copy() string {
	return "CREATE TABLE " + scratch + "." + t.bare + " (LIKE " + t.name + ")"
}

// lockView begins the statement that locks a view: it changes nothing.
const lockView = "ALTER VIEW "

// lock is the statement that locks a relation alone, for changes. LOCK TABLE
// would lock everything that a view reads too, and knows no foreign tables.
func (t *relation) lock() []string {
	switch t.kind {
	case "r":
		return []string{"LOCK TABLE ONLY " + t.name + " IN ACCESS EXCLUSIVE MODE"}
	case "p":
		return []string{"LOCK TABLE " + t.name + " IN ACCESS EXCLUSIVE MODE"}
	case "v":
		return []string{lockView + t.name + " OWNER TO " + Identifier(t.by.name)}
	default:
		return nil
	}
}

// comment is the statement for a comment, if there is one.
func comment(on string, text *string) []string {
	if text == nil {
		return nil
	}
	return []string{"COMMENT ON " + on + " IS " + Literal(*text)}
}

func keys(objects map[uint32]*dependent) []uint32 { return slices.Collect(maps.Keys(objects)) }

// each runs a query about objects. Its first column is the object's OID, its
// order that of the list. What it does not return is refused.
func (r *references) each(ctx context.Context, objects map[uint32]*dependent, sql string, fields []any, add func(d *dependent)) error {
	rows, err := r.q.Query(ctx, sql, keys(objects))
	if err != nil {
		return err
	}
	var oid uint32
	seen := map[uint32]bool{}
	_, err = pgx.ForEachRow(rows, append([]any{&oid}, fields...), func() error {
		seen[oid] = true
		add(objects[oid])
		return nil
	})
	for _, oid := range slices.Sorted(maps.Keys(objects)) {
		if !seen[oid] {
			r.refuse(objects[oid], objects[oid].kind, "")
		}
	}
	return err
}

// constraints re-points foreign keys, and check constraints of tables and
// domains. Those that a table has from its parent follow the parent's.
func (r *references) constraints(ctx context.Context, objects map[uint32]*dependent) error {
	var (
		name, kind, definition  string
		inherited, local, valid bool
		text, domain            *string
		parentSchema            uint32
		parent, parentKind      string
		match, filled           string
		table                   relation
	)
	return r.each(ctx, objects, `
		SELECT k.oid, k.conname, k.contype::text, pg_catalog.pg_get_constraintdef(k.oid),
			k.conparentid <> 0 OR k.coninhcount > 0, k.conislocal AND k.conparentid = 0,
			k.convalidated AND coalesce(pg_catalog.to_jsonb(k) ->> 'conperiod', 'false') = 'false', -- from version 18 on
			pg_catalog.obj_description(k.oid, 'pg_constraint'), domain.name,
			coalesce(f.relnamespace, 0), coalesce(pg_catalog.quote_ident(f.relname), ''), coalesce(f.relkind::text, ''),
			coalesce(columns.match, ''), coalesce(columns.filled, ''),
			coalesce(t.name, ''), coalesce(t.relkind, ''), coalesce(t.owner, domain.owner, ''), coalesce(t.may, domain.may, true), coalesce(t.bare, '')
		FROM pg_catalog.pg_constraint k
		LEFT JOIN LATERAL (
			SELECT `+relationColumns+` FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
			WHERE c.oid = k.conrelid) t (name, relkind, owner, may, bare) ON true
		LEFT JOIN LATERAL (
			SELECT pg_catalog.format('%I.%I', n.nspname, d.typname),
				pg_catalog.pg_get_userbyid(d.typowner)::text, pg_catalog.pg_has_role(d.typowner, 'USAGE')
			FROM pg_catalog.pg_type d JOIN pg_catalog.pg_namespace n ON n.oid = d.typnamespace
			WHERE d.oid = k.contypid) domain (name, owner, may) ON true
		LEFT JOIN pg_catalog.pg_class f ON f.oid = k.confrelid
		LEFT JOIN LATERAL (
			SELECT string_agg(pg_catalog.format('p.%I OPERATOR(%I.%s) c.%I', p.attname, s.nspname, o.oprname, a.attname), ' AND ' ORDER BY key.n) AS match,
				string_agg(pg_catalog.format('c.%I IS NOT NULL', a.attname), ' AND ' ORDER BY key.n) AS filled
			FROM ROWS FROM (unnest(k.conkey), unnest(k.confkey), unnest(k.conpfeqop)) WITH ORDINALITY AS key (child, parent, operator, n)
			JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = key.child
			JOIN pg_catalog.pg_attribute p ON p.attrelid = k.confrelid AND p.attnum = key.parent
			JOIN pg_catalog.pg_operator o ON o.oid = key.operator
			JOIN pg_catalog.pg_namespace s ON s.oid = o.oprnamespace) columns ON k.contype = 'f'
		WHERE k.oid = ANY($1) ORDER BY t.name COLLATE "C", domain.name COLLATE "C", k.conname COLLATE "C"`,
		append([]any{&name, &kind, &definition, &inherited, &local, &valid, &text, &domain, &parentSchema, &parent, &parentKind, &match, &filled}, table.fields()...),
		func(d *dependent) {
			quoted := Identifier(name)
			alter, on := "ALTER TABLE "+table.name, "CONSTRAINT "+quoted+" ON "+table.name
			if domain != nil {
				alter, on = "ALTER DOMAIN "+*domain, "CONSTRAINT "+quoted+" ON DOMAIN "+*domain
			}
			ref := d.reference(CheckReference)
			ref.Lock = table.lock()
			ref.TakeOff = []string{alter + " DROP CONSTRAINT " + quoted}
			ref.Drop = ref.TakeOff[0]
			ref.PutBack = append([]string{alter + " ADD CONSTRAINT " + quoted + " " + definition}, comment(on, text)...)
			ref.trial = []string{table.copy(), "ALTER TABLE " + scratch + "." + table.bare + " ADD CONSTRAINT " + quoted + " " + definition}
			if domain != nil {
				ref.trial = domainTrial(*domain, "ADD CONSTRAINT "+quoted+" "+definition)
			}
			switch {
			case kind == "f" && parentSchema == r.schema && !inherited:
				ref.Kind = ForeignKeyReference
				if valid {
					ref.orphans = [2]string{
						"SELECT count(*) FROM " + only(table.kind) + table.name + " c WHERE " + filled + " AND NOT EXISTS (SELECT FROM " + only(parentKind),
						"." + parent + " p WHERE " + match + ")",
					}
				}
				r.repoint(ref, table.by)
			case (kind == "f" || kind == "c") && inherited && !local:
			case kind == "c" && !inherited:
				r.repoint(ref, table.by)
			default:
				r.refuse(d, d.kind, fmt.Sprintf("%s DROP CONSTRAINT %s before the restore; afterwards %s", alter, quoted, ref.PutBack[0]))
			}
		})
}

// domainTrial does something to a copy of a domain.
func domainTrial(domain, change string) []string {
	return []string{"CREATE DOMAIN " + scratch + ".trial AS " + domain, "ALTER DOMAIN " + scratch + ".trial " + change}
}

// only keeps a query of a table from its children, which are not subject to the
// table's foreign keys. A partitioned table has its rows in them.
func only(relkind string) string {
	if relkind == "p" {
		return ""
	}
	return "ONLY "
}

// rules re-points views and rules, those first that others of them do not read.
func (r *references) rules(ctx context.Context, objects map[uint32]*dependent) error {
	var (
		name, definition string
		options          []string
		table            relation
	)
	return r.each(ctx, objects, `
		SELECT w.oid, w.rulename, CASE WHEN w.rulename = '_RETURN' THEN pg_catalog.pg_get_viewdef(c.oid) ELSE pg_catalog.pg_get_ruledef(w.oid) END,
			ARRAY(SELECT pg_catalog.format('%I = %L', option_name, option_value) FROM pg_catalog.pg_options_to_table(c.reloptions)),
			`+relationColumns+`
		FROM pg_catalog.pg_rewrite w
		JOIN pg_catalog.pg_class c ON c.oid = w.ev_class
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		CROSS JOIN LATERAL (
			WITH RECURSIVE reader (oid) AS (
				SELECT c.oid
				UNION SELECT w.ev_class
				FROM reader JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = reader.oid
					AND d.classid = 'pg_catalog.pg_rewrite'::regclass
				JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid)
			SELECT count(*) AS readers FROM reader) r
		WHERE w.oid = ANY($1) ORDER BY r.readers, n.nspname COLLATE "C", c.relname COLLATE "C", w.rulename COLLATE "C"`,
		append([]any{&name, &definition, &options}, table.fields()...),
		func(d *dependent) {
			view := *d
			view.identity = table.name
			switch {
			case table.kind == "m":
				r.refuse(&view, MatviewReference, fmt.Sprintf(
					"DROP MATERIALIZED VIEW %s before the restore, and make it again afterwards with its indexes and grants (pg_dump has its definition)", table.name))
			case name == "_RETURN":
				// What of the options is not said again is lost.
				with := ""
				if len(options) > 0 {
					with = " WITH (" + strings.Join(options, ", ") + ")"
				}
				ref := view.reference(ViewReference)
				ref.Lock = table.lock()
				ref.PutBack = []string{"CREATE OR REPLACE VIEW " + table.name + with + " AS" + strings.TrimSuffix(definition, ";")}
				ref.Drop = "DROP VIEW " + table.name
				ref.trial = []string{
					"CREATE VIEW " + scratch + "." + table.bare + " AS SELECT * FROM " + table.name,
					"CREATE OR REPLACE VIEW " + scratch + "." + table.bare + with + " AS" + strings.TrimSuffix(definition, ";"),
				}
				r.repoint(ref, table.by)
			default:
				ref := d.reference(RuleReference)
				ref.Lock = table.lock()
				ref.Drop = "DROP RULE " + Identifier(name) + " ON " + table.name
				ref.PutBack = []string{"CREATE OR REPLACE" + strings.TrimSuffix(strings.TrimPrefix(definition, "CREATE"), ";")}
				r.repoint(ref, table.by)
			}
		})
}

// functions re-points what functions and procedures use in a body or a default
// that PostgreSQL keeps parsed. A signature cannot be replaced.
func (r *references) functions(ctx context.Context, objects map[uint32]*dependent) error {
	var (
		kind, definition string
		signature        []uint32
		by               owner
	)
	return r.each(ctx, objects, `
		SELECT p.oid, p.prokind::text, CASE WHEN p.prokind <> 'a' THEN pg_catalog.pg_get_functiondef(p.oid) ELSE '' END,
			p.prorettype || p.proargtypes::oid[] || coalesce(p.proallargtypes, '{}'),
			pg_catalog.pg_get_userbyid(p.proowner)::text, pg_catalog.pg_has_role(p.proowner, 'USAGE')
		FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
		WHERE p.oid = ANY($1) ORDER BY n.nspname COLLATE "C", p.oid::regprocedure::text COLLATE "C"`,
		[]any{&kind, &definition, &signature, &by.name, &by.may},
		func(d *dependent) {
			typed := slices.ContainsFunc(d.into, func(t target) bool { return t.class == "pg_type" && slices.Contains(signature, t.oid) })
			switch {
			case typed:
				r.refuse(d, SignatureReference, fmt.Sprintf(
					"its arguments or its result have a type of schema %s: ALTER ROUTINE %s SET SCHEMA %s, so that it comes back with the schema, or drop it before the restore and make it again afterwards",
					Identifier(r.name), d.identity, Identifier(r.name)))
			case kind == "a":
				r.refuse(d, d.kind, "")
			default:
				ref := d.reference(FunctionReference)
				ref.PutBack = []string{strings.TrimSpace(definition)}
				ref.Drop = "DROP ROUTINE " + d.identity
				ref.trial = ref.PutBack // which is taken back, and keeps nobody from calling it
				r.repoint(ref, by)
			}
		})
}

// defaults re-points defaults of columns. Expressions of generated columns
// cannot be exchanged without writing the table anew.
func (r *references) defaults(ctx context.Context, objects map[uint32]*dependent) error {
	var (
		column, expression string
		generated          bool
		table              relation
	)
	return r.each(ctx, objects, `
		SELECT d.oid, pg_catalog.quote_ident(a.attname), pg_catalog.pg_get_expr(d.adbin, d.adrelid), a.attgenerated <> '', `+relationColumns+`
		FROM pg_catalog.pg_attrdef d
		JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
		JOIN pg_catalog.pg_class c ON c.oid = d.adrelid
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE d.oid = ANY($1) ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C", a.attnum`,
		append([]any{&column, &expression, &generated}, table.fields()...),
		func(d *dependent) {
			object := *d
			object.identity = table.name + "." + column
			if generated {
				r.refuse(&object, GeneratedReference, fmt.Sprintf(
					"ALTER TABLE %s ALTER COLUMN %s DROP EXPRESSION before the restore, which keeps the values, or let it use nothing in schema %s",
					table.name, column, Identifier(r.name)))
				return
			}
			alter := "ALTER TABLE ONLY " + table.name
			if table.kind == "v" {
				alter = "ALTER VIEW " + table.name
			}
			ref := object.reference(DefaultReference)
			ref.Lock = table.lock()
			ref.PutBack = []string{alter + " ALTER COLUMN " + column + " SET DEFAULT " + expression}
			ref.Drop = alter + " ALTER COLUMN " + column + " DROP DEFAULT"
			ref.trial = []string{table.copy(), "ALTER TABLE " + scratch + "." + table.bare + " ALTER COLUMN " + column + " SET DEFAULT " + expression}
			r.repoint(ref, table.by)
		})
}

// triggers re-points triggers that call functions of the schema, and constraint
// triggers that name a table of it. Those of partitions follow the topmost.
func (r *references) triggers(ctx context.Context, objects map[uint32]*dependent) error {
	var (
		name, definition string
		follows          bool
		text             *string
		states           []string
		table            relation
	)
	return r.each(ctx, objects, `
		SELECT g.oid, pg_catalog.quote_ident(g.tgname), pg_catalog.pg_get_triggerdef(g.oid), g.tgisinternal OR g.tgparentid <> 0,
			pg_catalog.obj_description(g.oid, 'pg_trigger'), state.statements, `+relationColumns+`
		FROM pg_catalog.pg_trigger g
		JOIN pg_catalog.pg_class c ON c.oid = g.tgrelid
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		CROSS JOIN LATERAL (
			SELECT CASE WHEN bool_or(t.tgenabled <> 'O') THEN array_agg(pg_catalog.format('ALTER TABLE ONLY %I.%I %s TRIGGER %I', s.nspname, r.relname,
				CASE t.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA' WHEN 'A' THEN 'ENABLE ALWAYS' ELSE 'ENABLE' END, t.tgname)) END AS statements
			FROM (SELECT c.oid UNION SELECT relid FROM pg_catalog.pg_partition_tree(c.oid)) part (oid)
			JOIN pg_catalog.pg_trigger t ON t.tgrelid = part.oid AND t.tgname = g.tgname
			JOIN pg_catalog.pg_class r ON r.oid = part.oid
			JOIN pg_catalog.pg_namespace s ON s.oid = r.relnamespace) state
		WHERE g.oid = ANY($1) ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C", g.tgname COLLATE "C"`,
		append([]any{&name, &definition, &follows, &text, &states}, table.fields()...),
		func(d *dependent) {
			if follows {
				return
			}
			ref := d.reference(TriggerReference)
			ref.Lock = table.lock()
			ref.TakeOff = []string{"DROP TRIGGER " + name + " ON " + table.name}
			ref.Drop = ref.TakeOff[0]
			ref.PutBack = slices.Concat([]string{definition}, states, comment("TRIGGER "+name+" ON "+table.name, text))
			r.repoint(ref, table.by)
		})
}

// policies re-points the conditions of row-level security.
func (r *references) policies(ctx context.Context, objects map[uint32]*dependent) error {
	var (
		name         string
		using, check *string
		table        relation
	)
	return r.each(ctx, objects, `
		SELECT p.oid, pg_catalog.quote_ident(p.polname), pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid), `+relationColumns+`
		FROM pg_catalog.pg_policy p
		JOIN pg_catalog.pg_class c ON c.oid = p.polrelid
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE p.oid = ANY($1) ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C", p.polname COLLATE "C"`,
		append([]any{&name, &using, &check}, table.fields()...),
		func(d *dependent) {
			conditions := ""
			if using != nil {
				conditions += " USING (" + *using + ")"
			}
			if check != nil {
				conditions += " WITH CHECK (" + *check + ")"
			}
			ref := d.reference(PolicyReference)
			ref.Lock = table.lock()
			ref.Drop = "DROP POLICY " + name + " ON " + table.name
			ref.PutBack = []string{"ALTER POLICY " + name + " ON " + table.name + conditions}
			ref.trial = []string{table.copy(), "CREATE POLICY " + name + " ON " + scratch + "." + table.bare + conditions}
			r.repoint(ref, table.by)
		})
}

// types re-points the defaults of domains. What a type is made of cannot be
// exchanged.
func (r *references) types(ctx context.Context, objects map[uint32]*dependent) error {
	var expression *string
	var by owner
	return r.each(ctx, objects, `
		SELECT t.oid, CASE WHEN t.typtype = 'd' THEN pg_catalog.pg_get_expr(t.typdefaultbin, 'pg_catalog.pg_type'::regclass) END,
			pg_catalog.pg_get_userbyid(t.typowner)::text, pg_catalog.pg_has_role(t.typowner, 'USAGE')
		FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
		WHERE t.oid = ANY($1) ORDER BY n.nspname COLLATE "C", t.typname COLLATE "C"`,
		[]any{&expression, &by.name, &by.may},
		func(d *dependent) {
			if expression == nil || d.has("pg_type") || d.has("pg_collation") {
				r.refuse(d, d.kind, fmt.Sprintf("ALTER TYPE %s SET SCHEMA %s, so that it comes back with the schema, or move what it is made of out of schema %s",
					d.identity, Identifier(r.name), Identifier(r.name)))
				return
			}
			ref := d.reference(DefaultReference)
			ref.PutBack = []string{"ALTER DOMAIN " + d.identity + " SET DEFAULT " + *expression}
			ref.Drop = "ALTER DOMAIN " + d.identity + " DROP DEFAULT"
			ref.trial = domainTrial(d.identity, "SET DEFAULT "+*expression)
			r.repoint(ref, by)
		})
}

// publications re-points the membership of the schema and its tables.
func (r *references) publications(ctx context.Context) error {
	list, err := readMembers(ctx, r.q, []uint32{r.schema}, r.version)
	if err != nil {
		return err
	}
	for _, m := range list {
		ref := Reference{
			Kind: PublicationReference, Object: Identifier(m.publication), Into: []string{m.description},
			TakeOff: []string{m.statement("DROP", "")}, PutBack: []string{m.statement("ADD", m.restriction)},
		}
		ref.Drop, ref.trial = ref.TakeOff[0], ref.PutBack
		if !m.whole {
			ref.Needs = []Need{{Kind: "table", Name: strings.TrimPrefix(m.description, "table ")}}
		}
		if m.whole && !m.superuser { // the right to publish whole schemas
			r.refuse(&dependent{identity: ref.Object, into: []target{{identity: m.description}}}, PublicationReference,
				"only a superuser may add whole schemas to a publication: restore as one")
			continue
		}
		r.repoint(ref, m.by)
	}
	return nil
}

// relations refuses tables, indexes and columns: they are tied to what is in
// the schema by how their rows are stored.
func (r *references) relations(ctx context.Context, list []*dependent) error {
	if len(list) == 0 {
		return nil
	}
	objects := map[uint32]*dependent{}
	for _, d := range list {
		objects[d.oid] = d
	}
	kinds := map[uint32]string{}
	definitions := map[uint32]string{}
	var kind, definition string
	var oid uint32
	err := r.each(ctx, objects, `
		SELECT c.oid, c.oid, c.relkind::text, CASE
			WHEN c.relkind IN ('i', 'I') THEN pg_catalog.pg_get_indexdef(c.oid)
			WHEN c.relispartition THEN pg_catalog.pg_get_expr(c.relpartbound, c.oid)
			ELSE '' END
		FROM pg_catalog.pg_class c WHERE c.oid = ANY($1)`,
		[]any{&oid, &kind, &definition}, func(*dependent) { kinds[oid], definitions[oid] = kind, definition })
	if err != nil {
		return err
	}
	for _, d := range list {
		kind, definition := kinds[d.oid], definitions[d.oid]
		switch {
		case d.extended:
			r.refuse(d, d.kind, "")
		case kind == "i" || kind == "I":
			r.refuse(d, IndexReference, fmt.Sprintf("DROP INDEX %s before the restore; afterwards %s", d.identity, definition))
		case d.column > 0:
			r.refuse(d, ColumnReference, fmt.Sprintf("give it a type outside of schema %s, or move what it uses there: ALTER %s SET SCHEMA public",
				Identifier(r.name), strings.ToUpper(d.into[0].word())+" "+d.into[0].object()))
		case d.has("pg_class"):
			parent := d.into[slices.IndexFunc(d.into, func(t target) bool { return t.class == "pg_class" })].object()
			r.inherits(d, d.identity, parent, definition)
		case d.has("pg_type"):
			r.refuse(d, TypedTableReference, fmt.Sprintf("ALTER TABLE %s NOT OF", d.identity))
		default:
			r.refuse(d, d.kind, "")
		}
	}
	return nil
}

// word is what PostgreSQL calls the object; for ALTER, where it is a type.
func (t target) word() string {
	if t.class == "pg_type" {
		return "type"
	}
	word, _, _ := strings.Cut(t.identity, " ")
	return word
}

// object is the quoted name of it.
func (t target) object() string {
	for _, word := range []string{"foreign table ", "partitioned table ", "materialized view ", "composite type ", "table ", "type ", "domain ", "collation ", "view ", "sequence "} {
		if name, ok := strings.CutPrefix(t.identity, word); ok {
			return strings.TrimSuffix(name, "[]")
		}
	}
	return t.identity
}

// inherits refuses a table that is tied to its parent across schemas.
func (r *references) inherits(d *dependent, child, parent, bound string) {
	if bound == "" {
		r.refuse(d, InheritanceReference, fmt.Sprintf("ALTER TABLE %s NO INHERIT %s before the restore; afterwards ALTER TABLE %s INHERIT %s", child, parent, child, parent))
		return
	}
	r.refuse(d, PartitionReference, fmt.Sprintf("ALTER TABLE %s DETACH PARTITION %s before the restore; afterwards ALTER TABLE %s ATTACH PARTITION %s %s",
		parent, child, parent, child, bound))
}

// parents refuses tables outside that have a child inside. For PostgreSQL it is
// the child that depends, but the parent would go on showing the rows of the
// replaced one.
func (r *references) parents(ctx context.Context) error {
	rows, err := r.q.Query(ctx, `
		SELECT n.nspname, pg_catalog.format('%I.%I', n.nspname, p.relname), pg_catalog.format('%I.%I', $2::text, c.relname),
			CASE WHEN c.relispartition THEN pg_catalog.pg_get_expr(c.relpartbound, c.oid) ELSE '' END
		FROM pg_catalog.pg_depend d
		JOIN pg_catalog.pg_class c ON c.oid = d.objid AND c.relkind IN ('r', 'p', 'f')
		JOIN pg_catalog.pg_inherits h ON h.inhrelid = c.oid
		JOIN pg_catalog.pg_class p ON p.oid = h.inhparent
		JOIN pg_catalog.pg_namespace n ON n.oid = p.relnamespace
		WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = $1
		AND p.relnamespace <> $1 ORDER BY 2, 3`, r.schema, r.name)
	if err != nil {
		return err
	}
	var schema, parent, child, bound string
	_, err = pgx.ForEachRow(rows, []any{&schema, &parent, &child, &bound}, func() error {
		r.inherits(&dependent{schema: schema, identity: parent, into: []target{{identity: "table " + child}}}, child, parent, bound)
		return nil
	})
	return err
}

// casts refuses those that would not come back with the schema: see ListCasts.
func (r *references) casts(ctx context.Context, list []*dependent) error {
	if len(list) == 0 {
		return nil
	}
	casts, err := ListCasts(ctx, r.q)
	if err != nil {
		return err
	}
	rows, err := r.q.Query(ctx, `
		SELECT objid FROM pg_catalog.pg_depend WHERE classid = 'pg_catalog.pg_cast'::regclass AND deptype = 'i'`)
	if err != nil {
		return err
	}
	parts, err := pgx.CollectRows(rows, pgx.RowTo[uint32]) // of a range type: from it to its multirange type
	if err != nil {
		return err
	}
	for _, d := range list {
		own := slices.ContainsFunc(casts, func(c Cast) bool { return c.OID == d.oid && c.Schema == r.schema })
		if !own && !slices.Contains(parts, d.oid) {
			r.refuse(d, CastReference, fmt.Sprintf("DROP CAST %s before the restore, and make it again afterwards", d.identity))
		}
	}
	return nil
}

// other refuses what is left.
func (r *references) other(d *dependent) {
	name := Identifier(r.name)
	switch d.class {
	case "pg_extension":
		r.refuse(d, ExtensionReference, fmt.Sprintf("move it out of the schema: ALTER EXTENSION %s SET SCHEMA public", d.identity))
	case "pg_statistic_ext":
		r.refuse(d, d.kind, fmt.Sprintf("ALTER STATISTICS %s SET SCHEMA %s, so that it comes back with the schema, or DROP STATISTICS %s", d.identity, name, d.identity))
	case "pg_event_trigger":
		r.refuse(d, d.kind, fmt.Sprintf("let event trigger %s call a function that is not in schema %s: drop it before the restore, and make it again afterwards", d.identity, name))
	default:
		r.refuse(d, d.kind, "")
	}
}
