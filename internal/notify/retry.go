package notify

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// maxTries bounds the attempts to deliver one event in one run.
const maxTries = 5

// sendAll delivers events to a channel, the oldest first. After one that failed
// the others have to wait, so that they arrive in order, unless it is one that
// this receiver will never take.
func (o *Outbox) sendAll(ctx context.Context, c Channel, events []*Event) (done []Delivery) {
	for _, e := range events {
		err := o.send(ctx, c, e)
		done = append(done, Delivery{Channel: c.Name, Event: e, Err: err})
		if err == nil {
			o.Log.Info("notified", "channel", c.Name, "kind", e.Kind, "event", e.ID)
			continue
		}
		o.Log.Warn("not notified", "channel", c.Name, "kind", e.Kind, "event", e.ID, "error", o.scrub.text(err.Error(), maxText))
		if _, permanent := errors.AsType[*PermanentError](err); !permanent {
			break
		}
	}
	return done
}

// send delivers one event, in several attempts.
func (o *Outbox) send(ctx context.Context, c Channel, e *Event) error {
	pauses := backoff.NewExponentialBackOff()
	pauses.InitialInterval, pauses.Multiplier = o.Pause, 2
	left := o.Timeout
	if deadline, ok := ctx.Deadline(); ok {
		left = time.Until(deadline)
	}
	var last error
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		last = o.attempt(ctx, c, e)
		if permanent, ok := errors.AsType[*PermanentError](last); ok {
			return struct{}{}, backoff.Permanent(permanent)
		}
		return struct{}{}, last
	}, backoff.WithBackOff(pauses), backoff.WithMaxTries(maxTries), backoff.WithMaxElapsedTime(max(left, time.Millisecond)))
	if err != nil && last != nil {
		return last // what the receiver said, and not that the time is over
	}
	return err
}

// attempt delivers one event once. A notifier that does not come back, whatever
// it waits for, is left alone.
func (o *Outbox) attempt(ctx context.Context, c Channel, e *Event) error {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, o.Attempt)
	defer cancel()
	result := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				result <- &PermanentError{fmt.Errorf("notifier %s broke down: %v", c.Name, p)}
			}
		}()
		result <- c.Notifier.Notify(ctx, e)
	}()
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return fmt.Errorf("no answer in %s", time.Since(began).Round(10*time.Millisecond))
	}
}

// Send delivers one event to one channel at once, and notes nothing: for a test.
func (o *Outbox) Send(ctx context.Context, c Channel, e *Event) error {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	if err := o.send(ctx, c, o.scrub.event(*e)); err != nil {
		return &scrubbedError{o.scrub.text(err.Error(), maxText), err}
	}
	return nil
}

// scrubbedError is an error whose text is fit for everybody.
type scrubbedError struct {
	text string
	err  error
}

func (e *scrubbedError) Error() string { return e.text }

// Unwrap returns the cause.
func (e *scrubbedError) Unwrap() error { return e.err }
