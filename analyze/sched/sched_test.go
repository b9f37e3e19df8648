package sched

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"runtime/trace"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// traced is the trace of what f does.
func traced(t testing.TB, f func()) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := trace.Start(&b); err != nil {
		t.Fatal(err)
	}
	f()
	trace.Stop()
	return b.Bytes()
}

func summarize(t testing.TB, b []byte, lim Limits) Summary {
	t.Helper()
	s, err := Summarize(bytes.NewReader(b), lim)
	if err != nil {
		t.Fatal(err)
	}
	check(t, s)
	return s
}

// check holds a summary to what every summary must be.
func check(t testing.TB, s Summary) {
	t.Helper()
	times := func(what string, x *Times) {
		sum := x.Run + x.Runnable + x.Syscall + x.Unknown
		for _, d := range x.Blocked {
			sum += d
		}
		if sum != x.Lifetime || x.Lifetime < 0 || x.Run < 0 || x.RunnableMax > x.Runnable || x.Assist < 0 || x.Assist > x.Lifetime {
			t.Errorf("%s: the parts are %v: %+v", what, sum, *x)
		}
	}
	times("all", &s.Times)
	var sum Times
	count := 0
	for i := range s.Groups {
		g := &s.Groups[i]
		times(g.Entry, &g.Times)
		sum.add(&g.Times)
		count += g.Count
		if g.Lifetime > time.Duration(g.Count)*s.Window {
			t.Errorf("%s: %d goroutines lived %v in a window of %v", g.Entry, g.Count, g.Lifetime, s.Window)
		}
	}
	if sum.Lifetime != s.Lifetime || sum.Run != s.Run || sum.RunnableMax != s.RunnableMax || count != s.Goroutines {
		t.Errorf("groups hold %d goroutines and %+v, all are %d and %+v", count, sum, s.Goroutines, s.Times)
	}
	for i := range s.Top {
		g := &s.Top[i]
		times(g.Entry, &g.Times)
		if g.Lifetime > s.Window {
			t.Errorf("goroutine %d lived %v in a window of %v", g.ID, g.Lifetime, s.Window)
		}
	}
	if s.GC.STWMax > s.GC.STW || s.GC.STW > time.Duration(max(1, s.GC.STWCount))*s.Window || s.GC.Marking > s.Window {
		t.Errorf("%+v", s.GC)
	}
	if s.Truncated != (len(s.Warnings) > 0) {
		t.Errorf("truncated %v, warnings %q", s.Truncated, s.Warnings)
	}
}

func group(t testing.TB, s Summary, entry string) Group {
	t.Helper()
	for _, g := range s.Groups {
		if strings.HasSuffix(g.Entry, entry) {
			return g
		}
	}
	names := ""
	for _, g := range s.Groups {
		names += " " + g.Entry
	}
	t.Fatalf("no group begins with %s; there are%s", entry, names)
	return Group{}
}

// Each of these is one planted behaviour; its name is the group's.

func spin(until *sync.WaitGroup, stop *atomic.Bool) {
	for !stop.Load() {
	}
	until.Done()
}

func receive(c chan int, done *sync.WaitGroup) { <-c; done.Done() }

func send(c chan int, done *sync.WaitGroup) { c <- 1; done.Done() }

func sleep(d time.Duration, done *sync.WaitGroup) { time.Sleep(d); done.Done() }

func lock(mu *sync.Mutex, done *sync.WaitGroup) { mu.Lock(); mu.Unlock(); done.Done() } //lint:ignore SA2001 it is for the waiting

func read(f *os.File, done *sync.WaitGroup) { f.Read(make([]byte, 1)); done.Done() }

var kept [4][][]byte

func allocate(into *[][]byte, n int, done *sync.WaitGroup) {
	for range n {
		*into = append(*into, make([]byte, 4096))
	}
	done.Done()
}

// await waits until the goroutine that begins with a function is in a state, and the only one of that function that is not.
func await(t *testing.T, entry, state string) {
	t.Helper()
	stacks := make([]byte, 1<<20)
	for range 100_000 {
		there, others := 0, 0
		for g := range strings.SplitSeq(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
			if head, rest, _ := strings.Cut(g, "\n"); strings.Contains(rest, entry+"(") {
				if strings.Contains(head, "["+state) {
					there++
				} else {
					others++
				}
			}
		}
		if there > 0 && others == 0 {
			return
		}
		runtime.Gosched()
	}
	t.Fatalf("%s does not come to %s", entry, state)
}

