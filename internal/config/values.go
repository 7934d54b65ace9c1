package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/dustin/go-humanize"
)

// masked stands where a secret would.
const masked = "xxxxx"

// Compression is a way to compress data files.
type Compression struct {
	Method string // zstd, gzip or none
	Level  int    // 0: the method's own default
}

// String returns the compression as --compression takes it.
func (c Compression) String() string {
	if c.Level == 0 {
		return c.Method
	}
	return c.Method + ":" + strconv.Itoa(c.Level)
}

// one makes the apply function of a setting with a single value.
func one[T any](parse func(string) (T, error), set func(*Config, T)) func(*Config, []string) error {
	return func(c *Config, texts []string) error {
		if len(texts) == 0 {
			return nil
		}
		v, err := parse(texts[len(texts)-1])
		if err == nil {
			set(c, v)
		}
		return err
	}
}

// many makes the apply function of a list of names.
func many(set func(*Config, []string)) func(*Config, []string) error {
	return func(c *Config, texts []string) error {
		set(c, texts)
		return nil
	}
}

func asIs(text string) (string, error) {
	if strings.ContainsRune(text, 0) {
		return "", errors.New("contains a zero byte")
	}
	return text, nil
}

func wholeNumber(low, high int) func(string) (int, error) {
	return func(text string) (int, error) {
		n, err := strconv.Atoi(strings.TrimSpace(text))
		if err != nil || n < low || n > high {
			return 0, fmt.Errorf("%q is not a whole number from %d to %d", text, low, high)
		}
		return n, nil
	}
}

func oneOf(words ...string) func(string) (string, error) {
	return func(text string) (string, error) {
		word := strings.ToLower(strings.TrimSpace(text))
		for _, w := range words {
			if w == word {
				return w, nil
			}
		}
		last := len(words) - 1
		return "", fmt.Errorf("%q is not one of %s and %s", text, strings.Join(words[:last], ", "), words[last])
	}
}

// parseFolders reads schemas with the paths of their folders.
func parseFolders(c *Config, texts []string) error {
	for _, text := range texts {
		schema, path, found := strings.Cut(text, "=")
		if !found || schema == "" || path == "" || strings.ContainsRune(text, 0) {
			return fmt.Errorf("%q is not the name of a schema, =, and the path of its folder", text)
		}
		if c.MediaFolders == nil {
			c.MediaFolders = map[string]string{}
		}
		if other, twice := c.MediaFolders[schema]; twice && other != path {
			return fmt.Errorf("schema %q has two folders, %q and %q", schema, other, path)
		}
		c.MediaFolders[schema] = path
	}
	return nil
}

func parseScheduleType(text string) (string, error) {
	word, err := oneOf("auto", "full", "incremental", "baseline")(text)
	if word == "auto" {
		word = ""
	}
	return word, err
}

func parseLogLevel(text string) (slog.Level, error) {
	levels := map[string]slog.Level{
		"DEBUG": slog.LevelDebug, "INFO": slog.LevelInfo,
		"WARN": slog.LevelWarn, "WARNING": slog.LevelWarn, "ERROR": slog.LevelError,
	}
	level, known := levels[strings.ToUpper(strings.TrimSpace(text))]
	if !known {
		return 0, fmt.Errorf("%q is not one of DEBUG, INFO, WARN and ERROR", text)
	}
	return level, nil
}

func parseBool(text string) (bool, error) {
	switch strings.ToLower(strings.TrimSpace(text)) {
	case "true", "t", "yes", "y", "on", "1":
		return true, nil
	case "false", "f", "no", "n", "off", "0":
		return false, nil
	default:
		return false, fmt.Errorf("%q is neither true nor false", text)
	}
}

// parseZone reads the name of a time zone. Abbreviations such as CST are
// refused: each belongs to several zones.
func parseZone(text string) (*time.Location, error) {
	text = strings.TrimSpace(text)
	switch strings.ToUpper(text) {
	case "UTC", "Z", "GMT":
		return time.UTC, nil
	case "LOCAL":
		return time.Local, nil
	}
	if strings.Contains(text, "/") {
		if zone, err := time.LoadLocation(text); err == nil {
			return zone, nil
		}
	}
	return nil, fmt.Errorf("%q is not a time zone: UTC, local, or a name such as Europe/Berlin", text)
}

// parseTimeout reads a duration; a bare number is in seconds.
func parseTimeout(text string) (time.Duration, error) {
	text = strings.TrimSpace(text)
	d, err := time.ParseDuration(text)
	if seconds, notNumber := strconv.Atoi(text); notNumber == nil {
		d, err = time.Duration(seconds)*time.Second, nil
	}
	// To PostgreSQL a timeout of zero is none at all, and a lock that is
	// waited for without end stops every deployment behind it.
	if err != nil || d < time.Millisecond || d > time.Hour {
		return 0, fmt.Errorf("%q is not a duration from 1ms to 1h, such as 500ms or 5s", text)
	}
	return d, nil
}

// longest keeps lengths of time where they can be added.
const longest = 100 * 365 * 24 * time.Hour

// ParseSpan reads a length of time such as 36h, 7d or 2w, up to a hundred years.
func ParseSpan(text string) (time.Duration, error) {
	text = strings.TrimSpace(text)
	d, err := time.ParseDuration(text)
	for unit, length := range map[string]time.Duration{"d": 24 * time.Hour, "w": 7 * 24 * time.Hour} {
		if number, ok := strings.CutSuffix(text, unit); ok && err != nil {
			n, errNumber := strconv.ParseUint(number, 10, 16)
			if errNumber == nil && time.Duration(n)*length <= longest {
				d, err = time.Duration(n)*length, nil
			}
		}
	}
	if err != nil || d < 0 || d > longest {
		return 0, fmt.Errorf("%q is not a length of time, such as 36h, 7d or 2w", text)
	}
	return d, nil
}

