package analyze

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/quantra-l/quantra/analyze/change"
)

// ScanOptions bound what a scan says. The zero value is usable: zero fields have the defaults beside them.
type ScanOptions struct {
	MinShare    float64 // the least change, as a share of the service: 0.0005, that is 0.05 %
	MinRelative float64 // the least change, relative to the value before: 0.05
	// Q is how many of the changes that are said may be false, on average, over all looks of a day: 0.05.
	Q float64
	// Looks is how often a day the scan is made, as each look is another chance to be wrong: 24 h over the table's step.
	Looks int
	// Family is the least number of series that a scan is corrected for: 500. So a small service's rate of false alarms
	// by series is no higher than a large one's.
	Family int
	// MinAge is how long a change must have lasted; younger ones are pending: 15 min, and 5 columns at least. In a
	// table with columns of half an hour or more it is a day.
	MinAge time.Duration
	// MinSamples is how many samples of a function there must be in the table, and how many the change must amount to: 50.
	MinSamples float64
}

func (o ScanOptions) orDefaults(step time.Duration) ScanOptions {
	o.MinShare = cmp.Or(o.MinShare, 0.0005)
	o.MinRelative = cmp.Or(o.MinRelative, 0.05)
	o.Q = cmp.Or(o.Q, 0.05)
	o.Looks = cmp.Or(o.Looks, max(1, int(24*time.Hour/step)))
	o.Family = cmp.Or(o.Family, 500)
	o.MinSamples = cmp.Or(o.MinSamples, 50)
	if o.MinAge == 0 {
		o.MinAge = 15 * time.Minute
		if step >= longStep {
			o.MinAge = 24 * time.Hour
		}
	}
	return o
}

// FirstWeek is o with what a change must be at least while there is no season of a week: a fifth of the function's share, 20
// minutes old, and ten times as sure, as the spread is known from two hours alone. Nobody knows yet what a batch, or the mix of
// an hour's requests, does to this service; a day or two of history say less of that than they seem to (docs/findings.md has
// the rates). Bounds in o that are stricter stay.
func FirstWeek(o ScanOptions) ScanOptions {
	o.MinRelative = max(o.MinRelative, 0.2)
	o.MinAge = max(o.MinAge, 20*time.Minute)
	if o.Q == 0 || o.Q > 0.005 {
		o.Q = 0.005
	}
	return o
}

// longStep is from where on a table's columns are for the long trend.
const longStep = 30 * time.Minute

// Change is a lasting change of one function's share of its service.
type Change struct {
	Function string
	Index    int    // in Table.Functions
	Metric   string // "self" or "total"

	// At is the column where the new state begins. What it is compared with is From to Until, which is At but where
	// another state was in between for a while. A change may take several steps, as a rollout does: After is measured
	// from column Settled on.
	From, Until, At, Settled int
	// Since is the beginning of column At; with 95 % it began between SinceFirst and SinceLast.
	Since, SinceFirst, SinceLast time.Time

	Before, After, Diff Estimate // shares of the service
	// BeforeSamples and AfterSamples are how many samples of the service both rest on; 0 where values are no samples.
	BeforeSamples, AfterSamples float64
	// Spread is the variance of a column, over what counting samples alone would give.
	Spread float64
	P, Q   float64
	// Gradual says that it grew or shrank all the time from From on, rather than at once.
	Gradual bool
	// Seasonal is the part of the difference that the same hours of previous days had, too, and that was taken out.
	Seasonal float64
}

// Scanned is what a scan found.
type Scanned struct {
	Changes []Change // lasting, certain and large enough, sorted by function and metric
	Pending []Change // the same, but too young to be said
	Tested  int      // series that were looked at
	// How many series changed in a way that is not said: what went away again, what happens at this hour every day,
	// what drifts with no beginning within the table, what is too small to matter.
	WentAway, Seasonal, Drifting, Small int
}

// ErrTable says that a table's parts do not fit together.
var ErrTable = errors.New("analyze: table is not well formed")

