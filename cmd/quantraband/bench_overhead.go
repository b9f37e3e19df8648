package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/cmd/quantraband/demo"
	"github.com/quantra-l/quantra/cmd/quantraband/overhead"
)

// judgedRate is the agent's rate that has a budget.
const judgedRate = 100

type overheadOptions struct {
	workload     string
	command      []string // of the workload command
	request      string   // METHOD PATH, for the workload command
	body         string   // file, likewise
	rate         float64
	connections  int
	rounds       int
	time, warmup time.Duration
	cpuRates     []int
	peers        bool
	cloudEvery   time.Duration
	seed         uint64
	json, html   string
}

func (a *app) benchOverhead() *cobra.Command {
	var o overheadOptions
	cmd := &cobra.Command{
		Use:   "overhead [-- COMMAND ARGS...]",
		Short: "What the agent costs the program that it profiles",
		Long: `Run a real program under a steady load, without an agent and with ours at several rates, each time in a
process of its own, and compare processor time, memory and latency round by round. Its own server takes the profiles. The
verdict is about 100 Hz: under 1 % of one core and under 10 MB.

The program is the demo's service, which parses, verifies, routes and answers messages. --workload command measures yours
instead: COMMAND is started for each trial with these variables, and must serve HTTP/1.1 until it gets SIGTERM.

  QUANTRA_BENCH_ADDR      where it must listen, as 127.0.0.1:41234; {addr} in an argument is the same
  QUANTRA_BENCH_VARIANT   baseline, 50, 100, 200, pyroscope-go; {variant} likewise
  QUANTRA_BENCH_CPU_RATE  0, 50, 100, 200: what to give agent.Options.CPURate
  QUANTRA_SERVER          where profiles go; PYROSCOPE_SERVER_ADDRESS is the same
  PROFILER_ENABLED        false for the baseline, so that agent.Start does nothing

--peers measures the agents of others beside ours: pyroscope-go with the profiles it takes by default, and cloud-profiler
(with the demo only) against a server of ours that asks it for a profile a minute, as Google's does.

It needs Linux. docs/benchmark.md says how it measures and what the figures mean. It ends with

    0  the verdict is "within": both whole 95 % intervals are below the budget
    1  "over": one whole interval is at or above it
    6  "cannot tell": more trials are needed, the machine is too slow, or uploads failed`,
		Example: `  quantraband bench overhead                              # about two hours
  quantraband bench overhead --time 5s --warmup 1s        # a look
  quantraband bench overhead --peers --trials 5 --html overhead.html --json overhead.json
  quantraband bench overhead --workload command --request 'GET /health' --rate 200 -- ./shop --listen {addr}`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.command = args
			if err := o.check(); err != nil {
				return err
			}
			return a.overhead(cmd.Context(), &o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.workload, "workload", "demo", "the program: demo, or command for the one behind --")
	f.StringVar(&o.request, "request", "GET /", "what --workload command is asked: method and path")
	f.StringVar(&o.body, "body", "", "`file` to send with each --request")
	f.Float64Var(&o.rate, "rate", 1000, "requests a second")
	f.IntVar(&o.connections, "connections", 64, "connections that the load keeps open")
	f.IntVar(&o.rounds, "trials", 3, "trials of each variant; an interval needs three")
	f.DurationVar(&o.time, "time", 10*time.Minute, "how long a trial is measured")
	f.DurationVar(&o.warmup, "warmup", 30*time.Second, "load before that, of each trial")
	f.IntSliceVar(&o.cpuRates, "cpu-rate", []int{50, 100, 200}, "our agent's `rates`, in samples a second; 100 must be among them")
	f.BoolVar(&o.peers, "peers", false, "measure pyroscope-go and cloud-profiler, too")
	f.DurationVar(&o.cloudEvery, "cloud-every", time.Minute, "how often cloud-profiler is asked for a profile; below 20s profiles cover half of it instead of 10s")
	f.Uint64Var(&o.seed, "seed", 1, "of the order and of the messages")
	f.StringVar(&o.json, "json", "", "write everything to `file` as JSON, after each trial")
	f.StringVar(&o.html, "html", "", "write a page with charts to `file`")
	return cmd
}

func (o *overheadOptions) check() error {
	switch {
	case o.workload != "demo" && o.workload != "command":
		return usagef("--workload %s: it must be demo or command", o.workload)
	case o.workload == "demo" && len(o.command) > 0:
		return usagef("a command is given, but --workload is demo; add --workload command")
	case o.workload == "command" && len(o.command) == 0:
		return usagef("--workload command needs a command behind --")
	case !(o.rate > 0) || o.rate > 1e6 || o.connections < 1 || o.connections > 10_000 || o.rounds < 1:
		return usagef("--rate must be above 0 and at most 1e6, --connections 1 to 10000, --trials at least 1")
	case o.time < 500*time.Millisecond || o.warmup < 0 || o.cloudEvery < 200*time.Millisecond:
		return usagef("--time must be 500ms at least, --warmup 0s, --cloud-every 200ms")
	case !slices.Contains(o.cpuRates, judgedRate) || slices.Min(o.cpuRates) < 1 || len(slices.Compact(slices.Sorted(slices.Values(o.cpuRates)))) != len(o.cpuRates):
		return usagef("--cpu-rate: rates are above 0, each once, and %d is among them: it is the one with a budget", judgedRate)
	}
	if method, path, ok := strings.Cut(o.request, " "); !ok || method == "" || !strings.HasPrefix(path, "/") || strings.ContainsAny(path, " \r\n") {
		return usagef("--request %q: it must be a method and a path, as GET /health", o.request)
	}
	return nil
}

// variants are what is measured: the baseline, ours, and the others'.
func (o *overheadOptions) variants() []overhead.Variant {
	vs := []overhead.Variant{{Name: overhead.Baseline, What: "no agent; the runtime's sampling of allocations is off"}}
	for _, rate := range o.cpuRates {
		vs = append(vs, overhead.Variant{Name: strconv.Itoa(rate), Version: ownVersion(),
			What: fmt.Sprintf("our agent at %d Hz, all else as it comes: CPU, heap, allocations, goroutines, mutexes; windows of 10 s, uploads each minute", rate)})
	}
	if !o.peers {
		return vs
	}
	vs = append(vs, overhead.Variant{Name: variantPyroscope, Version: moduleVersion("github.com/grafana/pyroscope-go"),
		What: "Grafana's agent, its default profiles: CPU at 100 Hz, allocations, heap; windows and uploads of 15 s"})
	if o.workload == "demo" {
		vs = append(vs, overhead.Variant{Name: variantCloud, Version: moduleVersion("cloud.google.com/go/profiler"),
			What: fmt.Sprintf("Google's agent, its default profiles in turn: CPU at 100 Hz, heap, threads, allocations; one each %v, of %v", o.cloudEvery, min(cloudDuration, o.cloudEvery/2))})
	}
	return vs
}

// ownVersion is what this program says of itself, in short.
func ownVersion() string {
	b := readBuild()
	v := b.Version
	if b.Revision != "" && !strings.Contains(v, b.Revision[:min(12, len(b.Revision))]) {
		v += fmt.Sprintf(" %.12s", b.Revision)
	}
	if b.Modified {
		v += " with changes"
	}
	return v
}

// moduleVersion is that of a module in this program.
func moduleVersion(path string) string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == path {
				return m.Version
			}
		}
	}
	return "unknown"
}

