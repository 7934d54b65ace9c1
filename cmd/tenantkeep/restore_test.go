package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

// runIn runs a command line and returns what it says.
func runIn(t *testing.T, want int, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if code := run(t.Context(), args, strings.NewReader(""), &out, &errs); code != want {
		t.Fatalf("%q: exit code %d, want %d\n%s%s", args, code, want, out.String(), errs.String())
	}
	return out.String(), errs.String()
}

// lastLine decodes the last line of JSON output.
func lastLine(t *testing.T, text string, to any) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(text), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), to); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
}

func mention(t *testing.T, text string, wanted ...string) {
	t.Helper()
	for _, want := range wanted {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
}

func TestRestoreAndVerify(t *testing.T) {
	t.Parallel()
	source, target := pgtest.New(t), pgtest.New(t)
	source.Exec(t, `
		CREATE TABLE public.shared (id int PRIMARY KEY); INSERT INTO public.shared VALUES (1);
		CREATE SCHEMA acme; CREATE TABLE acme.t (id int PRIMARY KEY); INSERT INTO acme.t SELECT generate_series(1, 1000);
		CREATE SCHEMA globex; CREATE TABLE globex.t (id int REFERENCES public.shared (id)); INSERT INTO globex.t VALUES (1)`)
	dir := t.TempDir()
	repository := "--repository=" + dir
	from, into := "--database-url="+source.URL(), "--database-url="+target.URL()

	_, stderr := runIn(t, 0, "verify", repository)
	mention(t, stderr, "No backups to verify")
	_, stderr = runIn(t, 1, "restore", "--latest", repository, into)
	mention(t, stderr, "there is no backup in", "--repository")
	_, stderr = runIn(t, 2, "restore", repository, into)
	mention(t, stderr, "nothing says which backup to restore", "--latest")
	_, stderr = runIn(t, 2, "restore", repository, into, "--latest", "--manifest", "x")
	mention(t, stderr, "give one of them")

	stdout, _ := runIn(t, 0, "backup", repository, from)
	path := strings.TrimSpace(stdout)
	stdout, _ = runIn(t, 0, "restore", "--list-available", repository, "--format", "json")
	mention(t, stdout, `"globex"`)
	_, stderr = runIn(t, 2, "restore", "--latest", "--schema", "nobody", repository, into)
	mention(t, stderr, "no backup in", "holds nobody")
	_, stderr = runIn(t, 2, "restore", "--manifest", path, "--schema", "nobody", repository, into)
	mention(t, stderr, `has no schema or tenant "nobody"`)

	stdout, stderr = runIn(t, 0, "restore", "--latest", "--dry-run", repository, into)
	mention(t, stdout+stderr, "acme", "1,000", "free", "PostgreSQL")
	var plan planJSON
	stdout, _ = runIn(t, 0, "restore", "--latest", "--dry-run", repository, into, "--format", "json")
	lastLine(t, stdout, &plan)
	if len(plan.Schemas) != 3 || plan.Schemas[0].Schema != "public" || plan.Source != source.Name {
		t.Errorf("plan %+v", plan)
	}

	// From another working directory and another repository, by the path.
	_, stderr = runIn(t, 0, "restore", "--manifest", path, "--repository="+t.TempDir(), into)
	mention(t, stderr, "Restored 3 schemas", "1,002 rows", "read again")
	pgtest.RequireEqual(t, source, target, pgtest.Compare{})

	_, stderr = runIn(t, 0, "restore", "--latest", "--all", "--dry-run", repository, into)
	mention(t, stderr, "public will be replaced", "globex will be replaced")
	_, stderr = runIn(t, 2, "restore", "--latest", "--schema", "acme", repository, into)
	mention(t, stderr, "will be replaced", "--yes")
	target.Exec(t, "DROP SCHEMA acme CASCADE; DROP SCHEMA globex CASCADE; DELETE FROM public.shared")
	stdout, _ = runIn(t, 3, "restore_tenant", "--latest", "--schema", "acme", "--schema", "globex", "--yes", repository, into, "--format", "json")
	var summary restoreSummary
	lastLine(t, stdout, &summary)
	if summary.Restored != 2 || summary.Rows != 1001 || !summary.Schemas[0].OK || summary.Schemas[1].OK || len(summary.Schemas[1].Problems) != 1 {
		t.Errorf("summary %+v", summary)
	}

	_, stderr = runIn(t, 0, "verify", repository)
	mention(t, stderr, "All is well: 1 backup, 3 files")
	files, err := filepath.Glob(filepath.Join(dir, "data", "acme*"))
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	if err := os.Truncate(files[0], 10); err != nil {
		t.Fatal(err)
	}
	stdout, stderr = runIn(t, 1, "verify", repository, "--latest")
	mention(t, stdout+stderr, "acme", "another size", "1 problem found")
	if strings.Contains(stdout, "of schema") {
		t.Errorf("the table tells the file twice:\n%s", stdout)
	}
	stdout, _ = runIn(t, 1, "verify", repository, "--format", "json")
	mention(t, stdout, `"ok":false`, `"tenant":"acme"`)
	runIn(t, 0, "verify", repository, "--schema", "globex")
	runIn(t, 2, "verify", repository, "--schema", "nobody")
	_, stderr = runIn(t, 1, "restore", "--latest", "--schema", "acme", repository, into)
	mention(t, stderr, "another size", "nothing was changed")
}
