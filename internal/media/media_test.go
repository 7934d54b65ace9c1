package media

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
)

var methods = []datafile.Algorithm{datafile.Zstd, datafile.Gzip, datafile.None}

// folder is a new folder below a root.
func folder(t *testing.T) (root *os.Root, dir string) {
	t.Helper()
	base := t.TempDir()
	root, err := os.OpenRoot(base)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	dir = filepath.Join(base, "live")
	must(t, os.Mkdir(dir, 0o750))
	return root, dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
	must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o640))
}

// old makes files look as if they were written to an hour ago.
func old(t *testing.T, dir string) {
	t.Helper()
	at := time.Now().Add(-time.Hour)
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type()&fs.ModeSymlink == 0 {
			err = os.Chtimes(path, at, at.Add(123456789))
		}
		return err
	}))
}

// stored is an archive in memory.
type stored struct {
	bytes.Buffer
	key string
	*Saved
}

// save saves the folder of a root, on top of an earlier archive.
func save(t *testing.T, root *os.Root, parent *Parent, o SaveOptions) *stored {
	t.Helper()
	tree, err := OpenFolder(root, "live")
	must(t, err)
	defer tree.Close()
	if o.Compression.Algorithm == "" {
		o.Compression.Algorithm = datafile.Zstd
	}
	s := &stored{}
	o.Parent = parent
	s.Saved, err = Save(t.Context(), tree, func() (io.Writer, error) { return &s.Buffer, nil }, o)
	must(t, err)
	return s
}

// open opens an archive with those that it refers to.
func (s *stored) open(t *testing.T, earlier ...*stored) *Archive {
	t.Helper()
	a, err := Open(bytes.NewReader(s.Bytes()), int64(s.Len()))
	must(t, err)
	var list []*Archive
	for _, ref := range a.References {
		i := slices.IndexFunc(earlier, func(e *stored) bool { return e.key == ref.Key })
		if i < 0 {
			t.Fatalf("it refers to %s", ref.Key)
		}
		e, err := Open(bytes.NewReader(earlier[i].Bytes()), int64(earlier[i].Len()))
		must(t, err)
		list = append(list, e)
	}
	must(t, a.Refer(list))
	return a
}

func (s *stored) parent(t *testing.T, key string, earlier ...*stored) *Parent {
	t.Helper()
	s.key = key
	sum := sha256.Sum256(s.Bytes())
	return &Parent{Archive: s.open(t, earlier...), Self: Reference{Key: key, Size: int64(s.Len()), Hash: "sha256:" + hex.EncodeToString(sum[:]), Stored: s.Stored}}
}

// look describes all that is in a directory, by name.
func look(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	inodes := map[uint64]string{}
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		text := fmt.Sprintf("%v %d:%d %d.%09d", info.Mode(), st.Uid, st.Gid, info.ModTime().Unix(), info.ModTime().Nanosecond())
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			to, _ := os.Readlink(path)
			text += " -> " + to
		case info.Mode().IsRegular():
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(content)
			text += fmt.Sprintf(" %d %x", info.Size(), sum[:4])
			if first, ok := inodes[st.Ino]; ok {
				text += " is " + first
			} else if st.Nlink > 1 {
				inodes[st.Ino] = name
			}
		}
		found[name] = text
		return nil
	}))
	return found
}

