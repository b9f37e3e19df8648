package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/fleet"
	"github.com/quantra-l/quantra/profile"
)

func (a *app) agentsCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:     "agents",
		GroupID: "main",
		Short:   "See the agents of a running server, and lease settings to them: list, lease, release, enrol",
		Long: `See the agents that speak with a running server, and lease settings of the Go runtime to them. A lease
ends by itself, and when the server goes away: the agent then restores what it found. The server is the one that
--server or the environment variable QUANTRA_SERVER names, else ` + defaultServer + `.`,
		Example: `  quantraband agents list
  quantraband agents lease host-4711 --service checkout --for 10m --gogc 200 --gomemlimit 400MiB
  quantraband agents release host-4711 --service checkout`,
	}, a.agentsList(), a.agentsLease(), a.agentsRelease(), a.agentsEnrol())
}

// call asks one of the routes under fleet.ReaderPath.
func (q *question) call(ctx context.Context, method, path string, body, answer any) error {
	return q.ask(ctx, method, fleet.ReaderPath+path, body, answer)
}

// ask asks one of the routes that are no RPC. body is sent as JSON, nil is none.
func (q *question) ask(ctx context.Context, method, path string, body, answer any) error {
	var send io.Reader
	switch b := body.(type) {
	case nil:
	case []byte: // it is no JSON of ours
		send = bytes.NewReader(b)
	default:
		raw, err := json.Marshal(body)
		if err != nil {
			return err
		}
		send = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, q.server+path, send)
	if err != nil {
		return usagef("--server %q: %w", q.server, err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := q.http().Do(req)
	if err != nil {
		return q.callError(err)
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return q.callError(err)
	}
	if res.StatusCode != http.StatusOK {
		return faultOf(q.server, res.Status, raw)
	}
	if err := json.Unmarshal(raw, answer); err != nil {
		return unavailablef("%s is not a quantraband server, or one of another version: %w", q.server, err)
	}
	return nil
}

// faultOf is an answer that is none, of a server or a node, with the exit code that it asks for.
func faultOf(who, status string, raw []byte) error {
	var fault struct{ Code, Message string }
	if json.Unmarshal(raw, &fault) != nil || fault.Code == "" {
		return unavailablef("%s is not a quantraband server, or one of another version: it answers %s", who, status)
	}
	switch fault.Code {
	case "invalid_argument":
		return usagef("%s", fault.Message)
	case "permission_denied", "unauthenticated":
		return deniedf("%s: %s", who, fault.Message)
	case "unavailable", "resource_exhausted", "deadline_exceeded":
		return unavailablef("%s cannot do it now: %s", who, fault.Message)
	}
	return fmt.Errorf("%s: %s", who, fault.Message)
}

func (q *question) callError(err error) error {
	if errors.Is(err, context.Canceled) {
		return context.Canceled
	}
	if os.IsTimeout(err) {
		return unavailablef("%s did not answer within %s; wait longer with --timeout", q.server, q.timeout)
	}
	return q.serverError(err)
}

func (a *app) agentsList() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:   "list",
		Short: "The agents that the server knows: how each is, and what it was leased",
		Long: `List the agents that the server knows. COST is what an agent says it costs its program. LEASE is what it shall have:
"in force" when it says so itself, "waiting" until then, "refused" where it does not want it.`,
		Example: `  quantraband agents list
  quantraband agents list --service checkout --json | jq '.[].status'`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		path := ""
		if q.service != "" {
			path = "?" + url.Values{"service": {q.service}}.Encode()
		}
		var answer struct{ Agents []fleet.Agent }
		if err := q.call(ctx, http.MethodGet, path, nil, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, append([]fleet.Agent{}, answer.Agents...))
		}
		now := time.Now()
		return a.lines("SERVICE\tINSTANCE\tVERSION\tREGION\tONLINE\tCOST\tLEASE\tLAST ERROR", func(line func(...any)) {
			for _, g := range answer.Agents {
				line(plain(g.Service), plain(g.Instance), plain(g.Version), plain(g.Region), onlineText(g, now), costText(g.Status), leaseText(g.Granted, now), plain(lastError(g)))
			}
		})
	})
	q.serverFlags(cmd)
	cmd.Flags().StringVarP(&q.service, "service", "s", "", "only this service")
	return cmd
}

// plain is text of another program as a terminal may have it, in one line and at a length that a table bears.
func plain(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
	if r := []rune(s); len(r) > 120 {
		s = string(r[:120]) + "..."
	}
	return cmp.Or(s, "-")
}

func onlineText(g fleet.Agent, now time.Time) string {
	if g.Online {
		return "yes"
	}
	return "no, for " + now.Sub(g.Seen).Round(time.Second).String()
}

// costText is what the agent's own status says of its cost, where it says it: its form is the agent's affair.
func costText(status json.RawMessage) string {
	var s map[string]json.RawMessage
	if json.Unmarshal(status, &s) != nil {
		return "-"
	}
	var inner map[string]json.RawMessage
	if json.Unmarshal(s["cost"], &inner) == nil && inner != nil {
		s = inner
	}
	var parts []string
	for _, p := range []struct {
		name string
		text func(v float64) string
	}{
		{"cpu_percent", func(v float64) string { return fmt.Sprintf("%.2f%% CPU", v) }},
		{"memory_bytes", func(v float64) string { return profile.FormatValue(int64(v), "bytes") }},
	} {
		var v *float64
		if json.Unmarshal(s[p.name], &v) == nil && v != nil && *v >= 0 && *v < math.MaxInt64 {
			parts = append(parts, p.text(*v))
		}
	}
	return cmp.Or(strings.Join(parts, ", "), "-")
}

