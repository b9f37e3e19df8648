package direct

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/internal/vfs"
)

const (
	keptMagic   = "QLDK"
	keptVersion = 1
	keptHead    = 4 + 1 + 3 + 32 + tagSize + 8 + 4
	tagSize     = 16
	keptTemp    = "kept.tmp"
	// maxKept is how many messages are kept at most, however small.
	maxKept = 1 << 14
	// copies is how many keepers get a message.
	copies = 2
	// leaveAgain is when a message that is still pending is left once more: a keeper that has it keeps what it has.
	leaveAgain = 24 * time.Hour
)

// keeper is what we keep for others: sealed messages in files, one each, that we cannot read.
type keeper struct {
	fs  vfs.FS
	dir string
	max int64
	now func() time.Time

	disk sync.Mutex // one change of the folder at a time; held before mu

	mu      sync.Mutex // guards what follows
	all     []*kept    // in the order in which they came
	used    int64
	next    uint64
	handing map[peer.ID]bool
}

// kept is one sealed message.
type kept struct {
	number   uint64
	from, to peer.ID
	at       time.Time
	size     int64
	tag      [tagSize]byte // the same is the same message of who left it
}

func (k *kept) name() string { return fmt.Sprintf("%016x", k.number) }

func encodeKept(from peer.ID, tag [tagSize]byte, at time.Time, sealed []byte) []byte {
	b := append(make([]byte, 0, keptHead+len(sealed)), keptMagic...)
	b = append(b, keptVersion, 0, 0, 0)
	b = append(appendKey(b, from), tag[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(at.Unix()))
	b = binary.BigEndian.AppendUint32(b, crc32.Update(crc32.Checksum(b, castagnoli), castagnoli, sealed))
	return append(b, sealed...)
}

func decodeKept(b []byte) (k kept, sealed []byte, err error) {
	s := scan{b: b}
	magic, version := string(s.next(4)), s.u8()
	s.next(3)
	k.from = idOf(s.key())
	copy(k.tag[:], s.next(tagSize))
	k.at = time.Unix(int64(s.u64()), 0)
	sum := s.u32()
	sealed = s.rest()
	if s.bad || magic != keptMagic || version != keptVersion || sum != crc32.Update(crc32.Checksum(b[:keptHead-4], castagnoli), castagnoli, sealed) {
		return k, nil, fmt.Errorf("%w: it is no message that is kept", ErrCorrupt)
	}
	if k.to, err = recipientOf(sealed); err != nil {
		return k, nil, err
	}
	k.size = int64(len(b))
	return k, sealed, nil
}

// openKeeper reads what is kept. What is damaged is removed: its sender still has it.
func openKeeper(f vfs.FS, dir string, most int64, now func() time.Time) (*keeper, error) {
	if most < 0 {
		return nil, fmt.Errorf("Options.Keep is %d", most)
	}
	k := &keeper{fs: f, dir: dir, max: most, now: now, next: 1, handing: map[peer.ID]bool{}}
	if err := errors.Join(f.MkdirAll(dir), f.SyncDir(filepath.Dir(dir))); err != nil {
		return nil, err
	}
	names, err := f.List(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		n, bad := strconv.ParseUint(name, 16, 64)
		var one kept
		if bad == nil {
			raw, err := readWhole(f, filepath.Join(dir, name), keptHead+maxSealed)
			if err != nil && !errors.Is(err, ErrCorrupt) {
				return nil, err
			}
			if one, _, bad = decodeKept(raw); err != nil {
				bad = err
			}
		}
		if bad != nil {
			if err := f.Remove(filepath.Join(dir, name)); err != nil {
				return nil, err
			}
			continue
		}
		one.number = n
		k.all = append(k.all, &one)
		k.used += one.size
		k.next = max(k.next, n+1)
	}
	return k, f.SyncDir(dir) // names of renames that were never synced
}

// put keeps sealed bytes. It returns when they are on disk.
func (k *keeper) put(from, to peer.ID, tag [tagSize]byte, sealed []byte) error {
	k.disk.Lock()
	defer k.disk.Unlock()
	n := int64(keptHead + len(sealed))
	one := &kept{from: from, to: to, at: k.now(), size: n, tag: tag}
	k.mu.Lock()
	total, count := k.used, len(k.all)
	var fromOne, forOne int64
	known := false
	for _, other := range k.all {
		if other.from == from {
			fromOne += other.size
		}
		if other.to == to {
			forOne += other.size
		}
		known = known || other.from == from && other.tag == tag
	}
	one.number = k.next
	k.next++
	k.mu.Unlock()
	switch {
	case known:
		return nil
	case k.max == 0:
		return fmt.Errorf("%w: no messages are kept for others here", ErrUnavailable)
	case count >= maxKept || total+n > k.max:
		return fmt.Errorf("%w: %d messages of %d bytes are kept for others, which is all there is room for", ErrUnavailable, count, total)
	case fromOne+n > k.max/8 || forOne+n > k.max/8:
		return fmt.Errorf("%w: %d bytes are kept from %s and %d for %s, of at most %d", ErrUnavailable, fromOne, from, forOne, to, k.max/8)
	}
	if err := replaceFile(k.fs, k.dir, keptTemp, one.name(), encodeKept(from, tag, one.at, sealed)); err != nil {
		return fmt.Errorf("%w: it cannot be kept: %w", ErrUnavailable, err)
	}
	k.mu.Lock()
	k.all = append(k.all, one)
	k.used += n
	k.mu.Unlock()
	return nil
}

// first is the oldest message for a peer behind a number.
func (k *keeper) first(to peer.ID, after uint64) *kept {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, one := range k.all {
		if one.to == to && one.number > after {
			return one
		}
	}
	return nil
}

func (k *keeper) load(one *kept) ([]byte, error) {
	raw, err := readWhole(k.fs, filepath.Join(k.dir, one.name()), keptHead+maxSealed)
	if err != nil {
		return nil, err
	}
	_, sealed, err := decodeKept(raw)
	return sealed, err
}

// remove forgets a message. If a crash brings its file back it is handed on again, and dropped as a duplicate.
func (k *keeper) remove(one *kept) error {
	k.disk.Lock()
	defer k.disk.Unlock()
	if err := k.fs.Remove(filepath.Join(k.dir, one.name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if i := slices.Index(k.all, one); i >= 0 {
		k.all = slices.Delete(k.all, i, i+1)
		k.used -= one.size
	}
	return nil
}

// expire removes what nobody came for in time: its recipient has deleted the key.
func (k *keeper) expire() error {
	before := k.now().Add(-heldFor)
	k.mu.Lock()
	var gone []*kept
	for _, one := range k.all {
		if one.at.Before(before) {
			gone = append(gone, one)
		}
	}
	k.mu.Unlock()
	var errs []error
	for _, one := range gone {
		errs = append(errs, k.remove(one))
	}
	return errors.Join(errs...)
}

func (k *keeper) recipients() (out []peer.ID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, one := range k.all {
		if !slices.Contains(out, one.to) {
			out = append(out, one.to)
		}
	}
	return out
}

func (k *keeper) bytes() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.used
}

// hand gives a peer what is kept for it, in a goroutine of its own.
func (s *Service) hand(p peer.ID) {
	k := s.keeper
	if k.first(p, 0) == nil {
		return
	}
	k.mu.Lock()
	busy := k.handing[p]
	k.handing[p] = true
	k.mu.Unlock()
	if busy {
		return
	}
	ended := func() {
		k.mu.Lock()
		delete(k.handing, p)
		k.mu.Unlock()
	}
	if !s.run(func() {
		err := s.handAll(p)
		ended()
		if err == nil {
			s.hand(p) // what came since it has looked
		} else if s.ctx.Err() == nil {
			s.o.Log.Debug("what is kept for a peer could not be handed on", "peer", p, "error", err)
		}
	}) {
		ended()
	}
}

func (s *Service) handAll(p peer.ID) error {
	after := uint64(0)
	for {
		one := s.keeper.first(p, after)
		if one == nil {
			return nil
		}
		after = one.number
		sealed, err := s.keeper.load(one)
		if err == nil {
			_, err = s.ask(s.ctx, p, methodHand, sealed, nil)
		}
		if err != nil && !errors.Is(err, ErrCorrupt) {
			return err
		}
		if err := s.keeper.remove(one); err != nil {
			return err
		}
		s.m.kept.WithLabelValues("handed").Inc()
	}
}

// takeDeposit keeps a message for a peer, if who brings it might send to that peer itself.
func (s *Service) takeDeposit(from peer.ID, b []byte) error {
	f := scan{b: b}
	var tag [tagSize]byte
	copy(tag[:], f.next(tagSize))
	sealed := f.rest()
	to, err := recipientOf(sealed)
	if err != nil {
		return err
	}
	if to == s.self {
		return fmt.Errorf("%w: it is for us: it is sent, not left", ErrCorrupt)
	}
	if err := s.o.Allow(from, "send", "peer/"+to.String()); err != nil {
		return fmt.Errorf("%w: %w", ErrDenied, err)
	}
	if err := s.keeper.put(from, to, tag, sealed); err != nil {
		return err
	}
	s.m.kept.WithLabelValues("taken").Inc()
	if s.host.Network().Connectedness(to) == network.Connected {
		s.hand(to)
	}
	return nil
}

// takeHanded takes a message that a keeper has kept for us. It returns nil when the keeper may forget it.
func (s *Service) takeHanded(ctx context.Context, by peer.ID, sealed []byte) error {
	if err := s.mayWrite(by); err != nil {
		return err
	}
	from, raw, err := s.keys.open(sealed)
	var e envelope
	if err == nil {
		e, err = decodeEnvelope(raw)
	}
	if err == nil && e.kind != kindReceipt {
		err = s.away(from)
	}
	if err != nil {
		s.refuse(codeOf(err))
		s.o.Log.Debug("a message that was kept for us is dropped", "by", by, "from", from, "error", err)
		return nil
	}
	if e.kind == kindReceipt {
		f := scan{b: e.body}
		s.settled(from, f.u64(), f.u64(), 0)
		return nil
	}
	done := make(chan error, 1)
	if err := s.receive(ctx, from, &e, nil, func(err error) { done <- err }); err != nil {
		done <- err
	}
	select {
	case err = <-done:
	case <-ctx.Done():
		err = fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
	}
	if err != nil {
		if codeOf(err) == codeBusy {
			return err
		}
		s.refuse(codeOf(err))
		return nil
	}
	s.receipt(ctx, by, from, &e)
	return nil
}

// away says whether messages are taken from a peer by way of a keeper.
func (s *Service) away(from peer.ID) error {
	if s.o.Away != nil {
		if err := s.o.Away(from); err != nil {
			return fmt.Errorf("%w: %w", ErrDenied, err)
		}
		return nil
	}
	if s.ledger.bundle(from) == nil {
		return fmt.Errorf("%w: %s has never been connected", ErrDenied, from)
	}
	return nil
}

// receipt tells a sender, by way of the keeper, that its message is here. If the receipt is lost the sender sends again, and gets another.
func (s *Service) receipt(ctx context.Context, keeper, to peer.ID, of *envelope) {
	keys := s.ledger.bundle(to)
	if keys == nil || s.o.Now().After(keys.until) {
		return
	}
	e := envelope{kind: kindReceipt, at: s.o.Now(), body: binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, of.epoch), of.seq)}
	if err := s.deposit(ctx, keeper, keys, &e, of.epoch, of.seq); err != nil {
		s.o.Log.Debug("a receipt was not left", "for", to, "by", keeper, "error", err)
	}
}

