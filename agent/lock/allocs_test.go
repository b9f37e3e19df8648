//go:build !race

package lock

import "testing"

func TestUncontendedAllocatesNothing(t *testing.T) {
	var m Mutex
	var rw RWMutex
	// More than a sample's worth, so that sampled acquisitions are among them.
	n := testing.AllocsPerRun(8*HoldSample, func() {
		m.Lock()
		m.Unlock()
		rw.Lock()
		rw.Unlock()
		rw.RLock()
		rw.RUnlock()
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}
