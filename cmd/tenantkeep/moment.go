package main

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/ui"
)

// moment is a point in time as the user gave it to --at.
type moment struct {
	time.Time                // the last instant that belongs to it
	local     *time.Location // where the user is
}

// momentForms are examples of what parseMoment reads, for messages.
const momentForms = `2026-11-23 14:30, 2026-11-23T14:30:05+01:00, "14:30 local", "yesterday 09:00", "2h ago"; UTC is meant where no zone is given`

const stampLayout = "2006-01-02 15:04:05"

// parseMoment reads a point in time: RFC 3339; a day, a time of day or both,
// with a zone or without; yesterday, today, now; or a length of time ago. A time
// without a zone is UTC, as are all times that tenantkeep shows: what is copied
// from a list must find its backup. For the same reason a time to the second
// means the whole second. A day alone is its beginning, so that nothing is taken
// that the day itself brought.
func parseMoment(text string, now time.Time, local *time.Location) (moment, error) {
	t, err := readMoment(strings.Join(strings.Fields(text), " "), now, local)
	if err != nil {
		return moment{}, &usageError{err: fmt.Errorf("--at: %s: %w", ui.Safe(text), err), hint: "a time is given like " + momentForms}
	}
	return moment{Time: t, local: local}, nil
}

// String tells the moment in UTC, and in the user's own zone where that is
// another one.
func (m moment) String() string {
	utc, here := m.UTC(), m.In(m.local)
	text := utc.Format(stampLayout + " UTC")
	if _, offset := here.Zone(); offset == 0 {
		return text
	}
	layout := "15:04:05"
	if utc.YearDay() != here.YearDay() {
		layout = stampLayout
	}
	return text + " (" + here.Format(layout+" -07:00") + " here)"
}

// idMoment is the form of the ids of backups.
var idMoment = regexp.MustCompile(`^([0-9]{8}_[0-9]{6})(_[0-9]+)?$`)

