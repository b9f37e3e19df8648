package scale

import (
	"fmt"
	"math"
	"slices"
	"time"
)

// forecast is load that is to come, in cores.
type forecast struct {
	mid, high float64
	basis     string // in words
}

const (
	bin    = 5 * time.Minute
	day    = int(24 * time.Hour / bin)
	levels = int(30 * time.Minute / bin) // what "now" is, of a history
	hours  = int(time.Hour / bin)        // what a trend is taken from
	weeks  = 4
)

// bins are the history, in steps of 5 minutes back from now: bins[0] is the last one. What is missing is NaN.
type bins []float64

func newBins(in *Input) bins {
	n := (weeks*7+1)*day + levels
	sum, count := make([]float64, n), make([]int, n)
	last := -1
	now := in.Now.UnixNano()
	for _, l := range in.History {
		back := now - l.At.UnixNano()
		if i := int(back / int64(bin)); back >= 0 && i < n && known(l.Cores) {
			sum[i] += l.Cores
			count[i]++
			last = max(last, i)
		}
	}
	for i := range sum[:last+1] {
		sum[i] /= float64(count[i]) // 0/0 is NaN
	}
	return sum[:last+1]
}

// span is how far back it goes, unless half of it is missing.
func (b bins) span() time.Duration {
	have := 0
	for _, v := range b {
		if known(v) {
			have++
		}
	}
	if 2*have < len(b) {
		return time.Duration(have) * bin
	}
	return time.Duration(len(b)) * bin
}

// part is b[from:to] without what is missing, and whether most of it is there.
func (b bins) part(from, to int) ([]float64, bool) {
	var out []float64
	for i := max(0, from); i < min(to, len(b)); i++ {
		if known(b[i]) {
			out = append(out, b[i])
		}
	}
	return out, 5*len(out) >= 4*(to-from)
}

// foresee fills in what is to come: by the same hours of past days and weeks where there are any, else by the trend of the last hour.
func (f *figures) foresee(b bins, o Options) {
	lead, horizon := ceilBins(o.Lead), ceilBins(o.Horizon)
	tr := f.trend(b, lead, horizon)
	f.soon, f.peak = tr, tr
	s, ok := b.season(f.load, lead, horizon)
	if !ok {
		return
	}
	f.seasonal = true
	f.peak = forecast{mid: s.mid, high: s.high, basis: s.basis}
	// Nothing is expected below what was there lately.
	if last, _ := b.part(0, levels); len(last) > 0 {
		f.peak.high = max(f.peak.high, slices.Max(last))
	}
	f.peak.high = max(f.peak.high, f.load)
	if s.soon > f.soon.mid {
		f.soon = forecast{mid: s.soon, basis: s.basis}
	}
}

// trend is what was lately gone on with: of the last hour, or of its last half where that rises faster.
func (f *figures) trend(b bins, lead, horizon int) forecast {
	long, ok := b.line(hours)
	if !ok {
		f.spike = "there is no last hour to compare with"
		f.scatter = 0.2
		return forecast{mid: f.load, high: 1.5 * f.load, basis: "no history"}
	}
	if long.usual > 0 {
		f.scatter = min(0.5, max(0.02, 2*long.sigma/long.usual))
	}
	ahead := func(l line, by int) float64 { return l.level + max(0, l.slope)*float64(by) }
	fc := forecast{
		mid:   ahead(long, lead),
		high:  max(long.top, f.load, ahead(long, horizon)) + 3*long.sigma,
		basis: "the trend of the last hour",
	}
	rise := long.slope * float64(lead) / long.level
	if short, ok := b.line(hours / 2); ok && ahead(short, lead) > fc.mid && short.slope > 0 {
		fc.mid, fc.basis = ahead(short, lead), "the trend of the last half hour"
		rise = max(rise, short.slope*float64(lead)/short.level)
	}
	switch {
	case f.load > 1.3*long.usual && f.load > long.usual+5*long.sigma:
		f.spike = fmt.Sprintf("load is %.1f times what it was in the last hour", f.load/long.usual)
	case rise > 0.05:
		f.spike = fmt.Sprintf("load rises by %s in %v", percent(rise), time.Duration(lead)*bin)
	}
	return fc
}

// line is a straight one through the last bins.
type line struct {
	level, slope float64 // now, and by bin; the slope is 0 unless it is more than scatter
	sigma        float64 // of a bin around it
	usual, top   float64 // the median and the most
}

