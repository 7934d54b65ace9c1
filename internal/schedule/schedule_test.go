package schedule

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
)

var update = flag.Bool("update", false, "write the golden file")

var shop = manifest.Database{Name: "shop", Encoding: "UTF8", SystemIdentifier: "7"}

// usual are the settings that nobody changed.
func usual(t *testing.T) Settings {
	t.Helper()
	return Settings{
		Full: when(t, "0 0 * * 0"), Incremental: when(t, "0 0 * * *"), Baseline: when(t, "0 0 1 * *"), MaxChain: 30,
		NoBaseline: "nothing says whose rows belong to it",
	}
}

func moment(t *testing.T, text string) time.Time {
	t.Helper()
	at, err := time.Parse("2006-01-02 15:04:05", text)
	if err != nil {
		t.Fatal(err)
	}
	return at
}

// made is a backup. Schemas are names; "-" before one says that it failed, "~" that
// some of its files did, "=" that it did not change, and "+N" behind it that it
// needs N files of earlier backups.
func made(t *testing.T, at string, typ manifest.Type, schemas ...string) *manifest.Manifest {
	t.Helper()
	m := &manifest.Manifest{
		Timestamp: manifest.NewTime(moment(t, at)), BackupType: typ, Format: 1, Database: &manifest.Database{},
		ID: moment(t, at).Format("20060102_150405"),
	}
	*m.Database = shop
	for _, name := range schemas {
		e := manifest.Schema{Timestamp: m.ID, Type: typ, Filepath: "data/" + name}
		switch name[0] {
		case '-':
			m.Failures = append(m.Failures, manifest.Failure{Schema: name[1:], Tenant: name[1:], Error: "permission denied for table secrets\nmore of it"})
			continue
		case '~':
			name, e.Media = name[1:], &manifest.Media{Failed: 3}
		case '=':
			name, e.Timestamp = name[1:], "20200101_000000"
		}
		name, chain, _ := strings.Cut(name, "+")
		n := 0
		if chain != "" {
			if _, err := fmt.Sscan(chain, &n); err != nil {
				t.Fatal(err)
			}
		}
		e.Schema, e.Tenant, e.References = name, name, slices.Repeat([]string{"data/x"}, n)
		m.Schemas = append(m.Schemas, e)
	}
	return m
}

