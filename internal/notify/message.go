package notify

import (
	"cmp"
	"embed"
	"fmt"
	htmltemplate "html/template"
	"math"
	"strings"
	"text/template"
	"time"

	"github.com/dustin/go-humanize"
)

const timeLayout = "2006-01-02 15:04:05 UTC"

// message is an event as people read it; all that goes to people is made of it.
type message struct {
	Event   *Event
	Subject string
	Title   string
	Tone    tone
	Facts   []fact
	Changes []string // what is not as it was in the backup before
	More    int      // problems that are not listed
	MoreBad int      // checks that are not listed
}

// tone is how bad it is.
type tone string

const (
	good    tone = "good"
	warning tone = "warning"
	bad     tone = "bad"
	neutral tone = "neutral"
)

// fact is a line of a message.
type fact struct{ Name, Value string }

// newMessage writes an event for people.
func newMessage(e *Event) *message {
	m := &message{Event: e, Title: title(e), Tone: toneOf(e)}
	m.Subject = "[tenantkeep] " + strings.ReplaceAll(m.Title, "\n", " ")
	m.More = max(0, e.ProblemCount-len(e.Problems))
	m.MoreBad = max(0, e.CheckCount-len(e.Checks))
	m.facts()
	if e.Comparison != nil {
		m.compare(e.Comparison)
	}
	return m
}

func toneOf(e *Event) tone {
	switch e.Kind {
	case Failed:
		return bad
	case Partial:
		return warning
	case Worsened:
		for _, c := range e.Checks {
			if c.State == "critical" {
				return bad
			}
		}
		return warning
	case Test, Begun:
		return neutral
	default:
		return good
	}
}

// title says in one line what happened.
func title(e *Event) string {
	what := strings.ToUpper(string(e.Job[:min(1, len(e.Job))])) + string(e.Job[min(1, len(e.Job)):])
	if e.Database != "" {
		what += " of " + e.Database
	}
	again := ""
	if e.Failures > 1 {
		again = fmt.Sprintf(", %s time in a row", humanize.Ordinal(e.Failures))
	}
	switch e.Kind {
	case Failed:
		return what + " FAILED" + again
	case Partial:
		if e.ProblemCount == 0 {
			return what + " incomplete" + again
		}
		return fmt.Sprintf("%s incomplete: %s of %s%s", what, plural(int64(e.ProblemCount), "problem"), plural(int64(e.Schemas+missing(e)), "schema"), again)
	case Recovered:
		return what + " works again"
	case Worsened:
		return fmt.Sprintf("%s: %s", what, plural(int64(max(e.CheckCount, len(e.Checks))), "bad check"))
	case Improved:
		return what + " is good again"
	case Test:
		return "Test: notifications work"
	case Begun:
		return what + " begins"
	default:
		return what + " succeeded"
	}
}

// missing is how many schemas were not saved, of which files alone were not.
func missing(e *Event) int {
	n := e.ProblemCount - len(e.Problems)
	for _, p := range e.Problems {
		if !p.Media {
			n++
		}
	}
	return n
}

func (m *message) facts() {
	e := m.Event
	add := func(name, value string) {
		if value != "" {
			m.Facts = append(m.Facts, fact{name, value})
		}
	}
	database := e.Database
	if database != "" && e.Server != "" {
		database += " on " + e.Server
	}
	add("Database", database)
	if e.Backup != "" {
		add("Backup", strings.TrimSpace(e.Backup+" ("+cmp.Or(e.Type, "full")+")"))
	} else if e.Job == Backup {
		add("Type", e.Type)
	}
	if len(e.Scope) > 0 {
		add("Only schemas", strings.Join(e.Scope, ", "))
	}
	if e.Backup != "" {
		add("Saved", fmt.Sprintf("%s, %s, %s%s", plural(int64(e.Schemas), "schema"), plural(e.Tables, "table"), plural(e.Rows, "row"), m.rowChange()))
		add("Stored", fmt.Sprintf("%s, of %s of rows%s", bytesOf(e.Stored), bytesOf(e.Bytes), m.storedChange()))
	}
	if !e.Started.IsZero() {
		add("Began", e.Started.UTC().Format(timeLayout))
	}
	if e.Seconds > 0 {
		add("Took", duration(e.Seconds)+m.timeChange())
	}
	if e.Kind == Recovered {
		add("Before", fmt.Sprintf("%s failed since %s", plural(int64(e.Failures), "run"), e.Since.UTC().Format(timeLayout)))
	} else if e.Failures > 1 || e.Kind == Worsened || e.Kind == Improved {
		if !e.Since.IsZero() {
			add("Since", e.Since.UTC().Format(timeLayout))
		}
	}
	add("Repository", e.Repository)
	add("Machine", e.Host)
}

