package backup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgdump"
)

// script is the definitions of one schema, without rows.
type script struct {
	pre, post []pgdump.Statement
	requires  datafile.Requires
}

// definitions gets the definitions of the tenants and hands each tenant to
// next, in groups. Each run of pg_dump reads the whole catalogue before it comes
// to its schemas, so a few large groups cost less than many small ones.
func (d *round) definitions(ctx context.Context, tenants []*tenant, results *results, next func(*tenant) error) error {
	budget, err := d.lockBudget(ctx)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(min(d.Jobs, maxDumps))
	if len(tenants) > 0 && tenants[0].core {
		core := tenants[:1]
		tenants = tenants[1:]
		g.Go(func() error { return d.group(ctx, core, results, next) })
	}
	for _, group := range groups(tenants, groupLimits{tables: groupTables, locks: max(budget/maxDumps-dumpLocks, 1)}) {
		g.Go(func() error { return d.group(ctx, group, results, next) })
	}
	return g.Wait()
}

const (
	// maxDumps is how many runs of pg_dump there are at once.
	maxDumps = 2
	// groupTables bounds the size of a group, in tables, and with it what waits
	// in memory for the workers: some 6 kB a table, in two groups at once.
	groupTables = 5000
	// dumpLocks is how many locks a run of pg_dump takes for the catalogue
	// alone, workerLocks what is left to each worker.
	dumpLocks   = 250
	workerLocks = 200
)

// lockBudget is how many relations all runs of pg_dump together may lock: what
// the server promises for all sessions, less what is in use and what the
// workers need. Its reserve, which is about half as much again, is for others.
func (d *round) lockBudget(ctx context.Context) (int, error) {
	var used int
	err := d.newest(ctx, func(q pg.Querier) error {
		return q.QueryRow(ctx, `SELECT count(*) FROM pg_catalog.pg_locks WHERE NOT fastpath`).Scan(&used)
	})
	if err != nil {
		return 0, fmt.Errorf("count locks: %w", err)
	}
	return d.info.LockSlots - used - d.Jobs*workerLocks, nil
}

// groupLimits is how much one run of pg_dump gets at most.
type groupLimits struct{ tables, locks int }

// groups cuts tenants into runs of pg_dump of about the same size. The first
// and the last, if there are more than two, are smaller: the workers wait for
// the first, and all wait for the rows of the last.
func groups(tenants []*tenant, limits groupLimits) [][]*tenant {
	var total groupLimits
	for _, t := range tenants {
		total.tables += t.weight()
		total.locks += t.Locks
	}
	runs := max((total.tables+limits.tables-1)/limits.tables, (total.locks+limits.locks-1)/limits.locks, 1)
	share := (total.tables + runs - 1) / runs
	var all [][]*tenant
	var group []*tenant
	var size groupLimits
	for _, t := range tenants {
		limit := share
		if len(all) == 0 && runs > 2 {
			limit = share / 3
		}
		if len(group) > 0 && (size.tables+t.weight() > limit || size.locks+t.Locks > limits.locks) {
			all = append(all, group)
			group, size = nil, groupLimits{}
		}
		group = append(group, t)
		size.tables += t.weight()
		size.locks += t.Locks
	}
	if len(group) > 0 {
		all = append(all, group)
	}
	return all
}

// weight is what a tenant weighs in a group: its tables, and something for what
// else it may have.
func (t *tenant) weight() int { return t.Tables + 2 }

// group takes the definitions of a group and hands its tenants on.
func (d *round) group(ctx context.Context, group []*tenant, results *results, next func(*tenant) error) error {
	err := d.inventory(ctx, group)
	if err != nil {
		return d.explain(ctx, err)
	}
	readable := group[:0:0]
	for _, t := range group {
		if err := d.readable(t); err != nil {
			results.fail(t, err)
			continue
		}
		readable = append(readable, t)
	}
	return d.dump(ctx, readable, results, next)
}

