package optimize

import (
	"slices"
	"time"

	"github.com/quantra-l/quantra/optimize/judge"
)

// Stage is how much of the service a change is applied to before it is judged: so many nodes, or, with Nodes 0, so many percent.
type Stage struct {
	Nodes   int     `json:"nodes,omitempty"`
	Percent float64 `json:"percent,omitempty"`
	// Dwell is how long it stays before it is judged; Deadline how long it may go on without a verdict until it is undone,
	// the dwell included.
	Dwell    time.Duration `json:"dwell"`
	Deadline time.Duration `json:"deadline"`
}

// Plan is how one change is made. It is the policy's for its kind and service.
type Plan struct {
	Stages  []Stage        `json:"stages"`
	Metrics []judge.Metric `json:"metrics"`
	Judge   judge.Options  `json:"judge"`
	// Baseline is how long before the stage measurements are taken from.
	Baseline time.Duration `json:"baseline"`
	// ApplyWithin is how long a stage may take to come into force until it is undone.
	ApplyWithin time.Duration `json:"apply_within"`
}

// For is the plan as a kind of change needs it, where a policy says nothing else of that kind.
func (p Plan) For(k Kind) Plan {
	p.Stages, p.Metrics = slices.Clone(p.Stages), slices.Clone(p.Metrics)
	switch k {
	case Machine:
		p.ApplyWithin = max(p.ApplyWithin, 20*time.Minute) // a machine that stops and starts takes minutes
	case PGO, Patch:
		// People merge, and roll out as they do. Then it is judged in one stage, however much of it they have rolled out: three times as long as others, as what has just
		// started is no node like the rest yet, and as long as it takes them to have enough of it run beside what ran before.
		p.ApplyWithin = max(p.ApplyWithin, 14*24*time.Hour)
		if len(p.Stages) > 0 {
			d := 3 * p.Stages[0].Dwell
			p.Stages = []Stage{{Percent: 100, Dwell: d, Deadline: 12 * d}}
		}
		if !slices.ContainsFunc(p.Metrics, func(m judge.Metric) bool { return m.Name == "stacks" }) {
			p.Metrics = append(p.Metrics, judge.Stacks())
		}
	}
	return p
}

// DefaultPlan is 1 node, 10 %, 50 % and all, 10 minutes each, undone after 30 without a verdict.
func DefaultPlan() Plan {
	stage := func(nodes int, percent float64) Stage {
		return Stage{Nodes: nodes, Percent: percent, Dwell: 10 * time.Minute, Deadline: 30 * time.Minute}
	}
	return Plan{
		Stages:      []Stage{stage(1, 0), stage(0, 10), stage(0, 50), stage(0, 100)},
		Metrics:     judge.DefaultMetrics(),
		Baseline:    30 * time.Minute,
		ApplyWithin: 5 * time.Minute,
	}
}
