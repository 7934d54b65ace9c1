package repo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/storage"
	"github.com/tenantkeep/tenantkeep/internal/storage/storagetest"
)

// checkFrames reads all frames of data files.
func checkFrames(s storage.Storage) func(context.Context, []Backup) (map[string]error, error) {
	return func(ctx context.Context, files []Backup) (map[string]error, error) {
		wrong := map[string]error{}
		for _, b := range files {
			o, err := s.Open(ctx, b.Manifest.Schemas[0].Filepath)
			if err != nil {
				return nil, err
			}
			f, err := datafile.Open(o, o.Size())
			for i := 0; err == nil && i < len(f.Index.Frames); i++ {
				_, err = f.ReadFrame(i, nil)
			}
			if err != nil {
				wrong[b.ID] = err
			}
			o.Close()
		}
		return wrong, nil
	}
}

// writeFile writes a data file with an index, as a backup does.
func writeFile(ctx context.Context, w *BackupWriter, schema string, later bool) (e manifest.Schema, err error) {
	d, err := w.CreateData(ctx, schema, "tenant of "+schema, manifest.Full, ".sql.zst")
	if err != nil {
		return e, err
	}
	defer func() { err = errors.Join(err, d.Abort()) }()
	compression := datafile.Compression{Algorithm: datafile.Zstd}
	file := datafile.NewWriter(d, compression)
	enc, err := datafile.NewEncoder(compression)
	if err != nil {
		return e, err
	}
	enc.Begin(datafile.PreDataFrame)
	if _, err := fmt.Fprintf(enc, "CREATE SCHEMA %s; -- of %s\n", schema, w.ID()); err != nil {
		return e, err
	}
	if _, err := file.Append(enc); err != nil {
		return e, err
	}
	if err := file.BeginStatements(enc); err != nil {
		return e, err
	}
	if _, err := file.Append(enc); err != nil {
		return e, err
	}
	file.AddTable(manifest.Table{Name: "empty"})
	at := manifest.Snapshot{Time: start.Add(time.Second), LSN: "0/1"}
	e = manifest.Schema{Schema: schema, Tenant: "tenant of " + schema, Timestamp: w.ID(), Type: manifest.Full, Tables: 1}
	if later {
		at.Time = at.Time.Add(time.Minute)
		e.Snapshot = &at
	}
	_, err = file.Close(enc, datafile.Header{
		Backup: w.ID(), Type: manifest.Full, Started: w.Started(), Schema: schema, Tenant: e.Tenant, Encoding: "UTF8", Retention: 30,
		Database: manifest.Database{Name: "saas", ServerVersionNum: 150018}, Snapshot: at, Tool: manifest.Tool{Name: "tenantkeep", Version: "test"},
	})
	if err != nil {
		return e, err
	}
	s, err := d.Commit()
	e.Filename, e.Filepath, e.Size, e.Hash, e.IndexHash = filepath.Base(s.Key), s.Key, s.Size, s.Hash, file.IndexHash()
	return e, err
}

