package bucket

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/quantra-l/quantra/internal/vfs"
)

const (
	chunkBytes = 256 << 10 // what is kept and evicted as one; chunks begin at multiples of it
	runChunks  = 32        // at most so many chunks are fetched with one request: 8 MiB
	chunkHead  = 8         // xxh3 of the object's key, the chunk's number and its bytes
)

// diskPause is how long nothing is written to a cache's disk after it failed.
const diskPause = time.Minute

// Cache is a bucket whose reads are kept on local disk. Objects must be immutable: one that is
// replaced or deleted through the cache is forgotten, one that is replaced behind it is not noticed.
//
// A chunk is a file, DIR/<key>/<number>. Nothing is synced: each chunk carries a checksum that also covers what it
// is of, and one that is damaged, or someone else's, is fetched again. A disk that is full or broken makes
// reads slower, no more; [Cache.Err] says so. What to evict is SIEVE's choice: a
// chunk that was read again since it came stays, so that one large scan does not
// push out what is asked every minute (Zhang et al., "SIEVE is Simpler than LRU", NSDI 2024).
//
// Memory is about 150 bytes for each chunk on disk, and the chunks of reads under way.
type Cache struct {
	b   Bucket
	fs  vfs.FS
	dir string
	max int64
	now func() time.Time

	mu      sync.Mutex // guards all below; never held during I/O
	chunks  map[chunkID]*chunk
	hand    *chunk // SIEVE's: where the next search for a victim starts
	newest  *chunk // chunks are a list by age
	oldest  *chunk
	bytes   int64
	flights map[chunkID]*flight
	forgets int64 // how often Forget was called: what was fetched before is not kept
	ready   bool  // what an earlier process left has been counted; before, nothing is written
	closed  bool
	stats   CacheStats
	diskErr error
	retryAt time.Time // nothing is written before

	scanned chan struct{} // closed when ready
	stop    context.CancelFunc
}

// CacheStats are counts since start, but for Bytes and Chunks.
type CacheStats struct {
	Hits, Misses     int64 // chunks
	Fetched          int64 // bytes that came from the bucket
	Damaged, Evicted int64 // chunks
	DiskErrors       int64
	Bytes, Chunks    int64 // on disk
}

type chunkID struct {
	key string
	n   int64
}

type chunk struct {
	chunkID
	size         int64
	seen         bool // read since the hand passed
	newer, older *chunk
}

// flight is a chunk being fetched. p and err are set before done is closed.
type flight struct {
	done chan struct{}
	p    []byte
	err  error
}

// NewCache keeps at most max bytes of b's objects in dir, made if need be. What an earlier
// process left there is used at once.
func NewCache(b Bucket, fsys vfs.FS, dir string, max int64) *Cache {
	ctx, stop := context.WithCancel(context.Background())
	c := &Cache{b: b, fs: fsys, dir: dir, max: max, now: time.Now, chunks: map[chunkID]*chunk{},
		flights: map[chunkID]*flight{}, scanned: make(chan struct{}), stop: stop}
	go c.scan(ctx)
	return c
}

// URL is the bucket's.
func (c *Cache) URL() string { return c.b.URL() }

// Stats says what the cache has done and holds.
func (c *Cache) Stats() CacheStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stats
	s.Bytes, s.Chunks = c.bytes, int64(len(c.chunks))
	return s
}

// Err is why nothing is written to the disk now, or nil: for a warning, as reads still work.
func (c *Cache) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.diskErr
}

// Close ends the cache, not the bucket.
func (c *Cache) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.stop()
	<-c.scanned
	return nil
}

// Put writes through.
func (c *Cache) Put(ctx context.Context, key string, body io.ReadSeeker) error {
	err := c.b.Put(ctx, key, body)
	c.forgetKey(key)
	return err
}

// Stat asks the bucket.
func (c *Cache) Stat(ctx context.Context, key string) (Object, error) { return c.b.Stat(ctx, key) }

// List asks the bucket.
func (c *Cache) List(ctx context.Context, prefix string, dirs bool) iter.Seq2[Object, error] {
	return c.b.List(ctx, prefix, dirs)
}

// Delete deletes from both.
func (c *Cache) Delete(ctx context.Context, key string) error {
	err := c.b.Delete(ctx, key)
	c.forgetKey(key)
	return err
}

// SetClass asks the bucket; what is cached stays.
func (c *Cache) SetClass(ctx context.Context, key string, cl Class) error {
	return c.b.SetClass(ctx, key, cl)
}

