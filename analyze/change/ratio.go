package change

import (
	"math"
	"slices"
)

// Ratio is a series of ratios K[i]/N[i]: samples of a function among all samples of a minute. A point with N of 0 is a gap.
// Plain values are ratios with N of 1.
type Ratio struct {
	K, N []float64
	// Binomial says that K and N are counts of samples, so that no spread is less than that of drawing N with probability K/N.
	Binomial bool
}

// Bounds are how much there must be on both sides of a change, in points that are no gaps.
type Bounds struct {
	Before, After int
}

func (b Bounds) orDefaults() Bounds {
	if b.Before <= 0 {
		b.Before = 10
	}
	if b.After <= 0 {
		b.After = 5
	}
	return b
}

// Best is the split of r from from to to, where the likelihood ratio of one change of level is largest, and its square root:
// |z| if a point varied by what the overall level implies (a binomial where r is one, else the level itself). at is -1
// where there is too little. Two passes over the points, no memory.
func (r Ratio) Best(from, to int, b Bounds) (at int, z float64) {
	var sumK, sumN float64
	points := 0
	for i := from; i < to; i++ {
		if r.N[i] > 0 {
			sumK += r.K[i]
			sumN += r.N[i]
			points++
		}
	}
	if points < b.Before+b.After || sumN <= 0 {
		return -1, 0
	}
	p := sumK / sumN
	at = -1
	var best, k, n float64
	seen, last := 0, points-b.After
	for i := from; i < to; i++ {
		if r.N[i] <= 0 {
			continue
		}
		// The split before i: k and n are of what is left of it.
		if seen >= b.Before && seen <= last {
			u := k - p*n
			if s := u * u / (n * (sumN - n)); s > best {
				best, at = s, i
			}
		}
		k += r.K[i]
		n += r.N[i]
		seen++
	}
	if at < 0 {
		return -1, 0
	}
	v := r.unitVariance(level{k: sumK, n: sumN})
	if v <= 0 {
		return at, 0
	}
	return at, math.Sqrt(best * sumN / v)
}

// level is the sums of a segment, and how many points there are.
type level struct {
	k, n   float64
	points int
}

func (r Ratio) level(from, to int) (l level) {
	for i := from; i < to; i++ {
		if r.N[i] > 0 {
			l.k += r.K[i]
			l.n += r.N[i]
			l.points++
		}
	}
	return l
}

func (l level) ratio() float64 {
	if l.n <= 0 {
		return 0
	}
	return l.k / l.n
}

// unitVariance is the variance of one unit of N at this level, up to the spread: that of a binomial with half a success and
// half a failure added (so that 0 of 1,000 is not taken for certain), or the level's square for other values, whose spread
// mostly goes with their size.
func (r Ratio) unitVariance(l level) float64 {
	if r.Binomial {
		p := (l.k + 0.5) / (l.n + 1)
		return max(p*(1-p), 0)
	}
	return l.ratio() * l.ratio()
}

// Fit is a change at a place, measured. Levels are ratios; errors are standard errors.
type Fit struct {
	At            int // first point of the new state
	From, To      int // what was compared: From..Until with Settled..To
	Until         int // At, or earlier where what was between is not counted
	Settled       int // At, or later where the change took several steps
	Before, After float64
	BeforeErr     float64
	AfterErr      float64
	Diff, Err     float64
	T             float64 // Diff / Err
	DF            float64 // degrees of freedom of Err
	P             float64 // of T at a place that was chosen before looking
	exact         float64 // the least that P can be, by the exact test of counts; 0 if there is none
	Spread        float64 // variance of a point, in units of what the level implies; at least 1 for a binomial
	Point         float64 // the variance of a point by itself, in the same units, without what neighbours have in common
	Memory        int     // points over which neighbours were found to have something in common; 1 is none
	BeforeN       float64 // of N
	AfterN        float64
	BeforeK       float64
	AfterK        float64
	BeforePoints  int
	AfterPoints   int
}

