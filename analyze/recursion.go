package analyze

import "fmt"

const (
	// recursionRepeats is how often a function must be on one stack. Parsers, encoders and walks of trees go as deep as their input,
	// which is rarely more than some tens.
	recursionRepeats = 30
	recursionDepth   = 60      // frames of such a stack, at least
	recursionPart    = 0.8     // of the samples with the function, so many must be that deep
	recursionSamples = 20      // at least
	recursionStacks  = 8 << 20 // bytes of stacks: what is really without bound has more
)

// recursion is functions that call themselves without bound. Profiles keep the innermost frames of a stack, 64 or 128, so such a stack has
// lost its beginning: its outermost frame is of the recursion itself. A recursion that is deep and bounded looks the same; the
// memory that stacks have tells them apart, where it is known.
func (w *waste) recursion() []Finding {
	if w.cpu == nil || w.figures.Windows > 0 && w.figures.Stacks < recursionStacks {
		return nil
	}
	t := w.cpu
	deep := t.deepRecursion()
	var out []Finding
	for _, d := range heaviest(deep) {
		i := nameIndex(t, d.name)
		n := t.samples(d.value)
		part := Share(n, t.samples(t.all[i]))
		if n < recursionSamples || part.Low < recursionPart || t.code[i] != codeOwn && w.figures.Windows == 0 {
			continue
		}
		share := t.share(d.value)
		f := w.finding(Recursion, "cpu", "total")
		f.Function, f.Unit, f.After, f.Change, f.Samples = d.name, "share", share, share, n
		f.Sentence = fmt.Sprintf("%s calls itself deeper than profiles can show, in %s of %s's CPU (%s).",
			quote(d.name), percents(share.Value), w.s.Service, percentInterval(share))
		f.Next = "Look for the case in which it does not end. Where it must go as deep, a loop with a stack of its own takes less memory."
		if g := w.figures; g.Windows > 0 {
			f.Next = fmt.Sprintf("Stacks have %s in each instance. ", byteText(g.Stacks)) + f.Next
		} else {
			f.Warnings = append(f.Warnings, "How much memory stacks have is not known: a recursion that is bounded and deep would look the same.")
		}
		return append(out, f) // those that call one another are one
	}
	return nil
}

func nameIndex(t *wasteTree, name string) int {
	for i, n := range t.Names {
		if n == name {
			return i
		}
	}
	return -1
}

// deepRecursion is, by function, the values of stacks on which it is again and again and whose outermost frame it shares.
func (t *wasteTree) deepRecursion() map[string]float64 {
	out := map[string]float64{}
	count := make([]int32, len(t.Names)) // on the path
	var path []int32
	for i := 1; i < t.Len(); i++ {
		for len(path) > 0 && path[len(path)-1] != t.Parent[i] {
			count[t.Name[path[len(path)-1]]]--
			path = path[:len(path)-1]
		}
		path = append(path, int32(i))
		n := t.Name[i]
		count[n]++
		// A call of the cycle has been lost at the outer end, so whatever is there belongs to it.
		if outer := t.Name[path[0]]; t.Self[i] != 0 && len(path) >= recursionDepth && count[outer] >= recursionRepeats/2 {
			most := outer
			for _, at := range path[:min(len(path), 8)] { // a cycle of several: the one that is there most often
				if m := t.Name[at]; count[m] > count[most] || count[m] == count[most] && t.Names[m] < t.Names[most] {
					most = m
				}
			}
			if count[most] >= recursionRepeats {
				out[t.Names[most]] += float64(t.Self[i])
			}
		}
	}
	return out
}
