//go:build unix

package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/scale"
	"github.com/quantra-l/quantra/optimize/scale/scaletest"
)

// group is a supervisor's group of 4 workers that run.
type group struct {
	dir string
	o   Options
}

func newGroup(t *testing.T) *group {
	t.Helper()
	life, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	over := make(chan struct{})
	go func() {
		defer close(over)
		for {
			c, err := life.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
		}
	}()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	g := &group{dir: t.TempDir()}
	t.Cleanup(func() { // before the folder is removed
		if err := life.Close(); err != nil {
			t.Error(err)
		}
		<-over
		for _, c := range conns {
			_ = c.Close() // ends the worker, unless it has ended
		}
	})
	g.o = Options{
		Get:     []string{exe, "get", "{{.Group}}"},
		Set:     []string{exe, "set", "{{.Group}}", "{{.Replicas}}"},
		Check:   []string{exe, "check", "{{.Group}}", "{{.Replicas}}"},
		Drain:   []string{exe, "drain", "{{.Group}}", "{{.Node}}"},
		Undrain: []string{exe, "undrain", "{{.Group}}", "{{.Node}}"},
		// A program that is built with the race detector sleeps a second before it ends, unless it is told not to.
		Env: []string{envDir + "=" + g.dir, envLife + "=" + life.Addr().String(), "GORACE=atexit_sleep_ms=0"},
	}
	if err := os.MkdirAll(filepath.Join(g.dir, "shop"), 0o700); err != nil {
		t.Fatal(err)
	}
	g.want(t, 0)
	g.meddle(t, 4)
	g.settle(t)
	return g
}

