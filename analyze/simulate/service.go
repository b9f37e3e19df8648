// Package simulate makes fleets with known truth, to measure what package analyze finds and what it only thinks to find.
//
// A service is a call tree of real profiles (testdata) from which samples are drawn by the minute. Around it is what
// makes real fleets hard: samples that come in clumps, requests whose mix wanders for minutes, load and shares that swing with the
// day, hosts that differ, restarts with a burst of start-up work, and batches that come and go. Into it go changes that are known:
// regressions of any size, sudden or gradual, and refactorings that move cost without adding any. Equal seeds give equal fleets.
package simulate

import (
	"embed"
	"fmt"
	"math"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/profile"
)

//go:embed testdata/*.pb.gz
var corpus embed.FS

// bases are the call trees of the profiles in testdata, by CPU time.
func bases() ([]*profile.Tree, error) {
	files, err := corpus.ReadDir("testdata")
	if err != nil {
		return nil, err
	}
	var trees []*profile.Tree
	for _, f := range files {
		b, err := corpus.ReadFile(path.Join("testdata", f.Name()))
		if err != nil {
			return nil, err
		}
		p, err := profile.DecodeBytes(b, profile.Limits{})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
		trees = append(trees, profile.NewTree(p, p.Column("cpu")))
	}
	return trees, nil
}

// Noise is what a service has beside chance. The zero value is none.
type Noise struct {
	Mix, MixMemory   float64       // relative deviation of how often each part of the call tree is entered, and how much of it the next minute remembers
	Self, SelfMemory float64       // the same for each function by itself
	Swing            float64       // how far load swings with the day, relative; shares follow it a little
	Host             float64       // relative deviation of functions between instances
	Restarts         float64       // restarts a day of each instance; the minute after has start-up work
	Deploys          float64       // deploys a day: all instances restart within ten minutes
	Spikes           float64       // batches a day, of 2 to 12 minutes, that double or triple a part of the tree
	Clump            float64       // samples of a minute come in clumps of this size on average; 0 and 1 are single ones
	SpikeLeast       time.Duration // 0: 2 min
	SpikeMost        time.Duration // 0: 12 min
}

// Realistic is noise as a service of many instances has it.
var Realistic = Noise{Mix: 0.05, MixMemory: 0.8, Self: 0.02, SelfMemory: 0.5, Swing: 0.4, Host: 0.03, Restarts: 1, Deploys: 1, Spikes: 4, Clump: 1.5}

// Spec is a service to make.
type Spec struct {
	Name      string
	Seed      uint64  // of the call tree
	NoiseSeed uint64  // of all chance; services with one Seed have one tree
	Samples   float64 // a minute, on average over the day; 0 is 20,000: about 3 cores at 100 Hz
	Instances int     // 0: 14
	Noise     Noise
	Labels    profile.Labels
	// Active is which part of Samples there are in a minute, 0 to 1; nil is all, always. At 0 there are no profiles.
	Active func(minute int) float64
	// Keep has the samples by node kept, for Profile.
	Keep bool
}

// Service draws tables and profiles. It moves forwards only.
type Service struct {
	spec  Spec
	rng   *rand.Rand
	start time.Time

	names  []string // of functions, sorted
	parent []int32  // of nodes; preorder, 0 is the root
	name   []int32  // into names; -1 is the root
	weight []float64
	part   []int32 // which part of the tree a node belongs to
	first  []bool  // the node is the outermost of its name on its path

	mix, self []float64   // states of noise, by part and by function
	load      []float64   // by function: how its share follows load
	hosts     [][]float64 // by instance and function
	host      []float64   // their mean, by function
	startup   int32       // the part that start-up work is in
	spikePart int32
	spikeLeft int
	spikeBy   float64
	deploying []int // instances still to restart
	plants    []plant
	minute    int
	begin     []int       // of nodes: the minute from which they are there
	end       []int       // and until which; 0 is for ever
	kept      [][]float32 // by column, counts of nodes
}

// Plant is a planted change: from minute At on, the cost of Function (what it spends itself) grows by Size, a share of the whole
// service's cost before; negative is an improvement. Over is over how many minutes; 0 is at once.
type Plant struct {
	Function string
	At       int
	Size     float64
	Over     int
	// Runtime has the cost of what Go's runtime does for Function grow instead: it allocates more, or waits more often.
	Runtime bool
}

// plant is one with what it grows: nodes, which have that share of the service before.
type plant struct {
	Plant
	share float64
	nodes []bool
}

// start is when all simulated time begins: a Monday.
var start = time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)

