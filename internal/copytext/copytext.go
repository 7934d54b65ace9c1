// Package copytext reads values of rows in the text format of COPY, as a server
// writes it with its usual delimiter.
package copytext

import "bytes"

// Null is how a null is written. A value is never written so: its backslash would
// be escaped.
const Null = `\N`

// Unescape appends a field without the escapes that COPY writes to dst, and
// reports whether there was no other one.
func Unescape(dst, field []byte) (plain []byte, ok bool) {
	for {
		i := bytes.IndexByte(field, '\\')
		if i < 0 {
			return append(dst, field...), true
		}
		if i+1 == len(field) {
			return dst, false
		}
		dst = append(dst, field[:i]...)
		switch field[i+1] {
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'v':
			dst = append(dst, '\v')
		case '\\':
			dst = append(dst, '\\')
		default:
			return dst, false
		}
		field = field[i+2:]
	}
}
