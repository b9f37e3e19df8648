package pgo

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	pprof "github.com/google/pprof/profile"

	"github.com/quantra-l/quantra/profile"
)

// monday is the start of a week, for cells.
var monday = time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)

func cell(instance, version string, hour int) Cell {
	at := monday.Add(time.Duration(hour) * time.Hour)
	return Cell{Instance: instance, Version: version, From: at, To: at.Add(time.Hour)}
}

func corpus(t testing.TB) (names []string) {
	t.Helper()
	names, err := filepath.Glob("../../profile/testdata/corpus/*_cpu.pb.gz")
	if err != nil || len(names) < 6 {
		t.Fatalf("the corpus has %d CPU profiles: %v", len(names), err)
	}
	return names
}

func read(t testing.TB, name string) *profile.Profile {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, _, err := profile.Read(f, profile.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// preprofile is what the compiler's own reader makes of a profile.
func preprofile(t testing.TB, b []byte) *Edges {
	t.Helper()
	name := filepath.Join(t.TempDir(), "default.pgo")
	if err := os.WriteFile(name, b, 0o666); err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	cmd := exec.Command("go", "tool", "preprofile", "-i", name)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go tool preprofile: %v: %s", err, &stderr)
	}
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if lines[0] != "GO PREPROFILE V1" || len(lines)%3 != 1 {
		t.Fatalf("go tool preprofile writes %d lines that begin with %q", len(lines), lines[0])
	}
	e := &Edges{}
	for i := 1; i < len(lines); i += 3 {
		offset, weight, ok := strings.Cut(lines[i+2], " ")
		o, err1 := strconv.ParseInt(offset, 10, 64)
		w, err2 := strconv.ParseInt(weight, 10, 64)
		if !ok || err1 != nil || err2 != nil {
			t.Fatalf("line %d: %q", i+2, lines[i+2])
		}
		e.List = append(e.List, Edge{lines[i], o, lines[i+1], w})
		e.Total += w
	}
	return e
}

// TestEdgesOf: what we read of a profile is what the compiler does, call by call.
func TestEdgesOf(t *testing.T) {
	for _, name := range corpus(t) {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		got, err := EdgesOf(read(t, name))
		if err != nil {
			t.Fatal(err)
		}
		want := preprofile(t, raw)
		if len(want.List) < 20 {
			t.Fatalf("%s has %d calls: it shows nothing", name, len(want.List))
		}
		if got.Total != want.Total || !slices.Equal(got.List, want.List) {
			t.Errorf("%s: %d calls of %d, the compiler has %d of %d", name, len(got.List), got.Total, len(want.List), want.Total)
		}
	}
}

// TestEdgesOfRecursion: a place that calls itself is no call, and a call that is there twice in a sample counts once.
func TestEdgesOfRecursion(t *testing.T) {
	b := profile.NewBuilder(profile.ValueType{Type: "samples", Unit: "count"})
	line := func(name string, at int64) profile.Line {
		return profile.Line{Function: b.Function(profile.Function{Name: b.String(name), StartLine: 10}), Line: at}
	}
	same := b.Location(profile.Location{}, line("main.f", 12))
	b.Add(b.Stack(b.Stack(0, same), same), 0, 5)
	again := b.Location(profile.Location{}, line("main.g", 15), line("main.f", 13), line("main.g", 15), line("main.f", 13))
	b.Add(b.Stack(b.Stack(0, again), again), 0, 7)
	b.Add(b.Stack(b.Stack(b.Stack(0, again), same), b.Location(profile.Location{}, line("main.h", 11))), 0, 3)
	p := b.Profile()
	got, err := EdgesOf(p)
	if err != nil {
		t.Fatal(err)
	}
	if want := preprofile(t, p.AppendPprof(nil)); !slices.Equal(got.List, want.List) || len(got.List) != 3 {
		t.Errorf("%v, the compiler has %v", got.List, want.List)
	}
}

// merged is the result of profiles, one cell each.
func merged(t testing.TB, maxBytes int, ps ...*profile.Profile) *Result {
	t.Helper()
	m := NewMerger("v1")
	for i, p := range ps {
		if err := m.Add(cell(fmt.Sprint("i", i), "v1", 0), p); err != nil {
			t.Fatal(err)
		}
	}
	r, err := m.Result(maxBytes)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// names are the calls of edges as text, in order.
func names(edges []Edge) (out []string) {
	for _, e := range edges {
		out = append(out, fmt.Sprintf("%s+%d %s", e.Caller, e.Offset, e.Callee))
	}
	slices.Sort(out)
	return out
}

// TestOneProfile: of one profile the compiler makes the same of our file as of the profile itself.
func TestOneProfile(t *testing.T) {
	for _, name := range corpus(t) {
		p := read(t, name)
		raw, err := EdgesOf(p)
		if err != nil {
			t.Fatal(err)
		}
		r := merged(t, 0, p)
		ours := preprofile(t, r.Profile)
		if !slices.Equal(ours.List, r.Edges.List) {
			t.Errorf("%s: the file has other calls than the result says", name)
		}
		if r.Report.Lost != 0 || r.Report.Kept != len(raw.List) {
			t.Errorf("%s: %d of %d calls are kept", name, r.Report.Kept, len(raw.List))
		}
		// Weights are shares: the same to a millionth.
		got := map[string]float64{}
		for _, e := range ours.List {
			got[names([]Edge{e})[0]] = float64(e.Weight) / float64(ours.Total)
		}
		for _, e := range raw.List {
			if g, w := got[names([]Edge{e})[0]], float64(e.Weight)/float64(raw.Total); math.Abs(g-w) > 1e-6 {
				t.Errorf("%s: %v has %v of the weight, not %v", name, e, g, w)
			}
		}
		if len(raw.Hot()) >= len(raw.List) {
			t.Errorf("%s: all of its calls are hot: it shows nothing", name)
		}
	}
}

// TestReadable: google/pprof reads the file, and what functions have of their own is what they had.
func TestReadable(t *testing.T) {
	for _, name := range corpus(t) {
		p := read(t, name)
		r := merged(t, 0, p)
		g, err := pprof.ParseData(r.Profile)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.CheckValid(); err != nil {
			t.Fatal(err)
		}
		if g.TimeNanos != 0 || g.DurationNanos != 0 || len(g.Mapping) != 0 {
			t.Errorf("%s: times or mappings: %d %d %v", name, g.TimeNanos, g.DurationNanos, g.Mapping)
		}
		got := map[string]float64{}
		for _, s := range g.Sample {
			if len(s.Location) > 2 || len(s.Label) > 0 {
				t.Fatalf("%s: a sample has %d locations and labels %v", name, len(s.Location), s.Label)
			}
			got[s.Location[0].Line[0].Function.Name] += float64(s.Value[0]) / total
		}
		col, _ := column(p)
		all := float64(p.Total(col))
		for _, row := range profile.Top(p, col) {
			if d := got[row.Name] - float64(row.Self)/all; math.Abs(d) > 1e-6 {
				t.Errorf("%s: %s has %v, not %v", name, row.Name, got[row.Name], float64(row.Self)/all)
			}
		}
	}
}

// TestNames: a name from outside cannot make two lines of one in what the compiler reads.
func TestNames(t *testing.T) {
	for _, name := range []string{"main.a\nmain.b\n1 1000", "main.\x00\r", "main.\xff\xfe", "main. b c", "main.f[go.shape.int]", ""} {
		r := merged(t, 0, made(map[string]int64{name: 1000, "main.z": 500}))
		if got := preprofile(t, r.Profile); !slices.Equal(got.List, r.Edges.List) || len(got.List) != 2 {
			t.Errorf("%q: the compiler reads %v, not %v", name, got.List, r.Edges.List)
		}
	}
}

// made is a Go program's profile of calls main.caller -> callee, in samples.
func made(calls map[string]int64) *profile.Profile {
	b := profile.NewBuilder(profile.ValueType{Type: "samples", Unit: "count"})
	loc := func(name string, start, line int64) uint32 {
		f := b.Function(profile.Function{Name: b.String(name), File: b.String("/src/shop/cmd/shop/main.go"), StartLine: start})
		return b.Location(profile.Location{}, profile.Line{Function: f, Line: line})
	}
	root := b.Stack(b.Stack(0, loc("runtime.main", 100, 150)), loc("main.main", 10, 12))
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for k := range calls {
			if !yield(k) {
				return
			}
		}
	}) {
		start := int64(20)
		callee, at, ok := strings.Cut(name, "@")
		if ok {
			start, _ = strconv.ParseInt(at, 10, 64)
		}
		b.Add(b.Stack(root, loc(callee, start, start+1)), 0, calls[name])
	}
	return b.Profile()
}

