package backup_test

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/tenantkeep/tenantkeep/internal/datafile"
	"github.com/tenantkeep/tenantkeep/internal/manifest"
)

// TestStoredRows takes full backups of which most rows are those of the one
// before.
func TestStoredRows(t *testing.T) {
	t.Parallel()
	w := setup(t, nil)
	for _, name := range []string{"a", "b"} {
		big(t, w.db, name)
		w.db.Exec(t, fmt.Sprintf(`CREATE TABLE %[1]s.middle (id int, v text);
			INSERT INTO %[1]s.middle SELECT n, md5(n::text) || repeat('x', 100) FROM generate_series(1, 60000) n`, name)) // more than one frame
	}
	w.run(t)
	w.db.Exec(t, `UPDATE a.middle SET v = 'changed' WHERE id = 1; UPDATE b.big SET v = 'changed' WHERE id = 1`)
	second := w.run(t)
	w.requireSame(t, second, "a", "b")
	if told := w.told(); told != "" {
		t.Errorf("told: %s", told)
	}

	// What is damaged is not taken over.
	frames := w.open(t, second, "a").Index.Frames
	frame := frames[slices.IndexFunc(frames, func(f datafile.Frame) bool { return f.Kind == datafile.DataFrame && f.Hash != "" })]
	flip(t, w.path(t, second, "a"), frame.Offset+frame.Length/2)
	third := w.run(t)
	requireContains(t, w.told(), "a: backup "+second.ID+" is damaged", "data/a_full_"+second.ID+".sql.zst", "not as they were written")
	w.requireSame(t, third, "a", "b")

	// What is not there is no obstacle.
	must(t, os.Truncate(w.path(t, third, "b"), 10))
	fourth := w.run(t)
	if got := entry(t, fourth, "b"); got.Type != manifest.Full || got.Rows != entry(t, third, "b").Rows {
		t.Errorf("after its earlier file was cut, b is saved as %+v", got)
	}
	w.requireSame(t, fourth, "a", "b")

	w.opts.Compression = datafile.Compression{Algorithm: datafile.Gzip}
	w.requireSame(t, w.run(t), "a", "b")
}

// flip changes one byte of a file.
func flip(t *testing.T, path string, at int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	b := make([]byte, 1)
	_, err = f.ReadAt(b, at)
	must(t, err)
	b[0] ^= 0xff
	_, err = f.WriteAt(b, at)
	must(t, err)
}
