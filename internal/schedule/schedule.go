// Package schedule decides which backups are due.
//
// The decision is a pure function. It looks at the backups that exist, not at what
// was to have happened: something is due once one of its times has passed since the
// last backup that counts. So what was missed is caught up, what failed is tried
// again, and a tenant that no backup holds gets a full one at once, whatever the
// calendar says.
package schedule

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
	"github.com/tenantkeep/tenantkeep/internal/wildcard"
)

// Settings say when what is to be backed up.
type Settings struct {
	Baseline, Full, Incremental When
	Rules                       []Rule // for tenants of their own; the first that matches counts

	// Type is the type of all scheduled backups; empty: whichever is due.
	Type     manifest.Type
	Zone     *time.Location // of the clock by which things are due; nil: UTC
	MaxChain int            // how many files of earlier backups a schema may need; 0: any number
	Media    bool           // the files of tenants are saved too

	// BaselineAsked says that somebody decided that the schedule makes the baseline
	// of core. Otherwise it only renews one that was made by hand.
	BaselineAsked bool
	// NoBaseline is why no baseline of core can be made; empty: one can.
	NoBaseline string
}

// Facts are what there is.
type Facts struct {
	Now      time.Time
	Database manifest.Database    // by name, encoding and, where it is known, system identifier
	Schemas  []string             // that are to be backed up, core among them
	Backups  []*manifest.Manifest // in any order, also those of other databases
	// Lacks reports whether files are missing that the n-th entry of a backup needs: it
	// counts as little as one that was never made. Nil: none are.
	Lacks func(m *manifest.Manifest, n int) bool
}

// Cause is what a decision comes from.
type Cause string

// The causes. Those from New to Chain are of something that is due.
const (
	New    Cause = "new"     // no backup has it
	NoFull Cause = "no-full" // there is no full backup of it
	Time   Cause = "time"    // its time has come
	Missed Cause = "missed"  // its time came more than once
	Failed Cause = "failed"  // the last run could not save it
	Files  Cause = "files"   // the last run could not save all files of it
	Lost   Cause = "lost"    // files are missing that its newest backup needs
	Chain  Cause = "chain"   // it needs too many files of earlier backups

	Waiting Cause = "waiting" // its next time is yet to come
	Off     Cause = "off"     // its schedule is off
	Blocked Cause = "blocked" // it cannot be made
)

// Past is a backup that was made. The zero value is none.
type Past struct {
	ID   string        `json:"id"`
	Type manifest.Type `json:"type"` // of this schema
	Time time.Time     `json:"time"`
}

// Decision is what is to be done about one schema, or the baseline of core, and why.
type Decision struct {
	Schema string
	Due    manifest.Type // empty: nothing
	Cause  Cause
	Why    string    // a clause for people
	Since  time.Time // when it became due; zero: not due, or since it exists
	Last   Past      // the newest backup of it
	Full   Past      // the newest that needs no other
	Files  bool      // not all of its files are in the newest backup
	Next   time.Time // when something is due after that; zero: never
}

// Plan is what is to be done about all.
type Plan struct {
	Decisions []Decision // in the order of Facts.Schemas
	Baseline  Decision   // of core, of type Baseline
	Next      time.Time  // when something is due that is not yet; zero: never
}

// Work reports whether anything is due.
func (p *Plan) Work() bool {
	return p.Baseline.Due != "" || slices.ContainsFunc(p.Decisions, func(d Decision) bool { return d.Due != "" })
}

// Step is one backup that a plan asks for.
type Step struct {
	Type    manifest.Type
	Schemas []string // nil: all
	Full    []string // of an incremental backup: those that are taken in full
}

// Steps are the backups that are to be made, one after the other. What is due of
// core and tenants is one backup, so that all of it is of one moment.
func (p *Plan) Steps() []Step {
	var steps []Step
	var due, full []string
	for _, d := range p.Decisions {
		if d.Due == "" {
			continue
		}
		due = append(due, d.Schema)
		if d.Due == manifest.Full {
			full = append(full, d.Schema)
		}
	}
	if len(due) > 0 {
		s := Step{Type: manifest.Incremental, Schemas: due, Full: full}
		if len(full) == len(due) {
			s.Type, s.Full = manifest.Full, nil
		}
		if len(due) == len(p.Decisions) {
			s.Schemas = nil
		}
		steps = append(steps, s)
	}
	if p.Baseline.Due != "" {
		steps = append(steps, Step{Type: manifest.Baseline, Schemas: []string{manifest.CoreSchema}})
	}
	return steps
}

