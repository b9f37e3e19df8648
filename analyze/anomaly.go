package analyze

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/profile"
)

const (
	shapeCells = 512 // of a shape: past that the least are left out
	cellLeast  = 5   // samples that a cell must be expected to have to stand by itself
)

// Shape is what of a profile is compared with others: which of the reader's functions its samples are for, and in which function, not
// counting the runtime's, they end. It is a few kilobytes, whatever the profile's size.
type Shape struct {
	Instance string
	Version  string // of the service; "" is unknown
	From, To time.Time
	Samples  float64

	cells []shapeCell // sorted by owner and leaf
}

// Parts of a profile that are no function's.
const (
	shapeGC      = "garbage collection"
	shapeRuntime = "the runtime"
)

type shapeCell struct {
	owner, leaf string
	n           float64 // samples
}

// NewShape is the shape of a column of p, in samples of its period, of a window of an instance.
func NewShape(p *profile.Profile, col int, instance string, from, to time.Time) Shape {
	t := newWasteTree(p, col)
	t.unit = 1
	if p.SampleTypes[col].Unit == "nanoseconds" {
		t.unit = sampleUnit(p)
	}
	s := Shape{Instance: instance, From: from, To: to}
	type key struct{ owner, leaf string }
	m := map[key]float64{}
	leaf := make([]int32, t.Len())
	inGC := t.under(func(n string) bool { return gcMarking[n] || gcSweeping[n] })
	for i := 1; i < t.Len(); i++ {
		leaf[i] = int32(i)
		if k := t.code[t.Name[i]]; k == codeRuntime || k == codeRoot {
			leaf[i] = leaf[t.Parent[i]]
		}
		v := t.samples(float64(t.Self[i]))
		if v <= 0 {
			continue
		}
		s.Samples += v
		switch o, l := t.owner[i], leaf[i]; {
		case inGC[i]:
			m[key{shapeGC, shapeGC}] += v // wherever it is paid
		case l == 0:
			m[key{shapeRuntime, shapeRuntime}] += v
		case o == 0:
			m[key{t.name(l), t.name(l)}] += v
		default:
			m[key{t.name(o), t.name(l)}] += v
		}
	}
	for k, n := range m {
		s.cells = append(s.cells, shapeCell{k.owner, k.leaf, n})
	}
	if len(s.cells) > shapeCells {
		slices.SortFunc(s.cells, func(a, b shapeCell) int { return cmp.Or(cmp.Compare(b.n, a.n), compareCells(a, b)) })
		s.cells = s.cells[:shapeCells:shapeCells]
	}
	slices.SortFunc(s.cells, compareCells)
	return s
}

func compareCells(a, b shapeCell) int {
	return cmp.Or(strings.Compare(a.owner, b.owner), strings.Compare(a.leaf, b.leaf))
}

// AnomalyOptions says what is unlike enough. The zero value works.
type AnomalyOptions struct {
	// Moved is the least part of a profile that must be elsewhere than in the past, beyond what is usual from one to the
	// next; 0 is 0.1.
	Moved float64
	// Score is the least distance from the past, in robust standard deviations of the past's own; 0 is 3.5.
	Score float64
	// Least is how many samples a profile must have to be judged; 0 is 100.
	Least float64
	// Windows is how many profiles of an instance must be unlike, of those among now; 0 is 2. With 1 an odd minute in which the
	// load was another is told, too.
	Windows int
}

// minPast is how many shapes of the past are needed to know what is usual.
const minPast = 20

// MaxPast bounds how many shapes [Anomalies] takes as the past: the time that it takes goes with them.
const MaxPast = 2000

// ErrTooMuchPast says that there are more than [MaxPast] shapes.
var ErrTooMuchPast = errors.New("too much past")

