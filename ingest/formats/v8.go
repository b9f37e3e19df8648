package formats

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"sort"
	"time"

	"github.com/quantra-l/quantra/profile"
)

// What V8's profiler writes (Node's --cpu-prof, DevTools' "Save profile") is Profiler.Profile of the Chrome DevTools
// Protocol: https://chromedevtools.github.io/devtools-protocol/tot/Profiler/#type-Profile. Times are microseconds of a clock that
// says nothing of the date.

type v8Node struct {
	ID     int64   `json:"id"`
	Parent int64   `json:"parent"` // in chunks of a trace; children else
	Call   v8Frame `json:"callFrame"`
	Hits   int64   `json:"hitCount"`
	Below  []int64 `json:"children"`
}

type v8Frame struct {
	Function string `json:"functionName"`
	URL      string `json:"url"`
	Line     int64  `json:"lineNumber"` // from 0, where the function begins
	Column   int64  `json:"columnNumber"`
}

type cpuProfile struct {
	Nodes      []v8Node  `json:"nodes"`
	StartTime  float64   `json:"startTime"`
	EndTime    float64   `json:"endTime"`
	Samples    []int64   `json:"samples"`    // numbers of nodes
	TimeDeltas []float64 `json:"timeDeltas"` // of each sample to the one before, of the first to StartTime
}

// Names that V8 gives to what is no function.
const (
	v8Root = "(root)" // the bottom of all stacks
	v8Idle = "(idle)" // the thread waited
)

// maxMicros bounds times, in microseconds: 31 years, so that their sums in nanoseconds have room in 63 bits.
const maxMicros = 1e15

// v8Writer builds the profile of one or more threads: "samples" and "cpu", as Go's have.
type v8Writer struct {
	*stacks
	samples int
	total   int64 // nanoseconds that were given to stacks
	idle    int64 // and those of a thread that waited, which count as nothing
	length  int64 // of the longest thread, nanoseconds
}

func newV8Writer(lim profile.Limits, input int) *v8Writer {
	return &v8Writer{stacks: newStacks(lim, input, count, profile.ValueType{Type: "cpu", Unit: "nanoseconds"})}
}

func v8Corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: V8's profile: %s", profile.ErrCorrupt, fmt.Sprintf(format, args...))
}

// ParseCPUProfile reads a .cpuprofile of V8: Node's and Chrome's. The columns are samples/count and cpu/nanoseconds: a sample has the
// time until the next one. The profiler runs by the wall clock, so what it calls "(idle)" is left out, and said in a comment.
func ParseCPUProfile(b []byte, lim profile.Limits) (*profile.Profile, error) {
	var p cpuProfile
	if err := json.Unmarshal(b, &p); err != nil {
		return nil, v8Corrupt("%v", err)
	}
	w := newV8Writer(lim, len(b))
	if err := w.add(&p, 0); err != nil {
		return nil, err
	}
	return w.done()
}

// frame is the location of a function. One without a name is told by its place, as Node's pprof writers do: all of them are
// not one function.
func (w *v8Writer) frame(f v8Frame) (uint32, error) {
	name := f.Function
	if name == "" {
		name = fmt.Sprintf("(anonymous:L#%d:C#%d)", f.Line+1, f.Column+1)
	}
	if w.names -= int64(len(name) + len(f.URL)); len(name) > maxFrame || len(f.URL) > maxFrame || w.names < 0 {
		return 0, fmt.Errorf("%w: the function %.40q... of %.40q has a name or an address of more than %d bytes", profile.ErrTooLarge, name, f.URL, maxFrame)
	}
	n := w.b.String(name)
	fn := w.b.Function(profile.Function{Name: n, SystemName: n, File: w.b.String(f.URL), StartLine: max(f.Line+1, 0)})
	return w.b.Location(profile.Location{}, profile.Line{Function: fn}), nil
}

// tree is the stack of each node, by its number; idle are those that wait.
func (w *v8Writer) tree(nodes []v8Node) (stack map[int64]uint32, idle map[int64]bool, err error) {
	if w.nodes += len(nodes); w.nodes > w.lim.Stacks {
		return nil, nil, fmt.Errorf("%w: more than %d nodes", profile.ErrTooLarge, w.lim.Stacks)
	}
	at := make(map[int64]int, len(nodes))
	for i := range nodes {
		if _, twice := at[nodes[i].ID]; twice {
			return nil, nil, v8Corrupt("node %d is there twice", nodes[i].ID)
		}
		at[nodes[i].ID] = i
	}
	below := make([][]int, len(nodes))
	called := make([]bool, len(nodes)) // by another node
	link := func(parent, child int) error {
		if called[child] {
			return v8Corrupt("node %d is called by two others", nodes[child].ID)
		}
		called[child] = true
		below[parent] = append(below[parent], child)
		return nil
	}
	for i := range nodes {
		n := &nodes[i]
		if n.Parent != 0 {
			p, ok := at[n.Parent]
			if !ok {
				return nil, nil, v8Corrupt("node %d is called by %d, which is not there", n.ID, n.Parent)
			}
			if err := link(p, i); err != nil {
				return nil, nil, err
			}
		}
		for _, id := range n.Below {
			c, ok := at[id]
			if !ok {
				return nil, nil, v8Corrupt("node %d calls %d, which is not there", n.ID, id)
			}
			if err := link(i, c); err != nil {
				return nil, nil, err
			}
		}
	}
	return w.walk(nodes, below, called)
}

