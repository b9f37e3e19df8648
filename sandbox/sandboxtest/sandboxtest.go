// Package sandboxtest is the conformance suite of isolations: what a session may do, and what it must not get done whatever its handler
// tries. Each isolation is held to it by its own tests.
package sandboxtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quantra-l/quantra/sandbox"
	"github.com/quantra-l/quantra/sandbox/channel"
)

// handlerPackage is the program that runs in the sandboxes.
const handlerPackage = "github.com/quantra-l/quantra/sandbox/sandboxtest/handler"

// Build builds the handler for a system and returns its path.
func Build(t testing.TB, goos, goarch string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "handler-"+goos)
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", out, handlerPackage)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+goos, "GOARCH="+goarch, "GOFLAGS=-buildvcs=false")
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building the handler: %v\n%s", err, said)
	}
	// The folder of a test is its user's alone, and the handler runs as another.
	if err := os.Chmod(out, 0o755); err != nil {
		t.Fatal(err)
	}
	return out
}

// Unavailable skips a test for want of what the host should have, or fails it where all of it must be there.
func Unavailable(t testing.TB, err error) {
	t.Helper()
	if os.Getenv("QUANTRA_CI") != "" {
		t.Fatalf("NOT TESTED, and here it must be: %v", err)
	}
	t.Skipf("NOT TESTED: this host cannot: %v", err)
}

// Patience is how long a start may take in tests: machines that run them are busy, and the first start compiles.
const Patience = 3 * time.Minute

// Config says what is tested.
type Config struct {
	Kind      sandbox.Kind
	Isolation sandbox.Isolation // closed by the suite
	Handler   string
	Emulated  bool     // without a boundary
	Own       []string // attempts, by how they begin, that may work as what is reached is the guest's own
	Reach     string   // system calls that the kernel answers itself, for a reason that is beside the test
	Slow      bool     // a start takes seconds: attempts share a session, and what needs many starts is left to the other isolations
	Shared    bool     // memory, processor and tasks are not the guest's own: wasm
}

// Suite runs all of it. before is what [Leftovers] said before the isolation was made.
func Suite(t *testing.T, before string, c Config) {
	pool, err := sandbox.New(sandbox.Options{Isolations: map[sandbox.Kind]sandbox.Isolation{c.Kind: c.Isolation}, StartTimeout: Patience})
	if err != nil {
		t.Fatal(err)
	}
	s := &suite{Config: c, pool: pool}
	r := pool.Probe(t.Context(), c.Kind)
	if !r.Available {
		if err := pool.Close(); err != nil {
			t.Error(err)
		}
		Unavailable(t, errors.New(r.Reason))
	}
	t.Logf("%s: boundary %s (%s), the small guest took %v", r.Kind, r.Boundary, r.How, r.Start.Round(10*time.Microsecond))
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"Calls", s.calls}, {"Files", s.files}, {"Network", s.network}, {"Secrets", s.secrets}, {"System", s.system}, {"Memory", s.memory},
		{"Tasks", s.tasks}, {"Deadline", s.deadline}, {"Flood", s.flood}, {"Lives", s.lives}, {"Warm", s.warm},
	} {
		t.Run(part.name, part.run)
	}
	if s.living == nil {
		s.living = s.start(t, "echo")
	}
	if err := pool.Close(); err != nil {
		t.Error(err)
	}
	if !errors.Is(s.living.Err(), sandbox.ErrEnded) {
		t.Errorf("a session outlived its pool: %v", s.living.Err())
	}
	if after := Leftovers(t); after != before {
		t.Errorf("left on the host:\n%s\nbefore it was:\n%s", after, before)
	}
}

type suite struct {
	Config
	pool   *sandbox.Pool
	again  *sandbox.Session // Slow: for attempts that leave the session as it was
	living *sandbox.Session // left for the pool to end
}

// attempts is a session whose handler does as it is told.
func (s *suite) attempts(t *testing.T) *sandbox.Session {
	t.Helper()
	if !s.Slow {
		return s.start(t, "do")
	}
	if s.again == nil {
		ses, err := s.pool.Start(t.Context(), s.spec("do"))
		if err != nil {
			t.Fatal(err)
		}
		s.again = ses
	}
	return s.again
}

func (s *suite) spec(args ...string) sandbox.Spec {
	return sandbox.Spec{Isolation: s.Kind, Principal: "tester", Handler: s.Handler, Args: args, Emulated: s.Emulated}
}

