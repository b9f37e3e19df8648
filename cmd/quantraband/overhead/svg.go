package overhead

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// Sizes in the units of a chart's view box.
const (
	chartWidth = 560.0
	labelWidth = 110.0 // of the rows' names
	rowHeight  = 34.0
	axisHeight = 42.0
	plotHeight = 300.0 // of the curves
)

// colours of variants, in the order of the report: Okabe and Ito's, which people with any colour vision can tell apart.
var colours = []string{"#7a7a7a", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"}

func colour(i int) string { return colours[i%len(colours)] }

// ticks are about n round numbers that cover low to high.
func ticks(low, high float64, n int) (at []float64) {
	if !(high > low) || math.IsInf(high-low, 0) {
		return []float64{low}
	}
	raw := (high - low) / float64(n)
	step := math.Pow(10, math.Floor(math.Log10(raw)))
	for _, m := range []float64{1, 2, 5, 10} {
		if step*m >= raw {
			step *= m
			break
		}
	}
	for i := math.Floor(low / step); ; i++ {
		at = append(at, i*step)
		if i*step >= high {
			return at
		}
	}
}

// chartRow is a variant in a chart of rows.
type chartRow struct {
	name, colour string
	dots         []dot
	mark         float64 // a thick line: a median, or a mean
	low, high    float64 // a bar; equal where there is none
	text         string  // when pointed at
	none         bool    // nothing is known of it
}

type dot struct {
	x     float64
	valid bool
	text  string
}

// drawing is SVG in the making.
type drawing struct{ strings.Builder }

func (d *drawing) line(class string, x1, y1, x2, y2 float64, style string) {
	fmt.Fprintf(d, `<line class="%s" x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f"%s/>`, class, x1, y1, x2, y2, style)
}

func (d *drawing) text(class string, x, y float64, anchor, s string) {
	fmt.Fprintf(d, `<text class="%s" x="%.1f" y="%.1f" text-anchor="%s">%s</text>`, class, x, y, anchor, html.EscapeString(s))
}

func (d *drawing) begin(height float64, label string) {
	fmt.Fprintf(d, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`, chartWidth, height, html.EscapeString(label))
}

// rowsChart has a row for each variant over one axis. budget is drawn where it is above 0.
func rowsChart(label string, rows []chartRow, unit func(float64) string, budget float64) string {
	low, high := math.Inf(1), math.Inf(-1)
	see := func(xs ...float64) {
		for _, x := range xs {
			low, high = min(low, x), max(high, x)
		}
	}
	for _, r := range rows {
		for _, d := range r.dots {
			see(d.x)
		}
		if !r.none {
			see(r.mark, r.low, r.high)
		}
	}
	if budget > 0 {
		see(0, budget)
	}
	if math.IsInf(low, 0) {
		low, high = 0, 1
	}
	if low == high {
		low, high = low-1e-9-math.Abs(low)/10, high+1e-9+math.Abs(high)/10
	}
	at := ticks(low, high, 5)
	low, high = at[0], at[len(at)-1]
	x := func(v float64) float64 { return labelWidth + (v-low)/(high-low)*(chartWidth-labelWidth-30) }
	bottom := 10 + rowHeight*float64(len(rows))
	var d drawing
	d.begin(bottom+axisHeight, label)
	for _, t := range at {
		class := "grid"
		if t == 0 {
			class = "zero"
		}
		d.line(class, x(t), 10, x(t), bottom, "")
		d.text("tick", x(t), bottom+16, "middle", unit(t))
	}
	if budget > 0 {
		d.line("budget", x(budget), 4, x(budget), bottom+4, "")
		if at := x(budget); at < chartWidth-80 {
			d.text("budgettext", at, bottom+34, "middle", "budget "+unit(budget))
		} else { // at the edge, which would cut it
			d.text("budgettext", chartWidth-4, bottom+34, "end", "budget "+unit(budget))
		}
	}
	for i, r := range rows {
		d.row(r, 10+rowHeight*(float64(i)+0.5), x)
	}
	d.WriteString("</svg>")
	return d.String()
}

func (d *drawing) row(r chartRow, y float64, x func(float64) float64) {
	d.text("name", labelWidth-12, y+4, "end", r.name)
	if r.none {
		return
	}
	fmt.Fprintf(d, `<g style="stroke:%s;fill:%s"><title>%s</title>`, r.colour, r.colour, html.EscapeString(r.text))
	if r.high > r.low {
		d.line("bar", x(r.low), y, x(r.high), y, "")
		d.line("end", x(r.low), y-5, x(r.low), y+5, "")
		d.line("end", x(r.high), y-5, x(r.high), y+5, "")
	}
	d.line("mark", x(r.mark), y-9, x(r.mark), y+9, "")
	d.WriteString("</g>")
	for _, p := range r.dots {
		class := "dot"
		if !p.valid {
			class = "dot invalid"
		}
		fmt.Fprintf(d, `<circle class="%s" cx="%.1f" cy="%.1f" r="4.5" style="stroke:%s;fill:%s"><title>%s</title></circle>`, class, x(p.x), y, r.colour, r.colour, html.EscapeString(p.text))
	}
}

// curvesChart draws latency curves: how much of the requests, ever closer to all, over the latency on a logarithmic scale.
func curvesChart(rows []Row) string {
	low, high, decades := math.Inf(1), 0.0, 1.0
	for _, r := range rows {
		for _, p := range r.Curve {
			if p.Seconds > 0 && p.Part >= 0.1 && p.Part < 1 {
				low, high = min(low, p.Seconds), max(high, p.Seconds)
				decades = max(decades, -math.Log10(1-p.Part))
			}
		}
	}
	if math.IsInf(low, 0) {
		return ""
	}
	l0, l1 := math.Floor(math.Log10(low)), math.Ceil(math.Log10(high))
	l1 = max(l1, l0+1)
	decades = math.Ceil(decades)
	const left, right, head = 64.0, 30.0, 12.0
	x := func(part float64) float64 { return left - math.Log10(1-part)/decades*(chartWidth-left-right) }
	y := func(s float64) float64 { return head + (l1-math.Log10(s))/(l1-l0)*plotHeight }
	var d drawing
	d.begin(head+plotHeight+axisHeight, "Latency by the part of requests that were answered within it, for each variant")
	for l := l0; l <= l1; l++ {
		d.line("grid", left, y(math.Pow(10, l)), chartWidth-right, y(math.Pow(10, l)), "")
		d.text("tick", left-8, y(math.Pow(10, l))+4, "end", fmt.Sprintf("%g ms", math.Pow(10, l+3)))
		for m := 2.0; m < 10 && l < l1; m++ {
			d.line("faint", left, y(m*math.Pow(10, l)), chartWidth-right, y(m*math.Pow(10, l)), "")
		}
	}
	for k := 0.0; k <= decades; k++ {
		part := 1 - math.Pow(10, -k)
		d.line("grid", x(part), head, x(part), head+plotHeight, "")
		d.text("tick", x(part), head+plotHeight+16, "middle", fmt.Sprintf("%.6g %%", 100*part))
	}
	d.text("tick", (left+chartWidth-right)/2, head+plotHeight+36, "middle", "part of the requests, all trials together")
	for i, r := range rows {
		var points []string
		for _, p := range r.Curve {
			if p.Part < 1 && p.Seconds > 0 {
				points = append(points, fmt.Sprintf("%.1f,%.1f", x(p.Part), min(y(p.Seconds), head+plotHeight)))
			}
		}
		fmt.Fprintf(&d, `<polyline class="curve" style="stroke:%s" points="%s"><title>%s</title></polyline>`, colour(i), strings.Join(points, " "), html.EscapeString(r.Variant.Title()))
	}
	d.WriteString("</svg>")
	return d.String()
}
