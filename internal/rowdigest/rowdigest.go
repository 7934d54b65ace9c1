// Package rowdigest gives rows a digest that both a PostgreSQL server computes
// over a table and a client over the same rows as COPY text. A table that was
// loaded is compared with what was sent without being read again over the
// connection, which costs more than the hashing.
//
// The digest of a value is PostgreSQL's hashtextextended of its text as COPY
// writes it, before escapes, with the digest of the value before it in the row as
// the seed. The last one is the digest of the row; that of a table is the sum of
// those of its rows modulo 2^64, whatever their order. PostgreSQL keeps the
// function as it is, since it decides in which hash partition a row lies.
package rowdigest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/tenantkeep/tenantkeep/internal/copytext"
	"github.com/tenantkeep/tenantkeep/internal/pg"
	"github.com/tenantkeep/tenantkeep/internal/rowsum"
)

// ErrForm says that text is not rows of COPY text with the columns that a table
// has.
var ErrForm = errors.New("not rows of the table")

// Column is a column of a table.
type Column struct {
	Name string
	Type uint32 // OID
	// Output is the output function of the type, as SQL names it; empty where it
	// cannot be called from SQL, or must not be for a null.
	Output string
}

// Table is how the rows of one table are digested. It may be used from several
// goroutines.
type Table struct {
	columns    int
	null       []byte
	expression string
}

// maxColumns bounds how deep the expression for a row is nested.
const maxColumns = 250

// OIDs of the types that the server hashes as they are.
const (
	oidText    = 25
	oidVarchar = 1043
)

// New is the way to digest a table with these columns, in the order in which COPY
// carries them; nil if there are none, or too many, or one that the server cannot
// digest.
func New(columns []Column) *Table {
	if len(columns) == 0 || len(columns) > maxColumns || slices.ContainsFunc(columns, func(c Column) bool { return c.Output == "" }) {
		return nil
	}
	// A null is hashed as a word that no value can be, since nobody knows it.
	null := rand.Text()
	digest := "0"
	for _, c := range columns {
		value := pg.Identifier(c.Name)
		if c.Type != oidText && c.Type != oidVarchar {
			value = "pg_catalog.textin(" + c.Output + "(" + value + "))"
		}
		digest = fmt.Sprintf(`pg_catalog.hashtextextended(coalesce(%s, '%s') COLLATE pg_catalog."C", %s)`, value, null, digest)
	}
	return &Table{columns: len(columns), null: []byte(null), expression: digest}
}

// Sum is of some rows of a table. The zero value is that of no rows.
type Sum struct {
	rowsum.Sum // of the rows as COPY text
	Digest     uint64
}

// Merge adds other rows of the table.
func (s *Sum) Merge(o Sum) {
	s.Sum.Merge(o.Sum)
	s.Digest += o.Digest
}

// Rows digests rows of COPY text. Its error is ErrForm.
func (t *Table) Rows(text []byte) (sum Sum, err error) {
	var plain []byte
	for len(text) > 0 {
		end := bytes.IndexByte(text, '\n')
		if end < 0 {
			return Sum{}, ErrForm
		}
		sum.Add(text[:end+1])
		var digest uint64
		if digest, plain, err = t.row(text[:end], plain); err != nil {
			return Sum{}, err
		}
		sum.Digest += digest
		text = text[end+1:]
	}
	return sum, nil
}

// row digests a line. It returns the buffer for values without their escapes,
// which may have grown.
func (t *Table) row(line, plain []byte) (digest uint64, _ []byte, err error) {
	for i := range t.columns {
		field := line
		end := bytes.IndexByte(line, '\t')
		if last := i == t.columns-1; last != (end < 0) {
			return 0, plain, ErrForm
		}
		if end >= 0 {
			field, line = line[:end], line[end+1:]
		}
		if bytes.IndexByte(field, '\\') >= 0 {
			if string(field) == copytext.Null {
				field = t.null
			} else {
				var ok bool
				if plain, ok = copytext.Unescape(plain[:0], field); !ok {
					return 0, plain, ErrForm
				}
				field = plain
			}
		}
		digest = hash(field, digest)
	}
	return digest, plain, nil
}

// Select makes the query for the sum of the rows of a FROM clause and what follows
// it.
func (t *Table) Select(from string) string {
	return "SELECT pg_catalog.count(*), coalesce(pg_catalog.sum(" + t.expression + "), 0)::text FROM " + from
}

// Scan reads the answer to such a query: how many rows there are, and their digest.
func Scan(row pgx.Row) (rows int64, digest uint64, err error) {
	var total string
	if err := row.Scan(&rows, &total); err != nil {
		return 0, 0, err
	}
	n, ok := new(big.Int).SetString(total, 10)
	if !ok {
		return 0, 0, fmt.Errorf("the server sums up to %q", total)
	}
	// Of a negative number, this is the remainder in two's complement.
	return rows, n.And(n, new(big.Int).SetUint64(math.MaxUint64)).Uint64(), nil
}

// probes are values that take different ways through the hash.
var probes = []struct {
	text string
	seed int64
}{{"", 0}, {"abc", 0}, {"abcd", -1}, {"abcdefghi", math.MinInt64}, {"abcdefghijkl", 1 << 40}, {"äöü € 漢字 🦊, more than twelve bytes", 42}}

// Works reports whether a server hashes as this package does: not where it has no
// such function, which is new in PostgreSQL 11, stores numbers the other way
// round, or keeps text in another encoding than the one in which it sends it.
func Works(ctx context.Context, q pg.Querier) bool {
	for _, p := range probes {
		var got int64
		var encoded bool
		err := q.QueryRow(ctx, `SELECT pg_catalog.hashtextextended($1::text COLLATE pg_catalog."C", $2::int8),
			pg_catalog.current_setting('server_encoding') = pg_catalog.current_setting('client_encoding')`, p.text, p.seed).Scan(&got, &encoded)
		if err != nil || !encoded || uint64(got) != hash([]byte(p.text), uint64(p.seed)) {
			return false
		}
	}
	return true
}
