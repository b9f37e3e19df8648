package block

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/zeebo/xxh3"
)

// verifyRun is how many rows of samples Verify holds at a time.
const verifyRun = 1 << 18

// Verify reads all of a block and says what is wrong with it, all that it finds: checksums, bounds and order,
// totals that are not the sums of their samples, roll-ups that do not add up. Errors of the source come back as they are.
func Verify(ctx context.Context, m Meta, src Source) error {
	v := verifier{ctx: ctx, m: &m, src: src}
	if err := v.sums(); err != nil {
		return err // what does not pass its checksum need not be decoded
	}
	r, err := Open(ctx, m, src)
	if err != nil {
		return err
	}
	v.r = r
	t, err := r.Tables(ctx)
	if err != nil {
		return err
	}
	if t.Stacks.Len() != m.Stacks {
		return r.corrupt(StacksFile, "%d stacks, meta.json says %d", t.Stacks.Len(), m.Stacks)
	}
	if err := t.CheckIDs(); err != nil {
		return fmt.Errorf("block %s: %s: %w", m.ULID, StacksFile, err)
	}
	v.t = t
	c, err := r.Profiles(ctx, nil)
	if err != nil {
		return err
	}
	return errors.Join(v.profiles(c), v.samples(c), v.functions())
}

type verifier struct {
	ctx context.Context
	m   *Meta
	src Source
	r   *Reader
	t   *Tables
	// byType is the sum of all samples of a type; self is that of those with a named innermost frame.
	byType, self []int64
}

// sums reads every file and holds it to its checksums.
func (v *verifier) sums() error {
	var errs []error
	for _, name := range sortedNames(v.m.Files) {
		f := v.m.Files[name]
		cf := &checkedFile{ctx: v.ctx, name: name, meta: f, src: v.src}
		whole := xxh3.New()
		for at := int64(0); at < f.Bytes; at += 8 * ChunkBytes {
			b, err := cf.chunks(at, min(at+8*ChunkBytes, f.Bytes))
			if err != nil && !errors.Is(err, ErrCorrupt) {
				return fmt.Errorf("block %s: %w", v.m.ULID, err)
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("block %s: %w", v.m.ULID, err))
				break
			}
			whole.Write(b)
			if end := at + int64(len(b)); end == f.Bytes {
				if got := FormatID(whole.Sum128()); got != f.XXH3 {
					errs = append(errs, fmt.Errorf("%w: block %s: %s: checksum %s, meta.json says %s", ErrCorrupt, v.m.ULID, name, got, f.XXH3))
				}
			}
		}
	}
	return errors.Join(errs...)
}

