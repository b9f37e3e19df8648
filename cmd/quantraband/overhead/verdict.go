package overhead

import (
	"fmt"
	"slices"
)

// Verdict is what the figures say of a budget.
type Verdict string

// The verdicts. Undecided is no pass.
const (
	Within    Verdict = "within"      // the whole interval is below the budget
	Over      Verdict = "over"        // the whole interval is at or above it
	Undecided Verdict = "cannot tell" // the budget is inside, or trials are missing
)

// warnAbove times the budget is an estimate that a person should look at, whatever the interval.
const warnAbove = 1.5

// Measure is one thing that has a budget.
type Measure struct {
	Name     string   `json:"name"`
	Added    Interval `json:"added"`
	Budget   float64  `json:"budget"`
	Verdict  Verdict  `json:"verdict"`
	Why      string   `json:"why"`
	Needed   int      `json:"trials_needed,omitempty"` // to decide, where it is undecided; 0: not known, or more than 10,000
	Decides  bool     `json:"decides"`                 // counts for the verdict as a whole
	Above150 bool     `json:"above_150_percent"`       // the estimate is above 1.5 times the budget
}

// Judge holds an interval to its budget. broken is why the trials behind it cannot be trusted; "" is that they can.
func Judge(name string, iv Interval, budget float64, broken string) Measure {
	m := Measure{Name: name, Added: iv, Budget: budget, Above150: iv.N > 0 && iv.Mean > warnAbove*budget}
	switch {
	case broken != "":
		m.Verdict, m.Why = Undecided, broken
	case !iv.Known:
		m.Verdict, m.Why, m.Needed = Undecided, fmt.Sprintf("an interval needs %d trials of each variant", minPairs), minPairs
	case iv.Low >= budget:
		m.Verdict, m.Why = Over, "the whole interval is at or above the budget"
	case iv.High < budget:
		m.Verdict, m.Why = Within, "the whole interval is below the budget"
	default:
		m.Verdict, m.Needed = Undecided, pairsNeeded(iv, budget)
		m.Why = "the budget is inside the interval"
		if m.Needed == 0 {
			m.Why += fmt.Sprintf("; more than %d trials would be needed", manyTrials)
		} else {
			m.Why += fmt.Sprintf("; about %d trials would be needed", m.Needed)
		}
	}
	return m
}

// Overall is over where one measure that decides is, within where all are, and undecided otherwise, also where there is none.
func Overall(ms []Measure) Verdict {
	decide := slices.DeleteFunc(slices.Clone(ms), func(m Measure) bool { return !m.Decides })
	is := func(v Verdict) func(Measure) bool { return func(m Measure) bool { return m.Verdict == v } }
	switch {
	case slices.ContainsFunc(decide, is(Over)):
		return Over
	case len(decide) == 0 || slices.ContainsFunc(decide, is(Undecided)):
		return Undecided
	}
	return Within
}

// Summarize makes the rows, the measures and the verdict of the variant named judged from the trials.
func (r *Report) Summarize(judged string, b Budget) {
	r.Budget, r.Rows, r.Measures, r.Warnings = b, nil, nil, []string{}
	for _, v := range r.Variants {
		row := r.row(v)
		r.Rows = append(r.Rows, row)
		if v.Name != judged || row.Added == nil {
			continue
		}
		broken := r.broken(judged)
		cpu := Judge("CPU", row.Added.CPU, b.CPU, broken)
		mem := Judge("memory", row.Added.RSS, b.Memory, broken)
		p99 := Judge("p99", row.Added.P99, b.P99, broken)
		cpu.Decides, mem.Decides = true, true
		r.Measures = []Measure{cpu, mem, p99}
	}
	r.Verdict = Overall(r.Measures)
	for _, m := range r.Measures {
		if m.Above150 {
			r.Warnings = append(r.Warnings, fmt.Sprintf("the estimate of %s is above %g times its budget", m.Name, warnAbove))
		}
	}
	var late []float64
	for _, t := range r.Trials {
		late = append(late, t.Late)
	}
	// The load's own lateness is in every latency: past what p99 may grow by, the latencies are the machine's.
	if m := Median(late); m > b.P99 {
		r.Warnings = append(r.Warnings, fmt.Sprintf("the load was itself late by %s (p99, the median of the trials): the machine is busy, and latencies say more of that than of an agent", milliseconds(m)))
	}
	for _, row := range r.Rows {
		if row.Added != nil && row.InSpan == 0 && row.Trials > row.Invalid {
			r.Warnings = append(r.Warnings, row.Variant.Title()+": no profile was delivered within a measured span, so what delivery costs is not in its figures; measure for longer")
		}
	}
}

// broken says why the judged variant's trials, or the baseline's, cannot be trusted. A trial that does not count cannot just be left out:
// an agent that makes a program too slow would be judged by the trials in which it did not.
func (r *Report) broken(judged string) string {
	for _, v := range []string{Baseline, judged} {
		for _, t := range r.trials(v) {
			if t.Invalid != "" {
				return fmt.Sprintf("a trial of %s does not count: %s", Variant{Name: v}.Title(), t.Invalid)
			}
		}
	}
	return ""
}

// row is a variant over its valid trials.
func (r *Report) row(v Variant) Row {
	row := Row{Variant: v}
	var all Histogram
	var cpu, rss, peak, p50, p99, p999 []float64
	base := map[int]*Trial{}
	for _, t := range r.trials(Baseline) {
		base[t.Round] = t
	}
	var dCPU, dRSS, dP99, baseCPU []float64
	for _, t := range r.trials(v.Name) {
		row.Trials++
		if t.Invalid != "" {
			row.Invalid++
			continue
		}
		cpu, rss, peak = append(cpu, t.Cores()), append(rss, t.RSS), append(peak, t.RSSPeak)
		p50, p99, p999 = append(p50, t.P50), append(p99, t.P99), append(p999, t.P999)
		row.Uploads, row.InSpan = row.Uploads+t.Uploads, row.InSpan+t.UploadsInSpan
		if t.Latency != nil {
			all.Merge(t.Latency)
		}
		if b := base[t.Round]; b != nil && b.Invalid == "" {
			dCPU, dRSS, dP99 = append(dCPU, t.Cores()-b.Cores()), append(dRSS, t.RSS-b.RSS), append(dP99, t.P99-b.P99)
			baseCPU = append(baseCPU, b.Cores())
		}
	}
	row.CPU, row.RSS, row.RSSPeak, row.P50, row.P99, row.P999 = spread(cpu), spread(rss), spread(peak), spread(p50), spread(p99), spread(p999)
	row.Curve = all.Curve()
	if v.Name != Baseline {
		row.Added = &Added{CPU: paired(dCPU), RSS: paired(dRSS), P99: paired(dP99)}
		if m := mean(baseCPU); m > 0 {
			row.Added.Relative = row.Added.CPU.Mean / m
		}
	}
	return row
}
