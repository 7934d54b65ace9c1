// Package ui is how tenantkeep talks to people, and to programs that read its
// output: progress, tables, questions, warnings and errors.
//
// Results go to stdout, everything else to stderr. What is shown of names and
// messages that come from a database or a file is made safe first: it cannot
// move the cursor, colour the screen or look like another line.
package ui

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"golang.org/x/term"
)

// The steps of verbosity.
const (
	Quiet   = 0 // warnings and errors
	Normal  = 1 // and progress and summaries
	Verbose = 2 // and every tenant, and what the log says at INFO
	Debug   = 3 // and what the log says at DEBUG
)

// Options say where to talk and how.
type Options struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Verbosity      int
	NoColor        bool
	LookupEnv      func(string) (string, bool) // nil: no variables
	Now            func() time.Time            // nil: time.Now
}

// UI talks. Its methods may be called from several goroutines.
type UI struct {
	opts     Options
	err      *lineWriter
	outMu    sync.Mutex
	termErr  bool // stderr is a terminal
	colorErr bool
	colorOut bool
}

// New returns a UI. Colours are used on terminals only, and not where
// NO_COLOR is set or TERM is dumb.
func New(opts Options) *UI {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.LookupEnv == nil {
		opts.LookupEnv = func(string) (string, bool) { return "", false }
	}
	noColor, _ := opts.LookupEnv("NO_COLOR")
	terminal, _ := opts.LookupEnv("TERM")
	color := !opts.NoColor && noColor == "" && terminal != "dumb"
	return &UI{
		opts:     opts,
		err:      &lineWriter{out: opts.Stderr},
		termErr:  IsTerminal(opts.Stderr) && terminal != "dumb",
		colorErr: color && IsTerminal(opts.Stderr),
		colorOut: color && IsTerminal(opts.Stdout),
	}
}

// IsTerminal reports whether a stream is a terminal.
func IsTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Stdout returns where results go.
func (u *UI) Stdout() io.Writer { return u.opts.Stdout }

// Stderr returns where text for people goes. Unlike the stream itself it does
// not tear a progress bar.
func (u *UI) Stderr() io.Writer { return u.err }

// Verbosity returns how much is to be said.
func (u *UI) Verbosity() int { return u.opts.Verbosity }

// Printf says something to the user, unless it is to be quiet. The caller
// makes names safe with Safe. A line break is added.
func (u *UI) Printf(format string, args ...any) {
	if u.opts.Verbosity >= Normal {
		u.say(fmt.Sprintf(format, args...))
	}
}

// Warnf says something that the user should know and perhaps mend. It is made
// safe.
func (u *UI) Warnf(format string, args ...any) {
	u.say(u.paint(u.colorErr, yellow, "warning:") + " " + SafeText(fmt.Sprintf(format, args...)))
}

// Error says what failed and, where the error knows it, what to do next: an
// error in the tree with a method Hint() string. Each of several joined errors
// has its own lines.
func (u *UI) Error(err error) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok && isJoin(err, joined.Unwrap()) {
		for _, e := range joined.Unwrap() {
			u.Error(e)
		}
		return
	}
	u.say(u.paint(u.colorErr, red, "error:") + " " + SafeText(err.Error()))
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) && hinted.Hint() != "" {
		u.say(u.paint(u.colorErr, cyan, "hint:") + " " + SafeText(hinted.Hint()))
	}
}

// isJoin reports whether an error is nothing but its parts, one to a line, as
// errors.Join makes it.
func isJoin(err error, parts []error) bool {
	var texts []string
	for _, e := range parts {
		texts = append(texts, e.Error())
	}
	return len(texts) > 0 && err.Error() == strings.Join(texts, "\n")
}

// JSON writes a document to stdout, indented.
func (u *UI) JSON(document any) error { return u.encode(document, "  ") }

// JSONLine writes an object to stdout in one line. Objects of a run have a
// field kind.
func (u *UI) JSONLine(object any) error { return u.encode(object, "") }

func (u *UI) encode(v any, indent string) error {
	var text bytes.Buffer
	enc := json.NewEncoder(&text)
	enc.SetIndent("", indent)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return err
	}
	u.outMu.Lock()
	defer u.outMu.Unlock()
	_, err := u.opts.Stdout.Write(escapeJSON(text.Bytes()))
	return err
}

// escapeJSON writes as escapes what may stand in JSON as it is and yet has a
// meaning to terminals: the second block of control characters, marks that
// turn the direction of text, and the like.
func escapeJSON(text []byte) []byte {
	out := make([]byte, 0, len(text))
	for _, r := range string(text) {
		switch {
		case r == '\n' || strconv.IsPrint(r):
			out = utf8.AppendRune(out, r)
		default:
			for _, unit := range utf16.AppendRune(nil, r) {
				out = fmt.Appendf(out, "\\u%04x", unit)
			}
		}
	}
	return out
}

// say writes a line to stderr. That it cannot be written is nothing that could
// be told to anybody.
func (u *UI) say(line string) { _, _ = io.WriteString(u.err, line+"\n") }

// Colours of a terminal.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
	cyan   = "36"
)

func (u *UI) paint(on bool, color, text string) string {
	if !on {
		return text
	}
	return "\x1b[" + color + "m" + text + "\x1b[0m"
}

// lineWriter writes to a stream, or above the progress bar while there is one.
type lineWriter struct {
	mu   sync.Mutex
	out  io.Writer
	bar  func(line string) // set while a bar is shown
	rest string            // of a line that has not ended, while a bar is shown
}

// Write passes text on.
func (w *lineWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.bar == nil {
		return w.out.Write(p)
	}
	w.rest += string(p)
	for {
		line, rest, whole := strings.Cut(w.rest, "\n")
		if !whole {
			return len(p), nil
		}
		w.bar(line)
		w.rest = rest
	}
}

// attach sends lines to a bar from now on.
func (w *lineWriter) attach(bar func(line string)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.bar = bar
}

// detach runs stop, which takes the bar off the screen, and sends lines to the
// stream again.
func (w *lineWriter) detach(stop func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	stop()
	w.bar = nil
	if w.rest != "" {
		_, _ = io.WriteString(w.out, w.rest)
		w.rest = ""
	}
}
