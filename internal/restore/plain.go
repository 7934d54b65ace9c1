package restore

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/media"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/plainsql"
	"github.com/tenantkeep/tenantkeep/internal/repo"
)

// Script is a plain SQL script to restore a schema from.
type Script struct {
	Source io.ReaderAt // as it is stored, perhaps compressed; it is read twice
	Size   int64       // in bytes
	Name   string      // of the file: it stands for the id of a backup
	Time   time.Time   // when it was written, as far as is known
	Hash   string      // the SHA-256 that it must have, in hexadecimal; empty: not known
	// AllowOutside lets the script reach outside of its schema.
	AllowOutside bool
	// Whole says that the script is one of a whole database, which is empty but for
	// what the script makes. It goes with AllowOutside.
	Whole bool
	// Files is a tar archive of the files that belong to the schema, perhaps
	// compressed. Nil: there is none, or they stay as they are.
	Files     io.ReaderAt
	FilesSize int64
	FilesName string
	Tenant    string // whose they are, where it is not the schema's name
}

// scriptTries is how often a script is run from the beginning because a lock
// was in its way.
const scriptTries = 5

// script is the restore of a Script.
type script struct {
	*run
	Script
	unit    *unit
	direct  bool // into schema public, which is empty, without a staging schema
	check   *checker
	summary *plainsql.Summary // of the first reading
	digest  string            // SHA-256 of the source, in hexadecimal
	result  plainsql.Result
	// members are the statements that put tables of the schema into
	// publications, casts those of the live schema: pg_dump --schema leaves both
	// out, and publications go over in the swap.
	members []string
	casts   []pg.Cast
	// others are the tables, and their rows, of a script's other schemas.
	others struct{ tables, rows int64 }

	imported *media.Archive // of the files
	spool    io.Closer      // that it is in
}

// RunScript restores one schema from a script, as Run does from a backup: into
// a staging schema, in one transaction of which others see nothing, and then
// into its place. Options name the schema where the script does not; Repo,
// Manifest, Jobs and Tables do not count. What the script may not do, or did
// outside of its schema, ends the restore, and nothing was changed.
//
// A script of schema public runs only where that is empty, and has no staging:
// its transaction is the whole restore.
//
// Errors are those of Run and of plainsql, an *OutsideError, a
// *ScriptSchemaError, a *ScriptRefusedError and an *EmptyScriptError. The
// result is never nil.
func RunScript(ctx context.Context, o Options, of Script) (*Result, error) {
	o.Manifest = &manifest.Manifest{ID: of.Name}
	s := &script{run: newRun(o), Script: of}
	began := s.Now()
	defer s.Progress.Finish()
	defer s.close()
	defer s.closeMedia()
	result := &Result{}
	err := s.prepare(ctx)
	result.Plan = s.plan
	if err != nil || s.DryRun {
		return result, err
	}
	if s.Confirm != nil {
		if err := s.Confirm(s.plan); err != nil {
			return result, err
		}
		if s.Asks {
			err := s.recheck(func() error { return s.prepare(ctx) })
			result.Plan = s.plan
			if err != nil {
				return result, err
			}
		}
	}
	err = s.undo(ctx, s.restore(ctx))
	s.report(result, began, err)
	if err != nil {
		return result, fmt.Errorf("tenant %s: %w", s.unit.entry.Tenant, err)
	}
	return result, nil
}

// report fills in the result.
func (s *script) report(result *Result, began time.Time, err error) {
	u := s.unit
	t := TenantResult{
		Schema: u.entry.Schema, Tenant: u.entry.Tenant, As: u.target, Notes: u.notes, Err: err, Left: u.left,
		Replaced: u.replaced, Point: u.point, Blocked: u.blocked.Seconds(), Staged: u.staged, Access: u.access,
	}
	result.Seconds = s.Now().Sub(began).Seconds()
	if err == nil {
		t.Tables, t.Rows, t.Bytes, t.Seconds = u.entry.Tables+s.others.tables, u.entry.Rows+s.others.rows, u.entry.Bytes, result.Seconds
		result.Tables, result.Rows, result.Bytes = t.Tables, t.Rows, t.Bytes
		if u.files != nil && u.files.placed {
			t.ReplacedFiles, t.Files = u.movedMedia(), u.entry.Media.Files
		}
	}
	result.Tenants = append(result.Tenants, t)
}

// open begins to read the script.
func (s *script) open() (*plainsql.Script, error) {
	return plainsql.Open(s.source(), plainsql.ReaderOptions{})
}

func (s *script) source() io.Reader { return io.NewSectionReader(s.Source, 0, s.Size) }

// origin is what the label of a staging names as its backup: another script may
// have the same name.
func (s *script) origin() string { return s.Name + " sha256:" + s.digest }

