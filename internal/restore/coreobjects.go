package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// coreObjects is what is known of a live core whose objects are exchanged, since
// their definitions are not those of the backup.
type coreObjects struct {
	beside  map[int]bool // statements that are not about what is in public
	missing []step       // what belongs to the database and is not there
}

// moving is an extension in public that moves over to the staging schema while
// the mask is worn, so that statements find it in the schema of that name.
type moving struct {
	name  string
	fixed bool // PostgreSQL moves it only if it is told that it may
}

// to is the statement that moves it.
func (m moving) to(schema string) string {
	sql := "ALTER EXTENSION " + pg.Identifier(m.name) + " SET SCHEMA " + pg.Identifier(schema) + ";\n"
	if !m.fixed {
		return sql
	}
	flag := func(value string) string {
		return "UPDATE pg_catalog.pg_extension SET extrelocatable = " + value + " WHERE extname = " + pg.Literal(m.name) + ";\n"
	}
	return flag("true") + sql + flag("false")
}

// replaceObjects plans the exchange of all objects of a core in use, whose
// definitions differ from those of the backup.
func (p *checker) replaceObjects(ctx context.Context, u *unit, public uint32, found changes, extensions []moving, existing []databaseObject) error {
	tenant := u.entry.Tenant
	refuse := differentCore(tenant, found, nil)
	if len(p.units) > 1 {
		refuse.Remedy = "restore core alone first (--schema public), which exchanges its objects, then the tenants"
		p.find(refuse)
		return nil
	}
	var classes int
	err := p.main.QueryRow(ctx, `SELECT count(*) FROM pg_catalog.pg_opclass c WHERE c.opcnamespace = $1 AND c.opcdefault AND `+notMember("pg_opclass", "c"), public).Scan(&classes)
	if err != nil {
		return fmt.Errorf("list operator classes: %w", err)
	}
	if classes > 0 {
		refuse.Problem += "; its objects cannot be exchanged, because it has a default operator class, of which a type has only one"
		p.find(refuse)
		return nil
	}
	references, err := coreReferences(ctx, p.main, public)
	if err != nil {
		return err
	}
	planned := p.plannedSchema(u)
	refused := 0
	for _, ref := range references {
		planned.References = append(planned.References, PlannedReference{Kind: ref.Kind, Schema: ref.Schema, Object: ref.Object, Into: ref.Into, Remedy: ref.Remedy})
		if ref.Remedy != "" {
			refused++
			p.find(Finding{
				Tenant:  tenant,
				Problem: fmt.Sprintf("%s %s points into core and cannot be made to point at the restored one", ref.Kind, ref.Object),
				Remedy:  ref.Remedy,
			})
		}
	}
	if refused > 0 {
		p.find(refuse)
		return nil
	}
	if err := p.coreTables(ctx, u, &coreInUse{public: public}); err != nil {
		return err
	}
	// A foreign key locks its table, its parent, and their indexes.
	planned.Live.Locks += 4 * len(pg.LocksOf(references))
	if room := p.lockRoom(); planned.Live.Locks > room {
		refuse.Problem += fmt.Sprintf("; its objects cannot be exchanged either: that takes %s locks at once, with %s of other schemas that point at it, and the server has room for %s",
			humanize.Comma(int64(planned.Live.Locks)), english.Plural(len(references), "object", ""), humanize.Comma(int64(room)))
		refuse.Remedy = fmt.Sprintf("raise max_locks_per_transaction by a factor of %d and restart the server; or %s", planned.Live.Locks/max(room, 1)+1, refuse.Remedy)
		p.find(refuse)
		return nil
	}
	if err := p.mask(ctx, u, manifest.CoreSchema); err != nil {
		return err
	}
	u.mask.live, u.mask.extensions = true, extensions
	u.live = &live{oid: public, name: manifest.CoreSchema}
	u.schemas = []string{manifest.CoreSchema}
	u.objects = &coreObjects{beside: map[int]bool{}}
	made := map[string]bool{}
	for _, s := range u.file.Index.Statements {
		made[s.Tag] = true
	}
	for i, is := range besides(u.file.Index) {
		s := u.file.Index.Statements[i]
		_, of, _ := strings.Cut(s.Tag, " ")
		switch {
		case (s.Kind == "CAST" || s.Kind == "TRANSFORM") && strings.Contains(s.Tag, " public."), strings.HasPrefix(s.Tag, "CAST (public."):
			is = false // of a type that is made anew
		case s.Kind == kindACL && s.Table == "" && !made[of]:
			is = true // of a member of an extension
		}
		u.objects.beside[i] = is
	}
	u.objects.missing, err = p.missingObjects(ctx, u, existing)
	u.objects.missing = slices.DeleteFunc(u.objects.missing, func(st step) bool { return !u.objects.beside[st.index] })
	u.note("definitions of core have changed since the backup, so that all of its objects are exchanged: " + found.String())
	return err
}

