package blocks

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

func TestMemory(t *testing.T) {
	ctx := context.Background()
	m := newMemory(100)
	made := map[int64]int{}
	get := func(n, bytes int64) {
		t.Helper()
		v, err := m.get(ctx, memoryKey{block: idOf(int(n)), a: n}, func(context.Context) (any, int64, error) {
			made[n]++
			return n, bytes, nil
		})
		if err != nil || v != n {
			t.Fatalf("%v, %v", v, err)
		}
	}
	for range 3 {
		get(1, 40)
		get(2, 40)
	}
	get(3, 40) // 1 was used before 2
	get(2, 40)
	get(1, 40)
	get(9, 60) // more than half: not kept
	get(9, 60)
	if fmt.Sprint(made) != "map[1:2 2:1 3:1 9:2]" {
		t.Errorf("made %v", made)
	}
	if bytes, hits, misses := m.stats(); bytes != 80 || hits != 5 || misses != 6 {
		t.Errorf("%d bytes, %d hits, %d misses", bytes, hits, misses)
	}
	m.forget(idOf(1))
	if bytes, _, _ := m.stats(); bytes != 40 {
		t.Errorf("%d bytes", bytes)
	}
	broken := errors.New("broken")
	fail := func(context.Context) (any, int64, error) { return nil, 0, broken }
	if _, err := m.get(ctx, memoryKey{a: 77}, fail); !errors.Is(err, broken) {
		t.Error(err)
	}
	get(77, 1) // a failure is not kept
}

// TestMemoryTogether: many ask for one thing and it is made once; who leaves while making it
// leaves the work to another, and a wait ends with its own context.
func TestMemoryTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory(1000)
		var makes atomic.Int64
		leaving, leave := context.WithCancel(context.Background())
		load := func(ctx context.Context) (any, int64, error) {
			makes.Add(1)
			select {
			case <-ctx.Done():
				return nil, 0, ctx.Err()
			case <-make(chan int):
				return nil, 0, nil
			}
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := m.get(leaving, memoryKey{}, load); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		synctest.Wait()
		short, end := context.WithCancel(context.Background())
		wg.Go(func() {
			if _, err := m.get(short, memoryKey{}, load); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		for range 20 {
			wg.Go(func() {
				v, err := m.get(context.Background(), memoryKey{}, func(context.Context) (any, int64, error) {
					makes.Add(1)
					return "done", 10, nil
				})
				if v != "done" || err != nil {
					t.Error(v, err)
				}
			})
		}
		synctest.Wait()
		end()
		synctest.Wait()
		leave()
		wg.Wait()
		if n := makes.Load(); n != 2 {
			t.Errorf("made %d times", n)
		}
	})
}
