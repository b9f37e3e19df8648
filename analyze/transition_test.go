package analyze

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/quantra-l/quantra/agent/spans"
	"github.com/quantra-l/quantra/profile"
)

// spanLog makes profiles of spans. A path is operations with > between them, the pair of events in brackets with - between.
type spanLog struct {
	b      *profile.Builder
	stacks map[string]uint32
}

func newSpanLog() *spanLog {
	return &spanLog{
		b:      profile.NewBuilder(profile.ValueType{Type: "spans", Unit: "count"}, profile.ValueType{Type: "duration", Unit: "nanoseconds"}, profile.ValueType{Type: "self", Unit: "nanoseconds"}),
		stacks: map[string]uint32{"": 0},
	}
}

func (l *spanLog) stack(path string) uint32 {
	if s, ok := l.stacks[path]; ok {
		return s
	}
	up, leaf := "", path
	if i := strings.LastIndexByte(path, '>'); i >= 0 {
		up, leaf = path[:i], path[i+1:]
	}
	var f profile.Function
	if strings.HasPrefix(leaf, "[") {
		leaf, f.File = strings.ReplaceAll(strings.Trim(leaf, "[]"), " - ", " -> "), l.b.String("event")
	}
	f.Name = l.b.String(leaf)
	s := l.b.Stack(l.stack(up), l.b.Location(profile.Location{}, profile.Line{Function: l.b.Function(f)}))
	l.stacks[path] = s
	return s
}

func (l *spanLog) add(path string, ns float64, failed bool) {
	status := "ok"
	if failed {
		status = "error"
	}
	set := []profile.SampleLabel{{Key: l.b.String("status"), Str: l.b.String(status)}}
	if ns < math.MaxInt32*1e6 {
		set = append(set, profile.SampleLabel{Key: l.b.String("le"), Num: leOf(int64(ns)), Unit: l.b.String("nanoseconds")})
	}
	l.b.Add(l.stack(path), l.b.LabelSet(set), 1, int64(ns), int64(ns))
}

// fleet makes windows of five minutes. draw adds the spans of window i.
func fleet(windows int, draw func(i int, l *spanLog)) []SpanWindow {
	out := make([]SpanWindow, windows)
	at := time.Date(2026, 3, 1, 8, 0, 0, 0, time.UTC)
	for i := range out {
		l := newSpanLog()
		draw(i, l)
		out[i] = SpanWindow{From: at, To: at.Add(5 * time.Minute), Profile: l.b.Profile(), Instances: 3}
		at = out[i].To
	}
	return out
}

// around is a duration of a lognormal distribution with this median.
func around(r *rand.Rand, median float64) float64 { return median * math.Exp(0.5*r.NormFloat64()) }

const z99 = 2.3263478740408408 // of the normal distribution

func mustTransitions(t *testing.T, in TransitionInput, opt TransitionOptions) ([]Edge, []Finding) {
	t.Helper()
	edges, found, err := Transitions(in, opt)
	if err != nil {
		t.Fatal(err)
	}
	return edges, found
}

