package pg

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

// Querier is a connection or a transaction on one.
type Querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Info describes a database.
type Info struct {
	Name             string
	User             string
	ServerVersion    string
	ServerVersionNum int
	Encoding         string
	Collate, Ctype   string
	SystemIdentifier string // empty where the role may not read it
	ReadOnly         bool   // a standby, or default_transaction_read_only
	// LockSlots is how many locks the server promises to hold at once over all
	// sessions. It usually manages more.
	LockSlots int
}

// ReadInfo reads what kind of database this is.
func ReadInfo(ctx context.Context, conn *pgx.Conn) (*Info, error) {
	i := &Info{ServerVersionNum: VersionNum(conn)}
	err := conn.QueryRow(ctx, `
		SELECT current_database(), current_user, current_setting('server_version'),
			pg_encoding_to_char(d.encoding), d.datcollate, d.datctype, pg_is_in_recovery(),
			current_setting('max_locks_per_transaction')::int *
			(current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int
			 + current_setting('autovacuum_max_workers')::int + current_setting('max_worker_processes')::int
			 + current_setting('max_wal_senders')::int + 1)
		FROM pg_catalog.pg_database d WHERE d.datname = current_database()`).
		Scan(&i.Name, &i.User, &i.ServerVersion, &i.Encoding, &i.Collate, &i.Ctype, &i.ReadOnly, &i.LockSlots)
	if err != nil {
		return nil, fmt.Errorf("read the database's properties: %w", err)
	}
	i.SystemIdentifier, err = systemIdentifier(ctx, conn)
	return i, err
}

func systemIdentifier(ctx context.Context, q Querier) (id string, err error) {
	err = q.QueryRow(ctx, `SELECT system_identifier::text FROM pg_catalog.pg_control_system()`).Scan(&id)
	if err != nil && Code(err) != Privilege {
		return "", fmt.Errorf("read the system identifier: %w", err)
	}
	return id, nil
}

// Identity is what tells a database from all others, also from one that gets its
// name after it was renamed.
func Identity(ctx context.Context, q Querier) (string, error) {
	system, err := systemIdentifier(ctx, q)
	if err != nil {
		return "", err
	}
	var oid string
	err = q.QueryRow(ctx, `SELECT oid::text FROM pg_catalog.pg_database WHERE datname = current_database()`).Scan(&oid)
	if err != nil {
		return "", fmt.Errorf("identify the database: %w", err)
	}
	return system + "/" + oid, nil
}

// Schema is one schema as the snapshot shows it.
type Schema struct {
	OID    uint32
	Name   string
	Owner  string
	Tables int   // tables of all kinds
	Locks  int   // relations that are locked when its policies are printed, which pg_dump asks for at once: those that they mention
	Bytes  int64 // an estimate of the size of its tables, from statistics
	Usable bool  // the role has USAGE
	// Extensions are the names of those installed in it.
	Extensions []string
	// Only extensions live here: no relation of anybody else's.
	OnlyExtensions bool
	// Own says that a restore left it, by its name and its label: no tenant.
	Own bool
	// Unfinished is the backup of a restore into it that has not ended; empty: there is
	// none.
	Unfinished string
}

// LabelPrefix begins the comment of a schema that a restore left, or fills.
const LabelPrefix = "tenantkeep: {"

// UnfinishedComment is the comment of a schema that a restore of a backup makes, under
// the name that it is to have, until it is whole.
func UnfinishedComment(backup string) string {
	return "tenantkeep: restore of " + backup + " not finished"
}

var unfinishedForm = regexp.MustCompile(`^tenantkeep: restore of (\S+) not finished$`)

// Unfinished returns the backup of an UnfinishedComment.
func Unfinished(comment string) (backup string, ok bool) {
	m := unfinishedForm.FindStringSubmatch(comment)
	if m == nil {
		return "", false
	}
	return m[1], true
}

// UnfinishedRemedy says what to do about a schema with an UnfinishedComment. A comment
// stays where somebody goes on in the schema all the same.
func UnfinishedRemedy(schema string) string {
	return fmt.Sprintf("restore it again; if it is in use as it is: COMMENT ON SCHEMA %s IS NULL", Identifier(schema))
}

var ownSchema = regexp.MustCompile(`__(staging|replaced|recovered|startup)_[0-9]{8}_[0-9]{6}(_[0-9]+)?$`)

// IsOwn reports whether a name is like that of a staging, replaced or recovered
// schema of tenantkeep, or of the mark of a startup. Anybody may give a schema such
// a name: it is tenantkeep's if it has a label as well.
func IsOwn(name string) bool { return ownSchema.MatchString(name) }

// Unfilled reports whether the schema is the mark of a startup: what is in the
// database is only a part of what is being restored, or was when it died.
func (s Schema) Unfilled() bool { return s.Own && strings.Contains(s.Name, "__startup_") }

