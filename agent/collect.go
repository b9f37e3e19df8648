package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"time"
	"unsafe"
)

const (
	// cpuRetry is how often a window asks for the CPU profiler that another holds.
	cpuRetry = time.Second
	// yieldFor is how long a window leaves the CPU profiler alone at its start, where
	// another profiler, not ours, was seen in the last yieldWindows windows.
	yieldFor     = 2 * time.Second
	yieldWindows = 30
	// startTakes is the most that a start of the CPU profile takes by itself, which is no gap.
	startTakes = 10 * time.Millisecond
	// leakEvery is how often leaked goroutines are looked for: each time is a garbage collection.
	leakEvery = 10 * time.Minute
	// bucketsShare of GOMEMLIMIT that the runtime's profiling buckets take is worth a warning.
	bucketsShare = 0.05
	// maxRecords of contention are read to see whether there is something new: 300 bytes each.
	maxRecords = 1000
	// selfLabel is the label of all that the agent's own goroutines cost.
	selfLabel = "quantra_agent"
)

// collector takes the profiles of a window. Only run's goroutine uses it.
type collector struct {
	a       *Agent
	gov     *governor
	vital   *vital
	signal  time.Duration // what one sample costs
	plan    plan
	figures figures // of the last look

	cpu     *bytes.Buffer // nil where no CPU profile of ours runs
	cpuFrom time.Time
	foreign int // windows since another profiler, not ours, had the CPU profile

	buf       bytes.Buffer
	scratch   scratch
	records   []runtime.BlockProfileRecord
	meters    []*meter
	types     map[*meter]Types
	cycles    uint64 // garbage collections at the last memory profile
	goroutine int    // windows since goroutines were listed
	leaks     time.Time
	mutexOn   bool // we turned the runtime's mutex profile on
	blockOn   bool

	made int64         // bytes of the window's profiles
	cost windowCost    // of the window
	took time.Duration // wall time of the last collect, for windows without samples
	sent int64         // uploaded bytes at the last look
}

func newCollector(a *Agent) *collector {
	c := &collector{a: a, vital: newVital(), signal: assumedSignalCost, types: map[*meter]Types{}, foreign: yieldWindows, leaks: time.Now()}
	c.gov = newGovernor(a.cfg.budget, a.cfg.types, a.cfg.rate, a.src.rates)
	on, off, both := column{keep: true}, column{}, column{keep: true, delta: true}
	meter := func(t Types, m *meter) {
		if t != 0 {
			c.meters = append(c.meters, m)
			c.types[m] = t
		}
	}
	if t := a.cfg.types & (Heap | Allocs); t != 0 {
		alloc, inuse := off, off
		if t&Allocs != 0 {
			alloc = both
		}
		if t&Heap != 0 {
			inuse = on
		}
		meter(t, newMeter(&c.scratch, "memory", "allocs", alloc, alloc, inuse, inuse))
	}
	meter(a.cfg.types&Mutex, newMeter(&c.scratch, "mutex", "mutex", both, both))
	meter(a.cfg.types&Block, newMeter(&c.scratch, "block", "block", both, both))
	for _, s := range a.cfg.sources {
		m := newMeter(&c.scratch, s.Name, "")
		m.write = s.Write
		meter(allTypes, m)
	}
	return c
}

// baseline reads the running totals, so that the first window has only what was added in it.
func (c *collector) baseline() {
	c.vital.look()
	c.settings()
	now := time.Now()
	for _, m := range c.meters {
		if _, err := c.measure(m, now, now); err != nil {
			c.a.status.gap(m.name, err)
		}
	}
}

// settings makes the runtime record what the plan wants, and no longer what it does not.
func (c *collector) settings() {
	c.gov.leased = int(c.a.rate.Load())
	c.plan = c.gov.plan()
	want := c.plan.types&Mutex != 0
	switch {
	case want && !c.mutexOn && runtime.SetMutexProfileFraction(-1) == 0:
		runtime.SetMutexProfileFraction(mutexFraction)
		c.mutexOn = true
	case !want && c.mutexOn:
		if runtime.SetMutexProfileFraction(-1) == mutexFraction { // else the program has chosen meanwhile
			runtime.SetMutexProfileFraction(0)
		}
		c.mutexOn = false
	}
	if want := c.plan.types&Block != 0; want != c.blockOn {
		rate := 0 // the runtime cannot say what it was
		if want {
			rate = blockRate
		}
		runtime.SetBlockProfileRate(rate)
		c.blockOn = want
	}
}

