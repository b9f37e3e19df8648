package store

import (
	"container/heap"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store/block"
)

// eachProfile calls see for each profile of a question, in no order, until it returns false.
func (db *DB) eachProfile(ctx context.Context, q Query, see func(ProfileInfo) bool) error {
	p, src, done, err := db.ask(ctx, q, true)
	if err != nil {
		return err
	}
	defer done()
	for _, h := range src.heads {
		c := h.cut(p)
		for _, part := range c.parts {
			if err := ctx.Err(); err != nil {
				return err
			}
			for _, e := range part.entries {
				for _, i := range c.columns(e.shape) {
					if !see(ProfileInfo{ID: e.id, Name: part.name, Labels: part.labels, Type: p.Type, From: time.Unix(0, e.from).UTC(), To: time.Unix(0, e.to).UTC(),
						Total: e.columns[i].totalOf(c.keep)}) {
						return nil
					}
				}
			}
		}
	}
	if db.opt.Backend == nil {
		return nil
	}
	return db.opt.Backend.Profiles(ctx, p, src.exclude, see)
}

// FormatProfileID is the id of a single profile in text, and ParseProfileID reads it.
func FormatProfileID(id block.ID) string { return block.FormatID(id) }

// ParseProfileID reads what FormatProfileID writes.
func ParseProfileID(s string) (block.ID, error) { return block.ParseID(s) }

// MaxProfiles bounds how many single profiles one answer lists.
const MaxProfiles = 10_000

// Profiles is of [Store].
func (db *DB) Profiles(ctx context.Context, q Query, limit int) (*ProfilesResult, error) {
	if limit < 1 || limit > MaxProfiles {
		return nil, fmt.Errorf("%w: limit is %d, it must be from 1 to %d", ErrInvalid, limit, MaxProfiles)
	}
	var top largest
	r := &ProfilesResult{}
	err := db.eachProfile(ctx, q, func(i ProfileInfo) bool {
		r.All++
		if len(top) < limit {
			heap.Push(&top, i)
		} else if top[0].Total < i.Total {
			top[0] = i
			heap.Fix(&top, 0)
		}
		return true
	})
	if err != nil {
		return nil, err
	}
	r.Profiles, r.Warnings = top, db.warnings()
	slices.SortFunc(r.Profiles, func(a, b ProfileInfo) int {
		return a.From.Compare(b.From)
	})
	return r, nil
}

// largest is a heap with the least on top.
type largest []ProfileInfo

func (l largest) Len() int           { return len(l) }
func (l largest) Less(i, j int) bool { return l[i].Total < l[j].Total }
func (l largest) Swap(i, j int)      { l[i], l[j] = l[j], l[i] }
func (l *largest) Push(x any)        { *l = append(*l, x.(ProfileInfo)) }
func (l *largest) Pop() any          { panic("it only grows to its limit") }

// MaxBuckets bounds the height of a heat map, and MaxSteps its width.
const (
	MaxBuckets = 200
	MaxSteps   = 10_000
)

// Heatmap is of [Store]. It goes over the profiles twice, first for the bounds of their values: it keeps
// none of them.
func (db *DB) Heatmap(ctx context.Context, q HeatmapQuery) (*HeatmapResult, error) {
	if q.Step < time.Second {
		return nil, fmt.Errorf("%w: step is %v, it must be at least 1s", ErrInvalid, q.Step)
	}
	if q.Buckets < 1 || q.Buckets > MaxBuckets {
		return nil, fmt.Errorf("%w: %d buckets, there must be from 1 to %d", ErrInvalid, q.Buckets, MaxBuckets)
	}
	r := &HeatmapResult{Step: q.Step, Min: math.MaxInt64, Max: math.MinInt64}
	err := db.eachProfile(ctx, q.Query, func(i ProfileInfo) bool {
		r.Min, r.Max = min(r.Min, i.Total), max(r.Max, i.Total)
		return true
	})
	if err != nil || r.Min > r.Max {
		r.Min, r.Max = 0, 0
		r.Warnings = db.warnings()
		return r, err
	}
	bounds := bucketBounds(r.Min, r.Max, q.Buckets, q.Log)
	cells := map[int64][]int{}
	tooMany := false
	err = db.eachProfile(ctx, q.Query, func(i ProfileInfo) bool {
		at := align(i.From.UnixNano(), int64(q.Step))
		row := cells[at]
		if row == nil {
			if len(cells) == MaxSteps {
				tooMany = true
				return false
			}
			row = make([]int, q.Buckets)
			cells[at] = row
		}
		n, _ := slices.BinarySearch(bounds[1:], float64(i.Total)) // the first bucket whose upper bound is not below
		row[min(n, q.Buckets-1)]++
		return true
	})
	if err != nil {
		return nil, err
	}
	if tooMany {
		return nil, fmt.Errorf("%w: more than %d steps of %v; use a longer step", ErrInvalid, MaxSteps, q.Step)
	}
	for at, row := range cells {
		r.Columns = append(r.Columns, HeatmapColumn{Time: time.Unix(0, at).UTC(), Counts: row})
	}
	slices.SortFunc(r.Columns, func(a, b HeatmapColumn) int { return a.Time.Compare(b.Time) })
	r.Bounds, r.Warnings = bounds, db.warnings()
	return r, nil
}

