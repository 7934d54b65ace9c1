package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	gocmp "github.com/google/go-cmp/cmp"

	"github.com/tenantkeep/tenantkeep/internal/audit"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/notify"
	"github.com/tenantkeep/tenantkeep/internal/pgcluster"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/storage/local"
)

var weekSeed = flag.Uint64("week-seed", 6, "what the failures of TestWeekOfFailures are drawn from")

// mainCodeAt runs the program at a time that comes before its arguments.
func mainCodeAt() int {
	now, err := time.Parse(time.RFC3339, os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exitUsage
	}
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, lookupEnv: os.LookupEnv, now: func() time.Time { return now }}
	root := newRootCommand(a)
	root.SetArgs(os.Args[2:])
	return a.exit(context.Background(), root.ExecuteContext(context.Background()))
}

// fault is what goes wrong with a run.
type fault string

const (
	none    fault = ""
	stopped fault = "the server is down"
	crashes fault = "the server crashes"
	full    fault = "the disk is full"
	killed  fault = "the run is killed"
)

// week is a database whose schedule is kept while everything else fails.
type week struct {
	*calendar
	rand     *rand.Rand
	cluster  *pgcluster.Cluster
	settings string
	hook     *hookReceiver
	mailbox  *mailbox

	tenants []string                     // that are there, and whose turn comes
	held    map[string]map[string]string // by backup: what each schema held then
	bad     map[string]bool              // runs that failed, by their time
	kills   int
}

// TestWeekOfFailures keeps a schedule of three backups a day for a week in which
// every other run meets a server that is down or crashes, a full disk or a kill, and
// those who are to be told of it do not answer half of the time.
func TestWeekOfFailures(t *testing.T) {
	t.Parallel()
	t.Logf("-week-seed=%d", *weekSeed)
	w := newWeek(t)
	// The week has a Sunday and the first of a month in it.
	begin := time.Date(2026, 11, 26, 0, 0, 5, 0, time.UTC)
	const runs = 7 * 3
	faults, deaf := w.draw(runs)
	for n := range runs {
		w.now = begin.Add(time.Duration(n) * 8 * time.Hour)
		w.live(n)
		w.hook.set(deaf[n].hook)
		w.mailbox.set(deaf[n].mail)
		w.meet(faults[n])
	}
	w.hook.set(answers)
	w.mailbox.set(answers)
	w.now = begin.Add(runs * 8 * time.Hour)
	w.live(runs)
	w.meet(none)
	if w.bad[w.stamp()] {
		t.Fatalf("a run that nothing hinders fails:\n%s", w.stderr)
	}

	w.requireCaughtUp()
	w.requireTold()
	w.requireNothingLeft()
	w.requireWhole()
}

func newWeek(t *testing.T) *week {
	t.Helper()
	// A crash must not take back what was held when a backup was made.
	cluster := pgtest.StartCluster(t, map[string]string{"synchronous_commit": "on"})
	dir := t.TempDir()
	smallDisk(t, dir, "24m")
	w := &week{
		calendar: newCalendarOf(t, pgtest.NewIn(t, cluster), dir), rand: rand.New(rand.NewPCG(*weekSeed, 0)), cluster: cluster,
		settings: filepath.Join(t.TempDir(), "tenantkeep.yaml"), hook: newHookReceiver(t), mailbox: newMailbox(t),
		tenants: []string{"acme", "bolt"}, held: map[string]map[string]string{}, bad: map[string]bool{},
	}
	write(t, w.settings, fmt.Sprintf(`table-data: [plans]
schedule-incremental: "0 */8 * * *"
schedule-baseline: "0 0 1 * *"
schedule-tenant: ["demo_* off"]
retention-policy: custom
daily-retention: 3
weekly-retention: 1
monthly-retention: 1
retention-days: 0
webhook-url: %s
notification-email: [ops@example.com]
smtp-server: %s
smtp-tls: none
notify-timeout: 6s
`, w.hook.URL, w.mailbox.address))
	w.args = append(w.args, "--config", w.settings)
	w.db.Exec(t, "CREATE SCHEMA demo_1; CREATE TABLE demo_1.t (a int)")
	for _, name := range []string{"crane", "dune"} {
		w.come(name)
	}
	return w
}

