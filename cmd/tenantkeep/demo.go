package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/tenantkeep/tenantkeep/internal/backup"
	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/pgcluster"
	"github.com/tenantkeep/tenantkeep/internal/pgcluster/sample"
	"github.com/tenantkeep/tenantkeep/internal/registry"
	"github.com/tenantkeep/tenantkeep/internal/repo"
	"github.com/tenantkeep/tenantkeep/internal/restore"
	"github.com/tenantkeep/tenantkeep/internal/rowsum"
	"github.com/tenantkeep/tenantkeep/internal/storage/local"
	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// DemoOptions are the flags of the command demo.
type DemoOptions struct {
	Keep string
}

// AddFlags adds the flags.
func (o *DemoOptions) AddFlags(flags *pflag.FlagSet) {
	flags.StringVar(&o.Keep, "keep", "", "write the backups into this new `FOLDER` and leave them there")
}

// demoTenants are the customers of the demonstration, with how many times the
// rows of a small one they have.
var demoTenants = []struct {
	name   string
	factor float64
}{
	{"bakery_lindt", 30},
	{"cafe_aurora", 45},
	{"garage_moser", 60},
	{"hotel_seeblick", 120},
	{"studio_nord", 20},
	{"tools_and_more", 90},
}

// demoLost is the tenant that the demonstration destroys.
const demoLost = "hotel_seeblick"

func newDemoCommand(a *app) *cobra.Command {
	var opts DemoOptions
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Watch tenants being backed up, lost and brought back",
		Long: `Show the main job on this machine, in about a minute: start a private PostgreSQL
in a temporary folder, fill it with the customers of a SaaS, back all of them up
at one moment, destroy one, bring it back, and prove that it is the same.

Nothing outside of the temporary folder is touched, and it is removed at the
end. The server programs of PostgreSQL must be installed.`,
		Example: `  tenantkeep demo
  tenantkeep demo --keep ./demo-backups`,
		GroupID: groupOther,
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runDemo(cmd.Context(), a, opts) },
	}
	opts.AddFlags(cmd.Flags())
	return cmd
}

// demo is one demonstration at work.
type demo struct {
	*app
	cluster *pgcluster.Cluster
	conn    *pgx.Conn
	folder  string // of the backups
	repo    *repo.Repo
	server  *pg.Server
	step    int
}

func runDemo(ctx context.Context, a *app, opts DemoOptions) (err error) {
	began := time.Now()
	d := &demo{app: a}
	if opts.Keep != "" {
		if _, err := os.Stat(opts.Keep); err == nil {
			return usagef("--keep: %s exists already: name a new folder", opts.Keep)
		}
	}
	d.say("Start a private PostgreSQL")
	d.cluster, err = pgcluster.Start(ctx, pgcluster.Options{Unsafe: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.cluster.Close()) }()
	d.tell("It lives in a temporary folder, and no other program can reach it.")

	if err := d.fill(ctx); err != nil {
		return err
	}
	defer pg.Close(d.conn)
	if err := d.openRepository(opts.Keep); err != nil {
		return err
	}
	if opts.Keep == "" {
		defer func() { err = errors.Join(err, os.RemoveAll(d.folder)) }()
	}
	m, err := d.backUp(ctx)
	if err != nil {
		return err
	}
	if err := d.loseAndRestore(ctx, m); err != nil {
		return err
	}
	d.look(m, opts.Keep != "")
	a.ui().Printf("\nThat was all, in %s. The private PostgreSQL is stopped and removed.", ui.Duration(time.Since(began)))
	return nil
}

// say begins a step.
func (d *demo) say(format string, args ...any) {
	d.step++
	d.ui().Printf("\n%d. %s", d.step, fmt.Sprintf(format, args...))
}

func (d *demo) tell(format string, args ...any) { d.ui().Printf("   "+format, args...) }

func (d *demo) fill(ctx context.Context) error {
	const database = "saas"
	if err := d.cluster.CreateDatabase(ctx, database); err != nil {
		return err
	}
	var err error
	if d.server, err = pg.Parse(d.cluster.URL(database)); err != nil {
		return err
	}
	if d.conn, err = d.server.Connect(ctx); err != nil {
		return err
	}
	d.say("Fill a database with %d customers of a SaaS, each in a schema of its own", len(demoTenants))
	if err := sample.Core(ctx, d.conn); err != nil {
		return err
	}
	for i, t := range demoTenants {
		if err := sample.Tenant(ctx, d.conn, t.name, sample.Size{Factor: t.factor, Seed: uint64(i + 1)}); err != nil {
			return err
		}
	}
	if _, err := d.conn.Exec(ctx, "ANALYZE"); err != nil {
		return fmt.Errorf("analyze: %w", err)
	}
	return nil
}

func (d *demo) openRepository(keep string) error {
	d.folder = keep
	if keep == "" {
		folder, err := os.MkdirTemp("", "tenantkeep-demo-backups-")
		if err != nil {
			return err
		}
		d.folder = folder
	}
	store, err := local.New(d.folder)
	if err != nil {
		return err
	}
	d.repo = repo.Open(store, repo.Options{Now: d.now})
	return nil
}

