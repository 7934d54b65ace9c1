package storagetest

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"sync"
	"syscall"

	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// Op is a kind of operation on a storage.
type Op string

// The operations that Faulty counts. Abort is among them: a process that was
// killed does not clean up.
const (
	Create Op = "create"
	Write  Op = "write"
	Commit Op = "commit"
	Abort  Op = "abort"
	Delete Op = "delete"
	Sync   Op = "sync"
	Open   Op = "open"
	List   Op = "list"
)

// Call is one operation.
type Call struct {
	Op  Op
	Key string // empty for Sync; the prefix for List
	N   int    // which one of its kind this is, from 1
	All int    // which one of all operations this is, from 1
}

// ErrInjected is what FailAt and DieAt return.
var ErrInjected = errors.New("injected fault")

// Faulty counts the operations on a storage and may make them fail.
type Faulty struct {
	storage.Storage

	// Before is called before each operation, which fails with its error
	// without being tried. It may be nil.
	Before func(Call) error
	// After is called after each operation that succeeded, which then fails
	// with its error all the same, as when an answer is lost. It may be nil.
	After func(Call) error

	mu     sync.Mutex
	counts map[Op]int
	all    int
}

// FailAt makes the nth operation of a kind fail, and no other.
func FailAt(op Op, n int) func(Call) error {
	return func(c Call) error {
		if c.Op == op && c.N == n {
			return ErrInjected
		}
		return nil
	}
}

// DieAt makes the nth of all operations fail and every one that follows it,
// whatever its kind: the process is gone, or its disk.
func DieAt(n int) func(Call) error {
	return func(c Call) error {
		if c.All >= n {
			return ErrInjected
		}
		return nil
	}
}

// CallAt calls f before the nth operation of a kind.
func CallAt(op Op, n int, f func()) func(Call) error {
	return func(c Call) error {
		if c.Op == op && c.N == n {
			f()
		}
		return nil
	}
}

// Unwrap gives the storage inside, for its locks.
func (f *Faulty) Unwrap() storage.Storage { return f.Storage }

// Count says how many operations of a kind there were.
func (f *Faulty) Count(op Op) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.counts[op]
}

// All says how many operations there were.
func (f *Faulty) All() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.all
}

func (f *Faulty) do(op Op, key string, run func() error) error {
	f.mu.Lock()
	if f.counts == nil {
		f.counts = make(map[Op]int)
	}
	f.counts[op]++
	f.all++
	c := Call{Op: op, Key: key, N: f.counts[op], All: f.all}
	f.mu.Unlock()
	if f.Before != nil {
		if err := f.Before(c); err != nil {
			return err
		}
	}
	if err := run(); err != nil {
		return err
	}
	if f.After != nil {
		return f.After(c)
	}
	return nil
}

