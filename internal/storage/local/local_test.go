package local

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantkeep/tenantkeep/internal/storage"
	"github.com/tenantkeep/tenantkeep/internal/storage/storagetest"
)

// helperVariable makes the test binary a process that locks a repository,
// begins a file and waits to be killed.
const helperVariable = "TENANTKEEP_TEST_LOCK_REPOSITORY"

func TestMain(m *testing.M) {
	if dir := os.Getenv(helperVariable); dir != "" {
		if err := holdLock(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func open(t *testing.T, dir string) *Store {
	t.Helper()
	s, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStorage(t *testing.T) {
	t.Parallel()
	storagetest.Test(t, func(t *testing.T) storage.Storage {
		return open(t, filepath.Join(t.TempDir(), "not", "there", "yet"))
	})
}

// The wrappers must keep the promises too, or tests that use them prove nothing.
func TestStorageUnderWrappers(t *testing.T) {
	t.Parallel()
	storagetest.Test(t, func(t *testing.T) storage.Storage {
		var s storage.Storage = open(t, t.TempDir())
		s = &storagetest.Full{Storage: s, Room: 1 << 30}
		s = &storagetest.Damaged{Storage: s, Key: "none", Flip: -1}
		return &storagetest.Crash{Storage: &storagetest.Faulty{Storage: s}}
	})
}

func TestNothingIsMadeByReading(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "backups")
	s := open(t, dir)
	if keys := storagetest.Keys(t, s, ""); len(keys) > 0 {
		t.Errorf("keys %v", keys)
	}
	if _, err := s.Open(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("error %v does not name the repository", err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("reading made the directory: %v", err)
	}
}

func TestModes(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "backups")
	s := open(t, dir)
	storagetest.Put(t, s, "data/a.sql", []byte("secret"))
	l, err := s.Lock(t.Context(), "repository", true, []byte("me"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Unlock()
	err = filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o600)
		if e.IsDir() {
			want = fs.ModeDir | 0o700
		}
		if info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), want)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestSyncedDirectories: each directory in which a name appeared is synced, those
// around a repository that was made included.
func TestSyncedDirectories(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	s := open(t, filepath.Join(base, "new", "backups"))
	commit := func(key string) {
		t.Helper()
		w, err := s.Create(t.Context(), key)
		if err == nil {
			err = w.Commit()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	want := func(dirs ...string) {
		t.Helper()
		var got []string
		for dir := range s.dirty {
			rel, err := filepath.Rel(base, dir)
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, rel)
		}
		slices.Sort(got)
		if diff := cmp.Diff(dirs, got); diff != "" {
			t.Errorf("directories to sync (-want +got):\n%s", diff)
		}
		if err := s.Sync(t.Context()); err != nil {
			t.Fatal(err)
		}
		if len(s.dirty) > 0 {
			t.Errorf("after a sync: %v", s.dirty)
		}
	}
	commit("data/deep/a")
	want(".", "new", "new/backups", "new/backups/data", "new/backups/data/deep")
	commit("data/deep/b")
	want("new/backups/data/deep")
	if err := s.Delete(t.Context(), "data/deep/b"); err != nil {
		t.Fatal(err)
	}
	want("new/backups/data/deep")
	// A directory that cannot be synced is tried again by the next Sync.
	s.touch(filepath.Join(base, "new", "backups", "data", "deep", "a", "x"))
	for range 2 {
		if err := s.Sync(t.Context()); !errors.Is(err, syscall.ENOTDIR) {
			t.Errorf("sync: %v", err)
		}
	}
}

func TestLinksOut(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	dir := t.TempDir()
	s := open(t, dir)
	storagetest.Put(t, s, "data/real", []byte("real"))
	write(t, filepath.Join(outside, "secret"), "secret")
	for name, target := range map[string]string{
		"data/file":   filepath.Join(outside, "secret"),
		"data/inside": "real",
		"data/broken": "nothing",
		"linked":      outside,
	} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if got := string(storagetest.Get(t, s, "data/inside")); got != "real" {
		t.Errorf("a link inside reads %q", got)
	}
	for _, key := range []string{"data/file", "linked/secret"} {
		if o, err := s.Open(t.Context(), key); err == nil {
			t.Errorf("%s leads out", key)
			_ = o.Close()
		}
	}
	if _, err := s.Create(t.Context(), "linked/new"); err == nil {
		t.Error("a file was made outside")
	}
	if err := s.Delete(t.Context(), "linked/secret"); err == nil {
		t.Error("deleting through a link out gives no error")
	}
	if err := s.List(t.Context(), "", func(storage.Info) error { return nil }); err == nil {
		t.Error("a link out is passed over in silence")
	}
	names, err := filepath.Glob(outside + "/*")
	if err != nil || len(names) != 1 {
		t.Errorf("outside is now %v, %v", names, err)
	}
}

// What is in the place of a folder hides what should be in it: whoever removes what
// no manifest names must not find that there are none.
func TestNoFolder(t *testing.T) {
	t.Parallel()
	outside := t.TempDir()
	for name, replace := range map[string]func(dir, folder string) error{
		"link inside":         func(dir, folder string) error { return os.Symlink("elsewhere", folder) },
		"link inside, deeper": func(dir, folder string) error { return os.Symlink("elsewhere/deep", folder) },
		"link out":            func(dir, folder string) error { return os.Symlink(outside, folder) },
		"disk not mounted":    func(dir, folder string) error { return os.Symlink(filepath.Join(outside, "gone"), folder) },
		"link to nothing":     func(dir, folder string) error { return os.Symlink("nothing", folder) },
		"link to a file":      func(dir, folder string) error { return os.Symlink("elsewhere/a", folder) },
		"file":                func(dir, folder string) error { return os.WriteFile(folder, nil, 0o600) },
		"pipe":                func(dir, folder string) error { return syscall.Mkfifo(folder, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := open(t, dir)
			storagetest.Put(t, s, "elsewhere/a", nil)
			storagetest.Put(t, s, "elsewhere/deep/a", nil)
			if err := replace(dir, filepath.Join(dir, "manifests")); err != nil {
				t.Fatal(err)
			}
			for _, prefix := range []string{"manifests/", "manifests/backup_manifest_", "manifests/a/b"} {
				err := s.List(t.Context(), prefix, func(storage.Info) error { return nil })
				var hint interface{ Hint() string }
				if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "manifests")) || !errors.As(err, &hint) {
					t.Errorf("list %s: %v", prefix, err)
				}
			}
			if w, err := s.Create(t.Context(), "manifests/new"); err == nil {
				t.Errorf("a file was made that no list shows: %v", w.Abort())
			}
			if names := storagetest.Keys(t, s, "elsewhere/"); len(names) != 2 {
				t.Errorf("elsewhere is %v", names)
			}
		})
	}
}

// A link to a single file, and what is no file, does not stop a listing.
func TestProblems(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	storagetest.Put(t, s, "data/real", []byte("real"))
	want := map[string]string{
		"data/real": "", "data/inside": "", "data/out": "leads out of the repository", "data/broken": "leads nowhere",
		"data/gone": "leads nowhere", "data/pipe": "is not a file", "data/device": "leads out of the repository",
	}
	for name, target := range map[string]string{
		"inside": "real", "out": "/etc/hostname", "broken": "nothing", "gone": filepath.Join(dir, "nothing"), "device": "/dev/full",
	} {
		if err := os.Symlink(target, filepath.Join(dir, "data", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "data", "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	found := 0
	err := s.List(t.Context(), "data/", func(i storage.Info) error {
		found++
		if problem, ok := want[i.Key]; !ok || !strings.Contains(i.Problem, problem) || (i.Problem == "") != (problem == "") {
			t.Errorf("%s: %q, want %q", i.Key, i.Problem, problem)
		}
		if o, err := s.Open(t.Context(), i.Key); (err == nil) != (i.Problem == "") {
			t.Errorf("open %s: %v, %v", i.Key, o, err)
		}
		return nil
	})
	if err != nil || found != len(want) {
		t.Errorf("found %d, %v", found, err)
	}
	// A folder that is linked hides what it holds.
	if err := os.Symlink(t.TempDir(), filepath.Join(dir, "data", "folder")); err != nil {
		t.Fatal(err)
	}
	if err := s.List(t.Context(), "", func(storage.Info) error { return nil }); err == nil || !strings.Contains(err.Error(), "data/folder is a link") {
		t.Errorf("list: %v", err)
	}
}

func TestOtherFiles(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir)
	storagetest.Put(t, s, "data/a", []byte("a"))
	write(t, filepath.Join(dir, "data", ".DS_Store"), "x")
	write(t, filepath.Join(dir, "data", `back\slash`), "x")
	write(t, filepath.Join(dir, "data", "customer a.sql"), "x")
	if err := syscall.Mkfifo(filepath.Join(dir, "data", "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := []string{"data/a", "data/customer a.sql", "data/fifo"}
	if diff := cmp.Diff(want, storagetest.Keys(t, s, "")); diff != "" {
		t.Error(diff)
	}
	for _, key := range []string{"data/fifo", "data"} {
		if o, err := s.Open(t.Context(), key); err == nil || !strings.Contains(err.Error(), "not a file") {
			t.Errorf("open %s: %v, %v", key, o, err)
		}
	}
	// What is not a temporary file of ours is not removed either.
	if removed, err := s.CleanTemporary(t.Context(), 0); err != nil || len(removed) > 0 {
		t.Errorf("cleaning removed %v, %v", removed, err)
	}
}

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestRelativeDirectory(t *testing.T) {
	t.Chdir(t.TempDir())
	s := open(t, "backups")
	t.Chdir(t.TempDir())
	storagetest.Put(t, s, "a", nil)
	if _, err := os.Lstat("backups"); err == nil {
		t.Error("the repository moved with the working directory")
	}
	if _, err := New(""); err == nil {
		t.Error("no directory is taken for one")
	}
}

func TestRepositoryIsAFile(t *testing.T) {
	t.Parallel()
	name := filepath.Join(t.TempDir(), "backups")
	write(t, name, "x")
	s := open(t, name)
	if _, err := s.Create(t.Context(), "a"); err == nil || !strings.Contains(err.Error(), "backups: not a directory") {
		t.Errorf("create: %v", err)
	}
	if err := s.List(t.Context(), "", func(storage.Info) error { return nil }); err == nil || !strings.Contains(err.Error(), "backups: not a directory") {
		t.Errorf("list: %v", err)
	}
}

func TestNotWritable(t *testing.T) {
	t.Parallel()
	if os.Getuid() == 0 {
		t.Skip("root may write everywhere")
	}
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o500); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	if _, err := s.Create(t.Context(), "data/a"); !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), dir) {
		t.Errorf("create: %v", err)
	}
	if _, err := s.Lock(t.Context(), "repository", true, nil); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("lock: %v", err)
	}
}

// tmpfs mounts a small file system, where the test may do so.
func tmpfs(t *testing.T, options string) string {
	t.Helper()
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		t.Skip("only root can mount a small file system")
	}
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "-o", options, "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("mount a small file system: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount %s: %v: %s", dir, err, out)
		}
	})
	return dir
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	s := open(t, tmpfs(t, "size=1m"))
	storagetest.Put(t, s, "data/old", bytes.Repeat([]byte("o"), 300<<10))
	for _, piece := range []int{100, 64 << 10, 4 << 20} {
		w, err := s.Create(t.Context(), "data/new")
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; err == nil && i < 2<<20; i += piece {
			_, err = w.Write(make([]byte, piece))
		}
		if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "data/new") {
			t.Errorf("write: %v", err)
		}
		if err := w.Commit(); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("commit after a failed write: %v", err)
		}
		if err := w.Abort(); err != nil {
			t.Errorf("abort: %v", err)
		}
	}
	if diff := cmp.Diff([]string{"data/old"}, storagetest.Keys(t, s, "")); diff != "" {
		t.Error(diff)
	}
	// A full disk can be cleaned up, for which the repository must be locked.
	w, err := s.Create(t.Context(), "data/new")
	for err == nil {
		_, err = w.Write(make([]byte, 4<<10))
	}
	l, err := s.Lock(t.Context(), "repository", false, bytes.Repeat([]byte("x"), 10<<10))
	if err != nil {
		t.Fatalf("lock on a full disk: %v", err)
	}
	if err := errors.Join(s.Delete(t.Context(), "data/old"), l.Unlock(), w.Abort()); err != nil {
		t.Error(err)
	}
	// A process that another test starts holds the removed files until its exec.
	for deadline := time.Now().Add(10 * time.Second); ; {
		w, err := s.Create(t.Context(), "data/new")
		if err == nil {
			_, err = w.Write(make([]byte, 900<<10))
		}
		if err == nil {
			err = w.Commit()
		}
		if err == nil {
			break
		}
		if w != nil {
			err = errors.Join(err, w.Abort())
		}
		if !errors.Is(err, syscall.ENOSPC) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestReadOnlyDisk(t *testing.T) {
	t.Parallel()
	dir := tmpfs(t, "size=1m")
	s := open(t, dir)
	storagetest.Put(t, s, "data/a", []byte("a"))
	l, err := s.Lock(t.Context(), "repository", true, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Unlock(); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "mount", "-o", "remount,ro", dir).CombinedOutput(); err != nil {
		t.Skipf("remount: %v: %s", err, out)
	}
	if _, err := s.Create(t.Context(), "data/b"); !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), dir) {
		t.Errorf("create: %v", err)
	}
	if err := s.Delete(t.Context(), "data/a"); !errors.Is(err, syscall.EROFS) {
		t.Errorf("delete: %v", err)
	}
	if _, err := s.Lock(t.Context(), "repository", false, nil); !errors.Is(err, syscall.EROFS) {
		t.Errorf("exclusive lock: %v", err)
	}
	l, err = s.Lock(t.Context(), "repository", true, nil)
	if err != nil {
		t.Fatalf("a reader cannot share the lock: %v", err)
	}
	if err := l.Unlock(); err != nil {
		t.Error(err)
	}
	if got := storagetest.Get(t, s, "data/a"); string(got) != "a" {
		t.Errorf("read %q", got)
	}
}

