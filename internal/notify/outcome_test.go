package notify

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
)

var evening = time.Date(2026, 11, 23, 20, 15, 0, 0, time.UTC)

func someRun() *Run {
	return &Run{
		ID: "r1", Job: Backup, Database: "saas", Server: "db1:5432", Repository: "/srv/backups", Host: "app1", PID: 42, Version: "1.2.3",
		Type: "full", Started: evening.Add(-90 * time.Second),
	}
}

// backupOf makes a manifest of tenants with so many rows; a negative number is
// one that failed.
func backupOf(id string, took time.Duration, rows map[string]int64) *manifest.Manifest {
	at, _ := time.Parse("20060102_150405", id)
	m := &manifest.Manifest{
		Format: 1, ID: id, BackupType: manifest.Full, Timestamp: manifest.NewTime(at), Finished: at.Add(took),
		Snapshot: &manifest.Snapshot{Time: at}, Database: &manifest.Database{Name: "saas"},
	}
	for name, n := range rows {
		if n < 0 {
			m.Failures = append(m.Failures, manifest.Failure{Schema: name, Tenant: name, Error: "it is broken"})
			continue
		}
		m.Schemas = append(m.Schemas, manifest.Schema{Schema: name, Tenant: name, Rows: n, Tables: 2, Bytes: n * 10, Size: n, Timestamp: id})
	}
	return m
}

