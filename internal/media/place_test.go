package media

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var moment = time.Date(2026, 11, 23, 10, 0, 0, 0, time.UTC)

// somewhere is a root with a tenant, whose archive holds something else than its
// folder does now.
func somewhere(t *testing.T) (*Root, *Archive) {
	t.Helper()
	root, dir := folder(t)
	write(t, dir, "file", "of the backup")
	s := save(t, root, nil, SaveOptions{})
	write(t, dir, "file", "of today")
	r, err := NewRoot(root.Name(), DefaultPattern, nil)
	must(t, err)
	return r.Of("one"), s.open(t)
}

// stage puts the archive beside the folder, as a process that dies then.
func stage(t *testing.T, r *Root, a *Archive) *Move {
	t.Helper()
	m, _, err := r.Stage(t.Context(), Tenant{Schema: "live"}, a, moment, PutOptions{})
	must(t, err)
	must(t, m.Release())
	return m
}

// again is a move as another process finds it.
func again(t *testing.T, m *Move) *Move {
	t.Helper()
	found, err := m.root.Move(m.Name)
	must(t, err)
	return found
}

// holds reads the file in a folder of a root; "-" is none.
func (r *Root) holds(name string) string {
	content, err := os.ReadFile(filepath.Join(r.dir, name, "file"))
	if err != nil {
		return "-"
	}
	return string(content)
}

