package pgo

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/quantra-l/quantra/profile"
)

const (
	// fullSamples is from how many samples on a cell weighs as much as any. One with fewer weighs less in proportion: what
	// an instance does that is next to idle is mostly the runtime looking for work.
	fullSamples = 100
	// total is the weight of a whole profile: a second of processor time. Shares are kept to a billionth.
	total = 1_000_000_000
	// maxMains is how many folders of package main are told at most.
	maxMains = 10
	// defaultPeriod is Go's, of 100 Hz, for profiles that do not say theirs. In nanoseconds.
	defaultPeriod = 10_000_000
)

// Merger weighs profiles and sums them. One goroutine at a time.
type Merger struct {
	version string

	b     *profile.Builder // of what is kept of stacks: one node for each pair of locations
	slots map[int64]*slot
	added int

	starts   map[string]int64 // of the version's functions
	mains    map[string]bool  // folders of package main
	sawGo    bool
	versions map[string]*VersionReport
	seen     map[string]*seen // instances

	samples                                  float64
	weight, named, withStart, dropped, empty float64 // in values as they came
}

// seen is one instance: the how many-th, and how many cells it has had.
type seen struct{ order, cells int }

// half is which half the next cell of an instance is dealt to: cells of an instance in turn, and instances of an hour
// in turn, so that both halves have of each.
func (m *Merger) half(instance string) int {
	s := m.seen[instance]
	if s == nil {
		s = &seen{order: len(m.seen)}
		m.seen[instance] = s
	}
	s.cells++
	return (s.order + s.cells - 1) & 1
}

// slot is one place of the week: what the cells of either half have together.
type slot struct {
	weight [2]float64
	sum    [2]map[uint32]float64 // by node, in shares times the cell's weight
}

// NewMerger starts a profile of this version's code: Plan.Version.
func NewMerger(version string) *Merger {
	return &Merger{
		version: version, b: profile.NewBuilder(profile.ValueType{Type: "cpu", Unit: "nanoseconds"}), slots: map[int64]*slot{},
		starts: map[string]int64{}, mains: map[string]bool{}, versions: map[string]*VersionReport{}, seen: map[string]*seen{},
	}
}

// Add adds what c did. Cells of the Merger's version come first, as [Plan] has them: what others did is taken
// where both functions of a call start in the lines that they start in there, as code that moved may have changed.
// The error is ErrNotCPU; cells without samples are left out.
func (m *Merger) Add(c Cell, p *profile.Profile) error {
	col, err := column(p)
	if err != nil {
		return fmt.Errorf("%s: %w", nameOr(c.Instance, "an instance without a name"), err)
	}
	sum := 0.0
	for _, v := range p.Values[col] {
		sum += float64(max(v, 0))
	}
	if sum == 0 {
		return nil
	}
	m.program(p)
	n := samplesOf(p, col, sum)
	older := c.Version != m.version
	in := reducer{m: m, p: p, older: older, functions: make([]uint32, len(p.Functions)), locs: [2][]uint32{make([]uint32, len(p.Locations)), make([]uint32, len(p.Locations))}}
	at := m.slots[c.slot()]
	if at == nil {
		at = &slot{}
		m.slots[c.slot()] = at
	}
	half := m.half(c.Instance)
	m.added++
	scale := min(1, n/fullSamples)
	at.weight[half] += scale
	if at.sum[half] == nil {
		at.sum[half] = map[uint32]float64{}
	}
	v := m.versions[c.Version]
	if v == nil {
		v = &VersionReport{Version: c.Version}
		m.versions[c.Version] = v
	}
	v.Cells++
	kept := 0.0
	for i, stack := range p.SampleStack {
		w := float64(p.Values[col][i])
		if w <= 0 {
			continue
		}
		m.weight += w
		node, ok := in.node(stack, w)
		if !ok {
			continue
		}
		kept += w
		at.sum[half][node] += w / sum * scale
	}
	v.Samples += n * kept / sum
	m.samples += n * kept / sum
	return nil
}

