package pg

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Misfit is a reference that cannot be made to point at the schema that is to
// take the place of another.
type Misfit struct {
	Reference Reference
	Missing   []Need // what the schema lacks
	Err       error  // what PostgreSQL says, where it lacks nothing that is known
}

// String says what is wrong with it.
func (m *Misfit) String() string {
	ref := &m.Reference
	if len(m.Missing) == 0 {
		return fmt.Sprintf("%s %s does not fit this backup: %v", ref.Kind, ref.Object, m.Err)
	}
	const enough = 3
	var names []string
	for i, n := range m.Missing {
		if i == enough {
			names = append(names, fmt.Sprintf("%d more", len(m.Missing)-i))
			break
		}
		names = append(names, n.String())
	}
	return fmt.Sprintf("%s %s needs %s, which this backup does not have", ref.Kind, ref.Object, strings.Join(names, ", "))
}

// maxTrials is how many references are tried. Of more it is only looked whether
// what they need is there.
const maxTrials = 1000

// TryReferences finds those references that could not be made to point at
// another schema. The session is in a transaction in which that schema has the
// name of the one that they point into, and which is to be rolled back. What is
// tried is done to copies in a schema of the name scratch, so that the objects
// themselves are not locked.
func TryReferences(ctx context.Context, conn *pgx.Conn, list []Reference, schema uint32, scratchName string) ([]Misfit, error) {
	there, err := contents(ctx, conn, schema)
	if err != nil {
		return nil, err
	}
	exec := func(sql string) error {
		_, err := conn.PgConn().Exec(ctx, sql).ReadAll()
		return err
	}
	if err := exec("CREATE SCHEMA " + Identifier(scratchName)); err != nil {
		return nil, fmt.Errorf("try references: %w", err)
	}
	var found []Misfit
	tried := 0
	for _, ref := range list {
		if ref.Remedy != "" {
			continue
		}
		var missing []Need
		for _, n := range ref.Needs {
			if !there[Need{Name: n.Name}] {
				n.Column = ""
			}
			if !there[Need{Name: n.Name, Column: n.Column}] && !slices.Contains(missing, n) {
				missing = append(missing, n)
			}
		}
		if len(missing) > 0 {
			found = append(found, Misfit{Reference: ref, Missing: missing})
			continue
		}
		if len(ref.trial) == 0 || tried == maxTrials {
			continue
		}
		tried++
		trial := strings.ReplaceAll(strings.Join(ref.trial, ";\n"), scratch, Identifier(scratchName))
		err := exec("SAVEPOINT trial;\n" + trial + ";\nROLLBACK TO trial")
		if err == nil {
			continue
		}
		if ctx.Err() != nil || Lost(err) || Code(err) == LockNotAvailable || Code(err) == OutOfMemory {
			return nil, fmt.Errorf("try %s %s: %w", ref.Kind, ref.Object, err)
		}
		found = append(found, Misfit{Reference: ref, Err: err})
		if err := exec("ROLLBACK TO trial"); err != nil {
			return nil, fmt.Errorf("try references: %w", err)
		}
	}
	return found, nil
}

// contents are the names of all that is in a schema, and of its columns.
func contents(ctx context.Context, q Querier, schema uint32) (map[Need]bool, error) {
	rows, err := q.Query(ctx, `
		WITH RECURSIVE `+insideOf+`
		SELECT i.identity, '' FROM inside o, pg_catalog.pg_identify_object(o.classid, o.objid, 0) i
		WHERE o.classid NOT IN ('pg_catalog.pg_constraint'::regclass, 'pg_catalog.pg_extension'::regclass)
		UNION
		SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), pg_catalog.quote_ident(a.attname)
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		WHERE n.oid = ANY($1) AND c.relkind NOT IN ('i', 'I', 't')`, []uint32{schema})
	if err != nil {
		return nil, fmt.Errorf("read what is in a schema: %w", err)
	}
	there := map[Need]bool{}
	var n Need
	if _, err := pgx.ForEachRow(rows, []any{&n.Name, &n.Column}, func() error { there[n] = true; return nil }); err != nil {
		return nil, fmt.Errorf("read what is in a schema: %w", err)
	}
	return there, nil
}