// names are what is in a root.
func (r *Root) names(t *testing.T) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(r.dir)
	must(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// A move that is interrupted anywhere is completed, or undone, by the next one who
// tries.
func TestMoveAfterInterruption(t *testing.T) {
	t.Parallel()
	rename := func(from, to string) func(*testing.T, *Move) {
		return func(t *testing.T, m *Move) {
			names := strings.NewReplacer("live", m.Folder, "in", m.Incoming, "out", m.Replaced)
			must(t, os.Rename(filepath.Join(m.root.dir, names.Replace(from)), filepath.Join(m.root.dir, names.Replace(to))))
		}
	}
	exchanged := func(t *testing.T, m *Move) {
		for _, step := range [][2]string{{"live", "x"}, {"in", "live"}, {"x", "in"}} {
			rename(step[0], step[1])(t, m)
		}
	}
	for name, before := range map[string][]func(*testing.T, *Move){
		"at the beginning":                 {},
		"after the exchange":               {exchanged},
		"between two renames":              {rename("live", "out")},
		"at the end":                       {rename("live", "out"), rename("in", "live")},
		"at the end, and somebody goes on": {func(t *testing.T, m *Move) { must(t, m.Place(moment)) }},
	} {
		for _, undo := range []bool{false, true} {
			r, a := somewhere(t)
			m := stage(t, r, a)
			must(t, m.Aim(moment, false))
			for _, step := range before {
				step(t, m)
			}
			m = again(t, m)
			if undo {
				must(t, m.Revert())
				must(t, m.Discard(moment))
				if got := r.holds("live"); got != "of today" || !slices.Equal(r.names(t), []string{"live"}) {
					t.Errorf("%s, undone: the live folder holds %q; there are %q", name, got, r.names(t))
				}
				continue
			}
			must(t, m.Place(moment))
			must(t, m.Done(moment))
			if got := r.holds("live"); got != "of the backup" {
				t.Errorf("%s: the live folder holds %q", name, got)
			}
			if got := r.holds(m.Replaced); got != "of today" {
				t.Errorf("%s: the replaced folder holds %q", name, got)
			}
			left, err := again(t, m).Left()
			if err != nil || left != (Left{Replaced: m.Replaced}) {
				t.Errorf("%s: left %+v, %v", name, left, err)
			}
			must(t, m.RemoveReplaced(moment))
			if names := r.names(t); !slices.Equal(names, []string{"live"}) {
				t.Errorf("%s: there are still %q", name, names)
			}
		}
	}
}

// Between two renames, where the system cannot exchange folders, the application
// makes the folder that it misses: what is in all three is kept.
func TestPlaceBesideNewFolder(t *testing.T) {
	t.Parallel()
	r, a := somewhere(t)
	m := stage(t, r, a)
	must(t, m.Aim(moment, false))
	must(t, os.Rename(filepath.Join(r.dir, "live"), filepath.Join(r.dir, m.Replaced)))
	write(t, r.dir, "live/file", "uploaded since")
	must(t, m.Place(moment))
	must(t, m.Done(moment))
	if r.holds("live") != "of the backup" || r.holds(m.Replaced) != "of today" || r.holds(m.Replaced+"_2") != "uploaded since" {
		t.Errorf("there are %q", r.names(t))
	}
	moves, err := r.Moves()
	must(t, err)
	if !slices.ContainsFunc(moves, func(o *Move) bool { return o.Replaced == m.Replaced+"_2" && !o.Placed.IsZero() }) {
		t.Error("what was set aside is not noted")
	}
}

func TestBack(t *testing.T) {
	t.Parallel()
	r, a := somewhere(t)
	first := stage(t, r, a)
	must(t, first.Aim(moment, false))
	must(t, first.Place(moment))
	must(t, first.Done(moment))
	back, err := first.Back(moment, false)
	must(t, err)
	if left, err := back.Left(); err != nil || left != (Left{Returns: first.Replaced}) {
		t.Errorf("before it returns: %+v, %v", left, err)
	}
	must(t, back.Release())
	must(t, back.Discard(moment)) // it was not wanted after all: the folder is not its own
	back, err = first.Back(moment, false)
	must(t, err)
	must(t, back.Place(moment))
	must(t, back.Done(moment))
	if r.holds("live") != "of today" || r.holds(back.Replaced) != "of the backup" {
		t.Errorf("there are %q, and the live one holds %q", r.names(t), r.holds("live"))
	}
}

// What a restore has replaced stays in sight, whatever becomes of its move.
func TestReplacedStaysInSight(t *testing.T) {
	t.Parallel()
	for name, give := range map[string]func(*testing.T, *Move){
		"discarded": func(t *testing.T, m *Move) { must(t, m.Discard(moment)) },
		"forgotten": func(t *testing.T, m *Move) { must(t, m.Forget()) },
	} {
		r, a := somewhere(t)
		m := stage(t, r, a)
		must(t, m.Aim(moment, true))
		must(t, os.Rename(filepath.Join(r.dir, "live"), filepath.Join(r.dir, m.Replaced)))
		write(t, r.dir, "live/file", "somebody else's")
		give(t, again(t, m))
		if left, err := again(t, m).Left(); err != nil || left.Replaced != m.Replaced || r.holds(m.Replaced) != "of today" || r.holds("live") != "somebody else's" {
			t.Errorf("%s: left %+v, %v; there are %q", name, left, err, r.names(t))
		}
	}
	// The folder that came is kept where what it replaced comes back.
	r, a := somewhere(t)
	m := stage(t, r, a)
	must(t, m.Aim(moment, true))
	must(t, m.Place(moment))
	must(t, again(t, m).Undo(moment))
	moves, err := r.Moves()
	must(t, err)
	if len(moves) != 1 || moves[0].Placed.IsZero() || r.holds("live") != "of today" || r.holds(moves[0].Replaced) != "of the backup" {
		t.Errorf("undone: %+v; there are %q", moves, r.names(t))
	}
	must(t, moves[0].RemoveReplaced(moment))
	if names := r.names(t); !slices.Equal(names, []string{"live"}) {
		t.Errorf("there are still %q", names)
	}
}

// Names of folders are bytes, those in notes too.
func TestNoteOfOddName(t *testing.T) {
	t.Parallel()
	_, a := somewhere(t)
	r, err := NewRoot(t.TempDir(), DefaultPattern, map[string]string{"live": "Acm\xe9"})
	must(t, err)
	write(t, r.dir, "Acm\xe9/file", "of today")
	m := stage(t, r, a)
	must(t, m.Aim(moment, false))
	m = again(t, m)
	must(t, m.Place(moment))
	must(t, m.Done(moment))
	if m = again(t, m); m.Folder != "Acm\xe9" || r.holds(m.Folder) != "of the backup" || r.holds(m.Replaced) != "of today" {
		t.Errorf("it says %+v; there are %q", m, r.names(t))
	}
}

func TestAtWork(t *testing.T) {
	t.Parallel()
	r, a := somewhere(t)
	m, _, err := r.Stage(t.Context(), Tenant{Schema: "live"}, a, moment, PutOptions{})
	must(t, err)
	if busy, err := again(t, m).AtWork(); !busy || err != nil {
		t.Errorf("while it is at work: %v, %v", busy, err)
	}
	must(t, m.Release())
	if busy, err := again(t, m).AtWork(); busy || err != nil {
		t.Errorf("after it: %v, %v", busy, err)
	}
	// Another database that has the same root sees nothing of it.
	if moves, err := r.Of("other").Moves(); len(moves) != 0 || err != nil {
		t.Errorf("another database has %+v, %v", moves, err)
	}
	if _, err := r.Of("other").Move(m.Name); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("another database finds it: %v", err)
	}
	must(t, m.Discard(moment))
	if names := r.names(t); !slices.Equal(names, []string{"live"}) {
		t.Errorf("there are still %q", names)
	}
}

