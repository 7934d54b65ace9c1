package ui_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/tenantkeep/tenantkeep/internal/ui"
	"github.com/tenantkeep/tenantkeep/internal/ui/terminaltest"
)

func TestMain(m *testing.M) {
	// Terminal programs look at it themselves.
	if err := os.Setenv("TERM", "xterm-256color"); err != nil {
		panic(err)
	}
	m.Run()
}

// dialogue runs a dialogue on a terminal while the test types.
func dialogue[T any](t *testing.T, env map[string]string, ask func(ctx context.Context, u *ui.UI) (T, error)) (*terminaltest.Terminal, func() (T, error)) {
	t.Helper()
	terminal := terminaltest.New(t)
	u := ui.New(ui.Options{
		Stdin: terminal.TTY, Stdout: terminal.TTY, Stderr: terminal.TTY, Verbosity: ui.Normal,
		LookupEnv: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
	})
	type result struct {
		answer T
		err    error
	}
	done := make(chan result, 1)
	go func() {
		answer, err := ask(t.Context(), u)
		done <- result{answer, err}
	}()
	return terminal, func() (T, error) { r := <-done; return r.answer, r.err }
}

func tenants(n int) ui.Menu {
	m := ui.Menu{
		Title: "Which tenant?", Subject: "Tenant", Find: true, Back: true,
		Columns: []ui.Column{{Title: "schema"}, {Title: "rows", Right: true}},
	}
	for i := range n {
		m.Rows = append(m.Rows, []string{fmt.Sprintf("tenant_%04d", i+1), fmt.Sprint(i)})
	}
	return m
}

func TestChoose(t *testing.T) {
	t.Parallel()
	const down, up, enter = terminaltest.Down, terminaltest.Up, terminaltest.Enter
	for _, tt := range []struct {
		name string
		keys []string
		want int
		err  error
	}{
		{"the first", []string{enter}, 0, nil},
		{"with arrows", []string{down, down, down, up, enter}, 2, nil},
		{"not above the first", []string{up, enter}, 0, nil},
		{"found by typing", []string{"T_0777", enter}, 776, nil},
		{"found and moved", []string{"_09", down, down, enter}, 901, nil},
		{"nothing found, then all", []string{"xyz", enter, terminaltest.Esc, "0005", enter}, 4, nil},
		{"typed wrong", []string{"0008\x7f9", enter}, 8, nil},
		{"page and end", []string{"\x1b[F", up, enter}, 998, nil},
		{"left", []string{terminaltest.Esc}, 0, ui.ErrLeft},
		{"interrupted", []string{down, terminaltest.CtrlC}, 0, ui.ErrLeft},
		{"back", []string{terminaltest.Left}, 0, ui.ErrBack},
		{"back by tab", []string{terminaltest.ShiftTab}, 0, ui.ErrBack},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			terminal, end := dialogue(t, nil, func(ctx context.Context, u *ui.UI) (int, error) { return u.Choose(ctx, tenants(1000)) })
			terminal.Expect("1 of 1,000")
			for _, key := range tt.keys {
				terminal.Type(key)
				if key == terminaltest.Esc && tt.err == nil {
					terminal.Expect("1 of 1,000") // an Esc is told from the beginning of another key by a pause
				}
			}
			got, err := end()
			if got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("row %d, %v; want %d, %v", got, err, tt.want, tt.err)
			}
			if err == nil {
				terminal.Expect(fmt.Sprintf("Tenant: tenant_%04d", tt.want+1))
			}
		})
	}
}

func TestChooseMany(t *testing.T) {
	t.Parallel()
	const down, enter = terminaltest.Down, terminaltest.Enter
	for _, tt := range []struct {
		name string
		keys []string
		want []int
	}{
		{"two", []string{" ", down, down, " ", enter}, []int{0, 2, 19}},
		{"those found", []string{"001", terminaltest.CtrlA, terminaltest.CtrlU, enter}, []int{0, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19}},
		{"all, but for one", []string{terminaltest.CtrlA, " ", enter}, []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			terminal, end := dialogue(t, nil, func(ctx context.Context, u *ui.UI) ([]int, error) {
				m := tenants(20)
				m.Marked = []int{19}
				return u.ChooseMany(ctx, m)
			})
			terminal.Expect("ctrl+a all")
			terminal.Type(tt.keys...)
			got, err := end()
			if !slices.Equal(got, tt.want) || err != nil {
				t.Errorf("rows %v, %v; want %v", got, err, tt.want)
			}
		})
	}
}

