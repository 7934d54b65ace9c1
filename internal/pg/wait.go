package pg

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// waitFirst and waitMost are the pauses between attempts to connect: the first,
	// and the longest, to which it doubles.
	waitFirst = 250 * time.Millisecond
	waitMost  = 5 * time.Second
	// attemptLimit bounds one attempt: a host that answers nothing at all would
	// otherwise take minutes for each.
	attemptLimit = 10 * time.Second
)

// Wait is Connect for a server that may not be up yet: it tries again until limit
// is over, at growing intervals of 5 seconds at most. tell is called with each
// *ConnectError whose State is another than before.
//
// A server that refuses the password, or does not know the database, is waited
// for as well: where databases are set up by containers beside this one, both
// come a moment after the server itself. The error is a *WaitError.
func (s *Server) Wait(ctx context.Context, limit time.Duration, tell func(*ConnectError)) (*pgx.Conn, error) {
	began := time.Now()
	told := State("")
	for pause := waitFirst; ; pause = min(2*pause, waitMost) {
		conn, err := s.attempt(ctx)
		if err == nil {
			return conn, nil
		}
		failed, ok := errors.AsType[*ConnectError](err)
		if !ok || ctx.Err() != nil {
			return nil, err
		}
		if state := failed.State(); state != told {
			tell(failed)
			told = state
		}
		left := limit - time.Since(began)
		if left <= 0 {
			return nil, &WaitError{Waited: time.Since(began), Err: failed}
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for the database: %w", context.Cause(ctx))
		case <-time.After(min(pause, left)):
		}
	}
}

func (s *Server) attempt(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, attemptLimit)
	defer cancel()
	return s.Connect(ctx)
}

// State is why a server cannot be used.
type State string

// The states of a server that cannot be used.
const (
	Unreachable     State = "not up"           // nothing answers there
	Starting        State = "starting"         // or shutting down
	Full            State = "full"             // no connection is left
	Refusing        State = "refusing"         // this user, with this password
	UnknownDatabase State = "unknown database" // the server is up and has others
)

// State tells a server that is not up yet from one that refuses.
func (e *ConnectError) State() State {
	switch Code(e.Err) {
	case "28P01", "28000", Privilege:
		return Refusing
	case "3D000":
		return UnknownDatabase
	case TooManyConnections:
		return Full
	case "57P03", "57P01", "57P02":
		return Starting
	}
	return Unreachable
}

// WaitError is a server that could not be used until the time was over.
type WaitError struct {
	Waited time.Duration
	Err    *ConnectError // of the last attempt
}

// Error says for how long, and why the last attempt failed.
func (e *WaitError) Error() string {
	return fmt.Sprintf("waited %v for the database: %v", e.Waited.Round(100*time.Millisecond), e.Err)
}

// Unwrap returns the error of the last attempt, which has a hint.
func (e *WaitError) Unwrap() error { return e.Err }
