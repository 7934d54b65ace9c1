package backup_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/storage/local"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// TestKilled ends the program at several points of a run, which files that
// appear tell.
func TestKilled(t *testing.T) {
	t.Parallel()
	program := pgtest.Program(t)
	w := setup(t, nil)
	busy(t, w.db)
	for _, signal := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL} {
		for _, appears := range []string{"runs/*", "data/.tmp-big*", "data/t*.zst", "data/big*.zst", "manifests/.tmp*"} {
			must(t, os.RemoveAll(w.dir)) // data files that nobody names stay for a day
			cmd := exec.CommandContext(t.Context(), program, "backup", "--jobs", "2", "--repository", w.dir, "--pg-dump", w.opts.PgDump)
			cmd.Env = append(os.Environ(), "DATABASE_URL="+w.db.URL(), "BACKUP_LOG_DIR="+t.TempDir())
			var stderr strings.Builder
			cmd.Stderr = &stderr
			must(t, cmd.Start())
			ended := make(chan struct{})
			var runErr error
			go func() {
				defer close(ended)
				runErr = cmd.Wait()
			}()
			awaitFile(t, filepath.Join(w.dir, appears), ended)
			_ = cmd.Process.Signal(signal) // it may have ended
			<-ended

			manifests, err := filepath.Glob(filepath.Join(w.dir, "manifests", "backup*"))
			must(t, err)
			var exit *exec.ExitError
			switch {
			case runErr == nil: // it was done before the signal came
				if len(manifests) != 1 {
					t.Errorf("done, with the manifests %q", manifests)
				}
			case len(manifests) == 1 && signal == syscall.SIGKILL: // it came after the rename: the backup exists
				store, err := local.New(w.dir)
				must(t, err)
				sound(t, repo.Open(store, repo.Options{LockWait: -1}))
			case len(manifests) > 0:
				t.Errorf("%s when %s appears: left %q", signal, appears, manifests)
			case signal != syscall.SIGKILL:
				if !errors.As(runErr, &exit) || exit.ExitCode() != 130 {
					t.Errorf("%s when %s appears: %v\n%s", signal, appears, runErr, &stderr)
				}
				requireContains(t, stderr.String(), "error: interrupted")
				w.requireNothing(t)
			}
		}
	}
	if manifests, err := filepath.Glob(filepath.Join(w.dir, "manifests", "backup*")); err != nil || len(manifests) > 0 {
		must(t, os.RemoveAll(w.dir)) // the last one was done before the signal came
	}
	w.requireWhole(t)
	left, err := filepath.Glob(filepath.Join(w.dir, "*", ".tmp*"))
	must(t, err)
	if len(left) > 0 {
		t.Errorf("temporary files are left: %q", left)
	}
}

// awaitFile waits until a file appears, or the run ends.
func awaitFile(t *testing.T, pattern string, ended <-chan struct{}) {
	t.Helper()
	for {
		found, err := filepath.Glob(pattern)
		must(t, err)
		if len(found) > 0 {
			return
		}
		select {
		case <-ended:
			return
		case <-t.Context().Done():
			return
		case <-time.After(time.Millisecond):
		}
	}
}
