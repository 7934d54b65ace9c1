package restore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// coreInUse is what is known of a live core whose rows are exchanged. Its
// objects stay: tenants point at them, and their definitions are those of the
// backup.
type coreInUse struct {
	public    uint32
	staging   string // has the rows of the backup, in tables without anything else
	sequences []sequenceValue
	missing   []step // what belongs to the database and is not there
	keys      []step // foreign keys of tenants of this run that the present rows of core do not fulfil
	locks     int
}

// sequenceValue is where a sequence stands in the backup.
type sequenceValue struct {
	name   string
	last   string // a number
	called string // true or false
}

// replaceCore checks whether the rows of the live core can be exchanged for
// those of the backup.
func (p *checker) replaceCore(ctx context.Context, u *unit, public uint32, owner bool, existing []databaseObject) error {
	tenant := u.entry.Tenant
	c := &coreInUse{public: public}
	var may bool
	if err := p.main.QueryRow(ctx, mayReplicaSQL(p.info)).Scan(&may); err != nil {
		return fmt.Errorf("read the rights of the role: %w", err)
	}
	if !may || !owner {
		p.find(Finding{
			Tenant:  tenant,
			Problem: fmt.Sprintf("role %q may not exchange the rows of a core that is in use: it needs the right to set session_replication_role, so that no trigger fires, and schema public must be its own", p.info.User),
			Remedy:  "restore as a superuser",
		})
		return nil
	}
	if err := p.keptReferences(ctx, public); err != nil {
		return err
	}
	found, extensions, failed, err := p.tryDefinitions(ctx, u, public)
	switch {
	case pg.Code(err) == pg.OutOfMemory:
		p.find(Finding{
			Tenant: tenant, Err: err,
			Problem: fmt.Sprintf("the server's lock table, with room for %s locks, is too small to compare the definitions of core", humanize.Comma(int64(p.info.LockSlots))),
			Remedy:  "raise max_locks_per_transaction",
		})
		return nil
	case err != nil:
		return err
	}
	if len(failed) > 0 {
		p.find(differentCore(tenant, found, failed))
		return nil
	}
	if !found.none() {
		return p.replaceObjects(ctx, u, public, found, extensions, existing)
	}
	for list := range slices.Chunk(found.access, shownFindings) {
		if p.NoOwner || p.NoPrivileges {
			break
		}
		u.note("owner, grants or comment are not those of the backup and stay as they are: " + strings.Join(list, ", "))
	}
	if c.staging, err = freeName(ctx, p.main, manifest.CoreSchema, "staging", p.Now()); err != nil {
		return err
	}
	if err := p.coreTables(ctx, u, c); err != nil {
		return err
	}
	if c.sequences, err = p.sequenceValues(ctx, u, c); err != nil {
		return err
	}
	if c.missing, err = p.missingObjects(ctx, u, existing); err != nil {
		return err
	}
	u.schemas = []string{manifest.CoreSchema}
	u.inUse = c
	if tenants, locks := p.swapLocks(); len(tenants) > 0 && locks > p.lockRoom() {
		p.plan.Warnings = append(p.plan.Warnings, fmt.Sprintf(
			"core and %s take %s locks together, the server has room for %s: they are swapped one after the other if no row refers to one that is there only in between, else not at all (see max_locks_per_transaction)",
			english.Plural(len(tenants), "tenant", ""), humanize.Comma(int64(locks)), humanize.Comma(int64(p.lockRoom()))))
	}
	return nil
}

