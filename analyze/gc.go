package analyze

import (
	"fmt"
	"math"
	"strings"
)

// The bounds on a GOGC that is proposed.
const (
	GCMaxFactor = 4    // the collector is never asked to run more than so many times more rarely: that is three quarters of all there is to save
	GCLeast     = 1.3  // less than that is not worth a change of settings
	GCSaving    = 0.03 // least share of the CPU that the setting shall save, for sure
	GCUseOfRoom = 0.5  // how much of the memory that is free below the limit a setting may take: the rest is for peaks
	GCTight     = 0.9  // of the limit in use: it is the limit that makes the collector run
)

// gcMarking and gcSweeping are where the collector's work begins on a stack. Marking is done once a cycle, over what is live; sweeping
// goes over what is live and what is not, once a cycle: a constant cost for each byte that is allocated, and one for each cycle.
var (
	gcMarking  = wordSet("runtime.gcBgMarkWorker runtime.gcAssistAlloc runtime.gcStart runtime.gcMarkDone runtime.gcMarkTermination runtime.wbBufFlush")
	gcSweeping = wordSet("runtime.bgsweep runtime.deductSweepCredit")
	// greenTea are functions that only the collector of Go 1.26 has, called Green Tea.
	greenTea = wordSet("runtime.scanSpan runtime.tryDeferToSpanScan runtime.scanObjectsSmall runtime.scanObjectSmall")
)

// Collecting is what collecting garbage takes of the CPU, by the samples of the profile. The runtime's own account (RuntimeFigures) is
// not taken: it counts time on the clock, so also what the operating system gave to other programs.
type Collecting struct {
	All      Estimate // shares of the CPU, 0 to 1
	Marking  Estimate // the part of it that goes with the number of collections, and not with what is allocated
	Sweeping Estimate // the part that goes with both
	Samples  float64  // that are of All
	Of       float64  // samples in the profile
	// GreenTea says that the collector is that of Go 1.26.
	GreenTea bool
}

// ReadCollecting reads a CPU profile ("cpu" in nanoseconds, else "samples"); ok is false where there is none. Samples is
// to be judged by the caller: a profile of a few says little.
func ReadCollecting(cpu Profiles) (c Collecting, ok bool) {
	t := cpuTree(cpu)
	if t == nil {
		return Collecting{}, false
	}
	return t.collecting(), true
}

func (t *wasteTree) collecting() Collecting {
	all := t.selfOf(t.under(func(n string) bool { return gcMarking[n] || gcSweeping[n] }))
	marking := t.selfOf(t.under(func(n string) bool { return gcMarking[n] }))
	return Collecting{All: t.share(all), Marking: t.share(marking), Sweeping: t.share(all - marking), Samples: t.samples(all), Of: t.samples(t.total), GreenTea: t.has(greenTea)}
}

