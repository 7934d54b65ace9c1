package plainsql

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Summary is what a script holds, as its words say.
type Summary struct {
	Origin     Origin
	Bytes      int64 // of the decompressed script
	Statements int   // COPY included
	Kinds      []KindCount
	// Tables are those that COPY and INSERT fill, by the names that the script
	// gives them. An INSERT counts as one row, a COPY as many as it has lines.
	Tables    []TableRows
	Rows      int64 // of all tables
	CopyBytes int64 // of the rows of COPY
	// Makes are the schemas that CREATE SCHEMA names, Uses all those in which
	// the script makes or fills tables or of which it makes one.
	Makes, Uses []string
	// Refers are the tables of other schemas to which its foreign keys refer.
	Refers []string
	// Exact says that nothing but COPY and INSERT changes rows, as far as the
	// words say, so that tables must have the rows that these stored.
	Exact bool
	// Refused are the first statements that Run would not run.
	Refused      []*RefusedError
	RefusedCount int
}

// KindCount is how many statements there are of a kind, such as "CREATE TABLE".
type KindCount struct {
	Kind  string `json:"kind"`
	Count int    `json:"count"`
}

// Count is how many statements there are of a kind.
func (s *Summary) Count(kind string) int64 {
	for _, k := range s.Kinds {
		if k.Kind == kind {
			return int64(k.Count)
		}
	}
	return 0
}

// maxRefused is how many refused statements a Summary names.
const maxRefused = 20

// Check reads a script and says what is in it and what Run would refuse of it,
// without running any of it. Where the options name no schema, statements are
// judged for the first one that the script makes or fills a table of. The
// connection tells which settings and extensions the server has.
//
// Errors are those of Reader.Next, or about the connection and the context.
func Check(ctx context.Context, conn *pgx.Conn, script *Reader, opts Options) (*Summary, error) {
	c := newChecker(conn, script, opts)
	if err := c.prepare(ctx); err != nil {
		return nil, fmt.Errorf("check script: %w", err)
	}
	script.StandardStrings(true)
	err := c.read(ctx)
	c.progress(0)
	if err != nil {
		err = fmt.Errorf("check script: %w", err)
	}
	return c.summary(), err
}

type checker struct {
	runner
	mere                     bool // nothing is judged, and there is no connection
	statements, refusedCount int
	kinds                    map[string]int
	filled                   map[[2]string]int64
	rows, copied             int64
	uses, makes, refers      map[string]bool
	exact, triggers          bool
	refused                  []*RefusedError
	buffer                   []byte
}

func newChecker(conn *pgx.Conn, script *Reader, opts Options) *checker {
	return &checker{
		runner: runner{conn: conn, script: script, opts: opts, notes: map[string]int{}, told: script.Offset()},
		kinds:  map[string]int{}, filled: map[[2]string]int64{}, uses: map[string]bool{}, makes: map[string]bool{}, refers: map[string]bool{}, exact: true,
	}
}

func (c *checker) read(ctx context.Context) error {
	for {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		item, err := c.script.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if item.Kind == Connect {
			if !c.mere {
				c.refuse(c.connect(item))
			}
			continue
		}
		c.statements++
		c.look(item)
		if !c.mere {
			if v := c.rules.judge(item.SQL); v.action == refuse {
				c.refuse(&RefusedError{Line: item.Line, SQL: beginning(item.SQL), Reason: v.reason, Outside: v.outside})
			}
		}
		if item.Kind == Copy {
			if err := c.count(ctx, item); err != nil {
				return err
			}
		}
		c.progress(0)
	}
}

func (c *checker) refuse(err error) {
	refused, ok := errors.AsType[*RefusedError](err)
	if !ok {
		return
	}
	if c.refusedCount++; len(c.refused) < maxRefused {
		c.refused = append(c.refused, refused)
	}
}

// count reads the rows of a COPY.
func (c *checker) count(ctx context.Context, item *Item) error {
	if c.buffer == nil {
		c.buffer = make([]byte, readSize)
	}
	statement, _ := parseCopy(item.SQL)
	var rows int64
	for {
		n, err := item.Rows.Read(c.buffer)
		rows += int64(bytes.Count(c.buffer[:n], newline))
		c.copied += int64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		c.progress(0)
	}
	c.fill(statement.table, rows)
	return nil
}

func (c *checker) fill(table []string, rows int64) {
	c.rows += rows
	if n := len(table); n > 0 {
		key := [2]string{"", table[n-1]}
		if n > 1 {
			key[0] = table[n-2]
		}
		c.filled[key] += rows
	}
	if c.triggers && rows > 0 {
		c.exact = false // they may change what is stored
	}
}

// use notes that the script makes or fills something of a schema.
func (c *checker) use(object []string) {
	if len(object) != 2 || object[0] == "pg_temp" {
		return
	}
	c.in(object[0])
}

