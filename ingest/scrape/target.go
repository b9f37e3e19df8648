package scrape

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/zeebo/xxh3"

	"github.com/quantra-l/quantra/profile"
)

// kind is one profile of net/http/pprof's.
type kind struct {
	name  string // as it is kept
	path  string
	delta string // godeltaprof's path, "" where it has none
	timed bool   // it takes as long as it is about
	since bool   // some of its columns count since the program's start
}

var kinds = map[string]kind{
	"cpu":       {name: "process_cpu", path: "profile", timed: true},
	"memory":    {name: "memory", path: "heap", delta: "delta_heap", since: true},
	"goroutine": {name: "goroutine", path: "goroutine"},
	"mutex":     {name: "mutex", path: "mutex", delta: "delta_mutex", since: true},
	"block":     {name: "block", path: "block", delta: "delta_block", since: true},
}

// counts says that a column of such a profile counts since the program's start.
func counts(t profile.ValueType) bool { return !strings.HasPrefix(t.Type, "inuse_") }

// target is one program that is scraped.
type target struct {
	*job
	key, url   string // url is up to where the kinds' paths begin
	labels     profile.Labels
	discovered map[string]string
	wrong      error // its labels cannot be
	cancel     context.CancelFunc

	mu   sync.Mutex // guards what follows
	last map[string]*state
}

// state is how the last fetch of a kind went.
type state struct {
	at   time.Time
	took time.Duration
	err  error
	kept int // profiles so far

	prev   []byte // the last fetch as it came, of a kind that counts since the start
	prevAt time.Time
}

// offset is the moment in each interval at which a target is asked: by who it is, so that a restart does not move it.
func (t *target) offset() time.Duration {
	return time.Duration(xxh3.HashString(t.key) % uint64(t.Interval))
}

// loop takes a target's profiles in each interval.
func (s *Scraper) loop(ctx context.Context, t *target) {
	if t.wrong != nil {
		<-ctx.Done() // it is on the list with its error
		return
	}
	if t.Console {
		s.watch(ctx, t)
		return
	}
	interval := time.Duration(t.Interval)
	for {
		now := s.opt.Now()
		next := now.Truncate(interval).Add(t.offset())
		for !next.After(now) {
			next = next.Add(interval)
		}
		timer := time.NewTimer(next.Sub(now))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		s.round(ctx, t)
	}
}

// consoleProfile is what is kept of a target with tokio_console, as its state and metrics name it.
const consoleProfile = "tasks"

// watch has a target's tasks watched.
func (s *Scraper) watch(ctx context.Context, t *target) {
	seen := func(kept bool, err error) {
		t.mu.Lock()
		st := t.state(consoleProfile)
		st.at, st.err = s.opt.Now(), err
		if kept {
			st.kept++
		}
		t.mu.Unlock()
		s.metrics.seen(consoleProfile, kept, err)
	}
	if s.opt.Console == nil {
		seen(false, errors.New("this server cannot watch tasks"))
		<-ctx.Done()
		return
	}
	s.opt.Console(ctx, ConsoleTarget{Tenant: t.Tenant, Labels: t.labels, URL: t.url, TLS: t.tls, Interval: time.Duration(t.Interval)}, seen)
}

// round takes each profile of a target once: those that are there at once first, as a CPU profile takes its time.
func (s *Scraper) round(ctx context.Context, t *target) {
	names := slices.Clone(t.Profiles)
	slices.SortStableFunc(names, func(a, b string) int { return order(kinds[a]) - order(kinds[b]) })
	for _, name := range names {
		start := s.opt.Now()
		kept, err := s.take(ctx, t, name)
		if ctx.Err() != nil {
			return
		}
		took := s.opt.Now().Sub(start)
		t.mu.Lock()
		st := t.state(name)
		if err != nil && st.err == nil {
			s.opt.Logger.Warn("scrape: a profile cannot be taken", "job", t.Name, "target", t.url, "profile", name, "err", err)
		}
		st.at, st.took, st.err = start, took, err
		if kept {
			st.kept++
		}
		t.mu.Unlock()
		s.metrics.seen(name, kept, err)
	}
}

func order(k kind) int {
	if k.timed {
		return 1
	}
	return 0
}

// state is the state of a kind; mu is held.
func (t *target) state(name string) *state {
	if t.last[name] == nil {
		t.last[name] = &state{}
	}
	return t.last[name]
}

