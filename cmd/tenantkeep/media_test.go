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
	w.db.Exec(t, "DROP SCHEMA acme CASCADE")
	mention(t, w.run(t, 0, "restore", "--latest", "--schema=acme", "--include-media"), "its folder was there already")
	same("restored into a free place", then, "100")
}

// A restore that ends between the schema and its folder is completed by the next
// run, and what a dead one left is removed.
func TestMediaAfterKill(t *testing.T) {
	t.Parallel()
	for _, next := range [][]string{{"cleanup", "--yes", "--only=database"}, {"rollback", "acme", "--yes"}, {"restore", "--latest", "--schema=globex", "--include-media", "--yes"}} {
		w := newMediaWorld(t)
		w.run(t, 0, "backup", "--include-media")
		w.write(t, "acme/b", "today")
		w.run(t, 0, "restore", "--latest", "--schema=acme", "--include-media", "--yes")
		// As it was when the transaction of the swap had just been committed.
		kept, err := filepath.Glob(filepath.Join(w.root, "acme__replaced_*"))
		if err != nil || len(kept) != 1 {
			t.Fatalf("kept %q, %v", kept, err)
		}
		incoming := w.db.Query(t, `SELECT substring(obj_description(oid, 'pg_namespace') FROM '\{.*')::json -> 'media' ->> 'incoming' FROM pg_namespace WHERE nspname LIKE 'acme__replaced%'`)
		staging := filepath.Join(w.root, incoming[0])
		for _, move := range [][2]string{{"acme", staging}, {kept[0], "acme"}} {
			for i, name := range move {
				if !filepath.IsAbs(name) {
					move[i] = filepath.Join(w.root, name)
				}
			}
			if err := os.Rename(move[0], move[1]); err != nil {
				t.Fatal(err)
			}
		}
		w.write(t, "globex__staging_20261123_100000/half", "of a restore that died")
		mention(t, w.run(t, 1, "doctor"), "problem  media", "were not put in their place", "globex__staging_20261123_100000")

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

// unreadable is a media root in which a file of acme may not be read.
type unreadable struct{ media.Source }

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
	_, err = backup.Run(t.Context(), backup.Options{
		Server: server, Repo: repo.Open(store, repo.Options{}), Type: manifest.Full, Media: unreadable{root}, Jobs: 1, Version: "test",
		Compression: datafile.Compression{Algorithm: datafile.Zstd}, Progress: noProgress{}, Log: slog.New(slog.DiscardHandler),
	})
	if partial, ok := errors.AsType[*backup.PartialError](err); !ok || len(partial.Media) != 1 {
		t.Fatalf("the backup: %v", err)
	}
	restore := []string{"restore", "--latest", "--schema=acme", "--include-media", "--yes"}
	for _, more := range []string{"--yes", "--dry-run"} {
		mention(t, w.run(t, 1, append(restore, more)...), `"b" may not be read`, "--allow-incomplete", "--include-media=false", "nothing was changed")
	}
	w.db.Exec(t, "DROP SCHEMA acme CASCADE") // the folder alone is reason enough
	w.run(t, 1, restore...)
	if got := w.files(t)["acme/b"]; got != "b" {
		t.Errorf("the live file holds %q", got)
	}
	mention(t, w.run(t, 3, append(restore, "--allow-incomplete")...), "media of 1 file", "1 file of tenant acme is back", "see above")
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
		mention(t, restore(1, "--as=never"), "was cut short or changed", "without the archive it is restored without files")
	}
	if err := os.Remove(archive); err != nil {
		t.Fatal(err)
	}
	mention(t, restore(2, "--as=never"), "was taken without media")
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
