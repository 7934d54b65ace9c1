package main

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestMoment(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Skip(err)
	}
	now := time.Date(2026, 11, 23, 12, 0, 0, 500, time.UTC)
	const lastOfSecond = ".999999999"
	for text, want := range map[string]string{
		"2026-11-22T14:30:05Z":             "2026-11-22T14:30:05" + lastOfSecond + "Z",
		"2026-11-22T14:30:05.25+01:00":     "2026-11-22T13:30:05.25Z",
		"2026-11-22t14:30:05z":             "2026-11-22T14:30:05" + lastOfSecond + "Z",
		"2026-11-22 14:30":                 "2026-11-22T14:30:00Z",
		"  2026-11-22   14:30:05  ":        "2026-11-22T14:30:05" + lastOfSecond + "Z",
		"2026-11-22 14:30:05.000001":       "2026-11-22T14:30:05.000001Z",
		"2026-11-22 14:30+0530":            "2026-11-22T09:00:00Z",
		"2026-11-22 14:30 -03":             "2026-11-22T17:30:00Z",
		"2026-11-22 14:30 UTC":             "2026-11-22T14:30:00Z",
		"2026-11-22 14:30 local":           "2026-11-22T13:30:00Z",
		"2026-07-01 14:30 Europe/Berlin":   "2026-07-01T12:30:00Z",
		"2026-07-01 14:30 America/Caracas": "2026-07-01T18:30:00Z",
		"2026-11-22":                       "2026-11-22T00:00:00Z",
		"2026-11-22 local":                 "2026-11-21T23:00:00Z",
		"2024-02-29":                       "2024-02-29T00:00:00Z",
		"9:05":                             "2026-11-23T09:05:00Z",
		"09:05 local":                      "2026-11-23T08:05:00Z",
		"today 09:05":                      "2026-11-23T09:05:00Z",
		"Yesterday 09:05:59":               "2026-11-22T09:05:59" + lastOfSecond + "Z",
		"yesterday":                        "2026-11-22T00:00:00Z",
		"yesterday local":                  "2026-11-21T23:00:00Z",
		"now":                              "2026-11-23T12:00:00.0000005Z",
		"2h ago":                           "2026-11-23T10:00:00.0000005Z",
		"-2h":                              "2026-11-23T10:00:00.0000005Z",
		"-1d12h":                           "2026-11-22T00:00:00.0000005Z",
		"1 day and 12 hours ago":           "2026-11-22T00:00:00.0000005Z",
		"1.5 hours ago":                    "2026-11-23T10:30:00.0000005Z",
		"2 Weeks ago":                      "2026-11-09T12:00:00.0000005Z",
		"90 min ago":                       "2026-11-23T10:30:00.0000005Z",
		"20261122_143005":                  "2026-11-22T14:30:05" + lastOfSecond + "Z",
		"20261122_143005_2":                "2026-11-22T14:30:05" + lastOfSecond + "Z",
		"2026-10-25 02:30 +02:00":          "2026-10-25T00:30:00Z",
	} {
		got, err := parseMoment(text, now, berlin)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if s := got.UTC().Format(time.RFC3339Nano); s != want {
			t.Errorf("%s is %s, want %s", text, s, want)
		}
	}
	for text, want := range map[string]string{
		"":                               "not a time",
		"soon":                           "not a time",
		"2h":                             `say either "2h ago" or "-2h"`,
		"-2h ago":                        "say either",
		"3 months ago":                   "months is no unit",
		"1000 years ago":                 "years is no unit",
		"99999999999d ago":               "too long ago",
		"2026-02-30":                     "no day 2026-02-30",
		"2026-11-22 25:00":               "no time of day 25:00",
		"2026-11-22 12:60":               "no time of day 12:60",
		"2026-11-22 14:30 CET":           "CET is no zone",
		"2026-11-22 14:30 +99:00":        "no offset",
		"2026-11-22 14:30 Mars/Olympus":  "not known here",
		"2026-11-22 14:30 ../etc/passwd": "not known here",
		"2026-11-22 14":                  "no zone",
		"11/22/2026":                     "not a time",
		"22.11.2026 14:30":               "not a time",
		"14:30 \x1b[2J":                  `"\x1b[2J" is no zone`,
		"2026-03-29 02:30 Europe/Berlin": "does not exist in Europe/Berlin",
		"2026-10-25 02:30 local":         "was twice",
		"20261322_143005":                "not a time",
		"-":                              "not a time",
		"ago":                            "not a time",
	} {
		_, err := parseMoment(text, now, berlin)
		var usage *usageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), want) || !strings.Contains(usage.Hint(), "UTC") {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	for text, want := range map[string]string{
		"2026-11-22 14:30": "2026-11-22 14:30:00 UTC (15:30:00 +01:00 here)",
		"2026-11-22 23:30": "2026-11-22 23:30:00 UTC (2026-11-23 00:30:00 +01:00 here)",
	} {
		got, err := parseMoment(text, now, berlin)
		if err != nil || got.String() != want {
			t.Errorf("%s reads as %s, %v, want %s", text, got, err, want)
		}
		if got.local = time.UTC; got.String() != want[:23] {
			t.Errorf("in UTC: %s", got)
		}
	}
}

func FuzzMoment(f *testing.F) {
	for _, seed := range []string{"2026-11-22 14:30 +01", "2h ago", "yesterday 1:00", "20261122_143005"} {
		f.Add(seed)
	}
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, text string) {
		m, err := parseMoment(text, now, time.UTC)
		if err == nil && m.Year() < 0 {
			t.Errorf("%q is %v", text, m)
		}
		if err != nil && strings.ContainsAny(err.Error(), "\x1b\n\r") {
			t.Errorf("%q: %q", text, err)
		}
	})
}
