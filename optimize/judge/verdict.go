package judge

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/quantra-l/quantra/analyze"
)

const (
	// manyMembers is from how many on, on both sides, a member is the unit of inference: then what processes differ by is seen itself.
	manyMembers = 6
	// leastBlocks is into how many blocks a stage is cut at least.
	leastBlocks = 5
	// coverage is the part of the control's windows that there must be data of: what is lost may be what was slow. Of the treated members less than a third
	// may be silent.
	coverage = 2.0 / 3
	// doubt is the logarithm of the evidence for harm, of whenever it began, with which nothing passes while it lasts.
	doubt = 2
	// fresh is how many windows the last data of the treated may be behind the stage's end, or the control's last.
	fresh = 4
)

// verdictOf is what a metric's verdict has before it is judged.
func (x *measured) verdictOf() MetricVerdict {
	return MetricVerdict{Name: x.m.Name, Better: x.m.Better, Critical: x.m.Critical, Decision: Hold, P: 1, PHarm: 1, E: 1,
		Windows: x.windows, ControlWindows: x.controlWindows, BaselineWindows: x.baselineWindows, Members: x.members, ControlMembers: x.controlMembers}
}

// missing says what is not there; "" is nothing.
func (x *measured) missing(o *Options) string {
	word := wordOf(x.m.Name)
	g := x.g
	switch now, all := g.now(), x.treated(); {
	case x.lastTreated < 0 && x.lastControl < 0:
		return fmt.Sprintf("no %s of either side", word)
	case x.lastTreated < 0:
		return fmt.Sprintf("no %s of the treated, while the control has it", word)
	case x.lastControl < 0:
		return fmt.Sprintf("no %s of the control", word)
	case x.windows < o.MinWindows:
		return fmt.Sprintf("%d windows of %s in both sides at once, %d are needed", x.windows, word, o.MinWindows)
	case float64(x.windows) < coverage*float64(x.controlWindows):
		return fmt.Sprintf("%s of the treated in %d of %d windows that the control has", word, x.windows, x.controlWindows)
	case 3*x.silent >= all:
		return fmt.Sprintf("no %s of %d of %d treated instances any more", word, x.silent, all)
	case x.lastTreated < max(x.lastControl, now)-fresh:
		return fmt.Sprintf("no %s of the treated in the last %s", word, span(time.Duration(max(x.lastControl, now)-x.lastTreated)*g.width))
	case x.m.PerRequest && x.requests < o.MinRequests:
		return fmt.Sprintf("%s rests on %s requests, %s are needed", word, figure(x.requests), figure(o.MinRequests))
	}
	return ""
}

// treated is how many treated there are that may have data.
func (x *measured) treated() (n int) {
	for i := range x.side[0].members {
		if st := &x.side[0].members[i]; st.alive && st.due || st.live > 0 {
			n++
		}
	}
	return max(1, n)
}

func span(d time.Duration) string { return d.Round(time.Second).String() }

// judge is the test at the end of a dwell. harm is the level at which harm is shown.
func (x *measured) judge(o *Options, harm float64, e evidence) MetricVerdict {
	v := x.verdictOf()
	if why := x.missing(o); why != "" {
		v.Why = why
		x.fill(&v, e.value)
		return v
	}
	margin := x.margin()
	effect, plain, ok := x.compare(&v, margin, o)
	if !ok {
		v.Why = fmt.Sprintf("too few independent stretches of %s: %d", wordOf(v.Name), v.Units)
		x.fill(&v, e.value)
		return v
	}
	x.fill(&v, effect)
	v.P, v.PHarm = clampP(v.P), clampP(v.PHarm)
	switch {
	case v.PHarm < harm:
		v.Decision, v.Why = Fail, fmt.Sprintf("%s, more than %s", x.say(&v), x.sayMargin())
	case e.slopeLog >= -math.Log(harm):
		v.Why = fmt.Sprintf("%s rises by %s an hour against the control and has not levelled off", wordOf(v.Name), percentOf(x.relative(e.slope)))
	case v.P < o.Alpha && plain > margin:
		// Ranks see what is usual. What comes back again and again without being usual is not harmless for that.
		v.Why = fmt.Sprintf("%s is no worse in most windows, but in the mean of all it is, by %s: some windows are far off in the treated", wordOf(v.Name), x.sayShift(plain))
	case v.P < o.Alpha && e.keeps && e.log > doubt:
		v.Why = fmt.Sprintf("%s is no worse in the whole stage, but in its last windows it is", wordOf(v.Name))
	case v.P < o.Alpha:
		v.Decision, v.Why = Pass, x.say(&v)
	default:
		v.Why = fmt.Sprintf("%s: not yet shown to be within %s", x.say(&v), x.sayMargin())
	}
	return v
}

