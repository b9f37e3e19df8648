package demo

import (
	"encoding/json"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/optimize"
)

// Plant is one thing that is wrong with the demo's service on purpose.
type Plant struct {
	Kind     analyze.Kind
	Function string // as the finding names it; "" is no function's
	Subject  string // as the finding has it; "" where its kind has none
	// Follows says that it comes of another plant, and may be too little to be found.
	Follows bool
}

const here = "github.com/quantra-l/quantra/cmd/quantraband/demo."

// Planted is all of them: findings of the fleet's profiles have each, and of these kinds and those of harm nothing else. Hot spots are
// measurements and not among them.
func Planted() []Plant {
	return []Plant{
		{Kind: analyze.Regression, Function: here + "(*Cache).evict"},
		{Kind: analyze.Contention, Function: here + "(*Ledger).Post", Subject: "ledger"},
		{Kind: analyze.Blocking, Function: here + "(*Bank).authorisePayment", Subject: "connection set-up"},
		{Kind: analyze.GCPressure, Subject: "gc_cpu"},
		{Kind: analyze.AllocHotLoop, Function: here + "compressJournal"},
		{Kind: analyze.Contention, Function: here + "(*Cache).Put", Subject: "prices", Follows: true},
	}
}

// BadChange is a change of the service that is wrong on purpose, for the ending in which one is undone: at GOGC=20 the collector runs three
// times as often as at the fleet's 60.
func BadChange() optimize.Proposal {
	return optimize.Proposal{
		Kind: optimize.Runtime, Service: Service, Subject: "gc", Basis: "planted", Spec: json.RawMessage(`{"gogc":20}`),
		Sentence: Service + " could keep less memory: GOGC " + serviceGOGC + " -> 20. Planted by the demo: it costs more CPU than is tolerated, and is to be undone.",
		Warnings: []string{"This change is the demo's and is meant to fail."},
	}
}

// BuildAfter is how much of the past the demo's profile for the compiler is made of at least: a demo is not a day long. BuildWarning is what is said of
// the change that puts it to the fleet's builds.
const (
	BuildAfter   = 2 * time.Minute
	BuildWarning = "Planted by the demo: its builds are made up, and the one that comes of this is slower in signReceipt. It is to be undone."
)

// SlowFunction is the one that V3 is slower in, as profiles name it.
const SlowFunction = here + "signReceipt"

// buildPlan is for a build: as long as the others, since the node has its name, and so its past, whatever it runs.
func buildPlan(plan optimize.Plan) optimize.Plan {
	stages := plan.Stages[:1]
	plan = plan.For(optimize.PGO)
	plan.Stages[0].Dwell, plan.Stages[0].Deadline = stages[0].Dwell, stages[0].Deadline
	return plan
}

// Policy is the default but for its pace: two minutes a stage, so that a change of the fleet can be followed to its end. What it proposes a
// person starts.
func Policy() *optimize.Policy {
	p := optimize.DefaultPolicy()
	plan := optimize.DefaultPlan()
	stage := func(nodes int, percent float64) optimize.Stage {
		return optimize.Stage{Nodes: nodes, Percent: percent, Dwell: 2 * time.Minute, Deadline: 8 * time.Minute}
	}
	plan.Stages = []optimize.Stage{stage(1, 0), stage(0, 50), stage(0, 100)}
	plan.Baseline = 10 * time.Minute
	plan.Judge.WarmUp = 10 * time.Second // of two and a half windows: settings of the collector take effect at once
	p.Kinds[optimize.Runtime] = optimize.KindPolicy{Mode: optimize.Propose, Plan: plan}
	p.Kinds[optimize.PGO] = optimize.KindPolicy{Mode: optimize.Propose, Plan: buildPlan(plan)}
	p.NodeEvery = time.Minute
	return p
}
