package backup

import (
	"context"
	"errors"
	"fmt"
	"math"
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

// known finds the tenants of which the definitions are those of their parent, so
// that pg_dump need not write them again.
func (d *round) known(ctx context.Context, tenants []*tenant) (reused, fresh []*tenant, err error) {
	for _, t := range tenants {
		t.parent = d.parents[t.Name]
	}
	began := time.Now()
	if err := d.fingerprint(ctx, tenants); err != nil {
		return nil, nil, d.explain(ctx, err)
	}
	d.Log.DebugContext(ctx, "Took the fingerprints of definitions", "schemas", len(tenants), "seconds", time.Since(began).Seconds())
	for _, t := range tenants {
		t.reused = !d.NoReuseDDL && t.parent != nil && t.definitions != "" && t.parent.entry.Definitions == t.definitions
		if t.reused {
			reused = append(reused, t)
		} else {
			fresh = append(fresh, t)
		}
	}
	return reused, fresh, nil
}

// reuseTables is the size of a group whose tables are read together, in tables.
const reuseTables = 1000

// reuse hands those tenants to next whose definitions are known, and those for
// which pg_dump must run: among them the known ones whose earlier file cannot be
// read.
func (d *round) reuse(ctx context.Context, reused, fresh []*tenant, results *results, next func(*tenant) error) error {
	g, groupCtx := errgroup.WithContext(ctx)
	if len(fresh) > 0 {
		g.Go(func() error { return d.definitions(groupCtx, fresh, results, next) })
	}
	var unreadable []*tenant
	g.Go(func() error {
		var core []*tenant
		if len(reused) > 0 && reused[0].core {
			core, reused = reused[:1], reused[1:]
		}
		all := groups(reused, groupLimits{tables: reuseTables, locks: math.MaxInt32})
		if len(core) > 0 {
			all = append([][]*tenant{core}, all...)
		}
		for _, group := range all {
			failed, err := d.reuseGroup(groupCtx, group, results, next)
			if err != nil {
				return err
			}
			unreadable = append(unreadable, failed...)
		}
		return nil
	})
	if err := g.Wait(); err != nil || len(unreadable) == 0 {
		return err
	}
	return d.definitions(ctx, unreadable, results, next)
}

func (d *round) reuseGroup(ctx context.Context, group []*tenant, results *results, next func(*tenant) error) (unreadable []*tenant, err error) {
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

// fingerprint finds out what the tenants' definitions are known by.
func (d *round) fingerprint(ctx context.Context, tenants []*tenant) error {
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
