package lock

//lint:file-ignore SA2001 locking is what is tested

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"go.uber.org/goleak"
)

const envMisuse = "LOCK_TEST_MISUSE"

func TestMain(m *testing.M) {
	if name := os.Getenv(envMisuse); name != "" {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin) // ends with the parent, whatever becomes of it
			os.Exit(0)
		}()
		misuses[name]()
		os.Exit(0) // unharmed: TestMisuse fails
	}
	goleak.VerifyTestMain(m)
}

// The tests of what sync promises follow sync's own.

var misuses = map[string]func(){
	"Mutex.Unlock":  func() { var m Mutex; m.Unlock() },
	"Mutex.Unlock2": func() { var m Mutex; m.Lock(); m.Unlock(); m.Unlock() },
	"Mutex.Unlock3": func() { // with somebody there
		m := Mutex{}
		m.Lock()
		done := make(chan bool)
		go func() { m.Lock(); m.Unlock(); close(done) }()
		for m.since.Load() == 0 {
			runtime.Gosched()
		}
		m.Unlock()
		<-done
		m.Unlock()
	},
	"RWMutex.Unlock":   func() { var m RWMutex; m.Unlock() },
	"RWMutex.Unlock2":  func() { var m RWMutex; m.RLock(); m.Unlock() },
	"RWMutex.Unlock3":  func() { var m RWMutex; m.Lock(); m.Unlock(); m.Unlock() },
	"RWMutex.RUnlock":  func() { var m RWMutex; m.RUnlock() },
	"RWMutex.RUnlock2": func() { var m RWMutex; m.Lock(); m.RUnlock() },
	"RWMutex.RUnlock3": func() { var m RWMutex; m.RLock(); m.RUnlock(); m.RUnlock() },
	"RLocker.Unlock":   func() { var m RWMutex; m.RLocker().Unlock() },
}

func TestMisuse(t *testing.T) {
	for name := range misuses {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), envMisuse+"="+name)
		if _, err := cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(strings.ToLower(string(out)), "fatal error: sync: ") || !strings.Contains(string(out), "unlocked") {
			t.Errorf("%s: %v, want sync's fatal error:\n%s", name, err, out)
		}
	}
}

func TestMutexExcludes(t *testing.T) {
	m := Mutex{Name: unique(t)}
	m.Lock()
	if m.TryLock() {
		t.Fatal("TryLock succeeded on a locked mutex")
	}
	m.Unlock()
	if !m.TryLock() {
		t.Fatal("TryLock failed on a free mutex")
	}
	m.Unlock()
	count, tried := 0, atomic.Int64{} // count is the lock's, and the race detector's
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			for i := range 2000 {
				if i%3 == 0 {
					if !m.TryLock() {
						continue
					}
					tried.Add(1)
				} else {
					m.Lock()
				}
				count++
				m.Unlock()
			}
		})
	}
	wg.Wait()
	locked := 10 * (2000 - 667) // i%3 != 0
	if want := locked + int(tried.Load()); count != want {
		t.Errorf("%d acquisitions, %d were counted", want, count)
	}
	m.Lock()
	m.Unlock()
	if s := m.since.Load(); s != 0 || m.start != 0 || m.record != nil || m.sampled {
		t.Errorf("a free mutex has somebody who came at %d and a hold %+v", s, m.exclusive)
	}
}

