package web

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/quantra-l/quantra/profile"
	"github.com/quantra-l/quantra/store"
	cloudv2 "github.com/quantra-l/quantra/wire/cloudprofiler/v2"
)

// Google Cloud Profiler's ListProfiles: what Google's export tools and client libraries ask, in gRPC and in JSON (google/api/annotations of
// profiler.proto). Its other methods are of agents, and are ingest's.
const (
	// CloudListPath is its path in JSON. Agents POST to the same path.
	CloudListPath      = "/v2/projects/{project}/profiles"
	cloudListProcedure = "/google.devtools.cloudprofiler.v2.ExportService/ListProfiles"

	cloudPageSize = 1000 // profiles: the protocol's limit, and what it is where nobody says
	// cloudPageBytes ends a page early. Google's libraries take any size, other clients of gRPC 4 MiB unless they are told.
	cloudPageBytes = 3 << 20
	maxCloudToken  = 1 << 10 // bytes
	// labelProject is Google's project in OpenTelemetry's words, as ingest has it.
	labelProject = "cloud_account_id"
)

// cloudParams are all that the path understands; the last three Google's libraries send, and they change nothing.
var cloudParams = []string{"pageSize", "pageToken", "alt", "prettyPrint", "key"}

// cloudDeployment are our labels that are a deployment's there, and cloudLabels one of the profile's own; see docs/model.md.
var (
	cloudDeployment = map[string]string{profile.LabelVersion: "version", "cloud_availability_zone": "zone", "process_runtime_name": "language"}
	cloudLabels     = map[string]string{profile.LabelInstance: "instance"}
)

// cloudPlace is where a page begins: after one profile, in the order of their windows' starts and then of their ids. As a token it is base64
// of its JSON.
type cloudPlace struct {
	Parent string `json:"parent"`
	From   int64  `json:"from"` // Unix nanoseconds
	ID     string `json:"id"`
	Span   int64  `json:"span"` // nanoseconds: in how long a window the page before had enough, which is where to begin
}

// cloudFound is one profile that is to be listed, with all its types.
type cloudFound struct {
	store.ProfileInfo
	types []profile.Type
}

func (f *cloudFound) after(from int64, id string) bool {
	return cmp.Or(cmp.Compare(f.From.UnixNano(), from), strings.Compare(store.FormatProfileID(f.ID), id)) > 0
}

// registerCloud puts ListProfiles on the server.
func (s *Server) registerCloud(options connect.HandlerOption) {
	s.mux.Handle(cloudListProcedure, s.guarded(connect.NewUnaryHandler(cloudListProcedure,
		func(ctx context.Context, req *connect.Request[cloudv2.ListProfilesRequest]) (*connect.Response[cloudv2.ListProfilesResponse], error) {
			res, err := s.cloudList(ctx, req.Msg)
			if err != nil {
				return nil, err
			}
			return connect.NewResponse(res), nil
		}, options)))
	s.mux.Handle("GET "+CloudListPath, s.guarded(http.HandlerFunc(s.cloudListJSON)))
}

// cloudListJSON is ListProfiles over Google's HTTP rules.
func (s *Server) cloudListJSON(w http.ResponseWriter, r *http.Request) {
	var out []byte
	err := s.ask(r.Context(), "ListProfiles", func(ctx context.Context) error {
		req, err := cloudRequest(r)
		if err != nil {
			return err
		}
		res, err := s.cloudList(ctx, req)
		if err != nil {
			return err
		}
		out, err = protojson.Marshal(res)
		return err
	})
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	if err != nil { // as google.rpc.Status is told, in "error"
		c := s.errorOf(err)
		for _, v := range c.Meta().Values("Retry-After") {
			h.Add("Retry-After", v)
		}
		status := statusOf(c.Code())
		out, _ = json.Marshal(map[string]any{"error": map[string]any{"code": status, "message": c.Message(), "status": strings.ToUpper(c.Code().String())}})
		w.WriteHeader(status)
	}
	w.Write(out) // an error means that the asker is gone
}

func cloudRequest(r *http.Request) (*cloudv2.ListProfilesRequest, error) {
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, invalid("the query cannot be read: %w", err)
	}
	for name, values := range v {
		if !slices.Contains(cloudParams, name) || len(values) > 1 {
			return nil, invalid("parameter %.40q is not understood, or given twice; there are %s", name, strings.Join(cloudParams, ", "))
		}
	}
	if alt := v.Get("alt"); alt != "" && alt != "json" {
		return nil, invalid("alt=%.40q: the answer is JSON; leave it out", alt)
	}
	req := &cloudv2.ListProfilesRequest{Parent: "projects/" + r.PathValue("project"), PageToken: v.Get("pageToken")}
	if t := v.Get("pageSize"); t != "" {
		n, err := strconv.ParseInt(t, 10, 32)
		if err != nil {
			return nil, invalid("pageSize=%.40q is no number of profiles", t)
		}
		req.PageSize = int32(n)
	}
	return req, nil
}

