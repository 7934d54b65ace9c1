package datafile

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// File is a data file opened for reading. Frames may be read from several
// goroutines at once.
type File struct {
	sources []source // this file, then those of Header.Files
	Index   *Index
	stated  bool // the index has its statements
}

// source is where frames lie.
type source struct {
	r         io.ReaderAt
	algorithm Algorithm
}

// Open reads the index of a data file of size bytes, without the statements. It
// does not read the frames; what it cannot read is an error that says why.
func Open(r io.ReaderAt, size int64) (*File, error) {
	a, offset, length, err := ReadTrailer(r, size)
	if err != nil {
		return nil, err
	}
	d, err := decompressor(a, io.NewSectionReader(r, offset, length))
	if err != nil {
		return nil, fmt.Errorf("read index: %w", err)
	}
	defer d.Close() //nolint:errcheck // nothing was written
	x, err := decodeIndex(d)
	if err != nil {
		return nil, err
	}
	if err := x.validate(offset); err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	return &File{sources: []source{{r, a}}, Index: x}, nil
}

// Refer tells where to read the files of earlier backups that frames lie in, in
// the order of Header.Files. Before, only the file's own frames can be read. It
// does not read them, except for their first bytes.
func (f *File) Refer(earlier []io.ReaderAt) error {
	sources := f.sources[:1:1]
	for i, r := range earlier {
		head := make([]byte, 4)
		if _, err := r.ReadAt(head, 0); err != nil {
			return fmt.Errorf("read %s: %w", f.Index.Header.Files[i].Key, err)
		}
		sources = append(sources, source{r, Detect(head)})
	}
	f.sources = sources
	return nil
}

// ReadStatements completes Index.Statements. A file of which the statements lie in
// an earlier one must know where that is: see Refer.
func (f *File) ReadStatements() error {
	if f.stated {
		return nil
	}
	i := slices.IndexFunc(f.Index.Frames, func(fr Frame) bool { return fr.Kind == StatementsFrame })
	if i >= 0 {
		text, err := f.ReadFrame(i, nil)
		if err != nil {
			return err
		}
		if err := f.Index.addStatements(bytes.NewReader(text)); err != nil {
			return fmt.Errorf("statements: %w", err)
		}
	}
	f.stated = true
	return nil
}

// section is the stored bytes of a frame.
func (f *File) section(i int) (*io.SectionReader, Algorithm, error) {
	if i < 0 || i >= len(f.Index.Frames) {
		return nil, "", fmt.Errorf("frame %d does not exist", i)
	}
	fr := f.Index.Frames[i]
	if fr.File >= len(f.sources) {
		return nil, "", fmt.Errorf("frame %d lies in %s, which is not open", i, f.Index.Header.Files[fr.File-1].Key)
	}
	s := f.sources[fr.File]
	return io.NewSectionReader(s.r, fr.Offset, fr.Length), s.algorithm, nil
}

// StoredFrame reads a frame as it is stored, checks it, and tells how it is
// compressed.
func (f *File) StoredFrame(i int) ([]byte, Algorithm, error) {
	in, a, err := f.section(i)
	if err != nil {
		return nil, "", err
	}
	b := make([]byte, in.Size())
	if _, err := io.ReadFull(in, b); err != nil {
		return nil, "", fmt.Errorf("frame %d: %w", i, err)
	}
	if got := sha256.Sum256(b); hex.EncodeToString(got[:]) != f.Index.Frames[i].Stored {
		return nil, "", f.changed(i)
	}
	return b, a, nil
}

// hashBuffers are for what is read to be hashed.
var hashBuffers = sync.Pool{New: func() any {
	b := make([]byte, 1<<20)
	return &b
}}

// ErrChanged says that a frame is not what the index says.
var ErrChanged = errors.New("does not have the contents that the index says")

// CheckFrame reads a frame as it is stored and compares it with its hash. What is
// wrong with its contents is an error that matches ErrChanged.
func (f *File) CheckFrame(i int) error {
	in, _, err := f.section(i)
	if err != nil {
		return err
	}
	h := sha256.New()
	piece := hashBuffers.Get().(*[]byte)
	defer hashBuffers.Put(piece)
	if n, err := io.CopyBuffer(h, in, *piece); err != nil {
		return fmt.Errorf("frame %d: %w", i, err)
	} else if n != in.Size() {
		return fmt.Errorf("frame %d: %w", i, io.ErrUnexpectedEOF)
	}
	if hex.EncodeToString(h.Sum(nil)) != f.Index.Frames[i].Stored {
		return f.changed(i)
	}
	return nil
}