// Get reads from the disk what it can, and fetches the rest.
func (c *Cache) Get(ctx context.Context, key string, off, n int64) ([]byte, error) {
	if err := checkRange(key, off); err != nil {
		return nil, err
	}
	if n == 0 {
		return c.b.Get(ctx, key, off, n)
	}
	var out []byte
	if n > 0 {
		out = make([]byte, 0, min(n, runChunks*chunkBytes))
	}
	for at := off / chunkBytes; n < 0 || at*chunkBytes < off+n; {
		want := int64(runChunks)
		if n > 0 {
			want = min(want, (off+n-1)/chunkBytes-at+1)
		}
		run, err := c.run(ctx, key, at, int(want))
		if err != nil {
			return nil, err
		}
		for _, p := range run {
			from := max(off-at*chunkBytes, 0)
			to := int64(len(p))
			if n > 0 {
				to = min(to, off+n-at*chunkBytes)
			}
			if from < to {
				out = append(out, p[from:to]...)
			}
			at++
			if len(p) < chunkBytes {
				return out, nil // the object's end
			}
		}
	}
	return out, nil
}

// run is up to n chunks from the at-th, fewer only at the object's end.
func (c *Cache) run(ctx context.Context, key string, at int64, n int) ([][]byte, error) {
	out := make([][]byte, n)
	waits := make([]*flight, n)
	var mine []int // chunks that this call fetches
	for i := range n {
		id := chunkID{key, at + int64(i)}
		if out[i] = c.read(id); out[i] != nil {
			if len(out[i]) < chunkBytes {
				out, waits = out[:i+1], waits[:i+1]
				break
			}
			continue
		}
		f, leader := c.claim(id)
		waits[i] = f
		if leader {
			mine = append(mine, i)
		}
	}
	for len(mine) > 0 {
		k := 1
		for k < len(mine) && mine[k] == mine[0]+k {
			k++
		}
		c.fetch(ctx, key, at+int64(mine[0]), waits[mine[0]:mine[0]+k])
		mine = mine[k:]
	}
	for i, f := range waits {
		if f == nil {
			if len(out[i]) < chunkBytes {
				return out[:i+1], nil
			}
			continue
		}
		p, err := c.await(ctx, chunkID{key, at + int64(i)}, f)
		if err != nil {
			return nil, err
		}
		if out[i] = p; len(p) < chunkBytes {
			return out[:i+1], nil
		}
	}
	return out, nil
}

// await is a flight's end. A flight that ended because the one who fetched went away is taken over.
func (c *Cache) await(ctx context.Context, id chunkID, f *flight) ([]byte, error) {
	for {
		select {
		case <-f.done:
		case <-ctx.Done():
			return nil, fmt.Errorf("bucket %s: read %s: %w", c.URL(), id.key, ctx.Err())
		}
		gone := errors.Is(f.err, context.Canceled) || errors.Is(f.err, context.DeadlineExceeded)
		if !gone || ctx.Err() != nil {
			return f.p, f.err
		}
		var leader bool
		if f, leader = c.claim(id); leader {
			c.fetch(ctx, id.key, id.n, []*flight{f})
		}
	}
}

// claim is the flight of a chunk, and whether the caller must fetch it.
func (c *Cache) claim(id chunkID) (*flight, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.flights[id]; f != nil {
		return f, false
	}
	c.stats.Misses++
	f := &flight{done: make(chan struct{})}
	c.flights[id] = f
	return f, true
}