// Create counts.
func (f *Faulty) Create(ctx context.Context, key string) (storage.Writer, error) {
	var w storage.Writer
	err := f.do(Create, key, func() (err error) {
		w, err = f.Storage.Create(ctx, key)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &faultyWriter{f: f, w: w, key: key}, nil
}

// Open counts.
func (f *Faulty) Open(ctx context.Context, key string) (o storage.Object, err error) {
	err = f.do(Open, key, func() (err error) {
		o, err = f.Storage.Open(ctx, key)
		return err
	})
	return o, err
}

// List counts.
func (f *Faulty) List(ctx context.Context, prefix string, yield func(storage.Info) error) error {
	return f.do(List, prefix, func() error { return f.Storage.List(ctx, prefix, yield) })
}

// Delete counts.
func (f *Faulty) Delete(ctx context.Context, key string) error {
	return f.do(Delete, key, func() error { return f.Storage.Delete(ctx, key) })
}

// Sync counts.
func (f *Faulty) Sync(ctx context.Context) error {
	return f.do(Sync, "", func() error { return f.Storage.Sync(ctx) })
}

type faultyWriter struct {
	f   *Faulty
	w   storage.Writer
	key string
}

func (w *faultyWriter) Write(p []byte) (n int, err error) {
	err = w.f.do(Write, w.key, func() (err error) {
		n, err = w.w.Write(p)
		return err
	})
	return n, err
}

func (w *faultyWriter) Commit() error { return w.f.do(Commit, w.key, w.w.Commit) }
func (w *faultyWriter) Abort() error  { return w.f.do(Abort, w.key, w.w.Abort) }

// Full is a storage on a disk with little room. What is written counts until
// it is aborted or deleted.
type Full struct {
	storage.Storage
	Room int64 // bytes that fit

	mu   sync.Mutex
	used int64
}

// Unwrap gives the storage inside, for its locks.
func (s *Full) Unwrap() storage.Storage { return s.Storage }

// take takes up to n bytes and says how many it got.
func (s *Full) take(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	got := min(int64(n), max(0, s.Room-s.used))
	s.used += got
	return int(got)
}

func (s *Full) give(n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.used -= n
}

// Create begins an object whose writes fail when the disk is full.
func (s *Full) Create(ctx context.Context, key string) (storage.Writer, error) {
	w, err := s.Storage.Create(ctx, key)
	if err != nil {
		return nil, err
	}
	return &fullWriter{s: s, w: w, key: key}, nil
}

// Delete makes room.
func (s *Full) Delete(ctx context.Context, key string) error {
	var size int64
	if o, err := s.Open(ctx, key); err == nil {
		size = o.Size()
		if err := o.Close(); err != nil {
			return err
		}
	}
	if err := s.Storage.Delete(ctx, key); err != nil {
		return err
	}
	s.give(size)
	return nil
}

type fullWriter struct {
	s    *Full
	w    storage.Writer
	key  string
	size int64
	done bool
	err  error
}

func (w *fullWriter) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	got := w.s.take(len(p))
	n, err := w.w.Write(p[:got])
	w.size += int64(n)
	if err == nil && got < len(p) {
		err = &fs.PathError{Op: "write", Path: w.key, Err: syscall.ENOSPC}
	}
	w.err = err
	return n, err
}

func (w *fullWriter) Commit() error {
	if w.err != nil {
		return w.err
	}
	if err := w.w.Commit(); err != nil {
		return err
	}
	w.done = true
	return nil
}

func (w *fullWriter) Abort() error {
	if !w.done {
		w.done = true
		w.s.give(w.size)
	}
	return w.w.Abort()
}

// Damaged gives back other bytes than were written, for one key.
type Damaged struct {
	storage.Storage
	Key string
	// Flip inverts the byte at this offset; -1 for none.
	Flip int64
	// Cut is how many bytes are missing at the end.
	Cut int64
	// Short is how many bytes at the end cannot be read though the size says
	// that they are there.
	Short int64
}

// Unwrap gives the storage inside, for its locks.
func (s *Damaged) Unwrap() storage.Storage { return s.Storage }

// Open opens the damaged object.
func (s *Damaged) Open(ctx context.Context, key string) (storage.Object, error) {
	o, err := s.Storage.Open(ctx, key)
	if err != nil || key != s.Key {
		return o, err
	}
	return &damaged{Object: o, s: s}, nil
}

// List lists the damaged object with the size that it seems to have.
func (s *Damaged) List(ctx context.Context, prefix string, yield func(storage.Info) error) error {
	return s.Storage.List(ctx, prefix, func(i storage.Info) error {
		if i.Key == s.Key {
			i.Size -= s.Cut
		}
		return yield(i)
	})
}

type damaged struct {
	storage.Object
	s *Damaged
}

func (d *damaged) Size() int64 { return d.Object.Size() - d.s.Cut }

func (d *damaged) ReadAt(p []byte, off int64) (int, error) {
	end := d.Size() - d.s.Short
	if off >= end {
		return 0, io.EOF
	}
	cut := min(int64(len(p)), end-off)
	n, err := d.Object.ReadAt(p[:cut], off)
	if at := d.s.Flip - off; d.s.Flip >= 0 && at >= 0 && at < int64(n) {
		p[at] ^= 0xff
	}
	if err == nil && cut < int64(len(p)) {
		err = io.EOF
	}
	return n, err
}
