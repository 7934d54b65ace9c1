package retention

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
)

var update = flag.Bool("update", false, "write the golden files anew")

func policy(t testing.TB, name string) Policy {
	t.Helper()
	p, ok := Named(name)
	if !ok {
		t.Fatalf("no policy %s", name)
	}
	return p
}

// Each scenario is years of backups with a cleanup after each; the file has what
// is left at the end, and why.
func TestGolden(t *testing.T) {
	t.Parallel()
	tenants := []string{"public", "acme", "globex"}
	full := func(at time.Time, schemas ...string) made {
		return made{at: at, typ: manifest.Full, schemas: schemas}
	}
	nightly := func(h *history, p Policy, from string, days int, each func(n int, x *made) bool) time.Time {
		var now time.Time
		for n := range days {
			x := full(h.day(from, n, 2, 30), tenants...)
			if each == nil || each(n, &x) {
				h.add(x)
			}
			now = h.day(from, n, 12, 0)
			h.cleanup(h.options(p, now))
		}
		return now
	}
	for name, run := range map[string]func(h *history) string{
		"default": func(h *history) string {
			p := policy(t, "default")
			now := nightly(h, p, "2023-01-01", 1100, nil)
			return "A full backup each night for three years.\n" + h.show(h.options(p, now))
		},
		"aggressive": func(h *history) string {
			p := policy(t, "aggressive")
			now := nightly(h, p, "2023-01-01", 1100, nil)
			return "A full backup each night for three years.\n" + h.show(h.options(p, now))
		},
		"conservative": func(h *history) string {
			p := policy(t, "conservative")
			now := nightly(h, p, "2023-01-01", 1100, nil)
			return "A full backup each night for three years.\n" + h.show(h.options(p, now))
		},
		"custom": func(h *history) string {
			p := Policy{Weekly: 3}
			now := nightly(h, p, "2024-12-01", 400, nil)
			return "Three weeks and nothing else. The weeks are those of ISO 8601: the first days of 2026 belong to 2026-W01, which began in 2025.\n" +
				h.show(h.options(p, now))
		},
		"hourly-berlin": func(h *history) string {
			p := policy(t, "default")
			var now time.Time
			begin := h.day("2026-03-20", 0, 0, 0)
			for n := range 24 * 12 {
				h.add(full(begin.Add(time.Duration(n)*time.Hour), tenants...))
				now = begin.Add(time.Duration(n)*time.Hour + 90*time.Minute)
			}
			return "A backup each hour across 2026-03-29, a day of 23 hours. Before any cleanup.\n" + only(h.show(h.options(p, now)), " keep ")
		},
		"hourly-new-york": func(h *history) string {
			p := policy(t, "default")
			begin := h.day("2026-10-28", 0, 0, 0)
			var now time.Time
			for n := range 24 * 7 {
				h.add(full(begin.Add(time.Duration(n)*time.Hour), tenants...))
				now = begin.Add(time.Duration(n)*time.Hour + 90*time.Minute)
			}
			return "A backup each hour across 2026-11-01, a day of 25 hours. Before any cleanup.\n" + only(h.show(h.options(p, now)), " keep ")
		},
		"midnight-st-johns": func(h *history) string {
			// The clocks went back at 00:01, to 23:01 of the day before.
			begin := h.day("2010-11-06", 0, 23, 0)
			for n := range 13 {
				h.add(full(begin.Add(time.Duration(n)*10*time.Minute+30*time.Second), tenants...))
			}
			return "The clocks go back at 00:01, so that one minute of a day comes before the end of the day before.\n" +
				h.show(h.options(Policy{Daily: 2}, begin.Add(24*time.Hour)))
		},
		"incremental": func(h *history) string {
			p := policy(t, "default")
			now := nightly(h, p, "2025-01-01", 600, func(n int, x *made) bool {
				if x.at.Weekday() != time.Sunday {
					x.typ, x.changes = manifest.Incremental, 0.3
				}
				return true
			})
			return "A full backup on Sundays, incremental ones else, in which a third of the schemas changed.\n" + h.show(h.options(p, now))
		},
		"dropped-tenant": func(h *history) string {
			p := policy(t, "default")
			out := "The tenant globex is dropped on 2025-02-01, and acme is excluded but backed up alone, monthly.\n"
			var now time.Time
			for n := range 700 {
				at := h.day("2025-01-01", n, 2, 0)
				x := full(at, "public", "initech")
				if n < 31 {
					x.schemas = append(x.schemas, "globex")
				}
				h.add(x)
				if at.Day() == 15 {
					h.add(full(at.Add(time.Hour), "acme"))
				}
				now = at.Add(10 * time.Hour)
				h.cleanup(h.options(p, now))
				if n == 60 {
					out += "\nA month after the drop.\n" + h.show(h.options(p, now))
				}
			}
			return out + "\nAfter 22 months.\n" + h.show(h.options(p, now))
		},
		"failures": func(h *history) string {
			p := policy(t, "default")
			now := nightly(h, p, "2025-10-01", 130, func(n int, x *made) bool {
				switch {
				case n%9 == 4:
					return false // failed
				case n%7 == 3, n >= 100 && n < 125:
					x.failed = []string{"globex"}
				case n == 95:
					x.empty = true
				}
				return true
			})
			return "Nights without a backup, nights that lacked globex, all of them from 2026-01-09 to 2026-02-02, and one with no rows.\n" + h.show(h.options(p, now))
		},
		"newest-partial": func(h *history) string {
			p := policy(t, "aggressive")
			now := nightly(h, p, "2026-01-01", 20, nil)
			x := full(now.Add(time.Hour), tenants...)
			x.failed = []string{"acme"}
			h.add(x)
			now = now.Add(40 * 24 * time.Hour)
			lifted := h.options(p, now)
			lifted.AllowDoubtful = true
			return "The newest backup is partial.\n" + h.show(h.options(p, now)) + "\nThe same, with leave.\n" + h.show(lifted)
		},
		"pins-and-days": func(h *history) string {
			p := policy(t, "aggressive")
			nightly(h, p, "2025-11-01", 150, func(n int, x *made) bool {
				switch n {
				case 20:
					b := h.add(full(x.at.Add(-time.Hour), tenants...))
					b.Pin = &Pin{Reason: "before the move to the new cluster", By: "ops"}
				case 70:
					h.add(made{at: x.at.Add(11 * time.Hour), typ: manifest.Full, schemas: tenants, retention: manifest.RetainExactly, days: 90})
				case 130:
					h.add(made{at: x.at.Add(11 * time.Hour), typ: manifest.Full, schemas: tenants, retention: manifest.RetainExactly, days: 5})
				case 80:
					h.add(made{at: x.at.Add(11 * time.Hour), typ: manifest.Full, schemas: tenants, retention: manifest.RetainExactly})
				case 148:
					h.add(made{at: x.at.Add(11 * time.Hour), typ: manifest.Full, schemas: tenants, retention: manifest.RetainExactly, days: 1})
				}
				if n > 135 {
					x.retention, x.days = manifest.RetainAtLeast, 10
				}
				return true
			})
			now := h.day("2025-11-01", 150, 2, 0)
			return "One is pinned, four have days of their own (90, 5, none, 1), and all since 2026-03-17 are to be kept for at least ten days.\n" + h.show(h.options(p, now))
		},
		"two-databases": func(h *history) string {
			p := Policy{Daily: 3}
			staging := &manifest.Database{Name: "shop", SystemIdentifier: "8"}
			production := h.database
			for n := range 10 {
				h.database = production
				h.add(full(h.day("2026-05-01", n, 2, 0), tenants...))
				if n < 5 {
					h.database = staging
					h.add(full(h.day("2026-05-01", n, 3, 0), tenants...))
					h.database = nil
					h.add(full(h.day("2026-05-01", n, 4, 0), tenants...))
				}
			}
			return "Production at 02:00; until the fifth, staging of the same name at 03:00 and one that nobody knows at 04:00.\n" +
				h.show(h.options(p, h.day("2026-05-01", 9, 12, 0)))
		},
		"twice": func(h *history) string {
			p := Policy{Daily: 2}
			for n := range 5 {
				h.add(full(h.day("2026-05-01", n, 2, 0), tenants...))
			}
			h.backups = append(h.backups, h.backups[1])
			o := h.options(p, h.day("2026-05-05", 0, 12, 0))
			o.AllowDoubtful, o.Unreadable = true, []string{"manifests/old/x.json"}
			return "Two manifests have the id of one backup, and one in another place cannot be read.\n" + h.show(o)
		},
		"retired-database": func(h *history) string {
			p := Policy{Daily: 3, Weekly: 2, Monthly: 4}
			moved := &manifest.Database{Name: "shop", SystemIdentifier: "8"}
			last := full(h.day("2026-01-15", 0, 3, 0), tenants...)
			last.failed = []string{"acme"}
			nightly(h, p, "2025-12-01", 46, nil)
			h.add(last)
			h.database = nil
			h.add(full(h.day("2025-12-20", 0, 3, 0), tenants...))
			h.database = moved
			text := "A database moved to another server in the middle of January, after a night that failed in part.\n"
			month := 2
			for _, days := range []int{40, 62, 150} {
				now := h.day("2026-01-16", days, 2, 0)
				for n := days - 4; n < days; n++ {
					h.add(full(h.day("2026-01-16", n, 2, 0), tenants...))
				}
				for ; month < int(now.Month()); month++ {
					h.add(full(h.day(fmt.Sprintf("2026-%02d-11", month), 0, 4, 0), tenants...))
				}
				text += fmt.Sprintf("\nAfter %d days.\n%s", days, h.show(h.options(p, now)))
			}
			return text
		},
		"original": func(h *history) string {
			p := policy(t, "default")
			now := nightly(h, p, "2025-01-01", 400, func(_ int, x *made) bool {
				x.original = true
				x.schemas = []string{"public", "acme", "globex", "initech"}
				if x.at.Weekday() != time.Sunday {
					x.typ = manifest.Incremental
				}
				return true
			})
			out := "The original system: a full backup on Sundays, definitions without rows else. initech is dropped when tenantkeep takes over.\n" + h.show(h.options(p, now))
			now = nightly(h, p, "2026-02-05", 4, nil)
			out += "\nFour nights later.\n" + h.show(h.options(p, now))
			now = nightly(h, p, "2026-02-09", 400, nil)
			return out + "\nAnd a year.\n" + h.show(h.options(p, now))
		},
		"original-lacking": func(h *history) string {
			for n := range 4 {
				h.add(made{at: h.day("2026-05-01", n, 2, 0), typ: manifest.Full, schemas: tenants, original: true})
			}
			h.backups[3].Lacking = "lacks data/acme_full_20260504_020000.sql.gz"
			h.backups[2].Lacking = "lacks data/acme_full_20260503_020000.sql.gz"
			now := h.day("2026-05-04", 0, 12, 0)
			out := "Files of the two newest are gone.\n" + h.show(h.options(Policy{Daily: 1}, now))
			h.add(full(h.day("2026-05-05", 0, 2, 0), tenants...))
			return out + "\nAfter a new one.\n" + h.show(h.options(Policy{Daily: 1}, h.day("2026-05-05", 0, 12, 0)))
		},
		"media": func(h *history) string {
			p := policy(t, "aggressive")
			now := nightly(h, p, "2025-06-02", 120, func(n int, x *made) bool {
				x.media = n%7 == 0 && n < 84
				return true
			})
			out := "A full backup each night, with files on Mondays until 2025-08-18.\n" + h.show(h.options(p, now))
			now = nightly(h, p, "2025-09-30", 400, nil)
			return out + "\nAfter another 400 nights of rows alone.\n" + h.show(h.options(p, now))
		},
		"clocks": func(h *history) string {
			p := Policy{Daily: 2}
			for n := range 5 {
				h.add(full(h.day("2026-05-01", n, 2, 0), tenants...))
			}
			h.add(full(h.day("2031-05-01", 0, 2, 0), tenants...))
			h.add(full(h.day("2026-05-05", 0, 11, 30), tenants...))
			return "One backup was made while the clock was wrong by five years, and one half an hour ago.\n" +
				h.show(h.options(p, h.day("2026-05-05", 0, 12, 0)))
		},
		"unreadable": func(h *history) string {
			p := Policy{Daily: 2}
			for n := range 5 {
				h.add(full(h.day("2026-05-01", n, 2, 0), tenants...))
			}
			h.backups[1].Manifest = nil
			return "Of one backup the manifest cannot be read.\n" + h.show(h.options(p, h.day("2026-05-05", 0, 12, 0)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			zone := map[string]string{
				"hourly-berlin": "Europe/Berlin", "hourly-new-york": "America/New_York", "midnight-st-johns": "America/St_Johns", "incremental": "Europe/Berlin",
			}[name]
			got := fmt.Sprintf("Scenario %s, time zone %s.\n", name, cmp.Or(zone, "UTC")) + run(newHistory(t, zone))
			file := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := gocmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
				t.Errorf("go test -update writes it anew (-golden +now):\n%s", diff)
			}
		})
	}
}

// only leaves the lines of a plan with a word, and those before the first.
func only(text, word string) string {
	lines := strings.Split(text, "\n")
	return strings.Join(slices.DeleteFunc(lines, func(l string) bool { return strings.Contains(l, " GO ") && !strings.Contains(l, word) }), "\n")
}
