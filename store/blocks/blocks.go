// Package blocks keeps a store's blocks in a bucket, and answers from them: it is the
// store.Backend of one machine and of several that share a bucket.
//
// A block that is put waits in a queue on local disk, where it is asked like any
// other, until the bucket has it. What is in the bucket is known from its listing, at the start and every half
// minute, so that servers on one bucket see each other's blocks. Blocks never
// change; a compacted one names those it replaces, and whoever sees both asks it alone.
//
// The bucket is the record. Of the local folder only the queue is more than a copy:
//
//	queue/<ULID>/   blocks that the bucket does not have yet
//	local/<ULID>/   copies of blocks that it has, up to a bound (none if the bucket is a local folder)
//	metas/<ULID>    copies of meta.json, so that a start need not fetch them all
//	cache/          ranges of objects (package bucket's)
//	work/           what is half done; emptied at the start
package blocks

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/store"
	"github.com/quantra-l/quantra/store/bucket"
)

// Options of [Open]. In every bound 0 is the default beside it.
type Options struct {
	FS     vfs.FS           // vfs.Default
	Dir    string           // local, made if need be; one process at a time
	Region string           // whose blocks these are; "local"
	Logger *slog.Logger     // nil is silent
	Now    func() time.Time // time.Now

	QueueBytes  int64 // of blocks that wait for the bucket; past it Put is ErrUnavailable; 4 GiB
	CacheBytes  int64 // of local disk, for copies of what is in the bucket; 8 GiB, < 0 none. A bucket that is a local folder needs none
	MemoryBytes int64 // of decoded columns and dictionaries; 64 MiB, < 0 none

	RefreshEvery time.Duration // how often the bucket is listed; 30 s
	StuckAfter   time.Duration // how long a block may wait, or listing fail, before Healthy says so; 10 min

	// Lease takes name for this server alone, among all that share the bucket; ok is false if
	// another has it. held ends when the lease is lost or released: work under it must stop then. Nil: there is no other.
	Lease func(ctx context.Context, name string) (held context.Context, release func(), ok bool, err error)

	Compact   CompactOptions
	Retention RetentionOptions

	sleep func(ctx context.Context, d time.Duration) // between tries; tests have their own
}

func (o Options) withDefaults() Options {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.Region = cmp.Or(o.Region, "local")
	o.QueueBytes = cmp.Or(o.QueueBytes, 4<<30)
	o.CacheBytes = cmp.Or(o.CacheBytes, 8<<30)
	o.MemoryBytes = cmp.Or(o.MemoryBytes, 64<<20)
	o.RefreshEvery = cmp.Or(o.RefreshEvery, 30*time.Second)
	o.StuckAfter = cmp.Or(o.StuckAfter, 10*time.Minute)
	o.Compact, o.Retention = o.Compact.withDefaults(), o.Retention.withDefaults()
	if o.sleep == nil {
		o.sleep = sleep
	}
	return o
}

// Blocks is the blocks of one region in a bucket.
//
// Its loops each own one thing: the uploader takes blocks out of the queue, the refresher
// lists the bucket. What is known of blocks is one immutable set, replaced under mu; questions take
// it without a lock.
type Blocks struct {
	opt    Options
	fs     vfs.FS
	bucket bucket.Bucket // what is written and listed
	reads  bucket.Bucket // the same, behind the local cache
	cache  *bucket.Cache // reads, or nil
	near   bool          // the bucket is a local folder: copies of it are a waste
	lock   io.Closer
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	loops  sync.WaitGroup
	wake   chan struct{} // there is something to upload
	stale  chan struct{} // a block was missing: list again
	memory *memory
	names  interner

	now atomic.Pointer[set]

	// queueMu is held while blocks move into or out of queue/ and local/.
	// Lock order: queueMu before mu.
	queueMu sync.Mutex

	// refreshMu: one listing at a time. Before the other two.
	refreshMu sync.Mutex

	// maintainMu: one Maintain at a time. Before all others.
	maintainMu sync.Mutex
	orphansAt  time.Time // when they were looked for last; under maintainMu

	strays []string // damaged folders in the queue, found at the start

	mu       sync.Mutex
	gone     map[ulid.ULID]uint64 // forgotten, and at which change: an older listing may still have them
	change   uint64               // counts changes of the set
	closed   bool
	stats    Stats
	listed   time.Time // when the bucket was last listed whole
	listEr   error     // why it was not since
	putEr    error     // why the last upload failed
	badMetas []string
	merging  map[ulid.ULID]bool // outputs of merges under way, whose job gives them to the bucket itself

	compactEr, retainEr error
	behind              time.Time               // since when there has been something to merge and none of it done
	retained            time.Time               // when retention last did all there was
	buried              map[ulid.ULID]time.Time // when blocks were marked as deleted
	missing             map[ulid.ULID]missed    // blocks that answers lately lacked
	changed             chan struct{}           // closed at the next change of the set
	watches             map[*watch]struct{}
}

