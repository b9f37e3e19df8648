package overhead

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// planted is a report whose agent adds these cores, bytes and seconds, a number for each round.
func planted(cpu, rss, p99 []float64) *Report {
	r := &Report{Format: 1, Date: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC), Command: "quantraband bench overhead", Version: "v1", Rate: 1000, Rounds: len(cpu), Time: 600, Warmup: 30, Seed: 1,
		Machine: Machine{CPU: "A <CPU> & Co", Cores: 2, Memory: 24 << 30, OS: "linux/amd64", Kernel: "6.1", Go: "go1.26"}, Workload: "the demo's service",
		Variants: []Variant{{Name: Baseline, What: "no agent"}, {Name: "100", What: "ours", Version: "v1"}, {Name: "pyroscope-go", What: "theirs", Version: "v2"}}}
	for i := range cpu {
		base := 0.25 + 0.05*float64(i) // the machine drifts: pairs do not
		for turn, v := range r.Variants {
			t := &Trial{Round: i + 1, Turn: turn + 1, Variant: v.Name, Seconds: 600, CPU: 600 * base, RSS: 60e6 + 1e6*float64(i), RSSPeak: 70e6, RSSSamples: 2400,
				Offered: 600_000, Completed: 600_000, Rate: 1000, P50: 0.0005, P99: 0.002, P999: 0.004, Max: 0.01, Late: 0.0001, Latency: &Histogram{}}
			if v.Name != Baseline {
				t.CPU, t.RSS, t.P99 = t.CPU+600*cpu[i], t.RSS+rss[i], t.P99+p99[i]
				t.Uploads, t.UploadsInSpan = 300, 290
			}
			for n := range 1000 {
				t.Latency.Add(time.Duration(n+1) * time.Microsecond)
			}
			t.Check(r.Rate, v.Name != Baseline)
			r.Trials = append(r.Trials, t)
		}
	}
	r.Summarize("100", DefaultBudget)
	return r
}

// TestVerdicts: planted costs of each kind, and the verdict on them.
func TestVerdicts(t *testing.T) {
	same := func(x float64) []float64 { return []float64{x * 0.99, x, x * 1.01} }
	for _, c := range []struct {
		name     string
		cpu, rss []float64
		want     Verdict
		needed   int // of the first measure that is undecided
		warn     int
	}{
		{"cheap", same(0.004), same(5e6), Within, 0, 0},
		{"cheaper than nothing", same(-0.004), same(-5e6), Within, 0, 0},
		{"too much CPU", same(0.012), same(5e6), Over, 0, 0},
		{"far too much CPU", same(0.02), same(5e6), Over, 0, 1},
		{"too much memory", same(0.004), same(11e6), Over, 0, 0},
		{"both, far", same(0.02), same(20e6), Over, 0, 2},
		// 0.8 % ± 0.2: the interval is 0.3 to 1.3.
		{"noisy CPU", []float64{0.006, 0.008, 0.010}, same(5e6), Undecided, 7, 0},
		{"noisy memory", same(0.004), []float64{4e6, 8e6, 12e6}, Undecided, 18, 0},
		{"noisy and far", []float64{0.002, 0.018, 0.034}, same(5e6), Undecided, 18, 1},
		// What is over in one is over, whatever the other.
		{"noisy CPU, too much memory", []float64{0.006, 0.008, 0.010}, same(11e6), Over, 7, 0},
		{"two rounds", []float64{0.001, 0.001}, []float64{1, 1}, Undecided, 3, 0},
		{"on the budget", []float64{0.01, 0.01, 0.01}, same(5e6), Over, 0, 0},
	} {
		r := planted(c.cpu, c.rss, make([]float64, len(c.cpu)))
		needed := 0
		for _, m := range r.Measures {
			if m.Decides && m.Verdict == Undecided && needed == 0 {
				needed = m.Needed
			}
		}
		if r.Verdict != c.want || len(r.Warnings) != c.warn || c.want != Over && needed != c.needed {
			t.Errorf("%s: %s, %d trials needed, warnings %q; want %s, %d, %d warnings\n%+v", c.name, r.Verdict, needed, r.Warnings, c.want, c.needed, c.warn, r.Measures)
		}
		if r.Reasons() == "" {
			t.Errorf("%s: no reasons", c.name)
		}
	}
	r := planted(same(0.004), same(5e6), same(0.01))
	if r.Verdict != Within || r.Measures[2].Verdict != Over || r.Measures[2].Decides {
		t.Errorf("the latency is told and decides nothing: %s %+v", r.Verdict, r.Measures[2])
	}
	if got := r.Rows[1].Added; math.Abs(got.Relative-0.004/0.30) > 1e-6 || math.Abs(got.CPU.Mean-0.004) > 1e-9 {
		t.Errorf("pairs: %+v", got)
	}
}

