package zerotrust

import (
	"errors"
	"io"
	"log/slog"
	"net/http"

	"github.com/quantra-l/quantra/internal/jsonapi"
)

// APIPath is under what [Guard.Handler] answers.
const APIPath = "/api/guard"

// Handler answers those who run the guard: its status, its connections, the end of one, and lists of revocations. Who may ask is to be
// decided before it.
//
//	GET  /api/guard/status
//	GET  /api/guard/connections
//	POST /api/guard/connections/{id}/terminate   {"reason": "..."}
//	POST /api/guard/revocations                  a signed list, as its bytes
func (g *Guard) Handler(log *slog.Logger) http.Handler {
	door := &jsonapi.Door{Tenant: func(*http.Request) (string, error) { return "", nil }, Fault: fault, Logger: log, MaxBody: MaxRevocationList}
	mux := http.NewServeMux()
	door.Handle(mux, "GET "+APIPath+"/status", nil, func(*http.Request, string) (any, error) { return g.Status(), nil })
	door.Handle(mux, "GET "+APIPath+"/connections", nil, func(*http.Request, string) (any, error) {
		return map[string]any{"connections": g.Connections()}, nil
	})
	door.Handle(mux, "POST "+APIPath+"/connections/{id}/terminate", nil, func(r *http.Request, _ string) (any, error) {
		var why struct {
			Reason string `json:"reason"`
		}
		if err := jsonapi.Body(r, &why); err != nil {
			return nil, err
		}
		if len(why.Reason) > maxReason {
			return nil, jsonapi.Invalid("a reason has at most %d bytes", maxReason)
		}
		if why.Reason == "" {
			why.Reason = "by hand"
		}
		if id := r.PathValue("id"); !g.Terminate(id, why.Reason) {
			return nil, &jsonapi.Fault{Status: http.StatusNotFound, Code: "not_found", Text: "there is no such connection"}
		}
		return map[string]bool{"terminated": true}, nil
	})
	door.Handle(mux, "POST "+APIPath+"/revocations", nil, func(r *http.Request, _ string) (any, error) {
		raw, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, jsonapi.Invalid("the body: %w", err)
		}
		if err := g.Revoke(raw); err != nil {
			return nil, err
		}
		return g.Status(), nil
	})
	door.Else(mux)
	return mux
}

// fault is what an error of the guard's means to the asker.
func fault(err error) *jsonapi.Fault {
	switch {
	case errors.Is(err, ErrCorrupt):
		return &jsonapi.Fault{Status: http.StatusBadRequest, Code: "invalid_argument", Text: err.Error()}
	case errors.Is(err, ErrDenied):
		return &jsonapi.Fault{Status: http.StatusForbidden, Code: "permission_denied", Text: err.Error()}
	case errors.Is(err, ErrUnavailable):
		return &jsonapi.Fault{Status: http.StatusServiceUnavailable, Code: "unavailable", Text: err.Error()}
	}
	return nil
}