// New makes a service from two or three of the corpus's programs.
func New(spec Spec) (*Service, error) {
	trees, err := bases()
	if err != nil {
		return nil, err
	}
	if spec.Samples < 0 || spec.Instances < 0 {
		return nil, fmt.Errorf("simulate: %g samples, %d instances", spec.Samples, spec.Instances)
	}
	if spec.Samples == 0 {
		spec.Samples = 20000
	}
	if spec.Instances == 0 {
		spec.Instances = 14
	}
	s := &Service{spec: spec, rng: rand.New(rand.NewPCG(spec.Seed, 0x5eed)), start: start}
	s.grow(trees)
	s.rng = rand.New(rand.NewPCG(spec.Seed, spec.NoiseSeed+1))
	s.shake()
	return s, nil
}

// grow joins a few trees under one root, with weights of their own.
func (s *Service) grow(trees []*profile.Tree) {
	s.rng.Shuffle(len(trees), func(i, j int) { trees[i], trees[j] = trees[j], trees[i] })
	trees = trees[:2+s.rng.IntN(2)]
	index := map[string]int32{}
	s.parent, s.name, s.weight = []int32{0}, []int32{-1}, []float64{0}
	var sum float64
	for _, t := range trees {
		by := math.Exp(0.7 * s.rng.NormFloat64())
		at := make([]int32, t.Len())
		for i := 1; i < t.Len(); i++ {
			n := t.Names[t.Name[i]]
			if _, ok := index[n]; !ok {
				index[n] = int32(len(s.names))
				s.names = append(s.names, n)
			}
			at[i] = int32(len(s.parent))
			s.parent = append(s.parent, at[t.Parent[i]])
			s.name = append(s.name, index[n])
			w := float64(t.Self[i]) * by * math.Exp(0.8*s.rng.NormFloat64())
			s.weight = append(s.weight, w)
			sum += w
		}
	}
	order := slices.Clone(s.names)
	slices.Sort(order)
	for i := range s.name[1:] {
		at, _ := slices.BinarySearch(order, s.names[s.name[i+1]])
		s.name[i+1] = int32(at)
	}
	s.names = order
	for i := range s.weight {
		s.weight[i] /= sum
	}
	s.begin, s.end = make([]int, len(s.parent)), make([]int, len(s.parent))
	s.divide()
}

// divide finds the parts of the tree: its nodes four calls deep with what they call.
func (s *Service) divide() {
	const depth = 4
	level := make([]int, len(s.parent))
	s.part = make([]int32, len(s.parent))
	s.first = make([]bool, len(s.parent))
	parts := int32(1)
	for i := 1; i < len(s.parent); i++ {
		p := s.parent[i]
		level[i] = level[p] + 1
		s.part[i] = s.part[p]
		if level[i] == depth {
			s.part[i] = parts
			parts++
		}
		s.first[i] = true
		for j := p; j != 0; j = s.parent[j] {
			if s.name[j] == s.name[i] {
				s.first[i] = false
				break
			}
		}
	}
	s.mix = slices.Grow(s.mix, int(parts))[:parts]
}

// shake sets the noise going.
func (s *Service) shake() {
	n := s.spec.Noise
	f := len(s.names)
	s.self, s.load, s.host = make([]float64, f), make([]float64, f), make([]float64, f)
	for i := range s.self {
		s.self[i] = n.Self * s.rng.NormFloat64()
		if n.Swing > 0 && s.rng.IntN(3) == 0 {
			s.load[i] = 0.15 * s.rng.NormFloat64()
		}
	}
	for i := range s.mix {
		s.mix[i] = n.Mix * s.rng.NormFloat64()
	}
	s.hosts = make([][]float64, s.spec.Instances)
	for i := range s.hosts {
		s.hosts[i] = make([]float64, f)
		s.newHost(i)
	}
	s.startup = int32(s.rng.IntN(len(s.mix)))
}

// newHost puts instance i on another machine.
func (s *Service) newHost(i int) {
	for f := range s.host {
		h := 1.0
		if s.spec.Noise.Host > 0 {
			h = math.Exp(s.spec.Noise.Host * s.rng.NormFloat64())
		}
		s.host[f] += (h - s.hosts[i][f]) / float64(len(s.hosts))
		s.hosts[i][f] = h
	}
}

