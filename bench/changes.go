package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/pgcluster/sample"
)

// compareChanges measures what comes after the first backup of s1: one more with
// the same definitions, incrementals after a hundredth of the rows of a twentieth
// of the tenants changed, and one tenant alone.
func (b *bench) compareChanges(ctx context.Context, stdout io.Writer) error {
	database := "s3_work"
	if err := b.copyDatabase(ctx, b.database("s1"), database); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "\n## s3: s1 after a first backup, and after 1%% of the rows of 5%% of the tenants changed\n")
	env := b.environment(database)
	output := func(name string) string { return filepath.Join(b.out, "s3-"+name) }
	jobs := strconv.Itoa(b.jobs)
	config, err := pgx.ParseConfig(b.cluster.URL(database))
	if err != nil {
		return err
	}
	churn := func(ctx context.Context) error {
		_, err := sample.Churn(ctx, config, b.tenants())
		return errors.Join(err, b.exec(ctx, database, "CHECKPOINT"))
	}
	repository := output("repository")
	first := &contender{name: "tenantkeep backup, the first", output: repository, once: true, do: b.keep(database, repository, "backup", "--jobs", jobs)}
	again := &contender{name: "tenantkeep backup, definitions unchanged", output: repository, grows: true, do: b.keep(database, repository, "backup", "--jobs", jobs)}
	increment := &contender{
		name: "tenantkeep backup, incremental", output: repository, grows: true, before: churn,
		do: b.keep(database, repository, "backup", "--backup-type", "incremental", "--jobs", jobs),
	}
	piped := output("pipe.sql.zst")
	dump := &contender{name: "`pg_dump | zstd -3`", raised: true, output: piped, do: func(ctx context.Context) (measurement, error) {
		return measurePipe(ctx, env, piped, []string{b.tool("pg_dump")}, []string{"zstd", "-q", "-3"})
	}}
	contenders := []*contender{first, again, increment, dump}
	if restic, err := exec.LookPath("restic"); err == nil {
		contenders = append(contenders, b.restic(restic, env, output("restic"), churn))
	}
	if program, err := exec.LookPath("pgbackrest"); err == nil {
		contenders = append(contenders, b.pgBackRest(program, database, output("pgbackrest"), churn))
	}
	if err := b.measureAll(ctx, contenders); err != nil {
		return err
	}
	printTable(stdout, "Backup", contenders)

	tenant := sample.TenantName(7)
	one := output("one.sql.zst")
	single := []*contender{
		{name: "tenantkeep backup of one tenant", output: repository, grows: true, do: b.keep(database, repository, "backup", "--schema", tenant)},
		{name: "`pg_dump -n T | zstd -3`", output: one, do: func(ctx context.Context) (measurement, error) {
			return measurePipe(ctx, env, one, []string{b.tool("pg_dump"), "-n", tenant}, []string{"zstd", "-q", "-3"})
		}},
	}
	if err := b.measureAll(ctx, single); err != nil {
		return err
	}
	printTable(stdout, "One ordinary tenant", single)
	return errors.Join(os.RemoveAll(b.out), os.MkdirAll(b.out, 0o700), b.cluster.DropDatabase(ctx, database))
}

// restic takes dumps into a repository that has one already.
func (b *bench) restic(program string, env []string, dir string, churn func(context.Context) error) *contender {
	env = append(env, "RESTIC_PASSWORD=bench", "RESTIC_REPOSITORY="+dir)
	take := []string{program, "backup", "-q", "--stdin", "--stdin-filename", "dump.sql"}
	made := false
	return &contender{
		name: "`pg_dump | restic backup --stdin`, one is there", raised: true, output: dir, grows: true,
		before: func(ctx context.Context) error {
			if !made {
				made = true
				if _, err := measure(ctx, env, program, "init", "-q"); err != nil {
					return err
				}
				if _, err := measurePipe(ctx, env, os.DevNull, []string{b.tool("pg_dump")}, take); err != nil {
					return err
				}
			}
			return churn(ctx)
		},
		do: func(ctx context.Context) (measurement, error) {
			return measurePipe(ctx, env, os.DevNull, []string{b.tool("pg_dump")}, take)
		},
	}
}

