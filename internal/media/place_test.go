package media

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var moment = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)

// place is a root with a tenant, whose archive holds something else than its
// folder does now.
func place(t *testing.T) (*Root, *Archive) {
	t.Helper()
	root, dir := folder(t)
	write(t, dir, "file", "of the backup")
	s := save(t, root, nil, SaveOptions{})
	write(t, dir, "file", "of today")
	r, err := NewRoot(root.Name(), DefaultPattern, nil)
	must(t, err)
	return r, s.open(t)
}

// holds reads the file in a folder of a root; "-" is none.
func (r *Root) holds(name string) string {
	content, err := os.ReadFile(filepath.Join(r.dir, name, "file"))
	if err != nil {
		return "-"
	}
	return string(content)
}

// A move that is interrupted anywhere is completed by the next one who tries.
func TestPlaceAfterInterruption(t *testing.T) {
	t.Parallel()
	rename := func(from, to string) func(*testing.T, *Root, Move) {
		return func(t *testing.T, r *Root, m Move) {
			names := strings.NewReplacer("live", m.Folder, "in", m.Incoming, "out", m.Replaced)
			must(t, os.Rename(filepath.Join(r.dir, names.Replace(from)), filepath.Join(r.dir, names.Replace(to))))
		}
	}
	exchanged := func(t *testing.T, r *Root, m Move) {
		for _, step := range [][2]string{{"live", "x"}, {"in", "live"}, {"x", "in"}} {
			rename(step[0], step[1])(t, r, m)
		}
	}
	for name, before := range map[string][]func(*testing.T, *Root, Move){
		"at the beginning":                   {},
		"after the exchange":                 {exchanged},
		"between two renames":                {rename("live", "out")},
		"at the end":                         {rename("live", "out"), rename("in", "live")},
		"at the end, and somebody goes on":   {func(t *testing.T, r *Root, m Move) { must(t, r.Place(m)) }},
		"before it, and the folder was made": {rename("live", "out"), func(t *testing.T, r *Root, m Move) { must(t, os.Mkdir(filepath.Join(r.dir, m.Folder), 0o700)) }},
	} {
		r, a := place(t)
		s, err := r.Stage(t.Context(), Tenant{Schema: "live"}, a, moment, PutOptions{})
		must(t, err)
		must(t, s.Release())
		m, err := r.Aim(s.Move, moment)
		must(t, err)
		for _, step := range before {
			step(t, r, m)
		}
		if name == "before it, and the folder was made" { // what is there now is kept under the name of the first
			must(t, os.RemoveAll(filepath.Join(r.dir, m.Replaced)))
		}
		must(t, r.Place(m))
		if got := r.holds("live"); got != "of the backup" {
			t.Errorf("%s: the live folder holds %q", name, got)
		}
		if got := r.holds(m.Replaced); got != "of today" && name != "before it, and the folder was made" {
			t.Errorf("%s: the replaced folder holds %q", name, got)
		}
		if left, err := r.Left(); err != nil || len(left) != 1 || left[0].Kind != "replaced" || !left[0].At.Equal(moment) {
			t.Errorf("%s: left %+v, %v", name, left, err)
		}
	}
}

func TestRevert(t *testing.T) {
	t.Parallel()
	r, a := place(t)
	s, err := r.Stage(t.Context(), Tenant{Schema: "live"}, a, moment, PutOptions{})
	must(t, err)
	left, err := r.Left()
	if err != nil || len(left) != 1 || !left[0].AtWork {
		t.Errorf("while it is at work: %+v, %v", left, err)
	}
	m, err := r.Aim(s.Move, moment)
	must(t, err)
	must(t, r.Place(m))
	must(t, r.Revert(m))
	must(t, s.Discard())
	if r.holds("live") != "of today" {
		t.Errorf("the live folder holds %q", r.holds("live"))
	}
	if left, err := r.Left(); err != nil || len(left) != 0 {
		t.Errorf("left %+v, %v", left, err)
	}
}