// dump runs pg_dump for a group. Where the whole group cannot be had, those are
// taken out that are likely to be in the way; else it is cut in halves until the
// one that is to blame is alone.
func (d *round) dump(ctx context.Context, group []*tenant, results *results, next func(*tenant) error) error {
	if len(group) == 0 {
		return nil
	}
	began := time.Now()
	archive, err := d.dumpAndDigest(ctx, group)
	var failure *pgdump.Error
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil:
	case !errors.As(err, &failure):
		return err
	case failure.Reason == pgdump.LockTableFull && len(group) == 1:
		results.fail(group[0], &tooManyError{group[0].Locks})
		return nil
	case failure.Reason == pgdump.ConnectionLost || failure.Reason == pgdump.SnapshotGone:
		return fmt.Errorf("read definitions: %w", err)
	case len(group) > 1:
		return d.dumpParts(ctx, group, failure.Reason, results, next)
	case failure.Reason == pgdump.Vanished:
		return results.add(group[0], nil, &changedError{failure.Error()})
	case failure.Reason == pgdump.LockTimeout:
		results.fail(group[0], &lockedError{time.Duration(lockAttempts) * d.LockTimeout})
		return nil
	default:
		results.fail(group[0], fmt.Errorf("read definitions: %w", err))
		return nil
	}
	for _, w := range archive.Warnings {
		d.Progress.Note(slogWarn, "", w)
	}
	dumped := time.Now()
	changed, err := d.changes(ctx)
	if err != nil {
		return d.explain(ctx, err)
	}
	renamed, err := d.rolesRenamed(ctx)
	if err != nil {
		return d.explain(ctx, err)
	}
	d.Log.DebugContext(ctx, "Read definitions", "schemas", len(group), "dump_seconds", dumped.Sub(began).Seconds(), "check_seconds", time.Since(dumped).Seconds())
	var bySchema map[string][]pgdump.Statement
	if group[0].core {
		bySchema = map[string][]pgdump.Statement{group[0].Name: slices.Collect(archive.Statements())}
	} else {
		bySchema, _ = archive.Split()
	}
	archive = nil // the statements are in memory until the workers have taken them
	for _, t := range group {
		if table, ok := changed[t.OID]; ok || t.core && anyChanged(changed, t) {
			if table == "" {
				table = "catalogs"
			}
			if err := results.add(t, nil, &changedError{fmt.Sprintf("its definitions changed (%s)", table)}); err != nil {
				return err
			}
			continue
		}
		statements := bySchema[t.Name]
		delete(bySchema, t.Name)
		if err := d.addScript(t, statements); err != nil {
			results.fail(t, err)
			continue
		}
		switch {
		case renamed: // pg_dump wrote the names of the snapshot, the digest is of the newest
			t.definitions = ""
		case t.definitions == "":
			if t.definitions, err = d.byDigest(ctx, t, t.uses); err != nil {
				return err
			}
		}
		if err := next(t); err != nil {
			return err
		}
	}
	return nil
}

// dumpParts runs pg_dump for the parts of a group for which it failed.
func (d *round) dumpParts(ctx context.Context, group []*tenant, reason pgdump.Reason, results *results, next func(*tenant) error) error {
	var suspects map[uint32]string
	var err error
	switch reason {
	case pgdump.Vanished:
		suspects, err = d.changes(ctx)
	case pgdump.LockTimeout:
		suspects, err = d.held(ctx)
	}
	if err != nil {
		return d.explain(ctx, err)
	}
	second, first := partition(group, func(t *tenant) bool { _, ok := suspects[t.OID]; return ok })
	if len(first) == 0 || len(second) == 0 {
		half := len(group) / 2
		first, second = group[:half], group[half:]
	} else if reason == pgdump.Vanished { // they are taken again in any case
		for _, t := range second {
			if err := results.add(t, nil, &changedError{fmt.Sprintf("its definitions changed (%s)", suspects[t.OID])}); err != nil {
				return err
			}
		}
		second = nil
	}
	if err := d.dump(ctx, first, results, next); err != nil {
		return err
	}
	return d.dump(ctx, second, results, next)
}

