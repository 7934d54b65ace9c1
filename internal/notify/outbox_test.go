package notify

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantkeep/tenantkeep/internal/storage"
	"github.com/tenantkeep/tenantkeep/internal/storage/local"
	"github.com/tenantkeep/tenantkeep/internal/storage/storagetest"
)

// world is a repository, a receiver, and a clock.
type world struct {
	t        *testing.T
	dir      string
	storage  storage.Storage
	receiver *webServer
	beat     *webServer
	log      *lockedBuffer
	now      time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), log: &lockedBuffer{}, now: evening, receiver: newWebServer(t, nil), beat: newWebServer(t, nil)}
	w.storage = openDir(t, w.dir)
	return w
}

func openDir(t testing.TB, dir string) storage.Storage {
	t.Helper()
	s, err := local.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// lockedBuffer is a log that several goroutines write to.
type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// outbox returns that of another process.
func (w *world) outbox() *Outbox {
	w.now = w.now.Add(24 * time.Hour)
	now := w.now
	beat := &Heartbeat{URL: w.beat.URL}
	return New(Options{
		Storage: w.storage, Timeout: time.Minute, Attempt: 20 * time.Second, Pause: time.Millisecond, Now: func() time.Time { return now },
		Log:     slog.New(slog.NewTextHandler(w.log, nil)),
		Secrets: []string{"hunter22"},
		Channels: []Channel{
			{Name: "webhook", Notifier: &Webhook{URL: w.receiver.URL}, Wants: func(e *Event) bool { return e.Kind != Succeeded && e.Kind != Begun }},
			{Name: "heartbeat", Notifier: beat, Wants: beat.Wants, Fleeting: true},
		},
	})
}

// run is one whole run that ends in a way.
func (w *world) run(id string, end func(*Run) *Event) []Delivery {
	o := w.outbox()
	r := Run{ID: id, Job: Backup, Database: "saas", Server: "db1:5432", Host: "app1", PID: 7, Started: w.now}
	return o.Begin(w.t.Context(), r).End(w.t.Context(), end(&r))
}

func succeeds(r *Run) *Event { return r.Event(Succeeded, r.Started.Add(time.Minute)) }

func fails(r *Run) *Event {
	e := r.Event(Failed, r.Started.Add(time.Minute))
	e.Error = "no luck with hunter22"
	return e
}

func partial(schemas ...string) func(*Run) *Event {
	return func(r *Run) *Event {
		e := r.Event(Partial, r.Started.Add(time.Minute))
		for _, s := range schemas {
			e.Problems = append(e.Problems, Problem{Tenant: s, Schema: s, Error: "no"})
		}
		return e
	}
}

// got lists what a receiver has got, as "kind run".
func got(t *testing.T, s *webServer) []string {
	t.Helper()
	list := []string{}
	for _, r := range s.requests() {
		var e Event
		if err := json.Unmarshal(r.body, &e); err != nil {
			t.Fatal(err)
		}
		list = append(list, string(e.Kind)+" "+e.Run)
	}
	return list
}

func (w *world) require(want ...string) {
	w.t.Helper()
	if diff := cmp.Diff(append([]string{}, want...), got(w.t, w.receiver)); diff != "" {
		w.t.Errorf("messages (- want, + got):\n%s\nlog:\n%s", diff, w.log)
	}
}

func TestFailuresAndRecoveryAreToldOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i, end := range []func(*Run) *Event{succeeds, fails, fails, partial("a"), succeeds, succeeds, partial("a"), succeeds} {
		w.run(fmt.Sprint(i+1), end)
	}
	w.require("failed 2", "failed 3", "partial 4", "recovered 5", "partial 7", "recovered 8")
	var e Event
	if err := json.Unmarshal(w.receiver.requests()[3].body, &e); err != nil {
		t.Fatal(err)
	}
	if e.Failures != 3 || !e.Since.Equal(evening.Add(2*24*time.Hour+time.Minute)) {
		t.Errorf("recovered after %d failures since %s", e.Failures, e.Since)
	}
	if text := string(w.receiver.requests()[0].body); strings.Contains(text, "hunter22") || !strings.Contains(text, "no luck with xxxxx") {
		t.Errorf("the message tells the password: %s", text)
	}
	var pings []string
	for _, r := range w.beat.requests() {
		pings = append(pings, r.path)
	}
	want := []string{"/start", "/", "/start", "/fail", "/start", "/fail", "/start", "/fail", "/start", "/", "/start", "/", "/start", "/fail", "/start", "/"}
	if diff := cmp.Diff(want, pings); diff != "" {
		t.Errorf("pings (- want, + got):\n%s", diff)
	}
	if n := len(stateFiles(t, w.dir)); n != 1 {
		t.Errorf("%d states are left", n)
	}
}

