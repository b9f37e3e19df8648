package jfr

import (
	"cmp"
	"fmt"
	"math"
	"regexp"
	"strings"

	"github.com/quantra-l/quantra/profile"
)

// Named is a profile with its name in our model (docs/model.md).
type Named struct {
	Name    string
	Profile *profile.Profile
}

// kind is one kind of profile that a recording has.
type kind int

const (
	kindCPU kind = iota
	kindWall
	kindAlloc
	kindLive
	kindMutex
	kindBlock
	kinds
)

func vt(typ, unit string) profile.ValueType { return profile.ValueType{Type: typ, Unit: unit} }

// kindsOf are the kinds' names and types: those that other senders' profiles of the same have.
var kindsOf = [kinds]struct {
	name   string
	types  []profile.ValueType
	period profile.ValueType
}{
	kindCPU:   {"process_cpu", []profile.ValueType{vt("samples", "count"), vt("cpu", "nanoseconds")}, vt("cpu", "nanoseconds")},
	kindWall:  {"wall", []profile.ValueType{vt("samples", "count"), vt("wall", "nanoseconds")}, vt("wall", "nanoseconds")},
	kindAlloc: {"memory", []profile.ValueType{vt("alloc_objects", "count"), vt("alloc_space", "bytes")}, vt("space", "bytes")},
	kindLive:  {"memory", []profile.ValueType{vt("inuse_objects", "count"), vt("inuse_space", "bytes")}, vt("space", "bytes")},
	kindMutex: {"mutex", []profile.ValueType{vt("contentions", "count"), vt("delay", "nanoseconds")}, vt("contentions", "count")},
	kindBlock: {"block", []profile.ValueType{vt("contentions", "count"), vt("delay", "nanoseconds")}, vt("contentions", "count")},
}

// Contexts are the labels that events refer to by the number of a context.
type Contexts map[int64][]profile.Label

// Options say what a recording does not.
type Options struct {
	Rate     int // samples of CPU a second; 0 is 100
	Contexts Contexts
	Limits   profile.Limits
}

// builder is one kind's profile in the making.
type builder struct {
	b      *profile.Builder
	sets   map[int64]uint32 // of contexts
	stacks map[int64]uint32 // of this chunk
	locs   map[frame]uint32 // of this chunk
}

type recording struct {
	opt      Options
	period   int64
	kinds    [kinds]*builder
	samples  int
	nodes    int
	maxDepth int
	maxNodes int
	maxCount int
	from, to int64 // Unix nanoseconds of all chunks; 0 is not said
}

// Parse reads a recording: a profile for each kind of which it has a sample.
func Parse(b []byte, o Options) ([]Named, error) {
	if o.Rate = cmp.Or(o.Rate, 100); o.Rate < 1 || o.Rate > 1e6 {
		return nil, fmt.Errorf("%w: Flight Recorder: %d samples a second", profile.ErrCorrupt, o.Rate)
	}
	r := &recording{opt: o, period: int64(1e9) / int64(o.Rate), maxDepth: bound(o.Limits.Depth, 4096), maxNodes: bound(o.Limits.Stacks, 4<<20), maxCount: bound(o.Limits.Samples, 4<<20)}
	if len(b) == 0 {
		return nil, fmt.Errorf("%w: Flight Recorder: it is empty", profile.ErrCorrupt)
	}
	if err := chunks(b, r.chunk); err != nil {
		return nil, err
	}
	var out []Named
	for k, kb := range r.kinds {
		if kb == nil {
			continue
		}
		p := kb.b.Profile()
		p.TimeNanos, p.DurationNanos = r.from, r.to-r.from
		p.PeriodType = kindsOf[k].period
		if kind(k) == kindCPU || kind(k) == kindWall {
			p.Period = r.period
		}
		out = append(out, Named{kindsOf[k].name, p})
	}
	return out, nil
}

func bound(n, def int) int {
	if n = cmp.Or(n, def); n < 0 {
		return math.MaxInt
	}
	return n
}

