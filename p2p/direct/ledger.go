package direct

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/internal/vfs"
	"github.com/quantra-l/quantra/seal"
)

// Bounds of what a ledger holds in memory.
const (
	maxChannels = 1 << 14 // peers that were written to
	maxWindows  = 1 << 14 // senders' epochs
	maxEpochs   = 4       // of one sender; a sender has another only when its disk was set back
	maxBundles  = 1 << 12
	// maxPending is how many messages may wait for one peer. It is below windowSize, so that what is pending always fits the recipient's window.
	maxPending = 1 << 14
	opBytes    = 4 << 20 // of what waits to be written
)

// limits are those of Options, in bytes and time.
type limits struct {
	outbox, perPeer, inbox, history int64
	age                             time.Duration
	segment                         int64 // a new segment is begun after so many
}

// ledger is what a node must not forget: messages that are not acknowledged yet, which it has received, what its reader has been shown,
// groups, and others' keys. One goroutine writes for all who wait, one sync for all of them. State is changed only by records that are on
// disk, by the same function that reads them at a start: so a restart finds what was.
type ledger struct {
	fs   vfs.FS
	dir  string
	self peer.ID
	box  *seal.Box
	o    limits
	now  func() time.Time
	lock io.Closer
	gate *gate

	mu     sync.Mutex // guards all below, up to the writer's
	queue  []*op
	wake   chan struct{}
	closed bool
	done   chan struct{}
	fault  error // of the last write; nil when it went well

	channels map[peer.ID]*channel
	windows  map[windowKey]*window
	senders  map[peer.ID][]uint64 // the epochs that there are windows of
	lists    map[GroupID]*list
	bundles  map[peer.ID]*bundle
	outBytes int64
	inbox    []inboxEntry // received and not shown, in order
	inBytes  int64
	next     uint64 // index of the next that is received; the first is 1
	shown    uint64
	segs     []*segment // oldest first; the last is written to
	changed  chan struct{}

	// Of the goroutine that writes.
	file vfs.File // nil: a new segment is begun with the next write
	good int64    // bytes of the newest segment that are acknowledged
	base int64    // of them, what its checkpoint has
	// plain is room for a batch.
	plain []byte
}

// channel is messages to one peer.
type channel struct {
	epoch   uint64
	next    uint64
	found   uint64     // next, as the disk had it at the start; 0 once the recipient has been asked, or where the channel is newer
	pending []*pending // by sequence
	foreign []*pending // of an epoch that a renewal has begun and not ended
	bytes   int64
}

// pending is a message that its recipient has not acknowledged. It is not changed once it is there.
type pending struct {
	epoch, seq uint64
	at         time.Time
	kind       byte
	body       []byte
	segment    uint64 // where it is on disk
}

func (p *pending) size() int64 { return int64(len(p.body)) + recordOverhead }

type windowKey struct {
	peer  peer.ID
	epoch uint64
}

// inboxEntry is a message that was not shown yet.
type inboxEntry struct {
	message Message
	segment uint64
}

// segment is a file of the log.
type segment struct {
	number uint64
	size   int64
	begun  time.Time // of its oldest message; zero is none
	newest time.Time
	peers  map[peer.ID]int // messages of history
	groups map[GroupID]int
}

// op is something to write.
type op struct {
	size    int // of its records, at most
	prepare func(b *commitBatch) error
	alone   func() error // in place of prepare: something that writes frames of its own
	done    func(error)
	again   bool // nobody waits, and it is tried again until it is written
}

// commitBatch is records on their way to the disk, and what they will change: later ones of the batch must know.
type commitBatch struct {
	plain  []byte
	ops    []*op
	next   map[peer.ID]uint64
	epochs map[peer.ID]uint64
	counts map[peer.ID]int
	bytes  map[peer.ID]int64
	out    int64
	seen   map[windowKey]map[uint64]bool
	index  uint64
	in     int64
	shown  uint64
}

// outgoing is a message to be sent.
type outgoing struct {
	to   peer.ID
	kind byte
	body []byte
}

