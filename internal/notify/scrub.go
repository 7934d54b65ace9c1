package notify

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// masked stands where a secret would.
const masked = "xxxxx"

// Limits on what an event carries: it goes to phones, and lies in the repository
// until it is delivered.
const (
	maxProblems = 50
	maxChecks   = 50
	maxNames    = 20
	maxText     = 600  // characters of one error
	maxError    = 2000 // of the error of the whole run
)

// scrubber makes texts fit to leave the machine: without secrets and without the
// contents of rows.
type scrubber struct{ secrets []string }

// shortestSecret is the fewest characters of a secret that is looked for: of a
// shorter one every other word would be masked.
const shortestSecret = 4

func newScrubber(secrets []string) scrubber {
	var s scrubber
	for _, secret := range secrets {
		if len(secret) >= shortestSecret {
			s.secrets = append(s.secrets, secret)
		}
	}
	slices.SortFunc(s.secrets, func(a, b string) int { return len(b) - len(a) }) // one may be part of another
	return s
}

var (
	// webAddress finds addresses of the web, whose paths and parameters are often
	// all that protects them.
	webAddress = regexp.MustCompile(`(?i)\b(https?://)(?:[^\s/?#"'@]*@)?([^\s/?#"'<>]+)[^\s"'<>]*`)
	// userinfo finds the password in the URL of a connection.
	userinfo = regexp.MustCompile(`(\b\w[\w+.-]*://[^\s:/?#@]*:)[^\s/?#]*@`)
	// keyword finds secrets among keywords and parameters.
	keyword = regexp.MustCompile(`(?i)\b((?:ssl)?pass(?:word|wd|phrase)|secret|token|api_?key|authorization)(["']?\s*[=:]\s*)('(?:[^'\\]|\\.)*'?|"(?:[^"\\]|\\.)*"?|(?:Bearer |Basic )?[^\s&,;]+)`)
)

// What PostgreSQL and pg_dump say about single rows. A value may hold anything,
// line breaks and brackets among it: where its end cannot be told, the rest of
// the text goes with it.
var (
	fieldLine    = regexp.MustCompile(`(?m)^[ \t]*(?:\S+: )*(?:DETAIL|CONTEXT|STATEMENT|QUERY|WHERE):(?s:.*?)(\n[ \t]*(?:\S+: )*(?:ERROR|FATAL|PANIC|WARNING|HINT|NOTICE|error|hint|warning|fatal):|\z)`)
	sourceLine   = regexp.MustCompile(`(?m)^[ \t]*LINE \d+:(?s:.*)\z`)
	keyValues    = regexp.MustCompile(`(?s)\b(Key \([^)]*\))=\(.*?\)( (?:already exists|is not present|is still referenced|conflicts with|is duplicated|does not)|\z)`)
	keyRest      = regexp.MustCompile(`(?s)\b(Key \([^)]*\))=\(.*`)
	failingRow   = regexp.MustCompile(`(?s)((?:Failing|Duplicate|Offending) row contains) .*`)
	quotedValue  = regexp.MustCompile(`(?s)((?:invalid (?:input )?(?:syntax|value|byte sequence|text representation|UUID|datetime)|out of range|malformed|cannot cast|could not parse|does not fit|too long)[^"\n]*: )".*"`)
	dataError    = regexp.MustCompile(`(?s)".*"([^"]*\(SQLSTATE 22[0-9A-Z]{3}\))`)
	copyValue    = regexp.MustCompile(`(?s)(COPY \S+, line \d+(?:, column \S+)?): ".*"`)
	hiddenDetail = "(details with contents of rows are left out)"
)

// text makes one text fit.
func (s scrubber) text(text string, limit int) string {
	for _, secret := range s.secrets {
		text = strings.ReplaceAll(text, secret, masked)
	}
	text = webAddress.ReplaceAllString(text, "$1$2/…")
	text = userinfo.ReplaceAllString(text, "${1}"+masked+"@")
	text = keyword.ReplaceAllString(text, "${1}${2}"+masked)

	text = fieldLine.ReplaceAllString(text, hiddenDetail+"$1")
	text = sourceLine.ReplaceAllString(text, hiddenDetail)
	text = keyValues.ReplaceAllString(text, "$1$2")
	text = keyRest.ReplaceAllString(text, "$1")
	text = failingRow.ReplaceAllString(text, "$1 …")
	text = copyValue.ReplaceAllString(text, "$1")
	text = quotedValue.ReplaceAllString(text, "$1…")
	text = dataError.ReplaceAllString(text, "…$1")
	return printable(shorten(strings.TrimSpace(text), limit))
}

// name makes a name fit: of a tenant, say, whoever chose it.
func (s scrubber) name(text string) string {
	return strings.ReplaceAll(printable(shorten(text, maxText)), "\n", `\n`)
}

// event makes a copy of an event fit, and of a bearable length.
func (s scrubber) event(e Event) *Event {
	e.Error = s.text(e.Error, maxError)
	e.ProblemCount = max(e.ProblemCount, len(e.Problems))
	e.Problems = slices.Clone(e.Problems[:min(len(e.Problems), maxProblems)])
	for i := range e.Problems {
		p := &e.Problems[i]
		p.Tenant, p.Schema, p.Error = s.name(p.Tenant), s.name(p.Schema), s.text(p.Error, maxText)
	}
	e.CheckCount = max(e.CheckCount, len(e.Checks))
	e.Checks = slices.Clone(e.Checks[:min(len(e.Checks), maxChecks)])
	for i := range e.Checks {
		c := &e.Checks[i]
		c.Tenant, c.Text, c.Remedy = s.name(c.Tenant), s.text(c.Text, maxText), s.text(c.Remedy, maxText)
	}
	e.Advice = slices.Clone(e.Advice)
	for i := range e.Advice {
		e.Advice[i] = s.text(e.Advice[i], maxText)
	}
	e.Scope = s.names(e.Scope)
	e.Database, e.Server, e.Repository, e.Host = s.name(e.Database), s.name(e.Server), s.name(e.Repository), s.name(e.Host)
	if e.Comparison != nil {
		c := *e.Comparison
		c.New, c.Gone = s.names(c.New), s.names(c.Gone)
		c.Shrunk = slices.Clone(c.Shrunk[:min(len(c.Shrunk), maxNames)])
		for i := range c.Shrunk {
			c.Shrunk[i].Tenant = s.name(c.Shrunk[i].Tenant)
		}
		e.Comparison = &c
	}
	return &e
}

// names makes a list of names fit; of a long one the rest is counted.
func (s scrubber) names(list []string) []string {
	var out []string
	for i, n := range list {
		if i == maxNames {
			return append(out, "and "+strconv.Itoa(len(list)-i)+" more")
		}
		out = append(out, s.name(n))
	}
	return out
}

func shorten(text string, limit int) string {
	if utf8.RuneCountInString(text) <= limit {
		return text
	}
	runes := []rune(text)
	return strings.TrimSpace(string(runes[:limit-1])) + "…"
}

// printable replaces what is not text: control characters, marks that turn the
// direction of what follows, broken UTF-8.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || strconv.IsPrint(r):
			return r
		case r == '\t':
			return ' '
		case r == '\r':
			return -1
		default:
			return '\uFFFD'
		}
	}, text)
}