// backFiles makes a backup whose data files have indexes.
func backFiles(t *testing.T, r *Repo) *manifest.Manifest {
	t.Helper()
	w, err := r.NewBackup(t.Context(), manifest.Full)
	if err != nil {
		t.Fatal(err)
	}
	m := &manifest.Manifest{
		RetentionDays: 30, Compressed: true, Compression: "zstd", Database: &manifest.Database{Name: "saas", ServerVersionNum: 150018},
		Tool: &manifest.Tool{Name: "tenantkeep", Version: "test"}, Snapshot: &manifest.Snapshot{Time: start.Add(time.Second), LSN: "0/1"},
	}
	for _, schema := range []string{"public", "acme", "zeta"} {
		e, err := writeFile(t.Context(), w, schema, schema == "zeta")
		if err != nil {
			t.Fatal(err)
		}
		m.Schemas = append(m.Schemas, e)
	}
	if err := w.Finish(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	return m
}

// borrowFiles makes an incremental backup in which only core has a file of its own.
func borrowFiles(t *testing.T, r *Repo, from *manifest.Manifest) *manifest.Manifest {
	t.Helper()
	w, err := r.NewBackup(t.Context(), manifest.Incremental)
	if err != nil {
		t.Fatal(err)
	}
	e, err := writeFile(t.Context(), w, "public", false)
	if err != nil {
		t.Fatal(err)
	}
	m := &manifest.Manifest{
		RetentionDays: 30, Retention: manifest.RetainExactly, Compressed: true, Compression: "zstd", Database: &manifest.Database{Name: "saas", ServerVersionNum: 150018},
		Parent: from.ID, Tool: &manifest.Tool{Name: "tenantkeep", Version: "test"}, Snapshot: &manifest.Snapshot{Time: start.Add(time.Second), LSN: "0/1"},
		Schemas: []manifest.Schema{e}, RollbackPoint: true,
	}
	for _, e := range from.Schemas[1:] {
		e.Snapshot = nil
		m.Schemas = append(m.Schemas, e)
	}
	if err := w.Finish(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	return m
}

func plan(t *testing.T, r *Repo) *RepairPlan {
	t.Helper()
	p, err := r.PlanRepair(t.Context(), RepairOptions{Check: checkFrames(r.storage)})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func repair(t *testing.T, r *Repo) []string {
	t.Helper()
	done, err := r.Repair(t.Context(), plan(t, r))
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, re := range done {
		ids = append(ids, re.ID)
	}
	return ids
}

// spoil changes a file of a repository behind its back.
func spoil(t *testing.T, dir, key string, change func([]byte) []byte) {
	t.Helper()
	path := filepath.Join(dir, filepath.FromSlash(key))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

func half(b []byte) []byte { return b[:len(b)/2] }

func flip(b []byte) []byte {
	b[len(b)/3] ^= 1
	return b
}

func losses(p *RepairPlan) []string {
	var list []string
	for _, l := range p.Lost {
		list = append(list, fmt.Sprintf("%s|%s|%s|%s|%s", l.Tenant, l.Schema, l.Backup, l.File, l.Problem))
	}
	return list
}

// listed returns the manifests that can be read, by id, and what is wrong with
// the others.
func listed(t *testing.T, r *Repo) (map[string]*manifest.Manifest, map[string]string) {
	t.Helper()
	backups, err := r.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	good, bad := map[string]*manifest.Manifest{}, map[string]string{}
	for _, b := range backups {
		if b.Err != nil {
			bad[b.ID] = b.Err.Error()
			continue
		}
		good[b.ID] = b.Manifest
		for _, e := range b.Manifest.Schemas {
			if err := r.CheckData(t.Context(), b.Manifest, e, nil); err != nil {
				t.Errorf("backup %s is listed, and %v", b.ID, err)
			}
		}
	}
	return good, bad
}

func TestRepair(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	disk := newStore(t, dir)
	r := Open(disk, options())
	sound, missing, broken := backFiles(t, r), backFiles(t, r), backFiles(t, r)
	p := plan(t, r)
	if len(p.Rebuild)+len(p.Lost)+len(p.Unused)+len(p.Tenants) > 0 {
		t.Errorf("a sound repository needs %+v", p)
	}
	if done := repair(t, r); len(done) > 0 {
		t.Errorf("and repaired was %v", done)
	}
	before := storagetest.Get(t, disk, manifestKey(sound.ID))
	if err := disk.Delete(t.Context(), manifestKey(missing.ID)); err != nil {
		t.Fatal(err)
	}
	spoil(t, dir, manifestKey(broken.ID), half)
	text := storagetest.Get(t, disk, manifestKey(broken.ID))

	if p := plan(t, r); len(p.Rebuild) != 2 || len(p.Lost) > 0 || p.Rebuild[0].Broken != "" || !strings.Contains(p.Rebuild[1].Broken, "cut short") {
		t.Errorf("plan %+v", p)
	}
	if diff := cmp.Diff([]string{missing.ID, broken.ID}, repair(t, r)); diff != "" {
		t.Errorf("rebuilt (-want +got):\n%s", diff)
	}
	good, bad := listed(t, r)
	if len(bad) > 0 {
		t.Errorf("still unreadable: %v", bad)
	}
	for _, want := range []*manifest.Manifest{missing, broken} {
		got := *good[want.ID]
		if !got.Partial() || !got.Rebuilt.Equal(start) {
			t.Errorf("%s does not say that it was rebuilt: %v", got.ID, got.Rebuilt)
		}
		if want.Partial() {
			t.Errorf("%s is partial without a reason", want.ID)
		}
		got.Rebuilt, got.Finished = time.Time{}, want.Finished         // which nobody knows any more
		slices.SortFunc(want.Schemas, func(a, b manifest.Schema) int { // core first
			return strings.Compare(strings.Replace(a.Schema, "public", "", 1), strings.Replace(b.Schema, "public", "", 1))
		})
		if diff := cmp.Diff(asJSON(t, want), asJSON(t, &got)); diff != "" {
			t.Errorf("manifest %s (-run +rebuilt):\n%s", want.ID, diff)
		}
	}
	if got := storagetest.Get(t, disk, manifestKey(sound.ID)); !bytes.Equal(got, before) {
		t.Error("a manifest that could be read was touched")
	}
	if got := storagetest.Get(t, disk, manifestKey(broken.ID)+brokenSuffix); !bytes.Equal(got, text) {
		t.Errorf("the broken one is kept as %q", got)
	}
	if p := plan(t, r); len(p.Rebuild)+len(p.Lost)+len(p.Unused) > 0 {
		t.Errorf("after the repair it needs %+v", p)
	}

	// Broken again: the one that was kept before is kept.
	spoil(t, dir, manifestKey(broken.ID), flip)
	if diff := cmp.Diff([]string{broken.ID}, repair(t, r)); diff != "" {
		t.Errorf("rebuilt again (-want +got):\n%s", diff)
	}
	kept := storagetest.Keys(t, disk, manifestKey(broken.ID)+brokenSuffix)
	if diff := cmp.Diff([]string{manifestKey(broken.ID) + ".broken", manifestKey(broken.ID) + ".broken-2"}, kept); diff != "" {
		t.Errorf("kept (-want +got):\n%s", diff)
	}
	if orphans, err := r.Orphans(t.Context()); err != nil || len(orphans) > 0 {
		t.Errorf("orphans %v, %v", orphans, err)
	}
}

func asJSON(t *testing.T, m *manifest.Manifest) map[string]any {
	t.Helper()
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestRepairReports has of everything that can be lost.
func TestRepairReports(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	disk := newStore(t, dir)
	r := Open(disk, options())
	sound, damaged, gone, newer, empty := backFiles(t, r), backFiles(t, r), backFiles(t, r), backFiles(t, r), backFiles(t, r)
	died, err := r.NewBackup(t.Context(), manifest.Full)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := writeFile(t.Context(), died, "acme", false); err != nil {
		t.Fatal(err)
	}
	if err := died.unlock(); err != nil {
		t.Fatal(err)
	}
	remove := func(keys ...string) {
		t.Helper()
		for _, key := range keys {
			if err := disk.Delete(t.Context(), key); err != nil {
				t.Fatal(err)
			}
		}
	}
	// acme of one backup is damaged, and its manifest is gone.
	remove(manifestKey(damaged.ID))
	spoil(t, dir, damaged.Schemas[1].Filepath, func(b []byte) []byte {
		b[30] ^= 1
		return b
	})
	// So short that nothing tells what it was.
	spoil(t, dir, damaged.Schemas[2].Filepath, half)
	// Of one backup files are gone, or of another size.
	remove(gone.Schemas[1].Filepath)
	spoil(t, dir, gone.Schemas[2].Filepath, half)
	// One was written by a newer version.
	remove(manifestKey(newer.ID))
	storagetest.Put(t, disk, manifestKey(newer.ID), []byte(`{"format": 7}`))
	// Of one nothing is left but the manifest, which cannot be read.
	spoil(t, dir, manifestKey(empty.ID), half)
	remove(empty.Schemas[0].Filepath, empty.Schemas[1].Filepath, empty.Schemas[2].Filepath)
	// Strangers.
	stray, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(sound.Schemas[1].Filepath)))
	if err != nil {
		t.Fatal(err)
	}
	storagetest.Put(t, disk, "data/copy_of_acme.sql.zst", stray)
	storagetest.Put(t, disk, "data/old_full_20240101_000000.sql", []byte("-- of the original system\n"))
	before := storagetest.Keys(t, disk, "data/")

	p := plan(t, r)
	want := []string{
		"||" + newer.ID + "|" + manifestKey(newer.ID) + "|manifest format 7 is newer",
		"||" + empty.ID + "|" + manifestKey(empty.ID) + "|its manifest cannot be read, and no data file is left",
		"||" + damaged.ID + "|" + damaged.Schemas[2].Filepath + "|what it holds cannot be found out",
		"||20240101_000000|data/old_full_20240101_000000.sql|what it holds cannot be found out: no index",
		"tenant of acme|acme|" + gone.ID + "|" + gone.Schemas[1].Filepath + "|the file is missing",
		"tenant of acme|acme|" + damaged.ID + "|" + damaged.Schemas[1].Filepath + "|its data file is damaged: ",
		"tenant of zeta|zeta|" + gone.ID + "|" + gone.Schemas[2].Filepath + "|the file has another size",
	}
	slices.Sort(want[:4])
	got := losses(p)
	slices.Sort(got[:min(4, len(got))])
	if len(got) != len(want) {
		t.Fatalf("lost:\n%s", strings.Join(got, "\n"))
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("lost %q, want %q", got[i], want[i])
		}
	}
	points := []TenantPoints{
		{Schema: "acme", Tenant: "tenant of acme", Points: 1, Newest: sound.ID},
		{Schema: "zeta", Tenant: "tenant of zeta", Points: 1, Newest: sound.ID},
	}
	if diff := cmp.Diff(points, p.Tenants); diff != "" {
		t.Errorf("restore points that are left (-want +got):\n%s", diff)
	}
	var unused []string
	for _, u := range p.Unused {
		unused = append(unused, u.Key+": "+u.Reason)
	}
	wantUnused := []string{
		"data/copy_of_acme.sql.zst: the manifest of backup " + sound.ID + " does not name it",
		"data/tenant%20of%20acme_acme_full_" + died.ID() + ".sql.zst: its run has not ended, or was killed before it did: the next backup removes what is left of it",
	}
	if diff := cmp.Diff(wantUnused, unused); diff != "" {
		t.Errorf("unused (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{damaged.ID}, repair(t, r)); diff != "" {
		t.Errorf("rebuilt (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, storagetest.Keys(t, disk, "data/")); diff != "" {
		t.Errorf("data files (-before +after):\n%s", diff)
	}
	b, err := r.Load(t.Context(), damaged.ID)
	if err != nil {
		t.Fatal(err)
	}
	if m := b.Manifest; len(m.Schemas) != 1 || len(m.Unreadable) != 1 || len(m.Failures) != 1 || m.Failures[0].Schema != "acme" || m.Failures[0].File != damaged.Schemas[1].Filepath {
		t.Errorf("rebuilt %+v", m)
	}
	// The damaged file is not an orphan, and the next repair tells of it again.
	remove(manifestKey(newer.ID), manifestKey(empty.ID))
	orphans, err := r.Orphans(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range orphans {
		if o.Key == damaged.Schemas[1].Filepath || o.Key == damaged.Schemas[2].Filepath {
			t.Errorf("%s is an orphan", o.Key)
		}
	}
	now := losses(plan(t, r))
	for _, want := range []string{want[5], "||" + damaged.ID + "|" + damaged.Schemas[2].Filepath + "|what"} {
		if !slices.ContainsFunc(now, func(l string) bool { return strings.HasPrefix(l, want) }) {
			t.Errorf("now lost: %q, want %q too", now, want)
		}
	}
}

// What is not any more as it was planned is left alone.
func TestRepairLate(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	disk := newStore(t, dir)
	r := Open(disk, options())
	missing, broken := backFiles(t, r), backFiles(t, r)
	texts := map[string][]byte{}
	for _, m := range []*manifest.Manifest{missing, broken} {
		texts[m.ID] = storagetest.Get(t, disk, manifestKey(m.ID))
	}
	spoil(t, dir, manifestKey(broken.ID), half)
	if err := disk.Delete(t.Context(), manifestKey(missing.ID)); err != nil {
		t.Fatal(err)
	}
	p := plan(t, r)
	if len(p.Rebuild) != 2 {
		t.Fatalf("plan %+v", p)
	}
	storagetest.Put(t, disk, manifestKey(missing.ID), texts[missing.ID])
	spoil(t, dir, manifestKey(broken.ID), half) // once more
	if done, err := r.Repair(t.Context(), p); err != nil || len(done) > 0 {
		t.Errorf("rebuilt %v, %v", done, err)
	}
	p = plan(t, r)
	spoil(t, dir, manifestKey(broken.ID), func([]byte) []byte { return texts[broken.ID] })
	if done, err := r.Repair(t.Context(), p); err != nil || len(done) > 0 {
		t.Errorf("rebuilt %v, %v", done, err)
	}
	if left := storagetest.Keys(t, disk, manifestPrefix); len(left) != 2 {
		t.Errorf("left %v", left)
	}
}

// A backup to whose files later ones refer is rebuilt whole, and completed when a
// file comes back.
func TestRepairLent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	disk := newStore(t, dir)
	r := Open(disk, options())
	full := backFiles(t, r)
	incremental := borrowFiles(t, r, full)
	if p := plan(t, r); p.Work() || len(p.Lost)+len(p.Unused) > 0 {
		t.Errorf("a sound repository needs %+v", p)
	}
	away := filepath.Join(dir, "away")
	core, acme := filepath.Join(dir, filepath.FromSlash(full.Schemas[0].Filepath)), full.Schemas[1].Filepath
	good := storagetest.Get(t, disk, acme)
	spoil(t, dir, acme, half)
	if err := errors.Join(disk.Delete(t.Context(), manifestKey(full.ID)), os.Rename(core, away)); err != nil {
		t.Fatal(err)
	}
	p := plan(t, r)
	if len(p.Rebuild) != 1 || len(p.Rebuild[0].Manifest.Schemas) != 1 || p.Rebuild[0].Manifest.Unreadable[0] != acme || p.Rebuild[0].ID != full.ID {
		t.Fatalf("plan %+v", p)
	}
	repair(t, r)
	if p := plan(t, r); p.Work() {
		t.Errorf("repaired, it needs %+v", p)
	}
	spoil(t, dir, acme, func([]byte) []byte { return good })
	if err := os.Rename(away, core); err != nil {
		t.Fatal(err)
	}
	p = plan(t, r)
	if len(p.Rebuild) != 1 || !strings.Contains(p.Rebuild[0].Broken, "rebuilt before, without 2 of them") || len(p.Lost) > 0 {
		t.Fatalf("plan %+v", p)
	}
	if diff := cmp.Diff([]string{full.ID}, repair(t, r)); diff != "" {
		t.Errorf("completed (-want +got):\n%s", diff)
	}
	rebuilt, bad := listed(t, r)
	if got := rebuilt[full.ID]; len(bad) > 0 || len(got.Schemas) != 3 || got.BackupType != manifest.Full || rebuilt[incremental.ID].Partial() {
		t.Errorf("rebuilt %+v, %v", got, bad)
	}
	if p := plan(t, r); p.Work() || len(p.Lost) > 0 {
		t.Errorf("completed, it needs %+v", p)
	}
	// A manifest that lies elsewhere is better than one that is rebuilt.
	text := storagetest.Get(t, disk, manifestKey(incremental.ID))
	storagetest.Put(t, disk, "manifests/old/x.json", text)
	if err := disk.Delete(t.Context(), manifestKey(incremental.ID)); err != nil {
		t.Fatal(err)
	}
	if p := plan(t, r); p.Work() || len(p.Lost) != 1 || !strings.Contains(p.Lost[0].Problem, "move manifests/old/x.json to "+manifestKey(incremental.ID)) {
		t.Errorf("plan %+v", p)
	}
}

// Of a manifest that only fails its digest stays what the files prove, and what
// does not is told of.
func TestRepairChanged(t *testing.T) {
	t.Parallel()
	edit := func(old, to string) func([]byte) []byte {
		return func(b []byte) []byte {
			if !bytes.Contains(b, []byte(old)) {
				t.Errorf("there is no %s in %s", old, b)
			}
			return bytes.Replace(b, []byte(old), []byte(to), 1)
		}
	}
	for name, test := range map[string]struct {
		change  func(dir string, full, m *manifest.Manifest)
		schemas []string
		lost    []string
		days    manifest.Retention
	}{
		"days": {func(dir string, _, m *manifest.Manifest) {
			spoil(t, dir, manifestKey(m.ID), edit(`"retention_days": 30`, `"retention_days": 40`))
		}, []string{"public", "acme", "zeta"}, nil, manifest.RetainAtLeast},
		"rows": {func(dir string, _, m *manifest.Manifest) {
			spoil(t, dir, manifestKey(m.ID), edit(`"tables": 1`, `"tables": 7`))
		}, []string{"public", "acme", "zeta"}, nil, manifest.RetainExactly},
		"hash of a file of its own": {func(dir string, _, m *manifest.Manifest) {
			spoil(t, dir, manifestKey(m.ID), edit(m.Schemas[0].Hash[:15], "sha256:00000000"))
		}, []string{"public", "acme", "zeta"}, nil, manifest.RetainExactly},
		"hash of an earlier file": {func(dir string, _, m *manifest.Manifest) {
			spoil(t, dir, manifestKey(m.ID), edit(m.Schemas[1].Hash[:15], "sha256:00000000"))
		}, []string{"public", "zeta"}, []string{"acme"}, manifest.RetainExactly},
		"schema of an earlier file": {func(dir string, _, m *manifest.Manifest) {
			spoil(t, dir, manifestKey(m.ID), edit(`"schema": "zeta"`, `"schema": "zetb"`))
		}, []string{"public", "acme"}, []string{"zetb"}, manifest.RetainExactly},
		"an earlier file damaged too": {func(dir string, full, m *manifest.Manifest) {
			spoil(t, dir, full.Schemas[2].Filepath, flip)
			spoil(t, dir, manifestKey(m.ID), edit(`"size":`, `"size" :`))
		}, []string{"public", "acme"}, []string{"zeta"}, manifest.RetainExactly},
		"files gone": {func(dir string, full, m *manifest.Manifest) {
			spoil(t, dir, manifestKey(m.ID), edit(`"size":`, `"size" :`))
			for _, key := range []string{m.Schemas[0].Filepath, full.Schemas[1].Filepath} {
				if err := os.Remove(filepath.Join(dir, filepath.FromSlash(key))); err != nil {
					t.Error(err)
				}
			}
		}, []string{"zeta"}, []string{"acme", "public"}, manifest.RetainAtLeast},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			r := Open(newStore(t, dir), options())
			full := backFiles(t, r)
			m := borrowFiles(t, r, full)
			test.change(dir, full, m)
			p := plan(t, r)
			if len(p.Rebuild) != 1 || !strings.Contains(p.Rebuild[0].Broken, "its digest") {
				t.Fatalf("plan %+v", p)
			}
			repair(t, r)
			b, err := r.Load(t.Context(), m.ID)
			if err != nil {
				t.Fatal(err)
			}
			got := b.Manifest
			var schemas, lost []string
			for _, e := range got.Schemas {
				schemas = append(schemas, e.Schema)
				i := slices.IndexFunc(m.Schemas, func(o manifest.Schema) bool { return o.Schema == e.Schema })
				if diff := cmp.Diff(m.Schemas[i], e); diff != "" {
					t.Errorf("entry (-run +rebuilt):\n%s", diff)
				}
			}
			for _, f := range got.Failures {
				lost = append(lost, f.Schema)
			}
			slices.Sort(lost)
			if diff := cmp.Diff(test.schemas, schemas) + cmp.Diff(test.lost, lost); diff != "" {
				t.Errorf("schemas and failures (-want +got):\n%s", diff)
			}
			for _, p := range []*RepairPlan{p, plan(t, r)} {
				var told []string
				for _, l := range p.Lost {
					if l.Backup == m.ID {
						told = append(told, l.Schema)
					}
				}
				slices.Sort(told)
				if diff := cmp.Diff(test.lost, told); diff != "" {
					t.Errorf("told as lost (-want +got):\n%s", diff)
				}
			}
			if got.BackupType != manifest.Incremental || !got.Partial() || got.Parent != full.ID || !got.RollbackPoint || got.Retention != test.days {
				t.Errorf("rebuilt %+v", got)
			}
			if p := plan(t, r); p.Work() {
				t.Errorf("repaired, it needs %+v", p)
			}
		})
	}
}

// Two repositories that were copied together.
func TestRepairMixed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	disk := newStore(t, dir)
	r := Open(disk, options())
	m := backFiles(t, r)
	if err := disk.Delete(t.Context(), manifestKey(m.ID)); err != nil {
		t.Fatal(err)
	}
	w := &BackupWriter{
		repo: r, id: m.ID, started: start, locked: t.Context(), unlock: func() error { return nil },
		taken: map[string]bool{}, stored: map[string]Stored{}, doubtful: map[string]bool{},
	}
	d, err := w.CreateData(t.Context(), "other", "other", manifest.Full, ".sql")
	if err != nil {
		t.Fatal(err)
	}
	file := datafile.NewWriter(d, datafile.Compression{Algorithm: datafile.None})
	enc, err := datafile.NewEncoder(datafile.Compression{Algorithm: datafile.None})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.Close(enc, datafile.Header{Backup: m.ID, Type: manifest.Full, Started: start, Schema: "other", Database: manifest.Database{Name: "another"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Commit(); err != nil {
		t.Fatal(err)
	}
	p := plan(t, r)
	if len(p.Rebuild) > 0 || len(p.Lost) != 4 || !strings.Contains(p.Lost[0].Problem, "copied together") {
		t.Errorf("plan %+v", p)
	}
}

// TestRepairCrashes ends the process, and the power, at each operation of a
// repair. No backup is worse off than before, and the next repair does the rest.
func TestRepairCrashes(t *testing.T) {
	t.Parallel()
	whole := t.TempDir()
	disk := newStore(t, whole)
	r := Open(disk, options())
	sound, missing, broken := backFiles(t, r), backFiles(t, r), backFiles(t, r)
	changed, lacking := borrowFiles(t, r, sound), backFiles(t, r)
	spoil(t, whole, manifestKey(changed.ID), func(b []byte) []byte { return bytes.Replace(b, []byte(": 30"), []byte(": 31"), 1) })
	spoil(t, whole, manifestKey(broken.ID), half)
	if err := disk.Delete(t.Context(), manifestKey(missing.ID)); err != nil {
		t.Fatal(err)
	}
	// One was rebuilt when a file of it was away.
	away, back := filepath.Join(t.TempDir(), "away"), filepath.Join(whole, filepath.FromSlash(lacking.Schemas[1].Filepath))
	if err := errors.Join(disk.Delete(t.Context(), manifestKey(lacking.ID)), os.Rename(back, away)); err != nil {
		t.Fatal(err)
	}
	p := plan(t, r)
	p.Rebuild = slices.DeleteFunc(p.Rebuild, func(re Rebuild) bool { return re.ID != lacking.ID })
	if done, err := r.Repair(t.Context(), p); err != nil || len(done) != 1 {
		t.Fatal(done, err)
	}
	if err := os.Rename(away, back); err != nil {
		t.Fatal(err)
	}
	text, data := storagetest.Get(t, disk, manifestKey(broken.ID)), storagetest.Keys(t, disk, "data/")
	storagetest.ForEveryOperation(t, storagetest.CrashTest{
		Open: func(t *testing.T) storage.Storage {
			dir := filepath.Join(t.TempDir(), "copy")
			if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			return newStore(t, dir)
		},
		Run: func(s storage.Storage) error {
			r := Open(s, options())
			p, err := r.PlanRepair(t.Context(), RepairOptions{Check: checkFrames(r.storage)})
			if err == nil {
				_, err = r.Repair(t.Context(), p)
			}
			return err
		},
		Check: func(t *testing.T, s storage.Storage, err error) {
			r := Open(s, options())
			good, bad := listed(t, r)
			if good[sound.ID] == nil {
				t.Error("the sound backup is gone")
			}
			for _, m := range []*manifest.Manifest{missing, broken, changed} {
				if got := good[m.ID]; got != nil && len(got.Schemas) != 3 || got == nil && err == nil {
					t.Errorf("backup %s is %+v after a run that said %v", m.ID, got, err)
				}
			}
			// As long as the broken one is not rebuilt, it keeps its files.
			if orphans, err := r.Orphans(t.Context()); good[broken.ID] == nil && err == nil {
				t.Errorf("nothing keeps the files of the broken backup: listed %v, orphans %v", bad, orphans)
			}
			there := storagetest.Keys(t, s, manifestKey(broken.ID))
			if !slices.ContainsFunc(there, func(key string) bool { return bytes.Equal(storagetest.Get(t, s, key), text) }) {
				t.Errorf("the broken manifest is gone: %v", there)
			}
			if diff := cmp.Diff(data, storagetest.Keys(t, s, "data/")); diff != "" {
				t.Errorf("data files (-before +after):\n%s", diff)
			}
			repair(t, r)
			good, bad = listed(t, r)
			if len(good) != 5 || len(bad) > 0 {
				t.Errorf("after another repair: %d backups, unreadable %v", len(good), bad)
			}
			for _, m := range []*manifest.Manifest{changed, lacking} {
				if got := good[m.ID]; got == nil || len(got.Schemas) != 3 || len(got.Failures) > 0 {
					t.Errorf("%s is rebuilt as %+v", m.ID, got)
				}
			}
			if there := storagetest.Keys(t, s, "manifests/"); len(there) != 8 {
				t.Errorf("left: %v", there)
			}
		},
	})
}
