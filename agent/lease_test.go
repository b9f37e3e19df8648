package agent

import (
	"fmt"
	"math"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeRuntime is the settings of a process, as the runtime keeps them.
type fakeRuntime struct {
	mu      sync.Mutex
	v       vitals
	procs   int
	deflt   int  // what the runtime's default for GOMAXPROCS is now
	auto    bool // GOMAXPROCS follows it
	env     int
	cores   int
	rate    int
	changes int // calls that set something
}

func newFakeRuntime() *fakeRuntime {
	return &fakeRuntime{
		v:     vitals{gogc: 100, memlimit: noLimit, heapLive: 100 << 20, other: 20 << 20},
		procs: 4, deflt: 4, auto: true, cores: 8, rate: 100,
	}
}

func (f *fakeRuntime) knobs() knobs {
	locked := func(do func()) {
		f.mu.Lock()
		defer f.mu.Unlock()
		do()
	}
	return knobs{
		setGC: func(p int) (was int) {
			locked(func() { was, f.v.gogc = f.v.gogc, max(p, -1); f.changes++ })
			return was
		},
		setLimit: func(n int64) (was int64) {
			locked(func() { was, f.v.memlimit = f.v.memlimit, n; f.changes++ })
			return was
		},
		setProcs: func(n int) (was int) {
			locked(func() { was, f.procs, f.auto = f.procs, n, false; f.changes++ })
			return was
		},
		defaultProcs: func() { locked(func() { f.procs, f.auto = f.deflt, true; f.changes++ }) },
		procs:        func() (n int) { locked(func() { n = f.procs }); return n },
		envProcs:     func() int { return f.env },
		cores:        func() int { return f.cores },
		read:         func() (v vitals) { locked(func() { v = f.v }); return v },
		setRate:      func(hz int) { locked(func() { f.rate = hz; f.changes++ }) },
		rate:         func() (hz int) { locked(func() { hz = f.rate }); return hz },
	}
}

// is "GOGC/limit in MiB/procs/rate", "auto" where GOMAXPROCS follows the machine.
func (f *fakeRuntime) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	limit := "none"
	if f.v.memlimit != noLimit {
		limit = fmt.Sprint(f.v.memlimit >> 20)
	}
	auto := ""
	if f.auto {
		auto = "auto"
	}
	return fmt.Sprintf("%d/%s/%d%s/%d", f.v.gogc, limit, f.procs, auto, f.rate)
}

func (f *fakeRuntime) change(do func(f *fakeRuntime)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do(f)
}

// grant is a lease of a minute; limit in MiB.
func grant(id string, set ...any) *lease {
	l := &lease{ID: id, TTL: time.Minute}
	for i := 0; i < len(set); i += 2 {
		n := set[i+1].(int)
		switch set[i] {
		case "gogc":
			l.GOGC = &n
		case "limit":
			b := int64(n) << 20
			l.Limit = &b
		case "procs":
			l.Procs = &n
		case "rate":
			l.Rate = &n
		default:
			panic(set[i])
		}
	}
	return l
}

// ticking calls tick as its owner does, for d.
func ticking(l *leaser, d time.Duration) {
	for end := time.Now().Add(d); ; {
		wait := min(l.next(), time.Until(end))
		time.Sleep(wait)
		l.tick()
		if !time.Now().Before(end) {
			return
		}
	}
}

func wantState(t *testing.T, what string, f *fakeRuntime, l *leaser, in, id, refused string) {
	t.Helper()
	gotID, gotRefused, _ := l.state()
	if f.String() != in || gotID != id || (refused == "") != (gotRefused == "") || !strings.Contains(gotRefused, refused) {
		t.Errorf("%s: %s in force, lease %q, refused %q; want %s, %q, %q", what, f, gotID, gotRefused, in, id, refused)
	}
}

// leasing runs one story in virtual time, on a program that has chosen GOGC=80 and a limit of 1 GiB.
func leasing(t *testing.T, story func(t *testing.T, f *fakeRuntime, l *leaser)) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeRuntime()
		f.v.gogc, f.v.memlimit = 80, 1<<30
		l := newLeaser(f.knobs(), quiet())
		defer l.restore()
		story(t, f, l)
	})
}

const found = "80/1024/4auto/100"

func all(id string) *lease { return grant(id, "gogc", 200, "limit", 400, "procs", 2, "rate", 50) }

const leased = "200/400/2/50"

