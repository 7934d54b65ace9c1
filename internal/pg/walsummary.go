package pg

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
)

// Mark is a moment in the write-ahead log from which on changes of blocks can be
// told, with proof that a later server has the same history. It is taken before
// the snapshot of a backup by TakeMark, gets its seal after the snapshot, and is
// kept with the backup.
//
// What it promises: a transaction whose id is XID or higher had written nothing
// before LSN. A snapshot's own position in the log promises nothing of that
// kind, since transactions that were open then had written before it and may
// commit after it.
type Mark struct {
	Timeline uint32
	LSN      string
	XID      string    // 64 bits
	Started  time.Time // when the server was started
	Seal     string    // made after the snapshot, see MakeSeal
}

// TakeMark takes a mark. It is to be called before the snapshot is exported, on
// a session without a transaction; it uses up one transaction id. Without a
// mark there is a reason.
func TakeMark(ctx context.Context, conn *pgx.Conn) (_ *Mark, reason string, err error) {
	now, reason, err := readPosition(ctx, conn)
	if reason != "" || err != nil {
		return nil, reason, err
	}
	for _, s := range now.summaries {
		// Left over by a log that was longer, such as that of the copy from which
		// somebody put this server back: it would hide changes yet to come.
		if s.end > now.lsn {
			return nil, fmt.Sprintf("there is a summary up to %s of a log that has only reached %s", formatLSN(s.end), formatLSN(now.lsn)), nil
		}
	}
	m := &Mark{Timeline: now.timeline, LSN: formatLSN(now.lsn), Started: now.started}
	// The next id is not to be had otherwise: the xmax of a snapshot lies above
	// all that have ended, not above those that are still writing.
	if err := conn.QueryRow(ctx, `SELECT pg_catalog.pg_current_xact_id()::text`).Scan(&m.XID); err != nil {
		reason, err := doubt(ctx, fmt.Errorf("take a mark: %w", err))
		return nil, reason, err
	}
	return m, "", nil
}

// Since says from when on changes are asked for.
type Since struct {
	// Snapshot is what the earlier backup saw: pg_current_snapshot() as text.
	Snapshot string
	// Mark is that of the same backup.
	Mark *Mark
	// Older are marks of other backups of the database, in any order. They are
	// needed where transactions were open at the snapshot.
	Older []Mark
}

// ChangesOptions are the ways to read changed blocks.
type ChangesOptions struct {
	// Range is how many blocks are told apart from the next as many: changes
	// are known by ranges that begin at its multiples.
	Range int64
	// Wait is how long to wait, at most, for the server to summarize the latest
	// changes, its checkpoint included.
	Wait time.Duration
	// Checkpoint asks for that checkpoint, at full speed: summaries reach from one
	// checkpoint to the next. It needs a member of pg_checkpoint. Without it, one
	// that the server makes by itself in time is waited for.
	Checkpoint bool
}

// pollSummaries is how often the server is asked for new summaries.
const pollSummaries = 20 * time.Millisecond

// ChangedBlocks tells which blocks of tables may have changed. Its methods may
// be called from several goroutines, and of nil: everything may have changed.
type ChangedBlocks struct {
	database uint32
	size     int64           // of a range, in blocks
	spaces   map[uint32]bool // tablespaces in which the whole database was made anew
	files    map[heapFile]*changedRanges
}

type heapFile struct{ tablespace, filenode uint32 }

type changedRanges struct {
	limit  int64 // blocks from here on were cut off, or are of a new file
	ranges []int64
}