// ParseLimit reads a length of time that is a limit: 0, or off, is none.
func ParseLimit(text string) (time.Duration, error) {
	if strings.EqualFold(strings.TrimSpace(text), "off") {
		return 0, nil
	}
	d, err := ParseSpan(text)
	if err == nil && d > 0 && d < time.Minute {
		err = fmt.Errorf("%q is less than a minute", text)
	}
	return d, err
}

// parseMaxAges reads patterns of names with the ages that their backups may have.
func parseMaxAges(c *Config, texts []string) error {
	for _, text := range texts {
		i := strings.LastIndexByte(text, '=') // a name may have one itself
		if i < 1 {
			return fmt.Errorf("%q is not the name of a schema or a pattern, =, and a length of time, such as demo_*=7d", text)
		}
		age, err := ParseLimit(text[i+1:])
		if err != nil {
			return fmt.Errorf("%q: %w", text, err)
		}
		c.TenantMaxAges = append(c.TenantMaxAges, TenantMaxAge{Pattern: text[:i], MaxAge: age})
	}
	return nil
}

// parseSize reads a number of bytes.
func parseSize(text string) (int64, error) {
	n, err := humanize.ParseBytes(text)
	if err != nil || n > 1<<60 {
		return 0, fmt.Errorf("%q is not a size, such as 256MB or 10GB", text)
	}
	return int64(n), nil
}

// parseAddress reads a host, which may be missing, and a port.
func parseAddress(text string) (string, error) {
	text = strings.TrimSpace(text)
	_, port, err := net.SplitHostPort(text)
	_, errPort := strconv.ParseUint(port, 10, 16)
	if err != nil || errPort != nil {
		return "", fmt.Errorf("%q is not a host and a port, such as 127.0.0.1:9754 or [::1]:9754", text)
	}
	return text, nil
}

// parseMetricsFile reads the name of a file that node_exporter takes for metrics.
func parseMetricsFile(text string) (string, error) {
	if !strings.HasSuffix(text, ".prom") {
		return "", fmt.Errorf("%q does not end in .prom: node_exporter reads no other file", text)
	}
	return asIs(text)
}

func parseCompression(text string) (Compression, error) {
	method, level, leveled := strings.Cut(strings.ToLower(strings.TrimSpace(text)), ":")
	highest := map[string]int{"zstd": 22, "gzip": 9, "none": 0}
	top, known := highest[method]
	if !known {
		return Compression{}, fmt.Errorf("%q is not one of zstd, gzip and none, with or without a level (zstd:9)", text)
	}
	if !leveled {
		return Compression{Method: method}, nil
	}
	if top == 0 {
		return Compression{}, fmt.Errorf("%q: none has no level", text)
	}
	n, err := strconv.Atoi(level)
	if err != nil || n < 1 || n > top {
		return Compression{}, fmt.Errorf("%q: the level of %s is a whole number from 1 to %d", text, method, top)
	}
	return Compression{Method: method, Level: n}, nil
}

// urlSchemes are what frameworks write before a PostgreSQL URL, apart from
// libpq's own two.
var urlSchemes = regexp.MustCompile(`^(?i:postgres|postgresql|postgis|pgsql|psql|timescale|timescalegis)(?:\+\w+)?://`)

// parseDatabaseURL accepts URLs with the schemes of libpq and of common
// frameworks, which it turns into libpq's. Whether the rest makes sense
// is for the connection to say. Messages never repeat the text: it may hold a
// password.
func parseDatabaseURL(text string) (string, error) {
	text = strings.TrimSpace(text)
	if scheme := urlSchemes.FindString(text); scheme != "" {
		text = "postgres://" + text[len(scheme):]
		if _, err := url.Parse(text); err != nil {
			return "", errors.New("is not a valid URL; in a user, password or database name, characters such as / : @ # % ? are written as %2F %3A %40 %23 %25 %3F")
		}
		return text, nil
	}
	if scheme, _, found := strings.Cut(text, "://"); found && !strings.ContainsAny(scheme, " =@") {
		return "", fmt.Errorf("%s:// is not PostgreSQL; the URL begins with postgres://", scheme)
	}
	return "", errors.New("is not a URL: write it as postgres://user@host:5432/database")
}

// secretKeyword finds passwords among the keywords of a connection string and
// the parameters of a URL.
var secretKeyword = regexp.MustCompile(`(?i)((?:^|[\s?&;])(?:ssl)?password\s*=\s*)('(?:[^'\\]|\\.)*'?|[^\s&]*)`)

// userinfo finds the password of a URL, which may have white space of any kind
// before it.
var userinfo = regexp.MustCompile(`(\w[\w+.-]*://[^:/?#@]*:)([^/?#]*)@`)

// refusePassword keeps passwords off the command line, where every user of the
// machine can read them in the list of processes.
func refusePassword(text string) error {
	if RedactURL(text) == text {
		return nil
	}
	return &adviceError{
		text:   "a password on the command line can be read by everybody on this machine",
		advice: "put the URL into DATABASE_URL or the file named by DATABASE_URL_FILE, or leave the password out and use ~/.pgpass, PGPASSWORD or PGPASSWORD_FILE",
	}
}

// RedactURL replaces the passwords in a connection string that has been
// accepted, so that it can be shown.
func RedactURL(text string) string {
	text = userinfo.ReplaceAllString(text, "${1}"+masked+"@")
	return secretKeyword.ReplaceAllString(text, "${1}"+masked)
}

// adviceError is an error that knows what to do next.
type adviceError struct{ text, advice string }

func (e *adviceError) Error() string { return e.text }

func (e *adviceError) Hint() string { return e.advice }
