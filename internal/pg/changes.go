package pg

import (
	"context"
	"fmt"
	"strconv"
)

// definitionCatalogs are those that PostgreSQL's own functions turn into SQL
// for pg_dump. These functions read the newest state, whatever snapshot the
// session has, so a change that commits between snapshot and pg_dump would
// give definitions of two moments.
var definitionCatalogs = []struct{ table, schema, join string }{
	{"pg_class", "c.relnamespace", ""},
	{"pg_type", "c.typnamespace", ""},
	{"pg_proc", "c.pronamespace", ""},
	{"pg_namespace", "c.oid", ""},
	{"pg_constraint", "c.connamespace", ""},
	{"pg_operator", "c.oprnamespace", ""},
	{"pg_collation", "c.collnamespace", ""},
	{"pg_statistic_ext", "c.stxnamespace", ""},
	{"pg_rewrite", "r.relnamespace", "JOIN pg_catalog.pg_class r ON r.oid = c.ev_class"},
	{"pg_trigger", "r.relnamespace", "JOIN pg_catalog.pg_class r ON r.oid = c.tgrelid"},
	{"pg_policy", "r.relnamespace", "JOIN pg_catalog.pg_class r ON r.oid = c.polrelid"},
	{"pg_attrdef", "r.relnamespace", "JOIN pg_catalog.pg_class r ON r.oid = c.adrelid"},
	{"pg_event_trigger", "0::oid", ""},
	{"pg_cast", "0::oid", ""},
	{"pg_publication", "0::oid", ""},
	{"pg_publication_rel", "r.relnamespace", "JOIN pg_catalog.pg_class r ON r.oid = c.prrelid"},
}

// NoSchema is the key of ChangedDefinitions for objects without a schema.
const NoSchema = 0

// ChangedDefinitions finds the schemas, by OID, in which an object was
// created, dropped or altered between the snapshot of tx and now, which fresh
// sees. The value is the catalog that shows it.
//
// The usual case, no change at all, costs one count of each catalog on both
// sides. Views that name columns of other schemas' tables follow with those
// tables: pg_attribute is not read here, because the check that a worker makes
// after locking a schema's tables covers their columns.
func ChangedDefinitions(ctx context.Context, tx, fresh Querier, snapshot *Snapshot) (map[uint32]string, error) {
	changed := map[uint32]string{}
	for _, c := range definitionCatalogs {
		var before, old, recent int64
		if err := tx.QueryRow(ctx, `SELECT count(*) FROM pg_catalog.`+c.table).Scan(&before); err != nil {
			return nil, fmt.Errorf("look for changes in %s: %w", c.table, err)
		}
		// A row that the snapshot does not see was written by a transaction
		// not older than its xmin. Some that it does see are as young: they
		// only lead to the exact comparison.
		err := fresh.QueryRow(ctx, `
			SELECT count(*) FILTER (WHERE age(xmin) > age($1::text::xid)), count(*) FILTER (WHERE age(xmin) <= age($1::text::xid))
			FROM pg_catalog.`+c.table, xid32(snapshot.Xmin)).Scan(&old, &recent)
		if err != nil {
			return nil, fmt.Errorf("look for changes in %s: %w", c.table, err)
		}
		if recent == 0 && old == before {
			continue
		}
		sql := `SELECT ` + c.schema + `, count(*), sum(pg_catalog.hashint8extended((c.oid::int8 << 32) | c.xmin::text::int8, 0))::text
			FROM pg_catalog.` + c.table + ` c ` + c.join + ` GROUP BY 1`
		then, err := readDigests(ctx, tx, sql)
		if err != nil {
			return nil, fmt.Errorf("look for changes in %s: %w", c.table, err)
		}
		now, err := readDigests(ctx, fresh, sql)
		if err != nil {
			return nil, fmt.Errorf("look for changes in %s: %w", c.table, err)
		}
		for schema, digest := range then {
			if now[schema] != digest {
				changed[schema] = c.table
			}
		}
		for schema := range now {
			if _, ok := then[schema]; !ok {
				changed[schema] = c.table
			}
		}
	}
	return changed, nil
}

type digest struct {
	count int64
	sum   string
}

func readDigests(ctx context.Context, q Querier, sql string) (map[uint32]digest, error) {
	rows, err := q.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	digests := map[uint32]digest{}
	for rows.Next() {
		var schema uint32
		var d digest
		if err := rows.Scan(&schema, &d.count, &d.sum); err != nil {
			return nil, err
		}
		digests[schema] = d
	}
	return digests, rows.Err()
}

// xid32 is the part of a 64-bit transaction id that rows carry.
func xid32(xid8 string) string {
	n, err := strconv.ParseUint(xid8, 10, 64)
	if err != nil {
		return xid8
	}
	return strconv.FormatUint(n&0xffffffff, 10)
}
