package overhead

import (
	"bufio"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// percent is a part of one core.
func percent(cores float64) string { return number(100*cores) + " %" }

// megabytes are of 10^6 bytes.
func megabytes(b float64) string { return number(b/1e6) + " MB" }

func milliseconds(s float64) string { return number(1e3*s) + " ms" }

// number has three digits that count, but no more than two behind the point.
func number(x float64) string {
	decimals := 2
	if x := math.Abs(x); x >= 100 {
		decimals = 0
	} else if x >= 10 {
		decimals = 1
	}
	s := fmt.Sprintf("%.*f", decimals, x)
	if strings.Trim(s, "-0.") == "" {
		s = strings.TrimPrefix(s, "-") // a zero has no sign
	}
	return s
}

func signed(s string) string {
	if strings.HasPrefix(s, "-") {
		return s
	}
	return "+" + s
}

// text is an interval in one of the units above.
func (iv Interval) text(unit func(float64) string) string {
	switch {
	case iv.N == 0:
		return "not known"
	case !iv.Known:
		return signed(unit(iv.Mean)) + " (no interval)"
	}
	low, _, _ := strings.Cut(unit(iv.Low), " ")
	high, _, _ := strings.Cut(unit(iv.High), " ")
	return fmt.Sprintf("%s (%s to %s)", signed(unit(iv.Mean)), low, high)
}

// text is a spread.
func (s Spread) text(unit func(float64) string) string {
	if s.N == 0 {
		return "not known"
	}
	if s.N == 1 {
		return unit(s.Median)
	}
	sd, _, _ := strings.Cut(unit(s.SD), " ")
	return fmt.Sprintf("%s ± %s", unit(s.Median), sd)
}

// unit is that of a measure.
func (m Measure) unit() func(float64) string {
	switch m.Name {
	case "CPU":
		return func(x float64) string { return percent(x) + " of one core" }
	case "memory":
		return megabytes
	}
	return milliseconds
}

// Text says what a measure came to.
func (m Measure) Text() string {
	return fmt.Sprintf("%s: %s, budget %s: **%s**, %s", m.Name, m.Added.text(m.unit()), m.unit()(m.Budget), m.Verdict, m.Why)
}

// Reasons says in one line why the verdict is what it is.
func (r *Report) Reasons() string {
	var all []string
	for _, m := range r.Measures {
		if m.Decides && (m.Verdict == r.Verdict) {
			all = append(all, fmt.Sprintf("%s %s, budget %s: %s", m.Name, m.Added.text(m.unit()), m.unit()(m.Budget), m.Why))
		}
	}
	if len(all) == 0 {
		return "nothing was measured"
	}
	return strings.Join(all, "; ")
}

// Facts are what a reader must know to measure it again: name and value.
func (r *Report) Facts() [][2]string {
	seconds := func(s float64) string { return time.Duration(s * float64(time.Second)).String() }
	return [][2]string{
		{"machine", fmt.Sprintf("%s, %d cores, %.1f GiB, %s, kernel %s", r.Machine.CPU, r.Machine.Cores, float64(r.Machine.Memory)/(1<<30), r.Machine.OS, r.Machine.Kernel)},
		{"built with", r.Machine.Go},
		{"quantraband", r.Version},
		{"date", r.Date.Format(time.RFC3339)},
		{"command", r.Command},
		{"workload", fmt.Sprintf("%s, %g a second; %d trials of %s each, after %s of the same load; seed %d", r.Workload, r.Rate, r.Rounds, seconds(r.Time), seconds(r.Warmup), r.Seed)},
	}
}

// WriteMarkdown writes the report for people.
func WriteMarkdown(w io.Writer, r *Report) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "# What the agent costs\n\nAt 100 Hz, beside the same program without an agent: **%s** its budget.\n\n", verdictPhrase(r.Verdict))
	for _, m := range r.Measures {
		note := ""
		if !m.Decides {
			note = " (told, but no part of the verdict)"
		}
		fmt.Fprintf(b, "- %s%s\n", m.Text(), note)
	}
	for _, warning := range r.Warnings {
		fmt.Fprintf(b, "- warning: %s\n", warning)
	}
	fmt.Fprint(b, "\nMedians over the trials ± their standard deviation. What is added is the mean of the differences to the baseline of the same round, with its 95 % interval (Student's t).\n\n"+
		"| variant | CPU, of one core | added | of the program's own | memory | added | peak | p50 | p99 | added | p99.9 | profiles delivered (within spans) |\n"+
		"| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, row := range r.Rows {
		cpu, rel, rss, p99, ups := "", "", "", "", ""
		if a := row.Added; a != nil {
			cpu, rss, p99 = a.CPU.text(percent), a.RSS.text(megabytes), a.P99.text(milliseconds)
			rel = a.relative()
			ups = fmt.Sprintf("%d (%d)", row.Uploads, row.InSpan)
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", row.Variant.Title(), row.CPU.text(percent), cpu, rel,
			row.RSS.text(megabytes), rss, row.peak(), row.P50.text(milliseconds), row.P99.text(milliseconds), p99, row.P999.text(milliseconds), ups)
	}
	fmt.Fprint(b, "\n")
	for _, v := range r.Variants {
		fmt.Fprintf(b, "- %s: %s%s\n", v.Title(), v.What, versionText(v))
	}
	fmt.Fprint(b, "\n| round | turn | variant | CPU, of one core | memory | peak | answered, a second | p50 | p99 | p99.9 | largest | load late, p99 | profiles | |\n"+
		"| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n")
	for _, t := range r.Trials {
		fmt.Fprintf(b, "| %d | %d | %s | %s | %s | %s | %s | %s | %s | %s | %s | %s | %d | %s |\n", t.Round, t.Turn, Variant{Name: t.Variant}.Title(), percent(t.Cores()), megabytes(t.RSS), peakText(t.RSSPeak),
			number(t.Rate), milliseconds(t.P50), milliseconds(t.P99), milliseconds(t.P999), milliseconds(t.Max), milliseconds(t.Late), t.Uploads, invalidText(t))
	}
	fmt.Fprint(b, "\n")
	for _, f := range r.Facts() {
		fmt.Fprintf(b, "- %s: %s\n", f[0], f[1])
	}
	return b.Flush()
}

func verdictPhrase(v Verdict) string {
	if v == Undecided {
		return "cannot tell whether it keeps"
	}
	return string(v)
}

// Title is the variant's name for people.
func (v Variant) Title() string {
	if v.Name != "" && strings.Trim(v.Name, "0123456789") == "" {
		return v.Name + " Hz"
	}
	return v.Name
}

func versionText(v Variant) string {
	if v.Version == "" {
		return ""
	}
	return "; " + v.Version
}

func peakText(b float64) string {
	if b == 0 {
		return "not known"
	}
	return megabytes(b)
}

func (a *Added) relative() string {
	if a.CPU.N == 0 {
		return "not known"
	}
	return signed(percent(a.Relative))
}

func (r Row) peak() string { return peakText(r.RSSPeak.Median) }

func invalidText(t *Trial) string {
	if t.Invalid == "" {
		return ""
	}
	return "does not count: " + strings.ReplaceAll(t.Invalid, "|", `\|`)
}
