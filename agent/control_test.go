package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"reflect"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakePolls is a server of polls and results inside a bubble of virtual time.
type fakePolls struct {
	mu      sync.Mutex
	polls   []polled
	results []resulted
	// reply is the answer to the nth poll from 0. nil holds it for its wait, then answers {}.
	reply func(n int, r *http.Request) (*http.Response, error)
	// onResult, where it is not nil, is the answer to a result.
	onResult func(n int, r *http.Request) (*http.Response, error)
}

type polled struct {
	at   time.Time
	wait time.Duration
	body pollRequest
}

type resulted struct{ task, contentType, body string }

func jsonAnswer(text string) *http.Response {
	return answer(200, text, "Content-Type", "application/json; charset=utf-8")
}

// hold waits as a server with nothing to say.
func hold(r *http.Request) (*http.Response, error) {
	d, err := time.ParseDuration(r.URL.Query().Get("wait"))
	if err != nil {
		return answer(400, err.Error()), nil
	}
	select {
	case <-time.After(d):
		return jsonAnswer("{}"), nil
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
}

// hang never answers.
func hang(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func (s *fakePolls) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	if r.Method != http.MethodPost {
		return answer(405, ""), nil
	}
	switch r.URL.Path {
	case "/base/api/v1/agents/poll":
		p := polled{at: time.Now()}
		if err := json.Unmarshal(body, &p.body); err != nil || r.Header.Get("Content-Type") != "application/json" {
			return answer(400, fmt.Sprint(err)), nil
		}
		p.wait, _ = time.ParseDuration(r.URL.Query().Get("wait"))
		s.mu.Lock()
		n := len(s.polls)
		s.polls = append(s.polls, p)
		s.mu.Unlock()
		if s.reply == nil {
			return hold(r)
		}
		return s.reply(n, r)
	case "/base/api/v1/agents/results":
		s.mu.Lock()
		n := len(s.results)
		s.results = append(s.results, resulted{r.URL.Query().Get("task"), r.Header.Get("Content-Type"), string(body)})
		s.mu.Unlock()
		if s.onResult != nil {
			return s.onResult(n, r)
		}
		return jsonAnswer("{}"), nil
	}
	return answer(404, ""), nil
}

func (s *fakePolls) seen() ([]polled, []resulted) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]polled(nil), s.polls...), append([]resulted(nil), s.results...)
}

// polling runs a controller in virtual time against s, until story is over. What is left must end with it.
func polling(t *testing.T, s *fakePolls, story func(t *testing.T, c *controller, f *fakeRuntime)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFakeRuntime()
		c := newFakeController(t, s, f)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.loop(ctx)
		}()
		story(t, c, f)
		ended := time.Now()
		cancel()
		<-done
		if took := time.Since(ended); took != 0 {
			t.Errorf("the loop ended %v after its context", took)
		}
		if f.String() != "100/none/4auto/100" {
			t.Errorf("after the end %s are in force", f)
		}
	})
}

func newFakeController(t *testing.T, s http.RoundTripper, f *fakeRuntime) *controller {
	base, err := url.Parse("http://server/base/")
	if err != nil {
		t.Fatal(err)
	}
	return newController(controller{
		base:   base,
		client: &http.Client{Transport: s, Timeout: time.Second}, // a timeout of the caller's does not cut polls
		report: func() pollRequest {
			return pollRequest{Service: "shop", Instance: "i-1", Region: "local", Agent: "quantra-agent/1", Optimizer: true, Started: time.Now()}
		},
		status: func() any { return map[string]int{"Uploaded": 7} },
		leases: newLeaser(f.knobs(), quiet()),
		tasks: func(ctx context.Context, t task) (string, []byte) {
			switch t.Kind {
			case "goroutines":
				return "application/json", fmt.Appendf(nil, `{"full":%v}`, t.Full)
			case "trace":
				select {
				case <-time.After(time.Duration(t.Seconds * float64(time.Second))):
					return "application/octet-stream", []byte("a trace")
				case <-ctx.Done():
					return "text/plain", []byte(ctx.Err().Error())
				}
			case "large":
				return "application/octet-stream", make([]byte, maxResult+1)
			}
			return "", nil
		},
		log: quiet(),
	})
}

