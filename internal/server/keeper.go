package server

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"
)

// Lead is that this process leads, as long as Check finds no error.
type Lead interface {
	Check(context.Context) error
	Close()
}

// KeeperOptions say what to keep running.
type KeeperOptions struct {
	// TryLead takes the lead; false: another process has it.
	TryLead func(context.Context) (Lead, bool, error)
	// Due looks whether anything is to be done, and when the next thing is; zero: not
	// known.
	Due func(context.Context) (due bool, next time.Time, err error)
	// Run does what is due. It tells others how that ended by itself. ErrBusy is
	// that somebody else is at work.
	Run func(context.Context) error

	Poll  time.Duration // between two looks at the lead; 0: five seconds
	Look  time.Duration // between two looks at what is due; 0: a minute
	Retry time.Duration // after the first failure, doubled with each one more; 0: a minute
	// Start is how long after the beginning of Keep it may take until what is due can be
	// looked at for the first time: containers start in any order. 0: five minutes.
	Start time.Duration
	Log   *slog.Logger
	Now   func() time.Time // nil: time.Now
}

// ErrBusy says that a run has to wait for another one.
var ErrBusy = errors.New("somebody else is at work")

// maxRetry bounds how long a run that failed is not tried again.
const maxRetry = 30 * time.Minute

// Status is what a Keeper does.
type Status struct {
	Leading  bool
	Running  bool
	Since    time.Time // of the run that is at work
	Next     time.Time // what is due next; zero: not known
	Failures int       // runs that failed, in a row
	Runs     map[string]int64
}

// Keeper runs a schedule in the one process of several that leads.
type Keeper struct {
	KeeperOptions
	wake chan struct{}

	lead     Lead
	followed bool      // another process had the lead when that could last be told
	looked   time.Time // when it was last looked what is due
	notUntil time.Time // after a failure
	began    time.Time // the first look at what is due; zero: there was none
	seen     bool      // one has worked

	mu     sync.Mutex
	status Status
}

// NewKeeper returns a keeper that does not work yet.
func NewKeeper(o KeeperOptions) *Keeper {
	if o.Poll == 0 {
		o.Poll = 5 * time.Second
	}
	if o.Look == 0 {
		o.Look = time.Minute
	}
	if o.Retry == 0 {
		o.Retry = time.Minute
	}
	if o.Start == 0 {
		o.Start = 5 * time.Minute
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Keeper{KeeperOptions: o, wake: make(chan struct{}, 1), status: Status{Runs: map[string]int64{"succeeded": 0, "failed": 0}}}
}

// Status returns what the keeper does at this moment.
func (k *Keeper) Status() Status {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.status
	s.Runs = map[string]int64{}
	for result, n := range k.status.Runs {
		s.Runs[result] = n
	}
	return s
}

func (k *Keeper) note(change func(*Status)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	change(&k.status)
}

// Again has the keeper look at once: what is due may have changed.
func (k *Keeper) Again() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Keep works until ctx is over. A run that is at work then is cancelled, and waited
// for.
func (k *Keeper) Keep(ctx context.Context) {
	defer k.giveUp()
	for ctx.Err() == nil {
		if k.mayRun(ctx) {
			k.turn(ctx)
		}
		select {
		case <-ctx.Done():
		case <-k.wake:
			k.looked, k.notUntil = time.Time{}, time.Time{}
		case <-time.After(k.Poll):
		}
	}
}

// mayRun keeps the lead, or tries to get it. While the database cannot be reached a
// process that knows of no other goes on: its runs fail, and tell of that.
func (k *Keeper) mayRun(ctx context.Context) bool {
	if k.lead != nil {
		err := k.lead.Check(ctx)
		if err == nil || ctx.Err() != nil {
			return err == nil
		}
		k.Log.Warn("this process leads no more", "error", err)
		k.giveUp()
	}
	lead, led, err := k.TryLead(ctx)
	switch {
	case ctx.Err() != nil:
		if led {
			lead.Close()
		}
		return false
	case err != nil:
		return !k.followed
	case !led:
		if !k.followed {
			k.Log.Info("another process leads: this one waits to take over")
		}
		k.followed = true
		return false
	}
	k.lead, k.followed, k.looked = lead, false, time.Time{}
	k.note(func(s *Status) { s.Leading = true })
	k.Log.Info("this process leads: it runs the schedule")
	return true
}

func (k *Keeper) giveUp() {
	if k.lead != nil {
		k.lead.Close()
		k.lead = nil
	}
	k.note(func(s *Status) { s.Leading = false })
}

// turn looks what is due, where it is time to, and does it.
func (k *Keeper) turn(ctx context.Context) {
	now := k.Now()
	known := k.Status().Next
	// A clock that was set back must not keep anything waiting.
	waiting := now.Sub(k.looked).Abs() < k.Look && (known.IsZero() || now.Before(known))
	if waiting || now.Before(k.notUntil) && k.notUntil.Sub(now) <= maxRetry {
		return
	}
	k.looked = now
	if k.began.IsZero() {
		k.began = now
	}
	due, next, err := k.Due(ctx)
	if err == nil {
		k.seen = true
		k.note(func(s *Status) { s.Next = next })
	}
	switch {
	case ctx.Err() != nil:
	case err == nil && due:
		k.run(ctx)
	case err == nil:
	case !k.seen && now.Sub(k.began).Abs() < k.Start:
		k.Log.Warn("what is due cannot be looked at yet", "error", err, "patience", (k.Start - now.Sub(k.began)).String())
	case now.Before(known):
		k.Log.Warn("what is due cannot be looked at", "error", err) // nothing was, until then
	default:
		k.run(ctx) // it fails, and tells others
	}
}

func (k *Keeper) run(ctx context.Context) {
	k.note(func(s *Status) { s.Running, s.Since = true, k.Now() })
	err := k.Run(ctx)
	busy := errors.Is(err, ErrBusy)
	k.note(func(s *Status) {
		s.Running, s.Since = false, time.Time{}
		switch {
		case busy:
		case err == nil:
			s.Failures = 0
			s.Runs["succeeded"]++
		case ctx.Err() == nil:
			s.Failures++
			s.Runs["failed"]++
		}
	})
	switch {
	case err == nil || ctx.Err() != nil:
		return
	case busy:
		k.Log.Info("what is due has to wait", "error", err)
		return
	}
	wait := min(maxRetry, k.Retry<<min(k.Status().Failures-1, 10))
	k.notUntil = k.Now().Add(wait)
	k.Log.Error("the run failed, and is tried again", "error", err, "in", wait.String())
}