// Functions are the names of functions with their share of the service's own time, as the base has it, the largest first. With
// runtime it is the share of what Go's runtime does for them.
func (s *Service) Functions(runtime bool) (names []string, share []float64) {
	self := make([]float64, len(s.names))
	for i := 1; i < len(s.weight); i++ {
		if s.begin[i] != 0 {
			continue
		}
		if at, ok := slices.BinarySearch(s.names, s.owner(int32(i), runtime)); ok {
			self[at] += s.weight[i]
		}
	}
	order := make([]int, len(self))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case self[a] > self[b]:
			return -1
		case self[a] < self[b]:
			return 1
		}
		return 0
	})
	for _, i := range order {
		names, share = append(names, s.names[i]), append(share, self[i])
	}
	return names, share
}

// Plant adds a change. The function must be the service's, and spend time itself.
func (s *Service) Plant(p Plant) error {
	x := plant{Plant: p, nodes: make([]bool, len(s.parent))}
	for i := 1; i < len(s.parent); i++ {
		if s.begin[i] == 0 && s.owner(int32(i), p.Runtime) == p.Function {
			x.nodes[i] = true
			x.share += s.weight[i]
		}
	}
	if x.share <= 0 || x.share+p.Size < 0 {
		return fmt.Errorf("simulate: nothing of %q to change by %g", p.Function, p.Size)
	}
	s.plants = append(s.plants, x)
	return nil
}

// owner is the function whose node i is: its own, or with runtime the one that Go's runtime does it for, "" where it is not the
// runtime's.
func (s *Service) owner(i int32, runtime bool) string {
	if !runtime {
		return s.names[s.name[i]]
	}
	for first := true; i != 0; i, first = s.parent[i], false {
		if n := s.names[s.name[i]]; !strings.HasPrefix(n, "runtime.") && !strings.HasPrefix(n, "internal/runtime/") && n != "gcWriteBarrier" {
			if first {
				return ""
			}
			return n
		}
	}
	return ""
}

// factor is by how much the plant's nodes cost more in a minute.
func (p *plant) factor(minute int) float64 {
	switch {
	case minute < p.At:
		return 1
	case p.Over > 0 && minute < p.At+p.Over:
		return 1 + p.Size/p.share*float64(minute-p.At)/float64(p.Over)
	}
	return 1 + p.Size/p.share
}

const minutes = 24 * 60 // of a day

// step moves all noise on by some minutes, and is the load at that time and how many instances just started.
func (s *Service) step(by int) (load float64, started int) {
	n, rng := s.spec.Noise, s.rng
	wander := func(x []float64, sd, memory float64) {
		memory = math.Pow(memory, float64(by))
		for i := range x {
			x[i] = memory*x[i] + math.Sqrt(1-memory*memory)*sd*rng.NormFloat64()
		}
	}
	wander(s.mix, n.Mix, n.MixMemory)
	wander(s.self, n.Self, n.SelfMemory)
	at := float64(s.minute%minutes) / minutes
	load = 1 + n.Swing*math.Sin(2*math.Pi*(at-0.375)) // the peak is at 15:00
	if weekday := s.minute / minutes % 7; weekday >= 5 {
		load *= 1 - n.Swing/2
	}
	for i := range s.hosts {
		if rng.Float64() < n.Restarts/minutes*float64(by) {
			s.newHost(i)
			started++
		}
	}
	if rng.Float64() < n.Deploys/minutes*float64(by) {
		s.deploying = rng.Perm(len(s.hosts))
	}
	for k := 0; len(s.deploying) > 0 && k < by*((len(s.hosts)+9)/10); k++ {
		s.newHost(s.deploying[0])
		s.deploying = s.deploying[1:]
		started++
	}
	if s.spikeLeft > 0 {
		s.spikeLeft = max(0, s.spikeLeft-by)
	} else if rng.Float64() < n.Spikes/minutes*float64(by) {
		least, most := int(n.SpikeLeast/time.Minute), int(n.SpikeMost/time.Minute)
		if least == 0 {
			least = 2
		}
		if most == 0 {
			most = 12
		}
		s.spikePart, s.spikeLeft, s.spikeBy = int32(rng.IntN(len(s.mix))), least+rng.IntN(max(1, most-least+1)), 2+rng.Float64()
	}
	s.minute += by
	return load, started
}