// Stats is how the blocks are now, and what has been done since [Open].
type Stats struct {
	Blocks, Asked, Damaged      int   // known; not replaced or deleted; refused
	QueueBlocks                 int   // that wait for the bucket
	QueueBytes, LocalBytes      int64 // of queue/ and local/
	MemoryBytes                 int64 // of decoded columns and dictionaries
	MemoryHits, MemoryMisses    int64
	Put, Uploaded, UploadFailed int64
	Missed                      int64 // how often a block could not be read when it was asked
	Listings, ListingsFailed    int64

	Compactions, CompactionsFailed    int64
	CompactedBlocks, CompactedSamples int64
	CompactionTime                    time.Duration
	Tombstones, DeletedBlocks         int64
	DeletedBytes                      int64
	ArchivedBlocks, Orphans           int64
}

// Open makes ready to answer: what waits in the queue and what is in the bucket is known. A
// bucket that is away is no error, as what is here can be asked and more can be put; one that refuses us is. The
// bucket is the caller's to close, after Close.
func Open(ctx context.Context, b bucket.Bucket, opt Options) (*Blocks, error) {
	opt = opt.withDefaults()
	if err := checkRegion(opt.Region); err != nil {
		return nil, fmt.Errorf("blocks: %w: %w", store.ErrInvalid, err)
	}
	bs := &Blocks{opt: opt, fs: opt.FS, bucket: b, reads: b, near: strings.HasPrefix(b.URL(), "file://"),
		wake: make(chan struct{}, 1), stale: make(chan struct{}, 1), memory: newMemory(opt.MemoryBytes),
		gone: map[ulid.ULID]uint64{}, merging: map[ulid.ULID]bool{}, changed: make(chan struct{}), buried: map[ulid.ULID]time.Time{}, retained: opt.Now()}
	bs.now.Store(newSet(nil))
	if err := bs.openDir(); err != nil {
		return nil, err
	}
	if !bs.near && opt.CacheBytes > 0 {
		bs.cache = bucket.NewCache(b, bs.fs, filepath.Join(opt.Dir, cacheDir), opt.CacheBytes/2)
		bs.reads = bs.cache
	}
	if err := bs.start(ctx); err != nil {
		return nil, errors.Join(err, bs.closeCache(), bs.lock.Close())
	}
	bs.ctx, bs.cancel = context.WithCancel(context.WithoutCancel(ctx))
	bs.loops.Go(bs.uploadLoop)
	bs.loops.Go(bs.refreshLoop)
	if !bs.opt.Compact.Off {
		bs.loops.Go(bs.compactLoop)
	}
	return bs, nil
}

