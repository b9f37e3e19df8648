package fleet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a fleet and its routes, without sockets: so it may live in a bubble of virtual time.
type rig struct {
	*Fleet
	t       testing.TB
	agents  *http.ServeMux
	readers http.Handler
}

func newRig(t testing.TB, o Options) *rig {
	t.Helper()
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	f, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{Fleet: f, t: t, agents: http.NewServeMux(), readers: f.Handler()}
	f.Register(r.agents)
	return r
}

// reply is what was answered, and when.
type reply struct {
	status int
	code   string // of an error
	text   string
	header http.Header
	body   []byte
	took   time.Duration

	Lease *struct {
		ID         string
		TTL        int64 `json:"ttl_ms"`
		GOGC       *int64
		GOMEMLIMIT *int64
	}
	Tasks []struct {
		ID, Kind string
		Full     *bool
		Seconds  int
	}
}

// send is one request to a handler. header is name, value pairs.
func send(ctx context.Context, h http.Handler, method, path, body string, header ...string) reply {
	r := httptest.NewRequest(method, path, strings.NewReader(body)).WithContext(ctx)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	start := time.Now()
	h.ServeHTTP(w, r)
	out := reply{status: w.Code, header: w.Header(), body: w.Body.Bytes(), took: time.Since(start)}
	var e struct{ Error, Code, Message string }
	if strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
		if err := json.Unmarshal(out.body, &e); err != nil {
			panic(fmt.Sprintf("%s: answer %q: %v", path, out.body, err))
		}
		json.Unmarshal(out.body, &out)
	}
	out.code, out.text = e.Code, e.Error+e.Message
	return out
}

// says is a poll's body: a sound report with changes.
func says(change map[string]any) string {
	m := map[string]any{
		"service": "checkout", "version": "v1", "instance": "a", "region": "local", "labels": map[string]string{"env": "test"},
		"agent": "quantra-agent/1", "go": "go1.26.8", "os": "linux/amd64", "pid": 4711, "started": "2026-11-25T10:00:00Z",
		"settings": map[string]any{"gogc": 100, "gomemlimit": int64(math.MaxInt64), "gomaxprocs": 2, "cpu_rate": 100},
		"lease":    "", "lease_error": "", "optimizer": true, "status": map[string]any{"cpu_percent": 0.5},
	}
	maps.Copy(m, change)
	b, err := json.Marshal(m)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func (r *rig) poll(wait string, change map[string]any, header ...string) reply {
	return send(context.Background(), r.agents, "POST", "/api/v1/agents/poll?wait="+wait, says(change), header...)
}

// polling starts a poll, and returns when it waits.
func (r *rig) polling(wait string, change map[string]any, header ...string) <-chan reply {
	out := make(chan reply, 1)
	go func() { out <- r.poll(wait, change, header...) }()
	synctest.Wait()
	return out
}

func (r *rig) ask(method, path, body string, header ...string) reply {
	return send(context.Background(), r.readers, method, ReaderPath+path, body, header...)
}

func (r *rig) one() Agent {
	r.t.Helper()
	all := r.Agents("", "")
	if len(all) != 1 {
		r.t.Fatalf("%d agents are known, want 1: %+v", len(all), all)
	}
	return all[0]
}

func num(n int64) *int64 { return &n }

var checkout = Target{Service: "checkout", Instance: "a"}

func (r *rig) lease(s Settings, ttl time.Duration) Lease {
	r.t.Helper()
	l, err := r.Lease(context.Background(), checkout, s, ttl)
	if err != nil {
		r.t.Fatal(err)
	}
	return l
}

// bubble runs f in virtual time.
func bubble(t *testing.T, f func(t *testing.T)) { synctest.Test(t, f) }

func TestPollWaits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Options{})
		got := r.poll("30s", nil)
		if got.status != 200 || got.took != 30*time.Second || got.Lease != nil || got.Tasks != nil {
			t.Errorf("%d after %v: %s", got.status, got.took, got.body)
		}
		if got := r.poll("", nil); got.status != 200 || got.took != 0 {
			t.Errorf("without wait: %d after %v", got.status, got.took)
		}
		a := r.one()
		if a.Service != "checkout" || a.Instance != "a" || a.Labels["env"] != "test" || *a.Settings.GOGC != 100 || !a.Optimizer || string(a.Status) != `{"cpu_percent":0.5}` || a.PID != 4711 {
			t.Errorf("%+v", a)
		}
		if !a.Online || a.Polling || a.Granted != nil {
			t.Errorf("online %v, polling %v, granted %v", a.Online, a.Polling, a.Granted)
		}
	})
}

// TestLeaseWakesPoll: a lease is told at once, in force when the agent says so, and prolonged before half of the hold is over, until its end.
func TestLeaseWakesPoll(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Options{})
		p := r.polling("60s", nil)
		time.Sleep(7 * time.Second)
		l := r.lease(Settings{GOGC: num(200)}, 10*time.Minute)
		got := <-p
		if got.took != 7*time.Second || got.Lease == nil || got.Lease.ID != l.ID || got.Lease.TTL != 180_000 || *got.Lease.GOGC != 200 || got.Lease.GOMEMLIMIT != nil {
			t.Fatalf("after %v: %s", got.took, got.body)
		}
		if g := r.one().Granted; g == nil || g.InForce || g.ID != l.ID {
			t.Errorf("before the agent says so: %+v", g)
		}
		// The agent follows it. 0.4 of 3 min is 72 s: a poll of 60 s ends before, the next is answered at 72.
		follows := map[string]any{"lease": l.ID}
		if got := r.poll("60s", follows); got.took != time.Minute || got.Lease == nil || got.Lease.TTL != 180_000 {
			t.Fatalf("after %v: %s", got.took, got.body)
		}
		if g := r.one().Granted; !g.InForce {
			t.Errorf("the agent follows it: %+v", g)
		}
		ended := false
		for start := time.Now(); !ended; {
			got := r.poll("60s", follows)
			rest := time.Until(l.Expires)
			if got.Lease == nil {
				if rest != 0 || got.took == 0 && time.Since(start) < 5*time.Minute {
					t.Errorf("ended with %v left", rest)
				}
				ended = true
				break
			}
			if want := min(3*time.Minute, rest); time.Duration(got.Lease.TTL)*time.Millisecond != want {
				t.Fatalf("ttl %d ms with %v left", got.Lease.TTL, rest)
			}
		}
		if g := r.one().Granted; g != nil {
			t.Errorf("its time is over: %+v", g)
		}
	})
}

