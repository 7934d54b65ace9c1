package notify

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/storage"
)

// The objects of the outbox. A storage never replaces an object, so each state is
// one of its own with the next number, whole or absent, and the highest counts.
const (
	statePrefix = "notify/"
	stateName   = statePrefix + "state_"
	stateSuffix = ".json"
	stateFormat = 1
	maxState    = 64 << 20

	// Spare objects are given up when the disk is full, so that the failures that come
	// of it can be noted: one at a time, since others may take what becomes free, and
	// the next run meets a full disk again.
	sparePrefix = statePrefix + "spare_"
	spares      = 16
	spareSize   = 8 << 10

	outboxLock = "outbox"
	runsLock   = "runs"
	lockWait   = 5 * time.Second // others hold it while they write a few kB
	lockPoll   = 20 * time.Millisecond
)

// state is what the outbox remembers.
type state struct {
	Format   int                      `json:"format"`
	Streams  map[string]*stream       `json:"streams,omitempty"` // by streamOf
	Channels map[string]*channelState `json:"channels,omitempty"`
	Pending  []*pending               `json:"pending,omitempty"` // oldest first
	Running  []*Run                   `json:"running,omitempty"` // begun and not ended
}

// channelState is how the deliveries of a channel went.
type channelState struct {
	Delivered time.Time `json:"delivered,omitzero"` // the last one
	Failed    time.Time `json:"failed,omitzero"`    // the last one
	Error     string    `json:"error,omitempty"`    // of the last one, if it failed
	Lost      int       `json:"lost,omitempty"`     // events that were given up
}

// pending is an event that one channel has not got yet.
type pending struct {
	Channel  string    `json:"channel"`
	Event    *Event    `json:"event"`
	Attempts int       `json:"attempts,omitempty"` // runs that tried
	Error    string    `json:"error,omitempty"`
	Claim    string    `json:"claim,omitempty"` // who is delivering it
	Until    time.Time `json:"until,omitzero"`  // when that claim ends, if its holder was killed
}

// stream is the history of one job on one database.
type stream struct {
	// Open is what went wrong and not well since: schemas, or WholeRun; of health
	// the checks with their states.
	Open     map[string]string `json:"open,omitempty"`
	Failures int               `json:"failures,omitempty"` // runs in a row
	Since    time.Time         `json:"since,omitzero"`
}

// store keeps the state in a storage.
type store struct {
	storage storage.Storage
	log     *slog.Logger
}

