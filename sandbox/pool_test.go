package sandbox_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quantra-l/quantra/sandbox"
	"github.com/quantra-l/quantra/sandbox/channel"
)

// rooms is an isolation whose guests are goroutines: what a pool does needs no more.
type rooms struct {
	boundary sandbox.Boundary
	missing  error         // why it cannot be had
	slow     time.Duration // a start takes this long
	cold     bool          // not to be kept

	mu      sync.Mutex
	started int
	living  int
	closed  bool
}

func (r *rooms) Echo() (*sandbox.Image, []string, error) {
	return sandbox.NewImage("echo", nil), []string{"trial"}, nil
}

func (r *rooms) Boundary(context.Context) (sandbox.Boundary, string, error) {
	return r.boundary, "goroutines", r.missing
}

func (r *rooms) Warm() bool { return !r.cold }

func (r *rooms) Close() error { r.closed = true; return nil }

func (r *rooms) Start(ctx context.Context, _ sandbox.Launch) (*sandbox.Guest, error) {
	select {
	case <-time.After(r.slow):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	ended := make(chan error, 1)
	r.mu.Lock()
	r.started++
	r.living++
	r.mu.Unlock()
	go func() {
		err := channel.Serve(inR, outW, func(in io.Reader, out io.Writer) error {
			b, err := io.ReadAll(in)
			switch {
			case err != nil:
				return err
			case string(b) == "bad":
				return errors.New("no answer")
			case string(b) == "hang":
				_, err := io.Copy(io.Discard, inR)
				return err
			case string(b) == "flood":
				for err == nil {
					_, err = out.Write(make([]byte, 1<<20))
				}
				return err
			}
			_, err = out.Write(b)
			return err
		})
		outW.Close()
		ended <- err
	}()
	return &sandbox.Guest{Stdin: inW, Stdout: outR, Kill: func() {
		inR.CloseWithError(errors.New("killed"))
		outW.Close()
	}, Wait: func() error {
		err := <-ended
		inR.Close()
		outR.Close()
		r.mu.Lock()
		r.living--
		r.mu.Unlock()
		return err
	}}, nil
}

func newPool(t *testing.T, r *rooms, o sandbox.Options) (*sandbox.Pool, sandbox.Spec) {
	t.Helper()
	if r.boundary == "" {
		r.boundary = sandbox.BoundaryKernel
	}
	o.Isolations = map[sandbox.Kind]sandbox.Isolation{sandbox.Process: r}
	p, err := sandbox.New(o)
	if err != nil {
		t.Fatal(err)
	}
	handler := filepath.Join(t.TempDir(), "handler")
	if err := os.WriteFile(handler, []byte("x"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
		if r.living != 0 || !r.closed || p.Free() != max(o.Capacity, 0) && o.Capacity != 0 {
			t.Errorf("after Close: %d guests live, isolation closed %v, %d seats free", r.living, r.closed, p.Free())
		}
	})
	return p, sandbox.Spec{Isolation: sandbox.Process, Principal: "ann", Handler: handler, Args: []string{"x"}}
}

func start(t *testing.T, p *sandbox.Pool, spec sandbox.Spec) *sandbox.Session {
	t.Helper()
	s, err := p.Start(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// bubble is a test in virtual time, whose cleanups run within it.
func bubble(t *testing.T, f func(t *testing.T)) {
	synctest.Test(t, f)
}

func TestRefused(t *testing.T) {
	p, good := newPool(t, &rooms{}, sandbox.Options{})
	for name, c := range map[string]struct {
		change func(*sandbox.Spec)
		is     error
	}{
		"an isolation that is not there":  {func(s *sandbox.Spec) { s.Isolation = sandbox.MicroVM }, sandbox.ErrUnavailable},
		"an isolation that is none":       {func(s *sandbox.Spec) { s.Isolation = "mock" }, nil},
		"nobody":                          {func(s *sandbox.Spec) { s.Principal = "" }, nil},
		"no handler":                      {func(s *sandbox.Spec) { s.Handler = "" }, nil},
		"a handler that is not there":     {func(s *sandbox.Spec) { s.Handler += "x" }, os.ErrNotExist},
		"a handler that is a folder":      {func(s *sandbox.Spec) { s.Handler = filepath.Dir(s.Handler) }, nil},
		"too long a life":                 {func(s *sandbox.Spec) { s.Deadline = time.Hour }, nil},
		"a class that is none":            {func(s *sandbox.Spec) { s.Class = 7 }, nil},
		"a fixed clock in a real process": {func(s *sandbox.Spec) { s.Fixed = true }, sandbox.ErrUnavailable},
		"too many arguments":              {func(s *sandbox.Spec) { s.Args = make([]string, 100) }, nil},
		"too long arguments":              {func(s *sandbox.Spec) { s.Args = []string{strings.Repeat("x", 1<<20)} }, nil},
		"a seat of another class": {func(s *sandbox.Spec) {
			seat, err := p.Reserve(t.Context(), sandbox.Critical)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(seat.Release)
			s.Seat = seat
		}, nil},
	} {
		spec := good
		c.change(&spec)
		if _, err := p.Start(t.Context(), spec); err == nil || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%s: %v", name, err)
		}
	}
	start(t, p, good).Close()
	for _, o := range []sandbox.Options{{Capacity: -1}, {Deadline: -1}, {Isolations: map[sandbox.Kind]sandbox.Isolation{"mock": &rooms{}}}} {
		if _, err := sandbox.New(o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

// What cannot be had is refused, and what has no boundary is none unless that is said to be enough.
func TestUnavailable(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &rooms{missing: sandbox.Unavailable("no kernel")}
		p, spec := newPool(t, r, sandbox.Options{})
		if _, err := p.Start(t.Context(), spec); !errors.Is(err, sandbox.ErrUnavailable) || !strings.Contains(err.Error(), "no kernel") {
			t.Error(err)
		}
		r.missing = nil // it is installed meanwhile: seen when what was found is a minute old
		if _, err := p.Start(t.Context(), spec); !errors.Is(err, sandbox.ErrUnavailable) {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		start(t, p, spec).Close()
		n := r.started
		p.Probe(t.Context(), sandbox.Process)
		if r.started != n {
			t.Error("what was tried a moment ago was tried again")
		}
		time.Sleep(10 * time.Minute)
		p.Probe(t.Context(), sandbox.Process)
		if r.started != n+1 {
			t.Error("what was tried long ago was not tried again")
		}
	})
	t.Run("emulated", func(t *testing.T) {
		p, spec := newPool(t, &rooms{boundary: sandbox.BoundaryNone}, sandbox.Options{})
		if _, err := p.Start(t.Context(), spec); !errors.Is(err, sandbox.ErrUnavailable) {
			t.Error(err)
		}
		spec.Emulated = true
		start(t, p, spec).Close()
	})
}

// A trial that takes too long says that the isolation is not there, and those who ask at the same time share it.
func TestSlowTrial(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &rooms{slow: time.Hour}
		p, _ := newPool(t, r, sandbox.Options{StartTimeout: time.Second})
		begin := time.Now()
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				if rep := p.Probe(t.Context(), sandbox.Process); rep.Available || rep.Boundary != sandbox.BoundaryNone {
					t.Errorf("%+v", rep)
				}
			})
		}
		all.Wait()
		if took := time.Since(begin); took != time.Second {
			t.Errorf("five trials took %v", took)
		}
	})
}