// line is by the median of slopes between all pairs (Theil-Sen), so that a single bin moves it little. ok says that there is enough.
func (b bins) line(n int) (l line, ok bool) {
	type point struct{ x, y float64 }
	var pts []point
	var ys []float64
	for i := range min(n, len(b)) {
		if known(b[i]) {
			pts = append(pts, point{-float64(i), b[i]})
			ys = append(ys, b[i])
		}
	}
	if 2*len(pts) < n {
		return l, false
	}
	var slopes, levels, off []float64
	for i := range pts {
		for j := range i {
			slopes = append(slopes, (pts[i].y-pts[j].y)/(pts[i].x-pts[j].x))
		}
	}
	fit := func(slope float64) {
		levels, off, l.slope = levels[:0], off[:0], slope
		for _, p := range pts {
			levels = append(levels, p.y-slope*p.x)
		}
		l.level = quantile(levels, 0.5)
		for _, p := range pts {
			off = append(off, math.Abs(p.y-l.level-slope*p.x))
		}
		// 1.4826 makes the median of deviations the standard deviation of a normal distribution.
		l.sigma = max(1.4826*quantile(off, 0.5), 0.005*l.usual)
	}
	l.top, l.usual = slices.Max(ys), quantile(ys, 0.5)
	fit(quantile(slopes, 0.5))
	// Least squares over n even steps of scatter sigma have a standard error of sigma*sqrt(12/n^3); Theil-Sen's is about that.
	// Few points understate the scatter, so they must show more.
	c, times := float64(len(pts)), 4.0
	if len(pts) < 10 {
		times = 8
	}
	if math.Abs(l.slope) < times*l.sigma*math.Sqrt(12/(c*c*c)) {
		fit(0)
	}
	return l, true
}

type season struct {
	soon      float64 // the most within the lead
	mid, high float64 // the most within the horizon
	basis     string
}

// past is the same hours some days ago.
type past struct {
	days  int
	ratio float64 // of load now to load then
}

// season looks at the same hours of past days and weeks. now is the load.
func (b bins) season(now float64, lead, horizon int) (s season, ok bool) {
	if cur, most := b.part(0, levels); most {
		now = mean(cur)
	}
	find := func(days int) (p past, ok bool) {
		then, most := b.part(days*day, days*day+levels)
		_, rest := b.part(days*day-horizon, days*day)
		if !most || !rest {
			return p, false
		}
		p = past{days: days, ratio: 1}
		if m := mean(then); m > 0 {
			p.ratio = min(4, max(0.25, now/m)) // past that it is another load, not another level
		}
		return p, true
	}
	var daily, weekly []past
	for d := 1; d < 7; d++ {
		if p, ok := find(d); ok {
			daily = append(daily, p)
		}
	}
	for w := 1; w <= weeks; w++ {
		if p, ok := find(7 * w); ok {
			weekly = append(weekly, p)
		}
	}
	if len(daily)+len(weekly) == 0 {
		return s, false
	}
	// Weeks know which day it is. One alone may have been out of the ordinary, so days stand beside it.
	usual := weekly
	s.basis = fmt.Sprintf("by the same hours of %d weeks", len(weekly))
	if len(weekly) < 2 {
		usual = slices.Concat(daily, weekly)
		s.basis = fmt.Sprintf("by the same hours of %d days", len(usual))
	}
	for j := 1; j <= horizon; j++ {
		mid := b.median(usual, j, true)
		if known(mid) {
			s.mid = max(s.mid, mid)
			if j <= lead {
				s.soon = max(s.soon, mid)
			}
		}
		s.high = max(s.high, b.most(daily, weekly, j))
	}
	return s, s.high > 0
}

// most is what load may be in j steps: as on any of the last two days or weeks, at the level of now; and, if now is lower than is usual
// at this hour, what was usual, as an outage elsewhere may be over in a minute. A load that is gone for good is not usual after a day.
func (b bins) most(daily, weekly []past, j int) (high float64) {
	var last []past
	for _, p := range daily {
		if p.days <= 2 {
			last = append(last, p)
		}
	}
	for _, p := range slices.Concat(last, weekly) {
		if v := b.at(p, j); known(v) {
			high = max(high, v*p.ratio)
		}
	}
	usual := math.Inf(1)
	if len(last) > 0 && last[0].days == 1 {
		if v := b.at(last[0], j); known(v) {
			usual = v
		}
	}
	if v := b.median(weekly, j, false); known(v) {
		usual = min(usual, v)
	}
	if known(usual) {
		high = max(high, usual)
	}
	return high
}

// at is what was j steps after the same time of a past day.
func (b bins) at(p past, j int) float64 { return b[p.days*day-j] }

// median of several pasts; NaN is none.
func (b bins) median(of []past, j int, level bool) float64 {
	var x []float64
	for _, p := range of {
		if v := b.at(p, j); known(v) {
			if level {
				v *= p.ratio
			}
			x = append(x, v)
		}
	}
	if len(x) == 0 {
		return math.NaN()
	}
	return quantile(x, 0.5)
}

func ceilBins(d time.Duration) int { return int((d + bin - 1) / bin) }
