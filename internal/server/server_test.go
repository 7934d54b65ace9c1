package server

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tenantkeep/tenantkeep/internal/health"
)

var quiet = slog.New(slog.DiscardHandler)

// clock is a time that a test sets.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// start serves until the test ends, and returns the address.
func start(t *testing.T, o Options) (*Server, string) {
	t.Helper()
	o.Log = quiet
	if o.Metrics == nil {
		o.Metrics = prometheus.NewRegistry()
	}
	s := New(o)
	l, err := Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if !IsLoopback(l) {
		t.Errorf("%s is no loopback", l.Addr())
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		if err := errors.Join(s.Close(context.Background()), <-served); err != nil {
			t.Error(err)
		}
	})
	return s, "http://" + l.Addr().String()
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(body)
}

func TestEndpoints(t *testing.T) {
	t.Parallel()
	const secret = "secret of acme.salaries"
	report := &health.Report{
		State: health.Warning, Checks: []health.Check{{Name: "run", State: health.Warning, Message: "failed", Cause: secret, Findings: []health.Finding{{Message: "failed", Cause: secret}}, Count: 1}},
		Tenants: []health.Tenant{{Schema: "acme", Cause: secret}},
	}
	var none error
	registry := prometheus.NewRegistry()
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "tenantkeep_test", Help: "x"})
	registry.MustRegister(gauge)
	_, url := start(t, Options{Checks: func() (*health.Report, error) { return report, none }, Metrics: registry})
	if status, body := get(t, url+"/healthz"); status != 200 || !strings.Contains(body, `"status": "ok"`) {
		t.Errorf("healthz: %d, %s", status, body)
	}
	status, body := get(t, url+"/health")
	var got struct {
		State  string
		Checks []struct{ Name, Message string }
	}
	if err := json.Unmarshal([]byte(body), &got); err != nil || status != 200 || got.State != "warning" || len(got.Checks) != 1 || got.Checks[0].Message != "failed" {
		t.Errorf("health: %d, %s, %v", status, body, err)
	}
	if strings.Contains(body, "salaries") {
		t.Errorf("health tells %s", body)
	}
	report.State = health.Critical
	if status, _ := get(t, url+"/health"); status != 503 {
		t.Errorf("critical health: %d", status)
	}
	none = errNotYet
	if status, body := get(t, url+"/health"); status != 503 || !strings.Contains(body, "the first checks have not ended yet") {
		t.Errorf("health without checks: %d, %s", status, body)
	}
	if status, body := get(t, url+"/metrics"); status != 200 || !strings.Contains(body, "\ntenantkeep_test 0\n") {
		t.Errorf("metrics: %d, %s", status, body)
	}
	if status, _ := get(t, url+"/"); status != 404 {
		t.Errorf("nothing: %d", status)
	}
	r, err := http.Post(url+"/health", "text/plain", nil)
	if err != nil || r.StatusCode != 405 {
		t.Errorf("post: %v, %v", r, err)
	}
	r.Body.Close()
}

