package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/quantra-l/quantra/integrity"
	"github.com/quantra-l/quantra/watch/alert"
)

// TestFileAlerts: an event goes to the channels of its severity, again where one is away, and is not lost where there is no room.
func TestFileAlerts(t *testing.T) {
	heard := make(chan alert.Message, 10)
	away := 2
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var m alert.Message
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil {
			t.Error(err)
		}
		if away > 0 { // one alert at a time: there is one
			away--
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		heard <- m
	}))
	defer s.Close()
	cfg, err := alert.Parse([]byte("channels: [{name: a, type: webhook, url: '"+s.URL+"'}]\nfiles: [{min_severity: critical, channels: [a]}]\n"), os.LookupEnv)
	if err != nil {
		t.Fatal(err)
	}
	f := newFileAlerts(func() *alert.Config { return cfg }, "http://q", prometheus.NewRegistry(), silent)
	f.first = time.Millisecond
	stop := inBackground(t.Context(), f.run)
	e := integrity.Event{Time: time.Now(), Kind: "changed", Severity: integrity.Warning, Path: "/bin/su", Text: "it\nis\x1b[31m another"}
	if err := f.alert(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	e.Severity = integrity.Critical
	if err := f.alert(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	m := <-heard
	if m.File == nil || m.File.Severity != "critical" || m.File.Path != "/bin/su" || m.Link != "http://q" || m.Status != "open" {
		t.Errorf("%+v", m)
	}
	eventually(t, "that it was sent is counted", func() (bool, error) { return testutil.ToFloat64(f.told.WithLabelValues("sent")) == 1, nil })
	stop()
	for i := range maxFileAlerts {
		if err := f.alert(t.Context(), e); err != nil {
			t.Fatalf("alert %d: %v", i, err)
		}
	}
	if err := f.alert(t.Context(), e); !errors.Is(err, errAlertsFull) {
		t.Errorf("without room: %v", err)
	}
}

// TestWatchedFilesTell: a server that watches its files tells a channel of one that changes, and counts it.
func TestWatchedFilesTell(t *testing.T) {
	dir := t.TempDir()
	heard := make(chan alert.Message, 100)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var m alert.Message
		if json.NewDecoder(r.Body).Decode(&m) == nil {
			heard <- m
		}
	}))
	defer hook.Close()
	rules, prices := filepath.Join(dir, "alerts.yaml"), filepath.Join(dir, "prices.yaml")
	if err := errors.Join(os.WriteFile(rules, []byte("channels: [{name: a, type: webhook, url: '"+hook.URL+"'}]\n"), 0o600), os.WriteFile(prices, []byte("default: {core_hour: 0.04}\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	s := mustStart(t, "--data", filepath.Join(dir, "data"), "--no-self-profile", "--integrity", "--alerts", rules, "--prices", prices, "--isolations", "none")
	if err := os.WriteFile(prices, []byte("default: {core_hour: 0.05}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		select {
		case m := <-heard:
			if m.File == nil || m.File.Path != prices {
				t.Logf("told of %+v", m.File)
				continue
			}
		case <-ctx.Done():
			t.Fatalf("nobody was told: %s", &s.stderr)
		}
		break
	}
	res, err := owner(s.base).Get(s.base + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil || !strings.Contains(string(text), `quantra_integrity_events_total{kind="`) {
		t.Errorf("metrics have no count of it: %v", err)
	}
}
