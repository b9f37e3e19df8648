package ingest

import (
	"math"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxRates is how many tenants are told apart. Those that have sent nothing for a while make room.
const maxRates = 10_000

// rates hold each tenant to so many bytes a second, as they came, by a token bucket (Turner 1986,
// "New directions in communications").
type rates struct {
	limit rate.Limit
	burst int
	now   func() time.Time

	mu   sync.Mutex
	of   map[string]*rate.Limiter
	rest *rate.Limiter // of all tenants beyond maxRates together
}

func newRates(perSecond, burst int64, now func() time.Time) *rates {
	r := &rates{limit: rate.Limit(perSecond), burst: int(min(burst, math.MaxInt32)), now: now, of: map[string]*rate.Limiter{}}
	r.rest = rate.NewLimiter(r.limit, r.burst)
	return r
}

// take lets n bytes of a tenant in, or says when to come again. More than the burst counts as the burst, so that whatever
// is within a profile's own limits gets through sometime.
func (r *rates) take(tenant string, n int64) error {
	if r == nil {
		return nil
	}
	now := r.now()
	k := r.limiter(tenant, now).ReserveN(now, int(min(n, int64(r.burst))))
	wait := k.DelayFrom(now)
	if wait <= 0 {
		return nil
	}
	k.CancelAt(now)
	f := faultf(http.StatusTooManyRequests, "rate_limited", "tenant %q sends more than %d bytes a second; send it again after %v, send shorter or fewer profiles, or have the limit raised (--tenant-rate)",
		tenant, int64(r.limit), wait.Round(time.Millisecond))
	f.retry = wait.Truncate(time.Second) + time.Second // in whole seconds, and not too early
	return f
}

func (r *rates) limiter(tenant string, now time.Time) *rate.Limiter {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.of[tenant]; l != nil {
		return l
	}
	if len(r.of) >= maxRates {
		for t, l := range r.of {
			if l.TokensAt(now) >= float64(r.burst) {
				delete(r.of, t) // a new one is as full
			}
		}
		if len(r.of) >= maxRates {
			return r.rest
		}
	}
	l := rate.NewLimiter(r.limit, r.burst)
	r.of[tenant] = l
	return l
}
