package spans

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/pprof/profile"
	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// one lets one goroutine at a time look at itself.
var one sync.Mutex

// here is the labels that this goroutine has, as a profile shows them: "operation=a span_id=.. trace_id=..".
func here(t testing.TB) string {
	one.Lock()
	defer one.Unlock()
	return lookAtSelf(t)
}

// lookAtSelf marks the goroutine that a profile is to be searched for.
//
//go:noinline
func lookAtSelf(t testing.TB) string {
	var b bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&b, 0); err != nil {
		t.Error(err)
	}
	p, err := profile.ParseData(b.Bytes())
	if err != nil {
		t.Error(err)
		return ""
	}
	var found []string
	for _, s := range p.Sample {
		if slices.ContainsFunc(s.Location, func(l *profile.Location) bool {
			return slices.ContainsFunc(l.Line, func(ln profile.Line) bool { return strings.HasSuffix(ln.Function.Name, "/spans.lookAtSelf") })
		}) {
			var pairs []string
			for _, k := range slices.Sorted(maps.Keys(s.Label)) {
				pairs = append(pairs, k+"="+strings.Join(s.Label[k], "+"))
			}
			found = append(found, strings.Join(pairs, " "))
		}
	}
	if len(found) != 1 {
		t.Errorf("%d goroutines look at themselves: the test shows nothing", len(found))
		return ""
	}
	return found[0]
}

// tracing is a processor in a provider of the SDK, and what spans look like at their end.
type tracing struct {
	*Processor
	trace.Tracer
	ended *tracetest.SpanRecorder
}

func newTracing(t testing.TB, o Options, more ...sdktrace.TracerProviderOption) *tracing {
	p, ended := New(o), tracetest.NewSpanRecorder()
	tp := sdktrace.NewTracerProvider(append(more, sdktrace.WithSpanProcessor(p), sdktrace.WithSpanProcessor(ended))...)
	t.Cleanup(func() {
		pprof.SetGoroutineLabels(context.Background())
		if err := tp.Shutdown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return &tracing{p, tp.Tracer("test"), ended}
}

// labels is what here says inside span s named name, with the program's own labels.
func labels(s trace.Span, name string, own ...string) string {
	all := append(own, "operation="+name, "span_id="+s.SpanContext().SpanID().String(), "trace_id="+s.SpanContext().TraceID().String())
	slices.Sort(all)
	return strings.Join(all, " ")
}

func want(t testing.TB, when, want string) {
	t.Helper()
	if got := here(t); got != want {
		t.Errorf("%s: the goroutine has %q, want %q", when, got, want)
	}
}

// elsewhere runs f on a new goroutine and waits for it.
func elsewhere(f func()) {
	var wg sync.WaitGroup
	wg.Go(f)
	wg.Wait()
}

func (tr *tracing) none(t testing.TB) {
	t.Helper()
	if s := tr.Stats(); s.Live != 0 || len(tr.inner) != 0 || tr.oldest != nil || tr.newest != nil {
		t.Errorf("%+v and %d goroutines are left", s, len(tr.inner))
	}
}

func TestNesting(t *testing.T) {
	tr := newTracing(t, Options{})
	want(t, "before", "")
	ctx, a := tr.Start(t.Context(), "a")
	want(t, "in a", labels(a, "a"))
	ctx, b := tr.Start(ctx, "b")
	want(t, "in b", labels(b, "b"))
	_, c := tr.Start(ctx, "c")
	want(t, "in c", labels(c, "c"))
	c.End()
	want(t, "c has ended", labels(b, "b"))
	_, d := tr.Start(ctx, "d", trace.WithNewRoot())
	if d.SpanContext().TraceID() == a.SpanContext().TraceID() {
		t.Error("d is no other trace: the test shows nothing")
	}
	want(t, "in d, of another trace", labels(d, "d"))
	d.End()
	want(t, "d has ended", labels(b, "b"))
	b.End()
	want(t, "b has ended", labels(a, "a"))
	a.End()
	want(t, "a has ended", "")
	a.End()
	want(t, "a has ended twice", "")
	tr.none(t)
}

func TestGoroutinesInherit(t *testing.T) {
	tr := newTracing(t, Options{})
	ctx, a := tr.Start(t.Context(), "a")
	ended := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		want(t, "started in a", labels(a, "a"))
		_, b := tr.Start(ctx, "b")
		want(t, "in b", labels(b, "b"))
		elsewhere(func() { want(t, "started in b", labels(b, "b")) })
		b.End()
		want(t, "b has ended, a lives", labels(a, "a"))
		_, c := tr.Start(ctx, "c")
		ended <- struct{}{}
		<-ended
		c.End()
		want(t, "c has ended after its parent", "")
	})
	<-ended
	a.End()
	want(t, "a has ended", "")
	ended <- struct{}{}
	wg.Wait()
	tr.none(t)
}

