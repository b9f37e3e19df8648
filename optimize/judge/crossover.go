package judge

import (
	"fmt"
	"math"
	"time"

	"github.com/quantra-l/quantra/analyze"
)

// Where one node is all there is, the change is switched on and off again, and each time on is compared with the mean of the times off just before
// and after it: a drift through all of them cancels, which before and after a single change it does not.
const (
	leastOn         = 4 // times on that have a time off on both sides
	leastPeriodSlot = 2 // windows of a period, after warm-up
)

// period is what a metric was in one period: the mean on the compared scale, in the direction that is worse.
type period struct {
	on bool
	y  float64
	n  int
}

// periods is the means of a metric by period. The first part of each, warm-up or half of it if it is shorter than two, belongs to neither state.
func (x *measured) periods(in *Input, o *Options) []period {
	out := make([]period, len(in.Periods))
	weights := make([]float64, len(in.Periods))
	for i := range in.Treated {
		member := &in.Treated[i]
		sums, ws := make([]float64, len(in.Periods)), make([]float64, len(in.Periods))
		at, level, w := 0, 0.0, 0.0
		for j := range member.Series[x.m.Name] {
			p := &member.Series[x.m.Name][j]
			for at < len(in.Periods) && !p.From.Before(in.Periods[at].To) {
				at++
			}
			if at == len(in.Periods) {
				break
			}
			period := &in.Periods[at]
			settle := min(max(o.WarmUp, 0), period.To.Sub(period.From)/2)
			if p.From.Before(period.From.Add(settle-x.g.width/10)) || p.To.After(period.To.Add(x.g.width/10)) || p.From.Before(member.Started) || p.Weight == 0 {
				continue
			}
			if why := valid(p, x.m.Better == Higher || !x.log); why != "" {
				x.refuse(why)
				continue
			}
			y := p.Value
			if x.log {
				if y = math.Log(p.Value + x.zero); math.IsInf(y, 0) {
					continue
				}
			}
			sums[at] += y * p.Weight
			ws[at] += p.Weight
			out[at].n++
			level += y * p.Weight
			w += p.Weight
			if period.On {
				x.windows++
				x.requests += p.Weight
				x.lastTreated = max(x.lastTreated, int(p.From.Sub(x.g.from)/x.g.width))
			} else {
				x.baselineWindows++
			}
		}
		if w > 0 {
			x.members++
			x.level += level / w
			for k := range out { // members differ: each about its own level, so that one that has gaps does not move the mean
				out[k].y += sums[k] - level/w*ws[k]
				weights[k] += ws[k]
			}
		} else if !member.Gone {
			x.silent++
		}
	}
	worse := 1.0
	if x.m.Better == Higher {
		worse = -1
	}
	if x.members > 0 {
		x.level /= float64(x.members)
	}
	for k := range out {
		if out[k].on = in.Periods[k].On; weights[k] > 0 {
			out[k].y *= worse / weights[k]
		} else {
			out[k].n = 0
		}
	}
	return out
}

func (x *measured) refuse(why string) {
	x.refused++
	if x.why == "" {
		x.why = why
	}
}

// contrasts is each time on less the mean of the times off before and after it.
func contrasts(p []period) []float64 {
	var out []float64
	for i := 1; i+1 < len(p); i++ {
		a, b, c := &p[i-1], &p[i], &p[i+1]
		if b.on && !a.on && !c.on && a.n >= leastPeriodSlot && b.n >= leastPeriodSlot && c.n >= leastPeriodSlot {
			out = append(out, b.y-(a.y+c.y)/2)
		}
	}
	return out
}

// crossover is a metric of one node.
type crossover struct {
	*measured
	verdict MetricVerdict
	log     float64 // evidence for harm
	keeps   bool
}

