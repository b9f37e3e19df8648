package zerotrust

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
)

const (
	flushEvery = time.Second // what is not waited for is on disk after this
	// compactAt is how many bytes of logs there are at least before a snapshot replaces them, and twice as many as the snapshot before had.
	compactAt = 4 << 20
	lockName  = "LOCK"
	tempName  = "trust.tmp"
)

// journal keeps the records on disk: a snapshot, and logs of what has changed since. One goroutine writes for all who wait, one sync for
// all of them; it alone touches the files. The bytes are drawn in docs/format/trust.md.
type journal struct {
	fs    vfs.FS
	dir   string
	table *records
	lock  io.Closer
	floor *atomic.Int64 // Unix seconds: the latest time that was ever seen
	most  int64         // bytes of logs, at least, before a snapshot replaces them

	mu      sync.Mutex
	queue   []*record
	gone    []tombstone
	waiters []chan error
	closed  bool
	wake    chan struct{} // holds one
	done    chan struct{}
	fault   error // of the last write; nil when it went well

	// Of the goroutine.
	file     vfs.File // nil: a new log is begun with the next write
	number   uint64   // of the newest log
	good     int64    // bytes of it that are acknowledged
	snapshot int64    // bytes of the newest snapshot
	since    int64    // bytes of logs since
}

type tombstone struct {
	principal string
	seq       uint64
}

// openJournal reads what is in dir into the table, and starts the goroutine that writes. most is compactAt, but for tests.
func openJournal(f vfs.FS, dir string, t *records, floor *atomic.Int64, most int64) (j *journal, err error) {
	if err := errors.Join(f.MkdirAll(dir), f.SyncDir(filepath.Dir(dir))); err != nil {
		return nil, fmt.Errorf("zerotrust: %w", err)
	}
	lock, err := f.Lock(filepath.Join(dir, lockName))
	if err != nil {
		return nil, fmt.Errorf("zerotrust: %s: %w", dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	kept, err := readDir(f, dir)
	if err != nil {
		return nil, err
	}
	for _, name := range kept.leftovers {
		if err := f.Remove(filepath.Join(dir, name)); err != nil {
			return nil, fmt.Errorf("zerotrust: %w", err)
		}
	}
	kept.fill(t)
	if kept.floor > floor.Load() {
		floor.Store(kept.floor)
	}
	j = &journal{fs: f, dir: dir, table: t, lock: lock, floor: floor, most: most, wake: make(chan struct{}, 1), done: make(chan struct{}),
		number: kept.number, good: kept.good, snapshot: kept.snapshotBytes, since: kept.logBytes}
	t.journal = j
	go j.run()
	return j, nil
}

func (j *journal) enqueue(r *record) {
	j.mu.Lock()
	j.queue = append(j.queue, r)
	j.mu.Unlock()
}

func (j *journal) removed(principal string, seq uint64) {
	j.mu.Lock()
	j.gone = append(j.gone, tombstone{principal, seq})
	j.mu.Unlock()
}

// commit waits until all that is queued now is on disk.
func (j *journal) commit(ctx context.Context) error {
	done := make(chan error, 1)
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		return fmt.Errorf("%w: the records are closed", ErrUnavailable)
	}
	j.waiters = append(j.waiters, done)
	j.mu.Unlock()
	select {
	case j.wake <- struct{}{}:
	default:
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (j *journal) run() {
	defer close(j.done)
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for {
		select {
		case <-j.wake:
		case <-tick.C:
		}
		j.mu.Lock()
		queue, gone, waiters, closed := j.queue, j.gone, j.waiters, j.closed
		j.queue, j.gone, j.waiters = nil, nil, nil
		j.mu.Unlock()
		err := j.flush(queue, gone)
		j.mu.Lock()
		j.fault = err
		j.mu.Unlock()
		for _, w := range waiters {
			w <- err
		}
		if closed {
			return
		}
	}
}

// flush writes the records of a queue as they are now. If it fails they are queued again.
func (j *journal) flush(queue []*record, gone []tombstone) error {
	if len(queue)+len(gone) == 0 {
		return nil // not after a failure: what could not be written is queued again
	}
	entries := make([]entry, 0, len(queue)+len(gone))
	for _, g := range gone {
		entries = append(entries, entry{seq: g.seq, removed: true, state: Record{Principal: g.principal}})
	}
	for _, r := range queue {
		r.mu.Lock()
		r.queued = false
		if !r.gone.Load() {
			entries = append(entries, entry{seq: r.seq, state: r.state})
		}
		r.mu.Unlock()
	}
	err := j.write(entries)
	if err == nil && j.since > max(j.most, 2*j.snapshot) {
		err = j.compact()
	}
	if err == nil {
		return nil
	}
	for _, r := range queue {
		r.mu.Lock()
		again := !r.queued && !r.gone.Load()
		r.queued = r.queued || again
		r.mu.Unlock()
		if again {
			j.enqueue(r)
		}
	}
	j.mu.Lock()
	j.gone = append(gone, j.gone...)
	j.mu.Unlock()
	return fmt.Errorf("%w: the records cannot be kept: %w", ErrUnavailable, err)
}

// write appends entries as frames, with a sync after each: so at most the last frame of a log can be torn.
func (j *journal) write(entries []entry) error {
	for len(entries) > 0 {
		if j.file == nil {
			if err := j.begin(); err != nil {
				return err
			}
		}
		frame, n := appendFrame(nil, entries, j.floor.Load())
		_, err := j.file.Write(frame)
		if err == nil {
			err = j.file.Sync()
		}
		if err != nil {
			// What is on disk of it is not known, and a later sync would not tell: the next write begins a new log.
			err = errors.Join(err, j.file.Close())
			j.file = nil
			return err
		}
		j.good += int64(len(frame))
		j.since += int64(len(frame))
		entries = entries[n:]
	}
	return nil
}

// begin makes the next log. Its header says how much of the one before counts.
func (j *journal) begin() (err error) {
	name := filepath.Join(j.dir, logName(j.number+1))
	if err := j.fs.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) { // of an attempt that failed
		return err
	}
	f, err := j.fs.Create(name)
	if err != nil {
		return err
	}
	_, err = f.Write(appendHeader(nil, header{kind: kindLog, number: j.number + 1, before: uint64(j.good)}))
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = j.fs.SyncDir(j.dir)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	j.file, j.number, j.good = f, j.number+1, headerSize
	return nil
}

// compact begins a new log, writes all records as a snapshot that stands for the logs before it, and removes those.
func (j *journal) compact() error {
	if err := j.file.Close(); err != nil {
		j.file = nil
		return err
	}
	if err := j.begin(); err != nil {
		j.file = nil
		return err
	}
	entries := j.table.entries()
	temp := filepath.Join(j.dir, tempName)
	if err := j.fs.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	size, err := j.writeSnapshot(temp, entries)
	if err != nil {
		return err
	}
	if err := j.fs.Rename(temp, filepath.Join(j.dir, snapshotName(j.number))); err != nil {
		return err
	}
	if err := j.fs.SyncDir(j.dir); err != nil {
		return err
	}
	j.snapshot, j.since = size, 0
	names, err := j.fs.List(j.dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if n, _, ok := parseName(name); ok && n < j.number {
			if err := j.fs.Remove(filepath.Join(j.dir, name)); err != nil {
				return err
			}
		}
	}
	return j.fs.SyncDir(j.dir)
}

func (j *journal) writeSnapshot(name string, entries []entry) (size int64, err error) {
	f, err := j.fs.Create(name)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	b := appendHeader(nil, header{kind: kindSnapshot, number: j.number, before: uint64(len(entries))})
	for first := true; first || len(entries) > 0; first = false {
		var n int
		if b, n = appendFrame(b, entries, j.floor.Load()); n < 0 {
			break
		}
		entries = entries[n:]
		if _, err := f.Write(b); err != nil {
			return 0, err
		}
		size += int64(len(b))
		b = b[:0]
	}
	return size, f.Sync()
}

// entries is the state of all records, the oldest change first.
func (t *records) entries() (out []entry) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.RLock()
		for _, r := range s.all {
			r.mu.Lock()
			out = append(out, entry{seq: r.seq, state: r.state})
			r.mu.Unlock()
		}
		s.mu.RUnlock()
	}
	slices.SortFunc(out, func(a, b entry) int { return cmp.Compare(a.seq, b.seq) })
	return out
}