// ReadChangedBlocks tells which blocks of the database's tables may have changed
// between an earlier snapshot and this moment. It is to be called once the new
// snapshot has been exported, on another session, that has no transaction, and
// again for each newer snapshot: the result holds for those exported before.
// Where there is the slightest doubt it is nil, with the reason.
//
// That nothing is missing rests on this: rows of a block look different to the
// new snapshot only if a transaction that the earlier one did not see wrote into
// the block. Its id is not below that snapshot's xmin. If the id of a mark is not
// above the xmin, the transaction wrote all that it wrote after the mark, and the
// log says where.
func ReadChangedBlocks(ctx context.Context, conn *pgx.Conn, since Since, opts ChangesOptions) (_ *ChangedBlocks, reason string, err error) {
	if since.Mark == nil {
		return nil, "the earlier backup has no mark in the write-ahead log", nil
	}
	// After the snapshot: commits that it sees are in the log, if not on disk.
	now, reason, err := readPosition(ctx, conn)
	if reason != "" || err != nil {
		return nil, reason, err
	}
	if reason, err := since.Mark.holds(ctx, conn, now); reason != "" || err != nil {
		return nil, reason, err
	}
	from, reason, err := since.begin(ctx, conn, now)
	if reason != "" || err != nil {
		return nil, reason, err
	}
	summaries, reason, err := waitForSummaries(ctx, conn, now, from, opts)
	if reason != "" || err != nil {
		return nil, reason, err
	}
	c, err := readSummaries(ctx, conn, now.timeline, summaries, opts.Range)
	if err != nil {
		reason, err := doubt(ctx, fmt.Errorf("read summaries of the write-ahead log: %w", err))
		return nil, reason, err
	}
	return c, "", nil
}

// begin finds the position from which on the log has all that transactions wrote
// which the snapshot did not see.
func (s *Since) begin(ctx context.Context, conn *pgx.Conn, now *position) (from uint64, reason string, err error) {
	text, _, _ := strings.Cut(s.Snapshot, ":")
	xmin, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Sprintf("the snapshot %q of the earlier backup cannot be read", s.Snapshot), nil
	}
	type candidate struct {
		*Mark
		lsn uint64
	}
	var usable []candidate
	for _, m := range append([]Mark{*s.Mark}, s.Older...) {
		xid, err := strconv.ParseUint(m.XID, 10, 64)
		lsn, errLSN := parseLSN(m.LSN)
		if err == nil && errLSN == nil && xid <= xmin {
			usable = append(usable, candidate{&m, lsn})
		}
	}
	slices.SortStableFunc(usable, func(a, b candidate) int { return cmp.Compare(b.lsn, a.lsn) }) // the newest first
	for _, m := range usable {
		if reason, err = m.holds(ctx, conn, now); reason == "" || err != nil {
			return m.lsn, reason, err
		}
	}
	if reason == "" {
		reason = fmt.Sprintf("transaction %d, which was open at the earlier backup, is older than all marks", xmin)
	}
	return 0, reason, nil
}

// holds checks that the mark is in the past of the server that runs now.
func (m *Mark) holds(ctx context.Context, conn *pgx.Conn, now *position) (reason string, err error) {
	lsn, err := parseLSN(m.LSN)
	switch {
	case err != nil:
		return "the earlier backup's mark cannot be read: " + err.Error(), nil
	case m.Timeline != now.timeline:
		return fmt.Sprintf("the server is on timeline %d, the earlier backup was on %d", now.timeline, m.Timeline), nil
	case !m.Started.Equal(now.started):
		// It may have been put back from a copy meanwhile, or have got other
		// programs: everything is read once.
		return "the server has been started anew since", nil
	case lsn > now.lsn:
		return fmt.Sprintf("the write-ahead log is at %s, before the %s of the earlier backup", formatLSN(now.lsn), m.LSN), nil
	}
	return CheckSeal(ctx, conn, m.Seal)
}

// position is where a server's log is.
type position struct {
	timeline  uint32
	lsn       uint64
	started   time.Time
	summaries []summary // of the timeline, that there were shortly before
}

type summary struct{ start, end uint64 }

// readPosition reads the position of the log to which everything that is visible
// now has been inserted. Without one there is a reason.
func readPosition(ctx context.Context, conn *pgx.Conn) (_ *position, reason string, err error) {
	if conn.PgConn().TxStatus() != 'I' {
		return nil, "", errors.New("read the position of the write-ahead log: the session is in a transaction")
	}
	if VersionNum(conn) < 170000 {
		return nil, "PostgreSQL knows changed blocks from version 17 on", nil
	}
	var on, standby bool
	p := &position{}
	err = conn.QueryRow(ctx, `
		SELECT pg_catalog.current_setting('summarize_wal')::bool, pg_catalog.pg_is_in_recovery(), pg_catalog.pg_postmaster_start_time()`).
		Scan(&on, &standby, &p.started)
	switch {
	case err != nil:
		reason, err = doubt(ctx, fmt.Errorf("read the state of the server: %w", err))
		return nil, reason, err
	case !on:
		return nil, "the server does not summarize its write-ahead log (summarize_wal is off)", nil
	case standby:
		return nil, "the server is a standby", nil
	}
	if err := p.read(ctx, conn); err != nil {
		reason, err = doubt(ctx, fmt.Errorf("read the position of the write-ahead log: %w", err))
		return nil, reason, err
	}
	return p, "", nil
}

