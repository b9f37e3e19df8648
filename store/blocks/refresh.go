package blocks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
	"github.com/quantra-l/quantra/store/bucket"
)

// maxBlocks bounds what a listing may name: a region with so many is not being compacted.
const maxBlocks = 1_000_000

// fetchers is how many meta.json are fetched at a time.
const fetchers = 32

// start finds what is in the queue and in the bucket.
func (b *Blocks) start(ctx context.Context) error {
	queued, copies := map[ulid.ULID]*Block{}, map[ulid.ULID]*Block{}
	strays := map[string]error{}
	unavailable := func(err error) error {
		return fmt.Errorf("blocks: %s: %w: %w", b.opt.Dir, store.ErrUnavailable, err)
	}
	err := b.readDir(queueDir, func(k *Block) {
		k.Waiting, k.since = true, k.Meta.Created
		queued[k.Meta.ULID] = k
	}, func(name string, err error) { strays[name] = err })
	if err != nil {
		return unavailable(err)
	}
	var bad []string
	err = b.readDir(localDir, func(k *Block) { copies[k.Meta.ULID] = k },
		func(name string, _ error) { bad = append(bad, filepath.Join(b.opt.Dir, localDir, name)) })
	for _, dir := range bad { // they are copies
		err = errors.Join(err, b.discard(dir))
	}
	if err != nil {
		return unavailable(err)
	}
	b.now.Store(newSet(queued))
	err = b.refresh(ctx)
	switch {
	case err == nil:
	case ctx.Err() != nil || !errors.Is(err, bucket.ErrUnavailable):
		return fmt.Errorf("blocks: %s: %w", b.bucket.URL(), err)
	default:
		b.opt.Logger.Warn("the bucket is away; what is known of it from before can be asked", "bucket", b.bucket.URL(), "error", err)
		b.recall()
	}
	for _, name := range slices.Sorted(maps.Keys(strays)) {
		if err := b.stray(name, strays[name]); err != nil {
			return unavailable(err)
		}
	}
	return b.settle(copies)
}

// stray deals with a folder in the queue that is not a whole block. If the bucket has the block this is what is
// left of it here; else it is damage, and stays for fsck to see.
func (b *Blocks) stray(name string, why error) error {
	dir := filepath.Join(b.opt.Dir, queueDir, name)
	if id, err := ulid.ParseStrict(name); err == nil && b.now.Load().all[id] != nil {
		return b.discard(dir)
	}
	b.strays = append(b.strays, fmt.Sprintf("The block in %s is damaged and left out (%v).", dir, why))
	b.opt.Logger.Error("a block in the queue is damaged; it is left where it is, and out of all answers. Run `quantraband store fsck`", "folder", dir, "error", why)
	return nil
}

// recall knows again the blocks that were known before, by the copies of their meta.json: the bucket
// cannot be asked.
func (b *Blocks) recall() {
	names, err := b.fs.List(filepath.Join(b.opt.Dir, metasDir))
	if err != nil {
		return
	}
	b.edit(func(blocks map[ulid.ULID]*Block) {
		for _, name := range names {
			id, err := ulid.ParseStrict(name)
			if err != nil || blocks[id] != nil {
				continue
			}
			if raw, ok := b.readMetaCopy(id); ok {
				if m, err := b.checkMeta(raw, id, ""); err == nil {
					blocks[id] = newBlock(m)
				}
			}
		}
	})
}

// settle takes local copies into use, and drops those of blocks that are not there any more.
func (b *Blocks) settle(copies map[ulid.ULID]*Block) error {
	b.queueMu.Lock()
	defer b.queueMu.Unlock()
	var drop []*Block
	b.edit(func(blocks map[ulid.ULID]*Block) {
		for id, c := range copies {
			k := blocks[id]
			if k == nil && b.listEr != nil {
				blocks[id] = c // the bucket cannot say: it was there
			} else if k == nil || k.Waiting || b.near || b.opt.CacheBytes <= 0 {
				drop = append(drop, c)
			} else {
				with := *k
				with.Dir = c.Dir
				blocks[id] = &with
			}
		}
	})
	for _, c := range drop {
		if err := b.discard(c.Dir); err != nil {
			return fmt.Errorf("blocks: %s: %w: %w", b.opt.Dir, store.ErrUnavailable, err)
		}
	}
	if err := b.trimLocal(); err != nil {
		return fmt.Errorf("blocks: %s: %w: %w", b.opt.Dir, store.ErrUnavailable, err)
	}
	b.kick()
	return nil
}

// refreshLoop lists the bucket again and again.
func (b *Blocks) refreshLoop() {
	tick := time.NewTicker(b.opt.RefreshEvery)
	defer tick.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-tick.C:
		case <-b.stale:
		}
		b.mu.Lock()
		before := b.listEr
		b.mu.Unlock()
		switch err := b.refresh(b.ctx); {
		case b.ctx.Err() != nil:
			return
		case err == nil && before != nil:
			b.opt.Logger.Info("the bucket can be listed again", "bucket", b.bucket.URL())
		case err != nil && (before == nil || before.Error() != err.Error()):
			b.opt.Logger.Error("list the bucket", "bucket", b.bucket.URL(), "error", err)
		}
	}
}

// listed is what a listing says of one block.
type listed struct {
	prefix           string
	meta, tomb, cold bool
}

// Refresh lists the bucket and learns of blocks that are new there, or gone. Others than the loop may call it.
func (b *Blocks) Refresh(ctx context.Context) error { return b.refresh(ctx) }