// smallDisk puts a file system of its own into a directory, which a test can fill.
func smallDisk(t *testing.T, dir, size string) {
	t.Helper()
	if runtime.GOOS != "linux" || os.Getuid() != 0 {
		t.Skip("only root can mount a small file system")
	}
	if out, err := exec.CommandContext(t.Context(), "mount", "-t", "tmpfs", "-o", "size="+size, "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("mount a small file system: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount %s: %v: %s", dir, err, out)
		}
	})
}

// draw puts the failures of the week into an order, after a first run that meets
// none: on a disk that was full from the beginning nothing can be noted.
func (w *week) draw(runs int) (faults []fault, deaf []deafOnes) {
	for kind, n := range map[fault]int{stopped: 2, crashes: 3, full: 3, killed: 5} {
		faults = append(faults, slices.Repeat([]fault{kind}, n)...)
	}
	slices.Sort(faults) // the order of a map is another one each time
	faults = append(faults, make([]fault, runs-len(faults))...)
	for _, hook := range []deafness{answers, refuses, breaks, hangs} {
		for _, mail := range []deafness{answers, refuses, breaks, hangs} {
			if hook != mail || hook == breaks {
				deaf = append(deaf, deafOnes{hook, mail})
			}
		}
	}
	w.rand.Shuffle(len(deaf), func(i, j int) { deaf[i], deaf[j] = deaf[j], deaf[i] })
	deaf = append(deaf[:runs/2], slices.Repeat([]deafOnes{{answers, answers}}, runs-runs/2)...)
	slices.Reverse(faults)
	w.rand.Shuffle(runs-1, func(i, j int) { faults[i+1], faults[j+1] = faults[j+1], faults[i+1] })
	w.rand.Shuffle(runs, func(i, j int) { deaf[i], deaf[j] = deaf[j], deaf[i] })
	return faults, deaf
}

// come makes a tenant.
func (w *week) come(name string) {
	w.t.Helper()
	w.db.Exec(w.t, fmt.Sprintf(`CREATE SCHEMA %[1]s; CREATE TABLE %[1]s.t (n int); CREATE TABLE %[1]s.notes (id int PRIMARY KEY, body text);
		INSERT INTO %[1]s.notes SELECT n, md5(%[2]d::text || n) FROM generate_series(1, 2000) n`, name, w.rand.IntN(1<<30)))
	w.grant(name)
	w.tenants = append(w.tenants, name)
}

// live is what the customers do before a run.
func (w *week) live(n int) {
	w.t.Helper()
	switch n {
	case 4, 10, 19:
		w.come(fmt.Sprintf("new_%d", n))
	case 7, 14:
		gone := w.tenants[w.rand.IntN(2)]
		w.db.Exec(w.t, "DROP SCHEMA "+gone+" CASCADE")
		w.tenants = slices.DeleteFunc(w.tenants, func(name string) bool { return name == gone })
	}
	for _, name := range w.tenants {
		switch x := w.rand.IntN(1 << 20); x % 8 {
		case 0, 1, 2:
			w.db.Exec(w.t, fmt.Sprintf("INSERT INTO %s.t SELECT %d + n FROM generate_series(1, 300) n", name, x))
		case 3:
			w.db.Exec(w.t, fmt.Sprintf("DELETE FROM %s.t WHERE n %% 5 = %d", name, x%5))
		case 4:
			w.db.Exec(w.t, fmt.Sprintf("UPDATE %s.t SET n = n + 1 WHERE n %% 3 = 0; CREATE TABLE %[1]s.of_run_%d AS SELECT %[3]d AS x", name, n, x))
			w.grant(name)
		}
	}
	now := map[string]string{}
	for _, name := range append([]string{manifest.CoreSchema}, w.tenants...) {
		now[name] = contentOf(w.t, w.db, name)
	}
	w.held[w.stamp()] = now
}

