package schedule

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/adhocore/gronx"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
)

// off is what stands for a time that never comes.
const off = "off"

// When is the times at which something is to be done, as a cron expression says
// them. The zero value is never.
type When struct{ expression string }

// ParseWhen reads a cron expression of five fields, a name such as @daily, or "off".
func ParseWhen(text string) (When, error) {
	text = strings.Join(strings.Fields(text), " ")
	if strings.EqualFold(text, off) {
		return When{}, nil
	}
	fields := len(strings.Fields(text))
	if !strings.HasPrefix(text, "@") && fields != 5 {
		return When{}, &whenError{text, fmt.Errorf("it has %d fields, not 5", fields)}
	}
	if err := check(text); err != nil {
		return When{}, &whenError{text, err}
	}
	return When{text}, nil
}

// check finds out whether an expression ever comes true.
func check(expression string) error {
	if !gronx.IsValid(expression) {
		return errors.New("a field is out of its range, or cannot be read")
	}
	w := When{expression}
	if w.Next(time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC), time.UTC).IsZero() {
		return errors.New("no day of the calendar is like that")
	}
	return nil
}

// whenError is a text that is no time.
type whenError struct {
	text string
	err  error
}

func (e *whenError) Error() string { return fmt.Sprintf("%q is not a time: %v", e.text, e.err) }

// Unwrap returns the cause.
func (e *whenError) Unwrap() error { return e.err }

// Hint says how a time is written.
func (*whenError) Hint() string {
	return "minute, hour, day of the month, month and day of the week as in a crontab, such as '30 2 * * *' for every day at 2:30, or off"
}

// Off reports whether the time never comes.
func (w When) Off() bool { return w.expression == "" }

// String returns the text that ParseWhen reads.
func (w When) String() string {
	if w.Off() {
		return off
	}
	return w.expression
}

// Next returns the first of the times after a moment, by the clocks of a zone; the
// zero time where there is none.
//
// Every time of the clock comes once. One that is skipped because the clocks go
// forward comes when they have; one that is there twice because they go back comes
// the first time. Cron libraries leave out the one and repeat the other: where
// summer time begins at midnight on the first of a month, a month would go without
// its backup. So the expression is evaluated in UTC, on what the clock shows.
func (w When) Next(after time.Time, zone *time.Location) time.Time {
	if w.Off() {
		return time.Time{}
	}
	shown := asUTC(after.In(zone))
	for { // until past what the clock showed already before it went back
		next, err := gronx.NextTickAfter(w.expression, shown, false)
		if err != nil || !next.After(shown) {
			return time.Time{}
		}
		if at := onClock(next, zone); at.After(after) {
			return at
		}
		shown = next
	}
}

// asUTC is the moment at which a clock in UTC shows what the clock of t shows.
func asUTC(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}

// onClock is the first moment at which the clocks of a zone show what a clock in
// UTC shows at t, or, where they never do, at which they have skipped it.
func onClock(t time.Time, zone *time.Location) time.Time {
	at := time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), 0, zone)
	if asUTC(at).Equal(t) {
		if begin, _ := at.ZoneBounds(); !begin.IsZero() {
			// Just before the clocks went back they may have shown it, too.
			_, now := at.Zone()
			_, before := begin.Add(-time.Second).In(zone).Zone()
			if earlier := at.Add(time.Duration(now-before) * time.Second); earlier.Before(begin) && asUTC(earlier.In(zone)).Equal(t) {
				return earlier
			}
		}
		return at
	}
	begin, end := at.ZoneBounds()
	if asUTC(at).After(t) { // it was moved behind the gap
		return begin.In(zone)
	}
	return end.In(zone)
}

// Rule is a time for the backups of some tenants.
type Rule struct {
	Pattern string        // of names of schemas; see package wildcard
	Type    manifest.Type // Full or Incremental; empty: both
	When    When
}

// ParseRule reads a rule: a pattern, full or incremental, and a time; or a pattern
// and "off".
func ParseRule(text string) (Rule, error) {
	pattern, rest, _ := strings.Cut(strings.TrimSpace(text), " ")
	kind, times, _ := strings.Cut(strings.TrimSpace(rest), " ")
	r := Rule{Pattern: pattern}
	var err error
	switch {
	case strings.EqualFold(kind, off) && strings.TrimSpace(times) == "":
	case kind == string(manifest.Full) || kind == string(manifest.Incremental):
		r.Type = manifest.Type(kind)
		r.When, err = ParseWhen(times)
	default:
		err = &ruleError{text}
	}
	return r, err
}

// ruleError is a text that is no rule.
type ruleError struct{ text string }

func (e *ruleError) Error() string {
	return fmt.Sprintf("%q is not a pattern, full or incremental, and a time, nor a pattern and off", e.text)
}

// Hint says how a rule is written.
func (*ruleError) Hint() string {
	return "for instance 'vip_* incremental 0 * * * *', 'archive_* incremental off' or 'demo_* off'"
}