func TestLeaseEnds(t *testing.T) {
	for name, end := range map[string]func(f *fakeRuntime, l *leaser){
		"its time is over":  func(f *fakeRuntime, l *leaser) { ticking(l, time.Minute) },
		"it is withdrawn":   func(f *fakeRuntime, l *leaser) { l.follow(nil) },
		"the agent stops":   func(f *fakeRuntime, l *leaser) { l.restore() },
		"twice":             func(f *fakeRuntime, l *leaser) { l.follow(nil); l.follow(nil); l.restore() },
		"the kill switch":   func(f *fakeRuntime, l *leaser) { l.forbid("") },
		"a lease is late":   func(f *fakeRuntime, l *leaser) { time.Sleep(time.Hour); l.follow(nil) },
		"nothing is leased": func(f *fakeRuntime, l *leaser) { l.follow(grant("b")) },
	} {
		leasing(t, func(t *testing.T, f *fakeRuntime, l *leaser) {
			l.follow(all("a"))
			wantState(t, name, f, l, leased, "a", "")
			end(f, l)
			id := ""
			if name == "nothing is leased" {
				id = "b"
			}
			wantState(t, name, f, l, found, id, "")
		})
	}
	// To the moment.
	leasing(t, func(t *testing.T, f *fakeRuntime, l *leaser) {
		l.follow(all("a"))
		ticking(l, time.Minute-1)
		wantState(t, "1 ns before its end", f, l, leased, "a", "")
		if n := l.next(); n != 1 {
			t.Errorf("1 ns before its end the next tick is due in %v", n)
		}
		ticking(l, 1)
		wantState(t, "at its end", f, l, found, "", "")
	})
}

func TestLeaseProlonged(t *testing.T) {
	leasing(t, func(t *testing.T, f *fakeRuntime, l *leaser) {
		l.follow(all("a"))
		_, _, since := l.state()
		n := f.changes
		for range 10 {
			ticking(l, 50*time.Second)
			l.follow(all("a"))
		}
		if f.changes != n {
			t.Errorf("prolonging set something %d times", f.changes-n)
		}
		if _, _, s := l.state(); !s.Equal(since) {
			t.Error("prolonging counts as a change")
		}
		ticking(l, 59*time.Second)
		wantState(t, "prolonged", f, l, leased, "a", "")
		// Prolonging may shorten.
		short := all("a")
		short.TTL = time.Second
		l.follow(short)
		ticking(l, time.Second)
		wantState(t, "shortened", f, l, found, "", "")
		// The same lease after its end is a new one.
		l.follow(all("a"))
		wantState(t, "again", f, l, leased, "a", "")
	})
}

// TestLeaseReplaced: what is restored is what was there before the first, setting by setting.
func TestLeaseReplaced(t *testing.T) {
	leasing(t, func(t *testing.T, f *fakeRuntime, l *leaser) {
		l.follow(all("a"))
		l.follow(grant("b", "gogc", 300, "rate", 0))
		wantState(t, "b", f, l, "300/1024/4auto/0", "b", "")
		l.follow(grant("c", "procs", 3))
		wantState(t, "c", f, l, "80/1024/3/100", "c", "")
		l.follow(grant("c", "procs", 1, "gogc", -1))
		wantState(t, "c, of another content", f, l, "-1/1024/1/100", "c", "")
		l.follow(nil)
		wantState(t, "none", f, l, found, "", "")
		// One that is refused leaves none in force.
		l.follow(all("d"))
		l.follow(grant("e", "gogc", 5))
		wantState(t, "e", f, l, found, "", "GOGC 5")
		l.follow(grant("e", "gogc", 50)) // the id is refused, whatever it says
		wantState(t, "e again", f, l, found, "", "GOGC 5")
		l.follow(nil)
		wantState(t, "the reason stays", f, l, found, "", "GOGC 5")
		l.follow(grant("f", "gogc", 50))
		wantState(t, "f", f, l, "50/1024/4auto/100", "f", "")
	})
}

// TestLeaseClock: no wall clock has a part in a lease's end.
func TestLeaseClock(t *testing.T) {
	l := newLeaser(newFakeRuntime().knobs(), quiet())
	defer l.restore()
	l.follow(all("a"))
	for range 2 {
		// Without its monotonic reading a Time prints, and is compared, by the wall.
		if !strings.Contains(l.expires.String(), " m=") || !strings.Contains(l.baseAt.String(), " m=") {
			t.Errorf("the end of the lease, %v, or the start of the guard's interval, %v, is on the wall clock", l.expires, l.baseAt)
		}
		l.follow(all("a"))
	}
}