// The plans of many histories, to be read by people.
func TestPlans(t *testing.T) {
	t.Parallel()
	// 2026-11-22 is a Sunday.
	week := []*manifest.Manifest{
		made(t, "2026-11-15 00:00:03", manifest.Full, "public", "acme", "bolt"),
		made(t, "2026-11-20 00:00:03", manifest.Incremental, "public+1", "=acme", "bolt+1"),
		made(t, "2026-11-21 00:00:03", manifest.Incremental, "public+2", "=acme", "bolt+2"),
	}
	and := func(more ...*manifest.Manifest) []*manifest.Manifest { return append(slices.Clone(week), more...) }
	all := []string{"public", "acme", "bolt"}
	forced := func(typ manifest.Type) func(*Settings) { return func(s *Settings) { s.Type = typ } }
	var out strings.Builder
	for _, tt := range []struct {
		name    string
		now     string
		schemas []string
		backups []*manifest.Manifest
		change  func(*Settings)
	}{
		{"nothing was ever backed up", "2026-11-21 10:00:00", all, nil, nil},
		{"all is well", "2026-11-21 10:00:00", all, week, nil},
		{"Sunday", "2026-11-22 00:00:01", all, week, nil},
		{"a second before Sunday", "2026-11-21 23:59:59", all, week, nil},
		{"Monday after a Sunday that was missed", "2026-11-23 00:00:01", all, week, nil},
		{"weeks later", "2026-12-21 10:00:00", all, week, nil},
		{"a weekday", "2026-11-23 00:00:01", all, and(made(t, "2026-11-22 00:00:03", manifest.Full, all...)), nil},
		{"the night was missed, by day", "2026-11-23 09:00:00", all, and(made(t, "2026-11-22 00:00:03", manifest.Full, all...)), nil},
		{"a new tenant", "2026-11-21 10:00:00", append(slices.Clone(all), "cafe"), week, nil},
		{"a new tenant, at the time of an incremental", "2026-11-20 23:59:00", append(slices.Clone(all), "cafe"), week[:2], nil},
		{"a new tenant, and the incremental is due", "2026-11-21 00:00:00", append(slices.Clone(all), "cafe"), week[:2], nil},
		{"a tenant is gone", "2026-11-21 10:00:00", all[:2], week, nil},
		{
			"a full backup failed for one, by day", "2026-11-22 10:00:00", all,
			and(made(t, "2026-11-22 00:00:03", manifest.Full, "public", "acme", "-bolt")), nil,
		},
		{
			"and the day after", "2026-11-23 00:00:01", all,
			and(made(t, "2026-11-22 00:00:03", manifest.Full, "public", "acme", "-bolt")), nil,
		},
		{
			"an incremental failed for one", "2026-11-24 08:00:00", all,
			and(made(t, "2026-11-22 00:00:03", manifest.Full, all...), made(t, "2026-11-24 00:00:03", manifest.Incremental, "=public", "-acme", "=bolt")), nil,
		},
		{
			"it failed, and was mended", "2026-11-24 08:00:00", all,
			and(made(t, "2026-11-22 00:00:03", manifest.Full, all...), made(t, "2026-11-24 00:00:03", manifest.Incremental, "=public", "-acme", "=bolt"),
				made(t, "2026-11-24 00:20:03", manifest.Incremental, "acme+1")), nil,
		},
		{
			"a new tenant failed", "2026-11-21 10:00:00", append(slices.Clone(all), "cafe"),
			append(slices.Clone(week[:2]), made(t, "2026-11-21 00:00:03", manifest.Incremental, "public+2", "=acme", "bolt+2", "-cafe")), nil,
		},
		{
			"files failed, once", "2026-11-21 10:00:00", all,
			append(slices.Clone(week[:2]), made(t, "2026-11-21 00:00:03", manifest.Incremental, "public+2", "~acme", "bolt+2")),
			func(s *Settings) { s.Media = true },
		},
		{
			"files failed, twice", "2026-11-21 10:00:00", all,
			append(slices.Clone(week[:2]), made(t, "2026-11-21 00:00:03", manifest.Incremental, "public+2", "~acme", "bolt+2"), made(t, "2026-11-21 01:00:03", manifest.Incremental, "~acme")),
			func(s *Settings) { s.Media = true },
		},
		{
			"a long chain", "2026-11-22 00:00:01", all,
			[]*manifest.Manifest{made(t, "2026-11-21 00:00:03", manifest.Full, all...), made(t, "2026-11-21 00:10:03", manifest.Incremental, "public", "acme+30", "bolt+29")},
			func(s *Settings) { s.Full = When{} },
		},
		{"backups of another database", "2026-11-21 10:00:00", all[:1], []*manifest.Manifest{func() *manifest.Manifest {
			m := made(t, "2026-11-21 00:00:03", manifest.Full, all...)
			m.Database.Name = "other"
			return m
		}(), func() *manifest.Manifest {
			m := made(t, "2026-11-21 00:10:03", manifest.Full, all...)
			m.Database.SystemIdentifier = "8"
			return m
		}(), func() *manifest.Manifest {
			m := made(t, "2026-11-21 00:20:03", manifest.Full, all...)
			m.Format = 0 // of the original system
			return m
		}()}, nil},
		{"a backup from the future", "2026-11-21 10:00:00", all[:1], append(slices.Clone(week), made(t, "2036-01-01 00:00:00", manifest.Full, all...)), nil},
		{"a clock that is a little ahead", "2026-11-21 23:59:58", all[:1], and(made(t, "2026-11-22 00:00:01", manifest.Full, all...)), nil},
		{"only incrementals are left", "2026-11-21 10:00:00", all, week[1:], nil},
		{"only fulls, of type full", "2026-11-22 00:00:01", all, week, forced(manifest.Full)},
		{"type full, on a weekday", "2026-11-24 00:00:01", all, and(made(t, "2026-11-22 00:00:03", manifest.Full, all...)), forced(manifest.Full)},
		{"type incremental, on a Sunday", "2026-11-22 00:00:01", append(slices.Clone(all), "cafe"), week, forced(manifest.Incremental)},
		{"type incremental, done", "2026-11-22 08:00:01", all, and(made(t, "2026-11-22 00:00:03", manifest.Incremental, "=public", "=acme", "=bolt")), forced(manifest.Incremental)},
		{"type baseline", "2026-11-22 08:00:01", all, week, func(s *Settings) { s.Type, s.NoBaseline = manifest.Baseline, "" }},
		{"full is off", "2026-11-24 00:00:01", all[:2], and(made(t, "2026-11-22 00:00:03", manifest.Full, all...)), func(s *Settings) { s.Full = When{} }},
		{"all is off", "2026-11-24 00:00:01", all[:2], nil, func(s *Settings) { s.Full, s.Incremental, s.Baseline = When{}, When{}, When{} }},
		{
			"rules for tenants", "2026-11-23 13:30:00",
			[]string{"public", "vip_a", "vip_b", "demo_x", "bolt"},
			[]*manifest.Manifest{made(t, "2026-11-22 00:00:03", manifest.Full, "public", "vip_a", "vip_b", "demo_x", "bolt"), made(t, "2026-11-23 00:00:03", manifest.Incremental, "public+1", "vip_a+1", "vip_b+1", "bolt+1"), made(t, "2026-11-23 13:00:03", manifest.Incremental, "vip_b+2")},
			func(s *Settings) {
				s.Rules = []Rule{{"vip_*", manifest.Incremental, When{"0 * * * *"}}, {"demo_*", "", When{}}, {"vip_*", "", When{}}}
			},
		},
		{"a baseline to be renewed", "2026-12-01 00:00:01", all[:1], []*manifest.Manifest{made(t, "2026-11-30 00:00:03", manifest.Full, "public"), made(t, "2026-11-02 09:00:00", manifest.Baseline, "public")}, func(s *Settings) { s.NoBaseline = "" }},
		{"a baseline that cannot be renewed", "2026-12-01 00:00:01", all[:1], []*manifest.Manifest{made(t, "2026-12-01 00:00:00", manifest.Incremental, "public"), made(t, "2026-11-29 00:00:03", manifest.Full, "public"), made(t, "2026-11-02 09:00:00", manifest.Baseline, "public")}, nil},
		{"a baseline that was asked for", "2026-11-21 10:00:00", all, week, func(s *Settings) { s.NoBaseline, s.BaselineAsked = "", true }},
		{"templates are no baselines of core", "2026-12-01 00:00:01", all[:1], []*manifest.Manifest{made(t, "2026-12-01 00:00:00", manifest.Full, "public"), made(t, "2026-11-02 09:00:00", manifest.Baseline, "demo")}, func(s *Settings) { s.NoBaseline = "" }},
		{"core is not backed up", "2026-12-01 00:00:01", []string{"acme"}, []*manifest.Manifest{made(t, "2026-12-01 00:00:00", manifest.Full, "acme")}, func(s *Settings) { s.NoBaseline = "" }},
		{"in a zone where Sunday has begun", "2026-11-21 11:30:00", all, week, func(s *Settings) { s.Zone = zone(t, "Pacific/Auckland") }},
	} {
		s := usual(t)
		if tt.change != nil {
			tt.change(&s)
		}
		backups := slices.Clone(tt.backups)
		slices.Reverse(backups) // the order does not matter
		p := Decide(Facts{Now: moment(t, tt.now), Database: shop, Schemas: tt.schemas, Backups: backups}, s)
		if again := Decide(Facts{Now: moment(t, tt.now), Database: shop, Schemas: tt.schemas, Backups: tt.backups}, s); !cmp.Equal(p, again) {
			t.Errorf("%s: the order of the backups matters: %s", tt.name, cmp.Diff(p, again))
		}
		write(&out, tt.name, tt.now, p)
	}
	golden := filepath.Join("testdata", "plans.golden")
	if *update {
		if err := os.WriteFile(golden, []byte(out.String()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(out.String(), "\n")); diff != "" {
		t.Error(diff)
	}
}

func write(out *strings.Builder, name, now string, p *Plan) {
	fmt.Fprintf(out, "## %s: %s\n", now, name)
	baseline := p.Baseline
	baseline.Schema = "baseline"
	for _, d := range append(slices.Clone(p.Decisions), baseline) {
		next := "never"
		if !d.Next.IsZero() {
			next = d.Next.UTC().Format("01-02 15:04")
		}
		due := string(d.Due)
		if due == "" {
			due = "-"
		}
		fmt.Fprintf(out, "%-8s %-11s %-8s %s; next %s\n", d.Schema, due, d.Cause, d.Why, next)
	}
	for _, s := range p.Steps() {
		fmt.Fprintf(out, "=> %s", s.Type)
		if s.Schemas != nil {
			fmt.Fprintf(out, " of %s", strings.Join(s.Schemas, ", "))
		}
		if s.Full != nil {
			fmt.Fprintf(out, ", in full %s", strings.Join(s.Full, ", "))
		}
		fmt.Fprintln(out)
	}
	fmt.Fprintln(out)
}

// A year in which somebody asks every so often, in zones with and without summer
// time: each week has its full backup, each day its incremental, each month its
// baseline, and never does a step come twice.
func TestYear(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"UTC", "Europe/Berlin", "Africa/Cairo", "America/Havana", "Pacific/Auckland"} {
		for _, every := range []time.Duration{5*time.Hour + 11*time.Minute, 24 * time.Hour} {
			s := usual(t)
			s.Zone, s.NoBaseline, s.BaselineAsked = zone(t, name), "", true
			begin := time.Date(2026, 1, 1, 0, 0, 1, 0, s.Zone)
			var backups []*manifest.Manifest
			days, weeks, months := map[string]bool{}, map[int]bool{}, map[time.Month]bool{}
			for now := begin; now.Before(begin.AddDate(1, 0, 0)); now = now.Add(every) {
				p := Decide(Facts{Now: now, Database: shop, Schemas: []string{"public", "acme"}, Backups: newest(backups)}, s)
				local := now.In(s.Zone)
				for _, step := range p.Steps() {
					if step.Schemas != nil && step.Type != manifest.Baseline {
						t.Fatalf("%s, %s: a backup of %v only", name, local, step.Schemas)
					}
					switch step.Type {
					case manifest.Baseline:
						if months[local.Month()] {
							t.Errorf("%s, %s: a second baseline in the month", name, local)
						}
						months[local.Month()] = true
					case manifest.Full:
						_, week := local.AddDate(0, 0, 1).ISOWeek() // which begin on Sundays
						if weeks[week] {
							t.Errorf("%s, %s: a second full backup in the week", name, local)
						}
						weeks[week] = true
						fallthrough
					default:
						if day := local.Format(time.DateOnly); days[day] {
							t.Errorf("%s, %s: a second backup that day", name, local)
						} else {
							days[day] = true
						}
					}
					backups = append(backups, made(t, now.UTC().Format("2006-01-02 15:04:05"), step.Type, "public", "acme"))
					if step.Type == manifest.Incremental {
						last := backups[len(backups)-1]
						for i := range last.Schemas {
							last.Schemas[i].References = []string{"data/x"}
						}
					}
				}
				if again := Decide(Facts{Now: now, Database: shop, Schemas: []string{"public", "acme"}, Backups: newest(backups)}, s); again.Work() {
					t.Fatalf("%s, %s: %v is due again at once", name, local, again.Steps())
				} else if !again.Next.After(now) {
					t.Fatalf("%s, %s: next is %s", name, local, again.Next)
				}
			}
			if len(days) < 364 || len(weeks) < 52 || len(months) != 12 {
				t.Errorf("%s, asked every %s: backups on %d days, full ones in %d weeks, baselines in %d months", name, every, len(days), len(weeks), len(months))
			}
		}
	}
}

// newest are enough of the backups to decide by.
func newest(all []*manifest.Manifest) []*manifest.Manifest {
	return all[max(0, len(all)-45):]
}
