package pgdump

import (
	"fmt"
	"regexp"
	"strings"
)

// Servers of PostgreSQL 15.20 and 17.12 keep a hidden pg_attver among the
// options of each column. Clients that do not know it write it out, and servers
// without it refuse it, so it has to go.
const attributeVersion = "pg_attver"

const identifier = `(?:"(?:[^"]|"")+"|[^\s".;()]+)`

// setColumnOptions is the statement that pg_dump generates for the options of
// one column. Its options are numbers, never strings.
var setColumnOptions = regexp.MustCompile(
	`^(\s*ALTER (?:FOREIGN )?TABLE (?:ONLY )?(?:` + identifier + `\.)?` + identifier + ` ALTER COLUMN ` + identifier + ` SET \()([^()'"]*)(\);\s*)$`)

// stripAttributeVersions takes pg_attver out of the generated column options
// and leaves one warning if there was any.
func (a *Archive) stripAttributeVersions() {
	mended := 0
	for i := range a.Entries {
		e := &a.Entries[i]
		switch e.Kind {
		case "TABLE", "FOREIGN TABLE", "VIEW", "MATERIALIZED VIEW":
		default:
			continue
		}
		if stripped := stripAttributeVersion(e.Definition); stripped != e.Definition {
			e.Definition = stripped
			mended++
		}
	}
	if mended > 0 {
		a.Warnings = append(a.Warnings, fmt.Sprintf(
			"pg_dump %s is older than the server's minor release and wrote the server's internal column option %s into the definitions of %d tables; it was left out. Update pg_dump to the server's minor release.",
			a.DumpVersion, attributeVersion, mended))
	}
}

func stripAttributeVersion(definition string) string {
	if !strings.Contains(definition, attributeVersion) {
		return definition
	}
	var out strings.Builder
	for _, statement := range splitStatements(definition) {
		parts := setColumnOptions.FindStringSubmatch(statement)
		if parts == nil {
			out.WriteString(statement)
			continue
		}
		options := strings.Split(parts[2], ", ")
		kept := options[:0:0]
		for _, option := range options {
			if !strings.HasPrefix(option, attributeVersion+"=") {
				kept = append(kept, option)
			}
		}
		switch {
		case len(kept) == len(options):
			out.WriteString(statement)
		case len(kept) > 0:
			out.WriteString(parts[1] + strings.Join(kept, ", ") + parts[3])
		}
	}
	return out.String()
}

// splitStatements cuts SQL after each semicolon that ends a statement, and the
// line break after it. Joined, the pieces are the text again.
func splitStatements(sql string) []string {
	var statements []string
	start := 0
	for i := 0; i < len(sql); {
		next := skipQuoted(sql, i)
		if next == i {
			next = i + 1
			if sql[i] == ';' {
				if next < len(sql) && sql[next] == '\n' {
					next++
				}
				statements = append(statements, sql[start:next])
				start = next
			}
		}
		i = next
	}
	if start < len(sql) {
		statements = append(statements, sql[start:])
	}
	return statements
}

// skipQuoted returns the place after the string, quoted name or comment that
// begins at i, or i where none does. One that does not end takes the rest.
func skipQuoted(sql string, i int) int {
	rest := sql[i:]
	switch {
	case rest[0] == '\'':
		escapes := i > 0 && (sql[i-1] == 'E' || sql[i-1] == 'e') && (i == 1 || !isNamePart(sql[i-2]))
		for j := 1; j < len(rest); j++ {
			switch {
			case rest[j] == '\\' && escapes:
				j++
			case strings.HasPrefix(rest[j:], "''"):
				j++
			case rest[j] == '\'':
				return i + j + 1
			}
		}
		return len(sql)
	case rest[0] == '"':
		return i + 1 + through(rest[1:], `"`)
	case strings.HasPrefix(rest, "--"):
		return i + through(rest, "\n")
	case strings.HasPrefix(rest, "/*"):
		depth := 0
		for j := 0; j+1 < len(rest); j++ {
			switch rest[j : j+2] {
			case "/*":
				depth++
				j++
			case "*/":
				depth--
				j++
			}
			if depth == 0 {
				return i + j + 1
			}
		}
		return len(sql)
	case rest[0] == '$' && (i == 0 || !isNamePart(sql[i-1])):
		if tag := dollarTag.FindString(rest); tag != "" {
			return i + len(tag) + through(rest[len(tag):], tag)
		}
	}
	return i
}

var dollarTag = regexp.MustCompile(`^\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$`)

// through is the length of text up to the end of the first occurrence of mark,
// or all of it.
func through(text, mark string) int {
	if i := strings.Index(text, mark); i >= 0 {
		return i + len(mark)
	}
	return len(text)
}

func isNamePart(c byte) bool {
	return c == '_' || c == '$' || c >= 0x80 || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}
