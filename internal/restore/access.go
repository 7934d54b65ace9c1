package restore

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// AccessChange is how owner, grants, policies or comment of an object of the
// backup differ from those of the live object that it takes the place of.
type AccessChange struct {
	Object string
	Lost   []string // that only the live one has
	Gained []string // that only the backup has
}

// access is who may do what, and what is said about it, by object. Names have no
// schema where it is the objects' own.
type access map[string][]string

// ownerItem begins the owner among the items of an object, commentItem the
// comment. The others are about rights.
const (
	ownerItem   = "owner "
	commentItem = "comment "
)

// readAccess reads it of all objects of a schema that belong to no extension.
func readAccess(ctx context.Context, q pg.Querier, schema uint32) (access, error) {
	rows, err := q.Query(ctx, `
		WITH object AS (
			SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'S' THEN 'sequence' WHEN 'f' THEN 'foreign table' ELSE 'table' END
				|| ' ' || pg_catalog.quote_ident(c.relname) AS name, c.relowner AS owner, c.relacl AS acl,
				CASE c.relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END AS kind, pg_catalog.obj_description(c.oid, 'pg_class') AS comment
			FROM pg_catalog.pg_class c WHERE c.relnamespace = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND `+notMember("pg_class", "c")+`
			UNION ALL
			SELECT CASE p.prokind WHEN 'a' THEN 'aggregate ' WHEN 'p' THEN 'procedure ' ELSE 'function ' END
				|| pg_catalog.quote_ident(p.proname) || '(' || pg_catalog.pg_get_function_identity_arguments(p.oid) || ')',
				p.proowner, p.proacl, 'f', pg_catalog.obj_description(p.oid, 'pg_proc')
			FROM pg_catalog.pg_proc p WHERE p.pronamespace = $1 AND `+notMember("pg_proc", "p")+`
			UNION ALL
			SELECT CASE t.typtype WHEN 'd' THEN 'domain ' ELSE 'type ' END || pg_catalog.quote_ident(t.typname), t.typowner, t.typacl, 'T', pg_catalog.obj_description(t.oid, 'pg_type')
			FROM pg_catalog.pg_type t WHERE t.typnamespace = $1 AND t.typtype IN ('b', 'd', 'e', 'r') AND t.typelem = 0 AND `+notMember("pg_type", "t")+`
			UNION ALL
			SELECT 'schema', n.nspowner, n.nspacl, 'n', NULL FROM pg_catalog.pg_namespace n WHERE n.oid = $1
		), relation AS (
			SELECT c.oid, c.relname, c.relrowsecurity, c.relforcerowsecurity, c.relkind FROM pg_catalog.pg_class c
			WHERE c.relnamespace = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND `+notMember("pg_class", "c")+`
		)
		SELECT o.name, '`+ownerItem+`' || pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(o.owner)) FROM object o
		UNION ALL
		SELECT o.name, `+grantSQL+` FROM object o, pg_catalog.aclexplode(coalesce(o.acl, pg_catalog.acldefault(o.kind, o.owner))) a WHERE a.grantee <> o.owner
		UNION ALL
		SELECT o.name, '`+commentItem+`' || pg_catalog.quote_literal(o.comment) FROM object o WHERE o.comment IS NOT NULL
		UNION ALL
		SELECT 'column ' || pg_catalog.quote_ident(r.relname) || '.' || pg_catalog.quote_ident(t.attname), i.item
		FROM relation r JOIN pg_catalog.pg_attribute t ON t.attrelid = r.oid AND t.attnum > 0 AND NOT t.attisdropped
		CROSS JOIN LATERAL (
			SELECT NULL::text AS item
			UNION ALL SELECT `+grantSQL+` FROM pg_catalog.aclexplode(t.attacl) a
			UNION ALL SELECT '`+commentItem+`' || pg_catalog.quote_literal(d.description) FROM pg_catalog.pg_description d
				WHERE d.classoid = 'pg_catalog.pg_class'::regclass AND d.objoid = r.oid AND d.objsubid = t.attnum) i
		UNION ALL
		SELECT 'table ' || pg_catalog.quote_ident(r.relname), 'row-level security' || CASE WHEN r.relforcerowsecurity THEN ', for the owner too' ELSE '' END
		FROM relation r WHERE r.relrowsecurity AND r.relkind IN ('r', 'p')
		UNION ALL
		SELECT 'table ' || pg_catalog.quote_ident(r.relname), pg_catalog.format('policy %I%s FOR %s TO %s', p.polname,
				CASE WHEN p.polpermissive THEN '' ELSE ' AS RESTRICTIVE' END,
				CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
				(SELECT string_agg(CASE m WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(m)) END, ', ' ORDER BY m) FROM unnest(p.polroles) m))
			|| coalesce(' USING (' || pg_catalog.pg_get_expr(p.polqual, p.polrelid) || ')', '')
			|| coalesce(' WITH CHECK (' || pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid) || ')', '')
		FROM relation r JOIN pg_catalog.pg_policy p ON p.polrelid = r.oid
		UNION ALL
		SELECT 'schema', pg_catalog.format('%s on new %s of %I', `+grantSQL+`,
			CASE d.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions' WHEN 'T' THEN 'types' ELSE 'objects' END,
			pg_catalog.pg_get_userbyid(d.defaclrole))
		FROM pg_catalog.pg_default_acl d, pg_catalog.aclexplode(d.defaclacl) a WHERE d.defaclnamespace = $1`, schema)
	if err != nil {
		return nil, fmt.Errorf("read owners and grants of a schema: %w", err)
	}
	own := ""
	all := access{}
	var object string
	var item *string
	_, err = pgx.ForEachRow(rows, []any{&object, &item}, func() error {
		if _, is := all[object]; !is {
			all[object] = nil
		}
		if item != nil {
			all[object] = append(all[object], *item)
		}
		return nil
	})
	if err == nil {
		err = q.QueryRow(ctx, `SELECT pg_catalog.quote_ident(nspname) || '.' FROM pg_catalog.pg_namespace WHERE oid = $1`, schema).Scan(&own)
	}
	if err != nil {
		return nil, fmt.Errorf("read owners and grants of a schema: %w", err)
	}
	short := access{} // another schema has the same objects under another name
	for object, items := range all {
		for i := range items {
			items[i] = strings.ReplaceAll(items[i], own, "")
		}
		slices.Sort(items)
		short[strings.ReplaceAll(object, own, "")] = items
	}
	return short, nil
}

// grantSQL is one grant of an access control list a.
const grantSQL = `a.privilege_type || ' for ' || ` + granteeSQL + ` || CASE WHEN a.is_grantable THEN ' with grant option' ELSE '' END`

// changes are how the objects of another schema differ, of those that both have.
func (a access) changes(restored access, noOwner, noPrivileges bool) []AccessChange {
	var list []AccessChange
	for _, object := range slices.Sorted(maps.Keys(a)) {
		now, both := restored[object]
		if !both {
			continue
		}
		without := func(items, others []string) (left []string) {
			for _, item := range items {
				owner, said := strings.HasPrefix(item, ownerItem), strings.HasPrefix(item, commentItem)
				if noOwner && owner || noPrivileges && !owner && !said || slices.Contains(others, item) {
					continue
				}
				left = append(left, item)
			}
			return left
		}
		c := AccessChange{Object: object, Lost: without(a[object], now), Gained: without(now, a[object])}
		if len(c.Lost)+len(c.Gained) > 0 {
			list = append(list, c)
		}
	}
	return list
}