// TestProlonged: where polls are longer than part of the hold, the answer comes in time all the same.
func TestProlonged(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Options{Hold: 20 * time.Second})
		r.poll("0s", nil)
		l := r.lease(Settings{GOGC: num(200)}, time.Minute)
		got := r.poll("0s", nil)
		if got.Lease.TTL != 20_000 {
			t.Fatalf("%s", got.body)
		}
		time.Sleep(3 * time.Second)
		follows := map[string]any{"lease": l.ID}
		if got := r.poll("60s", follows); got.took != 5*time.Second || got.Lease == nil || got.Lease.TTL != 20_000 {
			t.Errorf("after %v of the 5 that are left of 8 (half is 10): %s", got.took, got.body)
		}
		if got := r.poll("60s", follows); got.took != 8*time.Second {
			t.Errorf("after %v, want 8", got.took)
		}
		// With no more than the hold left nothing is prolonged: the poll ends with the lease.
		time.Sleep(27 * time.Second) // 43 of 60
		if got := r.poll("60s", follows); got.took != 0 || got.Lease.TTL != 17_000 {
			t.Fatalf("%v: %s", got.took, got.body)
		}
		if got := r.poll("60s", follows); got.took != 17*time.Second || got.Lease != nil {
			t.Errorf("at its end: after %v: %s", got.took, got.body)
		}
	})
}

// TestLeaseOfTheSame: the same settings prolong the lease, so that the agent goes on with it, but not one that it has refused or that
// ended while that was recorded.
func TestLeaseOfTheSame(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var during func()
		r := newRig(t, Options{Hold: 20 * time.Second, Record: func(context.Context, Event) error {
			if during != nil {
				during()
			}
			return nil
		}})
		r.poll("0s", nil)
		l := r.lease(Settings{GOGC: num(200)}, 10*time.Second)
		r.poll("0s", nil)
		time.Sleep(4 * time.Second)
		p := r.polling("60s", map[string]any{"lease": l.ID})
		if again := r.lease(Settings{GOGC: num(200)}, time.Minute); again.ID != l.ID || !again.InForce || again.Expires.Sub(l.Expires) != 54*time.Second {
			t.Errorf("%+v, then %+v", l, again)
		}
		if got := <-p; got.Lease == nil || got.Lease.ID != l.ID || got.Lease.TTL != 20_000 || got.took > 5*time.Second {
			t.Errorf("after %v, before its old end: %s", got.took, got.body)
		}
		if other := r.lease(Settings{GOGC: num(200), MaxProcs: num(2)}, time.Minute); other.ID == l.ID {
			t.Error("other settings prolong it")
		}
		watch := r.lease(Settings{}, time.Minute)
		if got := r.poll("0s", map[string]any{"lease": l.ID}); got.Lease == nil || got.Lease.ID != watch.ID || got.Lease.GOGC != nil {
			t.Errorf("without settings: %s", got.body)
		}
		r.poll("0s", map[string]any{"lease_error": "no"})
		if again := r.lease(Settings{}, time.Minute); again.ID == watch.ID {
			t.Error("what the agent has refused is prolonged")
		}
		during = func() {
			during = nil
			if err := r.Release(t.Context(), checkout); err != nil {
				t.Error(err)
			}
		}
		if _, err := r.Lease(t.Context(), checkout, Settings{}, time.Minute); !errors.Is(err, ErrUnavailable) || r.one().Granted != nil {
			t.Errorf("released while it was prolonged: %v", err)
		}
	})
}

// TestShortLease lasts no longer than it was given.
func TestShortLease(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Options{})
		r.poll("0s", nil)
		l := r.lease(Settings{MaxProcs: num(1)}, time.Second)
		if got := r.poll("30s", nil); got.Lease == nil || got.Lease.TTL != 1000 {
			t.Fatalf("%s", got.body)
		}
		if got := r.poll("30s", map[string]any{"lease": l.ID}); got.took != time.Second || got.Lease != nil {
			t.Errorf("after %v: %s", got.took, got.body)
		}
	})
}

// TestReplaceAndRelease: another lease takes the place of the one before, and none is told as at once.
func TestReplaceAndRelease(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Options{})
		r.poll("0s", nil)
		first := r.lease(Settings{GOGC: num(200)}, time.Hour)
		r.poll("0s", nil)
		p := r.polling("30s", map[string]any{"lease": first.ID})
		second := r.lease(Settings{GOGC: num(300)}, time.Hour)
		if got := <-p; got.took != 0 || got.Lease == nil || got.Lease.ID != second.ID || *got.Lease.GOGC != 300 {
			t.Fatalf("after %v: %s", got.took, got.body)
		}
		p = r.polling("30s", map[string]any{"lease": second.ID})
		if err := r.Release(t.Context(), checkout); err != nil {
			t.Fatal(err)
		}
		if got := <-p; got.took != 0 || got.Lease != nil {
			t.Fatalf("released: after %v: %s", got.took, got.body)
		}
		if err := r.Release(t.Context(), checkout); err != nil {
			t.Errorf("a second time: %v", err)
		}
		if got := r.poll("30s", nil); got.took != 30*time.Second {
			t.Errorf("nothing to say, and it says it after %v", got.took)
		}
	})
}

// TestUnknownLease: an agent that follows what this server never gave (it was started anew) is told so, once, then without haste.
func TestUnknownLease(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Options{})
		follows := map[string]any{"lease": "of-another-life"}
		var took []time.Duration
		for range 8 {
			got := r.poll("60s", follows)
			if got.Lease != nil || got.status != 200 {
				t.Fatalf("%d %s", got.status, got.body)
			}
			took = append(took, got.took/time.Second)
		}
		if want := "[0 1 2 4 8 16 30 30]"; fmt.Sprint(toInts(took)) != want {
			t.Errorf("answers after %v s, want %s", toInts(took), want)
		}
	})
}

func toInts(ds []time.Duration) (out []int64) {
	for _, d := range ds {
		out = append(out, int64(d))
	}
	return out
}

// TestRefusedLease is shown with its reason and not sent again; the next lease is.
func TestRefusedLease(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Options{})
		r.poll("0s", nil)
		r.lease(Settings{GOGC: num(10)}, time.Hour)
		if got := r.poll("0s", nil); got.Lease == nil {
			t.Fatalf("%s", got.body)
		}
		says := map[string]any{"lease_error": "gogc 10: too low for this heap"}
		if got := r.poll("30s", says); got.took != 30*time.Second || got.Lease != nil {
			t.Errorf("a refused lease is sent again: after %v: %s", got.took, got.body)
		}
		if g := r.one().Granted; g == nil || g.Refused != "gogc 10: too low for this heap" || g.InForce {
			t.Errorf("%+v", g)
		}
		next := r.lease(Settings{GOGC: num(400)}, time.Hour)
		if got := r.poll("30s", says); got.took != 0 || got.Lease == nil || got.Lease.ID != next.ID {
			t.Fatalf("the next: after %v: %s", got.took, got.body)
		}
		// Its answer was lost: the error is still that of the one before. It is told once more before it counts as refused.
		if got := r.poll("30s", says); got.took != time.Second || got.Lease == nil || got.Lease.ID != next.ID {
			t.Fatalf("told again: after %v: %s", got.took, got.body)
		}
		if got := r.poll("0s", map[string]any{"lease": next.ID}); got.Lease == nil {
			t.Fatalf("%s", got.body)
		}
		if g := r.one().Granted; g.Refused != "" || !g.InForce {
			t.Errorf("%+v", g)
		}
		// Ended by the agent's guard.
		if got := r.poll("0s", map[string]any{"lease_error": "the collector takes 40 % of the processor"}); got.Lease != nil {
			t.Errorf("it was ended by the agent and is sent again: %s", got.body)
		}
		if g := r.one().Granted; !strings.Contains(g.Refused, "40 %") {
			t.Errorf("%+v", g)
		}
	})
}

