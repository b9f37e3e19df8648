package watch

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/quantra-l/quantra/analyze"
)

// Where [Watcher.Handler] belongs, each with and without a slash and more behind it.
const (
	FindingsPath = "/api/v1/findings"
	DeploysPath  = "/api/v1/deploys"
	AnalysisPath = "/api/v1/analysis"
	StepsPath    = "/api/v1/transitions"
)

// maxQuestion bounds the body of a request.
const maxQuestion = 16 << 10

// Handler answers those who ask for findings, and does what people decide. It lets in everyone but web pages of other
// origins: put it behind what knows who may.
func (w *Watcher) Handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, params []string, do func(r *http.Request, tenant string) (any, error)) {
		mux.HandleFunc(pattern, func(rw http.ResponseWriter, r *http.Request) {
			answer, err := func() (any, error) {
				if err := w.origins.Check(r); err != nil {
					return nil, &fault{http.StatusForbidden, "permission_denied", err.Error()}
				}
				tenant, err := w.opt.Tenant(r)
				if err != nil {
					return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
				}
				if err := onlyParams(r, params); err != nil {
					return nil, err
				}
				r.Body = http.MaxBytesReader(rw, r.Body, maxQuestion)
				return do(r, tenant)
			}()
			w.reply(rw, r, answer, err)
		})
	}
	handle("GET "+FindingsPath, []string{"service", "kind", "state", "since", "limit"}, w.askFindings)
	handle("GET "+FindingsPath+"/{id}", nil, func(r *http.Request, tenant string) (any, error) {
		rec, events, err := w.Finding(r.Context(), tenant, r.PathValue("id"))
		return map[string]any{"finding": rec, "history": events}, err
	})
	handle("POST "+FindingsPath+"/{id}", nil, func(r *http.Request, tenant string) (any, error) {
		var a Action
		if err := body(r, &a); err != nil {
			return nil, err
		}
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
		if err := body(r, &d); err != nil {
			return nil, err
		}
		d, err := w.AddDeploy(r.Context(), tenant, d)
		return map[string]any{"deploy": d}, err
	})
	mux.HandleFunc("/", func(rw http.ResponseWriter, r *http.Request) {
		w.reply(rw, r, nil, fmt.Errorf("%w: %s %.100s is nothing here; docs/api.md lists what there is", ErrNotFound, r.Method, r.URL.Path))
	})
	return mux
}

type fault struct {
	status     int
	code, text string
}

func (f *fault) Error() string { return f.text }

func (w *Watcher) reply(rw http.ResponseWriter, r *http.Request, answer any, err error) {
	status := http.StatusOK
	if err != nil {
		var f *fault
		switch {
		case errors.As(err, &f):
		case errors.Is(err, ErrInvalid):
			f = &fault{http.StatusBadRequest, "invalid_argument", err.Error()}
		case errors.Is(err, ErrNotFound):
			f = &fault{http.StatusNotFound, "not_found", err.Error()}
		case errors.Is(err, ErrConflict):
			f = &fault{http.StatusConflict, "aborted", err.Error()}
		case r.Context().Err() != nil:
			f = &fault{499, "canceled", "the asker is gone"}
		default:
			w.opt.Logger.Error("a question about findings", "path", r.URL.Path, "error", err)
			f = &fault{http.StatusServiceUnavailable, "unavailable", "the control database does not answer now: " + err.Error()}
		}
		status, answer = f.status, map[string]string{"code": f.code, "message": strings.TrimPrefix(f.text, ErrInvalid.Error()+": ")}
	}
	b, err := json.Marshal(answer)
	if err != nil { // cannot be: all of it is ours
		w.opt.Logger.Error("an answer about findings", "error", err)
		status, b = http.StatusInternalServerError, []byte(`{"code":"internal","message":"a fault of the server's, in its log"}`)
	}
	h := rw.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	rw.WriteHeader(status)
	rw.Write(append(b, '\n')) // an error means that the asker is gone
}

// onlyParams refuses what would be passed over: a word that is spelled wrong means something else than what was meant.
func onlyParams(r *http.Request, known []string) error {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return fmt.Errorf("%w: the query cannot be read: %w", ErrInvalid, err)
	}
	for name := range q {
		if !slices.Contains(known, name) {
			return fmt.Errorf("%w: parameter %.40q is not understood here", ErrInvalid, name)
		}
	}
	return nil
}

// body reads JSON in which unknown names are refused.
func body(r *http.Request, v any) error {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("%w: the body: %w", ErrInvalid, err)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("%w: the body is not what is asked for: %w", ErrInvalid, err)
	}
	if dec.More() {
		return fmt.Errorf("%w: the body has more than one value", ErrInvalid)
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
	for _, k := range split(q["kind"]) {
		if !slices.Contains(analyze.Kinds, analyze.Kind(k)) {
			return nil, fmt.Errorf("%w: kind %.40q is none of %v", ErrInvalid, k, analyze.Kinds)
		}
		f.Kinds = append(f.Kinds, analyze.Kind(k))
	}
	for _, s := range split(q["state"]) {
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
	if s := q.Get("since"); s != "" {
		if d, err := time.ParseDuration(s); err == nil {
			f.Since = w.opt.Now().Add(-d)
		} else if t, err := time.Parse(time.RFC3339, s); err == nil {
			f.Since = t
		} else {
			return nil, fmt.Errorf("%w: since=%.40q: it must be a time as 24h or 2026-11-02T15:04:05Z", ErrInvalid, s)
		}
	}
	if s := q.Get("limit"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxListed {
			return nil, fmt.Errorf("%w: limit=%.40q: it must be a number from 1 to %d", ErrInvalid, s, maxListed)
		}
		f.Limit = n
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

func split(values []string) (out []string) {
	for _, v := range values {
		for s := range strings.SplitSeq(v, ",") {
			if s = strings.TrimSpace(s); s != "" {
				out = append(out, s)
			}
		}
	}
	return out
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
