package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/judge"
	"github.com/quantra-l/quantra/optimize/policyfile"
)

func (a *app) changesCommand() *cobra.Command {
	held := []*cobra.Command{a.changesList(), a.changesShow(), a.changesPropose(), a.changesPatch(), a.changesLog(), a.changesPlan(), a.changesPlaces(), a.changesSimulate(), a.changesPolicy()}
	for _, do := range []struct{ name, long string }{
		{"start", "Start a change that is proposed, or one that was undone again. Rails hold it all the same: list says which."},
		{"approve", "Approve what a change adds to the bill, or its kind. One that is proposed is started with it."},
		{"pause", "Hold a change where it is, or all of them where no ID is given. Nothing is begun or promoted; what is in force stays, is watched, and is undone where it does harm."},
		{"resume", "Let a change go on, or end the pause of all where no ID is given."},
		{"undo", "Take a change back from all nodes that it is at."},
		{"reject", "Say that a change is not wanted. It is not proposed again while what it rests on stays the same."},
	} {
		held = append(held, a.changesAct(do.name, do.long))
	}
	return a.group(&cobra.Command{
		Use:     "changes",
		GroupID: "main",
		Short:   "What a running server proposes to change, and does: list, show, propose, patch, start, approve, pause, resume, undo, reject, log, plan, places, simulate, policy",
		Long: `The server proposes changes that would make services cheaper or faster; one that is started goes from one node to all,
and is undone if it does harm. docs/changes.md tells of it, and of the file that up --policy names.`,
		Example: `  quantraband changes list
  quantraband changes start 5f0c8d2a9b1e4c77
  quantraband changes pause --for 2h --note release`,
	}, held...)
}

// changesAnswer is what the server answers to who asks for changes.
type changesAnswer struct {
	Changes []optimize.Listed `json:"changes"`
	Holds   optimize.Holds    `json:"holds"`
	Status  optimize.Status   `json:"status"`
}

func (a *app) changesList() *cobra.Command {
	var q question
	var kinds, states []string
	var since age
	limit := 200
	cmd := &cobra.Command{
		Use:   "list",
		Short: "Changes with their states, what happened last first",
		Example: `  quantraband changes list
  quantraband changes list --state open -s checkout --json`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		v := url.Values{"limit": {fmt.Sprint(limit)}}
		if q.service != "" {
			v.Set("service", q.service)
		}
		if since > 0 {
			v.Set("since", time.Duration(since).String())
		}
		for name, list := range map[string][]string{"kind": kinds, "state": states} {
			if len(list) > 0 {
				v.Set(name, strings.Join(list, ","))
			}
		}
		var raw json.RawMessage
		if err := q.ask(ctx, http.MethodGet, optimize.ChangesPath+"?"+v.Encode(), nil, &raw); err != nil {
			return err
		}
		var answer changesAnswer
		if err := q.decode(raw, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, raw)
		}
		return a.listChanges(&answer)
	})
	q.serverFlags(cmd)
	f := cmd.Flags()
	f.StringVarP(&q.service, "service", "s", "", "only this service")
	f.Var(&since, "since", "only what something happened to within this time; 0 is all")
	f.StringSliceVar(&kinds, "kind", nil, "only these `kinds`: "+join(optimize.Kinds))
	f.StringSliceVar(&states, "state", nil, "only in these `states`: "+join(optimize.States)+", open, all")
	f.IntVar(&limit, "limit", limit, "at most so many, 1 to 1000")
	return cmd
}

// decode reads an answer.
func (q *question) decode(raw []byte, to any) error {
	if err := json.Unmarshal(raw, to); err != nil {
		return unavailablef("%s is a server of another version: %w", q.server, err)
	}
	return nil
}

