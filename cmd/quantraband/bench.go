package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store/blocks"
	"github.com/quantra-l/quantra/store/bucket"
	quantrav1 "github.com/quantra-l/quantra/wire/quantra/v1"
)

func (a *app) benchCommand() *cobra.Command {
	return a.group(&cobra.Command{
		Use:     "bench",
		GroupID: "about",
		Short:   "Measure this program on this machine",
		Long:    `Measure what this program costs on this machine, by real work on real profiles. docs/benchmark.md says how to read the figures.`,
		Example: `  quantraband bench store
  quantraband bench overhead
  quantraband bench findings`,
	}, a.benchStore(), a.benchOverhead(), a.benchFindings(), a.benchChanges(), a.benchZerotrust(), a.benchP2P(), a.benchP2PNodes(), a.benchWork(), a.benchSubject())
}

// benchOptions are a load.
type benchOptions struct {
	services, pods, clients, asks int
	every                         time.Duration
	spans                         []time.Duration
	peers                         []*benchPeer
	vary, corpus, keep            string
	seed                          uint64
	asJSON                        bool
	up                            []string
}

func (a *app) benchStore() *cobra.Command {
	var o benchOptions
	var peers []string
	cmd := &cobra.Command{
		Use:   "store [-- UP-FLAGS...]",
		Short: "What it costs to keep profiles and to ask for them",
		Long: `Start a server of its own on an empty folder, send it real profiles as a fleet would have in the last
hours, wait until all is merged and at rest, and ask. The profiles are of this program's own allocations while it does
44 mixes of real work (parsing, compressing, TLS, templates, ...); each upload is one of them with three of four samples left out
by chance, so that no two are alike. --corpus takes pprof files of yours instead.

Processor time and memory are the server's, from /proc (Linux). The figures that a 2-core machine must and should
reach are beside them, for the default load.

--peer sends the same uploads to another store that runs already, when this one's turn is over, and asks it the same; its
processor time, memory and disk are told where its pid and folder are given. Several --span have a column each.`,
		Example: `  quantraband bench store
  quantraband bench store --services 3 --pods 2 --span 5m
  quantraband bench store --peer pyroscope=http://127.0.0.1:4041,pid=4711,data=/tmp/pyroscope
  quantraband bench store --span 15m,1h,4h
  quantraband bench store --span 168h --every 1h     # a week, an hour a profile
  quantraband bench store -- --memory 300MiB`,
		RunE: func(cmd *cobra.Command, args []string) error {
			o.up = args
			if o.services < 1 || o.pods < 1 || o.clients < 1 || o.asks < 1 || o.every <= 0 || len(o.spans) == 0 || slices.Min(o.spans) < o.every {
				return usagef("--services, --pods, --clients and --asks must be at least 1, and --span as long as --every, which must be more than 0")
			}
			for _, text := range peers {
				p, err := parsePeer(text)
				if err != nil {
					return err
				}
				p.connections(o.clients)
				o.peers = append(o.peers, p)
			}
			if len(o.peers) > 0 && len(o.spans) > 1 {
				return usagef("--peer with several --span: what a peer has of one it would have of the next; give one")
			}
			if !slices.Contains([]string{"thin", "values", "none"}, o.vary) {
				return usagef("--vary %s: it must be thin, values or none", o.vary)
			}
			return a.bench(cmd.Context(), &o)
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.services, "services", 20, "services in the fleet")
	f.IntVar(&o.pods, "pods", 5, "instances of each")
	f.DurationVar(&o.every, "every", time.Minute, "how much one profile covers")
	f.DurationSliceVar(&o.spans, "span", []time.Duration{time.Hour}, "how long the fleet has run; several are measured one after the other")
	f.StringArrayVar(&peers, "peer", nil, "another store to measure beside: pyroscope=`URL` or parca=URL, with ,pid=N and ,data=FOLDER")
	f.IntVar(&o.clients, "clients", 4, "uploads at a time")
	f.IntVar(&o.asks, "asks", 20, "how often each question is asked")
	f.StringVar(&o.vary, "vary", "thin", "how uploads differ from the profile they are made of: thin (a quarter of the samples), values, none")
	f.StringVar(&o.corpus, "corpus", "", "`folder` of pprof files to send instead of our own")
	f.StringVar(&o.keep, "keep", "", "`folder` for the server's data, which then stays")
	f.Uint64Var(&o.seed, "seed", 1, "of what is left to chance")
	f.BoolVar(&o.asJSON, "json", false, "write JSON")
	return cmd
}

// corpusSize is how many profiles are made.
const corpusSize = 44

// makeCorpus runs children that do real work, and is their profiles.
func (a *app) makeCorpus(ctx context.Context, dir string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	bar := a.progress("making profiles by real work", corpusSize)
	defer bar.end()
	work := make(chan int)
	errs := make(chan error, corpusSize)
	var group sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		group.Go(func() {
			for i := range work {
				out, err := exec.CommandContext(ctx, self, "bench", "work", "--seed", fmt.Sprint(i), "--output", filepath.Join(dir, fmt.Sprintf("work%02d.pb.gz", i))).CombinedOutput()
				if err != nil {
					errs <- fmt.Errorf("make a profile: %w: %s", err, oneLine(string(out)))
				}
			}
		})
	}
	for i := range corpusSize {
		work <- i
		bar.add(1)
	}
	close(work)
	group.Wait()
	close(errs)
	return <-errs
}