// contentOf digests the rows of a schema.
func contentOf(t *testing.T, db *pgtest.Database, schema string) string {
	t.Helper()
	text := strings.Join(db.Query(t, `SELECT format('%s %s', c.relname, (xpath('/row/x/text()', query_to_xml(
		format('SELECT md5(coalesce(string_agg(t::text, '','' ORDER BY t::text), '''')) AS x FROM %I.%I t', n.nspname, c.relname), false, true, '')))[1])
		FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND n.nspname = $1 ORDER BY c.relname`, schema), "\n")
	if text == "" {
		t.Fatalf("schema %s has no tables", schema)
	}
	return text
}

// stamp is the present moment, as backups are named by it.
func (w *week) stamp() string { return w.now.Format("20060102_150405") }

// meet makes a run that meets a fault, and notes whether it failed.
func (w *week) meet(f fault) {
	w.t.Helper()
	args := []string{"schedule", "--wait"}
	if w.hook.deafness != answers || w.mailbox.deafness != answers {
		args = append(args, "--notify-timeout", "1s") // all of which it will take
	}
	code := 0
	began := time.Now()
	switch f {
	case none:
		code = w.run(args...)
	case stopped:
		do(w.t, w.cluster.Stop(pgcluster.Immediate))
		code = w.run(args...)
		do(w.t, w.cluster.Restart(w.t.Context(), nil))
	case crashes:
		var wg sync.WaitGroup
		after := time.Duration(w.rand.IntN(200)) * time.Millisecond
		wg.Go(func() {
			time.Sleep(after)
			if err := w.cluster.Kill(); err != nil {
				w.t.Error(err)
			}
		})
		code = w.run(args...)
		wg.Wait()
		do(w.t, w.cluster.Restart(w.t.Context(), nil))
	case full:
		filler := fillDisk(w.t, w.dir, w.rand.IntN(40<<10))
		code = w.run(args...)
		do(w.t, os.Remove(filler))
	case killed:
		code = w.kill(time.Duration(w.rand.IntN(150))*time.Millisecond, args...)
	}
	w.t.Logf("%s %s %-18s code %d, backup %t, hook %s, mail %s", time.Since(began).Round(time.Millisecond), w.now.Format("Mon 15h"), f, code, w.made(w.stamp()), w.hook.deafness, w.mailbox.deafness)
	if code != 0 {
		w.bad[w.stamp()] = true
	}
}

// made reports whether a backup is there.
func (w *week) made(id string) bool {
	_, err := os.Stat(filepath.Join(w.dir, "backups", "manifests", "backup_manifest_"+id+".json"))
	return err == nil
}

// fillDisk leaves so many bytes free.
func fillDisk(t *testing.T, dir string, free int) string {
	t.Helper()
	file := filepath.Join(dir, "filler")
	var disk syscall.Statfs_t
	do(t, syscall.Statfs(dir, &disk))
	do(t, os.WriteFile(file, make([]byte, int(disk.Bavail)*int(disk.Bsize)-free), 0o600))
	return file
}

// kill makes a run in a process and ends that a while after it noted that it is at
// work. It returns 137 where there would have to be word of it, and else how it
// ended.
func (w *week) kill(after time.Duration, args ...string) int {
	w.t.Helper()
	program, err := os.Executable()
	do(w.t, err)
	var stderr bytes.Buffer
	cmd := exec.CommandContext(w.t.Context(), program, append(append([]string{w.now.Format(time.RFC3339)}, args...), w.args...)...)
	cmd.Args[0], cmd.Stderr = "tenantkeep-at", &stderr
	do(w.t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait()
	}()
	for !w.atWork() {
		select {
		case <-ended:
			w.t.Fatalf("the run ended before it was killed: %s\n%s", cmd.ProcessState, &stderr)
		case <-time.After(2 * time.Millisecond):
		}
	}
	time.Sleep(after)
	_ = cmd.Process.Kill()
	<-ended
	w.stderr = stderr.String()
	switch {
	case cmd.ProcessState.ExitCode() >= 0:
		return cmd.ProcessState.ExitCode()
	case w.atWork():
		w.kills++
		return 137
	}
	w.kills++
	return 0 // it had noted its end
}

