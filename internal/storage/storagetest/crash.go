package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// The operations that Crash counts besides those of Faulty.
const (
	Lock  Op = "lock"
	Clean Op = "clean"
)

// Crash is a storage whose process ends in the middle: from one operation on
// none is done any more. What it was writing is left as a killed process
// leaves it, its locks end. It may lose its power as well: then names that were
// given or taken away since the last Sync can be as they were before.
type Crash struct {
	storage.Storage

	// At is the operation that is not done any more, from 1. Only those count
	// that change something; a Write is done by half. 0: none.
	At int
	// Survives says of a name that was given or taken away since the last Sync
	// whether it is like that after the power was lost. nil: the power is not
	// lost.
	Survives func(key string) bool

	mu      sync.Mutex
	count   int
	last    Call
	crashed bool
	locks   map[storage.Lock]bool
	unsafe  map[string]*[]byte // by key, what a loss of power may bring back; nil: no object
}

// errEnds is the error of the operation at which the process ends, and of no
// other.
var errEnds = fmt.Errorf("%w: the process ends here", ErrInjected)

// Crashed reports whether the operation At was reached.
func (c *Crash) Crashed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.crashed
}

// Count is how many operations were begun, that which crashed included.
func (c *Crash) Count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.count
}

// Last is the last operation that was begun.
func (c *Crash) Last() Call {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last
}

// alive refuses everything after the crash.
func (c *Crash) alive() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.crashed {
		return ErrInjected
	}
	return nil
}

// begin counts one operation that changes something.
func (c *Crash) begin(op Op, key string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.crashed {
		return ErrInjected
	}
	c.count++
	c.last = Call{Op: op, Key: key, All: c.count}
	if c.count == c.At {
		c.crashed = true
		return errEnds
	}
	return nil
}

// changed notes what was under a key before its name was given or taken away.
func (c *Crash) changed(key string, before *[]byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.unsafe == nil {
		c.unsafe = make(map[string]*[]byte)
	}
	if _, ok := c.unsafe[key]; !ok {
		c.unsafe[key] = before
	}
}

// Settle ends the locks, and after a loss of power brings the storage into the
// state that is found when it is back. What used the storage has returned.
func (c *Crash) Settle(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.crashed = true
	var errs []error
	for l := range c.locks {
		errs = append(errs, l.Unlock())
	}
	c.locks = nil
	if c.Survives == nil {
		return errors.Join(errs...)
	}
	for _, key := range slices.Sorted(maps.Keys(c.unsafe)) {
		if c.Survives(key) {
			continue
		}
		errs = append(errs, c.Storage.Delete(ctx, key))
		if before := c.unsafe[key]; before != nil {
			errs = append(errs, put(ctx, c.Storage, key, *before))
		}
	}
	c.unsafe = nil
	return errors.Join(errs...)
}

// Create counts.
func (c *Crash) Create(ctx context.Context, key string) (storage.Writer, error) {
	if err := c.begin(Create, key); err != nil {
		return nil, err
	}
	w, err := c.Storage.Create(ctx, key)
	if err != nil {
		return nil, err
	}
	return &crashWriter{c: c, w: w, key: key}, nil
}

// Open changes nothing.
func (c *Crash) Open(ctx context.Context, key string) (storage.Object, error) {
	if err := c.alive(); err != nil {
		return nil, err
	}
	return c.Storage.Open(ctx, key)
}

// List changes nothing.
func (c *Crash) List(ctx context.Context, prefix string, yield func(storage.Info) error) error {
	if err := c.alive(); err != nil {
		return err
	}
	return c.Storage.List(ctx, prefix, yield)
}

// Delete counts.
func (c *Crash) Delete(ctx context.Context, key string) error {
	if err := c.begin(Delete, key); err != nil {
		return err
	}
	before, err := contents(ctx, c.Storage, key)
	if err != nil {
		return err
	}
	if err := c.Storage.Delete(ctx, key); err != nil {
		return err
	}
	if before != nil {
		c.changed(key, before)
	}
	return nil
}

// Sync counts.
func (c *Crash) Sync(ctx context.Context) error {
	if err := c.begin(Sync, ""); err != nil {
		return err
	}
	c.mu.Lock()
	synced := slices.Collect(maps.Keys(c.unsafe)) // what is changed meanwhile is not promised
	c.mu.Unlock()
	if err := c.Storage.Sync(ctx); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, key := range synced {
		delete(c.unsafe, key)
	}
	return nil
}

// CleanTemporary counts, where the storage inside cleans at all.
func (c *Crash) CleanTemporary(ctx context.Context, age time.Duration) ([]storage.Info, error) {
	cleaner, ok := storage.As[storage.Cleaner](c.Storage)
	if !ok {
		return nil, nil
	}
	if err := c.begin(Clean, ""); err != nil {
		return nil, err
	}
	return cleaner.CleanTemporary(ctx, age)
}

// Lock counts. The lock ends with Settle at the latest.
func (c *Crash) Lock(ctx context.Context, name string, shared bool, holder []byte) (storage.Lock, error) {
	locker, ok := storage.As[storage.Locker](c.Storage)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	if err := c.begin(Lock, name); err != nil {
		return nil, err
	}
	l, err := locker.Lock(ctx, name, shared, holder)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.locks == nil {
		c.locks = make(map[storage.Lock]bool)
	}
	c.locks[l] = true
	return l, nil
}

