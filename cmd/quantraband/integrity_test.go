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
