package optimize

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/quantra-l/quantra/internal/jsonapi"
)

// PatchAsk asks for a change of the kind [Patch]: the fix of a finding in a report.
type PatchAsk struct {
	Service string `json:"service"`
	// Repository and Base are where its source is; "" is where the policy has it, and another is refused.
	Repository string `json:"repository,omitempty"`
	Base       string `json:"base,omitempty"`
	// Report is a SARIF log whose files are called as in the repository; one finding and one fix are taken, from 1. With 0 the rule decides, or that there is one
	// only.
	Report json.RawMessage `json:"report"`
	Result int             `json:"result,omitempty"`
	Rule   string          `json:"rule,omitempty"`
	Fix    int             `json:"fix,omitempty"`
	// DryRun keeps nothing: the answer is what would be proposed.
	DryRun bool   `json:"dry_run,omitempty"`
	By     string `json:"by"`
}

// patchTime bounds the making of a proposal, with what is read of repositories and profiles.
const patchTime = 50 * time.Second

func (r *Runner) askPatch(q *http.Request, tenant string) (any, error) {
	var a PatchAsk
	if err := jsonapi.Body(q, &a); err != nil {
		return nil, err
	}
	if a.By = r.by(q, a.By); r.run.Patch == nil {
		return nil, jsonapi.Invalid("this server patches no source")
	}
	if mode := r.o.Policy().For(Patch, a.Service).Mode; mode == Off { // nothing is read for what is not wanted
		return nil, fmt.Errorf("optimize: %w: the policy has changes of the kind %s of %.200s off", ErrState, Patch, a.Service)
	}
	ctx, cancel := context.WithTimeout(q.Context(), patchTime)
	defer cancel()
	p, err := r.run.Patch(ctx, tenant, a)
	switch {
	case errors.Is(err, ErrInvalid), errors.Is(err, ErrState):
		return nil, err
	case err != nil:
		r.o.Logger.Warn("a patch cannot be proposed", "service", a.Service, "err", err)
		return nil, &jsonapi.Fault{Status: http.StatusServiceUnavailable, Code: "unavailable", Text: err.Error()}
	}
	if p.Price == nil {
		p.Price = r.o.Price(p.Service, p.saving())
	}
	if a.DryRun {
		return map[string]any{"proposal": p, "id": p.ID()}, r.check(&p, a.By)
	}
	c, err := r.Submit(q.Context(), tenant, p, a.By)
	if err != nil {
		return nil, err
	}
	r.o.Policy().mark(&c)
	r.look()
	return map[string]any{"change": c}, nil
}