// update changes the state, as the only one at that time. After an error nothing
// was changed, as far as anybody can tell.
func (s store) update(ctx context.Context, change func(*state)) (err error) {
	unlock, err := s.lock(ctx, outboxLock, false, []byte(`{"purpose":"notifications"}`), lockWait)
	if err != nil {
		return fmt.Errorf("note notifications: %w", err)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	st, keys, number, err := s.read(ctx)
	if err != nil {
		return fmt.Errorf("note notifications: %w", err)
	}
	change(st)
	if err := s.write(ctx, st, number+1); err != nil {
		return fmt.Errorf("note notifications: %w", err)
	}
	for _, key := range keys {
		if err := s.storage.Delete(ctx, key); err != nil {
			s.log.Warn("an old state of the notifications could not be removed", "key", key, "error", err)
		}
	}
	return nil
}

// load reads the state without locking it.
func (s store) load(ctx context.Context) (*state, error) {
	for range 10 {
		st, _, _, err := s.read(ctx)
		if !errors.Is(err, fs.ErrNotExist) { // replaced between listing and reading
			return st, err
		}
	}
	return nil, errors.New("the state of the notifications changes all the time")
}

// read returns the state with the highest number, an empty one where there is
// none, and the keys of all states.
func (s store) read(ctx context.Context) (st *state, keys []string, number int, err error) {
	newest := ""
	err = s.storage.List(ctx, statePrefix, func(i storage.Info) error {
		digits, isState := strings.CutPrefix(strings.TrimSuffix(i.Key, stateSuffix), stateName)
		n, err := strconv.Atoi(digits)
		if !isState || err != nil || path.Ext(i.Key) != stateSuffix {
			return nil
		}
		keys = append(keys, i.Key)
		if n > number {
			number, newest = n, i.Key
		}
		return nil
	})
	if err != nil {
		return nil, nil, 0, err
	}
	st = &state{Format: stateFormat}
	if newest != "" {
		if err := s.decode(ctx, newest, st); err != nil {
			return nil, nil, 0, err
		}
	}
	if st.Streams == nil {
		st.Streams = map[string]*stream{}
	}
	if st.Channels == nil {
		st.Channels = map[string]*channelState{}
	}
	return st, keys, number, nil
}

// decode reads a state. One that the disk damaged is given up: no backup may
// fail for it.
func (s store) decode(ctx context.Context, key string, st *state) error {
	o, err := s.storage.Open(ctx, key)
	if err != nil {
		return err
	}
	defer o.Close()
	text, err := io.ReadAll(io.NewSectionReader(o, 0, min(o.Size(), maxState)))
	if err != nil {
		return err
	}
	err = json.Unmarshal(text, st)
	if err == nil && st.Format > stateFormat {
		return fmt.Errorf("%s has format %d, of a later version of tenantkeep", key, st.Format)
	}
	if err != nil || st.Format < 1 {
		s.log.Warn("the state of the notifications cannot be read, and begins anew", "key", key, "error", err)
		*st = state{Format: stateFormat}
	}
	st.Pending = slices.DeleteFunc(st.Pending, func(p *pending) bool { return p == nil || p.Event == nil })
	st.Running = slices.DeleteFunc(st.Running, func(r *Run) bool { return r == nil })
	return nil
}

// write makes a state durable. Where the disk is full it takes the place of spare
// objects, of no more than it needs.
func (s store) write(ctx context.Context, st *state, number int) error {
	text, err := json.Marshal(st)
	if err != nil {
		return err
	}
	key := fmt.Sprintf("%s%012d%s", stateName, number, stateSuffix)
	err = s.put(ctx, key, text)
	if err == nil {
		s.keepSpares(ctx)
	}
	for n := 0; n < spares && isFull(err); n++ {
		if err := s.storage.Delete(ctx, spareKey(n)); err != nil {
			return err
		}
		err = s.put(ctx, key, text)
	}
	return err
}

func spareKey(n int) string { return fmt.Sprint(sparePrefix, n) }

// keepSpares writes the spare objects that are missing. That one cannot be is
// nothing to tell anybody.
func (s store) keepSpares(ctx context.Context) {
	there := map[string]bool{}
	err := s.storage.List(ctx, sparePrefix, func(i storage.Info) error {
		there[i.Key] = true
		return nil
	})
	for n := 0; n < spares && err == nil; n++ {
		if there[spareKey(n)] {
			continue
		}
		spare := make([]byte, spareSize)
		for i := range spare {
			spare[i] = byte(rand.IntN(256)) // some file systems store zeros in no space
		}
		err = s.put(ctx, spareKey(n), spare)
	}
}

func (s store) put(ctx context.Context, key string, text []byte) (err error) {
	w, err := s.storage.Create(ctx, key)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Abort()) }()
	if _, err := w.Write(text); err != nil {
		return err
	}
	if err := w.Commit(); err != nil {
		return err
	}
	return s.storage.Sync(ctx)
}

// isFull reports whether a disk, or the share of it that the user may have, is
// full.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// lock takes a lock of the storage, and waits for it for a while.
func (s store) lock(ctx context.Context, name string, shared bool, holder []byte, wait time.Duration) (unlock func() error, err error) {
	locker, ok := storage.As[storage.Locker](s.storage)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	deadline := time.Now().Add(wait)
	for {
		l, err := locker.Lock(ctx, name, shared, holder)
		if err == nil {
			return l.Unlock, nil
		}
		if _, locked := errors.AsType[*storage.LockedError](err); !locked || time.Now().After(deadline) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(lockPoll/2 + rand.N(lockPoll)):
		}
	}
}

// living returns the runs that are at work on any machine. Not known: nobody can
// tell.
func (s store) living(ctx context.Context) (runs map[string]bool, known bool) {
	locker, ok := storage.As[storage.Locker](s.storage)
	if !ok {
		return nil, false
	}
	runs = map[string]bool{}
	l, err := locker.Lock(ctx, runsLock, false, []byte("{}"))
	if err == nil {
		return runs, l.Unlock() == nil
	}
	locked, ok := errors.AsType[*storage.LockedError](err)
	if !ok || len(locked.Doubtful) > 0 || len(locked.Holders) == 0 {
		return nil, false
	}
	for _, holder := range locked.Holders {
		var h runHolder
		if json.Unmarshal(holder, &h) != nil || h.Run == "" {
			return nil, false
		}
		runs[h.Run] = true
	}
	return runs, true
}

// runHolder is how a run describes itself in the lock of the runs.
type runHolder struct {
	Run string `json:"run"`
	PID int    `json:"pid"`
}

// live takes the shared lock that shows others that a run is at work.
func (s store) live(ctx context.Context, run string) (unlock func() error, err error) {
	holder, err := json.Marshal(runHolder{run, os.Getpid()})
	if err != nil {
		return nil, err
	}
	return s.lock(ctx, runsLock, true, holder, time.Second)
}
