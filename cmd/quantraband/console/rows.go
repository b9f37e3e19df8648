package console

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/quantra-l/quantra/agent/live"
	"github.com/quantra-l/quantra/analyze/sched"
	"github.com/quantra-l/quantra/profile"
)

// fold says whether a row has others below it.
type fold byte

const (
	leaf fold = iota
	closed
	opened
)

// row is one line of a view.
type row struct {
	key   string
	depth int
	fold  fold
	cells []string
	text  string
	style style
}

// column is a column of cells before the text. Where the terminal is narrow the
// ones with the highest drop go first.
type column struct {
	title string
	width int
	drop  int
}

// columns are those of the view, and the title of the text.
func (m *Model) columns() ([]column, string) {
	switch m.view {
	case Goroutines:
		return []column{{"COUNT", 9, 0}, {"WAIT", 6, 1}, {"STATE", -22, 2}}, "FUNCTION"
	case States:
		return []column{{"COUNT", 9, 0}, {"WAIT", 6, 1}}, "STATE"
	case Leaks:
		return []column{{"GREW", 9, 0}, {"NOW", 9, 1}, {"WAIT", 6, 2}, {"STATE", -18, 3}}, "FUNCTION"
	case Hottest:
		return []column{{"SELF", 9, 0}, {"SELF%", 7, 1}, {"TOTAL", 9, 3}, {"TOTAL%", 7, 2}}, "FUNCTION"
	case Trace:
		return []column{{"COUNT", 7, 2}, {"RUN", 8, 0}, {"READY", 8, 0}, {"LONGEST", 8, 3}, {"BLOCKED", 8, 1}, {"SYSCALL", 8, 4}, {"ASSIST", 8, 5}}, "FUNCTION"
	}
	return []column{{"VALUE", 12, 0}, {"A SECOND", 12, 1}}, "FIGURE"
}

// rows are all rows of the view, as it is folded and searched.
func (m *Model) rows() []row {
	var out []row
	switch m.view {
	case Goroutines:
		if m.tree != nil {
			for _, n := range m.tree.Children {
				out = m.nodeRows(out, n, "g", 0)
			}
		}
	case States:
		out = m.stateRows()
	case Leaks:
		out = m.leakRows()
	case Hottest:
		out = m.functionRows()
	case Memory:
		out = m.figureRows()
	case Trace:
		out = m.traceRows()
	}
	if m.search != "" {
		out = m.found(out)
	}
	p := m.place()
	p.cursor = max(0, min(p.cursor, len(out)-1))
	return out
}

// found are the rows that hold what is searched, and those they stand below.
func (m *Model) found(rows []row) []row {
	keep := make([]bool, len(rows))
	for i, r := range rows {
		if strings.Contains(strings.ToLower(r.text+" "+strings.Join(r.cells, " ")), m.search) {
			keep[i] = true
			depth := r.depth
			for j := i - 1; j >= 0 && depth > 0; j-- {
				if rows[j].depth < depth {
					keep[j], depth = true, rows[j].depth
				}
			}
		}
	}
	var out []row
	for i, r := range rows {
		if keep[i] {
			out = append(out, r)
		}
	}
	return out
}

// isOpen says whether a row is open, where it is open by default or not. A search opens all.
func (m *Model) isOpen(key string, byDefault bool) bool {
	return m.search != "" || m.toggle[key] != byDefault
}

func foldOf(open bool) fold {
	if open {
		return opened
	}
	return closed
}

const (
	openDepth    = 2  // how deep the tree is open at first
	maxGroupRows = 50 // stacks that are shown of one node
)

func (m *Model) nodeRows(out []row, n *live.Node, path string, depth int) []row {
	key := path + "\x00" + n.Creator + "\x00" + n.Func
	open := m.isOpen(key, depth < openDepth && len(n.Children) > 0)
	text := shortFunc(n.Func)
	var st style
	switch {
	case n.Ended:
		text += "  (created by it, and it has ended)"
		st = dim
	case n.Creator != "" && shortFunc(n.Creator) != parentName(path):
		text += "  by " + shortFunc(n.Creator)
	}
	f := foldOf(open)
	if len(n.Children) == 0 && len(n.Groups) == 0 {
		f = leaf
	}
	count := strconv.Itoa(n.Total)
	out = append(out, row{key, depth, f, []string{count, wait(n.WaitMax), statesOf(n.States)}, text, st})
	if !open {
		return out
	}
	for _, c := range n.Children {
		out = m.nodeRows(out, c, key, depth+1)
	}
	if len(n.Children) == 0 {
		return m.groupRows(out, n.Groups, key, depth+1)
	}
	// Who looks at who created whom does not want stacks between; they are one row until it is opened.
	if n.Count > 0 {
		own := key + "\x00own"
		out = append(out, row{own, depth + 1, foldOf(m.isOpen(own, false)), []string{strconv.Itoa(n.Count), wait(n.WaitMax), statesOf(n.States)}, "(" + shortFunc(n.Func) + " itself)", dim})
		if m.isOpen(own, false) {
			out = m.groupRows(out, n.Groups, own, depth+2)
		}
	}
	return out
}

