package restore

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
)

// prebuilt is how an index of a big table is made in the staging schema by its
// own name, so that no mask is needed and many can be built at the same time.
type prebuilt struct {
	index      string // CREATE INDEX
	constraint string // takes the index for a constraint; empty: it is just an index
}

// readBack lets PostgreSQL write the statements that build the indexes of big
// tables for the staging schema: it makes them on the tables, which are still
// empty, asks what they are, and takes all of it back. What cannot be had in
// this way is built under the mask, and so is what calls a function whose body
// may name the live schema.
func (r *run) readBack(ctx context.Context, s *session, u *unit) error {
	if u.mask == nil || u.bytes() < bigTable {
		return nil
	}
	big := map[string]bool{}
	for i := range u.file.Index.Tables {
		if t := &u.file.Index.Tables[i]; t.Bytes >= bigTable && u.tableSchema(t) == u.mask.name {
			big[t.Name] = true
		}
	}
	phase := phasesOf(u.file.Index)
	steps, err := u.steps(ctx, func(i int, st datafile.Statement) bool {
		return u.file.Index.Frames[st.Frame].Kind == datafile.PostDataFrame && phase[i] == phaseIndexes && big[st.Table] &&
			(st.Kind == kindIndex || st.Kind == kindConstraint)
	})
	if err != nil {
		return err
	}
	var sql strings.Builder
	var names []string
	for _, st := range steps {
		// Statements of more than one part do more than make an index.
		if strings.Count(st.sql, ";") == 1 {
			sql.WriteString(st.sql)
			names = append(names, indexName(st))
		}
	}
	if len(names) == 0 {
		return nil
	}
	p := u.mask.peers
	p.Lock()
	defer p.Unlock()
	if err := s.exec(ctx, "BEGIN;"+p.on()+sql.String()+p.off(nil)); err != nil {
		if s.broken(ctx, err) {
			return fmt.Errorf("read definitions of indexes: %w", err)
		}
		return s.exec(ctx, "ROLLBACK")
	}
	found, err := readPrebuilt(ctx, s.conn, u.mask.staging, names)
	if err != nil {
		return err
	}
	u.prebuilt = found
	return s.exec(ctx, "ROLLBACK")
}

// indexName is the name of the index that a statement makes, for itself or for
// a constraint.
func indexName(st step) string { return strings.TrimPrefix(st.Tag, st.Table+" ") }

func readPrebuilt(ctx context.Context, q *pgx.Conn, schema string, names []string) (map[string]prebuilt, error) {
	rows, err := q.Query(ctx, `
		SELECT c.relname::text, pg_catalog.pg_get_indexdef(i.indexrelid),
			CASE WHEN k.oid IS NULL THEN '' ELSE pg_catalog.format('ALTER TABLE ONLY %I.%I ADD CONSTRAINT %I %s USING INDEX %I%s%s', n.nspname, t.relname, k.conname,
				CASE k.contype WHEN 'p' THEN 'PRIMARY KEY' ELSE 'UNIQUE' END, c.relname,
				CASE WHEN k.condeferrable THEN ' DEFERRABLE' ELSE '' END, CASE WHEN k.condeferred THEN ' INITIALLY DEFERRED' ELSE '' END) END
		FROM pg_catalog.pg_index i
		JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
		LEFT JOIN pg_catalog.pg_constraint k ON k.conindid = i.indexrelid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
		WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind = 'i' AND t.relkind = 'r'
		AND (k.oid IS NULL OR k.contype <> 'x' AND NOT i.indisexclusion)
		AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
			JOIN pg_catalog.pg_proc p ON p.oid = d.refobjid JOIN pg_catalog.pg_language l ON l.oid = p.prolang
			WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = i.indexrelid AND d.refclassid = 'pg_catalog.pg_proc'::regclass
			AND l.lanname NOT IN ('internal', 'c'))`, schema, names)
	if err != nil {
		return nil, fmt.Errorf("read definitions of indexes: %w", err)
	}
	found := map[string]prebuilt{}
	var name string
	var b prebuilt
	_, err = pgx.ForEachRow(rows, []any{&name, &b.index, &b.constraint}, func() error {
		found[name] = b
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read definitions of indexes: %w", err)
	}
	return found, nil
}
