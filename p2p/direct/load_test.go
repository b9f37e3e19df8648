package direct

import (
	"math"
	"testing"
	"time"
)

// TestLoad: what was in flight is Little's law over the last minute, or over the time of those that are remembered.
func TestLoad(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	var l load
	if rif, latency := l.at(now); rif != 0 || latency != 0 {
		t.Errorf("nothing came: %v, %v", rif, latency)
	}
	is := func(what string, got, want float64) {
		t.Helper()
		if math.Abs(got-want) > 0.02*want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	// 60 requests of 100 ms and one of a second in a minute.
	for i := range 60 {
		l.add(now.Add(time.Duration(i)*time.Second-100*time.Millisecond), now.Add(time.Duration(i)*time.Second))
	}
	now = now.Add(59 * time.Second)
	l.add(now.Add(-time.Second), now)
	rif, latency := l.at(now)
	is("in flight", rif, 7.0/60)
	is("median", latency, 0.1)
	if rif, latency := l.at(now.Add(2 * time.Minute)); rif != 0 || latency != 0 {
		t.Errorf("nothing came for long: %v, %v", rif, latency)
	}
	// 1,000 a second of 5 ms: five in flight, by the last second alone.
	for i := range 3000 {
		done := now.Add(time.Duration(i) * time.Millisecond)
		l.add(done.Add(-5*time.Millisecond), done)
	}
	rif, latency = l.at(now.Add(3 * time.Second))
	is("in flight of many", rif, 5)
	is("median of many", latency, 0.005)
	// A service that has been there for ten seconds: over these, not a minute; in its first moments over a second.
	young := load{since: now.Add(-10 * time.Second)}
	young.add(now.Add(-2*time.Second), now)
	rif, _ = young.at(now)
	is("in flight of one that is young", rif, 0.2)
	young.since = now.Add(-time.Millisecond)
	rif, _ = young.at(now)
	is("in flight of one that has just begun", rif, 2)
}
