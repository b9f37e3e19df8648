package console

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/quantra-l/quantra/internal/jsonapi"
	"github.com/quantra-l/quantra/profile"
	consolev1 "github.com/quantra-l/quantra/wire/console/v1"
	"github.com/quantra-l/quantra/wire/console/v1/consolev1connect"
)

// Where programs, their tasks as groups and one by one, and one task are asked for.
const (
	ProgramsPath = "/api/v1/tasks"
	SnapshotPath = "/api/v1/tasks/snapshot"
	ListPath     = "/api/v1/tasks/list"
	DetailsPath  = "/api/v1/tasks/details"
)

// Program is one program as the list shows it.
type Program struct {
	Service   string            `json:"service"`
	Instance  string            `json:"instance"`
	Version   string            `json:"version,omitempty"`
	Labels    map[string]string `json:"labels"`
	URL       string            `json:"url"`
	Online    bool              `json:"online"`
	Connected *time.Time        `json:"connected,omitempty"` // since when
	Seen      *time.Time        `json:"seen,omitempty"`      // when its last update came
	Paused    bool              `json:"paused"`              // by another console: what is shown is of then
	LastError string            `json:"last_error,omitempty"`
	Tasks     int               `json:"tasks"`
	Resources int               `json:"resources"`
	Ops       int               `json:"async_ops"`
	Updates   uint64            `json:"updates"`
	Dropped   Dropped           `json:"dropped_events"`
	LeftOut   uint64            `json:"left_out"`
	Bytes     int64             `json:"bytes"` // of the server's memory, about
	Warnings  map[string]int    `json:"warnings,omitempty"`
}

// Details are one task, with how long its polls took and how long it waited for them.
type Details struct {
	Task      Task       `json:"task"`
	Polls     *Histogram `json:"poll_times,omitempty"`
	Scheduled *Histogram `json:"scheduled_times,omitempty"`
}

// defaultTenant is whose what names no tenant is, as in the store.
const defaultTenant = "default"

// of are a tenant's programs of a service, all where service is "", by their names.
func (w *Watcher) of(tenant, service string) []*program {
	w.mu.Lock()
	var out []*program
	for p := range w.programs {
		if cmp.Or(p.Tenant, defaultTenant) == cmp.Or(tenant, defaultTenant) && (service == "" || p.Labels.Get(profile.LabelService) == service) {
			out = append(out, p)
		}
	}
	w.mu.Unlock()
	slices.SortFunc(out, func(a, b *program) int {
		return cmp.Or(cmp.Compare(a.Labels.Get(profile.LabelService), b.Labels.Get(profile.LabelService)), cmp.Compare(a.Labels.Get(profile.LabelInstance), b.Labels.Get(profile.LabelInstance)), cmp.Compare(a.URL, b.URL))
	})
	return out
}

// Programs are a tenant's programs of a service, all where service is "".
func (w *Watcher) Programs(tenant, service string) []Program {
	out := []Program{}
	for _, p := range w.of(tenant, service) {
		out = append(out, p.show())
	}
	return out
}

func (p *program) show() Program {
	out := Program{Service: p.Labels.Get(profile.LabelService), Instance: p.Labels.Get(profile.LabelInstance), Version: p.Labels.Get(profile.LabelVersion), Labels: map[string]string{}, URL: p.URL}
	for _, l := range p.Labels {
		out.Labels[l.Name] = l.Value
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		out.LastError = p.err.Error()
	}
	if p.model == nil {
		return out
	}
	connected, last, m := p.connected.UTC(), p.last.UTC(), p.model
	out.Online, out.Connected, out.Seen, out.Paused = true, &connected, &last, p.paused
	out.Tasks, out.Resources, out.Ops, out.Updates, out.Dropped, out.LeftOut, out.Bytes = len(m.tasks), len(m.resources), len(m.ops), m.updates, m.dropped, m.leftOut, m.bytes
	for _, t := range m.tasks {
		for _, w := range t.lint(m.now) {
			if out.Warnings == nil {
				out.Warnings = map[string]int{}
			}
			out.Warnings[w.Code]++
		}
	}
	return out
}

// Handler answers the paths. tenant is whose a request is. Put it behind what knows who may.
func (w *Watcher) Handler(tenant func(*http.Request) (string, error)) http.Handler {
	mux := http.NewServeMux()
	door := &jsonapi.Door{Tenant: tenant, Logger: w.opt.Logger, Fault: func(err error) *jsonapi.Fault {
		return &jsonapi.Fault{Status: http.StatusBadGateway, Code: "failed", Text: err.Error()} // what the program says
	}}
	which := []string{"service", "instance"}
	door.Handle(mux, "GET "+ProgramsPath, []string{"service"}, func(r *http.Request, tenant string) (any, error) {
		return map[string]any{"programs": w.Programs(tenant, r.FormValue("service"))}, nil
	})
	door.Handle(mux, "GET "+SnapshotPath, which, func(r *http.Request, tenant string) (any, error) {
		return ask(w, r, tenant, func(m *model) (Snapshot, error) { return m.snapshot(), nil })
	})
	door.Handle(mux, "GET "+ListPath, append(which, "limit"), func(r *http.Request, tenant string) (any, error) {
		limit, err := jsonapi.Number("limit", r.FormValue("limit"), 1000, 1, maxShown)
		if err != nil {
			return nil, err
		}
		tasks, err := ask(w, r, tenant, func(m *model) ([]Task, error) { return m.list(limit), nil })
		return map[string]any{"tasks": tasks}, err
	})
	door.Handle(mux, "GET "+DetailsPath, append(which, "task"), func(r *http.Request, tenant string) (any, error) {
		id, err := strconv.ParseUint(r.FormValue("task"), 10, 64)
		if err != nil {
			return nil, jsonapi.Invalid("task=%.40q: it must be a task's id, of %s", r.FormValue("task"), ListPath)
		}
		p, err := w.program(tenant, r.FormValue("service"), r.FormValue("instance"))
		if err != nil {
			return nil, err
		}
		return w.details(r.Context(), p, id)
	})
	door.Else(mux)
	return mux
}

