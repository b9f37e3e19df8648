package blocks

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
)

// CompactOptions say when blocks are merged. In each 0 is the default beside it.
type CompactOptions struct {
	Off   bool          // nothing is merged, replaced blocks are not deleted
	Every time.Duration // how often there is a look at what to do; 30 s
	// FanIn is how many blocks of an hour that is being written make a merge worth it; 8. MaxInputs bounds a
	// merge, at a time; 64.
	FanIn, MaxInputs int
	// HourAfter and LateFor are how long after the end of an hour, and of a day, it is merged whole; 5 min, 1 h. What comes
	// later is merged in again, when FanIn/2 blocks have come or one is older than LateFor.
	HourAfter, LateFor time.Duration
	MaxBlockBytes      int64         // blocks of half of it are left as they are; 2 GiB
	StuckAfter         time.Duration // how long there may be something to merge, and none of it done, before Healthy says so; 2 h
}

func (o CompactOptions) withDefaults() CompactOptions {
	o.Every = orDefault(o.Every, 30*time.Second)
	o.FanIn = orDefault(o.FanIn, 8)
	o.MaxInputs = max(orDefault(o.MaxInputs, 64), 2)
	o.HourAfter = orDefault(o.HourAfter, 5*time.Minute)
	o.LateFor = orDefault(o.LateFor, time.Hour)
	o.MaxBlockBytes = orDefault(o.MaxBlockBytes, 2<<30)
	o.StuckAfter = orDefault(o.StuckAfter, 2*time.Hour)
	return o
}

func orDefault[T int | int64 | time.Duration](v, def T) T {
	if v == 0 {
		return def
	}
	return v
}

// job is a merge to be done.
type job struct {
	tenant    string
	partition time.Time
	level     block.Level
	inputs    []*Block // oldest first
}

// lease is the name under which one server at a time does it. Hours of a day share one: they would be each
// other's inputs.
func (j *job) lease(region string) string {
	return mergeLease(region, j.tenant, j.partition)
}

func mergeLease(region, tenant string, partition time.Time) string {
	return fmt.Sprintf("compact/%s/%s/%s", region, tenantKey(tenant), partition.Truncate(day).Format("2006-01-02"))
}

const day = 24 * time.Hour

// planCompaction is what there is to merge in the blocks that are asked, the oldest partition first, one job for each
// partition at most. It depends on nothing else: once a job's output is known its inputs are not asked any more.
func planCompaction(ask map[string][]*Block, now time.Time, o CompactOptions) []job {
	var jobs []job
	for tenant, ks := range ask {
		days := map[time.Time][]*Block{}
		for _, k := range ks {
			d := k.Meta.Partition.Truncate(day)
			days[d] = append(days[d], k)
		}
		for d, ks := range days {
			jobs = append(jobs, planDay(tenant, d, ks, now, o)...)
		}
	}
	slices.SortFunc(jobs, func(a, b job) int {
		if c := a.partition.Compare(b.partition); c != 0 {
			return c
		}
		if a.tenant != b.tenant {
			if a.tenant < b.tenant {
				return -1
			}
			return 1
		}
		return 0
	})
	return jobs
}

// mergeable leaves out blocks that must not be merged: damaged ones, and those that are as large as they should get.
func mergeable(ks []*Block, o CompactOptions) (out []*Block, waiting bool) {
	for _, k := range ks {
		switch {
		case k.damage.Load() != nil || k.bytes >= o.MaxBlockBytes/2:
		case k.Waiting:
			waiting = true // the bucket is to have it first: what replaces it may not come before it
		default:
			out = append(out, k)
		}
	}
	slices.SortFunc(out, byULID)
	return out, waiting
}

