package web

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	v1 "github.com/quantra-l/quantra/wire/quantra/v1"
)

// Of /pprof/SERVICE/KIND: the same paths under a service's name that net/http/pprof has in one process, for all of its instances together.
const (
	pprofSeconds    = 60              // of a profile where nobody says: what an agent sends at once
	maxPprofSeconds = 24 * 3600       // of what is recorded
	maxLiveSeconds  = 300             // of what is waited for
	maxLive         = 16              // requests that wait at once
	livePoll        = time.Second     // between two looks at whether it has come
	minLiveGrace    = 5 * time.Second // beside half of the time asked for: `go tool pprof` itself waits as long
)

// pprofNames are the profiles' names that net/http/pprof calls otherwise.
var pprofNames = map[string]string{"profile": "process_cpu", "heap": "memory", "allocs": "memory"}

// pprofParams are all that the path understands.
var pprofParams = []string{"seconds", "from", "to", "matchers", "live", "debug", "gc"}

// pprofRequest is what one request asks for.
type pprofRequest struct {
	service, kind, name string
	seconds             time.Duration
	live                bool
	from, to            int64 // Unix milliseconds; 0 is not said
	matchers            string
}

// pprof is GET /pprof/{service}/{kind}.
func (s *Server) pprof(w http.ResponseWriter, r *http.Request) {
	req, err := s.pprofRequest(r)
	var out []byte
	if err == nil {
		var from time.Time
		if req.live {
			from, err = s.live(r.Context(), req)
		}
		if err == nil {
			err = s.ask(r.Context(), "Pprof", func(ctx context.Context) error {
				p, err := s.fleetProfile(ctx, req, from)
				if err != nil {
					return err
				}
				var b bytes.Buffer
				if err := p.Encode(&b); err != nil {
					return fmt.Errorf("pprof of %s: %w", req.service, err)
				}
				out = b.Bytes()
				return nil
			})
		}
	}
	if err != nil {
		c := s.errorOf(err)
		status := statusOf(c.Code())
		if c.Code() == connect.CodeNotFound {
			status = http.StatusNotFound
		}
		if r.Header.Get("Accept") == "" { // `go tool pprof` shows what is wrong only in the form that net/http/pprof says it
			w.Header().Set("X-Go-Pprof", "1")
			http.Error(w, c.Message(), status)
			return
		}
		replyError(w, status, c.Code(), c.Message())
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", fmt.Sprintf("attachment; filename=%q", req.kind))
	h.Set("Cache-Control", "no-store")
	w.Write(out) // an error means that the asker is gone
}

func (s *Server) pprofRequest(r *http.Request) (pprofRequest, error) {
	req := pprofRequest{service: r.PathValue("service"), kind: r.PathValue("kind"), seconds: pprofSeconds * time.Second}
	req.name = cmp.Or(pprofNames[req.kind], req.kind)
	if err := profile.CheckLabelName(req.name); err != nil {
		return req, invalid("%.40q is no profile: ask for profile, heap, allocs, goroutine, mutex or block", req.kind)
	}
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return req, invalid("the query cannot be read: %w", err)
	}
	for name, values := range v {
		if !slices.Contains(pprofParams, name) || len(values) > 1 {
			return req, invalid("parameter %.40q is not understood, or given twice; there are %s", name, strings.Join(pprofParams, ", "))
		}
	}
	if d := v.Get("debug"); d != "" && d != "0" {
		return req, invalid("debug=%.10q: the answer is pprof's format only; leave it out", d)
	}
	if t := v.Get("live"); t != "" {
		if req.live, err = strconv.ParseBool(t); err != nil {
			return req, invalid("live=%.40q must be true or false", t)
		}
	}
	if t := v.Get("seconds"); t != "" {
		most := maxPprofSeconds
		if req.live {
			most = maxLiveSeconds
		}
		n, err := strconv.Atoi(t)
		if err != nil || n < 1 || n > most {
			return req, invalid("seconds=%.40q must be from 1 to %d", t, most)
		}
		req.seconds = time.Duration(n) * time.Second
	}
	req.matchers = v.Get("matchers")
	if req.from, err = s.timeMs("from", v.Get("from")); err != nil {
		return req, err
	}
	if req.to, err = s.timeMs("to", v.Get("to")); err != nil {
		return req, err
	}
	if req.live && (req.from != 0 || req.to != 0) {
		return req, invalid("live is from now on: leave out from and to")
	}
	return req, nil
}