// parentName is the short name of the function that a path ends with.
func parentName(path string) string {
	return shortFunc(path[strings.LastIndexByte(path, 0)+1:])
}

// groupRows shows groups of the snapshot, each to be opened to its stack.
func (m *Model) groupRows(out []row, groups []int, path string, depth int) []row {
	for n, i := range groups {
		if n == maxGroupRows {
			out = append(out, row{key: path + "\x00more", depth: depth, cells: []string{"", "", ""}, text: fmt.Sprintf("... and %d stacks more", len(groups)-n), style: dim})
			break
		}
		g := &m.snap.Groups[i]
		key := path + "\x00" + strconv.Itoa(i)
		out = append(out, m.groupRow(g, key, depth, []string{strconv.Itoa(g.Count), wait(g.WaitMax), stateText(g)}))
		if m.isOpen(key, false) {
			out = stackRows(out, g, key, depth+1, 3)
		}
	}
	return out
}

func (m *Model) groupRow(g *live.Group, key string, depth int, cells []string) row {
	r := row{key: key, depth: depth, fold: foldOf(m.isOpen(key, false)), cells: cells, text: "at " + where(g), style: dim}
	if len(g.Stack) == 0 && g.Creator == nil {
		r.fold, r.text = leaf, "(not known)"
	}
	return r
}

// stackRows shows a group's stack, the leaf first, and its creator.
func stackRows(out []row, g *live.Group, path string, depth, cells int) []row {
	add := func(i int, text string) {
		out = append(out, row{key: path + "\x00f" + strconv.Itoa(i), depth: depth, cells: make([]string, cells), text: text, style: dim})
	}
	for i, f := range g.Stack {
		if f.Func == live.Elided {
			add(i, fmt.Sprintf("... %d frames", f.Line))
			continue
		}
		add(i, shortFunc(f.Func)+"  "+fileLine(f))
	}
	if g.Creator != nil {
		add(-1, "created by "+shortFunc(g.Creator.Func)+"  "+fileLine(*g.Creator))
	}
	if len(g.IDs) > 0 {
		ids := ""
		for i, id := range g.IDs {
			if i == 10 {
				ids += " ..."
				break
			}
			ids += " " + strconv.FormatUint(id, 10)
		}
		add(-2, "ids"+ids)
	}
	return out
}

func (m *Model) stateRows() (out []row) {
	type sum struct {
		count, wait int
		groups      []int
	}
	by := map[string]*sum{}
	for i, g := range m.snap.Groups {
		s := by[g.State]
		if s == nil {
			s = &sum{}
			by[g.State] = s
		}
		s.count += g.Count
		s.wait = max(s.wait, g.WaitMax)
		s.groups = append(s.groups, i)
	}
	names := slices.SortedFunc(maps.Keys(by), func(a, b string) int {
		return cmp.Or(cmp.Compare(by[b].count, by[a].count), cmp.Compare(a, b))
	})
	for _, name := range names {
		s := by[name]
		key := "s\x00" + name
		open := m.isOpen(key, false)
		out = append(out, row{key, 0, foldOf(open), []string{strconv.Itoa(s.count), wait(s.wait)}, name, plain})
		if !open {
			continue
		}
		for n, i := range s.groups {
			if n == maxGroupRows && m.search == "" {
				out = append(out, row{key: key + "\x00more", depth: 1, cells: []string{"", ""}, text: fmt.Sprintf("... and %d stacks more", len(s.groups)-n), style: dim})
				break
			}
			g := &m.snap.Groups[i]
			k := key + "\x00" + strconv.Itoa(i)
			r := m.groupRow(g, k, 1, []string{strconv.Itoa(g.Count), wait(g.WaitMax)})
			r.text = shortFunc(cmp.Or(g.Entry(), "(not known)")) + "  " + r.text
			out = append(out, r)
			if m.isOpen(k, false) {
				out = stackRows(out, g, k, 2, 2)
			}
		}
	}
	return out
}

// growths are what the view of leaks shows: what grew since the first look, then what waits long and did not grow.
func (m *Model) growths() []live.Growth {
	out := live.Compare(m.first[m.snap.Detail], m.snap)
	grew := map[*live.Frame]bool{} // by the stack's first frame, which the two share
	for i := range out {
		grew[&out[i].Stack[0]] = true
	}
	var long []live.Growth
	for _, g := range m.snap.Groups {
		if len(g.Stack) > 0 && !grew[&g.Stack[0]] && g.WaitMax >= 60*live.LeakMinutes {
			long = append(long, live.Growth{Group: g, Before: g.Count})
		}
	}
	slices.SortStableFunc(long, func(a, b live.Growth) int {
		return cmp.Or(cmp.Compare(b.WaitMax, a.WaitMax), cmp.Compare(b.Count, a.Count))
	})
	return append(out, long...)
}