// Readiness is looked for once in a few seconds, however many ask, and says nothing
// of why.
func TestReady(t *testing.T) {
	t.Parallel()
	c := newClock()
	var looks atomic.Int64
	var gone atomic.Bool
	looked := make(chan struct{})
	s, url := start(t, Options{Now: c.now, Probes: []Probe{
		{"database", func(ctx context.Context) error {
			select {
			case <-looked:
			case <-ctx.Done():
				return ctx.Err()
			}
			looks.Add(1)
			if gone.Load() {
				return errors.New("user:password@host")
			}
			return nil
		}},
		// One that hangs does not keep the other from being looked at.
		{"repository", func(ctx context.Context) error {
			select {
			case looked <- struct{}{}:
			case <-ctx.Done():
			}
			return ctx.Err()
		}},
	}})
	var asking sync.WaitGroup
	for range 20 {
		asking.Go(func() {
			if status, body := get(t, url+"/readyz"); status != 200 || !strings.Contains(body, `"database": "ok"`) {
				t.Errorf("ready: %d, %s", status, body)
			}
		})
	}
	asking.Wait()
	gone.Store(true)
	if status, _ := get(t, url+"/readyz"); status != 200 || looks.Load() != 1 {
		t.Errorf("still ready: %d after %d looks", status, looks.Load())
	}
	c.add(probeFor)
	if status, body := get(t, url+"/readyz"); status != 503 || strings.Contains(body, "password") || !strings.Contains(body, `"database": "not available"`) || !strings.Contains(body, `"repository": "ok"`) {
		t.Errorf("not ready: %d, %s", status, body)
	}
	gone.Store(false)
	c.add(-time.Hour) // a clock that is set back does not keep the answer
	if status, _ := get(t, url+"/readyz"); status != 200 {
		t.Errorf("ready again: %d", status)
	}
	s.Stopping()
	if status, body := get(t, url+"/readyz"); status != 503 || !strings.Contains(body, "stopping") {
		t.Errorf("stopping: %d, %s", status, body)
	}
}

func TestLoopback(t *testing.T) {
	t.Parallel()
	for ip, want := range map[string]bool{"127.0.0.1": true, "::1": true, "0.0.0.0": false, "::": false, "10.0.0.1": false} {
		if got := IsLoopback(fakeListener{&net.TCPAddr{IP: net.ParseIP(ip)}}); got != want {
			t.Errorf("%s: %v", ip, got)
		}
	}
	if _, err := Listen(t.Context(), "127.0.0.1:99999"); err == nil || !strings.HasPrefix(err.Error(), "listen on 127.0.0.1:99999: ") {
		t.Errorf("error %v", err)
	}
}

type fakeListener struct{ addr net.Addr }

func (fakeListener) Accept() (net.Conn, error) { return nil, net.ErrClosed }
func (fakeListener) Close() error              { return nil }
func (l fakeListener) Addr() net.Addr          { return l.addr }

func TestChecker(t *testing.T) {
	t.Parallel()
	c := newClock()
	type call struct {
		read  bool
		reply chan error
	}
	calls := make(chan call)
	told := make(chan *health.Report, 10)
	checker := NewChecker(CheckerOptions{
		Every: time.Hour, Read: 3 * time.Hour, Log: quiet, Now: c.now, Told: func(_ context.Context, r *health.Report) { told <- r },
		Examine: func(ctx context.Context, read bool) (*health.Report, error) {
			reply := make(chan error)
			select {
			case calls <- call{read, reply}:
				return &health.Report{Time: c.now()}, <-reply
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		},
	})
	if _, err := checker.Report(); !errors.Is(err, errNotYet) || checker.Last() != nil {
		t.Errorf("at first: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); checker.Run(ctx) }()
	next := func(read bool, err error) {
		t.Helper()
		got := <-calls
		if got.read != read {
			t.Errorf("files are read: %v", got.read)
		}
		got.reply <- err
	}
	next(true, nil)
	first := <-told
	if r, err := checker.Report(); err != nil || r != first {
		t.Errorf("report %v, %v", r, err)
	}
	c.add(time.Hour)
	checker.Again()
	next(false, errors.New("settings"))
	checker.Again()
	c.add(2 * time.Hour)
	next(true, nil)
	second := <-told
	if r, err := checker.Report(); err != nil || r != second || second == first {
		t.Errorf("report %v, %v", r, err)
	}
	// The next ones do not end.
	checker.Again()
	stuck := <-calls
	c.add(10*time.Hour + time.Second)
	if _, err := checker.Report(); !errors.Is(err, errStale) || checker.Last() != second {
		t.Errorf("stale: %v", err)
	}
	stuck.reply <- errors.New("x")
	checker.Again()
	again := <-calls
	if _, err := checker.Report(); !errors.Is(err, errFailed) {
		t.Errorf("failed: %v", err)
	}
	cancel()
	again.reply <- nil
	<-ended
}
