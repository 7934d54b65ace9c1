package hook

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// log is a log that the goroutines of a hook write to.
type log struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// script makes a program of the shell, and a hook that runs it.
func script(t *testing.T, text string, args ...string) (Hook, *log) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "hook 'x'.sh")
	// Written by another process: a descriptor that a fork of a parallel test has
	// inherited would make the program busy.
	if err := os.WriteFile(path+".txt", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	l := &log{}
	return Hook{
		Name: "before-backup", Command: append([]string{"/bin/sh", path + ".txt"}, args...), Timeout: 5 * time.Minute,
		Log: slog.New(slog.NewTextHandler(l, nil)),
	}, l
}

func TestHookGetsArgumentsAndContext(t *testing.T) {
	t.Parallel()
	h, l := script(t, `printf '%s|' "$@"; echo; echo "$TENANTKEEP_HOOK_NAME $TENANTKEEP_HOOK_DATABASE" >&2; printf %s "$TENANTKEEP_HOOK_SCHEMAS"; read x || echo " no input"`,
		"a b", "$(id)", "", "*;'")
	if err := h.Run(t.Context(), map[string]string{"DATABASE": "sa\x00as", "SCHEMAS": "x\ny z"}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`a b|$(id)||*;'|`, "before-backup saas", "msg=x ", `msg="y z no input"`} {
		if !strings.Contains(l.String(), want) {
			t.Errorf("no %q in:\n%s", want, l)
		}
	}
}

func TestHookThatFails(t *testing.T) {
	t.Parallel()
	h, _ := script(t, `for i in 1 2 3 4 5 6 7 8; do echo line $i; done; printf 'cannot pause: \377' >&2; exit 7`)
	err := h.Run(t.Context(), nil)
	failed, ok := errors.AsType[*Error](err)
	if !ok || !strings.HasPrefix(err.Error(), "hook before-backup: /bin/sh: exit status 7\n  line 5\n") || !strings.HasSuffix(err.Error(), "\n  cannot pause: \uFFFD") || len(failed.Tail) != 5 {
		t.Errorf("error %v", err)
	}
	for _, command := range [][]string{{"/no/such/program"}, {"no-such-program-here"}, {t.TempDir()}} {
		err := Hook{Name: "after-backup", Command: command, Timeout: time.Second, Log: slog.New(slog.DiscardHandler)}.Run(t.Context(), nil)
		if err == nil || !strings.HasPrefix(err.Error(), "hook after-backup: "+command[0]+": ") {
			t.Errorf("error %v", err)
		}
	}
	if err := (Hook{Name: "after-backup"}).Run(t.Context(), nil); err != nil {
		t.Errorf("no command: %v", err)
	}
}

func TestHookThatTakesTooLongIsStoppedWithItsChildren(t *testing.T) {
	t.Parallel()
	pids := filepath.Join(t.TempDir(), "pids")
	h, _ := script(t, `(trap '' TERM; sleep 1000) & echo $! >>"$1"; sleep 1000 & echo $! >>"$1"; echo begun; echo ready >>"$1"; wait`, pids)
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		for text := ""; !strings.Contains(text, "ready"); time.Sleep(5 * time.Millisecond) {
			b, _ := os.ReadFile(pids)
			text = string(b)
		}
		cancel(errors.New("it is enough"))
	}()
	h.Timeout = 10 * time.Minute
	err := h.Run(ctx, nil)
	if err == nil || !strings.Contains(err.Error(), "stopped: it is enough\n  begun") {
		t.Errorf("error %v", err)
	}
	text, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Fields(string(text)) {
		if pid, err := strconv.Atoi(line); err == nil && runs(pid) {
			t.Errorf("process %d lives", pid)
		}
	}
	h, _ = script(t, "exec sleep 1000")
	h.Timeout = 50 * time.Millisecond
	if err := h.Run(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "stopped: not done in 50ms") {
		t.Errorf("error %v", err)
	}
}

// runs reports whether a process is there and no zombie, within a moment.
func runs(pid int) bool {
	for range 100 {
		text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
		if errors.Is(err, fs.ErrNotExist) || strings.Contains(string(text), ") Z ") || errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			return false
		}
		time.Sleep(10 * time.Millisecond)
	}
	return true
}

func TestOutputIsBounded(t *testing.T) {
	t.Parallel()
	h, l := script(t, `head -c 300000 /dev/zero | tr '\0' x; i=0; while [ $i -lt 2000 ]; do echo "a line of some length, number $i, and so on and so on"; i=$((i+1)); done`)
	if err := h.Run(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if n := len(l.String()); n > 3*maxLogged || n < maxLogged || strings.Count(l.String(), "left out") != 1 {
		t.Errorf("%d bytes are logged", n)
	}
}

// What a hook leaves behind does not keep the run.
func TestHookThatLeavesAProcessBehind(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "pid")
	h, _ := script(t, `sleep 1000 & echo $! >"$1"`, file)
	h.Timeout = 10 * time.Minute
	if err := h.Run(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("the process that was left behind: %v", err)
	}
}
