package change

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
)

// Point is a change point of [Hunter] or [EDivisive].
type Point struct {
	At            int
	P             float64
	Before, After float64 // means of the neighbouring segments
}

// Magnitude is the relative change, by the smaller of both levels.
func (p Point) Magnitude() float64 {
	rel := func(a, b float64) float64 {
		if a == 0 {
			return 0
		}
		return math.Abs(b/a - 1)
	}
	return max(rel(p.Before, p.After), rel(p.After, p.Before))
}

// energySplit is the split of x that maximises the energy statistic of Matteson and James, A nonparametric approach for
// multiple change point analysis of multivariate data (J. Am. Stat. Assoc. 109, 2014), equation 7, with exponent 1: over all
// t and k, what x[:t] and x[t:k] differ by, less what each differs by in itself. Quadratic in time, linear in memory.
func energySplit(x []float64) (at int, q float64) {
	n := len(x)
	if n < 2 {
		return 0, 0
	}
	within := make([]float64, n+1) // of x[:k], the sum of all distances
	for k := 1; k < n; k++ {
		s := within[k]
		for i := range k {
			s += math.Abs(x[i] - x[k])
		}
		within[k+1] = s
	}
	right := make([]float64, n+1) // of x[t:k]
	at, q = 1, math.Inf(-1)
	for t := n - 1; t >= 1; t-- {
		var row float64
		nl := float64(t)
		bestOfRow, has := 0.0, false
		for k := t + 1; k <= n; k++ {
			if k > t+1 {
				row += math.Abs(x[t] - x[k-1])
				right[k] += row
			}
			nr := float64(k - t)
			between := within[k] - within[t] - right[k]
			v := 2 / (nl + nr) * between
			if t > 1 {
				v -= 2 * nr / (nl + nr) / (nl - 1) * within[t]
			}
			if k-t > 1 {
				v -= 2 * nl / (nl + nr) / (nr - 1) * right[k]
			}
			if !has || v > bestOfRow {
				bestOfRow, has = v, true
			}
		}
		if bestOfRow >= q { // of equal ones the first, as we come from the right
			at, q = t, bestOfRow
		}
	}
	return at, q
}

// tTest is Student's test of two segments, with the population's standard deviations, as Hunter has it.
func tTest(at int, a, b []float64) Point {
	ma, va := moments(a)
	mb, vb := moments(b)
	p := Point{At: at, Before: ma, After: mb, P: 1}
	na, nb := float64(len(a)), float64(len(b))
	df := na + nb - 2
	if df <= 0 {
		return p
	}
	pooled := ((na-1)*va + (nb-1)*vb) / df
	switch d := math.Sqrt(pooled * (1/na + 1/nb)); {
	case d > 0:
		p.P = StudentP((mb-ma)/d, df)
	case ma != mb:
		p.P = 0
	}
	return p
}

func moments(x []float64) (mean, variance float64) {
	for _, v := range x {
		mean += v
	}
	mean /= float64(len(x))
	if len(x) < 2 {
		return mean, 0
	}
	for _, v := range x {
		variance += (v - mean) * (v - mean)
	}
	return mean, variance / float64(len(x))
}

// ErrWindow says that a window is too short, or a probability none.
var ErrWindow = errors.New("change: the window must have 2 points or more, and p be between 0 and 1")

// Hunter finds change points as in Fleming et al., Hunter: Using Change Point Detection to Hunt for Performance Regressions
// (ICPE 2023), which Apache Otava implements: windows of that many points slide over the series by half their length, the energy
// statistic splits each where Student's test is significant at a relaxed p; of the weak points so found the worst is taken out
// until all that remain hold between their neighbours, at p and with a relative change of more than magnitude.
//
// The t-test looks at a split that was chosen to be the largest, so p is no rate of false alarms.
func Hunter(x []float64, window int, p, magnitude float64) ([]Point, error) {
	if window < 2 || !(p > 0 && p < 1) {
		return nil, ErrWindow
	}
	weak := p
	switch {
	case p < 0.05:
		weak = 10 * p
	case p < 0.5:
		weak = 2 * p
	}
	var cuts []int
	for start := 0; start < len(x); {
		end := min(start+window, len(x))
		found := divide(x[start:end], func(x []float64, cuts []int, at, from, to int, q float64) bool {
			return tTest(at, x[from:at], x[at:to]).P <= weak
		})
		next := start + window/2
		for _, c := range found {
			if !slices.Contains(cuts, start+c) {
				cuts = append(cuts, start+c)
			}
			next = max(next, start+c)
		}
		start = max(next, start+1)
	}
	slices.Sort(cuts)
	return settle(x, cuts, p, magnitude), nil
}

