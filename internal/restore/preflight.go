package restore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/plainsql"
	"github.com/tenantkeep/tenantkeep/internal/registry"
	"github.com/tenantkeep/tenantkeep/internal/repo"
)

// Plan is what a restore is going to do: source and target side by side.
type Plan struct {
	Backup  string            // its id
	Type    manifest.Type     //
	Taken   time.Time         // the moment that the backup shows
	Source  manifest.Database // where it was taken
	Server  string            // user, host and database of the target
	Target  pg.Info
	Schemas []Planned // core first
	Tables  int64
	Rows    int64
	Bytes   int64 // of COPY text
	Stored  int64 // in the repository
	// Expected is about how long it takes, as far as the time that the backup
	// took tells. Zero: not known.
	Expected time.Duration
	// Makes are the schemas that it makes or fills, besides public others of core,
	// such as those of extensions.
	Makes    []string
	Remains  []string
	Warnings []string
	// Script is what the script holds that is to be restored. Nil: it is no
	// script.
	Script *plainsql.Summary
}

// Planned is one schema of a plan.
type Planned struct {
	Schema, Tenant string
	As             string // the name that it gets
	Tables, Rows   int64
	Bytes, Stored  int64
	Target         string // what is in its place now
	// Live is what is in its place now and will be replaced. Nil: nothing.
	Live *PlannedLive
	// References are what points into the live schema from elsewhere and will
	// point at the restored one.
	References []PlannedReference
	// Media is what happens to its files. Nil: nothing.
	Media *PlannedMedia
	// Access is how owners, grants, policies and comments of the backup differ
	// from those of the live schema, where Options ask for it.
	Access []AccessChange
	// Registration is what becomes of the rows elsewhere that register the tenant.
	// Nil: nobody looks at them.
	Registration *registry.Report
}

// PlannedLive is a schema that is going to be replaced.
type PlannedLive struct {
	Tables int64
	Rows   int64 // about, from statistics
	Bytes  int64 // on disk, with indexes
	Locks  int   // that the swap takes

	oid uint32
}

// PlannedReference is an object of another schema.
type PlannedReference struct {
	Kind, Schema, Object string
	Into                 []string
	Remedy               string // not empty: it is in the way
}

// TargetFree says that nothing is in a schema's place.
const TargetFree = "free"

// preflight checks files and target, and fills in the plan.
func (r *run) preflight(ctx context.Context) error {
	info, err := pg.ReadInfo(ctx, r.main)
	if err != nil {
		return err
	}
	r.info = info
	if r.Media, err = bindMedia(ctx, r.main, r.Media); err != nil {
		return err
	}
	if len(r.Tables) > 0 && (r.As == "" || r.named) && len(r.units) == 1 {
		r.named = true
		if r.As, err = freeName(ctx, r.main, r.units[0].entry.Schema, "recovered", r.Now()); err != nil {
			return err
		}
	}
	r.makePlan()
	p := &checker{run: r, pieces: repo.NewChecker(r.Jobs)}
	if err := p.files(ctx); err != nil {
		return err
	}
	for _, u := range p.readable() {
		if u.core {
			r.plan.Makes = append(r.plan.Makes, manifest.CoreSchema)
		}
		r.plan.Makes = append(r.plan.Makes, u.schemas...)
	}
	if err := p.renamed(); err != nil {
		return err
	}
	for _, check := range []func(context.Context) error{p.server, p.roles, p.extensions, p.tablespaces, p.schemas, p.core, p.required, p.media, p.registrations} {
		if err := check(ctx); err != nil {
			return err
		}
	}
	r.joinPeers()
	for _, check := range []func(context.Context) error{p.rehearse, p.sight, p.pointReady} {
		if err := check(ctx); err != nil {
			return err
		}
	}
	for _, m := range r.remains {
		r.plan.Remains = append(r.plan.Remains, m.schema)
	}
	r.warn()
	if len(p.findings) > 0 {
		return &PreflightError{Findings: p.findings}
	}
	return nil
}

// warn tells the warnings of the plan, once.
func (r *run) warn() {
	for _, w := range r.plan.Warnings {
		if !r.asked {
			r.Progress.Note(slog.LevelWarn, "", w)
		}
	}
}

