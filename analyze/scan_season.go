package analyze

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/quantra-l/quantra/analyze/change"
)

const day = 24 * time.Hour

// seasons is a long table to look up what a function's share usually does at an hour of the day.
type seasons struct {
	t      *Table
	shares shares
}

func newSeasons(t *Table) *seasons { return &seasons{t, newShares(t)} }

// usual is what a function's share did in the hours of a table on each day before it: a row for each day, a column for
// each of the table's; NaN where nothing is known.
type usual struct {
	days   [][]float64
	shape  []float64 // what to divide a column by; nil is nothing
	season *seasons
	long   change.Ratio // the function's in the long table
}

// usual looks up to two weeks back. It is nil where the function was not there.
func (s *seasons) usual(t *Table, function, metric string) *usual {
	i, ok := slices.BinarySearchFunc(s.t.Functions, function, func(f Series, name string) int { return cmp.Compare(f.Function, name) })
	if !ok {
		return nil
	}
	values := s.t.Functions[i].Self
	if metric != "self" {
		values = s.t.Functions[i].Full
	}
	r := s.shares.ratio(values, nil)
	u := &usual{season: s, long: r}
	middle := t.Start.Sub(s.t.Start) + t.Step/2
	columns := time.Duration(t.Steps())
	for d := time.Duration(1); d <= 14 && middle+(columns-1)*t.Step >= d*day; d++ { // further back the table has nothing
		row := make([]float64, columns)
		known := 0
		for c := range row {
			row[c] = s.at(r, middle+time.Duration(c)*t.Step-d*day)
			if !math.IsNaN(row[c]) {
				known++
			}
		}
		if known < len(row)*3/4 {
			row = nil
		}
		u.days = append(u.days, row)
	}
	u.findShape(t.Steps())
	return u
}

// at is the share at a moment, so long after the table's start, on the line between the middles of the columns around it; NaN if
// either is missing.
func (s *seasons) at(r change.Ratio, when time.Duration) float64 {
	x := float64(when)/float64(s.t.Step) - 0.5
	i := int(x) // towards 0, as the floor is from there on
	if x < 0 || i+1 >= s.t.Steps() || r.N[i] <= 0 || r.N[i+1] <= 0 {
		return math.NaN()
	}
	w := x - float64(i)
	return (1-w)*r.K[i]/r.N[i] + w*r.K[i+1]/r.N[i+1]
}

// hourly is the variance of the logarithm of a column, by how much neighbours differ once the usual difference at that time
// of day is taken out: by the median, so that past changes are not in it. 0 with less than a day of columns.
func (s *seasons) hourly(r change.Ratio) float64 {
	slots := max(1, int(day/s.t.Step))
	bySlot := make([][]float64, slots)
	n := 0
	for i := 1; i < len(r.N); i++ {
		if r.K[i] > 0 && r.K[i-1] > 0 && r.N[i] > 0 && r.N[i-1] > 0 {
			bySlot[i%slots] = append(bySlot[i%slots], math.Log(r.K[i]/r.N[i]/(r.K[i-1]/r.N[i-1])))
			n++
		}
	}
	if n < slots || n < 20 {
		return 0
	}
	var rest []float64
	for _, d := range bySlot {
		if len(d) < 3 {
			for _, v := range d { // too few to know what is usual: all of it counts
				rest = append(rest, math.Abs(v))
			}
			continue
		}
		sorted := slices.Sorted(slices.Values(d))
		m := (sorted[(len(d)-1)/2] + sorted[len(d)/2]) / 2
		for _, v := range d {
			rest = append(rest, math.Abs(v-m)*math.Sqrt(float64(len(d))/float64(len(d)-1)))
		}
	}
	slices.Sort(rest)
	sd := rest[len(rest)/2] / 0.6745
	return sd * sd / 2 // a difference has the variance of both
}

// wander is that of a column of step, if what the long table's columns vary by were made of independent ones.
func (u *usual) wander(step time.Duration) float64 {
	if u == nil {
		return 0
	}
	return u.season.hourly(u.long) * float64(u.season.t.Step) / float64(step)
}