type crashWriter struct {
	c   *Crash
	w   storage.Writer
	key string
}

func (w *crashWriter) Write(p []byte) (int, error) {
	err := w.c.begin(Write, w.key)
	if err == nil {
		return w.w.Write(p)
	}
	if errors.Is(err, errEnds) {
		_, _ = w.w.Write(p[:len(p)/2])
	}
	return 0, err
}

func (w *crashWriter) Commit() error {
	if err := w.c.begin(Commit, w.key); err != nil {
		return err
	}
	if err := w.w.Commit(); err != nil {
		return err
	}
	w.c.changed(w.key, nil)
	return nil
}

func (w *crashWriter) Abort() error {
	if err := w.c.begin(Abort, w.key); err != nil {
		return err
	}
	return w.w.Abort()
}

// contents reads a whole object; nil: there is none.
func contents(ctx context.Context, s storage.Storage, key string) (*[]byte, error) {
	var found bool
	err := s.List(ctx, key, func(i storage.Info) error {
		found = found || i.Key == key
		return nil
	})
	if err != nil || !found {
		return nil, err
	}
	o, err := s.Open(ctx, key)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	b, err := io.ReadAll(io.NewSectionReader(o, 0, o.Size()))
	return &b, err
}

func put(ctx context.Context, s storage.Storage, key string, content []byte) error {
	w, err := s.Create(ctx, key)
	if err != nil {
		return err
	}
	if _, err = io.Copy(w, bytes.NewReader(content)); err == nil {
		err = w.Commit()
	}
	return errors.Join(err, w.Abort())
}

// CrashTest is what ForEveryOperation interrupts.
type CrashTest struct {
	// Open returns a storage that holds what is there before the run. It is
	// called for each run and returns a storage of its own each time.
	Open func(t *testing.T) storage.Storage
	// Run does what is tested. It uses nothing but s.
	Run func(s storage.Storage) error
	// Check judges what is found afterwards, by a process that comes later. err
	// is what Run returned: nil means that it said it was done, which must be
	// true even though the power was lost.
	Check func(t *testing.T, s storage.Storage, err error)
	// Step leaves operations out where a run takes long: 3 is every third. 0 is
	// every one.
	Step int
}

// ForEveryOperation runs a test again and again. Its process ends at the first
// operation that changes the storage, then at the second and so on, until one
// run comes to its end. Then the same with the power lost, so that nothing that
// was not synced is there afterwards, and with some of it there.
func ForEveryOperation(t *testing.T, c CrashTest) {
	t.Helper()
	for _, way := range []struct {
		name     string
		survives func(n int) func(string) bool
	}{
		{"killed", func(int) func(string) bool { return nil }},
		{"power lost", func(int) func(string) bool { return func(string) bool { return false } }},
		{"power lost in part", func(n int) func(string) bool {
			r := rand.New(rand.NewPCG(4, uint64(n)))
			return func(string) bool { return r.IntN(2) == 0 }
		}},
	} {
		ended, failures := false, 0
		for n := 1; !ended; n += max(c.Step, 1) {
			ok := t.Run(fmt.Sprintf("%s at operation %d", way.name, n), func(t *testing.T) {
				s := c.Open(t)
				crash := &Crash{Storage: s, At: n, Survives: way.survives(n)}
				err := c.Run(crash)
				ended = !crash.Crashed()
				if ended {
					t.Logf("the run came to its end after %d operations", crash.Count())
				} else {
					t.Logf("the operation is %s %s", crash.Last().Op, crash.Last().Key)
				}
				if ended && err != nil {
					t.Fatalf("nothing was interrupted, and yet: %v", err)
				}
				if err := crash.Settle(t.Context()); err != nil {
					t.Fatalf("after the crash: %v", err)
				}
				c.Check(t, s, err)
			})
			if !ok {
				failures++
			}
			if failures == 20 {
				t.Fatal("more of them would not tell more")
			}
		}
	}
}

// Corruption is what Corrupt did to an object.
type Corruption struct {
	Key string
	How string
}

// Corrupt damages one of the objects, as a disk or a stray program does: it
// inverts a bit, cuts the end off, or removes the object. What it does depends
// on r alone.
func Corrupt(t *testing.T, s storage.Storage, r *rand.Rand, keys []string) Corruption {
	t.Helper()
	key := keys[r.IntN(len(keys))]
	b := Get(t, s, key)
	if err := s.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	how := "removed"
	switch way := r.IntN(3); {
	case len(b) == 0 || way == 0:
		return Corruption{key, how}
	case way == 1:
		at, bit := r.IntN(len(b)), r.IntN(8)
		b[at] ^= 1 << bit
		how = fmt.Sprintf("bit %d of byte %d inverted", bit, at)
	default:
		n := r.IntN(len(b))
		how = fmt.Sprintf("cut from %d to %d bytes", len(b), n)
		b = b[:n]
	}
	Put(t, s, key, b)
	return Corruption{key, how}
}
