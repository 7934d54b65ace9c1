package backup_test

import (
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/backup"
	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pgtest"
)

// TestScripts loads every data file with psql, and compares.
func TestScripts(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.Zoo(t, db, pgtest.ZooOptions{})
	for _, name := range pgtest.CaseNames() {
		pgtest.Case(t, db, name, name+" Inc.")
	}
	whole := dump(t, db)
	tenants := pgtest.ZooTenants(t, db)
	for i, c := range []datafile.Compression{{Algorithm: datafile.Zstd}, {Algorithm: datafile.Gzip, Level: 1}, {Algorithm: datafile.None}} {
		w := setup(t, db)
		w.opts.Compression = c
		m := w.run(t) // one after the other: a second run of one database is refused
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			some := tenants
			if i > 0 { // the contents are the same
				some = tenants[len(tenants)-5:]
			}
			// A database that has lost those tenants, and what went with them.
			target := pgtest.New(t)
			psql(t, target.Cluster().Env(target.Name), target.Cluster().Programs.Path("psql"), whole)
			drop := "SET client_min_messages = error;"
			for _, tenant := range some {
				drop += "DROP SCHEMA " + pgx.Identifier{tenant}.Sanitize() + " CASCADE;"
			}
			target.Exec(t, drop)
			for _, tenant := range some {
				w.load(t, m, tenant, target)
			}
			pgtest.RequireEqual(t, db, target, pgtest.Compare{Schemas: db.Query(t, `SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'`)})
			for _, s := range m.Schemas {
				file := w.open(t, m, s.Schema)
				for _, table := range file.Index.Tables {
					rows(t, file, table.Name)
				}
			}
		})
	}
}

// dump is a database as pg_dump has it.
func dump(t *testing.T, db *pgtest.Database) []byte {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), db.Cluster().Programs.Path("pg_dump"))
	cmd.Env = db.Env()
	out, err := cmd.Output()
	must(t, err)
	return out
}

// TestCore loads core into an empty database, and tenants after it.
func TestCore(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	pgtest.Case(t, w.db, "chinook", "chinook")
	w.db.Exec(t, `CREATE EXTENSION citext SCHEMA public; CREATE EXTENSION hstore SCHEMA public; COMMENT ON EXTENSION hstore IS 'ours';
		CREATE SCHEMA extensions; CREATE EXTENSION "uuid-ossp" SCHEMA extensions;
		CREATE TABLE public.plans (id int PRIMARY KEY, name public.citext);
		INSERT INTO public.plans VALUES (1, 'Free'), (2, 'Paid');
		CREATE SCHEMA t; CREATE TABLE t.users (id uuid DEFAULT extensions.uuid_generate_v4(), plan int REFERENCES public.plans);
		INSERT INTO t.users (plan) SELECT 1 + n % 2 FROM generate_series(1, 100) n;
		CREATE PUBLICATION all_of_it FOR ALL TABLES; CREATE PUBLICATION two FOR TABLE t.users, public.plans;
		CREATE SEQUENCE public.numbers INCREMENT BY -7 MAXVALUE 100 START 50; SELECT nextval('public.numbers');
		SELECT lo_from_bytea(4200, 'small'); SELECT lo_from_bytea(4201, decode(repeat('00ff10', 300000), 'hex')); SELECT lo_from_bytea(4202, '');
		CREATE FUNCTION public.noop() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE EVENT TRIGGER watch ON ddl_command_end EXECUTE FUNCTION public.noop();`)
	m := w.run(t)
	if len(m.Schemas) != 3 {
		t.Errorf("saved %+v", m.Schemas)
	}
	target := pgtest.New(t)
	for _, s := range []string{manifest.CoreSchema, "chinook", "t"} {
		w.load(t, m, s, target)
	}
	pgtest.RequireEqual(t, w.db, target, pgtest.Compare{})
	core := w.open(t, m, manifest.CoreSchema).Index.Header.Requires
	if len(core.Extensions) != 3 || !core.Extensions[0].Created {
		t.Errorf("core requires %+v", core)
	}
	tenant := w.open(t, m, "t").Index.Header.Requires
	if len(tenant.Extensions) != 1 || tenant.Extensions[0].Name != "uuid-ossp" || tenant.Extensions[0].Created {
		t.Errorf("the tenant requires %+v", tenant)
	}
	if len(core.Schemas) != 0 || !slices.Equal(tenant.Schemas, []string{"public"}) {
		t.Errorf("schemas that are required: by core %q, by the tenant %q", core.Schemas, tenant.Schemas)
	}
}

