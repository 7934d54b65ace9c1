package plainsql

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tenantkeep/tenantkeep/internal/pg"
)

// Template is a few statements with parameters, as psql writes them: :name and
// :'name' stand for a value, :"name" for the name of an object. Values are never
// put into the text: they are parameters of the statement, names are quoted.
type Template struct{ statements []prepared }

// prepared is one statement of a template.
type prepared struct {
	pieces []piece
	line   int    // where it begins
	word   string // that it begins with, in capitals
}

// piece is text, or a parameter.
type piece struct {
	text, parameter string
	identifier      bool
}

// TemplateError is a template that cannot be used.
type TemplateError struct {
	Line   int
	Reason string
	Remedy string
}

// Error names the line.
func (e *TemplateError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Reason) }

// Hint says what to do.
func (e *TemplateError) Hint() string { return e.Remedy }

// notInTemplate are the words that begin statements which would end, or cut up,
// the transaction that a template is a part of.
var notInTemplate = []string{"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE", "PREPARE", "COPY", "VACUUM"}

// ParseTemplate reads a template.
func ParseTemplate(text string) (*Template, error) {
	if strings.ContainsRune(text, 0) {
		return nil, &TemplateError{Line: 1, Reason: "there are zero bytes in it", Remedy: "write SQL as text"}
	}
	p := templateParser{scanner: scanner{text: []byte(text)}, line: 1}
	for {
		at := p.pos
		token := p.next()
		if err := p.take(token); err != nil {
			return nil, err
		}
		p.line += strings.Count(text[at:p.pos], "\n")
		if token.kind == endToken {
			break
		}
	}
	if len(p.statements) == 0 {
		return nil, &TemplateError{Line: 1, Reason: "there is no statement", Remedy: "write at least one, such as INSERT INTO public.tenants (schema_name) VALUES (:schema)"}
	}
	return &Template{p.statements}, nil
}

type templateParser struct {
	scanner
	statements []prepared
	current    prepared
	line       int
}

func (p *templateParser) wrong(reason, remedy string) error {
	return &TemplateError{Line: p.line, Reason: reason, Remedy: remedy}
}

// take adds one token to the statement that it belongs to.
func (p *templateParser) take(t token) error {
	text := string(p.text[t.start:t.end])
	switch {
	case t.kind == openToken:
		return p.wrong("a string, name or comment has no end", "close it")
	case t.kind == endToken, t.kind == semicolonToken:
		if p.current.word != "" {
			p.statements = append(p.statements, p.current)
		}
		p.current = prepared{}
		return nil
	case t.kind == backslashToken:
		return p.wrong("a backslash begins a command of psql", "write SQL only")
	case t.kind == otherToken && len(text) > 1 && text[0] == '$':
		return p.wrong(fmt.Sprintf("%s is no parameter here", text), "write parameters as :name")
	case p.current.word == "" && (t.kind == spaceToken || t.kind == commentToken):
		return nil // before a statement
	}
	if p.current.word == "" {
		p.current.line, p.current.word = p.line, strings.ToUpper(text)
		if slices.Contains(notInTemplate, p.current.word) {
			return p.wrong(p.current.word+" cannot be used", "all statements run in one transaction, which is not theirs to end")
		}
	}
	if text == ":" {
		if next, ok := p.parameter(); ok {
			p.current.pieces = append(p.current.pieces, next)
			return nil
		}
		if p.at(0) == ':' { // a cast
			p.pos++
			text = "::"
		}
	}
	p.current.pieces = append(p.current.pieces, piece{text: text})
	return nil
}

// parameter takes a parameter whose colon has been taken.
func (p *templateParser) parameter() (piece, bool) {
	quote := p.at(0)
	if quote != '\'' && quote != '"' {
		n := 0
		if beginsName(p.at(0)) {
			for inTag(p.at(n)) {
				n++
			}
		}
		name := string(p.text[p.pos : p.pos+n])
		p.pos += n
		return piece{parameter: name}, n > 0
	}
	n := 1
	for inTag(p.at(n)) {
		n++
	}
	if n == 1 || p.at(n) != quote {
		return piece{}, false
	}
	name := string(p.text[p.pos+1 : p.pos+n])
	p.pos += n + 1
	return piece{parameter: name, identifier: quote == '"'}, true
}

// Parameters are the names of all parameters, in the order of the alphabet.
func (t *Template) Parameters() []string {
	names := map[string]bool{}
	for _, s := range t.statements {
		for _, p := range s.pieces {
			if p.parameter != "" {
				names[p.parameter] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// bind writes a statement with $1 and so on, and what these stand for.
func (s prepared) bind(values map[string]string) (sql string, args [][]byte) {
	var b strings.Builder
	numbers := map[string]int{}
	for _, p := range s.pieces {
		switch {
		case p.parameter == "":
			b.WriteString(p.text)
		case p.identifier:
			b.WriteString(pg.Identifier(values[p.parameter]))
		default:
			if numbers[p.parameter] == 0 {
				args = append(args, []byte(values[p.parameter]))
				numbers[p.parameter] = len(args)
			}
			fmt.Fprintf(&b, "$%d", numbers[p.parameter])
		}
	}
	return b.String(), args
}

// Run runs the statements of a template in the transaction that the session is
// in. Every parameter must have a value. What the server refuses is a
// *StatementError.
func (t *Template) Run(ctx context.Context, conn *pgconn.PgConn, values map[string]string) error {
	for _, s := range t.statements {
		sql, args := s.bind(values)
		_, err := conn.ExecParams(ctx, sql, args, nil, nil, nil).Close()
		if err == nil && conn.TxStatus() != 'T' {
			err = errors.New("it ended the transaction")
		}
		if err != nil {
			return &StatementError{Line: s.line, SQL: beginning(sql), Err: err}
		}
	}
	return nil
}
