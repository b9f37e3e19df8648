// Package tune joins changes of the runtime's settings with the server that they act through: the agents that poll it, and the
// profiles that it keeps.
package tune

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/quantra-l/quantra/fleet"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/runtime"
)

// zoneLabels are what a zone is called among an agent's labels, as OpenTelemetry and Kubernetes have it.
var zoneLabels = []string{"zone", "cloud_availability_zone", "topology_kubernetes_io_zone"}

// Agents are the agents of f, for [runtime.NewActuator].
func Agents(f *fleet.Fleet) runtime.Options {
	return runtime.Options{
		Agents: func(tenant, service string) []runtime.Agent {
			var out []runtime.Agent
			for _, a := range f.Agents(tenant, service) {
				out = append(out, agentOf(&a))
			}
			return out
		},
		Lease: func(ctx context.Context, tenant, service, instance string, s runtime.Settings, ttl time.Duration) error {
			_, err := f.Lease(ctx, fleet.Target{Tenant: tenant, Service: service, Instance: instance},
				fleet.Settings{GOGC: s.GOGC, MemoryLimit: s.MemoryLimit, MaxProcs: s.MaxProcs}, ttl)
			return worded(err)
		},
		Release: func(ctx context.Context, tenant, service, instance string) error {
			return worded(f.Release(ctx, fleet.Target{Tenant: tenant, Service: service, Instance: instance}))
		},
	}
}

func agentOf(a *fleet.Agent) runtime.Agent {
	out := runtime.Agent{
		Instance: a.Instance, Version: a.Version, Zone: a.Region, Started: a.Started, Online: a.Online, Polling: a.Polling, Seen: a.Seen,
		Optimizer: a.Optimizer, Settings: settings(a.Settings), Lease: a.Lease, LeaseError: a.LeaseError,
	}
	for _, l := range zoneLabels {
		if z := a.Labels[l]; z != "" {
			out.Zone = z
			break
		}
	}
	if g := a.Granted; g != nil {
		out.Granted = &runtime.Lease{ID: g.ID, Settings: settings(g.Settings), Other: g.CPURate != nil, Expires: g.Expires, InForce: g.InForce, Refused: g.Refused}
	}
	return out
}

func settings(s fleet.Settings) runtime.Settings {
	return runtime.Settings{GOGC: s.GOGC, MemoryLimit: s.MemoryLimit, MaxProcs: s.MaxProcs}
}

// worded gives a fleet's error the optimizer's words: what is wrong for good is refused, who is unknown is gone.
func worded(err error) error {
	var word error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fleet.ErrNotFound):
		word = optimize.ErrGone
	case errors.Is(err, fleet.ErrRefused), errors.Is(err, fleet.ErrInvalid):
		word = optimize.ErrRefused
	default:
		return err
	}
	return fmt.Errorf("%w: %w", word, err)
}
