package ui

import (
	"log/slog"
	"strings"
	"sync"
	"time"
)

// jsonProgress is progress for programs. What cannot be written is not told to
// anybody: a reader that went away must not end a backup.
type jsonProgress struct {
	ui    *UI
	mu    sync.Mutex // held by Start and Finish
	meter meter
	tick  *ticker
}

// event is one line of output. Fields are only ever added.
type event struct {
	Kind    string    `json:"kind"`
	Time    time.Time `json:"time"`
	Stage   string    `json:"stage,omitempty"`
	Tenant  string    `json:"tenant,omitempty"`
	OK      *bool     `json:"ok,omitempty"`    // of a tenant
	Error   string    `json:"error,omitempty"` // of a tenant
	Level   string    `json:"level,omitempty"` // of a note: debug, info, warn, error
	Message string    `json:"message,omitempty"`
	*counts
}

// counts are what a stage has to do and has done.
type counts struct {
	Tenants        int64    `json:"tenants"`
	Bytes          int64    `json:"bytes"` // about; 0: unknown
	TenantsDone    int64    `json:"tenants_done"`
	TenantsFailed  int64    `json:"tenants_failed"` // among those done
	BytesDone      int64    `json:"bytes_done"`
	RowsDone       int64    `json:"rows_done"`
	BytesPerSecond float64  `json:"bytes_per_second"`
	Seconds        float64  `json:"seconds"`
	SecondsLeft    *float64 `json:"seconds_left,omitempty"`
}

func (p *jsonProgress) emit(e event) {
	e.Time = p.ui.opts.Now().UTC()
	_ = p.ui.JSONLine(e)
}

func (p *jsonProgress) counts(kind string) event {
	s := p.meter.status(p.ui.opts.Now())
	e := event{Kind: kind, Stage: s.Stage, counts: &counts{
		Tenants: s.Tenants, Bytes: s.Bytes, TenantsDone: s.DoneTenants, TenantsFailed: s.Failed,
		BytesDone: s.DoneBytes, RowsDone: s.DoneRows, BytesPerSecond: s.Rate, Seconds: s.Elapsed.Seconds(),
	}}
	if s.Left >= 0 {
		left := s.Left.Seconds()
		e.SecondsLeft = &left
	}
	return e
}

// Start begins a stage.
func (p *jsonProgress) Start(stage string, tenants int, bytes int64) {
	p.Finish()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.meter.start(stage, tenants, bytes, p.ui.opts.Now())
	p.emit(p.counts("start"))
	p.tick = every(tellEvery, func() { p.emit(p.counts("progress")) })
}

// Add counts.
func (p *jsonProgress) Add(bytes, rows int64) { p.meter.add(bytes, rows) }

// TenantDone counts and tells.
func (p *jsonProgress) TenantDone(tenant string, err error) {
	p.meter.tenantDone(err)
	ok := err == nil
	e := event{Kind: "tenant", Tenant: tenant, OK: &ok}
	if err != nil {
		e.Error = err.Error()
	}
	p.emit(e)
}

// Note tells what matters at the user's verbosity.
func (p *jsonProgress) Note(level slog.Level, tenant, message string) {
	if level < slog.LevelInfo && p.ui.opts.Verbosity < Debug {
		return
	}
	p.emit(event{Kind: "note", Level: strings.ToLower(level.String()), Tenant: tenant, Message: message})
}

// Finish ends the stage.
func (p *jsonProgress) Finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tick == nil {
		return
	}
	p.tick.end()
	p.tick = nil
	p.emit(p.counts("finish"))
}
