package seal

import (
	"container/list"
	"sync"

	voi "github.com/oasisprotocol/curve25519-voi/primitives/ed25519"
)

// Batch verifies many signatures at once, 64 of them in half to two thirds of the time that they take one by one: one equation, weighted by random numbers that no
// signer knows (RFC 8032 section 8.2 with 128 bits), holds for all of them. It is of the same rule as [PublicKey.Verify] and says the
// same of every signature, which is why that rule is the cofactored one. The zero value is empty and ready. It is for one goroutine.
type Batch struct {
	// Cache, if there is one, has keys that were verified by before. Set it before the first Add.
	Cache *KeyCache

	v    voi.BatchVerifier
	keys []PublicKey
}

// Add adds a signature. The message is not kept. A domain that is none makes it a bad one.
func (b *Batch) Add(domain string, k PublicKey, message []byte, s Signature) {
	if checkDomain(domain) != nil {
		k, message = PublicKey{}, nil // of small order, which the rule refuses
		domain = "no domain"
	}
	b.add(k, message, s, &voi.Options{Context: domain, Verify: rule})
}

func (b *Batch) add(k PublicKey, message []byte, s Signature, o *voi.Options) {
	b.keys = append(b.keys, k)
	if b.Cache != nil {
		if form := b.Cache.get(k); form != nil {
			b.v.AddExpandedWithOptions(form, message, s[:], o)
			return
		}
	}
	b.v.AddWithOptions(k[:], message, s[:], o)
}

// Len is how many signatures there are.
func (b *Batch) Len() int { return len(b.keys) }

// Verify says which signatures do not verify: their places by order of Add, rising. None are bad in an empty batch, which says nothing.
// The batch is empty afterwards.
//
// Where the one equation does not hold, each signature is verified by itself with what was computed for the batch. That costs less than
// halving the batch until the bad one is found, and no number of bad ones makes it cost more: see BenchmarkBatchBad and bench/RESULTS.md.
func (b *Batch) Verify() (bad []int) {
	if len(b.keys) == 0 {
		return nil
	}
	_, each := b.v.Verify(nil)
	for i, good := range each {
		switch {
		case !good:
			bad = append(bad, i)
		case b.Cache != nil:
			b.Cache.verified(b.keys[i])
		}
	}
	b.v.Reset()
	b.keys = b.keys[:0]
	return bad
}

// KeyCache keeps public keys in the form that verifies fastest, 1.5 KiB each. What strangers do with it is bounded: a key gets in by its
// second good signature and not before, the least recently used goes, and keys that are held ([KeyCache.Hold]: those of identities that
// were let in) have room of their own, which no stranger's can take. It is safe for concurrent use.
type KeyCache struct {
	capacity int

	mu    sync.Mutex
	held  map[PublicKey]*voi.ExpandedPublicKey
	used  map[PublicKey]*list.Element // of *expanded
	order list.List                   // front is the latest used
	once  map[PublicKey]bool          // have one good signature
	ring  []PublicKey                 // once, in the order they came
	next  int                         // in ring
}

type expanded struct {
	key  PublicKey
	form *voi.ExpandedPublicKey
}

// defaultKeys is how many keys a cache holds, and as many again are used and seen once: 6 MiB.
const defaultKeys = 2048

// NewKeyCache makes a cache that has room for this many held keys and as many others. 0 is 2048.
func NewKeyCache(capacity int) *KeyCache {
	if capacity <= 0 {
		capacity = defaultKeys
	}
	return &KeyCache{
		capacity: capacity,
		held:     map[PublicKey]*voi.ExpandedPublicKey{},
		used:     map[PublicKey]*list.Element{},
		once:     map[PublicKey]bool{},
	}
}

// Hold keeps a key until [KeyCache.Release]. It says whether there was room and the key is one; the key is as good without.
func (c *KeyCache) Hold(k PublicKey) bool {
	form, err := voi.NewExpandedPublicKey(k[:])
	if err != nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[k] == nil && len(c.held) >= c.capacity {
		return false
	}
	c.held[k] = form
	if e := c.used[k]; e != nil {
		c.order.Remove(e)
		delete(c.used, k)
	}
	return true
}

// Release lets go of a key that was held.
func (c *KeyCache) Release(k PublicKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.held, k)
}

// get is the form of a key; nil is none.
func (c *KeyCache) get(k PublicKey) *voi.ExpandedPublicKey {
	c.mu.Lock()
	defer c.mu.Unlock()
	if form := c.held[k]; form != nil {
		return form
	}
	e := c.used[k]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*expanded).form
}

// verified notes a good signature by a key.
func (c *KeyCache) verified(k PublicKey) {
	if !c.due(k) {
		return
	}
	form, err := voi.NewExpandedPublicKey(k[:])
	if err != nil {
		return // no key that verified has this
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[k] != nil || c.used[k] != nil {
		return
	}
	c.used[k] = c.order.PushFront(&expanded{k, form})
	if c.order.Len() > c.capacity {
		last := c.order.Remove(c.order.Back()).(*expanded)
		delete(c.used, last.key)
	}
}

// due says that a key is to be expanded: this is its second good signature.
func (c *KeyCache) due(k PublicKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held[k] != nil || c.used[k] != nil {
		return false
	}
	if c.once[k] {
		delete(c.once, k)
		return true
	}
	c.once[k] = true
	if len(c.ring) < c.capacity {
		c.ring = append(c.ring, k)
		return false
	}
	delete(c.once, c.ring[c.next]) // may be gone already
	c.ring[c.next] = k
	c.next = (c.next + 1) % c.capacity
	return false
}
