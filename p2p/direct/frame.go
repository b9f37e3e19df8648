package direct

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
)

const (
	frameHead = 4 + 1 + 8 // size of what follows it, kind, id
	// maxFrame is a frame's bytes: a deposit of the largest sealed message, and its head.
	maxFrame = frameHead + 64 + maxSealed
	// queueBytes is what waits for a session's writer; who has more waits. It is four records.
	queueBytes = 256 << 10
)

// Kinds of frames. The first five are said by who opened the session, the others by the other side.
const (
	frameOneWay   = 1 // what was given to Post
	frameRequest  = 2 // method (1 byte), milliseconds that the answer is waited for (4), what is asked
	frameCancel   = 3 // nobody waits for the answer any more
	frameEnvelope = 4
	frameAnswer   = 16
	frameRefusal  = 17 // code (1 byte), why
	frameAck      = 18 // epoch, sequence: it is on disk
	frameNack     = 19 // epoch, sequence, code (1 byte)
)

// Codes of refusals.
const (
	codeDenied = 1 // no right to
	codeBusy   = 2 // not now: full, or something failed
	codeNever  = 3 // never: it is damaged, or for a group that one of the two is not in
	codeFailed = 4 // the one who answers says so, in words
)

// maxReason is what is said in words, in bytes.
const maxReason = 1 << 10

// errUnsaid says that a session had ended before something was queued.
var errUnsaid = errors.New("it was not said")

// queue is the frames that wait for a session's writer. Whoever adds to a full one waits: so a slow reader slows the sender.
type queue struct {
	wake chan struct{} // holds one: there is something to take, or it has ended

	mu   sync.Mutex
	buf  []byte
	room chan struct{} // closed when the writer takes; nil where nobody waits
	end  error         // nothing is added any more
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

// put adds a frame whose payload is the parts together. It copies them.
func (q *queue) put(ctx context.Context, kind byte, id uint64, a, b []byte) error {
	n := frameHead + len(a) + len(b)
	if n > maxFrame {
		return fmt.Errorf("a frame of %d bytes, of at most %d", n, maxFrame)
	}
	q.mu.Lock()
	for q.end == nil && len(q.buf) > 0 && len(q.buf)+n > queueBytes {
		if err := q.await(ctx); err != nil {
			return err
		}
	}
	defer q.mu.Unlock()
	return q.add(kind, id, a, b)
}

// force adds a small frame without waiting. Who uses it bounds how many there are: see queue.ready.
func (q *queue) force(kind byte, id uint64, a []byte) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.add(kind, id, a, nil)
}

// ready waits until there is room.
func (q *queue) ready(ctx context.Context) error {
	q.mu.Lock()
	for q.end == nil && len(q.buf) > queueBytes {
		if err := q.await(ctx); err != nil {
			return err
		}
	}
	defer q.mu.Unlock()
	return q.end
}

// await gives the lock back, waits for the writer, and takes it again; with an error it does not have it.
func (q *queue) await(ctx context.Context) error {
	if q.room == nil {
		q.room = make(chan struct{})
	}
	room := q.room
	q.mu.Unlock()
	select {
	case <-room:
		q.mu.Lock()
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (q *queue) add(kind byte, id uint64, a, b []byte) error {
	if q.end != nil {
		return fmt.Errorf("%w: %w", errUnsaid, q.end)
	}
	empty := len(q.buf) == 0
	q.buf = binary.BigEndian.AppendUint32(q.buf, uint32(frameHead-4+len(a)+len(b)))
	q.buf = append(q.buf, kind)
	q.buf = binary.BigEndian.AppendUint64(q.buf, id)
	q.buf = append(q.buf, a...)
	q.buf = append(q.buf, b...)
	if empty {
		q.signal()
	}
	return nil
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// take is all that waits, in exchange for room to add more to. ended says that nothing will follow.
func (q *queue) take(spare []byte) (b []byte, ended bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	b, q.buf = q.buf, spare[:0]
	if q.room != nil {
		close(q.room)
		q.room = nil
	}
	return b, q.end != nil
}

// close lets what is queued be the last.
func (q *queue) close(why error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.end == nil {
		q.end = why
	}
	if q.room != nil {
		close(q.room)
		q.room = nil
	}
	q.signal()
}

// frames puts together what came in records. A frame may begin in one record and end in a later one.
type frames struct {
	part []byte // of a frame that is not all there
}

// feed gives each whole frame to each. The payload is good until each returns. What a frame says of its size is believed only as its bytes
// come.
func (f *frames) feed(b []byte, each func(kind byte, id uint64, payload []byte) error) error {
	for len(b) > 0 {
		if len(f.part) == 0 {
			size, err := frameSize(b)
			if err != nil {
				return err
			}
			if size > 0 && len(b) >= size {
				if err := each(splitFrame(b[:size])); err != nil {
					return err
				}
				b = b[size:]
				continue
			}
		}
		want := 4
		if len(f.part) >= 4 {
			size, err := frameSize(f.part)
			if err != nil {
				return err
			}
			want = size
		}
		n := min(want-len(f.part), len(b))
		f.part = append(f.part, b[:n]...)
		b = b[n:]
		if want == 4 {
			if _, err := frameSize(f.part); err != nil {
				return err
			}
			continue
		}
		if len(f.part) < want {
			continue
		}
		err := each(splitFrame(f.part))
		if f.part = f.part[:0]; cap(f.part) > queueBytes {
			f.part = nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// frameSize is a frame's bytes with its head, 0 where not even its size is there.
func frameSize(b []byte) (int, error) {
	if len(b) < 4 {
		return 0, nil
	}
	n := binary.BigEndian.Uint32(b)
	if n < frameHead-4 || n > maxFrame-4 {
		return 0, fmt.Errorf("%w: a frame of %d bytes, of %d to %d", ErrCorrupt, n, frameHead-4, maxFrame-4)
	}
	return int(n) + 4, nil
}

func splitFrame(b []byte) (kind byte, id uint64, payload []byte) {
	return b[4], binary.BigEndian.Uint64(b[5:]), b[frameHead:]
}
