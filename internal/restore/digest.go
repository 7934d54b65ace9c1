package restore

import (
	"context"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/rowdigest"
)

// sentRows are the rows of a big table that go to the server, as its digest
// remembers them.
type sentRows struct {
	way *rowdigest.Table

	mu     sync.Mutex
	pieces map[manifest.Piece]rowdigest.Sum // that were read
}

// canDigest reports whether the server digests the tables of a unit as package
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
		rows := l.unit.sent[p.table]
		if rows == nil {
			continue
		}
		sum, err := rows.way.Rows(text[p.piece.Offset : p.piece.Offset+p.piece.Bytes])
		if err != nil {
			continue // a piece without a sum
		}
		rows.mu.Lock()
		if rows.pieces == nil {
			rows.pieces = map[manifest.Piece]rowdigest.Sum{}
		}
		rows.pieces[p.piece] = sum
		rows.mu.Unlock()
	}
}

// sum sums up all rows of a table, and reports whether they are known and those
// that the index promises.
func (rows *sentRows) sum(t *manifest.Table) (sum rowdigest.Sum, ok bool) {
	if rows == nil {
		return sum, false
	}
	rows.mu.Lock()
	defer rows.mu.Unlock()
	for _, g := range t.Segments {
		for _, p := range g.Pieces {
			if p.Rows == 0 {
				continue
			}
			piece, ok := rows.pieces[p]
			if !ok {
				return sum, false
			}
			sum.Merge(piece)
		}
	}
	return sum, sum.Rows == t.Rows && sum.Checksum() == t.Checksum
}

// digestion compares a big table by its digest, which the server makes, in ranges.
// Where it is another than that of what was sent, or there is none, the rows are
// read and have the last word.
type digestion struct {
	*comparison
	table *manifest.Table
	way   *rowdigest.Table
	sent  rowdigest.Sum
	left  int // ranges; counted up before the first one is worked at

	// Under the lock of the comparison.
	rows   int64
	digest uint64
	told   int64 // bytes of progress
	failed bool
}

// task is that for a range of the table.
func (d *digestion) task(size int64, where string) task {
	d.left++
	return task{unit: d.unit, size: size, run: func(ctx context.Context, s *session) ([]task, error) {
		var rows int64
		var digest uint64
		var err error
		if !d.inVain() {
			// Not prepared: each range is a statement of its own, which is never used again.
			rows, digest, err = rowdigest.Scan(s.conn.QueryRow(ctx, d.way.Select(d.only(d.table)+d.unit.sqlName(d.table)+" "+where), pgx.QueryExecModeExec))
			if err != nil && s.broken(ctx, err) {
				return nil, fmt.Errorf("read table %s: %w", d.unit.qualified(d.table), err)
			}
		}
		d.run.Progress.Add(size, 0)
		more := d.add(size, rows, digest, err)
		d.done(len(more))
		return more, nil
	}}
}

// inVain reports whether the table is going to be read anyway.
func (d *digestion) inVain() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed
}

// add adds the digest of a range, or that there is none, and returns what is to be
// done after the last one.
func (d *digestion) add(size, rows int64, digest uint64, err error) []task {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rows += rows
	d.digest += digest
	d.told += size
	d.failed = d.failed || err != nil
	log := d.run.log.With("table", d.unit.qualified(d.table))
	if err != nil {
		log.Debug("The server does not digest a table.", "error", err)
	}
	if d.left--; d.left > 0 {
		return nil
	}
	if !d.failed && d.rows == d.sent.Rows && d.digest == d.sent.Digest {
		log.Debug("The server's digest of a table is that of what was sent.", "rows", d.rows)
		d.sums[d.table] = &d.sent.Sum
		return nil
	}
	log.Debug("A table is read, since its digest is none or another.", "rows", d.rows)
	d.run.Progress.Add(-d.told, 0)
	return []task{d.read(d.table)}
}
