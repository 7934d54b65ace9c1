// Package backup takes backups: every schema of a database at one moment, each
// into a data file of its own, and the manifest last.
//
// A run has one coordinator session, which exports the snapshot that all the
// others share, and two stages that work at the same time. The definitions
// come from pg_dump, for groups of schemas that fit the server's lock table.
// The rows come by COPY from workers, each of which takes one schema after
// another: it locks its tables under a savepoint, makes sure that nothing
// changed since the snapshot, copies, and rolls back to the savepoint, which
// gives the locks back. The segments of big tables are handed to whichever
// worker has nothing to do.
//
// A schema that was changed under the run is taken again, at a newer snapshot.
package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/media"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgdump"
	"github.com/tenantkeep/tenantkeep/internal/registry"
	"github.com/tenantkeep/tenantkeep/internal/repo"
)

// Options say what to back up and how.
type Options struct {
	Server         *pg.Server
	Repo           *repo.Repo
	Schemas        []string      // only these, by exact name; empty: core and all tenants
	ExcludeSchemas []string      // not these
	Tenant         string        // name of the tenant where Schemas names one; empty: as the schema
	Type           manifest.Type // Full, Incremental, or Baseline, of one schema
	Rows           *RowRules     // of a baseline; nil: all rows
	Parent         string        // backup that an incremental builds on; empty: the newest of each schema
	Full           []string      // schemas that an incremental takes in full all the same
	MaxChain       int           // how many files of earlier backups a schema may need; 0: DefaultMaxChain
	NoReuseDDL     bool          // take all definitions anew, those too that are known to be the same
	Summaries      Summaries     // empty: SummariesCheckpoint
	Compression    datafile.Compression
	RetentionDays  int
	Retention      manifest.Retention // what RetentionDays mean
	Jobs           int                // workers; at least 1
	PgDump         string             // program; empty: looked for
	LockTimeout    time.Duration      // how long to wait for a lock before trying again; 0: 5 s
	DryRun         bool               // say what would be taken, take nothing
	Registry       registry.Choice    // the tables that register tenants, whose rows are saved with each
	Locked         bool               // the caller holds the lock of the database already
	Media          media.Source       // of the tenants' files; nil: these are not saved
	MediaGone      []string           // schemas that had files, and have none any more: somebody said so
	RollbackPoint  bool               // it is for a restore that is going to replace the schemas
	Version        string             // of tenantkeep, for the manifest
	Progress       Progress
	Log            *slog.Logger
}

// Progress hears how a run goes. Its methods are called from several
// goroutines.
type Progress interface {
	// Start begins a stage of so many tenants and about so many bytes.
	Start(stage string, tenants int, bytes int64)
	Add(bytes, rows int64)
	TenantDone(tenant string, err error)
	// Note is something that a person should know now.
	Note(level slog.Level, tenant, message string)
	Finish()
}

// Result is what a run did.
type Result struct {
	Manifest *manifest.Manifest // nil for a dry run
	Planned  []pg.Schema        // what the run was to save
	Folders  map[string]string  // of these, where their files are, where they are saved; by schema
	Elapsed  time.Duration
}

// Limits on trying again.
const (
	maxRounds    = 5 // snapshots that a schema that keeps changing is tried on
	lockAttempts = 12
	copyAttempts = 3
)

// PartialError is a run that saved some schemas and not others, or not all of
// their files. Its manifest exists and names them.
type PartialError struct {
	Failures []manifest.Failure
	Media    []manifest.Failure // schemas that are saved, but not all of their files
	Saved    int
}

func (e *PartialError) Error() string {
	var b strings.Builder
	if len(e.Failures) > 0 {
		fmt.Fprintf(&b, "%d of %d schemas could not be saved; the others are safe", len(e.Failures), len(e.Failures)+e.Saved)
		listFailures(&b, e.Failures)
	}
	if len(e.Media) > 0 {
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "not all media files of %d of %d schemas could be saved; their rows, and all others, are safe", len(e.Media), e.Saved)
		listFailures(&b, e.Media)
	}
	return b.String()
}

