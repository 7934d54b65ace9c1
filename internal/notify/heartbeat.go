package notify

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
)

// Heartbeat pings a dead-man switch, which raises the alarm when no success
// comes in time: healthchecks.io, or one that takes the same addresses.
type Heartbeat struct {
	URL       string
	Version   string
	Transport http.RoundTripper // nil: the default one
}

var _ Notifier = (*Heartbeat)(nil)

// Wants reports whether an event is a ping: those of backups are. What health
// finds must not look like a backup that succeeded.
func (*Heartbeat) Wants(e *Event) bool { return e.Job == Backup || e.Kind == Test }

// Notify pings: success only where all is well. A test is noted there and changes
// nothing.
func (h *Heartbeat) Notify(ctx context.Context, e *Event) error {
	u, err := url.Parse(strings.TrimSpace(h.URL))
	if err != nil {
		return &PermanentError{errors.New("the address is not a valid URL")}
	}
	switch {
	case e.Kind == Begun:
		u = u.JoinPath("start")
	case e.Kind == Test:
		u = u.JoinPath("log")
	case e.Kind.Bad():
		u = u.JoinPath("fail")
	}
	header := http.Header{}
	header.Set("Content-Type", "text/plain; charset=utf-8")
	header.Set(HeaderID, e.ID)
	return newWeb(h.Transport, h.Version).post(ctx, u.String(), []byte(newMessage(e).Text()), header)
}
