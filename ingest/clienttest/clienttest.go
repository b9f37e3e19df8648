// Package clienttest is for tests that run official clients of other projects: it
// finds what they need, and writes down what was seen, of which bench/compatibility makes docs/compatibility.md.
package clienttest

import (
	"encoding/json"
	"os"
	"sync"
	"testing"
	"time"
)

// Need is the value of an environment variable that says where an external part is. Without it the test is skipped, loudly; with QUANTRA_CI
// that is a failure: .ci/run sets all of them.
func Need(t testing.TB, variable, what string) string {
	t.Helper()
	v := os.Getenv(variable)
	if v != "" {
		return v
	}
	if os.Getenv("QUANTRA_CI") != "" {
		t.Fatalf("%s is not set, and QUANTRA_CI is: it must name %s", variable, what)
	}
	t.Skipf("SKIPPED, NOT TESTED: %s is not set; it names %s (`.ci/run install` brings it)", variable, what)
	return ""
}

// Row is one row of docs/compatibility.md.
type Row struct {
	Protocol string `json:"protocol"` // as people look for it: Pyroscope /ingest, OTLP gRPC
	Client   string `json:"client"`
	Version  string `json:"version"`
	Sent     string `json:"sent"`
	Seen     string `json:"seen"`
	Date     string `json:"date"` // of the run; Record sets it
}

var mu sync.Mutex // tests run side by side

// Record writes a row to the file that QUANTRA_COMPATIBILITY names, if it names one. Only a test that has not failed does.
func Record(t testing.TB, r Row) {
	t.Helper()
	path := os.Getenv("QUANTRA_COMPATIBILITY")
	if path == "" || t.Failed() {
		return
	}
	r.Date = time.Now().UTC().Format(time.DateOnly)
	line, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(append(line, '\n')) // one write: other packages' tests append to the same file
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		t.Fatal(err)
	}
}
