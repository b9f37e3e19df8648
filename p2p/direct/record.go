package direct

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/bits"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/seal"
)

// The log's bytes: docs/format/direct.md.
const (
	segmentMagic   = "QLDM"
	frameMagic     = "QLDF"
	segmentVersion = 1
	segmentHead    = 4 + 1 + 3 + 8 + 8 + 4
	logFrameHead   = 4 + 4 + 4
	maxLogPlain    = seal.MaxBox
)

// Types of records.
const (
	recSent     = 1  // a message to a peer, which is pending until it is done
	recDone     = 2  // it has it, or will not get it
	recReceived = 3  // a message from a peer
	recShown    = 4  // what was received up to here has been delivered
	recRenew    = 5  // a channel goes on in another epoch: what is pending in others is void
	recList     = 6  // a group's list of members
	recBundle   = 7  // a peer's keys
	recChannel  = 8  // of a checkpoint: a channel's epoch and next sequence
	recWindow   = 9  // of a checkpoint: what is known of a sender's epoch
	recCursor   = 10 // of a checkpoint: what is shown, and the next index
	recEnd      = 11 // a checkpoint's end
)

// How a message is done.
const (
	doneAcked   = 1
	doneExpired = 2
	doneRefused = 3
)

// Flags of recSent.
const (
	flagCarried = 1 // it was in an older segment: it is not one of history
	flagSame    = 2 // its body is that of the message before it in the frame
	flagCopy    = 4 // the same content went to another member of the group before: history shows that one
)

// rec is a record. Which fields it has follows from its type.
type rec struct {
	typ                byte
	peer               peer.ID
	epoch, seq, floor  uint64
	index              uint64
	at, got            time.Time
	kind, flags, how   byte
	body               []byte
	low, used, nextIdx uint64
}

func appendRecord(b []byte, r *rec) []byte {
	at := len(b)
	b = append(b, 0, 0, 0, 0, r.typ)
	switch r.typ {
	case recSent:
		b = appendKey(b, r.peer)
		b = binary.BigEndian.AppendUint64(b, r.epoch)
		b = binary.BigEndian.AppendUint64(b, r.seq)
		b = binary.BigEndian.AppendUint64(b, uint64(r.at.UnixMilli()))
		b = append(b, r.kind, r.flags)
		if r.flags&flagSame == 0 {
			b = append(b, r.body...)
		}
	case recDone:
		b = appendKey(b, r.peer)
		b = binary.BigEndian.AppendUint64(b, r.epoch)
		b = binary.BigEndian.AppendUint64(b, r.seq)
		b = append(b, r.how)
	case recReceived:
		b = binary.BigEndian.AppendUint64(b, r.index)
		b = appendKey(b, r.peer)
		b = binary.BigEndian.AppendUint64(b, r.epoch)
		b = binary.BigEndian.AppendUint64(b, r.seq)
		b = binary.BigEndian.AppendUint64(b, r.floor)
		b = binary.BigEndian.AppendUint64(b, uint64(r.at.UnixMilli()))
		b = binary.BigEndian.AppendUint64(b, uint64(r.got.UnixMilli()))
		b = append(append(b, r.kind), r.body...)
	case recShown:
		b = binary.BigEndian.AppendUint64(b, r.index)
	case recRenew:
		b = appendKey(b, r.peer)
		b = binary.BigEndian.AppendUint64(b, r.epoch)
	case recList, recBundle:
		b = append(b, r.body...)
	case recChannel:
		b = appendKey(b, r.peer)
		b = binary.BigEndian.AppendUint64(b, r.epoch)
		b = binary.BigEndian.AppendUint64(b, r.seq)
	case recWindow:
		b = appendKey(b, r.peer)
		b = binary.BigEndian.AppendUint64(b, r.epoch)
		b = binary.BigEndian.AppendUint64(b, r.low)
		b = binary.BigEndian.AppendUint64(b, r.used)
		b = append(b, r.body...)
	case recCursor:
		b = binary.BigEndian.AppendUint64(b, r.index)
		b = binary.BigEndian.AppendUint64(b, r.nextIdx)
	case recEnd:
	default:
		panic(fmt.Sprintf("direct: record of type %d", r.typ))
	}
	binary.BigEndian.PutUint32(b[at:], uint32(len(b)-at-4))
	return b
}