// leaseOf answers as a server that has granted text to the agent: at once where it follows another, else after the wait.
func leaseOf(id, text string) func(n int, r *http.Request, following string) (*http.Response, error) {
	return func(n int, r *http.Request, following string) (*http.Response, error) {
		if following == id {
			resp, err := hold(r)
			if err != nil {
				return resp, err
			}
		}
		return jsonAnswer(`{"lease":` + text + `}`), nil
	}
}

// TestPolls: one after the other, each held by the server, with all that the agent has to say.
func TestPolls(t *testing.T) {
	s := &fakePolls{}
	polling(t, s, func(t *testing.T, c *controller, f *fakeRuntime) {
		began := time.Now()
		time.Sleep(10 * time.Minute)
		polls, _ := s.seen()
		if len(polls) < 18 || len(polls) > 23 {
			t.Errorf("%d polls in 10 minutes, want about two a minute", len(polls))
		}
		waits := map[time.Duration]bool{}
		for i, p := range polls {
			waits[p.wait] = true
			if p.wait < 27*time.Second || p.wait > 33*time.Second {
				t.Errorf("poll %d waits %v", i, p.wait)
			}
			if i > 0 {
				if gap := p.at.Sub(polls[i-1].at) - polls[i-1].wait; gap < 0 || gap > time.Second {
					t.Errorf("poll %d comes %v after the answer", i, gap)
				}
			}
		}
		if len(waits) < 3 {
			t.Errorf("all polls wait one of %v: a fleet would beat in step", waits)
		}
		want := pollRequest{Service: "shop", Instance: "i-1", Region: "local", Agent: "quantra-agent/1", Optimizer: true,
			Started: polls[0].at, Settings: settings{100, math.MaxInt64, 4, 100}, Status: json.RawMessage(`{"Uploaded":7}`)}
		got := polls[0].body
		if !got.Started.Equal(want.Started) {
			t.Errorf("started %v, want %v", got.Started, want.Started)
		}
		got.Started = want.Started
		if !reflect.DeepEqual(got, want) {
			t.Errorf("the poll says %+v, want %+v", got, want)
		}
		if d := polls[0].at.Sub(began); d > pollGap {
			t.Errorf("the first poll came after %v", d)
		}
	})
}

// TestPollLease: a lease arrives, is told of at once, prolonged for longer than it lasts by itself, replaced and withdrawn.
func TestPollLease(t *testing.T) {
	var mu sync.Mutex
	grant := leaseOf("a", `{"id":"a","ttl_ms":60000,"gogc":200,"gomemlimit":419430400,"gomaxprocs":2,"cpu_rate":50,"new":1}`)
	s := &fakePolls{}
	s.reply = func(n int, r *http.Request) (*http.Response, error) {
		mu.Lock()
		g := grant
		mu.Unlock()
		polls, _ := s.seen()
		return g(n, r, polls[n].body.Lease)
	}
	polling(t, s, func(t *testing.T, c *controller, f *fakeRuntime) {
		time.Sleep(5 * time.Second)
		synctest.Wait()
		wantState(t, "arrived", f, c.leases, "200/400/2/50", "a", "")
		polls, _ := s.seen()
		if len(polls) != 2 || polls[1].body.Lease != "a" || polls[1].at.Sub(polls[0].at) != pollGap ||
			polls[1].body.Settings != (settings{200, 400 << 20, 2, 50}) {
			t.Errorf("polls %+v, want one a second after the first that tells of the lease", polls)
		}
		time.Sleep(10 * time.Minute)
		wantState(t, "prolonged", f, c.leases, "200/400/2/50", "a", "")

		mu.Lock()
		grant = leaseOf("b", `{"id":"b","ttl_ms":60000,"gogc":5}`)
		mu.Unlock()
		time.Sleep(2 * time.Minute)
		wantState(t, "refused", f, c.leases, "100/none/4auto/100", "", "GOGC 5")
		polls, _ = s.seen()
		if last := polls[len(polls)-1].body; last.Lease != "" || !strings.Contains(last.LeaseError, "GOGC 5") {
			t.Errorf("the last poll says lease %q, error %q", last.Lease, last.LeaseError)
		}
		// This server sends the refused lease again and again; it is not asked in a loop.
		if n := len(polls); n > 80 {
			t.Errorf("%d polls in 12 minutes, 2 of them with a lease that is refused", n)
		}

		mu.Lock()
		grant = leaseOf("c", `{"id":"c","ttl_ms":60000,"gogc":300}`)
		mu.Unlock()
		time.Sleep(time.Minute)
		wantState(t, "another", f, c.leases, "300/none/4auto/100", "c", "")
		mu.Lock()
		grant = func(int, *http.Request, string) (*http.Response, error) { return jsonAnswer("{}"), nil }
		mu.Unlock()
		time.Sleep(time.Minute)
		wantState(t, "withdrawn", f, c.leases, "100/none/4auto/100", "", "")
	})
}

