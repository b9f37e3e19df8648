package wasm_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/quantra-l/quantra/sandbox"
	"github.com/quantra-l/quantra/sandbox/sandboxtest"
	"github.com/quantra-l/quantra/sandbox/wasm"
)

// shared is a folder of the tests: compiling takes most of their time, so they do it once.
var shared string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if shared, err = os.MkdirTemp("", "quantra-wasm-"); err != nil {
			panic(err)
		}
		defer os.RemoveAll(shared)
		return m.Run()
	}())
}

func isolation(t *testing.T, cache string) sandbox.Isolation {
	t.Helper()
	iso, err := wasm.New(wasm.Options{Cache: cache})
	if err != nil {
		t.Fatal(err)
	}
	return iso
}

func TestSuite(t *testing.T) {
	before := sandboxtest.Leftovers(t)
	cache := filepath.Join(shared, "cache")
	sandboxtest.Suite(t, before, sandboxtest.Config{Kind: sandbox.Wasm, Isolation: isolation(t, cache), Handler: sandboxtest.Build(t, "wasip1", "wasm"), Shared: true,
		// Go's own network for wasip1 is within the module's memory.
		Own: []string{"listen", "dial udp"}})
	kept := 0
	err := filepath.WalkDir(cache, func(_ string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			kept++
		}
		return err
	})
	if err != nil || kept == 0 {
		t.Errorf("%d compiled modules were kept on disk, %v", kept, err)
	}
}

// With a fixed clock and randomness, two runs are the same; without, they are not.
func TestFixed(t *testing.T) {
	handler := sandboxtest.Build(t, "wasip1", "wasm")
	iso := isolation(t, filepath.Join(shared, "cache"))
	pool, err := sandbox.New(sandbox.Options{Isolations: map[sandbox.Kind]sandbox.Isolation{sandbox.Wasm: iso}, StartTimeout: sandboxtest.Patience})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	for _, fixed := range []bool{true, false} {
		said := map[string]bool{}
		for range 2 {
			s, err := pool.Start(t.Context(), sandbox.Spec{Isolation: sandbox.Wasm, Principal: "x", Handler: handler, Args: []string{"do"}, Fixed: fixed})
			if err != nil {
				t.Fatal(err)
			}
			answer, err := s.Call(t.Context(), []byte("clock"))
			if err != nil {
				t.Fatal(err)
			}
			said[string(answer)] = true
			s.Close()
		}
		if (len(said) == 1) != fixed {
			t.Errorf("fixed %v: %v", fixed, said)
		}
	}
}

func TestRefused(t *testing.T) {
	pool, err := sandbox.New(sandbox.Options{Isolations: map[sandbox.Kind]sandbox.Isolation{sandbox.Wasm: isolation(t, "")}, StartTimeout: sandboxtest.Patience})
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	spec := sandbox.Spec{Isolation: sandbox.Wasm, Principal: "x", Handler: filepath.Join(t.TempDir(), "m.wasm")}
	if err := os.WriteFile(spec.Handler, []byte("\x00asm nonsense"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Start(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "no module for wasip1") {
		t.Error(err)
	}
	spec.Network = true
	if _, err := pool.Start(t.Context(), spec); !errors.Is(err, sandbox.ErrUnavailable) {
		t.Error(err)
	}
}

// Who can write to the cache of compiled modules writes code of this process.
func TestCacheIsPrivate(t *testing.T) {
	dir := t.TempDir()
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, cache := range []string{open, link} {
		if _, err := wasm.New(wasm.Options{Cache: cache}); err == nil {
			t.Errorf("%s was taken", cache)
		}
	}
}

// BenchmarkStart is from the wish to the handler's Hello, with the module compiled.
func BenchmarkStart(b *testing.B) {
	handler := sandboxtest.Build(b, "wasip1", "wasm")
	iso, err := wasm.New(wasm.Options{})
	if err != nil {
		b.Fatal(err)
	}
	pool, err := sandbox.New(sandbox.Options{Isolations: map[sandbox.Kind]sandbox.Isolation{sandbox.Wasm: iso}, StartTimeout: sandboxtest.Patience})
	if err != nil {
		b.Fatal(err)
	}
	defer pool.Close()
	spec := sandbox.Spec{Isolation: sandbox.Wasm, Principal: "x", Handler: handler}
	first, err := pool.Start(b.Context(), spec) // compiles
	if err != nil {
		b.Fatal(err)
	}
	first.Close()
	sandboxtest.BenchmarkStart(b, pool, spec)
}
