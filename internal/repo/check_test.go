package repo

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"golang.org/x/sync/errgroup"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
)

// memory is a file that is opened.
type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

func inMemory(b []byte) memory { return memory{bytes.NewReader(b)} }

var checked = &manifest.Manifest{Format: manifest.Format}

// check compares a file with an entry, and counts what it reads.
func check(t *testing.T, b []byte, e manifest.Schema) (read int64, err error) {
	t.Helper()
	var mu sync.Mutex
	err = NewChecker(2).data(t.Context(), inMemory(b), checked, e, func(n int64) {
		mu.Lock()
		defer mu.Unlock()
		read += n
	})
	return read, err
}

// entryFor is what a manifest would say of a file whose frames end at a byte.
func entryFor(b []byte, end int64) manifest.Schema {
	return manifest.Schema{Schema: "a", Tenant: "a", Filepath: "data/a.sql", Size: int64(len(b)), Hash: hashOf(b), IndexHash: hashOf(b[end:])}
}

func hashOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hashPrefix + hex.EncodeToString(sum[:])
}

// framed writes a file with a frame for each text, and returns its entry.
func framed(t *testing.T, a datafile.Algorithm, texts ...string) ([]byte, manifest.Schema, *datafile.Index) {
	t.Helper()
	c := datafile.Compression{Algorithm: a}
	var out bytes.Buffer
	w := datafile.NewWriter(&out, c)
	enc, err := datafile.NewEncoder(c)
	if err != nil {
		t.Fatal(err)
	}
	put := func(kind datafile.FrameKind, text string) {
		enc.Begin(kind)
		if _, err := io.WriteString(enc, text); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Append(enc); err != nil {
			t.Fatal(err)
		}
	}
	put(datafile.HeaderFrame, "-- header\n")
	put(datafile.PreDataFrame, "CREATE SCHEMA a;\n")
	for _, text := range texts {
		put(datafile.DataFrame, text)
	}
	if err := w.BeginStatements(enc); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Append(enc); err != nil {
		t.Fatal(err)
	}
	if w.IndexHash() != "" {
		t.Error("a file that is not complete has a hash of its index")
	}
	x, err := w.Close(enc, datafile.Header{Schema: "a"})
	if err != nil {
		t.Fatal(err)
	}
	e := entryFor(out.Bytes(), x.End())
	if w.IndexHash() != e.IndexHash {
		t.Errorf("the writer says that the index has the hash %s, it has %s", w.IndexHash(), e.IndexHash)
	}
	return out.Bytes(), e, x
}

// TestCheckEveryByte changes every byte of a file in its turn.
func TestCheckEveryByte(t *testing.T) {
	t.Parallel()
	for _, a := range []datafile.Algorithm{datafile.Zstd, datafile.Gzip, datafile.None} {
		whole, e, _ := framed(t, a, "one\n", strings.Repeat("two\n", 20), "three\n")
		old := e
		old.IndexHash = ""
		for _, e := range []manifest.Schema{e, old} {
			if read, err := check(t, whole, e); err != nil || read != e.Size {
				t.Errorf("%s: a sound file: %v after %d of %d bytes", a, err, read, e.Size)
			}
			for at := range whole {
				b := bytes.Clone(whole)
				b[at] ^= 1 << (at % 8)
				_, err := check(t, b, e)
				if wrong, ok := errors.AsType[*DataError](err); !ok || !errors.Is(err, ErrHash) || wrong.Schema != "a" || wrong.Key != "data/a.sql" {
					t.Fatalf("%s: byte %d of %d is another one: %v", a, at, len(whole), err)
				}
			}
		}
	}
}

