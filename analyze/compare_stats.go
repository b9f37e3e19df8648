package analyze

import (
	"cmp"
	"math"
	"slices"

	"gonum.org/v1/gonum/mathext"
	"gonum.org/v1/gonum/stat/distuv"
)

// What spread is fitted to: functions with at least so many samples a replicate, where counting alone explains
// little, and at least so many of them.
const (
	fitSamples   = 8
	fitFunctions = 8
	maxPriorDF   = 100 // no agreement of functions is taken for more
	// Where there are fewer, what is assumed of the spread counts as much as so many degrees of freedom.
	assumedDF = 8
)

// varianceOf is the variance of the share of a function in a side, where the truth is p: counting, and
// what replicates differ by. It lacks the function's own factor.
func (c *comparer) varianceOf(s *compareSide, p float64) (counting, all float64) {
	counting = s.aVar * p * (1 - p)
	return counting, counting + s.bVar*c.tau2*c.spreads(p)
}

// spreads is by how much a share p varies where the cost of every function varies by a factor of its own, of the variance 1: by
// its own factor, and as it is a share by those of all others (c.squares is the sum of all shares' squares).
func (c *comparer) spreads(p float64) float64 {
	return p * p * ((1-p)*(1-p) + max(0, c.squares-p*p))
}

// leftover is a function's sum of squares about its share, and what it should be.
func (c *comparer) leftover(s *compareSide, m moments, tau2 float64) (have, want float64) {
	p := m.x / s.sum
	var n2 float64
	for _, n := range s.weight {
		n2 += n * n
	}
	return max(0, m.xx-2*p*m.xn+p*p*n2), s.aResid*p*(1-p) + s.bResid*tau2*c.spreads(p)
}

// df is the degrees of freedom that replicates give to each function's variance.
func (c *comparer) df() float64 { return float64(c.sides[0].n + c.sides[1].n - 2) }

// fitSpread finds what functions have in common: the spread between replicates, by which the median function varies as it
// should, and how far functions agree on it. Both are of self values, which divide the
// samples among functions, most finely.
func (c *comparer) fitSpread() {
	for f := range c.funcs {
		p := (c.sides[0].moments[mSelf][f].x + c.sides[1].moments[mSelf][f].x) / (c.sides[0].sum + c.sides[1].sum)
		c.squares += p * p
	}
	d := c.df()
	if d == 0 {
		c.tau2, c.phi0, c.assume = c.o.Spread*c.o.Spread, c.o.Overdispersion, true
		return
	}
	var usable []int
	for f := range c.funcs {
		enough := true
		for i := range c.sides {
			s := &c.sides[i]
			enough = enough && (s.n < 2 || s.moments[mSelf][f].x >= fitSamples*float64(s.n))
		}
		if enough {
			usable = append(usable, f)
		}
	}
	c.phi0 = 1
	if len(usable) < fitFunctions {
		c.tau2, c.phi0, c.d0, c.fewToFit = c.o.Spread*c.o.Spread, c.o.Overdispersion, assumedDF, true
		return
	}
	ratios := make([]float64, len(usable))
	at := func(tau2 float64) []float64 {
		for i, f := range usable {
			var have, want float64
			for side := range c.sides {
				if s := &c.sides[side]; s.n > 1 {
					h, w := c.leftover(s, s.moments[mSelf][f], tau2)
					have, want = have+h, want+w
				}
			}
			ratios[i] = have / want
		}
		return ratios
	}
	goal := distuv.ChiSquared{K: d}.Quantile(0.5) / d
	lo, hi := 0.0, 4.0 // of the variance: a function that differs by twice itself
	if median(at(0)) > goal {
		for range 60 {
			if mid := (lo + hi) / 2; median(at(mid)) > goal {
				lo = mid
			} else {
				hi = mid
			}
		}
	} else {
		hi = 0
	}
	c.tau2 = hi
	c.d0, c.phi0 = prior(at(hi), d)
}

// prior fits a scaled F distribution to variances on d degrees of freedom: how many more degrees of freedom their common
// value is worth, and that value (Smyth 2004, section 6.2).
func prior(variances []float64, d float64) (d0, s0 float64) {
	var e []float64
	floor := 1e-3 * median(slices.Clone(variances)) // an exact 0 has no logarithm and says nothing
	for _, v := range variances {
		if v = max(v, floor); v > 0 {
			e = append(e, math.Log(v)-mathext.Digamma(d/2)+math.Log(d/2))
		}
	}
	if len(e) < fitFunctions {
		return 0, 1
	}
	var mean, spread float64
	for _, x := range e {
		mean += x / float64(len(e))
	}
	for _, x := range e {
		spread += (x - mean) * (x - mean) / float64(len(e)-1)
	}
	if spread -= trigamma(d / 2); spread <= trigamma(maxPriorDF/2) {
		d0 = maxPriorDF
	} else {
		d0 = 2 * trigammaInverse(spread)
	}
	return d0, math.Exp(mean + mathext.Digamma(d0/2) - math.Log(d0/2))
}

