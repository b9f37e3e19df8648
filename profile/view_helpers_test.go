package profile

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// viewProfile builds a profile of one column from lines like "main;f;g 3".
// A frame "a|b" is one location: b inlined into a.
func viewProfile(t testing.TB, lines ...string) *Profile {
	t.Helper()
	b := NewBuilder(ValueType{"cpu", "nanoseconds"})
	for _, line := range lines {
		stack, value, ok := strings.Cut(line, " ")
		if !ok {
			t.Fatalf("viewProfile: no value in %q", line)
		}
		v := int64(0)
		neg := false
		for _, c := range value {
			if c == '-' {
				neg = true
				continue
			}
			v = v*10 + int64(c-'0')
		}
		if neg {
			v = -v
		}
		at := uint32(0)
		for frame := range strings.SplitSeq(stack, ";") {
			if frame == "" {
				continue
			}
			var ls []Line
			for _, name := range slices.Backward(strings.Split(frame, "|")) {
				fn := b.Function(Function{Name: b.String(name), SystemName: b.String(name), File: b.String(name + ".go")})
				ls = append(ls, Line{Function: fn, Line: 7})
			}
			at = b.Stack(at, b.Location(Location{}, ls...))
		}
		b.Add(at, 0, v)
	}
	return b.Profile()
}

// viewRandom is a profile of random stacks over a few functions, so that
// recursion, inlining and shared prefixes are common.
func viewRandom(r *rand.Rand, samples int) *Profile {
	b := NewBuilder(ValueType{"samples", "count"}, ValueType{"cpu", "nanoseconds"})
	names := []string{"main", "a", "b", "c", "d", "e", "runtime.mallocgc", "total", "other"}
	m := b.Mapping(Mapping{Start: 0x1000, Limit: 0x9000, File: b.String("/bin/prog")})
	var locs []uint32
	for i := range 24 {
		var ls []Line
		for range 1 + r.IntN(3) {
			n := names[r.IntN(len(names))]
			fn := b.Function(Function{Name: b.String(n), SystemName: b.String(n), File: b.String("src/" + n + ".go")})
			ls = append(ls, Line{Function: fn, Line: int64(r.IntN(3))})
		}
		if i%8 == 0 {
			ls = nil // never symbolised
		}
		locs = append(locs, b.Location(Location{Address: uint64(0x1000 + i*16), Mapping: m}, ls...))
	}
	for range samples {
		at := uint32(0)
		for range r.IntN(9) {
			at = b.Stack(at, locs[r.IntN(len(locs))])
		}
		var labels uint32
		switch r.IntN(3) {
		case 1:
			labels = b.LabelSet([]SampleLabel{{Key: b.String("handler"), Str: b.String(names[r.IntN(3)])}})
		case 2:
			labels = b.LabelSet([]SampleLabel{{Key: b.String("bytes"), Num: int64(r.IntN(4)) << 10},
				{Key: b.String("handler"), Str: b.String("x")}})
		}
		n := int64(r.IntN(4))
		b.Add(at, labels, n, n*10_000_000)
	}
	return b.Profile()
}