// rowChange says how the rows changed of the schemas that both backups hold.
func (m *message) rowChange() string {
	c := m.Event.Comparison
	if c == nil || c.Schemas == 0 {
		return ""
	}
	if c.Rows == c.RowsBefore {
		return "; as many rows as last time"
	}
	return fmt.Sprintf("; %s than last time", difference(c.Rows, c.RowsBefore, func(n int64) string { return plural(n, "row") }))
}

func (m *message) storedChange() string {
	c := m.Event.Comparison
	if c == nil || c.Type != m.Event.Type || c.StoredBefore == m.Event.Stored {
		return ""
	}
	return fmt.Sprintf("; %s than last time", difference(m.Event.Stored, c.StoredBefore, bytesOf))
}

func (m *message) timeChange() string {
	c := m.Event.Comparison
	if c == nil || c.Seconds == 0 || c.Type != m.Event.Type {
		return ""
	}
	d := m.Event.Seconds - c.Seconds
	if math.Abs(d) < 1 && math.Abs(d) < c.Seconds/10 {
		return ", as long as last time"
	}
	return fmt.Sprintf(", %s %s than last time", duration(math.Abs(d)), map[bool]string{true: "longer", false: "shorter"}[d > 0])
}

// difference writes "1,200 rows (3.1%) more".
func difference(now, before int64, unit func(int64) string) string {
	d := now - before
	word := "more"
	if d < 0 {
		d, word = -d, "less"
	}
	if before == 0 {
		return unit(d) + " " + word
	}
	return fmt.Sprintf("%s (%s%%) %s", unit(d), humanize.FtoaWithDigits(100*float64(d)/float64(before), 1), word)
}

// compare says what somebody should look at.
func (m *message) compare(c *Comparison) {
	for _, s := range c.Shrunk {
		m.Changes = append(m.Changes, fmt.Sprintf("%s has %s, and had %s in backup %s", s.Tenant, plural(s.Now, "row"), humanize.Comma(s.Before), c.Backup))
	}
	if len(c.Gone) > 0 {
		m.Changes = append(m.Changes, "no longer there: "+strings.Join(c.Gone, ", "))
	}
	if len(c.New) > 0 {
		m.Changes = append(m.Changes, "new: "+strings.Join(c.New, ", "))
	}
}

func plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return humanize.Comma(n) + " " + noun + "s"
}

func bytesOf(n int64) string { return humanize.Bytes(uint64(max(0, n))) }

func duration(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d < time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d < 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

//go:embed templates
var templates embed.FS

// label names a problem or a check.
func (p Problem) label() string {
	name := p.Tenant
	if p.Schema != "" && p.Schema != p.Tenant && p.Tenant != "core" {
		name += " (schema " + p.Schema + ")"
	}
	if p.Media {
		name += ", files"
	}
	return name
}

func (c Check) label() string {
	return strings.TrimSpace(c.Name + " " + c.Tenant)
}

// functions are what the templates call.
var functions = map[string]any{
	"problem": Problem.label,
	"check":   Check.label,
	"upper":   strings.ToUpper,
	"count":   func(n int) string { return humanize.Comma(int64(n)) },
	"indent":  func(text string) string { return strings.ReplaceAll(text, "\n", "\n    ") },
	"lines":   func(text string) []string { return strings.Split(text, "\n") },
}

// Text is the message as plain text.
func (m *message) Text() string {
	t := template.Must(template.New("").Funcs(functions).ParseFS(templates, "templates/mail.txt"))
	var b strings.Builder
	if err := t.ExecuteTemplate(&b, "mail.txt", m); err != nil {
		return m.Title + "\n\n" + m.Event.Error + "\n" // better than no message
	}
	return b.String()
}

// HTML is the message as a page.
func (m *message) HTML() (string, error) {
	t := htmltemplate.Must(htmltemplate.New("").Funcs(functions).ParseFS(templates, "templates/mail.html"))
	var b strings.Builder
	err := t.ExecuteTemplate(&b, "mail.html", m)
	return b.String(), err
}
