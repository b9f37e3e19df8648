package measure

import (
	"context"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/quantra-l/quantra/optimize"
)

// TestWhole: what a service is as a whole is what one of its instances is on average, whoever comes and goes meanwhile.
func TestWhole(t *testing.T) {
	s := newShelf(t, nil)
	for i := range 12 {
		s.put(usual("a", 10*float64(i)))
		if i < 6 {
			b := usual("b", 10*float64(i)+3)
			b.figures = map[string]int64{"process_cpu": 4e9, "gc_cpu": 1e9, "rss": 300 << 20, "memory": 80 << 20}
			s.put(b)
		} else {
			c := usual("c", 10*float64(i)+4)
			c.figures, c.spans = map[string]int64{"process_cpu": 1e9, "gc_cpu": 0, "rss": 100 << 20, "memory": 80 << 20}, map[string]int64{"GET 1048576 ok": 100}
			s.put(c)
		}
	}
	r := New(s, func() time.Time { return s.now })
	q := question(3, "kube:deployments/shop/checkout")
	q.Whole = true
	m, ok := ask(s, r, q)["kube:deployments/shop/checkout"]
	if !ok || m.Version != "v1" || len(m.Series["cpu"]) != 12 {
		t.Fatalf("%+v", m)
	}
	near(t, m, "cpu", 0, 0.3, 20) // 6 s of CPU in 20 s of windows
	near(t, m, "cpu", 11, 0.15, 20)
	near(t, m, "gc_cpu", 0, 0.25, 20)
	near(t, m, "gc_cpu", 11, 0.5/3, 20)
	near(t, m, "rss", 0, 200<<20, 20)
	near(t, m, "throughput", 0, 20, 20)
	near(t, m, "throughput", 11, 15, 20)
	near(t, m, "errors", 0, 0.02, 400)
	near(t, m, "cpu_per_request", 0, 6.0/400, 400)
	near(t, m, "cpu_per_request", 11, 0.01, 300)
	if p := m.Series["cpu"][0]; !p.From.Equal(began) || !p.To.Equal(began.Add(13*time.Second)) {
		t.Errorf("a point spans its windows: %+v", p)
	}
	if n := len(m.Series["latency_p99"]); n != 12 {
		t.Errorf("%d points of latency", n)
	}
	// A fleet of which nothing is known has a member without series, which is never a pass.
	q.Service = "nobody"
	if m := ask(s, r, q)["kube:deployments/shop/checkout"]; len(m.Series) != 0 {
		t.Errorf("%+v", m)
	}
	names, err := r.Instances(context.Background(), "", "shop", began.Add(70*time.Second), began.Add(3*time.Minute))
	if err != nil || !slices.Equal(names, []string{"a", "c"}) {
		t.Errorf("%q, %v", names, err)
	}
}

// TestWaits: requests in flight are Little's: what they took together, by the time on the clock; and what is not known is not there.
func TestWaits(t *testing.T) {
	s := newShelf(t, nil)
	slow := usual("slow", 0)
	slow.spans = map[string]int64{"GET 1073741824 ok": 40} // 40 of about 1 s, in 10 s
	idle := usual("idle", 10)
	idle.spans = nil
	blind := usual("blind", 0)
	blind.spans = nil
	s.put(slow, usual("idle", 0), idle, blind)
	r := New(s, func() time.Time { return s.now })
	q := question(1, "slow", "idle", "blind", "none")
	got, err := r.Waits(context.Background(), q)
	if err != nil || len(got) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	if w := got["slow"]; math.Abs(w.InFlight-4.03) > 0.2 || math.Abs(w.Median-1.04) > 0.1 {
		t.Errorf("slow: %+v, want 4 in flight for about 1 s", w)
	}
	if w := got["idle"]; math.Abs(w.InFlight-0.5*(0.198*1.01+0.2)/10) > 0.002 || w.Median > 0.002 {
		t.Errorf("idle: %+v", w)
	}
	q.From = began.Add(5 * time.Second)
	if got, err = r.Waits(context.Background(), q); err != nil || got["idle"] != (Waiting{}) || len(got) != 1 {
		t.Errorf("no request is a measurement: %+v, %v", got, err)
	}
}

// TestScheduling: a quantile over the buckets that agents name.
func TestScheduling(t *testing.T) {
	s := newShelf(t, nil)
	s.send("runtime", "a", began, began.Add(10*time.Second), stacks(map[string]int64{"under 1µs": 900, "3ms to 10ms": 80, "10ms to 30ms": 19, "1s and more": 1}, 1, schedType.Sample))
	r := New(s, nil)
	for q, want := range map[float64]float64{0.5: 1e-6, 0.95: 0.01, 0.99: 0.03, 1: 1} {
		if got, ok, err := r.Scheduling(context.Background(), "", "shop", q, began, began.Add(time.Minute)); err != nil || !ok || got != want {
			t.Errorf("the %v-quantile is %v, %v, %v; want %v", q, got, ok, err, want)
		}
	}
	if _, ok, err := r.Scheduling(context.Background(), "", "none", 0.99, began, began.Add(time.Minute)); ok || err != nil {
		t.Errorf("of nothing: %v, %v", ok, err)
	}
}

// TestWholeBounds: what is asked about a whole is one target over some time.
func TestWholeBounds(t *testing.T) {
	s := newShelf(t, nil)
	r := New(s, nil)
	for _, q := range []optimize.Question{{Whole: true}, {Whole: true, Instances: []string{"a", "b"}, From: began, To: began.Add(1)}, {Whole: true, Instances: []string{"a"}, From: began, To: began}} {
		if got, err := r.Look(context.Background(), q); err != nil || len(got.Members) != 0 {
			t.Errorf("%+v: %+v, %v", q, got, err)
		}
	}
}
