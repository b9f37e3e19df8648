package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/analyze/simulate"
)

func (a *app) benchFindings() *cobra.Command {
	var full bool
	var seed uint64
	var output string
	cmd := &cobra.Command{
		Use:   "findings",
		Short: "What regressions are found, how soon, and how often one is claimed that is none",
		Long: `Simulate fleets whose truth is known, made from real profiles: regressions of planted size, sudden and gradual, loads that go up and down
with the day, spikes, refactorings, deploys, hosts that differ. Report what of it the analysis finds, and what it claims beside it. Equal seeds
give equal reports. The short form takes about a minute, --full up to an hour.`,
		Example: `  quantraband bench findings
  quantraband bench findings --full -o findings.md`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			o := simulate.Options{Seed: seed}
			if full {
				o = simulate.Full(seed)
			}
			r, err := simulate.Run(o)
			if err != nil {
				return err
			}
			return a.emit(output, false, func(w io.Writer) error {
				_, err := fmt.Fprint(w, r.Markdown())
				return err
			})
		},
	}
	f := cmd.Flags()
	f.BoolVar(&full, "full", false, "the long form: a day of 60,000 series, looked at every minute")
	f.Uint64Var(&seed, "seed", 1, "`number` that the simulation starts from")
	f.StringVarP(&output, "output", "o", "", "write to this `file`")
	return cmd
}
