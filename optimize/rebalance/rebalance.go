// Package rebalance moves peers from hot nodes to cold ones, by requests in flight and latency.
//
// Which node is hot is told by requests in flight, and where its peers go by latency, as Prequal does for single requests (Wydrowski et al.,
// "Load is not what you should balance", NSDI 2024): the use of a processor says little of a node whose neighbours take from it, and says
// nothing once it is full. A request goes once; a peer stays, so moving one has a price here that must be paid back, and what was moved
// settles before it is moved again.
//
// [Propose] is a pure function. [Actuator] makes its moves through a [Mover], which whoever holds the peers implements. docs/rebalance.md has
// the rules, and how they do against balancing by processor use.
package rebalance

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/judge"
)

// Node is one that bears load, with what was measured of it over the last minute or so.
type Node struct {
	ID      string
	Zone    string
	Peers   int     // that are connected
	RIF     float64 // requests in flight, on average
	Latency float64 // seconds: the median of requests
	// Since is when it came, or when peers were last moved to or from it; zero is long ago.
	Since time.Time
	// Fixed says that nothing may be moved to it or from it: it is being drained, or changed.
	Fixed bool
}

// Input is what was measured of the nodes of a service.
type Input struct {
	Service  string
	Version  string
	Now      time.Time
	Nodes    []Node
	Evidence []optimize.Evidence
}

// Options are the rules. Zero fields are the defaults beside them.
type Options struct {
	// Quantile of the nodes' requests in flight above which one is hot; 0 is 2^-0.25, about 0.84, as Prequal has it.
	Quantile float64
	// Gap is by how much a hot node's latency must exceed the receiver's, relative; 0 is 0.25. Less is scatter.
	Gap float64
	// Gain is the least share of what both have in flight that a move must save; 0 is 0.10. Less is scatter, too.
	Gain float64
	// Damp is the share of what would make both equal that is moved at once; 0 is 0.5.
	Damp float64
	// Most is the share of a node's peers that is moved at once; 0 is 0.20. MostMoves is how many pairs of nodes; 0 is a quarter of the nodes.
	Most      float64
	MostMoves int
	// MoveCost is what moving one peer costs, in seconds that requests wait; 0 is 0.5. Payback is within what time less waiting must have
	// made up for it; 0 is 2 minutes.
	MoveCost float64
	Payback  time.Duration
	// Settle is how long a node is left alone after peers were moved; 0 is 2 minutes.
	Settle time.Duration
}

// Check says what is wrong with the options; nil is nothing.
func (o Options) Check() error {
	_, err := o.withDefaults()
	return err
}

func (o Options) withDefaults() (Options, error) {
	o.Quantile, o.Gap, o.Damp, o.Most = cmp.Or(o.Quantile, math.Exp2(-0.25)), cmp.Or(o.Gap, 0.25), cmp.Or(o.Damp, 0.5), cmp.Or(o.Most, 0.20)
	o.Gain = cmp.Or(o.Gain, 0.10)
	o.MoveCost, o.Payback, o.Settle = cmp.Or(o.MoveCost, 0.5), cmp.Or(o.Payback, 2*time.Minute), cmp.Or(o.Settle, 2*time.Minute)
	switch {
	case !(o.Quantile >= 0.5 && o.Quantile < 1) || !(o.Gap > 0 && o.Gap < 100) || !(o.Damp > 0 && o.Damp <= 1) || !(o.Most > 0 && o.Most <= 1):
		return o, fmt.Errorf("rebalance: quantile %v, gap %v, damp %v, most %v: the first is 0.5 to 1, the others above 0, the last two up to 1", o.Quantile, o.Gap, o.Damp, o.Most)
	case !(o.Gain > 0 && o.Gain < 1):
		return o, fmt.Errorf("rebalance: gain %v: it must be between 0 and 1", o.Gain)
	case !(o.MoveCost > 0 && o.MoveCost < 1e6) || o.Payback <= 0 || o.Settle <= 0 || o.MostMoves < 0:
		return o, fmt.Errorf("rebalance: move cost %v, payback %v, settle %v, most moves %d: the first three must be above 0, the last not below", o.MoveCost, o.Payback, o.Settle, o.MostMoves)
	}
	return o, nil
}

