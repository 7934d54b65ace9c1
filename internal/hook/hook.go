// Package hook runs the commands that a user wants before and after a backup or
// a restore: a program with its arguments, without a shell, for a limited time.
package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode/utf8"
)

// Hook is a command and when it runs.
type Hook struct {
	Name    string   // of the setting: before-backup
	Command []string // program and arguments
	Timeout time.Duration
	Log     *slog.Logger // for what the command writes
}

// Limits on a hook.
const (
	// grace is how long the processes of a hook that is stopped have to clean up.
	grace = 5 * time.Second
	// drain is how long to wait for the output of what a hook left behind.
	drain = 2 * time.Second

	maxLogged = 64 << 10 // bytes of output in the log
	maxLine   = 1000     // bytes of a line
	maxValue  = 32 << 10 // bytes of a variable: the system refuses 128 kB
	tailLines = 5        // of the output, in an error
)

// Prefix begins the variables that tell a hook what it is about.
const Prefix = "TENANTKEEP_HOOK_"

// Error is a hook that failed.
type Error struct {
	Name    string
	Program string
	Err     error
	Tail    []string // the last lines that it wrote
}

func (e *Error) Error() string {
	text := fmt.Sprintf("hook %s: %s: %v", e.Name, e.Program, e.Err)
	for _, line := range e.Tail {
		text += "\n  " + line
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Run runs the hook and waits for its end. env are variables, by their names
// without Prefix, that it gets besides those of this process. When its time is
// over, or ctx is cancelled, all processes of its group get SIGTERM, and SIGKILL
// a little later. The error is an *Error.
func (h Hook) Run(ctx context.Context, env map[string]string) error {
	if len(h.Command) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, h.Timeout, fmt.Errorf("not done in %s", h.Timeout))
	defer cancel()
	out := &output{hook: h.Name, log: h.Log}
	cmd := exec.Command(h.Command[0], h.Command[1:]...) //nolint:noctx // its whole group is stopped below
	cmd.Env = append(os.Environ(), variables(h.Name, env)...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.WaitDelay = drain
	err := h.run(ctx, cmd)
	tail := out.close()
	if err == nil {
		return nil
	}
	return &Error{Name: h.Name, Program: h.Command[0], Err: err, Tail: tail}
}

func (h Hook) run(ctx context.Context, cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	group := -cmd.Process.Pid
	var result error
	done := make(chan struct{})
	go func() {
		defer close(done)
		result = cmd.Wait()
	}()
	select {
	case <-done:
		if errors.Is(result, exec.ErrWaitDelay) {
			h.Log.Warn("hook is done and has left a process behind that writes on", "hook", h.Name)
			return nil
		}
		return result
	case <-ctx.Done():
	}
	err := context.Cause(ctx)
	_ = syscall.Kill(group, syscall.SIGTERM) // it may be gone just now
	ended := waitFor(done, grace)
	_ = syscall.Kill(group, syscall.SIGKILL) // those of the group too that outlived the first process
	if !ended {
		waitFor(done, grace) // or it hangs in the kernel
	}
	return fmt.Errorf("stopped: %w", err)
}

func waitFor(done <-chan struct{}, limit time.Duration) bool {
	select {
	case <-done:
		return true
	case <-time.After(limit):
		return false
	}
}

// variables are what a hook gets in its environment.
func variables(name string, env map[string]string) []string {
	list := []string{Prefix + "NAME=" + name}
	for key, value := range env {
		value = strings.ReplaceAll(value, "\x00", "")
		if len(value) > maxValue {
			value = strings.ToValidUTF8(value[:maxValue], "")
		}
		list = append(list, Prefix+key+"="+value)
	}
	slices.Sort(list)
	return list
}

// output logs what a hook writes, line by line, and keeps the last lines.
type output struct {
	hook string
	log  *slog.Logger

	mu     sync.Mutex
	rest   []byte
	tail   []string
	logged int
	cut    bool
	closed bool
}

// Write takes more of the output.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return len(p), nil // of a process that nobody could stop
	}
	o.rest = append(o.rest, p...)
	for {
		line, rest, whole := bytes.Cut(o.rest, []byte("\n"))
		if !whole {
			break
		}
		o.line(line)
		o.rest = rest
	}
	if len(o.rest) > maxLine {
		o.line(o.rest)
		o.rest = nil
	}
	return len(p), nil
}

func (o *output) line(text []byte) {
	line := strings.TrimRight(string(text[:min(len(text), maxLine)]), "\r \t")
	if !utf8.ValidString(line) {
		line = strings.ToValidUTF8(line, "\uFFFD")
	}
	if line == "" {
		return
	}
	if o.tail = append(o.tail, line); len(o.tail) > tailLines {
		o.tail = slices.Clone(o.tail[1:])
	}
	if o.logged += len(line); o.logged <= maxLogged {
		o.log.Info(line, "hook", o.hook)
	} else if !o.cut {
		o.cut = true
		o.log.Warn("the rest of what the hook writes is left out", "hook", o.hook)
	}
}

// close ends the output and returns its last lines.
func (o *output) close() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.rest) > 0 {
		o.line(o.rest)
	}
	o.closed = true
	return o.tail
}
