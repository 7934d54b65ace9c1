// Package registry knows the rows that make a tenant known to its application:
// django-tenants' client and domain, and the like. They lie in tables outside of
// the tenant's schema, most often in core, and are saved and put back with the
// tenant.
//
// Terms: a root table has a column with the names of schemas; a dependent table
// refers to a row of another one. The registration of a tenant is its rows in all
// of them.
package registry

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tenantkeep/tenantkeep/internal/manifest"
)

// Table names a table with registration rows.
type Table struct {
	Schema, Name string
	Column       string // holds names of schemas, or refers to another table
	Refers       *manifest.RegistryReference
}

// String is the table as Parse takes it.
func (t Table) String() string {
	text := title(t.Schema, t.Name, t.Column)
	if t.Refers != nil {
		text += "=" + title(t.Refers.Schema, t.Refers.Name, t.Refers.Column)
	}
	return text
}

// Choice says which tables hold registrations. Its zero value is none.
type Choice struct {
	Auto   bool // django-tenants' tables, if there are some
	Tables []Table
}

// Words that stand for a choice in place of tables.
const (
	Auto = "auto"
	None = "none"
)

// ParseChoice reads a choice: auto, none, or a list of tables in which each
// refers only to earlier ones.
func ParseChoice(texts []string) (Choice, error) {
	if len(texts) == 1 {
		switch strings.ToLower(strings.TrimSpace(texts[0])) {
		case Auto:
			return Choice{Auto: true}, nil
		case None:
			return Choice{}, nil
		}
	}
	var c Choice
	for _, text := range texts {
		t, err := Parse(text)
		if err != nil {
			return Choice{}, err
		}
		if slices.ContainsFunc(c.Tables, func(o Table) bool { return o.Schema == t.Schema && o.Name == t.Name }) {
			return Choice{}, fmt.Errorf("table %s is named twice", title(t.Schema, t.Name))
		}
		known := func(o Table) bool { return t.Refers.Schema == o.Schema && t.Refers.Name == o.Name }
		if t.Refers != nil && !slices.ContainsFunc(c.Tables, known) {
			return Choice{}, fmt.Errorf("%s refers to a table that is not named before it", t)
		}
		c.Tables = append(c.Tables, t)
	}
	return c, nil
}

// Parse reads one table: TABLE.COLUMN, where the column holds names of schemas,
// or TABLE.COLUMN=TABLE.COLUMN, where the first refers to the second. A table may
// have its schema before it; it is public otherwise. Names are exact; those with
// dots or the like stand in double quotes.
func Parse(text string) (Table, error) {
	wrong := func(why string) (Table, error) {
		return Table{}, fmt.Errorf("%q is no table of registrations: %s", text, why)
	}
	names, rest, err := parseNames(strings.TrimSpace(text))
	if err != nil {
		return wrong(err.Error())
	}
	t := Table{Schema: names[0], Name: names[1], Column: names[2]}
	if rest == "" {
		return t, nil
	}
	if names, rest, err = parseNames(rest[1:]); err != nil {
		return wrong(err.Error())
	}
	if rest != "" {
		return wrong("there is more than one =")
	}
	t.Refers = &manifest.RegistryReference{Schema: names[0], Name: names[1], Column: names[2]}
	return t, nil
}

// parseNames reads the names of a column up to an equals sign: with its schema,
// which may be missing, and its table. The rest begins with the sign.
func parseNames(text string) (names []string, rest string, err error) {
	for {
		var name string
		text = strings.TrimLeft(text, " ")
		if strings.HasPrefix(text, `"`) {
			if name, text, err = parseQuoted(text); err != nil {
				return nil, "", err
			}
			text = strings.TrimLeft(text, " ")
		} else {
			end := strings.IndexAny(text, ".=")
			if end < 0 {
				end = len(text)
			}
			name, text = strings.TrimSpace(text[:end]), text[end:]
		}
		if name == "" || strings.ContainsRune(name, 0) {
			return nil, "", errors.New("a name is empty; it is TABLE.COLUMN or TABLE.COLUMN=TABLE.COLUMN")
		}
		names = append(names, name)
		if text == "" || text[0] == '=' {
			break
		}
		if text[0] != '.' {
			return nil, "", errors.New("a quoted name goes on behind its quote")
		}
		text = text[1:]
	}
	switch len(names) {
	case 2:
		return append([]string{manifest.CoreSchema}, names...), text, nil
	case 3:
		return names, text, nil
	}
	return nil, "", errors.New("it is TABLE.COLUMN or SCHEMA.TABLE.COLUMN")
}

// parseQuoted reads a name in double quotes, in which two of them are one.
func parseQuoted(text string) (name, rest string, err error) {
	var b strings.Builder
	for i := 1; i < len(text); i++ {
		switch {
		case text[i] != '"':
			b.WriteByte(text[i])
		case i+1 < len(text) && text[i+1] == '"':
			b.WriteByte('"')
			i++
		default:
			return b.String(), text[i+1:], nil
		}
	}
	return "", "", errors.New("a quoted name has no end")
}
