package spans

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/pprof/profile"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/quantra-l/quantra/agent"
)

// take is the profile of spans, as google/pprof reads it.
func take(t testing.TB, p *Processor) *profile.Profile {
	t.Helper()
	var b bytes.Buffer
	if err := p.WriteProfile(&b); err != nil {
		t.Fatal(err)
	}
	out, err := profile.Parse(&b)
	if err == nil {
		err = out.CheckValid()
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// lines are a profile's samples: "path le status: spans duration self", sorted.
func lines(p *profile.Profile) (out []string) {
	for _, s := range p.Sample {
		le := "any"
		if n := s.NumLabel[LabelLE]; len(n) == 1 && s.NumUnit[LabelLE][0] == "nanoseconds" {
			le = fmt.Sprint(n[0])
		}
		out = append(out, fmt.Sprintf("%s le=%s %s: %d %d %d", strings.Join(names(s), "/"), le, strings.Join(s.Label[LabelStatus], "+"), s.Value[0], s.Value[1], s.Value[2]))
	}
	slices.Sort(out)
	return out
}

// names are a sample's frames, the root first; pairs of events are in brackets.
func names(s *profile.Sample) (out []string) {
	for _, l := range s.Location {
		f := l.Line[0].Function
		if f.Filename == "event" {
			out = append(out, "["+f.Name+"]")
		} else {
			out = append(out, f.Name)
		}
	}
	slices.Reverse(out)
	return out
}

func equal(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("it has\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// clock makes spans at times of its own.
type clock struct {
	*tracing
	now time.Time
}

func newClock(t testing.TB, o Options, more ...sdktrace.TracerProviderOption) *clock {
	tr := newTracing(t, o, more...)
	tr.Source()
	return &clock{tr, time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)}
}

func (c *clock) start(ctx context.Context, name string, o ...trace.SpanStartOption) (context.Context, trace.Span) {
	return c.Start(ctx, name, append(o, trace.WithTimestamp(c.now))...)
}
func (c *clock) pass(ns int64)                   { c.now = c.now.Add(time.Duration(ns)) }
func (c *clock) end(s trace.Span)                { s.End(trace.WithTimestamp(c.now)) }
func (c *clock) event(s trace.Span, name string) { s.AddEvent(name, trace.WithTimestamp(c.now)) }
func (c *clock) one(ctx context.Context, name string, ns int64) {
	_, s := c.start(ctx, name)
	c.pass(ns)
	c.end(s)
}

// TestBuckets: every duration is in the bucket that docs/format/spans.md says, at most 1/16 of the bucket's lower bound off its middle.
func TestBuckets(t *testing.T) {
	// The layout is a format: it never changes.
	for _, c := range []struct{ ns, lower, upper int64 }{
		{-1, 0, 1}, {0, 0, 1}, {1, 0, 1}, {2, 1, 2}, {8, 7, 8}, {9, 8, 9}, {16, 15, 16}, {17, 16, 18}, {18, 16, 18}, {19, 18, 20}, {32, 30, 32}, {33, 32, 36},
		{1_000_000, 983040, 1048576}, {1 << 50, 15 << 46, 1 << 50}, {1<<50 + 1, 15 << 46, 1 << 50}, {1<<63 - 1, 15 << 46, 1 << 50},
	} {
		o, slot := bucketOf(c.ns)
		upper := upperBound(o, slot)
		lower := int64(0)
		if slot > 0 {
			lower = upperBound(o, slot-1)
		} else if o > 0 {
			lower = upperBound(o-1, perOctave-1)
		}
		if lower != c.lower || upper != c.upper {
			t.Errorf("%d ns is in (%d, %d], want (%d, %d]", c.ns, lower, upper, c.lower, c.upper)
		}
	}
	last := int64(0)
	for o := range octaves {
		for slot := range perOctave {
			upper := upperBound(o, slot)
			if upper <= last {
				t.Fatalf("bucket %d, %d ends at %d, the one before at %d", o, slot, upper, last)
			}
			for _, ns := range []int64{last + 1, upper} {
				if a, b := bucketOf(ns); a != o || b != slot {
					t.Fatalf("%d ns is in bucket %d, %d, want %d, %d", ns, a, b, o, slot)
				}
				// Integers: the shortest duration of (16, 18] is 17.
				if middle := float64(last+upper) / 2; upper > 16 && max(float64(upper)-middle, middle-float64(last)) > float64(last)/16 {
					t.Fatalf("the middle of (%d, %d] is more than 1/16 off", last, upper)
				}
			}
			last = upper
		}
	}
}

func TestCount(t *testing.T) {
	c := newClock(t, Options{MaxPerSecond: 1}) // labels for one alone; all are counted
	for i := range 3 {
		ctx, a := c.start(t.Context(), "GET /")
		c.pass(5)
		ctx2, b := c.start(ctx, "query")
		c.one(ctx2, "connect", 10)
		c.pass(2)
		if i == 2 {
			b.SetStatus(codes.Error, "no")
		}
		c.end(b)
		c.one(ctx, "render", 100)
		c.end(a)
	}
	p := take(t, c.Processor)
	equal(t, lines(p), []string{
		"GET / le=120 ok: 3 351 15", // 117 ns in (112, 120]; without 12 and 100
		"GET //query le=12 error: 1 12 2",
		"GET //query le=12 ok: 2 24 4",
		"GET //query/connect le=10 ok: 3 30 30",
		"GET //render le=104 ok: 3 300 300",
	})
	var types []string
	for _, ty := range append(p.SampleType, p.PeriodType) {
		types = append(types, ty.Type+"/"+ty.Unit)
	}
	if want := []string{"spans/count", "duration/nanoseconds", "self/nanoseconds", "spans/count"}; !slices.Equal(types, want) || p.DefaultSampleType != "self" {
		t.Errorf("types are %v, by default %s", types, p.DefaultSampleType)
	}
	if s := c.Stats(); s.Counted != 12 || s.Unseen != 0 || s.Other != 0 {
		t.Errorf("%+v, want 12 counted", s)
	}
	r := c.report()
	if len(r.Paths) != 4 || r.More != 0 || r.Counted != 12 {
		t.Fatalf("the report is %+v", r)
	}
	if got := r.Paths[0]; fmt.Sprint(got.Path) != "[GET /]" || got.Spans != 3 || got.Errors != 0 || got.P50 != 120 || got.P99 != 120 || got.Duration != 351 {
		t.Errorf("the report begins with %+v", got)
	}
	if got := r.Paths[2]; fmt.Sprint(got.Path) != "[GET / query]" || got.Spans != 3 || got.Errors != 1 {
		t.Errorf("the report has %+v", got)
	}
}

// TestEvents: events split a span into the steps between them.
func TestEvents(t *testing.T) {
	c := newClock(t, Options{})
	_, s := c.start(t.Context(), "connection")
	for _, e := range []struct {
		name string
		ns   int64
	}{{"dial", 3}, {"handshake", 5}, {"handshake", 1}, {"exception", 1}, {"established", 0}, {"closed", 4}} {
		c.event(s, e.name)
		c.pass(e.ns)
	}
	c.end(s)
	_, s = c.start(t.Context(), "other")
	c.event(s, "alone")
	c.end(s)
	_, s = c.start(t.Context(), "backwards")
	c.event(s, "late")
	c.pass(-5)
	c.event(s, "early")
	c.end(s)
	equal(t, lines(take(t, c.Processor)), []string{
		"backwards le=1 ok: 1 0 0",
		"backwards/[late -> early] le=1 ok: 1 0 0",
		"connection le=14 ok: 1 14 14",
		"connection/[dial -> handshake] le=3 ok: 1 3 0",
		"connection/[established -> closed] le=1 ok: 1 0 0",
		"connection/[handshake -> established] le=7 ok: 1 7 0", // a state that is told again goes on
		"other le=1 ok: 1 0 0",
	})
}

// TestRoots: a span whose parent is in another process, or is sampled out, or has ended, is a root; so is one of which
// only its siblings live.
func TestRoots(t *testing.T) {
	c := newClock(t, Options{}, sdktrace.WithSampler(byName("unsampled")))
	ctx, _ := remote(t.Context())
	ctx, a := c.start(ctx, "a")
	uctx, u := c.start(ctx, "unsampled")
	c.one(uctx, "under unsampled", 1)
	u.End()
	c.end(a)
	c.one(ctx, "late", 2)
	// A caller in this process, that this process has called by its own door.
	ctx, caller := c.start(t.Context(), "caller")
	c.one(trace.ContextWithRemoteSpanContext(t.Context(), trace.SpanContextFromContext(ctx)), "called", 3)
	c.end(caller)
	equal(t, lines(take(t, c.Processor)), []string{
		"a le=1 ok: 1 1 1",
		"called le=3 ok: 1 3 3",
		"caller le=3 ok: 1 3 3",
		"late le=2 ok: 1 2 2",
		"under unsampled le=1 ok: 1 1 1",
	})
}

// recordOnly is the sampler of spans that the program looks at and nobody gets.
type recordOnly struct{}

func (recordOnly) ShouldSample(sdktrace.SamplingParameters) sdktrace.SamplingResult {
	return sdktrace.SamplingResult{Decision: sdktrace.RecordOnly}
}
func (recordOnly) Description() string { return "record only" }

func TestNotSampled(t *testing.T) {
	c := newClock(t, Options{}, sdktrace.WithSampler(recordOnly{}))
	_, s := c.start(t.Context(), "a")
	if !s.IsRecording() {
		t.Fatal("it does not record: the test shows nothing")
	}
	c.end(s)
	equal(t, lines(take(t, c.Processor)), nil)
}

// TestCountingBegins: nothing is counted before somebody asks for the profile, and a span that lived then is counted as
// one whose start was not seen. After Shutdown what was counted stays.
func TestCountingBegins(t *testing.T) {
	tr := newTracing(t, Options{})
	c := &clock{tr, time.Unix(1000, 0)}
	c.one(t.Context(), "before", 1)
	ctx, a := c.start(t.Context(), "a")
	if s := c.Stats(); s.Counted != 0 {
		t.Errorf("%+v", s)
	}
	src := c.Source()
	c.one(ctx, "b", 2)
	c.pass(6)
	c.end(a)
	want := []string{"(forgotten)/a le=8 ok: 1 8 8", "b le=2 ok: 1 2 2"}
	equal(t, lines(take(t, c.Processor)), want)
	if s := c.Stats(); s.Counted != 2 || s.Unseen != 1 {
		t.Errorf("%+v", s)
	}
	_, d := c.start(t.Context(), "d")
	if err := c.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	c.end(d)
	c.one(t.Context(), "e", 1)
	equal(t, lines(take(t, c.Processor)), want)
	if n := c.counts.Load().nlive.Load(); n != 0 {
		t.Errorf("%d live after Shutdown", n)
	}
	var b bytes.Buffer
	if err := src.Write(&b); err != nil || b.Len() == 0 || src.Name != "spans" {
		t.Errorf("the source wrote %d bytes: %v", b.Len(), err)
	}
}

// TestCountBounds: whatever a program names its spans, tables have their size, and what finds no room is "other".
func TestCountBounds(t *testing.T) {
	t.Run("names", func(t *testing.T) {
		c := newClock(t, Options{MaxPerSecond: 1})
		for i := range MaxNames + 500 {
			c.one(t.Context(), fmt.Sprintf("GET /%d", i), 1)
		}
		_, s := c.start(t.Context(), "GET /0")
		c.event(s, "x")
		c.event(s, "y")
		c.end(s)
		p := take(t, c.Processor)
		if len(p.Function) != MaxNames+2 {
			t.Errorf("%d names, want %d, other, and the other event", len(p.Function), MaxNames)
		}
		got := lines(p)
		for _, want := range []string{"other le=1 ok: 500 500 500", "GET /0 le=1 ok: 2 1 1", "GET /0/[other] le=1 ok: 1 0 0"} {
			if !slices.Contains(got, want) {
				t.Errorf("%q is not there", want)
			}
		}
		if s := c.Stats(); s.Other != 500 || s.Counted != MaxNames+501 {
			t.Errorf("%+v", s)
		}
	})
	t.Run("paths", func(t *testing.T) {
		c := newClock(t, Options{MaxPerSecond: 1})
		n := 0
		for i := range 50 {
			ctx, a := c.start(t.Context(), fmt.Sprint("a", i))
			for j := range 50 {
				_, b := c.start(ctx, fmt.Sprint("b", j))
				c.event(b, "x")
				c.event(b, "y")
				c.end(b)
				n++
			}
			c.end(a)
			n++
		}
		p := take(t, c.Processor)
		paths, spans := map[string]bool{}, int64(0)
		for _, s := range p.Sample {
			if at := strings.Join(names(s), "/"); !strings.Contains(at, "[") {
				spans += s.Value[0]
				paths[at] = true
			} else {
				paths[at] = true
			}
		}
		if len(paths) != MaxPaths+1 || spans != int64(n) {
			t.Errorf("%d spans on %d paths, want %d on %d", spans, len(paths), n, MaxPaths+1)
		}
		if s := c.Stats(); s.Other == 0 || s.Counted != uint64(n) {
			t.Errorf("%+v", s)
		}
	})
	t.Run("depth", func(t *testing.T) {
		c := newClock(t, Options{MaxPerSecond: 1})
		ctx := t.Context()
		var all []trace.Span
		for range 100 {
			var s trace.Span
			ctx, s = c.start(ctx, "f")
			all = append(all, s)
		}
		for _, s := range all {
			c.end(s)
		}
		p := take(t, c.Processor)
		deepest, at := 0, int64(0)
		for _, s := range p.Sample {
			if len(s.Location) > deepest {
				deepest, at = len(s.Location), s.Value[0]
			}
		}
		if deepest != MaxDepth || at != 100-MaxDepth+1 {
			t.Errorf("%d spans at depth %d, want %d at %d", at, deepest, 100-MaxDepth+1, MaxDepth)
		}
	})
	t.Run("buckets", func(t *testing.T) {
		c := newClock(t, Options{MaxPerSecond: 1})
		n := 0
		for i := range 150 {
			for e := range 40 {
				c.one(t.Context(), fmt.Sprint(i), 1<<e)
				n++
			}
		}
		got, whole := int64(0), 0
		p := take(t, c.Processor)
		for _, s := range p.Sample {
			got += s.Value[0]
			if s.NumLabel[LabelLE] == nil {
				whole++
			}
		}
		if got != int64(n) || whole == 0 || c.counts.Load().noctaves.Load() != maxOctaves {
			t.Errorf("%d of %d spans are counted, %d octaves, %d paths without buckets", got, n, c.counts.Load().noctaves.Load(), whole)
		}
	})
	t.Run("names' bytes", func(t *testing.T) {
		c := newClock(t, Options{MaxPerSecond: 1, MaxOperation: 1 << 20})
		c.one(t.Context(), strings.Repeat("x", 1<<20), 1)
		c.one(t.Context(), "a\xffb", 1)
		c.one(t.Context(), "", 1)
		equal(t, lines(take(t, c.Processor)), []string{"(unnamed) le=1 ok: 1 1 1", "a\uFFFDb le=1 ok: 1 1 1", strings.Repeat("x", maxNameByte) + " le=1 ok: 1 1 1"})
	})
	t.Run("live", func(t *testing.T) {
		const most = 100
		c := newClock(t, Options{MaxPerSecond: 1, MaxSpans: most})
		ctx, root := c.start(t.Context(), "root")
		var all []trace.Span
		for range 3 * most { // of one trace and of many
			_, s := c.start(ctx, "leak")
			_, r := c.start(t.Context(), "root leak")
			all = append(all, s, r)
		}
		if n := c.counts.Load().nlive.Load(); n > most {
			t.Errorf("%d live, want %d at most", n, most)
		}
		c.end(root)
		for _, s := range all {
			c.end(s)
		}
		if s := c.Stats(); s.Counted != 6*most+1 || s.Unseen < 5*most {
			t.Errorf("%+v", s)
		}
		if n := c.counts.Load().nlive.Load(); n != 0 {
			t.Errorf("%d live, all have ended", n)
		}
	})
	t.Run("a shard's map", func(t *testing.T) {
		c := newClock(t, Options{MaxPerSecond: 1})
		ctx, root := c.start(t.Context(), "root")
		var all []trace.Span
		for range dropMapFrom {
			_, s := c.start(ctx, "part")
			all = append(all, s)
		}
		for _, s := range append(all, root) {
			c.end(s)
		}
		for i := range c.counts.Load().shards {
			if sh := &c.counts.Load().shards[i]; sh.peak >= dropMapFrom || len(sh.live) != 0 || sh.oldest != nil || sh.newest != nil {
				t.Errorf("shard %d has a map for %d spans", i, sh.peak)
			}
		}
	})
}

// TestCountRepeatedIDs: a generator of ids that repeats itself does not confuse the table.
func TestCountRepeatedIDs(t *testing.T) {
	c := newClock(t, Options{}, sdktrace.WithIDGenerator(sameIDs{}))
	ctx, a := c.start(t.Context(), "a")
	_, b := c.start(ctx, "b") // its own parent, by its id
	c.end(b)
	c.end(a)
	if s := c.Stats(); s.Counted != 2 || c.counts.Load().nlive.Load() != 0 {
		t.Errorf("%+v", s)
	}
}

// TestCountManyGoroutines: while many start and end spans, and others take the profile, no value shrinks and at
// the end all are there.
func TestCountManyGoroutines(t *testing.T) {
	const workers, rounds = 8, 300
	c := newClock(t, Options{MaxPerSecond: 1})
	strange := make(chan trace.Span, workers*rounds)
	stop := make(chan struct{})
	var reading, working sync.WaitGroup
	reading.Go(func() {
		last := map[string][]int64{}
		for {
			for _, s := range take(t, c.Processor).Sample {
				at := fmt.Sprint(names(s), s.NumLabel, s.Label)
				for i, v := range last[at] {
					if s.Value[i] < v {
						t.Errorf("%s shrinks: %v, then %v", at, last[at], s.Value)
					}
				}
				last[at] = s.Value
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for g := range workers {
		working.Go(func() {
			r := rand.New(rand.NewPCG(uint64(g), 1))
			for range rounds {
				ctx, a := c.Tracer.Start(context.Background(), "a")
				_, s := c.Tracer.Start(ctx, fmt.Sprint("s", r.IntN(5)))
				strange <- s
				_, b := c.Tracer.Start(ctx, fmt.Sprint("b", r.IntN(200)))
				b.AddEvent("x")
				b.AddEvent("y")
				b.End()
				(<-strange).End() // perhaps another's, perhaps after its parent
				a.End()
			}
		})
	}
	working.Wait()
	close(stop)
	reading.Wait()
	sum := map[string]int64{}
	for _, s := range take(t, c.Processor).Sample {
		n := names(s)
		sum[strings.TrimRight(n[len(n)-1], "0123456789")] += s.Value[0]
	}
	if want := map[string]int64{"a": workers * rounds, "s": workers * rounds, "b": workers * rounds, "[x -> y]": workers * rounds}; !maps.Equal(sum, want) {
		t.Errorf("counted %v, want %v", sum, want)
	}
	if n := c.counts.Load().nlive.Load(); n != 0 {
		t.Errorf("%d live", n)
	}
}

// TestCountOneCell: nothing is lost where all count the same.
func TestCountOneCell(t *testing.T) {
	const workers, rounds = 4, 500_000
	p := New(Options{})
	c := p.counting()
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range rounds {
				c.add(c.path(nil, c.frame("a", "", false)), 0, 3, 2)
			}
		})
	}
	wg.Wait()
	equal(t, lines(take(t, p)), []string{fmt.Sprintf("a le=3 ok: %d %d %d", workers*rounds, 3*workers*rounds, 2*workers*rounds)})
}

// TestAgentTakesItAlong: an agent that is given the source sends what each window added, so that sums over windows
// are all spans, and shows paths in its status.
func TestAgentTakesItAlong(t *testing.T) {
	t.Setenv("QUANTRA_REGION", "local")
	came := make(chan *profile.Profile, 100)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("name") == "spans" {
			p, err := profile.Parse(r.Body)
			if err != nil {
				t.Error(err)
			}
			came <- p
		}
		io.WriteString(w, `{"service":"x"}`)
	}))
	defer srv.Close()
	c := newClock(t, Options{})
	c.one(t.Context(), "first", 5) // before the agent: not sent
	ready := make(chan struct{})
	src := c.Source()
	write, once := src.Write, sync.OnceFunc(func() { close(ready) })
	src.Write = func(w io.Writer) error { defer once(); return write(w) }
	a, err := agent.Start(t.Context(), agent.Options{
		Server: srv.URL, Region: "local", SpoolBytes: -1, Types: agent.Runtime, Sources: []agent.Source{src},
		Window: 100 * time.Millisecond, Upload: 100 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	<-ready // the agent has looked once
	sum := map[string]int64{}
	add := func(p *profile.Profile) {
		if err := p.CheckValid(); err != nil {
			t.Error(err)
		}
		for _, l := range lines(p) {
			at, values, _ := strings.Cut(l, ": ")
			var n, d, self int64
			fmt.Sscan(values, &n, &d, &self)
			sum[at] += n
		}
	}
	for range 3 { // in as many windows
		ctx, s := c.start(t.Context(), "work")
		c.one(ctx, "part", 5)
		c.one(ctx, "next", 5)
		c.event(s, "x")
		c.event(s, "y")
		c.end(s)
		add(<-came)
	}
	if _, ok := a.Status().Sources["spans"].(report); !ok {
		t.Errorf("the status shows %v of the spans", a.Status().Sources["spans"])
	}
	if err := a.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	close(came)
	for p := range came {
		add(p)
	}
	if want := map[string]int64{"work le=10 ok": 3, "work/part le=5 ok": 3, "work/next le=5 ok": 3, "work/[x -> y] le=1 ok": 3}; !maps.Equal(sum, want) {
		t.Errorf("windows add up to %v, want %v", sum, want)
	}
}
