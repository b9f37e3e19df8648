package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/quantra-l/quantra/agent/live"
	"github.com/quantra-l/quantra/analyze/sched"
	"github.com/quantra-l/quantra/cmd/quantraband/console"
	"github.com/quantra-l/quantra/profile"
)

const (
	defaultPprofPort = "6060"
	// fullGoroutines is up to how many goroutines all details are asked for: the program stands
	// still for about 3 µs for each with a short stack, so for some 5 ms at most.
	fullGoroutines = 1000
	maxAnswer      = 256 << 20 // bytes that are read of one answer
)

// pprofSource is a program's own net/http/pprof pages.
type pprofSource struct {
	t     *liveTop
	base  string // of the pages, without a slash at the end
	vars  string // of expvar
	total int    // goroutines there were at the last look; -1 if there was none
}

// newPprofSource reads what the user wrote for an address.
func newPprofSource(t *liveTop, addr string) (*pprofSource, error) {
	text := addr
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, usagef("%q is no address; write it as localhost:6060 or http://host:6060/debug/pprof", addr)
	}
	if u.Port() == "" && !strings.Contains(addr, "://") {
		u.Host = net.JoinHostPort(u.Hostname(), defaultPprofPort)
	}
	u.RawQuery, u.Fragment = "", ""
	vars := *u
	if u.Path = strings.TrimRight(u.Path, "/"); u.Path == "" {
		u.Path = "/debug/pprof"
	}
	vars.Path = strings.TrimSuffix(u.Path, "/pprof") + "/vars"
	return &pprofSource{t: t, base: u.String(), vars: vars.String(), total: -1}, nil
}

func (p *pprofSource) source() *console.Source {
	return &console.Source{
		Name:       strings.TrimSuffix(strings.TrimPrefix(p.base, "http://"), "/debug/pprof"),
		Goroutines: p.goroutines, Functions: p.functions, Runtime: p.runtime, Trace: p.trace,
	}
}

// get asks for a page, and lets read read it. The timeout is beside the seconds that the page takes by itself.
func (p *pprofSource) get(ctx context.Context, page string, takes time.Duration, read func(io.Reader) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, p.t.q.timeout+takes, fmt.Errorf("no answer within %s; --timeout sets how long to wait", p.t.q.timeout+takes))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page, nil)
	if err != nil {
		return usagef("%w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return pageError(ctx, page, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 200)) // only adds to an error we have
		if resp.StatusCode == http.StatusNotFound {
			return unavailablef("%s: %w: 404 Not Found; does it import net/http/pprof, and at another path?", page, errNoPage)
		}
		return unavailablef("%s: the program answers %s: %s", page, resp.Status, strings.TrimSpace(string(text)))
	}
	if err := read(io.LimitReader(resp.Body, maxAnswer)); err != nil {
		if ctx.Err() != nil {
			return pageError(ctx, page, err)
		}
		return fmt.Errorf("%s: %w", page, err)
	}
	return nil
}

var errNoPage = errors.New("there is no such page")

// pageError says in the user's terms why a page did not come.
func pageError(ctx context.Context, page string, err error) error {
	var op *net.OpError
	switch {
	case errors.Is(context.Cause(ctx), context.Canceled):
		return context.Canceled
	case ctx.Err() != nil:
		return unavailablef("%s: %w", page, context.Cause(ctx))
	case errors.As(err, &op) && op.Op == "dial":
		return unavailablef("no program answers at %s (%w)", page, op.Err)
	}
	return unavailablef("%w", err)
}

// goroutines takes a profile of them, which does not stop the program, where they are many or
// their number is not known, and the full list where they are few.
func (p *pprofSource) goroutines(ctx context.Context, full bool) (live.Snapshot, error) {
	full = full || p.t.full
	if !full && (p.total < 0 || p.total > fullGoroutines) {
		s, err := p.counts(ctx)
		if err != nil || s.Total > fullGoroutines {
			return s, err
		}
	}
	begin := time.Now()
	var s live.Snapshot
	err := p.get(ctx, p.base+"/goroutine?debug=2", 0, func(r io.Reader) (err error) {
		s, err = live.ParseDump(r, live.Limits{})
		return err
	})
	if err != nil {
		return s, goroutineError(err)
	}
	s.Time, s.Took, p.total = begin, time.Since(begin), s.Total
	return s, nil
}

func (p *pprofSource) counts(ctx context.Context) (live.Snapshot, error) {
	begin := time.Now()
	var s live.Snapshot
	err := p.get(ctx, p.base+"/goroutine", 0, func(r io.Reader) error {
		prof, _, err := profile.Read(r, profile.Limits{})
		if err != nil {
			return err
		}
		s, err = snapshotOf(prof)
		return err
	})
	s.Time, s.Took, p.total = begin, time.Since(begin), s.Total
	return s, goroutineError(err)
}

// goroutineError makes an answer that is no list of goroutines corrupt input, not a failure.
func goroutineError(err error) error {
	if errors.Is(err, live.ErrNotGoroutines) {
		return corruptf("%w", err)
	}
	return err
}

