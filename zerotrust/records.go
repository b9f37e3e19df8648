package zerotrust

import (
	"context"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quantra-l/quantra/zerotrust/policy"
)

// DefaultMaxRecords bounds the records where nothing else is said: about 60 MB.
const DefaultMaxRecords = 100_000

// record is a [Record] in use. What the way of a decision reads is atomic; the rest is under mu. Lock order: a shard, then a record,
// then the journal's queue.
type record struct {
	principal string        // never changes
	trust     atomic.Int32  // of the state below
	ageDue    atomic.Int64  // Unix seconds at which more trust is due for age; MaxInt64 is never
	arrival   atomic.Int64  // of its rate bucket: see bucket
	gone      atomic.Bool   // put out: another may be in its place by now
	ceiling   atomic.Uint32 // the [policy.Level] that behaviour allows at most
	sessions  atomic.Int32  // open now; such a record is not put out
	meter     meter         // what they do

	mu       sync.Mutex
	state    Record
	seq      uint64 // of its newest change
	queued   bool   // in the journal's queue
	open     []*Session
	rewarded time.Time // when a challenge last was
}

func makeRecord(s Record) *record {
	r := &record{principal: s.Principal, state: s}
	r.ceiling.Store(uint32(policy.Critical))
	return r
}

func (r *record) publish(now time.Time) {
	due := int64(math.MaxInt64)
	if next := r.state.aged(now); !next.IsZero() {
		due = next.Unix()
	}
	r.ageDue.Store(due)
	r.trust.Store(int32(r.state.Trust()))
}

// records is the table of all. It is read without a lock that all share: a principal's shard is found by a hash that strangers cannot
// foresee.
type records struct {
	seed    maphash.Seed
	shards  []recordShard
	most    int // in one shard
	seq     atomic.Uint64
	journal *journal // nil: kept in memory only
	now     func() time.Time
}

type recordShard struct {
	mu  sync.RWMutex
	all map[string]*record
	_   [64]byte // shards that lie beside each other share no cache line
}

func newRecords(most int, now func() time.Time) *records {
	n := 1
	for n < 256 && n*64 <= most {
		n *= 2
	}
	t := &records{seed: maphash.MakeSeed(), shards: make([]recordShard, n), most: (most + n - 1) / n, now: now}
	for i := range t.shards {
		t.shards[i].all = map[string]*record{}
	}
	return t
}

func (t *records) shard(principal string) *recordShard {
	return &t.shards[maphash.String(t.seed, principal)&uint64(len(t.shards)-1)]
}

// get is a principal's record, nil where it has none.
func (t *records) get(principal string) *record {
	s := t.shard(principal)
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.all[principal]
}

// need is a principal's record, made if it has none. Where hold is true a session is counted to it, and it is not put out until that is
// taken back. Where there is no room somebody goes of a lower class who is not here now, or among
// strangers the one longest not seen; if there is nobody like that it is [ErrUnavailable].
func (t *records) need(principal string, isVouched, hold bool, now time.Time) (*record, error) {
	s := t.shard(principal)
	s.mu.Lock()
	r, err := t.makeRoom(s, principal, isVouched, now)
	if err == nil && hold {
		r.sessions.Add(1)
	}
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if isVouched {
		t.vouch(r)
	}
	return r, nil
}

func (t *records) makeRoom(s *recordShard, principal string, isVouched bool, now time.Time) (*record, error) {
	if r := s.all[principal]; r != nil {
		return r, nil
	}
	fresh := newRecord(principal, isVouched, now)
	if len(s.all) >= t.most {
		out := s.victim(fresh.class())
		if out == nil {
			return nil, fmt.Errorf("%w: there is no room for another record, and all that are there are better known", ErrUnavailable)
		}
		out.gone.Store(true)
		delete(s.all, out.principal)
		if t.journal != nil {
			t.journal.removed(out.principal, t.seq.Add(1)) // under the shard's lock: before its principal can come back
		}
	}
	fresh.Principal = strings.Clone(principal)
	r := makeRecord(fresh)
	r.publish(now)
	s.all[r.principal] = r
	return r, nil
}

// victim is who goes for one of class c.
func (s *recordShard) victim(c int) (out *record) {
	class, last := c, time.Time{}
	for _, r := range s.all {
		if r.sessions.Load() > 0 {
			continue
		}
		r.mu.Lock()
		rc, seen := r.state.class(), r.state.Last
		r.mu.Unlock()
		if rc > class || rc == class && rc == c && c != stranger {
			continue
		}
		if out == nil || rc < class || seen.Before(last) || seen.Equal(last) && r.principal < out.principal {
			out, class, last = r, rc, seen
		}
	}
	return out
}

// vouch notes that somebody stands for a principal who was a stranger before.
func (t *records) vouch(r *record) {
	r.mu.Lock()
	known := r.state.Vouched
	r.mu.Unlock()
	if !known {
		t.update(r, func(s *Record) { s.Vouched = true })
	}
}

// trustOf is what a record is worth now.
func (t *records) trustOf(r *record, now time.Time) int {
	if now.Unix() >= r.ageDue.Load() {
		t.update(r, func(*Record) {}) // publishing gives what is due
	}
	return int(r.trust.Load())
}

// update changes a record, to be kept with the next commit.
func (t *records) update(r *record, change func(*Record)) {
	now := t.now()
	r.mu.Lock()
	before := r.state.Trust()
	change(&r.state)
	if last := now.Truncate(time.Second).UTC(); last.After(r.state.Last) {
		r.state.Last = last
	}
	r.publish(now)
	after := r.state.Trust()
	r.seq = t.seq.Add(1)
	queue := !r.queued && t.journal != nil
	r.queued = r.queued || queue
	r.mu.Unlock()
	if queue {
		t.journal.enqueue(r)
	}
	if policy.LevelOf(before) != policy.LevelOf(after) {
		r.tell()
	}
}

// penalty is what its failures take off.
func (r *record) penalty() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.state.Penalty
}

// commit returns when all that was changed before is on disk.
func (t *records) commit(ctx context.Context) error {
	if t.journal == nil {
		return nil
	}
	return t.journal.commit(ctx)
}

// list is all records, by principal.
func (t *records) list() []Record {
	var out []Record
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.RLock()
		for _, r := range s.all {
			r.mu.Lock()
			out = append(out, r.state)
			r.mu.Unlock()
		}
		s.mu.RUnlock()
	}
	slices.SortFunc(out, func(a, b Record) int { return strings.Compare(a.Principal, b.Principal) })
	return out
}

func (t *records) count() (n int) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.RLock()
		n += len(s.all)
		s.mu.RUnlock()
	}
	return n
}

// tell lets the sessions of a record know that their level may be another.
func (r *record) tell() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.open {
		s.notify(s.changed)
	}
}

// level is what a record's sessions may now, by trust and behaviour.
func (t *records) level(r *record, now time.Time) policy.Level {
	return min(policy.LevelOf(t.trustOf(r, now)), policy.Level(r.ceiling.Load()))
}
