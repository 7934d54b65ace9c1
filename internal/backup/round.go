package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgdump"
	"github.com/tenantkeep/tenantkeep/internal/registry"
)

// tenant is one schema, or core, on its way into a data file.
type tenant struct {
	pg.Schema
	tenant string   // its name as a tenant
	core   bool     // with the database-level objects
	oids   []uint32 // its schemas: one, but core also has those of extensions

	parent        *parent  // what an earlier backup has of it; nil: none has
	definitions   string   // what its definitions are known by
	fingerprinted bool     // by their content
	uses          []string // the other tenants' schemas that they name
	reused        bool     // its definitions are the parent's

	*material // nil until its inventory is read, and once it is saved

	err error // why it must be taken again
}

// material is what is only needed while a tenant is being copied.
type material struct {
	relations []pg.Relation
	details   map[uint32]pg.Details
	config    []pg.ConfigTable
	members   []string // statements that put its tables into publications
	matviews  []pg.Relation
	script    script
	frames    []storedFrame // definitions that are stored again as they are
	stored    *storedRows   // rows that may be; nil: none

	last         map[uint32]int64 // values of sequences, as far as they are known
	restarts     map[uint32]int64 // where sequences begin of tables that stay empty
	registration []manifest.RegistryTable
	unregistered error // why the registration could not be read
}

// round takes schemas at one snapshot.
type round struct {
	*run
	newestState
	conn     *pgx.Conn // the coordinator: the snapshot lives as long as its transaction
	tx       pgx.Tx
	mu       sync.Mutex // for tx, which the runs of pg_dump share
	snapshot *pg.Snapshot
	mark     *pg.Mark       // in the write-ahead log, before the snapshot; nil: none
	seal     string         // made after the snapshot; empty: the server cannot
	answers  pgdump.Answers // of the snapshot's catalogue
	later    bool           // not the backup's own moment

	schemas         []pg.Schema    // all of the database
	byName          map[string]int // of these
	tenants         []*tenant      // to take, the biggest first
	needs           func() (map[uint32]*pg.Needs, error)
	extensions      []pg.Extension
	hasLargeObjects bool
	config          []pg.ConfigTable
	roots           map[uint32]pg.Root
	casts           []pg.Cast
	matviews        []pg.Relation
	viewSchema      map[uint32]uint32

	changesMu    sync.Mutex
	changedSince map[string]*pg.ChangedBlocks // by the snapshot of a parent

	leftOut  []string          // what the options do not ask for
	registry []registry.Source // tables with the rows that register tenants
	unclear  string            // why there are none, though there may be such tables

	catalogs func() (*pg.CatalogDigests, error)
	state    *pg.CatalogState // nil: not known
	proofs   map[string]bool  // by seal: whether it is of this server's past
	same     map[string]bool  // by snapshot of a parent: whether no catalog has changed since
}

func (r *run) newRound(ctx context.Context) (_ *round, err error) {
	d := &round{run: r, newestState: newestState{server: r.Server}, byName: map[string]int{}, changedSince: map[string]*pg.ChangedBlocks{}, proofs: map[string]bool{}, same: map[string]bool{}}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.conn, err = r.Server.Connect(ctx); err != nil {
		return nil, err
	}
	if err = d.newestState.connect(ctx); err != nil {
		return nil, err
	}
	if err := d.takeMark(ctx); err != nil {
		return nil, err
	}
	if d.tx, d.snapshot, err = pg.ExportSnapshot(ctx, d.conn); err != nil {
		return nil, err
	}
	if err := d.makeSeal(ctx); err != nil {
		return nil, err
	}
	if d.schemas, err = pg.ListSchemas(ctx, d.tx, r.Schemas...); err != nil {
		return nil, err
	}
	for i, s := range d.schemas {
		d.byName[s.Name] = i
	}
	if i := slices.IndexFunc(d.schemas, pg.Schema.Unfilled); i >= 0 {
		return nil, &UnfilledError{Database: d.info.Name, Mark: d.schemas[i].Name}
	}
	d.catalogs = sync.OnceValues(func() (*pg.CatalogDigests, error) { return d.readCatalogs(ctx) })
	d.needs = sync.OnceValues(func() (map[uint32]*pg.Needs, error) { return d.readNeeds(ctx) })
	if d.hasLargeObjects, err = pg.HasLargeObjects(ctx, d.tx); err != nil {
		return nil, err
	}
	if d.extensions, err = pg.ListExtensions(ctx, d.tx); err != nil {
		return nil, err
	}
	if d.config, err = pg.ListConfigTables(ctx, d.tx); err != nil {
		return nil, err
	}
	if d.casts, err = pg.ListCasts(ctx, d.tx); err != nil {
		return nil, err
	}
	if d.roots, err = pg.RootLoaded(ctx, d.tx); err != nil {
		return nil, err
	}
	if d.matviews, d.viewSchema, err = pg.MatviewOrder(ctx, d.tx); err != nil {
		return nil, err
	}
	if d.registry, d.unclear, err = r.Registry.Find(ctx, d.tx); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *round) close() {
	pg.Close(d.conn)
	pg.Close(d.newestState.conn)
	d.conn, d.newestState.conn = nil, nil
}

