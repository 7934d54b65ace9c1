package ui

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// screen is a UI and what it wrote.
type screen struct {
	*UI
	out, err buffer
}

// buffer is a bytes.Buffer for several goroutines.
type buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func setup(verbosity int) *screen {
	s := &screen{}
	s.UI = New(Options{Stdout: &s.out, Stderr: &s.err, Verbosity: verbosity})
	return s
}

func TestSafe(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"acme":                "acme",
		"Änderung 東京 🚀":       "Änderung 東京 🚀",
		`a "quoted" \ name`:   `"a \"quoted\" \\ name"`,
		`back\slash`:          `back\slash`,
		"":                    `""`,
		" x":                  `" x"`,
		"a\nerror: b":         `"a\nerror: b"`,
		"\x1b[2Jgone":         `"\x1b[2Jgone"`,
		"a\u202eb":            `"a\u202eb"`,
		"\xff":                `"\xff"`,
		"\u009b31m":           `"\u009b31m"`,
		"\u00a0":              `"\u00a0"`,
		"👩\u200d🚀":            `"👩\u200d🚀"`,
		"tab\tand\r\x00 zero": `"tab\tand\r\x00 zero"`,
	} {
		if got := Safe(name); got != want {
			t.Errorf("Safe(%q) = %s, want %s", name, got, want)
		}
	}
}

func FuzzSafe(f *testing.F) {
	f.Add("a\nb", "a\\nb")
	f.Fuzz(func(t *testing.T, a, b string) {
		if a != b && Safe(a) == Safe(b) {
			t.Errorf("%q and %q look the same: %s", a, b, Safe(a))
		}
		for _, s := range []string{Safe(a), SafeText(a)} {
			if strings.ContainsAny(s, "\x1b\r\x00\u009b\u202e") {
				t.Errorf("%q is shown as %q", a, s)
			}
		}
	})
}

