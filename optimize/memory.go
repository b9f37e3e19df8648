package optimize

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// Memory is a [Journal] in memory, for simulated fleets. The zero value is empty.
type Memory struct {
	mu      sync.Mutex
	changes map[string]map[string]*kept // tenant, id
	rails   map[string][]byte
	holds   map[string][]byte
}

// kept holds JSON, as a database does, so that nobody shares memory with the journal.
type kept struct {
	doc     []byte
	events  [][]byte
	version int64
	at      time.Time // when something last happened to it
}

// Keep implements [Journal].
func (m *Memory) Keep(_ context.Context, c *Change, rails *Rails, events ...Event) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.changes == nil {
		m.changes, m.rails, m.holds = map[string]map[string]*kept{}, map[string][]byte{}, map[string][]byte{}
	}
	of := m.changes[c.Tenant]
	if of == nil {
		of = map[string]*kept{}
		m.changes[c.Tenant] = of
	}
	k := of[c.ID]
	var version int64
	if k != nil {
		version = k.version
	}
	if version != c.version {
		return fmt.Errorf("%w: change %s has been written since it was read", ErrConflict, c.ID)
	}
	doc, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if k == nil {
		k = &kept{}
	}
	next := kept{doc: doc, version: version + 1, events: k.events, at: later(k.at, c.SeenAt)}
	for _, e := range events {
		e.Seq = int64(len(next.events)) + 1
		b, err := json.Marshal(e)
		if err != nil {
			return err
		}
		next.events = append(next.events, b)
		next.at = later(next.at, e.Time)
	}
	if rails != nil {
		b, err := json.Marshal(rails)
		if err != nil {
			return err
		}
		m.rails[c.Tenant] = b
	}
	of[c.ID] = &next
	c.version++
	return nil
}

// Change implements [Journal].
func (m *Memory) Change(_ context.Context, tenant, id string) (Change, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := m.changes[tenant][id]
	if k == nil {
		return Change{}, false, nil
	}
	c, err := k.change()
	return c, err == nil, err
}

func (k *kept) change() (c Change, err error) {
	err = json.Unmarshal(k.doc, &c)
	c.version = k.version
	return c, err
}

// Changes implements [Journal].
func (m *Memory) Changes(_ context.Context, tenant string, f Filter) ([]Change, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	of := m.changes[tenant]
	ids := slices.SortedFunc(maps.Keys(of), func(a, b string) int { return cmp.Or(of[b].at.Compare(of[a].at), cmp.Compare(a, b)) })
	var out []Change
	for _, id := range ids {
		k := of[id]
		if !f.Since.IsZero() && k.at.Before(f.Since) {
			continue
		}
		c, err := k.change()
		if err != nil {
			return nil, err
		}
		if f.chooses(&c) {
			out = append(out, c)
		}
		if len(out) == cmp.Or(f.Limit, 1000) {
			break
		}
	}
	return out, nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

func (f *Filter) chooses(c *Change) bool {
	return (f.Service == "" || c.Service == f.Service) &&
		(len(f.Kinds) == 0 || slices.Contains(f.Kinds, c.Kind)) &&
		(len(f.States) == 0 || slices.Contains(f.States, c.State))
}

// Events implements [Journal].
func (m *Memory) Events(_ context.Context, tenant, id string, after int64) (out []Event, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if k := m.changes[tenant][id]; k != nil {
		n := int64(len(k.events))
		if after < 0 {
			after = n - min(-after, MaxEvents)
		}
		for _, b := range k.events[min(max(0, after), n):min(max(0, after)+MaxEvents, n)] {
			var e Event
			if err := json.Unmarshal(b, &e); err != nil {
				return nil, err
			}
			out = append(out, e)
		}
	}
	return out, nil
}

// Tenants implements [Journal].
func (m *Memory) Tenants(context.Context) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.changes)), nil
}

// Rails implements [Journal].
func (m *Memory) Rails(_ context.Context, tenant string) (r Rails, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b := m.rails[tenant]; b != nil {
		err = json.Unmarshal(b, &r)
	}
	return r, err
}

// Holds implements [Journal].
func (m *Memory) Holds(_ context.Context, tenant string) (h Holds, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b := m.holds[tenant]; b != nil {
		err = json.Unmarshal(b, &h)
	}
	return h, err
}

// ChangeHolds implements [Journal].
func (m *Memory) ChangeHolds(_ context.Context, tenant string, change func(*Holds) error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var h Holds
	if b := m.holds[tenant]; b != nil {
		if err := json.Unmarshal(b, &h); err != nil {
			return err
		}
	}
	if err := change(&h); err != nil {
		return err
	}
	b, err := json.Marshal(h)
	if err != nil {
		return err
	}
	if m.holds == nil {
		m.changes, m.rails, m.holds = map[string]map[string]*kept{}, map[string][]byte{}, map[string][]byte{}
	}
	m.holds[tenant] = b
	return nil
}
