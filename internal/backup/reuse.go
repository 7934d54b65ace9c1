package backup

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// Definitions are known by what their catalog rows are: by which they are, where
// the server can prove that it has the history in which these were written; else
// by what they hold, which takes longer to read. Where that is the same for two
// backups, pg_dump of the same version writes the same for both.

// byDigest is what the definitions of a tenant are known by that names these
// other tenants; empty where the server cannot tell.
func (d *round) byDigest(ctx context.Context, t *tenant, uses []string) (string, error) {
	if d.seal == "" {
		return "", nil
	}
	c, err := d.catalogs()
	if err != nil {
		return "", d.explain(ctx, err)
	}
	parts := []string{c.Core, c.LargeObjects}
	if !t.core {
		own, ok := c.Schemas[t.OID]
		if !ok {
			return "", nil
		}
		parts = []string{c.Core, own}
	}
	for _, name := range uses {
		i, ok := d.byName[name]
		if !ok {
			return "", nil
		}
		other, ok := c.Schemas[d.schemas[i].OID]
		if !ok {
			return "", nil // not among those that were read
		}
		parts = append(parts, other)
	}
	sum := sha256.Sum256([]byte(strings.Join(parts, " ")))
	return fmt.Sprintf("rows:%x/%s", sum[:16], d.written()), nil
}

// written says how definitions are written: by which pg_dump, and in which form
// files list them.
func (d *round) written() string {
	return fmt.Sprintf("pg_dump-%s/index-%d", d.program.Version, datafile.IndexFormat)
}

// catalogSessions is how many sessions read digests: nobody else has work before
// they are known.
const catalogSessions = 2

// readCatalogs reads the digests of all schemas that the round may ask for, on
// sessions of its own.
func (d *round) readCatalogs(ctx context.Context) (*pg.CatalogDigests, error) {
	var sessions []pg.Querier
	for len(sessions) < min(catalogSessions, d.Jobs) {
		conn, err := d.Server.Connect(ctx)
		if len(sessions) > 0 && pg.Code(err) == pg.TooManyConnections {
			break
		}
		if err != nil {
			return nil, err
		}
		defer pg.Close(conn)
		if err := d.snapshot.Import(ctx, conn); err != nil {
			return nil, err
		}
		sessions = append(sessions, conn)
	}
	var core, some []uint32
	for _, t := range d.candidates() {
		if t.core {
			core = t.oids
		}
	}
	if d.few() {
		wanted := map[string]bool{}
		for _, t := range d.tenants {
			wanted[t.Name] = true
			if p := d.parents[t.Name]; p != nil {
				for _, name := range p.entry.Uses {
					wanted[name] = true
				}
			}
		}
		some = []uint32{}
		for _, s := range d.schemas {
			if wanted[s.Name] {
				some = append(some, s.OID)
			}
		}
	}
	began := time.Now()
	c, err := pg.ReadCatalogDigests(ctx, sessions, d.info.ServerVersionNum, core, some)
	d.Log.DebugContext(ctx, "Read the digests of catalogs", "all", some == nil, "seconds", time.Since(began).Seconds())
	return c, err
}

// proven reports whether this server has the history that a parent was taken in.
func (d *round) proven(ctx context.Context, p *parent) (bool, error) {
	seal := p.moment().Proof()
	if d.seal == "" || seal == "" {
		return false, nil
	}
	if proven, ok := d.proofs[seal]; ok {
		return proven, nil
	}
	var reason string
	err := d.newest(ctx, func(q pg.Querier) (err error) {
		reason, err = pg.CheckSeal(ctx, q, seal)
		return err
	})
	if err != nil {
		return false, err
	}
	if reason != "" {
		d.Log.DebugContext(ctx, "Definitions are taken anew", "backup", p.backup.ID, "reason", reason)
	}
	d.proofs[seal] = reason == ""
	return reason == "", nil
}