// findShape is the median over days of each day's course, each over its own mean, drawn towards 1 by as much as it is noise.
func (u *usual) findShape(columns int) {
	var shapes [][]float64
	for _, row := range u.days {
		if m := meanOf(row, 0, len(row)); m > 0 {
			shape := make([]float64, columns)
			for c, v := range row {
				shape[c] = v / m
			}
			shapes = append(shapes, shape)
		}
	}
	if len(shapes) < 2 {
		return
	}
	out := make([]float64, columns)
	var signal, noise float64
	col := make([]float64, 0, len(shapes))
	for c := range out {
		col = col[:0]
		for _, s := range shapes {
			if !math.IsNaN(s[c]) {
				col = append(col, s[c])
			}
		}
		out[c] = 1
		if len(col) < 2 {
			continue
		}
		slices.Sort(col)
		out[c] = (col[(len(col)-1)/2] + col[len(col)/2]) / 2
		_, variance := meanVariance(col)
		signal += (out[c] - 1) * (out[c] - 1)
		// The median varies by about half again as much as the mean.
		noise += math.Pi / 2 * variance / float64(len(col)-1)
	}
	if signal <= noise {
		return
	}
	for c := range out {
		out[c] = max(1+(1-noise/signal)*(out[c]-1), 0.05)
	}
	u.shape = out
}

// without is r with the usual course of the day taken out.
func (u *usual) without(r change.Ratio) change.Ratio {
	if u == nil || u.shape == nil {
		return r
	}
	k := make([]float64, len(r.K))
	for i := range k {
		k[i] = r.K[i] / u.shape[i]
	}
	return change.Ratio{K: k, N: r.N, Binomial: r.Binomial}
}

// explains says that the change f is no more than what the same hours of previous days had: within what 99 % of such days
// would, by Student's interval for one more of them; with less than four days to go by, twice the largest. The same
// day of last week counts by itself.
func (u *usual) explains(raw change.Ratio, f change.Fit) bool {
	if u == nil || f.Before <= 0 || f.After <= 0 {
		return false
	}
	log := func(before, after float64) (float64, bool) {
		if !(before > 0) || !(after > 0) {
			return 0, false
		}
		return math.Log(after / before), true
	}
	now, ok := log(level(raw, f.From, f.Until), level(raw, f.Settled, f.To))
	if !ok {
		return false
	}
	var past []float64
	for d, row := range u.days {
		l, ok := log(meanOf(row, f.From, f.Until), meanOf(row, f.Settled, f.To))
		if !ok {
			continue
		}
		if d+1 == 7 && math.Abs(now-l) < 0.5*math.Abs(now) {
			return true
		}
		past = append(past, l)
	}
	switch n := len(past); {
	case n == 0:
		return false
	case n < 4:
		most := 0.0
		for _, l := range past {
			most = max(most, math.Abs(l))
		}
		return math.Abs(now) <= 2*most
	default:
		mean, variance := meanVariance(past)
		err := math.Sqrt(variance * float64(n) / float64(n-1) * (1 + 1/float64(n)))
		return change.StudentP((now-mean)/err, float64(n-1)) > 0.01
	}
}

// withoutDays is a long table's series without its mean course of a day: each column over the mean of those at the same time of
// all days. A lasting step stays a step, as it is in all of them.
func (s *scan) withoutDays(r change.Ratio) change.Ratio {
	slots := int(day / s.t.Step)
	if day%s.t.Step != 0 || len(r.N) < 2*slots {
		return r
	}
	var sumK, sumN float64
	k, n := make([]float64, slots), make([]float64, slots)
	for i := range r.N {
		if r.N[i] > 0 {
			k[i%slots] += r.K[i]
			n[i%slots] += r.N[i]
			sumK, sumN = sumK+r.K[i], sumN+r.N[i]
		}
	}
	if sumK <= 0 {
		return r
	}
	p := sumK / sumN
	// A few values of the mean are added, so that hours of few samples do not swing.
	extra := 10.0
	if !r.Binomial {
		extra = p * sumN / float64(len(r.N)) / 10
	}
	out := change.Ratio{K: make([]float64, len(r.K)), N: r.N, Binomial: r.Binomial}
	for i := range out.K {
		j := i % slots
		out.K[i] = r.K[i] / ((k[j] + extra) / (n[j]*p + extra))
	}
	return out
}

// meanOf is the mean of row[from:to] without what is not known; NaN if that is all.
func meanOf(row []float64, from, to int) float64 {
	var sum float64
	n := 0
	for i := from; i < min(to, len(row)); i++ {
		if !math.IsNaN(row[i]) {
			sum += row[i]
			n++
		}
	}
	if n == 0 {
		return math.NaN()
	}
	return sum / float64(n)
}

// meanVariance is the mean of x and the mean square around it.
func meanVariance(x []float64) (mean, variance float64) {
	for _, v := range x {
		mean += v
	}
	mean /= float64(len(x))
	for _, v := range x {
		variance += (v - mean) * (v - mean)
	}
	return mean, variance / float64(len(x))
}