// Anomalies are the profiles among now that are unlike past, which is of the same service and type: its windows of before, of all
// instances. Each is held to the past of its own version, as versions differ, and to its own instance's, if there is enough of it: what is like
// either is no anomaly. A version of which the past has fewer than 20 shapes is not judged; a comparison of versions is for those. Where most instances of a
// version are alike in it, it is one finding, else one for each instance.
//
// A profile is cut into parts, once by own function and once by own function and the function that samples end in; parts of which
// less than five samples are to be expected are put together. The distance from the past is the sum over parts of the squared
// difference by the variance of counting samples, chi-squared. Load changes from window to window, so that is more than chance would have; what
// is usual is taken from the past's own distances: their cube roots, which are nearly normal (Wilson and Hilferty
// 1931), by median and median absolute deviation, which a few anomalies in the past do not move. TestAnomaliesPlanted measures
// how well that does, and how much better than an isolation forest over the same parts. To weigh each part by how much it
// varies in the past was tried and found no better.
func Anomalies(service string, typ profile.Type, now, past []Shape, o AnomalyOptions) ([]Finding, error) {
	o.Moved, o.Score, o.Least = cmp.Or(o.Moved, 0.1), cmp.Or(o.Score, 3.5), cmp.Or(o.Least, 100)
	o.Windows = cmp.Or(o.Windows, 2)
	if !(o.Moved > 0 && o.Moved < 1 && o.Score > 0 && o.Least > 0 && o.Windows > 0) {
		return nil, fmt.Errorf("anomaly: options %+v: Moved must be between 0 and 1, Score, Least and Windows above 0", o)
	}
	if len(past) > MaxPast {
		return nil, fmt.Errorf("anomaly: %w: %d shapes, the limit is %d", ErrTooMuchPast, len(past), MaxPast)
	}
	versions, instances := map[string][]Shape{}, map[string][]Shape{}
	for _, s := range past {
		versions[s.Version] = append(versions[s.Version], s)
		instances[s.Version+"\x00"+s.Instance] = append(instances[s.Version+"\x00"+s.Instance], s)
	}
	judge := map[string][]Shape{}
	for _, s := range now {
		judge[s.Version] = append(judge[s.Version], s)
	}
	var out []Finding
	for _, v := range slices.Sorted(maps.Keys(judge)) {
		b := newBaseline(versions[v], o.Least)
		if b == nil {
			continue
		}
		own := func(instance string) *baseline { return newBaseline(instances[v+"\x00"+instance], o.Least) }
		out = append(out, b.judge(service, typ, judge[v], own, o)...)
	}
	return out, nil
}

// judge is Anomalies for a version. own is an instance's own past, nil where there is too little.
func (b *baseline) judge(service string, typ profile.Type, now []Shape, own func(instance string) *baseline, o AnomalyOptions) (out []Finding) {
	flagged, all := map[string][]Shape{}, map[string]bool{}
	worst := map[string]float64{}
	owned := map[string]*baseline{}
	for _, s := range now {
		all[s.Instance] = true
		if s.Samples < o.Least {
			continue
		}
		z, moved := b.score(s)
		if z < o.Score || moved < o.Moved {
			continue
		}
		mine, ok := owned[s.Instance]
		if !ok {
			mine = own(s.Instance)
			owned[s.Instance] = mine
		}
		if mine != nil {
			if y, m := mine.score(s); y < o.Score || m < o.Moved {
				continue
			}
		}
		flagged[s.Instance] = append(flagged[s.Instance], s)
		worst[s.Instance] = max(worst[s.Instance], z)
	}
	maps.DeleteFunc(flagged, func(_ string, s []Shape) bool { return len(s) < o.Windows })
	names := slices.Sorted(maps.Keys(flagged))
	if len(names) >= 2 && 2*len(names) > len(all) {
		var shapes []Shape
		top := 0.0
		for _, n := range names {
			shapes = append(shapes, flagged[n]...)
			top = max(top, worst[n])
		}
		return []Finding{b.finding(service, typ, shapes, top, "", len(all))}
	}
	for _, n := range names {
		out = append(out, b.finding(service, typ, flagged[n], worst[n], n, len(all)))
	}
	return out
}

// baseline is the past.
type baseline struct {
	owners map[string]float64 // samples of the past
	total  float64
	n      int // windows
	from   time.Time
	to     time.Time
	levels [2]anomalyParts
}