// settle is Hunter's second step: it takes out weak points until all hold. When one goes, the next to the right is tested anew;
// the one to the left keeps what it had, as in Otava: the points that are published depend on it.
func settle(x []float64, cuts []int, p, magnitude float64) []Point {
	points := make([]Point, len(cuts))
	recompute := func(i int) {
		if i < 0 || i >= len(points) {
			return
		}
		from, to := 0, len(x)
		if i > 0 {
			from = points[i-1].At
		}
		if i+1 < len(points) {
			to = points[i+1].At
		}
		points[i] = tTest(points[i].At, x[from:points[i].At], x[points[i].At:to])
	}
	for i, c := range cuts {
		points[i].At = c
	}
	for i := range points {
		recompute(i)
	}
	for len(points) > 0 {
		worst := 0
		for i := range points {
			if points[i].P > points[worst].P {
				worst = i
			}
		}
		if points[worst].P < p {
			for i := range points {
				if i == 0 || points[i].Magnitude() < points[worst].Magnitude() {
					worst = i
				}
			}
			if points[worst].Magnitude() > magnitude {
				break
			}
		}
		points = slices.Delete(points, worst, worst+1)
		recompute(worst)
	}
	return points
}

// divide splits x where accept says so, the best split of all segments first, until the best is not accepted.
func divide(x []float64, accept func(x []float64, cuts []int, at, from, to int, q float64) bool) []int {
	type candidate struct {
		from, to, at int
		q            float64
	}
	split := func(from, to int) (candidate, bool) {
		if to-from < 2 {
			return candidate{}, false
		}
		at, q := energySplit(x[from:to])
		return candidate{from, to, from + at, q}, true
	}
	var open []candidate
	if c, ok := split(0, len(x)); ok {
		open = append(open, c)
	}
	var cuts []int
	for len(open) > 0 {
		best := 0
		for i := range open {
			if open[i].q > open[best].q || open[i].q == open[best].q && open[i].from < open[best].from {
				best = i
			}
		}
		c := open[best]
		if !accept(x, cuts, c.at, c.from, c.to, c.q) {
			break
		}
		cuts = append(cuts, c.at)
		slices.Sort(cuts)
		open = slices.Delete(open, best, best+1)
		for _, s := range [][2]int{{c.from, c.at}, {c.at, c.to}} {
			if n, ok := split(s[0], s[1]); ok {
				open = append(open, n)
			}
		}
	}
	return cuts
}

// EDivisive finds change points as in Matteson and James (2014): the energy statistic's best split, tested by permuting the
// points within the segments found so far, until one is not significant at p. permutations bounds how small a p-value can be:
// 1/(permutations+1). Equal seeds give equal results. Cubic in time where there are many changes: for series of hundreds.
func EDivisive(x []float64, p float64, permutations int, seed uint64) ([]Point, error) {
	if !(p > 0 && p < 1) || permutations < 1 {
		return nil, errors.New("change: p must be between 0 and 1, and there must be a permutation")
	}
	rng := rand.New(rand.NewPCG(seed, seed^0x9e3779b97f4a7c15))
	var ps []Point
	shuffled := make([]float64, len(x))
	cuts := divide(x, func(x []float64, cuts []int, at, from, to int, q float64) bool {
		extreme := 1
		for range permutations {
			copy(shuffled, x)
			best := math.Inf(-1)
			for i := range len(cuts) + 1 {
				seg := shuffled[edge(cuts, i-1, 0):edge(cuts, i, len(x))]
				rng.Shuffle(len(seg), func(i, j int) { seg[i], seg[j] = seg[j], seg[i] })
				if _, v := energySplit(seg); len(seg) > 1 && v > best {
					best = v
				}
			}
			if best >= q {
				extreme++
			}
		}
		v := float64(extreme) / float64(permutations+1)
		if v > p {
			return false
		}
		ps = append(ps, Point{At: at, P: v})
		return true
	})
	slices.SortFunc(ps, func(a, b Point) int { return a.At - b.At })
	for i := range ps {
		ps[i].Before, _ = moments(x[edge(cuts, i-1, 0):cuts[i]])
		ps[i].After, _ = moments(x[cuts[i]:edge(cuts, i+1, len(x))])
	}
	return ps, nil
}

// Energy is the best split of x by the energy statistic, and its value. at is 0 for fewer than two points.
func Energy(x []float64) (at int, q float64) { return energySplit(x) }