func (r *run) makePlan() {
	m := r.Manifest
	r.plan = &Plan{Backup: m.ID, Type: m.BackupType, Taken: m.Timestamp.Time, Server: r.Server.String(), Target: *r.info}
	if m.Database != nil {
		r.plan.Source = *m.Database
	}
	for _, u := range r.units {
		e := u.entry
		r.plan.Schemas = append(r.plan.Schemas, Planned{
			Schema: e.Schema, Tenant: e.Tenant, As: u.newName(r.As), Tables: e.Tables, Rows: e.Rows, Bytes: e.Bytes, Stored: e.Size, Target: TargetFree,
		})
		r.plan.Tables += e.Tables
		r.plan.Rows += e.Rows
		r.plan.Bytes += e.Bytes
		r.plan.Stored += e.Size
	}
	r.plan.Expected = expected(m, r.plan.Bytes)
	if len(r.Schemas) > 0 {
		return
	}
	for _, f := range m.Failures {
		r.plan.Warnings = append(r.plan.Warnings, fmt.Sprintf("tenant %s is not in this backup: saving it failed: %s", f.Tenant, f.Error))
	}
}

// restoreFactor is how much longer a restore takes than the backup of as much
// text: rows are parsed, indexed and read again.
const restoreFactor = 3

// expected is about how long a restore of so much text takes, from what the
// whole backup took.
func expected(m *manifest.Manifest, bytes int64) time.Duration {
	var all int64
	for _, e := range m.Schemas {
		all += e.Bytes
	}
	took := m.Finished.Sub(m.Timestamp.Time)
	if all == 0 || took <= 0 {
		return 0
	}
	return time.Duration(restoreFactor * float64(took) * float64(bytes) / float64(all))
}

// checker collects findings.
type checker struct {
	*run
	pieces   *repo.Checker // of data files
	mu       sync.Mutex
	findings []Finding
}

func (p *checker) find(f Finding) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.findings = append(p.findings, f)
}