// zoo fills a folder with everything that files can be.
func zoo(t *testing.T, dir string) {
	t.Helper()
	write(t, dir, "a/b.txt", "hello")
	write(t, dir, "a.txt", "sorted behind what is in a, though a dot is before a slash")
	write(t, dir, "empty", "")
	write(t, dir, strings.Repeat("long name ", 20)+"/"+strings.Repeat("x", 200), "long")
	write(t, dir, "Füße 🦶\n\"quoted\" '\\ \t", "odd")
	write(t, dir, "latin1 \xe9\xff", "no UTF-8")
	write(t, dir, "-rf", "an option")
	write(t, dir, "big", strings.Repeat("0123456789abcdef", 200_000))
	must(t, os.Chmod(filepath.Join(dir, "-rf"), 0o4755|fs.ModeSetuid))
	must(t, os.MkdirAll(filepath.Join(dir, "empty folder"), 0o700))
	must(t, os.Symlink("../a.txt", filepath.Join(dir, "a/link")))
	must(t, os.Symlink("nowhere", filepath.Join(dir, "dangling")))
	must(t, os.Link(filepath.Join(dir, "a/b.txt"), filepath.Join(dir, "hard")))
	if os.Geteuid() == 0 {
		must(t, os.Lchown(filepath.Join(dir, "empty"), 12345, 54321))
	}
	f, err := os.Create(filepath.Join(dir, "sparse"))
	must(t, err)
	_, err = f.WriteAt([]byte("in the middle"), 40<<20)
	must(t, err)
	must(t, f.Truncate(64<<20))
	must(t, f.Close())
	old(t, dir)
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for _, method := range methods {
		t.Run(string(method), func(t *testing.T) {
			t.Parallel()
			root, dir := folder(t)
			zoo(t, dir)
			want := look(t, dir)
			s := save(t, root, nil, SaveOptions{Compression: datafile.Compression{Algorithm: method}})
			if s.Failures.Count+s.Warnings.Count != 0 {
				t.Errorf("problems: %v %v", s.Failures.List, s.Warnings.List)
			}
			if s.Len() > 8<<20 {
				t.Errorf("the archive of a sparse file has %d bytes", s.Len())
			}
			if _, err := s.open(t).Put(t.Context(), root, "back", PutOptions{}); err != nil {
				t.Fatal(err)
			}
			back := filepath.Join(root.Name(), "back")
			if diff := cmp.Diff(want, look(t, back)); diff != "" {
				t.Errorf("what was put back differs (-was +is):\n%s", diff)
			}
			var st unix.Stat_t
			must(t, unix.Stat(filepath.Join(back, "sparse"), &st))
			if st.Blocks*512 > 1<<20 {
				t.Errorf("the holes of the sparse file take %d bytes", st.Blocks*512)
			}

			// Without tenantkeep: tar alone.
			plain := filepath.Join(root.Name(), "plain")
			must(t, os.Mkdir(plain, 0o700))
			cmd := exec.Command("tar", "-x", "-p", map[datafile.Algorithm]string{datafile.Zstd: "--zstd", datafile.Gzip: "-z", datafile.None: "--no-same-permissions"}[method])
			cmd.Args = append(cmd.Args, "--same-permissions", "--numeric-owner")
			cmd.Dir, cmd.Stdin = plain, bytes.NewReader(s.Bytes())
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("tar: %v\n%s", err, out)
			}
			if diff := cmp.Diff(want, look(t, plain)); diff != "" {
				t.Errorf("what tar puts back differs (-was +is):\n%s", diff)
			}
			must(t, unix.Stat(filepath.Join(plain, "sparse"), &st))
			if st.Blocks*512 > 1<<20 {
				t.Errorf("tar fills the holes of the sparse file: %d bytes", st.Blocks*512)
			}
		})
	}
}

