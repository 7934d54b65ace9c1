package pg

import (
	"io"
	"time"
)

const (
	// serverPiece is what the server sends at once, in bytes, as long as it has
	// more; the last piece of an answer is shorter.
	serverPiece = 8 << 10
	// gatherPause is how long rows are left to gather. In this time not even a
	// fast server fills the buffer of a Unix socket, 208 kB, and has to wait.
	gatherPause = 50 * time.Microsecond
	// gatherSkip is for how many reads nothing is tried after a pause in which
	// nothing gathered: the server is slow, or each read is a record of TLS.
	gatherSkip = 4
)

// gatherer reads what a server sends faster than it can produce it. Without a
// pause here, both sides are woken for each piece, which takes a third of the
// processor time of reading a table.
type gatherer struct {
	r     io.Reader
	last  int // bytes of the read before
	skip  int // reads until a pause is tried again
	pause func(time.Duration)
}

// Read reads, after a pause if the middle of a long answer was read before.
func (g *gatherer) Read(p []byte) (int, error) {
	paused := false
	if g.last >= serverPiece && g.last < len(p)/2 {
		if g.skip > 0 {
			g.skip--
		} else {
			g.pause(gatherPause)
			paused = true
		}
	}
	n, err := g.r.Read(p)
	if paused && n <= 2*serverPiece {
		g.skip = gatherSkip
	}
	g.last = n
	return n, err
}