// TestTransitions: of known durations every figure is known, and the one step that became slow is found, nothing else.
func TestTransitions(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	in := TransitionInput{Service: "checkout", Labels: map[string]string{"env": "prod"}, Now: 2, Windows: fleet(74, func(i int, l *spanLog) {
		price := 4e6
		if i >= 70 {
			price *= 3
		}
		for range 1500 {
			l.add("POST /checkout", around(r, 20e6), r.IntN(5) == 0)
			l.add("POST /checkout>price order", around(r, price), false)
			l.add("POST /checkout>sign receipt", around(r, 1e6), false)
			l.add("connection>[dial - handshake]", around(r, 12e6), false)
		}
	})}
	edges, found := mustTransitions(t, in, TransitionOptions{})
	var names []string
	for _, e := range edges {
		names = append(names, e.Name)
	}
	if want := []string{"POST /checkout", "POST /checkout -> price order", "connection: dial -> handshake", "POST /checkout -> sign receipt"}; !slices.Equal(names, want) {
		t.Fatalf("steps are %v, want %v", names, want)
	}
	e := edges[1]
	if e.Machine != "" || e.From != "POST /checkout" || e.To != "price order" || e.Operation != "price order" || e.N != 3000 || e.Rate != 5 || e.Past.Rate != 5 || e.Past.N != 108_000 || e.Past.Times != 36 {
		t.Errorf("the step is %+v", e)
	}
	near := func(what string, got Estimate, want float64) {
		t.Helper()
		if got.Low > want || got.High < want || math.Abs(got.Value-want) > 0.15*want {
			t.Errorf("%s is %+v, want %v", what, got, want)
		}
	}
	p99 := math.Exp(0.5 * z99)
	near("p50", e.P50, 12e-3)
	near("p99", e.P99, 12e-3*p99)
	near("p50 before", e.Past.P50, 4e-3)
	near("p99 before", e.Past.P99, 4e-3*p99)
	near("the share of failed requests", edges[0].Errors, 0.2)
	if d := edges[2]; d.From != "dial" || d.To != "handshake" || d.Operation != "connection" {
		t.Errorf("the step between events is %+v", d)
	}

	if len(found) != 1 {
		t.Fatalf("found %d: %+v", len(found), found)
	}
	f := found[0]
	near("before", f.Before, 4e-3*p99)
	near("after", f.After, 12e-3*p99)
	near("change", f.Change, 8e-3*p99)
	windows := in.Windows
	if f.Kind != Transition || f.Service != "checkout" || f.Subject != "POST /checkout -> price order" || f.Unit != "seconds" || f.Type != "spans:duration:nanoseconds:spans:count" || f.Metric != "value" ||
		f.Samples != 3000 || f.Instances != 3 || !f.Since.Equal(windows[70].From) || !f.From.Equal(windows[0].From) || !f.To.Equal(windows[73].To) || f.Q > 1e-4 || f.P > f.Q || len(f.Chart) != 74 || len(f.Warnings) != 0 {
		t.Errorf("found %+v", f)
	}
	if h, b := f.Head, f.Base; h.Samples["operation"] != "price order" || h.Labels["env"] != "prod" || !h.From.Equal(windows[72].From) || !h.To.Equal(f.To) ||
		b.Samples["operation"] != "price order" || !b.From.Equal(f.From) || !b.To.Equal(h.From) || h.Type != meanwhileType {
		t.Errorf("it compares %+v with %+v", h, b)
	}
	for _, want := range []string{"In checkout, `POST /checkout -> price order` takes ", " ms at p99, up from ", "(95 % interval +", " ms, 3000 of them on 3 instances)", ", the median 1", " ms, from ", ", since 13:50."} {
		if !strings.Contains(f.Sentence, want) {
			t.Errorf("%q has no %q", f.Sentence, want)
		}
	}
	// A store answers with one column.
	for i := range in.Windows {
		in.Windows[i].Profile = in.Windows[i].Profile.Project(0)
	}
	again, foundAgain := mustTransitions(t, in, TransitionOptions{})
	if fmt.Sprint(again) != fmt.Sprint(edges) || fmt.Sprint(foundAgain[0].Sentence) != f.Sentence {
		t.Error("counts alone give another answer")
	}
}

// noisy is a service of so many steps, whose level goes up and down from window to window, by 10 % on its own and by 20 % over the day of 288, as
// services do. more is the factor of step e in window i.
func noisy(r *rand.Rand, windows, steps, spans int, more func(i, e int) float64) []SpanWindow {
	return fleet(windows, func(i int, l *spanLog) {
		day := 1 + 0.2*math.Sin(2*math.Pi*float64(i)/288)
		for e := range steps {
			level := day * math.Exp(0.1*r.NormFloat64()) * more(i, e) * 1e6 * float64(e+1)
			for range spans {
				l.add(fmt.Sprintf("request>step %d", e), around(r, level), false)
			}
		}
	})
}

