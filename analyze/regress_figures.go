package analyze

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/analyze/change"
)

// Figure is a series that is no function's share: GC CPU, scheduling latency, goroutines, allocation rate, lock wait. Points are
// one for each step, of what a process has on average; NaN is a gap. They are not negative. Unit is one of [Finding]'s: "share",
// "cores", "seconds", "bytes", "bytes/s", "count", "count/s".
type Figure struct {
	Name   string
	Type   string // the profile type that it is from, as text
	Unit   string
	Points []float64
}

// Figures is a service's figures over time.
type Figures struct {
	Service string
	Start   time.Time
	Step    time.Duration
	// Instances is how many processes the points are the mean of, by step; nil is unknown.
	Instances []int
	Figures   []Figure
	Events    []Event
}

// ScanFigures looks at every figure for a lasting change, as [Scan] does at functions, and makes findings of those that it
// would say. Points are compared among each other only; the least relative change is 0.2 where o does not say, as a figure has no
// rest to be judged by. More is a regression, less an improvement. The error is [ErrTable].
func ScanFigures(fs Figures, o ScanOptions) ([]Finding, error) {
	o.MinRelative = cmp.Or(o.MinRelative, 0.2)
	var out []Finding
	t := &Table{Service: fs.Service, Start: fs.Start, Step: fs.Step}
	for _, f := range fs.Figures {
		if len(f.Points) > len(t.Total) {
			t.Total = make([]float64, len(f.Points))
		}
	}
	if fs.Step <= 0 {
		return nil, fmt.Errorf("%w: step %v", ErrTable, fs.Step)
	}
	s := newScan(t, nil, o)
	for i, f := range fs.Figures {
		r, err := f.ratio(t.Steps())
		if err != nil {
			return nil, err
		}
		t.Functions = append(t.Functions, Series{Function: f.Name})
		s.shares.n = r.N
		s.out.Tested++
		s.o.MinShare = 0
		s.judge(i, "value", r)
	}
	done := s.finish()
	for _, c := range done.Changes {
		out = append(out, fs.finding(c, t))
	}
	slices.SortStableFunc(out, func(a, b Finding) int { return cmp.Compare(a.Subject, b.Subject) })
	return out, nil
}

// ratio is the points as ratios of equal weight.
func (f Figure) ratio(steps int) (change.Ratio, error) {
	r := change.Ratio{K: make([]float64, steps), N: make([]float64, steps)}
	for i, v := range f.Points {
		switch {
		case math.IsNaN(v):
			continue
		case v < 0 || math.IsInf(v, 0):
			return r, fmt.Errorf("%w: %q has %g at %d", ErrTable, f.Name, v, i)
		}
		r.K[i], r.N[i] = v, 1
	}
	return r, nil
}

func (fs *Figures) finding(c Change, t *Table) Finding {
	fig := fs.Figures[c.Index]
	r, _ := fig.ratio(t.Steps()) // was in order before
	f := r.MeasureSteps(c.From, c.Until, c.Settled, t.Steps())
	out := Finding{Kind: Regression, Service: fs.Service, Subject: fig.Name, Type: fig.Type, Metric: "value", Unit: fig.Unit,
		Before: c.Before, After: c.After, Change: c.Diff, Since: c.Since, From: t.At(0), To: t.At(t.Steps()),
		Samples: float64(f.AfterPoints), Test: testStep, P: c.P, Q: c.Q}
	if c.Gradual {
		out.Test = testLine
	}
	if c.Diff.Value < 0 {
		out.Kind = Improvement
	}
	for i := c.Settled; i < len(fs.Instances); i++ {
		out.Instances = max(out.Instances, fs.Instances[i])
	}
	if out.Instances == 1 {
		out.Warnings = append(out.Warnings, "There is one instance: a change of its host looks the same.")
	}
	if gaps := t.Steps() - c.From - f.BeforePoints - f.AfterPoints - (c.Settled - c.Until); gaps*10 > t.Steps() {
		out.Warnings = append(out.Warnings, fmt.Sprintf("%d of %d points are missing.", gaps, t.Steps()))
	}
	out.Chart = chart(t, r, f.Spread, f.Point)
	for i := range out.Chart { // no shares: no bound above
		p := &out.Chart[i]
		p.High = p.Value + (p.Value - p.Low)
	}
	r2 := regress{d: Detail{Events: fs.Events}, t: t}
	if e := r2.event(c); e != "" {
		out.Cause = &Cause{Event: e, Share: 1}
	}
	out.Sentence = fs.sentence(&out, fig, c.Gradual)
	out.Next = fmt.Sprintf("Look at what changed at %s: the findings of the same time, deploys, load.", clock(out.Since, out.To))
	return out
}

