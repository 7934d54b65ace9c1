package pgdump

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// archiveWriter writes archives as pg_dump does.
type archiveWriter struct {
	bytes.Buffer
	minor byte
}

func newArchive(minor byte) *archiveWriter {
	w := &archiveWriter{minor: minor}
	w.WriteString("PGDMP")
	w.Write([]byte{1, minor, 0, 4, 8, customFormat})
	if minor >= byteAlgorithm {
		w.WriteByte(1)
	} else {
		w.int(-1)
	}
	for _, part := range []int{59, 58, 23, 31, 11, 126, 0} {
		w.int(part)
	}
	w.string("db")
	w.string("15.18 (Debian)")
	w.string("15.18")
	return w
}

func (w *archiveWriter) int(n int) {
	sign := byte(0)
	if n < 0 {
		sign, n = 1, -n
	}
	w.Write([]byte{sign, byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)})
}

func (w *archiveWriter) string(s string) {
	w.int(len(s))
	w.WriteString(s)
}

// text writes NULL for an empty string.
func (w *archiveWriter) text(s string) {
	if s == "" {
		w.int(-1)
		return
	}
	w.string(s)
}

func (w *archiveWriter) entries(entries ...Entry) []byte {
	w.int(len(entries))
	for _, e := range entries {
		w.int(e.DumpID)
		w.int(0)
		w.string(strconv.FormatUint(uint64(e.CatalogTable), 10))
		w.string(strconv.FormatUint(uint64(e.CatalogOID), 10))
		w.string(e.Tag)
		w.string(e.Kind)
		w.int(map[Section]int{"": 1, SectionNone: 1, PreData: 2, Data: 3, PostData: 4}[e.Section])
		w.text(e.Definition)
		w.text(e.DropStatement)
		w.text("")
		w.text(e.Namespace)
		w.text(e.Tablespace)
		w.text(e.TableAM)
		if w.minor >= withRelkind {
			w.int(int(e.RelKind))
		}
		w.text(e.Owner)
		w.string("false")
		for _, id := range e.Dependencies {
			w.string(strconv.Itoa(id))
		}
		w.text("")
		w.WriteByte(3)
		w.Write(make([]byte, 8))
	}
	return w.Bytes()
}

func sample() []Entry {
	return []Entry{
		{DumpID: 1, Tag: "STDSTRINGS", Kind: "STDSTRINGS", Section: PreData, Definition: "SET standard_conforming_strings = 'on';\n"},
		{DumpID: 7, CatalogTable: 2615, CatalogOID: 4294967295, Tag: "s", Kind: "SCHEMA", Section: PreData, Definition: "CREATE SCHEMA s;\n", DropStatement: "DROP SCHEMA s;\n", Owner: "o"},
		{DumpID: 9, CatalogTable: 1259, CatalogOID: 20000, Tag: "t", Kind: "TABLE", Section: PreData, Definition: "CREATE TABLE s.t ();\n" + strings.Repeat(" ", 100_000), DropStatement: "DROP TABLE s.t;\n", Namespace: "s", Tablespace: "fast", TableAM: "heap", Owner: "o", Dependencies: []int{7, 99}},
		{DumpID: 12, Tag: "SCHEMA s", Kind: "ACL", Section: SectionNone, Definition: "GRANT USAGE ON SCHEMA s TO PUBLIC;\n", Owner: "o", Dependencies: []int{7}},
	}
}

func TestReadArchive(t *testing.T) {
	t.Parallel()
	for _, minor := range []byte{14, 15, 16} {
		want := sample()
		if minor >= withRelkind {
			want[2].RelKind = 'r'
		}
		raw := newArchive(minor).entries(want...)
		archive, err := ReadArchive(io.MultiReader(bytes.NewReader(raw), strings.NewReader("data")))
		if err != nil {
			t.Fatalf("1.%d: %v", minor, err)
		}
		if diff := cmp.Diff(&Archive{FormatVersion: "1." + strconv.Itoa(int(minor)), DatabaseName: "db", ServerVersion: "15.18 (Debian)", DumpVersion: "15.18", Entries: want}, archive); diff != "" {
			t.Errorf("1.%d: - want, + got:\n%s", minor, diff)
		}
		for cut := range len(raw) {
			if _, err := ReadArchive(bytes.NewReader(raw[:cut])); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("1.%d cut at %d of %d: got error %v", minor, cut, len(raw), err)
			}
			if cut > 500 {
				break // the rest is one long definition
			}
		}
	}
}