// shownFailures is how many failures are worth reading at once; each was told
// when it happened.
const shownFailures = 20

func listFailures(b *strings.Builder, failures []manifest.Failure) {
	for i, f := range failures {
		if i == shownFailures {
			fmt.Fprintf(b, "\n  and %d more", len(failures)-i)
			return
		}
		fmt.Fprintf(b, "\n  %s: %s", f.Tenant, f.Error)
	}
}

// FailedError is a run of which nothing could be saved.
type FailedError struct{ Failures []manifest.Failure }

func (e *FailedError) Error() string {
	var b strings.Builder
	b.WriteString("nothing could be saved")
	listFailures(&b, e.Failures)
	return b.String()
}

// UnfilledError is a database that a startup was filling when it died, or still is.
// A backup of what is there would pass for one of the whole.
type UnfilledError struct{ Database, Mark string }

func (e *UnfilledError) Error() string {
	return fmt.Sprintf("database %q holds a part of a restore that has not ended: nothing is saved of it", e.Database)
}

// Hint says how it ends.
func (e *UnfilledError) Hint() string {
	return "tenantkeep startup begins again and finishes it; if the database is to be used as it is: DROP SCHEMA " + pg.Identifier(e.Mark)
}

// NoSchemaError is a schema that was asked for and does not exist.
type NoSchemaError struct {
	Database string
	Names    []string
	Known    []string // all schemas that could have been asked for
}

func (e *NoSchemaError) Error() string {
	return fmt.Sprintf("database %q has no schema %s", e.Database, quoted(e.Names))
}

// Hint names those that there are.
func (e *NoSchemaError) Hint() string {
	known := e.Known
	if len(known) > 20 {
		return fmt.Sprintf("names are exact, upper and lower case included; it has %d schemas, among them %s", len(known), quoted(known[:20]))
	}
	return "names are exact, upper and lower case included; it has " + quoted(known)
}

func quoted(names []string) string {
	q := make([]string, len(names))
	for i, n := range names {
		q[i] = fmt.Sprintf("%q", n)
	}
	return strings.Join(q, ", ")
}

// run is one backup in progress.
type run struct {
	Options
	info     *pg.Info
	program  pgdump.Program
	out      *repo.BackupWriter
	encoding string             // client_encoding of all sessions and files
	chosen   map[string]bool    // names of the schemas that the run is to save
	parents  map[string]*parent // by schema
	marks    []pg.Mark          // of earlier backups

	mediaPast    map[string]mediaPast // by schema
	mediaParents map[string]*parent   // that archives build on, by schema
	tenants      media.Tenants        // all of the database, whose folders are not core's
}

// begin connects, takes the lock of the database, and looks for pg_dump. The lock
// lasts as long as the connection that it returns.
func begin(ctx context.Context, o Options) (_ *run, _ *pgx.Conn, err error) {
	o.Jobs = max(o.Jobs, 1)
	o.LockTimeout = cmp.Or(o.LockTimeout, 5*time.Second)
	o.MaxChain = cmp.Or(o.MaxChain, DefaultMaxChain)
	r := &run{Options: o, chosen: map[string]bool{}}
	conn, err := o.Server.Connect(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			pg.Close(conn)
		}
	}()
	if !o.Locked {
		if err := pg.Lock(ctx, conn, "backup"); err != nil {
			return nil, nil, err
		}
	}
	if r.info, err = pg.ReadInfo(ctx, conn); err != nil {
		return nil, nil, err
	}
	r.encoding = pg.ClientEncoding(conn)
	if r.program, err = pgdump.Find(ctx, o.PgDump, r.info.ServerVersionNum); err != nil {
		return nil, nil, err
	}
	if w := r.program.Warning(r.info.ServerVersionNum); w != "" {
		r.Progress.Note(slog.LevelWarn, "", w)
	}
	return r, conn, nil
}

