package console

import (
	"fmt"
	"strings"
	"time"
)

// style is how a piece of text looks.
type style byte

const (
	plain style = iota
	dim
	bold
	alarm
	title
	chosen // the row under the cursor
)

// codes are the styles as SGR parameters of ECMA-48.
var codes = map[style]string{dim: "2", bold: "1", alarm: "31", title: "7", chosen: "7"}

// paint is text in a style, where there are colours.
func (m *Model) paint(s style, text string) string {
	if !m.o.Colour || s == plain || text == "" {
		return text
	}
	return "\x1b[" + codes[s] + "m" + text + "\x1b[0m"
}

// Smallest screen that something can be shown on; on a smaller one nothing is.
const minWidth, minHeight = 20, 5

// Render is the screen as lines: height of them, each of at most width columns. Without
// Options.Colour it has no escape sequences.
func (m *Model) Render(width, height int) []string {
	if width < minWidth || height < minHeight {
		out := make([]string, max(height, 0))
		if len(out) > 0 {
			out[0] = clip("too small", width)
		}
		return out
	}
	out := []string{m.paint(title, pad(" "+clean(m.head(width-2)), -width)), m.paint(m.noteStyle(), clip(clean(m.note()), width))}
	if m.help {
		out = append(out, helpLines(width, height-3)...)
	} else {
		out = append(out, m.table(width, height-3)...)
	}
	for len(out) < height-1 {
		out = append(out, "")
	}
	return append(out[:height-1], m.keys(width))
}

// head is the first line: whose figures these are, and how they are got.
func (m *Model) head(width int) string {
	left := m.src.Name
	right := m.view.Name()
	switch {
	case m.pause:
		right += ", paused"
	case m.view == Trace:
	default:
		right += ", every " + m.every(m.view).Round(100*time.Millisecond).String()
	}
	if space := width - len([]rune(left)) - len([]rune(right)); space > 0 {
		return left + strings.Repeat(" ", space) + right
	}
	return clip(left, max(width-len([]rune(right))-1, 0)) + " " + right
}

// note is the second line: what is known, what is being waited for, or what went wrong.
func (m *Model) note() string {
	v := m.view.data()
	if !m.can(v) {
		return m.cannot()
	}
	if err := m.err[v]; err != nil {
		s := "! " + strings.Join(strings.Fields(err.Error()), " ")
		if !m.lastGood(v).IsZero() {
			s += "; what is shown is older"
		}
		return s
	}
	if m.got[v].IsZero() {
		if m.loading == v {
			return "waiting for " + m.what() + dots(m.now.Sub(m.since))
		}
		return "press " + string(rune(m.view)) + " for " + m.what()
	}
	s := m.facts()
	if m.loading == v && (v == Hottest || v == Trace || m.now.Sub(m.since) > time.Second) {
		s += ", taking " + m.what() + dots(m.now.Sub(m.since))
	}
	return s
}

func (m *Model) noteStyle() style {
	if m.err[m.view.data()] != nil {
		return alarm
	}
	return plain
}

func (m *Model) lastGood(v View) time.Time {
	switch v {
	case Goroutines:
		return m.snap.Time
	case Memory:
		return m.figs.Time
	case Hottest:
		if m.funcs.Rows != nil {
			return m.got[v]
		}
	case Trace:
		if m.trace.Events > 0 {
			return m.got[v]
		}
	}
	return time.Time{}
}

func (m *Model) cannot() string {
	return "this program does not give " + m.what()
}

func (m *Model) what() string {
	switch m.view.data() {
	case Hottest:
		return "a processor profile"
	case Memory:
		return "runtime figures"
	case Trace:
		return "an execution trace"
	}
	return "a list of goroutines"
}

func dots(d time.Duration) string {
	return " " + strings.Repeat(".", 1+int(d/(500*time.Millisecond))%3)
}

// facts is what the view's data say in one line.
func (m *Model) facts() string {
	var s string
	switch m.view {
	case Goroutines, States, Leaks:
		s = fmt.Sprintf("%d goroutines in %d groups, %s, taken in %s", m.snap.Total, len(m.snap.Groups), map[bool]string{true: "all details", false: "by counts (F for all details)"}[m.snap.Detail == "full"], span(m.snap.Took))
		if m.view == Leaks {
			since := m.first[m.snap.Detail]
			s = fmt.Sprintf("%d goroutines, %+d since %s (c counts from now)", m.snap.Total, m.snap.Total-since.Total, since.Time.Local().Format("15:04:05"))
		}
		if m.snap.Truncated {
			s += ", some left out"
		}
	case Hottest:
		s = fmt.Sprintf("%s of %s", figure(float64(m.funcs.Total), m.funcs.Sample.Unit), m.funcs.Over)
	case Memory:
		s = "as of " + m.figs.Time.Local().Format("15:04:05")
	case Trace:
		t := m.trace
		s = fmt.Sprintf("%s, %d goroutines, GOMAXPROCS %d: run %s, ready but no processor %s; GC %d, world stopped %s (longest %s)",
			span(t.Window), t.Goroutines, t.Procs, span(t.Run), span(t.Runnable), t.GC.Cycles, span(t.GC.STW), span(t.GC.STWMax))
		if len(t.Warnings) > 0 {
			s += "; " + t.Warnings[0]
		}
	}
	return s
}

