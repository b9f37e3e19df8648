package broadcast

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// TestWindowModel: a window says the same as a set of all numbers that were ever taken, where that one forgets what is too far behind.
func TestWindowModel(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for round := range 20 {
		var w window
		taken := map[[2]uint64]bool{}
		epoch, high := uint64(1), uint64(0)
		for step := range 20_000 {
			e, n := epoch, high
			switch rng.IntN(12) {
			case 0:
				n = high + 1 + rng.Uint64N(3*windowBits) // a jump, as after a restart
			case 1:
				n = 1 + rng.Uint64N(high+1) // anything behind
			case 2:
				e = 1 + rng.Uint64N(epoch+1) // another epoch, mostly an old one
			default:
				n = max(1, high+1+rng.Uint64N(40)-min(high, 20)) // around the newest
			}
			n = max(n, 1)
			want := e > epoch || e == epoch && !taken[[2]uint64{e, n}] && (n > high || high-n < windowBits)
			if got := w.fresh(e, n, 1); got != want {
				t.Fatalf("round %d, step %d: %d/%d fresh: %v, at %d/%d", round, step, e, n, got, epoch, high)
			}
			if got := w.take(e, n, 1); got != want {
				t.Fatalf("round %d, step %d: %d/%d taken: %v, at %d/%d", round, step, e, n, got, epoch, high)
			}
			if want {
				if taken[[2]uint64{e, n}] = true; e > epoch {
					epoch, high = e, 0
				}
				high = max(high, n)
			}
		}
	}
}

// TestAuthorsBounded: a neighbour who brings ever new authors fills his share, and no more; who is forgotten makes room.
func TestAuthorsBounded(t *testing.T) {
	a := newAuthors(40, time.Minute)
	for n := range 100 {
		a.of(keyAt(n).Public(), "liar", birth)
	}
	if len(a.all) != 10 {
		t.Errorf("one neighbour has brought %d of 40 authors; a quarter is his", len(a.all))
	}
	for n := 100; n < 200; n++ {
		a.of(keyAt(n).Public(), peer.ID(fmt.Sprint(n)), birth)
	}
	if len(a.all) != 40 || a.of(keyAt(300).Public(), "other", birth) != nil {
		t.Errorf("%d authors; 40 is the most", len(a.all))
	}
	a.expire(birth.Add(time.Minute))
	if len(a.all) != 40 {
		t.Error("authors were forgotten whose envelopes could come again")
	}
	a.expire(birth.Add(time.Minute + 1))
	if len(a.all) != 0 || len(a.by) != 0 {
		t.Errorf("%d authors and %d shares are left", len(a.all), len(a.by))
	}
}

// TestBucket: known answers.
func TestBucket(t *testing.T) {
	var b bucket
	r := Rate{PerSecond: 10, Burst: 5}
	now := birth.UnixNano()
	for i, c := range []struct {
		after time.Duration
		n     int64
		ok    bool
	}{
		{0, 5, true}, {0, 1, false}, {100 * time.Millisecond, 1, true}, {0, 1, false}, {200 * time.Millisecond, 3, false}, {0, 2, true},
		{time.Hour, 6, false}, {0, 5, true}, {-2 * time.Hour, 1, false}, // a clock that goes back gives nothing
		{500 * time.Millisecond, 5, true}, // and is waited for no longer than a full bucket takes
	} {
		now += int64(c.after)
		if got := b.take(r, c.n, now); got != c.ok {
			t.Errorf("step %d: %d tokens: %v", i, c.n, got)
		}
	}
}
