package datafile

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// Join writes a data file that holds by itself what f holds together with the
// files that it refers to: one script for psql. Frames of which everything is
// still in use, and that are compressed as asked for, are taken as they are
// stored; the rows of others are put into new ones.
func Join(f *File, w io.Writer, c Compression) (*Index, error) {
	if err := f.ReadStatements(); err != nil {
		return nil, err
	}
	enc, err := NewEncoder(c)
	if err != nil {
		return nil, err
	}
	j := &joiner{from: f, to: NewWriter(w, c), enc: enc, algorithm: c.Algorithm, places: map[int][]joined{}}
	for t := range f.Index.Tables {
		table := f.Index.Tables[t]
		statement := CopyStatement(f.Index.Header.Schema, &table)
		table.Segments = slices.Clone(table.Segments)
		for s, g := range table.Segments {
			table.Segments[s].Pieces = make([]manifest.Piece, len(g.Pieces))
			for p, piece := range g.Pieces {
				j.places[piece.Frame] = append(j.places[piece.Frame], joined{piece, &table.Segments[s].Pieces[p], statement})
			}
		}
		j.tables = append(j.tables, table)
	}
	byFrame := map[int][]Statement{}
	for _, st := range f.Index.Statements {
		byFrame[st.Frame] = append(byFrame[st.Frame], st)
	}
	for _, kind := range []FrameKind{HeaderFrame, PreDataFrame, DataFrame, LargeObjects, SequenceFrame, PostDataFrame} {
		for i, frame := range f.Index.Frames {
			if frame.Kind != kind {
				continue
			}
			n, err := j.frame(i)
			if err != nil {
				return nil, err
			}
			for _, st := range byFrame[i] {
				st.Frame = n
				j.to.AddStatements(st)
			}
		}
	}
	if err := j.to.BeginStatements(enc); err != nil {
		return nil, err
	}
	if _, err := j.to.Append(enc); err != nil {
		return nil, err
	}
	for _, t := range j.tables {
		j.to.AddTable(t)
	}
	h := f.Index.Header
	if h.Type == manifest.Incremental {
		h.Type = manifest.Full
	}
	h.Files = nil
	return j.to.Close(enc, h)
}

type joiner struct {
	from      *File
	to        *Writer
	enc       *Encoder
	algorithm Algorithm
	tables    []manifest.Table
	places    map[int][]joined // by frame
}

// joined is where rows lie, and where to write down where they lie then.
type joined struct {
	from      manifest.Piece
	to        *manifest.Piece
	statement string // that begins them
}

// frame takes one frame over and returns its new number; none is made of rows
// that are not in use any more.
func (j *joiner) frame(i int) (int, error) {
	frame, places := j.from.Index.Frames[i], j.places[i]
	if frame.Kind == DataFrame && len(places) == 0 {
		return 0, nil
	}
	slices.SortFunc(places, func(a, b joined) int { return cmp.Compare(a.from.Offset, b.from.Offset) })
	stored, algorithm, err := j.from.StoredFrame(i)
	if err != nil {
		return 0, err
	}
	asStored := algorithm == j.algorithm
	var text []byte
	if !asStored || frame.Kind == DataFrame && frame.File > 0 {
		if text, err = j.from.ReadFrame(i, nil); err != nil {
			return 0, err
		}
	}
	if frame.Kind == DataFrame && frame.File > 0 && !allInUse(text, places) {
		return 0, j.pick(text, places)
	}
	var n int
	if asStored {
		n, err = j.to.AppendStored(frame, stored)
	} else {
		j.enc.Begin(frame.Kind)
		if _, err := j.enc.Write(text); err != nil {
			return 0, err
		}
		n, err = j.to.Append(j.enc)
	}
	if err != nil {
		return 0, err
	}
	for _, p := range places {
		*p.to = p.from
		p.to.Frame = n
	}
	return n, nil
}

// pick writes those rows of a frame into a new one that are in use.
func (j *joiner) pick(text []byte, places []joined) error {
	j.enc.Begin(DataFrame)
	for _, p := range places {
		begin, end := p.from.Offset, p.from.Offset+p.from.Bytes
		if _, err := j.enc.Write([]byte(p.statement)); err != nil {
			return err
		}
		*p.to = p.from
		p.to.Offset = j.enc.Size()
		if _, err := fmt.Fprintf(j.enc, "%s%s", text[begin:end], EndOfRows); err != nil {
			return err
		}
	}
	n, err := j.to.Append(j.enc)
	for _, p := range places {
		p.to.Frame = n
	}
	return err
}

// CopyStatement is the line that begins the rows of a table in a script. schema is
// that of the file, for tables that name none.
func CopyStatement(schema string, t *manifest.Table) string {
	columns := ""
	if len(t.Columns) > 0 {
		quoted := make([]string, len(t.Columns))
		for i, c := range t.Columns {
			quoted[i] = pg.Identifier(c)
		}
		columns = " (" + strings.Join(quoted, ", ") + ")"
	}
	return "COPY " + pg.Identifier(cmp.Or(t.Schema, schema), t.Name) + columns + " FROM stdin;\n"
}

// EndOfRows ends them.
const EndOfRows = "\\.\n\n"

// allInUse reports whether the places are all the rows of a frame: whether
// nothing but a COPY statement stands before each.
func allInUse(text []byte, places []joined) bool {
	var at int64
	for _, p := range places {
		if p.from.Offset < at || string(text[at:p.from.Offset]) != p.statement {
			return false
		}
		at = p.from.Offset + p.from.Bytes
		if !bytes.HasPrefix(text[at:], []byte(EndOfRows)) {
			return false
		}
		at += int64(len(EndOfRows))
	}
	return at == int64(len(text))
}