func TestReadArchiveRefuses(t *testing.T) {
	t.Parallel()
	patch := func(at int, with byte) []byte {
		raw := bytes.Clone(newArchive(14).entries(sample()...))
		raw[at] = with
		return raw
	}
	stdstrings := sample()[0]
	stdstrings.Definition = "SET standard_conforming_strings = 'off';\n"
	entries := func(count int) []byte {
		w := newArchive(14)
		w.int(count)
		return w.Bytes()
	}
	dependency := newArchive(16)
	dependency.entries(Entry{DumpID: 1, Kind: "TABLE", Dependencies: []int{12345}})
	tests := map[string]struct {
		raw  []byte
		want string
	}{
		"empty":             {nil, "unexpected EOF"},
		"plain SQL":         {[]byte("--\n-- PostgreSQL database dump\n--\n"), "not an archive"},
		"gzip":              {[]byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x00"), "not an archive"},
		"1.13":              {newArchive(13).entries(), "archive version 1.13 is not known"},
		"1.17":              {newArchive(17).entries(), "archive version 1.17 is not known"},
		"2.14":              {patch(5, 2), "archive version 2.14 is not known"},
		"integers of 0":     {patch(8, 0), "integers of 0 bytes"},
		"integers of 9":     {patch(8, 9), "integers of 9 bytes"},
		"offsets of 200":    {patch(9, 200), "offsets of 200 bytes"},
		"directory":         {patch(10, 5), "archive format 5"},
		"negative count":    {entries(-2), "damaged: -2 entries"},
		"too many":          {entries(maxEntries + 1), "entries in the table of contents"},
		"promised entries":  {entries(maxEntries), "unexpected EOF"},
		"entry 0":           {newArchive(15).entries(Entry{DumpID: 0}), "entry id 0"},
		"negative entry":    {newArchive(15).entries(Entry{DumpID: -4}), "entry id -4"},
		"odd strings":       {newArchive(14).entries(stdstrings), "standard_conforming_strings"},
		"odd dependency":    {bytes.Replace(dependency.Bytes(), []byte("12345"), []byte("1234x"), 1), `dependency "1234x"`},
		"odd identifier":    {bytes.Replace(newArchive(14).entries(sample()...), []byte("4294967295"), []byte("4294967296"), 1), `object identifier "4294967296"`},
		"impossible string": {append(newArchive(14).Bytes()[:51], 0, 1, 0, 0, 0x40), "a string of 1073741825 bytes"},
	}
	for name, test := range tests {
		_, err := ReadArchive(bytes.NewReader(test.raw))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: got error %v, want %q", name, err, test.want)
		}
	}
}

// TestLyingLengthAllocatesLittle reads a string that promises a gigabyte.
func TestLyingLengthAllocatesLittle(t *testing.T) {
	raw := append(bytes.Clone(newArchive(14).Bytes()[:51]), 0, 0, 0, 0, 0x40)
	raw = append(raw, "short"...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := ReadArchive(bytes.NewReader(raw))
	runtime.ReadMemStats(&after)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got error %v", err)
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 4<<20 {
		t.Errorf("%d bytes allocated for an archive of %d", used, len(raw))
	}
}

func FuzzReadArchive(f *testing.F) {
	small := sample()
	small[2].Definition = "CREATE TABLE s.t ();\nALTER TABLE ONLY s.t ALTER COLUMN c SET (pg_attver=1);\n"
	for _, minor := range []byte{14, 15, 16} {
		f.Add(newArchive(minor).entries(small...))
		f.Add(newArchive(minor).entries(
			Entry{DumpID: 1, Tag: "1..2", Kind: "BLOB METADATA", Section: Data, Definition: "1\n2\n", DropStatement: "-- dummy", Owner: "o"},
			Entry{DumpID: 2, Tag: "LARGE OBJECTS 1..2", Kind: "ACL", Definition: "GRANT ALL ON LARGE OBJECT 1 TO \"x;y\";\n", Dependencies: []int{1}},
			Entry{DumpID: 3, Tag: "a", Kind: "INDEX ATTACH", Section: PostData, Definition: "x", Dependencies: []int{3, 1}},
			Entry{DumpID: 4, Tag: "a", Kind: "COMMENT", Definition: "x", Dependencies: []int{4}},
		))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		archive, err := ReadArchive(bytes.NewReader(raw))
		if err != nil {
			return
		}
		bySchema, database := archive.Split()
		for schema, statements := range bySchema {
			if schema == "" {
				t.Error("a schema without a name")
			}
			database = append(database, statements...)
		}
		for _, s := range database {
			if s.SQL != "" && !strings.HasSuffix(s.SQL, ";\n") || s.Section != PreData && s.Section != PostData {
				t.Errorf("statement %+v", s)
			}
		}
	})
}