func TestRWMutexExcludes(t *testing.T) {
	m := RWMutex{Name: unique(t)}
	var activity atomic.Int32 // a writer is 10000
	var wg sync.WaitGroup
	reader := func() {
		if n := activity.Add(1); n < 1 || n >= 10000 {
			t.Errorf("a reader is in with %d", n)
		}
		for range 100 {
		}
		activity.Add(-1)
	}
	writer := func() {
		if n := activity.Add(10000); n != 10000 {
			t.Errorf("a writer is in with %d", n)
		}
		for range 100 {
		}
		activity.Add(-10000)
	}
	hammer := func(n int, lock func() bool, in, unlock func()) {
		wg.Go(func() {
			for i := range n {
				if i%50 == 0 {
					runtime.Gosched()
				}
				if lock() {
					in()
					unlock()
				}
			}
		})
	}
	must := func(f func()) func() bool { return func() bool { f(); return true } }
	for range 2 {
		hammer(2000, must(m.Lock), writer, m.Unlock)
		hammer(2000, m.TryLock, writer, m.Unlock)
		hammer(2000, must(m.RLock), reader, m.RUnlock)
		hammer(2000, m.TryRLock, reader, m.RUnlock)
		r := m.RLocker()
		hammer(2000, must(r.Lock), reader, r.Unlock)
	}
	wg.Wait()
	if w := m.waiting.Load(); w != 0 {
		t.Errorf("%d wait, want none", w)
	}
	// What a hammering leaves behind, one turn of either kind clears: no lock stays on its slow path.
	m.RLock()
	m.RUnlock()
	m.Lock()
	m.Unlock()
	m.RLock()
	m.RUnlock()
	if s := m.since.Load(); s != 0 || m.start != 0 || m.record != nil {
		t.Errorf("a free mutex has somebody who came at %d and a hold %+v", s, m.exclusive)
	}
}

func TestRWMutexTry(t *testing.T) {
	m := RWMutex{Name: unique(t)}
	is := func(what string, got, want bool) {
		t.Helper()
		if got != want {
			t.Errorf("%s is %v, want %v", what, got, want)
		}
	}
	is("TryLock of a free one", m.TryLock(), true)
	is("TryLock of a written one", m.TryLock(), false)
	is("TryRLock of a written one", m.TryRLock(), false)
	m.Unlock()
	is("TryRLock of a free one", m.TryRLock(), true)
	is("TryRLock of a read one", m.TryRLock(), true)
	is("TryLock of a read one", m.TryLock(), false)
	m.RUnlock()
	m.RUnlock()
	is("TryLock of a free one again", m.TryLock(), true)
	m.Unlock()
}

// A writer that waits keeps new readers out, as sync has it.
func TestRWMutexPending(t *testing.T) {
	m := RWMutex{Name: unique(t)}
	m.RLock()
	wrote := make(chan bool)
	go func() { m.Lock(); m.Unlock(); close(wrote) }()
	for m.TryRLock() { // until it is announced
		m.RUnlock()
		runtime.Gosched()
	}
	m.RUnlock()
	<-wrote
}

func TestVetSeesCopies(t *testing.T) {
	out, err := exec.Command("go", "vet", "./testdata/copies").CombinedOutput()
	for _, want := range []string{"mutex passes lock by value", "rwMutex passes lock by value"} {
		if err == nil || !bytes.Contains(out, []byte(want)) {
			t.Errorf("go vet: %v, want %q in:\n%s", err, want, out)
		}
	}
}

func TestZero(t *testing.T) {
	var v struct {
		Mutex
		N  int
		rw RWMutex
	}
	v.Lock()
	v.rw.RLock()
	v.N++
	v.rw.RUnlock()
	v.Unlock()
	if b, err := json.Marshal(&v); err != nil || string(b) != `{"N":1}` {
		t.Errorf("with an embedded Mutex it is %s, %v", b, err)
	}
	c := sync.NewCond(new(Mutex))
	c.L.Lock()
	done := make(chan bool)
	go func() {
		c.L.Lock()
		c.L.Unlock()
		c.Signal()
		close(done)
	}()
	c.Wait()
	c.L.Unlock()
	<-done
}

var runs atomic.Int64

// unique is a name that no lock had: totals are the program's, and a test may run again.
func unique(t *testing.T) string { return fmt.Sprintf("%s#%d", t.Name(), runs.Add(1)) }

// stat is what Stats says of a lock, nil if nothing.
func stat(t *testing.T, name, mode string) *Stat {
	t.Helper()
	for _, s := range Stats() {
		if s.Name == name && s.Mode == mode {
			return &s
		}
	}
	return nil
}

// until waits until n goroutines wait for a lock.
func until(t *testing.T, n int64, name, mode string) {
	t.Helper()
	for s := stat(t, name, mode); s == nil || s.Waiting != n; s = stat(t, name, mode) {
		runtime.Gosched()
	}
}

