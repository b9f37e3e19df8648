package store

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store/block"
)

// head is the profiles in memory. One goroutine, the applier, changes it; it
// prepares each change without the lock and publishes it under mu. A query
// takes what it needs under mu for reading and sums without it, on slices that
// only grow or are replaced, never written in place. So neither waits long for the other.
//
// Each segment of the log has one: what goes from memory goes whole, with its dictionary.
//
// Lock order: DB.mu before head.mu.
type head struct {
	mu      sync.RWMutex
	tenants map[string]*tenant

	// The applier's alone.
	shapes map[string]*shape
}

// tenant is one tenant's profiles.
type tenant struct {
	dict   *block.Dict  // the applier's alone
	view   block.Tables // of dict, as published
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
	id                         block.ID
	from, to, duration, period int64
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

// add puts an upload in, and says by how much the head's estimate grew, and whether its series is new here.
func (h *head) add(u *Upload, id block.ID) (grown int64, fresh bool) {
	h.mu.RLock()
	t := h.tenants[u.Tenant]
	h.mu.RUnlock()
	first := t == nil
	if first {
		t = &tenant{dict: block.NewDict(), series: map[string]*series{}, index: map[string]map[string]map[*series]struct{}{}}
	}
	before := t.dict.Bytes()
	stacks, sets := t.dict.Intern(u.Profile)
	e := &entry{id: id, from: u.From.UnixNano(), to: u.To.UnixNano(), duration: u.Profile.DurationNanos, period: u.Profile.Period,
		shape: h.shape(u.Name, u.Profile), columns: pack(u.Profile, stacks, sets), bytes: entryBytes}
	for _, c := range e.columns {
		e.bytes += columnBytes + int64(len(c.data))
	}
	k := seriesKey(u.Name, u.Labels)
	grown = e.bytes + t.dict.Bytes() - before

	h.mu.Lock()
	defer h.mu.Unlock()
	if first {
		h.tenants[u.Tenant] = t
	}
	t.view = t.dict.Tables
	s := t.series[k]
	if s == nil {
		s = &series{key: k, name: u.Name, labels: u.Labels}
		t.series[k] = s
		grown += seriesBytes
		fresh = true
		for _, l := range s.labels {
			t.post(l.Name, l.Value, s)
		}
	}
	s.insert(e)
	return grown, fresh
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