// anomalyParts is one way to cut profiles into parts: by owner, or finer. Part 0 is what has none of its own.
type anomalyParts struct {
	fine   bool
	index  map[[2]string]int // a cell's part; {owner, ""} is what is left of the owner
	mean   []float64         // share of the past
	middle float64           // of the past's own distances, and their deviation
	spread float64
	moved  float64 // median of what is elsewhere than in the mean
}

// newBaseline is nil if there is too little.
func newBaseline(past []Shape, least float64) *baseline {
	var use []Shape
	for _, s := range past {
		if s.Samples >= least {
			use = append(use, s)
		}
	}
	for round := 0; ; round++ {
		if len(use) < minPast {
			return nil
		}
		b := &baseline{owners: map[string]float64{}, n: len(use), levels: [2]anomalyParts{{}, {fine: true}}}
		cells := map[[2]string]float64{}
		sizes := make([]float64, len(use))
		for i, s := range use {
			sizes[i] = s.Samples
			if i == 0 || s.From.Before(b.from) {
				b.from = s.From
			}
			if i == 0 || s.To.After(b.to) {
				b.to = s.To
			}
			for _, c := range s.cells {
				cells[[2]string{c.owner, c.leaf}] += c.n
				b.owners[c.owner] += c.n
				b.total += c.n
			}
		}
		for i := range b.levels {
			b.levels[i].cut(cells, b.owners, b.total/middleOf(sizes))
			b.levels[i].learn(use)
		}
		if round == 1 {
			return b
		}
		// What was unlike the rest of the past is not what is usual.
		kept := use[:0:0]
		for _, s := range use {
			if z, _ := b.score(s); z < 4 {
				kept = append(kept, s)
			}
		}
		use = kept
	}
}

func middleOf(x []float64) float64 {
	x = slices.Clone(x)
	slices.Sort(x)
	return (x[len(x)/2] + x[(len(x)-1)/2]) / 2
}

// cut chooses the parts: windows is how many of the usual size the past is.
func (a *anomalyParts) cut(cells map[[2]string]float64, owners map[string]float64, windows float64) {
	a.index = map[[2]string]int{}
	next := 1
	left := maps.Clone(owners)
	if a.fine {
		for _, k := range slices.SortedFunc(maps.Keys(cells), func(x, y [2]string) int { return cmp.Or(strings.Compare(x[0], y[0]), strings.Compare(x[1], y[1])) }) {
			if n := cells[k]; n >= cellLeast*windows {
				a.index[k] = next
				next++
				left[k[0]] -= n
			}
		}
	}
	for _, o := range slices.Sorted(maps.Keys(left)) {
		if left[o] >= cellLeast*windows {
			a.index[[2]string{o, ""}] = next
			next++
		}
	}
	a.mean = make([]float64, next)
}

// shares are a shape's parts.
func (a *anomalyParts) shares(s Shape) []float64 {
	out := make([]float64, len(a.mean))
	for _, c := range s.cells {
		i, ok := a.index[[2]string{c.owner, c.leaf}]
		if !ok {
			i = a.index[[2]string{c.owner, ""}] // 0 where it has none
		}
		out[i] += c.n / s.Samples
	}
	return out
}

// learn is what is usual.
func (a *anomalyParts) learn(past []Shape) {
	n := float64(len(past))
	shares := make([][]float64, len(past))
	for i, s := range past {
		shares[i] = a.shares(s)
		for j, x := range shares[i] {
			a.mean[j] += x / n
		}
	}
	d, moved := make([]float64, len(past)), make([]float64, len(past))
	for i, s := range past {
		d[i], moved[i] = a.distance(shares[i], s.Samples)
		// A window that is itself in the mean is nearer to it than another would be.
		d[i] *= math.Pow(n/(n-1), 2.0/3)
	}
	a.middle, a.moved = middleOf(d), middleOf(moved)
	for i := range d {
		d[i] = math.Abs(d[i] - a.middle)
	}
	a.spread = max(0.05*a.middle, 1.4826*middleOf(d), 1e-3)
}

