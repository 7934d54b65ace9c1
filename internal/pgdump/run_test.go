package pgdump

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPatternsAreFewAndShort(t *testing.T) {
	t.Parallel()
	var names []string
	for i := range 120 {
		names = append(names, fmt.Sprintf(`a"%d`, i))
	}
	got := patterns(names)
	if len(got) != 3 || !strings.HasPrefix(got[2], `"a""100"|"a""101"|`) {
		t.Errorf("%d patterns: %q", len(got), got)
	}
	for _, pattern := range patterns(slices.Repeat([]string{strings.Repeat(`"`, 1000)}, 100)) {
		if len(pattern) > patternBytes {
			t.Errorf("a pattern of %d bytes", len(pattern))
		}
	}
	if got := patterns(nil); got != nil {
		t.Errorf("patterns of nothing: %q", got)
	}
}

func TestEnvironmentLeadsNowhereElse(t *testing.T) {
	t.Parallel()
	got := environment(
		[]string{"PATH=/bin", "PGSERVICE=other", "PGHOST=other", "PGPASSWORD=secret", "LC_ALL=de_DE", "PGCLIENTENCODING=LATIN1"},
		[]string{"PGHOST=here", "PGUSER=me"})
	want := []string{"PATH=/bin", "LC_ALL=de_DE", "PGHOST=here", "PGUSER=me", "LC_ALL=C", "LC_MESSAGES=C", "LANGUAGE="}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestMessages(t *testing.T) {
	t.Parallel()
	found := parseMessages(`pg_dump: warning: there are circular foreign-key constraints on this table:
pg_dump: detail: t
pg_dump: hint: You might not be able to restore the dump.
pg_dump: warning: could not resolve dependency loop among these items:
pg_dump: detail:   FUNCTION f  (ID 4)
pg_dump: error: query failed: ERROR:  out of shared memory
HINT:  You might need to increase max_locks_per_transaction.
pg_dump: detail: Query was: LOCK TABLE public.t
`, "pg_dump")
	if diff := cmp.Diff([]string{"could not resolve dependency loop among these items: FUNCTION f  (ID 4)"}, messages(found[:5]).warnings()); diff != "" {
		t.Error(diff)
	}
	want := "query failed: ERROR:  out of shared memory\nHINT:  You might need to increase max_locks_per_transaction.\nQuery was: LOCK TABLE public.t"
	if diff := cmp.Diff(want, found.failure()); diff != "" {
		t.Error(diff)
	}
	if got := parseMessages("error while loading shared libraries: libpq.so.5\n", "pg_dump").failure(); !strings.Contains(got, "libpq") {
		t.Errorf("message of the loader lost: %q", got)
	}
}

func TestReasons(t *testing.T) {
	t.Parallel()
	tests := map[string]Reason{
		`query failed: ERROR:  out of shared memory`:                                                       LockTableFull,
		`query failed: ERROR:  canceling statement due to statement timeout`:                               LockTimeout,
		`query failed: ERROR:  canceling statement due to lock timeout`:                                    LockTimeout,
		`query failed: ERROR:  cache lookup failed for index 16402`:                                        Vanished,
		`query failed: ERROR:  could not open relation with OID 16402`:                                     Vanished,
		`query failed: ERROR:  relation "s.t" does not exist`:                                              Vanished,
		`definition of view "v" appears to be empty (length zero)`:                                         Vanished,
		`query to obtain definition of view "v" returned no data`:                                          Vanished,
		`no matching schemas were found`:                                                                   Vanished,
		`schema with OID 16402 does not exist`:                                                             Vanished,
		`query failed: ERROR:  permission denied for table t`:                                              PermissionDenied,
		`connection to server on socket "/x" failed: FATAL:  database "x" does not exist`:                  ConnectionLost,
		`query failed: server closed the connection unexpectedly`:                                          ConnectionLost,
		`query failed: FATAL:  terminating connection due to administrator command`:                        ConnectionLost,
		`query failed: SSL connection has been closed unexpectedly`:                                        ConnectionLost,
		`query failed: ERROR:  invalid snapshot identifier: "00000003-0000001B-1"`:                         SnapshotGone,
		`query failed: ERROR:  could not import the requested snapshot`:                                    SnapshotGone,
		`query failed: ERROR:  division by zero`:                                                           Unknown,
		`aborting because of server version mismatch`:                                                      Unknown,
		"query failed: ERROR:  fehlende Berechtigung\nQuery was: LOCK TABLE public.t IN ACCESS SHARE MODE": Unknown,
	}
	for text, want := range tests {
		got := newError(messages{{level: "error", text: text}}, errors.New("exit status 1"))
		if got.Reason != want {
			t.Errorf("%q: got %q, want %q", text, got.Reason, want)
		}
	}
}

func TestParseVersion(t *testing.T) {
	t.Parallel()
	tests := map[string]int{
		"pg_dump (PostgreSQL) 15.18\n":                          150018,
		"pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n": 150018,
		"pg_dump (PostgreSQL) 18.3 (Homebrew)\n":                180003,
		"pg_dump (PostgreSQL) 19beta1\n":                        190000,
		"pg_dump (PostgreSQL) 19devel\n":                        190000,
		"pg_dump (EnterpriseDB) 17.2.0\n":                       170002,
	}
	for text, want := range tests {
		if _, got, err := parseVersion(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "pg_dump (PostgreSQL) 9.6.24\n", "pg_restore (PostgreSQL) 15.1\n", "15.1"} {
		if _, num, err := parseVersion(text); err == nil {
			t.Errorf("%q: got %d and no error", text, num)
		}
	}
}

// fakePrograms makes a folder for each version with a program that says so.
func fakePrograms(t *testing.T, versions ...string) string {
	t.Helper()
	root := t.TempDir()
	for i, version := range versions {
		dir := filepath.Join(root, fmt.Sprint(i))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		script := "#!/bin/sh\necho 'pg_dump (PostgreSQL) " + version + "'\n"
		if version == "" {
			script = "#!/bin/sh\nexit 1\n"
		}
		if err := os.WriteFile(filepath.Join(dir, "pg_dump"), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestFind(t *testing.T) {
	root := fakePrograms(t, "14.9", "18.1", "16.2", "", "16.4", "17.0")
	t.Setenv("PATH", filepath.Join(root, "1")+":/bin:/usr/bin")
	patterns := []string{filepath.Join(root, "*")}
	tests := []struct {
		explicit string
		server   int
		want     string
	}{
		{"", 140020, "14.9"},
		{"", 150000, "16.4"},
		{"", 160009, "16.4"},
		{"", 170000, "17.0"},
		{"", 180009, "18.1"},
		{"pg_dump", 140000, "18.1"},
		{filepath.Join(root, "5", "pg_dump"), 140000, "17.0"},
	}
	for _, test := range tests {
		got, err := find(t.Context(), test.explicit, test.server, patterns)
		if err != nil || got.Version != test.want {
			t.Errorf("%q for %d: got %+v, %v", test.explicit, test.server, got, err)
		}
	}
	for explicit, server := range map[string]int{"": 190001, filepath.Join(root, "0", "pg_dump"): 150002} {
		_, err := find(t.Context(), explicit, server, patterns)
		var old *TooOldError
		if !errors.As(err, &old) || !strings.Contains(err.Error(), versionText(server)) || old.Hint() == "" {
			t.Errorf("%q for %d: got error %v", explicit, server, err)
		}
	}
	if _, err := find(t.Context(), "/nonexistent/pg_dump", 150000, patterns); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got error %v", err)
	}
	t.Setenv("PATH", "/nonexistent")
	var missing *NotFoundError
	if _, err := find(t.Context(), "", 150000, nil); !errors.As(err, &missing) || !strings.Contains(missing.Hint(), "postgresql-client-15") {
		t.Errorf("got error %v", err)
	}
}

func TestWarningOfOldMinor(t *testing.T) {
	t.Parallel()
	p := Program{Version: "15.18", Num: 150018}
	if got := p.Warning(150020); !strings.Contains(got, "15.18") || !strings.Contains(got, "15.20") {
		t.Errorf("got %q", got)
	}
	for _, server := range []int{150018, 150017, 140022} {
		if got := p.Warning(server); got != "" {
			t.Errorf("server %d: %q", server, got)
		}
	}
}