func TestLeaseRefused(t *testing.T) {
	for _, tt := range []struct {
		l   *lease
		why string
	}{
		{grant("a", "gogc", 9), "GOGC 9"},
		{grant("a", "gogc", 0), "GOGC 0"},
		{grant("a", "gogc", -2), "GOGC -2"},
		{grant("a", "gogc", 10001), "GOGC 10001"},
		{grant("a", "gogc", 10), ""},
		{grant("a", "gogc", 10000), ""},
		{grant("a", "gogc", -1), ""}, // the program's own limit holds
		{grant("a", "gogc", -1, "limit", -1), "no number"},
		{&lease{ID: "a", TTL: time.Minute, Limit: new(int64)}, "GOMEMLIMIT 0"},
		// 100 MiB live and 20 beside the heap: 146 less 3 % are 22 % above what is live, 144 are 20.3.
		{grant("a", "limit", 120), "too near"},
		{grant("a", "limit", 143), "too near"},
		{grant("a", "limit", 146), ""},
		{grant("a", "limit", 400), ""},
		{grant("a", "procs", 0), "GOMAXPROCS 0"},
		{grant("a", "procs", -1), "GOMAXPROCS -1"},
		{grant("a", "procs", 9), "8 cores"},
		{grant("a", "procs", 8), ""},
		{grant("a", "procs", 1), ""},
		{grant("a", "rate", 99), "cpu_rate 99"},
		{grant("a", "rate", -50), "cpu_rate -50"},
		{grant("a", "rate", 0), ""},
		{grant("a", "rate", 200), ""},
		// One bad setting refuses all.
		{grant("a", "gogc", 200, "rate", 1000), "cpu_rate 1000"},
	} {
		leasing(t, func(t *testing.T, f *fakeRuntime, l *leaser) {
			l.follow(tt.l)
			id, why, _ := l.state()
			if (why == "") != (tt.why == "") || !strings.Contains(why, tt.why) || (id == "") != (why != "") {
				t.Errorf("%+v: lease %q, refused %q, want %q", tt.l, id, why, tt.why)
			}
			if tt.why != "" && (f.String() != found || f.changes != 0) {
				t.Errorf("%+v: refused, and %s in force after %d changes", tt.l, f, f.changes)
			}
		})
	}
	// Without any limit GOGC off is no lease to take.
	leasing(t, func(t *testing.T, f *fakeRuntime, l *leaser) {
		f.v.memlimit = noLimit
		l.follow(grant("a", "gogc", -1))
		wantState(t, "off", f, l, "80/none/4auto/100", "", "without end")
		l.follow(grant("b", "gogc", -1, "limit", 500))
		wantState(t, "off with a limit", f, l, "-1/500/4auto/100", "b", "")
		// Nor one that takes away the limit that the program relies on.
		l.follow(nil)
		f.v.gogc, f.v.memlimit = -1, 1<<30
		none := int64(noLimit)
		l.follow(&lease{ID: "c", TTL: time.Minute, Limit: &none})
		wantState(t, "limit away", f, l, "-1/1024/4auto/100", "", "without end")
	})
	// A lease is judged by what it would find, not by what the one before has set.
	leasing(t, func(t *testing.T, f *fakeRuntime, l *leaser) {
		f.v.memlimit = noLimit
		l.follow(grant("a", "limit", 500))
		l.follow(grant("b", "gogc", -1))
		wantState(t, "off after a limit", f, l, "80/none/4auto/100", "", "without end")
	})
	// A program whose own limit is too tight is not collected more often still, but may be given more.
	leasing(t, func(t *testing.T, f *fakeRuntime, l *leaser) {
		f.v.memlimit = 125 << 20
		l.follow(grant("a", "gogc", 50))
		wantState(t, "tight", f, l, "80/125/4auto/100", "", "too near")
		l.follow(grant("b", "limit", 200))
		wantState(t, "wider", f, l, "80/200/4auto/100", "b", "")
	})
}