// options are those of plainsql.
func (s *script) options(schema string) plainsql.Options {
	return plainsql.Options{
		Schema: schema, AllowOutside: s.AllowOutside, MissingRoles: s.NoOwner || s.NoPrivileges,
		Progress: func(bytes, rows int64) { s.Progress.Add(bytes, rows) },
	}
}

// prepare reads the script once, and checks everything that can be checked
// beforehand.
func (s *script) prepare(ctx context.Context) error {
	conn, err := s.Server.Connect(ctx)
	if err != nil {
		return err
	}
	s.main = conn
	if s.locks() {
		if err := pg.LockSchemas(ctx, conn, "restore"); err != nil {
			return err
		}
	}
	if err := setLockTimeout(ctx, conn, lockTimeout); err != nil {
		return err
	}
	if s.info, err = pg.ReadInfo(ctx, conn); err != nil {
		return err
	}
	if s.Media, err = bindMedia(ctx, conn, s.Media); err != nil {
		return err
	}
	asked := ""
	if len(s.Schemas) > 0 {
		asked = s.Schemas[0]
	}
	if s.summary == nil {
		if s.summary, err = s.read(ctx, asked); err != nil {
			return err
		}
	}
	summary := s.summary
	schema, err := schemaOf(summary, asked)
	if err != nil {
		return err
	}
	if s.As != "" && schema != manifest.CoreSchema {
		if err := checkNewName(s.As, schema); err != nil {
			return err
		}
	}
	s.makePlan(schema, summary)
	s.check = &checker{run: s.run}
	if err := s.check.server(ctx); err != nil {
		return err
	}
	if err := s.place(ctx); err != nil {
		return err
	}
	if err := errors.Join(s.media(ctx), s.warnings(ctx), s.check.pointReady(ctx)); err != nil {
		return err
	}
	for _, m := range s.remains {
		s.plan.Remains = append(s.plan.Remains, m.schema)
	}
	s.run.warn()
	if summary.RefusedCount > 0 {
		return &ScriptRefusedError{Refused: summary.Refused, Count: summary.RefusedCount}
	}
	if len(s.check.findings) > 0 {
		return &PreflightError{Findings: s.check.findings}
	}
	return nil
}

// read goes through the script without running it.
func (s *script) read(ctx context.Context, schema string) (*plainsql.Summary, error) {
	hash := sha256.New()
	source := io.TeeReader(s.source(), hash)
	reader, err := plainsql.Open(source, plainsql.ReaderOptions{})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Name, err)
	}
	defer reader.Close()
	s.Progress.Start("verify", 1, 0)
	defer s.Progress.Finish()
	summary, err := plainsql.Check(ctx, s.main, reader.Reader, s.options(schema))
	if err == nil || s.Hash != "" && ctx.Err() == nil {
		_, errRest := io.Copy(io.Discard, source) // what comes after its end, or its fault
		err = cmp.Or(err, errRest)
		s.digest = hex.EncodeToString(hash.Sum(nil))
		if s.Hash != "" && s.digest != s.Hash && errRest == nil {
			// A fault is no wonder then.
			return nil, &repo.DataError{Schema: schema, Key: s.Name, Err: repo.ErrHash, Got: "sha256 " + s.digest, Want: s.Hash}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Name, err)
	}
	return summary, nil
}

// schemaOf decides which schema a script is for: the one that it makes, or else
// the only one that it uses.
func schemaOf(summary *plainsql.Summary, asked string) (string, error) {
	makes := slices.DeleteFunc(slices.Clone(summary.Makes), func(name string) bool { return name == manifest.CoreSchema })
	switch {
	case asked == "" && len(makes) == 1:
		return makes[0], nil
	case asked == "" && len(summary.Uses) == 1:
		return summary.Uses[0], nil
	case asked == "" || len(summary.Uses) > 0 && !slices.Contains(summary.Uses, asked):
		return "", &ScriptSchemaError{Asked: asked, Uses: summary.Uses}
	}
	return asked, nil
}

func (s *script) makePlan(schema string, summary *plainsql.Summary) {
	s.unit = &unit{
		entry: manifest.Schema{
			Schema: schema, Tenant: cmp.Or(s.Tenant, schema), Tables: summary.Count("CREATE TABLE"), Rows: summary.Rows, Bytes: summary.CopyBytes, Size: s.Size,
		},
		core: schema == manifest.CoreSchema, schemas: []string{schema}, comments: map[string]string{}, present: map[string]bool{},
	}
	if s.unit.core {
		s.unit.entry.Tenant = manifest.CoreTenant
	}
	if s.Files != nil { // they may wait with a staged schema
		s.unit.entry.MediaBackup, s.unit.entry.Media = s.FilesName, &manifest.Media{Size: s.FilesSize}
	}
	s.units = []*unit{s.unit}
	e := s.unit.entry
	s.plan = &Plan{
		Backup: s.Name, Taken: s.Time, Server: s.Server.String(), Target: *s.info, Script: summary,
		Schemas: []Planned{{
			Schema: e.Schema, Tenant: e.Tenant, As: s.unit.newName(s.As), Tables: e.Tables, Rows: e.Rows, Bytes: e.Bytes, Stored: e.Size, Target: TargetFree,
		}},
		Tables: e.Tables, Rows: e.Rows, Bytes: e.Bytes, Stored: e.Size,
		Makes: slices.Concat([]string{schema}, summary.Makes, summary.Uses),
	}
}