// between fails unless low <= d <= high.
func between(t *testing.T, what string, low, d, high time.Duration) {
	t.Helper()
	if d < low || d > high {
		t.Errorf("%s is %v, want %v to %v", what, d, low, high)
	}
}

// pass lets time pass, well over a microsecond.
func pass() time.Duration {
	start := time.Now()
	for time.Since(start) < 10*leastWaited {
		runtime.GC()
	}
	return time.Since(start)
}

// One holds, k wait: whatever the machine does, waits and holds lie between what can be seen from within and from without.
func TestWaitAndHold(t *testing.T) {
	const k = 5
	m := Mutex{Name: unique(t)}
	begin := time.Now()
	m.Lock()
	var wg sync.WaitGroup
	var inside atomic.Int64
	for range k {
		wg.Go(func() {
			m.Lock()
			inside.Add(int64(pass()))
			m.Unlock()
		})
	}
	until(t, k, m.Name, "")
	seen := time.Now()
	pass()
	seenFor := time.Since(seen)
	m.Unlock()
	wg.Wait()
	whole := time.Since(begin)
	s := stat(t, m.Name, "")
	if s.Waiting != 0 || s.Wait.Count != k || s.Hold.Count != k+1 {
		t.Fatalf("%d wait, %d waits, %d holds; want 0, %d, %d", s.Waiting, s.Wait.Count, s.Hold.Count, k, k+1)
	}
	// They wait for one another, too: the second for the first, and so on.
	between(t, "wait", k*seenFor, s.Wait.Sum, k*whole)
	// Only one holds at a time.
	between(t, "hold", seenFor+time.Duration(inside.Load()), s.Hold.Sum, whole)

	// Who waited then does not wait for the next.
	m.left = 2
	m.Lock()
	m.Unlock()
	if n := stat(t, m.Name, "").Hold.Count; n != k+1 {
		t.Errorf("%d holds after one that nobody waited for and that is not sampled, want %d", n, k+1)
	}
}

// A long wait is seen as soon as it ends, not first when the lock is released: that may be never.
func TestLongWaitIsSeen(t *testing.T) {
	m := Mutex{Name: unique(t)}
	m.Lock()
	var wg sync.WaitGroup
	holds, release := make(chan bool), make(chan bool)
	wg.Go(func() {
		m.Lock()
		close(holds)
		<-release
		m.Unlock()
	})
	until(t, 1, m.Name, "")
	for start := time.Now(); time.Since(start) < longWait; {
		pass()
	}
	m.Unlock()
	<-holds
	if s := stat(t, m.Name, ""); s.Waiting != 0 || s.Wait.Count != 1 || s.Wait.Sum < longWait {
		t.Errorf("while it is held: %+v", s)
	}
	close(release)
	wg.Wait()
	if s := stat(t, m.Name, ""); s.Wait.Count != 1 {
		t.Errorf("%d waits, want 1", s.Wait.Count)
	}
}

func TestReadersHoldWriter(t *testing.T) {
	m := RWMutex{Name: unique(t)}
	begin := time.Now()
	m.RLock()
	m.RLock()
	var wg sync.WaitGroup
	wg.Go(func() { m.Lock(); m.Unlock() })
	until(t, 1, m.Name, "write")
	for m.rw.TryRLock() { // until the writer is announced, and a reader waits for it
		m.rw.RUnlock()
		runtime.Gosched()
	}
	wg.Go(func() { m.RLock(); m.RUnlock() })
	until(t, 1, m.Name, "read")
	seen := time.Now()
	pass()
	seenFor := time.Since(seen)
	m.RUnlock()
	m.RUnlock()
	wg.Wait()
	whole := time.Since(begin)
	r, w := stat(t, m.Name, "read"), stat(t, m.Name, "write")
	if r == nil || w == nil || w.Wait.Count != 1 || r.Wait.Count != 1 || r.Hold.Count != 2 || w.Hold.Count != 1 {
		t.Fatalf("read %+v, write %+v", r, w)
	}
	between(t, "the writer's wait", seenFor, w.Wait.Sum, whole)
	between(t, "the reader's wait", seenFor, r.Wait.Sum, whole)
	between(t, "the readers' holds", 2*seenFor, r.Hold.Sum, 2*whole)
	between(t, "the writer's hold", 0, w.Hold.Sum, whole-seenFor)
	begins(t, m.Name)
}

