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

// codecSynthetic is n samples like those of a fleet's merged CPU profile, which is how pprof files become
// large. 30,000 functions, a third of the frames inlined. There are n/4 draws of a stack, of 10 to 40 frames: a walk
// from one of 20 entry points in which a function calls one of a few, the first most often, so that
// stacks share their callers and part ways towards the leaf. Each stack is seen about four times, each time with
// other labels: two of them, of 3,000 sets, but for a sixth of the samples, which has none. Samples come as they do from merging
// processes: each process has a sixteenth of the stacks, in no order. A million samples are about 100 MB. The same n gives the same bytes.
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
	sets := make([]uint32, 3000)
	for i := range sets {
		sets[i] = b.LabelSet([]SampleLabel{{Key: b.String("operation"), Str: b.String("op" + strconv.Itoa(i%40))},
			{Key: b.String("instance"), Str: b.String("server-" + strconv.Itoa(i/40))}})
	}
	stacks := make([]uint32, max(n/4, 1))
	for i := range stacks {
		at := uint64(rnd.IntN(20))
		node := uint32(0)
		for range 10 + rnd.IntN(31) {
			node = b.Stack(node, locs[at%uint64(len(locs))])
			callee := uint64(min(rnd.ExpFloat64(), 5)) // of a function's six: the first 63 times in 100
			at = mixPair(at%uint64(len(locs)), callee)
		}
		stacks[i] = node
	}
	const processes = 16
	for i := range n {
		process := i * processes / n
		stack := stacks[rnd.IntN(len(stacks))]
		if k := rnd.IntN(len(stacks)/processes + 1); rnd.IntN(4) > 0 {
			stack = stacks[(k*processes+process)%len(stacks)] // the rest is what all processes do
		}
		set := uint32(0)
		if rnd.IntN(6) > 0 {
			set = sets[rnd.IntN(len(sets))]
		}
		at := b.newSample(stack, set)
		b.p.Values[0][at] = int64(1 + rnd.IntN(4))
		b.p.Values[1][at] = 10_000_000 * b.p.Values[0][at]
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
