package restore

import (
	"context"
	"fmt"
	"sync"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/rowdigest"
)

// digest is that of the rows of a big table on their way to the server.
type digest struct {
	table *rowdigest.Table

	mu    sync.Mutex
	sums  map[manifest.Piece]rowdigest.Sum // of the pieces that were read
	wrong bool                             // something was read that is no rows of the table
}

// canDigest reports whether the server can sum up tables of a unit as package
// rowdigest does.
func (r *run) canDigest(ctx context.Context, u *unit) bool {
	s := r.sessions[0]
	if err := s.use(ctx, u); err != nil {
		return false // whoever needs these settings is told why
	}
	return rowdigest.Works(ctx, s.conn)
}

// digest digests the rows of a frame that was read.
func (l *loading) digest(frame int, text []byte) {
	for _, p := range l.places[frame] {
		d := l.unit.digests[p.table]
		if d == nil {
			continue
		}
		sum, err := d.table.Rows(text[p.piece.Offset : p.piece.Offset+p.piece.Bytes])
		d.mu.Lock()
		if d.sums == nil {
			d.sums = map[manifest.Piece]rowdigest.Sum{}
		}
		d.sums[p.piece] = sum
		d.wrong = d.wrong || err != nil
		d.mu.Unlock()
	}
}

// sent is the sum of all rows of a table, if it is known and they are those that
// the index promises.
func (d *digest) sent(t *manifest.Table) (sum rowdigest.Sum, ok bool) {
	if d == nil {
		return sum, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.wrong {
		return sum, false
	}
	for _, g := range t.Segments {
		for _, p := range g.Pieces {
			if p.Rows == 0 {
				continue
			}
			of, ok := d.sums[p]
			if !ok {
				return sum, false
			}
			sum.Merge(of)
		}
	}
	return sum, sum.Rows == t.Rows && sum.Checksum() == t.Checksum
}

// digestion compares a big table by its digest: the server sums it up, by several
// sessions. Where the sum is another than that of what was sent, or there is none,
// the rows are read and have the last word.
type digestion struct {
	*comparison
	table *manifest.Table
	way   *rowdigest.Table
	sent  rowdigest.Sum

	// Under the lock of the comparison.
	ranges int // that are not summed up
	found  rowdigest.Sum
	failed bool
}

// task is that for a range of the table.
func (d *digestion) task(size int64, where string) task {
	d.ranges++
	return task{unit: d.unit, size: size, run: func(ctx context.Context, s *session) ([]task, error) {
		sum, err := rowdigest.Scan(s.conn.QueryRow(ctx, d.way.Select(d.only(d.table)+d.unit.sqlName(d.table)+" "+where)))
		if err != nil && s.broken(ctx, err) {
			return nil, fmt.Errorf("read table %s: %w", d.unit.qualified(d.table), err)
		}
		d.run.Progress.Add(size, 0)
		more := d.add(sum, err != nil)
		d.done(len(more))
		return more, nil
	}}
}

// add adds the sum of a range and returns what is to be done after the last one.
func (d *digestion) add(sum rowdigest.Sum, failed bool) []task {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ranges--
	d.found.Merge(sum)
	d.failed = d.failed || failed
	switch {
	case d.ranges > 0:
		return nil
	case !d.failed && d.found.Rows == d.sent.Rows && d.found.Digest == d.sent.Digest:
		d.sums[d.table] = &d.sent.Sum
		return nil
	}
	d.run.Progress.Add(-d.table.Bytes, 0)
	return []task{d.read(d.table)}
}
