package blocks

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/oklog/ulid/v2"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store/block"
)

func idOf(n int) ulid.ULID {
	var id ulid.ULID
	id[14], id[15] = byte(n>>8), byte(n)
	return id
}

// family is blocks of tenant t, each with its sources.
func family(sources map[int][]int) map[ulid.ULID]*Block {
	all := map[ulid.ULID]*Block{}
	for n, from := range sources {
		m := block.Meta{ULID: idOf(n), Tenant: "t", Region: "local"}
		for _, s := range from {
			m.Sources = append(m.Sources, idOf(s))
		}
		all[m.ULID] = newBlock(m)
	}
	return all
}

func numbers(ks []*Block) (out []int) {
	for _, k := range ks {
		out = append(out, int(k.Meta.ULID[14])<<8|int(k.Meta.ULID[15]))
	}
	return out
}

func TestSet(t *testing.T) {
	all := family(map[int][]int{1: nil, 2: nil, 3: nil, 10: {1, 2}, 11: {3}, 20: {10, 11}, 4: nil})
	all[idOf(5)] = &Block{Meta: block.Meta{ULID: idOf(5), Tenant: "other"}, damage: &atomic.Pointer[string]{}}
	for i, c := range []struct {
		bury, drop, exclude []int
		want, missing       []int
	}{
		{want: []int{4, 20}},
		{exclude: []int{4}, want: []int{20}},
		{exclude: []int{99}, want: []int{4, 20}},
		{exclude: []int{20}, want: []int{4}},
		// A block on its way was merged already: the others it was merged with answer for themselves.
		{exclude: []int{1}, want: []int{2, 4, 11}},
		{exclude: []int{1, 3}, want: []int{2, 4}},
		{exclude: []int{10}, want: []int{4, 11}},
		{exclude: []int{1}, drop: []int{2}, want: []int{4, 11}, missing: []int{2}},
		{exclude: []int{1}, drop: []int{1}, want: []int{2, 4, 11}},
		// A deleted block still stands for its sources, and a deleted source for nothing.
		{bury: []int{20}, want: []int{4}},
		{bury: []int{1, 2, 10, 11}, want: []int{4, 20}},
		{drop: []int{20}, want: []int{4, 10, 11}},
	} {
		now := map[ulid.ULID]*Block{}
		for id, k := range all {
			b := *k
			b.Tombstoned = slices.ContainsFunc(c.bury, func(n int) bool { return idOf(n) == id })
			if !slices.ContainsFunc(c.drop, func(n int) bool { return idOf(n) == id }) {
				now[id] = &b
			}
		}
		var exclude []ulid.ULID
		for _, n := range c.exclude {
			exclude = append(exclude, idOf(n))
		}
		ask, missing := newSet(now).without("t", exclude)
		var miss []*Block
		for _, id := range missing {
			miss = append(miss, &Block{Meta: block.Meta{ULID: id}})
		}
		if got := numbers(ask); !slices.Equal(got, c.want) || !slices.Equal(numbers(miss), c.missing) {
			t.Errorf("%d: asked %v, missing %v, want %v and %v", i, got, numbers(miss), c.want, c.missing)
		}
	}
	if got := numbers(newSet(all).ask["other"]); !slices.Equal(got, []int{5}) {
		t.Errorf("another tenant's blocks: %v", got)
	}
}

// TestSetSourcesOfSources: an output that also names its inputs' sources, as they are still there, is taken apart once.
func TestSetSourcesOfSources(t *testing.T) {
	s := newSet(family(map[int][]int{1: nil, 2: nil, 3: nil, 10: {1, 2}, 20: {10, 1, 2, 3}}))
	ask, missing := s.without("t", []ulid.ULID{idOf(1)})
	if got := numbers(ask); !slices.Equal(got, []int{2, 3}) || missing != nil {
		t.Errorf("asked %v, missing %v", got, missing)
	}
}