// Move is so many peers from a node to another.
type Move struct {
	From  string `json:"from"`
	To    string `json:"to"`
	Peers int    `json:"peers"`
}

// Spec is a change, as it is in [optimize.Proposal].Spec.
type Spec struct {
	Moves []Move `json:"moves"`
}

// Decision is what comes of the rules.
type Decision struct {
	Proposal *optimize.Proposal // nil where nothing is to be done
	Why      string
}

// stands is how long a proposal is worth something once it is not made any more. The optimizer notes every 5 minutes that it is made still.
const stands = 6 * time.Minute

// maxNodes bounds a plan.
const maxNodes = 100000

// Propose says what to move. Errors are of the options or the input alone.
func Propose(in Input, o Options) (Decision, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Decision{}, err
	}
	if in.Now.IsZero() || len(in.Nodes) > maxNodes {
		return Decision{}, fmt.Errorf("rebalance: the input must have the time, and at most %d nodes", maxNodes)
	}
	moves, saved, why := Plan(in.Nodes, in.Now, o)
	if len(moves) == 0 {
		return Decision{Why: why}, nil
	}
	doc, err := json.Marshal(Spec{moves})
	if err != nil {
		return Decision{}, errors.Join(errors.New("rebalance: spec"), err)
	}
	peers, total := 0, 0.0
	for _, m := range moves {
		peers += m.Peers
	}
	for _, n := range in.Nodes {
		total += max(0, n.RIF)
	}
	p := &optimize.Proposal{
		Kind: optimize.Rebalance, Service: in.Service, Spec: doc, Evidence: in.Evidence,
		// Load is another every few minutes: what failed once says nothing of the next hour.
		Basis:    in.Version + " " + in.Now.UTC().Format("2006-01-02T15"),
		Sentence: fmt.Sprintf("%s: %s, expected %.0f %% less waiting", in.Service, why, 100*saved/total),
		Expected: map[string]analyze.Estimate{
			// The model is of one queue; what really comes lies between nothing and twice that.
			"latency_p99": {Value: -saved / total, Low: max(-1, -2*saved/total), High: 0},
		},
		Metrics: []judge.Metric{
			{Name: "latency_p99", Critical: true, Tolerate: 0.10, PerRequest: true},
			{Name: "errors", Critical: true, Tolerate: 0.25, Floor: 0.002, PerRequest: true},
			{Name: "throughput", Better: judge.Higher, Tolerate: 0.10},
		},
		Warnings: []string{fmt.Sprintf("%d peers connect anew", peers)},
		Stands:   stands, Again: o.Settle,
	}
	return Decision{Proposal: p, Why: why}, nil
}