// held finds the schemas, by OID, in which another session holds a lock that
// keeps readers out.
func (d *round) held(ctx context.Context) (map[uint32]string, error) {
	schemas := map[uint32]string{}
	err := d.newest(ctx, func(q pg.Querier) error {
		rows, err := q.Query(ctx, `
			SELECT c.relnamespace, c.relname FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation
			WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock'
			AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database())`)
		if err != nil {
			return fmt.Errorf("look for locks: %w", err)
		}
		var schema uint32
		var table string
		_, err = pgx.ForEachRow(rows, []any{&schema, &table}, func() error {
			schemas[schema] = table
			return nil
		})
		if err != nil {
			return fmt.Errorf("look for locks: %w", err)
		}
		return nil
	})
	return schemas, err
}

// dumpAndDigest runs pg_dump, and meanwhile finds out what the definitions are
// known by that it writes.
func (d *round) dumpAndDigest(ctx context.Context, group []*tenant) (*pgdump.Archive, error) {
	var archive *pgdump.Archive
	var g errgroup.Group // the failure of one must not end the session of the other, which holds the snapshot
	g.Go(func() error {
		err := d.byContent(ctx, group)
		if err == nil && d.seal != "" {
			_, err = d.catalogs()
		}
		return d.explain(ctx, err)
	})
	g.Go(func() (err error) {
		archive, err = d.runDump(ctx, group)
		return err
	})
	err := g.Wait()
	return archive, err
}

// runDump runs pg_dump. For a single tenant it tries again where others were in
// the way; a group is cut in parts instead.
func (d *round) runDump(ctx context.Context, group []*tenant) (*pgdump.Archive, error) {
	lost := 0
	for attempt := 1; ; attempt++ {
		archive, err := pgdump.Run(ctx, d.dumpOptions(group))
		var failure *pgdump.Error
		switch {
		case err == nil || ctx.Err() != nil || attempt == lockAttempts:
			return archive, err
		case errors.As(err, &failure) && failure.Reason == pgdump.ConnectionLost:
			// One session that was ended is not the server's end: that shows
			// when the next one cannot connect, or finds the snapshot gone.
			if lost++; lost == copyAttempts {
				return nil, err
			}
			d.Progress.Note(slogWarn, "", fmt.Sprintf("pg_dump lost its session: trying again (%v)", err))
		case pg.Code(err) == pg.OutOfMemory, // the lock table is too full for even a connection
			len(group) == 1 && failure != nil && failure.Reason == pgdump.LockTableFull && group[0].Locks < d.info.LockSlots:
			if err := pause(ctx, min(d.LockTimeout, time.Second)); err != nil {
				return nil, err
			}
		case len(group) == 1 && failure != nil && failure.Reason == pgdump.LockTimeout: // has waited
			d.Progress.Note(slogWarn, group[0].tenant, "another session holds a lock on one of its tables: trying again")
		default:
			return nil, err
		}
	}
}

// anyChanged reports whether something that belongs to core changed: in one
// of its schemas, or outside of all schemas.
func anyChanged(changed map[uint32]string, core *tenant) bool {
	if _, ok := changed[pg.NoSchema]; ok {
		return true
	}
	return slices.ContainsFunc(core.oids, func(oid uint32) bool { _, ok := changed[oid]; return ok })
}

// explain says what it means that the coordinator's session broke.
func (d *round) explain(ctx context.Context, err error) error {
	if pg.Lost(err) && ctx.Err() == nil && d.conn.IsClosed() {
		return fmt.Errorf("%w: %w", errSnapshotGone, err)
	}
	return err
}

func (d *round) changes(ctx context.Context) (changed map[uint32]string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	err = d.newest(ctx, func(q pg.Querier) error {
		changed, err = pg.ChangedDefinitions(ctx, d.tx, q, d.snapshot)
		return err
	})
	return changed, err
}

