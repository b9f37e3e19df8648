package builds

import (
	"cmp"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/pgo"
)

// Input is what [Propose] looks at: a profile for the compiler that was made of what a service did, and what its builds have.
type Input struct {
	Service string
	Where   Where
	Sum     string // of the profile
	Made    pgo.Report
	Version string    // whose code it is of
	From    time.Time // of what it was made of
	To      time.Time
	// There is the profile at the place; nil is none, or something that is no profile. Agrees is how much of the hot weight it and the new one agree on.
	There  bool
	Agrees float64
	// Profiled and Of count the instances that say they were built with a profile, and those that know.
	Profiled, Of int
	Cores        float64 // that the service uses
	// After is the least of the past that is proposed on; 0 is a day: an hour of the night is no day's work.
	After time.Duration
	// Evidence are pages that show it, by what they show; warnings are of who measured.
	Evidence []optimize.Evidence
	Warnings []string
}

// What a first profile is expected to gain: Go's own benchmarks gain 2 to 14 % of processor time (go.dev/doc/pgo, Go 1.22 and later). Programs that wait
// for memory, or whose time goes into few functions, gain nothing, as quantraband's own workload shows (bench/RESULTS.md): the interval begins at nothing.
const (
	firstGain     = 0.04
	firstGainMost = 0.14
)

// Propose is the change that puts the profile where builds take it from; nil is that there is none: too little is known, or what is there is as
// good. The same input gives the same proposal.
func Propose(in Input) *optimize.Proposal {
	after := cmp.Or(in.After, 24*time.Hour)
	span := in.To.Sub(in.From)
	r := &in.Made
	switch {
	case in.Where.Check() != nil, !sum.MatchString(in.Sum), in.Service == "":
		return nil
	case r.Samples < pgo.EnoughSamples || !(r.Agreement >= pgo.Steady) || r.Hot == 0 || span < after:
		return nil
	case math.IsNaN(in.Cores) || in.Cores < 0 || math.IsInf(in.Cores, 0):
		return nil
	case in.There && in.Agrees >= r.Agreement:
		return nil // it differs from the new one no more than two halves of that do from each other
	}
	gain := analyze.Estimate{Value: -firstGain, Low: -firstGainMost}
	source := "Go's own benchmarks gain 2 to 14 %, go.dev/doc/pgo; some programs gain nothing"
	has := "is built without a profile for the compiler"
	if in.There {
		// The part that is new is new; what is hot in both is gained already.
		part := min(1, max(0, 1-in.Agrees))
		gain = analyze.Estimate{Value: -firstGain * part, Low: -firstGainMost * part}
		source += fmt.Sprintf("; of that the %s that is new", percent(part))
		has = fmt.Sprintf("has a profile for the compiler that agrees with what it does now on %s of the hot calls' weight, where two halves of the new one agree on %s", percent(in.Agrees), percent(r.Agreement))
	}
	how := "put it to " + in.Where.String()
	if in.Where.Pull != nil {
		how = "open a pull request for " + in.Where.String()
	}
	p := &optimize.Proposal{
		Kind: optimize.PGO, Service: in.Service, Subject: "profile", Basis: in.Version,
		Spec:     Spec{Where: in.Where, Profile: in.Sum, Version: in.Version}.raw(),
		Expected: map[string]analyze.Estimate{"cpu_per_request": gain}, Saving: -gain.Value * in.Cores,
		Evidence: in.Evidence, Warnings: append(append([]string{}, in.Warnings...), r.Warnings...),
		Sentence: fmt.Sprintf("%s %s; %.0f samples of %d instances over %s say what is hot (two halves agree on %s; %d calls): %s, have it built, expected %s CPU (%s to %s: %s).",
			in.Service, has, r.Samples, r.Instances, spanText(span), percent(r.Agreement), r.Hot, how, percent(gain.Value), percent(gain.Low), percent(gain.High), source),
	}
	p.Warnings = append(p.Warnings, "The new build has whatever else was committed meanwhile: what is judged is both together.")
	switch {
	case in.Of > 0 && in.Profiled > 0 && !in.There:
		p.Warnings = append(p.Warnings, fmt.Sprintf("%d of %d instances say that they were built with a profile, which is not at this place.", in.Profiled, in.Of))
	case in.Of > 0 && in.Profiled == 0 && in.There:
		p.Warnings = append(p.Warnings, fmt.Sprintf("None of %d instances says that it was built with the profile that is there: does the build read it?", in.Of))
	}
	return p
}

// percent is a part of 1 as "4 %", or "0.7 %".
func percent(x float64) string {
	p := 100 * x
	if math.Abs(p) < 0.05 {
		return "0 %"
	}
	if math.Abs(p) < 2 {
		return fmt.Sprintf("%.1f %%", p)
	}
	return fmt.Sprintf("%.0f %%", p)
}

// spanText is a time as "7 days", "3 hours" or "12 minutes".
func spanText(d time.Duration) string {
	for _, u := range []struct {
		of   time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := int(d.Round(u.of) / u.of); d >= u.of {
			return fmt.Sprint(n, " ", u.name, strings.Repeat("s", min(1, n-1)))
		}
	}
	return d.Round(time.Second).String()
}
