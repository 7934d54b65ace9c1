package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

const (
	// A message with this many statements, or bytes of them, is long enough
	// that the round trip does not count. Its statements are one transaction,
	// whose locks must fit the server's lock table beside those of others.
	messageStatements = 100
	messageBytes      = 256 << 10

	// lockTimeout is how long a statement waits for a lock on what others use,
	// and thereby lets others wait behind it. It is tried again after a pause.
	lockTimeout = 200 * time.Millisecond
	// vacuumTimeout is how long autovacuum keeps a table that is being restored:
	// it gives way to whoever waits so long. Only a superuser may choose it.
	vacuumTimeout = 20 * time.Millisecond
	lockTries     = 45                     // a minute and a half in all
	lockPause     = 250 * time.Millisecond // after the first try; longer after each
	lockPauseMax  = 2 * time.Second
)

// session is a connection at work. It belongs to one goroutine at a time.
type session struct {
	run    *run
	conn   *pgx.Conn
	header string // hash of the header frame whose settings it has
	buffer []byte // what the task has read, kept for the next one
	spare  []byte // another one
	ahead  *readAhead
	queue  *queue // where its tasks come from
	task   task   // the present one
	tries  int    // for a lock; 0: lockTries
	serial bool   // the server builds indexes without parallel workers
}

// newSession connects. What it commits may be lost if the server stops within
// a moment: that ends the restore anyway, and its last commit waits for all.
func (r *run) newSession(ctx context.Context) (*session, error) {
	conn, err := r.Server.Connect(ctx)
	if err != nil {
		return nil, err
	}
	s := &session{run: r, conn: conn}
	if err := s.set(ctx); err != nil {
		pg.Close(conn)
		return nil, err
	}
	return s, nil
}

// restoreSession is what sessions of a restore call themselves.
const restoreSession = "tenantkeep restore"

// set makes the settings that every session of a restore needs.
func (s *session) set(ctx context.Context) error {
	_, err := s.conn.PgConn().Exec(ctx, fmt.Sprintf(
		"SET application_name = '"+restoreSession+"'; SET synchronous_commit = off; SET lock_timeout = %d;"+
			" SET default_tablespace = ''; SET default_table_access_method = heap;"+
			" SELECT pg_catalog.set_config('deadlock_timeout', '%d', false) FROM pg_catalog.pg_roles WHERE rolname = current_user AND rolsuper",
		lockTimeout.Milliseconds(), vacuumTimeout.Milliseconds())).ReadAll()
	if err != nil {
		return fmt.Errorf("set up session: %w", err)
	}
	return nil
}

// share keeps the server from parallel workers for an index, or lets it have
// them again. They take more processor time in all than one process does, which
// pays only while other sessions have nothing to do.
func (s *session) share(ctx context.Context, busy bool) error {
	if s.serial == busy {
		return nil
	}
	sql := "RESET max_parallel_maintenance_workers"
	if busy {
		sql = "SET max_parallel_maintenance_workers = 0"
	}
	if err := s.exec(ctx, sql); err != nil {
		return fmt.Errorf("set up session: %w", err)
	}
	s.serial = busy
	return nil
}

// use gives the session the settings that a data file was written for.
func (s *session) use(ctx context.Context, u *unit) error {
	x := u.file.Index
	i := slices.IndexFunc(x.Frames, func(f datafile.Frame) bool { return f.Kind == datafile.HeaderFrame })
	if i < 0 || s.header == x.Frames[i].Hash {
		return nil
	}
	if err := u.data.acquire(ctx); err != nil {
		return err
	}
	defer u.data.release()
	sql, err := u.file.ReadFrame(i, nil)
	if err != nil {
		return err
	}
	if _, err := s.conn.PgConn().Exec(ctx, string(sql)).ReadAll(); err != nil {
		return fmt.Errorf("set up session as the data file says: %w", err)
	}
	if err := s.set(ctx); err != nil {
		return err
	}
	s.header = x.Frames[i].Hash
	return nil
}

// revive connects again after the connection was lost.
func (s *session) revive(ctx context.Context) error {
	if !s.conn.IsClosed() && !s.conn.PgConn().IsClosed() {
		return nil
	}
	fresh, err := s.run.newSession(ctx)
	if err != nil {
		return err
	}
	pg.Close(s.conn)
	s.conn, s.header, s.serial = fresh.conn, "", false
	return nil
}