// A reader that slips in between two writers holds up the second, who came before it.
func TestReaderBetweenWriters(t *testing.T) {
	for {
		m := RWMutex{Name: unique(t)}
		m.Lock()
		var wg sync.WaitGroup
		wg.Go(func() { m.Lock(); m.Unlock() })
		until(t, 1, m.Name, "write")
		m.taken() // as if the first had waited itself, and come in just now
		m.Unlock()
		begin := time.Now()
		slipped := m.TryRLock()
		if slipped {
			for m.waiting.Load() == 1 && m.rw.TryRLock() { // else the writer has come and gone
				m.rw.RUnlock()
				runtime.Gosched()
			}
			if slipped = m.waiting.Load() == 1; slipped {
				pass()
			}
			m.RUnlock()
		}
		whole := time.Since(begin)
		wg.Wait()
		if !slipped {
			continue // the writer was faster
		}
		r := stat(t, m.Name, "read")
		if r == nil || r.Hold.Count != 1 {
			t.Fatalf("read %+v, want one hold", r)
		}
		between(t, "hold", 10*leastWaited, r.Hold.Sum, whole)
		return
	}
}

// A reader that came in just as the last waiter left has said that somebody waits. Nobody does: nothing is
// recorded, and the lock is fast again.
func TestReaderCorrects(t *testing.T) {
	m := RWMutex{Name: unique(t)}
	m.since.Store(now())
	m.RLock()
	pass()
	m.RUnlock()
	if r, s := stat(t, m.Name, "read"), m.since.Load(); r != nil || s != 0 {
		t.Errorf("read %+v, somebody came at %d; want nobody", r, s)
	}
}

func TestWriterHoldsReaders(t *testing.T) {
	const k = 3
	m := RWMutex{Name: unique(t)}
	begin := time.Now()
	m.Lock()
	var wg sync.WaitGroup
	for range k {
		wg.Go(func() { m.RLocker().Lock(); m.RLocker().Unlock() })
	}
	until(t, k, m.Name, "read")
	seen := time.Now()
	pass()
	seenFor := time.Since(seen)
	m.Unlock()
	wg.Wait()
	whole := time.Since(begin)
	r, w := stat(t, m.Name, "read"), stat(t, m.Name, "write")
	if r.Wait.Count != k || w.Wait.Count != 0 || w.Hold.Count != 1 {
		t.Fatalf("read %+v, write %+v", r, w)
	}
	between(t, "wait", k*seenFor, r.Wait.Sum, k*whole)
	between(t, "hold", seenFor, w.Hold.Sum, whole)
	begins(t, m.Name)
}

// What is sampled is right on average, also where a lock is used in turns by two that hold it unequally long. In a
// bubble a hold lasts exactly as long as it sleeps.
func TestSampledHolds(t *testing.T) {
	const samples = 100
	m := RWMutex{Name: unique(t)}
	synctest.Test(t, func(t *testing.T) {
		for range samples * HoldSample / 2 {
			m.Lock()
			time.Sleep(time.Millisecond)
			m.Unlock()
			m.Lock()
			time.Sleep(4 * time.Millisecond)
			m.Unlock()
		}
	})
	begins(t, m.Name)
	h := stat(t, m.Name, "write").Hold
	// The spread of 100 samples is 10, of 50 7: six of these happen once in a thousand million runs.
	if n := h.Count / HoldSample; h.Count%HoldSample != 0 || n < samples-60 || n > samples+60 {
		t.Errorf("%d acquisitions are estimated, %d were", h.Count, samples*HoldSample)
	}
	if len(h.Buckets) != 2 {
		t.Fatalf("two kinds of holds are %+v", h.Buckets)
	}
	for _, b := range h.Buckets {
		if n := b.Count / HoldSample; n < 8 || n > 92 {
			t.Errorf("%d of a kind are estimated, %d were", b.Count, samples/2*HoldSample)
		}
	}
	if want := time.Duration(h.Buckets[0].Count+4*h.Buckets[1].Count) * time.Millisecond; h.Sum != want {
		t.Errorf("the sum is %v, of these holds it is %v", h.Sum, want)
	}
}

