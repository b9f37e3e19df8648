package optimize

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// inForce says that the change may be in force at the unit.
func (u *Unit) inForce() bool {
	switch u.State {
	case UnitIntended, UnitApplied, UnitOff, UnitUndoing:
		return true
	}
	return false
}

// treated counts the units where it is, or is about to be, in force.
func (c *Change) treated() (n int) {
	for i := range c.Units {
		if u := &c.Units[i]; u.inForce() || u.State == UnitPlanned {
			n++
		}
	}
	return n
}

// unit is a change's unit of a target; nil if there is none.
func (c *Change) unit(id string) *Unit {
	for i := range c.Units {
		if c.Units[i].ID == id {
			return &c.Units[i]
		}
	}
	return nil
}

// size is how many of total targets a stage has: at least one.
func (s *Stage) size(total int) int {
	n := s.Nodes
	if n == 0 {
		n = int(math.Ceil(s.Percent / 100 * float64(total)))
	}
	return min(max(n, 1), total)
}

// want is how many of total targets are to be treated in a stage. Where there are several, the last one is left as a control until
// the others are proven: there is no stage that is compared with nothing.
func (c *Change) want(stage, total int) int {
	n := c.Plan.Stages[stage].size(total)
	if total > 1 {
		n = min(n, total-1)
	}
	return n
}

// versions are those of targets, sorted.
func versions(ts []Target) []string {
	all := map[string]bool{}
	for _, t := range ts {
		all[t.Version] = true
	}
	return sortedKeys(all)
}

// running are the versions of c's units, sorted.
func (c *Change) running() []string {
	var ts []Target
	for i := range c.Units {
		if !c.Units[i].Place {
			ts = append(ts, c.Units[i].Target)
		}
	}
	return versions(ts)
}

// takers counts the targets that have not refused the change.
func (c *Change) takers(targets []Target) (n int) {
	for _, t := range targets {
		if u := c.unit(t.ID); u == nil || u.State != UnitRefused {
			n++
		}
	}
	return n
}

// cell is where a target stands: cohorts are spread over cells.
func cell(t *Target) string { return t.Version + "\x00" + t.Zone }

// choose picks n of the free targets so that those chosen, with those that are had already, are spread over versions and zones as all
// targets are. Of a cell those come first that have run longest: they are past their warm-up. The same targets give the same choice.
func choose(free []Target, had []Target, n int) []Target {
	total, taken := map[string]int{}, map[string]int{}
	cells := map[string][]Target{}
	for _, t := range free {
		k := cell(&t)
		cells[k] = append(cells[k], t)
		total[k]++
	}
	for _, t := range had {
		taken[cell(&t)]++
		total[cell(&t)]++
	}
	for _, ts := range cells {
		slices.SortFunc(ts, func(a, b Target) int { return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.ID, b.ID)) })
	}
	var out []Target
	for len(out) < n {
		best := ""
		for _, k := range sortedKeys(cells) {
			if len(cells[k]) == 0 {
				continue
			}
			// The cell of which the least part is taken; of equals the largest, so that the first canary stands for most.
			if best == "" || taken[k]*total[best] < taken[best]*total[k] || taken[k]*total[best] == taken[best]*total[k] && total[k] > total[best] {
				best = k
			}
		}
		if best == "" {
			return out
		}
		out = append(out, cells[best][0])
		cells[best] = cells[best][1:]
		taken[best]++
	}
	return out
}

// controls picks, for each treated target, one that is left as it is and like it: of the same version, if possible of the same zone,
// and next to it in age. There are fewer where there are no more.
func controls(treated, free []Target) []Target {
	left := slices.Clone(free)
	var out []Target
	for _, t := range treated {
		best, score := -1, math.Inf(1)
		for i := range left {
			if left[i].Version != t.Version {
				continue
			}
			// An hour of age more or less weighs as much as another zone does; past that processes are alike.
			s := min(1, math.Abs(left[i].Started.Sub(t.Started).Hours()))
			if left[i].Zone != t.Zone {
				s++
			}
			if s < score {
				best, score = i, s
			}
		}
		if best >= 0 {
			out = append(out, left[best])
			left = slices.Delete(left, best, best+1)
		}
	}
	return out
}

// freshIn are targets that no other change has touched within the time.
func freshIn(ts []Target, touched map[string]time.Time, now time.Time, every time.Duration) (fresh []Target, next time.Time) {
	for _, t := range ts {
		at, was := touched[t.ID]
		if was && now.Sub(at) < every {
			if end := at.Add(every); next.IsZero() || end.Before(next) {
				next = end
			}
			continue
		}
		fresh = append(fresh, t)
	}
	return fresh, next
}
