package analyze

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/analyze/change"
	"github.com/quantra-l/quantra/profile"
)

// Names of the tests that findings rest on.
const (
	testStep = "likelihood ratio of one change, the best of all splits"
	testLine = "slope of a straight line by weighted least squares"
)

// finding makes a finding of a cause.
func (r *regress) finding(x *cause) Finding {
	ref := r.e.Changes[x.members[0]]
	for _, i := range x.members { // the surest says when; the cause's own change, if it was seen, how sure
		c := r.e.Changes[i]
		if c.Function == x.function && (c.Metric == "total") == x.full {
			ref = c
			break
		}
		if c.P < ref.P {
			ref = c
		}
	}
	metric := "self"
	values := r.line(x.function).Self
	if x.full {
		metric, values = "total", r.line(x.function).Full
	}
	raw := r.shares.ratio(values, nil)
	f := raw.MeasureSteps(r.e.from, r.e.until, r.e.settled, r.e.columns).WithWander(r.wander, 60)
	if ref.Gradual {
		f = raw.Line(0, len(raw.N))
	}
	out := Finding{Kind: Regression, Service: r.t.Service, Function: x.function, Type: r.t.Type.String(), Metric: metric, Unit: "share",
		Before: within01(estimate(f.Before, f.BeforeErr, f.DF)), After: within01(estimate(f.After, f.AfterErr, f.DF)), Change: estimate(f.Diff, f.Err, f.DF),
		Since: ref.Since, From: r.t.At(0), To: r.t.At(r.t.Steps()), Test: testStep, P: ref.P, Q: ref.Q}
	if !x.up {
		out.Kind = Improvement
	}
	if ref.Function == x.function && ref.Metric == metric { // as scanned: with all that it may wander by
		out.Before, out.After, out.Change = ref.Before, ref.After, ref.Diff
	}
	if ref.Gradual {
		out.Test = testLine
	}
	r.rests(&out)
	r.saving(&out)
	r.attribute(&out, x, ref)
	r.warn(&out, x, ref)
	out.Also = r.also(x)
	out.Chart = chart(r.t, raw, f.Spread, f.Point)
	out.Base = &Selection{Type: out.Type, From: r.e.BaseFrom, To: r.e.BaseTo}
	out.Head = &Selection{Type: out.Type, From: r.e.HeadFrom, To: r.e.HeadTo}
	if out.Cause != nil && out.Cause.Label != "" {
		out.Head.Labels = map[string]string{out.Cause.Label: out.Cause.Value}
	}
	out.Sentence = sentence(&out, ref.Gradual)
	out.Next = next(&out, x)
	return out
}

// rests fills in how much the finding rests on.
func (r *regress) rests(f *Finding) {
	for c := r.e.settled; c < r.e.columns; c++ {
		if r.shares.binomial {
			f.Samples += r.shares.n[c]
		} else if r.t.Profiles != nil {
			f.Samples += float64(r.t.Profiles[c])
		} else {
			f.Samples++
		}
		if r.t.Instances != nil {
			f.Instances = max(f.Instances, r.t.Instances[c])
		}
	}
}

// saving is what the change amounts to: its share of the cores, or of the bytes of memory, that the service uses after it. It is
// negative for an improvement: that much less is spent.
func (r *regress) saving(f *Finding) {
	var total, seconds, profiles, instances float64
	for c := r.e.settled; c < r.e.columns; c++ {
		if r.t.Total[c] <= 0 {
			continue
		}
		total += r.t.Total[c]
		seconds += r.t.Step.Seconds()
		if r.t.Profiles != nil {
			profiles += float64(r.t.Profiles[c])
		}
		if r.t.Instances != nil {
			instances = max(instances, float64(r.t.Instances[c]))
		}
	}
	switch s := r.t.Type.Sample; {
	case s.Type == "cpu" && s.Unit == "nanoseconds" && seconds > 0:
		f.Saving, f.SavingUnit = math.Abs(f.Change.Value)*total/1e9/seconds, "cores"
	case s.Type == "samples" && r.t.Type.Period.Unit == "nanoseconds" && r.d.Head != nil && r.d.Head.Period > 0 && seconds > 0:
		f.Saving, f.SavingUnit = math.Abs(f.Change.Value)*total*float64(r.d.Head.Period)/1e9/seconds, "cores"
	case s.Type == "inuse_space" && s.Unit == "bytes" && profiles > 0:
		f.Saving, f.SavingUnit = math.Abs(f.Change.Value)*total/profiles*max(instances, 1), "bytes"
	}
}

