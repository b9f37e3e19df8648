package agent

import (
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const envOptimizer = "PROFILER_OPTIMIZER_ENABLED"

const (
	// leastGOGC is the least GOGC in effect. Below it a program does little but collect:
	// at 10 it marks its whole heap for each tenth of it that it allocates.
	leastGOGC = 10
	// grantGOGC is what a new memory limit must leave, so that a lease that is
	// taken is not ended by the next few megabytes.
	grantGOGC = 2 * leastGOGC
	// maxGOGC keeps a slip of the server's from being "off" by another name.
	maxGOGC = 10000
	// maxGCShare is the collector's bound: of the processor time that the program uses.
	maxGCShare = 0.25
	// minGCShare, of the time that GOMAXPROCS allows: below it a collector that
	// uses most of what little an idle program does harms nobody.
	minGCShare = 0.05
	// guardEvery is the time over which the collector's share is taken.
	guardEvery = 10 * time.Second
	// tickEvery is how often a lease in force is looked after.
	tickEvery = 5 * time.Second

	noLimit = math.MaxInt64 // as debug.SetMemoryLimit has it
)

// knobs are the runtime's settings, and the agent's sampling rate; the real ones but for
// tests. The set functions return what was set before.
type knobs struct {
	setGC        func(percent int) int
	setLimit     func(bytes int64) int64
	setProcs     func(n int) int
	defaultProcs func()     // runtime.SetDefaultGOMAXPROCS
	procs        func() int // GOMAXPROCS
	envProcs     func() int // what the environment's GOMAXPROCS set at start, 0 if nothing
	cores        func() int // how many the process may run on
	read         func() vitals
	setRate      func(hz int)
	rate         func() int // samples a second that are wanted, whatever the agent's budget makes of them
}

// vitals are the runtime's own account, read without an effect on it.
type vitals struct {
	gogc     int   // percent, -1 is off
	memlimit int64 // bytes, noLimit is none

	// Seconds of processor time since the start, as of the end of the last collection:
	gcCPU    float64 // of the collector, without what it did on idle processors
	busyCPU  float64 // of the program and the collector
	totalCPU float64 // GOMAXPROCS times the time

	heapLive uint64 // bytes that the last collection found alive; of all objects before the first
	roots    uint64 // bytes of stacks and globals that a collection scans
	other    uint64 // bytes that count for the memory limit and can hold no object
}

// runtimeKnobs are the process's own. The CPU profile's rate is the agent's, and is given.
func runtimeKnobs(setRate func(hz int), rate func() int) knobs {
	return knobs{
		setGC:        debug.SetGCPercent,
		setLimit:     debug.SetMemoryLimit,
		setProcs:     runtime.GOMAXPROCS,
		defaultProcs: runtime.SetDefaultGOMAXPROCS,
		procs:        func() int { return runtime.GOMAXPROCS(0) },
		envProcs: func() int {
			n, err := strconv.ParseInt(os.Getenv("GOMAXPROCS"), 10, 32) // as the runtime parses it
			if err != nil || n < 0 {
				return 0
			}
			return int(n)
		},
		cores:   runtime.NumCPU,
		read:    readVitals,
		setRate: setRate,
		rate:    rate,
	}
}

// readVitals reads all through runtime/metrics: debug.SetGCPercent would tell the old GOGC only
// by setting one.
func readVitals() vitals {
	s := []metrics.Sample{
		{Name: "/gc/gogc:percent"},
		{Name: "/gc/gomemlimit:bytes"},
		{Name: "/cpu/classes/gc/total:cpu-seconds"},
		{Name: "/cpu/classes/gc/mark/idle:cpu-seconds"},
		{Name: "/cpu/classes/idle:cpu-seconds"},
		{Name: "/cpu/classes/total:cpu-seconds"},
		{Name: "/gc/heap/live:bytes"},
		{Name: "/gc/scan/stack:bytes"},
		{Name: "/gc/scan/globals:bytes"},
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
	}
	metrics.Read(s)
	n := func(i int) uint64 {
		if s[i].Value.Kind() != metrics.KindUint64 {
			return 0 // a later runtime may lack it
		}
		return s[i].Value.Uint64()
	}
	sec := func(i int) float64 {
		if s[i].Value.Kind() != metrics.KindFloat64 {
			return 0
		}
		return s[i].Value.Float64()
	}
	idleMark := sec(3)
	v := vitals{
		gogc:     int(int32(n(0))), // the runtime's int32, sign-extended: off is 2^64-1
		memlimit: int64(n(1)),
		gcCPU:    sec(2) - idleMark,
		busyCPU:  sec(5) - sec(4) - idleMark,
		totalCPU: sec(5),
		heapLive: n(6),
		roots:    n(7) + n(8),
	}
	objects := n(12)
	if v.heapLive == 0 {
		v.heapLive = objects
	}
	// The runtime's own reckoning (memoryLimitHeapGoal in mgcpacer.go): what is mapped and
	// not given back, less free spans and objects.
	if holds := n(10) + n(11) + objects; n(9) > holds {
		v.other = n(9) - holds
	}
	return v
}

// effectiveGOGC is the GOGC that the pacer can keep with these two settings: how many
// percent the heap may grow from one collection's end to the next one's. The runtime
// takes the sooner of GOGC's goal and the limit's, and keeps 3 % of the latter,
// 1 MiB at least, in reserve (memoryLimitHeapGoal in mgcpacer.go). What is mapped
// above the limit is not counted: it is given back soon.
func (v vitals) effectiveGOGC(gogc int, limit int64) float64 {
	effective := math.Inf(1)
	if gogc >= 0 {
		effective = float64(gogc)
	}
	if limit == noLimit {
		return effective
	}
	room := float64(limit) - float64(v.other)
	room -= max(room*0.03, 1<<20)
	growth := room - float64(v.heapLive)
	if growth <= 0 {
		return 0
	}
	return min(effective, 100*growth/float64(max(1, v.heapLive+v.roots)))
}

// settings are what is in force, as a poll tells it.
type settings struct {
	GOGC  int   `json:"gogc"`       // percent, -1 is off
	Limit int64 `json:"gomemlimit"` // bytes, 2^63-1 is none
	Procs int   `json:"gomaxprocs"`
	Rate  int   `json:"cpu_rate"` // samples a second, 0 is none
}

// lease is a wish of the server's: settings, and how long they hold. nil is left alone. While one is in force, also one that sets
// nothing, each window is uploaded as it closes, so that what it does is seen soon.
type lease struct {
	ID    string
	TTL   time.Duration // from when it arrived
	GOGC  *int          // percent, -1 is off
	Limit *int64        // GOMEMLIMIT in bytes, noLimit is none
	Procs *int          // GOMAXPROCS
	Rate  *int          // CPU samples a second, 0 pauses
}

// The settings, in the order in which they are restored: a heap without GOGC must
// not be without its limit for a moment.
const (
	slotGOGC = iota
	slotLimit
	slotProcs
	slotRate
	slots
)

var slotNames = [slots]string{"GOGC", "GOMEMLIMIT", "GOMAXPROCS", "cpu_rate"}

// wants is what w sets, by slot.
func (w *lease) wants() (v [slots]int64, set [slots]bool) {
	put := func(i int, p *int) {
		if p != nil {
			v[i], set[i] = int64(*p), true
		}
	}
	put(slotGOGC, w.GOGC)
	put(slotProcs, w.Procs)
	put(slotRate, w.Rate)
	if w.Limit != nil {
		v[slotLimit], set[slotLimit] = *w.Limit, true
	}
	return v, set
}

// slot is one setting.
type slot struct {
	held    bool
	found   int64 // before the first lease that set it
	set     int64 // by the lease in force
	auto    bool  // GOMAXPROCS was the runtime's own, which follows the machine
	foreign bool  // the program has set it during a lease: ours no more
}

// holder is the one leaser that has changed settings: they are the process's, and of two
// agents that each restore what they found, one would find the other's.
var holder atomic.Pointer[leaser]

// leaser follows leases, and restores what it found when they end: when the
// server says so, when their time is over, when a guard sees harm, when the
// program sets one of the settings itself, and when the agent stops. A lease is in
// force as a whole or not at all: half of a change is not the change that was judged.
//
// It reads the monotonic clock only, so setting the wall clock neither ends nor
// prolongs a lease. One caller drives it (follow, tick, next); forbid, state, settings
// and restore may come from anywhere.
type leaser struct {
	k   knobs
	log *slog.Logger

	mu        sync.Mutex
	slots     [slots]slot
	id        string    // of the lease in force; "" is none
	expires   time.Time // its end
	refusedID string    // a lease that was refused or ended early, and is not tried again
	refused   string    // and why
	since     time.Time // of the last change of either
	forbidden string    // why no lease is taken, if none is
	base      vitals    // at baseAt, for the collector's share since
	baseAt    time.Time
}

func newLeaser(k knobs, log *slog.Logger) *leaser {
	return &leaser{k: k, log: log, since: time.Now()}
}

// optimizerSwitch reads PROFILER_OPTIMIZER_ENABLED. What is not clearly yes or no is an
// error: who set it wanted something.
func optimizerSwitch(getenv func(string) string) (enabled bool, err error) {
	switch v := getenv(envOptimizer); strings.ToLower(v) {
	case "", "1", "t", "true", "on", "yes":
		return true, nil
	case "0", "f", "false", "off", "no":
		return false, nil
	default:
		return false, fmt.Errorf("agent: %s=%q: set it to true or false", envOptimizer, v)
	}
}

// forbid ends the lease in force and refuses all others from now on.
func (l *leaser) forbid(why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forbidden = why
	l.end()
}

// restore ends the lease in force, for good: the agent stops.
func (l *leaser) restore() { l.forbid("the agent has stopped") }

// state is the lease in force ("" is none), why the last one was refused or ended before its
// time ("" where it was not), and since when both are so.
func (l *leaser) state() (id, refused string, since time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.id, l.refused, l.since
}

// settings are those in force now, whoever set them.
func (l *leaser) settings() settings {
	v := l.k.read()
	return settings{GOGC: v.gogc, Limit: v.memlimit, Procs: l.k.procs(), Rate: l.k.rate()}
}

// follow makes want the lease in force; nil is none. The same ID again prolongs it
// to want.TTL from now.
func (l *leaser) follow(want *lease) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	l.check(now)
	switch {
	case want == nil:
		if l.id != "" {
			l.log.Info("lease ended", "lease", l.id)
		}
		l.end()
	case want.ID == l.refusedID:
		// Its guards have spoken.
	case want.ID == l.id && l.same(want):
		l.expires = now.Add(want.TTL)
	default:
		l.take(want, now)
	}
}