// chunk adds the events of one chunk.
func (r *recording) chunk(c *chunk) error {
	for _, kb := range r.kinds {
		if kb != nil { // numbers of constants are a chunk's own
			kb.stacks, kb.locs = map[int64]uint32{}, map[frame]uint32{}
		}
	}
	if c.from > 0 && c.length <= math.MaxInt64-c.from {
		if r.from == 0 || c.from < r.from {
			r.from = c.from
		}
		r.to = max(r.to, c.from+c.length)
	}
	wall, err := c.wallClock()
	if err != nil {
		return err
	}
	return c.events(func(cl *class) error {
		e := event{samples: 1}
		switch cl.name {
		case "jdk.ExecutionSample", "profiler.WallClockSample", "jdk.ObjectAllocationInNewTLAB", "jdk.ObjectAllocationOutsideTLAB", "jdk.ObjectAllocationSample",
			"profiler.LiveObject", "jdk.JavaMonitorEnter", "jdk.ThreadPark":
		default:
			return nil
		}
		if err := c.structure(cl, 0, e.take, nil); err != nil {
			return err
		}
		switch cl.name {
		case "jdk.ExecutionSample":
			if state := c.states[e.state]; !wall || state == "STATE_RUNNABLE" || state == "STATE_DEFAULT" {
				if err := r.add(c, kindCPU, &e, 1, r.period); err != nil {
					return err
				}
			}
			if wall {
				return r.add(c, kindWall, &e, 1, r.period)
			}
			return nil
		case "profiler.WallClockSample":
			if e.samples < 0 || e.samples > math.MaxInt64/r.period {
				return c.corrupt("an event of %d samples", e.samples)
			}
			return r.add(c, kindWall, &e, e.samples, e.samples*r.period)
		case "jdk.ObjectAllocationSample":
			return r.add(c, kindAlloc, &e, 1, e.weight)
		case "profiler.LiveObject":
			return r.add(c, kindLive, &e, 1, e.size)
		case "jdk.JavaMonitorEnter":
			return r.add(c, kindMutex, &e, 1, whole(float64(e.duration)*c.ticks))
		case "jdk.ThreadPark":
			return r.add(c, kindBlock, &e, 1, whole(float64(e.duration)*c.ticks))
		}
		size := e.tlab // a new buffer is what was really taken
		if size == 0 {
			size = e.size
		}
		return r.add(c, kindAlloc, &e, 1, size)
	})
}

// event is the fields of an event that are of use.
type event struct {
	stack, state, context, samples, size, tlab, weight, duration int64
	name, value                                                  string
}

func (e *event) take(f *field, v value) {
	switch f.name {
	case "stackTrace":
		e.stack = v.num
	case "state":
		e.state = v.num
	case "contextId":
		e.context = v.num
	case "samples":
		e.samples = v.num
	case "allocationSize":
		e.size = v.num
	case "tlabSize":
		e.tlab = v.num
	case "weight":
		e.weight = v.num
	case "duration":
		e.duration = v.num
	case "name":
		e.name = v.text
	case "value":
		e.value = v.text
	}
}

// events calls f with the class of each event, and c at its fields.
func (c *chunk) events(f func(*class) error) error {
	for at := headerSize; at < len(c.b); {
		c.off = at
		size, err := c.int()
		if err != nil {
			return err
		}
		if size <= 0 || size > int64(len(c.b)-at) {
			return c.corrupt("an event of %d bytes, and %d are left", size, len(c.b)-at)
		}
		typ, err := c.long()
		if err != nil {
			return err
		}
		if cl := c.classes[typ]; cl != nil && typ != typeMeta && typ != typePool {
			if err := f(cl); err != nil {
				return err
			}
			if c.off > at+int(size) {
				return c.corrupt("an event of class %.60q is longer than the %d bytes that it says", cl.name, size)
			}
		}
		at += int(size)
	}
	return nil
}

