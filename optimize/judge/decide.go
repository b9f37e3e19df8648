package judge

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Judge is asked at the end of the dwell. It passes only if of every critical metric there is enough, it is shown to be not worse than
// tolerated, no function has become dearer past what is tolerated, and nothing speaks for crashes. It may be asked again when it held: each time a
// change that is exactly as bad as tolerated has the chance Options.Alpha to pass.
func Judge(in Input, o Options) Verdict {
	j, done := begin(in, o)
	if done {
		return j.v
	}
	j.watch(true)
	j.v.At = j.in.To
	f := compareFunctions(&j.in, &j.o)
	j.take(f)
	if j.v.Decision == Fail {
		return j.v
	}
	for i := range j.v.Metrics {
		if m := &j.v.Metrics[i]; m.Critical && m.Decision == Fail {
			return j.fail(m.Why, f)
		}
	}
	if f.harm {
		if m := j.metric("cpu_per_request"); m != nil && m.Decision == Pass && m.Effect.High < 0 {
			j.warn("%s costs %s of the CPU more, while a request costs less altogether", f.guilty, percentOf(f.grew))
		} else {
			return j.fail(fmt.Sprintf("%s costs %s of the service's CPU more than it did", f.guilty, percentOf(f.grew)), f)
		}
	}
	if why := j.versions(); why != "" {
		return j.fail(why, f)
	}
	return j.passOrHold()
}

// Guard is asked every few seconds in the dwell. It fails where harm is shown already: by evidence that may be looked at as often as one likes, by crashes,
// by a bound that was passed. It never passes.
func Guard(in Input, o Options) Verdict {
	j, done := begin(in, o)
	if done {
		return j.v
	}
	j.watch(false)
	if j.v.Decision == Fail {
		j.take(compareFunctions(&j.in, &j.o))
		return j.v
	}
	j.v.Reason = "no harm is shown so far"
	for i := range j.v.Metrics {
		if m := &j.v.Metrics[i]; m.Critical && m.Windows == 0 {
			j.v.Reason = fmt.Sprintf("no harm is shown so far, but there is no %s to see it in", wordOf(m.Name))
			break
		}
	}
	return j.v
}

// judging is one verdict in the making.
type judging struct {
	in       Input
	o        Options
	v        Verdict
	critical int
	harm     float64 // the level at which one metric's harm is shown
	hold     string  // why it may not pass whatever metrics say
	unpaired bool    // a critical metric has no baseline
}

func (o Options) orDefaults() Options {
	probability := func(p *float64, usual float64) {
		if !(*p > 0 && *p <= 0.5) {
			*p = usual
		}
	}
	probability(&o.Alpha, 0.05)
	probability(&o.HarmAlpha, 0.05)
	probability(&o.Q, 0.05)
	if o.MinWindows <= 0 {
		o.MinWindows = 12
	}
	if o.MinRequests == 0 || math.IsNaN(o.MinRequests) {
		o.MinRequests = 300
	}
	if o.WarmUp == 0 {
		o.WarmUp = 30 * time.Second
	}
	o.WarmUp = max(o.WarmUp, 0)
	if !(o.FunctionTolerate > 0) {
		o.FunctionTolerate = 0.02
	}
	if !(o.HostSpread > 0) {
		o.HostSpread = 0.03
	}
	o.Settled = cmp.Or(max(o.Settled, 0), 15*time.Minute)
	o.Horizon = cmp.Or(max(o.Horizon, 0), 6*time.Hour)
	return o
}