// walk makes stacks from the roots on. Nodes that only call each other in a circle are never reached: nobody may name them.
func (w *v8Writer) walk(nodes []v8Node, below [][]int, called []bool) (map[int64]uint32, map[int64]bool, error) {
	type call struct {
		node   int
		parent uint32
		depth  int
	}
	var open []call
	for i := range nodes {
		if !called[i] {
			open = append(open, call{i, 0, 0})
		}
	}
	stack, idle := make(map[int64]uint32, len(nodes)), map[int64]bool{}
	for len(open) > 0 {
		c := open[len(open)-1]
		open = open[:len(open)-1]
		n := &nodes[c.node]
		at, depth := c.parent, c.depth
		switch {
		case n.Call.Function == v8Root && c.depth == 0:
		case n.Call.Function == v8Idle && n.Call.URL == "":
			idle[n.ID] = true
		default:
			if depth++; depth > w.lim.Depth {
				return nil, nil, fmt.Errorf("%w: a stack of %d frames, the limit is %d", profile.ErrTooLarge, depth, w.lim.Depth)
			}
			loc, err := w.frame(n.Call)
			if err != nil {
				return nil, nil, err
			}
			at = w.b.Stack(at, loc)
		}
		stack[n.ID] = at
		for _, child := range below[c.node] {
			open = append(open, call{child, at, depth})
		}
	}
	return stack, idle, nil
}

// add adds one thread's profile.
func (w *v8Writer) add(p *cpuProfile, labels uint32) error {
	if len(p.Nodes) == 0 {
		return v8Corrupt("it has no nodes")
	}
	if len(p.TimeDeltas) != len(p.Samples) && len(p.TimeDeltas) > 0 {
		return v8Corrupt("%d samples and %d timeDeltas", len(p.Samples), len(p.TimeDeltas))
	}
	if w.samples += len(p.Samples); w.samples > w.lim.Samples {
		return fmt.Errorf("%w: more than %d samples", profile.ErrTooLarge, w.lim.Samples)
	}
	stack, idle, err := w.tree(p.Nodes)
	if err != nil {
		return err
	}
	ids, hits, times, err := p.spread()
	if err != nil {
		return err
	}
	w.length = max(w.length, int64(max(p.EndTime-p.StartTime, 0)*1e3))
	for i, id := range ids {
		at, ok := stack[id]
		if !ok {
			return v8Corrupt("a sample is of node %d, which is not there, or calls itself", id)
		}
		ns := int64(times[i] * 1e3)
		if w.total += ns; w.total > math.MaxInt64-int64(2*maxMicros*1e3) {
			return v8Corrupt("its times are more than 63 bits of nanoseconds")
		}
		if idle[id] {
			w.idle += ns
			continue
		}
		w.b.Add(at, labels, hits[i], ns)
	}
	return nil
}

// spread gives each sample its time, in microseconds: until the next one, as DevTools does. Without samples, which a profiler may be told to
// leave out, the nodes' hits share the whole time. EndTime is never before the last sample after it.
func (p *cpuProfile) spread() (ids, hits []int64, times []float64, err error) {
	for _, t := range append([]float64{p.StartTime, p.EndTime}, p.TimeDeltas...) {
		if math.Abs(t) > maxMicros {
			return nil, nil, nil, v8Corrupt("the time %v is not in microseconds", t)
		}
	}
	if len(p.TimeDeltas) == 0 {
		sum := int64(0)
		for i := range p.Nodes {
			h := p.Nodes[i].Hits
			if h < 0 || h > 1<<40 {
				return nil, nil, nil, v8Corrupt("node %d has %d hits", p.Nodes[i].ID, h)
			}
			if h > 0 {
				ids, hits, sum = append(ids, p.Nodes[i].ID), append(hits, h), sum+h
			}
		}
		for _, h := range hits {
			times = append(times, max(p.EndTime-p.StartTime, 0)*float64(h)/float64(sum))
		}
		return ids, hits, times, nil
	}
	type sample struct {
		id int64
		at float64
	}
	samples := make([]sample, len(p.Samples))
	at := p.StartTime
	for i, d := range p.TimeDeltas {
		if at += d; math.Abs(at) > maxMicros {
			return nil, nil, nil, v8Corrupt("sample %d is at %v, which is not in microseconds", i, at)
		}
		samples[i] = sample{p.Samples[i], at}
	}
	// V8 notes a sample when it is taken and hands on those of two threads, so that a few come late.
	sort.SliceStable(samples, func(i, j int) bool { return samples[i].at < samples[j].at })
	if last := samples[len(samples)-1].at; p.EndTime < last {
		p.EndTime = last
	}
	for i, s := range samples {
		next := p.EndTime
		if i+1 < len(samples) {
			next = samples[i+1].at
		}
		ids, hits, times = append(ids, s.id), append(hits, 1), append(times, next-s.at)
	}
	return ids, hits, times, nil
}

