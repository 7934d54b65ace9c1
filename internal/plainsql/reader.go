// Package plainsql reads plain SQL scripts, as pg_dump and people write them,
// and runs them over the protocol, without psql: its meta-commands can run
// programs on the machine that restores.
//
// A script is a sequence of statements. The rows behind COPY … FROM stdin
// belong to their statement. What a script may not do is refused by the words
// that statements begin with; what it did all the same outside of its schema,
// through dynamic SQL, triggers or names in the text, is found by Watch, which
// asks the server.
//
// So a restore opens the script and lets Check read it, which tells what it holds
// and what would be refused. Then it opens the script again, begins a
// transaction, moves what is live out of the way, makes a Watch, calls Run, asks
// the Watch, and commits.
//
// Neither the rules nor the Watch are a wall against a hostile script run by a powerful role: a DO block
// or a function can build COPY … FROM PROGRAM at run time, and dblink can leave
// the transaction. What such a script may do is what its role may do, and SET
// ROLE is no wall either, because RESET ROLE undoes it. Powers names what a role
// could do beyond the database; run scripts of strangers on a connection of a
// role that has none of it.
package plainsql

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
)

// ItemKind is what an Item is.
type ItemKind int

// The kinds of items.
const (
	Statement ItemKind = iota // an SQL statement
	Copy                      // COPY … FROM stdin with its rows
	Connect                   // \connect of psql
)

// Item is one step of a script.
type Item struct {
	Kind ItemKind
	// Line is where it begins, from 1.
	Line int
	// Start and End are its place in the decompressed script, in bytes. The
	// semicolon and the rows are not in it.
	Start, End int64
	// SQL is the statement without comments before it and without the semicolon
	// behind it.
	SQL string
	// Rows are those of a Copy, without the line \. behind them. It is to be
	// read before the next call of Next, which passes over what is left.
	Rows io.Reader
	// Database is the name of a Connect.
	Database string
}

// ReaderOptions vary what a Reader takes.
type ReaderOptions struct {
	// MaxStatement bounds a statement, in bytes; 0 is 1 GiB, which is also the
	// most that PostgreSQL takes.
	MaxStatement int
	// AllowCut accepts a script that begins with the first comment of pg_dump
	// or tenantkeep and lacks their last one.
	AllowCut bool
}

const (
	defaultMaxStatement = 1 << 30
	readSize            = 256 << 10
	// keptBuffer is the largest buffer that stays after a long statement.
	keptBuffer = 4 << 20
)

// Reader reads a script item by item. It holds one statement in memory at a
// time, and never more than a buffer of rows.
type Reader struct {
	scan   scanner
	source io.Reader
	opts   ReaderOptions
	buffer []byte // behind the scanner's text
	err    error  // of the source, io.EOF in the end; sticky
	line   int    // where text[0] is
	offset int64  // of text[0] in the script
	rows   *rows
	marks  marks
	origin Origin
	failed error // of Next
}

// NewReader reads a script that is not compressed. See Open for others.
func NewReader(source io.Reader, opts ReaderOptions) *Reader {
	if opts.MaxStatement <= 0 {
		opts.MaxStatement = defaultMaxStatement
	}
	r := &Reader{source: source, opts: opts, line: 1}
	r.scan.more = r.more
	r.scan.at(2) // the whole mark, if there is one
	if mark := []byte("\xef\xbb\xbf"); bytes.HasPrefix(r.scan.text, mark) {
		r.scan.pos = len(mark)
		r.consume()
	}
	return r
}

// StandardStrings says how backslashes in plain strings are read from the next
// statement on: on, the default, takes them as they are. It is the setting
// standard_conforming_strings, which scripts may change, so that whoever runs
// them tells what the server says.
func (r *Reader) StandardStrings(on bool) { r.scan.escapes = !on }

// Origin is what the comments that were read so far say of where the script
// comes from.
func (r *Reader) Origin() Origin { return r.origin }

// Offset is how many bytes of the decompressed script were read.
func (r *Reader) Offset() int64 { return r.offset + int64(r.scan.pos) }

