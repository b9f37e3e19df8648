package blocks

import (
	"container/list"
	"context"
	"errors"
	"sync"

	"github.com/oklog/ulid/v2"
)

// memory keeps what has been decoded, up to a bound: the least recently used goes. It is one
// bound for dictionaries, columns and roll-ups of all blocks, as which of them
// are hot depends on what is asked.
type memory struct {
	max int64

	mu           sync.Mutex
	bytes        int64
	hits, misses int64
	items        map[memoryKey]*memoryItem
	used         list.List // of *memoryItem, the last used first
}

// memoryKey is one decoded thing of a block.
type memoryKey struct {
	block ulid.ULID
	kind  byte
	a, b  int64
}

type memoryItem struct {
	key   memoryKey
	ready chan struct{} // closed when v is there, or err
	v     any
	bytes int64
	err   error
	at    *list.Element // nil while it is being made
}

func newMemory(max int64) *memory {
	return &memory{max: max, items: map[memoryKey]*memoryItem{}}
}

// get is what is kept under key, or what load makes and how many bytes that takes. Of those
// who ask for the same at once one makes it and the others wait.
func (m *memory) get(ctx context.Context, key memoryKey, load func(context.Context) (any, int64, error)) (any, error) {
	for {
		m.mu.Lock()
		it := m.items[key]
		if it == nil {
			it = &memoryItem{key: key, ready: make(chan struct{})}
			m.items[key] = it
			m.misses++
			m.mu.Unlock()
			return m.make(ctx, it, load)
		}
		if it.at != nil {
			m.used.MoveToFront(it.at)
		}
		m.hits++
		m.mu.Unlock()
		select {
		case <-it.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		if it.err == nil {
			return it.v, nil
		}
		// Whoever made it failed, perhaps only because they left: we try ourselves.
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if !isCancel(it.err) {
			return nil, it.err
		}
	}
}

func (m *memory) make(ctx context.Context, it *memoryItem, load func(context.Context) (any, int64, error)) (any, error) {
	it.err = context.Canceled // if load panics, nobody waits for ever
	defer close(it.ready)
	v, bytes, err := load(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	it.v, it.bytes, it.err = v, bytes, err
	if m.items[it.key] != it {
		return v, err // forgotten meanwhile
	}
	if err != nil || bytes > m.max/2 {
		delete(m.items, it.key)
		return v, err
	}
	it.at = m.used.PushFront(it)
	m.bytes += bytes
	for m.bytes > m.max {
		m.drop(m.used.Back().Value.(*memoryItem))
	}
	return v, err
}

// drop is under mu.
func (m *memory) drop(it *memoryItem) {
	m.used.Remove(it.at)
	delete(m.items, it.key)
	m.bytes -= it.bytes
}

// forget drops all of a block.
func (m *memory) forget(id ulid.ULID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, it := range m.items {
		if k.block != id {
			continue
		}
		if it.at != nil {
			m.drop(it)
		} else {
			delete(m.items, k)
		}
	}
}

func (m *memory) stats() (bytes, hits, misses int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bytes, m.hits, m.misses
}

// isCancel says that who made a thing left, so that it says nothing of the thing.
func isCancel(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}
