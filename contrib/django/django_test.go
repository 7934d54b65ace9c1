// Package django_test runs the Django app in a project of a real Django, with
// the real program and a real PostgreSQL.
package django_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/ui/terminaltest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// project is a Django project, in a folder of its own, whose settings are given to
// each of its processes.
type project struct {
	dir      string
	python   string
	settings map[string]any
	env      []string
}

func newProject(t *testing.T, settings map[string]any) *project {
	t.Helper()
	app, err := filepath.Abs(".")
	must(t, err)
	packages := filepath.Join(cacheDir(t), "tenantkeep", "test-tools", "usr", "lib", "python3", "dist-packages")
	p := &project{
		dir: t.TempDir(), settings: settings,
		env: append(os.Environ(), "PYTHONPATH="+app+string(os.PathListSeparator)+packages, "PYTHONDONTWRITEBYTECODE=1", "DATABASE_URL=postgres://nobody@nowhere/x"),
	}
	must(t, os.CopyFS(p.dir, os.DirFS("testdata/project")))
	for _, python := range []string{"/usr/bin/python3", "python3"} {
		cmd := exec.CommandContext(t.Context(), python, "-c", "import django, psycopg2")
		cmd.Env = p.env
		if cmd.Run() == nil {
			p.python = python
			return p
		}
	}
	t.Fatal("there is no Python with Django and psycopg2: scripts/install-test-tools.sh, or make test, installs it")
	return nil
}

func cacheDir(t *testing.T) string {
	t.Helper()
	dir, err := os.UserCacheDir()
	must(t, err)
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// command is a process of the project's Python.
func (p *project) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	settings, err := json.Marshal(p.settings)
	must(t, err)
	cmd := exec.CommandContext(t.Context(), p.python, args...)
	cmd.Dir, cmd.Env = p.dir, append(slices.Clone(p.env), "TEST_SETTINGS="+string(settings))
	return cmd
}

// manage runs manage.py, which must end with the code, and returns its stdout and
// its stderr.
func (p *project) manage(t *testing.T, code int, args ...string) (stdout, stderr string) {
	t.Helper()
	return run(t, code, p.command(t, append([]string{"manage.py"}, args...)...))
}

func run(t *testing.T, code int, cmd *exec.Cmd) (stdout, stderr string) {
	t.Helper()
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		t.Fatalf("%s: exit code %d, want %d\n%s\n%s", cmd.Args[1:], got, code, &out, &errs)
	}
	return out.String(), errs.String()
}

const password = `p@ss:/w%r d'"\=é`

// saas is a project with two tenants, in a database of an awkward name, to which a
// role with an awkward password connects by TCP.
func saas(t *testing.T) (*project, *pgtest.Database) {
	t.Helper()
	program := pgtest.Program(t)
	db := pgtest.New(t)
	host, port, _ := strings.Cut(db.Cluster().Address(), ":")
	role := "owner of " + db.Name
	db.Exec(t, `CREATE ROLE `+pg.Identifier(role)+` SUPERUSER LOGIN PASSWORD `+pg.Literal(password))
	t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), db.Cluster().URL("postgres"))
		must(t, err)
		defer conn.Close(context.Background())
		for _, sql := range []string{
			"DROP DATABASE IF EXISTS " + pg.Identifier(db.Name) + " WITH (FORCE)", "DROP ROLE " + pg.Identifier(role),
		} {
			_, err = conn.Exec(context.Background(), sql)
			must(t, err)
		}
	})
	p := newProject(t, map[string]any{
		"DATABASES": map[string]any{"default": map[string]any{
			"ENGINE": "django.db.backends.postgresql", "NAME": db.Name, "USER": role, "PASSWORD": password, "HOST": host, "PORT": port,
			"OPTIONS": map[string]any{"sslmode": "prefer", "connect_timeout": 10},
		}},
		"TENANT_MODEL": "customers.Client", "TENANT_DOMAIN_MODEL": "customers.Domain",
		"TENANTKEEP": map[string]any{"BINARY": program, "ENVIRONMENT": map[string]any{"BACKUP_REPOSITORY": "the backups"}},
	})
	p.manage(t, 0, "migrate", "--run-syncdb", "-v", "0")
	for _, name := range []string{"customer_a", "customer_b"} {
		db.Exec(t, strings.ReplaceAll(`CREATE SCHEMA $$; CREATE TABLE $$.orders (id int PRIMARY KEY); INSERT INTO $$.orders SELECT generate_series(1, 100);
			WITH c AS (INSERT INTO public.customers_client (schema_name, name) VALUES ('$$', 'Tenant $$') RETURNING id)
			INSERT INTO public.customers_domain (domain, is_primary, tenant_id) SELECT '$$.example.com', true, id FROM c`, "$$", name))
	}
	return p, db
}

