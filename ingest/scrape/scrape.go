// Package scrape fetches profiles of programs that have net/http/pprof, by targets that Prometheus's discovery finds and Prometheus's relabelling
// names (docs/scrape.md). It fences both.
//
// A target is a goroutine of its own while it is there. Its profiles are taken in each interval, at a moment that follows from who it is, so
// that many targets are not asked at once. What a program counts since its start is the difference of two fetches; the one before is kept in
// memory, as it came, within a bound. Where profiles go is a func field.
package scrape

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/config"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/relabel"

	"github.com/quantra-l/quantra/profile"
)

// Profile is one profile of a target.
type Profile struct {
	Tenant, Name string
	Labels       profile.Labels
	From, To     time.Time
	Pprof        []byte
}

// Options are what a Scraper needs to know. Config and Append have no defaults.
type Options struct {
	// Config is what is to be scraped; it is asked every few seconds, and another pointer is another configuration.
	Config func() *Config
	// Append keeps a profile.
	Append func(context.Context, Profile) error
	// Console watches one target of a job with tokio_console until ctx ends, and tells seen how that goes: of each profile that it
	// was kept, and of what went wrong. nil is that there is nothing that can.
	Console func(ctx context.Context, t ConsoleTarget, seen func(kept bool, err error))
	// MaxTargets bounds the targets; what is past it is not scraped, which /api/v1/targets says. 0 is 1,000.
	MaxTargets int
	// Concurrent bounds the fetches at once. 0 is 128: most of them wait for a CPU profile to end.
	Concurrent int
	// MaxBytes bounds one profile as it comes. 0 is 16 MiB.
	MaxBytes int64
	// PrevBytes bounds what is kept of fetches to subtract from the next. 0 is 128 MiB.
	PrevBytes int64
	Limits    profile.Limits // of profiles that are subtracted

	Logger   *slog.Logger          // nil is slog.Default()
	Registry prometheus.Registerer // where metrics go; nil is nowhere
	Now      func() time.Time      // nil is time.Now
}

// ConsoleTarget is a target of a job with tokio_console.
type ConsoleTarget struct {
	Tenant   string
	Labels   profile.Labels
	URL      string // http://host:port
	TLS      *tls.Config
	Interval time.Duration // how often a profile is wanted
}

// How often there is a look at the configuration, and how long what discovery finds is collected.
const (
	configEvery = 5 * time.Second
	collectFor  = time.Second
)

// Scraper fetches profiles. See [New].
type Scraper struct {
	opt     Options
	slots   chan struct{} // one token per fetch
	prev    atomic.Int64  // bytes kept of fetches
	metrics *metrics

	mu      sync.Mutex // guards what follows
	jobs    map[string]*job
	targets map[string]*target
	dropped int   // by relabelling
	surplus int   // past MaxTargets
	wrong   error // why the configuration in force is not the newest
}

// job is a Job in force.
type job struct {
	*Job
	client *http.Client
	tls    *tls.Config // of targets with tokio_console
}

// New checks o and fills in its defaults.
func New(o Options) (*Scraper, error) {
	if o.Config == nil || o.Append == nil {
		return nil, errors.New("scrape: Options.Config or Append is nil: there is nothing to scrape, or nowhere to put it")
	}
	o.MaxTargets = cmp.Or(o.MaxTargets, 1000)
	o.Concurrent = cmp.Or(o.Concurrent, 128)
	o.MaxBytes = cmp.Or(o.MaxBytes, 16<<20)
	o.PrevBytes = cmp.Or(o.PrevBytes, 128<<20)
	o.Limits.Compressed = cmp.Or(o.Limits.Compressed, o.MaxBytes)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Scraper{opt: o, slots: make(chan struct{}, o.Concurrent), jobs: map[string]*job{}, targets: map[string]*target{}}
	var err error
	if s.metrics, err = newMetrics(o.Registry, s); err != nil {
		return nil, fmt.Errorf("scrape: metrics: %w", err)
	}
	return s, nil
}