// Interval is the 95 % interval of a value with error err and df degrees of freedom.
func Interval(value, err, df float64) (low, high float64) {
	if !(df > 0) {
		return math.Inf(-1), math.Inf(1)
	}
	h := studentQuantile(0.05, df) * err
	return value - h, value + h
}

// Measure compares from..at with at..to. The spread is estimated within the two segments; see [Ratio.spread].
func (r Ratio) Measure(from, at, to int) Fit { return r.MeasureSteps(from, at, at, to) }

// MeasureSteps compares from..at with settled..to, and leaves out what is between.
func (r Ratio) MeasureSteps(from, at, settled, to int) Fit {
	a, b := r.level(from, at), r.level(settled, to)
	f := Fit{At: at, From: from, To: to, Until: at, Settled: settled, P: 1,
		Before: a.ratio(), After: b.ratio(), BeforeN: a.n, AfterN: b.n, BeforeK: a.k, AfterK: b.k, BeforePoints: a.points, AfterPoints: b.points}
	f.Diff = f.After - f.Before
	if a.n <= 0 || b.n <= 0 {
		return f
	}
	va, vb := r.unitVariance(a), r.unitVariance(b)
	f.Spread, f.Point, f.Memory, f.DF = r.spread([]segment{{from, at, a, va}, {settled, to, b, vb}})
	f.BeforeErr = math.Sqrt(f.Spread * va / a.n)
	f.AfterErr = math.Sqrt(f.Spread * vb / b.n)
	f.Err = math.Hypot(f.BeforeErr, f.AfterErr)
	f.finish()
	if r.Binomial {
		// Few samples have no normal distribution. What varies by more than samples do counts as fewer.
		f.exact = splitP(b.k/f.Spread, a.k/f.Spread, b.n/(a.n+b.n))
		f.P = max(f.P, f.exact)
	}
	return f
}

func (f *Fit) finish() {
	f.T, f.P = 0, 1
	if f.Err > 0 {
		f.T = f.Diff / f.Err
		f.P = max(StudentP(f.T, f.DF), f.exact)
	}
}

// Wander is how much this series varies for longer than a point, as a variance of one point relative to the square of the
// level: what its spread has over that of points by themselves.
func (f Fit) Wander() float64 {
	points := float64(f.BeforePoints + f.AfterPoints)
	if f.BeforeN+f.AfterN <= 0 || f.Spread <= 0 || points <= 0 {
		return 0
	}
	level := (f.BeforeK + f.AfterK) / (f.BeforeN + f.AfterN)
	if level <= 0 {
		return 0
	}
	// The errors' part that is not the points' own, for both sides, by what they would be for one point.
	long := 1 - f.Point/f.Spread
	b := f.BeforeErr * f.BeforeErr * long * float64(f.BeforePoints)
	a := f.AfterErr * f.AfterErr * long * float64(f.AfterPoints)
	return (b*float64(f.BeforePoints) + a*float64(f.AfterPoints)) / points / (level * level)
}

// WithWander is f with errors of no less than that of its points by themselves and a wander of that size, which is known from
// elsewhere with df degrees of freedom. A short series does not see all that it remembers.
func (f Fit) WithWander(wander, df float64) Fit {
	if f.Spread <= 0 || wander <= 0 || f.BeforePoints == 0 || f.AfterPoints == 0 {
		return f
	}
	own := f.Point / f.Spread
	level := min(f.Before, f.After)
	if f.Before == 0 || f.After == 0 {
		level = max(f.Before, f.After) // what appeared wanders by what it is now
	}
	floor := func(err float64, points int) float64 {
		return math.Max(err, math.Sqrt(err*err*own+level*level*wander/float64(points)))
	}
	b, a := floor(f.BeforeErr, f.BeforePoints), floor(f.AfterErr, f.AfterPoints)
	if b > f.BeforeErr || a > f.AfterErr {
		f.DF = max(f.DF, df)
	}
	f.BeforeErr, f.AfterErr, f.Err = b, a, math.Hypot(a, b)
	f.finish()
	return f
}

// leastSpread is the variance of a point that is no count, at least, over its level's square: 0.1 % of it. A series of equal
// values must not make any other value a certainty.
const leastSpread = 1e-6

