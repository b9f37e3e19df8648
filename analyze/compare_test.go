package analyze

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	pprof "github.com/google/pprof/profile"

	"github.com/quantra-l/quantra/profile"
)

const tenMillis = 10_000_000

// shop is a service's stacks and how often each is seen, of 10,000. Frames are from the outermost.
var shop = map[string]float64{
	"net/http.(*conn).serve;shop.handle;shop.(*Cache).Get":                                      900,
	"net/http.(*conn).serve;shop.handle;shop.(*Cache).Get;runtime.mapaccess1":                   700,
	"net/http.(*conn).serve;shop.handle;shop.(*Cache).Put":                                      300,
	"net/http.(*conn).serve;shop.handle;shop.(*Cache).Put;shop.(*Cache).evict":                  200,
	"net/http.(*conn).serve;shop.handle;shop.encode;encoding/json.Marshal":                      1500,
	"net/http.(*conn).serve;shop.handle;shop.encode;encoding/json.Marshal;runtime.mallocgc":     800,
	"net/http.(*conn).serve;shop.handle;shop.price":                                             1100,
	"net/http.(*conn).serve;shop.handle;shop.price;shop.tax":                                    600,
	"net/http.(*conn).serve;shop.handle;shop.price;shop.round":                                  400,
	"net/http.(*conn).serve;shop.handle;shop.auth;example.com/jwt.Verify":                       900,
	"net/http.(*conn).serve;shop.handle;shop.auth;example.com/jwt.Verify;crypto/ed25519.Verify": 700,
	"net/http.(*conn).serve;shop.handle;shop.log;fmt.Sprintf":                                   300,
	"net/http.(*conn).serve;net/http.(*response).finishRequest;syscall.write":                   600,
	"runtime.gcBgMarkWorker;runtime.gcDrain;runtime.scanobject":                                 700,
	"runtime.mstart;runtime.schedule;runtime.findRunnable":                                      300,
}

// withStacks is shop with some stacks' weights set anew.
func withStacks(set map[string]float64) map[string]float64 {
	out := map[string]float64{}
	for k, v := range shop {
		out[k] = v
	}
	for k, v := range set {
		if out[k] = v; v == 0 {
			delete(out, k)
		}
	}
	return out
}

const evicting = "net/http.(*conn).serve;shop.handle;shop.(*Cache).Put;shop.(*Cache).evict"

// fake makes one replicate: about n samples, each function's share off by a factor with the coefficient of variation spread.
func fake(r *rand.Rand, weights map[string]float64, n, spread float64) *profile.Profile {
	b := profile.NewBuilder(profile.ValueType{Type: "cpu", Unit: "nanoseconds"})
	off := map[string]float64{}
	stacks := make([]string, 0, len(weights))
	for s := range weights {
		stacks = append(stacks, s)
	}
	slices.Sort(stacks)
	var sum float64
	real := make([]float64, len(stacks))
	for i, s := range stacks {
		leaf := s[strings.LastIndexByte(s, ';')+1:]
		if _, ok := off[leaf]; !ok {
			off[leaf] = math.Exp(spread * r.NormFloat64())
		}
		real[i] = weights[s] * off[leaf]
		sum += real[i]
	}
	for i, s := range stacks {
		if k := poisson(r, n*real[i]/sum); k > 0 {
			b.Add(stackOf(b, s), 0, k*tenMillis)
		}
	}
	p := b.Profile()
	p.Period, p.PeriodType = tenMillis, profile.ValueType{Type: "cpu", Unit: "nanoseconds"}
	return p
}

func stackOf(b *profile.Builder, s string) uint32 {
	at := uint32(0)
	for i, name := range strings.Split(s, ";") {
		f := b.Function(profile.Function{Name: b.String(name), SystemName: b.String(name), File: b.String("shop.go"), StartLine: int64(i + 1)})
		at = b.Stack(at, b.Location(profile.Location{}, profile.Line{Function: f, Line: int64(i + 1)}))
	}
	return at
}

// poisson is a Poisson variable: by its definition where it is small, and in parts where it is not.
func poisson(r *rand.Rand, mean float64) int64 {
	var k int64
	for ; mean > 500; mean -= 500 {
		k += poisson(r, 500)
	}
	for t := r.ExpFloat64(); t < mean; t += r.ExpFloat64() {
		k++
	}
	return k
}

func cohort(r *rand.Rand, name string, weights map[string]float64, replicates int, n, spread float64) Cohort {
	c := Cohort{Name: name}
	for i := range replicates {
		c.Replicates = append(c.Replicates, Replicate{Name: fmt.Sprintf("%s-%d", name, i+1), Profile: fake(r, weights, n, spread), Seconds: 100})
	}
	return c
}