// cloudPage reads what a request asks for: whose project ("-" is every profile there is), from where on, and how many.
func cloudPage(req *cloudv2.ListProfilesRequest) (project string, at cloudPlace, n int, err error) {
	project, ok := strings.CutPrefix(req.GetParent(), "projects/")
	if !ok || project == "" || strings.Contains(project, "/") {
		return "", at, 0, invalid("parent %.100q must be projects/PROJECT, or projects/- for all", req.GetParent())
	}
	switch n = int(req.GetPageSize()); {
	case n < 0:
		return "", at, 0, invalid("page_size %d is negative", n)
	case n == 0 || n > cloudPageSize:
		n = cloudPageSize
	}
	at.Parent = req.GetParent()
	token := req.GetPageToken()
	if token == "" {
		return project, at, n, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(token)
	if len(token) > maxCloudToken || err != nil || json.Unmarshal(b, &at) != nil || at.Span < 0 {
		return "", at, 0, invalid("page_token is none that this server has given: begin without one")
	}
	if at.Parent != req.GetParent() {
		return "", at, 0, invalid("page_token is of another parent than %.100q: begin without one", req.GetParent())
	}
	return project, at, n, nil
}

func (at cloudPlace) token() string {
	b, err := json.Marshal(at)
	if err != nil { // cannot be: texts and numbers
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

// cloudList is one page of profiles, oldest first. It ends early by bytes, and by half of a question's time, so that a page that is large or slow
// is a short one and not none.
func (s *Server) cloudList(ctx context.Context, req *cloudv2.ListProfilesRequest) (*cloudv2.ListProfilesResponse, error) {
	project, at, n, err := cloudPage(req)
	if err != nil {
		return nil, err
	}
	q := store.Query{Tenant: tenantOf(ctx)}
	if project != "-" {
		q.Matchers = []store.Matcher{{Name: labelProject, Value: project}}
	}
	allowed, err := s.allow(ctx, true, q) // single profiles
	if err != nil {
		return nil, err
	}
	found, more, err := s.cloudFind(ctx, allowed.Query, &at, n)
	if err != nil {
		return nil, err
	}
	res, size := &cloudv2.ListProfilesResponse{}, 0
	for i, f := range found {
		if end, ok := ctx.Deadline(); i > 0 && (size > cloudPageBytes || ok && time.Until(end) < s.opt.Timeout/2) {
			more = true
			break
		}
		p, err := s.cloudProfile(ctx, allowed, f)
		if err != nil {
			return nil, err
		}
		if p == nil {
			res.SkippedProfiles++
		} else {
			p.Name = req.GetParent() + "/profiles/" + store.FormatProfileID(f.ID)
			res.Profiles = append(res.Profiles, p)
			size += len(p.ProfileBytes)
		}
		at.From, at.ID = f.From.UnixNano(), store.FormatProfileID(f.ID)
	}
	if more {
		res.NextPageToken = at.token()
	}
	return res, nil
}

// cloudFind is the first n profiles after a place, and whether there are more. The store lists the profiles of one type in a window, at most
// [store.MaxProfiles]: the window is made shorter until they fit, and longer until it has n. at gets its length.
func (s *Server) cloudFind(ctx context.Context, q store.Query, at *cloudPlace, n int) (list []*cloudFound, more bool, err error) {
	if at.ID != "" {
		q.From = time.Unix(0, at.From)
	}
	known, err := s.opt.Store.LabelSets(ctx, q)
	if err != nil || len(known) == 0 {
		return nil, false, err
	}
	rows, first, last := map[profile.Type]int{}, known[0].First, known[0].Last
	for _, k := range known {
		rows[k.Type] += k.Profiles
		first, last = min(first, k.First), max(last, k.Last)
	}
	if at.ID != "" {
		first = max(first, at.From)
	}
	most := slices.Max(slices.Collect(maps.Values(rows)))
	if at.Span == 0 {
		at.Span = int64(float64(last-first) * 2 * float64(n) / float64(most))
	}
	narrowed := false
	for {
		at.Span = min(max(at.Span, 1), max(last-first, 1))
		q.From, q.To = time.Unix(0, first), time.Unix(0, first+at.Span)
		found, all, err := s.cloudWindow(ctx, q, rows)
		if err != nil {
			return nil, false, err
		}
		if !all {
			if narrowed = true; at.Span == 1 {
				return nil, false, fmt.Errorf("%w: more than %d profiles of one type begin at %v", store.ErrTooLarge, store.MaxProfiles, q.From)
			}
			at.Span /= 2
			continue
		}
		list = list[:0]
		for _, f := range found {
			if at.ID == "" || f.after(at.From, at.ID) {
				list = append(list, f)
			}
		}
		// Windows have a length, so the last of them begins before last.
		switch done := first+at.Span >= last; {
		case done, len(list) >= n, narrowed && len(list) > 0:
			slices.SortFunc(list, func(a, b *cloudFound) int {
				if a.after(b.From.UnixNano(), store.FormatProfileID(b.ID)) {
					return 1
				}
				return -1
			})
			if len(list) > n {
				return list[:n], true, nil
			}
			return list, !done, nil
		case len(list) == 0:
			first += at.Span
			fallthrough
		default:
			at.Span = 4 * min(at.Span, (last-first)/4+1)
		}
	}
}

// cloudWindow is the profiles of a window, and whether that is all of them.
func (s *Server) cloudWindow(ctx context.Context, q store.Query, types map[profile.Type]int) ([]*cloudFound, bool, error) {
	found := map[string]*cloudFound{}
	for t := range types {
		q.Type = t
		r, err := s.opt.Store.Profiles(ctx, q, store.MaxProfiles)
		if err != nil || r.All > len(r.Profiles) {
			return nil, false, err
		}
		for _, p := range r.Profiles {
			id := store.FormatProfileID(p.ID)
			if found[id] == nil {
				found[id] = &cloudFound{ProfileInfo: p}
			}
			found[id].types = append(found[id].types, t)
		}
	}
	return slices.Collect(maps.Values(found)), true, nil
}

// cloudProfile is one profile with its bytes; nil where it has gone since it was found.
func (s *Server) cloudProfile(ctx context.Context, allowed query, f *cloudFound) (*cloudv2.Profile, error) {
	slices.SortFunc(f.types, func(a, b profile.Type) int { return strings.Compare(a.String(), b.String()) })
	q := allowed.Query
	q.IDs, q.From, q.To = append(q.IDs, f.ID), f.From, f.From.Add(1)
	p, last, err := s.columns(ctx, q, f.types, nil)
	if err != nil {
		return nil, err
	}
	if last.Profiles == 0 {
		return nil, nil
	}
	p.TimeNanos, p.DurationNanos = f.From.UnixNano(), int64(f.To.Sub(f.From))
	if allowed.scope.Rename != nil {
		p = p.Rename(allowed.scope.Rename)
	}
	var b bytes.Buffer
	if err := p.Encode(&b); err != nil {
		return nil, fmt.Errorf("pprof of profile %s: %w", store.FormatProfileID(f.ID), err)
	}
	out := &cloudv2.Profile{
		ProfileType: cloudKind(f.Name, f.types), ProfileBytes: b.Bytes(), Labels: map[string]string{},
		Deployment: &cloudv2.Deployment{ProjectId: f.Labels.Get(labelProject), Target: f.Labels.Get(profile.LabelService), Labels: map[string]string{}},
		StartTime:  timestamppb.New(f.From), Duration: durationpb.New(f.To.Sub(f.From)),
	}
	for _, l := range f.Labels {
		switch name := cloudDeployment[l.Name]; {
		case name != "":
			out.Deployment.Labels[name] = l.Value
		case l.Name != labelProject && l.Name != profile.LabelService:
			out.Labels[cmp.Or(cloudLabels[l.Name], l.Name)] = l.Value
		}
	}
	return out, nil
}

// cloudKind is a profile's kind there. What it has no word for is unspecified.
func cloudKind(name string, types []profile.Type) cloudv2.ProfileType {
	switch name {
	case "process_cpu":
		return cloudv2.ProfileType_CPU
	case "wall":
		return cloudv2.ProfileType_WALL
	case "goroutine":
		return cloudv2.ProfileType_THREADS
	case "mutex", "block", "contention":
		return cloudv2.ProfileType_CONTENTION
	case "memory":
		if slices.ContainsFunc(types, state) {
			return cloudv2.ProfileType_HEAP
		}
		return cloudv2.ProfileType_HEAP_ALLOC
	}
	return cloudv2.ProfileType_PROFILE_TYPE_UNSPECIFIED
}
