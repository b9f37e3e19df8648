package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	readyWithin = 20 * time.Second // for a child's first line
	stopWithin  = 4 * time.Second  // for a child to end by itself once its stdin is closed
	// A child that ended is started again after this, doubled while it does not live for healthyAfter.
	firstRestart = 500 * time.Millisecond
	lastRestart  = 30 * time.Second
	healthyAfter = 10 * time.Second
)

// The services' settings of the runtime.
const (
	serviceGOGC   = "60"
	serviceMemory = "256MiB"
)

// FleetOptions is a fleet of processes.
type FleetOptions struct {
	// Exe is the program that has the commands [ServiceCommand] and [LoadCommand]. "" is this one.
	Exe string
	// Args come before the command's name, and Env is added to the environment.
	Args, Env []string
	// Server is where the profiles go. "" is the agent's default.
	Server string
	// Region is the label of the profiles. "" is "local".
	Region string
	// Spool is the folder for profiles while the server is away. "" is none.
	Spool string
	// Build is a file: while one is there the last service runs V3, as though a pipeline had built it with that profile and rolled it out to one node
	// first. "" is none.
	Build string
	// N is the number of services: the first half is v1, the rest v2. 0 is 4; below 2 is an error.
	N int
	// Rate is requests a second over the whole fleet. 0 is 100; <0 sends no load.
	Rate float64
	// Window is the time that a profile covers. 0 is 4 s.
	Window time.Duration
	// Logger hears of children that end unasked, and what they write to stderr. nil is slog.Default().
	Logger *slog.Logger
}

// Fleet is running processes: services, and a load on them. Each has a
// goroutine that starts it, again where it must, and waits for it.
type Fleet struct {
	o      FleetOptions
	cancel context.CancelFunc
	wg     sync.WaitGroup
	kill   chan struct{} // closed when Stop will wait no longer
	once   sync.Once

	mu      sync.Mutex
	urls    []string // of services, "" while one is down
	pids    map[string]int
	changed chan struct{} // closed and replaced when urls change
	built   bool          // the last service is to run V3
	last    string        // the version that it was started with; "" is not yet
	replace func()        // ends its process, so that one of another version takes its place
}

// buildEvery is how often the pipeline looks whether there is something to build.
const buildEvery = time.Second

// StartFleet starts the processes and returns when all services listen. ctx
// bounds the start and the fleet's life: when it ends the children end. Call
// Stop all the same; it waits for them. Where the start fails, nothing is left running.
func StartFleet(ctx context.Context, o FleetOptions) (*Fleet, error) {
	if o.N == 0 {
		o.N = 4
	}
	if o.N < 2 {
		return nil, fmt.Errorf("demo: fleet of %d: it needs at least 2, to have both versions", o.N)
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Exe == "" {
		exe, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("demo: cannot find this program's own executable: %w", err)
		}
		o.Exe = exe
	}
	live, cancel := context.WithCancel(ctx)
	f := &Fleet{
		o: o, cancel: cancel, kill: make(chan struct{}),
		urls: make([]string, o.N), pids: map[string]int{}, changed: make(chan struct{}),
	}
	f.built = o.Build != "" && there(o.Build)
	first := make(chan error, o.N) // how each service's first start went
	for i := range o.N {
		f.wg.Go(func() { f.keepService(live, i, first) })
	}
	for range o.N {
		if err := <-first; err != nil {
			cancel()
			f.wg.Wait()
			return nil, fmt.Errorf("demo: %w", err)
		}
	}
	if o.Rate >= 0 {
		f.wg.Go(func() { f.keepLoad(live) })
	}
	if o.Build != "" {
		f.wg.Go(func() { f.pipeline(live) })
	}
	return f, nil
}

// URLs are the services' addresses; "" stands for one that is down at the moment.
func (f *Fleet) URLs() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.urls)
}

// PIDs are the processes that run now, by name.
func (f *Fleet) PIDs() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := make(map[string]int, len(f.pids))
	for name, pid := range f.pids {
		m[name] = pid
	}
	return m
}

// Stop asks the processes to end and waits until they have; it kills those
// that have not after 4 s, or when ctx ends. After it none lives. The second call does nothing.
func (f *Fleet) Stop(ctx context.Context) error {
	f.cancel()
	done := make(chan struct{})
	go func() {
		f.wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		f.once.Do(func() { close(f.kill) })
		<-done // a killed process ends
	}
	return nil
}