func (b *Blocks) refresh(ctx context.Context) error {
	b.refreshMu.Lock()
	defer b.refreshMu.Unlock()
	began := b.opt.Now()
	b.mu.Lock()
	change := b.change
	b.mu.Unlock()
	found, err := b.list(ctx)
	var fresh map[ulid.ULID]*Block
	var bad []string
	if err == nil {
		fresh, bad, err = b.learn(ctx, found)
	}
	if err != nil && fresh == nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.listEr = err
		b.stats.ListingsFailed++
		return err
	}
	b.merge(found, fresh, change, err == nil)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.listEr = err
	b.badMetas = bad
	if err == nil {
		b.listed = began
		b.stats.Listings++
	} else {
		b.stats.ListingsFailed++
	}
	return err
}

func (b *Blocks) list(ctx context.Context) (map[ulid.ULID]*listed, error) {
	found := map[ulid.ULID]*listed{}
	for o, err := range b.bucket.List(ctx, b.opt.Region+"/", false) {
		if err != nil {
			return nil, err
		}
		prefix, id, file, ok := parseKey(o.Key)
		if !ok {
			continue
		}
		l := found[id]
		if l == nil {
			if len(found) == maxBlocks {
				return nil, fmt.Errorf("%s has more than %d blocks in region %s: %w", b.bucket.URL(), maxBlocks, b.opt.Region, store.ErrUnavailable)
			}
			l = &listed{prefix: prefix}
			found[id] = l
		}
		switch file {
		case block.MetaFile:
			l.meta = true
		case TombstoneFile:
			l.tomb = true
		case block.SamplesFile:
			l.cold = o.Class == bucket.Archive
		}
	}
	return found, nil
}

// learn reads the meta.json of blocks that are new: from the copy here, or from the bucket.
// One that cannot be understood is told in bad; one that cannot be had now is the
// error, beside what could.
func (b *Blocks) learn(ctx context.Context, found map[ulid.ULID]*listed) (map[ulid.ULID]*Block, []string, error) {
	known := b.now.Load().all
	fresh := map[ulid.ULID]*Block{}
	var bad []string
	var first error
	var mu sync.Mutex
	work := make(chan ulid.ULID)
	var wg sync.WaitGroup
	for range fetchers {
		wg.Go(func() {
			for id := range work {
				m, err := b.fetchMeta(ctx, id, found[id].prefix)
				mu.Lock()
				switch {
				case err == nil:
					fresh[id] = newBlock(m)
				case errors.Is(err, store.ErrCorrupt) || errors.Is(err, block.ErrCorrupt):
					bad = append(bad, fmt.Sprintf("The block %s is damaged and left out (%v).", id, err))
				case errors.Is(err, bucket.ErrNotFound): // deleted between the listing and now
				default:
					first = cmp.Or(first, err)
				}
				mu.Unlock()
			}
		})
	}
	for id, l := range found {
		if known[id] == nil && l.meta {
			if ctx.Err() != nil {
				break
			}
			work <- id
		}
	}
	close(work)
	wg.Wait()
	return fresh, bad, cmp.Or(ctx.Err(), first)
}

func (b *Blocks) fetchMeta(ctx context.Context, id ulid.ULID, prefix string) (block.Meta, error) {
	if raw, ok := b.readMetaCopy(id); ok && !b.near {
		if m, err := b.checkMeta(raw, id, prefix); err == nil {
			return m, nil
		}
	}
	raw, err := b.bucket.Get(ctx, prefix+block.MetaFile, 0, maxMeta+1)
	if err != nil {
		return block.Meta{}, err
	}
	m, err := b.checkMeta(raw, id, prefix)
	if err == nil {
		b.keepMetaCopy(id, raw)
	}
	return m, err
}

// checkMeta reads a meta.json that was found where block id of this region should be.
func (b *Blocks) checkMeta(raw []byte, id ulid.ULID, prefix string) (block.Meta, error) {
	if len(raw) > maxMeta {
		return block.Meta{}, fmt.Errorf("%w: %s has more than %d bytes", store.ErrCorrupt, block.MetaFile, maxMeta)
	}
	m, err := block.ReadMeta(raw)
	if err != nil {
		return m, err
	}
	if at := Prefix(m.Region, m.Tenant, m.ULID); m.ULID != id || m.Region != b.opt.Region || prefix != "" && at != prefix {
		return m, fmt.Errorf("%w: %s%s is of %s", store.ErrCorrupt, prefix, block.MetaFile, at)
	}
	b.names.share(&m)
	return m, nil
}

// merge brings a listing that began at a change into what is known. What has
// changed here since then is newer than the listing.
func (b *Blocks) merge(found map[ulid.ULID]*listed, fresh map[ulid.ULID]*Block, change uint64, whole bool) {
	var lost []ulid.ULID
	var came []*Block
	b.edit(func(blocks map[ulid.ULID]*Block) {
		for id, k := range fresh {
			if b.gone[id] <= change && blocks[id] == nil {
				blocks[id] = k
				came = append(came, k)
			}
		}
		for id, k := range blocks {
			l := found[id]
			switch {
			case k.Waiting:
				// Uploaded or not, it leaves the queue through the uploader.
			case l == nil || !l.meta:
				if whole && k.uploaded <= change {
					delete(blocks, id)
					lost = append(lost, id)
				}
			case l.tomb && !k.Tombstoned || l.cold != k.Archived:
				c := *k
				c.Tombstoned, c.Archived = c.Tombstoned || l.tomb, l.cold
				blocks[id] = &c
			}
		}
		for id, at := range b.gone {
			if at <= change {
				delete(b.gone, id)
			}
		}
	})
	b.tell(came)
	now := b.now.Load().all
	for id := range found {
		if k := now[id]; k != nil && k.Tombstoned {
			b.fs.Remove(b.metaCopy(id))
		}
	}
	for _, id := range lost {
		b.memory.forget(id)
		b.fs.Remove(b.metaCopy(id))
	}
}
