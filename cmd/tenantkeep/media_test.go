package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantkeep/tenantkeep/internal/backup"
	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/media"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/storage/local"
)

// mediaWorld is a database with tenants that have files.
type mediaWorld struct {
	db    *pgtest.Database
	repo  string
	root  string
	flags []string
}

func newMediaWorld(t *testing.T) *mediaWorld {
	t.Helper()
	w := &mediaWorld{db: pgtest.New(t), repo: t.TempDir(), root: t.TempDir()}
	w.flags = []string{"--repository=" + w.repo, "--database-url=" + w.db.URL(), "--media-root=" + w.root}
	w.db.Exec(t, `
		CREATE SCHEMA acme; CREATE TABLE acme.files (id int PRIMARY KEY); INSERT INTO acme.files SELECT generate_series(1, 100);
		CREATE SCHEMA globex; CREATE TABLE globex.files (id int PRIMARY KEY)`)
	w.write(t, "acme/img/a.jpg", strings.Repeat("a", 5000))
	w.write(t, "acme/b", "b")
	w.write(t, "shared/logo", "logo")
	return w
}

func (w *mediaWorld) write(t *testing.T, name, content string) {
	t.Helper()
	path := filepath.Join(w.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// run runs a command and returns what it says.
func (w *mediaWorld) run(t *testing.T, code int, args ...string) string {
	t.Helper()
	flags := w.flags
	if args[0] == "list" || args[0] == "verify" {
		flags = flags[:1]
	}
	stdout, stderr := runIn(t, code, append(args, flags...)...)
	return stdout + stderr
}

// files are those below the media root, with their contents.
func (w *mediaWorld) files(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(w.root, func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.Name() == ".tenantkeep" {
			return fs.SkipDir
		}
		if err != nil || d.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		name, _ := filepath.Rel(w.root, path)
		found[name] = string(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func (w *mediaWorld) rows(t *testing.T) string {
	t.Helper()
	return w.db.Query(t, "SELECT count(*) FROM acme.files")[0]
}

func (w *mediaWorld) archives(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(w.repo, "media", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// Files come back with their rows, and go back with them.
func TestMedia(t *testing.T) {
	t.Parallel()
	w := newMediaWorld(t)
	mention(t, w.run(t, 0, "backup", "--include-media", "--dry-run"), filepath.Join(w.root, "acme"))
	mention(t, w.run(t, 0, "backup", "--include-media"), "Media: 3 files")
	if n := len(w.archives(t)); n != 2 {
		t.Errorf("%d archives: %q", n, w.archives(t))
	}
	w.run(t, 0, "backup", "--include-media", "--backup-type=incremental")
	w.write(t, "acme/c", "c")
	w.run(t, 0, "backup", "--include-media", "--backup-type=incremental")
	mention(t, w.run(t, 0, "verify"), "All is well", "Media:")

	// What is damaged is wrong with all backups that refer to it.
	first := slices.MinFunc(slices.DeleteFunc(w.archives(t), func(name string) bool { return !strings.Contains(name, "acme_media") }), strings.Compare)
	whole, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	damaged := slices.Clone(whole)
	damaged[40] ^= 1
	for i, content := range [][]byte{damaged, whole} {
		if err := os.WriteFile(first, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			mention(t, w.run(t, 1, "verify"), "in 3 backups", `file "img/a.jpg": in media/`+filepath.Base(first))
		}
	}
	w.run(t, 0, "verify")

	// The archive of the first is needed by the last, and stays as long.
	var list []listed
	stdout, _ := runIn(t, 0, append([]string{"list", "--format=json"}, w.flags[0])...)
	if err := json.Unmarshal([]byte(stdout), &list); err != nil || len(list) != 3 || *list[0].MediaFiles != 4 {
		t.Fatalf("%v: %s", err, stdout)
	}

	then := w.files(t)
	w.write(t, "acme/img/a.jpg", "overwritten")
	w.write(t, "acme/later", "later")
	w.db.Exec(t, "DELETE FROM acme.files WHERE id > 10")
	now := w.files(t)
	mention(t, w.run(t, 0, "restore", "--latest", "--schema=acme", "--include-media", "--dry-run"), "3 files", filepath.Join(w.root, "acme"), "__replaced_")
	if len(w.files(t)) != len(now) {
		t.Error("a dry run did something")
	}
	mention(t, w.run(t, 0, "restore", "--latest", "--schema=acme", "--include-media", "--yes"), "3 files of tenant acme are back")
	live := func() map[string]string {
		files := w.files(t)
		for name := range files {
			if strings.Contains(name, "__") {
				delete(files, name)
			}
		}
		return files
	}
	same := func(what string, want map[string]string, rows string) {
		t.Helper()
		if got := live(); len(got) != len(want) || got["acme/img/a.jpg"] != want["acme/img/a.jpg"] || got["acme/later"] != want["acme/later"] {
			t.Errorf("%s: %d files, not %d", what, len(got), len(want))
		}
		if got := w.rows(t); got != rows {
			t.Errorf("%s: %s rows", what, got)
		}
	}
	same("restored", then, "100")
	w.run(t, 0, "rollback", "acme", "--yes")
	same("rolled back", now, "10")
	w.run(t, 0, "rollback", "acme", "--yes")
	same("rolled back once more", then, "100")
	w.run(t, 0, "rollback", "acme", "--yes", "--include-media=false")
	same("rolled back without files", then, "10")

	w.run(t, 0, "restore", "--latest", "--schema=acme", "--as=clone", "--include-media")
	if files := w.files(t); files["clone/b"] != "b" || files["clone/img/a.jpg"] != then["acme/img/a.jpg"] {
		t.Errorf("the clone has not its files")
	}
	w.db.Exec(t, "DROP SCHEMA clone CASCADE")
	mention(t, w.run(t, 1, "restore", "--latest", "--schema=acme", "--as=clone", "--include-media"), "there is a folder", "nothing was changed")
	if err := os.RemoveAll(filepath.Join(w.root, "clone")); err != nil {
		t.Fatal(err)
	}

	mention(t, w.run(t, 0, "cleanup", "--keep-replaced=0s", "--yes", "--only=database"), "media folder")
	for name := range w.files(t) {
		if strings.Contains(name, "__") {
			t.Errorf("left: %s", name)
		}
	}
	// What nothing in the database tells of may be all that is left of the tenant.
	w.db.Exec(t, "DROP SCHEMA acme CASCADE")
	for _, more := range []string{"--dry-run", "--yes"} {
		mention(t, w.run(t, 1, "restore", "--latest", "--schema=acme", "--include-media", more), `files of "acme"`, "--include-media=false", "--existing-media keep", "nothing was changed")
	}
	w.write(t, "acme/later", "kept")
	mention(t, w.run(t, 0, "restore", "--latest", "--schema=acme", "--include-media", "--existing-media=keep"), "they stay as they are")
	if files := live(); files["acme/later"] != "kept" || w.rows(t) != "100" {
		t.Errorf("the folder was to be kept: %q, %s rows", files, w.rows(t))
	}
	w.db.Exec(t, "DROP SCHEMA acme CASCADE")
	mention(t, w.run(t, 0, "restore", "--latest", "--schema=acme", "--include-media", "--existing-media=replace"), "its folder was there already")
	same("restored into a free place", then, "100")
	if kept := w.left(t); len(kept) != 1 || w.files(t)[filepath.Base(kept[0])+"/later"] != "kept" {
		t.Errorf("the folder was to be replaced and kept: %q", kept)
	}
	w.run(t, 2, "restore", "--latest", "--existing-media=no")
}

// A database beside the one of the backup does not get its hands on the folders of
// that one, whether or not it has such schemas.
func TestMediaOfAnotherDatabase(t *testing.T) {
	t.Parallel()
	w := newMediaWorld(t)
	w.run(t, 0, "backup", "--include-media")
	w.write(t, "acme/today", "today")
	before := w.files(t)
	same := func(what string) {
		t.Helper()
		if diff := cmp.Diff(before, w.files(t)); diff != "" {
			t.Errorf("%s: the files are not what they were:\n%s", what, diff)
		}
	}
	beside := *w
	beside.flags = append(slices.Clone(w.flags), "--database-url="+pgtest.New(t).URL())
	for _, more := range []string{"--dry-run", "--yes"} {
		mention(t, beside.run(t, 1, "restore", "--latest", "--include-media", more), `files of "acme"`, "has no such schema", "nothing was changed")
		same("into an empty database")
	}
	beside.run(t, 0, "restore", "--latest", "--include-media", "--existing-media=keep")
	same("with the folders kept")
	mention(t, beside.run(t, 1, "restore", "--latest", "--schema=acme", "--include-media", "--yes"), `files of "acme"`, "the backup is of another database", "nothing was changed")
	same("over the restored one")
	beside.run(t, 0, "restore", "--latest", "--schema=acme", "--include-media=false", "--yes")
	same("without files")

	// A container whose database is new keeps what survived in the volume.
	first := *w
	first.db = pgtest.New(t)
	first.flags = append(slices.Clone(w.flags), "--database-url="+first.db.URL())
	mention(t, first.run(t, 0, "startup", "--latest", "--include-media"), "they stay as they are")
	same("at the start of a container")
	if got := first.rows(t); got != "100" {
		t.Errorf("at the start of a container %s rows were restored", got)
	}

	// Nor does a tenant get those of another.
	mention(t, w.run(t, 1, "restore", "--latest", "--schema=acme", "--include-media", "--as=x", "--media-folder=x=acme/in"), `the media folder of schema "x" is in that of "acme"`)
	w.db.Exec(t, "DROP SCHEMA globex CASCADE; CREATE SCHEMA other")
	w.write(t, "other/file", "of other")
	before = w.files(t)
	mention(t, w.run(t, 1, "restore", "--latest", "--schema=acme", "--include-media", "--media-folder=acme=other", "--yes"), "have the same media folder")
	same("into the folder of another")

	// What the other one does with consent is its own: the first leaves it alone.
	beside.run(t, 0, "restore", "--latest", "--schema=acme", "--include-media", "--existing-media=replace", "--yes")
	kept := w.left(t)
	w.run(t, 0, "cleanup", "--only=database", "--keep-replaced=0s", "--yes")
	if len(kept) != 1 || !slices.Equal(kept, w.left(t)) {
		t.Errorf("kept was %q, and now there is %q", kept, w.left(t))
	}
	beside.run(t, 0, "rollback", "acme", "--yes")
	if got := w.files(t)["acme/today"]; got != "today" {
		t.Errorf("rolled back, the live file holds %q", got)
	}
}

// Files that belong to no tenant come back with core where they are missing.
func TestMediaOfCore(t *testing.T) {
	t.Parallel()
	w := newMediaWorld(t)
	w.db.Exec(t, "CREATE TABLE public.plans (id int PRIMARY KEY); INSERT INTO public.plans VALUES (1)")
	w.write(t, "shared/icons/a", "a")
	w.run(t, 0, "backup", "--include-media")
	w.write(t, "shared/logo", "today")
	w.write(t, "acme/b", "today")
	if err := os.RemoveAll(filepath.Join(w.root, "shared", "icons")); err != nil {
		t.Fatal(err)
	}
	mention(t, w.run(t, 0, "restore", "--latest", "--schema=core", "--include-media", "--dry-run"), "where they are missing")
	mention(t, w.run(t, 0, "restore", "--latest", "--schema=core", "--include-media", "--yes"), "1 was missing and is back", "1 media file is there already and stays as before")
	if files := w.files(t); files["shared/logo"] != "today" || files["shared/icons/a"] != "a" || files["acme/b"] != "today" {
		t.Errorf("there are %q", files)
	}

	// Everything comes back on a new machine.
	empty := *w
	empty.root = t.TempDir()
	empty.flags = append(slices.Clone(w.flags), "--database-url="+pgtest.New(t).URL(), "--media-root="+empty.root)
	empty.run(t, 0, "restore", "--latest", "--include-media")
	want := map[string]string{"shared/logo": "logo", "shared/icons/a": "a", "acme/b": "b", "acme/img/a.jpg": strings.Repeat("a", 5000)}
	if diff := cmp.Diff(want, empty.files(t)); diff != "" {
		t.Error(diff)
	}

	// What a restore into another database could not finish is completed by another,
	// which overwrites nothing.
	beside := *w
	beside.flags = append(slices.Clone(w.flags), "--database-url="+pgtest.New(t).URL())
	if err := os.RemoveAll(filepath.Join(w.root, "shared", "icons")); err != nil {
		t.Fatal(err)
	}
	mention(t, beside.run(t, 0, "restore", "--latest", "--schema=core", "--include-media"), "the backup is of another database", "those that are missing are added", "1 was missing and is back")
	if files := w.files(t); files["shared/icons/a"] != "a" || files["shared/logo"] != "today" {
		t.Errorf("there are %q", files)
	}
}

// What only looks like a folder of a restore belongs to the user.
func TestMediaLookalikes(t *testing.T) {
	t.Parallel()
	w := newMediaWorld(t)
	w.write(t, "x__staging_20200101_000000/file", "mine")
	w.write(t, "acme__replaced_20200101_000000/file", "mine")
	w.run(t, 0, "backup", "--include-media")
	w.run(t, 0, "restore", "--latest", "--schema=acme", "--include-media", "--yes")
	w.run(t, 0, "cleanup", "--only=database", "--keep-replaced=0s", "--yes")
	if files := w.files(t); files["x__staging_20200101_000000/file"] != "mine" || files["acme__replaced_20200101_000000/file"] != "mine" || len(w.left(t)) != 2 {
		t.Errorf("there is left: %q", w.left(t))
	}
	if out := w.run(t, 0, "doctor"); strings.Contains(out, "20200101") {
		t.Errorf("doctor counts them as its own: %s", out)
	}
}

// noted are the lines of the note of a move.
func noted(t *testing.T, note string) []string {
	t.Helper()
	text, err := os.ReadFile(note)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(text))
}

func writeNote(t *testing.T, note string, lines []string) {
	t.Helper()
	if err := os.WriteFile(note, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// unplace brings the newest move of folders into the state in which a process leaves
// it that dies when the transaction of the swap has just been committed.
func (w *mediaWorld) unplace(t *testing.T) {
	t.Helper()
	notes, err := filepath.Glob(filepath.Join(w.root, ".tenantkeep", "*"))
	if err != nil || len(notes) == 0 {
		t.Fatalf("notes: %q, %v", notes, err)
	}
	var newest string
	var lines []string
	var move struct{ Folder, Incoming, Replaced, Placed string }
	for _, note := range notes {
		l := noted(t, note)
		m := move
		if err := json.Unmarshal([]byte(l[len(l)-1]), &m); err != nil {
			t.Fatal(err)
		}
		if m.Placed > move.Placed {
			newest, lines, move = note, l, m
		}
	}
	writeNote(t, newest, lines[:len(lines)-1])
	for _, step := range [][2]string{{move.Folder, move.Incoming}, {move.Replaced, move.Folder}} {
		if step[0] == "" || step[1] == "" {
			continue
		}
		if err := os.Rename(filepath.Join(w.root, step[0]), filepath.Join(w.root, step[1])); err != nil {
			t.Fatal(err)
		}
	}
}

// A restore that ends between the schema and its folder is completed by the next
// run, and what a dead one left is removed.
func TestMediaAfterKill(t *testing.T) {
	t.Parallel()
	for _, next := range [][]string{{"cleanup", "--yes", "--only=database", "--keep-replaced=0s"}, {"rollback", "acme", "--yes"}, {"restore", "--latest", "--schema=globex", "--include-media", "--yes"}} {
		w := newMediaWorld(t)
		w.run(t, 0, "backup", "--include-media")
		w.write(t, "acme/b", "today")
		w.run(t, 0, "restore", "--latest", "--schema=acme", "--include-media", "--yes")
		w.unplace(t)
		mention(t, w.run(t, 1, "doctor"), "problem  media", "were not put in their place")
		mention(t, w.run(t, 0, "backup", "--include-media"), "wait in acme__staging_")
		mention(t, w.run(t, 1, "health"), "leftovers", "acme has not got its files back: they wait in acme__staging_")

		// Without the label of its schema nobody would know what the folder is for.
		flags := w.flags
		for _, f := range [][]string{flags[:2], append(slices.Clone(flags), "--media-root="+t.TempDir())} {
			w.flags = f
			mention(t, w.run(t, 3, "cleanup", "--yes", "--only=database", "--keep-replaced=0s"), "stays", "media folder belongs to it")
		}
		w.flags = flags

		w.run(t, 0, next...)
		want := "b"
		if next[0] == "rollback" {
			want = "today"
		}
		files := w.files(t)
		if files["acme/b"] != want {
			t.Errorf("after %s the live file holds %q", next[0], files["acme/b"])
		}
		if slices.ContainsFunc(w.left(t), func(name string) bool { return strings.Contains(name, "__staging_") }) {
			t.Errorf("after %s there is left: %q", next[0], w.left(t))
		}
		if next[0] != "cleanup" {
			continue
		}
		// The folder took its place a moment ago: its time begins now, with that of its
		// schema.
		mention(t, w.run(t, 0, "cleanup", "--dry-run", "--only=database", "--keep-replaced=1h"), "nothing to remove")
		w.run(t, 0, "rollback", "acme", "--yes")
		if got := w.files(t)["acme/b"]; got != "today" {
			t.Errorf("rolled back, the live file holds %q", got)
		}
	}
}

// A rollback that ends there has the folder that was live once waiting for its place.
func TestMediaAfterKilledRollback(t *testing.T) {
	t.Parallel()
	for _, gone := range []bool{false, true} { // whether anything is live that the rollback replaces
		w := newMediaWorld(t)
		w.run(t, 0, "backup", "--include-media")
		w.write(t, "acme/b", "today")
		w.run(t, 0, "restore", "--latest", "--schema=acme", "--include-media", "--yes")
		if gone {
			w.db.Exec(t, "DROP SCHEMA acme CASCADE")
		}
		w.run(t, 0, "rollback", "acme", "--yes")
		w.unplace(t)
		mention(t, w.run(t, 1, "doctor"), "were not put in their place")
		for range 2 {
			w.run(t, 0, "cleanup", "--yes", "--only=database", "--keep-replaced=0s")
			if got := w.files(t)["acme/b"]; got != "today" {
				t.Errorf("after a cleanup the live file holds %q, and there are %q", got, w.left(t))
			}
		}
		if len(w.left(t)) != 0 {
			t.Errorf("there is left: %q", w.left(t))
		}
	}
}

// A restore into a free place that ends before its schema appears leaves nothing in
// the way of the next one, and nothing is lost that it replaced.
func TestMediaAfterKillInFreePlace(t *testing.T) {
	t.Parallel()
	for _, what := range []string{"--all", "--schema=acme"} {
		w := newMediaWorld(t)
		w.run(t, 0, "backup", "--include-media")
		w.write(t, "acme/b", "today")
		w.db.Exec(t, "DROP SCHEMA acme, globex CASCADE")
		w.run(t, 0, "restore", "--latest", "--all", "--include-media", "--existing-media=replace", "--yes")
		notes, err := filepath.Glob(filepath.Join(w.root, ".tenantkeep", "*"))
		if err != nil || len(notes) != 1 {
			t.Fatalf("notes: %q, %v", notes, err)
		}
		lines := noted(t, notes[0])
		writeNote(t, notes[0], lines[:len(lines)-1])
		w.db.Exec(t, "COMMENT ON SCHEMA acme IS 'tenantkeep: restore of x not finished'")
		if got := w.files(t)["acme/b"]; got != "b" {
			t.Fatalf("the live file holds %q", got)
		}
		mention(t, w.run(t, 1, "doctor"), "acme: a restore of x into it", `COMMENT ON SCHEMA "acme" IS NULL`)
		mention(t, w.run(t, 0, "cleanup", "--yes", "--only=database"), "schema acme stays", "restore of x")
		mention(t, w.run(t, 1, "restore", "--latest", what, "--include-media", "--yes"), `files of "acme"`)
		if what != "--all" { // the schema, in which somebody may have gone on, is kept, and so is its folder
			mention(t, w.run(t, 3, "backup", "--include-media"), "acme: a restore of backup x into it has not ended")
		}
		mention(t, w.run(t, 0, "restore", "--latest", what, "--include-media", "--existing-media=keep", "--yes"), "they stay as they are")
		var kept []string
		for _, name := range w.left(t) {
			kept = append(kept, w.files(t)[filepath.Base(name)+"/b"])
		}
		if got := w.files(t)["acme/b"]; got != "today" || what == "--all" && len(kept) != 0 || what != "--all" && !slices.Equal(kept, []string{"b"}) {
			t.Errorf("%s: the live file holds %q, and kept are %q", what, got, kept)
		}
		w.run(t, 0, "cleanup", "--yes", "--only=database", "--keep-replaced=0s")
		if got := w.files(t)["acme/b"]; got != "today" || len(w.left(t)) != 0 {
			t.Errorf("%s: after a cleanup the live file holds %q, and there are %q", what, got, w.left(t))
		}
	}
}

// A note that cannot be read, or is none, costs what it concerns: the files beside
// the tenants' folders.
func TestMediaBadNote(t *testing.T) {
	t.Parallel()
	w := newMediaWorld(t)
	w.run(t, 0, "backup", "--include-media")
	w.write(t, ".tenantkeep/20261123_100000_0123456789abcdef", `{"folder":"../acme"}`+"\n")
	mention(t, w.run(t, 3, "backup", "--include-media"), "core: media: note ", "move that file away", "Saved core and 2 tenants", "Media: 2 files")
	mention(t, w.run(t, 1, "doctor"), "problem  media", "move that file away")
}

// What only media files had changed for is all that is left of a backup without its
// manifest: repair tells of it.
func TestMediaRepair(t *testing.T) {
	t.Parallel()
	w := newMediaWorld(t)
	w.run(t, 0, "backup", "--include-media")
	w.write(t, "acme/new", "new")
	w.run(t, 0, "backup", "--include-media", "--backup-type=incremental")
	newest := slices.Max(slices.DeleteFunc(w.archives(t), func(name string) bool { return !strings.Contains(name, "acme_media") }))
	for _, name := range manifestsIn(t, w.repo) {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time there is nothing to rebuild
		stdout, _ := runIn(t, 3, "repair", "--yes", w.flags[0])
		mention(t, stdout, "media/"+filepath.Base(newest), "taken out with tar")
	}
}

// The owner of a schema can write its label, and gets no folder of others by that.
func TestMediaForgedLabel(t *testing.T) {
	t.Parallel()
	w := newMediaWorld(t)
	w.write(t, "globex/file", "of the backup")
	w.run(t, 0, "backup", "--include-media")
	w.write(t, "globex/file", "today")
	w.run(t, 0, "restore", "--latest", "--schema=globex", "--include-media", "--yes")
	w.unplace(t)
	label := w.db.Query(t, `SELECT substring(obj_description(oid, 'pg_namespace') FROM '\{.*') FROM pg_namespace WHERE nspname LIKE 'globex__replaced%'`)[0]
	w.db.Exec(t, `COMMENT ON SCHEMA `+w.db.Query(t, `SELECT quote_ident(nspname) FROM pg_namespace WHERE nspname LIKE 'globex__replaced%'`)[0]+` IS NULL`)
	w.run(t, 0, "restore", "--latest", "--schema=acme", "--yes", "--include-media=false")
	name := w.db.Query(t, `SELECT quote_ident(nspname) FROM pg_namespace WHERE nspname LIKE 'acme__replaced%'`)[0]
	for _, forged := range []string{label, strings.Replace(label, `"globex"`, `"acme"`, 1)} {
		w.db.Exec(t, `COMMENT ON SCHEMA `+name+` IS 'tenantkeep: `+forged+`'`)
		w.run(t, 1, "rollback", "acme", "--yes")
		w.run(t, 0, "cleanup", "--only=database", "--yes")
		if got := w.files(t)["globex/file"]; got != "today" {
			t.Errorf("with %s the file of globex holds %q", forged, got)
		}
	}
}

func (w *mediaWorld) left(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(w.root, "*__*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestMediaBadInput(t *testing.T) {
	t.Parallel()
	w := newMediaWorld(t)
	flags := w.flags
	w.flags = flags[:2]
	mention(t, w.run(t, 2, "backup", "--include-media"), "--media-root")
	w.flags = append(slices.Clone(flags[:2]), "--media-root="+filepath.Join(w.root, "none"))
	mention(t, w.run(t, 1, "backup", "--include-media"), "no such file or directory", "is it mounted?")
	w.flags = flags
	mention(t, w.run(t, 2, "backup", "--include-media", "--media-pattern=media"), "the same for all tenants")

	w.run(t, 0, "backup", "--include-media")

	// Links that lead out, and an archive that is damaged.
	if err := os.Symlink("/etc/passwd", filepath.Join(w.root, "acme/out")); err != nil {
		t.Fatal(err)
	}
	mention(t, w.run(t, 0, "backup", "--include-media"), `"out" is a link that leads out of the folder`)
	mention(t, w.run(t, 1, "restore", "--latest", "--schema=acme", "--include-media", "--yes"), `link "out" leads out`, "--leave-out-links", "nothing was changed")
	w.run(t, 0, "restore", "--latest", "--schema=acme", "--include-media", "--yes", "--leave-out-links")
	if _, err := os.Lstat(filepath.Join(w.root, "acme/out")); err == nil {
		t.Error("the link came back")
	}
	archives := w.archives(t)
	newest := slices.MaxFunc(slices.DeleteFunc(archives, func(name string) bool { return !strings.Contains(name, "acme_media") }), strings.Compare)
	content, err := os.ReadFile(newest)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/3] ^= 1
	if err := os.WriteFile(newest, content, 0o600); err != nil {
		t.Fatal(err)
	}
	mention(t, w.run(t, 1, "restore", "--latest", "--schema=acme", "--include-media", "--yes"), "the file has other contents", "nothing was changed")
	mention(t, w.run(t, 1, "verify"), "media/acme_media_", "other contents")

	if os.Geteuid() == 0 {
		return // who may read everything
	}
	if err := os.Chmod(filepath.Join(w.root, "acme/b"), 0); err != nil {
		t.Fatal(err)
	}
	mention(t, w.run(t, 3, "backup", "--include-media"), `"b" may not be read`)
}

// Files that are gone are missed by each backup until somebody says that it is
// right. Before, the second one took it so, and outvoted those that had them.
func TestMediaGone(t *testing.T) {
	t.Parallel()
	w := newMediaWorld(t)
	backup := func(code int, more ...string) string {
		t.Helper()
		return w.run(t, code, append([]string{"backup", "--include-media"}, more...)...)
	}
	rename := func(from, to string) {
		t.Helper()
		if err := os.Rename(from, to); err != nil {
			t.Fatal(err)
		}
	}
	backup(0)
	folder, away := filepath.Join(w.root, "acme"), filepath.Join(t.TempDir(), "away")
	rename(folder, away)
	for _, kind := range []string{"full", "incremental", "full"} {
		mention(t, backup(3, "--backup-type="+kind), "acme is gone", "2 files", "--media-gone acme", "their rows, and all others, are safe")
	}
	mention(t, w.run(t, 0, "list"), "partial")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		mention(t, backup(3, "--backup-type=incremental"), "no file is left", "2 files", "--media-gone acme")
	}
	mention(t, w.run(t, 2, "backup", "--media-gone=acme"), "--include-media")
	mention(t, backup(1, "--media-gone=acmee"), `no schema "acmee"`)
	mention(t, backup(1, "--media-gone=public"), "has files", "not gone")
	backup(0, "--media-gone=acme")
	backup(0)
	if err := os.Remove(folder); err != nil {
		t.Fatal(err)
	}
	backup(0)

	// A disk that is not mounted has no tenant's folder.
	rename(away, folder)
	mention(t, backup(1, "--media-gone=acme"), "has files", "not gone")
	w.write(t, "globex/x", "x")
	backup(0)
	mounted := w.flags[2]
	w.flags[2] = "--media-root=" + t.TempDir()
	for range 2 {
		mention(t, backup(1), "all 2 tenants that had files are gone", "is the disk mounted?", "--include-media=false")
	}
	mention(t, backup(3, "--media-gone=acme"), "globex is gone", "no file is left", "--media-gone public")
	backup(0, "--media-gone=acme", "--media-gone=globex", "--media-gone=public")
	w.flags[2] = mounted
	backup(0)
}

// unreadable is a media root in which a file of acme may not be read, and to which a
// tenant comes while it is saved.
type unreadable struct {
	media.Source
	come func()
}

func (u unreadable) OpenShared(ctx context.Context, tenants media.Tenants) (media.OpenTree, error) {
	u.come()
	return u.Source.OpenShared(ctx, tenants)
}

func (u unreadable) Open(ctx context.Context, t media.Tenant) (media.OpenTree, error) {
	tree, err := u.Source.Open(ctx, t)
	if t.Schema == "acme" && err == nil {
		tree = unreadableFile{tree}
	}
	return tree, err
}

type unreadableFile struct{ media.OpenTree }

func (u unreadableFile) Open(ctx context.Context, name string) (media.Content, error) {
	if name == "b" {
		return nil, fs.ErrPermission
	}
	return u.OpenTree.Open(ctx, name)
}

// An archive that lacks files does not take the place of a folder that has them.
func TestMediaIncomplete(t *testing.T) {
	t.Parallel()
	w := newMediaWorld(t)
	server, err := pg.Parse(w.db.URL())
	if err != nil {
		t.Fatal(err)
	}
	store, err := local.New(w.repo)
	if err != nil {
		t.Fatal(err)
	}
	root, err := media.NewRoot(w.root, media.DefaultPattern, nil)
	if err != nil {
		t.Fatal(err)
	}
	come := func() {
		w.db.Exec(t, "CREATE SCHEMA newcomer")
		w.write(t, "newcomer/secret", "of the newcomer")
	}
	saved, err := backup.Run(t.Context(), backup.Options{
		Server: server, Repo: repo.Open(store, repo.Options{}), Type: manifest.Full, Media: unreadable{root, come}, Jobs: 1, Version: "test",
		Compression: datafile.Compression{Algorithm: datafile.Zstd}, Progress: noProgress{}, Log: slog.New(slog.DiscardHandler),
	})
	if partial, ok := errors.AsType[*backup.PartialError](err); !ok || len(partial.Media) != 1 {
		t.Fatalf("the backup: %v", err)
	}
	if core := saved.Manifest.Schemas[0]; !core.IsCore() || core.Media.Files != 1 {
		t.Errorf("core has %d files, one of which is shared", core.Media.Files)
	}
	restore := []string{"restore", "--latest", "--schema=acme", "--include-media", "--yes"}
	for _, more := range []string{"--yes", "--dry-run"} {
		mention(t, w.run(t, 1, append(restore, more)...), `"b" may not be read`, "--allow-incomplete", "--include-media=false", "nothing was changed")
	}
	w.db.Exec(t, "DROP SCHEMA acme CASCADE") // the folder alone is reason enough
	replace := append(slices.Clone(restore), "--existing-media=replace")
	mention(t, w.run(t, 1, replace...), `"b" may not be read`)
	if got := w.files(t)["acme/b"]; got != "b" {
		t.Errorf("the live file holds %q", got)
	}
	mention(t, w.run(t, 3, append(replace, "--allow-incomplete")...), "media of 1 file", "1 file of tenant acme is back", "see above")
	if files := w.files(t); files["acme/b"] != "" || files["acme/img/a.jpg"] == "" {
		t.Errorf("files: %v", files)
	}
	if err := os.RemoveAll(filepath.Join(w.root, "acme")); err != nil {
		t.Fatal(err)
	}
	w.db.Exec(t, "DROP SCHEMA acme CASCADE")
	mention(t, w.run(t, 3, restore...), `"b" may not be read`)
	if got := w.rows(t); got != "100" {
		t.Errorf("%s rows", got)
	}
}

// Files of a template come with it, to new tenants and to those that are reset.
func TestMediaOfBaselines(t *testing.T) {
	t.Parallel()
	w := newMediaWorld(t)
	dir := filepath.Join(t.TempDir(), "baselineData")
	folder := filepath.Join(dir, "templates", "shop", "media")
	make := func(more ...string) string {
		t.Helper()
		return w.run(t, 0, append([]string{"backup", "--backup-type=baseline", "--template=shop", "--schema=acme", "--all-rows", "--baseline-dir=" + dir}, more...)...)
	}
	restore := func(code int, more ...string) string {
		t.Helper()
		return w.run(t, code, append([]string{"restore", "--baseline", "--template=shop", "--baseline-dir=" + dir, "--include-media"}, more...)...)
	}
	archives := func() []string {
		t.Helper()
		list, err := filepath.Glob(filepath.Join(folder, "*"))
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	w.write(t, "globex/own", "own")
	make("--include-media")
	make("--include-media")
	if list := archives(); len(list) != 1 || !strings.HasSuffix(list[0], ".tar.zst") {
		t.Fatalf("archives: %q", list)
	}
	requireFiles := func(tenant string, want map[string]string) {
		t.Helper()
		got := map[string]string{}
		for name, content := range w.files(t) {
			if rest, ok := strings.CutPrefix(name, tenant+"/"); ok {
				got[rest] = content
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("files of %s: %s", tenant, diff)
		}
	}
	template := map[string]string{"img/a.jpg": strings.Repeat("a", 5000), "b": "b"}
	w.write(t, "acme/b", "changed")
	restore(0, "--as=fresh")
	requireFiles("fresh", template)
	var all sync.WaitGroup
	for n := range 5 {
		all.Go(func() { restore(0, fmt.Sprintf("--as=t%d", n), "--jobs=1") })
	}
	all.Wait()
	for n := range 5 {
		requireFiles(fmt.Sprintf("t%d", n), template)
	}

	// What cannot be registered leaves no folder either, and a folder that is
	// there is not touched.
	mention(t, restore(1, "--as=never", "--new-tenant-sql=SELECT 1/0"), "division by zero", "nothing was made")
	requireFiles("never", map[string]string{})
	w.write(t, "taken/x", "x")
	mention(t, restore(1, "--as=taken"), "there is a folder", "nothing was changed")
	requireFiles("taken", map[string]string{"x": "x"})

	restore(0, "--schema=globex", "--yes")
	requireFiles("globex", template)
	w.run(t, 0, "rollback", "globex", "--yes")
	requireFiles("globex", map[string]string{"own": "own"})

	// An archive that was changed is refused, and one that is missing is missed.
	archive := archives()[0]
	whole, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	other := slices.Clone(whole)
	other[len(other)/3] ^= 1
	for _, bad := range [][]byte{whole[:len(whole)-1], whole[:10], append([]byte{1}, whole...), other} {
		if err := os.WriteFile(archive, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		mention(t, restore(1, "--as=never"), "was cut short or changed", "with --include-media=false it is restored without files")
	}
	if err := os.Remove(archive); err != nil {
		t.Fatal(err)
	}
	mention(t, restore(1, "--as=never"), "is not there, with which the baseline was made", "--include-media=false")
	restore(0, "--as=bare", "--include-media=false")
	requireFiles("bare", map[string]string{})
	make()
	if list := archives(); len(list) != 0 {
		t.Errorf("archives: %q", list)
	}
	for name := range w.files(t) {
		if strings.Contains(name, "staging") || strings.HasPrefix(name, "never") {
			t.Errorf("left: %s", name)
		}
	}
}