func (f *File) changed(i int) error {
	fr := f.Index.Frames[i]
	if fr.File > 0 {
		return fmt.Errorf("frame %d (%s) in %s %w", i, fr.Kind, f.Index.Header.Files[fr.File-1].Key, ErrChanged)
	}
	return fmt.Errorf("frame %d (%s) %w", i, fr.Kind, ErrChanged)
}

// OpenFrame opens a frame for reading from its first byte. The frame's length
// is checked as it is read: one that is longer or shorter than the index says
// ends in an error instead of io.EOF.
func (f *File) OpenFrame(i int) (io.ReadCloser, error) {
	in, a, err := f.section(i)
	if err != nil {
		return nil, err
	}
	d, err := decompressor(a, in)
	if err != nil {
		return nil, fmt.Errorf("frame %d: %w", i, err)
	}
	return &frameReader{ReadCloser: d, frame: i, left: f.Index.Frames[i].Size}, nil
}

// frameReader reports damage as errors that name the frame.
type frameReader struct {
	io.ReadCloser
	frame int
	left  int64
}

func (r *frameReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.left -= int64(n)
	switch {
	case r.left < 0:
		return n, fmt.Errorf("frame %d is longer than the index says", r.frame)
	case errors.Is(err, io.EOF) && r.left > 0:
		return n, fmt.Errorf("frame %d ends %d bytes early: %w", r.frame, r.left, io.ErrUnexpectedEOF)
	case err != nil && !errors.Is(err, io.EOF):
		return n, fmt.Errorf("frame %d: %w", r.frame, err)
	}
	return n, err
}

// ReadFrame decompresses a whole frame into memory, appending to buf[:0], and
// checks it against its hash where it has one.
func (f *File) ReadFrame(i int, buf []byte) ([]byte, error) {
	in, a, err := f.section(i)
	if err != nil {
		return nil, err
	}
	fr := f.Index.Frames[i]
	var data []byte
	if a == Zstd && fr.Size <= maxWhole && fr.Length <= maxWhole {
		data, err = f.whole(i, in, buf[:0])
	} else {
		data, err = f.stream(i, buf[:0])
	}
	if err != nil {
		return nil, err
	}
	if fr.Hash != "" {
		if got := sha256.Sum256(data); hex.EncodeToString(got[:]) != fr.Hash {
			return nil, f.changed(i)
		}
	}
	return data, nil
}

// maxWhole is up to how many bytes, compressed and not, a frame is decompressed
// in one piece, which takes less time than a stream.
const maxWhole = 16 << 20

// stream decompresses a frame into buf as its bytes come.
func (f *File) stream(i int, buf []byte) ([]byte, error) {
	r, err := f.OpenFrame(i)
	if err != nil {
		return nil, err
	}
	defer r.Close() //nolint:errcheck // nothing was written
	b := bytes.NewBuffer(buf)
	// The size is the index's word and may lie; what is allocated ahead is
	// bounded, the rest grows with what really comes.
	b.Grow(int(min(f.Index.Frames[i].Size+bytes.MinRead, maxWhole)))
	if _, err := b.ReadFrom(r); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// wholeBuffers are for frames as they are in the file.
var wholeBuffers = sync.Pool{New: func() any { return new([]byte) }}

// whole decompresses a frame of zstd into buf at once.
func (f *File) whole(i int, in *io.SectionReader, buf []byte) ([]byte, error) {
	d, err := wholeDecoder()
	if err != nil {
		return nil, err
	}
	fr := f.Index.Frames[i]
	packed := wholeBuffers.Get().(*[]byte)
	defer wholeBuffers.Put(packed)
	*packed = slices.Grow((*packed)[:0], int(fr.Length))[:fr.Length]
	if _, err := io.ReadFull(in, *packed); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("frame %d: %w", i, err)
	}
	data, err := d.DecodeAll(*packed, slices.Grow(buf, int(fr.Size)))
	switch {
	case int64(len(data)) > fr.Size, errors.Is(err, zstd.ErrDecoderSizeExceeded):
		return nil, fmt.Errorf("frame %d is longer than the index says", i)
	case err != nil:
		return nil, fmt.Errorf("frame %d: %w", i, err)
	case int64(len(data)) < fr.Size:
		return nil, fmt.Errorf("frame %d ends %d bytes early: %w", i, fr.Size-int64(len(data)), io.ErrUnexpectedEOF)
	}
	return data, nil
}
