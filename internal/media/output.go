package media

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
)

// output writes an archive: frames of the tar file, of the index, the table and
// the trailer. The index waits until the tar file is complete, in a temporary
// file where it is long.
type output struct {
	create    func() (io.Writer, error)
	needed    func() bool // whether there will be an archive; until then it waits
	w         io.Writer   // nil: nothing was written yet
	waiting   []byte
	packer    *datafile.Packer
	algorithm datafile.Algorithm

	at     int64 // how many bytes the tar file has
	offset int64 // how many bytes the archive has
	frame  []byte
	frames [][3]int64

	lines  []byte // of the index, not yet packed
	packed []byte // frames of the index
	spill  *os.File
	spilt  int64
	index  [][3]int64 // offsets are those among the frames of the index
}

// outputError is an error of writing an archive, which no file of the folder is
// to blame for.
type outputError struct{ err error }

func (e *outputError) Error() string { return e.err.Error() }
func (e *outputError) Unwrap() error { return e.err }

// IsWriting reports whether Save failed because the archive could not be written,
// rather than because of the folder.
func IsWriting(err error) bool {
	_, ok := errors.AsType[*outputError](err)
	return ok
}

func newOutput(create func() (io.Writer, error), c datafile.Compression, needed func() bool) (*output, error) {
	packer, err := datafile.NewPacker(c)
	if err != nil {
		return nil, err
	}
	return &output{create: create, needed: needed, packer: packer, algorithm: c.Algorithm, frame: make([]byte, 0, frameSize)}, nil
}

// Write adds to the tar file.
func (o *output) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		piece := p[:min(len(p), frameSize-len(o.frame))]
		o.frame = append(o.frame, piece...)
		o.at += int64(len(piece))
		n += len(piece)
		p = p[len(piece):]
		if len(o.frame) == frameSize {
			if err := o.flush(); err != nil {
				return n, err
			}
		}
	}
	return n, nil
}

// flush ends a frame of the tar file.
func (o *output) flush() error {
	if len(o.frame) == 0 {
		return nil
	}
	packed, err := o.packer.Pack(o.frame)
	if err != nil {
		return &outputError{err}
	}
	o.frames = append(o.frames, [3]int64{o.offset, int64(len(packed)), int64(len(o.frame))})
	o.frame = o.frame[:0]
	return o.put(packed)
}

// put writes to the archive, or keeps what may not be wanted while it is not much.
func (o *output) put(b []byte) error {
	o.offset += int64(len(b))
	if o.w == nil {
		if o.waiting = append(o.waiting, b...); !o.needed() && len(o.waiting) < mostWaiting {
			return nil
		}
		w, err := o.create()
		if err != nil {
			return &outputError{err}
		}
		o.w, b, o.waiting = w, o.waiting, nil
	}
	if _, err := o.w.Write(b); err != nil {
		return &outputError{err}
	}
	return nil
}

// member writes the header of an entry.
func (o *output) member(e *Entry) error {
	_, err := o.Write(header(e))
	return err
}

var someZeros [64 << 10]byte

func (o *output) zeros(n int64) error {
	for n > 0 {
		piece := someZeros[:min(n, int64(len(someZeros)))]
		if _, err := o.Write(piece); err != nil {
			return err
		}
		n -= int64(len(piece))
	}
	return nil
}

// list adds an entry to the index.
func (o *output) list(e *Entry) error {
	line, err := e.line()
	if err != nil {
		return &outputError{fmt.Errorf("index %q: %w", e.Name, err)}
	}
	if len(o.lines)+len(line) > frameSize {
		if err := o.packLines(); err != nil {
			return &outputError{err}
		}
	}
	o.lines = append(o.lines, line...)
	return nil
}

func (o *output) packLines() error {
	if len(o.lines) == 0 {
		return nil
	}
	packed, err := o.packer.Pack(o.lines)
	if err != nil {
		return err
	}
	o.index = append(o.index, [3]int64{o.spilt + int64(len(o.packed)), int64(len(packed)), int64(len(o.lines))})
	o.lines = o.lines[:0]
	o.packed = append(o.packed, packed...)
	if len(o.packed) < indexInMemory {
		return nil
	}
	if o.spill == nil {
		if o.spill, err = os.CreateTemp("", "tenantkeep-index-"); err != nil {
			return err
		}
		if err := os.Remove(o.spill.Name()); err != nil { // it lives as long as it is open
			return err
		}
	}
	if _, err := o.spill.Write(o.packed); err != nil {
		return err
	}
	o.spilt += int64(len(o.packed))
	o.packed = o.packed[:0]
	return nil
}

// finish ends the tar file and writes what follows it.
func (o *output) finish(t *Table) error {
	o.needed = func() bool { return true }
	if err := o.zeros(2 * block); err != nil {
		return err
	}
	if err := o.flush(); err != nil {
		return err
	}
	if err := o.packLines(); err != nil {
		return &outputError{err}
	}
	t.Frames = o.frames
	for _, f := range o.index {
		t.Index = append(t.Index, [3]int64{o.offset + f[0], f[1], f[2]})
	}
	if o.spill != nil {
		if _, err := o.spill.Seek(0, io.SeekStart); err != nil {
			return &outputError{err}
		}
		n, err := io.Copy(o.w, o.spill)
		o.offset += n
		if err != nil {
			return &outputError{err}
		}
	}
	if err := o.put(o.packed); err != nil {
		return err
	}
	text, err := json.Marshal(t)
	if err != nil {
		return &outputError{err}
	}
	table, err := o.packer.Pack(append(text, '\n'))
	if err != nil {
		return &outputError{err}
	}
	at, length := o.offset, int64(len(table))
	if err := o.put(table); err != nil {
		return err
	}
	return o.put(datafile.Trailer(o.algorithm, at, length))
}

func (o *output) close() error {
	if o.spill == nil {
		return nil
	}
	return o.spill.Close()
}
