//go:build unix

package command

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/quantra-l/quantra/optimize/commands"
)

// The test's own program is also what the commands run: a small supervisor of real processes. A group is a folder with the number that is
// asked for and a file for each worker. Workers end when the test does: they hold a connection to it.
const (
	envDir  = "QUANTRA_TEST_POOL"
	envLife = "QUANTRA_TEST_LIFE"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(envDir); dir != "" {
		code, err := pool(dir, os.Args[1:])
		if err == nil {
			os.Exit(0)
		}
		fmt.Fprintln(os.Stderr, err)
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// worker is a file of a group.
type worker struct {
	Pid     int
	Addr    string
	Drained bool
}

// pool is the supervisor; code is what it exits with if there is an error: get GROUP, set GROUP N, check GROUP N, drain GROUP NODE, undrain GROUP NODE, work FILE.
func pool(dir string, args []string) (code int, err error) {
	if args[0] == "work" {
		return 1, work(args[1])
	}
	group := filepath.Join(dir, args[1])
	b, err := os.ReadFile(filepath.Join(group, "want"))
	if err != nil {
		return commands.ExitGone, err
	}
	want, err := strconv.Atoi(string(b))
	if err != nil {
		return 1, err
	}
	switch args[0] {
	case "get":
		return 1, printGroup(group, want)
	case "set", "check":
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return 1, err
		}
		if n > 20 {
			return commands.ExitRefused, fmt.Errorf("20 workers are the most here, not %d", n)
		}
		if args[0] == "check" {
			return 1, nil
		}
		return 1, setGroup(group, n)
	case "drain", "undrain":
		return 1, drain(filepath.Join(group, args[2]), args[0] == "drain")
	}
	return 1, fmt.Errorf("no such command: %q", args)
}

func read(file string) (w worker, err error) {
	b, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(b, &w)
	}
	return w, err
}

// write is atomic, as clients read while it changes.
func write(file string, w worker) error {
	b, err := json.Marshal(w)
	if err != nil {
		return err
	}
	if err := os.WriteFile(file+".new", b, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// workers are a group's files, those that end first at the front.
func workers(group string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(group, "w??"))
	slices.Sort(files)
	slices.Reverse(files)
	return files, err
}

func printGroup(group string, want int) error {
	files, err := workers(group)
	if err != nil {
		return err
	}
	a := map[string]any{"id": "pool", "replicas": want, "current": len(files)}
	var nodes, drained []string
	ready := 0
	for _, f := range files {
		w, err := read(f)
		if err != nil {
			return err
		}
		nodes = append(nodes, filepath.Base(f))
		if w.Drained {
			drained = append(drained, filepath.Base(f))
		} else if w.Addr != "" {
			ready++
		}
	}
	a["nodes"], a["drained"], a["ready"] = nodes, drained, ready
	return json.NewEncoder(os.Stdout).Encode(a)
}

func setGroup(group string, n int) error {
	files, err := workers(group)
	if err != nil {
		return err
	}
	for i := len(files); i < n; i++ {
		exe, err := os.Executable()
		if err != nil {
			return err
		}
		file := filepath.Join(group, fmt.Sprintf("w%02d", i))
		cmd := exec.Command(exe, "work", file)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "ready\n" {
			return fmt.Errorf("a worker did not start: %q, %v", line, err)
		}
	}
	for _, f := range files[:max(0, len(files)-n)] {
		w, err := read(f)
		if err != nil {
			return err
		}
		if err := syscall.Kill(w.Pid, syscall.SIGTERM); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(group, "want"), []byte(strconv.Itoa(n)), 0o600)
}

// drain is done when the worker has answered all that it had taken.
func drain(file string, on bool) error {
	w, err := read(file)
	if err != nil {
		return err
	}
	w.Drained = on
	if err := write(file, w); err != nil {
		return err
	}
	resp, err := http.Post(fmt.Sprintf("http://%s/drain?on=%v", w.Addr, on), "", nil)
	if err != nil {
		return err
	}
	b, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, b)
	}
	return errors.Join(err, resp.Body.Close())
}

// work is a worker: GET / takes a while, and a drained one takes no more.
func work(file string) error {
	life, err := net.Dial("tcp", os.Getenv(envLife))
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, life) // until the test has ended
		os.Exit(1)
	}()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	var inFlight atomic.Int64
	var off atomic.Bool
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		inFlight.Add(1)
		defer inFlight.Add(-1)
		if off.Load() {
			http.Error(w, "drained", http.StatusServiceUnavailable)
			return
		}
		<-time.After(5 * time.Millisecond) // what a request costs
		fmt.Fprintln(w, "done")
	})
	mux.HandleFunc("POST /drain", func(w http.ResponseWriter, r *http.Request) {
		off.Store(r.FormValue("on") == "true")
		for off.Load() && inFlight.Load() > 0 {
			<-time.After(time.Millisecond)
		}
		if _, err := os.Stat(filepath.Join(filepath.Dir(file), "stuck-"+filepath.Base(file))); err == nil && off.Load() {
			http.Error(w, "requests in flight do not end", http.StatusConflict)
		}
	})
	srv := &http.Server{Handler: mux}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	if err := write(file, worker{Pid: os.Getpid(), Addr: l.Addr().String()}); err != nil {
		return err
	}
	fmt.Println("ready")
	<-ctx.Done()
	if n := inFlight.Load(); n > 0 {
		_ = os.WriteFile(file+"-lost", []byte(strconv.FormatInt(n, 10)), 0o600) // the test looks for it
	}
	return errors.Join(srv.Close(), os.Remove(file))
}
