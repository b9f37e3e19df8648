package main

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/analyze/price"
)

// TestReread: a file is read again when it changes; one that is wrong, or gone, leaves what it said, and is complained of once.
func TestReread(t *testing.T) {
	path := filepath.Join(t.TempDir(), "machines.yaml")
	at := time.Now().Add(time.Hour) // later than the first reading
	write := func(text string) {
		t.Helper()
		at = at.Add(time.Minute)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
		at = at.Add(10 * time.Second)
	}
	machine := func(name string) string {
		return "machines:\n  - name: " + name + "\n    edges:\n      - {from: a, to: b}\n"
	}
	write(machine("one"))
	var log bytes.Buffer
	r, err := openReread("state machines", path, nil, loadMachines, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	r.now = func() time.Time { return at }
	name := func() string {
		at = at.Add(rereadEvery)
		m := r.get()
		if len(m) != 1 {
			t.Fatalf("machines %+v", m)
		}
		return m[0].Name
	}
	if name() != "one" || r.wrong() != "" {
		t.Errorf("at first: %v", r.get())
	}
	write(machine("two"))
	if got := name(); got != "two" || !strings.Contains(log.String(), "were read again") {
		t.Errorf("after a change it is %s; log %s", got, log.String())
	}
	for _, c := range []struct {
		do   func()
		want string
	}{
		{func() { write("machines: nonsense") }, "machines.yaml"},
		{func() { os.Remove(path) }, "no such file"},
		{func() { os.Mkdir(path, 0o700) }, "not a regular file"},
	} {
		log.Reset()
		c.do()
		if got := name(); got != "two" || !strings.Contains(r.wrong(), c.want) || !strings.Contains(r.wrong(), "state machines stay what they were") {
			t.Errorf("%s, wrong: %q, want %q", got, r.wrong(), c.want)
		}
		name()
		if n := strings.Count(log.String(), "level=WARN"); n != 1 {
			t.Errorf("said %d times: %s", n, log.String())
		}
	}
	os.Remove(path)
	write(machine("three"))
	if got := name(); got != "three" || r.wrong() != "" {
		t.Errorf("right again it is %s, wrong %q", got, r.wrong())
	}
	// Written twice within what a file system's clock tells apart, with the same length.
	write(machine("four"))
	at = at.Add(-10 * time.Second)
	if got := name(); got != "four" {
		t.Errorf("it is %s", got)
	}
	if err := os.WriteFile(path, []byte(machine("five")), 0o600); err != nil {
		t.Fatal(err)
	}
	stamp := r.seen.modified
	if err := os.Chtimes(path, stamp, stamp); err != nil {
		t.Fatal(err)
	}
	if got := name(); got != "five" {
		t.Errorf("it is %s", got)
	}
	if _, err := openReread("prices", path+".no", nil, readPrices, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a file that is not there is taken at the start")
	}
	if p, err := openReread("prices", "", price.Default(), readPrices, slog.New(slog.DiscardHandler)); err != nil || p.get() == nil || p.wrong() != "" {
		t.Errorf("without a file: %v", err)
	}
}
