package restore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"github.com/dustin/go-humanize/english"
	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// unfinished returns the backup of a mark, which is a pg.UnfinishedComment, or of the label of a staging schema.
func unfinished(comment string) (backup string, ok bool) {
	if l, ok := parseLabel(comment); ok {
		return l.Backup, l.State == stateStaging
	}
	return pg.Unfinished(comment)
}

// markOf is the comment of what a unit makes, until it is whole.
func (r *run) markOf(u *unit) string {
	if u.mask == nil {
		return pg.UnfinishedComment(r.Manifest.ID)
	}
	return label{State: stateStaging, Schema: u.target, Backup: r.Manifest.ID, At: r.Now()}.String()
}

// publicComment is what initdb gives schema public; pg_dump writes the comment
// down only where it is another.
const publicComment = "standard public schema"

func commentSQL(schema, comment string) string {
	literal := "NULL"
	if comment != "" {
		literal = pg.Literal(comment)
	}
	return "COMMENT ON SCHEMA " + pg.Identifier(schema) + " IS " + literal + ";\n"
}

// remainder is a schema with a mark.
type remainder struct {
	oid    uint32
	schema string
	backup string
	own    bool // it is a staging
}

// listMarked lists the schemas with a mark.
func listMarked(ctx context.Context, conn *pgx.Conn) ([]remainder, error) {
	rows, err := conn.Query(ctx, `
		SELECT n.oid, n.nspname::text, pg_catalog.obj_description(n.oid, 'pg_namespace') FROM pg_catalog.pg_namespace n
		WHERE pg_catalog.obj_description(n.oid, 'pg_namespace') LIKE 'tenantkeep: %' ORDER BY n.nspname COLLATE "C"`)
	if err != nil {
		return nil, fmt.Errorf("look for remains of restores: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (m remainder, err error) {
		return m, row.Scan(&m.oid, &m.schema, &m.backup)
	})
	if err != nil {
		return nil, fmt.Errorf("look for remains of restores: %w", err)
	}
	var marked []remainder
	for _, m := range list {
		var ok bool
		_, m.own = parseLabel(m.backup)
		if m.backup, ok = unfinished(m.backup); ok {
			marked = append(marked, m)
		}
	}
	return marked, nil
}

// Unfinished is a schema that a restore has begun to make under the name of a tenant.
// It is at work on it at this moment, or has died.
type Unfinished struct{ Schema, Backup string }

// ListUnfinished lists them. The next restore of such a schema makes it anew.
func ListUnfinished(ctx context.Context, server *pg.Server) ([]Unfinished, error) {
	conn, err := server.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer pg.Close(conn)
	marked, err := listMarked(ctx, conn)
	if err != nil {
		return nil, err
	}
	var list []Unfinished
	for _, m := range marked {
		if !m.own {
			list = append(list, Unfinished{Schema: m.schema, Backup: m.backup})
		}
	}
	return list, nil
}

// removeRemains removes what dead restores left in the places that this one
// needs.
func (r *run) removeRemains(ctx context.Context) error {
	if len(r.remains) == 0 {
		return nil
	}
	s := &session{run: r, conn: r.main}
	if err := s.set(ctx); err != nil {
		return err
	}
	if slices.ContainsFunc(r.remains, func(m remainder) bool { return m.schema == manifest.CoreSchema }) {
		// Other schemas of that restore lean on its core.
		all, err := listMarked(ctx, r.main)
		if err != nil {
			return err
		}
		r.remains = all
	}
	names := make([]string, len(r.remains))
	for i, m := range r.remains {
		names[i] = strconv.Quote(m.schema)
	}
	r.Progress.Note(slog.LevelWarn, "", fmt.Sprintf("removing the remains of a restore that died: %s", english.PluralWord(len(names), "schema", "")+" "+some(names)))
	own, rest := []remainder(nil), []remainder(nil)
	for _, m := range r.remains {
		if pg.IsOwn(m.schema) {
			own = append(own, m)
		} else {
			rest = append(rest, m)
		}
	}
	if err := r.removeStagings(ctx, s, own); err != nil {
		return err
	}
	left, err := s.removeSchemas(ctx, rest)
	if err != nil {
		return fmt.Errorf("remove remains: %w", err)
	}
	if len(left) > 0 {
		return &DependedError{Schema: left[0].schema, Dependents: left[0].dependents}
	}
	return nil
}

