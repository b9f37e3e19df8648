package blocks

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// TestChunk: whatever the widths, rows come back as they went in, and add up.
func TestChunk(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, stacks := range []uint32{3, math.MaxUint16 + 1, math.MaxUint16 + 2, 1 << 20} {
		for _, unit := range []int64{1, 7, 10_000_000} {
			for _, top := range []int64{1, math.MaxUint8, math.MaxUint8 + 1, math.MaxUint16, math.MaxUint16 + 1, math.MaxUint32, math.MaxUint32 + 1, -5} {
				for _, labelled := range []bool{false, true} {
					n := 1 + rng.IntN(500)
					sets, st, values := make([]uint32, n), make([]uint32, n), make([]int64, n)
					dense := make([]int64, stacks)
					for i := range n {
						st[i] = rng.Uint32N(stacks)
						if values[i] = 1 + rng.Int64N(max(top, 1)); top < 0 {
							values[i] -= 3
						}
						values[i] *= unit
						if labelled {
							sets[i] = rng.Uint32N(4)
						}
					}
					st[0], values[0] = stacks-1, top*unit
					lo := rng.IntN(n)
					c := newChunk(slices.Clone(sets), slices.Clone(st), slices.Clone(values))
					for i := range n {
						if s, k, v := c.at(i); s != sets[i] || k != st[i] || v != values[i] {
							t.Fatalf("row %d: %d %d %d, want %d %d %d", i, s, k, v, sets[i], st[i], values[i])
						}
						if i >= lo {
							dense[st[i]] -= values[i]
						}
					}
					c.addTo(dense, lo, n)
					for i, v := range dense {
						if v != 0 {
							t.Fatalf("stack %d of %d, unit %d, top %d: off by %d", i, stacks, unit, top, v)
						}
					}
				}
			}
		}
	}
}

// TestChunkIsSmall: samples of a CPU profile take three bytes.
func TestChunkIsSmall(t *testing.T) {
	n := chunkRows
	sets, stacks, values := make([]uint32, n), make([]uint32, n), make([]int64, n)
	for i := range n {
		stacks[i], values[i] = uint32(i%20_000), int64(1+i%200)*10_000_000
	}
	if c := newChunk(sets, stacks, values); c.bytes > int64(3*n+200) {
		t.Errorf("%d samples take %d bytes", n, c.bytes)
	}
}

func BenchmarkChunkAdd(b *testing.B) {
	n := chunkRows
	stacks, values, dense := make([]uint32, n), make([]int64, n), make([]int64, 20_000)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		stacks[i], values[i] = rng.Uint32N(20_000), int64(1+rng.IntN(200))*10_000_000
	}
	c := newChunk(nil, stacks, values)
	for b.Loop() {
		c.addTo(dense, 0, n)
	}
	b.ReportMetric(float64(b.N)*float64(n)/b.Elapsed().Seconds()/1e6, "Msamples/s")
}
