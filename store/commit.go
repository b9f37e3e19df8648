package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store/block"
)

// upkeepEvery is how often old segments are looked for, and a disk that failed
// is tried again, when nobody appends.
const upkeepEvery = 30 * time.Second

// maxBatch bounds the bytes that one sync covers.
const maxBatch = 16 << 20

// commitLoop is the committer: it takes all that waits, makes it durable with one
// sync and hands it on.
func (db *DB) commitLoop() {
	defer close(db.toHead)
	every := time.Duration(upkeepEvery)
	if db.opt.Backend != nil {
		every = max(time.Second, min(every, db.opt.FlushEvery/4))
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for open := true; open; {
		var heard chan struct{}
		select {
		case _, open = <-db.wake:
		case heard = <-db.tend:
			db.upkeep()
		case <-tick.C:
			db.upkeep()
		}
		for db.commit() {
		}
		db.toHead <- nil // upkeep of the head
		if heard != nil {
			db.toHead <- nil // taken only when the one before is done
			db.toHead <- nil
			close(heard)
		}
	}
}

// commit writes what waits, as much as one sync should cover, and says if there was any.
func (db *DB) commit() bool {
	db.mu.Lock()
	n, size := 0, int64(0)
	for n < len(db.queue) && (n == 0 || size < min(maxBatch, db.opt.SegmentBytes)) {
		size += recordHeadLen + int64(len(db.queue[n].meta)+len(db.queue[n].u.Pprof))
		n++
	}
	batch := db.queue[:n:n]
	if db.queue = db.queue[n:]; len(db.queue) == 0 {
		db.queue = nil
	}
	db.mu.Unlock()
	if n == 0 {
		return false
	}
	err := db.log.write(batch, size)
	db.mu.Lock()
	db.note(err)
	if err != nil {
		for _, p := range batch {
			db.finish(p, err)
		}
	}
	db.mu.Unlock()
	if err == nil {
		db.toHead <- batch
	}
	return true
}

// note keeps the outcome of the last commit for Healthy, and logs when it changes: an
// answer to each caller says it too, but nobody may be calling. Under mu.
func (db *DB) note(err error) {
	switch {
	case err != nil && db.commitErr == nil:
		db.opt.Logger.Error("the log cannot be written; uploads are turned away, questions are answered", "err", err)
	case err == nil && db.commitErr != nil:
		db.opt.Logger.Info("the log can be written again")
	}
	db.commitErr = err
}

// upkeep starts a new segment where the active one is old, and tries a disk that failed.
func (db *DB) upkeep() {
	db.mu.Lock()
	failed := db.commitErr != nil
	db.mu.Unlock()
	db.log.sealIfDue(0)
	db.forgetRecent()
	if failed {
		err := db.log.start()
		db.mu.Lock()
		db.note(err)
		db.mu.Unlock()
	}
}

// logWriter writes segments. The committer owns it.
type logWriter struct {
	db     *DB
	file   vfs.File // of db.active
	seg    *segment
	marker marker
	next   uint64 // sequence number of the next segment, 0 before the first
	buf    []byte
}

// write makes batch durable. After an error the segment is given up: what a failed sync
// left on disk is not known, and asking again may well say "done" of pages that the
// kernel has dropped. The next write starts a new segment.
func (w *logWriter) write(batch []*pending, size int64) error {
	w.sealIfDue(size)
	if err := w.start(); err != nil {
		return err
	}
	w.buf = w.buf[:0]
	for _, p := range batch {
		w.buf = appendRecord(w.buf, w.marker, p.sum, p.meta, p.u.Pprof)
	}
	_, err := w.file.Write(w.buf)
	if err == nil {
		err = w.sync()
	}
	if cap(w.buf) > 4*maxBatch {
		w.buf = nil
	}
	if err != nil {
		return w.giveUp(err)
	}
	now := w.db.opt.Now().UnixNano()
	w.db.mu.Lock()
	defer w.db.mu.Unlock()
	w.seg.size += int64(len(w.buf))
	w.seg.pending += len(batch)
	for _, p := range batch {
		p.seg = w.seg
		w.seg.keys = append(w.seg.keys, p.key)
		w.seg.newest = max(w.seg.newest, min(now, p.u.To.UnixNano()))
	}
	return nil
}

// sync is the file's, timed.
func (w *logWriter) sync() error {
	start := time.Now()
	err := w.file.Sync()
	w.db.mu.Lock()
	defer w.db.mu.Unlock()
	w.db.stats.Syncs++
	w.db.stats.LastSync = time.Since(start)
	return err
}

// unavailable is the error that the callers of Append get.
func (w *logWriter) unavailable(err error) error {
	if errors.Is(err, syscall.ENOSPC) {
		return fmt.Errorf("store: append: %w: the disk of %s is full; free some space, or lower the store's size: %w", ErrUnavailable, w.db.dir, err)
	}
	return fmt.Errorf("store: append: %w: %w", ErrUnavailable, err)
}

// start makes a segment if there is none to write to. Its header is synced ahead
// of the first record, so a file with more than a header had a whole one.
func (w *logWriter) start() error {
	if w.file != nil {
		return nil
	}
	db := w.db
	db.mu.Lock()
	if n := len(db.segments); n > 0 {
		w.next = max(w.next, db.segments[n-1].seq)
	}
	db.mu.Unlock()
	w.next++ // a number is never used twice, also when making the file failed
	path := filepath.Join(db.dir, segmentName(w.next))
	f, err := db.fs.Create(path)
	if err != nil {
		return w.unavailable(err)
	}
	if _, err := rand.Read(w.marker[:]); err != nil {
		return w.unavailable(errors.Join(err, f.Close()))
	}
	w.file, w.seg = f, &segment{seq: w.next, path: path, created: db.opt.Now(), head: newHead()}
	w.seg.newest = w.seg.created.UnixNano()
	_, err = f.Write(appendHeader(nil, w.next, w.marker))
	if err == nil {
		err = w.sync()
	}
	if err == nil {
		err = db.fs.SyncDir(db.dir)
	}
	if err != nil {
		return w.giveUp(err)
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	w.seg.size = logHeaderLen
	w.seg.newest = 0
	db.segments, db.active = append(db.segments, w.seg), w.seg
	return nil
}

// giveUp closes the segment after a failure, cuts what was not acknowledged off it,
// and removes it if nothing is left. The cut is a courtesy: without it the next
// start finds records that nobody was promised, or bytes that are none, and copes.
func (w *logWriter) giveUp(err error) error {
	db := w.db
	db.mu.Lock()
	size := w.seg.size
	db.active = nil
	db.close(w.seg)
	db.mu.Unlock()
	if size > logHeaderLen {
		err = errors.Join(err, w.file.Truncate(size))
	}
	err = errors.Join(err, w.file.Close())
	if size <= logHeaderLen {
		if rmErr := db.fs.Remove(w.seg.path); rmErr != nil {
			err = errors.Join(err, rmErr)
		} else {
			db.forget(w.seg)
		}
	}
	w.file, w.seg = nil, nil
	return w.unavailable(err)
}

// close says that nothing more is written to seg. Under mu.
func (db *DB) close(seg *segment) {
	seg.closed = true
	if seg.pending == 0 {
		db.wakeFlusher()
	}
}

// forget takes seg out of the list, and its profiles out of memory.
func (db *DB) forget(seg *segment) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.forgetLocked(seg)
}

func (db *DB) forgetLocked(seg *segment) {
	i := slices.Index(db.segments, seg)
	if i < 0 {
		return
	}
	db.segments = slices.Delete(slices.Clone(db.segments), i, i+1)
	db.stats.HeadBytes -= seg.bytes
	seg.head.mu.RLock()
	defer seg.head.mu.RUnlock()
	for name, t := range seg.head.tenants {
		known := db.known[name]
		for k := range t.series {
			if known[k]--; known[k] <= 0 {
				delete(known, k)
			}
		}
		if len(known) == 0 {
			delete(db.known, name)
		}
	}
}

// sealIfDue ends the active segment if size more bytes would make it too
// large, or if it is so old, or so heavy in memory, that retention could not let a part go.
func (w *logWriter) sealIfDue(size int64) {
	if w.file == nil {
		return
	}
	db := w.db
	db.mu.Lock()
	full := w.seg.size > logHeaderLen && w.seg.size+size > db.opt.SegmentBytes
	most := db.opt.Retention / 24
	if db.opt.Backend != nil {
		most = db.opt.FlushEvery
	}
	old := w.seg.size > logHeaderLen && db.opt.Now().Sub(w.seg.created) >= most
	seal := full || old || db.wantSeal
	if seal {
		db.active, db.wantSeal = nil, false
		db.close(w.seg)
	}
	db.mu.Unlock()
	if !seal {
		return
	}
	if err := w.file.Close(); err != nil {
		// All of it was synced: closing can take nothing back.
		db.opt.Logger.Warn("closing a segment failed", "path", w.seg.path, "err", err)
	}
	w.file, w.seg = nil, nil
}

func (w *logWriter) close() error {
	if w.file == nil {
		return nil
	}
	return w.file.Close()
}

// applyLoop is the applier.
func (db *DB) applyLoop() {
	defer close(db.done)
	for batch := range db.toHead {
		for _, p := range batch {
			db.apply(&p.u, p.key, p.seg)
			db.tell(changeAt(changeKey{p.u.Tenant, p.u.Labels.Get(profile.LabelService), p.u.Name}, p.u.From.UnixNano()))
			p.u.Profile, p.u.Pprof = nil, nil
			db.mu.Lock()
			db.finish(p, nil)
			db.mu.Unlock()
		}
		db.enforce()
	}
}

// apply puts a durable upload into the head. A profile that breaks the head's
// code is left out and said: it is on disk, and one profile must not stop all.
func (db *DB) apply(u *Upload, id block.ID, seg *segment) {
	defer func() {
		if r := recover(); r != nil {
			db.opt.Logger.Error("a profile cannot be put in memory; it stays in the log", "labels", u.Labels.String(), "panic", r)
			db.mu.Lock()
			defer db.mu.Unlock()
			seg.damaged = true
			db.stats.Recovered.Undecodable++
		}
	}()
	db.mu.Lock()
	dropped := seg.dropped
	db.mu.Unlock()
	if dropped {
		return
	}
	n, fresh := seg.head.add(u, id)
	db.mu.Lock()
	defer db.mu.Unlock()
	if fresh {
		if db.known[u.Tenant] == nil {
			db.known[u.Tenant] = map[string]int{}
		}
		db.known[u.Tenant][seriesKey(u.Name, u.Labels)]++
	}
	seg.bytes += n
	db.stats.HeadBytes += n
	most := db.opt.MaxHeadBytes / 8
	if db.opt.Backend != nil {
		most = db.opt.FlushBytes
	}
	if seg == db.active && seg.bytes > most {
		db.wantSeal = true
	}
}

// enforce lets the oldest segments go while a bound is passed, if there is no backend to take
// them over. The applier, or Open, calls it.
func (db *DB) enforce() {
	for db.opt.Backend == nil {
		db.mu.Lock()
		size := db.stats.HeadBytes
		var log int64
		for _, s := range db.segments {
			log += s.size
		}
		if len(db.segments) == 0 || db.segments[0] == db.active {
			db.mu.Unlock()
			return
		}
		seg := db.segments[0]
		old := db.opt.Now().UnixNano() - int64(db.opt.Retention)
		db.mu.Unlock()

		var why string
		switch {
		case seg.newest < old:
			why = "older than the retention"
		case log > db.opt.MaxBytes:
			why = "the log is larger than its bound"
		case size > db.opt.MaxHeadBytes:
			why = "memory is larger than its bound"
		default:
			return
		}
		// The file goes first: a crash between then finds neither.
		err := db.fs.Remove(seg.path)
		if err == nil {
			err = db.fs.SyncDir(db.dir)
		}
		if err != nil {
			db.opt.Logger.Warn("an old segment cannot be removed; it is tried again", "path", seg.path, "err", err)
			return
		}
		db.mu.Lock()
		seg.dropped = true
		for _, k := range seg.keys {
			if p, ok := db.seen[k]; ok && p == nil {
				delete(db.seen, k)
			}
		}
		n := len(seg.keys)
		db.stats.DroppedSegments++
		db.stats.DroppedProfiles += int64(n)
		db.mu.Unlock()
		db.forget(seg)
		db.opt.Logger.Info("old profiles removed", "why", why, "profiles", n, "bytes", seg.size, "segment", seg.path)
	}
}