// restore undoes settings.
func (c *collector) restore() {
	c.gov.level = len(c.gov.rungs) // paused: nothing is wanted
	c.settings()
}

// startCPU begins the window's CPU profile, and says whether it did or need not.
func (c *collector) startCPU() bool {
	if c.plan.rate == 0 || c.cpu != nil {
		return true
	}
	if !c.a.src.turns.take(c.a) {
		return false
	}
	buf := new(bytes.Buffer)
	if err := c.a.src.startCPU(buf, c.plan.rate); err != nil {
		c.a.src.turns.release(c.a)
		if errors.Is(err, errRate) { // not here: the runtime's own then
			c.gov.rates = false
			c.plan = c.gov.plan()
			c.a.status.note("CPURate", "%v; sampling at %d Hz", err, defaultRate)
			return c.startCPU()
		}
		c.foreign = 0
		return false
	}
	c.cpu, c.cpuFrom = buf, time.Now()
	return true
}

// stopCPU ends it and is its bytes, nil where there are none.
func (c *collector) stopCPU() []byte {
	if c.cpu == nil {
		return nil
	}
	c.a.src.stopCPU()
	c.a.src.turns.release(c.a)
	b := c.cpu.Bytes()
	c.cpu = nil
	return b
}

// window profiles for a time, or until ctx ends or stop is closed, and is whether that was it.
func (c *collector) window(length time.Duration, ctx context.Context, stop <-chan struct{}) (ended bool) {
	c.settings()
	from := time.Now()
	end := time.NewTimer(length)
	defer end.Stop()
	missing := c.plan.rate > 0
	wait := cpuRetry
	if c.foreign < yieldWindows { // the other's turn
		c.foreign++
		wait = jitter(yieldFor, 0.5)
	} else {
		missing = !c.startCPU()
	}
	retry := time.NewTimer(wait)
	defer retry.Stop()
	for more := true; more; {
		select {
		case <-end.C:
			more = false
		case <-ctx.Done():
			more, ended = false, true
		case <-stop:
			more, ended = false, true
		case <-retry.C:
			if missing {
				missing = !c.startCPU()
				retry.Reset(jitter(cpuRetry, 0.3))
			}
		}
	}
	// By the monotonic clock: the other may be set meanwhile.
	took := time.Since(from)
	until := from.Add(took)
	if c.plan.rate > 0 {
		late := took
		if c.cpu != nil {
			late = c.cpuFrom.Sub(from)
		}
		if c.cpu == nil || late > max(took/10, startTakes) {
			c.a.status.gap("process_cpu", fmt.Errorf("another profiler had the CPU profile for %v of the window's %v", late.Round(time.Millisecond), took.Round(time.Millisecond)))
		}
	}
	c.collect(from, until)
	c.account()
	return ended
}

// put queues a profile of the window. What failed is a gap.
func (c *collector) put(name string, from, until time.Time, body []byte, err error) {
	switch {
	case err != nil:
		c.a.status.gap(name, err)
	case len(body) > 0:
		c.made += int64(len(body))
		c.a.queue.push(item{name: name, from: from, until: until, body: body})
	}
}

// collect ends the window and queues its profiles.
func (c *collector) collect(from, until time.Time) {
	began := time.Now()
	c.made = 0
	cpuFrom := c.cpuFrom
	own := ownSamples{}
	if body := c.stopCPU(); body != nil {
		c.put("process_cpu", cpuFrom, until, body, nil)
		own = c.own(body)
	}
	gauges, f := c.vital.look()
	for _, m := range c.meters {
		if c.plan.types&c.types[m] == 0 {
			continue
		}
		// The runtime publishes allocations when a collection ends: without one nothing is new.
		if m.source == "allocs" {
			if f.cycles == c.cycles && f.cycles > 0 {
				continue
			}
			c.cycles = f.cycles
		}
		if c.waited(m) {
			body, err := c.measure(m, from, until)
			c.put(m.name, from, until, body, err)
		}
	}
	c.goroutines(from, until)
	c.figures = f
	c.finish(from, until, gauges, own, time.Since(began))
	c.scratch.release()
	c.buf = bytes.Buffer{}
}

