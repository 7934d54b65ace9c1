// Command bench measures tenantkeep side by side with what one would use
// instead, pg_dump in its usual forms, on the same sample tenants in one run,
// and prints Markdown tables with ratios. Absolute times depend on the machine.
//
// There are four sets: s1 has 1,000 tenants of 30 tables, s2 one tenant of 2.2 GB
// of COPY text and nine small ones. s3 is s1 after a first backup and after some
// changes, s4 has many tenants of three tables. The commands of a set take turns,
// and medians are shown.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/pgcluster"
	"github.com/tenantkeep/tenantkeep/internal/pgcluster/sample"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	tenantkeep string
	sets       []string
	scale      float64
	runs       int
	loop       int
	jobs       int
	dir        string
}

func parseOptions(args []string, stderr io.Writer) (options, error) {
	var opts options
	var sets string
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&opts.tenantkeep, "tenantkeep", "./tenantkeep", "the `program` to measure")
	flags.StringVar(&sets, "set", "s1,s2,s3,s4", "which `sets`")
	flags.Float64Var(&opts.scale, "scale", 1, "multiplies the tenants of s1 and the bytes of s2")
	flags.IntVar(&opts.runs, "runs", 3, "how often each command is measured")
	flags.IntVar(&opts.loop, "loop", 20, "how many tenants the loop of pg_dump -n takes; the rest is extrapolated")
	flags.IntVar(&opts.jobs, "jobs", runtime.NumCPU(), "workers, for tenantkeep and for pg_dump -j")
	flags.StringVar(&opts.dir, "dir", "", "keep the sample tenants in this `folder` for the next run")
	if err := flags.Parse(args); err != nil {
		return opts, err
	}
	opts.sets = strings.Split(sets, ",")
	for _, set := range opts.sets {
		if !slices.Contains([]string{"s1", "s2", "s3", "s4"}, set) {
			return opts, fmt.Errorf("unknown set %q: there are s1, s2, s3 and s4", set)
		}
	}
	if opts.scale <= 0 || opts.runs < 1 || opts.loop < 1 || opts.jobs < 1 {
		return opts, errors.New("-scale, -runs, -loop and -jobs are to be positive")
	}
	program, err := filepath.Abs(opts.tenantkeep)
	if err != nil {
		return opts, err
	}
	opts.tenantkeep = program
	return opts, nil
}

// raisedLocks is what pg_dump needs to dump s1 whole.
const raisedLocks = "512"

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	opts, err := parseOptions(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	out, err := os.MkdirTemp("", "tenantkeep-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(out)) }()

	progress := func(format string, args ...any) { fmt.Fprintf(stderr, format+"\n", args...) }
	cluster, err := pgcluster.Start(ctx, pgcluster.Options{
		Dir: opts.dir,
		// The sample tenants are made without fsync and measured with it.
		Settings: map[string]string{"shared_buffers": "2GB", "max_wal_size": "8GB", "fsync": "off"},
	})
	if err != nil {
		var missing *pgcluster.MissingError
		if errors.As(err, &missing) {
			return fmt.Errorf("%w\n%s", err, missing.Hint())
		}
		return err
	}
	defer func() { err = errors.Join(err, cluster.Close()) }()
	b := &bench{options: opts, cluster: cluster, out: out, progress: progress}

	for _, set := range opts.sets {
		switch set {
		case "s3":
			set = "s1" // whose copy it changes
		case "s4":
			continue // quickly made
		}
		if err := b.prepare(ctx, set); err != nil {
			return err
		}
	}
	if err := cluster.Restart(ctx, map[string]string{"fsync": "on"}); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "PostgreSQL %s, %d processors, scale %g, medians of %d runs.\n",
		cluster.Programs.Version, runtime.NumCPU(), opts.scale, opts.runs)
	for _, set := range opts.sets {
		var err error
		switch set {
		case "s3":
			err = b.compareChanges(ctx, stdout)
		case "s4":
			err = b.compareMany(ctx, stdout)
		default:
			err = b.compare(ctx, set, stdout)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

type bench struct {
	options
	cluster  *pgcluster.Cluster
	out      string // where the commands write
	progress func(format string, args ...any)
}

// database names the database of a set, by its scale: kept ones are used again.
func (b *bench) database(set string) string { return fmt.Sprintf("%s_%g", set, b.scale) }

func (b *bench) tenants() int { return max(b.loop, int(1000*b.scale)) }

// prepare makes the sample tenants of a set, unless they are there already.
func (b *bench) prepare(ctx context.Context, set string) error {
	name := b.database(set)
	there, err := b.exists(ctx, name)
	if err != nil || there {
		return err
	}
	b.progress("making the sample tenants of %s", set)
	// Under another name first: an interrupted one is not to be used again.
	making := name + "_making"
	if err := b.cluster.DropDatabase(ctx, making); err != nil {
		return err
	}
	if err := b.cluster.CreateDatabase(ctx, making); err != nil {
		return err
	}
	if err := b.fill(ctx, set, making); err != nil {
		return err
	}
	return b.exec(ctx, "postgres", fmt.Sprintf("ALTER DATABASE %s RENAME TO %s",
		pgx.Identifier{making}.Sanitize(), pgx.Identifier{name}.Sanitize()))
}

func (b *bench) fill(ctx context.Context, set, database string) error {
	config, err := pgx.ParseConfig(b.cluster.URL(database))
	if err != nil {
		return err
	}
	if err := b.withConn(ctx, database, func(conn *pgx.Conn) error { return sample.Core(ctx, conn) }); err != nil {
		return err
	}
	switch set {
	case "s1":
		err = sample.Many(ctx, config, sample.ManyOptions{
			Tenants: b.tenants(), Size: sample.Size{Factor: 0.6}, ActiveEvery: 25, Jobs: b.jobs,
			Done: func(n int) {
				if n%100 == 0 {
					b.progress("  %d tenants", n)
				}
			},
		})
	case "s2":
		err = sample.Big(ctx, config, b.scale)
	}
	if err != nil {
		return err
	}
	b.progress("  vacuum, analyze")
	if err := b.exec(ctx, database, "VACUUM ANALYZE"); err != nil {
		return err
	}
	return b.exec(ctx, database, "CHECKPOINT")
}

func (b *bench) exists(ctx context.Context, database string) (there bool, err error) {
	err = b.withConn(ctx, "postgres", func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT count(*) > 0 FROM pg_catalog.pg_database WHERE datname = $1", database).Scan(&there)
	})
	return there, err
}

func (b *bench) exec(ctx context.Context, database, sql string) error {
	return b.withConn(ctx, database, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql)
		return err
	})
}

func (b *bench) withConn(ctx context.Context, database string, do func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, b.cluster.URL(database))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return do(conn)
}

// compare measures the backups of a set, then the restores, and prints both.
func (b *bench) compare(ctx context.Context, set string, stdout io.Writer) error {
	database := b.database(set)
	var size int64
	err := b.withConn(ctx, database, func(conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT pg_catalog.pg_database_size(current_database())").Scan(&size)
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "\n## %s: %s on disk\n", set, bytesText(size))

	contenders := b.backups(set, database)
	if err := b.measureAll(ctx, contenders); err != nil {
		return err
	}
	printTable(stdout, "Backup", contenders)
	restores, err := b.restores(ctx, set)
	if err != nil {
		return err
	}
	if err := b.measureAll(ctx, restores); err != nil {
		return err
	}
	printTable(stdout, "Restore of one tenant", restores)
	for _, c := range slices.Concat(contenders, restores) {
		if err := os.RemoveAll(c.output); err != nil {
			return err
		}
	}
	return nil
}