// readCorpus reads the profiles of a folder. Of those of Go's allocations the two columns stay that a CPU profile would have in their place.
func readCorpus(dir string) (ps []*profile.Profile, err error) {
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if strings.HasPrefix(filepath.Base(name), ".") {
			continue
		}
		raw, err := os.ReadFile(name)
		if err != nil {
			return nil, pathError("read", name, err)
		}
		p, err := profile.DecodeBytes(raw, profile.Limits{})
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if i := p.Column("inuse_objects"); i == 2 && len(p.Values) == 4 {
			p.SampleTypes, p.Values = p.SampleTypes[:2], p.Values[:2]
		}
		if p.NumSamples() > 0 {
			ps = append(ps, p)
		}
	}
	if len(ps) == 0 {
		return nil, fmt.Errorf("%s: no profile in it", dir)
	}
	return ps, nil
}

// varied is p as another window of the same program would have it.
func varied(p *profile.Profile, how string, r *rand.Rand) *profile.Profile {
	q := *p
	switch how {
	case "thin":
		q.SampleStack, q.SampleLabels, q.Values = nil, nil, make([][]int64, len(p.Values))
		for i := range p.SampleStack {
			if r.IntN(4) != 0 && !(i == len(p.SampleStack)-1 && len(q.SampleStack) == 0) {
				continue
			}
			q.SampleStack, q.SampleLabels = append(q.SampleStack, p.SampleStack[i]), append(q.SampleLabels, p.SampleLabels[i])
			for t := range p.Values {
				q.Values[t] = append(q.Values[t], p.Values[t][i])
			}
		}
	case "values":
		q.Values = make([][]int64, len(p.Values))
		for t, vs := range p.Values {
			for _, v := range vs {
				q.Values[t] = append(q.Values[t], 1+v*int64(50+r.IntN(100))/100)
			}
		}
	}
	return &q
}

// benchName is the name of the profiles.
const benchName = "memory"

// benchUpload is one profile to send.
type benchUpload struct {
	service, pod string
	from, to     time.Time
	body         []byte
}

// benchQuestion is what is asked, of one service or of all.
type benchQuestion struct {
	name, service string
	from, to      time.Time
	must, want    float64
	pprof         bool
}

// benchFigure is one result.
type benchFigure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	Must  float64 `json:"must,omitempty"`
	Want  float64 `json:"want,omitempty"`
}

