package config

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// world is one user's command line, environment and settings file.
type world struct {
	args []string
	env  map[string]string
	file string
}

func (w world) load(t *testing.T) (*Config, error) {
	t.Helper()
	flags := pflag.NewFlagSet("test", pflag.ContinueOnError)
	var keys []string
	for _, s := range Settings() {
		if s.Flag != "" {
			keys = append(keys, s.Key)
		}
	}
	AddFlags(flags, keys...)
	if err := flags.Parse(w.args); err != nil {
		return nil, err
	}
	from := Sources{Flags: flags, LookupEnv: func(name string) (string, bool) {
		v, ok := w.env[name]
		return v, ok
	}}
	from.File = filepath.Join(t.TempDir(), "settings.yaml")
	if err := os.WriteFile(from.File, []byte(w.file), 0o600); err != nil {
		t.Fatal(err)
	}
	return Load(from)
}

func mustLoad(t *testing.T, w world) *Config {
	t.Helper()
	c, err := w.load(t)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPrecedence(t *testing.T) {
	t.Parallel()
	all := world{
		args: []string{"--jobs", "7"},
		env:  map[string]string{"BACKUP_JOBS": "5", "BACKUP_RETENTION_DAYS": "14", "BASELINE_DIR": "  "},
		file: "jobs: 3\nretention-days: 4\nlog-dir: /var/log\n",
	}
	c := mustLoad(t, all)
	if c.Jobs != 7 || c.RetentionDays != 14 || c.LogDir != "/var/log" || c.BaselineDir != "./baselineData" {
		t.Errorf("got jobs %d, days %d, log %q, baselines %q", c.Jobs, c.RetentionDays, c.LogDir, c.BaselineDir)
	}
	for key, want := range map[string]SourceKind{"jobs": FromFlag, "retention-days": FromEnv, "log-dir": FromFile, "baseline-dir": FromDefault} {
		if got := c.Source(key).Kind; got != want {
			t.Errorf("%s comes from %v, want %v", key, got, want)
		}
	}
	if got := c.Source("log-dir").Line; got != 3 {
		t.Errorf("log-dir is in line %d, want 3", got)
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	c := mustLoad(t, world{})
	if c.Repository != "./backups" || c.Compression != (Compression{Method: "zstd"}) || c.Jobs < 1 ||
		c.RetentionDays != 30 || c.BackupType != "full" || c.ScheduleType != "" || c.LockTimeout != 5*time.Second || c.LogLevel != slog.LevelInfo {
		t.Errorf("defaults are %+v", c)
	}
}

func TestLists(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		w    world
		want []string
	}{
		{"flags are exact", world{args: []string{"--schema", "a,b", "--schema=C d"}}, []string{"a,b", "C d"}},
		{"variable of one", world{env: map[string]string{"BACKUP_TENANT_SCHEMA": "customer_a"}}, []string{"customer_a"}},
		{"variable of three", world{env: map[string]string{"BACKUP_TENANT_SCHEMA": `a, "b,c" ,d,`}}, nil},
		{"variable with quotes", world{env: map[string]string{"BACKUP_TENANT_SCHEMA": `a, "b,c",d,`}}, []string{"a", "b,c", "d"}},
		{"file of one", world{file: "schema: a,b\n"}, []string{"a,b"}},
		{"file of two", world{file: "schema: [a, 007]\n"}, []string{"a", "007"}},
		{"file with anchor", world{file: "schema: &x [a]\nexclude-schema: *x\n"}, []string{"a"}},
		{"empty", world{file: "schema:\n"}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, err := tt.w.load(t)
			if tt.name == "variable of three" {
				if err == nil {
					t.Errorf("got %q, want an error for text after a quote", c.Schemas)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, c.Schemas); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestCompression(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		w    world
		want string // or the beginning of an error after "!"
	}{
		{world{args: []string{"--compress"}}, "gzip"},
		{world{args: []string{"--compress=false"}}, "none"},
		{world{args: []string{"--compression", "zstd:19"}}, "zstd:19"},
		{world{args: []string{"--compression", "GZIP:9", "--jobs", "1"}}, "gzip:9"},
		{world{args: []string{"--compress", "--compression", "gzip"}}, "gzip"},
		{world{args: []string{"--compress", "--compression", "zstd"}}, "!--compression: contradicts --compress"},
		{world{args: []string{"--compression", "zstd:23"}}, "!invalid argument"},
		{world{env: map[string]string{"BACKUP_COMPRESS": "true"}}, "gzip"},
		{world{env: map[string]string{"BACKUP_COMPRESS": "False"}}, "none"},
		{world{env: map[string]string{"BACKUP_COMPRESS": "maybe"}}, "!BACKUP_COMPRESS: \"maybe\" is neither"},
		{world{env: map[string]string{"BACKUP_COMPRESS": "true", "BACKUP_COMPRESSION": "zstd:3"}}, "zstd:3"},
		{world{env: map[string]string{"BACKUP_COMPRESS": "true"}, args: []string{"--compression", "none"}}, "none"},
		{world{env: map[string]string{"BACKUP_COMPRESSION": "none:1"}}, "!BACKUP_COMPRESSION: \"none:1\": none has no level"},
		{world{file: "compression: gzip:6"}, "gzip:6"},
	} {
		c, err := tt.w.load(t)
		if want, fails := strings.CutPrefix(tt.want, "!"); fails {
			if err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("%v: error %v, want %s", tt.w, err, want)
			}
			continue
		}
		if err != nil {
			t.Errorf("%v: %v", tt.w, err)
		} else if got := c.Compression.String(); got != tt.want {
			t.Errorf("%v: got %s, want %s", tt.w, got, tt.want)
		}
	}
}

func TestFaultsNameTheirPlace(t *testing.T) {
	t.Parallel()
	_, err := world{
		env:  map[string]string{"BACKUP_RETENTION_DAYS": "soon", "BACKUP_LOCK_TIMEOUT": "0"},
		file: "# settings\nretention_days: 3\njobs: [1, 2]\nwholly-else: 1\nlog-dir: a\nlog-dir: b\n",
	}.load(t)
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`BACKUP_RETENTION_DAYS: "soon" is not a whole number`,
		`BACKUP_LOCK_TIMEOUT: "0" is not a duration`,
		"settings.yaml:2: retention_days: unknown setting",
		"settings.yaml:3: jobs: is not a single value",
		"settings.yaml:4: wholly-else: unknown setting",
		"settings.yaml:6: log-dir: stands twice; first in line 5",
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
	var fault *Error
	if !errors.As(err, &fault) || fault.Hint() != "did you mean retention-days?" {
		t.Errorf("first fault %v with hint %q", fault, fault.Hint())
	}
}

func TestFilesThatAreNoSettings(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"- a\n":               "key: value",
		"jobs: 1\n---\na: 2":  "one YAML document",
		"jobs: [1\nb: 2":      "did not find expected",
		"\tjobs: 1":           "cannot start any token",
		"just words":          "key: value",
		"jobs: \x00":          "control characters",
		"database-url: [a]\n": "not a single value",
	} {
		if _, err := (world{file: text}).load(t); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
	}
	for _, text := range []string{"", "\n", "# nothing\n", "---\n", "\ufeffjobs: 2\n", "{}"} {
		if _, err := (world{file: text}).load(t); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestSecrets(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	c := mustLoad(t, world{
		env:  map[string]string{"DATABASE_URL_FILE": write("url", "postgis://u:s3cret@h/d\n"), "PGPASSWORD": " spaced "},
		file: "database-url: postgres://other/x\n",
	})
	if c.DatabaseURL != "postgres://u:s3cret@h/d" || c.DatabasePassword != " spaced " {
		t.Errorf("got %q and %q", c.DatabaseURL, c.DatabasePassword)
	}
	if got := c.Value("database-url") + c.Value("database-password"); strings.Contains(got, "s3cret") || strings.Contains(got, "spaced") {
		t.Errorf("secrets are shown: %s", got)
	}
	c = mustLoad(t, world{file: "database-password-file: " + write("password", "x y\r\n")})
	if c.DatabasePassword != "x y" {
		t.Errorf("password of a file named in settings: %q", c.DatabasePassword)
	}
	for name, w := range map[string]world{
		"both":      {env: map[string]string{"DATABASE_URL": "postgres://h/d", "DATABASE_URL_FILE": write("u2", "postgres://h/d")}},
		"missing":   {env: map[string]string{"PGPASSWORD_FILE": filepath.Join(dir, "none")}},
		"empty":     {env: map[string]string{"PGPASSWORD_FILE": write("empty", "\n")}},
		"directory": {env: map[string]string{"PGPASSWORD_FILE": dir}},
		"not a URL": {env: map[string]string{"DATABASE_URL": "s3cret"}},
		"mysql":     {env: map[string]string{"DATABASE_URL": "mysql://u:s3cret@h/d"}},
		"bad URL":   {env: map[string]string{"DATABASE_URL": "postgres://u:s3cret/@h/d"}},
	} {
		if _, err := w.load(t); err == nil || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestPasswordsAreNoFlags(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"postgres://u:s3cret@h/d", "postgres://u:s3cret@/d?host=/tmp", "postgresql://h/d?password=s3cret",
		"postgres://h/d?sslmode=require&sslpassword=s3cret",
		" postgres://u:s3cret@h/d", "\tpostgresql://u:s3cret@/d?host=/tmp", "\u00a0postgis://u:s3cret@h/d", "\n\v postgres://:s3cret@h/d",
	} {
		_, err := world{args: []string{"--database-url", text}}.load(t)
		if err == nil || !strings.Contains(err.Error(), "can be read by everybody") {
			t.Errorf("%s: error %v", text, err)
		}
		if got := RedactURL(text); strings.Contains(got, "s3") || strings.Contains(got, "cret") {
			t.Errorf("%s is shown as %s", text, got)
		}
	}
	for _, text := range []string{
		"postgres://u@h:5432/d", "postgres://h1:1,h2:2/d@b", "postgres://u@h:5432/d?application_name=a:b@c",
		"postgres:///d?host=/tmp", "postgres:///?service=prod", "postgres:///d", "postgres://h/?passfile=/x",
	} {
		if _, err := (world{args: []string{"--database-url", text}}).load(t); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if got := RedactURL(text); got != text {
			t.Errorf("%s is shown as %s", text, got)
		}
	}
}

func TestNamedFileMustExist(t *testing.T) {
	t.Parallel()
	missing := filepath.Join(t.TempDir(), "x.yaml")
	if _, err := Load(Sources{File: missing}); err == nil || !strings.HasPrefix(err.Error(), "--config: read settings: ") {
		t.Errorf("error %v", err)
	}
	env := func(name string) (string, bool) { return missing, name == FileEnv }
	if _, err := Load(Sources{LookupEnv: env}); err == nil || !strings.HasPrefix(err.Error(), "TENANTKEEP_CONFIG: ") {
		t.Errorf("error %v", err)
	}
}

func TestWarnsOfReadablePassword(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "tenantkeep.yaml")
	for text, want := range map[string]int{
		"database-url: postgres://u:p@h/d\n": 1, "database-url: postgres://u@h/d\n": 0, "database-password: p\n": 1, "jobs: 1\n": 0,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		for mode, want := range map[os.FileMode]int{0o600: 0, 0o644: want} {
			if err := os.Chmod(path, mode); err != nil {
				t.Fatal(err)
			}
			c, err := Load(Sources{File: path})
			if err != nil || len(c.Warnings) != want {
				t.Errorf("%q, mode %v: warnings %q, error %v; want %d", text, mode, c.Warnings, err, want)
			}
		}
	}
}

func TestSettingsTable(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, s := range Settings() {
		for _, name := range []string{"key " + s.Key, "flag " + s.Flag, "env " + s.Env} {
			if seen[name] && !strings.HasSuffix(name, " ") {
				t.Errorf("%s is used twice", name)
			}
			seen[name] = true
		}
		if s.Help == "" || s.Env == "" || (s.Flag != "" && s.Kind == "") {
			t.Errorf("%s is not described", s.Key)
		}
		if s.Default != "" {
			if err := s.apply(new(Config), []string{s.Default}); err != nil {
				t.Errorf("default of %s: %v", s.Key, err)
			}
		}
	}
}

func TestNearest(t *testing.T) {
	t.Parallel()
	words := []string{"backup", "restore", "list", "verify"}
	for word, want := range map[string]string{"bakcup": "backup", "lst": "list", "verfy": "verify", "zzzzzz": "", "": ""} {
		if got := Nearest(word, words); got != want {
			t.Errorf("Nearest(%q) = %q, want %q", word, got, want)
		}
	}
}

func FuzzParseFile(f *testing.F) {
	f.Add([]byte("jobs: 3\nschema: [a, *b]\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Fuzz(func(_ *testing.T, text []byte) {
		file, err := parseFile("x", text)
		if err != nil {
			return
		}
		file.check()
		for _, s := range settings() {
			if v, found, err := file.find(s); found && err == nil {
				_ = s.apply(new(Config), v.texts)
			}
		}
	})
}
