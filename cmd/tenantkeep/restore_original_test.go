package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/ui/terminaltest"
)

// originalSystem writes backups as the original system did, in a container in
// which the repository was /app/backups.
type originalSystem struct {
	db  *pgtest.Database
	dir string
}

// original is one of its backups.
type original struct {
	stamp       string // on its clock
	typ         string
	tenants     map[string]string // by schema
	plain, bare bool              // not compressed; without a manifest
}

// path is a file of the repository.
func (o originalSystem) path(key string) string { return filepath.Join(o.dir, filepath.FromSlash(key)) }

func (o originalSystem) write(t *testing.T, key string, content []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(o.path(key)), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(o.path(key), content, 0o644); err != nil { //nolint:gosec // as the original does
		t.Fatal(err)
	}
}

func (o originalSystem) read(t *testing.T, key string) []byte {
	t.Helper()
	content, err := os.ReadFile(o.path(key))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func (o originalSystem) backup(t *testing.T, b original) {
	t.Helper()
	at, err := time.Parse("20060102_150405", b.stamp)
	if err != nil {
		t.Fatal(err)
	}
	var schemas []any
	for schema, tenant := range b.tenants {
		args := []string{"--schema", `"` + schema + `"`}
		if b.typ == "incremental" {
			args = append(args, "--schema-only")
		}
		cmd := exec.CommandContext(t.Context(), o.db.Cluster().Programs.Path("pg_dump"), args...) //nolint:gosec // names of the test
		cmd.Env = o.db.Env()
		content, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprintf("%s_%s_%s_%s.sql", tenant, schema, b.typ, b.stamp)
		if !b.plain {
			name += ".gz"
			var zipped bytes.Buffer
			w := gzip.NewWriter(&zipped)
			_, _ = w.Write(content) // to memory
			_ = w.Close()
			content = zipped.Bytes()
		}
		o.write(t, "data/"+name, content)
		entry := map[string]any{
			"schema": schema, "tenant": tenant, "filename": name, "filepath": "/app/backups/data/" + name, "size": len(content),
			"hash": fmt.Sprintf("sha256:%x", sha256.Sum256(content)), "media_backup": nil, "timestamp": b.stamp, "type": b.typ,
		}
		if schema == "public" {
			media := "core_media_" + b.stamp + ".tar.gz"
			o.write(t, "media/"+media, []byte("files"))
			entry["media_backup"] = "/app/backups/media/" + media
		}
		schemas = append(schemas, entry)
	}
	if b.bare {
		return
	}
	text, err := json.MarshalIndent(map[string]any{
		"timestamp": at.Format("2006-01-02T15:04:05") + ".123456", "backup_type": b.typ, "retention_days": 30,
		"compressed": !b.plain, "include_media": true, "schemas": schemas,
	}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	o.write(t, "manifests/backup_manifest_"+b.stamp+".json", text)
}

const originalSQL = `
	CREATE TABLE public.client (id int PRIMARY KEY, schema_name text); INSERT INTO public.client VALUES (1, 'customer_a'), (2, 'Odd Name');
	CREATE SCHEMA customer_a; CREATE TABLE customer_a.orders (id serial PRIMARY KEY, client int REFERENCES public.client (id), note text);
	INSERT INTO customer_a.orders (client, note) SELECT 1, 'note ' || n FROM generate_series(1, 500) n;
	CREATE SCHEMA "Odd Name"; CREATE TABLE "Odd Name".t (x text); INSERT INTO "Odd Name".t VALUES ('old')`

// A repository of the original system is listed, verified, restored, exported and
// cleaned up, with manifests and without, beside backups of tenantkeep.
func TestOriginalRepository(t *testing.T) {
	t.Parallel()
	source, empty := pgtest.New(t), pgtest.New(t)
	source.Exec(t, originalSQL)
	o := originalSystem{source, t.TempDir()}
	repository, from, into := "--repository="+o.dir, "--database-url="+source.URL(), "--database-url="+empty.URL()
	logs := "--log-dir=" + t.TempDir()
	tenants := map[string]string{"public": "core", "customer_a": "customer_a", "Odd Name": "odd"}
	customer := pgtest.Compare{Schemas: []string{"customer_a"}}
	all := pgtest.Compare{Schemas: []string{"public", "customer_a", "Odd Name"}}

	o.backup(t, original{stamp: "20241215_143022", typ: "full", tenants: tenants, bare: true})
	before := pgtest.Fingerprint(t, source, customer)
	source.Exec(t, `UPDATE customer_a.orders SET note = 'changed'`)
	o.backup(t, original{stamp: "20241216_143022", typ: "full", tenants: tenants, plain: true})
	changed, whole := pgtest.Fingerprint(t, source, customer), pgtest.Fingerprint(t, source, all)
	o.backup(t, original{stamp: "20241217_143022", typ: "incremental", tenants: tenants})
	source.Exec(t, `DELETE FROM customer_a.orders; UPDATE "Odd Name".t SET x = 'new'`)

	var list []listed
	stdout, _ := runIn(t, 0, "list", repository, "--format", "json", "--time-zone", "Asia/Tokyo")
	if err := json.Unmarshal([]byte(stdout), &list); err != nil || len(list) != 3 {
		t.Fatalf("%v of %s", err, stdout)
	}
	for i, want := range []struct {
		id, typ, file string
		at            time.Time
		bare          bool
	}{
		{"20241217_143022", "incremental", "data/customer_a_customer_a_incremental_20241217_143022.sql.gz", time.Date(2024, 12, 17, 5, 30, 22, 123456000, time.UTC), false},
		{"20241216_143022", "full", "data/customer_a_customer_a_full_20241216_143022.sql", time.Date(2024, 12, 16, 5, 30, 22, 123456000, time.UTC), false},
		{"20241215_143022", "full", "data/customer_a_customer_a_full_20241215_143022.sql.gz", time.Date(2024, 12, 15, 5, 30, 22, 0, time.UTC), true},
	} {
		got, files := list[i], map[string]string{}
		for _, s := range got.Schemas {
			files[s.Schema+" of "+s.Tenant] = s.File
		}
		if got.ID != want.id || got.Type != want.typ || !got.Time.Equal(want.at) || !got.Legacy || got.NoManifest != want.bare || got.State != stateOK ||
			got.Tenants != 2 || !got.Core || files["customer_a of customer_a"] != want.file || files["Odd Name of odd"] == "" || files["public of core"] == "" {
			t.Errorf("%s: %+v", want.id, got)
		}
	}
	stdout, _ = runIn(t, 0, "list", repository, "--schema", "odd", "--type", "full", "--format", "csv")
	if strings.Count(stdout, "\n") != 3 {
		t.Errorf("list of odd: %s", stdout)
	}
	_, stderr := runIn(t, 0, "verify", repository, logs)
	mention(t, stderr, "All is well: 3 backups, 9 files", "9 files of the original system", "3 files of these without a hash")
	stdout, _ = runIn(t, 0, "restore", repository, "--list-available")
	mention(t, stdout, "20241215_143022", "20241216_143022", "Odd Name")

	// Live, by name and by time, and back.
	_, stderr = runIn(t, 0, "restore", repository, logs, from, "--latest", "--schema", "customer_a", "--yes")
	mention(t, stderr, "Backup 20241216_143022", "customer_a_customer_a_full_20241216_143022.sql stored in it")
	pgtest.RequireState(t, changed, source, customer)
	_, stderr = runIn(t, 0, "restore", repository, logs, from, "--at", "2024-12-16 14:30:21", "--schema", "customer_a", "--schema", "odd", "--yes")
	mention(t, stderr, "Backup 20241215_143022", "has no manifest", "Restored 2 schemas")
	pgtest.RequireState(t, before, source, customer)
	runIn(t, 0, "rollback", repository, logs, from, "customer_a", "--yes")
	pgtest.RequireState(t, changed, source, customer)

	// The paths of the container.
	_, stderr = runIn(t, 0, "restore", repository, logs, from, "--manifest", "/app/backups/manifests/backup_manifest_20241216_143022.json", "--schema", "customer_a", "--as", "beside")
	mention(t, stderr, "There is no /app/backups/manifests/", "Restored 1 schema")
	_, stderr = runIn(t, 0, "restore", repository, logs, from, "--backup-file", "/app/backups/data/customer_a_customer_a_full_20241215_143022.sql.gz", "--yes")
	mention(t, stderr, "There is no /app/backups/data/", "data/customer_a_customer_a_full_20241215_143022.sql.gz")
	pgtest.RequireState(t, before, source, customer)
	source.Exec(t, "DROP SCHEMA beside CASCADE")

	// Everything, into an empty database.
	stdout, _ = runIn(t, 0, "restore", repository, logs, into, "--latest", "--dry-run", "--format", "json")
	var plan planJSON
	lastLine(t, stdout, &plan)
	if plan.Backup != "20241216_143022" || len(plan.Schemas) != 3 || plan.Schemas[0].Schema != "public" || plan.Script == nil || plan.Script.Program != "pg_dump" {
		t.Errorf("plan %s", stdout)
	}
	if got := empty.Query(t, "SELECT count(*) FROM pg_catalog.pg_class WHERE relname IN ('client', 'orders')"); got[0] != "0" {
		t.Error("a dry run made tables")
	}
	stdout, _ = runIn(t, 0, "restore", repository, logs, into, "--latest", "--format", "json")
	var summary restoreSummary
	lastLine(t, stdout, &summary)
	if summary.Restored != 3 || summary.Failed != 0 || summary.Rows != 503 {
		t.Errorf("summary %s", stdout)
	}
	pgtest.RequireState(t, whole, empty, all)

	// What cannot be restored, and what is not meant.
	_, stderr = runIn(t, 1, "restore", repository, logs, from, "--manifest", "20241217_143022", "--schema", "customer_a", "--yes")
	mention(t, stderr, "it has definitions and no rows")
	runIn(t, 2, "restore", repository, logs, from, "--latest", "--schema", "customer_a", "--table", "orders")
	_, stderr = runIn(t, 1, "restore", repository, logs, from, "--latest", "--all", "--yes")
	mention(t, stderr, "public", "is not empty", "nothing was changed")

	// As one script.
	stdout, _ = runIn(t, 0, "export", repository, logs, "--schema", "customer_a", "--manifest", "20241215_143022")
	if want := unzip(t, o.read(t, "data/customer_a_customer_a_full_20241215_143022.sql.gz")); stdout != string(want) {
		t.Errorf("exported %.300q", stdout)
	}

	// No parent for an incremental, and outvoted, schema by schema, by what comes.
	stdout, stderr = runIn(t, 0, "backup", repository, logs, from, "--backup-type", "incremental")
	mention(t, stderr, "this one is a full backup")
	source.Exec(t, `DROP SCHEMA "Odd Name" CASCADE`)
	runIn(t, 0, "backup", repository, logs, from)
	cleanup := []string{"cleanup", repository, logs, "--only", "repository", "--retention-policy", "custom", "--daily-retention", "1", "--weekly-retention", "0", "--monthly-retention", "0", "--yes"}
	kept, _ := runIn(t, 0, cleanup...)
	match(t, kept, "20241216_143022 .* stays .*with the files of public") // the only archive of them
	runIn(t, 0, "backup", repository, logs, from, "--include-media", "--media-root="+t.TempDir())
	runIn(t, 0, cleanup...)
	left := string(bytes.Join([][]byte{o.names(t, "data"), o.names(t, "media"), o.names(t, "manifests")}, nil))
	for _, gone := range []string{"20241215_143022", "20241216_143022", "20241217_143022"} {
		if strings.Contains(left, gone) {
			t.Errorf("%s is still there:\n%s", gone, left)
		}
	}
	mention(t, left, strings.TrimSpace(filepath.Base(stdout))) // the manifest of the first new one
	_, stderr = runIn(t, 0, "verify", repository, logs)
	mention(t, stderr, "All is well: 3 backups")
}

// names lists a folder.
func (o originalSystem) names(t *testing.T, dir string) []byte {
	t.Helper()
	entries, err := os.ReadDir(o.path(dir))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	for _, e := range entries {
		fmt.Fprintln(&b, e.Name())
	}
	return b.Bytes()
}

func unzip(t *testing.T, content []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(r); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// The picker offers full backups of the original system, and not their tables.
func TestPickOriginal(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, originalSQL)
	o := originalSystem{db, t.TempDir()}
	tenants := map[string]string{"customer_a": "customer_a"}
	o.backup(t, original{stamp: "20241215_143022", typ: "full", tenants: tenants, bare: true})
	o.backup(t, original{stamp: "20241216_143022", typ: "full", tenants: tenants})
	o.backup(t, original{stamp: "20241217_143022", typ: "incremental", tenants: tenants})
	const up, down, enter = terminaltest.Up, terminaltest.Down, terminaltest.Enter
	terminal, done := startPicker(t, t.Context(), o.dir, db.URL(), "customer_a")
	for _, step := range []struct {
		expect []string
		keys   string
	}{
		{[]string{"2024-12-16 14:30:22"}, down + enter},
		{[]string{"What is to be done"}, down + down + enter},
		{[]string{"restored whole", "What is to be done"}, up + up + enter},
		{[]string{"--manifest 20241215_143022 --schema customer_a --yes", "Go on with this?"}, enter},
	} {
		terminal.Expect(step.expect...)
		terminal.Type(step.keys)
	}
	result := <-done
	if c := result.choice; result.err != nil || c.Point.Manifest != "20241215_143022" || c.Mode != modeLive {
		t.Errorf("%+v, %v", c, result.err)
	}
}

// Files that are not what a manifest of the original system says of them.
func TestOriginalFilesGone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, originalSQL)
	o := originalSystem{db, t.TempDir()}
	repository, logs, into := "--repository="+o.dir, "--log-dir="+t.TempDir(), "--database-url="+db.URL()
	o.backup(t, original{stamp: "20241215_143022", typ: "full", tenants: map[string]string{"customer_a": "customer_a", "Odd Name": "Odd Name"}, plain: true})
	const key = "data/customer_a_customer_a_full_20241215_143022.sql"
	dump := o.read(t, key)
	db.Exec(t, "DELETE FROM customer_a.orders")
	live := pgtest.Fingerprint(t, db, pgtest.Compare{})
	restore := []string{"restore", repository, logs, into, "--yes"}
	for name, c := range map[string]struct {
		content []byte
		says    []string
	}{
		"another hash": {bytes.Replace(dump, []byte("note 499\n"), []byte("note 498\n"), 1), []string{"the file has other contents", "copy it out of the repository"}},
		"another size": {append(bytes.Clone(dump), '\n'), []string{"the file has another size", "copy it out of the repository"}},
		"cut":          {dump[:len(dump)-300], []string{"the file has another size"}},
	} {
		o.write(t, key, c.content)
		for _, args := range [][]string{
			{"--latest", "--schema", "customer_a"},
			{"--latest"},
			{"--backup-file", o.path(key)},
			{"--backup-file", "/app/backups/" + key},
		} {
			if args[0] == "--latest" && len(args) == 1 {
				args = append(args, "--all")
			}
			_, stderr := runIn(t, 1, append(restore, args...)...)
			mention(t, stderr, c.says...)
		}
		stdout, _ := runIn(t, 1, "verify", repository, logs)
		if !strings.Contains(stdout, key) {
			t.Errorf("%s: verify says %s", name, stdout)
		}
		runIn(t, 1, "export", repository, logs, "--latest", "--schema", "customer_a")
		pgtest.RequireState(t, live, db, pgtest.Compare{})
	}

	// Moved, where the operator may say so, or gone.
	outside := filepath.Join(t.TempDir(), "copy.sql")
	if err := os.WriteFile(outside, dump, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(o.path(key)); err != nil {
		t.Fatal(err)
	}
	_, stderr := runIn(t, 1, append(restore, "--latest", "--schema", "customer_a")...)
	mention(t, stderr, "the file is missing", "the manifest names /app/backups/"+key, "looked for as "+key, "--backup-file")
	stdout, _ := runIn(t, 0, "list", repository, "--format", "json")
	mention(t, stdout, stateIncomplete, key)
	runIn(t, 3, "repair", repository, logs, "--dry-run")
	pgtest.RequireState(t, live, db, pgtest.Compare{})
	runIn(t, 0, append(restore, "--latest", "--schema", "Odd Name")...) // which is whole
	runIn(t, 0, append(restore, "--backup-file", outside)...)
	if got := db.Query(t, "SELECT count(*) FROM customer_a.orders"); got[0] != "500" {
		t.Errorf("%v rows are back", got)
	}

	// A manifest that names a dump of another tenant's, and one outside.
	secret := filepath.Join(filepath.Dir(o.dir), "secret.sql")
	if err := os.WriteFile(secret, dump, 0o600); err != nil {
		t.Fatal(err)
	}
	for i, c := range []struct{ path, says string }{
		{"/app/backups/data/Odd Name_Odd Name_full_20241215_143022.sql", `the script is for schema Odd Name`},
		{"../../../../../../" + secret, "the file is missing"},
	} {
		content := dump
		if i == 0 {
			content = o.read(t, "data/Odd Name_Odd Name_full_20241215_143022.sql")
		}
		stamp := fmt.Sprintf("20241216_00000%d", i)
		o.write(t, "manifests/backup_manifest_"+stamp+".json", fmt.Appendf(nil, `{"timestamp": "2024-12-16T00:00:0%d", "backup_type": "full", "schemas": [{
			"schema": "customer_a", "tenant": "customer_a", "filepath": %q, "size": %d, "hash": "sha256:%x"}]}`, i, c.path, len(content), sha256.Sum256(content)))
		_, stderr := runIn(t, 1, append(restore, "--manifest", stamp, "--schema", "customer_a")...)
		mention(t, stderr, c.says)
	}
}
