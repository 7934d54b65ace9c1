package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/storage"
	"github.com/tenantkeep/tenantkeep/internal/storage/local"
	"github.com/tenantkeep/tenantkeep/internal/storage/storagetest"
)

var start = time.Date(2026, 11, 23, 0, 0, 1, 0, time.UTC)

func options() Options {
	return Options{Now: func() time.Time { return start }, LockWait: -1}
}

func newStore(t *testing.T, dir string) *local.Store {
	t.Helper()
	s, err := local.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// contents of the schemas of a test backup.
func contents() map[string][]byte {
	return map[string][]byte{
		"public": []byte("core"),
		"acme":   bytes.Repeat([]byte("acme "), 1000),
		"Acme":   bytes.Repeat([]byte("Acme "), 2000), // only the case differs
	}
}

func entry(schema, tenant string, s Stored) manifest.Schema {
	return manifest.Schema{
		Schema: schema, Tenant: tenant, Filename: filepath.Base(s.Key), Filepath: s.Key,
		Size: s.Size, Hash: s.Hash, Type: manifest.Full,
	}
}

// store writes one data file.
func store(ctx context.Context, w *BackupWriter, schema string, content []byte) (s Stored, err error) {
	d, err := w.CreateData(ctx, schema, schema, manifest.Full, ".sql")
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, d.Abort()) }()
	for part := range slices.Chunk(content, 3000) {
		if _, err := d.Write(part); err != nil {
			return s, err
		}
	}
	return d.Commit()
}

// back makes one backup from begin to end.
func back(ctx context.Context, r *Repo) (id string, err error) {
	w, err := r.NewBackup(ctx, manifest.Full)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, w.Abort(ctx)) }()
	m := new(manifest.Manifest)
	for _, schema := range []string{"public", "acme", "Acme"} {
		s, err := store(ctx, w, schema, contents()[schema])
		if err != nil {
			return w.ID(), err
		}
		m.Schemas = append(m.Schemas, entry(schema, schema, s))
	}
	return w.ID(), w.Finish(ctx, m)
}