// candidates are all that could be taken, core first.
func (d *round) candidates() []*tenant {
	list := candidates(d.schemas)
	for _, t := range list {
		t.tenant = d.tenantName(t.Name)
	}
	return list
}

// newestState is a session that sees the newest state, whatever the snapshot
// shows. Each of its statements is a transaction of its own, so it keeps no
// locks.
type newestState struct {
	server *pg.Server
	using  sync.Mutex
	conn   *pgx.Conn
}

func (n *newestState) connect(ctx context.Context) error {
	conn, err := n.server.Connect(ctx)
	if err != nil {
		return err
	}
	if err := pg.KeepPlans(ctx, conn); err != nil {
		pg.Close(conn)
		return err
	}
	n.conn = conn
	return nil
}

// newest reads the newest state. A session that was lost is replaced, once.
func (n *newestState) newest(ctx context.Context, f func(pg.Querier) error) (err error) {
	n.using.Lock()
	defer n.using.Unlock()
	for attempt := 1; ; attempt++ {
		if n.conn == nil {
			if err = n.connect(ctx); err != nil {
				return err
			}
		}
		err = f(n.conn)
		if !pg.Lost(err) || ctx.Err() != nil || attempt == 2 {
			return err
		}
		pg.Close(n.conn)
		n.conn = nil
	}
}

// readNeeds reads what all schemas need from elsewhere, on a session of its
// own: it takes about as long as a run of pg_dump.
func (d *round) readNeeds(ctx context.Context) (map[uint32]*pg.Needs, error) {
	conn, err := d.Server.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer pg.Close(conn)
	if err := d.snapshot.Import(ctx, conn); err != nil {
		return nil, err
	}
	return pg.ReadNeeds(ctx, conn)
}