func (d *round) rolesRenamed(ctx context.Context) (renamed bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	err = d.newest(ctx, func(q pg.Querier) error {
		renamed, err = pg.RolesRenamed(ctx, d.tx, q)
		return err
	})
	return renamed, err
}

func (d *round) dumpOptions(group []*tenant) pgdump.Options {
	o := pgdump.Options{
		Program: d.program.Path, Connect: d.Server.Hijacked, Snapshot: d.snapshot.ID,
		Answers: &d.answers, Encoding: d.encoding, LockWait: d.LockTimeout,
	}
	if group[0].core {
		// A dump with them takes longer, whether there are any or not.
		o.LargeObjects = d.hasLargeObjects
		for _, s := range d.schemas {
			if !slices.Contains(group[0].oids, s.OID) {
				o.ExcludeSchemas = append(o.ExcludeSchemas, s.Name)
			}
		}
		return o
	}
	for _, t := range group {
		o.Schemas = append(o.Schemas, t.Name)
		o.Extensions = append(o.Extensions, t.Extensions...)
	}
	return o
}

// inventory reads the tables of a group under the snapshot.
func (d *round) inventory(ctx context.Context, group []*tenant) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	byName := map[string]*tenant{}
	byOID := map[uint32]*tenant{}
	var schemas []uint32
	for _, t := range group {
		byName[t.Name] = t
		for _, oid := range t.oids {
			byOID[oid] = t
		}
		schemas = append(schemas, t.oids...)
		// A table mostly comes with a sequence.
		t.material = &material{relations: make([]pg.Relation, 0, 2*t.Tables+2), details: make(map[uint32]pg.Details, 2*t.Tables+2)}
	}
	err := pg.ReadInventory(ctx, d.tx, schemas, func(rel pg.Relation, details pg.Details) {
		t := byName[rel.Schema]
		if t == nil { // one of core's schemas that hold extensions
			t = group[0]
		}
		t.relations = append(t.relations, rel)
		t.details[rel.OID] = details
	})
	if err != nil {
		return err
	}
	for _, c := range d.config {
		t := d.configOwner(group, c)
		if t == nil {
			continue
		}
		t.config = append(t.config, c)
		of, err := pg.ReadDetails(ctx, d.tx, []uint32{c.OID})
		if err != nil {
			return err
		}
		maps.Copy(t.details, of)
	}
	if !group[0].core && !group[0].reused { // a dump of the whole database has core's
		members, err := pg.ReadMembership(ctx, d.tx, schemas, d.info.ServerVersionNum)
		if err != nil {
			return err
		}
		for oid, statements := range members {
			byOID[oid].members = statements
		}
	}
	for _, v := range d.matviews {
		if t := byOID[d.viewSchema[v.OID]]; t != nil {
			t.matviews = append(t.matviews, v)
		}
	}
	if err := d.lastValues(ctx, group); err != nil {
		return err
	}
	return d.readRegistrations(ctx, group)
}