// future is by how much a backup may be from the future, where the clocks of two
// machines differ. One that is further ahead was made while a clock was wrong, and
// would keep all others from being made until its time has come.
const future = time.Hour

// Decide says what is due.
func Decide(f Facts, s Settings) *Plan {
	s.Zone = cmp.Or(s.Zone, time.UTC)
	d := decider{Facts: f, Settings: s, past: map[string]*history{}, known: map[tick]time.Time{}}
	d.read()
	p := &Plan{Decisions: make([]Decision, 0, len(f.Schemas))}
	for _, name := range f.Schemas {
		p.Decisions = append(p.Decisions, d.schema(name))
	}
	p.Baseline = d.decideBaseline()
	for _, d := range append(p.Decisions[:len(p.Decisions):len(p.Decisions)], p.Baseline) {
		p.Next = earlier(p.Next, d.Next)
	}
	return p
}

// decider is one decision about everything.
type decider struct {
	Facts
	Settings
	past     map[string]*history // by schema
	baseline Past
	lost     string // the newest baseline, where its files are missing
	known    map[tick]time.Time
}

// tick is the first time of a When after a moment. Most schemas ask for the same
// ones: they were saved by the same runs.
type tick struct {
	when  When
	after int64
}

// next is When.Next by the clock of the schedule.
func (d *decider) next(w When, after time.Time) time.Time {
	key := tick{w, after.UnixNano()}
	at, ok := d.known[key]
	if !ok {
		at = w.Next(after, d.Zone)
		d.known[key] = at
	}
	return at
}

// history is what is known of one schema.
type history struct {
	last, full  Past
	chain       int       // files of earlier backups that the last one needs
	filesFailed int       // how many of the newest backups in a row lack files
	allFiles    bool      // one was seen that does not
	failed      string    // the run that could not save it, after the last that did
	failure     string    // why
	failedAt    time.Time // when it began
	lost        string    // a backup after the last that counts whose files are missing
}

// read goes through the backups, the newest first.
func (d *decider) read() {
	for _, name := range d.Schemas {
		d.past[name] = &history{}
	}
	backups := slices.DeleteFunc(slices.Clone(d.Backups), func(m *manifest.Manifest) bool {
		return !d.ofDatabase(m) || m.Timestamp.After(d.Now.Add(future))
	})
	slices.SortStableFunc(backups, func(a, b *manifest.Manifest) int {
		return cmp.Or(b.Timestamp.Compare(a.Timestamp.Time), strings.Compare(b.ID, a.ID))
	})
	for _, m := range backups {
		if m.BackupType == manifest.Baseline {
			i := slices.IndexFunc(m.Schemas, manifest.Schema.IsCore)
			switch {
			case d.baseline.ID != "" || i < 0:
			case d.lacks(m, i):
				d.lost = cmp.Or(d.lost, m.ID)
			default:
				d.baseline = Past{ID: m.ID, Type: manifest.Baseline, Time: m.Timestamp.Time}
			}
			continue
		}
		for i := range m.Schemas {
			h := d.past[m.Schemas[i].Schema]
			switch {
			case h == nil:
			case d.lacks(m, i):
				if h.last.ID == "" && h.failed == "" {
					h.lost = cmp.Or(h.lost, m.ID)
				}
			default:
				h.add(m, &m.Schemas[i])
			}
		}
		for _, f := range m.Failures {
			if h := d.past[f.Schema]; h != nil && h.last.ID == "" && h.failed == "" && h.lost == "" {
				h.failed, h.failure, h.failedAt = m.ID, f.Error, m.Timestamp.Time
			}
		}
	}
}

