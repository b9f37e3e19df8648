// Package record makes series for Prometheus of profiles, by rules in a file (docs/prometheus.md): a function's share of a service's
// processor time, say, minute by minute. They are shown on /metrics and sent by remote write.
package record

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
)

// The minute that is recorded is the last that began Behind ago or before: agents send once a minute, and what is sent once is not taken back.
const (
	Minute = time.Minute
	Behind = 3 * time.Minute
)

// maxLines bounds the series of one rule in one minute.
const maxLines = 1000

// Options are what a Recorder needs to know. Config and Store have no default.
type Options struct {
	Config func() *Config // asked each minute; nil is nothing to record
	Store  store.Store
	// Lease lets one of the servers that share profiles record them. nil is a server alone.
	Lease func(ctx context.Context, name string) (held context.Context, release func(), ok bool, err error)
	// Region names the lease.
	Region string

	Client   *http.Client // for remote write; nil is one of its own
	Logger   *slog.Logger // nil is slog.Default()
	Registry prometheus.Registerer
	Now      func() time.Time // nil is time.Now
}

// sample is one value of one series.
type sample struct {
	labels []profile.Label // sorted, __name__ among them
	value  float64
	at     time.Time // the end of the minute
}

// Recorder records. See [New].
type Recorder struct {
	opt     Options
	results *prometheus.CounterVec

	mu   sync.Mutex // guards last
	last []sample
}

// New checks o.
func New(o Options) (*Recorder, error) {
	if o.Config == nil || o.Store == nil {
		return nil, errors.New("record: Options.Config or Store is nil: there is nothing to record")
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Client == nil {
		o.Client = &http.Client{Timeout: sendFor, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	r := &Recorder{opt: o, results: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "quantra_record_results_total", Help: "What recording has come to: rules (recorded, failed, doubtful) and batches (sent, refused, dropped).",
	}, []string{"result"})}
	if o.Registry != nil {
		if err := errors.Join(o.Registry.Register(r.results), o.Registry.Register(shown{r})); err != nil {
			return nil, fmt.Errorf("record: metrics: %w", err)
		}
	}
	return r, nil
}

// Run records until ctx ends.
func (r *Recorder) Run(ctx context.Context) {
	for ctx.Err() == nil {
		held, release, ok := ctx, func() {}, true
		if r.opt.Lease != nil {
			h, give, got, err := r.opt.Lease(ctx, "record/"+r.opt.Region)
			if err != nil {
				r.opt.Logger.Warn("record: the lease cannot be had now", "err", err)
			}
			if ok = got && err == nil; ok {
				held, release = h, give
			}
		}
		if !ok {
			wait(ctx, Minute/2)
			continue
		}
		both, cancel := context.WithCancel(ctx)
		stop := context.AfterFunc(held, cancel)
		r.lead(both)
		stop()
		cancel()
		release()
		r.keep(nil) // another records now
	}
}

// wait is false where ctx ended before.
func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// lead records each minute.
func (r *Recorder) lead(ctx context.Context) {
	var group sync.WaitGroup
	defer group.Wait()
	senders := map[string]*sender{} // by what the file says of each
	defer func() {
		for _, s := range senders {
			close(s.queue)
		}
	}()
	for {
		now := r.opt.Now()
		if !wait(ctx, now.Truncate(Minute).Add(Minute).Sub(now)) {
			return
		}
		c := r.opt.Config()
		if c == nil {
			continue
		}
		samples := r.minute(ctx, c, r.opt.Now().Add(-Behind).Truncate(Minute))
		r.keep(samples)
		want := map[string]bool{}
		for _, remote := range c.Remotes {
			id := fmt.Sprintf("%+v", remote)
			want[id] = true
			s := senders[id]
			if s == nil {
				s = &sender{r: r, remote: remote, queue: make(chan []sample, maxQueue)}
				senders[id] = s
				group.Go(func() { s.run(ctx) })
			}
			s.put(samples)
		}
		for id, s := range senders {
			if !want[id] {
				close(s.queue)
				delete(senders, id)
			}
		}
	}
}

func (r *Recorder) keep(s []sample) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = s
}

