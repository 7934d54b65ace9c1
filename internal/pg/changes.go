package pg

import (
	"context"
	"fmt"
	"strconv"

	"github.com/jackc/pgx/v5"
)

// definitionCatalogs are those that PostgreSQL's own functions turn into SQL
// for pg_dump, or take names from. These functions read the newest state,
// whatever snapshot the session has, so a change that commits between snapshot
// and pg_dump would give definitions of two moments.
//
// Columns of tables and the like are not among them: pg_attribute is large, and
// the check that a worker makes after locking a schema's tables covers it. Those
// of composite types, which views and functions name as well, are.
var definitionCatalogs = []struct {
	table  string
	schema string // of a row
	join   string // what schema needs
	where  string // which rows
	id     string // of a row, as int8; empty: its OID
}{
	{table: "pg_class", schema: "c.relnamespace"},
	{table: "pg_type", schema: "c.typnamespace"},
	{table: "pg_enum", schema: "t.typnamespace", join: "JOIN pg_catalog.pg_type t ON t.oid = c.enumtypid"},
	{table: "pg_proc", schema: "c.pronamespace"},
	{table: "pg_namespace", schema: "c.oid"},
	{table: "pg_constraint", schema: "c.connamespace"},
	{table: "pg_operator", schema: "c.oprnamespace"},
	{table: "pg_opclass", schema: "c.opcnamespace"},
	{table: "pg_opfamily", schema: "c.opfnamespace"},
	{table: "pg_collation", schema: "c.collnamespace"},
	{table: "pg_statistic_ext", schema: "c.stxnamespace"},
	{table: "pg_ts_config", schema: "c.cfgnamespace"},
	{table: "pg_ts_dict", schema: "c.dictnamespace"},
	{table: "pg_rewrite", schema: "r.relnamespace", join: "JOIN pg_catalog.pg_class r ON r.oid = c.ev_class"},
	{table: "pg_trigger", schema: "r.relnamespace", join: "JOIN pg_catalog.pg_class r ON r.oid = c.tgrelid"},
	{table: "pg_policy", schema: "r.relnamespace", join: "JOIN pg_catalog.pg_class r ON r.oid = c.polrelid"},
	{table: "pg_attrdef", schema: "r.relnamespace", join: "JOIN pg_catalog.pg_class r ON r.oid = c.adrelid"},
	{
		table: "pg_attribute", schema: "r.relnamespace", join: "JOIN pg_catalog.pg_class r ON r.oid = c.attrelid",
		where: "c.attrelid IN (SELECT t.oid FROM pg_catalog.pg_class t WHERE t.relkind = 'c')",
		id:    "(c.attrelid::int8 << 16) + c.attnum",
	},
	{table: "pg_index", schema: "r.relnamespace", join: "JOIN pg_catalog.pg_class r ON r.oid = c.indexrelid", id: "c.indexrelid::int8"},
	{table: "pg_partitioned_table", schema: "r.relnamespace", join: "JOIN pg_catalog.pg_class r ON r.oid = c.partrelid", id: "c.partrelid::int8"},
	{table: "pg_default_acl", schema: "c.defaclnamespace"},
	{table: "pg_event_trigger", schema: "0::oid"},
	{table: "pg_cast", schema: "0::oid"},
	{table: "pg_publication", schema: "0::oid"},
	{table: "pg_publication_rel", schema: "r.relnamespace", join: "JOIN pg_catalog.pg_class r ON r.oid = c.prrelid"},
}

// NoSchema is the key of ChangedDefinitions for objects without a schema.
const NoSchema = 0

// ChangedDefinitions finds the schemas, by OID, in which an object was
// created, dropped or altered between the snapshot of tx and now, which fresh
// sees. The value is the catalog that shows it.
//
// The usual case, no change at all, costs one count of each catalog on both
// sides.
func ChangedDefinitions(ctx context.Context, tx, fresh Querier, snapshot *Snapshot) (map[uint32]string, error) {
	changed := map[uint32]string{}
	for _, c := range definitionCatalogs {
		from := ` FROM pg_catalog.` + c.table + ` c`
		where := ""
		if c.where != "" {
			where = ` WHERE ` + c.where
		}
		var before, old, recent int64
		if err := tx.QueryRow(ctx, `SELECT count(*)`+from+where).Scan(&before); err != nil {
			return nil, fmt.Errorf("look for changes in %s: %w", c.table, err)
		}
		// A row that the snapshot does not see was written by a transaction
		// not older than its xmin. Some that it does see are as young: they
		// only lead to the exact comparison.
		err := fresh.QueryRow(ctx, `
			SELECT count(*) FILTER (WHERE age(c.xmin) > age($1::text::xid)), count(*) FILTER (WHERE age(c.xmin) <= age($1::text::xid))`+
			from+where, xid32(snapshot.Xmin)).Scan(&old, &recent)
		if err != nil {
			return nil, fmt.Errorf("look for changes in %s: %w", c.table, err)
		}
		if recent == 0 && old == before {
			continue
		}
		id := c.id
		if id == "" {
			id = "c.oid::int8"
		}
		sql := `SELECT ` + c.schema + `, count(*), sum(pg_catalog.hashint8extended(` + id + `, c.xmin::text::int8))::text` +
			from + ` ` + c.join + where + ` GROUP BY 1`
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

// RolesRenamed reports whether a role that the snapshot of tx knows has got
// another name until now, which fresh sees. Nothing that the snapshot sees can
// refer to a role made since, nor lose one without a change of its own.
func RolesRenamed(ctx context.Context, tx, fresh Querier) (bool, error) {
	var names [2]map[uint32]string
	for i, q := range []Querier{tx, fresh} {
		rows, err := q.Query(ctx, `SELECT oid, rolname FROM pg_catalog.pg_roles`)
		if err != nil {
			return false, fmt.Errorf("look for changes of roles: %w", err)
		}
		names[i] = map[uint32]string{}
		var role uint32
		var name string
		if _, err := pgx.ForEachRow(rows, []any{&role, &name}, func() error {
			names[i][role] = name
			return nil
		}); err != nil {
			return false, fmt.Errorf("look for changes of roles: %w", err)
		}
	}
	for role, name := range names[0] {
		if now, ok := names[1][role]; ok && now != name {
			return true, nil
		}
	}
	return false, nil
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