func TestBackupComparedWithTheOneBefore(t *testing.T) {
	t.Parallel()
	before := backupOf("20261122_201330", 60*time.Second, map[string]int64{"a": 1000, "b": 4000, "gone": 5, "failed_now": 7, "small": 20})
	now := backupOf("20261123_201330", 90*time.Second, map[string]int64{"a": 1100, "b": 500, "new": 3, "failed_now": -1, "small": 1})
	e := someRun().Backup(Outcome{Ended: evening, Manifest: now, Before: before})
	want := &Comparison{
		Backup: "20261122_201330", Type: "full", Time: before.Timestamp.Time, Seconds: 60, Schemas: 3, Rows: 1601, RowsBefore: 5020,
		Bytes: 16010, BytesBefore: 50200, StoredBefore: 5032, New: []string{"new"}, Gone: []string{"gone"}, Shrunk: []Change{{"b", 4000, 500}},
	}
	if diff := cmp.Diff(want, e.Comparison); diff != "" {
		t.Error(diff)
	}
	if e.Kind != Partial || e.ProblemCount != 1 || e.Schemas != 4 || e.Rows != 1604 || e.Seconds != 90 {
		t.Errorf("event %+v", e)
	}
	text := newMessage(e).Text()
	for _, want := range []string{
		"Backup of saas incomplete: 1 problem of 5 schemas", "failed_now: it is broken", "3,419 rows (68.1%) less than last time", "1m30s, 30s longer than last time",
		"b has 500 rows, and had 4,000 in backup 20261122_201330", "no longer there: gone", "new: new", "tenantkeep backup --schema failed_now",
		"tenantkeep restore --manifest 20261122_201330 --schema b --as b_before", "saas on db1:5432", "/srv/backups", "app1",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	// A run of single schemas says nothing of the others.
	r := someRun()
	r.Scope = []string{"a", "b"}
	if c := r.Backup(Outcome{Ended: evening, Manifest: now, Before: before}).Comparison; len(c.Gone) > 0 {
		t.Errorf("gone: %q", c.Gone)
	}
	if Compare(now, &manifest.Manifest{}, true) != nil {
		t.Error("compared with a backup that has no counts")
	}
}

func TestFailedBackup(t *testing.T) {
	t.Parallel()
	e := someRun().Backup(Outcome{Ended: evening, Err: errors.New("connect: refused"), Hint: "is it running?", Before: backupOf("20261122_201330", 0, nil)})
	if e.Kind != Failed || e.Error != "connect: refused" || e.Backup != "" || e.Comparison != nil {
		t.Errorf("event %+v", e)
	}
	if e.Advice[0] != "is it running?" || !strings.Contains(e.Advice[1], "the newest backup is 20261122_201330, of 2026-11-22 20:13:30 UTC") {
		t.Errorf("advice %q", e.Advice)
	}
	all := make([]manifest.Failure, 0, 300)
	for i := range 300 {
		all = append(all, manifest.Failure{Schema: fmt.Sprintf("tenant_%d", i), Error: "no"})
	}
	e = newScrubber(nil).event(*someRun().Backup(Outcome{Ended: evening, Err: errors.New("no schema could be saved"), Failures: all}))
	text := newMessage(e).Text()
	if len(e.Problems) != maxProblems || e.ProblemCount != 300 || !strings.Contains(text, "- and 250 more\n") || strings.Contains(text, "tenant_50:") {
		t.Errorf("%d of %d problems:\n%s", len(e.Problems), e.ProblemCount, text)
	}
	if got := len(text); got > 8000 {
		t.Errorf("%d characters", got)
	}
}

func TestCommandsAreQuoted(t *testing.T) {
	t.Parallel()
	got := retryCommand([]Problem{{Schema: "a"}, {Schema: "it's $(rm)"}, {Schema: "-x"}, {Schema: "a"}})
	if want := `tenantkeep backup --schema a --schema 'it'\''s $(rm)' --schema '-x'`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestScrub(t *testing.T) {
	t.Parallel()
	s := newScrubber([]string{"hunter22", "abc"})
	for name, tt := range map[string]struct{ text, want string }{
		"known secret":      {"login with hunter22 as abc", "login with xxxxx as abc"},
		"address of a hook": {`Post "https://hooks.slack.com/services/T0/B0/xyz": EOF`, `Post "https://hooks.slack.com/…": EOF`},
		"address with user": {"get https://bob:pw@example.com/x?token=1 now", "get https://example.com/… now"},
		"connection URL":    {"connect postgres://u:p@ss@h:5432/d?sslmode=require: no", "connect postgres://u:xxxxx@h:5432/d?sslmode=require: no"},
		"keywords":          {"host=h user=u password='a b' dbname=d", "host=h user=u password=xxxxx dbname=d"},
		"JSON":              {`{"api_key": "k1", "x": 2}`, `{"api_key": xxxxx, "x": 2}`},
		"key":               {"duplicate key value violates unique constraint \"u\" (Key (email)=(anna@example.com) already exists)", "duplicate key value violates unique constraint \"u\" (Key (email) already exists)"},
		"key with a break":  {"ERROR: x; Key (a, b)=(1, two\nlines) (three)) is not present in table \"t\".", "ERROR: x; Key (a, b) is not present in table \"t\"."},
		"row":               {"null value in column \"a\" violates not-null constraint; Failing row contains (1, secret\nand more, null).", "null value in column \"a\" violates not-null constraint; Failing row contains …"},
		"detail of pg_dump": {"pg_dump: error: query failed: ERROR:  boom\nDETAIL:  Key (x)=(anna) exists.\nHINT:  Try again.", "pg_dump: error: query failed: ERROR:  boom\n(details with contents of rows are left out)\nHINT:  Try again."},
		"context":           {"ERROR: bad\nCONTEXT:  COPY t, line 3, column a: \"anna\"\n", "ERROR: bad\n(details with contents of rows are left out)"},
		"source":            {"ERROR: syntax error\nLINE 1: SELECT 'anna'\n        ^", "ERROR: syntax error\n(details with contents of rows are left out)"},
		"copy":              {"COPY orders, line 7, column note: \"anna \"the\" great\"", "COPY orders, line 7, column note"},
		"value":             {`ERROR: invalid input syntax for type integer: "anna" (SQLSTATE 22P02)`, `ERROR: invalid input syntax for type integer: … (SQLSTATE 22P02)`},
		"other value":       {`ERROR: date/time field "anna" is odd (SQLSTATE 22008)`, `ERROR: date/time field … is odd (SQLSTATE 22008)`},
		"not a value":       {`ERROR: relation "t" does not exist (SQLSTATE 42P01)`, `ERROR: relation "t" does not exist (SQLSTATE 42P01)`},
		"control":           {"a\x1b[31mb\u202ec\td\r\n", "a\uFFFD[31mb\uFFFDc d"},
		"long":              {strings.Repeat("ä", 700), strings.Repeat("ä", 599) + "…"},
	} {
		if got := s.text(tt.text, maxText); got != tt.want {
			t.Errorf("%s: got %q, want %q", name, got, tt.want)
		}
	}
}

func FuzzScrub(f *testing.F) {
	f.Add("Key (a)=(", ") already exists")
	f.Add("DETAIL: ", "\n\nERROR: ")
	f.Add("Failing row contains (", ")")
	f.Fuzz(func(t *testing.T, before, after string) {
		const value = "Qz7Qz7"
		text := newScrubber([]string{value}).text(before+value+after, 100000)
		if strings.Contains(text, value) && !strings.Contains(before+after, value) {
			t.Errorf("%q is still in %q", value, text)
		}
	})
}

// TestNothingLeftToSave: what was due was dropped meanwhile, which is no failure.
func TestNothingLeftToSave(t *testing.T) {
	t.Parallel()
	e := someRun().Backup(Outcome{Ended: evening})
	if e.Kind != Succeeded || e.Error != "" || len(e.Advice) > 0 || e.Backup != "" {
		t.Errorf("event %+v", e)
	}
}
