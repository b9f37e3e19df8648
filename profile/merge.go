package profile

import "fmt"

// Merge is the sum of ps.
func Merge(ps ...*Profile) (*Profile, error) {
	if len(ps) == 0 {
		return nil, fmt.Errorf("merge: no profiles")
	}
	m := NewMerger(ps[0].SampleTypes...)
	for _, p := range ps {
		if err := m.Add(p, 1); err != nil {
			return nil, err
		}
	}
	return m.Profile(), nil
}

// Merger sums profiles one by one.
type Merger struct{ b *Builder }

// NewMerger starts a sum with these sample types.
func NewMerger(types ...ValueType) *Merger { return &Merger{NewBuilder(types...)} }

// Add adds p, each value times scale.
func (m *Merger) Add(p *Profile, scale float64) error {
	if fmt.Sprint(p.SampleTypes) != fmt.Sprint(m.b.p.SampleTypes) {
		return fmt.Errorf("merge: sample types %v and %v differ", m.b.p.SampleTypes, p.SampleTypes)
	}
	b := m.b
	str := make([]uint32, len(p.Strings))
	for i, s := range p.Strings {
		str[i] = b.String(s)
	}
	maps := make([]uint32, len(p.Mappings))
	for i, x := range p.Mappings {
		x.File, x.BuildID = str[x.File], str[x.BuildID]
		maps[i] = b.Mapping(x)
	}
	fns := make([]uint32, len(p.Functions))
	for i, f := range p.Functions {
		fns[i] = b.Function(Function{str[f.Name], str[f.SystemName], str[f.File], f.StartLine})
	}
	locs := make([]uint32, len(p.Locations))
	var lines []Line
	for i, l := range p.Locations {
		lines = lines[:0]
		for _, ln := range p.LinesOf(uint32(i)) {
			lines = append(lines, Line{fns[ln.Function], ln.Line, ln.Column})
		}
		l.Mapping = maps[l.Mapping]
		locs[i] = b.Location(l, lines...)
	}
	stacks := make([]uint32, p.Stacks.Len())
	for i := 1; i < len(stacks); i++ {
		stacks[i] = b.Stack(stacks[p.Stacks.Parent[i]], locs[p.Stacks.Loc[i]])
	}
	sets := make([]uint32, len(p.LabelSets))
	for i, set := range p.LabelSets {
		var ls []SampleLabel
		for _, l := range set {
			ls = append(ls, SampleLabel{str[l.Key], str[l.Str], l.Num, str[l.Unit]})
		}
		sets[i] = b.LabelSet(ls)
	}
	vals := make([]int64, len(p.Values))
	for i, s := range p.SampleStack {
		for t := range vals {
			vals[t] = int64(float64(p.Values[t][i]) * scale)
		}
		b.Add(stacks[s], sets[p.SampleLabels[i]], vals...)
	}
	return nil
}

// Profile is the sum.
func (m *Merger) Profile() *Profile { return m.b.Profile() }
