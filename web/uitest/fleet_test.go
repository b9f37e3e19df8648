package uitest

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

// planted is the function that version v2 of checkout made slower.
const planted = "github.com/acme/shop/cache.(*LRU).evict"

// stacks are what checkout does, root first, with weights: CPU in v1, CPU in v2,
// and bytes allocated. Names shorten their package: s/ is github.com/acme/shop/.
const stacks = `
runtime.main;main.main;net/http.ListenAndServe;net/http.(*Server).Serve;net/http.(*conn).serve;s/api.(*Server).ServeHTTP;s/api.(*Server).checkout;encoding/json.(*Decoder).Decode;encoding/json.(*decodeState).object;encoding/json.(*decodeState).literalStore;reflect.Value.SetString 90 90 800
runtime.main;main.main;net/http.ListenAndServe;net/http.(*Server).Serve;net/http.(*conn).serve;s/api.(*Server).ServeHTTP;s/api.(*Server).checkout;encoding/json.(*Decoder).Decode;encoding/json.(*decodeState).object;encoding/json.(*decodeState).literalStore;strconv.ParseFloat 40 40 0
runtime.main;main.main;net/http.ListenAndServe;net/http.(*Server).Serve;net/http.(*conn).serve;s/api.(*Server).ServeHTTP;s/api.(*Server).checkout;s/order.(*Book).Place;s/cache.(*LRU).Put;s/cache.(*LRU).evict 30 210 0
runtime.main;main.main;net/http.ListenAndServe;net/http.(*Server).Serve;net/http.(*conn).serve;s/api.(*Server).ServeHTTP;s/api.(*Server).checkout;s/order.(*Book).Place;s/cache.(*LRU).Put;s/cache.(*LRU).evict;runtime.mapiternext 8 90 0
runtime.main;main.main;net/http.ListenAndServe;net/http.(*Server).Serve;net/http.(*conn).serve;s/api.(*Server).ServeHTTP;s/api.(*Server).checkout;s/order.(*Book).Place;s/cache.(*LRU).Put;runtime.mapassign_faststr 55 55 900
runtime.main;main.main;net/http.ListenAndServe;net/http.(*Server).Serve;net/http.(*conn).serve;s/api.(*Server).ServeHTTP;s/api.(*Server).checkout;s/order.(*Book).Place;s/order.(*Book).price;math.Exp 70 70 0
runtime.main;main.main;net/http.ListenAndServe;net/http.(*Server).Serve;net/http.(*conn).serve;s/api.(*Server).ServeHTTP;s/api.(*Server).checkout;s/order.Sign;crypto/sha256.(*digest).Write;crypto/internal/fips140/sha256.block 160 150 0
runtime.main;main.main;net/http.ListenAndServe;net/http.(*Server).Serve;net/http.(*conn).serve;s/api.(*Server).ServeHTTP;s/api.(*Server).search;s/index.(*Index).Query;s/index.intersect 110 110 200
runtime.main;main.main;net/http.ListenAndServe;net/http.(*Server).Serve;net/http.(*conn).serve;s/api.(*Server).ServeHTTP;s/api.(*Server).search;s/index.(*Index).Query;sort.Slice;sort.quickSort_func;s/index.(*Index).Query.func1 60 60 0
runtime.main;main.main;net/http.ListenAndServe;net/http.(*Server).Serve;net/http.(*conn).serve;s/api.(*Server).ServeHTTP;s/api.(*Server).report;compress/gzip.(*Writer).Write;compress/flate.(*compressor).write;compress/flate.(*compressor).deflate;compress/flate.(*compressor).findMatch 140 140 0
runtime.main;main.main;net/http.ListenAndServe;net/http.(*Server).Serve;net/http.(*conn).serve;s/api.(*Server).ServeHTTP;s/api.(*Server).report;compress/gzip.(*Writer).Write;compress/flate.(*compressor).write;compress/flate.(*huffmanBitWriter).writeBlock 60 60 300
runtime.main;main.main;net/http.ListenAndServe;net/http.(*Server).Serve;net/http.(*conn).serve;s/api.(*Server).ServeHTTP;s/api.(*Server).report;encoding/json.Marshal;encoding/json.structEncoder.encode;encoding/json.appendString 80 80 1500
runtime.main;main.main;net/http.ListenAndServe;net/http.(*Server).Serve;net/http.(*conn).serve;net/http.(*conn).readRequest;net/textproto.(*Reader).ReadMIMEHeader 35 35 600
runtime.main;main.main;net/http.ListenAndServe;net/http.(*Server).Serve;net/http.(*conn).serve;net/http.(*response).finishRequest;bufio.(*Writer).Flush;net.(*conn).Write;internal/poll.(*FD).Write;syscall.Syscall 95 95 0
runtime.gcBgMarkWorker;runtime.systemstack;runtime.gcBgMarkWorker.func2;runtime.gcDrain;runtime.scanobject 90 95 0
runtime.gcBgMarkWorker;runtime.systemstack;runtime.gcBgMarkWorker.func2;runtime.gcDrain;runtime.greyobject 20 22 0
runtime.mcall;runtime.park_m;runtime.schedule;runtime.findRunnable;runtime.netpoll;runtime.epollwait 48 48 0
`

