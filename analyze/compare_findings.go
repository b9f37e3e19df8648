package analyze

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/profile"
)

// ComparisonContext is what a comparison does not know of itself, and a finding tells.
type ComparisonContext struct {
	Type     profile.Type
	From, To time.Time // what was looked at, of both sides
	Since    time.Time // when the head began; zero is unknown
	// Label is what tells the sides apart, as "service_version", and Base and Head are its values. "" is nothing.
	Label, Base, Head string
	// Cores is what the whole service would keep busy if all of it were as the head is; 0 is what the head's replicates do
	// ([Side].Cores), <0 is not known. Bytes is the same of its live memory, 0 is not known.
	Cores, Bytes float64
	// Limit is how many findings there are at most, the largest. 0 is 20, <0 is all.
	Limit int
}

// Findings is the causes as findings: regressions and improvements of service, without their price.
func (c *Comparison) Findings(service string, ctx ComparisonContext) []Finding {
	limit := ctx.Limit
	if limit == 0 {
		limit = 20
	}
	var out []Finding
	for i := range c.Changes {
		ch := &c.Changes[i]
		if ch.Verdict != Grew && ch.Verdict != Fell || idles[ch.Function] {
			continue
		}
		if limit > 0 && len(out) == limit {
			break
		}
		out = append(out, c.finding(service, ch, &ctx))
	}
	return out
}

// idles are the outermost functions of what Go's scheduler does between goroutines: looking for work, going to sleep, waking up. That is the
// more the less there is to do, and no code's cost.
var idles = map[string]bool{"runtime.mcall": true, "runtime.mstart": true, "runtime.mstart0": true, "runtime.mstart1": true, "runtime.sysmon": true, "runtime.goexit0": true,
	"runtime.park_m": true, "runtime.schedule": true, "runtime.findRunnable": true, "runtime.morestack": true, "runtime.systemstack": true}

func (c *Comparison) finding(service string, ch *Compared, ctx *ComparisonContext) Finding {
	d := ch.Judged()
	f := Finding{
		Kind: Regression, Service: service, Function: ch.Function, Type: ctx.Type.String(), Metric: ch.Metric,
		Unit: "share", Before: d.Before, After: d.After, Change: d.Change,
		Since: ctx.Since, From: ctx.From, To: ctx.To,
		Samples: math.Round(d.After.Value * c.Head.Samples), Instances: c.Base.Replicates + c.Head.Replicates,
		Test: c.Test, P: d.P, Q: d.Q, Warnings: slices.Clone(c.Warnings),
		Sentence: c.sentence(service, "instances", ch, ctx),
		Also:     c.Moved(ch.Function),
	}
	if ch.Verdict == Fell {
		f.Kind = Improvement
	}
	if ctx.Label != "" {
		// The sides differ by the label and by nothing else that is known, so all of the change is there.
		f.Cause = &Cause{Label: ctx.Label, Value: ctx.Head, Share: 1}
		f.Base = &Selection{Type: f.Type, From: ctx.From, To: ctx.To, Labels: map[string]string{ctx.Label: ctx.Base}}
		f.Head = &Selection{Type: f.Type, From: ctx.From, To: ctx.To, Labels: map[string]string{ctx.Label: ctx.Head}}
	}
	if f.Kind == Regression {
		f.Next = fmt.Sprintf("Compare what `%s` does in %s with what it did in %s; the flame graph of the difference shows the way there.",
			ch.Function, cmp.Or(ctx.Head, c.Head.Name, "the head"), cmp.Or(ctx.Base, c.Base.Name, "the base"))
	}
	f.Saving, f.SavingUnit = c.saving(d, ctx)
	return f
}

// saving is what more (or less) is spent because of a difference, as a figure above 0.
func (c *Comparison) saving(d *Difference, ctx *ComparisonContext) (float64, string) {
	cores := ctx.Cores
	if cores == 0 {
		cores = c.Head.Cores
	}
	switch _, inTime := inSeconds(c.Sample.Unit); {
	case c.Sample.Type == "cpu" && inTime && cores > 0:
		return math.Abs(d.Real.Value) * cores, "cores"
	case c.Sample.Type == "inuse_space" && ctx.Bytes > 0:
		return math.Abs(d.Real.Value) * ctx.Bytes, "bytes"
	}
	return 0, ""
}

// Moved is what moved with a cause, the largest first, at most 10.
func (c *Comparison) Moved(cause string) []Moved {
	out := slices.Clone(c.moved[cause])
	for _, ch := range c.Changes {
		if ch.Verdict == Shifted && ch.By == cause {
			out = append(out, Moved{ch.Function, ch.Own.Before.Value, ch.Own.After.Value, "moved"})
		}
	}
	slices.SortFunc(out, func(a, b Moved) int {
		return cmp.Or(cmp.Compare(math.Abs(b.After-b.Before), math.Abs(a.After-a.Before)), cmp.Compare(a.Function, b.Function))
	})
	return out[:min(len(out), 10)]
}

// Sentence says one change of the comparison as a person would, with its interval and without a price. Replicates is what to
// call them: "instances", "runs".
func (c *Comparison) Sentence(service, replicates string, ch *Compared) string {
	return c.sentence(service, replicates, ch, &ComparisonContext{})
}