// waited is whether a profile of contention may have something new. The runtime's records
// are read for that without their text, which would cost a hundred times as much.
func (c *collector) waited(m *meter) bool {
	read := runtime.MutexProfile
	switch m.source {
	case "mutex":
	case "block":
		read = runtime.BlockProfile
	default:
		return true
	}
	n, ok := read(c.records)
	if !ok {
		if n > maxRecords {
			return true
		}
		c.records = make([]runtime.BlockProfileRecord, n+n/4+8)
		n, ok = read(c.records)
	}
	sum := int64(0)
	for _, r := range c.records[:min(n, len(c.records))] {
		sum += r.Count
	}
	same := ok && m.looked && sum == m.count
	m.count = sum
	return !same
}

// goroutines lists them, and those that leaked at their times.
func (c *collector) goroutines(from, until time.Time) {
	take := func(source, name string) {
		buf := new(bytes.Buffer)
		err := c.a.src.lookup(source, buf)
		c.put(name, from, until, buf.Bytes(), err)
	}
	if c.plan.types&Goroutine != 0 {
		n := c.a.src.count()
		c.goroutine++
		switch {
		case n > maxGoroutines:
			c.a.status.gap("goroutine", fmt.Errorf("%d goroutines: more than %d are not listed, as that alone would take %d MB", n, maxGoroutines, n*300/1e6))
		case c.goroutine > n/goroutinesPerWindow:
			c.goroutine = 0
			take("goroutine", "goroutine")
		}
	}
	if c.plan.types&GoroutineLeak != 0 && time.Since(c.leaks) >= leakEvery {
		c.leaks = time.Now()
		take("goroutineleak", "goroutineleak")
	}
}

func (c *collector) measure(m *meter, from, until time.Time) ([]byte, error) {
	c.buf.Reset()
	write := m.write
	if write == nil {
		write = func(w io.Writer) error { return c.a.src.lookup(m.source, w) }
	}
	if err := write(&c.buf); err != nil {
		return nil, err
	}
	body, err := m.measure(c.buf.Bytes(), from, until)
	if c.buf.Cap() > maxKeptBuffer {
		c.buf = bytes.Buffer{}
	}
	return body, err
}

// ownSamples are what the agent is in a CPU profile.
type ownSamples struct {
	labelled, all int // samples
	period        time.Duration
}

// own counts the agent's samples in a CPU profile.
func (c *collector) own(body []byte) ownSamples {
	raw, err := c.scratch.unpack(body)
	if err != nil {
		return ownSamples{} // not the runtime's: a test's
	}
	own, err := countLabelled(raw, selfLabel)
	if err != nil {
		return ownSamples{}
	}
	return own
}

// finish adds up what the window cost, and queues the figures.
func (c *collector) finish(from, until time.Time, gauges []gauge, own ownSamples, took time.Duration) {
	collecting := time.Duration(own.labelled) * own.period
	if own.all == 0 {
		collecting = c.took // of the window before: this one's is not over
	}
	c.took = took
	signals := time.Duration(own.all) * c.signal
	w := windowCost{
		agent: collecting + signals, samples: own.labelled, period: own.period,
		program: c.figures.cpu, length: until.Sub(from), bytes: c.made, memory: c.memory(),
	}
	c.cost = w
	if c.plan.types&Runtime == 0 {
		return
	}
	sent := c.a.status.get().UploadedBytes
	gauges = append(gauges,
		gauge{gAgentCPU, []string{"collecting and sending"}, int64(collecting)},
		gauge{gAgentCPU, []string{"signals"}, int64(signals)},
		gauge{gAgentMemory, []string{"held"}, w.memory},
		gauge{gAgentSent, []string{"sent"}, sent - c.sent},
		gauge{gAgentSamples, []string{"rate"}, int64(c.plan.rate)},
	)
	c.sent = sent
	body, err := c.scratch.pack(gaugeProfile(gauges, from, until))
	c.put("runtime", from, until, body, err)
}