func (p *position) read(ctx context.Context, conn *pgx.Conn) error {
	var timeline, lsn string
	err := conn.QueryRow(ctx, `SELECT pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8)`).Scan(&timeline)
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(timeline, 16, 32)
	if err != nil {
		return err
	}
	p.timeline = uint32(n)
	if p.summaries, err = listSummaries(ctx, conn, p.timeline); err != nil {
		return err
	}
	// Not pg_current_wal_lsn: what was committed without waiting for the disk is
	// visible before it is written.
	if err := conn.QueryRow(ctx, `SELECT pg_catalog.pg_current_wal_insert_lsn()::text`).Scan(&lsn); err != nil {
		return err
	}
	p.lsn, err = parseLSN(lsn)
	return err
}

func listSummaries(ctx context.Context, conn *pgx.Conn, timeline uint32) ([]summary, error) {
	rows, err := conn.Query(ctx, `
		SELECT start_lsn::text, end_lsn::text FROM pg_catalog.pg_available_wal_summaries() WHERE tli = $1 ORDER BY start_lsn, end_lsn`, int64(timeline))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (s summary, err error) {
		var start, end string
		if err := row.Scan(&start, &end); err != nil {
			return s, err
		}
		if s.start, err = parseLSN(start); err != nil {
			return s, err
		}
		s.end, err = parseLSN(end)
		return s, err
	})
}

// covering picks, of summaries in the order of their beginnings, those from one
// position on, and says how far they reach without a gap.
func covering(list []summary, from, to uint64) (picked []summary, reached uint64) {
	reached = from
	for _, s := range list {
		if s.start > reached || reached >= to {
			break
		}
		if s.end > reached {
			picked, reached = append(picked, s), s.end
		}
	}
	return picked, reached
}

// waitForSummaries waits until there are summaries up to now.
func waitForSummaries(ctx context.Context, conn *pgx.Conn, now *position, from uint64, opts ChangesOptions) (_ []summary, reason string, err error) {
	picked, reached := covering(now.summaries, from, now.lsn)
	if reached >= now.lsn {
		return picked, "", nil
	}
	if reason := gap(now.summaries, reached); reason != "" {
		return nil, reason, nil
	}
	late := fmt.Sprintf("the server has not summarized the log from %s to %s in time", formatLSN(reached), formatLSN(now.lsn))
	deadline := time.Now().Add(opts.Wait)
	if opts.Checkpoint {
		refused, err := checkpoint(ctx, conn, opts.Wait)
		if err != nil {
			reason, err = doubt(ctx, fmt.Errorf("ask for a checkpoint: %w", err))
			return nil, reason, err
		}
		if refused {
			late += ", and the role may not ask for a checkpoint (GRANT pg_checkpoint)"
		}
	}
	ticker := time.NewTicker(pollSummaries)
	defer ticker.Stop()
	for {
		list, err := listSummaries(ctx, conn, now.timeline)
		if err != nil {
			reason, err = doubt(ctx, fmt.Errorf("list summaries of the write-ahead log: %w", err))
			return nil, reason, err
		}
		if picked, reached = covering(list, from, now.lsn); reached >= now.lsn {
			return picked, "", nil
		}
		if reason := gap(list, reached); reason != "" {
			return nil, reason, nil
		}
		if !time.Now().Before(deadline) {
			return nil, late, nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil, "", context.Cause(ctx)
		}
	}
}

// gap is the reason if there are summaries beyond one that is missing, which
// the server will not make any more.
func gap(list []summary, reached uint64) string {
	for _, s := range list {
		if s.start > reached {
			return fmt.Sprintf("there is no summary of the log from %s to %s", formatLSN(reached), formatLSN(s.start))
		}
	}
	return ""
}

