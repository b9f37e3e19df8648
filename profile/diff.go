package profile

import (
	"fmt"
	"slices"
)

// Diff is head - base: what grew is positive. With normalize, base is first scaled, column by
// column, to head's total, so that two runs of different length compare by share: pprof's -normalize.
// Both must have a common sample type. Time, period and comments are head's.
func Diff(base, head *Profile, normalize bool) (*Profile, error) {
	types := slices.DeleteFunc(slices.Clone(head.SampleTypes), func(t ValueType) bool { return !slices.Contains(base.SampleTypes, t) })
	if len(types) == 0 && len(head.SampleTypes)+len(base.SampleTypes) > 0 {
		return nil, fmt.Errorf("diff: no sample type of %v is among %v", head.SampleTypes, base.SampleTypes)
	}
	m := NewMerger(types...)
	if err := m.Add(head, 1); err != nil {
		return nil, fmt.Errorf("diff: %w", err)
	}
	scales := make([]float64, len(types))
	for t, vt := range types {
		scales[t] = -1
		if normalize {
			b, h := base.Total(slices.Index(base.SampleTypes, vt)), head.Total(slices.Index(head.SampleTypes, vt))
			if scales[t] = 0; b != 0 {
				scales[t] = -float64(h) / float64(b)
			}
		}
	}
	if err := m.add(base, scales); err != nil {
		return nil, fmt.Errorf("diff: %w", err)
	}
	p := m.Profile()
	p.TimeNanos, p.DurationNanos, p.Period, p.PeriodType = head.TimeNanos, head.DurationNanos, head.Period, head.PeriodType
	p.Comments = slices.Clone(head.Comments)
	return p, nil
}

// Scale is p with every value times by, rounded.
func (p *Profile) Scale(by float64) *Profile {
	q := *p
	q.Values = make([][]int64, len(p.Values))
	for t, col := range p.Values {
		q.Values[t] = make([]int64, len(col))
		for i, v := range col {
			q.Values[t][i] = scaleValue(v, by)
		}
	}
	return &q
}

// Project is p with only column t, without the samples that are 0 in it. It shares
// p's tables and stacks; [Profile.Compact] drops what is then of no use.
func (p *Profile) Project(t int) *Profile {
	q := *p
	q.SampleTypes = []ValueType{p.SampleTypes[t]}
	if q.DefaultSampleType != p.SampleTypes[t].Type {
		q.DefaultSampleType = ""
	}
	n := 0
	for _, v := range p.Values[t] {
		if v != 0 {
			n++
		}
	}
	q.SampleStack, q.SampleLabels = make([]uint32, 0, n), make([]uint32, 0, n)
	vals := make([]int64, 0, n)
	for i, v := range p.Values[t] {
		if v != 0 {
			q.SampleStack = append(q.SampleStack, p.SampleStack[i])
			q.SampleLabels = append(q.SampleLabels, p.SampleLabels[i])
			vals = append(vals, v)
		}
	}
	q.Values = [][]int64{vals}
	return &q
}
