package optimize

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/optimize/judge"
)

// Kind is a kind of change. Each has its [Actuator].
type Kind string

// The kinds.
const (
	Runtime   Kind = "runtime"   // settings of the Go runtime, leased to agents
	PGO       Kind = "pgo"       // a profile for the compiler, as a file or a pull request
	Scale     Kind = "scale"     // how many replicas there are
	Machine   Kind = "machine"   // which machine type they run on
	Rebalance Kind = "rebalance" // who of them bears the load
	Patch     Kind = "patch"     // source code, as a pull request
)

// Kinds is all of them.
var Kinds = []Kind{Runtime, PGO, Scale, Machine, Rebalance, Patch}

// ByPerson says that only a person starts changes of the kind, whatever a policy says: they change what people have written.
func (k Kind) ByPerson() bool { return k == Patch }

// Proposal is a change that could be made, as a pure function of what was measured makes it.
type Proposal struct {
	Kind    Kind   `json:"kind"`
	Service string `json:"service"`
	// Subject is what of the service it is about, where there can be more than one change of a kind: "gc", "procs", a deployment.
	Subject string `json:"subject,omitempty"`
	// Spec is what is to be done, in the form of its Actuator.
	Spec json.RawMessage `json:"spec"`
	// Basis is what the proposal rests on besides its figures, as the version of the service. A change that failed is not proposed
	// again on the same basis.
	Basis string `json:"basis,omitempty"`

	// Sentence says it as a person would, without the price: what is wasted, what is set, what is expected.
	Sentence string `json:"sentence"`
	// Evidence is what it rests on: pages that show it.
	Evidence []Evidence `json:"evidence,omitempty"`
	Warnings []string   `json:"warnings,omitempty"`
	// Expected is the relative change that is expected of a metric of the judge's, as cpu_per_request -0.11.
	Expected map[string]analyze.Estimate `json:"expected,omitempty"`
	// Saving is in cores, by the whole service; below 0 it costs. Price is what that is a month, Cost what the change adds to the bill.
	Saving float64        `json:"saving"`
	Price  *analyze.Money `json:"price,omitempty"`
	// Cost is what the change adds to the bill, by month, in the currency of the policy: more replicas, a larger machine. 0 is nothing;
	// below 0 it takes that off, which a change that is done gives back to the budget.
	Cost float64 `json:"cost,omitempty"`
	// Stands is how long the proposal is worth something once it is not made any more, be it decided or not: load is another in
	// minutes. 0 is the policy's, of those that nobody has decided.
	Stands time.Duration `json:"stands,omitempty"`
	// Again is after how long a change that is done may be proposed again on the same basis; 0 is a day.
	Again time.Duration `json:"again,omitempty"`
	// Metrics are the judge's for this change, in place of the policy's; nil is those.
	Metrics []judge.Metric `json:"metrics,omitempty"`
}

// saving is Saving with the interval that the expected change of the CPU for the same work gives it.
func (p *Proposal) saving() analyze.Estimate {
	e, ok := p.Expected["cpu_per_request"]
	if !ok || e.Value == 0 {
		return analyze.Estimate{Value: p.Saving, Low: p.Saving, High: p.Saving}
	}
	a, b := p.Saving*e.Low/e.Value, p.Saving*e.High/e.Value
	return analyze.Estimate{Value: p.Saving, Low: min(a, b), High: max(a, b)}
}

// Evidence is a link with what it shows. Links name times, so that what they show never changes.
type Evidence struct {
	What string `json:"what"`
	Link string `json:"link"`
}

// ID is the same for the same change of the same service on the same basis, however its figures moved.
func (p Proposal) ID() string {
	h := sha256.New()
	for _, s := range []string{string(p.Kind), p.Service, p.Subject, p.Basis, string(p.Spec)} {
		h.Write([]byte(s))
		h.Write([]byte{0})
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// Target is one thing that a change is applied to: a process, or a deployment as a whole.
type Target struct {
	ID      string    `json:"id"` // the instance, as in its profiles
	Zone    string    `json:"zone,omitempty"`
	Version string    `json:"version,omitempty"`
	Started time.Time `json:"started,omitzero"`
}

// Standing is how a change stands at a target.
type Standing string

// The standings.
const (
	InForce Standing = "in_force"
	Absent  Standing = "absent"  // what was there before is there
	Pending Standing = "pending" // it was asked for and is neither yet
	Refused Standing = "refused" // the target does not want it, and never will
	Gone    Standing = "gone"    // there is no such target any more
)
