package fleet

import (
	"bufio"
	"cmp"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ReaderPath is where [Fleet.Handler] belongs, with and without a slash and more behind it.
const ReaderPath = "/api/v1/agents"

// maxQuestion bounds the body of a reader's request.
const maxQuestion = 16 << 10

// Handler answers those who ask about agents. It lets in everyone but web pages of other origins: put it behind what knows who may.
func (f *Fleet) Handler() http.Handler {
	routes := map[string]struct {
		method string
		params []string
		do     func(w http.ResponseWriter, r *http.Request, tenant string) (any, error)
	}{
		"":            {http.MethodGet, []string{"service"}, f.askAgents},
		"/lease":      {http.MethodPost, nil, f.askLease},
		"/release":    {http.MethodPost, nil, f.askRelease},
		"/goroutines": {http.MethodGet, []string{"service", "instance", "full"}, f.askGoroutines},
		"/trace":      {http.MethodGet, []string{"service", "instance", "seconds", "format"}, f.askTrace},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer, err := func() (any, error) {
			route, ok := routes[strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, ReaderPath), "/")]
			if !ok {
				return nil, errorf(ErrNotFound, "there is nothing at %.100s; docs/api.md lists what there is", r.URL.Path)
			}
			if r.Method != route.method {
				w.Header().Set("Allow", route.method)
				return nil, refusal(http.StatusMethodNotAllowed, "unimplemented", "%s is not understood here: %s it", r.Method, route.method)
			}
			// A task costs the program something, so a web page of another origin may not even ask for one, though it could not read the answer.
			as := r.Clone(r.Context())
			as.Method = http.MethodPost
			if err := f.origins.Check(as); err != nil {
				return nil, refusal(http.StatusForbidden, "permission_denied", "%v", err)
			}
			tenant, err := tenantOf(r)
			if err != nil {
				return nil, refusal(http.StatusBadRequest, "invalid_argument", "%v", err)
			}
			if err := onlyParams(r, route.params); err != nil {
				return nil, err
			}
			return route.do(w, r, tenant)
		}()
		switch {
		case err != nil:
			f.refusalOf(r, err, "resource_exhausted").replyReader(w)
		case answer != nil:
			replyJSON(w, http.StatusOK, answer)
		}
	})
}

// onlyParams refuses what would be passed over: a word that is spelled wrong means something else than what was meant.
func onlyParams(r *http.Request, known []string) error {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return errorf(ErrInvalid, "the query cannot be read: %v", err)
	}
	for name, values := range q {
		if !slices.Contains(known, name) {
			return errorf(ErrInvalid, "parameter %.40q is not understood here", name)
		}
		if len(values) > 1 {
			return errorf(ErrInvalid, "parameter %s is given %d times", name, len(values))
		}
	}
	return nil
}

// askAgents writes one agent at a time: all of them with what they say of themselves may be much.
func (f *Fleet) askAgents(w http.ResponseWriter, r *http.Request, tenant string) (any, error) {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	out := bufio.NewWriter(w) // its error means that the asker is gone, and stays until Flush
	out.WriteString(`{"agents":[`)
	for i, a := range f.Agents(tenant, r.FormValue("service")) {
		b, err := json.Marshal(a)
		if err != nil { // cannot be: its status was checked when it came
			panic(http.ErrAbortHandler) // cut short: a clean end would hide it
		}
		if i > 0 {
			out.WriteByte(',')
		}
		if _, err := out.Write(b); err != nil {
			return nil, nil
		}
	}
	out.WriteString("]}\n")
	out.Flush()
	return nil, nil
}

// leaseRequest is the body of a lease or a release.
type leaseRequest struct {
	Service  string `json:"service"`
	Instance string `json:"instance"`
	By       string `json:"by"` // who asks; "" is the address of the request
}

const maxBy = 200 // bytes of a name

