package manifest

import (
	"encoding/json"
	"fmt"
	"time"
)

// Time is a moment as manifests spell it. It is written in UTC with
// microseconds, "2024-12-15T14:30:22.123456Z". The original system wrote its
// times without a zone, mostly; they are read as UTC until InZone says otherwise. A
// blank between date and time is read as well, as programs print it. What was
// read is written again letter for letter, as long as the moment is not changed.
type Time struct {
	time.Time
	text string // as it was read; empty where it was not read
}

// The layouts read. A fraction of a second may follow the seconds in each.
const (
	layoutWritten = "2006-01-02T15:04:05.000000Z07:00"
	layoutZone    = "2006-01-02T15:04:05Z07:00"
	layoutNoZone  = "2006-01-02T15:04:05"
)

// NewTime returns t in UTC, cut to the microseconds that a manifest holds.
func NewTime(t time.Time) Time {
	return Time{Time: t.UTC().Truncate(time.Microsecond)}
}

// ParseTime reads a time with or without a zone.
func ParseTime(s string) (Time, error) {
	for _, layout := range []string{layoutZone, layoutNoZone} {
		if t, err := time.Parse(layout, withT(s)); err == nil {
			if err := CheckTime(t); err != nil {
				return Time{}, fmt.Errorf("time %q: %w", s, err)
			}
			return Time{Time: t.UTC(), text: s}, nil
		}
	}
	return Time{}, fmt.Errorf("%q is not a time like 2024-12-15T14:30:22.123456Z", s)
}

// withT is a time with a T between date and time.
func withT(s string) string {
	const date = len(time.DateOnly)
	if len(s) > date && s[date] == ' ' {
		return s[:date] + "T" + s[date+1:]
	}
	return s
}

// InZone is the time as the clocks of a zone showed it, where it was read without
// one; any other stays the moment that it is.
func (t Time) InZone(zone *time.Location) Time {
	if read, err := time.ParseInLocation(layoutNoZone, withT(t.text), zone); err == nil {
		t.Time = read.UTC()
	}
	return t
}

// Equal reports whether both are the same moment, however they are spelt.
func (t Time) Equal(u Time) bool { return t.Time.Equal(u.Time) }

// String is the form that a manifest holds.
func (t Time) String() string {
	if t.text != "" {
		if read, err := ParseTime(t.text); err == nil && read.Equal(t) {
			return t.text
		}
	}
	return t.UTC().Format(layoutWritten)
}

// MarshalJSON writes the time as a string.
func (t Time) MarshalJSON() ([]byte, error) {
	if err := CheckTime(t.Time); err != nil {
		return nil, fmt.Errorf("write time into a manifest: %w", err)
	}
	return json.Marshal(t.String())
}

// UnmarshalJSON reads a string; null leaves the time as it is.
func (t *Time) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("manifest has the time %s, which is not a string", b)
	}
	read, err := ParseTime(s)
	if err != nil {
		return err
	}
	*t = read
	return nil
}

// MarshalText writes the time as MarshalJSON does, without quotes.
func (t Time) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads what ParseTime reads.
func (t *Time) UnmarshalText(b []byte) error {
	read, err := ParseTime(string(b))
	if err != nil {
		return err
	}
	*t = read
	return nil
}
