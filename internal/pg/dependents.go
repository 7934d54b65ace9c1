package pg

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Dependents describes what outside of the given schemas would go with them
// if they were dropped with CASCADE: objects of other schemas and, unless core
// is among the schemas, of the database, where they do more than name an object
// of the schemas. With core, what extensions own is taken to stay. At most limit
// are returned.
func Dependents(ctx context.Context, q Querier, schemas []uint32, core bool, limit int) ([]string, error) {
	rows, err := q.Query(ctx, `
		WITH inside AS (
			SELECT classid, objid FROM pg_catalog.pg_depend
			WHERE refclassid = 'pg_catalog.pg_namespace'::regclass AND refobjid = ANY($1)
			UNION SELECT 'pg_catalog.pg_type'::regclass, oid FROM pg_catalog.pg_type WHERE typnamespace = ANY($1)
			UNION SELECT 'pg_catalog.pg_class'::regclass, oid FROM pg_catalog.pg_class WHERE relnamespace = ANY($1)
		), outside AS (
			SELECT DISTINCT d.classid, d.objid, d.objsubid, `+ownerOf+` AS schema
			FROM inside i JOIN pg_catalog.pg_depend d ON d.refclassid = i.classid AND d.refobjid = i.objid
			WHERE NOT $2 OR NOT EXISTS (
				SELECT FROM pg_catalog.pg_depend e
				WHERE e.classid = i.classid AND e.objid = i.objid AND e.objsubid = 0 AND e.deptype = 'e')
		)
		SELECT pg_catalog.pg_describe_object(o.classid, o.objid, o.objsubid)
		FROM outside o LEFT JOIN pg_catalog.pg_namespace n ON n.oid = o.schema
		WHERE NOT (o.schema = ANY($1))
		AND (n.nspname !~ '^pg_toast' OR NOT $2 AND o.schema = 0 AND o.classid IN (
			'pg_catalog.pg_event_trigger'::regclass, 'pg_catalog.pg_foreign_data_wrapper'::regclass, 'pg_catalog.pg_language'::regclass))
		ORDER BY 1 LIMIT $3`, schemas, core, limit)
	if err != nil {
		return nil, fmt.Errorf("find what depends on schemas: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("find what depends on schemas: %w", err)
	}
	return list, nil
}
