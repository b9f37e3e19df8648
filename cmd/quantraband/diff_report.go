package main

import (
	"cmp"
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"

	"github.com/quantra-l/quantra/analyze"
)

// write writes the report in the format that was asked for.
func (r *gateReport) write(w io.Writer, o *gateOptions) error {
	switch o.format {
	case "json":
		return writeJSON(w, r)
	case "sarif":
		return writeJSON(w, r.sarif(o.trim))
	case "markdown":
		return r.markdown(w, o.count)
	}
	return r.text(w, o.count)
}

// headline is the verdict in one line.
func (r *gateReport) headline() string { return printable(r.verdictLine()) }

func (r *gateReport) verdictLine() string {
	what := r.Base.Name + " -> " + r.Head.Name
	limits := strings.Join(r.FailOn, ", ")
	switch r.Verdict {
	case verdictFail:
		n, first := 0, ""
		for _, g := range r.Changes {
			if len(g.Exceeds) > 0 {
				if n++; n == 1 {
					first = g.sentence
				}
			}
		}
		s := fmt.Sprintf("%s: fails: %s", what, first)
		if n > 1 {
			s += fmt.Sprintf(" %d more are above %s, too.", n-1, limits)
		}
		return s
	case verdictUndecided:
		if len(r.Undecided) == 0 {
			return fmt.Sprintf("%s: cannot tell if anything is above %s: what the service costs is not known", what, limits)
		}
		g := r.Undecided[0]
		s := fmt.Sprintf("%s: cannot tell if anything is above %s: %s may have changed by up to %s", what, limits, g.Function, points(g.Change.High))
		if n := len(r.Undecided) - 1; n > 0 {
			s += fmt.Sprintf(", and %d others likewise", n)
		}
		return s + "; more samples or more runs would tell"
	case verdictPass:
		return fmt.Sprintf("%s: passes: nothing is above %s", what, limits)
	}
	grew, fell := r.count(analyze.Grew), r.count(analyze.Fell)
	if grew+fell == 0 {
		return what + ": no difference that is surely one"
	}
	return fmt.Sprintf("%s: %d became slower and %d faster", what, grew, fell)
}

func (r *gateReport) count(v analyze.Verdict) (n int) {
	for _, g := range r.Changes {
		if g.Verdict == v {
			n++
		}
	}
	return n
}

// points is a share as points.
func points(share float64) string {
	return strings.TrimSuffix(analyze.Percent(share), " %") + " points"
}

// rows is as many of the changes as are to be shown, those above a limit before all others.
func (r *gateReport) rows(n int) (rows []gateChange, more int) {
	for _, above := range []bool{true, false} {
		for _, g := range r.Changes {
			if (len(g.Exceeds) > 0) == above {
				rows = append(rows, g)
			}
		}
	}
	if n > 0 && len(rows) > n {
		return rows[:n], len(rows) - n
	}
	return rows, 0
}

// cost is what more a function costs a month, with its interval.
func (g *gateChange) cost() string {
	if g.Price == nil {
		return "-"
	}
	return fmt.Sprintf("%s (%s..%s) %s", money(g.Price.Amount), money(g.Price.Low), money(g.Price.High), g.Price.Currency)
}

// money is an amount with its sign, as exact as it matters.
func money(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100:
		return fmt.Sprintf("%+.0f", v)
	case a >= 1:
		return fmt.Sprintf("%+.1f", v)
	}
	return fmt.Sprintf("%+.2f", v)
}

// change is the difference in points, with its interval.
func (g *gateChange) change() string {
	sign := ""
	if g.Change.Value > 0 {
		sign = "+"
	}
	return fmt.Sprintf("%s%s (%s)", sign, strings.TrimSuffix(analyze.Percent(g.Change.Value), " %"), strings.TrimSuffix(analyze.Points(g.Change), " points"))
}

// note is what is to be known of a change beside its figures.
func (g *gateChange) note() string {
	var parts []string
	if len(g.Exceeds) > 0 {
		parts = append(parts, "above "+strings.Join(g.Exceeds, ", "))
	}
	if g.Was != "" {
		parts = append(parts, "was "+g.Was)
	}
	if g.Metric == "total" {
		parts = append(parts, "with all it calls")
	}
	if g.Metric == "own" {
		parts = append(parts, "with what it calls of the standard library")
	}
	return strings.Join(parts, "; ")
}

// sides says what was compared.
func (r *gateReport) sides() string {
	side := func(s analyze.Side) string {
		what := fmt.Sprintf("%d runs", s.Replicates)
		if r.Service != "" {
			what = fmt.Sprintf("%d instances", s.Replicates)
		}
		if s.Replicates == 1 {
			what = strings.TrimSuffix(what, "s")
		}
		return fmt.Sprintf("%s (%s, %.0f samples)", s.Name, what, s.Samples)
	}
	return fmt.Sprintf("%s, %s -> %s, %d functions", r.Type, side(r.Base), side(r.Head), r.Functions)
}

