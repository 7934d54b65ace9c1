package restore

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// bigTable is from which size, in bytes of COPY text, a table's indexes are
// built side by side.
const bigTable = 8 << 20

// indexes builds indexes and unique, primary and exclusion constraints.
func (r *run) indexes(ctx context.Context) error {
	r.Progress.Start("index", 0, 0)
	var tasks []task
	for _, u := range r.alive() {
		tasks = append(tasks, task{unit: u, size: u.bytes(), builds: u.bytes() >= bigTable, run: func(ctx context.Context, s *session) ([]task, error) {
			next, err := r.planIndexes(ctx, u)
			if err != nil || u.bytes() >= bigTable {
				return next, err
			}
			// Of thousands of small tenants, no more than one for each session
			// is in memory.
			for _, t := range next {
				if _, err := t.run(ctx, s); err != nil {
					return nil, err
				}
			}
			return nil, nil
		}})
	}
	return r.work(ctx, tasks)
}

// tableKey names a table of any schema.
type tableKey struct{ schema, name string }

// indexSteps are the steps that make the indexes of a unit, by table.
func (r *run) indexSteps(ctx context.Context, u *unit) (order []tableKey, byTable map[tableKey][]step, err error) {
	phase := phasesOf(u.file.Index)
	steps, err := u.steps(ctx, func(i int, s datafile.Statement) bool {
		return u.file.Index.Frames[s.Frame].Kind == datafile.PostDataFrame && phase[i] == phaseIndexes && !r.skipped(u, s)
	})
	if err != nil {
		return nil, nil, err
	}
	byTable = map[tableKey][]step{}
	for _, st := range steps {
		key := tableKey{u.schemaOf(st.Statement), st.Table}
		if byTable[key] == nil {
			order = append(order, key)
		}
		byTable[key] = append(byTable[key], st)
	}
	return order, byTable, nil
}

// planIndexes makes the tasks for the indexes of a unit. Constraints take their
// table for themselves, so that those of one table stand in one task; the
// indexes of a big table follow it, each in a task of its own. Small tables
// share tasks.
func (r *run) planIndexes(ctx context.Context, u *unit) ([]task, error) {
	order, byTable, err := r.indexSteps(ctx, u)
	if err != nil {
		return nil, err
	}
	sizes := u.tableSizes()
	var tasks []task
	var small []step
	var smallSize int64
	flush := func() {
		if len(small) > 0 {
			tasks = append(tasks, r.stepsTask(u, smallSize, small, nil))
			small, smallSize = nil, 0
		}
	}
	for _, key := range order {
		list, size := byTable[key], sizes[key]
		if size < bigTable {
			small = append(small, list...)
			smallSize += size
			if len(small) >= messageStatements || smallSize >= bigTable {
				flush()
			}
			continue
		}
		if u.early[key] {
			list = slices.DeleteFunc(list, onColumns)
		}
		tasks = append(tasks, r.bigIndexes(u, size, list)...)
	}
	flush()
	return tasks, nil
}

// planEarly makes the tasks for those indexes of big tables that need not wait
// for the rows of other tables: building them takes processor time, while the
// load waits for the disk every now and then.
func (r *run) planEarly(ctx context.Context, u *unit) (map[tableKey][]task, error) {
	if u.core || u.bytes() < bigTable {
		return nil, nil
	}
	order, byTable, err := r.indexSteps(ctx, u)
	if err != nil {
		return nil, err
	}
	sizes := u.tableSizes()
	early := map[tableKey][]task{}
	u.early = map[tableKey]bool{}
	for _, key := range order {
		if sizes[key] < bigTable {
			continue
		}
		list := slices.DeleteFunc(byTable[key], func(st step) bool { return !onColumns(st) })
		early[key] = r.bigIndexes(u, sizes[key], list)
		u.early[key] = true
	}
	return early, nil
}

// onColumns reports whether an index or constraint is on columns alone. A
// function or a condition would have more parentheses, and a function may read
// other tables.
func onColumns(st step) bool {
	return (st.Kind == kindIndex || st.Kind == kindConstraint) && strings.Count(st.sql, "(") == 1 && strings.Count(st.sql, ";") == 1
}