// check says what is wrong with t: lengths that differ, values that are no counts.
func (t *Table) check() error {
	n := t.Steps()
	switch {
	case t.Step <= 0:
		return fmt.Errorf("%w: step %v", ErrTable, t.Step)
	case len(t.Profiles) != n && t.Profiles != nil, len(t.Instances) != n && t.Instances != nil:
		return fmt.Errorf("%w: %d totals, %d profiles, %d instances", ErrTable, n, len(t.Profiles), len(t.Instances))
	case math.IsNaN(t.Unit) || t.Unit < 0 || math.IsInf(t.Unit, 0):
		return fmt.Errorf("%w: unit %g", ErrTable, t.Unit)
	}
	for i, v := range t.Total {
		if !(v >= 0) || math.IsInf(v, 0) {
			return fmt.Errorf("%w: total %g in column %d", ErrTable, v, i)
		}
	}
	for i := range t.Functions {
		f := &t.Functions[i]
		if len(f.Self) != n && f.Self != nil || len(f.Full) != n && f.Full != nil {
			return fmt.Errorf("%w: %q has %d self and %d full values, the table %d columns", ErrTable, f.Function, len(f.Self), len(f.Full), n)
		}
		for _, vs := range [][]float32{f.Self, f.Full} {
			for c, v := range vs {
				if !(v >= 0) || v > math.MaxFloat32 {
					return fmt.Errorf("%w: %q has %g in column %d", ErrTable, f.Function, v, c)
				}
			}
		}
	}
	return nil
}

// Columns is the part of t from column from to column to. It shares t's values.
func (t *Table) Columns(from, to int) *Table {
	part := func(v []float32) []float32 {
		if v == nil {
			return nil
		}
		return v[from:to]
	}
	u := *t
	u.Start = t.At(from)
	u.Total = t.Total[from:to]
	if t.Profiles != nil {
		u.Profiles = t.Profiles[from:to]
	}
	if t.Instances != nil {
		u.Instances = t.Instances[from:to]
	}
	u.Functions = make([]Series, len(t.Functions))
	for i, f := range t.Functions {
		u.Functions[i] = Series{f.Function, part(f.Self), part(f.Full)}
	}
	return &u
}

// shares turns a table's lines into ratios. Where values are no samples, totals are scaled to 1 on average.
type shares struct {
	n        []float64
	unit     float64
	binomial bool
}

func newShares(t *Table) shares {
	s := shares{n: make([]float64, t.Steps()), unit: t.Unit, binomial: t.Unit > 0}
	if !s.binomial {
		var sum float64
		points := 0
		for _, v := range t.Total {
			if v > 0 {
				sum += v
				points++
			}
		}
		s.unit = 1
		if points > 0 {
			s.unit = sum / float64(points)
		}
	}
	for i, v := range t.Total {
		s.n[i] = v / s.unit
	}
	return s
}

// ratio is values as shares, in k if it is long enough.
func (s shares) ratio(values []float32, k []float64) change.Ratio {
	k = slices.Grow(k[:0], len(s.n))[:len(s.n)]
	for i := range k {
		if i < len(values) {
			k[i] = float64(values[i]) / s.unit
		} else {
			k[i] = 0
		}
	}
	return change.Ratio{K: k, N: s.n, Binomial: s.binomial}
}

// Scan looks at every function of t for a change of its share, of its self values and of its full ones, that lasts until the
// end of t. season is a longer table of the same service and type before t, with columns of an hour or so, to tell what
// happens at this hour every day; nil is none. In a table with columns of half an hour or more, the daily swing is taken
// out by itself, and slow growth is found.
//
// A cheap look at all splits of every series goes first; what shows something is cut into segments, and the last of them
// is held to what it must be to be said: large, lasting, not a return to an earlier level, not the slope of a swing,
// not usual at this hour, and certain after correction for all series and all looks of a day (docs/findings.md).
//
// Equal tables give equal results. The error is [ErrTable].
func Scan(t, season *Table, o ScanOptions) (*Scanned, error) {
	if t == nil {
		return nil, fmt.Errorf("%w: nil", ErrTable)
	}
	if err := t.check(); err != nil {
		return nil, err
	}
	if season != nil {
		if err := season.check(); err != nil {
			return nil, fmt.Errorf("season: %w", err)
		}
	}
	s := newScan(t, season, o)
	s.wander = s.findWander()
	for i := range t.Functions {
		f := &t.Functions[i]
		if f.Self != nil {
			s.look(i, "self", f.Self)
		}
		if f.Full != nil && !slices.Equal(f.Self, f.Full) {
			s.look(i, "total", f.Full)
		}
	}
	return s.finish(), nil
}

