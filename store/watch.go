package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store/block"
)

// Change says that there are profiles that were not there before: of some minutes, by the start of their windows. It may say
// more than there is, never less.
type Change struct {
	Tenant string
	// Service and Name are whose profiles, and which; both "" are any of the tenant's.
	Service, Name string
	From, To      time.Time // whole minutes, [From, To)
}

// Watch collects changes for one who looks at them when they have time. What is known of a minute already costs nothing more, so
// a slow reader neither slows Append nor misses a minute. All methods may be called by many goroutines.
type Watch struct {
	db    *DB
	end   context.CancelFunc
	ready chan struct{} // has a token while there is something to take, or the watch is closed

	mu     sync.Mutex
	closed bool
	found  map[changeKey]spans
}

type changeKey struct{ tenant, service, name string }

// Bounds on what a watch keeps. Past them it says more than there is: any service of the tenant, and minutes between.
const (
	maxChangeKeys  = 100_000
	maxChangeSpans = 256
)

// Watch begins with what is in memory and what the backend holds in blocks that were made since, and goes on with all that is
// acknowledged from now on, and what other servers put where this one sees it. A change is told when
// questions are answered with it. Who keeps what they have seen and starts again gives a since from before they
// stopped, by as much as profiles stay in memory (FlushEvery, and FlushStuckAfter to be sure). Close must be called.
func (db *DB) Watch(since time.Time) (*Watch, error) {
	ctx, end := context.WithCancel(db.ctx)
	w := &Watch{db: db, end: end, ready: make(chan struct{}, 1), found: map[changeKey]spans{}}
	db.mu.Lock()
	if db.closed {
		db.mu.Unlock()
		end()
		return nil, fmt.Errorf("store: watch: %w: closed", ErrUnavailable)
	}
	db.watches = append(slices.Clone(db.watches), w)
	var heads []*head
	for _, seg := range db.segments {
		heads = append(heads, seg.head)
	}
	if db.opt.Backend != nil {
		db.watching.Go(func() {
			if err := db.opt.Backend.Watch(ctx, since, w.add); err != nil && ctx.Err() == nil {
				db.opt.Logger.Error("what other servers keep is not watched any more", "err", err)
			}
		})
	}
	db.mu.Unlock()
	for _, h := range heads {
		h.changes(w.add)
	}
	return w, nil
}

// changes calls see for all that the head has.
func (h *head) changes(see func(Change)) {
	type of struct {
		key     changeKey
		entries []*entry
	}
	var all []of
	h.mu.RLock()
	for name, t := range h.tenants {
		for _, s := range t.series {
			all = append(all, of{changeKey{name, s.labels.Get(profile.LabelService), s.name}, s.entries})
		}
	}
	h.mu.RUnlock()
	for _, x := range all {
		for _, e := range x.entries {
			see(changeAt(x.key, e.from))
		}
	}
}

func changeAt(k changeKey, from int64) Change {
	at := time.Unix(0, align(from, int64(time.Minute))).UTC()
	return Change{k.tenant, k.service, k.name, at, at.Add(time.Minute)}
}

// ChangesOf calls see for what a block has: for each service and name all minutes from its first window on to its last.
func ChangesOf(m *block.Meta, see func(Change)) {
	last := m.Partition.Add(m.Span())
	if m.To.Before(last) {
		last = m.To
	}
	from, to := m.From.UTC().Truncate(time.Minute), last.UTC().Add(time.Minute-1).Truncate(time.Minute)
	var before changeKey
	for i := range m.Series {
		k := changeKey{m.Tenant, m.Series[i].Labels.Get(profile.LabelService), m.Series[i].Name}
		if k != before { // they are sorted
			see(Change{k.tenant, k.service, k.name, from, to})
		}
		before = k
	}
}

// tell tells who watches.
func (db *DB) tell(c Change) {
	db.mu.Lock()
	ws := db.watches
	db.mu.Unlock()
	for _, w := range ws {
		w.add(c)
	}
}

func (w *Watch) add(c Change) {
	const minute = int64(time.Minute)
	from, to := align(nanos(c.From), minute)/minute, align(nanos(c.To)-1, minute)/minute+1
	if from >= to {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	k := changeKey{c.Tenant, c.Service, c.Name}
	if _, ok := w.found[k]; !ok && len(w.found) >= maxChangeKeys {
		k = changeKey{tenant: c.Tenant}
	}
	w.found[k] = w.found[k].add(span{from, to})
	w.wake()
}

// wake says that Next need not wait. Under mu, or not.
func (w *Watch) wake() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// Next waits for changes and takes all there are, in order of time. It is ErrUnavailable when the watch, or the store, is closed.
func (w *Watch) Next(ctx context.Context) ([]Change, error) {
	for {
		select {
		case <-w.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		w.mu.Lock()
		found, closed := w.found, w.closed
		if !closed {
			w.found = map[changeKey]spans{}
		}
		w.mu.Unlock()
		switch {
		case closed:
			w.wake() // for the next who asks
			return nil, fmt.Errorf("store: watch: %w: closed", ErrUnavailable)
		case len(found) > 0:
			return changesOf(found), nil
		}
	}
}

func changesOf(found map[changeKey]spans) []Change {
	var out []Change
	for k, ss := range found {
		for _, s := range ss {
			out = append(out, Change{k.tenant, k.service, k.name, time.Unix(s.from*60, 0).UTC(), time.Unix(s.to*60, 0).UTC()})
		}
	}
	slices.SortFunc(out, func(a, b Change) int {
		return cmp.Or(a.From.Compare(b.From), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Service, b.Service), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// Again gives changes back that were taken and could not be dealt with: the next Next has them.
func (w *Watch) Again(cs ...Change) {
	for _, c := range cs {
		w.add(c)
	}
}

// Close ends the watch.
func (w *Watch) Close() {
	w.end()
	w.db.mu.Lock()
	w.db.watches = slices.DeleteFunc(slices.Clone(w.db.watches), func(o *Watch) bool { return o == w })
	w.db.mu.Unlock()
	w.close()
}

// close lets go who waits.
func (w *Watch) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closed, w.found = true, nil
	w.wake()
}

// span is minutes of Unix time, [from, to).
type span struct{ from, to int64 }

// spans are sorted, and neither meet nor overlap.
type spans []span

// add is the spans with one more. Past their bound the two that are nearest to each other become one.
func (ss spans) add(s span) spans {
	lo, _ := slices.BinarySearchFunc(ss, s.from, func(x span, from int64) int { return cmp.Compare(x.to, from) })
	hi := lo
	for ; hi < len(ss) && ss[hi].from <= s.to; hi++ {
		s.from, s.to = min(s.from, ss[hi].from), max(s.to, ss[hi].to)
	}
	ss = slices.Replace(ss, lo, hi, s)
	if len(ss) <= maxChangeSpans {
		return ss
	}
	near := 1
	for i := 2; i < len(ss); i++ {
		if ss[i].from-ss[i-1].to < ss[near].from-ss[near-1].to {
			near = i
		}
	}
	ss[near-1].to = ss[near].to
	return slices.Delete(ss, near, near+1)
}