func (m *Model) leakRows() (out []row) {
	for i, g := range m.grown {
		if i == 500 {
			break
		}
		st := plain
		switch {
		case g.Suspect:
			st = alarm
		case g.Count == g.Before:
			st = dim
		}
		key := "l\x00" + g.State + "\x00" + g.Entry() + "\x00" + where(&g.Group)
		text := shortFunc(g.Entry()) + "  at " + where(&g.Group)
		if g.Leaked > 0 {
			text += fmt.Sprintf("  (%d leaked, says the runtime)", g.Leaked)
		}
		open := m.isOpen(key, false)
		grew := "-"
		if d := g.Count - g.Before; d != 0 {
			grew = fmt.Sprintf("%+d", d)
		}
		out = append(out, row{key, 0, foldOf(open), []string{grew, strconv.Itoa(g.Count), wait(g.WaitMax), stateText(&g.Group)}, text, st})
		if open {
			out = stackRows(out, &g.Group, key, 1, 4)
		}
	}
	return out
}

func (m *Model) functionRows() (out []row) {
	for i, r := range m.funcs.Rows {
		if i == 2000 {
			break
		}
		share := func(v int64) string { return strings.TrimSpace(profile.FormatPercent(v, m.funcs.Total)) }
		key := "f\x00" + r.Name
		open := m.isOpen(key, false) && m.search == ""
		row_ := row{key: key, fold: foldOf(open), text: shortFunc(r.Name), cells: []string{
			profile.FormatValue(r.Self, m.funcs.Sample.Unit), share(r.Self), profile.FormatValue(r.Total, m.funcs.Sample.Unit), share(r.Total)}}
		out = append(out, row_)
		if open {
			out = append(out, row{key: key + "\x00n", depth: 1, cells: make([]string, 4), text: r.Name + "  " + r.File, style: dim})
		}
	}
	return out
}

func (m *Model) figureRows() (out []row) {
	before := map[string]Figure{}
	for _, f := range m.was.Figures {
		before[f.Group+"\x00"+f.Name] = f
	}
	seconds := m.figs.Time.Sub(m.was.Time).Seconds()
	group := ""
	for i, f := range m.figs.Figures {
		if f.Group != group && f.Group != "" {
			group = f.Group
			out = append(out, row{key: "r\x00" + group, cells: []string{"", ""}, text: group, style: bold})
		}
		rate := ""
		if b, ok := before[f.Group+"\x00"+f.Name]; ok && f.Counter && seconds > 0 && f.Value >= b.Value {
			rate = figure((f.Value-b.Value)/seconds, f.Unit)
		}
		value := cmp.Or(f.Text, figure(f.Value, f.Unit))
		depth := 0
		if f.Group != "" {
			depth = 1
		}
		r := row{key: "r\x00" + strconv.Itoa(i), depth: depth, cells: []string{value, rate}, text: f.Name}
		if f.Text != "" { // a text does not fit into a column of figures
			r.cells[0], r.text = "", f.Name+": "+f.Text
		}
		out = append(out, r)
	}
	return out
}

func (m *Model) traceRows() (out []row) {
	blocked := func(t *sched.Times) time.Duration {
		var d time.Duration
		for _, b := range t.Blocked {
			d += b
		}
		return d
	}
	cells := func(count int, t *sched.Times) []string {
		return []string{strconv.Itoa(count), span(t.Run), span(t.Runnable), span(t.RunnableMax), span(blocked(t)), span(t.Syscall), span(t.Assist)}
	}
	for i := range m.trace.Groups {
		g := &m.trace.Groups[i]
		key := "t\x00" + g.Entry
		open := m.isOpen(key, false) && m.search == ""
		st := plain
		if g.System {
			st = dim
		}
		out = append(out, row{key, 0, foldOf(open), cells(g.Count, &g.Times), shortFunc(g.Entry), st})
		if !open {
			continue
		}
		reasons := slices.SortedFunc(maps.Keys(g.Blocked), func(a, b string) int { return cmp.Compare(g.Blocked[b], g.Blocked[a]) })
		for _, r := range reasons {
			out = append(out, row{key: key + "\x00r" + r, depth: 1, cells: []string{"", "", "", "", span(g.Blocked[r]), "", ""}, text: "blocked: " + r, style: dim})
		}
		shown := 0
		for j := range m.trace.Top {
			x := &m.trace.Top[j]
			if x.Entry != g.Entry || shown == 20 {
				continue
			}
			shown++
			c := cells(1, &x.Times)
			c[0] = ""
			out = append(out, row{key: key + "\x00" + strconv.FormatInt(x.ID, 10), depth: 1, cells: c, text: "goroutine " + strconv.FormatInt(x.ID, 10), style: dim})
		}
	}
	return out
}