// TestTransitionsRates measures how often a step that did not change is called slow, and how often one that did is found, from spans on.
func TestTransitionsRates(t *testing.T) {
	const steps, windows, now, rounds = 10, 100, 1, 4
	r := rand.New(rand.NewPCG(7, 7))
	// At a factor of 1.25, the least that counts, few need be found; at 2 nearly all.
	for _, c := range []struct{ factor, atLeast, atMost float64 }{{1, 0, 0}, {1.25, 0, 0.5}, {1.5, 0.1, 1}, {2, 0.9, 1}, {3, 0.9, 1}} {
		hit, wrong, planted := 0, 0, 0
		for range rounds {
			in := TransitionInput{Service: "s", Now: now, Windows: noisy(r, windows, steps, 100, func(i, e int) float64 {
				if i >= windows-3*now && e < 3 {
					return c.factor
				}
				return 1
			})}
			_, found := mustTransitions(t, in, TransitionOptions{})
			planted += 3
			for _, f := range found {
				if slices.Contains([]string{"request -> step 0", "request -> step 1", "request -> step 2"}, f.Subject) {
					hit++
				} else {
					wrong++
				}
			}
		}
		t.Logf("x%v: %d of %d found, %d others", c.factor, hit, planted, wrong)
		if share := float64(hit) / float64(planted); share < c.atLeast || share > c.atMost || wrong > 0 {
			t.Errorf("x%v: %d of %d found, and %d others; want a share of %v to %v", c.factor, hit, planted, wrong, c.atLeast, c.atMost)
		}
	}
}

// TestTransitionsSpike: what was slow and is not any more is no finding, nor is what has always been so, or is too little to matter.
func TestTransitionsSpike(t *testing.T) {
	for _, c := range []struct {
		name   string
		median float64
		slow   func(i int) bool
		found  bool
	}{
		{"for twice the judged length", 1e6, func(i int) bool { return i >= 96 }, true},
		{"for ten times that", 1e6, func(i int) bool { return i >= 80 }, true},
		{"for the judged length", 1e6, func(i int) bool { return i >= 98 }, false},
		{"but not in the last window", 1e6, func(i int) bool { return i >= 94 && i < 99 }, false},
		{"in the past alone", 1e6, func(i int) bool { return i < 96 }, false},
		{"in the past once", 1e6, func(i int) bool { return i >= 96 || i == 5 }, true},
		{"always", 1e6, func(i int) bool { return true }, false},
		{"by too little time", 1e3, func(i int) bool { return i >= 96 }, false},
	} {
		r := rand.New(rand.NewPCG(3, 3))
		windows := fleet(100, func(i int, l *spanLog) {
			median := c.median
			if c.slow(i) {
				median *= 3
			}
			for range 400 {
				l.add("a", around(r, median), false)
			}
		})
		_, found := mustTransitions(t, TransitionInput{Service: "s", Now: 2, Windows: windows}, TransitionOptions{})
		found = slices.DeleteFunc(found, func(f Finding) bool { return f.Kind == Improvement }) // TestTransitionsFaster has those
		if (len(found) == 1) != c.found {
			t.Errorf("slow %s: found %d", c.name, len(found))
		} else if since := slices.IndexFunc(windows, func(w SpanWindow) bool { return len(found) == 1 && w.From.Equal(found[0].Since) }); c.found && (!c.slow(since) || c.slow(since-1)) {
			t.Errorf("slow %s: since %v", c.name, found[0].Since)
		}
	}
}

