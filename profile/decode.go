package profile

import (
	"fmt"
	"io"

	pprof "github.com/google/pprof/profile"
)

// Decode reads a pprof profile, gzip or raw.
func Decode(r io.Reader, lim Limits) (*Profile, error) {
	lim = lim.withDefaults()
	b, err := io.ReadAll(io.LimitReader(r, lim.Compressed))
	if err != nil {
		return nil, err
	}
	return DecodeBytes(b, lim)
}

// DecodeBytes is [Decode] of bytes in memory.
func DecodeBytes(b []byte, lim Limits) (*Profile, error) {
	g, err := pprof.ParseData(b)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	var types []ValueType
	for _, t := range g.SampleType {
		types = append(types, ValueType{t.Type, t.Unit})
	}
	bd := NewBuilder(types...)
	p := bd.p
	p.DefaultSampleType, p.Period, p.TimeNanos, p.DurationNanos = g.DefaultSampleType, g.Period, g.TimeNanos, g.DurationNanos
	if g.PeriodType != nil {
		p.PeriodType = ValueType{g.PeriodType.Type, g.PeriodType.Unit}
	}
	p.Comments, p.DocURL, p.DropFrames, p.KeepFrames = g.Comments, g.DocURL, g.DropFrames, g.KeepFrames
	locs := map[*pprof.Location]uint32{}
	for _, l := range g.Location {
		loc := Location{Address: l.Address, Folded: l.IsFolded}
		if m := l.Mapping; m != nil {
			loc.Mapping = bd.Mapping(Mapping{Start: m.Start, Limit: m.Limit, Offset: m.Offset, File: bd.String(m.File), BuildID: bd.String(m.BuildID),
				HasFunctions: m.HasFunctions, HasFilenames: m.HasFilenames, HasLineNumbers: m.HasLineNumbers, HasInlineFrames: m.HasInlineFrames})
		}
		var lines []Line
		for _, ln := range l.Line {
			if f := ln.Function; f != nil {
				lines = append(lines, Line{bd.Function(Function{bd.String(f.Name), bd.String(f.SystemName), bd.String(f.Filename), f.StartLine}), ln.Line, ln.Column})
			}
		}
		locs[l] = bd.Location(loc, lines...)
	}
	for _, s := range g.Sample {
		var stack uint32
		for i := len(s.Location) - 1; i >= 0; i-- {
			stack = bd.Stack(stack, locs[s.Location[i]])
		}
		var ls []SampleLabel
		for k, vs := range s.Label {
			for _, v := range vs {
				ls = append(ls, SampleLabel{Key: bd.String(k), Str: bd.String(v)})
			}
		}
		for k, vs := range s.NumLabel {
			for i, v := range vs {
				l := SampleLabel{Key: bd.String(k), Num: v}
				if u := s.NumUnit[k]; i < len(u) {
					l.Unit = bd.String(u[i])
				}
				ls = append(ls, l)
			}
		}
		bd.Add(stack, bd.LabelSet(ls), s.Value...)
	}
	return bd.Profile(), nil
}