func clampP(p float64) float64 { return min(max(p, 0), 1) }

// compare estimates the effect, and tests it against the margin both ways. plain is the mean that no rank has made robust, without the one
// largest and the one smallest unit of each side.
func (x *measured) compare(v *MetricVerdict, margin float64, o *Options) (effect analyze.Estimate, plain float64, ok bool) {
	if x.members >= manyMembers && x.controlMembers >= manyMembers {
		t, c := x.byMember(0), x.byMember(1)
		s := shiftOf(t, c, margin, 1)
		v.P, v.PHarm, v.Units = s.less, s.more, len(t)
		v.Test = fmt.Sprintf("Mann-Whitney U, %d treated against %d control instances", len(t), len(c))
		return s.Estimate, trimmed(t) - trimmed(c), true
	}
	live, past := x.calmed(x.stage()), x.calmed(x.before())
	r, _ := correlation(live, past)
	length := blockLength(r, x.windows)
	if x.baseline {
		length = min(length, max(1, x.baselineWindows/leastBlocks))
	}
	inflate := inflation(r, length)
	stage := blocks(live, x.weight[x.g.base:], length)
	v.Units = len(stage)
	if len(stage) < leastBlocks-1 {
		return effect, 0, false
	}
	plain = trimmed(blocks(x.stage(), x.weight[x.g.base:], length))
	if x.baseline {
		before := blocks(past, x.weight[:x.g.base], length)
		if len(before) < leastBlocks-1 {
			return effect, 0, false
		}
		plain -= trimmed(blocks(x.before(), x.weight[:x.g.base], length))
		s := shiftOf(stage, before, margin, inflate)
		v.P, v.PHarm = s.less, s.more
		v.Test = fmt.Sprintf("Mann-Whitney U, %d blocks of %d windows of treated by control, against %d of before", len(stage), length, len(before))
		return s.Estimate, plain, true
	}
	mean, se := meanOf(stage)
	se = math.Hypot(max(se*inflate, x.noiseFloor()/math.Sqrt(float64(len(stage)))), x.hostError(o))
	df := float64(len(stage) - 1)
	half := se * student975(df)
	v.P, v.PHarm = studentCDF((mean-margin)/se, df), studentCDF((margin-mean)/se, df)
	v.Test = fmt.Sprintf("Student's t, %d blocks of %d windows of treated by control; no baseline", len(stage), length)
	return analyze.Estimate{Value: mean, Low: mean - half, High: mean + half}, plain, true
}

// calmed is a stretch in which windows that are far off, by clipAt robust standard deviations of the stretch, are drawn in to there: on
// either side alike, and none is dropped. What is past the median by less, as a lasting change is, stays as it is; windows that are far off
// again and again count by the plain mean (see judge). Shares near 0 are far off to one side only, and stay.
func (x *measured) calmed(s []float64) []float64 {
	if !x.log {
		return s
	}
	sorted := make([]float64, 0, len(s))
	for _, v := range s {
		if !math.IsNaN(v) {
			sorted = append(sorted, v)
		}
	}
	slices.Sort(sorted)
	centre := middle(sorted)
	for i, v := range sorted {
		sorted[i] = math.Abs(v - centre)
	}
	slices.Sort(sorted)
	most := clipAt * max(1.4826*middle(sorted), x.noiseFloor())
	out := make([]float64, len(s))
	for i, v := range s {
		out[i] = v
		if !math.IsNaN(v) {
			out[i] = centre + clip(v-centre, most)
		}
	}
	return out
}

