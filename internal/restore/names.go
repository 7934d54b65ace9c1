package restore

import (
	"context"
	"fmt"
	"regexp"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// tellNames finds what of a schema that got another name still names the old
// one as text, which PostgreSQL does not follow: bodies of functions, their
// settings, and strings in expressions. Rows are not searched.
func (r *run) tellNames(ctx context.Context, u *unit) error {
	if u.mask == nil || u.target == u.mask.name {
		return nil
	}
	old := u.mask.name
	// The name as a word of its own, also within quotes.
	word := `(?<![[:alnum:]_$])` + regexp.QuoteMeta(old) + `(?![[:alnum:]_$])`
	// Names of objects in expressions are stored by OID, although they look
	// like strings.
	strings := func(expression string) string {
		return `pg_catalog.regexp_replace(` + expression + `, $$'([^']|'')*'::reg[a-z]+$$, '', 'g')`
	}
	rows, err := r.main.Query(ctx, `
		WITH place AS (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1),
		relation AS (SELECT c.* FROM pg_catalog.pg_class c WHERE c.relnamespace = (SELECT oid FROM place)),
		found AS (
			SELECT 1 AS rank, CASE p.prokind WHEN 'p' THEN 'procedure ' ELSE 'function ' END || p.oid::regprocedure AS object, 'in its body' AS place
			FROM pg_catalog.pg_proc p WHERE p.pronamespace = (SELECT oid FROM place) AND p.prosrc ~ $2
			UNION ALL
			SELECT 2, 'function ' || p.oid::regprocedure, 'in its setting ' || s
			FROM pg_catalog.pg_proc p, unnest(p.proconfig) s WHERE p.pronamespace = (SELECT oid FROM place) AND s ~ $2
			UNION ALL
			SELECT 3, CASE c.relkind WHEN 'm' THEN 'materialized view ' ELSE 'view ' END || c.oid::regclass, 'in its query, as a string'
			FROM relation c WHERE c.relkind IN ('v', 'm') AND `+strings(`pg_catalog.pg_get_viewdef(c.oid)`)+` ~ $3
			UNION ALL
			SELECT 4, 'column ' || c.oid::regclass || '.' || quote_ident(a.attname), 'in its default, as a string'
			FROM relation c JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.oid JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = d.adnum
			WHERE `+strings(`pg_catalog.pg_get_expr(d.adbin, d.adrelid)`)+` ~ $3
			UNION ALL
			SELECT 5, 'constraint ' || quote_ident(k.conname) || ' on ' || c.oid::regclass, 'in its condition, as a string'
			FROM relation c JOIN pg_catalog.pg_constraint k ON k.conrelid = c.oid WHERE k.contype = 'c' AND `+strings(`pg_catalog.pg_get_constraintdef(k.oid)`)+` ~ $3
			UNION ALL
			SELECT 6, 'index ' || c.oid::regclass, 'in its expression, as a string'
			FROM relation c JOIN pg_catalog.pg_index i ON i.indexrelid = c.oid WHERE c.relkind = 'i' AND (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL)
			AND `+strings(`pg_catalog.pg_get_indexdef(c.oid)`)+` ~ $3
			UNION ALL
			SELECT 7, 'policy ' || quote_ident(p.polname) || ' on ' || c.oid::regclass, 'as a string'
			FROM relation c JOIN pg_catalog.pg_policy p ON p.polrelid = c.oid
			WHERE `+strings(`coalesce(pg_catalog.pg_get_expr(p.polqual, p.polrelid), '') || ' ' || coalesce(pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid), '')`)+` ~ $3
			UNION ALL
			SELECT 8, 'trigger ' || quote_ident(t.tgname) || ' on ' || c.oid::regclass, 'as a string'
			FROM relation c JOIN pg_catalog.pg_trigger t ON t.tgrelid = c.oid WHERE NOT t.tgisinternal AND `+strings(`pg_catalog.pg_get_triggerdef(t.oid)`)+` ~ $3
			UNION ALL
			SELECT 9, 'rule ' || quote_ident(w.rulename) || ' on ' || c.oid::regclass, 'as a string'
			FROM relation c JOIN pg_catalog.pg_rewrite w ON w.ev_class = c.oid WHERE w.rulename <> '_RETURN' AND `+strings(`pg_catalog.pg_get_ruledef(w.oid)`)+` ~ $3
		)
		SELECT object || ' names schema ' || quote_ident($4) || ' ' || place FROM found ORDER BY rank, 1`,
		u.target, word, `'([^']|'')*`+word+`([^']|'')*'`, old)
	if err != nil {
		return fmt.Errorf("look for the old name: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("look for the old name: %w", err)
	}
	for _, what := range list {
		u.note(what + ": it goes on to mean that schema, not " + pg.Identifier(u.target))
	}
	return nil
}

// tellAllNames is the last of a restore under another name: of those that took
// the place of a live schema, or of the others.
func (r *run) tellAllNames(ctx context.Context, swapped bool) {
	for _, u := range r.alive() {
		if u.swaps() != swapped {
			continue
		}
		if err := r.tellNames(ctx, u); err != nil {
			u.note(err.Error())
		}
	}
}