type path struct {
	frames        []string
	v1, v2, alloc float64
}

func paths(t *testing.T) []path {
	t.Helper()
	var out []path
	for line := range strings.Lines(strings.TrimSpace(stacks)) {
		var p path
		name, nums, ok := strings.Cut(strings.TrimSpace(line), " ")
		if _, err := fmt.Sscan(nums, &p.v1, &p.v2, &p.alloc); err != nil || !ok {
			t.Fatalf("stacks: %q: %v", line, err)
		}
		for f := range strings.SplitSeq(name, ";") {
			if s, ok := strings.CutPrefix(f, "s/"); ok {
				f = "github.com/acme/shop/" + s
			}
			p.frames = append(p.frames, f)
		}
		out = append(out, p)
	}
	return out
}

// sampled makes a profile of the paths, with values(path) a sample.
func sampled(ps []path, types []profile.ValueType, period profile.ValueType, values func(path) []int64) *profile.Profile {
	b := profile.NewBuilder(types...)
	for _, p := range ps {
		v := values(p)
		if v == nil {
			continue
		}
		at, labels := uint32(0), uint32(0)
		for _, f := range p.frames {
			if name, ok := strings.CutPrefix(f, "github.com/acme/shop/api.(*Server)."); ok && name != "ServeHTTP" {
				labels = b.LabelSet([]profile.SampleLabel{{Key: b.String("endpoint"), Str: b.String("/" + name)}})
			}
			fn := b.Function(profile.Function{Name: b.String(f), SystemName: b.String(f), File: b.String(file(f))})
			at = b.Stack(at, b.Location(profile.Location{}, profile.Line{Function: fn, Line: 10}))
		}
		b.Add(at, labels, v...)
	}
	out := b.Profile()
	out.PeriodType = period
	return out
}

func file(fn string) string {
	i := strings.Index(fn[strings.LastIndexByte(fn, '/')+1:], ".") + strings.LastIndexByte(fn, '/') + 1
	return fn[:i] + "/" + fn[strings.LastIndexByte(fn[:i], '/')+1:i] + ".go"
}

