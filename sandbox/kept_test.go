package sandbox_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/quantra-l/quantra/sandbox"
)

// What is made of handlers is made once, and removed when there is much that nobody uses.
func TestKept(t *testing.T) {
	var k sandbox.Kept
	dir, made := t.TempDir(), 0
	image := func(i int) *sandbox.Image { return sandbox.NewImage("x", fmt.Append(nil, i)) }
	take := func(i int) (string, func()) {
		t.Helper()
		path, drop, err := k.Take(image(i), func() (string, error) {
			made++
			path := filepath.Join(dir, fmt.Sprint(made))
			return path, os.WriteFile(path, nil, 0o600)
		})
		if err != nil {
			t.Fatal(err)
		}
		return path, drop
	}
	inUse, drop := take(0)
	for range 3 {
		if again, _ := take(0); again != inUse {
			t.Error("made twice")
		}
	}
	for i := 1; i < 100; i++ {
		_, drop := take(i)
		drop()
		drop()
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) > 16 || made != 100 {
		t.Errorf("%d of %d are left, %v", len(left), made, err)
	}
	if _, err := os.Stat(inUse); err != nil {
		t.Error("what is in use was removed")
	}
	drop()
	if _, _, err := k.Take(image(1000), func() (string, error) { return "", errors.New("no room") }); err == nil {
		t.Error("what could not be made was given")
	}
}

func TestImage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "handler")
	if err := os.WriteFile(path, []byte("one"), 0o755); err != nil {
		t.Fatal(err)
	}
	im, err := sandbox.OpenImage(path)
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	if err := os.Rename(path, path+".old"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("two"), 0o755); err != nil {
		t.Fatal(err)
	}
	if b, err := im.Bytes(); err != nil || string(b) != "one" {
		t.Errorf("another file in its place: %q, %v", b, err)
	}
	if err := os.WriteFile(path+".old", []byte("bad"), 0o755); err != nil {
		t.Fatal(err)
	}
	if b, err := im.Bytes(); err == nil {
		t.Errorf("changed in place: %q", b)
	}
	if im.Static() == nil {
		t.Error("a text is a program")
	}
	big := filepath.Join(t.TempDir(), "big")
	f, err := os.Create(big)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(sandbox.MaxImage + 1); err != nil {
		t.Fatal(err)
	}
	if _, err := sandbox.OpenImage(big); err == nil {
		t.Error("a handler without bound was opened")
	}
}