// files checks the data files of all units and reads their indexes.
func (p *checker) files(ctx context.Context) error {
	if p.checked == nil {
		p.Progress.Start("verify", len(p.units), p.plan.Stored)
		defer p.Progress.Finish()
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(p.Jobs)
	for _, u := range p.units {
		group.Go(func() error {
			err := p.file(ctx, u)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err != nil {
				p.find(Finding{Tenant: u.entry.Tenant, Problem: err.Error(), Remedy: "restore this tenant from another backup", Err: err})
			}
			if p.checked == nil {
				p.Progress.TenantDone(u.entry.Tenant, err)
			}
			return nil
		})
	}
	err := group.Wait()
	slices.SortFunc(p.findings, func(a, b Finding) int { return strings.Compare(a.Tenant, b.Tenant) })
	return err
}

func (p *checker) file(ctx context.Context, u *unit) error {
	i := slices.IndexFunc(p.checked, func(c *unit) bool { return c.entry.Schema == u.entry.Schema && c.file != nil })
	if i >= 0 {
		u.data, u.file = p.checked[i].data, p.checked[i].file
		return p.readDefinitions(ctx, u)
	}
	if err := u.data.acquire(ctx); err != nil {
		return err
	}
	defer u.data.release()
	count := func(n int64) { p.Progress.Add(n, 0) }
	if err := p.pieces.Index(ctx, u.data.object, p.Manifest, u.entry, count); err != nil {
		return err
	}
	f, err := datafile.Open(u.data, u.entry.Size)
	if err != nil {
		return fmt.Errorf("data file %s: %w", u.entry.Filename, err)
	}
	if err := CheckIndex(f.Index, u.entry); err != nil {
		return fmt.Errorf("data file %s: %w", u.entry.Filename, err)
	}
	if err := p.pieces.Own(ctx, f, p.Manifest, u.entry, count); err != nil {
		return err
	}
	if err := u.data.refer(ctx, f); err != nil {
		return err
	}
	if err := p.pieces.Referred(ctx, f); err != nil {
		return err
	}
	if err := f.ReadStatements(); err != nil {
		return fmt.Errorf("data file %s: %w", u.entry.Filename, err)
	}
	u.file = f
	return p.readDefinitions(ctx, u)
}

// CheckIndex compares an index with what a manifest says of its file.
func CheckIndex(x *datafile.Index, e manifest.Schema) error {
	var rows int64
	for i := range x.Tables {
		rows += x.Tables[i].Rows
	}
	h := x.Header
	switch {
	case h.Schema != e.Schema:
		return fmt.Errorf("it holds schema %q, the manifest says %q", h.Schema, e.Schema)
	case h.Backup != e.Timestamp:
		return fmt.Errorf("it was written by backup %s, the manifest says %s", h.Backup, e.Timestamp)
	case rows != e.Rows:
		return fmt.Errorf("it holds %d rows, the manifest says %d", rows, e.Rows)
	case int64(len(x.Tables)) != e.Tables:
		return fmt.Errorf("it holds %d tables, the manifest says %d", len(x.Tables), e.Tables)
	}
	return nil
}

var largeObject = regexp.MustCompile(`lo_create\('([0-9]+)'\)`)

// readDefinitions finds the statements that make schemas and give them their
// comments, and the large objects.
func (p *checker) readDefinitions(ctx context.Context, u *unit) error {
	steps, err := u.steps(ctx, func(_ int, s datafile.Statement) bool {
		return s.Kind == kindSchema || isSchemaComment(s) || isLargeObject(s)
	})
	if err != nil {
		return err
	}
	for _, s := range steps {
		switch {
		case s.Kind == kindSchema:
			u.schemas = append(u.schemas, s.Tag)
		case isSchemaComment(s.Statement):
			u.comments[u.schemaOf(s.Statement)] = s.sql
		default:
			for _, m := range largeObject.FindAllStringSubmatch(s.sql, -1) {
				p.addBlob(m[1])
			}
		}
	}
	if !u.core && !slices.Contains(u.schemas, u.entry.Schema) {
		return errors.New("it has no statement that makes its schema")
	}
	return nil
}

func isLargeObject(s datafile.Statement) bool {
	return s.Kind == "BLOB" || s.Kind == "BLOB METADATA" || s.Kind == "BLOBS"
}

func (p *checker) addBlob(oid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.blobs = append(p.blobs, oid)
}

// readable are the units whose files are good.
func (p *checker) readable() []*unit {
	return slices.DeleteFunc(slices.Clone(p.units), func(u *unit) bool { return u.file == nil })
}

// server checks version, encoding and rights.
func (p *checker) server(ctx context.Context) error {
	source := p.plan.Source
	if have, want := p.info.ServerVersionNum/10000, source.ServerVersionNum/10000; have < want {
		p.find(Finding{
			Problem: fmt.Sprintf("the server is PostgreSQL %s, older than PostgreSQL %s, from which the backup is", p.info.ServerVersion, source.ServerVersion),
			Remedy:  fmt.Sprintf("restore into PostgreSQL %d or later", want),
		})
	}
	if p.info.ReadOnly {
		p.find(Finding{Problem: "the server is a standby, which only reads", Remedy: "connect to the primary server"})
	}
	if have, want := p.info.Encoding, source.Encoding; want != "" && have != want && (have != "UTF8" || want == "SQL_ASCII") {
		p.find(Finding{
			Problem: fmt.Sprintf("the encoding of database %q is %s, that of the backup is %s", p.info.Name, have, want),
			Remedy:  fmt.Sprintf("create a database with: CREATE DATABASE … ENCODING '%s' TEMPLATE template0", want),
		})
	}
	var create, readOnly bool
	err := p.main.QueryRow(ctx, `SELECT pg_catalog.has_database_privilege(current_database(), 'CREATE'), current_setting('default_transaction_read_only')::bool`).
		Scan(&create, &readOnly)
	if err != nil {
		return fmt.Errorf("read the rights of the role: %w", err)
	}
	if !create {
		p.find(Finding{
			Problem: fmt.Sprintf("role %q may not create schemas in database %q", p.info.User, p.info.Name),
			Remedy:  fmt.Sprintf("GRANT CREATE ON DATABASE %s TO %s", pg.Identifier(p.info.Name), pg.Identifier(p.info.User)),
		})
	}
	if readOnly {
		p.find(Finding{Problem: "transactions of this role in this database are read-only", Remedy: "connect as a role without default_transaction_read_only"})
	}
	return nil
}

// roles checks that all roles are there that statements name, and that the
// restoring role may give objects to their owners.
func (p *checker) roles(ctx context.Context) error {
	type need struct {
		owner bool
		units []string
	}
	needs := map[string]*need{}
	for _, u := range p.readable() {
		names, err := p.rolesOf(ctx, u)
		if err != nil {
			return err
		}
		for name, owner := range names {
			n := needs[name]
			if n == nil {
				n = &need{}
				needs[name] = n
			}
			n.owner = n.owner || owner
			n.units = append(n.units, u.entry.Tenant)
		}
	}
	right, options := "MEMBER", ""
	if p.info.ServerVersionNum >= 160000 { // membership without SET is no right to give objects away
		right, options = "SET", " WITH INHERIT TRUE, SET TRUE"
	}
	// Without USAGE the role could do nothing more to what it has given away.
	rows, err := p.main.Query(ctx, `
		SELECT rolname::text, pg_catalog.pg_has_role(oid, $2) AND pg_catalog.pg_has_role(oid, 'USAGE'), rolsuper
		FROM pg_catalog.pg_roles WHERE rolname = ANY($1)`, slices.Collect(maps.Keys(needs)), right)
	if err != nil {
		return fmt.Errorf("read roles: %w", err)
	}
	member, superuser := map[string]bool{}, map[string]bool{}
	var name string
	var is, super bool
	_, err = pgx.ForEachRow(rows, []any{&name, &is, &super}, func() error {
		member[name], superuser[name] = is, super
		return nil
	})
	if err != nil {
		return fmt.Errorf("read roles: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(needs)) {
		n := needs[name]
		is, exists := member[name]
		switch {
		case !exists:
			p.find(Finding{
				Problem: fmt.Sprintf("role %q does not exist, which is needed by %s", name, some(n.units)),
				Remedy:  fmt.Sprintf("CREATE ROLE %s, or use --no-owner and --no-privileges to do without the roles of the backup", pg.Identifier(name)),
			})
		case n.owner && !is && superuser[name]:
			p.find(Finding{
				Problem: fmt.Sprintf("role %q may not give objects to %q, who owned them and is a superuser", p.info.User, name),
				Remedy:  "use --no-owner, or restore as a superuser",
			})
		case n.owner && !is:
			p.find(Finding{
				Problem: fmt.Sprintf("role %q may not give objects to %q, who owned them: it is no member of that role, or does not inherit from it", p.info.User, name),
				Remedy:  fmt.Sprintf("GRANT %s TO %s%s, or use --no-owner", pg.Identifier(name), pg.Identifier(p.info.User), options),
			})
		}
	}
	return nil
}

// rolesOf returns the roles that the statements of a unit need; the value says
// whether one becomes an owner.
func (p *checker) rolesOf(ctx context.Context, u *unit) (map[string]bool, error) {
	names := map[string]bool{}
	if !p.NoOwner {
		for _, s := range u.file.Index.Statements {
			if s.Kind == kindOwner && s.Role != "" {
				names[s.Role] = true
			}
		}
	}
	required := u.file.Index.Header.Requires.Roles
	if !p.NoOwner && !p.NoPrivileges {
		for _, name := range required {
			if !names[name] {
				names[name] = false // a grantee, or a role of a policy
			}
		}
		return names, nil
	}
	// The index does not tell what a role is needed for: look whether a
	// statement that is left names it. Its name may be another word by chance,
	// which asks for a role too many.
	steps, err := u.steps(ctx, func(_ int, s datafile.Statement) bool {
		switch s.Kind {
		case kindACL, kindDefaultACL, "POLICY", "USER MAPPING":
			return !p.skipped(u, s)
		}
		return false
	})
	if err != nil {
		return nil, err
	}
	for _, name := range required {
		if names[name] {
			continue
		}
		quoted := strings.ReplaceAll(name, `"`, `""`)
		if slices.ContainsFunc(steps, func(s step) bool {
			return strings.Contains(s.sql, quoted) || s.Kind == "USER MAPPING" && strings.Contains(s.Tag, name)
		}) {
			names[name] = false
		}
	}
	return names, nil
}

// some lists a few names.
func some(names []string) string {
	const enough = 3
	if len(names) <= enough {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:enough], ", "), len(names)-enough)
}