// gcPressure says that a setting would save much of what the collector takes.
//
// The model is that of the Go GC guide (go.dev/doc/gc-guide, "The GOGC variable"): a cycle costs what there is to mark, the live heap;
// there is one for each (goal - live) bytes that are allocated; so the CPU that marking takes goes with 1/(goal - live), and twice the
// room halves it. What sweeping saves is not counted here. Nothing is said without GOMEMLIMIT, as nobody knows then what
// room there is.
func (w *waste) gcPressure() []Finding {
	t, g := w.cpu, w.figures
	if t == nil || t.samples(t.total) < minSamples || w.gc.All.Low < w.o.GC || g.Windows == 0 || g.HeapLive <= 0 || g.MemoryLimit <= 0 {
		return nil
	}
	room, free := g.HeapGoal-g.HeapLive, max(0, g.MemoryLimit-g.Memory)
	if room <= 0 {
		return nil
	}
	f := w.finding(GCPressure, "cpu", "value")
	f.Subject, f.Unit, f.After, f.Change, f.Samples = "gc_cpu", "share", w.gc.All, w.gc.All, w.gc.Samples
	f.Sentence = fmt.Sprintf("Garbage collection takes %s of %s's CPU (%s), %s of a core, %s.",
		percents(w.gc.All.Value), w.s.Service, percentInterval(w.gc.All), coresText(w.gc.All.Value*w.cores), w.gcWhy())
	w.gcWarnings(&f)

	now := 100 * room / g.HeapLive
	gogc := NeatGOGC(now*GCMaxFactor, now*(1+GCUseOfRoom*free/room))
	factor := gogc / now
	saved := w.gc.Marking.times(1 - 1/factor)
	switch {
	case g.Memory < GCTight*g.MemoryLimit && factor >= GCLeast && saved.Low >= GCSaving:
		more := room * (factor - 1)
		f.Next = fmt.Sprintf("Set GOGC=%.0f instead of about %.0f: a cycle would come after %s of allocations instead of %s, which is expected to save %s of the CPU, for %s more memory in each instance. Of its limit of %s, %s are free.",
			gogc, now, byteText(room*factor), byteText(room), percents(saved.Value), byteText(more), byteText(g.MemoryLimit), byteText(free))
		f.Saving, f.SavingUnit = saved.Value*w.cores, "cores"
	case g.Memory >= GCTight*g.MemoryLimit:
		f.Next = fmt.Sprintf("The memory limit makes the collector run: %s of %s are in use. Raise GOMEMLIMIT where the machine has the memory, or keep less alive.",
			byteText(g.Memory), byteText(g.MemoryLimit))
	default:
		return nil
	}
	if top := w.allocators(); len(top) > 0 {
		f.Next += fmt.Sprintf(" Or allocate less: %s has %s of all bytes.", quote(top[0].name), percents(top[0].share.Value))
	}
	if !w.gc.GreenTea {
		f.Next += " The collector of Go 1.26 (Green Tea) is expected to take 10 to 40 % less (release notes of Go 1.26)."
	}
	return []Finding{f}
}

// gcWhy says what makes the collector run.
func (w *waste) gcWhy() string {
	g := w.figures
	var parts []string
	if bytes := w.s.Memory.total("alloc_space"); bytes > 0 && w.covered > 0 {
		parts = append(parts, fmt.Sprintf("with %s a second allocated in each instance", byteText(bytes/w.covered)))
	}
	parts = append(parts, fmt.Sprintf("%s live and a goal of %s", byteText(g.HeapLive), byteText(g.HeapGoal)))
	return strings.Join(parts, ", ")
}

func (w *waste) gcWarnings(f *Finding) {
	g := w.figures
	if account, crowded := w.crowded(); crowded {
		f.Warnings = append(f.Warnings, fmt.Sprintf("The runtime's own account has %s: it counts time on the clock, so other programs kept the processors busy.", percents(account)))
	}
	if part := g.GCIdle / (g.GCMark + g.GCAssist + g.GCIdle); part > 0.5 {
		f.Warnings = append(f.Warnings, fmt.Sprintf("%s of the marking is done by processors that are idle otherwise: a machine of one's own would save less.", percents(part)))
	}
	if g.Windows < 10 {
		f.Warnings = append(f.Warnings, fmt.Sprintf("The heap's figures are of %.0f windows only.", g.Windows))
	}
}

// crowded says that the operating system gave the processors to others while the program wanted them: the collector took much longer by
// the runtime's clock, of which account is the part of the CPU time, than by the samples of the profile.
func (w *waste) crowded() (account float64, yes bool) {
	g := w.figures
	if g.CPU == 0 {
		return 0, false
	}
	account = (g.GCMark + g.GCAssist + g.GCIdle + g.Pause) / g.CPU
	return account, account > 1.5*w.gc.All.High
}

// NeatGOGC is a GOGC near want that a person would write, and not above most nor 1000.
func NeatGOGC(want, most float64) float64 {
	step := 50.0
	switch x := min(want, most); {
	case x < 20:
		step = 1
	case x < 100:
		step = 10
	}
	x := min(1000, math.Round(want/step)*step)
	if x > most {
		x = math.Floor(most/step) * step
	}
	return x
}

// has says that one of the names is in the tree.
func (t *wasteTree) has(names map[string]bool) bool {
	for _, n := range t.Names {
		if names[n] {
			return true
		}
	}
	return false
}
