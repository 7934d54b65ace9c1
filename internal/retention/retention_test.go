package retention

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
)

// random makes up a repository of everything that can be in one.
func random(t *testing.T, seed uint64) (*history, Options) {
	h := newHistory(t, []string{"UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Kiritimati"}[seed%4])
	h.rand = rand.New(rand.NewPCG(seed, 7))
	is := func(share float64) bool { return h.rand.Float64() < share }
	names := []string{"public", "acme", "globex", "initech"}
	at := h.day("2025-01-01", 0, 2, 0)
	original := 0
	if is(0.4) { // the repository of the original system comes first
		original = h.rand.IntN(60)
	}
	databases := 1 + h.rand.IntN(2)
	for n := range 20 + h.rand.IntN(250) {
		at = at.Add(time.Duration(h.rand.IntN(40))*time.Hour + time.Second)
		x := made{at: at, typ: manifest.Full, changes: h.rand.Float64(), empty: is(0.05), original: n < original, media: is(0.4)}
		if is(0.6) {
			x.typ = manifest.Incremental
		} else if is(0.02) {
			x.typ = manifest.Baseline
		}
		for _, name := range names {
			if name == "initech" && at.Month() > 3 || is(0.1) {
				continue
			}
			x.schemas = append(x.schemas, name)
			if is(0.05) && !x.original {
				x.failed = append(x.failed, name)
			}
		}
		if is(0.15) && !x.original {
			x.days, x.retention = h.rand.IntN(60), manifest.RetainExactly
			if is(0.5) {
				x.retention = manifest.RetainAtLeast
			}
		}
		h.database = &manifest.Database{Name: "shop", SystemIdentifier: fmt.Sprint(h.rand.IntN(databases))}
		b := h.add(x)
		if x.original && is(0.1) {
			b.Lacking = "lacks data/x.sql.gz"
		}
		if is(0.03) {
			b.Pin = &Pin{Reason: "because"}
		}
	}
	for i := range h.backups { // the order must not matter
		j := h.rand.IntN(i + 1)
		h.backups[i], h.backups[j] = h.backups[j], h.backups[i]
	}
	o := h.options(Policy{Daily: h.rand.IntN(10), Weekly: h.rand.IntN(6), Monthly: 1 + h.rand.IntN(6)}, at.Add(time.Duration(h.rand.IntN(2000)-200)*time.Hour))
	o.AllowDoubtful = is(0.8)
	return h, o
}

func kept(h *history, o Options) map[string]bool {
	ids := map[string]bool{}
	for _, d := range h.decide(o).Decisions {
		if d.Keep {
			ids[d.ID] = true
		}
	}
	return ids
}

