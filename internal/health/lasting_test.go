package health

import (
	"testing"
	"time"
)

// Checks that follow one another within moments are no two in a row.
func TestLastingTakesTime(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 8, 24, 3, 0, 0, 0, time.UTC)
	var l Lasting
	for _, step := range []struct {
		after     time.Duration
		state     State
		told      bool
		lastingly State
	}{
		{0, Critical, false, 0},
		{time.Second, Critical, false, 0},
		{time.Minute, Critical, true, Critical},
		{61 * time.Second, OK, false, 0},
		{2 * time.Minute, Critical, true, OK},
		{3 * time.Minute, Critical, true, Critical},
		{4 * time.Minute, OK, true, OK},
	} {
		got := l.Add(&Report{Time: began.Add(step.after), State: step.state, Checks: []Check{{Name: CheckDatabase, State: step.state}}})
		if (got != nil) != step.told || got != nil && got.State != step.lastingly {
			t.Errorf("after %s: %+v, want %v of %s", step.after, got, step.told, step.lastingly)
		}
	}
}