// TestPollServerGone: whatever a server does after it granted a lease, what was found is back when its
// time is over, and not before.
func TestPollServerGone(t *testing.T) {
	for name, gone := range map[string]func(r *http.Request) (*http.Response, error){
		"is away": func(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") },
		"hangs":   hang,
		"hangs in a reply": func(r *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: hanging{r}, Header: http.Header{"Content-Type": {"application/json"}}}, nil
		},
		"is another":    func(*http.Request) (*http.Response, error) { return answer(404, "404 page not found"), nil },
		"fails":         func(*http.Request) (*http.Response, error) { return answer(500, "broken"), nil },
		"is overloaded": func(*http.Request) (*http.Response, error) { return answer(429, "", "Retry-After", "3600"), nil },
		"is a page": func(*http.Request) (*http.Response, error) {
			return answer(200, "<html>", "Content-Type", "text/html"), nil
		},
		"is a page of JSON": func(*http.Request) (*http.Response, error) {
			return answer(200, "{}", "Content-Type", "text/html"), nil
		},
		"says null":     func(*http.Request) (*http.Response, error) { return jsonAnswer("null"), nil },
		"says an array": func(*http.Request) (*http.Response, error) { return jsonAnswer("[]"), nil },
		"says half":     func(*http.Request) (*http.Response, error) { return jsonAnswer(`{"lease":{"id":"b","ttl_ms":60`), nil },
		"says more":     func(*http.Request) (*http.Response, error) { return jsonAnswer(`{} {}`), nil },
		"mixes types": func(*http.Request) (*http.Response, error) {
			return jsonAnswer(`{"lease":{"id":"b","ttl_ms":600000,"gogc":"300"}}`), nil
		},
		"says fractions": func(*http.Request) (*http.Response, error) {
			return jsonAnswer(`{"lease":{"id":"b","ttl_ms":600000,"gogc":300.5}}`), nil
		},
		"has no id": func(*http.Request) (*http.Response, error) {
			return jsonAnswer(`{"lease":{"ttl_ms":600000,"gogc":300}}`), nil
		},
		"has no end": func(*http.Request) (*http.Response, error) { return jsonAnswer(`{"lease":{"id":"b","gogc":300}}`), nil },
		"has a far end": func(*http.Request) (*http.Response, error) {
			return jsonAnswer(`{"lease":{"id":"b","ttl_ms":86400001,"gogc":300}}`), nil
		},
		"says too much": func(*http.Request) (*http.Response, error) {
			return jsonAnswer(`{"x":"` + strings.Repeat("x", maxPollReply) + `"}`), nil
		},
		"pads": func(*http.Request) (*http.Response, error) {
			return jsonAnswer("{}" + strings.Repeat(" ", maxPollReply)), nil
		},
		"never ends": func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: endless{}, Header: http.Header{"Content-Type": {"application/json"}}}, nil
		},
		"sends elsewhere": func(*http.Request) (*http.Response, error) {
			return answer(307, "{}", "Location", "/base/api/v1/agents/poll", "Content-Type", "application/json"), nil
		},
		"says other codes": func(*http.Request) (*http.Response, error) {
			return answer(202, "{}", "Content-Type", "application/json"), nil
		},
	} {
		var granted time.Time
		s := &fakePolls{}
		s.reply = func(n int, r *http.Request) (*http.Response, error) {
			if n == 0 {
				granted = time.Now()
				return jsonAnswer(`{"lease":{"id":"a","ttl_ms":100000,"gogc":200}}`), nil
			}
			return gone(r)
		}
		polling(t, s, func(t *testing.T, c *controller, f *fakeRuntime) {
			time.Sleep(5 * time.Second)
			synctest.Wait()
			time.Sleep(time.Until(granted.Add(100*time.Second - 1)))
			synctest.Wait()
			wantState(t, name+", before the end", f, c.leases, "200/none/4auto/100", "a", "")
			time.Sleep(time.Nanosecond)
			synctest.Wait()
			wantState(t, name+", at the end", f, c.leases, "100/none/4auto/100", "", "")
			time.Sleep(10 * time.Minute)
			polls, _ := s.seen()
			if n := len(polls); n < 3 || n > 60 {
				t.Errorf("%s: %d polls in 12 minutes", name, n)
			}
		})
	}
}

