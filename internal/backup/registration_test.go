package backup_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/tenantkeep/tenantkeep/internal/backup"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
	"github.com/tenantkeep/tenantkeep/internal/registry"
)

// registered makes a world with tenants whose names are awkward, and the tables of
// django-tenants.
func registered(t *testing.T) *world {
	t.Helper()
	w := setup(t, nil)
	w.opts.Registry = registry.Choice{Auto: true}
	w.db.Exec(t, `
		CREATE SCHEMA a; CREATE TABLE a.t (id int); INSERT INTO a.t VALUES (1);
		CREATE SCHEMA "It's ""B"""; CREATE TABLE "It's ""B""".t (id int);
		CREATE SCHEMA c; CREATE TABLE c.t (id int);
		CREATE TABLE public.client (id int PRIMARY KEY, schema_name varchar(63) NOT NULL UNIQUE, "a ""name""" text, doubled int GENERATED ALWAYS AS (id * 2) STORED);
		CREATE TABLE public.domain (id int PRIMARY KEY, domain varchar(253) NOT NULL UNIQUE, is_primary boolean NOT NULL, tenant_id int NOT NULL REFERENCES public.client);
		INSERT INTO public.client VALUES (1, 'a', E'two\nlines \\. -- "quoted"'), (2, 'It''s "B"', NULL);
		INSERT INTO public.domain VALUES (1, 'a.example.com', true, 1), (2, 'b.example.com', true, 2), (3, 'www.a.example.com', false, 1)`)
	return w
}

// saved is the registration of a schema in a backup, a row a line.
func (w *world) saved(t *testing.T, m *manifest.Manifest, schema string) string {
	t.Helper()
	var lines []string
	for _, table := range w.open(t, m, schema).Index.Header.Registration {
		for _, row := range table.Rows {
			parts := []string{table.Name}
			for i, v := range row {
				text := "NULL"
				if v != nil {
					text = *v
				}
				parts = append(parts, table.Columns[i].Name+"="+text)
			}
			lines = append(lines, strings.Join(parts, " "))
		}
	}
	return strings.Join(lines, "|")
}

func TestRegistration(t *testing.T) {
	t.Parallel()
	w := registered(t)
	first := w.run(t)
	const ofA = "client id=1 schema_name=a a \"name\"=two\nlines \\. -- \"quoted\"|domain id=1 domain=a.example.com is_primary=t tenant_id=1|domain id=3 domain=www.a.example.com is_primary=f tenant_id=1"
	for schema, want := range map[string]string{
		"a": ofA, "c": "", "public": "",
		`It's "B"`: `client id=2 schema_name=It's "B" a "name"=NULL|domain id=2 domain=b.example.com is_primary=t tenant_id=2`,
	} {
		if got := w.saved(t, first, schema); got != want {
			t.Errorf("%s: saved is %s, want %s", schema, got, want)
		}
	}
	if got := w.open(t, first, "public").Index.Header.Registration; got != nil {
		t.Errorf("core has a registration of its own: %+v", got)
	}
	target := pgtest.New(t)
	w.load(t, first, "a", target)
	if got := target.Query(t, `SELECT count(*) FROM a.t`); got[0] != "1" {
		t.Errorf("psql loaded %s rows", got)
	}

	second := w.incremental(t)
	for _, e := range second.Schemas {
		if e.Timestamp != first.ID {
			t.Errorf("%s has a new file, though nothing changed", e.Schema)
		}
	}
	// One changed row of the registration is a change of the tenant.
	w.db.Exec(t, `UPDATE public.domain SET is_primary = true WHERE id = 3; INSERT INTO public.client VALUES (3, 'c', 'new')`)
	third := w.incremental(t)
	for _, e := range third.Schemas {
		if fresh := e.Timestamp == third.ID; fresh != (e.Schema != `It's "B"`) {
			t.Errorf("%s: new file %v", e.Schema, fresh)
		}
	}
	if got := w.saved(t, third, "a"); got != strings.Replace(ofA, "is_primary=f", "is_primary=t", 1) {
		t.Errorf("saved is %s", got)
	}
	if got := w.saved(t, third, "c"); !strings.Contains(got, "schema_name=c") {
		t.Errorf("saved is %s", got)
	}
	w.requireSame(t, third, "a", "c")
	// Full backups that take definitions over have it too.
	if got := w.saved(t, w.run(t), "a"); !strings.Contains(got, "is_primary=t tenant_id=1") {
		t.Errorf("saved is %s", got)
	}
}

// What is not clear is told and not taken; what was named and is not there ends
// the backup before it begins.
func TestRegistrationUnclear(t *testing.T) {
	t.Parallel()
	w := registered(t)
	w.db.Exec(t, `CREATE TABLE public.old (id int PRIMARY KEY, domain varchar(253) NOT NULL UNIQUE, is_primary boolean NOT NULL, tenant_id int REFERENCES public.client)`)
	m := w.run(t)
	requireContains(t, w.told(), "--registry-table")
	if got := w.saved(t, m, "a"); got != "" {
		t.Errorf("saved is %s", got)
	}
	choice, err := registry.ParseChoice([]string{"client.schema_name", "old.tenant_id=client.id"})
	must(t, err)
	w.opts.Registry = choice
	if got := w.saved(t, w.run(t), "a"); !strings.HasPrefix(got, "client id=1") || strings.Contains(got, "domain") {
		t.Errorf("saved is %s", got)
	}
	w.db.Exec(t, `DROP TABLE public.old`)
	var fault *registry.TableError
	if _, err := backup.Run(t.Context(), w.opts); !errors.As(err, &fault) || fault.Table.Name != "old" {
		t.Errorf("without a table that was named: %v", err)
	}
}

// A table that is rewritten under the backup would look empty through its
// snapshot.
func TestRegistrationRewritten(t *testing.T) {
	t.Parallel()
	w := registered(t)
	w.onStart = func() {
		w.onStart = nil
		w.db.Exec(t, `ALTER TABLE public.client ADD made timestamptz DEFAULT clock_timestamp()`)
	}
	m := w.run(t)
	if got := w.saved(t, m, "a"); !strings.HasPrefix(got, "client id=1") {
		t.Errorf("saved is %s\n%s", got, w.told())
	}
	if !slices.ContainsFunc(m.Schemas, func(e manifest.Schema) bool { return e.Schema == "a" && e.Snapshot != nil }) {
		t.Errorf("a was not taken again: %s", w.told())
	}
}

// A lock on the tables that is not given up fails the tenants, which would lack
// their registration otherwise.
func TestRegistrationLocked(t *testing.T) {
	t.Parallel()
	w := registered(t)
	w.opts.LockTimeout = 10_000_000 // 10 ms
	w.opts.Schemas = []string{"a"}
	holder := w.db.Conn(t)
	_, err := holder.Exec(t.Context(), `BEGIN; LOCK TABLE public.domain IN ACCESS EXCLUSIVE MODE`)
	must(t, err)
	requireContains(t, w.runFailing(t, t.Context()).Error(), "lock timeout", "--registry-table none")
	w.opts.Registry = registry.Choice{}
	w.run(t)
}
