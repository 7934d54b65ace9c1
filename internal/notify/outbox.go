package notify

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// Channel is one place that events go to, and which.
type Channel struct {
	// Name stays the same while the place is the same, and holds no secret: what
	// could not be delivered waits under it.
	Name     string
	Notifier Notifier
	// Wants says which events go there. Nil: all but Begun.
	Wants func(*Event) bool
	// Fleeting says that an event is worth nothing later: what cannot be delivered
	// at once is not kept.
	Fleeting bool
}

func (c Channel) wants(e *Event) bool {
	if c.Wants == nil {
		return e.Kind != Begun
	}
	return c.Wants(e)
}

// Options say what an Outbox works with.
type Options struct {
	Storage  storage.Storage // that the state is kept in
	Channels []Channel
	Secrets  []string // that no message may hold
	// Timeout is how long the deliveries of one run may take altogether, a third of
	// it at its beginning. Attempt is how long one attempt may take. 0:
	// DefaultTimeout, and a third of the timeout.
	Timeout, Attempt time.Duration
	Pause            time.Duration // before the second attempt, about; 0: a second
	Log              *slog.Logger
	Now              func() time.Time // nil: time.Now
}

// DefaultTimeout is how long deliveries may keep a process that is done.
const DefaultTimeout = 30 * time.Second

// Limits on what waits for delivery.
const (
	maxPending = 200                 // events of one channel
	maxAge     = 30 * 24 * time.Hour // then nobody cares any more
)

// Outbox takes events over and delivers them. No method fails or panics for a
// notifier or a storage that does not work: what went wrong is logged and
// returned.
type Outbox struct {
	Options
	store store
	scrub scrubber
}

