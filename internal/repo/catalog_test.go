package repo

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/storage"
	"github.com/tenantkeep/tenantkeep/internal/storage/storagetest"
)

// manyManifests writes manifests of incremental backups, one an hour, of which
// each finds the share of the schemas changed. With files it writes data files,
// too, which are empty.
func manyManifests(t testing.TB, dir string, count, schemas, share int, files bool) {
	t.Helper()
	for _, d := range []string{manifestPrefix, dataPrefix} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	entries := make([]manifest.Schema, schemas)
	var b bytes.Buffer
	for n := range count {
		at := start.Add(time.Duration(n-count) * time.Hour)
		id := at.Format(idLayout)
		for i := range entries {
			if n > 0 && (n+i*7)%100 >= share {
				continue
			}
			name := fmt.Sprintf("customer_%03d", i)
			e := manifest.Schema{
				Schema: name, Tenant: name, Filename: name + "_incremental_" + id + ".sql.zst", Size: 100_000 + int64(n), Hash: fmt.Sprintf("sha256:%032x%032x", i, n),
				Timestamp: id, Type: manifest.Incremental, Tables: 30, Rows: int64(1000 + n), Bytes: int64(1_000_000 + n),
			}
			e.Filepath = dataPrefix + e.Filename
			if entries[i].Filepath != "" {
				e.References = []string{entries[i].Filepath}
			}
			entries[i] = e
			if files {
				if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(e.Filepath)), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
		m := manifest.Manifest{
			Timestamp: manifest.NewTime(at), BackupType: manifest.Incremental, RetentionDays: 30, Compressed: true, Schemas: entries, Format: manifest.Format, ID: id,
			Finished: at.Add(time.Minute), Tool: &manifest.Tool{Name: "tenantkeep", Version: "1", PgDump: "15.18"},
			Database: &manifest.Database{Name: "shop", ServerVersion: "15.18", ServerVersionNum: 150018, Encoding: "UTF8", SystemIdentifier: "7"},
			Snapshot: &manifest.Snapshot{Time: at, LSN: fmt.Sprintf("0/%X", n), XID: fmt.Sprintf("%d:%d:", n, n)},
		}
		b.Reset()
		if err := m.Encode(&b); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(manifestKey(id))), b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// wantCatalog checks that the catalog is the list, and returns how many objects
// were opened for it.
func wantCatalog(t *testing.T, s storage.Storage) int {
	t.Helper()
	want, err := Open(s, options()).List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	counter := &storagetest.Faulty{Storage: s}
	got, err := Open(counter, options()).Catalog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	same := cmp.Options{cmp.AllowUnexported(Backup{}), cmp.Comparer(func(a, b error) bool { return (a == nil) == (b == nil) && (a == nil || a.Error() == b.Error()) })}
	if diff := cmp.Diff(want, got, same); diff != "" {
		t.Errorf("catalog (-list +catalog):\n%s", diff)
	}
	return counter.Count(storagetest.Open)
}

func TestCatalog(t *testing.T) {
	t.Parallel()
	const count = 100
	dir := t.TempDir()
	manyManifests(t, dir, count, 20, 10, false)
	path := func(id string) string { return filepath.Join(dir, filepath.FromSlash(manifestKey(id))) }
	last := start.Add(-time.Hour).Format(idLayout)
	// An original one, and one that cannot be read.
	if err := os.WriteFile(path("20241215_143022"), []byte(`{"timestamp": "2024-12-15T14:30:22.123456", "backup_type": "full", "schemas": [
		{"schema": "public", "tenant": "core", "filepath": "/app/backups/data/x.sql", "size": 5, "hash": "`+strings.Repeat("0", 64)+`", "media_backup": null, "type": "full"}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path("20241216_143022"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newStore(t, dir)
	index := func() string {
		t.Helper()
		list := keys(t, s, indexPrefix)
		if len(list) != 1 {
			t.Fatalf("indexes %v", list)
		}
		return filepath.Join(dir, filepath.FromSlash(list[0]))
	}
	if n := wantCatalog(t, s); n != count+2 {
		t.Errorf("without an index %d objects were opened", n)
	}
	first := index()
	if n := wantCatalog(t, s); n != 2 { // the index, and what cannot be read
		t.Errorf("with an index %d objects were opened", n)
	}

	// A manifest that is gone, one that is another now, and a new one.
	if err := os.Remove(path(start.Add(-5 * time.Hour).Format(idLayout))); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path(last))
	if err != nil {
		t.Fatal(err)
	}
	content = undigested.ReplaceAll(content, nil)
	if err := os.WriteFile(path(last), bytes.ReplaceAll(content, []byte(`"shop"`), []byte(`"sh0p"`)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path("20261124_000000"), bytes.ReplaceAll(content, []byte(last), []byte("20261124_000000")), 0o600); err != nil {
		t.Fatal(err)
	}
	if n := wantCatalog(t, s); n != 4 {
		t.Errorf("after few changes %d objects were opened", n)
	}
	if index() != first {
		t.Error("few changes made a new index")
	}

	// An index that is garbage, cut short, changed, or empty.
	sound, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(sound)
	flipped[len(flipped)/2] ^= 1
	for _, bad := range [][]byte{nil, []byte("garbage"), sound[:len(sound)-1], sound[:20], flipped, append(bytes.Clone(sound), 0)} {
		if err := os.WriteFile(index(), bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if n := wantCatalog(t, s); n != count+3 {
			t.Errorf("with an index of %d bytes %d objects were opened", len(bad), n)
		}
		if n := wantCatalog(t, s); n != 2 {
			t.Errorf("the new index made %d objects be opened", n)
		}
	}
	if err := os.Remove(index()); err != nil {
		t.Fatal(err)
	}

	// A repository that cannot be written to, and several at once.
	for _, op := range []storagetest.Op{storagetest.Create, storagetest.Write, storagetest.Commit} {
		f := &storagetest.Faulty{Storage: s, Before: storagetest.FailAt(op, 1)}
		if list, err := Open(f, options()).Catalog(t.Context()); err != nil || len(list) != count+2 {
			t.Errorf("%s fails: %d backups, %v", op, len(list), err)
		}
	}
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			if list, err := Open(s, options()).Catalog(t.Context()); err != nil || len(list) != count+2 {
				t.Errorf("%d backups, %v", len(list), err)
			}
		})
	}
	group.Wait()
	if n := wantCatalog(t, s); n > count+3 {
		t.Errorf("%d objects were opened", n)
	}
}

// fill gives every field of a value something that is not nothing.
func fill(v reflect.Value, n *int) {
	*n++
	switch x := v.Addr().Interface().(type) {
	case *time.Time:
		*x = start.Add(time.Duration(*n) * time.Second)
		return
	case *manifest.Time:
		*x = manifest.NewTime(start.Add(time.Duration(*n) * time.Second))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprint("text ", *n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		for i := range 2 {
			fill(v.Index(i), n)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(v.Field(i), n)
		}
	case reflect.Uint, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n))
	default:
		v.SetInt(int64(*n) - 20)
	}
}

func TestIndexHoldsEverything(t *testing.T) {
	t.Parallel()
	full, empty, n := new(manifest.Manifest), &manifest.Manifest{Schemas: []manifest.Schema{}}, 0
	fill(reflect.ValueOf(full).Elem(), &n)
	list := []indexed{{"a", 1, 2, full}, {"b", -1, -2, empty}, {"c", 1 << 60, 1 << 61, full}, {"d", 0, 0, new(manifest.Manifest)}}
	content, err := encodeIndex(list)
	if err != nil {
		t.Fatal(err)
	}
	got, err := decodeIndex(string(content))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(list, got); diff != "" {
		t.Errorf("other after reading (-written +read):\n%s", diff)
	}
}

func FuzzDecodeIndex(f *testing.F) {
	full, n := new(manifest.Manifest), 0
	fill(reflect.ValueOf(full).Elem(), &n)
	content, err := encodeIndex([]indexed{{"a", 1, 2, full}, {"b", 3, 4, full}})
	if err != nil {
		f.Fatal(err)
	}
	head := len(indexMagic) + len(signature()) + 8
	f.Add(content[head:])
	f.Fuzz(func(t *testing.T, body []byte) {
		list, err := decodeBody(string(body))
		if err != nil {
			if !errors.Is(err, errIndex) {
				t.Fatal(err)
			}
			return
		}
		again, err := encodeIndex(list)
		if err != nil {
			return // a time of a year that cannot be written
		}
		back, err := decodeIndex(string(again))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(list, back, cmpopts.EquateEmpty()); diff != "" {
			t.Fatal(diff)
		}
	})
}