// tick looks after the lease in force. It is to be called when [leaser.next] says.
func (l *leaser) tick() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.check(time.Now())
}

// next is the time until tick must be called at the latest.
func (l *leaser) next() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.id == "" {
		return time.Hour
	}
	return max(0, min(tickEvery, time.Until(l.expires)))
}

// same tells whether want sets what is set already.
func (l *leaser) same(want *lease) bool {
	v, set := want.wants()
	for i, s := range l.slots {
		if s.held != set[i] || s.held && s.set != v[i] {
			return false
		}
	}
	return true
}

// take puts want in force, in place of the lease before, or refuses it; then none is in
// force. l.mu is held, as in all below.
func (l *leaser) take(want *lease, now time.Time) {
	if why := l.refusal(want); why != "" {
		l.refuse(want.ID, why)
		return
	}
	v, set := want.wants()
	// The limit comes before GOGC, which may be off with it; see slotGOGC for the other way.
	for _, i := range []int{slotLimit, slotGOGC, slotProcs, slotRate} {
		s := &l.slots[i]
		if !set[i] || s.held && s.set == v[i] {
			continue
		}
		if i == slotProcs && !s.held {
			s.auto = l.autoProcs()
		}
		// What the setting itself returns is exact, even if the program changed it just now.
		was := l.put(i, v[i])
		if !s.held {
			s.found = was
		}
		s.held, s.set = true, v[i]
	}
	for i := range l.slots {
		if l.slots[i].held && !set[i] {
			l.release(i)
		}
	}
	if set == ([slots]bool{}) {
		holder.CompareAndSwap(l, nil) // nothing is held any more
	}
	l.id, l.expires = want.ID, now.Add(want.TTL)
	l.refusedID, l.refused, l.since = "", "", now
	l.base, l.baseAt = l.k.read(), now
	l.log.Info("lease taken", "lease", want.ID, "for", want.TTL)
}

