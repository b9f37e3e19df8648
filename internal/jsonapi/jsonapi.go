// Package jsonapi is what our JSON over HTTP has in common: questions in which nothing is passed over, one form of errors, and no answer
// to web pages of other origins.
package jsonapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Fault is an error as the asker sees it: {"code": ..., "message": ...} under a status.
type Fault struct {
	Status     int
	Code, Text string
}

func (f *Fault) Error() string { return f.Text }

// Invalid is a question that is wrong.
func Invalid(format string, args ...any) *Fault {
	return &Fault{http.StatusBadRequest, "invalid_argument", fmt.Errorf(format, args...).Error()}
}

// MaxBody bounds the body of a request, where nothing else is said.
const MaxBody = 16 << 10

// Door lets questions in and answers out. Tenant, Fault and Logger have no default.
type Door struct {
	// Tenant is whose data a request is about.
	Tenant func(*http.Request) (string, error)
	// Fault is what an error of the room's means to the asker; nil is that it cannot be answered now.
	Fault  func(error) *Fault
	Logger *slog.Logger
	// MaxBody is in bytes; 0 is [MaxBody].
	MaxBody int64

	origins http.CrossOriginProtection
}

// Handle answers a pattern of mux by what do returns, as JSON. Parameters that are not among params are refused: a word that is spelled
// wrong means something else than what was meant.
func (d *Door) Handle(mux *http.ServeMux, pattern string, params []string, do func(r *http.Request, tenant string) (any, error)) {
	mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
		answer, err := func() (any, error) {
			if err := d.origins.Check(r); err != nil {
				return nil, &Fault{http.StatusForbidden, "permission_denied", err.Error()}
			}
			tenant, err := d.Tenant(r)
			if err != nil {
				return nil, Invalid("%w", err)
			}
			if err := only(r, params); err != nil {
				return nil, err
			}
			most := d.MaxBody
			if most == 0 {
				most = MaxBody
			}
			r.Body = http.MaxBytesReader(w, r.Body, most)
			return do(r, tenant)
		}()
		d.reply(w, r, answer, err)
	})
}

// Else answers all that no other pattern of mux does.
func (d *Door) Else(mux *http.ServeMux) {
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		d.reply(w, r, nil, &Fault{http.StatusNotFound, "not_found", fmt.Sprintf("not found: %s %.100s is nothing here; docs/api.md lists what there is", r.Method, r.URL.Path)})
	})
}

func (d *Door) reply(w http.ResponseWriter, r *http.Request, answer any, err error) {
	status := http.StatusOK
	if err != nil {
		var f *Fault
		switch {
		case errors.As(err, &f):
		case r.Context().Err() != nil:
			f = &Fault{499, "canceled", "the asker is gone"}
		default:
			if f = d.Fault(err); f == nil {
				d.Logger.Error("a question cannot be answered", "path", r.URL.Path, "error", err)
				f = &Fault{http.StatusServiceUnavailable, "unavailable", "the control database does not answer now: " + err.Error()}
			}
		}
		status, answer = f.Status, map[string]string{"code": f.Code, "message": f.Text}
	}
	b, err := json.Marshal(answer)
	if err != nil { // cannot be: all of it is ours
		d.Logger.Error("an answer cannot be written", "path", r.URL.Path, "error", err)
		status, b = http.StatusInternalServerError, []byte(`{"code":"internal","message":"a fault of the server's, in its log"}`)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(append(b, '\n')) // an error means that the asker is gone
}

func only(r *http.Request, known []string) error {
	q, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return Invalid("the query cannot be read: %w", err)
	}
	for name := range q {
		if !slices.Contains(known, name) {
			return Invalid("parameter %.40q is not understood here", name)
		}
	}
	return nil
}

// Body reads one JSON value in which unknown names are refused.
func Body(r *http.Request, v any) error { return body(r, v, true) }

// Foreign reads one JSON value of somebody else's format: names that we do not know are passed over.
func Foreign(r *http.Request, v any) error { return body(r, v, false) }

func body(r *http.Request, v any, strict bool) error {
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return Invalid("the body: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	if strict {
		dec.DisallowUnknownFields()
	}
	if err := dec.Decode(v); err != nil {
		return Invalid("the body is not what is asked for: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return Invalid("the body has more than one value")
	}
	return nil
}

// List is the values of a parameter that may be given more than once, and have commas.
func List(values []string) (out []string) {
	for _, v := range values {
		for s := range strings.SplitSeq(v, ",") {
			if s = strings.TrimSpace(s); s != "" {
				out = append(out, s)
			}
		}
	}
	return out
}

// Since reads a parameter that is a time, or how long ago it was; "" is the zero time.
func Since(name, s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return time.Time{}, Invalid("%s=%.40q: it must be a time as 24h or 2026-11-02T15:04:05Z", name, s)
	}
	return t, nil
}

// Number reads a parameter that is a number from low to high; "" is none.
func Number(name, s string, none, low, high int) (int, error) {
	if s == "" {
		return none, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < low || n > high {
		return 0, Invalid("%s=%.40q: it must be a number from %d to %d", name, s, low, high)
	}
	return n, nil
}
