package analyze

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
)

const (
	growthBlocks = 12   // that a range is cut into before a trend is looked for
	growthP      = 1e-3 // of Mann-Kendall's test, one-sided, by instance
	growthLeast  = 50   // goroutines more in the last quarter than in the first
	growthFactor = 1.5  // at least so many times as many
	growthMoving = 0.4  // how much of the mean slope the last third must still have: what levels off was a warm-up
	leakLeast    = 2    // goroutines that can never run again
)

// trend is one instance's goroutines over time.
type trend struct {
	first, last Estimate // means of the first and last quarter
	slope       float64  // goroutines an hour (Sen's slope)
	p           float64
}

// goroutineGrowth is instances whose goroutines become more and more, though the work does not. The trend is Mann and Kendall's test
// (Mann 1945) over means of twelve equal parts of the range, as neighbouring counts hang together; it must go on in the last third, and
// goroutines must grow by much more than the CPU time: more requests have more goroutines.
func (w *waste) goroutineGrowth() []Finding {
	var worst *trend
	var table *Table
	grows, known, worked := 0, 0, 0
	for i := range w.s.PerInstance {
		in := &w.s.PerInstance[i]
		if in.Goroutines == nil || in.Goroutines.Steps() < growthBlocks {
			continue
		}
		known++
		tr, ok := goroutineTrend(in.Goroutines.means())
		if !ok || tr.p > growthP || in.CPU != nil && growsAlike(tr, in.CPU) {
			continue
		}
		tr.slope *= float64(3600) / in.Goroutines.Step.Seconds()
		grows++
		if in.CPU != nil {
			worked++
		}
		if worst == nil || tr.slope > worst.slope {
			worst, table = &tr, in.Goroutines
		}
	}
	// One that grows among many that do not is told only if nothing else explains it: by chance it would be known*growthP of them.
	if worst == nil || float64(grows) <= 3*growthP*float64(known) {
		return nil
	}
	f := w.finding(GoroutineGrowth, "goroutine", "value")
	f.Function = w.growingFunction(table)
	f.Unit, f.Before, f.After = "count", worst.first, worst.last
	f.Change = Estimate{Value: worst.last.Value - worst.first.Value, Low: worst.last.Low - worst.first.High, High: worst.last.High - worst.first.Low}
	f.Test, f.P, f.Q, f.Samples = "Mann-Kendall", worst.p, min(1, worst.p*float64(known)), float64(table.Steps())
	if f.Function != "" {
		f.Metric = "total"
	}
	in := ""
	if f.Function != "" {
		in = " in " + quote(f.Function)
	}
	f.Sentence = fmt.Sprintf("Goroutines of %s become more and more%s: from %.0f to %.0f, %.0f more an hour, in %d of %d instances%s.",
		w.s.Service, in, worst.first.Value, worst.last.Value, worst.slope, grows, known, map[bool]string{true: ", while the work does not"}[worked == grows])
	if worked < grows {
		f.Warnings = append(f.Warnings, "Whether there is more work is not known: more requests have more goroutines.")
	}
	f.Next = "Look at their stacks: what they wait for never comes. A goroutine needs an end, by a context or a channel that is closed."
	if st := w.figures; st.Stacks > 0 && st.Goroutines > 0 {
		f.Saving, f.SavingUnit = f.Change.Value*st.Stacks/st.Goroutines*float64(grows), "bytes"
	}
	f.Chart = table.chart(300)
	f.Instances = known
	return []Finding{f}
}

// means is a gauge's mean by column; NaN is a gap.
func (t *Table) means() []float64 {
	out := make([]float64, t.Steps())
	for i := range out {
		out[i] = math.NaN()
		if t.Profiles[i] > 0 {
			out[i] = t.Total[i] / float64(t.Profiles[i])
		}
	}
	return out
}

func (t *Table) chart(most int) (out []ChartPoint) {
	m := t.means()
	each := (len(m) + most - 1) / most
	for i := 0; i < len(m); i += each {
		if v, ok := meanPresent(m[i:min(len(m), i+each)]); ok {
			out = append(out, ChartPoint{Time: t.At(i), Value: v, Low: v, High: v})
		}
	}
	return out
}

// meanPresent is the mean of what is there.
func meanPresent(x []float64) (float64, bool) {
	sum, n := 0.0, 0.0
	for _, v := range x {
		if !math.IsNaN(v) {
			sum += v
			n++
		}
	}
	return sum / max(1, n), n > 0
}

