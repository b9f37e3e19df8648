package profile

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	google "github.com/google/pprof/profile"
)

// codecBenchInputs is the raw bytes of one profile of each size in the corpus, and a large one.
func codecBenchInputs(b *testing.B) map[string][]byte {
	b.Helper()
	in := map[string][]byte{"10MB": codecSynthetic(100_000)}
	for _, name := range []string{"json_cpu", "regexp_heap", "sort_goroutine"} {
		raw, err := decompress(codecCorpus(b)[name], Limits{}.withDefaults())
		if err != nil {
			b.Fatal(err)
		}
		in[name] = raw
	}
	return in
}

// codecSynthetic is a CPU profile like a large Go server's: 30,000 functions, a third of the frames
// inlined, stacks of 20 to 30 frames that start alike and part ways towards the leaf, labels on half of the
// samples. A million samples are about 100 MB. The same n gives the same bytes.
func codecSynthetic(n int) []byte {
	rnd := rand.New(rand.NewPCG(1, 2))
	b := NewBuilder(ValueType{"samples", "count"}, ValueType{"cpu", "nanoseconds"})
	b.p.PeriodType, b.p.Period = ValueType{"cpu", "nanoseconds"}, 10_000_000
	mp := b.Mapping(Mapping{Start: 0x400000, Limit: 0x4000000, File: b.String("/usr/bin/server"), HasFunctions: true})
	fns := make([]uint32, 30_000)
	for i := range fns {
		name := b.String(fmt.Sprintf("example.com/server/internal/pkg%d.(*Type%d).Method%d", i/300, i/10, i))
		fns[i] = b.Function(Function{Name: name, SystemName: name, File: b.String(fmt.Sprintf("/src/internal/pkg%d/file%d.go", i/300, i/20)), StartLine: int64(i%900 + 1)})
	}
	locs := make([]uint32, 60_000)
	for i := range locs {
		lines := []Line{{fns[i%len(fns)], int64(i%900 + 7), 0}}
		if i%3 == 0 {
			lines = append(lines, Line{fns[(i*7)%len(fns)], int64(i % 800), 0})
		}
		locs[i] = b.Location(Location{Address: 0x400000 + uint64(i)*37, Mapping: mp}, lines...)
	}
	sets := []uint32{0}
	for i := range 2000 {
		sets = append(sets, b.LabelSet([]SampleLabel{{Key: b.String("operation"), Str: b.String("op" + strconv.Itoa(i%40))},
			{Key: b.String("span_id"), Str: b.String(strconv.FormatInt(int64(i)*7919, 16))}}))
	}
	for range n {
		node := uint32(0)
		for depth, want := 0, 20+rnd.IntN(11); depth < want; depth++ {
			// A caller has few callees near the root and more near the leaf.
			choice := rnd.IntN(1 + depth/6)
			node = b.Stack(node, locs[int(mixPair(uint64(depth*64+choice), uint64(node%977))%uint64(len(locs)))])
		}
		set := uint32(0)
		if rnd.IntN(2) == 0 {
			set = sets[rnd.IntN(len(sets))]
		}
		at := b.newSample(node, set)
		b.p.Values[0][at], b.p.Values[1][at] = 1, 10_000_000
	}
	return b.Profile().AppendPprof(nil)
}

func BenchmarkDecode(b *testing.B) {
	for name, raw := range codecBenchInputs(b) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := DecodeBytes(raw, Limits{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecodeGoogle(b *testing.B) {
	for name, raw := range codecBenchInputs(b) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := google.ParseData(raw); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkDecode100MB also reports the process's peak of resident memory over the size of the
// profile, where the system tells it (Linux). Making the input leaves garbage behind, so for
// the peak write the input once, and decode it in a process of its own:
//
//	QUANTRA_LARGE_PROFILE=/tmp/large.pb go test ./profile -run '^$' -bench Decode100MB -benchtime 1x   # twice
func BenchmarkDecode100MB(b *testing.B) {
	var raw []byte
	if file := os.Getenv("QUANTRA_LARGE_PROFILE"); file != "" {
		var err error
		if raw, err = os.ReadFile(file); os.IsNotExist(err) {
			raw = codecSynthetic(1_000_000)
			err = os.WriteFile(file, raw, 0o666)
		}
		if err != nil {
			b.Fatal(err)
		}
	} else {
		raw = codecSynthetic(1_000_000)
	}
	runtime.GC()
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeBytes(raw, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
	if status, err := os.ReadFile("/proc/self/status"); err == nil {
		if _, after, ok := strings.Cut(string(status), "VmHWM:"); ok {
			var kb int
			if _, err := fmt.Sscan(after, &kb); err == nil {
				b.ReportMetric(float64(kb)*1024/float64(len(raw)), "peak/size")
			}
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	for name, raw := range codecBenchInputs(b) {
		p, err := DecodeBytes(raw, Limits{})
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			var buf []byte
			for b.Loop() {
				buf = p.AppendPprof(buf[:0])
			}
		})
		b.Run(name+"/gzip", func(b *testing.B) {
			b.SetBytes(int64(len(raw)))
			for b.Loop() {
				if err := p.Encode(io.Discard); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkMerge sums four copies of a profile; BenchmarkMergeGoogle is pprof's on the same.
func BenchmarkMerge(b *testing.B) {
	for name, raw := range codecBenchInputs(b) {
		p, err := DecodeBytes(raw, Limits{})
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(4 * int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Merge(p, p, p, p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkMergeGoogle(b *testing.B) {
	for name, raw := range codecBenchInputs(b) {
		p, err := google.ParseData(raw)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(name, func(b *testing.B) {
			b.SetBytes(4 * int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := google.Merge([]*google.Profile{p, p, p, p}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
