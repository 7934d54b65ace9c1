package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// renamed checks that what gets another name, or is restored in part, is one
// tenant, and that its tables are there.
func (p *checker) renamed() error {
	if p.As == "" && len(p.Tables) == 0 && !p.Resume {
		return nil
	}
	if len(p.units) != 1 || p.units[0].core {
		return &UnsupportedError{
			Reason: "another name, single tables and what waits for its swap are for one tenant at a time, not for core or several tenants",
			Remedy: "name one tenant with --schema",
		}
	}
	u := p.units[0]
	switch {
	case p.As == "":
	case len(p.Tables) > 0 && pg.IsOwn(p.As): // as it is named without --as
	default:
		check := checkNewName
		if p.New || p.Over { // it is a template, whose own name means nothing
			check = func(name, _ string) error { return CheckName(name) }
		}
		if err := check(p.As, u.entry.Schema); err != nil {
			return err
		}
	}
	if u.file == nil {
		return nil
	}
	var known, missing []string
	for _, s := range u.file.Index.Statements {
		if s.Kind == "TABLE" {
			known = append(known, s.Tag)
		}
	}
	for _, name := range p.Tables {
		if !slices.Contains(known, name) {
			missing = append(missing, fmt.Sprintf("%q", name))
		}
	}
	if len(missing) > 0 {
		slices.Sort(known)
		return &UnknownTableError{Schema: u.entry.Schema, Backup: p.Manifest.ID, Names: missing, Known: known}
	}
	return nil
}

// checkNewName checks the name under which a schema is to be restored that has
// one.
func checkNewName(name, schema string) error {
	if name == schema {
		return &UnsupportedError{Reason: fmt.Sprintf("--as %s is the name that it has", name), Remedy: "give another name, or leave --as out to replace the live schema"}
	}
	return CheckName(name)
}

// CheckName checks the name under which a schema is to be restored. Its error is
// an *UnsupportedError.
func CheckName(name string) error {
	no := func(why, remedy string) error {
		return &UnsupportedError{Reason: fmt.Sprintf("%q cannot be the name of a tenant: %s", name, why), Remedy: remedy}
	}
	switch {
	case name == "":
		return no("it is empty", "give a name with --as")
	case len(name) > maxName:
		return no(fmt.Sprintf("it has %d bytes, PostgreSQL takes %d", len(name), maxName), "give a shorter one with --as")
	case strings.HasPrefix(name, "pg_"), name == "information_schema", name == manifest.CoreSchema:
		return no("it is that of a schema of PostgreSQL", "give another one with --as, which does not begin with pg_")
	case !utf8.ValidString(name), strings.ContainsFunc(name, unicode.IsControl):
		return no("it has characters that cannot be seen", "give another one with --as")
	case len(name) > 1 && name[0] == '"' && name[len(name)-1] == '"':
		return no("it stands in quotes", "give it as it is, with --as "+strings.Trim(name, `"`))
	case pg.IsOwn(name):
		return &UnsupportedError{Reason: fmt.Sprintf("%q is named like a schema of tenantkeep's own, which is no tenant", name), Remedy: "give another name with --as"}
	}
	return nil
}

// UnknownTableError is a table that the backup of a schema does not have.
type UnknownTableError struct {
	Schema, Backup string
	Names          []string
	Known          []string
}

// Error names the tables.
func (e *UnknownTableError) Error() string {
	return fmt.Sprintf("schema %q in backup %s has no table %s", e.Schema, e.Backup, strings.Join(e.Names, ", "))
}

// Hint names those that there are.
func (e *UnknownTableError) Hint() string {
	known := e.Known
	more := ""
	const enough = 40
	if len(known) > enough {
		known, more = known[:enough], fmt.Sprintf(" and %d more", len(known)-enough)
	}
	return "names are exact, upper and lower case included; it has " + strings.Join(known, ", ") + more
}

// wanted reports whether a statement after the rows belongs to a restore of
// single tables, which are there to be looked at: they get their indexes and
// keys, but nothing that would act on its own or refer to other tables.
func (r *run) wanted(u *unit, s datafile.Statement) bool {
	if u.kept == nil {
		return true
	}
	return (s.Kind == kindIndex || s.Kind == kindConstraint) && u.kept[s.Table]
}