func TestRenameExclusive(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := root.Mkdir("data", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b"} {
		write(t, filepath.Join(dir, "data", name), name)
	}
	err = renameExclusive(root, "data/a", "data/b")
	if errors.Is(err, errors.ErrUnsupported) || errors.Is(err, syscall.EINVAL) {
		t.Skip("not on this system")
	}
	if !errors.Is(err, fs.ErrExist) {
		t.Errorf("renaming over a file: %v", err)
	}
	if err := renameExclusive(root, "data/a", "data/c"); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]string{"b": "b", "c": "a"} {
		if got, err := os.ReadFile(filepath.Join(dir, "data", name)); err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v", name, got, err)
		}
	}
}

func holdLock(dir string) error {
	s, err := New(dir)
	if err != nil {
		return err
	}
	ctx := context.Background()
	l, err := s.Lock(ctx, "repository", false, []byte("the killed one"))
	if err != nil {
		return err
	}
	w, err := s.Create(ctx, "data/half")
	if err != nil {
		return err
	}
	if _, err := w.Write(make([]byte, 1<<20)); err != nil {
		return err
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin) // until killed
	return errors.Join(err, w.Abort(), l.Unlock())
}

func TestKilledHolder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), helperVariable+"="+dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("helper said %q, %v", line, err)
	}

	s := open(t, dir)
	_, err = s.Lock(t.Context(), "repository", true, []byte("loser"))
	locked, ok := errors.AsType[*storage.LockedError](err)
	if !ok || len(locked.Holders) != 1 || string(locked.Holders[0]) != "the killed one" {
		t.Fatalf("while the other lives: %v, holders %q", err, locked.Holders)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the helper was not killed")
	}
	l, err := s.Lock(t.Context(), "repository", false, []byte("next"))
	if err != nil {
		t.Fatalf("after it was killed: %v", err)
	}
	if files, err := filepath.Glob(filepath.Join(dir, lockDir, "*"+holderSuffix)); err != nil || len(files) != 1 {
		t.Errorf("after the next one has the lock: %s, %v", files, err)
	}
	_, err = s.Lock(t.Context(), "repository", false, []byte("loser"))
	locked, ok = errors.AsType[*storage.LockedError](err)
	if !ok || len(locked.Holders) != 1 || string(locked.Holders[0]) != "next" {
		t.Errorf("the dead one is still named: %v, holders %q", err, locked.Holders)
	}
	if keys := storagetest.Keys(t, s, ""); len(keys) > 0 {
		t.Errorf("what the killed one left is listed: %v", keys)
	}
	removed, err := s.CleanTemporary(t.Context(), 0)
	if err != nil || len(removed) != 1 || removed[0].Size != 1<<20 || time.Since(removed[0].Modified) > time.Hour {
		t.Errorf("removed %v, %v", removed, err)
	}
	if err := l.Unlock(); err != nil {
		t.Error(err)
	}
	names, err := filepath.Glob(filepath.Join(dir, "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{filepath.Join(dir, "locks", "repository.lock")}, names); diff != "" {
		t.Errorf("left in the repository (-want +got):\n%s", diff)
	}
}

