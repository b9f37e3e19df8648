package agent

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

// TestMain: no test asks a cloud where it runs, or writes below the user's home.
func TestMain(m *testing.M) {
	if server := os.Getenv(exitAtOnce); server != "" {
		if _, err := Start(context.Background(), Options{Server: server, Region: "local", SpoolBytes: -1}); err != nil {
			panic(err)
		}
		os.Exit(0)
	}
	for _, name := range []string{"QUANTRA_REGION", "QUANTRA_SERVER", "QUANTRA_KEY_FILE", "PROFILER_ENABLED", "PROFILER_OPTIMIZER_ENABLED"} {
		os.Unsetenv(name)
	}
	os.Setenv("QUANTRA_REGION", "local")
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		panic(err)
	}
	os.Setenv("QUANTRA_SPOOL", dir)
	code := m.Run()
	os.RemoveAll(dir)
	if code == 0 {
		if err := goleak.Find(goleak.IgnoreTopFunction("github.com/quantra-l/quantra/agent.leak.func1")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// fakeCPU is the one CPU profiler of a process, as the runtime has it.
type fakeCPU struct {
	mu  sync.Mutex
	w   io.Writer
	ran int
	hz  []int // of each window

	turns turns
}

func (c *fakeCPU) windows() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ran
}

func (c *fakeCPU) sources() sources {
	return sources{
		rates:     true,
		calibrate: func() time.Duration { return assumedSignalCost },
		turns:     &c.turns,
		count:     runtime.NumGoroutine,
		startCPU: func(w io.Writer, hz int) error {
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.w != nil {
				return errors.New("cpu profiling already in use")
			}
			c.w = w
			c.ran++
			c.hz = append(c.hz, hz)
			return nil
		},
		stopCPU: func() {
			c.mu.Lock()
			defer c.mu.Unlock()
			io.WriteString(c.w, "cpu profile "+strconv.Itoa(c.ran))
			c.w = nil
		},
		lookup: func(name string, w io.Writer) error {
			_, err := io.WriteString(w, name)
			return err
		},
	}
}

// fakeServer answers uploads inside a bubble of virtual time, where no socket can be.
type fakeServer struct {
	mu    sync.Mutex
	got   []upload
	reply func(n int, r *http.Request) (*http.Response, error) // nil is 200; n counts from 0
	calls int
	// poll answers polls and results; nil has nothing to say, after the time it is given.
	poll func(r *http.Request, body []byte) (*http.Response, error)
}

type upload struct {
	at    time.Time
	query url.Values
	body  string
}

func (s *fakeServer) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	switch strings.TrimPrefix(r.URL.Path, "/base") {
	case profilesPath:
	case pollPath, resultsPath:
		if s.poll != nil {
			return s.poll(r, body)
		}
		wait, err := time.ParseDuration(r.URL.Query().Get("wait"))
		if err != nil {
			return nil, err
		}
		select {
		case <-r.Context().Done():
			return nil, r.Context().Err()
		case <-time.After(wait):
			return answer(200, "{}", "Content-Type", "application/json"), nil
		}
	default:
		return answer(404, "no such route: "+r.URL.Path), nil
	}
	s.mu.Lock()
	n := s.calls
	s.calls++
	s.mu.Unlock()
	if s.reply != nil {
		resp, err := s.reply(n, r)
		if err != nil || resp.Header.Get("Kept") == "" {
			return resp, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, upload{time.Now(), r.URL.Query(), string(body)})
	return kept(), nil
}

func (s *fakeServer) uploads() []upload {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]upload(nil), s.got...)
}

func answer(code int, body string, headers ...string) *http.Response {
	r := &http.Response{StatusCode: code, Status: strconv.Itoa(code) + " " + http.StatusText(code), Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

// exitAtOnce is the server of a child process that starts an agent and exits.
const exitAtOnce = "AGENT_TEST_EXIT_AT_ONCE"

// TestExitAtOnce: a program that exits without Stop is neither held up nor hurt.
func TestExitAtOnce(t *testing.T) {
	hung, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer hung.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), exitAtOnce+"=http://"+hung.Addr().String())
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("%v: %s", err, out)
	}
}

// TestGoroutineFlood: a program that starts goroutines without end costs no list of them.
func TestGoroutineFlood(t *testing.T) {
	src := new(fakeCPU).sources()
	src.count = func() int { return 3_000_000 }
	src.lookup = func(string, io.Writer) error { t.Error("listed"); return nil }
	a := &Agent{cfg: config{types: Goroutine}, queue: newQueue(1 << 20), status: newStatus(quiet()), src: src}
	c := newCollector(a)
	c.settings()
	for range 1000 {
		c.goroutines(time.Now(), time.Now())
	}
	if st := a.status.get(); !strings.Contains(st.LastGap, "3000000 goroutines") {
		t.Errorf("gap %q", st.LastGap)
	}
}

