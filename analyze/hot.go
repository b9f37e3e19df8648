package analyze

import (
	"fmt"
	"slices"
	"strings"
)

// minSamples is the fewest samples of a profile that anything is said about.
const minSamples = 100

// hotSpots are the functions that the CPU goes into. A function of the reader's own counts with all that the standard library, other
// people's libraries and the runtime do for it, and without what its own callees do: so the deepest that carries a cost is named, and
// neither main nor a handler through which everything passes. A library's function that many call, none of them most, stands by itself.
func (w *waste) hotSpots() []Finding {
	t := w.cpu
	if t == nil || t.samples(t.total) < minSamples {
		return nil
	}
	var out []Finding
	for _, c := range heaviest(t.costByOwner()) {
		share := t.share(c.value)
		if share.Low < w.o.HotSpot || len(out) == w.o.HotSpots {
			continue
		}
		out = append(out, w.hotSpot(c.name, share, c.value))
	}
	for _, c := range heaviest(t.sharedLeaves()) {
		share := t.share(c.value)
		if share.Low < w.o.HotSpot || len(out) == w.o.HotSpots {
			continue
		}
		f := w.finding(HotSpot, "cpu", "self")
		f.Function, f.Unit, f.After, f.Change = c.name, "share", share, share
		f.Samples = t.samples(c.value)
		f.Sentence = fmt.Sprintf("%s takes %s of %s's CPU by itself (%s), called from many places.",
			quote(c.name), percents(share.Value), w.s.Service, percentInterval(share))
		f.Next = "See who calls it in the sandwich view: no single caller has most of it."
		out = append(out, f)
	}
	return out
}

func (w *waste) hotSpot(name string, share Estimate, value float64) Finding {
	t := w.cpu
	f := w.finding(HotSpot, "cpu", "self")
	whole := "by itself"
	if i := slices.Index(t.Names, name); t.all[i] <= 1.25*value {
		f.Metric, whole = "total", "with all it calls"
		value = t.all[i]
		share = t.share(value)
	}
	f.Function, f.Unit, f.After, f.Change = name, "share", share, share
	f.Samples = t.samples(value)
	parts := t.callees(name)
	if whole == "by itself" && len(parts) > 0 {
		whole = "by itself and in libraries and the runtime for it"
	}
	f.Sentence = fmt.Sprintf("%s takes %s of %s's CPU %s (%s): %s of a core.",
		quote(name), percents(share.Value), w.s.Service, whole, percentInterval(share), coresText(share.Value*w.cores))
	var in []string
	for _, c := range parts {
		if part := c.value / value; part >= 0.1 && len(in) < 3 {
			in = append(in, fmt.Sprintf("%s (%s)", quote(c.name), percents(part)))
			f.Also = append(f.Also, Moved{Function: c.name, After: c.value / t.total, Why: "callee"})
		}
	}
	if len(in) > 0 {
		f.Next = "Most of it is in " + strings.Join(in, ", ") + "."
	} else {
		f.Next = "It is the function's own lines: the flame graph's source view has them."
	}
	return f
}

// coresText is a number of cores.
func coresText(c float64) string {
	if c >= 1 {
		return fmt.Sprintf("%.1f", c)
	}
	return fmt.Sprintf("%.2g", c)
}

// costByOwner is what each own function costs: with libraries and the runtime, without own callees and the collector's own workers.
func (t *wasteTree) costByOwner() map[string]float64 {
	m := map[string]float64{}
	for i, v := range t.ownCost {
		if v > 0 && t.code[i] == codeOwn {
			m[t.Names[i]] = v
		}
	}
	return m
}

// sharedLeaves are functions of libraries by their own cost, with the runtime below them, if no own function has most of it.
func (t *wasteTree) sharedLeaves() map[string]float64 {
	at := make([]int32, t.Len()) // the nearest node that is no runtime's
	by := map[string]map[string]float64{}
	for i := 1; i < t.Len(); i++ {
		at[i] = int32(i)
		if t.code[t.Name[i]] == codeRuntime {
			at[i] = at[t.Parent[i]]
		}
		leaf := at[i]
		if k := t.code[t.Name[leaf]]; leaf == 0 || t.Self[i] == 0 || k != codeStandard && k != codeLibrary {
			continue
		}
		name, owner := t.name(leaf), t.name(t.owner[i])
		if by[name] == nil {
			by[name] = map[string]float64{}
		}
		by[name][owner] += float64(t.Self[i])
	}
	out := map[string]float64{}
	for name, owners := range by {
		sum, most := 0.0, 0.0
		for owner, v := range owners {
			sum += v
			if owner != t.name(0) {
				most = max(most, v)
			}
		}
		if most < 0.6*sum && len(owners) > 2 {
			out[name] = sum
		}
	}
	return out
}

// callees are what an own function's cost is in: functions of libraries and the runtime that it calls, by all they cost for it.
func (t *wasteTree) callees(name string) []weighted {
	m := map[string]float64{}
	entry := make([]int32, t.Len()) // below an own function: the node that it called, 0 for itself
	for i := 1; i < t.Len(); i++ {
		switch p := t.Parent[i]; {
		case t.owner[i] == int32(i):
		case t.owner[i] == p:
			entry[i] = int32(i)
		default:
			entry[i] = entry[p]
		}
		// Where a goroutine is made to give way is chance: it is the function's own lines.
		if o := t.owner[i]; o > 0 && entry[i] > 0 && t.name(o) == name && t.name(entry[i]) != "runtime.asyncPreempt" {
			m[t.name(entry[i])] += float64(t.Self[i])
		}
	}
	return heaviest(m)
}