// outboxState is what the outbox remembers.
type outboxState struct {
	Pending []struct{ Channel string }
	Running []struct{ Started time.Time }
}

func (w *week) outbox() (st outboxState) {
	w.t.Helper()
	files, err := filepath.Glob(filepath.Join(w.dir, "backups", "notify", "state_*.json"))
	do(w.t, err)
	slices.Sort(files)
	if len(files) == 0 {
		return st
	}
	text, err := os.ReadFile(files[len(files)-1])
	if errors.Is(err, os.ErrNotExist) { // replaced since
		return w.outbox()
	}
	do(w.t, err, json.Unmarshal(text, &st))
	return st
}

// atWork reports whether a run of the present moment has begun and not ended, as
// far as the outbox knows.
func (w *week) atWork() bool {
	for _, r := range w.outbox().Running {
		if r.Started.Equal(w.now) {
			return true
		}
	}
	return false
}

// requireCaughtUp: every schema has its full backup since Sunday, and an incremental
// one of now; there is a baseline since the first; and the schedule says so.
func (w *week) requireCaughtUp() {
	w.t.Helper()
	var plan struct {
		Backups []any `json:"backups"`
	}
	if code := w.run("schedule", "--dry-run", "--format", "json"); code != 0 {
		w.t.Fatalf("exit code %d\n%s", code, w.stderr)
	}
	do(w.t, json.Unmarshal([]byte(w.stdout), &plan))
	if len(plan.Backups) > 0 {
		w.t.Errorf("something is due: %s", w.stdout)
	}
	newest, fulls := map[string]string{}, map[string]string{}
	for _, m := range w.manifests() { // the newest last
		for _, s := range m.Schemas {
			typ := map[bool]string{true: "baseline of "}[m.BackupType == manifest.Baseline] + s.Schema
			newest[typ] = m.ID
			if s.Timestamp == m.ID && len(s.References) == 0 {
				fulls[typ] = m.ID
			}
		}
	}
	for _, name := range append([]string{manifest.CoreSchema}, w.tenants...) {
		if newest[name] != w.stamp() {
			w.t.Errorf("%s: the newest backup is %q, want %s", name, newest[name], w.stamp())
		}
		if fulls[name] < "20261129_000000" {
			w.t.Errorf("%s: the newest full backup is %q, before Sunday", name, fulls[name])
		}
	}
	if id := newest["baseline of "+manifest.CoreSchema]; id < "20261201_000000" {
		w.t.Errorf("the newest baseline is %q", id)
	}
	if newest["demo_1"] != "" {
		w.t.Errorf("demo_1 is saved in %s, although its schedule is off", newest["demo_1"])
	}
}

// requireTold: of each run that failed there is one message, and one after each
// series of them, to whomever is told.
func (w *week) requireTold() {
	w.t.Helper()
	events, times := w.hook.received()
	slices.SortStableFunc(events, func(a, b notify.Event) int { return cmp.Or(a.Time.Compare(b.Time), a.Started.Compare(b.Started)) })
	told, failures := map[string]bool{}, map[notify.Job]int{}
	var ids []string
	for _, e := range events {
		started := e.Started.Format("20060102_150405")
		key := string(e.Job) + " " + started
		ids = append(ids, e.ID)
		switch {
		case e.Kind == notify.Recovered && failures[e.Job] > 0 && e.Failures == failures[e.Job]:
			failures[e.Job] = 0
		case !e.Kind.Bad():
			w.t.Errorf("%s of %s after %d failures says %d", e.Kind, key, failures[e.Job], e.Failures)
		case told[key]:
			w.t.Errorf("%s is told of twice", key)
		case !w.bad[started]:
			w.t.Errorf("%s is told as %s: %s", key, e.Kind, e.Error)
		default:
			told[key], told[started] = true, true
			if failures[e.Job]++; e.Failures != failures[e.Job] {
				w.t.Errorf("%s of %s is the %d. in a row, and told as the %d.", e.Kind, key, failures[e.Job], e.Failures)
			}
		}
	}
	for _, started := range slices.Sorted(maps.Keys(w.bad)) {
		if !told[started] {
			w.t.Errorf("the run of %s failed, and nobody is told", started)
		}
	}
	for job, n := range failures {
		if n > 0 {
			w.t.Errorf("after %d failures of a %s nobody is told that it works again", n, job)
		}
	}
	letters, again := w.mailbox.received()
	slices.Sort(ids)
	if diff := gocmp.Diff(ids, letters); diff != "" {
		w.t.Errorf("messages by webhook and by mail differ (- webhook, + mail):\n%s", diff)
	}
	if len(w.bad) < 8 || times > w.kills || again > w.kills {
		w.t.Errorf("%d runs failed, %d were killed, and %d messages by webhook and %d by mail came more than once", len(w.bad), w.kills, times, again)
	}
	w.t.Logf("%d failed runs, %d messages; more than once %d and %d", len(w.bad), len(events), times, again)
}

