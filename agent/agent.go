// Package agent profiles the Go program that imports it, all the time and at
// little cost, and sends what it finds to a Quantra-L server:
//
//	a, err := agent.Start(ctx, agent.Options{Service: "checkout"})
//	if err != nil {
//		log.Print(err) // the program runs on, unprofiled
//	}
//	defer a.Stop(context.Background()) // a nil *Agent is safe
//
// It takes CPU profiles at 100 Hz, the heap and what was allocated, goroutines
// and contended mutexes, in windows of 10 s, and uploads them every minute. It
// never forces a garbage collection, never makes the program wait for the
// network and keeps a bounded amount of memory.
//
// Environment: QUANTRA_SERVER is the server where [Options] names none,
// QUANTRA_REGION becomes the label "region", and PROFILER_ENABLED=false makes
// [Start] return an agent that does nothing.
//
// This package imports the standard library only, and its exported face is the
// one thing in this module that later versions promise to keep.
package agent

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"runtime/pprof"
	"sync"
	"time"
)

const (
	// stopGrace bounds the last uploads where the caller's context does not.
	stopGrace = 15 * time.Second
	// abandonAfter is how long Stop waits past its context for our goroutines:
	// ending the CPU profile takes up to 0.2 s, an aborted request next to nothing.
	abandonAfter = 2 * time.Second
	// mutexFraction is set where the program has not chosen its own: one of 100
	// contentions is recorded, about 1 µs each, so that even 100,000 a second
	// cost 0.1 % of a core.
	mutexFraction = 100
	// blockRate records one blocking event for each millisecond blocked, on average.
	blockRate = int(time.Millisecond)
	// goroutinesPerWindow: listing goroutines costs 1 to 2 µs for each. A program with
	// n times as many has them listed in every n-th window only, so the cost is bounded.
	goroutinesPerWindow = 5000
)

// Agent profiles this program until it is stopped. A nil Agent does nothing.
//
// Two goroutines work for it: run takes the profiles and owns everything that
// is measured; its child, [sender.loop], owns the network. They meet in the
// queue and in the status, each behind its own lock; no code holds both.
type Agent struct {
	cfg    config
	src    sources
	queue  *queue
	status *status

	stopOnce sync.Once
	stopping chan struct{}      // closed by Stop: close the window, flush
	abort    context.CancelFunc // ends requests under way
	done     chan struct{}      // closed when no goroutine of ours lives
	flushErr error              // why the flush failed; written before done closes
}

// sources are where profiles come from: the runtime, but for tests in virtual
// time, in which the runtime's real clocks have no place.
type sources struct {
	startCPU func(io.Writer) error
	stopCPU  func()
	lookup   func(name string, w io.Writer) error
}

var runtimeSources = sources{
	startCPU: pprof.StartCPUProfile,
	stopCPU:  pprof.StopCPUProfile,
	lookup: func(name string, w io.Writer) error {
		p := pprof.Lookup(name)
		if p == nil {
			return fmt.Errorf("this runtime has no profile %q", name)
		}
		return p.WriteTo(w, 0)
	},
}

// Start checks o and starts to profile. ctx is the agent's life: when it ends,
// the agent closes its window, uploads it, for at most 15 s, and is gone, as if
// stopped. The error names the option that is wrong; the agent is nil then.
//
// The runtime has one CPU profiler. Where the program, or another agent in it,
// uses that, the window is a gap in [Status], not an error, and the next
// window tries again.
func Start(ctx context.Context, o Options) (*Agent, error) {
	return start(ctx, o, runtimeSources)
}

func start(ctx context.Context, o Options, src sources) (*Agent, error) {
	enabled, err := killSwitch()
	if err != nil {
		return nil, err
	}
	if !enabled {
		return &Agent{}, nil // inert: all its methods do nothing
	}
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("agent: not started: %w", err)
	}
	cfg, err := o.resolve()
	if err != nil {
		return nil, err
	}
	// Requests outlive ctx, so that the last window can be flushed after it ended.
	sendCtx, abort := context.WithCancel(context.WithoutCancel(ctx))
	a := &Agent{
		cfg:      cfg,
		src:      src,
		queue:    newQueue(cfg.queueBytes),
		status:   newStatus(cfg.logger),
		stopping: make(chan struct{}),
		abort:    abort,
		done:     make(chan struct{}),
	}
	go a.run(ctx, sendCtx)
	return a, nil
}

func (a *Agent) inert() bool { return a == nil || a.done == nil }

