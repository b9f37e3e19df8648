package tune

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	stdruntime "runtime"
	"runtime/debug"
	"runtime/metrics"
	"runtime/pprof"
	"strings"
	"testing"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/cmd/quantraband/demo"
	"github.com/quantra-l/quantra/profile"
)

// BenchmarkModel compares what the model of optimize/runtime says of the demo's shop at several GOGCs with what it costs: processor time by
// the samples of a CPU profile, over the same requests; as it is, and with much more alive. The tables are those of docs/runtime.md. Predictions
// start from GOGC 100.
func BenchmarkModel(b *testing.B) {
	h := demo.NewShop(demo.V1, nil).Handler()
	old := debug.SetGCPercent(100)
	defer debug.SetGCPercent(old)
	for _, mib := range []int{0, 32} {
		b.Run(fmt.Sprintf("%dMiB", mib), func(b *testing.B) {
			var held *held
			for range mib << 20 / 64 {
				held = keep(held)
			}
			serve(b, h, 100) // warms up
			for b.Loop() {
				base := serve(b, h, 100)
				for _, gogc := range []int{50, 100, 200, 400} {
					m := serve(b, h, gogc)
					now, then := base.goal-base.live, m.goal-m.live
					saved := base.gc.Marking.Value*(1-now/then) + base.gc.Sweeping.Value*(1-(1+base.live/then)/(1+base.live/now))
					fmt.Printf("| %d | %.1f | %.1f | %.1f %% | %.1f %% | %.1f %% | %+.1f %% | %+.1f %% |\n", gogc, m.live/(1<<20), m.goal/(1<<20),
						100*m.gc.All.Value, 100*m.gc.Marking.Value, 100*base.gc.Marking.Value*now/then/(1-saved), 100*(m.cpu/base.cpu-1), -100*saved)
				}
			}
			stdruntime.KeepAlive(held)
		})
	}
}

// held is 64 bytes that are alive, with a pointer to the next.
type held struct {
	next *held
	_    [56]byte
}

func keep(next *held) *held { return &held{next: next} }

type served struct {
	cpu, live, goal float64 // seconds, bytes
	gc              analyze.Collecting
}

// serve is what the same requests cost each time.
func serve(b *testing.B, h http.Handler, gogc int) (m served) {
	const requests = 2000
	debug.SetGCPercent(gogc)
	stdruntime.GC()
	var buf bytes.Buffer
	if err := pprof.StartCPUProfile(&buf); err != nil {
		b.Fatal(err)
	}
	figures := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/heap/goal:bytes"}}
	for i := range requests {
		order := fmt.Sprintf(`{"customer":"c-%d","items":[{"sku":"sku-%05d","quantity":2},{"sku":"sku-%05d","quantity":1}],"note":"%s"}`, i%500, i%3000, i*7%3000, strings.Repeat("n", 200))
		for _, q := range []*http.Request{httptest.NewRequest("POST", "/checkout", strings.NewReader(order)), httptest.NewRequest("GET", "/search?q=red+wool", nil), httptest.NewRequest("GET", "/report", nil)}[:1+2*(1-min(1, i%5))] {
			w := httptest.NewRecorder()
			h.ServeHTTP(w, q)
			if w.Code != http.StatusOK {
				b.Fatal(w.Code, w.Body)
			}
		}
		if i%10 == 0 {
			metrics.Read(figures)
			m.live, m.goal = m.live+float64(figures[0].Value.Uint64())*10/requests, m.goal+float64(figures[1].Value.Uint64())*10/requests
		}
	}
	pprof.StopCPUProfile()
	p, err := profile.Decode(&buf, profile.Limits{})
	if err != nil {
		b.Fatal(err)
	}
	m.gc, _ = analyze.ReadCollecting(analyze.Profiles{p})
	m.cpu = float64(p.Total(p.Column("cpu"))) / 1e9
	return m
}