// overhead runs all trials and reports.
func (a *app) overhead(ctx context.Context, o *overheadOptions) (err error) {
	if err := measurable(); err != nil {
		return fmt.Errorf("bench overhead: %w", err)
	}
	requests, err := o.requests()
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp("", "quantra-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	srv, err := startBenchServer(ctx, filepath.Join(tmp, "data"), nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, srv.stop()) }()
	r := o.report()
	b := &overheadRun{o: o, server: srv, requests: requests}
	bar := a.progress("measuring, trials", int64(o.rounds*len(r.Variants)))
	defer bar.end()
	for round := range o.rounds {
		for turn, i := range overhead.Order(len(r.Variants), round, o.seed) {
			v := r.Variants[i].Name
			t, err := b.trial(ctx, v)
			if ctx.Err() != nil {
				return ctx.Err() // what failed, failed by it
			}
			if err != nil {
				return fmt.Errorf("trial of %s, round %d: %w", v, round+1, err)
			}
			t.Round, t.Turn, t.Variant = round+1, turn+1, v
			t.Check(o.rate, v != overhead.Baseline)
			r.Trials = append(r.Trials, t)
			bar.add(1)
			if err := o.writeJSON(r); err != nil { // hours of trials shall not be lost with the last one
				return err
			}
		}
	}
	return a.overheadOut(o, r)
}

// writeJSON writes what is known so far, if it was asked for.
func (o *overheadOptions) writeJSON(r *overhead.Report) error {
	r.Summarize(strconv.Itoa(judgedRate), overhead.DefaultBudget)
	if o.json == "" {
		return nil
	}
	return writeFile(o.json, func(w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	})
}

// report is the report before its trials.
func (o *overheadOptions) report() *overhead.Report {
	cpu, memory, kernel := machineFacts()
	command := "quantraband" // its path is the machine's own affair
	for _, arg := range os.Args[1:] {
		if arg == "" || strings.ContainsAny(arg, " \t'\"{}$") {
			arg = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
		}
		command += " " + arg
	}
	r := &overhead.Report{
		Format: 1, Date: time.Now().UTC().Truncate(time.Second), Command: command, Version: ownVersion(),
		Machine:  overhead.Machine{CPU: cpu, Cores: runtime.NumCPU(), Memory: memory, OS: runtime.GOOS + "/" + runtime.GOARCH, Kernel: kernel, Go: runtime.Version()},
		Workload: "the demo's service, POST /message", Rate: o.rate, Rounds: o.rounds, Time: o.time.Seconds(), Warmup: o.warmup.Seconds(), Seed: o.seed, Variants: o.variants(),
	}
	if o.workload == "command" {
		r.Workload = fmt.Sprintf("%s, %s", strings.Join(o.command, " "), o.request)
	}
	return r
}

// overheadOut writes the report where it was asked for, and is the verdict as an error.
func (a *app) overheadOut(o *overheadOptions, r *overhead.Report) error {
	if err := a.emit("", false, func(w io.Writer) error { return overhead.WriteMarkdown(w, r) }); err != nil {
		return err
	}
	if o.html != "" {
		if err := writeFile(o.html, func(w io.Writer) error { return overhead.WriteHTML(w, r) }); err != nil {
			return err
		}
	}
	switch r.Verdict {
	case overhead.Within:
		return nil
	case overhead.Over:
		return fmt.Errorf("the agent at %d Hz is over its budget: %s", judgedRate, r.Reasons())
	}
	return undecidedf("cannot tell whether the agent at %d Hz keeps its budget: %s", judgedRate, r.Reasons())
}

// requests are what is sent, as bytes of HTTP/1.1.
func (o *overheadOptions) requests() (all [][]byte, err error) {
	const messages = 1024 // more would only be more memory of ours
	method, path, bodies := "POST", "/message", [][]byte(nil)
	if o.workload == "demo" {
		bodies = demo.Messages(messages, o.seed)
	} else {
		method, path, _ = strings.Cut(o.request, " ")
		body := []byte(nil)
		if o.body != "" {
			if body, err = os.ReadFile(o.body); err != nil {
				return nil, pathError("read", o.body, err)
			}
		}
		bodies = [][]byte{body}
	}
	for _, body := range bodies {
		req, err := http.NewRequest(method, "http://bench"+path, bytes.NewReader(body))
		if err != nil {
			return nil, usagef("--request %q: %w", o.request, err)
		}
		if len(body) > 0 {
			req.Header.Set("Content-Type", "application/json")
		}
		var b bytes.Buffer
		if err := req.Write(&b); err != nil {
			return nil, err
		}
		all = append(all, b.Bytes())
	}
	return all, nil
}

// overheadRun is what trials share.
type overheadRun struct {
	o        *overheadOptions
	server   *benchServer
	requests [][]byte
}

// trial is one process of a variant from beginning to end.
func (b *overheadRun) trial(ctx context.Context, variant string) (t *overhead.Trial, err error) {
	cloud, err := startCloud(b.o.cloudEvery)
	if err != nil {
		return nil, err
	}
	defer cloud.stop()
	uploads := b.counter(variant, cloud)
	kept0, failed0, err := uploads(ctx)
	if err != nil {
		return nil, err
	}
	child, addr, err := b.startSubject(ctx, variant, cloud)
	if err != nil {
		return nil, err
	}
	defer child.kill()
	t, err = b.measure(ctx, child, addr, uploads)
	if err != nil {
		return nil, err
	}
	own, err := b.endSubject(ctx, child)
	if err != nil {
		return nil, err
	}
	kept, failed, err := uploads(ctx)
	if err != nil {
		return nil, err
	}
	t.Uploads, t.UploadsFailed = kept-kept0, max(failed-failed0, own.Failed) // both may have seen the same ones
	if t.Invalid == "" && t.UploadsFailed > 0 && own.Error != "" {
		t.Invalid = "uploads failed: " + oneLine(own.Error)
	}
	if n := cloud.asked.Load(); n > 0 && variant == variantCloud {
		return nil, fmt.Errorf("%s asked the metadata service %d times though it was told all", variant, n)
	}
	return t, nil
}

// counter is how many profiles of the variant have been acknowledged so far, and how many have failed, by who receives them.
func (b *overheadRun) counter(variant string, cloud *cloudServer) func(context.Context) (kept, failed int64, err error) {
	if variant == variantCloud {
		return func(context.Context) (int64, int64, error) { return cloud.kept.Load(), cloud.failed.Load(), nil }
	}
	return func(ctx context.Context) (kept, failed int64, err error) {
		m, err := serverMetrics(ctx, b.server.url)
		if err != nil {
			select {
			case <-b.server.exited:
				err = b.server.died()
			default:
			}
			return 0, 0, err
		}
		for name, v := range m {
			switch {
			case strings.HasPrefix(name, "quantra_ingest_profiles_total{"):
				kept += int64(v)
			case strings.HasPrefix(name, "quantra_ingest_rejected_total{"):
				failed += int64(v)
			}
		}
		return kept, failed, nil
	}
}

// startSubject starts the program of a trial and returns when it listens.
func (b *overheadRun) startSubject(ctx context.Context, variant string, cloud *cloudServer) (*benchChild, string, error) {
	env := subjectEnv(variant, b.server.url, cloud.metaAddr)
	if b.o.workload == "demo" {
		self, err := os.Executable()
		if err != nil {
			return nil, "", err
		}
		c, err := startChild("the program", env, nil, self, "bench", "subject", "--variant", variant, "--server", b.server.url, "--cloud", cloud.addr)
		if err != nil {
			return nil, "", err
		}
		addr, err := c.line(ctx, "listening")
		if err != nil {
			c.kill()
			return nil, "", err
		}
		return c, addr, nil
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, "", err
	}
	env = append(env, "QUANTRA_BENCH_ADDR="+addr)
	args := slices.Clone(b.o.command)
	for i := range args {
		args[i] = strings.NewReplacer("{addr}", addr, "{variant}", variant).Replace(args[i])
	}
	c, err := startChild("the program", env, nil, args...)
	if err != nil {
		return nil, "", err
	}
	if err := c.listens(ctx, addr); err != nil {
		c.kill()
		return nil, "", err
	}
	return c, addr, nil
}

// subjectEnv is what a program is told of its variant by environment.
func subjectEnv(variant, server, metadata string) []string {
	rate, err := strconv.Atoi(variant)
	if err != nil {
		rate = 0 // an agent of others, or none
	}
	env := []string{
		"QUANTRA_BENCH_VARIANT=" + variant, fmt.Sprintf("QUANTRA_BENCH_CPU_RATE=%d", rate),
		"QUANTRA_SERVER=" + server, "PYROSCOPE_SERVER_ADDRESS=" + server,
		fmt.Sprintf("PROFILER_ENABLED=%t", rate > 0),
		// No agent shall ask a metadata service: what that answers, and how soon, is no part of the figures.
		"QUANTRA_REGION=local", "GCE_METADATA_HOST=" + metadata,
	}
	if variant == overhead.Baseline {
		// The linker leaves the runtime's sampling of allocations on in every program that could read it, as this one could; one without
		// an agent would not pay for it.
		env = append(env, "GODEBUG="+strings.TrimPrefix(os.Getenv("GODEBUG")+",memprofilerate=0", ","))
	}
	return env
}

// freeAddr is an address of this machine that nobody listens on just now.
func freeAddr() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}