// wallClock says whether the profiler's samples were of the wall clock: async-profiler leaves a note of how it was started.
func (c *chunk) wallClock() (wall bool, err error) {
	err = c.events(func(cl *class) error {
		if cl.name != "jdk.ActiveSetting" {
			return nil
		}
		var e event
		if err := c.structure(cl, 0, e.take, nil); err != nil {
			return err
		}
		wall = wall || e.name == "event" && e.value == "wall"
		return nil
	})
	return wall, err
}

// add adds one sample of a kind.
func (r *recording) add(c *chunk, k kind, e *event, n, v int64) error {
	if n == 0 || v < 0 {
		return nil
	}
	if r.samples++; r.samples > r.maxCount {
		return fmt.Errorf("%w: Flight Recorder: more than %d samples", profile.ErrTooLarge, r.maxCount)
	}
	kb := r.kinds[k]
	if kb == nil {
		kb = &builder{b: profile.NewBuilder(kindsOf[k].types...), sets: map[int64]uint32{}, stacks: map[int64]uint32{}, locs: map[frame]uint32{}}
		r.kinds[k] = kb
	}
	stack, ok := kb.stacks[e.stack]
	if !ok {
		t := c.stacks[e.stack]
		if len(t) > r.maxDepth {
			return fmt.Errorf("%w: Flight Recorder: a stack of %d frames, the limit is %d", profile.ErrTooLarge, len(t), r.maxDepth)
		}
		if r.nodes += len(t); r.nodes > r.maxNodes {
			return fmt.Errorf("%w: Flight Recorder: more than %d frames of stacks", profile.ErrTooLarge, r.maxNodes)
		}
		for i := len(t) - 1; i >= 0; i-- {
			stack = kb.b.Stack(stack, kb.location(c, t[i]))
		}
		kb.stacks[e.stack] = stack
	}
	kb.b.Add(stack, kb.labels(r.opt.Contexts, e.context), n, v)
	return nil
}

func (kb *builder) labels(contexts Contexts, id int64) uint32 {
	ls := contexts[id]
	if id == 0 || len(ls) == 0 {
		return 0
	}
	n, ok := kb.sets[id]
	if !ok {
		var set []profile.SampleLabel
		for _, l := range ls {
			set = append(set, profile.SampleLabel{Key: kb.b.String(profile.LabelName(l.Name)), Str: kb.b.String(l.Value)})
		}
		n = kb.b.LabelSet(set)
		kb.sets[id] = n
	}
	return n
}

func (kb *builder) location(c *chunk, f frame) uint32 {
	n, ok := kb.locs[f]
	if !ok {
		name := kb.b.String(c.methodName(f.method))
		fn := kb.b.Function(profile.Function{Name: name, SystemName: name})
		n = kb.b.Location(profile.Location{}, profile.Line{Function: fn, Line: max(f.line, 0)})
		kb.locs[f] = n
	}
	return n
}

// generated finds what the JVM numbers anew in each process: classes of lambdas and of reflection.
var generated = regexp.MustCompile(`(\$\$Lambda)(?:[$/.+]?(?:0x)?[0-9a-fA-F]+)+|((?:GeneratedMethodAccessor|GeneratedConstructorAccessor|GeneratedSerializationConstructorAccessor|\$\$FastClassBySpringCGLIB\$\$|\$Proxy))[0-9a-f]+`)

// methodName is a method as people write it: package.Class.method. Native frames have no class.
func (c *chunk) methodName(id int64) string {
	m, ok := c.methods[id]
	if !ok {
		return "[unknown]"
	}
	name, in := c.symbols[m.name], c.symbols[c.names[m.class]]
	if in != "" {
		name = strings.ReplaceAll(in, "/", ".") + "." + name
	}
	if strings.Contains(name, "$$") || strings.Contains(name, "Generated") || strings.Contains(name, "$Proxy") {
		name = generated.ReplaceAllString(name, "$1$2")
	}
	return cmp.Or(name, "[unknown]")
}
