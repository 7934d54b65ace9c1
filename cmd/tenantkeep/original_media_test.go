package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Archives of files of the original system come back with their tenants.
func TestOriginalMedia(t *testing.T) {
	t.Parallel()
	w := newMediaWorld(t)
	o := originalSystem{w.db, w.repo}
	o.backup(t, original{stamp: "20241216_143022", typ: "full", tenants: map[string]string{"acme": "acme", "globex": "Globex"}})
	name := "manifests/backup_manifest_20241216_143022.json"
	var manifest map[string]any
	if err := json.Unmarshal(o.read(t, name), &manifest); err != nil {
		t.Fatal(err)
	}
	for _, entry := range manifest["schemas"].([]any) {
		e := entry.(map[string]any)
		e["media_backup"] = fmt.Sprintf("/app/backups/media/%s_media_20241216_143022.tar.gz", e["tenant"])
	}
	text, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	o.write(t, name, text)
	pack := func(tenant string, args ...string) {
		t.Helper()
		packed, err := exec.Command("tar", append([]string{"-cz", "-P"}, args...)...).Output() //nolint:gosec // of the test
		if err != nil {
			t.Fatal(err)
		}
		o.write(t, "media/"+tenant+"_media_20241216_143022.tar.gz", packed)
	}
	live := func() string {
		files := w.files(t)
		return fmt.Sprint(files["acme/b"], " ", files["acme/later"], " ", len(files["acme/img/a.jpg"]), " ", w.rows(t))
	}
	w.write(t, "globex/g", "g")
	pack("acme", "-C", filepath.Dir(w.root), "--transform", "s,^[^/]*,media,", filepath.Base(w.root)+"/acme")
	pack("Globex", "-C", filepath.Join(w.root, "globex"), ".")
	w.write(t, "acme/b", "changed")
	w.write(t, "acme/later", "later")
	w.db.Exec(t, "DELETE FROM acme.files WHERE id > 10")

	restore := []string{"restore", "--latest", "--schema=acme", "--include-media", "--yes"}
	mention(t, w.run(t, 1, restore...), `files of "acme"`, "nothing says whether the backup is of database", "nothing was changed")
	restore = append(restore, "--existing-media=replace")
	mention(t, w.run(t, 0, append(restore, "--dry-run")...), "2 files", "__replaced_")
	mention(t, w.run(t, 0, restore...), "2 files of tenant acme are back", "what was there is kept")
	if got := live(); got != "b  5000 100" {
		t.Errorf("restored: %s", got)
	}
	w.run(t, 0, "rollback", "acme", "--yes")
	if got := live(); got != "changed later 5000 10" {
		t.Errorf("rolled back: %s", got)
	}
	w.db.Exec(t, "DROP SCHEMA globex CASCADE")
	if err := os.RemoveAll(filepath.Join(w.root, "globex")); err != nil {
		t.Fatal(err)
	}
	mention(t, w.run(t, 0, "restore", "--latest", "--schema=globex", "--include-media"), "1 file of tenant Globex is back")
	if got := w.files(t)["globex/g"]; got != "g" {
		t.Errorf("globex has %q", got)
	}

	// What is wrong with an archive is found before anything is touched.
	outside := t.TempDir()
	if err := os.Symlink("/etc/passwd", filepath.Join(outside, "out")); err != nil {
		t.Fatal(err)
	}
	refused := func(want string) {
		t.Helper()
		mention(t, w.run(t, 1, restore...), want, "--include-media=false")
		if got := live(); got != "changed later 5000 10" {
			t.Errorf("%s: live is %s", want, got)
		}
	}
	pack("acme", filepath.Join(w.root, "acme", "b"))
	refused("the name is absolute")
	pack("acme", "-C", w.root, "acme", "globex")
	refused(`seems to be of somebody else`)
	pack("acme", "-C", outside, ".")
	mention(t, w.run(t, 1, restore...), `link "out" leads out`, "--leave-out-links", "nothing was changed")
	o.write(t, "media/acme_media_20241216_143022.tar.gz", []byte("\x1f\x8bno"))
	refused("its archive media/acme_media_20241216_143022.tar.gz")
	if err := os.Remove(o.path("media/acme_media_20241216_143022.tar.gz")); err != nil {
		t.Fatal(err)
	}
	refused("the file is missing")
	mention(t, w.run(t, 0, "restore", "--latest", "--schema=acme", "--include-media=false", "--yes"), "Restored 1 schema")
	if got := live(); got != "changed later 5000 100" {
		t.Errorf("rows alone: %s", got)
	}
	for _, name := range w.left(t) {
		if strings.Contains(name, "__staging_") {
			t.Errorf("left: %s", name)
		}
	}
}