// benchColumn is the figures of one store under one load.
type benchColumn struct {
	Store             string `json:"store"`
	Span              string `json:"span"`
	Profiles, Samples int64
	Bytes             int64         `json:"upload_bytes"`
	Figures           []benchFigure `json:"figures"`
}

type benchReport struct {
	Stacks  string        `json:"samples_of_a_profile"` // before --vary
	Corpus  int           `json:"corpus"`
	CPUs    int           `json:"cpus"`
	Columns []benchColumn `json:"columns"`
}

func (a *app) bench(ctx context.Context, o *benchOptions) (err error) {
	tmp, err := os.MkdirTemp("", "quantra-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	corpus := o.corpus
	if corpus == "" {
		corpus = filepath.Join(tmp, "corpus")
		if err := os.Mkdir(corpus, 0o700); err != nil {
			return err
		}
		if err := a.makeCorpus(ctx, corpus); err != nil {
			return err
		}
	}
	base, err := readCorpus(corpus)
	if err != nil {
		return err
	}
	least, most := base[0].NumSamples(), 0
	for _, p := range base {
		least, most = min(least, p.NumSamples()), max(most, p.NumSamples())
	}
	report := benchReport{CPUs: runtime.NumCPU(), Corpus: len(base), Stacks: fmt.Sprintf("%d to %d", least, most)}
	// The fleet ran in whole hours that have ended, so that they are merged as a server of long standing has merged its own.
	end := time.Now().Add(-10 * time.Minute).Truncate(time.Hour)
	var runs []*benchRun
	for i, span := range o.spans {
		data := filepath.Join(cmp.Or(o.keep, tmp), fmt.Sprintf("data-%d", i))
		if o.keep != "" && len(o.spans) == 1 {
			data = o.keep
		}
		runs = append(runs, &benchRun{span: span, data: data})
	}
	for _, p := range o.peers {
		runs = append(runs, &benchRun{span: o.spans[0], peer: p, data: p.data, pid: p.pid})
	}
	for _, b := range runs {
		b.app, b.o, b.base, b.end = a, o, base, end
		b.column.Store, b.column.Span = "quantraband", spanText(b.span)
		if b.peer != nil {
			b.column.Store = b.peer.kind
		}
		if err := b.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", b.column.Store, err)
		}
		report.Columns = append(report.Columns, b.column)
	}
	return a.benchPrint(o, &report)
}

// benchRun is one store under one load.
type benchRun struct {
	app    *app
	o      *benchOptions
	span   time.Duration
	peer   *benchPeer // nil: a server of our own
	data   string
	base   []*profile.Profile
	end    time.Time
	column benchColumn

	own    *benchServer
	pid    int
	server string
	asker  question
	typ    string
}

func (b *benchRun) figure(name string, value float64, unit string, must, want float64) {
	if b.o.services != 20 || b.o.pods != 5 || b.o.clients != 4 || b.span != time.Hour || b.o.every != time.Minute {
		must, want = 0, 0 // they are for that load
	}
	b.column.Figures = append(b.column.Figures, benchFigure{name, value, unit, must, want})
}

