package judge

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// Bounds of one judgement, so that no input makes it grow without end.
const (
	maxMetrics = 64
	maxMembers = 512     // of one side
	maxPoints  = 1 << 22 // of all members and metrics
	maxSlots   = 4096    // of the stage; longer windows beyond
	maxPeriods = 1024
	maxValue   = 1e18 // more is no measurement of anything here
)

// minBaseline is how many windows of before the stage a member needs for them to say what it was like.
const minBaseline = 8

// grid is time cut into slots, each about a window long: what falls into one slot happened at the same time. Slot 0 begins with the
// stage; those before are the baseline.
type grid struct {
	from, to   time.Time
	width      time.Duration
	base, live int // slots of the baseline, and of the stage
}

// gridOf cuts time by the length of a metric's windows. The baseline is at most twice as long as the stage, or 120 windows: differences between
// hosts drift, so what is long ago says less. It is counted from its newest window: a later stage begins long after the baseline has ended, as what
// lies between is neither, and an old baseline says more than none.
func gridOf(in *Input, name string) (grid, error) {
	g := grid{from: in.From, to: in.To, width: 10 * time.Second}
	stage := g.to.Sub(g.from)
	if g.from.IsZero() || stage <= 0 {
		return g, fmt.Errorf("the stage is from %s to %s: it has no length", clock(g.from), clock(g.to))
	}
	var lengths []time.Duration
	for _, side := range [2][]Member{in.Treated, in.Control} {
		for i := 0; i < len(side) && i < 8; i++ {
			s := side[i].Series[name]
			for j := max(0, len(s)-4); j < len(s); j++ {
				if d := s[j].To.Sub(s[j].From); d > 0 {
					lengths = append(lengths, d)
				}
			}
		}
	}
	if len(lengths) > 0 {
		slices.Sort(lengths)
		g.width = min(max(lengths[len(lengths)/2], time.Second), time.Hour)
	}
	if stage/g.width >= maxSlots {
		g.width = stage/maxSlots + 1
	}
	g.live = int(stage/g.width) + 1
	g.base = max(120, 2*g.live) + gapOf(in, name, &g)
	return g, nil
}

// gapOf is how many slots lie between the newest window of before the stage and the stage; 0 where there is none.
func gapOf(in *Input, name string, g *grid) int {
	gap := int64(math.MaxInt64)
	for _, side := range [2][]Member{in.Treated, in.Control} {
		for i := range side {
			s := side[i].Series[name]
			for j := len(s) - 1; j >= 0; j-- {
				if to := g.since(s[j].To); to <= 0 {
					gap = min(gap, -max(to, -math.MaxInt64))
					break
				}
			}
		}
	}
	if gap == math.MaxInt64 {
		return 0
	}
	return int(min(gap/int64(g.width), maxSlots))
}

func clock(t time.Time) string {
	if t.IsZero() {
		return "no time"
	}
	return t.UTC().Format("15:04:05")
}

// since is a time as nanoseconds from the beginning of the stage; what is centuries away stays away.
func (g *grid) since(t time.Time) int64 { return int64(t.Sub(g.from)) }

// slot is the slot of a window by its middle; ok is false of what is outside.
func (g *grid) slot(from, to int64) (int, bool) {
	s := int(math.Floor((float64(from)/2 + float64(to)/2) / float64(g.width)))
	return s, s >= -g.base && s < g.live
}

// now is the last slot that has ended.
func (g *grid) now() int { return int(g.since(g.to)/int64(g.width)) - 1 }

// seen is one window of one member: the slot counted from the beginning of the baseline, and the value on the scale that is compared.
type seen struct {
	slot   int32
	member int32
	y, w   float64
}

// cohort is one side's windows of one metric, member by member.
type cohort struct {
	seen    []seen
	members []standing
}

// standing is what a member has of one metric.
type standing struct {
	base, live    int // windows
	sumY, sumW    float64
	level         float64 // of its baseline
	stage, stageN float64 // sum of what it has in the stage beside what was to be expected, and of how many
	alive         bool
	due           bool // its warm-up has been over for a while
	newest        int32
}

// measured is one metric of both sides on one grid.
type measured struct {
	m        Metric
	g        *grid
	log      bool
	zero     float64 // added before the logarithm
	side     [2]cohort
	refused  int
	why      string // of the first refused
	baseline bool   // both sides have one, and differences of before are taken out

	control  []float64 // by slot: the control's mean, less its members' baselines; NaN is a gap
	diff     []float64 // by slot: treated less control, less what it was before; in the direction that is worse; NaN is a gap
	weight   []float64 // that diff rests on
	expected float64   // mean over the stage of what the treated would have had, on the compared scale
	level    float64   // what the treated's members have beside the control, before

	windows, controlWindows, baselineWindows int
	members, controlMembers                  int // with data in the stage
	silent                                   int // treated that are there, without any of the last windows
	requests                                 float64
	lastTreated, lastControl                 int // slots
}