// selection is what the request asks of one type; "" is any.
func (r *pprofRequest) selection() (*v1.Selection, error) {
	ms, err := store.ParseMatchers(r.matchers)
	if err != nil {
		return nil, invalid("matchers: %w", err)
	}
	ms = append(ms, store.Matcher{Name: profile.LabelService, Value: r.service})
	return &v1.Selection{Matchers: store.FormatMatchers(ms), Range: &v1.TimeRange{FromMs: r.from, ToMs: r.to}}, nil
}

// query is the request as an allowed question for single profiles, as their samples' labels are told, and the types there are.
func (s *Server) pprofQuery(ctx context.Context, req pprofRequest, from time.Time) (store.Query, Scope, []profile.Type, error) {
	sel, err := req.selection()
	if err != nil {
		return store.Query{}, Scope{}, nil, err
	}
	q, err := queryOf(ctx, sel.Matchers, sel.Range)
	if err != nil {
		return q, Scope{}, nil, err
	}
	allowed, err := s.allow(ctx, true, q)
	if err != nil {
		return q, Scope{}, nil, err
	}
	q = allowed.Query
	q.Matchers = append(q.Matchers, store.Matcher{Name: profile.LabelType, Op: store.MatchRegexp, Value: req.name + ":.*"})
	if !from.IsZero() {
		q.From = from
	}
	types, err := s.opt.Store.ProfileTypes(ctx, q)
	if err != nil {
		return q, Scope{}, nil, err
	}
	if len(types) == 0 {
		return q, Scope{}, nil, connect.NewError(connect.CodeNotFound, fmt.Errorf("there is no profile %q of service %q in that time; GET /api/v1 Services says what there is, and live=true waits for the next", req.kind, req.service))
	}
	return q, allowed.scope, types, nil
}

