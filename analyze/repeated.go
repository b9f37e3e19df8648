package analyze

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

const (
	repeatedInstances = 3    // at least
	repeatedShare     = 0.01 // least share of the service's CPU
	repeatedSpread    = 1.5  // the busiest instance must have so many times the work of the idlest
	repeatedAgree     = 0.05 // p-value from which on the same cost everywhere is believed
	repeatedP         = 1e-4 // below which a cost that goes with the load is not, for all functions together
)

// repeated is functions that cost every instance the same, whatever its load: a refresh, a report, a poll that one could do for all.
// The evidence is two models of a function's samples, by the instance's time and by its work, and the test of each against the data (a
// likelihood-ratio test for Poisson counts, G): the first must hold and the second must not. Instances must differ in load, or nothing can be told.
func (w *waste) repeated() []Finding {
	counts, times, work, names := w.instanceCounts()
	if len(times) < repeatedInstances || w.cpu == nil {
		return nil
	}
	all := 0.0
	rate := make([]float64, len(times))
	for i := range work {
		all += work[i]
		rate[i] = work[i] / times[i]
	}
	if slices.Max(rate) < repeatedSpread*slices.Min(rate) || all < minSamples {
		return nil
	}
	type candidate struct {
		name          string
		k             float64
		constP, loadP float64
	}
	var cs []candidate
	for j, name := range names {
		k, sum := counts[j], 0.0
		rest := make([]float64, len(work))
		for i := range k {
			sum += k[i]
			rest[i] = work[i] - k[i]
		}
		if sum < repeatedShare*all || slices.Min(k) <= 0 || slices.Min(rest) <= 0 {
			continue
		}
		// The loads themselves are counts: their variance is added to that of the model that rests on them.
		c := candidate{name: name, k: sum, constP: gTest(k, times, 0), loadP: gTest(k, rest, sum/all)}
		if c.constP >= repeatedAgree && c.loadP*float64(len(names)) < repeatedP {
			cs = append(cs, c)
		}
	}
	slices.SortFunc(cs, func(a, b candidate) int { return cmp.Or(cmp.Compare(a.k, b.k), cmp.Compare(a.name, b.name)) })
	cs = cs[max(0, len(cs)-5*mostOfAKind):]
	var out []Finding
	for i, c := range cs {
		// A caller that has little more than one that is told is the same.
		if slices.ContainsFunc(cs[:i], func(in candidate) bool { return in.k >= 0.8*c.k && w.cpu.calls(c.name, in.name) }) {
			continue
		}
		f := w.finding(Repeated, "cpu", "total")
		n := len(times)
		share := Share(c.k, all)
		cores := share.times(w.cores)
		f.Function, f.Unit, f.After, f.Change, f.Samples, f.Instances = c.name, "cores", cores, cores, c.k, n
		f.Test, f.P, f.Q = "likelihood ratio (Poisson): by load", c.loadP, min(1, c.loadP*float64(len(names)))
		f.Sentence = fmt.Sprintf("%s costs each of %d instances of %s the same, %s of a core, though the busiest does %.1f times the work of the idlest: %s of the CPU in all (%s).",
			quote(c.name), n, w.s.Service, coresText(cores.Value/float64(n)), slices.Max(rate)/slices.Min(rate), percents(share.Value), percentInterval(share))
		f.Next = "If all do the same, let one do it and share the outcome."
		f.Warnings = append(f.Warnings, "That its cost does not go with the load is measured; that all instances do the same work is not.")
		f.Saving, f.SavingUnit = cores.Value*float64(n-1)/float64(n), "cores"
		out = append(out, f)
	}
	return out
}

// instanceCounts are CPU samples by own function and instance, with each instance's time in windows and samples in all.
func (w *waste) instanceCounts() (counts [][]float64, times, work []float64, names []string) {
	index := map[string]int{}
	var tables []*Table
	for i := range w.s.PerInstance {
		t := w.s.PerInstance[i].CPU
		if t == nil || t.Unit <= 0 {
			continue
		}
		n, total := 0.0, 0.0
		for c := range t.Total {
			n += float64(t.Profiles[c])
			total += t.Total[c]
		}
		if n == 0 || total == 0 {
			continue
		}
		tables, times, work = append(tables, t), append(times, n), append(work, total/t.Unit)
		for _, s := range t.Functions {
			if _, ok := index[s.Function]; !ok && codeOf(s.Function) == codeOwn {
				index[s.Function] = len(names)
				names = append(names, s.Function)
			}
		}
	}
	counts = make([][]float64, len(names))
	for j := range counts {
		counts[j] = make([]float64, len(tables))
	}
	for i, t := range tables {
		for _, s := range t.Functions {
			j, ok := index[s.Function]
			if !ok {
				continue
			}
			for _, v := range s.Full {
				counts[j][i] += float64(v) / t.Unit
			}
		}
	}
	return counts, times, work, names
}

// gTest is the p-value that counts k have means in proportion to by: the likelihood-ratio statistic, chi-squared with one degree of
// freedom less than there are counts. extra is how much variance, in parts of the counts', by itself adds.
func gTest(k, by []float64, extra float64) float64 {
	sum, bysum := 0.0, 0.0
	for i := range k {
		sum += k[i]
		bysum += by[i]
	}
	g := 0.0
	for i := range k {
		if want := sum * by[i] / bysum; k[i] > 0 {
			g += 2 * k[i] * math.Log(k[i]/want)
		}
	}
	return chiSquaredTail(g/(1+extra), float64(len(k)-1))
}

// chiSquaredTail is the chance of x or more, by Wilson and Hilferty's approximation (1931): the cube root is nearly normal.
func chiSquaredTail(x, df float64) float64 {
	if x <= 0 {
		return 1
	}
	v := 2 / (9 * df)
	z := (math.Cbrt(x/df) - (1 - v)) / math.Sqrt(v)
	return 0.5 * math.Erfc(z/math.Sqrt2)
}

// calls says that most of inner's cost is below outer.
func (t *wasteTree) calls(outer, inner string) bool {
	in := t.under(func(n string) bool { return n == outer })
	both := t.selfOf(in, t.under(func(n string) bool { return n == inner }))
	i := nameIndex(t, inner)
	return i >= 0 && both >= 0.5*t.all[i]
}