// The commands with their original options, on a tenant that is lost with its
// registration.
func TestCommands(t *testing.T) {
	t.Parallel()
	p, db := saas(t)
	stdout, stderr := p.manage(t, 0, "backup_tenant", "--backup-type", "full", "--compress", "--retention-days", "9")
	if !strings.HasSuffix(stdout, ".json\n") || !strings.Contains(stderr, "core and 2 tenants") {
		t.Errorf("backup: %s\n%s", stdout, stderr)
	}
	manifest := filepath.Join(p.dir, strings.TrimPrefix(strings.TrimSpace(stdout), p.dir))
	var saved struct {
		Compression string
		Days        int `json:"retention_days"`
	}
	text, err := os.ReadFile(manifest)
	must(t, err)
	must(t, json.Unmarshal(text, &saved))
	if saved.Compression != "gzip" || saved.Days != 9 {
		t.Errorf("saved with %+v", saved)
	}
	// Options that only the program knows are passed on, with verbosity.
	if _, stderr = p.manage(t, 0, "backup_tenant", "--schema", "customer_b", "--lock-timeout", "3s", "-v", "0"); stderr != "" {
		t.Errorf("quietly: %s", stderr)
	}
	var listed []struct{ Tenants int }
	stdout, _ = p.manage(t, 0, "list_backups", "--format", "json", "--schema", "customer_a", "--limit", "10")
	must(t, json.Unmarshal([]byte(stdout), &listed))
	if len(listed) != 1 || listed[0].Tenants != 1 {
		t.Errorf("list: %s", stdout)
	}

	const state = `SELECT (SELECT string_agg(domain, ' ' ORDER BY domain) FROM public.customers_domain) || (SELECT count(*) FROM pg_namespace WHERE nspname = 'customer_a')`
	db.Exec(t, `DROP SCHEMA customer_a CASCADE; DELETE FROM public.customers_domain WHERE domain LIKE 'customer\_a%'; DELETE FROM public.customers_client WHERE schema_name = 'customer_a'`)
	p.manage(t, 0, "restore_tenant", "--manifest", manifest, "--schema", "customer_a", "--dry-run")
	if got := db.Query(t, state); got[0] != "customer_b.example.com0" {
		t.Errorf("a dry run made %s", got)
	}
	p.manage(t, 0, "restore_tenant", "--manifest", manifest, "--schema", "customer_a", "--create-rollback=false")
	if got := db.Query(t, state); got[0] != "customer_a.example.com customer_b.example.com1" {
		t.Errorf("restored is %s", got)
	}
	stdout, _ = p.manage(t, 0, "cleanup_backups", "--retention-policy", "custom", "--daily-retention", "14", "--weekly-retention", "8", "--dry-run")
	if strings.Count(stdout, "stays") != 2 {
		t.Errorf("cleanup: %s", stdout)
	}
	if stdout, _ = run(t, 0, p.command(t, "call.py")); stdout != "full\n2 True\n" {
		t.Errorf("from Python: %s", stdout)
	}
}

// The exit codes are the program's, and what is wrong is told.
func TestExitCodes(t *testing.T) {
	t.Parallel()
	p, db := saas(t)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"restore_tenant", "--latest"}, 1, "no backup"},
		{[]string{"backup_tenant", "--no-such-option"}, 2, "no-such-option"},
		{[]string{"backup_tenant", "--schema", "nobody"}, 1, "nobody"},
		{[]string{"backup_tenant", "--database", "other"}, 1, "CommandError: The connection 'other' doesn't exist"},
		{[]string{"backup_tenant", "--database", "default", "--lock-timeout", "1ms"}, 3, "customer_b"},
	} {
		if c.code == 3 {
			holder := db.Conn(t)
			_, err := holder.Exec(t.Context(), `BEGIN; LOCK TABLE customer_b.orders IN ACCESS EXCLUSIVE MODE`)
			must(t, err)
		}
		if _, stderr := p.manage(t, c.code, c.args...); !strings.Contains(stderr, c.want) {
			t.Errorf("%s: %s, want %q", c.args, stderr, c.want)
		}
	}
	for want, change := range map[string]func(map[string]any){
		"no program that can be run": func(s map[string]any) { s["TENANTKEEP"] = map[string]any{"BINARY": "/no/such/program"} },
		"unknown entries: BINRY":     func(s map[string]any) { s["TENANTKEEP"] = map[string]any{"BINRY": "x"} },
		"default' is sqlite": func(s map[string]any) {
			s["DATABASES"] = map[string]any{"default": map[string]any{"ENGINE": "django.db.backends.sqlite3", "NAME": "x"}}
		},
	} {
		other := *p
		other.settings = map[string]any{}
		for k, v := range p.settings {
			other.settings[k] = v
		}
		change(other.settings)
		if _, stderr := other.manage(t, 1, "list_backups"); !strings.Contains(stderr, want) || strings.Contains(stderr, "Traceback") {
			t.Errorf("%s, want %q", stderr, want)
		}
	}
}