// begin checks what came in. done is true where there is nothing to judge.
func begin(in Input, o Options) (j *judging, done bool) {
	j = &judging{in: in, o: o.orDefaults(), v: Verdict{Decision: Hold, At: in.To}}
	stop := func(format string, args ...any) (*judging, bool) {
		j.v.Reason = fmt.Sprintf(format, args...)
		return j, true
	}
	if in.Metrics == nil {
		j.in.Metrics = DefaultMetrics()
	}
	j.in.Metrics = slices.Clone(j.in.Metrics)
	points := 0
	for i := range j.in.Metrics {
		m := &j.in.Metrics[i]
		if m.Critical {
			j.critical++
		}
		for what, f := range map[string]*float64{"Tolerate": &m.Tolerate, "Floor": &m.Floor, "Bound": &m.Bound} {
			if !(*f >= 0) || *f > maxValue {
				j.warn("%s of %s is %v, and counts as 0", what, m.Name, *f)
				*f = 0
			}
		}
	}
	for _, side := range [2][]Member{in.Treated, in.Control} {
		for i := range side {
			for _, s := range side[i].Series {
				points += len(s)
			}
		}
	}
	switch {
	case j.critical == 0:
		return stop("no metric is critical: nothing could show that the change does no harm")
	case len(in.Metrics) > maxMetrics:
		return stop("%d metrics, more than %d", len(in.Metrics), maxMetrics)
	case len(in.Treated) > maxMembers || len(in.Control) > maxMembers:
		return stop("%d treated and %d control instances, more than %d of a side: give a sample of them", len(in.Treated), len(in.Control), maxMembers)
	case points > maxPoints || len(in.Periods) > maxPeriods:
		return stop("%d points and %d periods, more than %d and %d", points, len(in.Periods), maxPoints, maxPeriods)
	case len(in.Treated) == 0:
		return stop("no instance is treated")
	}
	for i, p := range in.Periods {
		if len(in.Control) == 0 && (!p.To.After(p.From) || i > 0 && p.From.Before(in.Periods[i-1].To)) {
			return stop("the periods are not in order: number %d is from %s to %s", i+1, clock(p.From), clock(p.To))
		}
	}
	if j.in.From.IsZero() {
		for i := range in.Treated {
			if a := in.Treated[i].Applied; !a.IsZero() && (j.in.From.IsZero() || a.Before(j.in.From)) {
				j.in.From = a
			}
		}
	}
	j.harm = j.o.HarmAlpha / float64(j.critical)
	return j, false
}

func (j *judging) warn(format string, args ...any) {
	if w := fmt.Sprintf(format, args...); len(j.v.Warnings) < 100 && !slices.Contains(j.v.Warnings, w) {
		j.v.Warnings = append(j.v.Warnings, w)
	}
}

// must says why it may not pass; the first reason stands.
func (j *judging) must(format string, args ...any) {
	if j.hold == "" {
		j.hold = fmt.Sprintf(format, args...)
	}
}

func (j *judging) fail(reason string, f functions) Verdict {
	j.v.Decision, j.v.Reason = Fail, reason
	if f.guilty != "" {
		j.v.Guilty = f.guilty
		if !strings.Contains(reason, f.guilty) {
			j.v.Reason += fmt.Sprintf("; %s costs %s of the service's CPU more", f.guilty, percentOf(f.grew))
		}
	}
	return j.v
}

func (j *judging) metric(name string) *MetricVerdict {
	for i := range j.v.Metrics {
		if j.v.Metrics[i].Name == name {
			return &j.v.Metrics[i]
		}
	}
	return nil
}

// take puts what profiles say into the verdict.
func (j *judging) take(f functions) {
	j.v.Functions = f.differ
	for _, w := range f.warnings {
		j.warn("%s", w)
	}
	if j.v.Decision == Fail {
		j.fail(j.v.Reason, f)
	}
}

// watch is what guard and judge both look at: crashes, bounds, and every metric. final says that metrics are judged for good, not only
// for harm so far.
func (j *judging) watch(final bool) {
	at := func(reason string) {
		if j.v.Decision != Fail {
			j.v.Decision, j.v.Reason, j.v.Final = Fail, reason, true
		}
	}
	if why := j.crashes(); why != "" {
		at(why)
	}
	if why := j.bounds(); why != "" {
		at(why)
	}
	alone := len(j.in.Control) == 0
	if alone && len(j.in.Periods) == 0 {
		j.must("there is no control, and the change was not switched on and off: nothing to compare with")
	}
	for _, m := range j.in.Metrics {
		g, err := gridOf(&j.in, m.Name)
		if err != nil {
			j.must("%v", err)
			return
		}
		var why string
		var v MetricVerdict
		if alone {
			v, why = j.watchAlone(&g, m)
		} else {
			v, why = j.watchMetric(&g, m, final)
		}
		j.v.Metrics = append(j.v.Metrics, v)
		if why == "" {
			continue
		}
		if m.Critical {
			at(why)
		} else {
			j.warn("%s", why)
		}
	}
	if j.unpaired {
		j.ages()
	}
}

// watchAlone judges a metric of one node; why is of harm.
func (j *judging) watchAlone(g *grid, m Metric) (v MetricVerdict, why string) {
	c := cross(&j.in, &j.o, g, m, j.harm)
	j.refusals(c.measured)
	if c.log >= -math.Log(j.harm) && c.keeps {
		c.verdict.Decision = Fail
		c.verdict.Why = fmt.Sprintf("%s while the change is on, more than %s", c.say(&c.verdict), c.sayMargin())
		why = c.verdict.Why
	} else if c.verdict.Decision == Fail && !m.Critical {
		why = c.verdict.Why
	}
	return c.verdict, why
}

