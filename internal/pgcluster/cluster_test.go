package pgcluster_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/pgcluster"
)

func query(t *testing.T, url, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var value string
	if err := conn.QueryRow(t.Context(), sql).Scan(&value); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return value
}

func TestLifeOfATemporaryCluster(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c, err := pgcluster.Start(ctx, pgcluster.Options{Unsafe: true, TCP: true})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	odd := `a "b" %/?&= ü+`
	if err := c.CreateDatabase(ctx, odd); err != nil {
		t.Fatal(err)
	}
	if got := query(t, c.URL(odd), "SELECT current_database()::text"); got != odd {
		t.Errorf("connected to database %q, want %q", got, odd)
	}
	for name, want := range map[string]string{
		"server_encoding": "UTF8", "max_locks_per_transaction": "64", "max_connections": "100", "fsync": "off",
	} {
		if got := query(t, c.URL(odd), "SHOW "+name); got != want {
			t.Errorf("%s = %q, want %q", name, got, want)
		}
	}
	query(t, c.URL("postgres"), "SELECT set_config('a.b', 'c', false)")

	if _, err := pgx.Connect(ctx, "postgres://postgres@"+c.Address()+"/postgres"); err == nil ||
		!strings.Contains(err.Error(), "password") {
		t.Errorf("TCP connection without a password gave %v", err)
	}

	for range 3 {
		if err := c.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := c.Restart(ctx, map[string]string{"max_locks_per_transaction": "200"}); err != nil {
			t.Fatal(err)
		}
	}
	if got := query(t, c.URL(odd), "SHOW max_locks_per_transaction"); got != "200" {
		t.Errorf("after Restart max_locks_per_transaction = %q, want 200", got)
	}
	if err := c.DropDatabase(ctx, odd); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(c.Dir()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("folder after Close: %v, want it gone", err)
	}
}

func TestNamedFolderIsUsedAgain(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	// The server's user may not enter the parent of t.TempDir.
	parent, err := os.MkdirTemp("", "tenantkeep-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(parent)
	if err := os.Chmod(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	// So long that the socket has to live elsewhere.
	dir := filepath.Join(parent, strings.Repeat("long", 20))
	c, err := pgcluster.Start(ctx, pgcluster.Options{Dir: dir, Unsafe: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.CreateDatabase(ctx, "kept"); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}

	c, err = pgcluster.Start(ctx, pgcluster.Options{Dir: dir, Unsafe: true})
	if err != nil {
		t.Fatal(err)
	}
	if got := query(t, c.URL("kept"), "SELECT current_database()::text"); got != "kept" {
		t.Errorf("database = %q", got)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestStartReportsWhatTheServerSaid(t *testing.T) {
	t.Parallel()
	_, err := pgcluster.Start(t.Context(), pgcluster.Options{Settings: map[string]string{"no_such_setting": "it's"}})
	if err == nil || !strings.Contains(err.Error(), "no_such_setting") {
		t.Errorf("Start with an unknown setting gave %v", err)
	}
}

func TestInspectRefusesLonePrograms(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, program := range []string{"initdb", "postgres"} {
		script := "#!/bin/sh\necho 'postgres (PostgreSQL) 99.1'\n"
		if err := os.WriteFile(filepath.Join(dir, program), []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if programs, err := pgcluster.Inspect(dir); err == nil {
		t.Errorf("Inspect took programs without share files: %+v", programs)
	}
}

func TestFindTellsHowToInstall(t *testing.T) {
	t.Setenv(pgcluster.BinDirVariable, t.TempDir())
	if _, err := pgcluster.Find(); err == nil || !strings.Contains(err.Error(), pgcluster.BinDirVariable) {
		t.Errorf("Find with an empty %s gave %v", pgcluster.BinDirVariable, err)
	}
	if hint := (&pgcluster.MissingError{}).Hint(); !strings.Contains(hint, "install") {
		t.Errorf("hint = %q", hint)
	}
}
