package blocks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/zeebo/xxh3"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/block"
	"github.com/quantra-l/quantra/store/bucket"
)

// Put is of [store.Backend]: the blocks' folders are renamed into the queue. From then on
// they are asked, and the bucket gets them when it can.
func (b *Blocks) Put(_ context.Context, staged []store.Staged) error {
	var more int64
	known := b.now.Load()
	for _, s := range staged {
		if known.all[s.Meta.ULID] == nil {
			more += newBlock(s.Meta).bytes
		}
	}
	if st := b.Stats(); st.QueueBlocks > 0 && st.QueueBytes+more > b.opt.QueueBytes {
		return fmt.Errorf("blocks: put: %w: %d bytes wait for %s, the limit is %d: %w", store.ErrUnavailable, st.QueueBytes, b.bucket.URL(), b.opt.QueueBytes, b.lastPutError())
	}
	return b.enqueue(staged)
}

// enqueue is Put whatever waits already.
func (b *Blocks) enqueue(staged []store.Staged) error {
	for _, s := range staged {
		if s.Meta.Region != b.opt.Region {
			return fmt.Errorf("blocks: put: %w: block %s is of region %q, this is %q", store.ErrInvalid, s.Meta.ULID, s.Meta.Region, b.opt.Region)
		}
	}
	b.queueMu.Lock()
	defer b.queueMu.Unlock()
	b.mu.Lock()
	closed := b.closed
	b.mu.Unlock()
	if closed {
		return fmt.Errorf("blocks: put: %w: closed", store.ErrUnavailable)
	}
	known := b.now.Load().all
	queue := filepath.Join(b.opt.Dir, queueDir)
	from := map[string]bool{}
	var fresh []*Block
	for _, s := range staged {
		to := filepath.Join(queue, s.Meta.ULID.String())
		k := known[s.Meta.ULID]
		if err := b.take(s.Dir, to, k); err != nil {
			return fmt.Errorf("blocks: put block %s: %w: %w", s.Meta.ULID, store.ErrUnavailable, err)
		}
		from[filepath.Dir(s.Dir)] = true
		if k == nil {
			m := s.Meta
			b.names.share(&m)
			k = newBlock(m)
			k.Dir, k.Waiting, k.since = to, true, b.opt.Now()
			fresh = append(fresh, k)
		}
	}
	// The new names first: a crash between leaves a block twice, which its ULID tells.
	if err := b.fs.SyncDir(queue); err != nil {
		return fmt.Errorf("blocks: put: %w: %w", store.ErrUnavailable, err)
	}
	for _, dir := range slices.Sorted(maps.Keys(from)) {
		if err := b.fs.SyncDir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("blocks: put: %w: %w", store.ErrUnavailable, err)
		}
	}
	b.edit(func(blocks map[ulid.ULID]*Block) {
		for _, k := range fresh {
			blocks[k.Meta.ULID] = k
			b.stats.Put++
		}
	})
	b.kick()
	return nil
}

// take moves a staged folder to its place in the queue. One that is known was moved
// before; what is left of it in the old place, if anything, goes.
func (b *Blocks) take(dir, to string, known *Block) error {
	err := b.fs.Rename(dir, to)
	if known != nil && !known.Waiting {
		// It went through the queue already; the staged folder was a second copy.
		if err == nil {
			return b.discard(to)
		}
		return vfs.RemoveAll(b.fs, dir)
	}
	if err == nil {
		return nil
	}
	if _, e := b.readBlock(to); e == nil {
		return vfs.RemoveAll(b.fs, dir) // an earlier try got as far as this
	}
	return err
}

// edit changes what is known.
func (b *Blocks) edit(change func(map[ulid.ULID]*Block)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.change++
	next := maps.Clone(b.now.Load().all)
	change(next)
	b.now.Store(newSet(next))
	close(b.changed)
	b.changed = make(chan struct{})
}

// kick wakes the uploader.
func (b *Blocks) kick() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *Blocks) lastPutError() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return orNothing(b.putEr)
}

const (
	uploaders  = 4 // blocks at a time
	firstPause = time.Second
	maxPause   = time.Minute
)

// uploadLoop gives waiting blocks to the bucket, for ever: after a failure it pauses, ever longer.
func (b *Blocks) uploadLoop() {
	pause := time.Duration(0)
	for {
		if pause > 0 {
			b.opt.sleep(b.ctx, pause/2+rand.N(pause/2))
		} else {
			select {
			case <-b.ctx.Done():
			case <-b.wake:
			}
		}
		if b.ctx.Err() != nil {
			return
		}
		err := b.uploadAll(b.ctx)
		if err != nil && b.ctx.Err() != nil {
			return
		}
		b.mu.Lock()
		before := b.putEr
		b.putEr = err
		b.mu.Unlock()
		switch {
		case err == nil && before != nil:
			b.opt.Logger.Info("uploads go through again", "bucket", b.bucket.URL())
		case errors.Is(err, errLeased):
			b.opt.Logger.Debug("upload", "error", err)
		case err != nil && (before == nil || before.Error() != err.Error()):
			b.opt.Logger.Error("upload", "bucket", b.bucket.URL(), "error", err)
		}
		if err == nil {
			pause = 0
		} else {
			pause = min(maxPause, max(firstPause, 2*pause))
		}
	}
}

