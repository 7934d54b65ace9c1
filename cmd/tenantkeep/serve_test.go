package main

import (
	"bufio"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/audit"
	"github.com/tenantkeep/tenantkeep/internal/notify"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

// serving is a process that serves.
type serving struct {
	t    *testing.T
	cmd  *exec.Cmd
	url  string
	done chan error

	mu  sync.Mutex
	log strings.Builder
}

// serve starts a process in a directory and waits until it listens. A nil database
// is that of its settings file.
func serve(t *testing.T, dir string, db *pgtest.Database, args ...string) *serving {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := &serving{t: t, done: make(chan error, 1)}
	s.cmd = &exec.Cmd{
		Path: self, Args: append([]string{"tenantkeep", "serve", "--listen", "127.0.0.1:0", "--stop-timeout", "30s"}, args...), Dir: dir,
		Env: append(os.Environ(), "BACKUP_LOG_DIR=logs"),
	}
	if db != nil {
		s.cmd.Env = append(s.cmd.Env, "DATABASE_URL="+db.URL())
	}
	out, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			s.mu.Lock()
			s.log.WriteString(lines.Text() + "\n")
			s.mu.Unlock()
		}
	}()
	go func() {
		<-read
		s.done <- s.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = s.cmd.Process.Kill() // it may have ended
		<-read
		if t.Failed() {
			t.Logf("log of %v:\n%s", s.cmd.Args, s.text())
		}
	})
	s.waitFor("it serves", func() bool {
		_, after, found := strings.Cut(s.text(), "msg=serving address=")
		s.url = "http://" + strings.SplitN(after, " ", 2)[0]
		return found
	})
	return s
}

func (s *serving) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.String()
}

// waitFor looks until something is so.
func (s *serving) waitFor(what string, is func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("waited in vain until %s", what)
		}
	}
}

func (s *serving) get(path string) (int, string) {
	s.t.Helper()
	r, err := http.Get(s.url + path)
	if err != nil {
		return 0, err.Error()
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		s.t.Error(err)
	}
	return r.StatusCode, string(body)
}

// waitForMetric waits for a line among the metrics.
func (s *serving) waitForMetric(line string) {
	s.t.Helper()
	s.waitFor(line, func() bool {
		_, body := s.get("/metrics")
		return strings.Contains(body, "\n"+line+"\n")
	})
}

