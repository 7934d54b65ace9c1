package retention

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
)

// history makes up the backups of an installation over years, the same ones each
// time.
type history struct {
	t        testing.TB
	rand     *rand.Rand
	zone     *time.Location
	database *manifest.Database
	backups  []Backup // those that are left, the oldest first
	files    map[string]manifest.Schema
	archives map[string]manifest.Schema // the entries that had files last
	rows     map[string]int64
}

func newHistory(t testing.TB, zone string) *history {
	t.Helper()
	where, err := time.LoadLocation(zone)
	if err != nil {
		t.Fatal(err)
	}
	return &history{
		t: t, rand: rand.New(rand.NewPCG(1, 2)), zone: where, database: &manifest.Database{Name: "shop", SystemIdentifier: "7"},
		files: map[string]manifest.Schema{}, archives: map[string]manifest.Schema{}, rows: map[string]int64{},
	}
}

// made is a backup with what makes it special.
type made struct {
	at        time.Time
	typ       manifest.Type
	schemas   []string
	failed    []string
	empty     bool
	retention manifest.Retention
	days      int
	changes   float64 // share of the schemas that an incremental finds changed
	original  bool    // the original system made it
	media     bool    // with files, all stored anew unless it is incremental
}

func (h *history) add(x made) *Backup {
	id := x.at.UTC().Format("20060102_150405")
	m := &manifest.Manifest{
		Timestamp: manifest.NewTime(x.at), BackupType: x.typ, RetentionDays: x.days, Retention: x.retention, Format: manifest.Format, ID: id,
		Database: h.database, Schemas: []manifest.Schema{},
	}
	for _, name := range x.schemas {
		if slices.Contains(x.failed, name) {
			m.Failures = append(m.Failures, manifest.Failure{Schema: name, Tenant: name, Error: "no"})
			continue
		}
		last, known := h.files[name]
		e := manifest.Schema{
			Schema: name, Tenant: name, Filepath: fmt.Sprintf("data/%s_%s_%s.sql.zst", name, x.typ, id), Size: 100, Timestamp: id, Type: x.typ, Rows: 1000,
		}
		if x.original {
			e.Filepath, e.Rows = fmt.Sprintf("/app/backups/data/%s_%s_%s.sql.gz", name, x.typ, id), 0
			m.Schemas = append(m.Schemas, e)
			continue
		}
		if x.typ == manifest.Incremental && known {
			if h.rand.Float64() >= x.changes {
				e = last
			} else if e.References = []string{last.Filepath}; len(last.References) > 0 {
				e.References = []string{last.References[0], last.Filepath} // the full, and what changed last
			}
		}
		if x.empty {
			e.Rows = 0
		} else {
			h.files[name] = e
		}
		if e.MediaBackup, e.Media = "", nil; x.media {
			h.addMedia(&e, x, id)
		}
		m.Schemas = append(m.Schemas, e)
	}
	if x.original {
		m.Format, m.ID, m.Database = 0, "", nil
	}
	h.backups = append(h.backups, Backup{ID: id, Time: x.at, Manifest: m})
	return &h.backups[len(h.backups)-1]
}

// addMedia adds an archive to an entry: one of its own, or that of an earlier
// backup where nothing changed.
func (h *history) addMedia(e *manifest.Schema, x made, id string) {
	last, known := h.archives[e.Schema]
	e.MediaBackup, e.Media = fmt.Sprintf("media/%s_media_%s.tar.zst", e.Schema, id), &manifest.Media{Backup: id, Files: 1}
	if x.typ == manifest.Incremental && known {
		if h.rand.Float64() >= x.changes {
			e.MediaBackup, e.Media = last.MediaBackup, last.Media
		} else {
			e.Media.References = []string{last.MediaBackup}
		}
	}
	h.archives[e.Schema] = *e
}

// day is a time of day on the n-th day after a date, on the clocks of the zone.
func (h *history) day(date string, n, hour, minute int) time.Time {
	d, err := time.ParseInLocation(time.DateOnly, date, h.zone)
	if err != nil {
		h.t.Fatal(err)
	}
	return time.Date(d.Year(), d.Month(), d.Day()+n, hour, minute, 0, 0, h.zone)
}

// options are those of a cleanup at some time.
func (h *history) options(p Policy, now time.Time) Options {
	return Options{Policy: p, Now: now, Zone: h.zone}
}

// decide is Decide, which must not fail.
func (h *history) decide(o Options) *Plan {
	h.t.Helper()
	p, err := Decide(h.backups, o)
	if err != nil {
		h.t.Fatal(err)
	}
	return p
}

// cleanup lets go what the plan does not keep, and returns those decisions.
func (h *history) cleanup(o Options) []Decision {
	h.t.Helper()
	var gone []Decision
	var left []Backup
	for i, d := range h.decide(o).Decisions {
		if d.Keep {
			left = append(left, h.backups[i])
		} else {
			gone = append(gone, d)
		}
	}
	h.backups = left
	return gone
}

// show writes a plan for people: what is kept with the reasons, and what goes.
func (h *history) show(o Options) string {
	h.t.Helper()
	var b strings.Builder
	p := h.decide(o)
	fmt.Fprintf(&b, "now %s, policy %s\n", o.Now.In(h.zone).Format("2006-01-02 15:04 MST"), o.Policy)
	for _, hold := range p.Holds {
		fmt.Fprintf(&b, "hold %q: %s\n", hold.Database, hold.Why)
	}
	for i, d := range p.Decisions {
		verdict := "keep"
		if !d.Keep {
			verdict = "GO  "
		}
		kind := "unreadable"
		if m := h.backups[i].Manifest; m != nil {
			kind = string(m.BackupType)
		}
		fmt.Fprintf(&b, "%s %-11s %s  %s\n", h.backups[i].Time.In(h.zone).Format("2006-01-02 15:04 Mon"), kind, verdict, d.Why())
	}
	return b.String()
}