// memory is what the agent holds, in bytes.
func (c *collector) memory() int64 {
	_, queued, _ := c.a.queue.stats()
	n := int64(queued) + int64(c.buf.Cap()) + c.scratch.memory() + int64(len(c.records))*int64(unsafe.Sizeof(runtime.BlockProfileRecord{}))
	for _, m := range c.meters {
		n += m.memory()
	}
	if c.plan.rate > 0 {
		n += cpuProfileBuffer
	}
	return n
}

// account lets the budget judge the window that is over.
func (c *collector) account() {
	w := c.cost
	if step := c.gov.observe(w, runtime.GOMAXPROCS(0)); step != "" {
		c.a.status.step(step)
		c.a.control.nudge()
	}
	share, doubt := c.gov.estimate()
	cost := Cost{
		CPUPercent: 100 * share, CPUDoubt: 100 * doubt, SignalNanos: int64(c.signal),
		Memory: w.memory, Buckets: c.figures.buckets, BytesPerMinute: c.gov.perMinute(),
	}
	var agent, all time.Duration
	for _, w := range c.gov.recent {
		agent += w.agent
		all += w.length
	}
	if all > 0 {
		cost.CorePercent = 100 * float64(agent) / float64(all)
	}
	b := c.gov.budget
	cost.Budget.CPUPercent, cost.Budget.Memory, cost.Budget.BytesPerMinute = 100*b.CPU, b.Memory, b.BytesPerMinute
	c.a.status.measured(c.gov.plan(), c.gov.shed(), cost)
	c.buckets(c.figures)
}

// buckets warns where the runtime's profiling buckets eat the memory limit: no agent can give them back.
func (c *collector) buckets(f figures) {
	if f.limit < math.MaxInt64 && float64(f.buckets) > bucketsShare*float64(f.limit) {
		c.a.status.note("GOMEMLIMIT", "the runtime's profiling buckets hold %d bytes, %.0f %% of the memory limit of %d; they only grow, one for each stack that allocates or waits; raise the limit, or set runtime.MemProfileRate higher at the start of main",
			f.buckets, 100*float64(f.buckets)/float64(f.limit), f.limit)
	}
}

// jitter is d, give or take part of it at random.
func jitter(d time.Duration, part float64) time.Duration {
	return d + time.Duration((2*rand.Float64()-1)*part*float64(d))
}

// countLabelled counts the samples of a CPU profile that have a label, by
// one pass over its bytes and without memory for them.
func countLabelled(msg []byte, key string) (o ownSamples, err error) {
	index, strings := uint64(math.MaxUint64), uint64(0)
	err = fields(msg, func(field int, n uint64, b []byte) error {
		switch field {
		case 6:
			if string(b) == key {
				index = strings
			}
			strings++
		case 12:
			o.period = time.Duration(n)
		}
		return nil
	})
	if err != nil {
		return ownSamples{}, err
	}
	err = fields(msg, func(field int, _ uint64, b []byte) error {
		if field != 2 {
			return nil
		}
		count, labelled, values := uint64(0), false, 0
		err := fields(b, func(field int, n uint64, b []byte) error {
			switch field {
			case 2: // packed, or one at a time; the first value is the number of samples
				if b != nil {
					var err error
					if n, err = firstNumber(b); err != nil {
						return err
					}
				}
				if values == 0 {
					count = n
				}
				values++
			case 3:
				return fields(b, func(field int, n uint64, _ []byte) error {
					labelled = labelled || field == 1 && n == index
					return nil
				})
			}
			return nil
		})
		o.all += int(count)
		if labelled {
			o.labelled += int(count)
		}
		return err
	})
	if err != nil || o.all < 0 || o.labelled < 0 {
		return ownSamples{}, fmt.Errorf("CPU profile: %w", errors.Join(err, errMessage))
	}
	return o, nil
}