// TestLeaseForbidden: PROFILER_OPTIMIZER_ENABLED=false, and an agent that has stopped.
func TestLeaseForbidden(t *testing.T) {
	leasing(t, func(t *testing.T, f *fakeRuntime, l *leaser) {
		l.forbid("PROFILER_OPTIMIZER_ENABLED=false")
		l.follow(all("a"))
		wantState(t, "forbidden", f, l, found, "", "PROFILER_OPTIMIZER_ENABLED")
	})
	leasing(t, func(t *testing.T, f *fakeRuntime, l *leaser) {
		l.follow(all("a"))
		l.restore()
		l.follow(all("b"))
		wantState(t, "stopped", f, l, found, "", "stopped")
	})
	for v, want := range map[string]string{"": "true", "YES": "true", "1": "true", "Off": "false", "false": "false", "no": "false", "maybe": "error"} {
		on, err := optimizerSwitch(mapEnv(map[string]string{envOptimizer: v}))
		got := fmt.Sprint(on)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%s=%q is %s, want %s", envOptimizer, v, got, want)
		}
	}
}

// TestLeaseForeign: what the program sets during a lease is its own from then on.
func TestLeaseForeign(t *testing.T) {
	for name, tt := range map[string]struct {
		set      func(f *fakeRuntime)
		in, why  string
		sets, no *lease // a later lease that is taken, and one that is not
	}{
		"GOGC":       {func(f *fakeRuntime) { f.v.gogc = 150 }, "150/1024/4auto/100", "GOGC to 150", grant("b", "procs", 2), grant("c", "gogc", 200)},
		"GOMEMLIMIT": {func(f *fakeRuntime) { f.v.memlimit = 2 << 30 }, "80/2048/4auto/100", "GOMEMLIMIT to", grant("b", "gogc", 70), grant("c", "limit", 500)},
		"GOMAXPROCS": {func(f *fakeRuntime) { f.procs = 6 }, "80/1024/6/100", "GOMAXPROCS to 6", grant("b", "gogc", 70), grant("c", "procs", 2, "gogc", 70)},
		"two":        {func(f *fakeRuntime) { f.v.gogc, f.procs = 150, 6 }, "150/1024/6/100", "GOGC to 150 and GOMAXPROCS to 6", grant("b", "limit", 500), grant("c", "gogc", 200)},
	} {
		leasing(t, func(t *testing.T, f *fakeRuntime, l *leaser) {
			l.follow(all("a"))
			f.change(tt.set)
			ticking(l, tickEvery)
			wantState(t, name, f, l, tt.in, "", tt.why)
			ticking(l, time.Hour)
			l.follow(all("a"))
			wantState(t, name+", an hour later", f, l, tt.in, "", tt.why)
			l.follow(tt.sets)
			if id, why, _ := l.state(); id != "b" || why != "" {
				t.Errorf("%s: a lease of other settings was refused: %s", name, why)
			}
			l.follow(nil)
			l.follow(tt.no)
			wantState(t, name+", leased again", f, l, tt.in, "", "sets "+strings.Fields(tt.why)[0]+" itself")
		})
	}
	// Stop right after the program's change: nobody ticked.
	for name, end := range map[string]func(l *leaser){
		"stop": (*leaser).restore, "withdraw": func(l *leaser) { l.follow(nil) },
		"replace": func(l *leaser) { l.follow(grant("b", "gogc", 90)); l.follow(nil) },
	} {
		leasing(t, func(t *testing.T, f *fakeRuntime, l *leaser) {
			l.follow(all("a"))
			f.change(func(f *fakeRuntime) { f.v.gogc = 150 })
			end(l)
			if f.String() != "150/1024/4auto/100" {
				t.Errorf("%s: %s in force", name, f)
			}
		})
	}
	// The program is quicker than the look before restoring.
	leasing(t, func(t *testing.T, f *fakeRuntime, l *leaser) {
		l.follow(grant("a", "gogc", 200))
		set := l.k.setGC
		l.k.setGC = func(p int) int {
			f.change(func(f *fakeRuntime) {
				if f.v.gogc == 200 {
					f.v.gogc = 150
				}
			})
			return set(p)
		}
		l.restore()
		if f.String() != "150/1024/4auto/100" {
			t.Errorf("a change in the same moment: %s in force", f)
		}
	})
	// A rate that the agent sheds to is no change of the program's.
	leasing(t, func(t *testing.T, f *fakeRuntime, l *leaser) {
		l.follow(all("a"))
		f.change(func(f *fakeRuntime) { f.rate = 0 })
		ticking(l, tickEvery)
		wantState(t, "shed", f, l, "200/400/2/0", "a", "")
		l.follow(nil)
		wantState(t, "shed, restored", f, l, found, "", "")
	})
}