// refusal is why want is not taken, "" if it is.
func (l *leaser) refusal(want *lease) string {
	if l.forbidden != "" {
		return l.forbidden
	}
	v, set := want.wants()
	for i, s := range l.slots {
		if set[i] && s.foreign {
			return "the program sets " + slotNames[i] + " itself"
		}
	}
	if n := v[slotProcs]; set[slotProcs] && (n < 1 || n > int64(l.k.cores())) {
		return fmt.Sprintf("GOMAXPROCS %d is not within 1 and the %d cores", n, l.k.cores())
	}
	if hz := v[slotRate]; set[slotRate] && hz != 0 && hz != 50 && hz != 100 && hz != 200 {
		return fmt.Sprintf("cpu_rate %d is none of 0, 50, 100 and 200", hz)
	}
	if set[slotGOGC] || set[slotLimit] {
		if why := l.memoryRefusal(v, set); why != "" {
			return why
		}
	}
	if set != ([slots]bool{}) && !holder.CompareAndSwap(nil, l) && holder.Load() != l {
		return "another agent in this process holds a lease"
	}
	return ""
}

// memoryRefusal judges the pair of GOGC and the limit that a lease would leave in force.
func (l *leaser) memoryRefusal(v [slots]int64, set [slots]bool) string {
	now := l.k.read()
	pair := [2]int64{slotGOGC: int64(now.gogc), slotLimit: now.memlimit}
	for i := range pair {
		switch s := l.slots[i]; {
		case set[i]:
			pair[i] = v[i]
		case s.held:
			pair[i] = s.found
		}
	}
	gogc, limit := pair[slotGOGC], pair[slotLimit]
	switch {
	case set[slotGOGC] && gogc != -1 && (gogc < leastGOGC || gogc > maxGOGC):
		return fmt.Sprintf("GOGC %d is not within %d and %d, nor -1", gogc, leastGOGC, maxGOGC)
	case set[slotLimit] && limit <= 0:
		return fmt.Sprintf("GOMEMLIMIT %d is no number of bytes", limit)
	case gogc == -1 && limit == noLimit:
		return "GOGC off without a GOMEMLIMIT would let the heap grow without end"
	}
	least := float64(leastGOGC)
	if set[slotLimit] {
		least = grantGOGC
	}
	// GOGC itself was judged above, where the lease sets it, and is the program's where not.
	if e := now.effectiveGOGC(-1, limit); e < least {
		return fmt.Sprintf("GOMEMLIMIT %d is too near the %d bytes that are live and the %d beside the heap: GOGC in effect would be %.0f, below %.0f",
			limit, now.heapLive, now.other, e, least)
	}
	return ""
}

