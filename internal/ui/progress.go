package ui

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"
)

// Progress follows a run. The engines declare the same methods for what they
// call; text and JSON are its two implementations. Add is called often and
// from many goroutines, the others from any goroutine.
type Progress interface {
	// Start begins a stage ("backup", "verify", and those of a restore) of so
	// many tenants and about so many bytes; 0 where they are not known or not
	// counted. It ends the stage before it.
	Start(stage string, tenants int, bytes int64)
	// Add counts bytes and rows that are done.
	Add(bytes, rows int64)
	// TenantDone counts a tenant that is done, or that failed.
	TenantDone(tenant string, err error)
	// Note tells something that a person should know now; tenant may be empty.
	Note(level slog.Level, tenant, message string)
	// Finish ends the last stage. It may be called again.
	Finish()
}

var (
	_ Progress = (*textProgress)(nil)
	_ Progress = (*jsonProgress)(nil)
)

// How often progress is told. A run that is over before barDelay shows no bar.
const (
	barDelay  = 300 * time.Millisecond
	barPeriod = 100 * time.Millisecond
	tellEvery = 5 * time.Second
)

// TextProgress shows progress on stderr: a bar on a terminal, elsewhere a line
// every few seconds, and only failures where the user wants quiet.
func (u *UI) TextProgress() Progress { return &textProgress{ui: u} }

// JSONProgress writes progress to stdout, one object with a kind per line:
// start, progress, tenant, note, finish.
func (u *UI) JSONProgress() Progress { return &jsonProgress{ui: u} }

// ticker runs a function again and again until it is stopped.
type ticker struct {
	stop chan struct{}
	done sync.WaitGroup
}

func every(period time.Duration, f func()) *ticker {
	t := &ticker{stop: make(chan struct{})}
	t.done.Go(func() {
		clock := time.NewTicker(period)
		defer clock.Stop()
		for {
			select {
			case <-t.stop:
				return
			case <-clock.C:
				f()
			}
		}
	})
	return t
}

// end stops the ticker and waits until its function has returned.
func (t *ticker) end() {
	close(t.stop)
	t.done.Wait()
}

// textProgress is progress for people.
type textProgress struct {
	ui    *UI
	mu    sync.Mutex // held by Start and Finish
	meter meter
	tick  *ticker
	bar   *bar // only used by the ticker, and after it has ended
	began time.Time
	told  time.Time
}

// Start begins a stage.
func (p *textProgress) Start(stage string, tenants int, bytes int64) {
	p.Finish()
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.ui.opts.Now()
	p.meter.start(stage, tenants, bytes, now)
	p.began, p.told = now, now
	switch {
	case p.ui.opts.Verbosity < Normal:
	case p.ui.termErr:
		p.tick = every(barPeriod, p.draw)
	default:
		p.ui.say(p.meter.announce())
		p.tick = every(time.Second, p.tell)
	}
}

// draw brings the bar up to date; it appears after a moment.
func (p *textProgress) draw() {
	now := p.ui.opts.Now()
	s := p.meter.status(now)
	if p.bar == nil {
		if now.Sub(p.began) < barDelay {
			return
		}
		p.bar = newBar(p.ui.opts.Stderr, terminalWidth(p.ui.opts.Stderr), p.ui.colorErr)
		p.ui.err.attach(p.bar.above)
	}
	p.bar.set(s)
}

// tell writes a line when it is time for one.
func (p *textProgress) tell() {
	now := p.ui.opts.Now()
	s := p.meter.status(now)
	if now.Sub(p.told) >= tellEvery {
		p.told = now
		p.ui.say(s.line())
	}
}

// Add counts.
func (p *textProgress) Add(bytes, rows int64) { p.meter.add(bytes, rows) }

// TenantDone counts, and names the tenant if it failed or the user wants to
// know.
func (p *textProgress) TenantDone(tenant string, err error) {
	n := p.meter.tenantDone(err)
	switch {
	case err != nil:
		p.ui.say(p.ui.paint(p.ui.colorErr, red, "failed:") + " tenant " + Safe(tenant) + ": " + SafeText(err.Error()))
	case p.ui.opts.Verbosity >= Verbose:
		p.ui.say(fmt.Sprintf("done: %s (%s of %s)", Safe(tenant), Count(n), Count(p.meter.tenants.Load())))
	}
}

// Note tells what matters at the user's verbosity.
func (p *textProgress) Note(level slog.Level, tenant, message string) {
	if tenant != "" {
		message = "tenant " + Safe(tenant) + ": " + message
	}
	switch {
	case level >= slog.LevelWarn:
		p.ui.Warnf("%s", message)
	case level >= slog.LevelInfo && p.ui.opts.Verbosity >= Normal, p.ui.opts.Verbosity >= Debug:
		p.ui.say(SafeText(message))
	}
}

// Finish ends the stage.
func (p *textProgress) Finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tick == nil {
		return
	}
	p.tick.end()
	p.tick = nil
	if p.bar != nil {
		s := p.meter.status(p.ui.opts.Now())
		p.ui.err.detach(func() { p.bar.finish(s) })
		p.bar = nil
	}
}

// terminalWidth returns the columns of a terminal.
func terminalWidth(stream any) int {
	if f, ok := stream.(*os.File); ok {
		if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
			return width
		}
	}
	return 80
}

// bar is a line on a terminal that is drawn again and again.
type bar struct {
	writer  progress.Writer
	tracker *progress.Tracker
	ended   sync.WaitGroup
}

// textWidth is how many columns the text beside a bar takes at most, with
// thousands of tenants.
const textWidth = 66

// barSteps is how finely a bar is divided.
const barSteps = 1000

func newBar(out io.Writer, width int, color bool) *bar {
	b := &bar{writer: progress.NewWriter()}
	w := b.writer
	w.SetOutputWriter(out)
	w.SetTerminalWidth(width)
	w.SetUpdateFrequency(barPeriod)
	// The renderer ends by itself once the tracker is done; stopping it
	// could come before it has begun, and would then be lost.
	w.SetAutoStop(true)
	w.SetTrackerPosition(progress.PositionLeft)
	w.SetTrackerLength(min(30, max(8, width-textWidth)))
	style := progress.StyleBlocks
	style.Chars.BoxLeft, style.Chars.BoxRight = "", ""
	style.Visibility = progress.StyleVisibility{Tracker: true, Percentage: true}
	style.Options.Separator = "  "
	style.Options.PercentFormat = "%3.0f%%"
	style.Options.PercentIndeterminate = "    "
	style.Options.DoneString = ""
	style.Colors = progress.StyleColors{}
	if color {
		style.Colors.Tracker = text.Colors{text.FgCyan}
	}
	w.SetStyle(style)
	b.tracker = &progress.Tracker{AutoStopDisabled: true}
	w.AppendTracker(b.tracker)
	b.ended.Go(w.Render)
	return b
}

// set shows a status.
func (b *bar) set(s status) {
	b.tracker.UpdateMessage(s.short())
	if s.Fraction < 0 {
		return
	}
	b.tracker.UpdateTotal(barSteps)
	// A full bar is for what is finished, and the sizes are estimates.
	b.tracker.SetValue(min(int64(s.Fraction*barSteps), barSteps-1))
}

// above shows a line over the bar.
func (b *bar) above(line string) { b.writer.Log(line) }

// finish leaves one line on the screen and waits until it is drawn.
func (b *bar) finish(s status) {
	b.tracker.UpdateMessage(s.last())
	b.tracker.MarkAsDone()
	b.ended.Wait()
}
