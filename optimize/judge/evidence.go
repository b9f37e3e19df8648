package judge

import (
	"math"
	"slices"

	"github.com/quantra-l/quantra/analyze"
)

const (
	// clipAt is how many standard deviations of news one window counts for at most, either way: nothing is dropped, and what keeps on adds up.
	clipAt = 3
	// Harm keeps on: of so many last windows all but one are past what is tolerated. What came and went in two is no fail.
	keepsOn = 4
	// A slope needs so many windows.
	slopeWindows = 20
)

// evidence is what the windows so far say for harm.
type evidence struct {
	log      float64 // see regression.logEvidence
	keeps    bool
	since    int // slot of the stage from which on there is most evidence; 0 is its beginning
	r        float64
	value    analyze.Estimate // the effect, on the compared scale, in the direction that is worse
	slopeLog float64
	slope    analyze.Estimate // an hour, likewise
	late     float64          // the lower limit of the slope of the stage's second half alone
	rises    bool             // the slope is more than is tolerated for certain enough not to pass, and nothing shows that it levels off
}

// news is what each window says that the one before did not tell: with an autocorrelation r, v - r times the last; after a gap, v at the same variance (Prais
// and Winsten 1954). scale is what a level becomes by it, and hours what a slope does.
type news struct {
	v, scale, hours float64
	stage           bool
}

// newsOf whitens the baseline and the stage.
func (x *measured) newsOf(r float64) []news {
	out := make([]news, 0, x.windows+x.baselineWindows)
	slotHours := x.g.width.Hours()
	for part, s := range [2][]float64{x.before(), x.stage()} {
		last := math.NaN()
		for i, v := range s {
			if !math.IsNaN(v) {
				n := news{stage: part == 1}
				h := float64(i) * slotHours
				if math.IsNaN(last) {
					f := math.Sqrt(1 - r*r)
					n.v, n.scale, n.hours = f*v, f, f*h
				} else {
					n.v, n.scale, n.hours = v-r*last, 1-r, h-r*(h-slotHours)
				}
				if part == 0 {
					n.hours = 0
				}
				out = append(out, n)
			}
			last = v
		}
	}
	return out
}

// noiseFloor is the least standard deviation of a window that is believed: windows that are all alike, as errors are at 0, do not make
// the first that differs an event.
func (x *measured) noiseFloor() float64 {
	if !x.log {
		return x.m.Floor / 2
	}
	return max(x.margin()/8, 1e-4)
}

// evidence is asked at every look, and counts every window again: nothing is kept from one to the next. What must not depend on the stage, the
// autocorrelation and the size of usual news, is taken from the baseline.
func (x *measured) evidence(o *Options) evidence {
	e := evidence{}
	if x.windows == 0 {
		return e
	}
	r := usualCorrelation
	if x.baseline {
		_, r = correlation(x.before())
	}
	e.r = r
	all := x.newsOf(r)
	noise, margin := x.noiseFloor(), x.margin()
	centre, spread := spreadOf(all, !x.baseline, noise)
	level := centre / (1 - r)
	if !x.baseline {
		level, margin = 0, margin+x.hosts(o) // hosts differ, and nothing tells by how much
	}
	var onset int
	if e.log, onset = x.byOnset(all, level, margin, clipAt*spread, noise*(1-r)); onset > 0 {
		live := x.stage()
		for i := range live {
			if !math.IsNaN(live[i]) {
				if onset--; onset < 0 {
					e.since = i
					break
				}
			}
		}
	}
	e.value = x.plainEffect(r, 0, o)
	e.keeps = x.keeps(margin)
	if x.m.Stock && x.windows >= slopeWindows {
		x.slope(&e, all, spread, noise*(1-r), o)
	}
	return e
}

// onsets is how many windows lie between two times at which harm may begin, and how many such times there are at most.
const (
	onsetEvery = 10
	mostOnsets = 32
)

