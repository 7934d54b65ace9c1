package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

// installation is a folder of an application with the scheduler script in it.
type installation struct {
	t      *testing.T
	dir    string
	script string
	env    []string // besides what cron gives
}

// reporter stands for tenantkeep where only the script is of interest: it tells what
// it was called with, and does what a file tells it.
const reporter = `#!/bin/sh
echo "args: $*"
env | grep -E '^(BACKUP_|DATABASE_URL|PGHOST|EVIL|SECRET)' | sort
echo "in: $(pwd)"
[ ! -e todo ] || . ./todo
`

func newInstallation(t *testing.T) *installation {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "scripts", "backup_scheduler.sh"))
	if err != nil {
		t.Fatal(err)
	}
	i := &installation{t: t, dir: filepath.Join(t.TempDir(), "the app")}
	i.script = filepath.Join(i.dir, "scripts", "backup_scheduler.sh")
	i.write("scripts/backup_scheduler.sh", string(text), 0o755)
	i.write("tenantkeep", reporter, 0o755)
	return i
}

func (i *installation) write(name, text string, mode os.FileMode) {
	i.t.Helper()
	path := filepath.Join(i.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		i.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		i.t.Fatal(err)
	}
}

func (i *installation) read(name string) string {
	i.t.Helper()
	text, err := os.ReadFile(filepath.Join(i.dir, name))
	if err != nil {
		i.t.Fatal(err)
	}
	return string(text)
}

// command is a call of the script in the environment that cron gives, from a folder
// that has nothing to do with it.
func (i *installation) command(script string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(i.t.Context(), script, args...)
	cmd.Dir = "/"
	cmd.Env = append([]string{"PATH=/usr/bin:/bin", "HOME=/nonexistent", "SHELL=/bin/sh", "LOGNAME=nobody"}, i.env...)
	return cmd
}

// run calls the script and returns its exit code.
func (i *installation) run(args ...string) (code int, stdout, stderr string) {
	i.t.Helper()
	var out, errs bytes.Buffer
	cmd := i.command(i.script, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		i.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

const schedulerLog = "logs/backup/backup_scheduler.log"

func TestSchedulerCommands(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args []string
		env  string
		want string // arguments of tenantkeep
	}{
		{[]string{"schedule"}, "", "schedule"},
		{[]string{"schedule", "--wait", "--schema", "a b"}, "", "schedule --wait --schema a b"},
		{[]string{"backup"}, "", "backup"},
		{[]string{"backup", "incremental", "--dry-run"}, "", "backup --backup-type incremental --dry-run"},
		{[]string{"backup"}, "BACKUP_SCHEDULE_TYPE=incremental", "backup --backup-type incremental"},
		{[]string{"backup", "full"}, "BACKUP_SCHEDULE_TYPE=incremental", "backup --backup-type full"},
		{[]string{"backup"}, "BACKUP_SCHEDULE_TYPE=auto", "backup"},
		{[]string{"cleanup"}, "", "cleanup --yes"},
		{[]string{"schedule"}, "BACKUP_LOG_LEVEL=DEBUG", "schedule --verbosity 3"},
		{[]string{"schedule"}, "BACKUP_LOG_LEVEL=warn", "schedule --quiet"},
	} {
		i := newInstallation(t)
		i.env = []string{tt.env}
		code, stdout, stderr := i.run(tt.args...)
		if code != 0 || stdout+stderr != "" {
			t.Errorf("%q: exit code %d, says %s%s", tt.args, code, stdout, stderr)
		}
		if log := i.read(schedulerLog); !strings.Contains(log, "args: "+tt.want+"\n") || !strings.Contains(log, "in: "+i.dir+"\n") {
			t.Errorf("%q and %s: log\n%s", tt.args, tt.env, log)
		}
		info, err := os.Stat(filepath.Join(i.dir, schedulerLog))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the log is %v, %v", info.Mode(), err)
		}
	}
	// What a flag says may be a secret.
	i := newInstallation(t)
	i.run("schedule", "--database-url", "host=h password=S3cr3t", "--smtp-password=S3cr3t", "--wait")
	begins := i.read(schedulerLog)
	if begins, _, _ = strings.Cut(begins, "args: "); !strings.Contains(begins, "tenantkeep schedule --database-url --smtp-password --wait\n") || strings.Contains(begins, "S3cr3t") {
		t.Errorf("log\n%s", begins)
	}
	i = newInstallation(t)
	for _, args := range [][]string{{}, {"restore"}, {"backup", "weekly"}, {"--help"}} {
		code, stdout, stderr := i.run(args...)
		if want := map[bool]int{true: 0, false: 2}[len(args) > 0 && args[0] == "--help"]; code != want || stdout+stderr == "" {
			t.Errorf("%q: exit code %d, says %s%s", args, code, stdout, stderr)
		}
	}
	// The answer of health goes to whoever asks.
	i.write("todo", "exit 2\n", 0o600)
	code, stdout, _ := i.run("health", "--format", "json")
	if code != 2 || !strings.HasPrefix(stdout, "args: health --format json\n") {
		t.Errorf("health: exit code %d, %s", code, stdout)
	}
}