// TestTransitionsFaster: a step that takes less than ever is an improvement; one that is back to what it took is not.
func TestTransitionsFaster(t *testing.T) {
	for _, c := range []struct {
		name   string
		factor func(i int) float64
		since  int // window, 0 is none
	}{
		{"to the end", func(i int) float64 { return 1 - 0.6*float64(b2i(i >= 90)) }, 90},
		{"in the last window alone", func(i int) float64 { return 1 - 0.6*float64(b2i(i >= 99)) }, 0},
		{"but not any more", func(i int) float64 { return 1 - 0.6*float64(b2i(i >= 90 && i < 98)) }, 0},
		{"after it was slow", func(i int) float64 { return 1 + 2*float64(b2i(i >= 60 && i < 90)) }, 0},
		{"by a tenth", func(i int) float64 { return 1 - 0.1*float64(b2i(i >= 90)) }, 0},
	} {
		r := rand.New(rand.NewPCG(5, 5))
		windows := fleet(100, func(i int, l *spanLog) {
			for range 1200 {
				l.add("a", around(r, 1e6*c.factor(i)), false)
			}
		})
		_, found := mustTransitions(t, TransitionInput{Service: "s", Windows: windows}, TransitionOptions{})
		if (len(found) == 1) != (c.since > 0) {
			t.Errorf("faster %s: found %+v", c.name, found)
			continue
		}
		if c.since == 0 {
			continue
		}
		f := found[0]
		// p99 of this distribution is exp(0.5 * 2.326) = 3.2 times its median.
		if f.Kind != Improvement || f.Subject != "a" || !f.Since.Equal(windows[c.since].From) || math.Abs(f.Before.Value-3.2e-3) > 0.4e-3 || math.Abs(f.After.Value-1.28e-3) > 0.2e-3 || !(f.Change.High < 0) || f.Next != "" ||
			!strings.Contains(f.Sentence, "ms at p99, down from 3.") || !strings.Contains(f.Sentence, "95 % interval -1.") {
			t.Errorf("faster %s: %+v", c.name, f)
		}
		// What may take so long is judged by that alone.
		declared := TransitionOptions{Machines: []Machine{{Name: "m", Edges: []MachineEdge{{From: "x", To: "y", Span: "a", P99: time.Second}}}}}
		if _, found := mustTransitions(t, TransitionInput{Service: "s", Windows: windows}, declared); len(found) != 0 {
			t.Errorf("with a threshold: %+v", found)
		}
		if _, found := mustTransitions(t, TransitionInput{Service: "s", Windows: windows, Known: map[string]time.Time{"a": windows[70].From}}, TransitionOptions{}); len(found) != 0 {
			t.Errorf("known to be slow: %+v", found)
		}
	}
}

// TestTransitionsSince: the slow state is dated back into the past, where it began there.
func TestTransitionsSince(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	windows := fleet(40, func(i int, l *spanLog) {
		median := 1e6
		if i >= 36 {
			median *= 4
		}
		for range 800 {
			if i != 37 { // a window without any says nothing
				l.add("a", around(r, median), false)
			}
		}
	})
	_, found := mustTransitions(t, TransitionInput{Service: "s", Windows: windows}, TransitionOptions{})
	if len(found) != 1 || !found[0].Since.Equal(windows[36].From) {
		t.Fatalf("found %+v, want since %v", found, windows[36].From)
	}
}

// TestTransitionsKnown: a step that stays slow becomes its own past, but not if it is known.
func TestTransitionsKnown(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 5))
	windows := fleet(100, func(i int, l *spanLog) {
		median := 1e6
		if i >= 20 {
			median *= 2
		}
		for range 300 {
			l.add("a", around(r, median), false)
		}
	})
	in := TransitionInput{Service: "s", Windows: windows}
	if _, found := mustTransitions(t, in, TransitionOptions{}); len(found) != 0 {
		t.Errorf("found %v", found)
	}
	in.Known = map[string]time.Time{"a": windows[20].From}
	_, found := mustTransitions(t, in, TransitionOptions{})
	if len(found) != 1 || !found[0].Since.Equal(windows[20].From) || math.Abs(found[0].Before.Value-1e-3) > 1e-4 {
		t.Errorf("known since %v it is %v", windows[20].From, found)
	}
}

