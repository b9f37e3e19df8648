package zerotrust

import (
	"math"
	"time"
)

// Activity is what a principal did, in counts since it was last told.
type Activity struct {
	Messages, Bytes uint64
	Faults          uint64 // requests that were refused, or made no sense
	Resources       uint64 // resources that it had not asked for in this session before
}

// The baseline's numbers. Those of issue 7, item 5, first.
const (
	emaWeight  = 0.1 // of the newest interval
	zThreshold = 2.5 // standard deviations
	// A score is z / (2 zThreshold), 0 to 1: so what is past the threshold scores more than scoreBasic. To do less than
	// usual takes nothing from anybody, and scores 0.
	scoreBasic     = 0.5 // above: down to basic
	scoreReverify  = 0.7 // at or above: verify again now
	scoreUntrusted = 0.9 // above: down to untrusted

	// interval is over how long a rate is taken: current ones, not averages of a lifetime.
	interval = 10 * time.Second
	// Until so many active intervals were seen, nothing is scored: 1/emaWeight, the memory of the average.
	scoreAfter = 10
	// The anchor is the plain mean and deviation of so many first active intervals (10 minutes), and then frozen.
	anchorAfter = 60
	// What differs by less than about e^(2.5*0.2), two thirds, is never out of the ordinary, however even a flow was.
	leastDeviation = 0.2
	// CUSUM on deviations from the anchor: what is within cusumSlack does not add up; the sum of the rest alarms at cusumLimit. For
	// independent normal values a false alarm comes once in about 10^9 intervals (Siegmund's approximation of the run length); a shift of
	// 3 deviations is seen in 6.
	cusumSlack   = 1.0
	cusumLimit   = 10.0
	cusumLargest = 5.0 // of one interval, so that a spike alone is no drift
)

const measures = 4

// Baseline is how a principal behaves: for each measure the average and variance of ln(1 + rate per second), exponentially weighted, and
// beside them an anchor that does not move. The average follows whatever changes slowly; the anchor is what shows it.
type Baseline struct {
	N          uint32 // active intervals seen
	Mean, Var  [measures]float32
	Anchor     [measures]float32 // mean of the first intervals
	Spread     [measures]float32 // their deviation; the sum of squares until there are anchorAfter of them
	Up, Down   [measures]float32 // the sums of CUSUM
	Reanchored uint32            // how often a drift was seen, verified and then taken for ordinary
	Learnt     uint8             // intervals behind the anchor, up to anchorAfter
	last       float64           // the score of the interval before; not kept
}

// rates are what is compared: logarithms, as traffic varies by factors.
func (a *Activity) rates(d time.Duration) (x [measures]float64) {
	s := d.Seconds()
	for i, n := range [measures]uint64{a.Messages, a.Bytes, a.Faults, a.Resources} {
		x[i] = math.Log1p(float64(n) / s)
	}
	return x
}

// look compares an interval with what was, and learns from it. The score is the lesser of this interval's and the one before it: one
// that stands alone is a burst. drift says that the flow has moved away from the anchor, however slowly.
//
// An interval without any activity is not looked at: silence neither alarms nor teaches that activity is strange.
func (b *Baseline) look(a Activity, d time.Duration) (score float64, drift bool) {
	if a == (Activity{}) || d <= 0 {
		return 0, false
	}
	worst := 0.0
	for i, x := range a.rates(d) {
		mean, sd := float64(b.Mean[i]), max(leastDeviation, math.Sqrt(float64(b.Var[i])))
		z := (x - mean) / sd
		if b.N >= scoreAfter {
			worst = max(worst, min(1, z/(2*zThreshold)))
			// A burst does not teach more than the largest ordinary value would.
			x = mean + sd*max(-zThreshold, min(zThreshold, z))
		}
		w := max(emaWeight, 1/float64(b.N+1)) // a plain mean until there are 1/emaWeight
		delta := x - mean
		b.Mean[i] = float32(mean + w*delta)
		b.Var[i] = float32((1 - w) * (float64(b.Var[i]) + w*delta*delta))
	}
	if b.anchored() {
		drift = b.cusum(a.rates(d))
	} else {
		b.anchor(a.rates(d))
	}
	if b.N < math.MaxUint32 {
		b.N++
	}
	score = min(worst, b.last)
	b.last = worst
	return score, drift
}

func (b *Baseline) anchored() bool { return b.Learnt >= anchorAfter }

// anchor takes one of the first intervals into the anchor (Welford's update).
func (b *Baseline) anchor(x [measures]float64) {
	b.Learnt++
	for i := range x {
		delta := x[i] - float64(b.Anchor[i])
		b.Anchor[i] += float32(delta / float64(b.Learnt))
		b.Spread[i] += float32(delta * (x[i] - float64(b.Anchor[i])))
	}
	if b.anchored() {
		for i := range b.Spread {
			b.Spread[i] = float32(math.Sqrt(max(0, float64(b.Spread[i])) / (anchorAfter - 1)))
		}
	}
}

func (b *Baseline) cusum(x [measures]float64) (drift bool) {
	for i := range x {
		z := (x[i] - float64(b.Anchor[i])) / max(leastDeviation, float64(b.Spread[i]))
		z = max(-cusumLargest, min(cusumLargest, z))
		b.Up[i] = float32(max(0, float64(b.Up[i])+z-cusumSlack))
		b.Down[i] = float32(max(0, float64(b.Down[i])-z-cusumSlack))
		drift = drift || b.Up[i] > cusumLimit || b.Down[i] > cusumLimit
	}
	return drift
}

// reanchor takes what is now for ordinary: the drift was seen, and its principal has shown again that it is itself.
func (b *Baseline) reanchor() {
	for i := range b.Anchor {
		b.Anchor[i], b.Spread[i] = b.Mean[i], float32(math.Sqrt(float64(b.Var[i])))
	}
	b.Up, b.Down = [measures]float32{}, [measures]float32{}
	b.Reanchored++
}