type scan struct {
	t      *Table
	o      ScanOptions
	shares shares
	season *seasons // nil without
	long   bool
	bounds change.Bounds
	age    int     // columns that a change must have lasted
	wander float64 // of the service's large functions; see change.Fit.Wander
	k      []float64
	found  []Change
	young  []bool // beside found
	out    Scanned
}

func newScan(t, season *Table, o ScanOptions) *scan {
	s := &scan{t: t, o: o.orDefaults(t.Step), shares: newShares(t), long: t.Step >= longStep}
	s.age = max(5, int((s.o.MinAge+t.Step-1)/t.Step))
	// What was before must have lasted longer than a batch does, or a batch's end is taken for the beginning of something.
	s.bounds = change.Bounds{Before: 2 * max(10, s.age), After: 5}
	if s.long {
		s.bounds = change.Bounds{Before: s.age, After: max(5, s.age/2)}
	} else if season != nil {
		s.season = newSeasons(season)
	}
	return s
}

// findWander is how much the shares of the service's largest functions vary for longer than a column: the third quartile of
// them. They show what small ones have, too, but hide in the noise of few samples, and a single short series may miss it.
func (s *scan) findWander() float64 {
	const most, least = 64, 8
	type big struct {
		i   int
		sum float64
	}
	var all []big
	for i := range s.t.Functions {
		var sum float64
		for _, v := range s.t.Functions[i].Self {
			sum += float64(v)
		}
		if sum > 0 {
			all = append(all, big{i, sum})
		}
	}
	slices.SortStableFunc(all, func(a, b big) int { return cmp.Compare(b.sum, a.sum) })
	var found []float64
	for _, b := range all[:min(len(all), most)] {
		r := s.shares.ratio(s.t.Functions[b.i].Self, s.k)
		s.k = r.K
		if s.shares.binomial && b.sum/s.shares.unit < 50*float64(s.t.Steps()) {
			break
		}
		if f, _, ok := r.Test(0, len(r.N), s.bounds); ok {
			found = append(found, f.Wander())
		}
	}
	if len(found) < least {
		return 0
	}
	slices.Sort(found)
	return found[len(found)*3/4]
}

// screenZ is what a series must show, if its points varied as samples alone do, to be looked at closely. Where p-values of
// 1e-6 and less are asked for, it costs nothing that could be said.
const screenZ = 4

// look is the cheap test of a series: one pass. Whatever passes goes to [scan.judge].
func (s *scan) look(index int, metric string, values []float32) {
	s.out.Tested++
	r := s.shares.ratio(values, s.k)
	s.k = r.K
	var sum float64
	for _, k := range r.K {
		sum += k
	}
	if sum == 0 || s.shares.binomial && sum < s.o.MinSamples {
		return
	}
	at, z := r.Best(0, len(r.N), s.bounds)
	if at < 0 || s.shares.binomial && z < screenZ {
		return
	}
	// Half the bounds: the last of several changes may be larger than the one best split.
	if before, after := level(r, 0, at), level(r, at, len(r.N)); !s.matters(before, after, 0.5) {
		return
	}
	s.judge(index, metric, change.Ratio{K: slices.Clone(r.K), N: r.N, Binomial: r.Binomial})
}

func level(r change.Ratio, from, to int) float64 {
	var k, n float64
	for i := from; i < to; i++ {
		k, n = k+r.K[i], n+r.N[i]
	}
	if n == 0 {
		return 0
	}
	return k / n
}

// matters says whether a change is large enough, by the bounds times part.
func (s *scan) matters(before, after, part float64) bool {
	d := math.Abs(after - before)
	return d >= s.o.MinShare*part && d >= before*s.o.MinRelative*part
}

// judge holds a series to all that its last change must be.
func (s *scan) judge(index int, metric string, raw change.Ratio) {
	c := Change{Function: s.t.Functions[index].Function, Index: index, Metric: metric}
	r := raw
	var usual *usual
	switch {
	case s.long:
		r = s.withoutDays(raw)
	case s.season != nil:
		usual = s.season.usual(s.t, c.Function, metric)
		r = usual.without(raw)
	}
	f, p, verdict := s.shape(r, usual)
	switch verdict {
	case wentAway:
		s.out.WentAway++
		return
	case drifts:
		s.out.Drifting++
		return
	case nothing:
		return
	case grows:
		c.Gradual = true
	}
	if !s.matters(f.Before, f.After, 1) || s.shares.binomial && math.Abs(f.Diff)*f.AfterN < s.o.MinSamples {
		s.out.Small++
		return
	}
	if usual.explains(raw, f) {
		s.out.Seasonal++
		return
	}
	c.measured(s.t, f, p, raw)
	s.found = append(s.found, c)
	s.young = append(s.young, !c.Gradual && f.AfterPoints < s.age)
}

