package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Process is what a process that stays tells of itself.
type Process struct {
	Leading  bool
	Running  bool
	Failures int              // runs that failed, in a row
	Runs     map[string]int64 // by result, since it began
	Reloaded time.Time        // when it last took its settings
	Refused  bool             // the newest settings make no sense
}

var (
	leading  = define("server_leading", "1 if this process runs the schedule, 0 if another one does, or none can.")
	running  = define("server_run_in_progress", "1 while a scheduled run is at work.")
	failures = define("server_failed_runs", "Scheduled runs that have failed since the last that succeeded.")
	runs     = define("server_runs_total", "Scheduled runs of this process by their result.", "result")
	reloaded = define("server_config_reload_timestamp_seconds", "When this process took its settings.")
	accepted = define("server_config_reload_successful", "1 if the newest settings are in use, 0 if they make no sense and the ones before are.")
)

// ofProcess lists the metrics of a process.
func ofProcess() []*metric {
	return []*metric{leading, running, failures, runs, reloaded, accepted}
}

// ProcessCollector gives the metrics of a process.
type ProcessCollector struct{ process func() Process }

var _ prometheus.Collector = (*ProcessCollector)(nil)

// NewProcessCollector returns a collector that asks for the state each time.
func NewProcessCollector(process func() Process) *ProcessCollector {
	return &ProcessCollector{process}
}

// Describe tells which metrics there are.
func (c *ProcessCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, m := range ofProcess() {
		descs <- m.desc
	}
}

// Collect gives the metrics.
func (c *ProcessCollector) Collect(out chan<- prometheus.Metric) {
	s, p := sender(out), c.process()
	s.send(leading, number(p.Leading))
	s.send(running, number(p.Running))
	s.send(failures, float64(p.Failures))
	for result, n := range p.Runs {
		s <- prometheus.MustNewConstMetric(runs.desc, prometheus.CounterValue, float64(n), result)
	}
	s.send(reloaded, seconds(p.Reloaded))
	s.send(accepted, number(!p.Refused))
}

// number is 1 for true.
func number(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
