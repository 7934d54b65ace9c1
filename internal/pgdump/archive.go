// Package pgdump gets the definitions of a database from pg_dump: it runs
// pg_dump for some schemas at an exported snapshot, reads the table of contents
// of the archive that it writes, and splits that into SQL statements by schema
// and section, in the order and the words of pg_restore.
//
// Terms: an archive is the output of pg_dump in its custom format; an entry is
// one object in the archive's table of contents (TOC); a statement is one step
// of a schema's script, made from an entry. What belongs where is decided by
// the fields of the entries, never by reading their SQL.
package pgdump

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Versions of the archive format that ReadArchive knows: 1.14 is written by
// PostgreSQL 12 to 15, 1.15 by 16, 1.16 by 17 and 18.
const (
	oldestFormat = 14
	// byteAlgorithm: one byte for the algorithm took the compression level's place.
	byteAlgorithm = 15
	// withRelkind: entries have a relkind, and large objects come in groups.
	withRelkind  = 16
	newestFormat = 16
)

// customFormat is the archive format of pg_dump -Fc among tar and others.
const customFormat = 1

// Limits against archives that lie about themselves. No PostgreSQL value is
// longer than a gigabyte, and a database has far fewer objects than that.
const (
	maxString       = 1 << 30
	maxEntries      = 1 << 26
	maxDependencies = 1 << 20
	// believedEntries is how many an archive may promise to have without proof.
	believedEntries = 1 << 17
)

// RelKindPartitioned is the RelKind of a partitioned table.
const RelKindPartitioned = 'p'

// Kinds of entries that are treated in a way of their own.
const (
	kindACL           = "ACL"
	kindComment       = "COMMENT"
	kindSecurityLabel = "SECURITY LABEL"
	kindDefaultACL    = "DEFAULT ACL"
	kindEventTrigger  = "EVENT TRIGGER"
	kindSchema        = "SCHEMA"
	kindExtension     = "EXTENSION"
	kindLargeObject   = "BLOB"
	kindLargeObjects  = "BLOB METADATA"
)

// Section is the part of a script that an entry belongs to.
type Section string

// The sections, in the order in which they are executed. SectionNone is that of
// comments, grants and labels, which go with the object they are on.
const (
	SectionNone Section = "none"
	PreData     Section = "pre-data"
	Data        Section = "data"
	PostData    Section = "post-data"
)

// Archive is the table of contents of an archive of pg_dump.
type Archive struct {
	FormatVersion string // "1.14"
	DatabaseName  string
	ServerVersion string // of the server that was dumped, as it names itself
	DumpVersion   string // of the pg_dump that wrote the archive, as it names itself
	Entries       []Entry
	// Warnings are for people: what pg_dump warned of, and what ReadArchive
	// had to mend.
	Warnings []string
}

// Entry is one object in an archive's table of contents, its fields as pg_dump
// wrote them but for column options that no other server accepts.
type Entry struct {
	DumpID        int
	CatalogTable  uint32 // OID of the system catalogue that has the object; 0 for grants, comments and other attributes
	CatalogOID    uint32 // OID of the object in it
	Tag           string // the name, unquoted; "table name" for what has its name within a table only
	Kind          string // "TABLE", "FK CONSTRAINT" and so on: what pg_dump calls desc
	Section       Section
	Definition    string // SQL, empty where there is none
	DropStatement string // SQL; empty for what is not dropped on its own
	Namespace     string // the schema, unquoted; empty for what is in none
	Tablespace    string // empty: the database's default, or not stored at all
	TableAM       string // table access method; empty where there is none
	RelKind       byte   // from format 1.16 on; 0 where the object is no relation
	Owner         string // unquoted; empty for what has none
	Dependencies  []int  // DumpIDs, some of which may be of objects that are not in the archive
}

// ReadArchive reads the table of contents from the beginning of an archive in
// custom format and leaves the data after it unread (r may have been read a
// little further). Archives of unknown versions are refused by name.
func ReadArchive(r io.Reader) (*Archive, error) {
	br, ok := r.(*bufio.Reader)
	if !ok {
		br = bufio.NewReaderSize(r, 64<<10)
	}
	ar := archiveReader{r: br, names: make(map[string]string)}
	archive, err := ar.read()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("read archive of pg_dump: %w", err)
	}
	archive.stripAttributeVersions()
	return archive, nil
}

// archiveReader decodes the primitive fields. After the first error every
// method returns zero values, and err has the reason.
type archiveReader struct {
	r       *bufio.Reader
	version int // minor version of the format, the major one being 1
	intSize int
	offSize int
	names   map[string]string // one copy of each kind, schema and owner
	err     error
}

func (ar *archiveReader) read() (*Archive, error) {
	archive := &Archive{}
	if err := ar.header(archive); err != nil {
		return nil, err
	}
	count := ar.int()
	if ar.err == nil && (count < 0 || count > maxEntries) {
		ar.fail("%d entries in the table of contents", count)
	}
	archive.Entries = make([]Entry, 0, max(min(count, believedEntries), 0))
	for i := 0; i < count && ar.err == nil; i++ {
		entry := ar.entry()
		if ar.err != nil {
			return nil, fmt.Errorf("entry %d of %d: %w", i+1, count, ar.err)
		}
		// STDSTRINGS has one of exactly two definitions.
		if entry.Kind == "STDSTRINGS" && strings.Contains(entry.Definition, "'off'") {
			return nil, errors.New("the session that wrote it had standard_conforming_strings = off; its definitions would be read wrongly under the default of on")
		}
		archive.Entries = append(archive.Entries, entry)
	}
	return archive, ar.err
}

