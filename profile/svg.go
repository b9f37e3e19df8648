package profile

import (
	"bufio"
	_ "embed" // svg.js and svg.css are parts of every graph written
	"fmt"
	"hash/fnv"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"
)

// SVGOptions says how a graph is drawn. The zero value is a flame graph 1200
// pixels wide of raw counts.
type SVGOptions struct {
	Title    string  // "" is "Flame graph"
	Subtitle string  // a line below it, as the service and the time
	Unit     string  // of the values, as [ValueType] has it
	Width    int     // in pixels, as long as no script runs; 0 is 1200. In a browser it fills the window
	Icicle   bool    // the root at the top and calls downwards
	MinWidth float64 // in pixels: what is narrower is left out, and counted; 0 is 0.1, < 0 is nothing left out
}

//go:embed svg.js
var svgScript string

//go:embed svg.css
var svgStyle string

// Measures of the drawing in pixels, and the share of a character's height that is its width.
const (
	svgRow       = 18
	svgFont      = 12
	svgCharWidth = 0.602 * svgFont // of the common monospaced fonts
	svgHead      = 64
	svgFoot      = 34
	svgMargin    = 10
	svgHues      = 24
	svgSteps     = 8 // of red and of blue, in a difference
)

// WriteSVG draws t as one self-contained file: click a frame to zoom, Ctrl-F or
// / to search by regular expression, arrows and Enter to walk, Escape to go
// back. It refers to nothing outside, follows the reader's light or dark
// scheme, and is a plain picture where scripts do not run. Frames are coloured
// by package, Go's runtime is grey. Values that are negative are drawn by size.
func WriteSVG(w io.Writer, t *Tree, opt SVGOptions) error {
	g := svgGraph{Tree: t, opt: opt}
	total := t.Total[0]
	classes := make([]string, len(t.Names))
	for i, name := range t.Names {
		classes[i] = frameClass(name)
	}
	g.class = func(i int) string {
		switch {
		case i == 0:
			return "k0"
		case int32(t.Name[i]) == t.Other:
			return "ko"
		}
		return classes[t.Name[i]]
	}
	g.detail = func(i int) string {
		return fmt.Sprintf("self %s (%s), total %s (%s)",
			FormatValue(t.Self[i], opt.Unit), strings.TrimSpace(FormatPercent(t.Self[i], total)),
			FormatValue(t.Total[i], opt.Unit), strings.TrimSpace(FormatPercent(t.Total[i], total)))
	}
	// The sum of magnitudes is the total itself where nothing is negative.
	size := make([]int64, t.Len())
	for i, v := range t.Self {
		size[i] = int64(magnitude(v))
	}
	g.size = sumUp(t.Parent, size)
	return g.write(w)
}

// WriteDiffSVG draws two sides as one graph. A frame is as wide as both sides
// together, so what vanished is there as well as what is new; it is red where
// its share of its side grew, blue where it shrank.
func WriteDiffSVG(w io.Writer, d *DiffTree, opt SVGOptions) error {
	g := svgGraph{Tree: &d.Tree, opt: opt}
	total, baseTotal := d.Total[0], d.BaseTotal[0]
	g.class = func(i int) string {
		return diffClass(share(d.BaseTotal[i], baseTotal), share(d.Total[i], total))
	}
	g.detail = func(i int) string {
		a, b := share(d.BaseTotal[i], baseTotal), share(d.Total[i], total)
		return fmt.Sprintf("total %s (%.2f%%) -> %s (%.2f%%), %+.2f points; self %s -> %s",
			FormatValue(d.BaseTotal[i], opt.Unit), a, FormatValue(d.Total[i], opt.Unit), b, b-a,
			FormatValue(d.BaseSelf[i], opt.Unit), FormatValue(d.Self[i], opt.Unit))
	}
	size := make([]int64, d.Len())
	for i := range size {
		size[i] = int64(magnitude(d.Self[i]) + magnitude(d.BaseSelf[i]))
	}
	g.size = sumUp(d.Parent, size)
	return g.write(w)
}

// diffClass is the colour of a change between two shares: by how much of the
// larger one it is, for a frame's width already says how much it matters.
func diffClass(base, head float64) string {
	most := max(base, head)
	if most <= 0 {
		return "d0"
	}
	step := int((head - base) / most * svgSteps * 1.25)
	switch {
	case step > 0:
		return "p" + strconv.Itoa(min(step, svgSteps))
	case step < 0:
		return "n" + strconv.Itoa(min(-step, svgSteps))
	}
	return "d0"
}

// svgGraph is one drawing.
type svgGraph struct {
	*Tree
	opt    SVGOptions
	size   []int64 // of each node, at least the sum of its children's
	class  func(i int) string
	detail func(i int) string
}