func mustBack(t *testing.T, r *Repo) string {
	t.Helper()
	id, err := back(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// wantWhole checks that each listed backup can be read and holds the test
// contents, and returns the ids.
func wantWhole(t *testing.T, r *Repo) []string {
	t.Helper()
	backups, err := r.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ids := []string{}
	for _, b := range backups {
		ids = append(ids, b.ID)
		if b.Err != nil {
			t.Errorf("backup %s is listed and cannot be read: %v", b.ID, b.Err)
			continue
		}
		if len(b.Manifest.Schemas) != len(contents()) || b.Manifest.ID != b.ID {
			t.Errorf("backup %s is listed with %+v", b.ID, b.Manifest)
		}
		for _, s := range b.Manifest.Schemas {
			if err := r.CheckData(t.Context(), b.Manifest, s, nil); err != nil {
				t.Errorf("backup %s: %v", b.ID, err)
				continue
			}
			if got := storagetest.Get(t, r.storage, s.Filepath); !bytes.Equal(got, contents()[s.Schema]) {
				t.Errorf("backup %s: schema %s holds other bytes", b.ID, s.Schema)
			}
		}
	}
	return ids
}

func TestBackup(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "backups")
	r := Open(newStore(t, dir), options())
	if ids := wantWhole(t, r); len(ids) > 0 {
		t.Errorf("a repository that does not exist lists %v", ids)
	}
	if _, err := r.Load(t.Context(), "20261123_000001"); !errors.Is(err, ErrNoBackup) {
		t.Errorf("load from nowhere: %v", err)
	}
	id := mustBack(t, r)
	if id != "20261123_000001" {
		t.Errorf("id %s", id)
	}
	var names []string
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			name, err = filepath.Rel(dir, name)
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"data/%41cme_full_20261123_000001.sql",
		"data/acme_full_20261123_000001.sql",
		"data/public_full_20261123_000001.sql",
		"locks/repository.lock",
		"manifests/backup_manifest_20261123_000001.json",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	for _, name := range []string{id, "backup_manifest_" + id + ".json", "manifests/backup_manifest_" + id + ".json"} {
		b, err := r.Load(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		m := b.Manifest
		if b.ID != id || m.ID != id || m.Format != manifest.Format || m.BackupType != manifest.Full ||
			!m.Timestamp.Time.Equal(start) || !m.Finished.Equal(start) {
			t.Errorf("%s is %+v", name, m)
		}
		sum := sha256.Sum256(contents()["acme"])
		if m.Schemas[1].Hash != "sha256:"+hex.EncodeToString(sum[:]) || m.Schemas[1].Size != 5000 {
			t.Errorf("entry %+v", m.Schemas[1])
		}
	}
	for range 3 {
		mustBack(t, r)
	}
	if diff := cmp.Diff([]string{id + "_4", id + "_3", id + "_2", id}, wantWhole(t, r)); diff != "" {
		t.Errorf("backups of one second (-want +got):\n%s", diff)
	}
	if orphans, err := r.Orphans(t.Context()); err != nil || len(orphans) > 0 {
		t.Errorf("orphans %v, %v", orphans, err)
	}
}

// TestOrder: the mark of a run is durable before its first file, what a manifest names is durable before the manifest is written,
// under its name too, and Finish returns after the manifest is durable.
func TestOrder(t *testing.T) {
	t.Parallel()
	var calls []string
	note := func(c storagetest.Call) error {
		if c.Op != storagetest.Write && c.Op != storagetest.Open && c.Op != storagetest.List {
			calls = append(calls, strings.TrimSpace(fmt.Sprint(c.Op, " ", c.Key)))
		}
		return nil
	}
	mustBack(t, Open(&storagetest.Faulty{Storage: newStore(t, t.TempDir()), Before: note}, options()))
	want := []string{
		"create runs/20261123_000001.json", "commit runs/20261123_000001.json",
		"sync",
		"create data/public_full_20261123_000001.sql", "commit data/public_full_20261123_000001.sql",
		"create data/acme_full_20261123_000001.sql", "commit data/acme_full_20261123_000001.sql",
		"create data/%41cme_full_20261123_000001.sql", "commit data/%41cme_full_20261123_000001.sql",
		"sync",
		"create manifests/backup_manifest_20261123_000001.json", "commit manifests/backup_manifest_20261123_000001.json",
		"sync",
		"delete runs/20261123_000001.json",
	}
	if diff := cmp.Diff(want, calls); diff != "" {
		t.Errorf("operations (-want +got):\n%s", diff)
	}
}

func TestAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const runs = 8
	var wg sync.WaitGroup
	ids := make([]string, runs)
	for i := range runs {
		r := Open(newStore(t, dir), options()) // each as if in a process of its own
		wg.Go(func() {
			var err error
			if ids[i], err = back(t.Context(), r); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got := wantWhole(t, Open(newStore(t, dir), options()))
	slices.Sort(ids)
	slices.Sort(got)
	if diff := cmp.Diff(ids, got); diff != "" || len(slices.Compact(ids)) != runs {
		t.Errorf("ids (-given +listed):\n%s", diff)
	}
}

// TestFaults lets each single operation of a backup go wrong in each way, and
// looks at what is left.
func TestFaults(t *testing.T) {
	t.Parallel()
	counter := &storagetest.Faulty{Storage: newStore(t, t.TempDir())}
	mustBack(t, Open(counter, options()))
	t.Logf("a backup is %d operations", counter.All())

	run := func(name string, f *storagetest.Faulty) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			disk := newStore(t, dir)
			sound := Open(disk, options())
			before := mustBack(t, sound)
			f.Storage = disk
			id, err := back(t.Context(), Open(f, options()))
			ids := wantWhole(t, sound)
			if !slices.Contains(ids, before) {
				t.Errorf("the earlier backup is gone: %v", ids)
			}
			// A backup that was said to be done is there, and one that was not
			// is not, unless it is complete and the run says so.
			if there := slices.Contains(ids, id); there != (err == nil || strings.Contains(err.Error(), "is complete")) {
				t.Errorf("the run said %v and lists %v", err, ids)
			}
			if err == nil && !slices.Contains(ids, id) {
				t.Errorf("a backup that was said to be done is not listed: %v", ids)
			}
			if _, err := sound.RemoveRemains(t.Context()); err != nil {
				t.Errorf("removing remains: %v", err)
			}
			next := mustBack(t, sound)
			ids = wantWhole(t, sound)
			if !slices.Contains(ids, next) || !slices.Contains(ids, before) {
				t.Errorf("after the next run: %v", ids)
			}
			for _, pattern := range []string{"*/.tmp-*", "runs/*"} {
				if left, err := filepath.Glob(filepath.Join(dir, pattern)); err != nil || len(left) > 0 {
					t.Errorf("left behind: %v, %v", left, err)
				}
			}
			if orphans, err := sound.Orphans(t.Context()); err != nil || len(orphans) > 0 {
				t.Errorf("orphans %v, %v", orphans, err)
			}
		})
	}
	for _, op := range []storagetest.Op{
		storagetest.Create, storagetest.Write, storagetest.Commit, storagetest.Sync, storagetest.Delete, storagetest.Open,
	} {
		for n := 1; n <= counter.Count(op); n++ {
			run(fmt.Sprintf("%s %d fails", op, n), &storagetest.Faulty{Before: storagetest.FailAt(op, n)})
			run(fmt.Sprintf("%s %d loses its answer", op, n), &storagetest.Faulty{After: storagetest.FailAt(op, n)})
		}
	}
}

// TestCrashes ends the process, and the power, at each operation of the removal
// of remains and of a backup after it.
func TestCrashes(t *testing.T) {
	t.Parallel()
	whole := t.TempDir()
	disk := newStore(t, whole)
	before := mustBack(t, Open(disk, options()))
	// A run that died before, when it had written one file and half another.
	if _, err := back(t.Context(), Open(&storagetest.Crash{Storage: disk, At: 14}, options())); !errors.Is(err, storagetest.ErrInjected) {
		t.Fatalf("the run before: %v", err)
	}
	for _, pattern := range []string{"*_2.sql", ".tmp-*"} {
		if left, err := filepath.Glob(filepath.Join(whole, "data", pattern)); err != nil || len(left) == 0 {
			t.Fatalf("the run before left %v, %v", left, err)
		}
	}
	var dir, id string
	storagetest.ForEveryOperation(t, storagetest.CrashTest{
		Open: func(t *testing.T) storage.Storage {
			dir, id = filepath.Join(t.TempDir(), "copy"), ""
			if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			return newStore(t, dir)
		},
		Run: func(s storage.Storage) (err error) {
			r := Open(s, options())
			if _, err = r.RemoveRemains(t.Context()); err == nil {
				id, err = back(t.Context(), r)
			}
			return err
		},
		Check: func(t *testing.T, s storage.Storage, err error) {
			r := Open(s, options())
			ids := wantWhole(t, r)
			if !slices.Contains(ids, before) {
				t.Errorf("the earlier backup is gone: %v", ids)
			}
			if err == nil && !slices.Contains(ids, id) {
				t.Errorf("a backup that was said to be done is not listed: %v", ids)
			}
			if _, err := r.RemoveRemains(t.Context()); err != nil {
				t.Errorf("removing remains: %v", err)
			}
			if orphans, err := r.Orphans(t.Context()); err != nil || len(orphans) > 0 {
				t.Errorf("files of which nobody knows what they are: %v, %v", orphans, err)
			}
			next := mustBack(t, r)
			if ids := wantWhole(t, r); !slices.Contains(ids, next) || !slices.Contains(ids, before) {
				t.Errorf("after the next run: %v", ids)
			}
			for _, pattern := range []string{"*/.tmp-*", "runs/*"} {
				if left, err := filepath.Glob(filepath.Join(dir, pattern)); err != nil || len(left) > 0 {
					t.Errorf("left behind: %v, %v", left, err)
				}
			}
		},
	})
}

func TestFailedRunLeavesNothing(t *testing.T) {
	t.Parallel()
	disk := newStore(t, t.TempDir())
	_, err := back(t.Context(), Open(&storagetest.Faulty{Storage: disk, Before: storagetest.FailAt(storagetest.Write, 4)}, options()))
	if !errors.Is(err, storagetest.ErrInjected) {
		t.Fatalf("error %v", err)
	}
	if keys := storagetest.Keys(t, disk, ""); len(keys) > 0 {
		t.Errorf("left: %v", keys)
	}
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	disk := newStore(t, t.TempDir())
	full := &storagetest.Full{Storage: disk}
	r := Open(full, options())
	for room := int64(0); ; room += 500 {
		full.Room = room
		_, err := back(t.Context(), r)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("with room for %d bytes: %v", room, err)
		}
		if keys := storagetest.Keys(t, disk, ""); len(keys) > 0 {
			t.Fatalf("with room for %d bytes there is left: %v", room, keys)
		}
	}
	if ids := wantWhole(t, r); len(ids) != 1 {
		t.Errorf("listed: %v", ids)
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 4; n++ { // the mark, three data files, and the manifest comes last
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		disk := newStore(t, t.TempDir())
		_, err := back(ctx, Open(&storagetest.Faulty{Storage: disk, Before: storagetest.CallAt(storagetest.Commit, n, cancel)}, options()))
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled at commit %d: %v", n, err)
		}
		if keys := storagetest.Keys(t, disk, ""); len(keys) > 0 {
			t.Errorf("cancelled at commit %d, left: %v", n, keys)
		}
	}
	// Once the manifest is there, the backup is done.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	disk := newStore(t, t.TempDir())
	r := Open(&storagetest.Faulty{Storage: disk, Before: storagetest.CallAt(storagetest.Sync, 3, cancel)}, options())
	if id, err := back(ctx, r); err != nil || !slices.Contains(wantWhole(t, Open(disk, options())), id) {
		t.Errorf("cancelled after the manifest: %v", err)
	}
}