// TestTransitionsDeclared: a declared threshold judges, surely; the past does not.
func TestTransitionsDeclared(t *testing.T) {
	machines, err := ParseMachines([]byte(`
machines:
  - name: connection
    service: "node-*"
    edges:
      - {from: dial, to: handshake, slow: 10ms}        # the median is 12 ms
      - {from: handshake, to: established, p99: 50ms}  # p99 is 64 ms
      - {from: established, to: active, slow: 10.4ms}  # not surely: the median is 10.5 ms
      - {from: active, to: closed, slow: 1s}           # three times slower than before, which it may be
  - name: message
    edges:
      - {from: receive, to: verify, span: "verify*", in: message}
      - {from: verify, to: route, span: route}
  - name: elsewhere
    service: checkout
    edges:
      - {from: dial, to: handshake, slow: 1ns}
`))
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(5, 5))
	windows := fleet(13, func(i int, l *spanLog) {
		more := 1.0
		if i >= 11 {
			more = 3
		}
		for range 2000 {
			l.add("connection>[dial - handshake]", around(r, 12e6), false)
			l.add("connection>[handshake - established]", around(r, 20e6), false)
			l.add("connection>[established - active]", around(r, 10.5e6), false)
			l.add("connection>[active - closed]", around(r, 5e6*more), false)
			l.add("message>verify one", around(r, 1e6*more), false)
			l.add("message>batch>verify two", around(r, 1e6*more), false)
			l.add("verify alone", around(r, 1e6), false)
		}
	})
	edges, found := mustTransitions(t, TransitionInput{Service: "node-7", Windows: windows}, TransitionOptions{Machines: machines})
	got := map[string]Finding{}
	for _, f := range found {
		got[f.Subject] = f
	}
	if len(got) != 3 || len(found) != 3 {
		t.Fatalf("found %v", found)
	}
	f := got["connection: dial -> handshake"]
	if !strings.HasPrefix(f.Sentence, "In node-7, `connection: dial -> handshake` takes 12") || !strings.Contains(f.Sentence, " ms at the median (95 % interval ") || !strings.Contains(f.Sentence, ", 2000 of them on 3 instances), more than the 10 ms that it may; ") ||
		f.After.Low < 0.01 || f.Head.Samples["operation"] != "connection" || !f.Since.IsZero() || f.Before.Value == 0 {
		t.Errorf("%+v", f)
	}
	if f := got["connection: handshake -> established"]; !strings.Contains(f.Sentence, "ms at p99 (95 % interval ") || !strings.Contains(f.Sentence, "more than the 50 ms that it may") || f.After.Low < 0.05 {
		t.Errorf("%+v", f)
	}
	if f := got["message: receive -> verify"]; f.Samples != 4000 || f.Base == nil || f.Head.Samples["operation"] != "verify one" && f.Head.Samples["operation"] != "verify two" {
		t.Errorf("%+v", f)
	}
	byName := map[string]Edge{}
	for _, e := range edges {
		byName[e.Name] = e
	}
	if e := byName["connection: dial -> handshake"]; e.Machine != "connection" || e.From != "dial" || e.To != "handshake" || e.Slow.Low > 0.6 || e.Slow.High < 0.6 && e.Slow.High < 0.5 {
		t.Errorf("%+v", e)
	}
	// Of what no machine declares each path is a step; a declared one that nothing was seen of is there.
	if e, ok := byName["message: verify -> route"]; !ok || e.N != 0 || byName["verify alone"].N != 2000 || len(edges) != 7 {
		t.Errorf("steps are %v", edges)
	}
	// However little is asked of the test, the interval must be above.
	edges, found = mustTransitions(t, TransitionInput{Service: "node-7", Windows: windows}, TransitionOptions{Machines: machines, DeclaredOnly: true, FDR: 0.999})
	if len(edges) != 6 || slices.ContainsFunc(found, func(f Finding) bool { return f.Subject == "connection: established -> active" }) {
		t.Errorf("declared alone are %d steps, want 6; found %v", len(edges), found)
	}
}

// TestTransitionsAdjust: by hand, p times their number by their rank, and never less than that of a smaller p.
func TestTransitionsAdjust(t *testing.T) {
	for _, c := range [][2][]float64{
		{{0.01, 0.02, 0.03, 0.04}, {0.04, 0.04, 0.04, 0.04}},
		{{0.04, 0.001, 0.5}, {0.06, 0.003, 0.5}},
		{{0.3, 0.2, 0.9, 1}, {0.6, 0.6, 1, 1}},
		{{}, {}},
	} {
		var tests []*edgeTest
		for _, p := range c[0] {
			tests = append(tests, &edgeTest{p: p})
		}
		transitionBH(tests)
		for i, q := range c[1] {
			if math.Abs(tests[i].q-q) > 1e-12 {
				t.Errorf("of %v it is %v at %d, want %v", c[0], tests[i].q, i, q)
			}
		}
	}
}

