// Package overhead says what a profiling agent costs the program that it profiles: a load at fixed times, latencies
// without co-ordinated omission, statistics that carry their doubt, a verdict against a budget, and reports as Markdown, JSON and
// one HTML page.
//
// It starts no program and reads no clock of another process; `quantraband bench overhead` does, and fills a [Report] from
// what it measured. [Drive] is the load, [Summarize] the statistics and the verdict.
package overhead

import (
	"slices"
	"time"
)

// Baseline is the variant that all others are compared with: the program without an agent.
const Baseline = "baseline"

// Budget is what an agent may cost.
type Budget struct {
	CPU    float64 `json:"cpu"`    // cores: 0.01 is 1 % of one core
	Memory float64 `json:"memory"` // bytes of resident memory
	P99    float64 `json:"p99"`    // seconds that the 99th percentile of the latency may grow
}

// DefaultBudget is DESIGN's: under 1 % of a core, under 10 MB (of 10^6 bytes), p99 by at most 0.5 ms more.
var DefaultBudget = Budget{CPU: 0.01, Memory: 10e6, P99: 0.0005}

// Machine is where it was measured. Nothing in it names the machine.
type Machine struct {
	CPU    string `json:"cpu"`    // as the kernel calls it
	Cores  int    `json:"cores"`  // that the process may use
	Memory int64  `json:"memory"` // bytes
	OS     string `json:"os"`     // GOOS/GOARCH
	Kernel string `json:"kernel"` // release
	Go     string `json:"go"`     // version that built this program
}

// Variant is one way to run the program.
type Variant struct {
	Name    string `json:"name"`    // Baseline, "100", ...
	What    string `json:"what"`    // for people
	Version string `json:"version"` // of the agent; "" where there is none
}

// Trial is one process of one variant, from its start to its end.
type Trial struct {
	Round   int    `json:"round"` // from 1
	Turn    int    `json:"turn"`  // its place in the round, from 1
	Variant string `json:"variant"`

	Seconds    float64 `json:"seconds"`     // the measured span
	CPU        float64 `json:"cpu_seconds"` // user and system time of the process in the span
	RSS        float64 `json:"rss"`         // bytes, the median of the samples in the span
	RSSPeak    float64 `json:"rss_peak"`    // bytes, the kernel's own high-water mark of the span; 0: it does not say
	RSSSamples int     `json:"rss_samples"`

	Offered   int64   `json:"offered"` // requests that were due in the span
	Completed int64   `json:"completed"`
	Failed    int64   `json:"failed"`
	Rate      float64 `json:"rate"` // answered well within the span, a second

	P50  float64 `json:"p50"` // seconds from the time a request was due to its answer
	P99  float64 `json:"p99"`
	P999 float64 `json:"p999"`
	Max  float64 `json:"max"`
	Late float64 `json:"late_p99"` // seconds by which the load itself was late in sending

	Uploads       int64 `json:"uploads"`         // profiles that were acknowledged, to the end of the process
	UploadsInSpan int64 `json:"uploads_in_span"` // of these in the measured span
	UploadsFailed int64 `json:"uploads_failed"`

	// Invalid says why the trial does not count; "" is that it does.
	Invalid string `json:"invalid,omitempty"`

	Latency *Histogram `json:"-"`
}

// Cores is the part of one core that the process took.
func (t *Trial) Cores() float64 {
	if t.Seconds <= 0 {
		return 0
	}
	return t.CPU / t.Seconds
}

// minRate is the part of the rate that a trial must reach: what is slower is not the load that was asked for.
const minRate = 0.99

// maxFailed is the part of the requests that may fail.
const maxFailed = 0.001

// Check sets Invalid where the trial is not what was asked for. uploads says that the variant sends profiles.
func (t *Trial) Check(rate float64, uploads bool) {
	switch {
	case t.Invalid != "":
	case float64(t.Failed) > maxFailed*float64(t.Offered):
		t.Invalid = "requests failed"
	case t.Rate < minRate*rate:
		t.Invalid = "machine too slow: the rate was not reached"
	case t.UploadsFailed > 0:
		t.Invalid = "uploads failed"
	case uploads && t.Uploads == 0:
		t.Invalid = "no profile was uploaded"
	}
}

// Spread is a figure over trials.
type Spread struct {
	Median float64 `json:"median"`
	SD     float64 `json:"sd"` // standard deviation of the sample; 0 of fewer than two
	N      int     `json:"n"`
}

// Row is a variant over its trials, and beside the baseline.
type Row struct {
	Variant Variant `json:"variant"`
	Trials  int     `json:"trials"`
	Invalid int     `json:"invalid"` // trials that do not count

	CPU     Spread `json:"cpu"` // cores
	RSS     Spread `json:"rss"` // bytes
	RSSPeak Spread `json:"rss_peak"`
	P50     Spread `json:"p50"` // seconds
	P99     Spread `json:"p99"`
	P999    Spread `json:"p999"`
	Uploads int64  `json:"uploads"`
	InSpan  int64  `json:"uploads_in_span"`

	// What it adds to the baseline of the same round. nil for the baseline itself.
	Added *Added `json:"added,omitempty"`
	// The latencies of all its valid trials together.
	Curve []Point `json:"curve"`
}

// Added is the paired differences to the baseline.
type Added struct {
	CPU      Interval `json:"cpu"`      // cores
	Relative float64  `json:"relative"` // mean of CPU as part of the baseline's mean
	RSS      Interval `json:"rss"`      // bytes
	P99      Interval `json:"p99"`      // seconds
}

// Point is one point of a latency curve: this part of the requests was answered within this time.
type Point struct {
	Part    float64 `json:"part"`
	Seconds float64 `json:"seconds"`
}

// Report is a whole measurement. Durations are in seconds, memory in bytes, processor time in cores or seconds.
type Report struct {
	Format   int       `json:"format"` // 1
	Date     time.Time `json:"date"`
	Command  string    `json:"command"`
	Version  string    `json:"version"` // of quantraband
	Machine  Machine   `json:"machine"`
	Workload string    `json:"workload"`
	Rate     float64   `json:"rate"`
	Rounds   int       `json:"rounds"`
	Time     float64   `json:"time"`
	Warmup   float64   `json:"warmup"`
	Seed     uint64    `json:"seed"`
	Variants []Variant `json:"variants"`
	Trials   []*Trial  `json:"trials"`

	// The rest is what Summarize makes of the above.
	Budget   Budget    `json:"budget"`
	Rows     []Row     `json:"rows"`
	Verdict  Verdict   `json:"verdict"`
	Measures []Measure `json:"measures"`
	Warnings []string  `json:"warnings"`
}

// trials are those of a variant.
func (r *Report) trials(variant string) (ts []*Trial) {
	for _, t := range r.Trials {
		if t.Variant == variant {
			ts = append(ts, t)
		}
	}
	return ts
}

// Order is the order in which a round, from 0, runs n variants: indexes. The first order is by chance, and each round begins
// one further on, so that in n rounds each variant has had each turn once; then there is a new order. What drifts while a
// round lasts (heat, neighbours) therefore favours none.
func Order(n, round int, seed uint64) []int {
	perm := shuffled(n, seed, uint64(round/max(n, 1)))
	at := round % max(n, 1)
	return slices.Concat(perm[at:], perm[:at])
}