func TestRecoveryOfWhatFailed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	scoped := func(names []string, end func(*Run) *Event) func(*Run) *Event {
		return func(r *Run) *Event {
			r.Scope = names
			return end(r)
		}
	}
	for i, end := range []func(*Run) *Event{
		partial("a", "b"),
		scoped([]string{"c"}, succeeds),      // says nothing of a and b
		scoped([]string{"a"}, succeeds),      // b is still missing
		scoped([]string{"b"}, succeeds),      // now all is well
		fails,                                // the whole run
		scoped([]string{"a"}, succeeds),      // says nothing of the others
		scoped([]string{"a", "b"}, succeeds), // neither does this
		succeeds,
		scoped([]string{"a"}, fails),
		succeeds,
	} {
		w.run(fmt.Sprint(i+1), end)
	}
	w.require("partial 1", "recovered 4", "failed 5", "recovered 8", "failed 9", "recovered 10")
}

func TestWhatCannotBeDeliveredWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.receiver.answer = status(http.StatusInternalServerError)
	w.run("1", fails)
	w.run("2", fails)
	o := w.outbox()
	list, err := o.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	waits := list[slices.IndexFunc(list, func(s Status) bool { return s.Channel == "webhook" })]
	if waits.Waiting != 2 || !waits.Since.Equal(evening.Add(24*time.Hour+time.Minute)) || !strings.Contains(waits.Error, "500") || !waits.Delivered.IsZero() {
		t.Errorf("status %+v", waits)
	}
	w.receiver.repair()
	w.run("3", succeeds)
	w.run("4", succeeds)
	w.require("failed 1", "failed 2", "recovered 3")
	list, err = o.Status(t.Context())
	if err != nil || slices.ContainsFunc(list, func(s Status) bool { return s.Waiting > 0 || s.Error != "" }) {
		t.Errorf("status %+v, error %v", list, err)
	}
}

func TestOneThatIsRefusedDoesNotStopTheOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.receiver.answer = func(n int, rw http.ResponseWriter, _ *http.Request) {
		if n == 1 {
			rw.WriteHeader(http.StatusBadRequest)
		}
	}
	w.run("1", fails)
	w.run("2", fails)
	w.require("failed 1", "failed 1", "failed 2")
}

func TestRunThatWasKilledIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	r := w.outbox().Begin(t.Context(), Run{ID: "killed", Job: Backup, Database: "saas", Server: "db1:5432", Host: "app1", PID: 7, Started: w.now})
	<-r.sent
	w.run("beside it", succeeds) // it lives: nothing is told of it
	w.require()
	if err := r.unlock(); err != nil { // as the kernel does it
		t.Fatal(err)
	}
	w.run("next", succeeds)
	w.run("after", succeeds)
	w.require("failed killed", "recovered next")
	if text := string(w.receiver.requests()[0].body); !strings.Contains(text, "the run was killed") || !strings.Contains(text, "process 7 on app1") {
		t.Errorf("message %s", text)
	}
}

func TestSeveralAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var all sync.WaitGroup
	const n = 12
	want := map[string]int{}
	for i := range n {
		o, now := w.outbox(), evening
		o.Now = func() time.Time { return now }
		id := fmt.Sprintf("r%d", i)
		want["failed "+id] = 1
		all.Go(func() {
			r := Run{ID: id, Job: Backup, Database: fmt.Sprintf("db%d", i), Started: now}
			o.Begin(t.Context(), r).End(t.Context(), fails(&r))
		})
	}
	all.Wait()
	w.outbox().Flush(t.Context())
	counts := map[string]int{}
	for _, m := range got(t, w.receiver) {
		counts[m]++
	}
	if diff := cmp.Diff(want, counts); diff != "" {
		t.Errorf("messages (- want, + got):\n%s\n%s", diff, w.log)
	}
}