// done is the profile of all that was added.
func (w *v8Writer) done() (*profile.Profile, error) {
	if w.samples == 0 && w.total == 0 {
		return nil, v8Corrupt("it has no samples")
	}
	p := w.b.Profile()
	p.PeriodType = profile.ValueType{Type: "cpu", Unit: "nanoseconds"}
	p.DurationNanos = w.length
	if w.idle > 0 {
		p.Comments = append(p.Comments, fmt.Sprintf("%v in which V8 was idle are left out", time.Duration(w.idle).Round(time.Microsecond)))
	}
	return p, nil
}

// traceEvent is what is read of an event of Chrome's trace format:
// https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU.
type traceEvent struct {
	Name string          `json:"name"`
	PID  int64           `json:"pid"`
	TID  int64           `json:"tid"`
	ID   json.RawMessage `json:"id"`
	TS   float64         `json:"ts"`
	Args json.RawMessage `json:"args"`
}

// traceArgs are those of Profile, ProfileChunk, CpuProfile and thread_name.
type traceArgs struct {
	Name string `json:"name"`
	Data struct {
		StartTime  *float64    `json:"startTime"`
		EndTime    *float64    `json:"endTime"`
		CPUProfile *cpuProfile `json:"cpuProfile"`
		TimeDeltas []float64   `json:"timeDeltas"`
	} `json:"data"`
}

// traceKey is one profile of a trace: the chunks come from another thread than the one that is profiled.
type traceKey struct {
	pid int64
	id  string
}

type traceProfile struct {
	cpuProfile
	tid   int64
	begun bool // its event Profile was there
}

type threadKey struct{ pid, tid int64 }

// trace is what was read of a trace's events.
type trace struct {
	lim      profile.Limits
	profiles map[traceKey]*traceProfile
	order    []traceKey
	threads  map[threadKey]string
	began    string // the date that DevTools notes, RFC 3339
	samples  int
	nodes    int
	dropped  int // chunks of profiles whose beginning is not in the trace
}

// maxThreads bounds the threads and profiles of a trace; a browser with many pages has some hundred.
const maxThreads = 1 << 16

// ParseChromeTrace reads the CPU profiles of a trace as DevTools' Performance panel and Chrome's --trace-startup save it: an object with
// traceEvents, or those alone. The threads that were profiled are added up, each sample with the labels "thread" and "pid". All other events
// are read over.
func ParseChromeTrace(b []byte, lim profile.Limits) (*profile.Profile, error) {
	w := newV8Writer(lim, len(b))
	t := &trace{lim: w.lim, profiles: map[traceKey]*traceProfile{}, threads: map[threadKey]string{}}
	if err := t.read(b); err != nil {
		return nil, err
	}
	for _, key := range t.order {
		p := t.profiles[key]
		if !p.begun {
			t.dropped++
			continue
		}
		if len(p.Nodes) == 0 {
			continue // it began, and nothing of it was written
		}
		set := []profile.SampleLabel{{Key: w.b.String("pid"), Num: key.pid}}
		if name := t.threads[threadKey{key.pid, p.tid}]; name != "" && len(name) <= profile.MaxLabelValue {
			set = append(set, profile.SampleLabel{Key: w.b.String("thread"), Str: w.b.String(name)})
		}
		if err := w.add(&p.cpuProfile, w.b.LabelSet(set)); err != nil {
			return nil, fmt.Errorf("process %d, profile %s: %w", key.pid, key.id, err)
		}
	}
	if len(t.order) == 0 {
		return nil, v8Corrupt("the trace has no CPU profile: record it with \"disabled-by-default-v8.cpu_profiler\", as DevTools does")
	}
	p, err := w.done()
	if err != nil {
		return nil, err
	}
	if at, err := time.Parse(time.RFC3339, t.began); err == nil && at.Year() > 1970 && at.Year() < 2200 {
		p.TimeNanos = at.UnixNano()
	}
	if t.dropped > 0 {
		p.Comments = append(p.Comments, fmt.Sprintf("%d profiles began before the trace and are left out", t.dropped))
	}
	return p, nil
}

