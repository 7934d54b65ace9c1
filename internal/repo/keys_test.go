package repo

import (
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/storage"
)

func TestDataKey(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ tenant, schema, ext, want string }{
		{"core", "public", ".sql.zst", "data/core_public_full_20261123_000001.sql.zst"},
		{"acme", "acme", ".sql.gz", "data/acme_full_20261123_000001.sql.gz"},
		{"", "acme", ".sql", "data/acme_full_20261123_000001.sql"},
		{"acme", "acme", ".sql.zst.age", "data/acme_full_20261123_000001.sql.zst.age"},
		{"Acme", "acme", ".sql", "data/%41cme_acme_full_20261123_000001.sql"},
		{"a", "../../etc/passwd", ".sql", "data/a_%2E%2E%2F%2E%2E%2Fetc%2Fpasswd_full_20261123_000001.sql"},
		{"a", `b c"d'$%` + "\n\x00", ".sql", "data/a_b%20c%22d%27%24%25%0A%00_full_20261123_000001.sql"},
		{"-rf", "-rf", ".sql", "data/%2Drf_full_20261123_000001.sql"},
		{"é", "é", ".sql", "data/%C3%A9_full_20261123_000001.sql"},
	} {
		next, err := dataKeys(c.schema, c.tenant, manifest.Full, "20261123_000001", c.ext)
		if err != nil {
			t.Errorf("%q, %q: %v", c.tenant, c.schema, err)
			continue
		}
		if got := next(); got != c.want {
			t.Errorf("tenant %q, schema %q: %s, want %s", c.tenant, c.schema, got, c.want)
		}
	}
	for _, c := range []struct {
		schema, ext string
		typ         manifest.Type
	}{
		{"", ".sql", manifest.Full},
		{"a", "", manifest.Full},
		{"a", ".zst", manifest.Full},
		{"a", ".sql/../x", manifest.Full},
		{"a", ".sql.zst.gz", manifest.Full},
		{"a", ".sql", ""},
		{"a", ".sql", "../x"},
	} {
		if _, err := dataKeys(c.schema, "", c.typ, "20261123_000001", c.ext); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}

// TestNamesStayDistinct writes schemas whose names are made to collide in one
// run, and compares what is stored under each.
func TestNamesStayDistinct(t *testing.T) {
	t.Parallel()
	emoji := strings.Repeat("🐘", 15) // 60 bytes
	schemas := [][2]string{
		{"a", "b_c"},
		{"a_b", "c"},
		{"a_b_c", "a_b_c"},
		{"", "a_b_c "},
		{"acme", "acme"},
		{"Acme", "Acme"},
		{"ACME", "ACME"},
		{"a%41", "a%41"},
		{"aA", "aA"},
		{"../x", "../x"},
		{"x/..", "x/.."},
		{".", "."},
		{"..", ".."},
		{"\n", "\n"},
		{`\`, `\`},
		{"select", "select"},
		{emoji + "abc", emoji + "abc"},
		{emoji + "abd", emoji + "abd"},
		{emoji + "abc", emoji + "abd"},
		{emoji + "abd", emoji + "abc"},
		{strings.Repeat("t", 63), strings.Repeat("s", 63)},
		{strings.Repeat("T", 63), strings.Repeat("S", 63)},
		{strings.Repeat("T", 63), strings.Repeat("S", 62) + "R"},
	}
	disk := newStore(t, t.TempDir())
	w, err := Open(disk, options()).NewBackup(t.Context(), manifest.Incremental)
	if err != nil {
		t.Fatal(err)
	}
	contents := make(map[string]string) // lower-case key to content
	for _, s := range schemas {
		d, err := w.CreateData(t.Context(), s[1], s[0], manifest.Incremental, ".sql.zst.age")
		if err != nil {
			t.Fatal(err)
		}
		content := s[0] + "\x00" + s[1]
		if _, err := d.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
		stored, err := d.Commit()
		if err != nil {
			t.Fatal(err)
		}
		name := path.Base(stored.Key)
		if len(name) > 230 || path.Dir(stored.Key) != "data" || storage.ValidKey(stored.Key) != nil {
			t.Errorf("%q is stored as %s", content, stored.Key)
		}
		for i := range len(name) {
			if c := name[i]; c > 0x7e || strings.IndexByte("abcdefghijklmnopqrstuvwxyz0123456789_-%.ABCDEF", c) < 0 {
				t.Errorf("%q is stored as %s with the byte %q", content, stored.Key, c)
			}
		}
		// As on a disk that does not care for case.
		folded := strings.ToLower(stored.Key)
		if other, ok := contents[folded]; ok {
			t.Errorf("%q and %q are both stored as %s", other, content, stored.Key)
		}
		contents[folded] = content
		b, err := disk.Open(t.Context(), stored.Key)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, b.Size())
		if _, err := b.ReadAt(got, 0); err != nil || string(got) != content {
			t.Errorf("%s holds %q, %v, want %q", stored.Key, got, err, content)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := w.Abort(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestNameOfATakenAgainSchema(t *testing.T) {
	t.Parallel()
	w, err := Open(newStore(t, t.TempDir()), options()).NewBackup(t.Context(), manifest.Full)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort(t.Context())
	var keys []string
	for range 2 {
		d, err := w.CreateData(t.Context(), "acme", "acme", manifest.Full, ".sql")
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, d.Key())
		if err := d.Abort(); err != nil {
			t.Fatal(err)
		}
	}
	if keys[0] != keys[1] {
		t.Errorf("a schema that is taken again gets the names %v", keys)
	}
}

func TestCutName(t *testing.T) {
	t.Parallel()
	for n, want := range map[int]string{0: "", 1: "a", 2: "a", 3: "a", 4: "a%41", 5: "a%41b", 6: "a%41b", 99: "a%41b"} {
		if got := cutName("a%41b", n); got != want {
			t.Errorf("cut to %d: %q, want %q", n, got, want)
		}
	}
}

func TestSplitManifestPath(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	want := filepath.Join(dir, "backups")
	for _, name := range []string{
		"backups/manifests/x.json", "./backups/manifests/x.json", filepath.Join(dir, "backups/manifests/x.json"),
		"backups/data/../manifests/x.json",
	} {
		got, key, err := SplitManifestPath(name)
		if err != nil || got != want || key != "manifests/x.json" {
			t.Errorf("%s: %s, %s, %v", name, got, key, err)
		}
	}
	for _, name := range []string{"x.json", "backups/x.json", "/x.json", ""} {
		if got, key, err := SplitManifestPath(name); err == nil {
			t.Errorf("%s: %s, %s", name, got, key)
		}
	}
}