func (g *svgGraph) write(w io.Writer) error {
	width := g.opt.Width
	if width <= 0 {
		width = 1200
	}
	inner := float64(width - 2*svgMargin)
	least := g.opt.MinWidth
	if least == 0 {
		least = 0.1
	}
	scale := 0.0
	if g.size[0] > 0 {
		scale = inner / float64(g.size[0])
	}
	levels := g.Levels()
	depth, narrow := uint32(0), 0
	for i, lv := range levels {
		if float64(g.size[i])*scale >= least {
			depth = max(depth, lv)
		} else if i > 0 {
			narrow++
		}
	}
	height := svgHead + (int(depth)+1)*svgRow + svgFoot
	out := bufio.NewWriterSize(w, 64<<10)
	g.head(out, width, height, narrow)
	next := make([]int64, g.Len()) // where the next child of a node starts
	for i, lv := range levels {
		start := int64(0)
		if i > 0 {
			p := g.Parent[i]
			start = next[p]
			next[p] += g.size[i]
		}
		next[i] = start
		wide := float64(g.size[i]) * scale
		if wide < least && i > 0 {
			continue
		}
		row := int(lv)
		if !g.opt.Icicle {
			row = int(depth) - row
		}
		x, y := svgMargin+float64(start)*scale, svgHead+row*svgRow
		name := g.Names[g.Name[i]]
		fmt.Fprintf(out, `<g class="%s" data-l="%d"><title>%s`+"\n"+`%s</title><rect x="%.4f" y="%d" width="%.4f" height="%d" rx="1"/>`,
			g.class(i), lv, escapeXML(name), escapeXML(g.detail(i)), x, y, max(wide, 0), svgRow-1)
		if label := frameLabel(name, wide); label != "" {
			fmt.Fprintf(out, `<text x="%.2f" y="%d">%s</text>`, x+3, y+svgRow-5, escapeXML(label))
		}
		out.WriteString("</g>\n")
	}
	out.WriteString("</g>\n</svg>\n")
	return out.Flush()
}

// head writes all that comes before the frames.
func (g *svgGraph) head(out *bufio.Writer, width, height, narrow int) {
	title := g.opt.Title
	if title == "" {
		title = "Flame graph"
	}
	fmt.Fprintf(out, `<?xml version="1.0" encoding="UTF-8"?>
<svg xmlns="http://www.w3.org/2000/svg" id="quantra" class="q" width="%d" height="%d" viewBox="0 0 %d %d" role="img" aria-label="%s">
<style>%s%s</style>
<script><![CDATA[%s]]></script>
<rect id="bg" width="%d" height="%d"/>
<text id="title" x="%d" y="26">%s</text>
`, width, height, width, height, escapeXML(title), svgStyle, svgColours(), svgScript, width, height, svgMargin, escapeXML(title))
	sub := g.opt.Subtitle
	add := func(s string) {
		if sub != "" {
			sub += " · "
		}
		sub += s
	}
	if narrow > 0 {
		add(fmt.Sprintf("%d narrow frames not drawn", narrow))
	}
	if g.LeftOut > 0 {
		add(fmt.Sprintf("%d small frames summed as %q", g.LeftOut, OtherName))
	}
	if sub != "" {
		fmt.Fprintf(out, "<text id=\"sub\" x=\"%d\" y=\"47\">%s</text>\n", svgMargin, escapeXML(sub))
	}
	fmt.Fprintf(out, `<foreignObject id="tools" x="%d" y="12" width="400" height="44"><form xmlns="http://www.w3.org/1999/xhtml"><output></output><input type="search" placeholder="Search (regular expression)" aria-label="Search by regular expression" spellcheck="false"/><button type="reset">Reset</button></form></foreignObject>
<text id="detail" x="%d" y="%d"></text>
<g id="frames">
`, width-svgMargin-400, svgMargin, height-11)
}

// svgColours is the part of the style sheet that is computed: one class for
// each hue of a package and for each step of a difference, in light and dark.
func svgColours() string {
	var b strings.Builder
	rule := func(class, colour string) { fmt.Fprintf(&b, ".%s rect{fill:%s}", class, colour) }
	for dark := range 2 {
		sat, light := 58, 72
		if dark == 1 {
			sat, light = 34, 36
			b.WriteString("@media(prefers-color-scheme:dark){")
		}
		for h := range svgHues {
			// Neighbouring hues differ in lightness too, so that they are told apart.
			rule("h"+strconv.Itoa(h), hslHex(float64(h*360/svgHues), float64(sat), float64(light+h%3*4-4)))
		}
		for s := 1; s <= svgSteps; s++ {
			f := float64(s) / svgSteps
			if dark == 1 {
				rule("p"+strconv.Itoa(s), hslHex(4, 20+50*f, 30+12*f))
				rule("n"+strconv.Itoa(s), hslHex(214, 20+50*f, 30+14*f))
			} else {
				rule("p"+strconv.Itoa(s), hslHex(6, 45+40*f, 88-26*f))
				rule("n"+strconv.Itoa(s), hslHex(212, 45+35*f, 88-24*f))
			}
		}
		if dark == 1 {
			b.WriteByte('}')
		}
	}
	return b.String()
}

