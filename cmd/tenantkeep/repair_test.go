package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/storage/local"
)

// manifestsIn are the paths of the manifests of a repository, the oldest first.
func manifestsIn(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "manifests", "backup_manifest_*.json"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func do(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// Manifests are lost, and everything can be restored all the same.
func TestRepair(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA acme; CREATE TABLE acme.t (id int PRIMARY KEY, v text); INSERT INTO acme.t SELECT n, md5(n::text) FROM generate_series(1, 500) n;
		CREATE SCHEMA "Globex ""x"""; CREATE TABLE "Globex ""x""".t (id int PRIMARY KEY)`)
	dir, logs := t.TempDir(), t.TempDir()
	in := func(code int, args ...string) (stdout, stderr string) {
		t.Helper()
		return runIn(t, code, append(args, "--repository="+dir, "--log-dir="+logs)...)
	}
	into := "--database-url=" + db.URL()
	_, stderr := in(0, "repair")
	mention(t, stderr, "nothing to repair")
	if found, err := os.ReadDir(dir); err != nil || len(found) > 0 {
		t.Errorf("looking made %v, %v", found, err)
	}
	in(0, "backup", into)
	in(0, "backup", into, "--compression=none")
	in(0, "backup", into)
	in(0, "restore", into, "--latest", "--schema=acme", "--yes") // makes a rollback point
	manifests, points := manifestsIn(t, dir), manifestsIn(t, filepath.Join(dir, "rollback"))
	if len(manifests) != 3 || len(points) != 1 {
		t.Fatalf("manifests %v and %v", manifests, points)
	}
	_, stderr = in(0, "repair", "--yes")
	mention(t, stderr, "nothing to repair")

	do(t, os.Remove(manifests[0]), os.Truncate(manifests[1], 300), os.Remove(points[0]))
	stdout, _ := in(0, "list")
	mention(t, stdout, "broken")
	_, stderr = in(2, "repair")
	mention(t, stderr, "Rebuilding the manifest of backup", "it is missing", "cut short after 300 bytes", "rollback/", "3 schemas", "no terminal")
	_, stderr = in(0, "repair", "--dry-run")
	mention(t, stderr, "Would rebuild")
	if got := manifestsIn(t, dir); len(got) != 2 {
		t.Errorf("something was done without an answer: %v", got)
	}
	stdout, _ = in(0, "repair", "--yes", "--format=json")
	var summary repairSummary
	lastLine(t, stdout, &summary)
	if len(summary.Rebuilt) != 3 || len(summary.Lost) != 0 || summary.Rebuilt[0].Schemas != 3 || !strings.HasPrefix(summary.Rebuilt[2].Backup, "rollback/") {
		t.Errorf("summary %s", stdout)
	}
	stdout, stderr = in(0, "list")
	if strings.Count(stdout, "partial") != 2 || strings.Contains(stdout, "broken") {
		t.Errorf("list:\n%s", stdout)
	}
	mention(t, stderr, "its manifest was rebuilt")
	stdout, _ = in(0, "restore", "--list-available")
	if strings.Contains(stdout, "partial") || strings.Count(stdout, " ok") != 10 {
		t.Errorf("what can be restored:\n%s", stdout)
	}
	in(0, "verify")
	db.Exec(t, `DROP SCHEMA acme CASCADE; DROP SCHEMA "Globex ""x""" CASCADE`)
	_, stderr = in(0, "restore", into, "--manifest="+summary.Rebuilt[0].Backup, "--schema=acme", `--schema=Globex "x"`)
	mention(t, stderr, "Every table was read again")
	if got := db.Query(t, "SELECT count(*) FROM acme.t"); got[0] != "500" {
		t.Errorf("restored %s rows", got)
	}
	rebuilt := 0
	for _, r := range trailIn(t, logs) {
		rebuilt += len(r.Rebuilt)
	}
	if rebuilt != 3 {
		t.Errorf("the audit trail names %d backups as rebuilt", rebuilt)
	}

	// With what is lost for good.
	files, err := filepath.Glob(filepath.Join(dir, "data", "acme_full_*"))
	do(t, err)
	for i, path := range files {
		b, err := os.ReadFile(path)
		do(t, err)
		if i == 1 {
			do(t, os.Remove(path)) // its manifest names it still
			continue
		}
		b[len(b)/2] ^= 0x10
		do(t, os.WriteFile(path, b, 0o600), os.Remove(manifests[i]))
	}
	stdout, stderr = in(3, "repair", "--yes")
	mention(t, stdout, "acme", "its data file is damaged", "the file is missing")
	mention(t, stderr, "nothing is left of which tenant acme could be restored", "without 1 schema whose files are damaged", "3 parts cannot be restored")
	stdout, _ = in(3, "repair", "--format=json")
	summary = repairSummary{}
	lastLine(t, stdout, &summary)
	if len(summary.Rebuilt) != 0 || len(summary.Lost) != 3 || len(summary.Tenants) != 1 || summary.Tenants[0].Points != 0 {
		t.Errorf("summary %s", stdout)
	}
}

// An incremental backup refers to files of earlier ones, and has none of its own
// for a schema that did not change.
func TestRepairIncremental(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA acme; CREATE TABLE acme.t (id int PRIMARY KEY, v text); INSERT INTO acme.t SELECT n, md5(n::text) FROM generate_series(1, 500) n;
		CREATE TABLE acme.same (id int PRIMARY KEY); INSERT INTO acme.same SELECT generate_series(1, 300); CREATE SCHEMA same; CREATE TABLE same.t ()`)
	dir := t.TempDir()
	repository, into := "--repository="+dir, "--database-url="+db.URL()
	runIn(t, 0, "backup", repository, into)
	db.Exec(t, `UPDATE acme.t SET v = 'changed' WHERE id = 7; CREATE SCHEMA fresh; CREATE TABLE fresh.t ()`)
	runIn(t, 0, "backup", repository, into, "--backup-type=incremental")
	manifests := manifestsIn(t, dir)
	before, err := os.ReadFile(manifests[1])
	do(t, err, os.Remove(manifests[1]))
	_, stderr := runIn(t, 0, "repair", "--yes", repository)
	mention(t, stderr, "(incremental, ", "2 schemas", "schemas in which nothing had changed have no file of this backup")
	after, err := os.ReadFile(manifests[1])
	do(t, err)
	var was, is manifest.Manifest
	do(t, json.Unmarshal(before, &was), json.Unmarshal(after, &is))
	for _, e := range is.Schemas {
		i := slices.IndexFunc(was.Schemas, func(o manifest.Schema) bool { return o.Schema == e.Schema })
		e.Content = was.Schemas[i].Content // which only the run knew
		if diff := cmp.Diff(was.Schemas[i], e); diff != "" {
			t.Errorf("entry (-run +rebuilt):\n%s", diff)
		}
	}
	if len(is.Schemas) != 2 || len(is.Schemas[0].References) != 1 || is.BackupType != manifest.Incremental {
		t.Errorf("rebuilt %s", after)
	}
	runIn(t, 0, "verify", repository)
	db.Exec(t, `DROP SCHEMA acme CASCADE`)
	runIn(t, 0, "restore", "--latest", "--schema=acme", repository, into)
	if got := db.Query(t, "SELECT v || '|' || (SELECT count(*) FROM acme.same) FROM acme.t WHERE id = 7"); got[0] != "changed|300" {
		t.Errorf("restored %q", got)
	}

	// What it refers to is gone.
	files, err := filepath.Glob(filepath.Join(dir, "data", "acme_full_*"))
	do(t, err, os.Remove(files[0]), os.Remove(manifests[1]))
	stdout, _ := runIn(t, 3, "repair", "--yes", repository)
	mention(t, stdout, filepath.Base(files[0]), "its data file is damaged")
}

// What is left of backups whose manifests were lost waits for repair, whatever the
// jobs of the night do.
func TestRepairAfterTheNight(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA acme; CREATE TABLE acme.t (id int PRIMARY KEY)`)
	n := newNights(t, t.TempDir())
	n.now = time.Now()
	dir, in, into := n.dir, n.tenantkeep, "--database-url="+db.URL()
	in(0, "backup", into)
	in(0, "backup", into)
	do(t, os.RemoveAll(filepath.Join(dir, "manifests")), os.WriteFile(filepath.Join(dir, "data", "notes.txt"), nil, 0o600))
	n.now = n.now.Add(48 * time.Hour)
	in(0, "backup", into)
	stdout, stderr := in(3, "cleanup", "--only=repository", "--yes")
	match(t, stdout, `orphan .* stays +of backup \S+, but no manifest names it`, `notes.txt .* stays +belongs to no backup that is known`)
	mention(t, stderr, "nothing to remove", "no manifest names 4 files of 2 backups", "tenantkeep repair", "--remove-orphans")
	stdout, _ = in(3, "cleanup", "--only=repository", "--dry-run", "--remove-orphans=false", "--format=json")
	mention(t, stdout, `"keep":true,"reason":"of backup `)
	in(3, "repair", "--yes") // of notes.txt nobody knows what it was
	if found := manifestsIn(t, dir); len(found) != 3 {
		t.Errorf("manifests %v", found)
	}
	in(0, "verify")
	stdout, _ = in(0, "cleanup", "--only=repository", "--dry-run")
	if strings.Count(stdout, "orphan") != 1 {
		t.Errorf("cleanup:\n%s", stdout)
	}

	// Whoever knows that they are of no use says so.
	do(t, os.Remove(manifestsIn(t, dir)[0]), os.Remove(manifestsIn(t, dir)[0]))
	_, stderr = in(0, "cleanup", "--only=repository", "--yes", "--remove-orphans")
	mention(t, stderr, "Removed 5 files without a backup.")
	if found, err := filepath.Glob(filepath.Join(dir, "data", "*")); err != nil || len(found) != 2 {
		t.Errorf("left %v, %v", found, err)
	}
}

// start starts tenantkeep as a process of its own.
func start(t *testing.T, db *pgtest.Database, args ...string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	program, err := os.Executable()
	do(t, err)
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Args[0] = "tenantkeep"
	cmd.Env = append(os.Environ(), "DATABASE_URL="+db.URL())
	stderr, err := cmd.StderrPipe()
	do(t, err, cmd.Start())
	return cmd, bufio.NewScanner(stderr)
}

// A backup that is at work keeps a repair out, which waits; when the backup is
// killed, its lock is gone at once.
func TestTwoRuns(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA acme; CREATE TABLE acme.t (id int PRIMARY KEY)`)
	dir, logs := t.TempDir(), t.TempDir()
	runIn(t, 0, "backup", "--repository="+dir, "--database-url="+db.URL())
	do(t, os.Truncate(manifestsIn(t, dir)[0], 100)) // not removed: the next backup may begin in the same second
	blocker := db.Conn(t)
	if _, err := blocker.Exec(t.Context(), "BEGIN; LOCK TABLE acme.t"); err != nil {
		t.Fatal(err)
	}
	backup, _ := start(t, db, "backup", "--repository="+dir, "--log-dir="+logs)
	for marks := 0; marks == 0 && t.Context().Err() == nil; time.Sleep(5 * time.Millisecond) {
		found, err := filepath.Glob(filepath.Join(dir, "runs", "2*.json"))
		do(t, err)
		marks = len(found)
	}
	store, err := local.New(dir)
	do(t, err)
	_, _, err = repo.Open(store, repo.Options{LockWait: -1}).Lock(t.Context(), repo.Exclusive, "cleanup")
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("in use by full backup (process %d on ", backup.Process.Pid)) {
		t.Errorf("beside the backup: %v", err)
	}

	repair, says := start(t, db, "repair", "--yes", "--repository="+dir, "--log-dir="+logs)
	var said bytes.Buffer
	for says.Scan() {
		fmt.Fprintln(&said, says.Text())
		if strings.HasPrefix(says.Text(), "Rebuilding") {
			do(t, backup.Process.Kill())
		}
	}
	if err := repair.Wait(); err != nil {
		t.Errorf("repair: %v\n%s", err, &said)
	}
	if err := backup.Process.Kill(); err == nil && backup.Wait() == nil {
		t.Error("the backup was not killed")
	}
	mention(t, said.String(), "Rebuilt 1 manifest")
	if got := manifestsIn(t, dir); len(got) != 1 {
		t.Errorf("manifests %v", got)
	}
	_, stderr := runIn(t, 0, "verify", "--repository="+dir, "--log-dir="+logs)
	mention(t, stderr, "Audit trail: 3 records, an unbroken chain.", "lacks the end of 1 command, killed or still at work; the last is backup of ", fmt.Sprintf("(process %d on", backup.Process.Pid))
}