// minute is what all rules make of the minute that begins at from. A rule that fails, or whose answer says of itself that it may mislead, is a
// gap.
func (r *Recorder) minute(ctx context.Context, c *Config, from time.Time) (out []sample) {
	seen := map[string]bool{}
	for i := range c.Rules {
		rule := &c.Rules[i]
		got, warnings, err := r.rule(ctx, rule, from)
		switch {
		case err != nil:
			r.results.WithLabelValues("failed").Inc()
			r.opt.Logger.Warn("record: a rule cannot be recorded", "record", rule.Name, "err", err)
			continue
		case len(warnings) > 0:
			r.results.WithLabelValues("doubtful").Inc()
			r.opt.Logger.Warn("record: a rule's answer may mislead, and is left out", "record", rule.Name, "warning", warnings[0])
			continue
		}
		r.results.WithLabelValues("recorded").Inc()
		for _, s := range got {
			id := fmt.Sprint(s.labels)
			if seen[id] { // two rules make the same series: the first holds
				continue
			}
			seen[id] = true
			out = append(out, s)
		}
	}
	return out
}

func (r *Recorder) rule(ctx context.Context, rule *Rule, from time.Time) (out []sample, warnings []string, err error) {
	q := store.Query{Tenant: rule.Tenant, Type: rule.Type, Matchers: rule.Matchers, From: from, To: from.Add(Minute)}
	totals, err := r.opt.Store.Series(ctx, store.SeriesQuery{Query: q, Step: Minute, GroupBy: rule.GroupBy})
	if err != nil {
		return nil, nil, err
	}
	if len(totals.Lines) > maxLines {
		return nil, nil, fmt.Errorf("it makes %d series, at most %d can be; group by less", len(totals.Lines), maxLines)
	}
	of := map[string]int64{} // the function's, by group
	if rule.Function != "" {
		trend, err := r.opt.Store.Trend(ctx, store.TrendQuery{Query: q, Functions: []string{rule.Function}, Step: Minute, GroupBy: rule.GroupBy})
		if err != nil {
			return nil, nil, err
		}
		warnings = trend.Warnings
		for _, l := range trend.Lines {
			for _, p := range l.Points {
				v := p.Cumulative
				if rule.Self {
					v = p.Self
				}
				of[l.Labels.String()] += v
			}
		}
	}
	for _, l := range totals.Lines {
		total := int64(0)
		for _, p := range l.Points {
			total += p.Value
		}
		v := float64(total)
		if rule.Function != "" {
			v = float64(of[l.Labels.String()]) // a function that was not seen has 0: the group itself was
		}
		if rule.Share {
			if total == 0 {
				continue
			}
			v /= float64(total)
		}
		out = append(out, sample{labels: rule.labelsOf(l.Labels), value: v, at: from.Add(Minute)})
	}
	return out, append(warnings, totals.Warnings...), nil
}

// shown is the last minute as metrics. What there is follows from the rules, so nothing is said of it before.
type shown struct{ r *Recorder }

func (shown) Describe(chan<- *prometheus.Desc) {}

func (s shown) Collect(to chan<- prometheus.Metric) {
	s.r.mu.Lock()
	last := s.r.last
	s.r.mu.Unlock()
	names := map[string]string{} // the labels' names of each metric: the exposition wants one set
	for _, x := range last {
		var name string
		keys, values := []string{}, []string{}
		for _, l := range x.labels {
			if l.Name == "__name__" {
				name = l.Value
				continue
			}
			keys, values = append(keys, l.Name), append(values, l.Value)
		}
		id := strings.Join(keys, ",")
		if names[name] = cmp.Or(names[name], id); names[name] != id {
			continue
		}
		m, err := prometheus.NewConstMetric(prometheus.NewDesc(name, "Recorded from profiles by a rule.", keys, nil), prometheus.GaugeValue, x.value, values...)
		if err != nil {
			continue
		}
		to <- m
	}
}
