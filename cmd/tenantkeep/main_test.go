package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tenantkeep/tenantkeep/internal/config"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

func TestMain(m *testing.M) {
	testscript.Main(withLogs{m}, map[string]func(){
		"tenantkeep":    func() { os.Exit(mainCode()) },
		"tenantkeep-at": func() { os.Exit(mainCodeAt()) },
	})
}

// withLogs runs the tests with a directory for audit trails of their own.
// Scripts have their working directory instead.
type withLogs struct{ *testing.M }

func (m withLogs) Run() int {
	dir, err := os.MkdirTemp("", "tenantkeep-test-")
	if err == nil {
		err = os.Setenv("BACKUP_LOG_DIR", dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	return m.M.Run()
}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup:               databases{}.setup,
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"code":     code,
			"database": databases{}.make,
			"sql":      databases{}.sql,
		},
	})
}

// code runs tenantkeep and compares its exit code: "code 2 list --limit x".
func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: code N args...")
	}
	got := 0
	if err := ts.Exec("tenantkeep", args[1:]...); err != nil {
		var exit interface{ ExitCode() int }
		if !errors.As(err, &exit) {
			ts.Fatalf("run tenantkeep: %v", err)
		}
		got = exit.ExitCode()
	}
	if fmt.Sprint(got) != args[0] {
		ts.Fatalf("exit code %d, want %s", got, args[0])
	}
}

func TestExitCode(t *testing.T) {
	t.Parallel()
	interrupted, cancel := context.WithCancel(t.Context())
	cancel()
	failed := errors.New("x")
	for _, tt := range []struct {
		name string
		ctx  context.Context
		err  error
		want int
	}{
		{"done", t.Context(), nil, 0},
		{"done though interrupted at the end", interrupted, nil, 0},
		{"failed", t.Context(), failed, 1},
		{"cancelled within", t.Context(), context.Canceled, 1},
		{"declined", t.Context(), ui.ErrDeclined, 1},
		{"usage", t.Context(), fmt.Errorf("x: %w", usagef("y")), 2},
		{"setting", t.Context(), errors.Join(&config.Error{Err: failed}, failed), 2},
		{"unattended", t.Context(), &ui.UnattendedError{}, 2},
		{"partial", t.Context(), &partialError{failed}, 3},
		{"interrupted", interrupted, fmt.Errorf("copy: %w", context.Canceled), 130},
		{"failed by interruption", interrupted, &partialError{failed}, 130},
	} {
		if got := exitCode(tt.ctx, tt.err); got != tt.want {
			t.Errorf("%s: exit code %d, want %d", tt.name, got, tt.want)
		}
	}
}

func TestExitTellsOfInterruption(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stderr bytes.Buffer
	if code := run(ctx, []string{"list", "--repository", filepath.Join(t.TempDir(), "none")}, strings.NewReader(""), &bytes.Buffer{}, &stderr); code != exitInterrupted {
		t.Errorf("exit code %d", code)
	}
	if stderr.String() != "error: interrupted\n" {
		t.Errorf("stderr %q", stderr.String())
	}
}

func TestArgumentsCannotWriteToTheTerminal(t *testing.T) {
	t.Parallel()
	evil := "x\x1b[2J\nerror: fake\u202e"
	for _, args := range [][]string{
		{evil},
		{"list", evil},
		{"list", "--" + evil},
		{"list", "--limit", evil},
		{"list", "--type", evil},
		{"list", "--format", evil},
		{"list", "--repository", "http://" + evil},
		{"list", "--config", evil},
		{"list", "--quiet=" + evil},
	} {
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), args, strings.NewReader(""), &stdout, &stderr)
		if code != exitUsage || stdout.Len() > 0 {
			t.Errorf("%q: exit code %d, stdout %q", args, code, stdout.String())
		}
		if s := stderr.String(); strings.ContainsAny(s, "\x1b\u202e") || strings.Contains(s, "\nerror: fake") {
			t.Errorf("%q: stderr %q", args, s)
		}
	}
}

// Every command belongs to a group, explains itself and refuses stray words
// and flags with the code for wrong usage.
func TestCommandsAreWhole(t *testing.T) {
	t.Parallel()
	root := newRootCommand(&app{})
	for _, cmd := range root.Commands() {
		if cmd.GroupID == "" || cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s has group %q and says %q", cmd.Name(), cmd.GroupID, cmd.Short)
		}
		stray := []string{cmd.Name(), "stray", "words"}
		if cmd.Name() == "rollback" { // takes names of tenants
			stray = []string{cmd.Name()}
		}
		for _, args := range [][]string{{cmd.Name(), "--no-such-flag"}, stray} {
			var stdout, stderr bytes.Buffer
			if code := run(t.Context(), args, strings.NewReader(""), &stdout, &stderr); code != exitUsage {
				t.Errorf("%q: exit code %d, stderr %s", args, code, stderr.String())
			}
		}
	}
}