// TestBucketsEatTheLimit: who has a memory limit hears when profiling itself takes a good part of it.
func TestBucketsEatTheLimit(t *testing.T) {
	for _, f := range []struct {
		figures figures
		warns   bool
	}{
		{figures{buckets: 40 << 20, limit: math.MaxInt64}, false},
		{figures{buckets: 4 << 20, limit: 400 << 20}, false},
		{figures{buckets: 40 << 20, limit: 400 << 20}, true},
	} {
		c := &collector{a: &Agent{status: newStatus(quiet())}}
		for range 3 {
			c.buckets(f.figures)
		}
		notes := c.a.status.get().Notes
		if warns := len(notes) == 1 && strings.Contains(notes[0], "10 % of the memory limit"); warns != f.warns || len(notes) > 1 {
			t.Errorf("%+v: warnings %q", f.figures, notes)
		}
	}
}

// kept is how a server says that a profile is safe.
func kept() *http.Response { return answer(200, `{"service":"test"}`, "Kept", "1") }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func fakeOptions(s *fakeServer) Options {
	return Options{
		Service: "test", Version: "v7", Instance: "i", Server: "http://server", Labels: map[string]string{"team": "pay"},
		Types: CPU, HTTPClient: &http.Client{Transport: s}, Logger: quiet(), Region: "local", SpoolBytes: -1,
	}
}

func mustStart(t *testing.T, o Options, src sources) *Agent {
	t.Helper()
	a, err := start(t.Context(), o, src)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestTimes: the first window goes at once, then an upload each minute with all windows since, none lost.
func TestTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, cpu := new(fakeServer), new(fakeCPU)
		began := time.Now()
		a := mustStart(t, fakeOptions(s), cpu.sources())
		time.Sleep(10*time.Second + time.Millisecond)
		synctest.Wait()
		if got := s.uploads(); len(got) != 1 || got[0].body != "cpu profile 1" {
			t.Fatalf("after the first window: %v, want it uploaded", got)
		}
		time.Sleep(9 * time.Minute)
		if err := a.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := s.uploads()
		if len(got) != cpu.windows() {
			t.Errorf("%d windows, %d uploads", cpu.windows(), len(got))
		}
		if cpu.windows() < 52 || cpu.windows() > 60 {
			t.Errorf("%d windows in 9 m 10 s, want one each 10 s", cpu.windows())
		}
		bursts := 0
		for i, u := range got {
			from, until := instant(t, u, "from"), instant(t, u, "until")
			if i == 0 && !from.Equal(began) {
				t.Errorf("first window is from %v, want %v", from, began)
			}
			if i > 0 && !from.Equal(instant(t, got[i-1], "until")) {
				t.Errorf("window %d starts at %v, not where the one before ended", i, from)
			}
			last := i == len(got)-1
			if d := until.Sub(from); d > 10500*time.Millisecond || !last && d < 5*time.Second || i > 0 && !last && d < 9500*time.Millisecond {
				t.Errorf("window %d covers %v", i, d)
			}
			if i == 0 || u.at.After(got[i-1].at) {
				bursts++
			}
		}
		if bursts < 9 || bursts > 12 {
			t.Errorf("%d bursts of uploads in 9 minutes, want about one a minute", bursts)
		}
		q := got[0].query
		for k, v := range map[string]string{"service_name": "test", "service_version": "v7", "service_instance_id": "i", "name": "process_cpu", "team": "pay"} {
			if q.Get(k) != v {
				t.Errorf("query has %s=%q, want %q", k, q.Get(k), v)
			}
		}
		st := a.Status()
		if !st.Enabled || st.Uploaded != int64(len(got)) || st.Failed+st.Rejected+st.Dropped+st.Gaps != 0 || st.Queued != 0 || st.QueuedBytes != 0 || st.LastError != "" {
			t.Errorf("status %+v", st)
		}
	})
}