// place looks at what is in the place of the schema.
func (s *script) place(ctx context.Context) error {
	u := s.unit
	if u.core {
		return s.corePlace(ctx)
	}
	if err := s.check.mask(ctx, u, u.newName(s.As)); err != nil {
		return err
	}
	s.joinPeers()
	list, err := existingSchemas(ctx, s.main, []string{u.entry.Schema, u.target})
	if err != nil {
		return err
	}
	for _, there := range list {
		if err := s.check.occupied(ctx, there, u); err != nil {
			return err
		}
	}
	s.joinPeers() // the mask may be another now
	if s.Resume {
		if err := s.findStaged(ctx); err != nil {
			return err
		}
	}
	if err := s.check.ownSchemas(ctx); err != nil {
		return err
	}
	s.remains = slices.DeleteFunc(s.remains, func(m remainder) bool { return m.schema == u.mask.staging })
	return s.published(ctx)
}

// corePlace checks that schema public is empty, where a script of it can run.
func (s *script) corePlace(ctx context.Context) error {
	s.direct = true
	s.unit.target = manifest.CoreSchema
	if s.As != "" {
		return &UnsupportedError{
			Reason: "schema public cannot be restored under another name: extensions are in it, and other schemas point into it",
			Remedy: "restore the script into an empty database: give it as --database-url",
		}
	}
	var oid uint32
	err := s.main.QueryRow(ctx, `SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = 'public'`).Scan(&oid)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at schema public: %w", err)
	}
	objects, err := s.objectsIn(ctx, oid)
	if err != nil {
		return err
	}
	if len(objects) > 0 {
		s.check.planned(s.unit, "exists: "+some(objects))
		s.check.find(Finding{
			Tenant:  s.unit.entry.Tenant,
			Problem: fmt.Sprintf("the script is one of schema public, and that of database %q is not empty: it has %s", s.info.Name, some(objects)),
			Remedy:  "restore the script into an empty database, given as --database-url; public of a database in use is restored from a backup of tenantkeep only",
		})
	}
	return nil
}

// findStaged finds the staging schema that an earlier run has left.
func (s *script) findStaged(ctx context.Context) error {
	list, err := listLabelled(ctx, s.main)
	if err != nil {
		return err
	}
	u := s.unit
	i := slices.IndexFunc(list, func(l labelled) bool {
		return l.State == stateStaged && l.Schema == u.target && l.Backup == s.origin()
	})
	if i < 0 {
		s.check.find(Finding{
			Tenant:  u.entry.Tenant,
			Problem: fmt.Sprintf("there is no staging of %q from %s, as the script is now, that waits for its swap", u.target, s.Name),
			Remedy:  "restore without --resume",
		})
		return nil
	}
	u.mask.staging, u.mask.made, u.resumed, u.comment = list[i].name, true, true, list[i].Comment
	u.loaded = list[i].arrival()
	return nil
}

// published refuses where the rows of the script would be published as if they
// were new rows of the live schema, whose name its tables have meanwhile.
func (s *script) published(ctx context.Context) error {
	if s.AllowOutside || s.unit.resumed {
		return nil
	}
	rows, err := s.main.Query(ctx, `
		SELECT pubname::text FROM pg_catalog.pg_publication
		WHERE puballtables AND pubinsert AND pg_catalog.current_setting('wal_level') = 'logical' ORDER BY 1`)
	if err != nil {
		return fmt.Errorf("read publications: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read publications: %w", err)
	}
	if len(names) > 0 {
		s.check.find(Finding{
			Tenant:  s.unit.entry.Tenant,
			Problem: fmt.Sprintf("publication %q is for all tables: its subscribers would get the rows of the script as new ones of schema %q", names[0], s.unit.entry.Schema),
			Remedy:  "restore from a backup of tenantkeep, which loads under another name; or give --allow-outside if nobody subscribes",
		})
	}
	return nil
}