// TestRefusedForTheSameReason: the same words twice are a refusal too, in the end.
func TestRefusedForTheSameReason(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Options{})
		says := map[string]any{"lease_error": "no"}
		r.poll("0s", says)
		r.lease(Settings{GOGC: num(10)}, time.Hour)
		n := 0
		for range 5 {
			if r.poll("5s", says).Lease != nil {
				n++
			}
		}
		if g := r.one().Granted; n != 2 || g == nil || g.Refused != "no" {
			t.Errorf("sent %d times, want 2: %+v", n, g)
		}
	})
}

func TestOptimizerOff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Options{})
		r.poll("0s", nil)
		r.lease(Settings{GOGC: num(200)}, time.Hour)
		if got := r.poll("30s", map[string]any{"optimizer": false}); got.Lease != nil || got.took != 30*time.Second {
			t.Errorf("after %v: %s", got.took, got.body)
		}
		if g := r.one().Granted; g == nil || !strings.Contains(g.Refused, "PROFILER_OPTIMIZER_ENABLED") {
			t.Errorf("%+v", g)
		}
		_, err := r.Lease(t.Context(), checkout, Settings{GOGC: num(200)}, time.Hour)
		if !errors.Is(err, ErrRefused) {
			t.Errorf("a lease for it: %v", err)
		}
		if got := r.ask("POST", "/lease", `{"service":"checkout","instance":"a","for":"10m","gogc":200}`); got.status != 409 || got.code != "refused" {
			t.Errorf("%d %s", got.status, got.body)
		}
	})
}

// TestReplacedPoll: a newer poll ends the one before, which takes no tasks with it.
func TestReplacedPoll(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Options{})
		first := r.polling("60s", nil)
		time.Sleep(3 * time.Second)
		second := r.polling("60s", nil)
		if got := <-first; got.status != 200 || got.took != 3*time.Second || got.Tasks != nil || got.Lease != nil {
			t.Errorf("%d after %v: %s", got.status, got.took, got.body)
		}
		if !r.one().Polling {
			t.Error("the newer one does not count")
		}
		go r.Goroutines(t.Context(), checkout, false)
		synctest.Wait()
		if got := <-second; len(got.Tasks) != 1 {
			t.Errorf("%s", got.body)
		}
		time.Sleep(time.Minute) // the task's time is over
	})
}

// TestTwoUnderOneName: they end each other's polls, and are told to slow down and why.
func TestTwoUnderOneName(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Options{})
		n := 0
		for range 100 {
			got := r.poll("0s", nil)
			if got.status == 200 {
				n++
			} else if got.status != 429 || got.header.Get("Retry-After") != "5" || !strings.Contains(got.text, "two processes") {
				t.Fatalf("%d %s", got.status, got.body)
			}
		}
		if n != pollBurst {
			t.Errorf("%d of 100 at once, want %d", n, pollBurst)
		}
		time.Sleep(10 * time.Second)
		if got := r.poll("0s", nil); got.status != 200 {
			t.Errorf("after a while: %d", got.status)
		}
	})
}

func TestOfflineAndForgotten(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Options{})
		r.poll("0s", nil)
		r.lease(Settings{GOGC: num(200)}, 24*time.Hour)
		time.Sleep(3*time.Minute - time.Second)
		if !r.one().Online {
			t.Error("offline before its time")
		}
		time.Sleep(time.Second)
		if a := r.one(); a.Online || a.Granted == nil {
			t.Errorf("%+v", a)
		}
		if _, err := r.Lease(t.Context(), checkout, Settings{GOGC: num(200)}, time.Hour); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "3m0s ago") {
			t.Errorf("a lease for it: %v", err)
		}
		if _, err := r.Goroutines(t.Context(), checkout, false); !errors.Is(err, ErrUnavailable) {
			t.Errorf("a task for it: %v", err)
		}
		time.Sleep(time.Hour)
		if all := r.Agents("", ""); len(all) != 0 {
			t.Errorf("not forgotten: %+v", all)
		}
		if s := r.stats(); s != (stats{}) {
			t.Errorf("something stays: %+v", s)
		}
		if _, err := r.Goroutines(t.Context(), checkout, false); !errors.Is(err, ErrNotFound) {
			t.Errorf("a task for it: %v", err)
		}
	})
}

// TestGone: an agent whose connection ends waits no more.
func TestGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Options{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan reply, 1)
		go func() { done <- send(ctx, r.agents, "POST", "/api/v1/agents/poll?wait=60s", says(nil)) }()
		synctest.Wait()
		if !r.one().Polling {
			t.Fatal("it does not wait")
		}
		cancel()
		<-done
		if a := r.one(); a.Polling || !a.Online {
			t.Errorf("%+v", a)
		}
	})
}

func TestGoroutines(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Options{})
		p := r.polling("60s", nil)
		type answer struct {
			raw json.RawMessage
			err error
		}
		out := make(chan answer, 1)
		go func() {
			raw, err := r.Goroutines(t.Context(), Target{Service: "checkout"}, true)
			out <- answer{raw, err}
		}()
		got := <-p
		if got.took != 0 || len(got.Tasks) != 1 || got.Tasks[0].Kind != "goroutines" || got.Tasks[0].Full == nil || !*got.Tasks[0].Full {
			t.Fatalf("after %v: %s", got.took, got.body)
		}
		id := got.Tasks[0].ID
		if got := r.poll("0s", nil); got.Tasks != nil {
			t.Errorf("handed out twice: %s", got.body)
		}
		const snapshot = `{"total":1,"groups":[]}`
		for range 2 { // the second finds nobody
			got = send(t.Context(), r.agents, "POST", "/api/v1/agents/results?task="+id, snapshot, "Content-Type", "application/json")
			if a := <-oneOr(out, got.status == 200); got.status == 200 && (a.err != nil || string(a.raw) != snapshot) {
				t.Errorf("%s, %v", a.raw, a.err)
			}
		}
		if got.status != 404 || got.code != "not_found" {
			t.Errorf("a second time: %d %s", got.status, got.body)
		}
		if s := r.stats(); s.tasks != 0 || s.resultBytes != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// oneOr is c, or a channel that says nothing of note.
func oneOr[T any](c chan T, wait bool) chan T {
	if wait {
		return c
	}
	closed := make(chan T)
	close(closed)
	return closed
}