// uploadAll uploads what waits, the oldest first. It ends at the first error
// that is the bucket's, as the others would meet it too; a block that cannot be read
// does not hold up the rest.
func (b *Blocks) uploadAll(ctx context.Context) error {
	var waiting []*Block
	b.mu.Lock()
	for _, k := range b.now.Load().all {
		if k.Waiting && k.damage.Load() == nil && !b.merging[k.Meta.ULID] {
			waiting = append(waiting, k)
		}
	}
	b.mu.Unlock()
	slices.SortFunc(waiting, byULID)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var mu sync.Mutex
	var first error
	work := make(chan *Block)
	var wg sync.WaitGroup
	for range min(uploaders, len(waiting)) {
		wg.Go(func() {
			for k := range work {
				err := b.upload(ctx, k)
				if err == nil {
					continue
				}
				if errors.Is(err, errLeased) {
					mu.Lock()
					first = cmp.Or(first, err)
					mu.Unlock()
					continue
				}
				b.mu.Lock()
				b.stats.UploadFailed++
				b.mu.Unlock()
				if errors.Is(err, store.ErrCorrupt) {
					b.refuse(k, err)
					continue
				}
				mu.Lock()
				first = cmp.Or(first, err)
				mu.Unlock()
				if errors.Is(err, bucket.ErrUnavailable) || errors.Is(err, bucket.ErrDenied) || errors.Is(err, bucket.ErrNotFound) {
					cancel()
				}
			}
		})
	}
	for _, k := range waiting {
		if ctx.Err() != nil {
			break
		}
		work <- k
	}
	close(work)
	wg.Wait()
	return first
}

// errLeased is an output of a merge that waits until no other server merges the same day.
var errLeased = errors.New("another server merges blocks of the same day")

// upload gives a block to the bucket. One that a merge made before, while the bucket was away, must not replace what another
// server has replaced since.
func (b *Blocks) upload(ctx context.Context, k *Block) error {
	if b.opt.Lease == nil || len(k.Meta.Sources) == 0 {
		return b.give(ctx, k)
	}
	done, err := b.leased(ctx, mergeLease(b.opt.Region, k.Meta.Tenant, k.Meta.Partition), func(ctx context.Context) error {
		s := b.now.Load()
		if k = s.all[k.Meta.ULID]; k == nil || !k.Waiting {
			return nil
		}
		switch _, err := b.bucket.Stat(ctx, k.Key+block.MetaFile); {
		case err == nil: // it went down after the last file
			return b.uploaded(k, false)
		case !errors.Is(err, bucket.ErrNotFound):
			return fmt.Errorf("block %s: %w", k.Meta.ULID, err)
		}
		if s.superseded(k) {
			b.opt.Logger.Info("blocks have been merged by another server since; the merge that waited here is dropped", "block", k.Meta.ULID)
			return b.uploaded(k, true)
		}
		return b.give(ctx, k)
	})
	if err == nil && !done {
		return fmt.Errorf("block %s: %w", k.Meta.ULID, errLeased)
	}
	return err
}

// give puts the block's files, meta.json last: it is what makes the block be there. A
// block whose tombstone is in the bucket was there before: this server went down
// after the last file and came back later than the block was merged and deleted. Its copy goes.
func (b *Blocks) give(ctx context.Context, k *Block) error {
	switch _, err := b.bucket.Stat(ctx, k.Key+TombstoneFile); {
	case err == nil:
		b.opt.Logger.Info("a block in the queue has been deleted since", "block", k.Meta.ULID)
		return b.uploaded(k, true)
	case !errors.Is(err, bucket.ErrNotFound):
		return fmt.Errorf("block %s: %w", k.Meta.ULID, err)
	}
	for _, name := range append(slices.Sorted(maps.Keys(k.Meta.Files)), block.MetaFile) {
		if err := b.uploadFile(ctx, k, name); err != nil {
			return fmt.Errorf("block %s: %s: %w", k.Meta.ULID, name, err)
		}
	}
	if err := b.uploaded(k, false); err != nil {
		return fmt.Errorf("block %s is uploaded; its copy here: %w", k.Meta.ULID, err)
	}
	return nil
}

