package direct

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/seal"
)

const (
	lockName    = "LOCK"
	segmentTemp = "log.tmp"
	retryEvery  = time.Second // what nobody waits for is tried again after a write that failed
)

func segmentName(n uint64) string { return fmt.Sprintf("log-%08d", n) }

// openLedger reads what is in a folder and starts the goroutine that writes to it.
func openLedger(f vfs.FS, dir string, self peer.ID, box *seal.Box, o limits, now func() time.Time) (l *ledger, err error) {
	l = &ledger{fs: f, dir: dir, self: self, box: box, o: o, now: now, gate: &gate{max: opBytes}, wake: make(chan struct{}, 1),
		done: make(chan struct{}), changed: make(chan struct{}), channels: map[peer.ID]*channel{}, windows: map[windowKey]*window{},
		senders: map[peer.ID][]uint64{}, lists: map[GroupID]*list{}, bundles: map[peer.ID]*bundle{}, next: 1}
	lock, err := f.Lock(filepath.Join(dir, lockName))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	l.lock = lock
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	if err := l.recover(); err != nil {
		return nil, err
	}
	go l.run()
	return l, nil
}

// recover reads the segments in order. Only the end of the last one may be cut: what is behind its last whole frame was never
// acknowledged.
func (l *ledger) recover() error {
	numbers, err := l.find()
	if err != nil {
		return err
	}
	var raw, next []byte
	for i, n := range numbers {
		if raw = next; i == 0 {
			if raw, err = l.load(n); err != nil {
				return err
			}
		}
		limit, last := uint64(len(raw)), i == len(numbers)-1
		if !last {
			if next, err = l.load(n + 1); err != nil {
				return err
			}
			if limit, err = decodeSegmentHead(next, n+1); err != nil {
				return fmt.Errorf("%s: %w", l.path(n+1), err)
			}
			if limit > uint64(len(raw)) {
				return fmt.Errorf("%w: %s has %d bytes, of %d that were acknowledged", ErrCorrupt, l.path(n), len(raw), limit)
			}
		}
		whole, err := l.replay(n, raw[:limit], last)
		if err != nil {
			return fmt.Errorf("%s: %w", l.path(n), err)
		}
		if last {
			if err := l.resume(n, raw[:whole]); err != nil {
				return err
			}
		}
	}
	for _, ch := range l.channels {
		ch.foreign = nil // of a renewal that did not come to its end
		ch.found = ch.next
	}
	return nil
}

func (l *ledger) path(n uint64) string { return filepath.Join(l.dir, segmentName(n)) }

// maxSegment is what a segment may have: it is read as a whole.
func (l *ledger) load(n uint64) ([]byte, error) {
	return readWhole(l.fs, l.path(n), 1<<30)
}

