package profile

import (
	"fmt"
	"unicode/utf8"
)

// Check says which promise of [Profile] p breaks, nil if none. Everything that this
// package makes passes it; it is for profiles made elsewhere, and for tests.
func (p *Profile) Check() error {
	for _, f := range []func() error{p.checkTables, p.checkLocations, p.checkStacks, p.checkSamples} {
		if err := f(); err != nil {
			return fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
	}
	return nil
}

func (p *Profile) checkTables() error {
	if len(p.Strings) == 0 || p.Strings[0] != "" {
		return fmt.Errorf("string 0 must be there and empty")
	}
	for i, s := range p.Strings {
		if !utf8.ValidString(s) {
			return fmt.Errorf("string %d, %.40q, is not UTF-8", i, s)
		}
	}
	n := uint32(len(p.Strings))
	if len(p.Mappings) == 0 || p.Mappings[0] != (Mapping{}) {
		return fmt.Errorf("mapping 0 must be there and zero")
	}
	for i, m := range p.Mappings {
		if max(m.File, m.BuildID) >= n {
			return fmt.Errorf("mapping %d names string %d of %d", i, max(m.File, m.BuildID), n)
		}
	}
	for i, f := range p.Functions {
		if m := max(f.Name, f.SystemName, f.File); m >= n {
			return fmt.Errorf("function %d names string %d of %d", i, m, n)
		}
	}
	if len(p.LabelSets) == 0 || len(p.LabelSets[0]) != 0 {
		return fmt.Errorf("label set 0 must be there and empty")
	}
	for i, set := range p.LabelSets {
		if i > 0 && len(set) == 0 {
			return fmt.Errorf("label set %d is empty, that is set 0", i)
		}
		for j, l := range set {
			if m := max(l.Key, l.Str, l.Unit); m >= n {
				return fmt.Errorf("label %d of set %d names string %d of %d", j, i, m, n)
			}
			if l.Str != 0 && (l.Num != 0 || l.Unit != 0) {
				return fmt.Errorf("label %d of set %d is a string and a number", j, i)
			}
			if j > 0 && compareLabels(p.Strings, set[j-1], l) > 0 {
				return fmt.Errorf("label set %d is not sorted", i)
			}
		}
	}
	return nil
}

func (p *Profile) checkLocations() error {
	for i, l := range p.Lines {
		if int(l.Function) >= len(p.Functions) {
			return fmt.Errorf("line %d is of function %d of %d", i, l.Function, len(p.Functions))
		}
	}
	for i, l := range p.Locations {
		if int(l.Mapping) >= len(p.Mappings) {
			return fmt.Errorf("location %d is of mapping %d of %d", i, l.Mapping, len(p.Mappings))
		}
		if uint64(l.FirstLine)+uint64(l.NumLines) > uint64(len(p.Lines)) {
			return fmt.Errorf("location %d has lines %d to %d of %d", i, l.FirstLine, uint64(l.FirstLine)+uint64(l.NumLines), len(p.Lines))
		}
	}
	return nil
}

func (p *Profile) checkStacks() error {
	s := &p.Stacks
	if len(s.Parent) == 0 || len(s.Parent) != len(s.Loc) {
		return fmt.Errorf("stacks have %d parents and %d locations, they must be equal and not 0", len(s.Parent), len(s.Loc))
	}
	seen := newPairTable(len(s.Parent))
	for i := 1; i < len(s.Parent); i++ {
		if int(s.Parent[i]) >= i {
			return fmt.Errorf("stack %d has parent %d, which must be smaller", i, s.Parent[i])
		}
		if int(s.Loc[i]) >= len(p.Locations) {
			return fmt.Errorf("stack %d has location %d of %d", i, s.Loc[i], len(p.Locations))
		}
		if first, fresh := seen.get(uint64(s.Parent[i])<<32|uint64(s.Loc[i]), uint32(i)); !fresh {
			return fmt.Errorf("stacks %d and %d are the same", first, i)
		}
	}
	return nil
}

func (p *Profile) checkSamples() error {
	if len(p.Values) != len(p.SampleTypes) {
		return fmt.Errorf("%d columns of values for %d sample types", len(p.Values), len(p.SampleTypes))
	}
	n := len(p.SampleStack)
	if n > 0 && len(p.SampleTypes) == 0 {
		return fmt.Errorf("there are samples, but no sample types")
	}
	if len(p.SampleLabels) != n {
		return fmt.Errorf("%d samples have %d label sets", n, len(p.SampleLabels))
	}
	for t, v := range p.Values {
		if len(v) != n {
			return fmt.Errorf("%d samples have %d values in column %d", n, len(v), t)
		}
	}
	for i := range n {
		if int(p.SampleStack[i]) >= p.Stacks.Len() {
			return fmt.Errorf("sample %d has stack %d of %d", i, p.SampleStack[i], p.Stacks.Len())
		}
		if int(p.SampleLabels[i]) >= len(p.LabelSets) {
			return fmt.Errorf("sample %d has label set %d of %d", i, p.SampleLabels[i], len(p.LabelSets))
		}
	}
	return nil
}