// Settings become variables, exactly; no password is on the command line.
func TestEnvironment(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	program := filepath.Join(dir, "tenantkeep")
	must(t, os.WriteFile(program, []byte("#!/bin/sh\nprintf '%s|' \"$@\"; echo; env | grep -E '^(DATABASE|BACKUP|PG)' | sort\n"), 0o700))
	p := newProject(t, map[string]any{
		"DATABASES": map[string]any{
			"default": map[string]any{"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"},
			"direct": map[string]any{
				"ENGINE": "django.db.backends.postgresql", "NAME": "a=b c/ä", "USER": "us er", "PASSWORD": password, "HOST": "/var/run/x",
				"OPTIONS": map[string]any{"sslmode": "verify-full", "passfile": "/p a", "isolation_level": 1, "options": "-c statement_timeout=5", "assume_role": "a role"},
			},
			"service": map[string]any{"ENGINE": "django.db.backends.postgresql", "NAME": "", "OPTIONS": map[string]any{"service": "my service"}},
		},
		"MEDIA_ROOT": "/srv/media", "MULTITENANT_RELATIVE_MEDIA_ROOT": "tenants/%s/files/", "TENANT_MODEL": "customers.Client", "TENANT_DOMAIN_MODEL": "customers.Domain",
		"TENANTKEEP": map[string]any{"DATABASE": "direct", "ENVIRONMENT": map[string]any{"BACKUP_JOBS": 3}},
	})
	p.env = append(slices.DeleteFunc(p.env, func(v string) bool { return strings.HasPrefix(v, "PG") || strings.HasPrefix(v, "BACKUP") }),
		"PATH="+dir+":"+os.Getenv("PATH"), "PGPASSWORD_FILE=/x", "DATABASE_URL_FILE=/x")
	const others = `BACKUP_JOBS=3
BACKUP_MEDIA_PATTERN=tenants/{schema}/files
BACKUP_MEDIA_ROOT=/srv/media
BACKUP_REGISTRY_TABLES="""public"".""customers_client"".""schema_name""","""public"".""customers_domain"".""tenant_id""=""public"".""customers_client"".""id"""
`
	stdout, _ := p.manage(t, 0, "backup_tenant", "--schema", "a", "--schema", "b", "--compress", "--include-media", "--exclude-schema", "c d", "--jobs=2", "--no-color")
	want := "backup|--no-color|--schema=a|--schema=b|--include-media=true|--compress=true|--exclude-schema|c d|--jobs=2|\n" + others +
		"DATABASE_URL=postgres:///a%3Db%20c%2F%C3%A4?options=-c%20statement_timeout%3D5%20-c%20role%3Da%5C%20role&passfile=%2Fp%20a&sslmode=verify-full&user=us%20er&host=%2Fvar%2Frun%2Fx\n" +
		"PGPASSWORD=" + password + "\n"
	if stdout != want {
		t.Errorf("got\n%s\nwant\n%s", stdout, want)
	}
	p.env = append(p.env, "BACKUP_MEDIA_ROOT=/elsewhere")
	stdout, _ = p.manage(t, 0, "restore_tenant", "--database", "service", "--latest")
	want = "restore|--latest=true|\n" + strings.Replace(others, "/srv/media", "/elsewhere", 1) + "DATABASE_URL=postgres:///?service=my%20service\nPGPASSWORD_FILE=/x\n"
	if stdout != want {
		t.Errorf("got\n%s\nwant\n%s", stdout, want)
	}
}

// The program has the terminal: it asks, and Ctrl-C reaches it.
func TestTerminal(t *testing.T) {
	t.Parallel()
	p, db := saas(t)
	p.manage(t, 0, "backup_tenant")
	db.Exec(t, `DELETE FROM customer_a.orders`)
	start := func() (*exec.Cmd, *terminaltest.Terminal) {
		terminal := terminaltest.New(t)
		cmd := p.command(t, "manage.py", "restore_tenant", "--latest", "--schema", "customer_a")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal.TTY, terminal.TTY, terminal.TTY
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		cmd.Env = append(cmd.Env, "TERM=xterm")
		must(t, cmd.Start())
		terminal.Expect("will be replaced", "customer_a")
		return cmd, terminal
	}
	cmd, terminal := start()
	terminal.Type(terminaltest.CtrlC)
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 130 {
		t.Errorf("after Ctrl-C: %v\n%s", err, terminal.Raw())
	}
	if got := db.Query(t, `SELECT count(*) FROM customer_a.orders`); got[0] != "0" {
		t.Errorf("%s rows were restored all the same", got)
	}
	cmd, terminal = start()
	terminal.Type("customer_a", terminaltest.Enter)
	if err := cmd.Wait(); err != nil {
		t.Errorf("restore: %v\n%s", err, terminal.Raw())
	}
	if got := db.Query(t, `SELECT count(*) FROM customer_a.orders`); got[0] != "100" {
		t.Errorf("%s rows were restored", got)
	}
}