// keptReferences warns of replaced schemas whose foreign keys refer to core: they
// do not follow it.
func (p *checker) keptReferences(ctx context.Context, public uint32) error {
	rows, err := p.main.Query(ctx, `
		SELECT n.nspname::text, count(*) FROM pg_catalog.pg_constraint k JOIN pg_catalog.pg_class f ON f.oid = k.confrelid
		JOIN pg_catalog.pg_namespace n ON n.oid = k.connamespace
		WHERE k.contype = 'f' AND k.conparentid = 0 AND f.relnamespace = $1 AND n.oid <> $1 GROUP BY n.nspname ORDER BY n.nspname COLLATE "C"`, public)
	if err != nil {
		return fmt.Errorf("list foreign keys: %w", err)
	}
	var kept []string
	var name string
	var keys int
	_, err = pgx.ForEachRow(rows, []any{&name, &keys}, func() error {
		if pg.IsOwn(name) {
			kept = append(kept, fmt.Sprintf("%s (%s)", pg.Identifier(name), english.Plural(keys, "foreign key", "")))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("list foreign keys: %w", err)
	}
	if len(kept) > 0 {
		p.plan.Warnings = append(p.plan.Warnings, fmt.Sprintf(
			"schemas that earlier restores left refer to core as it is now, and can go back only as long as their rows find their parents in it: %s; tenantkeep cleanup drops them", some(kept)))
	}
	return nil
}

// lockRoom is how many locks a swap may take: what the server has, less what
// others need meanwhile.
func (r *run) lockRoom() int { return r.info.LockSlots * 3 / 4 }

// swapLocks are the tenants that take the place of live ones, and how many locks
// they and the exchange of core's rows take.
func (r *run) swapLocks() (tenants []*unit, locks int) {
	locks = r.core.inUse.locks
	for _, u := range r.alive() {
		if u.swaps() {
			tenants = append(tenants, u)
			locks += len(u.live.tables)
		}
	}
	return tenants, locks
}

// replicaSQL keeps triggers, rules and checks of foreign keys from running.
const replicaSQL = "SET LOCAL session_replication_role = replica;\n"

func mayReplicaSQL(info *pg.Info) string {
	super := `SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user`
	if info.ServerVersionNum < 150000 {
		return super
	}
	return `SELECT (` + super + `) OR pg_catalog.has_parameter_privilege('session_replication_role', 'SET')`
}

// differentCore refuses a core whose definitions are not those of the backup.
func differentCore(tenant string, c changes, failed []failure) Finding {
	f := Finding{
		Tenant: tenant,
		Remedy: "make these objects as they were (restore core into another database and compare: pg_dump --schema-only --schema=public), " +
			"then restore again; or copy the rows that are needed from there",
	}
	if len(failed) > 0 {
		var list []string
		for _, s := range failed {
			list = append(list, fmt.Sprintf("%s %s (%v)", strings.ToLower(s.Kind), s.object(), s.err))
		}
		f.Err = failed[0].err
		f.Problem = fmt.Sprintf("core is in use, and definitions of the backup cannot be made in this database to compare them: %s", strings.Join(list, "; "))
		if c.none() {
			return f
		}
		f.Problem += "; "
	}
	f.Problem += "core is in use, and its definitions are not those of the backup, so that it is not enough to exchange rows: " + c.String()
	return f
}

// coreTables plans the exchange: the tables of the file are all those of live
// core, since the definitions are the same.
func (p *checker) coreTables(ctx context.Context, u *unit, c *coreInUse) error {
	live := &PlannedLive{}
	err := p.main.QueryRow(ctx, `
		SELECT count(*) FILTER (WHERE c.relkind IN ('r', 'p', 'f')),
			coalesce(sum(greatest(c.reltuples, pg_catalog.pg_stat_get_live_tuples(c.oid), 0)) FILTER (WHERE c.relkind = 'r'), 0)::int8,
			coalesce(sum(pg_catalog.pg_total_relation_size(c.oid)) FILTER (WHERE c.relkind IN ('r', 'm')), 0)::int8,
			-- the table, its copy, their indexes and TOAST
			coalesce(sum(5 + (SELECT count(*) FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid)) FILTER (WHERE c.relkind IN ('r', 'p')), 0)::int
				+ 2 * count(*) FILTER (WHERE c.relkind = 'S')
		FROM pg_catalog.pg_class c WHERE c.relnamespace = $1 AND `+notMember("pg_class", "c"), c.public).
		Scan(&live.Tables, &live.Rows, &live.Bytes, &live.Locks)
	if err != nil {
		return fmt.Errorf("look at the tables of core: %w", err)
	}
	c.locks = live.Locks
	p.plannedSchema(u).Live = live
	if live.Locks > p.lockRoom() {
		p.find(Finding{
			Tenant: u.entry.Tenant,
			Problem: fmt.Sprintf("exchanging the rows of core takes %s locks at once: the server has room for %s",
				humanize.Comma(int64(live.Locks)), humanize.Comma(int64(p.info.LockSlots))),
			Remedy: "raise max_locks_per_transaction",
		})
	}
	rows, err := p.main.Query(ctx, `
		SELECT c.relname::text || ' (rule ' || w.rulename || ')' FROM pg_catalog.pg_rewrite w JOIN pg_catalog.pg_class c ON c.oid = w.ev_class
		WHERE c.relnamespace = $1 AND c.relkind IN ('r', 'p') AND w.ev_enabled IN ('A', 'R') AND `+notMember("pg_class", "c"), c.public)
	if err != nil {
		return fmt.Errorf("look for rules: %w", err)
	}
	rules, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("look for rules: %w", err)
	}
	if len(rules) > 0 {
		p.find(Finding{
			Tenant:  u.entry.Tenant,
			Problem: "rules would change what is written to tables of core, even by a restore: " + some(rules),
			Remedy:  "ALTER TABLE … ENABLE RULE …, which lets them rest during a restore",
		})
	}
	var left []string
	tables := map[string]bool{}
	for _, s := range u.file.Index.Statements {
		if s.Kind == "TABLE" && u.schemaOf(s) == manifest.CoreSchema {
			tables[s.Tag] = true
		}
	}
	x := u.file.Index
	x.Tables = slices.DeleteFunc(slices.Clone(x.Tables), func(t manifest.Table) bool {
		own := u.tableSchema(&t) == manifest.CoreSchema && tables[t.Name]
		if !own && t.Rows > 0 {
			left = append(left, pg.Identifier(u.tableSchema(&t), t.Name))
		}
		return !own
	})
	if len(left) > 0 {
		u.note("rows of tables that belong to extensions stay as they are: " + strings.Join(left, ", "))
	}
	return nil
}

var setvalForm = regexp.MustCompile(`, (-?[0-9]+), (true|false)\);\n$`)

// sequenceValues reads where the sequences stood.
func (p *checker) sequenceValues(ctx context.Context, u *unit, c *coreInUse) ([]sequenceValue, error) {
	rows, err := p.main.Query(ctx, `SELECT c.relname::text FROM pg_catalog.pg_class c WHERE c.relnamespace = $1 AND c.relkind = 'S' AND `+notMember("pg_class", "c"), c.public)
	if err != nil {
		return nil, fmt.Errorf("list sequences: %w", err)
	}
	own, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("list sequences: %w", err)
	}
	steps, err := u.steps(ctx, func(_ int, s datafile.Statement) bool {
		return u.file.Index.Frames[s.Frame].Kind == datafile.SequenceFrame && u.schemaOf(s) == manifest.CoreSchema && slices.Contains(own, s.Tag)
	})
	if err != nil {
		return nil, err
	}
	var list []sequenceValue
	for _, st := range steps {
		m := setvalForm.FindStringSubmatch(st.sql)
		if m == nil {
			return nil, fmt.Errorf("sequence %s: its statement cannot be read: %s", st.Tag, st.sql)
		}
		list = append(list, sequenceValue{name: st.Tag, last: m[1], called: m[2]})
	}
	return list, nil
}

