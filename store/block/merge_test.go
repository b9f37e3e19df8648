package block_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store/block"
)

// split writes profiles as so many blocks of LevelHead; some profiles are in two of them.
func split(t testing.TB, fs vfs.FS, ps []timed, n, twice int, rng *rand.Rand) (inputs []block.Input, all *content) {
	t.Helper()
	all = contentOf(t, block.LevelHour, ps)
	ids := map[string]block.ID{}
	name := func(x *timed) string { return fmt.Sprint(x.name, x.labels, x.from, x.p) }
	for i := range ps {
		ids[name(&ps[i])] = block.ID{Hi: uint64(i) * 0x9e3779b97f4a7c15, Lo: uint64(i)}
	}
	parts := make([][]timed, n)
	for i, x := range ps {
		at := rng.IntN(n)
		parts[at] = append(parts[at], x)
		if i < twice && n > 1 {
			parts[(at+1)%n] = append(parts[(at+1)%n], x)
		}
	}
	for i, part := range parts {
		if len(part) == 0 {
			continue
		}
		c := contentOf(t, block.LevelHead, part)
		// contentOf numbers uploads; here they must be the same in every block.
		number := map[block.ID]block.ID{}
		for k := range part {
			number[block.ID{Hi: uint64(k) * 0x9e3779b97f4a7c15, Lo: uint64(k)}] = ids[name(&part[k])]
		}
		for _, r := range c.rows {
			r.ID = number[r.ID]
		}
		c.sort()
		c.meta.ULID = ulid.MustNew(uint64(i+1), rand.NewChaCha8([32]byte{byte(i), 9}))
		dir := fmt.Sprint("/in", i)
		m, err := c.write(fs, dir)
		if err != nil {
			t.Fatal(err)
		}
		inputs = append(inputs, block.Input{Meta: m, Source: block.DirSource(fs, dir)})
	}
	return inputs, all
}

