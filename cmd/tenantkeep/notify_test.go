package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantkeep/tenantkeep/internal/notify"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

// receiver is a server that keeps the events of webhooks, and the addresses of
// pings.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	events []notify.Event
	pings  []string
	broken bool
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, _ := io.ReadAll(q.Body)
		r.mu.Lock()
		defer r.mu.Unlock()
		var e notify.Event
		switch {
		case q.Method == http.MethodHead:
		case r.broken:
			w.WriteHeader(http.StatusInternalServerError)
		case strings.HasPrefix(q.URL.Path, "/ping"):
			r.pings = append(r.pings, q.URL.Path)
		case json.Unmarshal(body, &e) == nil:
			r.events = append(r.events, e)
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// take returns what has come since the last time.
func (r *receiver) take() (events []notify.Event, pings []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	events, pings, r.events, r.pings = r.events, r.pings, nil, nil
	return events, pings
}

func (r *receiver) setBroken(on bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.broken = on
}

func kindsOf(events []notify.Event) []notify.Kind {
	list := []notify.Kind{}
	for _, e := range events {
		list = append(list, e.Kind)
	}
	return list
}

func TestNotificationsAndHooks(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA acme; CREATE TABLE acme.t (id int PRIMARY KEY); INSERT INTO acme.t SELECT generate_series(1, 200);
		CREATE SCHEMA other; CREATE TABLE other.t (id int)`)
	to, dir := newReceiver(t), t.TempDir()
	settings, told := filepath.Join(dir, "settings.yaml"), filepath.Join(dir, "told")
	write := func(more string) {
		t.Helper()
		text := fmt.Sprintf("repository: %s\nwebhook-url: %s/secret-path\nheartbeat-url: %s/ping\nnotify-timeout: 3s\n", filepath.Join(dir, "backups"), to.URL, to.URL)
		do(t, os.WriteFile(settings, []byte(text+more), 0o600))
	}
	tk := func(code int, args ...string) (stdout, stderr string) {
		t.Helper()
		return runIn(t, code, append(args, "--config", settings)...)
	}
	requireKinds := func(want ...notify.Kind) []notify.Event {
		t.Helper()
		events, _ := to.take()
		if diff := cmp.Diff(append([]notify.Kind{}, want...), kindsOf(events)); diff != "" {
			t.Fatalf("events (- want, + got):\n%s", diff)
		}
		return events
	}
	hooks := fmt.Sprintf("before-backup: [/bin/sh, -c, 'echo \"$TENANTKEEP_HOOK_NAME $TENANTKEEP_HOOK_TYPE\" >>\"$1\"', x, %[1]s]\n"+
		"after-backup: [/bin/sh, -c, 'echo \"$TENANTKEEP_HOOK_NAME $TENANTKEEP_HOOK_RESULT $TENANTKEEP_HOOK_BACKUP\" >>\"$1\"; exit 3', x, %[1]s]\n"+
		"before-restore: [/bin/sh, -c, 'echo \"$TENANTKEEP_HOOK_COMMAND $TENANTKEEP_HOOK_SCHEMAS\" >>\"$1\"; echo cannot pause; exit 1', x, %[1]s]\n"+
		"after-restore: [/bin/sh, -c, 'echo \"$TENANTKEEP_HOOK_NAME $TENANTKEEP_HOOK_RESULT\" >>\"$1\"', x, %[1]s]\n", told)
	hooksTold := func() string {
		text, _ := os.ReadFile(told)
		_ = os.Remove(told)
		return string(text)
	}
	database := "--database-url=" + db.URL()

	// By hand nobody is told, unless that is asked for.
	write(hooks)
	_, stderr := tk(0, "backup", database)
	requireKinds()
	first := lastBackup(t, dir)
	if want := "before-backup full\nafter-backup ok " + first + "\n"; hooksTold() != want || !strings.Contains(stderr, "warning: hook after-backup: /bin/sh: exit status 3") {
		t.Errorf("hooks were not told %q:\n%s", want, stderr)
	}
	tk(0, "backup", database, "--notify", "--dry-run")
	requireKinds()
	if text := hooksTold(); text != "" {
		t.Errorf("hooks of a dry run: %s", text)
	}
	tk(0, "backup", database, "--notify")
	requireKinds() // well, and successes are not asked for
	tk(0, "backup", database, "--notify", "--notify-on", "success", "--schema", "acme")
	if e := requireKinds(notify.Succeeded)[0]; e.Database != db.Name || e.Rows != 200 || e.Comparison == nil || e.Comparison.RowsBefore != 200 || !cmp.Equal(e.Scope, []string{"acme"}) {
		t.Errorf("event %+v", e)
	}

	// A failure that cannot be told waits.
	hooksTold()
	write("before-backup: [/bin/sh, -c, 'echo out of luck; exit 9']\n")
	to.setBroken(true)
	_, stderr = tk(1, "backup", database, "--notify")
	if !strings.Contains(stderr, "out of luck") || !strings.Contains(stderr, "the setting before-backup") || strings.Contains(stderr, "secret-path") {
		t.Errorf("message:\n%s", stderr)
	}
	stdout, _ := tk(1, "notify", "--notify-timeout", "1s")
	if !strings.Contains(stdout, "failed   webhook: post to ") || !strings.Contains(stdout, "; 1 message waiting\n") {
		t.Errorf("notify says:\n%s", stdout)
	}
	if stdout, _ = tk(0, "doctor", database); !strings.Contains(stdout, "note     notify      webhook: 1 message not delivered") || !strings.Contains(stdout, "ok       hooks       before-backup: ") {
		t.Errorf("doctor says:\n%s", stdout)
	}
	to.setBroken(false)
	write("")
	tk(0, "backup", database, "--notify=true")
	if e := requireKinds(notify.Failed, notify.Recovered)[0]; !strings.Contains(e.Error, "exit status 9") || e.Backup != "" {
		t.Errorf("event %+v", e)
	}

	// Hooks of a restore run between the checks and the first change.
	write(hooks)
	_, stderr = tk(1, "restore", database, "--latest", "--schema", "acme", "--yes")
	if want := "restore acme\nafter-restore failed\n"; hooksTold() != want || !strings.Contains(stderr, "cannot pause") {
		t.Errorf("hooks were not told %q:\n%s", want, stderr)
	}
	tk(2, "restore", database, "--latest", "--schema", "nobody", "--yes")
	if text := hooksTold(); text != "" {
		t.Errorf("hooks of a restore that never began: %s", text)
	}

	// A cleanup that holds backups back is told of, and no sign of life.
	_, _ = to.take()
	manifests := filepath.Join(dir, "backups", "manifests")
	lost := filepath.Join(manifests, "backup_manifest_20200101_000000.json")
	do(t, os.WriteFile(lost, []byte("{"), 0o600))
	tk(3, "cleanup", "--only=repository", "--yes", "--notify")
	do(t, os.Remove(lost))
	tk(0, "cleanup", "--only=repository", "--yes", "--notify")
	events, pings := to.take()
	if !cmp.Equal(kindsOf(events), []notify.Kind{notify.Partial, notify.Recovered}) || len(pings) > 0 || !strings.Contains(events[0].Error, "20200101_000000") || len(events[0].Advice) == 0 {
		t.Errorf("events %+v, pings %v", events, pings)
	}

	// A test goes to each.
	stdout, _ = tk(1, "notify", "--test", "--notification-email", "nobody@", "--notification-email", "a@example.com", "--smtp-server", "127.0.0.1:1", "--notify-timeout", "1s")
	mention(t, stdout, `failed   e-mail to nobody@: --notification-email: "nobody@" is not an e-mail address`, "failed   e-mail to a@example.com: ",
		"ok       webhook: test message delivered\n", "ok       heartbeat: test message delivered\n")
	events, pings = to.take()
	if !cmp.Equal(kindsOf(events), []notify.Kind{notify.Test}) || !cmp.Equal(pings, []string{"/ping/log"}) {
		t.Errorf("events %v, pings %v", kindsOf(events), pings)
	}
}

// lastBackup is the id of the newest backup in a folder.
func lastBackup(t *testing.T, dir string) string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, "backups", "manifests", "*"))
	if err != nil || len(list) == 0 {
		t.Fatalf("no backup: %v", err)
	}
	return strings.TrimSuffix(strings.TrimPrefix(filepath.Base(list[len(list)-1]), "backup_manifest_"), ".json")
}

// Settings that make no sense are told of, and keep nobody from a backup.
func TestNotifiersThatCannotWork(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `CREATE SCHEMA acme; CREATE TABLE acme.t (id int)`)
	dir := t.TempDir()
	settings := filepath.Join(dir, "settings.yaml")
	do(t, os.WriteFile(settings, []byte("repository: "+dir+"/backups\nslack-webhook: hooks.slack.com/T0/secret-path\nnotification-email: [a@example.com]\nsmtp-user: u\nbefore-restore: [/no/such/program]\n"), 0o600))
	database := "--database-url=" + db.URL()
	_, stderr := runIn(t, 0, "backup", database, "--config", settings, "--notify")
	mention(t, stderr, "warning: nobody is notified by slack: "+settings+":2: slack-webhook: does not begin with https:// or http://",
		"warning: nobody is notified by e-mail to a@example.com: smtp-server: there is a user for the mail server, and no password")
	if strings.Contains(stderr, "secret-path") {
		t.Errorf("an address is told:\n%s", stderr)
	}
	stdout, _ := runIn(t, 1, "doctor", database, "--config", settings)
	mention(t, stdout, "problem  notify      slack: ", "problem  notify      e-mail to a@example.com: ", "problem  hooks       "+settings+":5: before-restore: ")
	stdout, _ = runIn(t, 0, "doctor", database, "--repository", dir+"/backups")
	mention(t, stdout, "note     notify      nobody is told when a backup fails")
	_, stderr = runIn(t, 2, "notify", "--test", "--repository", dir+"/backups")
	mention(t, stderr, "no notifier is configured")
	_, stderr = runIn(t, 2, "backup", "--notify-on", "sucess")
	mention(t, stderr, `"sucess" is not one of`)
}