func TestSchedulerEnvironment(t *testing.T) {
	t.Parallel()
	i := newInstallation(t)
	i.write(".env", strings.Join([]string{
		"# settings", "", "DATABASE_URL=postgres://u:p%23w@db/shop # the shop", "  export BACKUP_REPOSITORY = \"/srv/b \\\"q\\\" $HOME\"  ",
		"BACKUP_TIME_ZONE='Europe/Berlin'", "BACKUP_JOBS=3\r", "BACKUP_LOG_DIR=", "BACKUP_SCHEMA_X=$(touch " + i.dir + "/executed)`touch " + i.dir + "/executed`",
		"PGHOST=from-file", "SECRET_KEY=django's", "EVIL_LD_PRELOAD=x", "LD_PRELOAD=/nowhere.so", "PATH=/nowhere", "BASH_ENV=/nowhere", "touch " + i.dir + "/executed",
		"BACKUP_X;touch=1", "=1", "BACKUP_LAST=no newline",
	}, "\n"), 0o640)
	i.env = []string{"PGHOST=from-caller"}
	if code, _, stderr := i.run("schedule"); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	if _, err := os.Stat(filepath.Join(i.dir, "executed")); err == nil {
		t.Error("the environment file was executed")
	}
	var got []string
	for line := range strings.Lines(i.read(schedulerLog)) {
		if _, text, ok := strings.Cut(line, " -     "); ok && strings.Contains(text, "=") {
			got = append(got, strings.TrimSuffix(text, "\n"))
		}
	}
	want := []string{
		"BACKUP_JOBS=3", "BACKUP_LAST=no newline", "BACKUP_LOG_DIR=", `BACKUP_REPOSITORY=/srv/b "q" $HOME`,
		"BACKUP_SCHEMA_X=$(touch " + i.dir + "/executed)`touch " + i.dir + "/executed`", "BACKUP_TIME_ZONE=Europe/Berlin", "DATABASE_URL=postgres://u:p%23w@db/shop", "PGHOST=from-caller",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	i.write("other.env", "BACKUP_JOBS=4\n", 0o600)
	i.env = []string{"BACKUP_ENV_FILE=other.env"}
	if code, _, _ := i.run("schedule"); code != 0 || !strings.Contains(i.read(schedulerLog), "BACKUP_JOBS=4\n") {
		t.Errorf("another file: %d\n%s", code, i.read(schedulerLog))
	}
	i.env = []string{"BACKUP_ENV_FILE=none.env"}
	if code, _, stderr := i.run("schedule"); code != 1 || !strings.Contains(stderr, "none.env cannot be read") {
		t.Errorf("a file that is missing: %d, %s", code, stderr)
	}
	if err := os.Chmod(filepath.Join(i.dir, ".env"), 0o646); err != nil {
		t.Fatal(err)
	}
	i.env = nil
	if code, _, stderr := i.run("schedule"); code != 1 || !strings.Contains(stderr, "everybody can write to .env: chmod o-w .env") {
		t.Errorf("a file that everybody can write to: %d, %s", code, stderr)
	}
}

// The script works in its application's folder from wherever it is called, and by
// whichever link.
func TestSchedulerPlaces(t *testing.T) {
	t.Parallel()
	shared, app := newInstallation(t), newInstallation(t)
	link := filepath.Join(app.dir, "scripts", "link.sh")
	elsewhere := filepath.Join(t.TempDir(), "tenantkeep-cron")
	for to, from := range map[string]string{shared.script: link, "../the app/scripts/backup_scheduler.sh": filepath.Join(app.dir, "relative")} {
		if err := os.Symlink(to, from); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(app.dir, "relative"), elsewhere); err != nil {
		t.Fatal(err)
	}
	for _, call := range []string{link, elsewhere, app.script} {
		if err := os.RemoveAll(filepath.Join(app.dir, "logs")); err != nil {
			t.Fatal(err)
		}
		if out, err := app.command(call, "schedule").CombinedOutput(); err != nil {
			t.Fatalf("%s: %v, %s", call, err, out)
		}
		if log := app.read(schedulerLog); !strings.Contains(log, "in: "+app.dir+"\n") {
			t.Errorf("%s: %s", call, log)
		}
	}
	cmd := app.command("bash", "backup_scheduler.sh", "schedule")
	cmd.Dir = filepath.Join(app.dir, "scripts")
	if out, err := cmd.CombinedOutput(); err != nil || strings.Count(app.read(schedulerLog), "in: "+app.dir) != 2 {
		t.Errorf("from its own folder: %v, %s", err, out)
	}
	if err := os.Remove(filepath.Join(app.dir, "tenantkeep")); err != nil {
		t.Fatal(err)
	}
	app.env = []string{"TENANTKEEP=/nowhere/tenantkeep"} // the machine may have one somewhere
	if code, _, stderr := app.run("schedule"); code != 1 || !strings.Contains(stderr, "TENANTKEEP is /nowhere/tenantkeep, which is no program") || !strings.Contains(app.read(schedulerLog), "ERROR TENANTKEEP is ") {
		t.Errorf("without the program: %d, %s", code, stderr)
	}
	app.env = []string{"TENANTKEEP=" + filepath.Join(shared.dir, "tenantkeep")}
	if code, _, stderr := app.run("schedule"); code != 0 {
		t.Errorf("with the program named: %d, %s", code, stderr)
	}
}

func TestSchedulerEnds(t *testing.T) {
	t.Parallel()
	i := newInstallation(t)
	// What failed is sent by mail, and the exit code is passed on.
	i.write("todo", "echo 'error: no space left' >&2\nexit 3\n", 0o600)
	code, stdout, stderr := i.run("schedule")
	if code != 3 || stdout != "" || !strings.Contains(stderr, "error: no space left\n") || !strings.Contains(stderr, "schedule ended with exit code 3 after ") {
		t.Errorf("exit code %d, says %s%s", code, stdout, stderr)
	}
	line := regexp.MustCompile(`(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (-    |INFO |ERROR) `)
	if log := i.read(schedulerLog); strings.Count(log, "\n") != len(line.FindAllString(log, -1)) || !strings.Contains(log, " -     error: no space left\n") {
		t.Errorf("log:\n%s", log)
	}

	// A log that has become big is put aside, where cleanup finds it.
	i.env = []string{"BACKUP_LOG_MAX_BYTES=10", "BACKUP_LOG_LEVEL=ERROR"}
	i.write("todo", "exit 0", 0o600)
	if code, _, stderr := i.run("cleanup"); code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	entries, err := os.ReadDir(filepath.Join(i.dir, "logs", "backup"))
	if err != nil {
		t.Fatal(err)
	}
	aside := 0
	for _, e := range entries {
		if rotated.MatchString(e.Name()) {
			aside++
			if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("%s: %v, %v", e.Name(), info.Mode(), err)
			}
		}
	}
	if log := i.read(schedulerLog); aside != 1 || strings.Contains(log, "no space left") || strings.Contains(log, "INFO") {
		t.Errorf("after the rotation: %v, %s", entries, log)
	}
}

