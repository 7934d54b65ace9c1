package verify_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantkeep/tenantkeep/internal/backup"
	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/rowsum"
	"github.com/tenantkeep/tenantkeep/internal/storage/local"
	"github.com/tenantkeep/tenantkeep/internal/storage/storagetest"
	"github.com/tenantkeep/tenantkeep/internal/verify"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

type counter struct{ bytes, rows, files, failed atomic.Int64 }

func (c *counter) Start(string, int, int64) {}
func (c *counter) Add(bytes, rows int64)    { c.bytes.Add(bytes); c.rows.Add(rows) }
func (c *counter) TenantDone(_ string, err error) {
	c.files.Add(1)
	if err != nil {
		c.failed.Add(1)
	}
}
func (c *counter) Note(slog.Level, string, string) {}
func (c *counter) Finish()                         {}

func open(t testing.TB, dir string) *repo.Repo {
	t.Helper()
	store, err := local.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	return repo.Open(store, repo.Options{})
}

func check(t testing.TB, r *repo.Repo, schemas ...string) (*verify.Report, *counter) {
	t.Helper()
	backups, err := r.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c := &counter{}
	report, err := verify.Run(t.Context(), verify.Options{Repo: r, Backups: backups, Schemas: schemas, Jobs: 2, Progress: c})
	if err != nil {
		t.Fatal(err)
	}
	return report, c
}

