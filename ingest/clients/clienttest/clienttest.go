// Package clienttest runs the clients of others, unmodified, against a server of ours. Each is a module of its own in ingest/clients, so that
// what it needs is no need of ours; go builds it on first use and keeps it in its cache. As that is too much for a first "go test ./...",
// they run only when QUANTRA_CI or QUANTRA_CLIENTS is set. What was seen is a line in the file that QUANTRA_COMPATIBILITY names, if it does.
package clienttest

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// TB is what is used of testing.TB, so that no production build has package testing.
type TB interface {
	Helper()
	Context() context.Context
	TempDir() string
	Fatalf(format string, args ...any)
	Skipf(format string, args ...any)
}

// Seen is one row of docs/compatibility.md.
type Seen struct {
	Client  string `json:"client"`
	Version string `json:"version"`
	Sent    string `json:"sent"`
	Seen    string `json:"seen"`
	Date    string `json:"date"` // of the run, in UTC: 2006-01-02
}

// Run runs the client in ingest/clients/name with arguments, and further environment as KEY=value, and gives what it printed. A client that
// fails fails the test.
func Run(t TB, name string, env []string, args ...string) string {
	t.Helper()
	program := build(t, name)
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("the client %s: %v\n%s", name, err, out)
	}
	return string(out)
}

// Folder is where the client's module lies.
func Folder(name string) string {
	_, here, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(here), "..", name)
}

func build(t TB, name string) string {
	t.Helper()
	if os.Getenv("QUANTRA_CI") == "" && os.Getenv("QUANTRA_CLIENTS") == "" {
		t.Skipf("set QUANTRA_CLIENTS=1 to test with the client in ingest/clients/%s; its first build takes a minute or two", name)
	}
	program := filepath.Join(t.TempDir(), name) // of one test: the linker's work is seconds, what it links is cached
	cmd := exec.Command("go", "build", "-o", program, ".")
	cmd.Dir = Folder(name)
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("the client %s cannot be built: %v\n%s", name, err, out)
	}
	return program
}

// Version is the version of a module that the client is built from.
func Version(t TB, name, module string) string {
	t.Helper()
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Version}}", module)
	cmd.Dir = Folder(name)
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("which version of %s %s has: %v", module, name, err)
	}
	return strings.TrimSpace(string(out))
}

// Record adds a row to the file of what was seen.
func Record(t TB, s Seen) {
	t.Helper()
	path := os.Getenv("QUANTRA_COMPATIBILITY")
	if path == "" {
		return
	}
	s.Date = time.Now().UTC().Format(time.DateOnly)
	var line bytes.Buffer
	if err := json.NewEncoder(&line).Encode(s); err != nil {
		t.Fatalf("%v", err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatalf("QUANTRA_COMPATIBILITY: %v", err)
	}
	_, err = f.Write(line.Bytes()) // one write: tests of several packages add to it
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		t.Fatalf("QUANTRA_COMPATIBILITY: %v", err)
	}
}
