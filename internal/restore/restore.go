// Package restore brings schemas of a backup back into a database that has a
// free place for them: all of a backup into an empty database, or single
// tenants into one that lacks them.
//
// Everything that can be known beforehand is checked before anything is
// touched. A schema carries a mark in its comment until it is whole and compared
// with its backup: what a dead restore left is known by it, and removed by the
// next one.
//
// A schema that is in use is replaced live: a staging schema is made beside it,
// see mask, and takes its place in one short transaction, see swap. The replaced
// schema stays under another name, so that Rollback can swap it back. Schema
// public cannot be renamed: what is in it is exchanged, see coreInUse for its
// rows and coreObjects for all of its objects.
//
// Terms: a unit is one data file being restored; a step is one statement of it.
package restore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/media"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/registry"
	"github.com/tenantkeep/tenantkeep/internal/repo"
)

// Progress is told what a restore does. Its methods are called from several
// goroutines.
type Progress interface {
	// Start begins a stage ("verify", "define", "load", "index", "compare") of
	// so many tenants and about so many bytes; 0 where a stage does not count
	// them.
	Start(stage string, tenants int, bytes int64)
	Add(bytes, rows int64)
	TenantDone(tenant string, err error)
	Note(level slog.Level, tenant, message string)
	Finish()
}

// Options say what to restore, and where.
type Options struct {
	Server   *pg.Server
	Repo     *repo.Repo
	Manifest *manifest.Manifest
	// Schemas are names of schemas or tenants; empty means everything that the
	// backup holds.
	Schemas      []string
	Jobs         int  // connections that work at once; 0: the number of cores
	NoOwner      bool // objects belong to the role that restores
	NoPrivileges bool // grants are left out
	DryRun       bool // check, and change nothing
	Preview      bool // somebody looks at the plan, which therefore tells all that a dry run tells

	// Replace lets schemas take the place of those of the same name that are in
	// use. Without it they are refused.
	Replace bool
	// As is the name under which the only schema that is restored appears.
	As string
	// Over lets the only schema take the place of the live one called As, whatever
	// its own name is. It goes with Replace.
	Over bool
	// New says that As is to be a new tenant: others make theirs at the same time,
	// and one that would lack objects does not appear at all, unless Incomplete.
	New bool
	// Appear is called in the transaction in which a new tenant appears under its
	// name, once more where something was in the way. An error undoes it.
	Appear func(ctx context.Context, conn *pgx.Conn) error
	// Tables are the only ones of the only schema whose rows are restored, for
	// somebody to look at. Without As the schema gets a name of its own then.
	Tables []string
	// Resume swaps in what an earlier restore has staged and compared.
	Resume bool
	// Incomplete lets a schema take the place of a live one although objects of
	// it could not be made.
	Incomplete bool
	// Registry says what becomes of the rows elsewhere that register a tenant;
	// empty: they are put back where they are missing.
	Registry registry.Mode
	// SwapTimeout is how long to try to get the locks for a swap; 0: a minute.
	SwapTimeout time.Duration
	// Point saves live schemas before they are replaced and returns the id of
	// that backup. Nil: only the replaced schemas themselves are kept.
	Point func(ctx context.Context, schemas []string) (id string, err error)
	// Swapped is told of each of these backups whether the schemas were replaced.
	// Where that is not certain it is not called. Nil: nobody needs to know.
	Swapped func(ctx context.Context, id string, swapped bool) error
	// PointReady says before anything is touched why Point would fail. Nil: it is
	// not asked.
	PointReady func(context.Context, *pg.Info) error
	// Media is where the tenants' files are, which are put back with their schemas.
	// Nil: it is not known. With RowsOnly they stay as they are.
	Media    *media.Root
	RowsOnly bool
	// Existing says what becomes of folders with files that are there already; empty:
	// see there.
	Existing Existing
	// LeaveOutLinks leaves out links that lead out of their folders, for which files
	// are not put back otherwise.
	LeaveOutLinks bool
	// Confirm is asked once everything is checked and nothing is touched. An
	// error ends the restore. With Asks the lock of the database is not held
	// meanwhile, and everything but the files is checked again afterwards.
	Confirm  func(*Plan) error
	Asks     bool
	Progress Progress
	Log      *slog.Logger     // nil: none
	Now      func() time.Time // nil: time.Now
}

// Result is what a restore did, or would do.
type Result struct {
	Plan    *Plan
	Tenants []TenantResult // in the order of the plan; empty after a dry run
	Tables  int64          // of all tenants that were restored
	Rows    int64
	Bytes   int64 // of COPY text
	Seconds float64
	// Compare are statements that compare restored tables with the live ones,
	// and copy rows back; for a restore of single tables.
	Compare []string
}

