// Package datafile writes and reads data files: one schema's SQL in
// independently compressed frames, with an index in its last ones.
//
// Decompressed with the ordinary tool, a data file is one script for psql.
// With its index, frames can be read alone, in parallel and in any order. The
// format is described in docs/format.md.
package datafile

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"sync"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
)

// FrameTarget is the size, in bytes of SQL, at which a frame of rows is closed
// and another begun. It bounds memory, and it is the unit in which a restore
// reads.
const FrameTarget = 4 << 20

// Encoder builds one frame at a time in memory. Each worker has its own.
type Encoder struct {
	comp   frameCompressor // of the frame that was begun
	rows   frameCompressor
	others frameCompressor
	out    bytes.Buffer
	buf    []byte // gathers short writes: a compressor call costs more than a row
	held   []byte // what is not to be compressed yet
	holds  bool
	size   int64
	hash   hash.Hash
	hashed bool
	kind   FrameKind
}

// maxHeld is up to how many bytes an encoder holds: a frame, and the chunk of
// rows that ends it.
const maxHeld = FrameTarget + 256<<10

// NewEncoder makes an encoder for files of that compression.
func NewEncoder(c Compression) (*Encoder, error) {
	rows, err := newFrameCompressor(c, true)
	if err != nil {
		return nil, err
	}
	others, err := newFrameCompressor(c, false)
	if err != nil {
		return nil, err
	}
	return &Encoder{rows: rows, others: others, buf: make([]byte, 0, 64<<10), hash: sha256.New()}, nil
}

// Begin starts a frame, forgetting one that was not appended.
func (e *Encoder) Begin(kind FrameKind) {
	e.begin(kind)
	e.hashed = true
}

// BeginSegment starts a frame of rows that has no hash of its own: that of the
// segment is enough, and to hash a big table twice takes its time.
func (e *Encoder) BeginSegment() {
	e.begin(DataFrame)
	e.hashed = false
}

// Hold keeps what is written from now on as it is, so that it is compressed only
// when the frame is appended. A frame that grows big is compressed all the same.
func (e *Encoder) Hold() { e.holds = true }

func (e *Encoder) begin(kind FrameKind) {
	e.out.Reset()
	if e.out.Cap() > 4*FrameTarget { // one enormous row shall not stay in memory for good
		e.out = bytes.Buffer{}
	}
	e.comp = e.others
	if kind == DataFrame {
		e.comp = e.rows
	}
	e.comp.Reset(&e.out)
	e.buf, e.held, e.holds = e.buf[:0], e.held[:0], false
	e.size = 0
	e.kind = kind
	e.hash.Reset()
}

// Size is the number of bytes written since Begin.
func (e *Encoder) Size() int64 { return e.size }

// Write adds to the frame.
func (e *Encoder) Write(p []byte) (int, error) {
	e.size += int64(len(p))
	if e.hashed {
		e.hash.Write(p)
	}
	if e.holds {
		if len(e.held)+len(p) <= maxHeld {
			e.held = append(e.held, p...)
			return len(p), nil
		}
		if err := e.release(); err != nil {
			return 0, err
		}
	}
	if len(e.buf)+len(p) > cap(e.buf) {
		if err := e.flush(); err != nil {
			return 0, err
		}
		if len(p) >= cap(e.buf) {
			_, err := e.comp.Write(p)
			return len(p), err
		}
	}
	e.buf = append(e.buf, p...)
	return len(p), nil
}

func (e *Encoder) flush() error {
	if len(e.buf) == 0 {
		return nil
	}
	_, err := e.comp.Write(e.buf)
	e.buf = e.buf[:0]
	return err
}

// release compresses what was held.
func (e *Encoder) release() error {
	e.holds = false
	_, err := e.comp.Write(e.held)
	e.held = e.held[:0]
	return err
}

// Digest is the hash of what was written since Begin, as Frame.Hash has it.
func (e *Encoder) Digest() string { return hex.EncodeToString(e.hash.Sum(nil)) }

func (e *Encoder) finish() error {
	if e.holds {
		if err := e.release(); err != nil {
			return err
		}
	}
	if err := e.flush(); err != nil {
		return err
	}
	return e.comp.Close()
}

// Writer appends frames to one data file. Its methods may be called from
// several goroutines; frames stand in the order in which they were appended.
type Writer struct {
	compression Compression

	mu       sync.Mutex
	w        io.Writer
	at       int64
	index    Index
	referred map[referred]int // frames of earlier files, by their number here
	err      error            // of the first write that failed: nothing may follow it
	tail     hash.Hash        // of what Close wrote; nil before
}