func TestOutOfOrder(t *testing.T) {
	tr := newTracing(t, Options{})
	ctx, a := tr.Start(t.Context(), "a")
	ctx, b := tr.Start(ctx, "b")
	ctx, c := tr.Start(ctx, "c")
	b.End()
	want(t, "the middle one has ended", labels(c, "c"))
	_, d := tr.Start(ctx, "d")
	c.End()
	want(t, "c has ended before d", labels(d, "d"))
	d.End()
	want(t, "all but a have ended", labels(a, "a"))
	_, e := tr.Start(ctx, "e")
	a.End()
	want(t, "a has ended before e", labels(e, "e"))
	e.End()
	want(t, "all have ended", "")
	tr.none(t)

	// On a goroutine that was started inside a span, that span is still around what is left.
	ctx, f := tr.Start(t.Context(), "f")
	elsewhere(func() {
		ctx, g := tr.Start(ctx, "g")
		_, h := tr.Start(ctx, "h")
		g.End()
		h.End()
		want(t, "h has ended after g", labels(f, "f"))
	})

	// The end of an outer one disturbs nothing that the program has put there since.
	ctx, i := tr.Start(ctx, "i")
	_, j := tr.Start(ctx, "j")
	j.End()
	pprof.Do(ctx, pprof.Labels("shard", "7"), func(context.Context) {
		f.End()
		want(t, "f has ended in Do", "shard=7")
	})
	i.End()
	want(t, "i has ended", "")
	tr.none(t)
}

func TestEndedElsewhere(t *testing.T) {
	tr := newTracing(t, Options{})
	ctx, a := tr.Start(t.Context(), "a")
	ctx, b := tr.Start(ctx, "b")
	elsewhere(func() {
		pprof.Do(context.Background(), pprof.Labels("worker", "1"), func(own context.Context) {
			b.End()
			want(t, "another goroutine ended b", "worker=1")
			_, w := tr.Start(own, "w")
			a2, s := tr.Start(context.Background(), "s")
			elsewhere(func() { w.End() })
			want(t, "a third ended w", labels(s, "s"))
			_, x := tr.Start(a2, "x")
			x.End()
			want(t, "x has ended", labels(s, "s"))
			s.End()
		})
	})
	want(t, "b ended elsewhere", labels(b, "b")) // the documented limit
	_, c := tr.Start(ctx, "c")
	want(t, "in c", labels(c, "c"))
	c.End()
	want(t, "c has ended", labels(a, "a"))

	// Where the outer one ends out of order it mends what another goroutine left.
	ctx, d := tr.Start(ctx, "d")
	_, e := tr.Start(ctx, "e")
	elsewhere(func() { e.End() })
	want(t, "e ended elsewhere", labels(e, "e"))
	a.End()
	want(t, "a has ended, d lives", labels(d, "d"))
	elsewhere(func() { d.End() })
	tr.none(t)
	_, f := tr.Start(t.Context(), "f")
	f.End()
	want(t, "f has ended, d ended elsewhere", "")
	tr.none(t)
}