// pgBackRest takes an incremental backup of the cluster on top of a full one,
// without the other databases' files, which it may leave out here only.
func (b *bench) pgBackRest(program, database, dir string, churn func(context.Context) error) *contender {
	common := []string{
		"--stanza=bench", "--pg1-path=" + b.cluster.DataDir(), "--pg1-socket-path=" + b.cluster.SocketDir(),
		"--pg1-port=" + strconv.Itoa(b.cluster.Port()), "--pg1-user=postgres", "--repo1-path=" + filepath.Join(dir, "repository"),
		"--lock-path=" + filepath.Join(dir, "lock"), "--log-level-file=off",
	}
	run := func(ctx context.Context, args ...string) (measurement, error) {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
		defer cancel()
		return measure(ctx, os.Environ(), program, slices.Concat(common, args)...)
	}
	// Without an archive, and without waiting for the next checkpoint.
	backup := func(ctx context.Context, kind string) (measurement, error) {
		args := []string{"backup", "--type=" + kind, "--repo1-retention-full=9999999", "--no-archive-check", "--start-fast", "--compress-type=zst", "--process-max=" + strconv.Itoa(b.jobs)}
		err := b.withConn(ctx, "postgres", func(conn *pgx.Conn) error {
			rows, err := conn.Query(ctx, "SELECT 'base/' || oid || '/' FROM pg_catalog.pg_database WHERE datname NOT IN ($1, 'postgres')", database)
			if err != nil {
				return err
			}
			others, err := pgx.CollectRows(rows, pgx.RowTo[string])
			for _, path := range others {
				args = append(args, "--exclude="+path)
			}
			return err
		})
		if err != nil {
			return measurement{}, err
		}
		return run(ctx, args...)
	}
	made := false
	return &contender{
		name: "`pgbackrest --type=incr`, a full one is there", output: dir, grows: true,
		before: func(ctx context.Context) error {
			if !made {
				made = true
				if _, err := run(ctx, "stanza-create", "--no-online"); err != nil {
					return err
				}
				if _, err := backup(ctx, "full"); err != nil {
					return err
				}
			}
			return churn(ctx)
		},
		do: func(ctx context.Context) (measurement, error) { return backup(ctx, "incr") },
	}
}

// compareMany measures the memory that many tenants of three tables need.
func (b *bench) compareMany(ctx context.Context, stdout io.Writer) error {
	fmt.Fprintf(stdout, "\n## s4: tenants of three tables\n")
	var contenders []*contender
	for _, n := range []int{100, 1000, 5000} {
		database := fmt.Sprintf("s4_%d", n)
		if err := b.makeTenants(ctx, database, n); err != nil {
			return err
		}
		repository := filepath.Join(b.out, database)
		for _, kind := range []string{"the first", "definitions unchanged", "incremental"} {
			c := &contender{name: fmt.Sprintf("tenantkeep backup of %d tenants, %s", n, kind), output: repository, grows: kind != "the first", once: kind == "the first"}
			args := []string{"--jobs", strconv.Itoa(b.jobs)}
			if kind == "incremental" {
				args = append(args, "--backup-type", "incremental")
			}
			c.do = b.keep(database, repository, "backup", args...)
			contenders = append(contenders, c)
		}
	}
	if err := b.measureAll(ctx, contenders); err != nil {
		return err
	}
	printTable(stdout, "Backup", contenders)
	return errors.Join(os.RemoveAll(b.out), os.MkdirAll(b.out, 0o700))
}

// makeTenants makes tenants that are nothing but three small tables each.
func (b *bench) makeTenants(ctx context.Context, database string, tenants int) error {
	there, err := b.exists(ctx, database)
	if err != nil || there {
		return err
	}
	making := database + "_making"
	if err := errors.Join(b.cluster.DropDatabase(ctx, making), b.cluster.CreateDatabase(ctx, making)); err != nil {
		return err
	}
	b.progress("making %d tenants of three tables", tenants)
	err = b.withConn(ctx, making, func(conn *pgx.Conn) error {
		for n := 1; n <= tenants; n++ {
			name := pgx.Identifier{sample.TenantName(n)}.Sanitize()
			_, err := conn.Exec(ctx, fmt.Sprintf(`CREATE SCHEMA %[1]s;
				CREATE TABLE %[1]s.users (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL);
				CREATE TABLE %[1]s.orders (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, customer int REFERENCES %[1]s.users, at timestamptz DEFAULT now());
				CREATE TABLE %[1]s.settings (key text PRIMARY KEY, value jsonb);
				INSERT INTO %[1]s.users (name) SELECT 'user ' || n FROM generate_series(1, 20) n;
				INSERT INTO %[1]s.orders (customer) SELECT 1 + n %% 20 FROM generate_series(1, 40) n;
				INSERT INTO %[1]s.settings VALUES ('tenant', '%[2]d')`, name, n))
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return b.exec(ctx, "postgres", fmt.Sprintf("ALTER DATABASE %s RENAME TO %s", pgx.Identifier{making}.Sanitize(), pgx.Identifier{database}.Sanitize()))
}

func (b *bench) copyDatabase(ctx context.Context, from, to string) error {
	if err := b.cluster.DropDatabase(ctx, to); err != nil {
		return err
	}
	b.progress("copying %s", from)
	return b.exec(ctx, "postgres", fmt.Sprintf("CREATE DATABASE %s TEMPLATE %s", pgx.Identifier{to}.Sanitize(), pgx.Identifier{from}.Sanitize()))
}