type verdict int

const (
	nothing  verdict = iota
	wentAway         // it changed, and it is back
	drifts           // it changes all the time, in a table too short to say more
	grows            // it changes all the time
	steps            // it changed, and stays
)

// shape finds out which of these a series is, and measures it.
func (s *scan) shape(r change.Ratio, u *usual) (change.Fit, float64, verdict) {
	cuts := r.Segments(s.bounds, 1e-4)
	if len(cuts) == 0 {
		if s.long { // a slope has no place to cut at
			return s.growth(r)
		}
		return change.Fit{}, 1, nothing
	}
	f, back := s.last(r, cuts)
	if back || s.fades(r, f) {
		return f, 1, wentAway
	}
	switch step, line := s.trend(r, f); {
	case line <= step-4:
		f = f.WithWander(max(s.wander, u.wander(s.t.Step)), 60)
		return f, r.MaxP(f, s.bounds), steps
	case s.long:
		return s.growth(r)
	}
	return f, 1, drifts
}

// growth measures a straight line through all of a long table, if the days agree with it: of all pairs of days, four of five
// are in its order (Kendall's tau of 0.6), and there are seven.
func (s *scan) growth(r change.Ratio) (change.Fit, float64, verdict) {
	f := r.Line(0, len(r.N))
	slots := int(day / s.t.Step)
	var days []float64
	for i := 0; i+slots <= len(r.N); i += slots {
		days = append(days, level(r, i, i+slots))
	}
	agree, pairs := 0, 0
	for i := range days {
		for j := range i {
			pairs++
			if (days[i]-days[j])*f.Diff > 0 {
				agree++
			}
		}
	}
	if len(days) < 7 || agree*5 < pairs*4 {
		return f, 1, drifts
	}
	return f, f.P, grows
}

// measured fills in what f says.
func (c *Change) measured(t *Table, f change.Fit, p float64, raw change.Ratio) {
	c.From, c.Until, c.At, c.Settled = f.From, f.Until, f.At, f.Settled
	first, last := f.When()
	if c.Gradual {
		first, last = f.From, f.From
	}
	c.Since, c.SinceFirst, c.SinceLast = t.At(f.At), t.At(first), t.At(last)
	c.Before = estimate(f.Before, f.BeforeErr, f.DF)
	c.After = estimate(f.After, f.AfterErr, f.DF)
	c.Diff = estimate(f.Diff, f.Err, f.DF)
	if c.Metric != "value" {
		c.Before, c.After = within01(c.Before), within01(c.After)
	}
	if raw.Binomial {
		c.BeforeSamples, c.AfterSamples = f.BeforeN, f.AfterN
	}
	c.Spread, c.P = f.Spread, p
	if !c.Gradual {
		c.Seasonal = level(raw, f.Settled, f.To) - level(raw, f.From, f.Until) - f.Diff
	}
}

func estimate(v, err, df float64) Estimate {
	low, high := change.Interval(v, err, df)
	return Estimate{v, low, high}
}

func within01(e Estimate) Estimate {
	return Estimate{min(max(e.Value, 0), 1), min(max(e.Low, 0), 1), min(max(e.High, 0), 1)}
}

