package restore

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// live is a schema in use that a restored one takes the place of.
type live struct {
	oid     uint32
	name    string
	comment string
	tables  []lock // what a swap locks, views too
	// references are what of other schemas is made to point at the restored one.
	references []pg.Reference
}

// unfinished reports whether a restore of the schema has not ended, as its comment
// says: that the tenant was whole in it is not known.
func (l *live) unfinished() bool {
	_, marked := pg.Unfinished(l.comment)
	return marked
}

// replaces checks whether a live schema can be replaced by that of a unit.
func (p *checker) replaces(ctx context.Context, s existing, u *unit) error {
	if p.As == "" {
		if err := p.mask(ctx, u, s.Name); err != nil {
			return err
		}
	}
	u.mask.live = u.mask.live || u.mask.name == s.Name
	u.live = &live{oid: s.OID, name: s.Name, comment: s.Comment}
	if !s.Owned {
		p.find(Finding{
			Tenant:  u.entry.Tenant,
			Problem: fmt.Sprintf("role %q may not rename schema %q, which it does not own", p.info.User, s.Name),
			Remedy:  fmt.Sprintf("ALTER SCHEMA %s OWNER TO %s, or restore as a superuser", pg.Identifier(s.Name), pg.Identifier(p.info.User)),
		})
	}
	var denied []string
	var err error
	if u.live.tables, denied, err = lockable(ctx, p.main, s.OID); err != nil {
		return err
	}
	n := len(u.live.tables)
	p.plannedSchema(u).Live = &PlannedLive{Tables: s.Tables, Rows: s.Rows, Bytes: s.Bytes, Locks: n, oid: s.OID}
	if n > p.info.LockSlots*3/4 {
		p.find(Finding{
			Tenant: u.entry.Tenant,
			Problem: fmt.Sprintf("schema %q has %s and views, which must be locked at once for the swap: the server has room for %s locks",
				s.Name, english.Plural(n, "table", ""), humanize.Comma(int64(p.info.LockSlots))),
			Remedy: "raise max_locks_per_transaction",
		})
	}
	if len(denied) > 0 {
		p.find(Finding{
			Tenant:  u.entry.Tenant,
			Problem: fmt.Sprintf("role %q may not lock %s of schema %q, as it must for the swap: it does not own them", p.info.User, some(denied), s.Name),
			Remedy:  "let it be a member of the role that owns them, or restore as a superuser",
		})
	}
	return p.references(ctx, u)
}

// references checks that everything that points into the live schema from
// elsewhere can be made to point at the one that takes its place.
func (p *checker) references(ctx context.Context, u *unit) error {
	var list []pg.Reference
	note := func(text string) { p.Progress.Note(slog.LevelWarn, "", text) }
	err := untilFree(ctx, p.main, u.live.name, p.SwapTimeout, note, func() (err error) {
		list, err = pg.ListReferences(ctx, p.main, u.live.oid)
		return err
	})
	if err != nil {
		return err
	}
	planned := p.plannedSchema(u)
	for _, ref := range list {
		if p.together(u, ref.Schema) || pg.IsOwn(ref.Schema) {
			continue
		}
		planned.References = append(planned.References, PlannedReference{Kind: ref.Kind, Schema: ref.Schema, Object: ref.Object, Into: ref.Into, Remedy: ref.Remedy})
		if ref.Remedy != "" {
			p.find(Finding{
				Tenant:  u.entry.Tenant,
				Problem: fmt.Sprintf("%s %s points into schema %q and cannot be made to point at the restored one", ref.Kind, ref.Object, u.live.name),
				Remedy:  ref.Remedy,
			})
			continue
		}
		u.live.references = append(u.live.references, ref)
	}
	return nil
}

// together reports whether a schema is replaced in the same transaction as that
// of a unit, so that what is in it needs no care.
func (r *run) together(u *unit, schema string) bool {
	return slices.ContainsFunc(r.units, func(other *unit) bool {
		return other != u && other.live != nil && other.live.name == schema && other.mask.peers != nil && other.mask.peers == u.mask.peers
	})
}

// lock is a statement that locks one relation alone, for changes.
type lock struct{ relation, sql string }

// lockable finds what a swap locks of a schema, so that open transactions finish
// first and whoever comes later waits, and finds the new schema by its name; and
// what of it the role may not lock. Views come before the tables that they read,
// and tables in the order in which they were made: parents usually before what
// refers to them. A view that was not locked would lead a statement that waits
// for a table behind it to the table of the replaced schema.
func lockable(ctx context.Context, q pg.Querier, schema uint32) (list []lock, denied []string, err error) {
	// LOCK TABLE would lock all that a view reads too, and knows neither
	// materialized views nor foreign tables: the owner is given what he owns.
	rows, err := q.Query(ctx, `
		SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.format(CASE c.relkind
				WHEN 'v' THEN 'ALTER VIEW %I.%I OWNER TO %I' WHEN 'm' THEN 'ALTER MATERIALIZED VIEW %I.%I OWNER TO %I'
				WHEN 'f' THEN 'ALTER FOREIGN TABLE %I.%I OWNER TO %I' ELSE 'LOCK TABLE ONLY %I.%I IN ACCESS EXCLUSIVE MODE' END,
				n.nspname, c.relname, pg_catalog.pg_get_userbyid(c.relowner)),
			pg_catalog.pg_has_role(c.relowner, 'USAGE') OR c.relkind IN ('r', 'p') AND pg_catalog.has_table_privilege(c.oid, 'UPDATE, DELETE, TRUNCATE')
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE n.oid = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
		ORDER BY CASE WHEN c.relkind IN ('r', 'p') THEN c.oid::int8 ELSE -c.oid::int8 END`, schema)
	if err != nil {
		return nil, nil, fmt.Errorf("list tables: %w", err)
	}
	var one lock
	var may bool
	_, err = pgx.ForEachRow(rows, []any{&one.relation, &one.sql, &may}, func() error {
		if may {
			list = append(list, one)
		} else {
			denied = append(denied, one.relation)
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list tables: %w", err)
	}
	return list, denied, nil
}
