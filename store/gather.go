package store

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store/block"
)

// Sums is what one source (a block, a generation of the head) adds to an answer: samples added
// up over the stacks of its own tables, and what they rest on.
type Sums struct {
	Dense    []int64          // by stack, of samples without labels
	Labelled map[uint64]int64 // of those with labels: label set<<32 | stack

	Series         map[uint64]struct{} // SeriesHash of each
	Profiles       int
	From, To       int64 // first start and last end of a window, Unix nanoseconds
	Duration       int64
	Period         int64 // the longest
	ShortestPeriod int64
}

// NewSums is ready to add to, over so many stacks.
func NewSums(stacks int) *Sums {
	return &Sums{Dense: make([]int64, stacks), Labelled: map[uint64]int64{}, Series: map[uint64]struct{}{},
		From: math.MaxInt64, To: math.MinInt64, ShortestPeriod: math.MaxInt64}
}

// SeriesHash tells one series of a tenant from another.
func SeriesHash(name string, labels profile.Labels) uint64 {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], labels.Hash())
	return xxh3.HashString(name + string(b[:]))
}

// Gather adds up the parts of an answer by stack identity: a stack that many blocks have is in
// the sum once. Its memory is accounted, with what the sources need to make their parts.
// All methods may be called by many goroutines.
type Gather struct {
	limit int64

	mu    sync.Mutex
	used  int64
	out   *profile.Profile
	dense []int64 // by stack of out
	node  idIndex // stack identity -> stack of out

	strings   map[string]uint32
	mappings  map[profile.Mapping]uint32
	functions map[profile.Function]uint32
	locations map[string]uint32
	sets      map[string]uint32
	labelled  map[uint64]int64 // set<<32 | stack, both of out
	key       []byte

	series   map[uint64]struct{}
	profiles int
	from, to int64
	duration int64
	period   int64
	shortest int64
}

// NewGather may use so many bytes.
func NewGather(limit int64) *Gather {
	return &Gather{limit: limit, from: math.MaxInt64, to: math.MinInt64, shortest: math.MaxInt64,
		out: &profile.Profile{Strings: []string{""}, Mappings: []profile.Mapping{{}}, Stacks: profile.Stacks{Parent: []uint32{0}, Loc: []uint32{0}},
			LabelSets: [][]profile.SampleLabel{nil}, Values: [][]int64{nil}},
		dense: []int64{0}, strings: map[string]uint32{"": 0}, mappings: map[profile.Mapping]uint32{{}: 0}, functions: map[profile.Function]uint32{},
		locations: map[string]uint32{}, sets: map[string]uint32{"": 0}, labelled: map[uint64]int64{}, series: map[uint64]struct{}{}}
}

// Reserve takes n bytes of the answer's memory; [ErrTooLarge] if they are not to be had. Release gives them back.
func (g *Gather) Reserve(n int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.reserve(n)
}

func (g *Gather) reserve(n int64) error {
	if g.used+n > g.limit {
		return fmt.Errorf("store: query: %w: it needs more than %d MiB of memory; narrow the range or the labels, or raise --query-memory", ErrTooLarge, g.limit>>20)
	}
	g.used += n
	return nil
}

// Release gives back what Reserve took.
func (g *Gather) Release(n int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.used -= n
}

// What one of each costs in the answer, with its place in an index.
const (
	gatherStackBytes    = 56
	gatherLocationBytes = 160
	gatherFunctionBytes = 96
	gatherStringBytes   = 64
	gatherLabelledBytes = 40
)