// send makes messages durable, all or none, and is their epochs and sequences. The bodies of messages to several are one and the same.
func (l *ledger) send(ctx context.Context, out []outgoing, at time.Time) ([]pending, error) {
	if len(out) == 0 {
		return nil, nil
	}
	size := len(out)*recordOverhead + len(out[0].body)
	made := make([]pending, len(out))
	err := l.commit(ctx, &op{size: size, prepare: func(b *commitBatch) error {
		for i, m := range out {
			if err := l.room(b, m.to, int64(len(m.body))+recordOverhead); err != nil {
				return err
			}
			for _, other := range out[:i] {
				if other.to == m.to {
					return fmt.Errorf("%s is named twice", m.to)
				}
			}
		}
		for i, m := range out {
			epoch, seq := l.number(b, m.to)
			made[i] = pending{epoch: epoch, seq: seq, at: at, kind: m.kind}
			r := rec{typ: recSent, peer: m.to, epoch: epoch, seq: seq, at: at, kind: m.kind, body: m.body}
			if i > 0 {
				r.flags = flagSame | flagCopy
			}
			b.plain = appendRecord(b.plain, &r)
			n := int64(len(m.body)) + recordOverhead
			b.next[m.to], b.epochs[m.to] = seq+1, epoch
			b.counts[m.to]++
			b.bytes[m.to] += n
			b.out += n
		}
		return nil
	}})
	return made, err
}

// room says whether a message of n bytes may be added.
func (l *ledger) room(b *commitBatch, to peer.ID, n int64) error {
	ch := l.channels[to]
	count, used := b.counts[to], b.bytes[to]
	if ch != nil {
		count, used = count+len(ch.pending), used+ch.bytes
	} else if len(l.channels)+len(b.next) >= maxChannels {
		return fmt.Errorf("%w: %d peers have been written to, which is the most", ErrUnavailable, maxChannels)
	}
	switch {
	case count >= maxPending:
		return fmt.Errorf("%w: %d messages wait for %s, which is the most", ErrUnavailable, count, to)
	case used+n > l.o.perPeer:
		return fmt.Errorf("%w: %d bytes of messages wait for %s, of at most %d", ErrUnavailable, used, to, l.o.perPeer)
	case l.outBytes+b.out+n > l.o.outbox:
		return fmt.Errorf("%w: %d bytes of messages wait for peers, of at most %d", ErrUnavailable, l.outBytes+b.out, l.o.outbox)
	}
	return nil
}

// number is the epoch and sequence of the next message to a peer.
func (l *ledger) number(b *commitBatch, to peer.ID) (epoch, seq uint64) {
	if seq, ok := b.next[to]; ok {
		return b.epochs[to], seq
	}
	if ch := l.channels[to]; ch != nil {
		return ch.epoch, ch.next
	}
	return newEpoch(), 1
}

// newEpoch is a number that no channel has had before. It is no secret.
func newEpoch() uint64 { return rand.Uint64() | 1 }

// finished says that a message is done, how it came to that. It is written with what comes next; if that is lost the message is sent
// again and dropped as a duplicate.
func (l *ledger) finished(to peer.ID, epoch, seq uint64, how byte) {
	l.enqueue(&op{size: recordOverhead, again: true, prepare: func(b *commitBatch) error {
		if ch := l.channels[to]; ch == nil || ch.epoch != epoch || ch.find(seq) == nil {
			return nil
		}
		b.plain = appendRecord(b.plain, &rec{typ: recDone, peer: to, epoch: epoch, seq: seq, how: how})
		return nil
	}})
}

func (c *channel) find(seq uint64) *pending {
	i, ok := slices.BinarySearchFunc(c.pending, seq, func(p *pending, seq uint64) int { return cmp.Compare(p.seq, seq) })
	if !ok {
		return nil
	}
	return c.pending[i]
}

