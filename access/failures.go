package access

import (
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// Credentials that nobody has are refused the more cheaply the more of them come: so many a minute and at once of one address, or of one /64
// of IPv6; past it neither the database nor the log is asked. It is no bound on those who are known, whose addresses they may share: theirs
// is the policy's.
const (
	failuresPerMinute = 30
	maxFailing        = 10_000 // addresses that are remembered
)

type failures struct {
	now func() time.Time

	mu  sync.Mutex
	all map[netip.Prefix]time.Time // when its bucket would be full again
}

func newFailures(now func() time.Time) *failures {
	return &failures{now: now, all: map[netip.Prefix]time.Time{}}
}

// take counts a failure, and is false where there were too many.
func (f *failures) take(addr netip.Addr) bool {
	bits := 32
	if addr.Is6() {
		bits = 64
	}
	key, err := addr.Prefix(bits)
	if err != nil { // no address: all of those are one
		key = netip.Prefix{}
	}
	const every = time.Minute / failuresPerMinute
	now := f.now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.all) >= maxFailing {
		for k, full := range f.all {
			if !full.After(now) {
				delete(f.all, k)
			}
		}
		if _, ok := f.all[key]; !ok && len(f.all) >= maxFailing {
			return false
		}
	}
	at := f.all[key]
	if at.Before(now) {
		at = now
	}
	if at = at.Add(every); at.Sub(now) > time.Minute {
		return false
	}
	f.all[key] = at
	return true
}

// failed records that a credential was refused, and is the refusal.
func (a *Access) failed(r *http.Request, remote netip.Addr, u *unproven) error {
	if !a.failures.take(remote) {
		return &Refusal{Status: http.StatusTooManyRequests, Code: "resource_exhausted", Text: "too many wrong credentials come from this address", RetryAfter: time.Minute / failuresPerMinute}
	}
	if err := a.record(r.Context(), u.id, r.URL.Path, u.why); err != nil {
		return err
	}
	return &Refusal{Status: http.StatusUnauthorized, Code: "unauthenticated", Text: u.why + "; log in again, or show a token that holds", Reason: u.why}
}

// stranger refuses somebody who shows nothing. That is no credential that was refused, and stands in no record: a probe is not an event.
func stranger(text string) error {
	return &Refusal{Status: http.StatusUnauthorized, Code: "unauthenticated", Text: text}
}