func (ar *archiveReader) header(archive *Archive) error {
	const magic = "PGDMP"
	var start [len(magic) + 3]byte
	if _, err := io.ReadFull(ar.r, start[:]); err != nil {
		return err
	}
	if string(start[:len(magic)]) != magic {
		return errors.New("not an archive in the custom format of pg_dump")
	}
	major, minor := int(start[len(magic)]), int(start[len(magic)+1])
	archive.FormatVersion = fmt.Sprintf("%d.%d", major, minor)
	if major != 1 || minor < oldestFormat || minor > newestFormat {
		return fmt.Errorf("archive version %s is not known to this version of tenantkeep, which reads 1.%d to 1.%d", archive.FormatVersion, oldestFormat, newestFormat)
	}
	ar.version = minor

	ar.intSize, ar.offSize = int(ar.byte()), int(ar.byte())
	if ar.err == nil && (ar.intSize < 1 || ar.intSize > 8 || ar.offSize < 1 || ar.offSize > 8) {
		ar.fail("integers of %d bytes and offsets of %d bytes", ar.intSize, ar.offSize)
	}
	if format := ar.byte(); ar.err == nil && format != customFormat {
		ar.fail("archive format %d is not the custom format", format)
	}
	// How the data is compressed does not matter: the table of contents never is.
	if ar.version >= byteAlgorithm {
		ar.byte()
	} else {
		ar.int()
	}
	for range 7 { // the time of the dump in its local time zone, which is not stored
		ar.int()
	}
	archive.DatabaseName = ar.string()
	archive.ServerVersion = ar.string()
	archive.DumpVersion = ar.string()
	return ar.err
}

func (ar *archiveReader) entry() Entry {
	var e Entry
	e.DumpID = ar.int()
	if ar.err == nil && e.DumpID <= 0 {
		ar.fail("entry id %d", e.DumpID)
	}
	ar.int() // whether data follows
	e.CatalogTable = ar.oid()
	e.CatalogOID = ar.oid()
	e.Tag = ar.string()
	e.Kind = ar.name()
	e.Section = ar.section()
	e.Definition = ar.string()
	e.DropStatement = ar.string()
	ar.string() // the COPY command of data
	e.Namespace = ar.name()
	e.Tablespace = ar.name()
	e.TableAM = ar.name()
	if ar.version >= withRelkind {
		kind := ar.int()
		if ar.err == nil && (kind < 0 || kind > 127) {
			ar.fail("relkind %d", kind)
		}
		e.RelKind = byte(kind)
	}
	e.Owner = ar.name()
	ar.string() // WITH OIDS, gone since PostgreSQL 12
	e.Dependencies = ar.dependencies()
	ar.byte() // whether the offset of the data is known
	for range ar.offSize {
		ar.byte()
	}
	return e
}

func (ar *archiveReader) section() Section {
	switch code := ar.int(); code {
	case 1:
		return SectionNone
	case 2:
		return PreData
	case 3:
		return Data
	case 4:
		return PostData
	default:
		ar.fail("section %d", code)
		return ""
	}
}

func (ar *archiveReader) dependencies() []int {
	var ids []int
	for ar.err == nil {
		text, null := ar.nullString()
		if null || ar.err != nil {
			break
		}
		id, err := strconv.Atoi(text)
		if err != nil {
			ar.fail("dependency %q", text)
		}
		if len(ids) >= maxDependencies {
			ar.fail("more than %d dependencies", maxDependencies)
		}
		ids = append(ids, id)
	}
	return ids
}

// oid reads an object identifier, which the format has as decimal text.
func (ar *archiveReader) oid() uint32 {
	text := ar.string()
	if ar.err != nil {
		return 0
	}
	oid, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		ar.fail("object identifier %q", text)
	}
	return uint32(oid)
}

// name reads a string of which an archive has many copies.
func (ar *archiveReader) name() string {
	text := ar.string()
	if same, ok := ar.names[text]; ok {
		return same
	}
	ar.names[text] = text
	return text
}

func (ar *archiveReader) string() string {
	text, _ := ar.nullString()
	return text
}

func (ar *archiveReader) nullString() (text string, null bool) {
	length := ar.int()
	switch {
	case ar.err != nil:
		return "", false
	case length < 0:
		return "", true
	case length > maxString:
		ar.fail("a string of %d bytes", length)
		return "", false
	case length <= ar.r.Size():
		raw, err := ar.r.Peek(length)
		if err != nil {
			ar.err = err
			return "", false
		}
		text = string(raw)
		_, ar.err = ar.r.Discard(length)
		return text, false
	}
	// The buffer grows with the bytes that are really there, whatever the
	// length promises.
	var buf bytes.Buffer
	if _, err := io.CopyN(&buf, ar.r, int64(length)); err != nil {
		ar.err = err
		return "", false
	}
	return buf.String(), false
}

// int reads a sign byte and the absolute value, lowest byte first.
func (ar *archiveReader) int() int {
	sign := ar.byte()
	var value uint64
	for i := range ar.intSize {
		value |= uint64(ar.byte()) << (8 * i)
	}
	if ar.err != nil {
		return 0
	}
	if value > 1<<31 {
		ar.fail("number %d", value)
		return 0
	}
	if sign != 0 {
		return -int(value)
	}
	return int(value)
}

func (ar *archiveReader) byte() byte {
	if ar.err != nil {
		return 0
	}
	var b byte
	b, ar.err = ar.r.ReadByte()
	return b
}

func (ar *archiveReader) fail(format string, args ...any) {
	if ar.err == nil {
		ar.err = fmt.Errorf("damaged: "+format, args...)
	}
}
