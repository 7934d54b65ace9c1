package verify_test

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/verify"
)

// sampleWorld is a repository with files of these sizes, and how far its check is.
type sampleWorld struct {
	dir      string
	repo     *repo.Repo
	backups  []repo.Backup
	sizes    map[string]int64
	rotation verify.Rotation
	now      time.Time
}

func newSampleWorld(t *testing.T, sizes ...int) *sampleWorld {
	t.Helper()
	w := &sampleWorld{dir: t.TempDir(), sizes: map[string]int64{}, now: time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)}
	w.repo = open(t, w.dir)
	b, err := w.repo.NewBackup(t.Context(), manifest.Full)
	if err != nil {
		t.Fatal(err)
	}
	m := &manifest.Manifest{}
	for i, size := range sizes {
		schema := string(rune('a' + i))
		out, err := b.CreateData(t.Context(), schema, schema, manifest.Full, ".sql")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := out.Write(bytes.Repeat([]byte(schema), size)); err != nil {
			t.Fatal(err)
		}
		stored, err := out.Commit()
		if err != nil {
			t.Fatal(err)
		}
		m.Schemas = append(m.Schemas, manifest.Schema{Schema: schema, Tenant: schema, Filepath: stored.Key, Size: stored.Size, Hash: stored.Hash, Timestamp: b.ID(), Type: manifest.Full})
		w.sizes[stored.Key] = stored.Size
	}
	if err := b.Finish(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if w.backups, err = w.repo.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

// sample reads on, at most limit bytes, and goes through the file of the state.
func (w *sampleWorld) sample(t *testing.T, limit int64) *verify.Sampled {
	t.Helper()
	path := filepath.Join(w.dir, "logs", verify.RotationName)
	from, err := verify.LoadRotation(path, "here")
	if err != nil {
		t.Fatal(err)
	}
	w.now = w.now.Add(time.Hour)
	s, err := verify.Sample(t.Context(), verify.SampleOptions{Repo: w.repo, Backups: w.backups, Sizes: w.sizes, Limit: limit, From: from, Now: w.now})
	if err != nil {
		t.Fatal(err)
	}
	if err := verify.SaveRotation(t.Context(), path, "here", s.Rotation, s.Good); err != nil {
		t.Fatal(err)
	}
	w.rotation = s.Rotation
	return s
}

// flip changes one byte of the file of a schema.
func (w *sampleWorld) flip(t *testing.T, schema string, at int64) {
	t.Helper()
	for key := range w.sizes {
		if !strings.HasPrefix(key, "data/"+schema) {
			continue
		}
		f, err := os.OpenFile(filepath.Join(w.dir, key), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		b := make([]byte, 1)
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		b[0] ^= 1
		if _, err := f.WriteAt(b, at); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("no file of %s", schema)
}

// Pieces of any size cover every file, whole, in one round.
func TestSampleCoversAll(t *testing.T) {
	t.Parallel()
	w := newSampleWorld(t, 1000, 0, 2500, 1, 700)
	for _, limit := range []int64{1, 300, 999, 1000, 4000, 5000} {
		good := map[string]bool{}
		var read int64
		for n := range 5000 {
			s := w.sample(t, limit)
			if len(s.Problems) > 0 || s.Read > limit {
				t.Fatalf("limit %d: read %d, problems %v", limit, s.Read, s.Problems)
			}
			maps.Copy(good, s.Good)
			read += s.Read
			if s.Rotation.Ended.Equal(w.now) {
				if s.Done != 1 || n+1 < 4201/int(limit) {
					t.Errorf("limit %d: after %d runs %v of the round is done", limit, n+1, s.Done)
				}
				break
			}
			if want := float64(read) / 4201; s.Done != want {
				t.Fatalf("limit %d: %v of the round is done, want %v", limit, s.Done, want)
			}
			if limit == 1 && n == 20 { // one byte after the other tests nothing more
				break
			}
		}
		if limit > 1 && (len(good) != 5 || read != 4201) {
			t.Errorf("limit %d: %d bytes read, good are %v", limit, read, slices.Sorted(maps.Keys(good)))
		}
		if limit == 1 { // the next limit begins with a round of its own
			w.sample(t, -1)
		}
	}
}

// A damaged file is found when its turn comes, and told of until it is mended.
func TestSampleKeepsWhatItFound(t *testing.T) {
	t.Parallel()
	w := newSampleWorld(t, 1000, 1000, 1000)
	w.flip(t, "c", 500)
	found := func(s *verify.Sampled) string {
		var texts []string
		for _, p := range s.Problems {
			texts = append(texts, p.Schema+" "+p.Error)
		}
		return strings.Join(texts, "\n")
	}
	for _, limit := range []int64{1400, 1400} {
		if got := found(w.sample(t, limit)); got != "" {
			t.Fatalf("found too early: %s", got)
		}
	}
	// The damage lies in what an earlier run has read of the file.
	const want = "c the file has other contents (sha256 "
	for range 3 {
		if got := found(w.sample(t, 1000)); !strings.HasPrefix(got, want) {
			t.Errorf("found %q", got)
		}
	}
	if got := found(w.sample(t, 0)); !strings.HasPrefix(got, want) {
		t.Errorf("without reading: %q", got)
	}
	w.flip(t, "c", 500)
	if got := found(w.sample(t, 1000)); got != "" {
		t.Errorf("mended, and found %q", got)
	}
	w.flip(t, "a", 0)
	w.flip(t, "b", 999)
	if got := found(w.sample(t, -1)); strings.Count(got, "\n") != 1 || !strings.Contains(got, "a the file") || !strings.Contains(got, "\nb the file") {
		t.Errorf("all: %q", got)
	}
	c := &counter{}
	_, err := verify.Sample(t.Context(), verify.SampleOptions{Repo: w.repo, Backups: w.backups, Sizes: w.sizes, Limit: -1, Now: w.now, Progress: c})
	if err != nil || c.bytes.Load() != 3000 || c.files.Load() != 3 || c.failed.Load() != 2 {
		t.Errorf("told of %d bytes, %d files and %d bad ones, %v", c.bytes.Load(), c.files.Load(), c.failed.Load(), err)
	}
	w.backups = nil // nothing names them any more
	if s := w.sample(t, 1000); len(s.Problems) > 0 || len(s.Rotation.Bad) > 0 || s.Files > 0 {
		t.Errorf("of no backup: %+v", s)
	}
}

// Two checks at once lose nothing that one of them has found, and a file of state
// that cannot be read is told of and replaced.
func TestRotationFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "logs", verify.RotationName)
	save := func(r verify.Rotation, good ...string) {
		t.Helper()
		fine := map[string]bool{}
		for _, key := range good {
			fine[key] = true
		}
		if err := verify.SaveRotation(t.Context(), path, "here", r, fine); err != nil {
			t.Fatal(err)
		}
	}
	save(verify.Rotation{Next: "x", Bad: map[string]string{"a": "1"}})
	save(verify.Rotation{Next: "y", Bad: map[string]string{"b": "2"}}) // knew nothing of a
	if err := verify.SaveRotation(t.Context(), path, "there", verify.Rotation{Next: "z"}, nil); err != nil {
		t.Fatal(err)
	}
	r, err := verify.LoadRotation(path, "here")
	if err != nil || r.Next != "y" || !maps.Equal(r.Bad, map[string]string{"a": "1", "b": "2"}) {
		t.Errorf("%+v, %v", r, err)
	}
	save(verify.Rotation{Bad: map[string]string{"b": "2"}}, "a")
	if r, err = verify.LoadRotation(path, "here"); err != nil || !maps.Equal(r.Bad, map[string]string{"b": "2"}) {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err = verify.LoadRotation(path, "there"); err != nil || r.Next != "z" {
		t.Errorf("%+v, %v", r, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	for _, content := range []string{"{", `{"format": 2}`} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := verify.LoadRotation(path, "here"); err == nil {
			t.Errorf("%s was read", content)
		}
		save(verify.Rotation{Next: "n"})
		if r, err := verify.LoadRotation(path, "here"); err != nil || r.Next != "n" {
			t.Errorf("after %s: %+v, %v", content, r, err)
		}
	}
}
