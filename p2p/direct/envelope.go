package direct

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	// MaxMessage is what a message may have in bytes, 512 KiB. Larger things are for [Service.SendFile].
	MaxMessage = 512 << 10

	envelopeVersion = 1
	envelopeHead    = 1 + 1 + 8 + 8 + 8 + 8
	maxBody         = 2 + maxList + contentSize + MaxMessage
	maxEnvelope     = envelopeHead + maxBody
)

// Kinds of envelopes.
const (
	kindMessage = 1 // body: what was given to Send
	kindGroup   = 2 // body: the list, the content's id, what was given to SendGroup (group.go)
	kindList    = 3 // body: a signed list of members
	kindReceipt = 4 // body: epoch and sequence of what the sender of the receipt has; it has none itself
)

// envelope is a durable message on its way: the same over a session and in what is sealed for a peer that is away. Epoch and sequence say
// which of the sender's messages to this recipient it is; they and the recipient's window are what makes it arrive once.
type envelope struct {
	kind       byte
	epoch, seq uint64
	floor      uint64 // all before it in this epoch are done: the recipient forgets them
	at         time.Time
	body       []byte
}

func (e *envelope) append(b []byte) []byte {
	b = append(b, envelopeVersion, e.kind)
	b = binary.BigEndian.AppendUint64(b, e.epoch)
	b = binary.BigEndian.AppendUint64(b, e.seq)
	b = binary.BigEndian.AppendUint64(b, e.floor)
	b = binary.BigEndian.AppendUint64(b, uint64(e.at.UnixMilli()))
	return append(b, e.body...)
}

// decodeEnvelope reads an envelope; its body shares b's memory.
func decodeEnvelope(b []byte) (e envelope, err error) {
	if len(b) > maxEnvelope {
		return e, fmt.Errorf("%w: an envelope of %d bytes, of at most %d", ErrCorrupt, len(b), maxEnvelope)
	}
	s := scan{b: b}
	version := s.u8()
	e = envelope{kind: s.u8(), epoch: s.u64(), seq: s.u64(), floor: s.u64(), at: time.UnixMilli(int64(s.u64()))}
	e.body = s.rest()
	if err := s.done("an envelope"); err != nil {
		return e, err
	}
	switch {
	case version != envelopeVersion:
		return e, fmt.Errorf("%w: an envelope of version %d, not %d", ErrCorrupt, version, envelopeVersion)
	case e.kind < kindMessage || e.kind > kindReceipt:
		return e, fmt.Errorf("%w: an envelope of kind %d, which is none", ErrCorrupt, e.kind)
	case e.kind == kindReceipt && (e.seq != 0 || len(e.body) != 16):
		return e, fmt.Errorf("%w: a receipt with sequence %d and %d bytes", ErrCorrupt, e.seq, len(e.body))
	case e.kind != kindReceipt && (e.seq == 0 || e.seq > maxSeq || e.floor == 0 || e.floor > e.seq):
		return e, fmt.Errorf("%w: an envelope with sequence %d and floor %d", ErrCorrupt, e.seq, e.floor)
	case e.kind == kindMessage && len(e.body) > MaxMessage:
		return e, fmt.Errorf("%w: a message of %d bytes, of at most %d", ErrCorrupt, len(e.body), MaxMessage)
	}
	return e, nil
}

// maxSeq keeps sums of sequences from overflowing.
const maxSeq = 1 << 62

// messageID names a message everywhere: 32 hex digits of SHA-256 over sender, recipient, epoch and sequence.
func messageID(from, to peer.ID, epoch, seq uint64) string {
	b := append([]byte("quantra direct message v1"), from...)
	b = append(b, to...)
	b = binary.BigEndian.AppendUint64(b, epoch)
	b = binary.BigEndian.AppendUint64(b, seq)
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:16])
}
