package analyze

import (
	"fmt"
	"path"
	"slices"

	"github.com/quantra-l/quantra/profile"
)

const (
	// heapSampleRate is runtime.MemProfileRate's default: the runtime samples one allocation for so many bytes.
	heapSampleRate = 512 << 10
	// allocSaving is the least share of the CPU that less allocation shall save: bytes that cost nothing are no harm.
	allocSaving = 0.01
)

// allocator is an own function with what it allocates.
type allocator struct {
	name  string
	bytes float64
	share Estimate // of all bytes
	n     float64  // samples that rests on
}

// allocators are own functions by the bytes that they allocate, with libraries and the runtime, the most first.
func (w *waste) allocators() []allocator {
	p, col, ok := w.s.Memory.column("alloc_space")
	if !ok {
		return nil
	}
	t := newWasteTree(p, col)
	n := allocSamples(w.s.Memory)
	if n < minSamples || t.total <= 0 {
		return nil
	}
	t.unit = t.total / n
	var out []allocator
	for _, c := range heaviest(t.costByOwner()) {
		out = append(out, allocator{c.name, c.value, t.share(c.value), t.samples(c.value)})
	}
	return out
}

// allocSamples is about how many samples an allocation profile rests on: an allocation of a size s is sampled with the chance of 1 -
// exp(-s/rate), and the runtime scales what it has seen by that (runtime/pprof/protomem.go).
func allocSamples(ps Profiles) (n float64) {
	space, s, ok := ps.column("alloc_space")
	if !ok {
		return 0
	}
	objects, o, counted := ps.column("alloc_objects")
	if !counted || objects != space {
		return float64(space.Total(s)) / heapSampleRate // large objects are sampled more often: this is too few
	}
	for i, bytes := range space.Values[s] {
		if count := space.Values[o][i]; count > 0 {
			n += float64(bytes) / max(heapSampleRate, float64(bytes)/float64(count))
		}
	}
	return n
}

// allocations are own functions that allocate much of all there is to collect. What that costs is their part of the collector's work,
// which goes with the bytes allocated, and the samples of the allocator below them.
func (w *waste) allocations() []Finding {
	if w.cpu == nil || w.cpu.samples(w.cpu.total) < minSamples {
		return nil
	}
	t := w.cpu
	inMalloc := t.under(func(n string) bool { return n == "runtime.mallocgc" })
	inGC := t.under(func(n string) bool { return gcMarking[n] || gcSweeping[n] })
	var out []Finding
	for _, a := range w.allocators() {
		if a.share.Low < w.o.Allocation {
			break
		}
		malloc := 0.0
		for i := 1; i < t.Len(); i++ {
			if o := t.owner[i]; o > 0 && inMalloc[i] && !inGC[i] && t.name(o) == a.name {
				malloc += float64(t.Self[i])
			}
		}
		direct := t.share(malloc)
		cost := direct.Value + a.share.Value*w.gc.All.Value
		if sure := direct.Low + a.share.Low*w.gc.All.Low; sure < allocSaving {
			continue
		}
		f := w.finding(AllocHotLoop, "alloc_space", "total")
		f.Function, f.Unit, f.After, f.Change, f.Samples = a.name, "share", a.share, a.share, a.n
		where := w.allocLine(a.name)
		f.Sentence = fmt.Sprintf("%s allocates %s of all bytes of %s (%s), %s a second%s; allocating and collecting them takes about %s of the CPU.",
			quote(a.name), percents(a.share.Value), w.s.Service, percentInterval(a.share), byteText(a.bytes/w.covered*float64(w.s.Instances)), where, percents(cost))
		f.Next = "Keep what it allocates for the next call: a sync.Pool, a buffer that is passed in, a size that is given beforehand."
		f.Saving, f.SavingUnit = cost*w.cores, "cores"
		if w.gc.All.Low >= w.o.GC {
			f.Warnings = append(f.Warnings, "What a higher GOGC saves is a part of this: the two do not add up.")
		}
		out = append(out, f)
	}
	return out
}

// allocLine is where in a function most of its bytes are allocated: the line, and what it calls.
func (w *waste) allocLine(function string) string {
	p, col, _ := w.s.Memory.column("alloc_space")
	type place struct {
		line   int64
		file   string
		callee string
	}
	// Each stack's innermost frame of the function, and the function that it calls there.
	at := make([]place, p.Stacks.Len())
	sum := map[place]float64{}
	name := func(ln profile.Line) string { return p.Strings[p.Functions[ln.Function].Name] }
	for i := 1; i < p.Stacks.Len(); i++ {
		at[i] = at[p.Stacks.Parent[i]]
		lines := p.LinesOf(p.Stacks.Loc[i])
		for _, ln := range slices.Backward(lines) { // the outermost first
			switch n := name(ln); {
			case n == function:
				at[i] = place{line: ln.Line, file: p.Strings[p.Functions[ln.Function].File]}
			case at[i].line > 0 && at[i].callee == "":
				at[i].callee = n
			}
		}
	}
	total := 0.0
	for i, v := range p.Values[col] {
		if pl := at[p.SampleStack[i]]; pl.line > 0 {
			sum[pl] += float64(v)
			total += float64(v)
		}
	}
	best, most := place{}, 0.0
	for pl, v := range sum {
		if v > most || v == most && (pl.line < best.line || pl.line == best.line && pl.callee < best.callee) {
			best, most = pl, v
		}
	}
	if most < 0.3*total || best.line == 0 {
		return ""
	}
	text := fmt.Sprintf(", %s of that in line %d", percents(most/total), best.line)
	if best.file != "" {
		text += " of " + path.Base(best.file)
	}
	if k := codeOf(best.callee); best.callee != "" && k != codeRuntime {
		text += " by " + quote(best.callee)
	}
	return text
}