func (b *benchRun) run(ctx context.Context) (err error) {
	if b.peer == nil {
		started := time.Now()
		if err := b.start(ctx); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, b.own.stop()) }()
		b.figure("ready after its start", time.Since(started).Seconds(), "s", 1, 1)
	}
	before := b.cpu()
	wall := time.Now()
	waits, err := b.send(ctx)
	if err != nil {
		return err
	}
	per := 1000 / float64(b.column.Profiles)
	b.figure("profiles taken in a second", float64(b.column.Profiles)/time.Since(wall).Seconds(), "", 0, 0)
	b.figure("server's processor time for 1,000 profiles, until acknowledged", (b.cpu()-before)*per, "s", 0, 0)
	b.figure("push, p50, durable on return", ms(quantile(waits, 0.5)), "ms", 50, 10)
	b.figure("push, p99", ms(quantile(waits, 0.99)), "ms", 0, 0)
	b.figure("peak memory while taking in", float64(b.peak())/(1<<20), "MiB", 300, 150)
	rest := b.rest
	if b.peer != nil {
		rest = b.restPeer
	}
	if err := rest(ctx); err != nil {
		return err
	}
	b.figure("server's processor time for 1,000 profiles, until merged", (b.cpu()-before)*per, "s", 6, 2.5)
	b.figure("peak memory until merged", float64(b.peak())/(1<<20), "MiB", 0, 0)
	if err := b.disk(ctx); err != nil {
		return err
	}
	if err := b.ask(ctx); err != nil {
		return err
	}
	b.figure("peak memory in all", float64(b.peak())/(1<<20), "MiB", 0, 0)
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// quantile of what is sorted in place.
func quantile(ds []time.Duration, q float64) time.Duration {
	slices.Sort(ds)
	return ds[min(len(ds)-1, int(q*float64(len(ds))))]
}

// start runs a server, and returns when it is ready.
func (b *benchRun) start(ctx context.Context) (err error) {
	if b.own, err = startBenchServer(ctx, b.data, b.app.stderr, append([]string{"--tenant-rate", "0", "--compact-every", "1s"}, b.o.up...)...); err != nil {
		return err
	}
	b.server, b.pid = b.own.url, b.own.pid()
	b.asker = question{server: b.server, timeout: 5 * time.Minute}
	return nil
}

// cpu is the server's processor time so far, in seconds; 0 where there is no /proc.
func (b *benchRun) cpu() float64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.pid))
	if err != nil {
		return 0
	}
	// proc(5): after the name in parentheses, utime and stime are fields 14 and 15, in ticks of 1/100 s.
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	if len(fields) < 13 {
		return 0
	}
	u, _ := strconv.ParseFloat(fields[11], 64)
	s, _ := strconv.ParseFloat(fields[12], 64)
	return (u + s) / 100
}

// peak is the most memory the server has had, in bytes; 0 where there is no /proc.
func (b *benchRun) peak() int64 {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kb, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kb << 10
		}
	}
	return 0
}

// round is the uploads of one moment, of all the fleet.
func (b *benchRun) round(from time.Time, r *rand.Rand) (out []benchUpload, err error) {
	for s := range b.o.services {
		for p := range b.o.pods {
			// A service has two programs, as while a version is rolled out.
			v := varied(b.base[(s+p%2*b.o.services)%len(b.base)], b.o.vary, r)
			v.TimeNanos, v.DurationNanos = from.UnixNano(), int64(b.o.every)
			var body bytes.Buffer
			if err := v.Encode(&body); err != nil {
				return nil, err
			}
			out = append(out, benchUpload{fmt.Sprintf("service-%02d", s), fmt.Sprintf("pod-%d", p), from, from.Add(b.o.every), body.Bytes()})
			b.column.Profiles++
			b.column.Samples += int64(v.NumSamples())
			b.column.Bytes += int64(body.Len())
		}
	}
	return out, nil
}

// send sends all profiles, in the order of time. What is sent next is made while nothing is under way, so that the server has the machine
// for itself and the clients.
func (b *benchRun) send(ctx context.Context) (waits []time.Duration, err error) {
	r := rand.New(rand.NewPCG(b.o.seed, 2))
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: b.o.clients}, Timeout: 5 * time.Minute}
	defer client.CloseIdleConnections()
	begin := b.end.Add(-b.span)
	bar := b.app.progress("sending profiles", int64(b.span/b.o.every))
	defer bar.end()
	for at := begin; at.Before(b.end); at = at.Add(b.o.every) {
		ups, err := b.round(at, r)
		if err != nil {
			return nil, err
		}
		w, err := b.sendAll(ctx, client, ups)
		if err != nil {
			return nil, err
		}
		waits = append(waits, w...)
		bar.add(1)
	}
	return waits, nil
}