// fetch ends the flights of chunks that lie side by side, with one request. Those who wait do not
// wait for the disk. The flights stay until the chunks are kept, so that no two write one file.
func (c *Cache) fetch(ctx context.Context, key string, at int64, fl []*flight) {
	c.mu.Lock()
	forgets := c.forgets
	c.mu.Unlock()
	p, err := c.b.Get(ctx, key, at*chunkBytes, int64(len(fl))*chunkBytes)
	if err == nil {
		for i, f := range fl {
			part := p[min(len(p), i*chunkBytes):min(len(p), (i+1)*chunkBytes)]
			f.p = bytes.Clone(part) // a waiter must not hold the whole run
			close(f.done)
		}
		for i, f := range fl {
			if i > 0 && len(fl[i-1].p) < chunkBytes {
				break // past the end: nobody asks for it again
			}
			c.keep(chunkID{key, at + int64(i)}, f.p, forgets)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Fetched += int64(len(p))
	for i, f := range fl {
		delete(c.flights, chunkID{key, at + int64(i)})
		if err != nil {
			f.err = err
			close(f.done)
		}
	}
}

// path is a chunk's file. Keys are escaped as in a folder; the number's name cannot be a part of a key's, so
// that a chunk and the folder of a longer key do not meet.
func (c *Cache) path(id chunkID) string {
	return filepath.Join(c.keyDir(id.key), "."+strconv.FormatInt(id.n, 10))
}

func (c *Cache) keyDir(key string) string {
	parts := strings.Split(key, "/")
	for i := range parts {
		parts[i] = escape(parts[i])
	}
	return filepath.Join(c.dir, filepath.Join(parts...))
}

// sum covers what the bytes are of, so that a file in the wrong place is not believed.
func (id chunkID) sum(p []byte) uint64 {
	return xxh3.HashSeed(p, xxh3.HashStringSeed(id.key, uint64(id.n)))
}

// read is a chunk from the disk, or nil. An empty chunk is not nil.
func (c *Cache) read(id chunkID) []byte {
	c.mu.Lock()
	known := c.chunks[id]
	if known != nil {
		known.seen = true
	}
	look := known != nil || !c.ready
	c.mu.Unlock()
	if !look {
		return nil
	}
	p, err := readFile(c.fs, c.path(id), 0, chunkHead+chunkBytes+1)
	if errors.Is(err, fs.ErrNotExist) && known == nil {
		return nil
	}
	ok := err == nil && len(p) >= chunkHead && len(p) <= chunkHead+chunkBytes && binary.LittleEndian.Uint64(p) == id.sum(p[chunkHead:])
	c.mu.Lock()
	switch {
	case ok:
		c.stats.Hits++
	case c.chunks[id] == known: // not evicted under our hands
		if known != nil {
			c.unlink(known)
		}
		if err == nil {
			c.stats.Damaged++
		}
	}
	c.mu.Unlock()
	if !ok {
		if err == nil {
			_ = c.drop(id) // if it stays it is found damaged again
		}
		return nil
	}
	return p[chunkHead:]
}

// keep writes a chunk that was fetched when Forget had been called forgets times.
func (c *Cache) keep(id chunkID, p []byte, forgets int64) {
	size := int64(chunkHead + len(p))
	c.mu.Lock()
	if !c.ready || c.closed || c.forgets != forgets || size > c.max || c.now().Before(c.retryAt) {
		c.mu.Unlock()
		return
	}
	var victims []chunkID
	for c.bytes+size > c.max && c.oldest != nil {
		v := c.victim()
		c.unlink(v)
		c.stats.Evicted++
		victims = append(victims, v.chunkID)
	}
	fits := c.bytes+size <= c.max // else the rest is reserved by others who write now
	if fits {
		c.bytes += size // reserved, so that many writers stay within the bound
	}
	c.mu.Unlock()
	var err error
	for _, v := range victims {
		err = errors.Join(err, c.drop(v))
	}
	if fits && err == nil {
		err = c.write(id, p)
	}
	c.mu.Lock()
	if !fits {
		c.disk(err)
		c.mu.Unlock()
		return
	}
	c.bytes -= size
	stale := c.forgets != forgets
	if err == nil && !stale {
		if old := c.chunks[id]; old != nil {
			c.unlink(old)
		}
		c.link(&chunk{chunkID: id, size: size})
	}
	c.disk(err)
	c.mu.Unlock()
	if err != nil || stale {
		_ = c.drop(id) // as well as can be: it has been said, and a half is not believed
	}
}

// disk notes how the disk did. The lock is held.
func (c *Cache) disk(err error) {
	if !c.now().Before(c.retryAt) {
		c.diskErr = nil
	}
	if err != nil {
		c.stats.DiskErrors++
		c.retryAt = c.now().Add(diskPause)
		c.diskErr = fmt.Errorf("cache %s: reads go to the bucket, as the disk failed: %w", c.dir, err)
	}
}

func (c *Cache) write(id chunkID, p []byte) error {
	f, err := c.create(id)
	if err != nil {
		return err
	}
	_, err = f.Write(append(binary.LittleEndian.AppendUint64(make([]byte, 0, chunkHead+len(p)), id.sum(p)), p...))
	return errors.Join(err, f.Close())
}

// create makes a chunk's file. Its folder may be taken away by a drop that found it empty, and a
// process that died may have left the file: so that is tried a few times.
func (c *Cache) create(id chunkID) (f vfs.File, err error) {
	name := c.path(id)
	for range 8 {
		if err = c.fs.MkdirAll(filepath.Dir(name)); err == nil {
			f, err = c.fs.Create(name)
		}
		switch {
		case errors.Is(err, fs.ErrExist):
			if derr := c.drop(id); derr != nil {
				return nil, derr
			}
		case !errors.Is(err, fs.ErrNotExist):
			return f, err
		}
	}
	return nil, err
}

// drop removes a chunk's file, and its folders when they are empty.
func (c *Cache) drop(id chunkID) error {
	name := c.path(id)
	if err := c.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for dir := filepath.Dir(name); dir != c.dir && c.fs.Remove(dir) == nil; dir = filepath.Dir(dir) {
	}
	return nil
}

// victim is what SIEVE evicts: from the hand towards newer chunks, the first that was not read since the
// hand last passed. The lock is held, and bytes are over the bound of what is linked or reserved.
func (c *Cache) victim() *chunk {
	v := c.hand
	if v == nil {
		v = c.oldest
	}
	for v.seen {
		v.seen = false
		if v = v.newer; v == nil {
			v = c.oldest
		}
	}
	c.hand = v.newer
	return v
}

// link makes a chunk the newest. The lock is held.
func (c *Cache) link(k *chunk) {
	k.older, c.newest = c.newest, k
	if k.older != nil {
		k.older.newer = k
	} else {
		c.oldest = k
	}
	c.chunks[k.chunkID] = k
	c.bytes += k.size
}

// unlink takes a chunk out of the list. The lock is held.
func (c *Cache) unlink(k *chunk) {
	if c.hand == k {
		c.hand = k.newer
	}
	if k.newer != nil {
		k.newer.older = k.older
	} else {
		c.newest = k.older
	}
	if k.older != nil {
		k.older.newer = k.newer
	} else {
		c.oldest = k.newer
	}
	delete(c.chunks, k.chunkID)
	c.bytes -= k.size
}

// Forget drops all chunks of objects whose keys start with prefix, from the disk too.
func (c *Cache) Forget(prefix string) {
	c.forget(func(key string) bool { return strings.HasPrefix(key, prefix) })
}

func (c *Cache) forgetKey(key string) { c.forget(func(k string) bool { return k == key }) }

func (c *Cache) forget(match func(string) bool) {
	<-c.scanned // what is not counted yet could not be found
	c.mu.Lock()
	c.forgets++
	var gone []chunkID
	for id, k := range c.chunks {
		if match(id.key) {
			c.unlink(k)
			gone = append(gone, id)
		}
	}
	c.mu.Unlock()
	var err error
	for _, id := range gone {
		err = errors.Join(err, c.drop(id))
	}
	if err != nil {
		c.mu.Lock()
		c.disk(err)
		c.mu.Unlock()
	}
}

// scan counts what an earlier process left. Reads look at the disk themselves until it is done.
func (c *Cache) scan(ctx context.Context) {
	defer close(c.scanned)
	found, err := c.walk(ctx, c.dir, "", nil, 0)
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range found {
		c.link(k)
	}
	c.ready = true
	if err != nil && ctx.Err() == nil {
		c.disk(err)
	}
}

// walk finds chunks below a folder. Files that are no chunks are left alone. Depth is bounded by what a key may have.
func (c *Cache) walk(ctx context.Context, dir, key string, found []*chunk, depth int) ([]*chunk, error) {
	if depth > maxKey/2 {
		return found, nil
	}
	names, err := c.fs.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return found, nil
	}
	for _, name := range names {
		if ctx.Err() != nil {
			return found, ctx.Err()
		}
		st, serr := c.fs.Stat(filepath.Join(dir, name))
		switch num, isChunk := strings.CutPrefix(name, "."); {
		case serr != nil:
		case isChunk && !st.Dir && key != "":
			n, perr := strconv.ParseInt(num, 10, 64)
			if perr == nil && n >= 0 && strconv.FormatInt(n, 10) == num {
				found = append(found, &chunk{chunkID: chunkID{key, n}, size: st.Size})
			}
		case st.Dir:
			part, ours := unescape(name)
			if !ours {
				continue
			}
			var werr error
			found, werr = c.walk(ctx, filepath.Join(dir, name), strings.TrimPrefix(key+"/"+part, "/"), found, depth+1)
			err = errors.Join(err, werr)
		}
	}
	return found, err
}