// blockingPipe is a pipe whose reads are system calls that block, not waits for the network poller.
func blockingPipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Fd() // makes it blocking
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// TestPlanted: each behaviour is found where it is, and in nothing else's place. The bounds are from how
// the program waits for events (a sleep lasts at least as long as it was told), not from the machine's speed.
func TestPlanted(t *testing.T) {
	const nap = 50 * time.Millisecond
	before := make(chan int) // goroutines that live before the trace begins, and after it ends
	var old sync.WaitGroup
	old.Add(2)
	go receive(before, &old)
	go sleepLong(before, &old)
	await(t, "sched.receive", "chan receive")
	await(t, "sched.sleepLong", "select")
	r, w := blockingPipe(t)
	procs := runtime.GOMAXPROCS(0)
	b := traced(t, func() {
		var done, spinning sync.WaitGroup
		c, d := make(chan int), make(chan int)
		var stop atomic.Bool
		var mu sync.Mutex
		mu.Lock()
		done.Add(5)
		go sender(d, &done)
		go receive(c, &done)
		go sleep(nap, &done)
		go lock(&mu, &done)
		go read(r, &done)
		await(t, "sched.sender", "chan send")
		await(t, "sched.receive", "chan receive")
		await(t, "sched.lock", "sync.Mutex.Lock")
		await(t, "sched.read", "syscall")
		spinning.Add(3 * procs)
		for range 3 * procs {
			go spin(&spinning, &stop)
		}
		time.Sleep(nap)
		stop.Store(true)
		spinning.Wait()
		c <- 1
		<-d
		mu.Unlock()
		w.Write([]byte{1})
		done.Wait()
	})
	close(before)
	old.Wait()
	s := summarize(t, b, Limits{})
	if s.Truncated || s.Window < nap || s.Procs != procs || s.Goroutines < 8+3*procs || s.Events < 100 {
		t.Errorf("window %v, %d processors, %d goroutines, %d events, %q", s.Window, s.Procs, s.Goroutines, s.Events, s.Warnings)
	}
	if g := group(t, s, "sched.spin"); g.Count != 3*procs || g.Run <= 0 || g.Runnable < g.Run || g.RunnableMax <= 0 || g.System {
		// three want a processor for each that there is
		t.Errorf("busy: %+v", g)
	}
	if g := group(t, s, "sched.sleep"); g.Blocked["sleep"] < nap || g.Blocked["sleep"] < g.Lifetime/2 {
		t.Errorf("asleep: %+v", g)
	}
	if g := group(t, s, "sched.send"+"er"); g.Blocked["chan send"] < nap {
		t.Errorf("sending: %+v", g)
	}
	if g := group(t, s, "sched.lock"); g.Blocked["sync"] < nap {
		t.Errorf("locking: %+v", g)
	}
	if g := group(t, s, "sched.read"); g.Syscall < nap {
		t.Errorf("in a system call: %+v", g)
	}
	// Two wait for a channel: one from before the trace, so for all of it.
	if g := group(t, s, "sched.receive"); g.Count != 2 || g.Blocked["chan receive"] < s.Window || g.Lifetime <= s.Window {
		t.Errorf("receiving: %+v", g)
	}
	if g := group(t, s, "sched.sleepLong"); g.Count != 1 || g.Lifetime != s.Window || g.Blocked["select"] != s.Window {
		t.Errorf("there all the time: %+v in %v", g, s.Window)
	}
}

func sender(c chan int, done *sync.WaitGroup) { send(c, done) }

func sleepLong(c chan int, done *sync.WaitGroup) {
	defer done.Done()
	select {
	case <-c:
	case <-time.After(time.Hour):
	}
}

// TestCollector: its cycles, world stops and the assists of those who allocate are told.
func TestCollector(t *testing.T) {
	s := Summary{}
	for try := 0; s.Assist == 0 && try < 50; try++ { // an assist needs an allocation that comes while marking
		s = summarize(t, traced(t, func() {
			var done sync.WaitGroup
			for i := range kept {
				done.Add(1)
				go allocate(&kept[i], 5000, &done)
			}
			runtime.GC()
			done.Wait()
			kept = [4][][]byte{}
		}), Limits{})
	}
	if s.GC.Cycles == 0 || s.GC.STWCount < 2*s.GC.Cycles-1 || s.GC.STW <= 0 || s.GC.Marking <= 0 {
		t.Errorf("%+v", s.GC)
	}
	if g := group(t, s, "sched.allocate"); g.Count != 4 || g.Assist <= 0 {
		t.Errorf("allocating: %+v", g)
	}
	if g := group(t, s, "runtime.gcBgMarkWorker"); !g.System {
		t.Errorf("a worker of the collector: %+v", g)
	}
}

// TestMany: goroutines past the bounds are summed, not lost.
func TestMany(t *testing.T) {
	b := traced(t, func() {
		var done sync.WaitGroup
		c := make(chan int)
		for range 2000 {
			done.Add(1)
			go receive(c, &done)
		}
		close(c)
		done.Wait()
	})
	s := summarize(t, b, Limits{Top: 10, Group: 1})
	if len(s.Top) != 10 || len(s.Groups) != 2 || s.Groups[1].Entry != "other" || s.Goroutines < 2000 || !s.Truncated {
		t.Errorf("%d single, %d groups, %d goroutines", len(s.Top), len(s.Groups), s.Goroutines)
	}
	full := summarize(t, b, Limits{})
	if full.Truncated || full.Times.Lifetime != s.Times.Lifetime || group(t, full, "sched.receive").Count != 2000 {
		t.Errorf("%+v", full.Times)
	}
	// The single ones are the first of all, whatever the bound.
	for i, g := range s.Top {
		if g.ID != full.Top[i].ID {
			t.Errorf("%d: %d, want %d", i, g.ID, full.Top[i].ID)
		}
	}
	few, err := Summarize(bytes.NewReader(b), Limits{Alive: 5})
	if err != nil || !few.Truncated {
		t.Errorf("%d goroutines, %q, %v", few.Goroutines, few.Warnings, err)
	}
	check(t, few)
}

