package analyze

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/quantra-l/quantra/profile"
)

// corpusProfile is one of the real profiles that the codec is tested with.
func corpusProfile(t testing.TB, name string) *profile.Profile {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "profile", "testdata", "corpus", name+".pb.gz"))
	if err != nil {
		t.Fatal(err)
	}
	p, err := profile.DecodeBytes(b, profile.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// endpoint is a kind of request whose stacks are those of a real program: each with the shape of one sample.
type endpoint struct {
	cells []shapeCell
	sums  []float64 // of the stacks' samples so far
	owner string    // the own function that has most of it
}

func endpoints(t testing.TB, names ...string) (out []endpoint) {
	t.Helper()
	for _, n := range names {
		p := corpusProfile(t, n+"_cpu")
		col := p.Column("samples")
		var e endpoint
		owners, sum := map[string]float64{}, 0.0
		for i, v := range p.Values[col] {
			one := *p
			one.SampleTypes, one.PeriodType = []profile.ValueType{{Type: "samples", Unit: "count"}}, profile.ValueType{}
			one.SampleStack, one.SampleLabels, one.Values = p.SampleStack[i:i+1], p.SampleLabels[i:i+1], [][]int64{{1}}
			s := NewShape(&one, 0, "", time.Time{}, time.Time{})
			if len(s.cells) != 1 || s.Samples != 1 {
				t.Fatalf("%s: one sample has the shape %+v", n, s)
			}
			sum += float64(v)
			e.cells, e.sums = append(e.cells, s.cells[0]), append(e.sums, sum)
			owners[s.cells[0].owner] += float64(v)
		}
		e.owner = heaviest(owners)[0].name
		out = append(out, e)
	}
	return out
}

// gamma is a gamma variable of shape k and mean 1 (Marsaglia and Tsang 2000), for k >= 1.
func gamma(r *rand.Rand, k float64) float64 {
	d := k - 1.0/3
	c := 1 / math.Sqrt(9*d)
	for {
		x := r.NormFloat64()
		v := math.Pow(1+c*x, 3)
		if v > 0 && math.Log(r.Float64()) < x*x/2+d-d*v+d*math.Log(v) {
			return d * v / k
		}
	}
}

// window is the shape of n samples of a service that answers endpoints in a mix which changes from window to window.
func window(r *rand.Rand, es []endpoint, mix []float64, n int) Shape {
	sums, sum := make([]float64, len(mix)), 0.0
	for i, m := range mix {
		if m > 0 {
			sum += m * gamma(r, 30) // each endpoint's load has a standard deviation of 18 %
		}
		sums[i] = sum
	}
	counts := map[shapeCell]float64{}
	for range n {
		e, _ := slices.BinarySearch(sums, r.Float64()*sum)
		i, _ := slices.BinarySearch(es[e].sums, r.Float64()*es[e].sums[len(es[e].sums)-1])
		counts[es[e].cells[i]]++
	}
	s := Shape{Instance: "i", From: time.Unix(0, 0), To: time.Unix(60, 0), Samples: float64(n)}
	for c, k := range counts {
		s.cells = append(s.cells, shapeCell{c.owner, c.leaf, k})
	}
	slices.SortFunc(s.cells, compareCells)
	return s
}

// planted is a labelled stream: a past, and instances with two windows each, of which some are anomalies.
func planted(t testing.TB, seed uint64, samples int) (past []Shape, now [][2]Shape, bad []string) {
	r := rand.New(rand.NewPCG(seed, 7))
	es := endpoints(t, "json", "hash", "deflate", "cache", "regexp", "sort")
	usual := []float64{0.4, 0.25, 0.2, 0.15, 0, 0}
	for range 120 {
		past = append(past, window(r, es, usual, samples))
	}
	for i := range 200 {
		kind, mix := "", slices.Clone(usual)
		switch { // one of twenty is an anomaly
		case i%20 != 7:
		case i%60 == 7: // work that was never there
			kind, mix[4] = "new work", 0.25
		case i%60 == 27: // a storm of one kind of request
			kind, mix[1] = "storm", 3*usual[1]
		default: // one kind is not asked any more
			kind, mix[0] = "missing", 0.02
		}
		var two [2]Shape
		for j := range two {
			two[j] = window(r, es, mix, samples)
			two[j].Instance = fmt.Sprint(i)
		}
		now, bad = append(now, two), append(bad, kind)
	}
	return past, now, bad
}

// judged is which of the instances Anomalies tells, by so many windows of each.
func judged(t testing.TB, past []Shape, now [][2]Shape, windows int) []bool {
	var all []Shape
	for _, two := range now {
		all = append(all, two[:windows]...)
	}
	fs, err := Anomalies("s", profile.Type{}, all, past, AnomalyOptions{Windows: windows})
	if err != nil {
		t.Fatal(err)
	}
	out := make([]bool, len(now))
	for _, f := range fs {
		i, err := strconv.Atoi(f.Cause.Value)
		if err != nil {
			t.Fatal(err)
		}
		out[i] = true
	}
	return out
}

// TestAnomaliesPlanted: precision and recall over windows of real stacks of which one in twenty is an anomaly, and those of an isolation
// forest over the same parts that is told the rate of anomalies, which nobody could in production.
func TestAnomaliesPlanted(t *testing.T) {
	detectors := []struct {
		name string
		run  func(past []Shape, now [][2]Shape) []bool
		want float64 // of precision and recall
	}{
		{"distance, one window", func(past []Shape, now [][2]Shape) []bool { return judged(t, past, now, 1) }, 0.9},
		{"distance, both of two windows", func(past []Shape, now [][2]Shape) []bool { return judged(t, past, now, 2) }, 0.9},
		{"isolation forest, one window", forestDetector(0.05), 0},
	}
	for _, samples := range []int{200, 500, 2000} {
		counts := make([]struct{ tp, fp, fn int }, len(detectors))
		for seed := range uint64(5) {
			past, now, bad := planted(t, seed, samples)
			for i, d := range detectors {
				if d.want == 0 && seed > 0 {
					continue // it is slow
				}
				for j, hit := range d.run(past, now) {
					switch {
					case hit && bad[j] != "":
						counts[i].tp++
					case hit:
						counts[i].fp++
					case bad[j] != "":
						counts[i].fn++
					}
				}
			}
		}
		for i, d := range detectors {
			c := counts[i]
			precision, recall := float64(c.tp)/float64(max(1, c.tp+c.fp)), float64(c.tp)/float64(c.tp+c.fn)
			t.Logf("%4d samples a window, %s: precision %.3f, recall %.3f of %d planted", samples, d.name, precision, recall, c.tp+c.fn)
			want := d.want
			if samples < 500 {
				want -= 0.15 // 200 samples do not show a storm among what is usual
			}
			if precision < d.want || recall < want {
				t.Errorf("precision %.2f and recall %.2f; want over %v and %v", precision, recall, d.want, want)
			}
		}
	}
}

// forestDetector is an isolation forest (Liu, Ting, Zhou 2008: 100 trees of 256 windows) over the shares of the past's 60 largest own
// functions. Its threshold is the quantile of the past's own scores that rate of anomalies would leave.
func forestDetector(rate float64) func(past []Shape, now [][2]Shape) []bool {
	return func(past []Shape, now [][2]Shape) (out []bool) {
		sums := map[string]float64{}
		for _, s := range past {
			for _, c := range s.cells {
				sums[c.owner+" "+c.leaf] += c.n
			}
		}
		names := map[string]int{}
		for i, x := range heaviest(sums)[:60] {
			names[x.name] = i
		}
		vector := func(s Shape) []float64 {
			v := make([]float64, len(names)+1)
			v[len(names)] = 1
			for _, c := range s.cells {
				if i, ok := names[c.owner+" "+c.leaf]; ok {
					v[i] += c.n / s.Samples
					v[len(names)] -= c.n / s.Samples
				}
			}
			return v
		}
		var xs [][]float64
		for _, s := range past {
			xs = append(xs, vector(s))
		}
		r := rand.New(rand.NewPCG(1, 2))
		var trees []*isolationNode
		for range 100 {
			trees = append(trees, isolate(r, xs, 8))
		}
		score := func(v []float64) float64 {
			h := 0.0
			for _, n := range trees {
				h += n.depth(v)
			}
			return -h
		}
		var usual []float64
		for _, x := range xs {
			usual = append(usual, score(x))
		}
		slices.Sort(usual)
		limit := usual[int(float64(len(usual))*(1-rate))]
		for _, s := range now {
			out = append(out, score(vector(s[0])) > limit)
		}
		return out
	}
}

type isolationNode struct {
	dim         int
	at          float64
	left, right *isolationNode
	size        int
}

func isolate(r *rand.Rand, xs [][]float64, height int) *isolationNode {
	if len(xs) <= 1 || height == 0 {
		return &isolationNode{size: len(xs)}
	}
	d := r.IntN(len(xs[0]))
	low, high := math.Inf(1), math.Inf(-1)
	for _, x := range xs {
		low, high = min(low, x[d]), max(high, x[d])
	}
	at := low + r.Float64()*(high-low)
	var l, g [][]float64
	for _, x := range xs {
		if x[d] < at {
			l = append(l, x)
		} else {
			g = append(g, x)
		}
	}
	return &isolationNode{dim: d, at: at, left: isolate(r, l, height-1), right: isolate(r, g, height-1)}
}

func (n *isolationNode) depth(v []float64) float64 {
	if n.left == nil {
		c := 0.0
		if n.size > 1 {
			m := float64(n.size)
			c = 2*(math.Log(m-1)+0.5772156649) - 2*(m-1)/m
		}
		return c
	}
	if v[n.dim] < n.at {
		return 1 + n.left.depth(v)
	}
	return 1 + n.right.depth(v)
}

// TestAnomalyNames: the finding names what was planted, and whose it is.
func TestAnomalyNames(t *testing.T) {
	past, _, _ := planted(t, 3, 500)
	r := rand.New(rand.NewPCG(1, 1))
	es := endpoints(t, "json", "hash", "deflate", "cache", "regexp", "sort")
	at := time.Date(2026, 11, 26, 14, 32, 0, 0, time.UTC)
	shape := func(instance string, regexp float64) Shape {
		s := window(r, es, []float64{0.4, 0.25, 0.2, 0.15, regexp, 0}, 600)
		s.Instance, s.From, s.To = instance, at, at.Add(time.Minute)
		return s
	}
	one, err := Anomalies("shop", profile.Type{Name: "process_cpu"}, []Shape{shape("a", 0), shape("b", 0.3), shape("c", 0)}, past, AnomalyOptions{Windows: 1})
	if err != nil {
		t.Fatal(err)
	}
	if len(one) != 1 || one[0].Cause == nil || one[0].Cause.Value != "b" || one[0].Function != es[4].owner {
		t.Fatalf("one instance: %+v", one)
	}
	t.Log(one[0].Sentence)
	checkFinding(t, &one[0])
	if f := one[0]; f.Head.Labels[profile.LabelInstance] != "b" || !f.Head.From.Equal(at) || f.Base == nil || !f.Base.From.Equal(past[0].From) || !f.Base.To.Equal(past[0].To) {
		t.Errorf("head %+v, base %+v", f.Head, f.Base)
	}
	all, err := Anomalies("shop", profile.Type{Name: "process_cpu"}, []Shape{shape("a", 0.3), shape("b", 0.3), shape("c", 0)}, past, AnomalyOptions{Windows: 1})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 || all[0].Cause != nil || all[0].Instances != 3 {
		t.Fatalf("most instances: %+v", all)
	}
	// An instance that was always like that is not unlike its past, nor is a version; one that is new is not judged.
	mixed := slices.Clone(past)
	for range 30 {
		s := shape("b", 0.3)
		s.Version = "v2"
		mixed = append(mixed, s)
	}
	for _, c := range []struct {
		instance, version string
		regexp            float64
		want              int
	}{{"b", "v2", 0.3, 0}, {"c", "v2", 0.3, 0}, {"b", "v2", 0, 1}, {"c", "v3", 0.9, 0}} {
		s := shape(c.instance, c.regexp)
		s.Version = c.version
		if fs, err := Anomalies("shop", profile.Type{}, []Shape{s}, mixed, AnomalyOptions{Windows: 1}); err != nil || len(fs) != c.want {
			t.Errorf("%+v: %d findings, %v", c, len(fs), err)
		}
	}
	odd := slices.Clone(past)
	for range 30 {
		odd = append(odd, shape("b", 0.3)) // of the same version: a tenant of its own
	}
	if fs, err := Anomalies("shop", profile.Type{}, []Shape{shape("b", 0.3)}, odd, AnomalyOptions{Windows: 1}); err != nil || len(fs) > 0 {
		t.Errorf("an instance that was always like that: %+v, %v", fs, err)
	}
	// Of a service that is always the same a little more is seen at once with many samples, and is nobody's business.
	var still []Shape
	for range 30 {
		still = append(still, window(r, es[:1], []float64{1}, 20000))
	}
	little := window(r, es, []float64{0.97, 0.03, 0, 0, 0, 0}, 20000)
	if b := newBaseline(still, 100); b != nil {
		if z, moved := b.score(little); z < 10 || moved > 0.1 {
			t.Errorf("score %v, moved %v: the test shows nothing", z, moved)
		}
	}
	if fs, err := Anomalies("shop", profile.Type{}, []Shape{little}, still, AnomalyOptions{Windows: 1}); err != nil || len(fs) > 0 {
		t.Errorf("3 %% of another work: %+v, %v", fs, err)
	}
	if _, err := Anomalies("shop", profile.Type{}, nil, past, AnomalyOptions{Moved: -1}); err == nil {
		t.Error("a negative option is taken")
	}
	if _, err := Anomalies("shop", profile.Type{}, nil, make([]Shape, MaxPast+1), AnomalyOptions{}); !errors.Is(err, ErrTooMuchPast) {
		t.Errorf("too much past: %v", err)
	}
	if few, err := Anomalies("shop", profile.Type{}, []Shape{shape("a", 0.5)}, past[:10], AnomalyOptions{}); err != nil || len(few) > 0 {
		t.Errorf("with ten windows of the past: %v, %v", few, err)
	}
}