// take fetches one profile and has it kept, if there is something to keep: the first of what is subtracted is kept to subtract only.
func (s *Scraper) take(ctx context.Context, t *target, name string) (kept bool, err error) {
	k := kinds[name]
	from := s.opt.Now()
	switch {
	case k.timed:
		raw, err := s.fetch(ctx, t, k.path, time.Duration(t.Seconds))
		if err != nil {
			return false, err
		}
		return true, s.append(ctx, t, k.name, from, s.opt.Now(), raw)
	case k.delta != "" && t.Deltas:
		raw, err := s.fetch(ctx, t, k.delta, 0)
		if err != nil {
			return false, err
		}
		t.mu.Lock()
		st := t.state(name)
		since := st.prevAt
		st.prevAt = from
		t.mu.Unlock()
		if since.IsZero() { // it is since the program's start, or since another asked
			return false, nil
		}
		return true, s.append(ctx, t, k.name, since, from, raw)
	}
	raw, err := s.fetch(ctx, t, k.path, 0)
	if err != nil {
		return false, err
	}
	if !k.since {
		return true, s.append(ctx, t, k.name, from, from.Add(time.Millisecond), raw)
	}
	return s.takeDelta(ctx, t, name, raw, from)
}

// takeDelta keeps what has been counted between the last fetch and this one.
func (s *Scraper) takeDelta(ctx context.Context, t *target, name string, raw []byte, at time.Time) (bool, error) {
	t.mu.Lock()
	st := t.state(name)
	prev, since := st.prev, st.prevAt
	st.prev, st.prevAt = nil, time.Time{}
	s.prev.Add(-int64(len(prev)))
	full := s.prev.Add(int64(len(raw))) > s.opt.PrevBytes
	if full {
		s.prev.Add(-int64(len(raw)))
	} else {
		st.prev, st.prevAt = raw, at
	}
	t.mu.Unlock()
	if prev == nil {
		if full {
			return false, fmt.Errorf("%d bytes are kept of other targets to subtract from the next profile, which is the limit: this one's %s is not taken", s.opt.PrevBytes, name)
		}
		return false, nil
	}
	cur, err := profile.DecodeBytes(raw, s.opt.Limits)
	if err != nil {
		return false, err
	}
	before, err := profile.DecodeBytes(prev, s.opt.Limits)
	if err != nil {
		return false, err
	}
	d, err := between(before, cur)
	if err != nil || d == nil { // nil: it was started anew, and what it has counted since nobody knows
		return false, err
	}
	return true, s.append(ctx, t, kinds[name].name, since, at, d.AppendPprof(nil))
}

// between is cur with what prev had counted already taken off; nil where that is more than cur has: the program was started anew.
func between(prev, cur *profile.Profile) (*profile.Profile, error) {
	if !slices.Equal(prev.SampleTypes, cur.SampleTypes) {
		return nil, nil // another program at the same address
	}
	base := *prev
	base.Values = slices.Clone(prev.Values)
	for i, typ := range prev.SampleTypes {
		if !counts(typ) {
			base.Values[i] = make([]int64, len(prev.Values[i]))
			continue
		}
		if prev.Total(i) > cur.Total(i) {
			return nil, nil
		}
	}
	d, err := profile.Diff(&base, cur, false)
	if err != nil {
		return nil, err
	}
	for _, col := range d.Values {
		for i, v := range col {
			col[i] = max(v, 0) // estimates of one stack may shrink a little where the whole grows
		}
	}
	d.DefaultSampleType = cur.DefaultSampleType
	return d.Compact(), nil
}

// errStatus is an answer that is no profile.
var errStatus = errors.New("the target answers")

// fetch asks a target for one path. seconds is how long that takes by itself, and is sent along where it is not 0.
func (s *Scraper) fetch(ctx context.Context, t *target, path string, seconds time.Duration) ([]byte, error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, seconds+time.Duration(t.Timeout))
	defer cancel()
	url := t.url + "/" + path
	if seconds > 0 {
		url += fmt.Sprintf("?seconds=%d", int(seconds.Seconds()))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "quantraband")
	res, err := t.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, s.opt.MaxBytes+1))
	if err != nil {
		return nil, err
	}
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%w %s: %.200q", errStatus, res.Status, b)
	}
	if int64(len(b)) > s.opt.MaxBytes {
		return nil, fmt.Errorf("%w: the answer has more than %d bytes", profile.ErrTooLarge, s.opt.MaxBytes)
	}
	return b, nil
}

func (s *Scraper) append(ctx context.Context, t *target, name string, from, to time.Time, raw []byte) error {
	if !to.After(from) {
		to = from.Add(time.Millisecond)
	}
	return s.opt.Append(ctx, Profile{Tenant: t.Tenant, Name: name, Labels: t.labels, From: from, To: to, Pprof: raw})
}

// forget gives back what is kept of a target that is gone.
func (s *Scraper) forget(t *target) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, st := range t.last {
		s.prev.Add(-int64(len(st.prev)))
		st.prev = nil
	}
}