// weightOf is the share of the call of callee.
func weightOf(e *Edges, callee string) float64 {
	sum := int64(0)
	for _, edge := range e.List {
		if edge.Callee == callee {
			sum += edge.Weight
		}
	}
	return float64(sum) / float64(e.Total)
}

func wantWeight(t *testing.T, e *Edges, callee string, want float64) {
	t.Helper()
	if got := weightOf(e, callee); math.Abs(got-want) > 1e-6 {
		t.Errorf("%s has %v of the weight, not %v", callee, got, want)
	}
}

type added struct {
	c Cell
	p *profile.Profile
}

func add(t *testing.T, m *Merger, all ...added) *Result {
	t.Helper()
	for _, a := range all {
		if err := m.Add(a.c, a.p); err != nil {
			t.Fatal(err)
		}
	}
	r, err := m.Result(0)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestWeights: neither the busy nor the long-lived nor the much profiled hour decides.
func TestWeights(t *testing.T) {
	a, b := map[string]int64{"main.a": 1000}, map[string]int64{"main.b": 1000}
	loud := made(map[string]int64{"main.a": 100_000})
	t.Run("busy", func(t *testing.T) {
		r := add(t, NewMerger("v1"), added{cell("x", "v1", 0), loud}, added{cell("y", "v1", 0), made(b)})
		wantWeight(t, r.Edges, "main.a", 0.5)
	})
	t.Run("many instances in one hour", func(t *testing.T) {
		all := []added{{cell("y", "v1", 1), made(b)}}
		for i := range 9 {
			all = append(all, added{cell(fmt.Sprint(i), "v1", 0), made(a)})
		}
		r := add(t, NewMerger("v1"), all...)
		wantWeight(t, r.Edges, "main.b", 0.5)
		if r.Report.Slots != 2 || r.Report.Instances != 10 || r.Report.Cells != 10 {
			t.Errorf("%+v", r.Report)
		}
	})
	t.Run("two weeks of one hour", func(t *testing.T) {
		r := add(t, NewMerger("v1"), added{cell("x", "v1", 0), made(a)}, added{cell("x", "v1", 7*24), made(a)}, added{cell("x", "v1", 1), made(b)})
		wantWeight(t, r.Edges, "main.a", 0.5)
	})
	t.Run("long-lived", func(t *testing.T) {
		// x is there in both hours, y in the first: a has half of the first and all of the second.
		r := add(t, NewMerger("v1"), added{cell("x", "v1", 0), made(a)}, added{cell("y", "v1", 0), made(b)}, added{cell("x", "v1", 1), made(a)})
		wantWeight(t, r.Edges, "main.a", 0.75)
	})
	t.Run("next to idle", func(t *testing.T) {
		// 10 samples of the 100 that a cell needs to weigh as much as another: 1/11 of the hour.
		r := add(t, NewMerger("v1"), added{cell("x", "v1", 0), made(a)}, added{cell("y", "v1", 0), made(map[string]int64{"main.b": 10})})
		wantWeight(t, r.Edges, "main.b", 0.1/1.1)
	})
	t.Run("an idle hour", func(t *testing.T) {
		r := add(t, NewMerger("v1"), added{cell("x", "v1", 0), made(a)}, added{cell("y", "v1", 1), made(map[string]int64{"main.b": 10})})
		wantWeight(t, r.Edges, "main.b", 0.1/1.1)
	})
	t.Run("naive", func(t *testing.T) { // what a plain merge makes of the busy one: the reason for all this
		sum, err := profile.Merge(loud, made(b))
		if err != nil {
			t.Fatal(err)
		}
		e, err := EdgesOf(sum)
		if err != nil {
			t.Fatal(err)
		}
		wantWeight(t, e, "main.b", 1000.0/101_000)
	})
}

// TestHalves: where instances do different things, both halves have of each: what differs between halves is chance.
func TestHalves(t *testing.T) {
	for _, n := range []int{2, 3, 4} {
		var all []added
		for h := range 10 {
			for i := range n {
				all = append(all, added{cell(fmt.Sprint(i), "v1", h), made(map[string]int64{fmt.Sprint("main.f", i): 1000})})
			}
		}
		if r := add(t, NewMerger("v1"), all...); r.Report.Agreement != 1 {
			t.Errorf("%d instances: halves agree on %v", n, r.Report.Agreement)
		}
	}
}

// TestOlderVersions: of an older version that is taken which starts in the same line.
func TestOlderVersions(t *testing.T) {
	m := NewMerger("v2")
	r := add(t, m,
		added{cell("x", "v2", 0), made(map[string]int64{"main.same": 500, "main.moved@40": 500})},
		added{cell("y", "v1", 1), made(map[string]int64{"main.same": 500, "main.moved@30": 250, "main.gone": 250})},
	)
	// Hour 0: half and half. Hour 1: only same, and half of the weight.
	wantWeight(t, r.Edges, "main.same", (0.5+0.5)/1.5)
	wantWeight(t, r.Edges, "main.moved", 0.5/1.5)
	wantWeight(t, r.Edges, "main.gone", 0)
	if v := r.Report.Versions; len(v) != 2 || v[0] != (VersionReport{"v2", 1, 1000}) || v[1] != (VersionReport{"v1", 1, 500}) {
		t.Errorf("%+v", v)
	}
	if !slices.ContainsFunc(r.Report.Warnings, func(w string) bool {
		return strings.Contains(w, "25.0 % of the samples are of older versions' functions")
	}) {
		t.Errorf("%q", r.Report.Warnings)
	}
}

// wide is a profile of n functions with weights like real ones': a few have most.
func wide(n int) *profile.Profile {
	rng := rand.New(rand.NewPCG(1, 2))
	b := profile.NewBuilder(profile.ValueType{Type: "cpu", Unit: "nanoseconds"})
	loc := func(name string, line int64) uint32 {
		return b.Location(profile.Location{}, profile.Line{Function: b.Function(profile.Function{Name: b.String(name), StartLine: 10}), Line: line})
	}
	name := func(i int) string { return fmt.Sprintf("example.com/shop/part%d.(*Server).handle%x", i%37, i*7919) }
	runtime := loc("runtime.goexit", 20)
	for i := range n {
		w := int64(1e10 / math.Pow(float64(i+1), 1.8) * (0.5 + rng.Float64()))
		b.Add(b.Stack(b.Stack(b.Stack(0, runtime), loc(name(rng.IntN(n)), 10+int64(rng.IntN(90)))), loc(name(i), 30)), 0, w)
	}
	return b.Profile()
}

// TestPrune: within its bound the compiler finds the same hot calls with the same weights as in all of it.
func TestPrune(t *testing.T) {
	p := wide(20_000)
	full := merged(t, -1, p)
	whole := preprofile(t, full.Profile)
	if full.Report.Bytes < 100_000 || len(whole.Hot()) > len(whole.List)/2 {
		t.Fatalf("%d bytes, %d of %d calls hot: it shows nothing", full.Report.Bytes, len(whole.Hot()), len(whole.List))
	}
	for _, part := range []int{2, 3} {
		most := full.Report.Bytes / part
		r := merged(t, most, p)
		if len(r.Profile) > most || r.Report.Bytes != len(r.Profile) || len(r.Profile) < most*9/10 {
			t.Errorf("%d bytes, at most %d", len(r.Profile), most)
		}
		cut := preprofile(t, r.Profile)
		if cut.Total != whole.Total || !slices.Equal(cut.Hot(), whole.Hot()) {
			t.Errorf("at most %d bytes: total %d, %d hot; in all of it %d and %d", most, cut.Total, len(cut.Hot()), whole.Total, len(whole.Hot()))
		}
		if r.Report.Kept >= len(whole.List) || r.Report.Lost <= 0 || r.Report.Lost > 0.01 {
			t.Errorf("%d of %d calls are kept, %v of the weight is lost: it shows nothing", r.Report.Kept, len(whole.List), r.Report.Lost)
		}
		if !slices.Equal(r.Edges.Hot(), cut.Hot()) || r.Report.Hot != len(cut.Hot()) {
			t.Error("the result says other hot calls than are in the file")
		}
	}
	m := NewMerger("")
	if err := m.Add(cell("x", "", 0), p); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Result(2000); !errors.Is(err, ErrSize) {
		t.Errorf("what cannot fit: %v", err)
	}
	if _, err := m.Result(0); err == nil {
		t.Error("a second result")
	}
}

// TestSameBytes: the same cells are the same bytes, and halves of the same agree.
func TestSameBytes(t *testing.T) {
	var ps []*profile.Profile
	for _, name := range corpus(t) {
		ps = append(ps, read(t, name))
	}
	a, b := merged(t, 0, ps...), merged(t, 0, ps...)
	if !bytes.Equal(a.Profile, b.Profile) {
		t.Error("two runs, two files")
	}
	if cmp.Or(a.Report.Agreement < 0, a.Report.Agreement > 0.9) {
		t.Errorf("six programs agree on %v", a.Report.Agreement)
	}
	same := merged(t, 0, ps[0], ps[0])
	if same.Report.Agreement != 1 {
		t.Errorf("a profile agrees with itself on %v", same.Report.Agreement)
	}
}

func TestAgreement(t *testing.T) {
	edges := func(w map[string]int64) *Edges {
		e, err := EdgesOf(made(w))
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	for _, c := range []struct {
		a, b map[string]int64
		want float64
	}{
		{map[string]int64{"main.a": 50, "main.b": 50}, map[string]int64{"main.a": 1, "main.b": 1}, 1},
		{map[string]int64{"main.a": 50, "main.b": 50}, map[string]int64{"main.c": 1}, 0},
		{map[string]int64{"main.a": 50, "main.b": 50}, map[string]int64{"main.a": 1}, 0.75},
		{map[string]int64{"main.a": 50}, map[string]int64{}, 0},
	} {
		if got := Agreement(edges(c.a), edges(c.b)); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("%v and %v agree on %v, not %v", c.a, c.b, got, c.want)
		}
	}
}

func TestRefused(t *testing.T) {
	bare := func(types profile.ValueType, names ...string) *profile.Profile {
		b := profile.NewBuilder(types)
		at := uint32(0)
		for _, n := range names {
			at = b.Stack(at, b.Location(profile.Location{}, profile.Line{Function: b.Function(profile.Function{Name: b.String(n)}), Line: 5}))
		}
		if len(names) == 0 {
			at = b.Stack(0, b.Location(profile.Location{Address: 4711}))
		}
		b.Add(at, 0, 500)
		return b.Profile()
	}
	cpu := profile.ValueType{Type: "cpu", Unit: "nanoseconds"}
	for _, c := range []struct {
		name string
		p    *profile.Profile
		want error
		text string
	}{
		{"heap", bare(profile.ValueType{Type: "inuse_space", Unit: "bytes"}, "runtime.main"), ErrNotCPU, "samples/count or cpu/nanoseconds"},
		{"no start lines", bare(cpu, "runtime.main", "main.main"), ErrNoStartLines, "Go 1.20"},
		{"Python", bare(cpu, "<module>", "handle"), ErrNotGo, "runtime"},
		{"addresses", bare(cpu), ErrNoSamples, "symbolised"},
		{"nothing", profile.NewBuilder(cpu).Profile(), ErrNoSamples, ""},
	} {
		m := NewMerger("")
		err := m.Add(cell("x", "", 0), c.p)
		if err == nil {
			_, err = m.Result(0)
		}
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := EdgesOf(bare(cpu, "runtime.main", "main.main")); !errors.Is(err, ErrNoStartLines) {
		t.Errorf("EdgesOf: %v", err)
	}
}

func TestWarnings(t *testing.T) {
	few := add(t, NewMerger("v1"), added{cell("x", "v1", 0), made(map[string]int64{"main.a": 50})})
	other := made(map[string]int64{"main.b": 5000})
	for i, s := range other.Strings {
		other.Strings[i] = strings.Replace(s, "/cmd/shop/", "/cmd/bank/", 1)
	}
	mixed := add(t, NewMerger("v1"), added{cell("x", "v1", 0), made(map[string]int64{"main.a": 5000})}, added{cell("y", "v1", 0), other})
	for _, c := range []struct {
		r    *Result
		want []string
	}{
		{few, []string{"only 50 samples", "how steady the profile is cannot be told"}},
		{mixed, []string{"agree on only 0 %", "package main is in 2 folders (bank, shop)"}},
	} {
		for i, w := range c.want {
			if len(c.r.Report.Warnings) != len(c.want) || !strings.Contains(c.r.Report.Warnings[i], w) {
				t.Errorf("warnings %q, not %q", c.r.Report.Warnings, c.want)
				break
			}
		}
	}
	steady := add(t, NewMerger("v1"), added{cell("x", "v1", 0), made(map[string]int64{"main.a": 5000})}, added{cell("y", "v1", 0), made(map[string]int64{"main.a": 5000})})
	if len(steady.Report.Warnings) != 0 {
		t.Errorf("warnings %q of what is as it should be", steady.Report.Warnings)
	}
}

func TestGuard(t *testing.T) {
	for _, c := range []struct {
		name          string
		before, after BuildFacts
		want          []string
	}{
		{"as usual", BuildFacts{10e6, time.Minute, 100e6, 1e9}, BuildFacts{10.4e6, 80 * time.Second, 110e6, 1.02e9}, nil},
		// The figures of golang/go#65532: stacks from 207 MB to 280 MB, memory from 720 MB to 850 MB.
		{"stacks", BuildFacts{0, 0, 207e6, 720e6}, BuildFacts{0, 0, 280e6, 850e6}, []string{"goroutine stacks grew from 207.0 MB to 280.0 MB, by 35.3 %: more than 20 %", "resident memory grew from 720.0 MB to 850.0 MB, by 18.1 %: more than 10 %"}},
		{"size", BuildFacts{BinaryBytes: 10e6}, BuildFacts{BinaryBytes: 12e6}, []string{"the binary grew from 10.0 MB to 12.0 MB, by 20.0 %: more than 15 %"}},
		{"time", BuildFacts{BuildTime: 10 * time.Second}, BuildFacts{BuildTime: 25 * time.Second}, []string{"the build's time grew from 10s to 25s, by 150.0 %: more than 100 %"}},
		{"on the limit", BuildFacts{BinaryBytes: 100}, BuildFacts{BinaryBytes: 115}, nil},
		{"smaller", BuildFacts{10, 10, 10, 10}, BuildFacts{1, 1, 1, 1}, nil},
		{"not known", BuildFacts{}, BuildFacts{1e9, time.Hour, 1e9, 1e9}, nil},
	} {
		var got []string
		for _, o := range Guard(c.before, c.after) {
			got = append(got, o.String())
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, not %q", c.name, got, c.want)
		}
	}
}

// FuzzMerge: whatever a profile is, it is refused or gives a file that google/pprof and our own reader read, with the calls
// that the result says.
func FuzzMerge(f *testing.F) {
	for _, name := range corpus(f) {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, 0)
		f.Add(b, 3000)
	}
	f.Add(wide(30).AppendPprof(nil), 900)
	f.Fuzz(func(t *testing.T, b []byte, most int) {
		p, _, err := profile.Read(bytes.NewReader(b), profile.Limits{Decoded: 1 << 20, Stacks: 1 << 16, Samples: 1 << 16})
		if err != nil {
			return
		}
		m := NewMerger("")
		if err := m.Add(cell("x", "", 0), p); err != nil {
			return
		}
		r, err := m.Result(most)
		if err != nil {
			return
		}
		if most > 0 && len(r.Profile) > most {
			t.Fatalf("%d bytes, at most %d", len(r.Profile), most)
		}
		g, err := pprof.ParseData(r.Profile)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.CheckValid(); err != nil {
			t.Fatal(err)
		}
		back, _, err := profile.Read(bytes.NewReader(r.Profile), profile.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		edges, err := EdgesOf(back)
		if err != nil && !errors.Is(err, ErrNoStartLines) {
			t.Fatal(err)
		}
		if err == nil && r.Report.Lost == 0 && !slices.Equal(edges.List, r.Edges.List) {
			t.Fatalf("the file has %d calls, the result %d", len(edges.List), len(r.Edges.List))
		}
		if err == nil && len(edges.List) > 0 && edges.Total != r.Edges.Total {
			t.Fatalf("the file has %d of weight, the result %d", edges.Total, r.Edges.Total)
		}
	})
}
