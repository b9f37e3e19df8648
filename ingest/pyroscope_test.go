package ingest

import (
	"compress/flate"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grafana/pyroscope-go"

	"github.com/quantra-l/quantra/ingest/clienttest"
	"github.com/quantra-l/quantra/profile"
)

// arrived is what the SDK's profiles came to, by profile type.
type arrived struct {
	mu     sync.Mutex
	total  map[string]int64
	pushes map[string]Push // the last of each name
	worked bool            // some CPU profile has the function at work
	news   chan struct{}   // has a token when something arrived
}

func (a *arrived) append(_ context.Context, p Push) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, t := range p.Profile.SampleTypes {
		a.total[profile.Type{Name: p.Name, Sample: t, Period: p.Profile.PeriodType}.String()] += p.Profile.Total(i)
	}
	a.pushes[p.Name] = p
	if p.Name == "process_cpu" {
		a.worked = a.worked || slices.ContainsFunc(profile.Top(p.Profile, 1), func(r profile.TopRow) bool { return strings.HasSuffix(r.Name, atWork) })
	}
	select {
	case a.news <- struct{}{}:
	default:
	}
	return nil
}

// atWork, among the wanted types, is a CPU profile that has the function at work.
const atWork = "ingest.contendedWork"

// missing is the wanted types of which nothing but zeros has come.
func (a *arrived) missing(want []string) (none []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, w := range want {
		if w == atWork && !a.worked || w != atWork && a.total[w] <= 0 {
			none = append(none, w)
		}
	}
	return none
}

// sdkLog fails the test when the SDK has an error to tell: a refused upload is one.
type sdkLog struct{ t *testing.T }

func (sdkLog) Infof(string, ...any)             {}
func (sdkLog) Debugf(string, ...any)            {}
func (l sdkLog) Errorf(format string, a ...any) { l.t.Errorf("sdk: "+format, a...) }

