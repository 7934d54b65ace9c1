//go:build unix

package pgdump

import (
	"os/exec"
	"syscall"
)

// ownGroup gives the command a process group of its own, so that an interrupt
// from the terminal reaches it through the context only, together with what it
// has started. On SIGTERM pg_dump cancels the query that runs on the server.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
}
