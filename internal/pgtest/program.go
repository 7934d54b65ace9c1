package pgtest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

var (
	program       = sync.OnceValues(build)
	programFolder atomic.Pointer[string]
)

// Program is the path of tenantkeep itself, for tests that run it as a process.
// It is built once for all tests of a package, and removed by Main.
func Program(tb testing.TB) string {
	tb.Helper()
	path, err := program()
	if err != nil {
		tb.Fatal(err)
	}
	return path
}

func build() (string, error) {
	dir, err := os.MkdirTemp("", "tenantkeep-test-")
	if err != nil {
		return "", err
	}
	programFolder.Store(&dir)
	path := filepath.Join(dir, "tenantkeep")
	out, err := exec.Command("go", "build", "-o", path, "github.com/tenantkeep/tenantkeep/cmd/tenantkeep").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build tenantkeep: %w: %s", err, out)
	}
	return path, nil
}
