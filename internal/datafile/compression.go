package datafile

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Algorithm is how the frames of a file are compressed.
type Algorithm string

// The algorithms. A file has one for all of its frames.
const (
	Zstd Algorithm = "zstd"
	Gzip Algorithm = "gzip"
	None Algorithm = "none"
)

// Compression is an algorithm and its level. Level 0 is the default of the
// algorithm: as zstd -1 and gzip -6 would do.
type Compression struct {
	Algorithm Algorithm
	Level     int
}

// String is the algorithm, and the level behind a colon unless it is the default:
// "zstd", "gzip:9".
func (c Compression) String() string {
	if c.Level == 0 {
		return string(c.Algorithm)
	}
	return fmt.Sprintf("%s:%d", c.Algorithm, c.Level)
}

// Ext is the file name extension of a data file, "sql" included.
func (c Compression) Ext() string { return ".sql" + c.Suffix() }

// Suffix is the extension by which the ordinary tools know the compression; none
// where there is none.
func (c Compression) Suffix() string {
	switch c.Algorithm {
	case Zstd:
		return ".zst"
	case Gzip:
		return ".gz"
	default:
		return ""
	}
}

// frameCompressor compresses one frame after another.
type frameCompressor interface {
	io.Writer
	Reset(w io.Writer)
	Close() error // ends the frame
}

// newFrameCompressor makes a compressor for frames of rows, or for the others:
// definitions are small and repeat themselves, so that a better default costs
// little there.
func newFrameCompressor(c Compression, rows bool) (frameCompressor, error) {
	switch c.Algorithm {
	case Zstd:
		level := zstd.SpeedFastest
		if !rows {
			level = zstd.SpeedDefault
		}
		if c.Level > 0 {
			level = zstd.EncoderLevelFromZstd(c.Level)
		}
		// One goroutine for each encoder: the workers are the parallelism,
		// and a frame is compressed while its rows arrive.
		return zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(true), zstd.WithLowerEncoderMem(true))
	case Gzip:
		level := c.Level
		if level == 0 {
			level = 6
		}
		return gzip.NewWriterLevel(nil, level)
	case None:
		return &plainFrame{}, nil
	default:
		return nil, fmt.Errorf("compression %q is not known", c.Algorithm)
	}
}

type plainFrame struct{ w io.Writer }

func (p *plainFrame) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p *plainFrame) Reset(w io.Writer)           { p.w = w }
func (p *plainFrame) Close() error                { return nil }

var (
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
	gzipMagic = []byte{0x1f, 0x8b}
)

// Detect tells from the first bytes of a file how it is compressed.
func Detect(head []byte) Algorithm {
	switch {
	case bytes.HasPrefix(head, zstdMagic):
		return Zstd
	case bytes.HasPrefix(head, gzipMagic):
		return Gzip
	default:
		return None
	}
}

// decompressor opens one frame for reading. maxWindow bounds the memory that a
// hostile frame can ask for.
const maxWindow = 128 << 20

// wholeDecoder is for frames of zstd that are decompressed in one piece. It may be
// used from several goroutines.
var wholeDecoder = sync.OnceValues(func() (*zstd.Decoder, error) {
	return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxWindow(maxWindow),
		zstd.WithDecoderMaxMemory(2*maxWhole), zstd.WithDecoderLowmem(true))
})

func decompressor(a Algorithm, r io.Reader) (io.ReadCloser, error) {
	switch a {
	case Zstd:
		d, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	case Gzip:
		return gzip.NewReader(r)
	default:
		return io.NopCloser(r), nil
	}
}
