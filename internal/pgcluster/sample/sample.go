// Package sample fills a database with the core and the tenants of a believable
// SaaS: for the demonstration, the benchmark and tests of many tenants.
//
// The rows depend on nothing but the seed and the names, so that two runs give
// the same content.
package sample

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"sync/atomic"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// TablesPerTenant is how many tables a whole tenant has.
const TablesPerTenant = 30

// minTables are the tables that every tenant has: its view needs them.
const minTables = 3

// BigTenant is the tenant that Big makes big.
const BigTenant = "tenant_big"

// TenantName is the schema of the n-th tenant that Many and Big make, from 1.
func TenantName(n int) string { return fmt.Sprintf("tenant_%04d", n) }

// Size says how much a tenant holds. The zero value is a small whole tenant:
// some 700 rows, 100 kB of COPY text.
type Size struct {
	// Factor multiplies the rows of the tables that grow with use; 0 means 1.
	Factor float64
	// LogRows are long rows, of 1.5 kB on average, in the table activity_log
	// besides the ordinary ones.
	LogRows int
	// Tables takes only the first tables, 3 to 30; 0 means all.
	Tables int
	// Seed varies the rows.
	Seed uint64
}

func (s Size) rows(t table) int {
	if s.Factor == 0 || t.fixed || t.rows == 0 {
		return t.rows
	}
	return max(1, int(math.Round(float64(t.rows)*s.Factor)))
}

// Core makes the shared tables in public and the roles that tenants grant to.
// It is for an empty database.
func Core(ctx context.Context, conn *pgx.Conn) error {
	var sql strings.Builder
	sql.WriteString(coreSchema)
	for i, c := range countries {
		fmt.Fprintf(&sql, "INSERT INTO public.country VALUES ('%s', '%s');\n", countryCodes[i], c)
	}
	for _, code := range currencyCodes {
		fmt.Fprintf(&sql, "INSERT INTO public.currency (code, name) VALUES ('%s', '%s');\n", code, code)
	}
	// The roles are made in a transaction of their own: they may be there.
	for _, script := range []string{coreRoles, sql.String()} {
		if _, err := conn.Exec(ctx, script); err != nil {
			return fmt.Errorf("create sample core: %w", err)
		}
	}
	// An extension, as most applications have one, where the server offers it.
	const extension = "SELECT count(*) > 0 FROM pg_catalog.pg_available_extensions WHERE name = 'pg_trgm'"
	var offered bool
	if err := conn.QueryRow(ctx, extension).Scan(&offered); err != nil {
		return fmt.Errorf("create sample core: %w", err)
	}
	if !offered {
		return nil
	}
	_, err := conn.Exec(ctx, `CREATE EXTENSION IF NOT EXISTS pg_trgm WITH SCHEMA public;
		CREATE INDEX account_user_full_name_trgm_idx ON public.account_user USING gin (full_name public.gin_trgm_ops)`)
	if err != nil {
		return fmt.Errorf("create sample core: %w", err)
	}
	return nil
}

// Tenant makes one tenant, in one transaction, in a database that has the core.
func Tenant(ctx context.Context, conn *pgx.Conn, name string, size Size) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error { return fillTenant(ctx, tx, name, size) })
	if err != nil {
		return fmt.Errorf("create sample tenant %s: %w", name, err)
	}
	return nil
}

func fillTenant(ctx context.Context, tx pgx.Tx, name string, size Size) error {
	tables := tenantTables()
	if size.Tables != 0 {
		tables = tables[:min(max(size.Tables, minTables), len(tables))]
	}
	rows := make(map[string]int, len(tables))
	schema := pgx.Identifier{name}.Sanitize()
	var create, finish strings.Builder
	fmt.Fprintf(&create, "CREATE SCHEMA %s;\n", schema)
	for _, t := range tables {
		rows[t.name] = size.rows(t)
		fmt.Fprintf(&create, "CREATE TABLE {t}.%s (%s);\n", t.name, t.columns)
		finish.WriteString(t.after)
		if total := totalRows(t, size); total > 0 && strings.HasPrefix(t.columns, identity) {
			fmt.Fprintf(&finish, "\nSELECT pg_catalog.setval(pg_catalog.format('%%I.%%I', %s, '%s_id_seq'), %d);\n", literal(name), t.name, total)
		}
	}
	finish.WriteString(afterTables)

	run := func(sql string) error {
		_, err := tx.Exec(ctx, strings.ReplaceAll(sql, "{t}", schema))
		return err
	}
	if err := run(create.String()); err != nil {
		return fmt.Errorf("create tables: %w", err)
	}
	for _, t := range tables {
		source := &rowReader{
			writer: newWriter(size.Seed, name, t.name, func(table string) int { return rows[table] }),
			table:  t, plain: rows[t.name], total: totalRows(t, size),
		}
		if source.total == 0 {
			continue
		}
		copySQL := fmt.Sprintf("COPY %s.%s (%s) FROM STDIN", schema, t.name, t.fill)
		if _, err := tx.Conn().PgConn().CopyFrom(ctx, source, copySQL); err != nil {
			return fmt.Errorf("fill %s: %w", t.name, err)
		}
	}
	// Indexes and foreign keys come after the rows, which is faster.
	if err := run(finish.String()); err != nil {
		return fmt.Errorf("create indexes and constraints: %w", err)
	}
	return register(ctx, tx, name, size.Seed)
}

