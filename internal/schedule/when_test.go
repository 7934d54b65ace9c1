package schedule

import (
	"errors"
	"strings"
	"testing"
	"time"
	_ "time/tzdata"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := time.LoadLocation(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func when(t *testing.T, text string) When {
	t.Helper()
	w, err := ParseWhen(text)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestNext(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, zone, when, after string
		want                    []string // one after the other
	}{
		{"strictly after", "UTC", "0 0 * * *", "2026-11-22T00:00:00Z", []string{"2026-11-23T00:00:00Z", "2026-11-24T00:00:00Z"}},
		{"a moment before", "UTC", "0 0 * * *", "2026-11-21T23:59:59.999Z", []string{"2026-11-22T00:00:00Z"}},
		{"a moment behind", "UTC", "0 0 * * *", "2026-11-22T00:00:00.001Z", []string{"2026-11-23T00:00:00Z"}},
		{"Sundays", "UTC", "0 0 * * 0", "2026-11-23T10:00:00Z", []string{"2026-11-29T00:00:00Z", "2026-12-06T00:00:00Z"}},
		{"Sunday is 7, too", "UTC", "0 0 * * 7", "2026-11-23T10:00:00Z", []string{"2026-11-29T00:00:00Z"}},
		{"first of a month", "UTC", "0 0 1 * *", "2026-12-31T23:00:00Z", []string{"2027-01-01T00:00:00Z", "2027-02-01T00:00:00Z"}},
		{"leap days", "UTC", "0 0 29 2 *", "2026-11-23T00:00:00Z", []string{"2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"}},
		{"day of the month or of the week, as in cron", "UTC", "0 0 1 * 0", "2026-11-23T10:00:00Z", []string{"2026-11-29T00:00:00Z", "2026-12-01T00:00:00Z"}},
		{"named", "UTC", "@weekly", "2026-11-23T10:00:00Z", []string{"2026-11-29T00:00:00Z"}},
		{"every quarter of an hour", "UTC", "*/15 * * * *", "2026-11-23T10:14:59Z", []string{"2026-11-23T10:15:00Z", "2026-11-23T10:30:00Z"}},
		{
			"midnight of the zone", "Europe/Berlin", "0 0 * * *", "2026-07-01T12:00:00Z",
			[]string{"2026-07-01T22:00:00Z", "2026-07-02T22:00:00Z"},
		},
		{
			"a zone far from UTC, on its Sunday", "Pacific/Auckland", "0 0 * * 0", "2026-11-20T12:00:00Z",
			[]string{"2026-11-21T11:00:00Z", "2026-11-28T11:00:00Z"},
		},
		{
			"an hour that is skipped", "Europe/Berlin", "30 2 * * *", "2026-03-28T12:00:00Z",
			[]string{"2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"},
		},
		{
			"an hour that is there twice", "Europe/Berlin", "30 2 * * *", "2026-10-24T12:00:00Z",
			[]string{"2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"},
		},
		{"between the two", "Europe/Berlin", "30 2 * * *", "2026-10-25T00:31:00Z", []string{"2026-10-26T01:30:00Z"}},
		{"in the second of the two hours", "Europe/Berlin", "30 2 * * *", "2026-10-25T01:10:00Z", []string{"2026-10-26T01:30:00Z"}},
		{
			"every hour, as the clocks go forward", "Europe/Berlin", "0 * * * *", "2026-03-29T00:10:00Z",
			[]string{"2026-03-29T01:00:00Z", "2026-03-29T02:00:00Z"},
		},
		{
			"every hour, as they go back", "Europe/Berlin", "0 * * * *", "2026-10-24T23:30:00Z",
			[]string{"2026-10-25T00:00:00Z", "2026-10-25T02:00:00Z"},
		},
		{
			"a midnight that is skipped", "Africa/Cairo", "0 0 * * *", "2026-04-22T23:00:00Z",
			[]string{"2026-04-23T22:00:00Z", "2026-04-24T21:00:00Z"},
		},
		{
			"a first of the month whose midnight is skipped", "Asia/Amman", "0 0 1 4 *", "2016-03-31T12:00:00Z",
			[]string{"2016-03-31T22:00:00Z", "2017-03-31T21:00:00Z"},
		},
		{
			"a midnight that is there twice", "America/Havana", "0 0 1 * *", "2026-10-30T12:00:00Z",
			[]string{"2026-11-01T04:00:00Z", "2026-12-01T05:00:00Z"},
		},
		{
			"half an hour", "Australia/Lord_Howe", "15 2 * * *", "2026-10-02T16:00:00Z",
			[]string{"2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"},
		},
		{
			"a day that never was", "Pacific/Apia", "0 12 * * *", "2011-12-29T23:00:00Z",
			[]string{"2011-12-30T10:00:00Z", "2011-12-30T22:00:00Z"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			at, err := time.Parse(time.RFC3339Nano, tt.after)
			if err != nil {
				t.Fatal(err)
			}
			for _, want := range tt.want {
				at = when(t, tt.when).Next(at, zone(t, tt.zone))
				if got := at.UTC().Format(time.RFC3339Nano); got != want {
					t.Fatalf("got %s, want %s", got, want)
				}
			}
		})
	}
}

// Over years of every hour, each next time is later, and no day is without its own.
func TestNextMissesNoDay(t *testing.T) {
	t.Parallel()
	daily := When{"30 0 * * *"}
	for _, name := range []string{"UTC", "Europe/Berlin", "America/Sao_Paulo", "Africa/Cairo", "Asia/Beirut", "America/Havana", "Australia/Lord_Howe"} {
		z := zone(t, name)
		at := time.Date(2016, 1, 1, 12, 0, 0, 0, z)
		for range 3 * 365 {
			next := daily.Next(at, z)
			if !next.After(at) || next.In(z).YearDay() == at.In(z).YearDay() && next.In(z).Hour() < 12 && at.In(z).Hour() < 12 {
				t.Fatalf("%s: after %s comes %s", name, at.In(z), next.In(z))
			}
			if gap := next.Sub(at); gap > 26*time.Hour {
				t.Fatalf("%s: %s passes after %s", name, gap, at.In(z))
			}
			at = next
		}
	}
}

func TestParseWhen(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"off": "off", " OFF ": "off", "0  2 * *\t0": "0 2 * * 0", "@daily": "@daily", "5 4 * * sun": "5 4 * * sun", "0 0,12 1-5 */2 *": "0 0,12 1-5 */2 *",
	} {
		if w, err := ParseWhen(text); err != nil || w.String() != want {
			t.Errorf("%q is read as %q, %v", text, w, err)
		}
	}
	for text, want := range map[string]string{
		"":                 "it has 0 fields",
		"daily":            "it has 1 fields",
		"* * * *":          "it has 4 fields",
		"0 0 0 * * *":      "it has 6 fields",
		"60 * * * *":       "out of its range",
		"0 24 * * *":       "out of its range",
		"0 0 * * 8":        "out of its range",
		"a b c d e":        "out of its range",
		"@every 1h":        "out of its range",
		"0 0 31 2 *":       "no day of the calendar",
		"0 0 30 2 *":       "no day of the calendar",
		"0 0 * * * # note": "it has 7 fields",
	} {
		_, err := ParseWhen(text)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: error %v, want %q", text, err, want)
		}
		var hinted interface{ Hint() string }
		if !errors.As(err, &hinted) {
			t.Errorf("%q: no hint", text)
		}
	}
}

func TestParseRule(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]Rule{
		"vip_* incremental 0 * * * *": {"vip_*", "incremental", When{"0 * * * *"}},
		" a  full  off ":              {"a", "full", When{}},
		"demo_* off":                  {"demo_*", "", When{}},
		"x full @monthly":             {"x", "full", When{"@monthly"}},
	} {
		if r, err := ParseRule(text); err != nil || r != want {
			t.Errorf("%q is read as %v, %v", text, r, err)
		}
	}
	for _, text := range []string{"", "vip_*", "vip_* 0 * * * *", "vip_* baseline 0 0 * * *", "vip_* full", "vip_* full soon", "vip_* off 0 0 * * *"} {
		if r, err := ParseRule(text); err == nil {
			t.Errorf("%q is read as %v", text, r)
		}
	}
}