// valid says why a point is no data; "" is nothing.
func valid(p *Point, zeroes bool) string {
	switch {
	case math.IsNaN(p.Value) || math.IsInf(p.Value, 0) || p.Value > maxValue:
		return "a value that is no finite number"
	case p.Value < 0:
		return "a value below 0"
	case p.Value == 0 && !zeroes:
		return "a value of 0, which it cannot have"
	case math.IsNaN(p.Weight) || math.IsInf(p.Weight, 0) || p.Weight < 0 || p.Weight > maxValue:
		return "a weight that is no finite number, or below 0"
	}
	return ""
}

// measure gathers one metric. Values are compared as logarithms, so that what multiplies both sides (load, the hour) cancels, and differences are relative;
// shares near 0 as they are.
func measure(in *Input, o *Options, g *grid, m Metric) *measured {
	x := &measured{m: m, g: g, log: m.Floor == 0, lastTreated: -1, lastControl: -1}
	if x.log && m.Better == Higher {
		x.zero = 0.01 * usual(in, m.Name)
	}
	for side, members := range [2][]Member{in.Treated, in.Control} {
		c := &x.side[side]
		c.members = make([]standing, len(members))
		n := 0
		for i := range members {
			n += len(members[i].Series[m.Name])
		}
		c.seen = make([]seen, 0, n)
		for i := range members {
			x.gather(c, i, &members[i], o, side == 0)
		}
	}
	return x
}

// usual is the median of what a metric was, of a sample of its windows.
func usual(in *Input, name string) float64 {
	var v []float64
	for _, side := range [2][]Member{in.Treated, in.Control} {
		for i := range side {
			s := side[i].Series[name]
			step := len(s)/32 + 1
			for j := 0; j < len(s) && len(v) < 1024; j += step {
				if s[j].Value > 0 && valid(&s[j], false) == "" {
					v = append(v, s[j].Value)
				}
			}
		}
	}
	slices.Sort(v)
	return middle(v)
}

// gather takes one member's windows: those since the change, and its process, had time to warm up, and those of the same process before.
func (x *measured) gather(c *cohort, i int, member *Member, o *Options, treated bool) {
	st := &c.members[i]
	st.alive = !member.Gone
	var begin, end int64 // of what counts as the stage, and end of the baseline; nanoseconds from the stage's beginning
	started := int64(math.MinInt64)
	if treated {
		applied := int64(0)
		if !member.Applied.IsZero() {
			applied = x.g.since(member.Applied)
		}
		begin, end = max(0, applied+int64(o.WarmUp)), min(0, applied)
	}
	if !member.Started.IsZero() {
		started = x.g.since(member.Started)
		begin = max(begin, started+int64(o.WarmUp))
	}
	slack := int64(x.g.width / 10) // clocks of a member's windows and of the stage are not one
	begin, end = begin-slack, end+slack
	st.due = begin+fresh*int64(x.g.width) < x.g.since(x.g.to)
	points := member.Series[x.m.Name]
	zeroes := x.m.Better == Higher || !x.log
	for j := range points {
		p := &points[j]
		from, to := x.g.since(p.From), x.g.since(p.To)
		slot, ok := x.g.slot(from, to)
		if !ok || p.Weight == 0 {
			continue
		}
		why := valid(p, zeroes)
		if to < from {
			why = "a window that ends before it begins"
		}
		if why != "" {
			x.refuse(why)
			continue
		}
		stage := from >= begin
		if !stage && (to > end || from < started) {
			continue
		}
		y := p.Value
		if x.log {
			if y = math.Log(p.Value + x.zero); y < -1000 {
				continue // throughput of 0 all along: nothing to compare it with
			}
		}
		c.seen = append(c.seen, seen{slot: int32(slot + x.g.base), member: int32(i), y: y, w: p.Weight})
		if !stage {
			st.base++
			continue
		}
		st.live++
		st.newest = max(st.newest, int32(slot))
		if treated {
			x.requests += p.Weight
			x.lastTreated = max(x.lastTreated, slot)
		} else {
			x.lastControl = max(x.lastControl, slot)
		}
	}
}

// inBaseline says that a window is of before the stage.
func (x *measured) inBaseline(s *seen) bool { return int(s.slot) < x.g.base }