// recordOverhead is at least what a record has beside its body.
const recordOverhead = 96

// decodeRecords gives each record of a frame. Bodies share the frame's memory.
func decodeRecords(b []byte, each func(*rec) error) error {
	var body []byte // of the message before
	for s := (scan{b: b}); len(s.b) > 0; {
		n := s.u32()
		f := scan{b: s.next(int(n))}
		if s.bad {
			return fmt.Errorf("%w: a record ends too early", ErrCorrupt)
		}
		r := rec{typ: f.u8()}
		if err := r.decode(&f, body); err != nil {
			return err
		}
		if r.typ == recSent {
			body = r.body
		}
		if err := each(&r); err != nil {
			return err
		}
	}
	return nil
}

func (r *rec) decode(f *scan, same []byte) error {
	millis := func() time.Time { return time.UnixMilli(int64(f.u64())) }
	switch r.typ {
	case recSent:
		r.peer, r.epoch, r.seq, r.at, r.kind, r.flags = idOf(f.key()), f.u64(), f.u64(), millis(), f.u8(), f.u8()
		if r.body = f.rest(); r.flags&flagSame != 0 {
			if len(r.body) > 0 || same == nil {
				return fmt.Errorf("%w: a message without a body, and none before it", ErrCorrupt)
			}
			r.body = same
		}
		if r.body == nil {
			r.body = []byte{}
		}
	case recDone:
		r.peer, r.epoch, r.seq, r.how = idOf(f.key()), f.u64(), f.u64(), f.u8()
	case recReceived:
		r.index, r.peer, r.epoch, r.seq, r.floor = f.u64(), idOf(f.key()), f.u64(), f.u64(), f.u64()
		r.at, r.got, r.kind, r.body = millis(), millis(), f.u8(), f.rest()
	case recShown:
		r.index = f.u64()
	case recRenew:
		r.peer, r.epoch = idOf(f.key()), f.u64()
	case recList, recBundle:
		r.body = f.rest()
	case recChannel:
		r.peer, r.epoch, r.seq = idOf(f.key()), f.u64(), f.u64()
	case recWindow:
		r.peer, r.epoch, r.low, r.used, r.body = idOf(f.key()), f.u64(), f.u64(), f.u64(), f.rest()
		if len(r.body)%8 != 0 || len(r.body) > windowSize/8 {
			return fmt.Errorf("%w: a window of %d bytes", ErrCorrupt, len(r.body))
		}
	case recCursor:
		r.index, r.nextIdx = f.u64(), f.u64()
	case recEnd:
	default:
		return fmt.Errorf("%w: a record of type %d, which is none", ErrCorrupt, r.typ)
	}
	if r.seq > maxSeq || r.floor > maxSeq || r.low > maxSeq || r.index > maxSeq || r.nextIdx > maxSeq {
		return fmt.Errorf("%w: a number of a record is too large", ErrCorrupt)
	}
	return f.done("a record")
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendSegmentHead(b []byte, number, before uint64) []byte {
	at := len(b)
	b = append(b, segmentMagic...)
	b = append(b, segmentVersion, 0, 0, 0)
	b = binary.BigEndian.AppendUint64(b, number)
	b = binary.BigEndian.AppendUint64(b, before)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
}

// decodeSegmentHead reads a segment's head: before is how many bytes of the segment before it count.
func decodeSegmentHead(b []byte, number uint64) (before uint64, err error) {
	if len(b) < segmentHead || string(b[:4]) != segmentMagic || binary.BigEndian.Uint32(b[segmentHead-4:]) != crc32.Checksum(b[:segmentHead-4], castagnoli) {
		return 0, fmt.Errorf("%w: the head of a segment is not one", ErrCorrupt)
	}
	if b[4] != segmentVersion {
		return 0, fmt.Errorf("%w: a segment of version %d, not %d", ErrCorrupt, b[4], segmentVersion)
	}
	if n := binary.BigEndian.Uint64(b[8:]); n != number {
		return 0, fmt.Errorf("%w: it is segment %d by its head", ErrCorrupt, n)
	}
	return binary.BigEndian.Uint64(b[16:]), nil
}

// frameContext binds a frame to its place: no frame can be moved, repeated or brought to another segment.
func frameContext(segment uint64, offset int64) []byte {
	b := []byte("quantra direct log v1\x00")
	b = binary.BigEndian.AppendUint64(b, segment)
	return binary.BigEndian.AppendUint64(b, uint64(offset))
}

func sealFrame(box *seal.Box, plain []byte, segment uint64, offset int64) ([]byte, error) {
	sealed, err := box.Seal(plain, frameContext(segment, offset))
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, logFrameHead+len(sealed))
	b = append(b, frameMagic...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(sealed)))
	b = binary.BigEndian.AppendUint32(b, crc32.Update(crc32.Checksum(b[:8], castagnoli), castagnoli, sealed))
	return append(b, sealed...), nil
}