// bigIndexes makes the tasks for some of the indexes of a big table.
func (r *run) bigIndexes(u *unit, size int64, list []step) []task {
	if len(list) == 0 {
		return nil
	}
	if u.mask != nil {
		return r.buildInPlace(u, size, list)
	}
	var constraints []step
	var indexes []task
	for _, st := range list {
		if st.Kind == kindConstraint {
			constraints = append(constraints, st)
		} else {
			indexes = append(indexes, r.stepsTask(u, size, []step{st}, nil))
		}
	}
	if len(constraints) == 0 {
		return indexes
	}
	return []task{r.stepsTask(u, size, constraints, indexes)}
}

// buildInPlace makes the tasks for the indexes of a big table of a staging
// schema: side by side those that need no mask, and behind them the rest, which
// takes the table for itself.
func (r *run) buildInPlace(u *unit, size int64, list []step) []task {
	var rest []step
	var indexes []step
	for _, st := range list {
		b, ok := u.prebuilt[indexName(st)]
		switch {
		case !ok || st.Kind != kindIndex && st.Kind != kindConstraint:
			rest = append(rest, st)
			continue
		case b.constraint != "":
			attach := st
			attach.sql, attach.inPlace = b.constraint+";\n", true
			rest = append(rest, attach)
			fallthrough
		default:
			st.sql, st.inPlace = b.index+";\n", true
			indexes = append(indexes, st)
		}
	}
	last := r.stepsTask(u, size, rest, nil)
	if len(indexes) == 0 {
		return []task{last}
	}
	var pending atomic.Int64
	pending.Store(int64(len(indexes)))
	var tasks []task
	for _, st := range indexes {
		tasks = append(tasks, task{unit: u, size: size, builds: true, run: func(ctx context.Context, s *session) ([]task, error) {
			failed, err := s.execAll(ctx, []step{st})
			r.deferAll(failed)
			if pending.Add(-1) == 0 && len(rest) > 0 {
				return []task{last}, err
			}
			return nil, err
		}})
	}
	return tasks
}

// stepsTask runs steps that build indexes and defers those that fail; other
// tasks become possible by it.
func (r *run) stepsTask(u *unit, size int64, steps []step, next []task) task {
	return task{unit: u, size: size, builds: size >= bigTable, run: func(ctx context.Context, s *session) ([]task, error) {
		failed, err := s.execAll(ctx, steps)
		r.deferAll(failed)
		return next, err
	}}
}

// others runs what follows the indexes, up to the foreign keys. These come with
// the comparison, and row-level security after it: it would hide rows from the
// comparison where the role is no superuser.
func (r *run) others(ctx context.Context) error { return r.runPhases(ctx, phaseMain, phaseMain) }

// afterRows runs all that is left.
func (r *run) afterRows(ctx context.Context) error {
	if err := r.runPhases(ctx, phaseAfterKeys, phases-1); err != nil {
		return err
	}
	for _, f := range r.deferred {
		if r.waitsForCore(f) {
			r.core.inUse.keys = append(r.core.inUse.keys, f.step)
			continue
		}
		f.unit.problem(Problem{Kind: f.Kind, Object: f.object(), Err: f.err, Remedy: remedy(f.Kind, f.err), SQL: f.sql, statement: f.index})
	}
	r.deferred = nil
	return nil
}

// runPhases runs phase after phase; each is done for all schemas before the
// next one begins, since foreign keys, views and publications cross schemas.
func (r *run) runPhases(ctx context.Context, first, last phase) error {
	for p := first; p <= last; p++ {
		if p == phaseGrants {
			if err := r.resetPrivileges(ctx); err != nil {
				return err
			}
		}
		if err := r.runPhase(ctx, p); err != nil {
			return err
		}
		if err := r.again(ctx); err != nil {
			return err
		}
	}
	return nil
}

