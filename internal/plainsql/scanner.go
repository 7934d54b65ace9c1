package plainsql

import "bytes"

// kind is what a token is.
type kind int

const (
	endToken       kind = iota // no more text
	spaceToken                 // white space
	commentToken               // -- … or /* … */
	wordToken                  // a keyword or a name without quotes
	quotedToken                // "…"
	stringToken                // '…' in all of its forms, $tag$…$tag$
	otherToken                 // anything else: operators, digits, parentheses
	semicolonToken             // ;
	backslashToken             // \, which begins a command for psql
	openToken                  // a string, name or comment without its end
)

// token is a piece of the scanner's text.
type token struct {
	kind       kind
	start, end int
}

// scanner cuts SQL into tokens as the server and psql do. Where releases of
// them differ, the server takes the text for an error in at least one of the
// two readings.
type scanner struct {
	text []byte
	pos  int
	more func() bool // appends to text; false at the end; nil: the text is complete
	// escapes makes backslashes special in plain '…' too, which is
	// standard_conforming_strings = off.
	escapes bool
}

// at is the byte n places behind pos, 0 behind the end of the text.
func (s *scanner) at(n int) byte {
	for s.pos+n >= len(s.text) {
		if s.more == nil || !s.more() {
			return 0
		}
	}
	return s.text[s.pos+n]
}

func isSpace(c byte) bool {
	return c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == '\f' || c == '\v'
}

func isNewline(c byte) bool { return c == '\n' || c == '\r' }
func isDigit(c byte) bool   { return c >= '0' && c <= '9' }

func beginsName(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c >= 0x80
}

func inTag(c byte) bool  { return beginsName(c) || isDigit(c) }
func inName(c byte) bool { return inTag(c) || c == '$' }

// next takes the next token.
func (s *scanner) next() token {
	start := s.pos
	return token{kind: s.take(), start: start, end: s.pos}
}

func (s *scanner) take() kind {
	c := s.at(0)
	switch {
	case c == 0:
		return endToken
	case isSpace(c):
		s.while(isSpace)
		return spaceToken
	case c == '-' && s.at(1) == '-':
		s.lineComment()
		return commentToken
	case c == '/' && s.at(1) == '*':
		return s.blockComment()
	case c == '\'':
		return s.string(s.escapes)
	case c == '"':
		return s.quotedName()
	case c == '$':
		return s.dollar()
	case beginsName(c):
		return s.word()
	case isDigit(c):
		s.while(isDigit)
		return otherToken
	case c == ';':
		s.pos++
		return semicolonToken
	case c == '\\':
		s.pos++
		return backslashToken
	}
	s.pos++
	return otherToken
}

func (s *scanner) while(in func(byte) bool) {
	for in(s.at(0)) {
		s.pos++
	}
}

// lineComment ends before the end of its line.
func (s *scanner) lineComment() {
	for s.at(0) != 0 {
		if i := bytes.IndexAny(s.text[s.pos:], "\n\r"); i >= 0 {
			s.pos += i
			return
		}
		s.pos = len(s.text)
	}
}

func (s *scanner) blockComment() kind {
	s.pos += 2
	for depth := 1; depth > 0; {
		if s.at(0) == 0 {
			return openToken
		}
		i := bytes.IndexAny(s.text[s.pos:], "*/")
		if i < 0 {
			s.pos = len(s.text)
			continue
		}
		s.pos += i
		switch {
		case s.text[s.pos] == '*' && s.at(1) == '/':
			depth--
			s.pos += 2
		case s.text[s.pos] == '/' && s.at(1) == '*':
			depth++
			s.pos += 2
		default:
			s.pos++
		}
	}
	return commentToken
}

// until moves pos behind the next byte c; false if there is none.
func (s *scanner) until(c byte) bool {
	for s.at(0) != 0 {
		if i := bytes.IndexByte(s.text[s.pos:], c); i >= 0 {
			s.pos += i + 1
			return true
		}
		s.pos = len(s.text)
	}
	return false
}

func (s *scanner) quotedName() kind {
	s.pos++
	for s.until('"') {
		if s.at(0) != '"' {
			return quotedToken
		}
		s.pos++
	}
	return openToken
}

// string takes a string from its first quote on, and the strings on following
// lines that SQL makes part of it: those are read by the rules of the first.
func (s *scanner) string(escapes bool) kind {
	for {
		s.pos++
		if !s.stringEnd(escapes) {
			return openToken
		}
		if !s.continued() {
			return stringToken
		}
	}
}

// stringEnd moves pos behind the closing quote.
func (s *scanner) stringEnd(escapes bool) bool {
	if !escapes {
		for s.until('\'') {
			if s.at(0) != '\'' {
				return true
			}
			s.pos++
		}
		return false
	}
	for s.at(0) != 0 {
		i := bytes.IndexAny(s.text[s.pos:], `'\`)
		if i < 0 {
			s.pos = len(s.text)
			continue
		}
		s.pos += i
		switch {
		case s.text[s.pos] == '\'' && s.at(1) != '\'':
			s.pos++
			return true
		case s.at(1) == 0:
			s.pos++
			return false
		}
		s.pos += 2
	}
	return false
}

// continued moves pos to the quote that continues a string, which is one with
// nothing before it but white space with a line's end in it, and comments.
func (s *scanner) continued() bool {
	before := s.pos
	lines := false
	for {
		switch c := s.at(0); {
		case isNewline(c):
			lines = true
			s.pos++
		case isSpace(c):
			s.pos++
		case c == '-' && s.at(1) == '-':
			s.lineComment()
		case c == '\'' && lines:
			return true
		default:
			s.pos = before
			return false
		}
	}
}

// dollar takes $tag$…$tag$, a parameter, or a lone $.
func (s *scanner) dollar() kind {
	s.pos++
	if isDigit(s.at(0)) {
		s.while(isDigit)
		return otherToken
	}
	n := 0
	if beginsName(s.at(0)) {
		for inTag(s.at(n)) {
			n++
		}
	}
	if s.at(n) != '$' {
		return otherToken
	}
	tag := bytes.Clone(s.text[s.pos-1 : s.pos+n+1])
	s.pos += n + 1
	for s.at(len(tag)-1) != 0 {
		if i := bytes.Index(s.text[s.pos:], tag); i >= 0 {
			s.pos += i + len(tag)
			return stringToken
		}
		s.pos = len(s.text) - len(tag) + 1
	}
	s.pos = len(s.text)
	return openToken
}

// word takes a word, or a string that a letter stands before.
func (s *scanner) word() kind {
	switch c := s.at(0) | 0x20; {
	case s.at(1) == '\'' && c == 'e':
		s.pos++
		return s.string(true)
	case s.at(1) == '\'' && (c == 'b' || c == 'x'):
		s.pos++
		return s.string(false)
	case c == 'u' && s.at(1) == '&' && s.at(2) == '\'':
		s.pos += 2
		return s.string(false)
	case c == 'u' && s.at(1) == '&' && s.at(2) == '"':
		s.pos += 2
		return s.quotedName()
	}
	s.while(inName)
	return wordToken
}
