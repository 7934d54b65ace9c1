package restore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/rowsum"
)

// splitTable is how many bytes of COPY text of a table make a range of blocks for
// one of several sessions. Tests have smaller ones.
var splitTable int64 = 64 << 20

const (
	// Small tables are read many in one message.
	compareBytes = 16 << 20
	// Progress is told in steps of this many bytes.
	tellBytes = 1 << 20
)

// compare reads every table again and compares it with the backup. A unit in
// which one differs fails. Meanwhile the foreign keys are made: their checks go
// table by table and leave sessions idle, and readers are not in their way.
func (r *run) compare(ctx context.Context) error {
	r.Progress.Start("compare", len(r.units), r.plan.Bytes)
	if err := errors.Join(r.findPartitioned(ctx), r.findTextual(ctx)); err != nil {
		return err
	}
	var tasks []task
	for _, u := range r.alive() {
		c := &comparison{run: r, unit: u, sums: map[*manifest.Table]*rowsum.Sum{}}
		own := c.tasks()
		c.pending = len(own)
		if c.pending == 0 {
			c.judge()
		}
		tasks = append(tasks, own...)
	}
	var err error
	if r.Resume {
		err = r.work(ctx, tasks)
	} else {
		if err = r.runPhase(ctx, phaseForeignKeys, tasks...); err == nil {
			err = r.again(ctx)
		}
	}
	if err != nil {
		return err
	}
	for _, u := range r.units { // now that the foreign keys of all are there too
		if u.ended.IsZero() {
			u.ended = r.Now()
			r.Progress.TenantDone(u.entry.Tenant, u.err)
		}
	}
	return nil
}

// findPartitioned finds the partitioned tables, which have no rows of their own.
// A backup names one where its rows must find their partition anew.
func (r *run) findPartitioned(ctx context.Context) error {
	s := r.sessions[0]
	if err := s.revive(ctx); err != nil {
		return err
	}
	var schemas []string
	for _, u := range r.alive() {
		schemas = append(append(schemas, u.entry.Schema), u.madeSchemas()...)
	}
	rows, err := s.conn.Query(ctx, `
		SELECT n.nspname::text, c.relname::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		WHERE c.relkind = 'p' AND n.nspname = ANY($1)`, schemas)
	if err != nil {
		return fmt.Errorf("list partitioned tables: %w", err)
	}
	r.partitioned = map[tableKey]bool{}
	var key tableKey
	_, err = pgx.ForEachRow(rows, []any{&key.schema, &key.name}, func() error {
		r.partitioned[key] = true
		return nil
	})
	if err != nil {
		return fmt.Errorf("list partitioned tables: %w", err)
	}
	return nil
}

// comparison gathers what the tables of one unit hold.
type comparison struct {
	run  *run
	unit *unit

	mu      sync.Mutex
	sums    map[*manifest.Table]*rowsum.Sum
	pending int // tasks that are not done
}

// reading is one COPY of a comparison.
type reading struct {
	table *manifest.Table
	where string
}

func (c *comparison) tasks() []task {
	var tasks []task
	var group []reading
	var size int64
	flush := func() {
		if len(group) > 0 {
			tasks = append(tasks, c.task(size, group))
			group, size = nil, 0
		}
	}
	for _, t := range c.unit.sortedTables() {
		if c.unit.isTextual(t) {
			tasks = append(tasks, c.task(t.Bytes, []reading{{table: t, where: t.Condition}}))
			continue
		}
		if sent, ok := c.unit.sent[t].sum(t); ok {
			d := &digestion{comparison: c, table: t, way: c.unit.sent[t].way, sent: sent}
			tasks = append(tasks, c.inRanges(t, d.task))
			continue
		}
		if t.Bytes >= splitTable && t.Condition == "" {
			tasks = append(tasks, c.read(t))
			continue
		}
		group = append(group, reading{table: t, where: t.Condition})
		size += t.Bytes
		if len(group) == messageStatements || size >= compareBytes {
			flush()
		}
	}
	flush()
	return tasks
}

// read is the task that reads a big table.
func (c *comparison) read(t *manifest.Table) task {
	return c.inRanges(t, func(size int64, where string) task { return c.task(size, []reading{{t, where}}) })
}

// inRanges cuts a big table into ranges of blocks, for several sessions, and makes
// a task for each. Before PostgreSQL 14 a range takes as long as the whole table.
func (c *comparison) inRanges(t *manifest.Table, each func(size int64, where string) task) task {
	if t.Bytes < splitTable || c.run.info.ServerVersionNum < 140000 {
		return each(t.Bytes, "")
	}
	return task{unit: c.unit, size: t.Bytes, run: func(ctx context.Context, s *session) ([]task, error) {
		var blocks int64
		err := s.conn.QueryRow(ctx, `
			SELECT CASE WHEN c.relkind = 'r' AND m.amname = 'heap' THEN pg_catalog.pg_relation_size(c.oid) / current_setting('block_size')::int8 ELSE 0 END
			FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_am m ON m.oid = c.relam
			WHERE c.oid = pg_catalog.to_regclass($1)`, c.unit.qualified(t)).Scan(&blocks)
		if err != nil {
			return nil, fmt.Errorf("read size of table %s: %w", c.unit.qualified(t), err)
		}
		n := max(int64(2*c.run.Jobs), t.Bytes/splitTable)
		var tasks []task
		if blocks < n {
			tasks = append(tasks, each(t.Bytes, ""))
		}
		for i := int64(0); i < n && blocks >= n; i++ {
			where := fmt.Sprintf("WHERE ctid >= '(%d,0)'", blocks*i/n)
			if i < n-1 { // the last one is open: the table may have grown
				where += fmt.Sprintf(" AND ctid < '(%d,0)'", blocks*(i+1)/n)
			}
			tasks = append(tasks, each(t.Bytes/n, where))
		}
		c.done(len(tasks))
		return tasks, nil
	}}
}