// TestNoVerdict: without trials, without the judged variant, nothing is a pass.
func TestNoVerdict(t *testing.T) {
	empty := &Report{}
	empty.Summarize("100", DefaultBudget)
	other := planted([]float64{0, 0, 0}, []float64{0, 0, 0}, []float64{0, 0, 0})
	other.Summarize("200", DefaultBudget)
	if empty.Verdict != Undecided || other.Verdict != Undecided || Overall([]Measure{{Verdict: Within}}) != Undecided {
		t.Errorf("%s, %s", empty.Verdict, other.Verdict)
	}
}

// TestInvalid: one trial that does not count, of the baseline or of the judged, takes the verdict away; one of others does not.
func TestInvalid(t *testing.T) {
	for _, c := range []struct {
		variant int
		want    Verdict
		change  func(*Trial)
		why     string
	}{
		{1, Undecided, func(t *Trial) { t.Rate = 989 }, "too slow"},
		{0, Undecided, func(t *Trial) { t.Rate = 989 }, "too slow"},
		{2, Within, func(t *Trial) { t.Rate = 989 }, "too slow"},
		{1, Within, func(t *Trial) { t.Rate = 991 }, ""},
		{1, Undecided, func(t *Trial) { t.Failed = 601 }, "requests failed"},
		{1, Within, func(t *Trial) { t.Failed = 600 }, ""},
		{1, Undecided, func(t *Trial) { t.UploadsFailed = 1 }, "uploads failed"},
		{1, Undecided, func(t *Trial) { t.Uploads = 0 }, "no profile was uploaded"},
	} {
		r := planted([]float64{0.004, 0.004, 0.004, 0.004}, []float64{5e6, 5e6, 5e6, 5e6}, make([]float64, 4))
		trial := r.Trials[3+c.variant] // of the second round
		c.change(trial)
		trial.Check(r.Rate, c.variant != 0)
		r.Summarize("100", DefaultBudget)
		if r.Verdict != c.want || !strings.Contains(trial.Invalid, c.why) || (trial.Invalid == "") != (c.why == "") {
			t.Errorf("%s: %s, %q; want %s, %q", r.Variants[c.variant].Name, r.Verdict, trial.Invalid, c.want, c.why)
		}
		if c.why != "" && r.Rows[c.variant].Invalid != 1 {
			t.Errorf("%+v", r.Rows[c.variant])
		}
		if c.why != "" && c.variant < 2 && r.Rows[1].Added.CPU.N != 3 {
			t.Errorf("%d pairs, want 3", r.Rows[1].Added.CPU.N)
		}
	}
}

// TestUndelivered warns where the figures lack what delivery costs, and where the load was late.
func TestUndelivered(t *testing.T) {
	r := planted([]float64{0, 0, 0}, []float64{0, 0, 0}, []float64{0, 0, 0})
	for _, trial := range r.Trials {
		trial.UploadsInSpan, trial.Late = 0, 0.001
	}
	r.Summarize("100", DefaultBudget)
	if len(r.Warnings) != 3 || !strings.Contains(r.Warnings[0], "late by 1.00 ms") || !strings.Contains(r.Warnings[1], "100 Hz: no profile") {
		t.Errorf("%q", r.Warnings)
	}
}