func (s *serving) signal(sig os.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// end waits for the end of the process, and returns how it ended.
func (s *serving) end() error {
	s.t.Helper()
	select {
	case err := <-s.done:
		return err
	case <-time.After(time.Minute):
		s.t.Fatal("the process does not end")
		return nil
	}
}

// Two processes on one database: one makes the backups that are due, the other takes
// over when it is killed, and stops cleanly while a backup is at work.
func TestServe(t *testing.T) {
	t.Parallel()
	dir, db := t.TempDir(), pgtest.New(t)
	db.Exec(t, "CREATE SCHEMA acme; CREATE TABLE acme.secrets AS SELECT n FROM generate_series(1, 1000) n")
	// Midnight is not to come in the middle of the test.
	file := filepath.Join(dir, "tenantkeep.yaml")
	const daily = "schedule-full: \"0 0 1 1 *\"\nschedule-incremental: off\n"
	var mu sync.Mutex
	var told []string
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		var e notify.Event
		if err := json.NewDecoder(r.Body).Decode(&e); err != nil || e.Job == notify.Backup {
			told = append(told, string(e.Kind))
		}
	}))
	t.Cleanup(receiver.Close)
	settings := func(text string) {
		t.Helper()
		text = "notify-on: success\nwebhook-url: " + receiver.URL + "\n" + text
		do(t, os.WriteFile(file, []byte(daily+text), 0o600))
	}
	url := "database-url: " + db.URL() + "\n"
	settings(url + "retention-days: 4000\n")
	a := serve(t, dir, nil)
	a.waitForMetric(`tenantkeep_schema_state{schema="acme",tenant="acme"} 0`)
	a.waitForMetric(`tenantkeep_server_leading 1`)
	a.waitForMetric(`tenantkeep_server_runs_total{result="succeeded"} 1`)
	status, body := a.get("/health")
	var report struct {
		State   string
		Tenants []struct {
			Schema string
			Rows   int64
		}
	}
	if err := json.Unmarshal([]byte(body), &report); err != nil || status != 200 || report.State != "ok" || len(report.Tenants) != 2 || report.Tenants[1].Rows != 1000 {
		t.Errorf("health: %d, %s, %v", status, body, err)
	}
	if strings.Contains(body, "secrets") {
		t.Errorf("health names a table: %s", body)
	}
	if status, body := a.get("/readyz"); status != 200 {
		t.Errorf("ready: %d, %s", status, body)
	}

	settings(url + "retention-days: 4000\nmax-age: soon\n")
	a.signal(syscall.SIGHUP)
	a.waitForMetric(`tenantkeep_check_state{check="settings"} 1`)
	a.waitForMetric(`tenantkeep_server_config_reload_successful 0`)
	a.waitForMetric(`tenantkeep_schema_backup_max_age_seconds{schema="acme",tenant="acme"} 86400`)
	if !strings.Contains(a.text(), `error: the new settings make no sense, and those before stay in use: tenantkeep.yaml:7: max-age: "soon" is not`) {
		t.Error("nothing loud was said of the new settings")
	}
	// A file that is gone takes nothing back to the defaults, and another repository is
	// nothing for a process that runs.
	if err := os.Rename(file, file+".away"); err != nil {
		t.Fatal(err)
	}
	a.signal(syscall.SIGHUP)
	a.waitFor("it misses the file", func() bool {
		return strings.Contains(a.text(), "those before stay in use: the settings file tenantkeep.yaml is gone")
	})
	// Nor does one of which only a part was written.
	do(t, os.WriteFile(file, nil, 0o600))
	a.signal(syscall.SIGHUP)
	a.waitFor("it misses the settings", func() bool {
		return strings.Contains(a.text(), "those before stay in use: the settings file tenantkeep.yaml is empty")
	})
	settings(url)
	a.signal(syscall.SIGHUP)
	a.waitFor("it misses one of the settings", func() bool {
		return strings.Contains(a.text(), "those before stay in use: the settings file tenantkeep.yaml had retention-days and has it no more")
	})
	other := db.URL() + "&dbname=" + db.Name + "_other"
	settings("database-url: " + other + "\nrepository: elsewhere\nretention-days: 4000\nmax-age: 29h\n")
	a.signal(syscall.SIGHUP)
	a.waitForMetric(`tenantkeep_schema_backup_max_age_seconds{schema="acme",tenant="acme"} 104400`)
	if !strings.Contains(a.text(), "--repository stays ./backups until the process is started anew") {
		t.Error("nothing was said of the other repository")
	}
	if !strings.Contains(a.text(), "--database-url stays that of database \""+db.Name+"\" on ") {
		t.Error("nothing was said of the other database")
	}
	a.waitForMetric(`tenantkeep_check_state{check="database"} 0`)
	settings(url + "repository: backups\nretention-days: 4000\nmax-age: 30h\n")
	a.signal(syscall.SIGHUP)
	a.waitForMetric(`tenantkeep_schema_backup_max_age_seconds{schema="acme",tenant="acme"} 108000`)
	a.waitForMetric(`tenantkeep_server_config_reload_successful 1`)

	b := serve(t, dir, nil)
	b.waitFor("the second one waits", func() bool { return strings.Contains(b.text(), "another process leads") })
	b.waitForMetric(`tenantkeep_server_leading 0`)
	a.signal(syscall.SIGKILL)
	if err := a.end(); err == nil {
		t.Error("it was killed, and ended well")
	}
	b.waitForMetric(`tenantkeep_server_leading 1`)

	// A tenant whose table is locked keeps the backup at work.
	db.Exec(t, "CREATE SCHEMA late; CREATE TABLE late.t (a int)")
	conn := db.Conn(t)
	if _, err := conn.Exec(t.Context(), "BEGIN; LOCK TABLE late.t"); err != nil {
		t.Fatal(err)
	}
	b.signal(syscall.SIGHUP)
	b.waitForMetric(`tenantkeep_server_run_in_progress 1`)
	b.waitFor("the run has a mark", func() bool {
		marks, err := filepath.Glob(filepath.Join(dir, "backups", "runs", "*.json"))
		return err == nil && len(marks) == 1
	})
	b.signal(syscall.SIGTERM)
	if err := b.end(); err != nil {
		t.Errorf("stopped with %v", err)
	}
	for folder, want := range map[string]int{"manifests": 1, "runs": 0} {
		if files, err := filepath.Glob(filepath.Join(dir, "backups", folder, "*.json")); err != nil || len(files) != want {
			t.Errorf("%s: %v, %v", folder, files, err)
		}
	}
	// A deployment is no failure: the run is made again.
	mu.Lock()
	if len(told) != 1 || told[0] != string(notify.Succeeded) {
		t.Errorf("told of backups that %v", told)
	}
	mu.Unlock()
	var last audit.Record
	if err := audit.Read(filepath.Join(dir, "logs", audit.Name), func(r audit.Record) { last = r }); err != nil || last.Command != "serve" || last.Result != audit.Interrupted {
		t.Errorf("the audit trail ends with %+v, %v", last, err)
	}
}

func TestServeRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--listen", "nowhere"}, exitUsage, `--listen: "nowhere" is not a host and a port`},
		{[]string{"--schedule-full", "soon"}, exitUsage, `--schedule-full: "soon" is not a time`},
		{[]string{"--retention-policy", "custom"}, exitUsage, "the policy custom has no numbers"},
		{[]string{"--stop-timeout", "2h"}, exitUsage, "is not a duration"},
		{[]string{"--listen", "192.0.2.1:1"}, exitFailed, "listen on 192.0.2.1:1: "},
	} {
		var stdout, stderr strings.Builder
		args := append([]string{"serve", "--repository", filepath.Join(t.TempDir(), "none"), "--database-url", "postgres://x@127.0.0.1:1/x"}, c.args...)
		if code := run(t.Context(), args, strings.NewReader(""), &stdout, &stderr); code != c.code || !strings.Contains(stderr.String(), c.says) {
			t.Errorf("%v: exit code %d, %s", c.args, code, stderr.String())
		}
	}
}