// find is the numbers of the segments, without gaps. What a crash left of one that was being made is removed.
func (l *ledger) find() (numbers []uint64, err error) {
	names, err := l.fs.List(l.dir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if name == segmentTemp {
			if err := l.fs.Remove(filepath.Join(l.dir, name)); err != nil {
				return nil, err
			}
		}
		if len(name) < 12 || name[:4] != "log-" {
			continue
		}
		n, err := strconv.ParseUint(name[4:], 10, 62)
		if err != nil || segmentName(n) != name || n == 0 {
			return nil, fmt.Errorf("%w: %s is no file of this log", ErrCorrupt, filepath.Join(l.dir, name))
		}
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	for i, n := range numbers {
		if n != numbers[0]+uint64(i) {
			return nil, fmt.Errorf("%w: %s is missing", ErrCorrupt, l.path(numbers[0]+uint64(i)))
		}
	}
	return numbers, nil
}

// replay applies the frames of a segment, and is how many bytes are whole frames.
func (l *ledger) replay(n uint64, raw []byte, last bool) (int64, error) {
	if _, err := decodeSegmentHead(raw, n); err != nil {
		return 0, err
	}
	seg := &segment{number: n, peers: map[peer.ID]int{}, groups: map[GroupID]int{}}
	l.segs = append(l.segs, seg)
	at, ended := int64(segmentHead), false
	for at < int64(len(raw)) {
		size := wholeFrame(raw[at:])
		if size == 0 {
			if !last || wholeFollows(raw[at:]) {
				return 0, fmt.Errorf("%w: the frame at byte %d is damaged", ErrCorrupt, at)
			}
			break
		}
		plain, err := l.box.Open(raw[at+logFrameHead:at+int64(size)], frameContext(n, at))
		if err != nil {
			return 0, fmt.Errorf("%w: the frame at byte %d: %w", ErrCorrupt, at, err)
		}
		if !ended {
			if ended, err = endsCheckpoint(plain); err != nil {
				return 0, err
			}
			l.base = at + int64(size)
		}
		if err := l.apply(plain, seg); err != nil {
			return 0, fmt.Errorf("the frame at byte %d: %w", at, err)
		}
		at += int64(size)
	}
	if !ended {
		return 0, fmt.Errorf("%w: it has no whole checkpoint", ErrCorrupt)
	}
	seg.size = at
	return at, nil
}

func endsCheckpoint(plain []byte) (ended bool, err error) {
	err = decodeRecords(plain, func(r *rec) error { ended = ended || r.typ == recEnd; return nil })
	return ended, err
}

// wholeFollows says that behind bytes that are no frame there is one: then they are damage, not the end of a write that was cut.
func wholeFollows(b []byte) bool {
	for i := 1; i+logFrameHead <= len(b); i++ {
		if b[i] == frameMagic[0] && wholeFrame(b[i:]) > 0 {
			return true
		}
	}
	return false
}

// resume goes on writing the last segment, in a file that is written anew: what is read may be on no disk, as a process may have died
// before its sync, or gone on after a sync that failed, and a sync now would not tell.
func (l *ledger) resume(n uint64, whole []byte) error {
	if err := replaceFile(l.fs, l.dir, segmentTemp, segmentName(n), whole); err != nil {
		return err
	}
	f, err := l.fs.Append(l.path(n))
	if err != nil {
		return err
	}
	l.file, l.good = f, int64(len(whole))
	return nil
}

func (l *ledger) run() {
	defer close(l.done)
	tick := time.NewTicker(retryEvery)
	defer tick.Stop()
	for {
		select {
		case <-l.wake:
		case <-tick.C:
		}
		l.mu.Lock()
		queue, closed := l.queue, l.closed
		l.queue = nil
		l.mu.Unlock()
		if again := l.process(queue); !closed && len(again) > 0 {
			l.mu.Lock()
			l.queue = append(again, l.queue...)
			l.mu.Unlock()
		}
		if closed {
			return
		}
	}
}

// process writes operations in as few frames as they fit in, and is those that are to be tried again.
func (l *ledger) process(queue []*op) (again []*op) {
	b := newCommitBatch(l.plain)
	flush := func() {
		var err error
		if len(b.plain) > 0 {
			err = l.write(b.plain)
		}
		for _, o := range b.ops {
			if o.done != nil {
				o.done(err)
			}
			if err != nil && o.again {
				again = append(again, o)
			}
		}
		l.plain = b.plain // what is kept of it was copied
		b = newCommitBatch(l.plain)
	}
	for _, o := range queue {
		if o.alone != nil {
			flush()
			o.done(o.alone())
			continue
		}
		if len(b.plain)+o.size > maxLogPlain {
			flush()
		}
		l.mu.Lock()
		n := len(b.plain)
		err := o.prepare(b)
		l.mu.Unlock()
		if err != nil {
			b.plain = b.plain[:n]
			if o.done != nil {
				o.done(err)
			}
			continue
		}
		b.ops = append(b.ops, o)
	}
	flush()
	if l.file != nil && l.good-l.base > l.o.segment {
		_ = l.retain() // what failed is in fault, and the next write tries again
	}
	return again
}

func newCommitBatch(room []byte) *commitBatch {
	return &commitBatch{plain: room[:0], next: map[peer.ID]uint64{}, epochs: map[peer.ID]uint64{}, counts: map[peer.ID]int{}, bytes: map[peer.ID]int64{},
		seen: map[windowKey]map[uint64]bool{}}
}

// write makes a frame durable and applies it.
func (l *ledger) write(plain []byte) error {
	err := l.append(plain)
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		err = l.apply(plain, l.segs[len(l.segs)-1])
	}
	if err != nil {
		err = fmt.Errorf("%w: messages cannot be kept in %s: %w", ErrUnavailable, l.dir, err)
	}
	l.fault = err
	return err
}