// trigamma is the second derivative of log(gamma): Hurwitz's zeta at 2.
func trigamma(x float64) float64 { return mathext.Zeta(2, x) }

// trigammaInverse solves trigamma(x) = y, y > 0. trigamma falls all the way.
func trigammaInverse(y float64) float64 {
	lo, hi := 1e-8, 1e8
	for range 200 {
		mid := math.Sqrt(lo * hi)
		if trigamma(mid) > y {
			lo = mid
		} else {
			hi = mid
		}
	}
	return math.Sqrt(lo * hi)
}

func median(x []float64) float64 {
	if len(x) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(x))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// factors are by how much more a function varies in each side than the common model says, with their degrees of freedom; 0
// of them is for ever: what is assumed has none to count.
func (c *comparer) factors(m [2]moments) (phi, df [2]float64) {
	var pooled float64
	for i := range c.sides {
		s := &c.sides[i]
		if s.n < 2 {
			continue
		}
		have, want := c.leftover(s, m[i], c.tau2)
		if want > 0 {
			phi[i] = have / want
		} else {
			phi[i] = c.phi0
		}
		df[i] = float64(s.n - 1)
		pooled += phi[i] * df[i]
	}
	d := df[0] + df[1]
	for i := range phi {
		if d == 0 {
			phi[i] = c.phi0
			continue
		}
		if df[i] == 0 { // one replicate varies as those of the other side do
			phi[i], df[i] = pooled/d, d
		}
		phi[i] = (c.d0*c.phi0 + df[i]*phi[i]) / (c.d0 + df[i])
		df[i] += c.d0
	}
	return phi, df
}

// variance is that of a share in side i, with the function's factor, and not below that of counting.
func (c *comparer) variance(i int, p, phi float64) float64 {
	counting, all := c.varianceOf(&c.sides[i], p)
	if all *= phi; c.equal {
		return max(all, counting)
	}
	return all
}

// welch is the degrees of freedom of a sum of two variances (Welch and Satterthwaite), at most the limit, which is what all
// replicates and functions together say; 0 is infinite.
func welch(v, df [2]float64, limit float64) float64 {
	if df[0] == 0 || df[1] == 0 {
		return 0
	}
	sum := v[0] + v[1]
	if sum == 0 {
		return limit
	}
	return min(limit, sum*sum/(v[0]*v[0]/df[0]+v[1]*v[1]/df[1]))
}

// difference judges one function's values in both sides.
func (c *comparer) difference(m [2]moments) Difference {
	p := [2]float64{}
	for i := range p {
		p[i] = min(1, m[i].x/c.sides[i].sum)
	}
	phi, df := c.factors(m)
	limit := c.d0 + c.df()
	both := (m[0].x + m[1].x) / (c.sides[0].sum + c.sides[1].sum)
	var v, null [2]float64
	for i := range v {
		// Of a share of nothing the variance would be nothing: half a sample is added, as is usual for proportions.
		v[i] = c.variance(i, (m[i].x+0.5)/(c.sides[i].sum+1), phi[i])
		null[i] = c.variance(i, both, phi[i])
	}
	k := c.scale.Value
	d := Difference{
		Before: c.interval(p[0], v[0], df[0], 0, 1), After: c.interval(p[1], v[1], df[1], 0, 1),
		Change: c.interval(p[1]-p[0], v[0]+v[1], welch(v, df, limit), -1, 1),
	}
	scaled := [2]float64{k*k*v[0] + k*k*p[0]*p[0]*c.logVar, v[1]}
	d.Real = c.interval(p[1]-k*p[0], scaled[0]+scaled[1], welch(scaled, df, limit), math.Inf(-1), 1)
	d.P = 1
	if change, for1 := p[1]-p[0], p[1]-k*p[0]; change*for1 > 0 {
		// Under no difference both sides have the same share: the test's variance is at that share.
		nullScaled := [2]float64{k*k*null[0] + k*k*p[0]*p[0]*c.logVar, null[1]}
		d.P = max(twoSided(change, null[0]+null[1], welch(null, df, limit)), twoSided(for1, nullScaled[0]+nullScaled[1], welch(nullScaled, df, limit)))
	}
	d.Q = d.P
	return d
}

// interval is the 95 % interval of a value, within bounds.
func (c *comparer) interval(value, variance, df, least, most float64) Estimate {
	half := math.Sqrt(variance) * c.quantile(df)
	return Estimate{value, max(least, min(value, value-half)), min(most, max(value, value+half))}
}

// quantile is quantile975 of the next lower 64th of a degree of freedom: there are a thousand differences, and few of those.
func (c *comparer) quantile(df float64) float64 {
	key := uint32(min(df, 1e4) * 64)
	if key == 0 {
		return quantile975(df)
	}
	q, ok := c.quantiles[key]
	if !ok {
		q = quantile975(float64(key) / 64)
		c.quantiles[key] = q
	}
	return q
}

