package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/bench/load"
)

// p2pReport is what `bench p2p` has measured.
type p2pReport struct {
	Date    time.Time    `json:"date"`
	Command string       `json:"command"`
	Version string       `json:"version"`
	Machine string       `json:"machine"` // before the load, with how busy it was
	Plan    load.Plan    `json:"plan"`
	Scans   int          `json:"integrity_scans,omitempty"` // that ended meanwhile
	Systems []p2pFigures `json:"systems"`
	systems []*p2pSystem
}

type p2pFigures struct {
	Name    string      `json:"name"`
	Figures []*guardRow `json:"figures"`
}

func newP2PReport(o *p2pBench, systems []*p2pSystem) *p2pReport {
	command := []string{"quantraband"} // its path is the machine's own affair
	for _, arg := range os.Args[1:] {
		if arg == "" || strings.ContainsAny(arg, " \t'\"{}$") {
			arg = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
		}
		command = append(command, arg)
	}
	return &p2pReport{Date: time.Now().UTC().Truncate(time.Second), Command: strings.Join(command, " "), Version: ownVersion(), Machine: machineText(), Plan: o.plan, systems: systems}
}

// add adds a round's figures.
func (s *p2pSystem) add(o *p2pBench, m *p2pMeasure) error {
	delays, err := load.Histogram(m.Delays)
	if err != nil {
		return err
	}
	late, err := load.Histogram(m.Late)
	if err != nil {
		return err
	}
	if m.Counted == 0 {
		return fmt.Errorf("nothing arrived that counts, of %d that were taken and %d that were refused (%s)", m.Sent.Sent, m.Failed, oneLine(m.Error))
	}
	msOf := func(micros int64) float64 { return float64(micros) / 1000 }
	seconds := m.waiting.Seconds()
	if o.plan.Rate > 0 { // the load's rate is told over the time in which it was due: what comes late is late, not slow
		seconds = max(seconds, o.plan.Seconds)
	}
	what, one := "deliveries", "delivery"
	if o.connections {
		what, one = "connections judged", "connection"
	}
	for _, f := range []struct {
		what, unit string
		value      float64
	}{
		{what, "1/s", float64(m.Counted) / seconds},
		{"latency, p50", "ms", msOf(delays.ValueAtPercentile(50))},
		{"latency, p99", "ms", msOf(delays.ValueAtPercentile(99))},
		{"latency, p99.9", "ms", msOf(delays.ValueAtPercentile(99.9))},
		{"latency, longest", "ms", msOf(delays.Max())},
		{"handed over late, p99", "ms", msOf(late.ValueAtPercentile(99))},
		{"processor time of a " + one, "µs", float64(m.cpu.Microseconds()) / float64(m.Counted)},
		{"processor time, of a core", "%", 100 * m.cpu.Seconds() / max(seconds, 1e-9)},
		{"most memory of a process", "MiB", float64(m.memory) / (1 << 20)},
		{"most memory of all", "MiB", float64(m.sum) / (1 << 20)},
		{"refused", "", float64(m.Failed)},
		{"not sent in time", "", float64(m.Unsent)},
		{"lost", "", float64(m.Lost())},
		{"doubled", "", float64(m.Doubled + m.Strange)},
	} {
		i := slices.IndexFunc(s.rows, func(r *guardRow) bool { return r.What == f.what })
		if i < 0 {
			i = len(s.rows)
			s.rows = append(s.rows, &guardRow{What: f.what, Unit: f.unit})
		}
		s.rows[i].Values = append(s.rows[i].Values, f.value)
	}
	if r := s.row("refused"); m.Error != "" && r.Note == "" {
		r.Note = oneLine(m.Error)
	}
	return nil
}

func (s *p2pSystem) row(what string) *guardRow {
	for _, r := range s.rows {
		if r.What == what {
			return r
		}
	}
	return &guardRow{What: what, Values: []float64{0}}
}