// check ends the lease in force when its time is over, when the program has set one of
// its settings, and when a guard sees harm.
func (l *leaser) check(now time.Time) {
	if l.id == "" {
		return
	}
	if why := l.foreign(); why != "" {
		l.refuse(l.id, why)
		return
	}
	if !now.Before(l.expires) {
		l.log.Info("lease is over, and was not prolonged", "lease", l.id)
		l.end()
		return
	}
	v := l.k.read()
	if l.tightens(slotLimit) {
		if e := v.effectiveGOGC(-1, l.slots[slotLimit].set); e < leastGOGC {
			l.refuse(l.id, fmt.Sprintf("GOMEMLIMIT %d came too near the %d bytes that are live and the %d beside the heap: GOGC in effect was %.0f, below %d",
				l.slots[slotLimit].set, v.heapLive, v.other, e, leastGOGC))
			return
		}
	}
	// The runtime counts as of the end of its last collection, so these are whole cycles.
	if now.Sub(l.baseAt) < guardEvery {
		return
	}
	gc, busy, total := v.gcCPU-l.base.gcCPU, v.busyCPU-l.base.busyCPU, v.totalCPU-l.base.totalCPU
	l.base, l.baseAt = v, now
	// A lease that loosens is not the cause, and to end it would add to the harm.
	if !l.tightens(slotGOGC) && !l.tightens(slotLimit) && !l.tightens(slotProcs) {
		return
	}
	if gc > maxGCShare*busy && gc > minGCShare*total {
		l.refuse(l.id, fmt.Sprintf("the garbage collector took %.0f %% of the processor time used, above %.0f %%", 100*gc/busy, 100*maxGCShare))
	}
}

