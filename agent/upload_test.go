package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestBackoff: a server that is away is asked ever less often, and gets everything once it is back.
func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tries []time.Time
		s := &fakeServer{}
		began := time.Now()
		s.reply = func(n int, r *http.Request) (*http.Response, error) {
			if time.Since(began) < 10*time.Minute {
				tries = append(tries, time.Now())
				if n%2 == 0 {
					return answer(500, "broken"), nil
				}
				return nil, errors.New("connection refused")
			}
			return kept(), nil
		}
		cpu := new(fakeCPU)
		a := mustStart(t, fakeOptions(s), cpu.sources())
		time.Sleep(13 * time.Minute)
		if err := a.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		if n := len(tries); n < 8 || n > 25 {
			t.Errorf("%d tries in 10 minutes of outage, want a dozen or so", n)
		}
		for i := 1; i < len(tries); i++ {
			if d := tries[i].Sub(tries[i-1]); d < 500*time.Millisecond || d > 90*time.Second {
				t.Errorf("try %d comes %v after the one before", i, d)
			}
		}
		st := a.Status()
		if st.Uploaded != int64(cpu.windows()) || st.Failed != int64(len(tries)) || st.Dropped+st.Rejected != 0 || st.LastError == "" {
			t.Errorf("%d windows, status %+v", cpu.windows(), st)
		}
		for i, u := range s.uploads() {
			if want := fmt.Sprintf("cpu profile %d", i+1); u.body != want {
				t.Errorf("upload %d is %q, want %q: the oldest first", i, u.body, want)
			}
		}
	})
}

// TestRetryAfter: 429 and 503 name the time of the next try.
func TestRetryAfter(t *testing.T) {
	for _, code := range []int{429, 503} {
		synctest.Test(t, func(t *testing.T) {
			var refused time.Time
			s := &fakeServer{reply: func(n int, r *http.Request) (*http.Response, error) {
				if n == 0 {
					refused = time.Now()
					return answer(code, "", "Retry-After", "97"), nil
				}
				return kept(), nil
			}}
			a := mustStart(t, fakeOptions(s), new(fakeCPU).sources())
			time.Sleep(5 * time.Minute)
			if err := a.Stop(t.Context()); err != nil {
				t.Error(err)
			}
			if d := s.uploads()[0].at.Sub(refused); d != 97*time.Second {
				t.Errorf("%d: tried again after %v, want 97 s", code, d)
			}
		})
	}
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for h, want := range map[string]time.Duration{
		"": 0, "-5": 0, "soon": 0, "3": 3 * time.Second, "999999999": maxRetryAfter,
		now.Add(time.Minute).Format(http.TimeFormat): time.Minute, now.Add(-time.Hour).Format(http.TimeFormat): 0,
	} {
		if got := retryAfter(h, now); got != want {
			t.Errorf("Retry-After %q is %v, want %v", h, got, want)
		}
	}
}

// TestRejected: a profile that the server will never take is forgotten, not sent again.
func TestRejected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{reply: func(n int, r *http.Request) (*http.Response, error) {
			switch n {
			case 0:
				return answer(400, `{"error":"no such label"}`), nil
			case 1:
				return answer(413, `{"error":"too large"}`), nil
			}
			return kept(), nil
		}}
		a := mustStart(t, fakeOptions(s), new(fakeCPU).sources())
		time.Sleep(5 * time.Minute)
		if err := a.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		st := a.Status()
		if st.Rejected != 2 || st.Failed != 2 || s.uploads()[0].body != "cpu profile 3" {
			t.Errorf("status %+v, first taken %q", st, s.uploads()[0].body)
		}
		if !strings.Contains(st.LastError, "too large") {
			t.Errorf("last error %q does not say why", st.LastError)
		}
	})
}