func (b *benchRun) sendAll(ctx context.Context, client *http.Client, ups []benchUpload) (waits []time.Duration, err error) {
	work := make(chan *benchUpload)
	var mu sync.Mutex
	var group sync.WaitGroup
	for range b.o.clients {
		group.Go(func() {
			for u := range work {
				d, e := b.sendOne(ctx, client, u)
				mu.Lock()
				waits = append(waits, d)
				err = cmp.Or(err, e)
				mu.Unlock()
			}
		})
	}
	for i := range ups {
		work <- &ups[i]
	}
	close(work)
	group.Wait()
	return waits, err
}

// sendOne sends until it is kept, and is how long that took.
func (b *benchRun) sendOne(ctx context.Context, client *http.Client, u *benchUpload) (time.Duration, error) {
	start := time.Now()
	for {
		var err error
		if b.peer != nil {
			err = b.peer.push(ctx, u)
		} else {
			err = b.push(ctx, client, u)
		}
		if !errors.Is(err, errBusy) {
			return time.Since(start), err
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// push sends an upload to our own server.
func (b *benchRun) push(ctx context.Context, client *http.Client, u *benchUpload) error {
	q := url.Values{"service_name": {u.service}, "service_instance_id": {u.pod}, "name": {benchName},
		"from": {fmt.Sprint(u.from.UnixNano())}, "until": {fmt.Sprint(u.to.UnixNano())}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.server+"/api/v1/profiles?"+q.Encode(), bytes.NewReader(u.body))
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1000))
	resp.Body.Close()
	switch {
	case err != nil:
		return err
	case resp.StatusCode == http.StatusTooManyRequests:
		return errBusy
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("the server answers %s: %s", resp.Status, text)
	}
	return nil
}

// serverMetrics are a server's figures, by name and labels as /metrics writes them.
func serverMetrics(ctx context.Context, server string) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	resp, err := new(credentials).client(server, &http.Client{}).Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	out := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if i := strings.LastIndexByte(lines.Text(), ' '); i >= 0 {
			if v, err := strconv.ParseFloat(lines.Text()[i+1:], 64); err == nil {
				out[lines.Text()[:i]] = v
			}
		}
	}
	return out, lines.Err()
}

// rest waits until nothing is in memory, nothing waits for the bucket, and nothing has been merged for a while.
func (b *benchRun) rest(ctx context.Context) error {
	var before string
	since := time.Now()
	for end := time.Now().Add(20 * time.Minute); ; {
		m, err := serverMetrics(ctx, b.server)
		if err != nil {
			return err
		}
		now := fmt.Sprint(m["quantra_store_profiles"], m["quantra_blocks_queued"], m["quantra_blocks_asked"], m["quantra_blocks_compactions_total"])
		if now != before || m["quantra_store_profiles"] > 0 || m["quantra_blocks_queued"] > 0 {
			before, since = now, time.Now()
		}
		if time.Since(since) > 8*time.Second {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("the server does not come to rest: %s profiles in memory, blocks waiting, blocks asked, merges", now)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// restPeer waits until a peer does next to nothing: it does not say what it has left to do. Of a process that is not known it waits a minute.
func (b *benchRun) restPeer(ctx context.Context) error {
	const step, quiet, most = 10 * time.Second, 0.05, 5 * time.Minute
	for waited := time.Duration(0); waited < most; waited += step {
		before := b.cpu()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(step):
		}
		if used := (b.cpu() - before) / step.Seconds(); used < quiet && (b.pid != 0 || waited >= time.Minute) {
			break
		}
	}
	return nil
}

// disk weighs what is kept.
func (b *benchRun) disk(ctx context.Context) error {
	if b.peer != nil {
		raw, err := folderBytes(b.data)
		if raw > 0 {
			b.figure("with what awaits deletion", float64(raw)/1e6, "MB", 0, 0)
		}
		return err
	}
	var live int64
	err := b.app.beside(ctx, &storeOptions{data: b.data, place: engineOptions{region: "local"}}, true, func(bs *blocks.Blocks, _ bucket.Bucket) error {
		live = bs.ExportBytes()
		return nil
	})
	if err != nil {
		return err
	}
	raw, err := folderBytes(b.data)
	b.figure("live on disk after merging", float64(live)/1e6, "MB", 75, 40)
	b.figure("with what awaits deletion", float64(raw)/1e6, "MB", 0, 0)
	b.figure("live bytes for a sample", float64(live)/float64(b.column.Samples), "", 0, 0)
	return err
}

// folderBytes is what the files in a folder weigh.
func folderBytes(dir string) (n int64, err error) {
	if dir == "" {
		return 0, nil
	}
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		n += info.Size()
		return err
	})
	return n, err
}