type segment struct {
	from, to int
	level    level
	variance float64 // of one unit of N
}

// spread estimates the long-run variance of a point within segments, in units of what the segments' levels imply, and the
// degrees of freedom of that estimate.
//
// Neighbouring points have something in common: the load's mix wanders, a slow request lasts for minutes. So sums of b
// neighbours vary by more than b times one point's variance. The variance of sums of b points, divided by b, is taken for b of
// 1, 2, 4, 8 and 16 (overlapping batch means: Meketon and Schmeiser, Overlapping batch means: something for nothing?, Winter
// Simulation Conference 1984), each corrected for the level that was subtracted, and so is twice the one less the one of half its length, which
// takes out what sums of b are too short to see (Vats and Flegal, Lugsail lag windows, Biometrika 109, 2022). The largest is used. For b of 1 and no
// memory that is the sample variance; the largest of several errs on the wide side. Overlapping batches have half again
// the degrees of freedom of batches that do not overlap (same source).
func (r Ratio) spread(segs []segment) (spread, point float64, memory int, df float64) {
	points, empty := 0, 0
	for _, s := range segs {
		points += s.level.points
		if s.level.points == 0 {
			empty++
		}
	}
	m := float64(points - len(segs) + empty)
	if m <= 0 {
		return 0, 0, 1, 0
	}
	res := make([][]float64, len(segs))
	for i, s := range segs {
		res[i] = r.residuals(s)
	}
	memory, df = 1, m
	shorter := 0.0
	for b := 1; b <= 16 && b*6 <= points; b *= 2 {
		var sum, count float64
		for i := range segs {
			sq, c := batches(res[i], b)
			sum, count = sum+sq, count+c
		}
		if count <= 0 {
			continue
		}
		v := sum / count
		if b == 1 || v > spread {
			spread, memory = v, b
		}
		if b > 1 && 2*v-shorter > spread {
			spread, memory = 2*v-shorter, b
		}
		shorter = v
		if b == 1 {
			point = v
		}
	}
	if memory > 1 {
		// Batches that show no more than chance does (Bartlett's estimate has the relative variance 4b/3m: Priestley, Spectral
		// Analysis and Time Series, 1981, table 6.1) are kept, as the wide side, but their number is not what the estimate rests on.
		df = m / 3
		if spread > point*(1+2*math.Sqrt(4*float64(memory)/(3*m))) {
			df = max(1.5*m/float64(memory), 1)
		}
	}
	switch {
	case r.Binomial && spread < 1:
		spread, memory, df = 1, 1, 1e9 // the binomial's is known, not estimated
	case !r.Binomial:
		spread = max(spread, leastSpread)
	}
	return spread, min(point, spread), memory, df
}

// residuals are a segment's points less its level, each of variance 1 if the level implied all there is. Gaps are left
// out: what lies on both sides of one becomes neighbours.
func (r Ratio) residuals(s segment) []float64 {
	out := make([]float64, 0, s.level.points)
	p := s.level.ratio()
	for i := s.from; i < s.to; i++ {
		if r.N[i] <= 0 {
			continue
		}
		e := 0.0
		if s.variance > 0 {
			e = (r.K[i] - p*r.N[i]) / math.Sqrt(r.N[i]*s.variance)
		}
		out = append(out, e)
	}
	return out
}

// batches is the sum of squares of all sums of b neighbours, divided by b, and what to divide it by. Subtracting a mean of m
// points takes the part b/m from the variance of such a sum, if nothing is remembered beyond it.
func batches(res []float64, b int) (sum, count float64) {
	m := len(res)
	if m <= b {
		return 0, 0
	}
	var run float64
	for i, e := range res {
		run += e
		if i >= b {
			run -= res[i-b]
		}
		if i >= b-1 {
			sum += run * run / float64(b)
		}
	}
	return sum, float64(m-b+1) * (1 - float64(b)/float64(m))
}