// TestMarkdown: the report says its verdict, its doubt, its trials and where it was made.
func TestMarkdown(t *testing.T) {
	r := planted([]float64{0.003, 0.004, 0.005}, []float64{5e6, 5e6, 6e6}, []float64{0.0001, 0.0002, 0.0003})
	r.Trials[5].Invalid = "a | b"
	var b bytes.Buffer
	if err := WriteMarkdown(&b, r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"without an agent: **within** its budget",
		"- CPU: +0.40 % of one core (0.15 to 0.65), budget 1.00 % of one core: **within**",
		"- memory: +5.33 MB (3.90 to 6.77), budget 10.0 MB: **within**",
		"- p99: +0.20 ms (-0.05 to 0.45), budget 0.50 ms: **within**, the whole interval is below the budget (told, but no part of the verdict)",
		"| 100 Hz | 30.4 % ± 5.10 | +0.40 % (0.15 to 0.65) | +1.33 % | 66.0 MB ± 1.53 |",
		"| 1 | 1 | baseline | 25.0 % | 60.0 MB | 70.0 MB | 1000 |", `does not count: a \| b |`,
		"A <CPU> & Co, 2 cores, 24.0 GiB, linux/amd64, kernel 6.1", "go1.26", "2026-11-25T12:00:00Z", "command: quantraband bench overhead", "seed 1", "- pyroscope-go: theirs; v2",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

// TestHTML: the page is whole, escapes what it is told, and asks nothing of the network.
func TestHTML(t *testing.T) {
	r := planted([]float64{0.003, 0.004, 0.005}, []float64{5e6, 5e6, 6e6}, []float64{0.0001, 0.0002, 0.0003})
	r.Trials[4].Invalid = "<script>x</script>"
	r.Variants[2].Name = "a<b"
	for _, trial := range r.Trials {
		if trial.Variant == "pyroscope-go" {
			trial.Variant = "a<b"
		}
	}
	r.Summarize("100", DefaultBudget)
	var b bytes.Buffer
	if err := WriteHTML(&b, r); err != nil {
		t.Fatal(err)
	}
	page := b.String()
	for _, bad := range []string{"http:", "https:", "<script", "url(", "<img", "<link", "NaN", "Inf", "%!", "a<b", "<no value>"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page has %q", bad)
		}
	}
	charts := 0
	for rest := page; ; charts++ {
		i := strings.Index(rest, "<svg")
		if i < 0 {
			break
		}
		end := strings.Index(rest, "</svg>") + len("</svg>")
		for d := xml.NewDecoder(strings.NewReader(rest[i:end])); ; {
			if _, err := d.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("chart %d: %v", charts, err)
			}
		}
		rest = rest[end:]
	}
	// Two for each of three figures, and the curves.
	if charts != 7 || strings.Count(page, "<polyline") != 3 || strings.Count(page, "<circle") != 3*9 || strings.Count(page, `class="budget"`) != 3 || strings.Count(page, `class="dot invalid"`) != 3 {
		t.Errorf("%d charts, %d curves, %d dots", charts, strings.Count(page, "<polyline"), strings.Count(page, "<circle"))
	}
	for _, want := range []string{"budget 1.00 %", "budget 10.0 MB", "+5.33 MB", "round 2: ", "A &lt;CPU&gt; &amp; Co", "cannot tell", "quantraband bench overhead"} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q", want)
		}
	}
	// With nothing measured there is a page, too.
	empty := &Report{Variants: r.Variants}
	empty.Summarize("100", DefaultBudget)
	if err := WriteHTML(io.Discard, empty); err != nil {
		t.Error(err)
	}
	if err := WriteMarkdown(io.Discard, empty); err != nil {
		t.Error(err)
	}
}

// TestJSON: what is written can be read, and has the figures.
func TestJSON(t *testing.T) {
	r := planted([]float64{0.003, 0.004, 0.005}, []float64{5e6, 5e6, 6e6}, []float64{0, 0, 0})
	raw, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back Report
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	if back.Verdict != Within || len(back.Trials) != 9 || len(back.Rows[1].Curve) != len(r.Rows[1].Curve) || back.Rows[1].Added.CPU != r.Rows[1].Added.CPU {
		t.Errorf("%s", raw)
	}
}

func TestTicks(t *testing.T) {
	for _, c := range []struct {
		low, high float64
		want      []float64
	}{{0, 10, []float64{0, 2, 4, 6, 8, 10}}, {-3.1, 4.8, []float64{-4, -2, 0, 2, 4, 6}}, {5, 5, []float64{5}}, {0, 0.0101, []float64{0, 0.005, 0.01, 0.015}}} {
		got := ticks(c.low, c.high, 5)
		if !slices.EqualFunc(got, c.want, func(a, b float64) bool { return math.Abs(a-b) < 1e-12 }) {
			t.Errorf("%g to %g: %v, want %v", c.low, c.high, got, c.want)
		}
	}
}