func (a *app) listChanges(answer *changesAnswer) error {
	if len(answer.Changes) > 0 {
		err := a.lines("ID\tSTATE\tKIND\tSERVICE\tA MONTH\tCHANGE", func(line func(...any)) {
			for i := range answer.Changes {
				c := &answer.Changes[i]
				line(plain(c.ID), plain(stateText(c)), plain(string(c.Kind)), plain(c.Service), savingText(&c.Change), sentenceText(c.Sentence))
			}
		})
		if err != nil {
			return err
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%d changes.", len(answer.Changes))
	for i := range answer.Changes {
		if c := &answer.Changes[i]; c.Held != "" {
			fmt.Fprintf(&b, "\n%s: %s", plain(c.ID), sentenceText(c.Held))
		}
	}
	b.WriteString(statusOfChanges(&answer.Status))
	_, err := fmt.Fprintln(a.stderr, b.String())
	return err
}

// stateText is a state, and how far it is.
func stateText(c *optimize.Listed) string {
	s := string(c.State)
	if c.State.Acting() && len(c.Plan.Stages) > 0 {
		s = fmt.Sprintf("%s %d/%d", s, c.Stage+1, len(c.Plan.Stages))
	}
	if c.Paused || !c.FrozenAt.IsZero() {
		s += " (paused)"
	}
	return s
}

// savingText is what it saves a month, or has been shown to; below 0 it costs.
func savingText(c *optimize.Change) string {
	switch {
	case c.Saved != nil && c.Saved.Price != nil:
		return moneyText(c.Saved.Price)
	case c.Price != nil:
		return moneyText(c.Price)
	case c.Saving != 0:
		return fmt.Sprintf("%.2f cores", c.Saving)
	}
	return "-"
}

// statusOfChanges is what keeps changes from going on, or from being known.
func statusOfChanges(s *optimize.Status) string {
	var b strings.Builder
	say := func(format string, args ...any) { b.WriteString("\n" + sentenceText(fmt.Sprintf(format, args...))) }
	if s.Frozen != "" {
		say("%s", s.Frozen)
	}
	if s.Policy.Error != "" {
		say("The policy file is wrong, and what was read before stays in force: %s", s.Policy.Error)
	}
	if !s.Leader {
		say("Another server on the same control database acts, or none does yet.")
	}
	for _, e := range s.Errors {
		say("Error: %s", oneLine(e))
	}
	return b.String()
}

// changeAnswer is one change with its history.
type changeAnswer struct {
	Change  optimize.Change  `json:"change"`
	History []optimize.Event `json:"history"`
	Latest  *judge.Verdict   `json:"latest"`
}

func changePath(id string) string { return optimize.ChangesPath + "/" + url.PathEscape(id) }

func (a *app) changesShow() *cobra.Command {
	var q question
	cmd := &cobra.Command{
		Use:     "show ID",
		Short:   "All of one change: where it is, the verdict with its figures, its nodes, its history",
		Example: `  quantraband changes show 5f0c8d2a9b1e4c77`,
		Args:    cobra.ExactArgs(1),
	}
	cmd.RunE = q.asking(func(ctx context.Context, args []string) error {
		var raw json.RawMessage
		if err := q.ask(ctx, http.MethodGet, changePath(args[0]), nil, &raw); err != nil {
			return err
		}
		var answer changeAnswer
		if err := q.decode(raw, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, raw)
		}
		return a.showChange(&answer)
	})
	q.serverFlags(cmd)
	return cmd
}

func (a *app) showChange(answer *changeAnswer) error {
	c := &answer.Change
	var b strings.Builder
	say := func(format string, args ...any) { b.WriteString(sentenceText(fmt.Sprintf(format, args...)) + "\n") }
	row := func(name, format string, args ...any) { say("  %-10s %s", name, fmt.Sprintf(format, args...)) }
	say("%s", c.Sentence)
	for _, w := range c.Warnings {
		say("Warning: %s", w)
	}
	say("")
	row("state", "%s", stateText(&optimize.Listed{Change: *c}))
	for _, t := range []struct{ name, text string }{{"why", c.Reason}, {"held by", c.Held}} {
		if t.text != "" {
			row(t.name, "%s", t.text)
		}
	}
	row("kind", "%s of %s%s", c.Kind, c.Service, map[bool]string{true: ", " + c.Subject}[c.Subject != ""])
	does := string(c.Spec)
	if c.Kind == optimize.Patch {
		does = cmp.Or(patchText(c.Spec), does)
	}
	row("does", "%s", does)
	row("saves", "%s a month", savingText(c))
	if c.Cost > 0 {
		row("adds", "%.0f a month to the bill", c.Cost)
	}
	if c.StartedBy != "" {
		row("started", "%s by %s", timeOr(c.StartedAt, "-"), c.StartedBy)
	}
	if c.ApprovedBy != "" {
		row("approved", "by %s", c.ApprovedBy)
	}
	if c.State == optimize.Dwelling {
		row("judged at", "%s, undone without a verdict at %s", timeOr(c.StageUntil, "-"), timeOr(c.Deadline, "-"))
	}
	nodes := map[optimize.UnitState][]string{}
	for i := range c.Units {
		nodes[c.Units[i].State] = append(nodes[c.Units[i].State], c.Units[i].ID)
	}
	for _, s := range []optimize.UnitState{optimize.UnitPlanned, optimize.UnitIntended, optimize.UnitApplied, optimize.UnitOff, optimize.UnitUndoing, optimize.UnitUndone, optimize.UnitControl, optimize.UnitRefused, optimize.UnitGone} {
		if ids := nodes[s]; len(ids) > 0 {
			row(string(s), "%d: %s", len(ids), few(ids))
		}
	}
	for _, e := range c.Evidence {
		row("evidence", "%s: %s", e.What, e.Link)
	}
	if _, err := a.stdout.Write([]byte(b.String())); err != nil {
		return err
	}
	if c.Kind == optimize.Patch {
		fmt.Fprintln(a.stdout)
		if err := a.showDiff(c.Spec); err != nil {
			return err
		}
	}
	if answer.Latest != nil {
		if err := a.showVerdict(answer.Latest); err != nil {
			return err
		}
	}
	fmt.Fprintln(a.stdout)
	for i := range answer.History {
		if err := a.sayEvent(&answer.History[i]); err != nil {
			return err
		}
	}
	return nil
}

// few are at most ten names.
func few(names []string) string {
	const most = 10
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

func (a *app) showVerdict(v *judge.Verdict) error {
	fmt.Fprintf(a.stdout, "\nThe last verdict, of %s: %s. %s\n", timeOr(v.At, "-"), plain(string(v.Decision)), sentenceText(v.Reason))
	if v.Guilty != "" {
		fmt.Fprintf(a.stdout, "What grew is %s.\n", sentenceText(v.Guilty))
	}
	for _, w := range v.Warnings {
		fmt.Fprintf(a.stdout, "Warning: %s\n", sentenceText(w))
	}
	if len(v.Metrics) == 0 {
		return nil
	}
	return a.lines("METRIC\tVERDICT\tBEFORE\tAFTER\tEFFECT (95 %)\tWINDOWS", func(line func(...any)) {
		for i := range v.Metrics {
			m := &v.Metrics[i]
			name := m.Name
			if m.Critical {
				name += " *"
			}
			line(plain(name), plain(string(m.Decision)), fmt.Sprintf("%.4g", m.Before), fmt.Sprintf("%.4g", m.After),
				fmt.Sprintf("%+.1f %% (%+.1f to %+.1f)", 100*m.Effect.Value, 100*m.Effect.Low, 100*m.Effect.High), fmt.Sprintf("%d/%d", m.Windows, m.ControlWindows))
		}
	})
}

func (a *app) sayEvent(e *optimize.Event) error {
	where := ""
	if e.Target != "" {
		where = " " + e.Target
	}
	note := ""
	if e.Note != "" {
		note = ": " + e.Note
	}
	_, err := fmt.Fprintf(a.stdout, "  %s  %s%s by %s%s\n", e.Time.Local().Format(time.DateTime), plain(e.What), sentenceText(where), plain(e.Actor), sentenceText(note))
	return err
}

func (a *app) changesLog() *cobra.Command {
	var q question
	var follow bool
	cmd := &cobra.Command{
		Use:   "log ID",
		Short: "The history of a change, and, with --follow, what happens to it until it ends",
		Example: `  quantraband changes log 5f0c8d2a9b1e4c77
  quantraband changes log 5f0c8d2a9b1e4c77 --follow --json`,
		Args: cobra.ExactArgs(1),
	}
	cmd.RunE = q.asking(func(ctx context.Context, args []string) error {
		after := int64(0)
		for {
			var answer changeAnswer
			if err := q.ask(ctx, http.MethodGet, fmt.Sprintf("%s?after=%d", changePath(args[0]), after), nil, &answer); err != nil {
				return err
			}
			for i := range answer.History {
				e := &answer.History[i]
				after = e.Seq
				if err := a.logEvent(e, q.asJSON); err != nil {
					return err
				}
			}
			if len(answer.History) > 0 {
				continue // there may be more: an answer is one page
			}
			if !follow || answer.Change.State.Ended() {
				return nil
			}
			if !pauseFor(ctx, time.Second) {
				return ctx.Err()
			}
		}
	})
	q.serverFlags(cmd)
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the change ends")
	return cmd
}

// pauseFor waits; it is false where ctx ended first.
func pauseFor(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func (a *app) logEvent(e *optimize.Event, asJSON bool) error {
	if !asJSON {
		return a.sayEvent(e)
	}
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	_, err = a.stdout.Write(append(b, '\n'))
	return err
}

func (a *app) changesAct(name, long string) *cobra.Command {
	var q question
	var note, by string
	var howLong age
	all := name == "pause" || name == "resume"
	use, args := name+" ID", cobra.ExactArgs(1)
	if all {
		use, args = name+" [ID]", cobra.MaximumNArgs(1)
	}
	short, _, _ := strings.Cut(long, ".")
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Args: args,
		Example: "  quantraband changes " + name + ` 5f0c8d2a9b1e4c77 --note 'see ticket 4711'`,
	}
	cmd.RunE = q.asking(func(ctx context.Context, args []string) error {
		if len(args) == 0 {
			return a.holdAll(ctx, &q, name, by, note, time.Duration(howLong))
		}
		if howLong > 0 {
			return usagef("--for belongs to the pause of all changes")
		}
		var answer changeAnswer
		if err := q.ask(ctx, http.MethodPost, changePath(args[0]), optimize.Action{Do: name, By: by, Note: note}, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, answer.Change)
		}
		_, err := fmt.Fprintf(a.stdout, "%s is %s\n", plain(answer.Change.ID), plain(stateText(&optimize.Listed{Change: answer.Change})))
		return err
	})
	q.serverFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&note, "note", "", "`text` for its history")
	f.StringVar(&by, "by", me(), "`name` for its history")
	if name == "pause" {
		f.Var(&howLong, "for", "how long all changes are held, as 2h; without it until resume")
	}
	return cmd
}

