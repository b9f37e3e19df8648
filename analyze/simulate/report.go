package simulate

import (
	"fmt"
	"math"
	"strings"
)

// Markdown is the report as tables.
func (r *Report) Markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "### False alarms on noise\n\n")
	table(&b, "kind", "series a day", "looks at each", "changed", "said, falsely", "events", "per 10,000 series a day", "95 % below")
	for _, x := range r.Noise {
		row(&b, x.Name, x.SeriesDays, x.Looks, x.Changed, x.False, x.Events, fmt.Sprintf("%.2f", x.Per10000()), fmt.Sprintf("%.2f", upper(x.False)/float64(max(x.SeriesDays, 1))*10000))
	}
	fmt.Fprintf(&b, "\n### Sudden regressions\n\n")
	table(&b, "history", "what grows", "samples a minute", "of a function with", "regression", "found", "cause named", "time right", "median minutes", "samples by then", "other findings")
	for _, x := range r.Sudden {
		what := "its own cost"
		if x.Runtime {
			what = "what the runtime does for it"
		}
		row(&b, fmt.Sprintf("%d days", x.History), what, fmt.Sprintf("%.0f", x.Samples), pct(x.Base), pct(x.Size), of(x.Found, x.Runs), of(x.Named, x.Found), of(x.Timed, x.Found), fmt.Sprintf("%.0f", x.Minutes), fmt.Sprintf("%.3g", x.AfterSamples), x.Others)
	}
	if s := r.Smallest(); len(s) > 0 {
		b.WriteString("\nSmallest found in four of five runs:")
		for _, x := range s {
			fmt.Fprintf(&b, " %s of the service at %.0f samples a minute (%.2g in all) with %d days of history;", pct(x.Size), x.Samples, x.AfterSamples, x.History)
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "\n### Growth over two weeks\n\n")
	table(&b, "samples a minute", "of a function with", "growth", "found", "cause named")
	for _, x := range r.Gradual {
		row(&b, fmt.Sprintf("%.0f", x.Samples), pct(x.Base), pct(x.Size), of(x.Found, x.Runs), of(x.Named, x.Found))
	}
	fmt.Fprintf(&b, "\n### Refactorings\n\n")
	table(&b, "kind", "runs", "seen as a change", "said to be one")
	for _, x := range r.Refactors {
		row(&b, x.Kind, x.Runs, x.Seen, x.Wrong)
	}
	fmt.Fprintf(&b, "\n### Causes\n\n")
	table(&b, "in one", "found", "it is named")
	for _, x := range r.Causes {
		row(&b, x.Where, of(x.Found, x.Runs), of(x.Who, x.Found))
	}
	fmt.Fprintf(&b, "\n### Methods, at one false alarm in 1,000 series\n\n")
	head := []string{"method", "cost"}
	for _, s := range Steps {
		head = append(head, fmt.Sprintf("finds %+.0f %%", s*100))
	}
	table(&b, head...)
	for _, x := range r.Methods {
		cells := []any{x.Method, x.Cost}
		for _, p := range x.Power {
			cells = append(cells, fmt.Sprintf("%.0f %%", p*100))
		}
		row(&b, cells...)
	}
	return b.String()
}

// Smallest is, for each number of samples, the smallest regression that was found in at least four of five runs.
func (r *Report) Smallest() (out []SuddenRow) {
	for _, x := range r.Sudden {
		if x.Runtime || x.Found*5 < x.Runs*4 {
			continue
		}
		if n := len(out); n == 0 || out[n-1].Samples != x.Samples || out[n-1].History != x.History {
			out = append(out, x)
		} else if x.Size < out[n-1].Size {
			out[n-1] = x
		}
	}
	return out
}

// upper is the 95 % upper bound of a Poisson mean of which n was seen: -ln 0.05 for none (the "rule of three"), and by
// Byar's approximation for more (Breslow and Day, Statistical Methods in Cancer Research II, 1987, page 69).
func upper(n int) float64 {
	if n == 0 {
		return 2.996
	}
	x := float64(n + 1)
	y := 1 - 1/(9*x) + 1.645/(3*math.Sqrt(x))
	return x * y * y * y
}

func table(b *strings.Builder, head ...string) {
	fmt.Fprintf(b, "| %s |\n|%s\n", strings.Join(head, " | "), strings.Repeat(" --- |", len(head)))
}

func row(b *strings.Builder, cells ...any) {
	for _, c := range cells {
		fmt.Fprintf(b, "| %v ", c)
	}
	b.WriteString("|\n")
}

func pct(v float64) string { return fmt.Sprintf("%.3g %%", v*100) }

func of(n, all int) string {
	if all == 0 {
		return "-"
	}
	return fmt.Sprintf("%d of %d", n, all)
}
