package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/quantra-l/quantra/profile"
)

// RollupQuery asks what every function had of a type's values over time.
type RollupQuery struct {
	// Query needs a type, From and To. Minutes that the range begins or ends within are worked out from samples, which
	// costs far more than whole ones.
	Query
	Step    time.Duration // width of a column, whole minutes; columns are aligned to multiples of it in Unix time
	GroupBy []string      // labels to group by; none is one group for all
	// MinShare leaves functions out whose cumulative values over the whole range are less than this part of the
	// total in every group, from 0 (none is left out) to below 1. One that reaches it in a single group stays in all:
	// so versions compare, and what one lacks really is less than the bound there, not unknown.
	MinShare float64
}

// RollupResult is what functions had over time, in columns.
type RollupResult struct {
	Start   time.Time // of the first column, From or the multiple of Step before it
	Step    time.Duration
	Steps   int           // how many columns: to To, whether there is something in them or not
	Groups  []RollupGroup // those that have profiles, sorted by labels
	LeftOut int           // distinct functions that MinShare left out
	// Warnings say, each in a sentence, why the answer may mislead.
	Warnings []string
}

// RollupGroup is one group. Total, Profiles and Instances have a value for each column.
type RollupGroup struct {
	Labels    profile.Labels
	Total     []int64 // of the type's values
	Profiles  []int   // whose windows start in the column; 0 is a gap
	Instances []int   // distinct values of service_instance_id among them; those without it count as one together
	Functions []RollupFunction
}

// RollupFunction is one function's values over time: a few bytes for each column in which it has any, where two arrays would
// take sixteen for every column. A function without any value that is not 0 is not there.
type RollupFunction struct {
	Name  string
	cells []byte // as appendCells writes them
}

// Each calls see with the columns in which the function has a value, in order: self is at the top of the stack,
// cumulative anywhere on it; a recursive function counts once a sample.
func (f *RollupFunction) Each(see func(column int, self, cumulative int64)) {
	eachCell(f.cells, see)
}

// AddTo adds the values to arrays that have an element for each column.
func (f *RollupFunction) AddTo(self, cumulative []float32) {
	f.Each(func(i int, s, c int64) {
		self[i] += float32(s)
		cumulative[i] += float32(c)
	})
}

// check completes the query.
func (q *RollupQuery) check() error {
	names, err := groupNames(q.GroupBy)
	if err != nil {
		return err
	}
	q.GroupBy = names
	switch {
	case q.Step < time.Minute || q.Step%time.Minute != 0:
		return fmt.Errorf("%w: step is %v, it must be whole minutes, at least one", ErrInvalid, q.Step)
	case !(q.MinShare >= 0 && q.MinShare < 1):
		return fmt.Errorf("%w: the least share is %v, it must be from 0 to below 1", ErrInvalid, q.MinShare)
	case q.From.IsZero() || q.To.IsZero() || !q.To.After(q.From):
		return fmt.Errorf("%w: a roll-up needs a range, From before To", ErrInvalid)
	case q.From.Before(earliest) || q.To.After(latest) || q.To.Sub(q.From)/q.Step >= MaxSteps:
		return fmt.Errorf("%w: from %v to %v are more than %d steps of %v; use a longer step", ErrInvalid, q.From.UTC().Format(time.RFC3339), q.To.UTC().Format(time.RFC3339), MaxSteps, q.Step)
	}
	return nil
}

// Rollup is of [Store].
func (db *DB) Rollup(ctx context.Context, q RollupQuery) (*RollupResult, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	p, src, done, err := db.ask(ctx, q.Query, true)
	if err != nil {
		return nil, err
	}
	defer done()
	g := NewRollupGather(db.opt.QueryMemory, p, q)
	for _, h := range src.heads {
		if err := h.rollup(ctx, p, q, g); err != nil {
			return nil, err
		}
	}
	if db.opt.Backend != nil {
		if err := db.opt.Backend.Rollup(ctx, p, q, src.exclude, g); err != nil {
			return nil, err
		}
	}
	r, err := g.Result(ctx)
	if err != nil {
		return nil, err
	}
	r.Warnings = db.warnings()
	return r, nil
}

// rolled is a column of a profile on its way into the sums of a group.
type rolled struct {
	from int64
	c    *column
}

// rollup adds what the head has. Samples are added up by stack, group by group and column by column, and each of
// those sums goes over the tree once, for all functions.
func (h *head) rollup(ctx context.Context, p *Plan, q RollupQuery, g *RollupGather) error {
	c := h.cut(p)
	if len(c.parts) == 0 {
		return nil
	}
	from, to := c.parts[0].entries[0].from, int64(0)
	n := 0
	for _, part := range c.parts {
		from, to = min(from, part.entries[0].from), max(to, part.entries[len(part.entries)-1].from)
		n += len(part.entries)
	}
	const refBytes = 16
	bytes := FunctionSumsBytes(&c.Tables) + int64(n)*refBytes
	if err := g.Reserve(bytes); err != nil {
		return err
	}
	defer g.Release(bytes)
	part := g.Part(from, to+1)
	defer part.Close()
	groups, err := c.rolled(part, q.GroupBy)
	if err != nil {
		return err
	}
	sums := NewFunctionSums(&c.Tables)
	for group, refs := range groups {
		slices.SortFunc(refs, func(a, b rolled) int { return cmp.Compare(a.from, b.from) })
		for lo := 0; lo < len(refs); {
			if err := ctx.Err(); err != nil {
				return err
			}
			hi, at := lo, part.step(refs[lo].from)
			for ; hi < len(refs) && part.step(refs[hi].from) == at; hi++ {
				refs[hi].c.addFunctions(sums, c.keep)
			}
			if err := sums.Flush(part, group, refs[lo].from); err != nil {
				return err
			}
			lo = hi
		}
	}
	if err := part.Done(); err != nil {
		return err
	}
	return g.Add(part)
}

// rolled puts totals, profiles and instances in part, and is the columns by its groups.
func (c *cut) rolled(part *RollupPart, by []string) ([][]rolled, error) {
	var groups [][]rolled
	for _, s := range c.parts {
		group, err := part.Group(GroupLabels(s.labels, c.plan.text, by))
		if err != nil {
			return nil, err
		}
		if group == len(groups) {
			groups = append(groups, nil)
		}
		instance := s.labels.Get(profile.LabelInstance)
		for _, e := range s.entries {
			for _, i := range c.columns(e.shape) {
				if err := part.Profiles(group, instance, e.from, 1); err != nil {
					return nil, err
				}
				if err := part.Total(group, e.from, e.columns[i].totalOf(c.keep)); err != nil {
					return nil, err
				}
				groups[group] = append(groups[group], rolled{e.from, &e.columns[i]})
			}
		}
	}
	return groups, nil
}
