package profile

import (
	"cmp"
	"slices"
)

// TopRow is one function. Base is the other side of a difference, else zero.
type TopRow struct {
	Name      string `json:"name"`
	File      string `json:"file,omitempty"`
	Self      int64  `json:"self"`  // pprof's flat
	Total     int64  `json:"total"` // pprof's cum: a recursive function counts once a sample
	BaseSelf  int64  `json:"baseSelf,omitempty"`
	BaseTotal int64  `json:"baseTotal,omitempty"`
}

// Top is one row for each function of column col, with the figures of
// `go tool pprof -top`: the largest self first, then the largest total (where
// pprof goes by name), then by name.
func Top(p *Profile, col int) []TopRow { return NewTree(p, col).Top() }

// Top is one row for each name in the tree but the root's: see the function [Top].
// Rows that are zero in self and in total are left out.
func (t *Tree) Top() []TopRow {
	self, total := t.byName(t.Self, t.Total)
	rows := t.rows(func(n int) TopRow {
		return TopRow{Name: t.Names[n], File: t.Files[n], Self: self[n], Total: total[n]}
	})
	slices.SortFunc(rows, func(a, b TopRow) int {
		return cmp.Or(cmp.Compare(magnitude(b.Self), magnitude(a.Self)),
			cmp.Compare(magnitude(b.Total), magnitude(a.Total)), cmp.Compare(a.Name, b.Name))
	})
	return rows
}

// Top is one row for each function of either side, the largest change of self
// first, then the largest change of total, then by name.
func (d *DiffTree) Top() []TopRow {
	self, total := d.byName(d.Self, d.Total)
	baseSelf, baseTotal := d.byName(d.BaseSelf, d.BaseTotal)
	rows := d.rows(func(n int) TopRow {
		return TopRow{d.Names[n], d.Files[n], self[n], total[n], baseSelf[n], baseTotal[n]}
	})
	slices.SortFunc(rows, func(a, b TopRow) int {
		return cmp.Or(cmp.Compare(magnitude(b.Self-b.BaseSelf), magnitude(a.Self-a.BaseSelf)),
			cmp.Compare(magnitude(b.Total-b.BaseTotal), magnitude(a.Total-a.BaseTotal)),
			cmp.Compare(a.Name, b.Name))
	})
	return rows
}

func (t *Tree) rows(row func(name int) TopRow) []TopRow {
	seen := make([]bool, len(t.Names))
	for _, n := range t.Name[1:] {
		seen[n] = true
	}
	var rows []TopRow
	for n := range t.Names {
		if !seen[n] {
			continue
		}
		if r := row(n); r.Self != 0 || r.Total != 0 || r.BaseSelf != 0 || r.BaseTotal != 0 {
			rows = append(rows, r)
		}
	}
	return rows
}

// byName sums self and total by name. A node's total counts where its name is
// the first of that name on the path from the root, so recursion counts once;
// walking in preorder with a count of each name on the path finds it in one pass.
func (t *Tree) byName(self, total []int64) (selfOf, totalOf []int64) {
	selfOf, totalOf = make([]int64, len(t.Names)), make([]int64, len(t.Names))
	onPath := make([]int32, len(t.Names))
	var path []int32
	for i := 1; i < t.Len(); i++ {
		for len(path) > 0 && path[len(path)-1] != t.Parent[i] {
			onPath[t.Name[path[len(path)-1]]]--
			path = path[:len(path)-1]
		}
		path = append(path, int32(i))
		n := t.Name[i]
		if onPath[n] == 0 {
			totalOf[n] += total[i]
		}
		onPath[n]++
		selfOf[n] += self[i]
	}
	return selfOf, totalOf
}