// distance is the cube root of the sum of squares, and the part that is elsewhere.
func (a *anomalyParts) distance(x []float64, n float64) (d, moved float64) {
	sum := 0.0
	for j := range x {
		m := a.mean[j]
		sum += (x[j] - m) * (x[j] - m) / ((m*(1-m) + 1/n) / n)
		moved += math.Abs(x[j]-m) / 2
	}
	return math.Cbrt(sum), moved
}

// score is how unlike the past a shape is, in the past's own deviations by the level that shows it best, and how much more of it is
// elsewhere than usual.
func (b *baseline) score(s Shape) (z, more float64) {
	for i := range b.levels {
		a := &b.levels[i]
		d, moved := a.distance(a.shares(s), s.Samples)
		z = max(z, (d-a.middle)/a.spread)
		// What chance and load move, and what is new, add up as variances do.
		more = max(more, math.Sqrt(max(0, moved*moved-a.moved*a.moved)))
	}
	return z, more
}

// finding tells of shapes of one instance, or with instance "" of the whole service.
func (b *baseline) finding(service string, typ profile.Type, shapes []Shape, z float64, instance string, instances int) Finding {
	f := Finding{Kind: Anomaly, Service: service, Type: typ.String(), Metric: "self", Unit: "share", Instances: instances, P: 1, Q: 1}
	n := 0.0
	own := map[string]float64{}
	for i, s := range shapes {
		if i == 0 || s.From.Before(f.From) {
			f.From = s.From
		}
		if i == 0 || s.To.After(f.To) {
			f.To = s.To
		}
		for _, c := range s.cells {
			n += c.n
			own[c.owner] += c.n
		}
	}
	before := map[string]float64{}
	for o, v := range b.owners {
		before[o] += v
	}
	moved := map[string]float64{}
	for name := range own {
		moved[name] = math.Abs(own[name]/n - before[name]/b.total)
	}
	for name := range before {
		moved[name] = math.Abs(own[name]/n - before[name]/b.total)
	}
	var said []string
	for i, m := range heaviest(moved) {
		was, is := before[m.name]/b.total, own[m.name]/n
		if i == 0 {
			f.Function = m.name
			f.Before, f.After = Share(before[m.name], b.total), Share(own[m.name], n)
			f.Change = Estimate{Value: is - was, Low: f.After.Low - f.Before.High, High: f.After.High - f.Before.Low}
			if f.Function == shapeGC || f.Function == shapeRuntime {
				f.Subject, f.Function = f.Function, ""
			}
		}
		if i < 3 && (i == 0 || m.value >= 0.02) {
			said = append(said, fmt.Sprintf("%s has %s instead of %s", quote(m.name), percents(is), percents(was)))
		}
		if i < 8 && m.value >= 0.01 {
			f.Also = append(f.Also, Moved{Function: m.name, Before: was, After: is})
		}
	}
	f.Since, f.Samples = f.From, n
	f.Test = fmt.Sprintf("distance from %d windows of the past, %.0f robust standard deviations from what is usual", b.n, z)
	who := "in " + instance
	if instance == "" {
		who = "in most instances"
	} else {
		f.Cause = &Cause{Label: profile.LabelInstance, Value: instance, Share: 1}
	}
	f.Sentence = fmt.Sprintf("The profile of %s %s is unlike its past from %s on: %s.", service, who, f.From.UTC().Format("15:04:05"), strings.Join(said, ", "))
	f.Next = "Compare it with the past in the flame graph diff: an input, a client or a neighbour that was not there before shows in who calls these functions."
	f.Head = &Selection{Type: f.Type, From: f.From, To: f.To, Labels: map[string]string{}}
	f.Base = &Selection{Type: f.Type, From: b.from, To: b.to, Labels: map[string]string{}}
	if instance != "" {
		f.Head.Labels[profile.LabelInstance] = instance
	}
	if v := shapes[0].Version; v != "" {
		f.Head.Labels[profile.LabelVersion], f.Base.Labels[profile.LabelVersion] = v, v
	}
	if n < 300 {
		f.Warnings = append(f.Warnings, fmt.Sprintf("It rests on %.0f samples.", n))
	}
	return f
}
