package baseline_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tenantkeep/tenantkeep/internal/backup"
	"github.com/tenantkeep/tenantkeep/internal/baseline"
	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/storage/local"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

type silent struct{}

func (silent) Start(string, int, int64)        {}
func (silent) Add(int64, int64)                {}
func (silent) TenantDone(string, error)        {}
func (silent) Note(slog.Level, string, string) {}
func (silent) Finish()                         {}

// write writes the schema as a baseline, as the command does.
func write(t *testing.T, db *pgtest.Database, dir, schema, template string) string {
	t.Helper()
	store := open(t, t.TempDir())
	r := repo.Open(store, repo.Options{})
	server, err := pg.Parse(db.URL())
	must(t, err)
	result, err := backup.Run(t.Context(), backup.Options{
		Server: server, Repo: r, Schemas: []string{schema}, Tenant: template, Type: manifest.Baseline, Jobs: 1, Version: "test",
		Compression: datafile.Compression{Algorithm: datafile.Zstd}, Progress: silent{}, Log: slog.New(slog.DiscardHandler),
	})
	must(t, err)
	f, err := r.OpenFile(t.Context(), result.Manifest, result.Manifest.Schemas[0])
	must(t, err)
	defer f.Close()
	path, err := baseline.Write(dir, template, func(w io.Writer) error {
		_, err := datafile.Join(f.File, w, datafile.Compression{Algorithm: datafile.None})
		return err
	}, nil)
	must(t, err)
	return path
}

