// Package health judges whether the backups are as they should be. It touches
// nothing: it is given facts, targets and the time, and answers with a report.
//
// A check looks at one side of the whole and is ok, a warning or critical. A
// finding is one thing that a check found. What cannot be judged because the
// facts could not be read is critical, never ok.
package health

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/dustin/go-humanize/english"
)

// State is how good or bad something is; the worse, the greater. Its numbers are
// the exit codes of the command.
type State int

// The states.
const (
	OK State = iota
	Warning
	Critical
)

// String returns the state as it stands in reports.
func (s State) String() string {
	switch s {
	case OK:
		return "ok"
	case Warning:
		return "warning"
	default:
		return "critical"
	}
}

// MarshalText writes the state as a word.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// The checks, in the order of a report.
const (
	CheckDatabase      = "database"
	CheckRepository    = "repository"
	CheckFreshness     = "freshness"
	CheckRun           = "run"
	CheckSchedule      = "schedule"
	CheckDisk          = "disk"
	CheckIntegrity     = "integrity"
	CheckRetention     = "retention"
	CheckDrill         = "drill"
	CheckChanges       = "changes"
	CheckLocks         = "locks"
	CheckLeftovers     = "leftovers"
	CheckNotifications = "notifications"
	CheckSettings      = "settings" // only of a process that stays
)

// Report is what the checks found. Fields are only ever added.
type Report struct {
	Time     time.Time `json:"time"`
	State    State     `json:"state"` // the worst of all
	Database string    `json:"database,omitempty"`
	Checks   []Check   `json:"checks"`
	Tenants  []Tenant  `json:"tenants"`
	Runs     []Run     `json:"runs"` // the newest backup of each type
	// Disk is nil where the space of the repository is not known.
	Disk *DiskReport `json:"disk,omitempty"`
	// NextRun is when the schedule is going to make the next backup; zero: not known.
	NextRun time.Time `json:"next_run,omitzero"`
}

// Check is one side of the whole.
type Check struct {
	Name    string `json:"name"`
	State   State  `json:"state"`
	Message string `json:"message"`
	// Cause is the error behind it, in the words of the database or of the system; it
	// may name tables and what is in them. Empty: there is none.
	Cause string `json:"cause,omitempty"`
	// Remedy is what to do first; empty where nothing is to be done.
	Remedy   string    `json:"remedy,omitempty"`
	Findings []Finding `json:"findings"`
	// Count is how many findings there are; the first of them are listed.
	Count int `json:"count"`
}

// Finding is one thing that a check found, about a schema where it has one.
type Finding struct {
	State   State  `json:"state"`
	Schema  string `json:"schema,omitempty"`
	Tenant  string `json:"tenant,omitempty"`
	Message string `json:"message"`
	Cause   string `json:"cause,omitempty"` // as that of a check
	Remedy  string `json:"remedy,omitempty"`
}

// Tenant is how one schema, core among them, is protected.
type Tenant struct {
	Schema string `json:"schema"`
	Tenant string `json:"tenant"`
	State  State  `json:"state"`
	// Message says what is wrong; empty: nothing.
	Message string `json:"message,omitempty"`
	Cause   string `json:"cause,omitempty"` // as that of a check
	// Backup is the newest one that has the schema whole, taken at Success; empty:
	// there is none.
	Backup  string    `json:"backup,omitempty"`
	Success time.Time `json:"last_success,omitzero"`
	Failure time.Time `json:"last_failure,omitzero"` // the newest run that could not save it
	Age     *int64    `json:"age_seconds"`           // null: never backed up
	// Target is the age that is still good; null: any is.
	Target *int64 `json:"target_seconds"`
	Tables int64  `json:"tables"`
	Rows   int64  `json:"rows"`
	Bytes  int64  `json:"bytes_text"`   // of rows, before compression
	Stored int64  `json:"bytes_stored"` // of its data file and its media archive
}

// Run is the newest backup of one type.
type Run struct {
	Type    string    `json:"type"`
	Backup  string    `json:"backup"`
	Time    time.Time `json:"time"`
	Partial bool      `json:"partial"`
	Seconds *float64  `json:"seconds"` // null: not known
	Schemas int       `json:"schemas"`
	Rows    int64     `json:"rows"`
	Stored  int64     `json:"bytes_stored"` // that this run has written
}

// DiskReport is the space of the repository, in bytes.
type DiskReport struct {
	Used  int64 `json:"used"` // by backups
	Free  int64 `json:"free"`
	Total int64 `json:"total"` // of the file system
	// Growth is by how much the backups grow in a day, retention reckoned in; null:
	// not known.
	Growth *float64 `json:"growth_per_day"`
	// DaysLeft is for how long the space is enough; null: it does not end, or is
	// not known.
	DaysLeft *float64 `json:"days_left"`
}

// maxFindings is how many findings of a check are listed.
const maxFindings = 100

