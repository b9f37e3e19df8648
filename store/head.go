package store

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/quantra-l/quantra/profile"
)

// head is the profiles in memory. One goroutine, the applier, changes it; it
// prepares each change without the lock and publishes it under mu. A query
// takes what it needs under mu for reading and sums without it, on slices that
// only grow or are replaced, never written in place. So neither waits long for the other.
//
// Lock order: DB.mu before head.mu.
type head struct {
	mu      sync.RWMutex
	tenants map[string]*tenant

	// The applier's alone.
	shapes map[string]*shape
	bytes  int64 // of entries; dicts count themselves
}

// tenant is one tenant's profiles.
type tenant struct {
	dict   *dict  // the applier's alone
	view   tables // of dict, as published
	series map[string]*series
	// index is label name -> value -> the series that have it.
	index map[string]map[string]map[*series]struct{}
}

// series is the profiles of one name with one set of labels.
type series struct {
	key     string
	name    string
	labels  profile.Labels
	entries []*entry // sorted by from; replaced, not written, but for appending
}

// shape is what the columns of a profile are; profiles share them.
type shape struct {
	types []profile.Type
	texts []string
}

// entry is one profile. It is never changed.
type entry struct {
	from, to, duration, period int64
	seg                        uint64
	shape                      *shape
	columns                    []column
	bytes                      int64
}

// entryBytes and columnBytes are what they cost beside their data.
const (
	entryBytes  = 160
	columnBytes = 56
	seriesBytes = 1024
)

func newHead() *head {
	return &head{tenants: map[string]*tenant{}, shapes: map[string]*shape{}}
}

// seriesKey is the identity of a series within its tenant.
func seriesKey(name string, labels profile.Labels) string {
	var b strings.Builder
	b.WriteString(name)
	for _, l := range labels {
		b.WriteByte(0)
		b.WriteString(l.Name)
		b.WriteByte(0)
		b.WriteString(l.Value)
	}
	return b.String()
}

// has says whether the series is there, and how many its tenant has, and how many tenants there are.
func (h *head) has(tenantName, key string) (ok bool, ofTenant, tenants int) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	if t := h.tenants[tenantName]; t != nil {
		return t.series[key] != nil, len(t.series), len(h.tenants)
	}
	return false, 0, len(h.tenants)
}

func (h *head) shape(name string, p *profile.Profile) *shape {
	types := make([]profile.Type, len(p.SampleTypes))
	texts := make([]string, len(types))
	for i, s := range p.SampleTypes {
		types[i] = profile.Type{Name: name, Sample: s, Period: p.PeriodType}
		texts[i] = types[i].String()
	}
	k := strings.Join(texts, "\x00")
	s := h.shapes[k]
	if s == nil {
		for i, t := range types {
			types[i] = profile.Type{Name: strings.Clone(t.Name), Sample: profile.ValueType{Type: strings.Clone(t.Sample.Type), Unit: strings.Clone(t.Sample.Unit)},
				Period: profile.ValueType{Type: strings.Clone(t.Period.Type), Unit: strings.Clone(t.Period.Unit)}}
		}
		s = &shape{types, texts}
		h.shapes[k] = s
	}
	return s
}

// add puts an upload in, and says by how much the head's estimate grew.
func (h *head) add(u *Upload, seg uint64) int64 {
	h.mu.RLock()
	t := h.tenants[u.Tenant]
	h.mu.RUnlock()
	fresh := t == nil
	if fresh {
		t = &tenant{dict: newDict(), series: map[string]*series{}, index: map[string]map[string]map[*series]struct{}{}}
	}
	before := t.dict.bytes
	stacks, sets := t.dict.intern(u.Profile, seg)
	e := &entry{from: u.From.UnixNano(), to: u.To.UnixNano(), duration: u.Profile.DurationNanos, period: u.Profile.Period,
		seg: seg, shape: h.shape(u.Name, u.Profile), columns: pack(u.Profile, stacks, sets), bytes: entryBytes}
	for _, c := range e.columns {
		e.bytes += columnBytes + int64(len(c.data))
	}
	k := seriesKey(u.Name, u.Labels)

	h.mu.Lock()
	defer h.mu.Unlock()
	if fresh {
		h.tenants[u.Tenant] = t
	}
	t.view = t.dict.tables
	s := t.series[k]
	if s == nil {
		s = &series{key: k, name: u.Name, labels: u.Labels}
		t.series[k] = s
		t.dict.bytes += seriesBytes
		for _, l := range s.labels {
			t.post(l.Name, l.Value, s)
		}
	}
	s.insert(e)
	h.bytes += e.bytes
	return e.bytes + t.dict.bytes - before
}