// extensions checks that those that the backup needs are installed, or can be
// by a file of this restore.
func (p *checker) extensions(ctx context.Context) error {
	installed, err := pg.ListExtensions(ctx, p.main)
	if err != nil {
		return err
	}
	have := map[string]pg.Extension{"plpgsql": {Name: "plpgsql"}}
	p.installed = map[string]bool{}
	for _, x := range installed {
		have[x.Name] = x
		p.installed[x.Name] = true
	}
	rows, err := p.main.Query(ctx, `
		SELECT v.name, bool_or(NOT v.superuser OR v.trusted) OR (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
		FROM pg_catalog.pg_available_extension_versions v GROUP BY v.name`)
	if err != nil {
		return fmt.Errorf("list available extensions: %w", err)
	}
	available := map[string]bool{} // whether the role may create it
	var name string
	var may bool
	if _, err := pgx.ForEachRow(rows, []any{&name, &may}, func() error { available[name] = may; return nil }); err != nil {
		return fmt.Errorf("list available extensions: %w", err)
	}

	needed := map[string]datafile.Extension{}
	for _, u := range p.readable() {
		for _, x := range u.file.Index.Header.Requires.Extensions {
			x.Created = x.Created || needed[x.Name].Created
			needed[x.Name] = x
		}
	}
	for _, name := range slices.Sorted(maps.Keys(needed)) {
		x := needed[name]
		mine, is := have[name]
		may, can := available[name]
		switch {
		case is && name == "plpgsql":
		case is && mine.Schema != x.Schema:
			p.find(Finding{
				Problem: fmt.Sprintf("extension %q is installed in schema %q, the backup needs it in %q", name, mine.Schema, x.Schema),
				Remedy:  fmt.Sprintf("ALTER EXTENSION %s SET SCHEMA %s", pg.Identifier(name), pg.Identifier(x.Schema)),
			})
		case is:
		case !can:
			p.find(Finding{
				Problem: fmt.Sprintf("extension %q (version %s in the backup) is not available on the server", name, x.Version),
				Remedy:  fmt.Sprintf("install the package of the server's system that brings %s", name),
			})
		case !x.Created:
			p.find(Finding{
				Problem: fmt.Sprintf("extension %q is not installed in database %q", name, p.info.Name),
				Remedy:  fmt.Sprintf("CREATE EXTENSION %s WITH SCHEMA %s, or restore core too", pg.Identifier(name), pg.Identifier(x.Schema)),
			})
		case !may:
			p.find(Finding{
				Problem: fmt.Sprintf("role %q may not create extension %q, for which it must be a superuser", p.info.User, name),
				Remedy:  fmt.Sprintf("let a superuser run CREATE EXTENSION %s WITH SCHEMA %s first", pg.Identifier(name), pg.Identifier(x.Schema)),
			})
		}
	}
	return nil
}