// at is a store on another machine, as far as locks go.
func at(t *testing.T, dir, place string) *Store {
	t.Helper()
	s := open(t, dir)
	s.place = place
	return s
}

// leave makes the description of a holder whose lock is not seen: it died, or
// this file system does not show the locks of other machines.
func leave(t *testing.T, dir, name, says string, age time.Duration) string {
	t.Helper()
	path := filepath.Join(dir, "locks", name)
	write(t, path, says)
	when := time.Now().Add(-age)
	if err := os.Chtimes(path, when, when); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestHolderElsewhere(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "locks"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := at(t, dir, "here")
	for _, c := range []struct {
		name    string
		age     time.Duration
		shared  bool
		refused bool
		stays   bool
	}{
		{"repository-x-there-1.json", time.Minute, true, true, true},
		{"repository-x-there-2.json", time.Minute, false, true, true},
		{"repository-s-there-3.json", time.Minute, false, true, true},
		{"repository-s-there-4.json", time.Minute, true, false, true},
		{"repository-x-there-5.json", lockStale + time.Minute, false, false, false},
		{"repository-x-here-6.json", time.Second, false, false, false}, // this kernel knows that nobody holds it
		{"repository-x--7.json", time.Second, false, true, true},       // nobody knows where it is
		{"repository-8.json", time.Second, true, false, true},
		{"other-x-there-9.json", time.Second, false, false, true}, // another lock
	} {
		path := leave(t, dir, c.name, "the one elsewhere", c.age)
		l, err := s.Lock(t.Context(), "repository", c.shared, []byte("me"))
		locked, isLocked := errors.AsType[*storage.LockedError](err)
		switch {
		case c.refused != isLocked:
			t.Errorf("%s: %v", c.name, err)
		case isLocked && (len(locked.Holders) != 1 || string(locked.Holders[0]) != "the one elsewhere"):
			t.Errorf("%s: holders %q", c.name, locked.Holders)
		}
		if err == nil {
			if err := l.Unlock(); err != nil {
				t.Error(err)
			}
		}
		if _, err := os.Lstat(path); (err == nil) != c.stays {
			t.Errorf("%s: its file: %v", c.name, err)
		}
		_ = os.Remove(path)
	}
	left, err := filepath.Glob(filepath.Join(dir, "locks", "*"))
	if err != nil || len(left) != 1 {
		t.Errorf("left: %q, %v", left, err)
	}
}

// TestLockFileRemoved: the file that is locked is another one than that which
// the holder has locked.
// The file of a dead holder whose time lies in the future is told of, and does not
// stay for ever.
func TestHolderAhead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "locks"), 0o700); err != nil {
		t.Fatal(err)
	}
	s := at(t, dir, "here")
	refused := func(path string) {
		t.Helper()
		_, err := s.Lock(t.Context(), "repository", true, []byte("me"))
		locked, ok := errors.AsType[*storage.LockedError](err)
		if !ok || len(locked.Doubtful) != 1 || locked.Doubtful[0] != path {
			t.Fatalf("error %v, doubtful %q", err, locked.Doubtful)
		}
	}
	for _, age := range []time.Duration{-4 * 365 * 24 * time.Hour, -5 * 365 * 24 * time.Hour} { // its time changes
		path := leave(t, dir, "repository-x-there-1.json", "the one elsewhere", age)
		refused(path)
		refused(path)
	}
	s.beat = time.Microsecond
	for t.Context().Err() == nil {
		l, err := s.Lock(t.Context(), "repository", true, []byte("me"))
		if err == nil {
			if err := l.Unlock(); err != nil {
				t.Error(err)
			}
			break
		}
	}
	if files, err := filepath.Glob(filepath.Join(dir, "locks", "*"+holderSuffix)); err != nil || len(files) > 0 {
		t.Errorf("left: %v, %v", files, err)
	}
}

