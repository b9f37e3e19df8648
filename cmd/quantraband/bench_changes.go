package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/simulate"
)

// fullRuns are those of the long form.
const fullRuns = 10_000

func (a *app) benchChanges() *cobra.Command {
	var o changesRuns
	var full bool
	cmd := &cobra.Command{
		Use:   "changes",
		Short: "How often a harmful change is promoted and a good one undone, on simulated fleets",
		Long: `Run the optimizer on simulated fleets in virtual time: good, neutral and harmful changes, slow burns, spikes, lost data, lost nodes, one
node only, and the optimizer killed at any of its steps. Report what was promoted, what was undone and how soon, and each promise that was
not kept. Equal seeds give equal reports. The exit code is 1 if a harmful change was promoted or a promise broken.

The short form takes some minutes, --full (10,000 runs) about an hour. Ctrl-C ends it with the report of the runs until then.`,
		Example: `  quantraband bench changes
  quantraband bench changes --full -o changes.md`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if full {
				o.runs = fullRuns
			}
			return a.runChanges(cmd.Context(), o, nil)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&full, "full", false, "10,000 runs")
	o.flags(cmd, 460)
	return cmd
}

// changesRuns are simulated runs that somebody asks for.
type changesRuns struct {
	runs   int
	seed   uint64
	output string
}

func (o *changesRuns) flags(cmd *cobra.Command, runs int) {
	f := cmd.Flags()
	f.IntVar(&o.runs, "runs", runs, "`number` of runs, spread over the stories")
	f.Uint64Var(&o.seed, "seed", 1, "`number` that the simulation starts from")
	f.StringVarP(&o.output, "output", "o", "", "write to this `file`")
}

// runChanges simulates a policy, nil for the default, and prints what became of its changes.
func (a *app) runChanges(ctx context.Context, o changesRuns, policy *optimize.Policy) error {
	if o.runs < 1 {
		return usagef("--runs %d: it must be at least 1", o.runs)
	}
	start, told := time.Now(), time.Now()
	ran := 0
	rows, err := simulate.Report(ctx, o.runs, o.seed, policy, func(n int) {
		ran = n
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			fmt.Fprintf(a.stderr, "%d of %d runs, %s\n", n, o.runs, time.Since(start).Round(time.Second))
		}
	})
	interrupted := errors.Is(err, context.Canceled) && ran > 0
	if err != nil && !interrupted {
		return err
	}
	if err := a.emit(o.output, false, func(w io.Writer) error {
		if interrupted {
			fmt.Fprintf(w, "Interrupted after %d of %d runs.\n\n", ran, o.runs)
		}
		_, err := fmt.Fprint(w, simulate.Markdown(rows))
		return err
	}); err != nil {
		return err
	}
	escaped, broken := 0, 0
	for i := range rows {
		escaped += len(rows[i].Escaped)
		broken += len(rows[i].Broken)
	}
	if escaped+broken > 0 {
		return fmt.Errorf("%d harmful changes were promoted, %d promises broken", escaped, broken)
	}
	return err // nil, or that it was interrupted
}