// byOnset is the evidence for harm that began with the stage or at one of some times in it, as a leak that is full or a cache that is
// cold does, and which of them has most: the mean over all of them with weights that are fixed beforehand, half for the stage's beginning and the rest less and less, so that
// it is evidence as each of them is.
func (x *measured) byOnset(all []news, level, margin, most, noise float64) (log float64, onset int) {
	first := len(all)
	for first > 0 && all[first-1].stage {
		first--
	}
	every := onsetEvery
	for (len(all)-first)/every > mostOnsets {
		every *= 2
	}
	// Sums of all rows as they are where there is no harm, then those of the rows from an onset on are changed to what they are with it, the last first.
	sums := regression{cols: 1}
	for _, n := range all {
		sums.add([4]float64{0: n.scale, colValue: clip(n.v-level*n.scale, most)})
	}
	total, best := 0.0, 0.0
	for i := len(all) - 1; i >= first; i-- {
		n := &all[i]
		was, is := clip(n.v-level*n.scale, most), clip(n.v-(level+margin)*n.scale, most)
		s := &sums.s
		s[0][colEffect] += n.scale * n.scale
		s[0][colValue] += n.scale * (is - was)
		s[colEffect][colEffect] += n.scale * n.scale
		s[colEffect][colValue] += n.scale * is
		s[colValue][colValue] += is*is - was*was
		k := (i - first) / every
		if (i-first)%every != 0 || k > 0 && i+keepsOn > len(all) {
			continue
		}
		r, weight := sums, 0.5
		if k > 0 {
			weight /= float64(k) * float64(k+1)
		} else if !x.baseline { // the level is not known from before, but taken to be that of the control
			r.cols, r.s[0] = 0, [4]float64{}
		}
		evidence := weight * math.Exp(min(r.logEvidence(noise), 600))
		if total += evidence - weight; evidence >= best {
			best, onset = evidence, i-first
		}
	}
	return math.Log(max(1+total, 1e-300)), onset
}

// plainEffect is the difference of the means of the stage, from a slot on, and of before. Clipped windows
// are none to estimate from. Means vary by (1+r)/(1-r) times as much as those of independent windows.
func (x *measured) plainEffect(r float64, from int, o *Options) analyze.Estimate {
	var mean, square float64
	df := -1.0
	for part, s := range [2][]float64{x.stage()[from:], x.before()} {
		var n, sum, squares float64
		for _, v := range s {
			if !math.IsNaN(v) {
				n, sum = n+1, sum+v
			}
		}
		if n == 0 {
			continue
		}
		for _, v := range s {
			if !math.IsNaN(v) {
				squares += (v - sum/n) * (v - sum/n)
			}
		}
		mean += sum / n * float64(1-2*part)
		if noise := x.noiseFloor(); n > 1 {
			square += max(squares/(n-1), noise*noise) / n * (1 + r) / (1 - r)
		} else {
			square += noise * noise
		}
		df += n * (1 - r) / (1 + r)
	}
	if !x.baseline {
		square += x.hostError(o) * x.hostError(o)
	}
	half := math.Sqrt(square) * student975(max(df, 1))
	return analyze.Estimate{Value: mean, Low: mean - half, High: mean + half}
}

// hosts is 1.645 standard errors of the difference of both sides' hosts, where there is no baseline to tell it: in 5 % of cases it is more.
func (x *measured) hosts(o *Options) float64 { return 1.645 * x.hostError(o) }

func (x *measured) hostError(o *Options) float64 {
	spread := o.HostSpread
	if !x.log {
		spread *= max(0, x.expected)
	}
	return spread * math.Sqrt(1/float64(max(1, x.members))+1/float64(max(1, x.controlMembers)))
}

func clip(v, by float64) float64 { return min(max(v, -by), by) }

// spreadOf is the median of the news of the baseline (or the stage) and its standard deviation, by the median of absolute deviations,
// neither of which a few odd windows move.
func spreadOf(all []news, stage bool, least float64) (centre, spread float64) {
	v := make([]float64, 0, len(all))
	for _, n := range all {
		if n.stage == stage {
			v = append(v, n.v)
		}
	}
	slices.Sort(v)
	centre = middle(v)
	for i := range v {
		v[i] = math.Abs(v[i] - centre)
	}
	slices.Sort(v)
	return centre, max(1.4826*middle(v), least)
}

// keeps says that the last windows, all but one, are past the margin.
func (x *measured) keeps(margin float64) bool {
	var last []float64
	s := x.stage()
	for i := len(s) - 1; i >= 0 && len(last) < keepsOn; i-- {
		if !math.IsNaN(s[i]) {
			last = append(last, s[i])
		}
	}
	if len(last) < keepsOn {
		return false
	}
	slices.Sort(last)
	return last[1] > margin
}

