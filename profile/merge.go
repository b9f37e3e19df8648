package profile

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// Merge is the sum of ps, as pprof merges: over the sample types that all of them have
// (in the order of the first), the earliest time, the sum of durations and the largest period.
// Samples whose values are all 0, and stacks that no other sample needs, are left out. It is
// an error if ps is empty or has no common sample type, or if period types differ.
func Merge(ps ...*Profile) (*Profile, error) {
	if len(ps) == 0 {
		return nil, errors.New("merge: no profiles")
	}
	types := slices.Clone(ps[0].SampleTypes)
	for _, p := range ps[1:] {
		common := slices.DeleteFunc(slices.Clone(types), func(t ValueType) bool { return !slices.Contains(p.SampleTypes, t) })
		if len(common) == 0 && len(types) > 0 {
			return nil, fmt.Errorf("merge: no sample type of %v is among %v", types, p.SampleTypes)
		}
		types = common
	}
	m := NewMerger(types...)
	for _, p := range ps {
		if err := m.Add(p, 1); err != nil {
			return nil, err
		}
	}
	return m.Profile(), nil
}

// Merger sums profiles one by one. Each one's strings, functions, locations
// and stacks are looked up once; its samples are then added by index. One goroutine at a time.
type Merger struct {
	// StripAddresses leaves out the address and the mapping of locations that have lines, so that
	// the same line of two builds or two processes is one. Set it before the first Add.
	StripAddresses bool
	// DropLabels leaves out the samples' labels. Set it before the first Add.
	DropLabels bool

	b        *Builder
	mappings map[mergedMapping]uint32
	unlabel  []uint32 // stack -> its sample without labels, +1: most samples have none
	any      bool     // a profile was added
}

// mergedMapping is what makes two mappings one, wherever they were loaded: pprof's rule.
type mergedMapping struct {
	size, offset uint64
	name         uint32 // the build id, or the file, in the sum's strings
}

// NewMerger starts a sum of these sample types.
func NewMerger(types ...ValueType) *Merger {
	return &Merger{b: NewBuilder(types...), mappings: map[mergedMapping]uint32{}}
}

// Add adds p, each value times scale and rounded. Sample types that the sum does not have are
// left out; it is an error, and nothing is added, if p lacks one that it has, or has another period type.
func (m *Merger) Add(p *Profile, scale float64) error {
	scales := make([]float64, len(m.b.p.SampleTypes))
	for t := range scales {
		scales[t] = scale
	}
	return m.add(p, scales)
}

// add is Add with a scale for each column of the sum.
func (m *Merger) add(p *Profile, scales []float64) error {
	sum := m.b.p
	cols := make([]int, len(sum.SampleTypes))
	for t, want := range sum.SampleTypes {
		if cols[t] = slices.Index(p.SampleTypes, want); cols[t] < 0 {
			return fmt.Errorf("merge: sample types %v lack %v, which the sum %v has", p.SampleTypes, want, sum.SampleTypes)
		}
	}
	if m.any && sum.PeriodType != p.PeriodType && sum.PeriodType != (ValueType{}) && p.PeriodType != (ValueType{}) {
		return fmt.Errorf("merge: period type %v is not %v", p.PeriodType, sum.PeriodType)
	}
	m.addHeader(p)
	in := mergeInput{m: m, p: p,
		strs: make([]uint32, len(p.Strings)), maps: make([]uint32, len(p.Mappings)), shift: make([]uint64, len(p.Mappings)),
		funcs: make([]uint32, len(p.Functions)), locs: make([]uint32, len(p.Locations)),
		stacks: make([]uint32, p.Stacks.Len()), sets: make([]uint32, len(p.LabelSets))}
	if len(p.Mappings) > 1 && len(sum.Mappings) == 1 && !m.StripAddresses {
		in.mapping(1) // by convention the first is the program itself
	}
	in.samples(cols, scales)
	return nil
}

func (m *Merger) addHeader(p *Profile) {
	sum := m.b.p
	if !m.any {
		sum.DropFrames, sum.KeepFrames = p.DropFrames, p.KeepFrames
	}
	m.any = true
	if sum.PeriodType == (ValueType{}) {
		sum.PeriodType = p.PeriodType
	}
	if p.TimeNanos != 0 && (sum.TimeNanos == 0 || p.TimeNanos < sum.TimeNanos) {
		sum.TimeNanos = p.TimeNanos
	}
	sum.DurationNanos += p.DurationNanos
	sum.Period = max(sum.Period, p.Period)
	for _, c := range p.Comments {
		if !slices.Contains(sum.Comments, c) {
			sum.Comments = append(sum.Comments, c)
		}
	}
	if sum.DefaultSampleType == "" && slices.ContainsFunc(sum.SampleTypes, func(t ValueType) bool { return t.Type == p.DefaultSampleType }) {
		sum.DefaultSampleType = p.DefaultSampleType
	}
	if sum.DocURL == "" {
		sum.DocURL = p.DocURL
	}
}

// Profile is the sum. The Merger is of no use after.
func (m *Merger) Profile() *Profile {
	p := m.b.Profile()
	if p.hasZeroSample() {
		// Values that cancelled out may have been the last of their stacks.
		return p.Compact()
	}
	return p
}

// mergeInput maps one profile's indexes to the sum's, each when it is first needed.
// Entries are index+1, so that 0 is "not yet".
type mergeInput struct {
	m     *Merger
	p     *Profile
	strs  []uint32
	maps  []uint32
	shift []uint64 // by mapping: what to add to an address
	funcs []uint32
	locs  []uint32
	// stacks has no +1: node 0 is the root in both, and every other node is visited once, callers first.
	stacks []uint32
	sets   []uint32
	lines  []Line
	labels []SampleLabel
}