func TestFinishRefuses(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for name, c := range map[string]struct {
		change func(t *testing.T, w *BackupWriter, m *manifest.Manifest)
		want   string
	}{
		"other hash": {func(_ *testing.T, _ *BackupWriter, m *manifest.Manifest) {
			m.Schemas[0].Hash = "sha256:" + strings.Repeat("0", 64)
		}, "has the hash"},
		"other size": {func(_ *testing.T, _ *BackupWriter, m *manifest.Manifest) { m.Schemas[0].Size++ }, "has 4 bytes, not 5"},
		"not written": {func(_ *testing.T, _ *BackupWriter, m *manifest.Manifest) {
			m.Schemas[0].Filepath, m.Schemas[0].Filename = "data/x.sql", ""
		}, "was not written"},
		"absent reference": {func(_ *testing.T, _ *BackupWriter, m *manifest.Manifest) {
			m.Schemas[0].References = []string{"data/x.sql"}
		}, "not in the repository"},
		"outside": {func(_ *testing.T, _ *BackupWriter, m *manifest.Manifest) {
			m.Schemas[0].Filepath, m.Schemas[0].Filename = "../x.sql", ""
		}, "outside the repository"},
		"open file": {func(t *testing.T, w *BackupWriter, _ *manifest.Manifest) {
			d, err := w.CreateData(ctx, "late", "", manifest.Full, ".sql.zst")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = d.Abort() })
		}, "still being written"},
	} {
		t.Run(name, func(t *testing.T) {
			disk := newStore(t, t.TempDir())
			w, err := Open(disk, options()).NewBackup(ctx, manifest.Full)
			if err != nil {
				t.Fatal(err)
			}
			s, err := store(ctx, w, "public", []byte("core"))
			if err != nil {
				t.Fatal(err)
			}
			m := &manifest.Manifest{Schemas: []manifest.Schema{entry("public", "core", s)}}
			c.change(t, w, m)
			if err := w.Finish(ctx, m); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
			if err := w.Abort(ctx); err != nil {
				t.Error(err)
			}
			if keys := storagetest.Keys(t, disk, ""); len(keys) > 0 {
				t.Errorf("left: %v", keys)
			}
		})
	}
}

