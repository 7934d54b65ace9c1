package plainsql

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
)

// Scan reads a script to its end and says what is in it, as Check does, but
// needs no server and judges nothing. progress, which may be nil, is told how
// many more bytes and rows were read.
//
// Errors are those of Reader.Next, or about the context.
func Scan(ctx context.Context, script *Reader, progress func(bytes, rows int64)) (*Summary, error) {
	c := newChecker(nil, script, Options{Progress: progress})
	c.mere = true
	script.StandardStrings(true)
	if err := c.read(ctx); err != nil {
		return c.summary(), fmt.Errorf("scan script: %w", err)
	}
	c.progress(0)
	return c.summary(), nil
}

// The beginning of a script is so many statements and so many bytes at most.
const (
	beginningItems = 200
	beginningBytes = 1 << 20
)

// Begin reads the beginning of a script and says where it comes from, and the
// schema that it makes or of which it makes or fills the first table; empty: the
// beginning does not tell. What is wrong with a script ends its beginning.
func Begin(script *Reader) (Origin, string) {
	c := newChecker(nil, script, Options{})
	for range beginningItems {
		item, err := script.Next()
		if err != nil || c.rules.schema != "" || script.Offset() > beginningBytes {
			break
		}
		if item.Kind != Connect {
			c.look(item)
		}
	}
	return script.Origin(), c.rules.schema
}

// endBytes is how far from its end the last mark of a dump is looked for: people
// append a grant or two.
const endBytes = 64 << 10

// Ends reports whether the end of a script of pg_dump that is not compressed has
// the comment with which pg_dump ends.
func Ends(source io.ReaderAt, size int64) (bool, error) {
	tail := make([]byte, min(size, endBytes))
	if _, err := source.ReadAt(tail, size-int64(len(tail))); err != nil && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read end of script: %w", err)
	}
	return bytes.Contains(tail, []byte(markForms[0].last)), nil
}
