package demo

import (
	"container/list"

	"github.com/quantra-l/quantra/agent/lock"
)

// Cache keeps the prices that were used last.
type Cache struct {
	size  int
	scan  bool // evict as v2 does
	mu    lock.Mutex
	byKey map[string]*list.Element
	used  *list.List // of *entry, the last used first
	clock int64
}

type entry struct {
	key   string
	cents int64
	used  int64
}

// NewCache is a cache of size entries. With scan it has v2's regression.
func NewCache(size int, scan bool) *Cache {
	return &Cache{mu: lock.Mutex{Name: "prices"}, size: size, scan: scan, byKey: map[string]*list.Element{}, used: list.New()}
}

// Get is the price under key.
//
//go:noinline
func (c *Cache) Get(key string) (cents int64, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el, ok := c.byKey[key]
	if !ok {
		return 0, false
	}
	c.touch(el)
	return el.Value.(*entry).cents, true
}

// Put keeps a price, in place of the one that was not used for longest if there is no room.
//
//go:noinline
func (c *Cache) Put(key string, cents int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.byKey[key]; ok {
		el.Value.(*entry).cents = cents
		c.touch(el)
		return
	}
	if len(c.byKey) >= c.size {
		c.evict()
	}
	c.byKey[key] = c.used.PushFront(&entry{key: key, cents: cents})
	c.touch(c.used.Front())
}

func (c *Cache) touch(el *list.Element) {
	c.clock++
	el.Value.(*entry).used = c.clock
	c.used.MoveToFront(el)
}

// evict forgets the entry that was not used for longest. It is the last of the list;
// v2's planted regression looks through the whole map for it instead.
//
//go:noinline
func (c *Cache) evict() {
	oldest := c.used.Back()
	if c.scan {
		for _, el := range c.byKey {
			if el.Value.(*entry).used < oldest.Value.(*entry).used {
				oldest = el
			}
		}
	}
	delete(c.byKey, oldest.Value.(*entry).key)
	c.used.Remove(oldest)
}