func TestSeats(t *testing.T) {
	p, spec := newPool(t, &rooms{}, sandbox.Options{Capacity: 4, PerPrincipal: 2})
	a, b := start(t, p, spec), start(t, p, spec)
	if _, err := p.Start(t.Context(), spec); !errors.Is(err, sandbox.ErrFull) {
		t.Errorf("a third of one principal: %v", err)
	}
	spec.Principal = "ben"
	seat, err := p.Reserve(t.Context(), sandbox.Privileged)
	if err != nil {
		t.Fatal(err)
	}
	c := start(t, p, spec)
	if _, err := p.Start(t.Context(), spec); !errors.Is(err, sandbox.ErrFull) {
		t.Errorf("one more than there are seats: %v", err)
	}
	spec.Seat = seat
	d := start(t, p, spec)
	if p.Free() != 0 {
		t.Errorf("%d seats are free", p.Free())
	}
	spec.Seat = nil
	c.Release() // waits for its principal, and makes room
	spec.Principal = "eve"
	e := start(t, p, spec)
	<-c.Done()
	for _, s := range []*sandbox.Session{a, b, d, e} {
		s.Close()
		s.Close()
	}
	seat.Release() // was the session's
	if p.Free() != 4 {
		t.Errorf("%d seats are free", p.Free())
	}
	start(t, p, spec) // ended by Close
}