// watchMetric judges a metric of treated against control; why is of harm.
func (j *judging) watchMetric(g *grid, m Metric, final bool) (v MetricVerdict, why string) {
	x := measure(&j.in, &j.o, g, m)
	j.refusals(x)
	x.pair()
	e := x.evidence(&j.o)
	if final {
		v = x.judge(&j.o, j.harm, e)
		if m.Stock && v.Decision == Pass {
			j.leaks(x, e, &v)
		}
	} else {
		v = x.verdictOf()
		x.fill(&v, e.value)
		v.Test = "evidence at any time: t-test by betting on the news of each window"
		v.Why = x.missing(&j.o)
	}
	v.E = math.Exp(min(e.log, 600))
	if m.Stock && x.windows > 0 {
		v.PerHour = x.relative(e.slope)
	}
	if !x.baseline && x.windows > 0 {
		j.unpaired = j.unpaired || m.Critical
		j.warn("%s has no baseline: hosts that differ are not told from the change where there are few", wordOf(m.Name))
	}
	switch shown := -math.Log(j.harm); {
	case e.log >= shown && e.keeps:
		v.Decision = Fail
		since := "with the change"
		if e.since > 0 {
			since = "from " + clock(g.from.Add(time.Duration(e.since)*g.width)) + " on"
		}
		x.fill(&v, x.plainEffect(e.r, e.since, &j.o))
		v.Why = fmt.Sprintf("%s %s, after %d windows: more than %s", x.say(&v), since, x.windows, x.sayMargin())
		return v, v.Why
	case e.slopeLog >= shown && x.log && m.Bound > 0 && m.Better == Lower:
		now := x.expected + e.value.Value
		if hours := (math.Log(m.Bound) - now) / e.slope.Value; min(e.slope.Low, e.late)*j.o.Horizon.Hours() >= math.Log(m.Bound)-now {
			v.Decision = Fail
			v.Why = fmt.Sprintf("%s rises by %s an hour against the control, and reaches its bound in %.1f hours", wordOf(m.Name), percentOf(v.PerHour), max(0, hours))
			return v, v.Why
		}
	}
	if v.Decision == Fail && !m.Critical {
		return v, v.Why
	}
	return v, ""
}

// leaks holds what would pass while it rises, in the stage or since the change first came into force.
func (j *judging) leaks(x *measured, e evidence, v *MetricVerdict) {
	since := "in this stage"
	if !e.rises {
		var all *measured
		if e, all = j.sinceFirst(x.m); all != nil {
			since = "since " + clock(all.g.from)
		}
	}
	if e.rises {
		v.Decision = Hold
		v.Why = fmt.Sprintf("%s rises by %s an hour against the control %s, and has not levelled off", wordOf(v.Name), percentOf(x.relative(e.slope)), since)
	}
}

func (j *judging) refusals(x *measured) {
	if x.refused > 0 {
		j.warn("%d windows of %s are not counted: the first has %s", x.refused, wordOf(x.m.Name), x.why)
	}
}

// crashes says why the treated crash; "" is nothing.
func (j *judging) crashes() string {
	type count struct{ restarts, gone, lost, most int }
	var c [2]count
	for side, members := range [2][]Member{j.in.Treated, j.in.Control} {
		for i := range members {
			m := &members[i]
			r := max(m.Restarts, 0)
			c[side].restarts += min(r, 1<<20)
			c[side].most = max(c[side].most, r)
			if m.Gone {
				c[side].gone++
				j.warn("%s %s went away: its windows until then count", []string{"treated", "control"}[side], cmp.Or(m.Name, "an instance"))
			}
			if r > 0 || m.Gone {
				c[side].lost++
			}
		}
	}
	t, n := c[0], len(j.in.Treated)
	u, k := c[1], len(j.in.Control)
	rate := func(a, b int) bool { return k == 0 || a*k > 2*b*n } // more than twice as often as the control
	switch {
	case t.gone == n && (k == 0 || u.gone < k):
		return fmt.Sprintf("all of %d treated instances went away", n)
	case t.gone == n:
		j.must("all instances of both sides went away")
	case t.most >= 2 && u.most < t.most/2+t.most%2:
		return fmt.Sprintf("a treated instance restarted %d times, of the control none more than %d", t.most, u.most)
	case t.restarts >= 2 && rate(t.restarts, u.restarts):
		return fmt.Sprintf("%d treated instances restarted %d times, %d of the control %d times", n, t.restarts, k, u.restarts)
	case t.gone >= 2 && 2*t.gone >= n && rate(t.gone, u.gone):
		return fmt.Sprintf("%d of %d treated instances went away, %d of %d of the control", t.gone, n, u.gone, k)
	case t.lost > 0 && rate(t.lost, u.lost):
		j.warn("%d of %d treated instances restarted or went away, %d of %d of the control", t.lost, n, u.lost, k)
		if 3*t.lost >= n {
			j.must("%d of %d treated instances restarted or went away, and it may be the change", t.lost, n)
		}
	}
	return ""
}

