package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/storage"
	"github.com/tenantkeep/tenantkeep/internal/storage/storagetest"
)

// dumpOf is what pg_dump --schema writes of a schema with one table.
func dumpOf(schema string) []byte {
	create := fmt.Sprintf("CREATE SCHEMA \"%s\";\n\n", schema)
	if schema == "public" {
		create = "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1';\n\n"
	}
	return fmt.Appendf(nil, "--\n-- PostgreSQL database dump\n--\n\n\\restrict abc\n\n-- Dumped from database version 15.18\n-- Dumped by pg_dump version 17.2\n\n"+
		"SET client_encoding = 'UTF8';\n\n%s"+
		"CREATE TABLE \"%s\".t (\n    id integer\n);\n\nCOPY \"%[2]s\".t (id) FROM stdin;\n1\n\\.\n\n--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict abc\n\n", create, schema)
}

func zipped(t *testing.T, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// summary writes a backup in one line for each part.
func summary(b Backup) (lines []string) {
	if b.Manifest == nil {
		return []string{b.ID + " broken"}
	}
	m := b.Manifest
	lines = append(lines, fmt.Sprintf("%s %s %s bare=%v", b.ID, m.BackupType, m.Timestamp.UTC().Format(time.RFC3339), b.Bare))
	for _, s := range m.Schemas {
		lines = append(lines, strings.TrimRight(fmt.Sprintf("   %s/%s %s %s", s.Tenant, s.Schema, s.Filepath, s.MediaBackup), " "))
	}
	for _, f := range m.Failures {
		lines = append(lines, fmt.Sprintf("!  %s/%s %s", f.Tenant, f.Schema, f.File))
	}
	return lines
}

func TestBareBackups(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	disk := newStore(t, t.TempDir())
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	o := options()
	o.Zone = berlin
	r := Open(disk, o)
	id := mustBack(t, r)
	named := dumpOf("acme")
	for key, content := range map[string][]byte{
		"data/core_public_full_20241215_143022.sql.gz":    zipped(t, dumpOf("public")),
		"data/acme_acme_full_20241215_143022.sql.gz":      zipped(t, dumpOf("acme")),
		"data/acme_acme_full_20241215_143022.sql":         dumpOf("acme"), // the same, decompressed
		"data/shop_s_1_full_20241215_143022.sql.gz":       zipped(t, dumpOf("s_1")),
		"data/shop_s_1_incremental_20241215_143022.sql":   dumpOf("s_1"),
		"data/Odd Name_20240701_020000.sql":               dumpOf("Odd Name"),
		"data/cut_20240701_020000.sql":                    dumpOf("cut")[:250],
		"data/liar_20240701_020000.sql":                   dumpOf("truth"), // what is in it counts
		"data/acme_full_20241216_000000.sql":              named,
		"data/beside_full_20241216_000000.sql":            dumpOf("beside"),
		"data/by_hand.sql":                                dumpOf("acme"),
		"data/archive/acme_full_20200101_000000.sql":      dumpOf("acme"),
		"data/nodump_full_20241215_143022.sql":            []byte("SELECT 1;\n"),
		"data/empty_full_20241215_143022.sql":             nil,
		"data/acme_full_20241399_143022.sql":              dumpOf("acme"), // no such month
		"media/core_media_20241215_143022.tar.gz":         []byte("x"),
		"media/shop_media_20241215_143022.tar.gz":         []byte("x"),
		"media/stray_media_20200101_000000.tar.gz":        []byte("x"),
		"media/stray_media_20200101_000000.tar.zst":       []byte("x"),
		"manifests/backup_manifest_20241216_000000.json":  manifestOfDump(t, "acme", "/app/backups/data/acme_full_20241216_000000.sql", named),
		"manifests/backup_manifest_20240701_020000.json":  []byte("{"),
		"rollback/data/other_full_20241216_000000.sql.gz": zipped(t, dumpOf("other")),
	} {
		storagetest.Put(t, disk, key, content)
	}
	backups, err := r.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, b := range backups {
		if b.ID != id {
			got = append(got, summary(b)...)
		}
	}
	want := []string{
		"20241216_000000-files full 2024-12-15T23:00:00Z bare=true",
		"   beside/beside data/beside_full_20241216_000000.sql",
		"20241216_000000 full 2024-12-15T23:00:00Z bare=false",
		"   acme/acme /app/backups/data/acme_full_20241216_000000.sql",
		"20241215_143022-files2 incremental 2024-12-15T13:30:22Z bare=true",
		"   shop/s_1 data/shop_s_1_incremental_20241215_143022.sql media/shop_media_20241215_143022.tar.gz",
		"20241215_143022-files full 2024-12-15T13:30:22Z bare=true",
		"   acme/acme data/acme_acme_full_20241215_143022.sql.gz",
		"20241215_143022 full 2024-12-15T13:30:22Z bare=true",
		"   core/public data/core_public_full_20241215_143022.sql.gz media/core_media_20241215_143022.tar.gz",
		"   acme/acme data/acme_acme_full_20241215_143022.sql",
		"   shop/s_1 data/shop_s_1_full_20241215_143022.sql.gz media/shop_media_20241215_143022.tar.gz",
		"20240701_020000 broken",
		"20240701_020000-files full 2024-07-01T00:00:00Z bare=true", // summer time
		"   Odd Name/Odd Name data/Odd Name_20240701_020000.sql",
		"   truth/truth data/liar_20240701_020000.sql",
		"!  cut/cut data/cut_20240701_020000.sql",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	catalog, err := r.Catalog(ctx)
	if err != nil {
		t.Fatal(err)
	}
	got = nil
	for _, b := range catalog {
		if b.ID != id {
			got = append(got, summary(b)...)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("catalog: %s", diff)
	}
	for _, name := range []string{"20241215_143022-files", "data/acme_acme_full_20241215_143022.sql.gz"} {
		if b, err := r.Load(ctx, name); err != nil || b.ID != "20241215_143022-files" || !b.Bare {
			t.Errorf("load %s: %+v, %v", name, b, err)
		}
	}
	for _, name := range []string{"20241217_000000", "data/by_hand.sql", "data/nothing.sql"} {
		if _, err := r.Load(ctx, name); !errors.Is(err, ErrNoBackup) {
			t.Errorf("load %s: %v", name, err)
		}
	}
	b, err := r.Load(ctx, "20241216_000000")
	if err != nil || !b.Time().Equal(time.Date(2024, 12, 15, 23, 0, 0, 0, time.UTC)) {
		t.Errorf("%v of %+v, %v", b.Time(), b, err)
	}
	count := 0
	if err := r.Newest(ctx, func(b Backup) bool { count++; return !b.Bare }); err != nil || count != 3 {
		t.Errorf("%d with a manifest, %v", count, err)
	}
}

func manifestOfDump(t *testing.T, schema, path string, content []byte) []byte {
	t.Helper()
	text, err := json.Marshal(map[string]any{
		"timestamp": "2024-12-16T00:00:00", "backup_type": "full", "retention_days": 30, "compressed": false, "include_media": false,
		"schemas": []any{map[string]any{
			"schema": schema, "tenant": schema, "filename": filepath.Base(path), "filepath": path, "size": len(content),
			"hash": fmt.Sprintf("sha256:%x", sha256.Sum256(content)), "media_backup": nil, "timestamp": "20241216_000000", "type": "full",
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// Dumps are no orphans, whoever named them; what a run of ours left is.
func TestDumpsAreNoOrphans(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	dir := t.TempDir()
	disk := newStore(t, dir)
	r := Open(disk, options())
	mustBack(t, r)
	own := zipped(t, []byte("x"))
	own = append(own, datafile.Trailer(datafile.Gzip, 0, int64(len(own)))...)
	for key, content := range map[string][]byte{
		"media/own_media_20250101_000000.tar.gz":     own,
		"data/acme_full_20241215_143022.sql.gz":      zipped(t, dumpOf("acme")),
		"data/by_hand.sql":                           dumpOf("acme"),
		"data/by_hand.sql.gz":                        zipped(t, dumpOf("acme")),
		"data/archive/acme_full_20200101_000000.sql": dumpOf("acme"),
		"data/left_full_20250101_000000.sql":         []byte("SELECT 1;\n"),
		"data/left_full_20250101_000000.sql.gz":      zipped(t, []byte("SELECT 1;\n")),
		"data/left_full_20250101_000000.sql.zst":     dumpOf("acme"), // the original system has none of these
		"data/empty.sql":                             nil,
		"media/acme_media_20241215_143022.tar.gz":    []byte("x"),
		"media/other_media_20241215_143022.tar.gz":   []byte("x"),
		"media/other_media_20241215_143022.tar.zst":  []byte("x"),
	} {
		storagetest.Put(t, disk, key, content)
		old := start.Add(-48 * time.Hour)
		if err := os.Chtimes(filepath.Join(dir, filepath.FromSlash(key)), old, old); err != nil {
			t.Fatal(err)
		}
	}
	err := r.Clean(ctx, func(ctx context.Context, c *Cleaning) error {
		orphans, err := r.OldOrphans(ctx, c.Backups(), 24*time.Hour)
		if err != nil {
			return err
		}
		want := []string{
			"data/empty.sql", "data/left_full_20250101_000000.sql", "data/left_full_20250101_000000.sql.gz",
			"data/left_full_20250101_000000.sql.zst", "media/other_media_20241215_143022.tar.zst", "media/own_media_20250101_000000.tar.gz",
		}
		var found []storage.Info
		for _, o := range orphans {
			found = append(found, o.Info)
		}
		if diff := cmp.Diff(want, keysOf(found)); diff != "" {
			t.Error(diff)
		}
		// A bare backup goes as a whole.
		removed, err := c.Remove(ctx, chosen(c, []string{"20241215_143022"}))
		if err != nil {
			return err
		}
		if diff := cmp.Diff([]string{"data/acme_full_20241215_143022.sql.gz", "media/acme_media_20241215_143022.tar.gz"}, keysOf(removed)); diff != "" {
			t.Error(diff)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Load(ctx, "20241215_143022"); !errors.Is(err, ErrNoBackup) {
		t.Errorf("after removal: %v", err)
	}
}

func keysOf(list []storage.Info) []string {
	keys := make([]string, len(list))
	for i, info := range list {
		keys[i] = info.Key
	}
	return keys
}

// The files of a manifest may have been moved, or be others now.
func TestLacking(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	disk := newStore(t, t.TempDir())
	r := Open(disk, options())
	whole := dumpOf("acme")
	for i, c := range []struct {
		key     string
		content []byte
		lacking string
		err     error
	}{
		{"data/a.sql", whole, "", nil},
		{"data/elsewhere/b.sql", whole, "lacks data/b.sql", ErrMissing},
		{"data/c.sql", append(bytes.Clone(whole), ' '), "has data/c.sql in another size than its manifest says", ErrSize},
		{"data/d.sql", bytes.Replace(whole, []byte("\n1\n"), []byte("\n2\n"), 1), "", ErrHash},
	} {
		id := fmt.Sprintf("2024121%d_000000", i)
		storagetest.Put(t, disk, c.key, c.content)
		storagetest.Put(t, disk, manifestKey(id), manifestOfDump(t, "acme", "/app/backups/data/"+filepath.Base(c.key), whole))
		b, err := r.Load(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		lacking, err := r.Lacking(ctx, []Backup{b})
		if err != nil || lacking[id] != c.lacking {
			t.Errorf("%s: %q, %v", c.key, lacking, err)
		}
		if err := r.CheckData(ctx, b.Manifest, b.Manifest.Schemas[0], nil); !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
			t.Errorf("%s: %v, want %v", c.key, err, c.err)
		}
	}
	// No manifest leads out of the repository.
	storagetest.Put(t, disk, manifestKey("20241220_000000"), manifestOfDump(t, "acme", "../../../etc/passwd", whole))
	b, err := r.Load(ctx, "20241220_000000")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.CheckData(ctx, b.Manifest, b.Manifest.Schemas[0], nil); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "data/passwd") {
		t.Errorf("a path that leads out: %v", err)
	}
}

func TestCheckMedia(t *testing.T) {
	t.Parallel()
	disk := newStore(t, t.TempDir())
	r := Open(disk, options())
	storagetest.Put(t, disk, "media/a.tar.gz", []byte("x"))
	storagetest.Put(t, disk, "media/empty.tar.gz", nil)
	storagetest.Put(t, disk, "media/folder/logo.png", nil)
	for path, want := range map[string]string{
		"/app/backups/media/a.tar.gz":     "",
		"/app/backups/media/folder":       "",
		"/app/backups/media/fold":         "the file is missing",
		"/app/backups/media/empty.tar.gz": "the file is empty",
	} {
		err := r.CheckMedia(t.Context(), new(manifest.Manifest), manifest.Schema{Schema: "a", MediaBackup: path})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

// A manifest that cannot be read, and whose files are there, can be moved away.
func TestRepairBesideDumps(t *testing.T) {
	t.Parallel()
	disk := newStore(t, t.TempDir())
	r := Open(disk, options())
	storagetest.Put(t, disk, "data/acme_full_20241215_143022.sql", dumpOf("acme"))
	storagetest.Put(t, disk, manifestKey("20241215_143022"), []byte("{"))
	plan, err := r.PlanRepair(t.Context(), RepairOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Rebuild) > 0 || len(plan.Unused) > 0 || len(plan.Lost) != 1 || !strings.Contains(plan.Lost[0].Problem, "are backup 20241215_143022-files") {
		t.Errorf("plan %+v", plan)
	}
}