// read goes over the trace once, event by event.
func (t *trace) read(b []byte) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	bad := func(err error) error {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return v8Corrupt("the trace: at byte %d: %v", dec.InputOffset(), err)
	}
	tok, err := dec.Token()
	if err != nil {
		return bad(err)
	}
	switch tok {
	case json.Delim('['):
		return t.events(dec, bad)
	case json.Delim('{'):
	default:
		return v8Corrupt("the trace is neither an object nor a list")
	}
	for dec.More() {
		key, err := dec.Token()
		if err != nil {
			return bad(err)
		}
		switch key {
		case "traceEvents":
			if tok, err := dec.Token(); err != nil || tok != json.Delim('[') {
				return v8Corrupt("traceEvents is no list")
			}
			if err := t.events(dec, bad); err != nil {
				return err
			}
		case "metadata":
			var m struct {
				StartTime any `json:"startTime"`
			}
			if err := dec.Decode(&m); err != nil {
				return bad(err)
			}
			t.began, _ = m.StartTime.(string)
		default:
			var skip json.RawMessage
			if err := dec.Decode(&skip); err != nil {
				return bad(err)
			}
		}
	}
	if _, err := dec.Token(); err != nil {
		return bad(err)
	}
	return nil
}

// events reads the list up to its end.
func (t *trace) events(dec *json.Decoder, bad func(error) error) error {
	for dec.More() {
		var e traceEvent
		if err := dec.Decode(&e); err != nil {
			return bad(err)
		}
		switch e.Name {
		case "Profile", "ProfileChunk", "CpuProfile", "thread_name":
		default:
			continue
		}
		var a traceArgs
		if err := json.Unmarshal(e.Args, &a); err != nil {
			return v8Corrupt("the event %s before byte %d: %v", e.Name, dec.InputOffset(), err)
		}
		if err := t.event(&e, &a); err != nil {
			return err
		}
	}
	if _, err := dec.Token(); err != nil {
		return bad(err)
	}
	return nil
}

// event takes one event that is about profiles or threads.
func (t *trace) event(e *traceEvent, a *traceArgs) error {
	if e.Name == "thread_name" {
		if len(t.threads) < maxThreads {
			t.threads[threadKey{e.PID, e.TID}] = a.Name
		}
		return nil
	}
	key := traceKey{e.PID, string(e.ID)}
	p := t.profiles[key]
	if p == nil {
		if len(t.order) >= maxThreads {
			return fmt.Errorf("%w: the trace has more than %d profiles", profile.ErrTooLarge, maxThreads)
		}
		p = &traceProfile{}
		t.profiles[key] = p
		t.order = append(t.order, key)
	}
	if e.Name != "ProfileChunk" {
		p.begun, p.tid, p.StartTime = true, e.TID, e.TS
	}
	d := &a.Data
	if d.StartTime != nil {
		p.StartTime = *d.StartTime
	}
	if d.EndTime != nil {
		p.EndTime = *d.EndTime
	}
	if c := d.CPUProfile; c != nil {
		if t.samples += len(c.Samples); t.samples > t.lim.Samples {
			return fmt.Errorf("%w: more than %d samples", profile.ErrTooLarge, t.lim.Samples)
		}
		if t.nodes += len(c.Nodes); t.nodes > t.lim.Stacks {
			return fmt.Errorf("%w: more than %d nodes", profile.ErrTooLarge, t.lim.Stacks)
		}
		p.Nodes = append(p.Nodes, c.Nodes...)
		p.Samples = append(p.Samples, c.Samples...)
		p.TimeDeltas = append(p.TimeDeltas, c.TimeDeltas...)
		if e.Name == "CpuProfile" { // whole, in traces of Chrome before 2017
			p.StartTime, p.EndTime = c.StartTime, c.EndTime
		}
	}
	p.TimeDeltas = append(p.TimeDeltas, d.TimeDeltas...)
	return nil
}

// Sniff says which of the JSON formats b has, by what its outermost object is made of: "speedscope", "cpuprofile", "chrome", or "" for none of
// them. A list is a trace's events.
func Sniff(b []byte) string {
	b = bytes.TrimLeft(b, " \t\r\n")
	switch {
	case len(b) == 0:
		return ""
	case b[0] == '[':
		return "chrome"
	}
	var top map[string]json.RawMessage
	if json.Unmarshal(b, &top) != nil {
		return ""
	}
	has := func(keys ...string) bool {
		return !slices.ContainsFunc(keys, func(k string) bool { return top[k] == nil })
	}
	switch {
	case has("traceEvents"):
		return "chrome"
	case has("shared", "profiles"):
		return "speedscope"
	case has("nodes", "startTime"):
		return "cpuprofile"
	}
	return ""
}
