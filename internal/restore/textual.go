package restore

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// findTextual finds the tables of staging schemas whose rows mean something
// else under another name of their schema: values of types such as regclass are
// names as text, and functions that check or compute values may name the schema
// in their body. Such rows are written and read under the mask.
func (r *run) findTextual(ctx context.Context) error {
	for _, u := range r.alive() {
		if u.mask == nil || u.textual != nil {
			continue
		}
		s := r.sessions[0]
		if err := s.revive(ctx); err != nil {
			return err
		}
		ranges := "r.rngtypid = p.oid"
		if r.info.ServerVersionNum >= 140000 {
			ranges += " OR r.rngmultitypid = p.oid"
		}
		rows, err := s.conn.Query(ctx, `
			WITH RECURSIVE relation AS (
				SELECT c.oid, c.relname::text AS name FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
				WHERE n.nspname = $1 AND c.relkind IN ('r', 'p')
			), uses AS (
				SELECT c.oid, a.atttypid AS type FROM relation c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
				WHERE a.attnum > 0 AND NOT a.attisdropped
				UNION
				SELECT u.oid, part.type FROM uses u JOIN pg_catalog.pg_type p ON p.oid = u.type CROSS JOIN LATERAL (
					SELECT p.typelem AS type UNION ALL SELECT p.typbasetype
					UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE `+ranges+`
					UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a WHERE a.attrelid = p.typrelid AND a.attnum > 0 AND NOT a.attisdropped
				) part WHERE part.type <> 0
			), expression AS (
				SELECT c.oid, 'pg_catalog.pg_constraint'::regclass AS class, k.oid AS object
				FROM relation c JOIN pg_catalog.pg_constraint k ON k.conrelid = c.oid WHERE k.contype = 'c'
				UNION ALL
				SELECT c.oid, 'pg_catalog.pg_attrdef'::regclass, f.oid FROM relation c JOIN pg_catalog.pg_attrdef f ON f.adrelid = c.oid
				JOIN pg_catalog.pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum WHERE a.attgenerated <> ''
				UNION ALL
				SELECT u.oid, 'pg_catalog.pg_constraint'::regclass, k.oid FROM uses u JOIN pg_catalog.pg_constraint k ON k.contypid = u.type
			)
			SELECT name FROM relation WHERE oid IN (SELECT u.oid FROM uses u WHERE u.type IN (
				'regclass'::regtype, 'regproc'::regtype, 'regprocedure'::regtype, 'regoper'::regtype, 'regoperator'::regtype, 'regtype'::regtype,
				'regnamespace'::regtype, 'regconfig'::regtype, 'regdictionary'::regtype, 'regcollation'::regtype))
			OR oid IN (SELECT e.oid FROM expression e
				JOIN pg_catalog.pg_depend d ON d.classid = e.class AND d.objid = e.object AND d.refclassid = 'pg_catalog.pg_proc'::regclass
				JOIN pg_catalog.pg_proc p ON p.oid = d.refobjid JOIN pg_catalog.pg_language l ON l.oid = p.prolang
				WHERE l.lanname NOT IN ('internal', 'c'))`, u.mask.staging)
		if err != nil {
			return fmt.Errorf("look for columns that name objects: %w", err)
		}
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return fmt.Errorf("look for columns that name objects: %w", err)
		}
		u.textual = map[string]bool{}
		for _, name := range names {
			u.textual[name] = true
		}
	}
	return nil
}

// isTextual reports whether the rows of a table are written and read under the
// mask.
func (u *unit) isTextual(t *manifest.Table) bool {
	return u.mask != nil && u.tableSchema(t) == u.mask.name && u.textual[t.Name]
}

// masked runs f under the mask if it is to be worn: on and off are for the
// message that f sends.
func (u *unit) masked(worn bool, f func(on, off string) error) error {
	if !worn {
		return f("", "")
	}
	p := u.mask.peers
	p.Lock()
	defer p.Unlock()
	return f(p.on(), p.off(nil))
}

// sqlName is the name of a table in a message, under the mask or without.
func (u *unit) sqlName(t *manifest.Table) string {
	if u.isTextual(t) {
		return pg.Identifier(u.tableSchema(t), t.Name)
	}
	return u.qualified(t)
}
