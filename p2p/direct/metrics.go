package direct

import "github.com/prometheus/client_golang/prometheus"

// metrics count what goes through a service. Labels are closed sets, so that nobody can make series.
type metrics struct {
	reg                                                           prometheus.Registerer
	all                                                           []prometheus.Collector
	posted, sent, acked, received, duplicates, delivered, expired prometheus.Counter
	posts                                                         prometheus.Counter
	refused, sessions, kept, files                                *prometheus.CounterVec
}

func newMetrics(reg prometheus.Registerer, s *Service) (*metrics, error) {
	m := &metrics{reg: reg}
	counter := func(c *prometheus.Counter, name, help string) {
		*c = prometheus.NewCounter(prometheus.CounterOpts{Name: "quantra_direct_" + name, Help: help})
		m.all = append(m.all, *c)
	}
	vec := func(c **prometheus.CounterVec, label, name, help string) {
		*c = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "quantra_direct_" + name, Help: help}, []string{label})
		m.all = append(m.all, *c)
	}
	gauge := func(name, help string, n func() float64) {
		m.all = append(m.all, prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "quantra_direct_" + name, Help: help}, n))
	}
	counter(&m.posted, "posted_total", "Messages that are kept nowhere, sent.")
	counter(&m.posts, "posts_received_total", "Messages that are kept nowhere, received.")
	counter(&m.sent, "sent_total", "Durable messages that were taken to be sent.")
	counter(&m.acked, "acked_total", "Durable messages that their recipients have acknowledged.")
	counter(&m.received, "received_total", "Durable messages that came, duplicates among them.")
	counter(&m.duplicates, "duplicates_total", "Durable messages that came again and were dropped.")
	counter(&m.delivered, "delivered_total", "Durable messages that were given to the reader.")
	counter(&m.expired, "expired_total", "Durable messages that were given up, as their recipients were not there.")
	vec(&m.refused, "why", "refused_total", "What was refused to peers: denied, busy, never (damaged, or for a group that one of the two is not in).")
	vec(&m.sessions, "event", "sessions_total", "Sessions: opened, accepted, failed handshakes, ended by a fault.")
	vec(&m.kept, "event", "kept_total", "Messages between others: taken, handed on; and ours that were left with a keeper.")
	vec(&m.files, "event", "files_total", "Files: sent, received, refused, broken off.")
	gauge("pending_messages", "Durable messages that are not acknowledged.", func() float64 { n, _, _ := s.ledger.sizes(); return float64(n) })
	gauge("pending_bytes", "Bytes of durable messages that are not acknowledged.", func() float64 { _, n, _ := s.ledger.sizes(); return float64(n) })
	gauge("history_bytes", "Bytes of history on disk.", func() float64 { _, _, n := s.ledger.sizes(); return float64(n) })
	gauge("kept_bytes", "Bytes of messages that are kept for others.", func() float64 { return float64(s.keeper.bytes()) })
	if reg == nil {
		return m, nil
	}
	for i, c := range m.all {
		if err := reg.Register(c); err != nil {
			m.all = m.all[:i]
			m.unregister()
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) unregister() {
	if m.reg == nil {
		return
	}
	for _, c := range m.all {
		m.reg.Unregister(c)
	}
}

// sizes is messages and bytes that are pending, and bytes on disk.
func (l *ledger) sizes() (messages int, bytes, disk int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, ch := range l.channels {
		messages += len(ch.pending)
	}
	for _, s := range l.segs {
		disk += s.size
	}
	return messages, l.outBytes, disk
}
