package blocks

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store/block"
	"github.com/quantra-l/quantra/store/bucket"
)

// RetentionOptions say how long blocks are kept, and where. In each 0 is the default beside it and less is never.
type RetentionOptions struct {
	Keep         time.Duration // 30 days, from the end of a profile's window
	ArchiveAfter time.Duration // to the archive class; 7 days
	// Rules are exceptions; the first that matches holds.
	Rules []KeepRule
	// Grace is how long bytes stay after their block was replaced or deleted, for questions under way and servers that have
	// not listed since; 15 min. TombstoneFor is how long the mark stays after the bytes; 48 h.
	Grace, TombstoneFor time.Duration
}

// KeepRule is how long a tenant's service is kept. "" matches all.
type KeepRule struct {
	Tenant, Service string
	Keep            time.Duration // less than 0 is for ever
}

func (o RetentionOptions) withDefaults() RetentionOptions {
	o.Keep = orDefault(o.Keep, 30*day)
	o.ArchiveAfter = orDefault(o.ArchiveAfter, 7*day)
	o.Grace = orDefault(o.Grace, 15*time.Minute)
	o.TombstoneFor = orDefault(o.TombstoneFor, 48*time.Hour)
	return o
}

// KeepFor is how long a service's profiles are kept; less than 0 is for ever.
func (o *RetentionOptions) KeepFor(tenant, service string) time.Duration {
	for _, r := range o.Rules {
		if (r.Tenant == "" || r.Tenant == tenant) && (r.Service == "" || r.Service == service) {
			return r.Keep
		}
	}
	return o.Keep
}

// tombstone is TombstoneFile.
type tombstone struct {
	Time   time.Time `json:"time"`
	Reason string    `json:"reason"`
}

