package health

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize/english"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/wildcard"
)

// clockSlack is how far ahead the clock may be that a backup's time is from.
const clockSlack = 5 * time.Minute

// changeWindow is how far before a schema's newest backup changes are looked for:
// what happened overnight is still told the day after.
const changeWindow = 48 * time.Hour

// latest is what is known of a schema's newest backups.
type latest struct {
	backup  *Backup
	entry   *manifest.Schema
	failure time.Time
	reason  string // of that failure
	// richest and most are entries before it in the window, with the most rows and
	// the most tables; nil: there is none.
	richest, most *manifest.Schema
	before        bool // one older than the window was seen, or stands for it
}

// usable reports whether a backup can count as one of rows.
func (j *judge) usable(b *Backup) bool {
	return b.Manifest != nil && b.Manifest.BackupType != manifest.Baseline && !b.Manifest.RollbackPoint &&
		!b.Manifest.DefinitionsOnly() && !b.Time.After(j.Now.Add(clockSlack))
}

// readLatest walks through the backups, the newest first, until it knows enough of
// every schema that is expected.
func (j *judge) readLatest(expected []string) {
	j.latest = make(map[string]*latest, len(expected))
	open := map[string]*latest{}
	for _, name := range expected {
		l := &latest{}
		j.latest[name], open[name] = l, l
	}
	for i := range j.Backups {
		if len(open) == 0 {
			return
		}
		b := &j.Backups[i]
		if !j.usable(b) {
			continue
		}
		for n := range b.Manifest.Failures {
			f := &b.Manifest.Failures[n]
			if l := open[f.Schema]; l != nil && l.failure.IsZero() {
				l.failure, l.reason = b.Time, f.Error
			}
		}
		for n := range b.Manifest.Schemas {
			e := &b.Manifest.Schemas[n]
			l := open[e.Schema]
			if l == nil || len(b.Lacking[n]) > 0 {
				continue
			}
			l.see(b, e)
			if l.before {
				delete(open, e.Schema)
			}
		}
	}
}

// see takes one entry, which is older than those before it, into account.
func (l *latest) see(b *Backup, e *manifest.Schema) {
	if l.entry == nil {
		l.backup, l.entry = b, e
		return
	}
	old := l.backup.Time.Sub(b.Time) > changeWindow
	// What is older than the window counts only where nothing in it was seen.
	if !old || l.richest == nil {
		if l.richest == nil || e.Rows > l.richest.Rows {
			l.richest = e
		}
		if l.most == nil || e.Tables > l.most.Tables {
			l.most = e
		}
	}
	l.before = old
}

