// Package terminaltest gives tests a real pseudo-terminal, with hands that type
// and eyes that read. It is for tests only.
package terminaltest

import (
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/charmbracelet/x/ansi"
	"github.com/creack/pty"
)

// Keys as a terminal sends them.
const (
	Up       = "\x1b[A"
	Down     = "\x1b[B"
	Left     = "\x1b[D"
	ShiftTab = "\x1b[Z"
	Enter    = "\r"
	Esc      = "\x1b"
	CtrlA    = "\x01"
	CtrlC    = "\x03"
	CtrlU    = "\x15"
)

// patience is how long Expect waits.
const patience = 20 * time.Second

// Terminal is a terminal of 80 columns and 24 lines.
type Terminal struct {
	// TTY is the side of the program: its stdin and stderr.
	TTY *os.File

	t    testing.TB
	user *os.File

	mu   sync.Mutex
	text strings.Builder // all that was written
	news chan struct{}   // holds something when text has grown
	seen int             // of text, by Expect
}

// New opens a terminal until the test ends. Systems without pseudo-terminals
// skip the test.
func New(t testing.TB) *Terminal {
	t.Helper()
	user, tty, err := pty.Open()
	if err != nil {
		t.Skipf("no pseudo-terminal: %v", err)
	}
	x := &Terminal{TTY: tty, t: t, user: user, news: make(chan struct{}, 1)}
	if err := pty.Setsize(user, &pty.Winsize{Rows: 24, Cols: 80}); err != nil {
		t.Fatalf("set size of pseudo-terminal: %v", err)
	}
	go x.read()
	t.Cleanup(func() {
		// A read of a terminal cannot be cancelled everywhere; it is left to
		// end by itself.
		_ = tty.Close()
		_ = user.Close()
	})
	return x
}

func (x *Terminal) read() {
	piece := make([]byte, 4096)
	for {
		n, err := x.user.Read(piece)
		x.mu.Lock()
		x.text.Write(piece[:n])
		x.mu.Unlock()
		select {
		case x.news <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

// Type presses keys.
func (x *Terminal) Type(keys ...string) {
	x.t.Helper()
	if _, err := x.user.WriteString(strings.Join(keys, "")); err != nil {
		x.t.Errorf("type: %v", err)
	}
}

// Raw is all that was written so far, as it was written.
func (x *Terminal) Raw() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.text.String()
}

// Expect waits until all of the texts are written; what was seen by the call
// before does not count. Spaces do not count either: programs jump over them.
// What a program asks for must be among the texts before it is typed: what is
// typed before the program listens may be lost.
func (x *Terminal) Expect(texts ...string) {
	x.t.Helper()
	late := time.After(patience)
	for {
		raw := x.Raw()
		missing := slices.DeleteFunc(slices.Clone(texts), func(text string) bool {
			return strings.Contains(plain(raw[x.seen:]), plain(text))
		})
		if len(missing) == 0 {
			x.seen = len(raw)
			return
		}
		select {
		case <-x.news:
		case <-late:
			x.t.Fatalf("%q did not appear in:\n%s", missing, ansi.Strip(raw[x.seen:]))
		}
	}
}

// plain is what of a text is seen, without spaces.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) {
			return -1
		}
		return r
	}, ansi.Strip(text))
}