// warnings adds warnings to the plan.
func (s *script) warnings(ctx context.Context) error {
	summary := s.plan.Script
	if summary.Origin.Program == "" {
		powers, err := plainsql.Powers(ctx, s.main)
		if err != nil {
			return err
		}
		if len(powers) > 0 {
			s.plan.Warnings = append(s.plan.Warnings, fmt.Sprintf(
				"nothing in the script says that pg_dump or tenantkeep wrote it, and role %q %s: if you do not trust it, restore it as another role", s.info.User, strings.Join(powers, ", ")))
		}
	}
	if from := pg.ParseVersion(summary.Origin.Server) / 10000; from > s.info.ServerVersionNum/10000 {
		s.plan.Warnings = append(s.plan.Warnings, fmt.Sprintf("the script was dumped from PostgreSQL %s, which is newer than the server, PostgreSQL %s: some of it may not run",
			summary.Origin.Server, s.info.ServerVersion))
	}
	locks := 0
	for _, k := range summary.Kinds {
		switch k.Kind {
		case "CREATE TABLE":
			locks += 2 * k.Count // with the table of its long values
		case "CREATE INDEX", "CREATE SEQUENCE", "CREATE VIEW", "CREATE MATERIALIZED VIEW", "ALTER TABLE":
			locks += k.Count
		}
	}
	if locks > s.info.LockSlots {
		s.plan.Warnings = append(s.plan.Warnings, fmt.Sprintf("the script is one transaction that needs about %s locks, and the server has room for %s: it may fail, and max_locks_per_transaction must be raised then",
			humanize.Comma(int64(locks)), humanize.Comma(int64(s.info.LockSlots))))
	}
	if len(summary.Refers) > 0 {
		s.plan.Warnings = append(s.plan.Warnings, fmt.Sprintf("foreign keys of the script refer to %s: whoever writes to %s waits from the first of these statements until the script is done",
			some(summary.Refers), english.PluralWord(len(summary.Refers), "it", "them")))
	}
	return nil
}

// restore runs the script and puts the schema into its place.
func (s *script) restore(ctx context.Context) (err error) {
	if err := s.settleMedia(ctx); err != nil {
		return err
	}
	if err := s.removeRemains(ctx); err != nil {
		return err
	}
	u := s.unit
	if !u.resumed {
		if err := s.stage(ctx); err != nil {
			return err
		}
	}
	u.began = s.Now() // from here on there is something to be removed
	if s.direct {
		u.finished = true
		if err := s.analyze(ctx); err != nil {
			u.note(err.Error())
		}
		return nil
	}
	s.Progress.Start("compare", 1, 0)
	if err := s.compare(ctx, s.main, u.mask.staging); err != nil {
		return err
	}
	if err := s.analyze(ctx); err != nil {
		return err
	}
	if u.comment != nil {
		u.comments[u.target] = commentSQL(u.target, *u.comment)
	}
	s.Progress.Finish()
	if err := s.putMedia(ctx); err != nil {
		return err
	}
	if u.failed() {
		return u.err
	}
	if u.swaps() {
		if s.casts, err = pg.ListCasts(ctx, s.main); err != nil {
			return err
		}
		u.mask.origin = s.origin()
		if err := s.swapUnits(ctx, s.units); err != nil {
			return err
		}
		if err := s.tellBeside(ctx); err != nil {
			u.note(err.Error())
		}
		return nil
	}
	if err := s.placeFree(u); err != nil {
		return fmt.Errorf("put its files in place: %w", err)
	}
	sess := &session{run: s.run, conn: s.main}
	if err := sess.set(ctx); err != nil {
		return err
	}
	if err := sess.exec(ctx, "SET LOCAL synchronous_commit = on;\n"+rename(u.mask.staging, u.target)+u.ownComment(u.target, "")); err != nil {
		return fmt.Errorf("name schema %q: %w", u.target, err)
	}
	u.finished = true
	s.confirmFree(u)
	if err := s.tellNames(ctx, u); err != nil {
		u.note(err.Error())
	}
	return nil
}

// stage runs the script in one transaction, from the beginning again where a
// lock was in the way.
func (s *script) stage(ctx context.Context) error {
	for try := 1; ; try++ {
		err := s.stageOnce(ctx)
		if err == nil || ctx.Err() != nil || !inTheWay(err) {
			return err
		}
		if try == scriptTries {
			return &ScriptLockedError{Tries: try, Err: err}
		}
		s.Progress.Note(slog.LevelWarn, "", fmt.Sprintf("Something that the script needs is in use, so that it begins again: %v", err))
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Duration(try) * lockPause):
		}
	}
}

