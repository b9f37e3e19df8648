package ingest

import (
	"fmt"
	"slices"
	"strings"

	"github.com/quantra-l/quantra/profile"
)

// Numbers say what the numbers of a file are whose format does not say.
type Numbers struct {
	Measure string // one of [Measures]; "" is cpu
	Rate    int    // samples a second, of cpu and wall; 0 is 100
}

// Measures are what folded stacks and speedscope's files can be of.
func Measures() []string {
	var out []string
	for m := range measures {
		out = append(out, m)
	}
	slices.Sort(out)
	return out
}

// ModelStacks brings a profile of one column, of folded stacks or speedscope's, into the model (docs/model.md), and is its name.
func ModelStacks(p *profile.Profile, n Numbers) (name string, err error) {
	m, ok := measures[n.Measure]
	if n.Measure == "" {
		m, ok = measures["cpu"], true
	}
	if !ok {
		return "", fmt.Errorf("%.40q is none of %s", n.Measure, strings.Join(Measures(), ", "))
	}
	rate := ""
	if n.Rate != 0 {
		rate = fmt.Sprint(n.Rate)
	}
	if err := measured(p, m, rate); err != nil {
		return "", err
	}
	if p.SampleTypes[0] == measures["alloc_space"].sample {
		return measures["alloc_space"].name, nil
	}
	return m.name, nil
}

// cpuEvents are perf's that are sampled while a processor works, so that their samples are where its time goes.
var cpuEvents = []string{"cpu-clock", "task-clock", "cycles", "cpu-cycles", "ref-cycles", "instructions"}

// ModelPerf brings what perf script printed into the model, and is its name. Of the clocks the period is CPU time; others
// keep their event for a type.
func ModelPerf(p *profile.Profile) string {
	name, types := "", slices.Clone(p.SampleTypes)
	withoutColons(p)
	for i, t := range types[1:] { // the first is samples/count
		event, _, _ := strings.Cut(t.Type, ":")
		clock := t.Unit == "nanoseconds"
		if clock && !slices.Contains(p.SampleTypes, vt("cpu", "nanoseconds")) {
			p.SampleTypes[i+1] = vt("cpu", "nanoseconds")
		}
		switch {
		case slices.Contains(cpuEvents, event):
			name = "process_cpu"
		case name == "":
			name = profile.LabelName(event)
		}
		if p.PeriodType.Type == "" || clock {
			p.PeriodType = p.SampleTypes[i+1]
		}
	}
	if p.DefaultSampleType = p.SampleTypes[1].Type; name == "" {
		name = "perf"
	}
	return name
}

// Model brings a profile that has types into the model, and is its name; sent is what it is called already, "" for nothing.
func Model(p *profile.Profile, sent string) string {
	toModel(p)
	return modelName(sent, p)
}
