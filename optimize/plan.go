package optimize

import (
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
