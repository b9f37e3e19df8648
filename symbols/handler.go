package symbols

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"github.com/quantra-l/quantra/internal/jsonapi"
)

// Path is where tables are sent to and asked for: POST the bytes of one, GET what there is.
const Path = "/api/v1/symbols"

// maxUpload bounds what is sent, packed: a table of the largest size that does not pack well.
const maxUpload = 32 << 20

// Handler answers over HTTP. tenant is whose symbols a request is about.
func (s *Store) Handler(tenant func(*http.Request) (string, error), log *slog.Logger) http.Handler {
	door := &jsonapi.Door{Tenant: tenant, Logger: log, MaxBody: maxUpload, Fault: func(err error) *jsonapi.Fault {
		switch {
		case errors.Is(err, ErrTooLarge):
			return &jsonapi.Fault{Status: http.StatusRequestEntityTooLarge, Code: "invalid_argument", Text: err.Error()}
		case errors.Is(err, ErrCorrupt):
			return jsonapi.Invalid("%w", err)
		case errors.Is(err, ErrFull):
			return &jsonapi.Fault{Status: http.StatusConflict, Code: "failed_precondition", Text: err.Error()}
		}
		return &jsonapi.Fault{Status: http.StatusServiceUnavailable, Code: "unavailable", Text: "the bucket of symbols does not answer now: " + err.Error()}
	}}
	mux := http.NewServeMux()
	door.Handle(mux, "GET "+Path, nil, func(r *http.Request, tenant string) (any, error) {
		list, err := s.List(r.Context(), tenant)
		return map[string][]Info{"symbols": append([]Info{}, list...)}, err
	})
	door.Handle(mux, "POST "+Path, nil, func(r *http.Request, tenant string) (any, error) {
		b, err := io.ReadAll(r.Body)
		var long *http.MaxBytesError
		switch {
		case errors.As(err, &long):
			return nil, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, maxUpload)
		case err != nil:
			return nil, jsonapi.Invalid("the body cannot be read: %w", err)
		}
		return s.Put(r.Context(), tenant, b)
	})
	door.Else(mux)
	return mux
}
