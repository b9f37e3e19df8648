package pgo

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"time"
)

// EnoughSamples is from how many samples on a profile tells hot from cold: with 1,000 a call that has 1 % of them is
// seen 10 times, with an error of a third (Poisson). Go's own guide asks for profiles of several of 30 s.
const EnoughSamples = 1000

// Cell is what one instance did in one stretch of time.
type Cell struct {
	Instance, Version, Zone string
	From, To                time.Time
	Samples                 float64
}

// PlanOptions say which cells to take.
type PlanOptions struct {
	Version     string // only this; "" is the newest
	AllVersions bool   // older ones too, where their functions start in the same lines
	Cells       int    // at most so many; 0 is 600
}

// Plan is what to read.
type Plan struct {
	Version  string   // whose lines the profile is of
	Versions []string // all that are read, Version first
	Cells    []Cell   // those of Version first, then by time
	Of       int      // how many there were of these versions
	Warnings []string
}

const defaultCells = 600

// steps are the lengths of a cell, mostSteps a week of the longest.
var steps = []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour}

const mostSteps = 7 * 24

// Step is how long a cell of a range of time is: the shortest of a minute, 5, 15 and an hour of which not too many are in it.
func Step(length time.Duration) time.Duration {
	for _, s := range steps {
		if length <= mostSteps*s {
			return s
		}
	}
	return steps[len(steps)-1]
}

// NewPlan chooses the version, and of its cells as many as asked, spread over the hours of the week, the zones and
// the instances. The same cells give the same plan, in whatever order they come. The error is ErrNoSamples.
func NewPlan(cells []Cell, o PlanOptions) (*Plan, error) {
	versions := map[string]*versionFacts{}
	for _, c := range cells {
		if !(c.Samples > 0) {
			continue
		}
		v, ok := versions[c.Version]
		if !ok {
			v = &versionFacts{name: c.Version, first: c.From, last: c.To}
			versions[c.Version] = v
		}
		v.samples += c.Samples
		if c.From.Before(v.first) {
			v.first = c.From
		}
		if c.To.After(v.last) {
			v.last = c.To
		}
	}
	if len(versions) == 0 {
		return nil, fmt.Errorf("%w of any instance", ErrNoSamples)
	}
	p := &Plan{}
	chosen, err := p.choose(versions, o.Version)
	if err != nil {
		return nil, err
	}
	p.Version = chosen
	p.Versions = []string{chosen}
	if o.AllVersions {
		for _, v := range sortedVersions(versions) {
			if v.name != chosen {
				p.Versions = append(p.Versions, v.name)
			}
		}
	}
	limit := o.Cells
	if limit == 0 {
		limit = defaultCells
	}
	var wanted []Cell
	for _, c := range cells {
		if c.Samples > 0 && slices.Contains(p.Versions, c.Version) {
			wanted = append(wanted, c)
		}
	}
	p.Of = len(wanted)
	p.Cells = spread(wanted, limit)
	slices.SortFunc(p.Cells, func(a, b Cell) int {
		return cmp.Or(cmp.Compare(slices.Index(p.Versions, a.Version), slices.Index(p.Versions, b.Version)), compareCells(a, b))
	})
	return p, nil
}

type versionFacts struct {
	name        string
	first, last time.Time
	samples     float64
}

// sortedVersions is the one that came last first; of those that came together the one that was seen last, then the busiest.
func sortedVersions(versions map[string]*versionFacts) []*versionFacts {
	var all []*versionFacts
	for _, v := range versions {
		all = append(all, v)
	}
	slices.SortFunc(all, func(a, b *versionFacts) int {
		return cmp.Or(b.first.Compare(a.first), b.last.Compare(a.last), cmp.Compare(b.samples, a.samples), cmp.Compare(b.name, a.name))
	})
	return all
}

// choose is the version asked for, or the newest that has been seen enough.
func (p *Plan) choose(versions map[string]*versionFacts, want string) (string, error) {
	all := sortedVersions(versions)
	if want != "" {
		if versions[want] == nil {
			var names []string
			for _, v := range all {
				names = append(names, nameOr(v.name, "one without a name"))
			}
			return "", fmt.Errorf("%w of version %s; there are %v", ErrNoSamples, want, names)
		}
		return want, nil
	}
	for i, v := range all {
		if v.samples < EnoughSamples {
			continue
		}
		if i > 0 {
			p.Warnings = append(p.Warnings, fmt.Sprintf("%s is newer than %s, but has only %.0f samples so far", nameOr(all[0].name, "a version without a name"), v.name, all[0].samples))
		}
		if i+1 < len(all) && all[i+1].first.Equal(v.first) && all[i+1].last.Equal(v.last) {
			p.Warnings = append(p.Warnings, fmt.Sprintf("%s and %s ran all of the time side by side: which is newer is not known, the first is taken", nameOr(v.name, "a version without a name"), nameOr(all[i+1].name, "one without a name")))
		}
		return v.name, nil
	}
	most := slices.MaxFunc(all, func(a, b *versionFacts) int { return cmp.Compare(a.samples, b.samples) })
	return most.name, nil
}

func nameOr(name, or string) string { return cmp.Or(name, or) }

func compareCells(a, b Cell) int {
	return cmp.Or(a.From.Compare(b.From), cmp.Compare(a.Instance, b.Instance), cmp.Compare(a.Version, b.Version), cmp.Compare(a.Zone, b.Zone), a.To.Compare(b.To))
}

// slot is a cell's place in the week, in seconds: Mondays at nine are alike in what is asked of a service.
func (c *Cell) slot() int64 {
	const week = 7 * 24 * 60 * 60
	return ((c.From.Unix() % week) + week) % week
}

// spread takes at most n cells: from each place in the week in turn one, of the zone, then of the instance, that was taken least.
func spread(cells []Cell, n int) []Cell {
	slices.SortFunc(cells, compareCells)
	if n < 0 || len(cells) <= n {
		return cells
	}
	bySlot := map[int64][]Cell{}
	var slots []int64
	for _, c := range cells {
		if _, ok := bySlot[c.slot()]; !ok {
			slots = append(slots, c.slot())
		}
		bySlot[c.slot()] = append(bySlot[c.slot()], c)
	}
	// By hash, so that of fewer cells than slots not all are of the first days.
	slices.SortFunc(slots, func(a, b int64) int {
		return cmp.Or(cmp.Compare(mix(fmt.Sprint(a)), mix(fmt.Sprint(b))), cmp.Compare(a, b))
	})
	zones, instances := map[string]int{}, map[string]int{}
	var out []Cell
	for len(out) < n {
		for _, s := range slots {
			left := bySlot[s]
			if len(left) == 0 || len(out) == n {
				continue
			}
			best, bestHash := 0, uint64(math.MaxUint64)
			for i, c := range left {
				h := mix(fmt.Sprint(c.Instance, " ", s))
				if by := cmp.Or(cmp.Compare(zones[c.Zone], zones[left[best].Zone]), cmp.Compare(instances[c.Instance], instances[left[best].Instance]), cmp.Compare(h, bestHash)); i == 0 || by < 0 {
					best, bestHash = i, h
				}
			}
			c := left[best]
			zones[c.Zone]++
			instances[c.Instance]++
			out = append(out, c)
			bySlot[s] = slices.Delete(left, best, best+1)
		}
	}
	return out
}

// mix is a hash by which no order of names is preferred. It must never change: files are compared with last week's.
func mix(s string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(s))
	return h.Sum64()
}
