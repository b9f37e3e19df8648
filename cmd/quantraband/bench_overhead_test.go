package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "google.golang.org/genproto/googleapis/devtools/cloudprofiler/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/quantra-l/quantra/agent"
)

// benchProgram is a user's program with our agent in it, as docs/benchmark.md has it: bench-program ADDR VARIANT serves /health.
func benchProgram() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if os.Getenv("QUANTRA_BENCH_ADDR") != os.Args[1] {
		fmt.Fprintln(os.Stderr, "QUANTRA_BENCH_ADDR is not", os.Args[1])
		os.Exit(1)
	}
	rate, err := strconv.Atoi(os.Getenv("QUANTRA_BENCH_CPU_RATE"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if os.Args[2] != "baseline" { // else PROFILER_ENABLED would do it
		a, err := agent.Start(ctx, agent.Options{Service: "bench-program", Region: "local", SpoolBytes: -1, CPURate: rate, Window: 200 * time.Millisecond, Upload: 200 * time.Millisecond})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		defer a.Stop(context.Background())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, r.URL.Query().Get("a")) })
	srv := &http.Server{Addr: os.Args[1], Handler: mux}
	go func() {
		<-ctx.Done()
		srv.Close()
	}()
	if err := srv.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// startOverhead runs a measurement that takes hours, and returns when its server and its program run.
func startOverhead(t *testing.T) (cmd *exec.Cmd, ended chan struct{}, tmp string, children []int) {
	t.Helper()
	if measurable() != nil {
		t.Skip("needs Linux")
	}
	path, err := exec.LookPath("quantraband")
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(path, "bench", "overhead", "--cpu-rate", "100", "--rate", "10", "--time", "1h")
	tmp = t.TempDir()
	cmd.Env = append(os.Environ(), "TMPDIR="+tmp)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended = make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
	})
	for end := time.Now().Add(patience); len(children) < 2; {
		if time.Now().After(end) {
			t.Fatalf("only %v run", children)
		}
		pause()
		children = childrenOf(t, cmd.Process.Pid)
	}
	return cmd, ended, tmp, children
}

// pause lets other processes get on, between two looks at whether an event has happened.
func pause() { <-time.After(20 * time.Millisecond) }

// gone waits until none of the processes lives.
func gone(t *testing.T, pids []int) {
	t.Helper()
	for end := time.Now().Add(patience); ; pause() {
		var left []int
		for _, pid := range pids {
			raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err == nil && !strings.Contains(string(raw), ") Z ") {
				left = append(left, pid)
			}
		}
		if len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("processes %v are left", left)
		}
	}
}

// TestOverheadInterrupted: Ctrl-C ends it with the code that says so, and nothing of it is left: no process, no folder.
func TestOverheadInterrupted(t *testing.T) {
	cmd, ended, tmp, children := startOverhead(t)
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("it does not end")
	}
	if code := cmd.ProcessState.ExitCode(); code != exitInterrupted {
		t.Errorf("code %d, want %d", code, exitInterrupted)
	}
	gone(t, children)
	if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestOverheadKilled: killed, it takes its children with it.
func TestOverheadKilled(t *testing.T) {
	cmd, _, _, children := startOverhead(t)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	gone(t, children)
}

// TestCPUTime: what another process's clock tells is what getrusage tells in the process itself.
func TestCPUTime(t *testing.T) {
	if measurable() != nil {
		t.Skip("needs Linux")
	}
	sum := 0
	for range 5 {
		for i := range 20_000_000 {
			sum += i
		}
		before := ownTime(t)
		got, err := cpuTime(os.Getpid())
		after := ownTime(t)
		if err != nil || got+time.Microsecond < before || got > after+2*time.Microsecond {
			t.Errorf("%v, %v; getrusage: %v, then %v", got, err, before, after)
		}
	}
	runtime.KeepAlive(sum)
	if _, err := cpuTime(1 << 22); err == nil {
		t.Error("a process that cannot be has a clock")
	}
	rss, peak, err := memoryOf(os.Getpid())
	if err != nil || rss < 1<<20 || peak < rss {
		t.Errorf("memory %d, peak %d, %v", rss, peak, err)
	}
	if _, _, err := memoryOf(1 << 22); err == nil {
		t.Error("a process that cannot be has memory")
	}
}

// TestCloudServer: kinds come in turn; what is no profile, or was not asked for, is refused and counted.
func TestCloudServer(t *testing.T) {
	s, err := startCloud(200 * time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer s.stop()
	conn, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := pb.NewProfilerServiceClient(conn)
	ctx := t.Context()
	if _, err := c.CreateProfile(ctx, &pb.CreateProfileRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("no kinds: %v", err)
	}
	q := &pb.CreateProfileRequest{Parent: "projects/p", Deployment: &pb.Deployment{Target: "x"}, ProfileType: []pb.ProfileType{pb.ProfileType_CPU, pb.ProfileType_HEAP}}
	var last *pb.Profile
	for _, want := range []pb.ProfileType{pb.ProfileType_CPU, pb.ProfileType_HEAP, pb.ProfileType_CPU} {
		p, err := c.CreateProfile(ctx, q)
		if err != nil || p.ProfileType != want || p.Duration.AsDuration() != 100*time.Millisecond || p.Name == last.GetName() {
			t.Fatalf("%v, %v; want a new %v", p, err, want)
		}
		last = p
	}
	update := func(p *pb.Profile) codes.Code {
		_, err := c.UpdateProfile(ctx, &pb.UpdateProfileRequest{Profile: p})
		return status.Code(err)
	}
	if code := update(&pb.Profile{Name: "projects/p/profiles/99", ProfileType: pb.ProfileType_CPU}); code != codes.NotFound {
		t.Errorf("not asked for: %v", code)
	}
	last.ProfileBytes = []byte("no profile")
	if code := update(last); code != codes.InvalidArgument {
		t.Errorf("no profile: %v", code)
	}
	last.ProfileBytes = nil
	if code := update(last); code != codes.NotFound {
		t.Errorf("twice: %v", code)
	}
	if s.kept.Load() != 0 || s.failed.Load() != 3 {
		t.Errorf("%d kept, %d failed", s.kept.Load(), s.failed.Load())
	}
	resp, err := http.Get("http://" + s.metaAddr + "/computeMetadata/v1/project/project-id")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound || s.asked.Load() != 1 {
		t.Errorf("the metadata service answers %s; it was asked %d times", resp.Status, s.asked.Load())
	}
}
