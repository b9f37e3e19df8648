package blocks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
	"github.com/quantra-l/quantra/store/bucket"
)

// Series is of [store.Backend]: from the totals of profiles.parquet, or from samples where some are chosen by their labels.
func (b *Blocks) Series(ctx context.Context, p *store.Plan, step time.Duration, groupBy []string, exclude []ulid.ULID, add func(profile.Labels, store.Point)) error {
	type point struct {
		line string
		at   int64
	}
	return b.each(ctx, p, exclude, func(ctx context.Context, c *pick) (func() error, error) {
		points := map[point]*store.Point{}
		lines := map[string]profile.Labels{}
		for _, typ := range c.types {
			rows, err := c.rows(ctx, typ)
			if err != nil {
				return nil, err
			}
			if len(rows) == 0 {
				continue
			}
			cols, err := c.profiles(ctx, typ)
			if err != nil {
				return nil, err
			}
			totals := cols.Total
			if p.HasSampleMatchers() {
				if totals, err = c.matchedTotals(ctx, cols, rows); err != nil {
					return nil, err
				}
			}
			for n, f := range rows {
				if n%64 == 0 && ctx.Err() != nil {
					return nil, ctx.Err()
				}
				labels := store.GroupLabels(c.k.Meta.Series[f.series].Labels, c.k.Meta.Types[typ], groupBy)
				line := labels.String()
				lines[line] = labels
				var pt *store.Point
				for i := f.lo; i < f.hi; i++ {
					at := align(cols.From[i], int64(step))
					if pt == nil || pt.Time.UnixNano() != at {
						k := point{line, at}
						if pt = points[k]; pt == nil {
							pt = &store.Point{Time: time.Unix(0, at).UTC()}
							points[k] = pt
						}
					}
					pt.Value += totals[i]
					pt.Profiles++
				}
			}
		}
		return func() error {
			for k, pt := range points {
				add(lines[k.line], *pt)
			}
			return nil
		}, nil
	})
}

