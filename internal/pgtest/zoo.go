package pgtest

import (
	"bytes"
	"compress/gzip"
	"embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

//go:embed testdata/zoo/*.sql testdata/cases/*.gz testdata/zoo_label.c
var testdata embed.FS

// DefaultBigValue is the size of the zoo's largest values unless a test wants
// others: larger than a few pages, small enough for every test.
const DefaultBigValue = 300_000

// LabelProvider is the provider of the zoo's security labels.
const LabelProvider = "zoo"

// ZooOptions vary what Zoo fills a database with.
type ZooOptions struct {
	// BigValue is the length in bytes of the largest text and of the largest
	// bytea; 0 means DefaultBigValue. The oracle holds such a value as text
	// several times over, so that 100 MB is about what it can judge.
	BigValue int
	// LoaderDefaults gives the loading superuser default privileges for the
	// whole database. Whatever that role creates afterwards has more and fewer
	// rights than it says, unless the restore takes care; pg_dump does not when
	// it restores one schema.
	LoaderDefaults bool
}

// Zoo fills an empty database with core, in public, and many tenants that have
// between them every kind of object, value and name that a backup must bring
// back. The roles that it makes stay in the cluster. The scripts in
// testdata/zoo say what is where.
//
// Left out are tables that an extension gave pg_extension_config_dump, which no
// extension of PostgreSQL's own has, a populated materialized view on one that
// no longer is, which no dump can bring back, and security labels, which need a
// provider: see SecurityLabels.
func Zoo(t testing.TB, db *Database, opts ZooOptions) {
	t.Helper()
	big := opts.BigValue
	if big == 0 {
		big = DefaultBigValue
	}
	files, err := testdata.ReadDir("testdata/zoo")
	fatalIf(t, "list zoo", err)
	for _, file := range files {
		script, err := testdata.ReadFile("testdata/zoo/" + file.Name())
		fatalIf(t, "read zoo", err)
		db.psql(t, file.Name(), bytes.NewReader(script),
			"-v", "big="+strconv.Itoa(big),
			"-v", "loader_defaults="+strconv.FormatBool(opts.LoaderDefaults),
			"-v", "pg15="+strconv.FormatBool(db.cluster.Programs.Major >= 15))
	}
}

// ZooTenants are the schemas of the zoo besides public that another one does
// not depend on: each can be dropped with CASCADE and restored alone, and all
// that was lost outside of it are publications' tables and casts. The others
// are zoo_links and zoo_links_b, which are tied to each other and to core,
// zoo_tables and zoo_parts, which share partitions, and zoo_ext and extensions,
// which hold extensions.
func ZooTenants(t testing.TB, db *Database) []string {
	t.Helper()
	return db.Query(t, `SELECT nspname FROM pg_catalog.pg_namespace
		WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'public',
			'zoo_links', 'zoo_links_b', 'zoo_tables', 'zoo_parts', 'zoo_ext', 'extensions')
		ORDER BY nspname COLLATE "C"`)
}

// SecurityLabels puts labels on objects of a database that Zoo has filled, and
// lets each of the databases accept labels from then on. PostgreSQL brings no
// provider of labels, so that this builds one and skips the test where there is
// no C compiler. It must come before the connections that set labels.
func SecurityLabels(t testing.TB, zoo *Database, others ...*Database) {
	t.Helper()
	library := buildLabelProvider(t, zoo)
	for _, db := range append([]*Database{zoo}, others...) {
		// Set for the database and not for the cluster, whose other databases
		// must not depend on a file of this test.
		db.Exec(t, fmt.Sprintf("ALTER DATABASE %s SET session_preload_libraries = '%s'",
			pgx.Identifier{db.Name}.Sanitize(), strings.ReplaceAll(library, "'", "''")))
	}
	zoo.Exec(t, `
		SECURITY LABEL FOR zoo ON SCHEMA zoo_code IS 'secret';
		SECURITY LABEL FOR zoo ON TABLE zoo_code.people IS E'top ''secret''\n\\';
		SECURITY LABEL FOR zoo ON COLUMN zoo_code.people.salary IS 'classified';
		SECURITY LABEL FOR zoo ON VIEW zoo_code.guarded IS 'guarded';
		SECURITY LABEL FOR zoo ON FUNCTION zoo_code.nasty() IS 'nasty';
		SECURITY LABEL FOR zoo ON TYPE zoo_types.mood IS 'mood';
		SECURITY LABEL FOR zoo ON DOMAIN public.slug IS 'core';
		SECURITY LABEL FOR zoo ON SEQUENCE zoo_types.seq_plain IS '';
		SECURITY LABEL FOR zoo ON EVENT TRIGGER zoo_log IS 'database';
		SECURITY LABEL FOR zoo ON LANGUAGE zoo_language IS 'language';
		SECURITY LABEL FOR zoo ON PUBLICATION zoo_nothing IS 'publication';
		SECURITY LABEL FOR zoo ON LARGE OBJECT 4200001 IS 'large'`)
}

func buildLabelProvider(t testing.TB, db *Database) string {
	t.Helper()
	compiler, err := exec.LookPath("cc")
	if err != nil {
		t.Skip("security labels need a provider, and a C compiler to build one")
	}
	if major := db.cluster.Programs.Major; major < 15 || major > 17 {
		t.Skipf("the label provider is not written for PostgreSQL %d", major)
	}
	source, err := testdata.ReadFile("testdata/zoo_label.c")
	fatalIf(t, "read label provider", err)
	// Beside the cluster's data, where the server's user may read it.
	library := filepath.Join(db.cluster.Dir(), db.Name+"_label.so")
	cmd := exec.CommandContext(t.Context(), compiler, "-shared", "-fPIC", "-Wall", "-Werror",
		fmt.Sprintf("-DMAJOR=%d", db.cluster.Programs.Major), "-x", "c", "-", "-o", library)
	cmd.Stdin = bytes.NewReader(source)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("build label provider: %v\n%s", err, out)
	}
	fatalIf(t, "open label provider to the server", os.Chmod(library, 0o755))
	return library
}

