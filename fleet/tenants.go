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
