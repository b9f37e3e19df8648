package ingest

import (
	"math"
	"slices"
	"strings"

	"github.com/quantra-l/quantra/profile"
)

// This file is docs/model.md as code: what senders name each in their own way has one name here.

// unknownService is the service of who names none, by OpenTelemetry's semantic conventions.
const unknownService = "unknown_service"

// serviceLabels are what senders name a service by, where they do not say service_name, the surest first: Prometheus and Parca
// have job, Parca's agent container and comm.
var serviceLabels = []string{"service", "app", "job", "container", "comm"}

// modelLabels are a sender's labels as ours, and the profile's name among them ("__name__", as Prometheus has it). Others that start
// with __ are the sender's own business.
func modelLabels(pairs []profile.Label) (name string, ls profile.Labels, err error) {
	var out []profile.Label
	service := ""
	for _, p := range pairs {
		switch {
		case p.Name == "__name__":
			name = p.Value
			continue
		case strings.HasPrefix(p.Name, "__"):
			continue
		}
		p.Name = profile.LabelName(p.Name)
		if p.Name == profile.LabelService && p.Value != "" {
			service = p.Value
		}
		out = append(out, p)
	}
	for _, key := range serviceLabels {
		if i := slices.IndexFunc(out, func(l profile.Label) bool { return l.Name == key && l.Value != "" }); service == "" && i >= 0 {
			service = out[i].Value
			out = append(out, profile.Label{Name: profile.LabelService, Value: service})
		}
	}
	if service == "" {
		out = append(out, profile.Label{Name: profile.LabelService, Value: unknownService})
	}
	ls, err = labelsOf(out)
	return name, ls, err
}

// modelNames are names that other senders give to what has one here.
var modelNames = map[string]string{"goroutines": "goroutine", "cpu": "process_cpu", "heap": "memory", "allocs": "memory", "contention": "", "profile": ""}

// modelName is the profile's name: what its sender calls it, in our words, or what its sample types tell.
func modelName(sent string, p *profile.Profile) string {
	sent = strings.TrimPrefix(sent, "godeltaprof_")
	if ours, ok := modelNames[sent]; ok {
		sent = ours
	}
	if sent == "" || strings.HasPrefix(sent, "parca_agent") || profile.CheckLabelName(sent) != nil {
		return profile.NameOf(p)
	}
	return sent
}

// modelTypes are sample types of OpenTelemetry's conventions, of Node's profiler and of Python's that Go's pprof has other words for.
var modelTypes = map[profile.ValueType]profile.ValueType{
	vt("allocated_objects", "count"): vt("alloc_objects", "count"),
	vt("allocated_space", "bytes"):   vt("alloc_space", "bytes"),
	vt("objects", "count"):           vt("inuse_objects", "count"),
	vt("space", "bytes"):             vt("inuse_space", "bytes"),
	vt("sample", "count"):            vt("samples", "count"),
	vt("CPU", "nanoseconds"):         vt("cpu", "nanoseconds"), // Google's agent for Python
	vt("WALL", "nanoseconds"):        vt("wall", "nanoseconds"),
}

// toModel gives a profile the model's types, and says whether it had others. Samples at a rate get the CPU time that they stand
// for, as Go's own profiles have: one question finds both.
func toModel(p *profile.Profile) (changed bool) {
	for i, t := range p.SampleTypes {
		if ours, ok := modelTypes[t]; ok {
			p.SampleTypes[i], changed = ours, true
		}
	}
	if space := vt("space", "bytes"); p.PeriodType != space && p.PeriodType.Unit == "bytes" && profile.NameOf(p) == "memory" {
		p.PeriodType, changed = space, true
	}
	// The period's types of Google's agent for Python, as its sample types above.
	if t := p.PeriodType.Type; t == "CPU" || t == "WALL" {
		p.PeriodType.Type, changed = strings.ToLower(t), true
	}
	cpu := vt("cpu", "nanoseconds")
	if len(p.SampleTypes) != 1 || p.SampleTypes[0] != vt("samples", "count") || p.PeriodType != cpu || p.Period <= 0 {
		return changed
	}
	time := make([]int64, p.NumSamples())
	for i, n := range p.Values[0] {
		if n > math.MaxInt64/p.Period || n < -math.MaxInt64/p.Period {
			return changed // more than 64 bits: the counts alone are right
		}
		time[i] = n * p.Period
	}
	p.SampleTypes = append(p.SampleTypes, cpu)
	p.Values = append(p.Values, time)
	return true
}

// modelled brings a decoded profile into the model; its bytes are written anew only where it was in another.
func modelled(h *hold, p *Push) error {
	if !toModel(p.Profile) {
		return nil
	}
	return encoded(h, p)
}

// encoded makes the profile's bytes of what was decoded.
func encoded(h *hold, p *Push) error {
	p.Pprof = p.Profile.AppendPprof(nil)
	return h.grow(int64(len(p.Pprof)))
}