// draw is the samples of each node in the next minutes, in counts.
func (s *Service) draw(counts []float64, by int) {
	minute := s.minute
	load, started := s.step(by)
	function := make([]float64, len(s.names))
	for i := range function {
		function[i] = s.host[i] * math.Exp(s.self[i])
		if s.load[i] != 0 {
			function[i] *= math.Pow(load, s.load[i])
		}
	}
	part := make([]float64, len(s.mix))
	for i := range part {
		part[i] = math.Exp(s.mix[i])
		if s.spikeLeft > 0 && int32(i) == s.spikePart {
			part[i] *= s.spikeBy
		}
		if int32(i) == s.startup {
			part[i] *= 1 + 5*float64(started)/float64(len(s.hosts))
		}
	}
	n := s.spec.Samples * load * float64(by)
	if s.spec.Active != nil {
		n *= s.spec.Active(minute)
	}
	for i := 1; i < len(counts); i++ {
		counts[i] = 0
		if w := s.weight[i]; w > 0 && minute >= s.begin[i] && (s.end[i] == 0 || minute < s.end[i]) {
			for j := range s.plants {
				if p := &s.plants[j]; i < len(p.nodes) && p.nodes[i] {
					w *= p.factor(minute)
				}
			}
			counts[i] = s.clumps(n * w * function[s.name[i]] * part[s.part[i]])
		}
	}
}

// clumps draws a count of that mean, whose samples come in clumps: each with a geometric number of them.
func (s *Service) clumps(mean float64) float64 {
	c := s.spec.Noise.Clump
	if c <= 1 {
		return poisson(s.rng, mean)
	}
	// The variance of a sum of Poisson many geometric numbers of mean c is mean * (2c - 1).
	n := poisson(s.rng, mean/c)
	if n > 15 {
		return max(n, math.Round(n*c+math.Sqrt(n*c*(c-1))*s.rng.NormFloat64()))
	}
	sum := n
	for range int(n) {
		for s.rng.Float64() > 1/c {
			sum++
		}
	}
	return sum
}

// poisson draws a count of that mean: by waiting times, or past 20 by the normal distribution.
func poisson(rng *rand.Rand, mean float64) float64 {
	if mean > 20 {
		return max(0, math.Round(mean+math.Sqrt(mean)*rng.NormFloat64()))
	}
	n := -1.0
	for t := 0.0; t < mean; n++ {
		t += rng.ExpFloat64()
	}
	return max(n, 0)
}

// Unit is what a sample is worth: at 100 Hz, in nanoseconds of CPU time.
const Unit = 1e7

// CPU is the type of all simulated profiles.
var CPU = profile.Type{Name: "process_cpu", Sample: profile.ValueType{Type: "cpu", Unit: "nanoseconds"}, Period: profile.ValueType{Type: "cpu", Unit: "nanoseconds"}}

// Table draws columns columns, of minutes minutes each. Columns of 30 and more are drawn in steps of five minutes, where
// they divide by it: what wanders from minute to minute then does so a little more than it should.
func (s *Service) Table(columns, minutes int) *analyze.Table {
	t := &analyze.Table{Service: s.spec.Name, Type: CPU, Start: s.start.Add(time.Duration(s.minute) * time.Minute), Step: time.Duration(minutes) * time.Minute,
		Unit: Unit, Total: make([]float64, columns), Profiles: make([]int, columns), Instances: make([]int, columns), Functions: make([]analyze.Series, len(s.names))}
	values := make([]float32, 2*columns*len(s.names))
	for i, n := range s.names {
		t.Functions[i] = analyze.Series{Function: n, Self: values[:columns:columns], Full: values[columns : 2*columns : 2*columns]}
		values = values[2*columns:]
	}
	counts, total := make([]float64, len(s.parent)), make([]float64, len(s.parent))
	by := 1
	if minutes >= 30 && minutes%5 == 0 {
		by = 5
	}
	for c := range columns {
		clear(total)
		for m := 0; m < minutes; m += by {
			s.draw(counts, by)
			for i, v := range counts {
				total[i] += v
			}
		}
		if s.spec.Keep {
			kept := make([]float32, len(total))
			for i, v := range total {
				kept[i] = float32(v)
			}
			s.kept = append(s.kept, kept)
		}
		s.column(t, c, total)
		if t.Total[c] > 0 {
			t.Instances[c] = s.spec.Instances
			if s.spec.Active != nil {
				t.Instances[c] = max(1, int(math.Round(float64(s.spec.Instances)*s.spec.Active(s.minute-by))))
			}
			t.Profiles[c] = t.Instances[c] * minutes
		}
	}
	return t
}

// column adds the samples of nodes up to functions. self is spent.
func (s *Service) column(t *analyze.Table, c int, self []float64) {
	for i := len(self) - 1; i > 0; i-- {
		v := self[i] * Unit
		f := &t.Functions[s.name[i]]
		f.Self[c] += float32(v)
	}
	for i := len(self) - 1; i > 0; i-- { // self becomes total
		if s.first[i] {
			t.Functions[s.name[i]].Full[c] += float32(self[i] * Unit)
		}
		self[s.parent[i]] += self[i]
	}
	t.Total[c] = self[0] * Unit
}