func TestProgramsOwnLabels(t *testing.T) {
	tr := newTracing(t, Options{})
	do := func(ctx context.Context, k, v string, f func(context.Context)) { pprof.Do(ctx, pprof.Labels(k, v), f) }
	do(t.Context(), "endpoint", "/pay", func(ctx context.Context) {
		ctx, a := tr.Start(ctx, "a")
		want(t, "in a", labels(a, "a", "endpoint=/pay"))
		do(tr.WithLabels(ctx), "shard", "7", func(ctx context.Context) {
			want(t, "in Do in a", labels(a, "a", "endpoint=/pay", "shard=7"))
			_, b := tr.Start(ctx, "b")
			want(t, "in b", labels(b, "b", "endpoint=/pay", "shard=7"))
			b.End()
			want(t, "b has ended", labels(a, "a", "endpoint=/pay", "shard=7"))
		})
		want(t, "Do in a has ended", labels(a, "a", "endpoint=/pay"))
		do(ctx, "shard", "8", func(ctx context.Context) {
			want(t, "in Do without WithLabels", "endpoint=/pay shard=8") // the documented limit
			_, b := tr.Start(ctx, "b")
			b.End()
			want(t, "b has ended", labels(a, "a", "endpoint=/pay", "shard=8"))
			elsewhere(func() {
				_, c := tr.Start(ctx, "c")
				want(t, "in c", labels(c, "c", "endpoint=/pay", "shard=8"))
				c.End()
				want(t, "c has ended", labels(a, "a", "endpoint=/pay", "shard=8"))
			})
		})
		a.End()
		want(t, "a has ended", "endpoint=/pay")
		if tr.WithLabels(ctx) != ctx {
			t.Error("WithLabels of a span that has ended adds something")
		}
		// Labels of our names are the program's too.
		do(ctx, "operation", "mine", func(ctx context.Context) {
			_, d := tr.Start(ctx, "d")
			want(t, "in d", labels(d, "d", "endpoint=/pay"))
			d.End()
			want(t, "d has ended", "endpoint=/pay operation=mine")
		})
	})
	want(t, "all has ended", "")
	tr.none(t)
}

func TestSampledOut(t *testing.T) {
	tr := newTracing(t, Options{}, sdktrace.WithSampler(byName("unsampled")))
	ctx, a := tr.Start(t.Context(), "a")
	ctx, u := tr.Start(ctx, "unsampled")
	if u.IsRecording() {
		t.Error("it records: the test shows nothing")
	}
	want(t, "in a span that is sampled out", labels(a, "a"))
	elsewhere(func() {
		_, b := tr.Start(ctx, "b")
		want(t, "in b", labels(b, "b"))
		b.End()
	})
	u.End()
	want(t, "it has ended", labels(a, "a"))
	a.End()
	want(t, "a has ended", "")
	tr.none(t)
}

// byName samples out the spans of this name.
type byName string

func (n byName) ShouldSample(p sdktrace.SamplingParameters) sdktrace.SamplingResult {
	if p.Name == string(n) {
		return sdktrace.NeverSample().ShouldSample(p)
	}
	return sdktrace.AlwaysSample().ShouldSample(p)
}

func (n byName) Description() string { return "all but " + string(n) }

// remote is a context as a request from another process brings it.
func remote(ctx context.Context) (context.Context, trace.SpanContext) {
	sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{0: 1, 15: 2}, SpanID: trace.SpanID{0: 3, 7: 4}, TraceFlags: trace.FlagsSampled, Remote: true})
	return trace.ContextWithRemoteSpanContext(ctx, sc), sc
}

func TestRemoteParent(t *testing.T) {
	tr := newTracing(t, Options{})
	ctx, sc := remote(t.Context())
	_, a := tr.Start(ctx, "a")
	want(t, "in a", "operation=a span_id="+a.SpanContext().SpanID().String()+" trace_id="+sc.TraceID().String())
	a.End()
	want(t, "a has ended", "")
	tr.none(t)
}