// Stop ends the profiling, uploads what is not uploaded yet, the unfinished
// window included, and waits until no goroutine of the agent lives. It waits
// no longer than ctx, and no longer than 15 s; what could not be delivered
// by then is dropped, and the error says how much and why. It restores the
// runtime settings that the agent changed. Calls after the first return nil.
func (a *Agent) Stop(ctx context.Context) error {
	if a.inert() {
		return nil
	}
	first := false
	a.stopOnce.Do(func() {
		first = true
		close(a.stopping)
	})
	select {
	case <-a.done:
	case <-ctx.Done():
		a.abort()
		// An HTTPClient that ignores its request's context could hold us for ever.
		t := time.NewTimer(abandonAfter)
		defer t.Stop()
		select {
		case <-a.done:
		case <-t.C:
			return fmt.Errorf("agent: stop: Options.HTTPClient does not return though its request was cancelled: %w", context.Cause(ctx))
		}
	}
	if !first || a.flushErr == nil {
		return nil
	}
	if err := context.Cause(ctx); err != nil {
		return fmt.Errorf("agent: stop: %w (%w)", a.flushErr, err)
	}
	return fmt.Errorf("agent: stop: %w", a.flushErr)
}

// Status is what the agent did so far. After Stop it stays as it was at the end.
func (a *Agent) Status() Status {
	if a.inert() {
		return Status{}
	}
	s := a.status.get()
	s.Enabled = true
	s.Queued, s.QueuedBytes, s.Dropped = a.queue.stats()
	return s
}

// run owns all that is measured. It returns when the last window is delivered or given up.
func (a *Agent) run(ctx, sendCtx context.Context) {
	defer close(a.done)
	defer a.abort()
	s := newSender(a.cfg, a.queue, a.status)
	var sending sync.WaitGroup
	sending.Go(func() { a.flushErr = s.loop(sendCtx) })
	restore := a.runtimeSettings()
	a.windows(ctx, s)
	restore()
	close(s.final)
	sending.Wait()
}

// runtimeSettings makes the runtime record what we are asked for. restore
// undoes it, unless the program has changed the setting meanwhile.
func (a *Agent) runtimeSettings() (restore func()) {
	mutex := a.cfg.types&Mutex != 0 && runtime.SetMutexProfileFraction(-1) == 0
	if mutex {
		runtime.SetMutexProfileFraction(mutexFraction)
	}
	if a.cfg.types&Block != 0 {
		runtime.SetBlockProfileRate(blockRate)
	}
	return func() {
		if mutex && runtime.SetMutexProfileFraction(-1) == mutexFraction {
			runtime.SetMutexProfileFraction(0)
		}
		if a.cfg.types&Block != 0 {
			runtime.SetBlockProfileRate(0) // the runtime cannot say what it was
		}
	}
}

// windows profiles one window after the other until ctx ends or Stop is called.
func (a *Agent) windows(ctx context.Context, s *sender) {
	c := newCollector(a)
	c.baseline()
	// The first window has a random length, so that a fleet that starts together
	// does not beat in step from then on.
	length := time.Duration((0.5 + rand.Float64()/2) * float64(a.cfg.window))
	for early := true; ; {
		from := time.Now()
		c.startCPU()
		timer := time.NewTimer(length)
		ended := false
		select {
		case <-timer.C:
		case <-ctx.Done():
			ended = true
		case <-a.stopping:
			ended = true
		}
		timer.Stop()
		c.collect(from, time.Now())
		if ended {
			return
		}
		// The first profiles go at once, so that a page fills soon.
		if queued, _, _ := a.queue.stats(); early && queued > 0 || a.queue.halfFull() {
			s.hurry()
			early = false
		}
		length = jitter(a.cfg.window, 0.05)
	}
}

// collector takes the profiles of a window. Only run's goroutine uses it.
type collector struct {
	a         *Agent
	cpu       *bytes.Buffer // nil where no CPU profile of ours runs
	buf       bytes.Buffer
	meters    map[Types]*meter
	goroutine int // windows since goroutines were listed
}

func newCollector(a *Agent) *collector {
	c := &collector{a: a, meters: map[Types]*meter{}}
	if t := a.cfg.types & (Heap | Allocs); t != 0 {
		on, off := column{keep: true}, column{}
		alloc, inuse := off, off
		if t&Allocs != 0 {
			alloc = column{keep: true, delta: true}
		}
		if t&Heap != 0 {
			inuse = on
		}
		c.meters[t] = newMeter("memory", "allocs", alloc, alloc, inuse, inuse)
	}
	both := column{keep: true, delta: true}
	if a.cfg.types&Mutex != 0 {
		c.meters[Mutex] = newMeter("mutex", "mutex", both, both)
	}
	if a.cfg.types&Block != 0 {
		c.meters[Block] = newMeter("block", "block", both, both)
	}
	return c
}