// healthy is why the last write failed, nil where it did not.
func (j *journal) healthy() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.fault
}

// close writes what is queued, and gives the folder free.
func (j *journal) close() error {
	err := func() error {
		done := make(chan error, 1)
		j.mu.Lock()
		if j.closed {
			j.mu.Unlock()
			return nil
		}
		j.closed = true
		j.waiters = append(j.waiters, done)
		j.mu.Unlock()
		select {
		case j.wake <- struct{}{}:
		default:
		}
		return <-done
	}()
	<-j.done
	if j.file != nil {
		err = errors.Join(err, j.file.Close())
		j.file = nil
	}
	if j.lock != nil {
		err = errors.Join(err, j.lock.Close())
		j.lock = nil
	}
	return err
}

func logName(n uint64) string      { return fmt.Sprintf("trust-%08d.log", n) }
func snapshotName(n uint64) string { return fmt.Sprintf("trust-%08d.snap", n) }

// parseName reads the name of a log or a snapshot.
func parseName(name string) (n uint64, kind byte, ok bool) {
	s, isOurs := strings.CutPrefix(name, "trust-")
	digits, ext, _ := strings.Cut(s, ".")
	if !isOurs || len(digits) < 8 || len(digits) > 19 {
		return 0, 0, false
	}
	for _, c := range []byte(digits) {
		if c < '0' || c > '9' {
			return 0, 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	switch i := slices.Index([]string{"log", "snap"}, ext); i {
	case 0:
		return n, kindLog, name == logName(n)
	case 1:
		return n, kindSnapshot, name == snapshotName(n)
	}
	return 0, 0, false
}