// stageOnce is one transaction on a connection of its own: whatever the script
// does to the session ends with it.
func (s *script) stageOnce(ctx context.Context) (err error) {
	u := s.unit
	u.mu.Lock()
	u.notes = nil
	u.mu.Unlock()
	var conns [2]*pgx.Conn
	for i := range conns {
		if conns[i], err = s.Server.Connect(ctx); err != nil {
			return err
		}
		defer pg.Close(conns[i]) // which rolls back what is not committed
	}
	conn, other := conns[0], conns[1]
	ctx, stop := s.watch(ctx)
	defer stop()
	exec := func(what, sql string) error {
		if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
			if cause := context.Cause(ctx); cause != nil {
				err = cause
			}
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	}
	sess := &session{run: s.run, conn: conn}
	if err := sess.set(ctx); err != nil {
		return err
	}
	begin := "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL synchronous_commit = on;\n"
	if !s.direct && u.mask.live {
		begin += rename(u.entry.Schema, u.mask.hidden)
	}
	if !slices.Contains(s.plan.Script.Makes, u.entry.Schema) && !s.direct {
		begin += "CREATE SCHEMA " + pg.Identifier(u.entry.Schema) + ";\n"
	}
	// A name without a schema means this one and no other: what the script would
	// drop or change in public by such a name, others would wait for.
	begin += "SET search_path = " + pg.Identifier(u.entry.Schema)
	if err := exec("begin", begin); err != nil {
		return err
	}
	watch, err := plainsql.NewWatch(ctx, conn, other)
	if err != nil {
		return err
	}
	reader, err := s.open()
	if err != nil {
		return err
	}
	defer reader.Close()
	s.Progress.Start("load", 1, s.plan.Script.Bytes)
	defer s.Progress.Finish()
	if s.result, err = plainsql.Run(ctx, conn, reader.Reader, s.options(u.entry.Schema)); err != nil {
		return s.explain(err)
	}
	// What would run at the commit runs now, before it is asked what the script
	// has done: deferred triggers, and cursors that outlive the transaction.
	// Temporary types of the script must not stand before PostgreSQL's own.
	if err := exec("check deferred constraints", "SET CONSTRAINTS ALL IMMEDIATE; CLOSE ALL; SET search_path = pg_catalog, pg_temp"); err != nil {
		return err
	}
	if err := s.outside(ctx, watch); err != nil {
		return err
	}
	if err := s.substance(ctx, conn); err != nil {
		return err
	}
	if err := s.compareOthers(ctx, conn); err != nil {
		return err
	}
	if s.direct {
		if err := s.compare(ctx, conn, u.entry.Schema); err != nil {
			return err
		}
		return exec("commit", "COMMIT")
	}
	end, err := s.hide(ctx, conn)
	if err != nil {
		return err
	}
	// Were the answer to the commit lost, undo would find the staging by its
	// label.
	u.mask.made = true
	if err := exec("stage the schema", end+"COMMIT"); err != nil {
		return err
	}
	for _, n := range s.result.Notes {
		u.note(n.String())
	}
	return nil
}

// explain says what a missing name may mean.
func (s *script) explain(err error) error {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || !slices.Contains([]string{"42P01", "42704", "42883"}, e.Code) {
		return err
	}
	switch {
	case strings.HasPrefix(e.Routine, "get_role") || strings.HasPrefix(e.Message, "role "):
		return &hintedError{err, "create the role on this server, or give --no-owner and --no-privileges, which leave out what names roles that are missing"}
	case s.direct || strings.Contains(e.Message, "."):
		return err
	}
	return &hintedError{err, fmt.Sprintf("a name without a schema means schema %s only: if the script needs something of another one, write it as public.name or put SET search_path = %[1]s, public at the top",
		pg.Identifier(s.unit.entry.Schema))}
}

// outside asks what the script did outside of its schema.
func (s *script) outside(ctx context.Context, watch *plainsql.Watch) error {
	touched, err := watch.Outside(ctx, s.unit.entry.Schema)
	if err != nil || len(touched) == 0 {
		return err
	}
	if !s.AllowOutside {
		return &OutsideError{Schema: s.unit.entry.Schema, Touched: touched}
	}
	if s.Whole {
		return nil
	}
	for _, t := range touched {
		s.unit.note("outside of the schema: " + t.String())
	}
	return nil
}

// substance refuses a script that made nothing, which is hardly what anybody
// wants in the place of a tenant.
func (s *script) substance(ctx context.Context, conn *pgx.Conn) error {
	u := s.unit
	var tables int64
	err := conn.QueryRow(ctx, `
		SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'f')`, u.entry.Schema).Scan(&tables)
	if err != nil {
		return fmt.Errorf("count tables: %w", err)
	}
	live := s.plan.Schemas[0].Live
	switch {
	case tables == 0 && live != nil && live.Tables > 0 && !s.Incomplete:
		return &EmptyScriptError{Schema: u.entry.Schema, What: fmt.Sprintf("no tables in the place of %d", live.Tables), Allowed: true}
	case tables == 0 && !slices.Contains(s.plan.Script.Makes, u.entry.Schema) && live == nil:
		return &EmptyScriptError{Schema: u.entry.Schema, What: "no tables"}
	case s.result.Rows == 0 && s.plan.Script.Rows > 0:
		return &EmptyScriptError{Schema: u.entry.Schema, What: "no rows although the script has some"}
	case s.result.Rows == 0 && live != nil && live.Rows > 0 && !s.Incomplete:
		return &EmptyScriptError{Schema: u.entry.Schema, What: fmt.Sprintf("no rows in the place of about %s", humanize.Comma(live.Rows)), Allowed: true}
	}
	return nil
}