// table is the view's rows, scrolled so that the cursor is seen, below the columns' titles.
func (m *Model) table(width, height int) []string {
	cols, name := m.columns()
	cols, shown := fitting(cols, width)
	cells := make([]string, len(cols))
	for i, c := range cols {
		cells[i] = c.title
	}
	out := []string{m.paint(bold, clip(joined("  ", cols, cells)+name, width))}
	rows := m.rows()
	m.page = max(height-1, 1)
	p := m.place()
	p.top = max(0, min(p.top, len(rows)-m.page))
	if p.cursor < p.top {
		p.top = p.cursor
	}
	if p.cursor >= p.top+m.page {
		p.top = p.cursor - m.page + 1
	}
	for i := p.top; i < min(len(rows), p.top+m.page); i++ {
		out = append(out, m.line(rows[i], cols, shown, width, i == p.cursor))
	}
	if len(rows) == 0 && !m.got[m.view.data()].IsZero() && m.err[m.view.data()] == nil {
		out = append(out, "  "+clip(m.nothing(), width-2))
	}
	return out
}

func (m *Model) nothing() string {
	switch {
	case m.search != "":
		return "nothing here has " + clean(m.search)
	case m.view == Leaks:
		return "nothing grew, and nothing has waited for minutes"
	}
	return "nothing"
}

// fitting are the columns that leave room for the text, and their indexes.
func fitting(cols []column, width int) (fit []column, index []int) {
	const text = 24
	used := 2
	for _, c := range cols {
		used += max(c.width, -c.width) + 1
	}
	gone := map[int]bool{}
	for used+text > width && len(gone) < len(cols)-1 {
		worst := -1
		for i, c := range cols {
			if !gone[i] && (worst < 0 || c.drop >= cols[worst].drop) {
				worst = i
			}
		}
		gone[worst] = true
		used -= max(cols[worst].width, -cols[worst].width) + 1
	}
	for i, c := range cols {
		if !gone[i] {
			fit, index = append(fit, c), append(index, i)
		}
	}
	return fit, index
}

func joined(gutter string, cols []column, cells []string) string {
	s := gutter
	for i, c := range cols {
		s += pad(clean(cells[i]), c.width) + " "
	}
	return s
}

func (m *Model) line(r row, cols []column, shown []int, width int, cursor bool) string {
	cells := make([]string, len(shown))
	for i, n := range shown {
		cells[i] = r.cells[n]
	}
	gutter := "  "
	if cursor {
		gutter = "> "
	}
	s := clip(joined(gutter, cols, cells)+r.tree()+clean(r.text), width)
	if cursor && m.o.Colour { // the bar goes over the whole line
		return m.paint(chosen, pad(s, -width))
	}
	return m.paint(r.style, s)
}

// tree is a row's place in the tree: its depth and whether it is open.
func (r row) tree() string {
	mark := map[fold]string{leaf: "  ", closed: "▸ ", opened: "▾ "}[r.fold]
	return strings.Repeat("  ", r.depth) + mark
}

// keys is the last line.
func (m *Model) keys(width int) string {
	if m.typing {
		return clip("/"+clean(m.search)+"█", width)
	}
	s := ""
	for _, v := range Views {
		name := v.Name
		if v.View == m.view {
			name = "[" + name + "]"
		}
		s += string(rune(v.View)) + " " + name + "  "
	}
	end := "/ search  ? help  q quit"
	if m.search != "" {
		end = "/" + clean(m.search) + " (esc ends)  q quit"
	}
	if len([]rune(s+end)) > width {
		s = ""
		for _, v := range Views {
			if v.View == m.view {
				s += "[" + string(rune(v.View)) + "]"
			} else {
				s += " " + string(rune(v.View)) + " "
			}
		}
		s += "  "
	}
	return m.paint(dim, clip(s+end, width))
}

// helpLines are what the keys do.
func helpLines(width, height int) []string {
	out := []string{""}
	for _, v := range Views {
		out = append(out, fmt.Sprintf("  %-12s %s", string(rune(v.View)), v.Help))
	}
	for _, k := range [][2]string{
		{"", ""},
		{"up, down", "move; also k and j, page up and down, home, end"},
		{"enter", "open or close; also right and left"},
		{"/", "show only what has a text; esc ends it"},
		{"p", "pause, and go on"},
		{"R", "look now"},
		{"F", "look now with all details, however long the program stands still for it"},
		{"c", "count growth from now"},
		{"q", "quit"},
		{"", ""},
		{"", "WAIT is in whole minutes, from the first garbage collection after the wait began."},
		{"", "READY is the time that goroutines were ready to run and had no processor."},
	} {
		out = append(out, fmt.Sprintf("  %-12s %s", k[0], k[1]))
	}
	for i := range out {
		out[i] = clip(strings.TrimRight(out[i], " "), width)
	}
	return out[:min(len(out), max(height, 0))]
}

// Text is the whole view as text without a screen around it, for scripts and files. Width 0 is no bound.
func (m *Model) Text(width, rows int) string {
	if width <= 0 {
		width = 1 << 20
	}
	var b strings.Builder
	cols, name := m.columns()
	cols, shown := fitting(cols, width)
	cells := make([]string, len(cols))
	for i, c := range cols {
		cells[i] = c.title
	}
	fmt.Fprintln(&b, clip(clean(m.facts()), width))
	fmt.Fprintln(&b, m.paint(bold, clip(joined("", cols, cells)+name, width)))
	all := m.rows()
	for i, r := range all {
		if rows > 0 && i == rows {
			fmt.Fprintf(&b, "... and %d rows more\n", len(all)-i)
			break
		}
		for j, n := range shown {
			cells[j] = r.cells[n]
		}
		fmt.Fprintln(&b, m.paint(r.style, strings.TrimRight(clip(joined("", cols, cells)+r.tree()+clean(r.text), width), " ")))
	}
	if len(all) == 0 {
		fmt.Fprintln(&b, m.nothing())
	}
	return b.String()
}
