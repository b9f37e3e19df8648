package audit

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"runtime"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/quantra-l/quantra/internal/vfs"
)

// committer is what the goroutine that commits owns.
type committer struct {
	tree frontier // with all that is durable
	// inflight is the batch that is being written. One that failed is written again as it is, and never replaced: its record may be on
	// disk, and of one size there must be one tree only.
	inflight *batch
	held     []item // that were queued when writing failed, and go next
	late     []late
	oldest   time.Time // when what is queued was first seen; zero is that nothing is

	seg    vfs.File // nil is that one is to be made
	segN   uint64   // its number, or the next one's
	size   int64    // its bytes
	whole  int      // how many whole records it has
	synced bool     // the folder of segments is in its parent, for good

	lost error // what Close could not record
}

// batch is a record with who waits for it.
type batch struct {
	record
	raw   []byte
	waits []wait
	tree  frontier // with it
	told  bool     // those who waited were told that it failed
}

type wait struct {
	index Index
	done  chan result
}

// committed is a record that is durable, for the publisher.
type committed struct {
	record
	seg uint64
}

// late is a range of entries whose confirmation failed and that were written all the same.
type late struct{ first, next uint64 }

// own is an entry that the log makes itself.
type own struct {
	Time time.Time `json:"time"`
	Log  string    `json:"log"` // "dropped", "late", "key", "pruned"

	Count uint64     `json:"count,omitempty"` // dropped: how many events
	From  *time.Time `json:"from,omitempty"`  // dropped: when the first was, and the last
	To    *time.Time `json:"to,omitempty"`
	First *uint64    `json:"first,omitempty"` // late, pruned: entries from First up to, not including, Next
	Next  *uint64    `json:"next,omitempty"`
	Key   string     `json:"key,omitempty"` // key: that signs from here on, and the one before
	Was   string     `json:"was,omitempty"`
	Note  string     `json:"note,omitempty"` // for people
}

func (l *Log) own(e own) []byte {
	e.Time = l.o.Now().UTC()
	b, err := json.Marshal(e)
	if err != nil {
		panic(err) // it has nothing that JSON cannot say
	}
	return b
}

// commit runs until the log is closed.
func (l *Log) commit() {
	defer close(l.ended)
	c := &l.committer
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for closing := false; !closing; {
		n := l.q.len() + len(c.held)
		switch {
		case n == 0:
			c.oldest = time.Time{}
		case c.oldest.IsZero():
			c.oldest = time.Now()
		}
		next := time.Hour
		if n > 0 {
			next = l.o.BatchAge - time.Since(c.oldest)
			l.want.Store(int64(l.o.BatchEntries))
		} else {
			l.want.Store(1)
		}
		if c.inflight != nil || l.failing() {
			next = l.o.RetryEvery
			l.want.Store(never)
		}
		timer.Reset(max(next, 0))
		if int64(l.q.len()) < l.want.Load() || l.failing() { // what came before want was set woke nobody
			select {
			case <-l.wake:
			case <-timer.C:
			case <-l.closing:
				closing = true
			}
		}
		l.want.Store(never)
		for l.due(closing) && l.commitOne(closing) {
		}
	}
	l.finish()
}

func (l *Log) failing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fault != nil
}

// due says that there is something to write now.
func (l *Log) due(closing bool) bool {
	c := &l.committer
	n := l.q.len() + len(c.held)
	l.dropMu.Lock()
	dropped := l.drops.n > 0
	l.dropMu.Unlock()
	switch {
	case c.inflight != nil || len(c.late) > 0 || dropped || l.failing():
		return true
	case n == 0:
		return closing && l.active.Load() > 0
	}
	l.mu.Lock()
	full := l.roomFor > 0
	l.mu.Unlock()
	return closing || full || l.waiting.Load() > 0 || n >= l.o.BatchEntries ||
		!c.oldest.IsZero() && time.Since(c.oldest) >= l.o.BatchAge
}