// ask asks the model of the program that a request names.
func ask[T any](w *Watcher, r *http.Request, tenant string, f func(*model) (T, error)) (out T, err error) {
	p, err := w.program(tenant, r.FormValue("service"), r.FormValue("instance"))
	if err != nil {
		return out, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.model == nil {
		return out, p.gone()
	}
	return f(p.model)
}

// gone is the answer to a question about a program that is not there now; mu is held.
func (p *program) gone() error {
	return &jsonapi.Fault{Status: http.StatusServiceUnavailable, Code: "unavailable", Text: fmt.Sprintf("%s is not connected: %v", p.URL, cmp.Or(p.err, errNotYet))}
}

var errNotYet = fmt.Errorf("it has not sent anything yet")

// program is the one that is named; instance may be left out where the service has one.
func (w *Watcher) program(tenant, service, instance string) (*program, error) {
	if service == "" {
		return nil, jsonapi.Invalid("service is not given")
	}
	all := w.of(tenant, service)
	if instance != "" {
		all = slices.DeleteFunc(all, func(p *program) bool { return p.Labels.Get(profile.LabelInstance) != instance })
	}
	switch {
	case len(all) == 0:
		return nil, &jsonapi.Fault{Status: http.StatusNotFound, Code: "not_found", Text: fmt.Sprintf("no tasks of service %.200q with instance %.200q are watched; GET %s lists whose are", service, instance, ProgramsPath)}
	case len(all) > 1 && instance == "":
		return nil, jsonapi.Invalid("%s has %d instances: say which by instance; GET %s lists them", service, len(all), ProgramsPath)
	}
	return all[0], nil
}

// details asks a program for the histograms of one task.
func (w *Watcher) details(ctx context.Context, p *program, id uint64) (*Details, error) {
	p.mu.Lock()
	if p.model == nil {
		defer p.mu.Unlock()
		return nil, p.gone()
	}
	t := p.model.find(id)
	if t == nil {
		p.mu.Unlock()
		return nil, &jsonapi.Fault{Status: http.StatusNotFound, Code: "not_found", Text: fmt.Sprintf("task %d has ended, or never was", id)}
	}
	out := &Details{Task: p.model.show(t, p.model.waitsFor())}
	p.mu.Unlock()
	select {
	case w.questions <- struct{}{}:
		defer func() { <-w.questions }()
	default:
		return nil, &jsonapi.Fault{Status: http.StatusTooManyRequests, Code: "resource_exhausted", Text: fmt.Sprintf("%d tasks are being asked for already", maxQuestions)}
	}
	ctx, cancel := context.WithTimeout(ctx, oneQuestion)
	defer cancel()
	stream, err := watchStream(ctx, w, p, consolev1connect.InstrumentWatchTaskDetailsProcedure, &consolev1.TaskDetailsRequest{Id: &consolev1.Id{Id: t.id}})
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	if !stream.Receive() {
		err := cmp.Or(stream.Err(), errEnded)
		if connect.CodeOf(err) == connect.CodeNotFound {
			return nil, &jsonapi.Fault{Status: http.StatusNotFound, Code: "not_found", Text: fmt.Sprintf("task %d has ended", id)}
		}
		return nil, err
	}
	out.Polls, out.Scheduled, err = readDetails(stream.Msg().b)
	return out, err
}

// readDetails reads the two histograms of a TaskDetails.
func readDetails(b []byte) (polls, scheduled *Histogram, err error) {
	const legacyField, pollsField, scheduledField = 3, 4, 5
	var legacy []byte
	if err := walk(b, legacyField, func(_ protowire.Type, v []byte, _ uint64) error { legacy = v; return nil }); err != nil {
		return nil, nil, err
	}
	var p, s *consolev1.DurationHistogram
	read := func(to **consolev1.DurationHistogram, name string) func([]byte) error {
		return func(v []byte) error { *to = &consolev1.DurationHistogram{}; return decode(v, name, *to) }
	}
	if err := lists(b, pollsField, "histogram", read(&p, "histogram")); err != nil {
		return nil, nil, err
	}
	if err := lists(b, scheduledField, "scheduled_times_histogram", read(&s, "scheduled_times_histogram")); err != nil {
		return nil, nil, err
	}
	if polls, err = readHistogram(p, legacy); err != nil {
		return nil, nil, err
	}
	scheduled, err = readHistogram(s, nil)
	return polls, scheduled, err
}