// TestMachineEdgeMatches: where an edge is seen.
func TestMachineEdgeMatches(t *testing.T) {
	span := func(span, in string) MachineEdge { return MachineEdge{Span: span, In: in} }
	events := func(a, b, in string) MachineEdge { return MachineEdge{Events: [2]string{a, b}, In: in} }
	for _, c := range []struct {
		edge  MachineEdge
		path  string
		steps string
		want  bool
	}{
		{span("b", ""), "a>b", "", true}, {span("b", ""), "b>a", "", false}, {span("*", ""), "a", "x -> y", false}, {span("b", "a"), "a>c>b", "", true},
		{span("b", "b"), "a>b", "", false}, {span("b", "b"), "b>b", "", true}, {span("b", "c"), "a>b", "", false},
		{events("x", "y", ""), "a", "x -> y", true}, {events("x", "y", ""), "a", "", false}, {events("x", "z", ""), "a", "x -> y", false}, {events("x*", "*", ""), "a", "x1 -> y", true},
		{events("x", "y", "a"), "a", "x -> y", true}, {events("x", "y", "a"), "a>b", "x -> y", true}, {events("x", "y", "c"), "a>b", "x -> y", false},
		{span("*", ""), "", "", false},
	} {
		var path []string
		if c.path != "" {
			path = strings.Split(c.path, ">")
		}
		if got := c.edge.matches(path, c.steps); got != c.want {
			t.Errorf("%+v in %q, %q: %v, want %v", c.edge, c.path, c.steps, got, c.want)
		}
	}
}

// TestTransitionsPaths: what a step is called, and what is none.
func TestTransitionsPaths(t *testing.T) {
	windows := fleet(1, func(_ int, l *spanLog) {
		for _, path := range []string{"a", "a>b", "a>b>c", "a>b>c>d", "a>b>c>d>e", "a>x>y>d>e", "other", "a>other", "(forgotten)>a", "a>[x - y]", "a>b>c>d>e>[x - y]", "a>[other]"} {
			l.add(path, 1e6, false)
		}
		l.b.Add(0, 0, 7, 7, 7) // without a stack
	})
	edges, found := mustTransitions(t, TransitionInput{Service: "s", Windows: windows}, TransitionOptions{})
	var names []string
	for _, e := range edges {
		names = append(names, fmt.Sprint(e.Name, " ", e.N))
	}
	slices.Sort(names)
	want := []string{"a -> b -> c -> d 1", "a -> b -> c 1", "a -> b 1", "a -> … -> d -> e 2", "a -> … -> d -> e: x -> y 1", "a 1", "a: x -> y 1"}
	if !slices.Equal(names, want) || len(found) != 0 {
		t.Errorf("steps are %q, want %q", names, want)
	}
	many := fleet(1, func(_ int, l *spanLog) {
		for i := range 1000 {
			l.add(fmt.Sprint(i), 1e6+float64(i)*1e3, false)
		}
	})
	edges, _ = mustTransitions(t, TransitionInput{Service: "s", Windows: many}, TransitionOptions{MaxEdges: 20})
	if len(edges) != 20 || edges[0].Name != "199" {
		t.Errorf("of 1000 steps the first of %d are %v", len(edges), edges[0])
	}
	edges, _ = mustTransitions(t, TransitionInput{Service: "s", Windows: windows}, TransitionOptions{MaxEdges: 1})
	if len(edges) != 1 || edges[0].Name != "a -> … -> d -> e" {
		t.Errorf("the one step is %v", edges)
	}
}

// TestTransitionsWarnings: each doubt is told.
func TestTransitionsWarnings(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	windows := fleet(16, func(i int, l *spanLog) {
		n, median := 3000, 1e6
		if i >= 12 {
			n, median = 1200, 5e6
		}
		for range n {
			l.add("a", around(r, median), i >= 12 && r.IntN(10) == 0)
		}
		for range n / 30 {
			l.add("a", math.MaxInt32*1e6, false)
		}
	})
	for i := range windows {
		windows[i].Instances = 1
	}
	windows[14].Profile = nil
	_, found := mustTransitions(t, TransitionInput{Service: "s", Windows: windows, Now: 2}, TransitionOptions{})
	if len(found) != 1 {
		t.Fatalf("found %v", found)
	}
	for _, want := range []string{"40 of 1240 had no room", "from one instance", "The past is 7 times", "Only 12 of 1200", "4.13 a second where there were 9.45", "10 % failed where 0.", "1 of the 2 windows"} {
		if !slices.ContainsFunc(found[0].Warnings, func(w string) bool { return strings.Contains(w, want) }) {
			t.Errorf("no warning has %q: %q", want, found[0].Warnings)
		}
	}
}