// burn lets a second of d pass, with the collector's share of what is used, on two of four processors.
func (f *fakeRuntime) burn(l *leaser, d time.Duration, share float64) {
	for range d / time.Second {
		f.change(func(f *fakeRuntime) {
			f.v.busyCPU += 2
			f.v.gcCPU += 2 * share
			f.v.totalCPU += 4
		})
		ticking(l, time.Second)
	}
}

func TestLeaseGCGuard(t *testing.T) {
	leasing(t, func(t *testing.T, f *fakeRuntime, l *leaser) {
		l.follow(grant("a", "limit", 400, "rate", 50))
		f.burn(l, 30*time.Second, 0.24)
		wantState(t, "24 %", f, l, "80/400/4auto/50", "a", "")
		f.burn(l, 20*time.Second, 0.27)
		wantState(t, "27 %", f, l, found, "", "27 %")
		l.follow(grant("a", "limit", 400, "rate", 50))
		wantState(t, "the same again", f, l, found, "", "27 %")
	})
	for name, l1 := range map[string]*lease{"GOGC": grant("a", "gogc", 40), "GOMAXPROCS": grant("a", "procs", 2)} {
		leasing(t, func(t *testing.T, f *fakeRuntime, l *leaser) {
			l.follow(l1)
			f.burn(l, 20*time.Second, 0.5)
			wantState(t, name, f, l, found, "", "50 %")
		})
	}
	// What loosens is not the cause.
	leasing(t, func(t *testing.T, f *fakeRuntime, l *leaser) {
		l.follow(grant("a", "gogc", 400, "limit", 2000, "procs", 8))
		f.burn(l, 40*time.Second, 0.5)
		wantState(t, "loosened", f, l, "400/2000/8/100", "a", "")
	})
	leasing(t, func(t *testing.T, f *fakeRuntime, l *leaser) {
		f.v.gogc = 500
		l.follow(grant("a", "gogc", -1))
		f.burn(l, 40*time.Second, 0.5)
		wantState(t, "off", f, l, "-1/1024/4auto/100", "a", "")
	})
	leasing(t, func(t *testing.T, f *fakeRuntime, l *leaser) {
		f.v.gogc = -1 // anything is less than off
		l.follow(grant("a", "gogc", 150))
		f.burn(l, 20*time.Second, 0.5)
		wantState(t, "on", f, l, "-1/1024/4auto/100", "", "50 %")
	})
	// A program that does nothing but collect, once in two minutes.
	leasing(t, func(t *testing.T, f *fakeRuntime, l *leaser) {
		l.follow(grant("a", "limit", 400))
		f.change(func(f *fakeRuntime) { f.v.gcCPU, f.v.busyCPU, f.v.totalCPU = 1, 1.2, 480 })
		ticking(l, 20*time.Second)
		wantState(t, "idle", f, l, "80/400/4auto/100", "a", "")
	})
	// What is live grows into the limit.
	leasing(t, func(t *testing.T, f *fakeRuntime, l *leaser) {
		l.follow(grant("a", "gogc", -1, "limit", 400))
		f.change(func(f *fakeRuntime) { f.v.heapLive = 320 << 20 })
		ticking(l, tickEvery)
		wantState(t, "near", f, l, "-1/400/4auto/100", "a", "")
		f.change(func(f *fakeRuntime) { f.v.heapLive = 340 << 20 })
		ticking(l, tickEvery)
		wantState(t, "too near", f, l, found, "", "came too near")
	})
}

// TestLeaseProcs: GOMAXPROCS follows the machine again where it did, and is a number where it was one.
func TestLeaseProcs(t *testing.T) {
	for _, tt := range []struct {
		name              string
		procs, env, deflt int
		auto              bool
		later             int // the default when the lease ends
		want              string
	}{
		{"follows", 4, 0, 4, true, 4, "4auto"},
		{"follows, and the quota has changed", 4, 0, 4, true, 3, "3auto"},
		{"set to less", 2, 0, 4, false, 3, "2"},
		{"set to more than there are", 16, 0, 4, false, 4, "16"},
		{"set by the environment, to the default", 4, 4, 4, false, 3, "4"},
		{"set by the environment, then by the program", 2, 3, 4, false, 4, "2"},
	} {
		leasing(t, func(t *testing.T, f *fakeRuntime, l *leaser) {
			f.procs, f.env, f.deflt, f.auto = tt.procs, tt.env, tt.deflt, tt.auto
			l.follow(grant("a", "procs", 1))
			wantState(t, tt.name, f, l, "80/1024/1/100", "a", "")
			f.change(func(f *fakeRuntime) { f.deflt = tt.later })
			l.follow(nil)
			wantState(t, tt.name, f, l, "80/1024/"+tt.want+"/100", "", "")
		})
	}
	// A lease of other settings does not touch it.
	leasing(t, func(t *testing.T, f *fakeRuntime, l *leaser) {
		l.k.defaultProcs = func() { t.Error("the default was set") }
		l.k.setProcs = func(int) int { t.Error("GOMAXPROCS was set"); return 4 }
		l.follow(grant("a", "gogc", 200))
		l.follow(nil)
	})
}

