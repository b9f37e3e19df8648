package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/judge"
	"github.com/quantra-l/quantra/optimize/simulate"
)

// simulateRuns are four of each story: about a minute on two cores with the default plan.
const simulateRuns = 92

// mostSimulated bounds the virtual time of one run. A day of a fleet is some seconds of a processor.
const mostSimulated = 7 * 24 * time.Hour

func (a *app) changesSimulate() *cobra.Command {
	var o changesRuns
	var policy, service string
	cmd := &cobra.Command{
		Use:   "simulate",
		Short: "What a policy would make of good and of harmful changes, on simulated fleets",
		Long: `Let the optimizer make changes to simulated fleets by the policy in a file, in virtual time: good, neutral and harmful ones, with
spikes, lost data, lost nodes and an optimizer that dies. It prints what was promoted, what was undone, and how soon. Equal seeds give equal
reports. It needs no server.

Changes are of the kind runtime. So that something happens each is started by itself, approved, and at any hour, whatever mode, approvals
and windows the policy has. What is planted as harm is worse than the default metrics tolerate by half as much again: a policy that
tolerates more is told so, and promotes it.

The exit code is 1 if a harmful change was promoted, or a promise broken.`,
		Example: `  quantraband changes simulate --policy policy.yaml
  quantraband changes simulate --policy policy.yaml --service payment-eu --runs 1000 --seed 7 -o report.md`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		p := optimize.DefaultPolicy()
		if policy != "" {
			_, file, err := readPolicy(policy)
			if err != nil {
				return err
			}
			p = file.Policy
		}
		p = simulated(p, service)
		plan := p.Kinds[optimize.Runtime].Plan
		if most := simulate.Most(&plan); most > mostSimulated {
			return usagef("the stages may take up to %s, and %s are simulated at most: shorten their deadlines for the simulation", most, mostSimulated)
		}
		for _, s := range looser(plan.Metrics) {
			fmt.Fprintln(a.stderr, plain(s))
		}
		return a.runChanges(cmd.Context(), o, p)
	}
	f := cmd.Flags()
	f.StringVar(&policy, "policy", "", "`file` of the policy: docs/changes.md (default: the built-in one)")
	f.StringVarP(&service, "service", "s", "checkout", "simulate what the policy says of this `service`")
	o.flags(cmd, simulateRuns)
	return cmd
}

// simulated is what a policy says of changes of a service's runtime, such that they begin.
func simulated(p *optimize.Policy, service string) *optimize.Policy {
	out := *p
	kp := p.For(optimize.Runtime, service)
	kp.Mode, kp.Approve = optimize.Auto, false
	out.Kinds, out.Services, out.Windows = map[optimize.Kind]optimize.KindPolicy{optimize.Runtime: kp}, nil, nil
	return &out
}

// looser says of which metrics a policy tolerates more than what is planted as harm is by.
func looser(metrics []judge.Metric) (out []string) {
	for _, d := range judge.DefaultMetrics() {
		if !d.Critical {
			continue
		}
		i := slices.IndexFunc(metrics, func(m judge.Metric) bool { return m.Name == d.Name })
		switch {
		case i < 0 || !metrics[i].Critical:
			out = append(out, fmt.Sprintf("%s is not critical in this policy: changes that do harm by it alone are promoted.", d.Name))
		case metrics[i].Tolerate > d.Tolerate || metrics[i].Floor > d.Floor:
			out = append(out, fmt.Sprintf("%s may become worse by %s in this policy, and by %s in the default: changes that are called harmful here may be promoted.",
				d.Name, tolerance(&metrics[i]), tolerance(&d)))
		}
	}
	return out
}

func tolerance(m *judge.Metric) string {
	s := []string{fmt.Sprintf("%g %%", 100*m.Tolerate)}
	if m.Floor > 0 {
		s = append(s, fmt.Sprintf("%g", m.Floor))
	}
	return strings.Join(s, " and ")
}
