// Package server answers over HTTP whether a process, and what it looks after, is
// well, and keeps a schedule running in the process that leads.
//
// Nothing that is asked for reaches the database: the checks are made at times of
// their own, and the answer is what they found last. Only readiness looks by itself,
// at most once in a few seconds. No answer names a table, or holds anything that is
// in one, or a secret.
package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tenantkeep/tenantkeep/internal/health"
)

const (
	// probeFor is for how long an answer about readiness holds.
	probeFor     = 5 * time.Second
	probeTimeout = 10 * time.Second

	readTimeout  = 10 * time.Second
	writeTimeout = 30 * time.Second
	idleTimeout  = time.Minute
	maxHeader    = 16 << 10
)

// Probe looks whether one thing is there that the process needs.
type Probe struct {
	Name string
	Look func(context.Context) error
}

// Options say what to tell.
type Options struct {
	Probes []Probe
	// Checks are the newest ones. An error is that there are none that hold.
	Checks func() (*health.Report, error)
	// Metrics are what is told at /metrics.
	Metrics prometheus.Gatherer
	Log     *slog.Logger
	Now     func() time.Time // nil: time.Now
}

// Server answers requests.
type Server struct {
	Options
	http *http.Server

	mu       sync.Mutex
	stopping bool

	probing sync.Mutex // held while somebody looks
	probed  time.Time
	missing map[string]string // by name of the probe: "ok", or what is wrong
}

// New returns a server that does not listen yet.
func New(o Options) *Server {
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{Options: o}
	s.http = &http.Server{
		Handler: s.handler(), ReadTimeout: readTimeout, ReadHeaderTimeout: readTimeout, WriteTimeout: writeTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: maxHeader, ErrorLog: slog.NewLogLogger(o.Log.Handler(), slog.LevelDebug),
	}
	return s
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		s.answer(w, http.StatusOK, map[string]string{"status": "ok"})
	})
	mux.HandleFunc("GET /readyz", s.ready)
	mux.HandleFunc("GET /health", s.health)
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.Metrics, promhttp.HandlerOpts{ErrorLog: slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug), MaxRequestsInFlight: 4}))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.Header().Set("Cache-Control", "no-store")
		mux.ServeHTTP(w, r)
	})
}

// Listen takes an address, such as 127.0.0.1:9754.
func Listen(ctx context.Context, address string) (net.Listener, error) {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", address, err)
	}
	return l, nil
}

// IsLoopback reports whether only this machine reaches a listener.
func IsLoopback(l net.Listener) bool {
	a, ok := l.Addr().(*net.TCPAddr)
	return ok && a.IP.IsLoopback()
}

// Serve answers until Close.
func (s *Server) Serve(l net.Listener) error {
	if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", l.Addr(), err)
	}
	return nil
}

// Stopping lets nobody rely on this process any more, while it still answers.
func (s *Server) Stopping() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopping = true
}

// Close ends Serve, and lets answers that are under way be given until ctx is over.
func (s *Server) Close(ctx context.Context) error {
	if err := s.http.Shutdown(ctx); err != nil {
		return errors.Join(err, s.http.Close())
	}
	return nil
}

// ready tells whether what the process needs is there.
func (s *Server) ready(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	stopping := s.stopping
	s.mu.Unlock()
	if stopping {
		s.answer(w, http.StatusServiceUnavailable, map[string]string{"status": "stopping"})
		return
	}
	status, found := http.StatusOK, s.probe(r.Context())
	for _, what := range found {
		if what != "ok" {
			status = http.StatusServiceUnavailable
		}
	}
	s.answer(w, status, found)
}

// probe looks, unless somebody just did.
func (s *Server) probe(ctx context.Context) map[string]string {
	s.probing.Lock()
	defer s.probing.Unlock()
	if s.missing != nil && s.Now().Sub(s.probed).Abs() < probeFor {
		return s.missing
	}
	// Who asked may go away: others wait for the answer. What hangs must not take its
	// time from the others.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), probeTimeout)
	defer cancel()
	errs := make([]error, len(s.Probes))
	var looking sync.WaitGroup
	for i, p := range s.Probes {
		looking.Go(func() { errs[i] = p.Look(ctx) })
	}
	looking.Wait()
	found := make(map[string]string, len(s.Probes))
	for i, p := range s.Probes {
		found[p.Name] = "ok"
		if errs[i] != nil {
			found[p.Name] = "not available"
			s.Log.Warn("not ready", "what", p.Name, "error", errs[i])
		}
	}
	s.missing, s.probed = found, s.Now()
	return found
}

// health tells what the checks found.
func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	r, err := s.Checks()
	if err != nil {
		s.answer(w, http.StatusServiceUnavailable, map[string]string{"state": health.Critical.String(), "message": err.Error()})
		return
	}
	status := http.StatusOK
	if r.State == health.Critical {
		status = http.StatusServiceUnavailable
	}
	s.answer(w, status, r.Public())
}

func (s *Server) answer(w http.ResponseWriter, status int, document any) {
	text, err := json.MarshalIndent(document, "", "  ")
	if err != nil {
		s.Log.Error("an answer cannot be written", "error", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(text, '\n')) // who asked may be gone
}