// Judge makes the report.
func Judge(f *Facts, t Targets) *Report {
	j := &judge{Facts: f, targets: t, report: &Report{
		Time: f.Now.UTC().Truncate(time.Second), Database: f.Database.Name,
		Checks: []Check{}, Tenants: []Tenant{}, Runs: []Run{}, NextRun: f.Schedule.Next.UTC(),
	}}
	j.database()
	j.repository()
	if f.Repository.Err == "" {
		j.freshness()
		j.run()
		j.schedule()
		j.disk()
		j.integrity()
		j.retention()
		j.drill()
		j.changes()
	}
	j.locks()
	j.leftovers()
	j.notifications()
	if f.Serving {
		j.settings()
	}
	for _, c := range j.report.Checks {
		j.report.State = max(j.report.State, c.State)
	}
	return j.report
}

// judge is one judgement.
type judge struct {
	*Facts
	targets Targets
	report  *Report
	latest  map[string]*latest // by schema
}

// verdict is a check in the making.
type verdict struct {
	name string
	list []Finding
}

// find adds a finding, whose cause may be filled in.
func (v *verdict) find(state State, message, remedy string) *Finding {
	return v.tenant(state, "", "", message, remedy)
}

func (v *verdict) tenant(state State, schema, tenant, message, remedy string) *Finding {
	v.list = append(v.list, Finding{State: state, Schema: schema, Tenant: tenant, Message: message, Remedy: remedy})
	return &v.list[len(v.list)-1]
}

// close adds the check to the report. Its message is good where nothing is wrong,
// else the worst finding.
func (j *judge) close(v *verdict, good string) {
	slices.SortStableFunc(v.list, func(a, b Finding) int { return int(b.State) - int(a.State) })
	c := Check{Name: v.name, Message: good, Findings: v.list, Count: len(v.list)}
	if c.Findings == nil {
		c.Findings = []Finding{}
	}
	if len(v.list) > 0 {
		worst := v.list[0]
		c.State, c.Remedy, c.Message, c.Cause = worst.State, worst.Remedy, worst.named(), worst.Cause
	}
	c.Findings = c.Findings[:min(len(c.Findings), maxFindings)]
	j.report.Checks = append(j.report.Checks, c)
}

// Text is what the check says for people: its worst finding, and how many others
// there are.
func (c Check) Text() string {
	text := withCause(c.Message, c.Cause)
	if n := c.Count - 1; n > 0 {
		text += fmt.Sprintf("; and %d more", n)
	}
	return text
}

// Text is the finding for people.
func (f Finding) Text() string { return withCause(f.named(), f.Cause) }

// named is the finding with the name of its schema.
func (f Finding) named() string {
	if f.Schema == "" {
		return f.Message
	}
	return called(f.Schema) + " " + f.Message
}

func withCause(message, cause string) string {
	if cause == "" {
		return message
	}
	return message + ": " + cause
}

// Public is the report without causes, for whoever may know how the backups are
// and not what is in the database.
func (r *Report) Public() *Report {
	p := *r
	p.Checks, p.Tenants = slices.Clone(r.Checks), slices.Clone(r.Tenants)
	for i := range p.Checks {
		c := &p.Checks[i]
		c.Cause, c.Findings = "", slices.Clone(c.Findings)
		for n := range c.Findings {
			c.Findings[n].Cause = ""
		}
	}
	for i := range p.Tenants {
		p.Tenants[i].Cause = ""
	}
	return &p
}

// Check returns the check of that name.
func (r *Report) Check(name string) (Check, bool) {
	i := slices.IndexFunc(r.Checks, func(c Check) bool { return c.Name == name })
	if i < 0 {
		return Check{}, false
	}
	return r.Checks[i], true
}

// Bad returns the checks that are not ok, the worst first.
func (r *Report) Bad() []Check {
	bad := slices.DeleteFunc(slices.Clone(r.Checks), func(c Check) bool { return c.State == OK })
	slices.SortStableFunc(bad, func(a, b Check) int { return int(b.State) - int(a.State) })
	return bad
}

// Lasting is the report without what the report before did not show: each check is
// as bad as it was in both. What mends itself within minutes is not worth a message.
func (r *Report) Lasting(before *Report) *Report {
	l := *r
	l.State, l.Checks = OK, slices.Clone(r.Checks)
	for i := range l.Checks {
		c := &l.Checks[i]
		was, _ := before.Check(c.Name)
		c.State = min(c.State, was.State)
		l.State = max(l.State, c.State)
	}
	return &l
}

// called is a name as it stands in a sentence: quoted where it is not one plain
// word.
func called(name string) string {
	plain := func(c rune) bool {
		return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("_-.$", c)
	}
	if name == "" || strings.ContainsFunc(name, func(c rune) bool { return !plain(c) }) {
		return fmt.Sprintf("%q", name)
	}
	return name
}

// some names the first of a list, and how many others there are.
func some(names []string) string {
	const enough = 3
	text := strings.Join(names[:min(len(names), enough)], ", ")
	if n := len(names) - enough; n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	return text
}

// span is a length of time for people.
func span(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return d.Round(time.Second).String()
	case d < 2*time.Hour:
		return english.Plural(int(d.Round(time.Minute)/time.Minute), "minute", "")
	case d < 72*time.Hour:
		return english.Plural(int(d/time.Hour), "hour", "")
	default:
		return english.Plural(int(d/(24*time.Hour)), "day", "")
	}
}

// moment is a time for people.
func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// size is a number of bytes for people.
func size(n int64) string { return humanize.Bytes(uint64(max(0, n))) }
