package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// helperVariable makes the test binary a process that adds records to a trail.
const helperVariable = "TENANTKEEP_TEST_AUDIT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(helperVariable); dir != "" {
		if err := addMany(Open(dir, nil), 25); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func addMany(trail *Trail, n int) error {
	for range n {
		run, err := trail.Begin(context.Background(), Record{Command: "backup"})
		if err == nil {
			err = run.End(context.Background(), OK, 0, nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func newTrail(t *testing.T) *Trail {
	t.Helper()
	now := time.Date(2026, 11, 23, 0, 0, 1, 0, time.UTC)
	return Open(filepath.Join(t.TempDir(), "logs", "backup"), func() time.Time {
		now = now.Add(time.Second)
		return now
	})
}

func check(t *testing.T, trail *Trail) *Report {
	t.Helper()
	r, err := Check(trail.Path())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// wantWhole requires a chain without a problem.
func wantWhole(t *testing.T, trail *Trail, records, torn int) {
	t.Helper()
	r := check(t, trail)
	if r.Problem != nil || r.Records != records || r.Torn != torn {
		t.Errorf("problem %v, %d records, %d torn; want none, %d and %d", r.Problem, r.Records, r.Torn, records, torn)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestRecords(t *testing.T) {
	t.Parallel()
	trail := newTrail(t)
	if _, err := Check(trail.Path()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a trail: %v", err)
	}
	run, err := trail.Begin(t.Context(), Record{Command: "backup", Arguments: []string{"--jobs=2"}, Repository: "/b", Schemas: []string{"a\nb"}})
	must(t, err)
	if r := check(t, trail); len(r.Unended) != 1 || r.Unended[0].Command != "backup" || r.Unended[0].PID != os.Getpid() {
		t.Errorf("while it works: %+v", r)
	}
	run.Backup = "20261123_000001"
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	must(t, run.End(cancelled, Partial, 3, errors.New(strings.Repeat("é", 2000)+"\xff")))
	wantWhole(t, trail, 2, 0)
	if r := check(t, trail); len(r.Unended) > 0 {
		t.Errorf("after its end: %+v", r.Unended)
	}
	text, err := os.ReadFile(trail.Path())
	must(t, err)
	lines := bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n"))
	var got [2]Record
	for i, line := range lines {
		must(t, json.Unmarshal(line, &got[i]))
	}
	first, last := got[0], got[1]
	if first.Event != Started || first.Previous != none || first.Result != "" || first.Code != nil || first.User == "" || first.Host == "" {
		t.Errorf("first record %s", lines[0])
	}
	if last.Event != Ended || last.Run != first.Run || last.Backup != "20261123_000001" || *last.Code != 3 || last.Result != Partial ||
		last.Seconds <= 0 || len([]rune(last.Error)) != maxError || last.Schemas[0] != "a\nb" {
		t.Errorf("last record %s", lines[1])
	}
	for path, want := range map[string]fs.FileMode{trail.Path(): 0o600, filepath.Dir(trail.Path()): fs.ModeDir | 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s has mode %v, %v", path, info.Mode(), err)
		}
	}
}

// TestTampering changes a trail in each way that the chain can tell.
func TestTampering(t *testing.T) {
	t.Parallel()
	trail := newTrail(t)
	must(t, addMany(trail, 4))
	sound, err := os.ReadFile(trail.Path())
	must(t, err)
	lines := strings.SplitAfter(strings.TrimSuffix(string(sound), "\n"), "\n")
	lines[7] += "\n"
	join := func(parts ...[]string) string { return strings.Join(append([]string{}, flatten(parts)...), "") }
	for name, c := range map[string]struct {
		text string
		want string
	}{
		"changed":     {strings.Replace(string(sound), `"command":"backup"`, `"command":"cleanup"`, 1), "line 2 carries another hash"},
		"taken out":   {join(lines[:3], lines[4:]), "line 4 carries another hash"},
		"first gone":  {join(lines[1:]), "line 1 is not the first record"},
		"swapped":     {join(lines[:2], lines[3:4], lines[2:3], lines[4:]), "line 3 carries another hash"},
		"twice":       {join(lines[:3], lines[2:]), "line 4 carries another hash"},
		"spoilt":      {join(lines[:3], []string{"{}\n"}, lines[4:]), "line 4 is no record"},
		"put in":      {join(lines[:3], []string{"noise\n"}, lines[3:]), "line 4 is no record"},
		"cut inside":  {join(lines[:3], []string{lines[3][:40]}, lines[4:]), "line 4 is no record"},
		"blank line":  {join(lines[:3], []string{"\n"}, lines[3:]), "line 4 is no record"},
		"newer":       {strings.Replace(string(sound), `"format":1`, `"format":2`, 1), "line 1 is of format 2"},
		"as it was":   {string(sound), ""},
		"nothing yet": {"", ""},
	} {
		must(t, os.WriteFile(trail.Path(), []byte(c.text), 0o600))
		got := ""
		if r := check(t, trail); r.Problem != nil {
			got = r.Problem.Error()
		}
		if !strings.HasPrefix(got, c.want) || (c.want == "") != (got == "") {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	// Every single bit counts, but in the last record, which nothing covers yet.
	end := len(sound) - len(lines[7]) - 1
	for i := 0; i < end; i += 7 {
		bad := bytes.Clone(sound)
		bad[i] ^= 1
		must(t, os.WriteFile(trail.Path(), bad, 0o600))
		if r := check(t, trail); r.Problem == nil {
			t.Fatalf("byte %d changed: nothing is noticed", i)
		}
	}
}

func flatten(parts [][]string) (all []string) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// TestTorn cuts the trail after every byte of its last record, as a crash does,
// and goes on writing.
func TestTorn(t *testing.T) {
	t.Parallel()
	trail := newTrail(t)
	must(t, addMany(trail, 1))
	sound, err := os.ReadFile(trail.Path())
	must(t, err)
	second := bytes.IndexByte(sound, '\n') + 1
	for _, from := range []int{0, second} {
		records := bytes.Count(sound[:from], []byte("\n"))
		for n := from; n < len(sound) && n < from+900; n++ {
			if n == second && from == 0 {
				break
			}
			whole := n == len(sound)-1 || n == second-1 // only the line feed is missing
			torn := sound[:n]
			must(t, os.WriteFile(trail.Path(), torn, 0o600))
			want, left := records, 1
			if whole {
				want++
			}
			if whole || n == from {
				left = 0
			}
			wantWhole(t, trail, want, left)
			must(t, addMany(trail, 1))
			wantWhole(t, trail, want+2, left)
			now, err := os.ReadFile(trail.Path())
			must(t, err)
			if !bytes.HasPrefix(now, torn) {
				t.Fatalf("cut at byte %d: something of it is lost", n)
			}
		}
	}

	// Torn again and again, with nothing whole before it.
	for _, text := range []string{"\n", "x", "x\n", "x\ny", "\x00\x00", strings.Repeat("long\n", 100_000) + "end"} {
		must(t, os.WriteFile(trail.Path(), []byte(text), 0o600))
		must(t, addMany(trail, 1))
		if r := check(t, trail); r.Problem != nil || r.Records != 2 || r.Torn == 0 {
			t.Errorf("after %.10q: %+v", text, r)
		}
	}
	// What is torn is covered by the chain too.
	text, err := os.ReadFile(trail.Path())
	must(t, err)
	text[7] = '!'
	must(t, os.WriteFile(trail.Path(), text, 0o600))
	if r := check(t, trail); r.Problem == nil {
		t.Error("what is torn can be changed")
	}
}

func TestLongRecords(t *testing.T) {
	t.Parallel()
	trail := newTrail(t)
	var names []string
	for n := range 20_000 {
		names = append(names, fmt.Sprintf("tenant_%d", n))
	}
	for range 3 {
		_, err := trail.Begin(t.Context(), Record{Command: "backup", Schemas: names})
		must(t, err)
	}
	wantWhole(t, trail, 3, 0)
}

// TestAtOnce writes from several processes, and goroutines of this one.
func TestAtOnce(t *testing.T) {
	t.Parallel()
	trail := newTrail(t)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), helperVariable+"="+filepath.Dir(trail.Path()))
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
		wg.Go(func() {
			if err := addMany(Open(filepath.Dir(trail.Path()), nil), 25); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	wantWhole(t, trail, 300, 0)
}

func TestMovedAway(t *testing.T) {
	t.Parallel()
	trail := newTrail(t)
	must(t, addMany(trail, 1))
	old := trail.Path() + ".2025"
	must(t, os.Rename(trail.Path(), old))
	must(t, addMany(trail, 2))
	wantWhole(t, trail, 4, 0)
	if r, err := Check(old); err != nil || r.Problem != nil || r.Records != 2 {
		t.Errorf("the one that was moved away: %+v, %v", r, err)
	}
}

func TestCannotWrite(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(file, nil, 0o600))
	run, err := Open(filepath.Join(file, "logs"), nil).Begin(t.Context(), Record{Command: "backup"})
	if err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("begin: %v", err)
	}
	if err := run.End(t.Context(), OK, 0, nil); err == nil {
		t.Error("the end was written nowhere")
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	trail := newTrail(t)
	if _, err := trail.Begin(cancelled, Record{}); err != nil { // it need not wait
		t.Error(err)
	}
}

// TestFullDisk: a record that does not fit leaves nothing behind.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		t.Skip("only root can mount a small file system")
	}
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("mount a small file system: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount %s: %v: %s", dir, err, out)
		}
	})
	filler := filepath.Join(dir, "filler")
	must(t, os.WriteFile(filler, make([]byte, 30<<10), 0o600))
	trail := Open(dir, nil)
	records := 0
	var err error
	for ; err == nil; records++ {
		_, err = trail.Begin(t.Context(), Record{Command: "backup"})
	}
	records-- // the last one did not fit
	if !errors.Is(err, syscall.ENOSPC) || records < 10 {
		t.Errorf("after %d records: %v", records, err)
	}
	wantWhole(t, trail, records, 0)
	must(t, os.Remove(filler))
	must(t, addMany(trail, 1))
	wantWhole(t, trail, records+2, 0)
}

func TestPrevious(t *testing.T) {
	t.Parallel()
	trail := newTrail(t)
	must(t, addMany(trail, 2))
	text, err := os.ReadFile(trail.Path())
	must(t, err)
	// As the documentation says that anybody can check it.
	out, err := exec.CommandContext(t.Context(), "sh", "-c", `sed -n 3p "$0" | tr -d '\n' | sha256sum | cut -d' ' -f1`, trail.Path()).Output()
	if err != nil {
		t.Skip("no sed, tr, sha256sum or cut here")
	}
	var last Record
	must(t, json.Unmarshal(bytes.Split(text, []byte("\n"))[3], &last))
	if diff := cmp.Diff(strings.TrimSpace(string(out)), last.Previous); diff != "" {
		t.Errorf("hash of the record before (-sha256sum +record):\n%s", diff)
	}
}

// Reading gives every record in order, and passes over what is none.
func TestRead(t *testing.T) {
	t.Parallel()
	trail := newTrail(t)
	must(t, addMany(trail, 3))
	f, err := os.OpenFile(trail.Path(), os.O_WRONLY|os.O_APPEND, 0)
	must(t, err)
	_, err = f.WriteString("{\"format\":1,\"ev")
	must(t, errors.Join(err, f.Close()))
	must(t, addMany(trail, 2))
	var events []Event
	runs := map[string]bool{}
	must(t, Read(trail.Path(), func(r Record) {
		events = append(events, r.Event)
		runs[r.Run] = true
	}))
	want := check(t, trail)
	if len(events) != want.Records || want.Torn != 1 || events[0] != Started {
		t.Errorf("events %v of %d runs, want %d", events, len(runs), want.Records)
	}
	if err := Read(filepath.Join(t.TempDir(), Name), func(Record) { t.Error("a record of nothing") }); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}
