package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/watch"
)

// maxMachines bounds a file of machines.
const maxMachines = 1 << 20

func loadMachines(name string) ([]analyze.Machine, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, pathError("open", name, err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxMachines+1))
	if err != nil {
		return nil, pathError("read", name, err)
	}
	if len(raw) > maxMachines {
		return nil, corruptf("%s: more than %d bytes", name, maxMachines)
	}
	m, err := analyze.ParseMachines(raw)
	if errors.Is(err, analyze.ErrMachines) {
		return nil, corruptf("%s: %w", name, err)
	}
	return m, err
}

func (a *app) transitionsCommand() *cobra.Command {
	var q question
	var check string
	cmd := &cobra.Command{
		Use:     "transitions",
		GroupID: "main",
		Short:   "The steps of a service's state machines, and how long they take",
		Long: `List the steps of a service, as the running server judged them last: by its spans, and by the machines of the file that up
--machines names (docs/transitions.md). What is slow is a finding. --check reads a file of machines and asks no server.`,
		Example: `  quantraband transitions -s checkout
  quantraband transitions --check machines.yaml`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		if check != "" {
			machines, err := loadMachines(check)
			if err != nil {
				return err
			}
			for _, m := range machines {
				if _, err := fmt.Fprintf(a.stdout, "%s: %d steps\n", plain(m.Name), len(m.Edges)); err != nil {
					return err
				}
			}
			return nil
		}
		if q.service == "" {
			return usagef("whose steps? give --service, or --check FILE")
		}
		var answer struct{ Transitions []analyze.Edge }
		if err := q.ask(ctx, http.MethodGet, watch.StepsPath+"?"+url.Values{"service": {q.service}}.Encode(), nil, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, append([]analyze.Edge{}, answer.Transitions...))
		}
		return a.lines("STEP\tCOUNT\tRATE\tP50\tP99\tERRORS\tP99 BEFORE", func(line func(...any)) {
			for _, e := range answer.Transitions {
				before := "-"
				if e.Past.P99.Value > 0 {
					before = seconds(e.Past.P99.Value)
				}
				line(plain(e.Name), fmt.Sprint(e.N), fmt.Sprintf("%.2f/s", e.Rate), seconds(e.P50.Value), seconds(e.P99.Value), fmt.Sprintf("%.1f %%", 100*e.Errors.Value), before)
			}
		})
	})
	q.serverFlags(cmd)
	cmd.Flags().StringVarP(&q.service, "service", "s", "", "the service")
	cmd.Flags().StringVar(&check, "check", "", "read a `file` of machines and say what is wrong in it")
	return cmd
}

func seconds(v float64) string {
	d := time.Duration(v * 1e9)
	switch {
	case d >= 10*time.Second:
		return d.Round(100 * time.Millisecond).String()
	case d >= 10*time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(time.Microsecond).String()
}