// cross judges one metric of one node that the change was switched on and off in. harm is the level at which harm is shown.
func cross(in *Input, o *Options, g *grid, m Metric, harm float64) crossover {
	x := &measured{m: m, g: g, log: m.Floor == 0, lastTreated: -1, lastControl: -1}
	if x.log && m.Better == Higher {
		x.zero = 0.01 * usual(in, m.Name)
	}
	ps := x.periods(in, o)
	off, n := 0.0, 0.0
	for i := range ps {
		if !ps[i].on && ps[i].n > 0 {
			off += ps[i].y
			n++
		}
	}
	worse := 1.0
	if m.Better == Higher {
		worse = -1
	}
	x.expected = x.level
	if n > 0 {
		x.expected += worse * off / n
	}
	c := crossover{measured: x}
	c.log, c.keeps = x.crossEvidence(ps)
	v := x.verdictOf()
	v.E = math.Exp(min(c.log, 600))
	con := contrasts(ps)
	v.Units = len(con)
	c.verdict = v
	if len(con) >= 2 {
		c.judge(in, o, con, harm)
	}
	if why := x.missingPeriods(in, o, len(con)); why != "" {
		c.verdict.Decision, c.verdict.Why = Hold, why
	}
	return c
}

// judge is Student's t on the contrasts. Neighbours share a time off: of a noise of variance 1 each contrast has 3/2 and neighbours have 1/4
// in common, so that the mean of n has 2/n-1/2n^2, and their own spread shows 3/2-1/2n.
func (c *crossover) judge(in *Input, o *Options, con []float64, harm float64) {
	x, v := c.measured, &c.verdict
	n := float64(len(con))
	mean, se := meanOf(con)
	se *= math.Sqrt((2 - 0.5/n) / (1.5 - 0.5/n))
	se = max(se, x.noiseFloor()/math.Sqrt(n))
	margin := x.margin()
	half := se * student975(n-1)
	v.P, v.PHarm = studentCDF((mean-margin)/se, n-1), studentCDF((margin-mean)/se, n-1)
	v.Test = fmt.Sprintf("Student's t, %d times on, each against the times off before and after", len(con))
	x.fill(v, analyze.Estimate{Value: mean, Low: mean - half, High: mean + half})
	switch {
	case v.PHarm < harm:
		v.Decision, v.Why = Fail, fmt.Sprintf("%s, more than %s", x.say(v), x.sayMargin())
	case v.P < o.Alpha:
		v.Decision, v.Why = Pass, x.say(v)
	default:
		v.Why = fmt.Sprintf("%s: not yet shown to be within %s", x.say(v), x.sayMargin())
	}
}

// crossEvidence is evidence by whole periods, beside a level and a straight drift through all of them.
func (x *measured) crossEvidence(ps []period) (log float64, keeps bool) {
	r := regression{cols: 2}
	margin := x.margin()
	on := 0
	for i := range ps {
		if ps[i].n < leastPeriodSlot {
			continue
		}
		row := [4]float64{1, float64(i), 0, ps[i].y}
		if ps[i].on {
			row[colEffect], row[colValue] = 1, ps[i].y-margin
			on++
		}
		r.add(row)
	}
	con := contrasts(ps)
	return r.logEvidence(x.noiseFloor()), on >= 2 && len(con) > 0 && con[len(con)-1] > margin
}

func (x *measured) missingPeriods(in *Input, o *Options, on int) string {
	word := wordOf(x.m.Name)
	switch {
	case x.windows == 0:
		return fmt.Sprintf("no %s while the change was on", word)
	case x.baselineWindows == 0:
		return fmt.Sprintf("no %s while the change was off", word)
	case on < leastOn:
		return fmt.Sprintf("%s in %d times on between two times off, %d are needed", word, on, leastOn)
	case x.windows < o.MinWindows:
		return fmt.Sprintf("%d windows of %s while the change was on, %d are needed", x.windows, word, o.MinWindows)
	case x.silent > 0 && 3*x.silent >= x.members+x.silent:
		return fmt.Sprintf("no %s of %d of %d treated instances", word, x.silent, x.members+x.silent)
	case x.m.PerRequest && x.requests < o.MinRequests:
		return fmt.Sprintf("%s rests on %s requests, %s are needed", word, figure(x.requests), figure(o.MinRequests))
	}
	if last := lastOn(in.Periods); !last.IsZero() && last.Sub(x.g.from)/x.g.width-time.Duration(x.lastTreated) > fresh+time.Duration(max(0, o.WarmUp)/x.g.width) {
		return fmt.Sprintf("no %s in the last time on", word)
	}
	return ""
}

// lastOn is when the change was last on.
func lastOn(p []Period) time.Time {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i].On {
			return p[i].To
		}
	}
	return time.Time{}
}
