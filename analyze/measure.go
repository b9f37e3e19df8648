package analyze

// Measure is what a finding's figure is in another snapshot of its service, however small: a point of its chart. It knows the figures that are
// no function's share of a type (a lock's waits, the collector's part, a function's own code with what it calls of the library), as the
// finding was measured; ok is false for all others, and where the snapshot does not have the profiles ([Measures] says which those are).
func Measure(f *Finding, s Snapshot) (e Estimate, ok bool) {
	names := Measures(f)
	if len(names) == 0 || s.Instances <= 0 || !s.To.After(s.From) {
		return Estimate{}, false
	}
	if f.Metric == "own" {
		return ownShare(f.Function, s.CPU)
	}
	w := newWaste(&s, WasteOptions{})
	switch f.Kind {
	case GCPressure:
		return w.gc.All, w.cpu != nil && w.cpu.total > 0
	case Contention:
		return w.waits(f)
	case Blocking:
		return w.blocked(f)
	case GoroutineLeak:
		by, _ := w.leaks()
		v := by[f.Function]
		return Estimate{v, v, v}, s.LeakSnapshots > 0
	case Repeated:
		if w.cpu == nil || w.cpu.total == 0 {
			return Estimate{}, false
		}
		return w.cpu.share(w.cpu.allOf(f.Function)).times(w.cores), true
	}
	return Estimate{}, false
}

// Measures names the profiles of a snapshot that [Measure] needs for a finding, as agents name them; nil is that it does not know its figure.
func Measures(f *Finding) []string {
	switch {
	case f.Metric == "own" && (f.Kind == Regression || f.Kind == Improvement):
		return []string{"process_cpu"}
	case f.Kind == GCPressure, f.Kind == Repeated, f.Kind == Blocking && f.Test == blockedByCPU:
		return []string{"process_cpu"}
	case f.Kind == Contention && f.Subject != "":
		return []string{"process_cpu", "lock"}
	case f.Kind == Contention:
		return []string{"process_cpu", "mutex"}
	case f.Kind == Blocking:
		return []string{"goroutine", "block"}
	case f.Kind == GoroutineLeak:
		return []string{"goroutineleak"}
	}
	return nil
}

// waits is how long a lock was waited for, in seconds for each second of an instance. No wait at all is 0, if the windows are known.
func (w *waste) waits(f *Finding) (Estimate, bool) {
	if w.covered <= 0 || w.cpu == nil {
		return Estimate{}, false
	}
	seconds, n := 0.0, 0.0
	if f.Subject != "" {
		for _, l := range w.locks() {
			if l.name == f.Subject {
				seconds, n = l.wait, l.contentions
			}
		}
	} else {
		all, counts := w.mutexWaits()
		seconds, n = all[f.Function], counts[f.Function]/mutexFraction
	}
	e, _ := w.waitEstimate(seconds, n)
	return e.times(w.seconds / w.covered), w.seconds > 0
}

// blocked is the part of requests' time that is spent in a call, or of the CPU where the finding is about that.
func (w *waste) blocked(f *Finding) (Estimate, bool) {
	if f.Test == blockedByCPU {
		if w.cpu == nil || w.cpu.total == 0 {
			return Estimate{}, false
		}
		places, _, _ := w.cpu.blockPlaces()
		return w.cpu.share(placeOf(places, f)), true
	}
	for _, c := range []struct {
		of     Profiles
		column string
	}{{w.s.Goroutines, "goroutine"}, {w.s.Goroutines, "goroutines"}, {w.s.Block, "delay"}} {
		p, col, ok := c.of.column(c.column)
		if !ok {
			continue
		}
		places, _, all := newWasteTree(p, col).blockPlaces()
		n := all
		if c.column == "delay" {
			n = 0
			if p, col, ok := c.of.column("contentions"); ok {
				_, _, n = newWasteTree(p, col).blockPlaces()
			}
		}
		if all <= 0 || n <= 0 {
			return Estimate{}, false // no request was seen
		}
		return Share(placeOf(places, f)/all*n, n), true
	}
	return Estimate{}, false
}

func placeOf(places map[blockedIn]float64, f *Finding) float64 {
	for b, v := range places {
		if b.function == f.Function && blockClasses[b.class].subject == f.Subject {
			return v
		}
	}
	return 0
}

// allOf is what has a function anywhere on its stack.
func (t *wasteTree) allOf(name string) float64 {
	for i, n := range t.Names {
		if n == name {
			return t.all[i]
		}
	}
	return 0
}

// ownShare is a function's part of the CPU as [Compare] sees it: its own samples, and those of the standard library that it calls.
func ownShare(name string, ps Profiles) (Estimate, bool) {
	p, col, ok := ps.cpuColumn()
	if !ok || p.Total(col) <= 0 {
		return Estimate{}, false
	}
	worth, _, err := sampleWorth(p, col)
	if err != nil {
		return Estimate{}, false
	}
	c := &comparer{ids: map[string]int32{}, pkgs: map[string]int32{}}
	if err := c.add(0, Replicate{Profile: p, Column: col}, worth); err != nil {
		return Estimate{}, false
	}
	own := 0.0
	if f, ok := c.ids[name]; ok {
		own = c.sides[0].moments[mOwn][f].x
	}
	return Share(own, float64(p.Total(col))/worth), true
}