// TestTransitionsLittle: too few spans, or too little past, are no finding.
func TestTransitionsLittle(t *testing.T) {
	make := func(windows, spans int) TransitionInput {
		r := rand.New(rand.NewPCG(8, 8))
		return TransitionInput{Service: "s", Windows: fleet(windows, func(i int, l *spanLog) {
			for range spans {
				median := 1e6
				if i >= windows-2 {
					median *= 10
				}
				l.add("a", around(r, median), false)
			}
		})}
	}
	for _, c := range []struct {
		windows, spans int
		opt            TransitionOptions
		found          int
	}{
		{20, 200, TransitionOptions{}, 1}, {20, 90, TransitionOptions{}, 0}, {20, 90, TransitionOptions{MinCount: 50}, 1}, {4, 2000, TransitionOptions{}, 0}, {5, 2000, TransitionOptions{FDR: 0.01}, 1}, {1, 2000, TransitionOptions{}, 0},
		{20, 200, TransitionOptions{MinEffect: 12}, 0}, {20, 200, TransitionOptions{MinChange: time.Second}, 0}, {20, 200, TransitionOptions{FDR: 1e-300}, 0},
	} {
		if _, found := mustTransitions(t, make(c.windows, c.spans), c.opt); len(found) != c.found {
			t.Errorf("%d windows of %d spans, %+v: found %d, want %d", c.windows, c.spans, c.opt, len(found), c.found)
		}
	}
}

func TestTransitionsErrors(t *testing.T) {
	good := func() TransitionInput {
		return TransitionInput{Service: "s", Windows: fleet(3, func(_ int, l *spanLog) { l.add("a", 1e6, false) })}
	}
	for _, c := range []struct {
		want string
		edit func(in *TransitionInput, opt *TransitionOptions)
	}{
		{"", func(*TransitionInput, *TransitionOptions) {}},
		{"no service", func(in *TransitionInput, _ *TransitionOptions) { in.Service = "" }},
		{"0 windows", func(in *TransitionInput, _ *TransitionOptions) { in.Windows = nil }},
		{"3 windows, of which 4", func(in *TransitionInput, _ *TransitionOptions) { in.Now = 4 }},
		{"window 1 begins", func(in *TransitionInput, _ *TransitionOptions) {
			in.Windows[0], in.Windows[1] = in.Windows[1], in.Windows[0]
		}},
		{"window 2 is from", func(in *TransitionInput, _ *TransitionOptions) { in.Windows[2].To = in.Windows[2].From }},
		{"must be above 0", func(_ *TransitionInput, opt *TransitionOptions) { opt.MinEffect = -1 }},
		{"must be above 0", func(_ *TransitionInput, opt *TransitionOptions) { opt.MinEffect = math.NaN() }},
		{"FDR below 1", func(_ *TransitionInput, opt *TransitionOptions) { opt.FDR = 1 }},
		{"window 1 has no column spans", func(in *TransitionInput, _ *TransitionOptions) {
			in.Windows[1].Profile = profile.NewBuilder(profile.ValueType{Type: "cpu", Unit: "nanoseconds"}).Profile()
		}},
		{"window 2: more than 2^53", func(in *TransitionInput, _ *TransitionOptions) {
			p := in.Windows[2].Profile
			p.Values[0][0] = math.MaxInt64
		}},
		{"window 0 has negative", func(in *TransitionInput, _ *TransitionOptions) {
			in.Windows[0].Profile = in.Windows[0].Profile.Scale(-1)
		}},
	} {
		in, opt := good(), TransitionOptions{}
		c.edit(&in, &opt)
		_, _, err := Transitions(in, opt)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v, want %q", err, c.want)
		}
	}
}