// removeStagings removes old stagings. They are in nobody's way: one that cannot
// be removed now, since its foreign keys need locks on tables of core, or since
// something was made to depend on it, waits for the next restore.
func (r *run) removeStagings(ctx context.Context, s *session, list []remainder) error {
	s.tries = removeTries
	defer func() { s.tries = 0 }()
	// All together: they may refer to one another.
	left, err := s.removeSchemas(ctx, list)
	if err != nil && !inTheWay(err) {
		return fmt.Errorf("remove remains: %w", err)
	}
	if err != nil {
		r.Progress.Note(slog.LevelWarn, "", fmt.Sprintf("not all of it could be removed, and stays for now: %v", err))
	}
	for _, k := range left {
		r.Progress.Note(slog.LevelWarn, "", fmt.Sprintf("schema %q stays for now, because %s depends on it", k.schema, some(k.dependents)))
	}
	return nil
}

// removeTries is how often a lock is tried for where what it is needed for can
// wait.
const removeTries = 6

// DependedError says that the remains of a restore cannot be removed.
type DependedError struct {
	Schema     string
	Dependents []string
}

// Error names some of what depends on the remains.
func (e *DependedError) Error() string {
	return fmt.Sprintf("schema %q holds the remains of a restore that died, but %s outside of it would go with them", e.Schema, some(e.Dependents))
}

// Hint says what to do.
func (e *DependedError) Hint() string {
	return "drop those objects or the schema by hand, if nothing of it is needed, or restore into another database"
}

// kept is a schema that was not removed because of what depends on it.
type kept struct {
	remainder
	dependents []string
}

// removeSchemas drops schemas that have a mark, but none on which anything
// outside of them depends: CASCADE would take columns and constraints of
// others.
func (s *session) removeSchemas(ctx context.Context, list []remainder) ([]kept, error) {
	for {
		if len(list) == 0 {
			return nil, nil
		}
		all, err := s.dependents(ctx, list)
		if err != nil {
			return nil, err
		}
		var left []kept
		var free []remainder
		for _, m := range list {
			var dependents []string
			if len(all) > 0 {
				if dependents, err = s.dependents(ctx, []remainder{m}); err != nil {
					return nil, err
				}
			}
			if len(dependents) > 0 {
				left = append(left, kept{m, dependents})
			} else {
				free = append(free, m)
			}
		}
		// Tenants lean on core, which therefore goes last.
		slices.SortStableFunc(free, func(a, b remainder) int {
			switch {
			case a.schema == manifest.CoreSchema:
				return 1
			case b.schema == manifest.CoreSchema:
				return -1
			}
			return 0
		})
		for _, m := range free {
			if err := s.removeSchema(ctx, m); err != nil {
				return nil, fmt.Errorf("remove schema %q: %w", m.schema, err)
			}
		}
		if len(left) == 0 || len(free) == 0 {
			return left, nil
		}
		list = nil
		for _, k := range left {
			list = append(list, k.remainder)
		}
	}
}

func (s *session) dependents(ctx context.Context, list []remainder) ([]string, error) {
	var oids []uint32
	core := false
	for _, m := range list {
		oids = append(oids, m.oid)
		core = core || m.schema == manifest.CoreSchema
	}
	return pg.Dependents(ctx, s.conn, oids, core, 4)
}