// TestWatched: while a lease is in force, though it sets nothing, each window goes as it closes; before and after once a minute.
func TestWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, cpu := new(fakeServer), new(fakeCPU)
		var leased atomic.Bool
		s.poll = func(r *http.Request, _ []byte) (*http.Response, error) {
			select {
			case <-r.Context().Done():
				return nil, r.Context().Err()
			case <-time.After(10 * time.Second):
			}
			if leased.Load() {
				return answer(200, `{"lease":{"id":"watch","ttl_ms":60000}}`, "Content-Type", "application/json"), nil
			}
			return answer(200, "{}", "Content-Type", "application/json"), nil
		}
		// late is the longest that a window of the minutes from here waited.
		late := func(minutes time.Duration) (longest time.Duration, windows int) {
			n := len(s.uploads())
			time.Sleep(minutes * time.Minute)
			synctest.Wait()
			for _, u := range s.uploads()[n:] {
				longest, windows = max(longest, u.at.Sub(instant(t, u, "until"))), windows+1
			}
			return longest, windows
		}
		a := mustStart(t, fakeOptions(s), cpu.sources())
		if d, n := late(5); d < 30*time.Second || n < 20 {
			t.Errorf("without a lease %d windows waited up to %v, want most of a minute", n, d)
		}
		leased.Store(true)
		late(1)
		if d, n := late(5); d > time.Second || n < 20 {
			t.Errorf("with a lease %d windows waited up to %v, want none to", n, d)
		}
		if got := a.Status().Lease; got != "watch" {
			t.Errorf("lease %q", got)
		}
		leased.Store(false)
		late(2)
		if d, n := late(5); d < 30*time.Second || n < 20 {
			t.Errorf("after it %d windows waited up to %v, want most of a minute", n, d)
		}
		if err := a.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

func instant(t *testing.T, u upload, key string) time.Time {
	t.Helper()
	ns, err := strconv.ParseInt(u.query.Get(key), 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", key, err)
	}
	return time.Unix(0, ns)
}

// TestStopFlushes: the window under way is cut and uploaded; later calls do nothing.
func TestStopFlushes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, cpu := new(fakeServer), new(fakeCPU)
		a := mustStart(t, fakeOptions(s), cpu.sources())
		time.Sleep(3 * time.Second)
		if err := a.Stop(t.Context()); err != nil {
			t.Fatal(err)
		}
		got := s.uploads()
		if len(got) != 1 || instant(t, got[0], "until").Sub(instant(t, got[0], "from")) != 3*time.Second {
			t.Errorf("uploads %v, want the one window of 3 s", got)
		}
		if cpu.w != nil {
			t.Error("the CPU profile still runs")
		}
		if err := a.Stop(t.Context()); err != nil {
			t.Errorf("second Stop: %v", err)
		}
	})
}

// TestContextEnds: the end of Start's context is a Stop.
func TestContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, cpu := new(fakeServer), new(fakeCPU)
		ctx, cancel := context.WithCancel(t.Context())
		a, err := start(ctx, fakeOptions(s), cpu.sources())
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		cancel()
		synctest.Wait()
		select {
		case <-a.done:
		default:
			t.Fatal("the agent lives on")
		}
		if len(s.uploads()) != 1 {
			t.Error("the last window is lost")
		}
		if err := a.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestNotStarted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if a, err := Start(ctx, Options{}); a != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v, %v", a, err)
	}
	var none *Agent
	if err := none.Stop(t.Context()); err != nil || !reflect.DeepEqual(none.Status(), Status{}) {
		t.Error("a nil agent does something")
	}
	t.Setenv("PROFILER_ENABLED", "false")
	before := runtime.NumGoroutine()
	a, err := Start(t.Context(), Options{Server: "nonsense"}) // the switch must work for a program that is wrong, too
	if err != nil || a == nil || a.Status().Enabled || runtime.NumGoroutine() > before {
		t.Errorf("switched off: %v, %v", a, err)
	}
	if err := a.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	t.Setenv("PROFILER_ENABLED", "maybe")
	if _, err := Start(t.Context(), Options{}); err == nil || !strings.Contains(err.Error(), "PROFILER_ENABLED") {
		t.Errorf("PROFILER_ENABLED=maybe: %v", err)
	}
}