// expected are the schemas that must have backups: those of the database or,
// where it cannot be looked into, those of the newest backup that had core among
// them, with those that it knows of and that others have saved, and of what was made
// since.
func (j *judge) expected() []string {
	if j.Database.Err == "" {
		return j.Database.Schemas
	}
	seen, saved := map[string]bool{}, map[string]bool{}
	for i := range j.Backups {
		if b := &j.Backups[i]; j.usable(b) {
			for n := range b.Manifest.Schemas {
				saved[b.Manifest.Schemas[n].Schema] = true
			}
		}
	}
	for i := range j.Backups {
		b := &j.Backups[i]
		if !j.usable(b) {
			continue
		}
		whole := b.Manifest.LeftOut != nil
		for _, name := range b.Manifest.LeftOut {
			if saved[name] && !slices.Contains(j.Database.Excluded, name) {
				seen[name] = true
			}
		}
		for n := range b.Manifest.Schemas {
			seen[b.Manifest.Schemas[n].Schema] = true
			whole = whole || b.Manifest.Schemas[n].IsCore()
		}
		for _, f := range b.Manifest.Failures {
			seen[f.Schema] = true
			whole = whole || f.Schema == manifest.CoreSchema
		}
		if whole {
			break
		}
	}
	names := make([]string, 0, len(seen))
	for name := range seen {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// freshness checks how old the newest backup of each schema is.
func (j *judge) freshness() {
	v := &verdict{name: CheckFreshness}
	expected := j.expected()
	j.readLatest(expected)
	var oldest time.Duration
	for _, name := range expected {
		t := j.tenant(name)
		if t.Age != nil {
			oldest = max(oldest, time.Duration(*t.Age)*time.Second)
		}
		if t.State != OK {
			v.tenant(t.State, t.Schema, t.Tenant, t.Message, "tenantkeep backup; if it fails, its error says what to do").Cause = t.Cause
		}
		j.report.Tenants = append(j.report.Tenants, t)
	}
	for i := range j.Backups {
		if b := &j.Backups[i]; b.Time.After(j.Now.Add(clockSlack)) {
			v.find(Warning, fmt.Sprintf("backup %s is from the future, and is not counted: a clock is or was wrong", b.ID), "set the clocks; the backup counts once its time has come")
		} else {
			break // they are the newest
		}
	}
	if len(expected) == 0 && j.Database.Err != "" {
		v.find(Critical, "there is no backup", "tenantkeep backup takes one")
	}
	good := fmt.Sprintf("%s backed up in time, the oldest %s ago", english.Plural(len(expected), "schema", ""), span(oldest))
	if len(expected) == 0 {
		good = "there is no schema to back up"
	}
	if n := len(j.Database.Excluded); n > 0 {
		good += fmt.Sprintf("; %s left out by the settings (%s)", english.Plural(n, "schema", ""), some(j.Database.Excluded))
	}
	j.close(v, good)
}

// tenant judges one schema.
func (j *judge) tenant(name string) Tenant {
	l := j.latest[name]
	t := Tenant{Schema: name, Tenant: name, Failure: l.failure.UTC()}
	if name == manifest.CoreSchema {
		t.Tenant = manifest.CoreTenant
	}
	if l.entry != nil {
		t.Tenant = l.entry.Tenant
	}
	target := j.targets.of(name, t.Tenant)
	if target > 0 {
		seconds := int64(target.Seconds())
		t.Target = &seconds
	}
	if l.entry == nil {
		t.State, t.Message = Critical, "has never been backed up"
		if l.reason != "" {
			t.Message, t.Cause = t.Message+"; the last attempt failed", firstLine(l.reason)
		}
		return t
	}
	e := l.entry
	t.Backup, t.Success = l.backup.ID, entryTime(l.backup, e).UTC()
	t.Tables, t.Rows, t.Bytes, t.Stored = e.Tables, e.Rows, e.Bytes, e.Size
	if e.Media != nil {
		t.Stored += e.Media.Size
	}
	age := max(0, j.Now.Sub(t.Success))
	seconds := int64(age.Seconds())
	t.Age = &seconds
	if target == 0 || age <= target {
		return t
	}
	// The next backup of what was in time when its run began is on its way.
	began := slices.ContainsFunc(j.Running, func(began time.Time) bool { return began.Sub(t.Success) <= target })
	switch {
	case age > 2*target:
		t.State = Critical
	case !began:
		t.State = Warning
	default:
		return t
	}
	t.Message = fmt.Sprintf("was last backed up %s ago, more than %s", span(age), span(target))
	if l.failure.After(t.Success) {
		t.Message, t.Cause = t.Message+"; the last attempt failed", firstLine(l.reason)
	}
	return t
}

// entryTime is the moment that an entry shows.
func entryTime(b *Backup, e *manifest.Schema) time.Time {
	if e.Snapshot != nil && e.Snapshot.Time.After(b.Time) {
		return e.Snapshot.Time
	}
	return b.Time
}

// of is the target of a schema; 0: it has none.
func (t Targets) of(schema, tenant string) time.Duration {
	for _, a := range t.MaxAges {
		for _, name := range []string{schema, tenant} {
			if wildcard.Match(a.Pattern, name) {
				return a.MaxAge
			}
		}
	}
	return t.MaxAge
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}