// also is what else moved with the cause, the largest first, at most 20.
func (r *regress) also(x *cause) []Moved {
	var out []Moved
	seen := map[string]bool{x.function: true}
	for _, i := range x.members {
		c := r.e.Changes[i]
		if seen[c.Function] {
			continue
		}
		seen[c.Function] = true
		m := Moved{Function: c.Function, Before: c.Before.Value, After: c.After.Value}
		if r.tree != nil {
			switch {
			case r.tree.above(c.Function, x.function):
				m.Why = "caller"
			case r.tree.above(x.function, c.Function):
				m.Why = "callee"
			}
		}
		out = append(out, m)
	}
	slices.SortStableFunc(out, func(a, b Moved) int {
		return cmp.Or(cmp.Compare(math.Abs(b.After-b.Before), math.Abs(a.After-a.Before)), cmp.Compare(a.Function, b.Function))
	})
	return out[:min(len(out), 20)]
}

// chart is a series as shares with 95 % intervals, of at most 300 points: neighbouring columns are put together. spread is the
// long-run variance of a column in what samples alone would give, point that of a column by itself.
func chart(t *Table, r change.Ratio, spread, point float64) []ChartPoint {
	per := (len(r.N) + 299) / 300
	var out []ChartPoint
	for from := 0; from < len(r.N); from += per {
		to := min(from+per, len(r.N))
		var k, n float64
		for i := from; i < to; i++ {
			k, n = k+r.K[i], n+r.N[i]
		}
		if n <= 0 {
			continue
		}
		p := k / n
		unit := p * p
		if r.Binomial {
			q := (k + 0.5) / (n + 1)
			unit = q * (1 - q)
		}
		v := point
		if per > 1 {
			v = spread
		}
		h := 1.96 * math.Sqrt(max(v, b2f(r.Binomial))*unit/n)
		out = append(out, ChartPoint{t.At(from), p, max(p-h, 0), min(p+h, 1)})
	}
	return out
}

func b2f(b bool) float64 { return float64(b2i(b)) }

// attribute finds the part of the fleet, or the event, that the change came with.
func (r *regress) attribute(f *Finding, x *cause, ref Change) {
	f.Cause = r.part(r.d.Versions, x, f, true)
	if f.Cause != nil {
		if first := firstSeen(r.d.Versions, f.Cause.Value, f.Cause.Label); !first.IsZero() && !first.After(ref.SinceLast) && !first.Before(ref.SinceFirst.Add(-10*r.t.Step)) {
			f.Since = first
		}
	}
	for _, groups := range r.d.Others {
		if f.Cause == nil {
			f.Cause = r.part(groups, x, f, true)
		}
	}
	if e := r.event(ref); e != "" {
		if f.Cause == nil {
			f.Cause = &Cause{Share: 1}
		}
		f.Cause.Event = e
	}
	if c := r.part(r.d.Instances, x, f, false); c != nil && len(r.d.Instances) > 1 {
		f.Warnings = append(f.Warnings, fmt.Sprintf("Only one of %d instances (%s) has the change: it may be that host, not the code.", len(r.d.Instances), c.Value))
		if f.Cause == nil {
			f.Cause = c
		}
	}
}

// part is the group that has most of the change, if it can be told from the others: it is new, or others are there that do
// not have it.
//
// The share after is the sum over groups of their weight times their share, so what group g adds to the difference from
// before is its weight times how far its share is from that; these parts sum to the whole.
func (r *regress) part(groups []Group, x *cause, f *Finding, mayBeNew bool) *Cause {
	type side struct{ k, n float64 }
	sum := func(g Group, from, to int) (s side) {
		i, ok := slices.BinarySearchFunc(g.Table.Functions, x.function, func(f Series, name string) int { return cmp.Compare(f.Function, name) })
		for c := from; c < to; c++ {
			s.n += g.Table.Total[c]
			if !ok {
				continue
			}
			v := g.Table.Functions[i].Self
			if x.full {
				v = g.Table.Functions[i].Full
			}
			if c < len(v) {
				s.k += float64(v[c])
			}
		}
		return s
	}
	before, after := make([]side, len(groups)), make([]side, len(groups))
	var allBefore, allAfter side
	for i, g := range groups {
		before[i], after[i] = sum(g, r.e.from, r.e.until), sum(g, r.e.settled, r.e.columns)
		allBefore = side{allBefore.k + before[i].k, allBefore.n + before[i].n}
		allAfter = side{allAfter.k + after[i].k, allAfter.n + after[i].n}
	}
	if allBefore.n <= 0 || allAfter.n <= 0 {
		return nil
	}
	was := allBefore.k / allBefore.n
	diff := allAfter.k/allAfter.n - was
	if diff*f.Change.Value <= 0 {
		return nil
	}
	best, most := -1, 0.0
	for i := range groups {
		if after[i].n <= 0 {
			continue
		}
		if p := (after[i].k - was*after[i].n) / allAfter.n / diff; p > most {
			best, most = i, p
		}
	}
	if best < 0 || most < explains {
		return nil
	}
	isNew := before[best].n < 0.02*allBefore.n
	rest := allAfter.n - after[best].n
	// Of what the others weigh, their part of an even change would be that much; they must have less than half of it.
	others := rest >= 0.1*allAfter.n && 1-most < 0.5*rest/allAfter.n
	if !(mayBeNew && isNew) && !others {
		return nil
	}
	name, value := distinct(groups, best)
	if name == "" {
		return nil
	}
	return &Cause{Label: name, Value: value, Share: most}
}

