package verify

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"sync"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/rowsum"
)

// goodSegments are segments, and frames of statements, of files that others
// refer to, which were read and found good. They need not be read again for
// those others.
type goodSegments struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte]rowsum.Sum
}

func (g *goodSegments) get(id [sha256.Size]byte) (rowsum.Sum, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	sum, ok := g.known[id]
	return sum, ok
}

func (g *goodSegments) put(id [sha256.Size]byte, sum rowsum.Sum) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.known == nil {
		g.known = map[[sha256.Size]byte]rowsum.Sum{}
	}
	g.known[id] = sum
}

// counter counts and hashes the rows of a data file while its frames go by.
type counter struct {
	index  *datafile.Index
	self   datafile.FileRef
	good   *goodSegments
	lost   []bool           // by table: rows of it lie in a frame that cannot be read
	places map[int][]place  // by frame
	parts  map[part]*rowsOf // segments that are read
	sums   []rowsum.Sum     // by table
	failed map[int]bool     // frames
	errs   []error
	rows   int64
	fresh  int64 // rows since take
}

// part is a segment of a table.
type part struct{ table, segment int }

// rowsOf are the rows of a segment, as far as they were read.
type rowsOf struct {
	hash hash.Hash
	sum  rowsum.Sum
	left int // pieces
}

// place is where rows lie in a frame.
type place struct {
	part
	manifest.Piece
}

func newCounter(x *datafile.Index, self datafile.FileRef, good *goodSegments) *counter {
	c := &counter{
		index: x, self: self, good: good, lost: make([]bool, len(x.Tables)), sums: make([]rowsum.Sum, len(x.Tables)),
		places: map[int][]place{}, parts: map[part]*rowsOf{}, failed: map[int]bool{},
	}
	for t := range x.Tables {
		for s, g := range x.Tables[t].Segments {
			at := part{t, s}
			if sum, ok := good.get(c.segmentID(at)); ok {
				c.sums[t].Merge(sum)
				continue
			}
			c.parts[at] = &rowsOf{hash: sha256.New(), left: len(g.Pieces)}
			for _, piece := range g.Pieces {
				c.places[piece.Frame] = append(c.places[piece.Frame], place{at, piece})
			}
		}
	}
	return c
}

// segmentID names what a segment is said to hold, and where.
func (c *counter) segmentID(at part) [sha256.Size]byte {
	h := sha256.New()
	g := c.index.Tables[at.table].Segments[at.segment]
	fmt.Fprintf(h, "%s %d %d", g.Hash, g.Rows, g.Bytes)
	for _, p := range g.Pieces {
		to, f := c.index.Place(c.self, p.Frame)
		fmt.Fprintf(h, "\n%q %s %d %d %s %d %d %d", to.Key, to.Hash, f.Offset, f.Length, f.Stored, p.Offset, p.Bytes, p.Rows)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

func (c *counter) frameID(i int) [sha256.Size]byte {
	to, f := c.index.Place(c.self, i)
	return sha256.Sum256(fmt.Appendf(nil, "%q %s %s %d %d %d %s %s", to.Key, to.Hash, f.Kind, f.Offset, f.Length, f.Size, f.Hash, f.Stored))
}

// isKnown reports whether all that is of interest in a frame was found good
// before.
func (c *counter) isKnown(frame int) bool {
	if c.index.Frames[frame].Kind == datafile.DataFrame {
		return len(c.places[frame]) == 0
	}
	_, ok := c.good.get(c.frameID(frame))
	return ok
}

// damaged notes that a frame cannot be read.
func (c *counter) damaged(frame int) {
	c.failed[frame] = true
	for _, p := range c.places[frame] {
		c.lost[p.table] = true
	}
}

// frame counts the rows of one frame. The pieces of a segment come in their
// order.
func (c *counter) frame(i int, text []byte) {
	for _, p := range c.places[i] {
		rows := text[p.Offset : p.Offset+p.Bytes]
		of := c.parts[p.part]
		before := of.sum.Rows
		for rest := rows; len(rest) > 0; {
			end := bytes.IndexByte(rest, '\n') + 1
			if end == 0 {
				end = len(rest)
			}
			of.sum.Add(rest[:end])
			rest = rest[end:]
		}
		of.hash.Write(rows)
		n := of.sum.Rows - before
		c.rows += n
		c.fresh += n
		if of.left--; of.left == 0 {
			c.end(p.part, of)
		}
	}
}

// end judges a segment that was read.
func (c *counter) end(at part, of *rowsOf) {
	t := &c.index.Tables[at.table]
	g := t.Segments[at.segment]
	c.sums[at.table].Merge(of.sum)
	if got := hex.EncodeToString(of.hash.Sum(nil)); got != g.Hash && !c.lost[at.table] {
		c.errs = append(c.errs, fmt.Errorf("segment %d of table %s has other contents than its index says", at.segment+1, t.Name))
		c.lost[at.table] = true
	}
}

// take returns the rows that were counted since it was called before.
func (c *counter) take() int64 {
	n := c.fresh
	c.fresh = 0
	return n
}

// judge compares the sums with the index. What is good is remembered where the
// file is needed by others.
func (c *counter) judge(needed bool) []error {
	errs := c.errs
	for i := range c.index.Tables {
		t := &c.index.Tables[i]
		switch {
		case c.lost[i]:
			errs = append(errs, fmt.Errorf("table %s: rows of it cannot be read, or have other contents", t.Name))
		case c.sums[i].Rows != t.Rows:
			errs = append(errs, fmt.Errorf("table %s has %d rows, its index says %d", t.Name, c.sums[i].Rows, t.Rows))
		case c.sums[i].Checksum() != t.Checksum:
			errs = append(errs, fmt.Errorf("table %s: the checksum of its %d rows is not that of its index", t.Name, t.Rows))
		}
	}
	if !needed {
		return errs
	}
	for at, of := range c.parts {
		if of.left == 0 && !c.lost[at.table] {
			c.good.put(c.segmentID(at), of.sum)
		}
	}
	for i, f := range c.index.Frames {
		if f.Kind != datafile.DataFrame && !c.failed[i] {
			c.good.put(c.frameID(i), rowsum.Sum{})
		}
	}
	return errs
}
