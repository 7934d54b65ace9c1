package media

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// What is missing of core's files comes back; what is there stays, and so do the
// folders of tenants, also of those that have come since.
func TestAddShared(t *testing.T) {
	t.Parallel()
	root, dir := folder(t)
	for _, name := range []string{"top", "logos/a", "logos/b", "logos/new/c", "acme/x", "sub/globex/x", "link/x", "file"} {
		write(t, dir, name, "of the backup")
	}
	must(t, os.Chmod(filepath.Join(dir, "logos"), 0o555))
	archive := save(t, root, nil, SaveOptions{}).open(t)
	r, err := NewRoot(t.TempDir(), DefaultPattern, map[string]string{"globex": "sub/globex"})
	must(t, err)
	for _, name := range []string{"logos/a", "logos/d", "acme/y", "file/in a folder", "elsewhere/y"} {
		write(t, r.dir, name, "of today")
	}
	must(t, os.Symlink("elsewhere", filepath.Join(r.dir, "link")))
	write(t, r.dir, notesFolder+"/20261123_100000_0123456789abcdef.shared/half", "of a restore that died")
	must(t, r.RemoveShared())
	if names := r.names(t); slices.Contains(names, notesFolder) {
		t.Errorf("what a dead restore left is still there: %q", names)
	}
	tenants := []Tenant{{Schema: "acme"}, {Schema: "globex"}}
	for _, want := range []Added{{Files: 3, Kept: 5}, {Files: 0, Kept: 8}} {
		added, err := r.AddShared(t.Context(), archive, tenants, moment, PutOptions{})
		must(t, err)
		if added.Files != want.Files || added.Kept != want.Kept {
			t.Errorf("added %d, kept %d", added.Files, added.Kept)
		}
	}
	got := map[string]string{}
	must(t, filepath.WalkDir(r.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		name, _ := filepath.Rel(r.dir, path)
		got[name] = string(content)
		return err
	}))
	want := map[string]string{
		"top": "of the backup", "logos/b": "of the backup", "logos/new/c": "of the backup",
		"logos/a": "of today", "logos/d": "of today", "acme/y": "of today", "file/in a folder": "of today", "elsewhere/y": "of today",
	}
	if len(got) != len(want) {
		t.Errorf("there are %q", got)
	}
	for name, content := range want {
		if got[name] != content {
			t.Errorf("%s holds %q, not %q", name, got[name], content)
		}
	}
	if found, err := r.SharedFiles(tenants); !found || err != nil {
		t.Errorf("there are shared files: %v, %v", found, err)
	}
	must(t, os.RemoveAll(filepath.Join(r.dir, "elsewhere")))
	for _, name := range []string{"top", "logos", "file", "link"} {
		must(t, os.RemoveAll(filepath.Join(r.dir, name)))
	}
	if found, err := r.SharedFiles(tenants); found || err != nil {
		t.Errorf("there are no shared files: %v, %v", found, err)
	}
}
