package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"runtime/trace"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quantra-l/quantra/agent/live"
)

// TestServerLeasesRate: an agent whose server leases 50 Hz samples so from the next window on, says so,
// and goes back when the lease is withdrawn.
func TestServerLeasesRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var polls []pollRequest
		s := &fakeServer{}
		s.poll = func(r *http.Request, body []byte) (*http.Response, error) {
			var p pollRequest
			if err := json.Unmarshal(body, &p); err != nil || r.URL.Path != "/base"+pollPath {
				t.Errorf("poll at %s: %v", r.URL.Path, err)
			}
			polls = append(polls, p)
			reply, want := "{}", ""
			if d := time.Since(began); d > time.Minute && d < 3*time.Minute {
				reply, want = `{"lease":{"id":"L1","ttl_ms":600000,"cpu_rate":50}}`, "L1"
			}
			if p.Lease == want {
				select {
				case <-r.Context().Done():
					return nil, r.Context().Err()
				case <-time.After(30 * time.Second):
				}
			}
			return answer(200, reply, "Content-Type", "application/json"), nil
		}
		cpu := new(fakeCPU)
		o := fakeOptions(s)
		o.Server = "http://server/base/"
		a := mustStart(t, o, cpu.sources())
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if st := a.Status(); st.Lease != "L1" || st.CPURate != 50 {
			t.Errorf("under the lease: lease %q, rate %d", st.Lease, st.CPURate)
		}
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if st := a.Status(); st.Lease != "" || st.CPURate != 100 {
			t.Errorf("after it: lease %q, rate %d", st.Lease, st.CPURate)
		}
		if err := a.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if rates := slices.Compact(slices.Clone(cpu.hz)); !slices.Equal(rates, []int{100, 50, 100}) {
			t.Errorf("windows at %v", cpu.hz)
		}
		p := polls[len(polls)-1]
		if p.Service != "test" || p.Instance != "i" || p.Version != "v7" || p.Region != "local" || p.Labels["team"] != "pay" || len(p.Labels) != 1 || !p.Optimizer || p.PID == 0 || p.Settings.Procs == 0 {
			t.Errorf("a poll says %+v", p)
		}
		var st Status
		if err := json.Unmarshal(p.Status, &st); err != nil || st.Uploaded == 0 || st.KeyID == "" {
			t.Errorf("a poll's status is %s, %v", p.Status, err)
		}
	})
}

// TestOptimizerSwitch: PROFILER_OPTIMIZER_ENABLED=false refuses all leases, and nonsense is refused at the start.
func TestOptimizerSwitch(t *testing.T) {
	t.Setenv("PROFILER_OPTIMIZER_ENABLED", "false")
	synctest.Test(t, func(t *testing.T) {
		told := ""
		s := &fakeServer{poll: func(r *http.Request, body []byte) (*http.Response, error) {
			var p pollRequest
			json.Unmarshal(body, &p)
			if p.Optimizer {
				t.Error("the agent says that it takes leases")
			}
			told = p.LeaseError
			time.Sleep(time.Second)
			return answer(200, `{"lease":{"id":"L1","ttl_ms":600000,"cpu_rate":50}}`, "Content-Type", "application/json"), nil
		}}
		cpu := new(fakeCPU)
		a := mustStart(t, fakeOptions(s), cpu.sources())
		time.Sleep(2 * time.Minute)
		if err := a.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if slices.Contains(cpu.hz, 50) || !strings.Contains(told, "PROFILER_OPTIMIZER_ENABLED") {
			t.Errorf("windows at %v, told %q", cpu.hz, told)
		}
	})
	t.Setenv("PROFILER_OPTIMIZER_ENABLED", "maybe")
	if _, err := Start(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), "PROFILER_OPTIMIZER_ENABLED") {
		t.Errorf("maybe: %v", err)
	}
}

// TestDoTask: what a server wants to know once.
func TestDoTask(t *testing.T) {
	kind, body := doTask(t.Context(), task{Kind: "goroutines", Full: true})
	var s live.Snapshot
	if err := json.Unmarshal(body, &s); kind != "application/json" || err != nil || s.Total == 0 || s.Detail != live.Full || len(s.Groups) == 0 {
		t.Errorf("goroutines: %s, %+v, %v", kind, s, err)
	}
	kind, body = doTask(t.Context(), task{Kind: "trace", Seconds: 0.1})
	if kind != "application/octet-stream" || !bytes.HasPrefix(body, []byte("go 1.")) {
		t.Errorf("trace: %s, %.20q", kind, body)
	}
	for _, seconds := range []float64{0, -1, 61} {
		if kind, body = doTask(t.Context(), task{Kind: "trace", Seconds: seconds}); kind != "text/plain" || !strings.Contains(string(body), "at most 60") {
			t.Errorf("trace of %v s: %s, %s", seconds, kind, body)
		}
	}
	if kind, _ = doTask(t.Context(), task{Kind: "reboot"}); kind != "" {
		t.Errorf("reboot: %s", kind)
	}
	if err := trace.Start(io.Discard); err != nil {
		t.Skip("the tests themselves are traced: ", err)
	}
	defer trace.Stop()
	if kind, body = doTask(t.Context(), task{Kind: "trace", Seconds: 1}); kind != "text/plain" || !strings.Contains(string(body), "runs already") {
		t.Errorf("beside another trace: %s, %s", kind, body)
	}
}

// TestTraceEnds: with its context, and at its bound.
func TestTraceEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if b, err := takeTrace(ctx, 60); err != nil || len(b) == 0 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	w := &traceBuffer{full: make(chan struct{})}
	chunk := make([]byte, 1<<20)
	for range maxTrace >> 20 {
		if _, err := w.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		if _, err := w.Write(chunk); !errors.Is(err, errTraceFull) {
			t.Errorf("past the bound: %v", err)
		}
	}
	<-w.full
	if w.buf.Len() != maxTrace {
		t.Errorf("%d bytes kept", w.buf.Len())
	}
}

// TestKeyFile: an agent's key is the file's, made where it is missing.
func TestKeyFile(t *testing.T) {
	file := t.TempDir() + "/keys/agent.pem"
	key := func(o Options) string {
		o.Server, o.HTTPClient, o.Types, o.Logger, o.SpoolBytes = "http://server", &http.Client{Transport: new(fakeServer)}, Runtime, quiet(), -1
		a, err := Start(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Stop(t.Context())
		return a.Status().KeyID
	}
	one := key(Options{KeyFile: file})
	t.Setenv("QUANTRA_KEY_FILE", file)
	if two := key(Options{}); one != two || len(one) != 43 {
		t.Errorf("keys %q and %q of one file", one, two)
	}
	t.Setenv("QUANTRA_KEY_FILE", "")
	if a, b := key(Options{}), key(Options{}); a == b || a == one {
		t.Errorf("keys in memory %q and %q", a, b)
	}
	if _, err := Start(t.Context(), Options{KeyFile: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "Options.KeyFile") {
		t.Errorf("a folder as key: %v", err)
	}
}