// hslHex is a colour as #rrggbb: hue in degrees, saturation and lightness in
// percent, by the formula of CSS Color 4, section 7.
func hslHex(h, s, l float64) string {
	s, l = s/100, l/100
	f := func(n float64) int {
		k := n + h/30
		for k >= 12 {
			k -= 12
		}
		a := s * min(l, 1-l)
		return int((l-a*max(-1, min(k-3, 9-k, 1)))*255 + 0.5)
	}
	return fmt.Sprintf("#%02x%02x%02x", f(0), f(8), f(4))
}

// PackageOf is the package, module, namespace or mapping that a function is in,
// as far as its name tells: what a graph is coloured by.
// "github.com/a/b.(*T).M" is in "github.com/a/b", "std::map::find" in "std",
// "java/util/HashMap.get" and "java.util.HashMap.get" in "java/util" and
// "java.util", "libc.so.6+0x1f" in "libc.so.6".
func PackageOf(name string) string {
	if at := strings.LastIndex(name, "+0x"); at > 0 {
		return name[:at]
	}
	// Parameters, receivers and type arguments may hold dots and slashes of their own.
	path := name
	if at := strings.IndexAny(path, "([<{ "); at > 0 {
		path = path[:at]
	}
	if at := strings.Index(path, "::"); at > 0 {
		return path[:at]
	}
	slash := strings.LastIndexByte(path, '/')
	if dot := strings.IndexByte(path[slash+1:], '.'); dot > 0 {
		rest := path[slash+1:]
		if slash >= 0 && rest[0] >= 'A' && rest[0] <= 'Z' {
			return path[:slash] // java/util/HashMap.get
		}
		if slash < 0 && strings.Count(rest, ".") >= 2 && path == name {
			parts := strings.Split(rest, ".")
			for i, p := range parts {
				if i > 0 && p != "" && p[0] >= 'A' && p[0] <= 'Z' && parts[0][0] >= 'a' {
					return strings.Join(parts[:i], ".") // java.util.HashMap.get
				}
			}
		}
		return path[:slash+1+dot]
	}
	if slash > 0 {
		return path[:slash]
	}
	return path
}

// frameClass is the style of a frame: its package's hue, or grey for the runtime's.
func frameClass(name string) string {
	pkg := PackageOf(name)
	if pkg == "runtime" || strings.HasPrefix(pkg, "runtime/") || strings.HasPrefix(pkg, "internal/runtime/") ||
		strings.HasSuffix(name, "_[k]") {
		return "kr"
	}
	return "h" + strconv.Itoa(int(packageHash(pkg)%svgHues))
}

// packageHash is one package's number in every drawing.
func packageHash(pkg string) uint64 {
	h := fnv.New64a()
	io.WriteString(h, pkg) // never fails
	return h.Sum64() >> 20 // FNV mixes the high bits best
}

// shortName is name without the directories of its import path, which fill a
// frame before its function's name begins.
func shortName(name string) string {
	end := len(name)
	if at := strings.IndexAny(name, "([<{ "); at > 0 {
		end = at
	}
	if at := strings.LastIndexByte(name[:end], '/'); at >= 0 && at+1 < len(name) {
		return name[at+1:]
	}
	return name
}

// frameLabel is what fits of name into a frame of that width, "" if too little.
func frameLabel(name string, width float64) string {
	fit := int((width - 6) / svgCharWidth)
	if fit < 3 {
		return ""
	}
	return fitName(name, fit)
}

// fitName is what is written of name in n characters: the function with its
// package if that fits, else without it, for a frame's colour tells the package.
func fitName(name string, n int) string {
	short := shortName(name)
	if utf8.RuneCountInString(short) <= n {
		return short
	}
	if at := strings.IndexByte(short, '.'); at > 0 && at+1 < len(short) && !strings.ContainsAny(short[:at], "([<{ :") {
		short = short[at+1:]
	}
	return cut(short, n)
}

// cut is s, or its first n-1 characters and an ellipsis if it has more than n.
func cut(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	at := 0
	for i := range s {
		if at == n-1 {
			return s[:i] + "…"
		}
		at++
	}
	return s
}

// escapeXML is s as text or as a quoted attribute, with what XML 1.0 cannot
// hold at all, and what could reverse the text around it, replaced.
func escapeXML(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`<>&"'`, r) }) {
		return s // as nearly every name is
	}
	var b strings.Builder
	b.Grow(len(s))
	for _, r := range s {
		switch {
		case r == '<':
			b.WriteString("&lt;")
		case r == '>':
			b.WriteString("&gt;")
		case r == '&':
			b.WriteString("&amp;")
		case r == '"':
			b.WriteString("&quot;")
		case r == '\'':
			b.WriteString("&#39;")
		case r == 0xFFFE || r == 0xFFFF || printable(string(r)) != string(r):
			b.WriteRune('\uFFFD')
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
