package ingest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/quantra-l/quantra/ingest/gcp"
	"github.com/quantra-l/quantra/profile"
)

// Google Cloud Profiler's agents, in gRPC, and in the JSON that Google's HTTP rules make of it (google/api/annotations of profiler.proto).
const cloudProcedures = "/google.devtools.cloudprofiler.v2.ProfilerService/"

// cloudAskBytes bounds a request for work: names and labels.
const cloudAskBytes = 64 << 10

func (in *Ingest) registerCloud(mux *http.ServeMux) {
	reply := func(b batch, _ bool) []byte { return b.reply }
	for method, receive := range map[string]rpcReceiver{
		"CreateProfile":        in.receiveCloudAsk,
		"UpdateProfile":        in.receiveCloud(false),
		"CreateOfflineProfile": in.receiveCloud(true),
	} {
		mux.Handle(cloudProcedures+method, in.rpc(cloudRoute(method), cloudProcedures+method, receive, reply))
	}
	rest := func(pattern, method string, receive rpcReceiver, route string) {
		mux.Handle(pattern, in.routeWith(cloudRoute(route), method, in.cloudJSON(receive), func(w http.ResponseWriter, _ *http.Request, b batch) {
			w.Header().Set("Content-Type", "application/json")
			w.Write(b.reply) // an error means that the sender is gone
		}, replyGoogle))
	}
	mux.HandleFunc("GET /$discovery/rest", discovery)
	rest("/v2/projects/{project}/profiles", http.MethodPost, in.receiveCloudAsk, "CreateProfile")
	rest("/v2/projects/{project}/profiles:createOffline", http.MethodPost, in.receiveCloud(true), "CreateOfflineProfile")
	rest("/v2/projects/{project}/profiles/{id}", http.MethodPatch, in.receiveCloud(false), "UpdateProfile")
}

// discovery answers Google's client library for Python, which asks a server for its paths: the agent's only way to be told another address is
// that of this document (developers.google.com/discovery/v1/reference/apis).
func discovery(w http.ResponseWriter, r *http.Request) {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	type parameter struct {
		Location string `json:"location"`
		Type     string `json:"type"`
		Required bool   `json:"required"`
		Pattern  string `json:"pattern,omitempty"`
	}
	type ref struct {
		Ref string `json:"$ref"`
	}
	type method struct {
		ID         string               `json:"id"`
		Method     string               `json:"httpMethod"`
		Path       string               `json:"path"`
		Parameters map[string]parameter `json:"parameters"`
		Order      []string             `json:"parameterOrder"`
		Request    *ref                 `json:"request,omitempty"` // nil is no body
		Response   ref                  `json:"response"`
	}
	of := func(name, verb, path, param, pattern, request string) method {
		return method{"cloudprofiler.projects.profiles." + name, verb, path, map[string]parameter{param: {"path", "string", true, pattern}},
			[]string{param}, &ref{request}, ref{"Profile"}}
	}
	object := map[string]string{"type": "object"}
	const parent, named = `^projects/[^/]+$`, `^projects/[^/]+/profiles/[^/]+$`
	list := of("list", http.MethodGet, "v2/{+parent}/profiles", "parent", parent, "")
	list.Request, list.Response = nil, ref{"ListProfilesResponse"}
	list.Parameters["pageSize"], list.Parameters["pageToken"] = parameter{Location: "query", Type: "integer"}, parameter{Location: "query", Type: "string"}
	base := scheme + "://" + r.Host + "/"
	replyJSON(w, http.StatusOK, map[string]any{
		"kind": "discovery#restDescription", "id": "cloudprofiler:v2", "name": "cloudprofiler", "version": "v2", "protocol": "rest",
		"rootUrl": base, "servicePath": "", "baseUrl": base, "batchPath": "batch",
		"schemas": map[string]any{"Profile": object, "CreateProfileRequest": object, "ListProfilesResponse": object},
		"resources": map[string]any{"projects": map[string]any{"resources": map[string]any{"profiles": map[string]any{"methods": map[string]method{
			"list":          list,
			"create":        of("create", http.MethodPost, "v2/{+parent}/profiles", "parent", parent, "CreateProfileRequest"),
			"createOffline": of("createOffline", http.MethodPost, "v2/{+parent}/profiles:createOffline", "parent", parent, "Profile"),
			"patch":         of("patch", http.MethodPatch, "v2/{+name}", "name", named, "Profile"),
		}}}}},
	})
}

