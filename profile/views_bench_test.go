package profile

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"regexp"
	"sync"
	"testing"

	gpprof "github.com/google/pprof/profile"
)

// viewLarge is a profile of over 100,000 distinct stacks, up to 43 frames deep,
// in the shape of a Go server's: few roots, many leaves, shared prefixes.
var viewLarge = sync.OnceValue(func() *Profile {
	r := rand.New(rand.NewPCG(7, 7))
	b := NewBuilder(ValueType{"samples", "count"}, ValueType{"cpu", "nanoseconds"})
	locs := make([]uint32, 6000)
	for i := range locs {
		var lines []Line
		for j := range 1 + i%5/4 { // every fifth has an inlined frame
			s := b.String(fmt.Sprintf("example.com/shop/pkg%d.(*Type%d).Method%d", i%97, i%31, i/3+j))
			lines = append(lines, Line{Function: b.Function(Function{Name: s, SystemName: s, File: b.String(fmt.Sprintf("pkg%d/file%d.go", i%97, i%13))}), Line: int64(i%400) + 1})
		}
		locs[i] = b.Location(Location{Address: uint64(0x400000 + i*64)}, lines...)
	}
	stacks, depth := []uint32{0}, []int{0}
	for len(stacks) < 150_000 {
		// Grow from an earlier stack, mostly a late one: deep paths that branch.
		from := len(stacks) - 1 - int(float64(len(stacks))*r.Float64()*r.Float64())
		if depth[from] > 40 {
			continue
		}
		at, n := stacks[from], 1+r.IntN(3)
		for range n {
			at = b.Stack(at, locs[r.IntN(len(locs))])
		}
		stacks, depth = append(stacks, at), append(depth, depth[from]+n)
	}
	for _, st := range stacks[1:] {
		n := int64(1 + r.IntN(3))
		b.Add(st, 0, n, n*10_000_000)
	}
	return b.Profile()
})

// viewLargeGoogle is the same in pprof's bytes.
var viewLargeGoogle = sync.OnceValue(func() []byte {
	var b bytes.Buffer
	if err := viewLarge().Encode(&b); err != nil {
		panic(err)
	}
	return b.Bytes()
})

func BenchmarkNewTree(b *testing.B) {
	p := viewLarge()
	b.ReportAllocs()
	for b.Loop() {
		NewTree(p, 1)
	}
	b.ReportMetric(float64(p.Stacks.Len())*float64(b.N)/b.Elapsed().Seconds(), "stacks/s")
}

func BenchmarkTop(b *testing.B) {
	p := viewLarge()
	b.ReportAllocs()
	for b.Loop() {
		Top(p, 1)
	}
}

// BenchmarkTopGoogle counts self and cumulative values the way google/pprof's
// graph does (a set of seen functions for each sample); its own graph package
// is internal and cannot be called from here.
func BenchmarkTopGoogle(b *testing.B) {
	p, err := gpprof.ParseData(viewLargeGoogle())
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		viewGoogleTop(p, 1, nil)
	}
}

func BenchmarkTreeLimit(b *testing.B) {
	t := NewTree(viewLarge(), 1)
	b.ReportAllocs()
	for b.Loop() {
		t.Limit(16384)
	}
}

func BenchmarkDiffTree(b *testing.B) {
	t := NewTree(viewLarge(), 1)
	b.ReportAllocs()
	for b.Loop() {
		NewDiffTree(t, t, true)
	}
}

func BenchmarkSandwich(b *testing.B) {
	t := NewTree(viewLarge(), 1)
	name := t.Top()[0].Name
	b.ReportAllocs()
	for b.Loop() {
		t.Sandwich(name)
	}
}

func BenchmarkFilter(b *testing.B) {
	p := viewLarge()
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := p.Filter(Filter{Focus: "pkg1[0-9]", Ignore: "Method77$", Hide: "Type3"}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFilterGoogle filters a copy each time, as the filter changes it.
func BenchmarkFilterGoogle(b *testing.B) {
	p, err := gpprof.ParseData(viewLargeGoogle())
	if err != nil {
		b.Fatal(err)
	}
	focus, ignore, hide := regexp.MustCompile("pkg1[0-9]"), regexp.MustCompile("Method77$"), regexp.MustCompile("Type3")
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		q := p.Copy()
		b.StartTimer()
		q.FilterSamplesByName(focus, ignore, hide, nil)
	}
}

func BenchmarkWriteSVG(b *testing.B) {
	t := NewTree(viewLarge(), 1)
	b.ReportAllocs()
	for b.Loop() {
		if err := WriteSVG(io.Discard, t, SVGOptions{Unit: "nanoseconds"}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkWriteFolded(b *testing.B) {
	t := NewTree(viewLarge(), 1)
	b.ReportAllocs()
	for b.Loop() {
		if err := t.WriteFolded(io.Discard); err != nil {
			b.Fatal(err)
		}
	}
}