// TestSetAnyFamily: whatever is excluded, each first block that is not is asked for once, by itself or
// in what it was merged into.
func TestSetAnyFamily(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		sources := map[int][]int{}
		leaves := map[int]map[int]bool{} // of each block
		var free []int
		for n := range 2 + rng.IntN(12) {
			sources[n], leaves[n] = nil, map[int]bool{n: true}
			free = append(free, n)
		}
		first := len(free)
		for n := 100; n < 100+rng.IntN(8) && len(free) > 1; n++ {
			rng.Shuffle(len(free), func(i, j int) { free[i], free[j] = free[j], free[i] })
			k := 1 + rng.IntN(len(free)-1)
			leaves[n] = map[int]bool{}
			for _, s := range free[:k] {
				sources[n] = append(sources[n], s)
				if rng.IntN(2) == 0 {
					sources[n] = append(sources[n], sources[s]...)
				}
				for l := range leaves[s] {
					leaves[n][l] = true
				}
			}
			free = append(slices.Clone(free[k:]), n)
		}
		not := map[int]bool{}
		var exclude []ulid.ULID
		for range rng.IntN(4) {
			n := rng.IntN(first)
			not[n] = true
			exclude = append(exclude, idOf(n))
		}
		ask, missing := newSet(family(sources)).without("t", exclude)
		count := map[int]int{}
		for _, n := range numbers(ask) {
			for l := range leaves[n] {
				count[l]++
			}
		}
		for n := range first {
			if want := map[bool]int{false: 1, true: 0}[not[n]]; count[n] != want || missing != nil {
				t.Fatalf("%v without %v: %d is asked %d times, missing %v", sources, not, n, count[n], missing)
			}
		}
	}
}

func TestKeys(t *testing.T) {
	seen := map[string]string{}
	for _, tenant := range []string{"default", "Default", "a/b", "..", ".", "a%2fb", "a%2Fb", "x y", "é", strings.Repeat("x", 120), strings.Repeat("x", 121),
		strings.Repeat("é", 64), strings.Repeat("é", 63) + "è", "con", "a~b"} {
		key := Prefix("eu-west-1", tenant, idOf(7)) + block.MetaFile
		prefix, id, file, ok := parseKey(key)
		if !ok || prefix+file != key || id != idOf(7) || file != block.MetaFile {
			t.Errorf("%q: key %q is read as %q %v %q %v", tenant, key, prefix, id, file, ok)
		}
		dir := strings.ToLower(strings.Split(key, "/")[1])
		if len(dir) > maxTenantKey || strings.Trim(dir, "abcdefghijklmnopqrstuvwxyz0123456789%-_~") != "" {
			t.Errorf("%q: %q", tenant, dir)
		}
		if other, ok := seen[dir]; ok {
			t.Errorf("%q and %q have one folder", tenant, other)
		}
		seen[dir] = tenant
	}
	for _, key := range []string{"", "a/b", "r/t/blocks/x/meta.json", "r/t/other/" + idOf(1).String() + "/meta.json", "r/t/blocks/" + idOf(1).String() + "/",
		"r/t/blocks/" + strings.ToLower(ulid.Make().String()) + "/meta.json", "r/t/blocks/" + idOf(1).String() + "/a/b"} {
		if _, _, _, ok := parseKey(key); ok {
			t.Errorf("%q is no key of a block", key)
		}
	}
	for _, region := range []string{"", "A", "a/b", "..", "-a", strings.Repeat("a", 64), "a_b"} {
		if checkRegion(region) == nil {
			t.Errorf("region %q", region)
		}
	}
	for _, region := range []string{"local", "eu-west-1", "7"} {
		if err := checkRegion(region); err != nil {
			t.Error(err)
		}
	}
}

func TestInterner(t *testing.T) {
	meta := func() *block.Meta {
		m := &block.Meta{Types: []string{strings.Clone("cpu")}}
		for i := range 3 {
			m.Series = append(m.Series, block.Series{Name: strings.Clone("process_cpu"), Labels: profile.Labels{{Name: "service_name", Value: fmt.Sprint("s", i)}}})
		}
		return m
	}
	var in interner
	a, b := meta(), meta()
	in.share(a)
	in.share(b)
	for i := range a.Series {
		if &a.Series[i].Labels[0] != &b.Series[i].Labels[0] {
			t.Errorf("series %d is held twice", i)
		}
	}
	if a.Series[1].Labels[0].Value != "s1" || b.Series[2].Labels[0].Value != "s2" {
		t.Error("labels have changed")
	}
}