// ListSchemas lists the schemas of users, in the order of their names: not
// those of the system and of extensions. Those that tenantkeep left are
// included; see Own. Tables, locks and bytes are counted for those of the given
// names only, where there are any: with many tenants that takes most of the time.
func ListSchemas(ctx context.Context, q Querier, counted ...string) ([]Schema, error) {
	// pg_class has no index by schema, but pg_depend has: it pays for a few.
	from, limit := "pg_catalog.pg_class c", ""
	var args []any
	if len(counted) > 0 {
		const these = "IN (SELECT n.oid FROM pg_catalog.pg_namespace n WHERE n.nspname = ANY($1::text[]))"
		from = `pg_catalog.pg_depend b JOIN pg_catalog.pg_class c ON c.oid = b.objid
			AND b.classid = 'pg_catalog.pg_class'::regclass AND b.refclassid = 'pg_catalog.pg_namespace'::regclass AND b.refobjid ` + these
		limit = " AND c.relnamespace " + these
		args = append(args, counted)
	}
	rows, err := q.Query(ctx, `
		SELECT n.oid, n.nspname, pg_catalog.pg_get_userbyid(n.nspowner),
			coalesce(r.tables, 0), coalesce(k.locks, 0), coalesce(r.bytes, 0)::int8,
			coalesce(pg_catalog.has_schema_privilege(n.oid, 'USAGE'), true), -- null where it was dropped after the snapshot
			ARRAY(SELECT x.extname::text FROM pg_catalog.pg_extension x WHERE x.extnamespace = n.oid ORDER BY 1),
			CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_extension x WHERE x.extnamespace = n.oid) THEN (
				SELECT true FROM pg_catalog.pg_depend d
				WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = n.oid
				AND d.classid <> 'pg_catalog.pg_extension'::regclass
				AND NOT EXISTS (
					SELECT FROM pg_catalog.pg_depend e
					WHERE e.classid = d.classid AND e.objid = d.objid AND e.refclassid = 'pg_catalog.pg_extension'::regclass AND e.deptype = 'e')
				LIMIT 1) IS NULL -- the server would look at all schemas at once for NOT EXISTS
				ELSE false END,
			coalesce(pg_catalog.obj_description(n.oid, 'pg_namespace'), '')
		FROM pg_catalog.pg_namespace n
		LEFT JOIN (
			SELECT c.relnamespace,
				count(*) FILTER (WHERE c.relkind IN ('r', 'p', 'f')) AS tables,
				sum(CASE WHEN c.relkind IN ('r', 'm') THEN
					greatest((c.relpages + coalesce(t.relpages, 0))::int8 * 8192, pg_catalog.pg_stat_get_live_tuples(c.oid) * 100)
					ELSE 0 END) AS bytes
			FROM `+from+`
			LEFT JOIN pg_catalog.pg_class t ON t.oid = c.reltoastrelid
			WHERE c.relkind IN ('r', 'p', 'f', 'm')
			GROUP BY c.relnamespace) r ON r.relnamespace = n.oid
		LEFT JOIN (
			SELECT c.relnamespace, count(DISTINCT d.refobjid) AS locks
			FROM pg_catalog.pg_policy y JOIN pg_catalog.pg_class c ON c.oid = y.polrelid
			JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_policy'::regclass AND d.objid = y.oid
			WHERE d.refclassid = 'pg_catalog.pg_class'::regclass`+limit+`
			GROUP BY c.relnamespace) k ON k.relnamespace = n.oid
		WHERE n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
		AND NOT EXISTS (
			SELECT FROM pg_catalog.pg_depend d
			WHERE d.classid = 'pg_catalog.pg_namespace'::regclass AND d.objid = n.oid AND d.deptype = 'e')
		ORDER BY n.nspname COLLATE "C"`, args...)
	if err != nil {
		return nil, fmt.Errorf("list schemas: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Schema, error) {
		var s Schema
		var comment string
		err := row.Scan(&s.OID, &s.Name, &s.Owner, &s.Tables, &s.Locks, &s.Bytes, &s.Usable, &s.Extensions, &s.OnlyExtensions, &comment)
		s.Own = strings.HasPrefix(comment, LabelPrefix) && IsOwn(s.Name)
		s.Unfinished, _ = Unfinished(comment)
		s.OnlyExtensions = s.OnlyExtensions && len(s.Extensions) > 0
		return s, err
	})
	if err != nil {
		return nil, fmt.Errorf("list schemas: %w", err)
	}
	return list, nil
}

// Relation is a table, sequence or view of a schema. Two that are equal in all
// fields, and of which ReadColumns gives the same, have the same definition of
// columns and the same storage, and had no other in between: a column that was
// renamed and got its name back counts as changed, since something may have been
// printed under the other name.
type Relation struct {
	Schema     string
	OID        uint32
	Name       string
	Kind       string // relkind: r, p, m, f, v, S
	Filenode   uint32
	Partition  bool
	Persistent string // relpersistence
}

// Details is what a copy needs to know about a relation besides.
type Details struct {
	Copied    []string // columns that COPY carries: neither dropped nor generated
	Heap      bool     // stored by the heap access method, where ctid ranges are ranges of blocks
	Populated bool     // of materialized views
	Readable  bool     // the role has SELECT on all of it
	Filtered  bool     // row-level security would hide rows from the role
}

const (
	relationFields = `n.nspname, c.oid, c.relname, c.relkind::text, c.relfilenode, c.relispartition, c.relpersistence::text`

	detailFields = `coalesce(c.relam = (SELECT m.oid FROM pg_catalog.pg_am m WHERE m.amname = 'heap'), false), c.relispopulated,
		CASE
			-- To ask for the rights on each relation takes as long as to find it.
			WHEN (SELECT u.rolsuper FROM pg_catalog.pg_roles u WHERE u.rolname = current_user) THEN true
			WHEN c.relacl IS NULL AND c.relowner = (SELECT u.oid FROM pg_catalog.pg_roles u WHERE u.rolname = current_user) THEN true
			-- null where it was dropped after the snapshot, which is found later
			WHEN c.relkind = 'S' THEN coalesce(pg_catalog.has_sequence_privilege(c.oid, 'SELECT'), true)
			ELSE coalesce(pg_catalog.has_table_privilege(c.oid, 'SELECT'), true) END,
		c.relrowsecurity AND pg_catalog.row_security_active(c.oid),
		CASE WHEN c.relkind IN ('r', 'p', 'm') THEN ARRAY(
			SELECT a.attname::text FROM pg_catalog.pg_attribute a
			WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum) ELSE '{}' END`

	// relationsOfSchemas finds relations through the dependencies on their
	// schema, which are indexed; pg_class has no index by schema.
	relationsOfSchemas = `
		FROM pg_catalog.pg_depend d
		JOIN pg_catalog.pg_class c ON c.oid = d.objid
		JOIN pg_catalog.pg_namespace n ON n.oid = d.refobjid
		WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.refclassid = 'pg_catalog.pg_namespace'::regclass
		AND d.refobjid = ANY($1) AND c.relkind IN ('r', 'p', 'm', 'f', 'v', 'S')
		AND c.oid NOT IN ( -- few, against one look for each
			SELECT e.objid FROM pg_catalog.pg_depend e
			WHERE e.refclassid = 'pg_catalog.pg_extension'::regclass AND e.classid = 'pg_catalog.pg_class'::regclass
			AND e.objsubid = 0 AND e.deptype = 'e')
		ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"`
)

