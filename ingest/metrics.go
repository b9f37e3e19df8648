package ingest

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count what arrives. Codes are those of faults: a closed set, so that
// no sender can make series.
type metrics struct {
	profiles, bytes, rejects *prometheus.CounterVec
	seconds                  *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer, b *budget) (*metrics, error) {
	m := &metrics{
		profiles: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "quantra_ingest_profiles_total", Help: "Profiles that arrived and were kept.",
		}, []string{"route"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "quantra_ingest_bytes_total", Help: "Bytes of the profiles that were kept, as they came.",
		}, []string{"route"}),
		rejects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "quantra_ingest_rejected_total", Help: "Requests, and single profiles of them, that were refused or failed, by the code of their answer.",
		}, []string{"route", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "quantra_ingest_duration_seconds", Help: "From the first byte of a request to its answer.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 17), // 0.5 ms to 33 s, past the default timeout
		}, []string{"route"}),
	}
	if reg == nil {
		return m, nil
	}
	inFlight := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "quantra_ingest_in_flight_bytes", Help: "Bytes of bodies and decoded profiles that requests at work hold.",
	}, func() float64 { return float64(b.used.Load()) })
	for _, c := range []prometheus.Collector{m.profiles, m.bytes, m.rejects, m.seconds, inFlight} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) kept(route string, pushes []Push, d time.Duration) {
	m.profiles.WithLabelValues(route).Add(float64(len(pushes)))
	for i := range pushes {
		m.bytes.WithLabelValues(route).Add(float64(len(pushes[i].Pprof)))
	}
	m.seconds.WithLabelValues(route).Observe(d.Seconds())
}

func (m *metrics) rejected(route, code string, d time.Duration) {
	m.rejects.WithLabelValues(route, code).Inc()
	m.seconds.WithLabelValues(route).Observe(d.Seconds())
}