func (r *gateReport) text(w io.Writer, n int) error {
	t := &strings.Builder{}
	fmt.Fprintln(t, r.headline())
	fmt.Fprintln(t, r.sides())
	rows, more := r.rows(n)
	if len(rows) > 0 {
		fmt.Fprintln(t)
		tw := tabwriter.NewWriter(t, 0, 0, 2, ' ', 0)
		fmt.Fprintln(tw, "BEFORE\tAFTER\tPOINTS (95 %)\tCOST A MONTH\tFUNCTION\t")
		for _, g := range rows {
			note := g.note()
			if note != "" {
				note = "(" + note + ")"
			}
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\n", analyze.Percent(g.Before.Value), analyze.Percent(g.After.Value), g.change(), g.cost(), printable(g.Function), printable(note))
		}
		if err := tw.Flush(); err != nil {
			return err
		}
		if more > 0 {
			fmt.Fprintf(t, "and %d more; -n shows them\n", more)
		}
	}
	for _, g := range r.Shifted {
		fmt.Fprintf(t, "moved, and costs no more: %s (%s points), with %s\n", printable(g.Function), g.change(), printable(g.By))
	}
	if r.Prices != "" && len(rows) > 0 {
		fmt.Fprintf(t, "cost: of %.3g cores of the service; %s\n", r.Cores, r.Prices)
	}
	for _, warning := range r.Warnings {
		fmt.Fprintf(t, "warning: %s\n", warning)
	}
	_, err := io.WriteString(w, t.String())
	return err
}

// printable is a name of a profile without what could steer a terminal or break a line.
func printable(s string) string {
	return strings.Map(func(c rune) rune {
		if steers(c) {
			return '?'
		}
		return c
	}, s)
}

// code is a name in a table of Markdown: nothing in it is read as Markdown or HTML, or ends the cell.
func code(s string) string {
	s = strings.ReplaceAll(printable(s), "|", "\\|")
	ticks := "`"
	for strings.Contains(s, ticks) {
		ticks += "`"
	}
	if len(ticks) > 1 {
		return ticks + " " + s + " " + ticks
	}
	return ticks + s + ticks
}

// inMarkdown is a text in Markdown that is not ours alone: it names files and functions.
func inMarkdown(s string) string {
	return strings.NewReplacer("\\", "\\\\", "<", "&lt;", ">", "&gt;", "&", "&amp;", "|", "\\|", "*", "\\*", "_", "\\_", "[", "\\[", "@", "&#64;").Replace(printable(s))
}

// markdown is a comment for a pull request.
func (r *gateReport) markdown(w io.Writer, n int) error {
	t := &strings.Builder{}
	title := map[string]string{verdictFail: "Slower", verdictPass: "Not slower", verdictUndecided: "Cannot tell", verdictNone: "Compared"}[r.Verdict]
	if r.Service != "" {
		title = inMarkdown(r.Service) + ": " + title
	}
	fmt.Fprintf(t, "### %s\n\n", title)
	switch r.Verdict {
	case verdictFail:
		for _, g := range r.Changes {
			if len(g.Exceeds) > 0 {
				fmt.Fprintf(t, "- %s rose from %s to %s of %s, above %s.\n", code(g.Function), analyze.Percent(g.Before.Value), analyze.Percent(g.After.Value), inMarkdown(r.Type), strings.Join(g.Exceeds, ", "))
			}
		}
	default:
		fmt.Fprintf(t, "%s.\n", inMarkdown(r.headline()))
	}
	rows, more := r.rows(n)
	if len(rows) > 0 {
		fmt.Fprintf(t, "\n| function | before | after | points (95 %% interval) | cost a month | |\n| --- | ---: | ---: | ---: | ---: | --- |\n")
		for _, g := range rows {
			fmt.Fprintf(t, "| %s | %s | %s | %s | %s | %s |\n", code(g.Function), analyze.Percent(g.Before.Value), analyze.Percent(g.After.Value), g.change(), g.cost(), inMarkdown(g.note()))
		}
		if more > 0 {
			fmt.Fprintf(t, "\nand %d more.\n", more)
		}
	}
	r.markdownMore(t)
	_, err := io.WriteString(w, t.String())
	return err
}

// markdownMore is what is folded away or small.
func (r *gateReport) markdownMore(t *strings.Builder) {
	if len(r.Undecided) > 0 {
		fmt.Fprintf(t, "\n<details><summary>%d that may be above the limit</summary>\n\n| function | points (95 %% interval) |\n| --- | ---: |\n", len(r.Undecided))
		for _, g := range r.Undecided[:min(len(r.Undecided), 20)] {
			fmt.Fprintf(t, "| %s | %s |\n", code(g.Function), g.change())
		}
		t.WriteString("\n</details>\n")
	}
	if len(r.Shifted) > 0 {
		fmt.Fprintf(t, "\n<details><summary>%d that moved, and cost no more</summary>\n\n", len(r.Shifted))
		for _, g := range r.Shifted[:min(len(r.Shifted), 20)] {
			fmt.Fprintf(t, "- %s (%s points), with %s\n", code(g.Function), g.change(), code(g.By))
		}
		t.WriteString("\n</details>\n")
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(t, "\n> %s\n", inMarkdown(w))
	}
	fmt.Fprintf(t, "\n<sub>%s. %s.", inMarkdown(r.sides()), inMarkdown(r.Test))
	if r.Prices != "" {
		fmt.Fprintf(t, " Cost of %.3g cores; %s.", r.Cores, inMarkdown(r.Prices))
	}
	t.WriteString("</sub>\n")
}

// levelOf is how SARIF calls a change.
func (g *gateChange) levelOf() string {
	switch {
	case len(g.Exceeds) > 0:
		return "error"
	case g.Verdict == analyze.Grew:
		return "warning"
	}
	return "note"
}

// messageOf is what SARIF says of a change.
func (g *gateChange) messageOf() string {
	s := strings.ReplaceAll(g.sentence, "`", "")
	if g.Price != nil {
		s += " " + cmp.Or(map[bool]string{true: "More", false: "Less"}[g.Price.Amount > 0], "Less") + " by about " + strings.TrimLeft(money(g.Price.Amount), "+-") + " " + g.Price.Currency + " a month."
	}
	return printable(s)
}
