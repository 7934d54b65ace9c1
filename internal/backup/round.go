package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// tenant is one schema, or core, on its way into a data file.
type tenant struct {
	pg.Schema
	tenant string   // its name as a tenant
	core   bool     // with the database-level objects
	oids   []uint32 // its schemas: one, but core also has those of extensions

	// Read with the definitions.
	relations []pg.Relation
	details   map[uint32]pg.Details
	config    []pg.ConfigTable
	members   []string // statements that put its tables into publications
	matviews  []pg.Relation
	script    script

	err error // why it must be taken again
}

// round takes schemas at one snapshot.
type round struct {
	*run
	conn     *pgx.Conn // the coordinator: the snapshot lives as long as its transaction
	tx       pgx.Tx
	fresh    *pgx.Conn  // sees the newest state
	mu       sync.Mutex // for tx and fresh, which the stages share
	snapshot *pg.Snapshot
	later    bool // not the backup's own moment

	schemas    []pg.Schema // all of the database
	tenants    []*tenant   // to take, the biggest first
	needs      map[uint32]*pg.Needs
	extensions []pg.Extension
	config     []pg.ConfigTable
	roots      map[uint32]uint32
	casts      []pg.Cast
	matviews   []pg.Relation
	viewSchema map[uint32]uint32
}

func (r *run) newRound(ctx context.Context) (_ *round, err error) {
	d := &round{run: r}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	if d.conn, err = r.Server.Connect(ctx); err != nil {
		return nil, err
	}
	if d.fresh, err = r.Server.Connect(ctx); err != nil {
		return nil, err
	}
	if d.tx, d.snapshot, err = pg.ExportSnapshot(ctx, d.conn); err != nil {
		return nil, err
	}
	if d.schemas, err = pg.ListSchemas(ctx, d.tx); err != nil {
		return nil, err
	}
	if d.needs, err = pg.ReadNeeds(ctx, d.tx); err != nil {
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
	return d, nil
}

func (d *round) close() {
	pg.Close(d.conn)
	pg.Close(d.fresh)
	d.conn, d.fresh = nil, nil
}

// choose picks what the options ask for.
func (d *round) choose() error {
	core := &tenant{Schema: pg.Schema{Name: manifest.CoreSchema, Usable: true}, tenant: d.tenantName(manifest.CoreSchema), core: true}
	var tenants []*tenant
	known := []string{manifest.CoreSchema}
	for _, s := range d.schemas {
		switch {
		case s.Name == manifest.CoreSchema:
			oids := append(core.oids, s.OID)
			core.Schema, core.oids = s, oids
		case s.OnlyExtensions:
			core.oids = append(core.oids, s.OID)
		case pg.IsOwn(s.Name):
		default:
			known = append(known, s.Name)
			tenants = append(tenants, &tenant{Schema: s, tenant: d.tenantName(s.Name), oids: []uint32{s.OID}})
		}
	}
	tenants = append([]*tenant{core}, tenants...)
	var missing []string
	for _, name := range slices.Concat(d.Schemas, d.ExcludeSchemas) {
		if !slices.Contains(known, name) {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return &NoSchemaError{Database: d.info.Name, Names: missing, Known: known}
	}
	for _, t := range tenants {
		if len(d.Schemas) > 0 && !slices.Contains(d.Schemas, t.Name) || slices.Contains(d.ExcludeSchemas, t.Name) {
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

// restrict picks those that an earlier round could not finish, as they are
// now, and returns those that do not exist any more.
func (d *round) restrict(again []*tenant) (gone []*tenant) {
	wanted := map[string]bool{}
	for _, t := range again {
		wanted[t.Name] = true
	}
	if err := d.choose(); err == nil {
		d.tenants = slices.DeleteFunc(d.tenants, func(t *tenant) bool { return !wanted[t.Name] })
	}
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

// take saves the round's schemas into the manifest and returns those that must
// be taken again. An error ends the whole run.
func (d *round) take(ctx context.Context, m *manifest.Manifest) ([]*tenant, error) {
	results := &results{round: d, manifest: m}
	ready := d.usable(results)

	g, ctx := errgroup.WithContext(ctx)
	tenants := make(chan *tenant)
	segments := make(chan *segment)
	var open sync.WaitGroup // tenants that are given out and not finished
	g.Go(func() error {
		err := d.definitions(ctx, ready, results, func(t *tenant) error {
			open.Add(1)
			select {
			case tenants <- t:
				return nil
			case <-ctx.Done():
				open.Done()
				return context.Cause(ctx)
			}
		})
		close(tenants)
		open.Wait()
		close(segments)
		return err
	})
	for range d.Jobs {
		g.Go(func() error {
			w := &worker{round: d, segments: segments}
			defer w.close()
			return w.work(ctx, tenants, segments, func(t *tenant, s *manifest.Schema, err error) error {
				defer open.Done()
				return results.add(t, s, err)
			})
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return results.again, nil
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
	var changed *changedError
	var storage *storageError
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
	case errors.As(err, &storage), errors.Is(err, context.Canceled), pg.Lost(err):
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

// storageError is a failure to write to the repository. It ends the run, since
// it would hit the other schemas too.
type storageError struct{ err error }

func (e *storageError) Error() string { return "write to the repository: " + e.err.Error() }
func (e *storageError) Unwrap() error { return e.err }
