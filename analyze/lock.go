package analyze

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/quantra-l/quantra/profile"
)

const (
	// minContentions is how often a lock must have been waited for before anything is said of it.
	minContentions = 50
	// mutexFraction is the agent's runtime.SetMutexProfileFraction: of so many contentions one is recorded, and counts for all. A
	// program that records more is judged by too few samples, never by too many.
	mutexFraction = 100
)

// lockUse is a named lock over the range.
type lockUse struct {
	name                                  string
	contentions, wait, acquisitions, hold float64
	holders, waiters                      map[string]float64 // own functions, by seconds
}

// contention is locks that are waited for long, each against the CPU time that the program used meanwhile: what is waited counts
// where it is much beside the work. Named locks are known exactly; the runtime's mutex profile stands in for programs that have none.
func (w *waste) contention() []Finding {
	if w.seconds <= 0 {
		return nil
	}
	var out []Finding
	for _, l := range w.locks() {
		if f, ok := w.lockFinding(l); ok && len(out) < mostOfAKind {
			out = append(out, f)
		}
	}
	return append(out, w.mutexes()...)
}

// waitEstimate is n waits' sum against the CPU time. Waits are taken as exponential, so that the relative variance of their sum is
// 2/n; bursts make it larger.
func (w *waste) waitEstimate(seconds, n float64) (of Estimate, perSecond Estimate) {
	rel := 1.96 * math.Sqrt(2/max(1, n))
	e := Estimate{Value: seconds, Low: max(0, seconds*(1-rel)), High: seconds * (1 + rel)}
	return e.times(1 / w.seconds), e.times(1 / w.covered)
}

func (w *waste) lockFinding(l *lockUse) (Finding, bool) {
	part, perSecond := w.waitEstimate(l.wait, l.contentions)
	if l.contentions < minContentions || part.Low < w.o.Contention {
		return Finding{}, false
	}
	f := w.finding(Contention, "wait", "value")
	f.Subject, f.Unit, f.After, f.Change, f.Samples = l.name, "seconds", perSecond, perSecond, l.contentions
	holders, waiters := heaviest(l.holders), heaviest(l.waiters)
	who := "nobody that is known"
	if len(holders) > 0 {
		f.Function, who = holders[0].name, quote(holders[0].name)
		if p := holders[0].value / max(l.hold, 1e-9); p < 0.95 {
			who += fmt.Sprintf(" (%s of the time)", percents(p))
		}
	}
	f.Sentence = fmt.Sprintf("The lock %q makes %s wait %s in every second of each instance (95 %% interval %s to %s): %s at a time, %.0f times a minute in all. %s holds it.",
		l.name, waitersText(waiters), secondsText(perSecond.Value), secondsText(perSecond.Low), secondsText(perSecond.High),
		secondsText(l.wait/l.contentions), l.contentions/w.s.To.Sub(w.s.From).Minutes(), who)
	f.Next = w.lockAdvice(l, f.Function)
	for _, h := range holders[:min(3, len(holders))] {
		f.Also = append(f.Also, Moved{Function: h.name, After: h.value / max(l.hold, 1e-9), Why: "holds"})
	}
	for _, h := range waiters[:min(3, len(waiters))] {
		f.Also = append(f.Also, Moved{Function: h.name, After: h.value / max(l.wait, 1e-9), Why: "waits"})
	}
	w.busyWarning(&f)
	return f, true
}

func waitersText(ws []weighted) string {
	var names []string
	for _, x := range ws[:min(2, len(ws))] {
		names = append(names, quote(x.name))
	}
	if len(names) == 0 {
		return "the program"
	}
	return strings.Join(names, " and ")
}

// lockAdvice says what is done while the lock is held, as far as the CPU profile knows.
func (w *waste) lockAdvice(l *lockUse, holder string) string {
	t := w.cpu
	advice := "Hold it for less, or split it."
	if holder == "" {
		return advice
	}
	in := t.under(func(n string) bool { return n == holder })
	m := map[string]float64{}
	sum := 0.0
	for i := 1; i < t.Len(); i++ {
		if o := t.owner[i]; in[i] && o > 0 {
			m[t.name(o)] += float64(t.Self[i])
			sum += float64(t.Self[i])
		}
	}
	if top := heaviest(m); len(top) > 0 && t.samples(sum) >= 20 && top[0].name != holder && top[0].value > 0.5*sum {
		advice = fmt.Sprintf("Most of what %s does is %s (%s): take it out of the lock, or make it faster.",
			quote(holder), quote(top[0].name), percents(top[0].value/sum))
	} else if l.acquisitions > 0 {
		advice = fmt.Sprintf("It is held for %s at a time. %s", secondsText(l.hold/l.acquisitions), advice)
	}
	return advice
}

// busyWarning says where the processors were short: then a holder waits for one, and those who wait for it with it.
func (w *waste) busyWarning(f *Finding) {
	if _, crowded := w.crowded(); crowded {
		f.Warnings = append(f.Warnings, "Other programs kept the processors busy: who held the lock waited for one, and so did those behind. On a quiet machine it would be less.")
	} else if g := w.figures; g.SchedCount > 0 && g.SchedTime/g.SchedCount > 1e-3 {
		f.Warnings = append(f.Warnings, fmt.Sprintf("Goroutines that could run waited %s for a processor on average: with more of them there would be less waiting for the lock, too.", secondsText(g.SchedTime/g.SchedCount)))
	}
}