// last is the last change among cuts: steps that follow each other in one direction count as one (a rollout). It is compared
// with that earlier level, of those that lasted long enough, which is clearly nearest to the new one, else the last. back says that there is none that
// did, or that the new level is nearer to an earlier one than half of its distance from the one just left: a spike has ended.
func (s *scan) last(r change.Ratio, cuts []int) (f change.Fit, back bool) {
	end := len(r.N)
	bound := func(i int) int {
		switch {
		case i < 0:
			return 0
		case i >= len(cuts):
			return end
		}
		return cuts[i]
	}
	var levels []float64
	last := len(cuts)
	for {
		levels = levels[:0]
		for i := range last + 1 {
			levels = append(levels, level(r, bound(i-1), bound(i)))
		}
		if last < 2 {
			break
		}
		// A small step back after a large one (something else grew since, and took of its share) is no state of its own.
		if back, jump := levels[last]-levels[last-1], levels[last-1]-levels[last-2]; back*jump >= 0 || math.Abs(back) > 0.25*math.Abs(jump) {
			break
		}
		last--
		cuts = cuts[:last]
	}
	first := last // the run of steps is from levels[first-1] to levels[last]
	up := levels[last] > levels[last-1]
	for first > 1 && (levels[first-1] > levels[first-2]) == up {
		first--
	}
	f = r.MeasureSteps(bound(first-2), bound(first-1), bound(last-1), end)
	for i := first - 2; i >= 0; i-- {
		d := levels[last] - levels[i]
		if math.Abs(d) < 0.5*math.Abs(f.Diff) || d*f.Diff < 0 {
			return f, true
		}
		if bound(i)-bound(i-1) >= s.bounds.Before && math.Abs(d) < 0.8*math.Abs(f.Diff) {
			// What lies between the older level and the change was another state, for a while.
			f = r.MeasureSteps(bound(i-1), bound(i), bound(last-1), end)
			f.At = bound(first - 1)
		}
	}
	return f, f.BeforePoints < s.bounds.Before
}

// fades says that a change does not hold to the end: the last third of the new state, or the last five, three or two columns, have
// lost half of it, or it is all in a tenth of its points (FBDetect's went-away filter, SOSP 2024, asks the same).
func (s *scan) fades(r change.Ratio, f change.Fit) bool {
	n := f.To - f.Settled
	for _, last := range []int{n / 3, 5, 3, 2} {
		if (level(r, f.To-min(max(last, 2), n), f.To)-f.Before)*f.Diff < 0.5*f.Diff*f.Diff {
			return true
		}
	}
	// Two batches with a pause are no lasting change: three columns in the middle that are back, surely.
	unit := max(f.AfterErr*f.AfterErr*f.AfterN, 1e-300) // long-run variance of one unit of N
	for i := f.Settled; i+3 <= f.To; i++ {
		var k, n float64
		for j := i; j < i+3; j++ {
			k, n = k+r.K[j], n+r.N[j]
		}
		if n <= 0 {
			continue
		}
		if v := k / n; (v-f.Before)*f.Diff < 0.5*f.Diff*f.Diff && math.Abs(v-f.After) > 4.5*math.Sqrt(unit/n) {
			return true
		}
	}
	type point struct{ k, n float64 }
	var points []point
	for i := f.Settled; i < f.To; i++ {
		if r.N[i] > 0 {
			points = append(points, point{r.K[i], r.N[i]})
		}
	}
	slices.SortFunc(points, func(a, b point) int {
		c := cmp.Compare(a.k*b.n, b.k*a.n)
		if f.Diff > 0 {
			return c
		}
		return -c
	})
	var k, total float64
	for _, p := range points[:len(points)-(len(points)+9)/10] {
		k, total = k+p.k, total+p.n
	}
	return total <= 0 || (k/total-f.Before)*f.Diff < 0.5*f.Diff*f.Diff
}

// trend is how much a step and a straight line explain of what was compared, at the step that explains most.
func (s *scan) trend(r change.Ratio, f change.Fit) (step, line float64) {
	if at, _ := r.Best(f.From, f.To, s.bounds); at >= 0 {
		// The spread is f's: around a line's best step it would be the line's own.
		if g := r.Measure(f.From, at, f.To); g.BeforeN > 0 && g.AfterN > 0 {
			g.Spread = f.Spread
			return r.Trend(g)
		}
	}
	return r.Trend(f)
}

// finish corrects for all series and all looks, and sorts. What is pending is corrected by itself: a batch that moves half
// of the functions must not make room for less certain changes elsewhere.
func (s *scan) finish() *Scanned {
	tests := max(s.out.Tested, s.o.Family) * s.o.Looks
	for _, young := range []bool{false, true} {
		var order []int
		for i := range s.found {
			if s.young[i] == young {
				order = append(order, i)
			}
		}
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(s.found[a].P, s.found[b].P) })
		ps := make([]float64, len(order))
		for i, j := range order {
			ps[i] = s.found[j].P
		}
		qs := change.BenjaminiYekutieli(ps, tests)
		for i, j := range order {
			s.found[j].Q = qs[i]
		}
	}
	for i, c := range s.found { // in the order of functions
		switch {
		case !(c.Q <= s.o.Q):
		case s.young[i]:
			s.out.Pending = append(s.out.Pending, c)
		default:
			s.out.Changes = append(s.out.Changes, c)
		}
	}
	return &s.out
}