// TestQueueDropsOldest: with the server away, what is kept is the newest, within the bound.
func TestQueueDropsOldest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		s := &fakeServer{reply: func(int, *http.Request) (*http.Response, error) {
			if !up.Load() {
				return nil, errors.New("away")
			}
			return kept(), nil
		}}
		o := fakeOptions(s)
		o.QueueBytes = 1000
		cpu := new(fakeCPU)
		a := mustStart(t, o, cpu.sources())
		for range 300 {
			time.Sleep(time.Second)
			if st := a.Status(); st.QueuedBytes > 1000 {
				t.Fatalf("%d bytes queued, the bound is 1000", st.QueuedBytes)
			}
		}
		up.Store(true)
		if err := a.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		got, st := s.uploads(), a.Status()
		if st.Dropped == 0 || st.Dropped+int64(len(got)) != int64(cpu.windows()) {
			t.Errorf("%d windows, %d uploaded, %d dropped", cpu.windows(), len(got), st.Dropped)
		}
		if last := got[len(got)-1].body; last != fmt.Sprintf("cpu profile %d", cpu.windows()) {
			t.Errorf("the newest kept is %q, want window %d", last, cpu.windows())
		}
	})
}

func TestQueueItemTooLarge(t *testing.T) {
	q := newQueue(1000)
	q.push(item{name: "small"})
	q.push(item{name: "large", body: make([]byte, 2000)})
	if n, bytes, dropped := q.stats(); n != 0 || bytes != 0 || dropped != 2 {
		t.Errorf("%d items of %d bytes, %d dropped; want none, 0 and 2", n, bytes, dropped)
	}
	q.push(item{name: "a"})
	i, _ := q.take()
	q.push(item{name: "b", body: make([]byte, 800)})
	q.putBack(i) // no room any more: the oldest goes
	if i, ok := q.take(); !ok || i.name != "b" {
		t.Errorf("kept %q, want b", i.name)
	}
	q.done()
	if n, bytes, dropped := q.stats(); n != 0 || bytes != 0 || dropped != 3 {
		t.Errorf("%d items of %d bytes, %d dropped; want none, 0 and 3", n, bytes, dropped)
	}
}

// TestStopGivesUp: without a server, Stop says what is lost, soon.
func TestStopGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{reply: func(int, *http.Request) (*http.Response, error) { return nil, errors.New("away") }}
		a := mustStart(t, fakeOptions(s), new(fakeCPU).sources())
		time.Sleep(time.Minute)
		began := time.Now()
		err := a.Stop(context.Background())
		if err == nil || !strings.Contains(err.Error(), "profiles dropped") || !strings.Contains(err.Error(), "away") {
			t.Errorf("error %v, want what is lost and why", err)
		}
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("Stop took %v", d)
		}
		if st := a.Status(); st.Dropped == 0 || st.Queued != 0 {
			t.Errorf("status %+v", st)
		}
		if err := a.Stop(context.Background()); err != nil {
			t.Errorf("second Stop: %v", err)
		}
	})
}

// TestHungServer: neither the windows nor Stop wait for a server that never answers.
func TestHungServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &fakeServer{reply: func(_ int, r *http.Request) (*http.Response, error) {
			<-r.Context().Done()
			return nil, r.Context().Err()
		}}
		cpu := new(fakeCPU)
		a := mustStart(t, fakeOptions(s), cpu.sources())
		time.Sleep(5 * time.Minute)
		if cpu.windows() < 28 {
			t.Errorf("%d windows in 5 minutes, want one each 10 s", cpu.windows())
		}
		limit := 3 * time.Second
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		began := time.Now()
		err := a.Stop(ctx)
		if d := time.Since(began); d > limit || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Stop took %v with %v to go: %v", d, limit, err)
		}
		b := mustStart(t, fakeOptions(s), new(fakeCPU).sources())
		time.Sleep(time.Second)
		began = time.Now()
		if err := b.Stop(context.Background()); err == nil || time.Since(began) > stopGrace {
			t.Errorf("Stop without a deadline: %v after %v, the grace is %v", err, time.Since(began), stopGrace)
		}
	})
}