// checkpoint asks for a checkpoint and waits for its end, for so long at most.
// The server goes on with it after that.
func checkpoint(ctx context.Context, conn *pgx.Conn, wait time.Duration) (refused bool, err error) {
	if _, err := conn.Exec(ctx, fmt.Sprintf("SET statement_timeout = %d", max(wait.Milliseconds(), 1))); err != nil {
		return false, err
	}
	_, failure := conn.Exec(ctx, "CHECKPOINT")
	if _, err := conn.Exec(ctx, "SET statement_timeout = 0"); err != nil {
		return false, errors.Join(failure, err)
	}
	switch Code(failure) {
	case Privilege:
		return true, nil
	case QueryCanceled:
		return false, nil
	}
	return false, failure
}

// readSummaries reads which ranges of blocks have changed. The server adds the
// blocks up, so that what travels and stays here is a number for each range.
func readSummaries(ctx context.Context, conn *pgx.Conn, timeline uint32, list []summary, size int64) (*ChangedBlocks, error) {
	c := &ChangedBlocks{size: size, spaces: map[uint32]bool{}, files: map[heapFile]*changedRanges{}}
	if err := conn.QueryRow(ctx, `SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()`).Scan(&c.database); err != nil {
		return nil, err
	}
	starts, ends := make([]string, len(list)), make([]string, len(list))
	for i, s := range list {
		starts[i], ends[i] = formatLSN(s.start), formatLSN(s.end)
	}
	rows, err := conn.Query(ctx, `
		SELECT c.reltablespace, c.relfilenode, c.is_limit_block, c.relblocknumber / $5 AS range, min(c.relblocknumber)
		FROM unnest($2::text[], $3::text[]) AS s(start_lsn, end_lsn),
			LATERAL pg_catalog.pg_wal_summary_contents($1, s.start_lsn::pg_lsn, s.end_lsn::pg_lsn) AS c
		WHERE c.reldatabase = $4 AND c.relforknumber = 0
		GROUP BY 1, 2, 3, 4`, int64(timeline), starts, ends, c.database, size)
	if err != nil {
		return nil, err
	}
	var file heapFile
	var limit bool
	var n, block int64
	_, err = pgx.ForEachRow(rows, []any{&file.tablespace, &file.filenode, &limit, &n, &block}, func() error {
		if file.filenode == 0 {
			c.spaces[file.tablespace] = true // CREATE DATABASE, DROP DATABASE and the like
			return nil
		}
		f := c.files[file]
		if f == nil {
			f = &changedRanges{limit: math.MaxInt64}
			c.files[file] = f
		}
		if limit {
			f.limit = min(f.limit, block)
		} else {
			f.ranges = append(f.ranges, n)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, f := range c.files {
		slices.Sort(f.ranges)
	}
	return c, nil
}

// Unchanged reports whether the rows in blocks first to end, end not included,
// of a table are those of the earlier backup, letter for letter: the table is
// stored in the same file, its columns and their types are the same, and none of
// the blocks was written to. An end of 0 is that of the table, wherever it is. A
// table without a Heap is never unchanged.
func (c *ChangedBlocks) Unchanged(before, now *Heap, first, end int64) bool {
	if c == nil || before == nil || now == nil || *before != *now || now.Database != c.database || c.spaces[now.Tablespace] {
		return false
	}
	if end <= 0 {
		end = math.MaxInt64
	}
	f := c.files[heapFile{now.Tablespace, now.Filenode}]
	if f == nil {
		return true
	}
	if f.limit < end {
		return false
	}
	i, _ := slices.BinarySearch(f.ranges, first/c.size)
	return i == len(f.ranges) || f.ranges[i]*c.size >= end
}

// doubt turns an error of the server into a reason: a summary that is gone or
// damaged, a function that the role may not call. That a session is lost, or a
// run is to end, stays an error.
func doubt(ctx context.Context, err error) (reason string, _ error) {
	if ctx.Err() != nil || Lost(err) || Code(err) == "" {
		return "", err
	}
	return err.Error(), nil
}

// parseLSN reads a position of the log, such as 16/B374D848.
func parseLSN(text string) (uint64, error) {
	high, low, ok := strings.Cut(text, "/")
	h, errHigh := strconv.ParseUint(high, 16, 32)
	l, errLow := strconv.ParseUint(low, 16, 32)
	if !ok || errHigh != nil || errLow != nil {
		return 0, fmt.Errorf("%q is no position of a log", text)
	}
	return h<<32 | l, nil
}

func formatLSN(lsn uint64) string { return fmt.Sprintf("%X/%X", lsn>>32, lsn&0xffffffff) }
