package datafile

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/rowsum"
)

var algorithms = []Compression{{Algorithm: Zstd}, {Algorithm: Zstd, Level: 9}, {Algorithm: Gzip}, {Algorithm: Gzip, Level: 1}, {Algorithm: None}}

// odd are names that must not leave the index's comment lines.
var odd = []string{"plain", "new\nline", "\r\n-- tenantkeep index 1\n", `"quo'ted"\`, "\u2028 é 🎉", strings.Repeat("x", 63), "<&>", "\x00"}

// write makes a data file, and returns it, its text and its index.
func write(t testing.TB, c Compression) (file, text []byte, x *Index) {
	t.Helper()
	var out bytes.Buffer
	w := NewWriter(&out, c)
	e, err := NewEncoder(c)
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	frame := func(kind FrameKind, parts ...string) int {
		e.Begin(kind)
		for _, p := range parts {
			all.WriteString(p)
			if _, err := e.Write([]byte(p)); err != nil {
				t.Fatal(err)
			}
		}
		n, err := w.Append(e)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	frame(HeaderFrame, "-- header\nSET x = 1;\n")
	pre := []string{"CREATE TABLE a ();\n", "CREATE TABLE b ();\n", "CREATE TABLE c ();\n"}
	n := frame(PreDataFrame, pre[0], "\n", pre[1], "-- between\n", pre[2], "\n")
	at := []int64{0, int64(len(pre[0]) + 1), int64(len(pre[0]) + 1 + len(pre[1]) + len("-- between\n"))}
	for i, sql := range pre {
		w.AddStatements(Statement{Frame: n, Offset: at[i], Length: int64(len(sql)), Kind: "TABLE", Tag: odd[i]})
	}
	for i, name := range odd {
		into := fmt.Sprintf("COPY t%d FROM stdin;\n", i)
		rows := strings.Repeat(fmt.Sprintf("%d\tsome row\n", i), 1+i*20_000)
		n := frame(DataFrame, into, rows, "\\.\n\n")
		var sum rowsum.Sum
		for line := range strings.Lines(rows) {
			sum.Add([]byte(line))
		}
		w.AddTable(manifest.Table{
			Name: name, Columns: []string{name, "b"}, Rows: sum.Rows, Bytes: sum.Bytes, Checksum: sum.Checksum(),
			Segments: []manifest.Segment{{Rows: sum.Rows, Bytes: sum.Bytes, Hash: "00", Pieces: []manifest.Piece{{Frame: n, Offset: int64(len(into)), Bytes: sum.Bytes, Rows: sum.Rows}}}},
		})
	}
	n = frame(PostDataFrame, "CREATE INDEX i ON a (x);\n\n")
	w.AddStatements(Statement{Frame: n, Length: int64(len("CREATE INDEX i ON a (x);\n")), Kind: "INDEX", Tag: "i", Table: "a"})
	if err := w.BeginStatements(e); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Append(e); err != nil {
		t.Fatal(err)
	}
	x, err = w.Close(e, Header{Schema: "new\nline", Tenant: "t", Requires: Requires{Roles: []string{"a\nb"}}})
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), all.Bytes(), x
}

// open reads all that the index and the list of statements say.
func open(b []byte) (*File, error) {
	f, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return nil, err
	}
	return f, f.ReadStatements()
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, c := range algorithms {
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			b, text, want := write(t, c)
			f, err := open(b)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, f.Index); diff != "" {
				t.Errorf("the index came back differently:\n%s", diff)
			}
			if f.Index.Header.Compression != c.String() || f.Index.Header.Format != IndexFormat {
				t.Errorf("header %+v", f.Index.Header)
			}
			var got []byte
			for i, x := range f.Index.Frames {
				frame, err := f.ReadFrame(i, nil)
				if err != nil {
					t.Fatal(err)
				}
				if x.Kind != StatementsFrame {
					got = append(got, frame...)
				}
			}
			if !bytes.Equal(got, text) {
				t.Error("the frames hold something else than was written")
			}
			if _, err := f.OpenFrame(len(f.Index.Frames)); err == nil {
				t.Error("there is a frame too many")
			}
		})
	}
}

// TestOrdinaryTools tests and decompresses files with the tools that users have.
func TestOrdinaryTools(t *testing.T) {
	t.Parallel()
	for _, c := range algorithms {
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			b, text, _ := write(t, c)
			script := b
			if c.Algorithm != None {
				run(t, b, string(c.Algorithm), "-q", "-t", "-")
				script = run(t, b, string(c.Algorithm), "-q", "-d", "-c", "-")
			}
			rest, ok := bytes.CutPrefix(script, text)
			if !ok {
				t.Fatal("the script does not begin with the frames")
			}
			for line := range strings.Lines(string(rest)) {
				if line != "\n" && !strings.HasPrefix(line, "-- ") {
					t.Errorf("the index has a line that is no comment: %q", line)
				}
			}
		})
	}
}

func run(t *testing.T, stdin []byte, program string, args ...string) []byte {
	t.Helper()
	cmd := exec.CommandContext(context.Background(), program, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", program, args, err, &stderr)
	}
	return out
}

// readAll reads everything that a file has.
func readAll(b []byte) error {
	f, err := open(b)
	if err != nil {
		return err
	}
	for i, fr := range f.Index.Frames {
		frame, err := f.ReadFrame(i, nil)
		if err != nil {
			return err
		}
		// Frames of rows have no hash of their own: their rows have.
		if fr.Kind != DataFrame {
			continue
		}
		for _, table := range f.Index.Tables {
			var sum rowsum.Sum
			for _, g := range table.Segments {
				for _, p := range g.Pieces {
					if p.Frame != i {
						continue
					}
					for line := range strings.Lines(string(frame[p.Offset : p.Offset+p.Bytes])) {
						sum.Add([]byte(line))
					}
					if sum.Checksum() != table.Checksum {
						return fmt.Errorf("checksum of %s", table.Name)
					}
				}
			}
		}
	}
	return nil
}

func TestDamage(t *testing.T) {
	t.Parallel()
	for _, c := range []Compression{{Algorithm: Zstd}, {Algorithm: Gzip, Level: 1}, {Algorithm: None}} {
		t.Run(c.String(), func(t *testing.T) {
			t.Parallel()
			whole, _, x := write(t, c)
			if err := readAll(whole); err != nil {
				t.Fatal(err)
			}
			for cut := 1; cut < len(whole); cut += 1 + len(whole)/97 {
				if _, err := open(whole[:len(whole)-cut]); err == nil {
					t.Errorf("a file without its last %d bytes is accepted", cut)
				} else if cut < 100 && !strings.Contains(err.Error(), "cut short") {
					t.Errorf("without the last %d bytes: %v", cut, err)
				}
			}
			indexAt := x.Frames[len(x.Frames)-1].Offset + x.Frames[len(x.Frames)-1].Length
			for at := indexAt; at < int64(len(whole)); at++ {
				b := bytes.Clone(whole)
				b[at] ^= 0x20
				f, err := open(b)
				// What still reads must say the same. (Letters of the plain index
				// can be another case, which only the hash of the file tells.)
				if err == nil && c.Algorithm != None && !cmp.Equal(f.Index, x) {
					t.Errorf("byte %d of the index is flipped, and it says something else", at)
				}
			}
			if c.Algorithm == None {
				return // nothing but hashes protects it
			}
			for at := int64(0); at < indexAt; at += 1 + indexAt/61 {
				b := bytes.Clone(whole)
				b[at] ^= 0x01
				if err := readAll(b); err == nil && !headerByte(c, x, at) {
					t.Errorf("byte %d is flipped, and nobody notices", at)
				}
			}
		})
	}
	for name, b := range map[string][]byte{
		"empty": nil, "short": []byte("x"), "text": []byte(strings.Repeat("CREATE TABLE x ();\n", 100)),
		"zstd only": append(bytes.Clone(zstdMagic), make([]byte, 300)...), "gzip only": append(bytes.Clone(gzipMagic), make([]byte, 300)...),
	} {
		if _, err := open(b); err == nil || !strings.Contains(err.Error(), "is none of tenantkeep") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// headerByte reports whether a byte is one of a gzip header that says nothing
// about the contents: time, flags, system.
func headerByte(c Compression, x *Index, at int64) bool {
	if c.Algorithm != Gzip {
		return false
	}
	for _, f := range x.Frames {
		if at >= f.Offset+3 && at < f.Offset+10 {
			return true
		}
	}
	return false
}

// TestLyingIndex has indexes that decompress well and say what is not so.
func TestLyingIndex(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(x *Index){
		"frame beyond the file":       func(x *Index) { x.Frames[1].Length = 1 << 40 },
		"negative length":             func(x *Index) { x.Frames[1].Length = -1 },
		"overflow":                    func(x *Index) { x.Frames[0].Length = 1<<63 - 1 },
		"gap":                         func(x *Index) { x.Frames[1].Offset++ },
		"frame missing":               func(x *Index) { x.Frames = x.Frames[:2] },
		"statement beyond its frame":  func(x *Index) { x.Statements[2].Length = 1 << 40 },
		"statement overflow":          func(x *Index) { x.Statements[2].Offset = 1<<63 - 1 },
		"statement of no frame":       func(x *Index) { x.Statements[2].Frame = 99 },
		"rows beyond their frame":     func(x *Index) { x.Tables[1].Segments[0].Pieces[0].Bytes = 1 << 40 },
		"rows before their frame":     func(x *Index) { x.Tables[1].Segments[0].Pieces[0].Offset = -1 },
		"rows that do not add up":     func(x *Index) { x.Tables[1].Rows++ },
		"segments that do not add up": func(x *Index) { x.Tables[1].Segments[0].Rows++; x.Tables[1].Rows++ },
		"newer format":                func(x *Index) { x.Header.Format = IndexFormat + 1 },
	} {
		for _, c := range []Compression{{Algorithm: Zstd}, {Algorithm: None}} {
			whole, _, x := write(t, c)
			var copied Index
			b, err := json.Marshal(x)
			if err != nil {
				t.Fatal(err)
			}
			if err := json.Unmarshal(b, &copied); err != nil {
				t.Fatal(err)
			}
			change(&copied)
			frames, err := withStatements(whole, &copied, c)
			if err != nil {
				t.Fatal(err)
			}
			lying, err := withIndex(frames, &copied, c)
			if err != nil {
				continue // the writer refuses it
			}
			if _, err := open(lying); err == nil {
				t.Errorf("%s, %s: accepted", name, c)
			}
		}
	}
	// Sizes can only be found out by reading.
	whole, _, x := write(t, Compression{Algorithm: Zstd})
	for _, wrong := range []int64{-1, 1, 1 << 40} {
		lying := *x
		lying.Frames = append([]Frame(nil), x.Frames...)
		lying.Frames[0].Size += wrong
		b, err := withIndex(whole[:x.Frames[len(x.Frames)-1].Offset+x.Frames[len(x.Frames)-1].Length], &lying, Compression{Algorithm: Zstd})
		if err != nil {
			t.Fatal(err)
		}
		f, err := open(b)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.ReadFrame(0, nil); err == nil || !strings.Contains(err.Error(), "frame 0") {
			t.Errorf("size wrong by %d: %v", wrong, err)
		}
	}
}

// TestFirstFormat reads a file whose index lists all statements itself.
func TestFirstFormat(t *testing.T) {
	t.Parallel()
	c := Compression{Algorithm: None}
	whole, _, want := write(t, c)
	want.Header.Format = 1
	statements := want.Frames[len(want.Frames)-1]
	want.Frames = want.Frames[:len(want.Frames)-1]
	var out bytes.Buffer
	l := newLineWriter(&out, indexTitle)
	l.put(line{Header: &want.Header})
	for i := range want.Frames {
		l.put(line{Frame: &want.Frames[i]})
	}
	l.statements(want.Statements, func(s Statement) (int, bool) { return s.Frame, true })
	for i := range want.Tables {
		l.put(line{Table: &want.Tables[i]})
	}
	if err := l.end(""); err != nil {
		t.Fatal(err)
	}
	index := strings.Replace(out.String(), fmt.Sprintf("%s%d\n", indexTitle, IndexFormat), indexTitle+"1\n", 1)
	file := append(bytes.Clone(whole[:statements.Offset]), index...)
	f, err := open(append(file, trailerFrame(c.Algorithm, statements.Offset, int64(len(index)))...))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, f.Index); diff != "" {
		t.Errorf("the index came back differently:\n%s", diff)
	}
}

// withStatements gives the frames of a file whose last one is the list of
// statements another such list, unless the index does not know it any more.
func withStatements(file []byte, x *Index, c Compression) ([]byte, error) {
	last := &x.Frames[len(x.Frames)-1]
	end := last.Offset + last.Length
	if last.Kind != StatementsFrame {
		return file[:end], nil
	}
	e, err := NewEncoder(c)
	if err != nil {
		return nil, err
	}
	e.Begin(StatementsFrame)
	if err := x.encodeStatements(e); err != nil {
		return nil, err
	}
	if err := e.finish(); err != nil {
		return nil, err
	}
	b := append(bytes.Clone(file[:last.Offset]), e.out.Bytes()...)
	last.Length, last.Size, last.Hash = int64(e.out.Len()), e.Size(), e.Digest()
	return b, nil
}

// withIndex puts another index behind frames.
func withIndex(frames []byte, x *Index, c Compression) ([]byte, error) {
	e, err := NewEncoder(c)
	if err != nil {
		return nil, err
	}
	e.Begin(indexFrame)
	if err := x.encode(e); err != nil {
		return nil, err
	}
	if err := e.finish(); err != nil {
		return nil, err
	}
	b := append(bytes.Clone(frames), e.out.Bytes()...)
	return append(b, trailerFrame(c.Algorithm, int64(len(frames)), int64(e.out.Len()))...), nil
}

// TestWriteFails: after a write that failed nothing follows.
func TestWriteFails(t *testing.T) {
	t.Parallel()
	c := Compression{Algorithm: Zstd}
	out := &limited{left: 30}
	w := NewWriter(out, c)
	e, err := NewEncoder(c)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		e.Begin(PreDataFrame)
		if _, err := e.Write([]byte("CREATE TABLE something_long (a integer, b text, c numeric);\n")); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Append(e); err == nil {
			t.Error("append worked")
		}
	}
	if _, err := w.Close(e, Header{}); err == nil {
		t.Error("close worked")
	}
	if out.calls != 1 {
		t.Errorf("%d writes, want none after the one that failed", out.calls)
	}
}

type limited struct{ left, calls int }

func (l *limited) Write(p []byte) (int, error) {
	l.calls++
	if len(p) > l.left {
		return l.left, io.ErrShortWrite
	}
	l.left -= len(p)
	return len(p), nil
}

func TestCompressionText(t *testing.T) {
	t.Parallel()
	for want, c := range map[string]Compression{"zstd": {Algorithm: Zstd}, "zstd:19": {Zstd, 19}, "gzip:9": {Gzip, 9}, "none": {Algorithm: None}} {
		if got := c.String(); got != want {
			t.Errorf("%+v is %s, want %s", c, got, want)
		}
	}
}

func FuzzOpen(f *testing.F) {
	for _, c := range algorithms {
		b, _, _ := write(f, c)
		f.Add(b)
		f.Add(b[len(b)/2:])
	}
	f.Add([]byte("-- tenantkeep end of file: index at 00000000000000000000 length 00000000000000000001\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		file, err := open(b)
		if err != nil {
			return
		}
		for i := range file.Index.Frames {
			_, _ = file.ReadFrame(i, nil)
		}
	})
}
