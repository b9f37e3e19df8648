package formats

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/quantra-l/quantra/profile"
)

// The file format of https://www.speedscope.app/file-format-schema.json.
type speedscope struct {
	Shared struct {
		Frames []struct {
			Name string `json:"name"`
			File string `json:"file"`
			Line int64  `json:"line"`
			Col  int64  `json:"col"`
		} `json:"frames"`
	} `json:"shared"`
	Profiles []speedscopeProfile `json:"profiles"`
}

type speedscopeProfile struct {
	Type    string            `json:"type"`
	Name    string            `json:"name"`
	Unit    string            `json:"unit"`
	Samples [][]uint32        `json:"samples"` // the outermost frame first
	Weights []float64         `json:"weights"`
	Events  []speedscopeEvent `json:"events"`
}

type speedscopeEvent struct {
	Type  string  `json:"type"` // O opens a frame, C closes it
	Frame uint32  `json:"frame"`
	At    float64 `json:"at"`
}

// speedscopeUnits are the units of the format, as ours and by how many of them.
var speedscopeUnits = map[string]struct {
	unit   string
	factor float64
}{
	"":             {"count", 1},
	"none":         {"count", 1},
	"bytes":        {"bytes", 1},
	"nanoseconds":  {"nanoseconds", 1},
	"microseconds": {"nanoseconds", 1e3},
	"milliseconds": {"nanoseconds", 1e6},
	"seconds":      {"nanoseconds", 1e9},
}

// ParseSpeedscope reads a speedscope file: all its profiles (one a thread, most often) together, each with its name as the
// label "thread" where there are several. The column is "samples" in count, nanoseconds or bytes: the unit of all of them must be
// of one kind.
func ParseSpeedscope(b []byte, lim profile.Limits) (*profile.Profile, error) {
	corrupt := func(format string, args ...any) error {
		return fmt.Errorf("%w: speedscope: %s", profile.ErrCorrupt, fmt.Sprintf(format, args...))
	}
	var f speedscope
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, corrupt("%v", err)
	}
	if len(f.Profiles) == 0 {
		return nil, corrupt("there is no profile in it")
	}
	first, ok := speedscopeUnits[f.Profiles[0].Unit]
	if !ok {
		return nil, corrupt("the unit %.40q is not one of the format's", f.Profiles[0].Unit)
	}
	w := &speedscopeWriter{stacks: newStacks(lim, len(b), profile.ValueType{Type: "samples", Unit: first.unit})}
	for _, fr := range f.Shared.Frames {
		if len(fr.Name) > maxFrame {
			return nil, fmt.Errorf("%w: a frame's name has %d bytes, the limit is %d", profile.ErrTooLarge, len(fr.Name), maxFrame)
		}
		n := w.b.String(fr.Name)
		fn := w.b.Function(profile.Function{Name: n, SystemName: n, File: w.b.String(fr.File)})
		w.frames = append(w.frames, w.b.Location(profile.Location{}, profile.Line{Function: fn, Line: max(fr.Line, 0), Column: max(fr.Col, 0)}))
	}
	for i := range f.Profiles {
		p := &f.Profiles[i]
		u, ok := speedscopeUnits[p.Unit]
		if !ok || u.unit != first.unit {
			return nil, corrupt("profile %d has the unit %.40q, and the first %q: send them apart", i, p.Unit, f.Profiles[0].Unit)
		}
		w.factor, w.labels = u.factor, 0
		if len(f.Profiles) > 1 && p.Name != "" {
			w.labels = w.b.LabelSet([]profile.SampleLabel{{Key: w.b.String("thread"), Str: w.b.String(p.Name)}})
		}
		var err error
		switch p.Type {
		case "sampled":
			err = w.sampled(p)
		case "evented":
			err = w.evented(p)
		default:
			err = corrupt("it has the type %.40q: sampled and evented are read", p.Type)
		}
		if err != nil {
			return nil, fmt.Errorf("profile %d: %w", i, err)
		}
	}
	if w.samples == 0 {
		return nil, corrupt("no stack has a weight")
	}
	return w.b.Profile(), nil
}

type speedscopeWriter struct {
	*stacks
	frames  []uint32 // the location of each
	labels  uint32
	factor  float64
	samples int
}

func (w *speedscopeWriter) corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: speedscope: %s", profile.ErrCorrupt, fmt.Sprintf(format, args...))
}

// call is the stack in which parent calls a frame.
func (w *speedscopeWriter) call(parent, frame uint32, depth int) (uint32, error) {
	if int64(frame) >= int64(len(w.frames)) {
		return 0, w.corrupt("frame %d, and there are %d", frame, len(w.frames))
	}
	if depth > w.lim.Depth {
		return 0, fmt.Errorf("%w: a stack of %d frames, the limit is %d", profile.ErrTooLarge, depth, w.lim.Depth)
	}
	return w.b.Stack(parent, w.frames[frame]), nil
}

func (w *speedscopeWriter) add(stack uint32, weight float64) error {
	v := weight * w.factor
	if math.IsNaN(v) || v < 0 || v >= math.MaxInt64 {
		return w.corrupt("the weight %v: it must be at least 0, and in 63 bits", weight)
	}
	if n := int64(math.Round(v)); n > 0 {
		if w.samples++; w.samples > w.lim.Samples {
			return fmt.Errorf("%w: more than %d samples", profile.ErrTooLarge, w.lim.Samples)
		}
		w.b.Add(stack, w.labels, n)
	}
	return nil
}

func (w *speedscopeWriter) sampled(p *speedscopeProfile) error {
	if len(p.Weights) != len(p.Samples) && len(p.Weights) > 0 {
		return w.corrupt("%d samples and %d weights", len(p.Samples), len(p.Weights))
	}
	for i, frames := range p.Samples {
		stack := uint32(0)
		var err error
		for d, f := range frames {
			if stack, err = w.call(stack, f, d+1); err != nil {
				return err
			}
		}
		weight := 1.0
		if len(p.Weights) > 0 {
			weight = p.Weights[i]
		}
		if err := w.add(stack, weight); err != nil {
			return err
		}
	}
	return nil
}

// evented gives what passes between two events to the stack that is open.
func (w *speedscopeWriter) evented(p *speedscopeProfile) error {
	type open struct{ frame, stack uint32 }
	var path []open
	last := 0.0
	for i, e := range p.Events {
		if e.At < last && i > 0 {
			return w.corrupt("event %d is at %v, before the one ahead of it at %v", i, e.At, last)
		}
		stack := uint32(0)
		if len(path) > 0 {
			stack = path[len(path)-1].stack
			if err := w.add(stack, e.At-last); err != nil {
				return err
			}
		}
		last = e.At
		switch {
		case e.Type == "O":
			s, err := w.call(stack, e.Frame, len(path)+1)
			if err != nil {
				return err
			}
			path = append(path, open{e.Frame, s})
		case e.Type == "C" && len(path) > 0 && path[len(path)-1].frame == e.Frame:
			path = path[:len(path)-1]
		default:
			return w.corrupt("event %d (%.10q of frame %d) opens nothing, nor closes what was opened last", i, e.Type, e.Frame)
		}
	}
	if len(path) > 0 {
		return w.corrupt("%d frames are opened and never closed", len(path))
	}
	return nil
}