// pipeline is what builds and rolls out, until ctx ends.
func (f *Fleet) pipeline(ctx context.Context) {
	again := time.NewTicker(buildEvery)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
		f.mu.Lock()
		f.built = there(f.o.Build)
		version, replace := f.version(f.o.N-1), f.replace
		if f.last == version {
			replace = nil
		}
		f.mu.Unlock()
		if replace != nil {
			f.o.Logger.Info("demo: another build is rolled out to one node", "version", version)
			replace()
		}
	}
}

// there says that a file is there.
func there(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// version is what the service of a number is to run. f.mu is held.
func (f *Fleet) version(i int) string {
	switch {
	case i < f.o.N/2:
		return V1
	case i == f.o.N-1 && f.built:
		return V3
	}
	return V2
}

// begin is the version that a service's process is to have, and ctx for it, which for the last service ends when another build is to take its place.
func (f *Fleet) begin(ctx context.Context, i int) (_ context.Context, version string, end context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	f.mu.Lock()
	defer f.mu.Unlock()
	version = f.version(i)
	if i == f.o.N-1 {
		f.last, f.replace = version, func() { cancel(errReplaced) }
	}
	return ctx, version, func() { cancel(context.Canceled) }
}

// errReplaced is that a process has ended for another version.
var errReplaced = errors.New("another build takes its place")

func (f *Fleet) keepService(ctx context.Context, i int, first chan<- error) {
	name := fmt.Sprintf("%s-%d", Service, i+1)
	args := []string{ServiceCommand, "--instance", name}
	if f.o.Server != "" {
		args = append(args, "--server", f.o.Server)
	}
	if f.o.Region != "" {
		args = append(args, "--region", f.o.Region)
	}
	if f.o.Spool != "" {
		args = append(args, "--spool", f.o.Spool)
	}
	if f.o.Window != 0 {
		args = append(args, "--window", f.o.Window.String())
	}
	// Planted: a collector that runs at every half of the heap, though there is memory enough.
	env := []string{"GOGC=" + serviceGOGC, "GOMEMLIMIT=" + serviceMemory}
	f.keep(ctx, name, func() error {
		ctx, version, cancel := f.begin(ctx, i)
		defer cancel()
		c, err := f.spawn(ctx, name, slices.Concat(args, []string{"--version", version}), env)
		if err == nil {
			var url string
			if url, err = c.ready(ctx); err == nil {
				f.setURL(i, url)
			} else {
				err = errors.Join(err, f.end(ctx, c, true))
			}
		}
		if first != nil {
			first <- err
			first = nil
		}
		if err != nil && context.Cause(ctx) == errReplaced {
			return errReplaced
		}
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { f.setURL(i, "") }) // customers go elsewhere before it ends
		defer stop()
		defer f.setURL(i, "")
		if err := f.end(ctx, c, false); context.Cause(ctx) != errReplaced {
			return err
		}
		return errReplaced
	})
}

func (f *Fleet) keepLoad(ctx context.Context) {
	args := []string{LoadCommand}
	if f.o.Rate > 0 {
		args = append(args, "--rate", strconv.FormatFloat(f.o.Rate, 'g', -1, 64))
	}
	f.keep(ctx, "load", func() error {
		c, err := f.spawn(ctx, "load", args, nil)
		if err != nil {
			return err
		}
		over := make(chan struct{})
		var telling sync.WaitGroup
		telling.Go(func() { f.tellTargets(c, over) })
		defer telling.Wait()
		defer close(over)
		return f.end(ctx, c, false)
	})
}

// tellTargets writes the targets to the load's stdin, each time that they change.
func (f *Fleet) tellTargets(c *child, over <-chan struct{}) {
	for {
		f.mu.Lock()
		up := slices.DeleteFunc(slices.Clone(f.urls), func(u string) bool { return u == "" })
		changed := f.changed
		f.mu.Unlock()
		if _, err := io.WriteString(c.stdin, strings.Join(up, " ")+"\n"); err != nil {
			return // it is gone; its keeper sees that
		}
		select {
		case <-changed:
		case <-over:
			return
		}
	}
}

func (f *Fleet) setURL(i int, url string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.urls[i] = url
	close(f.changed)
	f.changed = make(chan struct{})
}