// TestTaskOutcomes is how a task may end that brings nothing.
func TestTaskOutcomes(t *testing.T) {
	result := func(kind, body string) func(*rig, string) reply {
		return func(r *rig, id string) reply {
			return send(context.Background(), r.agents, "POST", "/api/v1/agents/results?task="+id, body, "Content-Type", kind)
		}
	}
	for _, c := range []struct {
		name   string
		answer func(r *rig, id string) reply // nil says nothing
		took   time.Duration
		err    error
		text   string
		status int // of the agent's answer
	}{
		{"silence", nil, 18 * time.Second, ErrTimeout, "within 18s", 0},
		{"cannot", result("text/plain; charset=utf-8", "tracing is on\nalready"), 0, ErrFailed, `tracing is on\nalready`, 200},
		{"not a trace", result("application/octet-stream", "hello"), 0, ErrFailed, "does not begin", 422},
		{"another kind", result("application/json", "{}"), 0, ErrFailed, "application/json", 422},
		{"no kind", result("", "{}"), 18 * time.Second, ErrTimeout, "", 415},
		{"encoded", func(r *rig, id string) reply {
			return send(context.Background(), r.agents, "POST", "/api/v1/agents/results?task="+id, "x", "Content-Type", "text/plain", "Content-Encoding", "gzip")
		}, 18 * time.Second, ErrTimeout, "", 415},
		{"too long", func(r *rig, id string) reply {
			req := httptest.NewRequest("POST", "/api/v1/agents/results?task="+id, strings.NewReader(""))
			req.ContentLength = maxResult + 1
			req.Header.Set("Content-Type", "application/octet-stream")
			w := httptest.NewRecorder()
			r.agents.ServeHTTP(w, req)
			return reply{status: w.Code}
		}, 18 * time.Second, ErrTimeout, "", 413},
		{"too long, unsaid", func(r *rig, id string) reply {
			req := httptest.NewRequest("POST", "/api/v1/agents/results?task="+id, io.LimitReader(zeros{}, maxResult+1))
			req.ContentLength = -1
			req.Header.Set("Content-Type", "application/octet-stream")
			w := httptest.NewRecorder()
			r.agents.ServeHTTP(w, req)
			return reply{status: w.Code}
		}, 18 * time.Second, ErrTimeout, "", 413},
		{"another tenant's", func(r *rig, id string) reply {
			return send(context.Background(), r.agents, "POST", "/api/v1/agents/results?task="+id, "go 1.26 trace", "Content-Type", "application/octet-stream", "X-Scope-OrgID", "other")
		}, 18 * time.Second, ErrTimeout, "", 404},
		{"started anew", func(r *rig, id string) reply { return r.poll("0s", map[string]any{"pid": 4712}) }, 0, ErrUnavailable, "started anew", 200},
		{"server stops", func(r *rig, id string) reply { r.Close(); return reply{} }, 0, ErrUnavailable, "stopping", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				r := newRig(t, Options{})
				p := r.polling("60s", nil)
				start := time.Now()
				out := make(chan error, 1)
				go func() {
					_, err := r.Trace(t.Context(), checkout, 3)
					out <- err
				}()
				got := <-p
				if len(got.Tasks) != 1 || got.Tasks[0].Kind != "trace" || got.Tasks[0].Seconds != 3 {
					t.Fatalf("%s", got.body)
				}
				if c.answer != nil {
					if got := c.answer(r, got.Tasks[0].ID); got.status != c.status {
						t.Errorf("the agent is answered %d, want %d: %s", got.status, c.status, got.body)
					}
				}
				if err := <-out; !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.text) || time.Since(start) != c.took {
					t.Errorf("after %v: %v", time.Since(start), err)
				}
				if s := r.stats(); s.tasks != 0 || s.resultBytes != 0 || r.traces != 0 {
					t.Errorf("something stays: %+v, %d traces", s, r.traces)
				}
			})
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// TestAskerGone: who waits no more leaves nothing behind, before the task was handed out and after.
func TestAskerGone(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Options{})
		r.poll("0s", nil)
		for _, handed := range []bool{false, true} {
			ctx, cancel := context.WithCancel(t.Context())
			out := make(chan error, 1)
			go func() {
				_, err := r.Trace(ctx, checkout, 1)
				out <- err
			}()
			synctest.Wait()
			id := ""
			if handed {
				id = r.poll("0s", nil).Tasks[0].ID
			}
			cancel()
			if err := <-out; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			if got := r.poll("0s", nil); got.Tasks != nil {
				t.Errorf("it is asked all the same: %s", got.body)
			}
			if got := send(t.Context(), r.agents, "POST", "/api/v1/agents/results?task="+id, "go 1.26 trace", "Content-Type", "application/octet-stream"); got.status != 404 {
				t.Errorf("%d", got.status)
			}
		}
	})
}

// TestTaskBounds: an agent, the traces of all, and the tasks of all have their bounds.
func TestTaskBounds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Options{MaxTasks: 10})
		for _, in := range []string{"a", "b"} {
			r.poll("0s", map[string]any{"instance": in})
		}
		ctx, cancel := context.WithCancel(t.Context())
		var group sync.WaitGroup
		try := func(instance string, trace bool) (err error) {
			out := make(chan error, 1)
			group.Go(func() {
				at := Target{Service: "checkout", Instance: instance}
				if trace {
					_, err := r.Trace(ctx, at, 1)
					out <- err
				} else {
					_, err := r.Goroutines(ctx, at, false)
					out <- err
				}
			})
			synctest.Wait()
			select {
			case err := <-out:
				return err
			default:
				return nil
			}
		}
		for i := range 4 {
			if err := try("a", true); err != nil {
				t.Fatalf("trace %d: %v", i, err)
			}
		}
		if err := try("b", true); !errors.Is(err, ErrOverloaded) || !strings.Contains(err.Error(), "4 traces") {
			t.Errorf("trace 5: %v", err)
		}
		for i := range 4 {
			if err := try("a", false); err != nil {
				t.Fatalf("task %d: %v", i, err)
			}
		}
		if err := try("a", false); !errors.Is(err, ErrOverloaded) || !strings.Contains(err.Error(), "8 tasks") {
			t.Errorf("task 9 of one: %v", err)
		}
		for range 2 {
			if err := try("b", false); err != nil {
				t.Fatal(err)
			}
		}
		if err := try("", false); !errors.Is(err, ErrOverloaded) || !strings.Contains(err.Error(), "10 tasks") {
			t.Errorf("task 11 of all: %v", err)
		}
		cancel()
		group.Wait()
	})
}

// TestResultBytes: what results hold is bounded over all of them, and given back.
func TestResultBytes(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Options{ResultBytes: 100 << 10})
		r.poll("0s", nil)
		out := make(chan error, 1)
		go func() {
			_, err := r.Trace(t.Context(), checkout, 1)
			out <- err
		}()
		synctest.Wait()
		id := r.poll("0s", nil).Tasks[0].ID
		post := func(n int) reply {
			return send(t.Context(), r.agents, "POST", "/api/v1/agents/results?task="+id, "go 1.26 trace"+strings.Repeat("x", n), "Content-Type", "application/octet-stream")
		}
		if got := post(200 << 10); got.status != 429 || got.header.Get("Retry-After") == "" {
			t.Errorf("%d %s", got.status, got.body)
		}
		if s := r.stats(); s.resultBytes != 0 {
			t.Errorf("%d bytes are still held", s.resultBytes)
		}
		if got := post(10 << 10); got.status != 200 { // it may be sent again
			t.Errorf("%d %s", got.status, got.body)
		}
		if err := <-out; err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if s := r.stats(); s.resultBytes != 0 {
			t.Errorf("%d bytes are still held", s.resultBytes)
		}
	})
}