func (r *Relation) fields() []any {
	return []any{&r.Schema, &r.OID, &r.Name, &r.Kind, &r.Filenode, &r.Partition, &r.Persistent}
}

func (d *Details) fields() []any {
	return []any{&d.Heap, &d.Populated, &d.Readable, &d.Filtered, &d.Copied}
}

// Touched tells in little time whether relations of schemas may have changed
// since a snapshot that showed these: whether one is gone, or the catalogs have a
// row of theirs, of a column of those with columns, or of a new one, that was
// written since the snapshot's oldest transaction. Where nothing of that kind is
// found, ReadRelations would return what it returns under the snapshot, and so
// would ReadColumns of those with columns.
func Touched(ctx context.Context, q Querier, schemas, relations, columns []uint32, snapshot *Snapshot) (touched bool, err error) {
	// The age is in a subquery of its own so that a plan that is kept, which does
	// not know it, asks for it once and not for each row.
	err = q.QueryRow(ctx, `
		SELECT (SELECT count(*) <> coalesce(cardinality($2::oid[]), 0) OR coalesce(bool_or(age(c.xmin) <= (SELECT age($4::text::xid))), false)
				FROM pg_catalog.pg_class c WHERE c.oid = ANY($2::oid[]))
			OR EXISTS (
				SELECT FROM pg_catalog.pg_attribute a
				WHERE a.attrelid = ANY($3::oid[]) AND a.attnum > 0 AND age(a.xmin) <= (SELECT age($4::text::xid)))
			OR EXISTS (
				SELECT FROM unnest($1::oid[]) s (oid) CROSS JOIN LATERAL ( -- each by the index, whatever the statistics say
					SELECT FROM pg_catalog.pg_depend d
					WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = s.oid
					AND d.classid = 'pg_catalog.pg_class'::regclass AND age(d.xmin) <= (SELECT age($4::text::xid))
					LIMIT 1) d)`,
		schemas, relations, columns, xid32(snapshot.Xmin)).Scan(&touched)
	if err != nil {
		return false, fmt.Errorf("look for changes: %w", err)
	}
	return touched, nil
}

// ReadRelations lists the relations of schemas, but for those of extensions,
// in the order of schema and name.
func ReadRelations(ctx context.Context, q Querier, schemas []uint32) ([]Relation, error) {
	rows, err := q.Query(ctx, `SELECT `+relationFields+relationsOfSchemas, schemas)
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (Relation, error) {
		var r Relation
		return r, row.Scan(r.fields()...)
	})
	if err != nil {
		return nil, fmt.Errorf("list tables: %w", err)
	}
	return list, nil
}

// ReadInventory lists what ReadRelations does, each with its details, to take.
func ReadInventory(ctx context.Context, q Querier, schemas []uint32, take func(Relation, Details)) error {
	rows, err := q.Query(ctx, `SELECT `+relationFields+`, `+detailFields+relationsOfSchemas, schemas)
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	var r Relation
	var d Details
	var schema string
	_, err = pgx.ForEachRow(rows, append(r.fields(), d.fields()...), func() error {
		if r.Schema == schema {
			r.Schema = schema // one string for all of them
		}
		schema = r.Schema
		take(r, d)
		d.Copied = nil
		return nil
	})
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	return nil
}

