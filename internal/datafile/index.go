package datafile

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
)

// IndexFormat is the version of the index that this package writes.
const IndexFormat = 1

// Index is the table of contents of a data file, kept in the file itself.
type Index struct {
	Header     Header
	Frames     []Frame
	Statements []Statement
	Tables     []manifest.Table
}

// Header says what the file is. With it a manifest can be rebuilt from its
// data files.
type Header struct {
	Format      int               `json:"format"`
	Backup      string            `json:"backup"` // id of the backup that wrote the file
	Type        manifest.Type     `json:"type"`
	Started     time.Time         `json:"started"`
	Schema      string            `json:"schema"`
	Tenant      string            `json:"tenant"`
	Compression string            `json:"compression"`
	Encoding    string            `json:"encoding"` // client_encoding of the script
	Database    manifest.Database `json:"database"`
	Snapshot    manifest.Snapshot `json:"snapshot"`
	Tool        manifest.Tool     `json:"tool"`
	Retention   int               `json:"retention_days"`
	Requires    Requires          `json:"requires"`
}

// Requires is what must be there before a file can be restored.
type Requires struct {
	Roles       []string    `json:"roles,omitempty"`
	Extensions  []Extension `json:"extensions,omitempty"`
	Tablespaces []string    `json:"tablespaces,omitempty"`
	Schemas     []string    `json:"schemas,omitempty"` // other schemas that the definitions refer to
}

// Extension is one that a file's objects use, or that the file itself creates.
type Extension struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Schema  string `json:"schema"`            // where it is installed
	Created bool   `json:"created,omitempty"` // by a statement of this file
}

// FrameKind says what a frame holds.
type FrameKind string

// The kinds of frame, in the order in which they stand in a file. Frames of
// rows and of large objects may stand in any order among themselves.
const (
	HeaderFrame    FrameKind = "header"
	PreDataFrame   FrameKind = "pre-data"
	DataFrame      FrameKind = "data"
	SequenceFrame  FrameKind = "sequences"
	LargeObjects   FrameKind = "large-objects"
	PostDataFrame  FrameKind = "post-data"
	indexFrame     FrameKind = "index"
	endOfFileFrame FrameKind = "end"
)

// Frame is one independently compressed piece of a file.
type Frame struct {
	Kind   FrameKind `json:"kind"`
	Offset int64     `json:"offset"`         // in the file
	Length int64     `json:"length"`         // in the file, compressed
	Size   int64     `json:"size"`           // decompressed
	Hash   string    `json:"hash,omitempty"` // sha256 of the decompressed bytes, hexadecimal; not for data, whose segments have their own
}

// Statement is one step of the definitions or of what follows the data.
type Statement struct {
	Frame  int    `json:"f"`
	Offset int64  `json:"o,omitempty"` // in the decompressed frame; in the file left out where it follows the one before, see follows
	Length int64  `json:"n"`
	Kind   string `json:"kind"`            // as pg_dump's table of contents names it; OWNER, SEQUENCE SET, REFRESH and LARGE OBJECT DATA are ours
	Tag    string `json:"tag,omitempty"`   // name of the object, with its arguments for functions
	Schema string `json:"in,omitempty"`    // where it is not the schema of the file
	Table  string `json:"table,omitempty"` // of indexes, constraints and the like: the table they belong to
	Role   string `json:"role,omitempty"`  // of OWNER: the new owner
}

// follows is where a statement begins that stands in the same frame behind
// another, with an empty line between them, or that is the first of its frame.
func follows(previous *Statement, frame int) int64 {
	if previous == nil || previous.Frame != frame {
		return 0
	}
	return previous.Offset + previous.Length + 1
}

// line is one line of the encoded index: one of its fields is set.
type line struct {
	Header    *Header         `json:"header,omitempty"`
	Frame     *Frame          `json:"frame,omitempty"`
	Statement *Statement      `json:"statement,omitempty"`
	Table     *manifest.Table `json:"table,omitempty"`
	Count     *int            `json:"count,omitempty"` // last line: how many lines stand before it
}

const (
	indexTitle  = "-- tenantkeep index 1\n"
	linePrefix  = "-- "
	maxIndexRaw = 1 << 30
)

