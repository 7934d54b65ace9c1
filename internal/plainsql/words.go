package plainsql

import "strings"

// headSize is how much of a statement is looked at to tell what it is. Only a
// COPY with the longest possible list of columns comes near it.
const headSize = 256 << 10

// word is a token that says something. Text is in lower case for words without
// quotes, without the quotes for names and plain strings, else as it stands.
type word struct {
	kind kind
	text string
}

// is reports whether the word is one of these keywords.
func (w word) is(keywords ...string) bool {
	if w.kind != wordToken {
		return false
	}
	for _, k := range keywords {
		if w.text == k {
			return true
		}
	}
	return false
}

// symbol reports whether the word is this one character.
func (w word) symbol(c string) bool { return w.kind == otherToken && w.text == c }

// name reports whether the word may be a name.
func (w word) name() bool { return w.kind == wordToken || w.kind == quotedToken }

// words goes through the words of a statement.
type words struct {
	scan  scanner
	ahead []word
}

func wordsOf(sql string) *words {
	return &words{scan: scanner{text: []byte(sql[:min(len(sql), headSize)])}}
}

// next takes the next word; behind the last one its kind is endToken.
func (w *words) next() word {
	if n := len(w.ahead); n > 0 {
		next := w.ahead[n-1]
		w.ahead = w.ahead[:n-1]
		return next
	}
	for {
		t := w.scan.next()
		text := string(w.scan.text[t.start:t.end])
		switch t.kind {
		case spaceToken, commentToken:
			continue
		case openToken:
			return word{kind: endToken}
		case wordToken:
			text = strings.ToLower(text)
		case quotedToken:
			if text[0] == '"' {
				text = strings.ReplaceAll(text[1:len(text)-1], `""`, `"`)
			}
		case stringToken:
			if text[0] == '\'' {
				text = strings.ReplaceAll(text[1:len(text)-1], "''", "'")
			}
		}
		return word{t.kind, text}
	}
}

func (w *words) back(word word) { w.ahead = append(w.ahead, word) }

// skip takes the given keywords if they come next, all of them.
func (w *words) skip(keywords ...string) bool {
	var taken []word
	for _, k := range keywords {
		next := w.next()
		taken = append(taken, next)
		if next.is(k) {
			continue
		}
		for i := len(taken) - 1; i >= 0; i-- {
			w.back(taken[i])
		}
		return false
	}
	return true
}

// object takes a name of one or more parts; empty if none comes next.
func (w *words) object() []string {
	var parts []string
	for {
		next := w.next()
		if !next.name() {
			w.back(next)
			return parts
		}
		parts = append(parts, next.text)
		dot := w.next()
		if !dot.symbol(".") {
			w.back(dot)
			return parts
		}
	}
}

// parentheses passes over a pair of parentheses if one comes next.
func (w *words) parentheses() bool {
	open := w.next()
	if !open.symbol("(") {
		w.back(open)
		return false
	}
	for depth := 1; depth > 0; {
		switch next := w.next(); {
		case next.kind == endToken:
			return false
		case next.symbol("("):
			depth++
		case next.symbol(")"):
			depth--
		}
	}
	return true
}

// flat takes all words that are left, without parentheses and what is in them.
func (w *words) flat() []word {
	var all []word
	for {
		if w.parentheses() {
			continue
		}
		next := w.next()
		if next.kind == endToken {
			return all
		}
		all = append(all, next)
	}
}

// copyStatement is a COPY.
type copyStatement struct {
	table  []string
	from   bool
	stdin  bool // FROM STDIN
	binary bool
	place  string // what it reads or writes otherwise
}

// parseCopy reads a statement that begins with COPY; false if it does not, or
// makes no sense.
func parseCopy(sql string) (c copyStatement, ok bool) {
	if len(sql) < 4 || !strings.EqualFold(sql[:4], "copy") {
		return c, false
	}
	w := wordsOf(sql)
	if !w.skip("copy") {
		return c, false
	}
	if w.parentheses() {
		return copyStatement{place: "the result of a query"}, true
	}
	c.binary = w.skip("binary")
	if c.table = w.object(); len(c.table) == 0 {
		return c, false
	}
	w.parentheses()
	direction := w.next()
	c.from = direction.is("from")
	if !c.from {
		return copyStatement{table: c.table, place: "a table"}, direction.is("to")
	}
	switch next := w.next(); {
	case next.is("stdin", "stdout"): // which are the same to PostgreSQL
		c.stdin = true
	case next.is("program"):
		c.place = "a program"
	default:
		c.place = "a file of the server"
	}
	for previous := (word{}); ; {
		next := w.next()
		if next.kind == endToken {
			return c, true
		}
		if strings.EqualFold(next.text, "binary") && (next.kind == wordToken || previous.is("format")) {
			c.binary = true
		}
		previous = next
	}
}
