package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/quantra-l/quantra/profile"
)

// fault is an error that knows what its sender is told.
type fault struct {
	status int
	code   string        // for programs: never changes; docs/format/push.md lists them
	text   string        // for people: what, where, and what to do
	retry  time.Duration // of Retry-After; 0 is none
}

func (f *fault) Error() string { return f.text }

func faultf(status int, code, format string, args ...any) *fault {
	return &fault{status: status, code: code, text: fmt.Sprintf(format, args...)}
}

// busy is a refusal for now.
func busy(format string, args ...any) *fault {
	return &fault{http.StatusTooManyRequests, "overloaded", fmt.Sprintf(format, args...) + "; send it again after a second", time.Second}
}

// faultOf finds the answer to err.
func (in *Ingest) faultOf(ctx context.Context, err error) *fault {
	var f *fault
	var sig *SignatureError
	var tooLong *http.MaxBytesError
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &sig):
		return &fault{sig.Status, sig.Code, sig.Text, sig.RetryAfter}
	case errors.As(err, &tooLong):
		return faultf(http.StatusRequestEntityTooLarge, "too_large", "the body is larger than %d bytes, the limit of one upload; send shorter windows", tooLong.Limit)
	case errors.Is(err, profile.ErrTooLarge):
		return faultf(http.StatusRequestEntityTooLarge, "too_large", "%v; send shorter windows", err)
	case errors.Is(err, profile.ErrCorrupt):
		return faultf(http.StatusBadRequest, "corrupt_profile", "the body is not a profile that is understood: %v; send pprof, or another format of docs/format/push.md", err)
	case errors.Is(err, ErrInvalid):
		return faultf(http.StatusUnprocessableEntity, "invalid", "%v", err)
	case errors.Is(err, ErrDenied):
		return faultf(http.StatusForbidden, "denied", "%v", err)
	case errors.Is(err, ErrOverloaded):
		return busy("%v", err)
	case errors.Is(err, ErrUnavailable):
		return &fault{http.StatusServiceUnavailable, "unavailable", err.Error() + "; send it again later", 5 * time.Second}
	case errors.Is(err, os.ErrDeadlineExceeded): // of the connection; the server cancels the request with it
		return faultf(http.StatusRequestTimeout, "timeout", "the body did not arrive within %v; send it again", in.opt.Timeout)
	case errors.Is(ctx.Err(), context.Canceled), errors.Is(err, io.ErrUnexpectedEOF):
		return faultf(http.StatusBadRequest, "cut_short", "the connection ended before the body did; send it again")
	case errors.Is(err, context.DeadlineExceeded):
		return &fault{http.StatusServiceUnavailable, "unavailable", "the profile could not be kept in time; send it again later", 5 * time.Second}
	}
	return faultf(http.StatusInternalServerError, "internal", "a fault of the server's, which is in its log; the profile was not kept")
}

func (f *fault) reply(w http.ResponseWriter) {
	if f.retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(f.retry.Seconds())))
	}
	replyJSON(w, f.status, struct {
		Error string `json:"error"`
		Code  string `json:"code"`
	}{f.text, f.code})
}

// replyKept says what was understood, for who sends by hand. Pyroscope's
// clients look at the status alone.
func replyKept(w http.ResponseWriter, _ *http.Request, b batch) {
	var types []string
	var from, until time.Time
	service, samples := "", 0
	for i := range b.pushes {
		p := &b.pushes[i]
		for _, t := range p.Profile.SampleTypes {
			types = append(types, profile.Type{Name: p.Name, Sample: t, Period: p.Profile.PeriodType}.String())
		}
		if i == 0 || p.From.Before(from) {
			from = p.From
		}
		if p.To.After(until) {
			until = p.To
		}
		service, samples = p.Labels.Get(profile.LabelService), samples+p.Profile.NumSamples()
	}
	replyJSON(w, http.StatusOK, struct {
		Service string    `json:"service"`
		Types   []string  `json:"profile_types"`
		From    time.Time `json:"from"`
		Until   time.Time `json:"until"`
		Samples int       `json:"samples"`
	}{service, types, from.UTC(), until.UTC(), samples})
}

func replyJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil { // cannot be: v is made of texts and numbers
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	w.Write(append(b, '\n')) // an error means that the sender is gone, and has its own
}
