package judge

import (
	"cmp"
	"errors"
	"fmt"
	"math"

	"github.com/quantra-l/quantra/analyze"
)

// mostFunctions is how many functions a verdict has.
const mostFunctions = 50

// functions is what profiles say.
type functions struct {
	differ   []analyze.Compared
	guilty   string // the function that grew most beyond what was so before, for certain
	grew     analyze.Estimate
	harm     bool // it is past what is tolerated
	compared bool
	warnings []string
}

// compareFunctions compares the treated's profiles with the control's, function by function. Where there are profiles of before, what the same instances
// differed by then is taken out: it is their hosts' or their load's. On one node without a control, before is all there is.
func compareFunctions(in *Input, o *Options) functions {
	f := functions{}
	control, treated := replicates("control", in.Control, false), replicates("treated", in.Treated, false)
	before := [2]analyze.Cohort{replicates("control before", in.Control, true), replicates("treated before", in.Treated, true)}
	if len(in.Control) == 0 {
		control, before = before[1], [2]analyze.Cohort{}
	}
	if c, t := len(control.Replicates), len(treated.Replicates); c == 0 || t == 0 {
		if c > 0 || t > 0 {
			f.warnings = append(f.warnings, fmt.Sprintf("functions are not compared: %d profiles of the treated, %d to compare them with", t, c))
		}
		return f
	}
	earlier := len(before[0].Replicates) > 0 && len(before[1].Replicates) > 0
	if earlier {
		// Requests of before are not known. What an unchanged function's share became must be told in the same way both times, or hosts that differ
		// do not cancel.
		for _, side := range [2]analyze.Cohort{control, treated} {
			for i := range side.Replicates {
				side.Replicates[i].Requests = 0
			}
		}
	}
	c, err := analyze.Compare(control, treated, analyze.CompareOptions{Q: o.Q})
	if err != nil {
		if !errors.Is(err, analyze.ErrNothingToCompare) {
			f.warnings = append(f.warnings, fmt.Sprintf("functions are not compared: %v", err))
		}
		return f
	}
	f.compared, f.warnings = true, c.Warnings
	then := map[string]*analyze.Compared{}
	if earlier {
		if b, err := analyze.Compare(before[0], before[1], analyze.CompareOptions{Q: o.Q}); err == nil {
			for i := range b.Changes {
				then[b.Changes[i].Function] = &b.Changes[i]
			}
		}
	} else if len(in.Control) > 0 {
		f.warnings = append(f.warnings, "no profiles of before the change: a function that differs may have differed before")
	}
	for i := range c.Changes {
		ch := &c.Changes[i]
		if ch.Verdict != analyze.Grew && ch.Verdict != analyze.Fell && ch.Verdict != analyze.Shifted {
			continue
		}
		if len(f.differ) < mostFunctions {
			f.differ = append(f.differ, *ch)
		}
		if ch.Verdict != analyze.Grew {
			continue
		}
		grew := ch.Judged().Real
		if was := then[ch.Function]; was != nil {
			same := *was
			same.Metric = ch.Metric
			grew = less(grew, same.Judged().Real)
		}
		if grew.Low > f.grew.Low {
			f.guilty, f.grew = ch.Function, grew
		}
	}
	f.harm = f.grew.Low > o.FunctionTolerate
	return f
}

// less is the difference of two figures that are independent of each other, with its interval.
func less(a, b analyze.Estimate) analyze.Estimate {
	v := a.Value - b.Value
	return analyze.Estimate{Value: v, Low: v - math.Hypot(a.Value-a.Low, b.High-b.Value), High: v + math.Hypot(a.High-a.Value, b.Value-b.Low)}
}

// replicates is the profiles of a side; an instance is one.
func replicates(name string, members []Member, before bool) analyze.Cohort {
	c := analyze.Cohort{Name: name}
	for i := range members {
		m := &members[i]
		r := analyze.Replicate{Name: cmp.Or(m.Name, fmt.Sprintf("%s %d", name, i+1)), Profile: m.Profile, Column: m.Column, Seconds: m.Seconds, Requests: m.Requests}
		if before {
			r.Profile, r.Seconds, r.Requests = m.Before, 0, 0
		}
		if p := r.Profile; p != nil && r.Column >= 0 && r.Column < len(p.SampleTypes) && p.Total(r.Column) > 0 {
			c.Replicates = append(c.Replicates, r)
		}
	}
	return c
}