// fleetProfile is all types of a profile, one column each, as one process would have written it: what is counted over time as the sum of the
// window, what is a state (what is in use, goroutines) as it was last, of each instance.
func (s *Server) fleetProfile(ctx context.Context, req pprofRequest, from time.Time) (*profile.Profile, error) {
	q, scope, types, err := s.pprofQuery(ctx, req, from)
	if err != nil {
		return nil, err
	}
	if req.from == 0 && from.IsZero() { // the newest that there is, not what may still be on its way
		services, err := s.opt.Store.Services(ctx, q)
		if err != nil {
			return nil, err
		}
		for _, svc := range services {
			if start := svc.Last.Add(-req.seconds); start.After(q.From) {
				q.From = start
			}
		}
	}
	p, last, err := s.columns(ctx, q, types, func(one *store.Query) error {
		if state(one.Type) {
			return s.onlyNewest(ctx, one)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	p.TimeNanos, p.DurationNanos = last.From.UnixNano(), int64(last.To.Sub(last.From))
	p.DefaultSampleType = map[string]string{"heap": "inuse_space", "allocs": "alloc_space"}[req.kind]
	for _, w := range last.Warnings {
		p.Comments = append(p.Comments, "warning: "+w)
	}
	p.Comments = append(p.Comments, fmt.Sprintf("%s of %s: %d profiles of %d series", req.kind, req.service, last.Profiles, last.Series))
	if scope.Rename != nil {
		return p.Rename(scope.Rename), nil
	}
	return p, nil
}

// columns is the sum of what a question selects, one column for each type. narrow, which may be nil, makes the question of one type narrower. The last
// answer tells of the profiles.
func (s *Server) columns(ctx context.Context, q store.Query, types []profile.Type, narrow func(*store.Query) error) (*profile.Profile, *store.Result, error) {
	columns := make([]profile.ValueType, len(types))
	for i, t := range types {
		columns[i] = t.Sample
	}
	m := profile.NewMerger(columns...)
	var last *store.Result
	for i, t := range types {
		one := q
		one.Type = t
		if narrow != nil {
			if err := narrow(&one); err != nil {
				return nil, nil, err
			}
		}
		var err error
		if last, err = s.opt.Store.Select(ctx, one); err != nil {
			return nil, nil, err
		}
		if err := m.Add(widened(last.Profile, columns, i), 1); err != nil {
			return nil, nil, err
		}
	}
	if last == nil {
		return nil, nil, errors.New("no type to select")
	}
	p := *m.Profile()
	return &p, last, nil
}

// state says that a type is what is, not what happened: its values do not add up over time.
func state(t profile.Type) bool {
	return strings.HasPrefix(t.Sample.Type, "inuse_") || strings.HasPrefix(t.Name, "goroutine")
}

// onlyNewest makes q one for the last profile of each series.
func (s *Server) onlyNewest(ctx context.Context, q *store.Query) error {
	found, err := s.opt.Store.Profiles(ctx, *q, store.MaxProfiles)
	if err != nil {
		return err
	}
	if found.All > store.MaxProfiles {
		return fmt.Errorf("%w: %d profiles, at most %d can be looked through for the newest; ask for fewer seconds", store.ErrTooLarge, found.All, store.MaxProfiles)
	}
	newest := map[string]store.ProfileInfo{}
	for _, p := range found.Profiles { // by time
		newest[p.Labels.String()] = p
	}
	for _, p := range newest {
		q.IDs = append(q.IDs, p.ID)
	}
	return nil
}

// widened is p, which has one type, with all columns: zeros but for column i.
func widened(p *profile.Profile, columns []profile.ValueType, i int) *profile.Profile {
	q := *p
	q.SampleTypes = columns
	q.Values = make([][]int64, len(columns))
	zeros := make([]int64, len(p.Values[0]))
	for k := range q.Values {
		q.Values[k] = zeros
	}
	q.Values[i] = p.Values[0]
	return &q
}

// live has the service profiled now where Options.ProfileNow can, else waits for what its agents send; it gives the start of what to answer with.
func (s *Server) live(ctx context.Context, req pprofRequest) (time.Time, error) {
	select {
	case s.waiting <- struct{}{}:
		defer func() { <-s.waiting }()
	default:
		return time.Time{}, fmt.Errorf("%w: %d live profiles are being taken already; ask again later", store.ErrOverloaded, cap(s.waiting))
	}
	start := s.opt.Now()
	ctx, cancel := context.WithTimeout(ctx, req.seconds+max(req.seconds/2-time.Second, minLiveGrace))
	defer cancel()
	sel, err := req.selection()
	if err != nil {
		return start, err
	}
	q, err := queryOf(ctx, sel.Matchers, sel.Range)
	if err != nil {
		return start, err
	}
	allowed, err := s.allow(ctx, true, q) // before anything is set in motion
	if err != nil {
		return start, err
	}
	if s.opt.ProfileNow != nil {
		n, err := s.opt.ProfileNow(ctx, allowed.Tenant, req.service, req.kind, req.seconds)
		if err != nil {
			return start, err
		}
		if n > 0 {
			return start, nil
		}
	}
	q = allowed.Query
	q.Matchers = append(q.Matchers, store.Matcher{Name: profile.LabelType, Op: store.MatchRegexp, Value: req.name + ":.*"})
	q.From = start
	tick := time.NewTicker(livePoll)
	defer tick.Stop()
	some := false
	for {
		services, err := s.opt.Store.Services(ctx, q)
		if err != nil && ctx.Err() == nil {
			return start, err
		}
		for _, svc := range services {
			if some = true; !svc.Last.Before(start.Add(req.seconds)) {
				return start, nil
			}
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if some {
				return start, nil
			}
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return start, connect.NewError(connect.CodeDeadlineExceeded, fmt.Errorf("no %s of %q that began after the question has come within its time: agents send once a minute, so ask for seconds=60 or more, or for what is recorded, without live", req.kind, req.service))
			}
			return start, ctx.Err()
		}
	}
}
