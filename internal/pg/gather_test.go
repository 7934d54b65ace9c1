package pg

import (
	"io"
	"testing"
	"time"
)

// pieces is a reader that gives so many bytes at each read.
type pieces []int

func (r *pieces) Read(p []byte) (int, error) {
	if len(*r) == 0 {
		return 0, io.EOF
	}
	n := min((*r)[0], len(p))
	*r = (*r)[1:]
	return n, nil
}

func TestGatherPausesWithinLongAnswersOnly(t *testing.T) {
	t.Parallel()
	repeat := func(n, times int) (list pieces) {
		for range times {
			list = append(list, n)
		}
		return list
	}
	for _, c := range []struct {
		name  string
		reads pieces
		want  int // the read that finds the end included
	}{
		{"short answers", repeat(300, 50), 0},
		{"an answer of one piece and a rest", pieces{serverPiece, 100, 100}, 1},
		{"much gathers each time", repeat(5*serverPiece, 50), 50},
		{"nothing gathers", repeat(serverPiece, 1+3*(gatherSkip+1)), 4},
		{"full reads", repeat(readBuffer, 50), 0},
	} {
		pauses := 0
		g := &gatherer{r: &c.reads, pause: func(time.Duration) { pauses++ }}
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, g, make([]byte, readBuffer)); err != nil {
			t.Fatal(err)
		}
		if pauses != c.want {
			t.Errorf("%s: %d pauses, want %d", c.name, pauses, c.want)
		}
	}
}