// keep runs a process, again and again until ctx ends.
func (f *Fleet) keep(ctx context.Context, name string, run func() error) {
	pause := firstRestart
	for ctx.Err() == nil {
		began := time.Now()
		err := run()
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, errReplaced) {
			continue
		}
		if time.Since(began) > healthyAfter {
			pause = firstRestart
		}
		f.o.Logger.Warn("demo process ended, starting it again", "process", name, "after", pause, "err", err)
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		pause = min(2*pause, lastRestart)
	}
}

// child is one process. Its stdin stays open as long as it shall live.
type child struct {
	name   string
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	line   chan string   // the first line of stdout
	exited chan struct{} // closed when it was waited for
	err    error         // how it ended; written before exited closes
}

// spawn starts a process. env comes before what the options add.
func (f *Fleet) spawn(ctx context.Context, name string, args, env []string) (*child, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	cmd := exec.Command(f.o.Exe, slices.Concat(f.o.Args, args)...)
	cmd.Env = slices.Concat(os.Environ(), env, f.o.Env)
	cmd.Stderr = &lineLogger{log: func(line string) { f.o.Logger.Warn(line, "process", name) }}
	cmd.WaitDelay = time.Second // for a stderr that a stray descendant holds open
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	c := &child{name: name, cmd: cmd, stdin: stdin, line: make(chan string, 1), exited: make(chan struct{})}
	cmd.Stdout = &firstLine{to: c.line}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	f.mu.Lock()
	f.pids[name] = cmd.Process.Pid
	f.mu.Unlock()
	f.wg.Go(func() {
		c.err = cmd.Wait()
		f.mu.Lock()
		delete(f.pids, name)
		f.mu.Unlock()
		close(c.exited)
	})
	return c, nil
}

// ready waits for the first line of a service and is the URL in it.
func (c *child) ready(ctx context.Context) (url string, err error) {
	timer := time.NewTimer(readyWithin)
	defer timer.Stop()
	select {
	case line := <-c.line:
		url, ok := strings.CutPrefix(line, readyPrefix)
		if !ok {
			return "", fmt.Errorf("%s: first line is %.80q, want %q and a URL", c.name, line, readyPrefix)
		}
		return url, nil
	case <-c.exited:
		return "", fmt.Errorf("%s ended before it listened: %v", c.name, c.err)
	case <-timer.C:
		return "", fmt.Errorf("%s does not listen after %v", c.name, readyWithin)
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// end waits until the child has ended: by itself, or because ctx ended or now is
// set and it was asked to, and killed if it would not.
func (f *Fleet) end(ctx context.Context, c *child, now bool) error {
	if !now {
		select {
		case <-c.exited:
			c.stdin.Close()
			return c.err
		case <-ctx.Done():
		}
	}
	c.stdin.Close() // it says: end
	timer := time.NewTimer(stopWithin)
	defer timer.Stop()
	select {
	case <-c.exited:
		return c.err
	case <-timer.C:
	case <-f.kill:
	}
	if err := c.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		f.o.Logger.Error("demo process cannot be killed", "process", c.name, "pid", c.cmd.Process.Pid, "err", err)
	}
	<-c.exited
	return c.err
}

// maxLine bounds what is kept of a child's line.
const maxLine = 4 << 10

// firstLine hands on the first line that is written and drops the rest.
type firstLine struct {
	to  chan<- string // nil once the line was handed on
	buf []byte
}

func (w *firstLine) Write(p []byte) (int, error) {
	if w.to == nil {
		return len(p), nil
	}
	w.buf = append(w.buf, p...)
	if i := bytes.IndexByte(w.buf, '\n'); i >= 0 || len(w.buf) > maxLine {
		if i < 0 {
			i = maxLine
		}
		w.to <- strings.TrimRight(string(w.buf[:i]), "\r")
		w.to, w.buf = nil, nil
	}
	return len(p), nil
}

// lineLogger logs each line that is written.
type lineLogger struct {
	log func(line string)
	buf []byte
}

func (w *lineLogger) Write(p []byte) (int, error) {
	w.buf = append(w.buf, p...)
	for {
		i := bytes.IndexByte(w.buf, '\n')
		if i < 0 && len(w.buf) > maxLine {
			i = maxLine
		}
		if i < 0 {
			return len(p), nil
		}
		w.log(strings.TrimRight(string(w.buf[:i]), "\r\n"))
		w.buf = w.buf[min(i+1, len(w.buf)):]
	}
}
