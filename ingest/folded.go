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

// parseFolded reads stack;frames count lines (Pyroscope calls them groups), or
// with onePerLine one sample a line.
func (in *Ingest) parseFolded(h *hold, text []byte, onePerLine bool, m measure, rate string) (*profile.Profile, error) {
	hz := defaultRate
	if rate != "" && m.perSecond {
		var err error
		if hz, err = strconv.Atoi(rate); err != nil || hz < 1 || hz > 1e6 {
			return nil, faultf(http.StatusBadRequest, "sample_rate", "sampleRate=%.40q must be a number of samples a second, from 1 to 1000000", rate)
		}
	}
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
	p, err := profile.ParseFolded(bytes.NewReader(text), in.opt.Limits)
	if err != nil {
		return nil, err
	}
	if !m.perSecond {
		p.SampleTypes, p.PeriodType = []profile.ValueType{m.sample}, m.period
		return p, nil
	}
	period := int64(1e9) / int64(hz)
	time := make([]int64, p.NumSamples())
	for i, n := range p.Values[0] {
		if n > math.MaxInt64/period || n < -math.MaxInt64/period {
			return nil, faultf(http.StatusUnprocessableEntity, "overflow", "%d samples at %d a second are more than 64 bits of nanoseconds", n, hz)
		}
		time[i] = n * period
	}
	p.SampleTypes = []profile.ValueType{vt("samples", "count"), m.sample}
	p.Values = append(p.Values, time)
	p.PeriodType, p.Period = m.period, period
	return p, nil
}
