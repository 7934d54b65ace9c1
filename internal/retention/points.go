package retention

import (
	"time"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
)

// The rules that keep a rollback point, beside Pinned, Young, Future and
// Unreadable.
const (
	Standing Rule = "standing"  // the schema that it is a copy of still stands in the database
	Unknown  Rule = "unknown"   // whether that schema stands, or whether it is a rollback point, cannot be told
	OnlyCopy Rule = "only-copy" // no backup has been made of the schema since
)

// PointOptions say by what to decide about rollback points.
type PointOptions struct {
	Now  time.Time
	Keep time.Duration // age up to which all are kept
	// SameDatabase reports whether a point is of the database that was looked
	// into; nil: none was.
	SameDatabase func(*manifest.Manifest) bool
	// Standing are the points whose replaced schemas are still in that database,
	// with the names of these.
	Standing map[string]string
	// Dead are the points of restores that failed or died before they replaced
	// anything.
	Dead map[string]bool
}

// Points decides about rollback points, which are backups of what restores
// replaced. A dead point goes unless it is pinned. Any other goes when it is old,
// its replaced schema is known to be dropped, and a complete backup of all that it
// holds was made after it.
func Points(points, backups []Backup, o PointOptions) []Decision {
	after := newestOf(backups, o.Now)
	decisions := make([]Decision, 0, len(points))
	unreadable := ""
	for _, p := range points {
		if p.Manifest == nil {
			unreadable = p.ID
		}
	}
	for _, p := range points {
		d := Decision{ID: p.ID, Keep: true}
		why := func(rule Rule, text string) { d.Reasons = append(d.Reasons, Reason{rule, text}) }
		if p.Pin != nil {
			why(Pinned, pinText(*p.Pin))
		}
		age := o.Now.Sub(p.Time)
		switch {
		case p.Manifest == nil:
			why(Unreadable, "its manifest cannot be read")
		case !p.Manifest.RollbackPoint && p.Manifest.Rebuilt.IsZero():
			// The folder of the rollback points may be a link to another repository.
			why(Unknown, "no restore made it: it is no rollback point")
		case o.Dead[p.ID]:
		case age < 0:
			why(Future, "its time is yet to come: a clock was wrong")
		case age < max(o.Keep, young):
			why(Young, "younger than "+span(max(o.Keep, young)))
		case o.SameDatabase == nil || !o.SameDatabase(p.Manifest):
			why(Unknown, "whether its replaced schema still stands is not known: its database was not looked into")
		case o.Standing[p.ID] != "":
			why(Standing, "its replaced schema still stands as "+called(o.Standing[p.ID]))
		default:
			if what, ok := onlyCopy(p, after); ok {
				why(OnlyCopy, "no complete backup of "+what+" was made since")
			}
		}
		if len(d.Reasons) == 0 {
			d.Keep = false
			if o.Dead[p.ID] {
				why(Dead, "the restore that saved it replaced nothing")
			} else {
				why(Expired, "older than "+span(o.Keep)+", its replaced schema is gone, and backups were made since")
			}
			if unreadable != "" {
				d.Keep = true
				d.Reasons = []Reason{{Held, "would go, but the manifest of rollback point " + unreadable + " cannot be read, and nobody knows what it needs"}}
			}
		}
		decisions = append(decisions, d)
	}
	return decisions
}

// schemaID names a schema across databases, or the files of one.
type schemaID struct {
	database, system, schema string
	media                    bool
}

func idOf(m *manifest.Manifest, schema string) schemaID {
	id := schemaID{schema: schema}
	if m.Database != nil {
		id.database, id.system = m.Database.Name, m.Database.SystemIdentifier
	}
	return id
}

// newestOf finds the newest complete backup of each schema, and of its files.
func newestOf(backups []Backup, now time.Time) map[schemaID]time.Time {
	newest := make(map[schemaID]time.Time)
	for _, b := range backups {
		m := b.Manifest
		if m == nil || m.Partial() || m.BackupType == manifest.Baseline || b.Time.After(now) {
			continue
		}
		for n := range m.Schemas {
			id := idOf(m, m.Schemas[n].Schema)
			if b.Time.After(newest[id]) {
				newest[id] = b.Time
			}
			if id.media = m.Schemas[n].MediaBackup != ""; id.media && b.Time.After(newest[id]) {
				newest[id] = b.Time
			}
		}
	}
	return newest
}

// onlyCopy names a schema of which a point has the newest copy, or of whose files.
func onlyCopy(p Backup, newest map[schemaID]time.Time) (string, bool) {
	for n := range p.Manifest.Schemas {
		s := &p.Manifest.Schemas[n]
		id := idOf(p.Manifest, s.Schema)
		if !newest[id].After(p.Time) {
			return called(s.Schema), true
		}
		if id.media = s.MediaBackup != ""; id.media && !newest[id].After(p.Time) {
			return "the files of " + called(s.Schema), true
		}
	}
	return "", false
}

// span is a length of time for people, in days where it is whole days.
func span(d time.Duration) string {
	if days := d / (24 * time.Hour); days > 0 && d%(24*time.Hour) == 0 {
		return plural(int(days), "day")
	}
	return d.String()
}
