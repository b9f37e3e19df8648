package measure

import (
	"context"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/judge"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

const (
	// tailRequests is how many requests a 99th percentile rests on at least: windows are put together until there are, for tailSpan at most.
	tailRequests = 100
	tailSpan     = 5 * time.Minute
)

// member is an instance's series, and its profiles where they are asked for.
func (r *Reader) member(ctx context.Context, in *instance, q *optimize.Question, resident bool) (judge.Member, error) {
	m := judge.Member{Name: in.instance}
	ws := in.windows
	for len(ws) > 0 && ws[0].from < q.From.UnixNano() {
		ws = ws[1:]
	}
	for len(ws) > 0 && ws[len(ws)-1].to > q.To.UnixNano() {
		ws = ws[:len(ws)-1]
	}
	if len(ws) > 0 {
		m.Version, m.Series = ws[len(ws)-1].version, series(ws, resident)
	}
	if q.ProfileFrom.IsZero() {
		return m, nil
	}
	var err error
	if m.Profile, m.Seconds, err = r.profile(ctx, in, q.ProfileFrom, q.To); err != nil {
		return m, err
	}
	for i := range ws {
		if w := &ws[i]; w.from >= q.ProfileFrom.UnixNano() && w.read {
			m.Requests += w.roots.Requests()
		}
	}
	if q.BaselineTo.After(q.From) {
		m.Before, _, err = r.profile(ctx, in, q.From, q.BaselineTo)
	}
	return m, err
}

// profile sums an instance's CPU profiles; nil is none. seconds is how long they were taken.
func (r *Reader) profile(ctx context.Context, in *instance, from, to time.Time) (p *profile.Profile, seconds float64, err error) {
	if !to.After(from) {
		return nil, 0, nil
	}
	res, err := r.store.Select(ctx, store.Query{Tenant: in.tenant, Type: cpuProfile, Matchers: matchers([]*instance{in}), From: from, To: to})
	if err != nil || res.Profiles == 0 {
		return nil, 0, err
	}
	return res.Profile, float64(res.Profile.DurationNanos) / 1e9, nil
}

// series are the metrics of judge.Metric by name, of windows in their order. resident says that memory is the kernel's account, for all
// members alike, else the runtime's.
func series(ws []window, resident bool) map[string][]judge.Point {
	s := map[string][]judge.Point{}
	add := func(name string, w *window, value, weight float64) {
		s[name] = append(s[name], judge.Point{From: time.Unix(0, w.from).UTC(), To: time.Unix(0, w.to).UTC(), Value: value, Weight: weight})
	}
	memory := ofMemory
	if resident {
		memory = ofRSS
	}
	spanned := false
	for i := range ws {
		spanned = spanned || ws[i].read
	}
	var tail tail
	for i := range ws {
		w := &ws[i]
		cpu := w.value[ofCPU] / 1e9
		if w.has[ofCPU] {
			add("cpu", w, cpu/w.seconds(), w.seconds())
			if w.has[ofGC] && cpu > 0 {
				// The runtime counts time on the clock: of a crowded machine it can be more than all.
				add("gc_cpu", w, min(1, w.value[ofGC]/1e9/cpu), w.seconds())
			}
		}
		if w.has[memory] {
			add("rss", w, w.value[memory], w.seconds())
		}
		if w.has[ofStacks] {
			add("stacks", w, w.value[ofStacks], w.seconds())
		}
		switch {
		case w.read:
			n := w.roots.Requests()
			add("throughput", w, n/w.seconds(), w.seconds())
			if n > 0 {
				add("errors", w, w.roots.Failed()/n, n)
				if w.has[ofCPU] {
					add("cpu_per_request", w, cpu/n, n)
				}
			}
			if p, ok := tail.add(w); ok {
				s["latency_p99"] = append(s["latency_p99"], p)
			}
		case spanned && w.has[ofCPU] && w.spans.Lo == 0 && w.spans.Hi == 0:
			// An agent sends spans before figures, and none where none ended: that is no request, which is a measurement.
			add("throughput", w, 0, w.seconds())
		}
	}
	return s
}

// tail puts windows together until there are requests enough for a percentile.
type tail struct {
	roots    analyze.Roots
	from, to int64 // from 0 is empty
}

// add adds a window; ok is true where the point is done.
func (t *tail) add(w *window) (p judge.Point, ok bool) {
	if t.from != 0 && w.to-t.from > int64(tailSpan) {
		*t = tail{}
	}
	if t.from == 0 {
		t.from = w.from
	}
	t.roots.Add(&w.roots)
	t.to = w.to
	n := t.roots.Requests()
	if n < tailRequests {
		return judge.Point{}, false
	}
	v, ok := t.roots.Quantile(0.99)
	p = judge.Point{From: time.Unix(0, t.from).UTC(), To: time.Unix(0, t.to).UTC(), Value: v, Weight: n}
	*t = tail{}
	return p, ok
}