// missingObjects are the statements of the file for what belongs to the database
// and is not there. What is there stays as it is.
func (p *checker) missingObjects(ctx context.Context, u *unit, existing []databaseObject) ([]step, error) {
	there := map[databaseObject]bool{}
	for _, o := range existing {
		there[o] = true
	}
	rows, err := p.main.Query(ctx, `
		SELECT 'SCHEMA', nspname::text FROM pg_catalog.pg_namespace UNION ALL SELECT 'EXTENSION', extname FROM pg_catalog.pg_extension
		UNION ALL SELECT 'USER MAPPING', 'USER MAPPING ' || usename || ' SERVER ' || srvname FROM pg_catalog.pg_user_mappings`)
	if err != nil {
		return nil, fmt.Errorf("look for objects of the database: %w", err)
	}
	var o databaseObject
	_, err = pgx.ForEachRow(rows, []any{&o.Kind, &o.Tag}, func() error {
		there[o] = true
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for objects of the database: %w", err)
	}
	// What is said of an object comes with a tag of its own form.
	missing := map[string]bool{}
	x := u.file.Index
	for _, s := range x.Statements {
		object := databaseObject{s.Kind, s.Tag}
		switch {
		case !slices.Contains(besidePublic, s.Kind) || s.Kind == kindDefaultACL || isLargeObject(s) || s.Kind == kindLargeObjectData:
			continue
		case there[object] || s.Kind == kindSchema && s.Tag == manifest.CoreSchema:
			continue
		}
		missing[objectTag(s.Kind, s.Tag)] = true
	}
	blobs := map[string]bool{}
	for _, oid := range p.blobs {
		if !there[databaseObject{kindLargeObject, oid}] {
			blobs[oid] = true
		}
	}
	if kept := len(p.blobs) - len(blobs); kept > 0 {
		u.note(english.Plural(kept, "large object", "") + " of the backup exist already and were not touched, whatever they hold")
	}
	beside := besides(x)
	steps, err := u.steps(ctx, func(i int, s datafile.Statement) bool { return beside[i] && !p.skipped(u, s) })
	if err != nil {
		return nil, err
	}
	var kept []step
	tag := ""
	for _, st := range steps {
		switch {
		case aboutLargeObject(st):
			if st.sql = onlyMissing(st, blobs); st.sql == "" {
				continue
			}
		case st.Kind == kindOwner:
			if !missing[tag] {
				continue
			}
		case st.Kind == kindComment, st.Kind == kindSecurityLabel, st.Kind == kindACL:
			if !missing[st.Tag] {
				continue
			}
		case st.Kind == kindDefaultACL, isMembership(st.Statement):
			continue // of an existing schema and existing publications
		default:
			if tag = objectTag(st.Kind, st.Tag); !missing[tag] {
				continue
			}
		}
		st.inPlace = true
		kept = append(kept, st)
	}
	return kept, nil
}

// objectTag is the tag that comments and grants on an object have.
func objectTag(kind, tag string) string {
	switch kind {
	case "CAST", "TRANSFORM", "USER MAPPING":
		return tag
	case "PROCEDURAL LANGUAGE":
		return "LANGUAGE " + tag
	}
	return kind + " " + tag
}

// aboutLargeObject reports whether a step makes large objects, fills one, or says
// something of them.
func aboutLargeObject(st step) bool {
	switch st.Kind {
	case kindOwner:
		return strings.HasPrefix(st.sql, "ALTER "+kindLargeObject+" ")
	case kindComment, kindSecurityLabel, kindACL:
		return strings.HasPrefix(st.Tag, kindLargeObject+" ") || strings.HasPrefix(st.Tag, kindLargeObject+"S ")
	}
	return isLargeObject(st.Statement) || st.Kind == kindLargeObjectData
}

var (
	// command is one of several in a statement. Only names in double quotes have a
	// semicolon or a line break within.
	command = regexp.MustCompile(`(?:[^;"]|"[^"]*")+;\n`)
	// commandObject finds the large object of a command, which comes before all names.
	commandObject = regexp.MustCompile(`^(?:[^"]*? ON |ALTER )LARGE OBJECT ([0-9]+) |^SELECT pg_catalog\.lo_create\('([0-9]+)'\)`)
)

// onlyMissing is what a statement has about missing large objects; what exists is
// not touched. From version 17 on, pg_dump puts those of one owner and the same
// grants together, so that one statement may be about both.
func onlyMissing(st step, missing map[string]bool) string {
	oid := ""
	switch st.Kind {
	case kindLargeObjectData:
		oid = st.Tag
	case kindComment, kindSecurityLabel: // of one, with any text
		oid = strings.TrimPrefix(st.Tag, kindLargeObject+" ")
	default:
		var kept strings.Builder
		found := false
		for _, c := range command.FindAllString(st.sql, -1) {
			if m := commandObject.FindStringSubmatch(c); m != nil {
				if !missing[m[1]+m[2]] {
					continue
				}
				found = true
			}
			kept.WriteString(c)
		}
		if !found {
			return ""
		}
		return kept.String()
	}
	if !missing[oid] {
		return ""
	}
	return st.sql
}

// defineCopies makes the tables that hold the rows of the backup until they are
// exchanged.
func (r *run) defineCopies(ctx context.Context, s *session, u *unit) error {
	c := u.inUse
	text := label{State: stateStaging, Schema: manifest.CoreSchema, Backup: r.Manifest.ID, At: r.Now()}.String()
	if err := s.exec(ctx, "CREATE SCHEMA "+pg.Identifier(c.staging)+";\n"+commentSQL(c.staging, text)); err != nil {
		return fmt.Errorf("make the staging schema of core: %w", err)
	}
	var list []string
	for i := range u.file.Index.Tables {
		t := &u.file.Index.Tables[i]
		list = append(list, fmt.Sprintf("CREATE TABLE %s AS SELECT %s FROM ONLY %s WITH NO DATA;\n",
			pg.Identifier(c.staging, t.Name), columns(t), pg.Identifier(manifest.CoreSchema, t.Name)))
	}
	for _, q := range c.sequences {
		name := pg.Identifier(c.staging, q.name)
		list = append(list, fmt.Sprintf("CREATE SEQUENCE %s MINVALUE -9223372036854775808;\nSELECT pg_catalog.setval(%s, %s, %s);\n",
			name, pg.Literal(name), q.last, q.called))
	}
	for chunk := range slices.Chunk(list, dropAtOnce) {
		if err := s.exec(ctx, strings.Join(chunk, "")); err != nil {
			return fmt.Errorf("make the copies of core's tables: %w", err)
		}
	}
	return nil
}

// waitsForCore reports whether a foreign key is not fulfilled by the rows that
// core has now, and may be by those that it gets.
func (r *run) waitsForCore(f failure) bool {
	return r.core != nil && r.core.inUse != nil && f.unit != r.core && f.Kind == kindForeignKey && pg.Code(f.err) == "23503"
}

// coreIsInUse reports whether the rows of a live core are exchanged.
func (r *run) coreIsInUse() bool { return r.core != nil && r.core.inUse != nil }

// swapCore exchanges the rows of core and swaps the tenants of the same run, in
// one transaction if their locks fit the server's lock table.
func (r *run) swapCore(ctx context.Context) error {
	tenants, locks := r.swapLocks()
	room := r.lockRoom()
	if len(tenants) == 0 || locks <= room {
		return r.swapWithCore(ctx, tenants)
	}
	// One after the other each step must be right by itself: the rows of core
	// must be enough for the tenants before and after.
	e := &TogetherError{Tenants: len(tenants), Locks: locks, Room: room}
	if len(r.core.inUse.keys) > 0 {
		return e
	}
	for _, with := range [][]*unit{nil, tenants} { // the tenants as they are, and as they will be
		if err := r.coreOrphans(ctx, with); err != nil {
			e.Err = err
			return e
		}
	}
	r.Progress.Note(slog.LevelWarn, "", fmt.Sprintf("%s and core do not fit the server's lock table together: the tenants are swapped first, core after them",
		english.Plural(len(tenants), "tenant", "")))
	if err := r.swapTenants(ctx); err != nil {
		return err
	}
	return r.swapWithCore(ctx, nil)
}

// swapWithCore exchanges the rows of core together with tenants.
func (r *run) swapWithCore(ctx context.Context, tenants []*unit) error {
	s := &session{run: r, conn: r.main}
	if err := s.set(ctx); err != nil {
		return err
	}
	loaded, err := readArrival(ctx, r.main)
	if err != nil {
		return err
	}
	names := []string{manifest.CoreSchema}
	for _, u := range tenants {
		names = append(names, u.target)
		if len(u.problems) > 0 && !r.Incomplete {
			return &IncompleteError{Schema: u.target, Problems: u.problems}
		}
		if err := r.judge(ctx, u); err != nil {
			return err
		}
	}
	if err := r.coreOrphans(ctx, tenants); err != nil {
		return err
	}
	point, err := r.savePoint(ctx, names)
	if err != nil {
		return err
	}
	list, err := r.exchangesWithCore(ctx, tenants, loaded, point)
	var blocked time.Duration
	if err == nil {
		// Tenants are locked before core: so do those who write rows that refer to it.
		blocked, err = swap(ctx, r.Server, r.main, slices.Concat(list[1:], list[:1]), r.SwapTimeout, func(text string) { r.Progress.Note(slog.LevelWarn, "", text) })
	}
	r.settle(ctx, point, err)
	if err != nil {
		return err
	}
	for i, u := range append([]*unit{r.core}, tenants...) {
		u.replaced, u.point, u.blocked, u.finished = list[i].replaced, point, blocked, true
		r.placeMedia(u)
	}
	for _, u := range tenants {
		if err := r.memberships(ctx, u); err != nil {
			u.note(err.Error())
		}
	}
	if err := r.afterCore(ctx, list[0].rows.changed()); err != nil {
		r.core.problem(Problem{Kind: "DATABASE", Object: "what follows the rows of core", Err: err})
	}
	return nil
}

// exchangesWithCore are those of core, the first, and of tenants.
func (r *run) exchangesWithCore(ctx context.Context, tenants []*unit, loaded arrival, point string) ([]*exchange, error) {
	at := r.Now()
	list := []*exchange{{live: live{oid: r.core.inUse.public, name: manifest.CoreSchema}, rows: r.core.inUse.swap(tenants)}}
	for _, u := range tenants {
		list = append(list, &exchange{live: *u.live, incoming: u.mask.staging, comment: u.ownComment(u.target, ""), loaded: loaded})
	}
	for _, x := range list {
		var err error
		if x.replaced, err = freeName(ctx, r.main, x.live.name, "replaced", at); err != nil {
			return nil, err
		}
		x.label = label{State: stateReplaced, Schema: x.live.name, Backup: r.Manifest.ID, Point: point, At: at}
	}
	for i, u := range tenants {
		var err error
		if list[i+1].label.Media, err = r.aim(u); err != nil {
			return nil, err
		}
	}
	list[0].rows.replaced, list[0].rows.label = list[0].replaced, list[0].label
	return list, nil
}

// TogetherError says that core and tenants have to be restored in one
// transaction, for which the server has no room.
type TogetherError struct {
	Tenants     int
	Locks, Room int
	Err         error // why they cannot be restored one after the other; nil: restored tenants need rows that core has not yet
}

// Error says why.
func (e *TogetherError) Error() string {
	text := fmt.Sprintf("core and %s must be swapped at once, which takes %s locks: the server has room for %s",
		english.Plural(e.Tenants, "tenant", ""), humanize.Comma(int64(e.Locks)), humanize.Comma(int64(e.Room)))
	if e.Err != nil {
		return text + "; " + e.Err.Error()
	}
	return text + "; rows of the restored tenants refer to rows that core gets with the restore"
}

// Unwrap returns the error behind it.
func (e *TogetherError) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *TogetherError) Hint() string {
	return fmt.Sprintf("raise max_locks_per_transaction by a factor of %d and restart the server, or restore into an empty database", e.Locks/max(e.Room, 1)+1)
}

