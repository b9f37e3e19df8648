package direct

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Message is a durable message, received or sent.
type Message struct {
	ID       string // the same at both ends; of a group's message, at all members
	From, To peer.ID
	Group    GroupID   // zero where it is to one peer alone
	Sent     time.Time // by the sender's clock
	Received time.Time // by ours; zero for what we sent
	// Index numbers what was received: it rises, and a message has the same one however often it is delivered. It is 0 for what we sent.
	Index   uint64
	Body    []byte
	Pending bool // of what we sent to one peer: not acknowledged yet
	GivenUp bool // of what we sent to one peer: it was not there in time, or takes it never
}

// messageOf is what a record of a message says.
func messageOf(r *rec, self peer.ID) Message {
	m := Message{From: r.peer, To: self, Sent: r.at, Received: r.got, Index: r.index, Body: r.body}
	if r.typ == recSent {
		m.From, m.To, m.Received = self, r.peer, time.Time{}
	}
	m.ID = messageID(m.From, m.To, r.epoch, r.seq)
	if id, ok := groupOf(r.kind, r.body); ok {
		m.Group, m.ID, m.Body = id, hex.EncodeToString(r.body[len(id):len(id)+contentSize]), r.body[len(id)+contentSize:]
	}
	return m
}

// history is the last messages that count says a segment has and keep keeps, the oldest first.
func (l *ledger) history(limit int, count func(*segment) int, keep func(*rec) bool) ([]Message, error) {
	if limit <= 0 {
		return nil, nil
	}
	l.mu.Lock()
	segs := make([]segment, 0, len(l.segs))
	for _, s := range l.segs {
		if count(s) > 0 {
			segs = append(segs, segment{number: s.number, size: s.size})
		}
	}
	l.mu.Unlock()
	var out []Message // the newest first
	given := map[sequence]bool{}
	for _, s := range slices.Backward(segs) {
		found, err := l.scan(s, keep, given)
		if errors.Is(err, fs.ErrNotExist) {
			break // it was removed meanwhile, and those before it
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", l.path(s.number), err)
		}
		for _, m := range slices.Backward(found) {
			if out = append(out, m); len(out) == limit {
				slices.Reverse(out)
				return out, nil
			}
		}
	}
	slices.Reverse(out)
	return out, nil
}

// sequence names a message of ours.
type sequence struct {
	to         peer.ID
	epoch, seq uint64
}

// scan is the messages of a segment. given has those that were given up by what later segments say, and gets those of this one.
func (l *ledger) scan(s segment, keep func(*rec) bool, given map[sequence]bool) (out []Message, err error) {
	var of []sequence // of each message
	f, err := l.fs.Open(l.path(s.number))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw := make([]byte, s.size)
	if _, err := f.ReadAt(raw, 0); err != nil && err != io.EOF {
		return nil, err
	}
	for at := int64(segmentHead); at < s.size; {
		size := wholeFrame(raw[at:])
		if size == 0 {
			return nil, fmt.Errorf("%w: the frame at byte %d is damaged", ErrCorrupt, at)
		}
		plain, err := l.box.Open(raw[at+logFrameHead:at+int64(size)], frameContext(s.number, at))
		if err != nil {
			return nil, fmt.Errorf("%w: the frame at byte %d: %w", ErrCorrupt, at, err)
		}
		err = decodeRecords(plain, func(r *rec) error {
			if r.typ == recDone && r.how != doneAcked {
				given[sequence{r.peer, r.epoch, r.seq}] = true
			}
			if (r.typ == recReceived || r.typ == recSent && r.flags&flagCarried == 0) && r.kind != kindList && keep(r) {
				m := messageOf(r, l.self)
				m.Pending = r.typ == recSent && r.kind == kindMessage && l.isPending(r)
				m.Body = slices.Clone(m.Body)
				out, of = append(out, m), append(of, sequence{r.peer, r.epoch, r.seq})
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		at += int64(size)
	}
	for i := range out {
		out[i].GivenUp = out[i].From == l.self && out[i].Group == GroupID{} && given[of[i]]
	}
	return out, nil
}

func (l *ledger) isPending(r *rec) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	ch := l.channels[r.peer]
	return ch != nil && ch.epoch == r.epoch && ch.find(r.seq) != nil
}

func (l *ledger) peerHistory(p peer.ID, limit int) ([]Message, error) {
	return l.history(limit, func(s *segment) int { return s.peers[p] }, func(r *rec) bool {
		return r.peer == p && r.kind == kindMessage
	})
}

func (l *ledger) groupHistory(id GroupID, limit int) ([]Message, error) {
	return l.history(limit, func(s *segment) int { return s.groups[id] }, func(r *rec) bool {
		got, ok := groupOf(r.kind, r.body)
		return ok && got == id && r.flags&flagCopy == 0
	})
}