// done counts a task that is done, with those that follow it. After the last one
// the unit is judged.
func (c *comparison) done(more int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pending += more - 1; c.pending == 0 {
		c.judge()
	}
}

func (c *comparison) task(size int64, group []reading) task {
	return task{unit: c.unit, size: size, run: func(ctx context.Context, s *session) ([]task, error) {
		sums := make([]rowsum.Sum, len(group))
		var sql strings.Builder
		for i, g := range group {
			if i > 0 {
				sql.WriteString(";\n")
			}
			// ONLY: rows of tables that inherit are theirs. A partitioned table
			// has none of its own.
			fmt.Fprintf(&sql, "COPY (SELECT %s FROM %s%s %s) TO STDOUT", columns(g.table), c.only(g.table), c.unit.sqlName(g.table), g.where)
		}
		done, size := 0, int64(0)
		batch := pg.Batch{
			CopyRow: func(n int, row []byte) error {
				sums[n].Add(row)
				if size += int64(len(row)); size >= tellBytes {
					c.run.Progress.Add(size, 0)
					size = 0
				}
				return nil
			},
			CopyDone: func(n int) error { done = n + 1; return nil },
		}
		err := c.unit.masked(c.unit.isTextual(group[0].table), func(on, off string) error {
			batch.SQL = on + sql.String() + ";\n" + off
			return batch.Run(ctx, s.conn)
		})
		c.run.Progress.Add(size, 0)
		if err != nil {
			if done < len(group) && !pg.Lost(err) {
				return nil, fmt.Errorf("read table %s: %w", c.unit.qualified(group[done].table), err)
			}
			return nil, fmt.Errorf("read tables: %w", err)
		}
		c.add(group, sums)
		c.done(0)
		return nil, nil
	}}
}

func (c *comparison) add(group []reading, sums []rowsum.Sum) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, g := range group {
		if c.sums[g.table] == nil {
			c.sums[g.table] = &rowsum.Sum{}
		}
		c.sums[g.table].Merge(sums[i])
	}
}

// only is the word that keeps a table's children out, unless the rows were
// written through the table into its partitions.
func (c *comparison) only(t *manifest.Table) string {
	if c.run.partitioned[tableKey{c.unit.place(c.unit.tableSchema(t)), t.Name}] {
		return ""
	}
	return "ONLY "
}

const shownMismatches = 5

// judge compares the sums with the index, once all of them are there.
func (c *comparison) judge() {
	var wrong []error
	more := 0
	tables := c.unit.file.Index.Tables
	for i := range tables {
		t := &tables[i]
		sum := c.sums[t]
		if sum == nil {
			sum = &rowsum.Sum{}
		}
		if sum.Rows == t.Rows && sum.Checksum() == t.Checksum {
			continue
		}
		if len(wrong) == shownMismatches {
			more++
			continue
		}
		wrong = append(wrong, &mismatchError{c.unit.tableSchema(t), t.Name, t.Rows, sum.Rows})
	}
	if more > 0 {
		wrong = append(wrong, fmt.Errorf("and %d more tables", more))
	}
	if len(wrong) > 0 {
		c.unit.fail(fmt.Errorf("what was restored is not what was saved: %w", errors.Join(wrong...)))
	}
}

// bigStatistics makes the tasks that gather the planner's statistics of the big
// tables of a unit, by table. They go with the comparison: the one of the biggest
// table may take as long as those of all others.
func (r *run) bigStatistics(u *unit) map[tableKey][]task {
	tasks := map[tableKey][]task{}
	u.analyzed = map[*manifest.Table]bool{}
	for _, t := range u.sortedTables() {
		if t.Bytes >= bigTable {
			u.analyzed[t] = true
			tasks[tableKey{u.tableSchema(t), t.Name}] = []task{r.analyzeTask(u, t.Bytes, []string{u.qualified(t)})}
		}
	}
	return tasks
}

// analyze gathers the planner's statistics that are not there yet. A restore
// without them is whole.
func (r *run) analyze(ctx context.Context) error {
	var tasks []task
	for _, u := range r.alive() {
		var small []string
		var smallSize int64
		flush := func() {
			if len(small) > 0 {
				tasks = append(tasks, r.analyzeTask(u, smallSize, small))
				small, smallSize = nil, 0
			}
		}
		for _, t := range slices.Backward(u.sortedTables()) {
			if u.analyzed[t] {
				continue
			}
			small = append(small, u.qualified(t))
			smallSize += t.Bytes
			if len(small) == messageStatements || smallSize >= compareBytes {
				flush()
			}
		}
		flush()
	}
	return r.work(ctx, tasks)
}

func (r *run) analyzeTask(u *unit, size int64, tables []string) task {
	return task{unit: u, size: size, run: func(ctx context.Context, s *session) ([]task, error) {
		// A list of tables is a transaction, and a lock, for each of them.
		err := s.exec(ctx, "ANALYZE "+strings.Join(tables, ", "))
		if err == nil {
			return nil, nil
		}
		if s.broken(ctx, err) {
			return nil, fmt.Errorf("analyze: %w", err)
		}
		u.note(fmt.Sprintf("tables were not analyzed: %v", err))
		r.Progress.Note(slog.LevelWarn, u.entry.Tenant, fmt.Sprintf("tables were not analyzed; autovacuum is going to: %v", err))
		return nil, nil
	}}
}