func compared(t testing.TB, base, head Cohort, o CompareOptions) *Comparison {
	t.Helper()
	c, err := Compare(base, head, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *Comparison) of(t testing.TB, function string) *Compared {
	t.Helper()
	for i := range c.Changes {
		if c.Changes[i].Function == function {
			return &c.Changes[i]
		}
	}
	t.Fatalf("%s is not among the changes", function)
	return nil
}

// causes is what is said to have grown (+) and fallen (-), by name.
func (c *Comparison) causes() string {
	var out []string
	for _, ch := range c.Changes {
		switch ch.Verdict {
		case Grew:
			out = append(out, "+"+ch.Function)
		case Fell:
			out = append(out, "-"+ch.Function)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func seeded(i int) *rand.Rand { return rand.New(rand.NewPCG(uint64(i), 5)) }

// TestCompareCauses: planted changes, each with the one answer that a person would give.
func TestCompareCauses(t *testing.T) {
	serve := "net/http.(*conn).serve;shop.handle;"
	for name, c := range map[string]struct {
		head map[string]float64
		want string
	}{
		"a callee grew, and all above it":               {withStacks(map[string]float64{evicting: 900}), "+shop.(*Cache).evict"},
		"it grew in the standard library that it calls": {withStacks(map[string]float64{evicting + ";internal/runtime/maps.(*Iter).Next": 700}), "+shop.(*Cache).evict"},
		"it became faster":                              {withStacks(map[string]float64{serve + "shop.price;shop.tax": 100}), "-shop.tax"},
		"a library's function, shared by others":        {withStacks(map[string]float64{serve + "shop.auth;example.com/jwt.Verify": 1800}), "+example.com/jwt.Verify"},
		"the collector works more":                      {withStacks(map[string]float64{"runtime.gcBgMarkWorker;runtime.gcDrain;runtime.scanobject": 1500}), "+runtime.gcBgMarkWorker"},
		"two at once":                                   {withStacks(map[string]float64{evicting: 800, serve + "shop.price;shop.tax": 100}), "+shop.(*Cache).evict -shop.tax"},
		"one that dwarfs the rest: nothing else fell":   {withStacks(map[string]float64{evicting: 9000}), "+shop.(*Cache).evict"},
		"most of it was saved: nothing else grew":       {withStacks(map[string]float64{serve + "shop.encode;encoding/json.Marshal": 0, serve + "shop.encode;encoding/json.Marshal;runtime.mallocgc": 0}), "-shop.encode"},
		"it is new":              {withStacks(map[string]float64{serve + "shop.audit": 500}), "+shop.audit"},
		"a function was renamed": {withStacks(map[string]float64{evicting: 0, serve + "shop.(*Cache).Put;shop.(*Cache).dropOldest": 200}), ""},
		"a function with callees was renamed, and its callee": {withStacks(map[string]float64{serve + "shop.price": 0, serve + "shop.price;shop.tax": 0, serve + "shop.price;shop.round": 0, serve + "shop.cost": 1100, serve + "shop.cost;shop.vat": 600, serve + "shop.cost;shop.round": 400}), ""},
		"a part of a function became its own":                 {withStacks(map[string]float64{serve + "shop.price": 500, serve + "shop.price;shop.discount": 600}), ""},
		"work moved to another handler":                       {withStacks(map[string]float64{serve + "shop.price;shop.tax": 0, "net/http.(*conn).serve;shop.batch;shop.tax": 600}), ""},
		"nothing":                                             {shop, ""},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range 5 {
				r := seeded(seed)
				total := 0.0
				for _, w := range c.head {
					total += w
				}
				// The same work: what changed changes how many samples there are.
				n := 20000.0
				got := compared(t, cohort(r, "v1", shop, 4, n, 0.02), cohort(r, "v2", c.head, 4, n*total/10000, 0.02), CompareOptions{Q: 0.001})
				if got.causes() != c.want {
					t.Errorf("seed %d: %q, want %q; scale %.3f (%s)", seed, got.causes(), c.want, got.Scale.Value, got.ScaleBy)
				}
			}
		})
	}
}

// TestCompareFewFunctions: where too few functions are left to tell what did not change, one that has more and one that has less are both
// said, and neither is explained away as cost that moved.
func TestCompareFewFunctions(t *testing.T) {
	r := seeded(2)
	base := cohort(r, "v1", map[string]float64{"main.main;a.f": 2, "main.main;b.g": 8}, 3, 5000, 0.01)
	head := cohort(r, "v2", map[string]float64{"main.main;a.f": 6, "main.main;b.g": 8}, 3, 7000, 0.01)
	if c := compared(t, base, head, CompareOptions{}); c.causes() != "+a.f -b.g" || c.ScaleBy != "" {
		t.Errorf("%q by %q", c.causes(), c.ScaleBy)
	}
}

// TestCompareAgrees: what functions had and have is what google/pprof sums, on real profiles of every kind.
func TestCompareAgrees(t *testing.T) {
	files, _ := filepath.Glob("../profile/testdata/corpus/*.pb.gz")
	pairs := 0
	for i, base := range files {
		for _, head := range files[i+1:] {
			if kind(base) != kind(head) {
				continue
			}
			b, h := load(t, base), load(t, head)
			for col, st := range b.ours.SampleTypes {
				hc := slices.Index(h.ours.SampleTypes, st)
				if hc < 0 || b.ours.Total(col) == 0 || h.ours.Total(hc) == 0 || b.lowest(col) < 0 || h.lowest(hc) < 0 {
					continue
				}
				c := compared(t, Cohort{Replicates: []Replicate{{Profile: b.ours, Column: col}}}, Cohort{Replicates: []Replicate{{Profile: h.ours, Column: hc}}}, CompareOptions{})
				bSelf, bFull := b.sums(col)
				hSelf, hFull := h.sums(hc)
				pairs++
				seen := map[string]bool{}
				for _, ch := range c.Changes {
					if strings.HasPrefix(ch.Function, "0x") {
						continue // has no name: by its address here, by nothing there
					}
					seen[ch.Function] = true
					was := cmpOr(ch.Was, ch.Function)
					for _, x := range []struct {
						what       string
						share      Difference
						base, head int64
					}{{"self", ch.Self, bSelf[was], hSelf[ch.Function]}, {"full", ch.Full, bFull[was], hFull[ch.Function]}} {
						got := x.share.After.Value*c.Head.Total - x.share.Before.Value*c.Base.Total
						if want := float64(x.head - x.base); math.Abs(got-want) > 1e-9*(c.Head.Total+c.Base.Total) {
							t.Errorf("%s -> %s %s: %s of %s changed by %v, pprof has %v", base, head, st.Type, x.what, ch.Function, got, want)
						}
					}
				}
				for f := range hFull {
					if !seen[f] && hFull[f] != 0 && f != "" {
						t.Errorf("%s %s: %s is missing", head, st.Type, f)
					}
				}
			}
		}
	}
	if pairs < 20 {
		t.Fatalf("only %d pairs compared", pairs)
	}
}

func cmpOr(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func kind(file string) string {
	_, k, _ := strings.Cut(filepath.Base(file), "_")
	return k
}

type loaded struct {
	ours   *profile.Profile
	theirs *pprof.Profile
}

func load(t testing.TB, file string) loaded {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ours, _, err := profile.Read(f, profile.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	theirs, err := pprof.Parse(f)
	if err != nil {
		t.Fatal(err)
	}
	return loaded{ours, theirs}
}

func (l loaded) lowest(col int) int64 { return slices.Min(l.ours.Values[col]) }

// sums is flat and cum by function, by the definition, on google/pprof's objects.
func (l loaded) sums(col int) (self, full map[string]int64) {
	self, full = map[string]int64{}, map[string]int64{}
	for _, s := range l.theirs.Sample {
		seen := map[string]bool{}
		first := true
		for _, loc := range s.Location {
			for _, ln := range loc.Line {
				name := ln.Function.Name
				if first {
					self[name] += s.Value[col]
					first = false
				}
				if !seen[name] {
					seen[name] = true
					full[name] += s.Value[col]
				}
			}
		}
	}
	return self, full
}

func TestCompareRefuses(t *testing.T) {
	r := seeded(1)
	good := cohort(r, "v1", shop, 2, 1000, 0)
	other := profile.NewBuilder(profile.ValueType{Type: "alloc_space", Unit: "bytes"})
	other.Add(stackOf(other, "a;b"), 0, 5)
	negative := profile.NewBuilder(profile.ValueType{Type: "cpu", Unit: "nanoseconds"})
	negative.Add(stackOf(negative, "a;b"), 0, -5)
	empty := profile.NewBuilder(profile.ValueType{Type: "cpu", Unit: "nanoseconds"}).Profile()
	one := func(p *profile.Profile) Cohort { return Cohort{Name: "v2", Replicates: []Replicate{{Profile: p}}} }
	for name, c := range map[string]struct {
		head  Cohort
		o     CompareOptions
		want  string
		empty bool
	}{
		"no profile":     {Cohort{Name: "v2"}, CompareOptions{}, "v2 has no profile", true},
		"no samples":     {one(empty), CompareOptions{}, "no replicate of v2 has a sample", true},
		"another type":   {one(other.Profile()), CompareOptions{}, "v1-1 measures cpu in nanoseconds, and v2, replicate 1 alloc_space in bytes", false},
		"below 0":        {one(negative.Profile()), CompareOptions{}, "v2, replicate 1: it has values below 0", false},
		"no such column": {Cohort{Replicates: []Replicate{{Profile: empty, Column: 1}}}, CompareOptions{}, "the head, replicate 1 has no column 1", false},
		"Q":              {good, CompareOptions{Q: 2}, "Q is 2", false},
		"NaN":            {good, CompareOptions{Spread: math.NaN()}, "Spread is NaN", false},
		"seconds":        {Cohort{Replicates: []Replicate{{Profile: good.Replicates[0].Profile, Seconds: -1}}}, CompareOptions{}, "must be finite", false},
		"too many":       {Cohort{Name: "v2", Replicates: make([]Replicate, maxReplicates+1)}, CompareOptions{}, "v2 has 1001 replicates", false},
	} {
		_, err := Compare(good, c.head, c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, ErrNothingToCompare) != c.empty {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

// TestCompareSame: the same profiles give the same answer, to the last bit.
func TestCompareSame(t *testing.T) {
	serve := "net/http.(*conn).serve;shop.handle;"
	head := withStacks(map[string]float64{evicting: 900, serve + "shop.price": 500, serve + "shop.price;shop.discount": 600, serve + "shop.log;fmt.Sprintf": 0, serve + "shop.write;fmt.Sprintf": 300,
		serve + "shop.price;shop.tax": 0, "net/http.(*conn).serve;shop.batch;shop.tax": 600})
	first := ""
	for i := range 20 {
		r := seeded(8)
		c := compared(t, cohort(r, "v1", shop, 3, 20000, 0.02), cohort(r, "v2", head, 3, 21400, 0.02), CompareOptions{})
		got := fmt.Sprintf("%+v %+v", *c, c.Findings("shop", ComparisonContext{}))
		if first == "" {
			first = got
		}
		if got != first {
			t.Fatalf("run %d differs:\n%s\n%s", i, got, first)
		}
	}
}

// FuzzCompare: whatever two profiles hold, the answer can be written down, shares are shares, and intervals hold their value.
func FuzzCompare(f *testing.F) {
	f.Add("a;b 10\na;c 20\n", "a;b 11\na;d 20\n", uint8(1))
	f.Add("main.main;shop.f;runtime.mallocgc 1000\nmain.main;shop.g 500\nmain.main;shop.h 30\n;x 4\n", "main.main;shop.f 1000\nmain.main;shop.g2 500\nmain.main;shop.h;shop.h;shop.h 900\n", uint8(2))
	f.Add("a 9223372036854775807\n", "b 1\n", uint8(3))
	f.Fuzz(func(t *testing.T, a, b string, n uint8) {
		lim := profile.Limits{Decoded: 1 << 16, Stacks: 1000, Samples: 1000}
		var sides [2]Cohort
		for i, text := range []string{a, b} {
			p, _, err := profile.Read(strings.NewReader(text), lim)
			if err != nil || len(p.SampleTypes) == 0 {
				return
			}
			for r := range int(n%3) + 1 {
				sides[i].Replicates = append(sides[i].Replicates, Replicate{Profile: p.Scale(1 + float64(r)/10), Seconds: float64(n)})
			}
		}
		c, err := Compare(sides[0], sides[1], CompareOptions{})
		if err != nil {
			return
		}
		for _, ch := range c.Changes {
			for _, d := range []Difference{ch.Self, ch.Full, ch.Own} {
				for _, e := range []Estimate{d.Before, d.After, d.Change, d.Real} {
					if !(e.Low <= e.Value && e.Value <= e.High) {
						t.Fatalf("%s: %+v", ch.Function, d)
					}
				}
				if d.Before.Value < 0 || d.After.Value > 1 || !(d.P >= 0 && d.P <= 1) || !(d.Q >= d.P && d.Q <= 1) {
					t.Fatalf("%s: %+v", ch.Function, d)
				}
			}
		}
		if _, err := json.Marshal(c); err != nil {
			t.Fatal(err)
		}
	})
}
