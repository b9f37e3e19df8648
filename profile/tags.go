package profile

import (
	"cmp"
	"slices"
)

// LabelKey is one key of the samples' labels, with the value of a column by
// each of its values, the largest first.
type LabelKey struct {
	Key    string       `json:"key"`
	Values []LabelValue `json:"values"`
}

// LabelValue is the sum of the samples with one value of a label. Numbers read
// as [FormatValue] has them in their unit. The empty value, always the last,
// stands for the samples without the key.
type LabelValue struct {
	Value string `json:"value"`
	Total int64  `json:"total"`
}

// ByLabel is column col by the samples' labels, as `go tool pprof -tags`: keys
// with the largest sum first. A sample with several values of one key counts
// for each of them. Labels that only samples of zero have, or that a filter left
// without a sample, are not listed.
func (p *Profile) ByLabel(col int) []LabelKey {
	perSet, used := make([]int64, len(p.LabelSets)), make([]bool, len(p.LabelSets))
	for i, v := range p.Values[col] {
		set := p.SampleLabels[i]
		perSet[set] += v
		used[set] = used[set] || v != 0
	}
	units := numLabelUnits(p)
	type keySum struct {
		values  map[string]int64
		with    int64 // of the samples that have the key
		tagged  int64 // the sum of all values: more than with, where a sample has several
		lastSet int
	}
	keys := map[string]*keySum{}
	for s, set := range p.LabelSets {
		if !used[s] {
			continue
		}
		for _, l := range set {
			name := p.Strings[l.Key]
			k := keys[name]
			if k == nil {
				k = &keySum{values: map[string]int64{}, lastSet: -1}
				keys[name] = k
			}
			value := labelText(p, l, units)
			k.values[value] += perSet[s]
			k.tagged += perSet[s]
			if k.lastSet != s {
				k.with += perSet[s]
				k.lastSet = s
			}
		}
	}
	total := p.Total(col)
	out := make([]LabelKey, 0, len(keys))
	tagged := map[string]int64{}
	for name, k := range keys {
		lk := LabelKey{Key: name}
		tagged[name] = k.tagged
		for v, sum := range k.values {
			lk.Values = append(lk.Values, LabelValue{v, sum})
		}
		slices.SortFunc(lk.Values, func(a, b LabelValue) int {
			return cmp.Or(cmp.Compare(magnitude(b.Total), magnitude(a.Total)), cmp.Compare(a.Value, b.Value))
		})
		if rest := total - k.with; rest != 0 {
			lk.Values = append(lk.Values, LabelValue{"", rest})
		}
		out = append(out, lk)
	}
	slices.SortFunc(out, func(a, b LabelKey) int {
		return cmp.Or(cmp.Compare(magnitude(tagged[b.Key]), magnitude(tagged[a.Key])), cmp.Compare(a.Key, b.Key))
	})
	return out
}

// labelText is a label's value for a person; units is [numLabelUnits].
func labelText(p *Profile, l SampleLabel, units map[uint32]string) string {
	if l.Str == 0 {
		return FormatValue(l.Num, units[l.Key])
	}
	return p.Strings[l.Str]
}