// coreReferences are those into public that matter when its objects are
// exchanged: extensions stay.
func coreReferences(ctx context.Context, q pg.Querier, public uint32) ([]pg.Reference, error) {
	list, err := pg.ListReferences(ctx, q, public)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list, func(r pg.Reference) bool { return isOfCore(r) || pg.IsOwn(r.Schema) }), nil
}

// isOfCore reports whether what points into public is a part of core itself:
// extensions stay in it, and casts of its types go with these and come back with
// those of the backup.
func isOfCore(r pg.Reference) bool {
	return r.Kind == pg.ExtensionReference || r.Kind == pg.CastReference && strings.Contains(r.Object, manifest.CoreSchema+".")
}

// makeStaging makes the schema that the objects of core are made in.
func (r *run) makeStaging(ctx context.Context, s *session, u *unit) error {
	if err := s.exec(ctx, "CREATE SCHEMA "+pg.Identifier(u.mask.staging)+";\n"+commentSQL(u.mask.staging, r.markOf(u))); err != nil {
		return fmt.Errorf("make the staging schema of core: %w", err)
	}
	u.mask.made = true
	return nil
}

// isBeside reports whether a statement of core is about something that is not
// exchanged with the objects of public.
func (u *unit) isBeside(i int) bool { return u.objects != nil && u.objects.beside[i] }

// objectMoves are the statements that move everything in a schema that belongs to
// no extension to another. Functions and operators are named by the types of
// their arguments and go first.
func objectMoves(ctx context.Context, q pg.Querier, schema, to string) (string, error) {
	rows, err := q.Query(ctx, `
		SELECT 'ALTER ' || CASE i.type WHEN 'statistics object' THEN 'statistics' WHEN 'composite type' THEN 'type' ELSE i.type END || ' ' || i.identity
		FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_namespace n ON n.oid = d.refobjid
		CROSS JOIN LATERAL pg_catalog.pg_identify_object(d.classid, d.objid, 0) i
		WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass AND n.nspname = $1 AND d.classid NOT IN (`+besideSchema+`)
		AND NOT EXISTS (
			-- What belongs to an extension stays; an owned sequence, and what was
			-- made together with another object, goes with that.
			SELECT FROM pg_catalog.pg_depend e WHERE e.classid = d.classid AND e.objid = d.objid AND e.objsubid = 0
			AND (e.deptype IN ('e', 'i') OR e.deptype = 'a' AND e.refobjsubid > 0 AND EXISTS (SELECT FROM pg_catalog.pg_class s WHERE d.classid = 'pg_catalog.pg_class'::regclass AND s.oid = d.objid AND s.relkind = 'S')))
		ORDER BY CASE d.classid WHEN 'pg_catalog.pg_proc'::regclass THEN 0 WHEN 'pg_catalog.pg_operator'::regclass THEN 1 ELSE 2 END, d.objid`, schema)
	if err != nil {
		return "", fmt.Errorf("list the objects of schema %q: %w", schema, err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return "", fmt.Errorf("list the objects of schema %q: %w", schema, err)
	}
	var sql strings.Builder
	for _, alter := range list {
		sql.WriteString(alter + " SET SCHEMA " + pg.Identifier(to) + ";\n")
	}
	return sql.String(), nil
}

// exchangeSQL are the statements that exchange the objects of core: those of the
// live schema go to a new one, those of the incoming schema take their place. The
// incoming schema is dropped without CASCADE: an object that was passed over ends
// the transaction.
func (x *exchange) exchangeSQL(ctx context.Context, q pg.Querier) (string, error) {
	away, err := objectMoves(ctx, q, x.live.name, x.replaced)
	if err != nil {
		return "", err
	}
	in, err := objectMoves(ctx, q, x.incoming, x.live.name)
	if err != nil {
		return "", err
	}
	x.label.Comment, x.label.Objects = nil, true
	return "CREATE SCHEMA " + pg.Identifier(x.replaced) + ";\n" + commentSQL(x.replaced, x.label.String()) + away + in +
		"DROP SCHEMA " + pg.Identifier(x.incoming) + ";\n", nil
}

// lockable are the relations to lock. Of core those of extensions stay.
func (x *exchange) lockable(ctx context.Context, q pg.Querier) (list []lock, denied []string, err error) {
	list, denied, err = lockable(ctx, q, x.live.oid)
	if err != nil || !x.objects {
		return list, denied, err
	}
	rows, err := q.Query(ctx, `
		SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE n.oid = $1 AND NOT (`+notMember("pg_class", "c")+`)`, x.live.oid)
	if err != nil {
		return nil, nil, fmt.Errorf("list tables of extensions: %w", err)
	}
	members, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, nil, fmt.Errorf("list tables of extensions: %w", err)
	}
	list = slices.DeleteFunc(list, func(l lock) bool { return slices.Contains(members, l.relation) })
	sequences, err := sequenceLocks(ctx, q, x.live.oid)
	if err != nil {
		return nil, nil, err
	}
	list = slices.Concat(sequences, list)
	denied = slices.DeleteFunc(denied, func(name string) bool { return slices.Contains(members, name) })
	return list, denied, nil
}