// keepTables drops the tables that were not asked for, and the views, from the
// staging schema: what the wanted ones need of types, functions and sequences
// stays.
func (r *run) keepTables(ctx context.Context) error {
	if len(r.Tables) == 0 {
		return nil
	}
	u := r.units[0]
	s := r.sessions[0]
	if err := s.revive(ctx); err != nil {
		return err
	}
	// A partitioned table comes with its partitions, and without its parent.
	rows, err := s.conn.Query(ctx, `
		WITH RECURSIVE kept AS (
			SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
			WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND c.relname = ANY($2)
			UNION SELECT i.inhrelid FROM kept JOIN pg_catalog.pg_inherits i ON i.inhparent = kept.oid
			JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relispartition
		)
		SELECT c.relname::text, c.oid IN (SELECT oid FROM kept), c.relkind = 'r',
			CASE WHEN c.oid NOT IN (SELECT oid FROM kept) THEN NULL
			ELSE (SELECT pg_catalog.string_agg(pg_catalog.format(CASE WHEN c.relispartition THEN 'ALTER TABLE %1$s DETACH PARTITION %2$s;' ELSE 'ALTER TABLE %2$s NO INHERIT %1$s;' END,
				i.inhparent::regclass, c.oid::regclass), '')
				FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid AND i.inhparent NOT IN (SELECT oid FROM kept)) END,
			CASE c.relkind WHEN 'v' THEN 'DROP VIEW' WHEN 'm' THEN 'DROP MATERIALIZED VIEW' WHEN 'f' THEN 'DROP FOREIGN TABLE' ELSE 'DROP TABLE' END
				|| ' IF EXISTS ' || c.oid::regclass || ' CASCADE;'
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY c.oid DESC`, u.mask.staging, r.Tables)
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	u.kept = map[string]bool{}
	var detach, drops []string
	var name, drop string
	var keep, plain bool
	rowless := map[string]bool{} // kept tables that could have rows of their own
	var free *string
	_, err = pgx.ForEachRow(rows, []any{&name, &keep, &plain, &free, &drop}, func() error {
		switch {
		case keep:
			u.kept[name] = true
			rowless[name] = plain
			if free != nil {
				detach = append(detach, *free)
			}
		default:
			drops = append(drops, drop)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	for chunk := range slices.Chunk(append(detach, drops...), dropAtOnce) {
		if err := s.exec(ctx, strings.Join(chunk, "\n")); err != nil {
			return fmt.Errorf("leave out the other tables: %w", err)
		}
	}
	x := u.file.Index
	x.Tables = slices.DeleteFunc(slices.Clone(x.Tables), func(t manifest.Table) bool { return !u.kept[t.Name] })
	for i := range x.Tables {
		delete(rowless, x.Tables[i].Name)
	}
	for _, name := range r.Tables {
		switch {
		case !u.kept[name]:
			return fmt.Errorf("table %q of the backup could not be made", name)
		case rowless[name]:
			return fmt.Errorf("the rows of %q are saved with the partitioned table that it belongs to: name that one", name)
		}
	}
	return nil
}

// compareSQL writes the statements that somebody needs who wants rows of single
// tables back.
func (r *run) compareSQL(ctx context.Context, u *unit) ([]string, error) {
	live, found := u.mask.name, u.target
	var list []string
	for _, name := range r.Tables {
		var columns, key []string
		var there, overriding bool
		err := r.main.QueryRow(ctx, `
			SELECT ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
					WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND (l.oid IS NULL OR EXISTS (
						SELECT FROM pg_catalog.pg_attribute la WHERE la.attrelid = l.oid AND la.attname = a.attname AND NOT la.attisdropped AND la.attgenerated = ''))
					ORDER BY a.attnum),
				ARRAY(SELECT a.attname::text FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY(i.indkey)
					WHERE i.indrelid = c.oid AND i.indisprimary ORDER BY a.attnum),
				EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attidentity = 'a'),
				l.oid IS NOT NULL
			FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
			LEFT JOIN (pg_catalog.pg_class l JOIN pg_catalog.pg_namespace ln ON ln.oid = l.relnamespace AND ln.nspname = $3) ON l.relname = c.relname
			WHERE n.nspname = $1 AND c.relname = $2`,
			found, name, live).Scan(&columns, &key, &overriding, &there)
		if err != nil {
			return nil, fmt.Errorf("look at table %q: %w", name, err)
		}
		from, to := pg.Identifier(found, name), pg.Identifier(live, name)
		// A name may have a line break in it, which would end the comment.
		said := strings.NewReplacer("\n", " ", "\r", " ").Replace(to)
		if !there {
			list = append(list, fmt.Sprintf("-- %s does not exist any more; the backup has these rows\nSELECT * FROM %s;", said, from))
			continue
		}
		names := make([]string, len(columns))
		for i, c := range columns {
			names[i] = pg.Identifier(c)
		}
		all := strings.Join(names, ", ")
		if len(key) == 0 {
			list = append(list,
				fmt.Sprintf("-- rows of the backup that %s has not, or has otherwise (it has no primary key)\nSELECT %s FROM %s EXCEPT ALL SELECT %[2]s FROM %[4]s;", said, all, from, to))
			continue
		}
		same := make([]string, len(key))
		for i, k := range key {
			same[i] = "l." + pg.Identifier(k) + " = r." + pg.Identifier(k)
		}
		where := fmt.Sprintf("WHERE NOT EXISTS (SELECT FROM %s l WHERE %s)", to, strings.Join(same, " AND "))
		into := ""
		if overriding {
			into = " OVERRIDING SYSTEM VALUE"
		}
		list = append(list,
			fmt.Sprintf("-- rows of the backup that are not in %s any more\nSELECT r.* FROM %s r %s;", said, from, where),
			fmt.Sprintf("-- rows that were changed since, as the backup has them\nSELECT r.* FROM %s r JOIN %s l ON %s\nWHERE ROW(r.%s)::text <> ROW(l.%s)::text;",
				from, to, strings.Join(same, " AND "), strings.Join(names, ", r."), strings.Join(names, ", l.")),
			fmt.Sprintf("-- puts the missing rows back\nINSERT INTO %s (%s)%s\nSELECT r.%s FROM %s r %s;", to, all, into, strings.Join(names, ", r."), from, where))
	}
	// Not as a statement: whoever runs all of this at once, and finds that a row
	// does not go back, needs the schema.
	drop := strings.NewReplacer("\n", " ", "\r", " ").Replace(pg.Identifier(found))
	return append(list, fmt.Sprintf("-- when done: DROP SCHEMA %s CASCADE;", drop)), nil
}