// leave gives what is pending for a peer that is away to keepers, sealed.
func (s *Service) leave(p peer.ID, c *courier) {
	if len(s.o.Keepers) == 0 {
		return
	}
	keys := s.keysOf(p)
	if keys == nil {
		return
	}
	var epoch, last uint64
	bad := map[peer.ID]bool{p: true, s.self: true}
	for s.ctx.Err() == nil {
		m, floor := s.ledger.waiting(p, epoch, last)
		if m == nil {
			return
		}
		epoch, last = m.epoch, m.seq
		id := [2]uint64{m.epoch, m.seq}
		if at, ok := c.left[id]; ok && s.o.Now().Sub(at) < leaveAgain {
			continue
		}
		e := envelope{kind: m.kind, epoch: m.epoch, seq: m.seq, floor: floor, at: m.at, body: s.ledger.wire(m)}
		n := 0
		for _, keeper := range s.o.Keepers {
			if bad[keeper] || n == copies {
				continue
			}
			if err := s.deposit(s.ctx, keeper, keys, &e, m.epoch, m.seq); err != nil {
				bad[keeper] = true
				s.o.Log.Debug("a keeper takes no message", "keeper", keeper, "for", p, "error", err)
				continue
			}
			n++
		}
		if n == 0 {
			return
		}
		s.m.kept.WithLabelValues("left").Inc()
		c.left[id] = s.o.Now()
	}
}