// program looks at what program the profile is of.
func (m *Merger) program(p *profile.Profile) {
	for _, f := range p.Functions {
		name := p.Strings[f.Name]
		m.sawGo = m.sawGo || strings.HasPrefix(name, "runtime.")
		if file := p.Strings[f.File]; strings.HasPrefix(name, "main.") && file != "" && len(m.mains) < maxMains {
			m.mains[path.Base(path.Dir(strings.ReplaceAll(file, `\`, "/")))] = true
		}
	}
}

// samplesOf is how many samples values of col that are sum together stand for.
func samplesOf(p *profile.Profile, col int, sum float64) float64 {
	if p.SampleTypes[col].Unit == "count" {
		return sum
	}
	period := int64(defaultPeriod)
	if p.PeriodType == (profile.ValueType{Type: "cpu", Unit: "nanoseconds"}) && p.Period > 0 {
		period = p.Period
	}
	return sum / float64(period)
}

// reducer turns one profile's stacks into nodes of the merger.
type reducer struct {
	m         *Merger
	p         *profile.Profile
	older     bool
	functions []uint32    // +1; 0 is not yet
	locs      [2][]uint32 // by whether it is the innermost; +1; 0 is not yet, unnamed and unlike are below
	lines     []profile.Line
}

const (
	unnamed = ^uint32(0)     // the location has no function
	unlike  = ^uint32(0) - 1 // a function that is not as in the version whose profile it is to be
)

// node is what is kept of a stack of the weight w: the innermost location and its caller. ok is false where nothing is.
func (in *reducer) node(stack uint32, w float64) (node uint32, ok bool) {
	m := in.m
	if stack == 0 {
		m.empty += w
		return 0, false
	}
	leaf := in.location(in.p.Stacks.Loc[stack], 1)
	if leaf == unnamed {
		m.empty += w
		return 0, false
	}
	m.named += w
	caller := uint32(0)
	if parent := in.p.Stacks.Parent[stack]; parent != 0 {
		caller = in.location(in.p.Stacks.Loc[parent], 0)
	}
	if leaf == unlike || caller == unlike {
		m.dropped += w
		return 0, false
	}
	if in.started(in.p.Stacks.Loc[stack]) {
		m.withStart += w
	}
	at := uint32(0)
	if caller != 0 && caller != unnamed {
		at = m.b.Stack(0, caller-1)
	}
	return m.b.Stack(at, leaf-1), true
}

func (in *reducer) started(loc uint32) bool {
	for _, ln := range in.p.LinesOf(loc) {
		if in.p.Functions[ln.Function].StartLine == 0 {
			return false
		}
	}
	return true
}

// location is the location of the merger's that stands for loc, +1. Of the innermost the line that was executed
// is left out: no call is there.
func (in *reducer) location(loc uint32, innermost int) uint32 {
	if at := in.locs[innermost][loc]; at != 0 {
		return at
	}
	in.lines = in.lines[:0]
	at := uint32(0)
	for i, ln := range in.p.LinesOf(loc) {
		f, ok := in.function(ln.Function)
		if !ok {
			at = unlike
			break
		}
		line := profile.Line{Function: f, Line: ln.Line}
		if i == 0 && innermost == 1 {
			line.Line = 0
		}
		in.lines = append(in.lines, line)
	}
	switch {
	case at != 0:
	case len(in.lines) == 0:
		at = unnamed
	default:
		at = in.m.b.Location(profile.Location{}, in.lines...) + 1
	}
	in.locs[innermost][loc] = at
	return at
}

// function is the merger's function that stands for f; ok is false where an older version's is another.
func (in *reducer) function(f uint32) (uint32, bool) {
	m, fn := in.m, &in.p.Functions[f]
	name := in.p.Strings[fn.Name]
	if in.older {
		if start, ok := m.starts[name]; !ok || start != fn.StartLine {
			return 0, false
		}
	}
	if in.functions[f] == 0 {
		name := strings.ToValidUTF8(strings.Map(control, name), "\uFFFD")
		in.functions[f] = m.b.Function(profile.Function{Name: m.b.String(name), StartLine: fn.StartLine}) + 1
		if !in.older {
			m.starts[in.p.Strings[fn.Name]] = fn.StartLine
		}
	}
	return in.functions[f] - 1, true
}

// control keeps a name to one line: `go tool preprofile` writes one to each.
func control(r rune) rune {
	if r < ' ' || r == 0x7f {
		return '\uFFFD'
	}
	return r
}

// Report is what a profile was made of, and how far it can be relied on.
type Report struct {
	Instances int             `json:"instances"`
	Cells     int             `json:"cells"` // stretches of an instance's time
	Slots     int             `json:"slots"` // places of the week
	Versions  []VersionReport `json:"versions"`
	Samples   float64         `json:"samples"`
	// Agreement is how much of the hot weight two halves of the same cells agree on, from 0 to 1; -1 is not known.
	Agreement float64 `json:"agreement"`
	Edges     int     `json:"edges"` // distinct calls
	Hot       int     `json:"hot"`   // of these that the compiler acts on
	Kept      int     `json:"kept"`  // of all that are in the file
	// Lost is the share of the weight whose calls are left out for the bound on size; none of it is hot.
	Lost     float64  `json:"lost"`
	Bytes    int      `json:"bytes"`
	Warnings []string `json:"warnings"`
}

// VersionReport is what one version gave.
type VersionReport struct {
	Version string  `json:"version"`
	Cells   int     `json:"cells"`
	Samples float64 `json:"samples"`
}

// Result is a finished profile.
type Result struct {
	Profile []byte // gzipped pprof
	Edges   *Edges // all of them, as the compiler has them; those that are left out for the bound on size, too
	Report  Report
}

// errDone says that Result was called twice.
var errDone = errors.New("a Merger gives one result")

// Result is the profile of all that was added, of at most maxBytes (0 is 1 MiB, below 0 no bound). The Merger is of no use
// after. Errors are ErrNoSamples, ErrNotGo, ErrNoStartLines and ErrSize, and say what to do.
func (m *Merger) Result(maxBytes int) (*Result, error) {
	if m.b == nil {
		return nil, errDone
	}
	acc := m.b.Profile()
	m.b = nil
	switch {
	case m.weight == 0, m.named > 0 && m.named == m.dropped:
		return nil, ErrNoSamples
	case m.named == 0:
		return nil, fmt.Errorf("%w with a function's name: the program was not symbolised", ErrNoSamples)
	case m.withStart == 0 && !m.sawGo:
		return nil, fmt.Errorf("%w: it has no function of Go's runtime", ErrNotGo)
	case m.withStart == 0:
		return nil, fmt.Errorf("%w, and the compiler would refuse the profile: profile with Go 1.20 or later, by runtime/pprof, the agent or an SDK that keeps Function.start_line; profiles that went through perf or an eBPF profiler have none", ErrNoStartLines)
	case !m.sawGo:
		return nil, fmt.Errorf("%w: it has no function of Go's runtime", ErrNotGo)
	}
	r := Report{Instances: len(m.seen), Cells: m.added, Slots: len(m.slots), Samples: m.samples, Agreement: -1, Warnings: []string{}}
	for _, v := range slices.SortedFunc(maps.Values(m.versions), func(a, b *VersionReport) int {
		return cmp.Or(cmp.Compare(boolInt(b.Version == m.version), boolInt(a.Version == m.version)), cmp.Compare(b.Samples, a.Samples), cmp.Compare(a.Version, b.Version))
	}) {
		r.Versions = append(r.Versions, *v)
	}
	var halves [2]*Edges
	for h := range halves {
		halves[h] = edgesOfCalls(acc, callsOf(acc, m.shares(h)))
	}
	if halves[0].Total > 0 && halves[1].Total > 0 {
		r.Agreement = Agreement(halves[0], halves[1])
	}
	res, err := encode(acc, m.shares(-1), maxBytes, &r)
	if err != nil {
		return nil, err
	}
	m.warnings(&res.Report)
	return res, nil
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// shares is what each node has of one half, or with -1 of both: a mean of the slots, each of them a mean of its cells.
func (m *Merger) shares(half int) map[uint32]float64 {
	out := map[uint32]float64{}
	all := 0.0
	for _, k := range slices.Sorted(maps.Keys(m.slots)) { // in order, so that sums of floats are the same each time
		s := m.slots[k]
		weight := 0.0
		for h := range s.weight {
			if half < 0 || h == half {
				weight += s.weight[h]
			}
		}
		if weight == 0 {
			continue
		}
		scale := min(1, weight) / weight
		for h := range s.sum {
			if half < 0 || h == half {
				for node, v := range s.sum[h] {
					out[node] += v * scale
				}
			}
		}
	}
	for _, node := range slices.Sorted(maps.Keys(out)) {
		all += out[node]
	}
	if all > 0 {
		for node := range out {
			out[node] /= all
		}
	}
	return out
}

// Steady is the agreement of halves below which another week's profile would make another program.
const Steady = 0.9

// warnings says what a reader should know before the file is used.
func (m *Merger) warnings(r *Report) {
	warn := func(format string, args ...any) { r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...)) }
	if r.Samples < EnoughSamples {
		warn("there are only %.0f samples, and hot is told from cold from about %d on: take a longer --since", r.Samples, EnoughSamples)
	}
	switch {
	case r.Agreement < 0:
		warn("how steady the profile is cannot be told: there is only one stretch of one instance's time")
	case r.Agreement < Steady:
		warn("two halves of the same profiles agree on only %.0f %% of the hot weight: take a longer --since, or more instances", r.Agreement*100)
	}
	if share := m.empty / m.weight; share > 0.05 {
		warn("%.0f %% of the samples have no function's name", share*100)
	}
	if kept := m.named - m.dropped; kept > 0 && m.withStart/kept < 0.99 {
		warn("%.1f %% of the samples are in functions without a start line: the compiler cannot place their calls", (1-m.withStart/kept)*100)
	}
	if m.dropped > 0 {
		warn("%.1f %% of the samples are of older versions' functions that are not in %s or start in another line there: they are left out", m.dropped/m.weight*100, nameOr(m.version, "the newest version"))
	}
	if len(m.mains) > 1 {
		warn("package main is in %d folders (%s): these are several programs; choose one with --matchers, or use the file for each of them", len(m.mains), strings.Join(slices.Sorted(maps.Keys(m.mains)), ", "))
	}
}
