package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// stateFailed is that of a schema that a backup could not save.
const stateFailed = "failed"

// restorePoint is what one backup holds of one schema. Fields are only ever
// added.
type restorePoint struct {
	Tenant      string    `json:"tenant"`
	Schema      string    `json:"schema"`
	Backup      string    `json:"backup"`
	Manifest    string    `json:"manifest"` // what restore --manifest takes
	Rollback    bool      `json:"rollback"` // it is what a restore replaced
	Taken       time.Time `json:"taken"`    // the moment that it shows
	AgeSeconds  int64     `json:"age_seconds"`
	Type        string    `json:"type"`
	State       string    `json:"state"`
	Problem     string    `json:"problem,omitempty"` // why it is not ok
	Tables      *int64    `json:"tables"`            // null where it is not known
	Rows        *int64    `json:"rows"`
	BytesStored int64     `json:"bytes_stored"`
	BytesText   *int64    `json:"bytes_text"` // as COPY text, uncompressed

	place  place
	backup repo.Backup
	entry  manifest.Schema
}

// kind is the type as people read it.
func (p restorePoint) kind() string {
	if p.Rollback {
		return "rollback"
	}
	return p.Type
}

// restorePoints lists what can be restored of the named schemas or tenants, or
// of all: core first, then by schema, the newest first. Baselines are none. It
// also returns the backups whose manifests cannot be read.
func restorePoints(ctx context.Context, places []place, names []string, now time.Time) (points []restorePoint, broken []repo.Backup, err error) {
	for _, p := range places {
		backups, err := p.Repo.List(ctx)
		if err != nil {
			return nil, nil, err
		}
		sizes, _, err := fileSizes(ctx, p.Store)
		if err != nil {
			return nil, nil, err
		}
		inForce, err := p.inForce(ctx, nil)
		if err != nil {
			return nil, nil, err
		}
		for _, b := range backups {
			switch {
			case b.Err == nil && !inForce(b):
			case b.Err != nil:
				b.ID = p.name(b.ID)
				broken = append(broken, b)
			case b.Manifest.BackupType != manifest.Baseline:
				points = append(points, pointsOf(p, b, names, sizes)...)
			}
		}
	}
	for i := range points {
		points[i].AgeSeconds = int64(now.Sub(points[i].Taken).Seconds())
	}
	slices.SortStableFunc(points, func(x, y restorePoint) int {
		isCore := func(p restorePoint) int {
			if p.Schema == manifest.CoreSchema {
				return 0
			}
			return 1
		}
		return cmp.Or(isCore(x)-isCore(y), cmp.Compare(x.Schema, y.Schema), y.Taken.Compare(x.Taken))
	})
	return points, broken, nil
}

// pointsOf lists what a backup holds, and what it could not save.
func pointsOf(p place, b repo.Backup, names []string, sizes map[string]int64) []restorePoint {
	wanted := func(schema, tenant string) bool {
		return len(names) == 0 || slices.Contains(names, schema) || slices.Contains(names, tenant)
	}
	m := b.Manifest
	point := restorePoint{Backup: b.ID, Manifest: p.name(b.ID), Rollback: p.Rollback, Type: string(m.BackupType), place: p, backup: b}
	var points []restorePoint
	for _, s := range m.Schemas {
		if !wanted(s.Schema, s.Tenant) {
			continue
		}
		// What list says of a backup with this schema alone.
		only := *m
		only.Schemas, only.Failures, only.Rebuilt = []manifest.Schema{s}, nil, time.Time{}
		described := listed{State: stateOK}
		described.addSchemas(&only, nil, &fileCheck{sizes: sizes}, false)
		point := point
		point.Schema, point.Tenant, point.Taken, point.entry = s.Schema, s.Tenant, takenAt(m, s), s
		point.State, point.Problem = described.State, described.Problem
		point.Tables, point.Rows = described.Tables, described.Rows
		point.BytesStored, point.BytesText = s.Size, described.BytesText
		points = append(points, point)
	}
	for _, f := range m.Failures {
		if wanted(f.Schema, f.Tenant) {
			point := point
			point.Schema, point.Tenant, point.Taken = f.Schema, f.Tenant, takenAt(m, manifest.Schema{})
			point.State, point.Problem = stateFailed, f.Error
			points = append(points, point)
		}
	}
	return points
}

// listAvailable is restore --list-available: what can be restored, one line for
// each schema of each backup.
func (a *app) listAvailable(ctx context.Context, places []place, names []string, form format) error {
	now := a.now()
	points, broken, err := restorePoints(ctx, places, names, now)
	if err != nil {
		return err
	}
	if form.is(formatJSON) {
		err = a.ui().JSON(append([]restorePoint{}, points...))
	} else {
		err = a.ui().Table(pointsTable(points, now))
	}
	if err != nil {
		return fmt.Errorf("write list: %w", err)
	}
	for _, b := range broken {
		a.ui().Warnf("backup %s is broken: its manifest cannot be read: %v", ui.Safe(b.ID), b.Err)
	}
	a.tellProblemPoints(points)
	location := ui.Safe(places[0].Repo.Location())
	switch {
	case len(points) > 0 && form.is(formatTable):
		a.ui().Printf("%s in %s. To restore one: tenantkeep restore --manifest BACKUP --schema SCHEMA", ui.Plural(int64(len(points)), "restore point"), location)
	case len(points) > 0:
	case len(names) > 0:
		a.ui().Printf("Nothing in %s can be restored of %s.", location, wanted{Schemas: names}.what())
	default:
		a.ui().Printf("No backups yet in %s. The first is made with: tenantkeep backup", location)
	}
	return nil
}

// toldPoints is of how many restore points the problem is told; JSON has all.
const toldPoints = 10

func (a *app) tellProblemPoints(points []restorePoint) {
	told := 0
	for _, p := range points {
		if p.State == stateOK {
			continue
		}
		if told++; told <= toldPoints {
			a.ui().Warnf("schema %s of backup %s is %s: %s", ui.Safe(p.Schema), ui.Safe(p.Manifest), p.State, p.Problem)
		}
	}
	if told > toldPoints {
		a.ui().Warnf("%s more cannot be restored: --format json tells why", ui.Plural(int64(told-toldPoints), "restore point"))
	}
}

// pointsTable has a column for tenants only where one is called otherwise than
// its schema.
func pointsTable(points []restorePoint, now time.Time) *ui.Table {
	named := slices.ContainsFunc(points, func(p restorePoint) bool { return p.Tenant != p.Schema && p.Schema != manifest.CoreSchema })
	columns := []ui.Column{
		{Title: "schema"},
		{Title: "tenant"},
		{Title: "backup"},
		{Title: "type"},
		{Title: "age"},
		{Title: "tables", Right: true},
		{Title: "rows", Right: true},
		{Title: "stored", Right: true},
		{Title: "state", Tone: toneOfPoint},
	}
	if !named {
		columns = slices.Delete(columns, 1, 2)
	}
	table := ui.NewTable(columns...)
	for _, p := range points {
		stored := ui.Bytes(p.BytesStored)
		if p.State == stateFailed {
			stored = "-"
		}
		cells := []string{
			p.Schema, p.Tenant, p.Manifest, p.kind(), ui.Age(p.Taken, now),
			known(p.Tables, ui.Count), known(p.Rows, ui.Count), stored, p.State,
		}
		if !named {
			cells = slices.Delete(cells, 1, 2)
		}
		table.Add(cells...)
	}
	return table
}

func toneOfPoint(state string) ui.Tone {
	if state == stateOK {
		return ui.Good
	}
	return ui.Bad
}