func TestAfterTheEnd(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	w, err := Open(newStore(t, t.TempDir()), options()).NewBackup(ctx, manifest.Full)
	if err != nil {
		t.Fatal(err)
	}
	d, err := w.CreateData(ctx, "late", "late", manifest.Full, ".sql")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.Abort(ctx); err != nil {
			t.Error(err)
		}
	}
	if _, err := d.Commit(); err == nil || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("commit: %v", err)
	}
	if err := d.Abort(); err != nil {
		t.Error(err)
	}
	if _, err := w.CreateData(ctx, "a", "a", manifest.Full, ".sql"); err == nil {
		t.Error("a data file begins after the end")
	}
	if err := w.Finish(ctx, new(manifest.Manifest)); err == nil {
		t.Error("an aborted backup can be finished")
	}
}

// An incremental names files of earlier backups.
func TestEarlierFiles(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	r := Open(newStore(t, t.TempDir()), options())
	full, err := r.Load(ctx, mustBack(t, r))
	if err != nil {
		t.Fatal(err)
	}
	w, err := r.NewBackup(ctx, manifest.Incremental)
	if err != nil {
		t.Fatal(err)
	}
	m := &manifest.Manifest{Parent: full.ID, Schemas: full.Manifest.Schemas}
	m.Schemas[0].References = []string{m.Schemas[1].Filepath}
	if err := w.Finish(ctx, m); err != nil {
		t.Fatal(err)
	}
	backups, err := r.List(ctx)
	if err != nil || len(backups) != 2 || backups[0].ID != w.ID() || backups[0].Manifest.BackupType != manifest.Incremental || backups[1].ID != full.ID {
		t.Errorf("backups %+v, %v", backups, err)
	}
}