func quantile975(df float64) float64 {
	if df == 0 || df > 1e4 {
		return 1.959963984540054
	}
	// Newton's way up the convex tail, from a start below (Abramowitz and Stegun 26.7.5): a general quantile takes
	// fifty times as long, and there are several for each function.
	const z = 1.959963984540054
	student := distuv.StudentsT{Mu: 0, Sigma: 1, Nu: df}
	t := z + (z*z*z+z)/4/df + (5*math.Pow(z, 5)+16*z*z*z+3*z)/96/df/df
	for range 50 {
		step := (student.Survival(t) - 0.025) / student.Prob(t)
		if t += step; math.Abs(step) < 1e-7*t {
			break
		}
	}
	return t
}

// twoSided is the p-value of a difference with that variance.
func twoSided(diff, variance, df float64) float64 {
	if variance <= 0 || diff == 0 {
		return 1
	}
	return min(1, 2*upperTail(math.Abs(diff)/math.Sqrt(variance), df))
}

// upperTail is the probability of more than t.
func upperTail(t, df float64) float64 {
	if df == 0 || df > 1e4 {
		return 0.5 * math.Erfc(t/math.Sqrt2)
	}
	return distuv.StudentsT{Mu: 0, Sigma: 1, Nu: df}.Survival(t)
}

// adjust is the q-values of p-values (Benjamini and Hochberg 1995): the least rate of false discoveries at which each
// would be called.
func adjustBH(p []float64) []float64 {
	order := make([]int, len(p))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(p[a], p[b]) })
	q := make([]float64, len(p))
	least := 1.0
	for i := len(order) - 1; i >= 0; i-- {
		least = min(least, p[order[i]]*(float64(len(p))/float64(i+1)))
		q[order[i]] = least
	}
	return q
}

// fitScale finds what happened to the share of what did not change.
func (c *comparer) fitScale() {
	c.scale = Estimate{1, 1, 1}
	a, b := &c.sides[0], &c.sides[1]
	if len(a.ratios) == a.n && len(b.ratios) == b.n {
		k := (a.total / a.requests) / (b.total / b.requests)
		c.logVar = logRatioVariance(a.ratios) + logRatioVariance(b.ratios)
		if a.n+b.n == 2 {
			c.logVar = 2 * c.o.Spread * c.o.Spread
		}
		half := 1.96 * math.Sqrt(c.logVar)
		c.scale = Estimate{k, k * math.Exp(-half), k * math.Exp(half)}
		return
	}
	// Of functions with a few samples in both sides, each with the root of its share for weight: so that no one function,
	// however large, is half of it, and small ones add little noise.
	type vote struct{ log, weight, variance float64 }
	var votes []vote
	var sum float64
	for f := range c.funcs {
		m := [2]moments{a.moments[mSelf][f], b.moments[mSelf][f]}
		if m[0].x < 5 || m[1].x < 5 {
			continue
		}
		p := [2]float64{m[0].x / a.sum, m[1].x / b.sum}
		phi, _ := c.factors(m)
		v := vote{log: math.Log(p[1] / p[0]), weight: math.Sqrt(min(p[0], p[1]))}
		for i := range p {
			v.variance += c.variance(i, p[i], phi[i]) / p[i] / p[i]
		}
		votes = append(votes, v)
		sum += v.weight
	}
	if len(votes) < scaleFunctions {
		return
	}
	slices.SortFunc(votes, func(x, y vote) int { return cmp.Compare(x.log, y.log) })
	var half, log, squares float64
	for _, v := range votes {
		if half < sum/2 {
			log = v.log
		}
		half += v.weight
		squares += v.weight * v.weight * v.variance
	}
	// The median's variance is that of the mean times pi/2, for errors that are about normal.
	c.logVar = math.Pi / 2 * squares / sum / sum
	k, width := math.Exp(log), 1.96*math.Sqrt(c.logVar)
	c.scale = Estimate{k, k * math.Exp(-width), k * math.Exp(width)}
}

// scaleFunctions is how many functions say what did not change, at least.
const scaleFunctions = 5

// logRatioVariance is the variance of the log of a mean of ratios, 0 for one alone.
func logRatioVariance(x []float64) float64 {
	if len(x) < 2 {
		return 0
	}
	var mean, v float64
	for _, r := range x {
		mean += r / float64(len(x))
	}
	for _, r := range x {
		v += (r - mean) * (r - mean) / float64(len(x)-1)
	}
	return v / float64(len(x)) / mean / mean
}

func (c *comparer) scaleBy() string {
	switch a, b := &c.sides[0], &c.sides[1]; {
	case len(a.ratios) == a.n && len(b.ratios) == b.n:
		return "requests"
	case c.logVar > 0:
		return "functions"
	}
	return ""
}