func (in *mergeInput) str(i uint32) uint32 {
	if in.strs[i] == 0 {
		in.strs[i] = in.m.b.String(in.p.Strings[i]) + 1
	}
	return in.strs[i] - 1
}

func (in *mergeInput) mapping(i uint32) uint32 {
	if i == 0 || in.maps[i] != 0 {
		return max(in.maps[i], 1) - 1
	}
	m := in.p.Mappings[i]
	m.File, m.BuildID = in.str(m.File), in.str(m.BuildID)
	k := mergedMapping{size: (m.Limit - m.Start + 0xfff) &^ 0xfff, offset: m.Offset, name: m.BuildID}
	if k.name == 0 {
		k.name = m.File
	}
	at, ok := in.m.mappings[k]
	if !ok {
		sum := in.m.b.p
		at = uint32(len(sum.Mappings))
		sum.Mappings = append(sum.Mappings, m)
		in.m.mappings[k] = at
	}
	in.maps[i] = at + 1
	in.shift[i] = in.m.b.p.Mappings[at].Start - m.Start
	return at
}

func (in *mergeInput) function(i uint32) uint32 {
	if in.funcs[i] == 0 {
		f := in.p.Functions[i]
		in.funcs[i] = in.m.b.Function(Function{in.str(f.Name), in.str(f.SystemName), in.str(f.File), f.StartLine}) + 1
	}
	return in.funcs[i] - 1
}

func (in *mergeInput) location(i uint32) uint32 {
	if in.locs[i] == 0 {
		l := in.p.Locations[i]
		in.lines = in.lines[:0]
		for _, ln := range in.p.LinesOf(i) {
			in.lines = append(in.lines, Line{in.function(ln.Function), ln.Line, ln.Column})
		}
		if in.m.StripAddresses && len(in.lines) > 0 {
			l.Address, l.Mapping, l.Folded = 0, 0, false
		} else {
			from := l.Mapping
			l.Mapping = in.mapping(from)
			l.Address += in.shift[from]
		}
		in.locs[i] = in.m.b.Location(l, in.lines...) + 1
	}
	return in.locs[i] - 1
}

func (in *mergeInput) labelSet(i uint32) uint32 {
	if i == 0 || in.m.DropLabels {
		return 0
	}
	if in.sets[i] == 0 {
		in.labels = in.labels[:0]
		for _, l := range in.p.LabelSets[i] {
			in.labels = append(in.labels, SampleLabel{in.str(l.Key), in.str(l.Str), l.Num, in.str(l.Unit)})
		}
		in.sets[i] = in.m.b.LabelSet(in.labels) + 1
	}
	return in.sets[i] - 1
}

func (in *mergeInput) samples(cols []int, scales []float64) {
	p, b := in.p, in.m.b
	zero := func(i int) bool {
		for _, c := range cols {
			if p.Values[c][i] != 0 {
				return false
			}
		}
		return true
	}
	used := make([]bool, p.Stacks.Len())
	for i, s := range p.SampleStack {
		used[s] = used[s] || !zero(i)
	}
	p.Stacks.markCallers(used)
	for n := 1; n < len(used); n++ {
		if used[n] {
			in.stacks[n] = b.Stack(in.stacks[p.Stacks.Parent[n]], in.location(p.Stacks.Loc[n]))
		}
	}
	if n := len(b.stacks.nodes) - len(in.m.unlabel); n > 0 {
		in.m.unlabel = append(in.m.unlabel, make([]uint32, n)...)
	}
	for i, s := range p.SampleStack {
		if zero(i) {
			continue
		}
		at := in.sample(in.stacks[s], in.labelSet(p.SampleLabels[i]))
		for t, c := range cols {
			v := p.Values[c][i]
			if scales[t] != 1 {
				v = scaleValue(v, scales[t])
			}
			b.p.Values[t][at] += v
		}
	}
}

// sample is the row of the sum for stack and label set.
func (in *mergeInput) sample(stack, set uint32) uint32 {
	if set != 0 {
		return in.m.b.sample(stack, set)
	}
	at := &in.m.unlabel[stack]
	if *at == 0 {
		*at = in.m.b.newSample(stack, 0) + 1
	}
	return *at - 1
}

// scaleValue rounds as pprof does. -1 is exact: a float64 has 53 bits.
func scaleValue(v int64, by float64) int64 {
	switch by {
	case 1:
		return v
	case -1:
		return -v
	}
	return int64(math.Round(float64(v) * by))
}

// markCallers extends used to the callers of every node that is used.
func (s *Stacks) markCallers(used []bool) {
	for n := len(used) - 1; n > 0; n-- {
		if used[n] {
			used[s.Parent[n]] = true
		}
	}
}

func (p *Profile) hasZeroSample() bool {
	for i := range p.SampleStack {
		if p.zeroSample(i) {
			return true
		}
	}
	return false
}

func (p *Profile) zeroSample(i int) bool {
	for _, v := range p.Values {
		if v[i] != 0 {
			return false
		}
	}
	return true
}

// Compact is p without samples whose values are all 0 and without every stack,
// location, function, string and label set that nothing needs then. Equal ones
// become one.
func (p *Profile) Compact() *Profile {
	m := NewMerger(p.SampleTypes...)
	if err := m.Add(p, 1); err != nil {
		panic("profile: a profile has its own sample types: " + err.Error())
	}
	// Not Merger.Profile: it comes back here when equal samples cancel out, and
	// then once more is enough, since afterwards no two are equal.
	q := m.b.Profile()
	if q.hasZeroSample() {
		return q.Compact()
	}
	return q
}