// realSpans is a profile as agent/spans makes it: of a connection's states, and of a request with a part.
func realSpans(t testing.TB, slow time.Duration) []byte {
	p := spans.New(spans.Options{MaxPerSecond: 1})
	src := p.Source()
	tp := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(p))
	defer tp.Shutdown(context.Background())
	tracer := tp.Tracer("test")
	r := rand.New(rand.NewPCG(uint64(slow), 1))
	for range 1500 {
		now := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
		ctx, s := tracer.Start(context.Background(), "connection", trace.WithTimestamp(now))
		_, part := tracer.Start(ctx, "look up", trace.WithTimestamp(now))
		part.End(trace.WithTimestamp(now.Add(time.Millisecond)))
		for _, e := range []string{"dial", "handshake", "established"} {
			s.AddEvent(e, trace.WithTimestamp(now))
			now = now.Add(time.Duration(around(r, float64(slow))))
		}
		s.End(trace.WithTimestamp(now))
	}
	var b bytes.Buffer
	if err := src.Write(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestTransitionsOfRealSpans: what agent/spans writes is read here, in its buckets.
func TestTransitionsOfRealSpans(t *testing.T) {
	var windows []SpanWindow
	for i := range 12 {
		took := 10 * time.Millisecond
		if i >= 10 {
			took *= 3
		}
		p, err := profile.DecodeBytes(realSpans(t, took+time.Duration(i)), profile.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		at := time.Unix(int64(i)*300, 0)
		windows = append(windows, SpanWindow{From: at, To: at.Add(300 * time.Second), Profile: p, Instances: 1})
	}
	edges, found := mustTransitions(t, TransitionInput{Service: "node", Windows: windows}, TransitionOptions{})
	if len(edges) != 4 {
		t.Errorf("steps are %v", edges)
	}
	for _, e := range edges {
		want := map[string]float64{"connection": 93e-3, "connection -> look up": 1e-3, "connection: dial -> handshake": 30e-3, "connection: handshake -> established": 30e-3}[e.Name]
		if e.N != 1500 || e.P50.Value < 0.9*want || e.P50.Value > 1.15*want {
			t.Errorf("%s: %d, median %v; want 1500, %v", e.Name, e.N, e.P50.Value, want)
		}
	}
	if len(found) != 3 {
		t.Errorf("found %v, want all but the part", found)
	}
}

// FuzzTransitions: no profile that can be decoded makes it fail in another way than by an error, or say what cannot be.
func FuzzTransitions(f *testing.F) {
	for _, slow := range []time.Duration{10 * time.Millisecond, time.Microsecond} {
		p, err := profile.DecodeBytes(realSpans(f, slow), profile.Limits{})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(p.AppendPprof(nil)) // gzip would hide everything from who mutates it
		f.Add(p.Project(0).AppendPprof(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := profile.DecodeBytes(b, profile.Limits{Decoded: 1 << 20})
		if err != nil {
			return
		}
		var windows []SpanWindow
		for i := range 5 {
			windows = append(windows, SpanWindow{From: time.Unix(int64(i), 0), To: time.Unix(int64(i)+1, 0), Profile: p})
		}
		edges, found, err := Transitions(TransitionInput{Service: "s", Windows: windows}, TransitionOptions{MaxEdges: 50})
		if err != nil {
			return
		}
		for _, e := range edges {
			for _, v := range []Estimate{e.P50, e.P99, e.Errors} {
				if !(v.Low <= v.Value && v.Value <= v.High) {
					t.Errorf("%s: %+v", e.Name, v)
				}
			}
		}
		for _, f := range found {
			t.Errorf("five times the same, and %s", f.Sentence)
		}
	})
}

// BenchmarkTransitions is a day of windows of five minutes of a service with so many steps.
func BenchmarkTransitions(b *testing.B) {
	for _, steps := range []int{20, 500} {
		b.Run(fmt.Sprintf("steps=%d", steps), func(b *testing.B) {
			r := rand.New(rand.NewPCG(9, 9))
			windows := noisy(r, 48, steps, 100, func(int, int) float64 { return 1 })
			for len(windows) < 288 {
				w := windows[len(windows)%48]
				w.From = windows[len(windows)-1].To
				w.To = w.From.Add(5 * time.Minute)
				windows = append(windows, w)
			}
			b.ReportAllocs()
			for b.Loop() {
				if _, _, err := Transitions(TransitionInput{Service: "s", Now: 2, Windows: windows}, TransitionOptions{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