// deposit leaves an envelope with a keeper. It is sealed for each keeper anew, and has another tag at each: two that compare what they keep
// do not see that it is the same.
func (s *Service) deposit(ctx context.Context, keeper peer.ID, to *bundle, e *envelope, epoch, seq uint64) error {
	sealed, err := sealTo(s.o.Key, to, e.append(nil))
	if err != nil {
		return err
	}
	h := hmac.New(sha256.New, s.tagKey)
	h.Write(append([]byte{e.kind}, keeper...))
	h.Write(to.key[:])
	h.Write(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, epoch), seq))
	_, err = s.ask(ctx, keeper, methodDeposit, h.Sum(nil)[:tagSize], sealed)
	return err
}

// keysOf is keys of a peer that can be sealed to: ours, or those that a keeper has.
func (s *Service) keysOf(p peer.ID) *bundle {
	if b := s.ledger.bundle(p); b != nil && s.o.Now().Before(b.until) {
		return b
	}
	key, err := keyOf(p)
	if err != nil {
		return nil
	}
	for _, keeper := range s.o.Keepers {
		if keeper == p || keeper == s.self {
			continue
		}
		raw, err := s.ask(s.ctx, keeper, methodKeys, key[:], nil)
		if err != nil {
			continue
		}
		b, err := decodeBundle(raw)
		if err != nil || b.key != key || !s.o.Now().Before(b.until) {
			continue
		}
		s.ledger.noteBundle(b)
		return b
	}
	return nil
}
