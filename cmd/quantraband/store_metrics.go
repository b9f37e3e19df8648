package main

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/quantra-l/quantra/store"
)

// storeMetrics are the store's figures as /metrics names them.
var storeMetrics = []struct {
	name, help string
	kind       prometheus.ValueType
	value      func(store.Stats) float64
}{
	{"profiles", "Profiles kept.", prometheus.GaugeValue, func(s store.Stats) float64 { return float64(s.Profiles) }},
	{"series", "Series kept.", prometheus.GaugeValue, func(s store.Stats) float64 { return float64(s.Series) }},
	{"stacks", "Distinct stacks in memory.", prometheus.GaugeValue, func(s store.Stats) float64 { return float64(s.Stacks) }},
	{"head_bytes", "Estimated memory of the profiles.", prometheus.GaugeValue, func(s store.Stats) float64 { return float64(s.HeadBytes) }},
	{"log_bytes", "Bytes of the log on disk.", prometheus.GaugeValue, func(s store.Stats) float64 { return float64(s.LogBytes) }},
	{"log_segments", "Segments of the log.", prometheus.GaugeValue, func(s store.Stats) float64 { return float64(s.Segments) }},
	{"in_flight_bytes", "Bytes of uploads that are not durable yet.", prometheus.GaugeValue, func(s store.Stats) float64 { return float64(s.InFlightBytes) }},
	{"appended_total", "Uploads kept since the start.", prometheus.CounterValue, func(s store.Stats) float64 { return float64(s.Appended) }},
	{"duplicates_total", "Uploads that were there already.", prometheus.CounterValue, func(s store.Stats) float64 { return float64(s.Duplicates) }},
	{"overloaded_total", "Uploads turned away at a bound.", prometheus.CounterValue, func(s store.Stats) float64 { return float64(s.Overloaded) }},
	{"failed_total", "Uploads that could not be written.", prometheus.CounterValue, func(s store.Stats) float64 { return float64(s.Failed) }},
	{"dropped_profiles_total", "Profiles that retention and bounds let go.", prometheus.CounterValue, func(s store.Stats) float64 { return float64(s.DroppedProfiles) }},
	{"syncs_total", "Times the log was forced to disk.", prometheus.CounterValue, func(s store.Stats) float64 { return float64(s.Syncs) }},
	{"last_sync_seconds", "How long the last of them took.", prometheus.GaugeValue, func(s store.Stats) float64 { return s.LastSync.Seconds() }},
}

// storeCollector reads the store's figures when they are asked for.
type storeCollector struct {
	stats func() store.Stats
	descs []*prometheus.Desc // beside storeMetrics
}

func newStoreCollector(stats func() store.Stats) *storeCollector {
	c := &storeCollector{stats: stats}
	for _, m := range storeMetrics {
		c.descs = append(c.descs, prometheus.NewDesc("quantra_store_"+m.name, m.help, nil, nil))
	}
	return c
}

// Describe is prometheus.Collector's.
func (c *storeCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.descs {
		ch <- d
	}
}

// Collect is prometheus.Collector's.
func (c *storeCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.stats()
	for i, m := range storeMetrics {
		ch <- prometheus.MustNewConstMetric(c.descs[i], m.kind, m.value(s))
	}
}
