package zerotrust

import (
	"bytes"
	"hash/maphash"
	"math/bits"
	"sync/atomic"
)

// DefaultCache is how many verified documents are remembered where nothing else is said: about 20 MB.
const DefaultCache = 16_384

// ways is how many places a document may have.
const ways = 8

// cached is a passport in the cache, with what was found out about it.
type cached struct {
	passport
	class   int
	checked atomic.Pointer[authority] // that bears it
	record  atomic.Pointer[record]
	used    atomic.Bool // since somebody last looked for a place
}

// cache remembers verified documents by their content: a place is found by a hash that strangers cannot foresee, and all of the bytes are
// compared. Reading takes no lock, and its size is fixed.
type cache struct {
	seed  maphash.Seed
	slots []atomic.Pointer[cached]
}

func newCache(most int) *cache {
	sets := 1 << bits.Len(uint(max(1, (most+ways-1)/ways)-1))
	return &cache{maphash.MakeSeed(), make([]atomic.Pointer[cached], sets*ways)}
}

func (c *cache) set(doc []byte) []atomic.Pointer[cached] {
	at := int(maphash.Bytes(c.seed, doc)&uint64(len(c.slots)/ways-1)) * ways
	return c.slots[at : at+ways]
}

func (c *cache) get(doc []byte) *cached {
	set := c.set(doc)
	for i := range set {
		if p := set[i].Load(); p != nil && bytes.Equal(p.doc, doc) {
			if !p.used.Load() {
				p.used.Store(true)
			}
			return p
		}
	}
	return nil
}

// put remembers p, in place of one of no higher class that was not used lately; where there is none it is not remembered.
func (c *cache) put(p *cached) {
	set := c.set(p.doc)
	victim := -1
	for i := range set {
		old := set[i].Load()
		if old == nil {
			if set[i].CompareAndSwap(nil, p) {
				return
			}
			continue
		}
		if old.class > p.class {
			continue
		}
		if victim < 0 || old.class < set[victim].Load().class || !old.used.Load() {
			victim = i
		}
		old.used.Store(false)
	}
	if victim >= 0 {
		set[victim].Store(p)
	}
}
