package measure

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/judge"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

var began = time.Date(2026, 11, 25, 10, 0, 0, 0, time.UTC)

// shelf is a store that counts the questions it is asked.
type shelf struct {
	store.Store
	t                testing.TB
	now              time.Time
	selects, listing int
	fail             error
}

func newShelf(t testing.TB, backend store.Backend) *shelf {
	t.Helper()
	s := &shelf{t: t, now: began.Add(time.Hour)}
	o := store.Options{Now: func() time.Time { return s.now }, Backend: backend, FlushEvery: 100 * time.Millisecond}
	if backend == nil {
		o.FS = vfs.NewMem()
	} else { // which flushes by its clock
		start := time.Now()
		o.Now = func() time.Time { return began.Add(time.Hour + time.Since(start)) }
	}
	db, err := store.Open(context.Background(), t.TempDir(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	s.Store = db
	return s
}

func (s *shelf) Select(ctx context.Context, q store.Query) (*store.Result, error) {
	s.selects++
	if s.fail != nil {
		return nil, s.fail
	}
	return s.Store.Select(ctx, q)
}

func (s *shelf) Profiles(ctx context.Context, q store.Query, limit int) (*store.ProfilesResult, error) {
	s.listing++
	return s.Store.Profiles(ctx, q, limit)
}

// shot is a window of one instance, at is in seconds since began.
type shot struct {
	instance    string
	at, seconds float64
	figures     map[string]int64 // by sample type of the profile "runtime"; nil sends none
	spans       map[string]int64 // "path le status" and how many; nil sends none
	cpu         map[string]int64 // samples of 10 ms by function; nil sends none
}

func (s *shelf) put(shots ...shot) {
	s.t.Helper()
	for _, x := range shots {
		from := began.Add(time.Duration(x.at * 1e9))
		to := from.Add(time.Duration(x.seconds * 1e9))
		send := func(name string, p *profile.Profile) { s.send(name, x.instance, from, to, p) }
		if x.figures != nil {
			send("runtime", figuresProfile(x.figures))
		}
		if x.spans != nil {
			send("spans", spansProfile(x.spans))
		}
		if x.cpu != nil {
			p := stacks(x.cpu, 10e6, cpuProfile.Sample)
			p.Period, p.PeriodType, p.DurationNanos = 10e6, cpuProfile.Sample, int64(x.seconds*1e9)
			send("process_cpu", p)
		}
	}
}

// send is a profile of the service "shop".
func (s *shelf) send(name, instance string, from, to time.Time, p *profile.Profile) {
	s.t.Helper()
	labels, err := profile.NewLabels(profile.Label{Name: profile.LabelService, Value: "shop"}, profile.Label{Name: profile.LabelInstance, Value: instance},
		profile.Label{Name: profile.LabelVersion, Value: "v1"})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.Append(context.Background(), store.Upload{Name: name, Labels: labels, From: from, To: to, Profile: p, Pprof: p.AppendPprof(nil)}); err != nil {
		s.t.Fatal(err)
	}
}

// stacks is a profile of one frame for each name.
func stacks(values map[string]int64, unit int64, types ...profile.ValueType) *profile.Profile {
	b := profile.NewBuilder(types...)
	for name, v := range values {
		f := profile.Line{Function: b.Function(profile.Function{Name: b.String(name)})}
		b.Add(b.Stack(0, b.Location(profile.Location{}, f)), 0, v*unit)
	}
	return b.Profile()
}

// figuresProfile has a column for each figure, as the agent's.
func figuresProfile(values map[string]int64) *profile.Profile {
	types := make([]profile.ValueType, 0, figures)
	for _, t := range figureTypes {
		types = append(types, t.Sample)
	}
	b := profile.NewBuilder(types...)
	f := profile.Line{Function: b.Function(profile.Function{Name: b.String("all")})}
	row := make([]int64, len(types))
	for i, t := range types {
		row[i] = values[t.Type]
	}
	b.Add(b.Stack(0, b.Location(profile.Location{}, f)), 0, row...)
	p := b.Profile()
	// A figure that is not there is no column of zeroes: the agent's profile has all columns, the kernel's missing ones of older agents none.
	for i := len(types) - 1; i >= 0; i-- {
		if _, ok := values[types[i].Type]; !ok {
			p.SampleTypes = append(p.SampleTypes[:i], p.SampleTypes[i+1:]...)
			p.Values = append(p.Values[:i], p.Values[i+1:]...)
		}
	}
	return p
}

func spansProfile(values map[string]int64) *profile.Profile {
	b := profile.NewBuilder(spansType.Sample)
	for text, n := range values {
		var path, status string
		var le int64
		if _, err := fmt.Sscanf(text, "%s %d %s", &path, &le, &status); err != nil {
			panic(err)
		}
		stack := uint32(0)
		for op := range strings.SplitSeq(path, ">") {
			stack = b.Stack(stack, b.Location(profile.Location{}, profile.Line{Function: b.Function(profile.Function{Name: b.String(op)})}))
		}
		set := b.LabelSet([]profile.SampleLabel{{Key: b.String("le"), Num: le, Unit: b.String("nanoseconds")}, {Key: b.String("status"), Str: b.String(status)}})
		b.Add(stack, set, n)
	}
	p := b.Profile()
	p.Period, p.PeriodType = 1, spansType.Period
	return p
}

// usual is a window of 10 s: 2 s of CPU, a quarter of it the collector's, 100 MiB, 200 requests of which 4 fail, 198 of 1 ms and 2 of 100 ms.
func usual(instance string, at float64) shot {
	return shot{
		instance: instance, at: at, seconds: 10, figures: map[string]int64{"process_cpu": 2e9, "gc_cpu": 5e8, "rss": 100 << 20, "memory": 80 << 20},
		spans: map[string]int64{"GET 1048576 ok": 194, "GET 1048576 error": 4, "GET 104857600 ok": 2, "GET>query 104857600 error": 999},
	}
}

func ask(s *shelf, r *Reader, q optimize.Question) map[string]judge.Member {
	s.t.Helper()
	sight, err := r.Look(context.Background(), q)
	if err != nil {
		s.t.Fatal(err)
	}
	out := map[string]judge.Member{}
	for _, m := range sight.Members {
		out[m.Name] = m
	}
	return out
}

func question(minutes float64, instances ...string) optimize.Question {
	return optimize.Question{Service: "shop", Instances: instances, From: began, To: began.Add(time.Duration(minutes * 60e9))}
}

// near compares a point of a series.
func near(t *testing.T, m judge.Member, name string, at int, value, weight float64) {
	t.Helper()
	s := m.Series[name]
	if at >= len(s) {
		t.Errorf("%s of %s has %d points: %+v", name, m.Name, len(s), s)
		return
	}
	if p := s[at]; math.Abs(p.Value-value) > 1e-6*math.Abs(value) || math.Abs(p.Weight-weight) > 1e-9 {
		t.Errorf("point %d of %s is %+v, want %v with a weight of %v", at, name, p, value, weight)
	}
}

// TestKnown: each metric of known windows, by instance, in the windows' own times.
func TestKnown(t *testing.T) {
	s := newShelf(t, nil)
	for i := range 6 {
		s.put(usual("a", 10*float64(i)), usual("b.1", 10*float64(i)+3))
	}
	slow := usual("b.1", 63)
	slow.figures["process_cpu"], slow.figures["rss"] = 4e9, 200<<20
	s.put(slow, usual("other", 0), usual("bx1", 0)) // bx1 is what b.1 matches as an expression
	r := New(s, func() time.Time { return s.now })
	got := ask(s, r, question(2, "b.1", "a", "nobody", "a"))
	if len(got) != 3 || got["nobody"].Series != nil || got["a"].Version != "v1" {
		t.Fatalf("%+v", got)
	}
	for _, name := range []string{"a", "b.1"} {
		m := got[name]
		near(t, m, "cpu", 0, 0.2, 10)
		near(t, m, "gc_cpu", 0, 0.25, 10)
		near(t, m, "rss", 0, 100<<20, 10)
		near(t, m, "throughput", 0, 20, 10)
		near(t, m, "errors", 0, 0.02, 200)
		near(t, m, "cpu_per_request", 0, 0.01, 200)
		near(t, m, "latency_p99", 0, (983040+65536)/1e9, 200) // the 198th is the last of its bucket
	}
	if p := got["b.1"].Series["cpu"][0]; !p.From.Equal(began.Add(3*time.Second)) || !p.To.Equal(began.Add(13*time.Second)) {
		t.Errorf("a window of %v to %v", p.From, p.To)
	}
	near(t, got["b.1"], "cpu_per_request", 6, 0.02, 200)
	near(t, got["b.1"], "rss", 6, 200<<20, 10)
	if n := len(got["a"].Series["cpu"]); n != 6 {
		t.Errorf("a has %d windows, want 6", n)
	}
	// A window that ends beyond the question is not of it, nor one that begins before.
	q := question(1.1, "b.1")
	q.From = began.Add(4 * time.Second)
	if n := len(ask(s, r, q)["b.1"].Series["cpu"]); n != 5 {
		t.Errorf("%d windows are within, want 5", n)
	}
}

// TestMissing: what is not there is left out, and what is zero is not: no requests are a throughput of zero, and nothing else.
func TestMissing(t *testing.T) {
	s := newShelf(t, nil)
	idle, blind, silent := usual("a", 10), usual("a", 20), usual("a", 30)
	idle.spans = nil
	blind.figures = nil
	delete(silent.figures, "gc_cpu")
	s.put(usual("a", 0), idle, blind, silent)
	never := usual("b", 0)
	never.spans = nil
	s.put(never)
	got := ask(s, New(s, nil), question(2, "a", "b"))
	a := got["a"]
	near(t, a, "throughput", 1, 0, 10)
	for name, n := range map[string]int{"throughput": 4, "errors": 3, "cpu_per_request": 2, "cpu": 3, "gc_cpu": 2, "latency_p99": 3} {
		if len(a.Series[name]) != n {
			t.Errorf("%s has %d points, want %d: %+v", name, len(a.Series[name]), n, a.Series[name])
		}
	}
	if b := got["b"].Series; len(b["cpu"]) != 1 || len(b["throughput"]) != 0 {
		t.Errorf("a program without spans has %+v", b)
	}
}

// TestMemory: resident memory as the kernel has it, or for all alike as the runtime has it.
func TestMemory(t *testing.T) {
	s := newShelf(t, nil)
	old := usual("old", 0)
	delete(old.figures, "rss")
	s.put(usual("a", 0), old)
	got := ask(s, New(s, nil), question(1, "a", "old"))
	near(t, got["a"], "rss", 0, 80<<20, 10)
	near(t, got["old"], "rss", 0, 80<<20, 10)
	near(t, ask(s, New(s, nil), question(1, "a"))["a"], "rss", 0, 100<<20, 10)
}

// TestTail: windows are put together until there are a hundred requests, and not beyond five minutes.
func TestTail(t *testing.T) {
	s := newShelf(t, nil)
	for i := range 60 {
		few := usual("a", 10*float64(i))
		few.spans = map[string]int64{"GET 1048576 ok": 29, "GET 104857600 ok": 1}
		rare := usual("b", 10*float64(i))
		rare.spans = map[string]int64{"GET 1048576 ok": 3}
		s.put(few, rare)
	}
	got := ask(s, New(s, nil), question(11, "a", "b"))
	tail := got["a"].Series["latency_p99"]
	if len(tail) != 15 || tail[0].Weight != 120 || tail[0].To.Sub(tail[0].From) != 40*time.Second || tail[0].Value < 0.09 {
		t.Errorf("%d points: %+v", len(tail), tail)
	}
	if tail := got["b"].Series["latency_p99"]; len(tail) != 0 {
		t.Errorf("90 requests in five minutes have a 99th percentile: %+v", tail)
	}
	if n := len(got["b"].Series["cpu_per_request"]); n != 60 {
		t.Errorf("%d points of cost, want 60", n)
	}
}

// TestAgain: what was read is not asked for again, what comes late is found, and what an agent held back too, later.
func TestAgain(t *testing.T) {
	s := newShelf(t, nil)
	for i := range 30 {
		if i != 20 && i != 2 {
			s.put(usual("a", 10*float64(i)))
		}
	}
	r := New(s, func() time.Time { return s.now })
	points := func(minutes float64) int { return len(ask(s, r, question(minutes, "a"))["a"].Series["latency_p99"]) }
	if n := points(5); n != 28 || s.selects != 28 {
		t.Errorf("%d points by %d questions, want 28 by 28", n, s.selects)
	}
	s.put(usual("a", 200), usual("a", 300)) // two minutes late, and new
	before := s.listing
	if n := points(6); n != 30 || s.selects != 30 || s.listing-before > len(figureTypes)+1 {
		t.Errorf("%d points by %d questions, want 30 by 30, and %d lists", n, s.selects, s.listing-before)
	}
	s.put(usual("a", 20)) // five minutes late
	if n := points(6); n != 30 || s.selects != 30 {
		t.Errorf("%d points by %d questions: want what is that late only when all is read again", n, s.selects)
	}
	s.now = s.now.Add(rereadEvery)
	if n := points(6); n != 31 || s.selects != 31 {
		t.Errorf("read again: %d points by %d questions, want 31 by 31", n, s.selects)
	}
	// Before what was read.
	q := question(6, "a")
	q.From = q.From.Add(-time.Minute)
	s.put(usual("a", -30))
	if n := len(ask(s, r, q)["a"].Series["cpu"]); n != 32 {
		t.Errorf("from earlier on: %d windows, want 32", n)
	}
	s.now = s.now.Add(keepFor + time.Minute)
	if points(6); len(r.seen) != 1 {
		t.Errorf("%d instances are held", len(r.seen))
	}
	q.Instances = []string{"b"}
	s.now = s.now.Add(keepFor + time.Minute)
	if ask(s, r, q); len(r.seen) != 1 {
		t.Errorf("%d instances are held, want those that were asked about lately", len(r.seen))
	}
}

// TestProfiles: CPU profiles are summed by member, over the stage and over the time before.
func TestProfiles(t *testing.T) {
	s := newShelf(t, nil)
	for i := range 6 {
		x, y := usual("a", 10*float64(i)), usual("b", 10*float64(i))
		x.cpu = map[string]int64{"work": 100, "marking": int64(10 * i)}
		y.cpu = map[string]int64{"work": 7}
		s.put(x, y)
	}
	q := question(2, "a", "none")
	q.ProfileFrom, q.BaselineTo = began.Add(40*time.Second), began.Add(20*time.Second)
	got := ask(s, New(s, nil), q)
	a := got["a"]
	if a.Profile == nil || a.Before == nil || a.Profile.Total(a.Column) != (200+90)*10e6 || a.Before.Total(a.Column) != (200+10)*10e6 {
		t.Fatalf("%+v", a)
	}
	if a.Seconds != 20 || a.Requests != 400 {
		t.Errorf("%v s and %v requests, want 20 and 400", a.Seconds, a.Requests)
	}
	if n := got["none"]; n.Profile != nil || n.Before != nil {
		t.Error("nobody has a profile")
	}
	q.ProfileFrom = time.Time{}
	if a := ask(s, New(s, nil), q)["a"]; a.Profile != nil {
		t.Error("a profile that nobody asked for")
	}
}

// TestFigures: those of all instances, in their windows.
func TestFigures(t *testing.T) {
	s := newShelf(t, nil)
	part := usual("b", 0)
	delete(part.figures, "rss")
	s.put(usual("a", 10), usual("a", 0), part)
	got, err := New(s, nil).Figures(context.Background(), "", "shop", map[string]string{"process_cpu": "nanoseconds", "rss": "bytes"}, began, began.Add(time.Minute))
	if err != nil || len(got) != 2 || got[0].ID != "a" || len(got[0].Windows) != 2 || got[0].Version != "v1" {
		t.Fatalf("%+v, %v", got, err)
	}
	if w := got[0].Windows[0]; !w.From.Equal(began) || w.Values["process_cpu"] != 2e9 || w.Values["rss"] != 100<<20 {
		t.Errorf("%+v", w)
	}
	if w := got[1].Windows[0]; len(w.Values) != 1 {
		t.Errorf("%+v: want no rss", w)
	}
}

// TestMany: more windows than the store names at once are all there.
func TestMany(t *testing.T) {
	s := newShelf(t, nil)
	var names []string
	for i := range 60 {
		name := fmt.Sprintf("i-%02d", i)
		names = append(names, name)
		for k := range 200 {
			x := usual(name, 10*float64(k)+float64(i)/10)
			x.spans = nil
			s.put(x)
		}
	}
	for name, m := range ask(s, New(s, nil), question(60, names...)) {
		if n := len(m.Series["cpu"]); n != 200 {
			t.Errorf("%s has %d windows, want 200", name, n)
		}
	}
}

// TestErrors: the store's errors are told, and nothing half read is taken for all there is.
func TestErrors(t *testing.T) {
	s := newShelf(t, nil)
	s.put(usual("a", 0))
	r := New(s, nil)
	s.fail = store.ErrUnavailable
	if _, err := r.Look(context.Background(), question(1, "a")); !errors.Is(err, store.ErrUnavailable) {
		t.Errorf("%v", err)
	}
	s.fail = nil
	near(t, ask(s, r, question(1, "a"))["a"], "throughput", 0, 20, 10)
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := r.Look(gone, question(1, "a")); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if _, err := r.Look(context.Background(), question(1, make([]string, 2000)...)); err != nil {
		t.Errorf("one name many times: %v", err)
	}
	var names []string
	for i := range mostInstances + 1 {
		names = append(names, fmt.Sprint(i))
	}
	if _, err := r.Look(context.Background(), question(1, names...)); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("%v", err)
	}
	if sight, err := r.Look(context.Background(), question(-1, "a")); err != nil || sight.Members != nil {
		t.Errorf("a range that ends before it begins: %+v, %v", sight, err)
	}
}

// TestExpected: measurements are there up to the open window.
func TestExpected(t *testing.T) {
	s := newShelf(t, nil)
	s.put(usual("a", 0), usual("b", 0))
	sight, err := New(s, nil).Look(context.Background(), question(1, "a", "b"))
	if d := began.Add(time.Minute).Sub(sight.To); err != nil || d != 14*time.Second {
		t.Errorf("%v before the end, %v; want a window of 10 s and a tenth, and 3 s", d, err)
	}
}
