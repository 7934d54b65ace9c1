package datafile

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
)

// IndexFormat is the version of the index that this package writes. The first one,
// which is read too, lists all statements itself, instead of leaving those of
// the definitions to a frame of their own.
const IndexFormat = 2

// Index is the table of contents of a data file, kept in the file itself.
type Index struct {
	Header     Header
	Frames     []Frame
	Statements []Statement // of a file that was opened: once ReadStatements was called
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
	// Registration is the rows outside of the schema that make its tenant known to
	// the application; empty where nobody looked for any.
	Registration []manifest.RegistryTable `json:"registration,omitempty"`
	// Media is the hash, as in a manifest, of the archive of files that lies beside a
	// baseline; empty: there is none.
	Media string `json:"media,omitempty"`
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

// End is how many bytes of the file are frames that the index lists. Behind them
// are the index itself and the trailer.
func (x *Index) End() (end int64) {
	for _, f := range x.Frames {
		if f.File == 0 {
			end += f.Length
		}
	}
	return end
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
	GuardFrame    FrameKind = "guard" // keeps psql from loading a file that is no script by itself
	HeaderFrame   FrameKind = "header"
	PreDataFrame  FrameKind = "pre-data"
	DataFrame     FrameKind = "data"
	SequenceFrame FrameKind = "sequences"
	LargeObjects  FrameKind = "large-objects"
	PostDataFrame FrameKind = "post-data"
	// StatementsFrame lists the statements of the definitions, as comments. It is
	// the same for two files of the same definitions, and need not be read to be
	// taken over.
	StatementsFrame FrameKind = "statements"
	indexFrame      FrameKind = "index"
	endOfFileFrame  FrameKind = "end"
)

// isDefinitions reports whether frames of a kind hold definitions.
func (k FrameKind) isDefinitions() bool { return k == PreDataFrame || k == PostDataFrame }

// Frame is one independently compressed piece of a file.
type Frame struct {
	Kind   FrameKind `json:"kind"`
	File   int       `json:"file,omitempty"` // 0: this file; n: the n-th of Header.Files, counted from 1
	Offset int64     `json:"offset"`         // in its file
	Length int64     `json:"length"`         // in its file, compressed
	Size   int64     `json:"size"`           // decompressed
	Hash   string    `json:"hash,omitempty"` // sha256 of the decompressed bytes, hexadecimal; not for rows of big tables, whose segments have their own
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
	Sum       string          `json:"sum,omitempty"`   // last line of the index: sha256 of those lines, hexadecimal; older files have none
}

const (
	indexTitle      = "-- tenantkeep index "
	statementsTitle = "-- tenantkeep statements "
	linePrefix      = "-- "
	maxIndexRaw     = 1 << 30
)

// encode writes the index, without the statements of definitions.
func (x *Index) encode(w io.Writer) error {
	l := newLineWriter(w, indexTitle)
	l.put(line{Header: &x.Header})
	for i := range x.Frames {
		l.put(line{Frame: &x.Frames[i]})
	}
	definitions := x.definitionFrames()
	l.statements(x.Statements, func(s Statement) (int, bool) { return s.Frame, !slices.Contains(definitions, s.Frame) })
	for i := range x.Tables {
		l.put(line{Table: &x.Tables[i]})
	}
	return l.end(hex.EncodeToString(l.hash.Sum(nil)))
}

// encodeStatements writes the statements of definitions. Their frames are
// numbered among those of definitions, so that nothing else in the file has a
// part in what is written.
func (x *Index) encodeStatements(w io.Writer) error {
	definitions := x.definitionFrames()
	l := newLineWriter(w, statementsTitle)
	l.statements(x.Statements, func(s Statement) (int, bool) {
		n := slices.Index(definitions, s.Frame)
		return n, n >= 0
	})
	return l.end("") // its frame has a hash
}

// definitionFrames are the numbers of the frames that hold definitions.
func (x *Index) definitionFrames() (numbers []int) {
	for i, f := range x.Frames {
		if f.Kind.isDefinitions() {
			numbers = append(numbers, i)
		}
	}
	return numbers
}

// lineWriter writes lines of an index. Its first error is that of end.
type lineWriter struct {
	w     *bufio.Writer
	hash  hash.Hash
	count int
	err   error
}

func newLineWriter(w io.Writer, title string) *lineWriter {
	l := &lineWriter{w: bufio.NewWriter(w), hash: sha256.New()}
	_, l.err = fmt.Fprintf(l.w, "\n%s%d\n", title, IndexFormat)
	return l
}

func (w *lineWriter) put(l line) {
	if w.err != nil {
		return
	}
	text, err := json.Marshal(l) // escapes newlines: a name cannot leave its comment line
	if w.err = err; err == nil {
		w.count++
		_, w.err = fmt.Fprintf(io.MultiWriter(w.w, w.hash), "%s%s\n", linePrefix, text)
	}
}

// statements writes those that have a number for their frame.
func (w *lineWriter) statements(list []Statement, number func(Statement) (int, bool)) {
	var previous *Statement
	for i := range list {
		s := list[i]
		n, ok := number(s)
		if !ok {
			continue
		}
		switch expected := follows(previous, s.Frame); {
		case s.Offset == expected:
			s.Offset = 0
		case s.Offset == 0:
			w.err = cmp.Or(w.err, fmt.Errorf("statement %s %s overlaps the one before it", s.Kind, s.Tag))
		}
		s.Frame = n
		w.put(line{Statement: &s})
		previous = &list[i]
	}
}

// end writes the last line, with a hash of those before it.
func (w *lineWriter) end(sum string) error {
	n := w.count
	w.put(line{Count: &n, Sum: sum})
	return cmp.Or(w.err, w.w.Flush())
}

// readLines reads what a lineWriter wrote, and hands its lines to take.
func readLines(r io.Reader, title string, take func(line) error) error {
	in := bufio.NewReader(io.LimitReader(r, maxIndexRaw))
	titled, count, done := false, 0, false
	sum := sha256.New()
	for {
		text, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(text) == 0 {
			break
		}
		if err != nil {
			return fmt.Errorf("read index: %w", err)
		}
		if string(text) == "\n" {
			continue
		}
		if !titled {
			if err := checkTitle(text, title); err != nil {
				return err
			}
			titled = true
			continue
		}
		if done {
			return errors.New("index goes on after its last line")
		}
		var l line
		body, ok := bytes.CutPrefix(text, []byte(linePrefix))
		if !ok {
			return fmt.Errorf("line %d of the index is no comment", count+1)
		}
		if err := json.Unmarshal(body, &l); err != nil {
			return fmt.Errorf("line %d of the index: %w", count+1, err)
		}
		if l.Count != nil {
			if *l.Count != count {
				return fmt.Errorf("index has %d lines, its last one says %d", count, *l.Count)
			}
			if l.Sum != "" && l.Sum != hex.EncodeToString(sum.Sum(nil)) {
				return errors.New("index does not have the contents that its last line says")
			}
			// What hashes the other lines is as it was written, or is no such line.
			if again, err := json.Marshal(l); err != nil || string(again)+"\n" != string(body) {
				return errors.New("the last line of the index was changed")
			}
			done = true
		} else if err := take(l); err != nil {
			return err
		}
		sum.Write(text)
		count++
	}
	if !done {
		return errors.New("index is not complete")
	}
	return nil
}

// checkTitle checks the first line of an index: its title and its version.
func checkTitle(text []byte, title string) error {
	version, ok := bytes.CutPrefix(text, []byte(title))
	format, err := strconv.Atoi(strings.TrimSuffix(string(version), "\n"))
	if !ok || err != nil || format < 1 {
		return fmt.Errorf("index begins with %q, not with %q: this is no index", clip(text), title)
	}
	return checkFormat(format)
}

func checkFormat(format int) error {
	if format < 1 || format > IndexFormat {
		return fmt.Errorf("index format %d is not known to this version, which reads up to %d: a newer tenantkeep wrote it", format, IndexFormat)
	}
	return nil
}

// place completes a statement as it was read, which follows another one.
func (s *Statement) place(list []Statement) {
	if s.Offset == 0 {
		var previous *Statement
		if n := len(list); n > 0 {
			previous = &list[n-1]
		}
		s.Offset = follows(previous, s.Frame)
	}
}

func decodeIndex(r io.Reader) (*Index, error) {
	x := &Index{}
	err := readLines(r, indexTitle, func(l line) error {
		switch {
		case l.Header != nil:
			x.Header = *l.Header
		case l.Frame != nil:
			x.Frames = append(x.Frames, *l.Frame)
		case l.Statement != nil:
			l.Statement.place(x.Statements)
			x.Statements = append(x.Statements, *l.Statement)
		case l.Table != nil:
			x.Tables = append(x.Tables, *l.Table)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return x, checkFormat(x.Header.Format)
}

// addStatements puts the statements of definitions where they stand in the
// script: some before what the index lists, some behind.
func (x *Index) addStatements(r io.Reader) error {
	frames := x.definitionFrames()
	var listed []Statement
	err := readLines(r, statementsTitle, func(l line) error {
		if l.Statement == nil {
			return nil
		}
		if n := l.Statement.Frame; n < 0 || n >= len(frames) {
			return fmt.Errorf("statement %s %s lies in a frame that does not exist", l.Statement.Kind, l.Statement.Tag)
		}
		l.Statement.Frame = frames[l.Statement.Frame]
		l.Statement.place(listed)
		listed = append(listed, *l.Statement)
		return nil
	})
	if err != nil {
		return err
	}
	post := slices.IndexFunc(listed, func(s Statement) bool { return x.Frames[s.Frame].Kind == PostDataFrame })
	if post < 0 {
		post = len(listed)
	}
	x.Statements = slices.Concat(listed[:post], x.Statements, listed[post:])
	return x.validateStatements()
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
	if err := x.validateStatements(); err != nil {
		return err
	}
	for _, t := range x.Tables {
		var rows, size int64
		for _, g := range t.Segments {
			var segRows, segBytes int64
			for i, p := range g.Pieces {
				if i > 0 && p.Frame <= g.Pieces[i-1].Frame {
					return fmt.Errorf("pieces of a segment of table %s are not in order", t.Name)
				}
				if !x.inside(p.Frame, p.Offset, p.Bytes) || p.Rows < 0 {
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

func (x *Index) validateStatements() error {
	for _, s := range x.Statements {
		if !x.inside(s.Frame, s.Offset, s.Length) {
			return fmt.Errorf("statement %s %s lies outside its frame", s.Kind, s.Tag)
		}
	}
	return nil
}

// inside reports whether a frame holds so many bytes at an offset.
func (x *Index) inside(frame int, offset, length int64) bool {
	return frame >= 0 && frame < len(x.Frames) && offset >= 0 && length >= 0 &&
		length <= x.Frames[frame].Size && offset <= x.Frames[frame].Size-length
}

func clip(b []byte) string {
	if len(b) > 60 {
		b = b[:60]
	}
	return string(b)
}