// TestClose ends polls at once with 503, and what comes after it.
func TestClose(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Options{})
		p := r.polling("60s", nil)
		r.Close()
		r.Close()
		for _, got := range []reply{<-p, r.poll("60s", nil)} {
			if got.status != 503 || got.code != "unavailable" || got.header.Get("Retry-After") != "5" || got.took != 0 {
				t.Errorf("%d after %v: %s", got.status, got.took, got.body)
			}
		}
		if _, err := r.Lease(t.Context(), checkout, Settings{GOGC: num(200)}, time.Hour); !errors.Is(err, ErrUnavailable) {
			t.Error(err)
		}
	})
}

// TestRefusedRequests is every way in which an agent's request may be wrong, with what it is told.
func TestRefusedRequests(t *testing.T) {
	poll := "/api/v1/agents/poll"
	long := strings.Repeat("x", 3000)
	for _, c := range []struct {
		name, method, path, body string
		header                   []string
		status                   int
		code, text               string
	}{
		{"GET", "GET", poll, "", nil, 405, "method", "POST"},
		{"GET results", "GET", "/api/v1/agents/results", "", nil, 405, "method", "POST"},
		{"a web page's", "POST", poll, says(nil), []string{"Sec-Fetch-Site", "cross-site"}, 403, "cross_origin", "origin"},
		{"results of a web page", "POST", "/api/v1/agents/results?task=x", "", []string{"Origin", "http://evil.example"}, 403, "cross_origin", "origin"},
		{"tenant", "POST", poll, says(nil), []string{"X-Scope-OrgID", "a/b"}, 400, "tenant", "'/' at 1"},
		{"wait", "POST", poll + "?wait=61s", says(nil), nil, 400, "wait", "0s to 1m0s"},
		{"wait is no time", "POST", poll + "?wait=soon", says(nil), nil, 400, "wait", `"soon"`},
		{"wait below 0", "POST", poll + "?wait=-1s", says(nil), nil, 400, "wait", "-1s"},
		{"empty", "POST", poll, "", nil, 400, "json", "empty"},
		{"not JSON", "POST", poll, `{"service": checkout}`, nil, 400, "json", "at byte 13"},
		{"cut", "POST", poll, `{"service": "a", `, nil, 400, "json", "at byte 17: it ends before"},
		{"two", "POST", poll, says(nil) + says(nil), nil, 400, "json", "something follows"},
		{"array", "POST", poll, `["service"]`, nil, 400, "json", "object"},
		{"null", "POST", poll, `null`, nil, 400, "json", "object"},
		{"wrong type", "POST", poll, says(map[string]any{"settings": map[string]any{"gogc": "x"}}), nil, 400, "json", "settings.gogc cannot be a string"},
		{"labels", "POST", poll, says(map[string]any{"labels": 7}), nil, 400, "json", "labels cannot be a number"},
		{"started", "POST", poll, says(map[string]any{"started": "yesterday"}), nil, 400, "json", "yesterday"},
		{"no service", "POST", poll, says(map[string]any{"service": ""}), nil, 400, "agent", "service and instance"},
		{"no instance", "POST", poll, says(map[string]any{"instance": ""}), nil, 400, "agent", "service and instance"},
		{"long service", "POST", poll, says(map[string]any{"service": long}), nil, 400, "agent", "service has 3000 bytes, the limit is 2048"},
		{"long lease", "POST", poll, says(map[string]any{"lease": long}), nil, 400, "agent", "limit is 64"},
		{"long label", "POST", poll, says(map[string]any{"labels": map[string]string{"x": long}}), nil, 400, "agent", "label"},
		{"status", "POST", poll, says(map[string]any{"status": strings.Repeat("x", 70_000)}), nil, 400, "agent", "status has 70002 bytes, the limit is 65536"},
		{"oversize", "POST", poll, says(map[string]any{"x": strings.Repeat("x", maxPoll)}), nil, 413, "too_large", "262144"},
		{"encoded", "POST", poll, says(nil), []string{"Content-Encoding", "gzip"}, 415, "content_encoding", "gzip"},
		{"result for nobody", "POST", "/api/v1/agents/results?task=x", "{}", []string{"Content-Type", "application/json"}, 404, "not_found", "nobody"},
		{"result of none", "POST", "/api/v1/agents/results", "{}", []string{"Content-Type", "application/json"}, 404, "not_found", "nobody"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, Options{})
			got := send(t.Context(), r.agents, c.method, c.path, c.body, c.header...)
			if got.status != c.status || got.code != c.code || !strings.Contains(got.text, c.text) {
				t.Errorf("%d %s %q, want %d %s ...%q...", got.status, got.code, got.text, c.status, c.code, c.text)
			}
			if got.status == 405 && got.header.Get("Allow") != "POST" {
				t.Errorf("Allow: %q", got.header.Get("Allow"))
			}
			if n := len(r.Agents("", "")); n != 0 {
				t.Error("it counts all the same")
			}
		})
	}
}

// TestDoor: Authorize and Verify refuse in their own words, and a task's answer must be of the key that took it.
func TestDoor(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Options{
			Authorize: func(r *http.Request) error {
				if r.Header.Get("X-User") == "mallory" {
					return errors.New("not you")
				}
				return nil
			},
			Verify: func(r *http.Request, body []byte) (string, error) {
				switch k := r.Header.Get("X-Key"); k {
				case "":
					return "", &Refusal{Status: 401, Code: "unsigned", Text: "sign it"}
				case "full":
					return "", &Refusal{Status: 503, Code: "unavailable", Text: "later", RetryAfter: 7 * time.Second}
				case "odd":
					return "", errors.New("odd")
				default:
					return k, nil
				}
			},
		})
		for _, c := range []struct {
			header []string
			status int
			code   string
		}{
			{[]string{"X-User", "mallory", "X-Key", "k"}, 403, "denied"}, {nil, 401, "unsigned"}, {[]string{"X-Key", "full"}, 503, "unavailable"}, {[]string{"X-Key", "odd"}, 401, "signature"},
		} {
			if got := r.poll("0s", nil, c.header...); got.status != c.status || got.code != c.code {
				t.Errorf("%v: %d %s", c.header, got.status, got.body)
			}
		}
		if len(r.Agents("", "")) != 0 {
			t.Fatal("a refused poll counts")
		}
		r.poll("0s", nil, "X-Key", "k")
		if a := r.one(); a.SignedBy != "k" {
			t.Errorf("%+v", a)
		}
		go r.Goroutines(t.Context(), checkout, false)
		synctest.Wait()
		id := r.poll("0s", nil, "X-Key", "k").Tasks[0].ID
		path := "/api/v1/agents/results?task=" + id
		if got := send(t.Context(), r.agents, "POST", path, "{}", "Content-Type", "application/json", "X-Key", "other"); got.status != 403 || got.code != "denied" {
			t.Errorf("of another key: %d %s", got.status, got.body)
		}
		if got := send(t.Context(), r.agents, "POST", path, "{}", "Content-Type", "application/json", "X-Key", "k"); got.status != 200 {
			t.Errorf("of its own: %d %s", got.status, got.body)
		}
	})
}