func (d *demo) backUp(ctx context.Context) (*manifest.Manifest, error) {
	d.say("Back up core and all customers at one moment")
	result, err := backup.Run(ctx, backup.Options{
		Server: d.server, Repo: d.repo, Type: manifest.Full,
		Compression: datafile.Compression{Algorithm: datafile.Zstd}, Jobs: runtime.NumCPU(), Version: buildVersion().Version,
		Registry: registry.Choice{Auto: true},
		Progress: d.progress(format{}), Log: d.ui().Logger(d.ui().LogLevel()),
	})
	if err != nil {
		return nil, err
	}
	s := summarize(result, d.folder)
	d.tell("%s, %s, %s: %s became %s in %s.", savedWhat(s), ui.Plural(s.Tables, "table"), ui.Plural(s.Rows, "row"),
		ui.Bytes(s.Bytes), ui.Bytes(s.Stored), ui.Duration(result.Elapsed))
	return result.Manifest, nil
}

func (d *demo) loseAndRestore(ctx context.Context, m *manifest.Manifest) error {
	before, err := d.contents(ctx)
	if err != nil {
		return err
	}
	d.say("An accident: DROP SCHEMA %s CASCADE", demoLost)
	if _, err := d.conn.Exec(ctx, "DROP SCHEMA "+pg.Identifier(demoLost)+" CASCADE"); err != nil {
		return fmt.Errorf("drop the tenant: %w", err)
	}
	d.tell("%s of %s are gone.", ui.Plural(before.rows, "row"), ui.Plural(int64(len(before.tables)), "table"))

	d.say("Bring it back, and only it:  tenantkeep restore --latest --schema %s", demoLost)
	result, err := restore.Run(ctx, restore.Options{
		Server: d.server, Repo: d.repo, Manifest: m, Schemas: []string{demoLost}, Jobs: runtime.NumCPU(),
		Progress: d.progress(format{}), Log: d.ui().Logger(d.ui().LogLevel()), Now: d.now,
	})
	if err != nil {
		return err
	}
	d.tell("%s, %s back in %.1f s, counted and compared before it said so.", ui.Plural(result.Tables, "table"), ui.Plural(result.Rows, "row"), result.Seconds)

	d.say("Prove that it is the same")
	after, err := d.contents(ctx)
	if err != nil {
		return err
	}
	if before.sum != after.sum || strings.Join(before.tables, "\n") != strings.Join(after.tables, "\n") {
		return fmt.Errorf("the restored tenant is not the one that was lost: %s before, %s now", before.sum, after.sum)
	}
	d.tell("before  %s", before.sum)
	d.tell("after   %s", after.sum)
	d.tell("Every row of every table: the checksums are equal.")
	return nil
}

// contents is what the demonstration compares: the rows of all tables of the
// tenant, read by itself and not taken from the backup.
type contents struct {
	tables []string // with the checksum of each
	rows   int64
	sum    string
}

func (d *demo) contents(ctx context.Context) (contents, error) {
	var c contents
	rows, err := d.conn.Query(ctx, `SELECT relname FROM pg_catalog.pg_class WHERE relnamespace = $1::regnamespace AND relkind = 'r' ORDER BY relname COLLATE "C"`, demoLost)
	if err != nil {
		return c, fmt.Errorf("list the tenant's tables: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return c, fmt.Errorf("list the tenant's tables: %w", err)
	}
	var all rowsum.Sum
	for _, name := range names {
		var sum rowsum.Sum
		batch := pg.Batch{
			SQL:     "COPY " + pg.Identifier(demoLost, name) + " TO STDOUT",
			CopyRow: func(_ int, row []byte) error { sum.Add(row); return nil },
		}
		if err := batch.Run(ctx, d.conn); err != nil {
			return c, fmt.Errorf("read %s: %w", name, err)
		}
		c.tables = append(c.tables, name+" "+sum.Checksum())
		all.Merge(sum)
	}
	c.rows, c.sum = all.Rows, all.Checksum()
	return c, nil
}

// look shows where the files are and how to read one without tenantkeep.
func (d *demo) look(m *manifest.Manifest, kept bool) {
	var file string
	d.say("Where it lies")
	for _, s := range m.Schemas {
		d.tell("%-58s %9s", s.Filepath, ui.Bytes(s.Size))
		if s.Schema == demoLost {
			file = s.Filepath
		}
	}
	d.tell("%s", "manifests/backup_manifest_"+m.ID+".json")
	d.tell("in %s", ui.Safe(d.folder))
	d.tell("Each data file is a plain SQL script. To look into one, or to restore it without tenantkeep:")
	d.tell("  zstdcat %s | less", filepath.Join(d.folder, file))
	d.tell("  zstdcat %s | psql -v ON_ERROR_STOP=1 DATABASE", filepath.Join(d.folder, file))
	if !kept {
		d.tell("(It is removed now; tenantkeep demo --keep FOLDER leaves it for you to try.)")
	}
}