// changesPropose lets a person propose settings of the runtime, which then go the way of all changes.
func (a *app) changesPropose() *cobra.Command {
	var q question
	var gogc, procs int64
	var limit byteSize
	var why, by, basis string
	cmd := &cobra.Command{
		Use:   "propose",
		Short: "Propose settings of the Go runtime for a service; it goes the way of all changes",
		Long: `Propose settings of the Go runtime for a service's processes. What a person proposes goes the way of all changes: one node first,
judged beside nodes that are left as they are, and undone where it does harm. It is started by 'changes start', or by the policy.`,
		Example: `  quantraband changes propose -s checkout --gogc 200
  quantraband changes propose -s checkout --gogc 400 --gomemlimit 400MiB --why 'the limit is 512 MiB'`,
		Args: cobra.NoArgs,
	}
	f := cmd.Flags()
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		spec, said := map[string]int64{}, []string(nil)
		set := func(flag, field, name string, value int64, text string) {
			if f.Changed(flag) {
				spec[field], said = value, append(said, name+" "+text)
			}
		}
		set("gogc", "gogc", "GOGC", gogc, fmt.Sprint(gogc))
		set("gomemlimit", "gomemlimit", "GOMEMLIMIT", int64(limit), limit.String())
		set("gomaxprocs", "gomaxprocs", "GOMAXPROCS", procs, fmt.Sprint(procs))
		if q.service == "" || len(spec) == 0 {
			return usagef("--service and at least one of --gogc, --gomemlimit and --gomaxprocs are needed")
		}
		raw, err := json.Marshal(spec)
		if err != nil {
			return err
		}
		sentence := fmt.Sprintf("%s proposes for %s: %s.", by, q.service, strings.Join(said, ", "))
		if why != "" {
			sentence += " " + why
		}
		body := map[string]any{"kind": optimize.Runtime, "service": q.service, "basis": basis, "spec": json.RawMessage(raw), "sentence": sentence, "by": by}
		var answer changeAnswer
		if err := q.ask(ctx, http.MethodPost, optimize.ChangesPath, body, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, answer.Change)
		}
		_, err = fmt.Fprintf(a.stdout, "%s is %s\n", plain(answer.Change.ID), plain(stateText(&optimize.Listed{Change: answer.Change})))
		return err
	})
	q.serverFlags(cmd)
	f.StringVarP(&q.service, "service", "s", "", "the `service`")
	f.Int64Var(&gogc, "gogc", 0, "`percent`; -1 is off, which needs a memory limit")
	f.Var(&limit, "gomemlimit", "`size`, as 400MiB")
	f.Int64Var(&procs, "gomaxprocs", 0, "`threads` that run Go code")
	f.StringVar(&why, "why", "", "`text` for its sentence")
	f.StringVar(&by, "by", me(), "`name` for its history")
	f.StringVar(&basis, "basis", "", "what it rests on, as a `version`: what failed is taken again on another basis only")
	return cmd
}