// hide returns what ends the transaction: the schema becomes the staging schema,
// and the live one gets its name back.
func (s *script) hide(ctx context.Context, conn *pgx.Conn) (string, error) {
	u := s.unit
	var oid uint32
	err := conn.QueryRow(ctx, `
		SELECT oid, pg_catalog.obj_description(oid, 'pg_namespace') FROM pg_catalog.pg_namespace WHERE nspname = $1`, u.entry.Schema).Scan(&oid, &u.comment)
	if err != nil {
		return "", fmt.Errorf("look at schema %q: %w", u.entry.Schema, err)
	}
	var sql strings.Builder
	if u.swaps() {
		// The publications of the live schema go over to this one in the swap.
		members, err := pg.ReadMembership(ctx, conn, []uint32{oid}, s.info.ServerVersionNum)
		if err != nil {
			return "", err
		}
		s.members = members[oid]
		drops, err := s.leavePublications(ctx, conn, oid)
		if err != nil {
			return "", err
		}
		sql.WriteString(drops)
	}
	sql.WriteString(rename(u.entry.Schema, u.mask.staging))
	sql.WriteString(commentSQL(u.mask.staging, s.markOf(u)))
	if u.mask.live {
		sql.WriteString(rename(u.mask.hidden, u.entry.Schema))
	}
	return sql.String(), nil
}

