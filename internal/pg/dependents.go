package pg

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// insideOf are the objects, as classid and objid, of the schemas of $1 that
// others can point at, in terms of WITH RECURSIVE. It goes by indexes: of many
// tenants only those of the schemas are read.
const insideOf = `
	contained AS (
		SELECT classid, objid FROM pg_catalog.pg_depend
		WHERE refclassid = 'pg_catalog.pg_namespace'::regclass AND refobjid = ANY($1)
	), relation AS (
		SELECT c.oid, c.reltype FROM contained JOIN pg_catalog.pg_class c ON c.oid = objid
		WHERE classid = 'pg_catalog.pg_class'::regclass
	), datatype (oid) AS (
		SELECT objid FROM contained WHERE classid = 'pg_catalog.pg_type'::regclass
		UNION SELECT reltype FROM relation WHERE reltype <> 0
		UNION SELECT a.objid -- arrays and multiranges
		FROM datatype JOIN pg_catalog.pg_depend a ON a.refclassid = 'pg_catalog.pg_type'::regclass AND a.refobjid = datatype.oid
		WHERE a.classid = 'pg_catalog.pg_type'::regclass AND a.deptype = 'i'
	), inside AS (
		SELECT classid, objid FROM contained
		UNION SELECT 'pg_catalog.pg_type'::regclass, oid FROM datatype
		UNION SELECT 'pg_catalog.pg_class'::regclass, t.typrelid FROM datatype JOIN pg_catalog.pg_type t USING (oid) WHERE t.typrelid <> 0
		UNION SELECT 'pg_catalog.pg_class'::regclass, i.indexrelid FROM relation JOIN pg_catalog.pg_index i ON i.indrelid = relation.oid
		UNION SELECT 'pg_catalog.pg_constraint'::regclass, k.oid FROM relation JOIN pg_catalog.pg_constraint k ON k.conrelid = relation.oid
	)`

// ofForeignKey is true of a dependency d on an object i from inside where a
// foreign key of a table inside has its triggers on the table that it refers to.
const ofForeignKey = `d.classid = 'pg_catalog.pg_trigger'::regclass AND i.classid = 'pg_catalog.pg_constraint'::regclass`

// Dependents describes what outside of the given schemas would go with them
// if they were dropped with CASCADE: objects of other schemas and, unless core
// is among the schemas, of the database, where they do more than name an object
// of the schemas. With core, what extensions own is taken to stay. At most limit
// are returned.
func Dependents(ctx context.Context, q Querier, schemas []uint32, core bool, limit int) ([]string, error) {
	rows, err := q.Query(ctx, `
		WITH RECURSIVE `+insideOf+`,
		outside AS (
			SELECT DISTINCT d.classid, d.objid, d.objsubid, `+ownerOf+` AS schema
			FROM inside i JOIN pg_catalog.pg_depend d ON d.refclassid = i.classid AND d.refobjid = i.objid
			WHERE NOT (`+ofForeignKey+`) AND (NOT $2 OR NOT EXISTS (
				SELECT FROM pg_catalog.pg_depend e
				WHERE e.classid = i.classid AND e.objid = i.objid AND e.objsubid = 0 AND e.deptype = 'e'))
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