func open(t *testing.T, dir string) *local.Store {
	t.Helper()
	store, err := local.New(dir)
	must(t, err)
	return store
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// database has a core with an extension and a tenant that leans on it.
func database(t *testing.T) *pgtest.Database {
	t.Helper()
	db := pgtest.New(t)
	db.Exec(t, `
		CREATE EXTENSION citext SCHEMA public;
		CREATE TABLE public.countries (code text PRIMARY KEY, name public.citext);
		INSERT INTO public.countries VALUES ('ch', 'Schweiz'), (E'\\N', E'tab\t\\.');
		SELECT lo_from_bytea(70001, 'large');
		CREATE SCHEMA "de MO";
		CREATE TABLE "de MO".t (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, country text REFERENCES public.countries, v text);
		INSERT INTO "de MO".t (country, v) SELECT 'ch', repeat('ä', n) FROM generate_series(1, 300) n;
		CREATE MATERIALIZED VIEW "de MO".m AS SELECT count(*) FROM "de MO".t;
		COMMENT ON SCHEMA "de MO" IS 'a demo'`)
	return db
}

// What psql makes of the files is what they were made from.
func TestPsqlLoadsBaselines(t *testing.T) {
	t.Parallel()
	db, dir := database(t), filepath.Join(t.TempDir(), "new", "baselineData")
	core, template := write(t, db, dir, "public", ""), write(t, db, dir, "de MO", "restaurant")
	if core != filepath.Join(dir, "baseline.sql") || template != filepath.Join(dir, "templates", "restaurant", "baseline.sql") {
		t.Errorf("written to %s and %s", core, template)
	}
	target := pgtest.New(t)
	for _, file := range []string{core, template} {
		cmd := exec.CommandContext(t.Context(), db.Cluster().Programs.Path("psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", file)
		cmd.Env = target.Env()
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("psql: %v\n%s", err, out)
		}
	}
	pgtest.RequireEqual(t, db, target, pgtest.Compare{})
}

func TestDamageIsNoticed(t *testing.T) {
	t.Parallel()
	db, dir := database(t), t.TempDir()
	path := write(t, db, dir, "de MO", "restaurant")
	whole, err := os.ReadFile(path)
	must(t, err)
	store := open(t, dir)
	m, err := baseline.Open(t.Context(), store, "restaurant", true)
	must(t, err)
	if e := m.Schemas[0]; m.BackupType != manifest.Baseline || e.Schema != "de MO" || e.Tenant != "restaurant" || e.Rows != 300 || e.Size != int64(len(whole)) {
		t.Errorf("manifest: %+v", m)
	}
	damaged := func(name string, text []byte, foreign bool) {
		t.Helper()
		must(t, os.WriteFile(path, text, 0o600))
		_, err := baseline.Open(t.Context(), store, "restaurant", true)
		var e *baseline.DamagedError
		if !errors.As(err, &e) || e.Foreign != foreign || !strings.Contains(e.Hint(), "--backup-file "+path) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for at := 0; at < len(whole); at += len(whole)/97 + 1 {
		damaged("cut", whole[:at], at < len("-- tenantkeep: schema "))
		if at > len("-- tenantkeep: schema ") {
			changed := bytes.Clone(whole)
			changed[at] ^= 1
			damaged("changed", changed, false)
		}
	}
	damaged("cut by a byte", whole[:len(whole)-1], false)
	damaged("longer", append(bytes.Clone(whole), '\n'), false)
	damaged("a line by hand", bytes.Replace(whole, []byte("CREATE TABLE"), []byte("CREATE  TABLE"), 1), false)
	damaged("a row by hand", bytes.Replace(whole, []byte("\tch\t"), []byte("\tde\t"), 1), false)
	damaged("a dump", []byte("--\n-- PostgreSQL database dump\n--\n"), true)
	damaged("empty", nil, true)

	must(t, os.WriteFile(path, whole, 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "baseline.sql"), whole, 0o600))
	var e *baseline.DamagedError
	if _, err := baseline.Open(t.Context(), store, "", true); !errors.As(err, &e) || !strings.Contains(err.Error(), `holds schema "de MO", not core`) {
		t.Errorf("a tenant in the place of core: %v", err)
	}
}

// A baseline that could not be written leaves the old one as it was.
func TestOldBaselineStays(t *testing.T) {
	t.Parallel()
	db, dir := database(t), t.TempDir()
	path := write(t, db, dir, "public", "")
	before, err := os.ReadFile(path)
	must(t, err)
	full := errors.New("no space left on device")
	for name, script := range map[string]func(io.Writer) error{
		"fails":  func(w io.Writer) error { _, _ = w.Write(before[:100]); return full },
		"is cut": func(w io.Writer) error { _, err := w.Write(before[:len(before)-5]); return err },
		"is changed": func(w io.Writer) error {
			_, err := w.Write(bytes.Replace(before, []byte("Schweiz"), []byte("Schwyz!"), 1))
			return err
		},
	} {
		if _, err := baseline.Write(dir, "", script, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, before) {
			t.Errorf("%s: the old one is gone: %v", name, err)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left in the folder: %v, %v", entries, err)
	}
	info, err := os.Stat(path)
	must(t, err)
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	db.Exec(t, "DELETE FROM public.countries WHERE code <> 'ch'")
	write(t, db, dir, "public", "")
	if m, err := baseline.Open(t.Context(), open(t, dir), "", true); err != nil || m.Schemas[0].Rows != 1 {
		t.Errorf("after the next one: %+v, %v", m, err)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a/b", "..", "a..b", ".", ".hidden", "-x", "a b", "a\\b", "a:b", "ä", "x.", "a\n", "../x", strings.Repeat("a", 64)} {
		var e *baseline.NameError
		if key, err := baseline.Key(name); !errors.As(err, &e) {
			t.Errorf("%q: %s, %v", name, key, err)
		}
	}
	for name, want := range map[string]string{"": "baseline.sql", "restaurant": "templates/restaurant/baseline.sql", "Hair-salon_2.1": "templates/Hair-salon_2.1/baseline.sql"} {
		if key, err := baseline.Key(name); key != want || err != nil {
			t.Errorf("%q: %s, %v", name, key, err)
		}
	}
	dir := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(dir, "templates", "hotel"), 0o700))
	must(t, os.WriteFile(filepath.Join(dir, "templates", "hotel", "baseline.sql"), []byte("x"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "templates", "hotel", "notes.sql"), []byte("x"), 0o600))
	_, err := baseline.Open(t.Context(), open(t, dir), "hostel", true)
	var e *baseline.MissingError
	if !errors.As(err, &e) || !errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(e.Hint(), "there are hotel;") {
		t.Errorf("missing: %v", err)
	}
	list, err := baseline.List(t.Context(), open(t, dir))
	if err != nil || len(list) != 1 || list[0].Template != "hotel" || list[0].Path != "templates/hotel/baseline.sql" {
		t.Errorf("list: %+v, %v", list, err)
	}
}