func TestCalls(t *testing.T) {
	p, spec := newPool(t, &rooms{}, sandbox.Options{})
	s := start(t, p, spec)
	if got, err := s.Call(t.Context(), []byte("hello")); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	var failed *sandbox.HandlerError
	if _, err := s.Call(t.Context(), []byte("bad")); !errors.As(err, &failed) || failed.Text != "no answer" || s.Err() != nil {
		t.Errorf("%v, session: %v", err, s.Err())
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Call(over, []byte("hang")); err == nil {
		t.Error("a call after its context's end")
	}
	s = start(t, p, spec)
	ctx, giveUp := context.WithCancelCause(t.Context())
	go giveUp(errors.New("had enough"))
	if _, err := s.Call(ctx, []byte("hang")); !errors.Is(err, sandbox.ErrEnded) || !strings.Contains(err.Error(), "had enough") {
		t.Error(err)
	}
	<-s.Done()
	if _, err := s.Call(t.Context(), nil); !errors.Is(err, sandbox.ErrEnded) {
		t.Error(err)
	}
	if err := s.Ping(t.Context()); !errors.Is(err, sandbox.ErrEnded) {
		t.Error(err)
	}
}

func TestDeadline(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p, spec := newPool(t, &rooms{}, sandbox.Options{Deadline: time.Minute})
		begin := time.Now()
		s := start(t, p, spec)
		if _, err := s.Call(t.Context(), []byte("hang")); !errors.Is(err, sandbox.ErrDeadline) {
			t.Error(err)
		}
		if took := time.Since(begin); took != time.Minute {
			t.Errorf("after %v", took)
		}
	})
}

// A flood is let through at the class's bandwidth, until the answer is larger than answers may be.
func TestBandwidth(t *testing.T) {
	bubble(t, func(t *testing.T) {
		p, spec := newPool(t, &rooms{}, sandbox.Options{})
		l := spec.Class.Limits()
		s := start(t, p, spec)
		begin := time.Now()
		if _, err := s.Call(t.Context(), []byte("flood")); !errors.Is(err, sandbox.ErrEnded) {
			t.Error(err)
		}
		least := time.Duration(float64(l.Answer-l.Burst) / float64(l.Bandwidth) * float64(time.Second))
		if took := time.Since(begin); took < least || took > least+100*time.Millisecond {
			t.Errorf("%d bytes took %v, at this rate %v", l.Answer, took, least)
		}
		<-s.Done()
	})
}

func TestHealth(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &rooms{}
		p, spec := newPool(t, r, sandbox.Options{HealthEvery: 10 * time.Second})
		well := start(t, p, spec)
		sick := start(t, p, spec)
		go sick.Call(t.Context(), []byte("hang")) // busy: its call has a deadline, health checks leave it alone
		time.Sleep(time.Minute)
		if well.Err() != nil || sick.Err() != nil {
			t.Errorf("well: %v, busy: %v", well.Err(), sick.Err())
		}
	})
}

func TestWarm(t *testing.T) {
	bubble(t, func(t *testing.T) {
		r := &rooms{}
		p, spec := newPool(t, r, sandbox.Options{WarmFor: time.Minute})
		a := start(t, p, spec)
		a.Release()
		a.Release()
		b := start(t, p, spec)
		if !b.Same(a) {
			t.Error("a released session was not used again")
		}
		time.Sleep(2 * time.Minute) // longer than it would have waited
		if _, err := b.Call(t.Context(), []byte("x")); err != nil {
			t.Error(err)
		}
		if _, err := a.Call(t.Context(), []byte("x")); !errors.Is(err, sandbox.ErrEnded) {
			t.Errorf("who released it called it: %v", err)
		}
		b.Release()
		for name, change := range map[string]func(*sandbox.Spec){
			"principal": func(s *sandbox.Spec) { s.Principal = "ben" },
			"class":     func(s *sandbox.Spec) { s.Class = sandbox.Critical },
			"arguments": func(s *sandbox.Spec) { s.Args = []string{"y"} },
			"network":   func(s *sandbox.Spec) { s.Network = true },
			"file": func(s *sandbox.Spec) {
				if err := os.WriteFile(s.Handler, []byte("other"), 0o755); err != nil {
					t.Fatal(err)
				}
			},
		} {
			other := spec
			change(&other)
			s := start(t, p, other)
			if s.Same(b) {
				t.Errorf("a session of another %s was used again", name)
			}
			s.Close()
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if b.Err() == nil {
			t.Error("a session that nobody took lives for ever")
		}
		r.cold = true
		c := start(t, p, spec)
		c.Release()
		if c.Err() == nil {
			t.Error("what is not kept was kept")
		}
	})
}

func TestClosed(t *testing.T) {
	p, spec := newPool(t, &rooms{}, sandbox.Options{})
	s := start(t, p, spec)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Done():
	default:
		t.Error("Close did not wait for a session")
	}
	if _, err := p.Start(t.Context(), spec); !errors.Is(err, sandbox.ErrUnavailable) {
		t.Error(err)
	}
	if _, err := p.Reserve(t.Context(), sandbox.Privileged); !errors.Is(err, sandbox.ErrUnavailable) {
		t.Error(err)
	}
}
