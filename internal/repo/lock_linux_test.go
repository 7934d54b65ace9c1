package repo

import (
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

func setHostname(name string) error { return syscall.Sethostname([]byte(name)) }

// TestTwoMachines gives one of two processes another host name, in a namespace
// of its own.
func TestTwoMachines(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	elsewhere := func(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUTS} }
	first := startHolder(t, hold{Dir: dir, Mode: Shared, Purpose: "restore", Host: "db-two"}, elsewhere)
	if strings.Contains(first.said, "operation not permitted") {
		t.Skipf("only root can give a process another host name: %s", first.said)
	}
	first.requireReady(t)
	second := startHolder(t, hold{Dir: dir, Mode: Exclusive, Purpose: "cleanup"}, nil)
	if want := fmt.Sprintf("in use by restore (process %d on db-two, since", first.Process.Pid); !strings.Contains(second.said, want) {
		t.Errorf("the second said %q, want %q", second.said, want)
	}
}