// sleep ends early with ctx.
func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// wait returns when ok holds for the set, or with ctx's error.
func (b *Blocks) wait(ctx context.Context, ok func(*set) bool) error {
	for {
		b.mu.Lock()
		changed := b.changed
		b.mu.Unlock()
		if ok(b.now.Load()) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// openDir makes the folders, and takes them for this process.
func (b *Blocks) openDir() error {
	fail := func(err error) error {
		return fmt.Errorf("blocks: %s: %w: %w", b.opt.Dir, store.ErrUnavailable, err)
	}
	for _, d := range []string{queueDir, localDir, metasDir} {
		if err := makeDir(b.fs, filepath.Join(b.opt.Dir, d)); err != nil {
			return fail(err)
		}
	}
	lock, err := b.fs.Lock(filepath.Join(b.opt.Dir, "lock"))
	if err != nil {
		return fail(err)
	}
	b.lock = lock
	if err := vfs.RemoveAll(b.fs, filepath.Join(b.opt.Dir, workDir)); err != nil {
		return errors.Join(fail(err), lock.Close())
	}
	return nil
}

// Close ends the loops. What waits in the queue stays there.
func (b *Blocks) Close() error {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil
	}
	b.closed = true
	b.mu.Unlock()
	b.cancel()
	b.loops.Wait()
	return errors.Join(b.closeCache(), b.lock.Close())
}

// closeCache ends what the cache does in the background. The bucket stays open: it is the caller's.
func (b *Blocks) closeCache() error {
	if b.cache == nil {
		return nil
	}
	return b.cache.Close()
}

// Healthy is of [store.Backend].
func (b *Blocks) Healthy() error {
	now := b.opt.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return fmt.Errorf("blocks: %w: closed", store.ErrUnavailable)
	}
	var waiting int
	var since time.Time
	for _, k := range b.now.Load().all {
		if k.Waiting {
			waiting++
			if since.IsZero() || k.since.Before(since) {
				since = k.since
			}
		}
	}
	if d := now.Sub(since); waiting > 0 && d > b.opt.StuckAfter {
		return fmt.Errorf("blocks: %w: %d blocks wait for %s, the oldest for %v: %w", store.ErrUnavailable, waiting, b.bucket.URL(), d.Round(time.Second), orNothing(b.putEr))
	}
	if d := now.Sub(b.listed); b.listEr != nil && d > b.opt.StuckAfter {
		return fmt.Errorf("blocks: %w: %s was last listed %v ago: %w", store.ErrUnavailable, b.bucket.URL(), d.Round(time.Second), b.listEr)
	}
	return b.healthyCompaction(now)
}

var errNoAnswer = errors.New("no answer yet")

func orNothing(err error) error {
	if err == nil {
		return errNoAnswer
	}
	return err
}

// Warnings is of [store.Backend]: blocks that are damaged, and those that could not be read
// in the last minute.
func (b *Blocks) Warnings() []string {
	now := b.opt.Now()
	known := b.now.Load()
	b.mu.Lock()
	defer b.mu.Unlock()
	var ws []string
	if b.listEr != nil {
		ws = append(ws, fmt.Sprintf("The bucket %s cannot be listed (%v): blocks that others wrote may be missing here.", b.bucket.URL(), b.listEr))
	}
	ws = append(append(ws, b.strays...), b.badMetas...)
	for _, id := range slices.SortedFunc(maps.Keys(b.missing), ulid.ULID.Compare) {
		if m := b.missing[id]; now.Sub(m.at) > missFor {
			delete(b.missing, id)
		} else {
			ws = append(ws, fmt.Sprintf("The block %s could not be read (%v): what it has is missing here.", id, m.err))
		}
	}
	var damaged []*Block
	for _, ks := range known.ask {
		for _, k := range ks {
			if k.damage.Load() != nil {
				damaged = append(damaged, k)
			}
		}
	}
	slices.SortFunc(damaged, byULID)
	for _, k := range damaged {
		ws = append(ws, fmt.Sprintf("The block %s is damaged and left out (%s).", k.Meta.ULID, *k.damage.Load()))
	}
	if n := len(ws); n > maxWarnings {
		ws = append(ws[:maxWarnings], fmt.Sprintf("%d more blocks are missing here.", n-maxWarnings))
	}
	return ws
}

// maxWarnings keeps an answer readable when a whole disk is bad.
const maxWarnings = 20

// Stats is how the blocks are now.
func (b *Blocks) Stats() Stats {
	b.mu.Lock()
	s := b.stats
	for _, k := range b.now.Load().all {
		if k.Waiting {
			s.QueueBlocks++
			s.QueueBytes += k.bytes
		} else if k.Dir != "" {
			s.LocalBytes += k.bytes
		}
		if k.damage.Load() != nil {
			s.Damaged++
		}
	}
	b.mu.Unlock()
	now := b.now.Load()
	s.Blocks = len(now.all)
	for _, ks := range now.ask {
		s.Asked += len(ks)
	}
	s.MemoryBytes, s.MemoryHits, s.MemoryMisses = b.memory.stats()
	return s
}

var _ store.Backend = (*Blocks)(nil)
