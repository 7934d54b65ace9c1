package pgcluster

import (
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"syscall"
)

// keeperScript reads the process id of each server that starts, or 0 when one
// has ended, a line each. Its input ends when the process that owns the cluster
// ends, be it by a panic or by SIGKILL, and then it ends the server that is left
// and removes the folders that it got as arguments.
const keeperScript = `
server=0
while read -r line; do server=$line; done
if [ "$server" -ne 0 ]; then
	kill -QUIT "$server"
	tries=0
	while kill -0 "$server" && [ "$tries" -lt 100 ]; do sleep 0.1; tries=$((tries + 1)); done
	kill -KILL "$server"
fi 2>/dev/null
for tries in 1 2 3 4 5; do
	rm -rf -- "$@" 2>/dev/null && break
	sleep 0.2
done
`

// keeper is a small process that cleans up after this one. Unlike the parent
// death signal of Linux it works on every system, does not depend on which
// thread started the server, and removes files too.
type keeper struct {
	cmd   *exec.Cmd
	input io.WriteCloser
}

func startKeeper(removals ...string) (*keeper, error) {
	cmd := exec.Command("/bin/sh", append([]string{"-c", keeperScript, "tenantkeep-keeper"}, removals...)...)
	cmd.Dir = "/"
	// A session of its own: what ends this process group leaves the keeper be.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	input, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start keeper of the server: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start keeper of the server: %w", err)
	}
	return &keeper{cmd: cmd, input: input}, nil
}

// watch names the server to end; 0 means that there is none any more.
func (k *keeper) watch(pid int) error {
	if _, err := io.WriteString(k.input, strconv.Itoa(pid)+"\n"); err != nil {
		return fmt.Errorf("tell keeper of the server: %w", err)
	}
	return nil
}

// close lets the keeper do what is left and waits for it. A nil keeper is fine.
func (k *keeper) close() error {
	if k == nil {
		return nil
	}
	if err := k.input.Close(); err != nil {
		return fmt.Errorf("end keeper of the server: %w", err)
	}
	if err := k.cmd.Wait(); err != nil {
		return fmt.Errorf("end keeper of the server: %w", err)
	}
	return nil
}
