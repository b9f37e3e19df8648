package watch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/analyze"
	"github.com/quantra-l/quantra/internal/jsonapi"
)

// Where [Watcher.Handler] belongs, each with and without a slash and more behind it.
const (
	FindingsPath = "/api/v1/findings"
	DeploysPath  = "/api/v1/deploys"
	AnalysisPath = "/api/v1/analysis"
	StepsPath    = "/api/v1/transitions"
)

// Handler answers those who ask for findings, and does what people decide. It lets in everyone but web pages of other
// origins: put it behind what knows who may.
func (w *Watcher) Handler() http.Handler {
	mux := http.NewServeMux()
	door := &jsonapi.Door{Tenant: w.opt.Tenant, Fault: fault, Logger: w.opt.Logger}
	handle := func(pattern string, params []string, do func(r *http.Request, tenant string) (any, error)) {
		door.Handle(mux, pattern, params, do)
	}
	handle("GET "+FindingsPath, []string{"service", "kind", "state", "since", "limit"}, w.askFindings)
	handle("GET "+FindingsPath+"/{id}", nil, func(r *http.Request, tenant string) (any, error) {
		rec, events, err := w.Finding(r.Context(), tenant, r.PathValue("id"))
		return map[string]any{"finding": rec, "history": events}, err
	})
	handle("POST "+FindingsPath+"/{id}", nil, func(r *http.Request, tenant string) (any, error) {
		var a Action
		if err := jsonapi.Body(r, &a); err != nil {
			return nil, err
		}
		a.By = w.by(r, a.By)
		rec, err := w.Act(r.Context(), tenant, r.PathValue("id"), a)
		return map[string]any{"finding": rec}, err
	})
	handle("GET "+AnalysisPath, nil, func(r *http.Request, tenant string) (any, error) { return w.Status(r.Context(), tenant) })
	handle("GET "+StepsPath, []string{"service"}, func(r *http.Request, tenant string) (any, error) {
		service := r.FormValue("service")
		if service == "" {
			return nil, fmt.Errorf("%w: parameter service is missing", ErrInvalid)
		}
		return map[string]any{"transitions": append([]analyze.Edge{}, w.Transitions(tenant, service)...)}, nil
	})
	handle("GET "+DeploysPath, []string{"service"}, func(r *http.Request, tenant string) (any, error) {
		deploys, err := w.Deploys(r.Context(), tenant, r.FormValue("service"))
		return map[string]any{"deploys": deploys}, err
	})
	handle("POST "+DeploysPath, nil, func(r *http.Request, tenant string) (any, error) {
		var d Deploy
		if err := jsonapi.Body(r, &d); err != nil {
			return nil, err
		}
		d.By = w.by(r, d.By)
		d, err := w.AddDeploy(r.Context(), tenant, d)
		return map[string]any{"deploy": d}, err
	})
	door.Else(mux)
	return mux
}

// by is who asks.
func (w *Watcher) by(r *http.Request, said string) string {
	if w.opt.By == nil {
		return said
	}
	return w.opt.By(r, said)
}

// fault is what an error means to the asker.
func fault(err error) *jsonapi.Fault {
	switch {
	case errors.Is(err, ErrInvalid):
		return &jsonapi.Fault{Status: http.StatusBadRequest, Code: "invalid_argument", Text: strings.TrimPrefix(err.Error(), ErrInvalid.Error()+": ")}
	case errors.Is(err, ErrNotFound):
		return &jsonapi.Fault{Status: http.StatusNotFound, Code: "not_found", Text: err.Error()}
	case errors.Is(err, ErrConflict):
		return &jsonapi.Fault{Status: http.StatusConflict, Code: "aborted", Text: err.Error()}
	}
	return nil
}

// Filter chooses records. Zero fields choose all; without States those that are not fixed.
type Filter struct {
	Service string
	Kinds   []analyze.Kind
	States  []State
	Since   time.Time // last seen, or fixed, at or after
	Limit   int       // 0 is 200, at most 1000
}

func (w *Watcher) askFindings(r *http.Request, tenant string) (any, error) {
	q := r.URL.Query()
	f := Filter{Service: q.Get("service")}
	for _, k := range jsonapi.List(q["kind"]) {
		if !slices.Contains(analyze.Kinds, analyze.Kind(k)) {
			return nil, fmt.Errorf("%w: kind %.40q is none of %v", ErrInvalid, k, analyze.Kinds)
		}
		f.Kinds = append(f.Kinds, analyze.Kind(k))
	}
	for _, s := range jsonapi.List(q["state"]) {
		switch {
		case s == "all":
			f.States = States
		case s == "open":
			f.States = append(f.States, StateNew, StateCameBack, StateAcknowledged)
		case slices.Contains(States, State(s)):
			f.States = append(f.States, State(s))
		default:
			return nil, fmt.Errorf("%w: state %.40q is none of %v, open and all", ErrInvalid, s, States)
		}
	}
	var err error
	if f.Since, err = jsonapi.Since("since", q.Get("since"), w.opt.Now()); err != nil {
		return nil, err
	}
	if f.Limit, err = jsonapi.Number("limit", q.Get("limit"), 0, 1, maxListed); err != nil {
		return nil, err
	}
	list, err := w.Findings(r.Context(), tenant, f)
	if err != nil {
		return nil, err
	}
	for i := range list {
		list[i].Finding.Chart = thin(list[i].Finding.Chart, listedPoints)
	}
	status, err := w.Status(r.Context(), tenant)
	return map[string]any{"findings": append([]Record{}, list...), "analysis": status}, err
}