type hanging struct{ r *http.Request }

func (h hanging) Read([]byte) (int, error) {
	<-h.r.Context().Done()
	return 0, h.r.Context().Err()
}
func (hanging) Close() error { return nil }

type endless struct{}

func (endless) Read(p []byte) (int, error) { return copy(p, "{                "), nil }
func (endless) Close() error               { return nil }

// TestPollBackoff: ever longer after failures, up to a bound that says what is wrong; one answer forgives all.
func TestPollBackoff(t *testing.T) {
	for _, tt := range []struct {
		name        string
		reply       *http.Response
		least, most time.Duration // between polls, after a while
	}{
		{"404", answer(404, "404 page not found"), 2 * time.Minute, maxAbsentBackoff + 2*pollGap},
		{"500", answer(500, ""), 10 * time.Second, maxPollBackoff + 2*pollGap},
		{"Retry-After", answer(503, "", "Retry-After", "300"), 300 * time.Second, 330 * time.Second},
	} {
		var mu sync.Mutex
		well := false
		s := &fakePolls{}
		s.reply = func(n int, r *http.Request) (*http.Response, error) {
			mu.Lock()
			defer mu.Unlock()
			if well {
				return jsonAnswer("{}"), nil
			}
			resp := *tt.reply
			resp.Body = http.NoBody
			return &resp, nil
		}
		polling(t, s, func(t *testing.T, c *controller, f *fakeRuntime) {
			time.Sleep(5 * time.Hour)
			polls, _ := s.seen()
			var sum, longest time.Duration
			for i := 20; i < len(polls); i++ {
				d := polls[i].at.Sub(polls[i-1].at)
				sum += d
				longest = max(longest, d)
			}
			if mean := sum / time.Duration(len(polls)-20); mean < tt.least || longest > tt.most {
				t.Errorf("%s: %v between polls in the mean and %v at most, want at least %v and at most %v", tt.name, mean, longest, tt.least, tt.most)
			}
			if tt.name != "Retry-After" && polls[1].at.Sub(polls[0].at) > 4*time.Second {
				t.Errorf("%s: the second try comes after %v", tt.name, polls[1].at.Sub(polls[0].at))
			}
			c.nudge() // is no way around it
			synctest.Wait()
			if again, _ := s.seen(); len(again) != len(polls) {
				t.Errorf("%s: a nudge polls a server that fails", tt.name)
			}
			mu.Lock()
			well = true
			mu.Unlock()
			time.Sleep(maxAbsentBackoff + time.Minute)
			before, _ := s.seen()
			time.Sleep(time.Minute)
			// This one answers at once, with nothing: it is asked in a while, not in a loop.
			if after, _ := s.seen(); len(after)-len(before) < 7 || len(after)-len(before) > 25 {
				t.Errorf("%s: %d polls in a minute of a server that does not wait", tt.name, len(after)-len(before))
			}
		})
	}
}