// missing returns what of b is missing in a.
func missing(a, b map[string]bool) []string {
	var out []string
	for id := range b {
		if !a[id] {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

func TestProperties(t *testing.T) {
	t.Parallel()
	for seed := range uint64(400) {
		h, o := random(t, seed)
		plan := h.decide(o)
		ids := kept(h, o)
		files := map[string]string{}    // to the backup that wrote them
		points := map[string][]string{} // of schemas, and of their files
		for _, b := range h.backups {
			for _, s := range b.Manifest.Schemas {
				if own(b.Manifest, &s) {
					files[s.Filepath] = b.ID
				}
				if s.Media != nil && s.Media.Backup == b.ID {
					files[s.MediaBackup] = b.ID
				}
				if b.Manifest.BackupType != manifest.Baseline {
					key := "original " + s.Schema
					if d := b.Manifest.Database; d != nil {
						key = d.SystemIdentifier + s.Schema
					} else if heir := (&run{backups: h.backups}).heir(); heir != (databaseID{}) {
						key = heir.system + s.Schema
					}
					points[key] = append(points[key], b.ID)
					if s.MediaBackup != "" {
						points["files of "+key] = append(points["files of "+key], b.ID)
					}
				}
			}
		}
		for i, d := range plan.Decisions {
			b := h.backups[i]
			if d.ID != b.ID || len(d.Reasons) == 0 {
				t.Fatalf("seed %d: decision %+v for %s", seed, d, b.ID)
			}
			if !d.Keep {
				if b.Pin != nil || b.Time.After(o.Now.Add(-time.Hour)) || b.Manifest.Retention != "" && b.Manifest.RetentionDays == 0 ||
					b.Manifest.Retention != "" && o.Now.Before(b.Time.In(h.zone).AddDate(0, 0, b.Manifest.RetentionDays)) {
					t.Errorf("seed %d: %s goes: %s", seed, b.ID, d.Why())
				}
				continue
			}
			for _, s := range b.Manifest.Schemas {
				for _, key := range slices.Concat([]string{s.Filepath}, s.References, earlierMedia(b.Manifest, &s)) {
					if w := files[key]; w != "" && !ids[w] {
						t.Errorf("seed %d: %s is kept and needs %s of %s, which goes", seed, b.ID, key, w)
					}
				}
			}
		}
		for key, all := range points {
			if !slices.ContainsFunc(all, func(id string) bool { return ids[id] }) {
				t.Errorf("seed %d: nothing is left of %s", seed, key)
			}
		}

		// What must only ever keep more.
		grown := o
		grown.Policy.Daily += 2
		grown.Policy.Weekly++
		if out := missing(kept(h, grown), ids); len(out) > 0 {
			t.Errorf("seed %d: a larger policy lets %v go", seed, out)
		}
		i := h.rand.IntN(len(h.backups))
		was := h.backups[i].Pin
		h.backups[i].Pin = &Pin{}
		if out := missing(kept(h, o), ids); len(out) > 0 {
			t.Errorf("seed %d: a pin of %s lets %v go", seed, h.backups[i].ID, out)
		}
		h.backups[i].Pin = was
		all := h.backups
		bad := map[string]bool{}
		r := &run{Options: o, backups: all}
		r.sortBackups()
		r.readSchemas()
		r.judge()
		for i := range all {
			bad[all[i].ID] = !r.facts[i].complete()
		}
		h.backups = slices.DeleteFunc(slices.Clone(all), func(b Backup) bool { return bad[b.ID] })
		lifted := o
		lifted.AllowDoubtful = true
		without := kept(h, lifted)
		h.backups = all
		if out := missing(kept(h, lifted), without); len(out) > 0 {
			t.Errorf("seed %d: partial and doubtful backups let %v go", seed, out)
		}

		// After a cleanup there is nothing to clean up.
		h.cleanup(o)
		if gone := h.cleanup(o); len(gone) > 0 {
			t.Errorf("seed %d: a second cleanup lets %s go: %s", seed, gone[0].ID, gone[0].Why())
		}
		if t.Failed() {
			return
		}
	}
}

func TestPolicies(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]Policy{"default": {7, 4, 12}, "aggressive": {3, 2, 6}, "conservative": {14, 8, 24}} {
		if got, ok := Named(name); !ok || got != want {
			t.Errorf("%s is %v", name, got)
		}
	}
	if _, ok := Named("custom"); ok {
		t.Error("custom has numbers")
	}
	for _, p := range []Policy{{}, {Daily: -1, Weekly: 4}, {Monthly: -1}} {
		if _, err := Decide(nil, Options{Policy: p}); err == nil {
			t.Errorf("%+v is taken", p)
		}
	}
}

// A run that began and neither ended nor works any more may have failed for what
// the next ones fail for.
func TestInterrupted(t *testing.T) {
	t.Parallel()
	h := newHistory(t, "UTC")
	for n := range 5 {
		h.add(made{at: h.day("2026-05-01", n, 2, 0), typ: manifest.Full, schemas: []string{"public"}})
	}
	o := h.options(Policy{Daily: 2}, h.day("2026-05-05", 0, 12, 0))
	if n := len(kept(h, o)); n != 2 {
		t.Fatalf("%d kept, want 2", n)
	}
	o.Interrupted = []string{"20260505_100000"}
	plan := h.decide(o)
	if len(plan.Holds) != 1 || !plan.Decisions[0].Has(Held) {
		t.Errorf("holds %+v, first decision %+v", plan.Holds, plan.Decisions[0])
	}
}

func TestPoints(t *testing.T) {
	t.Parallel()
	h := newHistory(t, "UTC")
	at := func(n int) time.Time { return h.day("2026-05-01", n, 2, 0) }
	for n, schema := range []string{"acme", "acme", "globex", "initech", "acme", "acme"} {
		h.add(made{at: at(n), typ: manifest.Full, schemas: []string{schema}})
	}
	points := h.backups
	for _, p := range points {
		p.Manifest.RollbackPoint = true
	}
	points[1].Pin = &Pin{Reason: "evidence"}
	points[5].Manifest.Database = &manifest.Database{Name: "other"}
	h.backups, h.database = nil, &manifest.Database{Name: "shop", SystemIdentifier: "7"}
	h.add(made{at: at(10), typ: manifest.Full, schemas: []string{"acme", "globex", "initech"}, failed: []string{"initech"}})
	h.add(made{at: at(11), typ: manifest.Full, schemas: []string{"acme", "initech"}})
	h.backups[1].Manifest.Database = &manifest.Database{Name: "other"}
	h.add(made{at: at(12), typ: manifest.Full, schemas: []string{"acme"}})
	o := PointOptions{
		Now: at(40), Keep: 30 * 24 * time.Hour, Standing: map[string]string{points[4].ID: "acme__replaced_x"},
		SameDatabase: func(m *manifest.Manifest) bool { return m.Database.Name == "shop" },
	}
	rules := func(o PointOptions) (got []Rule) {
		for _, d := range Points(points, h.backups, o) {
			got = append(got, d.Reasons[0].Rule)
			if d.Keep == (d.Reasons[0].Rule == Expired || d.Reasons[0].Rule == Dead) {
				t.Errorf("%s: keep %v, %s", d.ID, d.Keep, d.Why())
			}
		}
		return got
	}
	if got, want := rules(o), []Rule{Expired, Pinned, OnlyCopy, OnlyCopy, Standing, Unknown}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	o.Keep = 37 * 24 * time.Hour
	if got, want := rules(o), []Rule{Expired, Pinned, OnlyCopy, OnlyCopy, Young, Young}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	o.Keep = 0
	o.SameDatabase = nil
	if got, want := rules(o), []Rule{Unknown, Pinned, Unknown, Unknown, Unknown, Unknown}; !slices.Equal(got, want) {
		t.Errorf("without a database got %v, want %v", got, want)
	}
	// A backup of rows alone is none of the files.
	o.SameDatabase = func(m *manifest.Manifest) bool { return m.Database.Name == "shop" }
	points[0].Manifest.Schemas[0].MediaBackup = "media/acme"
	if got, want := rules(o)[0], OnlyCopy; got != want {
		t.Errorf("with files got %v, want %v", got, want)
	}
	h.backups[2].Manifest.Schemas[0].MediaBackup = "media/later"
	if got, want := rules(o)[0], Expired; got != want {
		t.Errorf("with files and a later backup of them got %v, want %v", got, want)
	}
	// What no restore made is none, unless its manifest was rebuilt, which tells less.
	o.SameDatabase = func(m *manifest.Manifest) bool { return m.Database.Name == "shop" }
	points[0].Manifest.RollbackPoint, points[2].Manifest.RollbackPoint, points[2].Manifest.Rebuilt = false, false, at(3)
	if got, want := rules(o), []Rule{Unknown, Pinned, OnlyCopy, OnlyCopy, Standing, Unknown}; !slices.Equal(got, want) {
		t.Errorf("with a stranger got %v, want %v", got, want)
	}
	points[0].Manifest.RollbackPoint, o.SameDatabase = true, nil
	// Young ones go too, and what somebody wants to keep stays.
	o.Keep = 37 * 24 * time.Hour
	o.Dead = map[string]bool{points[1].ID: true, points[2].ID: true, points[5].ID: true}
	if got, want := rules(o), []Rule{Unknown, Pinned, Dead, Unknown, Young, Dead}; !slices.Equal(got, want) {
		t.Errorf("with dead ones got %v, want %v", got, want)
	}
	o.Keep = 0
	points[5].Manifest = nil
	o.SameDatabase = func(*manifest.Manifest) bool { return true }
	if got, want := rules(o), []Rule{Held, Pinned, Held, OnlyCopy, Standing, Unreadable}; !slices.Equal(got, want) {
		t.Errorf("with an unreadable one got %v, want %v", got, want)
	}
}

// A list of ten thousand backups of a hundred tenants must not wait for its
// reasons.
func BenchmarkDecide(b *testing.B) {
	h := newHistory(b, "Europe/Berlin")
	names := make([]string, 100)
	for i := range names {
		names[i] = fmt.Sprint("tenant", i)
	}
	for n := range 10_000 {
		x := made{at: h.day("2025-01-01", 0, 0, 0).Add(time.Duration(n) * time.Hour), typ: manifest.Incremental, schemas: names, changes: 0.05}
		if n%168 == 0 {
			x.typ = manifest.Full
		}
		h.add(x)
	}
	o := h.options(Policy{7, 4, 12}, h.backups[len(h.backups)-1].Time)
	for b.Loop() {
		if _, err := Decide(h.backups, o); err != nil {
			b.Fatal(err)
		}
	}
}