// blocksOf are the means of k equal parts; parts without a value are left out.
func blocksOf(x []float64, k int) (out []float64) {
	for i := range k {
		if v, ok := meanPresent(x[i*len(x)/k : (i+1)*len(x)/k]); ok {
			out = append(out, v)
		}
	}
	return out
}

// goroutineTrend says whether a count rises for good. The interval of a mean is by the spread within its part.
func goroutineTrend(x []float64) (tr trend, ok bool) {
	b := blocksOf(x, growthBlocks)
	if len(b) < growthBlocks*3/4 {
		return trend{}, false
	}
	tr.p = mannKendall(b)
	n := len(x)
	tr.first, tr.last = meanEstimate(x[:n/4]), meanEstimate(x[n-n/4:])
	tr.slope = senSlope(b) * float64(len(b)) / float64(n) // by column
	tail := senSlope(b[len(b)*2/3-1:]) * float64(len(b)) / float64(n)
	ok = tr.last.Value-tr.first.Value >= growthLeast && tr.last.Value >= growthFactor*tr.first.Value && tail >= growthMoving*tr.slope && tr.slope > 0
	return tr, ok
}

func meanEstimate(x []float64) Estimate {
	m, _ := meanPresent(x)
	ss, n := 0.0, 0.0
	for _, v := range x {
		if !math.IsNaN(v) {
			ss += (v - m) * (v - m)
			n++
		}
	}
	half := 0.0
	if n > 1 {
		half = 1.96 * math.Sqrt(ss/(n-1)/n)
	}
	return Estimate{Value: m, Low: max(0, m-half), High: m + half}
}

// growsAlike says that the CPU time grew by at least half of what the goroutines did, in proportion.
func growsAlike(tr trend, cpu *Table) bool {
	x := make([]float64, cpu.Steps())
	for i := range x {
		x[i] = math.NaN()
		if cpu.Profiles[i] > 0 {
			x[i] = cpu.Total[i] / float64(cpu.Profiles[i])
		}
	}
	first, ok1 := meanPresent(x[:len(x)/4])
	last, ok2 := meanPresent(x[len(x)-len(x)/4:])
	if !ok1 || !ok2 || first <= 0 {
		return false
	}
	return last/first-1 >= 0.5*(tr.last.Value/max(1, tr.first.Value)-1)
}

// Rise is how much x rises from one value to the next (Sen's slope), and the p-value that it does not rise (Mann and Kendall's test, one-sided),
// over means of at most twelve equal parts: neighbouring values hang together. NaN is missing. Of fewer than four values p is 1.
func Rise(x []float64) (slope, p float64) {
	b := blocksOf(x, min(growthBlocks, len(x)))
	if len(b) < 4 {
		return 0, 1
	}
	return senSlope(b) * float64(len(b)) / float64(len(x)), mannKendall(b)
}

// mannKendall is the one-sided p-value that x does not rise, by the normal approximation with the correction for continuity.
func mannKendall(x []float64) float64 {
	s, n := 0.0, float64(len(x))
	for i := range x {
		for j := i + 1; j < len(x); j++ {
			s += float64(cmp.Compare(x[j], x[i]))
		}
	}
	if s <= 0 {
		return 1
	}
	z := (s - 1) / math.Sqrt(n*(n-1)*(2*n+5)/18)
	return 0.5 * math.Erfc(z/math.Sqrt2)
}

// senSlope is the median of the slopes between all pairs (Sen 1968), for one step.
func senSlope(x []float64) float64 {
	var s []float64
	for i := range x {
		for j := i + 1; j < len(x); j++ {
			s = append(s, (x[j]-x[i])/float64(j-i))
		}
	}
	if len(s) == 0 {
		return 0
	}
	slices.Sort(s)
	return (s[len(s)/2] + s[(len(s)-1)/2]) / 2
}

