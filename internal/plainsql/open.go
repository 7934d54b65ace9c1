package plainsql

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxWindow bounds the memory that a hostile zstd frame can ask for.
const maxWindow = 128 << 20

// others are what a script is not, by the first bytes.
var others = []struct {
	magic string
	what  string
	hint  string
}{
	{"PGDMP", "an archive of pg_dump in custom format", "turn it into a script: pg_restore -f backup.sql backup.dump"},
	{"\xff\xfe", "text in UTF-16, as PowerShell's > writes it", "make the dump again with pg_dump -f, or convert the file to UTF-8 without loss"},
	{"\xfe\xff", "text in UTF-16", "convert the file to UTF-8"},
	{"BZh", "compressed with bzip2", "decompress it first: bunzip2"},
	{"\xfd7zXZ\x00", "compressed with xz", "decompress it first: unxz"},
	{"\x04\x22\x4d\x18", "compressed with lz4", "decompress it first: unlz4"},
	{"PK\x03\x04", "a zip archive", "unpack it first"},
	{"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"},
	{"age-encryption.org/", "encrypted with age", "decrypt it first: age -d"},
	{"toc.dat", "an archive of pg_dump in tar format", "turn it into a script: pg_restore -f backup.sql backup.tar"},
}

// Script is a Reader of a script that may be compressed.
type Script struct {
	*Reader

	close func()
}

// Open reads a script that is plain or compressed with gzip or zstd, in one
// member or frame or many. A file that is something else is a *NotSQLError. The
// caller closes both the Script and the source.
func Open(source io.Reader, opts ReaderOptions) (*Script, error) {
	buffered := bufio.NewReaderSize(source, readSize)
	head, err := buffered.Peek(32)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read script: %w", err)
	}
	for _, other := range others {
		if bytes.HasPrefix(head, []byte(other.magic)) {
			return nil, &NotSQLError{What: other.what, Remedy: other.hint}
		}
	}
	switch {
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		decoder, err := zstd.NewReader(buffered, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, fmt.Errorf("decompress script: %w", err)
		}
		return newScript(&decompressed{decoder}, opts, decoder.Close)
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		decoder, err := gzip.NewReader(buffered)
		if err != nil {
			return nil, fmt.Errorf("decompress script: %w", err)
		}
		return newScript(&decompressed{decoder}, opts, func() { _ = decoder.Close() }) // it holds nothing
	}
	return newScript(buffered, opts, func() {})
}

func newScript(source io.Reader, opts ReaderOptions, closer func()) (*Script, error) {
	inner := bufio.NewReaderSize(source, 64)
	head, _ := inner.Peek(16) // an error comes again when the script is read
	for _, other := range others {
		if bytes.HasPrefix(head, []byte(other.magic)) {
			closer()
			return nil, &NotSQLError{What: other.what, Remedy: other.hint}
		}
	}
	return &Script{NewReader(inner, opts), closer}, nil
}

// Close gives back what decompression holds.
func (s *Script) Close() { s.close() }

// decompressed says of errors that they are those of the file.
type decompressed struct{ r io.Reader }

func (d *decompressed) Read(p []byte) (int, error) {
	n, err := d.r.Read(p)
	switch {
	case err == nil || errors.Is(err, io.EOF):
		return n, err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return n, &CutError{What: "the compressed file ends in the middle"}
	}
	return n, fmt.Errorf("decompress script: %w", err)
}
