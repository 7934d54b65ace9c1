package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantkeep/tenantkeep/internal/audit"
	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/health"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/retention"
)

var sizeInText = regexp.MustCompile(`\([0-9.]+ k?B\)`)

// other runs a command that knows no baselines.
func (c *calendar) other(args ...string) int {
	c.t.Helper()
	all := c.args
	defer func() { c.args = all }()
	c.args = all[:slices.Index(all, "--baseline-dir")]
	return c.run(args...)
}

// health makes the checks at a time and expects lines of the report: "check state:
// text" of each check that is not ok.
func (c *calendar) health(at string, want string, args ...string) *health.Report {
	c.t.Helper()
	now, err := time.Parse("2006-01-02 15:04", at)
	if err != nil {
		c.t.Fatal(err)
	}
	c.now = now
	code := c.other(append([]string{"health", "--format", "json"}, args...)...)
	// The states are words in JSON.
	var r struct {
		Checks []struct{ Name, State, Message, Cause string }
	}
	if err := json.Unmarshal([]byte(c.stdout), &r); err != nil {
		c.t.Fatalf("%s: %v\n%s%s", at, err, c.stdout, c.stderr)
	}
	report := &health.Report{}
	var got []string
	worst := 0
	for _, check := range r.Checks {
		report.Checks = append(report.Checks, health.Check{Name: check.Name, Message: check.Message})
		worst = max(worst, map[string]int{"ok": 0, "warning": 1, "critical": 2}[check.State])
		if check.State != "ok" {
			got = append(got, fmt.Sprintf("%s %s: %s", check.Name, check.State, check.Message))
		}
	}
	if text := sizeInText.ReplaceAllString(strings.Join(got, "\n"), "(SIZE)"); text != want {
		c.t.Errorf("%s: health is\n%s\nwant\n%s", at, text, want)
	}
	if code != worst {
		c.t.Errorf("%s: exit code %d, worst state %d", at, code, worst)
	}
	return report
}

