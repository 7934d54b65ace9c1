package datafile

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// The trailer is the last frame of every data file. It is a comment line of
// fixed length, stored without compression, so that its place in the file is
// known and the index can be found without reading the rest.
const (
	trailerFormat = "-- tenantkeep end of file: index at %020d length %020d\n"
	trailerText   = len("-- tenantkeep end of file: index at 00000000000000000000 length 00000000000000000000\n")
)

// trailerSize is the length of the trailer frame, in bytes, by algorithm: the
// text and what a stored frame puts around it.
func trailerSize(a Algorithm) int64 {
	switch a {
	case Zstd:
		return int64(4 + 1 + 1 + 3 + trailerText)
	case Gzip:
		return int64(10 + 5 + trailerText + 8)
	default:
		return int64(trailerText)
	}
}

func trailerFrame(a Algorithm, offset, length int64) []byte {
	text := fmt.Appendf(nil, trailerFormat, offset, length)
	n := len(text)
	switch a {
	case Zstd: // RFC 8878: a single segment whose size is one byte, one raw block
		f := append([]byte{}, zstdMagic...)
		f = append(f, 0x20, byte(n))
		block := uint32(n)<<3 | 1 // raw block, the last one
		f = append(f, byte(block), byte(block>>8), byte(block>>16))
		return append(f, text...)
	case Gzip: // RFC 1952 around one stored block of RFC 1951
		f := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255, 1}
		f = binary.LittleEndian.AppendUint16(f, uint16(n))
		f = binary.LittleEndian.AppendUint16(f, ^uint16(n))
		f = append(f, text...)
		f = binary.LittleEndian.AppendUint32(f, crc32.ChecksumIEEE(text))
		return binary.LittleEndian.AppendUint32(f, uint32(n))
	default:
		return text
	}
}

var errNoTrailer = errors.New("no index at its end: the file is cut short or is none of tenantkeep")

// readTrailer finds the index frame of a file.
func readTrailer(r io.ReaderAt, size int64, a Algorithm) (offset, length int64, err error) {
	n := trailerSize(a)
	if size < n {
		return 0, 0, errNoTrailer
	}
	frame := make([]byte, n)
	if _, err := r.ReadAt(frame, size-n); err != nil && !errors.Is(err, io.EOF) {
		return 0, 0, err
	}
	text := frame
	switch a {
	case Zstd:
		text = frame[n-int64(trailerText):]
	case Gzip:
		text = frame[15 : 15+trailerText]
	}
	if _, err := fmt.Sscanf(string(text), trailerFormat, &offset, &length); err != nil {
		return 0, 0, errNoTrailer
	}
	if string(trailerFrame(a, offset, length)) != string(frame) {
		return 0, 0, errNoTrailer
	}
	if offset < 0 || length <= 0 || offset != size-n-length {
		return 0, 0, errors.New("the end of the file names an index that is not there")
	}
	return offset, length, nil
}
