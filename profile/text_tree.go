package profile

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Edge is one function calling another, in all stacks together.
type Edge struct {
	Caller, Callee uint32 // index into Tree.Names
	Total          int64  // a call that recurs in a sample counts once
}

// Edges is who calls whom, the largest first: pprof's call graph. Direct calls
// of a function by itself are not in it, as in pprof.
func (t *Tree) Edges() []Edge {
	var index pairTable
	var edges []Edge
	var onPath []int32 // of each edge, how often it is on the path to here
	edgeOf := make([]int32, t.Len())
	var path []int32
	for i := 1; i < t.Len(); i++ {
		for len(path) > 0 && path[len(path)-1] != t.Parent[i] {
			if e := edgeOf[path[len(path)-1]]; e >= 0 {
				onPath[e]--
			}
			path = path[:len(path)-1]
		}
		path = append(path, int32(i))
		edgeOf[i] = -1
		p := t.Parent[i]
		if p == 0 || t.Name[p] == t.Name[i] {
			continue
		}
		e, fresh := index.get(uint64(t.Name[p])<<32|uint64(t.Name[i]), uint32(len(edges)))
		if fresh {
			edges = append(edges, Edge{Caller: t.Name[p], Callee: t.Name[i]})
			onPath = append(onPath, 0)
		}
		if onPath[e] == 0 {
			edges[e].Total += t.Total[i]
		}
		onPath[e]++
		edgeOf[i] = int32(e)
	}
	edges = slices.DeleteFunc(edges, func(e Edge) bool { return e.Total == 0 })
	slices.SortFunc(edges, func(a, b Edge) int {
		return cmp.Or(cmp.Compare(magnitude(b.Total), magnitude(a.Total)),
			cmp.Compare(t.Names[a.Caller], t.Names[b.Caller]), cmp.Compare(t.Names[a.Callee], t.Names[b.Callee]))
	})
	return edges
}

// WriteTree writes every function with its callers above it and its callees
// below, as `go tool pprof -tree` does, the largest self first. opt.N is the
// number of functions.
func WriteTree(w io.Writer, t *Tree, opt TextOptions) error {
	rows := t.Top()
	if opt.Total == 0 {
		opt.Total = t.Total[0]
	}
	all := len(rows)
	if opt.N > 0 && all > opt.N {
		rows = rows[:opt.N]
	}
	unit := tableUnit(opt.Unit, opt.Total, func(yield func(int64, int64) bool) {
		for _, r := range rows {
			yield(r.Self, r.Total)
		}
	})
	in, callees := map[string][]Edge{}, map[string][]Edge{}
	for _, e := range t.Edges() {
		caller, callee := t.Names[e.Caller], t.Names[e.Callee]
		in[callee] = append(in[callee], e)
		callees[caller] = append(callees[caller], e)
	}
	const line = "----------------------------------------------------------+-------------\n"
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "%s      flat  flat%%   sum%%        cum   cum%%   calls calls%% + context\n", line)
	var sum int64
	for _, r := range rows {
		out.WriteString(line)
		for _, e := range in[r.Name] {
			fmt.Fprintf(out, "%50s %s |   %s\n", formatIn(e.Total, opt.Unit, unit), FormatPercent(e.Total, r.Total), printable(t.Names[e.Caller]))
		}
		sum += r.Self
		fmt.Fprintf(out, "%10s %s %s %10s %s                | %s\n", formatIn(r.Self, opt.Unit, unit), FormatPercent(r.Self, opt.Total),
			FormatPercent(sum, opt.Total), formatIn(r.Total, opt.Unit, unit), FormatPercent(r.Total, opt.Total), printable(r.Name))
		for _, e := range callees[r.Name] {
			fmt.Fprintf(out, "%50s %s |   %s\n", formatIn(e.Total, opt.Unit, unit), FormatPercent(e.Total, r.Total), printable(t.Names[e.Callee]))
		}
	}
	out.WriteString(line)
	if len(rows) < all {
		fmt.Fprintf(out, "(%d more of %d functions)\n", all-len(rows), all)
	}
	return out.Flush()
}

// WriteCallTree writes the tree with one line a node, indented below its
// caller, with total and self of each. opt.N is the number of nodes, the
// largest; the rest is summed, see [Tree.Limit].
func WriteCallTree(w io.Writer, t *Tree, opt TextOptions) error {
	if opt.Total == 0 {
		opt.Total = t.Total[0]
	}
	if opt.N > 0 {
		t = t.Limit(opt.N)
	}
	ends := t.Ends()
	last := make([]bool, t.Len()) // of its siblings
	for i := 1; i < t.Len(); i++ {
		last[i] = ends[i] == ends[t.Parent[i]]
	}
	out := bufio.NewWriter(w)
	fmt.Fprintf(out, "%10s %6s %10s %6s  %s\n", "cum", "cum%", "flat", "flat%", "function")
	prefix := make([]string, t.Len())
	for i := range t.Parent {
		name, branch := printable(t.Names[t.Name[i]]), ""
		if i > 0 {
			p := t.Parent[i]
			branch = prefix[p] + "├─ "
			prefix[i] = prefix[p] + "│  "
			if last[i] {
				branch, prefix[i] = prefix[p]+"└─ ", prefix[p]+"   "
			}
		}
		if int32(t.Name[i]) == t.Other {
			name = fmt.Sprintf("(%s)", name)
		}
		fmt.Fprintf(out, "%10s %s %10s %s  %s%s\n", FormatValue(t.Total[i], opt.Unit), FormatPercent(t.Total[i], opt.Total),
			FormatValue(t.Self[i], opt.Unit), FormatPercent(t.Self[i], opt.Total), branch, name)
	}
	if t.LeftOut > 0 {
		fmt.Fprintf(out, "(%d small nodes are summed in lines called (%s))\n", t.LeftOut, OtherName)
	}
	return out.Flush()
}