// A second run does not begin, and says who is at work. A signal reaches the
// program, and what it says to that is in the log.
func TestSchedulerSignalsAndLock(t *testing.T) {
	t.Parallel()
	i := newInstallation(t)
	i.write("todo", "[ $1 = schedule ] || return 0; trap 'echo stopped by a signal; exit 130' TERM\nmkfifo never; echo ready >ready; read x <never\n", 0o600)
	if err := syscall.Mkfifo(filepath.Join(i.dir, "ready"), 0o600); err != nil {
		t.Fatal(err)
	}
	first := i.command(i.script, "schedule")
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(i.dir, "ready")); err != nil || string(text) != "ready\n" {
		t.Fatalf("%q, %v", text, err)
	}
	code, _, stderr := i.run("backup", "full")
	want := regexp.MustCompile(fmt.Sprintf(`^backup_scheduler\.sh: backup does not begin: another run is at work: schedule since \d{4}-[^ ]*Z, process %d\n$`, first.Process.Pid))
	if code != 1 || !want.MatchString(stderr) {
		t.Errorf("exit code %d, says %s", code, stderr)
	}
	if code, stdout, _ := i.run("health"); code != 0 || !strings.Contains(stdout, "args: health") {
		t.Errorf("health waits for others: %d, %s", code, stdout)
	}
	if err := first.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := first.Wait(); first.ProcessState.ExitCode() != 130 {
		t.Errorf("ended with %v\n%s", err, i.read(schedulerLog))
	}
	if log := i.read(schedulerLog); !strings.Contains(log, "stopped by a signal\n") || !strings.Contains(log, "schedule ended with exit code 130 ") {
		t.Errorf("log:\n%s", log)
	}
}

