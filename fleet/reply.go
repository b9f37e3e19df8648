package fleet

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

// Refusal is an error that says how the asker is answered. Authorize and Verify may return one.
type Refusal struct {
	Status     int
	Code       string        // for programs; docs/format/agents.md and signature.md list them
	Text       string        // for people: what, where, and what to do
	RetryAfter time.Duration // 0 is none
}

func (r *Refusal) Error() string { return r.Text }

func refusal(status int, code, format string, args ...any) *Refusal {
	return &Refusal{Status: status, Code: code, Text: fmt.Sprintf(format, args...)}
}

// words is how each word of an error is answered.
var words = []struct {
	err    error
	status int
	code   string
	retry  time.Duration
}{
	{ErrInvalid, http.StatusBadRequest, "invalid_argument", 0},
	{ErrNotFound, http.StatusNotFound, "not_found", 0},
	{ErrRefused, http.StatusConflict, "refused", 0},
	{ErrFailed, http.StatusBadGateway, "failed", 0},
	{ErrTimeout, http.StatusGatewayTimeout, "deadline_exceeded", 0},
	{ErrUnavailable, http.StatusServiceUnavailable, "unavailable", 5 * time.Second},
}

// refusalOf finds the answer to err. overloaded is the code for that: agents and readers have different ones.
func (f *Fleet) refusalOf(r *http.Request, err error, overloaded string) *Refusal {
	var ref *Refusal
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &ref):
		return ref
	case errors.Is(err, ErrOverloaded):
		return &Refusal{http.StatusTooManyRequests, overloaded, err.Error(), 5 * time.Second}
	case errors.As(err, &tooLong):
		return refusal(http.StatusRequestEntityTooLarge, "too_large", "the body is larger than %d bytes", tooLong.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return refusal(http.StatusRequestTimeout, "timeout", "the body did not arrive within %v; send it again", f.opt.ReadTimeout)
	}
	for _, w := range words {
		if errors.Is(err, w.err) {
			return &Refusal{w.status, w.code, err.Error(), w.retry}
		}
	}
	if r.Context().Err() != nil || errors.Is(err, io.ErrUnexpectedEOF) {
		return refusal(http.StatusBadRequest, "cut_short", "the connection ended before the request did; send it again")
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return refusal(http.StatusGatewayTimeout, "deadline_exceeded", "%v", err)
	}
	f.opt.Logger.Error("fleet: a request was not answered", "path", r.URL.Path, "err", err)
	return refusal(http.StatusInternalServerError, "internal", "a fault of the server's, which is in its log")
}

// reply answers an agent.
func (r *Refusal) reply(w http.ResponseWriter) {
	r.retryAfter(w)
	replyJSON(w, r.Status, map[string]string{"error": r.Text, "code": r.Code})
}

// replyReader answers a reader, in the form of docs/api.md.
func (r *Refusal) replyReader(w http.ResponseWriter) {
	r.retryAfter(w)
	replyJSON(w, r.Status, map[string]string{"code": r.Code, "message": r.Text})
}

func (r *Refusal) retryAfter(w http.ResponseWriter) {
	if r.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(max(1, int(r.RetryAfter.Seconds()))))
	}
}

func replyJSON(w http.ResponseWriter, status int, v any) {
	b, checked := v.(json.RawMessage) // an agent's snapshot may be large, and need not be copied
	var err error
	if !checked {
		b, err = json.Marshal(v)
	}
	if err != nil { // of a summary, or of a status that was checked when it came
		status, b = http.StatusInternalServerError, []byte(`{"code":"internal","message":"the answer cannot be written as JSON"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(append(b, '\n')) // an error means that the asker is gone
}

// DefaultTenant is whose agents those are that name no tenant, as in the store.
const DefaultTenant = "default"

// maxTenant and the characters are those of ingest.
const maxTenant = 150

func tenantOf(r *http.Request) (string, error) {
	t := r.Header.Get("X-Scope-OrgID")
	if len(t) > maxTenant || t == "." || t == ".." {
		return "", refusal(http.StatusBadRequest, "tenant", "X-Scope-OrgID is not a tenant's name: 1 to %d characters, and not . or ..", maxTenant)
	}
	for i, c := range []byte(t) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case c == '!' || c == '-' || c == '_' || c == '.' || c == '*' || c == '\'' || c == '(' || c == ')':
		default:
			return "", refusal(http.StatusBadRequest, "tenant", "X-Scope-OrgID: character %q at %d; letters, digits and !-_.*'() are allowed", c, i)
		}
	}
	return cmp.Or(t, DefaultTenant), nil
}

// worded is an error with a word to branch on, which its text does not repeat.
type worded struct {
	error
	word error
}

func (w *worded) Unwrap() []error { return []error{w.error, w.word} }

func errorf(word error, format string, args ...any) error {
	return &worded{fmt.Errorf(format, args...), word}
}
