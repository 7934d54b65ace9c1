package restore

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/copybin"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/rowdigest"
)

// planBigTables finds the big tables whose rows can be sent in binary format, in
// which the server has less to do, and those that the server can digest. The
// comparison, which goes by text as the server writes it, proves that they arrived
// as they are in the backup.
func (r *run) planBigTables(ctx context.Context) error {
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
		found, err := r.columnsOf(ctx, schemas, names)
		if err != nil {
			return err
		}
		digests := r.canDigest(ctx, u)
		u.formats, u.sent = map[*manifest.Table]*copybin.Format{}, map[*manifest.Table]*sentRows{}
		for key, t := range big {
			types := make([]uint32, len(t.Columns))
			columns := make([]rowdigest.Column, len(t.Columns))
			for i, name := range t.Columns {
				c := found[key][name] // none of type 0 and without an output function where it is missing
				types[i], columns[i] = c.format, c.Column
			}
			if f := copybin.New(types); f != nil {
				u.formats[t] = f
			}
			if way := rowdigest.New(columns); way != nil && digests {
				u.sent[t] = &sentRows{way: way}
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

// columnsOf reads the columns of ordinary tables. The output function of an enum
// is not there for a domain over it, and one that is not strict crashes at a null,
// for which COPY does not call it.
func (r *run) columnsOf(ctx context.Context, schemas, tables []string) (map[tableKey]map[string]column, error) {
	s := r.sessions[0]
	if err := s.revive(ctx); err != nil {
		return nil, err
	}
	rows, err := s.conn.Query(ctx, `
		SELECT n.nspname::text, c.relname::text, a.attname::text, t.oid, t.typtype = 'e',
			CASE WHEN p.proisstrict AND NOT (t.typtype = 'd' AND p.oid = 'pg_catalog.enum_out'::regproc)
				THEN pg_catalog.format('%I.%I', f.nspname, p.proname) ELSE '' END
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
		JOIN pg_catalog.pg_proc p ON p.oid = t.typoutput JOIN pg_catalog.pg_namespace f ON f.oid = p.pronamespace
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
