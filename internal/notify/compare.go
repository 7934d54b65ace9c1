package notify

import (
	"cmp"
	"slices"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
)

// Comparison says how a backup differs from the one before. Sums of rows are over
// the schemas that both hold, so that a tenant that was left out does not look
// like loss.
type Comparison struct {
	Backup  string    `json:"backup"` // id of the one before
	Type    string    `json:"type"`   // of the one before
	Time    time.Time `json:"time"`
	Seconds float64   `json:"seconds,omitempty"` // that it took; 0: not known

	Schemas      int   `json:"schemas"` // in both
	Rows         int64 `json:"rows"`    // of these, now
	RowsBefore   int64 `json:"rows_before"`
	Bytes        int64 `json:"bytes"` // of rows, before compression
	BytesBefore  int64 `json:"bytes_before"`
	StoredBefore int64 `json:"stored_before"` // by that run

	New    []string `json:"new,omitempty"`    // tenants that the one before did not hold
	Gone   []string `json:"gone,omitempty"`   // tenants that only the one before held, though none was left out
	Shrunk []Change `json:"shrunk,omitempty"` // tenants that lost most of their rows, the greatest loss first
}

// Change is how the rows of a tenant changed.
type Change struct {
	Tenant string `json:"tenant"`
	Before int64  `json:"rows_before"`
	Now    int64  `json:"rows"`
}

// A tenant counts as shrunk when it lost at least this part of its rows, and had
// so many that it is not an empty shop whose carts were cleared.
const (
	shrunkPart = 0.5
	shrunkFrom = 100
)

// Compare compares a backup with the one before of the same database. whole says
// that it was to hold all tenants. Nil: nothing can be compared.
func Compare(now, before *manifest.Manifest, whole bool) *Comparison {
	if now == nil || before == nil || before.Format == 0 { // the original system noted no rows
		return nil
	}
	c := &Comparison{Backup: before.ID, Type: string(before.BackupType), Time: before.Timestamp.Time, StoredBefore: Stored(before)}
	if s := before.Snapshot; s != nil && before.Finished.After(s.Time) {
		c.Seconds = before.Finished.Sub(s.Time).Seconds()
	}
	old := bySchema(before)
	for _, s := range now.Schemas {
		b, found := old[s.Schema]
		delete(old, s.Schema)
		if !found {
			if !failedIn(before, s.Schema) {
				c.New = append(c.New, s.Tenant)
			}
			continue
		}
		c.Schemas++
		c.Rows, c.RowsBefore = c.Rows+s.Rows, c.RowsBefore+b.Rows
		c.Bytes, c.BytesBefore = c.Bytes+s.Bytes, c.BytesBefore+b.Bytes
		if b.Rows >= shrunkFrom && float64(b.Rows-s.Rows) >= shrunkPart*float64(b.Rows) {
			c.Shrunk = append(c.Shrunk, Change{s.Tenant, b.Rows, s.Rows})
		}
	}
	for schema, s := range old {
		if whole && !failedIn(now, schema) {
			c.Gone = append(c.Gone, s.Tenant)
		}
	}
	slices.Sort(c.New)
	slices.Sort(c.Gone)
	slices.SortStableFunc(c.Shrunk, func(a, b Change) int { return cmp.Compare(b.Before-b.Now, a.Before-a.Now) })
	return c
}

// Stored is how many bytes a run wrote, files of tenants included.
func Stored(m *manifest.Manifest) int64 {
	var n int64
	for _, s := range m.Schemas {
		if s.Timestamp == m.ID {
			n += s.Size
		}
		if s.Media != nil && s.Media.Backup == m.ID {
			n += s.Media.Size
		}
	}
	return n
}

func bySchema(m *manifest.Manifest) map[string]manifest.Schema {
	all := make(map[string]manifest.Schema, len(m.Schemas))
	for _, s := range m.Schemas {
		all[s.Schema] = s
	}
	return all
}

func failedIn(m *manifest.Manifest, schema string) bool {
	return slices.ContainsFunc(m.Failures, func(f manifest.Failure) bool { return f.Schema == schema })
}
