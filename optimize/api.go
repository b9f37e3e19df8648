package optimize

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/quantra-l/quantra/internal/jsonapi"
)

// Where [Runner.Handler] belongs, each with and without a slash and more behind it.
const (
	ChangesPath   = "/api/v1/changes"
	IncidentsPath = "/api/v1/incidents"
)

// Bounds of answers and questions.
const (
	maxListed     = 1000
	defaultList   = 200
	maxListedSpec = 4 << 10   // bytes of a spec in a list: that of a patch has its diff
	maxHistory    = 500       // events of an answer, where no number is given: the last ones
	maxQuestion   = 256 << 10 // a policy, or a webhook's list of alerts
	maxHoldsTime  = 365 * 24 * time.Hour
)

// Handler answers those who ask for changes, and does what people decide. It lets in everyone but web pages of other origins: put it
// behind what knows who may.
func (r *Runner) Handler() http.Handler {
	mux := http.NewServeMux()
	door := &jsonapi.Door{Tenant: r.run.Tenant, Fault: fault, Logger: r.o.Logger, MaxBody: maxQuestion}
	door.Handle(mux, "GET "+ChangesPath, []string{"service", "kind", "state", "since", "limit"}, r.askChanges)
	door.Handle(mux, "POST "+ChangesPath, nil, r.askSubmit)
	door.Handle(mux, "POST "+ChangesPath+"/patch", nil, r.askPatch)
	door.Handle(mux, "GET "+ChangesPath+"/status", nil, func(q *http.Request, tenant string) (any, error) {
		status, holds, err := r.Status(q.Context(), tenant)
		return map[string]any{"status": status, "holds": holds}, err
	})
	door.Handle(mux, "GET "+ChangesPath+"/{id}", []string{"after"}, r.askChange)
	door.Handle(mux, "POST "+ChangesPath+"/{id}", nil, r.askAct)
	door.Handle(mux, "GET "+ChangesPath+"/{id}/series", []string{"stage"}, r.askSeries)
	door.Handle(mux, "POST "+ChangesPath+"/pause", nil, func(q *http.Request, tenant string) (any, error) { return r.askPause(q, tenant, true) })
	door.Handle(mux, "POST "+ChangesPath+"/resume", nil, func(q *http.Request, tenant string) (any, error) { return r.askPause(q, tenant, false) })
	door.Handle(mux, "POST "+ChangesPath+"/plan", nil, r.askPlan)
	door.Handle(mux, "POST "+IncidentsPath, []string{"format", "for"}, r.askIncident)
	door.Else(mux)
	return mux
}

// fault is what an error means to the asker.
func fault(err error) *jsonapi.Fault {
	f := &jsonapi.Fault{Text: strings.TrimPrefix(err.Error(), "optimize: ")}
	switch {
	case errors.Is(err, ErrInvalid):
		f.Status, f.Code, f.Text = http.StatusBadRequest, "invalid_argument", strings.TrimPrefix(f.Text, ErrInvalid.Error()+": ")
	case errors.Is(err, ErrNotFound):
		f.Status, f.Code = http.StatusNotFound, "not_found"
	case errors.Is(err, ErrConflict):
		f.Status, f.Code = http.StatusConflict, "aborted"
	case errors.Is(err, ErrState):
		f.Status, f.Code, f.Text = http.StatusConflict, "failed_precondition", strings.TrimPrefix(f.Text, ErrState.Error()+": ")
	default:
		return nil
	}
	return f
}

// Listed is a change in a list: without its nodes, which are counted by their states, the verdicts of stages that are over, functions, and a spec that is long (null).
type Listed struct {
	Change
	Nodes map[UnitState]int `json:"nodes"`
}

func listed(c Change) Listed {
	l := Listed{Change: c, Nodes: map[UnitState]int{}}
	for i := range c.Units {
		if !c.Units[i].Place {
			l.Nodes[c.Units[i].State]++
		}
	}
	l.Units, l.Verdicts, l.Periods = nil, nil, nil
	if len(l.Spec) > maxListedSpec {
		l.Spec = nil
	}
	if c.Verdict != nil {
		v := *c.Verdict
		v.Functions = nil
		l.Verdict = &v
	}
	return l
}

func (r *Runner) askChanges(q *http.Request, tenant string) (any, error) {
	v := q.URL.Query()
	f := Filter{Service: v.Get("service")}
	for _, k := range jsonapi.List(v["kind"]) {
		if !slices.Contains(Kinds, Kind(k)) {
			return nil, jsonapi.Invalid("kind %.40q is none of %v", k, Kinds)
		}
		f.Kinds = append(f.Kinds, Kind(k))
	}
	for _, s := range jsonapi.List(v["state"]) {
		switch {
		case s == "all":
			f.States = append(f.States, States...)
		case s == "open":
			f.States = append(f.States, Proposed, Waiting, Applying, Dwelling, Undoing)
		case slices.Contains(States, State(s)):
			f.States = append(f.States, State(s))
		default:
			return nil, jsonapi.Invalid("state %.40q is none of %v, open and all", s, States)
		}
	}
	var err error
	if f.Since, err = jsonapi.Since("since", v.Get("since"), r.o.Now()); err != nil {
		return nil, err
	}
	if f.Limit, err = jsonapi.Number("limit", v.Get("limit"), defaultList, 1, maxListed); err != nil {
		return nil, err
	}
	list, err := r.o.Journal.Changes(q.Context(), tenant, f)
	if err != nil {
		return nil, err
	}
	changes := make([]Listed, len(list))
	policy := r.o.Policy()
	for i := range list {
		policy.mark(&list[i])
		changes[i] = listed(list[i])
	}
	status, holds, err := r.Status(q.Context(), tenant)
	return map[string]any{"changes": changes, "holds": holds, "status": status}, err
}