// TenantResult is what became of one schema.
type TenantResult struct {
	Schema, Tenant string
	Tables, Rows   int64
	Bytes          int64   // of COPY text
	Seconds        float64 // from its first step to its last
	Notes          []string
	As             string // the name that the schema has now
	// Replaced is what the schema is called now whose place was taken. Empty:
	// there was none.
	Replaced string
	// Point is the id of the backup of the replaced schema.
	Point string
	// Blocked is for how long, in seconds, others could not use the tables
	// while the schemas were swapped.
	Blocked float64
	// Files are those that were put back, and ReplacedFiles the folder below the
	// media root that the files are in whose place they took; empty: none.
	Files         int64
	ReplacedFiles string
	// Staged is the schema that waits for its swap, which could not be done.
	Staged string
	// Access is how owners, grants, policies and comments of the replaced schema
	// differed, which were not those of the backup.
	Access []AccessChange
	// Registration is what became of the rows elsewhere that register the tenant.
	// Nil: nobody looked at them.
	Registration *registry.Report
	// Problems are objects that could not be made. Everything else of the
	// tenant is there, its rows among it.
	Problems []Problem
	// Err is why the tenant was not restored.
	Err error
	// Left says that remains of it could not be removed.
	Left bool
}

// Problem is one object that could not be made.
type Problem struct {
	Kind   string // as pg_dump names it
	Object string
	Err    error
	Remedy string // what to do, if that is known
	SQL    string // the statement that failed

	statement int // its place in the list of the file
}

// undoTimeout bounds the removal of what a failed restore made. What is left
// then is removed by the next restore.
const undoTimeout = 5 * time.Minute

// run is one restore at work.
type run struct {
	Options
	log   *slog.Logger
	info  *pg.Info // of the target
	plan  *Plan
	core  *unit   // nil: core is not restored
	units []*unit // core first

	main      *pgx.Conn // holds the lock of the database
	sessions  []*session
	remains   []remainder     // of dead restores, to be removed first
	installed map[string]bool // extensions that were there before
	blobs     []string        // OIDs of the large objects of core
	unmarked  bool            // the role may not put the mark on public

	mu       sync.Mutex
	deferred []failure // statements that failed and are tried again

	partitioned map[tableKey]bool // tables of the target

	tenants []media.Tenant // whose folders are not core's, by all the names that are known of them

	named   bool    // As was chosen here
	asked   bool    // Confirm was asked, and all is checked again
	checked []*unit // whose files were found good before
}

