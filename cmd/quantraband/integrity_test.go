package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestIntegrityWatch: a change is said while it watches, and its code is 1 where something differs at the end.
func TestIntegrityWatch(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "watched", "conf")
	for _, err := range []error{os.Mkdir(filepath.Dir(file), 0o755), os.WriteFile(file, []byte("one"), 0o644)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	data := filepath.Join(dir, "data")
	var stdout, stderr bytes.Buffer
	// In the background of this process would be the tests' own.
	if code := run(t.Context(), []string{"integrity", "baseline", filepath.Dir(file), "--data", data, "--background=false"}, nil, &stdout, &stderr); code != exitOK {
		t.Fatalf("code %d: %s", code, &stderr)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	code := make(chan int)
	go func() {
		c := run(ctx, []string{"integrity", "watch", "--data", data, "--settle", "20ms", "--background=false"}, nil, w, &stderr)
		w.Close()
		code <- c
	}()
	// Whether it is seen by the first look or by an event, it is said once.
	for _, err := range []error{os.WriteFile(filepath.Join(dir, "new"), []byte("two!"), 0o644), os.Rename(filepath.Join(dir, "new"), file)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	lines := bufio.NewScanner(r)
	if !lines.Scan() || !strings.Contains(lines.Text(), "/watched/conf (content, size, inode, mtime, ctime)") {
		t.Errorf("it said %q", lines.Text())
	}
	cancel()
	for lines.Scan() {
		t.Errorf("and then %q", lines.Text())
	}
	if c := <-code; c != exitFailed || !strings.Contains(stderr.String(), "1 entries differ from baseline 1") {
		t.Errorf("code %d: %s", c, &stderr)
	}
}

// TestUpWatchesItself: a server makes a baseline of its own files, and what changes in one is in the audit log and in its own.
func TestUpWatchesItself(t *testing.T) {
	dir := t.TempDir()
	rules := filepath.Join(dir, "rules.yaml")
	if err := os.WriteFile(rules, []byte("rules:\n  - changes: [content]\n    severity: critical\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	s := mustStart(t, "--data", data, "--no-self-profile", "--integrity-rules", rules)
	if err := os.WriteFile(rules, []byte("rules:\n  - severity: ignore\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	audit := filepath.Join(data, auditDir)
	deadline, tick := time.After(patience), time.NewTicker(20*time.Millisecond)
	defer tick.Stop()
	for {
		var entries, problems bytes.Buffer
		code := run(t.Context(), []string{"audit", "export", audit}, nil, &entries, &problems)
		if raw := entries.String(); code == exitOK && strings.Contains(raw, `"what":"changed"`) && strings.Contains(raw, "rules.yaml") && strings.Contains(raw, `"severity":"critical"`) {
			break
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("nothing is recorded: %s, code %d: %s; %s", &entries, code, &problems, &s.stderr)
		}
	}
	if code, err := s.stop(os.Interrupt); err != nil || code != exitOK {
		t.Errorf("code %d, %v: %s", code, err, &s.stderr)
	}
	if !strings.Contains(s.stderr.String(), "rules.yaml") {
		t.Errorf("its log has nothing: %s", &s.stderr)
	}
	var stdout, stderr bytes.Buffer
	if code := run(t.Context(), []string{"audit", "verify", audit}, nil, &stdout, &stderr); code != exitOK {
		t.Errorf("code %d: %s", code, &stderr)
	}
}