func TestOptions(t *testing.T) {
	t.Setenv("QUANTRA_SERVER", "https://u:p@env.example/base/")
	c, err := Options{}.resolve()
	if err != nil {
		t.Fatal(err)
	}
	if got := c.endpoint.Redacted(); got != "https://u:xxxxx@env.example/base/api/v1/profiles" {
		t.Errorf("endpoint %s", got)
	}
	if c.labels.Get("service_name") != "agent.test" || !strings.HasSuffix(c.labels.Get("service_instance_id"), "-"+strconv.Itoa(os.Getpid())) {
		t.Errorf("labels %v", c.labels)
	}
	if c.window != 10*time.Second || c.upload != time.Minute || c.queueBytes != 4<<20 || c.rate != 100 || c.spoolBytes != 64<<20 || c.budget != (Budget{0.01, 10e6, 1e6}) || c.types != DefaultTypes {
		t.Errorf("defaults %+v", c)
	}
	if c, err := (Options{CPURate: -1}).resolve(); err != nil || c.types != DefaultTypes&^CPU {
		t.Errorf("CPURate -1: types %v, %v", c.types, err)
	}
	long := map[string]string{}
	for i := range 40 {
		long["l"+strconv.Itoa(i)] = "x"
	}
	for _, bad := range []struct {
		o    Options
		want string
	}{
		{Options{Window: -1}, "Options.Window"},
		{Options{Window: time.Millisecond}, "Options.Window"},
		{Options{Upload: -1}, "Options.Upload"},
		{Options{Timeout: -1}, "Options.Timeout"},
		{Options{CPURate: 99}, "Options.CPURate"},
		{Options{Endpoints: map[string]string{"eu": "nonsense"}}, `Options.Endpoints["eu"]`},
		{Options{Sources: []Source{{Name: "memory", Write: func(io.Writer) error { return nil }}}}, "Options.Sources"},
		{Options{Sources: []Source{{Name: "lock"}}}, "Write is nil"},
		{Options{Region: "\xff"}, "region"},
		{Options{Types: 1 << 12}, "Options.Types"},
		{Options{QueueBytes: -1}, "Options.QueueBytes"},
		{Options{Server: "localhost:4040"}, "Options.Server"},
		{Options{Server: "http://h/?q=1"}, "Options.Server"},
		{Options{Server: "http://a b:secret@h/%zz"}, "Options.Server"},
		{Options{Labels: map[string]string{"a-b": ""}}, "Options.Labels"},
		{Options{Labels: map[string]string{"__x": "1"}}, "Options.Labels"},
		{Options{Labels: map[string]string{"from": "1"}}, "Options.Labels"},
		{Options{Labels: map[string]string{"service_name": "1"}}, "Options.Labels"},
		{Options{Labels: map[string]string{"x": "\xff"}}, "Options.Labels"},
		{Options{Labels: long}, "Options.Labels"},
		{Options{Service: strings.Repeat("x", 3000)}, "service_name"},
	} {
		_, err := bad.o.resolve()
		if err == nil || !strings.Contains(err.Error(), bad.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: %v, want an error about %s", bad.o, err, bad.want)
		}
	}
}

// TestTwoAgents: the second reports gaps, and has the CPU profile once the first is gone.
func TestTwoAgents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, cpu := new(fakeServer), new(fakeCPU)
		one := mustStart(t, fakeOptions(s), cpu.sources())
		synctest.Wait()
		second := new(fakeServer)
		two := mustStart(t, fakeOptions(second), cpu.sources())
		time.Sleep(time.Second)
		time.Sleep(30 * time.Second)
		if st := two.Status(); st.Gaps == 0 || !strings.Contains(st.LastGap, "another profiler") {
			t.Errorf("status of the second %+v, want a gap", st)
		}
		if err := one.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		time.Sleep(30 * time.Second)
		if err := two.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if len(second.uploads()) < 2 {
			t.Errorf("the second has %d profiles after the first is gone", len(second.uploads()))
		}
	})
}

// TestRuntimeSettings: the mutex profile is on while the agent runs, unless the program chose.
func TestRuntimeSettings(t *testing.T) {
	was := runtime.SetMutexProfileFraction(0)
	defer runtime.SetMutexProfileFraction(was)
	for _, own := range []int{0, 7} {
		runtime.SetMutexProfileFraction(own)
		c := newCollector(&Agent{cfg: config{types: Mutex}})
		c.settings()
		want := own
		if own == 0 {
			want = mutexFraction
		}
		if got := runtime.SetMutexProfileFraction(-1); got != want {
			t.Errorf("fraction was %d, is %d under the agent, want %d", own, got, want)
		}
		c.restore()
		if got := runtime.SetMutexProfileFraction(-1); got != own {
			t.Errorf("fraction was %d, is %d after", own, got)
		}
	}
}

// TestGoroutineThinning: many goroutines are listed in fewer windows.
func TestGoroutineThinning(t *testing.T) {
	q := newQueue(1 << 20)
	a := &Agent{cfg: config{types: Goroutine}, queue: q, status: newStatus(quiet()), src: new(fakeCPU).sources()}
	c := newCollector(a)
	c.settings()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 3*goroutinesPerWindow + 100 {
		wg.Go(func() { <-stop })
	}
	for range 8 {
		c.collect(time.Now(), time.Now())
	}
	close(stop)
	wg.Wait()
	if n, _, _ := q.stats(); n != 2 {
		t.Errorf("%d lists of 15,100 goroutines in 8 windows, want 2", n)
	}
}

func zipped(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	w.Write(b)
	w.Close()
	return out.Bytes()
}
