package spans

import (
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
)

// TestGoroutineID: both ways say the same, on any goroutine and at any depth, and no two goroutines share a number.
func TestGoroutineID(t *testing.T) {
	var mu sync.Mutex
	seen := map[uint64]bool{}
	check := func() {
		id, direct := goroutineID(), goroutineIDDirect()
		if id == 0 || id != direct || id != goroutineID() {
			t.Errorf("goroutine is %d, and %d by its own stack", id, direct)
		}
		mu.Lock()
		defer mu.Unlock()
		if seen[id] {
			t.Errorf("two goroutines are %d", id)
		}
		seen[id] = true
	}
	var wg sync.WaitGroup
	for depth := range 50 {
		wg.Go(func() {
			if depth%2 == 0 { // a coroutine of a locked goroutine has the same thread
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
			}
			deep(depth*4, check)
		})
	}
	wg.Wait()
	if len(seen) != 50 {
		t.Errorf("%d goroutines, want 50", len(seen))
	}
	synctest.Test(t, func(t *testing.T) {
		if id, direct := goroutineID(), goroutineIDDirect(); id == 0 || id != direct {
			t.Errorf("in a bubble it is %d, and %d by its own stack", id, direct)
		}
	})
}

// TestGoroutineIDInWords holds the reader to what it relies on, so that a runtime that words it
// otherwise falls back to the slow way, and to no wrong number.
func TestGoroutineIDInWords(t *testing.T) {
	for _, c := range []struct {
		stack string
		id    uint64
		ok    bool
	}{
		{"goroutine 20 [running]:\nm.f(0x0?)\n\t/m/f.go:26 +0x32\ncreated by iter.Pull[...] in goroutine 19\n\t/iter.go:271 +0x90\n", 19, true},
		{"goroutine 20 [running]:\nm.f()\n\t/m/f.go:26 +0x32\ncreated by iter.Pull[...] in goroutine 19\n\t/iter.go:271 +0x90\n[originating from goroutine 19]:\nmain.main(...)\n\t/m.go:1\ncreated by m.x in goroutine 3\n", 19, true},
		{"goroutine 20 gp=0x1 m=2 mp=0x3 [running]{\"in goroutine\": \"7\"}:\nm.f()\n\t/m/f.go:26 +0x32\ncreated by iter.Pull[...] in goroutine 18446744073709551615\n\t/iter.go:271 +0x90\n", 1<<64 - 1, true},
		{"goroutine 20 [running]:\nm.f()\n\t/m/f.go:26 +0x32\ncreated by iter.Pull[...] in goroutine 19", 0, false}, // may go on
		{"goroutine 20 [running]:\nm.f()\n\t/m/f.go:26 +0x32\ncreated by iter.Pull[...]\n\t/in goroutine 7.go:271 +0x90\n", 0, false},
		{"goroutine 20 [running]:\nm.f()\n\t/m/f.go:26 +0x32\ncreated by iter.Pull[...] in goroutine x\n\t/iter.go:271 +0x90\n", 0, false},
		{"", 0, false},
	} {
		if id, ok := creator([]byte(c.stack)); id != c.id || ok != c.ok {
			t.Errorf("%q: %d, %v; want %d, %v", c.stack, id, ok, c.id, c.ok)
		}
	}
}

//go:noinline
func deep(n int, f func()) int {
	if n == 0 {
		f()
		return 0
	}
	return deep(n-1, f) + 1
}