// tablespaces checks that all are there.
func (p *checker) tablespaces(ctx context.Context) error {
	needed := map[string]bool{}
	for _, u := range p.readable() {
		for _, name := range u.file.Index.Header.Requires.Tablespaces {
			needed[name] = true
		}
	}
	if len(needed) == 0 {
		return nil
	}
	rows, err := p.main.Query(ctx, `SELECT spcname::text FROM pg_catalog.pg_tablespace`)
	if err != nil {
		return fmt.Errorf("list tablespaces: %w", err)
	}
	have, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("list tablespaces: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(needed)) {
		if !slices.Contains(have, name) {
			p.find(Finding{
				Problem: fmt.Sprintf("tablespace %q does not exist", name),
				Remedy:  fmt.Sprintf("CREATE TABLESPACE %s LOCATION '…'", pg.Identifier(name)),
			})
		}
	}
	return nil
}

// existing is a schema that is in the place of another.
type existing struct {
	OID     uint32
	Name    string
	Comment string
	Tables  int64
	Rows    int64 // about
	Bytes   int64
	Owned   bool // the role may rename it
}

// schemas checks that the places of all schemas are free, but for what a dead
// restore left, or for what is to be replaced.
func (p *checker) schemas(ctx context.Context) error {
	owner := map[string]*unit{}
	var names []string
	for _, u := range p.readable() {
		for _, name := range u.schemas {
			owner[name] = u
			names = append(names, name)
		}
		if p.As != "" {
			names = append(names, p.As)
			if err := p.mask(ctx, u, p.As); err != nil {
				return err
			}
		}
	}
	list, err := existingSchemas(ctx, p.main, names)
	if err != nil {
		return err
	}
	for _, s := range list {
		if err := p.occupied(ctx, s, owner[s.Name]); err != nil {
			return err
		}
	}
	if p.Over && !slices.ContainsFunc(list, func(s existing) bool { return s.Name == p.As }) {
		p.find(Finding{
			Tenant:  p.As,
			Problem: fmt.Sprintf("schema %q does not exist in database %q", p.As, p.info.Name),
			Remedy:  "make a new tenant with --as",
		})
	}
	return p.ownSchemas(ctx)
}

// existingSchemas looks for schemas of these names.
func existingSchemas(ctx context.Context, q pg.Querier, names []string) ([]existing, error) {
	list, err := readSchemas(ctx, q, names, "pg_catalog.pg_total_relation_size(c.oid)")
	if pg.Code(err) == pg.LockNotAvailable { // somebody alters a table
		return readSchemas(ctx, q, names, "c.relpages * current_setting('block_size')::int8")
	}
	return list, err
}

