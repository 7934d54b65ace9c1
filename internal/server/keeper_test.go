package server

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"
)

// fakeWorld is a database with one lead, and work that is due.
type fakeWorld struct {
	mu     sync.Mutex
	holder *fakeLead
	down   bool
	due    bool
	next   time.Time
	runErr error

	looks int
	runs  []string  // whose runs there were
	began chan bool // if not nil, runs wait for their end
}

type fakeLead struct {
	world *fakeWorld
	lost  bool
}

func (l *fakeLead) Check(context.Context) error {
	l.world.mu.Lock()
	defer l.world.mu.Unlock()
	if l.lost || l.world.down {
		l.lost = true
		return errors.New("lost")
	}
	return nil
}

func (l *fakeLead) Close() {
	l.world.mu.Lock()
	defer l.world.mu.Unlock()
	if l.world.holder == l {
		l.world.holder = nil
	}
}

// keeper is a process in the world.
func (w *fakeWorld) keeper(name string, c *clock) *Keeper {
	return NewKeeper(KeeperOptions{
		Log: quiet, Now: c.now,
		TryLead: func(context.Context) (Lead, bool, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			switch {
			case w.down:
				w.holder = nil // the server is gone, and its locks
				return nil, false, errors.New("down")
			case w.holder != nil:
				return nil, false, nil
			}
			w.holder = &fakeLead{world: w}
			return w.holder, true, nil
		},
		Due: func(context.Context) (bool, time.Time, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.looks++
			if w.down {
				return false, time.Time{}, errors.New("down")
			}
			return w.due, w.next, nil
		},
		Run: func(ctx context.Context) error {
			w.mu.Lock()
			w.runs = append(w.runs, name)
			began := w.began
			err := w.runErr
			if err == nil {
				w.due = false
			}
			if w.down {
				err = errors.New("down")
			}
			w.mu.Unlock()
			if began != nil {
				began <- true
				<-ctx.Done()
				return context.Cause(ctx)
			}
			return err
		},
	})
}

// step is what Keep does in each of its turns.
func (k *Keeper) step(t *testing.T) {
	t.Helper()
	if k.mayRun(t.Context()) {
		k.turn(t.Context())
	}
}

func (w *fakeWorld) expect(t *testing.T, looks, runs int) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.looks != looks || len(w.runs) != runs {
		t.Errorf("%d looks and %d runs, want %d and %d", w.looks, len(w.runs), looks, runs)
	}
}

func TestKeeperRunsWhatIsDue(t *testing.T) {
	t.Parallel()
	c, w := newClock(), &fakeWorld{due: true}
	w.next = c.now().Add(90 * time.Second)
	k := w.keeper("a", c)
	k.step(t)
	w.expect(t, 1, 1)
	k.step(t)
	w.expect(t, 1, 1)
	c.add(time.Minute) // a new tenant may be there
	k.step(t)
	w.expect(t, 2, 1)
	c.add(30 * time.Second) // the time has come
	w.due = true
	k.step(t)
	w.expect(t, 3, 2)
	w.due, w.next = true, c.now().Add(24*time.Hour)
	c.add(-time.Hour) // somebody set the clock back
	k.step(t)
	w.expect(t, 4, 3)
	c.add(40 * 24 * time.Hour) // the machine slept
	w.due = true
	k.step(t)
	w.expect(t, 5, 4)
	if s := k.Status(); !s.Leading || s.Running || s.Failures != 0 || s.Runs["succeeded"] != 4 {
		t.Errorf("status %+v", s)
	}
}

