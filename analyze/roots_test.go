package analyze

import (
	"math"
	"testing"

	"github.com/quantra-l/quantra/profile"
)

// TestRoots: what is within another span is no request; quantiles are within a bucket of the truth.
func TestRoots(t *testing.T) {
	l := newSpanLog()
	for i := range 1000 {
		l.add("GET /", float64(i+1)*1e6, i >= 990)
		l.add("GET />query", 5e8, true)
	}
	l.add("GET />[a - b]", 1e6, false)
	l.add("other", math.MaxInt32*1e6, false) // without a bucket
	r, ok := ReadRoots(l.b.Profile())
	if !ok || r.Requests() != 1001 || r.Failed() != 10 {
		t.Fatalf("%v requests, %v failed, %v; want 1001 and 10", r.Requests(), r.Failed(), ok)
	}
	for _, q := range []float64{0.001, 0.5, 0.9, 0.99, 1} {
		if got, ok := r.Quantile(q); !ok || math.Abs(got/q-1) > 0.125 {
			t.Errorf("the %v-quantile is %v s, want about %v", q, got, q)
		}
	}
	if got := r.Seconds(); math.Abs(got/500.5-1) > 0.03 { // 1 to 1000 ms, and the one without a bucket
		t.Errorf("they took %v s, want about 500.5", got)
	}
	sum := r
	sum.Add(&r)
	if a, _ := r.Quantile(0.99); sum.Requests() != 2002 || sum.Failed() != 20 || r.Requests() != 1001 {
		t.Errorf("added to itself: %v", sum)
	} else if b, _ := sum.Quantile(0.99); a != b {
		t.Errorf("added to itself its quantile moves from %v to %v", a, b)
	}
	if _, ok := new(Roots).Quantile(0.5); ok {
		t.Error("nothing has a quantile")
	}
	loose := newSpanLog()
	loose.add("GET /", 1e6, false)
	loose.add("GET /", math.MaxInt32*1e6, false)
	if r, _ := ReadRoots(loose.b.Profile()); r.Requests() != 2 {
		t.Errorf("%v requests, want 2", r.Requests())
	} else if _, ok := r.Quantile(0.99); ok {
		t.Error("half of the requests have no bucket, and there is a quantile")
	}
	negative := profile.NewBuilder(profile.ValueType{Type: "spans", Unit: "count"})
	negative.Add(negative.Stack(0, negative.Location(profile.Location{})), 0, -1)
	if _, ok := ReadRoots(negative.Profile()); ok {
		t.Error("a difference was read")
	}
	if _, ok := ReadRoots(profile.NewBuilder(profile.ValueType{Type: "cpu", Unit: "nanoseconds"}).Profile()); ok {
		t.Error("a CPU profile was read")
	}
}
