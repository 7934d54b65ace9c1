package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// definitionsOf is what a schema's definitions are known by: where it is the same
// for two backups, pg_dump would write the same for both.
func (r *run) definitionsOf(fingerprint string) string {
	if fingerprint == "" {
		return ""
	}
	return fingerprint + "/pg_dump-" + r.program.Version
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
	began := time.Now()
	if err := d.fingerprint(ctx, tenants); err != nil {
		return nil, nil, d.explain(ctx, err)
	}
	d.Log.DebugContext(ctx, "Took the fingerprints of definitions", "schemas", len(tenants), "seconds", time.Since(began).Seconds())
	reused, others = partition(tenants, func(t *tenant) bool {
		return t.definitions != "" && t.parent != nil && t.parent.entry.Definitions == t.definitions
	})
	for _, t := range reused {
		t.reused = true
	}
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
			err := d.readDefinitions(ctx, t)
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
	bytes      []byte // as it is stored there, or decompressed
	stored     bool
	statements []datafile.Statement
}

// readDefinitions reads the definitions of a tenant from its parent, to be
// stored again.
func (d *round) readDefinitions(ctx context.Context, t *tenant) error {
	e, err := t.parent.open(ctx, d.Repo)
	if err != nil {
		return err
	}
	return errors.Join(d.keepDefinitions(t, e), e.Close())
}

func (d *round) keepDefinitions(t *tenant, e *earlier) error {
	t.frames = nil
	byFrame := map[int][]datafile.Statement{}
	for _, st := range e.Index.Statements {
		byFrame[st.Frame] = append(byFrame[st.Frame], st)
	}
	for i, f := range e.Index.Frames {
		if f.Kind != datafile.PreDataFrame && f.Kind != datafile.PostDataFrame {
			continue
		}
		keep := storedFrame{Frame: f, stored: true, statements: byFrame[i]}
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

// fingerprint finds out what the tenants' definitions are known by, where that is
// not known.
func (d *round) fingerprint(ctx context.Context, tenants []*tenant) error {
	_, tenants = partition(tenants, func(t *tenant) bool { return t.definitions != "" })
	if len(tenants) == 0 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	f, err := pg.NewFingerprinter(ctx, d.tx)
	if err != nil {
		return err
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
		t.definitions = d.definitionsOf(core)
	}
	prints, err := f.Schemas(ctx, schemas)
	if err != nil {
		return err
	}
	for _, t := range tenants {
		if !t.core {
			t.definitions = d.definitionsOf(prints[t.OID])
		}
	}
	return nil
}