// TestShapesOfTables copies tables that are unlike others in how they are
// stored.
func TestShapesOfTables(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.opts.Jobs = 3
	w.db.Exec(t, `CREATE SCHEMA t;
		-- Five rows a block: 8000 blocks, four segments.
		CREATE TABLE t.big (id int PRIMARY KEY, v text) WITH (fillfactor = 10);
		INSERT INTO t.big SELECT n, repeat('x', 100) || n FROM generate_series(1, 40000) n;
		CREATE TABLE t.holes (id int, v text) WITH (fillfactor = 10);
		INSERT INTO t.holes SELECT n, repeat('y', 100) || n FROM generate_series(1, 40000) n;
		DELETE FROM t.holes WHERE id BETWEEN 2 AND 39999;
		CREATE TABLE t.no_columns ();
		INSERT INTO t.no_columns DEFAULT VALUES; INSERT INTO t.no_columns DEFAULT VALUES;
		CREATE TABLE t.generated (a int GENERATED ALWAYS AS (7) STORED);
		INSERT INTO t.generated DEFAULT VALUES; INSERT INTO t.generated DEFAULT VALUES; INSERT INTO t.generated DEFAULT VALUES;
		CREATE TYPE t.mood AS ENUM ('a', 'b', 'c', 'd');
		CREATE TABLE t.by_hash (m t.mood, n int) PARTITION BY HASH (m);
		CREATE TABLE t.by_hash_0 PARTITION OF t.by_hash FOR VALUES WITH (MODULUS 2, REMAINDER 0);
		CREATE TABLE t.by_hash_1 PARTITION OF t.by_hash FOR VALUES WITH (MODULUS 2, REMAINDER 1);
		INSERT INTO t.by_hash SELECT m, n FROM unnest(enum_range(NULL::t.mood)) m, generate_series(1, 10) n;
		CREATE TABLE t.emptied (a int); INSERT INTO t.emptied VALUES (1); DELETE FROM t.emptied;`)
	m := w.run(t)
	w.requireSame(t, m, "t")

	file := w.open(t, m, "t")
	for table, want := range map[string]int{"big": 40000, "holes": 2, "no_columns": 2, "generated": 3, "by_hash": 40, "emptied": 0} {
		if got := rows(t, file, table); len(got) != want {
			t.Errorf("%s has %d rows, want %d", table, len(got), want)
		}
	}
	for _, table := range file.Index.Tables {
		switch table.Name {
		case "big", "holes": // an empty segment is none
			want := map[string]int{"big": 4, "holes": 2}[table.Name]
			if len(table.Segments) != want || table.Segments[0].EndBlock != 2048 || table.Segments[want-1].FirstBlock != 3*2048 || table.Segments[want-1].EndBlock != 0 {
				t.Errorf("%s has the segments %+v", table.Name, table.Segments)
			}
		case "by_hash_0", "by_hash_1":
			t.Errorf("%s is copied, though its rows may belong elsewhere", table.Name)
		}
	}
}

func TestEmptyOfAllKinds(t *testing.T) {
	t.Parallel()
	t.Run("no tenants", func(t *testing.T) {
		t.Parallel()
		w := setup(t, nil)
		m := w.run(t)
		if len(m.Schemas) != 1 || !m.Schemas[0].IsCore() {
			t.Errorf("saved %+v", m.Schemas)
		}
		w.requireSame(t, m)
	})
	t.Run("empty tenant", func(t *testing.T) {
		t.Parallel()
		w := setup(t, nil)
		w.db.Exec(t, "CREATE SCHEMA empty; COMMENT ON SCHEMA empty IS 'still here'")
		w.requireSame(t, w.run(t), "empty")
	})
	t.Run("no schema public", func(t *testing.T) {
		t.Parallel()
		w := setup(t, nil)
		w.db.Exec(t, "DROP SCHEMA public; CREATE SCHEMA t; CREATE TABLE t.t AS SELECT 1 AS a")
		m := w.run(t)
		if got := rows(t, w.open(t, m, "t"), "t"); !slices.Equal(got, []string{"1\n"}) {
			t.Errorf("rows %q", got)
		}
	})
}

