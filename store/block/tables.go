package block

import (
	"context"
	"fmt"

	"github.com/quantra-l/quantra/profile"
)

// Tables reads the block's dictionary. All its indexes are in range and callers come before callees,
// so that what is given is safe to use without further checks. That the identities of stacks are those of their
// frames it does not check: [Verify] and [Tables.CheckIDs] do.
func (r *Reader) Tables(ctx context.Context) (*Tables, error) {
	b := tableReader{r: r, ctx: ctx, stringOf: map[string]uint32{"": 0},
		t: &Tables{Strings: []string{""}, Mappings: []profile.Mapping{{}}, LabelSets: [][]profile.SampleLabel{nil},
			Stacks: profile.Stacks{Parent: []uint32{0}, Loc: []uint32{0}}, StackIDs: []uint64{0}}}
	files := []struct {
		name string
		read func(*scan, int64) error
	}{{FramesFile, b.frames}, {StacksFile, b.stacks}, {LabelsFile, b.labels}}
	for _, f := range files {
		if _, ok := r.meta.Files[f.name]; !ok {
			continue // labels.parquet is not there where there are none
		}
		s, err := r.file(ctx, f.name)
		if err != nil {
			return nil, err
		}
		if err := f.read(s, s.pf.rows); err != nil {
			return nil, r.wrap(s.cf, err)
		}
	}
	return b.t, nil
}

type tableReader struct {
	r        *Reader
	ctx      context.Context
	t        *Tables
	stringOf map[string]uint32
}

func (b *tableReader) text(s string) (uint32, error) {
	i, ok := b.stringOf[s]
	if !ok {
		i = uint32(len(b.t.Strings))
		b.t.Strings = append(b.t.Strings, s)
		b.stringOf[s] = i
	}
	return i, nil
}

func (b *tableReader) frames(s *scan, n int64) error {
	var texts [5][]uint32
	var err error
	for i, name := range []string{"function", "system_name", "file", "mapping", "build_id"} {
		if texts[i], err = s.textColumn(name, 0, n, nil, b.text); err != nil {
			return err
		}
	}
	var nums [3][]int64
	for i, name := range []string{"start_line", "line", "column"} {
		if nums[i], err = numbers[int64](s, name, 0, n, nil); err != nil {
			return err
		}
	}
	location, err := numbers[uint32](s, "location", 0, n, nil)
	if err != nil {
		return err
	}
	depth, err := numbers[int32](s, "depth", 0, n, nil)
	if err != nil {
		return err
	}
	address, err := numbers[uint64](s, "address", 0, n, nil)
	if err != nil {
		return err
	}
	folded, err := s.booleans("folded", 0, n, nil)
	if err != nil {
		return err
	}
	t := b.t
	functions, mappings := map[profile.Function]uint32{}, map[profile.Mapping]uint32{{}: 0}
	for i := range location {
		m := profile.Mapping{File: texts[3][i], BuildID: texts[4][i]}
		mi, ok := mappings[m]
		if !ok {
			mi = uint32(len(t.Mappings))
			t.Mappings = append(t.Mappings, m)
			mappings[m] = mi
		}
		switch {
		case int(location[i]) == len(t.Locations) && (depth[i] == 0 || depth[i] == -1):
			t.Locations = append(t.Locations, profile.Location{Address: address[i], Mapping: mi, FirstLine: uint32(len(t.Lines)), Folded: folded[i]})
		case int(location[i]) == len(t.Locations)-1 && depth[i] > 0 && uint32(depth[i]) == t.Locations[location[i]].NumLines:
		default:
			return fmt.Errorf("%w: row %d: location %d at depth %d after %d locations", ErrCorrupt, i, location[i], depth[i], len(t.Locations))
		}
		if depth[i] < 0 {
			continue
		}
		f := profile.Function{Name: texts[0][i], SystemName: texts[1][i], File: texts[2][i], StartLine: nums[0][i]}
		fi, ok := functions[f]
		if !ok {
			fi = uint32(len(t.Functions))
			t.Functions = append(t.Functions, f)
			functions[f] = fi
		}
		t.Lines = append(t.Lines, profile.Line{Function: fi, Line: nums[1][i], Column: nums[2][i]})
		t.Locations[location[i]].NumLines++
	}
	return nil
}

func (b *tableReader) stacks(s *scan, n int64) error {
	t := b.t
	numbered, err := numbers[uint32](s, "stack", 0, n, nil)
	if err != nil {
		return err
	}
	if t.Stacks.Parent, err = numbers(s, "parent", 0, n, t.Stacks.Parent); err != nil {
		return err
	}
	if t.Stacks.Loc, err = numbers(s, "location", 0, n, t.Stacks.Loc); err != nil {
		return err
	}
	ids, err := numbers(s, "id", 0, n, []uint64{0})
	if err != nil {
		return err
	}
	for i := range numbered {
		k := i + 1
		if int(numbered[i]) != k || int(t.Stacks.Parent[k]) >= k || int(t.Stacks.Loc[k]) >= len(t.Locations) {
			return fmt.Errorf("%w: row %d: stack %d with caller %d and location %d of %d", ErrCorrupt, i, numbered[i], t.Stacks.Parent[k], t.Stacks.Loc[k], len(t.Locations))
		}
	}
	t.StackIDs = ids
	return nil
}

func (b *tableReader) labels(s *scan, n int64) error {
	var texts [3][]uint32
	var err error
	for i, name := range []string{"key", "value", "unit"} {
		if texts[i], err = s.textColumn(name, 0, n, nil, b.text); err != nil {
			return err
		}
	}
	sets, err := numbers[uint32](s, "labels", 0, n, nil)
	if err != nil {
		return err
	}
	nums, err := numbers[int64](s, "number", 0, n, nil)
	if err != nil {
		return err
	}
	t := b.t
	for i, set := range sets {
		if int(set) == len(t.LabelSets) {
			t.LabelSets = append(t.LabelSets, nil)
		} else if int(set) != len(t.LabelSets)-1 || set == 0 {
			return fmt.Errorf("%w: row %d: label set %d after %d", ErrCorrupt, i, set, len(t.LabelSets)-1)
		}
		t.LabelSets[set] = append(t.LabelSets[set], profile.SampleLabel{Key: texts[0][i], Str: texts[1][i], Num: nums[i], Unit: texts[2][i]})
	}
	return nil
}

// CheckIDs holds the identities of stacks to their frames. It costs a hash for each frame.
func (t *Tables) CheckIDs() error {
	p := t.view()
	for i, id := range p.StackIDs() {
		if id != t.StackIDs[i] {
			return fmt.Errorf("%w: stack %d has the identity %016x, its frames give %016x", ErrCorrupt, i, t.StackIDs[i], id)
		}
	}
	return nil
}
