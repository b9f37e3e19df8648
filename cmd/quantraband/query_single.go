package main

import (
	"context"
	"fmt"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/profile"
	quantrav1 "github.com/quantra-l/quantra/wire/quantra/v1"
)

type trendJSON struct {
	Function string            `json:"function"`
	Labels   map[string]string `json:"labels"`
	Points   []trendPointJSON  `json:"points"`
}

type trendPointJSON struct {
	Time       time.Time `json:"time"`
	Self       float64   `json:"self"`
	Cumulative float64   `json:"cumulative"`
	Samples    uint32    `json:"samples"`
}

func labelMap(ls []*quantrav1.Label) map[string]string {
	m := map[string]string{}
	for _, l := range ls {
		m[l.Name] = l.Value
	}
	return m
}

func labelsOf(ls []*quantrav1.Label) (out profile.Labels) {
	for _, l := range ls {
		out = append(out, profile.Label{Name: l.Name, Value: l.Value})
	}
	return out
}

func (a *app) queryTrend() *cobra.Command {
	var q question
	var step time.Duration
	var groupBy []string
	cmd := &cobra.Command{
		Use:   "trend FUNCTION...",
		Short: "What functions had over time",
		Long: `Show what functions had of a type's values over time: self is theirs alone, total is with what they call.
It is read from roll-ups by the minute, so that a week is one small read.`,
		Example: `  quantraband query trend -s checkout --since 168h 'shop.(*Cache).evict'
  quantraband query trend -s checkout --by service_version --step 1h encoding/json.Marshal`,
		Args: cobra.RangeArgs(1, 100),
	}
	cmd.RunE = q.asking(func(ctx context.Context, args []string) error {
		c := q.client()
		sel, err := q.selection(ctx, c)
		if err != nil {
			return err
		}
		resp, err := c.Trend(ctx, connect.NewRequest(&quantrav1.TrendRequest{Selection: sel, Functions: args, StepMs: step.Milliseconds(), GroupBy: groupBy}))
		if err != nil {
			return q.serverError(err)
		}
		for _, w := range resp.Msg.Warnings {
			a.warn(w)
		}
		if len(resp.Msg.Lines) == 0 {
			a.warn("no sample in this range has such a function; names are whole, as `quantraband query top` lists them")
		}
		t, err := profile.ParseType(sel.ProfileType)
		if err != nil {
			return fmt.Errorf("%s: %w", q.server, err)
		}
		out := []trendJSON{}
		for _, l := range resp.Msg.Lines {
			line := trendJSON{Function: l.Function, Labels: labelMap(l.Labels), Points: []trendPointJSON{}}
			for i := range min(len(l.TMs), len(l.Self), len(l.Cumulative), len(l.Samples)) {
				line.Points = append(line.Points, trendPointJSON{time.UnixMilli(int64(l.TMs[i])).UTC(), l.Self[i], l.Cumulative[i], l.Samples[i]})
			}
			out = append(out, line)
		}
		if q.asJSON {
			return writeJSON(a.stdout, struct {
				Type  string      `json:"type"`
				Unit  string      `json:"unit"`
				Step  float64     `json:"stepSeconds"`
				Lines []trendJSON `json:"lines"`
			}{t.Sample.Type, t.Sample.Unit, float64(resp.Msg.StepMs) / 1000, out})
		}
		return a.lines("TIME\tSELF\tTOTAL\tSAMPLES\tFUNCTION\tLABELS", func(line func(...any)) {
			for i, l := range out {
				for _, p := range l.Points {
					line(p.Time.Local().Format(time.RFC3339), profile.FormatValue(int64(p.Self), t.Sample.Unit), profile.FormatValue(int64(p.Cumulative), t.Sample.Unit), p.Samples,
						l.Function, labelsOf(resp.Msg.Lines[i].Labels))
				}
			}
		})
	})
	q.sampleFlags(cmd)
	cmd.Flags().DurationVar(&step, "step", 0, "time between points, at least 1m (default: the server chooses)")
	cmd.Flags().StringSliceVar(&groupBy, "by", nil, "`labels` to group by, with commas between")
	return cmd
}

type profileJSON struct {
	ID     string            `json:"id"`
	Labels map[string]string `json:"labels"`
	From   time.Time         `json:"from"`
	To     time.Time         `json:"to"`
	Total  float64           `json:"total"`
}

func (a *app) queryProfiles() *cobra.Command {
	var q question
	var limit uint32
	cmd := &cobra.Command{
		Use:   "profiles",
		Short: "Single profiles, those with the largest totals",
		Example: `  quantraband query profiles -s checkout --since 1h
  quantraband query top -s checkout --since 1h --id 5f3a...     # one of them`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		c := q.client()
		sel, err := q.selection(ctx, c)
		if err != nil {
			return err
		}
		resp, err := c.Profiles(ctx, connect.NewRequest(&quantrav1.ProfilesRequest{Selection: sel, Limit: limit}))
		if err != nil {
			return q.serverError(err)
		}
		for _, w := range resp.Msg.Warnings {
			a.warn(w)
		}
		if n := len(resp.Msg.Profiles); int(resp.Msg.All) > n {
			a.warn(fmt.Sprintf("these are the %d largest of %d; --limit shows more", n, resp.Msg.All))
		}
		out := []profileJSON{}
		for _, p := range resp.Msg.Profiles {
			out = append(out, profileJSON{p.Id, labelMap(p.Labels), time.UnixMilli(p.FromMs).UTC(), time.UnixMilli(p.ToMs).UTC(), p.Total})
		}
		if q.asJSON {
			return writeJSON(a.stdout, out)
		}
		t, err := profile.ParseType(sel.ProfileType)
		if err != nil {
			return fmt.Errorf("%s: %w", q.server, err)
		}
		return a.lines("TIME\tLASTS\tTOTAL\tID\tLABELS", func(line func(...any)) {
			for i, p := range out {
				line(p.From.Local().Format(time.RFC3339), p.To.Sub(p.From), profile.FormatValue(int64(p.Total), t.Sample.Unit), p.ID, labelsOf(resp.Msg.Profiles[i].Labels))
			}
		})
	})
	q.sampleFlags(cmd)
	cmd.Flags().Uint32Var(&limit, "limit", 100, "how many, at most 10000")
	return cmd
}
