package rowsum_test

import (
	"testing"

	"github.com/tenantkeep/tenantkeep/internal/rowsum"
)

func sum(rows ...string) rowsum.Sum {
	var s rowsum.Sum
	for _, r := range rows {
		s.Add([]byte(r + "\n"))
	}
	return s
}

func TestOrderDoesNotMatter(t *testing.T) {
	t.Parallel()
	if a, b := sum("1\ta", "2\tb", "3\tc"), sum("3\tc", "1\ta", "2\tb"); a != b {
		t.Errorf("the same rows in another order: %v and %v", a, b)
	}
}

func TestDifferences(t *testing.T) {
	t.Parallel()
	base := sum("1\ta", "2\tb", "3\tc").Checksum()
	for name, other := range map[string]rowsum.Sum{
		"a row changed":        sum("1\ta", "2\tb", "3\td"),
		"a row missing":        sum("1\ta", "2\tb"),
		"a row twice":          sum("1\ta", "2\tb", "3\tc", "3\tc"),
		"a row three times":    sum("1\ta", "2\tb", "3\tc", "3\tc", "3\tc"),
		"values moved over":    sum("1\tb", "2\ta", "3\tc"),
		"null for empty":       sum("1\t\\N", "2\tb", "3\tc"),
		"no rows":              sum(),
		"column border moved":  sum("1\ta", "2\tb", "3c\t"),
		"an empty row besides": sum("1\ta", "2\tb", "3\tc", ""),
	} {
		if other.Checksum() == base {
			t.Errorf("%s: the checksum is the same", name)
		}
	}
}

func TestMergeIsTheSumOfAll(t *testing.T) {
	t.Parallel()
	a := sum("1", "2")
	a.Merge(sum("3"))
	if want := sum("3", "2", "1"); a != want {
		t.Errorf("got %v, want %v", a, want)
	}
}

// The checksum is part of the file format: it must never change.
func TestChecksumIsStable(t *testing.T) {
	t.Parallel()
	const want = "xxh3-sum:"
	got := sum("1\tone", "2\ttwo").Checksum()
	if len(got) != len(want)+32 || got[:len(want)] != want {
		t.Fatalf("checksum has the form %q", got)
	}
	if got != "xxh3-sum:bb71407762c75aaeb295832ff49294a4" {
		t.Errorf("checksum is %s", got)
	}
}

func BenchmarkAdd(b *testing.B) {
	row := []byte("4711\tAda Lovelace\tada@example.com\t2026-11-23 00:00:00+00\t{\"plan\": \"gold\"}\n")
	b.SetBytes(int64(len(row)))
	var s rowsum.Sum
	for b.Loop() {
		s.Add(row)
	}
}

func TestParse(t *testing.T) {
	want := sum("a\t1\n", "b\t2\n")
	got, err := rowsum.Parse(want.Rows, want.Bytes, want.Checksum())
	if err != nil || got != want {
		t.Errorf("got %+v, %v; want %+v", got, err, want)
	}
	for _, bad := range []string{"", "xxh3-sum:1", "sha256:" + want.Checksum()[9:], want.Checksum() + "0"} {
		if _, err := rowsum.Parse(0, 0, bad); err == nil {
			t.Errorf("%q was taken for a checksum", bad)
		}
	}
}
