package restore

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// definitions runs all that stands before the rows: core's first, which all
// others lean on, then that of the tenants side by side, then what had to wait
// for another schema.
func (r *run) definitions(ctx context.Context) error {
	r.Progress.Start("define", 0, 0)
	var tenants []task
	for _, u := range r.units {
		t := task{unit: u, size: u.bytes(), run: func(ctx context.Context, s *session) ([]task, error) {
			return nil, r.define(ctx, s, u)
		}}
		if !u.core {
			tenants = append(tenants, t)
			continue
		}
		if err := r.work(ctx, []task{t}); err != nil {
			return err
		}
		if u.failed() {
			return fmt.Errorf("tenant %s: %w", u.entry.Tenant, u.err)
		}
	}
	if err := r.work(ctx, tenants); err != nil {
		return err
	}
	if err := r.again(ctx); err != nil {
		return err
	}
	for _, f := range r.deferred {
		if holdsRows(f.Kind) {
			f.unit.fail(fmt.Errorf("create %s %s: %w", strings.ToLower(f.Kind), f.object(), f.err))
		}
	}
	return nil
}

// holdsRows reports whether a tenant without an object of this kind would lack
// rows.
func holdsRows(kind string) bool {
	switch kind {
	case kindSchema, "TABLE", kindExtension, "BLOB", "BLOB METADATA", "BLOBS", kindLargeObjectData:
		return true
	}
	return false
}

// define runs the definitions of one unit that stand before its rows.
func (r *run) define(ctx context.Context, s *session, u *unit) error {
	u.began = r.Now()
	if u.inUse != nil {
		return r.defineCopies(ctx, s, u)
	}
	if u.objects != nil {
		if err := r.makeStaging(ctx, s, u); err != nil {
			return err
		}
	}
	if u.core && u.objects == nil && !r.unmarked {
		if err := s.exec(ctx, commentSQL(manifest.CoreSchema, pg.UnfinishedComment(r.Manifest.ID))); err != nil {
			return fmt.Errorf("mark schema public: %w", err)
		}
	}
	x := u.file.Index
	presentSchema := false // the statement before was that of a schema that is there
	steps, err := u.steps(ctx, func(i int, st datafile.Statement) bool {
		if x.Frames[st.Frame].Kind != datafile.PreDataFrame || u.isBeside(i) || r.skipped(u, st) || isSchemaComment(st) {
			return false
		}
		if presentSchema && st.Kind == kindOwner {
			return false
		}
		presentSchema = st.Kind == kindSchema && u.present[st.Tag]
		return !presentSchema
	})
	if err != nil {
		return err
	}
	for i := range steps {
		if steps[i].Kind == kindSchema {
			// In one message with the schema: it never exists without its mark.
			steps[i].sql += commentSQL(steps[i].Tag, r.markOf(u))
		}
	}
	failed, err := s.execAll(ctx, steps)
	if err != nil {
		return err
	}
	r.deferAll(failed)
	return r.readBack(ctx, s, u)
}

// resetPrivileges takes away what the default privileges of the restoring role
// gave to the objects that it made: the grants of the backup are written for
// objects as PostgreSQL makes them without.
func (r *run) resetPrivileges(ctx context.Context) error {
	if r.NoPrivileges {
		return nil
	}
	s := r.sessions[0]
	if err := s.revive(ctx); err != nil {
		return err
	}
	var has bool
	err := s.conn.QueryRow(ctx, `SELECT EXISTS (
		SELECT FROM pg_catalog.pg_default_acl WHERE defaclrole = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user))`).Scan(&has)
	if err != nil {
		return fmt.Errorf("look for default privileges: %w", err)
	}
	if !has {
		return nil
	}
	var made, filled []string
	for _, u := range r.alive() {
		for _, name := range u.schemas {
			if !u.present[name] {
				made = append(made, u.place(name))
			}
		}
		filled = append(filled, u.madeSchemas()...)
		if u.core && u.inUse == nil && u.objects == nil {
			filled = append(filled, manifest.CoreSchema)
		}
	}
	statements, err := privilegeResets(ctx, s.conn, made, filled)
	if err != nil {
		return err
	}
	for chunk := range slices.Chunk(statements, messageStatements) {
		if err := s.exec(ctx, strings.Join(chunk, ";\n")); err != nil {
			if s.broken(ctx, err) {
				return fmt.Errorf("reset privileges: %w", err)
			}
			r.Progress.Note(slog.LevelWarn, "", fmt.Sprintf("objects keep grants that the default privileges of this role gave them: %v", err))
			return nil
		}
	}
	return nil
}

// privilegeResets are the statements that give schemas that were made, and what
// is in those that were filled, the privileges that PostgreSQL gives by itself.
func privilegeResets(ctx context.Context, q pg.Querier, made, filled []string) ([]string, error) {
	rows, err := q.Query(ctx, `
		WITH object AS (
			SELECT 'SCHEMA ' || quote_ident(nspname) AS name, nspacl AS acl, pg_catalog.acldefault('n', nspowner) AS standard
			FROM pg_catalog.pg_namespace WHERE nspname = ANY($1)
			UNION ALL
			SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE ' ELSE 'TABLE ' END || c.oid::regclass, c.relacl,
				pg_catalog.acldefault(CASE c.relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END, c.relowner)
			FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
			WHERE n.nspname = ANY($2) AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND NOT EXISTS (`+memberOf("pg_class", "c")+`)
			UNION ALL
			SELECT 'ROUTINE ' || p.oid::regprocedure, p.proacl, pg_catalog.acldefault('f', p.proowner)
			FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
			WHERE n.nspname = ANY($2) AND NOT EXISTS (`+memberOf("pg_proc", "p")+`)
			UNION ALL
			SELECT 'TYPE ' || t.oid::regtype, t.typacl, pg_catalog.acldefault('T', t.typowner)
			FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
			WHERE n.nspname = ANY($2) AND NOT EXISTS (`+memberOf("pg_type", "t")+`)
		), entry AS (
			SELECT o.name, o.acl, o.standard FROM object o WHERE o.acl IS NOT NULL AND o.acl <> o.standard
		)
		SELECT 'REVOKE ' || a.privilege_type || ' ON ' || e.name || ' FROM ' || `+granteeSQL+`
		FROM entry e, pg_catalog.aclexplode(e.acl) a
		WHERE NOT EXISTS (SELECT FROM pg_catalog.aclexplode(e.standard) d WHERE d.grantee = a.grantee AND d.privilege_type = a.privilege_type AND d.is_grantable = a.is_grantable)
		UNION ALL
		SELECT 'GRANT ' || a.privilege_type || ' ON ' || e.name || ' TO ' || `+granteeSQL+`
		FROM entry e, pg_catalog.aclexplode(e.standard) a
		WHERE NOT EXISTS (SELECT FROM pg_catalog.aclexplode(e.acl) d WHERE d.grantee = a.grantee AND d.privilege_type = a.privilege_type AND d.is_grantable = a.is_grantable)
		ORDER BY 1 DESC`, made, filled)
	if err != nil {
		return nil, fmt.Errorf("read privileges: %w", err)
	}
	statements, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("read privileges: %w", err)
	}
	return statements, nil
}

const granteeSQL = `CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END`

// memberOf is a subquery that finds the extension of a row of a catalog.
func memberOf(catalog, alias string) string {
	return `SELECT FROM pg_catalog.pg_depend x WHERE x.classid = 'pg_catalog.` + catalog + `'::regclass AND x.objid = ` + alias + `.oid AND x.deptype = 'e'`
}