// lacks reports whether files of an entry are missing.
func (d *decider) lacks(m *manifest.Manifest, n int) bool {
	return d.Lacks != nil && m.Schemas[n].Filepath != "" && d.Lacks(m, n)
}

// ofDatabase reports whether a backup is of the database, and one that others can
// be built on.
func (d *decider) ofDatabase(m *manifest.Manifest) bool {
	of := m.Database
	return m.Format > 0 && of != nil && of.Name == d.Database.Name && of.Encoding == d.Database.Encoding &&
		(of.SystemIdentifier == d.Database.SystemIdentifier || of.SystemIdentifier == "" || d.Database.SystemIdentifier == "")
}

// add takes notice of a backup, older than those before.
func (h *history) add(m *manifest.Manifest, e *manifest.Schema) {
	if e.Filepath == "" {
		return
	}
	p := Past{ID: m.ID, Type: e.Type, Time: m.Timestamp.Time}
	full := e.Timestamp == m.ID && len(e.References) == 0
	if full {
		p.Type = manifest.Full
	} else {
		p.Type = manifest.Incremental
	}
	if h.last.ID == "" {
		h.last, h.chain = p, len(e.References)
	}
	if full && h.full.ID == "" {
		h.full = p
	}
	if e.Media == nil || e.Media.Failed == 0 {
		h.allFiles = true
	}
	if !h.allFiles {
		h.filesFailed++
	}
}

// times are those of one schema.
func (d *decider) times(schema string) (full, incremental When) {
	of := func(typ manifest.Type, otherwise When) When {
		for _, r := range d.Rules {
			if (r.Type == typ || r.Type == "") && wildcard.Match(r.Pattern, schema) {
				return r.When
			}
		}
		return otherwise
	}
	return of(manifest.Full, d.Full), of(manifest.Incremental, d.Incremental)
}

// schema decides about one schema.
func (d *decider) schema(name string) Decision {
	full, incremental := d.times(name)
	h := d.past[name]
	r := Decision{Schema: name, Last: h.last, Full: h.full, Files: h.filesFailed > 0}
	switch {
	case d.Type == manifest.Baseline:
		r.Cause, r.Why = Off, "scheduled backups are baselines only"
		return r
	case full.Off() && incremental.Off():
		r.Cause, r.Why = Off, "its schedule is off"
		return r
	}
	t := d.ticks(h, full, incremental)
	switch {
	case h.last.ID == "" && h.failed != "":
		r.Due, r.Cause, r.Since = manifest.Full, Failed, h.failedAt
		r.Why = fmt.Sprintf("no backup has it: the one of %s could not save it (%s)", d.clock(h.failedAt), firstLine(h.failure))
	case h.last.ID == "" && h.lost != "":
		r.Due, r.Cause, r.Why = manifest.Full, Lost, fmt.Sprintf("no backup has it: files of %s are missing", h.lost)
	case h.last.ID == "":
		r.Due, r.Cause, r.Why = manifest.Full, New, "no backup has it yet"
	case !full.Off() && h.full.ID == "" && d.Type != manifest.Incremental:
		r.Due, r.Cause, r.Why = manifest.Full, NoFull, "there is no full backup of it"
	case d.come(t.full):
		d.due(&r, h, manifest.Full, t.full, full)
	case d.come(t.incremental):
		d.due(&r, h, manifest.Incremental, t.incremental, incremental)
	case d.Media && h.filesFailed == 1:
		// Once only: a file that cannot be read today cannot be tomorrow either,
		// more often than not.
		r.Due, r.Cause, r.Since = manifest.Incremental, Files, h.last.Time
		r.Why = fmt.Sprintf("not all of its files could be saved at %s", d.clock(h.last.Time))
	default:
		r.Cause, r.Next = Waiting, earlier(t.full, t.incremental)
		r.Why = "nothing is due"
		return r
	}
	d.force(&r, h)
	r.Next = earlier(d.next(full, d.Now), d.next(incremental, d.Now))
	return r
}

// ticks are the first times after the backups that count.
type ticks struct{ full, incremental time.Time }

