package pgtest_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestDatabasesAreFreshAndUnique(t *testing.T) {
	t.Parallel()
	one, two := pgtest.New(t), pgtest.New(t)
	one.Exec(t, "CREATE TABLE public.t (v int); INSERT INTO public.t VALUES (1), (NULL)")
	if diff := cmp.Diff([]string{"1", "<null>"}, one.Query(t, "SELECT v FROM public.t ORDER BY v")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"<null>"}, two.Query(t, "SELECT to_regclass('public.t')")); diff != "" {
		t.Error(diff)
	}
}

func TestConnHasEmptySearchPath(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	if got := db.Query(t, "SHOW search_path"); !cmp.Equal(got, []string{""}) {
		t.Errorf("search_path = %q", got)
	}
}

// TestNothingIsLeft runs this binary again with a test that dies, and looks at
// the folder in which its cluster was.
func TestNothingIsLeft(t *testing.T) {
	t.Parallel()
	if os.Getenv("PGTEST_DIE") != "" {
		t.Skip("is the inner run")
	}
	for _, how := range []string{"panic", "fail"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestDie$")
			cmd.Env = append(os.Environ(), "PGTEST_DIE="+how)
			out, err := cmd.CombinedOutput()
			if err == nil {
				t.Fatalf("the inner run passed:\n%s", out)
			}
			_, after, found := strings.Cut(string(out), "cluster in ")
			if !found {
				t.Fatalf("no cluster named in:\n%s", out)
			}
			dir, _, _ := strings.Cut(after, "\n")
			eventuallyGone(t, filepath.Clean(dir))
		})
	}
}

func TestDie(t *testing.T) {
	how := os.Getenv("PGTEST_DIE")
	if how == "" {
		t.Skip("is for TestNothingIsLeft")
	}
	db := pgtest.New(t)
	fmt.Println("cluster in " + db.Cluster().Dir())
	if how == "panic" {
		panic("as asked")
	}
	t.Fatal("as asked")
}

// eventuallyGone waits for another process to remove path.
func eventuallyGone(t *testing.T, path string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for time.Now().Before(deadline) {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("%s is still there", path)
}