// runPhase runs a phase, core's part of it first, and with the rest the tasks
// that are besides.
func (r *run) runPhase(ctx context.Context, p phase, besides ...task) error {
	var tenants []task
	for _, u := range r.alive() {
		t := task{unit: u, size: u.bytes(), run: func(ctx context.Context, s *session) ([]task, error) {
			phase := phasesOf(u.file.Index)
			steps, err := u.steps(ctx, func(i int, st datafile.Statement) bool {
				return u.file.Index.Frames[st.Frame].Kind == datafile.PostDataFrame && phase[i] == p &&
					!u.isBeside(i) && !r.skipped(u, st) && !isSchemaComment(st)
			})
			if err != nil {
				return nil, err
			}
			if p == phaseForeignKeys && (u.mask != nil || !u.core && u.bytes() >= bigTable) {
				return r.foreignKeys(ctx, s, u, steps)
			}
			exec := s.execAll
			if p == phaseForeignKeys {
				// Each locks a table of core perhaps, which two transactions
				// would do in different orders.
				exec = s.execEach
			}
			failed, err := exec(ctx, steps)
			r.deferAll(failed)
			return nil, err
		}}
		if !u.core {
			tenants = append(tenants, t)
			continue
		}
		if err := r.work(ctx, []task{t}); err != nil || u.failed() { // without core nothing goes on
			return err
		}
	}
	return r.work(ctx, append(tenants, besides...))
}

// foreignKeys adds the foreign keys of a staging schema, or of a big one. They
// are checked after they are there: the check of a new one would keep others
// from writing to the table of core that it refers to, for as long as it takes,
// and no two can be checked side by side while they are added.
func (r *run) foreignKeys(ctx context.Context, s *session, u *unit, steps []step) ([]task, error) {
	check := map[tableKey][]step{}
	for _, st := range steps {
		sql := strings.TrimRight(st.sql, "; \n")
		quick := st
		quick.sql = sql + " NOT VALID;\n"
		if st.Kind != kindForeignKey || strings.HasSuffix(sql, " NOT VALID") || strings.Count(st.sql, ";") != 1 {
			quick = st
		}
		err := s.execSteps(ctx, []step{quick})
		if err == nil && quick.sql != st.sql {
			key := tableKey{u.schemaOf(st.Statement), st.Table}
			check[key] = append(check[key], u.validation(st))
			continue
		}
		if err != nil && !s.broken(ctx, err) { // partitioned tables take no NOT VALID before version 18
			err = s.execSteps(ctx, []step{st})
		}
		if err == nil {
			continue
		}
		if s.broken(ctx, err) {
			return nil, fmt.Errorf("%s %s: %w", strings.ToLower(st.Kind), st.object(), err)
		}
		r.deferAll([]failure{{st, err}})
	}
	// Those of one table stand in one task, and its statistics behind them: each
	// would wait for the lock of the other.
	sizes := u.tableSizes()
	statistics := r.bigStatistics(u)
	var tasks []task
	for key, list := range check {
		next := statistics[key]
		delete(statistics, key)
		tasks = append(tasks, task{unit: u, size: sizes[key] * int64(len(list)), run: func(ctx context.Context, s *session) ([]task, error) {
			failed, err := s.execEach(ctx, list)
			r.deferAll(failed)
			return next, err
		}})
	}
	for _, list := range statistics {
		tasks = append(tasks, list...)
	}
	return tasks, nil
}

// validation is the step that checks a foreign key of a staging schema.
func (u *unit) validation(st step) step {
	st.sql = fmt.Sprintf("ALTER TABLE %s VALIDATE CONSTRAINT %s;\n", pg.Identifier(u.place(u.schemaOf(st.Statement)), st.Table), pg.Identifier(indexName(st)))
	st.inPlace = true
	return st
}

// tableSizes are the bytes of COPY text of the tables of a unit.
func (u *unit) tableSizes() map[tableKey]int64 {
	sizes := map[tableKey]int64{}
	for i := range u.file.Index.Tables {
		t := &u.file.Index.Tables[i]
		sizes[tableKey{u.tableSchema(t), t.Name}] = t.Bytes
	}
	return sizes
}

// sortedTables are the tables of a unit, the largest first.
func (u *unit) sortedTables() []*manifest.Table {
	list := make([]*manifest.Table, len(u.file.Index.Tables))
	for i := range list {
		list[i] = &u.file.Index.Tables[i]
	}
	slices.SortStableFunc(list, func(a, b *manifest.Table) int { return cmp.Compare(b.Bytes, a.Bytes) })
	return list
}
