package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"runtime/pprof"
	"testing"
	"time"

	"github.com/google/pprof/profile"
)

// totalsOf is a profile like allocs of a program with n allocating stacks of 20 frames, from 2,000 functions.
func totalsOf(b *testing.B, n int, add int64) []byte {
	p := &profile.Profile{PeriodType: &profile.ValueType{Type: "space", Unit: "bytes"}, Period: 512 << 10}
	for _, name := range []string{"alloc_objects", "alloc_space", "inuse_objects", "inuse_space"} {
		p.SampleType = append(p.SampleType, &profile.ValueType{Type: name, Unit: "bytes"})
	}
	for i := range 2000 {
		f := &profile.Function{ID: uint64(i + 1), Name: fmt.Sprintf("example.com/shop/internal/pkg%d.(*Type%d).Method%d", i%40, i%300, i), Filename: fmt.Sprintf("/src/shop/internal/pkg%d/file%d.go", i%40, i%300), StartLine: int64(i)}
		p.Function = append(p.Function, f)
		p.Location = append(p.Location, &profile.Location{ID: uint64(i + 1), Address: uint64(0x400000 + 64*i), Line: []profile.Line{{Function: f, Line: int64(i + 5)}}})
	}
	for i := range n {
		s := &profile.Sample{Value: []int64{10, 1000, 5, 500}, NumLabel: map[string][]int64{"bytes": {int64(16 << (i % 8))}}}
		if i%10 == 0 { // a window changes one stack of ten
			s.Value[0] += add
		}
		for d := range 20 {
			s.Location = append(s.Location, p.Location[(i*(d+7)+d*d)%len(p.Location)])
		}
		p.Sample = append(p.Sample, s)
	}
	var out bytes.Buffer
	if err := p.Write(&out); err != nil {
		b.Fatal(err)
	}
	return out.Bytes()
}

// BenchmarkMeter is what a window's memory profile costs beside the runtime's own part, by allocating stacks.
func BenchmarkMeter(b *testing.B) {
	for _, n := range []int{500, 5000, 50000} {
		b.Run(fmt.Sprintf("stacks=%d", n), func(b *testing.B) {
			looks := [][]byte{totalsOf(b, n, 0), totalsOf(b, n, 7)}
			both, on := column{keep: true, delta: true}, column{keep: true}
			m := newMeter(new(scratch), "memory", "allocs", both, both, on, on)
			now := time.Now()
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				if _, err := m.measure(looks[i%2], now, now); err != nil {
					b.Fatal(err)
				}
				i++
			}
			b.ReportMetric(float64(m.memory()+m.scratch.memory()), "held-bytes")
		})
	}
}

// BenchmarkWindow is what one window of this very process costs: all default profiles, without sending them.
func BenchmarkWindow(b *testing.B) {
	a := &Agent{cfg: config{types: DefaultTypes, rate: 100}, queue: newQueue(4 << 20), status: newStatus(quiet()), src: runtimeSources}
	c := newCollector(a)
	c.baseline()
	defer c.restore()
	b.ReportAllocs()
	for b.Loop() {
		c.settings()
		c.startCPU()
		c.cycles = 0
		c.collect(time.Now(), time.Now())
	}
}

// BenchmarkStartCPU is the start and end of a CPU profile, at the runtime's rate and at one that needs a thread of its own.
func BenchmarkStartCPU(b *testing.B) {
	for _, hz := range cpuRates {
		b.Run(fmt.Sprintf("hz=%d", hz), func(b *testing.B) {
			for b.Loop() {
				if err := startCPU(io.Discard, hz); err != nil {
					b.Fatal(err)
				}
				pprof.StopCPUProfile()
			}
		})
	}
}

// BenchmarkOwnSamples is the search for the agent's own samples in a window's CPU profile.
func BenchmarkOwnSamples(b *testing.B) {
	var buf bytes.Buffer
	if err := pprof.StartCPUProfile(&buf); err != nil {
		b.Fatal(err)
	}
	pprof.Do(context.Background(), pprof.Labels(selfLabel, "1"), func(context.Context) { spin(func() bool { return samplesIn(10) }) })
	pprof.StopCPUProfile()
	c := &collector{}
	b.ReportAllocs()
	b.SetBytes(int64(buf.Len()))
	for b.Loop() {
		if c.own(buf.Bytes()).labelled == 0 {
			b.Fatal("none found")
		}
	}
}