// locks are the named locks, by name.
func (w *waste) locks() []*lockUse {
	by := map[string]*lockUse{}
	w.eachLock("contentions", func(l *lockUse, _ string, v float64) { l.contentions += v }, by)
	w.eachLock("acquisitions", func(l *lockUse, _ string, v float64) { l.acquisitions += v }, by)
	w.eachLock("wait", func(l *lockUse, who string, v float64) { l.wait += v / 1e9; l.waiters[who] += v / 1e9 }, by)
	w.eachLock("hold", func(l *lockUse, who string, v float64) { l.hold += v / 1e9; l.holders[who] += v / 1e9 }, by)
	out := make([]*lockUse, 0, len(by))
	for _, l := range by {
		out = append(out, l)
	}
	slices.SortFunc(out, func(a, b *lockUse) int { return cmp.Or(cmp.Compare(b.wait, a.wait), cmp.Compare(a.name, b.name)) })
	return out
}

// eachLock calls add for each sample of a column, with the lock that its label names and the own function that locked.
func (w *waste) eachLock(column string, add func(l *lockUse, who string, v float64), by map[string]*lockUse) {
	p, col, ok := w.s.Locks.column(column)
	if !ok {
		return
	}
	names := make([]string, len(p.LabelSets))
	for i, set := range p.LabelSets {
		for _, l := range set {
			if p.Strings[l.Key] == "lock" {
				names[i] = p.Strings[l.Str]
			}
		}
	}
	owner := deepestOwn(p)
	for i, v := range p.Values[col] {
		name := names[p.SampleLabels[i]]
		if name == "" || v <= 0 {
			continue
		}
		l := by[name]
		if l == nil {
			l = &lockUse{name: name, holders: map[string]float64{}, waiters: map[string]float64{}}
			by[name] = l
		}
		add(l, owner[p.SampleStack[i]], float64(v))
	}
}

// deepestOwn is for each stack the innermost function of the reader's own, "(libraries)" where there is none.
func deepestOwn(p *profile.Profile) []string {
	const none = "(libraries)"
	kinds := map[uint32]codeKind{}
	out := make([]string, p.Stacks.Len())
	out[0] = none
	for i := 1; i < len(out); i++ {
		out[i] = out[p.Stacks.Parent[i]]
		for _, ln := range slices.Backward(p.LinesOf(p.Stacks.Loc[i])) {
			k, ok := kinds[ln.Function]
			if !ok {
				k = codeOf(p.Strings[p.Functions[ln.Function].Name])
				kinds[ln.Function] = k
			}
			if k == codeOwn {
				out[i] = p.Strings[p.Functions[ln.Function].Name]
			}
		}
	}
	return out
}

// mutexWaits are seconds that others waited, and how often by the profile, by the own function that unlocked.
func (w *waste) mutexWaits() (seconds, counts map[string]float64) {
	seconds, counts = map[string]float64{}, map[string]float64{}
	if p, delay, ok := w.s.Mutex.column("delay"); ok {
		t := newWasteTree(p, delay)
		for i := 1; i < t.Len(); i++ {
			if o := t.owner[i]; o > 0 && t.Self[i] > 0 && t.name(int32(i)) != "runtime.unlock" {
				seconds[t.name(o)] += float64(t.Self[i]) / 1e9
			}
		}
	}
	if q, c, ok := w.s.Mutex.column("contentions"); ok {
		ct := newWasteTree(q, c)
		for i := 1; i < ct.Len(); i++ {
			if o := ct.owner[i]; o > 0 {
				counts[ct.name(o)] += float64(ct.Self[i])
			}
		}
	}
	return seconds, counts
}

// mutexes are locks by the runtime's mutex profile, which knows who made others wait and not of which lock: one finding for each own
// function that unlocks. Below agent/lock nothing is the program's own, so named locks are left to what they tell themselves.
func (w *waste) mutexes() []Finding {
	seconds, counts := w.mutexWaits()
	var out []Finding
	for _, m := range heaviest(seconds) {
		n := counts[m.name] / mutexFraction
		part, perSecond := w.waitEstimate(m.value, n)
		if n < minContentions/2 || part.Low < w.o.Contention || len(out) == mostOfAKind {
			continue
		}
		f := w.finding(Contention, "delay", "total")
		f.Function, f.Unit, f.After, f.Change, f.Samples = m.name, "seconds", perSecond, perSecond, n
		f.Sentence = fmt.Sprintf("A lock that %s holds makes others wait %s in every second of each instance (95 %% interval %s to %s), %s at a time.",
			quote(m.name), secondsText(perSecond.Value), secondsText(perSecond.Low), secondsText(perSecond.High), secondsText(m.value/counts[m.name]))
		f.Next = "Hold it for less, or split it. With agent/lock the lock has a name, and who waits is known, too."
		w.busyWarning(&f)
		out = append(out, f)
	}
	return out
}