// verdict is an error where a message of ours was lost or came twice.
func (r *p2pReport) verdict() error {
	for _, s := range r.systems {
		if lost, doubled := slices.Max(s.row("lost").Values), slices.Max(s.row("doubled").Values); s.own && lost+doubled > 0 {
			return fmt.Errorf("of one round, %.0f messages were lost and %.0f came twice", lost, doubled)
		}
	}
	return nil
}

// goals are what figures must be and what we want them to be (DESIGN.md), for the load that they are of.
func (r *p2pReport) goals(what string) (must, want float64) {
	steady := r.Plan.Rate == 1000 && r.Plan.Kind != kindConnections
	switch {
	case steady && what == "latency, p99":
		return 75, 5
	case steady && what == "processor time, of a core":
		return 30, 10
	case what == "most memory of a process":
		return 350, 100
	case what == "connections judged" && r.Plan.Rate == 0:
		return 600, 1200
	}
	return 0, 0
}

// cell is a figure's median, with the least and the most of several rounds.
func (r *guardRow) cell() string {
	text := strings.TrimSpace(guardNumber(r.median()) + " " + r.Unit)
	if len(r.Values) > 1 {
		text += fmt.Sprintf(" (%s to %s)", guardNumber(slices.Min(r.Values)), guardNumber(slices.Max(r.Values)))
	}
	return text
}

// p2pOut writes the report wherever it is wanted.
func (a *app) p2pOut(o *p2pBench, r *p2pReport) error {
	for _, s := range r.systems {
		r.Systems = append(r.Systems, p2pFigures{s.name, s.rows})
	}
	write := func(asJSON bool) func(io.Writer) error {
		if asJSON {
			return func(w io.Writer) error { return writeJSON(w, r) }
		}
		return r.markdown
	}
	for _, name := range o.out {
		if err := a.emit(name, false, write(strings.HasSuffix(name, ".json"))); err != nil {
			return err
		}
	}
	return a.emit("", false, write(o.asJSON))
}

// markdown writes the report as a page.
func (r *p2pReport) markdown(w io.Writer) error {
	p := &r.Plan
	var b strings.Builder
	fmt.Fprintf(&b, "# Messages between nodes\n\n    %s\n\n%s, %s, on %s.\n\n", r.Command, r.Version, r.Date.Format(time.RFC3339), r.Machine)
	rate := fmt.Sprintf("%g a second of all", p.Rate)
	if p.Rate == 0 {
		rate = "as fast as it goes, latencies from when each was sent"
	}
	fmt.Fprintf(&b, "%s: %d users, %g more in a second, %s; %d bytes; %d nodes (%s); %g s measured.", p.Kind, p.Users, p.Spawn, rate, p.Size, p.Nodes, p.Topology, p.Seconds)
	if len(p.With) > 0 {
		fmt.Fprintf(&b, " Our nodes have the guard, and %s.", strings.Join(p.With, ", "))
	}
	if r.Scans > 0 {
		fmt.Fprintf(&b, " Files were scanned %d times meanwhile.", r.Scans)
	}
	b.WriteString("\n\n|  |")
	for _, s := range r.systems {
		fmt.Fprintf(&b, " %s |", s.name)
	}
	fmt.Fprintf(&b, " must | want |\n|%s --- | --- |\n", strings.Repeat(" --- |", 1+len(r.systems)))
	for _, row := range r.systems[0].rows {
		fmt.Fprintf(&b, "| %s |", row.What)
		for _, s := range r.systems {
			fmt.Fprintf(&b, " %s |", s.row(row.What).cell())
		}
		must, want := r.goals(row.What)
		if must > 0 {
			fmt.Fprintf(&b, " %g %s | %g %[2]s |\n", must, row.Unit, want)
		} else {
			b.WriteString("  |  |\n")
		}
	}
	for _, s := range r.systems {
		if note := s.row("refused").Note; note != "" {
			fmt.Fprintf(&b, "\nThe first that %s refused: %s\n", s.name, note)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
