package datafile

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Packer compresses frames of files that are no data files, but are made in the
// same way: frames that are compressed one by one, and at the end a trailer that
// says where the index is. It belongs to one goroutine.
type Packer struct {
	comp frameCompressor
	out  bytes.Buffer
}

// NewPacker makes a packer.
func NewPacker(c Compression) (*Packer, error) {
	comp, err := newFrameCompressor(c, true)
	if err != nil {
		return nil, err
	}
	return &Packer{comp: comp}, nil
}

// Pack returns the frame of some bytes, which is valid until the next call.
func (p *Packer) Pack(plain []byte) ([]byte, error) {
	p.out.Reset()
	p.comp.Reset(&p.out)
	if _, err := p.comp.Write(plain); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	if err := p.comp.Close(); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	return p.out.Bytes(), nil
}

// Unpack decompresses a frame that is to have size bytes, appending to buf[:0].
func Unpack(a Algorithm, packed []byte, size int64, buf []byte) ([]byte, error) {
	if size < 0 || size > maxWhole {
		return nil, fmt.Errorf("a frame of %d bytes is none", size)
	}
	if a == Zstd {
		d, err := wholeDecoder()
		if err != nil {
			return nil, err
		}
		out, err := d.DecodeAll(packed, buf[:0])
		if err == nil && int64(len(out)) != size || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
			err = fmt.Errorf("it has not the %d bytes that the index says", size)
		}
		return out, err
	}
	r, err := decompressor(a, bytes.NewReader(packed))
	if err != nil {
		return nil, err
	}
	defer r.Close() //nolint:errcheck // nothing was written
	out := bytes.NewBuffer(buf[:0])
	n, err := io.Copy(out, io.LimitReader(r, size+1))
	if err == nil && n != size {
		err = fmt.Errorf("it has not the %d bytes that the index says", size)
	}
	return out.Bytes(), err
}

// Trailer is the last frame of a file whose index lies at that place, right
// before it.
func Trailer(a Algorithm, offset, length int64) []byte { return trailerFrame(a, offset, length) }

// ReadTrailer finds the index of a file of size bytes, and tells how its frames
// are compressed.
func ReadTrailer(r io.ReaderAt, size int64) (a Algorithm, offset, length int64, err error) {
	head := make([]byte, 4)
	n, err := r.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", 0, 0, err
	}
	if n < len(head) {
		return "", 0, 0, errNoTrailer
	}
	a = Detect(head)
	offset, length, err = readTrailer(r, size, a)
	return a, offset, length, err
}

// Decompress reads frames as they come.
func Decompress(a Algorithm, r io.Reader) (io.ReadCloser, error) { return decompressor(a, r) }