// TestCheckParts takes files apart and puts them together in other ways.
func TestCheckParts(t *testing.T) {
	t.Parallel()
	whole, e, x := framed(t, datafile.None, "one\n", "two\n", "three\n")
	swapped, fresh, _ := framed(t, datafile.None, "two\n", "one\n", "three\n")
	if _, err := check(t, swapped, fresh); err != nil || len(swapped) != len(whole) {
		t.Fatal(err)
	}
	one := x.Frames[2]
	plain := slices.Concat(whole[:one.Offset], []byte("two\none\n"), whole[one.Offset+8:])
	longer, shorter := append(bytes.Clone(whole), '\n'), whole[:len(whole)-1]
	sized := func(b []byte) manifest.Schema {
		as := e
		as.Size = int64(len(b))
		return as
	}
	for name, c := range map[string]struct {
		file  []byte
		entry manifest.Schema
		kind  error
		says  string
	}{
		"frames swapped":                     {plain, e, ErrHash, "does not have the contents that the index says"},
		"frames and index swapped":           {swapped, e, ErrHash, "sha256 of its index"},
		"byte appended":                      {longer, e, ErrSize, "the manifest says"},
		"byte appended, and a size to match": {longer, sized(longer), ErrHash, "the manifest says"},
		"byte cut":                           {shorter, e, ErrSize, "the manifest says"},
		"byte cut, and a size to match":      {shorter, sized(shorter), ErrHash, "the manifest says"},
		"empty, and a size to match":         {nil, sized(nil), ErrHash, "the manifest says"},
		"another file":                       {bytes.Repeat([]byte("x"), len(whole)), e, ErrHash, "the manifest says"},
	} {
		if _, err := check(t, c.file, c.entry); !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// forge gives a file that is not compressed other lines of its index, with the sum and
// the trailer that belong to them, and an entry that has the hashes of the result.
func forge(t *testing.T, file []byte, change func([]string) []string) ([]byte, manifest.Schema) {
	t.Helper()
	_, offset, length, err := datafile.ReadTrailer(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(file[offset:offset+length]), "\n")
	head, last := lines[:2], len(lines)-2 // an empty line and the title, the count
	lines = change(slices.Clone(lines[2:last]))
	sum := sha256.Sum256([]byte(strings.Join(lines, "")))
	index := strings.Join(head, "") + strings.Join(lines, "") + fmt.Sprintf("-- {\"count\":%d,\"sum\":\"%x\"}\n", len(lines), sum)
	b := append(bytes.Clone(file[:offset]), index...)
	b = append(b, datafile.Trailer(datafile.None, offset, int64(len(index)))...)
	return b, entryFor(b, offset)
}

// TestCheckForgedIndex has indexes that agree with their entries, and leave bytes of
// the file out.
func TestCheckForgedIndex(t *testing.T) {
	t.Parallel()
	whole, e, x := framed(t, datafile.None, "one\n", "two\n", "three\n")
	if b, same := forge(t, whole, func(lines []string) []string { return lines }); !bytes.Equal(b, whole) || same.Hash != e.Hash || same.IndexHash != e.IndexHash {
		t.Fatal("the forger does not write what the writer does")
	}
	const two = 4 // line of the frame
	replace := func(old, with string) func([]string) []string {
		return func(lines []string) []string {
			changed := strings.Replace(lines[two], old, with, 1)
			if changed == lines[two] {
				t.Fatalf("no %s in %s", old, lines[two])
			}
			lines[two] = changed
			return lines
		}
	}
	at := x.Frames[3].Offset
	offset := func(by int64) func([]string) []string {
		return replace(fmt.Sprintf(`"offset":%d`, at), fmt.Sprintf(`"offset":%d`, at+by))
	}
	for name, c := range map[string]struct {
		change func([]string) []string
		says   string
	}{
		"overlap":            {offset(-1), "does not follow the one before it"},
		"gap":                {offset(1), "does not follow the one before it"},
		"frame missing":      {func(l []string) []string { return slices.Delete(l, two, two+1) }, "does not follow the one before it"},
		"last frame missing": {func(l []string) []string { return slices.Delete(l, two+2, two+3) }, "the index begins at"},
		"frame twice":        {func(l []string) []string { return slices.Insert(l, two, l[two]) }, "does not follow the one before it"},
		"frames out of turn": {func(l []string) []string { l[two], l[two+1] = l[two+1], l[two]; return l }, "does not follow the one before it"},
		"shorter frame":      {replace(`"length":4`, `"length":3`), "does not follow the one before it"},
		"endless frame":      {replace(`"length":4`, `"length":9223372036854775807`), "lies outside the file"},
		"frame of no file":   {replace(`"kind":"data"`, `"kind":"data","file":1`), "lies in a file that is not named"},
		"frame without hash": {replace(`"stored":"`+x.Frames[3].Stored, `"stored":"`), ErrHash.Error()},
		"frame of elsewhere": {replace(`"stored":"`+x.Frames[3].Stored, `"stored":"`+x.Frames[4].Stored), ErrHash.Error()},
	} {
		b, entry := forge(t, whole, c.change)
		if _, err := check(t, b, entry); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCheckReferred damages a file that another one refers to.
func TestCheckReferred(t *testing.T) {
	t.Parallel()
	earlier, _, x := framed(t, datafile.None, "one\n", "two\n", "three\n")
	c := datafile.Compression{Algorithm: datafile.None}
	var out bytes.Buffer
	w := datafile.NewWriter(&out, c)
	enc, err := datafile.NewEncoder(c)
	if err != nil {
		t.Fatal(err)
	}
	w.Refer(datafile.FileRef{Key: "data/earlier.sql", Size: int64(len(earlier))}, x.Frames[3])
	if _, err := w.Close(enc, datafile.Header{Schema: "a"}); err != nil {
		t.Fatal(err)
	}
	f, err := datafile.Open(bytes.NewReader(out.Bytes()), int64(out.Len()))
	if err != nil {
		t.Fatal(err)
	}
	referred := func(file []byte) error {
		if err := f.Refer([]io.ReaderAt{bytes.NewReader(file)}); err != nil {
			t.Fatal(err)
		}
		return NewChecker(1).Referred(t.Context(), f)
	}
	if err := referred(earlier); err != nil {
		t.Errorf("a sound file: %v", err)
	}
	for frame, want := range map[int]error{2: nil, 3: ErrHash, 4: nil} { // what it does not need may be anything
		b := bytes.Clone(earlier)
		b[x.Frames[frame].Offset] ^= 1
		err := referred(b)
		if !errors.Is(err, want) || want != nil && !strings.Contains(err.Error(), "data/earlier.sql") {
			t.Errorf("frame %d: %v", frame, err)
		}
	}
	if err := referred(earlier[:x.Frames[3].Offset+1]); !errors.Is(err, ErrSize) {
		t.Errorf("cut: %v", err)
	}
}

// crowd is a file whose readers wait until it opens its gate.
type crowd struct {
	io.ReaderAt
	now  atomic.Int64
	gate chan struct{} // nil: it is open
}

func (c *crowd) ReadAt(p []byte, off int64) (int, error) {
	if c.gate != nil {
		c.now.Add(1)
		defer c.now.Add(-1)
		<-c.gate
	}
	return c.ReaderAt.ReadAt(p, off)
}

// TestCheckAtOnce counts who reads while one file, and two, are checked.
func TestCheckAtOnce(t *testing.T) {
	t.Parallel()
	whole, e, _ := framed(t, datafile.Zstd, strings.SplitAfter(strings.Repeat("rows\n", 30), "\n")...)
	for files := 1; files <= 2; files++ {
		synctest.Test(t, func(t *testing.T) {
			c, o := NewChecker(3), &crowd{ReaderAt: inMemory(whole)}
			var opened []*datafile.File
			for range files {
				f, err := datafile.Open(o, e.Size)
				if err != nil {
					t.Fatal(err)
				}
				opened = append(opened, f)
			}
			o.gate = make(chan struct{})
			var group errgroup.Group
			for _, f := range opened {
				group.Go(func() error { return c.Own(t.Context(), f, checked, e, nil) })
			}
			synctest.Wait()
			if n := o.now.Load(); n != 3 {
				t.Errorf("%d files: %d readers at once, want 3", files, n)
			}
			close(o.gate)
			if err := group.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestCheckCancelled gives up, while it reads and before.
func TestCheckCancelled(t *testing.T) {
	t.Parallel()
	whole, e, _ := framed(t, datafile.Zstd, "one\n", "two\n")
	stop := errors.New("stop")
	for after := range 4 { // pieces that were read
		ctx, cancel := context.WithCancelCause(t.Context())
		var pieces atomic.Int64
		read := func(int64) {
			if int(pieces.Add(1)) == after {
				cancel(stop)
			}
		}
		if after == 0 {
			cancel(stop)
		}
		if err := NewChecker(1).data(ctx, inMemory(whole), checked, e, read); !errors.Is(err, stop) {
			t.Errorf("cancelled after %d pieces: %v", after, err)
		}
		cancel(nil)
	}
}