func TestBrokenManifest(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	dir := t.TempDir()
	disk := newStore(t, dir)
	r := Open(disk, options())
	good := mustBack(t, r)
	storagetest.Put(t, disk, "manifests/backup_manifest_20301231_000000.json", []byte(`{"format": 7}`))
	storagetest.Put(t, disk, "manifests/backup_manifest_20200101_000000.json", []byte(`{"timesta`))
	storagetest.Put(t, disk, "manifests/notes.txt", []byte("not a manifest"))
	if err := os.Symlink("backup_manifest_"+good+".json", filepath.Join(dir, "manifests", "latest_manifest.json")); err != nil {
		t.Fatal(err)
	}
	backups, err := r.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, b := range backups {
		got = append(got, fmt.Sprint(b.ID, " ", b.Manifest != nil, " ", b.Err))
	}
	want := []string{
		"20301231_000000 false manifest format 7 is newer than this version of tenantkeep reads (1)",
		good + " true <nil>",
		"20200101_000000 false manifest is cut short after 9 bytes: unexpected end of JSON input",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("list (-want +got):\n%s", diff)
	}
	if _, err := r.Load(ctx, "20301231_000000"); err == nil || !strings.Contains(err.Error(), "format 7") {
		t.Errorf("load: %v", err)
	}
	if b, err := r.Load(ctx, "latest_manifest.json"); err != nil || b.Manifest.ID != good {
		t.Errorf("load through the link: %+v, %v", b, err)
	}
	if _, err := r.Load(ctx, "../x"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("load from outside: %v", err)
	}
	if _, err := r.Orphans(ctx); err == nil || !strings.Contains(err.Error(), "cannot be read") {
		t.Errorf("orphans beside a broken manifest: %v", err)
	}
	// What nobody knows to be needless stays, and its mark with it.
	storagetest.Put(t, disk, "runs/20250101_000000.json", []byte("{}"))
	storagetest.Put(t, disk, "data/a_full_20250101_000000.sql", []byte("x"))
	if removed, err := r.RemoveRemains(ctx); err != nil || len(removed) > 0 {
		t.Errorf("remains beside a broken manifest: %v, %v", removed, err)
	}
}

