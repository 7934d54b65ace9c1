package health

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// entry is a schema with so many rows in two tables.
func entry(schema string, rows int64) manifest.Schema {
	tenant := schema
	if schema == manifest.CoreSchema {
		tenant = manifest.CoreTenant
	}
	return manifest.Schema{Schema: schema, Tenant: tenant, Filepath: "data/" + schema, Size: 10, Rows: rows, Bytes: 10 * rows, Tables: 2}
}

// ago is a full backup of core and these schemas.
func ago(age time.Duration, entries ...manifest.Schema) Backup {
	at := now.Add(-age)
	m := &manifest.Manifest{
		Format: manifest.Format, ID: at.Format("20060102_150405"), BackupType: manifest.Full, Timestamp: manifest.Time{Time: at},
		Finished: at.Add(time.Minute), Schemas: append([]manifest.Schema{entry(manifest.CoreSchema, 5)}, entries...),
	}
	return Backup{ID: m.ID, Time: at, Manifest: m, Stored: 1000}
}

// well is a world in which all is well, for a test to change.
func well() *Facts {
	return &Facts{
		Now:        now,
		Repository: Repository{Location: "/backups"},
		Database:   Database{Name: "saas", Schemas: []string{"public", "acme", "beta"}},
		Backups:    []Backup{ago(time.Hour, entry("acme", 1000), entry("beta", 1000)), ago(25*time.Hour, entry("acme", 1000), entry("beta", 1000))},
		Disk:       &Disk{Free: 1 << 40, Total: 2 << 40},
		Integrity:  Integrity{Files: 3, Bytes: 30, Read: 30},
	}
}

var daily = Targets{MaxAge: 24 * time.Hour, MaxProof: 90 * 24 * time.Hour, MinDays: 14, MaxReplaced: 48 * time.Hour}

func TestAllIsWell(t *testing.T) {
	t.Parallel()
	r := Judge(well(), daily)
	if r.State != OK || len(r.Bad()) > 0 {
		t.Errorf("state %v: %+v", r.State, r.Bad())
	}
	var names []string
	for _, c := range r.Checks {
		names = append(names, c.Name)
		if c.Message == "" {
			t.Errorf("%s says nothing", c.Name)
		}
	}
	if got, want := strings.Join(names, " "), "database repository freshness run schedule disk integrity retention drill changes locks leftovers notifications"; got != want {
		t.Errorf("checks %s, want %s", got, want)
	}
	if len(r.Tenants) != 3 || r.Tenants[0].Tenant != "core" || *r.Tenants[1].Age != 3600 || *r.Tenants[1].Target != 86400 || r.Tenants[1].Rows != 1000 {
		t.Errorf("tenants %+v", r.Tenants)
	}
	if len(r.Runs) != 1 || r.Runs[0].Type != "full" || *r.Runs[0].Seconds != 60 || r.Runs[0].Rows != 2005 || r.Runs[0].Stored != 1000 {
		t.Errorf("runs %+v", r.Runs)
	}
	text, err := json.Marshal(r)
	if err != nil || !strings.HasPrefix(string(text), `{"time":"2026-11-23T12:00:00Z","state":"ok","database":"saas","checks":[{"name":"database","state":"ok",`) {
		t.Errorf("JSON %.200s, %v", text, err)
	}
}

