package block

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/zeebo/xxh3"

	"github.com/quantra-l/quantra/profile"
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
	if err := v.profiles(c); err != nil {
		return err // which samples are whose is not known
	}
	return errors.Join(v.samples(c), v.functions())
}

type verifier struct {
	ctx context.Context
	m   *Meta
	src Source
	r   *Reader
	t   *Tables
	// rolled are fingerprints of what the roll-up by function should be, by type<<32 | series; nil until
	// the samples have been read.
	rolled map[uint64]uint64
}

// fingerprint is linear in a row's sums, so the fingerprints of rows add up to that of
// their sum in any order: a roll-up is held to its samples in the memory of one number
// for each series, however large both are.
func fingerprint(function string, minute, self, cumulative, samples int64) uint64 {
	h := xxh3.HashString128Seed(function, uint64(minute))
	return (h.Hi|1)*uint64(self) + (h.Lo|1)*uint64(cumulative) + (h.Hi^h.Lo|1)*uint64(samples)
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
	if c.Len() == 0 {
		return v.r.corrupt(ProfilesFile, "no rows")
	}
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
	rolled := map[uint64]uint64{}
	roll := newRollup(v.t)
	roll.keep = func(c rollCell) {
		rolled[uint64(roll.typ)<<32|uint64(c.series)] += fingerprint(roll.names[c.name], c.minute, c.self, c.cumulative, c.samples)
	}
	sums := seriesSums{make([]int64, v.t.Stacks.Len()), map[uint64]int64{}}
	var cols SampleColumns
	at := int64(0) // of cols
	if err := v.repeated(c); err != nil {
		return err
	}
	for i := range c.Type {
		total, prev := int64(0), int64(-1)
		roll.begin(c.Type[i], c.Series[i], c.From[i])
		for row := c.First[i]; row < c.First[i]+int64(c.N[i]); row++ {
			if row < at || row >= at+int64(len(cols.Values)) {
				at = row
				if err := v.r.Samples(v.ctx, at, min(verifyRun, v.m.Samples-at), &cols); err != nil {
					return err
				}
			}
			k := row - at
			set, stack, value := cols.Sets[k], cols.Stacks[k], cols.Values[k]
			order := int64(set)<<32 | int64(stack)
			if order <= prev || value == 0 {
				return v.r.corrupt(SamplesFile, "row %d is out of order, or of nothing", row)
			}
			prev = order
			total += value
			sums.add(set, stack, value)
			roll.sample(stack, value)
		}
		if total != c.Total[i] {
			return v.r.corrupt(ProfilesFile, "row %d: total %d, its samples sum up to %d", i, c.Total[i], total)
		}
		if i+1 == len(c.Type) || c.Type[i+1] != c.Type[i] || c.Series[i+1] != c.Series[i] {
			if err := v.totals(c.Type[i], c.Series[i], sums); err != nil {
				return err
			}
		}
	}
	roll.group()
	v.rolled = rolled
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

// functions holds the roll-up by function to its order, and to the samples.
func (v *verifier) functions() error {
	if v.rolled == nil {
		return nil // the samples could not be read, and it has been said
	}
	var last FunctionRow
	any := false
	for row, err := range v.r.Functions(v.ctx, nil, nil) {
		if err != nil {
			return err
		}
		if any && row.Compare(&last) <= 0 {
			return v.r.corrupt(FunctionsFile, "%q of series %d is out of order", row.Function, row.Series)
		}
		last, any = row, true
		v.rolled[uint64(row.Type)<<32|uint64(row.Series)] -= fingerprint(row.Function, row.Minute, row.Self, row.Cumulative, row.Samples)
	}
	for key, rest := range v.rolled {
		if rest != 0 {
			return v.r.corrupt(FunctionsFile, "what it says of series %d, type %s is not what the samples sum up to", uint32(key), v.m.Types[key>>32])
		}
	}
	return nil
}

// repeated holds the columns of samples.parquet that only repeat what their profile says, which this program never reads
// and SQL does, to the profiles.
func (v *verifier) repeated(c *ProfileColumns) error {
	s, err := v.r.file(v.ctx, SamplesFile)
	if err != nil {
		return err
	}
	services := map[string]uint32{}
	for _, x := range v.m.Series {
		name := x.Labels.Get(profile.LabelService)
		if _, ok := services[name]; !ok {
			services[name] = uint32(len(services))
		}
	}
	service := func(t string) (uint32, error) {
		i, ok := services[t]
		if !ok {
			return 0, fmt.Errorf("%w: service %.100q is not in meta.json", ErrCorrupt, t)
		}
		return i, nil
	}
	i := 0 // of the profiles
	for at := int64(0); at < v.m.Samples; at += verifyRun {
		n := min(verifyRun, v.m.Samples-at)
		types, err := s.textColumn("type", at, n, nil, v.r.typeIndex)
		if err != nil {
			return v.r.wrap(s.cf, err)
		}
		of, err := s.textColumn("service", at, n, nil, service)
		if err != nil {
			return v.r.wrap(s.cf, err)
		}
		series, err := numbers[uint32](s, "series", at, n, nil)
		if err != nil {
			return v.r.wrap(s.cf, err)
		}
		times, err := numbers[int64](s, "time", at, n, nil)
		if err != nil {
			return v.r.wrap(s.cf, err)
		}
		labels, err := numbers[uint32](s, "labels", at, n, nil)
		if err != nil {
			return v.r.wrap(s.cf, err)
		}
		for k := range types {
			if int(labels[k]) >= len(v.t.LabelSets) {
				return v.r.corrupt(SamplesFile, "row %d: label set %d of %d", at+int64(k), labels[k], len(v.t.LabelSets))
			}
			for at+int64(k) >= c.First[i]+int64(c.N[i]) {
				i++
			}
			if types[k] != c.Type[i] || series[k] != c.Series[i] || times[k] != c.From[i] || of[k] != services[v.m.Series[c.Series[i]].Labels.Get(profile.LabelService)] {
				return v.r.corrupt(SamplesFile, "row %d says that it is of another type, service, series or time than its profile", at+int64(k))
			}
		}
	}
	return nil
}