// Run takes a backup. It returns a *PartialError where some schemas failed and
// a manifest was written all the same.
func Run(ctx context.Context, o Options) (done *Result, err error) {
	began := time.Now()
	r, conn, err := begin(ctx, o)
	if err != nil {
		return nil, err
	}
	defer pg.Close(conn)
	if !o.Locked {
		watched, stop := pg.Watch(ctx, conn)
		defer func() {
			if stop(); done == nil { // else the backup was complete before
				err = pg.LockLost(watched, err)
			}
		}()
		ctx = watched
	}
	first, err := r.newRound(ctx)
	if err != nil {
		return nil, err
	}
	defer first.close()
	o.Log.DebugContext(ctx, "Exported the snapshot and read the inventory", "schemas", len(first.schemas), "seconds", time.Since(began).Seconds())
	if err := first.choose(); err != nil {
		return nil, err
	}
	if first.unclear != "" {
		o.Progress.Note(slog.LevelWarn, "", first.unclear)
	}
	result := &Result{Planned: first.planned()}
	for _, s := range result.Planned {
		r.chosen[s.Name] = true
	}
	all := r.mediaTenants(first.candidates())
	r.tenants = first.tenantsNow(all)
	if err := r.checkMedia(ctx, first.tenants, all, result); err != nil {
		return nil, err
	}
	if o.DryRun {
		result.Elapsed = time.Since(began)
		return result, nil
	}

	var busy *repo.LockedError
	removed, err := o.Repo.RemoveRemains(ctx)
	switch {
	case errors.As(err, &busy): // others are at work: what they have begun is no remains
	case err != nil:
		return nil, fmt.Errorf("open the repository: %w", err)
	case len(removed) > 0:
		o.Log.InfoContext(ctx, "Removed the remains of an interrupted run", "files", len(removed))
	}
	if r.out, err = o.Repo.NewBackup(ctx, o.Type); err != nil {
		return nil, err
	}
	defer func() {
		if err := r.out.Abort(ctx); err != nil { // does nothing after Finish
			o.Log.ErrorContext(ctx, "Removing the files of this run did not work; the next run removes them", "error", err)
		}
	}()

	// The one reads the repository, the other the database.
	var reading errgroup.Group // the failure of one must not end the session of the other, which holds the snapshot
	reading.Go(func() (err error) {
		r.parents, err = r.findParents(ctx, first.tenants, first.mark != nil && o.Type == manifest.Incremental)
		return err
	})
	reading.Go(func() error { return first.explain(ctx, first.readState(ctx)) })
	if err := reading.Wait(); err != nil {
		return nil, err
	}
	if o.Type == manifest.Incremental && len(r.parents) == 0 {
		o.Progress.Note(slog.LevelInfo, "", "there is no earlier backup to build on: this one is a full backup")
		r.Type = manifest.Full
	}

	var total int64
	for _, s := range result.Planned {
		total += s.Bytes
	}
	o.Progress.Start("backup", len(result.Planned), total)
	defer o.Progress.Finish()

	m := r.manifest(first)
	m.Schemas = slices.Grow(m.Schemas, len(first.tenants))
	if err := r.rounds(ctx, first, m); err != nil {
		return nil, err
	}
	slices.SortFunc(m.Schemas, func(a, b manifest.Schema) int {
		if a.IsCore() != b.IsCore() {
			if a.IsCore() {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Schema, b.Schema)
	})
	nameFailures(m)
	slices.SortFunc(m.Failures, func(a, b manifest.Failure) int { return strings.Compare(a.Schema, b.Schema) })
	if len(m.Schemas) == 0 {
		return nil, &FailedError{Failures: m.Failures}
	}
	m.Parent = r.newestParent(m)
	if err := r.saveMedia(ctx, m); err != nil {
		return nil, err
	}
	m.Finished = time.Now().UTC()
	if err := r.out.Finish(ctx, m); err != nil {
		return nil, err
	}
	o.Progress.Finish()
	result.Manifest, result.Elapsed = m, time.Since(began)
	if files := mediaFailures(m); len(m.Failures)+len(files) > 0 {
		return result, &PartialError{Failures: m.Failures, Media: files, Saved: len(m.Schemas)}
	}
	return result, nil
}

// rounds takes all that the first round chose, and what changed under it again
// at newer snapshots.
func (r *run) rounds(ctx context.Context, round *round, m *manifest.Manifest) error {
	for n := 1; ; n++ {
		again, err := round.take(ctx, m)
		if err != nil {
			return err
		}
		round.close()
		if len(again) == 0 {
			return nil
		}
		if n == maxRounds {
			for _, t := range again {
				r.fail(m, t, fmt.Errorf("its definitions were changed again and again while it was copied: %w", t.err))
			}
			return nil
		}
		for _, t := range again {
			r.Progress.Note(slog.LevelWarn, t.tenant, fmt.Sprintf("changed while it was copied (%v): taken again at a newer moment", t.err))
		}
		if round, err = r.newRound(ctx); err != nil {
			return err
		}
		defer round.close()
		round.later = true
		for _, gone := range round.restrict(again) {
			if slices.Contains(r.Schemas, gone.Name) {
				r.fail(m, gone, errors.New("it was dropped while the backup ran"))
				continue
			}
			r.Progress.Note(slog.LevelWarn, gone.tenant, "dropped while the backup ran: not in this backup")
			r.Progress.TenantDone(gone.tenant, nil)
		}
	}
}

func (r *run) fail(m *manifest.Manifest, t *tenant, err error) {
	m.Failures = append(m.Failures, manifest.Failure{Schema: t.Name, Tenant: t.tenant, Error: err.Error()})
	r.Progress.TenantDone(t.tenant, err)
}

// nameFailures gives failed schemas names that a manifest can hold. One that is not
// UTF-8 must not keep the others from being saved.
func nameFailures(m *manifest.Manifest) {
	for i := range m.Failures {
		f := &m.Failures[i]
		if utf8.ValidString(f.Schema) {
			continue
		}
		f.Schema, f.Tenant = printable(f.Schema), printable(f.Tenant)
		for slices.ContainsFunc(m.Schemas, func(s manifest.Schema) bool { return s.Schema == f.Schema }) {
			f.Schema += "'"
		}
	}
}

// printable is a name as it is, or in quotes and with escapes where it is not UTF-8.
func printable(name string) string {
	if utf8.ValidString(name) {
		return name
	}
	return strconv.Quote(name)
}

func (r *run) manifest(d *round) *manifest.Manifest {
	return &manifest.Manifest{
		Timestamp:     manifest.NewTime(r.out.Started()),
		BackupType:    r.Type,
		RetentionDays: r.RetentionDays,
		Retention:     r.Retention,
		Compressed:    r.Compression.Algorithm != datafile.None,
		Compression:   r.Compression.String(),
		Schemas:       []manifest.Schema{},
		Format:        manifest.Format,
		ID:            r.out.ID(),
		Tool:          &manifest.Tool{Name: "tenantkeep", Version: r.Version, PgDump: r.program.Version},
		Database: &manifest.Database{
			Name: r.info.Name, ServerVersion: r.info.ServerVersion, ServerVersionNum: r.info.ServerVersionNum,
			Encoding: r.info.Encoding, Collate: r.info.Collate, Ctype: r.info.Ctype, SystemIdentifier: r.info.SystemIdentifier,
		},
		Snapshot:      d.moment(),
		LeftOut:       d.leftOut,
		RollbackPoint: r.RollbackPoint,
	}
}

// tenantName is the tenant's name of a schema.
func (r *run) tenantName(schema string) string {
	switch {
	case r.Tenant != "":
		return r.Tenant
	case schema == manifest.CoreSchema:
		return manifest.CoreTenant
	default:
		return schema
	}
}