// cloudRoute is the metrics' route: a call that hangs is not among uploads.
func cloudRoute(method string) string {
	if method == "CreateProfile" {
		return "cloudprofiler_ask"
	}
	return "cloudprofiler"
}

type cloudPathKey struct{}

// cloudJSON is the receiver of a JSON body whose names are in the path.
func (in *Ingest) cloudJSON(receive rpcReceiver) receiver {
	return func(r *http.Request, h *hold) (batch, error) {
		b, err := in.body(r, h, true)
		if err != nil {
			return batch{}, err
		}
		name := "projects/" + r.PathValue("project")
		if id := r.PathValue("id"); id != "" {
			name += "/profiles/" + id
		}
		return receive(context.WithValue(r.Context(), cloudPathKey{}, name), h, message{b: b, json: true})
	}
}

// receiveCloudAsk tells an agent what to profile, when it is its turn. While it waits it is no request at work and holds no memory to speak of.
func (in *Ingest) receiveCloudAsk(ctx context.Context, h *hold, m message) (b batch, err error) {
	if len(m.b) > cloudAskBytes {
		return b, faultf(http.StatusRequestEntityTooLarge, "too_large", "a request for what to profile has %d bytes, the limit is %d", len(m.b), cloudAskBytes)
	}
	c, err := gcp.ReadCreate(m.b, m.json)
	if err != nil {
		return b, err
	}
	if name, ok := ctx.Value(cloudPathKey{}).(string); ok {
		c.Parent = name
	}
	h.release()
	if h.leave != nil {
		h.leave()
	}
	q, err := in.pacer.Next(ctx, h.tenant, c)
	var later *gcp.Later
	switch {
	case errors.As(err, &later):
		f := faultf(http.StatusConflict, "no_work", "%v", later)
		f.retry = later.After
		return b, f
	case errors.Is(err, context.DeadlineExceeded):
		f := faultf(http.StatusConflict, "no_work", "there was nothing to profile; ask again in a second")
		f.retry = time.Second
		return b, f
	case err != nil:
		return b, err
	}
	b.reply, err = q.Append(nil, m.json)
	return b, err
}

// receiveCloud reads a profile that was asked for, or one that its sender took by itself.
func (in *Ingest) receiveCloud(offline bool) rpcReceiver {
	return func(ctx context.Context, h *hold, m message) (b batch, err error) {
		cost := int64(1)
		if m.json {
			cost = 3 // base64 as text, as bytes, and the reader's copy: other fields are few and short
		}
		if err := h.grow(cost * int64(len(m.b))); err != nil {
			return b, err
		}
		q, err := gcp.ReadProfile(m.b, m.json, offline)
		if err != nil {
			return b, err
		}
		if name, ok := ctx.Value(cloudPathKey{}).(string); ok && !offline {
			q.Name = name
		}
		switch {
		case !offline:
			err = in.pacer.Came(h.tenant, &q)
		case q.Deployment.Target == "":
			err = faultf(http.StatusBadRequest, "service", "profile.deployment.target is empty: it is the service's name")
		}
		if errors.Is(err, gcp.ErrNotAsked) {
			return b, faultf(http.StatusNotFound, "not_asked", "%v; ask for the next one with CreateProfile", err)
		}
		if err != nil {
			return b, err
		}
		p, err := in.cloudPush(ctx, h, &q)
		if err != nil {
			return b, err
		}
		b.pushes = []Push{p}
		b.done = func() { in.pacer.Done(q.Name) }
		b.reply, err = q.Append(nil, m.json)
		return b, err
	}
}