func (s *suite) start(t *testing.T, args ...string) *sandbox.Session {
	t.Helper()
	ses, err := s.pool.Start(t.Context(), s.spec(args...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ses.Close)
	return ses
}

func call(t *testing.T, ses *sandbox.Session, request string) string {
	t.Helper()
	answer, err := ses.Call(t.Context(), []byte(request))
	if err != nil {
		t.Fatalf("%s: %v", request, err)
	}
	return string(answer)
}

func (s *suite) calls(t *testing.T) {
	ses, err := s.pool.Start(t.Context(), s.spec("echo"))
	if err != nil {
		t.Fatal(err)
	}
	if s.Slow {
		s.living = ses
	} else {
		defer ses.Close()
	}
	for _, request := range []string{"hello", "", strings.Repeat("0123456789", 50_000)} {
		if got := call(t, ses, request); got != request {
			t.Errorf("%d bytes came back as %d", len(request), len(got))
		}
	}
	// A stream: what comes back comes while more is sent.
	r, w := io.Pipe()
	back, backW := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- ses.Stream(t.Context(), r, backW) }()
	// Each part is of whole frames, as the handler's side gathers what it writes until it has one.
	part := bytes.Repeat([]byte("abcd"), 2*channel.MaxFrame/4)
	for range 3 {
		go w.Write(part)
		got := make([]byte, len(part))
		if _, err := io.ReadFull(back, got); err != nil || !bytes.Equal(got, part) {
			t.Fatalf("a part of a stream came back as something else, %v", err)
		}
	}
	go io.Copy(io.Discard, back)
	w.Close()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := ses.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if got := call(t, s.attempts(t), "add 41"); got != "done: 42" {
		t.Error(got)
	}
}

// refused fails unless the attempt was refused.
func (s *suite) refused(t *testing.T, ses *sandbox.Session, requests ...string) {
	t.Helper()
	for _, request := range requests {
		got := call(t, ses, request)
		if slices.ContainsFunc(s.Own, func(own string) bool { return strings.HasPrefix(request, own) }) {
			continue
		}
		if !strings.HasPrefix(got, "refused: ") {
			t.Errorf("%s: %.200q", request, got)
		}
	}
}

func (s *suite) files(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("the host's"), 0o644); err != nil {
		t.Fatal(err)
	}
	ses := s.attempts(t)
	s.refused(t, ses, "read /etc/passwd", "read /etc/shadow", "read "+secret, "read /proc/self/environ", "read /proc/1/environ", "read /proc/self/exe",
		"list /", "list /proc", "list /sys", "list ..", "read ../../../../etc/passwd", "write /x", "write /tmp/x", "write /dev/shm/x", "exec /bin/sh", "exec /proc/self/exe")
}

func (s *suite) network(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ses := s.attempts(t)
	s.refused(t, ses, "dial tcp "+l.Addr().String(), "dial udp "+l.Addr().String(), "dial unix /run/dbus/system_bus_socket", "dial unix @abstract", "listen")
}

// secrets: what this process knows is not in what the handler gets.
func (s *suite) secrets(t *testing.T) {
	t.Setenv("QUANTRA_TEST_SECRET", "do-not-tell")
	ses := s.attempts(t)
	for _, request := range []string{"env", "args"} {
		if got := call(t, ses, request); strings.Contains(got, "do-not-tell") || strings.Contains(got, "PATH=") || strings.Contains(got, s.Handler) {
			t.Errorf("%s: %q", request, got)
		}
	}
}

func (s *suite) system(t *testing.T) {
	ses := s.attempts(t)
	s.refused(t, ses, strings.TrimSpace("syscalls "+s.Reach), "fork")
}

// ended calls and expects the session to end by it.
func (s *suite) ended(t *testing.T, ses *sandbox.Session, request string) error {
	t.Helper()
	answer, err := ses.Call(t.Context(), []byte(request))
	if err == nil || !errors.Is(err, sandbox.ErrEnded) {
		t.Fatalf("%s: %.100q, %v", request, answer, err)
	}
	<-ses.Done()
	t.Logf("%s: %v", request, err)
	return err
}

func (s *suite) memory(t *testing.T) {
	ses := s.attempts(t)
	if got := call(t, ses, "alloc 64"); got != "done: 64" {
		t.Errorf("64 MiB of 512: %q", got)
	}
	s.ended(t, ses, "alloc 2000")
	s.again = nil
}

func (s *suite) tasks(t *testing.T) {
	if s.Slow || slices.Contains(s.Own, "threads") {
		return // threads of a kernel of its own: its memory bounds them
	}
	if s.Shared {
		s.refused(t, s.start(t, "do"), "threads 1000")
		return
	}
	s.ended(t, s.start(t, "do"), "threads 1000")
}

func (s *suite) deadline(t *testing.T) {
	for _, what := range []string{"spin", "sleep"} {
		if s.Slow && what == "sleep" {
			break
		}
		// How long it takes to end is not asserted; that it ends is.
		spec := s.spec("do")
		spec.Deadline = 500 * time.Millisecond
		ses, err := s.pool.Start(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.ended(t, ses, what); !errors.Is(err, sandbox.ErrDeadline) {
			t.Errorf("%s until its deadline: %v", what, err)
		}
		if s.Slow {
			continue
		}
		ses = s.start(t, "do")
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, err = ses.Call(ctx, []byte(what))
		cancel()
		if !errors.Is(err, sandbox.ErrEnded) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", what, err)
		}
		<-ses.Done()
	}
}