// CaseNames are the real databases that Case can load.
func CaseNames() []string { return []string{"chinook", "northwind", "pagila"} }

// Case loads a real sample database into db as a tenant called schema.
// testdata/cases/README.md says where they come from.
func Case(t testing.TB, db *Database, name, schema string) {
	t.Helper()
	file, err := testdata.Open("testdata/cases/" + name + ".sql.gz")
	fatalIf(t, "open case", err)
	defer file.Close()
	script, err := gzip.NewReader(file)
	fatalIf(t, "open case "+name, err)

	scratch := NewIn(t, db.cluster)
	scratch.psql(t, name, script)
	quoted := pgx.Identifier{schema}.Sanitize()
	scratch.Exec(t, "ALTER SCHEMA public RENAME TO "+quoted+"; CREATE SCHEMA public")
	dump := scratch.pgDump(t, "--schema", pattern(schema))
	db.psql(t, name, bytes.NewReader(dump))
}

// psql runs a script and fails the test at its first error. name is for the
// message.
func (db *Database) psql(t testing.TB, name string, script io.Reader, args ...string) {
	t.Helper()
	args = append([]string{"-X", "-q", "-v", "ON_ERROR_STOP=1", "-o", os.DevNull}, args...)
	cmd := exec.CommandContext(t.Context(), db.cluster.Programs.Path("psql"), append(args, "-f", "-")...)
	cmd.Env = append(db.Env(), "PGCLIENTENCODING=UTF8", "PGOPTIONS=-c client_min_messages=error")
	cmd.Stdin = script
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("run %s with psql: %v\n%s", name, err, excerpt(string(out)))
	}
}

// pgDump is the plain output of pg_dump of the cluster's own version.
func (db *Database) pgDump(t testing.TB, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), db.cluster.Programs.Path("pg_dump"), append(args, "--encoding=UTF8")...)
	cmd.Env = db.Env()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("run pg_dump of %s: %v\n%s", db.Name, err, excerpt(stderr.String()))
	}
	return stdout.Bytes()
}

// pattern is what makes pg_dump match exactly the given name.
func pattern(name string) string {
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}