// retain marks what is replaced or past its time, removes what was marked long enough ago, moves what is old to the archive
// class, and removes what is left of uploads that never ended.
func (b *Blocks) retain(ctx context.Context) error {
	var errs []error
	for _, step := range []func(context.Context) error{b.buryReplaced, b.expire, b.archive, b.removeBuried, b.removeOrphans} {
		if err := step(ctx); err != nil {
			errs = append(errs, err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	err := errors.Join(errs...)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.retainEr = err; err == nil {
		b.retained = b.opt.Now()
	}
	return err
}

// putTombstone marks a block as deleted.
func (b *Blocks) putTombstone(ctx context.Context, k *Block, reason string) error {
	raw, err := json.Marshal(tombstone{b.opt.Now().UTC(), reason})
	if err != nil {
		return err
	}
	if err := b.bucket.Put(ctx, k.Key+TombstoneFile, bytes.NewReader(append(raw, '\n'))); err != nil {
		return fmt.Errorf("blocks: mark block %s as deleted: %w", k.Meta.ULID, err)
	}
	b.bury(k.Meta.ULID)
	b.mu.Lock()
	b.stats.Tombstones++
	b.mu.Unlock()
	return nil
}

// buryReplaced marks blocks that another replaces, once the bucket has that one. Where one was replaced twice over
// the marks of its sources come first.
func (b *Blocks) buryReplaced(ctx context.Context) error {
	s := b.now.Load()
	for _, id := range slices.SortedFunc(maps.Keys(s.by), ulid.ULID.Compare) {
		k := s.all[id]
		if k == nil || k.Tombstoned || k.Waiting {
			continue
		}
		i := slices.IndexFunc(s.by[id], func(o *Block) bool { return !o.Waiting })
		if i < 0 {
			continue
		}
		if err := b.putTombstone(ctx, k, "compacted into "+s.by[id][i].Meta.ULID.String()); err != nil {
			return err
		}
	}
	return nil
}

// expire marks blocks whose time is over. A block of which some services' is over is written again without them, one
// a day at the most: whole days expire.
func (b *Blocks) expire(ctx context.Context) error {
	now := b.opt.Now()
	var errs []error
	for _, ks := range b.now.Load().ask {
		for _, k := range ks {
			if k.Waiting {
				continue
			}
			over, all := b.expired(k, now)
			switch {
			case all:
				errs = append(errs, b.putTombstone(ctx, k, "past its retention"))
			case len(over) > 0 && k.Meta.Level == block.LevelDay && k.damage.Load() == nil:
				errs = append(errs, b.without(ctx, k, over))
			}
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	}
	return errors.Join(errs...)
}

// expired is the services of a block whose time is over, and whether that is all.
func (b *Blocks) expired(k *Block, now time.Time) (over map[string]bool, all bool) {
	all = true
	over = map[string]bool{}
	for i := range k.Meta.Series {
		service := k.Meta.Series[i].Labels.Get(profile.LabelService)
		if over[service] {
			continue
		}
		if keep := b.opt.Retention.KeepFor(k.Meta.Tenant, service); keep >= 0 && now.Sub(k.Meta.To) > keep {
			over[service] = true
		} else {
			all = false
		}
	}
	return over, all
}

// without writes a block again without some services.
func (b *Blocks) without(ctx context.Context, k *Block, services map[string]bool) error {
	j := job{k.Meta.Tenant, k.Meta.Partition, k.Meta.Level, []*Block{k}}
	_, err := b.leased(ctx, j.lease(b.opt.Region), func(ctx context.Context) error {
		now := b.now.Load().all[k.Meta.ULID]
		if now == nil || now.Tombstoned || len(b.now.Load().by[k.Meta.ULID]) > 0 {
			return nil
		}
		_, err := b.mergeBlocks(ctx, j, func(s block.Series) bool { return !services[s.Labels.Get(profile.LabelService)] })
		return err
	})
	return err
}

// archive moves old blocks to the archive class. A folder has none.
func (b *Blocks) archive(ctx context.Context) error {
	if b.near || b.opt.Retention.ArchiveAfter < 0 {
		return nil
	}
	now := b.opt.Now()
	for _, ks := range b.now.Load().ask {
		for _, k := range ks {
			if k.Waiting || k.Archived || now.Sub(k.Meta.To) <= b.opt.Retention.ArchiveAfter {
				continue
			}
			// samples.parquet last: it is what a listing goes by.
			names := slices.DeleteFunc(slices.Sorted(maps.Keys(k.Meta.Files)), func(n string) bool { return n == block.SamplesFile })
			for _, name := range append(names, block.SamplesFile) {
				if err := b.bucket.SetClass(ctx, k.Key+name, bucket.Archive); err != nil {
					return fmt.Errorf("blocks: archive block %s: %w", k.Meta.ULID, err)
				}
			}
			b.edit(func(blocks map[ulid.ULID]*Block) {
				if k := blocks[k.Meta.ULID]; k != nil {
					c := *k
					c.Archived = true
					blocks[k.Meta.ULID] = &c
				}
			})
			b.mu.Lock()
			b.stats.ArchivedBlocks++
			b.mu.Unlock()
		}
	}
	return nil
}

// removeBuried removes the bytes of blocks that were marked long enough ago, meta.json last: a part of a
// marked block is still one.
func (b *Blocks) removeBuried(ctx context.Context) error {
	for _, k := range b.now.Load().all {
		if !k.Tombstoned || k.Waiting {
			continue
		}
		at, err := b.buriedAt(ctx, k)
		if err != nil {
			return err
		}
		if b.opt.Now().Sub(at) < b.opt.Retention.Grace {
			continue
		}
		if err := b.removeObjects(ctx, k); err != nil {
			return fmt.Errorf("blocks: remove block %s: %w", k.Meta.ULID, err)
		}
		b.mu.Lock()
		delete(b.buried, k.Meta.ULID)
		b.stats.DeletedBlocks++
		b.stats.DeletedBytes += k.bytes
		b.mu.Unlock()
	}
	return nil
}

func (b *Blocks) removeObjects(ctx context.Context, k *Block) error {
	for _, name := range append(slices.Sorted(maps.Keys(k.Meta.Files)), block.MetaFile) {
		if err := b.bucket.Delete(ctx, k.Key+name); err != nil {
			return err
		}
	}
	return b.forget(k.Meta.ULID)
}

// buriedAt is when a block was marked. A mark that cannot be read counts from now.
func (b *Blocks) buriedAt(ctx context.Context, k *Block) (time.Time, error) {
	b.mu.Lock()
	at, ok := b.buried[k.Meta.ULID]
	b.mu.Unlock()
	if ok {
		return at, nil
	}
	raw, err := b.bucket.Get(ctx, k.Key+TombstoneFile, 0, 4096)
	if err != nil && !errors.Is(err, bucket.ErrNotFound) {
		return at, fmt.Errorf("blocks: block %s: %w", k.Meta.ULID, err)
	}
	var t tombstone
	if err != nil || json.Unmarshal(raw, &t) != nil || t.Time.IsZero() || t.Time.After(b.opt.Now()) {
		t.Time = b.opt.Now()
	}
	b.mu.Lock()
	b.buried[k.Meta.ULID] = t.Time
	b.mu.Unlock()
	return t.Time, nil
}

// orphanCheckEvery is how often the bucket is searched for what is left of uploads and deletions.
const orphanCheckEvery = 6 * time.Hour

// removeOrphans removes objects of blocks without a meta.json, once all of them are old: an upload that never ended, and
// marks that have served.
func (b *Blocks) removeOrphans(ctx context.Context) error {
	now := b.opt.Now()
	if now.Sub(b.orphansAt) < orphanCheckEvery {
		return nil
	}
	type folder struct {
		keys   []string
		meta   bool
		newest time.Time
	}
	found := map[string]*folder{}
	for o, err := range b.bucket.List(ctx, b.opt.Region+"/", false) {
		if err != nil {
			return fmt.Errorf("blocks: look for orphans: %w", err)
		}
		prefix, _, file, ok := parseKey(o.Key)
		if !ok {
			continue
		}
		f := found[prefix]
		if f == nil {
			f = &folder{}
			found[prefix] = f
		}
		f.meta = f.meta || file == block.MetaFile
		f.keys = append(f.keys, o.Key)
		if o.Modified.After(f.newest) {
			f.newest = o.Modified
		}
	}
	for _, f := range found {
		if f.meta || now.Sub(f.newest) < b.opt.Retention.TombstoneFor {
			continue
		}
		for _, key := range f.keys {
			if err := b.bucket.Delete(ctx, key); err != nil {
				return fmt.Errorf("blocks: remove %s: %w", key, err)
			}
		}
		b.mu.Lock()
		b.stats.Orphans++
		b.mu.Unlock()
	}
	b.orphansAt = now
	return nil
}
