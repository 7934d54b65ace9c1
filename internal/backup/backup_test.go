package backup_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/tenantkeep/tenantkeep/internal/backup"
	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/storage"
	"github.com/tenantkeep/tenantkeep/internal/storage/local"
)

// world is a database, a repository, and what a backup of the one into the
// other told.
type world struct {
	db   *pgtest.Database
	dir  string
	opts backup.Options
	*recorder
}

// setup makes a world around a database, or around a new one.
func setup(t *testing.T, db *pgtest.Database) *world {
	t.Helper()
	if db == nil {
		db = pgtest.New(t)
	}
	w := &world{db: db, dir: filepath.Join(t.TempDir(), "backups"), recorder: &recorder{}}
	store, err := local.New(w.dir)
	must(t, err)
	w.opts = backup.Options{
		Server: parse(t, db.URL()), Type: manifest.Full, Compression: datafile.Compression{Algorithm: datafile.Zstd},
		RetentionDays: 30, Jobs: 2, Version: "test", Progress: w.recorder, Log: slog.New(slog.DiscardHandler),
		PgDump: db.Cluster().Programs.Path("pg_dump"),
	}
	w.use(store)
	return w
}

// use puts the repository into another storage.
func (w *world) use(s storage.Storage) {
	w.opts.Repo = repo.Open(s, repo.Options{LockWait: -1})
}

// run takes a backup of which everything must be saved.
func (w *world) run(t *testing.T) *manifest.Manifest {
	t.Helper()
	result, err := backup.Run(t.Context(), w.opts)
	if err != nil {
		t.Fatalf("backup: %v\n%s", err, w.told())
	}
	return result.Manifest
}

// runPartial takes a backup of which just these schemas cannot be saved. It
// returns the manifest, and the errors by schema.
func (w *world) runPartial(t *testing.T, failing ...string) (*manifest.Manifest, map[string]string) {
	t.Helper()
	result, err := backup.Run(t.Context(), w.opts)
	var partial *backup.PartialError
	if !errors.As(err, &partial) {
		t.Fatalf("backup: %v, want a partial one\n%s", err, w.told())
	}
	failures := map[string]string{}
	for _, f := range result.Manifest.Failures {
		failures[f.Schema] = f.Error
		if !slices.Contains(failing, f.Schema) {
			t.Errorf("%s failed: %s", f.Schema, f.Error)
		}
	}
	for _, name := range failing {
		if failures[name] == "" {
			t.Errorf("%s did not fail", name)
		}
	}
	return result.Manifest, failures
}

// runFailing takes a backup that must fail as a whole and leave nothing.
func (w *world) runFailing(t *testing.T, ctx context.Context) error {
	t.Helper()
	_, err := backup.Run(ctx, w.opts)
	var partial *backup.PartialError
	if err == nil || errors.As(err, &partial) {
		t.Fatalf("backup: %v, want a failure", err)
	}
	w.requireNothing(t)
	return err
}

// requireNothing requires that nothing is listed, or lies about.
func (w *world) requireNothing(t *testing.T) {
	t.Helper()
	for _, folder := range []string{"data", "manifests", "runs"} {
		entries, err := os.ReadDir(filepath.Join(w.dir, folder))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for _, e := range entries {
			t.Errorf("%s/%s is left", folder, e.Name())
		}
	}
}

// path is the data file of a schema.
func (w *world) path(t *testing.T, m *manifest.Manifest, schema string) string {
	t.Helper()
	return filepath.Join(w.dir, entry(t, m, schema).Filepath)
}

func entry(t *testing.T, m *manifest.Manifest, schema string) manifest.Schema {
	t.Helper()
	for _, s := range m.Schemas {
		if s.Schema == schema {
			return s
		}
	}
	t.Fatalf("schema %q is not in the manifest", schema)
	return manifest.Schema{}
}

// text is a data file as the ordinary tools show it, after they have tested it.
// One that refers to others is joined with them.
func (w *world) text(t *testing.T, m *manifest.Manifest, schema string) []byte {
	t.Helper()
	path := w.path(t, m, schema)
	if len(entry(t, m, schema).References) > 0 {
		path = w.export(t, m, schema)
	}
	tool := map[string]string{".zst": "zstd", ".gz": "gzip"}[filepath.Ext(path)]
	if tool == "" {
		b, err := os.ReadFile(path)
		must(t, err)
		return b
	}
	if out, err := exec.CommandContext(t.Context(), tool, "-q", "-t", path).CombinedOutput(); err != nil {
		t.Fatalf("%s -t: %v\n%s", tool, err, out)
	}
	b, err := exec.CommandContext(t.Context(), tool, "-q", "-d", "-c", path).Output()
	must(t, err)
	return b
}