func TestGap(t *testing.T) {
	const n = 100_000
	sum, least := 0.0, uint32(HoldSample)
	for range n {
		g := gap()
		least = min(least, g)
		sum += float64(g)
	}
	// The spread of the mean is HoldSample/sqrt(n), 0.3 %; the chance of 1 in so many is 1 - exp(-24).
	if mean := sum / n / HoldSample; least != 1 || mean < 0.98 || mean > 1.02 {
		t.Errorf("the least is %d, want 1; the mean is %v of HoldSample", least, mean)
	}
}

func TestQuantile(t *testing.T) {
	var h histogram
	for i := range int64(100) {
		h.add(i, 1)
	}
	got := h.read()
	if got.Count != 100 || got.Sum != 99*50 {
		t.Errorf("%+v", got)
	}
	for q, want := range map[float64]time.Duration{0: 0, 0.01: 0, 0.5: 63, 0.99: 127, 1: 127} {
		if d := got.Quantile(q); d != want {
			t.Errorf("Quantile(%v) is %d, want %d", q, d, want)
		}
	}
	h.add(1<<62, 1)
	if b := h.read().Buckets; b[len(b)-1] != (Bucket{Min: 1 << 40, Count: 1}) {
		t.Errorf("the last bucket is %+v", b[len(b)-1])
	}
	if (Histogram{}).Quantile(0.5) != 0 {
		t.Error("a quantile of nothing is not 0")
	}
}

func TestNames(t *testing.T) {
	g := newRegistry()
	for i := range MaxNames {
		if s := g.series(fmt.Sprint(i)); s.name != fmt.Sprint(i) {
			t.Fatalf("%d is named %q", i, s.name)
		}
	}
	if s := g.series("one more"); s != &g.other || s.name != "other" {
		t.Errorf("past MaxNames one is named %q", s.name)
	}
	if g.series("7").name != "7" {
		t.Error("a known name is not found once there are MaxNames")
	}
	if n := g.nameCount.Load(); n != MaxNames {
		t.Errorf("%d names are counted, want %d", n, MaxNames)
	}
	g = newRegistry()
	if got := g.series(strings.Repeat("x", maxName-1) + "\u00e9"); got.name != strings.Repeat("x", maxName-1) {
		t.Errorf("a name that is cut in a character is %q", got.name)
	}
}

func TestUnnamed(t *testing.T) {
	var m Mutex
	m.Lock()
	done := make(chan bool)
	go func() { lockHere(&m); close(done) }()
	for m.since.Load() == 0 || m.series.Load() == nil {
		runtime.Gosched()
	}
	m.Unlock()
	<-done
	name := m.series.Load().name
	if !strings.HasPrefix(name, "github.com/quantra-l/quantra/agent/lock.lockHere:") {
		t.Errorf("it is named %q, want by lockHere", name)
	}

	// Of a condition, by who waits for it.
	var of Mutex
	c, ready := sync.NewCond(&of), make(chan bool)
	done = make(chan bool)
	go func() { waitHere(c, ready); close(done) }()
	<-ready
	for !of.TryLock() { // it is free when the other is waiting; and a try names nothing
		runtime.Gosched()
	}
	c.Signal()
	for of.series.Load() == nil {
		runtime.Gosched()
	}
	of.Unlock()
	<-done
	if name := of.series.Load().name; !strings.HasPrefix(name, "github.com/quantra-l/quantra/agent/lock.waitHere:") {
		t.Errorf("it is named %q, want by waitHere", name)
	}
}

//go:noinline
func lockHere(m *Mutex) { m.Lock(); m.Unlock() }

//go:noinline
func waitHere(c *sync.Cond, ready chan bool) {
	c.L.Lock()
	close(ready)
	c.Wait()
	c.L.Unlock()
}

// The documentation says so.
func TestSize(t *testing.T) {
	if m, rw := unsafe.Sizeof(Mutex{}), unsafe.Sizeof(RWMutex{}); unsafe.Sizeof(uintptr(0)) == 8 && (m != 72 || rw != 96) {
		t.Errorf("a Mutex takes %d bytes, a RWMutex %d; want 72 and 96", m, rw)
	}
}
