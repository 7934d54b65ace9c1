package ui

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// rateWindow is over how much time the rate is taken.
const rateWindow = 10 * time.Second

// meter counts what a stage has done.
type meter struct {
	tenants atomic.Int64 // how many there are

	doneTenants, failed, doneBytes, doneRows atomic.Int64

	mu      sync.Mutex // guards what follows
	stage   string
	bytes   int64 // how many there are, about; 0: unknown
	began   time.Time
	samples []sample // of the last rateWindow, oldest first
}

// sample is how many bytes were done at a moment.
type sample struct {
	at    time.Time
	bytes int64
}

func (m *meter) start(stage string, tenants int, bytes int64, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stage, m.bytes, m.began = stage, bytes, now
	m.samples = []sample{{at: now}}
	m.tenants.Store(int64(tenants))
	for _, n := range []*atomic.Int64{&m.doneTenants, &m.failed, &m.doneBytes, &m.doneRows} {
		n.Store(0)
	}
}

func (m *meter) add(bytes, rows int64) {
	m.doneBytes.Add(bytes)
	m.doneRows.Add(rows)
}

// tenantDone returns how many tenants are done, the failed ones among them.
func (m *meter) tenantDone(err error) int64 {
	if err != nil {
		m.failed.Add(1)
	}
	return m.doneTenants.Add(1)
}

// status is what a stage has done at a moment.
type status struct {
	Stage                string
	Tenants, DoneTenants int64 // done includes failed
	Failed               int64
	Bytes, DoneBytes     int64
	DoneRows             int64
	Rate                 float64       // bytes a second, of late
	Elapsed              time.Duration // since the start of the stage
	Left                 time.Duration // about; negative: unknown
	Fraction             float64       // of the work that is done, about; negative: unknown
}

// status takes the time and remembers a sample for the rate.
func (m *meter) status(now time.Time) status {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := status{
		Stage: m.stage, Tenants: m.tenants.Load(), DoneTenants: m.doneTenants.Load(), Failed: m.failed.Load(),
		Bytes: m.bytes, DoneBytes: m.doneBytes.Load(), DoneRows: m.doneRows.Load(), Elapsed: now.Sub(m.began),
	}
	for len(m.samples) > 1 && now.Sub(m.samples[1].at) > rateWindow {
		m.samples = m.samples[1:]
	}
	oldest := m.samples[0]
	if d := now.Sub(oldest.at).Seconds(); d > 0 {
		s.Rate = float64(s.DoneBytes-oldest.bytes) / d
	}
	m.samples = append(m.samples, sample{now, s.DoneBytes})
	s.Fraction = s.fraction()
	s.Left = s.left()
	return s
}

// fraction takes the mean of bytes and tenants, since each tenant costs time
// however small it is.
func (s status) fraction() float64 {
	parts, sum := 0, 0.0
	for _, of := range [][2]int64{{s.DoneTenants, s.Tenants}, {s.DoneBytes, s.Bytes}} {
		if of[1] > 0 {
			parts++
			sum += min(1, float64(of[0])/float64(of[1]))
		}
	}
	if parts == 0 {
		return -1
	}
	return sum / float64(parts)
}

// left guesses the time that is left, once there is enough to guess from.
func (s status) left() time.Duration {
	if s.Fraction < 0.02 || s.Elapsed < 2*time.Second {
		return -1
	}
	return time.Duration(float64(s.Elapsed) * (1 - s.Fraction) / s.Fraction)
}

// verbs are the stages as the user reads them.
var verbs = map[string]string{
	"media": "Saving media of", "verify media": "Verifying media of", "put media": "Putting media back of",
	"backup": "Backing up", "verify": "Verifying", "definitions": "Reading definitions",
	"define": "Creating definitions", "load": "Loading rows", "index": "Building indexes and keys", "compare": "Comparing",
}

func (s status) verb() string {
	if v, known := verbs[s.Stage]; known {
		return v
	}
	return Safe(s.Stage)
}

// announce is the first line of a stage where there is no bar.
func (m *meter) announce() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := status{Stage: m.stage}
	line := s.verb()
	if n := m.tenants.Load(); n > 0 {
		line += " " + Plural(n, "tenant")
	}
	if m.bytes > 0 {
		line += ", about " + Bytes(m.bytes)
	}
	return line
}

// line tells the status in one line.
func (s status) line() string { return s.tell(s.counts(), " of ") }

// short is the line that fits beside a bar.
func (s status) short() string {
	counts := s.verb()
	if s.Tenants > 0 {
		counts = Count(s.DoneTenants) + "/" + Plural(s.Tenants, "tenant")
	}
	return s.tell(counts, "/")
}

func (s status) tell(counts, of string) string {
	parts := []string{counts}
	if s.Bytes > s.DoneBytes {
		parts = append(parts, Bytes(s.DoneBytes)+of+Bytes(s.Bytes))
	} else if s.DoneBytes > 0 || s.Tenants > 0 {
		parts = append(parts, Bytes(s.DoneBytes))
	}
	if s.Rate >= 1 {
		parts = append(parts, Bytes(int64(s.Rate))+"/s")
	}
	if s.Left >= 0 {
		parts = append(parts, Duration(s.Left)+" left")
	}
	return strings.Join(parts, ", ")
}

// last tells the status when the stage is over.
func (s status) last() string {
	parts := []string{s.counts()}
	if s.DoneBytes > 0 || s.Tenants > 0 {
		parts = append(parts, Bytes(s.DoneBytes))
	}
	return strings.Join(append(parts, Duration(s.Elapsed)), ", ")
}

func (s status) counts() string {
	counts := s.verb()
	if s.Tenants > 0 {
		counts = fmt.Sprintf("%s: %s of %s", s.verb(), Count(s.DoneTenants), Plural(s.Tenants, "tenant"))
	}
	if s.Failed > 0 {
		counts += fmt.Sprintf(" (%s failed)", Count(s.Failed))
	}
	return counts
}