func (s *suite) flood(t *testing.T) {
	if s.Slow {
		return
	}
	s.ended(t, s.start(t, "do"), "flood")
	ses := s.start(t, "do")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := ses.Call(ctx, []byte("shout")); !errors.Is(err, sandbox.ErrEnded) {
		t.Errorf("shouting: %v", err)
	}
	<-ses.Done()
	if n := len(ses.Err().Error()); n > 4<<10 {
		t.Errorf("what was shouted came back with %d bytes", n)
	}
}

// lives: handlers that end, or never begin, are no sessions, and say why.
func (s *suite) lives(t *testing.T) {
	if _, err := s.pool.Start(t.Context(), s.spec("die")); err == nil || !strings.Contains(err.Error(), "dying at once, as told") {
		t.Errorf("one that dies at once: %v", err)
	}
	if s.Slow {
		return
	}
	s.others(t)
	ses := s.start(t, "do")
	if got := call(t, ses, "fail"); got != "refused: failed as told" {
		t.Error(got)
	}
	s.ended(t, ses, "exit")
	if _, err := ses.Call(t.Context(), nil); !errors.Is(err, sandbox.ErrEnded) {
		t.Errorf("a call after the end: %v", err)
	}
}

// others begin otherwise than handlers do.
func (s *suite) others(t *testing.T) {
	if _, err := s.pool.Start(t.Context(), s.spec("garbage")); err == nil {
		t.Error("one that speaks garbage was started")
	}
	for _, silent := range []string{"silent", "spin"} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if _, err := s.pool.Start(ctx, s.spec(silent)); err == nil {
			t.Errorf("one that is %s was started", silent)
		}
		cancel()
	}
}

func (s *suite) warm(t *testing.T) {
	if s.Slow {
		return
	}
	begin := func(principal string) *sandbox.Session {
		spec := s.spec("do")
		spec.Principal = principal
		ses, err := s.pool.Start(t.Context(), spec)
		if err != nil {
			t.Fatal(err)
		}
		return ses
	}
	first := begin("ann")
	call(t, first, "add 1")
	first.Release()
	again, other := begin("ann"), begin("ben")
	defer again.Close()
	defer other.Close()
	call(t, again, "add 1")
	call(t, other, "add 1")
	if reused := again.Same(first); reused != s.Isolation.Warm() {
		t.Errorf("the same principal's next session is the same guest: %v", reused)
	}
	if other.Same(first) {
		t.Error("a guest was given to another principal")
	}
	if _, err := first.Call(t.Context(), nil); err == nil {
		t.Error("a released session was used")
	}
}

// Leftovers are what isolations could leave on this host.
func Leftovers(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d children, %d mounts, %d groups", Children(t, os.Getpid()), bytes.Count(mounts, []byte("\n")), len(Groups(t, os.Getpid())))
}

// Groups are the cgroups that a process has made sandboxes in, by its id, and that are there.
func Groups(t testing.TB, pid int) []string {
	t.Helper()
	var found []string
	name := fmt.Sprintf("quantra-sandbox-%d-", pid)
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return nil // it went away
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), name) {
			found = append(found, path)
			return filepath.SkipDir
		}
		return nil
	})
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return found
}

// Children is how many processes have this one for a parent.
func Children(t testing.TB, pid int) int {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended
		}
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		if len(fields) > 1 && fields[1] == fmt.Sprint(pid) {
			n++
		}
	}
	return n
}

// BenchmarkStart measures starts, each until the handler says Hello, and calls, and reports their medians and spread beside the mean.
func BenchmarkStart(b *testing.B, pool *sandbox.Pool, spec sandbox.Spec) {
	b.Helper()
	var starts, calls []float64
	for b.Loop() {
		begin := time.Now()
		s, err := pool.Start(b.Context(), spec)
		if err != nil {
			b.Fatal(err)
		}
		started := time.Now()
		if _, err := s.Call(b.Context(), []byte("hello")); err != nil {
			b.Fatal(err)
		}
		calls = append(calls, time.Since(started).Seconds())
		starts = append(starts, started.Sub(begin).Seconds())
		s.Close()
	}
	for name, of := range map[string][]float64{"start": starts, "call": calls} {
		slices.Sort(of)
		for at, q := range map[string]float64{"p5": 0.05, "p50": 0.5, "p95": 0.95} {
			b.ReportMetric(1000*of[int(q*float64(len(of)-1))], at+"-ms/"+name)
		}
	}
}