// TestNudge: the loop asks at once, ending the poll under way, but not more than once a second.
func TestNudge(t *testing.T) {
	s := &fakePolls{}
	polling(t, s, func(t *testing.T, c *controller, f *fakeRuntime) {
		time.Sleep(10 * time.Second)
		synctest.Wait()
		polls, _ := s.seen()
		if len(polls) != 1 {
			t.Fatalf("%d polls at first", len(polls))
		}
		f.change(func(f *fakeRuntime) { f.v.gogc = 77 })
		c.nudge()
		synctest.Wait()
		polls, _ = s.seen()
		if len(polls) != 2 || polls[1].body.Settings.GOGC != 77 {
			t.Fatalf("after a nudge %d polls: %+v", len(polls), polls)
		}
		for range 1000 {
			c.nudge()
			time.Sleep(10 * time.Millisecond)
		}
		if polls, _ = s.seen(); len(polls) < 11 || len(polls) > 13 {
			t.Errorf("%d polls after nudges through 10 s, want one a second", len(polls))
		}
		f.change(func(f *fakeRuntime) { f.v.gogc = 100 }) // as the end of the test wants it
	})
}

// TestPollTells: a lease that ends by itself is told of at once, though a poll is under way.
func TestPollTells(t *testing.T) {
	s := &fakePolls{}
	s.reply = func(n int, r *http.Request) (*http.Response, error) {
		if n == 0 {
			return jsonAnswer(`{"lease":{"id":"a","ttl_ms":3600000,"gogc":200}}`), nil
		}
		return hold(r)
	}
	polling(t, s, func(t *testing.T, c *controller, f *fakeRuntime) {
		time.Sleep(4 * time.Second)
		f.change(func(f *fakeRuntime) { f.v.gogc = 150 })
		changed := time.Now()
		time.Sleep(tickEvery)
		synctest.Wait()
		polls, _ := s.seen()
		last := polls[len(polls)-1]
		if last.body.Lease != "" || !strings.Contains(last.body.LeaseError, "GOGC to 150") || last.at.Sub(changed) > tickEvery {
			t.Errorf("the last poll, %v after the change, says lease %q, error %q", last.at.Sub(changed), last.body.Lease, last.body.LeaseError)
		}
		f.change(func(f *fakeRuntime) { f.v.gogc = 100 }) // as the end of the test wants it
	})
}

// TestTasks: each is done once, one at a time, while polls go on, and its result arrives.
func TestTasks(t *testing.T) {
	s := &fakePolls{}
	s.reply = func(n int, r *http.Request) (*http.Response, error) {
		switch n {
		case 0:
			return jsonAnswer(`{"tasks":[{"id":"1","kind":"trace","seconds":5},{"id":"2&x","kind":"goroutines","full":true},{"id":"3","kind":"dance"},{"id":"4","kind":"large"}]}`), nil
		case 1:
			return jsonAnswer(`{"tasks":[{"id":"5","kind":"goroutines"}]}`), nil
		}
		return hold(r)
	}
	s.onResult = func(n int, r *http.Request) (*http.Response, error) {
		switch n {
		case 0:
			return answer(503, "busy"), nil
		case 1:
			return nil, errors.New("connection reset")
		case 3:
			return answer(404, "nobody waits"), nil
		}
		return jsonAnswer("{}"), nil
	}
	polling(t, s, func(t *testing.T, c *controller, f *fakeRuntime) {
		time.Sleep(5 * time.Second) // the trace is not done yet
		synctest.Wait()
		polls, results := s.seen()
		if len(polls) != 3 || len(results) != 0 {
			t.Errorf("%d polls and %d results while a task runs, want 3 and none", len(polls), len(results))
		}
		time.Sleep(time.Minute)
		_, results = s.seen()
		want := []resulted{
			{"1", "application/octet-stream", "a trace"}, {"1", "application/octet-stream", "a trace"}, {"1", "application/octet-stream", "a trace"},
			{"2&x", "application/json", `{"full":true}`},
			{"3", "text/plain", `this agent knows no task "dance"`},
			{"4", "text/plain", "the result has 67108865 bytes, the limit is 67108864"},
			{"5", "application/json", `{"full":false}`},
		}
		if !reflect.DeepEqual(results, want) {
			t.Errorf("results\n%q, want\n%q", results, want)
		}
	})
}

