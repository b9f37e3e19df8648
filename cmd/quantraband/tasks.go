package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/ingest/console"
)

func (a *app) tasksCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:     "tasks",
		GroupID: "main",
		Short:   "See what the tasks of Rust programs do that a running server watches: programs, list, show",
		Long: `See what the tasks of Rust programs do that a running server watches: those with console-subscriber, which a job of
up --scrape FILE names with tokio_console. docs/scrape.md has the file.`,
		Example: `  quantraband tasks programs
  quantraband tasks list -s gateway
  quantraband tasks show 4711 -s gateway`,
	}, a.tasksPrograms(), a.tasksList(), a.tasksShow())
}

func (a *app) tasksPrograms() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "programs",
		Short: "The programs whose tasks the server watches",
		Example: `  quantraband tasks programs
  quantraband tasks programs --json | jq '.programs[].warnings'`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		var answer struct {
			Programs []console.Program `json:"programs"`
		}
		if err := q.ask(ctx, http.MethodGet, console.ProgramsPath, nil, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, answer)
		}
		return a.lines("SERVICE\tINSTANCE\tSTATE\tTASKS\tWARNINGS\tDROPPED\tLEFT OUT\tLAST ERROR", func(line func(...any)) {
			for _, p := range answer.Programs {
				state, warnings := "offline", 0
				switch {
				case p.Paused:
					state = "paused"
				case p.Online:
					state = "online"
				}
				for _, n := range p.Warnings {
					warnings += n
				}
				line(plain(p.Service), plain(p.Instance), state, p.Tasks, warnings, p.Dropped.Tasks+p.Dropped.Resources+p.Dropped.Ops, p.LeftOut, plain(p.LastError))
			}
		})
	})
	q.serverFlags(cmd)
	return cmd
}

// ofProgram adds the flags that name one program; the function is the query that does.
func (q *question) ofProgram(cmd *cobra.Command) func() url.Values {
	q.serverFlags(cmd)
	q.serviceFlag(cmd)
	instance := cmd.Flags().String("instance", "", "`which`, where the service has several")
	return func() url.Values {
		v := url.Values{"service": {q.service}}
		if *instance != "" {
			v.Set("instance", *instance)
		}
		return v
	}
}

func (a *app) tasksList() *cobra.Command {
	var q question
	var limit int
	cmd := &cobra.Command{
		Use:   "list",
		Short: "The tasks of one program: those with warnings first, then the busiest",
		Example: `  quantraband tasks list -s gateway
  quantraband tasks list -s gateway --json | jq '.tasks[] | select(.warnings) | .name'`,
		Args: cobra.NoArgs,
	}
	program := q.ofProgram(cmd)
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		v := program()
		v.Set("limit", strconv.Itoa(limit))
		var answer struct {
			Tasks []console.Task `json:"tasks"`
		}
		if err := q.ask(ctx, http.MethodGet, console.ListPath+"?"+v.Encode(), nil, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, answer)
		}
		return a.lines("ID\tNAME\tSTATE\tTOTAL\tBUSY\tSCHEDULED\tPOLLS\tWAKES\tSPAWNED AT\tWAITS FOR\tWARNINGS", func(line func(...any)) {
			for _, t := range answer.Tasks {
				var codes []string
				for _, w := range t.Warnings {
					codes = append(codes, w.Code)
				}
				waits := ""
				if len(t.Waits) > 0 {
					waits = t.Waits[0]
				}
				line(t.ID, plain(t.Name), t.State, shortTime(t.Total), shortTime(t.Busy), shortTime(t.Scheduled), t.Polls, t.Wakes, plain(t.Location), plain(waits), strings.Join(codes, " "))
			}
		})
	})
	cmd.Flags().IntVar(&limit, "limit", 100, "how many at most, up to 10,000")
	return cmd
}

// shortTime is nanoseconds to three digits or so.
func shortTime(ns int64) string {
	d := time.Duration(ns)
	for _, unit := range []time.Duration{time.Second, time.Millisecond, time.Microsecond} {
		if d >= unit {
			return d.Round(unit / 100).String()
		}
	}
	return d.String()
}

func (a *app) tasksShow() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "show ID",
		Short: "One task, with how long its polls took and how long it waited for them",
		Example: `  quantraband tasks show 4711 -s gateway
  quantraband tasks show 4711 -s gateway --json | jq .poll_times.buckets`,
		Args: cobra.ExactArgs(1),
	}
	program := q.ofProgram(cmd)
	cmd.RunE = q.asking(func(ctx context.Context, args []string) error {
		v := program()
		v.Set("task", args[0])
		var d console.Details
		if err := q.ask(ctx, http.MethodGet, console.DetailsPath+"?"+v.Encode(), nil, &d); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, d)
		}
		return a.writeTask(d)
	})
	return cmd
}

func (a *app) writeTask(d console.Details) error {
	t := d.Task
	err := a.lines("TASK\t"+strconv.FormatUint(t.ID, 10), func(line func(...any)) {
		line("name", plain(t.Name))
		line("kind", plain(t.Kind))
		line("spawned at", plain(t.Location))
		line("state", t.State)
		if len(t.Waits) > 0 {
			line("waits for", plain(strings.Join(t.Waits, ", in ")))
		}
		line("total, busy, scheduled, idle", fmt.Sprintf("%s, %s, %s, %s", shortTime(t.Total), shortTime(t.Busy), shortTime(t.Scheduled), shortTime(t.Idle)))
		line("polls", t.Polls)
		line("wakes, its own", fmt.Sprintf("%d, %d", t.Wakes, t.SelfWakes))
		line("wakers", t.Wakers)
		if t.Size > 0 {
			line("size", fmt.Sprintf("%d bytes", t.Size))
		}
		for _, h := range []struct {
			name string
			of   *console.Histogram
		}{{"polls took", d.Polls}, {"waited for polls", d.Scheduled}} {
			if h.of != nil {
				line(h.name+", p50, p90, p99, most", fmt.Sprintf("%s, %s, %s, %s", shortTime(int64(h.of.P50)), shortTime(int64(h.of.P90)), shortTime(int64(h.of.P99)), shortTime(int64(h.of.Max))))
			}
		}
	})
	for _, w := range t.Warnings {
		a.warn(w.Code + ": " + w.Text)
	}
	return err
}
