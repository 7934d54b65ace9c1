package restore

import (
	"context"
	"testing"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
)

func TestQueueKeepsSessionsApart(t *testing.T) {
	t.Parallel()
	huge, large := &manifest.Table{Name: "huge"}, &manifest.Table{Name: "large"}
	frame := func(table *manifest.Table, size int64) task { return task{table: table, size: size, most: 1} }
	q := newQueue([]task{{size: 1}, frame(large, 10), frame(huge, 100), frame(large, 10), frame(huge, 100), frame(huge, 100)})
	take := func(table *manifest.Table, turn int) task {
		t.Helper()
		got, idle, ok := q.next(t.Context(), nil)
		if !ok || idle || got.table != table || got.turn != turn {
			t.Fatalf("got the task that was added as number %d, want %d", got.turn, turn)
		}
		return got
	}
	first := take(huge, 2)
	second := take(large, 1)
	take(nil, 0) // another session loads huge, and another large
	q.done(first, nil)
	third := take(huge, 4)
	take(huge, 5) // nothing else is left: large would have two sessions as well
	q.done(second, []task{{size: 1000}})
	take(nil, 6)
	q.done(third, nil)
	take(large, 3)
	if len(q.tasks) > 0 {
		t.Errorf("%d tasks are left", len(q.tasks))
	}
}

// TestQueueForesees gives a session what it reads ahead for, unless nothing else
// is left for another.
func TestQueueForesees(t *testing.T) {
	t.Parallel()
	read := func(context.Context, int, []byte) ([]byte, error) { return nil, nil }
	q := newQueue([]task{{size: 5, read: read}, {size: 4, read: read}, {size: 3, read: read}, {size: 2}})
	a, b := &session{}, &session{}
	next := func(s *session, size int64) {
		t.Helper()
		if got, _, ok := q.next(t.Context(), s); !ok || got.size != size {
			t.Fatalf("got the task of size %d, want %d", got.size, size)
		}
	}
	foresee := func(s *session, size int64, current task) {
		t.Helper()
		if got, ok := q.foresee(s, current); ok != (size > 0) || got.size != size {
			t.Fatalf("foresees the task of size %d, want %d", got.size, size)
		}
	}
	next(a, 5)
	foresee(a, 4, task{})
	next(b, 3)
	foresee(b, 0, task{}) // there is nothing to be read for it
	q.add([]task{{size: 9}})
	next(b, 9)
	next(b, 2)
	next(b, 4) // the one that a reads for, rather than none

	huge := &manifest.Table{}
	q = newQueue([]task{{size: 7, read: read, table: huge, most: 1}, {size: 7, read: read, table: huge, most: 1}, {size: 1, read: read}})
	next(a, 7)
	foresee(a, 7, task{table: huge}) // its own place at the table is free by then
	foresee(b, 1, task{})
}
