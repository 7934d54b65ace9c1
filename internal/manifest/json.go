package manifest

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// MaxSize is how many bytes of JSON Decode reads at most. A manifest takes
// about half a kilobyte for each schema.
const MaxSize = 256 << 20

// byteOrderMark is what some editors put before the text of a file.
const byteOrderMark = "\ufeff"

// FormatError says that a manifest was written by a newer tenantkeep.
type FormatError struct {
	Format int // what the manifest says of itself
}

// Error names both formats.
func (e *FormatError) Error() string {
	return fmt.Sprintf("manifest format %d is newer than this version of tenantkeep reads (%d)", e.Format, Format)
}

// Decode reads one manifest, of this system or the original one, and validates
// it. Fields that it does not know are ignored, since fields are only ever
// added; a newer format is a *FormatError.
func Decode(r io.Reader) (*Manifest, error) {
	m, b, err := decode(r)
	if err != nil {
		return nil, err
	}
	if err := checkDigest(b); err != nil {
		return nil, err
	}
	return m, nil
}

// DecodeChanged reads a manifest as Decode does, but for its digest: what it says
// may have been changed since, and is for the caller to check.
func DecodeChanged(r io.Reader) (*Manifest, error) {
	m, _, err := decode(r)
	return m, err
}

func decode(r io.Reader) (*Manifest, []byte, error) {
	var all bytes.Buffer
	if sized, ok := r.(interface{ Size() int64 }); ok && sized.Size() <= MaxSize {
		all.Grow(int(sized.Size()) + bytes.MinRead)
	}
	if _, err := all.ReadFrom(io.LimitReader(r, MaxSize+1)); err != nil {
		return nil, nil, fmt.Errorf("read manifest: %w", err)
	}
	b := all.Bytes()
	if len(b) > MaxSize {
		return nil, nil, fmt.Errorf("manifest is larger than %d MiB", MaxSize>>20)
	}
	b = bytes.TrimLeft(bytes.TrimPrefix(b, []byte(byteOrderMark)), " \t\r\n")
	switch {
	case len(b) == 0:
		return nil, nil, errors.New("manifest is empty")
	case b[0] != '{':
		return nil, nil, errors.New("manifest is not a JSON object")
	}

	// The number comes first: the fields of a newer format may have other types.
	var probe struct {
		Format int `json:"format"`
	}
	if err := unmarshal(b, &probe); err != nil {
		return nil, nil, err
	}
	if probe.Format > Format {
		return nil, nil, &FormatError{Format: probe.Format}
	}
	m := new(Manifest)
	if err := unmarshal(b, m); err != nil {
		return nil, nil, err
	}
	if err := m.Validate(); err != nil {
		return nil, nil, err
	}
	return m, b, nil
}

// ErrChanged says that a manifest can be read and is not as it was written.
var ErrChanged = errors.New("manifest was changed after it was written: its digest is that of another text")

// The digest of a manifest is the last of its fields and covers all text before
// its comma, so that it can be checked whatever fields a newer version adds.
const (
	digestLine = ",\n  \"digest\": \"sha256:%x\"\n}\n"
	textEnd    = "\n}\n"
)

var digestEnd = regexp.MustCompile(`,\n  "digest": "sha256:([0-9a-f]{64})"\n}\s*$`)

// checkDigest compares a manifest with its digest. One that has none passes: it
// was written by the original system or by an earlier version.
func checkDigest(b []byte) error {
	tail := max(0, len(b)-200)
	at := digestEnd.FindSubmatchIndex(b[tail:])
	if at == nil {
		return nil
	}
	sum := sha256.Sum256(b[:tail+at[0]])
	if hex.EncodeToString(sum[:]) != string(b[tail+at[2]:tail+at[3]]) {
		return ErrChanged
	}
	return nil
}

// unmarshal is json.Unmarshal with errors that say what is wrong with the file
// and where.
func unmarshal(b []byte, v any) error {
	err := json.Unmarshal(b, v)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		if syntax.Error() == "unexpected end of JSON input" {
			return fmt.Errorf("manifest is cut short after %d bytes: %w", len(b), err)
		}
		return fmt.Errorf("manifest is not JSON at byte %d: %w", syntax.Offset, err)
	}
	if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("manifest has a %s where %q should be a %s", wrong.Value, wrong.Field, wrong.Type)
	}
	if err != nil {
		return fmt.Errorf("read manifest: %w", err)
	}
	return nil
}

// Encode validates the manifest and writes it as indented JSON with its digest
// and a line feed at its end. What it needs of memory does not grow with the
// number of schemas.
func (m *Manifest) Encode(w io.Writer) error {
	if err := m.Validate(); err != nil {
		return err
	}
	sum := sha256.New()
	out := &limited{w: w, left: MaxSize}
	text := io.MultiWriter(out, sum)
	err := m.write(text)
	if err == nil {
		_, err = fmt.Fprintf(out, digestLine, sum.Sum(nil))
	}
	if errors.Is(err, errTooLarge) {
		return fmt.Errorf("manifest of %d schemas is larger than %d MiB", len(m.Schemas), MaxSize>>20)
	}
	if err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	return nil
}

// noSchemas is where the entries stand in a manifest without any. No string of
// JSON holds a line feed.
const noSchemas = "\n  \"schemas\": []"

// write writes what the digest is of: all but the end.
func (m *Manifest) write(w io.Writer) error {
	frame := *m
	frame.Schemas = []Schema{}
	text, err := indented(&frame, "")
	if err != nil {
		return err
	}
	before, after, found := bytes.Cut(bytes.TrimSuffix(text, []byte(textEnd)), []byte(noSchemas))
	if !found {
		return errors.New("it has no place for schemas")
	}
	if len(m.Schemas) == 0 {
		_, err = fmt.Fprintf(w, "%s%s%s", before, noSchemas, after)
		return err
	}
	separator := strings.TrimSuffix(noSchemas, "]") + "\n    "
	for i := range m.Schemas {
		entry, err := indented(&m.Schemas[i], "    ")
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(w, "%s%s%s", before, separator, bytes.TrimSuffix(entry, []byte("\n"))); err != nil {
			return err
		}
		before, separator = nil, ",\n    "
	}
	_, err = fmt.Fprintf(w, "\n  ]%s", after)
	return err
}

// indented is a value as JSON, the lines after the first behind a prefix, with a
// line feed at its end.
func indented(v any, prefix string) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent(prefix, "  ")
	err := enc.Encode(v)
	return b.Bytes(), err
}

var errTooLarge = errors.New("too large")

// limited writes so many bytes and no more.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, errTooLarge
	}
	return l.w.Write(p)
}