func (fs *Figures) sentence(f *Finding, fig Figure, gradual bool) string {
	verb := "rose"
	if f.Change.Value < 0 {
		verb = "fell"
	}
	say := quantity(fig.Unit, max(f.Before.Value, f.After.Value))
	var b strings.Builder
	fmt.Fprintf(&b, "%s's %s %s from %s to %s (95 %% interval %s..%s", fs.Service, figureName(fig.Name), verb, say(f.Before.Value, false), say(f.After.Value, false), say(f.Change.Low, true), say(f.Change.High, true))
	switch {
	case f.Instances == 1:
		b.WriteString(", 1 instance")
	case f.Instances > 1:
		fmt.Fprintf(&b, ", %d instances", f.Instances)
	}
	b.WriteString(")")
	if gradual {
		fmt.Fprintf(&b, ", a little every day since %s", clock(f.Since, f.To))
	} else {
		fmt.Fprintf(&b, " at %s", clock(f.Since, f.To))
	}
	if f.Cause != nil {
		fmt.Fprintf(&b, ", with %s", f.Cause.Event)
	}
	b.WriteString(".")
	return b.String()
}

// figureName is a figure's name as sentences have it.
func figureName(name string) string {
	switch name {
	case "gc_cpu":
		return "share of CPU in garbage collection"
	case "sched_latency":
		return "scheduling latency"
	case "mutex_wait":
		return "lock wait"
	}
	return strings.ReplaceAll(name, "_", " ")
}

// quantity writes values of a unit, all in the scale that suits size.
func quantity(unit string, size float64) func(v float64, sign bool) string {
	scale, name := 1.0, " "+unit
	per := ""
	if u, ok := strings.CutSuffix(unit, "/s"); ok {
		unit, per = u, "/s"
		name = " " + u + per
	}
	switch unit {
	case "share":
		scale, name = 100, " %"
	case "seconds":
		for _, s := range []struct {
			least, by float64
			name      string
		}{{1, 1, "s"}, {1e-3, 1e3, "ms"}, {1e-6, 1e6, "µs"}, {0, 1e9, "ns"}} {
			if size >= s.least {
				scale, name = s.by, " "+s.name+per
				break
			}
		}
	case "bytes":
		for _, s := range []struct {
			size float64
			name string
		}{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {1 << 10, "KiB"}, {1, "bytes"}} {
			if size >= s.size || s.size == 1 {
				scale, name = 1/s.size, " "+s.name+per
				break
			}
		}
	case "count":
		name = per
	}
	return func(v float64, sign bool) string {
		text := number(v * scale)
		if math.Abs(v*scale) >= 100 {
			text = fmt.Sprintf("%.0f", v*scale)
		}
		if sign && v >= 0 {
			text = "+" + text
		}
		return text + name
	}
}

// list is names as a sentence has them: all up to three, else how many more there are.
func list(names []string) string {
	switch n := len(names); {
	case n == 1:
		return names[0]
	case n <= 3:
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	default:
		return strings.Join(names[:3], ", ") + fmt.Sprintf(" and %d more", n-3)
	}
}
