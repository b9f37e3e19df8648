package analyze

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// edgeTest is one test of one step.
type edgeTest struct {
	edge      *transitionEdge
	k         int  // of edgeQuantiles
	faster    bool // it is tested for that, not for being slow
	threshold time.Duration
	p, q      float64
	after     Estimate
	before    Estimate // of the past, zero if there is too little
	change    Estimate
}

// judge tests every step and tells those that are slow, then those that became faster.
func (r *transitionRun) judge() (out []Finding) {
	for _, faster := range []bool{false, true} {
		var tests []*edgeTest
		for _, e := range r.edges {
			if e.now.n < r.opt.MinCount {
				continue
			}
			for k := range edgeQuantiles {
				if t := r.test(e, k, faster); t != nil {
					tests = append(tests, t)
				}
			}
		}
		transitionBH(tests)
		told := map[*transitionEdge]*edgeTest{}
		for _, t := range tests {
			if t.q > r.opt.FDR || !r.holds(t) {
				continue
			}
			// Of both quantiles the rarer one says more; it is there only where enough are.
			told[t.edge] = t
		}
		var most []*edgeTest
		for _, e := range r.edges {
			if t := told[e]; t != nil {
				most = append(most, t)
			}
		}
		slices.SortStableFunc(most, func(a, b *edgeTest) int { return cmp.Compare(b.size(), a.size()) })
		for _, t := range most {
			out = append(out, r.finding(t))
		}
	}
	return out
}

// size is how many times as long it takes as it may, or did, or how many times as long it did as it takes.
func (t *edgeTest) size() float64 {
	switch {
	case t.threshold > 0:
		return t.after.Value / t.threshold.Seconds()
	case t.faster:
		return t.before.Value / t.after.Value
	}
	return t.after.Value / t.before.Value
}

// shift is what the test is of.
func (t *edgeTest) shift() *edgeShift {
	if t.faster {
		return &t.edge.faster[t.k]
	}
	return &t.edge.shift[t.k]
}

// test is the test of a step's quantile, nil if it has none.
func (r *transitionRun) test(e *transitionEdge, k int, faster bool) *edgeTest {
	after, ok := e.now.quantile(edgeQuantiles[k])
	if !ok {
		return nil
	}
	t := &edgeTest{edge: e, k: k, faster: faster, after: after}
	s := t.shift()
	t.before, t.p = s.before, s.p
	if s.df > 0 {
		half := studentQuantile(s.df) * s.se
		t.change = Estimate{
			Value: after.Value - s.before.Value,
			Low:   s.before.Value * math.Expm1(s.ratio-half), High: s.before.Value * math.Expm1(s.ratio+half),
		}
	}
	if d := e.declared; d != nil && (d.Slow > 0 || d.P99 > 0) {
		if faster {
			return nil
		}
		if t.threshold = [2]time.Duration{d.Slow, d.P99}[k]; t.threshold == 0 {
			return nil
		}
		t.p = binomialAtLeast(e.now.n, e.now.above(int64(t.threshold)), 1-edgeQuantiles[k])
		return t
	}
	if !s.off {
		t.p = 1 // it counts among all that was looked at
	}
	return t
}

// transitionBH gives each test its p-value after Benjamini and Hochberg, Journal of the Royal Statistical Society B 57 (1995).
func transitionBH(tests []*edgeTest) {
	sorted := slices.Clone(tests)
	slices.SortStableFunc(sorted, func(a, b *edgeTest) int { return cmp.Compare(a.p, b.p) })
	least := 1.0
	for i := len(sorted) - 1; i >= 0; i-- {
		least = min(least, sorted[i].p*float64(len(sorted))/float64(i+1))
		sorted[i].q = least
	}
}