func TestIncremental(t *testing.T) {
	t.Parallel()
	root, dir := folder(t)
	zoo(t, dir)
	first := save(t, root, nil, SaveOptions{})
	same := save(t, root, first.parent(t, "first"), SaveOptions{})
	if !same.Unchanged || same.Len() != 0 {
		t.Fatalf("nothing changed, and the archive has %d bytes", same.Len())
	}

	write(t, dir, "a/b.txt", "HELLO") // of the same size
	at := time.Now().Add(-time.Hour)
	must(t, os.Chtimes(filepath.Join(dir, "a/b.txt"), at, at))
	must(t, os.Remove(filepath.Join(dir, "a.txt")))
	must(t, os.Rename(filepath.Join(dir, "empty"), filepath.Join(dir, "moved")))
	must(t, os.Chtimes(filepath.Join(dir, "big"), at, at)) // the same contents
	must(t, os.Chmod(filepath.Join(dir, "-rf"), 0o600))
	write(t, dir, "new", strings.Repeat("new", 500_000))
	old(t, filepath.Join(dir, "new"))
	want := look(t, dir)
	second := save(t, root, first.parent(t, "first"), SaveOptions{})
	if second.Stored > 1_600_000 || second.Files != 10 {
		t.Errorf("%d bytes of %d files are stored", second.Stored, second.Files)
	}
	a := second.open(t, first)
	if len(a.References) != 1 || a.References[0].Key != "first" {
		t.Errorf("it refers to %v", a.References)
	}
	if _, err := a.Put(t.Context(), root, "back", PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, look(t, filepath.Join(root.Name(), "back"))); diff != "" {
		t.Errorf("what was put back differs (-was +is):\n%s", diff)
	}

	// An earlier archive of which little is used any more is given up, once that
	// is known.
	must(t, os.Remove(filepath.Join(dir, "big")))
	third := save(t, root, second.parent(t, "second", first), SaveOptions{})
	keys := func(s *stored) (list []string) {
		for _, r := range s.References {
			list = append(list, r.Key)
		}
		slices.Sort(list)
		return list
	}
	if diff := cmp.Diff([]string{"first", "second"}, keys(third)); diff != "" {
		t.Errorf("the third refers to (-want +is):\n%s", diff)
	}
	write(t, dir, "more", strings.Repeat("more", 500_000))
	old(t, dir)
	fourth := save(t, root, third.parent(t, "third", first, second), SaveOptions{})
	if diff := cmp.Diff([]string{"second"}, keys(fourth)); diff != "" {
		t.Errorf("the fourth refers to (-want +is):\n%s", diff)
	}
	// And so it is where there are too many.
	write(t, dir, "more", "less")
	old(t, dir)
	fifth := save(t, root, fourth.parent(t, "fourth", second), SaveOptions{MaxReferences: 1})
	if diff := cmp.Diff([]string{"fourth"}, keys(fifth)); diff != "" {
		t.Errorf("the fifth refers to (-want +is):\n%s", diff)
	}
	want = look(t, dir)
	if _, err := fifth.open(t, fourth).Put(t.Context(), root, "fifth", PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, look(t, filepath.Join(root.Name(), "fifth"))); diff != "" {
		t.Errorf("what was put back differs (-was +is):\n%s", diff)
	}

	// Tar finds all of it in the archives that are left, links and empty folders
	// too, though they have not changed since the first one.
	plain := filepath.Join(root.Name(), "plain")
	must(t, os.Mkdir(plain, 0o700))
	for _, s := range []*stored{fourth, fifth} {
		cmd := exec.Command("tar", "-x", "-p", "--zstd", "--numeric-owner")
		cmd.Dir, cmd.Stdin = plain, bytes.NewReader(s.Bytes())
		out, err := cmd.CombinedOutput()
		if s == fourth && strings.Contains(string(out), "hard: Cannot hard link to") {
			continue // the file was in the second, and is in the fifth
		}
		if err != nil {
			t.Fatalf("tar: %v\n%s", err, out)
		}
	}
	got := look(t, plain)
	for name := range got {
		if _, ok := want[name]; !ok {
			delete(got, name) // it was deleted in between
		}
	}
	times := regexp.MustCompile(` [0-9]+\.[0-9]{9}`) // of files those of when they were stored
	for _, m := range []map[string]string{want, got} {
		for name, text := range m {
			m[name] = times.ReplaceAllString(text, "")
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what tar puts back differs (-was +is):\n%s", diff)
	}
}

// A program that ran as its owner must not run as whoever restores it.
func TestForeignOwner(t *testing.T) {
	t.Parallel()
	_, dir := folder(t)
	for owner, want := range map[int]fs.FileMode{os.Geteuid(): 0o755 | fs.ModeSetuid | fs.ModeSetgid, os.Geteuid() + 1: 0o755} {
		write(t, dir, "program", "")
		f, err := os.Open(filepath.Join(dir, "program"))
		must(t, err)
		p := &putter{}
		must(t, p.dress(f, &Entry{Name: "program", Kind: KindFile, Mode: 0o6755, UID: owner, GID: os.Getegid()}))
		info, err := f.Stat()
		must(t, errors.Join(err, f.Close()))
		if info.Mode() != want || (p.put.Warnings.Count > 0) != (owner != os.Geteuid()) {
			t.Errorf("of user %d: %v, want %v; %v", owner, info.Mode(), want, p.put.Warnings.List)
		}
	}
}

// What waits for a change that may not come is in memory, up to a limit.
func TestWaitingOutput(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	created := 0
	create := func() (io.Writer, error) { created++; return &b, nil }
	needed := false
	o, err := newOutput(create, datafile.Compression{Algorithm: datafile.None}, func() bool { return needed })
	must(t, err)
	must(t, o.zeros(mostWaiting-1))
	if created != 0 {
		t.Error("it does not wait")
	}
	must(t, o.zeros(2*frameSize))
	if created != 1 || b.Len() < mostWaiting {
		t.Errorf("created %d times, %d bytes are written", created, b.Len())
	}
	o, err = newOutput(create, datafile.Compression{Algorithm: datafile.None}, func() bool { return needed })
	must(t, err)
	b.Reset()
	must(t, o.zeros(frameSize))
	needed = true
	must(t, o.zeros(frameSize))
	if created != 2 || b.Len() != 2*frameSize || int64(b.Len()) != o.offset {
		t.Errorf("created %d times, %d bytes are written", created, b.Len())
	}
}

// busy is a folder in which something happens when a file is opened.
type busy struct {
	*Folder
	happen func(name string)
}

func (b *busy) Open(ctx context.Context, name string) (Content, error) {
	c, err := b.Folder.Open(ctx, name)
	if err == nil {
		c = &busyContent{c, func() { b.happen(name) }}
	}
	return c, err
}

type busyContent struct {
	Content
	happen func()
}

func (c *busyContent) ReadAt(p []byte, at int64) (int, error) {
	n, err := c.Content.ReadAt(p, at)
	c.happen()
	return n, err
}

func TestFilesThatChange(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1000, 1_000_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			root, dir := folder(t)
			for _, name := range []string{"always", "grows", "once", "replaced", "shrinks", "still", "vanishes"} {
				write(t, dir, name, strings.Repeat("a", size))
			}
			old(t, dir)
			times := map[string]int{}
			inner, err := OpenFolder(root, "live")
			must(t, err)
			defer inner.Close()
			tree := &busy{inner, func(name string) {
				path := filepath.Join(dir, name)
				times[name]++
				switch {
				case name == "always":
					must(t, os.WriteFile(path, bytes.Repeat([]byte{byte(times[name])}, size), 0o600))
				case times[name] > 1:
				case name == "grows":
					must(t, os.WriteFile(path, bytes.Repeat([]byte("b"), 2*size), 0o600))
				case name == "once":
					must(t, os.WriteFile(path, bytes.Repeat([]byte("b"), size), 0o600))
				case name == "replaced":
					must(t, os.WriteFile(path+".new", bytes.Repeat([]byte("b"), size), 0o600))
					must(t, os.Rename(path+".new", path))
				case name == "shrinks":
					must(t, os.Truncate(path, int64(size/2)))
				case name == "vanishes":
					must(t, os.Remove(path))
				}
			}}
			s := &stored{}
			s.Saved, err = Save(t.Context(), tree, func() (io.Writer, error) { return &s.Buffer, nil }, SaveOptions{Compression: datafile.Compression{Algorithm: datafile.Zstd}})
			must(t, err)
			var warned []string
			for _, w := range s.Warnings.List {
				warned = append(warned, w.Name)
			}
			if want := []string{"always", "vanishes"}; !slices.Equal(warned, want) || s.Failures.Count != 0 {
				t.Errorf("warned of %q, not %q; failures %v", warned, want, s.Failures.List)
			}
			if _, err := s.open(t).Put(t.Context(), root, "back", PutOptions{}); err != nil {
				t.Fatal(err)
			}
			for name, want := range map[string]string{
				"grows": strings.Repeat("b", 2*size), "once": strings.Repeat("b", size), "replaced": strings.Repeat("b", size),
				"shrinks": strings.Repeat("a", size/2), "still": strings.Repeat("a", size),
			} {
				got, err := os.ReadFile(filepath.Join(root.Name(), "back", name))
				if err != nil || string(got) != want {
					t.Errorf("%s has %d bytes that are not those that it has now: %v", name, len(got), err)
				}
			}
			if _, err := os.Lstat(filepath.Join(root.Name(), "back", "vanishes")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("what vanished came back: %v", err)
			}
			// tar takes the last of several members of one name.
			cmd := exec.Command("tar", "--zstd", "-xO", "grows")
			cmd.Stdin = bytes.NewReader(s.Bytes())
			out, err := cmd.Output()
			if err != nil || !bytes.HasSuffix(out, bytes.Repeat([]byte("b"), 2*size)) {
				t.Errorf("tar: %v, %d bytes", err, len(out))
			}
		})
	}
}