// choose picks what the options ask for.
func (d *round) choose() error {
	tenants := d.candidates()
	d.leftOut = []string{}
	var known, missing []string
	for _, t := range tenants {
		known = append(known, t.Name)
	}
	for _, name := range d.Schemas {
		if !slices.Contains(known, name) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 && !d.later { // later: what was dropped meanwhile
		return &NoSchemaError{Database: d.info.Name, Names: missing, Known: known}
	}
	for _, name := range d.ExcludeSchemas {
		if !slices.Contains(known, name) && !d.later {
			d.Progress.Note(slogWarn, "", fmt.Sprintf("there is no schema %q to leave out", name))
		}
	}
	for _, t := range tenants {
		if len(d.Schemas) > 0 && !slices.Contains(d.Schemas, t.Name) || slices.Contains(d.ExcludeSchemas, t.Name) {
			d.leftOut = append(d.leftOut, printable(t.Name))
			continue
		}
		d.tenants = append(d.tenants, t)
	}
	if len(d.tenants) == 0 {
		return errors.New("every schema is excluded: there is nothing to back up")
	}
	d.sort()
	return nil
}

// few reports whether so few of the database's schemas are taken that catalogs
// are read more quickly for them alone.
func (d *round) few() bool { return len(d.tenants) < len(d.schemas)/10 }

// readState reads the state of the catalogs, where that is worth its time.
func (d *round) readState(ctx context.Context) (err error) {
	if d.seal == "" || d.few() {
		return nil
	}
	d.state, err = pg.ReadCatalogState(ctx, d.tx, d.info.ServerVersionNum)
	return err
}

// restrict picks those that an earlier round could not finish, as they are
// now, and returns those that do not exist any more.
func (d *round) restrict(again []*tenant) (gone []*tenant) {
	wanted := map[string]bool{}
	for _, t := range again {
		wanted[t.Name] = true
	}
	d.tenants = slices.DeleteFunc(d.candidates(), func(t *tenant) bool { return !wanted[t.Name] })
	d.sort()
	for _, t := range d.tenants {
		delete(wanted, t.Name)
	}
	return slices.DeleteFunc(again, func(t *tenant) bool { return !wanted[t.Name] })
}

// sort puts core first, since its definitions come from a run of pg_dump of
// their own, and then the biggest, so that no worker is left with a big one at
// the end.
func (d *round) sort() {
	slices.SortStableFunc(d.tenants, func(a, b *tenant) int {
		if a.core != b.core {
			if a.core {
				return -1
			}
			return 1
		}
		return cmp.Compare(b.Bytes, a.Bytes)
	})
}

func (d *round) planned() []pg.Schema {
	var list []pg.Schema
	for _, t := range d.tenants {
		list = append(list, t.Schema)
	}
	return list
}

// ahead is how many tenants with their definitions may wait for a worker, so
// that pg_dump need not wait for the rows.
const ahead = 64

// take saves the round's schemas into the manifest and returns those that must
// be taken again. An error ends the whole run.
func (d *round) take(ctx context.Context, m *manifest.Manifest) ([]*tenant, error) {
	results := &results{round: d, manifest: m}
	ready := d.usable(results)

	g, ctx := errgroup.WithContext(ctx)
	tenants := make(chan *tenant, ahead)
	segments := make(chan *segment)
	// The definitions, and tenants that are given out and not finished. Whoever
	// ends the last of them ends the segments; after an error nobody does.
	var open atomic.Int64
	open.Store(1)
	done := func() {
		if open.Add(-1) == 0 {
			close(segments)
		}
	}
	g.Go(func() error {
		next := func(t *tenant) error {
			open.Add(1)
			select {
			case tenants <- t:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if err := d.prepare(ctx, ready, results, next); err != nil {
			return err
		}
		close(tenants)
		done()
		return nil
	})
	for n := range d.workers(ready) {
		g.Go(func() error {
			w := &worker{round: d, segments: segments}
			defer w.close()
			err := w.session(ctx)
			if n > 0 && pg.Code(err) == pg.TooManyConnections {
				d.Progress.Note(slogWarn, "", "the server has no connection left for one of the workers: going on without it")
				return nil
			}
			if err != nil {
				return err
			}
			return w.work(ctx, tenants, segments, func(t *tenant, s *manifest.Schema, err error) error {
				if err != nil && ctx.Err() != nil {
					return context.Cause(ctx) // why the others stopped, not what came of it here
				}
				defer done()
				return results.add(t, s, err)
			})
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return results.again, nil
}

// workers is how many workers have something to do: one small tenant keeps one
// busy.
func (d *round) workers(tenants []*tenant) int {
	if len(tenants) == 1 && tenants[0].Bytes < segmentBytes {
		return 1
	}
	return d.Jobs
}

// usable leaves out what is known to fail, so that it does not spoil the run of
// pg_dump for its group.
func (d *round) usable(results *results) []*tenant {
	var ready []*tenant
	for _, t := range d.tenants {
		switch {
		case !utf8.ValidString(t.Name):
			results.fail(t, errors.New("its name is not valid UTF-8: in a database of encoding SQL_ASCII names must be"))
		case !t.Usable:
			results.fail(t, fmt.Errorf("role %q has no right to use it: GRANT USAGE ON SCHEMA %s TO %s", d.info.User, pg.Identifier(t.Name), pg.Identifier(d.info.User)))
		case t.Unfinished != "" && !d.RollbackPoint: // its backup would pass for that of a whole tenant
			results.fail(t, fmt.Errorf("a restore of backup %s into it has not ended, so that it may be only a part: %s", t.Unfinished, pg.UnfinishedRemedy(t.Name)))
		default:
			ready = append(ready, t)
		}
	}
	return ready
}

// results gathers what comes of the tenants of a round.
type results struct {
	*round
	sync.Mutex
	manifest *manifest.Manifest
	again    []*tenant
}

// add takes the end of one tenant: saved as s, or failed with err. It returns
// the errors that end the run.
func (r *results) add(t *tenant, s *manifest.Schema, err error) error {
	t.material = nil // so that memory does not grow with the number of tenants
	var changed *changedError
	var storage *storageError
	var session *sessionError
	switch {
	case err == nil:
		r.Lock()
		r.manifest.Schemas = append(r.manifest.Schemas, *s)
		r.Unlock()
		r.Progress.TenantDone(t.tenant, nil)
		return nil
	case errors.As(err, &changed):
		t.err = err
		r.Lock()
		r.again = append(r.again, t)
		r.Unlock()
		return nil
	case errors.As(err, &storage), errors.As(err, &session), pg.Lost(err), refuses(err):
		return err
	default:
		r.fail(t, err)
		return nil
	}
}

func (r *results) fail(t *tenant, err error) {
	r.Lock()
	defer r.Unlock()
	r.round.fail(r.manifest, t, err)
}

// changedError is a schema that is not any more as the snapshot shows it.
type changedError struct{ what string }

func (e *changedError) Error() string { return e.what }

// errSnapshotGone says that the session that exported the snapshot has ended,
// so that no other can join it any more.
var errSnapshotGone = errors.New("the session that holds the snapshot of this backup was lost")

// sessionError is a worker that gets no session. It ends the run: no schema is
// to blame.
type sessionError struct{ err error }

func (e *sessionError) Error() string { return e.err.Error() }
func (e *sessionError) Unwrap() error { return e.err }

// lockedError is a lock that was not granted in all the time that was waited.
type lockedError struct{ waited time.Duration }

func (e *lockedError) Error() string {
	return fmt.Sprintf("another session has held a lock on one of its tables for more than %s (a running ALTER TABLE, TRUNCATE or VACUUM FULL?): back it up again when that is done", e.waited)
}

// tooManyError is a schema whose tables cannot all be locked at once.
type tooManyError struct{ relations int }

func (e *tooManyError) Error() string {
	return fmt.Sprintf("its %d tables do not fit the server's lock table: raise max_locks_per_transaction", e.relations)
}

// pause waits, or less where the context ends.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// storageError is a failure to write to the repository. It ends the run, since
// it would hit the other schemas too.
type storageError struct{ err error }

func (e *storageError) Error() string { return "write to the repository: " + e.err.Error() }
func (e *storageError) Unwrap() error { return e.err }