// cloudLabels are the protocol's labels in OpenTelemetry's words.
var cloudLabels = map[string]string{
	"version": "service_version", "zone": "cloud_availability_zone", "instance": "service_instance_id", "language": "process_runtime_name",
}

// cloudPush is a profile in our model.
func (in *Ingest) cloudPush(ctx context.Context, h *hold, q *gcp.Profile) (p Push, err error) {
	pairs := []profile.Label{{Name: profile.LabelService, Value: q.Deployment.Target}}
	if q.Deployment.Project != "" {
		pairs = append(pairs, profile.Label{Name: "cloud_account_id", Value: q.Deployment.Project})
	}
	have := map[string]bool{profile.LabelService: true, "cloud_account_id": true}
	for _, of := range []map[string]string{q.Labels, q.Deployment.Labels} {
		for k, v := range of {
			if name := cmp.Or(cloudLabels[k], profile.LabelName(k)); !have[name] && v != "" {
				have[name] = true
				pairs = append(pairs, profile.Label{Name: name, Value: v})
			}
		}
	}
	if _, p.Labels, err = modelLabels(pairs); err != nil {
		return p, err
	}
	if len(q.Bytes) == 0 {
		return p, faultf(http.StatusBadRequest, "empty", "profile.profile_bytes is empty: send the bytes of a pprof profile")
	}
	p.Pprof = q.Bytes
	if p.Profile, err = in.decode(ctx, h, q.Bytes); err != nil {
		return p, err
	}
	if err := modelled(h, &p); err != nil {
		return p, err
	}
	switch p.Name = profile.NameOf(p.Profile); {
	case q.Kind == gcp.Wall:
		p.Name = "wall"
	case q.Kind == gcp.Contention && p.Name == "contention":
		p.Name = "mutex"
	}
	var from, until time.Time
	if !q.Start.IsZero() {
		from, until = q.Start, q.Start.Add(max(q.Duration, moment))
	} else if p.Profile.TimeNanos <= 0 {
		until = in.opt.Now()
		from = until.Add(-max(q.Duration, moment))
	}
	p.From, p.To, err = in.window(from, until, p.Profile)
	return p, err
}

// replyGoogle is a fault as Google's APIs have it in JSON (google.rpc.Status, in "error").
func replyGoogle(w http.ResponseWriter, _ *http.Request, f *fault) {
	e := f.connect()
	type detail map[string]json.RawMessage
	var details []detail
	for _, d := range e.Details() {
		v, err := d.Value()
		if err != nil { // cannot be: it is of a type that is linked in
			continue
		}
		var one detail
		if b, err := protojson.Marshal(v); err == nil && json.Unmarshal(b, &one) == nil {
			one["@type"], _ = json.Marshal("type.googleapis.com/" + string(proto.MessageName(v)))
			details = append(details, one)
		}
	}
	for k, v := range e.Meta() {
		if k == "Retry-After" {
			w.Header()[k] = v
		}
	}
	type status struct {
		Code    int      `json:"code"`
		Message string   `json:"message"`
		Status  string   `json:"status"`
		Details []detail `json:"details,omitempty"`
	}
	code := f.status
	if code == http.StatusUnprocessableEntity { // what Google's codes have for it
		code = http.StatusBadRequest
	}
	replyJSON(w, code, struct {
		Error status `json:"error"`
	}{status{code, f.text, googleStatus(e.Code()), details}})
}

// googleStatus is a code's name in google.rpc.Code: "not_found" is NOT_FOUND.
func googleStatus(c connect.Code) string {
	if c == connect.CodeCanceled {
		return "CANCELLED"
	}
	return strings.ToUpper(c.String())
}
