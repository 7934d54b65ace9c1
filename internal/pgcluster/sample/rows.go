package sample

import (
	"hash/fnv"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"
)

// epoch is the first moment in the sample rows, fixed so that a seed always
// gives the same rows.
var epoch = time.Date(2024, time.January, 1, 6, 0, 0, 0, time.UTC)

const twoYears = 2 * 365 * 24 * 3600 // seconds

// writer makes the rows of one table in COPY's text format.
type writer struct {
	rand   *rand.Rand
	number int                    // of the row being made, from 1
	count  func(table string) int // rows of another table of the tenant
	wide   bool                   // the row is one of Size.LogRows
	buf    []byte
	fresh  bool // no field of this row is written yet
}

func newWriter(seed uint64, tenant, table string, count func(string) int) *writer {
	h := fnv.New64a()
	h.Write([]byte(tenant + "." + table))
	return &writer{rand: rand.New(rand.NewPCG(seed, h.Sum64())), count: count}
}

func (w *writer) begin(number int) {
	w.number, w.fresh = number, true
}

func (w *writer) end() { w.buf = append(w.buf, '\n') }

func (w *writer) field() {
	if !w.fresh {
		w.buf = append(w.buf, '\t')
	}
	w.fresh = false
}

func (w *writer) id() { w.int(w.number) }

func (w *writer) int(n int) {
	w.field()
	w.buf = strconv.AppendInt(w.buf, int64(n), 10)
}

// ref points at a row of another table, all being equally likely.
func (w *writer) ref(table string) { w.int(1 + w.rand.IntN(max(1, w.count(table)))) }

// maybe writes NULL in one of n rows, else what write does.
func (w *writer) maybe(n int, write func()) {
	if w.rand.IntN(n) == 0 {
		w.null()
		return
	}
	write()
}

func (w *writer) null() {
	w.field()
	w.buf = append(w.buf, '\\', 'N')
}

func (w *writer) bool(oneIn int) {
	w.field()
	if w.rand.IntN(oneIn) == 0 {
		w.buf = append(w.buf, 't')
	} else {
		w.buf = append(w.buf, 'f')
	}
}

// cents writes an amount below limit with two decimals.
func (w *writer) cents(limit int) {
	w.field()
	n := w.rand.IntN(limit * 100)
	w.buf = strconv.AppendInt(w.buf, int64(n/100), 10)
	w.buf = append(w.buf, '.', byte('0'+n/10%10), byte('0'+n%10))
}

func (w *writer) moment() time.Time {
	return epoch.Add(time.Duration(w.rand.IntN(twoYears))*time.Second + time.Duration(w.rand.IntN(1e6))*time.Microsecond)
}

func (w *writer) time() {
	w.field()
	w.buf = w.moment().AppendFormat(w.buf, "2006-01-02 15:04:05.000000+00")
}

func (w *writer) date() {
	w.field()
	w.buf = w.moment().AppendFormat(w.buf, time.DateOnly)
}

var escapeText = strings.NewReplacer("\\", `\\`, "\t", `\t`, "\n", `\n`, "\r", `\r`)

func (w *writer) text(s string) {
	w.field()
	if strings.ContainsAny(s, "\\\t\n\r") {
		s = escapeText.Replace(s)
	}
	w.buf = append(w.buf, s...)
}

func (w *writer) pick(from []string) string { return from[w.rand.IntN(len(from))] }

func (w *writer) choice(from ...string) { w.text(w.pick(from)) }

func (w *writer) numbered(prefix string) {
	digits := strconv.Itoa(w.number)
	w.text(prefix + strings.Repeat("0", max(0, 6-len(digits))) + digits)
}

func (w *writer) person() string { return w.pick(firstNames) + " " + w.pick(lastNames) }

func (w *writer) company() string {
	return w.pick(companyWords) + " " + w.pick(companyWords) + " " + w.pick(companyKinds)
}

func (w *writer) email() {
	w.text(strings.ToLower(w.pick(firstNames)) + "." + strconv.Itoa(w.number) + "@" +
		strings.ToLower(w.pick(companyWords)) + ".example")
}

func (w *writer) phone() {
	w.text("+" + strconv.Itoa(10+w.rand.IntN(90)) + " " + strconv.Itoa(100_000_000+w.rand.IntN(900_000_000)))
}

// hex is a random identifier of n digits, as keys, hashes and tokens are.
func (w *writer) hex(n int) string {
	const digits = "0123456789abcdef"
	b := make([]byte, n)
	for i := range b {
		b[i] = digits[w.rand.IntN(16)]
	}
	return string(b)
}

// uuid is a random UUID, version 4.
func (w *writer) uuid() string {
	h := w.hex(30)
	return h[:8] + "-" + h[8:12] + "-4" + h[12:15] + "-a" + h[15:18] + "-" + h[18:30]
}

// word draws from the vocabulary as people do: the n-th most common word is
// n times as rare as the first (Zipf's law). How often short words come again
// decides how fast gzip is, and how well everything compresses.
func (w *writer) word() string {
	rank := math.Exp(w.rand.Float64()*math.Log(float64(len(words)+1))) - 1
	return words[min(int(rank), len(words)-1)]
}

// sentences writes prose of about n bytes.
func (w *writer) sentences(n int) {
	w.field()
	w.buf = w.appendProse(w.buf, n)
}

func (w *writer) appendProse(b []byte, n int) []byte {
	end := len(b) + n
	for len(b) < end {
		first := w.word()
		b = append(b, first[0]&^0x20)
		b = append(b, first[1:]...)
		for range 4 + w.rand.IntN(12) {
			b = append(b, ' ')
			switch w.rand.IntN(24) {
			case 0:
				b = strconv.AppendInt(b, int64(w.rand.IntN(100_000)), 10)
			case 1:
				b = append(b, w.pick(lastNames)...)
			default:
				b = append(b, w.word()...)
			}
		}
		b = append(b, ". "...)
	}
	return b[:len(b)-1]
}

// json writes an object of the given keys and ready-made JSON values.
func (w *writer) json(pairs ...string) {
	w.field()
	w.buf = append(w.buf, '{')
	for i := 0; i < len(pairs); i += 2 {
		if i > 0 {
			w.buf = append(w.buf, ", "...)
		}
		w.buf = strconv.AppendQuote(w.buf, pairs[i])
		w.buf = append(w.buf, ": "...)
		w.buf = append(w.buf, pairs[i+1]...)
	}
	w.buf = append(w.buf, '}')
}

// quoted makes a JSON string of text without special characters.
func quoted(s string) string { return `"` + s + `"` }

func (w *writer) number10(limit int) string { return strconv.Itoa(w.rand.IntN(limit)) }