const (
	maxListed    = 1000
	listedPoints = 60 // of a chart, in a list
)

// thin is at most n of the points, the last among them.
func thin(points []analyze.ChartPoint, n int) []analyze.ChartPoint {
	if len(points) <= n {
		return points
	}
	out := make([]analyze.ChartPoint, n)
	for i := range out {
		out[i] = points[(i+1)*len(points)/n-1]
	}
	return out
}

// Findings are the records of a tenant, the ones to look at first: by Rank, what is open before the rest.
func (w *Watcher) Findings(ctx context.Context, tenant string, f Filter) ([]Record, error) {
	if len(f.States) == 0 {
		f.States = []State{StateNew, StateCameBack, StateAcknowledged, StateMuted}
	}
	f.Limit = min(cmp.Or(f.Limit, 200), maxListed)
	list, err := w.book.records(ctx, tenant, f)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b Record) int {
		if a.Open() != b.Open() {
			if a.Open() {
				return -1
			}
			return 1
		}
		return analyze.Rank(&a.Finding, &b.Finding)
	})
	if f.Service == "" {
		list = uncovered(list)
	}
	return list[:min(len(list), f.Limit)], nil
}

// uncovered leaves out records for which another in the list stands, which names their services.
func uncovered(list []Record) []Record {
	at := map[string]int{}
	for i := range list {
		at[list[i].ID] = i
	}
	also := map[int][]string{}
	var out []Record
	var from []int
	for i := range list {
		if j, ok := at[list[i].CoveredBy]; ok && j != i {
			also[j] = append(also[j], list[i].Finding.Service)
			continue
		}
		out, from = append(out, list[i]), append(from, i)
	}
	for i := range out {
		out[i].AlsoIn = also[from[i]]
		slices.Sort(out[i].AlsoIn)
	}
	return out
}

// Finding is one record with its history, the oldest event first.
func (w *Watcher) Finding(ctx context.Context, tenant, id string) (Record, []Event, error) {
	rec, err := w.book.record(ctx, tenant, id)
	if err != nil {
		return Record{}, nil, err
	}
	events, err := w.book.events(ctx, tenant, id)
	return rec, events, err
}

// Act is what a person does with a finding. Errors: ErrInvalid, ErrNotFound, ErrConflict.
func (w *Watcher) Act(ctx context.Context, tenant, id string, a Action) (Record, error) {
	rec, err := w.book.record(ctx, tenant, id)
	if err != nil {
		return Record{}, err
	}
	u, err := rec.act(a, w.opt.Now().UTC())
	if err != nil {
		return Record{}, err
	}
	return u.Record, w.book.write(ctx, tenant, []Update{u})
}

// Deploy is told by whoever deploys: a change that comes with it is said to.
type Deploy struct {
	Service string    `json:"service"`
	Version string    `json:"version,omitempty"`
	Time    time.Time `json:"time,omitzero"` // zero is now
	Note    string    `json:"note,omitempty"`
	By      string    `json:"by,omitempty"`
}

// maxDeploys is how many of a service are kept.
const maxDeploys = 200

// AddDeploy keeps a deploy.
func (w *Watcher) AddDeploy(ctx context.Context, tenant string, d Deploy) (Deploy, error) {
	now := w.opt.Now().UTC()
	if d.Time.IsZero() {
		d.Time = now
	}
	switch {
	case d.Service == "":
		return d, fmt.Errorf("%w: a deploy needs its service", ErrInvalid)
	case len(d.Service)+len(d.Version)+len(d.Note)+len(d.By) > maxText:
		return d, fmt.Errorf("%w: a deploy has at most %d bytes", ErrInvalid, maxText)
	case d.Time.After(now.Add(time.Hour)):
		return d, fmt.Errorf("%w: time %s is in the future", ErrInvalid, d.Time.Format(time.RFC3339))
	}
	return d, w.book.addDeploy(ctx, tenant, d)
}

// Deploys are the ones that are kept of a service, the oldest first.
func (w *Watcher) Deploys(ctx context.Context, tenant, service string) ([]Deploy, error) {
	if service == "" {
		return nil, fmt.Errorf("%w: parameter service is missing", ErrInvalid)
	}
	return w.book.deploys(ctx, tenant, service)
}