// holdAll pauses all changes, or lets them go on.
func (a *app) holdAll(ctx context.Context, q *question, do, by, note string, howLong time.Duration) error {
	body := map[string]string{"by": by, "note": note}
	if howLong > 0 {
		body["for"] = howLong.String()
	}
	var answer struct {
		Holds optimize.Holds `json:"holds"`
	}
	if err := q.ask(ctx, http.MethodPost, optimize.ChangesPath+"/"+do, body, &answer); err != nil {
		return err
	}
	if q.asJSON {
		return writeJSON(a.stdout, answer.Holds)
	}
	text := "no pause holds changes"
	if p := answer.Holds.Paused; p != nil {
		text = fmt.Sprintf("all changes are paused by %s, until %s", plain(p.By), timeOr(p.Until, "resume"))
	}
	if n := len(answer.Holds.Incidents); n > 0 {
		text += fmt.Sprintf("; %d incidents are open", n)
	}
	_, err := fmt.Fprintln(a.stdout, text)
	return err
}

func (a *app) changesPlan() *cobra.Command {
	var q question
	var policy string
	cmd := &cobra.Command{
		Use:   "plan",
		Short: "What would happen now: which changes start, what holds the others, and which nodes come first",
		Long: `Ask the server what would happen now with what is proposed or waits, by the policy in a file or, without one, by the
one that is in force. Nothing is changed.`,
		Example: `  quantraband changes plan
  quantraband changes plan --policy policy.yaml`,
		Args: cobra.NoArgs,
	}
	cmd.RunE = q.asking(func(ctx context.Context, _ []string) error {
		var body any
		if policy != "" {
			raw, _, err := readPolicy(policy)
			if err != nil {
				return err
			}
			body = raw
		}
		var raw json.RawMessage
		if err := q.ask(ctx, http.MethodPost, optimize.ChangesPath+"/plan", body, &raw); err != nil {
			return err
		}
		var answer struct {
			Plan []optimize.Planned `json:"plan"`
		}
		if err := q.decode(raw, &answer); err != nil {
			return err
		}
		if q.asJSON {
			return writeJSON(a.stdout, raw)
		}
		if len(answer.Plan) == 0 {
			_, err := fmt.Fprintln(a.stderr, "Nothing is proposed or waits.")
			return err
		}
		return a.lines("ID\tKIND\tSERVICE\tMODE\tSTARTS\tFIRST NODES\tBESIDE\tSTAGES\tHELD BY", func(line func(...any)) {
			for i := range answer.Plan {
				p := &answer.Plan[i]
				why := p.Why
				if len(p.Warnings) > 0 {
					why = strings.TrimSpace(why + " " + strings.Join(p.Warnings, " "))
				}
				line(plain(p.Change.ID), plain(string(p.Change.Kind)), plain(p.Change.Service), plain(string(p.Mode)), map[bool]string{true: "yes", false: "no"}[p.Starts],
					sentenceText(cmp.Or(few(p.Nodes), "-")), sentenceText(cmp.Or(few(p.Controls), "-")), strings.Trim(fmt.Sprint(p.Stages), "[]")+fmt.Sprintf(" of %d", p.Targets), sentenceText(cmp.Or(why, "-")))
			}
		})
	})
	q.serverFlags(cmd)
	cmd.Flags().StringVar(&policy, "policy", "", "`file` of the policy: docs/changes.md (default: the one that is in force)")
	return cmd
}

