// Package wasm runs a handler as a WebAssembly module (wasip1) within this process: no files, no network, no threads, memory by the page,
// and an end at the deadline wherever it is. It fences wazero.
//
// What holds a handler is the compiler and the runtime, so a fault of theirs is a way out; that is why it is called a boundary of
// software. The share of a processor is not bounded, only the time.
package wasm

import (
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
	"github.com/tetratelabs/wazero/sys"
	"golang.org/x/time/rate"

	"github.com/quantra-l/quantra/sandbox"
)

// Options are the isolation's.
type Options struct {
	// Cache is a folder for compiled modules, which is machine code that this process runs: nobody else may write to it. It is made if it
	// is missing. "" keeps them in memory only.
	Cache string
}

// pageSize is WebAssembly's.
const pageSize = 64 << 10

// What a handler says beside its channel is taken at this rate, in bytes a second, with so much at once. One that says more waits.
const (
	stderrRate  = 64 << 10
	stderrBurst = 256 << 10
)

// maxCompiled is how many modules stay compiled in memory for each size.
const maxCompiled = 16

// isolation implements [sandbox.Isolation]. The lock guards what is below it, and is held while a module is compiled: the next to ask would
// wait for the same.
type isolation struct {
	cache wazero.CompilationCache

	mu    sync.Mutex
	sizes map[uint32]*size // by pages: a runtime has one limit
}

type size struct {
	runtime wazero.Runtime
	modules map[[32]byte]*module
}

type module struct {
	wazero.CompiledModule
	users int
}

// New makes the isolation.
func New(o Options) (sandbox.Isolation, error) {
	cache := wazero.NewCompilationCache()
	if o.Cache != "" {
		if err := private(o.Cache); err != nil {
			return nil, err
		}
		var err error
		if cache, err = wazero.NewCompilationCacheWithDir(o.Cache); err != nil {
			return nil, fmt.Errorf("the cache of compiled modules: %w", err)
		}
	}
	return &isolation{cache: cache, sizes: map[uint32]*size{}}, nil
}

// private makes the folder, or refuses it if others may write to it: they would write this process's code.
func private(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("the cache of compiled modules: %w", err)
	}
	info, err := os.Lstat(dir)
	switch {
	case err != nil:
		return fmt.Errorf("the cache of compiled modules: %w", err)
	case info.Mode()&fs.ModeSymlink != 0 || !info.IsDir():
		return fmt.Errorf("the cache of compiled modules, %s, is not a folder: name another", dir)
	case runtime.GOOS != "windows" && info.Mode().Perm()&0o022 != 0: // Windows has no such bits
		return fmt.Errorf("the cache of compiled modules, %s, can be written by others (%v), and what is in it is run: chmod 700 it when you know what is in it, or name another", dir, info.Mode().Perm())
	}
	return nil
}

func (i *isolation) Echo() (*sandbox.Image, []string, error) {
	return sandbox.NewImage("the small guest", echo), nil, nil
}

func (i *isolation) Boundary(context.Context) (sandbox.Boundary, string, error) {
	return sandbox.BoundarySoftware, "wazero, " + engine(), nil
}

// engine says whether modules become machine code here.
func engine() string {
	switch runtime.GOARCH {
	case "amd64", "arm64":
		return "compiled"
	}
	return "interpreted"
}

// Warm is false: an instance costs next to nothing, so each session has a fresh one.
func (i *isolation) Warm() bool { return false }

// take returns a compiled module for its runtime; give it back with drop.
func (i *isolation) take(ctx context.Context, im *sandbox.Image, pages uint32) (*size, *module, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	s := i.sizes[pages]
	if s == nil {
		config := wazero.NewRuntimeConfig().WithCompilationCache(i.cache).WithMemoryLimitPages(pages).WithCloseOnContextDone(true)
		// The runtime outlives the session that is the first to need it.
		r := wazero.NewRuntimeWithConfig(context.WithoutCancel(ctx), config)
		if _, err := wasi_snapshot_preview1.Instantiate(context.WithoutCancel(ctx), r); err != nil {
			return nil, nil, errors.Join(fmt.Errorf("WASI: %w", err), r.Close(context.WithoutCancel(ctx)))
		}
		s = &size{runtime: r, modules: map[[32]byte]*module{}}
		i.sizes[pages] = s
	}
	m := s.modules[im.Sum]
	if m == nil {
		for sum, old := range s.modules {
			if len(s.modules) >= maxCompiled && old.users == 0 {
				delete(s.modules, sum)
				_ = old.Close(context.WithoutCancel(ctx)) // it only lets go of memory
			}
		}
		b, err := im.Bytes()
		if err != nil {
			return nil, nil, err
		}
		c, err := s.runtime.CompileModule(ctx, b)
		if err != nil {
			return nil, nil, fmt.Errorf("%s is no module for wasip1: %w", im.Path, err)
		}
		m = &module{CompiledModule: c}
		s.modules[im.Sum] = m
	}
	m.users++
	return s, m, nil
}

