package ingest

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// clock is a time that stands until it is moved.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) forward(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// TestTenantRate: who sends more than it may is told how long to wait, and gets through then; others are not held up.
func TestTenantRate(t *testing.T) {
	at := &clock{t: time.Now()}
	var s sink
	pad := sample()
	pad.Comments = []string{strings.Repeat("x", 100<<10)}
	body := pad.AppendPprof(nil)
	const rate = 50 << 10 // one body takes two seconds, and a bit
	_, srv := serve(t, Options{Append: s.append, TenantRate: rate, TenantBurst: 150 << 10, MaxAge: -1, Now: at.now})
	push := func(tenant string) (int, string, string) {
		status, code, text, h := request{path: "/api/v1/profiles?service_name=a", body: body, header: map[string]string{"X-Scope-OrgID": tenant}}.do(t, srv)
		if status == 429 && (code != "rate_limited" || !strings.Contains(text, strconv.Itoa(rate))) {
			t.Errorf("code %q: %s", code, text)
		}
		return status, h.Get("Retry-After"), text
	}
	if status, _, text := push("a"); status != 200 {
		t.Fatalf("the first: %d %s", status, text)
	}
	status, after, _ := push("a")
	if status != 429 || after != "2" {
		t.Fatalf("the second: %d, Retry-After %q; 51 KiB are missing, 50 come a second", status, after)
	}
	if status, _, text := push("b"); status != 200 {
		t.Errorf("another tenant: %d %s", status, text)
	}
	at.forward(2 * time.Second)
	if status, _, text := push("a"); status != 200 {
		t.Errorf("after what it was told: %d %s", status, text)
	}
	// Sustained: as much as the rate allows, whatever is tried.
	kept := 0
	for range 100 {
		at.forward(100 * time.Millisecond)
		if status, _, _ := push("a"); status == 200 {
			kept++
		}
	}
	if want := 10 * rate / len(body); kept < want-1 || kept > want+2 {
		t.Errorf("%d profiles in ten seconds, about %d are allowed", kept, want)
	}
}

// TestTenantRateWithoutLength: a body that does not say how long it is counts when it has been read.
func TestTenantRateWithoutLength(t *testing.T) {
	at := &clock{t: time.Now()}
	var s sink
	_, srv := serve(t, Options{Append: s.append, TenantRate: 1, TenantBurst: 100, MaxAge: -1, Now: at.now})
	for i, want := range []int{200, 429} {
		r, err := http.NewRequest("POST", srv.URL+"/api/v1/profiles?service_name=a", struct{ *strings.Reader }{strings.NewReader(string(sample().AppendPprof(nil)))})
		if err != nil {
			t.Fatal(err)
		}
		r.ContentLength = -1
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("upload %d: %d, want %d", i, resp.StatusCode, want)
		}
	}
}

// TestRatesBound: names do not grow memory without end, nor get around the limit.
func TestRatesBound(t *testing.T) {
	at := &clock{t: time.Now()}
	r := newRates(10, 100, at.now)
	for i := range maxRates {
		if err := r.take(fmt.Sprint(i), 100); err != nil {
			t.Fatal(err)
		}
	}
	let := 0
	for i := range 50 {
		err := r.take(fmt.Sprint("more", i), 100)
		var f *fault
		if err == nil {
			let++
		} else if !errors.As(err, &f) || f.status != 429 || f.retry < time.Second {
			t.Fatal(err)
		}
	}
	if let != 1 || len(r.of) != maxRates {
		t.Errorf("%d let in beyond the bound, %d told apart", let, len(r.of))
	}
	at.forward(time.Minute)
	if err := r.take("later", 100); err != nil || len(r.of) != 1 {
		t.Errorf("%v, %d told apart when all are idle", err, len(r.of))
	}
	if err := r.take("later", 1<<40); err == nil {
		t.Error("more than the burst was let in though nothing was left")
	}
	var none *rates
	if err := none.take("x", 1<<40); err != nil {
		t.Error(err)
	}
}
