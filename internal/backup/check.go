package backup

import (
	"context"
	"fmt"
	"sync"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// DefinitionsReport says how the definitions in backups compare with those that
// pg_dump writes now.
type DefinitionsReport struct {
	Compared    int // schemas whose fingerprint is that of their newest backup
	Changed     int // schemas with another fingerprint, which are not compared
	Unsaved     int // schemas that no backup holds
	Differences []DefinitionDifference
	Failures    []manifest.Failure // schemas whose definitions could not be had
}

// DefinitionDifference is a schema whose definitions differ from those of its
// newest backup although its fingerprint does not: a fault of tenantkeep.
type DefinitionDifference struct {
	Schema, Tenant string
	Backup         string
	Statement      string // the first that differs: its kind and tag
	Stored, Fresh  string // its SQL; empty where there is none
}

// CheckDefinitions compares the definitions in the newest backup of each schema
// with what pg_dump writes now, where their fingerprints say that they are the
// same. It stores nothing. Of the options it uses those that choose schemas,
// server and repository.
func CheckDefinitions(ctx context.Context, o Options) (*DefinitionsReport, error) {
	r, conn, err := begin(ctx, o)
	if err != nil {
		return nil, err
	}
	defer pg.Close(conn)
	d, err := r.newRound(ctx)
	if err != nil {
		return nil, err
	}
	defer d.close()
	if err := d.choose(); err != nil {
		return nil, err
	}
	for _, t := range d.tenants {
		r.chosen[t.Name] = true
	}
	if r.parents, err = r.findParents(ctx, d.tenants, false); err != nil {
		return nil, err
	}
	o.Progress.Start("definitions", len(d.tenants), 0)
	defer o.Progress.Finish()
	m := &manifest.Manifest{}
	results := &results{round: d, manifest: m}
	tenants := d.usable(results)
	for _, t := range tenants {
		t.parent = r.parents[t.Name]
	}
	same, other, err := d.known(ctx, tenants)
	if err != nil {
		return nil, err
	}
	report := &DefinitionsReport{Compared: len(same)}
	for _, t := range other {
		if t.parent == nil {
			report.Unsaved++
		} else {
			report.Changed++
		}
	}
	for _, t := range same {
		t.reused = false
	}
	var mu sync.Mutex
	err = d.definitions(ctx, same, results, func(t *tenant) error {
		difference, err := d.compareDefinitions(ctx, t)
		if err != nil {
			results.fail(t, err)
			return nil
		}
		t.material = nil
		o.Progress.TenantDone(t.tenant, nil)
		if difference != nil {
			mu.Lock()
			defer mu.Unlock()
			report.Differences = append(report.Differences, *difference)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, t := range results.again { // changed between the fingerprint and pg_dump
		report.Compared--
		report.Changed++
		o.Progress.TenantDone(t.tenant, nil)
	}
	report.Failures = m.Failures
	report.Compared -= len(m.Failures)
	return report, nil
}

// compareDefinitions compares what pg_dump gave with what the parent holds.
func (d *round) compareDefinitions(ctx context.Context, t *tenant) (*DefinitionDifference, error) {
	e, err := t.parent.open(ctx, d.Repo)
	if err != nil {
		return nil, err
	}
	defer e.Close() //nolint:errcheck // it was only read
	if err := e.ReadStatements(); err != nil {
		return nil, err
	}
	difference := &DefinitionDifference{Schema: t.Name, Tenant: t.tenant, Backup: t.parent.backup.ID}
	for _, kind := range []datafile.FrameKind{datafile.PreDataFrame, datafile.PostDataFrame} {
		fresh := t.script.pre
		if kind == datafile.PostDataFrame {
			fresh = t.script.post
		}
		var text []byte
		frame, n := -1, 0
		for _, st := range e.Index.Statements {
			if e.Index.Frames[st.Frame].Kind != kind {
				continue
			}
			if st.Frame != frame {
				if text, err = e.ReadFrame(st.Frame, text); err != nil {
					return nil, err
				}
				frame = st.Frame
			}
			difference.Statement, difference.Stored = st.Kind+" "+st.Tag, string(text[st.Offset:st.Offset+st.Length])
			if n == len(fresh) {
				return difference, nil
			}
			if difference.Fresh = fresh[n].SQL; difference.Fresh != difference.Stored {
				return difference, nil
			}
			n++
		}
		if n < len(fresh) {
			difference.Statement, difference.Stored, difference.Fresh = fresh[n].Kind+" "+fresh[n].Tag, "", fresh[n].SQL
			return difference, nil
		}
	}
	return nil, nil
}

// Error says what differs.
func (d DefinitionDifference) Error() string {
	return fmt.Sprintf("%s in backup %s is not what pg_dump writes now, though nothing seems to have changed", d.Statement, d.Backup)
}
