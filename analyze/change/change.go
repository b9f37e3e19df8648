// Package change finds where the level of a series changes, and says how sure that is.
//
// Two families of methods are here. The one that [Segments] and [Test] are made of is the likelihood ratio of a change of a
// ratio k/n at the best of all split points, with the distribution of such a maximum, a spread that is estimated from the data
// and corrected for what neighbouring points have in common. It costs one pass. The other is the energy statistic of Matteson
// and James ([EDivisive]), and Hunter's variant of it ([Hunter]), which assumes less and costs the square of a series' length.
// docs/findings.md says how they compare.
//
// Everything is a pure function. Indexes of change points are of the first value of the new state.
package change

import "math"

// StudentP is the probability that |T| is at least |t| for Student's t with df degrees of freedom. 1 where df is not
// positive or t is no number.
func StudentP(t, df float64) float64 {
	switch {
	case math.IsNaN(t) || !(df > 0):
		return 1
	case math.IsInf(t, 0):
		return 0
	case df > 1e6:
		return NormalP(t)
	}
	// Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.1 with 26.5.27.
	return incompleteBeta(df/2, 0.5, df/(df+t*t))
}

// NormalP is the probability that |Z| is at least |z| for a standard normal Z.
func NormalP(z float64) float64 { return math.Erfc(math.Abs(z) / math.Sqrt2) }

// normalQuantile is z with NormalP(z) = p, by halving: math.Erfcinv goes by 1 - p, which has nothing left of a small p. Below
// 1e-300 it is that of 1e-300: further out no model of ours holds.
func normalQuantile(p float64) float64 {
	p = max(p, 1e-300)
	lo, hi := 0.0, 40.0
	for range 50 {
		if mid := (lo + hi) / 2; NormalP(mid) > p {
			lo = mid
		} else {
			hi = mid
		}
	}
	return (lo + hi) / 2
}

// studentQuantile is t with StudentP(t, df) = p, by halving.
func studentQuantile(p, df float64) float64 {
	lo, hi := 0.0, 2.0
	for StudentP(hi, df) > p && hi < 1e12 {
		lo, hi = hi, hi*2
	}
	for range 60 {
		if mid := (lo + hi) / 2; StudentP(mid, df) > p {
			lo = mid
		} else {
			hi = mid
		}
	}
	return (lo + hi) / 2
}

// MaxP is the p-value of the best of splits split points between the parts first and last (0 to 1) of a series, where point is
// the p-value of that one if it had been chosen before looking.
//
// The largest of a standardised Brownian bridge has the tail of Miller and Siegmund, Maximally selected chi square statistics
// (Biometrics 38, 1982), equation 1.1; point is turned into the normal deviate of the same probability, so that Student's and exact
// p-values fit in. Bonferroni's bound over the splits is smaller for short series; the lesser of both holds.
func MaxP(point, first, last float64, splits int) float64 {
	bound := point * float64(max(splits, 1))
	if !(first > 0 && first < last && last < 1) {
		return min(bound, 1)
	}
	z := normalQuantile(point)
	if z < 1 {
		return 1
	}
	density := math.Exp(-z*z/2) / math.Sqrt(2*math.Pi)
	tail := density * (4/z + (z-1/z)*math.Log(last*(1-first)/(first*(1-last))))
	return min(bound, tail, 1)
}

// splitP is the two-sided probability that of a and b together so many or more (or so few or fewer) fall on a's side, where
// each does with probability part: the exact test of two Poisson rates (Przyborowski and Wilenski, Biometrika 31, 1940). a and b
// need not be whole.
func splitP(a, b, part float64) float64 {
	if a+b <= 0 || !(part > 0 && part < 1) {
		return 1
	}
	more, fewer := 1.0, 1.0
	if a > 0 {
		more = incompleteBeta(a, b+1, part) // Abramowitz and Stegun, 26.5.24
	}
	if b > 0 {
		fewer = incompleteBeta(b, a+1, 1-part)
	}
	return min(2*min(more, fewer), 1)
}

// incompleteBeta is the regularised incomplete beta function I_x(a, b), by its continued fraction (NIST Digital Library of
// Mathematical Functions, 8.17.22) with the method of Lentz as Thompson and Barnett have it (J. Comput. Phys. 64, 1986). a and
// b are positive, x is from 0 to 1. The relative error is below 1e-9 for a and b of up to 1e5, far into the tails, where it is needed.
func incompleteBeta(a, b, x float64) float64 {
	switch {
	case x <= 0:
		return 0
	case x >= 1:
		return 1
	case x > (a+1)/(a+b+2): // where the fraction converges fast
		return 1 - incompleteBeta(b, a, 1-x)
	}
	const tiny = 1e-300
	nonzero := func(v float64) float64 {
		if math.Abs(v) < tiny {
			return tiny
		}
		return v
	}
	la, _ := math.Lgamma(a)
	lb, _ := math.Lgamma(b)
	lab, _ := math.Lgamma(a + b)
	front := math.Exp(a*math.Log(x)+b*math.Log1p(-x)+lab-la-lb) / a
	c, d := 1.0, 1/nonzero(1-(a+b)*x/(a+1))
	h := d
	for m := 1.0; m < 10000; m++ {
		even := m * (b - m) * x / ((a + 2*m - 1) * (a + 2*m))
		d = 1 / nonzero(1+even*d)
		c = nonzero(1 + even/c)
		h *= d * c
		odd := -(a + m) * (a + b + m) * x / ((a + 2*m) * (a + 2*m + 1))
		d = 1 / nonzero(1+odd*d)
		c = nonzero(1 + odd/c)
		h *= d * c
		if math.Abs(d*c-1) < 1e-14 {
			break
		}
	}
	return min(front*h, 1)
}

// BenjaminiHochberg turns p-values of tests series, of which those not given are 1, into q-values: what is reported with q of
// at most a has an expected share of at most a of false reports (Benjamini and Hochberg, Controlling the false discovery rate,
// J. R. Statist. Soc. B 57, 1995). It holds for tests that are independent or that depend positively on each other (Benjamini
// and Yekutieli, Annals of Statistics 29, 2001). ps must be sorted; the result is beside it.
func BenjaminiHochberg(ps []float64, tests int) []float64 {
	return stepUp(ps, float64(max(tests, len(ps))))
}

// BenjaminiYekutieli is the same for tests that depend on each other in any way (Benjamini and Yekutieli, theorem 1.3): as those
// of a function and all its callers do, which are nearly one test, and of shares, where one rises as others fall. It costs a factor of the
// logarithm of tests.
func BenjaminiYekutieli(ps []float64, tests int) []float64 {
	m := float64(max(tests, len(ps), 1))
	return stepUp(ps, m*(math.Log(m)+0.5772156649015329+1/(2*m)))
}

func stepUp(ps []float64, factor float64) []float64 {
	qs := make([]float64, len(ps))
	low := 1.0
	for i := len(ps) - 1; i >= 0; i-- {
		low = min(low, ps[i]*factor/float64(i+1))
		qs[i] = low
	}
	return qs
}