// A note of which the last line was not written to its end says what it said before.
func TestTornNote(t *testing.T) {
	t.Parallel()
	r, a := somewhere(t)
	m := stage(t, r, a)
	must(t, m.Aim(moment, false))
	note := filepath.Join(r.dir, notesFolder, m.Name)
	file, err := os.OpenFile(note, os.O_APPEND|os.O_WRONLY, 0)
	must(t, err)
	_, err = file.WriteString("\n{\"folder\":\"li")
	must(t, errors.Join(err, file.Close()))
	if got := again(t, m); got.Replaced != m.Replaced || got.In != m.In {
		t.Errorf("it says %+v", got)
	}
	must(t, m.Done(moment))
	if got := again(t, m); !got.Placed.Equal(moment) {
		t.Errorf("after another line it says %+v", got)
	}
}

func TestRemoveReadOnly(t *testing.T) {
	t.Parallel()
	r, a := somewhere(t)
	m := stage(t, r, a)
	must(t, m.Aim(moment, false))
	must(t, m.Place(moment))
	write(t, r.dir, m.Replaced+"/a/b/file", "x")
	must(t, os.Chmod(filepath.Join(r.dir, m.Replaced, "a/b"), 0o500))
	must(t, os.Chmod(filepath.Join(r.dir, m.Replaced, "a"), 0o500))
	must(t, m.RemoveReplaced(moment))
	if names := r.names(t); !slices.Equal(names, []string{"live"}) {
		t.Errorf("there are still %q", names)
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
	if err := r.Apart([]Tenant{{Schema: "x"}}, []Tenant{{Schema: "x", Name: "X"}, {Schema: "acme"}}); err == nil || !strings.Contains(err.Error(), `of schema "x" is in that of "acme"`) {
		t.Errorf("a folder in that of somebody else: %v", err)
	}
	if err := r.Apart([]Tenant{{Schema: "acme"}}, []Tenant{{Schema: "x"}}); err == nil || !strings.Contains(err.Error(), `of schema "x" is in that of "acme"`) {
		t.Errorf("a folder around that of somebody else: %v", err)
	}
	if err := r.Apart([]Tenant{{Schema: "z"}}, []Tenant{{Schema: "z", Name: "Z"}, {Schema: "acme"}, {Schema: "y"}}); err != nil {
		t.Errorf("others have one folder: %v", err)
	}
}

// What a note says is not believed where it is not about folders of a restore.
func TestForgedNotes(t *testing.T) {
	t.Parallel()
	r, a := somewhere(t)
	m := stage(t, r, a)
	write(t, r.dir, "other/file", "of another")
	for _, forged := range []Move{
		{Folder: "../live", Incoming: "../live__staging_20261123_100000"},
		{Folder: "live", Incoming: "other"},
		{Folder: "live", Incoming: "live__staging_20261123_100000/../../other"},
		{Folder: "live", Incoming: "other__staging_20261123_100000"},
		{Folder: ".", Incoming: "live__staging_20261123_100000"},
		{Folder: ".tenantkeep/live"},
	} {
		forged.Name, forged.Database, forged.root = m.Name, m.Database, r
		must(t, forged.write())
		if _, err := r.Move(m.Name); err == nil {
			t.Errorf("%+v is taken", forged)
		}
	}
	for _, name := range []string{"", "../live", m.Name + "/..", "20261123_100000_0123456789abcdef"} {
		if _, err := r.Move(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a move %q: %v", name, err)
		}
	}
}

// A link on the way to a folder leads into that of another tenant.
func TestLinkAbove(t *testing.T) {
	t.Parallel()
	root, dir := folder(t)
	write(t, dir, "file", "of the backup")
	a := save(t, root, nil, SaveOptions{}).open(t)
	r, err := NewRoot(root.Name(), "{schema}/files", nil)
	must(t, err)
	write(t, r.dir, "globex/files/file", "of globex")
	write(t, r.dir, "acme/files/file", "of acme")
	acme := Tenant{Schema: "acme"}
	m, _, err := r.Stage(t.Context(), acme, a, moment, PutOptions{})
	must(t, err)
	must(t, m.Aim(moment, false))
	must(t, os.Rename(filepath.Join(r.dir, "acme"), filepath.Join(r.dir, "away")))
	must(t, os.Symlink("globex", filepath.Join(r.dir, "acme")))
	_, _, staged := r.Stage(t.Context(), acme, a, moment, PutOptions{})
	_, opened := r.Open(t.Context(), acme)
	_, _, occupied := r.Occupied(acme)
	_, left := m.Left()
	for what, err := range map[string]error{
		"stage": staged, "open": opened, "look": occupied, "aim": m.Aim(moment, false), "place": m.Place(moment), "revert": m.Revert(), "left": left, "discard": m.Discard(moment),
	} {
		if err == nil || !strings.Contains(err.Error(), "is a link, no folder") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got := r.holds("globex/files"); got != "of globex" {
		t.Errorf("the folder of globex holds %q", got)
	}
}

func TestOccupied(t *testing.T) {
	t.Parallel()
	r, a := somewhere(t)
	must(t, os.MkdirAll(filepath.Join(r.dir, "empty/a/b"), 0o700))
	for name, want := range map[string][2]bool{"live": {true, true}, "empty": {false, true}, "none": {false, false}} {
		files, there, err := r.Occupied(Tenant{Schema: name})
		if err != nil || [2]bool{files, there} != want {
			t.Errorf("%s: %v, %v, %v", name, files, there, err)
		}
	}
	// What a restore that died has put where nothing was does not count.
	must(t, os.Rename(filepath.Join(r.dir, "live"), filepath.Join(r.dir, "away")))
	m := stage(t, r, a)
	must(t, m.Aim(moment, true))
	must(t, m.Place(moment))
	if files, there, err := r.Occupied(Tenant{Schema: "live"}); files || there || err != nil {
		t.Errorf("after a restore that died: %v, %v, %v", files, there, err)
	}
	must(t, m.Done(moment))
	if files, there, err := r.Occupied(Tenant{Schema: "live"}); !files || !there || err != nil {
		t.Errorf("after a restore: %v, %v, %v", files, there, err)
	}
}

// Core has what belongs to no tenant, whatever its name looks like, but not what
// restores keep beside the folders of tenants.
func TestShared(t *testing.T) {
	t.Parallel()
	r, a := somewhere(t)
	m := stage(t, r, a)
	must(t, m.Aim(moment, false))
	must(t, m.Place(moment))
	stage(t, r.Of("other"), a)
	coming, _, err := r.Stage(t.Context(), Tenant{Schema: "coming"}, a, moment, PutOptions{})
	must(t, err)
	must(t, coming.Aim(moment, true))
	must(t, coming.Place(moment))
	must(t, coming.Release())
	asked := 0
	for _, name := range []string{"new/file", "shared/logo__staging_20261123_100000", "acme/file", "acme__replaced_20261123_100000/file", "gone/file"} {
		write(t, r.dir, name, name)
	}
	tree, err := r.OpenShared(t.Context(), func(context.Context) ([]Tenant, error) {
		if asked++; asked == 2 { // those that came since it was opened
			return []Tenant{{Schema: "new"}}, nil
		}
		return []Tenant{{Schema: "acme"}, {Schema: "live"}}, nil
	})
	must(t, err)
	defer tree.Close()
	var names []string
	must(t, tree.List(t.Context(), func(e Entry, err error) error {
		names = append(names, e.Name)
		return err
	}))
	want := []string{".", "acme__replaced_20261123_100000", "acme__replaced_20261123_100000/file", "gone", "gone/file", "shared", "shared/logo__staging_20261123_100000"}
	if !slices.Equal(names, want) {
		t.Errorf("core has %q, not %q", names, want)
	}
}