// commitOne writes one batch, and is false if it could not.
func (l *Log) commitOne(closing bool) bool {
	c := &l.committer
	if c.inflight == nil {
		if err := l.behind(); err != nil {
			l.failed(err)
			return false
		}
		if c.inflight = l.collect(); c.inflight == nil {
			if !l.failing() {
				runtime.Gosched() // someone is about to push
				return true
			}
			// Nothing is left to try it with, so that it can be written is shown by an entry.
			c.inflight = l.makeBatch([][]byte{l.own(own{Log: "resumed", Note: "the log can be written again"})}, nil)
		}
	}
	b := c.inflight
	if err := l.write(b.raw); err != nil {
		l.failed(err)
		return false
	}
	c.inflight, c.tree = nil, b.tree
	if b.told {
		c.late = append(c.late, late{b.first, b.next()})
	}
	l.hand(b)
	for _, w := range b.waits {
		w.done <- result{w.index, nil}
	}
	c.oldest = time.Time{}
	if l.q.len()+len(c.held) > 0 {
		c.oldest = time.Now()
	}
	return true
}

// collect makes a batch of what is queued; nil is nothing.
func (l *Log) collect() *batch {
	c := &l.committer
	var entries [][]byte
	var waits []wait
	var size int
	add := func(b []byte) {
		entries = append(entries, b)
		size += len(b)
	}
	for _, r := range c.late {
		add(l.own(own{Log: "late", First: &r.first, Next: &r.next, Note: "these were written after a failure; whoever waited for them was told that they are not confirmed"}))
	}
	c.late = nil
	l.dropMu.Lock()
	d := l.drops
	l.drops = drops{}
	l.dropMu.Unlock()
	if d.n > 0 {
		from, to := d.from.UTC(), d.to.UTC()
		add(l.own(own{Log: "dropped", Count: d.n, From: &from, To: &to, Note: "these events were not recorded: the queue was full"}))
	}
	base := Index(c.tree.size)
	for len(entries) < maxBatchEntries && size < maxBatchBytes {
		it, ok := l.take()
		if !ok {
			break
		}
		if it.done != nil {
			waits = append(waits, wait{base + Index(len(entries)), it.done})
		}
		add(it.entry)
	}
	l.mu.Lock()
	if l.roomFor > 0 {
		close(l.room)
		l.room = make(chan struct{})
	}
	l.mu.Unlock()
	if len(entries) == 0 {
		return nil
	}
	return l.makeBatch(entries, waits)
}

// take is the next item, out of the queue's count.
func (l *Log) take() (item, bool) {
	c := &l.committer
	var it item
	if len(c.held) > 0 {
		it, c.held = c.held[0], c.held[1:]
	} else {
		var ok bool
		if it, ok = l.q.pop(); !ok {
			return it, false
		}
		if it.done != nil {
			l.waiting.Add(-1)
		}
	}
	l.bytes.Add(-int64(len(it.entry)))
	return it, true
}

// makeBatch adds entries to the tree and signs it.
func (l *Log) makeBatch(entries [][]byte, waits []wait) *batch {
	tree := frontier{l.committer.tree.size, append([]tlog.Hash(nil), l.committer.tree.hashes...)}
	b := &batch{record: record{first: tree.size, count: len(entries)}, waits: waits}
	size := 0
	for _, e := range entries {
		size += 2 + len(e)
	}
	b.entries = make([]byte, 0, size)
	for _, e := range entries {
		tree.add(tlog.RecordHash(e))
		b.entries = appendEntry(b.entries, e)
	}
	var err error
	if b.note, err = (Checkpoint{l.origin, tree.size, tree.root()}).sign(l.signer); err != nil {
		panic(err) // the key and the name were checked when the log was opened
	}
	b.tree, b.raw = tree, b.encode()
	return b
}

// write appends a record to the log, durably. After an error the file is not used again: what the kernel has of it is not known. What
// is there of the record is passed over, as the next file begins with it.
func (l *Log) write(raw []byte) error {
	c := &l.committer
	if c.seg == nil {
		if err := l.begin(); err != nil {
			return err
		}
	}
	_, err := c.seg.Write(raw)
	if err == nil {
		err = c.seg.Sync()
	}
	if err != nil {
		l.endSegment()
		return err
	}
	c.size += int64(len(raw))
	c.whole++
	return nil
}