// tightens tells whether the lease sets less than was found.
func (l *leaser) tightens(i int) bool {
	s := l.slots[i]
	if !s.held {
		return false
	}
	if i == slotGOGC && s.set < 0 {
		return false // off is the most
	}
	return s.set < s.found || i == slotGOGC && s.found < 0
}

// foreign marks what the program has set during the lease, and says so. A value that is
// the very one of the lease cannot be told from it.
func (l *leaser) foreign() string {
	var names []string
	for i := range l.slots {
		s := &l.slots[i]
		if !s.held || i == slotRate { // the rate is the agent's alone
			continue
		}
		if is := l.get(i); is != s.set {
			s.foreign = true
			names = append(names, fmt.Sprintf("%s to %d", slotNames[i], is))
		}
	}
	if names == nil {
		return ""
	}
	return "the program itself set " + strings.Join(names, " and ") + "; it is left alone from now on"
}

// refuse ends the lease in force, if there is one, and id is not taken again.
func (l *leaser) refuse(id, why string) {
	l.end()
	l.refusedID, l.refused, l.since = id, why, time.Now()
	l.log.Warn("lease refused", "lease", id, "why", why)
}

// end restores all that is held.
func (l *leaser) end() {
	for i := range l.slots {
		l.release(i)
	}
	if l.id != "" {
		l.id, l.since = "", time.Now()
	}
	holder.CompareAndSwap(l, nil)
}

// release restores one setting, unless the program has set it meanwhile: then its
// own value stays.
func (l *leaser) release(i int) {
	s := &l.slots[i]
	if !s.held {
		return
	}
	s.held = false
	if i == slotRate {
		l.put(i, s.found)
		return
	}
	if s.foreign || l.get(i) != s.set {
		s.foreign = true
		return
	}
	if i == slotProcs && s.auto {
		l.k.defaultProcs()
		return
	}
	if was := l.put(i, s.found); was != s.set {
		// The program was quicker than our look.
		l.put(i, was)
		s.foreign = true
	}
}

// autoProcs tells whether GOMAXPROCS is the runtime's default, which follows the cores and
// the container's quota while the program runs, until somebody sets a number. The runtime
// does not tell, so it is asked for its default: if that is what is there, restoring the
// default restores the number and the following. If it is not, the number was set, and is set again.
//
// Two cases are not told apart. A number that the program set with
// runtime.GOMAXPROCS and that equals the default is taken for it, and follows from then on;
// by the environment it is known. And a quota that has changed within the last
// second, before the runtime has seen it, makes its default look like a number.
func (l *leaser) autoProcs() bool {
	found := l.k.procs()
	if l.k.envProcs() == found {
		return false
	}
	l.k.defaultProcs()
	if l.k.procs() == found {
		return true
	}
	l.k.setProcs(found)
	return false
}

func (l *leaser) get(i int) int64 {
	switch i {
	case slotGOGC:
		return int64(l.k.read().gogc)
	case slotLimit:
		return l.k.read().memlimit
	case slotProcs:
		return int64(l.k.procs())
	default:
		return int64(l.k.rate())
	}
}

// put sets one setting, and is what it was before.
func (l *leaser) put(i int, v int64) (was int64) {
	switch i {
	case slotGOGC:
		return int64(l.k.setGC(int(v)))
	case slotLimit:
		return l.k.setLimit(v)
	case slotProcs:
		return int64(l.k.setProcs(int(v)))
	default:
		was = int64(l.k.rate())
		l.k.setRate(int(v))
		return was
	}
}