// TestTenants: one tenant neither sees nor touches what is another's.
func TestTenants(t *testing.T) {
	r := newRig(t, Options{})
	r.poll("0s", nil, "X-Scope-OrgID", "acme")
	r.poll("0s", nil)
	if got := r.ask("GET", "", "", "X-Scope-OrgID", "other"); string(got.body) != "{\"agents\":[]}\n" {
		t.Errorf("%s", got.body)
	}
	lease := `{"service":"checkout","instance":"a","for":"10m","gogc":200}`
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/lease", lease}, {"POST", "/release", `{"service":"checkout","instance":"a"}`},
		{"GET", "/goroutines?service=checkout", ""}, {"GET", "/trace?service=checkout&instance=a&format=raw", ""},
	} {
		if got := r.ask(c.method, c.path, c.body, "X-Scope-OrgID", "other"); got.status != 404 || got.code != "not_found" {
			t.Errorf("%s: %d %s", c.path, got.status, got.body)
		}
	}
	if got := r.ask("POST", "/lease", lease, "X-Scope-OrgID", "acme"); got.status != 200 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if a := r.Agents("acme", "checkout"); len(a) != 1 || a[0].Granted == nil {
		t.Errorf("%+v", a)
	}
	if a := r.one(); a.Granted != nil || a.Tenant != DefaultTenant {
		t.Errorf("%+v", a)
	}
	if a := r.Agents(DefaultTenant, "checkout"); len(a) != 1 {
		t.Errorf("who names no tenant is not the default: %+v", a)
	}
}

// TestRecord: what cannot be recorded is not done, and it is recorded before.
func TestRecord(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var events []string
		var fail error
		var r *rig
		r = newRig(t, Options{Record: func(_ context.Context, e Event) error {
			granted := r.one().Granted != nil // no deadlock, and it has not happened yet
			events = append(events, fmt.Sprintf("%s %s/%s/%s %v granted=%v", e.Kind, e.Tenant, e.Service, e.Instance, e.Seconds, granted))
			if e.ID == "" || e.Time.IsZero() || (e.Kind == "lease") != (e.Settings.GOGC != nil) {
				t.Errorf("%+v", e)
			}
			return fail
		}})
		r.poll("0s", nil)
		r.lease(Settings{GOGC: num(200)}, time.Hour)
		fail = errors.New("disk full")
		if _, err := r.Lease(t.Context(), checkout, Settings{GOGC: num(300)}, time.Hour); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "disk full") {
			t.Errorf("%v", err)
		}
		if err := r.Release(t.Context(), checkout); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%v", err)
		}
		if _, err := r.Trace(t.Context(), Target{Service: "checkout"}, 2); !errors.Is(err, ErrUnavailable) {
			t.Errorf("%v", err)
		}
		if g := r.one().Granted; g == nil || *g.GOGC != 200 {
			t.Errorf("%+v", g)
		}
		if got := r.poll("0s", nil); got.Tasks != nil {
			t.Errorf("%s", got.body)
		}
		fail = nil
		if err := r.Release(t.Context(), checkout); err != nil {
			t.Error(err)
		}
		want := []string{
			"lease default/checkout/a 0 granted=false", "lease default/checkout/a 0 granted=true", "release default/checkout/a 0 granted=true",
			"trace default/checkout/a 2 granted=true", "release default/checkout/a 0 granted=true",
		}
		if fmt.Sprint(events) != fmt.Sprint(want) {
			t.Errorf("%q", events)
		}
	})
}

// TestRecordBy: who asks over HTTP stands in the record, by name or by address; what this program leases itself has nobody's.
func TestRecordBy(t *testing.T) {
	bubble(t, func(t *testing.T) {
		var by []string
		r := newRig(t, Options{Record: func(_ context.Context, e Event) error {
			by = append(by, e.Kind+" "+e.By)
			return nil
		}})
		r.poll("0s", nil)
		lease := `{"service":"checkout","instance":"a","for":"10m","gogc":200`
		r.ask("POST", "/lease", lease+`,"by":"ada"}`)
		r.ask("POST", "/release", `{"service":"checkout","instance":"a","by":"bob"}`)
		r.ask("POST", "/lease", lease+`}`)
		if got := r.ask("POST", "/lease", lease+`,"by":"`+strings.Repeat("x", 201)+`"}`); got.status != 400 {
			t.Errorf("%+v", got)
		}
		if err := r.Release(t.Context(), checkout); err != nil {
			t.Error(err)
		}
		if want := []string{"lease ada", "release bob", "lease 192.0.2.1:1234", "release "}; !slices.Equal(by, want) { // httptest's address
			t.Errorf("%q, want %q", by, want)
		}
	})
}

// TestSettings is what a lease may be.
func TestSettings(t *testing.T) {
	for body, text := range map[string]string{
		`"gogc":9`:  "gogc 9: it must be 10 or more",
		`"gogc":-2`: "gogc -2",
		`"gogc":-1`: "give a gomemlimit",
		`"gogc":-1,"gomemlimit":9223372036854775807`: "give a gomemlimit",
		`"gogc":-1,"gomemlimit":419430400`:           "",
		`"gogc":10`:                                  "",
		`"gomemlimit":4194303`:                       "4 MiB",
		`"gomemlimit":4194304`:                       "",
		`"gomemlimit":9223372036854775807`:           "",
		`"gomemlimit":9223372036854775808`:           "at byte",
		`"gomaxprocs":0`:                             "gomaxprocs 0",
		`"gomaxprocs":10001`:                         "gomaxprocs 10001",
		`"gomaxprocs":10000`:                         "",
		`"cpu_rate":75`:                              "cpu_rate 75",
		`"cpu_rate":0`:                               "",
		`"cpu_rate":200`:                             "",
		`"gogc":200,"for":"999ms"`:                   "1s to 24h",
		`"gogc":200,"for":"24h1s"`:                   "1s to 24h",
		`"gogc":200,"for":""`:                        "as 10m",
		`"gogc":200,"for":7`:                         "at byte",
		`"gogc":200,"instance":""`:                   "instance",
		`"gogc":200,"instance":"b"`:                  `instance "b"`,
		`"gogc":200,"service":""`:                    "service",
		`"gomaxproc":2`:                              `unknown field "gomaxproc"`,
		`"region":"eu"`:                              `unknown field "region"`,
		`"cpu_rate":null`:                            "", // sets nothing: it is watched
	} {
		t.Run(body, func(t *testing.T) {
			r := newRig(t, Options{})
			r.poll("0s", nil)
			got := r.ask("POST", "/lease", `{"service":"checkout","instance":"a","for":"10m",`+body+`}`)
			switch {
			case text == "" && got.status != 200:
				t.Errorf("%d %s", got.status, got.body)
			case text != "" && (got.status != 400 && got.status != 404 || !strings.Contains(got.text, text)):
				t.Errorf("%d %s, want ...%s...", got.status, got.body, text)
			}
			if granted := r.one().Granted != nil; granted != (text == "") {
				t.Errorf("granted: %v", granted)
			}
		})
	}
}