// requireNothingLeft: no run, temporary file, orphan, lock or message is left behind.
func (w *week) requireNothingLeft() {
	w.t.Helper()
	if st := w.outbox(); len(st.Pending)+len(st.Running) > 0 {
		w.t.Errorf("the outbox has %+v", st)
	}
	for _, pattern := range []string{"runs/*", "*/.tmp*", "*/*/.tmp*"} {
		left, err := filepath.Glob(filepath.Join(w.dir, "backups", pattern))
		do(w.t, err)
		if len(left) > 0 {
			w.t.Errorf("left behind: %q", left)
		}
	}
	store, err := local.New(filepath.Join(w.dir, "backups"))
	do(w.t, err)
	r := repo.Open(store, repo.Options{LockWait: -1})
	orphans, err := r.Orphans(w.t.Context())
	if err != nil || len(orphans) > 0 {
		w.t.Errorf("orphans %v, %v", orphans, err)
	}
	if _, unlock, err := r.Lock(w.t.Context(), repo.Exclusive, "test"); err != nil {
		w.t.Error(err)
	} else {
		do(w.t, unlock())
	}
	if n := w.db.Query(w.t, "SELECT count(*) FROM pg_catalog.pg_locks WHERE locktype = 'advisory'"); n[0] != "0" {
		w.t.Errorf("%s locks are left in the database", n[0])
	}
	report, err := audit.Check(filepath.Join(w.dir, "logs", audit.Name))
	if err != nil || report.Problem != nil || len(report.Unended) > w.kills {
		w.t.Errorf("audit trail after %d kills: %+v, %v", w.kills, report, err)
	}
}

// requireWhole: every backup that is listed is sound; of the last three days there
// is one each that has every tenant of that time, and each tenant that is gone is in
// one; some of them are restored, and hold what was there at their time.
func (w *week) requireWhole() {
	w.t.Helper()
	if code := w.other("verify"); code != 0 {
		w.t.Fatalf("exit code %d\n%s%s", code, w.stdout, w.stderr)
	}
	last := map[string]string{} // by schema
	var ids []string
	for _, m := range w.manifests() {
		if m.BackupType == manifest.Baseline {
			continue
		}
		ids = append(ids, m.ID)
		for _, s := range m.Schemas {
			last[s.Schema] = m.ID
		}
	}
	seen := map[string]bool{}
	for _, tenants := range w.held {
		for name := range tenants {
			seen[name] = true
		}
	}
	restored := map[string]bool{w.stamp(): true, ids[w.rand.IntN(len(ids))]: true, ids[0]: true}
	for _, name := range slices.Sorted(maps.Keys(seen)) {
		if last[name] == "" {
			w.t.Errorf("no backup has %s any more", name)
			continue
		}
		restored[last[name]] = true
	}
	for _, id := range slices.Sorted(maps.Keys(restored)) {
		w.requireContent(id)
	}
	w.t.Logf("%d backups are there, %d were restored", len(ids), len(restored))
}