func (i *isolation) drop(m *module) {
	i.mu.Lock()
	defer i.mu.Unlock()
	m.users--
}

func (i *isolation) Start(ctx context.Context, l sandbox.Launch) (*sandbox.Guest, error) {
	if l.Network {
		return nil, sandbox.Unavailable("a WebAssembly module has no network that could be granted: use process")
	}
	s, m, err := i.take(ctx, l.Image, uint32(min(l.Limits.Memory/pageSize, 65536)))
	if err != nil {
		return nil, err
	}
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	own, cancel := context.WithCancel(context.Background())
	config := configure(own, l).WithStdin(inR).WithStdout(outW)
	ended := make(chan error, 1)
	go func() {
		err := s.run(own, m, config)
		// Who waits for an answer sees the end at once.
		outW.Close()
		inR.Close()
		ended <- err
	}()
	kill := func() {
		cancel()
		inR.Close()
		outR.Close()
	}
	return &sandbox.Guest{Stdin: inW, Stdout: outR, Kill: kill, Wait: func() error {
		err := <-ended
		cancel()
		i.drop(m)
		return err
	}}, nil
}

// run is the module's whole life.
func (s *size) run(ctx context.Context, m *module, config wazero.ModuleConfig) (err error) {
	var held memories
	defer held.release()
	ctx = experimental.WithMemoryAllocator(ctx, &held)
	defer func() {
		// A fault in the runtime ends the session, not the process. (Memory that was broken by it is not mended by this.)
		if p := recover(); p != nil {
			err = fmt.Errorf("the WebAssembly runtime failed: %v", p)
		}
	}()
	instance, err := s.runtime.InstantiateModule(ctx, m.CompiledModule, config)
	if instance != nil {
		err = errors.Join(err, instance.Close(context.WithoutCancel(ctx)))
	}
	var exit *sys.ExitError
	if errors.As(err, &exit) {
		switch exit.ExitCode() {
		case 0:
			return nil
		case sys.ExitCodeContextCanceled, sys.ExitCodeDeadlineExceeded:
			return errors.New("it was killed")
		}
		return fmt.Errorf("it ended with exit status %d", exit.ExitCode())
	}
	return err
}

// configure is all that a module has of the host.
func configure(ctx context.Context, l sandbox.Launch) wazero.ModuleConfig {
	c := wazero.NewModuleConfig().WithName("").WithArgs(append([]string{"handler"}, l.Args...)...).
		WithStderr(&slowWriter{ctx, l.Stderr, rate.NewLimiter(stderrRate, stderrBurst)}).
		WithOsyield(runtime.Gosched)
	if l.Fixed {
		// wazero's own clocks are the same at each start, and a sleep moves them on at once.
		return c.WithRandSource(rand.NewChaCha8([32]byte{}))
	}
	return c.WithSysWalltime().WithSysNanotime().WithRandSource(crand.Reader).WithNanosleep(func(ns int64) {
		// In the host, so nothing of the module's looks at the context meanwhile.
		t := time.NewTimer(time.Duration(ns))
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	})
}

// slowWriter takes what a module says at a bounded rate.
type slowWriter struct {
	ctx context.Context
	w   io.Writer
	l   *rate.Limiter
}

func (s *slowWriter) Write(p []byte) (int, error) {
	for done := 0; done < len(p); {
		n := min(len(p)-done, stderrBurst)
		if err := s.l.WaitN(s.ctx, n); err != nil {
			return done, err
		}
		if _, err := s.w.Write(p[done : done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return len(p), nil
}

func (i *isolation) Close() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	var errs []error
	for _, s := range i.sizes {
		errs = append(errs, s.runtime.Close(context.Background()))
	}
	return errors.Join(append(errs, i.cache.Close(context.Background()))...)
}
