package watch

import (
	"errors"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	latency, took                 prometheus.Histogram
	behind, series, services      prometheus.Gauge
	caughtUp, aside, told, untold prometheus.Counter
	findings                      *prometheus.GaugeVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "quantra_analysis_" + name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "quantra_analysis_" + name, Help: help})
	}
	histogram := func(name, help string) prometheus.Histogram {
		return prometheus.NewHistogram(prometheus.HistogramOpts{Name: "quantra_analysis_" + name, Help: help, Buckets: prometheus.ExponentialBuckets(0.01, 2, 16)})
	}
	m := &metrics{
		latency:  histogram("latency_seconds", "Time from a profile's acknowledgement until what is in it has been analysed and findings are kept."),
		took:     histogram("pass_seconds", "Time of one look at a service."),
		behind:   gauge("behind_seconds", "How long the oldest profile that has not been analysed has waited, or how far back the backlog is being worked off."),
		series:   gauge("series", "Functions that are followed, self and cumulative counted singly."),
		services: gauge("services", "Services that are watched."),
		caughtUp: counter("backlog_minutes_total", "Minutes of services that were analysed after a time without analysis."),
		aside:    counter("set_aside_total", "Parts of profiles that could not be analysed and were set aside."),
		told:     counter("alerts_sent_total", "Alerts that a channel took."),
		untold:   counter("alerts_failed_total", "Tries to send an alert that failed."),
		findings: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "quantra_findings", Help: "Findings by service, kind and state; those that are fixed are not counted."}, []string{"service", "kind", "state"}),
	}
	if r == nil {
		return m, nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.latency, m.took, m.behind, m.series, m.services, m.caughtUp, m.aside, m.told, m.untold, m.findings} {
		errs = append(errs, r.Register(c))
	}
	return m, errors.Join(errs...)
}

func (m *metrics) set(s Status) {
	m.behind.Set(s.BehindSeconds)
	m.series.Set(float64(s.Series))
	m.services.Set(float64(s.Services))
}

// count sets the gauges of a service's findings, known with updates over them.
func (m *metrics) count(service string, known []Record, updates []Update) {
	type group struct{ kind, state string }
	at := map[string]group{}
	for i := range known {
		at[known[i].ID] = group{string(known[i].Finding.Kind), string(known[i].State)}
	}
	for i := range updates {
		r := &updates[i].Record
		at[r.ID] = group{string(r.Finding.Kind), string(r.State)}
	}
	counts := map[group]int{}
	for _, g := range at {
		if g.state != string(StateFixed) {
			counts[g]++
		}
	}
	m.findings.DeletePartialMatch(prometheus.Labels{"service": service})
	for g, n := range counts {
		m.findings.WithLabelValues(service, g.kind, g.state).Set(float64(n))
	}
}

// waits keeps the last times from a profile to its findings.
type waits struct {
	last []time.Duration
	n    int
}

const keptWaits = 1000

func newWaits() *waits { return &waits{} }

func (w *waits) add(d time.Duration) {
	if len(w.last) < keptWaits {
		w.last = append(w.last, d)
	} else {
		w.last[w.n%keptWaits] = d
	}
	w.n++
}

// quantiles are p50 and p99, in milliseconds.
func (w *waits) quantiles() (p50, p99 float64) {
	if len(w.last) == 0 {
		return 0, 0
	}
	s := slices.Sorted(slices.Values(w.last))
	at := func(q float64) float64 { return float64(s[min(len(s)-1, int(q*float64(len(s))))]) / 1e6 }
	return at(0.5), at(0.99)
}