// TestTasksBounded: what a server heaps up is bounded, and a result that cannot be delivered is given up.
func TestTasksBounded(t *testing.T) {
	s := &fakePolls{}
	s.reply = func(n int, r *http.Request) (*http.Response, error) {
		if n > 0 {
			return hold(r)
		}
		var b strings.Builder
		for i := range 1000 {
			fmt.Fprintf(&b, `,{"id":"%d","kind":"trace","seconds":1}`, i)
		}
		return jsonAnswer(`{"tasks":[` + b.String()[1:] + `]}`), nil
	}
	s.onResult = func(n int, r *http.Request) (*http.Response, error) { return answer(500, ""), nil }
	polling(t, s, func(t *testing.T, c *controller, f *fakeRuntime) {
		time.Sleep(time.Hour)
		_, results := s.seen()
		tasks := map[string]int{}
		for _, r := range results {
			tasks[r.task]++
		}
		if len(tasks) < maxTasks || len(tasks) > maxTasks+1 {
			t.Errorf("%d tasks done, want %d", len(tasks), maxTasks)
		}
		for id, n := range tasks {
			if n != resultTries {
				t.Errorf("the result of %s was sent %d times, want %d", id, n, resultTries)
			}
		}
	})
}

// TestLoopEnds: at once, whatever is under way: a poll, a task, a result, a pause.
func TestLoopEnds(t *testing.T) {
	for name, s := range map[string]*fakePolls{
		"poll":  {},
		"hang":  {reply: func(n int, r *http.Request) (*http.Response, error) { return hang(r) }},
		"pause": {reply: func(n int, r *http.Request) (*http.Response, error) { return answer(404, ""), nil }},
		"task": {reply: func(n int, r *http.Request) (*http.Response, error) {
			return jsonAnswer(`{"lease":{"id":"a","ttl_ms":3600000,"gogc":200},"tasks":[{"id":"1","kind":"trace","seconds":3600}]}`), nil
		}},
		"result": {
			reply: func(n int, r *http.Request) (*http.Response, error) {
				return jsonAnswer(`{"tasks":[{"id":"1","kind":"goroutines"}]}`), nil
			},
			onResult: func(n int, r *http.Request) (*http.Response, error) { return hang(r) },
		},
		"pause before a result's next try": {
			reply: func(n int, r *http.Request) (*http.Response, error) {
				return jsonAnswer(`{"tasks":[{"id":"1","kind":"goroutines"}]}`), nil
			},
			onResult: func(n int, r *http.Request) (*http.Response, error) { return answer(500, ""), nil },
		},
	} {
		for _, after := range []time.Duration{0, 1500 * time.Millisecond, 33 * time.Second} {
			polling(t, s, func(t *testing.T, c *controller, f *fakeRuntime) {
				time.Sleep(after)
				synctest.Wait()
			})
		}
		if polls, _ := s.seen(); len(polls) == 0 {
			t.Errorf("%s: nothing was under way", name)
		}
	}
}

// lingering is a transport whose requests outlive their context for a while.
type lingering struct {
	mu    sync.Mutex
	alive int
}

func (l *lingering) add(n int) (alive int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.alive += n
	return l.alive
}

func (l *lingering) RoundTrip(r *http.Request) (*http.Response, error) {
	l.add(1)
	defer l.add(-1)
	defer time.Sleep(time.Second)
	return hang(r)
}

