package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// maxBytes bounds what a browser loads before it shows anything, uncompressed; on the wire it is a third of that.
const maxBytes = 320_000

// TestDistIsFresh is red when somebody edits web/ui and forgets `go generate ./web`.
func TestDistIsFresh(t *testing.T) {
	files, err := bundle("../ui")
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for name, want := range files {
		total += len(want)
		got, err := os.ReadFile(filepath.Join("../dist", name))
		if err != nil {
			t.Errorf("%v: run go generate ./web", err)
		} else if !bytes.Equal(got, want) {
			t.Errorf("web/dist/%s is not what web/ui bundles to: run go generate ./web and commit the result", name)
		}
	}
	if total > maxBytes {
		t.Errorf("the dashboard has %d bytes, the limit is %d", total, maxBytes)
	}
	for _, must := range []string{"index.html", "app.js", "app.css"} {
		if len(files[must]) == 0 {
			t.Errorf("the bundle has no %s", must)
		}
	}
	dist, err := os.ReadDir("../dist")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range dist {
		if _, ok := files[e.Name()]; !ok {
			t.Errorf("web/dist/%s is made from nothing in web/ui: delete it", e.Name())
		}
	}
}

func TestErrorsNameThePlace(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "src"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"main.ts": "let x = ;", "app.css": ""} {
		if err := os.WriteFile(filepath.Join(dir, "src", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_, err := bundle(dir)
	if err == nil || !bytes.Contains([]byte(err.Error()), []byte("src/main.ts:1:8")) {
		t.Errorf("got %v, want an error at src/main.ts:1:8", err)
	}
}