// holds says that a test which is significant is worth telling: by how much, and to the end.
func (r *transitionRun) holds(t *edgeTest) bool {
	if t.threshold > 0 {
		return t.after.Low >= t.threshold.Seconds() && r.since(t) >= 0
	}
	least, s := math.Log1p(r.opt.MinEffect), t.shift()
	ratio, mean, change := s.ratio, s.mean, t.change.Value
	if t.faster {
		ratio, mean, change = -ratio, -mean, -change
	}
	return ratio >= least && mean >= least && change >= r.opt.MinChange.Seconds() && r.since(t) >= 0
}

// bound is what a slow window is above, and one that is faster below: the threshold, or half-way between before and after, in logarithms.
func (t *edgeTest) bound() float64 {
	if t.threshold > 0 {
		return t.threshold.Seconds()
	}
	return math.Sqrt(t.before.Value * t.after.Value)
}

func (p edgePoint) of(k int) Estimate {
	if k == 0 {
		return p.p50
	}
	return p.p99
}

// since is the first of the windows that are slow, or faster, to the end, passing over those that say nothing; -1 where the last one that says something is not.
// Where no judged window by itself has enough to say, it is the first of them.
func (r *transitionRun) since(t *edgeTest) int {
	first, said := -1, false
	for i := len(r.in.Windows) - 1; i >= 0; i-- {
		v := t.edge.points[i].of(t.k).Value
		switch {
		case v == 0:
			if i == len(r.in.Windows)-r.in.Now && !said {
				return i
			}
			continue
		case (v <= t.bound()) != t.faster:
			return first
		}
		first, said = i, true
	}
	return first
}

func (r *transitionRun) finding(t *edgeTest) Finding {
	e := t.edge
	begin := len(r.in.Windows) - r.in.Now
	from, to := r.in.Windows[begin].From, r.in.Windows[len(r.in.Windows)-1].To
	f := Finding{
		Kind: Transition, Service: r.in.Service, Subject: e.Name, Type: spansType, Metric: "value", Unit: "seconds",
		Before: t.before, After: t.after, Change: t.change, From: r.in.Windows[0].From, To: to,
		Samples: float64(e.N), P: t.p, Q: t.q,
		Head: &Selection{Type: r.opt.Meanwhile, From: from, To: to, Labels: maps.Clone(r.in.Labels), Samples: map[string]string{"operation": e.Operation}},
	}
	for _, w := range r.in.Windows[begin:] {
		f.Instances = max(f.Instances, w.Instances)
	}
	since := r.since(t)
	f.Since = r.in.Windows[since].From
	if since == 0 {
		f.Since = time.Time{} // ever, as far as can be seen
	}
	if t.before != (Estimate{}) {
		f.Base = &Selection{Type: r.opt.Meanwhile, From: r.in.Windows[0].From, To: from, Labels: maps.Clone(r.in.Labels), Samples: map[string]string{"operation": e.Operation}}
	}
	if t.faster {
		f.Kind = Improvement
	}
	f.Test = "quantile shift against the past, Student's t"
	if t.threshold > 0 {
		f.Test = "binomial, of those above the threshold"
	}
	f.Sentence = r.sentence(t, f)
	if !t.faster {
		f.Next = fmt.Sprintf("Look at the flame graph of what ran in `%s` meanwhile. Where it shows little, the time is spent waiting: look at locks, blocking calls and whom it asks.", e.Operation)
	}
	f.Warnings = r.edgeWarnings(t, f)
	f.Chart = r.chart(t)
	return f
}