// more reads on. Positions in the text stay what they are.
func (r *Reader) more() bool {
	if r.err != nil {
		return false
	}
	text := r.scan.text
	if len(text) > r.opts.MaxStatement {
		r.err = &TooLongError{Line: r.line, Max: r.opts.MaxStatement}
		return false
	}
	if cap(text)-len(text) < readSize {
		if len(text)+readSize > cap(r.buffer) {
			r.buffer = make([]byte, 0, max(2*cap(r.buffer), len(text)+2*readSize))
		}
		n := copy(r.buffer[:len(text)], text)
		text = r.buffer[:n]
	}
	n, err := r.source.Read(text[len(text) : len(text)+readSize])
	fresh := text[len(text) : len(text)+n]
	if i := bytes.IndexByte(fresh, 0); i >= 0 {
		n, err = i, &NotSQLError{Line: r.line + bytes.Count(text, newline) + bytes.Count(fresh[:i], newline), What: "a zero byte"}
	}
	r.scan.text, r.err = text[:len(text)+n], err
	return n > 0 || err == nil
}

var newline = []byte("\n")

// consume passes over the text up to pos.
func (r *Reader) consume() {
	s := &r.scan
	r.line += bytes.Count(s.text[:s.pos], newline)
	r.offset += int64(s.pos)
	s.text = s.text[s.pos:]
	s.pos = 0
	if cap(r.buffer) > keptBuffer && len(s.text) <= readSize {
		r.buffer = make([]byte, 0, 2*readSize)
		s.text = append(r.buffer, s.text...)
	}
}

// lineAt is the line of a place in the text.
func (r *Reader) lineAt(pos int) int { return r.line + bytes.Count(r.scan.text[:pos], newline) }

// Next returns the next item, or io.EOF at the end of a whole script. Other
// errors are a *CutError, a *CommandError, a *NotSQLError, a *TooLongError, or
// what the source said. After an error it returns the same again.
func (r *Reader) Next() (*Item, error) {
	if r.failed != nil {
		return nil, r.failed
	}
	item, err := r.next()
	r.failed = err
	return item, err
}

func (r *Reader) next() (*Item, error) {
	if r.rows != nil {
		if _, err := io.Copy(io.Discard, r.rows); err != nil {
			return nil, err
		}
		r.rows = nil
	}
	for {
		switch t := r.scan.next(); t.kind {
		case endToken:
			return nil, r.end()
		case spaceToken, semicolonToken:
		case commentToken:
			r.marks.see(r.scan.text[t.start:t.end])
			r.origin.see(r.scan.text[t.start:t.end])
		case openToken:
			return nil, r.cut(t.start)
		case backslashToken:
			item, err := r.command()
			if item != nil || err != nil {
				return item, err
			}
		default:
			r.scan.pos = t.start
			return r.statement()
		}
		r.consume()
	}
}

// end judges the end of the script.
func (r *Reader) end() error {
	if !errors.Is(r.err, io.EOF) {
		return r.err
	}
	if missing := r.marks.missing(); missing != "" && !r.opts.AllowCut {
		return &CutError{Line: r.line, What: "its last line, " + missing + ", is missing"}
	}
	return io.EOF
}

// cut is the error for a script that ends within what began at start.
func (r *Reader) cut(start int) error {
	if r.err != nil && !errors.Is(r.err, io.EOF) {
		return r.err
	}
	what := "statement"
	switch c := r.scan.text[start]; {
	case c == '"':
		what = "quoted name"
	case c == '/':
		what = "comment"
	case c == '\'' || c == '$' || r.scan.pos > start && beginsName(c):
		what = "string"
	}
	return &CutError{Line: r.lineAt(start), What: "the " + what + " that begins here has no end"}
}

// statement takes a statement, at whose first token pos is.
func (r *Reader) statement() (*Item, error) {
	r.consume()
	var b body
	for {
		t := r.scan.next()
		switch t.kind {
		case endToken:
			if r.err != nil && !errors.Is(r.err, io.EOF) {
				return nil, r.err
			}
			return nil, &CutError{Line: r.line, What: "the statement that begins here is not ended by a semicolon"}
		case openToken:
			return nil, r.cut(t.start)
		case backslashToken:
			return nil, r.refused(t.start)
		}
		if b.ends(t, r.scan.text) {
			return r.statementItem(t.start)
		}
	}
}