// words is all that a block says, in words that do not depend on its numbers.
func words(t testing.TB, m block.Meta, src block.Source) map[string]int64 {
	t.Helper()
	ctx := context.Background()
	r, err := block.Open(ctx, m, src)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := r.Tables(ctx)
	if err != nil {
		t.Fatal(err)
	}
	c, err := r.Profiles(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int64{}
	var s block.SampleColumns
	for i := range c.Type {
		head := fmt.Sprint(m.Types[c.Type[i]], m.Series[c.Series[i]], c.From[i], c.To[i], c.Duration[i], c.Period[i], c.ID[i])
		out[head]++
		if err := r.Samples(ctx, c.First[i], int64(c.N[i]), &s); err != nil {
			t.Fatal(err)
		}
		for k, v := range s.Values {
			labels := ""
			for _, l := range tables.LabelSets[s.Sets[k]] {
				labels += fmt.Sprint(tables.Strings[l.Key], tables.Strings[l.Str], l.Num)
			}
			out[fmt.Sprint(head, tables.StackIDs[s.Stacks[k]], labels)] += v
		}
	}
	for f, err := range r.Functions(ctx, nil, nil) {
		if err != nil {
			t.Fatal(err)
		}
		out[fmt.Sprint(m.Types[f.Type], m.Series[f.Series], f.Function, f.Minute, "self")] = f.Self
		out[fmt.Sprint(m.Types[f.Type], m.Series[f.Series], f.Function, f.Minute, "cumulative")] = f.Cumulative
		out[fmt.Sprint(m.Types[f.Type], m.Series[f.Series], f.Function, f.Minute, "samples")] = f.Samples
	}
	for k, v := range out {
		if v == 0 {
			delete(out, k)
		}
	}
	return out
}

func same(t testing.TB, got, want map[string]int64) {
	t.Helper()
	for k, v := range want {
		if got[k] != v {
			t.Fatalf("%s is %d, want %d", k, got[k], v)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d facts, want %d", len(got), len(want))
	}
}

// TestMerge: blocks merged say what one block of all says, and uploads that two of them have are there once.
func TestMerge(t *testing.T) {
	ctx := context.Background()
	for seed := range uint64(10) {
		rng := rand.New(rand.NewPCG(seed, 11))
		fs := vfs.NewMem()
		ps := randomProfiles(t, rng, 60)
		inputs, all := split(t, fs, ps, 1+rng.IntN(6), []int{0, 17}[seed%2], rng)
		whole, err := all.write(fs, "/whole")
		if err != nil {
			t.Fatal(err)
		}
		m := all.meta
		m.Types, m.Series = nil, nil
		m.Level = []block.Level{block.LevelPart, block.LevelHour}[rng.IntN(2)]
		for _, in := range inputs {
			m.Sources = append(m.Sources, in.Meta.ULID)
		}
		out, err := block.Merge(ctx, "/out", m, inputs, block.MergeOptions{FS: fs})
		if err != nil {
			t.Fatal(err)
		}
		if err := block.Verify(ctx, out, block.DirSource(fs, "/out")); err != nil {
			t.Fatal(err)
		}
		same(t, words(t, out, block.DirSource(fs, "/out")), words(t, whole, block.DirSource(fs, "/whole")))
		if out.Profiles != 60 || len(out.Sources) != len(inputs) {
			t.Fatalf("%d profiles from %d blocks", out.Profiles, len(out.Sources))
		}
		// Once more: a merge of a merge, and with a service taken out.
		m.ULID = ulid.MustNew(99, rand.NewChaCha8([32]byte{7}))
		m.Level = block.LevelHour
		keep := func(s block.Series) bool { return s.Labels.Get(profile.LabelService) != "s1" }
		less, err := block.Merge(ctx, "/less", m, []block.Input{{Meta: out, Source: block.DirSource(fs, "/out")}}, block.MergeOptions{FS: fs, Keep: keep})
		if err != nil {
			t.Fatal(err)
		}
		var kept []timed
		for _, x := range ps {
			if x.labels.Get(profile.LabelService) != "s1" {
				kept = append(kept, x)
			}
		}
		if err := block.Verify(ctx, less, block.DirSource(fs, "/less")); err != nil {
			t.Fatal(err)
		}
		if less.Profiles != len(kept) || less.Services["s1"] != 0 {
			t.Fatalf("%d profiles, want %d: %v", less.Profiles, len(kept), less.Services)
		}
		m.ULID = ulid.MustNew(100, rand.NewChaCha8([32]byte{8}))
		_, err = block.Merge(ctx, "/none", m, []block.Input{{Meta: out, Source: block.DirSource(fs, "/out")}}, block.MergeOptions{FS: fs, Keep: func(block.Series) bool { return false }})
		if !errors.Is(err, block.ErrNothingKept) {
			t.Fatal(err)
		}
	}
}

// BenchmarkMerge is sixty blocks of a minute each into one of an hour.
func BenchmarkMerge(b *testing.B) {
	fs := vfs.NewMem()
	minutes := corpusMinutes(b, 20, 5, 16)
	var inputs []block.Input
	for i, c := range minutes {
		c.meta.ULID = ulid.MustNew(uint64(i+1), rand.NewChaCha8([32]byte{byte(i), 9}))
		dir := fmt.Sprint("/in", i)
		m, err := c.write(fs, dir)
		if err != nil {
			b.Fatal(err)
		}
		inputs = append(inputs, block.Input{Meta: m, Source: block.DirSource(fs, dir)})
	}
	samples := int64(0)
	for _, in := range inputs {
		samples += in.Meta.Samples
	}
	m := minutes[0].meta
	m.Types, m.Series, m.Level = nil, nil, block.LevelHour
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		n++
		if _, err := block.Merge(context.Background(), fmt.Sprint("/out", n), m, inputs, block.MergeOptions{FS: fs}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(samples)*float64(b.N)/b.Elapsed().Seconds(), "samples/s")
}