// sameCatalogs reports whether no catalog at all has changed since a parent, of
// this server's past: then all that is known by digests is what it was.
func (d *round) sameCatalogs(ctx context.Context, p *parent) (bool, error) {
	then := p.moment()
	if same, ok := d.same[then.XID]; ok {
		return same, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	same, err := d.state.SameSince(ctx, d.tx, then.XID, then.Catalogs)
	d.same[then.XID] = same
	return same, err
}

// byContent is what the definitions of tenants are known by on a server that
// cannot prove its history: on a standby, and before PostgreSQL 13.
// They are looked at together, which takes less than one after the other.
func (d *round) byContent(ctx context.Context, tenants []*tenant) error {
	if d.seal != "" {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.ContainsFunc(tenants, func(t *tenant) bool { return !t.fingerprinted }) {
		return nil
	}
	tenants = d.tenants
	f, err := pg.NewFingerprinter(ctx, d.tx)
	if err != nil {
		return err
	}
	known := func(t *tenant, fingerprint string) {
		t.fingerprinted = true
		if fingerprint != "" {
			t.definitions = fingerprint + "/" + d.written()
		}
	}
	var schemas []uint32
	for _, t := range tenants {
		if !t.core {
			schemas = append(schemas, t.OID)
			continue
		}
		core, err := f.Core(ctx, t.oids)
		if err != nil {
			return err
		}
		known(t, core)
	}
	prints, err := f.Schemas(ctx, schemas)
	if err != nil {
		return err
	}
	for _, t := range tenants {
		if !t.core {
			known(t, prints[t.OID])
		}
	}
	return nil
}

// prepare hands all tenants to next once their definitions are known: from their
// parent where they are the same, else from pg_dump.
func (d *round) prepare(ctx context.Context, tenants []*tenant, results *results, next func(*tenant) error) error {
	for _, t := range tenants {
		t.parent = d.parents[t.Name]
	}
	old, fresh := partition(tenants, func(t *tenant) bool { return t.parent != nil && !d.NoReuseDDL })
	g, groupCtx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.definitions(groupCtx, fresh, results, next) })
	var changed []*tenant
	g.Go(func() error {
		for _, slice := range slicesOf(old) {
			reused, others, err := d.known(groupCtx, slice)
			if err != nil {
				return err
			}
			changed = append(changed, others...)
			unreadable, err := d.reuse(groupCtx, reused, results, next)
			if err != nil {
				return err
			}
			changed = append(changed, unreadable...)
		}
		return nil
	})
	if err := g.Wait(); err != nil {
		return err
	}
	// In one go, since a run of pg_dump reads the whole catalogue.
	return d.definitions(ctx, changed, results, next)
}

// sliceTables is how many tables are looked at together, in tables: their
// inventory is in memory until the workers have taken them.
const sliceTables = 4000

// slicesOf cuts tenants into slices, core by itself. The first ones are small:
// the workers wait for them.
func slicesOf(tenants []*tenant) (all [][]*tenant) {
	if len(tenants) > 0 && tenants[0].core {
		all, tenants = append(all, tenants[:1]), tenants[1:]
	}
	for limit := sliceTables / 8; len(tenants) > 0; limit = min(2*limit, sliceTables) {
		n, size := 0, 0
		for n < len(tenants) && (n == 0 || size+tenants[n].weight() <= limit) {
			size += tenants[n].weight()
			n++
		}
		all, tenants = append(all, tenants[:n]), tenants[n:]
	}
	return all
}