// pair takes the control out of the treated, slot by slot, and what both were like before.
func (x *measured) pair() {
	x.baseline = x.hasBaseline(0) && x.hasBaseline(1)
	n := x.g.base + x.g.live
	x.control, x.diff, x.weight = make([]float64, n), make([]float64, n), make([]float64, n)
	sums := make([]float64, n)
	x.level = 0
	c := &x.side[1]
	x.levels(c, nil)
	for i := range c.seen {
		s := &c.seen[i]
		st := &c.members[s.member]
		if x.skips(st) {
			continue
		}
		x.control[s.slot] += s.w * (s.y - st.level)
		sums[s.slot] += s.w
	}
	for i := range x.control {
		if sums[i] > 0 {
			x.control[i] /= sums[i]
		} else {
			x.control[i] = math.NaN()
		}
	}
	t := &x.side[0]
	x.levels(t, x.control)
	treated := make([]float64, n)
	for i := range t.seen {
		s := &t.seen[i]
		st := &t.members[s.member]
		if x.skips(st) || math.IsNaN(x.control[s.slot]) {
			continue
		}
		beside := s.y - x.control[s.slot] - st.level
		x.diff[s.slot] += s.w * beside
		treated[s.slot] += s.w
		if !x.inBaseline(s) {
			st.stage += beside
			st.stageN++
		}
	}
	worse := 1.0
	if x.m.Better == Higher {
		worse = -1
	}
	for i := range x.diff {
		if treated[i] > 0 && sums[i] > 0 {
			x.diff[i] *= worse / treated[i]
			x.weight[i] = treated[i] / (treated[i] + sums[i]) * sums[i]
		} else {
			x.diff[i] = math.NaN()
		}
	}
	for i := range c.seen {
		s := &c.seen[i]
		if st := &c.members[s.member]; !x.inBaseline(s) && !x.skips(st) {
			st.stage += s.y - st.level - x.control[s.slot]
			st.stageN++
		}
	}
	x.count()
}

// hasBaseline says that at least half of a side's members that have data in the stage have a baseline.
func (x *measured) hasBaseline(side int) bool {
	live, with := 0, 0
	for i := range x.side[side].members {
		if st := &x.side[side].members[i]; st.live > 0 {
			live++
			if st.base >= minBaseline {
				with++
			}
		}
	}
	return with > 0 && 2*with >= live
}

// skips says that a member is left out: where baselines are taken out, it has none.
func (x *measured) skips(st *standing) bool { return x.baseline && st.base < minBaseline }

// levels is what each member was like before, beside the control's course.
func (x *measured) levels(c *cohort, course []float64) {
	if !x.baseline {
		return
	}
	for i := range c.seen {
		s := &c.seen[i]
		if !x.inBaseline(s) {
			continue
		}
		y := s.y
		if course != nil {
			if y -= course[s.slot]; math.IsNaN(y) {
				continue
			}
		}
		st := &c.members[s.member]
		st.sumY += s.w * y
		st.sumW += s.w
	}
	for i := range c.members {
		if st := &c.members[i]; st.sumW > 0 {
			st.level = st.sumY / st.sumW
		}
	}
}

// count is how much there is of what.
func (x *measured) count() {
	for side := range x.side {
		for i := range x.side[side].members {
			st := &x.side[side].members[i]
			if st.live > 0 && !x.skips(st) {
				if side == 0 {
					x.members++
					x.level += st.level
				} else {
					x.controlMembers++
				}
			}
			if side == 0 && st.alive && st.due && (st.live == 0 || int(st.newest) < x.g.now()-fresh) {
				x.silent++
			}
		}
	}
	if x.members > 0 {
		x.level /= float64(x.members)
	}
	sum := 0.0
	begun := false
	for i := range x.diff {
		paired := !math.IsNaN(x.diff[i])
		if i < x.g.base {
			if paired && x.baseline {
				x.baselineWindows++
			}
			continue
		}
		begun = begun || paired
		if begun && !math.IsNaN(x.control[i]) {
			x.controlWindows++
		}
		if paired {
			x.windows++
			sum += x.control[i]
		}
	}
	if x.windows > 0 {
		x.expected = sum/float64(x.windows) + x.level
	}
}

// stage and before are the differences of the stage and of the baseline.
func (x *measured) stage() []float64 { return x.diff[x.g.base:] }
func (x *measured) before() []float64 {
	if !x.baseline {
		return nil
	}
	return x.diff[:x.g.base]
}

// value is a figure on the compared scale in the metric's unit.
func (x *measured) value(y float64) float64 {
	if x.log {
		return max(0, math.Exp(y)-x.zero)
	}
	return y
}

// margin is the tolerated change for the worse on the compared scale.
func (x *measured) margin() float64 {
	switch {
	case !x.log:
		return x.m.Floor + x.m.Tolerate*max(0, x.expected)
	case x.m.Better == Higher:
		return -math.Log1p(-min(x.m.Tolerate, 0.99))
	}
	return math.Log1p(x.m.Tolerate)
}