var (
	errNoMoment = errors.New("this is not a time")
	clock       = regexp.MustCompile(`^([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,9}))?)?`)
	calendarDay = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}`)
)

func readMoment(text string, now time.Time, local *time.Location) (time.Time, error) {
	if strings.EqualFold(text, "now") {
		return now, nil
	}
	if ago, is, err := readAgo(strings.ToLower(text)); is || err != nil {
		return now.Add(-ago), err
	}
	if id := idMoment.FindStringSubmatch(text); id != nil {
		t, err := time.Parse("20060102_150405", id[1])
		if err != nil {
			return t, errNoMoment
		}
		return t.Add(time.Second - time.Nanosecond), nil
	}
	day, rest := cutDay(text)
	at := clock.FindStringSubmatch(rest)
	if day == "" && at == nil {
		return time.Time{}, errNoMoment
	}
	if at != nil {
		rest = rest[len(at[0]):]
	}
	zone, err := readZone(strings.TrimSpace(rest), local)
	if err != nil {
		return time.Time{}, err
	}
	date, err := readDay(day, now.In(zone))
	if err != nil {
		return time.Time{}, err
	}
	return onClock(date, at, zone)
}

// cutDay cuts the day off, whether it is there or not.
func cutDay(text string) (day, rest string) {
	for _, word := range []string{"today", "yesterday"} {
		if len(text) >= len(word) && strings.EqualFold(text[:len(word)], word) {
			return word, strings.TrimSpace(text[len(word):])
		}
	}
	day = calendarDay.FindString(text)
	rest = text[len(day):]
	if day != "" && len(rest) > 1 && (rest[0] == 'T' || rest[0] == 't') {
		rest = rest[1:]
	}
	return day, strings.TrimSpace(rest)
}

// readDay returns any time of the day.
func readDay(day string, now time.Time) (time.Time, error) {
	switch day {
	case "", "today":
		return now, nil
	case "yesterday":
		return now.AddDate(0, 0, -1), nil
	}
	t, err := time.Parse(time.DateOnly, day)
	if err != nil {
		return t, fmt.Errorf("there is no day %s", day)
	}
	return t, nil
}

// onClock puts a time of day into a day; at is what the expression clock found,
// nil for the day's beginning.
func onClock(day time.Time, at []string, zone *time.Location) (time.Time, error) {
	var n [4]int // hour, minute, second, nanosecond
	for i := 1; i < len(at); i++ {
		digits := at[i]
		if i == 4 && digits != "" {
			digits += strings.Repeat("0", 9-len(digits))
		}
		n[i-1], _ = strconv.Atoi(digits) // digits only; empty is 0
	}
	if n[0] > 23 || n[1] > 59 || n[2] > 59 {
		return time.Time{}, fmt.Errorf("there is no time of day %s", at[0])
	}
	t := time.Date(day.Year(), day.Month(), day.Day(), n[0], n[1], n[2], n[3], zone)
	if t.Hour() != n[0] || t.Minute() != n[1] {
		return t, fmt.Errorf("this time does not exist in %s: the clocks were put forward", zone)
	}
	_, offset := t.Zone()
	for _, near := range []time.Duration{-24 * time.Hour, 24 * time.Hour} {
		_, other := t.Add(near).Zone()
		twin := t.Add(time.Duration(offset-other) * time.Second)
		if other != offset && twin.Format(stampLayout) == t.Format(stampLayout) {
			return t, fmt.Errorf("this time was twice in %s: the clocks were put back; give the offset, such as %s or %s", zone, t.Format("-07:00"), twin.Format("-07:00"))
		}
	}
	if len(at) > 3 && at[3] != "" && at[4] == "" {
		t = t.Add(time.Second - time.Nanosecond)
	}
	return t, nil
}

var offsetForm = regexp.MustCompile(`^[+-][0-9]{2}(:?[0-9]{2})?$`)

// readZone reads an offset, UTC, local or the name of a zone. Abbreviations
// such as CST or IST are refused: each belongs to several zones.
func readZone(text string, local *time.Location) (*time.Location, error) {
	switch word := strings.ToUpper(text); {
	case word == "", word == "Z", word == "UTC", word == "GMT":
		return time.UTC, nil
	case word == "LOCAL":
		return local, nil
	case offsetForm.MatchString(text):
		digits := strings.Replace(text[1:], ":", "", 1) + "00"
		hours, _ := strconv.Atoi(digits[:2])
		minutes, _ := strconv.Atoi(digits[2:4])
		if hours > 15 || minutes > 59 {
			return nil, fmt.Errorf("there is no offset %s from UTC", text)
		}
		seconds := (hours*60 + minutes) * 60
		if text[0] == '-' {
			seconds = -seconds
		}
		return time.FixedZone("UTC"+text, seconds), nil
	case strings.Contains(text, "/") && !strings.Contains(text, " "):
		zone, err := time.LoadLocation(text)
		if err != nil {
			return nil, fmt.Errorf("the zone %s is not known here", ui.Safe(text))
		}
		return zone, nil
	default:
		return nil, fmt.Errorf("%s is no zone: give an offset such as +01:00, UTC, local, or a name such as Europe/Berlin", ui.Safe(text))
	}
}

// maxAgo keeps lengths of time where they can be added.
const maxAgo = 100 * 365 * 24 * time.Hour

var agoPart = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?) ?([a-z]+)(?: and |, | |)`)

// readAgo reads a length of time ago, such as "2h ago", "1 day 6 hours ago" or
// "-90m", in lower case. It reports whether the text is meant as one.
func readAgo(text string) (time.Duration, bool, error) {
	length, minus := strings.CutPrefix(text, "-")
	length, ago := strings.CutSuffix(length, " ago")
	length = strings.TrimSpace(length)
	whole := length
	var total time.Duration
	for length != "" {
		part := agoPart.FindStringSubmatch(length)
		if part == nil {
			return 0, false, nil
		}
		unit := agoUnit(part[2])
		if unit == 0 {
			if minus || ago {
				return 0, true, fmt.Errorf("%s is no unit of time: s, m, h, d and w are", ui.Safe(part[2]))
			}
			return 0, false, nil
		}
		n, err := strconv.ParseFloat(part[1], 64)
		if err != nil || n*float64(unit) > float64(maxAgo) {
			return 0, true, errors.New("this is too long ago")
		}
		total += time.Duration(n * float64(unit))
		if total > maxAgo {
			return 0, true, errors.New("this is too long ago")
		}
		length = length[len(part[0]):]
	}
	switch {
	case whole == "":
		return 0, false, nil
	case minus == ago:
		return 0, true, fmt.Errorf("say either %q or %q", whole+" ago", "-"+whole)
	}
	return total, true, nil
}

func agoUnit(word string) time.Duration {
	switch word {
	case "s", "sec", "secs", "second", "seconds":
		return time.Second
	case "m", "min", "mins", "minute", "minutes":
		return time.Minute
	case "h", "hr", "hrs", "hour", "hours":
		return time.Hour
	case "d", "day", "days":
		return 24 * time.Hour
	case "w", "week", "weeks":
		return 7 * 24 * time.Hour
	default:
		return 0
	}
}