func planDay(tenant string, d time.Time, ks []*Block, now time.Time, o CompactOptions) []job {
	all, waiting := mergeable(ks, o)
	if !waiting && !now.Before(d.Add(day+o.LateFor)) && len(all) <= o.MaxInputs {
		if in := worth(all, block.LevelDay, now, o); in != nil {
			return []job{{tenant, d, block.LevelDay, in}}
		}
		return nil
	}
	var jobs []job
	hours := map[time.Time][]*Block{}
	for _, k := range ks {
		if k.Meta.Level < block.LevelDay {
			hours[k.Meta.Partition] = append(hours[k.Meta.Partition], k)
		}
	}
	for h, ks := range hours {
		if j, ok := planHour(tenant, h, ks, now, o); ok {
			jobs = append(jobs, j)
		}
	}
	return jobs
}

// worth is the inputs of a merge that makes one block of a whole partition, nil if there is none to do.
func worth(all []*Block, level block.Level, now time.Time, o CompactOptions) []*Block {
	var late []*Block
	whole := 0
	for _, k := range all {
		if k.Meta.Level == level {
			whole++
		} else {
			late = append(late, k)
		}
	}
	switch {
	case whole == 0 && len(late) > 0, whole > 1:
	case len(late) == 0:
		return nil
	case len(late) < max(1, o.FanIn/2) && !slices.ContainsFunc(late, func(k *Block) bool { return now.Sub(k.Meta.Created) > o.LateFor }):
		return nil // they may be more soon
	}
	return fitting(all, o)
}

// fitting is the first inputs that make a block of no more than MaxBlockBytes; nil if that are fewer than two, where a
// merge is to make fewer blocks.
func fitting(all []*Block, o CompactOptions) []*Block {
	var sum int64
	n := 0
	for n < len(all) && n < o.MaxInputs && (n == 0 || sum+all[n].bytes <= o.MaxBlockBytes) {
		sum += all[n].bytes
		n++
	}
	if n < 2 && len(all) > 1 {
		return nil
	}
	return all[:n]
}

func planHour(tenant string, h time.Time, ks []*Block, now time.Time, o CompactOptions) (job, bool) {
	all, waiting := mergeable(ks, o)
	over := !waiting && !now.Before(h.Add(time.Hour+o.HourAfter))
	if over && len(all) <= o.MaxInputs {
		in := worth(all, block.LevelHour, now, o)
		return job{tenant, h, block.LevelHour, in}, in != nil
	}
	// Still being written, or too many for one merge: blocks of about one size first.
	for _, level := range []block.Level{block.LevelHead, block.LevelPart} {
		var some []*Block
		for _, k := range all {
			if k.Meta.Level == level {
				some = append(some, k)
			}
		}
		if len(some) >= o.FanIn || over && len(some) > 1 {
			if in := fitting(some, o); len(in) > 1 {
				return job{tenant, h, block.LevelPart, in}, true
			}
		}
	}
	return job{}, false
}

// compactLoop merges, archives and deletes.
func (b *Blocks) compactLoop() {
	tick := time.NewTicker(b.opt.Compact.Every)
	defer tick.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-tick.C:
		}
		err := b.Maintain(b.ctx)
		if b.ctx.Err() != nil {
			return
		}
		b.mu.Lock()
		before := b.compactEr
		b.compactEr = err
		b.mu.Unlock()
		switch {
		case err == nil && before != nil:
			b.opt.Logger.Info("compaction and retention go on again")
		case err != nil && (before == nil || before.Error() != err.Error()):
			b.opt.Logger.Error("compaction and retention; it is tried again", "error", err)
		}
	}
}

// Maintain does what there is to do now: merges, and then retention. A part that fails does not keep the others from being
// done.
func (b *Blocks) Maintain(ctx context.Context) error {
	b.maintainMu.Lock()
	defer b.maintainMu.Unlock()
	return errors.Join(b.compact(ctx), b.retain(ctx))
}

