package judge

import (
	"math"

	"gonum.org/v1/gonum/mathext"
)

// regression is sums of squares and products of windows: nuisance columns (a level; for a slope the step of the change, too), the column of the
// effect, and the values, in this order. Rows are whitened: each is what its neighbour before did not tell.
type regression struct {
	n    int
	cols int // of nuisance
	s    [4][4]float64
}

func (r *regression) add(row [4]float64) {
	r.n++
	for i, a := range row {
		for j := i; j < 4; j++ {
			r.s[i][j] += a * row[j]
		}
	}
}

// The column of the effect, and of the values.
const (
	colEffect = 2
	colValue  = 3
)

// project takes the nuisance columns out of the effect and of the values (Gauss's elimination on the sums), and gives what is left of
// their squares and product. ok is false where nothing of the effect is left.
func (r *regression) project() (zz, zy, yy float64, ok bool) {
	s := r.s
	whole := s[colEffect][colEffect]
	for c := range r.cols {
		if s[c][c] <= 1e-9*r.s[c][c] || s[c][c] <= 0 {
			continue // it is a sum of those before
		}
		for i := c + 1; i < 4; i++ {
			f := s[c][i] / s[c][c]
			for j := i; j < 4; j++ {
				s[i][j] -= f * s[c][j]
			}
		}
	}
	zz, zy, yy = s[colEffect][colEffect], s[colEffect][colValue], s[colValue][colValue]
	return zz, zy, max(yy, 0), zz > 1e-9*whole && zz > 0
}

// slabs are the sizes of harm that evidence is sought for, as standard deviations of one window's news: about what can just be told in the
// end, and what is told at once. Evidence is the mean over both.
var slabs = [...]float64{1, 4}

// logEvidence is the logarithm of the evidence that the effect is above 0: the Bayes factor of a t-test with the right Haar prior on
// the nuisance and on the noise's standard deviation, and half a normal distribution as prior of the effect in units of that standard
// deviation. Under no effect it is a martingale of what remains when level and scale are divided out, whatever these are, so
// that by Ville's inequality it exceeds 1/a at any time with a probability of a at most: one may look as often as one likes (Robbins 1970;
// for nuisance parameters Hendriksen, de Heide and Gruenwald, "Optional stopping with Bayes factors", 2021, and Pérez-Ortiz et al.,
// "E-statistics, group invariance and anytime valid testing", 2024). The baseline counts as windows in which there was no change, so what is not
// known of level and noise is in it. noise is the least standard deviation of a window that is believed.
func (r *regression) logEvidence(noise float64) float64 {
	zz, zy, yy, ok := r.project()
	df := float64(r.n - r.cols)
	if !ok || df < 3 {
		return 0
	}
	yy += df * noise * noise
	if yy <= 0 {
		return 0
	}
	if zy <= 0 {
		return math.Log(1e-300) // it went the other way: none, which is no more than there is
	}
	sum := 0.0
	for _, tau := range slabs {
		c := tau * tau * zz
		rest := yy - c/(1+c)*zy*zy/zz
		if rest <= 1e-12*yy {
			rest = 1e-12 * yy
		}
		log := -0.5*math.Log1p(c) + df/2*math.Log(yy/rest)
		// Of the effect's posterior, a t distribution, the part above 0 (Abramowitz and Stegun 26.7.8: right to a percent from 3 degrees of
		// freedom on); a half normal prior has twice the density.
		t := c / (1 + c) * zy / zz / math.Sqrt(rest/df*c/(1+c)/zz)
		above := normalCDF(t * (1 - 0.25/df) / math.Sqrt(1+t*t/2/df))
		sum += math.Exp(min(log, 600)) * 2 * above / float64(len(slabs))
	}
	return math.Log(max(sum, 1e-300))
}

// effect is the least squares estimate of the effect with its standard error and degrees of freedom.
func (r *regression) effect(noise float64) (value, se, df float64, ok bool) {
	zz, zy, yy, ok := r.project()
	df = float64(r.n - r.cols - 1)
	if !ok || df < 1 {
		return 0, 0, 0, false
	}
	return zy / zz, math.Sqrt((max(0, yy-zy*zy/zz)/df + noise*noise) / zz), df, true
}

// studentCDF is the distribution function of Student's t (Abramowitz and Stegun 26.7.1, by the incomplete beta function).
func studentCDF(t, df float64) float64 {
	if math.IsInf(t, 0) || t*t > 1e12 {
		if t > 0 {
			return 1
		}
		return 0
	}
	p := 0.5 * mathext.RegIncBeta(df/2, 0.5, df/(df+t*t))
	if t > 0 {
		return 1 - p
	}
	return p
}

// studentQuantile is the t that studentCDF has p at, 0.5 <= p < 1.
func studentQuantile(p, df float64) float64 {
	lo, hi := 0.0, 1.0
	for studentCDF(hi, df) < p && hi < 1e6 {
		hi *= 2
	}
	for range 60 {
		if mid := (lo + hi) / 2; studentCDF(mid, df) < p {
			lo = mid
		} else {
			hi = mid
		}
	}
	return hi
}

// Autocorrelation of neighbouring windows: what is taken for granted where there is little to tell it from, how many windows that
// counts as much as, and what it is never taken to be below and above.
const (
	usualCorrelation = 0.5
	usualWeight      = 15
	leastCorrelation = 0.2
	mostCorrelation  = 0.9
)

// correlation is that of neighbouring windows in several stretches of slots, each about its own mean; NaN is a gap. An estimate from n windows is too
// low by (1+3r)/n (Kendall 1954). drawn is drawn towards what is usual. careful is not drawn down, and half a standard error higher, for whoever
// looks again and again: too low a correlation takes for news what is not.
func correlation(stretches ...[]float64) (drawn, careful float64) {
	var product, square, n float64
	for _, s := range stretches {
		mean, k := 0.0, 0.0
		for _, v := range s {
			if !math.IsNaN(v) {
				mean += v
				k++
			}
		}
		if k < 3 {
			continue
		}
		mean /= k
		last := math.NaN()
		for _, v := range s {
			if !math.IsNaN(v) {
				square += (v - mean) * (v - mean)
				if !math.IsNaN(last) {
					product += (v - mean) * (last - mean)
				}
			}
			last = v
		}
		n += k
	}
	if square <= 0 {
		return usualCorrelation, usualCorrelation
	}
	r := product / square
	r += (1 + 3*max(0, r)) / n
	drawn = (n*r + usualWeight*usualCorrelation) / (n + usualWeight)
	limit := func(r float64) float64 { return min(max(r, leastCorrelation), mostCorrelation) }
	return limit(drawn), limit(max(drawn, r+0.5*math.Sqrt(max(0, 1-r*r)/n)))
}