// TestDeafClient: even an HTTPClient that ignores its request's context cannot hold Stop.
func TestDeafClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s := &fakeServer{reply: func(int, *http.Request) (*http.Response, error) {
			<-release
			return nil, errors.New("at last")
		}}
		a := mustStart(t, fakeOptions(s), new(fakeCPU).sources())
		time.Sleep(time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := a.Stop(ctx); err == nil || !strings.Contains(err.Error(), "HTTPClient") {
			t.Errorf("error %v, want one about the HTTPClient", err)
		}
		close(release)
		<-a.done
	})
}

// TestRealServers: over sockets, with the runtime's own profiles.
func TestRealServers(t *testing.T) {
	var elsewhere atomic.Int64
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { elsewhere.Add(1) }))
	defer other.Close()
	hung := make(chan struct{}) // a server does not see a client go whose request it does not read
	for _, c := range []struct {
		name  string
		h     http.HandlerFunc
		stops string // in the error of Stop; "" is none
	}{
		{"good", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, `{"service":"x"}`) }, ""},
		{"another program", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>Please sign in</html>") }, "dropped"},
		{"garbage", func(w http.ResponseWriter, r *http.Request) {
			conn, _, _ := w.(http.Hijacker).Hijack()
			conn.Write([]byte("\x16\x03\x01 this is not HTTP\r\n\r\n"))
			conn.Close()
		}, "dropped"},
		{"endless reply", func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}, "dropped"},
		{"reads nothing and hangs", func(w http.ResponseWriter, r *http.Request) { <-hung }, "dropped"},
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, other.URL, http.StatusPermanentRedirect)
		}, "dropped"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var asked atomic.Int64
			seen := make(chan struct{}, 1)
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != profilesPath {
					http.NotFound(w, r)
					return
				}
				asked.Add(1)
				select {
				case seen <- struct{}{}:
				default:
				}
				c.h(w, r)
			}))
			defer srv.Close()
			a, err := Start(t.Context(), Options{
				Server: srv.URL, Window: 100 * time.Millisecond, Upload: 100 * time.Millisecond,
				Timeout: 200 * time.Millisecond, Types: Goroutine | Heap, Logger: quiet(), SpoolBytes: -1,
			})
			if err != nil {
				t.Fatal(err)
			}
			<-seen
			err = a.Stop(t.Context())
			if c.stops == "" && err != nil || c.stops != "" && (err == nil || !strings.Contains(err.Error(), c.stops)) {
				t.Errorf("Stop: %v, want %q", err, c.stops)
			}
			if strings.HasSuffix(c.name, "hangs") {
				close(hung)
			}
			if st := a.Status(); st.Uploaded == 0 && c.name == "good" || st.LastError == "" && c.stops != "" {
				t.Errorf("status %+v after %d requests", st, asked.Load())
			}
		})
	}
	if elsewhere.Load() > 0 {
		t.Error("profiles went to the host of a redirect")
	}
}

// TestBase: polls go to the server, whether its address has a path or not.
func TestBase(t *testing.T) {
	for server, want := range map[string]string{
		"http://127.0.0.1:4040":         "http://127.0.0.1:4040/api/v1/agents/poll",
		"http://127.0.0.1:4040/":        "http://127.0.0.1:4040/api/v1/agents/poll",
		"https://example.com/profiler":  "https://example.com/profiler/api/v1/agents/poll",
		"https://example.com/profiler/": "https://example.com/profiler/api/v1/agents/poll",
	} {
		u, err := endpoint(server)
		if err != nil {
			t.Fatal(err)
		}
		s := sender{endpoint: u}
		if got := s.base().JoinPath(pollPath).String(); got != want {
			t.Errorf("of %s polls go to %s, want %s", server, got, want)
		}
	}
}