// thinWindow is how many requests are few for one window to speak for itself.
const thinWindow = 20

// bounds says which bound was passed; "" is none. One window is enough; where it is in the warm-up or has few requests, two in a row.
func (j *judging) bounds() string {
	for _, m := range j.in.Metrics {
		if m.Bound <= 0 {
			continue
		}
		for i := range j.in.Treated {
			member := &j.in.Treated[i]
			since := member.Applied
			if since.IsZero() {
				since = j.in.From
			}
			warm, row := since.Add(j.o.WarmUp), 0
			if w := member.Started.Add(j.o.WarmUp); w.After(warm) {
				warm = w
			}
			series := member.Series[m.Name]
			for k := range series {
				p := &series[k]
				if p.From.Before(since) || p.Weight == 0 || valid(p, true) != "" {
					continue
				}
				if past := m.Better == Lower && p.Value > m.Bound || m.Better == Higher && p.Value < m.Bound; !past {
					row = 0
					continue
				}
				row++
				if row > 1 || !p.From.Before(warm) && (!m.PerRequest || p.Weight >= thinWindow) {
					return fmt.Sprintf("%s of %s is %s, past the bound of %s", wordOf(m.Name), cmp.Or(member.Name, "a treated instance"), figure(p.Value), figure(m.Bound))
				}
			}
		}
	}
	return ""
}

// ages holds where processes are compared that cannot be alike: without a baseline of their own, young ones with old ones.
func (j *judging) ages() {
	young := func(members []Member, old bool) (n int) {
		for i := range members {
			if s := members[i].Started; !members[i].Gone && (!s.IsZero() && j.in.To.Sub(s) < j.o.Settled) != old {
				n++
			}
		}
		return n
	}
	if t, c := young(j.in.Treated, false), young(j.in.Control, false); t > 0 && c == 0 {
		j.must("%d treated instances are younger than %s, and no instance of the control is: they are not alike yet", t, span(j.o.Settled))
	} else if t == 0 && c > 0 && young(j.in.Control, true) == 0 {
		j.must("all instances of the control are younger than %s, and none of the treated is: they are not alike yet", span(j.o.Settled))
	}
}

// passOrHold is the end where no harm was shown.
func (j *judging) passOrHold() Verdict {
	var good, open []string
	for i := range j.v.Metrics {
		m := &j.v.Metrics[i]
		if m.Decision == Pass {
			if m.Critical {
				good = append(good, m.Why)
			}
			continue
		}
		if m.Critical {
			open = append(open, m.Why)
		} else if m.Decision == Hold && m.Windows == 0 {
			j.warn("%s", m.Why)
		}
	}
	switch {
	case j.hold != "":
		j.v.Reason = j.hold
	case len(open) > 0:
		j.v.Reason = strings.Join(open[:min(3, len(open))], "; ")
		if len(open) > 3 {
			j.v.Reason += fmt.Sprintf("; and %d more", len(open)-3)
		}
		if j.idle() {
			j.v.Reason = "neither side has requests: " + j.v.Reason
		}
	default:
		j.v.Decision = Pass
		j.v.Reason = fmt.Sprintf("no harm in %d treated against %d control instances: %s", len(j.in.Treated), len(j.in.Control), strings.Join(good, "; "))
	}
	return j.v
}

// idle says that what rests on requests is missing on both sides.
func (j *judging) idle() bool {
	asked := false
	for i := range j.v.Metrics {
		if j.in.Metrics[i].PerRequest {
			asked = true
			if m := &j.v.Metrics[i]; m.Windows > 0 || m.ControlWindows > 0 {
				return false
			}
		}
	}
	return asked
}