func (t *tenant) post(name, value string, s *series) {
	values := t.index[name]
	if values == nil {
		values = map[string]map[*series]struct{}{}
		t.index[name] = values
	}
	if values[value] == nil {
		values[value] = map[*series]struct{}{}
	}
	values[value][s] = struct{}{}
}

func (t *tenant) unpost(s *series) {
	for _, l := range s.labels {
		values := t.index[l.Name]
		delete(values[l.Value], s)
		if len(values[l.Value]) == 0 {
			delete(values, l.Value)
		}
		if len(values) == 0 {
			delete(t.index, l.Name)
		}
	}
}

// insert keeps entries sorted. Out of order it makes a new slice: queries may hold the old.
func (s *series) insert(e *entry) {
	n := len(s.entries)
	if n == 0 || s.entries[n-1].from <= e.from {
		s.entries = append(s.entries, e)
		return
	}
	i, _ := slices.BinarySearchFunc(s.entries, e.from+1, func(x *entry, from int64) int { return cmp.Compare(x.from, from) })
	next := make([]*entry, 0, n+n/8+1)
	next = append(append(next, s.entries[:i]...), e)
	s.entries = append(next, s.entries[i:]...)
}

// size is the estimate of the memory held. Only the applier calls it.
func (h *head) size() int64 {
	n := h.bytes
	for _, t := range h.tenants {
		n += t.dict.bytes
	}
	return n
}

// drop takes the profiles of a segment out; oldest is the oldest segment that
// stays. Dictionaries of which more than half is garbage are made anew.
func (h *head) drop(seg, oldest uint64) {
	h.mu.Lock()
	for name, t := range h.tenants {
		for k, s := range t.series {
			keep := make([]*entry, 0, len(s.entries))
			for _, e := range s.entries {
				if e.seg != seg {
					keep = append(keep, e)
				} else {
					h.bytes -= e.bytes
				}
			}
			if len(keep) == len(s.entries) {
				continue
			}
			s.entries = keep
			if len(keep) == 0 {
				delete(t.series, k)
				t.unpost(s)
				t.dict.bytes -= seriesBytes
			}
		}
		if len(t.series) == 0 {
			delete(h.tenants, name)
		}
	}
	tenants := slices.Collect(maps.Values(h.tenants))
	h.mu.Unlock()
	for _, t := range tenants {
		if n := t.dict.garbage(oldest); n > 1024 && n > t.dict.stacks.Len()/2 {
			h.compact(t, oldest)
		}
	}
}

// compact makes t's dictionary anew. Queries go on with the old one meanwhile.
func (h *head) compact(t *tenant, oldest uint64) {
	d, stacks, sets := t.dict.compact(oldest)
	d.bytes += seriesBytes * int64(len(t.series))
	entries := map[*series][]*entry{}
	var grown int64
	for _, s := range t.series {
		next := make([]*entry, len(s.entries))
		for i, e := range s.entries {
			c := *e
			c.columns = make([]column, len(e.columns))
			c.bytes = entryBytes
			for j := range c.columns {
				c.columns[j] = e.columns[j].renumber(stacks, sets)
				c.bytes += columnBytes + int64(len(c.columns[j].data))
			}
			grown += c.bytes - e.bytes
			next[i] = &c
		}
		entries[s] = next
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	t.dict, t.view = d, d.tables
	for s, next := range entries {
		s.entries = next
	}
	h.bytes += grown
}
