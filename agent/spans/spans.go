// Package spans makes profiles of OpenTelemetry spans: their samples have labels, and what they took is counted.
//
// # Labels
//
// While a span lives, the
// samples of its goroutine have the pprof labels trace_id, span_id and
// operation, so that a slow trace opens its own flame graph.
//
//	sdktrace.NewTracerProvider(
//		sdktrace.WithSpanProcessor(spans.New(spans.Options{})),
//		sdktrace.WithBatcher(exporter))
//
// The labels are those of [runtime/pprof.Do] and behave so: goroutines that are
// started inside a span inherit them, and what the program itself has put
// there by pprof.Do stays beside them. Spans that are not recorded (sampled
// out) change nothing; their work counts for the span around them.
//
// # The profile of spans
//
// [Processor.Source] is a profile for the agent: how many spans have ended on each path of operations, from the root to the
// span itself, how long they took in buckets of 6 %, and whether they failed. From it Quantra-L tells which step of a request, or
// of a state machine, has become slow. Every sampled span counts, whether it got labels or not.
//
//	p := spans.New(spans.Options{})
//	agent.Start(ctx, agent.Options{Service: "checkout", Sources: []agent.Source{p.Source()}})
//
// A span's events split it into steps: if an event "handshake" follows an event "dial" in a span "connection", then
// connection has a frame "dial -> handshake" with the time between them.
//
// # How labels are done
//
// A span processor hears of a span's start and end, but cannot hand back a
// context, as a wrapper around the tracer could. So it keeps, for each
// goroutine, the spans that live on it, and at each start and end gives
// the goroutine the labels of the innermost that is left. For that it must
// know which goroutine it is on, as spans may end in any order and anywhere.
// See goroutineID, which is most of what a span costs.
//
// # Limits
//
//   - The labels that a program has put on a goroutine are read from the
//     context that the span is started with; the runtime shows nobody those of
//     the goroutine itself. Start spans with the context that pprof.Do hands out.
//   - pprof.Do inside a span sets the labels of its context, which has not
//     the span's. [Processor.WithLabels] adds them.
//   - Labels inherited by a goroutine stay on it when the span has ended.
//   - A goroutine whose span was ended by another keeps the span's labels until a
//     span starts or ends on it. So does a worker that did a part of a trace,
//     until that part's parent has ended and a span starts or ends on the worker.
//   - A span that is never ended is around all that follows on its goroutine, until it is forgotten
//     ([Options].MaxSpans).
//   - The operation is the name that the span had at its start.
package spans