func TestOptions(t *testing.T) {
	t.Run("OperationOnly", func(t *testing.T) {
		tr := newTracing(t, Options{OperationOnly: true})
		_, a := tr.Start(t.Context(), "a")
		want(t, "in a", "operation=a")
		a.End()
		want(t, "a has ended", "")
		if got := tr.ended.Ended()[0].Attributes(); len(got) != 0 {
			t.Errorf("attributes %v", got)
		}
	})
	t.Run("LocalRootOnly", func(t *testing.T) {
		tr := newTracing(t, Options{LocalRootOnly: true})
		ctx, _ := remote(t.Context())
		ctx, a := tr.Start(ctx, "a")
		want(t, "in the local root", labels(a, "a"))
		_, b := tr.Start(ctx, "b")
		want(t, "in its child", labels(a, "a"))
		b.End()
		want(t, "the child has ended", labels(a, "a"))
		a.End()
		want(t, "the root has ended", "")
		for i, n := range []int{0, 1} { // of b, of a
			if got := tr.ended.Ended()[i].Attributes(); len(got) != n {
				t.Errorf("span %d has attributes %v, want %d", i, got, n)
			}
		}
		tr.none(t)
	})
	t.Run("Filter", func(t *testing.T) {
		tr := newTracing(t, Options{Filter: func(s sdktrace.ReadOnlySpan) bool { return s.Name() != "health" }})
		ctx, a := tr.Start(t.Context(), "a")
		_, b := tr.Start(ctx, "health")
		want(t, "in a span that the filter leaves out", labels(a, "a"))
		b.End()
		want(t, "it has ended", labels(a, "a"))
		a.End()
		want(t, "a has ended", "")
	})
	t.Run("MaxOperation", func(t *testing.T) {
		for _, c := range []struct {
			max        int
			name, want string
		}{{0, strings.Repeat("x", 200), strings.Repeat("x", 128)}, {5, "GET /", "GET /"}, {5, "abcdé", "abcd"}, {-1, strings.Repeat("x", 200), strings.Repeat("x", 200)}} {
			tr := newTracing(t, Options{MaxOperation: c.max, OperationOnly: true})
			_, a := tr.Start(t.Context(), c.name)
			want(t, "in a", "operation="+c.want)
			a.End()
		}
	})
	t.Run("MaxPerSecond", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			tr := newTracing(t, Options{MaxPerSecond: 20})
			labelled := func(ctx context.Context, n int) int {
				before := tr.Stats().Live
				for range n {
					tr.Start(ctx, "s")
				}
				return tr.Stats().Live - before
			}
			root, _ := tr.Start(t.Context(), "root")
			if got := labelled(root, 100); got != 9 {
				t.Errorf("%d inner spans have labels, want half a second's share", got+1)
			}
			if got := labelled(t.Context(), 100); got != 10 {
				t.Errorf("%d roots have labels, want the other half", got)
			}
			time.Sleep(250 * time.Millisecond)
			if got := labelled(root, 100); got != 0 {
				t.Errorf("%d inner spans have labels, want none while it is short", got)
			}
			if got := labelled(t.Context(), 100); got != 5 {
				t.Errorf("%d roots have labels after a quarter of a second, want a quarter", got)
			}
			time.Sleep(time.Hour)
			if got := labelled(t.Context(), 100); got != 20 {
				t.Errorf("%d roots have labels after an hour, want a second's share", got)
			}
			if got := tr.Stats().Skipped; got != 91+90+100+95+80 {
				t.Errorf("%d are counted as skipped", got)
			}
		})
	})
	t.Run("attribute", func(t *testing.T) {
		for _, no := range []bool{false, true} {
			tr := newTracing(t, Options{NoAttribute: no})
			_, a := tr.Start(t.Context(), "a")
			a.End()
			want := []attribute.KeyValue{AttributeProfile.String(a.SpanContext().SpanID().String())}
			if no {
				want = nil
			}
			if got := tr.ended.Ended()[0].Attributes(); !slices.Equal(got, want) {
				t.Errorf("NoAttribute %v: attributes %v, want %v", no, got, want)
			}
		}
	})
}

// TestSpansThatNeverEnd: the table is bounded, the oldest goes first, and what is left is in order.
func TestSpansThatNeverEnd(t *testing.T) {
	const most = 10
	tr := newTracing(t, Options{MaxSpans: most})
	ctx, root := tr.Start(t.Context(), "root")
	var all []trace.Span
	for range 5 {
		elsewhere(func() { // whose goroutine is gone at once
			for range most {
				_, s := tr.Start(ctx, "leak")
				all = append(all, s)
			}
		})
	}
	if got := tr.Stats(); got.Live != most || got.Forgotten != 1+4*most {
		t.Errorf("%+v, want %d live", got, most)
	}
	if len(tr.inner) != 1 {
		t.Errorf("%d goroutines are remembered, want 1", len(tr.inner))
	}
	root.End()
	want(t, "root ends after it was forgotten", labels(root, "root")) // as if it had ended elsewhere
	_, a := tr.Start(t.Context(), "a")
	want(t, "in a", labels(a, "a"))
	a.End()
	want(t, "a has ended", "")
	for _, s := range all {
		s.End()
	}
	tr.none(t)

	// On one goroutine the outermost is forgotten, and the rest still nests.
	spans := []trace.Span{}
	for i := range most + 3 {
		var s trace.Span
		ctx, s = tr.Start(ctx, fmt.Sprint(i))
		spans = append(spans, s)
	}
	for i := most + 2; i >= 3; i-- {
		want(t, "inside", labels(spans[i], fmt.Sprint(i)))
		spans[i].End()
	}
	want(t, "all that are known have ended", "")
	tr.none(t)
}