// listens waits until something accepts connections.
func (c *benchChild) listens(ctx context.Context, addr string) error {
	end := time.NewTimer(childReady)
	defer end.Stop()
	for {
		conn, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", addr)
		if err == nil {
			conn.Close()
			select {
			case <-c.exited: // then it is not the child who listens
				return c.died()
			default:
				return nil
			}
		}
		select {
		case <-c.exited:
			return c.died()
		case <-end.C:
			return fmt.Errorf("%s does not listen on %s after %v: it must listen where QUANTRA_BENCH_ADDR says", c.name, addr, childReady)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// endSubject ends the program and is what it tells of its uploads; a user's command tells nothing.
func (b *overheadRun) endSubject(ctx context.Context, c *benchChild) (r subjectReport, err error) {
	if b.o.workload != "demo" {
		select {
		case <-c.exited:
			return r, c.died()
		default:
		}
		c.end(true) // a program may end by the signal, with any code
		return r, nil
	}
	c.stdin.Close()
	line, err := c.line(ctx, "{")
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal([]byte("{"+line), &r); err != nil {
		return r, fmt.Errorf("the program's report: %w", err)
	}
	if err := c.end(false); err != nil {
		return r, fmt.Errorf("the program: %w: %s", err, oneLine(c.tail.String()))
	}
	return r, nil
}

// measure sends the load and looks at the program's accounts at both ends of the measured span, and at its memory within.
func (b *overheadRun) measure(ctx context.Context, c *benchChild, addr string, uploads func(context.Context) (int64, int64, error)) (*overhead.Trial, error) {
	// What dies under way ends the load, and is told of as what it is.
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watching := make(chan struct{})
	defer close(watching)
	go func() {
		select {
		case <-c.exited:
			cancel(c.died())
		case <-b.server.exited:
			cancel(b.server.died())
		case <-watching:
		}
	}()
	start := time.Now().Add(100 * time.Millisecond) // for the connections
	load := overhead.Load{Addr: addr, Requests: b.requests, Rate: b.o.rate, Connections: b.o.connections, Warmup: b.o.warmup, Time: b.o.time}
	type driven struct {
		out *overhead.Outcome
		err error
	}
	done := make(chan driven, 1)
	go func() {
		out, err := overhead.Drive(ctx, load, start)
		if err != nil {
			cancel(err) // who looks at the program need not wait for the span's end
		}
		done <- driven{out, err}
	}()
	t, err := b.account(ctx, c.pid(), start.Add(b.o.warmup), uploads)
	if err != nil {
		// A program that has just died is first seen by its accounts that are gone. What it said is the better error.
		select {
		case <-c.exited:
			err = c.died()
		case <-time.After(time.Second):
		}
		cancel(err)
	}
	d := <-done
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	t.Offered, t.Completed, t.Failed = d.out.Offered, d.out.Completed, d.out.Failed
	t.Rate = float64(d.out.InTime) / b.o.time.Seconds()
	t.Latency, t.Late = &d.out.Latency, d.out.Late.Quantile(0.99).Seconds()
	t.P50, t.P99, t.P999 = d.out.Latency.Quantile(0.5).Seconds(), d.out.Latency.Quantile(0.99).Seconds(), d.out.Latency.Quantile(0.999).Seconds()
	t.Max = d.out.Latency.Max().Seconds()
	if t.Check(b.o.rate, false); t.Invalid != "" && d.out.Err != nil {
		t.Invalid += ": " + oneLine(d.out.Err.Error())
	}
	return t, nil
}

// rssEvery is how often memory is looked at: a read of /proc costs the program nothing and us some microseconds.
const rssEvery = 250 * time.Millisecond

// account looks at a process from the time from on, for as long as is measured.
func (b *overheadRun) account(ctx context.Context, pid int, from time.Time, uploads func(context.Context) (int64, int64, error)) (*overhead.Trial, error) {
	if err := waitUntil(ctx, from); err != nil {
		return nil, err
	}
	kept0, _, err := uploads(ctx)
	if err != nil {
		return nil, err
	}
	peakKnown := resetPeak(pid) == nil
	began := time.Now()
	cpu0, err := cpuTime(pid)
	if err != nil {
		return nil, err
	}
	var samples []float64
	var peak int64
	end := from.Add(b.o.time)
	for at := began; ; {
		at = at.Add(min(rssEvery, b.o.time/10))
		if at.After(end) {
			at = end
		}
		if err := waitUntil(ctx, at); err != nil {
			return nil, err
		}
		var rss int64
		if rss, peak, err = memoryOf(pid); err != nil {
			return nil, err
		}
		samples = append(samples, float64(rss))
		if at.Equal(end) {
			break
		}
	}
	cpu1, err := cpuTime(pid)
	if err != nil {
		return nil, err
	}
	t := &overhead.Trial{Seconds: time.Since(began).Seconds(), CPU: (cpu1 - cpu0).Seconds(), RSS: overhead.Median(samples), RSSSamples: len(samples)}
	if peakKnown {
		t.RSSPeak = float64(peak)
	}
	kept, _, err := uploads(ctx)
	t.UploadsInSpan = kept - kept0
	if math.IsNaN(t.Cores()) || t.CPU <= 0 {
		return nil, fmt.Errorf("process %d has used no processor time while it was measured", pid)
	}
	return t, err
}

func waitUntil(ctx context.Context, at time.Time) error {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