// TestReaders is the readers' routes, with real HTTP.
func TestReaders(t *testing.T) {
	trace := "go 1.26 trace\x00\x00\x00and more"
	f, err := New(Options{
		Logger:    slog.New(slog.DiscardHandler),
		Summarize: func(b []byte) (any, error) { return map[string]int{"bytes": len(b)}, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	f.Register(mux)
	mux.Handle(ReaderPath, f.Handler())
	mux.Handle(ReaderPath+"/", f.Handler())
	srv := httptest.NewServer(mux)
	defer srv.Close()
	defer f.Close()
	do := func(method, path, body string, header ...string) (int, string) {
		req, err := http.NewRequest(method, srv.URL+ReaderPath+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(header); i += 2 {
			req.Header.Set(header[i], header[i+1])
		}
		res, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(b)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var group sync.WaitGroup
	up := make(chan struct{})
	group.Go(func() { // an agent that does what it is asked
		for n := 0; ctx.Err() == nil; n++ {
			wait := "60s"
			if n == 0 {
				wait = "0s"
			}
			req, _ := http.NewRequestWithContext(ctx, "POST", srv.URL+"/api/v1/agents/poll?wait="+wait, strings.NewReader(says(nil)))
			res, err := srv.Client().Do(req)
			if err != nil {
				return
			}
			var got reply
			json.NewDecoder(res.Body).Decode(&got)
			res.Body.Close()
			if n == 0 {
				close(up)
			}
			for _, task := range got.Tasks {
				kind, body := "application/json", `{"total": 3, "groups": []}`
				if task.Kind == "trace" {
					kind, body = "application/octet-stream", trace
				}
				res, err := srv.Client().Post(srv.URL+"/api/v1/agents/results?task="+task.ID, kind, strings.NewReader(body))
				if err != nil {
					return
				}
				res.Body.Close()
			}
		}
	})
	<-up
	for _, c := range []struct {
		method, path, body string
		header             []string
		status             int
		want               string
	}{
		{"GET", "?service=checkout", "", nil, 200, `"instance":"a"`},
		{"GET", "?service=nothing", "", nil, 200, `{"agents":[]}`},
		{"GET", "?servic=checkout", "", nil, 400, `servic\" is not understood`},
		{"GET", "?service=a&service=b", "", nil, 400, `2 times`},
		{"POST", "", "", nil, 405, "GET it"},
		{"GET", "/nothing", "", nil, 404, "docs/api.md"},
		{"GET", "/lease", "", nil, 405, "POST it"},
		{"POST", "/lease", `{"service":"checkout","instance":"a","for":"10m","gogc":200}`, []string{"Sec-Fetch-Site", "cross-site"}, 403, "permission_denied"},
		{"POST", "/lease", `{`, nil, 400, "at byte 1"},
		{"POST", "/lease", `{"x":"` + strings.Repeat("x", maxQuestion) + `"}`, nil, 413, "16384"},
		{"POST", "/lease", `{"service":"checkout","instance":"a","for":"10m","gogc":200}`, nil, 200, `"expires":`},
		{"GET", "", "", nil, 200, `"granted":{"id":`},
		{"POST", "/release", `{"service":"checkout","instance":"a"}`, nil, 200, `{}`},
		{"POST", "/release", `{"service":"checkout","instance":"a"}`, nil, 200, `{}`},
		{"POST", "/release", `{"service":"checkout","instance":"z"}`, nil, 404, "not_found"},
		{"GET", "/goroutines?service=checkout&full=maybe", "", nil, 400, "true or false"},
		{"GET", "/goroutines?service=checkout", "", []string{"Sec-Fetch-Site", "cross-site"}, 403, "permission_denied"},
		{"GET", "/goroutines?service=checkout", "", []string{"Sec-Fetch-Site", "same-origin"}, 200, `{"total": 3, "groups": []}`},
		{"GET", "/goroutines?service=checkout&instance=a&full=true", "", nil, 200, `"total": 3`},
		{"GET", "/goroutines", "", nil, 400, "no service"},
		{"GET", "/goroutines?service=other", "", nil, 404, "no agent of service"},
		{"GET", "/trace?service=checkout&seconds=1", "", nil, 200, fmt.Sprintf(`{"bytes":%d}`, len(trace))},
		{"GET", "/trace?service=checkout&seconds=1&format=raw", "", nil, 200, trace},
		{"GET", "/trace?service=checkout&seconds=31", "", nil, 400, "1 to 30"},
		{"GET", "/trace?service=checkout&seconds=x", "", nil, 400, "1 to 30"},
		{"GET", "/trace?service=checkout&format=svg", "", nil, 400, "summary or raw"},
	} {
		if status, got := do(c.method, c.path, c.body, c.header...); status != c.status || !strings.Contains(got, c.want) {
			t.Errorf("%s %s %.60s: %d %s, want %d ...%s...", c.method, c.path, c.body, status, got, c.status, c.want)
		}
	}
	f.opt.Summarize = nil
	if status, got := do("GET", "/trace?service=checkout", ""); status != 501 || !strings.Contains(got, "format=raw") {
		t.Errorf("%d %s", status, got)
	}
	cancel()
	group.Wait()
}

// TestRoom: agents and what they say are bounded; those that were away longest make room.
func TestRoom(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := newRig(t, Options{MaxAgents: 3})
		poll := func(in string) reply { return r.poll("0s", map[string]any{"instance": in}) }
		for _, in := range []string{"a", "b", "c"} {
			if got := poll(in); got.status != 200 {
				t.Fatalf("%s: %d", in, got.status)
			}
			time.Sleep(time.Second)
		}
		if got := poll("d"); got.status != 429 || got.header.Get("Retry-After") == "" {
			t.Errorf("%d %s", got.status, got.body)
		}
		time.Sleep(4 * time.Minute)
		poll("a")
		if got := poll("d"); got.status != 200 {
			t.Errorf("%d %s", got.status, got.body)
		}
		names := ""
		for _, a := range r.Agents("", "") {
			names += a.Instance
		}
		if names != "acd" {
			t.Errorf("known are %s; b was away longest", names)
		}
	})
	bubble(t, func(t *testing.T) {
		r := newRig(t, Options{MaxBytes: 20_000})
		big := map[string]any{"status": strings.Repeat("x", 15_000)}
		r.poll("0s", big)
		if a := r.one(); len(a.Status) != 15_002 {
			t.Errorf("%d bytes of status", len(a.Status))
		}
		n := 0
		for i := range 20 {
			big["instance"] = fmt.Sprint(i)
			if got := r.poll("0s", big); got.status == 200 {
				n++
			} else if got.status != 429 {
				t.Fatalf("%d %s", got.status, got.body)
			}
		}
		if s := r.stats(); n < 1 || n > 4 || s.bytes > 20_000 {
			t.Errorf("%d more came, %d bytes held", n, s.bytes)
		}
		for range 3 { // an agent's own bytes count once
			if got := r.poll("0s", map[string]any{"status": strings.Repeat("y", 10_000)}); got.status != 200 {
				t.Errorf("%d %s", got.status, got.body)
			}
		}
	})
}

func TestMetrics(t *testing.T) {
	bubble(t, func(t *testing.T) {
		reg := prometheus.NewRegistry()
		r := newRig(t, Options{Registry: reg})
		p := r.polling("60s", nil)
		r.lease(Settings{GOGC: num(200)}, time.Hour)
		<-p
		p = r.polling("60s", map[string]any{"lease_error": "no"})
		const want = `
# HELP quantra_fleet_agents_online Agents that were heard of lately.
# TYPE quantra_fleet_agents_online gauge
quantra_fleet_agents_online 1
# HELP quantra_fleet_lease_events_total What became of leases: granted, prolonged, refused by the agent, replaced, released, expired, or forgotten with the agent.
# TYPE quantra_fleet_lease_events_total counter
quantra_fleet_lease_events_total{event="granted"} 1
quantra_fleet_lease_events_total{event="refused"} 1
# HELP quantra_fleet_leases Leases whose time is not over.
# TYPE quantra_fleet_leases gauge
quantra_fleet_leases 1
# HELP quantra_fleet_polls Polls that wait for an answer.
# TYPE quantra_fleet_polls gauge
quantra_fleet_polls 1
`
		if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "quantra_fleet_agents_online", "quantra_fleet_lease_events_total", "quantra_fleet_leases", "quantra_fleet_polls"); err != nil {
			t.Error(err)
		}
		r.Close()
		<-p
		if _, err := New(Options{Registry: reg}); err == nil {
			t.Error("metrics registered twice, and nobody says so")
		}
	})
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{MaxAgents: -1}, {Hold: -1}, {MaxBytes: -1}, {TaskTimeout: -1}} {
		if _, err := New(o); err == nil || !strings.Contains(err.Error(), "below 0") {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// TestSlowSender: a body that never ends ends in 408, and one that nobody wants does not keep its connection.
func TestSlowSender(t *testing.T) {
	f, err := New(Options{ReadTimeout: 50 * time.Millisecond, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	f.Register(mux)
	mux.Handle(ReaderPath+"/", f.Handler())
	srv := httptest.NewServer(mux)
	defer srv.Close()
	for path, want := range map[string]string{
		"/api/v1/agents/poll":           "HTTP/1.1 408 ",
		"/api/v1/agents/lease":          "HTTP/1.1 408 ",
		"/api/v1/agents/results?task=x": "HTTP/1.1 404 ",
	} {
		conn, err := net.Dial("tcp", srv.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 10000\r\n\r\n{", path)
		answer, err := io.ReadAll(conn) // the server ends the connection: the rest of the body is not to be had
		if err != nil || !bytes.HasPrefix(answer, []byte(want)) {
			t.Errorf("%s: %q, %v", path, answer, err)
		}
		conn.Close()
	}
}

// TestRace has agents, readers and an end all at once; the race detector and the last look are the judges.
func TestRace(t *testing.T) {
	r := newRig(t, Options{TaskTimeout: time.Millisecond, MaxTasks: 50})
	var agents, readers sync.WaitGroup
	for i := range 8 {
		agents.Go(func() {
			in := map[string]any{"instance": fmt.Sprint(i % 4)}
			for {
				got := r.poll("60s", in)
				if got.status == 503 {
					return
				}
				if got.Lease != nil {
					in["lease"] = got.Lease.ID
				}
				for _, task := range got.Tasks {
					send(context.Background(), r.agents, "POST", "/api/v1/agents/results?task="+task.ID, "{}", "Content-Type", "application/json")
				}
			}
		})
		readers.Go(func() {
			at := Target{Service: "checkout", Instance: fmt.Sprint(i % 4)}
			for n := range 50 {
				r.Lease(context.Background(), at, Settings{GOGC: num(int64(100 + n))}, time.Hour)
				r.Goroutines(context.Background(), Target{Service: "checkout"}, n%2 == 0)
				r.Agents("", "")
				r.stats()
				if n%5 == 0 {
					r.Release(context.Background(), at)
				}
			}
		})
	}
	readers.Wait()
	r.Close()
	agents.Wait()
	if s := r.stats(); s.tasks != 0 || s.polls != 0 || s.resultBytes != 0 {
		t.Errorf("something stays: %+v", s)
	}
}

// FuzzPoll sends any body as a poll: a clean answer, and what is kept is within the bounds.
func FuzzPoll(f *testing.F) {
	f.Add([]byte(says(nil)))
	f.Add([]byte(says(map[string]any{"optimizer": false, "lease": "x", "lease_error": strings.Repeat("ä", 600), "status": nil})))
	f.Add([]byte(`{"service":"a","instance":"b"}`))
	f.Add([]byte(`{"service":"a","instance":"b","settings":{"gogc":1e9}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r := newRig(t, Options{})
		w := httptest.NewRecorder()
		r.agents.ServeHTTP(w, httptest.NewRequest("POST", "/api/v1/agents/poll", bytes.NewReader(body)))
		if w.Code != 200 && w.Code != 400 && w.Code != 413 {
			t.Fatalf("status %d: %s", w.Code, w.Body)
		}
		all := r.Agents("", "")
		if (w.Code == 200) != (len(all) == 1) {
			t.Fatalf("status %d and %d agents", w.Code, len(all))
		}
		if len(all) == 0 {
			return
		}
		a := all[0]
		if a.Service == "" || a.Instance == "" || len(a.Status) > maxStatus || len(a.LeaseError) > maxLeaseError || len(a.Labels) > maxLabels {
			t.Errorf("%+v", a)
		}
		got := r.ask("GET", "", "")
		if !json.Valid(got.body) || got.status != 200 {
			t.Errorf("%d %s", got.status, got.body)
		}
	})
}

// BenchmarkPoll is one poll without waiting, of one of 20,000 agents after the other.
func BenchmarkPoll(b *testing.B) {
	r := newRig(b, Options{})
	bodies := make([]string, 20_000)
	for i := range bodies {
		bodies[i] = says(map[string]any{"instance": fmt.Sprint("agent-", i)})
		send(b.Context(), r.agents, "POST", "/api/v1/agents/poll", bodies[i])
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if got := send(b.Context(), r.agents, "POST", "/api/v1/agents/poll", bodies[i%len(bodies)]); got.status != 200 {
			b.Fatalf("%d %s", got.status, got.body)
		}
	}
}
