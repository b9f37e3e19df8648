package analyze

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"strings"
)

// Bounds of the search for renamed functions.
const (
	renameSamples    = 20  // a side must have of a function that may have been renamed
	renameCandidates = 200 // a side, the largest
	renameAlike      = 0.6 // of 1: how alike two must be
	renamePasses     = 3   // a function whose callers were renamed too is found in the next
)

// rename does what the caller knows.
func (c *comparer) rename(known map[string]string) {
	for _, from := range slices.Sorted(maps.Keys(known)) {
		f, ok := c.ids[from]
		g, found := c.ids[known[from]]
		if ok && found && f != g {
			c.merge(f, g)
		}
	}
}

// merge lets base's f be head's g, where neither is in the other side.
func (c *comparer) merge(f, g int32) bool {
	a, b := &c.sides[0], &c.sides[1]
	if a.moments[mFull][f].x == 0 || b.moments[mFull][f].x != 0 || a.moments[mFull][g].x != 0 || b.moments[mFull][g].x == 0 {
		return false
	}
	for m := range a.moments {
		a.moments[m][g], a.moments[m][f] = a.moments[m][f], moments{}
	}
	c.funcs[f].alias = g
	return true
}

// matchRenamed finds functions that are only called otherwise: one that is gone and one that is new, of about the same share,
// with much the same callers and callees.
func (c *comparer) matchRenamed() {
	for range renamePasses {
		gone, fresh := c.onlyIn(0), c.onlyIn(1)
		if len(gone) == 0 || len(fresh) == 0 {
			return
		}
		around := c.neighbours(append(slices.Clone(gone), fresh...))
		type match struct {
			f, g  int32
			alike float64
		}
		var matches []match
		for _, f := range gone {
			for _, g := range fresh {
				if a := c.alike(f, g, around); a >= renameAlike {
					matches = append(matches, match{f, g, a})
				}
			}
		}
		slices.SortFunc(matches, func(x, y match) int {
			return cmp.Or(cmp.Compare(y.alike, x.alike), cmp.Compare(x.f, y.f), cmp.Compare(x.g, y.g))
		})
		merged := false
		for _, m := range matches {
			merged = c.merge(m.f, m.g) || merged
		}
		if !merged {
			return
		}
	}
}

// onlyIn is the largest functions that one side has and the other has nothing of.
func (c *comparer) onlyIn(side int) []int32 {
	here, there := c.sides[side].moments[mFull], c.sides[1-side].moments[mFull]
	var out []int32
	for f := range c.funcs {
		if c.funcs[f].alias == int32(f) && here[f].x >= renameSamples && there[f].x == 0 {
			out = append(out, int32(f))
		}
	}
	slices.SortFunc(out, func(a, b int32) int { return cmp.Or(cmp.Compare(here[b].x, here[a].x), cmp.Compare(a, b)) })
	return out[:min(len(out), renameCandidates)]
}

// neighbourhood is who calls a function and what it calls, as shares of its samples. Its own are callee -2.
type neighbourhood struct{ callers, callees map[int32]float64 }

func (c *comparer) neighbours(of []int32) map[int32]*neighbourhood {
	out := map[int32]*neighbourhood{}
	for _, f := range of {
		out[f] = &neighbourhood{map[int32]float64{}, map[int32]float64{}}
	}
	t := &c.trie
	total := make([]float64, len(t.parent)) // of both sides: each of these functions is in one only
	for n := len(total) - 1; n > 0; n-- {
		total[n] += t.self[0][n] + t.self[1][n]
		total[t.parent[n]] += total[n]
	}
	for n := 1; n < len(t.parent); n++ {
		f, above := c.alias(t.fn[n]), c.alias(t.fn[t.parent[n]])
		if nb := out[f]; nb != nil && above != f {
			nb.callers[above] += total[n]
			nb.callees[-2] += t.self[0][n] + t.self[1][n]
		}
		if nb := out[above]; nb != nil && above != f {
			nb.callees[f] += total[n]
		}
	}
	for _, nb := range out {
		for _, m := range []map[int32]float64{nb.callers, nb.callees} {
			var sum float64
			for _, k := range slices.Sorted(maps.Keys(m)) {
				sum += m[k]
			}
			for k := range m {
				m[k] /= sum
			}
		}
	}
	return out
}

// alike is how likely it is that base's f is head's g, from 0 to 1.
func (c *comparer) alike(f, g int32, around map[int32]*neighbourhood) float64 {
	full := c.difference([2]moments{c.sides[0].moments[mFull][f], c.sides[1].moments[mFull][g]})
	own := c.difference([2]moments{c.sides[0].moments[mOwn][f], c.sides[1].moments[mOwn][g]})
	near := func(d Difference) bool {
		before, after := c.scale.Value*d.Before.Value, d.After.Value
		return d.Real.Low <= 0 && d.Real.High >= 0 || before < 1.5*after && after < 1.5*before
	}
	if !near(full) || !near(own) {
		return 0
	}
	a, b := around[f], around[g]
	context := (overlap(a.callers, b.callers) + overlap(a.callees, b.callees)) / 2
	name := 0.0
	if c.funcs[f].pkg == c.funcs[g].pkg || lastName(c.funcs[f].name) == lastName(c.funcs[g].name) {
		name = 1
	}
	return 0.75*context + 0.25*name
}

// overlap is how much two divisions of 1 have in common.
func overlap(a, b map[int32]float64) float64 {
	var sum float64
	for _, k := range slices.Sorted(maps.Keys(a)) { // in order, so that the sum is the same each time
		sum += math.Min(a[k], b[k])
	}
	return sum
}

// lastName is a function's name without its package and receiver.
func lastName(name string) string {
	return name[strings.LastIndexByte(name, '.')+1:]
}
