package simulate

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/optimize"
)

// Truth is what a scenario's change is, by construction.
type Truth string

// The truths. Harmful is worse than the policy tolerates in something critical, by half as much again: what is between is neither.
const (
	Good    Truth = "good"
	Neutral Truth = "neutral"
	Border  Truth = "border" // worse, by about what is tolerated
	Harmful Truth = "harmful"
)

// Family is scenarios of one story, which the seed varies.
type Family struct {
	Name  string
	Truth Truth
	Make  func(r *rand.Rand) Scenario
}

// between is a value spread evenly.
func between(r *rand.Rand, a, b float64) float64 { return a + (b-a)*r.Float64() }

// fleetOf varies the fleet.
func fleetOf(r *rand.Rand) Fleet {
	return Fleet{Nodes: 2 + r.IntN(15), Versions: 1 + r.IntN(2), Zones: 1 + r.IntN(3), Host: between(r, 0.02, 0.12), Noise: between(r, 0.03, 0.10), Rate: between(r, 20, 100)}
}

// harm is a harmful effect of one kind, past half as much again of what the default metrics tolerate.
func harm(r *rand.Rand) Effect {
	e := Effect{CPU: 1, P99: 1, RSS: 1}
	switch r.IntN(4) {
	case 0:
		e.CPU = 1 + between(r, 0.075, 0.6)
	case 1:
		e.P99 = 1 + between(r, 0.225, 1.5)
	case 2:
		e.RSS = 1 + between(r, 0.15, 0.8)
	case 3:
		e.Errors = between(r, 0.006, 0.08)
	}
	return e
}

// benefit is a good effect: less CPU, and nothing else that a metric would tell.
func benefit(r *rand.Rand) Effect {
	return Effect{CPU: 1 - between(r, 0.03, 0.3), P99: 1 - between(r, 0, 0.1)}
}

