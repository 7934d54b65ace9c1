// Package notify tells people and programs how runs ended: by e-mail, Slack, a
// signed webhook, and the ping of a dead-man switch.
//
// An event is one thing worth telling, with an id that stays the same however
// often it is sent. A notifier delivers events to one place. The outbox keeps
// in the repository what is to be delivered, so that a notifier that fails, or
// a process that is killed, loses no event and a working one gets each once.
package notify

import (
	"context"
	"crypto/rand"
	"strings"
	"time"
)

// Notifier delivers events to one place. An error that is a *PermanentError is
// not worth another attempt of the same run; every other one is.
type Notifier interface {
	Notify(ctx context.Context, e *Event) error
}

// Kind is what an event tells.
type Kind string

// The kinds of events.
const (
	Succeeded Kind = "succeeded"
	Partial   Kind = "partial" // some tenants failed, the rest is safe
	Failed    Kind = "failed"
	Recovered Kind = "recovered" // succeeded, after it had failed or was partial
	Worsened  Kind = "worsened"  // a check of health turned bad
	Improved  Kind = "improved"  // all checks are good again
	Test      Kind = "test"
	// Begun is that a run begins. Only heartbeats are told.
	Begun Kind = "begun"
)

// Bad reports whether somebody has to do something.
func (k Kind) Bad() bool { return k == Partial || k == Failed || k == Worsened }

// Job is what an event is about.
type Job string

// The jobs.
const (
	Backup  Job = "backup"
	Cleanup Job = "cleanup"
	Drill   Job = "drill"
	Health  Job = "health"
	Nothing Job = "" // of a test
)

// Event is one thing worth telling. Its JSON is what webhooks get: fields are
// only ever added. Texts from elsewhere are made fit for others when an Outbox takes
// the event over.
type Event struct {
	// ID stays the same in every attempt to deliver the event, so that a receiver
	// can tell that it has it already.
	ID   string    `json:"id"`
	Kind Kind      `json:"kind"`
	Job  Job       `json:"job,omitempty"`
	Time time.Time `json:"time"` // when it happened: the end of the run

	Run        string `json:"run,omitempty"`      // names the run, also one without a backup
	Database   string `json:"database,omitempty"` // name
	Server     string `json:"server,omitempty"`   // host and port
	Repository string `json:"repository,omitempty"`
	Host       string `json:"host,omitempty"` // the machine that ran it
	Version    string `json:"version,omitempty"`

	Backup string   `json:"backup,omitempty"` // id; empty: none was made
	Type   string   `json:"type,omitempty"`   // full, incremental or baseline
	Scope  []string `json:"scope,omitempty"`  // the schemas that were asked for; empty: all

	Started time.Time `json:"started,omitzero"`
	Seconds float64   `json:"seconds,omitempty"`
	Schemas int       `json:"schemas,omitempty"` // saved
	Tables  int64     `json:"tables,omitempty"`
	Rows    int64     `json:"rows,omitempty"`
	Bytes   int64     `json:"bytes,omitempty"`  // of rows, before compression
	Stored  int64     `json:"stored,omitempty"` // by this run, in bytes

	// Error is why the run failed as a whole; Problems are those of single tenants.
	// Of many problems the first are told, of so many in ProblemCount.
	Error        string    `json:"error,omitempty"`
	Problems     []Problem `json:"problems,omitempty"`
	ProblemCount int       `json:"problem_count,omitempty"`
	Checks       []Check   `json:"checks,omitempty"` // of health, that are not good
	CheckCount   int       `json:"check_count,omitempty"`

	// Settled says of a schema outside of Scope, or of WholeRun, whether the run found
	// out that all is well with it. Nil: of none.
	Settled func(schema string) bool `json:"-"`

	Comparison *Comparison `json:"comparison,omitempty"` // nil: there is nothing to compare with
	Advice     []string    `json:"advice,omitempty"`     // what to do next

	// Failures is how many runs failed in a row, this one included; of Recovered,
	// before this one. Since is when the first of them ended.
	Failures int       `json:"failures,omitempty"`
	Since    time.Time `json:"since,omitzero"`
}

// Problem is what was wrong with one tenant.
type Problem struct {
	Tenant string `json:"tenant"`
	Schema string `json:"schema,omitempty"`
	Error  string `json:"error"`
	Media  bool   `json:"media,omitempty"` // its rows are saved, and not all of its files
}

// Check is a check of health that is not good.
type Check struct {
	Name   string `json:"name"`
	State  string `json:"state"` // warning, critical or unknown
	Tenant string `json:"tenant,omitempty"`
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
}

// NewID returns an id for an event.
func NewID() string { return strings.ToLower(rand.Text()) }

// PermanentError is a failure that another attempt with the same settings would
// only repeat.
type PermanentError struct{ Err error }

func (e *PermanentError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *PermanentError) Unwrap() error { return e.Err }
