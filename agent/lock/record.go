package lock

import (
	"math"
	"math/bits"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// HoldSample is how many holds that nobody waited for a sampled one stands for. A record costs one to some
	// microseconds for its stack, which 1 in 4096 brings to a nanosecond for each.
	HoldSample = 4096
	// MaxNames bounds the names of locks; further ones are reported as "other".
	MaxNames = 1000
	// MaxStacks bounds the distinct stacks, over all locks; the rest of a lock's is one
	// sample without its stack.
	MaxStacks = 10_000

	// leastWaited is how long, in ns, a hold is waited for before that alone has it recorded: that takes as
	// long. Shorter ones are as good as not waited for.
	leastWaited = 1000

	maxDepth   = 64  // frames of a stack, from the leaf
	maxName    = 200 // bytes of a name
	otherName  = "other"
	otherStack = "(other stacks)"
)

var epoch = time.Now()

// now is a monotonic time in nanoseconds, above 0 in a program's life.
func now() int64 { return int64(time.Since(epoch)) + 1 }

// gap is how many acquisitions it is to the next sample, 1 at least, HoldSample on average. It is
// geometric, as if each were drawn by itself: a fixed step would beat with programs that take turns.
func gap() uint32 {
	// P(gap > k) = exp(-k*rate) = (1 - 1/HoldSample)^k
	rate := -math.Log1p(-1.0 / HoldSample)
	return uint32(rand.ExpFloat64()/rate) + 1
}

// modeID tells a Mutex, and readers from writers.
type modeID uint8

const (
	plain modeID = iota // of a Mutex
	read
	write
	modes
)

func (m modeID) String() string { return [...]string{"", "read", "write"}[m] }

// registry is everything that is recorded. Nothing leaves it, so that its totals only grow. Nobody holds
// a lock of it while a lock of the program's is taken: it may be used from wherever locks may.
type registry struct {
	names     sync.Map // string -> *series
	nameCount atomic.Int64
	other     series // of names past MaxNames

	// buckets are lists of records by hash. Heads change by compare and swap and records never move,
	// so that to find one takes no lock.
	buckets    [4096]atomic.Pointer[record]
	stackCount atomic.Int64
}

// all is the program's.
var all = newRegistry()

func newRegistry() *registry {
	g := &registry{}
	g.other.reg, g.other.name = g, otherName
	return g
}

// series is all locks of a name.
type series struct {
	reg   *registry
	name  string
	modes [modes]atomic.Pointer[mode]
}

// mode is what is known of a series in one mode.
type mode struct {
	series     *series
	id         modeID
	seed       uint64 // spreads locks that are used by one stack
	waiting    atomic.Int64
	wait, hold histogram
	rest       record // of stacks past MaxStacks
}

// record is what is known of one stack. Its first fields never change.
type record struct {
	next  *record
	hash  uint64
	mode  *mode
	stack []uintptr // return addresses, leaf first

	contentions, wait, acquisitions, hold atomic.Int64 // columns of the profile; ns
}

// waitEnded adds a wait of so many nanoseconds.
func (r *record) waitEnded(ns int64) {
	ns = max(0, ns) // a lock that is used in and out of a synctest bubble sees two clocks
	r.contentions.Add(1)
	r.wait.Add(ns)
	r.mode.wait.add(ns, 1)
}

// holdEnded adds a hold of so many nanoseconds, weight times.
func (r *record) holdEnded(ns, weight int64) {
	ns = max(0, ns)
	r.acquisitions.Add(weight)
	r.hold.Add(ns * weight)
	r.mode.hold.add(ns, weight)
}

// histogram counts durations by the powers of two: counts[i] is of [2^(i-1), 2^i) ns, and the last of all
// from there on (18 minutes).
type histogram struct {
	sum    atomic.Int64
	counts [histogramLen]atomic.Int64
}

const histogramLen = 42

func (h *histogram) add(ns, weight int64) {
	h.sum.Add(ns * weight)
	h.counts[min(bits.Len64(uint64(ns)), histogramLen-1)].Add(weight)
}

// of is the series of a lock, found once in its life. stack names it if it has no name.
func (s *site) of(name string, stack []uintptr) *series {
	if ser := s.series.Load(); ser != nil {
		return ser
	}
	if name == "" {
		name = caller(stack)
	}
	s.series.CompareAndSwap(nil, all.series(name))
	return s.series.Load()
}

// caller is the function and line that use a lock, as a name.
func caller(stack []uintptr) string {
	frames := runtime.CallersFrames(stack)
	for {
		f, more := frames.Next()
		// sync.Cond takes the lock for whoever waits on it.
		if f.Function != "" && !(more && strings.HasPrefix(f.Function, "sync.")) {
			return f.Function + ":" + strconv.Itoa(f.Line)
		}
		if !more {
			return "unknown"
		}
	}
}

func (g *registry) series(name string) *series {
	if len(name) > maxName {
		name = name[:maxName]
	}
	name = strings.ToValidUTF8(name, "")
	if v, ok := g.names.Load(name); ok {
		return v.(*series)
	}
	if g.nameCount.Add(1) > MaxNames {
		g.nameCount.Add(-1)
		return &g.other
	}
	v, there := g.names.LoadOrStore(name, &series{reg: g, name: name})
	if there {
		g.nameCount.Add(-1)
	}
	return v.(*series)
}

func (s *series) mode(id modeID) *mode {
	if m := s.modes[id].Load(); m != nil {
		return m
	}
	m := &mode{series: s, id: id, seed: rand.Uint64()}
	m.rest.mode = m
	s.modes[id].CompareAndSwap(nil, m)
	return s.modes[id].Load()
}

// record finds or makes the record of a stack.
func (m *mode) record(stack []uintptr) *record {
	g := m.series.reg
	hash := hashStack(m.seed, stack)
	bucket := &g.buckets[hash%uint64(len(g.buckets))]
	var made *record
	for {
		head := bucket.Load()
		for r := head; r != nil; r = r.next {
			if r.hash == hash && r.mode == m && slices.Equal(r.stack, stack) {
				if made != nil {
					g.stackCount.Add(-1)
				}
				return r
			}
		}
		if made == nil {
			if g.stackCount.Add(1) > MaxStacks {
				g.stackCount.Add(-1)
				return &m.rest
			}
			made = &record{hash: hash, mode: m, stack: slices.Clone(stack)}
		}
		made.next = head
		if bucket.CompareAndSwap(head, made) {
			return made
		}
	}
}

// hashStack mixes as MurmurHash3's 64-bit finalizer does. Addresses are the program's own: nobody
// chooses them to collide.
func hashStack(seed uint64, stack []uintptr) uint64 {
	h := seed
	for _, pc := range stack {
		h = (h ^ uint64(pc)) * 0xff51afd7ed558ccd
		h ^= h >> 33
	}
	return h
}

// each calls f for every record that counts anything.
func (g *registry) each(f func(*record)) {
	some := func(r *record) {
		if r.contentions.Load() > 0 || r.acquisitions.Load() > 0 {
			f(r)
		}
	}
	for i := range g.buckets {
		for r := g.buckets[i].Load(); r != nil; r = r.next {
			some(r)
		}
	}
	g.eachMode(func(m *mode) { some(&m.rest) })
}

func (g *registry) eachMode(f func(*mode)) {
	all := func(s *series) {
		for i := range s.modes {
			if m := s.modes[i].Load(); m != nil {
				f(m)
			}
		}
	}
	all(&g.other)
	g.names.Range(func(_, v any) bool {
		all(v.(*series))
		return true
	})
}