// sentence is what a person would write.
func (r *transitionRun) sentence(t *edgeTest, f Finding) string {
	var b strings.Builder
	which := [2]string{"the median", "p99"}[t.k]
	about := fmt.Sprintf("%d of them", t.edge.N)
	if f.Instances > 1 {
		about += fmt.Sprintf(" on %d instances", f.Instances)
	}
	if t.threshold > 0 {
		fmt.Fprintf(&b, "In %s, `%s` takes %s at %s (95 %% interval %s..%s, %s), more than the %s that it may",
			r.in.Service, t.edge.Name, secondsOf(t.after.Value), which, secondsOf(t.after.Low), secondsOf(t.after.High), about, secondsOf(t.threshold.Seconds()))
		if t.k == 0 {
			fmt.Fprintf(&b, "; %.3g %% take longer than that", 100*t.edge.Slow.Value)
		}
	} else {
		way, sign, low, high := "up", "+", t.change.Low, t.change.High
		if t.faster {
			way, sign, low, high = "down", "-", -t.change.High, -t.change.Low
		}
		unit := unitOf(high)
		fmt.Fprintf(&b, "In %s, `%s` takes %s at %s, %s from %s (95 %% interval %s%s..%s%s %s, %s)", r.in.Service, t.edge.Name,
			secondsOf(t.after.Value), which, way, secondsOf(t.before.Value), sign, threeDigits(low/unit.of), sign, threeDigits(high/unit.of), unit.name, about)
		if past, now := (&edgeTest{edge: t.edge, faster: t.faster}).shift().before, t.edge.P50; t.k == 1 && past.Value > 0 && now.Value > 0 {
			fmt.Fprintf(&b, ", the median %s, from %s,", secondsOf(now.Value), secondsOf(past.Value))
		}
	}
	if !f.Since.IsZero() {
		fmt.Fprintf(&b, " since %s", f.Since.UTC().Format("15:04"))
	}
	return b.String() + "."
}

type secondsUnit struct {
	name string
	of   float64
}

// unitOf is the unit that so many seconds are told in.
func unitOf(s float64) secondsUnit {
	for _, u := range []secondsUnit{{"s", 1}, {"ms", 1e-3}, {"µs", 1e-6}} {
		if s >= 0.9995*u.of {
			return u
		}
	}
	return secondsUnit{"ns", 1e-9}
}

// secondsOf is a duration to three digits.
func secondsOf(s float64) string {
	u := unitOf(s)
	return threeDigits(s/u.of) + " " + u.name
}

func threeDigits(v float64) string {
	if v >= 999.5 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}

func (r *transitionRun) edgeWarnings(t *edgeTest, f Finding) (out []string) {
	e := t.edge
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if e.now.loose > e.N/100 {
		say("%d of %d had no room in a histogram and are not in the quantiles.", e.now.loose, e.N)
	}
	if f.Instances == 1 {
		say("All of it is from one instance.")
	}
	if t.threshold == 0 && e.Past.Times < 10 {
		say("The past is %d times as long as what is judged: how it usually goes up and down is little known.", e.Past.Times)
	}
	if float64(e.now.n)*(1-edgeQuantiles[t.k]) < 30 {
		say("Only %.0f of %d were longer than p99.", math.Round(float64(e.now.n)*0.01), e.now.n)
	}
	if e.Past.Rate > 0 && (e.Rate > 2*e.Past.Rate || e.Rate < e.Past.Rate/2) {
		say("There are %.3g a second where there were %.3g: it may be the load, or another rate of sampling.", e.Rate, e.Past.Rate)
	}
	if past := shareOf(e.past.errors, e.Past.N); e.Past.N > 0 && e.Errors.Low > past.High {
		say("%.2g %% failed where %.2g %% did: failing may be what takes longer, or what longer leads to.", 100*e.Errors.Value, 100*past.Value)
	}
	empty := 0
	for _, w := range r.in.Windows[len(r.in.Windows)-r.in.Now:] {
		if w.Profile == nil {
			empty++
		}
	}
	if empty > 0 {
		say("%d of the %d windows that are judged have no spans.", empty, r.in.Now)
	}
	return out
}

func (r *transitionRun) chart(t *edgeTest) (out []ChartPoint) {
	for i := max(0, len(r.in.Windows)-maxEdgeChart); i < len(r.in.Windows); i++ {
		if p := t.edge.points[i].of(t.k); p != (Estimate{}) {
			out = append(out, ChartPoint{Time: r.in.Windows[i].From, Value: p.Value, Low: p.Low, High: p.High})
		}
	}
	return out
}