// removeSchema drops one schema, or the contents of public, if the mark is
// still there.
func (s *session) removeSchema(ctx context.Context, m remainder) error {
	var comment string
	err := s.conn.QueryRow(ctx, `
		SELECT coalesce(pg_catalog.obj_description(oid, 'pg_namespace'), '') FROM pg_catalog.pg_namespace
		WHERE oid = $1 AND nspname = $2`, m.oid, m.schema).Scan(&comment)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	_, own := parseLabel(comment)
	if _, ok := pg.Unfinished(comment); !ok && (!own || !pg.IsOwn(m.schema)) {
		return errors.New("its mark is gone: somebody else took it over")
	}
	core := m.schema == manifest.CoreSchema
	if core {
		if err := s.dropDatabaseObjects(ctx, firstToDrop); err != nil {
			return err
		}
	}
	// Tables first and in steps, so that no step needs more locks than the
	// server has; what is left fits one.
	for _, kinds := range [][]string{{"v", "m"}, {"r", "p", "f"}} {
		if err := s.dropRelations(ctx, m.oid, kinds, nil); err != nil {
			return err
		}
	}
	if !core {
		return s.exec(ctx, "DROP SCHEMA "+pg.Identifier(m.schema)+" CASCADE")
	}
	if err := s.dropContents(ctx, m.oid, nil); err != nil {
		return err
	}
	if err := s.dropDatabaseObjects(ctx, lastToDrop); err != nil {
		return err
	}
	if err := s.dropExtensions(ctx); err != nil {
		return err
	}
	return s.exec(ctx, commentSQL(m.schema, publicComment))
}

const dropAtOnce = 50

// dropRelations drops the relations of those kinds that belong to no extension
// and are not among keep, as objectKey has them.
func (s *session) dropRelations(ctx context.Context, schema uint32, kinds, keep []string) error {
	n := dropAtOnce
	for {
		rows, err := s.conn.Query(ctx, `
			SELECT CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END
				|| ' ' || c.oid::regclass
			FROM pg_catalog.pg_class c WHERE c.relnamespace = $1 AND c.relkind::text = ANY($2) AND NOT EXISTS (
				SELECT FROM pg_catalog.pg_depend e
				WHERE e.classid = 'pg_catalog.pg_class'::regclass AND e.objid = c.oid AND e.objsubid = 0 AND e.deptype = 'e')
			AND 'pg_catalog.pg_class'::regclass::oid::text || '/' || c.oid::text <> ALL($4)
			ORDER BY c.relispartition DESC, c.oid LIMIT $3`, schema, kinds, n, texts(keep))
		if err != nil {
			return err
		}
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		if len(names) == 0 {
			return nil
		}
		var sql strings.Builder
		for _, name := range names {
			kind, _, _ := strings.Cut(name, " ")
			if kind == "MATERIALIZED" || kind == "FOREIGN" {
				kind, _ = cutWords(name)
			}
			fmt.Fprintf(&sql, "DROP %s IF EXISTS %s CASCADE;\n", kind, strings.TrimPrefix(name, kind+" "))
		}
		if err := s.exec(ctx, sql.String()); err != nil {
			if pg.Code(err) != pg.OutOfMemory || n == 1 {
				return err
			}
			n = max(1, n/4)
		}
	}
}

// cutWords splits "MATERIALIZED VIEW name" after its second word.
func cutWords(text string) (kind, name string) {
	first, rest, _ := strings.Cut(text, " ")
	second, name, _ := strings.Cut(rest, " ")
	return first + " " + second, name
}

// dropContents drops what is in a schema, belongs to no extension and is not among
// keep, as objectKey has it.
func (s *session) dropContents(ctx context.Context, schema uint32, keep []string) error {
	rows, err := s.conn.Query(ctx, `
		SELECT CASE i.type WHEN 'statistics object' THEN 'statistics' ELSE i.type END || ' IF EXISTS ' || i.identity
		FROM pg_catalog.pg_depend d, pg_catalog.pg_identify_object(d.classid, d.objid, 0) i
		WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = $1 AND d.classid NOT IN (`+besideSchema+`)
		AND NOT EXISTS (
			SELECT FROM pg_catalog.pg_depend e WHERE e.classid = d.classid AND e.objid = d.objid AND e.objsubid = 0 AND e.deptype = 'e')
		AND `+objectKey+` <> ALL($2)`, schema, texts(keep))
	if err != nil {
		return err
	}
	drops, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, drop := range drops {
		if err := s.exec(ctx, "DROP "+drop+" CASCADE"); err != nil && !pg.Missing(err) {
			return err
		}
	}
	return nil
}