// TestPyroscopeSDK runs Grafana's own client in this process, against a real
// server, until every kind of profile that it takes has arrived with something in it.
func TestPyroscopeSDK(t *testing.T) {
	got := &arrived{total: map[string]int64{}, pushes: map[string]Push{}, news: make(chan struct{}, 1)}
	in, err := New(Options{Append: got.append, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	in.Register(mux)
	srv := httptest.NewServer(mux)
	defer srv.Close()

	defer runtime.SetMutexProfileFraction(runtime.SetMutexProfileFraction(1))
	runtime.SetBlockProfileRate(1)
	defer runtime.SetBlockProfileRate(0)
	began := time.Now()
	p, err := pyroscope.Start(pyroscope.Config{
		ApplicationName: "sdk.test",
		Tags:            map[string]string{"service.version": "v1", "zone": "eu, west"},
		ServerAddress:   srv.URL,
		TenantID:        "acme",
		UploadRate:      500 * time.Millisecond,
		Logger:          sdkLog{t},
		ProfileTypes: []pyroscope.ProfileType{
			pyroscope.ProfileCPU, pyroscope.ProfileInuseObjects, pyroscope.ProfileAllocObjects,
			pyroscope.ProfileInuseSpace, pyroscope.ProfileAllocSpace, pyroscope.ProfileGoroutines,
			pyroscope.ProfileMutexCount, pyroscope.ProfileMutexDuration,
			pyroscope.ProfileBlockCount, pyroscope.ProfileBlockDuration,
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stopWork := context.WithCancel(context.Background())
	var work sync.WaitGroup
	var lock sync.Mutex
	for range 2 {
		work.Go(func() { contendedWork(ctx, &lock) })
	}
	want := []string{
		"process_cpu:samples:count:cpu:nanoseconds", "process_cpu:cpu:nanoseconds:cpu:nanoseconds",
		"memory:alloc_objects:count:space:bytes", "memory:alloc_space:bytes:space:bytes",
		"memory:inuse_objects:count:space:bytes", "memory:inuse_space:bytes:space:bytes",
		"goroutine:goroutine:count:goroutine:count",
		"mutex:contentions:count:contentions:count", "mutex:delay:nanoseconds:contentions:count",
		"block:contentions:count:contentions:count", "block:delay:nanoseconds:contentions:count",
	}
	deadline := time.After(time.Minute) // a machine this slow is broken
	for len(got.missing(want)) > 0 {
		select {
		case <-got.news:
		case <-deadline:
			t.Fatalf("never arrived: %v; there are %v", got.missing(want), got.total)
		}
	}
	stopWork()
	work.Wait()
	p.Flush(true) // its windows may end where they begin: that must not be an error
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	lived := time.Since(began)

	if len(got.pushes) != 5 {
		t.Errorf("%d names: %v", len(got.pushes), got.total)
	}
	for name, p := range got.pushes {
		checkSDKPush(t, name, p)
	}
	if cpu := got.total["process_cpu:cpu:nanoseconds:cpu:nanoseconds"]; cpu > int64(lived)*int64(runtime.GOMAXPROCS(0))*2 {
		t.Errorf("%v of CPU in %v: some window was counted twice", time.Duration(cpu), lived)
	}
	if !got.worked {
		t.Error("the function at work is in no CPU profile")
	}
	clienttest.Record(t, clienttest.Row{Protocol: "Pyroscope /ingest, pprof", Client: "github.com/grafana/pyroscope-go", Version: "1.4.3", Sent: "this process's own profiles of every kind", Seen: strings.Join(want, " ")})
}

func checkSDKPush(t *testing.T, name string, p Push) {
	t.Helper()
	if p.Tenant != "acme" || p.Labels.Get("service_name") != "sdk.test" || p.Labels.Get("service_version") != "v1" || p.Labels.Get("zone") != "eu, west" {
		t.Errorf("%s: tenant %q, labels %v", name, p.Tenant, p.Labels)
	}
	if p.Labels.Get("__session_id__") != "" || p.Labels.Get("process_runtime_name") != "go" {
		t.Errorf("%s: labels %v", name, p.Labels)
	}
	if !p.From.Before(p.To) || p.To.Sub(p.From) > time.Minute || time.Since(p.To) > time.Hour {
		t.Errorf("%s: window %v to %v", name, p.From, p.To)
	}
	if again, err := profile.DecodeBytes(p.Pprof, profile.Limits{}); err != nil || again.Total(0) != p.Profile.Total(0) {
		t.Errorf("%s: the bytes handed on do not decode to the profile: %v", name, err)
	}
}

// contendedWork has something for every kind of profile.
func contendedWork(ctx context.Context, lock *sync.Mutex) {
	var keep [][]byte
	for ctx.Err() == nil {
		lock.Lock()
		w, err := flate.NewWriter(io.Discard, 9)
		if err != nil {
			panic(err)
		}
		for range 64 {
			fmt.Fprintf(w, "%d", len(keep))
		}
		w.Close()
		lock.Unlock()
		if keep = append(keep, make([]byte, 64<<10)); len(keep) > 64 {
			keep = nil
		}
	}
}

func BenchmarkIngest(b *testing.B) {
	in, err := New(Options{Append: func(context.Context, Push) error { return nil }, InFlightBytes: -1, Now: func() time.Time { return now }})
	if err != nil {
		b.Fatal(err)
	}
	mux := http.NewServeMux()
	in.Register(mux)
	body := gz(benchProfile().AppendPprof(nil))
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest("POST", "/api/v1/profiles?service_name=checkout&service_version=v1&service_instance_id=a&name=process_cpu", strings.NewReader(string(body))))
		if w.Code != 200 {
			b.Fatal(w.Body)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "profiles/s")
}

// benchProfile is as large as 10 s of a busy service: 1,000 stacks, 24 deep, over 500 functions.
func benchProfile() *profile.Profile {
	b := profile.NewBuilder(profile.ValueType{Type: "samples", Unit: "count"}, profile.ValueType{Type: "cpu", Unit: "nanoseconds"})
	var locs []uint32
	for i := range 500 {
		f := b.Function(profile.Function{Name: b.String(fmt.Sprintf("example.com/shop/pkg%d.(*Service).Method%d", i%20, i)), File: b.String(fmt.Sprintf("/src/shop/pkg%d/file.go", i%20)), StartLine: int64(i)})
		locs = append(locs, b.Location(profile.Location{Address: uint64(0x400000 + 64*i)}, profile.Line{Function: f, Line: int64(i + 7)}))
	}
	rnd := uint32(1)
	for range 1000 {
		stack := uint32(0)
		for d := range 24 {
			rnd = rnd*1664525 + 1013904223
			stack = b.Stack(stack, locs[(d*20+int(rnd>>24)%(d/4+2))%500])
		}
		b.Add(stack, 0, 1, 10_000_000)
	}
	p := b.Profile()
	p.PeriodType, p.Period = profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, 10_000_000
	p.TimeNanos, p.DurationNanos = now.Add(-time.Minute).UnixNano(), int64(10*time.Second)
	return p
}
