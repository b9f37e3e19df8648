package broadcast

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/quantra-l/quantra/seal"
)

// The words to branch on. Each error of this room that has to do with its inputs is one of them.
var (
	// ErrCorrupt says that bytes are not what they should be: malformed, cut, damaged, or in a form that is not the one form.
	ErrCorrupt = errors.New("corrupt")
	// ErrDenied says that somebody may not do what he asks for.
	ErrDenied = errors.New("denied")
	// ErrUnavailable says that it cannot be done now: closed, full, or the disk does not take what must be kept.
	ErrUnavailable = errors.New("unavailable")
)

// domain is that of the signatures of envelopes.
const domain = "quantra broadcast v1"

// An envelope's bytes are drawn in docs/format/envelope.md. Integers are big endian.
const (
	envelopeMagic   = "QLBC"
	envelopeVersion = 1
	envelopeFixed   = 4 + 1 + 1 + 2 + 32 + 8 + 8 + 8 + 1 // up to and with the topic's length
	atCount         = 6
	atAuthor        = 8
	atEpoch         = 40
	atSequence      = 48
	atTime          = 56
	atTopicLength   = 64
	payloadHead     = 4 // the length before a payload
	// MaxTopic is how long a topic's name is at most, in bytes: with "topic/" in front of it it is a resource, of which 128 are allowed.
	MaxTopic = 120
	// maxBundle is how many payloads an envelope of this version has at most.
	maxBundle = 64
	// overhead is how much longer an envelope of one payload is than the payload, at most.
	overhead = envelopeFixed + MaxTopic + payloadHead + seal.SignatureSize
	minimum  = envelopeFixed + 1 + payloadHead + seal.SignatureSize // a topic of one byte, and an empty payload
)

// ID is a message's own: no two messages of anybody's have the same, whatever is in them.
type ID struct {
	From     peer.ID // who signed it
	Epoch    uint64  // of the sender's numbers; a later one is higher
	Sequence uint64  // of the envelope that it came in, from 1
	Index    int     // its place in the envelope
}

// String is the id as text, with slashes between its four parts.
func (id ID) String() string {
	return fmt.Sprintf("%s/%d/%d/%d", id.From, id.Epoch, id.Sequence, id.Index)
}

// envelope is one or more payloads that were signed together. Its payloads and signature are parts of the bytes that it was decoded from.
type envelope struct {
	author          seal.PublicKey
	epoch, sequence uint64
	time            int64 // Unix nanoseconds, by the author's clock
	topic           string
	payloads        [][]byte
	signature       seal.Signature
}

// decodeEnvelope reads an envelope whose bytes are no more than limit. There is one form of each: what encode does not write is refused.
func decodeEnvelope(data []byte, limit int) (*envelope, error) {
	bad := func(format string, args ...any) (*envelope, error) {
		return nil, fmt.Errorf("%w: envelope: %s", ErrCorrupt, fmt.Sprintf(format, args...))
	}
	if len(data) < minimum || len(data) > limit {
		return bad("it has %d bytes, not %d to %d", len(data), minimum, limit)
	}
	if string(data[:4]) != envelopeMagic || data[4] != envelopeVersion || data[5] != 0 {
		return bad("it does not begin as one of version %d", envelopeVersion)
	}
	e := &envelope{
		author:   seal.PublicKey(data[atAuthor:atEpoch]),
		epoch:    binary.BigEndian.Uint64(data[atEpoch:]),
		sequence: binary.BigEndian.Uint64(data[atSequence:]),
		time:     int64(binary.BigEndian.Uint64(data[atTime:])),
	}
	body := data[envelopeFixed : len(data)-seal.SignatureSize]
	n := int(data[atTopicLength])
	if n > len(body) {
		return bad("its topic has %d bytes, of which %d are there", n, len(body))
	}
	e.topic = string(body[:n])
	if err := checkTopic(e.topic); err != nil {
		return nil, err
	}
	body = body[n:]
	count := int(binary.BigEndian.Uint16(data[atCount:]))
	if count < 1 || count > maxBundle {
		return bad("%d payloads; 1 to %d are allowed", count, maxBundle)
	}
	if e.epoch == 0 || e.sequence == 0 || e.time < 0 {
		return bad("epoch and sequence begin at 1, and no time is before 1970")
	}
	e.payloads = make([][]byte, count)
	for i := range e.payloads {
		if len(body) < payloadHead {
			return bad("it ends in the length of payload %d", i)
		}
		size := binary.BigEndian.Uint32(body)
		body = body[payloadHead:]
		if uint64(size) > uint64(len(body)) {
			return bad("payload %d has %d bytes, of which %d are there", i, size, len(body))
		}
		e.payloads[i], body = body[:size:size], body[size:]
	}
	if len(body) != 0 {
		return bad("%d bytes behind the last payload", len(body))
	}
	copy(e.signature[:], data[len(data)-seal.SignatureSize:])
	return e, nil
}