// compact merges until there is nothing to merge, or all that is left has failed, or is another's.
func (b *Blocks) compact(ctx context.Context) error {
	var errs []error
	tried := map[string]bool{}
	for ctx.Err() == nil {
		jobs := planCompaction(b.now.Load().ask, b.opt.Now(), b.opt.Compact)
		b.noteBehind(len(jobs) > 0, false)
		i := slices.IndexFunc(jobs, func(j job) bool { return !tried[j.key()] })
		if i < 0 {
			break
		}
		tried[jobs[i].key()] = true
		done, err := b.runJob(ctx, jobs[i])
		if err != nil {
			b.mu.Lock()
			b.stats.CompactionsFailed++
			b.mu.Unlock()
			errs = append(errs, err)
		} else if done {
			b.noteBehind(true, true)
		}
	}
	return errors.Join(append(errs, ctx.Err())...)
}

// key tells jobs apart: another try with other inputs is another job.
func (j *job) key() string {
	s := fmt.Sprint(j.tenant, j.partition, j.level)
	for _, k := range j.inputs {
		s += k.Meta.ULID.String()
	}
	return s
}

// noteBehind keeps since when there has been something to merge and none of it done.
func (b *Blocks) noteBehind(behind, progress bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !behind || progress {
		b.behind = time.Time{}
	}
	if behind && b.behind.IsZero() {
		b.behind = b.opt.Now()
	}
}

// healthyCompaction says whether merging is stuck. Under mu.
func (b *Blocks) healthyCompaction(now time.Time) error {
	if d := now.Sub(b.behind); !b.behind.IsZero() && d > b.opt.Compact.StuckAfter {
		return fmt.Errorf("blocks: %w: there have been blocks to merge for %v, and none were: %w", store.ErrUnavailable, d.Round(time.Second), orNothing(b.compactEr))
	}
	if d := now.Sub(b.retained); b.retainEr != nil && d > b.opt.Compact.StuckAfter {
		return fmt.Errorf("blocks: %w: nothing has been archived or deleted for %v: %w", store.ErrUnavailable, d.Round(time.Second), b.retainEr)
	}
	return nil
}

// leased runs do while this server has the name; done is false if another has it.
func (b *Blocks) leased(ctx context.Context, name string, do func(context.Context) error) (done bool, err error) {
	if b.opt.Lease == nil {
		return true, do(ctx)
	}
	held, release, ok, err := b.opt.Lease(ctx, name)
	if err != nil {
		return false, fmt.Errorf("blocks: lease %s: %w", name, err)
	}
	if !ok {
		return false, nil
	}
	defer release()
	// Another server may have had it until now: what it did must be known.
	if err := b.refresh(held); err != nil {
		return false, fmt.Errorf("blocks: %w", err)
	}
	return true, do(held)
}

// runJob merges the inputs and puts the output in their place.
func (b *Blocks) runJob(ctx context.Context, j job) (bool, error) {
	return b.leased(ctx, j.lease(b.opt.Region), func(ctx context.Context) error {
		ask := b.now.Load().ask[j.tenant]
		for _, k := range j.inputs {
			if !slices.ContainsFunc(ask, func(o *Block) bool { return o.Meta.ULID == k.Meta.ULID }) {
				return nil // done by another: the next plan knows
			}
		}
		_, err := b.mergeBlocks(ctx, j, nil)
		return err
	})
}