func (d *decider) ticks(h *history, full, incremental When) ticks {
	if h.last.ID == "" {
		return ticks{}
	}
	after, since := h.full, h.last
	switch d.Type { // where all are of one type, each time asks for it
	case manifest.Full:
		since = h.full
	case manifest.Incremental:
		after = h.last
	}
	var t ticks
	if after.ID != "" {
		t.full = d.next(full, after.Time)
	}
	if since.ID != "" {
		t.incremental = d.next(incremental, since.Time)
	}
	return t
}

// come reports whether a time has come.
func (d *decider) come(t time.Time) bool { return !t.IsZero() && !t.After(d.Now) }

// due fills in a decision about something whose time has come.
func (d *decider) due(r *Decision, h *history, typ manifest.Type, tick time.Time, when When) {
	r.Due, r.Cause, r.Since = typ, Time, tick
	r.Why = fmt.Sprintf("%s backup due since %s", typ, d.clock(tick))
	switch second := d.next(when, tick); {
	case h.failed != "":
		r.Cause = Failed
		r.Why += fmt.Sprintf(", but the one of %s could not save it (%s)", d.clock(h.failedAt), firstLine(h.failure))
	case h.lost != "":
		r.Cause = Lost
		r.Why += fmt.Sprintf(", but files of %s are missing", h.lost)
	case d.come(second):
		r.Cause = Missed
		r.Why = fmt.Sprintf("%s backups were missed since %s", typ, d.clock(tick))
	}
}

// force makes what is due what is asked for, and full what must be.
func (d *decider) force(r *Decision, h *history) {
	switch {
	case d.Type == manifest.Full:
		r.Due = manifest.Full
	case d.Type == manifest.Incremental && h.last.ID != "":
		r.Due = manifest.Incremental
	}
	if r.Due == manifest.Incremental && d.MaxChain > 0 && h.chain >= d.MaxChain {
		r.Due, r.Cause = manifest.Full, Chain
		r.Why += fmt.Sprintf(", in full: it needs %d files of earlier backups", h.chain+1)
	}
}

// decideBaseline decides about the baseline of core.
func (d *decider) decideBaseline() Decision {
	r := Decision{Schema: manifest.CoreSchema, Last: d.baseline, Full: d.baseline}
	when := d.Baseline
	next := func(after time.Time) time.Time { return d.next(when, after) }
	asked := d.BaselineAsked
	if d.Type == manifest.Baseline {
		asked = true
		next = func(after time.Time) time.Time {
			return earlier(d.next(when, after), earlier(d.next(d.Full, after), d.next(d.Incremental, after)))
		}
	}
	switch {
	case !slices.Contains(d.Schemas, manifest.CoreSchema):
		r.Cause, r.Why = Off, "core is not among the schemas that are backed up"
		return r
	case d.Type != "" && d.Type != manifest.Baseline:
		r.Cause, r.Why = Off, fmt.Sprintf("scheduled backups are %s only", d.Type)
		return r
	case next(d.Now).IsZero():
		r.Cause, r.Why = Off, "its schedule is off"
		return r
	case !asked && d.baseline.ID == "" && d.lost == "":
		r.Cause, r.Why = Off, "none was made by hand so far"
		return r
	case d.NoBaseline != "":
		r.Cause, r.Why = Blocked, d.NoBaseline
		return r
	case d.baseline.ID == "" && d.lost != "":
		r.Due, r.Cause, r.Why = manifest.Baseline, Lost, fmt.Sprintf("files of %s are missing", d.lost)
	case d.baseline.ID == "":
		r.Due, r.Cause, r.Why = manifest.Baseline, New, "there is none yet"
	default:
		tick := next(d.baseline.Time)
		if !d.come(tick) {
			r.Cause, r.Why, r.Next = Waiting, "nothing is due", tick
			return r
		}
		d.due(&r, &history{}, manifest.Baseline, tick, when)
	}
	r.Next = next(d.Now)
	return r
}

// clock writes a time for people, by the clock of the schedule.
func (d *decider) clock(t time.Time) string { return t.In(d.Zone).Format("2006-01-02 15:04 MST") }

// earlier is the earlier of two times, of which either may be zero, for never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	const most = 120
	if r := []rune(line); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return line
}