// snapshotOf is a goroutine profile as a snapshot by counts. Inlined functions are frames of their own.
func snapshotOf(p *profile.Profile) (live.Snapshot, error) {
	col := p.Column("goroutine")
	if col < 0 {
		return live.Snapshot{}, corruptf("the profile is not of goroutines: it has %s", sampleTypes(p))
	}
	stacks := make([]live.Stack, 0, p.NumSamples())
	for i, node := range p.SampleStack {
		st := live.Stack{Count: int(min(p.Values[col][i], 1<<31-1))}
		for n := node; n != 0; n = p.Stacks.Parent[n] {
			for _, ln := range p.LinesOf(p.Stacks.Loc[n]) {
				f := p.Functions[ln.Function]
				st.Frames = append(st.Frames, live.Frame{Func: p.Strings[f.Name], File: p.Strings[f.File], Line: int(ln.Line)})
			}
		}
		stacks = append(stacks, st)
	}
	return live.FromStacks(stacks, live.Limits{}), nil
}

func (p *pprofSource) functions(ctx context.Context) (out console.Functions, err error) {
	seconds := p.t.seconds
	page := p.base + "/profile?seconds=" + strconv.Itoa(seconds)
	err = p.get(ctx, page, time.Duration(seconds)*time.Second, func(r io.Reader) error {
		prof, _, err := profile.Read(r, profile.Limits{})
		if err != nil {
			return err
		}
		col := prof.Column("cpu")
		if col < 0 {
			return corruptf("the profile is not of the processor: it has %s", sampleTypes(prof))
		}
		out = console.Functions{Rows: profile.Top(prof, col), Sample: prof.SampleTypes[col], Total: prof.Total(col), Over: fmt.Sprintf("the last %d s", seconds)}
		return nil
	})
	return out, err
}

func (p *pprofSource) trace(ctx context.Context) (out sched.Summary, err error) {
	page := p.base + "/trace?seconds=" + strconv.Itoa(p.t.seconds)
	err = p.get(ctx, page, time.Duration(p.t.seconds)*time.Second, func(r io.Reader) (err error) {
		out, err = sched.Summarize(r, sched.Limits{Bytes: maxAnswer})
		if errors.Is(err, sched.ErrNotTrace) || errors.Is(err, sched.ErrVersion) {
			return corruptf("%w", err)
		}
		return err
	})
	return out, err
}

// runtime reads the program's expvars, and where it has none what the heap profile says below its stacks.
func (p *pprofSource) runtime(ctx context.Context) (console.Runtime, error) {
	out := console.Runtime{Time: time.Now()}
	stats := map[string]float64{}
	err := p.get(ctx, p.vars, 0, func(r io.Reader) error {
		var v struct {
			Memstats map[string]any `json:"memstats"`
		}
		if err := json.NewDecoder(io.LimitReader(r, 16<<20)).Decode(&v); err != nil {
			return corruptf("it is not what expvar writes: %w", err)
		}
		for name, x := range v.Memstats {
			if f, ok := x.(float64); ok {
				stats[name] = f
			}
		}
		return nil
	})
	if errors.Is(err, errNoPage) || err == nil && len(stats) == 0 {
		err = p.get(ctx, p.base+"/heap?debug=1", 0, func(r io.Reader) error {
			return readMemStats(r, stats)
		})
	}
	if err != nil {
		return out, err
	}
	for _, f := range memFigures {
		if v, ok := stats[f.stat]; ok {
			out.Figures = append(out.Figures, console.Figure{Group: f.group, Name: f.name, Value: v, Unit: f.unit, Counter: f.counter})
		}
	}
	if len(out.Figures) == 0 {
		return out, corruptf("%s: neither expvar nor the heap profile says anything of memory", p.base)
	}
	return out, nil
}

// readMemStats reads lines like `# HeapAlloc = 4712` at the end of /debug/pprof/heap?debug=1.
func readMemStats(r io.Reader, into map[string]float64) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 64<<10), 1<<20) // PauseNs has 256 numbers
	for lines.Scan() {
		name, value, ok := strings.Cut(strings.TrimPrefix(lines.Text(), "# "), " = ")
		if !ok || !strings.HasPrefix(lines.Text(), "# ") {
			continue
		}
		value, _, _ = strings.Cut(value, " / ") // "# Stack = in use / from the system"
		if v, err := strconv.ParseFloat(value, 64); err == nil {
			into[name] = v
		}
	}
	return lines.Err()
}

// memFigures are the figures of runtime.MemStats that a person asks for, by the name they have there.
var memFigures = []struct {
	stat, group, name, unit string
	counter                 bool
}{
	{"HeapAlloc", "memory", "heap: objects that live, or are not swept yet", "bytes", false},
	{"HeapInuse", "memory", "heap: in spans that are in use", "bytes", false},
	{"HeapIdle", "memory", "heap: in spans that are not", "bytes", false},
	{"HeapReleased", "memory", "heap: of these, given back to the system", "bytes", false},
	{"HeapObjects", "memory", "heap: objects", "count", false},
	{"StackInuse", "memory", "stacks of goroutines", "bytes", false},
	{"Stack", "memory", "stacks of goroutines", "bytes", false},
	{"Sys", "memory", "all that was had from the system", "bytes", false},
	{"MaxRSS", "memory", "most that was resident", "bytes", false},
	{"TotalAlloc", "allocation", "allocated since the start", "bytes", true},
	{"Mallocs", "allocation", "objects allocated since the start", "count", true},
	{"NextGC", "garbage collection", "heap at which the next collection begins", "bytes", false},
	{"NumGC", "garbage collection", "collections since the start", "count", true},
	{"NumForcedGC", "garbage collection", "of these, forced by the program", "count", true},
	{"PauseTotalNs", "garbage collection", "time the world stood still for them", "nanoseconds", true},
	{"GCCPUFraction", "garbage collection", "of all processor time since the start", "ratio", false},
}