// wholeFrame is the bytes of the frame that b begins with, 0 where there is no whole one: a write that was cut, or damage.
func wholeFrame(b []byte) int {
	if len(b) < logFrameHead || string(b[:4]) != frameMagic {
		return 0
	}
	n := int64(binary.BigEndian.Uint32(b[4:]))
	if n > maxLogPlain+seal.BoxOverhead || n > int64(len(b)-logFrameHead) {
		return 0
	}
	sealed := b[logFrameHead : logFrameHead+n]
	if binary.BigEndian.Uint32(b[8:]) != crc32.Update(crc32.Checksum(b[:8], castagnoli), castagnoli, sealed) {
		return 0
	}
	return logFrameHead + int(n)
}

// windowSize is how far apart a sender's messages may be that are on their way at once.
const windowSize = 1 << 16

// window is which messages of a sender's epoch have been received: all before low, and those whose bit is set.
type window struct {
	low  uint64   // bit 0 of the first word; a multiple of 64
	bits []uint64 // the last word is not zero
	used uint64   // index of the last message that was received
}

func (w *window) has(seq uint64) bool {
	if seq < w.low {
		return true
	}
	i := seq - w.low
	return i/64 < uint64(len(w.bits)) && w.bits[i/64]>>(i%64)&1 == 1
}

// fits says that the window reaches to a message, once what is before floor is forgotten.
func (w *window) fits(seq, floor uint64) bool { return seq < max(w.low, floor&^63)+windowSize }

// add marks a message, and all before floor.
func (w *window) add(seq, floor uint64) {
	for floor > w.low && len(w.bits) > 0 {
		if n := floor - w.low; n < 64 {
			w.bits[0] |= 1<<n - 1
			break
		}
		w.low, w.bits = w.low+64, w.bits[1:]
	}
	if floor > w.low && len(w.bits) == 0 {
		if w.low = floor &^ 63; floor > w.low {
			w.bits = append(w.bits[:0:0], 1<<(floor-w.low)-1)
		}
	}
	if seq >= w.low {
		i := seq - w.low
		for uint64(len(w.bits)) <= i/64 {
			w.bits = append(w.bits, 0)
		}
		w.bits[i/64] |= 1 << (i % 64)
	}
	for len(w.bits) > 0 && w.bits[0] == ^uint64(0) {
		w.low, w.bits = w.low+64, w.bits[1:]
	}
}

// top is the highest sequence that was received; 0 is none.
func (w *window) top() uint64 {
	for i := len(w.bits) - 1; i >= 0; i-- {
		if w.bits[i] != 0 {
			return w.low + uint64(i)*64 + uint64(63-bits.LeadingZeros64(w.bits[i]))
		}
	}
	return max(w.low, 1) - 1
}
