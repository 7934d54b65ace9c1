package media

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// spool is a new temporary file.
func spool(t *testing.T) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "spool"))
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// What tar has packed comes back as it was, from whichever folder it was packed.
func TestImport(t *testing.T) {
	t.Parallel()
	root, dir := folder(t)
	zoo(t, dir)
	must(t, os.Link(filepath.Join(dir, "hard"), filepath.Join(dir, "-first"))) // before its file
	must(t, os.Link(filepath.Join(dir, "hard"), filepath.Join(dir, "zz")))
	old(t, dir)
	want := look(t, dir)
	above := filepath.Join(root.Name(), "app", "media")
	must(t, os.MkdirAll(above, 0o755))
	must(t, os.Rename(dir, filepath.Join(above, "acme")))
	for i, args := range [][]string{
		{"-cz", "-C", filepath.Join(above, "acme"), "."},
		{"-cz", "-C", above, "acme"},
		{"-c", "--format=gnu", "-C", root.Name(), "app"},
		{"-c", "--sort=name", "--zstd", "-C", root.Name(), "./app/media"},
	} {
		packed, err := exec.Command("tar", args...).Output()
		must(t, err)
		a, err := Import(t.Context(), bytes.NewReader(packed), []string{"acme", "media"}, spool(t), nil)
		must(t, err)
		if _, err := a.Check(t.Context(), PutOptions{}); err != nil {
			t.Fatal(err)
		}
		name := string(rune('a' + i))
		put, err := a.Put(t.Context(), root, name, PutOptions{})
		must(t, err)
		got := look(t, filepath.Join(root.Name(), name))
		for _, m := range []map[string]string{want, got} {
			for name, text := range m {
				m[name] = cutNanoseconds(text)
			}
		}
		if diff := cmp.Diff(want, got); diff != "" || put.Files != a.Files {
			t.Errorf("%q: %d of %d files, and what was put back differs (-was +is):\n%s", args, put.Files, a.Files, diff)
		}
	}
}

// cutNanoseconds cuts what gzip and tar know of a time to what both know.
func cutNanoseconds(text string) string {
	before, after, ok := strings.Cut(text, ".")
	if !ok || len(after) < 9 {
		return text
	}
	return before + after[9:]
}

func TestImportRefuses(t *testing.T) {
	t.Parallel()
	file := func(name string) tar.Header { return tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg} }
	for want, headers := range map[string][]tar.Header{
		"is absolute":                   {file("/etc/passwd")},
		"leads out of the folder":       {file("acme/../../x")},
		`"acme/a/../b": the name leads`: {file("acme/a/../b")},
		"in no folder":                  {{Name: "a", Linkname: "b", Typeflag: tar.TypeSymlink}, file("a/x")},
		"which is no file":              {{Name: "a", Linkname: "b", Typeflag: tar.TypeSymlink}, {Name: "z", Linkname: "a", Typeflag: tar.TypeLink}},
		"does not stand before":         {{Name: "a", Linkname: "b", Typeflag: tar.TypeLink}},
		`"h": the name leads`:           {{Name: "h", Linkname: "../../etc/passwd", Typeflag: tar.TypeLink}},
		"is not put back":               {{Name: "null", Typeflag: tar.TypeChar}},
		"leads out":                     {{Name: "a", Linkname: "../b", Typeflag: tar.TypeSymlink}},
		`"acme" and beside it`:          {file("media/acme/x"), file("media/globex/x")},
		"it is empty":                   {},
		"unexpected EOF":                {file("cut")},
	} {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		w := tar.NewWriter(z)
		for _, h := range headers {
			h.ModTime = time.Unix(1e9, 0)
			must(t, w.WriteHeader(&h))
		}
		must(t, errors.Join(w.Close(), z.Close()))
		if strings.Contains(want, "EOF") {
			b.Truncate(b.Len() / 2)
		}
		a, err := Import(t.Context(), &b, []string{"acme", "media"}, spool(t), nil)
		if err == nil {
			_, err = a.Check(t.Context(), PutOptions{})
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	// A tenant may have a folder of its own of that name.
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range []string{"docs/x", "media/y"} {
		h := file(name)
		must(t, w.WriteHeader(&h))
	}
	must(t, w.Close())
	if a, err := Import(t.Context(), &b, []string{"acme", "media"}, spool(t), nil); err != nil || a.Files != 2 {
		t.Errorf("a folder media of the tenant's own: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Import(ctx, strings.NewReader("x"), nil, spool(t), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