// readPolicy reads and checks a policy file.
func readPolicy(name string) ([]byte, *policyfile.File, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, nil, usagef("%w", pathError("read", name, err))
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, policyfile.MaxFile+1))
	if err != nil {
		return nil, nil, pathError("read", name, err)
	}
	file, err := policyfile.Decode(bytes.NewReader(raw))
	if err != nil {
		return nil, nil, usagef("%s: %w", name, err)
	}
	return raw, file, nil
}

func (a *app) changesPolicy() *cobra.Command {
	return a.group(&cobra.Command{
		Use:   "policy",
		Short: "Check a policy file: check",
	}, &cobra.Command{
		Use:     "check FILE",
		Short:   "Say what is wrong with a policy file, or what it says",
		Long:    `Read a policy file, as up --policy does, and say at which line it is wrong, or what it says. It needs no server.`,
		Example: `  quantraband changes policy check policy.yaml`,
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			_, f, err := readPolicy(args[0])
			if err != nil {
				return err
			}
			p := f.Policy
			fmt.Fprintf(a.stdout, "%s is a policy: budget %.0f a month, approval above %.0f, breaker after %d failures for %s, one change per node in %s, %d windows\n",
				args[0], p.Budget, p.ApproveAbove, p.BreakerFailures, p.BreakerOpen, p.NodeEvery, len(p.Windows))
			err = a.lines("SERVICES\tKIND\tMODE\tAPPROVAL\tSTAGES\tMETRICS", func(line func(...any)) {
				row := func(match string, k optimize.Kind, kp optimize.KindPolicy) {
					line(plain(match), string(k), string(kp.Mode), map[bool]string{true: "each", false: fmt.Sprintf("above %.0f", p.ApproveAbove)}[kp.Approve], stagesText(kp.Plan.Stages), metricsText(kp.Plan.Metrics))
				}
				for i := range p.Services {
					for _, k := range optimize.Kinds {
						if kp, ok := p.Services[i].Kinds[k]; ok {
							row(p.Services[i].Match, k, kp)
						}
					}
				}
				for _, k := range optimize.Kinds {
					row("*", k, p.Kinds[k])
				}
			})
			if err != nil {
				return err
			}
			return a.listPlaces(f.Places)
		},
	})
}

func stagesText(stages []optimize.Stage) string {
	var out []string
	for _, s := range stages {
		much := fmt.Sprintf("%g %%", s.Percent)
		if s.Nodes > 0 {
			much = fmt.Sprint(s.Nodes)
		}
		out = append(out, much+" for "+s.Dwell.String())
	}
	return strings.Join(out, ", ")
}

// metricsText are the critical metrics, with what is tolerated.
func metricsText(metrics []judge.Metric) string {
	var out []string
	for _, m := range metrics {
		if m.Critical {
			out = append(out, fmt.Sprintf("%s %g %%", m.Name, 100*m.Tolerate))
		}
	}
	return strings.Join(out, ", ")
}