// known finds the tenants of which the definitions are those of their parent, so
// that pg_dump need not write them again.
func (d *round) known(ctx context.Context, tenants []*tenant) (reused, others []*tenant, err error) {
	if err := d.byContent(ctx, tenants); err != nil {
		return nil, nil, d.explain(ctx, err)
	}
	for _, t := range tenants {
		if t.parent == nil {
			continue
		}
		t.reused = t.definitions != "" && t.parent.entry.Definitions == t.definitions
		if d.seal == "" {
			continue
		}
		proven, err := d.proven(ctx, t.parent)
		if err != nil {
			return nil, nil, err
		}
		if !proven {
			continue
		}
		same, err := d.sameCatalogs(ctx, t.parent)
		if err != nil {
			return nil, nil, d.explain(ctx, err)
		}
		if same && strings.HasSuffix(t.parent.entry.Definitions, "/"+d.written()) {
			t.reused, t.definitions, t.uses = true, t.parent.entry.Definitions, t.parent.entry.Uses
			continue
		}
		now, err := d.byDigest(ctx, t, t.parent.entry.Uses)
		if err != nil {
			return nil, nil, err
		}
		if t.reused = now != "" && now == t.parent.entry.Definitions; t.reused {
			t.definitions, t.uses = now, t.parent.entry.Uses
		}
	}
	reused, others = partition(tenants, func(t *tenant) bool { return t.reused })
	return reused, others, nil
}

// partition divides a list by a property, in its order.
func partition[T any](list []T, has func(T) bool) (with, without []T) {
	for _, v := range list {
		if has(v) {
			with = append(with, v)
		} else {
			without = append(without, v)
		}
	}
	return with, without
}

// reuse hands tenants to next whose definitions are those of their parent, and
// returns those whose parent turns out to be unreadable.
func (d *round) reuse(ctx context.Context, group []*tenant, results *results, next func(*tenant) error) (unreadable []*tenant, err error) {
	if len(group) == 0 {
		return nil, nil
	}
	if err := d.inventory(ctx, group); err != nil {
		return nil, d.explain(ctx, err)
	}
	for _, t := range group {
		if err := d.readable(t); err != nil {
			results.fail(t, err)
			continue
		}
		if d.Type != manifest.Incremental {
			err := d.readParent(ctx, t)
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			if err != nil {
				d.Progress.Note(slogWarn, t.tenant, fmt.Sprintf("its definitions in backup %s cannot be read, they are taken anew: %v", t.parent.backup.ID, err))
				t.reused = false
				unreadable = append(unreadable, t)
				continue
			}
		}
		if err := next(t); err != nil {
			return nil, err
		}
	}
	return unreadable, nil
}

// storedFrame is a frame of definitions that another file has.
type storedFrame struct {
	datafile.Frame
	bytes  []byte // as it is stored there, or decompressed
	stored bool
}

// readParent reads from the parent of a tenant what can be stored again.
func (d *round) readParent(ctx context.Context, t *tenant) error {
	e, err := t.parent.open(ctx, d.Repo)
	if err != nil {
		return err
	}
	t.stored = d.storedRows(t, e)
	return errors.Join(d.keepDefinitions(t, e), e.Close())
}

func (d *round) keepDefinitions(t *tenant, e *earlier) error {
	t.frames = nil
	for i, f := range e.Index.Frames {
		switch f.Kind {
		case datafile.PreDataFrame, datafile.PostDataFrame, datafile.StatementsFrame:
		default:
			continue
		}
		keep := storedFrame{Frame: f, stored: true}
		var algorithm datafile.Algorithm
		var err error
		if keep.bytes, algorithm, err = e.StoredFrame(i); err == nil && algorithm != d.Compression.Algorithm {
			keep.stored = false
			keep.bytes, err = e.ReadFrame(i, nil)
		}
		if err != nil {
			return err
		}
		t.frames = append(t.frames, keep)
	}
	t.script.requires = d.requiresNow(e.Index.Header.Requires)
	return nil
}

// requiresNow is what reused definitions need: extensions may have been updated
// since, without a change of what uses them.
func (d *round) requiresNow(was datafile.Requires) datafile.Requires {
	now := was
	now.Extensions = nil
	for _, x := range was.Extensions {
		for _, present := range d.extensions {
			if present.Name == x.Name {
				x.Version, x.Schema = present.Version, present.Schema
			}
		}
		now.Extensions = append(now.Extensions, x)
	}
	return now
}