// FlameOptions says how [WriteFlame] draws. The zero value is plain ASCII, 80
// columns wide, with the root at the top.
type FlameOptions struct {
	Width  int    // in characters; 0 is 80, the least is 20
	Depth  int    // rows to draw; 0 is all that have a frame of one character
	Unit   string // of the values
	Colour bool   // ANSI 256 colours; else brackets around each frame
	Upward bool   // the root at the bottom: a flame graph; else an icicle graph
}

// WriteFlame draws the tree for a terminal: a row for each level, each frame as
// wide as its share of the total. Colours are by package, as in [WriteSVG].
func WriteFlame(w io.Writer, t *Tree, opt FlameOptions) error {
	width := opt.Width
	if width <= 0 {
		width = 80
	}
	width = max(width, 20)
	rows, hidden := flameRows(t, width)
	if opt.Depth > 0 && len(rows) > opt.Depth {
		for _, r := range rows[opt.Depth:] {
			hidden += len(r)
		}
		rows = rows[:opt.Depth]
	}
	if opt.Upward {
		slices.Reverse(rows)
	}
	out := bufio.NewWriter(w)
	for _, row := range rows {
		col := 0
		for k, c := range row {
			out.WriteString(strings.Repeat(" ", c.from-col))
			text := printable(fitName(t.Names[t.Name[c.node]], c.to-c.from-2))
			if c.node == 0 {
				text = fmt.Sprintf("%s %s", RootName, FormatValue(t.Total[0], opt.Unit))
			} else if c.to-c.from > utf8.RuneCountInString(text)+9 {
				text += " " + strings.TrimSpace(FormatPercent(t.Total[c.node], t.Total[0]))
			}
			if opt.Colour {
				paintFrame(out, t, int(c.node), k, text, c.to-c.from)
			} else {
				plainFrame(out, text, c.to-c.from)
			}
			col = c.to
		}
		out.WriteByte('\n')
	}
	if hidden > 0 || t.LeftOut > 0 {
		fmt.Fprintf(out, "(%d frames too small or too deep to draw)\n", hidden+t.LeftOut)
	}
	return out.Flush()
}

// flameCell is a frame on a row of characters.
type flameCell struct {
	node     int32
	from, to int
}

// flameRows is the frames that cover at least one character, level by level,
// and how many do not.
func flameRows(t *Tree, width int) (rows [][]flameCell, hidden int) {
	size := make([]int64, t.Len())
	for i, v := range t.Self {
		size[i] = int64(magnitude(v))
	}
	size = sumUp(t.Parent, size)
	next := make([]int64, t.Len())
	cell := func(v int64) int {
		if size[0] == 0 {
			return 0
		}
		return int(float64(v)/float64(size[0])*float64(width) + 0.5)
	}
	for i, lv := range t.Levels() {
		start := int64(0)
		if i > 0 {
			start = next[t.Parent[i]]
			next[t.Parent[i]] += size[i]
		}
		next[i] = start
		from, to := cell(start), cell(start+size[i])
		if i == 0 {
			to = width
		}
		if to <= from {
			hidden++
			continue
		}
		for len(rows) <= int(lv) {
			rows = append(rows, nil)
		}
		rows[lv] = append(rows[lv], flameCell{int32(i), from, to})
	}
	return rows, hidden
}

// flameColours are of the 216-colour cube of ANSI 256: muted backgrounds that
// black text is read on.
var flameColours = [...]int{
	216, 180, 186, 150, 115, 116, 110, 147, 182, 218, 223, 187, 151, 152, 153, 189, 217, 222, 192, 158, 159, 146, 183, 224,
}

func paintFrame(out *bufio.Writer, t *Tree, node, nth int, text string, width int) {
	colour := 252
	switch class := frameClass(t.Names[t.Name[node]]); {
	case node == 0:
		colour = 255
	case int32(t.Name[node]) == t.Other, class == "kr":
		colour = 250 - nth%2 // neighbours in grey are told apart
	default:
		colour = flameColours[packageHash(PackageOf(t.Names[t.Name[node]]))%uint64(len(flameColours))]
	}
	// A thin bar in the first character parts a frame from the one before it.
	body := ""
	if width > 1 {
		body = fit(text, width-1)
	}
	fmt.Fprintf(out, "\x1b[48;5;%dm\x1b[38;5;240m▏\x1b[38;5;16m%s\x1b[0m", colour, body)
}

func plainFrame(out *bufio.Writer, text string, width int) {
	switch width {
	case 1:
		out.WriteByte('|')
	case 2:
		out.WriteString("[]")
	default:
		out.WriteByte('[')
		s := strings.Map(func(r rune) rune {
			switch {
			case r == '…':
				return '~'
			case r > 0x7e:
				return '?'
			}
			return r
		}, fit(text, width-2))
		pad := len(s) - len(strings.TrimRight(s, " "))
		out.WriteString(s[:len(s)-pad] + strings.Repeat("-", pad))
		out.WriteByte(']')
	}
}

// fit is text in exactly width characters: cut, or filled with spaces. A
// character that a terminal draws two columns wide is not expected in names.
func fit(text string, width int) string {
	if width < 3 {
		text = "" // one or two characters of a name say nothing
	}
	text = cut(text, width)
	return text + strings.Repeat(" ", width-utf8.RuneCountInString(text))
}
