package media

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// unprivileged runs a test as a user who may not pass over modes, and with a strict
// umask, on a thread that ends with it.
func unprivileged(t *testing.T, name string, dir string, f func(t *testing.T)) {
	t.Helper()
	const nobody = 65534
	if os.Geteuid() == 0 {
		must(t, os.Chmod(filepath.Dir(dir), 0o711))
		must(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
			if err == nil {
				err = os.Lchown(path, nobody, nobody)
			}
			return err
		}))
	}
	t.Run(name, func(t *testing.T) {
		runtime.LockOSThread() // and never unlocked: nothing else may run on it
		must(t, unix.Unshare(unix.CLONE_FS))
		unix.Umask(0o077)
		if os.Geteuid() == 0 {
			for _, call := range []uintptr{unix.SYS_SETRESGID, unix.SYS_SETRESUID} { // of this thread alone
				if _, _, errno := unix.RawSyscall(call, nobody, nobody, 0); errno != 0 {
					t.Fatal(errno)
				}
			}
		}
		f(t)
	})
}

// Whoever backs up, as another user than restores, can read which folders are not the
// application's.
func TestNotesAreReadable(t *testing.T) {
	t.Parallel()
	r, a := somewhere(t)
	unprivileged(t, "umask 077", r.dir, func(t *testing.T) {
		m := stage(t, r, a)
		for name, want := range map[string]os.FileMode{notesFolder: 0o755, notesFolder + "/" + m.Name: 0o644} {
			info, err := os.Stat(filepath.Join(r.dir, name))
			must(t, err)
			if got := info.Mode().Perm(); got != want {
				t.Errorf("%s has the mode %o", name, got)
			}
		}
		must(t, os.Chmod(filepath.Join(r.dir, notesFolder, m.Name), 0)) // as an earlier version left it to others
		_, err := r.Moves()
		if rooted, ok := errors.AsType[*RootError](err); !ok || rooted.Hint() != "let its owner run: chmod -R a+rX "+filepath.Join(r.dir, notesFolder, m.Name) {
			t.Errorf("a note that may not be read: %v", err)
		}
	})
}

// A folder that not even its owner may change can be shared as well.
func TestAddSharedReadOnly(t *testing.T) {
	t.Parallel()
	root, dir := folder(t)
	write(t, dir, "ro/deep/file", "of the backup")
	must(t, os.Chmod(filepath.Join(dir, "ro", "deep"), 0o555))
	must(t, os.Chmod(filepath.Join(dir, "ro"), 0o555))
	old(t, dir)
	archive := save(t, root, nil, SaveOptions{}).open(t)
	want, err := os.Stat(filepath.Join(dir, "ro"))
	must(t, err)
	r, err := NewRoot(t.TempDir(), DefaultPattern, nil)
	must(t, err)
	unprivileged(t, "nobody", r.dir, func(t *testing.T) {
		added, err := r.AddShared(t.Context(), archive, nil, moment, PutOptions{})
		must(t, err)
		info, err := os.Stat(filepath.Join(r.dir, "ro"))
		must(t, err)
		if added.Files != 1 || info.Mode() != want.Mode() || !info.ModTime().Equal(want.ModTime()) {
			t.Errorf("added %d; it has mode %v and time %v", added.Files, info.Mode(), info.ModTime())
		}
	})
	for _, name := range []string{dir, r.dir} { // so that they can be removed
		must(t, os.Chmod(filepath.Join(name, "ro"), 0o755))
		must(t, os.Chmod(filepath.Join(name, "ro", "deep"), 0o755))
	}
}