// growingFunction is the innermost own function that is on the stacks of most of the goroutines that were added.
func (w *waste) growingFunction(t *Table) string {
	n := t.Steps()
	of := func(s []float32, from, to int) float64 {
		sum, profiles := 0.0, 0.0
		for i := from; i < to; i++ {
			sum += float64(s[i])
			profiles += float64(t.Profiles[i])
		}
		return sum / max(1, profiles)
	}
	m := t.means()
	first, _ := meanPresent(m[:n/4])
	last, _ := meanPresent(m[n-n/4:])
	grown := map[string]bool{}
	best, most := "", 0.0
	for _, s := range t.Functions {
		if len(s.Full) < n || codeOf(s.Function) != codeOwn {
			continue
		}
		if d := of(s.Full, n-n/4, n) - of(s.Full, 0, n/4); d >= 0.7*(last-first) {
			grown[s.Function] = true
			if d > most {
				best, most = s.Function, d
			}
		}
	}
	// Of those that grew, the innermost is on the stacks below the others.
	p, col, ok := w.s.Goroutines.column("goroutine")
	if !ok {
		return best
	}
	tree := newWasteTree(p, col)
	inner := map[string]float64{}
	at := make([]int32, tree.Len())
	for i := 1; i < tree.Len(); i++ {
		at[i] = at[tree.Parent[i]]
		if grown[tree.name(int32(i))] {
			at[i] = int32(i)
		}
		if at[i] > 0 {
			inner[tree.name(at[i])] += float64(tree.Self[i])
		}
	}
	if top := heaviest(inner); len(top) > 0 {
		return top[0].name
	}
	return best
}

// leaks are the goroutines in each instance that never end, by the own function that they wait in, and by what they wait for there. "" is
// libraries.
func (w *waste) leaks() (by map[string]float64, waits map[string]map[string]float64) {
	by, waits = map[string]float64{}, map[string]map[string]float64{}
	p, col, ok := w.s.Leak.column("goroutineleak")
	if !ok {
		p, col, ok = w.s.Leak.column("goroutine")
	}
	if !ok || w.s.LeakSnapshots == 0 {
		return by, waits
	}
	t := newWasteTree(p, col)
	for i := 1; i < t.Len(); i++ {
		v := float64(t.Self[i]) / float64(w.s.LeakSnapshots)
		if v == 0 {
			continue
		}
		name := ""
		if o := t.owner[i]; o > 0 {
			name = t.name(o)
		}
		by[name] += v
		if waits[name] == nil {
			waits[name] = map[string]float64{}
		}
		waits[name][t.waitReason(int32(i))] += v
	}
	return by, waits
}

// goroutineLeaks is what the runtime found out: goroutines that wait for what nothing can reach any more (the leak profile of Go 1.26).
// It is never wrong, and does not find all.
func (w *waste) goroutineLeaks() []Finding {
	by, waits := w.leaks()
	var out []Finding
	for _, l := range heaviest(by) {
		if l.value < leakLeast || len(out) == mostOfAKind {
			break
		}
		f := w.finding(GoroutineLeak, "goroutineleak", "total")
		f.Function, f.Unit = l.name, "count"
		f.After = Estimate{Value: l.value, Low: l.value, High: l.value}
		f.Change, f.Samples = f.After, float64(w.s.LeakSnapshots)
		f.Test = "the runtime's search for what can be reached"
		where := quote(l.name)
		if l.name == "" {
			where = "libraries"
		}
		f.Sentence = fmt.Sprintf("%.0f goroutines in each instance of %s wait in %s for %s that nothing can reach any more: they never end.",
			l.value, w.s.Service, where, heaviest(waits[l.name])[0].name)
		f.Next = "Give them a way out: a context that is cancelled, a channel that is closed or has room for what nobody takes."
		if g := w.figures; g.Stacks > 0 && g.Goroutines > 0 {
			f.Saving, f.SavingUnit = l.value*g.Stacks/g.Goroutines*float64(w.s.Instances), "bytes"
		}
		out = append(out, f)
	}
	return out
}

// waitReason is what a goroutine waits for, by the runtime's functions at the top of its stack.
func (t *wasteTree) waitReason(node int32) string {
	for ; node > 0; node = t.Parent[node] {
		switch n := t.name(node); {
		case strings.HasPrefix(n, "runtime.chanrecv"):
			return "a value of a channel"
		case strings.HasPrefix(n, "runtime.chansend"):
			return "a reader of a channel"
		case n == "runtime.selectgo" || n == "runtime.block":
			return "channels"
		case strings.HasPrefix(n, "sync.(*WaitGroup)"):
			return "a wait group"
		case strings.HasPrefix(n, "sync.(*Cond)"):
			return "a condition"
		case strings.HasPrefix(n, "sync.(*Mutex)") || strings.HasPrefix(n, "sync.(*RWMutex)"):
			return "a lock"
		}
		if t.code[t.Name[node]] == codeOwn {
			break
		}
	}
	return "something"
}