func TestRemoveReadOnly(t *testing.T) {
	t.Parallel()
	r, _ := place(t)
	const name = "live__replaced_20261123_100000"
	write(t, r.dir, name+"/a/b/file", "x")
	must(t, os.Chmod(filepath.Join(r.dir, name, "a/b"), 0o500))
	must(t, os.Chmod(filepath.Join(r.dir, name, "a"), 0o500))
	must(t, r.Remove(name))
	if _, err := os.Lstat(filepath.Join(r.dir, name)); err == nil {
		t.Error("it is still there")
	}
	if err := r.Remove("live"); err == nil || r.holds("live") != "of today" {
		t.Errorf("a live folder was removed: %v", err)
	}
}

func TestFolders(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ pattern, schema, want string }{
		{"{schema}", "acme", "acme"},
		{"{schema}", "a.b %20", "a.b %20"},
		{"{schema}", "..", ""},
		{"{schema}", ".", ""},
		{"{schema}", "a/b", ""},
		{"{schema}", "a\x00b", ""},
		{"{schema}", strings.Repeat("x", 300), ""},
		{"tenants/{schema}/files", "..", ""},
		{"tenants/t_{schema}/files", "..", "tenants/t_../files"},
		{"{tenant}", "acme", "Acme"},
		{"{schema}", "moved", "else/where"},
	} {
		r, err := NewRoot("/nowhere", tt.pattern, map[string]string{"moved": "else/where"})
		must(t, err)
		got, err := r.Folder(Tenant{Schema: tt.schema, Name: "Acme"})
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s of %q: %q, %v", tt.pattern, tt.schema, got, err)
		}
	}
	for _, pattern := range []string{"", ".", "/x/{schema}", "../{schema}", "a//{schema}", "media", "{schema}/../x"} {
		if _, err := NewRoot("/nowhere", pattern, nil); err == nil {
			t.Errorf("the pattern %q is taken", pattern)
		}
	}
	r, err := NewRoot("/nowhere", "{schema}", map[string]string{"x": "acme/inner", "y": "acme"})
	must(t, err)
	if err := r.Check([]Tenant{{Schema: "acme"}, {Schema: "x"}}); err == nil || !strings.Contains(err.Error(), `of schema "x" is in that of "acme"`) {
		t.Errorf("a folder in another: %v", err)
	}
	if err := r.Check([]Tenant{{Schema: "acme"}, {Schema: "y"}}); err == nil || !strings.Contains(err.Error(), "the same media folder") {
		t.Errorf("one folder twice: %v", err)
	}
}

// What a label says is not believed where it is not about folders of a restore.
func TestForgedMoves(t *testing.T) {
	t.Parallel()
	r, _ := place(t)
	write(t, r.dir, "other/file", "of another")
	for _, m := range []Move{
		{Folder: "../live", Incoming: "../live__staging_20261123_100000"},
		{Folder: "live", Incoming: "other"},
		{Folder: "live", Incoming: "live__staging_20261123_100000/../../other"},
		{Folder: "live", Incoming: "other__staging_20261123_100000"},
		{Folder: ".", Incoming: "live__staging_20261123_100000"},
	} {
		if err := r.Place(m); err == nil {
			t.Errorf("%+v was done", m)
		}
	}
}

func TestShared(t *testing.T) {
	t.Parallel()
	r, _ := place(t)
	for _, name := range []string{"shared/logo", "acme/file", "acme__replaced_20261123_100000/file", "acme__staging_20261123_100000_2/file", "gone/file"} {
		write(t, r.dir, name, name)
	}
	tree, err := r.OpenShared(t.Context(), []Tenant{{Schema: "acme"}, {Schema: "live"}})
	must(t, err)
	defer tree.Close()
	var names []string
	must(t, tree.List(t.Context(), func(e Entry, err error) error {
		names = append(names, e.Name)
		return err
	}))
	if want := []string{".", "gone", "gone/file", "shared", "shared/logo"}; !slices.Equal(names, want) {
		t.Errorf("core has %q, not %q", names, want)
	}
}