func (g *group) want(t *testing.T, n int) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, "shop", "want"), []byte(fmt.Sprint(n)), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (g *group) place(t *testing.T) *Commands {
	t.Helper()
	c, err := New(g.o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// meddle runs the set command as a person would.
func (g *group) meddle(t *testing.T, n int) {
	t.Helper()
	c := g.place(t)
	if _, err := c.call(t.Context(), "set", c.set, argument{Group: "shop", Replicas: n}); err != nil {
		t.Fatal(err)
	}
}

// settle waits until the processes are as many as are asked for.
func (g *group) settle(t *testing.T) {
	t.Helper()
	for deadline := time.After(30 * time.Second); ; {
		st, err := g.place(t).Get(t.Context(), "shop")
		if err == nil && st.Current == st.Replicas && st.Ready == st.Replicas {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("it does not settle: %+v, %v", st, err)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func TestPlace(t *testing.T) {
	scaletest.Run(t, func(t *testing.T) scaletest.Place {
		g := newGroup(t)
		return scaletest.Place{
			Replicas: g.place(t), Group: "shop", Missing: "none",
			Meddle: func(n int) { g.meddle(t, n) },
			Settle: func() { g.settle(t) },
			Remove: func() {
				g.meddle(t, 0)
				if err := os.Remove(filepath.Join(g.dir, "shop", "want")); err != nil {
					t.Fatal(err)
				}
			},
		}
	})
}

// TestProcesses: what is asked for is what runs.
func TestProcesses(t *testing.T) {
	g := newGroup(t)
	alive := func() (n int) {
		files, err := workers(filepath.Join(g.dir, "shop"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			if w, err := read(f); err == nil && syscall.Kill(w.Pid, 0) == nil {
				n++
			}
		}
		return n
	}
	for _, n := range []int{6, 2} {
		st, err := g.place(t).Get(t.Context(), "shop")
		if err != nil {
			t.Fatal(err)
		}
		if err := g.place(t).Set(t.Context(), "shop", st, n, false); err != nil {
			t.Fatal(err)
		}
		g.settle(t)
		if got := alive(); got != n {
			t.Errorf("%d processes run, want %d", got, n)
		}
	}
}

// TestGraceful: while load goes on, fewer replicas cost no request, as nodes are drained before they end.
func TestGraceful(t *testing.T) {
	g := newGroup(t)
	ctx, stop := context.WithCancel(t.Context())
	var done, failed atomic.Int64
	var clients sync.WaitGroup
	loaded := make(chan struct{})
	for i := range 4 {
		clients.Go(func() {
			for j := i; ctx.Err() == nil; j++ {
				<-time.After(time.Millisecond) // else they take the processors that the workers need
				files, err := workers(filepath.Join(g.dir, "shop"))
				if err != nil || len(files) == 0 {
					continue
				}
				w, err := read(files[j%len(files)])
				if err != nil || w.Drained || w.Addr == "" {
					continue // it ended, or takes none
				}
				resp, err := http.Get("http://" + w.Addr + "/")
				if err != nil {
					failed.Add(1)
					continue
				}
				b, err := io.ReadAll(resp.Body)
				if resp.StatusCode == http.StatusOK && string(b) == "done\n" && err == nil {
					if done.Add(1) == 50 {
						close(loaded)
					}
				}
				_ = resp.Body.Close() // it was read to its end
			}
		})
	}
	<-loaded
	c := g.place(t)
	for _, n := range []int{3, 2} {
		st, err := c.Get(ctx, "shop")
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Set(ctx, "shop", st, n, false); err != nil {
			t.Fatal(err)
		}
		g.settle(t)
	}
	stop()
	clients.Wait()
	lost, err := filepath.Glob(filepath.Join(g.dir, "shop", "*-lost"))
	if err != nil || len(lost) > 0 {
		t.Errorf("workers ended with requests in flight: %v, %v", lost, err)
	}
	t.Logf("%d requests answered, %d connections refused by what had just ended", done.Load(), failed.Load())
}

// TestDrainFails: a node that cannot be drained keeps all from ending, and takes load again.
func TestDrainFails(t *testing.T) {
	g := newGroup(t)
	stuck := filepath.Join(g.dir, "shop", "stuck-w02")
	if err := os.WriteFile(stuck, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c := g.place(t)
	st, err := c.Get(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	err = c.Set(t.Context(), "shop", st, 2, false)
	if err == nil || errors.Is(err, optimize.ErrRefused) || !strings.Contains(err.Error(), "drain of w02") || !strings.Contains(err.Error(), "do not end") {
		t.Fatalf("%v: want the drain of w02 and its reason, worth another try", err)
	}
	if st, err := c.Get(t.Context(), "shop"); err != nil || st.Replicas != 4 || st.Ready != 4 || st.Drained {
		t.Errorf("%+v, %v: want all 4 to take load", st, err)
	}
	if err := os.Remove(stuck); err != nil {
		t.Fatal(err)
	}
	if err := c.Set(t.Context(), "shop", st, 2, false); err != nil {
		t.Fatal(err)
	}
	g.settle(t)
}

// TestCrashBetweenDrainAndSet: the undo gives the load back.
func TestCrashBetweenDrainAndSet(t *testing.T) {
	g := newGroup(t)
	c := g.place(t)
	st, err := c.Get(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.call(t.Context(), "drain", c.drain, argument{Group: "shop", Node: "w03"}); err != nil {
		t.Fatal(err)
	}
	now, err := c.Get(t.Context(), "shop")
	if err != nil || !now.Drained || now.Ready != 3 {
		t.Fatalf("%+v, %v: want one drained", now, err)
	}
	if err := c.Set(t.Context(), "shop", st, 4, false); err != nil {
		t.Fatal(err)
	}
	if now, err := c.Get(t.Context(), "shop"); err != nil || now.Drained || now.Ready != 4 {
		t.Errorf("%+v, %v: want none drained", now, err)
	}
}

// TestContract is what commands may do, and what comes of it. The shell is the command here, not what runs it.
func TestContract(t *testing.T) {
	sh := func(script string) []string {
		return []string{"/bin/sh", "-c", script, "sh", "{{.Group}}", "{{.Replicas}}"}
	}
	ok := sh("echo 4")
	for _, c := range []struct {
		name     string
		get, set []string
		group    string
		timeout  time.Duration
		kind     error // nil is any other error
		says     string
	}{
		{name: "gone", get: sh("echo no group >&2; exit 3"), kind: optimize.ErrGone, says: "no group"},
		{name: "refused", get: ok, set: sh("echo quota >&2; exit 4"), kind: optimize.ErrRefused, says: "quota"},
		{name: "failed", get: ok, set: sh("echo busy >&2; exit 1"), says: "busy"},
		{name: "no number", get: sh("echo four"), says: `"four" is neither`},
		{name: "nothing", get: sh(""), says: "neither a number"},
		{name: "negative", get: sh("echo -4"), says: "must be 0 to"},
		{name: "no replicas in JSON", get: sh(`echo '{"ready":3}'`), says: "must be 0 to"},
		{name: "too much", get: sh("while :; do echo 4444444444444444444444444444444444; done"), kind: optimize.ErrRefused, says: "more than 1048576 bytes"},
		{name: "too long", get: sh("sleep 60"), timeout: 300 * time.Millisecond, kind: context.DeadlineExceeded, says: "may take 300ms"},
		{name: "no such program", get: []string{"/no/such/program"}, kind: optimize.ErrRefused, says: "cannot be started"},
		{name: "set that does nothing", get: ok, set: sh("exit 0"), says: "get says 4"},
		{name: "an option as a group", get: ok, group: "--all", kind: optimize.ErrRefused, says: "no - first"},
		{name: "a shell's words as a group", get: ok, group: "a;reboot", kind: optimize.ErrRefused, says: "no - first"},
		{name: "a node like an option", get: sh(`echo '{"replicas":4,"nodes":["-rf"]}'`), says: "-rf"},
	} {
		t.Run(c.name, func(t *testing.T) {
			set := c.set
			if set == nil {
				set = sh("exit 0")
			}
			cmds, err := New(Options{Get: c.get, Set: set, Timeout: c.timeout, Env: []string{"PATH=/usr/bin:/bin"}})
			if err != nil {
				t.Fatal(err)
			}
			g := c.group
			if g == "" {
				g = "g"
			}
			st, err := cmds.Get(t.Context(), g)
			if err == nil {
				err = cmds.Set(t.Context(), g, st, 5, false)
			}
			switch {
			case err == nil || !strings.Contains(err.Error(), c.says):
				t.Fatalf("%v: want %q", err, c.says)
			case c.kind != nil && !errors.Is(err, c.kind):
				t.Errorf("%v: want it to be %v", err, c.kind)
			case c.kind == nil && (errors.Is(err, optimize.ErrGone) || errors.Is(err, optimize.ErrRefused)):
				t.Errorf("%v: it must not be final", err)
			}
		})
	}
}

// TestEndsWhatItStarted: a command whose time is over ends with what it has started. That holds a pipe, whose end is seen when it is gone.
func TestEndsWhatItStarted(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "alive")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := New(Options{Get: []string{"/bin/sh", "-c", `sleep 60 >"$1" & wait`, "sh", fifo}, Set: []string{"x", "{{.Replicas}}"}, Timeout: time.Second, Env: []string{"PATH=/usr/bin:/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	gone := make(chan error, 1)
	go func() {
		f, err := os.Open(fifo) // once the child has it open, too
		if err == nil {
			_, err = io.Copy(io.Discard, f)
			err = errors.Join(err, f.Close())
		}
		gone <- err
	}()
	if _, err := c.Get(t.Context(), "g"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v: want that its time is over", err)
	}
	select {
	case err := <-gone:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(20 * time.Second):
		t.Error("what it started still runs")
	}
}

// TestEnvironment: a command has what it was given, and nothing of this process.
func TestEnvironment(t *testing.T) {
	t.Setenv("QUANTRA_TEST_SECRET", "12")
	for _, env := range [][]string{nil, {"GIVEN=7"}} {
		c, err := New(Options{Get: []string{"/bin/sh", "-c", `echo $((${QUANTRA_TEST_SECRET:-0} + ${GIVEN:-0}))`}, Set: []string{"x", "{{.Replicas}}"}, Env: env})
		if err != nil {
			t.Fatal(err)
		}
		st, err := c.Get(t.Context(), "g")
		if err != nil || st.Replicas != 7*len(env) {
			t.Errorf("with %v it saw %d, %v", env, st.Replicas, err)
		}
	}
}

// TestDryWithoutCheck sets what is set already, which proves that it may.
func TestDryWithoutCheck(t *testing.T) {
	g := newGroup(t)
	g.o.Check = nil
	c := g.place(t)
	st, err := c.Get(t.Context(), "shop")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{6, 4} {
		if err := c.Set(t.Context(), "shop", st, n, true); err != nil {
			t.Error(err)
		}
	}
	g.o.Set = []string{"/bin/sh", "-c", "echo not allowed >&2; exit 4", "sh", "{{.Replicas}}"}
	c = g.place(t)
	if err := c.Set(t.Context(), "shop", st, 4, true); !errors.Is(err, optimize.ErrRefused) {
		t.Errorf("a set that may not: %v", err)
	}
	g.o.Get = []string{"/bin/sh", "-c", "echo 4"}
	c = g.place(t)
	if err := c.Set(t.Context(), "shop", scale.State{Replicas: 4}, 3, true); !errors.Is(err, optimize.ErrRefused) || !strings.Contains(err.Error(), "names 0 nodes of 4") {
		t.Errorf("drain without nodes: %v", err)
	}
}

func TestBadOptions(t *testing.T) {
	get, set := []string{"get"}, []string{"set", "{{.Replicas}}"}
	for name, o := range map[string]Options{
		"no get":          {Set: set},
		"no set":          {Get: get},
		"set of nothing":  {Get: get, Set: []string{"set"}},
		"no template":     {Get: []string{"{{"}, Set: set},
		"no field":        {Get: []string{"{{.Nope}}"}, Set: set},
		"drain only":      {Get: get, Set: set, Drain: []string{"drain", "{{.Node}}"}},
		"drain of no one": {Get: get, Set: set, Drain: []string{"drain"}, Undrain: []string{"u", "{{.Node}}"}},
		"check of what":   {Get: get, Set: set, Check: []string{"check"}},
		"timeout":         {Get: get, Set: set, Timeout: -1},
		"no program":      {Get: []string{""}, Set: set},
		"many":            {Get: make([]string, 200), Set: set},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{"4", " 12\n", `{"replicas":4,"ready":3,"current":5,"nodes":["a","b"],"drained":["a"],"id":"x","owner":"hpa","zone":"z"}`, `{"replicas":-1}`, `{}`, `{"replicas":1e99}`, "", "{"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := decode(b)
		if err == nil && (a.Replicas < 0 || *a.Ready < 0 || *a.Current < 0 || a.Replicas > maxReplicas) {
			t.Errorf("%+v", a)
		}
	})
}