// begin makes the next segment.
func (l *Log) begin() error {
	c := &l.committer
	name := segmentPath(l.o.Dir, c.segN)
	if !c.synced {
		if err := errors.Join(l.fs.MkdirAll(filepath.Dir(name)), l.fs.SyncDir(l.o.Dir)); err != nil {
			return err
		}
		c.synced = true
	}
	f, err := l.fs.Create(name)
	if errors.Is(err, fs.ErrExist) { // an attempt that failed could not remove it
		if err = l.fs.Remove(name); err == nil {
			f, err = l.fs.Create(name)
		}
	}
	if err != nil {
		return err
	}
	if err := l.fs.SyncDir(filepath.Dir(name)); err != nil {
		return errors.Join(err, f.Close(), l.fs.Remove(name))
	}
	c.seg, c.size, c.whole = f, 0, 0
	return nil
}

// endSegment closes the current file. One without a whole record is removed: attempts on a full disk must not leave files.
func (l *Log) endSegment() {
	c := &l.committer
	if c.seg == nil {
		return
	}
	err := c.seg.Close()
	if c.whole == 0 {
		err = errors.Join(err, l.fs.Remove(segmentPath(l.o.Dir, c.segN)))
	} else {
		c.segN++
	}
	c.seg = nil
	if err != nil {
		l.o.Logger.Warn("a file of the audit log was not closed cleanly", "err", err)
	}
}

// hand gives a committed batch to the publisher, and ends what was a fault.
func (l *Log) hand(b *batch) {
	c := &l.committer
	l.mu.Lock()
	was := l.fault
	l.fault = nil
	close(l.tried)
	l.tried = make(chan struct{})
	l.pending = append(l.pending, committed{b.record, c.segN})
	l.pendingN += int64(len(b.entries))
	l.stats.Size, l.stats.Commits = c.tree.size, l.stats.Commits+1
	l.mu.Unlock()
	if was != nil {
		l.o.Logger.Info("the audit log can be written again", "dir", l.o.Dir)
	}
	if c.size >= walSegment {
		l.endSegment()
	}
	signal(l.more)
}

// behind waits while too much is committed that is in no tile, or says why tiles cannot be written.
func (l *Log) behind() error {
	for {
		l.mu.Lock()
		n, fault, taken := l.pendingN, l.publisher.fault, l.taken
		l.mu.Unlock()
		switch {
		case n <= l.o.PendingBytes:
			return nil
		case fault != nil:
			return fmt.Errorf("%d bytes wait for tiles, which cannot be written: %w", n, fault)
		}
		<-taken
	}
}

// failed tells those who wait that nothing can be written, and keeps what nobody waits for.
func (l *Log) failed(err error) {
	c := &l.committer
	l.mu.Lock()
	was := l.fault
	l.fault, l.failedAt = err, time.Now()
	l.stats.Failures++
	close(l.tried)
	close(l.room)
	l.tried, l.room = make(chan struct{}), make(chan struct{})
	l.mu.Unlock()
	if was == nil {
		l.o.Logger.Error("THE AUDIT LOG CANNOT BE WRITTEN: what must be recorded is refused until it can", "dir", l.o.Dir, "err", err)
	}
	told := result{Unknown, fmt.Errorf("audit: %s: %w: %w", l.o.Dir, ErrUnavailable, err)}
	if b := c.inflight; b != nil {
		for _, w := range b.waits {
			w.done <- told
			b.told = true
		}
		b.waits = nil
	}
	for range l.q.len() {
		it, ok := l.q.pop()
		if !ok {
			break
		}
		switch {
		case it.done != nil:
			l.waiting.Add(-1)
			it.done <- told
		case len(c.held) < l.o.QueueEntries:
			c.held = append(c.held, it)
			continue
		default:
			l.drop()
		}
		l.bytes.Add(-int64(len(it.entry)))
	}
}

// finish writes what is left when the log is closed, or says how much could not be.
func (l *Log) finish() {
	c := &l.committer
	if err := l.faultNow(); err != nil {
		for l.active.Load() > 0 {
			runtime.Gosched()
		}
		l.failed(err) // those who came meanwhile
		n := uint64(len(c.held)) + l.drops.n
		if c.inflight != nil {
			n += uint64(c.inflight.count)
		}
		c.lost = fmt.Errorf("audit: %s: %w: %d entries are not recorded: %w", l.o.Dir, ErrUnavailable, n, err)
	}
	if c.seg != nil {
		l.endSegment()
	}
}

func (l *Log) faultNow() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fault
}
