package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/quantra-l/quantra/ingest/otlp"
	"github.com/quantra-l/quantra/profile"
)

const (
	otlpPath      = "/v1development/profiles"
	otlpProcedure = "/opentelemetry.proto.collector.profiles.v1development.ProfilesService/Export"
)

// otlpCost is what a request of OpenTelemetry's takes when it is decoded, for each byte: columns, and the profiles' own encoding.
const otlpCost = 8

// attributesLeftOut are of a resource, and no label: texts for people, different with every start of a process, or about the sender.
var attributesLeftOut = map[string]bool{
	"process.command": true, "process.command_args": true, "process.command_line": true, "process.runtime.description": true,
	"process.executable.path": true, "os.description": true, "host.cpu.model.name": true,
	"telemetry.sdk.name": true, "telemetry.sdk.version": true, "telemetry.distro.name": true, "telemetry.distro.version": true,
}

// receiveOTLP reads a request of OpenTelemetry's. What is wrong with one profile is told of that one.
func (in *Ingest) receiveOTLP(ctx context.Context, h *hold, m message) (batch, error) {
	b := batch{partial: true}
	cost, decode := int64(otlpCost), otlp.Decode
	if m.json {
		cost, decode = otlpCost+jsonCost, otlp.DecodeJSON
	}
	if err := h.grow(cost * int64(len(m.b))); err != nil {
		return b, err
	}
	done, err := in.decoding(ctx)
	if err != nil {
		return b, err
	}
	profiles, rejected, err := decode(m.b, in.opt.Limits)
	done()
	if errors.Is(err, otlp.ErrVersion) {
		return b, otlpVersion(err)
	}
	if err != nil {
		return b, err
	}
	for _, r := range rejected {
		if errors.Is(r, otlp.ErrVersion) {
			b.left = append(b.left, otlpVersion(r))
			continue
		}
		b.left = append(b.left, r)
	}
	for i := range profiles {
		p, err := in.otlpPush(h, &profiles[i])
		if err != nil && !forGood(err) {
			return b, err
		}
		if err != nil {
			b.left = append(b.left, err)
			continue
		}
		b.pushes = append(b.pushes, p)
	}
	if len(b.pushes) == 0 && len(b.left) > 0 {
		return b, b.left[0]
	}
	return b, nil
}

func otlpVersion(err error) error {
	return faultf(http.StatusBadRequest, "version", "%v; update the sender, or put a collector that speaks one of them between", err)
}

// otlpPush is one profile in our model.
func (in *Ingest) otlpPush(h *hold, q *otlp.Profile) (p Push, err error) {
	var pairs []profile.Label
	have := map[string]bool{profile.LabelService: true}
	for _, attrs := range [][]otlp.Attr{q.Resource, q.Attrs} {
		for _, a := range attrs {
			name := profile.LabelName(a.Key)
			if !have[name] && !attributesLeftOut[a.Key] && !strings.HasPrefix(name, "__") {
				have[name] = true
				pairs = append(pairs, profile.Label{Name: name, Value: a.Value})
			}
		}
	}
	if _, p.Labels, err = modelLabels(append(pairs, profile.Label{Name: profile.LabelService, Value: q.Service})); err != nil {
		return p, err
	}
	p.Profile = q.Profile
	toModel(p.Profile)
	p.Name = profile.NameOf(p.Profile)
	if p.From, p.To, err = in.window(p.From, p.To, p.Profile); err != nil {
		return p, err
	}
	return p, encoded(h, &p)
}

// otlpResponse is ExportProfilesServiceResponse: empty, or how many profiles were left out and why.
func otlpResponse(b batch, asJSON bool) []byte {
	if len(b.left) == 0 {
		return answerEmpty(b, asJSON)
	}
	text := b.left[0].Error()
	if len(b.left) > 1 {
		text = fmt.Sprintf("%s; and %d more", text, len(b.left)-1)
	}
	if asJSON {
		type partial struct {
			Rejected string `json:"rejectedProfiles"` // 64 bits are text
			Message  string `json:"errorMessage"`
		}
		out, err := json.Marshal(struct {
			Partial partial `json:"partialSuccess"`
		}{partial{strconv.Itoa(len(b.left)), text}})
		if err != nil { // cannot be: it is two texts
			return answerEmpty(b, asJSON)
		}
		return out
	}
	partial := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(len(b.left)))
	partial = protowire.AppendString(protowire.AppendTag(partial, 2, protowire.BytesType), text)
	return protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), partial)
}

// otlpHTTP is the route of OpenTelemetry's protocol over HTTP: answers are in the content type of the request, and faults are google.rpc.Status.
func (in *Ingest) otlpHTTP() http.Handler {
	isJSON := func(r *http.Request) bool {
		kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		return err == nil && kind == "application/json"
	}
	receive := func(r *http.Request, h *hold) (batch, error) {
		if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/x-protobuf" && kind != "application/json" {
			return batch{}, faultf(http.StatusUnsupportedMediaType, "content_type", "Content-Type %.60q is not understood: send application/x-protobuf or application/json", r.Header.Get("Content-Type"))
		}
		enc, err := encodingOf(r.Header.Get("Content-Encoding"))
		if err != nil {
			return batch{}, err
		}
		b, err := in.arrive(r, h)
		if err != nil {
			return batch{}, err
		}
		if enc != "" && len(b) > 0 {
			if b, err = undo(h, enc, b, in.opt.Limits.Decoded, false); err != nil {
				return batch{}, err
			}
		}
		return in.receiveOTLP(r.Context(), h, message{b: b, json: isJSON(r)})
	}
	answer := func(w http.ResponseWriter, r *http.Request, status int, body []byte) {
		kind := "application/x-protobuf"
		if isJSON(r) {
			kind = "application/json"
		}
		w.Header().Set("Content-Type", kind)
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.WriteHeader(status)
		w.Write(body) // an error means that the sender is gone
	}
	return in.routeWith("otlp", http.MethodPost, receive, func(w http.ResponseWriter, r *http.Request, b batch) {
		answer(w, r, http.StatusOK, otlpResponse(b, isJSON(r)))
	}, func(w http.ResponseWriter, r *http.Request, f *fault) {
		if f.retry > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(f.retry.Seconds())))
		}
		status := f.status
		if status == http.StatusUnprocessableEntity { // what the protocol has for data that will never do
			status = http.StatusBadRequest
		}
		if !isJSON(r) {
			body := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(f.connect().Code()))
			answer(w, r, status, protowire.AppendString(protowire.AppendTag(body, 2, protowire.BytesType), f.text))
			return
		}
		body, err := json.Marshal(struct {
			Code    int    `json:"code"`
			Message string `json:"message"`
		}{int(f.connect().Code()), f.text})
		if err != nil { // cannot be: it is a number and a text
			body = []byte("{}")
		}
		answer(w, r, status, body)
	})
}