// uploadFile checks the file first: what a failing disk has changed must not become the record.
func (b *Blocks) uploadFile(ctx context.Context, k *Block, name string) error {
	f, err := b.fs.Open(filepath.Join(k.Dir, name))
	if err != nil {
		return err
	}
	defer f.Close()
	n, err := f.Size()
	if err != nil {
		return err
	}
	body := io.NewSectionReader(f, 0, n)
	if want, ok := k.Meta.Files[name]; ok {
		h := xxh3.New()
		if _, err := io.Copy(h, body); err != nil {
			return err
		}
		if got := sumText(h); n != want.Bytes || got != want.XXH3 {
			return fmt.Errorf("%w: %d bytes with checksum %s, meta.json says %d with %s", store.ErrCorrupt, n, got, want.Bytes, want.XXH3)
		}
		if _, err := body.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	return b.bucket.Put(ctx, k.Key+name, body)
}

func sumText(h *xxh3.Hasher) string {
	sum := h.Sum128().Bytes()
	return fmt.Sprintf("%x", sum[:])
}

// uploaded takes a block out of the queue. Its folder stays as a copy, unless the bucket is as near.
func (b *Blocks) uploaded(k *Block, deleted bool) error {
	b.queueMu.Lock()
	defer b.queueMu.Unlock()
	dir := ""
	if !b.near && !deleted && b.opt.CacheBytes > 0 {
		dir = filepath.Join(b.opt.Dir, localDir, k.Meta.ULID.String())
		if err := b.fs.Rename(k.Dir, dir); err != nil {
			return err
		}
		if err := b.fs.SyncDir(filepath.Dir(k.Dir)); err != nil {
			return err
		}
	}
	b.edit(func(blocks map[ulid.ULID]*Block) {
		if deleted {
			delete(blocks, k.Meta.ULID)
			return
		}
		c := *k
		c.Waiting, c.Dir, c.uploaded = false, dir, b.change
		blocks[k.Meta.ULID] = &c
		b.stats.Uploaded++
	})
	if dir == "" {
		return b.discard(k.Dir)
	}
	return b.trimLocal()
}

// trimLocal holds the copies to their bound: half of CacheBytes, the other half is for ranges. The oldest go. Under queueMu.
func (b *Blocks) trimLocal() error {
	var copies []*Block
	var sum int64
	for _, k := range b.now.Load().all {
		if !k.Waiting && k.Dir != "" {
			copies = append(copies, k)
			sum += k.bytes
		}
	}
	slices.SortFunc(copies, byULID)
	n := 0
	for n < len(copies) && sum > b.opt.CacheBytes/2 {
		sum -= copies[n].bytes
		n++
	}
	return b.dropCopies(copies[:n])
}

// dropCopies removes local copies of blocks that the bucket has. Under queueMu.
func (b *Blocks) dropCopies(ks []*Block) error {
	if len(ks) == 0 {
		return nil
	}
	b.edit(func(blocks map[ulid.ULID]*Block) {
		for _, k := range ks {
			if now := blocks[k.Meta.ULID]; now != nil && !now.Waiting {
				c := *now
				c.Dir = ""
				blocks[k.Meta.ULID] = &c
			}
		}
	})
	for _, k := range ks {
		if err := b.discard(k.Dir); err != nil {
			return err
		}
	}
	return nil
}

// refuse marks a block as damaged: it is not asked from now on, and every answer
// that would have used it says so. It is said once.
func (b *Blocks) refuse(k *Block, err error) {
	text := err.Error()
	if k.damage.CompareAndSwap(nil, &text) {
		b.opt.Logger.Error("a block is damaged; it is left out of all answers. Run `quantraband store fsck`", "block", k.Meta.ULID, "key", k.Key, "error", err)
		b.memory.forget(k.Meta.ULID)
	}
}

// forget takes a block out of what is known: its objects have been deleted.
func (b *Blocks) forget(id ulid.ULID) error {
	b.queueMu.Lock()
	defer b.queueMu.Unlock()
	dir, key := "", ""
	b.edit(func(blocks map[ulid.ULID]*Block) {
		if k := blocks[id]; k != nil {
			dir, key = k.Dir, k.Key
		}
		delete(blocks, id)
		b.gone[id] = b.change
	})
	b.memory.forget(id)
	if b.cache != nil && key != "" {
		b.cache.Forget(key)
	}
	b.fs.Remove(b.metaCopy(id)) // it may not be there; if it stays, the listing overrules it
	if dir != "" {
		return b.discard(dir)
	}
	return nil
}

// bury notes that a block's tombstone has been put: it is not asked any more.
func (b *Blocks) bury(id ulid.ULID) {
	b.edit(func(blocks map[ulid.ULID]*Block) {
		if k := blocks[id]; k != nil && !k.Tombstoned {
			c := *k
			c.Tombstoned = true
			blocks[id] = &c
		}
	})
	b.memory.forget(id)
	b.fs.Remove(b.metaCopy(id)) // so that a start while the bucket is away does not ask it
}