func TestOriginalRepository(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	disk := newStore(t, t.TempDir())
	r := Open(disk, options())
	content := []byte("-- PostgreSQL database dump\n")
	sum := sha256.Sum256(content)
	storagetest.Put(t, disk, "data/Customer A_full_20241215_143022.sql", content)
	storagetest.Put(t, disk, "data/old.sql", content)
	storagetest.Put(t, disk, "media/a_media_20241215_143022/logo.png", nil) // media as a folder
	storagetest.Put(t, disk, "media/b_media_20241215_143022/logo.png", nil)
	storagetest.Put(t, disk, "manifests/backup_manifest_20241215_143023.json", fmt.Appendf(nil, `{
		"timestamp": "2024-12-15T14:30:22.123456", "backup_type": "full", "schemas": [{
			"schema": "Customer A", "tenant": "Customer A", "filename": "Customer A_full_20241215_143022.sql",
			"filepath": "/app/backups/data/Customer A_full_20241215_143022.sql", "size": %d, "hash": "%x",
			"media_backup": "/app/backups/media/a_media_20241215_143022", "timestamp": "20241215_143022", "type": "full"
		}], "retention_days": 30, "include_media": true, "compressed": false}`, len(content), sum))
	b, err := r.Load(ctx, "20241215_143023")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.CheckData(ctx, b.Manifest, b.Manifest.Schemas[0], nil); err != nil {
		t.Error(err)
	}
	orphans, err := r.Orphans(ctx)
	if err != nil || len(orphans) != 2 || orphans[0].Key != "data/old.sql" || orphans[1].Key != "media/b_media_20241215_143022/logo.png" {
		t.Errorf("orphans %v, %v", orphans, err)
	}
}