// asker is who asks, for the record.
func (f *Fleet) asker(r *http.Request, said string) (string, error) {
	if len(said) > maxBy {
		return "", errorf(ErrInvalid, "by has %d bytes: it may have %d", len(said), maxBy)
	}
	if f.opt.By != nil {
		said = f.opt.By(r, said)
	}
	return cmp.Or(said, r.RemoteAddr, "a request without an address"), nil
}

// body reads a reader's JSON into v, in which unknown names are refused: a setting that is spelled wrong must not be left out silently.
func (f *Fleet) body(w http.ResponseWriter, r *http.Request, v any) error {
	b, err := f.readWithin(w, r, maxQuestion, func(int64) error { return nil })
	if err != nil {
		return err
	}
	if err := decodeJSON(b, v, true); err != nil {
		return errorf(ErrInvalid, "the body is not the JSON it must be: %v", err)
	}
	return nil
}

func (f *Fleet) askLease(w http.ResponseWriter, r *http.Request, tenant string) (any, error) {
	var q struct {
		leaseRequest
		For string `json:"for"`
		Settings
	}
	if err := f.body(w, r, &q); err != nil {
		return nil, err
	}
	ttl, err := time.ParseDuration(q.For)
	if err != nil {
		return nil, errorf(ErrInvalid, "for %.40q: it must be a time as 10m, from 1s to 24h", q.For)
	}
	by, err := f.asker(r, q.By)
	if err != nil {
		return nil, err
	}
	l, err := f.lease(r.Context(), Target{tenant, q.Service, q.Instance}, q.Settings, ttl, by)
	if err != nil {
		return nil, err
	}
	return map[string]Lease{"lease": l}, nil
}

func (f *Fleet) askRelease(w http.ResponseWriter, r *http.Request, tenant string) (any, error) {
	var q leaseRequest
	if err := f.body(w, r, &q); err != nil {
		return nil, err
	}
	by, err := f.asker(r, q.By)
	if err != nil {
		return nil, err
	}
	return struct{}{}, f.release(r.Context(), Target{tenant, q.Service, q.Instance}, by)
}

func (f *Fleet) askGoroutines(_ http.ResponseWriter, r *http.Request, tenant string) (any, error) {
	full, err := strconv.ParseBool(cmp.Or(r.FormValue("full"), "false"))
	if err != nil {
		return nil, errorf(ErrInvalid, "full=%.40q: it must be true or false", r.FormValue("full"))
	}
	return f.Goroutines(r.Context(), Target{tenant, r.FormValue("service"), r.FormValue("instance")}, full)
}

func (f *Fleet) askTrace(w http.ResponseWriter, r *http.Request, tenant string) (any, error) {
	seconds, err := strconv.Atoi(cmp.Or(r.FormValue("seconds"), "5"))
	if err != nil {
		return nil, errorf(ErrInvalid, "seconds=%.40q: it must be a number, 1 to %d", r.FormValue("seconds"), maxSeconds)
	}
	raw := false
	switch format := r.FormValue("format"); format {
	case "raw":
		raw = true
	case "", "summary":
		if f.opt.Summarize == nil { // before the trace: it would cost the program for nothing
			return nil, refusal(http.StatusNotImplemented, "unimplemented", "this server was made without a reader of traces: ask with format=raw, and read it with `go tool trace`")
		}
	default:
		return nil, errorf(ErrInvalid, "format=%.40q: it must be summary or raw", format)
	}
	b, err := f.Trace(r.Context(), Target{tenant, r.FormValue("service"), r.FormValue("instance")}, seconds)
	if err != nil {
		return nil, err
	}
	if !raw {
		s, err := f.opt.Summarize(b)
		if err != nil {
			return nil, errorf(ErrFailed, "the trace cannot be summarized: %w; format=raw is the trace itself", err)
		}
		return s, nil
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", `attachment; filename="execution.trace"`)
	h.Set("Content-Length", strconv.Itoa(len(b)))
	h.Set("Cache-Control", "no-store")
	w.Write(b) // an error means that the asker is gone
	return nil, nil
}