// New returns an outbox.
func New(o Options) *Outbox {
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Attempt <= 0 {
		o.Attempt = o.Timeout / 3
	}
	if o.Pause <= 0 {
		o.Pause = time.Second
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Outbox{Options: o, store: store{o.Storage, o.Log}, scrub: newScrubber(o.Secrets)}
}

// Run says what begins. It is kept until the run ends, so that a run that is
// killed is told of by the next one.
type Run struct {
	ID         string    `json:"id"` // NewID
	Job        Job       `json:"job"`
	Database   string    `json:"database,omitempty"`
	Server     string    `json:"server,omitempty"`
	Repository string    `json:"repository,omitempty"`
	Host       string    `json:"host,omitempty"`
	PID        int       `json:"pid,omitempty"`
	Version    string    `json:"version,omitempty"`
	Type       string    `json:"type,omitempty"`
	Scope      []string  `json:"scope,omitempty"`
	Started    time.Time `json:"started"`
}

// Event returns an event of the run.
func (r *Run) Event(kind Kind, now time.Time) *Event {
	return &Event{
		ID: string(kind) + "-" + r.ID, Kind: kind, Job: r.Job, Time: now.UTC(), Run: r.ID,
		Database: r.Database, Server: r.Server, Repository: r.Repository, Host: r.Host, Version: r.Version,
		Type: r.Type, Scope: r.Scope, Started: r.Started.UTC(), Seconds: max(0, now.Sub(r.Started).Seconds()),
	}
}

// died is the event of a run that has no end.
func (r *Run) died(now time.Time) *Event {
	e := r.Event(Failed, now)
	e.Seconds = 0
	e.Error = fmt.Sprintf("the run was killed, or its machine went down: it began %s as process %d on %s and never ended",
		r.Started.UTC().Format(timeLayout), r.PID, r.Host)
	e.Advice = []string{"look into the log of that machine for the reason: memory (dmesg, journalctl -k), a restart, a time limit"}
	return e
}

// Delivery is how the delivery of one event to one channel went.
type Delivery struct {
	Channel string
	Event   *Event
	Err     error // nil: it was delivered
}

// Running is a run that has begun.
type Running struct {
	outbox *Outbox
	run    *Run
	unlock func() error
	sent   chan []Delivery // of what was delivered when it began
}

// Begin notes that a run begins, tells the heartbeats, and in the background
// delivers what waits: runs that were killed among it. It does not wait for any
// of that. End must follow.
func (o *Outbox) Begin(ctx context.Context, run Run) *Running {
	r := &Running{outbox: o, run: &run, sent: make(chan []Delivery, 1)}
	claim := NewID()
	var mine []*pending
	err := o.store.update(ctx, func(st *state) {
		o.bury(ctx, st)
		if unlock, err := o.store.live(ctx, run.ID); err != nil {
			o.Log.Warn("if this run is killed, the next one will not tell", "error", err)
		} else {
			r.unlock = unlock
			st.Running = append(st.Running, r.run)
		}
		mine = o.claim(st, claim)
	})
	if err != nil {
		mine = nil // nobody knows of the claim
		o.Log.Warn("the beginning of the run could not be noted for notifications", "error", err)
	}
	start := o.scrub.event(*run.Event(Begun, o.Now()))
	go func() { r.sent <- o.deliver(context.WithoutCancel(ctx), o.Timeout/3, claim, mine, start) }()
	return r
}

// bury tells of the runs that have died. A run takes its lock before it is in a
// state: with the state in hand, those that live are known.
func (o *Outbox) bury(ctx context.Context, st *state) {
	if len(st.Running) == 0 {
		return
	}
	living, known := o.store.living(ctx)
	if !known {
		return
	}
	st.Running = slices.DeleteFunc(st.Running, func(r *Run) bool {
		if living[r.ID] {
			return false
		}
		o.take(st, r.died(o.Now()))
		return true
	})
}

// End tells how the run ended, nil: nobody, and returns what became of all messages. It takes
// no longer than the timeout, whatever notifiers do, also after ctx was cancelled.
func (r *Running) End(ctx context.Context, e *Event) []Delivery {
	before := <-r.sent
	all := r.outbox.tell(context.WithoutCancel(ctx), e, r.run.ID)
	if r.unlock != nil {
		if err := r.unlock(); err != nil {
			r.outbox.Log.Warn("the lock of the run could not be given up", "error", err)
		}
	}
	return append(before, all...)
}

// Tell tells of an event that no Begin announced, and delivers what waits.
func (o *Outbox) Tell(ctx context.Context, e *Event) []Delivery {
	return o.tell(context.WithoutCancel(ctx), e, "")
}

// Flush delivers what waits, runs that were killed among it. Where there is neither
// it writes nothing.
func (o *Outbox) Flush(ctx context.Context) []Delivery {
	if st, err := o.store.load(ctx); err == nil && len(st.Pending) == 0 && len(st.Running) == 0 {
		return nil
	}
	return o.tell(context.WithoutCancel(ctx), nil, "")
}

func (o *Outbox) tell(ctx context.Context, e *Event, run string) []Delivery {
	claim := NewID()
	var mine []*pending
	var fleeting *Event
	err := o.store.update(ctx, func(st *state) {
		st.Running = slices.DeleteFunc(st.Running, func(r *Run) bool { return r.ID == run })
		o.bury(ctx, st)
		if e != nil {
			fleeting = o.take(st, e)
		}
		mine = o.claim(st, claim)
	})
	if err != nil {
		mine, claim = nil, "" // nobody knows of it
		o.Log.Warn("what is to be told could not be noted: it is told at once, and not again if that fails", "error", err)
	}
	if err != nil && e != nil {
		fleeting = o.scrub.event(*e)
		for _, c := range o.Channels {
			if !c.Fleeting && c.wants(fleeting) {
				mine = append(mine, &pending{Channel: c.Name, Event: fleeting})
			}
		}
	}
	return o.deliver(ctx, o.Timeout-o.Timeout/3, claim, mine, fleeting)
}

// take notes an event, and for which channels it waits. It returns what is to be
// told; nil: nobody has to know.
func (o *Outbox) take(st *state, e *Event) *Event {
	full := *e
	key := streamOf(e)
	s := st.Streams[key]
	if s == nil {
		s = &stream{}
		st.Streams[key] = s
	}
	if !s.take(&full) {
		return nil
	}
	if len(s.Open) == 0 {
		delete(st.Streams, key)
	}
	told := o.scrub.event(full)
	for _, c := range o.Channels {
		if !c.Fleeting && c.wants(told) {
			st.Pending = append(st.Pending, &pending{Channel: c.Name, Event: told})
		}
	}
	o.bound(st)
	return told
}

// bound gives up what waits in vain for too long, or is too much.
func (o *Outbox) bound(st *state) {
	count := map[string]int{}
	for _, p := range st.Pending {
		count[p.Channel]++
	}
	old := o.Now().Add(-maxAge)
	st.Pending = slices.DeleteFunc(st.Pending, func(p *pending) bool {
		if count[p.Channel] <= maxPending && p.Event.Time.After(old) {
			return false
		}
		count[p.Channel]--
		st.channel(p.Channel).Lost++
		o.Log.Warn("a message that could not be delivered is given up", "channel", p.Channel, "event", p.Event.ID, "error", p.Error)
		return true
	})
}

// claim takes what waits for the channels of this process and what nobody else
// is delivering.
func (o *Outbox) claim(st *state, by string) (mine []*pending) {
	now := o.Now()
	for _, p := range st.Pending {
		known := slices.ContainsFunc(o.Channels, func(c Channel) bool { return c.Name == p.Channel })
		if known && (p.Claim == "" || now.After(p.Until)) {
			p.Claim, p.Until = by, now.Add(2*o.Timeout)
			mine = append(mine, p)
		}
	}
	return mine
}

func (st *state) channel(name string) *channelState {
	c := st.Channels[name]
	if c == nil {
		c = &channelState{}
		st.Channels[name] = c
	}
	return c
}

// deliver delivers what is claimed, and an event to those channels that keep none,
// and notes what became of it. An empty claim says that nothing is noted.
func (o *Outbox) deliver(ctx context.Context, limit time.Duration, claim string, mine []*pending, fleeting *Event) []Delivery {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var mu sync.Mutex
	var all []Delivery
	var wg sync.WaitGroup
	for _, c := range o.Channels {
		var events []*Event
		for _, p := range mine {
			if p.Channel == c.Name {
				events = append(events, p.Event)
			}
		}
		if c.Fleeting && fleeting != nil && c.wants(fleeting) {
			events = []*Event{fleeting}
		}
		if len(events) == 0 {
			continue
		}
		wg.Go(func() {
			done := o.sendAll(limited, c, events)
			mu.Lock()
			defer mu.Unlock()
			all = append(all, done...)
		})
	}
	wg.Wait()
	if claim != "" && (len(all) > 0 || len(mine) > 0) {
		if err := o.store.update(ctx, func(st *state) { o.settle(st, claim, all) }); err != nil {
			o.Log.Warn("it could not be noted which messages were delivered: the next run may deliver them again", "error", err)
		}
	}
	return all
}

// settle notes what became of the deliveries of a claim.
func (o *Outbox) settle(st *state, claim string, all []Delivery) {
	now := o.Now().UTC()
	type target struct{ channel, event string }
	results := map[target]Delivery{}
	for _, d := range all {
		results[target{d.Channel, d.Event.ID}] = d
		c := st.channel(d.Channel)
		if d.Err == nil {
			c.Delivered, c.Error = now, ""
		} else {
			c.Failed, c.Error = now, o.scrub.text(d.Err.Error(), maxText)
		}
	}
	st.Pending = slices.DeleteFunc(st.Pending, func(p *pending) bool {
		d, tried := results[target{p.Channel, p.Event.ID}]
		if tried && d.Err == nil {
			return true // whoever has claimed it since
		}
		if p.Claim == claim {
			p.Claim, p.Until = "", time.Time{}
		}
		if tried {
			p.Attempts++
			p.Error = o.scrub.text(d.Err.Error(), maxText)
		}
		return false
	})
}

// Status is how a channel works.
type Status struct {
	Channel   string    `json:"channel"`
	Delivered time.Time `json:"delivered,omitzero"` // last; zero: never
	Failed    time.Time `json:"failed,omitzero"`
	Error     string    `json:"error,omitempty"` // empty: the last delivery worked, or there was none
	Waiting   int       `json:"waiting"`         // messages that could not be delivered yet
	Since     time.Time `json:"since,omitzero"`  // when the first of these happened
	Lost      int       `json:"lost,omitempty"`  // messages that were given up
}

// Status returns how each channel works: those of the options, and others for
// which messages wait.
func (o *Outbox) Status(ctx context.Context) ([]Status, error) {
	st, err := o.store.load(ctx)
	if err != nil {
		return nil, fmt.Errorf("read notifications: %w", err)
	}
	found := map[string]*Status{}
	at := func(name string) *Status {
		if found[name] == nil {
			c := st.channel(name)
			found[name] = &Status{Channel: name, Delivered: c.Delivered, Failed: c.Failed, Error: c.Error, Lost: c.Lost}
		}
		return found[name]
	}
	for _, c := range o.Channels {
		at(c.Name)
	}
	for _, p := range st.Pending {
		s := at(p.Channel)
		s.Waiting++
		if s.Since.IsZero() || p.Event.Time.Before(s.Since) {
			s.Since = p.Event.Time
		}
	}
	var list []Status
	for _, name := range slices.Sorted(maps.Keys(found)) {
		list = append(list, *found[name])
	}
	return list, nil
}

// What stands for schemas in the history of runs.
const (
	WholeRun  = "*" // all of them, where a run failed that was to save all
	Elsewhere = ""  // what a run was to do besides them, such as a baseline
)

// streamOf names the history that an event belongs to.
func streamOf(e *Event) string {
	return strings.Join([]string{string(e.Job), e.Server, e.Database}, " ")
}

// take adds an event to the history, completes it with what that says, and
// reports whether it is news.
func (s *stream) take(e *Event) bool {
	switch {
	case e.Kind == Test || e.Kind == Begun:
		return true
	case e.Job == Health:
		return s.takeHealth(e)
	}
	was := len(s.Open) > 0
	s.close(e.Scope)
	if e.Settled != nil {
		maps.DeleteFunc(s.Open, func(name, _ string) bool { return e.Settled(name) })
	}
	s.open(e)
	switch {
	case e.Kind.Bad():
		if s.Failures++; s.Failures == 1 {
			s.Since = e.Time
		}
		e.Failures, e.Since = s.Failures, s.Since
	case was && len(s.Open) == 0:
		e.Kind, e.Failures, e.Since = Recovered, s.Failures, s.Since
		s.Failures, s.Since = 0, time.Time{}
	}
	return true
}

// close takes what a run was to save off what is open.
func (s *stream) close(scope []string) {
	if len(scope) == 0 {
		s.Open = nil
	}
	for _, name := range scope {
		delete(s.Open, name)
	}
}

// open notes what a run did not save.
func (s *stream) open(e *Event) {
	var names []string
	switch e.Kind {
	case Failed:
		names = e.Scope
	case Partial:
		for _, p := range e.Problems {
			names = append(names, p.Schema)
		}
	default:
		return
	}
	if len(names) == 0 {
		names = []string{WholeRun}
	}
	for _, name := range names {
		if s.Open == nil {
			s.Open = map[string]string{}
		}
		s.Open[name] = string(e.Kind)
	}
}

// takeHealth compares the checks that are not good with those that were not good
// before.
func (s *stream) takeHealth(e *Event) bool {
	now := map[string]string{}
	news := false
	for _, c := range e.Checks {
		key := strings.TrimSpace(c.Name + " " + c.Tenant)
		now[key] = c.State
		if before, known := s.Open[key]; !known || worse(c.State, before) {
			news = true
		}
	}
	was, since := len(s.Open) > 0, s.Since
	s.Open = now
	switch {
	case len(now) == 0:
		s.Since = time.Time{}
		e.Kind, e.Since = Improved, since
		return was
	case !was:
		s.Since = e.Time
	}
	e.Kind, e.Since = Worsened, s.Since
	return news
}

// worse reports whether a check of health turned from a warning to something
// worse.
func worse(now, before string) bool { return now != before && now == "critical" }