// distinct is the label that tells group i from the others: its only one, or one whose value no other group has.
func distinct(groups []Group, i int) (name, value string) {
	for _, l := range groups[i].Labels {
		if l.Name == profile.LabelService {
			continue
		}
		alone := true
		for j, g := range groups {
			if j != i && g.Labels.Get(l.Name) == l.Value {
				alone = false
			}
		}
		if alone {
			return l.Name, l.Value
		}
	}
	return "", ""
}

func firstSeen(groups []Group, value, name string) time.Time {
	for _, g := range groups {
		if g.Labels.Get(name) != value {
			continue
		}
		for c, v := range g.Table.Total {
			if v > 0 {
				return g.Table.At(c)
			}
		}
	}
	return time.Time{}
}

// event is the last event before the change, no more than ten minutes before it can have begun, or two columns.
func (r *regress) event(ref Change) string {
	early := ref.SinceFirst.Add(-max(10*time.Minute, 2*r.t.Step))
	best := -1
	for i, e := range r.d.Events {
		if e.Time.Before(early) || e.Time.After(ref.SinceLast.Add(r.t.Step)) || ref.Gradual {
			continue
		}
		if best < 0 || e.Time.After(r.d.Events[best].Time) {
			best = i
		}
	}
	if best < 0 {
		return ""
	}
	return r.d.Events[best].Label
}

// warn says what may mislead.
func (r *regress) warn(f *Finding, x *cause, ref Change) {
	add := func(format string, args ...any) { f.Warnings = append(f.Warnings, fmt.Sprintf(format, args...)) }
	if n := f.Samples * max(f.After.Value, f.Before.Value); r.shares.binomial && n < 500 {
		add("It rests on %.0f samples.", n)
	}
	if f.Instances == 1 {
		add("There is one instance: a change of its host looks the same.")
	}
	if x.alike {
		add("All that %s calls changed alike: it may be called more often, rather than cost more.", quote(x.function))
	}
	if first, last := ref.SinceFirst, ref.SinceLast; last.Sub(first) > 20*r.t.Step && !ref.Gradual {
		add("It began between %s and %s; more cannot be said.", clock(first, f.To), clock(last, f.To))
	}
	if ref.Gradual && r.t.Step*time.Duration(r.t.Steps()) < 8*day {
		add("There is less than eight days of history: a weekly swing looks the same.")
	}
	r.warnTable(add)
	if f.Cause == nil || f.Cause.Label != profile.LabelVersion {
		r.warnMix(add)
	}
}

// warnTable warns of gaps, and of a change in what a profile holds.
func (r *regress) warnTable(add func(string, ...any)) {
	gaps, near := 0, false
	for c := r.e.from; c < r.e.columns; c++ {
		if r.t.Total[c] == 0 {
			gaps++
			near = near || c >= r.e.at-2 && c <= r.e.settled+1
		}
	}
	if n := r.e.columns - r.e.from; gaps*10 > n || near {
		add("%d of %d columns have no profiles%s.", gaps, n, map[bool]string{true: ", some just where it changed"}[near])
	}
	if r.t.Profiles == nil {
		return
	}
	per := func(from, to int) float64 {
		var v, n float64
		for c := from; c < to; c++ {
			v, n = v+r.t.Total[c], n+float64(r.t.Profiles[c])
		}
		return v / n
	}
	if ratio := per(r.e.settled, r.e.columns) / per(r.e.from, r.e.until); ratio > 1.5 || ratio < 1/1.5 {
		add("A profile holds %.1f times as much as before: load, or the sampling rate, changed at about the same time.", ratio)
	}
}

