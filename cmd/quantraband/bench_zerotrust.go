package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/zerotrust"
	"github.com/quantra-l/quantra/zerotrust/policy"
)

// guardRow is one figure with its spread over rounds.
type guardRow struct {
	What   string    `json:"what"`
	Unit   string    `json:"unit"`
	Values []float64 `json:"values"` // one a round
	Note   string    `json:"note,omitempty"`
}

func (r *guardRow) median() float64 {
	v := slices.Sorted(slices.Values(r.Values))
	return v[len(v)/2]
}

type guardBench struct {
	rounds  int
	seconds float64
	rate    int
	asJSON  bool
}

func (a *app) benchZerotrust() *cobra.Command {
	o := guardBench{}
	cmd := &cobra.Command{
		Use:   "zerotrust",
		Short: "What a decision of the guard costs",
		Long: `Measure the guard in this process: decisions on identities that it knows, by one and by two workers, without and with a record of
each; identities seen for the first time, beside the bare check of their signatures; how long a connection waits that comes as one of
1,000 new ones a second, with each decision recorded and trust kept on disk; and, beside it, a guard of five locks as the one that this
replaces was said to be. Figures a core are by processor time (Linux), so that a busy machine disturbs them less.`,
		Example: `  quantraband bench zerotrust
  quantraband bench zerotrust --rounds 7 --seconds 2 --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.rounds < 1 || o.seconds <= 0 || o.rate < 1 {
				return usagef("--rounds, --seconds and --rate must be above 0")
			}
			if err := measurable(); err != nil {
				return err
			}
			return a.measureGuard(cmd.Context(), &o)
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.rounds, "rounds", 5, "`number` of times each figure is taken")
	f.Float64Var(&o.seconds, "seconds", 1, "how long each takes, about")
	f.IntVar(&o.rate, "rate", 1000, "new connections a second")
	f.BoolVar(&o.asJSON, "json", false, "write JSON")
	return cmd
}

func (a *app) measureGuard(ctx context.Context, o *guardBench) error {
	dir, err := os.MkdirTemp("", "quantra-bench-guard-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	w, err := newGuardWork(dir, o)
	if err != nil {
		return err
	}
	rows := []*guardRow{}
	row := func(what, unit string) *guardRow {
		rows = append(rows, &guardRow{What: what, Unit: unit})
		return rows[len(rows)-1]
	}
	type load struct {
		row     *guardRow
		measure func() (float64, error)
	}
	var loads []load
	for _, c := range []struct {
		name  string
		judge func(i int) error
	}{{"known identity", w.known(w.quiet)}, {"known identity, each recorded", w.known(w.recorded)}, {"five locks, each recorded", w.fiveLocks()}} {
		for _, workers := range []int{1, 2} {
			name := fmt.Sprintf("%s, %d at a time", c.name, workers)
			perCore, perSecond := row(name, "decisions/s of a core"), row(name, "decisions/s")
			loads = append(loads, load{perCore, func() (float64, error) {
				n, wall, cpu, err := w.hammer(ctx, workers, c.judge)
				perSecond.Values = append(perSecond.Values, float64(n)/wall.Seconds())
				return float64(n) / cpu.Seconds(), err
			}})
		}
	}
	raw, first := row("signature alone", "documents/s of a core"), row("identity seen first", "documents/s of a core")
	share := row("identity seen first, of the signature's speed", "%")
	loads = append(loads, load{first, func() (float64, error) {
		bare, whole, err := w.first(ctx)
		raw.Values, share.Values = append(raw.Values, bare), append(share.Values, 100*whole/bare)
		return whole, err
	}})
	p50, p99, most := row("new connection, median wait", "ms"), row("new connection, p99", "ms"), row("new connection, longest", "ms")
	loads = append(loads, load{p99, func() (float64, error) {
		ms, err := w.arrivals(ctx)
		if err != nil {
			return 0, err
		}
		p50.Values, most.Values = append(p50.Values, ms[len(ms)/2]), append(most.Values, ms[len(ms)-1])
		return ms[len(ms)*99/100], nil
	}})
	bar := a.progress("measuring the guard", int64(o.rounds*len(loads)))
	defer bar.end()
	for range o.rounds { // all in turn, so that what else the machine does falls on all alike
		for _, l := range loads {
			v, err := l.measure()
			if err != nil {
				return err
			}
			l.row.Values = append(l.row.Values, v)
			bar.add(1)
		}
	}
	if err := w.close(); err != nil {
		return err
	}
	if o.asJSON {
		return writeJSON(a.stdout, rows)
	}
	return a.lines("WHAT\tMEDIAN\tLEAST\tMOST\tUNIT", func(line func(...any)) {
		for _, r := range rows {
			line(r.What, guardNumber(r.median()), guardNumber(slices.Min(r.Values)), guardNumber(slices.Max(r.Values)), r.Unit)
		}
	})
}

func guardNumber(v float64) string {
	if v >= 1000 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.2f", v)
}

// guardWork is what is measured: guards, and identities for them.
type guardWork struct {
	dir             string
	opt             *guardBench
	issuer          seal.Key
	docs            []zerotrust.Request // of known identities
	quiet, recorded *zerotrust.Guard
	guards          []*zerotrust.Guard
	ledgers         []*benchLedger
	keys            uint64 // made so far
}

// benchLedger takes records as lines of JSON, and writes them behind one lock in a batch: what a log with group commit costs its callers
// at least.
type benchLedger struct {
	mu sync.Mutex
	w  *bufio.Writer
	f  *os.File
}

func newBenchLedger(name string) (*benchLedger, error) {
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	return &benchLedger{w: bufio.NewWriterSize(f, 1<<20), f: f}, nil
}

func (l *benchLedger) record(_ context.Context, e zerotrust.Event) error {
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err = l.w.Write(append(line, '\n'))
	return err
}

func newGuardWork(dir string, o *guardBench) (w *guardWork, err error) {
	w = &guardWork{dir: dir, opt: o, issuer: seal.NewKey()}
	if w.quiet, err = w.guard("", func(context.Context, zerotrust.Event) error { return nil }); err != nil {
		return nil, err
	}
	l, err := w.ledger("recorded")
	if err != nil {
		return nil, err
	}
	if w.recorded, err = w.guard("", l.record); err != nil {
		return nil, err
	}
	w.docs, err = w.identities(1024)
	return w, err
}

func (w *guardWork) ledger(name string) (*benchLedger, error) {
	l, err := newBenchLedger(filepath.Join(w.dir, fmt.Sprintf("%s-%d.jsonl", name, len(w.ledgers))))
	if err == nil {
		w.ledgers = append(w.ledgers, l)
	}
	return l, err
}

func (w *guardWork) guard(dir string, record func(context.Context, zerotrust.Event) error) (*zerotrust.Guard, error) {
	g, err := zerotrust.New(zerotrust.Options{Dir: dir, Issuers: []seal.PublicKey{w.issuer.Public()}, Record: record, Cache: 4096})
	if err == nil {
		w.guards = append(w.guards, g)
	}
	return g, err
}

func (w *guardWork) close() error {
	var err error
	for _, g := range w.guards {
		err = cmp.Or(err, g.Close())
	}
	for _, l := range w.ledgers {
		err = cmp.Or(err, l.w.Flush(), l.f.Close())
	}
	return err
}

// identities are n that were never seen.
func (w *guardWork) identities(n int) (out []zerotrust.Request, err error) {
	for range n {
		w.keys++
		var seed [32]byte
		binary.BigEndian.PutUint64(seed[:], w.keys)
		key, err := seal.KeyFromSeed(seed[:])
		if err != nil {
			return nil, err
		}
		d := zerotrust.Identity{
			Kind: "peer", Key: key.Public(), Issuer: w.issuer.Public(), NotBefore: time.Now().Add(-time.Minute), Expires: time.Now().Add(time.Hour),
			Attributes: []zerotrust.Attribute{{Name: "region", Value: "eu"}, {Name: "team", Value: "payments"}},
		}
		doc, err := d.Sign(w.issuer)
		if err != nil {
			return nil, err
		}
		out = append(out, zerotrust.Request{Document: doc, Key: key.Public(), Action: "connect", Resource: "peer/self"})
	}
	return out, nil
}

// known judges identities that a guard knows.
func (w *guardWork) known(g *zerotrust.Guard) func(int) error {
	return func(i int) error {
		d, err := g.Evaluate(context.Background(), w.docs[i%len(w.docs)])
		if err == nil && !d.Allow {
			err = fmt.Errorf("denied: %s", d.Reason)
		}
		return err
	}
}

// hammer has workers judge for a while, and is how many times they did, how long it took and what it cost.
func (w *guardWork) hammer(ctx context.Context, workers int, judge func(int) error) (n int64, wall, cpu time.Duration, err error) {
	for i := range w.docs { // known from here on
		if err := judge(i); err != nil {
			return 0, 0, 0, err
		}
	}
	runtime.GC()
	before, err := cpuTime(os.Getpid())
	if err != nil {
		return 0, 0, 0, err
	}
	start := time.Now()
	var total atomic.Int64
	var group sync.WaitGroup
	errs := make(chan error, workers)
	for k := range workers {
		group.Go(func() {
			i := k * 37
			for time.Since(start).Seconds() < w.opt.seconds && ctx.Err() == nil {
				for range 256 {
					if err := judge(i); err != nil {
						errs <- err
						return
					}
					i++
				}
				total.Add(256)
			}
		})
	}
	group.Wait()
	wall = time.Since(start)
	after, err := cpuTime(os.Getpid())
	select {
	case err = <-errs:
	default:
	}
	return total.Load(), wall, after - before, cmp.Or(err, ctx.Err())
}

// first is how many signatures of fresh documents a core checks a second, and how many it judges: in turns of a few, so that both have the same
// machine.
func (w *guardWork) first(ctx context.Context) (bare, whole float64, err error) {
	fresh, err := w.identities(int(10_000 * w.opt.seconds))
	if err != nil {
		return 0, 0, err
	}
	g, err := w.guard("", func(context.Context, zerotrust.Event) error { return nil })
	if err != nil {
		return 0, 0, err
	}
	pub := w.issuer.Public()
	works := [2]func(*zerotrust.Request) error{
		func(r *zerotrust.Request) error {
			n := len(r.Document) - seal.SignatureSize
			return pub.Verify("quantra identity v1", r.Document[:n], seal.Signature(r.Document[n:]))
		},
		func(r *zerotrust.Request) error {
			d, err := g.Evaluate(ctx, *r)
			if err == nil && !d.Allow {
				err = fmt.Errorf("denied: %s", d.Reason)
			}
			return err
		},
	}
	var took [2]time.Duration
	runtime.GC()
	for turn := range slices.Chunk(fresh, 250) {
		for i, work := range works {
			before, err := cpuTime(os.Getpid())
			if err != nil {
				return 0, 0, err
			}
			for k := range turn {
				if err := cmp.Or(work(&turn[k]), ctx.Err()); err != nil {
					return 0, 0, err
				}
			}
			after, err := cpuTime(os.Getpid())
			if err != nil {
				return 0, 0, err
			}
			took[i] += after - before
		}
	}
	n := float64(len(fresh))
	return n / took[0].Seconds(), n / took[1].Seconds(), nil
}

// arrivals has new connections come at a steady rate, whether the guard keeps up or not, and is how long each waited from when it was due
// until it was let in, sorted, in milliseconds. Trust is kept on disk, and each decision is recorded.
func (w *guardWork) arrivals(ctx context.Context) ([]float64, error) {
	n := max(200, int(float64(w.opt.rate)*w.opt.seconds*3))
	fresh, err := w.identities(n)
	if err != nil {
		return nil, err
	}
	l, err := w.ledger("arrivals")
	if err != nil {
		return nil, err
	}
	g, err := w.guard(filepath.Join(w.dir, fmt.Sprint("guard", len(w.guards))), l.record)
	if err != nil {
		return nil, err
	}
	binding := make([]byte, 32)
	ms, errs := make([]float64, n), make(chan error, n)
	start := time.Now()
	var group sync.WaitGroup
	for i := range fresh {
		due := start.Add(time.Duration(i) * time.Second / time.Duration(w.opt.rate))
		time.Sleep(time.Until(due))
		group.Go(func() {
			s, d, err := g.Begin(ctx, fresh[i], binding)
			ms[i] = time.Since(due).Seconds() * 1000
			if err != nil || s == nil {
				errs <- cmp.Or(err, fmt.Errorf("denied: %s", d.Reason))
				return
			}
			s.Close()
		})
	}
	group.Wait()
	select {
	case err := <-errs:
		return nil, err
	default:
	}
	slices.Sort(ms)
	return ms, g.Close()
}

// fiveLocks is a guard as the review described the one before: the identities, their trust and their counts in three maps that each have a
// copy of who it is, each behind a lock, the policies behind a fourth, and the record written behind a fifth, one after the other. It
// decides the same: its documents are known, too.
func (w *guardWork) fiveLocks() func(int) error {
	type who struct {
		id, kind   string
		attributes map[string]string
	}
	type entry struct {
		who
		value int
	}
	var locks [5]sync.Mutex
	var maps [3]map[string]entry
	for i := range maps {
		maps[i] = map[string]entry{}
	}
	byDocument := map[string]string{}
	set := policy.Standard()
	out := bufio.NewWriterSize(io.Discard, 1<<20)
	for _, r := range w.docs {
		id := zerotrust.IDOf(r.Key)
		byDocument[string(r.Document)] = id
		for i := range maps {
			maps[i][id] = entry{who{strings.Clone(id), "peer", map[string]string{"region": "eu", "team": "payments"}}, 50}
		}
	}
	return func(i int) error {
		r := &w.docs[i%len(w.docs)]
		var found [3]entry
		locks[0].Lock()
		id, ok := byDocument[string(r.Document)]
		found[0] = maps[0][id]
		locks[0].Unlock()
		for k := 1; k < len(maps); k++ {
			locks[k].Lock()
			e := maps[k][id]
			e.attributes = map[string]string{}
			for name, v := range maps[k][id].attributes {
				e.attributes[name] = v
			}
			found[k] = e
			locks[k].Unlock()
		}
		now := time.Now()
		locks[3].Lock()
		res := set.Decide(&policy.Request{
			Principal: id, Kind: found[0].kind, Action: r.Action, Resource: r.Resource, Trust: found[1].value, Level: policy.LevelOf(found[1].value),
			Attributes: found[2].attributes, Time: now,
		})
		locks[3].Unlock()
		locks[4].Lock()
		defer locks[4].Unlock()
		line, err := json.Marshal(zerotrust.Event{
			Time: now, What: "decision", Principal: id, Kind: "peer", Action: r.Action, Resource: r.Resource, Allowed: res.Allow,
			Trust: found[1].value, Level: policy.LevelOf(found[1].value), Policies: res.Policies, Reason: res.Reason,
		})
		if err != nil {
			return err
		}
		if _, err := out.Write(append(line, '\n')); err != nil {
			return err
		}
		if !ok || !res.Allow {
			return fmt.Errorf("the five locks deny: %s", res.Reason)
		}
		return nil
	}
}
