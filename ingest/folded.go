package ingest

import (
	"bytes"
	"math"
	"net/http"
	"strconv"
	"strings"

	"github.com/quantra-l/quantra/profile"
)

// measure is what the numbers of folded stacks are, which the format does not
// say. Pyroscope's clients say it in the application's name: shop.alloc_space.
type measure struct {
	name           string
	sample, period profile.ValueType
	perSecond      bool // values are samples at sampleRate; the sample type is the time they stand for
}

// measures have the types that Go's own profiles have, so that one query finds both.
var measures = map[string]measure{
	"cpu":            {"process_cpu", vt("cpu", "nanoseconds"), vt("cpu", "nanoseconds"), true},
	"wall":           {"wall", vt("wall", "nanoseconds"), vt("wall", "nanoseconds"), true},
	"alloc_objects":  {"memory", vt("alloc_objects", "count"), vt("space", "bytes"), false},
	"alloc_space":    {"memory", vt("alloc_space", "bytes"), vt("space", "bytes"), false},
	"inuse_objects":  {"memory", vt("inuse_objects", "count"), vt("space", "bytes"), false},
	"inuse_space":    {"memory", vt("inuse_space", "bytes"), vt("space", "bytes"), false},
	"goroutines":     {"goroutine", vt("goroutine", "count"), vt("goroutine", "count"), false},
	"mutex_count":    {"mutex", vt("contentions", "count"), vt("contentions", "count"), false},
	"mutex_duration": {"mutex", vt("delay", "nanoseconds"), vt("contentions", "count"), false},
	"block_count":    {"block", vt("contentions", "count"), vt("contentions", "count"), false},
	"block_duration": {"block", vt("delay", "nanoseconds"), vt("contentions", "count"), false},
}

func vt(typ, unit string) profile.ValueType { return profile.ValueType{Type: typ, Unit: unit} }

// defaultRate is Pyroscope's, in samples a second.
const defaultRate = 100

// splitMeasure takes the measure off the end of an application's name. Without
// one, or with a name of which nothing would be left, it is CPU time.
func splitMeasure(app string) (string, measure) {
	if i := strings.LastIndexByte(app, '.'); i > 0 {
		if m, ok := measures[app[i+1:]]; ok {
			return app[:i], m
		}
	}
	return app, measures["cpu"]
}

// unitMeasures are measures by the parameter units, which Pyroscope's clients add; it tells something only where the name has no measure.
var unitMeasures = map[string]string{
	"objects": "inuse_objects", "bytes": "inuse_space", "goroutines": "goroutines",
	"lock_samples": "mutex_count", "lock_nanoseconds": "mutex_duration",
}

// measureOf is what an upload without types of its own measures, and the application's name without that.
func measureOf(app, units string) (string, measure) {
	name, m := splitMeasure(app)
	if by, ok := unitMeasures[units]; ok && name == app {
		m = measures[by]
	}
	return name, m
}

// parseFolded reads stack;frames count lines (Pyroscope calls them groups), or
// with onePerLine one sample a line.
func (in *Ingest) parseFolded(h *hold, text []byte, onePerLine bool) (*profile.Profile, error) {
	// Twice: each byte of text becomes at most a few of columns, and the lines may be written anew.
	if err := h.grow(2 * int64(len(text))); err != nil {
		return nil, err
	}
	if onePerLine {
		var lines bytes.Buffer
		for line := range bytes.Lines(text) {
			if line = bytes.TrimSpace(line); len(line) > 0 {
				lines.Write(line)
				lines.WriteString(" 1\n")
			}
		}
		text = lines.Bytes()
	}
	return profile.ParseFolded(bytes.NewReader(text), in.opt.Limits)
}

// rateOf reads sampleRate, in samples a second.
func rateOf(rate string) (int, error) {
	if rate == "" {
		return defaultRate, nil
	}
	hz, err := strconv.Atoi(rate)
	if err != nil || hz < 1 || hz > 1e6 {
		return 0, faultf(http.StatusBadRequest, "sample_rate", "sampleRate=%.40q must be a number of samples a second, from 1 to 1000000", rate)
	}
	return hz, nil
}

// measured gives a profile of one column the types of what it measures.
func measured(p *profile.Profile, m measure, rate string) error {
	switch unit := p.SampleTypes[0].Unit; {
	case unit == m.sample.Unit: // speedscope's, which has units
		p.SampleTypes, p.PeriodType = []profile.ValueType{m.sample}, m.period
		return nil
	case unit == "bytes":
		p.SampleTypes, p.PeriodType = []profile.ValueType{measures["alloc_space"].sample}, measures["alloc_space"].period
		return nil
	case unit == "nanoseconds":
		return faultf(http.StatusUnprocessableEntity, "units", "the profile is in units of time, and its name says %s/%s", m.sample.Type, m.sample.Unit)
	}
	if !m.perSecond {
		p.SampleTypes, p.PeriodType = []profile.ValueType{m.sample}, m.period
		return nil
	}
	hz, err := rateOf(rate)
	if err != nil {
		return err
	}
	period := int64(1e9) / int64(hz)
	time := make([]int64, p.NumSamples())
	for i, n := range p.Values[0] {
		if n > math.MaxInt64/period || n < -math.MaxInt64/period {
			return faultf(http.StatusUnprocessableEntity, "overflow", "%d samples at %d a second are more than 64 bits of nanoseconds", n, hz)
		}
		time[i] = n * period
	}
	p.SampleTypes = []profile.ValueType{vt("samples", "count"), m.sample}
	p.Values = append(p.Values, time)
	p.PeriodType, p.Period = m.period, period
	return nil
}
