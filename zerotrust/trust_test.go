package zerotrust

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// TestTrustRules: the numbers, one after the other.
func TestTrustRules(t *testing.T) {
	now := birth
	r := newRecord("p", false, now)
	is := func(want int, what string) {
		t.Helper()
		if got := r.Trust(); got != want {
			t.Errorf("%s: trust is %d, not %d", what, got, want)
		}
	}
	connect := func(n int) {
		for range n {
			from := now
			now = now.Add(goodAfter)
			r.connected(from, now)
		}
	}
	is(50, "at first")
	connect(1)
	is(51, "a good connection")
	connect(8)
	is(59, "nine")
	connect(1)
	is(61, "ten: one more")
	r.failed()
	is(56, "a failed verification")
	for range 9 {
		r.failed()
	}
	is(31, "ten: the penalty is 30 at most")
	connect(1)
	is(32, "a good connection pays back")
	r.challenged(false)
	is(17, "a challenge failed")
	for range 4 {
		r.challenged(false)
	}
	is(0, "never below 0")

	r = newRecord("p", false, now)
	connect(1000)
	is(100, "never above 100")
	if r.History != 20 || r.Connections != 1000 {
		t.Errorf("history was rewarded %d times in %d connections, not 20", r.History, r.Connections)
	}
	r.challenged(false)
	is(85, "however long it was good, a challenge that failed costs 15")
	r.failed()
	is(80, "and a failed verification 5")

	r = newRecord("p", false, birth)
	for _, c := range []struct {
		days, want int
	}{{29, 50}, {30, 51}, {59, 51}, {60, 52}, {299, 59}, {300, 60}, {3000, 60}} {
		next := r.aged(birth.Add(time.Duration(c.days) * 24 * time.Hour))
		is(c.want, "by age")
		if (c.days >= 300) != next.IsZero() {
			t.Errorf("after %d days more is due at %v", c.days, next)
		}
	}
}

// TestGoodConnections: what is short, or stood beside one that counted, is worth nothing; so a thousand connections a second are not.
func TestGoodConnections(t *testing.T) {
	r := newRecord("p", false, birth)
	r.connected(birth, birth.Add(goodAfter-time.Second))
	if r.Trust() != 50 {
		t.Error("a short one counts")
	}
	for range 1000 {
		r.connected(birth, birth.Add(goodAfter))
	}
	if r.Trust() != 51 {
		t.Errorf("a thousand at once are worth %d", r.Trust()-50)
	}
	r.connected(birth.Add(goodAfter), birth.Add(2*goodAfter))
	if r.Trust() != 52 {
		t.Error("the next does not count")
	}
	r.connected(birth.Add(-time.Hour), birth.Add(-time.Minute))
	if r.Trust() != 52 {
		t.Error("one from before counts: the clock has gone back")
	}
}

// flow is traffic: Poisson-like counts around a rate per second, with a factor that varies.
func flow(rng *rand.Rand, perSecond, vary float64) Activity {
	mean := perSecond * interval.Seconds() * math.Exp(vary*rng.NormFloat64())
	n := max(0, mean+math.Sqrt(mean)*rng.NormFloat64())
	return Activity{Messages: uint64(n + 0.5), Bytes: uint64(200 * n), Resources: uint64(rng.IntN(2))}
}

// TestOrdinaryIsLeftAlone: steady traffic of several kinds over days; how often is its level taken away? With fixed seeds.
func TestOrdinaryIsLeftAlone(t *testing.T) {
	const intervals = 8640 // a day
	for _, c := range []struct{ rate, vary float64 }{{1, 0}, {20, 0.1}, {500, 0.3}, {50, 0.6}} {
		rng := rand.New(rand.NewPCG(1, 2))
		var b Baseline
		odd, drifts := 0, 0
		for range 3 * intervals {
			score, drift := b.look(flow(rng, c.rate, c.vary), interval)
			if score > scoreBasic {
				odd++
			}
			if drift {
				drifts++
				b.reanchor()
			}
		}
		t.Logf("rate %v, factor e^%v: %d intervals of 3 days out of the ordinary, %d drifts", c.rate, c.vary, odd, drifts)
		if odd > 3*4 || drifts > 1 {
			t.Errorf("rate %v, factor e^%v: level taken %d times in 3 days, %d drifts", c.rate, c.vary, odd, drifts)
		}
	}
}

// TestScores: a jump scores by the thresholds, one burst alone does not, and what stays becomes ordinary.
func TestScores(t *testing.T) {
	steady := func() (*Baseline, *rand.Rand) {
		rng, b := rand.New(rand.NewPCG(3, 4)), &Baseline{}
		for range 200 {
			if s, _ := b.look(flow(rng, 20, 0.05), interval); s > scoreBasic {
				t.Fatalf("steady traffic scores %.2f", s)
			}
		}
		return b, rng
	}
	for _, c := range []struct {
		factor, least, most float64
	}{{1.1, 0, scoreBasic}, {1.9, scoreBasic, scoreUntrusted}, {4, scoreUntrusted, 1}} {
		b, rng := steady()
		b.look(flow(rng, 20*c.factor, 0), interval)
		s, _ := b.look(flow(rng, 20*c.factor, 0), interval)
		if s < c.least || s > c.most {
			t.Errorf("traffic of %v times scores %.2f, not %v to %v", c.factor, s, c.least, c.most)
		}
	}
	b, rng := steady()
	first, _ := b.look(flow(rng, 2000, 0), interval)
	second, _ := b.look(flow(rng, 20, 0.05), interval)
	if first > scoreBasic || second > scoreBasic {
		t.Errorf("one burst scores %.2f, and what follows %.2f", first, second)
	}
	b, rng = steady()
	n := 0
	for s := 1.0; s > scoreBasic && n < 100 || n < 2; n++ {
		s, _ = b.look(flow(rng, 2000, 0.05), interval)
	}
	if n < 3 || n > 30 {
		t.Errorf("a hundred times the traffic is ordinary after %d intervals", n)
	}
	for range 100 {
		if s, d := b.look(Activity{}, interval); s != 0 || d {
			t.Fatal("silence alarms")
		}
	}
}

// TestSlowDrift: traffic that grows by half a percent an interval teaches the average all the way, and the anchor shows it long before
// it has come to ten times. Without the anchor nothing would: the scores say so.
func TestSlowDrift(t *testing.T) {
	for _, grow := range []float64{1.005, 1 / 1.005} {
		rng := rand.New(rand.NewPCG(5, 6))
		var b Baseline
		for range 120 {
			if _, drift := b.look(flow(rng, 1000, 0.05), interval); drift {
				t.Fatal("steady traffic drifts")
			}
		}
		rate, seen := 1000.0, 0.0
		worst := 0.0
		for range 460 { // to ten times, or a tenth
			rate *= grow
			score, drift := b.look(flow(rng, rate, 0.05), interval)
			worst = max(worst, score)
			if drift && seen == 0 {
				seen = rate / 1000
			}
		}
		if worst > scoreBasic {
			t.Errorf("the average sees it by itself (%.2f): it is no slow drift", worst)
		}
		if seen == 0 || seen > 2 || seen < 0.5 {
			t.Errorf("growing by %v an interval is seen at %.2f times, 0 is never", grow, seen)
		}
	}
}