// leavePublications returns statements that take the tables of a schema, and
// the schema itself, out of all publications.
func (s *script) leavePublications(ctx context.Context, conn *pgx.Conn, schema uint32) (string, error) {
	whole := ""
	if s.info.ServerVersionNum >= 150000 {
		whole = `
			UNION ALL
			SELECT pg_catalog.format('ALTER PUBLICATION %I DROP TABLES IN SCHEMA %I', p.pubname, n.nspname)
			FROM pg_catalog.pg_publication_namespace r JOIN pg_catalog.pg_publication p ON p.oid = r.pnpubid
			JOIN pg_catalog.pg_namespace n ON n.oid = r.pnnspid WHERE n.oid = $1`
	}
	rows, err := conn.Query(ctx, `
		SELECT pg_catalog.format('ALTER PUBLICATION %I DROP TABLE ONLY %I.%I', p.pubname, n.nspname, c.relname)
		FROM pg_catalog.pg_publication_rel r JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
		JOIN pg_catalog.pg_class c ON c.oid = r.prrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.oid = $1`+whole, schema)
	if err != nil {
		return "", fmt.Errorf("read publications: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return "", fmt.Errorf("read publications: %w", err)
	}
	var sql strings.Builder
	for _, drop := range list {
		sql.WriteString(drop + ";\n")
	}
	return sql.String(), nil
}

// tellBeside names what stands beside a schema and is another than before: the
// publications in which the script put tables and in which the live ones were
// not, and the casts of the live ones that the script does not make.
func (s *script) tellBeside(ctx context.Context) error {
	u := s.unit
	var oid uint32
	if err := s.main.QueryRow(ctx, `SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = $1`, u.target).Scan(&oid); err != nil {
		return fmt.Errorf("look for schema %q: %w", u.target, err)
	}
	members, err := pg.ReadMembership(ctx, s.main, []uint32{oid}, s.info.ServerVersionNum)
	if err != nil {
		return err
	}
	for _, sql := range s.members {
		if !slices.Contains(members[oid], sql) {
			u.note("in the script it is in a publication that has it no more; if it should: " + strings.TrimSpace(sql))
		}
	}
	now, err := pg.ListCasts(ctx, s.main)
	if err != nil {
		return err
	}
	for _, was := range s.casts {
		if was.Schema == u.live.oid && !slices.ContainsFunc(now, func(c pg.Cast) bool { return c.Schema == oid && c.Tag == was.Tag }) {
			u.note("the schema that was replaced has a cast that is not in the script, as pg_dump leaves them out; if it is needed: " + strings.TrimSpace(was.SQL))
		}
	}
	return nil
}

// stored is a table of the schema that was made.
type stored struct {
	Name string // in SQL
	Root string // the name of the topmost table of its partition tree; else its own
	Kind string
}

// compare counts the rows of all tables of the schema, whatever its name is now,
// and compares them with those that the script stored.
func (s *script) compare(ctx context.Context, conn *pgx.Conn, schema string) (err error) {
	e := &s.unit.entry
	e.Tables, e.Rows, err = s.compareSchema(ctx, conn, schema, e.Schema)
	return err
}

// compareOthers is compare for the other schemas of a script of a whole database.
func (s *script) compareOthers(ctx context.Context, conn *pgx.Conn) error {
	s.others.tables, s.others.rows = 0, 0
	if !s.Whole {
		return nil
	}
	for _, schema := range s.plan.Script.Uses {
		if schema == s.unit.entry.Schema {
			continue
		}
		tables, rows, err := s.compareSchema(ctx, conn, schema, schema)
		if err != nil {
			return fmt.Errorf("schema %q: %w", schema, err)
		}
		s.others.tables += tables
		s.others.rows += rows
	}
	return nil
}

// compareSchema counts the tables of a schema, which the script calls named, and
// their rows.
func (s *script) compareSchema(ctx context.Context, conn *pgx.Conn, schema, named string) (count, total int64, err error) {
	u := s.unit
	rows, err := conn.Query(ctx, `
		SELECT c.relname::text, coalesce(root.relname, c.relname)::text, c.relkind::text
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN pg_catalog.pg_class root ON root.oid = pg_catalog.pg_partition_root(c.oid) AND root.relnamespace = c.relnamespace
		WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') ORDER BY c.relname COLLATE "C"`, schema)
	if err != nil {
		return 0, 0, fmt.Errorf("list tables: %w", err)
	}
	tables, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t stored, err error) {
		return t, row.Scan(&t.Name, &t.Root, &t.Kind)
	})
	if err != nil {
		return 0, 0, fmt.Errorf("list tables: %w", err)
	}
	roots, want, have := map[string]string{}, map[string]int64{}, map[string]int64{}
	for _, t := range tables {
		roots[t.Name] = t.Root
	}
	hidden := map[string]bool{}
	for _, t := range tables {
		if t.Kind == "p" {
			continue
		}
		n, err := countRows(ctx, conn, schema, t.Name)
		if err != nil && conn.PgConn().TxStatus() == 'I' && pg.Code(err) == pg.Privilege {
			hidden[t.Root] = true
			u.note(fmt.Sprintf("the rows of table %s were not counted: %v", pg.Identifier(t.Name), err))
			continue
		}
		if err != nil {
			return 0, 0, fmt.Errorf("count the rows of table %q: %w", t.Name, err)
		}
		have[t.Root] += n
		total += n
	}
	if !s.unit.resumed {
		var strays []string
		for _, t := range s.result.Tables {
			root, ok := roots[t.Table]
			if !ok || t.Schema != named && (t.Schema != "" || named != u.entry.Schema) {
				if t.Rows > 0 {
					strays = append(strays, t.Table)
				}
				continue
			}
			want[root] += t.Rows
		}
		if len(strays) > 0 && s.plan.Script.Exact && !s.AllowOutside {
			return 0, 0, fmt.Errorf("the script stored rows in %s, which %s not in the schema", some(strays), english.PluralWord(len(strays), "is", "are"))
		}
		for _, t := range tables {
			if t.Name != t.Root || hidden[t.Root] || have[t.Root] == want[t.Root] {
				continue
			}
			mismatch := &ScriptRowsError{Table: t.Name, Stored: want[t.Root], Found: have[t.Root]}
			if s.plan.Script.Exact {
				return 0, 0, mismatch
			}
			u.note(mismatch.Error() + ": the script also changes rows by other means")
		}
	}
	return int64(len(tables)), total, nil
}

func countRows(ctx context.Context, conn *pgx.Conn, schema, table string) (n int64, err error) {
	return n, conn.QueryRow(ctx, "SELECT count(*) FROM ONLY "+pg.Identifier(schema, table)).Scan(&n)
}

// analyzeAtOnce is how many tables one ANALYZE names. Each is a transaction of
// its own.
const analyzeAtOnce = 100

// analyze collects statistics.
func (s *script) analyze(ctx context.Context) error {
	schema := s.unit.entry.Schema
	if !s.direct {
		schema = s.unit.mask.staging
	}
	rows, err := s.main.Query(ctx, `
		SELECT c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'm') AND NOT (c.relkind = 'm' AND NOT c.relispopulated) ORDER BY 1`, schema)
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("list tables: %w", err)
	}
	// Autovacuum gives way only to whoever waits for it.
	if err := setLockTimeout(ctx, s.main, 0); err != nil {
		return err
	}
	for chunk := range slices.Chunk(names, analyzeAtOnce) {
		list := make([]string, len(chunk))
		for i, name := range chunk {
			list[i] = pg.Identifier(schema, name)
		}
		if _, err := s.main.PgConn().Exec(ctx, "ANALYZE "+strings.Join(list, ", ")).ReadAll(); err != nil {
			return fmt.Errorf("collect statistics: %w", err)
		}
	}
	return setLockTimeout(ctx, s.main, lockTimeout)
}

