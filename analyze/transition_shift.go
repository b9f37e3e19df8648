package analyze

import (
	"math"

	"gonum.org/v1/gonum/stat/distuv"
)

// edgeBlock is the logarithm of a quantile, of ns, over one time of the judged length, and the variance that its sample gives it.
type edgeBlock struct{ value, variance float64 }

// edgeShift is by how much a quantile is above its past, or below it.
type edgeShift struct {
	off    bool     // by a test: p and mean are that test's
	begin  int      // of the past, where what is judged begins: len(past) for now alone
	before Estimate // seconds, of the times before it was slow, or before now
	mean   float64  // logarithm of the ratio of the last two times
	ratio  float64  // of now
	se, df float64  // of ratio; 0 where nothing is known
	p      float64
}

const (
	// baselineTimes is how many times a level is the mean of: services go up and down over a day, so the nearest say most.
	baselineTimes = 12
	// slowTimes is how many times, up to now, are judged together: one alone is a spike until the next is as well.
	slowTimes = 2
	// The prior of a time's departure from the level: 10 %, with the weight of four times.
	priorSpread = 0.1
	priorTimes  = 4
)

// shiftGaps are how many times lie between the level and what is judged. What has been slow for hours would be in its own level, were they not left out.
var shiftGaps = [...]int{0, 2, 6, 14, 30, 46}

// shiftOf compares now with the past, the oldest first. Of the past the times from known on are slow for certain; without such, known is -1.
//
// What is expected of the last two times is the mean of the (up to twelve) before them. How far off that is by itself is seen in the past, where the
// same is done for every two times that have a past of their own: in these departures everything is contained that there is, the samples' sizes, the
// ups and downs from time to time, and the drift over a day. As there may be few, their mean square is moderated by a prior with the weight of
// four, as G. K. Smyth does for genes (Statistical Applications in Genetics and Molecular Biology 3, 2004). Student's t gives the probability of such a
// departure, or a larger one. The last two must both be more than half as far off. The same is done with gaps of 2, 6, 14, 30 and 46 times between, in the
// past as well, and the least probability of all is taken as often as there are (Bonferroni).
//
// It is zero where there are too few times.
func shiftOf(past []edgeBlock, now edgeBlock, known int) edgeShift {
	if len(past) < leastTimes {
		return edgeShift{}
	}
	all := newEdgeTimes(past, now)
	level := min(baselineTimes, (len(past)+1)/2)
	// The first is what holds if nothing is slow.
	out, begins, between := edgeShift{p: 1}, len(past), 0
	tested := 0
	for _, gap := range shiftGaps {
		begin := len(past) + 1 - slowTimes - gap
		if known >= 0 {
			begin, gap = min(begin, known), 0
		}
		if begin < leastTimes || begin < level {
			break
		}
		tested++
		mean, se, df := all.departure(begin, gap, level, slowTimes)
		least := all.mean(begin-level, begin) + mean/2
		if p := (distuv.StudentsT{Sigma: 1, Nu: df}).Survival(mean / se); p < out.p && min(now.value, past[len(past)-1].value) >= least {
			out.off, out.p, out.mean, begins, between = true, p, mean, begin, gap
		}
		if known >= 0 {
			break
		}
	}
	out.p = min(1, out.p*float64(max(1, tested)))
	out.begin, out.before = begins, levelOf(past[begins-level:begins])
	out.ratio, out.se, out.df = all.departure(begins, between, level, 1)
	return out
}

// fasterOf is shiftOf the other way: by how much a quantile is below its past. A level that the past had before is no news: what was
// slow for a time, and is not any more, did not become faster.
func fasterOf(past []edgeBlock, now edgeBlock) edgeShift {
	mirrored := make([]edgeBlock, len(past))
	for i, b := range past {
		mirrored[i] = edgeBlock{-b.value, b.variance}
	}
	s := shiftOf(mirrored, edgeBlock{-now.value, now.variance}, -1)
	if s.df == 0 {
		return s
	}
	level := -math.Log(s.before.Value * 1e9)
	s.before = Estimate{Value: math.Exp(level) / 1e9, Low: 1e-18 / s.before.High, High: 1e-18 / s.before.Low}
	s.mean, s.ratio = -s.mean, -s.ratio
	old := 0
	for _, b := range past[:s.begin] {
		if b.value < level+s.mean/2 {
			old++
		}
	}
	if old*10 > s.begin {
		s.off, s.p = false, 1
	}
	return s
}

// edgeTimes are the times of a step, now the last, as sums up to each.
type edgeTimes struct{ value, variance []float64 }

func newEdgeTimes(past []edgeBlock, now edgeBlock) edgeTimes {
	t := edgeTimes{make([]float64, len(past)+2), make([]float64, len(past)+2)}
	for i := range len(past) + 1 {
		b := now
		if i < len(past) {
			b = past[i]
		}
		t.value[i+1], t.variance[i+1] = t.value[i]+b.value, t.variance[i]+b.variance
	}
	return t
}

// mean is the mean value of the times from one on to before another.
func (t edgeTimes) mean(from, to int) float64 {
	return (t.value[to] - t.value[from]) / float64(to-from)
}

func (t edgeTimes) meanVariance(from, to int) float64 {
	return (t.variance[to] - t.variance[from]) / float64(to-from)
}

// departure is how far the last k times are above the level of those before begin, with the standard error that the past before begin shows, of k
// times and a level before them with a gap between.
func (t edgeTimes) departure(begin, gap, level, k int) (mean, se, df float64) {
	n := len(t.value) - 1
	sampling := t.meanVariance(0, begin)
	sum := priorTimes * (priorSpread*priorSpread + sampling) * (1/float64(k) + 1/float64(level))
	seen := 0
	for at := level + gap; at+k <= begin; at++ {
		off := t.mean(at, at+k) - t.mean(at-gap-level, at-gap)
		sum += off * off / float64(k) // as departures of k times that overlap are no k departures
		seen++
	}
	df = priorTimes + float64(seen)/float64(k)
	own := max(0, t.meanVariance(n-k, n)-sampling) // samples may be smaller than they were
	return t.mean(n-k, n) - t.mean(begin-level, begin), math.Sqrt(sum/df + own/float64(k)), df
}

// levelOf is the geometric mean of times, in seconds, with its interval.
func levelOf(times []edgeBlock) Estimate {
	m, squares, sampling := 0.0, 0.0, 0.0
	for _, b := range times {
		m += b.value / float64(len(times))
		sampling += b.variance / float64(len(times))
	}
	for _, b := range times {
		squares += (b.value - m) * (b.value - m)
	}
	df := priorTimes + float64(len(times)-1)
	spread := (priorTimes*(priorSpread*priorSpread+sampling) + squares) / df
	half := studentQuantile(df) * math.Sqrt(spread/float64(len(times)))
	return Estimate{Value: math.Exp(m) / 1e9, Low: math.Exp(m-half) / 1e9, High: math.Exp(m+half) / 1e9}
}

// studentQuantile is Student's t of 0.975.
func studentQuantile(df float64) float64 { return distuv.StudentsT{Sigma: 1, Nu: df}.Quantile(0.975) }