// The real thing: Debian's cron, at the pace of a minute a second, its environment,
// the program, a database.
func TestSchedulerUnderCron(t *testing.T) {
	t.Parallel()
	i := newInstallation(t)
	db := pgtest.New(t)
	db.Exec(t, "CREATE SCHEMA acme; CREATE TABLE acme.t AS SELECT n FROM generate_series(1, 10) n")
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(i.dir, "tenantkeep")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(program, filepath.Join(i.dir, "tenantkeep")); err != nil {
		t.Fatal(err)
	}
	i.write(".env", "DATABASE_URL='"+db.URL()+"'\nBACKUP_TIME_ZONE=Europe/Berlin\n", 0o600)
	quoted := "'" + i.script + "'"
	i.cron("1 0 * * * root " + quoted + " schedule\n")
	i.await("the backup", func() bool {
		log, _ := os.ReadFile(filepath.Join(i.dir, schedulerLog))
		return regexp.MustCompile(`(?m) INFO +schedule is done after `).Match(log)
	})
	log := i.read(schedulerLog)
	for _, want := range []string{"schedule begins: ./tenantkeep schedule", "Due is a backup of all schemas (full).", "Saved core and 1 tenant: 1 table, 10 rows."} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in the log:\n%s", want, log)
		}
	}
	if found, _ := filepath.Glob(filepath.Join(i.dir, "backups", "manifests", "backup_manifest_*.json")); len(found) != 1 {
		t.Errorf("manifests: %v", found)
	}
}

// cron runs Debian's cron with these lines, a minute a second, until the test ends.
// It must be root, and root's lines and its lock are in one place only: it gets a
// namespace in which that place is its own. A user who is not root gets one in which
// he is, and fakeroot for the system calls that are denied there all the same.
func (i *installation) cron(lines string) {
	i.t.Helper()
	table := filepath.Join(i.dir, "crontab")
	i.write("crontab", lines, 0o644)
	tools := toolFolders()
	program, faketime := tools.find(i.t, "usr/sbin/cron"), tools.find(i.t, "usr/lib/*/faketime/libfaketime.so.1")
	setup := `set -e
for d in /etc/cron.d /var/spool/cron /run; do [ ! -d "$d" ] || mount -t tmpfs none "$d"; done
[ ! -e /etc/crontab ] || mount --bind /dev/null /etc/crontab
mkdir -p /var/spool/cron/crontabs
install -m 644 "$1" /etc/cron.d/test
export CRON=$2 FAKETIME_LIB=$3 TZ=UTC
shift 3
exec "$@" bash -c 'export FAKETIME="@2026-11-23 00:00:50 x60" LD_PRELOAD="${LD_PRELOAD:+$LD_PRELOAD:}$FAKETIME_LIB"; exec "$CRON" -f'
`
	args := []string{"--mount", "--pid", "--fork", "--kill-child", "bash", "-c", setup, "cron", table, program, faketime}
	if os.Getuid() == 0 {
		args = append(args, "env")
	} else {
		args = append([]string{"--user", "--map-root-user"}, args...)
		args = append(args, tools.find(i.t, "usr/bin/fakeroot"), "--lib", tools.find(i.t, "usr/lib/*/libfakeroot/libfakeroot-sysv.so"), "--faked", tools.find(i.t, "usr/bin/faked-sysv"), "--")
	}
	cmd := exec.CommandContext(i.t.Context(), "unshare", args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		i.t.Fatalf("start cron: %v", err)
	}
	i.t.Cleanup(func() {
		if err := cmd.Wait(); i.t.Failed() {
			i.t.Logf("cron: %v\n%s", err, said.String())
		}
	})
}

// await waits until something has come true.
func (i *installation) await(what string, done func() bool) {
	i.t.Helper()
	ctx, cancel := context.WithTimeout(i.t.Context(), time.Minute)
	defer cancel()
	for !done() {
		if ctx.Err() != nil {
			log, _ := os.ReadFile(filepath.Join(i.dir, schedulerLog))
			i.t.Fatalf("%s did not come; the log:\n%s", what, log)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// folders are where programs for tests are: installed, or unpacked by
// scripts/install-test-tools.sh.
type folders []string

func toolFolders() folders {
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		cache = filepath.Join(os.Getenv("HOME"), ".cache")
	}
	return folders{"/", filepath.Join(cache, "tenantkeep", "test-tools")}
}

// find finds a file that is there under one of the folders.
func (f folders) find(t *testing.T, pattern string) string {
	t.Helper()
	for _, dir := range f {
		if found, _ := filepath.Glob(filepath.Join(dir, pattern)); len(found) > 0 {
			return found[0]
		}
	}
	t.Fatalf("there is no %s: scripts/install-test-tools.sh installs it", pattern)
	return ""
}
