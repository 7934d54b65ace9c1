package pg

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// Heap identifies where the rows of a table are stored and what their text
// depends on besides. It can be compared with ==.
type Heap struct {
	Database   uint32 // OID
	Tablespace uint32 // OID, the database's own if the table has none
	Filenode   uint32
	// Form is a digest of the columns and, down to the last component, their
	// types: of which transactions wrote them. Labels of enums are among them.
	Form string
}

// plainOutputs are the functions that print a value and that depend on nothing
// but its bytes, the definition of its type and what every session of ours sets.
// Missing are those that look up names (regclass and its like, aclitem) or follow
// a setting of server, database or role (money). The library of an extension may
// be exchanged for a newer one without a trace, so its functions are not among
// them, unless they are the server's own under another name, like those of citext.
const plainOutputs = `'{
	array_out,bit_out,boolout,box_out,bpcharout,byteaout,charout,cidout,cidr_out,circle_out,date_out,enum_out,
	float4out,float8out,inet_out,int2out,int2vectorout,int4out,int8out,interval_out,json_out,jsonb_out,jsonpath_out,
	line_out,lseg_out,macaddr8_out,macaddr_out,multirange_out,nameout,numeric_out,oidout,oidvectorout,path_out,
	pg_lsn_out,pg_snapshot_out,point_out,poly_out,range_out,record_out,textout,tidout,time_out,timestamp_out,
	timestamptz_out,timetz_out,tsqueryout,tsvectorout,uuid_out,varbit_out,varcharout,xid8out,xidout,xml_out
}'::text[]`

// heapsSQL follows the types of columns down to those that they consist of:
// domains, arrays, composites, ranges. A type's text is plain if that of all
// parts is.
const heapsSQL = `
	WITH RECURSIVE stored AS (
		SELECT c.oid, d.oid AS database, coalesce(nullif(c.reltablespace, 0), d.dattablespace) AS tablespace, c.relfilenode
		FROM pg_catalog.pg_class c
		JOIN pg_catalog.pg_database d ON d.datname = current_database()
		JOIN pg_catalog.pg_am m ON m.oid = c.relam
		WHERE c.oid = ANY($1) AND c.relkind = 'r' AND c.relpersistence = 'p' AND m.amname = 'heap' AND c.relfilenode <> 0
	), attribute AS (
		SELECT a.attrelid, a.attnum, a.xmin::text AS writer, CASE WHEN NOT a.attisdropped THEN a.atttypid END AS type
		FROM pg_catalog.pg_attribute a WHERE a.attrelid IN (SELECT oid FROM stored) AND a.attnum > 0
	), part AS (
		SELECT DISTINCT type AS root, type FROM attribute WHERE type IS NOT NULL
		UNION
		SELECT part.root, p.type
		FROM part JOIN pg_catalog.pg_type t ON t.oid = part.type
		CROSS JOIN LATERAL (
			SELECT t.typbasetype WHERE t.typtype = 'd'
			UNION ALL SELECT t.typelem WHERE t.typelem <> 0
			UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid AND a.attnum > 0 AND NOT a.attisdropped
			UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
		) p(type)
	), type AS (
		SELECT t.oid, coalesce(l.lanname = 'internal' AND f.prosrc = ANY(` + plainOutputs + `), false) AS plain,
			pg_catalog.concat_ws(' ', t.oid, t.xmin, f.oid, f.xmin,
				(SELECT pg_catalog.string_agg(e.oid || ',' || e.xmin, ' ' ORDER BY e.oid) FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid),
				(SELECT pg_catalog.string_agg(a.attnum || '.' || a.xmin, ' ' ORDER BY a.attnum) FROM pg_catalog.pg_attribute a WHERE a.attrelid = t.typrelid),
				(SELECT pg_catalog.string_agg(r.rngtypid || ':' || r.xmin, ' ' ORDER BY r.rngtypid) FROM pg_catalog.pg_range r WHERE t.oid IN (r.rngtypid, r.rngmultitypid))) AS form
		FROM pg_catalog.pg_type t
		LEFT JOIN pg_catalog.pg_proc f ON f.oid = t.typoutput
		LEFT JOIN pg_catalog.pg_language l ON l.oid = f.prolang
		WHERE t.oid IN (SELECT part.type FROM part)
	), root AS (
		SELECT part.root, bool_and(coalesce(type.plain, false)) AS plain, pg_catalog.md5(pg_catalog.string_agg(type.form, E'\n' ORDER BY type.oid)) AS form
		FROM part LEFT JOIN type ON type.oid = part.type
		GROUP BY part.root
	)
	SELECT s.oid, s.database, s.tablespace, s.relfilenode,
		pg_catalog.md5($2 || coalesce(pg_catalog.string_agg(pg_catalog.concat_ws(' ', a.attnum, a.writer, r.form), E'\n' ORDER BY a.attnum), ''))
	FROM stored s
	LEFT JOIN attribute a ON a.attrelid = s.oid
	LEFT JOIN root r ON r.root = a.type
	GROUP BY 1, 2, 3, 4
	HAVING bool_and(a.type IS NULL OR coalesce(r.plain, false)) IS NOT FALSE`

// ReadHeaps reads where tables are stored, by OID. Left out are those whose rows
// may change without a trace in the log, or look different without a change:
// unlogged ones, other access methods, columns whose text depends on more than
// their value. It is to be read through the snapshot that rows are read through.
func ReadHeaps(ctx context.Context, q Querier, oids []uint32) (map[uint32]Heap, error) {
	// Rows that were printed under other settings are not to be mixed with ours.
	settings := sha256.Sum256([]byte(session))
	rows, err := q.Query(ctx, heapsSQL, oids, hex.EncodeToString(settings[:]))
	if err != nil {
		return nil, fmt.Errorf("read where tables are stored: %w", err)
	}
	heaps := make(map[uint32]Heap, len(oids))
	for rows.Next() {
		var oid uint32
		var h Heap
		if err := rows.Scan(&oid, &h.Database, &h.Tablespace, &h.Filenode, &h.Form); err != nil {
			return nil, fmt.Errorf("read where tables are stored: %w", err)
		}
		heaps[oid] = h
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read where tables are stored: %w", err)
	}
	return heaps, nil
}
