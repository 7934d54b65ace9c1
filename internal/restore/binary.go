package restore

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/copybin"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
)

// findFormats finds the big tables whose rows can be sent in binary format, in
// which the server has less to do. The comparison, which reads text as the
// server writes it, proves that they arrived as they are in the backup.
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
		types, err := r.columnTypes(ctx, schemas, names)
		if err != nil {
			return err
		}
		u.formats = map[*manifest.Table]*copybin.Format{}
		for key, t := range big {
			oids := make([]uint32, len(t.Columns))
			for i, name := range t.Columns {
				oids[i] = types[key][name] // 0, which is none, where it is missing
			}
			if f := copybin.New(oids); f != nil {
				u.formats[t] = f
			}
		}
	}
	return nil
}

// columnTypes are the types of the columns of ordinary tables, by column.
func (r *run) columnTypes(ctx context.Context, schemas, tables []string) (map[tableKey]map[string]uint32, error) {
	s := r.sessions[0]
	if err := s.revive(ctx); err != nil {
		return nil, err
	}
	rows, err := s.conn.Query(ctx, `
		SELECT n.nspname::text, c.relname::text, a.attname::text, t.oid, t.typtype = 'e'
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
		WHERE c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
		AND (n.nspname, c.relname) IN (SELECT s, t FROM unnest($1::text[], $2::text[]) x (s, t))`, schemas, tables)
	if err != nil {
		return nil, fmt.Errorf("read types of columns: %w", err)
	}
	types := map[tableKey]map[string]uint32{}
	var key tableKey
	var column string
	var oid uint32
	var enum bool
	_, err = pgx.ForEachRow(rows, []any{&key.schema, &key.name, &column, &oid, &enum}, func() error {
		if types[key] == nil {
			types[key] = map[string]uint32{}
		}
		if enum {
			oid = copybin.Enum
		}
		types[key][column] = oid
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read types of columns: %w", err)
	}
	return types, nil
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
