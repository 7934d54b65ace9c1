package backup

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"maps"
	"slices"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// contents are what a tenant holds besides its definitions: rows, values of
// sequences, large objects, and the rows that register it.
type contents struct {
	small, big   []*copied
	empty        []*copied   // whose rows are left out
	sequences    []*sequence // but for those that begin anew
	setting      []statement // that put all sequences where they stand
	largeObjects hash.Hash   // of their statements; nil: there are none
	registration []manifest.RegistryTable
	read         bool // everything was read once already, to be compared
	same         bool // as the parent has it
}

func (c *contents) tables() []*copied { return slices.Concat(c.small, c.big, c.empty) }

// digest is the same for two backups of a tenant that hold the same.
func (c *contents) digest() string {
	h := sha256.New()
	tables := c.tables()
	slices.SortFunc(tables, func(a, b *copied) int { return cmp.Or(cmp.Compare(a.schema, b.schema), cmp.Compare(a.name, b.name)) })
	put := json.NewEncoder(h) // ends each value with a newline, which is in none
	for _, t := range tables {
		entry := t.table("")
		entry.Heap = nil
		for i, g := range entry.Segments {
			entry.Segments[i] = manifest.Segment{FirstBlock: g.FirstBlock, Rows: g.Rows, Bytes: g.Bytes, Hash: g.Hash}
		}
		_ = put.Encode(entry) // neither the type nor the hash can fail
	}
	for _, s := range c.setting {
		_ = put.Encode(s.SQL)
	}
	if c.largeObjects != nil {
		_ = put.Encode(c.largeObjects.Sum(nil))
	}
	if len(c.registration) > 0 {
		_ = put.Encode(c.registration)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// compare reads all that a tenant holds and compares it with its parent. It
// returns the parent's file where something of it can be used; nil means that
// the tenant is to be stored whole, unless it is the same.
func (w *worker) compare(ctx context.Context, t *tenant, c *contents) (*earlier, error) {
	if t.parent == nil {
		return nil, nil
	}
	long := w.long(t)
	var e *earlier
	var err error
	if !long {
		changed, failure := w.changedBlocks(ctx, t.parent)
		if failure != nil {
			return nil, failure
		}
		if changed != nil {
			if e, err = t.parent.open(ctx, w.Repo); err == nil {
				err = w.takeOver(c, e, changed)
			}
		}
		if err == nil {
			if err := w.readAll(ctx, t, c); err != nil {
				return nil, errors.Join(err, closed(e))
			}
			if c.same = t.parent.entry.Content == c.digest(); c.same && t.reused {
				return nil, closed(e)
			}
		}
	}
	if e == nil && err == nil {
		e, err = t.parent.open(ctx, w.Repo)
	}
	switch {
	case ctx.Err() != nil:
		return nil, errors.Join(context.Cause(ctx), closed(e))
	case err != nil && t.reused:
		w.disown(t)
		return nil, errors.Join(&changedError{fmt.Sprintf("backup %s cannot be built on: %v", t.parent.backup.ID, err)}, closed(e))
	case err != nil:
		w.Progress.Note(slogWarn, t.tenant, fmt.Sprintf("taken in full: backup %s cannot be built on: %v", t.parent.backup.ID, err))
		return nil, closed(e)
	case !long && !e.worn():
		return e, nil
	}
	why := "less than half of the file with most of its rows is still in use"
	if long {
		why = fmt.Sprintf("it needs %d files of earlier backups", len(t.parent.entry.References)+1)
	}
	w.Progress.Note(slog.LevelInfo, t.tenant, "taken in full: "+why)
	if t.reused {
		err = w.keepDefinitions(t, e)
	}
	if err != nil {
		w.disown(t)
		err = &changedError{fmt.Sprintf("backup %s cannot be built on: %v", t.parent.backup.ID, err)}
	}
	return nil, errors.Join(err, closed(e))
}

func closed(e *earlier) error {
	if e == nil {
		return nil
	}
	return e.Close()
}

// readAll reads everything once without storing it: twice only a big table that the
// statistics take for small.
func (w *worker) readAll(ctx context.Context, t *tenant, c *contents) error {
	if err := w.read(ctx, t, c); err != nil {
		return err
	}
	c.read = true
	if w.toMeasure(t) || !slices.ContainsFunc(c.small, (*copied).doubtful) {
		return nil
	}
	results, err := w.conn.PgConn().Exec(ctx, pg.BlocksQuery(t.ordinary(), segmentBlocks)).ReadAll()
	if err != nil {
		return fmt.Errorf("read sizes of tables: %w", err)
	}
	blocks, err := pg.ParseBlocks(results[0].Rows)
	if err != nil || len(blocks) == 0 {
		return err
	}
	return w.readBig(ctx, t, c, blocks)
}

// doubtful reports whether a table may be a big one, by the rows that were read of
// it. They may take much more space than their text.
func (c *copied) doubtful() bool { return c.segments[0].Bytes >= segmentBytes/64 }

// readBig reads tables in segments that were read as small ones.
func (w *worker) readBig(ctx context.Context, t *tenant, c *contents, blocks map[uint32]int64) error {
	planned, err := w.plan(ctx, t, blocks)
	if err != nil {
		return err
	}
	type name struct{ schema, table string }
	was := map[name]*copied{}
	for _, table := range c.small {
		was[name{table.schema, table.name}] = table
	}
	for i, table := range planned.small {
		planned.small[i] = was[name{table.schema, table.name}]
	}
	c.small, c.big = planned.small, planned.big
	sink := &sink{add: func(int64, int64) {}}
	for _, table := range c.big {
		if err := w.copySegments(ctx, sink, table, without(table.known)); err != nil {
			return fmt.Errorf("read %s: %w", pg.Identifier(table.schema, table.name), err)
		}
	}
	return nil
}

// read reads everything once without storing it.
func (w *worker) read(ctx context.Context, t *tenant, c *contents) error {
	w.reader = sink{add: w.Progress.Add, chunk: w.reader.chunk[:0], hash: w.reader.hash}
	sink := &w.reader
	small := slices.DeleteFunc(slices.Clone(c.small), func(table *copied) bool { return table.known[0] })
	if err := w.copySmall(ctx, sink, small, c.sequences); err != nil {
		return err
	}
	for _, table := range c.big {
		if err := w.copySegments(ctx, sink, table, without(table.known)); err != nil {
			return fmt.Errorf("read %s: %w", pg.Identifier(table.schema, table.name), err)
		}
	}
	return w.readOthers(ctx, t, c, func([]statement) error { return nil })
}

// without are the numbers of those segments that are not done.
func without(done []bool) (numbers []int) {
	for n, is := range done {
		if !is {
			numbers = append(numbers, n)
		}
	}
	return numbers
}

// readOthers reads sequences, unless they were read before, and large objects,
// which it hands to take.
func (w *worker) readOthers(ctx context.Context, t *tenant, c *contents, take func([]statement) error) error {
	if !c.read {
		if err := w.readSequences(ctx, c.sequences); err != nil {
			return err
		}
		c.setting = append(c.setting, setSequences(c.sequences)...)
	}
	if !t.core || !w.hasLargeObjects {
		return nil
	}
	c.largeObjects = sha256.New()
	return w.largeObjects(ctx, func(statements []statement) error {
		for _, s := range statements {
			c.largeObjects.Write([]byte(s.SQL))
		}
		return take(statements)
	})
}

// hold refers to all segments that the earlier file holds of what was read and
// compared.
func (e *earlier) hold(c *contents, file *datafile.Writer) {
	if e == nil {
		return
	}
	type held struct {
		table *copied
		n     int
		twin  manifest.Segment
	}
	var all []held
	frames := map[int]bool{}
	for _, table := range c.tables() {
		for n, g := range table.segments {
			twin := e.segments[g.Hash]
			if g.Rows > 0 && (twin.Rows != g.Rows || twin.Bytes != g.Bytes) {
				continue
			}
			table.held[n] = true
			all = append(all, held{table, n, twin})
			for _, p := range twin.Pieces {
				frames[p.Frame] = true
			}
		}
	}
	// In their order, so that the pieces of a segment stay in theirs.
	numbers := map[int]int{}
	for _, frame := range slices.Sorted(maps.Keys(frames)) {
		numbers[frame] = e.refer(file, frame)
	}
	for _, h := range all {
		for _, p := range h.twin.Pieces {
			p.Frame = numbers[p.Frame]
			h.table.parts[h.n] = append(h.table.parts[h.n], &p)
		}
	}
}