// matchedTotals is the sum of each row's samples that the question takes, by row of cols.
func (c *pick) matchedTotals(ctx context.Context, cols *block.ProfileColumns, rows []facts) ([]int64, error) {
	tables, err := c.tables(ctx)
	if err != nil {
		return nil, err
	}
	sets := matchingSets(c.p, tables)
	out := make([]int64, cols.Len())
	for _, f := range rows {
		for i := f.lo; i < f.hi; i++ {
			err := c.samples(ctx, cols, []facts{{lo: i, hi: i + 1}}, func(ch *chunk, lo, hi int) error {
				for j := lo; j < hi; j++ {
					set, stack, v := ch.at(j)
					if int(set) >= len(sets) {
						return errRange(c.k, stack, set)
					}
					if sets[set] {
						out[i] += v
					}
				}
				return nil
			})
			if err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// align is the multiple of step at or before t.
func align(t, step int64) int64 {
	m := t % step
	if m < 0 {
		m += step
	}
	return t - m
}

// Catalog is of [store.Backend].
func (b *Blocks) Catalog(ctx context.Context, p *store.Plan, exclude []ulid.ULID, see func(store.Known)) error {
	return b.each(ctx, p, exclude, func(ctx context.Context, c *pick) (func() error, error) {
		var found []store.Known
		for _, typ := range c.types {
			t, err := profile.ParseType(c.k.Meta.Types[typ])
			if err != nil {
				return nil, fmt.Errorf("%w: block %s: %w", block.ErrCorrupt, c.k.Meta.ULID, err)
			}
			rows, err := c.rows(ctx, typ)
			if err != nil {
				return nil, err
			}
			for _, f := range rows {
				s := &c.k.Meta.Series[f.series]
				found = append(found, store.Known{Name: s.Name, Labels: s.Labels, Type: t, Profiles: f.hi - f.lo, First: f.first, Last: f.last})
			}
		}
		return func() error {
			for _, k := range found {
				see(k)
			}
			return nil
		}, nil
	})
}

// Profiles is of [store.Backend].
func (b *Blocks) Profiles(ctx context.Context, p *store.Plan, exclude []ulid.ULID, see func(store.ProfileInfo) bool) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	err := b.each(ctx, p, exclude, func(ctx context.Context, c *pick) (func() error, error) {
		type ofType struct {
			typ    profile.Type
			cols   *block.ProfileColumns
			rows   []facts
			totals []int64
		}
		var found []ofType
		for _, typ := range c.types {
			t, err := profile.ParseType(c.k.Meta.Types[typ])
			if err != nil {
				return nil, fmt.Errorf("%w: block %s: %w", block.ErrCorrupt, c.k.Meta.ULID, err)
			}
			rows, err := c.rows(ctx, typ)
			if err != nil {
				return nil, err
			}
			if len(rows) == 0 {
				continue
			}
			cols, err := c.profiles(ctx, typ)
			if err != nil {
				return nil, err
			}
			totals := cols.Total
			if p.HasSampleMatchers() {
				if totals, err = c.matchedTotals(ctx, cols, rows); err != nil {
					return nil, err
				}
			}
			found = append(found, ofType{t, cols, rows, totals})
		}
		return func() error {
			for _, t := range found {
				for _, f := range t.rows {
					s := &c.k.Meta.Series[f.series]
					for i := f.lo; i < f.hi; i++ {
						if !see(store.ProfileInfo{ID: t.cols.ID[i], Name: s.Name, Labels: s.Labels, Type: t.typ,
							From: time.Unix(0, t.cols.From[i]).UTC(), To: time.Unix(0, t.cols.To[i]).UTC(), Total: t.totals[i]}) {
							cancel(errEnough)
							return errEnough
						}
					}
				}
			}
			return nil
		}, nil
	})
	if err == errEnough {
		return nil
	}
	return err
}

// errEnough ends a question whose asker has had enough.
var errEnough = errors.New("enough")

// Recent is of [store.Backend]: the uploads in blocks that were made since.
func (b *Blocks) Recent(ctx context.Context, since time.Time) ([]block.ID, error) {
	seen := map[block.ID]bool{}
	now := b.now.Load()
	// A compacted block is as young as its sources were, at the most: those that
	// came lately are in blocks that were made lately.
	for _, ks := range now.ask {
		for _, k := range ks {
			if k.Meta.Created.Before(since) || k.damage.Load() != nil {
				continue
			}
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			if err := b.idsOf(ctx, k, seen); err != nil && b.leftOut(ctx, k, err) == nil {
				return nil, err
			}
		}
	}
	ids := make([]block.ID, 0, len(seen))
	for id := range seen {
		ids = append(ids, id)
	}
	return ids, nil
}

// idsOf collects the identities of a block's uploads, one type's rows in memory at a time.
func (b *Blocks) idsOf(ctx context.Context, k *Block, seen map[block.ID]bool) error {
	r, err := block.Open(ctx, k.Meta, b.source(k.Meta.ULID))
	if err != nil {
		return err
	}
	for typ := range k.Meta.Types {
		cols, err := r.Profiles(ctx, []uint32{uint32(typ)})
		if err != nil {
			return err
		}
		for _, id := range cols.ID {
			seen[id] = true
		}
	}
	return nil
}

// Usage is of [store.Backend]: what lies in the bucket and what waits for it, replaced and deleted blocks too, as their
// bytes go later. A block's profiles are told apart by service as its bytes are, about.
func (b *Blocks) Usage(ctx context.Context) ([]store.Usage, error) {
	type key struct {
		tenant, service, typ, class string
		day                         time.Time
	}
	sum := map[key]*store.Usage{}
	for _, k := range b.now.Load().all {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		class := string(bucket.Standard)
		switch {
		case k.Waiting:
			class = "local"
		case k.Archived:
			class = string(bucket.Archive)
		}
		var whole int64
		for _, n := range k.Meta.Services {
			whole += n
		}
		for service, n := range k.Meta.Services {
			shares := k.Meta.Shares[service]
			if len(shares) == 0 {
				shares = map[string]int64{"": n}
			}
			for typ, n := range shares {
				at := key{k.Meta.Tenant, service, typ, class, k.Meta.Partition.UTC().Truncate(24 * time.Hour)}
				u := sum[at]
				if u == nil {
					u = &store.Usage{Tenant: at.tenant, Service: service, Type: typ, Day: at.day, Class: class}
					sum[at] = u
				}
				u.Bytes += n
				u.Profiles += float64(k.Meta.Profiles) * float64(n) / float64(max(1, whole))
			}
		}
	}
	out := make([]store.Usage, 0, len(sum))
	for _, u := range sum {
		out = append(out, *u)
	}
	slices.SortFunc(out, func(x, y store.Usage) int {
		return cmp.Or(cmp.Compare(x.Tenant, y.Tenant), cmp.Compare(x.Service, y.Service), cmp.Compare(x.Type, y.Type), x.Day.Compare(y.Day), cmp.Compare(x.Class, y.Class))
	})
	return out, nil
}
