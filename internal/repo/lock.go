package repo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"time"

	"github.com/tenantkeep/tenantkeep/internal/storage"
)

const (
	lockName = "repository"
	lockPoll = 100 * time.Millisecond
)

// Mode is how a lock is held.
type Mode string

// The modes. Backups and whatever reads data files share the lock; whatever
// removes files has it alone.
const (
	Shared    Mode = "shared"
	Exclusive Mode = "exclusive"
)

// ErrLockLost is the cause of the cancellation when a lock is lost.
var ErrLockLost = errors.New("the lock of the repository was lost")

// Unlock gives a lock up. Calling it again does nothing.
type Unlock func() error

// Holder is who holds the lock.
type Holder struct {
	Purpose string    `json:"purpose"` // as given to Lock
	Mode    Mode      `json:"mode"`
	PID     int       `json:"pid"`
	Host    string    `json:"host"`
	Since   time.Time `json:"since"`
}

// String describes the holder in one line.
func (h Holder) String() string {
	line := func(text string) string { return strings.Join(strings.Fields(text), " ") } // others wrote it
	return fmt.Sprintf("%s (process %d on %s, since %s)", line(h.Purpose), h.PID, line(h.Host), h.Since.UTC().Format("2006-01-02 15:04:05 UTC"))
}

// LockedError says that others hold the lock of the repository.
type LockedError struct {
	Location string
	Holders  []Holder // empty where they did not say
	// Doubtful are the files of holders whose time lies in the future.
	Doubtful []string
}

// Error says who holds the lock, for what and since when.
func (e *LockedError) Error() string {
	who := make([]string, 0, len(e.Holders))
	for _, h := range e.Holders {
		who = append(who, h.String())
	}
	if len(who) == 0 {
		who = append(who, "another process")
	}
	return fmt.Sprintf("repository %s is in use by %s", e.Location, strings.Join(who, ", "))
}

// Hint says what to do about a holder of whom nobody knows whether he lives.
func (e *LockedError) Hint() string {
	if len(e.Doubtful) == 0 {
		return "wait until that is done"
	}
	return "the time of " + strings.Join(e.Doubtful, ", ") + " lies in the future, so that nothing tells whether its process lives; if it does not, delete the file"
}

// Lock takes the lock of the repository for a purpose such as "cleanup", and
// waits for a while where others hold it; then the error is a *LockedError.
// The lock ends with the process at the latest. The context that is returned
// is cancelled when the lock is given up or lost: work that relies on it must
// run under that context.
func (r *Repo) Lock(ctx context.Context, mode Mode, purpose string) (context.Context, Unlock, error) {
	return r.lock(ctx, mode, purpose, r.lockWait)
}

func (r *Repo) lock(ctx context.Context, mode Mode, purpose string, wait time.Duration) (context.Context, Unlock, error) {
	locker, ok := storage.As[storage.Locker](r.storage)
	if !ok {
		return nil, nil, fmt.Errorf("lock repository %s: %w", r.Location(), errors.ErrUnsupported)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host" // it is for a message only
	}
	who, err := json.Marshal(Holder{Purpose: purpose, Mode: mode, PID: os.Getpid(), Host: host, Since: r.now().UTC().Truncate(time.Second)})
	if err != nil {
		return nil, nil, fmt.Errorf("describe lock: %w", err)
	}
	deadline := time.Now().Add(wait)
	for {
		lock, err := locker.Lock(ctx, lockName, mode == Shared, who)
		if err == nil {
			ctx, unlock := held(ctx, lock)
			return ctx, unlock, nil
		}
		locked, ok := errors.AsType[*storage.LockedError](err)
		if !ok {
			return nil, nil, err
		}
		if time.Until(deadline) <= 0 {
			return nil, nil, r.lockedError(locked)
		}
		select {
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("%w: %w", r.lockedError(locked), context.Cause(ctx))
		case <-time.After(lockPoll/2 + rand.N(lockPoll)): // two that keep one another out do not meet again
		}
	}
}

// held ties a context to a lock.
func held(ctx context.Context, lock storage.Lock) (context.Context, Unlock) {
	ctx, cancel := context.WithCancelCause(ctx)
	if lost := lock.Lost(); lost != nil {
		go func() {
			select {
			case <-lost:
				cancel(ErrLockLost)
			case <-ctx.Done():
			}
		}()
	}
	return ctx, func() error {
		cancel(nil)
		return lock.Unlock()
	}
}

func (r *Repo) lockedError(err *storage.LockedError) *LockedError {
	e := &LockedError{Location: r.Location(), Doubtful: err.Doubtful}
	for _, b := range err.Holders {
		var h Holder
		if json.Unmarshal(b, &h) == nil {
			e.Holders = append(e.Holders, h)
		}
	}
	return e
}