func (c *checker) in(schema string) {
	c.uses[schema] = true
	if c.rules.schema == "" {
		c.rules.schema = schema
	}
}

var conflict = regexp.MustCompile(`(?i)\bon\s+conflict\b`)

// look notes what a statement is about.
func (c *checker) look(item *Item) {
	const enough = 4 << 10
	head := item.SQL[:min(len(item.SQL), enough)]
	w := wordsOf(head)
	first := w.next()
	if first.kind != wordToken {
		c.kinds["SELECT"]++ // in parentheses
		c.exact = false
		return
	}
	kind := strings.ToUpper(first.text)
	switch first.text {
	case "create", "alter", "drop":
		kind = c.defined(first.text, w, item.SQL)
	case "copy":
		if statement, ok := parseCopy(item.SQL); ok && statement.from {
			c.use(statement.table)
		}
	case "insert":
		w.skip("into")
		table := w.object()
		c.use(table)
		c.fill(table, 1)
		if conflict.MatchString(item.SQL[max(0, len(item.SQL)-enough):]) {
			c.exact = false
		}
	case "set":
		w.skip("session")
		if w.skip("standard_conforming_strings") {
			w.next() // = or TO
			c.script.StandardStrings(!slices.Contains([]string{"off", "false", "no", "0"}, strings.ToLower(w.next().text)))
		}
	case "select":
		object := w.object()
		function := ""
		if len(object) > 0 {
			function = object[len(object)-1]
		}
		if !slices.Contains([]string{"set_config", "setval"}, function) && !strings.HasPrefix(function, "lo_") {
			c.exact = false
		}
	case "update", "delete", "truncate", "merge", "do", "call", "with", "values", "table", "explain", "declare", "fetch":
		c.exact = false
	}
	c.kinds[kind]++
}

// defined is CREATE, ALTER and DROP.
func (c *checker) defined(verb string, w *words, sql string) (kind string) {
	if verb == "create" {
		w.skip("or", "replace")
	}
	for {
		next := w.next()
		if !next.is(adjectives...) {
			w.back(next)
			break
		}
		if next.is("temp", "temporary") {
			c.exact = false
		}
	}
	object := objectKind(w)
	if object == "materialized" && w.skip("view") {
		object = "materialized view"
	}
	_ = w.skip("if", "not", "exists") || w.skip("if", "exists")
	w.skip("only")
	switch {
	case verb == "create" && object == "schema":
		name := w.object()
		if len(name) == 1 && name[0] == "authorization" {
			name = w.object()
		}
		// Every dump of a whole database mentions public, which is there before.
		if len(name) == 1 {
			c.makes[name[0]] = true
			if name[0] != public {
				c.in(name[0])
			}
		}
	case verb == "create" && slices.Contains([]string{"table", "foreign", "view", "materialized view", "sequence"}, object):
		if object == "foreign" {
			w.skip("table")
		}
		c.use(w.object())
		c.keys(sql)
	case object == "table":
		c.keys(sql)
		if verb == "alter" && slices.ContainsFunc(w.flat(), func(w word) bool { return w.is("rename") }) {
			c.exact = false
		}
	case verb == "create" && slices.Contains([]string{"trigger", "rule"}, object):
		c.triggers = true
	}
	return strings.ToUpper(verb + " " + object)
}

// keys notes tables of other schemas to which foreign keys refer.
func (c *checker) keys(sql string) {
	if !strings.Contains(sql, "REFERENCES") && !strings.Contains(sql, "references") {
		return
	}
	w := wordsOf(sql)
	for next := w.next(); next.kind != endToken; next = w.next() {
		if !next.is("references") {
			continue
		}
		if table := w.object(); len(table) == 2 && table[0] != c.rules.schema {
			c.refers[table[0]+"."+table[1]] = true
		}
	}
}

func (c *checker) summary() *Summary {
	s := &Summary{
		Origin: c.script.Origin(), Bytes: c.script.Offset(), Statements: c.statements, Rows: c.rows, CopyBytes: c.copied,
		Makes: slices.Sorted(maps.Keys(c.makes)), Uses: slices.Sorted(maps.Keys(c.uses)), Refers: slices.Sorted(maps.Keys(c.refers)),
		Exact: c.exact, Refused: c.refused, RefusedCount: c.refusedCount,
	}
	for kind, n := range c.kinds {
		s.Kinds = append(s.Kinds, KindCount{kind, n})
	}
	slices.SortFunc(s.Kinds, func(a, b KindCount) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), strings.Compare(a.Kind, b.Kind))
	})
	for table, rows := range c.filled {
		s.Tables = append(s.Tables, TableRows{table[0], table[1], rows})
	}
	slices.SortFunc(s.Tables, func(a, b TableRows) int {
		return cmp.Or(strings.Compare(a.Schema, b.Schema), strings.Compare(a.Table, b.Table))
	})
	return s
}