// Add adds a source's sums. Nothing of t or s is kept but strings.
func (g *Gather) Add(t *block.Tables, s *Sums) error {
	n := t.Stacks.Len()
	if len(s.Dense) != n || len(t.StackIDs) != n {
		return fmt.Errorf("store: query: %w: %d sums and %d identities of %d stacks", ErrCorrupt, len(s.Dense), len(t.StackIDs), n)
	}
	// Only stacks that have a value, or are above one that has.
	used := make([]bool, n)
	for k, v := range s.Labelled {
		if v != 0 {
			used[uint32(k)] = true
		}
	}
	parent := t.Stacks.Parent
	for i := n - 1; i > 0; i-- {
		if used[i] || s.Dense[i] != 0 {
			used[i] = true
			used[parent[i]] = true
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	scratch := int64(4 * (n + len(t.Locations) + len(t.Functions) + len(t.Strings) + len(t.Mappings)))
	if err := g.reserve(scratch); err != nil {
		return err
	}
	defer func() { g.used -= scratch }()
	a := &adder{g: g, t: t, locations: make([]uint32, len(t.Locations)), functions: make([]uint32, len(t.Functions)),
		strings: make([]uint32, len(t.Strings)), mappings: make([]uint32, len(t.Mappings))}
	now := make([]uint32, n)
	before, taken := g.size(), int64(0)
	for i := 1; i < n; i++ {
		if !used[i] {
			continue
		}
		at, fresh := g.node.get(t.StackIDs[i], uint32(len(g.dense)))
		if fresh {
			g.out.Stacks.Parent = append(g.out.Stacks.Parent, now[parent[i]])
			g.out.Stacks.Loc = append(g.out.Stacks.Loc, a.location(t.Stacks.Loc[i]))
			g.dense = append(g.dense, 0)
			if len(g.dense)%4096 == 0 {
				d := g.size() - before - taken
				taken += d
				if err := g.reserve(d); err != nil {
					return err
				}
			}
		}
		now[i] = at
		g.dense[at] += s.Dense[i]
	}
	g.dense[0] += s.Dense[0]
	for k, v := range s.Labelled {
		if v != 0 {
			g.labelled[uint64(a.set(uint32(k>>32)))<<32|uint64(now[uint32(k)])] += v
		}
	}
	g.facts(s)
	return g.reserve(g.size() - before - taken)
}

// size is what the answer takes, about.
func (g *Gather) size() int64 {
	return int64(gatherStackBytes*len(g.dense) + gatherLocationBytes*len(g.out.Locations) + gatherFunctionBytes*len(g.out.Functions) +
		gatherStringBytes*len(g.out.Strings) + gatherLabelledBytes*(len(g.labelled)+len(g.out.LabelSets)))
}

func (g *Gather) facts(s *Sums) {
	for h := range s.Series {
		g.series[h] = struct{}{}
	}
	g.profiles += s.Profiles
	g.from, g.to = min(g.from, s.From), max(g.to, s.To)
	g.duration += s.Duration
	g.period, g.shortest = max(g.period, s.Period), min(g.shortest, s.ShortestPeriod)
}

// Result is the answer, to be asked for once.
func (g *Gather) Result(p *Plan) *Result {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := g.out
	for i, v := range g.dense {
		if v != 0 {
			out.SampleStack = append(out.SampleStack, uint32(i))
			out.SampleLabels = append(out.SampleLabels, 0)
			out.Values[0] = append(out.Values[0], v)
		}
	}
	keys := make([]uint64, 0, len(g.labelled))
	for k, v := range g.labelled {
		if v != 0 {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	for _, k := range keys {
		out.SampleStack = append(out.SampleStack, uint32(k))
		out.SampleLabels = append(out.SampleLabels, uint32(k>>32))
		out.Values[0] = append(out.Values[0], g.labelled[k])
	}
	out.SampleTypes = []profile.ValueType{p.Type.Sample}
	out.DefaultSampleType = p.Type.Sample.Type
	out.PeriodType, out.Period = p.Type.Period, g.period
	r := &Result{Profile: out, Profiles: g.profiles, Series: len(g.series)}
	if g.profiles > 0 {
		r.From, r.To = time.Unix(0, g.from).UTC(), time.Unix(0, g.to).UTC()
		out.TimeNanos, out.DurationNanos = g.from, g.duration
		if g.period != g.shortest {
			r.Warnings = append(r.Warnings, "The profiles were sampled at different periods: counts of samples do not compare, sums of time and bytes do.")
		}
	}
	return r
}

// adder brings what new stacks need of a source's tables into the answer. Its slices hold
// new numbers plus 1.
type adder struct {
	g                                       *Gather
	t                                       *block.Tables
	strings, functions, locations, mappings []uint32
}

func (a *adder) string(i uint32) uint32 {
	if a.strings[i] == 0 {
		s := a.t.Strings[i]
		n, ok := a.g.strings[s]
		if !ok {
			n = uint32(len(a.g.out.Strings))
			a.g.out.Strings = append(a.g.out.Strings, s)
			a.g.strings[s] = n
		}
		a.strings[i] = n + 1
	}
	return a.strings[i] - 1
}

func (a *adder) mapping(i uint32) uint32 {
	if a.mappings[i] == 0 {
		m := a.t.Mappings[i]
		m.File, m.BuildID = a.string(m.File), a.string(m.BuildID)
		n, ok := a.g.mappings[m]
		if !ok {
			n = uint32(len(a.g.out.Mappings))
			a.g.out.Mappings = append(a.g.out.Mappings, m)
			a.g.mappings[m] = n
		}
		a.mappings[i] = n + 1
	}
	return a.mappings[i] - 1
}

func (a *adder) function(i uint32) uint32 {
	if a.functions[i] == 0 {
		f := a.t.Functions[i]
		f.Name, f.SystemName, f.File = a.string(f.Name), a.string(f.SystemName), a.string(f.File)
		n, ok := a.g.functions[f]
		if !ok {
			n = uint32(len(a.g.out.Functions))
			a.g.out.Functions = append(a.g.out.Functions, f)
			a.g.functions[f] = n
		}
		a.functions[i] = n + 1
	}
	return a.functions[i] - 1
}

func (a *adder) location(i uint32) uint32 {
	if a.locations[i] != 0 {
		return a.locations[i] - 1
	}
	g := a.g
	l := a.t.Locations[i]
	lines := a.t.Lines[l.FirstLine : l.FirstLine+l.NumLines]
	l.Mapping = a.mapping(l.Mapping)
	k := binary.AppendUvarint(g.key[:0], l.Address)
	k = binary.AppendUvarint(k, uint64(l.Mapping))
	if l.Folded {
		k = append(k, 1)
	} else {
		k = append(k, 0)
	}
	for _, ln := range lines {
		k = binary.AppendUvarint(k, uint64(a.function(ln.Function)))
		k = binary.AppendVarint(k, ln.Line)
		k = binary.AppendVarint(k, ln.Column)
	}
	g.key = k
	n, ok := g.locations[string(k)]
	if !ok {
		n = uint32(len(g.out.Locations))
		l.FirstLine = uint32(len(g.out.Lines))
		for _, ln := range lines {
			ln.Function = a.function(ln.Function)
			g.out.Lines = append(g.out.Lines, ln)
		}
		g.out.Locations = append(g.out.Locations, l)
		g.locations[string(k)] = n
	}
	a.locations[i] = n + 1
	return n
}

func (a *adder) set(i uint32) uint32 {
	g := a.g
	own := slices.Clone(a.t.LabelSets[i])
	k := g.key[:0]
	for j, l := range own {
		own[j] = profile.SampleLabel{Key: a.string(l.Key), Str: a.string(l.Str), Num: l.Num, Unit: a.string(l.Unit)}
		k = binary.AppendUvarint(k, uint64(own[j].Key))
		k = binary.AppendUvarint(k, uint64(own[j].Str))
		k = binary.AppendVarint(k, own[j].Num)
		k = binary.AppendUvarint(k, uint64(own[j].Unit))
	}
	g.key = k
	n, ok := g.sets[string(k)]
	if !ok {
		n = uint32(len(g.out.LabelSets))
		g.out.LabelSets = append(g.out.LabelSets, own)
		g.sets[string(k)] = n
	}
	return n
}

// idIndex is an open hash table from stack identity to number. Identities are hashes already.
type idIndex struct {
	slots []idSlot
	n     int
}

type idSlot struct {
	id  uint64
	val uint32 // plus 1; 0 is a free slot
}

// get is id's number; if it has none it gets next.
func (t *idIndex) get(id uint64, next uint32) (n uint32, fresh bool) {
	if t.n*3 >= len(t.slots)*2 {
		t.grow()
	}
	mask := uint64(len(t.slots) - 1)
	for i := id & mask; ; i = (i + 1) & mask {
		switch s := &t.slots[i]; {
		case s.val == 0:
			*s = idSlot{id, next + 1}
			t.n++
			return next, true
		case s.id == id:
			return s.val - 1, false
		}
	}
}

func (t *idIndex) grow() {
	old := t.slots
	t.slots = make([]idSlot, max(1024, 2*len(old)))
	mask := uint64(len(t.slots) - 1)
	for _, s := range old {
		if s.val == 0 {
			continue
		}
		i := s.id & mask
		for t.slots[i].val != 0 {
			i = (i + 1) & mask
		}
		t.slots[i] = s
	}
}