// TestLoopAwaits: when loop has returned, nothing of it lives.
func TestLoopAwaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := new(lingering)
		c := newFakeController(t, l, newFakeRuntime())
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Second, func() {
			if n := l.add(0); n != 1 {
				t.Errorf("%d polls under way, want 1", n)
			}
			cancel()
		})
		c.loop(ctx)
		if l.add(0) != 0 {
			t.Error("the loop has returned, and a poll is under way")
		}
	})
}

// TestPollHangs: a server that never answers is noticed, and asked again on another connection.
func TestPollHangs(t *testing.T) {
	s := &fakePolls{reply: func(n int, r *http.Request) (*http.Response, error) { return hang(r) }}
	polling(t, s, func(t *testing.T, c *controller, f *fakeRuntime) {
		time.Sleep(pollWait*11/10 + pollGrace + 5*pollGap)
		if polls, _ := s.seen(); len(polls) != 2 {
			t.Errorf("%d polls, want a second after the first was given up", len(polls))
		}
	})
}

// TestPollSigned: with an identity polls and results are signed, on real connections, two at a time.
func TestPollSigned(t *testing.T) {
	id, err := loadIdentity("")
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan string, 1)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		checkSigned(t, r, body, id.keyID())
		w.Header().Set("Content-Type", "application/json")
		if strings.HasSuffix(r.URL.Path, "/results") {
			result <- r.URL.Query().Get("task") + " " + string(body)
			io.WriteString(w, "{}")
			return
		}
		var p pollRequest
		if err := json.Unmarshal(body, &p); err != nil {
			t.Error(err)
		}
		if p.Service == "first" {
			io.WriteString(w, `{"tasks":[{"id":"7","kind":"goroutines"}]}`)
			return
		}
		<-r.Context().Done()
	}))
	defer s.Close()
	f := newFakeRuntime()
	c := newFakeController(t, nil, f)
	if c.base, err = url.Parse(s.URL); err != nil {
		t.Fatal(err)
	}
	c.client.Transport = s.Client().Transport
	c.id = id
	service := "first"
	c.report = func() pollRequest {
		p := pollRequest{Service: service, Instance: "i"}
		service = "then"
		return p
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.loop(ctx)
	}()
	if got := <-result; got != `7 {"full":false}` {
		t.Errorf("result %q", got)
	}
	cancel()
	<-done
	s.Client().CloseIdleConnections()
}

// TestPollStatus: a status that the server would not keep is left out, not the poll.
func TestPollStatus(t *testing.T) {
	c := newFakeController(t, &fakePolls{}, newFakeRuntime())
	for want, status := range map[string]func() any{
		`"ok"`: func() any { return "ok" },
		"":     nil,
		" ":    func() any { return strings.Repeat("x", maxStatus) },
		"  ":   func() any { return make(chan int) },
	} {
		c.status = status
		var got struct{ Status json.RawMessage }
		if err := json.Unmarshal(c.request(), &got); err != nil || string(got.Status) != strings.TrimSpace(want) {
			t.Errorf("status %.40q (%v), want %q", got.Status, err, want)
		}
	}
}

// TestPollLogs: a server that is away for an hour is two lines.
func TestPollLogs(t *testing.T) {
	var mu sync.Mutex
	var log bytes.Buffer
	away := true
	s := &fakePolls{}
	s.reply = func(n int, r *http.Request) (*http.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		if away {
			return nil, errors.New("connection refused")
		}
		return jsonAnswer("{}"), nil
	}
	synctest.Test(t, func(t *testing.T) {
		c := newFakeController(t, s, newFakeRuntime())
		c.log = slog.New(slog.NewTextHandler(&log, nil))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			c.loop(ctx)
		}()
		time.Sleep(time.Hour)
		mu.Lock()
		away = false
		mu.Unlock()
		time.Sleep(time.Hour)
		cancel()
		<-done
	})
	if lines := strings.Count(log.String(), "\n"); lines != 2 || !strings.Contains(log.String(), "connection refused") || strings.Contains(log.String(), "wait=") {
		t.Errorf("the log has %d lines, want 2:\n%s", lines, log.String())
	}
}