// ReadColumns reads a digest of which transactions wrote the columns of tables
// and the like, by OID.
func ReadColumns(ctx context.Context, q Querier, oids []uint32) (map[uint32]string, error) {
	rows, err := q.Query(ctx, `
		SELECT attrelid, sum(pg_catalog.hashtextextended(xmin::text, attnum))::text FROM pg_catalog.pg_attribute
		WHERE attrelid = ANY($1) AND attnum > 0 GROUP BY 1`, oids)
	if err != nil {
		return nil, fmt.Errorf("read columns: %w", err)
	}
	digests := map[uint32]string{}
	var oid uint32
	var digest string
	_, err = pgx.ForEachRow(rows, []any{&oid, &digest}, func() error {
		digests[oid] = digest
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read columns: %w", err)
	}
	return digests, nil
}

// ReadDetails reads the details of relations by their OID.
func ReadDetails(ctx context.Context, q Querier, oids []uint32) (map[uint32]Details, error) {
	rows, err := q.Query(ctx, `
		SELECT c.oid, `+detailFields+`
		FROM pg_catalog.pg_class c WHERE c.oid = ANY($1)`, oids)
	if err != nil {
		return nil, fmt.Errorf("read tables: %w", err)
	}
	details := make(map[uint32]Details, len(oids))
	var oid uint32
	var d Details
	_, err = pgx.ForEachRow(rows, append([]any{&oid}, d.fields()...), func() error {
		details[oid] = d
		d = Details{}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read tables: %w", err)
	}
	return details, nil
}

// BlocksQuery is a query for the sizes in blocks of those tables that have more
// than so many. Whoever runs it holds locks on them, else it may have to wait.
func BlocksQuery(oids []uint32, more int64) string {
	list := make([]byte, 0, 8*len(oids))
	for i, oid := range oids {
		if i > 0 {
			list = append(list, ',')
		}
		list = strconv.AppendUint(list, uint64(oid), 10)
	}
	return fmt.Sprintf(`SELECT oid, blocks FROM (
		SELECT oid, pg_catalog.pg_relation_size(oid, 'main') / (SELECT current_setting('block_size')::int8) AS blocks
		FROM unnest('{%s}'::oid[]) oid OFFSET 0) t WHERE blocks > %d`, list, more)
}

// ParseBlocks reads what a BlocksQuery returned, by OID.
func ParseBlocks(rows [][][]byte) (map[uint32]int64, error) {
	sizes := map[uint32]int64{}
	for _, row := range rows {
		oid, err := strconv.ParseUint(string(row[0]), 10, 32)
		if err != nil {
			return nil, fmt.Errorf("read sizes of tables: %w", err)
		}
		if sizes[uint32(oid)], err = strconv.ParseInt(string(row[1]), 10, 64); err != nil {
			return nil, fmt.Errorf("read sizes of tables: %w", err)
		}
	}
	return sizes, nil
}

// lastValuesWait is for how many milliseconds LastValues waits for a lock: who has
// it may be about to alter one sequence, and must not keep all from being read.
const lastValuesWait = "100"

// LastValues reads the last values of logged sequences, by OID, as far as they were
// called: where the others begin only they themselves know. What is left out, too, is
// where one of them was dropped, is locked, or may not be read. The locks that it
// takes last until the transaction ends, whatever the savepoint, so q should be in
// none.
func LastValues(ctx context.Context, q Querier, oids []uint32, take func(oid uint32, value int64)) error {
	rows, err := q.Query(ctx, `
		WITH patience AS MATERIALIZED (SELECT pg_catalog.set_config('lock_timeout', $2, true) AS milliseconds)
		SELECT o, pg_catalog.pg_sequence_last_value(o) FROM patience, unnest($1::oid[]) o WHERE milliseconds IS NOT NULL`, oids, lastValuesWait)
	if err == nil {
		var oid uint32
		var value pgtype.Int8
		_, err = pgx.ForEachRow(rows, []any{&oid, &value}, func() error {
			if value.Valid {
				take(oid, value.Int64)
			}
			return nil
		})
	}
	if err != nil && (Code(err) == "" || Lost(err)) {
		return fmt.Errorf("read sequences: %w", err)
	}
	return nil
}

// HasLargeObjects reports whether the database holds any.
func HasLargeObjects(ctx context.Context, q Querier) (found bool, err error) {
	err = q.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_catalog.pg_largeobject_metadata)`).Scan(&found)
	if err != nil {
		return false, fmt.Errorf("look for large objects: %w", err)
	}
	return found, nil
}

// Extension is one that is installed in the database.
type Extension struct {
	Name    string
	Version string
	Schema  string
}

// ListExtensions lists the installed extensions, but for plpgsql, which every
// database has.
func ListExtensions(ctx context.Context, q Querier) ([]Extension, error) {
	rows, err := q.Query(ctx, `
		SELECT x.extname, x.extversion, n.nspname FROM pg_catalog.pg_extension x
		JOIN pg_catalog.pg_namespace n ON n.oid = x.extnamespace
		WHERE x.extname <> 'plpgsql' ORDER BY x.extname COLLATE "C"`)
	if err != nil {
		return nil, fmt.Errorf("list extensions: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Extension])
}

// ConfigTable is a table or sequence of an extension whose rows, or some of
// them, are the user's: the extension said so by pg_extension_config_dump.
type ConfigTable struct {
	OID             uint32
	ExtensionSchema string // where the extension is installed
	Schema          string
	Name            string
	Kind            string // relkind
	Condition       string // WHERE clause, or empty for all rows
}

// ListConfigTables lists the configuration tables of all extensions.
func ListConfigTables(ctx context.Context, q Querier) ([]ConfigTable, error) {
	rows, err := q.Query(ctx, `
		SELECT c.oid, x.nspname, n.nspname, c.relname, c.relkind::text, coalesce(e.condition, '')
		FROM (SELECT extnamespace, unnest(extconfig) AS oid, unnest(extcondition) AS condition FROM pg_catalog.pg_extension) e
		JOIN pg_catalog.pg_class c ON c.oid = e.oid
		JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_catalog.pg_namespace x ON x.oid = e.extnamespace
		WHERE c.relkind IN ('r', 'S') ORDER BY n.nspname COLLATE "C", c.relname COLLATE "C"`)
	if err != nil {
		return nil, fmt.Errorf("list configuration tables of extensions: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[ConfigTable])
}

// ownerOf maps an object of pg_depend or pg_shdepend, as classid and objid, to
// its schema's OID. What belongs to no schema has none.
const ownerOf = `
	coalesce(CASE d.classid
		WHEN 'pg_catalog.pg_class'::regclass THEN (SELECT c.relnamespace FROM pg_catalog.pg_class c WHERE c.oid = d.objid)
		WHEN 'pg_catalog.pg_type'::regclass THEN (SELECT t.typnamespace FROM pg_catalog.pg_type t WHERE t.oid = d.objid)
		WHEN 'pg_catalog.pg_proc'::regclass THEN (SELECT p.pronamespace FROM pg_catalog.pg_proc p WHERE p.oid = d.objid)
		WHEN 'pg_catalog.pg_namespace'::regclass THEN (SELECT n.oid FROM pg_catalog.pg_namespace n WHERE n.oid = d.objid)
		WHEN 'pg_catalog.pg_attrdef'::regclass THEN (SELECT c.relnamespace FROM pg_catalog.pg_attrdef a JOIN pg_catalog.pg_class c ON c.oid = a.adrelid WHERE a.oid = d.objid)
		WHEN 'pg_catalog.pg_rewrite'::regclass THEN (SELECT c.relnamespace FROM pg_catalog.pg_rewrite r JOIN pg_catalog.pg_class c ON c.oid = r.ev_class WHERE r.oid = d.objid)
		WHEN 'pg_catalog.pg_constraint'::regclass THEN (SELECT k.connamespace FROM pg_catalog.pg_constraint k WHERE k.oid = d.objid)
		WHEN 'pg_catalog.pg_trigger'::regclass THEN (SELECT c.relnamespace FROM pg_catalog.pg_trigger g JOIN pg_catalog.pg_class c ON c.oid = g.tgrelid WHERE g.oid = d.objid)
		WHEN 'pg_catalog.pg_policy'::regclass THEN (SELECT c.relnamespace FROM pg_catalog.pg_policy y JOIN pg_catalog.pg_class c ON c.oid = y.polrelid WHERE y.oid = d.objid)
		WHEN 'pg_catalog.pg_default_acl'::regclass THEN (SELECT nullif(a.defaclnamespace, 0) FROM pg_catalog.pg_default_acl a WHERE a.oid = d.objid)
		WHEN 'pg_catalog.pg_operator'::regclass THEN (SELECT o.oprnamespace FROM pg_catalog.pg_operator o WHERE o.oid = d.objid)
		WHEN 'pg_catalog.pg_opclass'::regclass THEN (SELECT o.opcnamespace FROM pg_catalog.pg_opclass o WHERE o.oid = d.objid)
		WHEN 'pg_catalog.pg_opfamily'::regclass THEN (SELECT o.opfnamespace FROM pg_catalog.pg_opfamily o WHERE o.oid = d.objid)
		WHEN 'pg_catalog.pg_collation'::regclass THEN (SELECT o.collnamespace FROM pg_catalog.pg_collation o WHERE o.oid = d.objid)
		WHEN 'pg_catalog.pg_ts_config'::regclass THEN (SELECT o.cfgnamespace FROM pg_catalog.pg_ts_config o WHERE o.oid = d.objid)
		WHEN 'pg_catalog.pg_ts_dict'::regclass THEN (SELECT o.dictnamespace FROM pg_catalog.pg_ts_dict o WHERE o.oid = d.objid)
		WHEN 'pg_catalog.pg_conversion'::regclass THEN (SELECT o.connamespace FROM pg_catalog.pg_conversion o WHERE o.oid = d.objid)
		WHEN 'pg_catalog.pg_statistic_ext'::regclass THEN (SELECT o.stxnamespace FROM pg_catalog.pg_statistic_ext o WHERE o.oid = d.objid)
		WHEN 'pg_catalog.pg_amop'::regclass THEN (SELECT f.opfnamespace FROM pg_catalog.pg_amop o JOIN pg_catalog.pg_opfamily f ON f.oid = o.amopfamily WHERE o.oid = d.objid)
		WHEN 'pg_catalog.pg_amproc'::regclass THEN (SELECT f.opfnamespace FROM pg_catalog.pg_amproc o JOIN pg_catalog.pg_opfamily f ON f.oid = o.amprocfamily WHERE o.oid = d.objid)
		WHEN 'pg_catalog.pg_ts_parser'::regclass THEN (SELECT o.prsnamespace FROM pg_catalog.pg_ts_parser o WHERE o.oid = d.objid)
		WHEN 'pg_catalog.pg_ts_template'::regclass THEN (SELECT o.tmplnamespace FROM pg_catalog.pg_ts_template o WHERE o.oid = d.objid)
		END, 0)`

// Needs is what the objects of one schema need from elsewhere. The key of
// maps of Needs is the schema's OID; 0 is for objects without a schema.
type Needs struct {
	Roles      []string // owners, grantees, roles of policies
	Extensions []string
	Schemas    []string // others with objects that these refer to by OID, public among them
}

// needsSQL goes by sets and leaves out early what cannot be of interest: of the
// hundreds of dependencies that a tenant has nearly all are within it, and most
// roles are those of tables. The references of foreign keys, of inheritance and
// of statistics are in catalogs of their own, which are smaller. Objects below
// 16384 came with the database.
const needsSQL = `
	WITH member AS MATERIALIZED (
		SELECT classid, objid, refobjid AS extension FROM pg_catalog.pg_depend
		WHERE refclassid = 'pg_catalog.pg_extension'::regclass AND deptype = 'e'
	), grantee AS MATERIALIZED (
		SELECT classid, objid, refobjid FROM pg_catalog.pg_shdepend
		WHERE dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
		AND refclassid = 'pg_catalog.pg_authid'::regclass AND deptype <> 'i' AND classid <> 'pg_catalog.pg_class'::regclass
	), extended AS MATERIALIZED (
		SELECT DISTINCT d.classid, d.objid, m.extension
		FROM member m JOIN pg_catalog.pg_depend d ON d.refclassid = m.classid AND d.refobjid = m.objid
		WHERE d.deptype <> 'e' AND NOT EXISTS (SELECT FROM member e WHERE e.classid = d.classid AND e.objid = d.objid)
	), edge AS MATERIALIZED (
		SELECT DISTINCT d.classid, d.objid, d.refclassid, d.refobjid FROM pg_catalog.pg_depend d
		WHERE d.deptype = 'n' AND d.refobjid >= 16384
		AND d.classid <> 'pg_catalog.pg_publication_rel'::regclass -- comes back with the table
		AND d.refclassid NOT IN ('pg_catalog.pg_namespace'::regclass, 'pg_catalog.pg_language'::regclass, 'pg_catalog.pg_extension'::regclass)
		AND (d.refclassid <> 'pg_catalog.pg_class'::regclass OR d.classid NOT IN ('pg_catalog.pg_constraint'::regclass, 'pg_catalog.pg_class'::regclass))
		AND NOT EXISTS (SELECT FROM member e WHERE e.classid = d.refclassid AND e.objid = d.refobjid)
		AND NOT EXISTS (SELECT FROM member e WHERE e.classid = d.classid AND e.objid = d.objid)
	), object AS MATERIALIZED (
		SELECT d.classid, d.objid, CASE d.classid WHEN 'pg_catalog.pg_cast'::regclass THEN (
				SELECT ` + castSchema + ` FROM pg_catalog.pg_cast c
				JOIN pg_catalog.pg_type s ON s.oid = c.castsource JOIN pg_catalog.pg_type t ON t.oid = c.casttarget
				WHERE c.oid = d.objid)
			ELSE ` + ownerOf + ` END AS schema
		FROM (
			SELECT classid, objid FROM grantee UNION SELECT classid, objid FROM extended
			UNION SELECT classid, objid FROM edge UNION SELECT refclassid, refobjid FROM edge) d
	), relation AS MATERIALIZED ( -- the roles of tables and the like, and who points at them by foreign keys, in one pass
		SELECT DISTINCT c.relnamespace AS schema, d.role, d.child
		FROM (
			SELECT objid, refobjid AS role, NULL::oid AS child FROM pg_catalog.pg_shdepend
			WHERE dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
			AND refclassid = 'pg_catalog.pg_authid'::regclass AND deptype <> 'i' AND classid = 'pg_catalog.pg_class'::regclass
			UNION ALL
			SELECT confrelid, NULL, connamespace FROM pg_catalog.pg_constraint WHERE contype = 'f') d
		JOIN (SELECT oid, relnamespace FROM pg_catalog.pg_class WHERE relkind NOT IN ('i', 'I', 't')) c ON c.oid = d.objid
	), role AS (
		SELECT schema, role AS refobjid FROM relation WHERE role IS NOT NULL
		UNION
		SELECT o.schema, g.refobjid FROM grantee g JOIN object o USING (classid, objid)
	), reference AS (
		SELECT child AS schema, schema AS other FROM relation WHERE child <> schema
		UNION
		SELECT c.relnamespace, p.relnamespace
		FROM pg_catalog.pg_inherits h
		JOIN pg_catalog.pg_class c ON c.oid = h.inhrelid
		JOIN pg_catalog.pg_class p ON p.oid = h.inhparent
		UNION
		SELECT x.stxnamespace, c.relnamespace FROM pg_catalog.pg_statistic_ext x JOIN pg_catalog.pg_class c ON c.oid = x.stxrelid
		UNION
		SELECT o.schema, r.schema
		FROM edge JOIN object o USING (classid, objid) JOIN object r ON r.classid = edge.refclassid AND r.objid = edge.refobjid
	)
	SELECT schema, 'role', pg_catalog.pg_get_userbyid(refobjid)::text FROM role
	UNION ALL
	SELECT DISTINCT o.schema, 'extension', x.extname::text
	FROM extended JOIN object o USING (classid, objid) JOIN pg_catalog.pg_extension x ON x.oid = extended.extension AND x.extname <> 'plpgsql'
	UNION ALL
	SELECT schema, 'schema', n.nspname::text
	FROM reference JOIN pg_catalog.pg_namespace n ON n.oid = other
	WHERE schema <> other AND schema <> 'pg_catalog'::regnamespace AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
	ORDER BY 1, 2, 3`

// ReadNeeds reads what the schemas of the database need: roles from the
// shared dependencies, extensions from the dependencies on their members, other
// schemas from those on everything else. The bootstrap superuser, whose
// ownership PostgreSQL does not record, is not among the roles. What stands in
// the text of a function's body alone is not known.
func ReadNeeds(ctx context.Context, q Querier) (map[uint32]*Needs, error) {
	rows, err := q.Query(ctx, needsSQL)
	if err != nil {
		return nil, fmt.Errorf("read what schemas need: %w", err)
	}
	needs := map[uint32]*Needs{}
	var schema uint32
	var kind, name string
	_, err = pgx.ForEachRow(rows, []any{&schema, &kind, &name}, func() error {
		n := needs[schema]
		if n == nil {
			n = &Needs{}
			needs[schema] = n
		}
		switch kind {
		case "role":
			n.Roles = append(n.Roles, name)
		case "extension":
			n.Extensions = append(n.Extensions, name)
		default:
			n.Schemas = append(n.Schemas, name)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read what schemas need: %w", err)
	}
	return needs, nil
}

// Snapshot is an exported snapshot. It lives as long as the transaction that
// exported it.
type Snapshot struct {
	ID   string // for SET TRANSACTION SNAPSHOT and pg_dump --snapshot
	Time time.Time
	LSN  string
	XIDs string // pg_current_snapshot()
	Xmin string // the oldest transaction that it does not see, or that was still running
}

// ExportSnapshot begins the transaction whose snapshot others share.
func ExportSnapshot(ctx context.Context, conn *pgx.Conn) (pgx.Tx, *Snapshot, error) {
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, nil, fmt.Errorf("begin: %w", err)
	}
	s := &Snapshot{}
	lsn := "pg_current_wal_lsn()"
	var standby bool
	err = tx.QueryRow(ctx, `SELECT pg_catalog.pg_is_in_recovery()`).Scan(&standby)
	if standby {
		lsn = "pg_last_wal_replay_lsn()"
	}
	if err == nil {
		err = tx.QueryRow(ctx, `
			SELECT pg_catalog.pg_export_snapshot(), clock_timestamp(), coalesce(pg_catalog.`+lsn+`::text, ''),
				pg_catalog.pg_current_snapshot()::text, pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text`).
			Scan(&s.ID, &s.Time, &s.LSN, &s.XIDs, &s.Xmin)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("export a snapshot: %w", err)
	}
	s.Time = s.Time.UTC()
	return tx, s, nil
}

// Import puts a new transaction of the connection on a snapshot that another
// session exported.
func (s *Snapshot) Import(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.PgConn().Exec(ctx, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT "+Literal(s.ID)).ReadAll()
	if err != nil {
		return fmt.Errorf("import snapshot: %w", err)
	}
	return nil
}

// ReadMembership reads, for the tables of schemas, which publications they
// are in, as the statements that put them there. pg_dump gives these only in
// a dump of the whole database. The key is the schema's OID.
func ReadMembership(ctx context.Context, q Querier, schemas []uint32, versionNum int) (map[uint32][]string, error) {
	list, err := readMembers(ctx, q, schemas, versionNum)
	if err != nil {
		return nil, err
	}
	members := map[uint32][]string{}
	for _, m := range list {
		members[m.schema] = append(members[m.schema], m.statement("ADD", m.restriction)+";\n")
	}
	return members, nil
}

// member is a table, or a whole schema, that a publication publishes.
type member struct {
	schema      uint32 // OID
	publication string
	object      string // as ALTER PUBLICATION names it
	description string // for people
	restriction string // the list of columns and the condition of rows
	whole       bool   // the schema
	by          owner  // of the publication
	superuser   bool   // this role is one
}

// statement is the one that adds or drops the member.
func (m *member) statement(verb, restriction string) string {
	return "ALTER PUBLICATION " + Identifier(m.publication) + " " + verb + " " + m.object + restriction
}

// readMembers reads the members of publications in schemas: tables first, by
// publication and name.
func readMembers(ctx context.Context, q Querier, schemas []uint32, versionNum int) ([]member, error) {
	columns, filter := "NULL::text[]", "''"
	whole := ""
	if versionNum >= 150000 {
		columns = `ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a WHERE a.attrelid = r.prrelid AND a.attnum = ANY(r.prattrs) ORDER BY a.attnum)`
		filter = `coalesce(pg_catalog.pg_get_expr(r.prqual, r.prrelid), '')`
		whole = `
			UNION ALL
			SELECT n.oid, s.pnpubid, 'TABLES IN SCHEMA ' || pg_catalog.quote_ident(n.nspname), 'schema ' || pg_catalog.quote_ident(n.nspname), NULL, '', true
			FROM pg_catalog.pg_publication_namespace s
			JOIN pg_catalog.pg_namespace n ON n.oid = s.pnnspid
			WHERE n.oid = ANY($1)`
	}
	rows, err := q.Query(ctx, `
		SELECT m.schema, p.pubname, m.object, m.description, m.columns, m.filter, m.whole,
			pg_catalog.pg_get_userbyid(p.pubowner)::text, pg_catalog.pg_has_role(p.pubowner, 'USAGE'),
			(SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
		FROM (
			SELECT c.relnamespace AS schema, r.prpubid AS publication, 'TABLE ONLY ' || pg_catalog.format('%I.%I', n.nspname, c.relname) AS object,
				'table ' || pg_catalog.format('%I.%I', n.nspname, c.relname) AS description, `+columns+` AS columns, `+filter+` AS filter, false AS whole
			FROM pg_catalog.pg_publication_rel r
			JOIN pg_catalog.pg_class c ON c.oid = r.prrelid
			JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
			WHERE c.relnamespace = ANY($1)`+whole+`
		) m JOIN pg_catalog.pg_publication p ON p.oid = m.publication
		ORDER BY m.whole, p.pubname COLLATE "C", m.object COLLATE "C"`, schemas)
	if err != nil {
		return nil, fmt.Errorf("read publications: %w", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (m member, err error) {
		var columns []string
		var filter string
		err = row.Scan(&m.schema, &m.publication, &m.object, &m.description, &columns, &filter, &m.whole, &m.by.name, &m.by.may, &m.superuser)
		for i := range columns {
			columns[i] = Identifier(columns[i])
		}
		if len(columns) > 0 {
			m.restriction = " (" + strings.Join(columns, ", ") + ")"
		}
		if filter != "" {
			m.restriction += " WHERE (" + filter + ")"
		}
		return m, err
	})
	if err != nil {
		return nil, fmt.Errorf("read publications: %w", err)
	}
	return list, nil
}

// Root is the topmost table of a partition tree.
type Root struct {
	OID    uint32
	Schema string
}

// RootLoaded finds the partitioned tables whose rows cannot be copied
// partition by partition, because another server may put a row into another
// partition: those partitioned by the hash of an enum, whose values are hashed
// by OID. It returns their topmost tables, and for each table below which of
// them it belongs to.
func RootLoaded(ctx context.Context, q Querier) (map[uint32]Root, error) {
	rows, err := q.Query(ctx, `
		WITH RECURSIVE unsafe AS (
			SELECT partrelid AS oid FROM pg_catalog.pg_partitioned_table p WHERE partstrat = 'h' AND EXISTS (
				SELECT FROM unnest(p.partclass) o JOIN pg_catalog.pg_opclass c ON c.oid = o WHERE c.opcname = 'enum_ops')),
		up AS (
			SELECT oid FROM unsafe
			UNION SELECT i.inhparent FROM up JOIN pg_catalog.pg_inherits i ON i.inhrelid = up.oid),
		tree AS (
			SELECT oid AS root, oid FROM up WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = up.oid)
			UNION SELECT tree.root, i.inhrelid FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid)
		SELECT tree.oid, root, n.nspname FROM tree
		JOIN pg_catalog.pg_class c ON c.oid = root JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace`)
	if err != nil {
		return nil, fmt.Errorf("read partitioned tables: %w", err)
	}
	roots := map[uint32]Root{}
	for rows.Next() {
		var oid uint32
		var root Root
		if err := rows.Scan(&oid, &root.OID, &root.Schema); err != nil {
			return nil, fmt.Errorf("read partitioned tables: %w", err)
		}
		roots[oid] = root
	}
	return roots, rows.Err()
}

// MatviewOrder lists the materialized views that hold rows, by schema OID and
// name, each after those that it reads.
func MatviewOrder(ctx context.Context, q Querier) ([]Relation, map[uint32]uint32, error) {
	rows, err := q.Query(ctx, `
		WITH RECURSIVE matview AS ( -- by their rules, since pg_class has no index by kind
			SELECT c.* FROM pg_catalog.pg_rewrite r, LATERAL (SELECT c.* FROM pg_catalog.pg_class c WHERE c.oid = r.ev_class OFFSET 0) c
			WHERE r.rulename = '_RETURN' AND c.relkind = 'm'),
		edge AS (
			SELECT DISTINCT r.ev_class AS reader, d.refobjid AS read
			FROM pg_catalog.pg_rewrite r
			JOIN pg_catalog.pg_class v ON v.oid = r.ev_class AND v.relkind IN ('v', 'm')
			JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid
				AND d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid <> r.ev_class
			JOIN pg_catalog.pg_class t ON t.oid = d.refobjid AND t.relkind IN ('v', 'm')
			WHERE EXISTS (SELECT FROM matview)),
		reach AS (
			SELECT reader, read FROM edge
			UNION SELECT reach.reader, edge.read FROM reach JOIN edge ON edge.reader = reach.read)
		SELECT n.nspname, c.oid, c.relname, n.oid
		FROM matview c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relispopulated
		ORDER BY (SELECT count(*) FROM reach JOIN matview m ON m.oid = reach.read WHERE reach.reader = c.oid), n.nspname COLLATE "C", c.relname COLLATE "C"`)
	if err != nil {
		return nil, nil, fmt.Errorf("read materialized views: %w", err)
	}
	var views []Relation
	schemas := map[uint32]uint32{}
	for rows.Next() {
		v := Relation{Kind: "m"}
		var schema uint32
		if err := rows.Scan(&v.Schema, &v.OID, &v.Name, &schema); err != nil {
			return nil, nil, fmt.Errorf("read materialized views: %w", err)
		}
		views = append(views, v)
		schemas[v.OID] = schema
	}
	return views, schemas, rows.Err()
}

// Cast is a cast from or to a type of a schema. Casts themselves are in no
// schema, but they are dropped with it.
type Cast struct {
	OID    uint32
	Schema uint32 // OID
	Tag    string // as pg_dump's table of contents names it
	SQL    string
}

// castSchema is the schema that a cast from type s to type t belongs to.
const castSchema = `CASE WHEN (SELECT nspname FROM pg_catalog.pg_namespace WHERE oid = s.typnamespace) IN ('pg_catalog', 'public')
	THEN t.typnamespace ELSE s.typnamespace END`

// ListCasts lists the casts that belong to types of users' schemas.
func ListCasts(ctx context.Context, q Querier) ([]Cast, error) {
	rows, err := q.Query(ctx, `
		SELECT c.oid, schema, tag, 'CREATE ' || tag || ' ' || CASE c.castmethod
			WHEN 'b' THEN 'WITHOUT FUNCTION' WHEN 'i' THEN 'WITH INOUT'
			ELSE 'WITH FUNCTION ' || c.castfunc::regprocedure::text END
			|| CASE c.castcontext WHEN 'a' THEN ' AS ASSIGNMENT' WHEN 'i' THEN ' AS IMPLICIT' ELSE '' END || E';\n'
			|| coalesce('COMMENT ON ' || tag || ' IS ' || pg_catalog.quote_literal(pg_catalog.obj_description(c.oid, 'pg_cast')) || E';\n', '')
		FROM pg_catalog.pg_cast c
		JOIN pg_catalog.pg_type s ON s.oid = c.castsource
		JOIN pg_catalog.pg_type t ON t.oid = c.casttarget
		CROSS JOIN LATERAL (SELECT
			'CAST (' || pg_catalog.format_type(s.oid, NULL) || ' AS ' || pg_catalog.format_type(t.oid, NULL) || ')' AS tag,
			`+castSchema+` AS schema) l
		WHERE c.oid >= 16384 AND NOT EXISTS (
			SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog.pg_cast'::regclass AND e.objid = c.oid
			AND e.deptype IN ('e', 'i')) -- of an extension, or made together with a range type
		ORDER BY tag COLLATE "C"`)
	if err != nil {
		return nil, fmt.Errorf("list casts: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Cast])
}
