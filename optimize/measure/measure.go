// Package measure reads what changes are judged by from the profiles that a store keeps: the figures of the runtime, spans, and where
// processor time goes, of each instance and in its own windows.
//
// A [Reader] is asked every few seconds about the same instances. It keeps what it has read of windows, which do not change, and asks
// the store for what came since: one question for each type of profile, whatever the number of instances, and one for the spans of
// each new window. What it could not read in its time is left out, and read the next time: missing is never made up.
package measure

import (
	"cmp"
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
)

const (
	// lateness is how long after its end a window may come: agents without a lease upload once a minute. What is later still, as out of an
	// agent's spool, is found when all is read again, every rereadEvery.
	lateness    = 3 * time.Minute
	rereadEvery = 10 * time.Minute
	// keepFor is how long windows, and instances that nobody asks about, are kept; mostWindows bounds them.
	keepFor     = 6 * time.Hour
	mostWindows = 500_000
	// readFor bounds the time of one Look for spans that were not read yet.
	readFor = 3 * time.Second
	// mostInstances of one question, as a judgement's.
	mostInstances = 1024
)

// The profile types that are read. The figures are those of docs/agent.md.
var (
	cpuProfile = profile.Type{Name: "process_cpu", Sample: profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, Period: profile.ValueType{Type: "cpu", Unit: "nanoseconds"}}
	spansType  = profile.Type{Name: "spans", Sample: profile.ValueType{Type: "spans", Unit: "count"}, Period: profile.ValueType{Type: "spans", Unit: "count"}}
)

// figure is a type of the profile "runtime".
func figure(name, unit string) profile.Type {
	return profile.Type{Name: "runtime", Sample: profile.ValueType{Type: name, Unit: unit}}
}

// What is kept of a window, beside its spans.
const (
	ofCPU = iota
	ofGC
	ofRSS
	ofMemory
	ofStacks
	figures
)

var figureTypes = [figures]profile.Type{
	ofCPU: figure("process_cpu", "nanoseconds"), ofGC: figure("gc_cpu", "nanoseconds"),
	ofRSS: figure("rss", "bytes"), ofMemory: figure("memory", "bytes"), ofStacks: figure("stacks", "bytes"),
}

// Reader answers questions of an optimizer. Make it with [New]. Many may ask at a time; they take turns.
type Reader struct {
	store store.Store
	now   func() time.Time

	mu   sync.Mutex // held over questions to the store: who asks at the same time finds the answers here
	seen map[key]*instance
}

type key struct{ tenant, service, instance string }

// instance is what was read of one, in windows by their start.
type instance struct {
	key
	asked    time.Time // when it was last asked about
	reread   time.Time // when all of it was last read
	from, to time.Time // windows that start in [from, to) were read
	windows  []window
}

// window is one. Times are Unix nanoseconds.
type window struct {
	from, to int64
	version  string
	has      [figures]bool
	value    [figures]float64
	spans    block.ID // of the profile of spans; zero is none
	read     bool     // spans is read
	roots    analyze.Roots
}

func (w *window) seconds() float64 { return float64(w.to-w.from) / 1e9 }

// New makes a reader of s. now is nil for time.Now.
func New(s store.Store, now func() time.Time) *Reader {
	if now == nil {
		now = time.Now
	}
	return &Reader{store: s, now: now, seen: map[key]*instance{}}
}