func leaseText(l *fleet.Lease, now time.Time) string {
	if l == nil {
		return "-"
	}
	state := "waiting"
	switch {
	case l.Refused != "":
		state = "refused"
	case l.InForce:
		state = "in force"
	}
	return fmt.Sprintf("%s (%s, %s left)", settingsText(l.Settings), state, max(0, l.Expires.Sub(now)).Round(time.Second))
}

func settingsText(s fleet.Settings) string {
	var parts []string
	add := func(name string, v *int64, text func(int64) string) {
		if v != nil {
			parts = append(parts, name+"="+text(*v))
		}
	}
	number := func(v int64) string { return fmt.Sprint(v) }
	add("gogc", s.GOGC, func(v int64) string {
		if v < 0 {
			return "off"
		}
		return number(v)
	})
	add("gomemlimit", s.MemoryLimit, func(v int64) string {
		if v == math.MaxInt64 {
			return "none"
		}
		b := byteSize(v)
		return b.String()
	})
	add("gomaxprocs", s.MaxProcs, number)
	add("cpu_rate", s.CPURate, number)
	return strings.Join(parts, " ")
}

// lastError is the reason for which the agent does not follow its lease, or the last error that its status has.
func lastError(g fleet.Agent) string {
	if g.Granted != nil && g.Granted.Refused != "" {
		return g.Granted.Refused
	}
	var s struct {
		LastError string `json:"last_error"`
	}
	_ = json.Unmarshal(g.Status, &s) // another form has no such field
	return cmp.Or(g.LeaseError, s.LastError)
}

func (a *app) agentsLease() *cobra.Command {
	var q question
	var howLong time.Duration
	var gogc, procs, rate int64
	var limit byteSize
	var by string
	cmd := &cobra.Command{
		Use:   "lease INSTANCE",
		Short: "Lease settings of the Go runtime to an agent, for a time",
		Long: `Lease settings to the program of an agent. Those that are not given are left alone, and the lease that it had is replaced.
When the time is over, on release, and when the server goes away, the agent restores what it found. The agent has guards of
its own: what it refuses is seen in agents list, with the reason.`,
		Example: `  quantraband agents lease host-4711 --service checkout --for 10m --gogc 200 --gomemlimit 400MiB
  quantraband agents lease host-4711 -s checkout --for 1h --gomaxprocs 2 --cpu-rate 50`,
		Args: cobra.ExactArgs(1),
	}
	cmd.RunE = q.asking(func(ctx context.Context, args []string) error {
		body := struct {
			Service  string `json:"service"`
			Instance string `json:"instance"`
			For      string `json:"for"`
			By       string `json:"by"`
			fleet.Settings
		}{Service: q.service, Instance: args[0], For: howLong.String(), By: by}
		for _, s := range []struct {
			flag string
			from *int64
			to   **int64
		}{{"gogc", &gogc, &body.GOGC}, {"gomemlimit", (*int64)(&limit), &body.MemoryLimit}, {"gomaxprocs", &procs, &body.MaxProcs}, {"cpu-rate", &rate, &body.CPURate}} {
			if cmd.Flags().Changed(s.flag) {
				*s.to = s.from
			}
		}
		if body.Settings == (fleet.Settings{}) {
			return usagef("there is nothing to lease: give --gogc, --gomemlimit, --gomaxprocs or --cpu-rate")
		}
		var answer struct{ Lease fleet.Lease }
		if err := q.call(ctx, http.MethodPost, "/lease", body, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, answer.Lease)
		}
		_, err := fmt.Fprintf(a.stdout, "leased %s to %s until %s\n", settingsText(answer.Lease.Settings), args[0], answer.Lease.Expires.Local().Format(time.RFC3339))
		return err
	})
	q.serverFlags(cmd)
	f := cmd.Flags()
	q.serviceFlag(cmd)
	f.DurationVar(&howLong, "for", 10*time.Minute, "how long, 1s to 24h")
	f.Int64Var(&gogc, "gogc", 0, "`percent` that the heap may grow between two collections: 10 or more, or -1 for off")
	f.Var(&limit, "gomemlimit", "memory that the Go runtime is to stay within, at least 4MiB")
	f.Int64Var(&procs, "gomaxprocs", 0, "`threads` that may run Go code at once")
	f.StringVar(&by, "by", me(), "`name` for the audit log")
	f.Int64Var(&rate, "cpu-rate", 0, "`samples` a second of the CPU profile: 50, 100 or 200, or 0 for none")
	return cmd
}

// serviceFlag adds a service that must be named.
func (q *question) serviceFlag(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&q.service, "service", "s", "", "the instance's service")
	if err := cmd.MarkFlagRequired("service"); err != nil { // cannot be: it was added above
		panic(err)
	}
}

func (a *app) agentsRelease() *cobra.Command {
	var q question
	var by string
	cmd := &cobra.Command{
		Use:     "release INSTANCE",
		Short:   "End an agent's lease before its time",
		Example: `  quantraband agents release host-4711 --service checkout`,
		Args:    cobra.ExactArgs(1),
	}
	cmd.RunE = q.asking(func(ctx context.Context, args []string) error {
		body := map[string]string{"service": q.service, "instance": args[0], "by": by}
		var answer struct{}
		if err := q.call(ctx, http.MethodPost, "/release", body, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, answer)
		}
		_, err := fmt.Fprintf(a.stdout, "%s has no lease\n", args[0])
		return err
	})
	q.serverFlags(cmd)
	cmd.Flags().StringVar(&by, "by", me(), "`name` for the audit log")
	q.serviceFlag(cmd)
	return cmd
}
