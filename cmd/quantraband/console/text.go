package console

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/quantra-l/quantra/agent/live"
	"github.com/quantra-l/quantra/profile"
)

// shortFunc is a function's name without the path of its package: net/http.(*conn).serve
// is http.(*conn).serve, and a module's path goes too.
func shortFunc(name string) string {
	args := strings.IndexByte(name, '[') // slashes in type arguments are not the package's
	if args < 0 {
		args = len(name)
	}
	return name[strings.LastIndexByte(name[:args], '/')+1:]
}

// fileLine is where a frame is, in a few words.
func fileLine(f live.Frame) string {
	if f.File == "" {
		return ""
	}
	return path.Base(strings.ReplaceAll(f.File, `\`, "/")) + ":" + strconv.Itoa(f.Line)
}

// library are the packages that goroutines wait in, of which the caller is of interest.
var library = []string{"runtime.", "runtime/", "internal/", "sync.", "syscall.", "time.", "os.", "io.", "bufio.", "net.", "net/", "crypto/", "context.", "golang.org/x/net/"}

// where is the innermost frame of a group that is the program's own, else its leaf.
func where(g *live.Group) string {
	for _, f := range g.Stack {
		if f.Func != live.Elided && !slices.ContainsFunc(library, func(p string) bool { return strings.HasPrefix(f.Func, p) }) {
			return shortFunc(f.Func) + " " + fileLine(f)
		}
	}
	if len(g.Stack) > 0 {
		return shortFunc(g.Stack[0].Func) + " " + fileLine(g.Stack[0])
	}
	return "(stack not known)"
}

// stateText is a group's state, with what is special about it.
func stateText(g *live.Group) string {
	s := g.State
	if g.Leaked > 0 {
		s = "LEAKED " + s
	}
	if g.Locked > 0 {
		s += " (thread)"
	}
	return s
}

// statesOf is a node's states: the most frequent, and how many others there are.
func statesOf(states map[string]int) string {
	if len(states) == 0 {
		return ""
	}
	names := slices.SortedFunc(maps.Keys(states), func(a, b string) int {
		return cmp.Or(cmp.Compare(states[b], states[a]), cmp.Compare(a, b))
	})
	if len(names) == 1 {
		return names[0]
	}
	return fmt.Sprintf("%s +%d", names[0], len(names)-1)
}

// wait is how long goroutines wait, in seconds; the runtime tells whole minutes.
func wait(seconds int) string {
	switch m := seconds / 60; {
	case m == 0:
		return "-"
	case m < 120:
		return strconv.Itoa(m) + "m"
	case m < 48*60:
		return strconv.Itoa(m/60) + "h"
	default:
		return strconv.Itoa(m/60/24) + "d"
	}
}

// span is a duration in at most seven characters.
func span(d time.Duration) string {
	switch {
	case d == 0:
		return "-"
	case d < time.Microsecond:
		return fmt.Sprintf("%dns", d)
	case d < time.Millisecond:
		return fmt.Sprintf("%.3gµs", float64(d)/1e3)
	case d < time.Second:
		return fmt.Sprintf("%.3gms", float64(d)/1e6)
	case d < 1000*time.Second:
		return fmt.Sprintf("%.3gs", d.Seconds())
	case d < 100*time.Minute:
		return fmt.Sprintf("%.3gm", d.Minutes())
	case d < 100*time.Hour:
		return fmt.Sprintf("%.3gh", d.Hours())
	}
	return fmt.Sprintf("%.0fh", d.Hours())
}

// figure is a value with its unit.
func figure(v float64, unit string) string {
	switch unit {
	case "ratio":
		return fmt.Sprintf("%.2f%%", 100*v)
	case "count":
		if v == float64(int64(v)) {
			return strconv.FormatInt(int64(v), 10)
		}
		return fmt.Sprintf("%.1f", v)
	}
	return profile.FormatValue(int64(v), unit)
}

// clean is text that is safe to write to a terminal: names come from other programs, and an
// escape sequence in one must not steer the terminal.
func clean(s string) string {
	if strings.IndexFunc(s, unsafeRune) < 0 {
		return s
	}
	return strings.Map(func(r rune) rune {
		if unsafeRune(r) {
			return '?'
		}
		return r
	}, s)
}

func unsafeRune(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }

// clip is s in at most width columns, with an ellipsis where something is cut off. A rune is taken for a column.
func clip(s string, width int) string {
	r := []rune(s)
	switch {
	case width <= 0:
		return ""
	case len(r) <= width:
		return s
	}
	return string(r[:width-1]) + "…"
}

// pad is s in just width columns, to the left, or to the right for a negative width.
func pad(s string, width int) string {
	left := width < 0
	w := max(width, -width)
	s = clip(s, w)
	space := strings.Repeat(" ", w-len([]rune(s)))
	if left {
		return s + space
	}
	return space + s
}