// bucketBounds is n+1 bounds from least to most: evenly, or by a constant factor. Logarithms need values above 0: what
// is not goes into the first bucket.
func bucketBounds(least, most int64, n int, log bool) []float64 {
	out := make([]float64, n+1)
	lo, hi := float64(least), float64(most)
	for i := range out {
		f := float64(i) / float64(n)
		if log && hi > 0 {
			from := math.Log(max(lo, 1))
			out[i] = math.Exp(from + f*(math.Log(max(hi, 1))-from))
		} else {
			out[i] = lo + f*(hi-lo)
		}
	}
	out[0], out[n] = lo, hi
	return out
}

// Trend is of [Store].
func (db *DB) Trend(ctx context.Context, q TrendQuery) (*TrendResult, error) {
	if n := len(q.Functions); n < 1 || n > MaxTrendFunctions {
		return nil, fmt.Errorf("%w: %d functions, there must be from 1 to %d", ErrInvalid, n, MaxTrendFunctions)
	}
	if q.Step < time.Minute {
		return nil, fmt.Errorf("%w: step is %v, it must be at least 1m", ErrInvalid, q.Step)
	}
	names, err := groupNames(q.GroupBy)
	if err != nil {
		return nil, err
	}
	q.GroupBy = names
	q.Functions = slices.Compact(slices.Sorted(slices.Values(q.Functions)))
	p, src, done, err := db.ask(ctx, q.Query, true)
	if err != nil {
		return nil, err
	}
	defer done()
	all := newLines[TrendPoint]()
	function := map[string]string{}
	add := func(fn string, labels profile.Labels, pt TrendPoint) {
		at := align(pt.Time.UnixNano(), int64(q.Step))
		to := all.at(fn, labels, at)
		function[fn+"\x00"+labels.String()] = fn
		to.Time = time.Unix(0, at).UTC()
		to.Self += pt.Self
		to.Cumulative += pt.Cumulative
		to.Samples += pt.Samples
	}
	for _, h := range src.heads {
		if err := h.trend(ctx, p, q, add); err != nil {
			return nil, err
		}
	}
	if db.opt.Backend != nil {
		if err := db.opt.Backend.Trend(ctx, p, q, src.exclude, add); err != nil {
			return nil, err
		}
	}
	r := &TrendResult{Step: q.Step, Warnings: db.warnings()}
	for k, m := range all.points {
		l := TrendLine{Function: function[k], Labels: all.labels[k]}
		for _, pt := range m {
			l.Points = append(l.Points, *pt)
		}
		slices.SortFunc(l.Points, func(a, b TrendPoint) int { return a.Time.Compare(b.Time) })
		r.Lines = append(r.Lines, l)
	}
	slices.SortFunc(r.Lines, func(a, b TrendLine) int {
		if a.Function != b.Function {
			if a.Function < b.Function {
				return -1
			}
			return 1
		}
		return compareLabels(a.Labels, b.Labels)
	})
	return r, nil
}

// trend works it out from samples.
func (h *head) trend(ctx context.Context, p *Plan, q TrendQuery, add func(string, profile.Labels, TrendPoint)) error {
	c := h.cut(p)
	if len(c.parts) == 0 {
		return nil
	}
	on := NewFunctionSets(&c.Tables, q.Functions)
	for _, part := range c.parts {
		if err := ctx.Err(); err != nil {
			return err
		}
		labels := GroupLabels(part.labels, p.Type.String(), q.GroupBy)
		for _, e := range part.entries {
			for _, i := range c.columns(e.shape) {
				points := make([]TrendPoint, len(q.Functions))
				e.columns[i].each(func(set, stack uint32, v int64) {
					if c.keep == nil || c.keep[set] {
						on.Add(points, stack, v)
					}
				})
				for f := range points {
					if points[f].Samples > 0 {
						points[f].Time = time.Unix(0, e.from)
						add(q.Functions[f], labels, points[f])
					}
				}
			}
		}
	}
	return nil
}

// Usage is of [Store]. What is in memory counts as local.
func (db *DB) Usage(ctx context.Context) ([]Usage, error) {
	if err := db.open(ctx); err != nil {
		return nil, err
	}
	type key struct {
		tenant, service, typ string
		day                  int64
	}
	found := map[key]*Usage{}
	src, leave := db.sources()
	for _, h := range src.heads {
		h.mu.RLock()
		for name, t := range h.tenants {
			for _, s := range t.series {
				for _, e := range s.entries {
					for i, text := range e.shape.texts {
						day := align(e.from, int64(24*time.Hour))
						k := key{name, s.labels.Get(profile.LabelService), text, day}
						u := found[k]
						if u == nil {
							u = &Usage{Tenant: k.tenant, Service: k.service, Type: text, Day: time.Unix(0, day).UTC(), Class: "memory"}
							found[k] = u
						}
						u.Profiles++
						u.Bytes += int64(len(e.columns[i].data)) + columnBytes
					}
				}
			}
		}
		h.mu.RUnlock()
	}
	leave()
	out := make([]Usage, 0, len(found))
	for _, u := range found {
		out = append(out, *u)
	}
	if db.opt.Backend != nil {
		more, err := db.opt.Backend.Usage(ctx)
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	slices.SortFunc(out, func(a, b Usage) int {
		for _, c := range [][2]string{{a.Tenant, b.Tenant}, {a.Service, b.Service}, {a.Type, b.Type}, {a.Class, b.Class}} {
			if c[0] != c[1] {
				if c[0] < c[1] {
					return -1
				}
				return 1
			}
		}
		return a.Day.Compare(b.Day)
	})
	return out, nil
}