// Plan is the moves, how many requests in flight they save (which is request-seconds a second, by Little's law), and why in a sentence.
//
// Each node is taken for one queue that all its requests share: with n in flight and a latency w it does n/w a second, and could do (n+1)/w.
// A node of many processors could do more, so what a receiver can bear is rather too little than too much.
func Plan(nodes []Node, now time.Time, o Options) (moves []Move, saved float64, why string) {
	var live []queue
	var rifs []float64
	for i := range nodes {
		n := &nodes[i]
		if !(n.RIF >= 0) || math.IsInf(n.RIF, 1) || n.Peers < 0 || !(n.Latency >= 0) || math.IsInf(n.Latency, 1) || n.RIF > 0 && n.Latency == 0 {
			continue // not measured
		}
		rifs = append(rifs, n.RIF)
		if !n.Fixed && now.Sub(n.Since) >= o.Settle {
			live = append(live, queue{Node: n, rif: n.RIF, latency: n.Latency})
		}
	}
	if len(rifs) < 2 || 2*len(rifs) < len(nodes) {
		return nil, 0, fmt.Sprintf("%d of %d nodes were measured", len(rifs), len(nodes))
	}
	limit := quantile(rifs, o.Quantile)
	// The longest wait is helped first. Ties go by name, so that the same input has the same plan.
	slices.SortFunc(live, func(a, b queue) int { return cmp.Or(cmp.Compare(b.latency, a.latency), cmp.Compare(a.ID, b.ID)) })
	most := cmp.Or(o.MostMoves, max(1, len(rifs)/4))
	used := map[string]bool{}
	var says []string
	for i := range live {
		hot := &live[i]
		if len(moves) == most {
			break
		}
		if used[hot.ID] || hot.Peers == 0 || hot.rif <= limit || hot.rif <= 1 {
			continue
		}
		cold := coldest(live, used, hot, limit)
		if cold == nil || hot.latency < (1+o.Gap)*cold.latency {
			continue
		}
		n, gain := howMany(hot, cold, limit, o)
		if n == 0 {
			continue
		}
		used[hot.ID], used[cold.ID] = true, true
		moves = append(moves, Move{hot.ID, cold.ID, n})
		saved += gain
		if len(says) < 3 {
			says = append(says, fmt.Sprintf("%s has %.1f requests in flight at %s, %s %.1f at %s: %d of %d peers go there", hot.ID, hot.rif, ms(hot.latency), cold.ID, cold.rif, ms(cold.latency), n, hot.Peers))
		}
	}
	if len(moves) == 0 {
		return nil, 0, fmt.Sprintf("no move pays back: %d nodes, hot above %.1f requests in flight", len(rifs), limit)
	}
	why = strings.Join(says, "; ")
	if rest := len(moves) - len(says); rest > 0 {
		why += fmt.Sprintf("; and %d moves more", rest)
	}
	return moves, saved, why
}

// queue is a node that may be moved to or from.
type queue struct {
	*Node
	rif, latency float64
}

// done is what a queue does a second, could what it could.
func (q *queue) done() float64 {
	if q.rif == 0 {
		return 0
	}
	return q.rif / q.latency
}

func (q *queue) could() float64 { return (q.rif + 1) / q.latency }

// coldest is the receiver: of those that are not hot the one with the lowest latency.
func coldest(live []queue, used map[string]bool, hot *queue, limit float64) (c *queue) {
	for i := range live {
		q := &live[i]
		if q.ID == hot.ID || used[q.ID] || q.rif > limit || q.latency == 0 { // one that does nothing tells nothing of itself
			continue
		}
		if c == nil || q.latency < c.latency || q.latency == c.latency && q.rif < c.rif {
			c = q
		}
	}
	return c
}

// howMany peers go, and what that saves. One more would not pay back, make the receiver hot (the hotter of the two, or above the limit by
// more than scatter), or go past what is moved at once.
func howMany(hot, cold *queue, limit float64, o Options) (n int, gain float64) {
	each := hot.done() / float64(hot.Peers) // requests a second of one peer
	if each == 0 {
		return 0, 0
	}
	// Latencies are equal once half the difference in what is free has moved.
	free := func(q *queue) float64 { return q.could() - q.done() }
	even := (free(cold) - free(hot)) / 2
	for n = min(int(o.Damp*even/each), max(1, int(o.Most*float64(hot.Peers)))); n > 0; n-- {
		d := float64(n) * each
		after := free(cold) - d
		if after <= 0 {
			continue
		}
		rif, rest := (cold.done()+d)/after, (hot.done()-d)/(free(hot)+d)
		if rif > min(rest, (1+o.Gap)*limit) {
			continue
		}
		gain = hot.rif + cold.rif - rif - rest
		if gain > o.Gain*(hot.rif+cold.rif) && o.MoveCost*float64(n) <= gain*o.Payback.Seconds() {
			return n, gain
		}
	}
	return 0, 0
}

func ms(seconds float64) string { return fmt.Sprintf("%.1f ms", 1000*seconds) }

// quantile sorts x, of which there is one at least.
func quantile(x []float64, q float64) float64 {
	slices.Sort(x)
	at := q * float64(len(x)-1)
	i := min(int(at), len(x)-2)
	return x[i] + (at-float64(i))*(x[i+1]-x[i])
}
