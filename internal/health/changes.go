package health

import (
	"fmt"
	"slices"

	"github.com/dustin/go-humanize/english"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
)

// A schema with fewer rows, or fewer bytes of them, than these may shrink as it
// likes: what is lost is more often a test than a customer.
const (
	smallRows  = 100
	smallBytes = 100 << 10
)

// changes checks for schemas that have lost most of their rows, or a table, since
// the backups before. Such a backup is whole and says that all is well.
func (j *judge) changes() {
	v := &verdict{name: CheckChanges}
	for _, t := range j.report.Tenants {
		l := j.latest[t.Schema]
		if l.entry == nil || l.richest == nil {
			continue
		}
		j.shrunk(v, t, l.entry, l.richest)
		if n := l.most.Tables - l.entry.Tables; n > 0 {
			v.tenant(Warning, t.Schema, t.Tenant, fmt.Sprintf("has lost %s: it had %d, and has %d now", english.Plural(int(n), "table", ""), l.most.Tables, l.entry.Tables), restoreBeside(t.Schema))
		}
	}
	j.vanished(v)
	j.close(v, "no tenant has lost most of its rows, or a table")
}

// vanished tells of schemas that the last backups have and the database has no more.
func (j *judge) vanished(v *verdict) {
	if j.Database.Err != "" {
		return
	}
	seen := map[string]bool{}
	for _, name := range slices.Concat(j.Database.Schemas, j.Database.Excluded) {
		seen[name] = true
	}
	for i := range j.Backups {
		b := &j.Backups[i]
		if !j.usable(b) {
			continue
		}
		if j.Now.Sub(b.Time) > changeWindow {
			return
		}
		for n := range b.Manifest.Schemas {
			if s := &b.Manifest.Schemas[n]; !seen[s.Schema] {
				seen[s.Schema] = true
				v.tenant(Warning, s.Schema, s.Tenant, fmt.Sprintf("is not in the database any more; backup %s has it", b.ID), "if nobody meant that: tenantkeep restore --manifest "+b.ID+" --schema "+called(s.Schema))
			}
		}
	}
}

// shrunk compares rows and bytes.
func (j *judge) shrunk(v *verdict, t Tenant, now, before *manifest.Schema) {
	state, fifth := Warning, func(now, before int64) bool { return now <= before/5 }
	if now.Rows == 0 {
		state = Critical
	}
	switch {
	case before.Rows >= smallRows && fifth(now.Rows, before.Rows):
		v.tenant(state, t.Schema, t.Tenant, fmt.Sprintf("has lost %d%% of its rows: %d, now %d", 100-100*now.Rows/before.Rows, before.Rows, now.Rows), restoreBeside(t.Schema))
	case before.Bytes >= smallBytes && fifth(now.Bytes, before.Bytes):
		v.tenant(state, t.Schema, t.Tenant, fmt.Sprintf("has lost %d%% of its data: %s, now %s", 100-100*now.Bytes/before.Bytes, size(before.Bytes), size(now.Bytes)), restoreBeside(t.Schema))
	}
}

func restoreBeside(schema string) string {
	return "if nobody meant that, look at an earlier backup beside it: tenantkeep restore --schema " + called(schema) + " --at TIME --as NAME"
}