// readSchemas is existingSchemas with an expression for the size of a table.
func readSchemas(ctx context.Context, q pg.Querier, names []string, size string) ([]existing, error) {
	rows, err := q.Query(ctx, `
		SELECT n.oid, n.nspname, coalesce(pg_catalog.obj_description(n.oid, 'pg_namespace'), ''), coalesce(r.tables, 0),
			coalesce(r.rows, 0)::int8, coalesce(r.bytes, 0)::int8, pg_catalog.pg_has_role(n.nspowner, 'USAGE')
		FROM pg_catalog.pg_namespace n LEFT JOIN LATERAL (
			SELECT count(*) FILTER (WHERE c.relkind IN ('r', 'p', 'f')) AS tables,
				sum(greatest(c.reltuples, pg_catalog.pg_stat_get_live_tuples(c.oid), 0)) FILTER (WHERE c.relkind = 'r') AS rows,
				sum(`+size+`) FILTER (WHERE c.relkind IN ('r', 'm')) AS bytes
			FROM pg_catalog.pg_class c WHERE c.relnamespace = n.oid) r ON true
		WHERE n.nspname = ANY($1) ORDER BY n.nspname COLLATE "C"`, names)
	if err != nil {
		return nil, fmt.Errorf("look for the schemas: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[existing])
	if err != nil {
		return nil, fmt.Errorf("look for the schemas: %w", err)
	}
	return list, nil
}

// occupied decides what it means that a schema has the name of one that a unit
// makes, or of its new name, for which there is no unit.
func (p *checker) occupied(ctx context.Context, s existing, u *unit) error {
	if p.As != "" && s.Name != p.As {
		u.mask.live = true // it only has to get out of the way of the statements
		return nil
	}
	if p.As != "" {
		u = p.units[0]
	}
	// A mark says that nobody could use the schema yet, but a comment stays when
	// somebody does, or copies it: where the schema can be replaced and kept, it is.
	if backup, ok := pg.Unfinished(s.Comment); ok && (!p.Replace || p.run.core != nil) {
		p.remains = append(p.remains, remainder{oid: s.OID, schema: s.Name, backup: backup})
		p.planned(u, fmt.Sprintf("remains of a restore of %s that died", backup))
		return nil
	}
	if u.core && p.Replace { // core in use
		u.present[s.Name] = true
		return nil
	}
	if p.As == "" && s.Name != u.entry.Schema {
		foreign, err := p.objectsIn(ctx, s.OID)
		if err != nil {
			return err
		}
		if len(foreign) == 0 { // made by hand for extensions
			u.present[s.Name] = true
			return nil
		}
	}
	p.planned(u, fmt.Sprintf("exists: %s, %s", english.Plural(int(s.Tables), "table", ""), humanize.Bytes(uint64(s.Bytes))))
	if (p.As == "" || p.Over) && p.Replace {
		return p.replaces(ctx, s, u)
	}
	remedy := fmt.Sprintf("rename it (ALTER SCHEMA %s RENAME TO …) or drop it, or restore into another database", pg.Identifier(s.Name))
	if p.As != "" {
		remedy = "give another name with --as"
	}
	p.find(Finding{
		Tenant:  u.entry.Tenant,
		Problem: fmt.Sprintf("schema %q exists already in database %q: restore refuses to replace it", s.Name, p.info.Name),
		Remedy:  remedy,
	})
	return nil
}

// mask makes the unit's statements make a staging schema, which will be named
// target at the end.
func (p *checker) mask(ctx context.Context, u *unit, target string) error {
	at := p.Now()
	staging, err := freeName(ctx, p.main, target, "staging", at)
	if err != nil {
		return err
	}
	hidden, err := freeName(ctx, p.main, target, "hidden", at)
	if err != nil {
		return err
	}
	u.target = target
	u.mask = &mask{name: u.entry.Schema, staging: staging, hidden: hidden}
	return nil
}

// ownSchemas finds the stagings that are of no use any more, since nobody else
// restores now, or the one that is to be resumed.
func (p *checker) ownSchemas(ctx context.Context) error {
	list, err := listLabelled(ctx, p.main)
	if err != nil {
		return err
	}
	for _, u := range p.readable() {
		if p.Resume && u.mask == nil && !u.core {
			p.find(Finding{
				Tenant:  u.entry.Tenant,
				Problem: fmt.Sprintf("there is no live schema %q any more, whose place the staging could take", u.entry.Schema),
				Remedy:  "restore without --resume",
			})
		}
		if !p.Resume || u.mask == nil {
			continue
		}
		i := len(list) - 1 // the newest comes last
		for i >= 0 && (list[i].State != stateStaged || list[i].Schema != u.target || list[i].Backup != p.Manifest.ID) {
			i--
		}
		if i < 0 {
			p.find(Finding{
				Tenant:  u.entry.Tenant,
				Problem: fmt.Sprintf("there is no staging of %q from backup %s that waits for its swap", u.target, p.Manifest.ID),
				Remedy:  "restore without --resume",
			})
			continue
		}
		u.mask.staging, u.mask.made = list[i].name, true
		u.resumed = true
		u.lacks = list[i].Lacks
		if err := p.resumeMedia(u, list[i].Media); err != nil {
			p.find(Finding{
				Tenant: u.entry.Tenant, Problem: fmt.Sprintf("the files of the tenant wait with its schema: %v", err), Err: err,
				Remedy: "give --include-media and --media-root as for the restore",
			})
		}
		u.loaded = list[i].arrival()
		list = slices.Delete(list, i, i+1)
	}
	targets := map[string]bool{}
	for _, u := range p.units {
		targets[u.target] = true
	}
	for _, l := range list {
		if p.New && !targets[l.Schema] {
			continue // somebody may be making it now
		}
		if l.State == stateStaging || l.State == stateStaged && targets[l.Schema] {
			p.remains = append(p.remains, remainder{oid: l.oid, schema: l.name, backup: l.Backup})
		}
	}
	return nil
}

// planned notes what is in the place of a unit's schema.
func (p *checker) planned(u *unit, target string) { p.plannedSchema(u).Target = target }

func (p *checker) plannedSchema(u *unit) *Planned { return &p.plan.Schemas[slices.Index(p.units, u)] }

// objectsIn describes the first objects of a schema that belong to no
// extension. Default privileges and publications are not in a schema, though
// they depend on it.
func (r *run) objectsIn(ctx context.Context, schema uint32) ([]string, error) {
	rows, err := r.main.Query(ctx, `
		SELECT pg_catalog.pg_describe_object(d.classid, d.objid, 0) FROM pg_catalog.pg_depend d
		WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = $1 AND d.classid NOT IN (`+besideSchema+`)
		AND NOT EXISTS (
			SELECT FROM pg_catalog.pg_depend e WHERE e.classid = d.classid AND e.objid = d.objid AND e.objsubid = 0 AND e.deptype = 'e')
		ORDER BY 1 LIMIT 4`, schema)
	if err != nil {
		return nil, fmt.Errorf("look for objects: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("look for objects: %w", err)
	}
	return list, nil
}

// besideSchema are the catalogs whose objects depend on a schema without being
// in it. pg_publication_namespace came with version 15.
const besideSchema = `SELECT oid FROM pg_catalog.pg_class WHERE relnamespace = 'pg_catalog'::regnamespace
	AND relname IN ('pg_extension', 'pg_default_acl', 'pg_publication_namespace')`

// core checks that public is empty and that nothing has the name of an object
// of the database that the core's file makes.
func (p *checker) core(ctx context.Context) error {
	u := p.run.core
	if u == nil || u.file == nil {
		return nil
	}
	var oid uint32
	var comment string
	var owner, create bool
	err := p.main.QueryRow(ctx, `
		SELECT oid, coalesce(pg_catalog.obj_description(oid, 'pg_namespace'), ''), pg_catalog.pg_has_role(nspowner, 'USAGE'),
			pg_catalog.has_schema_privilege(oid, 'CREATE')
		FROM pg_catalog.pg_namespace WHERE nspname = 'public'`).Scan(&oid, &comment, &owner, &create)
	if errors.Is(err, pgx.ErrNoRows) {
		p.find(Finding{Tenant: u.entry.Tenant, Problem: fmt.Sprintf("database %q has no schema public", p.info.Name), Remedy: "CREATE SCHEMA public"})
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at schema public: %w", err)
	}
	p.unmarked = !owner
	if !create && slices.ContainsFunc(u.file.Index.Statements, isMadeInPublic) {
		p.find(Finding{
			Tenant:  u.entry.Tenant,
			Problem: fmt.Sprintf("role %q may not create objects in schema public of database %q", p.info.User, p.info.Name),
			Remedy:  fmt.Sprintf("GRANT CREATE ON SCHEMA public TO %s, or name the tenants to restore with --schema", pg.Identifier(p.info.User)),
		})
	}
	existing, err := p.databaseObjects(ctx, u)
	if err != nil {
		return err
	}
	if backup, ok := pg.Unfinished(comment); ok {
		// The dead restore had found that none of its own objects existed;
		// those of another backup it did not look for.
		p.remains = append(p.remains, remainder{oid: oid, schema: manifest.CoreSchema, backup: backup})
		p.planned(u, fmt.Sprintf("remains of a restore of %s that died", backup))
		if backup == p.Manifest.ID {
			return nil
		}
	} else {
		objects, err := p.objectsIn(ctx, oid)
		if err != nil {
			return err
		}
		if len(objects) > 0 {
			p.planned(u, "exists: "+some(objects))
			if p.Replace {
				return p.replaceCore(ctx, u, oid, owner, existing)
			}
			p.find(Finding{
				Tenant:  u.entry.Tenant,
				Problem: fmt.Sprintf("schema public of database %q is not empty: it has %s", p.info.Name, some(objects)),
				Remedy:  "restore everything into an empty database, or name the tenants to restore with --schema",
			})
		}
	}
	for _, o := range existing {
		p.find(Finding{
			Tenant:  u.entry.Tenant,
			Problem: fmt.Sprintf("%s exists already in database %q: restore refuses to replace it", o.description(), p.info.Name),
			Remedy:  "drop it, or restore into an empty database",
		})
	}
	return nil
}

// isMadeInPublic reports whether a statement of core makes an object in public.
func isMadeInPublic(s datafile.Statement) bool {
	switch s.Kind {
	case "TABLE", "VIEW", "MATERIALIZED VIEW", "FOREIGN TABLE", "SEQUENCE", "TYPE", "SHELL TYPE", "DOMAIN", "FUNCTION", "PROCEDURE", "AGGREGATE",
		"OPERATOR", "OPERATOR CLASS", "OPERATOR FAMILY", "COLLATION", "CONVERSION":
	default:
		if !strings.HasPrefix(s.Kind, "TEXT SEARCH ") {
			return false
		}
	}
	return s.Schema == "" || s.Schema == manifest.CoreSchema
}

// pointReady checks that what is going to be replaced can be saved before: not
// after everything is staged.
func (p *checker) pointReady(ctx context.Context) error {
	replaces := slices.ContainsFunc(p.units, func(u *unit) bool { return u.swaps() || u.inUse != nil })
	if !replaces || p.Point == nil || p.PointReady == nil {
		return nil
	}
	err := p.PointReady(ctx, p.info)
	if err != nil && ctx.Err() != nil {
		return err
	}
	if err != nil {
		f := Finding{Problem: err.Error(), Err: err}
		if hinted, ok := errors.AsType[interface {
			error
			Hint() string
		}](err); ok {
			f.Remedy = hinted.Hint()
		}
		p.find(f)
	}
	return nil
}

// sight warns where the role cannot see who would keep a swap waiting.
func (p *checker) sight(ctx context.Context) error {
	if !slices.ContainsFunc(p.units, (*unit).swaps) {
		return nil
	}
	var sees bool
	if err := p.main.QueryRow(ctx, `SELECT pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')`).Scan(&sees); err != nil {
		return fmt.Errorf("read the rights of the role: %w", err)
	}
	if !sees {
		p.plan.Warnings = append(p.plan.Warnings, fmt.Sprintf(
			"role %q does not see what sessions of other roles do: the swap cannot wait for those that would see the restored tables empty. GRANT pg_read_all_stats TO %s",
			p.info.User, pg.Identifier(p.info.User)))
	}
	return nil
}

// required checks that the other schemas that definitions refer to are there.
func (p *checker) required(ctx context.Context) error {
	needed := map[string][]string{} // schema to tenants
	coming := map[string]bool{}
	for _, u := range p.units {
		coming[u.entry.Schema] = true
	}
	for _, u := range p.readable() {
		for _, name := range u.schemas {
			coming[name] = true
		}
		for _, name := range u.file.Index.Header.Requires.Schemas {
			needed[name] = append(needed[name], u.entry.Tenant)
		}
	}
	rows, err := p.main.Query(ctx, `SELECT nspname::text FROM pg_catalog.pg_namespace WHERE nspname = ANY($1)`, slices.Collect(maps.Keys(needed)))
	if err != nil {
		return fmt.Errorf("look for other schemas: %w", err)
	}
	there, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("look for other schemas: %w", err)
	}
	for _, name := range slices.Sorted(maps.Keys(needed)) {
		if coming[name] || slices.Contains(there, name) {
			continue
		}
		problem := fmt.Sprintf("schema %q, to which %s refers, does not exist in database %q", name, some(needed[name]), p.info.Name)
		if slices.ContainsFunc(p.Manifest.Schemas, func(e manifest.Schema) bool { return e.Schema == name }) {
			p.find(Finding{Problem: problem, Remedy: "restore it too: --schema " + strconv.Quote(name)})
			continue
		}
		// Nothing can be done about it: rows are worth more than what refers
		// to something that is lost.
		p.plan.Warnings = append(p.plan.Warnings, problem+" and is not in the backup: objects that need it will be missing")
	}
	return nil
}