// dropExtensions drops the extensions that this restore has made, where nothing
// needs them. After a restore that died nobody knows which they were: they
// stay, and are in nobody's way.
func (s *session) dropExtensions(ctx context.Context) error {
	if s.run.installed == nil {
		return nil
	}
	list, err := pg.ListExtensions(ctx, s.conn)
	if err != nil {
		return err
	}
	made := s.run.madeExtensions()
	list = slices.DeleteFunc(list, func(x pg.Extension) bool { return s.run.installed[x.Name] || !made[x.Name] })
	for moved := true; moved; {
		moved = false
		for _, x := range list {
			err := s.exec(ctx, "DROP EXTENSION "+pg.Identifier(x.Name))
			moved = moved || err == nil
			if err != nil && s.broken(ctx, err) {
				return err
			}
		}
	}
	return nil
}

// madeExtensions are those that the files of this restore make.
func (r *run) madeExtensions() map[string]bool {
	made := map[string]bool{}
	for _, u := range r.units {
		if u.file == nil {
			continue
		}
		for _, x := range u.file.Index.Header.Requires.Extensions {
			if x.Created {
				made[x.Name] = true
			}
		}
	}
	return made
}

// undo removes what the run made and did not finish: all of it where err ends
// the run, else that of the tenants that failed. It works after ctx is over.
func (r *run) undo(ctx context.Context, err error) error {
	if err != nil {
		for _, u := range r.units {
			if !u.finished {
				u.fail(err)
			}
		}
	}
	var failed []*unit
	for _, u := range r.units {
		if u.failed() {
			failed = append(failed, u)
		}
	}
	if len(failed) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	for _, s := range r.sessions { // what they have begun would be in the way
		pg.Close(s.conn)
	}
	if slices.ContainsFunc(failed, func(u *unit) bool { return !u.began.IsZero() && u.staged == "" }) {
		r.Progress.Note(slog.LevelInfo, "", "Removing what was made of "+some(tenantsOf(failed)))
	}
	left, undoErr := r.removeUnits(ctx, failed)
	if undoErr != nil {
		undoErr = fmt.Errorf("remove what was made (the next restore does it): %w", undoErr)
	}
	for _, u := range failed {
		for _, k := range left {
			if slices.Contains(u.madeSchemas(), k.schema) || u.core && k.schema == manifest.CoreSchema {
				u.left = true
				u.note(fmt.Sprintf("schema %q was not removed, because %s depends on it; its comment says that it is not whole", k.schema, some(k.dependents)))
			}
		}
		if u.core && r.unmarked && !u.began.IsZero() {
			u.left = true
			u.note("schema public was not emptied: this role could not mark it as unfinished, so nothing tells what is in it from what others made")
		}
		u.left = u.left || undoErr != nil
	}
	if err == nil && undoErr != nil {
		r.Progress.Note(slog.LevelWarn, "", undoErr.Error())
		return nil
	}
	return errors.Join(err, undoErr)
}

func tenantsOf(units []*unit) []string {
	names := make([]string, len(units))
	for i, u := range units {
		names[i] = u.entry.Tenant
	}
	return names
}

func (r *run) removeUnits(ctx context.Context, failed []*unit) ([]kept, error) {
	if r.main.IsClosed() || r.main.PgConn().IsClosed() {
		pg.Close(r.main)
		conn, err := r.Server.Connect(ctx)
		if err != nil {
			return nil, err
		}
		r.main = conn
		if err := r.lock(ctx, conn); err != nil {
			return nil, err
		}
	}
	s := &session{run: r, conn: r.main, tries: removeTries}
	if err := s.set(ctx); err != nil {
		return nil, err
	}
	marked, err := listMarked(ctx, r.main)
	if err != nil {
		return nil, err
	}
	undoErr := r.undoMedia(failed, marked)
	var mine []remainder
	for _, m := range marked {
		for _, u := range failed {
			if slices.Contains(u.madeSchemas(), m.schema) && !u.present[m.schema] || u.core && m.schema == manifest.CoreSchema {
				mine = append(mine, m)
			}
		}
	}
	left, err := s.removeSchemas(ctx, mine)
	return left, errors.Join(undoErr, err)
}