func (x *Index) encode(w io.Writer) error {
	b := bufio.NewWriter(w)
	if _, err := b.WriteString("\n" + indexTitle); err != nil {
		return err
	}
	count := 0
	put := func(l line) error {
		text, err := json.Marshal(l) // escapes newlines: a name cannot leave its comment line
		if err != nil {
			return err
		}
		count++
		_, err = fmt.Fprintf(b, "%s%s\n", linePrefix, text)
		return err
	}
	if err := put(line{Header: &x.Header}); err != nil {
		return err
	}
	for i := range x.Frames {
		if err := put(line{Frame: &x.Frames[i]}); err != nil {
			return err
		}
	}
	var previous *Statement
	for i := range x.Statements {
		s := x.Statements[i]
		switch expected := follows(previous, s.Frame); {
		case s.Offset == expected:
			s.Offset = 0
		case s.Offset == 0:
			return fmt.Errorf("statement %s %s overlaps the one before it", s.Kind, s.Tag)
		}
		if err := put(line{Statement: &s}); err != nil {
			return err
		}
		previous = &x.Statements[i]
	}
	for i := range x.Tables {
		if err := put(line{Table: &x.Tables[i]}); err != nil {
			return err
		}
	}
	n := count
	if err := put(line{Count: &n}); err != nil {
		return err
	}
	return b.Flush()
}

func decodeIndex(r io.Reader) (*Index, error) {
	in := bufio.NewReader(io.LimitReader(r, maxIndexRaw))
	x := &Index{}
	titled, count, done := false, 0, false
	for {
		text, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(text) == 0 {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read index: %w", err)
		}
		if string(text) == "\n" {
			continue
		}
		if !titled {
			if string(text) != indexTitle {
				return nil, fmt.Errorf("index begins with %q, not with %q: written by a newer version, or no index", clip(text), indexTitle)
			}
			titled = true
			continue
		}
		if done {
			return nil, errors.New("index goes on after its last line")
		}
		var l line
		body, ok := bytes.CutPrefix(text, []byte(linePrefix))
		if !ok {
			return nil, fmt.Errorf("line %d of the index is no comment", count+1)
		}
		if err := json.Unmarshal(body, &l); err != nil {
			return nil, fmt.Errorf("line %d of the index: %w", count+1, err)
		}
		switch {
		case l.Header != nil:
			x.Header = *l.Header
		case l.Frame != nil:
			x.Frames = append(x.Frames, *l.Frame)
		case l.Statement != nil:
			var previous *Statement
			if n := len(x.Statements); n > 0 {
				previous = &x.Statements[n-1]
			}
			if l.Statement.Offset == 0 {
				l.Statement.Offset = follows(previous, l.Statement.Frame)
			}
			x.Statements = append(x.Statements, *l.Statement)
		case l.Table != nil:
			x.Tables = append(x.Tables, *l.Table)
		case l.Count != nil:
			if *l.Count != count {
				return nil, fmt.Errorf("index has %d lines, its last one says %d", count, *l.Count)
			}
			done = true
		}
		count++
	}
	if !done {
		return nil, errors.New("index is not complete")
	}
	if x.Header.Format != IndexFormat {
		return nil, fmt.Errorf("index format %d is not known to this version, which reads %d", x.Header.Format, IndexFormat)
	}
	return x, nil
}

// validate checks that all places named by the index lie inside the file.
func (x *Index) validate(end int64) error {
	var at int64
	for i, f := range x.Frames {
		if f.Offset != at || f.Length <= 0 || f.Size < 0 || f.Length > end-f.Offset {
			return fmt.Errorf("frame %d lies outside the file", i)
		}
		at += f.Length
	}
	if at != end {
		return fmt.Errorf("frames end at byte %d, the index begins at %d", at, end)
	}
	inside := func(frame int, offset, length int64) bool {
		return frame >= 0 && frame < len(x.Frames) && offset >= 0 && length >= 0 &&
			length <= x.Frames[frame].Size && offset <= x.Frames[frame].Size-length
	}
	for _, s := range x.Statements {
		if !inside(s.Frame, s.Offset, s.Length) {
			return fmt.Errorf("statement %s %s lies outside its frame", s.Kind, s.Tag)
		}
	}
	for _, t := range x.Tables {
		var rows, size int64
		for _, g := range t.Segments {
			var segRows, segBytes int64
			for _, p := range g.Pieces {
				if !inside(p.Frame, p.Offset, p.Bytes) || p.Rows < 0 {
					return fmt.Errorf("rows of table %s lie outside their frame", t.Name)
				}
				segRows += p.Rows
				segBytes += p.Bytes
			}
			if segRows != g.Rows || segBytes != g.Bytes {
				return fmt.Errorf("pieces of a segment of table %s do not add up", t.Name)
			}
			rows += g.Rows
			size += g.Bytes
		}
		if rows != t.Rows || size != t.Bytes {
			return fmt.Errorf("segments of table %s do not add up: %d rows of %d", t.Name, rows, t.Rows)
		}
	}
	return nil
}

func clip(b []byte) string {
	if len(b) > 60 {
		b = b[:60]
	}
	return string(b)
}
