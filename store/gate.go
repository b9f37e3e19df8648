package store

import (
	"context"
	"fmt"
	"slices"
	"sync"
)

// gate lets so many questions in at a time. Those that wait are served tenant by tenant in turn, so that
// one tenant's hundred questions do not keep another's one waiting.
type gate struct {
	slots, room int

	mu     sync.Mutex
	inside int
	turn   []string // tenants that wait, the next first
	queues map[string][]*waiter
	queued int
}

type waiter struct {
	in   chan struct{} // closed when its turn has come
	came bool
}

// enter waits for a slot; leave gives it back. ErrOverloaded if too many wait.
func (g *gate) enter(ctx context.Context, tenant string) (leave func(), err error) {
	g.mu.Lock()
	if g.inside < g.slots {
		g.inside++
		g.mu.Unlock()
		return g.leave, nil
	}
	if g.queued >= g.room {
		g.mu.Unlock()
		return nil, fmt.Errorf("store: query: %w: %d questions are being answered and %d wait", ErrOverloaded, g.slots, g.room)
	}
	w := &waiter{in: make(chan struct{})}
	if g.queues == nil {
		g.queues = map[string][]*waiter{}
	}
	if len(g.queues[tenant]) == 0 {
		g.turn = append(g.turn, tenant)
	}
	g.queues[tenant] = append(g.queues[tenant], w)
	g.queued++
	g.mu.Unlock()
	select {
	case <-w.in:
		return g.leave, nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	if w.came { // just now
		g.mu.Unlock()
		g.leave()
		return nil, ctx.Err()
	}
	g.remove(tenant, slices.Index(g.queues[tenant], w))
	g.mu.Unlock()
	return nil, ctx.Err()
}

// remove takes the i-th waiter of a tenant out. Under mu.
func (g *gate) remove(tenant string, i int) *waiter {
	w := g.queues[tenant][i]
	g.queues[tenant] = slices.Delete(g.queues[tenant], i, i+1)
	g.queued--
	if len(g.queues[tenant]) == 0 {
		delete(g.queues, tenant)
		g.turn = slices.DeleteFunc(g.turn, func(t string) bool { return t == tenant })
	}
	return w
}

// leave lets the next in.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.turn) == 0 {
		g.inside--
		return
	}
	tenant := g.turn[0]
	w := g.remove(tenant, 0)
	if len(g.queues[tenant]) > 0 { // to the end of the row
		g.turn = append(g.turn[1:], tenant)
	}
	w.came = true
	close(w.in)
}

// waiting is how many wait.
func (g *gate) waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.queued
}