// Look measures instances. Those of which nothing is known are there without series. Errors are the store's.
func (r *Reader) Look(ctx context.Context, q optimize.Question) (optimize.Sight, error) {
	if q.Whole {
		return r.lookWhole(ctx, q)
	}
	names := slices.Compact(slices.Sorted(slices.Values(q.Instances)))
	if len(names) > mostInstances {
		return optimize.Sight{}, fmt.Errorf("measure: %w: %d instances, the bound is %d", store.ErrInvalid, len(names), mostInstances)
	}
	if len(names) == 0 || !q.To.After(q.From) {
		return optimize.Sight{To: q.To}, nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	of, err := r.read(ctx, q, names)
	if err != nil {
		return optimize.Sight{}, err
	}
	s := optimize.Sight{To: expected(of, q.To)}
	resident := everywhere(of, q.From, ofRSS)
	for _, in := range of {
		m, err := r.member(ctx, in, &q, resident)
		if err != nil {
			return optimize.Sight{}, fmt.Errorf("measure: %w", err)
		}
		s.Members = append(s.Members, m)
	}
	r.forget()
	return s, nil
}

// read reads the windows of some instances, and their spans as far as time allows. It is called under mu.
func (r *Reader) read(ctx context.Context, q optimize.Question, names []string) ([]*instance, error) {
	of := make([]*instance, len(names))
	for i, name := range names {
		of[i] = r.at(key{q.Tenant, q.Service, name})
	}
	if err := r.load(ctx, of, q.From, q.To); err != nil {
		return nil, fmt.Errorf("measure: %w", err)
	}
	if err := r.readSpans(ctx, of, q.From); err != nil {
		return nil, fmt.Errorf("measure: %w", err)
	}
	return of, nil
}

func (r *Reader) at(k key) *instance {
	in := r.seen[k]
	if in == nil {
		in = &instance{key: k}
		r.seen[k] = in
	}
	in.asked = r.now()
	return in
}

// forget keeps what is held within its bounds.
func (r *Reader) forget() {
	now, n := r.now(), 0
	for k, in := range r.seen {
		if now.Sub(in.asked) > keepFor {
			delete(r.seen, k)
			continue
		}
		if old := now.Add(-keepFor); in.from.Before(old) {
			in.windows = slices.DeleteFunc(in.windows, func(w window) bool { return w.from < old.UnixNano() })
			in.from = old
		}
		n += len(in.windows)
	}
	if n > mostWindows {
		clear(r.seen)
	}
}

// load reads the windows that start in [from, to), as far as they are not known. What is read anew is asked in two parts: those of whom nothing
// is known from the beginning, the others from where they end.
func (r *Reader) load(ctx context.Context, of []*instance, from, to time.Time) error {
	var fresh, known []*instance
	since := to
	for _, in := range of {
		if in.to.IsZero() || from.Before(in.from) || r.now().Sub(in.reread) >= rereadEvery || in.to.Before(from) {
			fresh = append(fresh, in)
			continue
		}
		known = append(known, in)
		if t := in.to.Add(-lateness); t.Before(since) {
			since = t
		}
	}
	if since.Before(from) {
		since = from
	}
	for _, part := range []struct {
		of   []*instance
		from time.Time
	}{{fresh, from}, {known, since}} {
		if len(part.of) == 0 || !to.After(part.from) {
			continue
		}
		if err := r.ask(ctx, part.of, part.from, to); err != nil {
			return err
		}
	}
	for _, in := range fresh {
		in.from, in.reread = from, r.now()
	}
	for _, in := range of {
		if in.to.Before(to) {
			in.to = to
		}
	}
	return nil
}

// ask asks for all types of some instances' windows. Memory as the runtime has it is asked for only where that of the kernel is missing.
func (r *Reader) ask(ctx context.Context, of []*instance, from, to time.Time) error {
	by := make(map[string]*instance, len(of))
	for _, in := range of {
		by[in.instance] = in
	}
	for f, typ := range figureTypes {
		if f == ofMemory && everywhere(of, from, ofRSS) {
			continue
		}
		err := r.infos(ctx, of[0].tenant, matchers(of), typ, from, to, func(i *store.ProfileInfo) {
			if w := by[i.Labels.Get(profile.LabelInstance)].window(i); w != nil {
				w.has[f], w.value[f] = true, float64(i.Total)
			}
		})
		if err != nil {
			return err
		}
	}
	return r.infos(ctx, of[0].tenant, matchers(of), spansType, from, to, func(i *store.ProfileInfo) {
		if w := by[i.Labels.Get(profile.LabelInstance)].window(i); w != nil && w.spans != i.ID {
			w.spans, w.read = i.ID, false
		}
	})
}

// window is the one of a profile, made where it is not there; nil where it has no length.
func (in *instance) window(i *store.ProfileInfo) *window {
	if in == nil || !i.To.After(i.From) {
		return nil
	}
	from := i.From.UnixNano()
	n := len(in.windows)
	at, ok := n, false
	if n > 0 && in.windows[n-1].from >= from { // else it is the newest, as most are
		at, ok = slices.BinarySearchFunc(in.windows, from, func(w window, from int64) int { return cmp.Compare(w.from, from) })
	}
	if !ok {
		in.windows = slices.Insert(in.windows, at, window{from: from, to: i.To.UnixNano(), version: i.Labels.Get(profile.LabelVersion)})
	}
	return &in.windows[at]
}

// everywhere says that each instance of which windows are known has a figure in one of them.
func everywhere(of []*instance, from time.Time, f int) bool {
	any := false
	for _, in := range of {
		there, has := false, false
		for i := range in.windows {
			if w := &in.windows[i]; w.from >= from.UnixNano() && w.has[ofCPU] {
				there, has = true, has || w.has[f]
			}
		}
		if there && !has {
			return false
		}
		any = any || has
	}
	return any
}

// infos calls see for each profile of a type, ascending by start. The store names at most [store.MaxProfiles] at a time, so a longer range is
// asked in halves.
func (r *Reader) infos(ctx context.Context, tenant string, of []store.Matcher, typ profile.Type, from, to time.Time, see func(*store.ProfileInfo)) error {
	q := store.Query{Tenant: tenant, Type: typ, Matchers: of, From: from, To: to}
	res, err := r.store.Profiles(ctx, q, store.MaxProfiles)
	if err != nil {
		return err
	}
	if res.All > len(res.Profiles) {
		half := from.Add(to.Sub(from) / 2)
		if to.Sub(from) < time.Second {
			return fmt.Errorf("%w: %d profiles of %s start within %v", store.ErrTooLarge, res.All, typ, to.Sub(from))
		}
		if err := r.infos(ctx, tenant, of, typ, from, half, see); err != nil {
			return err
		}
		return r.infos(ctx, tenant, of, typ, half, to, see)
	}
	for i := range res.Profiles {
		see(&res.Profiles[i])
	}
	return nil
}

// matchers choose instances of one service.
func matchers(of []*instance) []store.Matcher {
	ms := []store.Matcher{{Name: profile.LabelService, Value: of[0].service}}
	if len(of) == 1 {
		return append(ms, store.Matcher{Name: profile.LabelInstance, Value: of[0].instance})
	}
	names := make([]string, len(of))
	for i, in := range of {
		names[i] = regexp.QuoteMeta(in.instance)
	}
	return append(ms, store.Matcher{Name: profile.LabelInstance, Op: store.MatchRegexp, Value: strings.Join(names, "|")})
}

// readSpans reads the spans of windows that were not read yet, the newest first, until its time is over.
func (r *Reader) readSpans(ctx context.Context, of []*instance, from time.Time) error {
	type unread struct {
		in *instance
		w  *window
	}
	var todo []unread
	for _, in := range of {
		for i := range in.windows {
			if w := &in.windows[i]; w.from >= from.UnixNano() && w.spans != (block.ID{}) && !w.read {
				todo = append(todo, unread{in, w})
			}
		}
	}
	slices.SortFunc(todo, func(a, b unread) int {
		return cmp.Or(cmp.Compare(b.w.from, a.w.from), cmp.Compare(a.in.instance, b.in.instance))
	})
	began := time.Now()
	for _, u := range todo {
		if time.Since(began) > readFor {
			return nil
		}
		at := time.Unix(0, u.w.from)
		res, err := r.store.Select(ctx, store.Query{Tenant: u.in.tenant, Type: spansType, Matchers: matchers([]*instance{u.in}), IDs: []block.ID{u.w.spans}, From: at, To: at.Add(1)})
		if err != nil {
			return err
		}
		if res.Profiles == 0 {
			continue // it is being handed over; the next time
		}
		u.w.roots, _ = analyze.ReadRoots(res.Profile) // what cannot be read counts as no requests, of which nothing is said
		u.w.read = true
	}
	return nil
}

// expected is up to when windows can be there by now: one that is open is not, and the way takes a moment.
func expected(of []*instance, to time.Time) time.Time {
	const way = 3 * time.Second
	var lengths []int64
	for _, in := range of {
		if n := len(in.windows); n > 0 {
			lengths = append(lengths, in.windows[n-1].to-in.windows[n-1].from)
		}
	}
	if len(lengths) == 0 {
		return to
	}
	slices.Sort(lengths)
	return to.Add(-time.Duration(lengths[len(lengths)/2])*11/10 - way)
}