// newRun fills in what options leave to it.
func newRun(o Options) *run {
	if o.Jobs <= 0 {
		o.Jobs = runtime.NumCPU()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Progress == nil {
		o.Progress = silent{}
	}
	if o.SwapTimeout == 0 {
		o.SwapTimeout = time.Minute
	}
	r := &run{Options: o, log: o.Log}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	return r
}

func (r *run) close() {
	pg.Close(r.main)
	for _, s := range r.sessions {
		pg.Close(s.conn)
	}
}

// Run restores. The error is a *PreflightError when nothing was touched
// because something is missing, and a *PartialError when some tenants were
// restored and others not, or not wholly. The result is never nil.
func Run(ctx context.Context, o Options) (*Result, error) {
	r := newRun(o)
	began := r.Now()
	defer r.Progress.Finish()
	defer r.close()
	result := &Result{}
	err := r.prepare(ctx)
	result.Plan = r.plan
	if err != nil || r.DryRun {
		return result, err
	}
	if r.Confirm != nil {
		if err := r.Confirm(r.plan); err != nil {
			return result, err
		}
		if r.Asks {
			err := r.recheck(func() error { return r.prepare(ctx) })
			result.Plan = r.plan
			if err != nil {
				return result, err
			}
		}
		began = r.Now() // an answer may take its time
	}
	err = r.restore(ctx)
	if err == nil {
		err = r.finish(ctx)
	}
	if err == nil {
		r.tellAllNames(ctx, false)
		if err = r.swapAll(ctx); err == nil {
			r.tellAllNames(ctx, true)
		}
	}
	err = r.undo(ctx, err)
	if err == nil && len(r.Tables) > 0 && len(r.alive()) > 0 {
		result.Compare, err = r.compareSQL(ctx, r.units[0])
	}
	r.report(result, began)
	if err != nil {
		return result, err
	}
	return result, verdict(result)
}

// prepare checks everything that can be checked beforehand.
func (r *run) prepare(ctx context.Context) error {
	if err := r.choose(); err != nil {
		return err
	}
	conn, err := r.Server.Connect(ctx)
	if err != nil {
		return err
	}
	r.main = conn
	if r.locks() {
		if err := r.lock(ctx, conn); err != nil {
			return err
		}
	}
	// Definitions of views are read under locks on what they read.
	if _, err := conn.Exec(ctx, fmt.Sprintf("SET lock_timeout = %d", lockTimeout.Milliseconds())); err != nil {
		return fmt.Errorf("set lock_timeout: %w", err)
	}
	return r.preflight(ctx)
}

// lock takes the lock of the database, or that of a new tenant.
func (r *run) lock(ctx context.Context, conn *pgx.Conn) error {
	if r.New {
		return pg.LockNew(ctx, conn, "new tenant", r.As)
	}
	return pg.LockSchemas(ctx, conn, "restore")
}

// locks reports whether the lock of the database is taken: not by who only looks,
// nor as long as somebody is asked.
func (r *run) locks() bool { return !r.DryRun && (!r.Asks || r.asked) }

// recheck prepares once more, with the lock of the database, after somebody was
// asked: others may have been at work meanwhile. It is an error if that would have
// been another question. The files have not changed.
func (r *run) recheck(prepare func() error) error {
	before := r.plan
	r.checked = r.units
	pg.Close(r.main)
	r.asked, r.units, r.core, r.remains, r.blobs = true, nil, nil, nil, nil
	if err := prepare(); err != nil {
		return err
	}
	same := slices.EqualFunc(before.Schemas, r.plan.Schemas, func(a, b Planned) bool {
		return a.Schema == b.Schema && (a.Target == TargetFree) == (b.Target == TargetFree) &&
			(a.Live == nil) == (b.Live == nil) && (a.Live == nil || a.Live.oid == b.Live.oid)
	})
	if !same || !slices.Equal(before.Remains, r.plan.Remains) {
		return ErrChangedMeanwhile
	}
	return nil
}

// restore makes and fills the schemas. Its error ends the whole run; what
// concerns one tenant is kept with its unit.
func (r *run) restore(ctx context.Context) error {
	if err := r.settleMedia(ctx); err != nil { // while the remains tell what did not come to its end
		return err
	}
	if err := r.removeRemains(ctx); err != nil {
		return err
	}
	for range r.Jobs {
		s, err := r.newSession(ctx)
		if err != nil {
			return err
		}
		r.sessions = append(r.sessions, s)
	}
	ctx, stop := r.watch(ctx)
	defer stop()
	for _, stage := range []struct {
		name string
		run  func(context.Context) error
	}{
		{"definitions", r.definitions},
		{"tables", r.keepTables},
		{"rows", r.load},
		{"indexes", r.indexes},
		{"what is on tables", r.others},
		{"comparison", r.compare},
		{"what follows the rows", r.afterRows},
		{"statistics", r.analyze},
		{"files", r.putMedia},
	} {
		if r.Resume && stage.name != "comparison" {
			continue
		}
		began := r.Now()
		if err := stage.run(ctx); err != nil {
			return err
		}
		r.log.Debug("A stage of the restore is done.", "stage", stage.name, "seconds", r.Now().Sub(began).Seconds())
		if r.core != nil && r.core.failed() {
			return fmt.Errorf("tenant %s: %w", r.core.entry.Tenant, r.core.err)
		}
		if len(r.alive()) == 0 {
			return nil
		}
	}
	return nil
}

// watch cancels the context when the connection is lost that holds the lock of
// the database. That connection must not be used before stop has returned.
func (r *run) watch(ctx context.Context) (watched context.Context, stop func()) {
	return pg.Watch(ctx, r.main)
}

// alive are the units that have not failed.
func (r *run) alive() []*unit {
	return slices.DeleteFunc(slices.Clone(r.units), (*unit).failed)
}

// report fills in the result.
func (r *run) report(result *Result, began time.Time) {
	for _, u := range r.units {
		t := TenantResult{
			Schema: u.entry.Schema, Tenant: u.entry.Tenant, Notes: u.notes, Problems: u.problems, Err: u.err, Left: u.left,
			As: u.newName(r.As), Replaced: u.replaced, Point: u.point, Blocked: u.blocked.Seconds(), Staged: u.staged, Access: u.access,
		}
		if u.err == nil && u.files != nil && u.files.placed {
			t.ReplacedFiles = u.movedMedia()
			t.Files = u.entry.Media.Files
		}
		if u.err == nil {
			t.Tables, t.Rows, t.Bytes = int64(len(u.file.Index.Tables)), u.rows(), u.bytes()
			t.Registration = u.registered
			if !u.began.IsZero() {
				t.Seconds = u.ended.Sub(u.began).Seconds()
			}
			result.Tables += t.Tables
			result.Rows += t.Rows
			result.Bytes += t.Bytes
		}
		result.Tenants = append(result.Tenants, t)
	}
	result.Seconds = r.Now().Sub(began).Seconds()
}

// verdict turns what became of the tenants into an error.
func verdict(result *Result) error {
	e := &PartialError{}
	for _, t := range result.Tenants {
		switch {
		case t.Err != nil:
			e.Failed = append(e.Failed, t)
		case len(t.Problems) > 0:
			e.Incomplete = append(e.Incomplete, t)
		default:
			e.Done++
		}
	}
	switch {
	case len(e.Failed)+len(e.Incomplete) == 0:
		return nil
	case len(e.Failed) == len(result.Tenants):
		errs := make([]error, 0, len(e.Failed))
		for _, t := range e.Failed {
			errs = append(errs, fmt.Errorf("tenant %s: %w", t.Tenant, t.Err))
		}
		return errors.Join(errs...)
	}
	return e
}

// silent is a Progress for those who want none.
type silent struct{}

func (silent) Start(string, int, int64)        {}
func (silent) Add(int64, int64)                {}
func (silent) TenantDone(string, error)        {}
func (silent) Note(slog.Level, string, string) {}
func (silent) Finish()                         {}
