package restore

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/copybin"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/rowdigest"
)

// findFormats finds the big tables whose rows can be sent in binary format, in
// which the server has less to do, and those that can be compared by their
// digest. The comparison, which goes by text as the server writes it, proves that
// they arrived as they are in the backup.
func (r *run) findFormats(ctx context.Context) error {
	for _, u := range r.alive() {
		big := map[tableKey]*manifest.Table{}
		var schemas, names []string
		for i := range u.file.Index.Tables {
			if t := &u.file.Index.Tables[i]; t.Bytes >= bigTable && t.Condition == "" && !u.isTextual(t) {
				key := tableKey{u.place(u.tableSchema(t)), t.Name}
				big[key] = t
				schemas, names = append(schemas, key.schema), append(names, key.name)
			}
		}
		if len(big) == 0 {
			continue
		}
		found, err := r.columns(ctx, schemas, names)
		if err != nil {
			return err
		}
		digests := r.canDigest(ctx, u)
		u.formats, u.digests = map[*manifest.Table]*copybin.Format{}, map[*manifest.Table]*digest{}
		for key, t := range big {
			types := make([]uint32, len(t.Columns))
			columns := make([]rowdigest.Column, len(t.Columns))
			whole := true
			for i, name := range t.Columns {
				c, ok := found[key][name]
				whole = whole && ok
				types[i], columns[i] = c.format, c.Column
			}
			if !whole {
				continue
			}
			if f := copybin.New(types); f != nil {
				u.formats[t] = f
			}
			if d := rowdigest.New(columns); d != nil && digests {
				u.digests[t] = &digest{table: d}
			}
		}
	}
	return nil
}

// column is one of an ordinary table.
type column struct {
	rowdigest.Column
	format uint32 // its type as package copybin knows it
}

// columns reads the columns of ordinary tables.
func (r *run) columns(ctx context.Context, schemas, tables []string) (map[tableKey]map[string]column, error) {
	s := r.sessions[0]
	if err := s.revive(ctx); err != nil {
		return nil, err
	}
	rows, err := s.conn.Query(ctx, `
		SELECT n.nspname::text, c.relname::text, a.attname::text, t.oid, t.typtype = 'e',
			pg_catalog.format('%I.%I', f.schema, f.name)
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
		JOIN LATERAL (
			SELECT p.proname AS name, pn.nspname AS schema
			FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace pn ON pn.oid = p.pronamespace WHERE p.oid = t.typoutput) f ON true
		WHERE c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
		AND (n.nspname, c.relname) IN (SELECT s, t FROM unnest($1::text[], $2::text[]) x (s, t))`, schemas, tables)
	if err != nil {
		return nil, fmt.Errorf("read types of columns: %w", err)
	}
	found := map[tableKey]map[string]column{}
	var key tableKey
	var c column
	var enum bool
	_, err = pgx.ForEachRow(rows, []any{&key.schema, &key.name, &c.Name, &c.Type, &enum, &c.Output}, func() error {
		if found[key] == nil {
			found[key] = map[string]column{}
		}
		c.format = c.Type
		if enum {
			c.format = copybin.Enum
		}
		found[key][c.Name] = c
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read types of columns: %w", err)
	}
	return found, nil
}

// format is the binary format of a table's rows; nil: they go as text.
func (u *unit) format(t *manifest.Table) *copybin.Format {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.formats[t]
}

// asText lets the rows of a table go as text from now on.
func (u *unit) asText(t *manifest.Table) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.formats, t)
}
