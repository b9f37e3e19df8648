package blocks

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sort"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
	"github.com/quantra-l/quantra/store/bucket"
)

// pick is what a question takes of one block.
type pick struct {
	b      *Blocks
	k      *Block
	p      *store.Plan
	r      *block.Reader
	types  []uint32 // indexes of Meta.Types that match
	series []uint32 // indexes of Meta.Series that match
	ids    map[block.ID]bool
}

// The kinds of memoryKey.
const (
	kindReader byte = iota
	kindTables
	kindProfiles
	kindSummary
	kindChunk
	kindTotals
	kindRollup
)

// readerBytes is what an open block takes before anything of it is kept: footers of five files, about.
const readerBytes = 64 << 10

// each runs ask on the blocks of p, several at a time, and commit, one at a time, on
// what it made of each. A block adds to the answer whole or not at all: one that is damaged is refused,
// one that cannot be read now is left out, and Warnings says so. If none can be read it is ErrUnavailable.
func (b *Blocks) each(ctx context.Context, p *store.Plan, exclude []ulid.ULID, ask func(context.Context, *pick) (commit func() error, err error)) error {
	b.mu.Lock()
	closed := b.closed
	b.mu.Unlock()
	if closed {
		return fmt.Errorf("blocks: %w: closed", store.ErrUnavailable)
	}
	picks, err := b.pick(p, exclude)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex
	var away error
	answered, next := 0, 0
	var wg sync.WaitGroup
	for range min(len(picks), runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				mu.Unlock()
				if i >= len(picks) || ctx.Err() != nil {
					return
				}
				commit, err := b.askOne(ctx, picks[i], ask)
				mu.Lock()
				if err == nil && commit != nil {
					err = commit()
				}
				if err == nil {
					answered++
				} else if left := b.leftOut(ctx, picks[i].k, err); left == nil {
					cancel(err)
				} else if errors.Is(left, store.ErrUnavailable) {
					away = left
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if answered == 0 && away != nil {
		return fmt.Errorf("blocks: none of the %d blocks asked can be read: %w", len(picks), away)
	}
	return nil
}

// pick finds the blocks that a question is about, and what of each.
func (b *Blocks) pick(p *store.Plan, exclude []ulid.ULID) ([]*pick, error) {
	ask, missing := b.now.Load().without(p.Tenant, exclude)
	for _, id := range missing {
		b.miss(id, errGone)
	}
	var picks []*pick
	// Blocks of one tenant share their series (see interner): each label set is matched once.
	matched := map[*profile.Label]bool{}
	match := func(ls profile.Labels) bool {
		if len(ls) == 0 {
			return p.MatchLabels(ls)
		}
		ok, seen := matched[&ls[0]]
		if !seen {
			ok = p.MatchLabels(ls)
			matched[&ls[0]] = ok
		}
		return ok
	}
	var ids map[block.ID]bool
	if len(p.IDs) > 0 {
		ids = make(map[block.ID]bool, len(p.IDs))
		for _, id := range p.IDs {
			ids[id] = true
		}
	}
	for _, k := range ask {
		if k.damage.Load() != nil || !overlaps(k, p) {
			continue
		}
		c := &pick{b: b, k: k, p: p, ids: ids}
		for i, text := range k.Meta.Types {
			if p.MatchType(text) {
				c.types = append(c.types, uint32(i))
			}
		}
		if len(c.types) == 0 {
			continue
		}
		for i := range k.Meta.Series {
			if match(k.Meta.Series[i].Labels) {
				c.series = append(c.series, uint32(i))
			}
		}
		if len(c.series) > 0 {
			picks = append(picks, c)
		}
	}
	return picks, nil
}

func overlaps(k *Block, p *store.Plan) bool {
	return k.Meta.From.UnixNano() < p.To && k.Meta.To.UnixNano() > p.From
}

// whole says whether all starts of the block's windows are in the question's range.
func (c *pick) whole() bool {
	span := time.Hour
	if c.k.Meta.Level == block.LevelDay {
		span = 24 * time.Hour
	}
	end := min(c.k.Meta.To.UnixNano(), c.k.Meta.Partition.Add(span).UnixNano())
	return c.p.From <= c.k.Meta.From.UnixNano() && end <= c.p.To && len(c.ids) == 0
}

func (b *Blocks) askOne(ctx context.Context, c *pick, ask func(context.Context, *pick) (func() error, error)) (func() error, error) {
	v, err := b.memory.get(ctx, memoryKey{block: c.k.Meta.ULID, kind: kindReader}, func(ctx context.Context) (any, int64, error) {
		r, err := block.Open(ctx, c.k.Meta, b.source(c.k.Meta.ULID))
		return r, readerBytes, err
	})
	if err != nil {
		return nil, err
	}
	c.r = v.(*block.Reader)
	return ask(ctx, c)
}

// leftOut notes why a block is not in an answer, and says in store's words what is wrong
// with it; nil means that it is not the block's fault.
func (b *Blocks) leftOut(ctx context.Context, k *Block, err error) error {
	switch {
	case ctx.Err() != nil:
		return nil
	case errors.Is(err, block.ErrCorrupt), errors.Is(err, store.ErrCorrupt):
		if b.dropBadCopy(k) {
			b.miss(k.Meta.ULID, err) // the bucket may have it whole: the next question will tell
			return store.ErrUnavailable
		}
		b.refuse(k, err)
		return store.ErrCorrupt
	case errors.Is(err, errGone), errors.Is(err, bucket.ErrNotFound):
		// Deleted by another server, and the listing is old; or it is really lost, which the next listing shows.
		select {
		case b.stale <- struct{}{}:
		default:
		}
		b.miss(k.Meta.ULID, err)
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	case errors.Is(err, bucket.ErrUnavailable), errors.Is(err, bucket.ErrDenied):
		b.miss(k.Meta.ULID, err)
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	return nil
}

// dropBadCopy gives up a local copy of a block that the bucket has too, as it seems damaged.
func (b *Blocks) dropBadCopy(k *Block) bool {
	b.queueMu.Lock()
	defer b.queueMu.Unlock()
	now := b.now.Load().all[k.Meta.ULID]
	if now == nil || now.Waiting || now.Dir == "" {
		return false
	}
	b.opt.Logger.Warn("a local copy of a block is damaged; the bucket's is used", "block", k.Meta.ULID, "folder", now.Dir)
	b.memory.forget(k.Meta.ULID)
	if err := b.dropCopies([]*Block{now}); err != nil {
		b.opt.Logger.Error("remove a damaged copy", "folder", now.Dir, "error", err)
	}
	return true
}

// missFor is how long a block that could not be read is spoken of in all answers: at least until
// the answer that it is missing from has been given.
const missFor = time.Minute

type missed struct {
	at  time.Time
	err error
}

// miss notes that a block is not in an answer that should have it.
func (b *Blocks) miss(id ulid.ULID, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.missing == nil {
		b.missing = map[ulid.ULID]missed{}
	}
	b.missing[id] = missed{b.opt.Now(), err}
	b.stats.Missed++
}

// tables is the block's dictionary.
func (c *pick) tables(ctx context.Context) (*block.Tables, error) {
	v, err := c.b.memory.get(ctx, memoryKey{block: c.k.Meta.ULID, kind: kindTables}, func(ctx context.Context) (any, int64, error) {
		t, err := c.r.Tables(ctx)
		if err != nil {
			return nil, 0, err
		}
		return t, tablesBytes(t), nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*block.Tables), nil
}

// tablesBytes is about what tables take in memory.
func tablesBytes(t *block.Tables) int64 {
	n := int64(len(t.Strings)*16 + len(t.Mappings)*40 + len(t.Functions)*24 + len(t.Lines)*24 + len(t.Locations)*32 + t.Stacks.Len()*16 + len(t.LabelSets)*24)
	for _, s := range t.Strings {
		n += int64(len(s))
	}
	for _, s := range t.LabelSets {
		n += int64(len(s) * 24)
	}
	return n
}

// profiles is the rows of one type.
func (c *pick) profiles(ctx context.Context, typ uint32) (*block.ProfileColumns, error) {
	v, err := c.b.memory.get(ctx, memoryKey{block: c.k.Meta.ULID, kind: kindProfiles, a: int64(typ)}, func(ctx context.Context) (any, int64, error) {
		cols, err := c.r.Profiles(ctx, []uint32{typ})
		if err != nil {
			return nil, 0, err
		}
		return cols, int64(len(cols.From)) * profileRowBytes, nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*block.ProfileColumns), nil
}

// profileRowBytes is a row of block.ProfileColumns in memory.
const profileRowBytes = 4 + 4 + 5*8 + 16 + 8 + 8

// facts is what there is of one series and type in a block, or a part of it.
type facts struct {
	series      uint32
	lo, hi      int // of the rows
	first, last int64
	duration    int64
	period      int64 // the longest
	shortest    int64
	total       int64
}

// summary is the facts of all series of a type in the whole block: what most questions need of profiles.parquet, in a
// thousandth of the memory.
func (c *pick) summary(ctx context.Context, typ uint32) ([]facts, error) {
	v, err := c.b.memory.get(ctx, memoryKey{block: c.k.Meta.ULID, kind: kindSummary, a: int64(typ)}, func(ctx context.Context) (any, int64, error) {
		cols, err := c.profiles(ctx, typ)
		if err != nil {
			return nil, 0, err
		}
		var out []facts
		for lo := 0; lo < len(cols.Series); {
			hi := lo + sort.Search(len(cols.Series)-lo, func(i int) bool { return cols.Series[lo+i] > cols.Series[lo] })
			out = append(out, factsOf(cols, lo, hi))
			lo = hi
		}
		return out, int64(len(out)) * 80, nil
	})
	if err != nil {
		return nil, err
	}
	return v.([]facts), nil
}

// factsOf is the facts of rows [lo, hi), all of one series.
func factsOf(cols *block.ProfileColumns, lo, hi int) facts {
	f := facts{series: cols.Series[lo], lo: lo, hi: hi, first: cols.From[lo], last: math.MinInt64, shortest: math.MaxInt64}
	for i := lo; i < hi; i++ {
		f.last = max(f.last, cols.To[i])
		if d := cols.Duration[i]; d != 0 {
			f.duration += d
		} else {
			f.duration += cols.To[i] - cols.From[i]
		}
		f.period, f.shortest = max(f.period, cols.Period[i]), min(f.shortest, cols.Period[i])
		f.total += cols.Total[i]
	}
	return f
}

// rows is the facts of what the question takes: for each of its series the rows whose windows start in its
// range. Where it takes the whole block the summary does.
func (c *pick) rows(ctx context.Context, typ uint32) ([]facts, error) {
	all, err := c.summary(ctx, typ)
	if err != nil {
		return nil, err
	}
	all = intersect(all, c.series)
	if c.whole() || len(all) == 0 {
		return all, nil
	}
	cols, err := c.profiles(ctx, typ)
	if err != nil {
		return nil, err
	}
	var out []facts
	for _, f := range all {
		lo := f.lo + sort.Search(f.hi-f.lo, func(i int) bool { return cols.From[f.lo+i] >= c.p.From })
		hi := lo + sort.Search(f.hi-lo, func(i int) bool { return cols.From[lo+i] >= c.p.To })
		if len(c.ids) == 0 {
			if lo < hi {
				out = append(out, factsOf(cols, lo, hi))
			}
			continue
		}
		for i := lo; i < hi; i++ {
			if c.ids[cols.ID[i]] {
				out = append(out, factsOf(cols, i, i+1))
			}
		}
	}
	return out, nil
}

// intersect is the facts of the series that are in series; both are sorted.
func intersect(all []facts, series []uint32) []facts {
	var out []facts
	for _, f := range all {
		if _, ok := slices.BinarySearch(series, f.series); ok {
			out = append(out, f)
		}
	}
	return out
}

// chunk is the i-th run of chunkRows rows of samples.
func (c *pick) chunk(ctx context.Context, i int64) (*chunk, error) {
	v, err := c.b.memory.get(ctx, memoryKey{block: c.k.Meta.ULID, kind: kindChunk, a: i}, func(ctx context.Context) (any, int64, error) {
		var cols block.SampleColumns
		n := min(chunkRows, c.k.Meta.Samples-i*chunkRows)
		if err := c.r.Samples(ctx, i*chunkRows, n, &cols); err != nil {
			return nil, 0, err
		}
		ch := newChunk(cols.Sets, cols.Stacks, cols.Values)
		return ch, ch.bytes, nil
	})
	if err != nil {
		return nil, err
	}
	return v.(*chunk), nil
}

// samples calls see with each run of rows of samples that the rows of profiles are: a chunk, and from where to where in it.
func (c *pick) samples(ctx context.Context, cols *block.ProfileColumns, rows []facts, see func(ch *chunk, lo, hi int) error) error {
	for _, f := range rows {
		if f.lo == f.hi {
			continue
		}
		// A series' rows of one type are one after the other in samples.parquet too.
		from, to := cols.First[f.lo], cols.First[f.hi-1]+int64(cols.N[f.hi-1])
		for from < to {
			if err := ctx.Err(); err != nil {
				return err
			}
			i := from / chunkRows
			ch, err := c.chunk(ctx, i)
			if err != nil {
				return err
			}
			lo, hi := int(from-i*chunkRows), int(min(to-i*chunkRows, chunkRows))
			if hi > ch.n {
				return fmt.Errorf("%w: block %s: %s has rows to %d, a profile needs %d", block.ErrCorrupt, c.k.Meta.ULID, block.SamplesFile, i*chunkRows+int64(ch.n), to)
			}
			if err := see(ch, lo, hi); err != nil {
				return err
			}
			from += int64(hi - lo)
		}
	}
	return nil
}