func small(t testing.TB) []byte { return recorded(t, "small.trace") }

func recorded(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestSmall: a trace of a program of another day is read as ever.
func TestSmall(t *testing.T) {
	s := summarize(t, small(t), Limits{})
	if s.Truncated || s.Procs != 2 || s.GC.Cycles != 1 || s.GC.STWCount < 2 || group(t, s, "main.main").Count != 1 || group(t, s, "main.work").Count != 3 {
		b, _ := json.MarshalIndent(s, "", " ")
		t.Errorf("%s", b)
	}
}

// TestCut: a trace that breaks off gives what it has and says so, or is an error; it never passes for whole.
func TestCut(t *testing.T) {
	b := recorded(t, "long.trace")
	whole := summarize(t, b, Limits{})
	if whole.Truncated || whole.Window < 2*time.Second {
		t.Fatalf("%v, %q", whole.Window, whole.Warnings)
	}
	some, passed := 0, 0
	for n := 0; n < len(b); n += 1 + len(b)/500 {
		s, err := Summarize(bytes.NewReader(b[:n]), Limits{})
		switch {
		case err != nil && !errors.Is(err, ErrNotTrace):
			t.Errorf("cut at %d of %d: %v", n, len(b), err)
		case err == nil && !s.Truncated:
			passed++ // between two generations nothing tells
		case err == nil:
			check(t, s)
			some++
		}
		bounded, err := Summarize(bytes.NewReader(b), Limits{Bytes: int64(max(n, 1))})
		if err == nil && !bounded.Truncated || err != nil && !errors.Is(err, ErrNotTrace) {
			t.Errorf("bounded to %d of %d bytes: %v, %v", n, len(b), bounded.Warnings, err)
		}
	}
	if passed > 3 {
		t.Errorf("%d of the cut traces pass for whole", passed)
	}
	if some < 100 {
		t.Errorf("only %d of the cut traces have something", some)
	}
}

func TestRefused(t *testing.T) {
	for _, text := range []string{"", "g", "go 1.2", "hello, this is no trace", "go 1.26 trace\x00\x00", "go 1.99 trace\x00\x00\x00", "go 1.26 trace\x00\x00\x00garbage garbage"} {
		if s, err := Summarize(strings.NewReader(text), Limits{}); !errors.Is(err, ErrNotTrace) {
			t.Errorf("%q: %+v, %v", text, s, err)
		}
	}
	if _, err := Summarize(strings.NewReader("go 1.21 trace\x00\x00\x00\x02\x00"), Limits{}); !errors.Is(err, ErrVersion) {
		t.Errorf("of Go 1.21: %v", err)
	}
	broken := errors.New("broken")
	if _, err := Summarize(&failing{small(t)[:3000], broken}, Limits{}); !errors.Is(err, broken) {
		t.Errorf("a reader that fails: %v", err)
	}
}

type failing struct {
	b   []byte
	err error
}

func (f *failing) Read(p []byte) (int, error) {
	if len(f.b) == 0 {
		return 0, f.err
	}
	n := copy(p, f.b)
	f.b = f.b[n:]
	return n, nil
}

// FuzzSummarize: no bytes crash it, and what it says holds together.
func FuzzSummarize(f *testing.F) {
	b := small(f)
	if s, err := Summarize(bytes.NewReader(b), Limits{}); err != nil || s.Events < 50 {
		f.Fatalf("the seed says nothing: %v", err)
	}
	f.Add(b)
	long := recorded(f, "long.trace")
	f.Add(long)
	f.Add(long[:len(long)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Summarize(bytes.NewReader(b), Limits{Bytes: 1 << 20, Top: 5, Group: 5, Alive: 100})
		if err != nil {
			if !errors.Is(err, ErrNotTrace) && !errors.Is(err, ErrVersion) {
				t.Fatal(err)
			}
			return
		}
		check(t, s)
		if len(s.Top) > 5 || len(s.Groups) > 6 {
			t.Errorf("%d single, %d groups", len(s.Top), len(s.Groups))
		}
		if _, err := json.Marshal(s); err != nil {
			t.Error(err)
		}
	})
}

func BenchmarkSummarize(b *testing.B) {
	data := traced(b, func() {
		var done sync.WaitGroup
		c := make(chan int)
		for range 100 {
			done.Add(1)
			go func() {
				for range c {
				}
				done.Done()
			}()
		}
		for i := range 100_000 {
			c <- i
		}
		close(c)
		done.Wait()
	})
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if s, err := Summarize(bytes.NewReader(data), Limits{}); err != nil || s.Events < 100_000 {
			b.Fatal(s.Events, err)
		}
	}
}