// NewWriter begins a data file.
func NewWriter(w io.Writer, c Compression) *Writer {
	return &Writer{w: w, compression: c, referred: map[referred]int{}}
}

// Append ends the encoder's frame and writes it to the file. It returns the
// number of the frame.
func (w *Writer) Append(e *Encoder) (int, error) {
	if err := e.finish(); err != nil {
		return 0, fmt.Errorf("compress: %w", err)
	}
	f := Frame{Kind: e.kind, Size: e.size}
	if e.hashed {
		f.Hash = e.Digest()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.append(f, e.out.Bytes())
}

func (w *Writer) append(f Frame, b []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	if _, w.err = w.w.Write(b); w.err != nil {
		return 0, w.err
	}
	if f.Stored == "" {
		stored := sha256.Sum256(b)
		f.Stored = hex.EncodeToString(stored[:])
	}
	f.File, f.Offset, f.Length = 0, w.at, int64(len(b))
	w.at += f.Length
	w.index.Frames = append(w.index.Frames, f)
	return len(w.index.Frames) - 1, nil
}

// AppendStored writes a frame of another file of the same algorithm as it is
// stored there, and returns its number here. The caller has checked the bytes
// against f.Stored.
func (w *Writer) AppendStored(f Frame, stored []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.append(f, stored)
}

// Refer makes a frame of an earlier file one of this file's, without storing it
// again, and returns its number here. f is as that file's own index has it.
func (w *Writer) Refer(to FileRef, f Frame) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	place := referred{to.Key, f.Offset}
	if n, ok := w.referred[place]; ok {
		return n
	}
	n := slices.Index(w.index.Header.Files, to)
	if n < 0 {
		n = len(w.index.Header.Files)
		w.index.Header.Files = append(w.index.Header.Files, to)
	}
	f.File = n + 1
	w.index.Frames = append(w.index.Frames, f)
	n = len(w.index.Frames) - 1
	w.referred[place] = n
	return n
}

// referred is the place of a frame in an earlier file.
type referred struct {
	key    string
	offset int64
}

// AddStatements records statements for the index.
func (w *Writer) AddStatements(s ...Statement) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index.Statements = append(w.index.Statements, s...)
}

// AddTable records a table for the index.
func (w *Writer) AddTable(t manifest.Table) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index.Tables = append(w.index.Tables, t)
}

// BeginStatements puts the list of the statements of definitions into the
// encoder, as a frame that is to be appended or referred to. It comes when all
// frames of definitions are there; a file that takes its definitions over from
// another one takes over that one's list instead.
func (w *Writer) BeginStatements(e *Encoder) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	e.Begin(StatementsFrame)
	return w.index.encodeStatements(e)
}

// Close writes the index and the trailer, for which it uses the encoder, and
// returns the index. It leaves the underlying writer open.
func (w *Writer) Close(e *Encoder, h Header) (*Index, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	h.Format = IndexFormat
	h.Compression = w.compression.String()
	h.Files = w.index.Header.Files
	w.index.Header = h
	// The index must be readable with what it says: better no backup than
	// one that cannot be restored.
	listed := slices.ContainsFunc(w.index.Frames, func(f Frame) bool { return f.Kind == StatementsFrame })
	if !listed && len(w.index.definitionFrames()) > 0 {
		return nil, errors.New("write index: the statements of the definitions are not listed")
	}
	if err := w.index.validate(w.at); err != nil {
		return nil, fmt.Errorf("write index: %w", err)
	}
	e.Begin(indexFrame)
	if err := w.index.encode(e); err != nil {
		return nil, err
	}
	if err := e.finish(); err != nil {
		return nil, err
	}
	x := w.index
	offset, length := w.at, int64(e.out.Len())
	trailer := trailerFrame(w.compression.Algorithm, offset, length)
	if _, err := w.append(Frame{Kind: indexFrame}, e.out.Bytes()); err != nil {
		return nil, err
	}
	if _, err := w.append(Frame{Kind: endOfFileFrame}, trailer); err != nil {
		return nil, err
	}
	w.tail = sha256.New()
	w.tail.Write(e.out.Bytes())
	w.tail.Write(trailer)
	return &x, nil
}

// IndexHash is the hash of all that Close wrote, index and trailer, as
// manifest.Schema has it. Before Close it is empty.
func (w *Writer) IndexHash() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tail == nil {
		return ""
	}
	return "sha256:" + hex.EncodeToString(w.tail.Sum(nil))
}