// ask asks what a dashboard asks, each several times after one that is not counted but told.
func (b *benchRun) ask(ctx context.Context) error {
	if err := b.chooseType(ctx); err != nil {
		return err
	}
	one, all := "service-00", fmt.Sprintf("%d services", b.o.services)
	quarter := min(15*time.Minute, b.span)
	part, whole := spanText(quarter), spanText(b.span)
	if len(b.o.spans) > 1 { // names are the same in all columns
		part, whole = "15m at most", "all"
	}
	for _, q := range []benchQuestion{
		{"flame graph, 1 service, " + part, one, b.end.Add(-quarter), b.end, 15, 3, false},
		{"flame graph, 1 service, " + whole, one, b.end.Add(-b.span), b.end, 25, 8, false},
		{"flame graph, " + all + ", " + whole, "", b.end.Add(-b.span), b.end, 250, 80, false},
		{"merged pprof, " + all + ", " + whole, "", b.end.Add(-b.span), b.end, 400, 150, true},
	} {
		err := b.askOften(q.name, q.must, q.want, func() error {
			if b.peer != nil {
				return b.peer.ask(ctx, &q, b.typ)
			}
			return b.askOnce(ctx, &q)
		})
		if err != nil {
			return err
		}
	}
	if b.peer != nil {
		return nil
	}
	return b.askTrend(ctx, "trend of a function, "+all+", "+whole)
}

// chooseType is the second column of the profiles, or the only one.
func (b *benchRun) chooseType(ctx context.Context) error {
	p := b.base[0]
	of := p.SampleTypes[min(1, len(p.SampleTypes)-1)]
	if b.peer != nil {
		b.typ = profile.Type{Name: benchName, Sample: of, Period: p.PeriodType}.String()
		return nil
	}
	types, err := b.asker.client().ProfileTypes(ctx, connect.NewRequest(&quantrav1.ProfileTypesRequest{}))
	if err != nil {
		return b.asker.serverError(err)
	}
	for _, t := range types.Msg.ProfileTypes {
		if pt, err := profile.ParseType(t); err == nil && (b.typ == "" || pt.Sample.Type == of.Type) {
			b.typ = t
		}
	}
	return nil
}

// askOften asks once, which is told apart, and then as often as was wanted.
func (b *benchRun) askOften(name string, must, want float64, ask func() error) error {
	var first time.Duration
	var took []time.Duration
	for i := range b.o.asks + 1 {
		start := time.Now()
		if err := ask(); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if d := time.Since(start); i == 0 {
			first = d
		} else {
			took = append(took, d)
		}
	}
	b.figure(name+", p50", ms(quantile(took, 0.5)), "ms", must, want)
	b.figure(name+", the first time", ms(first), "ms", 0, 0)
	return nil
}