// load gives a data file to psql.
func (w *world) load(t *testing.T, m *manifest.Manifest, schema string, into *pgtest.Database) {
	t.Helper()
	psql(t, into.Cluster().Env(into.Name), into.Cluster().Programs.Path("psql"), w.text(t, m, schema))
}

// requireSame gives data files to psql, core's first, and requires that they
// bring back what is in the database.
func (w *world) requireSame(t *testing.T, m *manifest.Manifest, schemas ...string) {
	t.Helper()
	target := pgtest.NewIn(t, w.db.Cluster())
	w.load(t, m, manifest.CoreSchema, target)
	for _, s := range schemas {
		w.load(t, m, s, target)
	}
	pgtest.RequireEqual(t, w.db, target, pgtest.Compare{Schemas: append([]string{manifest.CoreSchema}, schemas...)})
}

// open opens the data file of a schema.
func (w *world) open(t *testing.T, m *manifest.Manifest, schema string) *datafile.File {
	t.Helper()
	f, err := w.opts.Repo.OpenFile(t.Context(), m, entry(t, m, schema))
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f.File
}

// export joins the data file of a schema with those that it refers to.
func (w *world) export(t *testing.T, m *manifest.Manifest, schema string) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "export"+w.opts.Compression.Ext()))
	must(t, err)
	defer f.Close()
	_, err = datafile.Join(w.open(t, m, schema), f, w.opts.Compression)
	must(t, err)
	return f.Name()
}

// rows reads the rows of a table out of a data file by its index, and requires
// that they are what the index says.
func rows(t *testing.T, file *datafile.File, table string) []string {
	t.Helper()
	i := slices.IndexFunc(file.Index.Tables, func(e manifest.Table) bool { return e.Name == table })
	if i < 0 {
		t.Fatalf("table %s is not in the index", table)
	}
	var all []string
	for _, g := range file.Index.Tables[i].Segments {
		for _, p := range g.Pieces {
			frame, err := file.ReadFrame(p.Frame, nil)
			must(t, err)
			lines := strings.SplitAfter(string(frame[p.Offset:p.Offset+p.Bytes]), "\n")
			if rest := lines[len(lines)-1]; rest != "" || int64(len(lines)-1) != p.Rows {
				t.Fatalf("%s: a piece has %d rows and %q, want %d", table, len(lines)-1, rest, p.Rows)
			}
			if !bytes.HasPrefix(frame[p.Offset+p.Bytes:], []byte("\\.\n")) {
				t.Fatalf("%s: a piece does not end at the end of rows", table)
			}
			all = append(all, lines[:len(lines)-1]...)
		}
	}
	if int64(len(all)) != file.Index.Tables[i].Rows {
		t.Fatalf("%s has %d rows, the index says %d", table, len(all), file.Index.Tables[i].Rows)
	}
	return all
}

func parse(t *testing.T, url string) *pg.Server {
	t.Helper()
	s, err := pg.Parse(url)
	must(t, err)
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// hint is the advice that an error comes with.
func hint(err error) string {
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	return ""
}

func requireContains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in:\n%s", part, text)
		}
	}
}

// recorder is progress that calls the test, where it wants to be called.
type recorder struct {
	onStart func()
	onAdd   func()
	onNote  func(tenant, message string)
	onDone  func(tenant string)

	mu    sync.Mutex
	notes []string
	done  map[string]error
}

func (r *recorder) Start(string, int, int64) {
	if r.onStart != nil {
		r.onStart()
	}
}

func (r *recorder) Add(int64, int64) {
	if r.onAdd != nil {
		r.onAdd()
	}
}

func (r *recorder) TenantDone(tenant string, err error) {
	r.mu.Lock()
	if r.done == nil {
		r.done = map[string]error{}
	}
	r.done[tenant] = err
	r.mu.Unlock()
	if r.onDone != nil {
		r.onDone(tenant)
	}
}

func (r *recorder) Note(_ slog.Level, tenant, message string) {
	r.mu.Lock()
	r.notes = append(r.notes, tenant+": "+message)
	r.mu.Unlock()
	if r.onNote != nil {
		r.onNote(tenant, message)
	}
}

func (r *recorder) Finish() {}

func (r *recorder) told() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Join(r.notes, "\n")
}

var _ backup.Progress = (*recorder)(nil)

// psql runs a script.
func psql(t *testing.T, env []string, program string, script []byte) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), program, "-X", "-q", "-v", "ON_ERROR_STOP=1", "-o", os.DevNull)
	cmd.Env, cmd.Stdin = append(os.Environ(), env...), bytes.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("psql: %v\n%s", err, out)
	}
}
