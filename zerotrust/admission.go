package zerotrust

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"math/bits"
	"net/netip"
	"sync/atomic"
	"time"
)

// AdmissionOptions bound what strangers make us compute. The zero value is for a node on the internet.
type AdmissionOptions struct {
	// PerAddress is how many connections a minute an address may begin, and at once; for IPv6 a /64 is one address, as a host has all
	// of it. 0 is 60.
	PerAddress int
	// Total is how many handshakes a second may begin, and at once. 0 is 1,000: about a twentieth of a core in
	// signatures.
	Total int
	// MaxBits is the hardest puzzle that is asked: each bit doubles a stranger's work. 0 is 22 (about a second of one core), at most 32.
	MaxBits int
	Now     func() time.Time // nil is time.Now
}

// Admission stands before any work with public keys. It takes a fixed 1 MB, no lock, and at most two hashes for each attempt.
//
// While little is going on all come in, each address within its own rate. From half of the total rate on a stranger must first show that
// it receives what is sent to its address, and then that it has worked: a puzzle, which costs us one hash to make and one to check, and of
// which nothing is remembered until it is solved.
type Admission struct {
	opt     AdmissionOptions
	address bucket
	total   bucket
	start   time.Time
	secret  [32]byte
	seeds   [2]maphash.Seed
	// Each address has a place in both rows, by different hashes, and is over its rate where both say so: strangers cannot fill a
	// table, and who shares one place with a flood hardly shares both.
	rows    [2][1 << 15]atomic.Int64
	arrival atomic.Int64
	demand  rateMeter
	used    [1 << 16]atomic.Uint64 // marks of puzzles whose answers were used

	admitted, asked, refused atomic.Uint64
}

// Words of [Admission.Admit].
var (
	// ErrPuzzle says that what is asked of a stranger is to be sent to it: its answer comes with the next attempt.
	ErrPuzzle = errors.New("a puzzle is to be solved first")
	// ErrBusy says that it is refused, and nothing need be sent.
	ErrBusy = errors.New("too many attempts")
)

// Sizes and times of a puzzle, drawn in docs/format/identity.md.
const (
	puzzleHead   = "QLPZ\x01" // with the version
	PuzzleSize   = len(puzzleHead) + 1 + 8 + 16 + 32
	SolutionSize = PuzzleSize + 8
	puzzleValid  = 30 * time.Second
	// cookieFrom and workFrom are how empty the total bucket is from where on a puzzle without work is asked, and one with.
	cookieFrom, workFrom = 0.5, 0.75
	leastBits            = 12 // of a puzzle with work: a millisecond
)

// NewAdmission makes one.
func NewAdmission(o AdmissionOptions) (*Admission, error) {
	if o.PerAddress < 0 || o.Total < 0 || o.MaxBits < 0 || o.MaxBits > 32 {
		return nil, fmt.Errorf("zerotrust: AdmissionOptions %+v: none may be negative, and MaxBits at most 32", o)
	}
	if o.PerAddress == 0 {
		o.PerAddress = 60
	}
	if o.Total == 0 {
		o.Total = 1000
	}
	if o.MaxBits == 0 {
		o.MaxBits = 22
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	a := &Admission{
		opt: o, address: bucket{max(1, time.Minute/time.Duration(o.PerAddress)), o.PerAddress}, total: bucket{max(1, time.Second/time.Duration(o.Total)), o.Total},
		start: o.Now(), seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()},
	}
	rand.Read(a.secret[:]) // never fails: crypto/rand ends the program first
	return a, nil
}

// host is the address by which a stranger is told from others: 16 bytes, of IPv6 the first 8, as one host has a /64.
func host(remote netip.Addr) (h [16]byte) {
	remote = remote.Unmap()
	h = remote.As16()
	if remote.Is6() {
		clear(h[8:])
	}
	return h
}

// Admit says whether a stranger may begin a handshake. answer is what it sends with its attempt, nil at first. It is nil where it may,
// [ErrPuzzle] where the puzzle that is returned is to be sent to it, and [ErrBusy] where it is to be dropped.
func (a *Admission) Admit(remote netip.Addr, answer []byte) (puzzle []byte, err error) {
	if !remote.IsValid() {
		a.refused.Add(1)
		return nil, fmt.Errorf("%w: it has no address", ErrBusy)
	}
	now := a.opt.Now()
	mono := int64(now.Sub(a.start))
	h := host(remote)
	a.demand.add(mono)
	if !a.takeAddress(&h, mono) {
		a.refused.Add(1)
		return nil, ErrBusy
	}
	if need := a.bits(mono); need >= 0 {
		if err := a.solved(&h, answer, now); err != nil {
			a.asked.Add(1)
			return a.puzzle(&h, now, byte(need)), fmt.Errorf("%w: %w", ErrPuzzle, err)
		}
	}
	if !a.total.take(&a.arrival, mono) {
		a.refused.Add(1)
		return nil, ErrBusy
	}
	a.admitted.Add(1)
	return nil, nil
}

// takeAddress takes from the bucket of an address: allowed where either row has something left.
func (a *Admission) takeAddress(h *[16]byte, mono int64) bool {
	ok := false
	for i := range a.rows {
		row := &a.rows[i]
		if a.address.take(&row[maphash.Bytes(a.seeds[i], h[:])&uint64(len(row)-1)], mono) {
			ok = true
		}
	}
	return ok
}