// change is one that must be there.
func (r *Runner) change(ctx context.Context, tenant, id string) (Change, error) {
	c, ok, err := r.o.Journal.Change(ctx, tenant, id)
	if err == nil && !ok {
		err = fmt.Errorf("optimize: %w: there is no change %.40q", ErrNotFound, id)
	}
	return c, err
}

func (r *Runner) askChange(q *http.Request, tenant string) (any, error) {
	after, err := jsonapi.Number("after", q.URL.Query().Get("after"), -maxHistory, 0, 1<<30)
	if err != nil {
		return nil, err
	}
	c, err := r.change(q.Context(), tenant, q.PathValue("id"))
	if err != nil {
		return nil, err
	}
	events, err := r.o.Journal.Events(q.Context(), tenant, c.ID, int64(after))
	if err != nil {
		return nil, err
	}
	r.o.Policy().mark(&c)
	latest := c.Verdict
	if v, ok := r.Latest(c.ID); ok && c.State.Acting() {
		latest = &v
	}
	return map[string]any{"change": c, "history": append([]Event{}, events...), "latest": latest}, nil
}

// by is who asks.
func (r *Runner) by(q *http.Request, said string) string {
	if r.run.By == nil {
		return said
	}
	return r.run.By(q, said)
}

func (r *Runner) askAct(q *http.Request, tenant string) (any, error) {
	var a Action
	if err := jsonapi.Body(q, &a); err != nil {
		return nil, err
	}
	a.By = r.by(q, a.By)
	c, err := r.Act(q.Context(), tenant, q.PathValue("id"), a)
	if err != nil {
		return nil, err
	}
	r.o.Policy().mark(&c)
	r.look()
	return map[string]any{"change": c}, nil
}

// holding is what somebody says who holds changes, or lets them go on.
type holding struct {
	By   string `json:"by"`
	Note string `json:"note"`
	For  string `json:"for"` // as 2h; "" is until it is ended
}

// until is when it ends by itself; zero is never.
func until(length string, now time.Time) (time.Time, error) {
	if length == "" {
		return time.Time{}, nil
	}
	d, err := time.ParseDuration(length)
	if err != nil || d <= 0 || d > maxHoldsTime {
		return time.Time{}, jsonapi.Invalid("for %.40q: it must be a time as 90m or 2h, of at most a year", length)
	}
	return now.Add(d).UTC(), nil
}

func (r *Runner) askPause(q *http.Request, tenant string, pause bool) (any, error) {
	var h holding
	if err := jsonapi.Body(q, &h); err != nil {
		return nil, err
	}
	h.By = r.by(q, h.By)
	end, err := until(h.For, r.o.Now())
	switch {
	case err != nil:
	case pause:
		err = r.Pause(q.Context(), tenant, h.By, h.Note, end)
	case h.For != "":
		err = jsonapi.Invalid("for belongs to pause")
	default:
		err = r.Resume(q.Context(), tenant, h.By)
	}
	if err != nil {
		return nil, err
	}
	r.look()
	return r.held(q.Context(), tenant)
}

// held is the answer to who has changed what holds all.
func (r *Runner) held(ctx context.Context, tenant string) (any, error) {
	holds, err := r.o.Journal.Holds(ctx, tenant)
	return map[string]any{"holds": holds}, err
}

func (r *Runner) askPlan(q *http.Request, tenant string) (any, error) {
	policy := r.o.Policy()
	if q.ContentLength != 0 {
		if r.run.DecodePolicy == nil {
			return nil, jsonapi.Invalid("this server reads no policies: ask without one")
		}
		var err error
		if policy, err = r.run.DecodePolicy(q.Body); err != nil {
			if f := fault(err); f != nil {
				return nil, f
			}
			return nil, jsonapi.Invalid("%w", err)
		}
	}
	plans, err := r.Preview(q.Context(), tenant, policy)
	return map[string]any{"plan": append([]Planned{}, plans...)}, err
}

// submission is what a person proposes.
type submission struct {
	Kind     Kind            `json:"kind"`
	Service  string          `json:"service"`
	Subject  string          `json:"subject"`
	Basis    string          `json:"basis"`
	Spec     json.RawMessage `json:"spec"`
	Sentence string          `json:"sentence"`
	Cost     float64         `json:"cost"`
	By       string          `json:"by"`
}

func (r *Runner) askSubmit(q *http.Request, tenant string) (any, error) {
	var s submission
	if err := jsonapi.Body(q, &s); err != nil {
		return nil, err
	}
	if s.Kind == Patch { // what it changes, and gains, is found here, and not said by who asks
		return nil, jsonapi.Invalid("kind patch: send the linter's report to %s/patch", ChangesPath)
	}
	c, err := r.Submit(q.Context(), tenant, Proposal{Kind: s.Kind, Service: s.Service, Subject: s.Subject, Basis: s.Basis, Spec: s.Spec, Sentence: s.Sentence, Cost: s.Cost}, r.by(q, s.By))
	if err != nil {
		return nil, err
	}
	r.o.Policy().mark(&c)
	r.look()
	return map[string]any{"change": c}, nil
}
