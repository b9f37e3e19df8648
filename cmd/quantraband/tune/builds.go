package tune

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quantra-l/quantra/fleet"
	"github.com/quantra-l/quantra/optimize"
	"github.com/quantra-l/quantra/optimize/builds"
	"github.com/quantra-l/quantra/optimize/pgo"
	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

const (
	// again is how old a profile that was made is until another is made: a proposal must not be another each time that it is looked at. One of
	// much less of the past is made again when what there is of that has doubled.
	again = 24 * time.Hour
	// sometimes is how often it is looked whether there is more to make one of.
	sometimes = time.Minute
	// keepMade is how long profiles stay that nobody asks for any more, and mostMade how large one may be.
	keepMade = 60 * 24 * time.Hour
	mostMade = 1 << 20
	// labelRegion is the label that the agent sends as an instance's place.
	labelRegion = "region"
)

// Goal is where a service's profile for the compiler goes, and of how much of the past it is made.
type Goal struct {
	Service      string
	Where        builds.Where
	Since, After time.Duration // 0 are a week and a day
	Warnings     []string      // of each proposal
}

// Profiles makes profiles for the compiler of what services did, keeps them in a folder, and proposes that builds take them. A profile is kept by
// its sum, so that the one which is put to its place is the one that was proposed.
type Profiles struct {
	Store store.Store
	Fleet *fleet.Fleet
	Dir   string // is made where it is not there
	Goals func() []Goal
	// Read is the profile at a place, for the comparison with a new one; ok is false where there is none.
	Read func(ctx context.Context, w builds.Where) (b []byte, ok bool, err error)

	mu     sync.Mutex
	looked map[string]time.Time // by tenant and service
}

// made is a profile with what it was made of, as it is kept beside it.
type made struct {
	Tenant  string     `json:"tenant"`
	Service string     `json:"service"`
	Version string     `json:"version"`
	Sum     string     `json:"sum"`
	At      time.Time  `json:"at"`
	From    time.Time  `json:"from"`
	To      time.Time  `json:"to"`
	Cores   float64    `json:"cores"`
	Report  pgo.Report `json:"report"`
}

// Where is where a service's profile goes.
func (p *Profiles) Where(service string) (builds.Where, bool) {
	for _, g := range p.Goals() {
		if g.Service == service {
			return g.Where, true
		}
	}
	return builds.Where{}, false
}

// Profile is the bytes of a profile that was made here.
func (p *Profiles) Profile(_ context.Context, sum string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(p.Dir, filepath.Base(sum)+".pgo"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("tune: profile %.12s is not on this server: another made it, or it is too old; it will be proposed anew: %w", sum, optimize.ErrRefused)
	}
	if err == nil && builds.Sum(b) != sum {
		return nil, fmt.Errorf("tune: profile %.12s is damaged: remove it from %s: %w", sum, p.Dir, optimize.ErrRefused)
	}
	return b, err
}

// Propose asks for each service that has a place whether its builds should have another profile.
func (p *Profiles) Propose(ctx context.Context, tenant string, now time.Time) (all []optimize.Proposal, err error) {
	var errs []error
	for _, g := range p.Goals() {
		proposal, err := p.propose(ctx, tenant, g, now)
		switch {
		case errors.Is(err, pgo.ErrNoSamples): // it is not of this tenant, or does nothing
		case err != nil:
			errs = append(errs, fmt.Errorf("tune: profile of %s: %w", g.Service, err))
		case proposal != nil:
			all = append(all, *proposal)
		}
	}
	return all, errors.Join(errs...)
}

func (p *Profiles) propose(ctx context.Context, tenant string, g Goal, now time.Time) (*optimize.Proposal, error) {
	m, err := p.latest(ctx, tenant, g, now)
	if err != nil || m == nil {
		return nil, err
	}
	in := builds.Input{Service: g.Service, Where: g.Where, Sum: m.Sum, Made: m.Report, Version: m.Version, From: m.From, To: m.To, Cores: m.Cores, After: g.After, Warnings: g.Warnings,
		Evidence: []optimize.Evidence{{What: "what it was made of", Link: "/flame?" + url.Values{"service": {g.Service}, "type": {cpuType.String()}, "from": {fmt.Sprint(m.From.UnixMilli())}, "to": {fmt.Sprint(m.To.UnixMilli())}}.Encode()}}}
	for _, a := range p.Fleet.Agents(tenant, g.Service) {
		if a.Online && a.PGO != nil {
			in.Of++
			if *a.PGO {
				in.Profiled++
			}
		}
	}
	was, ok, err := p.Read(ctx, g.Where)
	if err != nil {
		return nil, err
	}
	if ok {
		mine, err := p.Profile(ctx, m.Sum)
		if err != nil {
			return nil, err
		}
		in.There, in.Agrees = agree(was, mine)
	}
	return builds.Propose(in), nil
}