// receive makes a message durable, unless it has been received before, and calls done when it is on disk either way. raw is a list that
// came with it and is newer than ours, nil where there is none. What is called must not wait.
func (l *ledger) receive(ctx context.Context, from peer.ID, e *envelope, raw []byte, done func(error)) error {
	body := bytes.Clone(e.body)
	m := *e
	o := &op{size: len(body) + len(raw) + 2*recordOverhead, done: done, prepare: func(b *commitBatch) error {
		k := windowKey{from, m.epoch}
		w := l.windows[k]
		switch {
		case w != nil && w.has(m.seq) || b.seen[k][m.seq]:
			return nil
		case w != nil && !w.fits(m.seq, m.floor) || w == nil && m.seq-m.floor >= windowSize-64:
			return fmt.Errorf("%w: message %d of %s is too far ahead of %d", ErrUnavailable, m.seq, from, m.floor)
		case l.inBytes+b.in+int64(len(body)) > l.o.inbox:
			return fmt.Errorf("%w: %d bytes of messages wait to be delivered, of at most %d", ErrUnavailable, l.inBytes+b.in, l.o.inbox)
		}
		if b.seen[k] == nil {
			b.seen[k] = map[uint64]bool{}
		}
		b.seen[k][m.seq] = true
		if m.kind != kindList {
			b.in += int64(len(body)) + recordOverhead
		}
		if raw != nil {
			b.plain = appendRecord(b.plain, &rec{typ: recList, body: raw})
		}
		b.plain = appendRecord(b.plain, &rec{typ: recReceived, index: l.next + b.index, peer: from, epoch: m.epoch, seq: m.seq, floor: m.floor,
			at: m.at, got: l.now(), kind: m.kind, body: body})
		b.index++
		return nil
	}}
	if err := l.gate.enter(ctx, o.size); err != nil {
		return err
	}
	o.done = func(err error) { l.gate.leave(o.size); done(err) }
	if err := l.enqueue(o); err != nil {
		l.gate.leave(o.size)
		return err
	}
	return nil
}

// show says that the reader has all that was received up to an index. It is written with what comes next.
func (l *ledger) show(index uint64) {
	l.enqueue(&op{size: recordOverhead, again: true, prepare: func(b *commitBatch) error {
		if index > max(l.shown, b.shown) {
			b.plain = appendRecord(b.plain, &rec{typ: recShown, index: index})
			b.shown = index
		}
		return nil
	}})
}

// note keeps a list or a bundle.
func (l *ledger) note(ctx context.Context, typ byte, raw []byte) error {
	return l.commit(ctx, &op{size: len(raw) + recordOverhead, prepare: func(b *commitBatch) error {
		b.plain = appendRecord(b.plain, &rec{typ: typ, body: raw})
		return nil
	}})
}

// noteBundle keeps a bundle, without waiting, where it is newer than what is known.
func (l *ledger) noteBundle(b *bundle) {
	l.mu.Lock()
	was := l.bundles[idOf(b.key)]
	l.mu.Unlock()
	if was == nil || b.made.After(was.made) {
		l.enqueue(&op{size: len(b.raw) + recordOverhead, prepare: func(batch *commitBatch) error {
			batch.plain = appendRecord(batch.plain, &rec{typ: recBundle, body: b.raw})
			return nil
		}})
	}
}

// bundle is the newest keys of a peer that are known, nil where none are.
func (l *ledger) bundle(p peer.ID) *bundle {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bundles[p]
}

// waiting is the first message of a channel that is pending behind a sequence, and the floor that goes with it; nil where there is none.
// A message too far ahead of the floor waits.
func (l *ledger) waiting(to peer.ID, epoch, after uint64) (p *pending, floor uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ch := l.channels[to]
	if ch == nil || len(ch.pending) == 0 {
		return nil, 0
	}
	if ch.epoch != epoch {
		after = 0
	}
	i, _ := slices.BinarySearchFunc(ch.pending, after+1, func(p *pending, seq uint64) int { return cmp.Compare(p.seq, seq) })
	floor = ch.pending[0].seq
	if i == len(ch.pending) || ch.pending[i].seq >= floor+windowSize-64 {
		return nil, floor
	}
	return ch.pending[i], floor
}

// count is how many messages wait for a peer.
func (l *ledger) count(to peer.ID) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ch := l.channels[to]; ch != nil {
		return len(ch.pending)
	}
	return 0
}

// unsure is a channel's epoch and the first sequence that no recipient can have yet, if our disk is what it was. It is 0 where that
// has been asked since the start.
func (l *ledger) unsure(to peer.ID) (epoch, found uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ch := l.channels[to]; ch != nil {
		return ch.epoch, ch.found
	}
	return 0, 0
}