// ScriptSchemaError says that it is not plain which schema a script is for, or
// that it is for another one.
type ScriptSchemaError struct {
	Asked string   // empty: nothing was asked for
	Uses  []string // schemas in which the script makes or fills tables
}

// Error names the schemas.
func (e *ScriptSchemaError) Error() string {
	switch {
	case len(e.Uses) == 0:
		return "the script does not say for which schema it is"
	case e.Asked == "":
		return "the script is for more than one schema: " + some(e.Uses)
	}
	return fmt.Sprintf("the script is for schema %s, not for %q", some(e.Uses), e.Asked)
}

// Hint says what to do.
func (e *ScriptSchemaError) Hint() string {
	switch {
	case len(e.Uses) == 0:
		return "give --schema with the name under which its tables are to be made"
	case e.Asked == "":
		return "make a dump of one schema: pg_dump --schema; or restore the script into an empty database with psql, back that up, and restore from the backup"
	case len(e.Uses) == 1:
		return fmt.Sprintf("restore it with --schema %s, and --as %s to give it another name", e.Uses[0], e.Asked)
	}
	return "make a dump of the one schema: pg_dump --schema"
}

// ScriptRefusedError says that a script has statements that are not run.
type ScriptRefusedError struct {
	Refused []*plainsql.RefusedError // the first ones
	Count   int
}

// Error lists the first statements.
func (e *ScriptRefusedError) Error() string {
	if e.Count == 1 {
		return e.Refused[0].Error()
	}
	lines := []string{fmt.Sprintf("the script has %d statements that are not run:", e.Count)}
	for _, r := range e.Refused {
		lines = append(lines, "- "+r.Error())
	}
	if more := e.Count - len(e.Refused); more > 0 {
		lines = append(lines, fmt.Sprintf("- and %d more", more))
	}
	return strings.Join(lines, "\n")
}

// Hint says what to do about the first that is no matter of --allow-outside.
func (e *ScriptRefusedError) Hint() string {
	i := max(0, slices.IndexFunc(e.Refused, func(r *plainsql.RefusedError) bool { return !r.Outside }))
	return e.Refused[i].Hint() + "; nothing was changed"
}

// OutsideError says that a script reached outside of its schema. It was rolled
// back.
type OutsideError struct {
	Schema  string
	Touched []plainsql.Touched
}

// Error lists what it touched.
func (e *OutsideError) Error() string {
	lines := []string{fmt.Sprintf("the script reaches outside of schema %q:", e.Schema)}
	for i, t := range e.Touched {
		if i == shownFindings {
			lines = append(lines, fmt.Sprintf("- and %d more", len(e.Touched)-i))
			break
		}
		lines = append(lines, "- "+t.String())
	}
	return strings.Join(lines, "\n")
}

// Hint says what to do.
func (e *OutsideError) Hint() string {
	return "allow it with --allow-outside if that is wanted; nothing was changed, but that numbers of sequences may be used up"
}

// EmptyScriptError says that a script left nothing that is worth restoring.
type EmptyScriptError struct {
	Schema, What string
	Allowed      bool // --allow-incomplete lets it pass
}

// Error says what is missing.
func (e *EmptyScriptError) Error() string {
	return fmt.Sprintf("the script leaves schema %q with %s", e.Schema, e.What)
}

// Hint says what to do.
func (e *EmptyScriptError) Hint() string {
	if e.Allowed {
		return "give --allow-incomplete if the tenant is to be empty; nothing was changed"
	}
	return "is it the right file? nothing was changed"
}

// ScriptRowsError says that a table has not the rows that the script stored in
// it.
type ScriptRowsError struct {
	Table         string
	Stored, Found int64
}

// Error tells both numbers.
func (e *ScriptRowsError) Error() string {
	return fmt.Sprintf("table %q has %s, and the script stored %s in it", e.Table,
		english.Plural(int(e.Found), "row", ""), humanize.Comma(e.Stored))
}

// Hint says what to look for.
func (e *ScriptRowsError) Hint() string {
	return "look for triggers and rules in the script and in the database that change what is stored; nothing was changed"
}

// ScriptLockedError says that a script could not be run because others used
// what it needs.
type ScriptLockedError struct {
	Tries int
	Err   error // of the last time
}

// Error says how often it was tried.
func (e *ScriptLockedError) Error() string {
	return fmt.Sprintf("what the script needs was in use %d times in a row: %v", e.Tries, e.Err)
}

// Unwrap returns the server's error.
func (e *ScriptLockedError) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *ScriptLockedError) Hint() string {
	return "try again when fewer write to the tables to which its foreign keys refer; nothing was changed"
}

// hintedError is an error with what to do next.
type hintedError struct {
	err  error
	hint string
}

func (e *hintedError) Error() string { return e.err.Error() }

func (e *hintedError) Unwrap() error { return e.err }

// Hint says what to do.
func (e *hintedError) Hint() string { return e.hint }