// Each case changes what is well, and names the checks that notice, their state and
// a part of what they say.
func TestChecks(t *testing.T) {
	t.Parallel()
	day := 24 * time.Hour
	for name, c := range map[string]struct {
		change func(f *Facts, t *Targets)
		want   string // lines of "check state: text"
	}{
		"never backed up": {func(f *Facts, _ *Targets) { f.Database.Schemas = append(f.Database.Schemas, "gamma") }, "freshness critical: gamma has never been backed up"},
		"never, and failed": {func(f *Facts, _ *Targets) {
			f.Database.Schemas = append(f.Database.Schemas, "gamma")
			f.Backups[0].Manifest.Failures = []manifest.Failure{{Schema: "gamma", Tenant: "gamma", Error: "no right\nto read"}}
		}, "freshness critical: gamma has never been backed up; the last attempt failed: no right\nrun warning: gamma could not be saved by backup 20261123_110000: no right"},
		"old":         {func(f *Facts, _ *Targets) { f.Now = f.Now.Add(24 * time.Hour) }, "freshness warning: public was last backed up 25 hours ago, more than 24 hours; and 2 more"},
		"very old":    {func(f *Facts, _ *Targets) { f.Now = f.Now.Add(48 * time.Hour) }, "freshness critical: public was last backed up 49 hours ago\nschedule critical: nothing has tried to make a backup for 49 hours"},
		"just in age": {func(f *Facts, _ *Targets) { f.Now = f.Now.Add(23 * time.Hour) }, ""},
		"next one on its way": {func(f *Facts, _ *Targets) {
			f.Now = f.Now.Add(24 * time.Hour)
			f.Running = []time.Time{now.Add(23 * time.Hour)}
		}, ""},
		"begun too late": {func(f *Facts, _ *Targets) {
			f.Now = f.Now.Add(24 * time.Hour)
			f.Running = []time.Time{now.Add(23*time.Hour + time.Minute)}
		}, "freshness warning: public was"},
		"tenants with other targets": {func(f *Facts, t *Targets) {
			f.Now = f.Now.Add(24 * time.Hour)
			t.MaxAges = []TenantAge{{"acme", 0}, {"b*", 26 * time.Hour}, {"core", 48 * time.Hour}}
		}, ""},
		"first pattern counts": {func(_ *Facts, t *Targets) {
			t.MaxAges = []TenantAge{{"a*", 40 * time.Minute}, {"acme", 0}}
		}, "freshness warning: acme was last backed up 60 minutes ago, more than 40 minutes"},
		"no target": {func(f *Facts, t *Targets) { f.Now, t.MaxAge = f.Now.Add(40*day), 0 }, ""},
		"only an old one has its file": {func(f *Facts, _ *Targets) {
			f.Backups[0].Lacking = map[int][]string{1: {"data/acme"}}
			f.Integrity.Bad = []BadFile{{File: "data/acme", Backup: "b1", Schema: "acme", What: "is missing"}}
		}, "freshness warning: acme was last backed up 25 hours ago\nintegrity critical: acme in backup b1: data/acme: is missing"},
		"from the future": {func(f *Facts, _ *Targets) {
			f.Backups = append([]Backup{ago(-time.Hour, entry("acme", 1000), entry("beta", 1000))}, f.Backups[1:]...)
		}, "freshness warning: public was last backed up 25 hours ago, more than 24 hours; and 3 more"},
		"baselines and rollback points do not count": {func(f *Facts, _ *Targets) {
			f.Backups[0].Manifest.BackupType = manifest.Baseline
			f.Backups[1].Manifest.RollbackPoint = true
		}, "freshness critical: public has never been backed up; and 2 more"},
		"nor do definitions alone": {func(f *Facts, _ *Targets) {
			for _, b := range f.Backups {
				b.Manifest.Format, b.Manifest.BackupType = 0, manifest.Incremental
			}
		}, "freshness critical: public has never been backed up; and 2 more"},
		"no database": {func(f *Facts, _ *Targets) {
			f.Database = Database{Name: "saas", Err: "connection refused"}
		}, "database critical: the database could not be reached, and only the repository was looked at: connection refused"},
		"no database, and old": {func(f *Facts, _ *Targets) {
			f.Now = f.Now.Add(25 * time.Hour)
			f.Database = Database{Err: "x"}
			f.Backups[1].Manifest.Schemas = append(f.Backups[1].Manifest.Schemas, entry("dropped", 1))
		}, "database critical: the\nfreshness warning: acme was last backed up 26 hours ago, more than 24 hours; and 2 more\nschedule critical: nothing"},
		"no database, and a backup that leaves out": {func(f *Facts, _ *Targets) {
			f.Database = Database{Err: "x", Excluded: []string{"acme"}}
			f.Backups[0].Manifest.Schemas = f.Backups[0].Manifest.Schemas[:1]
			f.Backups[0].Manifest.LeftOut = []string{"acme", "beta", "never"}
		}, "database critical: the\nfreshness warning: beta was last backed up 25 hours ago, more than 24 hours"},
		"nothing at all": {func(f *Facts, _ *Targets) {
			f.Database, f.Backups = Database{Err: "x"}, nil
		}, "database critical: the\nfreshness critical: there is no backup\nschedule warning: no backup was ever tried"},
		"no repository":   {func(f *Facts, _ *Targets) { f.Repository.Err = "no such folder" }, "repository critical: the repository cannot be read: no such folder"},
		"broken manifest": {func(f *Facts, _ *Targets) { f.Backups[1].Manifest = nil }, "repository critical: the manifest of backup 20261122_110000 cannot be read"},
		"media files lack": {func(f *Facts, _ *Targets) {
			f.Backups[0].Manifest.Schemas[1].Media = &manifest.Media{Failed: 3}
		}, "run warning: acme has 3 media files that backup 20261123_110000 could not save"},
		"failed run": {func(f *Facts, _ *Targets) {
			f.Trail = &Trail{Success: now.Add(-2 * time.Hour), Failed: now.Add(-time.Minute), Error: "disk full"}
		}, "run warning: the last run failed 1m0s ago: disk full"},
		"failed once": {func(f *Facts, _ *Targets) {
			f.Trail = &Trail{Success: now.Add(-time.Hour), Failed: now.Add(-2 * time.Hour)}
		}, ""},
		"killed run":  {func(f *Facts, _ *Targets) { f.Killed = now.Add(-time.Minute) }, "run warning: the run that began at 2026-11-23 11:59 UTC was killed"},
		"killed once": {func(f *Facts, _ *Targets) { f.Killed = now.Add(-2 * time.Hour) }, ""},
		"overdue": {func(f *Facts, _ *Targets) {
			f.Now = f.Now.Add(3 * time.Hour)
			f.Schedule = Schedule{Known: true, Due: now.Add(time.Hour)}
		}, "schedule critical: a backup has been due since 2026-11-23 13:00 UTC, and nothing made it"},
		"tried, but failed": {func(f *Facts, _ *Targets) {
			f.Schedule = Schedule{Known: true, Due: now.Add(-2 * time.Hour)}
		}, ""},
		"due now":      {func(f *Facts, _ *Targets) { f.Schedule = Schedule{Known: true, Due: now.Add(-time.Minute)} }, ""},
		"next too big": {func(f *Facts, _ *Targets) { f.Disk.Free = 999 }, "disk critical: 999 B free, and the largest of the last backups has 1.0 kB: the next may not fit"},
		"hardly any":   {func(f *Facts, _ *Targets) { f.Disk.Free = 1 << 20 }, "disk critical: only 1.0 MB free"},
		"disk for ten": {func(f *Facts, _ *Targets) { g := 1e11; f.Disk.Free, f.Disk.Growth = 1e12, &g }, "disk warning: 1.0 TB free, which is enough for 10.0 days: the backups grow by 100 GB a day"},
		"disk for two": {func(f *Facts, _ *Targets) { g := 5e11; f.Disk.Free, f.Disk.Growth = 1e12, &g }, "disk critical: 1.0 TB free, which is enough for 2.0 days"},
		"disk shrinks": {func(f *Facts, _ *Targets) { g := -5e11; f.Disk.Free, f.Disk.Growth = 1e12, &g }, ""},
		"no disk days": {func(f *Facts, t *Targets) { g := 1e11; f.Disk.Free, f.Disk.Growth, t.MinDays = 1e12, &g, 0 }, ""},
		"state unkept": {func(f *Facts, _ *Targets) { f.Integrity.StateErr = "read-only" }, "integrity warning: where the rotating check of the files has got to could not be kept: read-only"},
		"not removed": {func(f *Facts, _ *Targets) {
			f.Retention = Retention{Overdue: []string{"a", "b"}, OverdueBytes: 5e6, OverdueSince: 48 * time.Hour}
		}, "retention warning: 2 backups (5.0 MB) should have been removed more than 48 hours ago"},
		"held back": {func(f *Facts, _ *Targets) {
			f.Retention = Retention{Overdue: []string{"a"}, OverdueSince: 48 * time.Hour, Holds: []string{"the newest is partial"}}
		}, "retention warning: 1 backup (0 B) should have been removed more than 48 hours ago, but are held back: the newest is partial"},
		"lost":            {func(f *Facts, _ *Targets) { f.Retention.Lost = []string{"x"} }, "retention critical: backup x was made and nobody removed it, but it is not there"},
		"orphaned":        {func(f *Facts, _ *Targets) { f.Retention.Orphaned = []string{"x"} }, "retention critical: there are files of backup x, and its manifest is gone"},
		"pinned":          {func(f *Facts, _ *Targets) { f.Retention.Pinned = []string{"x"} }, "retention warning: backup x is pinned, and is not there"},
		"no drill":        {func(f *Facts, t *Targets) { t.MaxProof = 25 * time.Hour; f.Now = f.Now.Add(time.Hour) }, "drill warning: no backup has been restored and compared for 26 hours"},
		"old drill":       {func(f *Facts, _ *Targets) { f.Proof = Proof{Time: now.Add(-100 * day), Backup: "x"} }, "drill warning: no backup has been restored and compared for 100 days"},
		"bad drill":       {func(f *Facts, _ *Targets) { f.Proof = Proof{Time: now.Add(-day), Failed: true, Error: "rows differ"} }, "drill warning: the last restore failed: rows differ"},
		"shrunk":          {func(f *Facts, _ *Targets) { f.Backups[0].Manifest.Schemas[1] = entry("acme", 200) }, "changes warning: acme has lost 80% of its rows: 1000, now 200"},
		"shrunk a little": {func(f *Facts, _ *Targets) { f.Backups[0].Manifest.Schemas[1] = entry("acme", 201) }, ""},
		"shrunk bytes": {func(f *Facts, _ *Targets) {
			f.Backups[1].Manifest.Schemas[1].Bytes, f.Backups[0].Manifest.Schemas[1].Bytes = 1e6, 1e5
		}, "changes warning: acme has lost 90% of its data: 1.0 MB, now 100 kB"},
		"small ones may": {func(f *Facts, _ *Targets) {
			f.Backups[1].Manifest.Schemas[1], f.Backups[0].Manifest.Schemas[1] = entry("acme", 99), entry("acme", 0)
		}, ""},
		"empty": {func(f *Facts, _ *Targets) { f.Backups[0].Manifest.Schemas[1] = entry("acme", 0) }, "changes critical: acme has lost 100% of its rows: 1000, now 0"},
		"a day later still": {func(f *Facts, _ *Targets) {
			f.Backups = append([]Backup{ago(time.Minute, entry("acme", 10), entry("beta", 1000))}, f.Backups...)
			f.Backups[1].Manifest.Schemas[1] = entry("acme", 10)
		}, "changes warning: acme has lost 99% of its rows: 1000, now 10"},
		"the only earlier one is old": {func(f *Facts, _ *Targets) {
			f.Backups[1] = ago(30*day, entry("acme", 1000), entry("beta", 1000))
			f.Backups[0].Manifest.Schemas[1] = entry("acme", 10)
		}, "changes warning: acme has lost 99% of its rows: 1000, now 10"},
		"long ago is long ago": {func(f *Facts, _ *Targets) {
			f.Backups = append(f.Backups, ago(60*time.Hour, entry("acme", 100000), entry("beta", 1000)))
		}, ""},
		"lost a table":   {func(f *Facts, _ *Targets) { f.Backups[0].Manifest.Schemas[2].Tables = 1 }, "changes warning: beta has lost 1 table: it had 2, and has 1 now"},
		"dropped tenant": {func(f *Facts, _ *Targets) { f.Database.Schemas = []string{"public", "beta"} }, "changes warning: acme is not in the database any more; backup 20261123_110000 has it"},
		"excluded tenant": {func(f *Facts, _ *Targets) {
			f.Database.Schemas, f.Database.Excluded = []string{"public", "beta"}, []string{"acme"}
		}, ""},
		"dead lock": {func(f *Facts, _ *Targets) { f.Locks = []Lock{{What: "the lock", Who: "p", Since: now, Dead: true}} }, "locks warning: the lock is held by p, which is dead or stuck"},
		"long lock": {func(f *Facts, _ *Targets) {
			f.Locks = []Lock{{What: "the lock", Who: "p", Since: now.Add(-25 * time.Hour)}}
		}, "locks warning: the lock has been held for 25 hours by p"},
		"lock at work": {func(f *Facts, _ *Targets) { f.Locks = []Lock{{What: "the lock", Who: "p", Since: now.Add(-time.Hour)}} }, ""},
		"leftovers": {func(f *Facts, _ *Targets) {
			f.Leftovers = []Leftover{
				{Name: "acme__replaced_1", Kind: "replaced", Since: now.Add(-72 * time.Hour), Bytes: 1e6},
				{Name: "acme__replaced_2", Kind: "replaced", Since: now.Add(-time.Hour)},
				{Name: "acme__staging_1", Kind: "remains", Since: now.Add(-72 * time.Hour)},
			}
		}, "leftovers warning: acme__replaced_1 (1.0 MB) was replaced by a restore 3 days ago; and 1 more"},
		"files that wait": {func(f *Facts, _ *Targets) {
			f.Leftovers = []Leftover{{Name: "acme.staged", Schema: "acme", Kind: "pending", Since: f.Now.Add(-time.Hour)}}
		}, "leftovers warning: acme has not got its files back: they wait in acme.staged for their place since a restore was interrupted 60 minutes ago"},
		"leftovers unknown": {func(f *Facts, _ *Targets) { f.Unknown = map[string]string{CheckLeftovers: "no right"} }, "leftovers critical: cannot be told: no right"},
		"settings":          {func(f *Facts, _ *Targets) { f.Serving, f.SettingsErr = true, "line 3" }, "settings warning: the newest settings make no sense, and those before are in use: line 3"},
		"serving":           {func(f *Facts, _ *Targets) { f.Serving = true }, ""},
		"notifier": {func(f *Facts, _ *Targets) {
			f.NotifierFailures = []NotifierFailure{{Notifier: "slack", Since: now.Add(-time.Hour), Count: 2, Error: "timeout"}}
		}, "notifications warning: slack has not delivered 2 messages since 2026-11-23 11:00 UTC: timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, targets := well(), daily
			c.change(f, &targets)
			r := Judge(f, targets)
			var got []string
			worst := OK
			for _, check := range r.Checks {
				worst = max(worst, check.State)
				if check.State != OK {
					got = append(got, fmt.Sprintf("%s %s: %s", check.Name, check.State, check.Text()))
				}
			}
			want := strings.Split(c.want, "\n")
			if c.want == "" {
				want = nil
			}
			same := len(got) == len(want)
			for i := range got {
				same = same && strings.HasPrefix(got[i], want[i])
			}
			if !same || r.State != worst {
				t.Errorf("state %v, checks:\n%s\nwant:\n%s", r.State, strings.Join(got, "\n"), c.want)
			}
		})
	}
}

