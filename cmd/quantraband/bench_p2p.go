package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/bench/load"
)

// p2pBench is what `bench p2p` is told.
type p2pBench struct {
	plan        load.Plan
	time        time.Duration
	connections bool
	cli         bool
	processes   bool
	peers       []string
	scan        string
	rounds      int
	out         []string
	asJSON      bool

	server string // of profiles, where the agent runs beside
}

func (a *app) benchP2P() *cobra.Command {
	var o p2pBench
	cmd := &cobra.Command{
		Use:   "p2p",
		Short: "What messages between nodes cost, and how long they take",
		Long: `Start nodes on this machine that judge each other, have users send messages, and say how long these took, what was lost or came
twice, and what it cost. A message is due at a fixed time, and its latency counts from then, however long its user was kept waiting.
Each system is a process of its own, whose processor time and memory are the kernel's accounts (Linux).

--kind direct is messages to one peer that are kept nowhere, durable those that are on both disks, broadcast signed ones to all nodes.
--connections measures how fast users connect, are judged, and leave. --cli runs the real quantraband p2p send for each message, between two
real nodes. --rate 0 is as fast as each user has sent the one before.

--peer measures others beside, with the same load in the same run: pubsub is go-libp2p-pubsub with its own settings (broadcast), libp2p is
bare connections (--connections), nats=PROGRAM is a NATS server with TLS (direct, broadcast): docs/bench-p2p.md says how to build it.

It ends with 1 where one of our nodes lost or doubled a message.`,
		Example: `  quantraband bench p2p
  quantraband bench p2p --kind broadcast --nodes 5 --rate 5000 --peer pubsub
  quantraband bench p2p --rate 0 --users 4 --size 1024 --time 10s --peer nats=./nats
  quantraband bench p2p --connections --users 16 --rate 0 --peer libp2p
  quantraband bench p2p --cli --rate 10
  quantraband bench p2p --rounds 5 --with audit,agent --scan /usr/lib -o p2p.md -o p2p.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(cmd.Flags().Changed); err != nil {
				return err
			}
			if err := measurable(); err != nil {
				return fmt.Errorf("bench p2p: %w", err)
			}
			return a.benchmarkP2P(cmd.Context(), &o)
		},
	}
	f := cmd.Flags()
	p := &o.plan
	f.StringVar(&p.Kind, "kind", kindDirect, "what is sent: direct, durable or broadcast")
	f.IntVar(&p.Users, "users", 100, "`users` that send")
	f.Float64Var(&p.Spawn, "spawn-rate", 10, "users that begin in a second; 0 is all at once")
	f.Float64Var(&p.Rate, "rate", 1000, "messages a second of all users (with --cli: 10); 0 is as fast as it goes")
	f.IntVar(&p.Size, "size", 1024, "`bytes` of a message")
	f.DurationVar(&o.time, "time", 30*time.Second, "how long is measured, from when all users are there")
	f.IntVar(&p.Nodes, "nodes", 2, "`nodes`, 2 to 50")
	f.StringVar(&p.Topology, "topology", "full", "who is connected with whom: full, ring, star or line")
	f.BoolVar(&o.processes, "processes", false, "a process for each node")
	f.StringSliceVar(&p.With, "with", []string{"audit"}, "what our nodes have beside the guard: audit (each decision on disk), agent (they profile themselves)")
	f.StringVar(&o.scan, "scan", "", "check the integrity of this `folder` over and over meanwhile")
	f.BoolVar(&o.connections, "connections", false, "connections instead of messages")
	f.BoolVar(&o.cli, "cli", false, "a command for each message, between two running nodes")
	f.StringArrayVar(&o.peers, "peer", nil, "`system` to measure beside: pubsub, libp2p, nats=PROGRAM")
	f.IntVar(&o.rounds, "rounds", 1, "how often each is measured, in turn")
	f.StringArrayVarP(&o.out, "output", "o", nil, "write the report to `file`: JSON where its name ends in .json, else Markdown; may be given twice")
	f.BoolVar(&o.asJSON, "json", false, "write JSON to standard output")
	return cmd
}

// defaultCLIRate is messages a second where each is a process: what two cores do without haste.
const defaultCLIRate = 10

// check says what is wrong with the flags, and completes the plan.
func (o *p2pBench) check(changed func(string) bool) error {
	p := &o.plan
	p.Seconds, p.Count = o.time.Seconds(), p.Nodes
	switch {
	case !slices.Contains([]string{kindDirect, kindDurable, kindBroadcast}, p.Kind):
		return usagef("--kind %q: it is direct, durable or broadcast", p.Kind)
	case o.rounds < 1 || o.rounds > 100:
		return usagef("--rounds %d: it must be 1 to 100", o.rounds)
	case o.cli && o.connections:
		return usagef("--cli has messages, --connections has none")
	case (o.cli || o.connections) && (o.processes || changed("kind") || p.Nodes != 2 || p.Topology != "full"):
		return usagef("--cli and --connections go with neither --kind nor --nodes, --topology or --processes")
	case o.cli && (len(o.peers) > 0 || changed("with")):
		return usagef("--cli goes with neither --peer nor --with: it is two nodes as they are")
	case o.connections && p.Users > 1000:
		return usagef("--users %d: with --connections each is a node, 1,000 at most", p.Users)
	}
	if o.connections {
		p.Kind = kindConnections
	}
	if o.cli {
		p.With = nil
		if !changed("rate") {
			p.Rate = defaultCLIRate
		}
	}
	for _, w := range p.With {
		if w != "audit" && w != "agent" {
			return usagef("--with %q: it is audit or agent", w)
		}
	}
	if err := p.Check(); err != nil {
		return usagef("%w", err)
	}
	for _, text := range o.peers {
		if err := o.checkPeer(text); err != nil {
			return err
		}
	}
	return nil
}

func (o *p2pBench) checkPeer(text string) error {
	name, program, _ := strings.Cut(text, "=")
	kinds := map[string][]string{systemPubsub: {kindBroadcast}, systemLibp2p: {kindConnections}, systemNATS: {kindDirect, kindBroadcast}}[name]
	switch {
	case kinds == nil || (program != "") != (name == systemNATS):
		return usagef("--peer %q: it is pubsub, libp2p or nats=PROGRAM", text)
	case !slices.Contains(kinds, o.plan.Kind):
		return usagef("--peer %s has no load of kind %s, but %s", name, o.plan.Kind, strings.Join(kinds, " and "))
	}
	return nil
}

// p2pSystem is one that is measured.
type p2pSystem struct {
	name string
	args []string // of its processes
	own  bool
	rows []*guardRow
}

func (o *p2pBench) systems() ([]*p2pSystem, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	all := []*p2pSystem{{name: systemOwn, own: true, args: []string{self, "bench", "p2p-nodes"}}}
	for _, text := range o.peers {
		name, program, _ := strings.Cut(text, "=")
		s := &p2pSystem{name: name, args: []string{self, "bench", "p2p-nodes", "--system", name}}
		if program != "" {
			if program, err = exec.LookPath(program); err != nil {
				return nil, usagef("--peer %s: %w", text, err)
			}
			s.args = []string{program}
		}
		all = append(all, s)
	}
	return all, nil
}

// benchmarkP2P runs all rounds and reports.
func (a *app) benchmarkP2P(ctx context.Context, o *p2pBench) (err error) {
	tmp, err := os.MkdirTemp("", "quantra-bench-p2p-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	systems, err := o.systems()
	if err != nil {
		return err
	}
	if slices.Contains(o.plan.With, "agent") {
		srv, err := startBenchServer(ctx, filepath.Join(tmp, "server"), nil)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, srv.stop()) }()
		o.server = srv.url
	}
	stopScan, err := o.startScan(ctx, tmp)
	if err != nil {
		return err
	}
	scanned := sync.OnceValues(stopScan)
	defer scanned()
	r := newP2PReport(o, systems)
	for round := range o.rounds {
		for _, s := range systems { // in turn, so that what else the machine does falls on all alike
			dir := filepath.Join(tmp, fmt.Sprintf("%s-%d", s.name, round))
			measure := a.measureP2P
			if o.cli {
				measure = a.measureCommands
			}
			m, err := measure(ctx, o, s, dir)
			if ctx.Err() != nil {
				return ctx.Err() // what failed, failed by it
			}
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			if err := s.add(o, m); err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	scans, err := scanned()
	if err != nil {
		return err
	}
	r.Scans = scans
	return errors.Join(a.p2pOut(o, r), r.verdict())
}

// startScan checks a folder's integrity over and over by the real command, until stop, which is how often it did.
func (o *p2pBench) startScan(ctx context.Context, tmp string) (stop func() (int, error), err error) {
	if o.scan == "" {
		return func() (int, error) { return 0, nil }, nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	data := filepath.Join(tmp, "scan")
	run := func(ctx context.Context, args ...string) error {
		cmd := exec.CommandContext(ctx, self, append([]string{"integrity"}, args...)...)
		keepChild(cmd)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.ExitCode() == exitFailed && args[0] == "check" {
			err = nil // something in it has changed: it was read all the same
		}
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("integrity %s: %w: %s", args[0], err, oneLine(string(out)))
		}
		return nil
	}
	if err := run(ctx, "baseline", "--data", data, o.scan); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	var scans atomic.Int64
	go func() {
		for ctx.Err() == nil {
			if err := run(ctx, "check", "--data", data); err != nil {
				done <- err
				return
			}
			scans.Add(1)
		}
		done <- nil
	}()
	return func() (int, error) { cancel(); err := <-done; return int(scans.Load()), err }, nil
}

// p2pMeasure is one round of one system.
type p2pMeasure struct {
	load.Result
	from    time.Time     // what counts was due from then on
	cpu     time.Duration // of all its processes, from then until the last had come
	memory  int64         // the most that one of them has had while it was measured
	sum     int64         // and all together
	waiting time.Duration // from then until the last had come
}

// p2pChild is a process of a system.
type p2pChild struct {
	*benchChild
	plan   load.Plan
	result load.Result
	live   *p2pLive
}

// say sends a line of the protocol.
func (c *p2pChild) say(word string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(c.stdin, "%s %s\n", word, raw); err != nil {
		return c.died()
	}
	return nil
}

// hear waits for a line of the protocol; progress that comes before it is shown.
func (c *p2pChild) hear(ctx context.Context, patience time.Duration, word string, v any) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case line, ok := <-c.lines:
			if !ok {
				return c.died()
			}
			var now load.Progress
			if load.Read(line, load.WordProgress, &now) == nil {
				c.live.show(c.plan.First, now)
				continue
			}
			if err := load.Read(line, word, v); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
			return nil
		case <-timer.C:
			return fmt.Errorf("%s has not said %q after %s", c.name, word, patience)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// together does something with all children at once.
func together(children []*p2pChild, do func(*p2pChild) error) error {
	errs := make([]error, len(children))
	var group sync.WaitGroup
	for i, c := range children {
		group.Go(func() { errs[i] = do(c) })
	}
	group.Wait()
	return errors.Join(errs...)
}

// startP2P starts the processes of a system, each with its part of the plan.
func (a *app) startP2P(o *p2pBench, s *p2pSystem, dir string) (children []*p2pChild, err error) {
	n := 1
	if o.processes && s.own {
		n = o.plan.Nodes
	}
	live := a.newP2PLive(s.name)
	for i := range n {
		p := o.plan
		p.Dir = filepath.Join(dir, fmt.Sprint(i))
		if n > 1 {
			p.First, p.Count = i, 1
		}
		c, err := startChild(s.name, []string{"QUANTRA_REGION=local", "QUANTRA_SERVER=" + o.server}, nil, s.args...)
		if err != nil {
			return children, err
		}
		children = append(children, &p2pChild{benchChild: c, plan: p, live: live})
	}
	return children, nil
}

// measureP2P is one round of one system: its processes from beginning to end.
func (a *app) measureP2P(ctx context.Context, o *p2pBench, s *p2pSystem, dir string) (m *p2pMeasure, err error) {
	children, err := a.startP2P(o, s, dir)
	defer func() {
		for _, c := range children {
			c.kill()
		}
	}()
	if err != nil {
		return nil, err
	}
	defer children[0].live.end()
	if err := meetP2P(ctx, children); err != nil {
		return nil, err
	}
	m = &p2pMeasure{}
	start := time.Now().Add(50 * time.Millisecond)
	from, to := o.plan.Measured(start)
	patience := time.Until(to) + 2*o.time + time.Minute // past the load's own grace, and what is missing is waited for
	m.from = from
	before := make([]time.Duration, len(children))
	expect := make([]uint64, o.plan.Nodes)
	var mu sync.Mutex
	err = together(children, func(c *p2pChild) error {
		if err := c.say(load.WordGo, start.UnixNano()); err != nil {
			return err
		}
		i := slices.Index(children, c)
		time.AfterFunc(time.Until(from), func() { // also of one that nobody sends by, which has sent all at once
			mu.Lock()
			defer mu.Unlock()
			before[i], _ = cpuTime(c.pid()) // that it has died is seen by who listens
			_ = resetPeak(c.pid())          // where that is forbidden, what it took to begin counts
		})
		var sent load.Sent
		if err := c.hear(ctx, patience, load.WordSent, &sent); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for j, k := range sent.To {
			expect[j] += k
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if err := together(children, func(c *p2pChild) error {
		return errors.Join(c.say(load.WordExpect, expect), c.hear(ctx, patience, load.WordResult, &c.result))
	}); err != nil {
		return nil, err
	}
	mu.Lock()
	defer mu.Unlock()
	return m, m.close(children, before)
}

// meetP2P has the children open their nodes and connect them.
func meetP2P(ctx context.Context, children []*p2pChild) error {
	const patience = 2 * time.Minute // fifty nodes are 1,225 connections
	addresses := make([][]string, len(children))
	err := together(children, func(c *p2pChild) error {
		return errors.Join(c.say(load.WordPlan, c.plan), c.hear(ctx, patience, load.WordAddresses, &addresses[slices.Index(children, c)]))
	})
	if err != nil {
		return err
	}
	all := slices.Concat(addresses...)
	if all == nil {
		all = []string{}
	}
	return together(children, func(c *p2pChild) error {
		var n int
		return errors.Join(c.say(load.WordPeers, all), c.hear(ctx, patience, load.WordConnected, &n))
	})
}

// close takes the accounts of the children, and ends them.
func (m *p2pMeasure) close(children []*p2pChild, before []time.Duration) error {
	for i, c := range children {
		after, err := cpuTime(c.pid())
		if err != nil {
			return err
		}
		_, peak, err := memoryOf(c.pid())
		if err != nil {
			return err
		}
		m.cpu += after - before[i]
		m.memory, m.sum = max(m.memory, peak), m.sum+peak
		if err := m.Merge(&c.result); err != nil {
			return err
		}
	}
	m.waiting = time.Unix(0, m.Last).Sub(m.from)
	return together(children, func(c *p2pChild) error {
		if err := c.end(false); err != nil {
			return fmt.Errorf("%w: %s", err, oneLine(c.tail.String()))
		}
		return nil
	})
}

// p2pLive shows on a terminal how it goes.
type p2pLive struct {
	w     io.Writer // nil: nobody looks
	name  string
	mu    sync.Mutex
	began time.Time
	now   map[int]load.Progress // by the first node of a process
}

func (a *app) newP2PLive(name string) *p2pLive {
	l := &p2pLive{name: name, began: time.Now(), now: map[int]load.Progress{}}
	if isTerminal(a.stderr) {
		l.w = a.stderr
	}
	return l
}

func (l *p2pLive) show(who int, p load.Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now[who] = p
	if l.w == nil {
		return
	}
	var all load.Progress
	for _, p := range l.now {
		all.Heard += p.Heard
		all.P99 = max(all.P99, p.P99)
	}
	fmt.Fprintf(l.w, "\r\x1b[K%s: %s, %d heard, p99 %.2f ms", l.name, time.Since(l.began).Round(time.Second), all.Heard, all.P99)
}

// end takes the line away.
func (l *p2pLive) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.w != nil {
		fmt.Fprint(l.w, "\r\x1b[K")
	}
}

// machineText is the machine in one line, with how busy it is.
func machineText() string {
	cpu, memory, kernel := machineFacts()
	text := fmt.Sprintf("%d cores of %s, %d MiB, %s %s, %s", runtime.NumCPU(), cpu, memory>>20, runtime.GOOS, kernel, runtime.Version())
	if raw, err := os.ReadFile("/proc/loadavg"); err == nil {
		if f := strings.Fields(string(raw)); len(f) > 2 {
			text += fmt.Sprintf("; load %s over the last minute, %s over five", f[0], f[1])
		}
	}
	return text
}