// pollReplies are replies as servers send them: that of docs/format/agents.md, and some that are wrong.
func pollReplies(t testing.TB) []string {
	page, err := os.ReadFile("../docs/format/agents.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(page), "```json\n")
	if len(blocks) < 3 {
		t.Fatal("docs/format/agents.md has no examples")
	}
	example, _, _ := strings.Cut(blocks[2], "```")
	return []string{example, "{}", `{"lease":null,"tasks":null}`,
		`{"lease":{"id":"01JDK7","ttl_ms":600000,"gogc":-1,"gomemlimit":9223372036854775807}}`,
		`{"lease":{"id":"01JDK7","ttl_ms":1e3}}`, `{"lease":{"id":"x","ttl_ms":9223372036854775807}}`, "null", "[]", `{"tasks":[{}]}`,
	}
}

func TestDecodeReply(t *testing.T) {
	r, err := decodeReply([]byte(pollReplies(t)[0]))
	if err != nil {
		t.Fatal(err)
	}
	want := pollReply{
		lease: &lease{ID: "01J...", TTL: 3 * time.Minute, GOGC: ptr(200), Limit: ptr(int64(419430400)), Procs: ptr(2), Rate: ptr(50)},
		tasks: []task{{ID: "01K...", Kind: "goroutines"}, {ID: "01L...", Kind: "trace", Seconds: 5}},
	}
	if !reflect.DeepEqual(r, want) {
		t.Errorf("the page's reply is %+v, want %+v", r, want)
	}
}

// FuzzPollReply: what decodes is within its bounds, means the same as what a plain reading of the
// JSON says, and following it leaves no setting beyond the guards.
func FuzzPollReply(f *testing.F) {
	for _, s := range pollReplies(f) {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeReply(b)
		if err != nil {
			return
		}
		var plain map[string]any
		if err := json.Unmarshal(b, &plain); err != nil {
			t.Fatalf("accepted what is no JSON object: %v", err)
		}
		for _, task := range r.tasks {
			if task.ID == "" || len(task.ID) > maxID || len(task.Kind) > maxID {
				t.Errorf("task %+v", task)
			}
		}
		w := r.lease
		if w == nil {
			return
		}
		if w.ID == "" || len(w.ID) > maxID || w.TTL < time.Millisecond || w.TTL > maxLease {
			t.Errorf("lease %+v", w)
		}
		rt := newFakeRuntime()
		l := newLeaser(rt.knobs(), quiet())
		l.follow(w)
		v := rt.v
		if id, why, _ := l.state(); (id == "") == (why == "") || id == "" && rt.changes != 0 {
			t.Errorf("lease %q, refused %q, %d changes", id, why, rt.changes)
		}
		if v.gogc < leastGOGC && (v.gogc != -1 || v.memlimit == noLimit) || v.effectiveGOGC(v.gogc, v.memlimit) < leastGOGC ||
			rt.procs < 1 || rt.procs > rt.cores || rt.rate < 0 || rt.rate > 200 {
			t.Errorf("%+v leaves %s in force", w, rt)
		}
		l.restore()
		if rt.String() != "100/none/4auto/100" {
			t.Errorf("%+v leaves %s behind", w, rt)
		}
	})
}

// TestBuiltWithProfile: only what the go command noted is known.
func TestBuiltWithProfile(t *testing.T) {
	t.Parallel()
	of := func(settings ...debug.BuildSetting) *debug.BuildInfo { return &debug.BuildInfo{Settings: settings} }
	gc, pgo := debug.BuildSetting{Key: "-compiler", Value: "gc"}, debug.BuildSetting{Key: "-pgo", Value: "default.pgo"}
	if p := builtWithProfile(of(gc, pgo), true); p == nil || !*p {
		t.Errorf("built with a profile: %v", p)
	}
	if p := builtWithProfile(of(gc), true); p == nil || *p {
		t.Errorf("built without: %v", p)
	}
	if p := builtWithProfile(of(), true); p != nil {
		t.Errorf("built by something else: %v", *p)
	}
	if p := builtWithProfile(nil, false); p != nil {
		t.Errorf("nothing is known: %v", *p)
	}
}
