package repo

import (
	"errors"
	"maps"
	"slices"
	"testing"
)

// A rollback point is confirmed once or more often, and goes with all that is
// its own and nothing else.
func TestPoints(t *testing.T) {
	t.Parallel()
	r := Open(newStore(t, t.TempDir()), options())
	first, second := mustBack(t, r), mustBack(t, r)
	for _, id := range []string{first, second} {
		if err := r.Expect(t.Context(), id); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if err := r.Confirm(t.Context(), first); err != nil {
			t.Fatal(err)
		}
	}
	confirmed := func() []string {
		t.Helper()
		ids, err := r.Confirmed(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return slices.Sorted(maps.Keys(ids))
	}
	if got := confirmed(); !slices.Equal(got, []string{first}) {
		t.Errorf("confirmed %s", got)
	}
	if ids, err := r.Expected(t.Context()); err != nil || len(ids) != 1 || !ids[second] {
		t.Errorf("expected %v, %v", ids, err)
	}
	if p := plan(t, r); p.Work() || len(p.Lost)+len(p.Unused) != 0 {
		t.Errorf("to repair: %+v", p)
	}
	if _, err := clean(t.Context(), r, first); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Load(t.Context(), first); !errors.Is(err, ErrNoBackup) {
		t.Errorf("removed: %v", err)
	}
	if got := wantWhole(t, r); !slices.Equal(got, []string{second}) {
		t.Errorf("left: %s", got)
	}
	if _, err := clean(t.Context(), r, second); err != nil {
		t.Fatal(err)
	}
	if left := keys(t, r.storage, ""); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if orphans, err := r.Orphans(t.Context()); err != nil || len(orphans)+len(confirmed()) != 0 {
		t.Errorf("orphans %v, %v, confirmed %s", orphans, err, confirmed())
	}
}