func TestLockFileRemoved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, err := open(t, dir).Lock(t.Context(), "repository", false, []byte("the first"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "locks", "repository.lock")); err != nil {
		t.Fatal(err)
	}
	_, err = open(t, dir).Lock(t.Context(), "repository", true, []byte("the second"))
	if locked, ok := errors.AsType[*storage.LockedError](err); !ok || len(locked.Holders) != 1 || string(locked.Holders[0]) != "the first" {
		t.Errorf("beside the first: %v", err)
	}
	if err := first.Unlock(); err != nil {
		t.Error(err)
	}
	second, err := open(t, dir).Lock(t.Context(), "repository", true, []byte("the second"))
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Unlock(); err != nil {
		t.Error(err)
	}
}

// TestHolderStaysFresh: the file of a holder does not grow old, and when it is
// taken away its lock is lost.
func TestHolderStaysFresh(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := at(t, dir, "there")
	s.beat = time.Millisecond
	l, err := s.Lock(t.Context(), "repository", true, []byte("the living"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Unlock()
	files, err := filepath.Glob(filepath.Join(dir, "locks", "repository-s-there-*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("files %q, %v", files, err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(files[0], old, old); err != nil {
		t.Fatal(err)
	}
	for fresh := false; !fresh && t.Context().Err() == nil; time.Sleep(time.Millisecond) {
		info, err := os.Stat(files[0])
		if err != nil {
			t.Fatal(err)
		}
		fresh = time.Since(info.ModTime()) < time.Minute
	}
	if b, err := os.ReadFile(files[0]); err != nil || string(b) != "the living" {
		t.Errorf("it now says %q, %v", b, err)
	}
	select {
	case <-l.Lost():
		t.Error("the lock is lost while its file is there")
	default:
	}
	if err := os.Remove(files[0]); err != nil {
		t.Fatal(err)
	}
	<-l.Lost()
	if err := l.Unlock(); err != nil {
		t.Error(err)
	}
}

// The space is that of the disk, also before the directory exists.
func TestSpace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	free, total, err := open(t, dir).Space(t.Context())
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if err != nil || free <= 0 || total < free {
		t.Errorf("%d of %d bytes are free, %v", free, total, err)
	}
	if _, later, err := open(t, filepath.Join(dir, "a", "b")).Space(t.Context()); err != nil || later != total {
		t.Errorf("before it exists: %d bytes, %v", later, err)
	}
}