// slope asks whether the treated rise against the control through the stage, beside the step that the change made: faster than would reach what
// is tolerated within the horizon. One that levels off, as a heap does that has been given room, does not count.
func (x *measured) slope(e *evidence, all []news, spread, noise float64, o *Options) {
	margin := x.margin() / o.Horizon.Hours()
	// What is clipped is news beside the usual level, of the stage and of before: a level counts in news by their scale, which is another after a gap.
	centre, _ := spreadOf(all, true, 0)
	base, _ := spreadOf(all, false, 0)
	centre, base = centre/(1-e.r), base/(1-e.r)
	r := regression{cols: 2}
	for _, n := range all {
		row := [4]float64{n.scale, 0, 0, clip(n.v-base*n.scale, clipAt*spread)}
		if n.stage {
			row[1], row[colEffect] = n.scale, n.hours
			row[colValue] = clip(n.v-centre*n.scale, 2*clipAt*spread) - margin*n.hours
		}
		r.add(row)
	}
	value, se, df, ok := r.effect(noise)
	if !ok {
		return
	}
	value += margin
	half := se * student975(df)
	e.slope = analyze.Estimate{Value: value, Low: value - half, High: value + half}
	// What levels off rises less and less: the stage's second half alone must rise by half as much at least, and more than its standard error.
	s, hours := x.stage(), x.g.width.Hours()
	early, earlySE := slopeOf(s[:len(s)/2], hours, e.r)
	late, se := slopeOf(s[len(s)/2:], hours, e.r)
	if late >= value/2 && late > se {
		e.slopeLog, e.late = r.logEvidence(noise), late-z975*se
	}
	// Whoever would let it pass must see that it bends, and surely, as there may be a look every few seconds: else a leak of which the second half
	// tells little would be let through.
	bends := late < early/2 && early-late > z99*math.Hypot(earlySE, se) && late-z975*se <= margin
	e.rises = e.slope.Low > margin && !bends
}

// sinceFirst is the evidence of a slope from the time on at which the change first came into force, of the treated that have it since then: a
// stage is too short to tell a slow leak, and the stages before it are data, too. The control of this stage had no change in those either. It is nothing
// where the stage is the first.
func (j *judging) sinceFirst(m Metric) (e evidence, x *measured) {
	in := j.in
	in.Treated = nil
	for i := range j.in.Treated {
		if a := j.in.Treated[i].Applied; !a.IsZero() && a.Before(in.From) {
			in.From = a
		}
	}
	if !in.From.Before(j.in.From) {
		return e, nil
	}
	for i := range j.in.Treated {
		if a := j.in.Treated[i].Applied; !a.IsZero() && a.Sub(in.From) <= j.o.WarmUp {
			in.Treated = append(in.Treated, j.in.Treated[i])
		}
	}
	g, err := gridOf(&in, m.Name)
	if err != nil {
		return e, nil
	}
	x = measure(&in, &j.o, &g, m)
	x.pair()
	return x.evidence(&j.o), x
}

// slopeOf is the least squares slope of what is there, an hour, with its standard error where neighbours have the correlation r.
func slopeOf(s []float64, slotHours, r float64) (slope, se float64) {
	var n, t, v, tt, tv, vv float64
	for i, y := range s {
		if !math.IsNaN(y) {
			h := float64(i) * slotHours
			n, t, v, tt, tv, vv = n+1, t+h, v+y, tt+h*h, tv+h*y, vv+y*y
		}
	}
	d := tt - t*t/n
	if n < 5 || d <= 0 {
		return 0, math.Inf(1)
	}
	slope = (tv - t*v/n) / d
	rest := max(0, vv-v*v/n-slope*slope*d)
	return slope, math.Sqrt(rest / (n - 2) / d * (1 + r) / (1 - r))
}

// student975 is the 97.5 % quantile of Student's t: by Abramowitz and Stegun 26.7.5, right to 0.1 % from 5 degrees of freedom on.
func student975(df float64) float64 {
	if df < 5 {
		return studentQuantile(0.975, max(df, 1))
	}
	const z = z975
	return z + (z*z*z+z)/4/df + (5*z*z*z*z*z+16*z*z*z+3*z)/96/df/df + (3*z*z*z*z*z*z*z+19*z*z*z*z*z+17*z*z*z-15*z)/384/df/df/df
}