// A run that fails is tried again, later and later, and others at work are waited
// for.
func TestKeeperTriesAgain(t *testing.T) {
	t.Parallel()
	c, w := newClock(), &fakeWorld{due: true, runErr: errors.New("full disk")}
	k := w.keeper("a", c)
	var tried []time.Duration
	began := c.now()
	for range 200 {
		before := len(w.runs)
		k.step(t)
		if len(w.runs) > before {
			tried = append(tried, c.now().Sub(began))
		}
		c.add(time.Minute)
	}
	want := []time.Duration{0, 1, 3, 7, 15, 31, 61, 91, 121, 151, 181}
	if len(tried) != len(want) {
		t.Fatalf("tried at %v", tried)
	}
	for i := range want {
		if tried[i] != want[i]*time.Minute {
			t.Errorf("tried at %v", tried)
			break
		}
	}
	if s := k.Status(); s.Failures != len(want) || s.Runs["failed"] != int64(len(want)) {
		t.Errorf("status %+v", s)
	}
	w.runErr = ErrBusy
	c.add(time.Hour)
	k.step(t)
	c.add(time.Minute)
	w.runErr = nil
	k.step(t)
	if s := k.Status(); s.Failures != 0 || s.Runs["succeeded"] != 1 || len(w.runs) != len(want)+2 {
		t.Errorf("status %+v, %d runs", s, len(w.runs))
	}
}

func TestKeeperLeadsAlone(t *testing.T) {
	t.Parallel()
	c, w := newClock(), &fakeWorld{due: true}
	a, b := w.keeper("a", c), w.keeper("b", c)
	a.step(t)
	w.due = true
	b.step(t)
	if !a.Status().Leading || b.Status().Leading || len(w.runs) != 1 {
		t.Fatalf("runs of %v", w.runs)
	}
	w.holder.lost = true // its connection broke; the server has noticed first
	w.holder = nil
	b.step(t)
	a.step(t)
	if a.Status().Leading || !b.Status().Leading || len(w.runs) != 2 || w.runs[1] != "b" {
		t.Errorf("runs of %v", w.runs)
	}
	// The server goes away: only who led tells of what is due and fails.
	w.down, w.due = true, true
	c.add(time.Hour)
	for range 3 {
		a.step(t)
		b.step(t)
	}
	if a.Status().Leading || b.Status().Leading || len(w.runs) != 3 || w.runs[2] != "b" {
		t.Errorf("runs of %v", w.runs)
	}
	w.down, w.due = false, true
	c.add(time.Hour)
	a.step(t)
	b.step(t)
	if !a.Status().Leading || b.Status().Leading || len(w.runs) != 4 || w.runs[3] != "a" {
		t.Errorf("runs of %v", w.runs)
	}
}

// While nothing is due, a server that is away is nothing that failed.
func TestKeeperIsPatient(t *testing.T) {
	t.Parallel()
	c, w := newClock(), &fakeWorld{}
	w.next = c.now().Add(12 * time.Hour)
	k := w.keeper("a", c)
	k.step(t)
	w.down = true
	c.add(time.Hour)
	k.step(t)
	w.expect(t, 2, 0)
	c.add(11 * time.Hour)
	k.step(t)
	w.expect(t, 3, 1)
}

// A process that starts before the database has patience with it, and not for ever.
func TestKeeperWaitsAtTheStart(t *testing.T) {
	t.Parallel()
	c, w := newClock(), &fakeWorld{down: true, due: true}
	k := w.keeper("a", c)
	for range 5 {
		k.step(t)
		c.add(time.Minute)
	}
	w.expect(t, 5, 0)
	k.step(t)
	w.expect(t, 6, 1)
	b := w.keeper("b", c)
	b.step(t)
	w.down, w.due = false, true
	c.add(time.Minute)
	b.step(t)
	w.expect(t, 8, 2)
	if s := b.Status(); s.Failures != 0 || s.Runs["succeeded"] != 1 {
		t.Errorf("status %+v", s)
	}
}

// Whoever stops it waits for the run that is interrupted, and gives up the lead.
func TestKeeperStops(t *testing.T) {
	t.Parallel()
	w := &fakeWorld{due: true, began: make(chan bool)}
	k := w.keeper("a", newClock())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); k.Keep(ctx) }()
	<-w.began
	if s := k.Status(); !s.Running || !s.Leading || s.Since.IsZero() {
		t.Errorf("status %+v", s)
	}
	cancel()
	<-ended
	if s := k.Status(); s.Running || s.Leading || s.Failures != 0 || w.holder != nil {
		t.Errorf("status %+v", s)
	}
}
