// Package rowsum counts the rows of a table and gives its contents a checksum
// that does not depend on their order, so that a table can be compared with
// its backup although no two reads of it return the rows in the same order.
//
// A row is one line of COPY text. The checksum of a table is the sum of the
// 128-bit XXH3 hashes of its rows, each half modulo 2^64; equal rows count as
// often as they occur, which an exclusive or would not do.
package rowsum

import (
	"fmt"

	"github.com/zeebo/xxh3"
)

// Sum is the count and checksum of a set of rows. The zero value is that of no
// rows.
type Sum struct {
	Rows  int64
	Bytes int64 // of COPY text, newlines included
	hi    uint64
	lo    uint64
}

// Add counts one row: a line of COPY text with its newline.
func (s *Sum) Add(row []byte) {
	h := xxh3.Hash128(row)
	s.Rows++
	s.Bytes += int64(len(row))
	s.hi += h.Hi
	s.lo += h.Lo
}

// Merge adds the rows of another set.
func (s *Sum) Merge(o Sum) {
	s.Rows += o.Rows
	s.Bytes += o.Bytes
	s.hi += o.hi
	s.lo += o.lo
}

const checksumFormat = "xxh3-sum:%016x%016x"

// Checksum is the checksum as manifests and indexes write it.
func (s Sum) Checksum() string { return fmt.Sprintf(checksumFormat, s.hi, s.lo) }

// Parse makes the sum of rows that are known by their count, their bytes and
// their checksum.
func Parse(rows, bytes int64, checksum string) (Sum, error) {
	s := Sum{Rows: rows, Bytes: bytes}
	if _, err := fmt.Sscanf(checksum, checksumFormat, &s.hi, &s.lo); err != nil || s.Checksum() != checksum {
		return Sum{}, fmt.Errorf("%q is not a checksum of rows", checksum)
	}
	return s, nil
}