// register enters the tenant in the core.
func register(ctx context.Context, tx pgx.Tx, name string, seed uint64) error {
	w := newWriter(seed, name, "tenant", nil)
	_, err := tx.Exec(ctx, `WITH t AS (
			INSERT INTO public.tenant (schema_name, name, plan_id, created_on) VALUES ($1, $2, $3, $4) RETURNING id)
		INSERT INTO public.tenant_domain (tenant_id, domain) SELECT id, $5 FROM t`,
		name, w.company(), 1+w.rand.IntN(planCount), w.moment(), strings.ReplaceAll(name, "_", "-")+".saas.example")
	if err != nil {
		return fmt.Errorf("register in core: %w", err)
	}
	return nil
}

func totalRows(t table, size Size) int {
	if t.name == logTable {
		return size.rows(t) + size.LogRows
	}
	return size.rows(t)
}

func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// rowReader is the rows of one table as COPY text.
type rowReader struct {
	writer *writer
	table  table
	plain  int // rows of the ordinary size
	total  int
	unread []byte
}

func (r *rowReader) Read(p []byte) (int, error) {
	if len(r.unread) == 0 {
		w := r.writer
		w.buf = w.buf[:0]
		for len(w.buf) < len(p) && w.number < r.total {
			w.begin(w.number + 1)
			w.wide = w.number > r.plain
			r.table.row(w)
			w.end()
		}
		if len(w.buf) == 0 {
			return 0, io.EOF
		}
		r.unread = w.buf
	}
	n := copy(p, r.unread)
	r.unread = r.unread[n:]
	return n, nil
}

// ManyOptions say what Many makes.
type ManyOptions struct {
	// Tenants is how many, named by TenantName.
	Tenants int
	// Size is that of an ordinary tenant.
	Size Size
	// ActiveEvery makes each so-many-th tenant an active one; 0 makes none.
	ActiveEvery int
	// ActiveFactor is how many times the rows an active tenant has; 0 means 60.
	ActiveFactor float64
	// Jobs are the connections that work at once; 0 means 2.
	Jobs int
	// Done, if any, is called after each tenant with how many are made; from
	// several goroutines.
	Done func(tenants int)
}

// Many makes many tenants in a database that has the core, each in a
// transaction of its own, so that the server's default lock table suffices.
func Many(ctx context.Context, config *pgx.ConnConfig, opts ManyOptions) error {
	if opts.Jobs == 0 {
		opts.Jobs = 2
	}
	if opts.ActiveFactor == 0 {
		opts.ActiveFactor = 60
	}
	if opts.Done == nil {
		opts.Done = func(int) {}
	}
	var next, done atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	for range min(opts.Jobs, opts.Tenants) {
		group.Go(func() error {
			return withConn(ctx, config, func(conn *pgx.Conn) error {
				for {
					n := int(next.Add(1))
					if n > opts.Tenants {
						return nil
					}
					if err := Tenant(ctx, conn, TenantName(n), opts.sizeOf(n)); err != nil {
						return err
					}
					opts.Done(int(done.Add(1)))
				}
			})
		})
	}
	return group.Wait()
}

func (o ManyOptions) sizeOf(n int) Size {
	size := o.Size
	if o.ActiveEvery > 0 && n%o.ActiveEvery == 0 {
		if size.Factor == 0 {
			size.Factor = 1
		}
		size.Factor *= o.ActiveFactor
	}
	return size
}

// Big makes one big tenant, BigTenant, and nine small ones in a database that
// has the core. At scale 1 they are 2.2 GB of COPY text, which zstd -3 brings to
// a third; on disk the big one takes 2.8 GB, of which activity_log is 1.9 GB.
func Big(ctx context.Context, config *pgx.ConnConfig, scale float64) error {
	err := withConn(ctx, config, func(conn *pgx.Conn) error {
		return Tenant(ctx, conn, BigTenant, Size{Factor: bigFactor * scale, LogRows: int(bigLogRows * scale)})
	})
	if err != nil {
		return err
	}
	return Many(ctx, config, ManyOptions{Tenants: 9})
}

const (
	bigFactor  = 5000
	bigLogRows = 1_000_000
)

// churned are the tables that Churn changes.
var churned = []string{
	"customer", "invoice", "payment", "customer_contact", "customer_address",
	"customer_note", "product", "product_price", "sales_order",
}

// Churn changes one row in a hundred, and at least one, of nine tables in one of
// twenty of the tenants that Many made. It returns how many tables it changed.
// Each call changes the rows anew.
func Churn(ctx context.Context, config *pgx.ConnConfig, tenants int) (int, error) {
	changed := 0
	err := withConn(ctx, config, func(conn *pgx.Conn) error {
		for n := 1; n <= tenants; n += 20 {
			var sql strings.Builder
			for _, table := range churned {
				fmt.Fprintf(&sql, "UPDATE %s SET updated_at = updated_at + interval '1 hour' WHERE id %% 100 = 1;\n",
					pgx.Identifier{TenantName(n), table}.Sanitize())
			}
			if _, err := conn.Exec(ctx, sql.String()); err != nil {
				return fmt.Errorf("change sample tenant %s: %w", TenantName(n), err)
			}
			changed += len(churned)
		}
		return nil
	})
	return changed, err
}

func withConn(ctx context.Context, config *pgx.ConnConfig, do func(*pgx.Conn) error) (err error) {
	conn, err := pgx.ConnectConfig(ctx, config.Copy())
	if err != nil {
		return fmt.Errorf("connect for sample rows: %w", err)
	}
	defer func() { err = errors.Join(err, conn.Close(context.WithoutCancel(ctx))) }()
	return do(conn)
}
