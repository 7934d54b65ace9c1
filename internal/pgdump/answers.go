package pgdump

import (
	"bytes"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Answers are what the server said when pg_dump read the whole catalogue. Every
// run asks for the same before it comes to its schemas, and on the same
// snapshot the answer is the same: with tens of thousands of tables that is
// most of a run's time. The zero value is ready; it is for one snapshot.
//
// What the server's functions add from the newest state is then that of an
// earlier run, which is nothing new to whoever looks for changes since the
// snapshot.
type Answers struct {
	mu      sync.Mutex
	byQuery map[string]*answer
	size    int
}

// maxAnswers bounds what is kept, in bytes as compressed. That of 100,000 tables
// is about a quarter of it.
const maxAnswers = 32 << 20

// answer is what came for one query. Who asks first fetches it for the others.
type answer struct {
	all     *Answers
	settled chan struct{}
	text    []byte // compressed; nil: it could not be had, or kept

	out *bytes.Buffer // while it comes
	enc *zstd.Encoder
}

// wholeCatalogue reports whether a query is one of those of which the answer is
// kept. It names no object.
func wholeCatalogue(sql []byte) bool {
	if !bytes.HasPrefix(sql, []byte("SELECT ")) || bytes.Contains(sql, []byte("'{")) {
		return false
	}
	for _, from := range [...]string{"FROM pg_depend WHERE deptype ", "FROM pg_class c\n", "FROM pg_type", "FROM pg_attribute WHERE attacl IS NOT NULL"} {
		if bytes.Contains(sql, []byte(from)) {
			return true
		}
	}
	return false
}

// of returns the answer to a query, and whether the caller is to fetch it: then
// settle must follow.
func (a *Answers) of(sql []byte) (_ *answer, fetch bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if known := a.byQuery[string(sql)]; known != nil {
		return known, false
	}
	if a.byQuery == nil {
		a.byQuery = map[string]*answer{}
	}
	fresh := &answer{all: a, settled: make(chan struct{}), out: &bytes.Buffer{}}
	a.byQuery[string(sql)] = fresh
	return fresh, true
}

// add keeps the next piece of an answer that is being fetched.
func (a *answer) add(piece []byte) error {
	if a.enc == nil {
		enc, err := zstd.NewWriter(a.out, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(256<<10), zstd.WithLowerEncoderMem(true))
		if err != nil {
			return err
		}
		a.enc = enc
	}
	_, err := a.enc.Write(piece)
	return err
}

// settle ends the fetching: whole is false where the answer did not come well.
func (a *answer) settle(whole bool) {
	defer close(a.settled)
	if a.enc != nil && a.enc.Close() == nil && whole {
		a.all.mu.Lock()
		if a.all.size+a.out.Len() <= maxAnswers {
			a.text = bytes.Clone(a.out.Bytes())
			a.all.size += len(a.text)
		}
		a.all.mu.Unlock()
	}
	a.out, a.enc = nil, nil
}

// replay writes a settled answer.
func (a *answer) replay(w io.Writer) error {
	dec, err := zstd.NewReader(bytes.NewReader(a.text), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return err
	}
	defer dec.Close()
	_, err = dec.WriteTo(w)
	return err
}
