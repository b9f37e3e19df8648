//go:build unix

// Pool is the smallest supervisor that quantraband can scale by commands: a group of worker processes on this machine, which share a load.
//
//	go build -o /tmp/pool ./examples/pool
//	/tmp/pool set hello 2      # two workers
//	/tmp/pool load hello 1.9   # cores that they use together: almost all of two
//	/tmp/pool get hello
//
// A worker is one thread that profiles itself as the service that the group is named after, and ends when it is told to, or when the
// pool's folder ($POOL_DIR, else one in the system's folder of temporary files) is gone. docs/scale.md has the policy.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/quantra-l/quantra/agent"
)

// What quantraband takes from an exit code (docs/scale.md).
const (
	exitGone    = 3
	exitRefused = 4
)

const most = 20 // workers of a group

func main() {
	code, err := run(os.Args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "pool:", err)
		os.Exit(code)
	}
}

func run(args []string) (code int, err error) {
	if len(args) < 2 || strings.ContainsAny(args[1], `/\`) || strings.HasPrefix(args[1], ".") {
		return 2, errors.New("usage: pool get GROUP | set GROUP N | check GROUP N | load GROUP CORES | work GROUP NAME")
	}
	dir := os.Getenv("POOL_DIR")
	if dir == "" {
		dir = filepath.Join(os.TempDir(), "quantra-pool")
	}
	group := filepath.Join(dir, args[1])
	what := args[0]
	if what == "get" {
		return get(group)
	}
	if len(args) != 3 {
		return 2, fmt.Errorf("%s needs one argument more", what)
	}
	switch what {
	case "set", "check":
		n, err := strconv.Atoi(args[2])
		if err != nil || n < 0 || n > most {
			return exitRefused, fmt.Errorf("%s workers: it must be 0 to %d", args[2], most)
		}
		if what == "check" {
			return exitGone, asked(group)
		}
		return 1, set(group, n)
	case "load":
		if cores, err := strconv.ParseFloat(args[2], 64); err != nil || cores < 0 {
			return 2, fmt.Errorf("%s cores: it must be a number", args[2])
		}
		return 1, write(filepath.Join(group, "load"), args[2])
	case "work":
		return 1, work(group, args[2])
	}
	return 2, fmt.Errorf("there is no command %s", what)
}

// asked is an error where there is no such group.
func asked(group string) error {
	_, err := os.ReadFile(filepath.Join(group, "want"))
	return err
}

// workers are the group's, those that end first in front. A file is there while its process is.
func workers(group string) ([]string, error) {
	files, err := filepath.Glob(filepath.Join(group, "w??"))
	slices.Sort(files)
	slices.Reverse(files)
	return slices.DeleteFunc(files, func(f string) bool {
		pid, err := pidOf(f)
		if err == nil && syscall.Kill(pid, 0) == nil {
			return false
		}
		os.Remove(f) // it died without taking its file along
		return true
	}), err
}

func pidOf(file string) (int, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(b))
}

// get prints how many are asked for, and which there are.
func get(group string) (code int, err error) {
	b, err := os.ReadFile(filepath.Join(group, "want"))
	if errors.Is(err, fs.ErrNotExist) {
		return exitGone, fmt.Errorf("there is no group %s: set makes one", filepath.Base(group))
	}
	if err != nil {
		return 1, err
	}
	want, err := strconv.Atoi(string(b))
	if err != nil {
		return 1, err
	}
	files, err := workers(group)
	if err != nil {
		return 1, err
	}
	nodes := []string{}
	for _, f := range files {
		nodes = append(nodes, filepath.Base(f))
	}
	return 1, json.NewEncoder(os.Stdout).Encode(map[string]any{"replicas": want, "ready": len(files), "current": len(files), "nodes": nodes})
}

// set starts workers, or lets those end that get names first. It returns when those that it started work.
func set(group string, n int) error {
	if err := write(filepath.Join(group, "want"), strconv.Itoa(n)); err != nil { // workers end where nobody asks for any
		return err
	}
	files, err := workers(group)
	if err != nil {
		return err
	}
	for i := len(files); i < n; i++ {
		if err := start(group, fmt.Sprintf("w%02d", i)); err != nil {
			return err
		}
	}
	for _, f := range files[:max(0, len(files)-n)] {
		pid, err := pidOf(f)
		if err == nil {
			err = syscall.Kill(pid, syscall.SIGTERM)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// start starts a worker in a session of its own: what set starts must live on when set has ended.
func start(group, name string) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(exe, "work", filepath.Base(group), name)
	cmd.Env = append(os.Environ(), "POOL_DIR="+filepath.Dir(group))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	said := make([]byte, 1)
	if _, err := out.Read(said); err != nil { // it says that it works, or ends
		return fmt.Errorf("worker %s did not start: %v", name, err)
	}
	return nil
}

// work burns its part of the load until it is told to end.
func work(group, name string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	runtime.GOMAXPROCS(1)
	a, err := agent.Start(ctx, agent.Options{Service: filepath.Base(group), Instance: name})
	if err != nil {
		log.Print(err) // it works all the same, unprofiled
	}
	file := filepath.Join(group, name)
	if err := write(file, strconv.Itoa(os.Getpid())); err != nil {
		return err
	}
	fmt.Print("ready")
	primes := 0
	for ctx.Err() == nil && asked(group) == nil {
		primes += burn(ctx, share(group))
	}
	log.Printf("%s counted %d primes", name, primes)
	end, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return errors.Join(a.Stop(end), os.Remove(file))
}

// share is what part of a core this worker is to use.
func share(group string) float64 {
	b, err := os.ReadFile(filepath.Join(group, "load"))
	if err != nil {
		return 0
	}
	cores, err := strconv.ParseFloat(string(b), 64)
	files, _ := workers(group)
	if err != nil || len(files) == 0 {
		return 0
	}
	return min(1, cores/float64(len(files)))
}

// burn works for a part of a tenth of a second, and rests for the other.
func burn(ctx context.Context, part float64) (n int) {
	const turn = 100 * time.Millisecond
	began := time.Now()
	rest := time.NewTimer(turn)
	defer rest.Stop()
	for busy := time.Duration(part * float64(turn)); time.Since(began) < busy; {
		n += countPrimes(1000)
	}
	select {
	case <-rest.C:
	case <-ctx.Done():
	}
	return n
}

//go:noinline
func countPrimes(up int) (n int) {
	for i := 2; i < up; i++ {
		prime := true
		for d := 2; d*d <= i && prime; d++ {
			prime = i%d != 0
		}
		if prime {
			n++
		}
	}
	return n
}

// write is atomic: workers read while it changes.
func write(file, text string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	tmp := fmt.Sprintf("%s.%d", file, os.Getpid())
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, file)
}