// TestEndedSpansHoldNothing: of a long chain of spans, each the child of the one before on another goroutine, only what lives is kept.
func TestEndedSpansHoldNothing(t *testing.T) {
	tr := newTracing(t, Options{})
	ctx, last := tr.Start(t.Context(), "0")
	tr.mu.Lock()
	first := tr.oldest
	tr.mu.Unlock()
	gone := make(chan struct{})
	runtime.AddCleanup(first, func(c chan struct{}) { close(c) }, gone)
	first = nil
	for range 3 {
		elsewhere(func() {
			up := last
			ctx, last = tr.Start(ctx, "next")
			up.End()
		})
	}
	for freed := false; !freed; {
		runtime.GC()
		select {
		case <-gone:
			freed = true
		default:
			runtime.Gosched()
		}
	}
	last.End()
	tr.none(t)
}

// TestRepeatedIDs: a generator of ids that repeats itself does not confuse the table.
func TestRepeatedIDs(t *testing.T) {
	tr := newTracing(t, Options{}, sdktrace.WithIDGenerator(sameIDs{}))
	_, a := tr.Start(t.Context(), "a")
	_, b := tr.Start(t.Context(), "b")
	want(t, "in b", labels(b, "b"))
	b.End()
	want(t, "b has ended", "")
	a.End()
	if got := tr.Stats(); got.Forgotten != 1 {
		t.Errorf("%+v, want 1 forgotten", got)
	}
	tr.none(t)
}

type sameIDs struct{}

func (sameIDs) NewIDs(context.Context) (trace.TraceID, trace.SpanID) {
	return trace.TraceID{1}, trace.SpanID{1}
}
func (sameIDs) NewSpanID(context.Context, trace.TraceID) trace.SpanID { return trace.SpanID{1} }

func TestShutdown(t *testing.T) {
	p := New(Options{})
	tp := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(p))
	tracer := tp.Tracer("test")
	_, a := tracer.Start(t.Context(), "a")
	if err := tp.ForceFlush(t.Context()); err != nil {
		t.Error(err)
	}
	if err := p.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if got := p.Stats(); got != (Stats{}) || len(p.inner) != 0 {
		t.Errorf("%+v is left", got)
	}
	pprof.SetGoroutineLabels(t.Context())
	_, b := tracer.Start(t.Context(), "b") // the provider still knows the processor
	want(t, "in b, after Shutdown", "")
	b.End()
	a.End()
	want(t, "all has ended", "")
	if err := tp.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestManyGoroutines: each has its own spans, ends others', and at every point the right labels.
func TestManyGoroutines(t *testing.T) {
	tr := newTracing(t, Options{MaxPerSecond: -1})
	strange := make(chan trace.Span, 1000) // spans that another goroutine is to end
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			pprof.Do(context.Background(), pprof.Labels("g", fmt.Sprint(g)), func(ctx context.Context) {
				own := fmt.Sprintf("g=%d", g)
				for i := range 60 {
					look := i%20 == 0 // a look at all goroutines is dear
					ctx, a := tr.Start(ctx, "a")
					elsewhere(func() {
						_, s := tr.Start(ctx, "s")
						if look {
							want(t, "in s", labels(s, "s", own))
						}
						strange <- s
					})
					ctx, b := tr.Start(ctx, "b")
					_, c := tr.Start(ctx, "c")
					b.End()
					if look {
						want(t, "in c", labels(c, "c", own))
					}
					(<-strange).End()
					c.End()
					if look {
						want(t, "in a", labels(a, "a", own))
					}
					a.End()
					if look {
						want(t, "in none", own)
					}
				}
			})
		})
	}
	wg.Wait()
	tr.none(t)
}
