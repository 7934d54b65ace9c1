package restore

import (
	"testing"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
)

func TestQueueKeepsSessionsApart(t *testing.T) {
	t.Parallel()
	huge, large := &manifest.Table{Name: "huge"}, &manifest.Table{Name: "large"}
	frame := func(table *manifest.Table, size int64) task { return task{table: table, size: size, most: 1} }
	q := &queue{loading: map[*manifest.Table]int{}}
	q.ready.L = &q.mu
	q.add([]task{{size: 1}, frame(large, 10), frame(huge, 100), frame(large, 10), frame(huge, 100), frame(huge, 100)})
	take := func(table *manifest.Table, turn int) task {
		t.Helper()
		got, idle, ok := q.next(t.Context())
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