// checkTopic says what is wrong with a topic's name: it is a part of a resource's path, so it follows the rules of those.
func checkTopic(name string) error {
	if name == "" || len(name) > MaxTopic || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return fmt.Errorf("%w: a topic's name is 1 to %d bytes of UTF-8 without control characters: %.40q", ErrCorrupt, MaxTopic, name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("%w: no part of a topic's name between slashes is empty, . or ..: %.40q", ErrCorrupt, name)
		}
	}
	return nil
}

// bundle is an envelope while payloads come in.
type bundle struct {
	buf      []byte
	count    int
	sequence uint64
}

// newBundle begins an envelope. The room is for the payloads and their lengths; it grows beyond that.
func newBundle(author seal.PublicKey, epoch, sequence uint64, topic string, room int) *bundle {
	b := make([]byte, envelopeFixed, envelopeFixed+len(topic)+room+seal.SignatureSize)
	copy(b, envelopeMagic)
	b[4] = envelopeVersion
	copy(b[atAuthor:], author[:])
	binary.BigEndian.PutUint64(b[atEpoch:], epoch)
	binary.BigEndian.PutUint64(b[atSequence:], sequence)
	b[atTopicLength] = byte(len(topic))
	return &bundle{buf: append(b, topic...), sequence: sequence}
}

// add adds a payload, and says which place it has.
func (b *bundle) add(payload []byte) (index int) {
	b.buf = binary.BigEndian.AppendUint32(b.buf, uint32(len(payload)))
	b.buf = append(b.buf, payload...)
	b.count++
	return b.count - 1
}

// sign ends the envelope, and is its bytes. Nothing is added afterwards.
func (b *bundle) sign(key seal.Key, now time.Time) ([]byte, error) {
	binary.BigEndian.PutUint16(b.buf[atCount:], uint16(b.count))
	binary.BigEndian.PutUint64(b.buf[atTime:], uint64(now.UnixNano()))
	digest := sha256.Sum256(b.buf)
	s, err := key.Sign(domain, digest[:])
	if err != nil {
		return nil, err
	}
	return append(b.buf, s[:]...), nil
}

const gossipIDSize = sha256.Size + 16

// gossipID is what neighbours know an envelope by while it goes around: SHA-256 of what is signed, which is what the signature is over,
// and 16 bytes of SHA-256 of that, the signature, and the topic that pubsub has it under. It is of all the bytes, not of author and
// sequence: else anybody could send something false under the number that somebody's next envelope will have, or the true envelope under
// another topic, and the true one would be dropped everywhere as a duplicate of it.
func gossipID(topic string, data []byte) string {
	signed := data[:max(0, len(data)-seal.SignatureSize)]
	digest := sha256.Sum256(signed)
	id := make([]byte, 0, sha256.Size+seal.SignatureSize+MaxTopic)
	id = append(id, digest[:]...)
	id = append(id, data[len(signed):]...)
	id = append(id, topic...)
	whole := sha256.Sum256(id)
	return string(append(id[:sha256.Size], whole[:gossipIDSize-sha256.Size]...))
}

// peerPrefix stands before an Ed25519 key in a peer id: an identity multihash of the key's protobuf (libp2p's specification, peer-ids.md).
const peerPrefix = "\x00\x24\x08\x01\x12\x20"

// peerOf is the peer id of a key.
func peerOf(key seal.PublicKey) peer.ID { return peer.ID(peerPrefix + string(key[:])) }