// exec runs one message of statements, which are one transaction, again where
// a lock was in the way.
func (s *session) exec(ctx context.Context, sql string) error {
	for try := 1; ; try++ {
		_, err := s.conn.PgConn().Exec(ctx, sql).ReadAll()
		if err == nil || !inTheWay(err) || try == cmp.Or(s.tries, lockTries) {
			return err
		}
		if s.displaceVacuum(ctx) {
			continue
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(min(time.Duration(try)*lockPause, lockPauseMax)):
		}
	}
}

// displaceVacuum ends autovacuum on a table that is being restored, and reports
// whether it did. It comes to a big table as soon as there are rows, takes long,
// and gives way to whoever has waited for deadlock_timeout, for which nothing
// else waits here.
func (s *session) displaceVacuum(ctx context.Context) bool {
	if s.conn.PgConn().TxStatus() != 'I' {
		return false
	}
	var schemas []string
	for _, u := range s.run.alive() {
		schemas = append(schemas, u.madeSchemas()...)
	}
	rows, err := s.conn.Query(ctx, `
		SELECT DISTINCT pg_catalog.format('SET LOCAL lock_timeout = %s; LOCK TABLE ONLY %I.%I IN SHARE UPDATE EXCLUSIVE MODE', 2 * t.setting::int8, n.nspname, c.relname)
		FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
		JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid, pg_catalog.pg_settings t
		WHERE l.granted AND l.mode = 'ShareUpdateExclusiveLock' AND c.relkind = 'r' AND n.nspname = ANY($1)
		AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database())
		AND coalesce(a.backend_type, '') IN ('', 'autovacuum worker') AND t.name = 'deadlock_timeout'`, schemas)
	if err != nil {
		return false
	}
	locks, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return false
	}
	ended := false
	for _, sql := range locks {
		// One message, and so one transaction. What fails is tried again.
		if _, err := s.conn.PgConn().Exec(ctx, sql).ReadAll(); err == nil {
			ended = true
		}
	}
	return ended
}

// inTheWay reports whether a statement failed because of what another session
// does at the moment.
func inTheWay(err error) bool {
	switch pg.Code(err) {
	case pg.LockNotAvailable, pg.Deadlock, "40001":
		return true
	case "XX000":
		return strings.Contains(err.Error(), "tuple concurrently")
	}
	return false
}

// failure is a statement that failed.
type failure struct {
	step
	err error
}

// execAll runs steps of one unit in their order, many in one message, and
// returns those that failed. Its error says that the session cannot go on.
func (s *session) execAll(ctx context.Context, steps []step) (failed []failure, err error) {
	for len(steps) > 0 {
		n := messageLength(steps)
		batch := steps[:n]
		steps = steps[n:]
		if n > 1 {
			err := s.execSteps(ctx, batch)
			if err == nil {
				continue
			}
			if s.broken(ctx, err) {
				return failed, err
			}
		}
		more, err := s.execEach(ctx, batch)
		failed = append(failed, more...)
		if err != nil {
			return failed, err
		}
	}
	return failed, nil
}

// execEach is execAll with a message for each step.
func (s *session) execEach(ctx context.Context, steps []step) (failed []failure, err error) {
	for _, st := range steps {
		err := s.execSteps(ctx, []step{st})
		if err == nil {
			continue
		}
		if s.broken(ctx, err) {
			return failed, fmt.Errorf("%s %s: %w", strings.ToLower(st.Kind), st.object(), err)
		}
		failed = append(failed, failure{st, err})
	}
	return failed, nil
}

func messageLength(steps []step) int {
	size := 0
	for i, st := range steps {
		size += len(st.sql)
		if i > 0 && (i == messageStatements || size > messageBytes) {
			return i
		}
	}
	return len(steps)
}

// broken reports whether an error is of the session, not of a statement.
func (s *session) broken(ctx context.Context, err error) bool {
	return ctx.Err() != nil || pg.Lost(err) || s.conn.PgConn().IsClosed() || pg.Code(err) == pg.DiskFull
}

