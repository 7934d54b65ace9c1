package repo

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tenantkeep/tenantkeep/internal/storage/local"
)

// helperVariable makes the test binary a process that holds the lock of a
// repository until its input ends.
const helperVariable = "TENANTKEEP_TEST_HOLD"

// hold says what that process does.
type hold struct {
	Dir     string
	Mode    Mode
	Purpose string
	Host    string // the name that its machine gets; empty: as it is
}

func TestMain(m *testing.M) {
	if text := os.Getenv(helperVariable); text != "" {
		if err := holdLock(text); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func holdLock(text string) error {
	var h hold
	if err := json.Unmarshal([]byte(text), &h); err != nil {
		return err
	}
	if h.Host != "" {
		if err := setHostname(h.Host); err != nil {
			return err
		}
	}
	store, err := local.New(h.Dir)
	if err != nil {
		return err
	}
	_, unlock, err := Open(store, options()).Lock(context.Background(), h.Mode, h.Purpose)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return errors.Join(err, unlock())
}

// holder is a process that holds the lock.
type holder struct {
	*exec.Cmd
	stdin io.Closer
	said  string // its first line
}

// startHolder starts a process and waits until it has the lock or has failed.
func startHolder(t *testing.T, h hold, prepare func(*exec.Cmd)) *holder {
	t.Helper()
	text, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), helperVariable+"="+string(text))
	if prepare != nil {
		prepare(cmd)
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := &holder{Cmd: cmd, stdin: stdin}
	if err := cmd.Start(); err != nil {
		p.said = err.Error()
		return p
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("the helper said %q, %v", line, err)
	}
	p.said = strings.TrimSuffix(line, "\n")
	t.Cleanup(func() { // it may have been killed, or have failed to get the lock
		stdin.Close()
		_ = cmd.Wait()
	})
	return p
}

func (p *holder) requireReady(t *testing.T) {
	t.Helper()
	if p.said != "ready" {
		t.Fatalf("the helper said %q", p.said)
	}
}

// TestTwoProcesses: what must keep apart does, and the loser says who is in the
// way. What was killed is in nobody's way.
func TestTwoProcesses(t *testing.T) {
	t.Parallel()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		first, second hold
		together      bool
	}{
		{hold{Purpose: "full backup", Mode: Shared}, hold{Purpose: "incremental backup", Mode: Shared}, true},
		{hold{Purpose: "full backup", Mode: Shared}, hold{Purpose: "cleanup", Mode: Exclusive}, false},
		{hold{Purpose: "cleanup", Mode: Exclusive}, hold{Purpose: "restore", Mode: Shared}, false},
		{hold{Purpose: "cleanup", Mode: Exclusive}, hold{Purpose: "repair", Mode: Exclusive}, false},
	} {
		t.Run(c.first.Purpose+" and "+c.second.Purpose, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			c.first.Dir, c.second.Dir = dir, dir
			first := startHolder(t, c.first, nil)
			first.requireReady(t)
			second := startHolder(t, c.second, nil)
			want := "ready"
			if !c.together {
				want = fmt.Sprintf("repository %s is in use by %s (process %d on %s, since 2026-11-23 00:00:01 UTC)", dir, c.first.Purpose, first.Process.Pid, host)
			}
			if second.said != want {
				t.Errorf("the second said %q, want %q", second.said, want)
			}
			for _, p := range []*holder{first, second} {
				if err := p.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
					t.Fatal(err)
				}
				_ = p.Wait() // it was killed
			}
			c.second.Mode = Exclusive
			startHolder(t, c.second, nil).requireReady(t)
			left, err := filepath.Glob(filepath.Join(dir, "locks", "*.json"))
			if err != nil || len(left) != 1 {
				t.Errorf("descriptions of the dead are left: %q, %v", left, err)
			}
		})
	}
}