// warnMix warns of versions that came or went at the time of a change that none of them explains.
func (r *regress) warnMix(add func(string, ...any)) {
	var before, after float64
	for _, g := range r.d.Versions {
		before += sumOf(g.Table.Total[r.e.from:r.e.until])
		after += sumOf(g.Table.Total[r.e.settled:])
	}
	if before <= 0 || after <= 0 {
		return
	}
	for i, g := range r.d.Versions {
		b, a := sumOf(g.Table.Total[r.e.from:r.e.until])/before, sumOf(g.Table.Total[r.e.settled:])/after
		if _, v := distinct(r.d.Versions, i); math.Abs(a-b) > 0.1 && v != "" {
			add("The mix of versions changed at the same time (%s from %s to %s of all), and no version alone explains it.", v, percent(b), percent(a))
			return
		}
	}
}

func sumOf(x []float64) (s float64) {
	for _, v := range x {
		s += v
	}
	return s
}

// quote is a function's name as sentences have it.
// quote is a function in a sentence: without the path of its package, which Finding.Function has.
func quote(function string) string { return "`" + shortFunction(function) + "`" }

// noun is what shares of a profile type are shares of.
func noun(t profile.Type) string {
	switch t.Sample.Type {
	case "cpu", "samples":
		return "CPU"
	case "alloc_space":
		return "allocated bytes"
	case "alloc_objects":
		return "allocations"
	case "inuse_space":
		return "live heap"
	case "inuse_objects":
		return "live objects"
	case "delay":
		if t.Name == "mutex" {
			return "lock wait"
		}
		return "blocked time"
	case "goroutine", "goroutines":
		return "goroutines"
	}
	return strings.ReplaceAll(t.Sample.Type, "_", " ")
}

// percent is a share as a person writes it: with two digits that say something.
func percent(share float64) string { return number(share*100) + " %" }

// number has one digit after the point from 1 on, two from 0.1 on, three below.
func number(v float64) string {
	switch a := math.Abs(v); {
	case a >= 0.9995 || a == 0:
		return fmt.Sprintf("%.1f", v)
	case a >= 0.09995:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// points is the interval of a difference of shares, in percentage points.
func points(e Estimate) string {
	digits := 1
	for w := (e.High - e.Low) * 100; w < 0.3 && digits < 4; w *= 10 {
		digits++
	}
	return fmt.Sprintf("%+.*f..%+.*f points", digits, e.Low*100, digits, e.High*100)
}

// clock is a moment as UTC, with the date where it is not the day of to.
func clock(t, to time.Time) string {
	t, to = t.UTC(), to.UTC()
	if t.Format(time.DateOnly) == to.Format(time.DateOnly) {
		return t.Format("15:04")
	}
	return t.Format("2006-01-02 15:04")
}

// sentence says a finding as a person would.
func sentence(f *Finding, gradual bool) string {
	verb := "rose"
	if f.Change.Value < 0 {
		verb = "fell"
	}
	subject := quote(f.Function)
	if f.Metric == "total" {
		subject += " with what it calls"
	}
	t, _ := profile.ParseType(f.Type)
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s from %s to %s of %s's %s (95 %% interval %s", subject, verb, percent(f.Before.Value), percent(f.After.Value), f.Service, noun(t), points(f.Change))
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
	if c := f.Cause; c != nil {
		switch {
		case c.Label == profile.LabelVersion:
			fmt.Fprintf(&b, ", with version %s", c.Value)
		case c.Label == profile.LabelInstance:
			fmt.Fprintf(&b, ", on instance %s only", c.Value)
		case c.Label != "":
			fmt.Fprintf(&b, ", where %s is %s", c.Label, c.Value)
		case c.Event != "":
			fmt.Fprintf(&b, ", with %s", c.Event)
		}
	}
	b.WriteString(".")
	return b.String()
}

// next is the suggested next step.
func next(f *Finding, x *cause) string {
	switch c := f.Cause; {
	case f.Kind == Improvement:
		return ""
	case x.alike:
		return fmt.Sprintf("See whether %s is called more often: compare the rate of its requests before and after.", quote(f.Function))
	case c != nil && c.Label == profile.LabelInstance:
		return fmt.Sprintf("Compare instance %s with another one of the same version; if the code is the same, look at its host.", c.Value)
	case c != nil && c.Label == profile.LabelVersion:
		return fmt.Sprintf("Look at what version %s changed in %s and what it calls; the difference of the flame graphs before and after shows where.", c.Value, quote(f.Function))
	case c != nil && c.Event != "":
		return fmt.Sprintf("Look at what %s changed for %s.", c.Event, quote(f.Function))
	}
	return fmt.Sprintf("Compare the flame graphs before and after %s, from %s on.", clock(f.Since, f.To), quote(f.Function))
}