import (
	"context"
	"runtime/pprof"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// The labels that samples get, and the attribute that spans get.
const (
	LabelTrace     = "trace_id"  // 32 hexadecimal digits
	LabelSpan      = "span_id"   // 16 hexadecimal digits
	LabelOperation = "operation" // the span's name
	// AttributeProfile is on each span that has profiles; its value is the
	// label span_id of their samples. Tracing pages make a link of it.
	AttributeProfile = attribute.Key("quantra.profile.id")
)

const (
	defaultMaxSpans     = 16384 // 8 MB, where all of them live
	defaultMaxOperation = 128
	defaultMaxPerSecond = 500 // at 10 to 13 µs each, see BenchmarkSpan
)

// Options say which spans get labels, and which labels. The zero value is all of them.
type Options struct {
	// OperationOnly gives the label operation alone, and no attribute: profiles
	// stay small, and there is still a flame graph of each operation.
	OperationOnly bool
	// LocalRootOnly gives labels only to spans that have no parent in this
	// process: about one a request. What is inside counts for them.
	LocalRootOnly bool
	// Filter, where there is one, chooses among the rest: false is no labels. It is called
	// as a span starts, by many goroutines at once.
	Filter func(sdktrace.ReadOnlySpan) bool
	// MaxOperation is how many bytes of a span's name become a label; what is
	// longer is cut. 0 is 128, less than 0 is no limit.
	MaxOperation int
	// MaxSpans is how many spans can live at once. Past it the oldest
	// is forgotten, as if it had ended elsewhere, so that spans that never end
	// cost bounded memory, about 500 bytes each. 0 and below are 16,384.
	MaxSpans int
	// MaxPerSecond is how many spans get labels in a second; the rest count for the span around
	// them. It bounds what this costs to about 0.6 % of a core. When it runs short, spans with a parent in this
	// process are left out first: they may take the first half of a second's share,
	// local roots all of it. 0 is 500, less than 0 is no limit.
	MaxPerSecond int
	// NoAttribute leaves [AttributeProfile] away.
	NoAttribute bool
}

// Processor is a span processor of the OpenTelemetry SDK. All its methods may
// be called by many goroutines at once.
type Processor struct {
	opt    Options
	counts atomic.Pointer[counts] // nil until somebody asks for the profile

	// mu guards all below, for a few map operations; nothing is called under it. It
	// is one lock and not many, as each of a span's two events takes some 20 times
	// longer in goroutineID, outside of it.
	mu        sync.Mutex
	stopped   bool
	live      map[spanKey]*span
	inner     map[uint64]*span // goroutine -> the innermost span on it
	oldest    *span            // the list of all that live, by their starts
	newest    *span
	forgotten uint64
	skipped   uint64
	left      float64   // of a second's share: a bucket that fills steadily
	filled    time.Time // when left was true
}

var _ sdktrace.SpanProcessor = (*Processor)(nil)

type spanKey struct {
	trace trace.TraceID
	span  trace.SpanID
}

func keyOf(sc trace.SpanContext) spanKey { return spanKey{sc.TraceID(), sc.SpanID()} }

// span is one that lives. One that does not refers to no other, or a chain
// of spans, each the child of one before, would keep all of them.
type span struct {
	key       spanKey
	goroutine uint64
	own       pprof.LabelSet  // what the span adds
	base      base            // the program's own labels where it started
	labels    context.Context // base and own

	outer, within *span // the next around it and inside of it, on the same goroutine
	parent        *span // where outer is nil: its parent, on another goroutine
	// stale says that the goroutine has the labels of an inner span that another
	// goroutine ended.
	stale bool

	older, newer *span
}

// base is a set of labels of the program: as pairs, and as the context that
// pprof wants them in. The span's own context would do, but holds the request.
type base struct {
	pairs []string
	ctx   context.Context
}

// New is a processor for [sdktrace.WithSpanProcessor].
func New(o Options) *Processor {
	if o.MaxSpans <= 0 {
		o.MaxSpans = defaultMaxSpans
	}
	if o.MaxOperation == 0 {
		o.MaxOperation = defaultMaxOperation
	}
	if o.MaxPerSecond == 0 {
		o.MaxPerSecond = defaultMaxPerSecond
	}
	return &Processor{opt: o, left: float64(o.MaxPerSecond), live: map[spanKey]*span{}, inner: map[uint64]*span{}}
}

// Stats is what a processor has to do.
type Stats struct {
	Live      int    // spans that have started and not ended
	Forgotten uint64 // spans dropped since Options.MaxSpans lived already
	Skipped   uint64 // spans without labels since Options.MaxPerSecond had them already

	// Of the profile: spans that have ended and are in it; of those, the ones whose start is forgotten, or was before
	// Source; and those that are "other", as there are too many names or paths.
	Counted, Unseen, Other uint64
}

// Stats is the present state.
func (p *Processor) Stats() Stats {
	p.mu.Lock()
	s := Stats{Live: len(p.live), Forgotten: p.forgotten, Skipped: p.skipped}
	p.mu.Unlock()
	if c := p.counts.Load(); c != nil {
		s.Counted, s.Unseen, s.Other = c.ended.Load(), c.unseen.Load(), c.elsewhere.Load()
	}
	return s
}

// OnStart puts the span's labels on this goroutine.
func (p *Processor) OnStart(parent context.Context, rw sdktrace.ReadWriteSpan) {
	if c := p.counts.Load(); c != nil {
		c.start(rw)
	}
	if !p.chooses(rw) || !p.affords(localRoot(rw)) {
		return
	}
	sc := rw.SpanContext()
	s := &span{key: keyOf(sc), own: p.labelsOf(sc, rw.Name()), base: baseOf(parent), goroutine: goroutineID()}
	s.labels = pprof.WithLabels(s.base.ctx, s.own)
	if !p.start(s, keyOf(rw.Parent())) {
		return
	}
	pprof.SetGoroutineLabels(s.labels)
	if !p.opt.NoAttribute && !p.opt.OperationOnly {
		rw.SetAttributes(AttributeProfile.String(sc.SpanID().String()))
	}
}

// OnEnd gives this goroutine the labels that it had before the span, if it is the one that started it.
func (p *Processor) OnEnd(ro sdktrace.ReadOnlySpan) {
	if c := p.counts.Load(); c != nil {
		c.end(ro)
	}
	key := keyOf(ro.SpanContext())
	p.mu.Lock()
	known := p.live[key] != nil
	p.mu.Unlock()
	if !known {
		return // not chosen, or forgotten
	}
	if back := p.end(key, goroutineID()); back != nil {
		pprof.SetGoroutineLabels(back())
	}
}

// Shutdown forgets all spans; spans that start and end later are ignored. Labels that goroutines have stay, and so does
// what has been counted, for the agent's last window.
func (p *Processor) Shutdown(context.Context) error {
	if c := p.counts.Load(); c != nil {
		c.stop()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	for p.oldest != nil {
		p.unlink(p.oldest)
	}
	return nil
}

// ForceFlush has nothing to do: labels are in force at once.
func (p *Processor) ForceFlush(context.Context) error { return nil }

// WithLabels is ctx with the labels of its span added, for pprof.Do inside the span:
//
//	pprof.Do(p.WithLabels(ctx), pprof.Labels("shard", "7"), f)
//
// It is ctx itself where the span has no labels or has ended.
func (p *Processor) WithLabels(ctx context.Context) context.Context {
	p.mu.Lock()
	s := p.live[keyOf(trace.SpanContextFromContext(ctx))]
	p.mu.Unlock()
	if s == nil {
		return ctx
	}
	return pprof.WithLabels(ctx, s.own)
}

func (p *Processor) chooses(s sdktrace.ReadOnlySpan) bool {
	return (!p.opt.LocalRootOnly || localRoot(s)) && (p.opt.Filter == nil || p.opt.Filter(s))
}

// localRoot says that s has no parent in this process.
func localRoot(s sdktrace.ReadOnlySpan) bool {
	up := s.Parent()
	return !up.IsValid() || up.IsRemote()
}

// affords takes a span's share of what there is for this second.
func (p *Processor) affords(root bool) bool {
	if p.opt.MaxPerSecond < 0 {
		return true
	}
	full, now := float64(p.opt.MaxPerSecond), time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return false
	}
	p.left = min(full, p.left+full*now.Sub(p.filled).Seconds())
	p.filled = now
	if p.left < 1 || !root && p.left <= full/2 {
		p.skipped++
		return false
	}
	p.left--
	return true
}

// labelsOf is what a span adds. The names are in order, which spares pprof.Labels a sort.
func (p *Processor) labelsOf(sc trace.SpanContext, operation string) pprof.LabelSet {
	operation = cut(operation, p.opt.MaxOperation)
	if p.opt.OperationOnly {
		return pprof.Labels(LabelOperation, operation)
	}
	return pprof.Labels(LabelOperation, operation, LabelSpan, sc.SpanID().String(), LabelTrace, sc.TraceID().String())
}

// cut is the first n bytes of s, or fewer so as not to halve a character.
func cut(s string, n int) string {
	if n < 0 || len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// baseOf is the labels of ctx.
func baseOf(ctx context.Context) (b base) {
	pprof.ForLabels(ctx, func(k, v string) bool {
		b.pairs = append(b.pairs, k, v)
		return true
	})
	b.ctx = context.Background()
	if b.pairs != nil {
		b.ctx = pprof.WithLabels(b.ctx, pprof.Labels(b.pairs...))
	}
	return b
}

// start takes s in, unless the processor has stopped. parent is the key of its parent.
func (p *Processor) start(s *span, parent spanKey) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return false
	}
	if twin := p.live[s.key]; twin != nil { // an id generator that repeats itself
		p.forget(twin)
	}
	if len(p.live) >= p.opt.MaxSpans {
		p.forget(p.oldest)
	}
	if s.outer = p.inner[s.goroutine]; s.outer == nil {
		s.parent = p.live[parent]
	} else {
		s.outer.within = s
	}
	p.inner[s.goroutine] = s
	p.live[s.key] = s
	if s.older = p.newest; s.older == nil {
		p.oldest = s
	} else {
		s.older.newer = s
	}
	p.newest = s
	return true
}

