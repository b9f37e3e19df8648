package overhead

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"strings"
)

//go:embed page.html
var pageText string

// pagePair is a figure's two charts: each trial, and what is added.
type pagePair struct {
	Title, Note  string
	Trials, Adds template.HTML
}

type pageVariant struct {
	Variant
	Colour string
	Row    Row
}

// WriteHTML writes the report as one page that needs nothing else.
func WriteHTML(w io.Writer, r *Report) error {
	t, err := template.New("page").Funcs(template.FuncMap{
		"percent": percent, "megabytes": megabytes, "milliseconds": milliseconds, "number": number, "peak": peakText, "phrase": verdictPhrase,
		"spread": func(s Spread, unit string) string { return s.text(units[unit]) }, "interval": func(iv Interval, unit string) string { return iv.text(units[unit]) },
		"measure": func(m Measure) string { return m.Added.text(m.unit()) }, "limit": func(m Measure) string { return m.unit()(m.Budget) },
		"title": func(name string) string { return Variant{Name: name}.Title() }, "relative": (*Added).relative,
		"class": func(v Verdict) string { return strings.ReplaceAll(string(v), " ", "-") },
	}).Parse(pageText)
	if err != nil {
		return err
	}
	page := struct {
		*Report
		Pairs  []pagePair
		Curves template.HTML
		Shown  []pageVariant
		// Date for people.
		Day string
	}{Report: r, Curves: template.HTML(curvesChart(r.Rows)), Day: r.Date.Format("2 January 2006, 15:04 UTC")}
	for i, row := range r.Rows {
		page.Shown = append(page.Shown, pageVariant{row.Variant, colour(i), row})
	}
	page.Pairs = []pagePair{
		r.pair("Processor time", "of one core", percent, r.Budget.CPU, func(t *Trial) float64 { return t.Cores() }, func(r Row) Spread { return r.CPU }, func(a *Added) Interval { return a.CPU }),
		r.pair("Memory", "resident, the median of a trial", megabytes, r.Budget.Memory, func(t *Trial) float64 { return t.RSS }, func(r Row) Spread { return r.RSS }, func(a *Added) Interval { return a.RSS }),
		r.pair("Latency, 99th percentile", "from the time a request was due", milliseconds, r.Budget.P99, func(t *Trial) float64 { return t.P99 }, func(r Row) Spread { return r.P99 }, func(a *Added) Interval { return a.P99 }),
	}
	return t.Execute(w, page)
}

// units by the names that the page uses.
var units = map[string]func(float64) string{"percent": percent, "megabytes": megabytes, "milliseconds": milliseconds}

// pair draws one figure: all trials with their medians, and what each variant adds with its interval.
func (r *Report) pair(title, note string, unit func(float64) string, budget float64, of func(*Trial) float64, median func(Row) Spread, added func(*Added) Interval) pagePair {
	var trials, adds []chartRow
	for i, row := range r.Rows {
		c := chartRow{name: row.Variant.Title(), colour: colour(i), mark: median(row).Median, none: median(row).N == 0}
		c.low, c.high, c.text = c.mark, c.mark, "median "+unit(c.mark)
		for _, t := range r.trials(row.Variant.Name) {
			text := fmt.Sprintf("round %d: %s", t.Round, unit(of(t)))
			if t.Invalid != "" {
				text += ", does not count: " + t.Invalid
			}
			c.dots = append(c.dots, dot{of(t), t.Invalid == "", text})
		}
		trials = append(trials, c)
		if row.Added == nil {
			continue
		}
		iv := added(row.Added)
		adds = append(adds, chartRow{name: row.Variant.Title(), colour: colour(i), mark: iv.Mean, low: iv.Low, high: iv.High, none: iv.N == 0, text: iv.text(unit)})
	}
	return pagePair{title, note, template.HTML(rowsChart(title+" of each trial", trials, unit, 0)), template.HTML(rowsChart(title+": what an agent adds", adds, unit, budget))}
}