func (r *Reader) statementItem(end int) (*Item, error) {
	sql := strings.TrimRight(string(r.scan.text[:end]), " \t\r\n\f\v")
	item := &Item{Line: r.line, Start: r.offset, End: r.offset + int64(len(sql)), SQL: sql}
	r.consume()
	if c, ok := parseCopy(sql); !ok || !c.stdin {
		return item, nil
	}
	item.Kind = Copy
	if err := r.endOfLine(); err != nil {
		return nil, err
	}
	r.rows = &rows{r: r, line: r.line, start: true}
	item.Rows = r.rows
	return item, nil
}

// endOfLine passes over the rest of the line before rows.
func (r *Reader) endOfLine() error {
	for {
		switch c := r.scan.at(0); {
		case c == 0:
			return r.rowsCut(r.line)
		case c == '\n':
			r.scan.pos++
			r.consume()
			return nil
		case c == '-' && r.scan.at(1) == '-':
			r.scan.lineComment()
		case isSpace(c):
			r.scan.pos++
		default:
			return &NotSQLError{Line: r.line, What: "text behind COPY … FROM stdin, where its rows begin on the next line"}
		}
	}
}

func (r *Reader) rowsCut(line int) error {
	if r.err != nil && !errors.Is(r.err, io.EOF) {
		return r.err
	}
	return &CutError{Line: line, What: `the rows that begin here have no line \. behind them`}
}

// body finds the end of a statement. Semicolons inside of parentheses, as in
// CREATE RULE, and of BEGIN ATOMIC … END do not end it.
type body struct {
	words  int
	create [4]string // the first words
	parens int
	atomic int  // of BEGIN ATOMIC and of CASE within it
	begin  bool // the last word was BEGIN
}

func (b *body) ends(t token, text []byte) bool {
	switch t.kind {
	case spaceToken, commentToken:
		return false
	case wordToken:
		b.word(text[t.start:t.end])
		return false
	case semicolonToken:
		if b.parens == 0 && b.atomic == 0 {
			return true
		}
	case otherToken:
		switch text[t.start] {
		case '(':
			b.parens++
		case ')':
			b.parens = max(b.parens-1, 0)
		}
	}
	b.begin = false
	return false
}

func (b *body) word(text []byte) {
	const longest = len("procedure")
	word := ""
	if len(text) <= longest && (b.words < len(b.create) || b.routine() && b.parens == 0) {
		word = strings.ToLower(string(text))
	}
	if b.words < len(b.create) {
		b.create[b.words] = word
	}
	b.words++
	begun := b.begin
	b.begin = false
	if b.parens > 0 || !b.routine() {
		return
	}
	switch {
	case b.atomic == 0:
		// BEGIN and ATOMIC alone may be names.
		b.begin = word == "begin"
		if begun && word == "atomic" {
			b.atomic = 1
		}
	case word == "case":
		b.atomic++
	case word == "end":
		b.atomic--
	}
}

// routine reports whether the statement creates a function or a procedure.
func (b *body) routine() bool {
	if b.create[0] != "create" {
		return false
	}
	what := b.create[1]
	if what == "or" && b.create[2] == "replace" {
		what = b.create[3]
	}
	return what == "function" || what == "procedure"
}

var (
	restrictForm = regexp.MustCompile(`^\\(un)?restrict[ \t]+[A-Za-z0-9]+[ \t\r]*$`)
	connectForm  = regexp.MustCompile(`^\\(?:c|connect)[ \t]+(?:-reuse-previous=on[ \t]+)?(\S.*?)[ \t\r]*$`)
	commandWord  = regexp.MustCompile(`^\\(?:[A-Za-z_0-9+?]+|[^ \t\r])?`)
)

// command takes a command of psql, behind whose backslash pos is.
func (r *Reader) command() (*Item, error) {
	r.scan.pos--
	r.consume()
	n := 0
	for c := r.scan.at(n); c != 0 && c != '\n'; c = r.scan.at(n) {
		n++
	}
	text := string(r.scan.text[:n])
	if restrictForm.MatchString(text) {
		r.scan.pos = n
		return nil, nil
	}
	if m := connectForm.FindStringSubmatch(text); m != nil {
		if name, ok := connectName(m[1]); ok {
			item := &Item{Kind: Connect, Line: r.line, Start: r.offset, End: r.offset + int64(n), Database: name}
			r.scan.pos = n
			r.consume()
			return item, nil
		}
	}
	return nil, r.refused(0)
}