func (l *ledger) append(plain []byte) error {
	if l.file == nil {
		if err := l.begin(); err != nil {
			return err
		}
	}
	l.mu.Lock()
	seg := l.segs[len(l.segs)-1]
	l.mu.Unlock()
	frame, err := sealFrame(l.box, plain, seg.number, l.good)
	if err != nil {
		return err
	}
	if _, err = l.file.Write(frame); err == nil {
		err = l.file.Sync()
	}
	if err != nil {
		// What is on disk of it is not known, and a later sync would not tell: the next write begins another segment.
		err = errors.Join(err, l.file.Close())
		l.file = nil
		return err
	}
	l.good += int64(len(frame))
	l.mu.Lock()
	seg.size = l.good
	l.mu.Unlock()
	return nil
}

// begin makes the next segment: its head, which says how much of the one before counts, and a checkpoint. It appears under its name when
// all of that is on disk.
func (l *ledger) begin() error {
	l.mu.Lock()
	number := uint64(1)
	if len(l.segs) > 0 {
		number = l.segs[len(l.segs)-1].number + 1
	}
	frames := l.checkpoint()
	l.mu.Unlock()
	b := appendSegmentHead(nil, number, uint64(l.good))
	for _, plain := range frames {
		frame, err := sealFrame(l.box, plain, number, int64(len(b)))
		if err != nil {
			return err
		}
		b = append(b, frame...)
	}
	if l.file != nil {
		err := l.file.Close()
		l.file = nil
		if err != nil {
			return err
		}
	}
	if err := replaceFile(l.fs, l.dir, segmentTemp, segmentName(number), b); err != nil {
		return err
	}
	f, err := l.fs.Append(l.path(number))
	if err != nil {
		return err
	}
	l.file, l.good, l.base = f, int64(len(b)), int64(len(b))
	l.mu.Lock()
	l.segs = append(l.segs, &segment{number: number, size: l.good, peers: map[peer.ID]int{}, groups: map[GroupID]int{}})
	l.mu.Unlock()
	return nil
}

// retain begins another segment where the newest is large or old, and removes the oldest ones: those without messages, those beyond the
// bounds of history. What is pending in one is written again first; one with messages that were not shown stays.
func (l *ledger) retain() error {
	now := l.now()
	l.mu.Lock()
	begun := time.Time{}
	if n := len(l.segs); n > 0 {
		begun = l.segs[n-1].begun
	}
	l.mu.Unlock()
	if l.file != nil && (l.good-l.base > l.o.segment || !begun.IsZero() && now.Sub(begun) > l.o.age/8) {
		if err := l.begin(); err != nil {
			l.failed(err)
			return err
		}
	}
	for {
		seg, carried := l.excess(now)
		if seg == nil {
			return nil
		}
		for _, plain := range carried {
			if err := l.write(plain); err != nil {
				return err
			}
		}
		if err := l.fs.Remove(l.path(seg.number)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := l.fs.SyncDir(l.dir); err != nil {
			return err
		}
		l.mu.Lock()
		l.segs = l.segs[1:]
		l.mu.Unlock()
	}
}

func (l *ledger) failed(err error) {
	l.mu.Lock()
	l.fault = fmt.Errorf("%w: messages cannot be kept in %s: %w", ErrUnavailable, l.dir, err)
	l.mu.Unlock()
}

// excess is the oldest segment if it can go, and what is to be written before it does.
func (l *ledger) excess(now time.Time) (*segment, [][]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.segs) < 2 {
		return nil, nil
	}
	seg, total := l.segs[0], int64(0)
	for _, s := range l.segs {
		total += s.size
	}
	if len(seg.peers) > 0 && total <= l.o.history && now.Sub(seg.newest) < l.o.age {
		return nil, nil
	}
	if len(l.inbox) > 0 && l.inbox[0].segment <= seg.number {
		return nil, nil
	}
	var frames [][]byte
	var b []byte
	for to, ch := range l.channels {
		for _, p := range ch.pending {
			if p.segment != seg.number {
				continue
			}
			if len(b)+len(p.body)+recordOverhead > maxLogPlain {
				frames, b = append(frames, b), nil
			}
			b = appendRecord(b, &rec{typ: recSent, peer: to, epoch: p.epoch, seq: p.seq, at: p.at, kind: p.kind, flags: flagCarried, body: p.body})
		}
	}
	if b != nil {
		frames = append(frames, b)
	}
	return seg, frames
}

// prune is retain, from outside of the goroutine that writes.
func (l *ledger) prune(ctx context.Context) error {
	return l.commit(ctx, &op{alone: l.retain})
}