// bits is how hard a puzzle is to be now: -1 is none, 0 shows only that the address receives. What is asked grows with the attempts a
// second that there are beyond what can be let in: who sends twice as many has twice the work for each.
func (a *Admission) bits(mono int64) int {
	empty := a.total.empty(&a.arrival, mono)
	over := a.demand.perSecond(mono) / float64(a.opt.Total)
	switch {
	case over > 1:
		return min(a.opt.MaxBits, leastBits+int(math.Ceil(2*math.Log2(over))))
	case empty >= workFrom:
		return min(a.opt.MaxBits, leastBits)
	case empty >= cookieFrom:
		return 0
	}
	return -1
}

// puzzle is: head, bits, time, 16 random bytes, and an HMAC of all that and the address.
func (a *Admission) puzzle(h *[16]byte, now time.Time, need byte) []byte {
	p := append(make([]byte, 0, PuzzleSize), puzzleHead...)
	p = append(p, need)
	p = binary.BigEndian.AppendUint64(p, uint64(now.Sub(a.start)))
	var salt [16]byte
	rand.Read(salt[:])
	p = append(p, salt[:]...)
	return a.mac(h, p)
}

func (a *Admission) mac(h *[16]byte, p []byte) []byte {
	m := hmac.New(sha256.New, a.secret[:])
	m.Write(p)
	m.Write(h[:])
	return m.Sum(p)
}

// solved is why an answer does not count. What was hard enough when it was asked is so now.
func (a *Admission) solved(h *[16]byte, answer []byte, now time.Time) error {
	if len(answer) != SolutionSize || string(answer[:len(puzzleHead)]) != puzzleHead {
		return errors.New("there is no answer to one")
	}
	body, head := answer[:PuzzleSize], PuzzleSize-sha256.Size
	var buf [SolutionSize]byte
	copy(buf[:], body[:head])
	if !hmac.Equal(a.mac(h, buf[:head:PuzzleSize])[head:], body[head:]) {
		return errors.New("it is not ours, or another address was asked")
	}
	age := now.Sub(a.start) - time.Duration(binary.BigEndian.Uint64(body[len(puzzleHead)+1:]))
	if age < 0 || age > puzzleValid {
		return fmt.Errorf("it is good for %s, and was asked %s ago", puzzleValid, age.Round(time.Second))
	}
	need := int(body[len(puzzleHead)])
	sum := sha256.Sum256(answer)
	if zeros(&sum) < need {
		return errors.New("it is not solved")
	}
	// A puzzle is good once. A mark that others have overwritten lets one in again: each has had to solve one for that.
	mark := binary.BigEndian.Uint64(body[head:]) | 1
	if a.used[mark>>48].Swap(mark) == mark {
		return errors.New("its answer was used before")
	}
	return nil
}

func zeros(sum *[sha256.Size]byte) int {
	if n := bits.LeadingZeros64(binary.BigEndian.Uint64(sum[:])); n < 64 {
		return n
	}
	return 64
}

// Solve solves a puzzle by trying: 2^bits hashes on average. A puzzle of more bits than most is not tried: a server that asks too much is
// not worth it.
func Solve(ctx context.Context, puzzle []byte, most int) ([]byte, error) {
	if len(puzzle) != PuzzleSize || string(puzzle[:len(puzzleHead)]) != puzzleHead {
		return nil, fmt.Errorf("%w: this is no puzzle of version 1", ErrCorrupt)
	}
	need := int(puzzle[len(puzzleHead)])
	if need > most {
		return nil, fmt.Errorf("%w: a puzzle of %d bits is asked, %d are too many", ErrDenied, need, most)
	}
	answer := append(make([]byte, 0, SolutionSize), puzzle...)
	answer = answer[:SolutionSize]
	for n := uint64(0); ; n++ {
		if n&0xfff == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		binary.BigEndian.PutUint64(answer[PuzzleSize:], n)
		if sum := sha256.Sum256(answer); zeros(&sum) >= need {
			return answer, nil
		}
	}
}

// AdmissionStatus is what an admission is doing.
type AdmissionStatus struct {
	Admitted  uint64  `json:"admitted"`
	Asked     uint64  `json:"asked"` // answered with a puzzle
	Refused   uint64  `json:"refused"`
	PerSecond float64 `json:"per_second"` // attempts, lately
	Bits      int     `json:"bits"`       // of the puzzle that is asked now; -1 is none
}

// Status is what it is doing now.
func (a *Admission) Status() AdmissionStatus {
	mono := int64(a.opt.Now().Sub(a.start))
	return AdmissionStatus{a.admitted.Load(), a.asked.Load(), a.refused.Load(), a.demand.perSecond(mono), a.bits(mono)}
}

// rateMeter is how often something happens: the greater of the last whole second's count and this one's so far.
type rateMeter struct{ this, count, last atomic.Int64 }

func (m *rateMeter) add(mono int64) {
	m.roll(mono)
	m.count.Add(1)
}

func (m *rateMeter) roll(mono int64) {
	second := mono / int64(time.Second)
	if at := m.this.Load(); second > at && m.this.CompareAndSwap(at, second) {
		n := m.count.Swap(0)
		if second > at+1 {
			n = 0
		}
		m.last.Store(n)
	}
}

func (m *rateMeter) perSecond(mono int64) float64 {
	m.roll(mono)
	return float64(max(m.last.Load(), m.count.Load()))
}
