package backup

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/rowsum"
)

// Summaries says what use is made of the server's summaries of its write-ahead
// log, which tell an incremental backup what it need not read.
type Summaries string

// The ways to use summaries.
const (
	SummariesCheckpoint Summaries = "checkpoint" // ask for a checkpoint, up to which they reach
	SummariesWait       Summaries = "wait"       // wait for one
	SummariesOff        Summaries = "off"
)

const (
	// summariesWait is how long a run waits for the latest changes to be
	// summarized; reading everything takes about as long for a middle database.
	summariesWait = 30 * time.Second
	// olderMarks is how many earlier backups are asked for their marks, one of
	// which must be older than the oldest transaction of the parent's time.
	olderMarks = 10
)

// takeMark takes the mark of a round, before its snapshot.
func (d *round) takeMark(ctx context.Context) (err error) {
	if d.info.ServerVersionNum < 170000 || d.Summaries == SummariesOff {
		return nil
	}
	var reason string
	d.mark, reason, err = pg.TakeMark(ctx, d.newestState.conn)
	if reason != "" {
		d.Log.DebugContext(ctx, "Took no mark in the write-ahead log", "reason", reason)
	}
	return err
}

// makeSeal makes the seal of a round, after its snapshot. A server that gives out
// no transaction ids, to be saved from their wraparound for instance, can be
// backed up all the same.
func (d *round) makeSeal(ctx context.Context) (err error) {
	if d.info.ReadOnly || !pg.CanDigestCatalogs(d.info.ServerVersionNum) {
		return nil
	}
	d.seal, err = pg.MakeSeal(ctx, d.newestState.conn)
	switch {
	case err == nil && d.mark != nil:
		d.mark.Seal = d.seal
	case err != nil && pg.Code(err) != "" && !pg.Lost(err):
		d.Log.DebugContext(ctx, "Made no seal", "reason", err)
		d.mark, err = nil, nil
	}
	return err
}

// moment is what a manifest says of the round's snapshot.
func (d *round) moment() *manifest.Snapshot {
	m := &manifest.Snapshot{Time: d.snapshot.Time, LSN: d.snapshot.LSN, XID: d.snapshot.XIDs}
	if d.mark != nil {
		mark := manifest.Mark(*d.mark)
		m.Mark = &mark
	} else {
		m.Seal = d.seal
	}
	if d.state != nil {
		m.Catalogs = d.state.Sum
	}
	return m
}

// moment is the snapshot that the parent shows.
func (p *parent) moment() *manifest.Snapshot {
	if p.entry.Snapshot != nil {
		return p.entry.Snapshot
	}
	return p.backup.Manifest.Snapshot
}

// changedBlocks tells which blocks changed since a parent's snapshot; nil means
// that any may have.
func (d *round) changedBlocks(ctx context.Context, p *parent) (*pg.ChangedBlocks, error) {
	then := p.moment()
	if d.mark == nil || then == nil || then.Mark == nil {
		return nil, nil
	}
	d.changesMu.Lock()
	defer d.changesMu.Unlock()
	if c, ok := d.changedSince[then.XID]; ok {
		return c, nil
	}
	conn, err := d.Server.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer pg.Close(conn)
	mark := pg.Mark(*then.Mark)
	c, reason, err := pg.ReadChangedBlocks(ctx, conn, pg.Since{Snapshot: then.XID, Mark: &mark, Older: d.marks},
		pg.ChangesOptions{Range: segmentBlocks, Wait: summariesWait, Checkpoint: d.Summaries != SummariesWait})
	if err != nil {
		return nil, err
	}
	if reason != "" {
		d.Progress.Note(slog.LevelInfo, "", fmt.Sprintf("all rows are read, those too that did not change since backup %s: %s", p.backup.ID, reason))
	}
	d.changedSince[then.XID] = c
	return c, nil
}

// takeOver marks those segments as read of which the server knows that nobody
// wrote into them since the parent.
func (w *worker) takeOver(c *contents, e *earlier, changed *pg.ChangedBlocks) error {
	for _, table := range c.tables() {
		if table.root || table.condition != "" || table.heap == nil {
			continue
		}
		i := slices.IndexFunc(e.Index.Tables, func(t manifest.Table) bool {
			return t.Name == table.name && t.Condition == "" && (t.Schema == table.schema || t.Schema == "" && e.Index.Header.Schema == table.schema)
		})
		if i < 0 || e.Index.Tables[i].Heap == nil || !slices.Equal(e.Index.Tables[i].Columns, table.columns) {
			continue
		}
		before, now := pg.Heap(*e.Index.Tables[i].Heap), pg.Heap(*table.heap)
		for n := range table.segments {
			first, end := table.blocks(n)
			if !changed.Unchanged(&before, &now, first, end) {
				continue
			}
			twin, sum, ok, err := segmentOf(&e.Index.Tables[i], first, end)
			if err != nil {
				return fmt.Errorf("table %s in %s: %w", table.name, e.self.Key, err)
			}
			if ok {
				table.segments[n], table.sums[n], table.known[n] = twin, sum, true
				w.Progress.Add(twin.Bytes, twin.Rows)
			}
		}
	}
	return nil
}

// segmentOf finds what an earlier backup has of a range of blocks into which
// nobody wrote since. Without rows there is no segment.
func segmentOf(t *manifest.Table, first, end int64) (manifest.Segment, rowsum.Sum, bool, error) {
	none := manifest.Segment{FirstBlock: first, EndBlock: end, Hash: hashOfNothing}
	for _, g := range t.Segments {
		switch {
		case g.FirstBlock > first && end == 0:
			// The table was longer. It cannot have become shorter without a
			// trace, so this does not happen.
			return none, rowsum.Sum{}, false, nil
		case g.FirstBlock != first:
			continue
		case g.EndBlock != end && g.EndBlock != 0:
			return none, rowsum.Sum{}, false, nil
		}
		checksum := g.Checksum
		if checksum == "" {
			checksum = t.Checksum // the only one
		}
		sum, err := rowsum.Parse(g.Rows, g.Bytes, checksum)
		return manifest.Segment{FirstBlock: first, EndBlock: end, Rows: g.Rows, Bytes: g.Bytes, Hash: g.Hash}, sum, true, err
	}
	// A table that was saved whole has nothing behind its one segment.
	return none, rowsum.Sum{}, true, nil
}