// baseline reads the running totals, so that the first window has only what was added in it.
func (c *collector) baseline() {
	now := time.Now()
	for _, m := range c.meters {
		if _, err := c.measure(m, now, now); err != nil {
			c.a.status.gap(m.name, err)
		}
	}
}

func (c *collector) startCPU() {
	if c.a.cfg.types&CPU == 0 {
		return
	}
	buf := new(bytes.Buffer)
	if err := c.a.src.startCPU(buf); err != nil {
		c.a.status.gap("process_cpu", fmt.Errorf("another profiler has the CPU profile: %w", err))
		return
	}
	c.cpu = buf
}

// collect ends the window and queues its profiles. What fails is a gap.
func (c *collector) collect(from, until time.Time) {
	put := func(name string, body []byte, err error) {
		switch {
		case err != nil:
			c.a.status.gap(name, err)
		case len(body) > 0:
			c.a.queue.push(item{name: name, from: from, until: until, body: body})
		}
	}
	if c.cpu != nil {
		c.a.src.stopCPU()
		put("process_cpu", c.cpu.Bytes(), nil)
		c.cpu = nil
	}
	for _, m := range c.meters {
		body, err := c.measure(m, from, until)
		put(m.name, body, err)
	}
	if c.a.cfg.types&Goroutine != 0 {
		if c.goroutine++; c.goroutine > runtime.NumGoroutine()/goroutinesPerWindow {
			c.goroutine = 0
			buf := new(bytes.Buffer)
			err := c.a.src.lookup("goroutine", buf)
			put("goroutine", buf.Bytes(), err)
		}
	}
}

func (c *collector) measure(m *meter, from, until time.Time) ([]byte, error) {
	c.buf.Reset()
	if err := c.a.src.lookup(m.source, &c.buf); err != nil {
		return nil, err
	}
	return m.measure(c.buf.Bytes(), from, until)
}

// Status is what an agent did since it started.
type Status struct {
	Enabled bool // false for a nil agent and where PROFILER_ENABLED=false

	Uploaded      int64     // profiles that the server acknowledged
	UploadedBytes int64     // their bytes
	LastUpload    time.Time // when it last did; zero if never
	Failed        int64     // requests that failed, each try counted
	Rejected      int64     // profiles that the server refused for good, not tried again
	Dropped       int64     // profiles given up: the queue was full, or Stop ended first

	Queued      int // profiles that wait for an upload
	QueuedBytes int // their bytes

	Gaps    int64  // profiles that could not be taken, as when another profiler had the CPU profile
	LastGap string // which and why; "" if there was none

	LastError string // why the last failed request failed; it stays after a success
}

// status is a Status behind a lock. It logs when things change from good to bad and back, not
// each time: a server that is away for an hour is two lines.
type status struct {
	log *slog.Logger

	mu      sync.Mutex
	s       Status
	failing bool
	gapped  map[string]bool // by profile: its last window was a gap, said already
}

func newStatus(log *slog.Logger) *status {
	return &status{log: log, gapped: map[string]bool{}}
}

func (s *status) get() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.s
}

func (s *status) gap(name string, err error) {
	s.mu.Lock()
	s.s.Gaps++
	s.s.LastGap = name + ": " + err.Error()
	said := s.gapped[name]
	s.gapped[name] = true
	s.mu.Unlock()
	if !said {
		s.log.Warn("profile could not be taken, trying again each window", "profile", name, "err", err)
	}
}

func (s *status) uploaded(n int, at time.Time) {
	s.mu.Lock()
	s.s.Uploaded++
	s.s.UploadedBytes += int64(n)
	s.s.LastUpload = at
	again := s.failing
	s.failing = false
	s.mu.Unlock()
	if again {
		s.log.Info("profiles are uploaded again")
	}
}

func (s *status) failed(err error, rejected bool) {
	s.mu.Lock()
	s.s.Failed++
	if rejected {
		s.s.Rejected++
	}
	s.s.LastError = err.Error()
	said := s.failing
	s.failing = true
	s.mu.Unlock()
	if !said {
		s.log.Warn("profiles cannot be uploaded", "err", err)
	}
}

// jitter is d, give or take part of it at random.
func jitter(d time.Duration, part float64) time.Duration {
	return d + time.Duration((2*rand.Float64()-1)*part*float64(d))
}
