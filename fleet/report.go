package fleet

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"
)

// The bounds on what an agent says of itself, in bytes. Those of labels are those of profiles' labels.
const (
	maxPoll       = 256 << 10
	maxStatus     = 64 << 10
	maxName       = 2048 // service, instance, version, region, a label's value
	maxWord       = 256  // what the agent, its Go and its system are called
	maxLabels     = 30
	maxLabelName  = 128
	maxLeaseID    = 64
	maxLeaseError = 1024 // a longer one is cut: it is for people
)

// reportCost is what an agent costs beside the text of its report: a guess, on the high side.
const reportCost = 1024

// decodeReport reads a poll's body.
func decodeReport(body []byte) (Report, error) {
	r := Report{Optimizer: true} // an agent that does not say so has no switch
	if err := decodeJSON(body, &r, false); err != nil {
		return Report{}, refusal(http.StatusBadRequest, "json", "the body is not the JSON it must be: %v", err)
	}
	if r.Service == "" || r.Instance == "" {
		return Report{}, refusal(http.StatusBadRequest, "agent", "service and instance must both be named")
	}
	for _, s := range []struct {
		name, value string
		limit       int
	}{
		{"service", r.Service, maxName}, {"instance", r.Instance, maxName}, {"version", r.Version, maxName}, {"region", r.Region, maxName},
		{"agent", r.Agent, maxWord}, {"go", r.Go, maxWord}, {"os", r.OS, maxWord}, {"lease", r.Lease, maxLeaseID}, {"status", string(r.Status), maxStatus},
	} {
		if len(s.value) > s.limit {
			return Report{}, refusal(http.StatusBadRequest, "agent", "%s has %d bytes, the limit is %d", s.name, len(s.value), s.limit)
		}
	}
	if len(r.Labels) > maxLabels {
		return Report{}, refusal(http.StatusBadRequest, "agent", "%d labels are too many, the limit is %d", len(r.Labels), maxLabels)
	}
	for k, v := range r.Labels {
		if len(k) > maxLabelName || len(v) > maxName {
			return Report{}, refusal(http.StatusBadRequest, "agent", "label %.40q has %d and %d bytes of name and value, the limits are %d and %d", k, len(k), len(v), maxLabelName, maxName)
		}
	}
	if len(r.LeaseError) > maxLeaseError {
		cut := r.LeaseError[:maxLeaseError]
		for !utf8.ValidString(cut) { // what JSON decodes is valid: at most three bytes go
			cut = cut[:len(cut)-1]
		}
		r.LeaseError = strings.Clone(cut)
	}
	if string(r.Status) == "null" {
		r.Status = nil
	}
	return r, nil
}

// size is about what r holds in memory.
func (r *Report) size() int64 {
	n := reportCost + len(r.Service) + len(r.Instance) + len(r.Version) + len(r.Region) + len(r.Agent) + len(r.Go) + len(r.OS) + len(r.Lease) + len(r.LeaseError) + len(r.Status)
	for k, v := range r.Labels {
		n += len(k) + len(v) + 64
	}
	return int64(n)
}

// decodeJSON reads one JSON object into v. Its error says where. strict refuses names that v does not have.
func decodeJSON(b []byte, v any, strict bool) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	if strict {
		dec.DisallowUnknownFields()
	}
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch err := dec.Decode(v); {
	case len(bytes.TrimSpace(b)) == 0:
		return errors.New("it is empty")
	case errors.As(err, &syntax):
		return fmt.Errorf("at byte %d: %w", syntax.Offset, err)
	case errors.As(err, &kind) && kind.Field != "":
		return fmt.Errorf("at byte %d: %s cannot be a %s", kind.Offset, kind.Field, kind.Value)
	case errors.As(err, &kind):
		return fmt.Errorf("at byte %d: it must be an object, not a %s", kind.Offset, kind.Value)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("at byte %d: it ends before the object does", len(b))
	case err != nil:
		return fmt.Errorf("at byte %d: %w", dec.InputOffset(), err)
	}
	if rest := bytes.TrimSpace(b[dec.InputOffset():]); len(rest) > 0 {
		return fmt.Errorf("at byte %d: something follows the object", int64(len(b)-len(rest)))
	}
	if t := bytes.TrimSpace(b); t[0] != '{' { // null
		return errors.New("at byte 0: it must be an object")
	}
	return nil
}

// process tells one run of a program from the next under the same name.
type process struct {
	pid     int64
	started time.Time
}

func (r *Report) process() process { return process{r.PID, r.Started.UTC()} }
