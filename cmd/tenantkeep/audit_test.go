package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tenantkeep/tenantkeep/internal/audit"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

// trailIn reads an audit trail and requires that its chain is whole.
func trailIn(t *testing.T, dir string) []audit.Record {
	t.Helper()
	path := filepath.Join(dir, audit.Name)
	report, err := audit.Check(path)
	if err != nil {
		t.Fatal(err)
	}
	if report.Problem != nil || report.Torn > 0 || len(report.Unended) > 0 {
		t.Errorf("audit trail %+v", report)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var records []audit.Record
	for line := range bytes.Lines(text) {
		var r audit.Record
		if err := json.Unmarshal(line, &r); err != nil {
			t.Fatal(err)
		}
		records = append(records, r)
	}
	return records
}

// Every command that changes something is in the audit trail, with its end, and
// none that only reads.
func TestAudit(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA acme; CREATE TABLE acme.t (id int PRIMARY KEY); INSERT INTO acme.t VALUES (1)`)
	dir, logs := t.TempDir(), filepath.Join(t.TempDir(), "not", "there", "yet")
	repository, into, log := "--repository="+dir, "--database-url="+db.URL(), "--log-dir="+logs
	in := func(code int, args ...string) (stdout, stderr string) {
		t.Helper()
		return runIn(t, code, append(args, repository, log)...)
	}
	in(0, "backup", into, "--dry-run")
	in(0, "list")
	in(0, "restore", "--list-available")
	in(0, "doctor", into)
	_, stderr := in(0, "verify")
	if _, err := os.Stat(logs); err == nil || strings.Contains(stderr, "Audit trail:") || !strings.Contains(stderr, "There is no audit trail in "+logs) {
		t.Errorf("reading made %s: %v\n%s", logs, err, stderr)
	}

	in(0, "backup", into, "--schema", "acme", "--compress")
	in(1, "backup", into, "--schema", "nobody")
	in(0, "restore_tenant", into, "--latest", "--schema", "acme", "--yes", "--create-rollback=false")
	in(0, "rollback", into, "acme", "--yes")
	in(0, "cleanup", into, "--keep-replaced=0s", "--yes")
	in(2, "cleanup", into, "--keep-replaced=-1s") // wrong usage is found before anything begins
	records := trailIn(t, logs)
	type event struct {
		Command   string
		Event     audit.Event
		Arguments []string
		Schemas   []string
		Result    audit.Result
		Backup    bool
		Removed   int
	}
	var got []event
	var removing []string
	for _, r := range records {
		if r.Event == audit.Removing {
			removing = r.Removing
			continue
		}
		got = append(got, event{r.Command, r.Event, r.Arguments, r.Schemas, r.Result, r.Backup != "", len(r.Removed)})
		if r.Repository != dir || !strings.Contains(r.Database, db.Name) {
			t.Errorf("%s of %q in %q", r.Command, r.Database, r.Repository)
		}
	}
	var want []event
	for _, c := range []struct {
		command   string
		arguments []string
		schemas   []string
		result    audit.Result
		backup    bool
		removed   int
	}{
		{"backup", []string{"--compression=gzip", "--schema=acme"}, []string{"acme"}, audit.OK, true, 0},
		{"backup", []string{"--schema=nobody"}, []string{"nobody"}, audit.Failed, false, 0},
		{"restore", []string{"--create-rollback=false", "--latest=true", "--schema=[acme]", "--yes=true"}, []string{"acme"}, audit.OK, true, 0},
		{"rollback", []string{"--yes=true", "acme"}, []string{"acme"}, audit.OK, false, 0},
		{"cleanup", []string{"--keep-replaced=0s", "--yes=true"}, nil, audit.OK, false, 1},
	} {
		c.arguments = append(c.arguments, "--database-url="+db.URL(), "--log-dir="+logs, repository)
		want = append(want, event{c.command, audit.Started, c.arguments, c.schemas, "", false, 0}, event{c.command, audit.Ended, c.arguments, c.schemas, c.result, c.backup, c.removed})
	}
	order := cmpopts.SortSlices(func(a, b string) bool { return a < b })
	if diff := cmp.Diff(want, got, order, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("audit trail (-want +got):\n%s", diff)
	}
	if removed := records[len(records)-1].Removed; len(removing) != 1 || !strings.HasPrefix(removing[0], "acme__replaced_") || !slices.Equal(removing, removed) {
		t.Errorf("removing %q, removed %q", removing, removed)
	}
	if end := records[3]; *end.Code != 1 || !strings.Contains(end.Error, "nobody") {
		t.Errorf("the end of what failed: %+v", end)
	}

	_, stderr = in(0, "verify")
	mention(t, stderr, "All is well", "Audit trail: 11 records, an unbroken chain")
	path := filepath.Join(logs, audit.Name)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Replace(text, []byte("nobody"), []byte("anyone"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	_, stderr = in(1, "verify")
	mention(t, stderr, path+": line 4 carries another hash", "who can write to it")
	stdout, _ := in(1, "verify", "--format", "json")
	var summary struct {
		OK    bool          `json:"ok"`
		Audit *audit.Report `json:"audit"`
	}
	lastLine(t, stdout, &summary)
	if summary.OK || summary.Audit == nil || summary.Audit.Problem.Line != 4 {
		t.Errorf("summary %+v", summary)
	}
	in(0, "verify", "--schema", "acme")
}

// What a cleanup is about to delete is in the trail before the first of it goes.
func TestAuditOfRemovals(t *testing.T) {
	t.Parallel()
	n := newNights(t, t.TempDir())
	for range 6 {
		n.add(nil, "public", "acme")
		n.now = n.now.Add(24 * time.Hour)
	}
	n.tenantkeep(0, "cleanup", "--only=repository", "--yes", "--retention-policy=aggressive")
	records := trailIn(t, n.logs)
	want := []string{"20261003_020000", "20261002_020000", "20261001_020000"}
	if len(records) != 3 || records[1].Event != audit.Removing || !slices.Equal(records[1].Removing, want) || !slices.Equal(records[2].Removed, want) || records[2].Removing != nil {
		t.Errorf("records %+v", records)
	}
}

// A trail that is gone, or lacks what is in the repository, is told of.
func TestAuditGaps(t *testing.T) {
	t.Parallel()
	n := newNights(t, t.TempDir())
	path := filepath.Join(n.logs, audit.Name)
	id := n.add(nil, "acme")
	n.now = n.now.Add(time.Hour)
	_, stderr := n.tenantkeep(0, "pin", "backup_manifest_"+id+".json", "--reason", "x")
	mention(t, stderr, "Backup "+id+" is pinned", "tenantkeep unpin "+id)
	if r := trailIn(t, n.logs); len(r) != 2 || r[0].Backup != "backup_manifest_"+id+".json" || r[1].Backup != id || r[0].Schemas != nil {
		t.Errorf("records %+v", r)
	}
	warned := func(code int, want string) {
		t.Helper()
		_, stderr := n.tenantkeep(code, "verify", "--quiet")
		mention(t, stderr, want)
	}
	_, stderr = n.tenantkeep(1, "verify") // the files of these tests have no index
	if strings.Contains(stderr, "does not tell") {
		t.Errorf("verify: %s", stderr)
	}
	newer := n.add(nil, "acme")
	warned(1, "the audit trail does not tell of 1 backup made since it was begun, the newest is "+newer)
	do(t, os.Truncate(path, 0))
	warned(1, "the audit trail in "+n.logs+" has no record, though 2 backups were made")
	do(t, os.Remove(path))
	warned(1, "there is no audit trail in "+n.logs+", though 2 backups were made")
	do(t, syscall.Mkfifo(path, 0o600))
	warned(1, "audit.jsonl: it is not a file")
	n.tenantkeep(1, "cleanup", "--only=repository", "--yes")
}

// Secrets are in the trail no more than anywhere else.
func TestAuditWithoutSecrets(t *testing.T) {
	t.Parallel()
	logs := t.TempDir()
	var out bytes.Buffer
	a := &app{stdin: strings.NewReader(""), stdout: &out, stderr: &out, now: time.Now, lookupEnv: func(name string) (string, bool) {
		value, ok := map[string]string{"DATABASE_URL": "postgres://me:very-secret@127.0.0.1:1/db?sslpassword=very-secret", "PGPASSWORD": "very-secret", "BACKUP_LOG_DIR": logs}[name]
		return value, ok
	}}
	root := newRootCommand(a)
	root.SetArgs([]string{"backup", "--repository", t.TempDir()})
	if err := root.ExecuteContext(t.Context()); err == nil {
		t.Fatal("a backup of nothing")
	}
	records := trailIn(t, logs)
	text, err := json.Marshal(records)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "very-secret") || !strings.Contains(records[0].Database, `as "me"`) || records[1].Result != audit.Failed {
		t.Errorf("audit trail %s", text)
	}
}

// A trail that cannot be written keeps nobody from a backup, and keeps cleanup
// from deleting.
func TestAuditCannotBeWritten(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA acme; CREATE TABLE acme.t (id int PRIMARY KEY)`)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	repository, into, log := "--repository="+t.TempDir(), "--database-url="+db.URL(), "--log-dir="+file
	_, stderr := runIn(t, 0, "backup", "--quiet", repository, into, log)
	mention(t, stderr, "warning: this run is not in the audit trail", file, "lacks the end")
	_, stderr = runIn(t, 0, "restore", "--latest", "--schema=acme", "--yes", repository, into, log)
	mention(t, stderr, "warning: this run is not in the audit trail")
	replaced := func() int {
		return len(db.Query(t, `SELECT nspname FROM pg_namespace WHERE nspname LIKE 'acme\_\_replaced%'`))
	}
	_, stderr = runIn(t, 1, "cleanup", "--keep-replaced=0s", "--yes", repository, into, log)
	mention(t, stderr, "nothing is deleted without an audit trail", "--log-dir")
	if replaced() != 1 {
		t.Errorf("%d replaced schemas, want 1", replaced())
	}
	runIn(t, 0, "cleanup", "--keep-replaced=0s", "--dry-run", repository, into, log)
	runIn(t, 0, "cleanup", "--keep-replaced=0s", "--yes", repository, into, "--log-dir="+t.TempDir())
	if replaced() != 0 {
		t.Errorf("%d replaced schemas, want none", replaced())
	}
}
