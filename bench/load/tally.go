package load

import (
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// What a histogram tells apart: a microsecond to five minutes, to three figures.
const (
	least, most = 1, int64(5 * time.Minute / time.Microsecond)
	figures     = 3
	// maxNumber bounds a user's numbers, and by it the memory of which have come: 32 MiB for a user that has sent so many.
	maxNumber = 1 << 28
)

func newHistogram() *hdrhistogram.Histogram { return hdrhistogram.New(least, most, figures) }

func record(h *hdrhistogram.Histogram, d time.Duration) {
	_ = h.RecordValue(min(max(d.Microseconds(), least), most)) // it fails only for what is beyond its bounds
}

// Tally is what a node has heard. It is safe for concurrent use.
type Tally struct {
	mu      sync.Mutex
	delays  *hdrhistogram.Histogram
	seen    map[uint32][]uint64 // of each user, one bit a number
	heard   uint64              // different ones
	doubled uint64
	strange uint64 // what nobody of this load has sent
	counted uint64
	last    time.Time // when the last that counts came
}

// NewTally is one that has heard nothing.
func NewTally() *Tally { return &Tally{delays: newHistogram(), seen: map[uint32][]uint64{}} }

// Heard notes a message that has come, at this moment.
func (t *Tally) Heard(body []byte) {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(body) < HeaderSize || binary.BigEndian.Uint32(body) != mark {
		t.strange++
		return
	}
	user, n := binary.BigEndian.Uint32(body[4:]), binary.BigEndian.Uint64(body[8:])
	counted := n&counts != 0
	if n &^= counts; n >= maxNumber || user >= MaxUsers {
		t.strange++
		return
	}
	bits := t.seen[user]
	for uint64(len(bits)) <= n/64 {
		bits = append(bits, 0)
	}
	t.seen[user] = bits
	if bits[n/64]&(1<<(n%64)) != 0 {
		t.doubled++
		return
	}
	bits[n/64] |= 1 << (n % 64)
	t.heard++
	if counted {
		t.counted++
		t.last = now
		record(t.delays, now.Sub(time.Unix(0, int64(binary.BigEndian.Uint64(body[16:])))))
	}
}

// count is how many different ones were heard.
func (t *Tally) count() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.heard
}

// Result is what became of a load, of the nodes of one process, or by Merge of several.
type Result struct {
	Sent
	Heard    uint64 `json:"heard"`    // different messages, once for each node that heard them
	Expected uint64 `json:"expected"` // that were taken, likewise
	Doubled  uint64 `json:"doubled"`
	Strange  uint64 `json:"strange"`
	Counted  uint64 `json:"counted"` // of those heard: due while all users were there
	Last     int64  `json:"last"`    // when the last of these came, in Unix nanoseconds
	Delays   []byte `json:"delays"`  // their latencies in microseconds, in HdrHistogram's compressed encoding V2
	Late     []byte `json:"late"`    // how late messages were handed over, likewise
}

// take adds what a node has heard.
func (r *Result) take(t *Tally, delays *hdrhistogram.Histogram) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r.Heard, r.Doubled, r.Strange, r.Counted = r.Heard+t.heard, r.Doubled+t.doubled, r.Strange+t.strange, r.Counted+t.counted
	if !t.last.IsZero() {
		r.Last = max(r.Last, t.last.UnixNano())
	}
	delays.Merge(t.delays)
}

// Merge adds another process's.
func (r *Result) Merge(o *Result) (err error) {
	r.Sent.add(&o.Sent)
	r.Heard, r.Expected, r.Doubled, r.Strange, r.Counted = r.Heard+o.Heard, r.Expected+o.Expected, r.Doubled+o.Doubled, r.Strange+o.Strange, r.Counted+o.Counted
	r.Last = max(r.Last, o.Last)
	if r.Delays, err = mergeHistograms(r.Delays, o.Delays); err == nil {
		r.Late, err = mergeHistograms(r.Late, o.Late)
	}
	return err
}

// Lost is how many that were taken have not come.
func (r *Result) Lost() uint64 { return r.Expected - min(r.Expected, r.Heard) }

// Histogram reads Delays or Late.
func Histogram(encoded []byte) (*hdrhistogram.Histogram, error) {
	if len(encoded) == 0 {
		return newHistogram(), nil
	}
	h, err := hdrhistogram.Decode(encoded)
	if err != nil {
		return nil, fmt.Errorf("a histogram: %w", err)
	}
	return h, nil
}

func encodeHistogram(h *hdrhistogram.Histogram) ([]byte, error) {
	return h.Encode(hdrhistogram.V2CompressedEncodingCookieBase)
}

func mergeHistograms(a, b []byte) ([]byte, error) {
	x, err := Histogram(a)
	if err != nil {
		return nil, err
	}
	y, err := Histogram(b)
	if err != nil {
		return nil, err
	}
	x.Merge(y)
	return encodeHistogram(x)
}
