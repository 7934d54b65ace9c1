package datafile

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
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
	// Definitions is the fingerprint of the definitions in the file, and of the
	// pg_dump that wrote them; empty where it is not known.
	Definitions string `json:"definitions,omitempty"`
	// Files are the files of earlier backups that frames of this one lie in.
	Files []FileRef `json:"files,omitempty"`
}

// FileRef is a data file of an earlier backup.
type FileRef struct {
	Key  string `json:"key"` // in the repository
	Size int64  `json:"size"`
	Hash string `json:"hash"` // of the whole file, as its manifest has it
	Rows int64  `json:"rows"` // how many of its bytes hold rows, of all its frames
}

// Adds reports whether the file itself holds anything that is to be restored,
// rather than referring to earlier ones for all of it.
func (x *Index) Adds() bool {
	return slices.ContainsFunc(x.Frames, func(f Frame) bool {
		return f.File == 0 && f.Kind != GuardFrame && f.Kind != HeaderFrame
	})
}

// Place is where a frame lies, as other files refer to it. self is the file
// that the index is that of.
func (x *Index) Place(self FileRef, frame int) (FileRef, Frame) {
	f := x.Frames[frame]
	if f.File > 0 {
		return x.Header.Files[f.File-1], f
	}
	return self, f
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
	GuardFrame     FrameKind = "guard" // keeps psql from loading a file that is no script by itself
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
	File   int       `json:"file,omitempty"` // 0: this file; n: the n-th of Header.Files, counted from 1
	Offset int64     `json:"offset"`         // in its file
	Length int64     `json:"length"`         // in its file, compressed
	Size   int64     `json:"size"`           // decompressed
	Hash   string    `json:"hash,omitempty"` // sha256 of the decompressed bytes, hexadecimal; not for data, whose segments have their own
	Stored string    `json:"stored"`         // sha256 of the bytes in the file, hexadecimal
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

// validate checks that all places named by the index lie inside the files, of
// which this one's frames end at byte end.
func (x *Index) validate(end int64) error {
	var at int64
	for i, f := range x.Frames {
		limit := end
		switch {
		case f.File < 0 || f.File > len(x.Header.Files):
			return fmt.Errorf("frame %d lies in a file that is not named", i)
		case f.File > 0:
			limit = x.Header.Files[f.File-1].Size
		case f.Offset != at:
			return fmt.Errorf("frame %d does not follow the one before it", i)
		default:
			at += f.Length
		}
		if f.Offset < 0 || f.Length <= 0 || f.Size < 0 || f.Length > limit-f.Offset {
			return fmt.Errorf("frame %d lies outside the file", i)
		}
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
			for i, p := range g.Pieces {
				if i > 0 && p.Frame <= g.Pieces[i-1].Frame {
					return fmt.Errorf("pieces of a segment of table %s are not in order", t.Name)
				}
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