// askTrend asks for a function that most programs have, over all the time there is.
func (b *benchRun) askTrend(ctx context.Context, name string) error {
	c := b.asker.client()
	sel := &quantrav1.Selection{ProfileType: b.typ, Range: &quantrav1.TimeRange{FromMs: b.end.Add(-b.span).UnixMilli(), ToMs: b.end.UnixMilli()}}
	top, err := c.Top(ctx, connect.NewRequest(&quantrav1.TopRequest{Selection: sel, Limit: 1}))
	if err != nil || len(top.Msg.Rows) == 0 {
		return fmt.Errorf("no function to ask for: %w", b.asker.serverError(err))
	}
	return b.askOften(name, 0, 0, func() error {
		resp, err := c.Trend(ctx, connect.NewRequest(&quantrav1.TrendRequest{Selection: sel, Functions: []string{top.Msg.Rows[0].Name}}))
		if err == nil && len(resp.Msg.Lines) == 0 {
			err = fmt.Errorf("%s has no trend", top.Msg.Rows[0].Name)
		}
		return err
	})
}

func (b *benchRun) askOnce(ctx context.Context, q *benchQuestion) error {
	sel := &quantrav1.Selection{ProfileType: b.typ, Range: &quantrav1.TimeRange{FromMs: q.from.UnixMilli(), ToMs: q.to.UnixMilli()}}
	if q.service != "" {
		sel.Matchers = fmt.Sprintf("service_name=%q", q.service)
	}
	if !q.pprof {
		resp, err := b.asker.client().FlameGraph(ctx, connect.NewRequest(&quantrav1.FlameGraphRequest{Selection: sel}))
		if err == nil && resp.Msg.GetTree() == nil {
			err = errors.New("the answer has no tree")
		}
		return err
	}
	body, err := b.asker.export(ctx, "pprof", sel)
	if err != nil {
		return err
	}
	n, err := io.Copy(io.Discard, body)
	if err == nil && n == 0 {
		err = errors.New("the answer is empty")
	}
	return errors.Join(err, body.Close())
}

func spanText(d time.Duration) string {
	a := age(d)
	return strings.TrimSuffix(a.String(), "0m")
}

func (a *app) benchPrint(o *benchOptions, r *benchReport) error {
	if o.asJSON {
		return writeJSON(a.stdout, r)
	}
	for _, c := range r.Columns {
		fmt.Fprintf(a.stdout, "%s: %d profiles of %s, of %d (%s samples each before --vary %s), %d samples, %s as sent; %d clients; %d CPUs\n",
			c.Store, c.Profiles, c.Span, r.Corpus, r.Stacks, o.vary, c.Samples, sizeText(c.Bytes), o.clients, r.CPUs)
	}
	fmt.Fprintln(a.stdout)
	header := ""
	for _, c := range r.Columns {
		name := strings.ToUpper(c.Store)
		if len(o.spans) > 1 {
			name = c.Span
		}
		header += "\t" + name
	}
	return a.lines(header+"\tMUST\tWANT\t", func(line func(...any)) {
		for _, f := range r.Columns[0].Figures {
			cells := []any{f.Name}
			for _, c := range r.Columns {
				cell := "-"
				if i := slices.IndexFunc(c.Figures, func(g benchFigure) bool { return g.Name == f.Name }); i >= 0 && (c.Figures[i].Value != 0 || c.Figures[i].Must == 0) {
					cell = strings.TrimSpace(fmt.Sprintf("%.4g %s", c.Figures[i].Value, f.Unit))
				}
				cells = append(cells, cell)
			}
			must, want, verdict := "", "", ""
			if f.Must > 0 {
				must, want, verdict = fmt.Sprintf("%g %s", f.Must, f.Unit), fmt.Sprintf("%g %s", f.Want, f.Unit), "too much"
				switch {
				case f.Value == 0:
					verdict = "not measured here"
				case f.Value <= f.Want:
					verdict = "as wanted"
				case f.Value <= f.Must:
					verdict = "as it must be"
				}
			}
			line(append(cells, must, want, verdict)...)
		}
	})
}