func TestChooseManyWantsOne(t *testing.T) {
	t.Parallel()
	terminal, end := dialogue(t, nil, func(ctx context.Context, u *ui.UI) ([]int, error) { return u.ChooseMany(ctx, tenants(3)) })
	terminal.Expect("space mark")
	terminal.Type(terminaltest.Enter)
	terminal.Expect("mark at least one")
	terminal.Type(" ", terminaltest.Enter)
	if got, err := end(); !slices.Equal(got, []int{0}) || err != nil {
		t.Errorf("rows %v, %v", got, err)
	}
}

func TestAsk(t *testing.T) {
	t.Parallel()
	question := ui.Question{
		Title: "Under which name?", Subject: "Name", Value: "acme_20261123", Back: true,
		Check: func(answer string) error {
			if answer == "taken" {
				return errors.New("it exists already")
			}
			return nil
		},
	}
	ask := func(ctx context.Context, u *ui.UI) (string, error) { return u.Ask(ctx, question) }
	terminal, end := dialogue(t, nil, ask)
	terminal.Expect("shift+tab back")
	terminal.Type(terminaltest.CtrlU, "taken", terminaltest.Enter)
	terminal.Expect("it exists already")
	terminal.Type(terminaltest.CtrlU, " Côté 東京 ", terminaltest.Enter)
	if got, err := end(); got != "Côté 東京" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	for key, want := range map[string]error{terminaltest.Esc: ui.ErrLeft, terminaltest.CtrlC: ui.ErrLeft, terminaltest.ShiftTab: ui.ErrBack} {
		terminal, end := dialogue(t, nil, ask)
		terminal.Expect("acme_20261123")
		terminal.Type(key)
		if got, err := end(); got != "" || !errors.Is(err, want) {
			t.Errorf("%q: %q, %v", key, got, err)
		}
	}
}

func TestDialogueIsSafe(t *testing.T) {
	t.Parallel()
	evil := "x\x1b[2J\nerror: fake\u202e"
	for _, env := range []map[string]string{nil, {"NO_COLOR": "1"}} {
		terminal, end := dialogue(t, env, func(ctx context.Context, u *ui.UI) (int, error) {
			return u.Choose(ctx, ui.Menu{Title: "Which?", Subject: "Chosen", Columns: []ui.Column{{Title: "name"}}, Rows: [][]string{{evil}, {strings.Repeat("long", 40)}}})
		})
		terminal.Expect("enter go on")
		terminal.Type(terminaltest.Enter)
		if _, err := end(); err != nil {
			t.Fatal(err)
		}
		terminal.Expect("Chosen:")
		raw := terminal.Raw()
		if strings.Contains(raw, "\x1b[2J") || strings.Contains(raw, "\u202e") || !strings.Contains(raw, `\x1b[2J\nerror: fake\u202e`) {
			t.Errorf("%q", raw)
		}
		if colored := strings.Contains(raw, "\x1b[36m") || strings.Contains(raw, "\x1b[1;36m"); colored == (env != nil) {
			t.Errorf("with %v, in colours: %t, %q", env, colored, raw)
		}
	}
}

func TestDialogueEndsWithTheContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	terminal, end := dialogue(t, nil, func(_ context.Context, u *ui.UI) (int, error) { return u.Choose(ctx, tenants(3)) })
	terminal.Expect("enter go on")
	cancel()
	if _, err := end(); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestDialogueNeedsATerminal(t *testing.T) {
	t.Parallel()
	u := ui.New(ui.Options{Stdin: strings.NewReader(""), Stdout: &strings.Builder{}, Stderr: &strings.Builder{}})
	var unattended *ui.UnattendedError
	if _, err := u.Choose(t.Context(), tenants(3)); !errors.As(err, &unattended) {
		t.Error(err)
	}
}