// Test is the best split of from..to with its significance. The p-value is that of the largest of all splits. ok is false
// where there is too little to say anything.
func (r Ratio) Test(from, to int, b Bounds) (f Fit, p float64, ok bool) {
	b = b.orDefaults()
	at, _ := r.Best(from, to, b)
	if at < 0 {
		return Fit{}, 1, false
	}
	f = r.Measure(from, at, to)
	return f, r.MaxP(f, b), true
}

// MaxP is the p-value of f as the largest of all splits that b allows in what f compares.
func (r Ratio) MaxP(f Fit, b Bounds) float64 {
	b = b.orDefaults()
	total := f.BeforeN + f.AfterN
	points := f.BeforePoints + f.AfterPoints
	first, last := r.part(f.From, f.To, b.Before)/total, r.part(f.From, f.To, points-b.After)/total
	return MaxP(f.P, first, last, points-b.Before-b.After+1)
}

// part is the sum of the first points of N.
func (r Ratio) part(from, to, points int) (sum float64) {
	for i := from; i < to && points > 0; i++ {
		if r.N[i] > 0 {
			sum += r.N[i]
			points--
		}
	}
	return sum
}

// Segments are the change points of r: the best split, and the same on both sides of it (binary segmentation: Scott and
// Knott, Biometrics 30, 1974), where it stands out of what neighbouring points differ by. That is easily met where points
// remember; so then the least certain that does not hold between its neighbours at p, measured by [Ratio.Measure], is taken out,
// until all do, as in Hunter. At most 16 are looked at; a series with more has no levels.
func (r Ratio) Segments(b Bounds, p float64) []int {
	b = b.orDefaults()
	noise := math.Sqrt(r.local())
	var cuts []int
	todo := [][2]int{{0, len(r.N)}}
	for len(todo) > 0 && len(cuts) < 16 {
		s := todo[0]
		todo = todo[1:]
		inner := b
		if s[0] > 0 {
			inner.Before = b.After // a short state between two changes is a state, too
		}
		at, z := r.Best(s[0], s[1], inner)
		if at < 0 || noise <= 0 || MaxP(NormalP(z/noise), 0, 0, s[1]-s[0]) > 1e-3 {
			continue
		}
		cuts = append(cuts, at)
		todo = append(todo, [2]int{s[0], at}, [2]int{at, s[1]})
	}
	slices.Sort(cuts)
	for len(cuts) > 0 {
		worst, at := p, -1
		for i := range cuts {
			f := r.Measure(edge(cuts, i-1, 0), cuts[i], edge(cuts, i+1, len(r.N)))
			if f.P > worst {
				worst, at = f.P, i
			}
		}
		if at < 0 {
			break
		}
		cuts = slices.Delete(cuts, at, at+1)
	}
	return cuts
}

// local is the variance of a point, in units of what the overall level implies, by the differences of neighbouring means of
// three points: their median does not see a few changes and spikes. What is remembered for long it does not see, either.
func (r Ratio) local() float64 {
	all := r.level(0, len(r.N))
	unit := r.unitVariance(all)
	if unit <= 0 {
		return 0
	}
	const block = 3
	var diffs []float64
	var k, n, last, lastN float64
	points := 0
	for i := range r.N {
		if r.N[i] <= 0 {
			continue
		}
		k, n = k+r.K[i], n+r.N[i]
		if points++; points%block > 0 {
			continue
		}
		if lastN > 0 {
			diffs = append(diffs, math.Abs(k/n-last)/math.Sqrt(unit*(1/n+1/lastN)))
		}
		last, lastN, k, n = k/n, n, 0, 0
	}
	if len(diffs) == 0 {
		return 0
	}
	slices.Sort(diffs)
	// Half of a normal's absolute values are below 0.6745 deviations.
	v := diffs[len(diffs)/2] / 0.6745
	floor := leastSpread
	if r.Binomial {
		floor = 1
	}
	return max(v*v, floor)
}

func edge(cuts []int, i, outside int) int {
	if i < 0 || i >= len(cuts) {
		return outside
	}
	return cuts[i]
}

