package watch

import (
	"context"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/store"
)

// figuresEvery is how often figures that are no function's are looked at: they are whole minutes.
const figuresEvery = time.Minute

// figures are the runtime's and the totals of types, over time: scheduling, goroutines, live heap, allocation, waiting for locks. Garbage
// collection is not among them: the runtime counts its workers' time by the clock, which a busy machine stretches; the profile's own
// samples of the collector are a function's like any other.
func (l *leader) figures(ctx context.Context, s *subject, at time.Time) ([]analyze.Finding, bool, error) {
	end := at.Truncate(column)
	from := end.Add(-l.w.opt.Window)
	sums := map[string][]float64{}
	steps := int(l.w.opt.Window / column)
	sum := func(name, sample string) ([]float64, error) {
		k := name + ":" + sample
		if v, ok := sums[k]; ok {
			return v, nil
		}
		t, ok := s.known.typ(name, sample)
		if !ok {
			return nil, nil
		}
		res, err := l.w.opt.Store.Series(ctx, store.SeriesQuery{Query: l.query(s, t, from, end), Step: column})
		if err != nil {
			return nil, err
		}
		v := make([]float64, steps)
		for i := range v {
			v[i] = math.NaN()
		}
		for _, line := range res.Lines {
			for _, p := range line.Points {
				if i := int(p.Time.Sub(from) / column); i >= 0 && i < steps {
					v[i] = float64(p.Value)
				}
			}
		}
		sums[k] = v
		return v, nil
	}
	fs := analyze.Figures{Service: s.service, Start: from, Step: column}
	for _, f := range []struct {
		name, unit string
		what, by   [2]string // profile and sample type, of one over the other
		scale      float64
	}{
		{"scheduling latency", "seconds", [2]string{"runtime", "sched_latency_time"}, [2]string{"runtime", "sched_latency"}, 1e-9},
		{"goroutines", "count", [2]string{"runtime", "goroutines"}, [2]string{"runtime", "windows"}, 1},
		{"live heap", "bytes", [2]string{"runtime", "heap_live"}, [2]string{"runtime", "windows"}, 1},
		{"allocation for each CPU second", "bytes/s", [2]string{"memory", "alloc_space"}, [2]string{"runtime", "process_cpu"}, 1e9},
		{"waiting for mutexes, for each CPU second", "seconds", [2]string{"runtime", "mutex_wait"}, [2]string{"runtime", "process_cpu"}, 1},
	} {
		over, err := sum(f.what[0], f.what[1])
		if err != nil {
			return nil, false, err
		}
		under, err := sum(f.by[0], f.by[1])
		if err != nil {
			return nil, false, err
		}
		if over == nil || under == nil {
			continue
		}
		points, n := make([]float64, steps), 0
		for i := range points {
			points[i] = math.NaN()
			if under[i] > 0 && over[i] >= 0 {
				points[i] = f.scale * over[i] / under[i]
				n++
			}
		}
		if n < leastColumns {
			continue
		}
		s.levels[f.name] = lately(points)
		t, _ := s.known.typ(f.what[0], f.what[1])
		fs.Figures = append(fs.Figures, analyze.Figure{Name: f.name, Type: t.String(), Unit: f.unit, Points: points})
	}
	if len(fs.Figures) == 0 {
		return nil, false, nil
	}
	deploys, err := l.w.book.deploys(ctx, s.tenant, s.service)
	if err != nil {
		return nil, false, err
	}
	for _, x := range deploys {
		if x.Time.After(from) {
			fs.Events = append(fs.Events, analyze.Event{Time: x.Time, Label: strings.TrimSpace("deploy " + x.Version + " " + x.Note)})
		}
	}
	found, err := analyze.ScanFigures(fs, analyze.ScanOptions{})
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", errPart, err)
	}
	return found, true, nil
}

// lately is the mean of the last ten minutes that there are.
func lately(points []float64) float64 {
	var sum float64
	n := 0
	for i := len(points) - 1; i >= 0 && n < 10; i-- {
		if !math.IsNaN(points[i]) {
			sum += points[i]
			n++
		}
	}
	return sum / float64(n)
}