// sentence says one change as a person would.
func (c *Comparison) sentence(service, replicates string, ch *Compared, ctx *ComparisonContext) string {
	d := ch.Judged()
	verb := "rose"
	if d.Change.Value < 0 {
		verb = "fell"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s from %s to %s of %s's %s (95 %% interval %s, %s)", quote(ch.Function), verb,
		Percent(d.Before.Value), Percent(d.After.Value), service, measureName(c.Sample), Points(d.Change), c.counted(replicates))
	if ch.Was != "" {
		fmt.Fprintf(&b, ", renamed from %s", quote(ch.Was))
	}
	if ctx.Label == profile.LabelVersion {
		fmt.Fprintf(&b, " from version %s to %s", ctx.Base, ctx.Head)
	} else if ctx.Label != "" {
		fmt.Fprintf(&b, " from %s %s to %s", ctx.Label, ctx.Base, ctx.Head)
	}
	return b.String() + "."
}

// counted says what both sides rest on.
func (c *Comparison) counted(replicates string) string {
	if c.Base.Replicates == 1 && c.Head.Replicates == 1 {
		return fmt.Sprintf("%.0f and %.0f samples", c.Base.Samples, c.Head.Samples)
	}
	return fmt.Sprintf("%d and %d %s", c.Base.Replicates, c.Head.Replicates, replicates)
}

// Percent is a share for a person: 0.0312 is "3.1 %".
func Percent(share float64) string { return hundredths(share, "%.*f") + " %" }

// Points is the interval of a change of share for a person: "+2.0..+2.6 points".
func Points(change Estimate) string {
	return hundredths(change.Low, "%+.*f") + ".." + hundredths(change.High, "%+.*f") + " points"
}

func hundredths(v float64, format string) string {
	v *= 100
	digits := 1
	switch a := math.Abs(v); {
	case a == 0 || a >= 0.95:
	case a >= 0.095:
		digits = 2
	default:
		digits = 3
	}
	return fmt.Sprintf(format, digits, v)
}

// measureName is what a sample type measures, for a sentence: "checkout's CPU".
func measureName(t profile.ValueType) string {
	names := map[string]string{
		"cpu": "CPU", "samples": "CPU", "alloc_space": "allocated bytes", "alloc_objects": "allocations", "inuse_space": "live heap", "inuse_objects": "live objects",
		"delay": "waiting", "contentions": "contention", "goroutine": "goroutines", "goroutines": "goroutines",
	}
	return cmp.Or(names[t.Type], t.Type)
}

// test names what was done.
func (c *comparer) test() string {
	how := "Welch's t of shares, variance moderated over functions"
	if c.assume {
		how = "z of shares, with assumed overdispersion and spread"
	}
	return how + ", as they are and for the same work"
}

// fewSamples is what a side should have, so that the share of a usual function is known to a point or so.
const fewSamples = 1000

// warnings says what may mislead.
func (c *comparer) warnings(out *Comparison, base, head Cohort) []string {
	var w []string
	add := func(format string, args ...any) { w = append(w, fmt.Sprintf(format, args...)) }
	for i, s := range []Side{out.Base, out.Head} {
		name := sideName(i, s.Name)
		if s.Samples < fewSamples {
			add("%s has only %.0f samples: what changed by less than a few points cannot be seen", name, s.Samples)
		}
		if n := len([]Cohort{base, head}[i].Replicates) - s.Replicates; n > 0 {
			add("%d of %s's replicates have no sample and are left out", n, name)
		}
	}
	switch {
	case c.assume:
		add("one replicate a side: how much instances differ cannot be measured and is assumed (a spread of %.0f %%, counts that vary %.1f times as Poisson's do); "+
			"give several for an interval that is measured", 100*math.Sqrt(c.tau2), c.phi0)
	case out.Base.Replicates == 1 || out.Head.Replicates == 1:
		i := 0
		if out.Head.Replicates == 1 {
			i = 1
		}
		add("%s is one replicate: it is taken to differ as much as those of the other side do", sideName(i, []Side{out.Base, out.Head}[i].Name))
	}
	if c.fewToFit {
		add("few functions have the samples to say how much replicates differ: that is assumed in part (a spread of %.0f %%, counts that vary %.1f times as Poisson's do)",
			100*math.Sqrt(c.tau2), c.phi0)
	}
	if !c.equal {
		add("values are no samples of equal weight: their spread is taken from the values themselves")
	}
	if first, other := ratesDiffer(base, head); other != 0 {
		add("sampling rates differ: one sample each %d and each %d %s", first, other, base.Replicates[0].Profile.PeriodType.Unit)
	}
	if c.scaleBy() == "" {
		add("too few functions are in both sides to tell growth from dilution: shares are compared as they are")
	} else if k := c.scale.Value; k < 0.5 || k > 2 {
		add("so much changed that what did not has %.1f times the share it had: differences of single functions are uncertain", k)
	}
	return w
}

// ratesDiffer is two periods that differ, 0 and 0 if none do.
func ratesDiffer(base, head Cohort) (first, other int64) {
	for _, co := range []Cohort{base, head} {
		for _, r := range co.Replicates {
			p := r.Profile.Period
			if p == 0 {
				continue
			}
			if first == 0 {
				first = p
			}
			if p != first {
				return first, p
			}
		}
	}
	return 0, 0
}