// Families are the stories that are told of the optimizer.
func Families() []Family {
	make := func(effect func(*rand.Rand) Effect, trouble func(*rand.Rand) Trouble) func(*rand.Rand) Scenario {
		return func(r *rand.Rand) Scenario {
			s := Scenario{Fleet: fleetOf(r), Effect: effect(r)}
			if trouble != nil {
				s.Trouble = trouble(r)
			}
			return s
		}
	}
	none := func(*rand.Rand) Effect { return Effect{} }
	spiky := func(r *rand.Rand) Trouble {
		return Trouble{CommonSpikes: between(r, 1, 6), OwnSpikes: between(r, 0.2, 1)}
	}
	lossy := func(r *rand.Rand) Trouble {
		return Trouble{DataLoss: between(r, 0.05, 0.3), LookFails: between(r, 0, 0.2)}
	}
	losing := func(r *rand.Rand) Trouble {
		return Trouble{NodeLoss: between(r, 0.05, 0.4), Restarts: between(r, 0.05, 0.3)}
	}
	crashing := func(r *rand.Rand) Trouble {
		return Trouble{Crashes: between(r, 0.005, 0.04), ActuatorFails: between(r, 0, 0.2)}
	}
	return []Family{
		{"good", Good, make(benefit, nil)},
		{"neutral", Neutral, make(none, nil)},
		{"bad", Harmful, make(harm, nil)},
		{"a little bad", Border, make(func(r *rand.Rand) Effect { return Effect{CPU: 1 + between(r, 0.03, 0.07)} }, nil)},
		{"slow burn", Harmful, make(func(r *rand.Rand) Effect { return Effect{Leak: between(r, 0.3, 2)} }, nil)},
		{"bad after a while", Harmful, make(func(r *rand.Rand) Effect {
			e := harm(r)
			e.Late = time.Duration(between(r, 2, 8) * float64(time.Minute))
			return e
		}, nil)},
		{"bad on one version", Harmful, func(r *rand.Rand) Scenario {
			s := Scenario{Fleet: fleetOf(r), Effect: Effect{CPU: 1 + between(r, 0.2, 0.6), Versions: []string{"v2"}}}
			s.Fleet.Versions, s.Fleet.Nodes = 2, 4+r.IntN(12)
			return s
		}},
		{"kills its node", Harmful, make(func(r *rand.Rand) Effect {
			return Effect{CPU: 0.9, Crash: time.Duration(between(r, 0.3, 6) * float64(time.Minute))}
		}, nil)},
		{"good, fills its heap", Good, make(func(r *rand.Rand) Effect {
			e := benefit(r)
			e.Fill = between(r, 0.02, 0.06)
			return e
		}, nil)},
		{"good, spikes", Good, make(benefit, spiky)},
		{"bad, spikes", Harmful, make(harm, spiky)},
		{"neutral, spikes", Neutral, make(none, spiky)},
		{"good, data lost", Good, make(benefit, lossy)},
		{"bad, data lost", Harmful, make(harm, lossy)},
		{"bad, and blind where it is", Harmful, make(harm, func(*rand.Rand) Trouble { return Trouble{TreatedBlind: true} })},
		{"bad, and no requests", Harmful, make(harm, func(*rand.Rand) Trouble { return Trouble{NoRequests: true} })},
		{"good, nodes lost", Good, make(benefit, losing)},
		{"bad, nodes lost", Harmful, make(harm, losing)},
		{"good, optimizer dies", Good, make(benefit, crashing)},
		{"bad, optimizer dies", Harmful, make(harm, crashing)},
		{"good, one node", Good, func(r *rand.Rand) Scenario {
			s := Scenario{Fleet: fleetOf(r), Effect: benefit(r)}
			s.Fleet.Nodes, s.Fleet.Versions = 1, 1
			return s
		}},
		{"bad, one node", Harmful, func(r *rand.Rand) Scenario {
			s := Scenario{Fleet: fleetOf(r), Effect: harm(r)}
			s.Fleet.Nodes, s.Fleet.Versions = 1, 1
			return s
		}},
		{"good, a new version rolls out", Good, make(benefit, func(r *rand.Rand) Trouble {
			return Trouble{Rollout: time.Duration(between(r, 45, 80) * float64(time.Minute))}
		})},
		{"bad, everything at once", Harmful, make(harm, func(r *rand.Rand) Trouble {
			return Trouble{CommonSpikes: 3, OwnSpikes: 0.5, DataLoss: 0.1, NodeLoss: 0.1, Restarts: 0.1, ActuatorFails: 0.1, LookFails: 0.1, Crashes: 0.01}
		})},
	}
}

// Row is what became of a family's runs.
type Row struct {
	Family
	Runs, Promoted, Failed, Undone, Other int
	// ToUndo is how long the change was in force before it was taken back everywhere, sorted; of runs that took it back.
	ToUndo []time.Duration
	// MostOn is the largest part of a fleet that a change was in force at, of those that were taken back.
	MostOn float64
	Deaths int
	Broken []string // promises that were not kept, with the seed
	// Escaped are the harmful ones that were promoted, with the seed and the effect.
	Escaped []string
}

// Report runs so many runs, spread over the families, on all processors. policy nil is the default. The same seed is the same report.
// With the error of a ctx that ended comes what had run until then.
func Report(ctx context.Context, runs int, seed uint64, policy *optimize.Policy, done func(n int)) ([]Row, error) {
	fs := Families()
	rows := make([]Row, len(fs))
	for i := range fs {
		rows[i].Family = fs[i]
	}
	type job struct {
		i    int
		seed uint64
	}
	jobs := make(chan job)
	var mu sync.Mutex
	var wg sync.WaitGroup
	var failed error
	n := 0
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			for j := range jobs {
				s := fs[j.i].Make(rand.New(rand.NewPCG(j.seed, 0xfa3)))
				s.Policy = policy
				o, err := Run(ctx, j.seed, s)
				mu.Lock()
				switch {
				case err != nil && ctx.Err() != nil: // it is a run that did not end
				case err != nil:
					failed = cmp.Or(failed, err)
				default:
					rows[j.i].add(j.seed, &s, &o)
					n++
					if done != nil {
						done(n)
					}
				}
				mu.Unlock()
			}
		})
	}
	for k := range runs {
		if ctx.Err() != nil {
			break
		}
		jobs <- job{k % len(fs), seed + uint64(k)}
	}
	close(jobs)
	wg.Wait()
	for i := range rows {
		slices.Sort(rows[i].ToUndo)
		slices.Sort(rows[i].Broken)
		slices.Sort(rows[i].Escaped)
	}
	return rows, cmp.Or(failed, ctx.Err())
}

