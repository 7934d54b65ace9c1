package ui

import (
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// Safe makes a name fit to be shown: one that holds nothing but ordinary
// printable characters stays as it is; any other is put in double quotes with
// escapes, as Go writes strings. No two names look the same.
func Safe(name string) string {
	quoted := strconv.Quote(name)
	plain := quoted == `"`+strings.ReplaceAll(name, `\`, `\\`)+`"`
	if plain && name != "" && name == strings.TrimSpace(name) {
		return name
	}
	return quoted
}

// SafeText makes a message fit to be shown: line breaks stay, with an indent
// that keeps a message from posing as another one; other characters that
// cannot be printed are escaped.
func SafeText(message string) string {
	message = strings.TrimRight(message, "\n")
	var b strings.Builder
	for i, r := range message {
		switch {
		case r == '\n':
			b.WriteString("\n  ")
		case r == '\t':
			b.WriteString("    ")
		case r == '\uFFFD' && !strings.HasPrefix(message[i:], "\uFFFD"):
			b.WriteString(`\x` + strconv.FormatUint(uint64(message[i])|0x100, 16)[1:])
		case strconv.IsPrint(r):
			b.WriteRune(r)
		default:
			q := strconv.QuoteRune(r)
			b.WriteString(q[1 : len(q)-1])
		}
	}
	return b.String()
}

// Bytes writes a size for people: "2.1 GB".
func Bytes(n int64) string {
	if n < 0 {
		return "-"
	}
	return humanize.Bytes(uint64(n))
}

// Count writes a number for people: "1,234,567".
func Count(n int64) string { return humanize.Comma(n) }

// Plural writes a number with its noun: "1 tenant", "1,000 tenants".
func Plural(n int64, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return Count(n) + " " + noun + "s"
}

// Duration writes a length of time for people: "0.4s", "12s", "3m12s",
// "5h10m".
func Duration(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < 9950*time.Millisecond:
		return strconv.FormatFloat(d.Seconds(), 'f', 1, 64) + "s"
	case d < time.Hour:
		return d.Round(time.Second).String()
	default:
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
}

// Age writes how long ago something was: "5 hours ago".
func Age(then, now time.Time) string {
	if d := now.Sub(then); d > -time.Minute && d < 2*time.Second {
		return "just now" // clocks of two machines never quite agree
	}
	return humanize.RelTime(then, now, "ago", "from now")
}