func TestFindingsAreBounded(t *testing.T) {
	t.Parallel()
	f := well()
	for n := range 500 {
		f.Database.Schemas = append(f.Database.Schemas, fmt.Sprintf("t%03d", n))
	}
	c, _ := Judge(f, daily).Check(CheckFreshness)
	if c.Count != 500 || len(c.Findings) != maxFindings || c.Text() != "t000 has never been backed up; and 499 more" {
		t.Errorf("%d of %d findings, %s", len(c.Findings), c.Count, c.Text())
	}
}

// What others say may hold anything, so nothing of it is public.
func TestPublic(t *testing.T) {
	t.Parallel()
	const secret = "no right to read acme.salaries"
	f := well()
	f.Database.Err, f.Repository.Hint = secret, "x"
	f.Trail = &Trail{Failed: now, Error: secret}
	f.Proof = Proof{Failed: true, Error: secret}
	f.Unknown = map[string]string{CheckIntegrity: secret, CheckDisk: secret}
	f.Integrity.StateErr, f.Retention.Err, f.Disk = secret, secret, nil
	f.NotifierFailures = []NotifierFailure{{Error: secret}}
	f.Backups[0].Manifest.Failures = []manifest.Failure{{Schema: "gamma", Error: secret}, {Schema: "acme", Error: secret}}
	f.Backups[0].Manifest.Schemas = f.Backups[0].Manifest.Schemas[:1]
	f.Backups = f.Backups[:1]
	r := Judge(f, daily)
	full, err := json.Marshal(r)
	if err != nil || strings.Count(string(full), "salaries") < 15 {
		t.Errorf("%s, %v", full, err)
	}
	public, err := json.Marshal(r.Public())
	if err != nil || strings.Contains(string(public), "salaries") || !strings.Contains(string(public), "could not be saved by backup") {
		t.Errorf("%s, %v", public, err)
	}
	if again, err := json.Marshal(r); err != nil || string(again) != string(full) {
		t.Error("the report itself was changed")
	}
}

func TestLasting(t *testing.T) {
	t.Parallel()
	before := &Report{Checks: []Check{{Name: "a", State: Warning}, {Name: "b", State: Critical}, {Name: "c"}}}
	now := &Report{State: Critical, Checks: []Check{{Name: "a", State: Critical}, {Name: "b"}, {Name: "c", State: Critical}, {Name: "new", State: Critical}}}
	l := now.Lasting(before)
	if bad := l.Bad(); len(bad) != 1 || bad[0].Name != "a" || bad[0].State != Warning || l.State != Warning {
		t.Errorf("%v, %+v", l.State, bad)
	}
	if now.State != Critical || len(now.Bad()) != 3 {
		t.Errorf("the report itself was changed: %+v", now)
	}
}