func sortedNames(files map[string]File) []string {
	names := make([]string, 0, len(files))
	for n := range files {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

func (v *verifier) profiles(c *ProfileColumns) error {
	ids := map[ID]struct{}{}
	from, to, samples := c.From[0], c.To[0], int64(0)
	for i := range c.Type {
		ids[c.ID[i]] = struct{}{}
		from, to = min(from, c.From[i]), max(to, c.To[i])
		if c.First[i] != samples {
			return v.r.corrupt(ProfilesFile, "row %d: its samples begin at %d, those before end at %d", i, c.First[i], samples)
		}
		samples += int64(c.N[i])
	}
	switch {
	case samples != v.m.Samples:
		return v.r.corrupt(ProfilesFile, "%d samples, meta.json says %d", samples, v.m.Samples)
	case len(ids) != v.m.Profiles:
		return v.r.corrupt(ProfilesFile, "%d profiles, meta.json says %d", len(ids), v.m.Profiles)
	case from != v.m.From.UnixNano() || to != v.m.To.UnixNano():
		return v.r.corrupt(ProfilesFile, "windows from %d to %d, meta.json says %d to %d", from, to, v.m.From.UnixNano(), v.m.To.UnixNano())
	}
	return nil
}

// samples holds samples to their profiles, and the roll-up by stack to the samples.
func (v *verifier) samples(c *ProfileColumns) error {
	v.byType, v.self = make([]int64, len(v.m.Types)), make([]int64, len(v.m.Types))
	sums := seriesSums{make([]int64, v.t.Stacks.Len()), map[uint64]int64{}}
	named := v.namedLeaves()
	var cols SampleColumns
	at := int64(0) // of cols
	for i := range c.Type {
		total, prev := int64(0), int64(-1)
		for row := c.First[i]; row < c.First[i]+int64(c.N[i]); row++ {
			if row < at || row >= at+int64(len(cols.Values)) {
				at = row
				if err := v.r.Samples(v.ctx, at, min(verifyRun, v.m.Samples-at), &cols); err != nil {
					return err
				}
			}
			k := row - at
			set, stack, value := cols.Sets[k], cols.Stacks[k], cols.Values[k]
			if int(set) >= len(v.t.LabelSets) {
				return v.r.corrupt(SamplesFile, "row %d: label set %d of %d", row, set, len(v.t.LabelSets))
			}
			if order := int64(set)<<32 | int64(stack); order <= prev {
				return v.r.corrupt(SamplesFile, "row %d is out of order", row)
			} else {
				prev = order
			}
			total += value
			sums.add(set, stack, value)
			if named[stack] {
				v.self[c.Type[i]] += value
			}
		}
		if total != c.Total[i] {
			return v.r.corrupt(ProfilesFile, "row %d: total %d, its samples sum up to %d", i, c.Total[i], total)
		}
		v.byType[c.Type[i]] += total
		if i+1 == len(c.Type) || c.Type[i+1] != c.Type[i] || c.Series[i+1] != c.Series[i] {
			if err := v.totals(c.Type[i], c.Series[i], sums); err != nil {
				return err
			}
		}
	}
	return nil
}

// seriesSums is what the samples of one series sum up to: by stack, and with labels by label set<<32 | stack.
type seriesSums struct {
	dense    []int64
	labelled map[uint64]int64
}

func (s seriesSums) add(set, stack uint32, v int64) {
	if set == 0 {
		s.dense[stack] += v
	} else {
		s.labelled[uint64(set)<<32|uint64(stack)] += v
	}
}

// totals holds one series' roll-up by stack to the samples' sums, and empties them.
func (v *verifier) totals(typ, series uint32, sums seriesSums) error {
	defer clear(sums.dense)
	defer clear(sums.labelled)
	if !v.r.HasTotals() {
		return nil
	}
	c, err := v.r.Totals(v.ctx, typ, []uint32{series})
	if err != nil {
		return err
	}
	prev := int64(-1)
	for i, s := range c.Stacks {
		order := int64(c.Sets[i])<<32 | int64(s)
		if order <= prev {
			return v.r.corrupt(TotalsFile, "series %d: stack %d with labels %d is out of order", series, s, c.Sets[i])
		}
		prev = order
		want := sums.dense[s]
		if c.Sets[i] != 0 {
			want = sums.labelled[uint64(order)]
		}
		if c.Values[i] != want || want == 0 {
			return v.r.corrupt(TotalsFile, "series %d, stack %d with labels %d: %d, the samples sum up to %d", series, s, c.Sets[i], c.Values[i], want)
		}
		sums.add(c.Sets[i], s, -want)
	}
	for s, d := range sums.dense {
		if d != 0 {
			return v.r.corrupt(TotalsFile, "series %d: stack %d is missing, the samples sum up to %d", series, s, d)
		}
	}
	for k, d := range sums.labelled {
		if d != 0 {
			return v.r.corrupt(TotalsFile, "series %d: stack %d with labels %d is missing, the samples sum up to %d", series, uint32(k), k>>32, d)
		}
	}
	return nil
}

func (v *verifier) namedLeaves() []bool {
	named := make([]bool, v.t.Stacks.Len())
	for i := 1; i < len(named); i++ {
		named[i] = v.t.Locations[v.t.Stacks.Loc[i]].NumLines > 0
	}
	return named
}

// functions holds the roll-up by function to its order, and its self values to the samples.
func (v *verifier) functions() error {
	if v.self == nil {
		return nil // the samples could not be read, and it has been said
	}
	self := make([]int64, len(v.m.Types))
	var last FunctionRow
	any := false
	for row, err := range v.r.Functions(v.ctx, nil, nil) {
		if err != nil {
			return err
		}
		if any && row.Compare(&last) <= 0 {
			return v.r.corrupt(FunctionsFile, "%q of series %d is out of order", row.Function, row.Series)
		}
		self[row.Type] += row.Self
		last, any = row, true
	}
	for i, n := range self {
		if n != v.self[i] {
			return v.r.corrupt(FunctionsFile, "self values of %s sum up to %d, the samples to %d", v.m.Types[i], n, v.self[i])
		}
	}
	return nil
}
