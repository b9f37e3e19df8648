package demo

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/optimize/judge"
	"github.com/quantra-l/quantra/profile"
)

// TestBuild: what is put to the fleet's build file comes to one node as another version, and goes with the file.
func TestBuild(t *testing.T) {
	r := newReceiver(t)
	file := filepath.Join(t.TempDir(), "default.pgo")
	f, err := StartFleet(t.Context(), FleetOptions{Server: r.URL, N: 4, Rate: -1, Build: file, Logger: testLogger(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Stop(t.Context())
	before := f.PIDs()
	runs := func(what, version string) int {
		t.Helper()
		deadline := time.After(30 * time.Second)
		for {
			f.mu.Lock()
			last, url, pid, changed := f.last, f.urls[3], f.pids[Service+"-4"], f.changed
			f.mu.Unlock()
			if last == version && url != "" && pid != 0 {
				return pid
			}
			select {
			case <-changed:
			case <-deadline:
				t.Fatalf("%s: after 30 s it runs %s at %q, want %s", what, last, url, version)
			}
		}
	}
	if pid := runs("at the start", V2); pid != before[Service+"-4"] {
		t.Errorf("pid %d, was %d", pid, before[Service+"-4"])
	}
	if err := os.WriteFile(file, []byte("a profile"), 0o600); err != nil {
		t.Fatal(err)
	}
	built := runs("with a profile", V3)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if back := runs("without it", V2); back == built || built == before[Service+"-4"] {
		t.Errorf("pids %d, %d, %d: want another for each build", before[Service+"-4"], built, back)
	}
	now := f.PIDs()
	for _, name := range []string{"-1", "-2", "-3"} {
		if now[Service+name] != before[Service+name] {
			t.Errorf("%s%s was touched", Service, name)
		}
	}
}

// burn is a CPU profile of a shop at work, and the processor time of a request, by its samples.
func burn(t *testing.T, version string) (*profile.Profile, float64) {
	t.Helper()
	h := NewShop(version, nil).Handler()
	var raw bytes.Buffer
	if err := pprof.StartCPUProfile(&raw); err != nil {
		t.Fatal(err)
	}
	for i := range requests {
		q := httptest.NewRequest(http.MethodPost, "/checkout", bytes.NewReader(randomOrder()))
		if i%4 == 3 {
			q = httptest.NewRequest(http.MethodGet, "/report", nil)
		}
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, q); w.Code != http.StatusOK {
			t.Fatal(w.Code, w.Body)
		}
	}
	pprof.StopCPUProfile()
	p, _, err := profile.Read(&raw, profile.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return p, float64(p.Total(p.Column("cpu"))) / 1e9 / requests
}

// requests of a burn.
const requests = 250

// TestSlowBuild: of real profiles of the two builds the judge names the function that is slower in the planted one.
func TestSlowBuild(t *testing.T) {
	now := time.Date(2026, 11, 26, 9, 0, 0, 0, time.UTC)
	member := func(name, version string) judge.Member {
		p, cpu := burn(t, version)
		m := judge.Member{Name: name, Version: version, Profile: p, Column: p.Column("cpu"), Seconds: 2, Requests: requests, Series: map[string][]judge.Point{}}
		for i := range 40 {
			from := now.Add(time.Duration(i-40) * 10 * time.Second)
			m.Series["cpu_per_request"] = append(m.Series["cpu_per_request"], judge.Point{From: from, To: from.Add(10 * time.Second), Value: cpu * (1 + 0.01*float64(i%3)), Weight: 100})
		}
		return m
	}
	treated, control := member("checkout-4", V3), member("checkout-3", V2)
	treated.Applied = now.Add(-400 * time.Second)
	v := judge.Judge(judge.Input{Metrics: []judge.Metric{{Name: "cpu_per_request", Critical: true, Tolerate: 0.05, PerRequest: true}},
		Treated: []judge.Member{treated}, Control: []judge.Member{control}, From: treated.Applied, To: now}, judge.Options{})
	// Under the race detector most of what the function costs is the detector's.
	if v.Decision != judge.Fail || !underRace && (v.Guilty != SlowFunction || !strings.Contains(v.Reason, "signReceipt")) {
		t.Errorf("%s, guilty %q: %s", v.Decision, v.Guilty, v.Reason)
	}
	t.Log(v.Reason)
}
