// Package agent profiles the Go program that imports it, all the time and at
// little cost, and sends what it finds to a Quantra-L server:
//
//	a, err := agent.Start(ctx, agent.Options{Service: "checkout"})
//	if err != nil {
//		log.Print(err) // the program runs on, unprofiled
//	}
//	defer a.Stop(context.Background()) // a nil *Agent is safe
//
// It takes CPU profiles at 100 Hz, the heap and what was allocated, goroutines,
// contended mutexes and the runtime's own figures, in windows of 10 s, and
// uploads them every minute. It measures what it costs and keeps a [Budget]: 1 % of
// the program's processor time, 10 MB. It never forces a garbage collection and never
// makes the program wait for the network or a disk.
//
// Environment: QUANTRA_SERVER, QUANTRA_REGION, QUANTRA_KEY_FILE and QUANTRA_SPOOL stand for [Options]
// that are empty, PROFILER_ENABLED=false makes [Start] return an agent that does nothing, and
// PROFILER_OPTIMIZER_ENABLED=false makes it refuse all settings that the server would lease.
//
// This package imports the standard library only, and its exported face is the
// one thing in this module that later versions promise to keep.
package agent

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"sync"
	"sync/atomic"
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
	// maxGoroutines are listed at all: the runtime takes some 300 bytes of memory for each.
	maxGoroutines = 100_000
)

// Agent profiles this program until it is stopped. A nil Agent does nothing.
//
// Three goroutines work for it: run takes the profiles and owns everything that
// is measured; its children are [sender.loop], which owns uploads and the disk, and
// [controller.loop], which asks the server for leases and tasks. They meet in the
// queue, the status and the leases, each behind its own lock; no code holds two.
type Agent struct {
	cfg    config
	src    sources
	queue  *queue
	status *status

	id      *identity
	leases  *leaser
	control *controller
	// rate is the samples a second that are wanted: as configured, or leased.
	rate atomic.Int64

	stopOnce sync.Once
	stopping chan struct{}      // closed by Stop: close the window, flush
	abort    context.CancelFunc // ends requests under way
	done     chan struct{}      // closed when no goroutine of ours lives
	flushErr error              // why the flush failed; written before done closes
}

// sources are where profiles come from: the runtime, but for tests in virtual
// time, in which the runtime's real clocks have no place.
type sources struct {
	startCPU  func(w io.Writer, hz int) error // errRate where this rate cannot be had
	stopCPU   func()
	rates     bool                 // whether other rates than 100 may be tried
	calibrate func() time.Duration // what a sample's signal costs
	lookup    func(name string, w io.Writer) error
	count     func() int // of goroutines
	turns     *turns     // of the process's one CPU profiler
}

var runtimeSources = sources{
	startCPU:  startCPU,
	stopCPU:   pprof.StopCPUProfile,
	rates:     runtime.GOOS == "linux",
	calibrate: func() time.Duration { return calibrateSignal(startCPU, pprof.StopCPUProfile) },
	turns:     new(turns),
	count:     runtime.NumGoroutine,
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
	optimizer, err := optimizerSwitch(os.Getenv)
	if err != nil {
		return nil, err
	}
	id, err := loadIdentity(cfg.keyFile)
	if err != nil {
		return nil, fmt.Errorf("agent: Options.KeyFile: %w", err)
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
		id:       id,
	}
	a.status.identified(id.keyID())
	a.rate.Store(int64(cfg.rate))
	a.leases = newLeaser(runtimeKnobs(func(hz int) { a.rate.Store(int64(hz)) }, func() int { return int(a.rate.Load()) }), cfg.logger)
	if !optimizer {
		a.leases.forbid(envOptimizer + "=false")
	}
	a.control = a.newControl(optimizer)
	go a.run(ctx, sendCtx)
	return a, nil
}

// newControl is what asks the server for leases and tasks. Polls have connections of their own: the
// uploads' one connection would be taken for half a minute by each.
func (a *Agent) newControl(optimizer bool) *controller {
	labels := map[string]string{}
	for name := range a.cfg.labels {
		labels[name] = a.cfg.labels.Get(name)
	}
	for _, name := range []string{labelService, labelVersion, labelInstance, labelRegion} {
		delete(labels, name)
	}
	started := time.Now()
	return newController(controller{
		client: a.cfg.polls, ownClient: a.cfg.ownClient, id: a.id, leases: a.leases, tasks: doTask, log: a.cfg.logger,
		status: func() any { return a.Status() },
		report: func() pollRequest {
			return pollRequest{
				Service: a.cfg.labels.Get(labelService), Version: a.cfg.labels.Get(labelVersion), Instance: a.cfg.labels.Get(labelInstance),
				Region: a.status.get().Region, Labels: labels, Agent: userAgent, Go: runtime.Version(), OS: runtime.GOOS + "/" + runtime.GOARCH,
				PID: os.Getpid(), Started: started, Optimizer: optimizer, PGO: builtWithProfile(debug.ReadBuildInfo()),
			}
		},
	})
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
	var dropped int64
	s.Queued, s.QueuedBytes, dropped = a.queue.stats()
	s.Dropped += dropped
	s.Lease, s.LeaseError, _ = a.leases.state()
	for _, src := range a.cfg.sources {
		if src.Report != nil {
			if s.Sources == nil {
				s.Sources = map[string]any{}
			}
			s.Sources[src.Name] = src.Report()
		}
	}
	return s
}

// run owns all that is measured. It returns when the last window is delivered or given up.
func (a *Agent) run(ctx, sendCtx context.Context) {
	defer close(a.done)
	defer a.abort()
	// By this label the agent finds its own samples; who it starts inherits it.
	pprof.SetGoroutineLabels(pprof.WithLabels(ctx, pprof.Labels(selfLabel, "1")))
	s := newSender(a.cfg, a.queue, a.status)
	s.sign = a.id.sign
	controlCtx, endControl := context.WithCancel(sendCtx)
	defer endControl()
	var children sync.WaitGroup
	children.Go(func() {
		s.locate(sendCtx)
		children.Go(func() { a.control.run(controlCtx, s.base()) })
		a.flushErr = s.loop(sendCtx)
	})
	a.windows(ctx, s)
	endControl() // the settings are as they were before the last uploads
	close(s.final)
	children.Wait()
}

// windows profiles one window after the other until ctx ends or Stop is called.
func (a *Agent) windows(ctx context.Context, s *sender) {
	c := newCollector(a)
	defer a.src.turns.leave(a)
	defer c.restore()
	if a.cfg.types&CPU != 0 && a.src.turns.take(a) {
		c.signal = a.src.calibrate()
		a.src.turns.release(a)
	}
	c.baseline()
	// The first window has a random length, so that a fleet that starts together
	// does not beat in step from then on.
	length := time.Duration((0.5 + rand.Float64()/2) * float64(a.cfg.window))
	for early := true; ; {
		if c.window(length, ctx, a.stopping) {
			return
		}
		// The first profiles go at once, so that a page fills soon.
		queued, _, _ := a.queue.stats()
		if early && queued > 0 {
			poke(s.now)
			early = false
		}
		// Who set something, or asked to be shown this closely, must see harm within a window, not within a minute.
		if id, _, _ := a.leases.state(); id != "" {
			poke(s.now)
		}
		if a.queue.halfFull() {
			poke(s.now)
			poke(s.spill)
		}
		length = jitter(a.cfg.window, 0.05)
	}
}