func TestNumbers(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	for got, want := range map[string]string{
		Bytes(2_100_000_000):               "2.1 GB",
		Bytes(0):                           "0 B",
		Bytes(-1):                          "-",
		Count(1234567):                     "1,234,567",
		Plural(1, "tenant"):                "1 tenant",
		Plural(1000, "tenant"):             "1,000 tenants",
		Duration(400 * time.Millisecond):   "0.4s",
		Duration(12345 * time.Millisecond): "12s",
		Duration(192 * time.Second):        "3m12s",
		Duration(5*time.Hour + 10*time.Minute + 2*time.Second): "5h10m",
		Age(now.Add(-5*time.Hour), now):                        "5 hours ago",
		Age(now.Add(time.Second), now):                         "just now",
		Age(now.Add(2*time.Hour), now):                         "2 hours from now",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestTable(t *testing.T) {
	t.Parallel()
	s := setup(Normal)
	table := NewTable(Column{Title: "tenant"}, Column{Title: "rows", Right: true}, Column{Title: "state"})
	table.Add("acme", "12", "ok")
	table.Add("東京", "1,234", "ok")
	table.Add("🚀 x", "5", "")
	table.Add("a\n\x1b[31mb", "", "ok")
	if err := s.Table(table); err != nil {
		t.Fatal(err)
	}
	want := "" +
		"TENANT           ROWS  STATE\n" +
		"acme               12  ok\n" +
		"東京            1,234  ok\n" +
		"🚀 x                5\n" +
		"\"a\\n\\x1b[31mb\"         ok\n"
	if diff := cmp.Diff(want, s.out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestJSONIsSafeOnATerminal(t *testing.T) {
	t.Parallel()
	names := []string{"a\u009b31m\x1b[2J\u202e\x7f\n", "plain <&> 東京 🚀", "\U000e0001", "\\u009b \u00a0"}
	s := setup(Normal)
	if err := s.JSONLine(names); err != nil {
		t.Fatal(err)
	}
	line := s.out.String()
	if strings.ContainsAny(line, "\x1b\u009b\u202e\x7f\U000e0001") || !strings.Contains(line, "plain <&> 東京 🚀") {
		t.Errorf("%q", line)
	}
	var got []string
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(names, got); diff != "" {
		t.Error(diff)
	}
}

type hinted struct{ error }

func (hinted) Hint() string { return "do\x1b this" }

func TestErrors(t *testing.T) {
	t.Parallel()
	s := setup(Quiet)
	s.Error(fmt.Errorf("back up acme: %w", hinted{errors.New("no\nerror: fake \xff")}))
	s.Error(errors.Join(errors.New("one"), errors.New("two")))
	s.Error(fmt.Errorf("both: %w", errors.Join(errors.New("one"), errors.New("two"))))
	s.Warnf("%s", "old")
	s.Printf("not said")
	want := "error: back up acme: no\n  error: fake \\xff\nhint: do\\x1b this\nerror: one\nerror: two\nerror: both: one\n  two\nwarning: old\n"
	if diff := cmp.Diff(want, s.err.String()); diff != "" {
		t.Error(diff)
	}
}

func TestLinesWithoutTerminal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setup(Normal)
		p := s.TextProgress()
		p.Start("backup", 4, 1000_000)
		work(p, 11*time.Second)
		p.Note(slog.LevelDebug, "", "hidden")
		p.Note(slog.LevelInfo, "b\n", "taken again")
		p.TenantDone("c", errors.New("no rights"))
		p.Finish()
		p.Finish()
		want := `Backing up 4 tenants, about 1.0 MB
Backing up: 0 of 4 tenants, 400 kB of 1.0 MB, 80 kB/s, 20s left
Backing up: 1 of 4 tenants, 900 kB of 1.0 MB, 90 kB/s, 7.4s left
tenant "b\n": taken again
failed: tenant c: no rights
`
		if diff := cmp.Diff(want, s.err.String()); diff != "" {
			t.Error(diff)
		}
		if s.out.String() != "" {
			t.Errorf("on stdout: %s", s.out.String())
		}
	})
}

// work does 100 kB each second, just after it began, and a tenant after six.
func work(p Progress, d time.Duration) {
	time.Sleep(time.Millisecond)
	for i := range int(d / time.Second) {
		time.Sleep(time.Second)
		p.Add(100_000, 10)
		if i == 5 {
			p.TenantDone("a", nil)
		}
	}
}

func TestQuietTellsFailuresOnly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setup(Quiet)
		p := s.TextProgress()
		p.Start("restore", 4, 0)
		work(p, 20*time.Second)
		p.Note(slog.LevelInfo, "", "hidden")
		p.Note(slog.LevelWarn, "", "careful")
		p.TenantDone("c", errors.New("no rights"))
		p.Finish()
		if diff := cmp.Diff("warning: careful\nfailed: tenant c: no rights\n", s.err.String()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestBar(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setup(Verbose)
		s.termErr = true
		p := s.TextProgress()
		p.Start("verify", 1, 0)
		time.Sleep(200 * time.Millisecond)
		p.Finish()
		if got := s.err.String(); got != "" {
			t.Errorf("a short run shows %q", got)
		}
		p.Start("verify", 4, 1000_000)
		work(p, 8*time.Second)
		s.Warnf("in between 100%%")
		p.Finish()
		s.Warnf("afterwards")
		got := s.err.String()
		for _, want := range []string{
			" 48%", "  1/4 tenants, 700 kB/1.0 MB, 90 kB/s, 8.6s left\n",
			"done: a (1 of 4)\n", "warning: in between 100%\n", "Verifying: 1 of 4 tenants, 800 kB, 8.0s",
		} {
			if !strings.Contains(got, want) {
				t.Errorf("no %q in the end of\n%q", want, got[max(0, len(got)-600):])
			}
		}
		if !strings.HasSuffix(got, "\nwarning: afterwards\n") {
			t.Errorf("the end is %q", got[max(0, len(got)-100):])
		}
	})
}

