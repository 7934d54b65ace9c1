package pg

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// LiveSize is how much a schema holds now, by the server's statistics.
type LiveSize struct {
	Schema string
	Tables int64
	Rows   int64 // about
	Bytes  int64 // of rows on disk, about; indexes are not counted
}

// LiveTable is a table as it is now.
type LiveTable struct {
	Name  string
	Rows  int64 // about, unless they were counted
	Bytes int64 // of rows on disk, about
}

// liveTables reads what the statistics know of tables with rows of their own.
// The statistics collector is right up to the second where it has seen anything
// of a table at all; it has forgotten everything after a crash of the server,
// and then the last ANALYZE or VACUUM knows more.
const liveTables = `
	SELECT n.nspname AS schema, c.relname AS name,
		(CASE WHEN pg_catalog.pg_stat_get_tuples_inserted(c.oid) + pg_catalog.pg_stat_get_tuples_updated(c.oid)
				+ pg_catalog.pg_stat_get_tuples_deleted(c.oid) > 0
				OR coalesce(pg_catalog.pg_stat_get_last_analyze_time(c.oid), pg_catalog.pg_stat_get_last_autoanalyze_time(c.oid)) IS NOT NULL
			THEN pg_catalog.pg_stat_get_live_tuples(c.oid)
			ELSE greatest(c.reltuples, 0) END)::int8 AS rows,
		greatest((c.relpages + coalesce(t.relpages, 0))::int8 * pg_catalog.current_setting('block_size')::int8,
			pg_catalog.pg_stat_get_live_tuples(c.oid) * 100) AS bytes
	FROM pg_catalog.pg_class c
	JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
	LEFT JOIN pg_catalog.pg_class t ON t.oid = c.reltoastrelid
	WHERE c.relkind IN ('r', 'm') AND NOT EXISTS (
		SELECT FROM pg_catalog.pg_depend e
		WHERE e.classid = 'pg_catalog.pg_class'::regclass AND e.objid = c.oid AND e.objsubid = 0 AND e.deptype = 'e')`

// LiveSizes tells how much each schema of users holds now, empty ones among
// them, in the order of their names. It reads catalogs and statistics only and
// takes no lock on any table.
func LiveSizes(ctx context.Context, q Querier) ([]LiveSize, error) {
	rows, err := q.Query(ctx, `
		SELECT n.nspname, count(l.name), coalesce(sum(l.rows), 0)::int8, coalesce(sum(l.bytes), 0)::int8
		FROM pg_catalog.pg_namespace n LEFT JOIN (`+liveTables+`) l ON l.schema = n.nspname
		WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
		GROUP BY n.nspname ORDER BY n.nspname COLLATE "C"`)
	if err != nil {
		return nil, fmt.Errorf("read sizes of schemas: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (LiveSize, error) {
		var s LiveSize
		return s, row.Scan(&s.Schema, &s.Tables, &s.Rows, &s.Bytes)
	})
	if err != nil {
		return nil, fmt.Errorf("read sizes of schemas: %w", err)
	}
	return list, nil
}

// LiveTables tells how much each table of a schema holds now, by the statistics,
// in the order of their names.
func LiveTables(ctx context.Context, q Querier, schema string) ([]LiveTable, error) {
	rows, err := q.Query(ctx, `SELECT name, rows, bytes FROM (`+liveTables+` AND n.nspname = $1) l ORDER BY name COLLATE "C"`, schema)
	if err != nil {
		return nil, fmt.Errorf("read sizes of tables: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (LiveTable, error) {
		var t LiveTable
		return t, row.Scan(&t.Name, &t.Rows, &t.Bytes)
	})
	if err != nil {
		return nil, fmt.Errorf("read sizes of tables: %w", err)
	}
	return list, nil
}

// What may be counted while a user waits: this much at most, this many tables
// in one statement, so that it needs few locks, and no longer than this.
const (
	cheapBytes    = 64 << 20
	cheapTables   = 200
	countAtOnce   = 10
	countTimeouts = "SET statement_timeout = '2s'; SET lock_timeout = '200ms'"
)

// CountLive replaces the rows of tables by exact counts where that is cheap, and
// reports whether it did. Where the tables are large, or are locked, or may not
// be read, they stay as they are. It sets the session's timeouts.
func CountLive(ctx context.Context, conn *pgx.Conn, schema string, tables []LiveTable) (exact bool, err error) {
	var size int64
	for _, t := range tables {
		size += t.Bytes
	}
	if size > cheapBytes || len(tables) > cheapTables {
		return false, nil
	}
	if _, err := conn.PgConn().Exec(ctx, countTimeouts).ReadAll(); err != nil {
		return false, fmt.Errorf("set timeouts: %w", err)
	}
	counts := make([]int64, 0, len(tables))
	for len(counts) < len(tables) {
		var counting []string
		for _, t := range tables[len(counts):min(len(counts)+countAtOnce, len(tables))] {
			counting = append(counting, "(SELECT count(*) FROM ONLY "+Identifier(schema, t.Name)+")")
		}
		results, err := conn.PgConn().Exec(ctx, "SELECT "+strings.Join(counting, ", ")).ReadAll()
		if err != nil {
			if Code(err) != "" {
				return false, nil // too slow, locked, not readable, or dropped meanwhile
			}
			return false, fmt.Errorf("count rows: %w", err)
		}
		for _, text := range results[0].Rows[0] {
			n, err := strconv.ParseInt(string(text), 10, 64)
			if err != nil {
				return false, fmt.Errorf("count rows: %w", err)
			}
			counts = append(counts, n)
		}
	}
	for i, n := range counts {
		tables[i].Rows = n
	}
	return true, nil
}
