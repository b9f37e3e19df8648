package measure

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

// Instance is one of a service's, with its windows ascending.
type Instance struct {
	ID, Version string // the version of its last window
	Windows     []Window
}

// Window is the totals of the figures that were asked for, by sample type. What a window does not have is not there.
type Window struct {
	From, To time.Time
	Values   map[string]float64
}

// Figures are those of all instances of a service whose windows start in [from, to), by instance: one question to the store for
// each. units is the unit of each sample type of the profile "runtime" that is asked for (docs/agent.md).
func (r *Reader) Figures(ctx context.Context, tenant, service string, units map[string]string, from, to time.Time) ([]Instance, error) {
	of := []store.Matcher{{Name: profile.LabelService, Value: service}}
	byID := map[string]*Instance{}
	at := map[string]map[int64]int{} // by instance and start, the window
	for name, unit := range units {
		err := r.infos(ctx, tenant, of, figure(name, unit), from, to, func(i *store.ProfileInfo) {
			id := i.Labels.Get(profile.LabelInstance)
			in := byID[id]
			if in == nil {
				in = &Instance{ID: id}
				byID[id], at[id] = in, map[int64]int{}
			}
			n, ok := at[id][i.From.UnixNano()]
			if !ok {
				n = len(in.Windows)
				at[id][i.From.UnixNano()] = n
				in.Windows = append(in.Windows, Window{From: i.From, To: i.To, Values: map[string]float64{}})
			}
			in.Windows[n].Values[name] = float64(i.Total)
			in.Version = cmp.Or(i.Labels.Get(profile.LabelVersion), in.Version)
		})
		if err != nil {
			return nil, fmt.Errorf("measure: %w", err)
		}
	}
	out := make([]Instance, 0, len(byID))
	for _, in := range byID {
		slices.SortFunc(in.Windows, func(a, b Window) int { return a.From.Compare(b.From) })
		out = append(out, *in)
	}
	slices.SortFunc(out, func(a, b Instance) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}
