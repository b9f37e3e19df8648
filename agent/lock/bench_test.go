package lock_test

//lint:file-ignore SA2001 locking is what is measured

import (
	"runtime"
	"sync"
	"testing"

	"github.com/quantra-l/quantra/agent/lock"
)

type rwLocker interface {
	sync.Locker
	RLock()
	RUnlock()
}

// Each benchmark is written out for its type: through an interface sync's could not be inlined, as programs have it.

func BenchmarkUncontended(b *testing.B) {
	b.Run("lock=sync.Mutex", func(b *testing.B) {
		var mu sync.Mutex
		for b.Loop() {
			mu.Lock()
			mu.Unlock()
		}
	})
	b.Run("lock=lock.Mutex", func(b *testing.B) {
		var mu lock.Mutex
		for b.Loop() {
			mu.Lock()
			mu.Unlock()
		}
	})
	b.Run("lock=sync.RWMutex", func(b *testing.B) {
		var mu sync.RWMutex
		for b.Loop() {
			mu.Lock()
			mu.Unlock()
		}
	})
	b.Run("lock=lock.RWMutex", func(b *testing.B) {
		var mu lock.RWMutex
		for b.Loop() {
			mu.Lock()
			mu.Unlock()
		}
	})
	b.Run("lock=sync.RWMutex.R", func(b *testing.B) {
		var mu sync.RWMutex
		for b.Loop() {
			mu.RLock()
			mu.RUnlock()
		}
	})
	b.Run("lock=lock.RWMutex.R", func(b *testing.B) {
		var mu lock.RWMutex
		for b.Loop() {
			mu.RLock()
			mu.RUnlock()
		}
	})
}

// BenchmarkParallelRead is readers alone, on all cores.
func BenchmarkParallelRead(b *testing.B) {
	b.Run("lock=sync.RWMutex", func(b *testing.B) {
		var mu sync.RWMutex
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				mu.RLock()
				mu.RUnlock()
			}
		})
	})
	b.Run("lock=lock.RWMutex", func(b *testing.B) {
		var mu lock.RWMutex
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				mu.RLock()
				mu.RUnlock()
			}
		})
	})
}

// work is about so many nanoseconds of arithmetic.
func work(ns int) {
	x := uint64(0)
	for range ns {
		x = x*6364136223846793005 + 1
	}
	runtime.KeepAlive(x)
}

// BenchmarkContended has 8 goroutines for each core on one lock. hold=0 does nothing but lock, the worst there is; the
// others hold it for so many nanoseconds, and do as much outside.
func BenchmarkContended(b *testing.B) {
	for _, c := range []struct {
		name string
		ns   int
	}{{"hold=0", 0}, {"hold=200ns", 200}, {"hold=2us", 2000}} {
		contend := func(mu sync.Locker) func(b *testing.B) {
			return func(b *testing.B) {
				b.SetParallelism(8)
				b.RunParallel(func(pb *testing.PB) {
					for pb.Next() {
						mu.Lock()
						work(c.ns)
						mu.Unlock()
						work(c.ns)
					}
				})
			}
		}
		b.Run(c.name+"/lock=sync.Mutex", contend(new(sync.Mutex)))
		b.Run(c.name+"/lock=lock.Mutex", contend(new(lock.Mutex)))
	}
}

// BenchmarkReadMostly has one write in 100.
func BenchmarkReadMostly(b *testing.B) {
	mostly := func(mu rwLocker) func(b *testing.B) {
		return func(b *testing.B) {
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				for i := 0; pb.Next(); i++ {
					if i%100 == 0 {
						mu.Lock()
						work(100)
						mu.Unlock()
						continue
					}
					mu.RLock()
					work(100)
					mu.RUnlock()
				}
			})
		}
	}
	b.Run("lock=sync.RWMutex", mostly(new(sync.RWMutex)))
	b.Run("lock=lock.RWMutex", mostly(new(lock.RWMutex)))
}
