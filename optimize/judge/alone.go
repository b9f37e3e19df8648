package judge

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// alonePast is which part of what a metric was before is taken for usual.
const alonePast = 0.95

// Alone judges a change of a service as a whole, where there is nothing left to compare it with: by bounds, and by what the metrics were
// before. It passes where each critical metric has data on both sides and is not worse than tolerated, or not worse than it has usually
// been; it fails past a bound, and where nine of ten windows are worse than usual and the middle of them by more than twice what is
// tolerated. What load did meanwhile it cannot tell from what the change did, and says so.
func Alone(in Input, o Options) Verdict {
	v := Guard(in, o)
	if v.Decision == Fail {
		return v
	}
	metrics := in.Metrics
	if metrics == nil {
		metrics = DefaultMetrics()
	}
	v = Verdict{Decision: Pass, At: in.To, Warnings: []string{"There is nothing to compare with at the same time: what load did meanwhile is in it."}}
	least, warm := o.MinWindows, o.WarmUp
	if least == 0 {
		least = 12
	}
	if warm == 0 {
		warm = 30 * time.Second
	}
	for i := range metrics {
		m := &metrics[i]
		before, after := in.aside(m.Name, max(0, warm))
		mv := alone(m, before, after, least)
		v.Metrics = append(v.Metrics, mv)
		if !m.Critical {
			continue
		}
		switch {
		case mv.Decision == Fail && v.Decision != Fail, mv.Decision == Hold && v.Decision == Pass:
			v.Decision, v.Reason = mv.Decision, mv.Why
		}
	}
	if v.Decision == Pass {
		v.Reason = "Nothing that matters is worse than it was before, or than it usually is."
	}
	return v
}

// aside are the values of a metric before the change and since.
func (in *Input) aside(name string, warm time.Duration) (before, after []float64) {
	for i := range in.Treated {
		m := &in.Treated[i]
		first := m.Applied
		if first.IsZero() || first.After(in.From) {
			first = in.From
		}
		for _, p := range m.Series[name] {
			switch {
			case !(p.Weight > 0) || math.IsNaN(p.Value) || math.IsInf(p.Value, 0) || p.Value < 0:
			case !p.To.After(first):
				before = append(before, p.Value)
			case !p.From.Before(in.From.Add(warm)):
				after = append(after, p.Value)
			}
		}
	}
	slices.Sort(before)
	slices.Sort(after)
	return before, after
}

func alone(m *Metric, before, after []float64, least int) MetricVerdict {
	mv := MetricVerdict{Name: m.Name, Better: m.Better, Critical: m.Critical, BaselineWindows: len(before), Windows: len(after), Test: "before and after, by their middles"}
	if len(before) < least || len(after) < least {
		mv.Decision = Hold
		mv.Why = fmt.Sprintf("Of %s there are %d windows before the change and %d since; both must be %d.", m.Name, len(before), len(after), least)
		return mv
	}
	mv.Before, mv.After = middleOf(before), middleOf(after)
	limit := m.Floor + m.Tolerate*mv.Before
	worse, usual := mv.After-mv.Before, quantileOf(before, alonePast)
	beyond := 0
	for _, a := range after {
		if a > usual {
			beyond++
		}
	}
	if m.Better == Higher {
		worse, usual, beyond = -worse, quantileOf(before, 1-alonePast), 0
		for _, a := range after {
			if a < usual {
				beyond++
			}
		}
	}
	if mv.Before > 0 {
		mv.Worse = limit / mv.Before
		mv.Effect.Value = mv.After/mv.Before - 1
	}
	mv.Difference.Value = mv.After - mv.Before
	fine := mv.After <= usual
	if m.Better == Higher {
		fine = mv.After >= usual
	}
	switch {
	case worse <= limit || fine:
		mv.Decision, mv.Why = Pass, fmt.Sprintf("%s is %.4g; it was %.4g.", m.Name, mv.After, mv.Before)
	case worse > 2*limit && 10*beyond >= 9*len(after):
		mv.Decision, mv.Why = Fail, fmt.Sprintf("%s went from %.4g to %.4g, and %d of %d windows are worse than 95 %% of those before.", m.Name, mv.Before, mv.After, beyond, len(after))
	default:
		mv.Decision, mv.Why = Hold, fmt.Sprintf("%s went from %.4g to %.4g: more than tolerated, and not surely of the change.", m.Name, mv.Before, mv.After)
	}
	return mv
}

// middleOf and quantileOf are of sorted values.
func middleOf(sorted []float64) float64 { return quantileOf(sorted, 0.5) }

func quantileOf(sorted []float64, part float64) float64 {
	x := part * float64(len(sorted)-1)
	i := int(x)
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + (x-float64(i))*(sorted[i+1]-sorted[i])
}
