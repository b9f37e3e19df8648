package scrape

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/quantra-l/quantra/internal/jsonapi"
	"github.com/quantra-l/quantra/profile"
)

// TargetsPath is where targets are listed, and NowPath where they are profiled now.
const (
	TargetsPath = "/api/v1/targets"
	NowPath     = "/api/v1/targets/profile"
)

// Target is one target as the list shows it. Names are those of Prometheus's list of targets, where it has them.
type Target struct {
	Job              string            `json:"scrapePool"`
	URL              string            `json:"scrapeUrl"`
	Tenant           string            `json:"tenant,omitempty"`
	Labels           map[string]string `json:"labels"`
	DiscoveredLabels map[string]string `json:"discoveredLabels"`
	Health           string            `json:"health"` // up, down: all fails; partial: some does; unknown: not asked yet
	LastError        string            `json:"lastError"`
	LastScrape       time.Time         `json:"lastScrape"`
	LastDuration     float64           `json:"lastScrapeDuration"` // seconds
	Interval         string            `json:"scrapeInterval"`
	Profiles         []TargetProfile   `json:"profiles"`
}

// TargetProfile is one kind of profile of a target.
type TargetProfile struct {
	Name      string    `json:"name"`
	Kept      int       `json:"kept"` // how many, since the server has begun with this target
	LastError string    `json:"lastError"`
	LastTaken time.Time `json:"lastTaken"`
}

// Targets is the list.
type Targets struct {
	Active  []Target `json:"activeTargets"`
	Dropped int      `json:"droppedTargets"`           // by relabelling
	Surplus int      `json:"surplusTargets,omitempty"` // past the bound
	Wrong   string   `json:"configuration,omitempty"`  // why the newest is not in force
}

// Targets is what is scraped now, by job and address; of one service where service is not "".
func (s *Scraper) Targets(service string) Targets {
	s.mu.Lock()
	out := Targets{Active: []Target{}, Dropped: s.dropped, Surplus: s.surplus}
	if s.wrong != nil {
		out.Wrong = s.wrong.Error()
	}
	all := slices.Collect(maps.Values(s.targets))
	s.mu.Unlock()
	slices.SortFunc(all, func(a, b *target) int { return strings.Compare(a.key, b.key) })
	for _, t := range all {
		if service == "" || t.labels.Get(profile.LabelService) == service {
			out.Active = append(out.Active, t.show())
		}
	}
	return out
}

func (t *target) show() Target {
	out := Target{Job: t.Name, URL: t.url, Tenant: t.Tenant, Labels: map[string]string{}, DiscoveredLabels: t.discovered, Health: "unknown", Interval: t.Interval.String()}
	for _, l := range t.labels {
		out.Labels[l.Name] = l.Value
	}
	if t.wrong != nil {
		out.Health, out.LastError = "down", t.wrong.Error()
		return out
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	failed := 0
	for _, name := range slices.Sorted(maps.Keys(t.last)) {
		st := t.last[name]
		if st.at.IsZero() {
			continue
		}
		p := TargetProfile{Name: name, Kept: st.kept, LastTaken: st.at.UTC()}
		if st.err != nil {
			failed++
			p.LastError = st.err.Error()
			out.LastError = name + ": " + p.LastError
		}
		out.LastDuration += st.took.Seconds()
		if st.at.After(out.LastScrape) {
			out.LastScrape = st.at.UTC()
		}
		out.Profiles = append(out.Profiles, p)
	}
	switch n := len(out.Profiles); {
	case n == 0:
	case failed == n:
		out.Health = "down"
	case failed > 0:
		out.Health = "partial"
	default:
		out.Health = "up"
	}
	return out
}

// Handler answers [TargetsPath] and [NowPath]. tenant is whose a request is. Put it behind what knows who may.
func (s *Scraper) Handler(tenant func(*http.Request) (string, error)) http.Handler {
	mux := http.NewServeMux()
	door := &jsonapi.Door{Tenant: tenant, Logger: s.opt.Logger, Fault: func(err error) *jsonapi.Fault {
		return &jsonapi.Fault{Status: http.StatusBadGateway, Code: "failed", Text: err.Error()} // what the targets say
	}}
	door.Handle(mux, "GET "+TargetsPath, []string{"service"}, func(r *http.Request, tenant string) (any, error) {
		out := s.Targets(r.FormValue("service"))
		out.Active = slices.DeleteFunc(out.Active, func(t Target) bool { return !sameTenant(t.Tenant, tenant) })
		return map[string]any{"status": "success", "data": out}, nil
	})
	door.Handle(mux, "POST "+NowPath, nil, s.now)
	door.Else(mux)
	return mux
}

// now is POST NowPath: {"service": "checkout", "profile": "profile", "seconds": 10}.
func (s *Scraper) now(r *http.Request, tenant string) (any, error) {
	var q struct {
		Service string `json:"service"`
		Profile string `json:"profile"`
		Seconds int    `json:"seconds"`
	}
	if err := jsonapi.Body(r, &q); err != nil {
		return nil, err
	}
	if q.Service == "" || q.Seconds < 1 || time.Duration(q.Seconds)*time.Second > MaxNowFor {
		return nil, jsonapi.Invalid(`it must be {"service": NAME, "profile": "profile", "seconds": 1 to %d}`, int(MaxNowFor.Seconds()))
	}
	if _, ok := onDemand[q.Profile]; !ok {
		return nil, jsonapi.Invalid("there is no profile %q, only %s", q.Profile, strings.Join(slices.Sorted(maps.Keys(onDemand)), ", "))
	}
	n, err := s.Now(r.Context(), tenant, q.Service, q.Profile, time.Duration(q.Seconds)*time.Second)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, &jsonapi.Fault{Status: http.StatusNotFound, Code: "not_found", Text: fmt.Sprintf("%q has no target; GET %s lists the targets", q.Service, TargetsPath)}
	}
	return map[string]int{"targets": n}, nil
}

// metrics are what is told of scraping. The labels are closed sets.
type metrics struct{ taken *prometheus.CounterVec }

func newMetrics(reg prometheus.Registerer, s *Scraper) (*metrics, error) {
	m := &metrics{prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "quantra_scrape_profiles_total", Help: "Fetches of profiles from targets, by profile and how they ended; first is kept to subtract from the next.",
	}, []string{"profile", "result"})}
	if reg == nil {
		return m, nil
	}
	targets := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "quantra_scrape_targets", Help: "Targets that are scraped."}, func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return float64(len(s.targets))
	})
	prev := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "quantra_scrape_previous_bytes", Help: "Bytes of profiles that are kept to subtract from the next."},
		func() float64 { return float64(s.prev.Load()) })
	for _, c := range []prometheus.Collector{m.taken, targets, prev} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) seen(name string, kept bool, err error) {
	result := "kept"
	switch {
	case err != nil && errors.Is(err, errStatus):
		result = "status"
	case err != nil:
		result = "failed"
	case !kept:
		result = "first"
	}
	m.taken.WithLabelValues(name, result).Inc()
}
