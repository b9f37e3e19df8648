package overhead

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// program is a server that is asked, and its address.
func program(t *testing.T, h http.HandlerFunc) string {
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return strings.TrimPrefix(srv.URL, "http://")
}

func load(addr string) Load {
	return Load{Addr: addr, Requests: [][]byte{
		[]byte("POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab"),
		[]byte("GET /b HTTP/1.1\r\nHost: x\r\n\r\n"),
	}, Rate: 500, Connections: 4, Warmup: 100 * time.Millisecond, Time: 400 * time.Millisecond}
}

// TestDrive: every request is sent once, in turn, and those of the span are counted.
func TestDrive(t *testing.T) {
	var posts, gets atomic.Int64
	addr := program(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		switch {
		case err == nil && r.Method == http.MethodPost && r.URL.Path == "/a" && string(body) == "ab":
			posts.Add(1)
		case err == nil && r.Method == http.MethodGet && r.URL.Path == "/b":
			gets.Add(1)
		default:
			t.Errorf("%s %s %q, %v", r.Method, r.URL, body, err)
		}
		io.WriteString(w, strings.Repeat("x", 3000))
	})
	out, err := Drive(t.Context(), load(addr), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if out.Offered != 200 || out.Completed != 200 || out.Failed != 0 || out.Err != nil || out.Latency.Count() != 200 || out.Late.Count() != 200 {
		t.Errorf("%d offered, %d completed, %d failed (%v)", out.Offered, out.Completed, out.Failed, out.Err)
	}
	if out.InTime > 250 || posts.Load() != 125 || gets.Load() != 125 {
		t.Errorf("%d in time, %d and %d arrived, want 125 each", out.InTime, posts.Load(), gets.Load())
	}
	if out.Latency.Quantile(0.5) < 1 || out.Latency.Max() < out.Late.Quantile(0) {
		t.Errorf("latency %v, late %v", out.Latency.Quantile(0.5), out.Late.Quantile(0.5))
	}
}

// TestStall is co-ordinated omission: a program that stands still for the whole span is charged with every request that was due meanwhile,
// not with the few that its connections could take. Of 200 requests at 500 a second that all wait for the end, half wait 200 ms at least.
func TestStall(t *testing.T) {
	start := time.Now()
	l := load("")
	l.Connections, l.Warmup = 1, 0
	var first sync.Once
	l.Addr = program(t, func(http.ResponseWriter, *http.Request) {
		first.Do(func() { <-time.After(time.Until(start.Add(l.Time))) })
	})
	out, err := Drive(t.Context(), l, start)
	if err != nil {
		t.Fatal(err)
	}
	if p50 := out.Latency.Quantile(0.5); out.Offered != 200 || out.Completed != 200 || p50 < 195*time.Millisecond {
		t.Errorf("%d offered, %d completed, p50 %v; want 200 and 200 ms at least", out.Offered, out.Completed, p50)
	}
	if out.InTime > 1 {
		t.Errorf("%d answers within the span, in which the program stood still", out.InTime)
	}
}

// TestFailures: refusals, broken connections and connections that the program closes are counted as what they are.
func TestFailures(t *testing.T) {
	var n atomic.Int64
	addr := program(t, func(w http.ResponseWriter, r *http.Request) {
		switch n.Add(1) % 4 {
		case 0:
			http.Error(w, "no", http.StatusTeapot)
		case 1:
			w.Header().Set("Connection", "close")
		case 2:
			panic(http.ErrAbortHandler)
		}
	})
	l := load(addr)
	l.Warmup = 0
	out, err := Drive(t.Context(), l, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if out.Offered != 200 || out.Failed != 100 || out.Completed != 100 || out.Err == nil {
		t.Errorf("%d offered, %d failed, %d completed, %v", out.Offered, out.Failed, out.Completed, out.Err)
	}
}

// TestDriveEnds: nobody there, a load that makes no sense, and an end before its time are errors, and nothing is left running.
func TestDriveEnds(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln.Close()
	if _, err := Drive(t.Context(), load(ln.Addr().String()), time.Now()); err == nil || !strings.Contains(err.Error(), ln.Addr().String()) {
		t.Errorf("nobody listens: %v", err)
	}
	for _, change := range []func(*Load){func(l *Load) { l.Rate = 0 }, func(l *Load) { l.Connections = 0 }, func(l *Load) { l.Requests = nil }} {
		l := load(ln.Addr().String())
		change(&l)
		if _, err := Drive(t.Context(), l, time.Now()); err == nil || !strings.Contains(err.Error(), "a load needs") {
			t.Errorf("%v", err)
		}
	}
	hold := make(chan struct{})
	entered := make(chan struct{}, 10)
	addr := program(t, func(http.ResponseWriter, *http.Request) {
		entered <- struct{}{}
		<-hold
	})
	defer close(hold)
	ctx, cancel := context.WithCancel(t.Context())
	l := load(addr)
	l.Time = time.Hour
	go func() {
		<-entered // requests are under way
		cancel()
	}()
	if _, err := Drive(ctx, l, time.Now()); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
