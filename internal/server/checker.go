package server

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/health"
)

// CheckerOptions say how to make checks.
type CheckerOptions struct {
	// Examine makes the checks. read is whether files are to be read, which takes
	// much longer.
	Examine func(ctx context.Context, read bool) (*health.Report, error)
	// Told hears of every report.
	Told  func(context.Context, *health.Report)
	Every time.Duration // between the end of one and the begin of the next; 0: a minute
	Read  time.Duration // between two that read files; 0: an hour
	Log   *slog.Logger
	Now   func() time.Time // nil: time.Now
}

// Checker makes the checks again and again, and keeps what they found last.
type Checker struct {
	CheckerOptions
	wake chan struct{}

	mu     sync.Mutex
	report *health.Report
	ended  time.Time // of the last attempt
	failed bool      // it made no report
	every  time.Duration
}

// NewChecker returns a checker that does not work yet.
func NewChecker(o CheckerOptions) *Checker {
	if o.Every == 0 {
		o.Every = time.Minute
	}
	if o.Read == 0 {
		o.Read = time.Hour
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Checker{CheckerOptions: o, wake: make(chan struct{}, 1), every: o.Every}
}

// costShare is how much of the time checks may take: one part of so many. A large
// repository is looked at less often.
const costShare = 20

// Run makes checks until ctx is over.
func (c *Checker) Run(ctx context.Context) {
	var read time.Time
	for ctx.Err() == nil {
		began := c.Now()
		reading := began.Sub(read).Abs() >= c.Read
		r, err := c.Examine(ctx, reading)
		if ctx.Err() != nil {
			return
		}
		took := c.Now().Sub(began)
		if reading {
			read, took = began, 0 // it is rare
		}
		c.keep(r, err, max(c.Every, costShare*took))
		if err != nil {
			c.Log.Error("the checks could not be made", "error", err)
		} else if c.Told != nil {
			c.Told(ctx, r)
		}
		select {
		case <-ctx.Done():
		case <-c.wake:
		case <-time.After(max(c.Every, costShare*took)):
		}
	}
}

func (c *Checker) keep(r *health.Report, err error, every time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended, c.failed, c.every = c.Now(), err != nil, every
	if err == nil {
		c.report = r
	}
}

// Again has the checks made now: something has happened.
func (c *Checker) Again() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Why there is no report that holds.
var (
	errNotYet = errors.New("the first checks have not ended yet")
	errFailed = errors.New("the checks cannot be made: the log says why")
	errStale  = errors.New("the checks do not end: the database or the repository may hang")
)

// staleAfter is how many times as long as it should the next report may take.
const staleAfter = 10

// Report returns what was found last. An error is that it does not hold any more, or
// that there is nothing yet.
func (c *Checker) Report() (*health.Report, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.ended.IsZero():
		return nil, errNotYet
	case c.failed:
		return nil, errFailed
	case c.Now().Sub(c.ended) > staleAfter*c.every:
		return nil, errStale
	}
	return c.report, nil
}

// Last returns what was found last, however long ago; nil: nothing.
func (c *Checker) Last() *health.Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.report
}