// mergeBlocks writes a job's output, checks it against the inputs, and publishes it: from then on it is asked and they are
// not. keep leaves series out; nil is all.
func (b *Blocks) mergeBlocks(ctx context.Context, j job, keep func(block.Series) bool) (block.Meta, error) {
	began := time.Now()
	now := b.opt.Now()
	id, err := ulid.New(ulid.Timestamp(now), rand.Reader)
	if err != nil {
		return block.Meta{}, err
	}
	m := block.Meta{ULID: id, Region: b.opt.Region, Tenant: j.tenant, Level: j.level, Partition: j.partition, Created: created(j.inputs)}
	all := b.now.Load().all
	sources := map[ulid.ULID]bool{}
	var inputs []block.Input
	for _, k := range j.inputs {
		sources[k.Meta.ULID] = true
		// What an input replaced and still lies in the bucket must not come back when the input is deleted first.
		for _, s := range k.Meta.Sources {
			if all[s] != nil {
				sources[s] = true
			}
		}
		inputs = append(inputs, block.Input{Meta: k.Meta, Source: b.source(k.Meta.ULID)})
	}
	for s := range sources {
		m.Sources = append(m.Sources, s)
	}
	slices.SortFunc(m.Sources, ulid.ULID.Compare)
	work := filepath.Join(b.opt.Dir, workDir)
	if err := b.fs.MkdirAll(work); err != nil {
		return m, fmt.Errorf("blocks: merge: %w: %w", store.ErrUnavailable, err)
	}
	dir := filepath.Join(work, id.String())
	out, err := block.Merge(ctx, dir, m, inputs, block.MergeOptions{FS: b.fs, Keep: keep})
	if err != nil {
		b.blame(j, err)
		return m, fmt.Errorf("blocks: merge %d blocks of tenant %s, %s: %w", len(inputs), j.tenant, j.partition.Format(time.RFC3339), err)
	}
	if err := ctx.Err(); err != nil { // the lease may be lost
		return m, err
	}
	if err := b.publish(ctx, store.Staged{Dir: dir, Meta: out}); err != nil {
		return m, err
	}
	b.mu.Lock()
	b.stats.Compactions++
	b.stats.CompactedBlocks += int64(len(inputs))
	b.stats.CompactedSamples += out.Samples
	b.stats.CompactionTime += time.Since(began)
	b.mu.Unlock()
	b.opt.Logger.Debug("blocks are merged", "tenant", j.tenant, "partition", j.partition, "level", j.level, "inputs", len(inputs), "block", id, "bytes", out.Bytes(), "took", time.Since(began))
	return out, nil
}

// publish puts a merge's output in the place of its inputs. Among several servers the bucket must have it before the
// lease ends: the next to hold the lease would find the inputs unmerged, and merge them again. One that the bucket does not
// take waits, and is looked at again before it is given: [Blocks.superseded].
func (b *Blocks) publish(ctx context.Context, out store.Staged) error {
	if b.opt.Lease == nil {
		return b.enqueue([]store.Staged{out})
	}
	id := out.Meta.ULID
	b.mu.Lock()
	b.merging[id] = true
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		delete(b.merging, id)
		b.mu.Unlock()
		b.kick()
	}()
	if err := b.enqueue([]store.Staged{out}); err != nil {
		return err
	}
	if err := b.give(ctx, b.now.Load().all[id]); err != nil {
		b.opt.Logger.Debug("the bucket does not take the output of a merge; it waits", "block", id, "error", err)
	}
	return nil
}

// superseded says whether another server has replaced or deleted an input of a merge whose output still waits here: the
// bucket must not get it, as it would bring profiles back, or count them twice. Nothing is lost without it: what replaced the
// input has that, and the other inputs are still there.
func (s *set) superseded(k *Block) bool {
	own := map[ulid.ULID]bool{k.Meta.ULID: true}
	for _, id := range k.Meta.Sources {
		own[id] = true
	}
	for _, id := range k.Meta.Sources {
		src := s.all[id]
		replaced := false // by another source: it was no input itself
		for _, r := range s.by[id] {
			switch {
			case r.Meta.ULID == k.Meta.ULID:
			case own[r.Meta.ULID]:
				replaced = true
			case !r.Waiting:
				return true
			}
		}
		if !replaced && (src == nil || src.Tombstoned) {
			return true
		}
	}
	return false
}

// created is when the youngest input was made: a merge does not make profiles younger, and Recent goes by it.
func created(inputs []*Block) time.Time {
	var t time.Time
	for _, k := range inputs {
		if k.Meta.Created.After(t) {
			t = k.Meta.Created
		}
	}
	return t
}

// blame refuses the input that a merge found damaged, so that the others go on without it.
func (b *Blocks) blame(j job, err error) {
	if !errors.Is(err, block.ErrCorrupt) {
		return
	}
	for _, k := range j.inputs {
		if verify := block.Verify(b.ctx, k.Meta, b.source(k.Meta.ULID)); errors.Is(verify, block.ErrCorrupt) {
			b.refuse(k, verify)
		}
	}
}
