package repo

import (
	"context"
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

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/storage"
	"github.com/tenantkeep/tenantkeep/internal/storage/storagetest"
)

// borrow makes a backup whose schema acme is the file of an earlier one.
func borrow(t *testing.T, r *Repo, from string) string {
	t.Helper()
	earlier, err := r.Load(t.Context(), from)
	if err != nil {
		t.Fatal(err)
	}
	w, err := r.NewBackup(t.Context(), manifest.Incremental)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort(t.Context())
	m := new(manifest.Manifest)
	for _, e := range earlier.Manifest.Schemas {
		if e.Schema != "acme" {
			s, err := store(t.Context(), w, e.Schema, contents()[e.Schema])
			if err != nil {
				t.Fatal(err)
			}
			e = entry(e.Schema, e.Tenant, s)
		}
		m.Schemas = append(m.Schemas, e)
	}
	m.Schemas[0].References = []string{earlier.Manifest.Schemas[0].Filepath}
	if err := w.Finish(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	return w.ID()
}

func clean(ctx context.Context, r *Repo, ids ...string) (removed []storage.Info, err error) {
	err = r.Clean(ctx, func(ctx context.Context, c *Cleaning) error {
		removed, err = c.Remove(ctx, chosen(c, ids))
		return err
	})
	return removed, err
}

// chosen are the backups with these ids that are there.
func chosen(c *Cleaning, ids []string) []Backup {
	return slices.DeleteFunc(c.Backups(), func(b Backup) bool { return !slices.Contains(ids, b.ID) })
}

func keys(t *testing.T, s storage.Storage, prefix string) []string {
	t.Helper()
	var list []string
	err := s.List(t.Context(), prefix, func(i storage.Info) error {
		list = append(list, i.Key)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// undigested is the digest of a manifest: without it, the manifest may be changed.
var undigested = regexp.MustCompile(`,\n  "digest": "[^"]*"`)

// What a backup that stays refers to stays, though the manifest goes.
func TestRemove(t *testing.T) {
	t.Parallel()
	s := newStore(t, t.TempDir())
	r := Open(s, options())
	a := mustBack(t, r)
	b := borrow(t, r, a)
	c := mustBack(t, r)
	removed, err := clean(t.Context(), r, a, c)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{b}, wantWhole(t, r)); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
	var size int64
	var names []string
	for _, i := range removed {
		size += i.Size
		names = append(names, i.Key)
	}
	want := []string{manifestKey(c), manifestKey(a), "data/%41cme_full_" + a + ".sql"}
	if diff := cmp.Diff(want, names[:3]); diff != "" || len(names) != 6 || size < 25_000 {
		t.Errorf("removed %v, %d bytes", names, size)
	}
	left := keys(t, s, dataPrefix)
	for _, key := range []string{"data/acme_full_" + a + ".sql", "data/public_full_" + a + ".sql"} {
		if !slices.Contains(left, key) {
			t.Errorf("%s is gone, which %s needs", key, b)
		}
	}
	if removed, err := clean(t.Context(), r, b); err != nil || len(removed) != 5 || len(keys(t, s, "")) > 0 {
		t.Errorf("the last one: removed %v, error %v, left %v", removed, err, keys(t, s, ""))
	}
}

// Each single operation of a cleanup goes wrong in each way; what is listed then
// is whole, and the next cleanup ends it.
func TestRemoveFaults(t *testing.T) {
	t.Parallel()
	prepare := func(t *testing.T) (disk storage.Storage, ids [4]string) {
		disk = newStore(t, t.TempDir())
		r := Open(disk, options())
		ids[0] = mustBack(t, r)
		ids[1] = borrow(t, r, ids[0])
		ids[2] = borrow(t, r, ids[1])
		ids[3] = mustBack(t, r)
		return disk, ids
	}
	disk, ids := prepare(t)
	counter := &storagetest.Faulty{Storage: disk}
	if _, err := clean(t.Context(), Open(counter, options()), ids[:2]...); err != nil {
		t.Fatal(err)
	}
	run := func(name string, f *storagetest.Faulty) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			disk, ids := prepare(t)
			f.Storage = disk
			_, err := clean(t.Context(), Open(f, options()), ids[:2]...)
			if err == nil {
				t.Error("no error")
			}
			sound := Open(disk, options())
			left := wantWhole(t, sound)
			if !slices.Contains(left, ids[2]) || !slices.Contains(left, ids[3]) {
				t.Errorf("left: %v", left)
			}
			if _, err := clean(t.Context(), sound, ids[:2]...); err != nil {
				t.Fatal(err)
			}
			err = sound.Clean(t.Context(), func(ctx context.Context, c *Cleaning) error {
				orphans, err := sound.OldOrphans(ctx, c.Backups(), -time.Hour*1e5)
				for _, o := range orphans {
					if !o.Removal {
						t.Errorf("nothing tells that %s was to go", o.Key)
					}
				}
				if err == nil {
					_, err = c.RemoveOrphans(ctx, orphans, -time.Hour*1e5)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{ids[3], ids[2]}, wantWhole(t, sound)); diff != "" {
				t.Errorf("after the next cleanup:\n%s", diff)
			}
			if n := len(keys(t, disk, dataPrefix)); n != 7 { // three each, of which one is borrowed, and two that are referred to
				t.Errorf("%d data files are left: %v", n, keys(t, disk, dataPrefix))
			}
			if notes := keys(t, disk, removalPrefix); len(notes) > 0 {
				t.Errorf("left: %v", notes)
			}
		})
	}
	for n := 1; n <= counter.All(); n++ {
		run(fmt.Sprintf("killed before operation %d", n), &storagetest.Faulty{Before: storagetest.DieAt(n)})
		run(fmt.Sprintf("killed after operation %d", n), &storagetest.Faulty{After: storagetest.DieAt(n)})
	}
	for _, op := range []storagetest.Op{storagetest.Sync, storagetest.Delete, storagetest.List} {
		for n := 1; n <= counter.Count(op); n++ {
			run(fmt.Sprintf("%s %d fails", op, n), &storagetest.Faulty{Before: storagetest.FailAt(op, n)})
		}
	}
}

// TestRemoveCrashes ends the process, and the power, at each operation of a cleanup.
// What is left to remove is known for what it is, and the next cleanup removes it.
func TestRemoveCrashes(t *testing.T) {
	t.Parallel()
	whole := t.TempDir()
	r := Open(newStore(t, whole), options())
	a := mustBack(t, r)
	b := borrow(t, r, a)
	c := borrow(t, r, b)
	d := mustBack(t, r)
	for _, id := range []string{b, c} {
		if err := r.Confirm(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	const age = -time.Hour * 1e5
	run := func(s storage.Storage) error {
		r := Open(s, options())
		return r.Clean(t.Context(), func(ctx context.Context, clean *Cleaning) error {
			_, err := clean.Remove(ctx, chosen(clean, []string{a, b}))
			if err != nil {
				return err
			}
			orphans, err := r.OldOrphans(ctx, clean.Backups(), age)
			if err == nil {
				_, err = clean.RemoveOrphans(ctx, slices.DeleteFunc(orphans, func(o Orphan) bool { return !o.Removal }), age)
			}
			return err
		})
	}
	storagetest.ForEveryOperation(t, storagetest.CrashTest{
		Open: func(t *testing.T) storage.Storage {
			dir := filepath.Join(t.TempDir(), "copy")
			if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			return newStore(t, dir)
		},
		Run: run,
		Check: func(t *testing.T, s storage.Storage, err error) {
			r := Open(s, options())
			left := wantWhole(t, r)
			if !slices.Contains(left, c) || !slices.Contains(left, d) || err == nil && len(left) != 2 {
				t.Errorf("left %v after a run that said %v", left, err)
			}
			backups, errList := r.List(t.Context())
			orphans, errFind := r.OldOrphans(t.Context(), backups, age)
			if err := errors.Join(errList, errFind); err != nil {
				t.Fatal(err)
			}
			for _, o := range orphans {
				if !o.Removal {
					t.Errorf("nothing tells that %s was to go", o.Key)
				}
			}
			if err := run(s); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{d, c}, wantWhole(t, r)); diff != "" {
				t.Errorf("after the next cleanup (-want +got):\n%s", diff)
			}
			got := append(keys(t, s, removalPrefix), keys(t, s, swapPrefix)...)
			if n := len(keys(t, s, dataPrefix)); n != 7 || len(got) != 1 || got[0] != swapKey(c) {
				t.Errorf("%d data files are left, and %v", n, got)
			}
		},
	})
}

// A manifest in another place is no backup a second time, and keeps its files.
func TestStrays(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newStore(t, dir)
	r := Open(s, options())
	a, b := mustBack(t, r), mustBack(t, r)
	text := storagetest.Get(t, s, manifestKey(a))
	strays := []string{"manifests/" + a + ".json", "manifests/before/backup_manifest_" + a + ".json", "manifests/copy.json"}
	for _, key := range strays {
		storagetest.Put(t, s, key, text)
	}
	old := `{"timestamp": "2024-12-15T14:30:22", "backup_type": "full", "schemas": []}`
	storagetest.Put(t, s, "manifests/monday.json", []byte(old))
	storagetest.Put(t, s, "manifests/before/monday.json", []byte(old))
	strays = append(strays, "manifests/before/monday.json")
	slices.Sort(strays)
	for name, list := range map[string]func(context.Context) ([]Backup, error){
		"list": r.List, "catalog": r.Catalog,
		"newest": func(ctx context.Context) (all []Backup, err error) {
			err = r.Newest(ctx, func(b Backup) bool { all = append(all, b); return true })
			slices.SortFunc(all, func(x, y Backup) int { return y.Time().Compare(x.Time()) })
			return all, err
		},
	} {
		backups, err := list(t.Context())
		if err != nil || len(backups) != 3 || backups[0].Key != manifestKey(b) || backups[1].Key != manifestKey(a) || backups[2].ID != "monday" {
			t.Errorf("%s: %+v, %v", name, backups, err)
		}
	}
	found, err := r.Strays(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, x := range found {
		names = append(names, x.Key)
	}
	slices.Sort(names)
	if diff := cmp.Diff(strays, names); diff != "" {
		t.Errorf("strays (-want +got):\n%s", diff)
	}
	before := keys(t, s, dataPrefix)
	if removed, err := clean(t.Context(), r, a); err != nil || len(removed) != 1 {
		t.Errorf("removed %v, %v", removed, err)
	}
	if diff := cmp.Diff(before, keys(t, s, dataPrefix)); diff != "" {
		t.Errorf("files that a stray names (-before +after):\n%s", diff)
	}
	if orphans, err := r.OldOrphans(t.Context(), nil, -time.Hour*1e5); err != nil || len(orphans) != 3 {
		t.Errorf("orphans %v, %v", orphans, err) // those of b, which is not told
	}
	// One that cannot be read may name anything.
	storagetest.Put(t, s, "manifests/before/broken.json", []byte("{"))
	if removed, err := clean(t.Context(), r, b); !errors.Is(err, errUnreadable) || len(removed) > 0 {
		t.Errorf("removed %v, %v", removed, err)
	}
}

// What is removed is what was shown.
func TestRemoveExchanged(t *testing.T) {
	t.Parallel()
	s := newStore(t, t.TempDir())
	r := Open(s, options())
	a := mustBack(t, r)
	mustBack(t, r)
	shown, err := r.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	text := storagetest.Get(t, s, manifestKey(a))
	if err := s.Delete(t.Context(), manifestKey(a)); err != nil {
		t.Fatal(err)
	}
	storagetest.Put(t, s, manifestKey(a), append(text, '\n'))
	err = r.Clean(t.Context(), func(ctx context.Context, c *Cleaning) error {
		removed, err := c.Remove(ctx, shown[1:])
		if len(removed) > 0 {
			t.Errorf("removed %v", removed)
		}
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "not there any more as it was") {
		t.Errorf("error %v", err)
	}
}

func TestRemoveRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newStore(t, dir)
	r := Open(s, options())
	a, b := mustBack(t, r), mustBack(t, r)
	broken := filepath.Join(dir, filepath.FromSlash(manifestKey("20200101_000000")))
	if err := os.WriteFile(broken, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if removed, err := clean(t.Context(), r, a); !errors.Is(err, errUnreadable) || len(removed) > 0 {
		t.Errorf("with an unreadable manifest: removed %v, error %v", removed, err)
	}
	if _, err := r.OldOrphans(t.Context(), []Backup{{Key: "x", Err: errors.New("x")}}, 0); !errors.Is(err, errUnreadable) {
		t.Errorf("orphans with an unreadable manifest: %v", err)
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}

	// Somebody whose locks do not work writes a manifest that names a file of
	// the one that goes.
	manifestOfA := storagetest.Get(t, s, manifestKey(a))
	f := &storagetest.Faulty{Storage: s}
	f.After = storagetest.CallAt(storagetest.Delete, 1, func() {
		copied := strings.ReplaceAll(string(undigested.ReplaceAll(manifestOfA, nil)), `"id": "`+a, `"id": "20301231_000000`)
		if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(manifestKey("20301231_000000"))), []byte(copied), 0o600); err != nil {
			t.Error(err)
		}
	})
	if _, err := clean(t.Context(), Open(f, options()), a); err == nil || !strings.Contains(err.Error(), "its locks do not work") {
		t.Errorf("error %v", err)
	}
	if got := len(wantWhole(t, r)); got != 2 {
		t.Errorf("%d backups are left", got)
	}

	// A backup at work keeps cleanup out, and the other way round.
	w, err := r.NewBackup(t.Context(), manifest.Full)
	if err != nil {
		t.Fatal(err)
	}
	_, err = clean(t.Context(), r, b)
	if locked, ok := errors.AsType[*LockedError](err); !ok || locked.Holders[0].Purpose != "full backup" {
		t.Errorf("error %v", err)
	}
	if err := w.Abort(t.Context()); err != nil {
		t.Fatal(err)
	}
	err = r.Clean(t.Context(), func(ctx context.Context, _ *Cleaning) error {
		_, err := r.NewBackup(ctx, manifest.Full)
		return err
	})
	if locked, ok := errors.AsType[*LockedError](err); !ok || locked.Holders[0].Purpose != "cleanup" {
		t.Errorf("error %v", err)
	}
}

func TestOldOrphans(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newStore(t, dir)
	r := Open(s, options())
	mustBack(t, r)
	for name, age := range map[string]time.Duration{
		"data/old_full_20261120_000000.sql": 25 * time.Hour, "data/new_full_20261122_120000.sql": 23 * time.Hour, "data/of-a-run_full_20261121_000000.sql": 48 * time.Hour,
	} {
		storagetest.Put(t, s, name, []byte("x"))
		at := start.Add(-age)
		if err := os.Chtimes(filepath.Join(dir, filepath.FromSlash(name)), at, at); err != nil {
			t.Fatal(err)
		}
	}
	storagetest.Put(t, s, runKey("20261121_000000"), []byte("{}"))
	storagetest.Put(t, s, runKey("20261123_000002"), []byte("{}"))
	err := r.Clean(t.Context(), func(ctx context.Context, c *Cleaning) error {
		orphans, err := r.OldOrphans(ctx, c.Backups(), 24*time.Hour)
		if err != nil {
			return err
		}
		if len(orphans) != 1 || orphans[0].Key != "data/old_full_20261120_000000.sql" {
			t.Errorf("orphans %v", orphans)
		}
		if orphans[0].Removal || orphans[0].Backup != "" {
			t.Errorf("it is described as %+v", orphans[0])
		}
		young := orphans[0]
		young.Key = "data/new_full_20261122_120000.sql"
		removed, err := c.RemoveOrphans(ctx, append(orphans, young), 24*time.Hour)
		if len(removed) != 1 {
			t.Errorf("removed %v", removed)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := keys(t, s, dataPrefix); len(got) != 5 {
		t.Errorf("left %v", got)
	}
	backups, err := r.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := r.Interrupted(t.Context(), backups); err != nil || len(got) != 1 || got[0] != "20261123_000002" {
		t.Errorf("interrupted %v, %v", got, err)
	}
}

func TestPins(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := newStore(t, dir)
	r := Open(s, options())
	id := mustBack(t, r)
	if _, err := r.Pin(t.Context(), Pin{Backup: "20200101_000000"}); !errors.Is(err, ErrNoBackup) {
		t.Errorf("error %v", err)
	}
	want := Pin{Backup: id, Reason: "the auditor asked for \"it\"", By: "ops@db1", At: start}
	if got, err := r.Pin(t.Context(), want); err != nil || got != id {
		t.Fatal(got, err)
	}
	if _, err := r.Pin(t.Context(), Pin{Backup: id, Reason: "other"}); !errors.Is(err, ErrPinned) {
		t.Errorf("error %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(pinKey("x"))), []byte("garbage"), 0o600); err != nil {
		t.Fatal(err)
	}
	pins, err := r.Pins(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, pins[id]); diff != "" || len(pins) != 2 || !strings.Contains(pins["x"].Reason, "cannot be read") {
		t.Errorf("pins %+v\n%s", pins, diff)
	}
	err = r.Clean(t.Context(), func(ctx context.Context, _ *Cleaning) error {
		if _, err := r.Pin(ctx, Pin{Backup: id}); err == nil {
			t.Error("pinned during a cleanup")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if p, err := r.Unpin(t.Context(), id); err != nil || p.Reason != want.Reason {
		t.Errorf("unpin %+v, %v", p, err)
	}
	if _, err := r.Unpin(t.Context(), id); !errors.Is(err, ErrNotPinned) {
		t.Errorf("error %v", err)
	}
	// By the file name of the manifest.
	name := manifestName + id + jsonSuffix
	if got, err := r.Pin(t.Context(), Pin{Backup: name, Reason: "again"}); err != nil || got != id {
		t.Errorf("pinned %s, %v", got, err)
	}
	if p, err := r.Unpin(t.Context(), name); err != nil || p.Backup != id {
		t.Errorf("unpinned %+v, %v", p, err)
	}
	// A time of which there is no form in JSON makes it unreadable, and no less a pin.
	if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(pinKey(id))), []byte(`{"reason": "x", "at": "9999-12-31T23:59:59-12:00"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if pins, err := r.Pins(t.Context()); err != nil || !strings.Contains(pins[id].Reason, "year 10000") || !pins[id].At.IsZero() {
		t.Errorf("pins %+v, %v", pins, err)
	}
}

// Files of the original system go as well: what a manifest calls by the absolute
// path of another machine, and media archives that several manifests name.
func TestRemoveOriginal(t *testing.T) {
	t.Parallel()
	s := newStore(t, t.TempDir())
	r := Open(s, options())
	for n, media := range []string{"/app/backups/media/a.tar.gz", "/app/backups/media/a.tar.gz", "/app/backups/media/folder"} {
		storagetest.Put(t, s, manifestKey(fmt.Sprintf("2024121%d_143022", n)), fmt.Appendf(nil, `{"timestamp": "2024-12-1%dT14:30:22.123456", "backup_type": "full", "schemas": [
			{"schema": "public", "tenant": "core", "filepath": "/app/backups/data/x%d.sql", "size": 1, "hash": "%064d", "media_backup": %q, "type": "full"}]}`, n, n, n, media))
		storagetest.Put(t, s, fmt.Sprintf("data/x%d.sql", n), []byte("x"))
	}
	for _, key := range []string{"media/a.tar.gz", "media/folder/logo.png", "media/folder/deep/er.png", "media/other.tar.gz"} {
		storagetest.Put(t, s, key, []byte("x"))
	}
	steps := []struct {
		id   string
		left []string
	}{
		{"20241210_143022", []string{"data/x1.sql", "data/x2.sql", "media/a.tar.gz", "media/folder/deep/er.png", "media/folder/logo.png", "media/other.tar.gz"}},
		{"20241211_143022", []string{"data/x2.sql", "media/folder/deep/er.png", "media/folder/logo.png", "media/other.tar.gz"}},
		{"20241212_143022", []string{"media/other.tar.gz"}},
	}
	for _, step := range steps {
		if _, err := clean(t.Context(), r, step.id); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(step.left, append(keys(t, s, dataPrefix), keys(t, s, mediaPrefix)...)); diff != "" {
			t.Errorf("after %s (-want +left):\n%s", step.id, diff)
		}
	}
}