var (
	plainName  = regexp.MustCompile(`^[A-Za-z0-9_.$-]+$`)
	dbnameForm = regexp.MustCompile(`^dbname='((?:[^'\\]|\\.)*)'$`)
)

// connectName reads the forms of a database's name that pg_dump writes: plain,
// in double quotes, and in a connection string within those.
func connectName(text string) (string, bool) {
	if plainName.MatchString(text) && text != "-" {
		return text, true
	}
	// A backslash within double quotes is a plain byte to psql.
	if len(text) < 2 || text[0] != '"' || text[len(text)-1] != '"' {
		return "", false
	}
	inner := text[1 : len(text)-1]
	if strings.Contains(strings.ReplaceAll(inner, `""`, ""), `"`) {
		return "", false
	}
	inner = strings.ReplaceAll(inner, `""`, `"`)
	if m := dbnameForm.FindStringSubmatch(inner); m != nil {
		return unescape(m[1]), true
	}
	if strings.ContainsRune(inner, '=') || strings.Contains(inner, "://") {
		return "", false // a connection string: it may lead to another server
	}
	return inner, true
}

func unescape(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// refused is the error for a command of psql, whose backslash is at start.
func (r *Reader) refused(start int) error {
	const enough = 40
	r.scan.pos = start
	r.scan.at(enough)
	line, _, _ := bytes.Cut(r.scan.text[start:min(start+enough, len(r.scan.text))], newline)
	return &CommandError{Line: r.lineAt(start), Command: string(commandWord.Find(line))}
}

// marks are the comments by which programs mark the first and the last line of
// what they write.
type marks struct {
	begun, ended [len(markForms)]bool
}

var markForms = [...]struct{ first, last string }{
	{"-- PostgreSQL database dump", "-- PostgreSQL database dump complete"},
	{"-- tenantkeep: schema ", "-- tenantkeep end of file: "},
}

func (m *marks) see(comment []byte) {
	for i, form := range markForms {
		exact := strings.TrimRight(form.first, " ") == form.first
		switch {
		case bytes.HasPrefix(comment, []byte(form.last)):
			m.ended[i] = true
		case exact && string(comment) == form.first, !exact && bytes.HasPrefix(comment, []byte(form.first)):
			// One file may hold several dumps.
			m.begun[i], m.ended[i] = true, false
		}
	}
}

// missing is the mark that the end of the script should have had.
func (m *marks) missing() string {
	for i, form := range markForms {
		if m.begun[i] && !m.ended[i] {
			return fmt.Sprintf("%q", strings.TrimRight(form.last, " "))
		}
	}
	return ""
}

// rows are the rows behind a COPY. They end at a line \. whatever their format,
// as they do for psql.
type rows struct {
	r     *Reader
	line  int  // of the first row
	start bool // the next byte begins a line
	err   error
}

var rowsEnd = []byte("\n\\.")

func (w *rows) Read(p []byte) (int, error) {
	if len(p) == 0 || w.err != nil {
		return 0, w.err
	}
	n, err := w.piece(len(p))
	if err != nil {
		w.err = err
		return 0, err
	}
	s := &w.r.scan
	copy(p, s.text[:n])
	w.start = s.text[n-1] == '\n'
	s.pos = n
	w.r.consume()
	return n, nil
}

// piece returns how many of the next bytes, at most limit, are rows.
func (w *rows) piece(limit int) (int, error) {
	s := &w.r.scan
	if s.at(0) == 0 {
		return 0, w.r.rowsCut(w.line)
	}
	if w.start && s.at(0) == '\\' && s.at(1) == '.' {
		n := 2
		if s.at(n) == '\r' {
			n++
		}
		if c := s.at(n); c == '\n' || c == 0 && errors.Is(w.r.err, io.EOF) {
			s.pos = min(n+1, len(s.text))
			w.r.consume()
			return 0, io.EOF
		}
	}
	text := s.text[:min(len(s.text), limit)]
	if i := bytes.Index(text, rowsEnd); i >= 0 {
		return i + 1, nil
	}
	// A mark may be cut by the end of what was read.
	if n := len(text); n > 1 && text[n-1] == '\\' && text[n-2] == '\n' {
		return n - 1, nil
	}
	return len(text), nil
}