func TestBeginDoesNotWait(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	release := make(chan struct{})
	w.beat.answer = func(int, http.ResponseWriter, *http.Request) { <-release }
	o := w.outbox()
	o.Timeout, o.Attempt = time.Hour, time.Hour
	run := Run{ID: "1", Job: Backup, Started: w.now}
	r := o.Begin(t.Context(), run)
	select {
	case d := <-r.sent:
		t.Errorf("it has waited for %v", d)
	default:
	}
	close(release)
	r.End(t.Context(), fails(&run))
	w.require("failed 1")
}

// TestHangingNotifierIsLeft ends only because deliveries have an end, also after
// the run was interrupted.
func TestHangingNotifierIsLeft(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.receiver.answer, w.beat.answer = hanging, hanging
	o := w.outbox()
	o.Timeout, o.Attempt = 300*time.Millisecond, 100*time.Millisecond
	run := Run{ID: "1", Job: Backup, Database: "saas", Server: "db1:5432", Started: w.now}
	r := o.Begin(t.Context(), run)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	r.End(cancelled, fails(&run))
	w.receiver.repair()
	w.beat.repair()
	w.run("2", succeeds)
	w.require("failed 1", "recovered 2")
}

func TestStorageThatFails(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		fault func(storage.Storage) storage.Storage
		want  []string
	}{
		"full disk": {func(s storage.Storage) storage.Storage {
			full := &storagetest.Faulty{Storage: s}
			full.Before = func(c storagetest.Call) error {
				if c.Op == storagetest.Write {
					return &os.PathError{Op: "write", Path: c.Key, Err: syscall.ENOSPC}
				}
				return nil
			}
			return full
		}, []string{"failed 2"}},
		"no listing": {func(s storage.Storage) storage.Storage {
			return &storagetest.Faulty{Storage: s, Before: storagetest.FailAt(storagetest.List, 1)}
		}, []string{"failed 2", "recovered 3"}},
		"not durable": {func(s storage.Storage) storage.Storage {
			return &storagetest.Faulty{Storage: s, Before: storagetest.FailAt(storagetest.Sync, 1)}
		}, []string{"failed 2", "recovered 3"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.run("1", succeeds)
			good := w.storage
			w.storage = tt.fault(good)
			w.run("2", fails)
			w.storage = good
			w.run("3", succeeds)
			w.require(tt.want...)
		})
	}
}

// TestFullDiskIsNoted: spare objects make room for the failures that a full disk
// brings, also where others take what becomes free.
func TestFullDiskIsNoted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run("1", succeeds)
	good := w.storage
	full, known := &storagetest.Faulty{Storage: good}, spares
	full.Before = func(c storagetest.Call) error {
		left, err := filepath.Glob(filepath.Join(w.dir, sparePrefix+"*"))
		if err == nil && len(left) == known && c.Op == storagetest.Write {
			err = &os.PathError{Op: "write", Path: c.Key, Err: syscall.ENOSPC}
		}
		if c.Op == storagetest.Write {
			known = len(left)
		}
		return err
	}
	w.storage = full
	w.receiver.answer = status(http.StatusInternalServerError)
	w.run("2", fails)
	w.run("3", fails)
	w.storage = good
	w.receiver.repair()
	w.run("4", succeeds)
	w.require("failed 2", "failed 3", "recovered 4")
	if left, err := filepath.Glob(filepath.Join(w.dir, sparePrefix+"*")); err != nil || len(left) != spares {
		t.Errorf("%d spare objects are there, %v", len(left), err)
	}
}

