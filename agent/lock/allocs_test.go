//go:build !race

package lock

import "testing"

func TestUncontendedAllocatesNothing(t *testing.T) {
	var m Mutex
	var rw RWMutex
	// More than a sample's worth, so that sampled acquisitions are among them.
	held := 0
	n := testing.AllocsPerRun(8*HoldSample, func() {
		m.Lock()
		held++
		m.Unlock()
		rw.Lock()
		held++
		rw.Unlock()
		rw.RLock()
		held++
		rw.RUnlock()
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
	if held == 0 {
		t.Error("nothing was locked")
	}
}
