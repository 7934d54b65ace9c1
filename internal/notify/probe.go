package notify

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// Prober is implemented by notifiers that can find out whether a message would
// get to its receiver without sending one.
type Prober interface {
	Probe(ctx context.Context) error
}

// reach reports whether a host answers. The address itself is not asked: whoever
// only checks must not be taken for a message.
func (w web) reach(ctx context.Context, address string) error {
	u, err := url.Parse(strings.TrimSpace(address))
	if err != nil {
		return errors.New("the address is not a valid URL")
	}
	root := url.URL{Scheme: u.Scheme, Host: u.Host, Path: "/"}
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, root.String(), nil)
	if err != nil {
		return errors.New("the address is not a valid URL")
	}
	res, err := w.client.Do(req)
	if err != nil {
		if inner, ok := errors.AsType[*url.Error](err); ok {
			err = inner.Err
		}
		return fmt.Errorf("connect to %s: %w", root.Host, err)
	}
	return res.Body.Close()
}

// Probe reports whether Slack can be reached.
func (s *Slack) Probe(ctx context.Context) error {
	return newWeb(s.Transport, s.Version).reach(ctx, s.URL)
}

// Probe reports whether the receiver can be reached.
func (w *Webhook) Probe(ctx context.Context) error {
	return newWeb(w.Transport, w.Version).reach(ctx, w.URL)
}

// Probe reports whether the dead-man switch can be reached.
func (h *Heartbeat) Probe(ctx context.Context) error {
	return newWeb(h.Transport, h.Version).reach(ctx, h.URL)
}