// TestWhatARunSettles: a run of some schemas ends a series of failures where it knows
// that all is well with the others, and only there.
func TestWhatARunSettles(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	of := func(settled ...string) func(*Run) *Event {
		return func(r *Run) *Event {
			e := succeeds(r)
			e.Scope, e.Settled = []string{"a"}, func(schema string) bool { return slices.Contains(settled, schema) }
			return e
		}
	}
	w.run("1", fails)
	w.run("2", of("b"))
	w.run("3", of("b", WholeRun))
	w.run("4", partial("a", "b", "gone"))
	w.run("5", of("gone"))
	w.run("6", of("b"))
	w.require("failed 1", "recovered 3", "partial 4", "recovered 6")
}

// TestFlushTellsOfTheDead: nobody has to make a backup for it.
func TestFlushTellsOfTheDead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.outbox()
	r := o.Begin(t.Context(), Run{ID: "1", Job: Backup, Database: "saas", Server: "db1:5432", Started: w.now})
	<-r.sent
	w.outbox().Flush(t.Context())
	w.require()
	if err := r.unlock(); err != nil { // as the end of its process would
		t.Fatal(err)
	}
	w.outbox().Flush(t.Context())
	if sent := w.outbox().Flush(t.Context()); len(sent) > 0 {
		t.Errorf("told again: %v", sent)
	}
	w.require("failed 1")
}

// TestHealthTellsOfTheDead: neither has anything to be wrong with the checks.
func TestHealthTellsOfTheDead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.outbox()
	r := o.Begin(t.Context(), Run{ID: "1", Job: Backup, Database: "saas", Server: "db1:5432", Started: w.now})
	<-r.sent
	if err := r.unlock(); err != nil { // as the end of its process would
		t.Fatal(err)
	}
	check := Run{ID: "2", Job: Health, Database: "saas", Server: "db1:5432", Started: w.now}
	for range 2 {
		w.outbox().Tell(t.Context(), check.Event(Worsened, w.now))
	}
	w.require("failed 1")
}

func TestStateThatCannotBeRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.run("1", fails)
	for _, text := range []string{"{", `{"format":1,"pending":[null],"running":[null]}`, ""} {
		file := stateFiles(t, w.dir)[0]
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		w.run("2", fails)
	}
	w.require("failed 1", "failed 2", "failed 2", "failed 2")
	file := stateFiles(t, w.dir)[0]
	if err := os.WriteFile(file, []byte(`{"format":99,"pending":[]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	w.run("3", fails)
	text, err := os.ReadFile(file)
	if err != nil || string(text) != `{"format":99,"pending":[]}` {
		t.Errorf("the state of a later version is now %q, error %v", text, err)
	}
	if list := got(t, w.receiver); list[len(list)-1] != "failed 3" {
		t.Errorf("messages %q", list)
	}
}

func TestWhatWaitsIsBounded(t *testing.T) {
	t.Parallel()
	st := &state{Streams: map[string]*stream{}, Channels: map[string]*channelState{}}
	o := New(Options{Channels: []Channel{{Name: "x"}}, Now: func() time.Time { return evening }})
	old := fails(someRun())
	old.Time = evening.Add(-maxAge - time.Hour)
	o.take(st, old)
	for i := range maxPending + 10 {
		e := fails(someRun())
		e.Time = evening
		e.ID = fmt.Sprint(i)
		o.take(st, e)
	}
	if len(st.Pending) != maxPending || st.Channels["x"].Lost != 11 || st.Pending[0].Event.ID != "10" {
		t.Errorf("%d wait, %d lost, the first is %s", len(st.Pending), st.Channels["x"].Lost, st.Pending[0].Event.ID)
	}
}

func TestHealthIsToldWhenItChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	check := func(state, tenant string) Check {
		return Check{Name: "freshness", State: state, Tenant: tenant, Text: "old"}
	}
	for i, checks := range [][]Check{
		nil,
		{check("warning", "a")},
		{check("warning", "a")},
		{check("critical", "a")},
		{check("critical", "a"), check("warning", "b")},
		{check("warning", "a")},
		nil,
		nil,
	} {
		kind := Worsened
		if len(checks) == 0 {
			kind = Improved
		}
		o := w.outbox()
		o.Tell(t.Context(), &Event{ID: NewID(), Kind: kind, Job: Health, Run: fmt.Sprint(i), Time: w.now, Checks: checks})
	}
	w.require("worsened 1", "worsened 3", "worsened 4", "improved 6")
}

func stateFiles(t *testing.T, dir string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "notify", "state_*"))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// killEnv makes the test program a process that fails and succeeds in turn until it is killed.
const killEnv = "TENANTKEEP_TEST_NOTIFY"

func TestMain(m *testing.M) {
	if args := os.Getenv(killEnv); args != "" {
		runsUntilKilled(strings.Split(args, "|"))
	}
	os.Exit(m.Run())
}

// runsUntilKilled writes a line before and after each end of a run.
func runsUntilKilled(args []string) {
	dir, url, prefix := args[0], args[1], args[2]
	s, err := local.New(dir)
	if err != nil {
		panic(err)
	}
	o := New(Options{Storage: s, Channels: []Channel{{Name: "webhook", Notifier: &Webhook{URL: url}}}, Pause: time.Millisecond, Timeout: time.Minute, Now: clockOf(prefix)})
	for i := 0; ; i++ {
		r := Run{ID: fmt.Sprintf("%s-%d", prefix, i), Job: Backup, Started: o.Now()}
		fmt.Println("begins", r.ID)
		running := o.Begin(context.Background(), r)
		fmt.Println("begun", r.ID)
		running.End(context.Background(), fails(&r))
		fmt.Println("ended", r.ID)
	}
}

// clockOf is a clock that is a day later with every process, so that claims of
// killed ones have ended.
func clockOf(prefix string) func() time.Time {
	var day int
	_, _ = fmt.Sscan(prefix, &day)
	return func() time.Time { return time.Now().Add(time.Duration(day) * 24 * time.Hour) }
}

// TestKilledAtAnyMoment kills processes at random moments. Of every run that had
// begun a failure must be told, and one that ended itself must be told as it did.
func TestKilledAtAnyMoment(t *testing.T) {
	t.Parallel()
	dir, receiver := t.TempDir(), newWebServer(t, nil)
	begun, ended := map[string]bool{}, map[string]bool{}
	for day := 1; day <= 12; day++ {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), killEnv+"="+strings.Join([]string{dir, receiver.URL, fmt.Sprint(day)}, "|"))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var kill sync.Once
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if what, id, _ := strings.Cut(lines.Text(), " "); what == "begun" {
				begun[id] = true
				kill.Do(func() { time.AfterFunc(time.Duration(9*day)*time.Millisecond, func() { _ = cmd.Process.Kill() }) })
			} else if what == "ended" {
				ended[id] = true
			}
		}
		var exit *exec.ExitError
		if err := cmd.Wait(); !errors.As(err, &exit) {
			t.Fatal(err)
		}
	}
	o := New(Options{Storage: openDir(t, dir), Channels: []Channel{{Name: "webhook", Notifier: &Webhook{URL: receiver.URL}}}, Now: clockOf("30")})
	r := Run{ID: "last", Job: Backup, Started: o.Now()}
	o.Begin(t.Context(), r).End(t.Context(), succeeds(&r))

	count, ids := map[string]int{}, map[string]string{}
	again := 0
	for _, q := range receiver.requests() {
		var e Event
		if err := json.Unmarshal(q.body, &e); err != nil {
			t.Fatal(err)
		}
		id := q.header.Get(HeaderID)
		if other, known := ids[e.Run]; known && other != id {
			t.Errorf("run %s was told as %s and as %s", e.Run, other, id)
		} else if known {
			again++
		}
		ids[e.Run] = id
		count[e.Run]++
	}
	for _, id := range slices.Sorted(maps.Keys(begun)) {
		if count[id] == 0 {
			t.Errorf("nothing was told of run %s (ended: %v)", id, ended[id])
		}
	}
	for id := range ended {
		if ids[id] != "failed-"+id || count[id] != 1 {
			t.Errorf("run %s ended and was told %d times as %s", id, count[id], ids[id])
		}
	}
	if ids["last"] != "recovered-last" && ids["last"] != "succeeded-last" || len(begun) < 12 {
		t.Errorf("%d runs, the last was told as %q", len(begun), ids["last"])
	}
	t.Logf("%d runs begun, %d ended, %d messages twice", len(begun), len(ended), again)
}