// task is a piece of work for one of the sessions.
type task struct {
	unit *unit
	size int64 // in bytes, about: large ones go first
	// builds says that it builds indexes, for which the server has workers.
	builds bool
	// table is what it loads, a big one; nil: something else. Of tasks for one
	// table, no more than most run at once while there are others: sessions that
	// append to the same table get in each other's way.
	table *manifest.Table
	most  int
	turn  int // in which order it was added
	// read gets what run finds in the session's buffer: at first part 0, and what
	// it takes of the others. It may run while the session is still busy with
	// another part or task. Nil: nothing.
	read  func(ctx context.Context, part int, buffer []byte) ([]byte, error)
	parts int // that run takes, one after the other; 0: one
	// run may return more tasks, which become possible by this one. Its error
	// is that of the unit.
	run func(ctx context.Context, s *session) ([]task, error)
}

// work runs tasks on all sessions. A task that fails gives its unit up; the
// error of work says that nothing can go on.
func (r *run) work(ctx context.Context, tasks []task) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	q := newQueue(tasks)
	stop := context.AfterFunc(ctx, q.wake)
	defer stop()

	var workers sync.WaitGroup
	for _, s := range r.sessions {
		workers.Go(func() {
			s.queue = q
			defer s.forget()
			for {
				t, idle, ok := q.next(ctx, s)
				if !ok {
					return
				}
				more, err := r.do(ctx, s, t, idle)
				if err != nil {
					cancel(err)
				}
				q.done(t, more)
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}

// do runs one task, beside which other sessions may be idle. Its error ends the
// whole run.
func (r *run) do(ctx context.Context, s *session, t task, idle bool) ([]task, error) {
	if t.unit.failed() {
		return nil, nil
	}
	if err := s.revive(ctx); err != nil {
		return nil, err
	}
	err := s.use(ctx, t.unit)
	if err == nil && t.builds {
		err = s.share(ctx, r.Jobs > 1 && !idle)
	}
	var more []task
	if err == nil {
		s.task = t
		err = s.take(ctx, 0)
	}
	if err == nil && !t.unit.failed() { // nothing is read ahead for one that failed
		more, err = t.run(ctx, s)
	}
	switch {
	case err == nil:
		return more, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case pg.Code(err) == pg.DiskFull:
		return nil, &DiskFullError{Tenant: t.unit.entry.Tenant, Err: err}
	}
	t.unit.fail(err)
	return nil, nil
}

// readAhead is the reading of a part of a task that comes next.
type readAhead struct {
	turn int // of the task
	part int
	done chan struct{}
	read []byte
	err  error
}

// readAhead begins to read a part of a task.
func (s *session) readAhead(ctx context.Context, t task, part int) {
	s.forget() // another session has taken that task, or the parts begin again
	a := &readAhead{turn: t.turn, part: part, done: make(chan struct{})}
	buffer := s.spare
	s.spare, s.ahead = nil, a
	go func() {
		defer close(a.done)
		if a.read = buffer; !t.unit.failed() {
			a.read, a.err = t.read(ctx, part, buffer)
		}
	}()
}

// take gets a part of the session's task into its buffer, unless that was read
// ahead, and begins to read what comes next: another part, or what the queue
// foresees.
func (s *session) take(ctx context.Context, part int) error {
	t := s.task
	var err error
	switch {
	case t.read == nil:
	case s.ahead != nil && s.ahead.turn == t.turn && s.ahead.part == part:
		<-s.ahead.done
		err = s.ahead.err
		s.buffer, s.spare, s.ahead = s.ahead.read, s.buffer, nil
	default:
		s.buffer, err = t.read(ctx, part, s.buffer)
	}
	if err != nil {
		return err
	}
	if part+1 < t.parts {
		s.readAhead(ctx, t, part+1)
	} else if next, ok := s.queue.foresee(s, t); ok {
		s.readAhead(ctx, next, 0)
	}
	return nil
}

// leave ends the transaction that a task has left open, without what it did.
func (s *session) leave(ctx context.Context) {
	if s.conn.PgConn().IsClosed() || s.conn.PgConn().TxStatus() == 'I' {
		return
	}
	if _, err := s.conn.PgConn().Exec(ctx, "ROLLBACK").ReadAll(); err != nil {
		pg.Close(s.conn)
	}
}

// forget waits for what is read ahead and lets go of it.
func (s *session) forget() {
	if s.ahead != nil {
		<-s.ahead.done
		s.spare, s.ahead = s.ahead.read, nil
	}
}

// queue holds tasks and knows when no more can come.
type queue struct {
	mu       sync.Mutex
	ready    sync.Cond
	tasks    []task // the next one last
	turns    int
	loading  map[*manifest.Table]int // how many tasks run for it
	foreseen map[int]*session        // who reads ahead for a task, by its turn
	running  int
	waiting  int // sessions without a task
}

func newQueue(tasks []task) *queue {
	q := &queue{loading: map[*manifest.Table]int{}, foreseen: map[int]*session{}}
	q.ready.L = &q.mu
	q.add(tasks)
	return q
}

func (q *queue) add(tasks []task) {
	for _, t := range tasks {
		t.turn = q.turns
		q.turns++
		q.tasks = append(q.tasks, t)
	}
	slices.SortFunc(q.tasks, func(a, b task) int { return cmp.Or(cmp.Compare(a.size, b.size), cmp.Compare(b.turn, a.turn)) })
}

// next is the next task for a session, and whether there is none for another one
// that waits.
func (q *queue) next(ctx context.Context, s *session) (t task, idle, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting++
	for len(q.tasks) == 0 && q.running > 0 && ctx.Err() == nil {
		q.ready.Wait()
	}
	q.waiting--
	if len(q.tasks) == 0 || ctx.Err() != nil {
		return task{}, false, false
	}
	i := q.best(s, nil)
	if i < 0 { // better another's, or too many for a table, than none
		i = len(q.tasks) - 1
	}
	t = q.tasks[i]
	q.tasks = slices.Delete(q.tasks, i, i+1)
	delete(q.foreseen, t.turn)
	q.running++
	if t.table != nil {
		q.loading[t.table]++
	}
	return t, q.waiting > len(q.tasks), true
}

// best is the place of the next task for which no other session reads ahead, and
// that would not be one too many for its table once the one that is left has
// ended; -1: there is none.
func (q *queue) best(s *session, left *manifest.Table) int {
	for i, t := range slices.Backward(q.tasks) {
		by := q.foreseen[t.turn]
		others := q.loading[t.table]
		if t.table == left {
			others--
		}
		if (by == nil || by == s) && (t.table == nil || others < t.most) {
			return i
		}
	}
	return -1
}

// foresee tells a session that is about to begin a task what it is likely to do
// next, if there is something to be read for it that is not read already.
func (q *queue) foresee(s *session, current task) (t task, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if s.ahead != nil && q.foreseen[s.ahead.turn] == s {
		return task{}, false
	}
	i := q.best(s, current.table)
	if i < 0 || q.tasks[i].read == nil {
		return task{}, false
	}
	q.foreseen[q.tasks[i].turn] = s
	return q.tasks[i], true
}

func (q *queue) done(t task, more []task) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running--
	if t.table != nil {
		q.loading[t.table]--
	}
	if len(more) > 0 {
		q.add(more)
	}
	q.ready.Broadcast()
}

func (q *queue) wake() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ready.Broadcast()
}

// deferAll keeps failed statements for another try.
func (r *run) deferAll(failed []failure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deferred = append(r.deferred, failed...)
}

// again tries the deferred statements, pass after pass, as long as that moves
// anything: what one of them needs may come from another schema.
func (r *run) again(ctx context.Context) error {
	s := r.sessions[0]
	for len(r.deferred) > 0 {
		if err := s.revive(ctx); err != nil {
			return err
		}
		var left []failure
		moved := false
		for _, f := range r.deferred {
			if f.unit.failed() {
				continue
			}
			if err := s.use(ctx, f.unit); err != nil {
				return err
			}
			err := s.execSteps(ctx, []step{f.step})
			switch {
			case err == nil:
				moved = true
			case s.broken(ctx, err):
				return errors.Join(context.Cause(ctx), err)
			default:
				left = append(left, failure{f.step, err})
			}
		}
		r.deferred = left
		if !moved {
			return nil
		}
	}
	return nil
}