func TestDamage(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	dir := t.TempDir()
	disk := newStore(t, dir)
	b, err := Open(disk, options()).Load(ctx, mustBack(t, Open(disk, options())))
	if err != nil {
		t.Fatal(err)
	}
	m, s := b.Manifest, b.Manifest.Schemas[1]
	var read int64
	if err := Open(disk, options()).CheckData(ctx, m, s, func(n int64) { read += n }); err != nil || read != s.Size {
		t.Errorf("sound file: %v after %d bytes", err, read)
	}
	for name, c := range map[string]struct {
		damage storagetest.Damaged
		want   error
	}{
		"first byte":  {storagetest.Damaged{Flip: 0}, ErrHash},
		"last byte":   {storagetest.Damaged{Flip: s.Size - 1}, ErrHash},
		"cut":         {storagetest.Damaged{Flip: -1, Cut: 1}, ErrSize},
		"empty":       {storagetest.Damaged{Flip: -1, Cut: s.Size}, ErrSize},
		"shrinks":     {storagetest.Damaged{Flip: -1, Short: 7}, ErrSize},
		"reads empty": {storagetest.Damaged{Flip: -1, Short: s.Size}, ErrSize},
	} {
		c.damage.Storage, c.damage.Key = disk, s.Filepath
		err := Open(&c.damage, options()).CheckData(ctx, m, s, nil)
		wrong, ok := errors.AsType[*DataError](err)
		if !ok || !errors.Is(err, c.want) || wrong.Schema != "acme" || wrong.Key != s.Filepath || wrong.Got == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	s.Size++
	if _, err := Open(disk, options()).OpenData(ctx, m, s); !errors.Is(err, ErrSize) {
		t.Errorf("another size: %v", err)
	}
	s.Size--
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	if err := Open(disk, options()).CheckData(cancelled, m, s, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if err := disk.Delete(ctx, s.Filepath); err != nil {
		t.Fatal(err)
	}
	err = Open(disk, options()).CheckData(ctx, m, s, nil)
	if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), `of schema "acme": the file is missing`) {
		t.Errorf("missing: %v", err)
	}
	if o, err := Open(disk, options()).OpenData(ctx, m, m.Schemas[0]); err != nil {
		t.Error(err)
	} else if got, err := io.ReadAll(io.NewSectionReader(o, 0, o.Size())); err != nil || string(got) != "core" || o.Close() != nil {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestLock(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	dir := t.TempDir()
	a, b := Open(newStore(t, dir), options()), Open(newStore(t, dir), options())
	w, err := a.NewBackup(ctx, manifest.Full)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.CreateData(ctx, "acme", "acme", manifest.Full, ".sql")
	if err != nil {
		t.Fatal(err)
	}
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("repository %s is in use by full backup (process %d on %s, since 2026-11-23 00:00:01 UTC)", dir, os.Getpid(), host)
	_, _, err = b.Lock(ctx, Exclusive, "cleanup")
	if err == nil || err.Error() != want {
		t.Errorf("cleanup beside a backup: %v\nwant %s", err, want)
	}
	// Remains of the dead cannot be told from files of the living.
	removed, err := b.RemoveRemains(ctx)
	if _, ok := errors.AsType[*LockedError](err); !ok || len(removed) > 0 {
		t.Errorf("removing remains beside a backup: %v, %v", removed, err)
	}
	shared, unlockShared, err := b.Lock(ctx, Shared, "restore")
	if err != nil {
		t.Fatalf("a restore beside a backup: %v", err)
	}
	if err := errors.Join(w.Abort(ctx), unlockShared(), unlockShared()); err != nil {
		t.Error(err)
	}
	if shared.Err() == nil {
		t.Error("the context outlives the lock")
	}

	_, unlock, err := b.Lock(ctx, Exclusive, "cleanup")
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.NewBackup(ctx, manifest.Full)
	locked, ok := errors.AsType[*LockedError](err)
	if !ok || len(locked.Holders) != 1 || locked.Holders[0].Purpose != "cleanup" || locked.Holders[0].Mode != Exclusive {
		t.Errorf("a backup beside a cleanup: %v", err)
	}

	// Who waits gets it when it is free.
	patient := Open(newStore(t, dir), Options{LockWait: time.Minute})
	got := make(chan error)
	go func() {
		_, unlock, err := patient.Lock(ctx, Shared, "backup")
		if err == nil {
			err = unlock()
		}
		got <- err
	}()
	if err := unlock(); err != nil {
		t.Error(err)
	}
	if err := <-got; err != nil {
		t.Errorf("waiting: %v", err)
	}
	if backups, err := b.List(ctx); err != nil || len(backups) > 0 {
		t.Errorf("listed %v, %v", backups, err)
	}
	_, unlock, err = b.Lock(ctx, Exclusive, "cleanup")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	short, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	_, _, err = patient.Lock(short, Shared, "backup")
	if _, ok := errors.AsType[*LockedError](err); !ok || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting cut short: %v", err)
	}
}

// losing is a storage whose locks can be lost.
type losing struct {
	storage.Storage
	lost chan struct{}
}

func (l *losing) Lock(context.Context, string, bool, []byte) (storage.Lock, error) { return l, nil }
func (l *losing) Lost() <-chan struct{}                                            { return l.lost }
func (l *losing) Unlock() error                                                    { return nil }

func TestLockLost(t *testing.T) {
	t.Parallel()
	disk := newStore(t, t.TempDir())
	s := &losing{Storage: disk, lost: make(chan struct{})}
	w, err := Open(s, options()).NewBackup(t.Context(), manifest.Full)
	if err != nil {
		t.Fatal(err)
	}
	close(s.lost)
	<-w.locked.Done()
	if _, err := w.CreateData(t.Context(), "a", "a", manifest.Full, ".sql"); !errors.Is(err, ErrLockLost) {
		t.Errorf("create: %v", err)
	}
	if err := w.Finish(t.Context(), new(manifest.Manifest)); !errors.Is(err, ErrLockLost) {
		t.Errorf("finish: %v", err)
	}
	if err := w.Abort(t.Context()); err != nil {
		t.Error(err)
	}
	if keys := storagetest.Keys(t, disk, ""); len(keys) > 0 {
		t.Errorf("left: %v", keys)
	}
}

func TestNoLocks(t *testing.T) {
	t.Parallel()
	s := struct{ storage.Storage }{newStore(t, t.TempDir())}
	if _, err := Open(s, options()).NewBackup(t.Context(), manifest.Full); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("error %v", err)
	}
}
