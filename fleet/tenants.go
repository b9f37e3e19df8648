package fleet

import (
	"maps"
	"slices"
	"time"
)

// Tenants are those that have agents, sorted.
func (f *Fleet) Tenants() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sweep(time.Now())
	all := map[string]bool{}
	for _, a := range f.agents {
		all[a.tenant] = true
	}
	return slices.Sorted(maps.Keys(all))
}

// Services are those of a tenant that have agents, sorted.
func (f *Fleet) Services(tenant string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sweep(time.Now())
	all := map[string]bool{}
	for _, a := range f.agents {
		if a.tenant == tenant {
			all[a.service] = true
		}
	}
	return slices.Sorted(maps.Keys(all))
}