func (r *Row) add(seed uint64, s *Scenario, o *Outcome) {
	r.Runs++
	r.Deaths += o.Deaths
	switch o.Change.State {
	case optimize.Done:
		r.Promoted++
		if r.Truth == Harmful {
			r.Escaped = append(r.Escaped, fmt.Sprintf("seed %d: %+v of %+v", seed, s.Effect, s.Fleet))
		}
	case optimize.Failed:
		r.Failed++
	case optimize.Undone:
		r.Undone++
	default:
		r.Other++
	}
	if o.Undone > 0 {
		r.ToUndo = append(r.ToUndo, o.Undone)
	}
	if o.Change.State != optimize.Done && o.Of > 0 {
		r.MostOn = max(r.MostOn, float64(o.MostOn)/float64(max(o.Of, o.MostOn)))
	}
	for _, b := range o.Broken {
		r.Broken = append(r.Broken, fmt.Sprintf("seed %d: %s", seed, b))
	}
}

// Markdown is the report as a table and what must not be in it.
func Markdown(rows []Row) string {
	var b strings.Builder
	b.WriteString("| story | truth | runs | promoted | failed | undone, nothing shown | other | to undo, p50 | p90 | optimizer died |\n| --- | --- | --: | --: | --: | --: | --: | --: | --: | --: |\n")
	part := func(n, of int) string { return fmt.Sprintf("%d (%.1f %%)", n, 100*float64(n)/float64(max(1, of))) }
	total := map[Truth][3]int{} // runs, promoted, failed
	for i := range rows {
		r := &rows[i]
		fmt.Fprintf(&b, "| %s | %s | %d | %s | %s | %s | %d | %s | %s | %d |\n", r.Name, r.Truth, r.Runs, part(r.Promoted, r.Runs), part(r.Failed, r.Runs),
			part(r.Undone, r.Runs), r.Other, quantile(r.ToUndo, 0.5), quantile(r.ToUndo, 0.9), r.Deaths)
		t := total[r.Truth]
		total[r.Truth] = [3]int{t[0] + r.Runs, t[1] + r.Promoted, t[2] + r.Failed}
	}
	h, g, n := total[Harmful], total[Good], total[Neutral]
	// The upper bound of a count of a binomial: Clopper and Pearson at 95 % in analyze.Share.
	fmt.Fprintf(&b, "\nHarmful changes promoted: %d of %d (below %.2f %% by 95 %%). Good ones promoted: %s. Good or neutral ones called harmful: %s.\n",
		h[1], h[0], 100*analyze.Share(float64(h[1]), float64(h[0])).High, part(g[1], g[0]), part(g[2]+n[2], g[0]+n[0]))
	for i := range rows {
		for _, e := range rows[i].Escaped {
			fmt.Fprintf(&b, "- promoted and harmful, %q, %s\n", rows[i].Name, e)
		}
		for _, e := range rows[i].Broken {
			fmt.Fprintf(&b, "- a promise broken, %q, %s\n", rows[i].Name, e)
		}
	}
	return b.String()
}

func quantile(sorted []time.Duration, q float64) string {
	if len(sorted) == 0 {
		return "-"
	}
	i := int(math.Ceil(q*float64(len(sorted)))) - 1
	return sorted[max(0, i)].Round(time.Second).String()
}
