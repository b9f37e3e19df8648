package profile

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// The file format is speedscope's: https://www.speedscope.app/file-format-schema.json

type speedscopeFrame struct {
	Name string `json:"name"`
	File string `json:"file,omitempty"`
}

type speedscopeProfile struct {
	Type       string     `json:"type"`
	Name       string     `json:"name"`
	Unit       string     `json:"unit"`
	StartValue int64      `json:"startValue"`
	EndValue   int64      `json:"endValue"`
	Samples    [][]uint32 `json:"samples"` // frames, the outermost first
	Weights    []int64    `json:"weights"`
}

// WriteSpeedscope writes every column of p as one profile of a speedscope file,
// the one to show first active. Frames are functions by name. Values in a unit
// that speedscope does not have are written without one. A column that has
// negative values cannot be drawn by speedscope: it is an error.
func WriteSpeedscope(w io.Writer, p *Profile) error {
	frames := newFrameNames(p, allStacks(p))
	out := bufio.NewWriterSize(w, 64<<10)
	put := func(v any) error {
		b, err := json.Marshal(v)
		if err == nil {
			_, err = out.Write(b)
		}
		return err
	}
	list := make([]speedscopeFrame, 0, len(frames.names))
	for i := 1; i < len(frames.names); i++ { // 0 is the root's, which is no frame
		list = append(list, speedscopeFrame{frames.names[i], frames.files[i]})
	}
	active := max(p.Column(""), 0)
	fmt.Fprintf(out, `{"$schema":"https://www.speedscope.app/file-format-schema.json","exporter":"quantra","activeProfileIndex":%d,"shared":{"frames":`, active)
	if err := put(list); err != nil {
		return err
	}
	out.WriteString(`},"profiles":[`)
	for col := range p.SampleTypes {
		if col > 0 {
			out.WriteByte(',')
		}
		sp, err := speedscopeColumn(p, col, frames)
		if err != nil {
			return err
		}
		if err := put(sp); err != nil {
			return err
		}
	}
	out.WriteString("]}\n")
	return out.Flush()
}

func allStacks(p *Profile) []bool {
	used := make([]bool, p.Stacks.Len())
	for i := range used {
		used[i] = true
	}
	return used
}

func speedscopeColumn(p *Profile, col int, frames *frameNames) (*speedscopeProfile, error) {
	t := p.SampleTypes[col]
	out := &speedscopeProfile{Type: "sampled", Name: t.Type, Unit: speedscopeUnit(t.Unit),
		Samples: [][]uint32{}, Weights: []int64{}}
	perStack := make([]int64, p.Stacks.Len())
	for i, v := range p.Values[col] {
		perStack[p.SampleStack[i]] += v
	}
	for st, v := range perStack {
		if v == 0 {
			continue
		}
		if v < 0 {
			return nil, fmt.Errorf("speedscope: column %q has the negative value %d; a difference cannot be written in this format, SVG and text can", t.Type, v)
		}
		stack := []uint32{}
		for at := uint32(st); at != 0; at = p.Stacks.Parent[at] {
			for _, f := range slices.Backward(frames.of(p.Stacks.Loc[at])) {
				stack = append(stack, f-1)
			}
		}
		slices.Reverse(stack)
		out.Samples = append(out.Samples, stack)
		out.Weights = append(out.Weights, v)
		out.EndValue += v
	}
	return out, nil
}

// speedscopeUnit is unit by the name that speedscope's schema has for it.
func speedscopeUnit(unit string) string {
	switch u := strings.ToLower(unit); u {
	case "nanoseconds", "microseconds", "milliseconds", "seconds", "bytes":
		return u
	case "ns", "nanosecond":
		return "nanoseconds"
	case "us", "microsecond":
		return "microseconds"
	case "ms", "millisecond":
		return "milliseconds"
	case "s", "second":
		return "seconds"
	case "b", "byte":
		return "bytes"
	}
	return "none"
}
