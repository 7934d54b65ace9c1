package registry

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// Source is a table of a database from which registrations are read.
type Source struct {
	Table
	found
}

// found is what the catalogue says of a table.
type found struct {
	oid      uint32
	kind     string // as in pg_class
	readable bool
	filtered bool     // row-level security hides rows from this role
	key      []string // columns of the primary key
	columns  []column
}

type column struct {
	manifest.RegistryColumn
	generated bool
	always    bool // an identity that cannot be updated
	unique    bool // by itself
}

func (f *found) column(name string) *column {
	i := slices.IndexFunc(f.columns, func(c column) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return &f.columns[i]
}

// describe looks tables up by schema and name. Those that do not exist are nil.
func describe(ctx context.Context, q pg.Querier, schemas, names []string) ([]*found, error) {
	list := make([]*found, len(names))
	rows, err := q.Query(ctx, `
		SELECT w.n - 1, c.oid, c.relkind::text, coalesce(pg_catalog.has_table_privilege(c.oid, 'SELECT') AND pg_catalog.has_schema_privilege(n.oid, 'USAGE'), true),
			c.relrowsecurity AND pg_catalog.row_security_active(c.oid),
			coalesce((SELECT array_agg(a.attname::text ORDER BY k.n)
				FROM pg_catalog.pg_index i, unnest(i.indkey::int2[]) WITH ORDINALITY k (attnum, n), pg_catalog.pg_attribute a
				WHERE i.indrelid = c.oid AND i.indisprimary AND k.n <= i.indnkeyatts AND a.attrelid = c.oid AND a.attnum = k.attnum), '{}'),
			a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attgenerated <> '', a.attidentity = 'a',
			EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indpred IS NULL
				AND i.indnkeyatts = 1 AND i.indkey[0] = a.attnum)
		FROM unnest($1::text[], $2::text[]) WITH ORDINALITY w (schema, name, n)
		JOIN pg_catalog.pg_namespace n ON n.nspname = w.schema
		JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = w.name
		LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
		ORDER BY w.n, a.attnum`, schemas, names)
	if err != nil {
		return nil, fmt.Errorf("look at the tables of registrations: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var n int
		var f found
		var name, typ *string
		var generated, always *bool
		var unique bool
		if err := rows.Scan(&n, &f.oid, &f.kind, &f.readable, &f.filtered, &f.key, &name, &typ, &generated, &always, &unique); err != nil {
			return nil, fmt.Errorf("look at the tables of registrations: %w", err)
		}
		if list[n] == nil {
			list[n] = &f
		}
		if name != nil {
			list[n].columns = append(list[n].columns, column{
				RegistryColumn: manifest.RegistryColumn{Name: *name, Type: *typ}, generated: *generated, always: *always, unique: unique,
			})
		}
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("look at the tables of registrations: %w", err)
	}
	return list, nil
}

// TableError is a table that was named and cannot hold registrations.
type TableError struct {
	Table  Table
	Reason string
	Remedy string
}

// Error names table and reason.
func (e *TableError) Error() string {
	return fmt.Sprintf("table of registrations %s: %s", e.Table, e.Reason)
}

// Hint says what to do.
func (e *TableError) Hint() string {
	if e.Remedy != "" {
		return e.Remedy
	}
	return "name the tables with --registry-table TABLE.COLUMN, or do without with --registry-table none"
}

// Find finds the tables of a choice in the database. Tables that were named and
// cannot be read are a *TableError; where django-tenants' are looked for, what is
// not clear is a warning, and nothing is found.
func (c Choice) Find(ctx context.Context, q pg.Querier) (sources []Source, warning string, err error) {
	tables := c.Tables
	if c.Auto {
		if tables, warning, err = detect(ctx, q); err != nil || len(tables) == 0 {
			return nil, warning, err
		}
	}
	var schemas, names []string
	for _, t := range tables {
		schemas, names = append(schemas, t.Schema), append(names, t.Name)
	}
	list, err := describe(ctx, q, schemas, names)
	if err != nil {
		return nil, "", err
	}
	for i, t := range tables {
		fault := c.check(t, list, i, tables)
		if fault != nil && c.Auto {
			return nil, fmt.Sprintf("the rows that register tenants are not saved with them: %v; %s", fault, fault.Hint()), nil
		}
		if fault != nil {
			return nil, "", fault
		}
		sources = append(sources, Source{Table: t, found: *list[i]})
	}
	return sources, "", nil
}

// check says why a table cannot hold registrations; nil: it can.
func (c Choice) check(t Table, list []*found, i int, tables []Table) *TableError {
	f := list[i]
	switch {
	case f == nil:
		return &TableError{Table: t, Reason: "there is no such table"}
	case f.kind != "r":
		return &TableError{Table: t, Reason: "it is no plain table"}
	case f.column(t.Column) == nil:
		return &TableError{Table: t, Reason: fmt.Sprintf("it has no column %q", t.Column)}
	case !f.readable:
		return &TableError{Table: t, Reason: "this role may not read it", Remedy: fmt.Sprintf("GRANT SELECT ON %s to this role, or do without with --registry-table none", pg.Identifier(t.Schema, t.Name))}
	case f.filtered:
		return &TableError{Table: t, Reason: "row-level security hides rows of it from this role", Remedy: "use a role with BYPASSRLS or the owner of the table, or do without with --registry-table none"}
	case t.Refers == nil:
		return nil
	}
	of := slices.IndexFunc(tables, func(o Table) bool { return o.Schema == t.Refers.Schema && o.Name == t.Refers.Name })
	switch refers := list[of].column(t.Refers.Column); {
	case refers == nil:
		return &TableError{Table: t, Reason: fmt.Sprintf("%s has no column %q", title(t.Refers.Schema, t.Refers.Name), t.Refers.Column)}
	case !refers.unique:
		return &TableError{Table: t, Reason: fmt.Sprintf("column %q of %s is not unique, so that a row could belong to several tenants", t.Refers.Column, title(t.Refers.Schema, t.Refers.Name))}
	}
	return nil
}

// detect finds the tables of django-tenants, which look as its TenantMixin and
// its DomainMixin make them. One alone, or more than one pair, are none.
func detect(ctx context.Context, q pg.Querier) (tables []Table, warning string, err error) {
	rows, err := q.Query(ctx, `
		WITH own AS (
			SELECT c.oid, c.relname FROM pg_catalog.pg_depend o JOIN pg_catalog.pg_class c ON c.oid = o.objid -- pg_class has no index by schema
			WHERE o.classid = 'pg_catalog.pg_class'::regclass AND o.refclassid = 'pg_catalog.pg_namespace'::regclass
			AND o.refobjid = (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1) AND c.relkind = 'r' AND NOT c.relispartition
			AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
		), uniques AS (
			SELECT i.indrelid, i.indkey[0] AS attnum, i.indisprimary FROM own JOIN pg_catalog.pg_index i ON i.indrelid = own.oid
			WHERE i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indnkeyatts = 1 AND i.indkey[0] <> 0
		), tenants AS MATERIALIZED ( -- one after the other: to plan all joins at once takes longer than all else here
			SELECT t.oid, t.relname, p.attname, p.attnum
			FROM own t
			JOIN pg_catalog.pg_attribute s ON s.attrelid = t.oid AND s.attname = 'schema_name' AND NOT s.attisdropped AND s.attnotnull
				AND s.atttypid = 'pg_catalog.varchar'::regtype AND s.atttypmod = 63 + 4
			JOIN uniques k ON k.indrelid = t.oid AND k.indisprimary
			JOIN pg_catalog.pg_attribute p ON p.attrelid = t.oid AND p.attnum = k.attnum
			WHERE EXISTS (SELECT FROM uniques u WHERE u.indrelid = t.oid AND u.attnum = s.attnum)
		), domains AS MATERIALIZED (
			SELECT d.oid, d.relname, r.attnum
			FROM own d
			JOIN pg_catalog.pg_attribute r ON r.attrelid = d.oid AND r.attname = 'tenant_id'
			JOIN pg_catalog.pg_attribute n ON n.attrelid = d.oid AND n.attname = 'domain' AND NOT n.attisdropped AND n.attnotnull
				AND n.atttypid = 'pg_catalog.varchar'::regtype AND n.atttypmod = 253 + 4
			JOIN pg_catalog.pg_attribute b ON b.attrelid = d.oid AND b.attname = 'is_primary' AND NOT b.attisdropped AND b.atttypid = 'pg_catalog.bool'::regtype
			WHERE EXISTS (SELECT FROM uniques u WHERE u.indrelid = d.oid AND u.attnum = n.attnum)
		)
		SELECT t.relname::text, t.attname::text, d.relname::text
		FROM tenants t CROSS JOIN domains d
		JOIN pg_catalog.pg_constraint k ON k.contype = 'f' AND k.conrelid = d.oid AND k.conkey = ARRAY[d.attnum] AND k.confrelid = t.oid AND k.confkey = ARRAY[t.attnum]
		GROUP BY 1, 2, 3 ORDER BY 1, 2, 3`, manifest.CoreSchema)
	if err != nil {
		return nil, "", fmt.Errorf("look for the tables of django-tenants: %w", err)
	}
	type pair struct{ Tenants, Key, Domains string }
	pairs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[pair])
	if err != nil {
		return nil, "", fmt.Errorf("look for the tables of django-tenants: %w", err)
	}
	switch len(pairs) {
	case 0:
		return nil, "", nil
	case 1:
		p := pairs[0]
		return []Table{
			{Schema: manifest.CoreSchema, Name: p.Tenants, Column: "schema_name"},
			{Schema: manifest.CoreSchema, Name: p.Domains, Column: "tenant_id", Refers: &manifest.RegistryReference{Schema: manifest.CoreSchema, Name: p.Tenants, Column: p.Key}},
		}, "", nil
	}
	var list []string
	for _, p := range pairs {
		list = append(list, fmt.Sprintf("%s with %s", title(manifest.CoreSchema, p.Tenants), title(manifest.CoreSchema, p.Domains)))
	}
	return nil, fmt.Sprintf("the rows that register tenants are not saved with them: %s all look like the tables of django-tenants; name the right ones with --registry-table",
		strings.Join(list, ", ")), nil
}