// agree says whether was is a profile, and on how much of the hot weight it and the new one agree.
func agree(was, mine []byte) (is bool, agreement float64) {
	var edges [2]*pgo.Edges
	for i, b := range [][]byte{was, mine} {
		q, _, err := profile.Read(bytes.NewReader(b), profile.Limits{Decoded: 128 << 20})
		if err != nil {
			return false, 0 // whatever it is, it is to be replaced
		}
		if edges[i], err = pgo.EdgesOf(q); err != nil {
			return false, 0
		}
	}
	return true, pgo.Agreement(edges[0], edges[1])
}

// index is the name of the file that says which profile of a service is the latest.
func (p *Profiles) index(tenant, service string) string {
	return filepath.Join(p.Dir, builds.Sum([]byte(tenant + "\x00" + service))[:32]+".json")
}

// latest is the profile that was made of a service last, and a new one where that is due; nil is none.
func (p *Profiles) latest(ctx context.Context, tenant string, g Goal, now time.Time) (*made, error) {
	var had *made
	b, err := os.ReadFile(p.index(tenant, g.Service))
	if err == nil {
		m := made{}
		if err := json.Unmarshal(b, &m); err == nil && m.Tenant == tenant && m.Service == g.Service {
			if _, err := p.Profile(ctx, m.Sum); err == nil {
				had = &m
			}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if had != nil && !had.due(since(g), now) || !p.mayLook(tenant, g.Service, now) {
		return had, nil
	}
	m, err := p.make(ctx, tenant, g, now)
	if errors.Is(err, pgo.ErrNoSamples) && had != nil {
		return had, nil
	}
	return m, err
}

// due says that another profile is to be made, of at most the time of.
func (m *made) due(of time.Duration, now time.Time) bool {
	span, more := m.To.Sub(m.From), 2.0
	if m.Report.Agreement < pgo.Steady {
		more = 1.25 // it is not proposed: a little more of the past may do
	}
	return now.Sub(m.At) >= again || span < of/2 && float64(now.Sub(m.From)) >= more*float64(span)
}

func since(g Goal) time.Duration { return cmp.Or(g.Since, 7*24*time.Hour) }

// mayLook says that it is time to look again.
func (p *Profiles) mayLook(tenant, service string, now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	key := tenant + "\x00" + service
	if at, ok := p.looked[key]; ok && now.Sub(at) < sometimes {
		return false
	}
	if p.looked == nil {
		p.looked = map[string]time.Time{}
	}
	p.looked[key] = now
	return true
}

// make makes a profile of a service's past, and keeps it. nil is that there is too little.
func (p *Profiles) make(ctx context.Context, tenant string, g Goal, now time.Time) (*made, error) {
	of := store.Query{Tenant: tenant, Type: cpuType, Matchers: []store.Matcher{{Name: profile.LabelService, Value: g.Service}}, From: now.Add(-since(g)), To: now}
	cells, nanos, err := p.cells(ctx, of)
	if err != nil {
		return nil, err
	}
	plan, err := pgo.NewPlan(cells, pgo.PlanOptions{})
	if err != nil {
		return nil, err
	}
	total := 0.0
	m := made{Tenant: tenant, Service: g.Service, Version: plan.Version, At: now.UTC(), To: now.UTC()}
	for i := range plan.Cells {
		total += plan.Cells[i].Samples
	}
	for i := range cells {
		if c := &cells[i]; c.Samples > 0 && (m.From.IsZero() || c.From.Before(m.From)) {
			m.From = c.From
		}
	}
	if total < pgo.EnoughSamples || now.Sub(m.From) < cmp.Or(g.After, 24*time.Hour) {
		return nil, nil
	}
	m.Cores = nanos / float64(now.Sub(m.From))
	merger := pgo.NewMerger(plan.Version)
	for _, c := range plan.Cells {
		q := of
		q.From, q.To = c.From, c.To
		for _, l := range []profile.Label{{Name: profile.LabelInstance, Value: c.Instance}, {Name: profile.LabelVersion, Value: c.Version}, {Name: labelRegion, Value: c.Zone}} {
			q.Matchers = append(q.Matchers[:len(q.Matchers):len(q.Matchers)], store.Matcher{Name: l.Name, Op: store.MatchEqual, Value: l.Value})
		}
		res, err := p.Store.Select(ctx, q)
		if err != nil {
			return nil, err
		}
		if res.Profiles == 0 {
			continue // it has gone since
		}
		if err := merger.Add(c, res.Profile); err != nil {
			return nil, err
		}
	}
	res, err := merger.Result(mostMade)
	if err != nil {
		return nil, err
	}
	res.Report.Warnings = append(plan.Warnings, res.Report.Warnings...)
	m.Sum, m.Report = builds.Sum(res.Profile), res.Report
	return &m, p.keep(&m, res.Profile)
}

// cells are the stretches of instances' time, as short as what there is of it asks for, and nanos the processor time of all of them.
func (p *Profiles) cells(ctx context.Context, of store.Query) (cells []pgo.Cell, nanos float64, err error) {
	for {
		if cells, nanos, err = p.cellsFrom(ctx, of); err != nil || len(cells) == 0 {
			return cells, nanos, err
		}
		first := slices.MinFunc(cells, func(a, b pgo.Cell) int { return a.From.Compare(b.From) }).From
		if pgo.Step(of.To.Sub(first)) >= pgo.Step(of.To.Sub(of.From)) {
			return cells, nanos, nil
		}
		of.From = first
	}
}

func (p *Profiles) cellsFrom(ctx context.Context, of store.Query) (cells []pgo.Cell, nanos float64, err error) {
	res, err := p.Store.Series(ctx, store.SeriesQuery{Query: of, Step: pgo.Step(of.To.Sub(of.From)), GroupBy: []string{profile.LabelInstance, profile.LabelVersion, labelRegion}})
	if err != nil {
		return nil, 0, err
	}
	for _, l := range res.Lines {
		for _, pt := range l.Points {
			nanos += float64(pt.Value)
			from, to := pt.Time.UTC(), pt.Time.Add(res.Step).UTC()
			cells = append(cells, pgo.Cell{
				Instance: l.Labels.Get(profile.LabelInstance), Version: l.Labels.Get(profile.LabelVersion), Zone: l.Labels.Get(labelRegion),
				From: from, To: to, Samples: float64(pt.Value) / 1e7, // Go's 100 Hz will do to choose by
			})
		}
	}
	if math.IsNaN(nanos) || nanos < 0 {
		return nil, 0, fmt.Errorf("processor time of %g ns cannot be", nanos)
	}
	return cells, nanos, nil
}

// keep keeps a profile with what it was made of, the profile first, and removes what is too old.
func (p *Profiles) keep(m *made, b []byte) error {
	if err := os.MkdirAll(p.Dir, 0o755); err != nil {
		return err
	}
	doc, err := json.Marshal(m)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		b    []byte
	}{{filepath.Join(p.Dir, m.Sum+".pgo"), b}, {p.index(m.Tenant, m.Service), doc}} {
		// A torn file is found by its sum, or by its JSON, and made again: no sync is needed.
		tmp := f.name + ".tmp"
		if err := errors.Join(os.WriteFile(tmp, f.b, 0o644), os.Rename(tmp, f.name)); err != nil {
			return err
		}
	}
	return p.sweep(m)
}

// sweep removes profiles that are older than keepMade, and not of m.
func (p *Profiles) sweep(m *made) error {
	all, err := os.ReadDir(p.Dir)
	if err != nil {
		return err
	}
	for _, e := range all {
		name, ours := strings.CutSuffix(e.Name(), ".pgo")
		if _, err := hex.DecodeString(name); !ours || err != nil || name == m.Sum {
			continue
		}
		info, err := e.Info()
		if err != nil {
			continue // it has gone meanwhile
		}
		if m.At.Sub(info.ModTime()) > keepMade {
			if err := os.Remove(filepath.Join(p.Dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}

// Instances are the agents of f, for [builds.NewActuator].
func Instances(f *fleet.Fleet) func(tenant, service string) []builds.Instance {
	return func(tenant, service string) (out []builds.Instance) {
		for _, a := range f.Agents(tenant, service) {
			if a.Online {
				g := agentOf(&a)
				out = append(out, builds.Instance{ID: g.Instance, Version: g.Version, Zone: g.Zone, Started: g.Started, Profiled: a.PGO})
			}
		}
		return out
	}
}