func (p *Processor) forget(s *span) {
	p.forgotten++
	p.unlink(s)
}

// end takes out the span under key, which ends on goroutine g. back makes
// the labels that g must have from now on; nil is those it has.
func (p *Processor) end(key spanKey, g uint64) (back func() context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.live[key]
	if s == nil {
		return nil // forgotten meanwhile
	}
	innermost, outer, parent, here := p.inner[s.goroutine] == s, s.outer, s.parent, s.goroutine == g
	if parent != nil && p.live[parent.key] != parent {
		parent = nil
	}
	p.unlink(s)
	top := p.inner[g]
	switch {
	case !here:
		return nil
	case !innermost && top.stale: // one further in had ended elsewhere
		top.stale = false
		return func() context.Context { return top.labels }
	case !innermost:
		return nil
	case outer != nil:
		outer.stale = false
		return func() context.Context { return s.base.with(outer) }
	case parent != nil:
		// This goroutine was started inside its parent, or got its context: it has the parent's labels.
		return func() context.Context { return s.base.with(parent) }
	}
	return func() context.Context { return s.base.ctx }
}

// with is b and the labels of a span.
func (b base) with(s *span) context.Context {
	if slices.Equal(b.pairs, s.base.pairs) {
		return s.labels
	}
	return pprof.WithLabels(b.ctx, s.own)
}

// unlink takes s out of everything. What is inside of it is then inside of what is around it.
func (p *Processor) unlink(s *span) {
	delete(p.live, s.key)
	if s.outer != nil {
		s.outer.within = s.within
	}
	switch {
	case s.within != nil:
		s.within.outer, s.within.parent = s.outer, s.parent
	case s.outer != nil:
		p.inner[s.goroutine] = s.outer
		s.outer.stale = true // unless end says otherwise
	default:
		delete(p.inner, s.goroutine)
	}
	if s.older != nil {
		s.older.newer = s.newer
	} else {
		p.oldest = s.newer
	}
	if s.newer != nil {
		s.newer.older = s.older
	} else {
		p.newest = s.older
	}
	s.outer, s.within, s.parent, s.older, s.newer = nil, nil, nil, nil, nil
}
