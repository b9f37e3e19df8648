package lock

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/google/pprof/profile"

	"github.com/quantra-l/quantra/agent"
)

// TestAgentTakesItAlong: an agent that is given the source sends what each window added, and shows the locks in its status.
func TestAgentTakesItAlong(t *testing.T) {
	came := make(chan *profile.Profile, 100)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("name") == "lock" {
			p, err := profile.Parse(r.Body)
			if err != nil {
				t.Error(err)
			}
			select {
			case came <- p:
			default:
			}
		}
		io.WriteString(w, `{"service":"x"}`)
	}))
	defer srv.Close()
	a, err := agent.Start(t.Context(), agent.Options{
		Server: srv.URL, Region: "local", SpoolBytes: -1, Types: agent.Runtime, Sources: []agent.Source{Source()},
		Window: 100 * time.Millisecond, Upload: 100 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	mu := Mutex{Name: "taken along"}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				mu.Lock()
				for i := range 10000 {
					work += i
				}
				mu.Unlock()
			}
		})
	}
	var contentions int64
	for contentions == 0 {
		p := <-came
		if err := p.CheckValid(); err != nil {
			t.Error(err)
		}
		for _, s := range p.Sample {
			for _, v := range s.Value {
				if v < 0 {
					t.Errorf("a window lost %d", -v)
				}
			}
			if n := s.Label["lock"]; len(n) == 1 && n[0] == "taken along" {
				contentions += s.Value[0]
			}
		}
	}
	if _, ok := a.Status().Sources["lock"]; !ok {
		t.Error("the status does not show the locks")
	}
	close(stop)
	wg.Wait()
	if err := a.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

var work int // under the lock