func text(t testing.TB, r *verify.Report) string {
	t.Helper()
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// save backs up a database, with so many rows in its largest table, with each of
// the compressions.
func save(t testing.TB, dir string, rows int) *repo.Repo {
	t.Helper()
	db := pgtest.New(t)
	db.Exec(t, `
		CREATE TABLE public.shared (id int); INSERT INTO public.shared VALUES (1);
		CREATE SCHEMA a; CREATE TABLE a.t (id int, t text); INSERT INTO a.t SELECT n, repeat(md5(n::text), 30) FROM generate_series(1, `+strconv.Itoa(rows)+`) AS n;
		CREATE TABLE a.empty (id int); CREATE TABLE a.nothing (); INSERT INTO a.nothing DEFAULT VALUES;
		CREATE SCHEMA b; CREATE TABLE b.t (t text); INSERT INTO b.t VALUES (E'\n\\.\n'), (NULL), ('')`)
	server, err := pg.Parse(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	r := open(t, dir)
	for _, algorithm := range []datafile.Algorithm{datafile.Zstd, datafile.Gzip, datafile.None} {
		_, err = backup.Run(t.Context(), backup.Options{
			Server: server, Repo: r, Type: manifest.Full, Jobs: 2, Version: "test", Compression: datafile.Compression{Algorithm: algorithm},
			Progress: &counter{}, Log: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return r
}

func TestVerify(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := save(t, dir, 20000)
	report, c := check(t, r)
	if !report.OK || report.Backups != 3 || report.Files != 9 || report.Tables != 15 || report.Rows != 3*20005 {
		t.Errorf("report %s", text(t, report))
	}
	if c.files.Load() != 9 || c.failed.Load() != 0 || c.bytes.Load() != report.Bytes || c.rows.Load() != report.Rows {
		t.Errorf("progress %+v", c)
	}
	if report, _ := check(t, r, "b"); !report.OK || report.Files != 3 {
		t.Errorf("report of one schema %s", text(t, report))
	}

	// One byte in the middle of every file, whatever it is there.
	files, err := filepath.Glob(filepath.Join(dir, "data", "*"))
	if err != nil || len(files) != 9 {
		t.Fatal(files, err)
	}
	for _, path := range files {
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for name, bad := range map[string][]byte{
			"flipped": append(append(bytes.Clone(good[:len(good)/3]), good[len(good)/3]^1), good[len(good)/3+1:]...),
			"short":   good[:len(good)-1], "empty": {}, "long": append(bytes.Clone(good), '\n'),
		} {
			if err := os.WriteFile(path, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			report, _ := check(t, r)
			if report.OK || len(report.Problems) == 0 {
				t.Errorf("%s %s is not noticed", path, name)
			}
			for _, p := range report.Problems {
				if p.File != "data/"+filepath.Base(path) {
					t.Errorf("%s %s: problem of %s: %s", path, name, p.File, p.Error)
				}
			}
		}
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "manifests", "backup_manifest_20200101_000000.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	report, _ = check(t, r)
	if len(report.Problems) != 2 || !strings.Contains(report.Problems[0].Error, repo.ErrMissing.Error()) || !strings.Contains(report.Problems[1].Error, "manifest cannot be read") {
		t.Errorf("report %s", text(t, report))
	}
}

// TestRandomDamage damages files at random, and asks which restore points suffer.
func TestRandomDamage(t *testing.T) {
	t.Parallel()
	whole := t.TempDir()
	sound, err := save(t, whole, 300).List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(60) {
		r := rand.New(rand.NewPCG(11, seed))
		dir := filepath.Join(t.TempDir(), "copy")
		if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
			t.Fatal(err)
		}
		store, err := local.New(dir)
		if err != nil {
			t.Fatal(err)
		}
		keys := append(storagetest.Keys(t, store, "data/"), storagetest.Keys(t, store, "manifests/")...)
		var done []storagetest.Corruption
		for range 1 + r.IntN(3) {
			c := storagetest.Corrupt(t, store, r, keys)
			keys = slices.DeleteFunc(keys, func(key string) bool { return key == c.Key })
			done = append(done, c)
		}
		backups, err := open(t, dir).List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]bool{} // backup and schema; of a whole backup no schema
		for _, b := range sound {
			i := slices.IndexFunc(backups, func(now repo.Backup) bool { return now.Key == b.Key })
			damaged := func(key string) bool {
				return slices.ContainsFunc(done, func(c storagetest.Corruption) bool { return c.Key == key })
			}
			switch {
			case i < 0: // its manifest was removed: no restore point is left to be named
				continue
			case damaged(b.Key) && cmp.Equal(b.Manifest, backups[i].Manifest): // damage that means nothing
			case damaged(b.Key):
				want[b.ID+" "] = true
				continue
			}
			for _, e := range b.Manifest.Schemas {
				if damaged(e.Filepath) || slices.ContainsFunc(e.References, damaged) {
					want[b.ID+" "+e.Schema] = true
				}
			}
		}
		report, _ := check(t, open(t, dir))
		got := map[string]bool{}
		for _, p := range report.Problems {
			got[p.Backup+" "+p.Schema] = true
		}
		if diff := cmp.Diff(want, got); diff != "" || report.OK != (len(want) == 0) {
			t.Errorf("seed %d: after %v (-want +got):\n%s%s", seed, done, diff, text(t, report))
		}
	}
}

// A file whose hash is right and whose index is not: written wrongly, not
// changed later.
func TestWrongIndex(t *testing.T) {
	t.Parallel()
	for want, spoil := range map[string]func(*manifest.Table, *manifest.Schema){
		"":                         func(*manifest.Table, *manifest.Schema) {},
		"checksum of its 2 rows":   func(t *manifest.Table, _ *manifest.Schema) { t.Checksum = rowsum.Sum{}.Checksum() },
		"segment 1 of table t has": func(t *manifest.Table, _ *manifest.Schema) { t.Segments[0].Hash = strings.Repeat("0", 64) },
		"has 2 rows, its index says 3": func(t *manifest.Table, e *manifest.Schema) {
			t.Rows, t.Segments[0].Rows, t.Segments[0].Pieces[0].Rows, e.Rows = 3, 3, 3, 3
		},
		"other contents (sha256 of its index ": func(_ *manifest.Table, e *manifest.Schema) { e.IndexHash = "sha256:" + strings.Repeat("0", 64) },
		"2 rows, the manifest says 7":          func(_ *manifest.Table, e *manifest.Schema) { e.Rows = 7 },
		"holds 1 tables, the manifest says 9": func(_ *manifest.Table, e *manifest.Schema) {
			e.Tables = 9
		},
	} {
		r := open(t, t.TempDir())
		writeOne(t, r, spoil)
		report, _ := check(t, r)
		if report.OK != (want == "") || !strings.Contains(text(t, report), want) {
			t.Errorf("%q: report %s", want, text(t, report))
		}
	}
}

// A tenant that others need is named, as their newest backup has it.
func TestLeaks(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `
		CREATE TABLE public.shared (id int PRIMARY KEY);
		CREATE SCHEMA "a.A"; CREATE TABLE "a.A".t (id int PRIMARY KEY REFERENCES public.shared);
		CREATE SCHEMA b; CREATE TABLE b.t (id int REFERENCES "a.A".t);
		CREATE SCHEMA c; CREATE VIEW c.v AS SELECT id FROM "a.A".t JOIN b.t USING (id);
		CREATE VIEW public.all_of_them AS SELECT * FROM c.v`)
	r := open(t, t.TempDir())
	saveAll(t, r, db)
	leaks := func(schemas ...string) []verify.Leak {
		t.Helper()
		report, _ := check(t, r, schemas...)
		if !report.OK {
			t.Errorf("report %s", text(t, report))
		}
		return report.Leaks
	}
	want := []verify.Leak{
		{Schema: "a.A", Tenant: "a.A", NeededBy: []string{"b", "c"}},
		{Schema: "b", Tenant: "b", NeededBy: []string{"c"}},
		{Schema: "c", Tenant: "c", NeededBy: []string{"core"}},
	}
	if diff := cmp.Diff(want, leaks()); diff != "" {
		t.Errorf("leaks (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]verify.Leak{{Schema: "a.A", Tenant: "a.A", NeededBy: []string{"b"}}}, leaks("b")); diff != "" {
		t.Errorf("leaks of one file (-want +got):\n%s", diff)
	}
	db.Exec(t, `DROP VIEW public.all_of_them, c.v`)
	saveAll(t, r, db)
	if diff := cmp.Diff([]verify.Leak{{Schema: "a.A", Tenant: "a.A", NeededBy: []string{"b"}}}, leaks()); diff != "" {
		t.Errorf("leaks that are left (-want +got):\n%s", diff)
	}
}

// saveAll makes a full backup.
func saveAll(t testing.TB, r *repo.Repo, db *pgtest.Database) {
	t.Helper()
	server, err := pg.Parse(db.URL())
	if err != nil {
		t.Fatal(err)
	}
	_, err = backup.Run(t.Context(), backup.Options{
		Server: server, Repo: r, Type: manifest.Full, Jobs: 2, Version: "test", Compression: datafile.Compression{Algorithm: datafile.Zstd},
		Progress: &counter{}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
}

// writeOne writes a backup of one table by hand.
func writeOne(t *testing.T, r *repo.Repo, spoil func(*manifest.Table, *manifest.Schema)) {
	t.Helper()
	w, err := r.NewBackup(t.Context(), manifest.Full)
	if err != nil {
		t.Fatal(err)
	}
	out, err := w.CreateData(t.Context(), "a", "a", manifest.Full, ".sql.zst")
	if err != nil {
		t.Fatal(err)
	}
	compression := datafile.Compression{Algorithm: datafile.Zstd}
	file := datafile.NewWriter(out, compression)
	enc, err := datafile.NewEncoder(compression)
	if err != nil {
		t.Fatal(err)
	}
	enc.Begin(datafile.DataFrame)
	into, rows := "COPY a.t FROM stdin;\n", "one\ntwo\n"
	if _, err := enc.Write([]byte(into + rows + "\\.\n")); err != nil {
		t.Fatal(err)
	}
	frame, err := file.Append(enc)
	if err != nil {
		t.Fatal(err)
	}
	var sum rowsum.Sum
	sum.Add([]byte("one\n"))
	sum.Add([]byte("two\n"))
	hash := sha256.Sum256([]byte(rows))
	table := manifest.Table{Name: "t", Columns: []string{"t"}, Rows: 2, Bytes: 8, Checksum: sum.Checksum(), Segments: []manifest.Segment{{
		Rows: 2, Bytes: 8, Hash: hex.EncodeToString(hash[:]), Pieces: []manifest.Piece{{Frame: frame, Offset: int64(len(into)), Bytes: 8, Rows: 2}},
	}}}
	entry := manifest.Schema{Schema: "a", Tenant: "a", Tables: 1, Rows: 2, Bytes: 8, Timestamp: w.ID(), Type: manifest.Full}
	spoil(&table, &entry)
	file.AddTable(table)
	if _, err := file.Close(enc, datafile.Header{Backup: w.ID(), Schema: "a", Tenant: "a"}); err != nil {
		t.Fatal(err)
	}
	stored, err := out.Commit()
	if err != nil {
		t.Fatal(err)
	}
	entry.Filepath, entry.Size, entry.Hash = stored.Key, stored.Size, stored.Hash
	if err := w.Finish(t.Context(), &manifest.Manifest{Schemas: []manifest.Schema{entry}}); err != nil {
		t.Fatal(err)
	}
}

// Files of the original system have no index: hash, size, compression, and that
// pg_dump came to its end.
func TestLegacy(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, sub := range []string{"data", "manifests"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	const head = "--\n-- PostgreSQL database dump\n--\n\n-- Dumped by pg_dump version 15.18\n\nCREATE TABLE a.t (x int);\nCOPY a.t (x) FROM stdin;\n"
	const end = "\\.\n--\n-- PostgreSQL database dump complete\n--\n"
	_, _ = z.Write([]byte(head + strings.Repeat("1\n", 1000) + end)) // to memory
	_ = z.Close()
	write := func(content []byte) {
		hash := sha256.Sum256(content)
		m := map[string]any{
			"timestamp": "2024-05-06T07:08:09", "backup_type": "full", "retention_days": 7, "compressed": true, "include_media": false,
			"schemas": []any{map[string]any{
				"schema": "a", "tenant": "a", "filename": "a.sql.gz", "filepath": "/app/backups/data/a.sql.gz", "size": len(content),
				"hash": hex.EncodeToString(hash[:]), "media_backup": nil, "timestamp": "20240506_070809", "type": "full",
			}},
		}
		doc, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.WriteFile(filepath.Join(dir, "data", "a.sql.gz"), content, 0o600),
			os.WriteFile(filepath.Join(dir, "manifests", "backup_manifest_20240506_070809.json"), doc, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	r := open(t, dir)
	write(b.Bytes())
	if report, _ := check(t, r); !report.OK || report.Legacy != 1 || report.Unhashed != 0 || report.Files != 1 || report.Rows != 1000 || report.Tables != 1 {
		t.Errorf("report %s", text(t, report))
	}
	for want, content := range map[string][]byte{ // as they were when they were hashed
		"the compressed file ends in the middle":       b.Bytes()[:b.Len()-3],
		"database dump complete":                       []byte(head + "1\n\\.\n"),
		"the script is cut":                            []byte(head + "1\n"),
		"nothing in it says that pg_dump wrote it":     []byte("SELECT 1;\n"),
		"it is an archive of pg_dump in custom format": []byte("PGDMP\x01\x0e"),
	} {
		write(content)
		if report, _ := check(t, r); report.OK || len(report.Problems) != 1 || !strings.Contains(report.Problems[0].Error, want) {
			t.Errorf("%s: report %s", want, text(t, report))
		}
	}
	write([]byte(head + "2\n" + end))
	for want, content := range map[string]string{"other contents": head + "3\n" + end, "another size": head + end} {
		if err := os.WriteFile(filepath.Join(dir, "data", "a.sql.gz"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if report, _ := check(t, r); report.OK || len(report.Problems) != 1 || !strings.Contains(report.Problems[0].Error, want) {
			t.Errorf("%s: report %s", want, text(t, report))
		}
	}
}

// Dumps without a manifest are read, and those that are known to be cut named.
func TestBare(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const whole = "--\n-- PostgreSQL database dump\n--\n\n-- Dumped by pg_dump version 15.18\n\nCREATE TABLE a.t (x int);\n--\n-- PostgreSQL database dump complete\n--\n"
	for name, content := range map[string]string{
		"data/a_20240506_070809.sql": whole, "data/b_20240506_070809.sql": strings.Replace(whole, "a.t", "b.t", 1)[:120], "media/a_media_20240506_070809.tar.gz": "",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700), os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	report, _ := check(t, open(t, dir))
	if report.OK || report.Legacy != 1 || report.Unhashed != 1 || len(report.Problems) != 2 ||
		!strings.Contains(report.Problems[0].Error, "the dump is cut") || !strings.Contains(report.Problems[1].Error, "the file is empty") {
		t.Errorf("report %s", text(t, report))
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	r := open(t, t.TempDir())
	writeOne(t, r, func(*manifest.Table, *manifest.Schema) {})
	backups, err := r.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	<-ctx.Done()
	if _, err := verify.Run(ctx, verify.Options{Repo: r, Backups: backups, Progress: &counter{}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a run that was cancelled gave %v", err)
	}
}