// A week of a schedule, as the checks see it.
func TestHealthOverTime(t *testing.T) {
	t.Parallel()
	c := newCalendar(t)
	settings := filepath.Join(c.dir, "settings.yaml")
	if err := os.WriteFile(settings, []byte("schedule-type: full\nschedule-incremental: off\nschedule-full: 0 0 * * *\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	conf := []string{"--config", settings}
	for day := 20; day <= 23; day++ {
		c.at(fmt.Sprintf("2026-11-%d 00:00", day), exitDone, append(conf, "--schedule-cleanup=false")...)
	}
	r := c.health("2026-11-23 12:00", "", conf...)
	if s, _ := r.Check(health.CheckSchedule); s.Message != "a backup was last tried 11 hours ago, the next is due at 2026-11-24 00:00 UTC" {
		t.Errorf("schedule: %s", s.Message)
	}
	if d, _ := r.Check(health.CheckDisk); !strings.Contains(d.Message, "enough for") && !strings.Contains(d.Message, "hardly grow") {
		t.Errorf("disk: %s", d.Message)
	}
	// Of days that no policy keeps, those of two days ago should be gone.
	one := append([]string{"--retention-policy", "custom", "--daily-retention", "1", "--weekly-retention", "0", "--monthly-retention", "0"}, conf...)
	c.health("2026-11-23 12:00", "retention warning: 1 backup (SIZE) should have been removed more than 48 hours ago", one...)
	if code := c.other(append([]string{"cleanup", "--yes", "--only", "repository"}, one...)...); code != exitDone {
		t.Fatalf("cleanup: %d, %s", code, c.stderr)
	}
	c.health("2026-11-23 12:00", "", one...)

	// Nothing makes the next one.
	c.health("2026-11-24 00:30", "freshness warning: public was last backed up 24 hours ago, more than 24 hours", conf...)
	c.health("2026-11-24 02:00", "freshness warning: public was last backed up 25 hours ago, more than 24 hours\nschedule critical: a backup has been due since 2026-11-24 00:00 UTC, and nothing made it", conf...)
	// It is tried, and fails for one tenant.
	c.db.Exec(t, "REVOKE ALL ON SCHEMA acme FROM "+c.role)
	c.at("2026-11-24 03:00", exitPartial, conf...)
	c.health("2026-11-24 03:30", "freshness warning: acme was last backed up 27 hours ago, more than 24 hours; the last attempt failed\nrun warning: acme could not be saved by backup 20261124_030005", conf...)
	c.health("2026-11-24 03:30", "run warning: acme could not be saved by backup 20261124_030005", append(conf, "--tenant-max-age", "ac*=2d")...)
}

// growthOf is what backups of these sizes, one a day up to today, grow by.
func growthOf(policy retention.Policy, sizes ...int64) (float64, bool) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	var backups []repo.Backup
	for n, size := range sizes {
		at := now.Add(-time.Duration(n)*24*time.Hour - time.Hour)
		id := at.Format("20060102_150405")
		backups = append(backups, repo.Backup{ID: id, Key: id, Manifest: &manifest.Manifest{
			Format: manifest.Format, ID: id, BackupType: manifest.Full, Timestamp: manifest.Time{Time: at},
			Schemas: []manifest.Schema{{Schema: "public", Tenant: "core", Filepath: "data/" + id, Size: size, Rows: 1, Tables: 1, Timestamp: id, Type: manifest.Full}},
		}})
	}
	return growth(backups, retention.Options{Policy: policy, Now: now})
}

// The growth takes into account what retention is going to remove.
func TestGrowth(t *testing.T) {
	t.Parallel()
	many := func(n int) (sizes []int64) {
		for range n {
			sizes = append(sizes, 700)
		}
		return sizes
	}
	week := retention.Policy{Daily: 7}
	for name, c := range map[string]struct {
		policy retention.Policy
		sizes  []int64
		want   float64
	}{
		"full week, nothing more to come": {week, many(7), 0},
		"old ones should be gone":         {week, many(30), 0},
		"all stay":                        {retention.Policy{Daily: 1000}, many(7), 700},
		"four days, and seven stay":       {week, many(5), 350}, // in four days: seven, where five are
		"backups that become larger":      {week, []int64{1400, 1400, 1400, 1400, 1400, 1400, 1400, 700, 700, 700, 700, 700, 700, 700}, 0},
	} {
		if got, known := growthOf(c.policy, c.sizes...); !known || got < c.want-10 || got > c.want+10 {
			t.Errorf("%s: %.1f a day, known %v, want %.1f", name, got, known, c.want)
		}
	}
	if _, known := growthOf(week, 700); known {
		t.Error("the growth of one backup is known")
	}
	if _, known := growthOf(week); known {
		t.Error("the growth of none is known")
	}
}

// What the audit trail tells of backups that were made and removed, of runs that
// ended or did not, and of restores.
func TestHealthReadsTheTrail(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	repository := filepath.Join(dir, "backups")
	trail := audit.Open(dir, func() time.Time { return now })
	note := func(r audit.Record, result audit.Result, err error) {
		t.Helper()
		if r.Repository == "" {
			r.Repository = repository
		}
		run, errBegin := trail.Begin(t.Context(), r)
		if errBegin != nil {
			t.Fatal(errBegin)
		}
		now = now.Add(time.Minute)
		if result == "" {
			return // it was killed
		}
		run.Removed = r.Removed
		if err := run.End(t.Context(), result, 0, err); err != nil {
			t.Fatal(err)
		}
	}
	note(audit.Record{Command: "backup", Backup: "b1"}, audit.OK, nil)
	note(audit.Record{Command: "backup", Backup: "elsewhere", Repository: "/other"}, audit.OK, nil)
	note(audit.Record{Command: "cleanup", Removed: []string{"b1"}}, audit.OK, nil)
	note(audit.Record{Command: "schedule", Backups: []string{"b2", "b3"}}, audit.Partial, nil)
	note(audit.Record{Command: "backup", Backup: "never"}, audit.Failed, fmt.Errorf("full disk"))
	note(audit.Record{Command: "restore", Backup: "b2"}, audit.OK, nil)
	note(audit.Record{Command: "restore", Backup: "rollback/b9"}, audit.OK, nil)
	note(audit.Record{Command: "pin", Backup: "pinned"}, audit.OK, nil)
	// Of another database in the repository, by its name or by the backup.
	shop := `database "shop" on db:5432 as "keeper"`
	note(audit.Record{Command: "backup", Database: `database "other" on db:5432 as "keeper"`}, audit.OK, nil)
	note(audit.Record{Command: "schedule", Database: `database "other" on db:5432 as "keeper"`}, audit.Failed, fmt.Errorf("theirs"))
	note(audit.Record{Command: "backup", Database: shop, Backup: "theirs"}, audit.OK, nil)
	note(audit.Record{Command: "restore", Database: shop, Backup: "theirs"}, audit.OK, nil)
	note(audit.Record{Command: "backup", Database: `database "other" on db:5432 as "keeper"`}, "", nil)
	// A deployment.
	note(audit.Record{Command: "serve", Database: shop}, audit.Interrupted, fmt.Errorf("a signal"))
	theirs := []repo.Backup{{ID: "theirs", Key: "theirs", Manifest: &manifest.Manifest{Finished: now}}}
	x := &examiner{app: &app{now: time.Now}, cfg: &config.Config{LogDir: dir, Repository: repository}}
	x.facts.Now, x.facts.Database.Name = now, "shop"
	facts := x.trail(theirs, map[string]bool{"theirs": false})
	if facts == nil || len(facts.made) != 4 || !facts.made["theirs"] || !facts.made["b1"] || !facts.made["b2"] || !facts.made["b3"] || !facts.gone["b1"] || !facts.scheduled {
		t.Errorf("%+v", facts)
	}
	if tr := x.facts.Trail; tr == nil || tr.Error != "full disk" || !tr.Failed.After(tr.Success) || tr.Success.IsZero() {
		t.Errorf("%+v", tr)
	}
	if p := x.facts.Proof; p.Backup != "b2" || p.Failed {
		t.Errorf("%+v", p)
	}
	if !x.facts.Killed.IsZero() {
		t.Errorf("killed at %v", x.facts.Killed)
	}
	note(audit.Record{Command: "restore", Backup: "b3"}, audit.Failed, fmt.Errorf("rows differ"))
	note(audit.Record{Command: "serve"}, "", nil)
	if facts = x.trail(theirs, nil); facts == nil || !facts.scheduled || !x.facts.Killed.Equal(now.Add(-time.Minute)) {
		t.Errorf("%+v, killed at %v", facts, x.facts.Killed)
	}
	if p := x.facts.Proof; p.Backup != "b2" || !p.Failed || p.Error != "rows differ" {
		t.Errorf("%+v", p)
	}
	// While something is at work, nobody knows that it was killed.
	x.facts.Killed, x.facts.Locks = time.Time{}, []health.Lock{{}}
	if x.trail(theirs, nil); !x.facts.Killed.IsZero() {
		t.Errorf("killed at %v", x.facts.Killed)
	}
	x.cfg.LogDir = filepath.Join(dir, "none")
	if x.trail(theirs, nil) != nil {
		t.Error("a trail was found where there is none")
	}
}

// What others are told of health: each check that is bad, once, and that all are good.
func TestHealthTells(t *testing.T) {
	t.Parallel()
	var told []string
	hook := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var e struct {
			Kind, Job string
			Checks    []struct{ Name, State, Text string }
		}
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil {
			t.Error(err)
		}
		told = append(told, fmt.Sprint(e.Kind, " ", e.Job, " ", e.Checks))
	}))
	c := newCalendar(t)
	settings := filepath.Join(c.dir, "settings.yaml")
	if err := os.WriteFile(settings, []byte("webhook-url: "+hook.URL+"\nnotify-on: health\nnotify-timeout: 1s\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	conf := []string{"--config", settings}
	c.at("2026-11-20 00:00", exitDone, conf...)
	c.health("2026-11-20 01:00", "", conf...)
	const late = "freshness warning: public was last backed up 26 hours ago, more than 24 hours"
	const dead = "\nschedule critical: a backup has been due since 2026-11-21 00:00 UTC, and nothing made it"
	for range 2 {
		c.health("2026-11-21 02:30", late+dead, conf...)
	}
	c.at("2026-11-21 03:00", exitDone, conf...)
	c.health("2026-11-21 03:30", "", conf...)
	want := []string{
		"worsened health [{schedule critical a backup has been due since 2026-11-21 00:00 UTC, and nothing made it} {freshness warning public was last backed up 26 hours ago, more than 24 hours; and 2 more}]",
		"improved health []",
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Errorf("told (+), want (-):\n%s", diff)
	}
	// Nobody is there to be told: the check of that says so, the next time.
	hook.Close()
	const due = "schedule critical: a backup has been due since 2026-11-22 00:00 UTC, and nothing made it"
	c.health("2026-11-22 02:30", due, conf...)
	c.health("2026-11-22 02:31", due+"\nnotifications warning: webhook has not delivered 1 message since 2026-11-22 02:30 UTC", append(conf, "--notify=none")...)
}
