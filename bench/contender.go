package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/pgcluster/sample"
)

// contender is one way to do the job.
type contender struct {
	name string // in Markdown
	// raised asks for a lock table greater than the default.
	raised bool
	// once measures a slow one a single time.
	once bool
	// before is not measured.
	before func(ctx context.Context) error
	do     func(ctx context.Context) (measurement, error)
	// output is what it leaves: its size is measured, and restores read it.
	output string
	// grows says that the output stays from one run to the next; what a run adds
	// is measured.
	grows bool

	measurements []measurement
	err          error
}

// measureAll lets the contenders take turns, each as often as was asked for. A
// contender that fails is shown as failed and not tried again.
func (b *bench) measureAll(ctx context.Context, contenders []*contender) error {
	for turn := range b.runs {
		for _, raised := range []bool{false, true} {
			mine := slices.DeleteFunc(slices.Clone(contenders), func(c *contender) bool {
				return c.raised != raised || c.err != nil || c.once && turn > 0
			})
			if len(mine) == 0 {
				continue
			}
			locks := "64"
			if raised {
				locks = raisedLocks
			}
			if err := b.cluster.Restart(ctx, map[string]string{"max_locks_per_transaction": locks}); err != nil {
				return err
			}
			for _, c := range mine {
				b.progress("turn %d: %s", turn+1, c.name)
				if err := b.measureOne(ctx, c); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (b *bench) measureOne(ctx context.Context, c *contender) error {
	if c.output != "" && !c.grows {
		if err := os.RemoveAll(c.output); err != nil {
			return err
		}
	}
	if c.before != nil {
		if err := c.before(ctx); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			b.progress("  failed: %v", err)
			c.err = err
			return nil
		}
	}
	var held int64
	if c.grows {
		var err error
		if held, err = storedBytes(c.output); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	m, err := c.do(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		b.progress("  failed: %v", err)
		c.err = err
		return nil
	}
	if c.output != "" {
		if m.stored, err = storedBytes(c.output); err != nil {
			return err
		}
		m.stored -= held
	}
	if m.extrapolate > 1 {
		m.stored = int64(float64(m.stored) * m.extrapolate)
		m.wall = scaled(m.wall, m.extrapolate)
		m.cpu = scaled(m.cpu, m.extrapolate)
	}
	b.progress("  %s", m.wall)
	c.measurements = append(c.measurements, m)
	return nil
}

func (b *bench) tool(name string) string { return b.cluster.Programs.Path(name) }

// environment leads the commands to a database.
func (b *bench) environment(database string) []string {
	return append(append(os.Environ(), "BACKUP_LOG_DIR="+filepath.Join(b.dir, "logs")), b.cluster.Env(database)...)
}

// keep runs tenantkeep on a database, with a repository as its output.
func (b *bench) keep(database, repository, command string, args ...string) func(context.Context) (measurement, error) {
	args = append([]string{command, "--repository", repository, "--database-url", b.cluster.URL(database), "--yes"}, args...)
	return func(ctx context.Context) (measurement, error) {
		return measure(ctx, b.environment(database), b.tenantkeep, args...)
	}
}

// backups are the ways to back up a set; the first is tenantkeep's.
func (b *bench) backups(set, database string) []*contender {
	env := b.environment(database)
	output := func(name string) string { return filepath.Join(b.out, set+"-"+name) }
	whole := func(name string, raised bool, out string, args ...string) *contender {
		return &contender{name: name, raised: raised, output: out, do: func(ctx context.Context) (measurement, error) {
			return measure(ctx, env, b.tool("pg_dump"), args...)
		}}
	}
	repository, piped := output("repository"), output("pipe.sql.zst")
	directory, custom := output("dump.d"), output("dump.custom")
	many := set == "s1"
	jobs := strconv.Itoa(b.jobs)

	contenders := []*contender{
		{
			name: "tenantkeep backup, zstd", output: repository,
			do: b.keep(database, repository, "backup", "--compression", "zstd", "--jobs", jobs),
		},
		{
			name: "`pg_dump | zstd -3`", raised: many, output: piped,
			do: func(ctx context.Context) (measurement, error) {
				return measurePipe(ctx, env, piped, []string{b.tool("pg_dump")}, []string{"zstd", "-q", "-3"})
			},
		},
		whole("`pg_dump -Fd -j"+jobs+"`", many, directory, "-Fd", "-j", jobs, "-f", directory),
	}
	if many {
		archive := whole("`pg_dump -Fc`", true, custom, "-Fc", "-f", custom)
		archive.once = true
		loop := &contender{
			name:   fmt.Sprintf("loop of `pg_dump -n T | gzip`, %d of %d tenants", b.loop, b.tenants()),
			output: output("loop"), once: true,
		}
		loop.do = func(ctx context.Context) (measurement, error) { return b.dumpLoop(ctx, env, loop.output) }
		unraised := whole("`pg_dump`, default locks", false, output("unraised.sql"), "-f", output("unraised.sql"))
		unraised.once = true
		contenders = append(contenders, archive, loop, unraised)
	}
	return contenders
}

// dumpLoop dumps tenants one by one, spread evenly. They are ordinary tenants,
// which is to the advantage of the loop.
func (b *bench) dumpLoop(ctx context.Context, env []string, dir string) (measurement, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return measurement{}, err
	}
	var sum measurement
	for i := range b.loop {
		tenant := sample.TenantName(1 + i*b.tenants()/b.loop)
		file := filepath.Join(dir, tenant+".sql.gz")
		m, err := measurePipe(ctx, env, file, []string{b.tool("pg_dump"), "-n", tenant}, []string{"gzip"})
		if err != nil {
			return measurement{}, err
		}
		sum.add(m)
	}
	sum.extrapolate = float64(b.tenants()) / float64(b.loop)
	return sum, nil
}

// restores are the ways to put one tenant of a set, a small one or the big one,
// into a database that has the core only.
func (b *bench) restores(ctx context.Context, set string) ([]*contender, error) {
	tenant, scratch := sample.TenantName(7), "scratch_"+set
	if set == "s2" {
		tenant = sample.BigTenant
	}
	env := b.environment(scratch)
	output := func(name string) string { return filepath.Join(b.out, set+"-"+name) }
	if err := b.makeScratch(ctx, scratch); err != nil {
		return nil, err
	}
	schema := pgx.Identifier{tenant}.Sanitize()
	drop := func(ctx context.Context) error {
		return b.exec(ctx, scratch, "DROP SCHEMA IF EXISTS "+schema+" CASCADE")
	}
	// pg_restore -n does not make the schema.
	dropAndCreate := func(ctx context.Context) error {
		return b.exec(ctx, scratch, "DROP SCHEMA IF EXISTS "+schema+" CASCADE; CREATE SCHEMA "+schema)
	}
	args := []string{"--schema", tenant, "--jobs", strconv.Itoa(b.jobs)}
	full, changed, err := b.increment(ctx, set, output("repository"), tenant)
	if err != nil {
		return nil, err
	}
	contenders := []*contender{
		{name: "tenantkeep restore, checked, analyzed", before: drop, do: b.keep(scratch, output("repository"), "restore", append(args, "--manifest", full)...)},
		{name: "tenantkeep restore out of an incremental, checked, analyzed", before: drop, do: b.keep(scratch, output("repository"), "restore", append(args, "--manifest", changed)...)},
		// The one before has left the tenant there.
		{name: "tenantkeep restore, live, checked, analyzed", before: b.dropReplaced(scratch), do: b.live(scratch, output("repository"), full, tenant)},
	}
	restore := func(name string, args ...string) *contender {
		args = append([]string{"-d", scratch, "-n", tenant}, args...)
		return &contender{name: name, before: dropAndCreate, do: func(ctx context.Context) (measurement, error) {
			return measure(ctx, env, b.tool("pg_restore"), args...)
		}}
	}
	if set == "s1" {
		contenders = append(contenders, restore("`pg_restore -n T` out of `-Fc`", output("dump.custom")))
	} else {
		jobs := strconv.Itoa(b.jobs)
		contenders = append(contenders, restore("`pg_restore -n T -j"+jobs+"` out of `-Fd`", "-j", jobs, output("dump.d")))
	}
	for _, c := range contenders {
		prepare := c.before
		c.before = func(ctx context.Context) error { return errors.Join(prepare(ctx), b.settle(ctx)) }
	}
	return contenders, nil
}

// settle lets each contender begin on a server that was just started, with a disk
// that has nothing left to write. Else the first one pays for the memory that a
// server touches for the first time, and all for what was done before them.
func (b *bench) settle(ctx context.Context) error {
	return errors.Join(b.cluster.Restart(ctx, nil), exec.CommandContext(ctx, "sync").Run())
}

// increment adds an incremental backup to a repository, after some rows of a
// tenant changed, and returns the ids of the full one and of this one.
func (b *bench) increment(ctx context.Context, set, repository, tenant string) (full, incremental string, err error) {
	database := b.database(set)
	table := pgx.Identifier{tenant, "activity_log"}.Sanitize()
	if err := b.exec(ctx, database, "UPDATE "+table+" SET event = event WHERE id % 1000 = 1; UPDATE "+table+" SET event = event || '.' WHERE id % 5000 = 1"); err != nil {
		return "", "", err
	}
	var out bytes.Buffer
	_, err = measureOutput(ctx, &out, b.environment(database), b.tenantkeep, "backup", "--schema", tenant, "--backup-type", "incremental",
		"--format", "json", "--repository", repository, "--database-url", b.cluster.URL(database))
	if err != nil {
		return "", "", err
	}
	lines := bytes.Split(bytes.TrimSpace(out.Bytes()), []byte("\n"))
	var summary struct{ ID, Parent string }
	err = json.Unmarshal(lines[len(lines)-1], &summary)
	return summary.Parent, summary.ID, err
}

// dropReplaced removes what live restores have left, and vacuums the tenant that
// is live, as one in use has been: autovacuum would come to its rows, which are
// new, in the middle of the measurement.
func (b *bench) dropReplaced(database string) func(context.Context) error {
	return func(ctx context.Context) error {
		_, err := measure(ctx, b.environment(database), b.tenantkeep, "cleanup", "--keep-replaced", "0s", "--yes", "--database-url", b.cluster.URL(database))
		return errors.Join(err, b.exec(ctx, database, "VACUUM"))
	}
}

// live restores a tenant into the place of the one that is there. The rollback
// point is a backup of its own, which is measured as such.
func (b *bench) live(database, repository, backup, tenant string) func(context.Context) (measurement, error) {
	return func(ctx context.Context) (measurement, error) {
		var out bytes.Buffer
		m, err := measureOutput(ctx, &out, b.environment(database), b.tenantkeep, "restore", "--manifest", backup, "--schema", tenant, "--jobs", strconv.Itoa(b.jobs),
			"--create-rollback=false", "--yes", "--format", "json", "--repository", repository, "--database-url", b.cluster.URL(database))
		if err != nil {
			return m, err
		}
		lines := bytes.Split(bytes.TrimSpace(out.Bytes()), []byte("\n"))
		var summary struct {
			Schemas []struct {
				Replaced string  `json:"replaced"`
				Blocked  float64 `json:"blocked_seconds"`
			} `json:"schemas"`
		}
		if err := json.Unmarshal(lines[len(lines)-1], &summary); err != nil {
			return m, fmt.Errorf("read the summary of the restore: %w", err)
		}
		if len(summary.Schemas) != 1 || summary.Schemas[0].Replaced == "" {
			return m, errors.New("the restore replaced nothing")
		}
		m.blocked = time.Duration(summary.Schemas[0].Blocked * float64(time.Second))
		return m, nil
	}
}

func (b *bench) makeScratch(ctx context.Context, name string) error {
	if err := b.cluster.DropDatabase(ctx, name); err != nil {
		return err
	}
	if err := b.cluster.CreateDatabase(ctx, name); err != nil {
		return err
	}
	return b.withConn(ctx, name, func(conn *pgx.Conn) error { return sample.Core(ctx, conn) })
}