// sure takes the highest sequence that a recipient has. If our disk was set back to an earlier state the channel goes on in another epoch,
// and was is true.
func (l *ledger) sure(ctx context.Context, to peer.ID, top uint64) (was bool, err error) {
	_, found := l.unsure(to)
	if was = found > 0 && top >= found; was {
		if err := l.renew(ctx, to); err != nil {
			return true, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if ch := l.channels[to]; ch != nil {
		ch.found = 0
	}
	return was, nil
}

// top is the highest sequence of a sender's epoch that was received.
func (l *ledger) top(from peer.ID, epoch uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if w := l.windows[windowKey{from, epoch}]; w != nil {
		return w.top()
	}
	return 0
}

// recipients are the peers that messages wait for.
func (l *ledger) recipients() (out []peer.ID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for p, ch := range l.channels {
		if len(ch.pending) > 0 {
			out = append(out, p)
		}
	}
	return out
}

// after is the first message behind an index that was not shown, or else a channel that is closed when there may be another.
func (l *ledger) after(index uint64) (m Message, ok bool, changed <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, _ := slices.BinarySearchFunc(l.inbox, index+1, func(e inboxEntry, index uint64) int { return cmp.Compare(e.message.Index, index) })
	if i == len(l.inbox) {
		return m, false, l.changed
	}
	return l.inbox[i].message, true, nil
}

// renew goes on with a peer in a new epoch, with all that is pending.
func (l *ledger) renew(ctx context.Context, to peer.ID) error {
	return l.commit(ctx, &op{alone: func() error {
		l.mu.Lock()
		ch := l.channels[to]
		var all []*pending
		if ch != nil {
			all = slices.Clone(ch.pending)
		}
		l.mu.Unlock()
		if ch == nil {
			return nil
		}
		epoch := newEpoch()
		var plain []byte
		for i, p := range all {
			r := rec{typ: recSent, peer: to, epoch: epoch, seq: uint64(i + 1), at: p.at, kind: p.kind, flags: flagCarried, body: p.body}
			if len(plain)+len(p.body)+recordOverhead > maxLogPlain {
				if err := l.write(plain); err != nil {
					return err
				}
				plain = nil
			}
			plain = appendRecord(plain, &r)
		}
		return l.write(appendRecord(plain, &rec{typ: recRenew, peer: to, epoch: epoch}))
	}})
}

// expire gives up messages that wait since before a time, and is them.
func (l *ledger) expire(before time.Time) (n int) {
	type one struct {
		to         peer.ID
		epoch, seq uint64
	}
	var gone []one
	l.mu.Lock()
	for to, ch := range l.channels {
		for _, p := range ch.pending {
			if p.at.Before(before) {
				gone = append(gone, one{to, p.epoch, p.seq})
			}
		}
	}
	l.mu.Unlock()
	for _, g := range gone {
		l.finished(g.to, g.epoch, g.seq, doneExpired)
	}
	return len(gone)
}

// apply changes the state by the records of a frame that is on disk.
func (l *ledger) apply(plain []byte, seg *segment) error {
	err := decodeRecords(plain, func(r *rec) error {
		switch r.typ {
		case recSent:
			l.applySent(r, seg)
		case recDone:
			if ch := l.channels[r.peer]; ch != nil && ch.epoch == r.epoch {
				l.drop(ch, r.seq)
			}
			if r.how != doneAcked {
				seg.peers[r.peer]++ // history looks here for what was given up
			}
		case recReceived:
			return l.applyReceived(r, seg)
		case recShown:
			l.applyShown(r.index)
		case recRenew:
			l.applyRenew(l.channel(r.peer, r.epoch), r.epoch, 0)
		case recList:
			g, err := decodeList(r.body)
			if err != nil {
				return err
			}
			if was := l.lists[g.ID]; was == nil || was.Version < g.Version {
				l.lists[g.ID] = g
			}
		case recBundle:
			b, err := decodeBundle(r.body)
			if err != nil {
				return err
			}
			l.applyBundle(b)
		case recChannel:
			ch := l.channel(r.peer, r.epoch)
			if ch.epoch != r.epoch {
				l.applyRenew(ch, r.epoch, r.seq)
			}
			ch.next = max(ch.next, r.seq)
		case recWindow:
			w := l.window(windowKey{r.peer, r.epoch})
			*w = window{low: r.low, used: r.used}
			for s := (scan{b: r.body}); len(s.b) > 0; {
				w.bits = append(w.bits, s.u64())
			}
		case recCursor:
			l.next = max(l.next, r.nextIdx)
			l.applyShown(r.index)
		}
		return nil
	})
	close(l.changed)
	l.changed = make(chan struct{})
	return err
}

// channel is the one to a peer, made in this epoch if there is none.
func (l *ledger) channel(to peer.ID, epoch uint64) *channel {
	ch := l.channels[to]
	if ch == nil {
		ch = &channel{epoch: epoch, next: 1}
		l.channels[to] = ch
	}
	return ch
}

func (l *ledger) applySent(r *rec, seg *segment) {
	ch := l.channel(r.peer, r.epoch)
	p := &pending{epoch: r.epoch, seq: r.seq, at: r.at, kind: r.kind, body: bytes.Clone(r.body), segment: seg.number}
	if r.flags&flagCarried == 0 {
		seg.count(r)
	}
	if r.epoch != ch.epoch {
		ch.foreign = append(ch.foreign, p)
		return
	}
	ch.next = max(ch.next, r.seq+1)
	i, found := slices.BinarySearchFunc(ch.pending, r.seq, func(p *pending, seq uint64) int { return cmp.Compare(p.seq, seq) })
	if found {
		ch.pending[i] = p
		return
	}
	ch.pending = slices.Insert(ch.pending, i, p)
	ch.bytes += p.size()
	l.outBytes += p.size()
}

func (l *ledger) drop(ch *channel, seq uint64) {
	i, found := slices.BinarySearchFunc(ch.pending, seq, func(p *pending, seq uint64) int { return cmp.Compare(p.seq, seq) })
	if !found {
		return
	}
	n := ch.pending[i].size()
	ch.bytes -= n
	l.outBytes -= n
	if i == 0 { // as mostly: nothing is moved
		ch.pending[0] = nil
		ch.pending = ch.pending[1:]
		return
	}
	ch.pending = slices.Delete(ch.pending, i, i+1)
}

// applyRenew makes a channel go on in another epoch, with what was written of it.
func (l *ledger) applyRenew(ch *channel, epoch, next uint64) {
	l.outBytes -= ch.bytes
	ch.pending, ch.bytes, ch.epoch, ch.next = nil, 0, epoch, max(next, 1)
	for _, p := range ch.foreign {
		if p.epoch == epoch {
			ch.pending = append(ch.pending, p)
			ch.bytes += p.size()
			ch.next = max(ch.next, p.seq+1)
		}
	}
	slices.SortFunc(ch.pending, func(a, b *pending) int { return cmp.Compare(a.seq, b.seq) })
	l.outBytes += ch.bytes
	ch.foreign = nil
}

func (l *ledger) applyReceived(r *rec, seg *segment) error {
	w := l.window(windowKey{r.peer, r.epoch})
	if !w.fits(r.seq, r.floor) {
		return fmt.Errorf("%w: message %d of %s is too far ahead of %d", ErrCorrupt, r.seq, r.peer, w.low)
	}
	w.add(r.seq, r.floor)
	w.used = r.index
	l.next = max(l.next, r.index+1)
	if r.kind == kindList {
		return nil
	}
	seg.count(r)
	r.body = bytes.Clone(r.body)
	m := messageOf(r, l.self)
	l.inbox = append(l.inbox, inboxEntry{m, seg.number})
	l.inBytes += int64(len(m.Body)) + recordOverhead
	return nil
}

// window is that of a sender's epoch, made if there is none. The least recently used goes where the sender, or all together, have too
// many: who is heard of again after that long, and resends what was acknowledged to it by then, is shown twice.
func (l *ledger) window(k windowKey) *window {
	w := l.windows[k]
	if w != nil {
		return w
	}
	if epochs := l.senders[k.peer]; len(epochs) >= maxEpochs {
		l.forget(k.peer, slices.MinFunc(epochs, func(a, b uint64) int {
			return cmp.Compare(l.windows[windowKey{k.peer, a}].used, l.windows[windowKey{k.peer, b}].used)
		}))
	}
	if len(l.windows) >= maxWindows {
		var least windowKey
		used := uint64(maxSeq + 1)
		for k, w := range l.windows {
			if w.used < used {
				least, used = k, w.used
			}
		}
		l.forget(least.peer, least.epoch)
	}
	w = &window{}
	l.windows[k], l.senders[k.peer] = w, append(l.senders[k.peer], k.epoch)
	return w
}

func (l *ledger) forget(p peer.ID, epoch uint64) {
	delete(l.windows, windowKey{p, epoch})
	if l.senders[p] = slices.DeleteFunc(l.senders[p], func(e uint64) bool { return e == epoch }); len(l.senders[p]) == 0 {
		delete(l.senders, p)
	}
}

func (l *ledger) applyShown(index uint64) {
	l.shown = max(l.shown, index)
	n := 0
	for n < len(l.inbox) && l.inbox[n].message.Index <= l.shown {
		l.inBytes -= int64(len(l.inbox[n].message.Body)) + recordOverhead
		l.inbox[n] = inboxEntry{}
		n++
	}
	l.inbox = l.inbox[n:]
}

func (l *ledger) applyBundle(b *bundle) {
	id := idOf(b.key)
	if was := l.bundles[id]; was != nil && !b.made.After(was.made) {
		return
	}
	l.bundles[id] = b
	if len(l.bundles) > maxBundles {
		oldest := slices.MinFunc(slices.Collect(maps.Values(l.bundles)), func(a, b *bundle) int {
			return cmp.Or(a.made.Compare(b.made), bytes.Compare(a.key[:], b.key[:]))
		})
		delete(l.bundles, idOf(oldest.key))
	}
}

// checkpoint is the state as records, in frames: what a segment begins with, so that the ones before it can go. Bodies of messages are
// not in it.
func (l *ledger) checkpoint() (frames [][]byte) {
	var b []byte
	add := func(r *rec) {
		if len(b)+len(r.body)+recordOverhead > maxLogPlain {
			frames, b = append(frames, b), nil
		}
		b = appendRecord(b, r)
	}
	for _, p := range slices.Sorted(maps.Keys(l.channels)) {
		ch := l.channels[p]
		add(&rec{typ: recChannel, peer: p, epoch: ch.epoch, seq: ch.next})
	}
	for _, p := range slices.Sorted(maps.Keys(l.senders)) {
		for _, epoch := range l.senders[p] {
			w := l.windows[windowKey{p, epoch}]
			r := rec{typ: recWindow, peer: p, epoch: epoch, low: w.low, used: w.used}
			for _, word := range w.bits {
				r.body = binary.BigEndian.AppendUint64(r.body, word)
			}
			add(&r)
		}
	}
	for _, g := range l.lists {
		add(&rec{typ: recList, body: g.raw})
	}
	for _, k := range l.bundles {
		add(&rec{typ: recBundle, body: k.raw})
	}
	add(&rec{typ: recCursor, index: l.shown, nextIdx: l.next})
	add(&rec{typ: recEnd})
	return append(frames, b)
}

// count counts a message of history.
func (s *segment) count(r *rec) {
	s.peers[r.peer]++
	if id, ok := groupOf(r.kind, r.body); ok {
		s.groups[id]++
	}
	when := r.at
	if r.typ == recReceived {
		when = r.got
	}
	if s.begun.IsZero() {
		s.begun = when
	}
	if when.After(s.newest) {
		s.newest = when
	}
}

// errClosed says that the service was closed.
var errClosed = fmt.Errorf("%w: it is closed", ErrUnavailable)

// commit waits until an operation is on disk. An error after it was begun leaves open whether it is.
func (l *ledger) commit(ctx context.Context, o *op) error {
	if o.size > maxLogPlain {
		return fmt.Errorf("%d bytes do not fit a frame of %d", o.size, maxLogPlain)
	}
	if err := l.gate.enter(ctx, o.size); err != nil {
		return err
	}
	done := make(chan error, 1)
	o.done = func(err error) { l.gate.leave(o.size); done <- err }
	if err := l.enqueue(o); err != nil {
		l.gate.leave(o.size)
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *ledger) enqueue(o *op) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errClosed
	}
	l.queue = append(l.queue, o)
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return nil
}

// close writes what is queued and gives the folder free.
func (l *ledger) close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		<-l.done
		return nil
	}
	l.closed = true
	select {
	case l.wake <- struct{}{}:
	default:
	}
	l.mu.Unlock()
	<-l.done
	var errs []error
	l.mu.Lock()
	if l.fault != nil {
		errs = append(errs, l.fault)
	}
	l.mu.Unlock()
	if l.file != nil {
		errs = append(errs, l.file.Close())
	}
	return errors.Join(append(errs, l.lock.Close())...)
}

// gate bounds how much is inside of it. Who is larger than it goes in alone.
type gate struct {
	max int

	mu   sync.Mutex
	used int
	room chan struct{} // closed when something leaves; nil where nobody waits
}

func (g *gate) enter(ctx context.Context, n int) error {
	g.mu.Lock()
	for g.used > 0 && g.used+n > g.max {
		if g.room == nil {
			g.room = make(chan struct{})
		}
		room := g.room
		g.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		g.mu.Lock()
	}
	g.used += n
	g.mu.Unlock()
	return nil
}

func (g *gate) leave(n int) {
	g.mu.Lock()
	g.used -= n
	if g.room != nil {
		close(g.room)
		g.room = nil
	}
	g.mu.Unlock()
}