func TestProgressFromManyGoroutines(t *testing.T) {
	t.Parallel()
	s := setup(Verbose)
	s.termErr = true
	for _, p := range []Progress{s.TextProgress(), s.JSONProgress()} {
		p.Start("backup", 8, 8000)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for range 1000 {
					p.Add(1, 1)
				}
				time.Sleep(400 * time.Millisecond)
				p.TenantDone(fmt.Sprint(i), nil)
				_, _ = io.WriteString(s.Stderr(), "log line\n")
			})
		}
		wg.Wait()
		p.Finish()
	}
	if n := strings.Count(s.err.String(), "log line\n"); n != 16 {
		t.Errorf("%d of 16 lines are on the screen", n)
	}
}

func TestJSONProgress(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := setup(Normal)
		p := s.JSONProgress()
		p.Start("backup", 2, 1000_000)
		work(p, 7*time.Second)
		p.TenantDone("b<\n", errors.New("no"))
		p.Note(slog.LevelWarn, "b", "look")
		p.Finish()
		var kinds []string
		var last, tenant map[string]any
		for line := range strings.Lines(s.out.String()) {
			var e map[string]any
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatalf("%s: %v", line, err)
			}
			kinds = append(kinds, e["kind"].(string))
			last = e
			if e["kind"] == "tenant" {
				tenant = e
			}
		}
		if diff := cmp.Diff([]string{"start", "progress", "tenant", "tenant", "note", "finish"}, kinds); diff != "" {
			t.Error(diff)
		}
		if tenant["tenant"] != "b<\n" || tenant["ok"] != false || tenant["error"] != "no" {
			t.Errorf("tenant %v", tenant)
		}
		if last["bytes_done"] != 700_000.0 || last["rows_done"] != 70.0 || last["tenants_done"] != 2.0 || last["tenants_failed"] != 1.0 {
			t.Errorf("last %v", last)
		}
		if s.err.String() != "" {
			t.Errorf("on stderr: %s", s.err.String())
		}
	})
}

func TestConfirm(t *testing.T) {
	t.Parallel()
	s := setup(Normal)
	if err := s.Confirm(t.Context(), "Delete?", true); err != nil {
		t.Error(err)
	}
	err := s.Confirm(t.Context(), "Delete?", false)
	var hint interface{ Hint() string }
	if !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "--yes") {
		t.Errorf("without a terminal: %v", err)
	}
	for answer, want := range map[string]string{"yes\n": "yes", " acme \n": "acme", "": "", "last line": "last line"} {
		s.opts.Stdin = strings.NewReader(answer)
		if got, err := s.read(t.Context(), "? "); err != nil || got != want {
			t.Errorf("%q: got %q, %v", answer, got, err)
		}
	}
	s.opts.Stdin, _ = io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.read(ctx, "? "); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

func TestLogger(t *testing.T) {
	t.Parallel()
	var file bytes.Buffer
	s := setup(Verbose)
	log := s.Logger(s.LogLevel(), slog.NewTextHandler(&file, &slog.HandlerOptions{Level: slog.LevelDebug}))
	log.Debug("for the file")
	log.Info("for both", "tenant", "a\nb")
	if got := s.err.String(); got != "level=INFO msg=\"for both\" tenant=\"a\\nb\"\n" {
		t.Errorf("on stderr: %s", got)
	}
	if n := strings.Count(file.String(), "\n"); n != 2 || !strings.HasPrefix(file.String(), "time=") {
		t.Errorf("in the file: %s", file.String())
	}
}

func TestColors(t *testing.T) {
	t.Parallel()
	s := setup(Normal)
	s.colorErr, s.colorOut = true, true
	s.Error(errors.New("x"))
	table := NewTable(Column{Title: "state", Tone: func(cell string) Tone {
		if cell == "broken" {
			return Bad
		}
		return Plain
	}})
	table.Add("broken")
	table.Add("ok")
	if err := s.Table(table); err != nil {
		t.Fatal(err)
	}
	if got := s.err.String() + s.out.String(); got != "\x1b[31merror:\x1b[0m x\nSTATE\n\x1b[31mbroken\x1b[0m\nok\n" {
		t.Errorf("%q", got)
	}
}