// TestLeaseTwoAgents: of two in one process only one holds settings.
func TestLeaseTwoAgents(t *testing.T) {
	leasing(t, func(t *testing.T, f *fakeRuntime, l *leaser) {
		other := newLeaser(f.knobs(), quiet())
		defer other.restore()
		l.follow(grant("a", "gogc", 200))
		other.follow(grant("x", "procs", 2))
		wantState(t, "the second", f, other, "200/1024/4auto/100", "", "another agent")
		l.follow(grant("b", "gogc", 300))
		wantState(t, "the first", f, l, "300/1024/4auto/100", "b", "")
		l.restore()
		other.follow(grant("y", "procs", 2))
		wantState(t, "the second, then", f, other, "80/1024/2/100", "y", "")
		// A lease that is refused holds nothing.
		other.follow(grant("z", "procs", 99))
		third := newLeaser(f.knobs(), quiet())
		defer third.restore()
		third.follow(grant("q", "procs", 1))
		wantState(t, "a third", f, third, "80/1024/1/100", "q", "")
	})
}

// TestLeaseOfNothing changes nothing, restores what the lease before it set, and is in nobody's way.
func TestLeaseOfNothing(t *testing.T) {
	leasing(t, func(t *testing.T, f *fakeRuntime, l *leaser) {
		other := newLeaser(f.knobs(), quiet())
		defer other.restore()
		l.follow(grant("watch"))
		wantState(t, "nothing set", f, l, found, "watch", "")
		if f.changes != 0 {
			t.Errorf("%d settings were set", f.changes)
		}
		other.follow(grant("x", "gogc", 200))
		wantState(t, "another agent beside it", f, other, "200/1024/4auto/100", "x", "")
		other.follow(nil)
		l.follow(all("a"))
		l.follow(grant("watch again"))
		wantState(t, "in place of one with settings", f, l, found, "watch again", "")
		other.follow(grant("y", "gogc", 200))
		wantState(t, "another agent then", f, other, "200/1024/4auto/100", "y", "")
		ticking(l, 2*time.Minute)
		wantState(t, "over", f, l, "200/1024/4auto/100", "", "")
	})
}

// TestLeaseRuntime sets and restores the real runtime, and compares what it says of itself.
func TestLeaseRuntime(t *testing.T) {
	rate := 100
	l := newLeaser(runtimeKnobs(func(hz int) { rate = hz }, func() int { return rate }), quiet())
	defer l.restore()
	for _, own := range []struct {
		gogc  int
		limit int64
		procs int // 0: the default
	}{{100, noLimit, 0}, {-1, 3 << 30, 0}, {37, 5<<30 + 1, runtime.NumCPU() + 3}} {
		t.Run(fmt.Sprint(own), func(t *testing.T) {
			defer debug.SetGCPercent(debug.SetGCPercent(own.gogc))
			defer debug.SetMemoryLimit(debug.SetMemoryLimit(own.limit))
			if own.procs == 0 {
				runtime.SetDefaultGOMAXPROCS()
			} else {
				runtime.GOMAXPROCS(own.procs)
			}
			defer runtime.SetDefaultGOMAXPROCS()
			before, procs := l.settings(), runtime.GOMAXPROCS(0)
			if before.GOGC != own.gogc || before.Limit != own.limit {
				t.Fatalf("the runtime says %+v, was set to %+v", before, own)
			}
			gogc, limit, one, hz := 250, int64(2<<30), 1, 50
			l.follow(&lease{ID: t.Name(), TTL: time.Minute, GOGC: &gogc, Limit: &limit, Procs: &one, Rate: &hz})
			if got, want := l.settings(), (settings{250, 2 << 30, 1, 50}); got != want {
				_, why, _ := l.state()
				t.Fatalf("leased, the runtime says %+v, want %+v (%s)", got, want, why)
			}
			l.tick()
			if id, why, _ := l.state(); id == "" {
				t.Fatalf("the lease ended: %s", why)
			}
			l.follow(nil)
			if got := l.settings(); got != before || runtime.GOMAXPROCS(0) != procs {
				t.Errorf("restored, the runtime says %+v, want %+v", got, before)
			}
			// The runtime's default stops the world only to replace a number: what
			// follows the machine already is left alone.
			stops := pauses(t)
			runtime.SetDefaultGOMAXPROCS()
			if set := pauses(t) != stops; set != (own.procs != 0) {
				t.Errorf("GOMAXPROCS is a number: %v, want %v", set, own.procs != 0)
			}
		})
	}
}

