package fleet

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics count what agents and readers do. Codes and outcomes are closed sets, so that nobody can make series.
type metrics struct {
	requests, leases, tasks *prometheus.CounterVec
	unkept                  prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, f *Fleet) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "quantra_fleet_requests_total", Help: "Requests of agents, by route and the code of their answer.",
		}, []string{"route", "code"}),
		leases: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "quantra_fleet_lease_events_total", Help: "What became of leases: granted, prolonged, refused by the agent, replaced, released, expired, or forgotten with the agent.",
		}, []string{"event"}),
		tasks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "quantra_fleet_tasks_total", Help: "Tasks that agents were asked for, by kind and how they ended.",
		}, []string{"kind", "outcome"}),
		unkept: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "quantra_fleet_status_unkept_total", Help: "Polls whose status was left out, as agents hold as many bytes as they may.",
		}),
	}
	if reg == nil {
		return m, nil
	}
	gauge := func(name, help string, n func(s stats) int64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "quantra_fleet_" + name, Help: help}, func() float64 { return float64(n(f.stats())) })
	}
	for _, c := range []prometheus.Collector{
		m.requests, m.leases, m.tasks, m.unkept,
		gauge("agents", "Agents that are known.", func(s stats) int64 { return int64(s.agents) }),
		gauge("agents_online", "Agents that were heard of lately.", func(s stats) int64 { return int64(s.online) }),
		gauge("polls", "Polls that wait for an answer.", func(s stats) int64 { return int64(s.polls) }),
		gauge("leases", "Leases whose time is not over.", func(s stats) int64 { return int64(s.leases) }),
		gauge("tasks", "Tasks that someone waits for.", func(s stats) int64 { return int64(s.tasks) }),
		gauge("bytes", "Bytes that agents' reports hold, about.", func(s stats) int64 { return s.bytes }),
		gauge("result_bytes", "Bytes that results on their way hold.", func(s stats) int64 { return s.resultBytes }),
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

type stats struct {
	agents, online, polls, leases, tasks int
	bytes, resultBytes                   int64
}

func (f *Fleet) stats() stats {
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sweep(now)
	s := stats{agents: len(f.agents), tasks: len(f.tasks), bytes: f.bytes, resultBytes: f.resultBytes}
	for _, a := range f.agents {
		if f.online(a, now) {
			s.online++
		}
		if a.poll != nil {
			s.polls++
		}
		if f.current(a, now) != nil {
			s.leases++
		}
	}
	return s
}
