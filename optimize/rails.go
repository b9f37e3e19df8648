package optimize

import (
	"fmt"
	"time"
)

// month is the key of Rails.Spent.
func month(t time.Time) string { return t.UTC().Format("2006-01") }

// blocked says in a sentence which rail keeps c from starting now; "" is none. Where it is c's turn to be a breaker's trial it becomes
// that, in r.rails.
func (r *round) blocked(c *Change, kp *KindPolicy) string {
	if r.frozen != "" {
		return r.frozen
	}
	if c.Paused {
		return fmt.Sprintf("It is paused by %s.", c.PausedBy)
	}
	if kp.Mode == Off {
		return fmt.Sprintf("The policy has changes of the kind %s of %s off.", c.Kind, c.Service)
	}
	if !r.open(r.now) {
		return "No change window is open now."
	}
	if other := r.busy[c.Service]; other != "" && other != c.ID {
		return fmt.Sprintf("Change %s of %s is under way: there is one at a time.", other, c.Service)
	}
	if why := r.policy.unapproved(c, kp); why != "" {
		return why
	}
	if spent := r.rails.Spent[month(r.now)]; c.Cost > 0 && spent+c.Cost > r.policy.Budget {
		return fmt.Sprintf("It adds %.0f a month; with the %.0f that changes of this month have added it is above the budget of %.0f.", c.Cost, spent, r.policy.Budget)
	}
	return r.broken(c)
}

// unapproved says in a sentence why c needs a person's approval that it has not; "" is that it needs none, or has one.
func (p *Policy) unapproved(c *Change, kp *KindPolicy) string {
	switch {
	case c.ApprovedBy != "":
	case kp.Approve:
		return fmt.Sprintf("A change of the kind %s needs an approval.", c.Kind)
	case c.Cost > p.ApproveAbove:
		return fmt.Sprintf("It adds %.0f a month, above %.0f: it needs an approval.", c.Cost, p.ApproveAbove)
	}
	return ""
}

// mark sets c.NeedsApproval by the policy, for an answer.
func (p *Policy) mark(c *Change) {
	kp := p.For(c.Kind, c.Service)
	c.NeedsApproval = (c.State == Proposed || c.State == Waiting) && p.unapproved(c, &kp) != ""
}

// open says that changes may start and be promoted at t.
func (r *round) open(t time.Time) bool {
	for i := range r.policy.Windows {
		if r.policy.Windows[i].holds(t) {
			return true
		}
	}
	return len(r.policy.Windows) == 0
}

// breakersOf are a change's: that of its kind, and that of all.
func breakersOf(k Kind) [2]Kind { return [2]Kind{k, ""} }

// broken says which breaker is open for c.
func (r *round) broken(c *Change) string {
	for _, k := range breakersOf(c.Kind) {
		b := r.rails.Breakers[k]
		if b.OpenUntil.IsZero() || b.Trial == c.ID {
			continue
		}
		what := "changes"
		if k != "" {
			what = "changes of the kind " + string(k)
		}
		if r.now.Before(b.OpenUntil) {
			return fmt.Sprintf("The circuit breaker is open until %s: %d %s in a row have failed.", b.OpenUntil.Format("15:04 MST"), b.Failures, what)
		}
		if b.Trial != "" {
			return fmt.Sprintf("The circuit breaker lets one change through after %d %s in a row have failed, and change %s is that.", b.Failures, what, b.Trial)
		}
	}
	for _, k := range breakersOf(c.Kind) {
		if b := r.rails.Breakers[k]; !b.OpenUntil.IsZero() && b.Trial == "" {
			b.Trial = c.ID
			r.setBreaker(k, b)
		}
	}
	return ""
}

func (r *round) setBreaker(k Kind, b Breaker) {
	if r.rails.Breakers == nil {
		r.rails.Breakers = map[Kind]Breaker{}
	}
	if b == (Breaker{}) {
		delete(r.rails.Breakers, k)
		return
	}
	r.rails.Breakers[k] = b
}

// settle tells the breakers and the budget how a change ended; was is whether it had been done before.
func (r *round) settle(c *Change, to State, was bool) {
	for _, k := range breakersOf(c.Kind) {
		b := r.rails.Breakers[k]
		switch to {
		case Done:
			b = Breaker{}
		case Failed:
			b.Failures++
			if b.Trial == c.ID || b.Failures >= r.policy.BreakerFailures {
				b.OpenUntil, b.Trial = r.now.Add(r.policy.BreakerOpen), ""
			}
		default:
			if b.Trial == c.ID {
				b.Trial = "" // it has shown nothing: the next one may try
			}
		}
		r.setBreaker(k, b)
	}
	switch {
	case to != Done && c.Cost > 0:
		r.bill(month(c.StartedAt), -c.Cost)
	case to == Done && c.Cost < 0:
		r.bill(month(r.now), c.Cost)
	case to != Done && c.Cost < 0 && was:
		r.bill(month(r.now), -c.Cost) // what it had taken off is there again
	}
}

// bill changes what a month's changes have added to the bill. Below 0 it does not go: what was saved before is no credit.
func (r *round) bill(month string, by float64) {
	left := r.rails.Spent[month] + by
	if left <= 0 {
		delete(r.rails.Spent, month)
		return
	}
	if r.rails.Spent == nil {
		r.rails.Spent = map[string]float64{}
	}
	r.rails.Spent[month] = left
}

// spend puts a change that starts into the budget, and forgets what no bound asks for any more.
func (r *round) spend(c *Change) {
	if c.Cost > 0 {
		r.bill(month(c.StartedAt), c.Cost)
	}
	for m := range r.rails.Spent {
		if m < month(r.now.AddDate(-1, 0, 0)) {
			delete(r.rails.Spent, m)
		}
	}
	for id, at := range r.rails.Touched {
		if r.now.Sub(at) >= r.policy.NodeEvery {
			delete(r.rails.Touched, id)
		}
	}
}

// touch notes that a node is being changed.
func (r *round) touch(id string) {
	if r.rails.Touched == nil {
		r.rails.Touched = map[string]time.Time{}
	}
	r.rails.Touched[id] = r.now
}