// fill sends ten-second windows of the last span of three services, as their agents would have.
func fill(t *testing.T, st store.Store, span time.Duration) {
	t.Helper()
	ps, r, end := paths(t), rand.New(rand.NewPCG(1, 2)), time.Now().Truncate(10*time.Second)
	var all sync.WaitGroup // many at once, so that they share an fsync
	defer all.Wait()
	slots := make(chan struct{}, 256)
	for _, s := range []struct {
		name, version string
		load          float64
	}{{"checkout", "v1", 1}, {"checkout", "v2", 1}, {"catalog", "v7", 0.4}, {"billing", "2024.11.3", 0.15}} {
		for i := range 2 {
			labels, err := profile.NewLabels(profile.Label{Name: profile.LabelService, Value: s.name}, profile.Label{Name: profile.LabelVersion, Value: s.version},
				profile.Label{Name: profile.LabelInstance, Value: fmt.Sprintf("%s-%s-%d", s.name, s.version, i)}, profile.Label{Name: "region", Value: "eu-west"})
			if err != nil {
				t.Fatal(err)
			}
			for from := end.Add(-span); from.Before(end); from = from.Add(10 * time.Second) {
				load := s.load * (1 + 0.35*math.Sin(float64(from.Unix())/140) + 0.1*r.Float64())
				for name, p := range window(ps, s.version, load, r) {
					slots <- struct{}{}
					all.Go(func() {
						send(t, st, name, labels, from, p)
						<-slots
					})
				}
			}
		}
	}
}

func window(ps []path, version string, load float64, r *rand.Rand) map[string]*profile.Profile {
	jitter := func(w float64) int64 { return int64(math.Round(w * load / 8 * (0.7 + 0.6*r.Float64()))) }
	ns, count, bytes := "nanoseconds", "count", "bytes"
	return map[string]*profile.Profile{
		"process_cpu": sampled(ps, []profile.ValueType{{Type: "samples", Unit: count}, {Type: "cpu", Unit: ns}}, profile.ValueType{Type: "cpu", Unit: ns}, func(p path) []int64 {
			w := p.v1
			if version == "v2" {
				w = p.v2
			}
			n := jitter(w)
			return []int64{n, n * 10_000_000}
		}),
		"memory": sampled(ps, []profile.ValueType{{Type: "alloc_objects", Unit: count}, {Type: "alloc_space", Unit: bytes}, {Type: "inuse_objects", Unit: count}, {Type: "inuse_space", Unit: bytes}}, profile.ValueType{Type: "space", Unit: bytes}, func(p path) []int64 {
			if p.alloc == 0 {
				return nil
			}
			n := jitter(p.alloc)
			return []int64{n * 16, n * 4096, n, n * 512}
		}),
		"goroutine": sampled(ps, []profile.ValueType{{Type: "goroutine", Unit: count}}, profile.ValueType{Type: "goroutine", Unit: count}, func(path) []int64 { return []int64{1 + r.Int64N(3)} }),
	}
}

func send(t *testing.T, st store.Store, name string, labels profile.Labels, from time.Time, p *profile.Profile) {
	t.Helper()
	p.TimeNanos, p.DurationNanos = from.UnixNano(), int64(10*time.Second)
	u := store.Upload{Name: name, Labels: labels, From: from, To: from.Add(10 * time.Second), Pprof: p.AppendPprof(nil), Profile: p}
	if err := st.Append(context.Background(), u); err != nil {
		t.Error(err)
	}
}

// wide makes one profile of about n frames, as of a program with very many paths.
func wide(n int) *profile.Profile {
	r := rand.New(rand.NewPCG(3, 4))
	var ps []path
	for frames := 1; frames < n; {
		p := path{v1: 1 + 20*r.ExpFloat64(), frames: []string{"runtime.main", "main.main"}}
		for d := range 12 + r.IntN(20) {
			k := r.IntN(3)
			if d > 3 {
				k = r.IntN(12)
			}
			p.frames = append(p.frames, fmt.Sprintf("example.com/big/p%d.(*T).method%d", (d*7+k)%40, k))
		}
		frames += max(4, len(p.frames)-5)
		ps = append(ps, p)
	}
	ns := "nanoseconds"
	return sampled(ps, []profile.ValueType{{Type: "cpu", Unit: ns}}, profile.ValueType{Type: "cpu", Unit: ns}, func(p path) []int64 { return []int64{int64(p.v1 * 1e7)} })
}