// lastValues reads where the sequences of a group stand that were called, many at
// once. They know no snapshot: a value may be later than the rows, never earlier.
func (d *round) lastValues(ctx context.Context, group []*tenant) error {
	var oids []uint32
	of := map[uint32]*tenant{}
	for _, t := range group {
		t.last = make(map[uint32]int64, t.Tables)
		for _, rel := range t.relations {
			// The server tells the last value of an unlogged one not everywhere.
			if rel.Kind == "S" && rel.Persistent == "p" && t.details[rel.OID].Readable {
				oids, of[rel.OID] = append(oids, rel.OID), t
			}
		}
	}
	for part := range batches(oids, batchTables) {
		err := d.newest(ctx, func(q pg.Querier) error {
			return pg.LastValues(ctx, q, part, func(oid uint32, value int64) { of[oid].last[oid] = value })
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// configOwner is the tenant of the group whose file gets the rows of an
// extension's configuration table: the one that creates the extension.
func (d *round) configOwner(group []*tenant, c pg.ConfigTable) *tenant {
	for _, t := range group {
		if t.Name == c.ExtensionSchema {
			return t
		}
	}
	core := group[0]
	if !core.core || d.ofTenant(c.ExtensionSchema) {
		return nil
	}
	return core
}

// ofTenant reports whether a schema of the database is not core's.
func (d *round) ofTenant(schema string) bool {
	i, ok := d.byName[schema]
	return ok && schema != manifest.CoreSchema && !d.schemas[i].OnlyExtensions
}

// readable reports what the role may not read of a tenant, or what it would
// read without seeing all of it.
func (d *round) readable(t *tenant) error {
	var denied, filtered []string
	for _, rel := range t.relations {
		for _, name := range append([]string{rel.Name}, t.details[rel.OID].Copied...) {
			if !utf8.ValidString(name) {
				return fmt.Errorf("the name %q in it is not valid UTF-8: in a database of encoding SQL_ASCII names must be", name)
			}
		}
	}
	grant := "TABLE"
	for _, rel := range t.relations {
		detail, ok := t.details[rel.OID]
		if !ok || rel.Kind == "v" || rel.Kind == "f" || rel.Kind == "m" {
			continue
		}
		switch {
		case !detail.Readable:
			if rel.Kind == "S" && len(denied) == 0 {
				grant = "SEQUENCE"
			}
			denied = append(denied, pg.Identifier(rel.Schema, rel.Name))
		case detail.Filtered:
			filtered = append(filtered, pg.Identifier(rel.Schema, rel.Name))
		}
	}
	for _, rel := range t.relations {
		if root, ok := d.roots[rel.OID]; ok && rel.Kind == "r" && !d.chosen[root.Schema] {
			return fmt.Errorf("the rows of %s can only be saved with their partitioned table, which is in schema %q: back up both", pg.Identifier(rel.Schema, rel.Name), root.Schema)
		}
	}
	user := pg.Identifier(d.info.User)
	switch {
	case len(denied) > 0:
		return fmt.Errorf("role %s may not read %s: GRANT SELECT ON %s %s TO %s, or GRANT pg_read_all_data TO %s",
			user, some(denied), grant, denied[0], user, user)
	case len(filtered) > 0:
		return fmt.Errorf("row-level security would hide rows of %s from role %s: ALTER ROLE %s BYPASSRLS, or back up as the owner or a superuser",
			some(filtered), user, user)
	}
	return nil
}

// some names the first few of a list.
func some(names []string) string {
	if len(names) <= 3 {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:3], ", "), len(names)-3)
}

// addScript arranges a tenant's statements for its file, with what pg_dump
// does not give in a dump of definitions alone.
func (d *round) addScript(t *tenant, statements []pgdump.Statement) error {
	s := script{}
	roles := map[string]bool{}
	tablespaces := map[string]bool{}
	created := map[string]bool{}
	for _, st := range statements {
		if t.core && d.elsewhere(st) {
			continue
		}
		if st.Section == pgdump.PreData {
			s.pre = append(s.pre, st)
		} else {
			s.post = append(s.post, st)
		}
		if st.Role != "" {
			roles[st.Role] = true
		}
		if st.Tablespace != "" {
			tablespaces[st.Tablespace] = true
		}
		if st.Kind == "EXTENSION" {
			created[st.Tag] = true
		}
	}
	s.pre = d.withCasts(t, s.pre)
	var added []pgdump.Statement
	for _, m := range t.members {
		added = append(added, pgdump.Statement{Section: pgdump.PostData, Schema: t.Name, Kind: "PUBLICATION TABLE", Tag: t.Name, SQL: m})
	}
	for _, v := range t.matviews {
		added = append(added, pgdump.Statement{
			Section: pgdump.PostData, Schema: v.Schema, Kind: "REFRESH", Tag: v.Name, Table: v.Name,
			SQL: "REFRESH MATERIALIZED VIEW " + pg.Identifier(v.Schema, v.Name) + ";\n",
		})
	}
	// Event triggers come last of all: they would fire at what is before them.
	at := slices.IndexFunc(s.post, func(st pgdump.Statement) bool { return st.Kind == "EVENT TRIGGER" })
	if at < 0 {
		at = len(s.post)
	}
	s.post = slices.Insert(s.post, at, added...)

	needs, err := d.needs()
	if err != nil {
		return err
	}
	uses := map[string]bool{}
	schemas := map[string]bool{}
	oids := t.oids
	if t.core {
		oids = append(slices.Clone(oids), pg.NoSchema)
	}
	for _, oid := range oids {
		if n := needs[oid]; n != nil {
			for _, role := range n.Roles {
				roles[role] = true
			}
			for _, x := range n.Extensions {
				uses[x] = true
			}
			for _, name := range n.Schemas {
				schemas[name] = true
			}
		}
	}
	for _, x := range d.extensions {
		if uses[x.Name] || created[x.Name] {
			s.requires.Extensions = append(s.requires.Extensions, datafile.Extension{Name: x.Name, Version: x.Version, Schema: x.Schema, Created: created[x.Name]})
		}
	}
	s.requires.Roles = slices.Sorted(maps.Keys(roles))
	s.requires.Tablespaces = slices.Sorted(maps.Keys(tablespaces))
	for name := range schemas {
		if i, ok := d.byName[name]; ok && slices.Contains(t.oids, d.schemas[i].OID) {
			delete(schemas, name) // core has several
		}
	}
	s.requires.Schemas = slices.Sorted(maps.Keys(schemas))
	t.uses = slices.DeleteFunc(slices.Clone(s.requires.Schemas), func(name string) bool { return !d.ofTenant(name) })
	if !t.core && !slices.ContainsFunc(s.pre, func(st pgdump.Statement) bool { return st.Kind == "SCHEMA" && st.Tag == t.Name }) {
		return errors.New("pg_dump gave no definition of the schema itself")
	}
	t.script = s
	return nil
}

// elsewhere reports whether a statement that pg_dump counts among the
// database's own belongs into the file of a tenant: extensions in a tenant's
// schema, casts of its types and its membership in publications, which are
// dropped with the schema and must come back with it.
func (d *round) elsewhere(st pgdump.Statement) bool {
	if strings.HasPrefix(st.Kind, "PUBLICATION TABLE") {
		// pg_dump 18 gives the members of a publication that are in schemas
		// which it leaves out.
		return d.ofTenant(st.Schema)
	}
	for _, x := range d.extensions {
		// pg_dump quotes the name in the tag of a comment, where it has to.
		comment := st.Kind == "COMMENT" && (st.Tag == "EXTENSION "+x.Name || st.Tag == "EXTENSION "+pg.Identifier(x.Name))
		if (comment || st.Kind == "EXTENSION" && st.Tag == x.Name) && d.ofTenant(x.Schema) {
			return true
		}
	}
	if st.Kind != "CAST" && (st.Kind != "COMMENT" || !strings.HasPrefix(st.Tag, "CAST ")) {
		return false
	}
	return slices.ContainsFunc(d.casts, func(c pg.Cast) bool {
		return c.Tag == st.Tag && slices.ContainsFunc(d.schemas, func(s pg.Schema) bool { return s.OID == c.Schema && d.ofTenant(s.Name) })
	})
}

// withCasts adds the casts of a tenant's types where they can be made: after
// the functions and types that come before the first view.
func (d *round) withCasts(t *tenant, pre []pgdump.Statement) []pgdump.Statement {
	if t.core {
		return pre
	}
	var casts []pgdump.Statement
	for _, c := range d.casts {
		if c.Schema == t.OID {
			casts = append(casts, pgdump.Statement{Section: pgdump.PreData, Schema: t.Name, Kind: "CAST", Tag: c.Tag, SQL: c.SQL})
		}
	}
	at := slices.IndexFunc(pre, func(st pgdump.Statement) bool { return st.Kind == "VIEW" || st.Kind == "MATERIALIZED VIEW" })
	if at < 0 {
		at = len(pre)
	}
	return slices.Insert(pre, at, casts...)
}