// requireContent restores a backup and compares it with what was there at its time.
func (w *week) requireContent(id string) {
	w.t.Helper()
	i := slices.IndexFunc(w.manifests(), func(m *manifest.Manifest) bool { return m.ID == id })
	db := pgtest.NewIn(w.t, w.cluster)
	runIn(w.t, 0, "restore", "--manifest", id, "--yes", "--repository", filepath.Join(w.dir, "backups"), "--log-dir", filepath.Join(w.dir, "logs"), "--database-url", db.URL())
	for _, s := range w.manifests()[i].Schemas {
		if want, got := w.held[id][s.Schema], contentOf(w.t, db, s.Schema); want != got {
			w.t.Errorf("%s of backup %s holds\n%s\nwant\n%s", s.Schema, id, got, want)
		}
	}
}

// deafness is how somebody who is to be told does not listen.
type deafness string

const (
	answers deafness = "answers"
	refuses deafness = "refuses"
	breaks  deafness = "breaks"
	hangs   deafness = "hangs"
)

// deafOnes are both of them.
type deafOnes struct{ hook, mail deafness }

// listener is what both receivers of messages remember.
type listener struct {
	mu       sync.Mutex
	deafness deafness
	known    map[string]bool // by id
	again    int
}

func (l *listener) set(d deafness) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deafness = d
}

func (l *listener) now() deafness {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.deafness
}

// take reports whether a message is a new one.
func (l *listener) take(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.known == nil {
		l.known = map[string]bool{}
	}
	if l.known[id] {
		l.again++
		return false
	}
	l.known[id] = true
	return true
}

// hookReceiver is a webhook.
type hookReceiver struct {
	listener
	*httptest.Server
	events []notify.Event
}

func newHookReceiver(t *testing.T) *hookReceiver {
	t.Helper()
	h := &hookReceiver{}
	h.Server = httptest.NewServer(h)
	t.Cleanup(h.Close)
	return h
}

func (h *hookReceiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var e notify.Event
	if err != nil || json.Unmarshal(body, &e) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	switch h.now() {
	case refuses:
		w.WriteHeader(http.StatusInternalServerError)
	case breaks:
		panic(http.ErrAbortHandler) // the connection ends without an answer
	case hangs:
		<-r.Context().Done()
	default:
		if h.take(e.ID) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.events = append(h.events, e)
		}
	}
}

// received are the events that came, and how many came more than once.
func (h *hookReceiver) received() (events []notify.Event, again int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.events), h.again
}

// mailbox is a server for mail.
type mailbox struct {
	listener
	address string
}

func newMailbox(t *testing.T) *mailbox {
	t.Helper()
	m := &mailbox{}
	server := smtp.NewServer(m)
	server.Domain, server.ReadTimeout, server.WriteTimeout = "mail.test", time.Minute, time.Minute
	l, err := net.Listen("tcp", "127.0.0.1:0")
	do(t, err)
	m.address = l.Addr().String()
	go server.Serve(l) //nolint:errcheck // it ends with the test
	t.Cleanup(func() { server.Close() })
	return m
}

func (m *mailbox) NewSession(c *smtp.Conn) (smtp.Session, error) {
	if m.now() == breaks {
		return nil, errors.Join(errors.New("not now"), c.Conn().Close())
	}
	return &mailSession{m, c}, nil
}

// received are the ids of the messages that came, in order, and how many came more
// than once.
func (m *mailbox) received() (ids []string, again int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.known)), m.again
}

type mailSession struct {
	*mailbox
	conn *smtp.Conn
}

func (*mailSession) Mail(string, *smtp.MailOptions) error { return nil }

func (s *mailSession) Rcpt(string, *smtp.RcptOptions) error {
	if s.now() == refuses {
		return &smtp.SMTPError{Code: 451, Message: "not now"}
	}
	return nil
}

func (s *mailSession) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if s.now() == hangs {
		_, _ = io.Copy(io.Discard, s.conn.Conn()) // until the client goes
		return errors.New("gone")
	}
	message, err := mail.ReadMessage(bytes.NewReader(text))
	if err != nil {
		return err
	}
	id, _, _ := strings.Cut(strings.Trim(message.Header.Get("Message-ID"), "<>"), "@")
	s.take(id)
	return nil
}

func (*mailSession) Reset()        {}
func (*mailSession) Logout() error { return nil }