// afterCore makes what belongs to the database and was missing, fills
// materialized views again, and analyzes the tables that changed. Core is
// restored whatever becomes of it.
func (r *run) afterCore(ctx context.Context, changed []string) error {
	u := r.core
	if err := r.createMissing(ctx, u, u.inUse.missing); err != nil {
		return err
	}
	s := &session{run: r, conn: r.main}
	for _, problem := range refreshViews(ctx, s, u.inUse.public) {
		u.problem(problem)
	}
	if len(changed) == 0 {
		return nil
	}
	if err := s.exec(ctx, "ANALYZE "+strings.Join(changed, ", ")); err != nil {
		if s.broken(ctx, err) {
			return fmt.Errorf("analyze: %w", err)
		}
		u.note(fmt.Sprintf("tables were not analyzed; autovacuum is going to: %v", err))
	}
	return nil
}

// createMissing runs the statements, those of large objects in one transaction:
// one that is there in part would be taken for whole by the next restore.
func (r *run) createMissing(ctx context.Context, u *unit, steps []step) error {
	s := &session{run: r, conn: r.main}
	if err := errors.Join(s.set(ctx), s.use(ctx, u)); err != nil {
		return err
	}
	var large, others []step
	for _, st := range steps {
		if aboutLargeObject(st) {
			large = append(large, st)
		} else {
			others = append(others, st)
		}
	}
	failed, err := s.execAll(ctx, others)
	if err != nil {
		return err
	}
	for _, f := range failed {
		f.unit.problem(Problem{Kind: f.Kind, Object: f.object(), Err: f.err, Remedy: remedy(f.Kind, f.err), SQL: f.sql})
	}
	if len(large) == 0 {
		return nil
	}
	exec := func(sql string) error {
		_, err := s.conn.PgConn().Exec(ctx, sql).ReadAll()
		return err
	}
	err = exec("BEGIN")
	for _, st := range large {
		if err == nil {
			err = exec(st.sql)
		}
	}
	if err == nil {
		return exec("COMMIT")
	}
	if s.broken(ctx, err) {
		return fmt.Errorf("make large objects: %w", err)
	}
	large[0].unit.problem(Problem{Kind: kindLargeObject, Object: "of the backup that are missing", Err: err, Remedy: "mend the cause and restore core again"})
	return exec("ROLLBACK")
}