// byMember is each member's change beside the control's course, in the direction that is worse. The control's course has each member of
// it in itself, so those lie too near: their spread is set right.
func (x *measured) byMember(side int) []float64 {
	var out []float64
	worse := 1.0
	if x.m.Better == Higher {
		worse = -1
	}
	if side == 1 {
		n := float64(x.controlMembers)
		worse *= math.Sqrt(n / (n - 1))
	}
	for i := range x.side[side].members {
		if st := &x.side[side].members[i]; st.live > 0 && st.stageN > 0 && !x.skips(st) {
			out = append(out, worse*st.stage/st.stageN)
		}
	}
	return out
}

// blockCorrelation is that of neighbouring blocks of an AR(1) series with the correlation r.
func blockCorrelation(r float64, length int) float64 {
	n, p := float64(length), math.Pow(r, float64(length))
	return r * (1 - p) * (1 - p) / (n*(1-r*r) - 2*r*(1-p))
}

// blockLength is the least at which neighbouring blocks have a correlation of 0.2, as far as leastBlocks allows.
func blockLength(r float64, windows int) int {
	length := 1
	for length < windows/leastBlocks && blockCorrelation(r, length) > 0.2 {
		length++
	}
	return length
}

// inflation is by how much the standard deviation of a mean of blocks is more than if they were independent.
func inflation(r float64, length int) float64 {
	return math.Sqrt(1 + 2*blockCorrelation(r, length)/(1-math.Pow(r, float64(length))))
}

// blocks is the means of stretches of slots, from the first that has data; one that has less than half of its windows is left out.
func blocks(s, weight []float64, length int) []float64 {
	first := 0
	for first < len(s) && math.IsNaN(s[first]) {
		first++
	}
	var out []float64
	for ; first < len(s); first += length {
		var sum, w float64
		n := 0
		for i := first; i < min(first+length, len(s)); i++ {
			if !math.IsNaN(s[i]) {
				sum += s[i] * weight[i]
				w += weight[i]
				n++
			}
		}
		if 2*n >= length && w > 0 {
			out = append(out, sum/w)
		}
	}
	return out
}

// trimmed is the mean without the one largest and the one smallest value, of five or more.
func trimmed(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	sum, least, most := 0.0, v[0], v[0]
	for _, y := range v {
		sum += y
		least, most = min(least, y), max(most, y)
	}
	if len(v) < 5 {
		return sum / float64(len(v))
	}
	return (sum - least - most) / float64(len(v)-2)
}

// meanOf is the mean with its standard error.
func meanOf(v []float64) (mean, se float64) {
	n := float64(len(v))
	for _, y := range v {
		mean += y / n
	}
	for _, y := range v {
		se += (y - mean) * (y - mean)
	}
	return mean, math.Sqrt(se / (n - 1) / n)
}

// fill writes an effect, which is in the direction that is worse and on the compared scale, in the metric's terms.
func (x *measured) fill(v *MetricVerdict, effect analyze.Estimate) {
	if x.windows == 0 {
		return
	}
	v.Before = max(0, x.value(x.expected))
	v.Effect = x.relative(effect)
	unit := x.unit()
	v.Difference = analyze.Estimate{Value: v.Effect.Value * unit, Low: v.Effect.Low * unit, High: v.Effect.High * unit}
	v.After = max(0, v.Before+v.Difference.Value)
	v.Worse = x.relative(analyze.Estimate{Value: x.margin(), Low: x.margin(), High: x.margin()}).Value
}

// unit is what a relative effect is relative to: what was before, or of a share that was next to nothing its floor.
func (x *measured) unit() float64 {
	if x.log {
		return max(0, x.value(x.expected))
	}
	return max(x.expected, x.m.Floor)
}

// relative is an effect on the compared scale, in the direction that is worse, as a change relative to before.
func (x *measured) relative(e analyze.Estimate) analyze.Estimate {
	to := func(y float64) float64 {
		if x.m.Better == Higher {
			y = -y
		}
		if x.log {
			return math.Expm1(min(max(y, -50), 50))
		}
		return y / x.unit()
	}
	out := analyze.Estimate{Value: to(e.Value), Low: to(e.Low), High: to(e.High)}
	if out.Low > out.High {
		out.Low, out.High = out.High, out.Low
	}
	return out
}