// When is the 95 % interval of where f's change is, in points: from first to last. The place of the largest likelihood
// ratio has the distribution of Bai, Estimation of a change point in multiple regression models (Review of Economics and
// Statistics 79, 1997): half-width 11 variances over the square of the change.
func (f Fit) When() (first, last int) {
	if f.Diff == 0 || f.AfterN <= 0 || f.BeforeN <= 0 {
		return f.From, f.To
	}
	// The variance of one point, long-run: the error's square times the points that it rests on.
	perPoint := max(f.BeforeErr*f.BeforeErr*float64(f.BeforePoints), f.AfterErr*f.AfterErr*float64(f.AfterPoints))
	h := 11 * perPoint / (f.Diff * f.Diff)
	if h > float64(f.To-f.From) {
		return f.From, f.To
	}
	return max(f.From, f.At-int(h)-1), min(f.To, f.At+int(h)+1)
}

// Line fits a straight line to from..to by weighted least squares. Before and After are its ends, P that of its slope; the spread
// is that around the line.
func (r Ratio) Line(from, to int) Fit {
	all := r.level(from, to)
	f := Fit{From: from, At: from, Until: from, Settled: from, To: to, P: 1, BeforeN: all.n / 2, AfterN: all.n / 2, BeforeK: all.k / 2, AfterK: all.k / 2,
		BeforePoints: all.points / 2, AfterPoints: all.points - all.points/2}
	var sx, sxx, sxy float64
	for i := from; i < to; i++ {
		sx += r.N[i] * float64(i)
	}
	if all.n <= 0 || all.points < 4 {
		return f
	}
	mx, my := sx/all.n, all.ratio()
	for i := from; i < to; i++ {
		if r.N[i] > 0 {
			d := float64(i) - mx
			sxx += r.N[i] * d * d
			sxy += r.N[i] * d * (r.K[i]/r.N[i] - my)
		}
	}
	if sxx <= 0 {
		return f
	}
	slope := sxy / sxx
	bent := Ratio{K: make([]float64, to-from), N: r.N[from:to], Binomial: r.Binomial}
	for i := from; i < to; i++ {
		bent.K[i-from] = r.K[i] - r.N[i]*slope*(float64(i)-mx)
	}
	unit := r.unitVariance(all)
	f.Spread, f.Point, f.Memory, f.DF = bent.spread([]segment{{0, to - from, all, unit}})
	f.DF = max(f.DF-1, 1)
	f.Before, f.After = my+slope*(float64(from)-mx), my+slope*(float64(to-1)-mx)
	f.Diff = f.After - f.Before
	f.Err = math.Sqrt(f.Spread*unit/sxx) * float64(to-1-from)
	end := func(x float64) float64 { return math.Sqrt(f.Spread * unit * (1/all.n + (x-mx)*(x-mx)/sxx)) }
	f.BeforeErr, f.AfterErr = end(float64(from)), end(float64(to-1))
	f.finish()
	return f
}

// Trend compares the change in f with a straight line through the same points. step and line are how much of the
// variance around the mean each explains, in units of the spread: chi-square each with one degree of freedom if there is nothing.
func (r Ratio) Trend(f Fit) (step, line float64) {
	var sw, sx, sy, sxx, sxy, syy float64
	mean := (f.BeforeK + f.AfterK) / (f.BeforeN + f.AfterN)
	for i := f.From; i < f.To; i++ {
		w := r.N[i]
		if w <= 0 {
			continue
		}
		x, y := float64(i), r.K[i]/w-mean
		sw, sx, sy, sxx, sxy, syy = sw+w, sx+w*x, sy+w*y, sxx+w*x*x, sxy+w*x*y, syy+w*y*y
	}
	l := level{k: f.BeforeK + f.AfterK, n: f.BeforeN + f.AfterN}
	unit := f.Spread * r.unitVariance(l)
	if sw <= 0 || unit <= 0 {
		return 0, 0
	}
	da, db := f.Before-mean, f.After-mean
	step = (f.BeforeN*da*da + f.AfterN*db*db) / unit
	if d := sxx - sx*sx/sw; d > 0 {
		c := sxy - sx*sy/sw
		line = c * c / d / unit
	}
	return step, line
}
