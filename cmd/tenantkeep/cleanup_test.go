package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"

	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/retention"
	"github.com/tenantkeep/tenantkeep/internal/storage/local"
)

// nights is a repository to which a backup is added each night.
type nights struct {
	t    *testing.T
	dir  string
	logs string // for audit trails
	now  time.Time
}

func newNights(t *testing.T, dir string) *nights {
	t.Helper()
	return &nights{t: t, dir: dir, logs: t.TempDir(), now: time.Date(2026, 10, 1, 2, 0, 0, 0, time.UTC)}
}

func (n *nights) repo() *repo.Repo {
	n.t.Helper()
	s, err := local.New(n.dir)
	if err != nil {
		n.t.Fatal(err)
	}
	return repo.Open(s, repo.Options{Now: func() time.Time { return n.now }, LockWait: -1})
}

// add makes a backup of schemas. change, which may be nil, may change its
// manifest before it is written.
func (n *nights) add(change func(*manifest.Manifest), schemas ...string) string {
	n.t.Helper()
	w, err := n.repo().NewBackup(n.t.Context(), manifest.Full)
	if err != nil {
		n.t.Fatal(err)
	}
	defer w.Abort(n.t.Context())
	m := &manifest.Manifest{RetentionDays: 30, Database: &manifest.Database{Name: "shop"}}
	for _, schema := range schemas {
		d, err := w.CreateData(n.t.Context(), schema, schema, manifest.Full, ".sql")
		if err != nil {
			n.t.Fatal(err)
		}
		fmt.Fprint(d, schema, w.ID())
		s, err := d.Commit()
		if err != nil {
			n.t.Fatal(err)
		}
		m.Schemas = append(m.Schemas, manifest.Schema{
			Schema: schema, Tenant: schema, Filename: filepath.Base(s.Key), Filepath: s.Key, Size: s.Size, Hash: s.Hash,
			Timestamp: w.ID(), Type: manifest.Full, Tables: 1, Rows: 10, Bytes: 100,
		})
	}
	if change != nil {
		change(m)
	}
	if err := w.Finish(n.t.Context(), m); err != nil {
		n.t.Fatal(err)
	}
	return w.ID()
}

// files lists what is in the repository, without its locks.
func (n *nights) files() []string {
	n.t.Helper()
	var list []string
	err := filepath.WalkDir(n.dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type().IsRegular() && !strings.Contains(path, "/locks/") {
			list = append(list, strings.TrimPrefix(path, n.dir+"/"))
		}
		return err
	})
	if err != nil {
		n.t.Fatal(err)
	}
	return list
}

// tenantkeep runs a command at the time of the repository, without a database.
func (n *nights) tenantkeep(code int, args ...string) (stdout, stderr string) {
	n.t.Helper()
	return n.in(n.t.Context(), code, args...)
}

// in runs a command under a context of its own.
func (n *nights) in(ctx context.Context, code int, args ...string) (stdout, stderr string) {
	n.t.Helper()
	var out, errs bytes.Buffer
	a := &app{
		stdin: strings.NewReader(""), stdout: &out, stderr: &errs, now: func() time.Time { return n.now },
		lookupEnv: func(name string) (string, bool) {
			if name == "BACKUP_LOG_DIR" {
				return n.logs, true
			}
			return "", false
		},
	}
	root := newRootCommand(a)
	root.SetArgs(append(args, "--repository="+n.dir))
	err := root.ExecuteContext(ctx)
	if err != nil && !a.entered {
		err = asUsage(err)
	}
	if got := a.exit(ctx, err); got != code {
		n.t.Fatalf("%q: exit code %d, want %d\n%s%s", args, got, code, out.String(), errs.String())
	}
	return out.String(), errs.String()
}

func (n *nights) cleanup(code int, args ...string) (stdout, stderr string) {
	n.t.Helper()
	return n.tenantkeep(code, append([]string{"cleanup", "--only=repository", "--log-dir=" + filepath.Join(n.dir, "..", "logs")}, args...)...)
}