// TestEncodings backs up databases that are not in UTF-8.
func TestEncodings(t *testing.T) {
	t.Parallel()
	for encoding, insert := range map[string]string{
		"SQL_ASCII": `INSERT INTO t.t VALUES (E'\xe9\xff caf\xe9')`, // no encoding at all
		"LATIN1":    `SET client_encoding = LATIN1; INSERT INTO t.t VALUES (E'caf\xe9')`,
	} {
		t.Run(encoding, func(t *testing.T) {
			t.Parallel()
			cluster := pgtest.Cluster(t)
			template := pgtest.New(t)
			name := strings.ToLower(encoding) + " host=x dbname=y" // to libpq a connection string
			for _, db := range []string{name, name + " copy"} {
				template.Exec(t, fmt.Sprintf(`CREATE DATABASE %s ENCODING %s LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0`, pgx.Identifier{db}.Sanitize(), encoding))
				t.Cleanup(func() { _ = cluster.DropDatabase(t.Context(), db) })
			}
			w := setup(t, template)
			w.opts.Server = parse(t, cluster.URL(name))
			conn, err := pgx.Connect(t.Context(), cluster.URL(name))
			must(t, err)
			defer conn.Close(t.Context())
			_, err = conn.PgConn().Exec(t.Context(), "CREATE SCHEMA t; CREATE TABLE t.t (v text); "+insert).ReadAll()
			must(t, err)
			before := bytesOf(t, conn)

			m := w.run(t)
			target, err := pgx.Connect(t.Context(), cluster.URL(name+" copy"))
			must(t, err)
			defer target.Close(t.Context())
			psql(t, cluster.Env(name+" copy"), cluster.Programs.Path("psql"), w.text(t, m, "t"))
			if after := bytesOf(t, target); after != before {
				t.Errorf("came back as %s, was %s", after, before)
			}
			if m.Database.Name != name || m.Database.Encoding != encoding {
				t.Errorf("database %+v", m.Database)
			}
			if encoding != "SQL_ASCII" {
				return
			}
			_, err = conn.PgConn().Exec(t.Context(), "CREATE SCHEMA \"b\xff\x01d\"").ReadAll()
			must(t, err)
			result, err := backup.Run(t.Context(), w.opts)
			if partial, ok := errors.AsType[*backup.PartialError](err); !ok || len(partial.Failures) != 1 || partial.Failures[0].Schema != `"b\xff\x01d"` {
				t.Fatalf("with a name that is not UTF-8: %v", err)
			}
			if len(result.Manifest.Schemas) != 2 {
				t.Errorf("saved %+v", result.Manifest.Schemas)
			}
		})
	}
}

// TestChosenSchemas backs up some schemas only.
func TestChosenSchemas(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.db.Exec(t, `CREATE SCHEMA a; CREATE SCHEMA "A"; CREATE SCHEMA b; 
		CREATE SCHEMA a__staging_20260101_000000; CREATE SCHEMA a__replaced_20260101_000000;
		COMMENT ON SCHEMA a__staging_20260101_000000 IS 'tenantkeep: {"state":"staging","schema":"a"}'`)
	saved := func(m *manifest.Manifest) string {
		var names []string
		for _, s := range m.Schemas {
			names = append(names, s.Schema+"="+s.Tenant)
		}
		return strings.Join(names, " ")
	}
	if got := saved(w.run(t)); got != "public=core A=A a=a a__replaced_20260101_000000=a__replaced_20260101_000000 b=b" {
		t.Errorf("saved %s", got)
	}
	w.opts.ExcludeSchemas = []string{"public", "b", "a__replaced_20260101_000000"}
	if got := saved(w.run(t)); got != "A=A a=a" {
		t.Errorf("saved %s", got)
	}
	w.opts.ExcludeSchemas, w.opts.Schemas, w.opts.Tenant = nil, []string{"A"}, "Acme"
	if got := saved(w.run(t)); got != "A=Acme" {
		t.Errorf("saved %s", got)
	}
}

// bytesOf is the value of the one row, as bytes in the database's encoding.
func bytesOf(t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	var v string
	must(t, conn.QueryRow(t.Context(), `SELECT encode(convert_to(v, getdatabaseencoding()), 'hex') FROM t.t`).Scan(&v))
	return v
}

// TestHugeRows copies rows that are larger than a frame by far.
func TestHugeRows(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	w.db.Exec(t, `CREATE SCHEMA t; CREATE TABLE t.huge (id int, v text, b bytea);
		INSERT INTO t.huge VALUES (1, repeat('abc' || chr(10), 25000000), NULL), (2, 'small', '\x00'), (3, NULL, decode(repeat('00ff', 10000000), 'hex'))`)
	m := w.run(t)
	got := rows(t, w.open(t, m, "t"), "huge")
	if len(got) != 3 || len(got[0]) != len("1\t")+5*25000000+len("\t\\N\n") || got[1] != "2\tsmall\t\\\\x00\n" || len(got[2]) != len("3\t\\N\t\\\\x\n")+40000000 {
		t.Errorf("%d rows", len(got))
	}
	w.requireSame(t, m, "t")
}

// Rows that are loaded through a partitioned table of another schema are in
// that schema's file: without it they would be in none.
func TestPartitionsWithoutTheirTable(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	db.Exec(t, `
		CREATE SCHEMA tables; CREATE SCHEMA parts;
		CREATE TYPE tables.mood AS ENUM ('sad', 'happy');
		CREATE TABLE tables.people (m tables.mood, n int) PARTITION BY HASH (m);
		CREATE TABLE parts.all_people PARTITION OF tables.people FOR VALUES WITH (MODULUS 1, REMAINDER 0);
		INSERT INTO tables.people VALUES ('sad', 1), ('happy', 2)`)
	w := setup(t, db)
	m := w.run(t)
	if got := rows(t, w.open(t, m, "tables"), "people"); len(got) != 2 {
		t.Errorf("rows of the partitioned table: %q", got)
	}
	alone := setup(t, db)
	alone.opts.Schemas = []string{"parts"}
	err := alone.runFailing(t, t.Context())
	requireContains(t, err.Error(), `"parts"."all_people"`, `schema "tables"`, "back up both")
}
