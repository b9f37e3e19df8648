package web

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/quantra-l/quantra/profile"
	querierv1 "github.com/quantra-l/quantra/wire/querier/v1"
)

// flamebearer lays trees of one shape out in rows, as Pyroscope's flame graphs have them: a node is, for each tree, its offset from the end of
// the node before it in the row, its total and its own value; then its name's index. Children begin where their parent's own value ends.
func flamebearer(t *profile.Tree, selfs, totals [][]int64) (names []string, rows []*querierv1.Level, maxSelf int64) {
	index := make([]int64, len(t.Names)) // 1 + its place in names
	levels := t.Levels()
	next := make([][]int64, len(selfs)) // where the next child of a node begins
	ends := make([][]int64, len(selfs)) // of the rows
	for k := range next {
		next[k] = make([]int64, t.Len())
		ends[k] = make([]int64, int(slices.Max(levels))+1)
	}
	rows = make([]*querierv1.Level, len(ends[0]))
	for i := range t.Len() {
		level := levels[i]
		row := rows[level]
		if row == nil {
			row = &querierv1.Level{}
			rows[level] = row
		}
		for k := range selfs {
			self, total := selfs[k][i], totals[k][i]
			x := int64(0)
			if i > 0 {
				x = next[k][t.Parent[i]]
				next[k][t.Parent[i]] += total
			}
			next[k][i] = x + self
			row.Values = append(row.Values, x-ends[k][level], total, self)
			ends[k][level] = x + total
			maxSelf = max(maxSelf, self)
		}
		name := t.Name[i]
		if index[name] == 0 {
			names = append(names, t.Names[name])
			index[name] = int64(len(names))
		}
		row.Values = append(row.Values, index[name]-1)
	}
	return names, rows, maxSelf
}

func flameGraphOf(t *profile.Tree) *querierv1.FlameGraph {
	names, rows, maxSelf := flamebearer(t, [][]int64{t.Self}, [][]int64{t.Total})
	return &querierv1.FlameGraph{Names: names, Levels: rows, Total: t.Total[0], MaxSelf: maxSelf}
}

func flameGraphDiffOf(d *profile.DiffTree) *querierv1.FlameGraphDiff {
	names, rows, maxSelf := flamebearer(&d.Tree, [][]int64{d.BaseSelf, d.Self}, [][]int64{d.BaseTotal, d.Total})
	return &querierv1.FlameGraphDiff{Names: names, Levels: rows, Total: d.BaseTotal[0] + d.Total[0], MaxSelf: maxSelf,
		LeftTicks: d.BaseTotal[0], RightTicks: d.Total[0]}
}

// appendTree is Pyroscope's tree in bytes: each node is its name's length, its name, its own value and how many children follow, all numbers
// as varints, depth first. The first is a root without a name. Nothing at all is an empty tree.
func appendTree(b []byte, t *profile.Tree) []byte {
	if t.Len() == 1 {
		return b
	}
	children := make([]uint64, t.Len())
	for i := 1; i < t.Len(); i++ {
		children[t.Parent[i]]++
	}
	for i := range t.Len() {
		name := ""
		if i > 0 {
			name = t.Names[t.Name[i]]
		}
		b = binary.AppendUvarint(b, uint64(len(name)))
		b = append(b, name...)
		b = binary.AppendUvarint(b, uint64(max(t.Self[i], 0)))
		b = binary.AppendUvarint(b, children[i])
	}
	return b
}

// dotFunctions is how many functions a graph shows where nobody says: more cannot be read.
const dotFunctions = 100

// dotOf is who calls whom in Graphviz's language, of the functions with the largest totals.
func dotOf(t *profile.Tree, limit int64) string {
	if t.Total[0] == 0 {
		return ""
	}
	if limit <= 0 || limit > 10*dotFunctions {
		limit = dotFunctions
	}
	self, total := make(map[uint32]int64), make(map[uint32]int64)
	for i := 1; i < t.Len(); i++ {
		self[t.Name[i]] += t.Self[i]
		if !recurs(t, i) {
			total[t.Name[i]] += t.Total[i]
		}
	}
	shown := make([]uint32, 0, len(total))
	for n := range total {
		shown = append(shown, n)
	}
	slices.SortFunc(shown, func(a, b uint32) int {
		if total[a] != total[b] {
			return int(min(max(total[b]-total[a], -1), 1))
		}
		return strings.Compare(t.Names[a], t.Names[b])
	})
	shown = shown[:min(len(shown), int(limit))]
	var s strings.Builder
	s.WriteString("digraph \"profile\" {\nnode [shape=box]\n")
	for _, n := range shown {
		fmt.Fprintf(&s, "N%d [label=%s]\n", n, strconv.QuoteToASCII(fmt.Sprintf("%s\n%d of %d (%s)", t.Names[n], self[n], total[n], profile.FormatPercent(total[n], t.Total[0]))))
	}
	for _, e := range t.Edges() {
		if slices.Contains(shown, e.Caller) && slices.Contains(shown, e.Callee) {
			fmt.Fprintf(&s, "N%d -> N%d [label=\"%d\"]\n", e.Caller, e.Callee, e.Total)
		}
	}
	s.WriteString("}\n")
	return s.String()
}

// recurs says that node i is a call within another of the same function.
func recurs(t *profile.Tree, i int) bool {
	for p := t.Parent[i]; p > 0; p = t.Parent[p] {
		if t.Name[p] == t.Name[i] {
			return true
		}
	}
	return false
}