// refreshViews fills the materialized views of core again that have been filled.
func refreshViews(ctx context.Context, s *session, public uint32) (problems []Problem) {
	rows, err := s.conn.Query(ctx, `
		WITH RECURSIVE v (oid, depth) AS (
			SELECT c.oid, 0 FROM pg_catalog.pg_class c WHERE c.relnamespace = $1 AND c.relkind = 'm' AND c.relispopulated AND `+notMember("pg_class", "c")+`
			UNION
			SELECT c.oid, v.depth + 1 FROM v JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = v.oid
				AND d.classid = 'pg_catalog.pg_rewrite'::regclass
			JOIN pg_catalog.pg_rewrite w ON w.oid = d.objid
			JOIN pg_catalog.pg_class c ON c.oid = w.ev_class AND c.oid <> v.oid AND c.relkind IN ('m', 'v') WHERE v.depth < 100)
		SELECT c.oid::regclass::text FROM v JOIN pg_catalog.pg_class c ON c.oid = v.oid
		WHERE c.relkind = 'm' AND c.relnamespace = $1 AND c.relispopulated GROUP BY c.oid ORDER BY max(v.depth), c.oid`, public)
	if err != nil {
		return []Problem{{Kind: "MATERIALIZED VIEW", Object: "of core", Err: err}}
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return []Problem{{Kind: "MATERIALIZED VIEW", Object: "of core", Err: err}}
	}
	for _, name := range names {
		sql := "REFRESH MATERIALIZED VIEW " + name + ";\n"
		if err := s.exec(ctx, sql); err != nil {
			problems = append(problems, Problem{
				Kind: "MATERIALIZED VIEW", Object: name, Err: err, SQL: sql,
				Remedy: "it shows the rows from before the exchange: refresh it by hand",
			})
		}
	}
	return problems
}