func TestNotFiles(t *testing.T) {
	t.Parallel()
	root, dir := folder(t)
	write(t, dir, "file", "x")
	must(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	must(t, os.Symlink("/etc/passwd", filepath.Join(dir, "absolute")))
	must(t, os.Symlink("x/../../live/file", filepath.Join(dir, "out")))
	s := save(t, root, nil, SaveOptions{})
	if s.Warnings.Count != 3 || !strings.Contains(fmt.Sprint(s.Warnings.List), `"pipe" is a named pipe, which is not saved`) {
		t.Errorf("warnings: %v", s.Warnings.List)
	}
	a := s.open(t)
	if _, err := a.Check(t.Context(), PutOptions{}); err == nil || !strings.Contains(err.Error(), `link "absolute" leads out of the folder, to "/etc/passwd"`) {
		t.Errorf("check: %v", err)
	}
	if _, err := a.Put(t.Context(), root, "back", PutOptions{}); err == nil {
		t.Error("a link that leads out was put back")
	}
	put, err := a.Put(t.Context(), root, "again", PutOptions{LeaveOutLinks: true})
	must(t, err)
	if put.Warnings.Count != 2 || put.Files != 1 || put.Links != 0 {
		t.Errorf("put %+v", put)
	}
}

// forged is an archive with an index of these entries.
func forged(t *testing.T, entries ...Entry) *Archive {
	t.Helper()
	var b bytes.Buffer
	o, err := newOutput(func() (io.Writer, error) { return &b, nil }, datafile.Compression{Algorithm: datafile.Zstd}, func() bool { return true })
	must(t, err)
	for _, e := range append([]Entry{{Name: Top, Kind: KindFolder, Mode: 0o700}}, entries...) {
		if e.Kind == KindFile && e.Hash == "" {
			e.Hash = hex.EncodeToString(sha256.New().Sum(nil))
		}
		must(t, o.list(&e))
	}
	must(t, o.finish(&Table{Format: Format}))
	a, err := Open(bytes.NewReader(b.Bytes()), int64(b.Len()))
	must(t, err)
	return a
}

func TestForgedArchives(t *testing.T) {
	t.Parallel()
	file := func(name string) Entry { return Entry{Name: name, Kind: KindFile} }
	for name, entries := range map[string][]Entry{
		"is absolute":                     {file("/etc/passwd")},
		"leads out of the folder":         {{Name: "a", Kind: KindFolder}, file("a/../../x")},
		"is not a plain path":             {file("a//b")},
		"holds a zero byte":               {file("a\x00b")},
		`it is a "device"`:                {{Name: "null", Kind: "device"}},
		"is in no folder":                 {{Name: "a", Kind: KindLink, Link: "b"}, file("a/x")},
		"does not stand where it belongs": {file("b"), file("a")},
		"does not stand before it":        {{Name: "a", Kind: KindHard, Link: "../../etc/passwd"}},
		"which is no file": {
			{Name: "a", Kind: KindFolder},
			{Name: "a/b", Kind: KindFolder},
			{Name: "a/b/l", Kind: KindLink, Link: "../../x"},
			{Name: "z", Kind: KindHard, Link: "a/b/l"},
		},
		`another name of "f/x", which is no file`: {
			{Name: "e", Kind: KindFolder}, {Name: "e/x", Kind: KindFile}, {Name: "f", Kind: KindLink, Link: "e"}, {Name: "z", Kind: KindHard, Link: "f/x"},
		},
		"are not within it":  {{Name: "a", Kind: KindFile, Size: 5, Extents: []Extent{{3, 4}}}},
		"not in the archive": {{Name: "a", Kind: KindFile, Size: 1 << 40}},
		"is not named":       {{Name: "a", Kind: KindFile, Archive: 1}},
	} {
		root, _ := folder(t)
		a := forged(t, entries...)
		if _, err := a.Check(t.Context(), PutOptions{}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := a.Put(t.Context(), root, "back", PutOptions{}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("put: %s: %v", name, err)
		}
	}
}

func TestDamage(t *testing.T) {
	t.Parallel()
	root, dir := folder(t)
	write(t, dir, "a", strings.Repeat("x", 100))
	s := save(t, root, nil, SaveOptions{Compression: datafile.Compression{Algorithm: datafile.None}})
	b := s.Bytes()
	b[bytes.IndexByte(b, 'x')] = 'y'
	i := bytes.Index(b, []byte("xxxx"))
	b[i] = 'y'
	if _, err := s.open(t).Put(t.Context(), root, "back", PutOptions{}); err == nil || !strings.Contains(err.Error(), `put "a" back: its contents in the archive have the SHA-256`) {
		t.Errorf("a damaged file was put back: %v", err)
	}
	for _, n := range []int{0, 3, 100, len(b) - 1} {
		if _, err := Open(bytes.NewReader(b[:n]), int64(n)); err == nil {
			t.Errorf("an archive that was cut at %d was opened", n)
		}
	}
}

func TestCompare(t *testing.T) {
	t.Parallel()
	order := []string{Top, "a", "a/b", "a/b/c", "a/b.txt", "a!", "a.txt", "ab", "b"}
	for i, x := range order {
		for j, y := range order {
			want := min(max(i-j, -1), 1)
			if got := Compare(x, y); got != want {
				t.Errorf("Compare(%q, %q) is %d", x, y, got)
			}
		}
	}
}
