package measure

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/judge"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

// Instances are those of a service that sent figures of windows that start in [from, to), sorted; of more than can be asked about at a
// time those that sort first.
func (r *Reader) Instances(ctx context.Context, tenant, service string, from, to time.Time) ([]string, error) {
	names, err := r.store.LabelValues(ctx, profile.LabelInstance, store.Query{
		Tenant: tenant, Type: figureTypes[ofCPU], Matchers: []store.Matcher{{Name: profile.LabelService, Value: service}}, From: from, To: to,
	})
	if err != nil {
		return nil, fmt.Errorf("measure: %w", err)
	}
	names = slices.DeleteFunc(names, func(s string) bool { return s == "" })
	slices.Sort(names)
	return names[:min(len(names), mostInstances)], nil
}

// lookWhole measures a service as a whole: all of its instances, those included that came or went meanwhile, as one of them is on average.
func (r *Reader) lookWhole(ctx context.Context, q optimize.Question) (optimize.Sight, error) {
	if len(q.Instances) != 1 || !q.To.After(q.From) {
		return optimize.Sight{To: q.To}, nil
	}
	names, err := r.Instances(ctx, q.Tenant, q.Service, q.From, q.To)
	if err != nil {
		return optimize.Sight{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	of, err := r.read(ctx, q, names)
	if err != nil {
		return optimize.Sight{}, err
	}
	m := judge.Member{Name: q.Instances[0], Series: wholeSeries(of, q.From.UnixNano(), q.To.UnixNano(), everywhere(of, q.From, ofRSS))}
	last := int64(0)
	for _, in := range of {
		if n := len(in.windows); n > 0 && in.windows[n-1].from >= last {
			last, m.Version = in.windows[n-1].from, in.windows[n-1].version
		}
	}
	to := expected(of, q.To)
	r.forget()
	return optimize.Sight{Members: []judge.Member{m}, To: to}, nil
}

// bin is what windows of several instances that start in the same part of time were together.
type bin struct {
	from, to int64
	span     float64 // seconds of windows with a figure of CPU
	cpu, gc  float64 // seconds; gc of windows that have it, ofGC their CPU
	ofGC     float64
	rss      float64 // bytes times seconds
	ofRSS    float64
	known    float64 // seconds of windows of which the number of requests is known
	cost     float64 // CPU of requests of windows that have both
	ofCost   float64 // requests of those
	roots    analyze.Roots
}

// wholeSeries are the metrics of all instances together, in parts of time as long as their windows: per instance, or per request.
func wholeSeries(of []*instance, from, to int64, resident bool) map[string][]judge.Point {
	memory := ofMemory
	if resident {
		memory = ofRSS
	}
	width := int64(10 * time.Second) // as agents' windows are
	var lengths []int64
	spanned := map[*instance]bool{}
	for _, in := range of {
		for i := range in.windows {
			w := &in.windows[i]
			lengths = append(lengths, w.to-w.from)
			spanned[in] = spanned[in] || w.read
		}
	}
	if slices.Sort(lengths); len(lengths) > 0 {
		width = max(lengths[len(lengths)/2], int64(time.Second))
	}
	bins := map[int64]*bin{}
	for _, in := range of {
		for i := range in.windows {
			w := &in.windows[i]
			if w.from < from || w.to > to {
				continue
			}
			b := bins[w.from/width]
			if b == nil {
				b = &bin{from: w.from, to: w.to}
				bins[w.from/width] = b
			}
			b.add(w, memory, spanned[in])
		}
	}
	all := make([]*bin, 0, len(bins))
	for _, b := range bins {
		all = append(all, b)
	}
	slices.SortFunc(all, func(a, b *bin) int { return cmp.Compare(a.from, b.from) })
	return seriesOf(all)
}

// add adds a window. spanned says that its instance sends spans: then none is no request.
func (b *bin) add(w *window, memory int, spanned bool) {
	b.from, b.to = min(b.from, w.from), max(b.to, w.to)
	s, cpu := w.seconds(), w.value[ofCPU]/1e9
	if w.has[ofCPU] {
		b.span, b.cpu = b.span+s, b.cpu+cpu
		if w.has[ofGC] {
			b.gc, b.ofGC = b.gc+w.value[ofGC]/1e9, b.ofGC+cpu
		}
	}
	if w.has[memory] {
		b.rss, b.ofRSS = b.rss+s*w.value[memory], b.ofRSS+s
	}
	switch {
	case w.read:
		b.known += s
		b.roots.Add(&w.roots)
		if n := w.roots.Requests(); w.has[ofCPU] && n > 0 {
			b.cost, b.ofCost = b.cost+cpu, b.ofCost+n
		}
	case spanned && w.has[ofCPU] && w.spans.Lo == 0 && w.spans.Hi == 0:
		b.known += s
	}
}

func seriesOf(all []*bin) map[string][]judge.Point {
	s := map[string][]judge.Point{}
	var tail tail
	for _, b := range all {
		add := func(name string, sum, of float64) {
			if of > 0 {
				s[name] = append(s[name], judge.Point{From: time.Unix(0, b.from).UTC(), To: time.Unix(0, b.to).UTC(), Value: sum / of, Weight: of})
			}
		}
		add("cpu", b.cpu, b.span)
		if b.ofGC > 0 {
			// The runtime counts time on the clock: of a crowded machine it can be more than all.
			add("gc_cpu", min(1, b.gc/b.ofGC)*b.span, b.span)
		}
		add("rss", b.rss, b.ofRSS)
		n := b.roots.Requests()
		add("throughput", n, b.known)
		add("errors", b.roots.Failed(), n)
		add("cpu_per_request", b.cost, b.ofCost)
		if p, ok := tail.add(&window{from: b.from, to: b.to, roots: b.roots}); ok {
			s["latency_p99"] = append(s["latency_p99"], p)
		}
	}
	return s
}

// Waiting is how requests wait at an instance.
type Waiting struct {
	InFlight float64 // requests at a time, on average
	Median   float64 // seconds that one takes; 0 where there was none
}

// Waits are how requests wait at instances of a service, over the windows of [q.From, q.To) whose spans were read. Those of which nothing is
// known are not there.
func (r *Reader) Waits(ctx context.Context, q optimize.Question) (map[string]Waiting, error) {
	names := slices.Compact(slices.Sorted(slices.Values(q.Instances)))
	if len(names) > mostInstances {
		return nil, fmt.Errorf("measure: %w: %d instances, the bound is %d", store.ErrInvalid, len(names), mostInstances)
	}
	if len(names) == 0 || !q.To.After(q.From) {
		return nil, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	of, err := r.read(ctx, q, names)
	if err != nil {
		return nil, err
	}
	out := map[string]Waiting{}
	for _, in := range of {
		b, spanned := &bin{}, false
		for i := range in.windows {
			spanned = spanned || in.windows[i].read
		}
		for i := range in.windows {
			if w := &in.windows[i]; w.from >= q.From.UnixNano() && w.to <= q.To.UnixNano() {
				b.add(w, ofRSS, spanned)
			}
		}
		if b.known == 0 {
			continue
		}
		w := Waiting{InFlight: b.roots.Seconds() / b.known}
		if m, ok := b.roots.Quantile(0.5); ok {
			w.Median = m
		} else if b.roots.Requests() > 0 {
			continue // how long they took is not known
		}
		out[in.instance] = w
	}
	r.forget()
	return out, nil
}

var schedType = figure("sched_latency", "count")

// Scheduling is the q-quantile of how long goroutines that could run waited for a processor, in all instances of a service, over windows
// that start in [from, to): the upper bound of its bucket (docs/agent.md), so rather too long. ok is false where nothing is known.
func (r *Reader) Scheduling(ctx context.Context, tenant, service string, q float64, from, to time.Time) (seconds float64, ok bool, err error) {
	res, err := r.store.Select(ctx, store.Query{Tenant: tenant, Type: schedType, Matchers: []store.Matcher{{Name: profile.LabelService, Value: service}}, From: from, To: to})
	if err != nil {
		return 0, false, fmt.Errorf("measure: %w", err)
	}
	p := res.Profile
	by, total := map[time.Duration]int64{}, int64(0)
	for s := range p.SampleStack {
		stack, n := p.SampleStack[s], p.Values[0][s]
		if stack == 0 || n <= 0 {
			continue
		}
		lines := p.LinesOf(p.Stacks.Loc[stack])
		if len(lines) == 0 {
			continue
		}
		if bound, ok := upper(p.Strings[p.Functions[lines[0].Function].Name]); ok {
			by[bound] += n
			total += n
		}
	}
	if total == 0 {
		return 0, false, nil
	}
	bounds := make([]time.Duration, 0, len(by))
	for b := range by {
		bounds = append(bounds, b)
	}
	slices.Sort(bounds)
	seen := int64(0)
	for _, b := range bounds {
		if seen += by[b]; float64(seen) >= q*float64(total) {
			return b.Seconds(), true, nil
		}
	}
	return bounds[len(bounds)-1].Seconds(), true, nil
}

// upper is the upper bound of a bucket of waiting by its name: "under 1µs", "1µs to 3µs", "1s and more", whose lower bound it is.
func upper(name string) (time.Duration, bool) {
	var low, high string
	if n, _ := fmt.Sscanf(name, "under %s", &high); n == 1 {
	} else if n, _ := fmt.Sscanf(name, "%s to %s", &low, &high); n == 2 {
	} else if n, _ := fmt.Sscanf(name, "%s and more", &high); n != 1 {
		return 0, false
	}
	d, err := time.ParseDuration(high)
	return d, err == nil && d > 0
}
