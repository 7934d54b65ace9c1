package registry

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// ErrRewritten says that a table was truncated or rewritten since the snapshot,
// through which it would look empty.
var ErrRewritten = errors.New("a table of registrations was truncated or rewritten meanwhile")

// Read reads the registrations of tenants by the names of their schemas, as the
// snapshot of a transaction shows them. A tenant without one is there, with no
// rows. The error is ErrRewritten where the tables are not any more what the
// snapshot shows.
func Read(ctx context.Context, q pg.Querier, sources []Source, schemas []string) (map[string][]manifest.RegistryTable, error) {
	registrations := make(map[string][]manifest.RegistryTable, len(schemas))
	for _, name := range schemas {
		registrations[name] = make([]manifest.RegistryTable, len(sources))
	}
	owners := map[string]map[string]string{} // by table and column: tenants by value
	for i, s := range sources {
		table := manifest.RegistryTable{Schema: s.Schema, Name: s.Name, Column: s.Column, Refers: s.Refers, Key: s.key, Rows: [][]*string{}}
		for _, c := range s.columns {
			if !c.generated {
				table.Columns = append(table.Columns, c.RegistryColumn)
			}
		}
		of, keys := map[string]string{}, schemas
		for _, name := range schemas {
			of[name] = name
			registrations[name][i] = table
		}
		if s.Refers != nil {
			of, keys = owners[referred(s.Refers.Schema, s.Refers.Name, s.Refers.Column)], nil
			for key := range of {
				keys = append(keys, key)
			}
			slices.Sort(keys)
		}
		rows, err := readRows(ctx, q, &table, s.column(s.Column).Type, keys)
		if err != nil {
			return nil, fmt.Errorf("read registrations: %w", err)
		}
		for _, row := range rows {
			tenant, ok := of[*row.by]
			if !ok {
				continue // equal for the server, but not the same
			}
			registrations[tenant][i].Rows = append(registrations[tenant][i].Rows, row.values)
			for n, c := range table.Columns {
				place := referred(s.Schema, s.Name, c.Name)
				if v := row.values[n]; v != nil && isReferred(sources[i+1:], &table, c.Name) {
					if owners[place] == nil {
						owners[place] = map[string]string{}
					}
					owners[place][*v] = tenant
				}
			}
		}
	}
	return registrations, unchanged(ctx, q, sources)
}

func referred(names ...string) string { return pg.Identifier(names...) }

func isReferred(by []Source, t *manifest.RegistryTable, column string) bool {
	return slices.ContainsFunc(by, func(s Source) bool {
		return s.Refers != nil && s.Refers.Schema == t.Schema && s.Refers.Name == t.Name && s.Refers.Column == column
	})
}

// unchanged makes sure, under the locks that reading took, that the tables are
// those that the snapshot shows.
func unchanged(ctx context.Context, q pg.Querier, sources []Source) error {
	oids := make([]uint32, len(sources))
	for i, s := range sources {
		oids[i] = s.oid
	}
	var same bool
	// The function sees the newest state, whatever the snapshot.
	err := q.QueryRow(ctx, `SELECT count(*) = $2 FROM pg_catalog.pg_class c
		WHERE c.oid = ANY($1) AND pg_catalog.pg_relation_filenode(c.oid) = c.relfilenode`, oids, len(oids)).Scan(&same)
	if err != nil {
		return fmt.Errorf("look at the tables of registrations: %w", err)
	}
	if !same {
		return ErrRewritten
	}
	return nil
}

// row is a row of a table as text, and by what it was looked for.
type row struct {
	by     *string
	values []*string
}

// readRows reads the rows that have one of the keys in their column, which has the
// given type, in the order of their primary key.
func readRows(ctx context.Context, q pg.Querier, t *manifest.RegistryTable, typ string, keys []string) ([]row, error) {
	values := make([]string, len(t.Columns))
	for i, c := range t.Columns {
		values[i] = asText(c.Name)
	}
	order := t.Key
	if len(order) == 0 {
		order = []string{t.Column}
	}
	quoted := make([]string, len(order))
	for i, name := range order {
		quoted[i] = "t." + pg.Identifier(name)
	}
	match := fmt.Sprintf("t.%s = ANY(($1::text[])::%s[])", pg.Identifier(t.Column), typ)
	if t.Refers == nil { // names may be longer than the column, which a cast would cut
		match = fmt.Sprintf("t.%s::text = ANY($1)", pg.Identifier(t.Column))
	}
	rows, err := q.Query(ctx, fmt.Sprintf("SELECT %s, ARRAY[%s]::text[] FROM %s t WHERE %s ORDER BY %s",
		asText(t.Column), strings.Join(values, ", "), pg.Identifier(t.Schema, t.Name), match, strings.Join(quoted, ", ")), keys)
	if err != nil {
		return nil, fmt.Errorf("table %s: %w", title(t.Schema, t.Name), err)
	}
	list, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (one row, err error) {
		return one, r.Scan(&one.by, &one.values)
	})
	if err != nil {
		return nil, fmt.Errorf("table %s: %w", title(t.Schema, t.Name), err)
	}
	for _, one := range list {
		for i, v := range one.values {
			if v != nil && !utf8.ValidString(*v) { // of a database in SQL_ASCII
				return nil, fmt.Errorf("table %s: column %q has a value that is not valid UTF-8", title(t.Schema, t.Name), t.Columns[i].Name)
			}
		}
	}
	return list, nil
}

// asText is the text of a column, as COPY writes it; a cast would not give that
// for all types.
func asText(name string) string {
	c := "t." + pg.Identifier(name)
	return fmt.Sprintf("CASE pg_catalog.num_nulls(%[1]s) WHEN 0 THEN pg_catalog.concat(%[1]s) END", c)
}