// Run scrapes until ctx ends, and returns when nothing of it is under way any more.
func (s *Scraper) Run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var wait sync.WaitGroup
	defer wait.Wait()
	defer cancel()
	own := prometheus.NewRegistry() // the library's metrics are of its own names, and are not ours to promise
	sd, err := discovery.CreateAndRegisterSDMetrics(own)
	if err != nil {
		s.opt.Logger.Error("scrape: discovery's metrics; nothing is scraped", "err", err)
		return
	}
	m := discovery.NewManager(ctx, s.opt.Logger, own, sd, discovery.Updatert(collectFor))
	if m == nil {
		s.opt.Logger.Error("scrape: discovery cannot start; nothing is scraped")
		return
	}
	wait.Go(func() { _ = m.Run() }) // it ends with ctx, and says so
	tick := time.NewTicker(configEvery)
	defer tick.Stop()
	var in *Config
	for {
		if c := s.opt.Config(); c != in && c != nil {
			in = c
			if err := s.apply(m, c); err != nil {
				s.opt.Logger.Error("scrape: the configuration cannot be put in force", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case found := <-m.SyncCh():
			s.sync(ctx, &wait, found)
		}
	}
}

// apply puts a configuration in force. Targets follow when discovery has found them.
func (s *Scraper) apply(m *discovery.Manager, c *Config) error {
	jobs, found := map[string]*job{}, map[string]discovery.Configs{}
	for _, j := range c.Jobs {
		client, err := config.NewClientFromConfig(j.Client, j.Name)
		var conf *tls.Config
		if err == nil {
			conf, err = config.NewTLSConfig(&j.Client.TLSConfig)
		}
		if err != nil {
			err = fmt.Errorf("job %q: %w", j.Name, err)
			s.mu.Lock()
			s.wrong = err
			s.mu.Unlock()
			return err
		}
		jobs[j.Name], found[j.Name] = &job{j, client, conf}, j.Found
	}
	s.mu.Lock()
	old := s.jobs
	s.jobs, s.wrong = jobs, nil
	for _, t := range s.targets { // by the old rules: they are made anew
		t.cancel()
	}
	clear(s.targets)
	s.mu.Unlock()
	for _, j := range old {
		j.client.CloseIdleConnections()
	}
	return m.ApplyConfig(found)
}

// sync makes targets what discovery has found.
func (s *Scraper) sync(ctx context.Context, wait *sync.WaitGroup, found map[string][]*targetgroup.Group) {
	s.mu.Lock()
	defer s.mu.Unlock()
	want := map[string]*target{}
	s.dropped, s.surplus = 0, 0
	for _, name := range slices.Sorted(maps.Keys(found)) {
		j := s.jobs[name]
		if j == nil {
			continue
		}
		for _, g := range found[name] {
			for _, t := range g.Targets {
				made := newTarget(j, g.Labels, t)
				switch {
				case made == nil:
					s.dropped++
				case want[made.key] == nil && len(want) >= s.opt.MaxTargets:
					s.surplus++
				default:
					want[made.key] = made
				}
			}
		}
	}
	for key, t := range s.targets {
		if want[key] == nil {
			t.cancel()
			delete(s.targets, key)
		}
	}
	for key, t := range want {
		if s.targets[key] != nil {
			continue
		}
		loop, cancel := context.WithCancel(ctx)
		t.cancel = cancel
		s.targets[key] = t
		wait.Go(func() {
			defer s.forget(t)
			s.loop(loop, t)
		})
	}
}

// newTarget is what a job makes of a target that was found; nil where relabelling drops it.
func newTarget(j *job, group, found model.LabelSet) *target {
	b := labels.NewBuilder(labels.EmptyLabels())
	set := func(n model.LabelName, v string) { b.Set(string(n), v) }
	set(model.JobLabel, j.Name)
	set(model.SchemeLabel, j.Scheme)
	set(pathLabel, j.Path)
	for _, ls := range []model.LabelSet{group, found} {
		for n, v := range ls {
			set(n, string(v))
		}
	}
	discovered := b.Labels()
	if !relabel.ProcessBuilder(b, j.Relabel...) {
		return nil
	}
	t := &target{job: j, discovered: discovered.Map(), last: map[string]*state{}}
	address := b.Get(model.AddressLabel)
	if address == "" {
		return nil
	}
	t.url = b.Get(model.SchemeLabel) + "://" + address
	if !j.Console {
		t.url += strings.TrimSuffix(b.Get(pathLabel), "/")
	}
	t.labels, t.wrong = seriesLabels(b, address)
	t.key = j.Name + "\x00" + t.url + "\x00" + t.labels.String()
	return t
}

// pathLabel is where net/http/pprof stands at a target, for relabelling to change.
const pathLabel = "__pprof_path__"

// seriesLabels are a target's labels as profiles have them: job is the service and instance its instance, where relabelling has set no others.
func seriesLabels(b *labels.Builder, address string) (profile.Labels, error) {
	var ls []profile.Label
	b.Range(func(l labels.Label) {
		if strings.HasPrefix(l.Name, model.ReservedLabelPrefix) || l.Name == model.JobLabel || l.Name == model.InstanceLabel || l.Value == "" {
			return
		}
		ls = append(ls, profile.Label{Name: profile.LabelName(l.Name), Value: l.Value})
	})
	for name, value := range map[string]string{profile.LabelService: b.Get(model.JobLabel), profile.LabelInstance: cmp.Or(b.Get(model.InstanceLabel), address)} {
		if !slices.ContainsFunc(ls, func(l profile.Label) bool { return l.Name == name }) {
			ls = append(ls, profile.Label{Name: name, Value: value})
		}
	}
	return profile.NewLabels(ls...)
}