// match is mention for regular expressions.
func match(t *testing.T, text string, wanted ...string) {
	t.Helper()
	for _, want := range wanted {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
}

func TestCleanupRepository(t *testing.T) {
	t.Parallel()
	n := newNights(t, filepath.Join(t.TempDir(), "backups"))
	var ids []string
	for range 20 {
		ids = append(ids, n.add(nil, "public", "acme"))
		n.now = n.now.Add(24 * time.Hour)
	}
	n.now = n.now.Add(-12 * time.Hour)
	before := n.files()
	_, stderr := n.tenantkeep(0, "pin", ids[2], "--reason", "the auditor wants it")
	mention(t, stderr, "pinned", "tenantkeep unpin "+ids[2])
	n.tenantkeep(1, "pin", ids[2], "--reason", "again")
	n.tenantkeep(2, "pin", ids[2])
	n.tenantkeep(2, "pin", "--reason", "which")
	_, stderr = n.tenantkeep(1, "pin", "20200101_000000", "--reason", "x")
	mention(t, stderr, "no such backup")

	logs := filepath.Join(n.dir, "..", "logs")
	if err := os.Mkdir(logs, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, age := range map[string]time.Duration{
		"backup_scheduler.log": 1, "backup_scheduler.log.1": 1, "backup_scheduler.log.2.gz": 100, "backup_scheduler.log-20260101": 200, "audit.jsonl": 200,
		"nginx.log.1": 200, "backup_scheduler.log.old-and-dear": 200,
	} {
		file := filepath.Join(logs, name)
		if err := os.WriteFile(file, []byte("log"), 0o600); err != nil {
			t.Fatal(err)
		}
		at := n.now.Add(-age * 24 * time.Hour)
		if err := os.Chtimes(file, at, at); err != nil {
			t.Fatal(err)
		}
	}

	stdout, stderr := n.cleanup(0, "--dry-run", "--retention-policy=aggressive")
	match(t, stdout, ids[0]+" .* goes +newest of no day", ids[2]+" .* stays +pinned by .*: the auditor wants it",
		ids[19]+" .* stays +newest of day 2026-10-20; newest of week 2026-W43; newest of month 2026-10; newest; last full", "log.2.gz")
	mention(t, stderr, "Would remove 16 backups and 2 log files.")
	if got := n.files(); len(got) != len(before)+1 {
		t.Errorf("a dry run left %d files of %d", len(got), len(before)+1)
	}
	_, stderr = n.cleanup(2, "--retention-policy=aggressive")
	mention(t, stderr, "--yes")

	stdout, _ = n.cleanup(0, "--retention-policy=aggressive", "--yes", "--format=json")
	var items []map[string]any
	if err := json.Unmarshal([]byte(stdout), &items); err != nil {
		t.Fatal(err)
	}
	summary := items[len(items)-1]
	if len(items) != 23 || summary["kind"] != "summary" || summary["files_removed"] != float64(16*3+2) || summary["bytes_freed"].(float64) < 15*800 {
		t.Errorf("%d items, summary %v", len(items), summary)
	}
	gone := 0
	for _, i := range items[:len(items)-1] {
		if i["dropped"] == i["keep"] {
			t.Errorf("item %v", i)
		}
		if i["dropped"] == true {
			gone++
		}
	}
	left := n.files()
	for i, id := range ids {
		want := 0
		if i == 2 {
			want = 4 // with its pin
		} else if i > 16 {
			want = 3
		}
		files := slices.DeleteFunc(slices.Clone(left), func(name string) bool { return !strings.Contains(name, id) })
		if len(files) != want {
			t.Errorf("of %s are left %v", id, files)
		}
	}
	if gone != 18 {
		t.Errorf("%d items are gone", gone)
	}
	if names, err := filepath.Glob(logs + "/*"); err != nil || len(names) != 5 {
		t.Errorf("logs left: %v, %v", names, err)
	}
	_, stderr = n.cleanup(0, "--retention-policy=aggressive", "--yes")
	mention(t, stderr, "nothing to remove")

	_, stderr = n.tenantkeep(0, "unpin", ids[2])
	mention(t, stderr, "the auditor wants it")
	n.tenantkeep(1, "unpin", ids[2])
	_, stderr = n.cleanup(0, "--retention-policy=aggressive", "--yes")
	mention(t, stderr, "Removed 1 backup")
}

func TestCleanupHoldsBack(t *testing.T) {
	t.Parallel()
	n := newNights(t, t.TempDir())
	for range 10 {
		n.add(nil, "public", "acme")
		n.now = n.now.Add(24 * time.Hour)
	}
	n.add(func(m *manifest.Manifest) {
		m.Failures = []manifest.Failure{{Schema: "globex", Tenant: "globex", Error: "permission denied"}}
	}, "public", "acme")
	n.now = n.now.Add(24 * time.Hour)
	for _, flag := range []string{"--dry-run", "--yes"} {
		stdout, stderr := n.cleanup(3, "--retention-policy=aggressive", flag)
		match(t, stdout, "would go .*, but the newest backup, 20261011_020000, is partial")
		mention(t, stderr, "no backup of database shop is removed", "--allow-doubtful")
	}
	_, stderr := n.cleanup(0, "--retention-policy=aggressive", "--yes", "--allow-doubtful")
	mention(t, stderr, "Removed 6 backups")

	if err := os.WriteFile(filepath.Join(n.dir, "manifests", "backup_manifest_20260101_000000.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	orphan := filepath.Join(n.dir, "data", "acme_full_20260101_000000.sql")
	if err := os.WriteFile(orphan, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(orphan, n.now.Add(-48*time.Hour), n.now.Add(-48*time.Hour)); err != nil {
		t.Fatal(err)
	}
	stdout, stderr := n.cleanup(3, "--retention-policy=custom", "--daily-retention=1", "--weekly-retention=0", "--monthly-retention=0", "--yes", "--allow-doubtful")
	mention(t, stdout, "its manifest cannot be read", "would go")
	mention(t, stderr, "no backup is removed: the manifest of backup 20260101_000000 cannot be read", "move its file")
	if _, err := os.Stat(orphan); err != nil {
		t.Errorf("a file is gone that a manifest may name which cannot be read: %v", err)
	}
}

// While a backup is at work cleanup says who is, and list what cleanup says.
func TestCleanupBesideABackup(t *testing.T) {
	t.Parallel()
	n := newNights(t, t.TempDir())
	for range 5 {
		n.add(nil, "acme")
		n.now = n.now.Add(24 * time.Hour)
	}
	w, err := n.repo().NewBackup(t.Context(), manifest.Full)
	do(t, err)
	n.now = n.now.Add(2 * time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), time.Second) // less than it waits
	defer cancel()
	_, stderr := n.in(ctx, 130, "cleanup", "--only=repository", "--yes", "--retention-policy=aggressive")
	mention(t, stderr, "is in use by full backup (process ")
	if strings.Contains(stderr, "make a backup") {
		t.Errorf("cleanup: %s", stderr)
	}
	held := "but the backup run " + w.ID() + " has not ended"
	stdout, stderr := n.cleanup(3, "--dry-run", "--retention-policy=aggressive")
	mention(t, stdout, held)
	mention(t, stderr, "if it is at work, wait for it")
	stdout, _ = n.tenantkeep(0, "list", "--retention-policy=aggressive", "--format=json")
	mention(t, stdout, held)
	do(t, w.Abort(t.Context()))
	n.cleanup(0, "--yes", "--retention-policy=aggressive")
}

// Copies of manifests are no backups a second time: what was shown as staying
// stays.
func TestCleanupCopies(t *testing.T) {
	t.Parallel()
	n := newNights(t, t.TempDir())
	for range 12 {
		n.add(nil, "public", "acme")
		n.now = n.now.Add(24 * time.Hour)
	}
	aside := filepath.Join(t.TempDir(), "before-upgrade")
	do(t, os.CopyFS(aside, os.DirFS(filepath.Join(n.dir, "manifests"))), os.Rename(aside, filepath.Join(n.dir, "manifests", "before-upgrade")))
	copied, err := os.ReadFile(filepath.Join(n.dir, "manifests", "backup_manifest_20261001_020000.json"))
	do(t, err, os.WriteFile(filepath.Join(n.dir, "manifests", "20261001_020000.json"), copied, 0o600))
	before := n.files()
	stdout, stderr := n.cleanup(0, "--retention-policy=aggressive", "--yes")
	mention(t, stderr, "13 manifests under other names or in other folders are no backups", "Removed 9 backups. 9 files")
	left := n.files()
	if len(left) != len(before)-9 || strings.Count(stdout, " stays ") != 3 {
		t.Errorf("%d files of %d are left:\n%s", len(left), len(before), stdout)
	}
	for _, name := range before {
		id, is := strings.CutPrefix(strings.TrimSuffix(name, ".json"), "manifests/backup_manifest_")
		if stays := regexp.MustCompile(id + ` .* stays `).MatchString(stdout); is && slices.Contains(left, name) != stays {
			t.Errorf("%s is there: %v", name, !stays)
		}
	}
	do(t, os.WriteFile(filepath.Join(n.dir, "manifests", "before-upgrade", "notes.json"), []byte("[]"), 0o600))
	_, stderr = n.cleanup(3, "--retention-policy=custom", "--daily-retention=1", "--weekly-retention=0", "--monthly-retention=0", "--yes", "--allow-doubtful")
	mention(t, stderr, "the manifest manifests/before-upgrade/notes.json cannot be read", "move its file")
	if got := n.files(); len(got) != len(left)+1 {
		t.Errorf("%d files are left of %d", len(got), len(left)+1)
	}
}

// A folder that cannot be looked into is not an empty one.
func TestCleanupNoFolder(t *testing.T) {
	t.Parallel()
	for name, replace := range map[string]func(path string) error{
		"link":      func(path string) error { return errors.Join(os.Rename(path, path+"2"), os.Symlink("manifests2", path)) },
		"link out":  func(path string) error { return errors.Join(os.Rename(path, path+"2"), os.Symlink(t.TempDir(), path)) },
		"no folder": func(path string) error { return errors.Join(os.RemoveAll(path), os.WriteFile(path, nil, 0o600)) },
	} {
		for _, folder := range []string{"manifests", "data", "pins", "runs", "swaps", "removals"} {
			t.Run(name+" "+folder, func(t *testing.T) {
				t.Parallel()
				n := newNights(t, t.TempDir())
				for range 5 {
					n.add(nil, "acme")
					n.now = n.now.Add(24 * time.Hour)
				}
				path := filepath.Join(n.dir, folder)
				do(t, os.MkdirAll(path, 0o700), replace(path))
				before := n.files()
				_, stderr := n.cleanup(1, "--retention-policy=aggressive", "--yes", "--remove-orphans")
				mention(t, stderr, path)
				match(t, stderr, "put the folder")
				if diff := cmp.Diff(before, n.files()); diff != "" {
					t.Errorf("files (-before +after):\n%s", diff)
				}
			})
		}
	}
}

// A single link that leads out, or nowhere, is told of and stops nothing.
func TestLinkOut(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"/etc/hostname", "/nothing/here", "nothing"} {
		n := newNights(t, t.TempDir())
		id := n.add(nil, "acme")
		n.now = time.Now().Add(48 * time.Hour)
		var links []string
		for _, name := range []string{"data/foo.sql", "media/a.tar.gz", "pins/" + id + ".json", "runs/20260101_000000.json", "swaps/x.json", "removals/x.json"} {
			path := filepath.Join(n.dir, name)
			do(t, os.MkdirAll(filepath.Dir(path), 0o700), os.Symlink(target, path))
			links = append(links, path)
		}
		stdout, stderr := n.tenantkeep(0, "list")
		match(t, stdout, id+" .* ok ")
		mention(t, stderr, "data/foo.sql cannot be used: it is a link that leads ", "the pin cannot be read: it is a link")
		stdout, _ = n.cleanup(0, "--yes", "--remove-orphans", "--retention-policy=aggressive")
		match(t, stdout, "data/foo.sql .* stays +it is a link that leads ", id+" .* stays .*pinned")
		stdout, _ = n.tenantkeep(3, "repair", "--yes")
		mention(t, stdout, "data/foo.sql")
		for _, path := range links {
			if _, err := os.Lstat(path); err != nil {
				t.Error(err)
			}
		}
		n.add(nil, "acme")

		do(t, os.Symlink(target, filepath.Join(n.dir, "manifests", "backup_manifest_20260102_000000.json")))
		stdout, _ = n.tenantkeep(0, "list")
		match(t, stdout, "20260102_000000 .* broken")
		_, stderr = n.cleanup(3, "--yes")
		mention(t, stderr, "the manifest of backup 20260102_000000 cannot be read")
	}
}

func TestCleanupRefusesPolicies(t *testing.T) {
	t.Parallel()
	n := newNights(t, t.TempDir())
	for _, c := range []struct {
		want string
		args []string
	}{
		{"has no numbers", []string{"--retention-policy=custom"}},
		{"keeps no day, no week and no month", []string{"--retention-policy=custom", "--daily-retention=0", "--weekly-retention=0", "--monthly-retention=0"}},
		{"the policy aggressive has numbers of its own", []string{"--retention-policy=aggressive", "--daily-retention=9"}},
		{"the policy default has numbers of its own", []string{"--weekly-retention=9"}},
		{"is not one of default, aggressive", []string{"--retention-policy=never"}},
		{"from 0 to", []string{"--retention-policy=custom", "--daily-retention=-1"}},
		{"not a whole number", []string{"--retention-policy=custom", "--daily-retention=many"}},
		{"is not a time zone", []string{"--time-zone=CST"}},
		{"is not a time zone", []string{"--time-zone=../UTC"}},
		{"is not a length of time", []string{"--keep-rollback=-1h"}},
		{"is not a length of time", []string{"--keep-rollback=soon"}},
		{"neither repository nor database", []string{"--only=everything"}},
	} {
		_, stderr := n.tenantkeep(2, append([]string{"cleanup", "--yes"}, c.args...)...)
		mention(t, stderr, c.want)
	}
}

// A rollback point stays while the schema that it is a copy of stands, and while
// it is the newest copy.
func TestCleanupRollbackPoints(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA acme; CREATE TABLE acme.orders (id int PRIMARY KEY); INSERT INTO acme.orders VALUES (1)`)
	n := newNights(t, t.TempDir())
	repository, into := "--repository="+n.dir, "--database-url="+db.URL()
	runIn(t, 0, "backup", "--retention-days=3", repository, into)
	runIn(t, 0, "restore", "--latest", "--schema=acme", "--yes", repository, into)
	n.now = time.Now().Add(40 * 24 * time.Hour)
	clean := func(code int, args ...string) (stdout, stderr string) {
		return n.tenantkeep(code, append([]string{"cleanup", "--log-dir=" + t.TempDir(), into}, args...)...)
	}

	stdout, _ := clean(0, "--yes", "--keep-replaced=60d")
	match(t, stdout, `rollback +rollback/\S+ .* stays +its replaced schema still stands as acme__replaced_`, `backup .* stays +newest; last full`)
	_, stderr := clean(0, "--yes", "--only=database")
	mention(t, stderr, "Removed 1 schema.")
	stdout, _ = clean(0, "--yes")
	match(t, stdout, `rollback .* stays +no complete backup of acme was made since`)
	runIn(t, 0, "backup", "--retention-days=3", repository, into)
	stdout, _ = clean(0, "--yes", "--keep-rollback=41d", "--dry-run")
	match(t, stdout, "rollback .* stays +younger than 41 days", `backup .* goes +its days ended `)
	stdout, _ = clean(0, "--dry-run", "--only=repository")
	match(t, stdout, "rollback .* stays +whether its replaced schema still stands is not known")
	_, stderr = n.tenantkeep(3, "cleanup", "--dry-run", "--log-dir="+t.TempDir(), "--database-url=postgres://127.0.0.1:1/none?connect_timeout=1")
	mention(t, stderr, "only the repository is cleaned up", "cannot be reached")
	_, stderr = clean(0, "--yes")
	mention(t, stderr, "Removed 1 backup and 1 rollback point.")
	if points, err := filepath.Glob(filepath.Join(n.dir, "rollback", "*", "*_*")); err != nil || len(points) > 0 {
		t.Errorf("left in rollback: %v, %v", points, err)
	}
	backups, err := n.repo().List(t.Context())
	if err != nil || len(backups) != 1 || backups[0].Manifest.Retention != manifest.RetainExactly || backups[0].Manifest.RetentionDays != 3 {
		t.Errorf("backups %+v, %v", backups, err)
	}
}

// What an incremental backup refers to stays until a full one has taken its
// place, and what is left can be restored at every step.
func TestCleanupOfIncrementals(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `
		CREATE SCHEMA acme; CREATE TABLE acme.orders (id int PRIMARY KEY); INSERT INTO acme.orders VALUES (1);
		CREATE SCHEMA globex; CREATE TABLE globex.orders (id int PRIMARY KEY); INSERT INTO globex.orders VALUES (1)`)
	n := newNights(t, t.TempDir())
	repository, into := "--repository="+n.dir, "--database-url="+db.URL()
	back := func(typ string) {
		t.Helper()
		runIn(t, 0, "backup", "--backup-type="+typ, repository, into)
		db.Exec(t, "INSERT INTO acme.orders SELECT max(id) + 1 FROM acme.orders")
	}
	back("full")
	back("incremental")
	back("incremental")
	n.now = time.Now().Add(3 * time.Hour)
	custom := []string{"--retention-policy=custom", "--daily-retention=1", "--weekly-retention=0", "--monthly-retention=0", "--yes"}
	stdout, _ := n.cleanup(0, custom...)
	match(t, stdout, `stays +newest of day .*\n.* goes +newest of no day.*\n.* stays +last full of public and 1 other; needed by \S+`)
	runIn(t, 0, "verify", repository)
	stdout, _ = runIn(t, 0, "list", repository)
	match(t, stdout, `incremental .* 1 +ok +young daily weekly monthly newest`)
	back("full")
	n.now = time.Now().Add(3 * time.Hour)
	n.cleanup(0, custom...)
	runIn(t, 0, "verify", repository)
	backups, err := n.repo().List(t.Context())
	if err != nil || len(backups) != 1 || backups[0].Manifest.BackupType != manifest.Full {
		t.Errorf("left: %+v, %v", backups, err)
	}
	if files, err := filepath.Glob(filepath.Join(n.dir, "data", "*")); err != nil || len(files) != 3 {
		t.Errorf("data files left: %v, %v", files, err)
	}
}

// The flag is about one backup, the variable and the file about all of them.
func TestRetentionOfABackup(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "tenantkeep.yaml")
	if err := os.WriteFile(file, []byte("retention-days: 14\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	empty := filepath.Join(t.TempDir(), "empty.yaml")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		env  string
		file string
		want manifest.Retention
		days int
	}{
		{nil, "", empty, "", 30},
		{nil, "", file, manifest.RetainAtLeast, 14},
		{nil, "90", file, manifest.RetainAtLeast, 90},
		{[]string{"--retention-days=3"}, "90", file, manifest.RetainExactly, 3},
		{[]string{"--retention-days=0"}, "", empty, manifest.RetainExactly, 0},
	} {
		flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
		config.AddFlags(flags, "retention-days")
		if err := flags.Parse(tt.args); err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Load(config.Sources{Flags: flags, File: tt.file, LookupEnv: func(name string) (string, bool) {
			return tt.env, name == "BACKUP_RETENTION_DAYS" && tt.env != ""
		}})
		if err != nil {
			t.Fatal(err)
		}
		if got := retentionOf(cfg); got != tt.want || cfg.RetentionDays != tt.days {
			t.Errorf("%v, variable %q: %q %d days, want %q %d", tt.args, tt.env, got, cfg.RetentionDays, tt.want, tt.days)
		}
	}
}

// What looks like a formula is none when a list is opened in a spreadsheet.
func TestListCells(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"": "", "acme": "acme", "=1+1": "'=1+1", "+1": "'+1", "-1": "'-1", "@SUM(1)": "'@SUM(1)", "a=1": "a=1", "\t=1": `"\t=1"`, "\r=1": `"\r=1"`, " =1": `" =1"`,
	} {
		if got := safeCell(name); got != want {
			t.Errorf("%q is written as %q, want %q", name, got, want)
		}
	}
	n := newNights(t, t.TempDir())
	id := n.add(func(m *manifest.Manifest) { m.Database.Name = "=1+1" }, "acme")
	n.tenantkeep(0, "pin", id, "--reason", "@SUM(1+1)")
	stdout, _ := n.tenantkeep(0, "list", "--format=csv")
	mention(t, stdout, ",'=1+1,", ",'@SUM(1+1),")
}

// What retention doubts is not called well, and a pin of nothing is told of.
func TestListDoubts(t *testing.T) {
	t.Parallel()
	n := newNights(t, t.TempDir())
	empty, gone := n.add(nil), n.add(nil, "acme")
	n.tenantkeep(0, "pin", gone, "--reason", "x")
	do(t, os.Remove(filepath.Join(n.dir, "manifests", "backup_manifest_"+gone+".json")))
	stdout, stderr := n.tenantkeep(0, "list")
	match(t, stdout, empty+" .* partial ")
	mention(t, stderr, empty+" is partial: it holds no schema", gone+" is pinned, but is not there: tenantkeep unpin "+gone)
	n.tenantkeep(0, "unpin", gone)
	stdout, _ = n.tenantkeep(1, "verify")
	mention(t, stdout, "the backup holds no schema")
	_, stderr = n.tenantkeep(2, "export", "--schema=acme")
	mention(t, stderr, "nothing says which backup to export from", "tenantkeep list")
}

// A policy of a stronger source does without the numbers of a weaker one.
func TestRetentionPolicy(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args []string
		file string
		want retention.Policy
	}{
		{nil, "", retention.Policy{Daily: 7, Weekly: 4, Monthly: 12}},
		{nil, "retention-policy: custom\ndaily-retention: 14\n", retention.Policy{Daily: 14, Weekly: 4, Monthly: 12}},
		{[]string{"--retention-policy=aggressive"}, "retention-policy: custom\ndaily-retention: 14\n", retention.Policy{Daily: 3, Weekly: 2, Monthly: 6}},
		{[]string{"--daily-retention=0"}, "retention-policy: custom\nweekly-retention: 0\n", retention.Policy{Monthly: 12}},
	} {
		file := filepath.Join(t.TempDir(), "tenantkeep.yaml")
		if err := os.WriteFile(file, []byte(tt.file), 0o600); err != nil {
			t.Fatal(err)
		}
		flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
		config.AddFlags(flags, retentionSettings...)
		if err := flags.Parse(tt.args); err != nil {
			t.Fatal(err)
		}
		cfg, err := config.Load(config.Sources{Flags: flags, File: file})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := retentionPolicy(cfg); err != nil || got != tt.want {
			t.Errorf("%v, %q: %v, %v, want %v", tt.args, tt.file, got, err, tt.want)
		}
	}
}