// pauses is how often the world was stopped for other than collecting.
func pauses(t *testing.T) (n uint64) {
	s := []metrics.Sample{{Name: "/sched/pauses/total/other:seconds"}}
	metrics.Read(s)
	if s[0].Value.Kind() != metrics.KindFloat64Histogram {
		t.Skip("this runtime does not count its pauses")
	}
	for _, c := range s[0].Value.Float64Histogram().Counts {
		n += c
	}
	return n
}

// TestVitals holds the formulas to the runtime: where the limit rules, its heap goal is the one
// that effectiveGOGC reckons with, and before and after a collection all values make sense.
func TestVitals(t *testing.T) {
	keep := make([][]byte, 64)
	for i := range keep {
		keep[i] = make([]byte, 1<<20)
	}
	debug.FreeOSMemory() // collects, and gives back what would count above the limit
	v := readVitals()
	if v.heapLive < 64<<20 || v.heapLive > 1<<30 || v.other == 0 || v.other > 1<<30 || v.roots == 0 {
		t.Fatalf("vitals %+v", v)
	}
	if v.gcCPU <= 0 || v.busyCPU < v.gcCPU || v.totalCPU < v.busyCPU {
		t.Errorf("processor times %+v", v)
	}
	limit := int64(v.other+v.heapLive) + 40<<20
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(limit))
	v = readVitals()
	if v.gogc != -1 || v.memlimit != limit {
		t.Errorf("GOGC %d and limit %d, want -1 and %d", v.gogc, v.memlimit, limit)
	}
	s := []metrics.Sample{{Name: "/gc/heap/goal:bytes"}}
	metrics.Read(s)
	goal := s[0].Value.Uint64()
	got := v.effectiveGOGC(-1, limit)
	want := 100 * float64(goal-v.heapLive) / float64(v.heapLive+v.roots)
	if math.Abs(got-want) > 10 {
		t.Errorf("GOGC in effect is %.1f, the runtime's goal %d makes it %.1f", got, goal, want)
	}
	if e := v.effectiveGOGC(30, noLimit); e != 30 {
		t.Errorf("without a limit GOGC 30 is %v in effect", e)
	}
	if e := v.effectiveGOGC(5, limit); e != 5 {
		t.Errorf("GOGC 5 within the limit is %v in effect", e)
	}
	runtime.KeepAlive(keep)
}

func TestEnvProcs(t *testing.T) {
	if _, ok := os.LookupEnv("GOMAXPROCS"); ok {
		defer os.Setenv("GOMAXPROCS", os.Getenv("GOMAXPROCS"))
	} else {
		defer os.Unsetenv("GOMAXPROCS")
	}
	k := runtimeKnobs(nil, nil)
	for v, want := range map[string]int{"": 0, "3": 3, "0": 0, "-1": 0, "many": 0} {
		os.Setenv("GOMAXPROCS", v)
		if got := k.envProcs(); got != want {
			t.Errorf("GOMAXPROCS=%q is %d, want %d", v, got, want)
		}
	}
}

func BenchmarkLeaseTick(b *testing.B) {
	l := newLeaser(runtimeKnobs(func(int) {}, func() int { return 100 }), quiet())
	defer l.restore()
	l.follow(&lease{ID: "a", TTL: time.Hour, GOGC: ptr(120), Limit: ptr(int64(8 << 30))})
	if id, why, _ := l.state(); id == "" {
		b.Fatal(why)
	}
	b.ReportAllocs()
	for b.Loop() {
		l.tick()
	}
}

func ptr[T any](v T) *T { return &v }
