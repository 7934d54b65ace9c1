package notify

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// maxAnswer is how much of an answer is read, in bytes.
const maxAnswer = 4 << 10

// CheckURL reports what is wrong with an address that messages are to be sent to. The
// error does not repeat the address, which is a secret.
func CheckURL(text string) error {
	u, err := url.Parse(strings.TrimSpace(text))
	switch {
	case err != nil:
		return errors.New("is not a valid URL")
	case u.Scheme != "https" && u.Scheme != "http":
		return errors.New("does not begin with https:// or http://")
	case u.Hostname() == "":
		return errors.New("names no host")
	}
	return nil
}

// web sends messages over HTTP.
type web struct {
	client *http.Client
	agent  string
}

// newWeb returns what sends messages; transport nil: the default one, which
// heeds HTTPS_PROXY.
func newWeb(transport http.RoundTripper, version string) web {
	return web{
		client: &http.Client{
			Transport: transport,
			// A redirected POST arrives as a GET without the message, and looks like
			// success.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
		agent: strings.TrimSuffix("tenantkeep/"+version, "/"),
	}
}

// post sends one message. What the receiver refuses for good is a
// *PermanentError. Errors name the host, and nothing else of the address.
func (w web) post(ctx context.Context, address string, body []byte, header http.Header) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSpace(address), bytes.NewReader(body))
	if err != nil {
		return &PermanentError{errors.New("the address is not a valid URL")}
	}
	req.Header = header
	req.Header.Set("User-Agent", w.agent)
	res, err := w.client.Do(req)
	if err != nil {
		if inner, ok := errors.AsType[*url.Error](err); ok { // which quotes the whole address
			err = inner.Err
		}
		return fmt.Errorf("post to %s: %w", req.URL.Host, err)
	}
	defer res.Body.Close()
	answer, _ := io.ReadAll(io.LimitReader(res.Body, maxAnswer)) //nolint:errcheck // it is for the message only
	if res.StatusCode/100 == 2 {
		return nil
	}
	err = fmt.Errorf("post to %s: %s", req.URL.Host, res.Status)
	if text := strings.Join(strings.Fields(printable(string(answer))), " "); text != "" && !strings.HasPrefix(text, "<") {
		err = fmt.Errorf("%w: %s", err, shorten(text, 200))
	}
	return w.judge(res, err)
}

// judge says whether, and when, another attempt is worth while.
func (w web) judge(res *http.Response, err error) error {
	switch res.StatusCode {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		if wait, ok := retryAfter(res.Header.Get("Retry-After")); ok {
			return errors.Join(err, &backoff.RetryAfterError{Duration: wait})
		}
		return err
	case http.StatusRequestTimeout, http.StatusTooEarly:
		return err
	}
	if res.StatusCode < http.StatusInternalServerError {
		return &PermanentError{err}
	}
	return err
}

// retryAfter reads a number of seconds or a date.
func retryAfter(text string) (time.Duration, bool) {
	if seconds, err := strconv.Atoi(strings.TrimSpace(text)); err == nil && seconds >= 0 {
		return time.Duration(seconds) * time.Second, true
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(0, time.Until(at)), true
	}
	return 0, false
}
